"""How far the filing of a report has come, and whose turn it is: leases with a fresh token each.

The token is a fence. Whatever changes a filing names it, so that a filer whose turn has passed changes
nothing more, however wrong its clock is. The authority's id of a report can be replaced only while no finish
was ever attempted, or once the authority said that it withdrew it; whoever attempts one has said so here
before. So of all the ids that a report may have been opened under, at most one is ever finished.

What the audit log says of it stands in ``filing_log``.
"""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, Self

from sqlalchemy import (
    JSON,
    ColumnElement,
    RowMapping,
    Select,
    and_,
    func,
    literal,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import ConflictError, NotFoundError
from app.store.record import audit
from app.store.reports import filing_log, reports
from app.store.reports.report_states import TRANSITIONS, State
from app.store.rows import UnreadableRowError, of_its_types, readable
from app.store.schema import audit as audit_log
from app.store.schema import filings
from app.store.schema import reports as report_table

Transaction = AsyncConnection
"""What ``Database.begin`` gives: for those who hand it on and speak no SQL themselves."""

LEASE: Final = timedelta(minutes=5)
"""How long a turn lasts; far longer than all that is done in it."""

LONGEST_PAUSE: Final = timedelta(days=2)
"""No attempt is set later than this; one that seems so was set by a clock that was wrong."""

_RECEIPT_EVENTS: Final = (f"report.{State.FILED}", f"report.{State.DRY_RUN}", filing_log.FILED_TOO_EVENT)
RECEIPT_SEALED_EVENT: Final = "report.receipt_sealed"
"""The receipt is sealed to every custodian now; it could not be when it came."""

TO_FILE: Final = (State.APPROVED, State.SUBMITTED)
"""The states of reports that are on their way to the authority."""

_DECIDED_EVENTS: Final = (f"report.{State.APPROVED}", filing_log.AFRESH_EVENT, filing_log.WITHDRAWN_EVENT)
"""What a person decides of a report that is on its way; each names a signed decision, which is checked."""

_OPENED_LOCK: Final = 0x436F72646F6E03

_MOST_ATTEMPTS: Final = 2**31 - 1
"""What the column holds on PostgreSQL."""


class KnownIdError(ConflictError):
    """The authority gave a report the id that another one has."""

    def __init__(self) -> None:
        super().__init__("The authority gave this report the id that another one has.")


class UnreadableReportError(UnreadableRowError):
    """A row of a report that is due holds what no Cordon wrote, so that it cannot be filed."""

    def __init__(self, report_id: str) -> None:
        super().__init__(f"Report {report_id}")
        self.report_id = report_id


class Step(StrEnum):
    """What is to be done next, or was done last."""

    SUBMITTING = "submitting"
    OPENED = "opened"
    FINISHING = "finishing"
    FINISHED = "finished"
    RETRACTED = "retracted"


@dataclass(frozen=True)
class Filing:
    """How far a report has come.

    Attributes:
        environment: where; ids of one mean nothing to another.
        authority_report_id: the authority's id, once it was opened.
        finish_attempted_at: when the irreversible call was first about to be made; from then on only the
            authority knows whether it was filed.
        last_code: of the authority's last answer, if it had one.
        attempts: how many turns it took since it began.
        leased_until: when the turn that somebody has ends; None if nobody has one.
        receipt: the authority's last word, an age file sealed to the custodians.
    """

    report_id: str
    environment: str
    step: Step
    authority_report_id: str | None
    request_id: str | None
    opened_at: datetime | None
    finish_attempted_at: datetime | None
    last_code: int | None
    attempts: int
    first_attempt_at: datetime
    next_attempt_at: datetime
    leased_until: datetime | None
    receipt: bytes | None = field(repr=False)

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """A row of the table.

        Raises:
            UnreadableRowError: it holds what no Cordon wrote.
        """
        with readable():
            values = {name: row[name] for name in cls.__dataclass_fields__}
            return of_its_types(cls(**values | {"step": Step(row["step"])}))


@dataclass(frozen=True)
class Turn:
    """A filer's turn at a report.

    Attributes:
        token: nobody else has it.
        state: the report's when the turn began.
        filing: how far it had come then.
    """

    token: bytes = field(repr=False)
    state: State
    filing: Filing

    @property
    def report_id(self) -> str:
        """The report's id."""
        return self.filing.report_id


async def claim(
    connection: AsyncConnection,
    *,
    environment: str,
    now: datetime,
    report_id: str | None = None,
    but_for: Collection[str] = (),
) -> Turn | None:
    """Take the turn at a report that is due; None if none is. Within ``Database.begin``.

    Args:
        connection: within ``Database.begin``.
        environment: which one it would be filed in.
        now: the time.
        report_id: this report, and no other; None for whichever is due longest.
        but_for: ids of reports that are passed over.

    Raises:
        UnreadableReportError: a row of the one that is due longest holds what no Cordon wrote.
    """
    found = await connection.execute(
        select(report_table.c.id)
        .select_from(report_table.outerjoin(filings))
        .where(
            report_table.c.state.in_([state.value for state in TO_FILE]),
            reports.named(connection),
            or_(filings.c.report_id.is_(None), _due(now)),
            report_table.c.id == report_id if report_id is not None else true(),
            report_table.c.id.not_in(_each_of(connection, but_for)),
        )
        .order_by(func.coalesce(filings.c.next_attempt_at, report_table.c.decided_at), report_table.c.id)
        .limit(1)
        .with_for_update(of=report_table, skip_locked=True)
    )
    due: str | None = found.scalar_one_or_none()
    if due is None:
        return None
    try:
        with readable():
            return await _take_turn(connection, due, environment, now)
    except UnreadableRowError:
        raise UnreadableReportError(due) from None


def _each_of(connection: AsyncConnection, ids: Collection[str]) -> Select[tuple[str]]:
    """Ids as one parameter, however many they are: a statement takes some 32,000 parameters at most."""
    listed = literal(sorted(ids), JSON)
    if connection.dialect.name == "sqlite":
        return select(func.json_each(listed).table_valued("value").c.value)
    return select(func.json_array_elements_text(listed).column_valued())


async def _take_turn(
    connection: AsyncConnection, report_id: str, environment: str, now: datetime
) -> Turn | None:
    """Take the turn at a report whose row is locked, if it is due still and can be read."""
    report = await reports.get(connection, report_id)
    token = secrets.token_bytes(16)
    leased = {"lease": token, "leased_until": now + LEASE}
    # Whoever had the row's lock before may have taken the turn: what was read above is not what stands now.
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    begun = await connection.execute(
        dialect.insert(filings)
        .values(report_id=report_id, **beginning(environment, now), **leased)
        .on_conflict_do_nothing(index_elements=[filings.c.report_id])
    )
    filing = await get(connection, report_id)
    if filing is not None and not begun.rowcount:
        taken = await connection.execute(
            update(filings)
            .where(filings.c.report_id == report_id, _due(now))
            .values(attempts=min(filing.attempts, _MOST_ATTEMPTS - 1) + 1, **leased)
        )
        if not taken.rowcount:
            return None
        filing = await get(connection, report_id)
    assert filing is not None  # noqa: S101 - written above, in this transaction
    return Turn(token, report.state, filing)


async def get(connection: AsyncConnection, report_id: str) -> Filing | None:
    """How far a report has come; None if nobody began to file it.

    Raises:
        UnreadableRowError: its row holds what no Cordon wrote.
    """
    with readable():
        found = await connection.execute(select(filings).where(filings.c.report_id == report_id))
        row = found.mappings().one_or_none()
    return Filing.of(row) if row is not None else None


async def _is_anothers(connection: AsyncConnection, filing: Filing, authority_report_id: str) -> bool:
    """Whether another report was opened under an id of the authority."""
    found = await connection.execute(
        select(filings.c.report_id)
        .where(
            filings.c.environment == filing.environment,
            filings.c.authority_report_id == authority_report_id,
            filings.c.report_id != filing.report_id,
        )
        .limit(1)
    )
    return found.first() is not None


async def begin_afresh(connection: AsyncConnection, turn: Turn, *, environment: str, now: datetime) -> bool:
    """Forget what was opened before, to begin with submitting; whether the turn still is this filer's."""
    return await _change(connection, turn, **beginning(environment, now))


async def opened(
    connection: AsyncConnection,
    turn: Turn,
    authority_report_id: str,
    *,
    request_id: str | None,
    now: datetime,
    details: audit.Details,
    signed: audit.Details | None = None,
) -> bool:
    """Keep the authority's id, before anything else is done; whether the report may go on under it.

    It may not if the turn is another filer's by now, or a person decided otherwise in the meantime. Doing
    it again with the same id is no error.

    Args:
        connection: within ``Database.begin``.
        turn: of whoever opened it.
        authority_report_id: the authority's id.
        request_id: of the answer.
        now: when it came.
        details: for the audit entries.
        signed: the worker's word on the id, for the one of them that tells of it.

    Raises:
        KnownIdError: another report has it. Finishing that one again would say that this one is filed, and
            withdrawing it would take that one back.
    """
    state = await _lock(connection, turn.report_id)
    if connection.dialect.name == "postgresql":
        # Another filer may be keeping the same one, unseen before it commits.
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _OPENED_LOCK})
    if await _is_anothers(connection, turn.filing, authority_report_id):
        raise KnownIdError
    kept = await _change(
        connection,
        turn,
        step=Step.OPENED.value,
        authority_report_id=authority_report_id,
        request_id=request_id,
        opened_at=now,
        last_code=0,
    )
    if kept and state is not None:
        given = {**details, **(signed or {})}
        await audit.append(connection, filing_log.GIVEN_ID_EVENT, turn.report_id, given)
    if not kept or state not in TO_FILE:
        return False
    if state is not State.SUBMITTED:
        await reports.move(connection, turn.report_id, to=State.SUBMITTED, details=details)
    return True


