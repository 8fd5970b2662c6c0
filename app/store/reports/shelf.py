"""Where the outbox puts sealed reports: each sighting stored once, joined to a report that still waits."""

import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import Select, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from app.custody.plugins import check_found
from app.custody.roster import Roster, RosterFile, WorkerKeys
from app.errors import ReportNotStoredError
from app.media import BankKind, ReportReference
from app.store import notices
from app.store.database import Database
from app.store.record import audit
from app.store.reports import reports
from app.store.reports.report_states import State
from app.store.reports.sealed import BANK_KIND, REMOVAL, SEALED_EVENT, SIGHTED_EVENT, SIGNED, WORKER
from app.store.rows import readable
from app.store.schema import idempotency, secrets, sightings
from app.store.schema import reports as table

BLOCKED_EVENT: Final = "match.blocked"

IDEMPOTENCY_LIFE: Final = timedelta(hours=24)
SEALINGS: Final = 5
"""How often a sighting is sealed at most: again if the report that it joins, or a custodian, came or went."""

Place = tuple[tuple[str, str], ...]
Seal = Callable[[str, Sequence[str], str | None], Awaitable[bytes]]


@dataclass(frozen=True)
class _Arrival:
    """A sighting on its way in; its id becomes the report's, or the sighting's if it joins one."""

    id: str
    bank_kind: BankKind
    place_hash: bytes | None
    retry_hash: bytes | None
    parked_cause: str | None


@dataclass(frozen=True)
class _Sealed:
    """A sighting sealed as one of a report, whose id it holds, to the pinned of then."""

    report_id: str
    roster: Roster
    worker: WorkerKeys | None
    file: bytes = field(repr=False)


