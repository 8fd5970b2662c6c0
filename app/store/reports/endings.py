"""How a report ended, as far as signatures prove it: nothing else lets time remove it.

Whoever can write to the database can append entries to the audit log that follow on from all before. So an
entry that says how a report ended counts only with what somebody signed of it: the decision of a custodian,
of now or of then, or the worker's own word on what the authority said (``app.custody.ending``). Each counts
once, and a later one takes it back. That none was taken out of the log, the worker's memory shows
(``app.store.record.witness``).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody import ending
from app.custody.decision import APPROVALS, Action, Decision
from app.custody.ending import Ending
from app.custody.roster import Roster
from app.errors import ConflictError, SignatureRequiredError
from app.store import custodians
from app.store.record import audit
from app.store.reports import decisions, filing_log, sealed
from app.store.reports.filing_log import AtAuthority
from app.store.reports.recorded import later
from app.store.reports.report_states import State
from app.store.reports.reports import Report
from app.store.schema import audit as log

MEMBER: Final = "ending"
"""Of the details of an audit entry: the document that the worker signed."""

_BY_CUSTODIANS: Final[Mapping[str, frozenset[Action]]] = {
    f"report.{State.APPROVED}": APPROVALS,
    f"report.{State.REJECTED}": frozenset({Action.REJECT}),
    filing_log.WITHDRAWN_EVENT: frozenset({Action.REJECT}),
    f"report.{State.FILED_MANUALLY}": frozenset({Action.FILED}),
}
_ENDED_BY_CUSTODIANS: Final = {f"report.{state}": state for state in (State.REJECTED, State.FILED_MANUALLY)}
_BY_THE_WORKER: Final = {f"report.{state}": state for state in (State.FILED, State.RETRACTED, State.DRY_RUN)}

DECIDING_EVENTS: Final = frozenset(
    (*decisions.DECISION_EVENTS, *decisions.OVER_EVENTS, *_BY_CUSTODIANS, *_BY_THE_WORKER)
)
"""Entries by which it is told whether a report may be filed, and how it ended."""


class UnprovenError(ConflictError):
    """Nothing that was signed says that a report ended as its row and the audit log have it."""

    def __init__(self, state: State) -> None:
        super().__init__(f"It stands as {state.value}, and nothing that was signed proves that.")


@dataclass(frozen=True)
class Proven:
    """What signatures say of how a report ended.

    Attributes:
        state: in which; None if it has not.
        decided_at: when the newest decision was signed.
        receipt_at: when the authority said that it has it.
    """

    state: State | None = None
    decided_at: datetime | None = None
    receipt_at: datetime | None = None

    def no_earlier(self, report: Report) -> Report:
        """The same report with no time earlier than it was signed."""
        return replace(
            report,
            decided_at=later(report.decided_at, self.decided_at),
            receipt_at=later(report.receipt_at, self.receipt_at),
        )


async def check(
    connection: AsyncConnection, report_id: str, state: State, roster: Roster, *, seen: audit.Seen = ()
) -> Proven:
    """Return only if it is proven that a report ended in a state.

    Args:
        connection: to read with.
        report_id: the report's.
        state: in which.
        roster: the pinned.
        seen: what somebody saw of its entries.

    Raises:
        NotFoundError: there is no such report.
        UnprovenError: it is not.
        TakenBackError: the log does not say now what was seen.
        ConflictError: its sealed files or the decisions on it are not those that the log recorded.
    """
    proven = await _proven(connection, report_id, roster, seen)
    if proven.state is not state:
        raise UnprovenError(state)
    return proven


async def given(connection: AsyncConnection, report_id: str, roster: Roster) -> frozenset[AtAuthority]:
    """Where the authority opened a report, and under which ids, as the worker signed it.

    No other id is finished or withdrawn for it: one that belongs to another report, or to nobody's, would be
    filed already, and this one would count as that.
    """
    return await _signed_for(connection, report_id, roster, filing_log.GIVEN_ID_EVENT, State.SUBMITTED)


async def withdrawn(connection: AsyncConnection, report_id: str, roster: Roster) -> frozenset[AtAuthority]:
    """Under which ids the authority withdrew a report, or let it expire, as the worker signed it."""
    return await _signed_for(connection, report_id, roster, f"report.{State.RETRACTED}", State.RETRACTED)


async def filed(connection: AsyncConnection, report_id: str, roster: Roster) -> frozenset[AtAuthority]:
    """Where the authority took a report for good, and under which ids, as the worker signed it."""
    return await _signed_for(connection, report_id, roster, f"report.{State.FILED}", State.FILED)


async def named(connection: AsyncConnection, report_id: str, roster: Roster) -> frozenset[AtAuthority]:
    """Where the authority knew a report, and under which ids, as far as the worker signed anything of it."""
    found = set(await given(connection, report_id, roster))
    for event, state in _BY_THE_WORKER.items():
        found |= await _signed_for(connection, report_id, roster, event, state)
    return frozenset(found)


async def _signed_for(
    connection: AsyncConnection, report_id: str, roster: Roster, event: str, state: State
) -> frozenset[AtAuthority]:
    """Under which ids a report came to a state, as far as entries of an event are signed."""
    entries = await connection.execute(
        select(log.c.seq, log.c.details).where(log.c.subject == report_id, log.c.event == event)
    )
    found = set[AtAuthority]()
    for entry in entries:
        try:
            said, signer = ending.verify(json.loads(entry.details)[MEMBER], roster)
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError, SignatureRequiredError):
            # No Cordon wrote such an entry, or an earlier one, which signed none.
            continue
        about_it = said.report_id == report_id and said.state == state.value
        if about_it and await custodians.counts(connection, roster, signer, entry.seq):
            found.add((said.environment, said.authority_report_id))
    return frozenset(found)


async def _proven(connection: AsyncConnection, report_id: str, roster: Roster, seen: audit.Seen) -> Proven:
    stood = await sealed.stood(connection, report_id, roster)
    # Each of them is named by exactly one entry of the log.
    signed = {
        each.sha256: each.decision
        for each in await decisions.every(connection, report_id, roster, seen=seen)
        if each.decision.sealed_sha256 in stood
    }
    entries = await audit.told_of(connection, report_id, [*_BY_CUSTODIANS, *_BY_THE_WORKER], seen)
    proven, counted = Proven(), set[str]()
    for entry in entries:
        try:
            told = json.loads(entry.details)
            if entry.event in _BY_CUSTODIANS:
                proven = _decided(entry.event, signed[told["decision_sha256"]])
            elif (document := told[MEMBER]) in counted:
                proven = Proven()
            else:
                counted.add(document)
                said, signer = ending.verify(document, roster)
                stands = said.report_id == report_id and await custodians.counts(
                    connection, roster, signer, entry.seq
                )
                proven = _ended(proven, entry.event, said) if stands else Proven()
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError, SignatureRequiredError):
            # No Cordon wrote such an entry: what it says is not proven, nor what it came after.
            proven = Proven()
    return proven


def _decided(event: str, decision: Decision) -> Proven:
    if decision.action not in _BY_CUSTODIANS[event]:
        return Proven()
    return Proven(_ENDED_BY_CUSTODIANS.get(event), decision.decided_at)


def _ended(before: Proven, event: str, said: Ending) -> Proven:
    state = _BY_THE_WORKER[event]
    if said.state != state.value:
        return Proven()
    return Proven(state, before.decided_at, said.at if state is State.FILED else None)
