"""How a report stands by the audit log, whatever its row says: state, hold, and the times retention counts.

Whoever can write to the database can call a report rejected, filed a year ago, or held by nobody. That is
missing in the log then; where it was written there too, ``app.store.reports.endings`` asks for signatures.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.media import BankKind
from app.store.record.audit import said
from app.store.reports import filing_log, sealed
from app.store.reports.report_states import DECIDED, State
from app.store.reports.reports import HELD_EVENT, UNHELD_EVENT, Report
from app.store.schema import audit as log

APART: Final = timedelta(minutes=5)
"""How far a time of a row may be from that of its entry: both are written in one transaction, each by a look
at the clock of its own."""

_STATES: Final = {f"report.{state.value}": state for state in State}
_DECISIONS: Final = frozenset(
    {*(f"report.{state.value}" for state in DECIDED), filing_log.WITHDRAWN_EVENT, filing_log.AFRESH_EVENT}
)
_APPROVED: Final = f"report.{State.APPROVED.value}"
_FILED: Final = frozenset({f"report.{State.FILED.value}"})
_SEALED: Final = frozenset({sealed.SEALED_EVENT})
_EVENTS: Final = frozenset({*_STATES, *_DECISIONS, *_SEALED, HELD_EVENT, UNHELD_EVENT})


@dataclass(frozen=True)
class Times:
    """When entries were written that the times of a report's row go with; None if there is no such entry."""

    created_at: datetime | None = None
    changed_at: datetime | None = None
    decided_at: datetime | None = None
    receipt_at: datetime | None = None


@dataclass(frozen=True)
class Recorded:
    """What the log says of a report.

    Attributes:
        state: None if it was never sealed.
        entry: number of the newest entry of all that is told here; None if there is none.
        cause: why it is parked, if it is.
        bank_kind: which kind it is of; None where no entry says so, as of before they did.
        last: the times of the entries that were written last, as the row has them.
        latest: the latest times of all of them. A clock that was set back, or another machine's that is
            behind, makes what is written last not the latest.
    """

    state: State | None = None
    on_hold: bool = False
    entry: int | None = None
    cause: str | None = None
    bank_kind: str | None = None
    last: Times = Times()
    latest: Times = Times()

    def contradicts(self, report: Report) -> str | None:
        """What the row says otherwise, for a person; None if they agree."""
        if self.state is not report.state:
            said = "nothing of it" if self.state is None else self.state.value
            return f"it stands as {report.state.value}, and the log says {said}"
        if self.on_hold is not report.on_hold:
            return "it is on hold by the log alone" if self.on_hold else "no entry says that it is on hold"
        if self.bank_kind not in {None, report.bank_kind.value}:
            return f"it stands as one of kind {report.bank_kind.value}, and the log says {self.bank_kind}"
        if self.cause != report.cause:
            return "the log has another cause for which it is parked"
        for row, entry, what in (
            (report.created_at, self.last.created_at, "sealed"),
            (report.changed_at, self.last.changed_at, "changed last"),
            (report.decided_at, self.last.decided_at, "decided last"),
            (report.receipt_at, self.last.receipt_at, "received by the authority"),
        ):
            if not _agree(row, entry):
                return f"the log has another time than it says when it was {what}"
        return None

    def no_earlier(self, report: Report) -> Report:
        """The same report with no time earlier than the log has it."""
        return replace(
            report,
            created_at=later(report.created_at, self.latest.created_at) or report.created_at,
            changed_at=later(report.changed_at, self.latest.changed_at),
            decided_at=later(report.decided_at, self.latest.decided_at),
            receipt_at=later(report.receipt_at, self.latest.receipt_at),
        )


async def recorded(connection: AsyncConnection, report_id: str) -> Recorded:
    """What the log says of a report."""
    return (await of_each(connection, [report_id]))[report_id]


async def of_each(connection: AsyncConnection, report_ids: Collection[str]) -> dict[str, Recorded]:
    """What the log says of each of some reports, by id."""
    rows = await connection.execute(
        select(log.c.seq, log.c.at, log.c.event, log.c.subject, log.c.details)
        .where(log.c.subject.in_(report_ids), log.c.event.in_(_EVENTS))
        .order_by(log.c.seq)
    )
    entries: dict[str, list[Any]] = {report_id: [] for report_id in report_ids}
    for row in rows:
        entries[row.subject].append(row)
    return {report_id: _read(of_one) for report_id, of_one in entries.items()}


def later(one: datetime | None, other: datetime | None) -> datetime | None:
    """The later of two moments, as far as there are any."""
    return max((each for each in (one, other) if each is not None), default=None)


def _read(entries: Sequence[Any]) -> Recorded:
    """What the entries of one report say, oldest first."""
    state: State | None = None
    cause = bank_kind = None
    for entry in entries:
        state = _STATES.get(entry.event, _sealed_as(entry.details) if entry.event in _SEALED else state)
        if entry.event in _SEALED:
            told = said(entry.details)
            cause, bank_kind = told.get("parked"), told.get(sealed.BANK_KIND)
        elif entry.event in _STATES:
            cause = said(entry.details).get("cause")
    if bank_kind is None and any(entry.event == _APPROVED for entry in entries):
        # No other is approved.
        bank_kind = BankKind.CSAM.value
    holds = [entry.event for entry in entries if entry.event in {HELD_EVENT, UNHELD_EVENT}]
    return Recorded(
        state=state,
        on_hold=holds[-1:] == [HELD_EVENT],
        entry=max((entry.seq for entry in entries), default=None),
        cause=cause,
        bank_kind=bank_kind,
        last=_times(entries, last=True),
        latest=_times(entries, last=False),
    )


def _times(entries: Sequence[Any], *, last: bool) -> Times:
    """The times of the entries that were written last of their kind, or the latest times of that kind."""

    def of(events: Collection[str]) -> datetime | None:
        found = [entry.at for entry in entries if entry.event in events]
        return max(found[-1:] if last else found, default=None)

    return Times(of(_SEALED), of(_STATES), of(_DECISIONS), of(_FILED))


def _sealed_as(details: str) -> State | None:
    try:
        return State.PARKED if "parked" in json.loads(details) else State.QUEUED
    except (ValueError, TypeError, RecursionError):
        # No Cordon wrote such an entry.
        return None


def _agree(row: datetime | None, entry: datetime | None) -> bool:
    if row is None or entry is None:
        return row is entry
    return abs(row - entry) <= APART