async def attempt_finish(connection: AsyncConnection, turn: Turn, *, now: datetime) -> bool:
    """Say that the irreversible call is about to be made; whether it may be: the last look at the lease."""
    state = await _lock(connection, turn.report_id)
    if state is not State.SUBMITTED:
        return False
    return await _change(
        connection,
        turn,
        valid_at=now,
        step=Step.FINISHING.value,
        finish_attempted_at=turn.filing.finish_attempted_at or now,
    )


async def record_attempt(connection: AsyncConnection, turn: Turn, details: audit.Details) -> None:
    """Put in the log that the irreversible call is about to be made, unless it was before."""
    if turn.filing.finish_attempted_at is None:
        await audit.append(connection, filing_log.FINISHING_EVENT, turn.report_id, details)


async def finished(
    connection: AsyncConnection,
    turn: Turn,
    authority_report_id: str,
    *,
    counts: bool,
    receipt: bytes,
    code: int | None,
    request_id: str | None,
    now: datetime,
    details: audit.Details,
) -> bool:
    """Keep that the authority has the report: a fact, whosever turn it is. Whether the report is so now.

    It is not if it was filed by hand, destroyed or begun afresh meanwhile. Doing it again is no error.

    Args:
        connection: within ``Database.begin``.
        turn: of whoever was told.
        authority_report_id: the id that was finished.
        counts: whether the report is filed now, and not only tried out.
        receipt: the authority's answer, sealed.
        code: of that answer.
        request_id: of that answer.
        now: when it came.
        details: for the audit entry, which tells the receipt's SHA-256 too.
    """
    details = {**details, "receipt_sha256": _digest(receipt)}
    state = await _lock(connection, turn.report_id)
    kept = await connection.execute(
        update(filings)
        .where(
            filings.c.report_id == turn.report_id,
            or_(
                filings.c.authority_report_id == authority_report_id,
                # It was begun afresh, and nothing is open under another id yet.
                and_(filings.c.authority_report_id.is_(None), filings.c.lease == turn.token),
            ),
            filings.c.step != Step.FINISHED.value,
        )
        .values(
            step=Step.FINISHED.value,
            authority_report_id=authority_report_id,
            receipt=receipt,
            last_code=code,
            request_id=request_id,
            lease=None,
            leased_until=None,
        )
    )
    to = State.FILED if counts else State.DRY_RUN
    if not kept.rowcount and state is to:
        return True
    if not kept.rowcount or state is None or to not in TRANSITIONS[state]:
        # Somebody filed it by hand meanwhile, destroyed it or began afresh: the log tells of both.
        await audit.append(connection, filing_log.FILED_TOO_EVENT, turn.report_id, details)
        return False
    report = await reports.get(connection, turn.report_id)
    # Retention counts from it: a clock that is behind must not make the receipt older than what it is of.
    receipt_at = max(now, report.created_at, report.decided_at or report.created_at)
    await reports.move(
        connection,
        turn.report_id,
        to=to,
        receipt_at=receipt_at if counts else None,
        details=details,
    )
    return True


