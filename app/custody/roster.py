"""The custodians that are pinned: the one list that reports are sealed to and signatures are checked by.

It is a file, and not a table, so that whoever can only write to the database, or runs the web process where
that cannot write the file, adds no recipient and swaps no key unnoticed. It holds public keys alone:

    [custodian."ada"]
    public_key = "age1..."
    signing_key = "ed25519:..."

    [worker]
    public_key = "age1..."
    signing_key = "ed25519:..."

Who was removed, and a worker whose key was replaced, stays in it under ``[former."fingerprint"]``, so that
what they signed can still be checked, with ``until``, the number of the audit log's newest entry of then:
what came after it counts nowhere. Where one key to open with came with several to sign with, each of these
has a table of its own.
"""

import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from app import files
from app.custody import envelope
from app.custody.identity import Identity, checked_public_key, checked_signing_key, fingerprint
from app.custody.recipients import programs_of
from app.errors import ConflictError, InvalidRequestError, NotFoundError, NotReadyError

MAX_BYTES: Final = 1024 * 1024

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

WORKER_NAME: Final = "worker"
"""What a worker's keys are called among the former."""

_HEADING: Final = """\
# Whom Cordon seals reports to, and whose signatures it takes. Public keys alone.
# Written by 'cordon custodian'; who may change this file may read every report from then on.
"""


@dataclass(frozen=True)
class Pinned:
    """A custodian in the file.

    Attributes:
        public_key: what reports are sealed to.
        signing_key: the Ed25519 verification key, ``ed25519:...``; None if this person decides nothing.
        until: of one who was removed or replaced, up to which entry of the audit log what they signed
            counts; None if the file does not say it.
    """

    name: str
    public_key: str
    signing_key: str | None = None
    until: int | None = None

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the public key."""
        return fingerprint(self.public_key)

    def shares_a_key_with(self, worker: "WorkerKeys") -> bool:
        """Whether the worker would open what is sealed to this person, or sign in their name."""
        return self.public_key == worker.public_key or self.signing_key == worker.signing_key


@dataclass(frozen=True)
class WorkerKeys:
    """The public halves of the worker's keys: XML is sealed to one, checkpoints are signed by the other."""

    public_key: str
    signing_key: str

    def __post_init__(self) -> None:
        """Refuse a key of a plugin.

        Raises:
            InvalidRequestError: it is one.
        """
        if programs_of([self.public_key]):
            raise InvalidRequestError(
                "The worker's key cannot be one of an age plugin: nobody is there when the worker opens."
            )

    @classmethod
    def of(cls, identity: Identity) -> Self:
        """Those of the worker's own identity.

        Raises:
            InvalidRequestError: it has no signing key.
        """
        if identity.signing_public_key is None:
            raise InvalidRequestError(
                "The worker's identity holds no signing key; 'cordon custodian keygen' makes one that does."
            )
        return cls(identity.public_key, identity.signing_public_key)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name the public key."""
        return fingerprint(self.public_key)

    @property
    def as_pinned(self) -> Pinned:
        """The same as it would stand among the former."""
        return Pinned(WORKER_NAME, self.public_key, self.signing_key)

    @property
    def pinned_by(self) -> str:
        """The command that pins them."""
        return f"cordon custodian pin --worker {self.public_key} --worker-signing-key {self.signing_key}"


@dataclass(frozen=True)
class Roster:
    """Everybody who is pinned."""

    custodians: tuple[Pinned, ...] = ()
    worker: WorkerKeys | None = None
    former: tuple[Pinned, ...] = ()

    @property
    def public_keys(self) -> tuple[str, ...]:
        """What reports are sealed to."""
        return tuple(each.public_key for each in self.custodians)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The custodians' fingerprints, in the same order."""
        return tuple(each.fingerprint for each in self.custodians)

    def custodian(self, named_by: str) -> Pinned | None:
        """The custodian of a fingerprint."""
        return next((each for each in self.custodians if each.fingerprint == named_by), None)

    def custodians_named(self, named_by: str, *, now: bool = False) -> tuple[Pinned, ...]:
        """Who is a custodian under a fingerprint, then who was: each signs with a key of their own.

        Args:
            named_by: the fingerprint.
            now: whether only who is pinned now counts.
        """
        former = () if now else [each for each in self.former if each.name != WORKER_NAME]
        return tuple(each for each in (*self.custodians, *former) if each.fingerprint == named_by)

    def workers_named(self, named_by: str, *, now: bool = False) -> tuple[Pinned, ...]:
        """The worker under a fingerprint, then former ones; as ``custodians_named``."""
        pinned = [self.worker.as_pinned] if self.worker is not None else []
        former = () if now else [each for each in self.former if each.name == WORKER_NAME]
        return tuple(each for each in (*pinned, *former) if each.fingerprint == named_by)

    def counts(self, signer: Pinned, entry: int) -> bool | None:
        """Whether what somebody signed counts in an entry of the audit log; None if the log must tell."""
        if signer in self.custodians or (self.worker is not None and signer == self.worker.as_pinned):
            return True
        return None if signer.until is None else entry <= signer.until

    def bounded(self, until: int | None) -> Self:
        """The same, with what the former sign from now on counting nowhere."""
        former = tuple(replace(each, until=until) if each.until is None else each for each in self.former)
        return replace(self, former=former)

    def with_worker(self, keys: WorkerKeys) -> Self:
        """The same with another worker; who was it until now is among the former.

        Raises:
            ConflictError: one of the keys is a custodian's: the worker would open every report.
        """
        for other in self.custodians:
            if other.shares_a_key_with(keys):
                raise ConflictError(
                    f"Custodian '{other.name}' has this key, and the worker needs one of its own: make "
                    f"another, or run 'cordon custodian remove {other.name}' first if it is no person's."
                )
        was = (self.worker.as_pinned,) if self.worker is not None else ()
        former = tuple(
            each
            for each in (*self.former, *was)
            if (each.public_key, each.signing_key) != (keys.public_key, keys.signing_key)
        )
        return replace(self, worker=keys, former=former)

    def with_custodian(self, pinned: Pinned) -> Self:
        """The same, and one more.

        Raises:
            InvalidRequestError: the name is none, or the worker's.
            ConflictError: the name or the key is taken.
        """
        if self.worker is not None and pinned.shares_a_key_with(self.worker):
            raise ConflictError(
                "This key is the filing worker's, which must open no report; a custodian needs one of their "
                "own."
            )
        if not NAME.fullmatch(pinned.name):
            raise InvalidRequestError(
                "A custodian's name is 1 to 64 letters, digits and . _ @ -, a letter or digit first."
            )
        if pinned.name == WORKER_NAME:
            # Among the former it is what tells a worker, whose word counts for longer.
            raise InvalidRequestError(
                f"'{WORKER_NAME}' is what the filing worker is called; choose another name."
            )
        for other in self.custodians:
            if other.public_key == pinned.public_key:
                raise ConflictError(f"This key is already the key of custodian '{other.name}'.")
            if other.name == pinned.name:
                raise ConflictError(f"There is already a custodian '{pinned.name}'.")
        # What was signed with another key stays provable; what this one signed counts again without end.
        keys = (pinned.public_key, pinned.signing_key)
        former = tuple(each for each in self.former if (each.public_key, each.signing_key) != keys)
        return replace(self, custodians=(*self.custodians, pinned), former=former)

    def without_custodian(self, name: str, *, until: int | None = None) -> Self:
        """The same, with one of them among the former.

        Args:
            name: of whom.
            until: number of the newest entry of the audit log now.

        Raises:
            NotFoundError: there is none of this name.
        """
        gone = tuple(replace(each, until=until) for each in self.custodians if each.name == name)
        if not gone:
            raise NotFoundError(f"There is no custodian '{name}'.")
        left = tuple(each for each in self.custodians if each.name != name)
        return replace(self, custodians=left, former=(*self.former, *gone))


