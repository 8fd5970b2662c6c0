"""Checkpoints of the audit log: its head at some moment, signed by the worker or a custodian.

A copy that is kept elsewhere shows later what was cut off from the log, or written anew, before that moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from app.custody import envelope
from app.custody.identity import Identity, fingerprint
from app.custody.roster import Roster, signer_of
from app.errors import InvalidRequestError

VERSION: Final = 1
PREFIX: Final = b"cordon checkpoint v1\n"
"""Goes before what is signed, so that no signature made for anything else is one of a checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """What the audit log's head was.

    Attributes:
        seq: number of the newest entry.
        digest: its digest, 32 bytes, which covers all before it.
        signer: fingerprint of who signed.
        document: as it is stored and travels; one line of ASCII.
    """

    seq: int
    digest: bytes = field(repr=False)
    at: datetime
    signer: str
    document: bytes = field(repr=False)


@dataclass(frozen=True)
class _Head:
    """What is signed."""

    seq: int
    digest: bytes = field(repr=False)
    at: datetime
    signer: str

    def to_json(self) -> str:
        return envelope.canonical(
            {
                "version": VERSION,
                "seq": self.seq,
                "digest": self.digest.hex(),
                "at": envelope.time_text(self.at),
                "signer": self.signer,
            }
        )


def sign(seq: int, digest: bytes, identity: Identity) -> Checkpoint:
    """A checkpoint of a head.

    Raises:
        InvalidRequestError: the identity has no signing key.
    """
    head = _Head(seq, digest, datetime.now(UTC), fingerprint(identity.public_key))
    return _checkpoint(head, envelope.seal_text(PREFIX, head.to_json(), identity))


def verify(untrusted: bytes, roster: Roster) -> Checkpoint:
    """Take a document for a checkpoint only if the worker or a custodian, pinned now or then, signed it.

    Raises:
        InvalidRequestError: it is none, its signer is not pinned, or the signature is bad.
    """
    try:
        signature, text = envelope.open_text(untrusted.strip())
        # Before anybody is told who it says that its signer is: no terminal takes such words for commands.
        head = envelope.read(text, _head)
    except ValueError:
        raise InvalidRequestError(
            "This is no checkpoint of an audit log that this Cordon can read."
        ) from None
    people = roster.workers_named(head.signer) + roster.custodians_named(head.signer)
    if all(each.signing_key is None for each in people):
        raise InvalidRequestError(
            f"The signer of this checkpoint, {head.signer}, is not pinned and never was."
        )
    signer = signer_of(people, PREFIX, signature, text)
    if signer is None:
        raise InvalidRequestError("The signature of this checkpoint is not good.")
    if roster.counts(signer, head.seq) is False:
        raise InvalidRequestError(f"The signer of this checkpoint, {head.signer}, was pinned no more then.")
    return _checkpoint(head, envelope.written(signature, text))


def _head(said: Mapping[str, Any]) -> _Head:
    seq = said["seq"]
    if type(seq) is not int or seq <= 0:
        message = "no number of an entry"
        raise ValueError(message)
    digest = bytes.fromhex(envelope.sha256_of(said["digest"]))
    return _Head(seq, digest, envelope.time_of(said["at"]), envelope.fingerprint_of(said["signer"]))


def _checkpoint(head: _Head, document: bytes) -> Checkpoint:
    return Checkpoint(head.seq, head.digest, head.at, head.signer, document)