async def retracted(
    connection: AsyncConnection,
    turn: Turn,
    *,
    code: int | None,
    request_id: str | None,
    details: audit.Details,
) -> bool:
    """End the turn: what was open at the authority is withdrawn. Whether the report is so now.

    It is not if the turn is another filer's by now, or a custodian approved it anew in the meantime. Doing it
    again is no error.
    """
    state = await _lock(connection, turn.report_id)
    kept = await _change(connection, turn, **_ended(code, request_id), step=Step.RETRACTED.value)
    if not kept or state not in {State.SUBMITTED, State.REJECTED}:
        return state is State.RETRACTED
    await reports.move(connection, turn.report_id, to=State.RETRACTED, details=details)
    return True


async def postpone(
    connection: AsyncConnection,
    turn: Turn,
    *,
    until: datetime,
    code: int | None = None,
    request_id: str | None = None,
) -> bool:
    """End the turn; the next one is not before ``until``. Whether it still was this filer's."""
    ended = _ended(code, request_id)
    return await _change(connection, turn, **ended, next_attempt_at=until)


async def park(
    connection: AsyncConnection,
    turn: Turn,
    *,
    cause: str,
    code: int | None = None,
    request_id: str | None = None,
    keep_open: bool = False,
    details: audit.Details | None = None,
) -> bool:
    """End the turn, and leave the report to a person; whether the turn still was this filer's.

    Where no finish was attempted, what was opened is forgotten unless ``keep_open``: it expires, and the next
    filing opens anew.
    """
    state = await _lock(connection, turn.report_id)
    if not await _change(connection, turn, **_ended(code, request_id)) or state not in TO_FILE:
        return False
    if not keep_open:
        await _forget_unfinished(connection, turn.report_id)
    await reports.move(connection, turn.report_id, to=State.PARKED, cause=cause, details=details)
    return True


