"""Sealed reports: stored once each, joined by later sightings while they wait, and read again.

A row tells in the clear only what ``schema`` says: id, time, state, kind, a keyed hash, fingerprints of the
custodians, and the SHA-256 of the sealed file. The audit log holds that SHA-256 too.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from app.errors import ConflictError, NotFoundError, ReportNotStoredError
from app.media import BankKind, ReportReference
from app.store import audit, custodians, notices
from app.store.database import Database
from app.store.schema import audit as audit_log
from app.store.schema import idempotency, reports, secrets, sightings

QUEUED: Final = "queued"
"""The state of a report that waits for a custodian's decision; only such a report is joined."""

IDEMPOTENCY_LIFE: Final = timedelta(hours=24)

MAX_LISTED: Final = 1000

_SEALED_EVENT: Final = "report.sealed"
_SIGHTED_EVENT: Final = "report.sighted"

# All but the sealed file, which may be large.
_SHOWN: Final = select(
    reports.c.id,
    reports.c.created_at,
    reports.c.state,
    reports.c.on_hold,
    reports.c.bank_kind,
    reports.c.custodians,
    reports.c.sealed_sha256,
    select(func.count())
    .select_from(sightings)
    .where(sightings.c.report_id == reports.c.id)
    .scalar_subquery()
    .label("later_sightings"),
)

Place = tuple[tuple[str, str], ...]
Seal = Callable[[str, Sequence[str]], bytes]


class TamperedError(ConflictError):
    """A sealed file is not the one that the audit log recorded."""

    def __init__(self, report_id: str) -> None:
        super().__init__(
            f"Report {report_id}: what is stored is not what the audit log recorded when it was sealed. "
            "Somebody changed the database."
        )


@dataclass(frozen=True)
class Sighting:
    """A later sighting of a report's medium at the same place.

    Attributes:
        custodians: fingerprints of those it is sealed to.
        sealed_sha256: of the sealed file, 64 hex digits.
    """

    id: str
    seen_at: datetime
    custodians: tuple[str, ...]
    sealed_sha256: str


@dataclass(frozen=True)
class Report:
    """What can be said of a report without opening it.

    Attributes:
        custodians: fingerprints of those it is sealed to.
        sealed_sha256: of the sealed file, 64 hex digits.
        later_sightings: how many sightings of the same medium at the same place joined it.
    """

    id: str
    created_at: datetime
    state: str
    on_hold: bool
    bank_kind: BankKind
    custodians: tuple[str, ...]
    sealed_sha256: str
    later_sightings: int


@dataclass(frozen=True)
class Queue:
    """How many reports wait for a decision, and since when."""

    depth: int
    oldest_at: datetime | None

    @property
    def oldest_age_seconds(self) -> float:
        """Age of the oldest; 0 if none waits."""
        return (datetime.now(UTC) - self.oldest_at).total_seconds() if self.oldest_at is not None else 0.0


@dataclass(frozen=True)
class _Arrival:
    """A sighting on its way in; its id becomes the report's, or the sighting's if it joins one."""

    id: str
    bank_kind: BankKind
    place_hash: bytes | None
    retry_hash: bytes | None
    seal: Seal


class ReportShelf:
    """Where the outbox puts reports.

    Args:
        database: the store.
        place_key: ``CORDON_PLACE_KEY``; goes into the keyed hashes beside the database's own secret.
    """

    def __init__(self, database: Database, place_key: str | None) -> None:
        self._database = database
        self._place_key = (place_key or "").encode()
        self._hash_key: bytes | None = None

    async def count_custodians(self) -> int:
        """How many custodians reports are sealed to now."""
        async with self._database.connect() as connection:
            return await custodians.count(connection)

    async def put(
        self,
        *,
        bank_kind: BankKind,
        sha256: bytes,
        place: Place,
        key_id: str | None,
        idempotency_key: str | None,
        seal: Seal,
    ) -> ReportReference:
        """Seal and commit one sighting, once, in one transaction with its audit entry.

        The same medium at the same place joins the report that is queued for it, if that is of the same
        kind: what a test bank found must not keep what a csam bank finds later from being filed. The same
        key, medium and place under one ``Idempotency-Key`` is no sighting at all.

        Args:
            bank_kind: the kind told in the clear.
            sha256: the medium's, raw.
            place: where it was found; empty makes it a report of its own.
            key_id: of the token that handed it in.
            idempotency_key: the caller's, if any.
            seal: called in the transaction with the report's id and the custodians' public keys.

        Raises:
            NotReadyError: the database failed.
            ReportNotStoredError: no custodian is known, or sealing failed.
        """
        key = await self._key()
        seen = [sha256.hex(), *place]
        arrival = _Arrival(
            id=str(ULID()),
            bank_kind=bank_kind,
            place_hash=_keyed_hash(key, ["place", bank_kind.value, *seen]) if place else None,
            retry_hash=_keyed_hash(key, ["retry", key_id, idempotency_key, *seen])
            if idempotency_key is not None
            else None,
            seal=seal,
        )
        return await self._database.write(partial(_put, arrival))

    async def _key(self) -> bytes:
        if self._hash_key is None:
            async with self._database.connect() as connection:
                secret = await connection.execute(select(secrets.c.value).where(secrets.c.name == "place"))
                self._hash_key = hmac.digest(secret.scalar_one(), self._place_key, "sha256")
        return self._hash_key


