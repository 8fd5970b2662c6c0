"""Reports as they stand beside their sealed files: listed, held, and moved from state to state.

A row tells in the clear only what ``schema`` says: id, times, state, kind, a keyed hash, fingerprints of the
custodians, and the SHA-256 of the sealed file. The audit log holds that SHA-256 too.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, LargeBinary, Select, and_, cast, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import ConflictError, NotFoundError
from app.media import BankKind
from app.store import notices
from app.store.record import audit
from app.store.reports.report_states import DECIDED, TRANSITIONS, State
from app.store.rows import UnreadableRowError, of_its_types, readable
from app.store.schema import filings, idempotency, reports, sightings, tombstones

MAX_LISTED: Final = 1000

HELD_EVENT: Final = "report.held"
UNHELD_EVENT: Final = "report.unheld"

ULID_LENGTH: Final = 26
_ULID_DIGIT: Final = "[0-9A-HJKMNP-TV-Z]"

# All but the sealed file, which may be large.
_SHOWN: Final = select(
    reports.c.id,
    reports.c.created_at,
    reports.c.state,
    reports.c.changed_at,
    reports.c.cause,
    reports.c.decided_at,
    reports.c.receipt_at,
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
        changed_at: when it came to this state; None while it is the first.
        cause: why it is parked.
        decided_at: when a person last decided on it.
        receipt_at: when the authority said that it has it.
        custodians: fingerprints of those it is sealed to.
        sealed_sha256: of the sealed file, 64 hex digits.
        later_sightings: how many sightings of the same medium at the same place joined it.
    """

    id: str
    created_at: datetime
    state: State
    changed_at: datetime | None
    cause: str | None
    decided_at: datetime | None
    receipt_at: datetime | None
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
class Page:
    """Some reports, newest first.

    Attributes:
        unreadable: ids of those among them whose rows hold what no Cordon wrote.
    """

    reports: tuple[Report, ...]
    unreadable: tuple[str, ...] = ()


async def list_reports(
    connection: AsyncConnection, *, state: State | None = None, before: str | None = None, limit: int = 100
) -> Page:
    """Reports, newest first; fewer than asked for only where there are no more.

    One that cannot be read stands before no other.

    Args:
        connection: to read with.
        state: only those in this state, or in none that there is.
        before: only those older than the report of this id, for the next page.
        limit: at most so many that can be read, and never more than ``MAX_LISTED``.
    """
    limit = min(limit, MAX_LISTED)
    found: list[Report] = []
    unreadable: list[str] = []
    while True:
        wanted = select(reports.c.id).where(named(connection))
        if state is not None:
            wanted = wanted.where(
                or_(
                    reports.c.state == state.value,
                    reports.c.state.not_in(list(State)),
                    reports.c.state.is_(None),
                )
            )
        if before is not None:
            wanted = wanted.where(reports.c.id < before)
        ids = await connection.execute(wanted.order_by(reports.c.id.desc()).limit(limit - len(found)))
        some = ids.scalars().all()
        page = await get_readable(connection, some)
        found += page.reports
        unreadable += page.unreadable
        if not page.unreadable or len(found) == limit:
            return Page(tuple(found), tuple(unreadable))
        before = some[-1]


async def get_readable(connection: AsyncConnection, report_ids: Sequence[str]) -> Page:
    """Those of some reports that are there, newest first: one by one where one of them cannot be read."""
    try:
        found = await get_some(connection, report_ids)
    except UnreadableRowError:
        pass
    else:
        return Page(tuple(sorted(found, key=lambda each: each.id, reverse=True)))
    readable_ones: list[Report] = []
    unreadable: list[str] = []
    for report_id in sorted(report_ids, reverse=True):
        try:
            readable_ones.append(await get(connection, report_id))
        except UnreadableRowError:
            unreadable.append(report_id)
        except NotFoundError:
            continue
    return Page(tuple(readable_ones), tuple(unreadable))


async def every_id(connection: AsyncConnection) -> tuple[str, ...]:
    """The ids of all reports, oldest first."""
    ids = select(reports.c.id).where(named(connection)).order_by(reports.c.id)
    return tuple((await connection.execute(ids)).scalars())