async def receipt_as_recorded(connection: AsyncConnection, report_id: str) -> bytes | None:
    """The authority's receipt, sealed; None if there is none.

    Raises:
        ConflictError: it is not one that the audit log tells of.
    """
    receipt = await reports.receipt(connection, report_id)
    if receipt is None:
        return None
    if not isinstance(receipt, bytes):
        raise UnreadableRowError
    # Not the newest alone: what was filed too, beside what is kept, has an entry and no place.
    recorded = await receipts_recorded(connection, report_id, *_RECEIPT_EVENTS, RECEIPT_SEALED_EVENT)
    if _digest(receipt) not in recorded:
        raise ConflictError("The receipt is not the one that the audit log tells of: somebody changed it.")
    return receipt


async def receipts_recorded(connection: AsyncConnection, report_id: str, *events: str) -> frozenset[object]:
    """The SHA-256 of each sealed receipt that the audit log tells of with these events."""
    entries = await connection.execute(
        select(audit_log.c.details).where(audit_log.c.subject == report_id, audit_log.c.event.in_(events))
    )
    told = (audit.said(details).get("receipt_sha256") for details in entries.scalars())
    return frozenset(each for each in told if isinstance(each, str))


async def replace_receipt(connection: AsyncConnection, report_id: str, kept: bytes, anew: bytes) -> None:
    """Put the same receipt, sealed anew, in the place of the one that was kept, if that is there still."""
    replaced = await connection.execute(
        update(filings)
        .where(filings.c.report_id == report_id, filings.c.receipt == kept)
        .values(receipt=anew)
    )
    if replaced.rowcount:
        details = {"receipt_sha256": _digest(anew)}
        await audit.append(connection, RECEIPT_SEALED_EVENT, report_id, details)