def signer_of(people: Iterable[Pinned], prefix: bytes, signature: bytes, text: str) -> Pinned | None:
    """Whose signature of some it is, over the prefix of a kind of document and its text; None if nobody's."""
    return next(
        (
            each
            for each in people
            if each.signing_key is not None
            and envelope.is_signed_by(each.signing_key, prefix, signature, text)
        ),
        None,
    )


class RosterFile:
    """The file of the pinned, read again whenever it changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._roster = Roster()

    def read(self) -> Roster:
        """Who is pinned now.

        Raises:
            NotReadyError: the file is not there, or is none; nobody is trusted in its place.
        """
        try:
            self._follow()
        except FileNotFoundError:
            raise NotReadyError(
                f"the custodians' file {self.path} is not there; see 'cordon custodian add' and "
                "'cordon custodian pin'"
            ) from None
        except OSError as error:
            raise NotReadyError(
                f"the custodians' file {self.path} cannot be read: {error.strerror}"
            ) from None
        except InvalidRequestError as error:
            raise NotReadyError(f"the custodians' file {self.path}: {error}") from None
        return self._roster

    def _follow(self) -> None:
        """Read the file again if it changed."""
        status = self.path.stat()
        if status.st_mode & stat.S_IWOTH:
            raise InvalidRequestError("others may write it; run 'chmod o-w' on it first")
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if seen != self._seen:
            with self.path.open("rb") as file:
                self._roster = parse(file.read(MAX_BYTES))
            self._seen = seen

    def read_if_there(self) -> Roster:
        """Who is pinned now; nobody if there is no file.

        Raises:
            NotReadyError: it is no such file.
        """
        return self.read() if self.path.exists() else Roster()

    def write(self, roster: Roster) -> None:
        """Replace the file whole, durably; one that is there keeps its mode, and its owner where root writes.

        Raises:
            InvalidRequestError: it cannot be written by this user.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            there = self.path.stat() if self.path.exists() else None
            mode = there.st_mode & 0o777 if there is not None else 0o600
            # Whose it was, or whose directory it is, must be able to read it: gates run as no root.
            owner = (there or self.path.parent.stat()) if os.geteuid() == 0 else None
            files.replace(self.path, to_text(roster).encode(), mode=mode, owner=owner)
        except OSError as error:
            raise InvalidRequestError(
                f"The custodians' file {self.path} cannot be written: {error.strerror}. Run this as whoever "
                "owns it."
            ) from None

    @property
    def writable(self) -> bool:
        """Whether this process could change it: in place, by putting another there, or as its owner."""
        owned = self.path.exists() and self.path.stat().st_uid == os.geteuid()
        return owned or os.access(self.path, os.W_OK) or os.access(self.path.parent, os.W_OK)


