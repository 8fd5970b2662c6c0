"""The custodians as the database tells of them: public keys alone, for all gates to show and compare.

Reports are not sealed to these rows but to whom the file of the pinned names: see ``app.custody.roster``.
"""

import hashlib
import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app import log as journal
from app.custody.identity import checked_public_key, checked_signing_key, fingerprint, signing_key_of
from app.custody.roster import WORKER_NAME, Pinned, Roster, RosterFile
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.store.database import Database
from app.store.record import audit
from app.store.rows import UnreadableRowError, of_its_types, read_each
from app.store.schema import audit as log
from app.store.schema import custodians, reports, sightings

logger = logging.getLogger(__name__)

_ADDED_EVENT: Final = "custodian.added"
_REMOVED_EVENT: Final = "custodian.removed"
_PINNED_EVENT: Final = "custodian.pinned"

_UNREADABLE: Final = (
    "rows of custodians in the database hold what no Cordon wrote: somebody changed it; "
    "'cordon custodian pin --restore' takes them out"
)

ENOUGH: Final = 2
TOO_FEW: Final = "fewer than two custodians: one lost key loses every report"


@dataclass(frozen=True)
class Custodian:
    """A person whose public key reports are sealed to, as the database has it.

    Attributes:
        public_key: the recipient, ``age1...`` or ``ssh-...``.
        signing_key: the Ed25519 verification key, ``ed25519:...``; None if none was given.
        fingerprint: 16 hex digits that name the public key.
    """

    name: str
    public_key: str
    signing_key: str | None
    fingerprint: str
    added_at: datetime

    @property
    def as_pinned(self) -> Pinned:
        """The same as the file of the pinned would have it."""
        return Pinned(self.name, self.public_key, self.signing_key)