async def get(connection: AsyncConnection, report_id: str) -> Report:
    """One report.

    Raises:
        NotFoundError: there is none of this id.
    """
    found = await _read(connection, _SHOWN.where(reports.c.id == report_id))
    if not found:
        raise await absent(connection, report_id)
    return found[0]


async def absent(connection: AsyncConnection, report_id: str) -> NotFoundError:
    """The error of a report that is not there; of one that was removed it says so."""
    removed = await connection.execute(select(tombstones.c.id).where(tombstones.c.id == report_id))
    if removed.first() is None:
        return NotFoundError("There is no such report.")
    return NotFoundError(
        "This report was removed, and nothing can be done with it any more; 'cordon report show' tells what "
        "is left."
    )


def named(connection: AsyncConnection) -> ColumnElement[bool]:
    """Reports under an id that a Cordon gave; what stands in the place of others no driver need read."""
    if connection.dialect.name != "sqlite":
        return reports.c.id.regexp_match(f"^{_ULID_DIGIT}{{{ULID_LENGTH}}}$")
    # It keeps anything in any column, also text that is none.
    return and_(
        func.typeof(reports.c.id) == "text",
        func.length(cast(reports.c.id, LargeBinary)) == ULID_LENGTH,
        reports.c.id.op("GLOB")(_ULID_DIGIT * ULID_LENGTH),
    )


async def get_some(connection: AsyncConnection, report_ids: Collection[str]) -> tuple[Report, ...]:
    """Those of some reports that are there."""
    return await _read(connection, _SHOWN.where(reports.c.id.in_(report_ids)))


async def list_sightings(connection: AsyncConnection, report_id: str) -> tuple[Sighting, ...]:
    """The later sightings of a report, oldest first; none if there is no such report."""
    wanted = (
        select(sightings.c.id, sightings.c.seen_at, sightings.c.custodians, sightings.c.sealed_sha256)
        .where(sightings.c.report_id == report_id)
        .order_by(sightings.c.id)
    )
    with readable():
        return tuple(
            Sighting(row.id, row.seen_at, tuple(row.custodians), row.sealed_sha256.hex())
            for row in await connection.execute(wanted)
        )


async def move(
    connection: AsyncConnection,
    report_id: str,
    *,
    to: State,
    cause: str | None = None,
    expect: Collection[State] | None = None,
    receipt_at: datetime | None = None,
    details: audit.Details | None = None,
) -> Report:
    """Bring a report to another state, with its audit entry, in the caller's transaction.

    Who leaves ``queued`` is joined no more: the keyed hashes of its medium and place are deleted.

    Args:
        connection: within ``Database.begin``. The report's row stays locked until that ends.
        report_id: the report's.
        to: the state; ``report_states`` says from where.
        cause: why it is parked, one of a few fixed words; goes with ``parked`` and with nothing else.
        expect: only if it is in one of these states.
        receipt_at: when the authority said that it has it.
        details: what the audit entry says besides; ids and digests of sealed files alone.

    Raises:
        NotFoundError: there is no report of this id.
        ConflictError: from its state it cannot go there, or it is in none of the expected ones.
    """
    if (to is State.PARKED) != (cause is not None):
        message = "a cause goes with parked, and with nothing else"
        raise ValueError(message)
    was = await lock(connection, report_id)
    if to not in TRANSITIONS[was] or (expect is not None and was not in expect):
        raise ConflictError(f"The report is {was.value}, and cannot become {to.value} from there.")
    now = datetime.now(UTC)
    changes: dict[str, Any] = {"state": to.value, "changed_at": now, "cause": cause}
    if to in DECIDED:
        changes["decided_at"] = now
    if receipt_at is not None:
        changes["receipt_at"] = receipt_at
    if was is State.QUEUED:
        changes["place_hash"] = None
        await connection.execute(delete(idempotency).where(idempotency.c.report_id == report_id))
    await connection.execute(update(reports).where(reports.c.id == report_id).values(**changes))
    await notices.post(connection, notices.REPORT_CHANGED, report_id, to.value)
    told: dict[str, Any] = {"from": was.value, **({"cause": cause} if cause else {}), **(details or {})}
    await audit.append(connection, f"report.{to.value}", report_id, told)
    return await get(connection, report_id)