async def overdue(connection: AsyncConnection, since: datetime) -> frozenset[str]:
    """Ids of the reports that were approved before some moment and are on their way still.

    Either its row or the log says when that was: a row is easily made to look young again and again.
    """
    decided = (
        select(func.max(audit_log.c.at))
        .where(audit_log.c.subject == report_table.c.id, audit_log.c.event.in_(_DECIDED_EVENTS))
        .scalar_subquery()
    )
    rows = await connection.execute(
        select(report_table.c.id).where(
            report_table.c.state.in_([state.value for state in TO_FILE]),
            reports.named(connection),
            or_(func.coalesce(decided, report_table.c.changed_at) < since, report_table.c.decided_at < since),
        )
    )
    return frozenset(rows.scalars())


def _due(now: datetime) -> ColumnElement[bool]:
    """Filings whose time has come and whose turn nobody has, by this clock.

    So are those that say nothing of it, which no Cordon wrote: whoever takes one up says that.
    """
    at, until = filings.c.next_attempt_at, filings.c.leased_until
    return and_(
        or_(at.is_(None), at <= now, at > now + LONGEST_PAUSE),
        or_(filings.c.lease.is_(None), until.is_(None), until <= now, until > now + LEASE),
    )


def beginning(environment: str, now: datetime) -> dict[str, Any]:
    """What the row of a filing holds that begins, or begins anew, but for whose turn it is."""
    return {
        "environment": environment,
        "step": Step.SUBMITTING.value,
        "authority_report_id": None,
        "request_id": None,
        "opened_at": None,
        "finish_attempted_at": None,
        "last_code": None,
        "attempts": 1,
        "first_attempt_at": now,
        "next_attempt_at": now,
        "receipt": None,
    }


def _ended(code: int | None, request_id: str | None) -> dict[str, Any]:
    """A turn that is over, and the authority's last word in it if it had one."""
    ended: dict[str, Any] = {"lease": None, "leased_until": None}
    if code is not None:
        ended["last_code"] = code
    if request_id is not None:
        ended["request_id"] = request_id
    return ended


async def _lock(connection: AsyncConnection, report_id: str) -> State | None:
    """The state of a report, held until the transaction ends; None if it was destroyed meanwhile."""
    try:
        return await reports.lock(connection, report_id)
    except NotFoundError:
        return None


async def _forget_unfinished(connection: AsyncConnection, report_id: str) -> None:
    await connection.execute(
        update(filings)
        .where(filings.c.report_id == report_id, filings.c.finish_attempted_at.is_(None))
        .values(step=Step.SUBMITTING.value, authority_report_id=None, opened_at=None)
    )


async def _change(
    connection: AsyncConnection, turn: Turn, *, valid_at: datetime | None = None, **values: object
) -> bool:
    """Change a filing if its turn is this one, and if asked, not over; whether it was changed."""
    wanted = update(filings).where(filings.c.report_id == turn.report_id, filings.c.lease == turn.token)
    if valid_at is not None:
        wanted = wanted.where(filings.c.leased_until > valid_at, filings.c.leased_until <= valid_at + LEASE)
    return (await connection.execute(wanted.values(**values))).rowcount == 1


def _digest(receipt: bytes) -> str:
    """Of a sealed receipt, as the audit log tells it."""
    return hashlib.sha256(receipt).hexdigest()
