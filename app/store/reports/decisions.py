"""What custodians decided, read back: each document held against its signature and the audit log.

The state of a report is a convenience for lists. What may be filed is read from the signed documents and the
audit log, so that whoever can write to the database alone makes nothing approved.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.decision import (
    APPROVALS,
    Action,
    Decision,
    Signed,
    is_held,
    standing,
    verify,
    waiting,
)
from app.custody.roster import Roster
from app.errors import ConflictError, SignatureRequiredError
from app.media import BankKind
from app.store import custodians
from app.store.record import audit
from app.store.reports import filing_log, reports, sealed
from app.store.reports.report_states import State
from app.store.rows import UnreadableRowError, readable
from app.store.schema import decisions

FIRST_APPROVAL_EVENT: Final = "report.first_approval"
"""The first of two approvals: the report stays where it is until the second."""

FIRST_REJECTION_EVENT: Final = "report.first_rejection"
"""The first of two rejections: nothing is taken back until the second."""

FIRST_ORDER_EVENT: Final = "report.first_order_to_destroy"
"""The first of two orders to destroy it: the report stays until the second."""

FIRST_AFRESH_EVENT: Final = "report.first_afresh"
"""The first of two words that it is opened anew: it stays parked until the second."""

FIRST_FILED_EVENT: Final = "report.first_filed"
"""The first of two words that it was filed by hand: it goes on as if nothing were said until the second."""

ANNOTATED_EVENT: Final = "report.annotated"

DESTROYED_EVENT: Final = "report.destroyed"

PURGED_EVENT: Final = "report.purged"

REMOVED_EVENTS: Final = (DESTROYED_EVENT, PURGED_EVENT)

_APPROVED_EVENT: Final = f"report.{State.APPROVED}"

_REJECTED_EVENT: Final = f"report.{State.REJECTED}"

OVER_EVENTS: Final = (
    *(f"report.{State.FILED}", f"report.{State.FILED_MANUALLY}", filing_log.FILED_TOO_EVENT),
    *REMOVED_EVENTS,
)
"""After these nothing is filed, whatever was approved before."""

_HOLD_EVENTS: Final = (reports.HELD_EVENT, reports.UNHELD_EVENT)

_RECORDED_AS: Final[Mapping[str, frozenset[Action]]] = {
    FIRST_APPROVAL_EVENT: frozenset({Action.APPROVE}),
    _APPROVED_EVENT: APPROVALS,
    FIRST_REJECTION_EVENT: frozenset({Action.REJECT}),
    _REJECTED_EVENT: frozenset({Action.REJECT}),
    filing_log.WITHDRAWN_EVENT: frozenset({Action.REJECT}),
    FIRST_AFRESH_EVENT: frozenset({Action.AFRESH}),
    filing_log.AFRESH_EVENT: frozenset({Action.AFRESH}),
    FIRST_FILED_EVENT: frozenset({Action.FILED}),
    f"report.{State.FILED_MANUALLY}": frozenset({Action.FILED}),
    FIRST_ORDER_EVENT: frozenset({Action.DESTROY}),
    DESTROYED_EVENT: frozenset({Action.DESTROY}),
    ANNOTATED_EVENT: frozenset({Action.ANNOTATE}),
    sealed.RESEALED_EVENT: frozenset({Action.RESEAL}),
    reports.HELD_EVENT: frozenset({Action.HOLD}),
    reports.UNHELD_EVENT: frozenset({Action.UNHOLD}),
}
"""Which decisions an entry can name: a note that somebody signed is no word that it may be filed afresh."""

DECISION_EVENTS: Final = tuple(_RECORDED_AS)
"""Entries of these name the decision that somebody signed; those of holds do where anybody did."""

Listed = tuple[tuple[datetime, str, str], ...]
"""When a decision was taken in, its action, and the fingerprint of its signer, for each."""


class NotApprovedError(ConflictError):
    """What stands in the database is no approval by enough of the pinned custodians, or was changed."""


class WithdrawnError(NotApprovedError):
    """A custodian took the approval back, with a good signature, and nobody approved anew."""


@dataclass(frozen=True)
class Approval:
    """What is to be filed.

    Attributes:
        xml_sha256: of the XML, 64 hex digits; compare it after opening.
        xml: the XML, an age file sealed to the filing worker and the custodians.
        signed: the documents of those who approved it.
    """

    xml_sha256: str
    xml: bytes = field(repr=False)
    signed: tuple[Signed, ...] = field(repr=False)


def check_not_held(signed: Sequence[Signed]) -> None:
    """Return only if no hold stands that a custodian signed.

    Raises:
        ConflictError: one does, whatever the report's row and the newest entry say.
    """
    if is_held(signed):
        raise ConflictError("A custodian signed that it is on hold, and none signed that this ended.")


async def every(
    connection: AsyncConnection, report_id: str, roster: Roster, *, seen: audit.Seen = ()
) -> tuple[Signed, ...]:
    """All decisions on a report, oldest first, as the audit log has them.

    Args:
        connection: to read with.
        report_id: the report's.
        roster: the pinned.
        seen: what somebody saw of its entries.

    Raises:
        NotApprovedError: a document is missing, was added, or is not signed by who is pinned or was.
        TakenBackError: the log does not say now what was seen.
    """
    return tuple(signed for _, signed in await _recorded(connection, report_id, roster, seen))


async def _recorded(
    connection: AsyncConnection, report_id: str, roster: Roster, seen: audit.Seen = ()
) -> tuple[tuple[str, Signed], ...]:
    """All decisions as ``every`` gives them, each after the event that it was recorded as."""
    rows = await connection.execute(
        select(decisions.c.id, decisions.c.document).where(decisions.c.report_id == report_id)
    )
    documents = {row.id: row.document for row in rows}
    recorded = await audit.told_of(connection, report_id, DECISION_EVENTS, seen)
    try:
        named = [
            (entry.seq, entry.event, str(told["decision_sha256"]))
            for entry in recorded
            if "decision_sha256" in (told := audit.said(entry.details)) or entry.event not in _HOLD_EVENTS
        ]
    except LookupError:
        # An entry that no Cordon wrote names no decision.
        named = [(0, "", "")]
    if Counter(name for _, _, name in named) != Counter(documents.keys()):
        raise NotApprovedError("The decisions on this report are not those that the audit log recorded.")
    found = []
    for seq, event, name in named:
        try:
            signed = verify(documents[name], roster, of_then_too=True)
        except SignatureRequiredError as error:
            raise NotApprovedError(f"A stored decision does not hold: {error.detail}") from None
        if signed.sha256 != name or signed.decision.report_id != report_id:
            raise NotApprovedError("A stored decision is not the one that the audit log recorded.")
        if signed.decision.action not in _RECORDED_AS[event]:
            raise NotApprovedError("The audit log recorded a stored decision as another than was signed.")
        if not await custodians.counts(connection, roster, signed.signer, seq):
            raise NotApprovedError("A stored decision was signed by somebody who was pinned no more.")
        found.append((event, signed))
    return tuple(found)


async def listed(connection: AsyncConnection, report_id: str) -> Listed:
    """What was decided, oldest first, as the database says it: nothing is checked.

    Raises:
        UnreadableRowError: it says nothing that a Cordon wrote.
    """
    wanted = (
        select(decisions.c.at, decisions.c.action, decisions.c.custodian)
        .where(decisions.c.report_id == report_id)
        .order_by(decisions.c.at)
    )
    with readable():
        rows = (await connection.execute(wanted)).all()
    if not all(isinstance(row.action, str) and isinstance(row.custodian, str) for row in rows):
        raise UnreadableRowError
    return tuple((row.at, row.action, row.custodian) for row in rows)


async def approval(
    connection: AsyncConnection,
    report_id: str,
    roster: Roster,
    *,
    dual_control: bool,
    automatic: bool = False,
    seen: audit.Seen = (),
) -> Approval:
    """What custodians approved for filing and nobody took back; the worker files this and nothing else.

    Args:
        connection: to read with.
        report_id: the report's.
        roster: the pinned.
        dual_control: whether two different custodians must have approved the very same XML.
        automatic: whether the worker's own approval counts too; under dual control it never does.
        seen: what the worker saw of its entries.

    Raises:
        NotFoundError: there is no such report.
        WithdrawnError: a custodian rejected it after it was approved.
        NotApprovedError: too few approve, who did is pinned no more, or the database was changed.
        ConflictError: the same, of a sealed file, or of what was seen of its entries.
    """
    stood = await sealed.stood(connection, report_id, roster)
    recorded = await _recorded(connection, report_id, roster, seen)
    decided = _in_force(recorded)
    approved = standing(decided)
    if await audit.told_of(connection, report_id, OVER_EVENTS, seen):
        raise NotApprovedError("The audit log says that this report was filed, or removed.")
    if (await reports.get(connection, report_id)).bank_kind is not BankKind.CSAM:
        # No other was ever approved: passing it over would leave an approved report unfiled, and unseen.
        raise ConflictError("The report is not of the kind that it was approved as: somebody changed it.")
    if not approved and any(each.decision.action is Action.REJECT for each in decided):
        raise WithdrawnError("A custodian rejected this report.")
    good = [
        each
        for each in approved
        if each.decision.sealed_sha256 in stood
        and (
            (
                automatic
                and not dual_control
                and each.signer in roster.workers_named(each.decision.custodian, now=True)
            )
            if each.decision.action is Action.APPROVE_AUTOMATICALLY
            else each.signer in roster.custodians
        )
    ]
    signers = {each.decision.custodian for each in good}
    if len(signers) < (2 if dual_control else 1):
        raise NotApprovedError("Too few of the pinned custodians approve this report as it stands.")
    newest = good[-1].decision
    if newest.xml is None or newest.xml_sha256 is None:  # never of a verified approval
        raise NotApprovedError("The approval holds no document.")
    return Approval(newest.xml_sha256, newest.xml, tuple(good))


async def afresh(
    connection: AsyncConnection,
    report_id: str,
    roster: Roster,
    *,
    dual_control: bool,
    seen: audit.Seen = (),
) -> frozenset[str]:
    """SHA-256 of each decision by which a report may be opened anew, though somebody tried to finish it.

    Args:
        connection: to read with.
        report_id: the report's.
        roster: the pinned.
        dual_control: whether two different custodians must have signed that.
        seen: what the worker saw of its entries.

    Raises:
        NotApprovedError, TakenBackError: as ``every``.
    """
    found, first = set[str](), set[str]()
    for event, signed in await _recorded(connection, report_id, roster, seen):
        if event == FIRST_AFRESH_EVENT:
            first.add(signed.decision.custodian)
        elif event == filing_log.AFRESH_EVENT:
            if not dual_control or first - {signed.decision.custodian}:
                found.add(signed.sha256)
            first = set()
    return frozenset(found)


def _in_force(recorded: Sequence[tuple[str, Signed]]) -> list[Signed]:
    """Decisions as recorded, without first words that nobody followed: they take back nothing.

    A first approval counts with the second, of the very same XML, and one of another XML overtakes nothing.
    """
    approved = {signed.decision.xml_sha256 for event, signed in recorded if event == _APPROVED_EVENT}
    return [
        signed
        for event, signed in recorded
        if event != FIRST_REJECTION_EVENT
        and (event != FIRST_APPROVAL_EVENT or signed.decision.xml_sha256 in approved)
    ]


async def first_of_two(connection: AsyncConnection, decision: Decision, roster: Roster) -> Signed | None:
    """What another pinned custodian decided first, of the same kind and on the same files; None if none did.

    Args:
        connection: within ``Database.begin``; the report's row is locked.
        decision: to approve, reject, destroy or file afresh, or of filing by hand; not stored yet.
        roster: the pinned.
    """
    if decision.action is Action.AFRESH:
        earlier = await _not_carried_out(connection, decision.report_id, roster)
    else:
        earlier = await _stored(connection, decision.report_id, roster)
    for each in reversed(waiting(earlier, decision.action)):
        first = each.decision
        if (
            first.action is decision.action
            and first.custodian != decision.custodian
            and first.sealed_sha256 == decision.sealed_sha256
            and first.xml_sha256 == decision.xml_sha256
            and each.signer in roster.custodians
        ):
            return each
    return None


async def _stored(connection: AsyncConnection, report_id: str, roster: Roster) -> list[Signed]:
    rows = await connection.execute(
        select(decisions.c.document).where(decisions.c.report_id == report_id).order_by(decisions.c.at)
    )
    return [verify(row.document, roster, of_then_too=True) for row in rows]


async def _not_carried_out(connection: AsyncConnection, report_id: str, roster: Roster) -> list[Signed]:
    """First words that it is filed afresh, since it last was: each parking asks two anew."""
    found: list[Signed] = []
    for event, signed in await _recorded(connection, report_id, roster):
        if event == FIRST_AFRESH_EVENT:
            found.append(signed)
        elif event == filing_log.AFRESH_EVENT:
            found = []
    return found
