"""What a person orders of a report on its way to the authority: to take it back, to try again, to begin anew.

Where an order takes a signed decision, ``accepting`` has checked that, and the filer reads it again itself.
"""

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import or_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import ConflictError
from app.store.record import audit
from app.store.reports import filing_log, filings, reports
from app.store.reports.report_states import State
from app.store.rows import UnreadableRowError
from app.store.schema import filings as table

ASKED_WITHIN: Final = timedelta(days=1)
"""How long a rejected report waits for the authority's word before a second rejection is the last one: by
then whatever was only opened there has expired, and no call is in the air."""


async def withdraw(connection: AsyncConnection, report_id: str, *, now: datetime) -> bool:
    """Make it due at once that a report is withdrawn, if the authority may have it; whether that is so.

    It may if it is open there, or somebody tried to finish it before it was approved anew or parked: that
    call may be in the air still. Where the filing's row cannot be read, the log says whether somebody tried.
    That its approval was taken back, the filer reads from the signed decisions.

    Where it was parked after an earlier rejection, the authority was asked, and another one is a person's
    last word. So it is where the authority could not be asked within ``ASKED_WITHIN``: perhaps nobody here
    can ask it any more. An answer that comes after all still counts.

    Args:
        connection: within ``Database.begin``.
        report_id: the report's.
        now: the time.

    Raises:
        NotFoundError: there is no such report.
    """
    state = await reports.lock(connection, report_id)
    try:
        filing = await filings.get(connection, report_id)
        is_open = filing is not None and filing.authority_report_id is not None
        if filing is not None and (not is_open or filing.step is filings.Step.RETRACTED):
            return False
        tried = filing is not None and filing.step is filings.Step.FINISHING
    except UnreadableRowError:
        filing, is_open, tried = None, True, False
    if filing is None:
        tried = bool(await filing_log.attempted(connection, report_id))
    earlier = (await filing_log.taken_back(connection, [report_id])).get(report_id)
    if state is State.SUBMITTED:
        on_its_way = (is_open or tried) and (earlier is None or earlier > now - ASKED_WITHIN)
    else:
        on_its_way = tried and (state is State.APPROVED or (state is State.PARKED and earlier is None))
    if not on_its_way:
        return False
    await connection.execute(update(table).where(table.c.report_id == report_id).values(next_attempt_at=now))
    if state is not State.SUBMITTED:
        await reports.move(connection, report_id, to=State.SUBMITTED)
    return True


async def retry(connection: AsyncConnection, report_id: str, *, now: datetime, by: str) -> bool:
    """Make a report due at once, as a person wants it; whether a finish was attempted before.

    Then it is repeated under the very same id. Whether it is approved still, the filer looks up itself.

    Args:
        connection: within ``Database.begin``.
        report_id: the report's.
        now: the time.
        by: who wants it.

    Raises:
        NotFoundError: there is no such report.
        ConflictError: nothing of it was ever approved and tried, or it is decided otherwise.
    """
    state, filing = await _tried(connection, report_id)
    await connection.execute(
        update(table)
        .where(table.c.report_id == report_id)
        .values(next_attempt_at=now, lease=None, leased_until=None)
    )
    if state is State.PARKED:
        await reports.move(connection, report_id, to=State.SUBMITTED, details={"by": by})
    else:
        await audit.append(connection, filing_log.RETRIED_EVENT, report_id, {"by": by})
    return filing.finish_attempted_at is not None


async def begin_anew(connection: AsyncConnection, report_id: str, *, now: datetime) -> None:
    """Forget under which id a finish was attempted, and begin with ``/submit``: it may be filed twice then.

    Only for a decision that a custodian signed.

    Raises:
        NotFoundError: there is no such report.
        ConflictError: as ``check_may_begin_anew``, or a filer waits for an answer about it.
    """
    filing = await check_may_begin_anew(connection, report_id)
    begun = await connection.execute(
        update(table)
        .where(
            table.c.report_id == report_id,
            or_(
                table.c.lease.is_(None),
                table.c.leased_until <= now,
                table.c.leased_until > now + filings.LEASE,
            ),
        )
        .values(**filings.beginning(filing.environment, now), lease=None, leased_until=None)
    )
    if not begun.rowcount:
        raise ConflictError("The worker has this report in hand; wait five minutes and look at it again.")
    await reports.move(connection, report_id, to=State.SUBMITTED)


async def check_may_begin_anew(connection: AsyncConnection, report_id: str) -> filings.Filing:
    """Return only if a report is parked after somebody tried to finish it; its row is locked.

    Raises:
        NotFoundError: there is no such report.
        ConflictError: it is not parked, or nobody tried to finish it.
    """
    state, filing = await _tried(connection, report_id)
    if state is not State.PARKED:
        raise ConflictError(f"The report is {state.value}: the worker goes on with it by itself.")
    if filing.finish_attempted_at is None and not await filing_log.attempted(connection, report_id):
        raise ConflictError(
            f"Nobody tried to finish this report: 'cordon report retry {report_id}' begins it anew."
        )
    return filing


async def _tried(connection: AsyncConnection, report_id: str) -> tuple[State, filings.Filing]:
    """The state of a report that somebody tried to file, and how far it has come; its row is locked."""
    state = await reports.lock(connection, report_id)
    filing = await filings.get(connection, report_id)
    if state not in {*filings.TO_FILE, State.PARKED}:
        raise ConflictError(f"The report is {state.value}; there is nothing to try again.")
    if filing is None:
        raise ConflictError(
            "Nobody tried to file this report yet, so that nothing puts it off: what keeps it, if anything "
            f"does, 'cordon report show {report_id}' says."
        )
    return state, filing