@dataclass(frozen=True)
class Difference:
    """Where the database and the file of the pinned do not agree.

    Attributes:
        unpinned: rows that the file does not have like this: nothing is sealed to them.
        missing: pinned custodians that no row is like: reports are sealed to them all the same.
        unreadable: how many rows hold what no Cordon wrote.
    """

    unpinned: tuple[Custodian, ...]
    missing: tuple[Pinned, ...]
    unreadable: int = 0

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of all of them."""
        return frozenset(
            [each.fingerprint for each in self.unpinned] + [each.fingerprint for each in self.missing]
        )

    def told(self) -> tuple[str, ...]:
        """One line for each, for whoever runs the gate."""
        return (
            *(
                f"custodian '{each.name}' ({each.fingerprint}) of the database is not pinned: nothing is "
                "sealed to that key; 'cordon custodian pin' pins it, with --restore it goes from the database"
                for each in self.unpinned
            ),
            *(
                f"pinned custodian '{each.name}' ({each.fingerprint}) is gone or changed in the database; "
                "reports are sealed to the pinned key; 'cordon custodian pin --restore' writes it there again"
                for each in self.missing
            ),
            *([_UNREADABLE] if self.unreadable else []),
        )


@dataclass(frozen=True)
class Readable:
    """What a custodian can still open.

    Attributes:
        reports: how many.
        ids_sha256: SHA-256 of their ids in order, one a line.
    """

    reports: int
    ids_sha256: str


async def active(connection: AsyncConnection) -> tuple[Custodian, ...]:
    """All custodians of the database, oldest first.

    Raises:
        ConflictError: a row holds what no Cordon wrote.
    """
    found, unreadable = await each_readable(connection)
    if unreadable:
        raise ConflictError(
            "The database holds a custodian that no Cordon wrote: somebody changed it. 'cordon custodian "
            "list' shows whom else; 'cordon custodian pin --restore' writes there again who is pinned."
        )
    return tuple(found)


async def each_readable(connection: AsyncConnection) -> tuple[list[Custodian], int]:
    """The custodians of the database as far as they can be read, oldest first, and how many cannot."""
    found, unreadable = await read_each(
        connection,
        select(
            custodians.c.name,
            custodians.c.public_key,
            custodians.c.signing_key,
            custodians.c.fingerprint,
            custodians.c.added_at,
        )
        .where(custodians.c.removed_at.is_(None))
        .order_by(custodians.c.id),
        _custodian,
    )
    return found, len(unreadable)


def _custodian(row: RowMapping) -> Custodian:
    found = of_its_types(Custodian(**row))
    try:
        public_key = checked_public_key(found.public_key)
        signing_key = found.signing_key and checked_signing_key(found.signing_key)
    except InvalidRequestError:
        raise UnreadableRowError from None
    if (public_key, signing_key) != (found.public_key, found.signing_key):
        raise UnreadableRowError
    # Whoever swaps a key leaves the fingerprint of the other beside it.
    return replace(found, fingerprint=fingerprint(public_key))


async def compare(connection: AsyncConnection, roster: Roster) -> Difference:
    """Where the database and the pinned do not agree."""
    rows, unreadable = await each_readable(connection)
    return Difference(
        tuple(row for row in rows if row.as_pinned not in roster.custodians),
        tuple(each for each in roster.custodians if each not in [row.as_pinned for row in rows]),
        unreadable,
    )


async def open_pins(database: Database, pins: RosterFile, *, trust_first: bool) -> RosterFile:
    """The file of the pinned; where there is none yet, made of the database's rows if that is wanted.

    That is a trust on first use, said loudly: the fingerprints are to be compared by a person.
    """
    if pins.path.exists() or not trust_first:
        return pins
    async with database.connect() as connection:
        rows = await active(connection)
    if rows:
        pins.write(Roster(tuple(row.as_pinned for row in rows)))
        journal.event(
            logger,
            logging.WARNING,
            "custodians_pinned_at_first_start",
            fingerprints=" ".join(row.fingerprint for row in rows),
            advice="compare them with what each custodian's key says; 'cordon custodian list' shows names",
        )
    return pins


async def add(
    connection: AsyncConnection,
    *,
    name: str,
    untrusted_public_key: str,
    untrusted_signing_key: str | None = None,
) -> Custodian:
    """Tell all gates on this database of one more custodian; each seals to it once it is pinned there.

    An SSH key of Ed25519 signs with itself if no other signing key is given.

    Raises:
        InvalidRequestError: a key is none.
        ConflictError: the name or the key is taken.
    """
    public_key = checked_public_key(untrusted_public_key)
    signing_key = (
        checked_signing_key(untrusted_signing_key) if untrusted_signing_key else signing_key_of(public_key)
    )
    custodian = Custodian(name, public_key, signing_key, fingerprint(public_key), datetime.now(UTC))
    for other in await active(connection):
        if other.public_key == public_key:
            raise ConflictError(f"This key is already the key of custodian '{other.name}'.")
    try:
        await connection.execute(insert(custodians).values(asdict(custodian)))
    except IntegrityError:
        raise ConflictError(f"There is already a custodian '{name}'.") from None
    details = {"name": name, "fingerprint": custodian.fingerprint, "public_key": public_key}
    if signing_key is not None:
        details["signing_key"] = signing_key
    await audit.append(connection, _ADDED_EVENT, custodian.fingerprint, details)
    return custodian


async def remove(connection: AsyncConnection, name: str) -> Readable:
    """Seal no more reports to a custodian; what they can still open is recorded.

    Raises:
        NotFoundError: there is no such custodian.
    """
    removed = (
        await connection.execute(
            update(custodians)
            .where(custodians.c.name == name, custodians.c.removed_at.is_(None))
            .values(removed_at=datetime.now(UTC))
            .returning(custodians.c.fingerprint)
        )
    ).scalar_one_or_none()
    if removed is None:
        raise NotFoundError(f"There is no custodian '{name}'.")
    left = await readable_by(connection, removed)
    details = {
        "name": name,
        "fingerprint": removed,
        "still_readable": left.reports,
        "still_readable_sha256": left.ids_sha256,
    }
    await audit.append(connection, _REMOVED_EVENT, removed, details)
    return left


async def restore(connection: AsyncConnection, roster: Roster) -> None:
    """Make the rows those of the pinned again, after somebody changed them; within ``Database.begin``.

    Rows are compared by the database and not read here: anything may stand in them.
    """
    now, kept, lost = datetime.now(UTC), [], []
    for each in roster.custodians:
        of_it = (
            custodians.c.removed_at.is_(None),
            custodians.c.name == each.name,
            custodians.c.public_key == each.public_key,
            custodians.c.signing_key.is_not_distinct_from(each.signing_key),
            custodians.c.fingerprint == each.fingerprint,
        )
        found = (await connection.execute(select(custodians.c.id).where(*of_it).limit(1))).scalar()
        if found is None:
            lost.append(each)
        else:
            kept.append(found)
    wrong = (custodians.c.removed_at.is_(None), custodians.c.id.not_in(kept))
    await connection.execute(update(custodians).where(*wrong).values(removed_at=now))
    for each in lost:
        row = Custodian(each.name, each.public_key, each.signing_key, each.fingerprint, now)
        await connection.execute(insert(custodians).values(asdict(row)))
    told = {"custodians": list(roster.fingerprints)}
    await audit.append(connection, "custodian.restored", "custodians", told)


async def counts(connection: AsyncConnection, roster: Roster, signer: Pinned, entry: int) -> bool:
    """Whether what somebody signed counts in an entry of the audit log: they were pinned then.

    The pinned file says until when, or the log does where the file is from before that stood there.

    Args:
        connection: to read with.
        roster: the pinned, of now and of then.
        signer: who signed.
        entry: its number.
    """
    by_file = roster.counts(signer, entry)
    if by_file is not None:
        return by_file
    if signer.name == WORKER_NAME:
        return await _was_worker(connection, signer, entry)
    newest = await connection.execute(
        select(log.c.event)
        .where(
            log.c.subject == signer.fingerprint,
            log.c.event.in_((_ADDED_EVENT, _REMOVED_EVENT)),
            log.c.seq < entry,
        )
        .order_by(log.c.seq.desc())
        .limit(1)
    )
    return newest.scalar_one_or_none() != _REMOVED_EVENT


async def _was_worker(connection: AsyncConnection, signer: Pinned, entry: int) -> bool:
    """Whether no other worker was pinned last before an entry of the audit log, as far as that says."""
    pinned = await connection.execute(
        select(log.c.details)
        .where(log.c.event == _PINNED_EVENT, log.c.seq < entry)
        .order_by(log.c.seq.desc())
    )
    workers = (audit.said(details).get("worker") for details in pinned.scalars())
    return next((each for each in workers if each is not None), signer.fingerprint) == signer.fingerprint


async def record_pinning(connection: AsyncConnection, roster: Roster) -> None:
    """Write down whom a person pinned; within ``Database.begin``."""
    details: dict[str, str | int | list[str]] = {"custodians": list(roster.fingerprints)}
    if roster.worker is not None:
        details["worker"] = roster.worker.fingerprint
    await audit.append(connection, _PINNED_EVENT, "custodians", details)


async def readable_by(connection: AsyncConnection, custodian: str) -> Readable:
    """The reports that hold a sealed file which the custodian of a fingerprint opens."""
    ids = set()
    for wanted in (
        select(reports.c.id, reports.c.custodians),
        select(sightings.c.report_id.label("id"), sightings.c.custodians),
    ):
        async with connection.stream(wanted) as rows:
            async for row in rows:
                if custodian in row.custodians:
                    ids.add(row.id)
    listed = "".join(f"{each}\n" for each in sorted(ids))
    return Readable(len(ids), hashlib.sha256(listed.encode()).hexdigest())