async def list_reports(
    connection: AsyncConnection, *, state: str | None = None, before: str | None = None, limit: int = 100
) -> tuple[Report, ...]:
    """Reports, newest first.

    Args:
        connection: to read with.
        state: only those in this state.
        before: only those older than the report of this id, for the next page.
        limit: at most so many, and never more than ``MAX_LISTED``.
    """
    wanted = _SHOWN.order_by(reports.c.id.desc()).limit(min(limit, MAX_LISTED))
    if state is not None:
        wanted = wanted.where(reports.c.state == state)
    if before is not None:
        wanted = wanted.where(reports.c.id < before)
    return await _read(connection, wanted)


async def get(connection: AsyncConnection, report_id: str) -> Report:
    """One report.

    Raises:
        NotFoundError: there is none of this id.
    """
    found = await _read(connection, _SHOWN.where(reports.c.id == report_id))
    if not found:
        raise NotFoundError("There is no such report.")
    return found[0]


async def list_sightings(connection: AsyncConnection, report_id: str) -> tuple[Sighting, ...]:
    """The later sightings of a report, oldest first; none if there is no such report."""
    rows = await connection.execute(
        select(sightings.c.id, sightings.c.seen_at, sightings.c.custodians, sightings.c.sealed_sha256)
        .where(sightings.c.report_id == report_id)
        .order_by(sightings.c.id)
    )
    return tuple(
        Sighting(row.id, row.seen_at, tuple(row.custodians), row.sealed_sha256.hex()) for row in rows
    )


async def sealed(connection: AsyncConnection, report_id: str) -> bytes:
    """The sealed file of a report as it stands, an age file; to open it, take ``authentic``.

    Raises:
        NotFoundError: there is none of this id.
    """
    file = await connection.execute(select(reports.c.sealed).where(reports.c.id == report_id))
    stands: bytes | None = file.scalar_one_or_none()
    if stands is None:
        raise NotFoundError("There is no such report.")
    return stands


async def authentic(connection: AsyncConnection, report_id: str) -> tuple[bytes, ...]:
    """The sealed files of a report and its later sightings, each checked against the audit log.

    Raises:
        NotFoundError: there is no report of this id.
        TamperedError: a file is not the one that was sealed, or one is missing or too many.
    """
    files = {report_id: await sealed(connection, report_id)}
    later = select(sightings.c.id, sightings.c.sealed).where(sightings.c.report_id == report_id)
    files |= {row.id: row.sealed for row in await connection.execute(later.order_by(sightings.c.id))}
    entries = await connection.execute(
        select(audit_log.c.event, audit_log.c.details)
        .where(audit_log.c.subject == report_id, audit_log.c.event.in_([_SEALED_EVENT, _SIGHTED_EVENT]))
        .order_by(audit_log.c.seq)
    )
    recorded: dict[str, str] = {}
    for entry in entries:
        details = json.loads(entry.details)
        sealed_as = report_id if entry.event == _SEALED_EVENT else details["sighting"]
        if sealed_as in recorded:
            raise TamperedError(report_id)
        recorded[sealed_as] = details["sealed_sha256"]
    if recorded != {name: hashlib.sha256(file).hexdigest() for name, file in files.items()}:
        raise TamperedError(report_id)
    return tuple(files.values())


async def set_hold(connection: AsyncConnection, report_id: str, *, on_hold: bool, by: str) -> Report:
    """Keep a report from being removed, or end that. Doing so twice is no error and no second entry.

    Args:
        connection: within ``Database.begin``.
        report_id: the report's.
        on_hold: whether it is to be held.
        by: id of the key that asks, or ``cli``.

    Raises:
        NotFoundError: there is none of this id.
    """
    changed = await connection.execute(
        update(reports)
        .where(reports.c.id == report_id, reports.c.on_hold.is_not(on_hold))
        .values(on_hold=on_hold)
    )
    report = await get(connection, report_id)
    if changed.rowcount:
        event = "report.held" if on_hold else "report.unheld"
        await audit.append(connection, event, report_id, {"by": by})
    return report