class ReportShelf:
    """Where the outbox puts reports.

    Args:
        database: the store.
        place_key: ``CORDON_PLACE_KEY``; goes into the keyed hashes beside the database's own secret.
        pinned: whom reports are sealed to, whatever the database says.
    """

    def __init__(self, database: Database, place_key: str | None, pinned: RosterFile) -> None:
        self._database = database
        self._pinned = pinned
        self._place_key = (place_key or "").encode()
        self._hash_key: bytes | None = None

    async def count_custodians(self) -> int:
        """How many custodians reports are sealed to now, if the database answers too.

        Raises:
            NotReadyError: it does not, the file of the pinned is none, or the program of a plugin is missing
                that it takes to seal to them.
        """
        async with self._database.connect() as connection:
            await connection.execute(select(1))
        roster = self._pinned.read_if_there()
        check_found(roster.public_keys)
        return len(roster.custodians)

    async def put(
        self,
        *,
        bank_kind: BankKind,
        sha256: bytes,
        place: Place,
        key_id: str | None,
        idempotency_key: str | None,
        seal: Seal,
        parked_cause: str | None = None,
        to_worker: bool = False,
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
            seal: called before the transaction, since it may take seconds, with the report's id, the pinned
                custodians' public keys, and the worker's or None; again if it is another report's by then,
                or others are pinned: ``report reseal`` would not see what is committed after it ran.
            parked_cause: why it is stored as ``parked`` instead of ``queued``; such a report is joined to
                none, and none to it.
            to_worker: whether to seal to the pinned worker too, if there is one; the audit entry names it.

        Raises:
            NotReadyError: the database failed, or the file of the pinned is none.
            ReportNotStoredError: no custodian is pinned, or sealing failed.
        """
        key = await self._key()
        seen = [sha256.hex(), *place]
        arrival = _Arrival(
            id=str(ULID()),
            bank_kind=bank_kind,
            # Keyed hashes let a thief test a guess: they are kept for queued reports alone.
            place_hash=_keyed_hash(key, ["place", bank_kind.value, *seen])
            if place and parked_cause is None
            else None,
            retry_hash=_keyed_hash(key, ["retry", key_id, idempotency_key, *seen])
            if idempotency_key is not None and parked_cause is None
            else None,
            parked_cause=parked_cause,
        )
        for _ in range(SEALINGS):
            roster = self._pinned.read_if_there()
            if not roster.custodians:
                raise ReportNotStoredError("no custodian is pinned to seal to; see 'cordon custodian add'")
            worker = roster.worker if to_worker else None
            report_id = await self._report_of(arrival)
            file = await seal(report_id, roster.public_keys, worker.public_key if worker else None)
            sealed = _Sealed(report_id, roster, worker, file)
            stored = await self._database.write(partial(_put, arrival, sealed, self._pinned))
            if stored is not None:
                return stored
        raise ReportNotStoredError("its report, or a custodian, came and went while it was sealed")

    async def _report_of(self, arrival: _Arrival) -> str:
        """The id of the report that a sighting would be one of now."""
        if arrival.place_hash is None:
            return arrival.id
        async with self._database.connect() as connection:
            waiting = await connection.execute(_queued_with(arrival.place_hash))
            found: str | None = waiting.scalar_one_or_none()
        return found or arrival.id

    async def record_block(self, submission_id: str, by: str, banks: Sequence[str]) -> None:
        """Commit an audit entry of a match that is only blocked.

        One whose commit was in doubt may be there twice, under the same id.

        Args:
            submission_id: of the ingest; the log names the match by it.
            by: id of the key that handed it in, or the entrance that needs none.
            banks: names of those that block it.

        Raises:
            NotReadyError: the database failed.
        """
        details: audit.Details = {"by": by, "banks": list(banks)}
        await self._database.write(
            lambda connection: audit.append(connection, BLOCKED_EVENT, submission_id, details)
        )

    async def _key(self) -> bytes:
        if self._hash_key is None:
            async with self._database.connect() as connection:
                secret = await connection.execute(select(secrets.c.value).where(secrets.c.name == "place"))
                with readable():
                    self._hash_key = hmac.digest(secret.scalar_one(), self._place_key, "sha256")
        return self._hash_key


async def _put(
    arrival: _Arrival, sealed: _Sealed, pinned: RosterFile, connection: AsyncConnection
) -> ReportReference | None:
    """Commit a sighting; run again, it finds what it did before.

    None if it was sealed for another report, or to others than those who are pinned by now.
    """
    now = datetime.now(UTC)
    done = await _committed_as(arrival.id, connection)
    if done is not None:
        return done
    await reports.prune(connection)
    if arrival.retry_hash is not None:
        remembered = await connection.execute(
            select(idempotency.c.report_id).where(idempotency.c.keyed_hash == arrival.retry_hash)
        )
        repeated = remembered.scalar_one_or_none()
        if repeated is not None:
            return ReportReference(repeated, joined=True)
    waiting = await _queued_at(arrival.place_hash, connection)
    report_id = waiting or arrival.id
    if report_id != sealed.report_id or pinned.read_if_there() != sealed.roster:
        return None
    sealed_sha256 = hashlib.sha256(sealed.file).digest()
    fingerprints = list(sealed.roster.fingerprints)
    row = {
        "id": arrival.id,
        "custodians": fingerprints,
        "sealed": sealed.file,
        "sealed_sha256": sealed_sha256,
    }
    details: dict[str, Any] = {"sealed_sha256": sealed_sha256.hex(), "custodians": fingerprints}
    if sealed.worker is not None:
        details[WORKER] = sealed.worker.fingerprint
    if waiting is not None:
        await connection.execute(insert(sightings).values(**row, report_id=waiting, seen_at=now))
        details["sighting"] = arrival.id
    else:
        state = State.QUEUED if arrival.parked_cause is None else State.PARKED
        await connection.execute(
            insert(table).values(
                **row,
                created_at=now,
                state=state.value,
                cause=arrival.parked_cause,
                on_hold=False,
                bank_kind=arrival.bank_kind.value,
                place_hash=arrival.place_hash,
            )
        )
        await notices.post(connection, notices.REPORT_CHANGED, report_id, state.value)
        details[REMOVAL] = SIGNED
        details[BANK_KIND] = arrival.bank_kind.value
    if arrival.retry_hash is not None:
        await connection.execute(
            insert(idempotency).values(
                keyed_hash=arrival.retry_hash, report_id=report_id, expires_at=now + IDEMPOTENCY_LIFE
            )
        )
    if arrival.parked_cause is not None:
        details["parked"] = arrival.parked_cause
    event = SEALED_EVENT if waiting is None else SIGHTED_EVENT
    await audit.append(connection, event, report_id, details)
    return ReportReference(report_id, joined=waiting is not None)


async def _committed_as(arrival_id: str, connection: AsyncConnection) -> ReportReference | None:
    """What an earlier attempt at the same sighting left, if its commit happened and its answer was lost."""
    new = await connection.execute(select(table.c.id).where(table.c.id == arrival_id))
    if new.scalar_one_or_none() is not None:
        return ReportReference(arrival_id, joined=False)
    later = await connection.execute(select(sightings.c.report_id).where(sightings.c.id == arrival_id))
    joined = later.scalar_one_or_none()
    return None if joined is None else ReportReference(joined, joined=True)


async def _queued_at(place_hash: bytes | None, connection: AsyncConnection) -> str | None:
    """The report queued for a medium at a place, held in that state until this transaction ends."""
    if place_hash is None:
        return None
    waiting = await connection.execute(_queued_with(place_hash).with_for_update())
    found: str | None = waiting.scalar_one_or_none()
    return found


def _queued_with(place_hash: bytes) -> Select[Any]:
    return select(table.c.id).where(table.c.place_hash == place_hash, table.c.state == State.QUEUED.value)


def _keyed_hash(key: bytes, said: Sequence[object]) -> bytes:
    return hmac.digest(key, json.dumps(said).encode(), "sha256")