def parse(untrusted: bytes) -> Roster:
    """Read the file's content.

    Raises:
        InvalidRequestError: it is not of the form that this module's docstring shows; the message says where.
    """
    try:
        table = tomllib.loads(untrusted.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        raise InvalidRequestError("it is not TOML") from None
    unknown = table.keys() - {"custodian", "worker", "former"}
    if unknown:
        raise InvalidRequestError(f"it has an unknown table; known are {_TABLES}")
    roster = Roster()
    for pinned in _people(table, "custodian"):
        try:
            roster = roster.with_custodian(pinned)
        except ConflictError as error:
            raise InvalidRequestError(str(error)) from None
    roster = replace(roster, former=_people(table, "former"))
    if "worker" in table:
        public_key, signing_key = _keys(table["worker"], "[worker]")
        if signing_key is None:
            raise InvalidRequestError("[worker] needs a signing_key")
        roster = replace(roster, worker=WorkerKeys(public_key, signing_key))
    return roster


def to_text(roster: Roster) -> str:
    """The file's content, which ``parse`` reads back."""
    tables: list[tuple[str, Pinned | WorkerKeys]] = [
        (f'[custodian."{each.name}"]', each) for each in roster.custodians
    ]
    if roster.worker is not None:
        tables.append(("[worker]", roster.worker))
    written: Counter[str] = Counter()
    for each in roster.former:
        written[each.fingerprint] += 1
        again = f"-{written[each.fingerprint]}" if written[each.fingerprint] > 1 else ""
        tables.append((f'[former."{each.fingerprint}{again}"]', each))
    parts = [_HEADING]
    for heading, keys in tables:
        parts.append(f'\n{heading}\npublic_key = "{keys.public_key}"\n')
        if keys.signing_key is not None:
            parts.append(f'signing_key = "{keys.signing_key}"\n')
        if heading.startswith("[former") and isinstance(keys, Pinned):
            parts.append(f'name = "{keys.name}"\n')
            if keys.until is not None:
                parts.append(f"until = {keys.until}\n")
    return "".join(parts)


_KEYS: Final = frozenset({"public_key", "signing_key", "name", "until"})
_TABLES: Final = '[custodian."NAME"], [worker] and [former."FINGERPRINT"]'


def _people(table: Mapping[str, object], heading: str) -> tuple[Pinned, ...]:
    people = table.get(heading, {})
    if not isinstance(people, dict):
        raise InvalidRequestError(f"write its tables as {_TABLES}")
    found = []
    for name, keys in people.items():
        public_key, signing_key = _keys(keys, f'[{heading}."{name}"]')
        named = keys.get("name", name)
        if not isinstance(named, str) or not NAME.fullmatch(named):
            raise InvalidRequestError(f"{heading} has a name that is none")
        until = keys.get("until")
        if until is not None and (heading != "former" or type(until) is not int or until < 0):
            raise InvalidRequestError(f"{heading} has an 'until' that is no number of an entry")
        found.append(Pinned(named, public_key, signing_key, until))
    return tuple(found)


def _keys(untrusted: object, where: str) -> tuple[str, str | None]:
    """The two keys of a table, checked."""
    if not isinstance(untrusted, dict) or not untrusted.keys() <= _KEYS:
        raise InvalidRequestError(f"{where} takes public_key and signing_key, and nothing else")
    public_key, signing_key = untrusted.get("public_key"), untrusted.get("signing_key")
    if not isinstance(public_key, str) or not isinstance(signing_key, str | None):
        raise InvalidRequestError(f"{where} needs a public_key, and its keys are strings")
    try:
        return checked_public_key(public_key), signing_key and checked_signing_key(signing_key)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{where}: {error}") from None
