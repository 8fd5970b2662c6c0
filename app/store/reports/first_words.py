"""What one custodian decided that a second one has to decide too, for who looks for reports that wait.

It is what the audit log says; nothing is checked. Whether a second word puts the first in force is found when
it is taken in (``app.store.reports.accepting``).
"""

from collections.abc import Collection, Mapping
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.decision import Action
from app.store.reports import decisions, filing_log, sealed
from app.store.reports.report_states import State
from app.store.schema import audit as audit_log

_SAID: Final[Mapping[str, Action]] = {
    decisions.FIRST_APPROVAL_EVENT: Action.APPROVE,
    decisions.FIRST_REJECTION_EVENT: Action.REJECT,
    decisions.FIRST_ORDER_EVENT: Action.DESTROY,
    decisions.FIRST_AFRESH_EVENT: Action.AFRESH,
    decisions.FIRST_FILED_EVENT: Action.FILED,
}
_ALL: Final = frozenset(_SAID.values())
_OVERTAKEN: Final[Mapping[str, frozenset[Action]]] = {
    decisions.FIRST_APPROVAL_EVENT: frozenset({Action.REJECT}),
    decisions.FIRST_REJECTION_EVENT: frozenset({Action.APPROVE}),
    f"report.{State.APPROVED}": frozenset({Action.APPROVE, Action.REJECT}),
    f"report.{State.REJECTED}": frozenset({Action.APPROVE, Action.REJECT}),
    filing_log.WITHDRAWN_EVENT: frozenset({Action.APPROVE, Action.REJECT}),
    filing_log.AFRESH_EVENT: frozenset({Action.AFRESH}),
    f"report.{State.FILED}": _ALL - {Action.DESTROY},
    f"report.{State.FILED_MANUALLY}": _ALL - {Action.DESTROY},
    # The second speaks of the same sealed files as the first.
    sealed.SIGHTED_EVENT: _ALL,
    sealed.RESEALED_EVENT: _ALL,
}
"""What a later entry leaves nobody waiting for."""


async def standing(connection: AsyncConnection, report_ids: Collection[str]) -> dict[str, tuple[Action, ...]]:
    """Of each report on which one custodian said something that a second must say too, by id: what."""
    found: dict[str, dict[Action, None]] = {}
    entries = await connection.execute(
        select(audit_log.c.subject, audit_log.c.event)
        .where(audit_log.c.subject.in_(report_ids), audit_log.c.event.in_({*_SAID, *_OVERTAKEN}))
        .order_by(audit_log.c.seq)
    )
    for entry in entries:
        said = found.setdefault(entry.subject, {})
        for action in _OVERTAKEN.get(entry.event, ()):
            said.pop(action, None)
        if entry.event in _SAID:
            said[_SAID[entry.event]] = None
    return {report_id: tuple(said) for report_id, said in found.items() if said}