async def lock(connection: AsyncConnection, report_id: str) -> State:
    """The state of a report, held until the transaction ends.

    Raises:
        NotFoundError: there is no report of this id.
    """
    row = await connection.execute(select(reports.c.state).where(reports.c.id == report_id).with_for_update())
    state = row.scalar_one_or_none()
    if state is None:
        raise await absent(connection, report_id)
    with readable():
        return State(state)


async def decided(connection: AsyncConnection, report_id: str) -> None:
    """Set the time of the last decision to now, where a decision leaves the state as it is."""
    await connection.execute(
        update(reports).where(reports.c.id == report_id).values(decided_at=datetime.now(UTC))
    )


async def set_hold(
    connection: AsyncConnection,
    report_id: str,
    *,
    on_hold: bool,
    by: str,
    signed: audit.Details | None = None,
) -> Report:
    """Keep a report from being removed, or end that. Doing so twice is no error and no second entry.

    Whether a custodian's signature stands against its end, ``decisions.set_hold`` looks.

    Args:
        connection: within ``Database.begin``.
        report_id: the report's.
        on_hold: whether it is to be held.
        by: id of the key that asks, or ``cli``.
        signed: what the entry says of a decision that a custodian signed; it has one of its own each time.

    Raises:
        NotFoundError: there is none of this id.
    """
    changed = await connection.execute(
        update(reports)
        .where(reports.c.id == report_id, reports.c.on_hold.is_not(on_hold))
        .values(on_hold=on_hold)
    )
    report = await get(connection, report_id)
    if changed.rowcount or signed is not None:
        event = HELD_EVENT if on_hold else UNHELD_EVENT
        await audit.append(connection, event, report_id, signed or {"by": by})
    return report


async def authority_report_id(connection: AsyncConnection, report_id: str) -> str | None:
    """What the authority calls a report, as its row has it; None if it does not know it."""
    wanted = select(filings.c.authority_report_id).where(filings.c.report_id == report_id)
    called: str | None = (await connection.execute(wanted)).scalar_one_or_none()
    return called


async def receipt(connection: AsyncConnection, report_id: str) -> bytes | None:
    """The authority's last word on a report, an age file sealed to the custodians; None if there is none."""
    said = await connection.execute(select(filings.c.receipt).where(filings.c.report_id == report_id))
    found: bytes | None = said.scalar_one_or_none()
    return found


async def queue(connection: AsyncConnection) -> Queue:
    """How many reports wait for a custodian, and since when."""
    waiting = select(func.count(), func.min(reports.c.created_at)).where(
        reports.c.state == State.QUEUED.value
    )
    depth, oldest_at = (await connection.execute(waiting)).one()
    return Queue(depth, oldest_at)


async def prune(connection: AsyncConnection) -> None:
    """Forget the ``Idempotency-Key`` of matches older than 24 hours; within ``Database.begin``."""
    await connection.execute(delete(idempotency).where(idempotency.c.expires_at <= datetime.now(UTC)))


async def _read(connection: AsyncConnection, wanted: Select[Any]) -> tuple[Report, ...]:
    with readable():
        return tuple(_of(row) for row in await connection.execute(wanted))


def _of(row: Any) -> Report:  # noqa: ANN401 - whatever stands there
    return of_its_types(
        Report(
            id=row.id,
            created_at=row.created_at,
            state=State(row.state),
            changed_at=row.changed_at,
            cause=row.cause,
            decided_at=row.decided_at,
            receipt_at=row.receipt_at,
            on_hold=row.on_hold,
            bank_kind=BankKind(row.bank_kind),
            custodians=tuple(row.custodians),
            sealed_sha256=row.sealed_sha256.hex(),
            later_sightings=row.later_sightings,
        )
    )