async def queue(connection: AsyncConnection) -> Queue:
    """How many reports wait for a custodian, and since when."""
    waiting = select(func.count(), func.min(reports.c.created_at)).where(reports.c.state == QUEUED)
    depth, oldest_at = (await connection.execute(waiting)).one()
    return Queue(depth, oldest_at)


async def prune(connection: AsyncConnection) -> None:
    """Forget the ``Idempotency-Key`` of matches older than 24 hours; within ``Database.begin``."""
    await connection.execute(delete(idempotency).where(idempotency.c.expires_at <= datetime.now(UTC)))


async def _read(connection: AsyncConnection, wanted: Select[Any]) -> tuple[Report, ...]:
    return tuple(
        Report(
            id=row.id,
            created_at=row.created_at,
            state=row.state,
            on_hold=row.on_hold,
            bank_kind=BankKind(row.bank_kind),
            custodians=tuple(row.custodians),
            sealed_sha256=row.sealed_sha256.hex(),
            later_sightings=row.later_sightings,
        )
        for row in await connection.execute(wanted)
    )


async def _put(arrival: _Arrival, connection: AsyncConnection) -> ReportReference:
    """Commit a sighting; run again, it finds what it did before."""
    now = datetime.now(UTC)
    done = await _committed_as(arrival.id, connection)
    if done is not None:
        return done
    await prune(connection)
    if arrival.retry_hash is not None:
        remembered = await connection.execute(
            select(idempotency.c.report_id).where(idempotency.c.keyed_hash == arrival.retry_hash)
        )
        repeated = remembered.scalar_one_or_none()
        if repeated is not None:
            return ReportReference(repeated, joined=True)
    to = await custodians.active(connection)
    if not to:
        raise ReportNotStoredError("no custodian is known to seal to; see 'cordon custodian add'")
    waiting = await _queued_at(arrival.place_hash, connection)
    report_id = waiting or arrival.id
    sealed_file = arrival.seal(report_id, [custodian.public_key for custodian in to])
    sealed_sha256 = hashlib.sha256(sealed_file).digest()
    fingerprints = [custodian.fingerprint for custodian in to]
    row = {
        "id": arrival.id,
        "custodians": fingerprints,
        "sealed": sealed_file,
        "sealed_sha256": sealed_sha256,
    }
    details: dict[str, str | int | list[str]] = {
        "sealed_sha256": sealed_sha256.hex(),
        "custodians": fingerprints,
    }
    if waiting is not None:
        await connection.execute(insert(sightings).values(**row, report_id=waiting, seen_at=now))
        details["sighting"] = arrival.id
    else:
        await connection.execute(
            insert(reports).values(
                **row,
                created_at=now,
                state=QUEUED,
                on_hold=False,
                bank_kind=arrival.bank_kind.value,
                place_hash=arrival.place_hash,
            )
        )
        await notices.post(connection, notices.REPORT_CHANGED, report_id, QUEUED)
    if arrival.retry_hash is not None:
        await connection.execute(
            insert(idempotency).values(
                keyed_hash=arrival.retry_hash, report_id=report_id, expires_at=now + IDEMPOTENCY_LIFE
            )
        )
    event = _SEALED_EVENT if waiting is None else _SIGHTED_EVENT
    await audit.append(connection, event, report_id, details)
    return ReportReference(report_id, joined=waiting is not None)


async def _committed_as(arrival_id: str, connection: AsyncConnection) -> ReportReference | None:
    """What an earlier attempt at the same sighting left, if its commit happened and its answer was lost."""
    new = await connection.execute(select(reports.c.id).where(reports.c.id == arrival_id))
    if new.scalar_one_or_none() is not None:
        return ReportReference(arrival_id, joined=False)
    later = await connection.execute(select(sightings.c.report_id).where(sightings.c.id == arrival_id))
    joined = later.scalar_one_or_none()
    return None if joined is None else ReportReference(joined, joined=True)


async def _queued_at(place_hash: bytes | None, connection: AsyncConnection) -> str | None:
    """The report queued for a medium at a place, held in that state until this transaction ends."""
    if place_hash is None:
        return None
    waiting = await connection.execute(
        select(reports.c.id)
        .where(reports.c.place_hash == place_hash, reports.c.state == QUEUED)
        .with_for_update()
    )
    found: str | None = waiting.scalar_one_or_none()
    return found


def _keyed_hash(key: bytes, said: Sequence[object]) -> bytes:
    return hmac.digest(key, json.dumps(said).encode(), "sha256")
