"""What custodians decide, taken in as they signed it, if the report is as they saw it.

``decisions`` reads it back, checked.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.decision import APPROVALS, HOLDS, Action, Decision, Signed, is_held, sign, verify
from app.custody.identity import Identity
from app.custody.roster import Roster
from app.errors import ConflictError, SignatureRequiredError
from app.media import BankKind
from app.store.banks import bank_entries, entry_marks
from app.store.record import audit
from app.store.reports import decisions, filing_log, filing_orders, reports, sealed
from app.store.reports.report_states import TRANSITIONS, State
from app.store.reports.reports import Report
from app.store.schema import decisions as decision_table
from app.store.schema import entries

CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""How far ahead of the database's clock a custodian's may be."""


async def take(
    connection: AsyncConnection,
    untrusted: bytes,
    roster: Roster,
    *,
    report_id: str,
    actions: Collection[Action],
    dual_control: bool = False,
    by: str,
) -> Report:
    """Take in a decision to approve, reject, annotate, hold or file afresh, or of filing by hand.

    Args:
        connection: within ``Database.begin``.
        untrusted: the signed document.
        roster: the pinned.
        report_id: the report that is meant.
        actions: what is expected of ``approve``, ``reject``, ``annotate``, ``hold``, ``unhold``, ``afresh``
            and ``filed``.
        dual_control: whether two different custodians must approve the very same XML, reject the report, say
            that it was filed by hand, or have it filed afresh. What the first of them decides leaves it where
            it is.
        by: id of the key that hands it in, or ``cli``.

    Raises:
        SignatureRequiredError: it is no decision that a pinned custodian signed, or another one is expected.
        NotFoundError: there is no such report.
        ConflictError: the report is not as its signer saw it, was decided since, or cannot go there.
    """
    signed = verify(untrusted, roster)
    decision = signed.decision
    if decision.action not in actions or decision.report_id != report_id:
        raise SignatureRequiredError("The decision is not one of this report, or not of this kind.")
    report = await check_stands(connection, signed, roster)
    first = await decisions.first_of_two(connection, decision, roster) if dual_control else signed
    if decision.action is Action.REJECT and first is not None:
        # What both of them named.
        for entry_id in sorted({*decision.disabled_entries} & {*first.decision.disabled_entries}):
            await _disable(connection, entry_id, report_id=report_id, by=by)
    await record(connection, signed)
    details, is_first = told_of(signed, by), first is None
    if decision.action is Action.ANNOTATE:
        await audit.append(connection, decisions.ANNOTATED_EVENT, report_id, details)
    elif decision.action in HOLDS:
        on_hold = decision.action is Action.HOLD
        await reports.set_hold(connection, report_id, on_hold=on_hold, by=by, signed=details)
    elif decision.action is Action.REJECT:
        await _reject(connection, report, details, is_first=is_first)
    elif decision.action is Action.AFRESH:
        await _file_afresh(connection, report_id, details, is_first=is_first)
    elif decision.action is Action.FILED:
        await _filed_by_hand(connection, report, details, is_first=is_first)
    elif is_first:
        _check_can_become(report, State.APPROVED)
        await audit.append(connection, decisions.FIRST_APPROVAL_EVENT, report_id, details)
    else:
        await reports.move(connection, report_id, to=State.APPROVED, details=details)
    return await reports.get(connection, report_id)


async def set_hold(
    connection: AsyncConnection, report_id: str, roster: Roster, *, on_hold: bool, by: str
) -> Report:
    """Hold a report without a signature, or end such a hold; as in ``reports.set_hold``.

    Raises:
        NotFoundError: there is none of this id.
        SignatureRequiredError: a custodian signed the hold, so one must sign its end.
        ConflictError: the database was changed.
    """
    await reports.lock(connection, report_id)
    if not on_hold and is_held(await decisions.every(connection, report_id, roster)):
        raise SignatureRequiredError(
            "A custodian signed this hold: it ends with a custodian's signature, 'cordon report unhold "
            "--identity FILE'."
        )
    return await reports.set_hold(connection, report_id, on_hold=on_hold, by=by)


async def approve_automatically(
    connection: AsyncConnection, decision: Decision, identity: Identity, roster: Roster, *, by: str
) -> Report:
    """Take in the worker's own approval of a report that no person touched yet, signed here.

    Args:
        connection: within ``Database.begin``.
        decision: to ``approve_automatically``.
        identity: the worker's.
        roster: the pinned.
        by: as in ``take``.

    Raises:
        SignatureRequiredError: the identity is not the pinned worker's.
        NotFoundError: there is no such report.
        ConflictError: it changed since, is on hold, a custodian decided on it, or it is not queued.
    """
    signed = verify(sign(decision, identity), roster)
    if decision.action is not Action.APPROVE_AUTOMATICALLY:
        raise SignatureRequiredError("The worker signs no decision but its own.")
    report = await check_stands(connection, signed, roster)
    if report.on_hold or await decisions.every(connection, decision.report_id, roster):
        raise ConflictError("A person has this report in hand.")
    await record(connection, signed)
    details = told_of(signed, by)
    return await reports.move(
        connection, report.id, to=State.APPROVED, expect={State.QUEUED}, details=details
    )


async def check_stands(connection: AsyncConnection, signed: Signed, roster: Roster) -> Report:
    """Return only if a verified decision is about its report as it stands; its row is locked then.

    Raises:
        NotFoundError: there is no such report.
        ConflictError: the report changed since, or the decision is older than another or from the future.
    """
    decision = signed.decision
    await reports.lock(connection, decision.report_id)
    report = await reports.get(connection, decision.report_id)
    found = await sealed.authentic(connection, decision.report_id, roster)
    if tuple(sealed.digests(found).values()) != decision.sealed_sha256:
        raise ConflictError(
            "The report is not as you saw it: it was seen again, or sealed anew. Open it again."
        )
    if decision.action in APPROVALS and report.bank_kind is not BankKind.CSAM:
        raise ConflictError(
            f"Only reports of csam banks can be filed, and this is one of kind '{report.bank_kind.value}'. "
            "'cordon report export' writes it for others."
        )
    if decision.action is Action.FILED and report.bank_kind is BankKind.TEST:
        raise ConflictError("A report of a test bank is never filed.")
    earlier = await decisions.every(connection, decision.report_id, roster)
    if any(other.decision.decided_at >= decision.decided_at for other in earlier):
        raise ConflictError("This decision was taken in already, or a later one was.")
    if decision.decided_at > datetime.now(UTC) + CLOCKS_DIFFER:
        raise ConflictError("This decision is from the future: set the clock where it is signed.")
    return report


async def record(connection: AsyncConnection, signed: Signed) -> None:
    """Store the document; whoever calls it appends the audit entry that names its ``sha256``."""
    await connection.execute(
        insert(decision_table).values(
            id=signed.sha256,
            report_id=signed.decision.report_id,
            at=datetime.now(UTC),
            action=signed.decision.action.value,
            custodian=signed.decision.custodian,
            document=signed.document,
        )
    )


async def _reject(
    connection: AsyncConnection, report: Report, details: audit.Details, *, is_first: bool
) -> None:
    """Reject a report, or have it withdrawn where it is open; or note the first of the two words for that."""
    if is_first:
        if report.state is not State.SUBMITTED:
            _check_can_become(report, State.REJECTED)
        await audit.append(connection, decisions.FIRST_REJECTION_EVENT, report.id, details)
    elif await filing_orders.withdraw(connection, report.id, now=datetime.now(UTC)):
        await reports.decided(connection, report.id)
        await audit.append(connection, filing_log.WITHDRAWN_EVENT, report.id, details)
    else:
        await reports.move(connection, report.id, to=State.REJECTED, details=details)


async def _filed_by_hand(
    connection: AsyncConnection, report: Report, details: audit.Details, *, is_first: bool
) -> None:
    """End a report that was filed by hand, or note the first of the two words for that."""
    if is_first:
        _check_can_become(report, State.FILED_MANUALLY)
        await audit.append(connection, decisions.FIRST_FILED_EVENT, report.id, details)
    else:
        await reports.move(connection, report.id, to=State.FILED_MANUALLY, details=details)


async def _file_afresh(
    connection: AsyncConnection, report_id: str, details: audit.Details, *, is_first: bool
) -> None:
    """Let a report be opened anew, or note the first of the two words that this takes."""
    if is_first:
        await filing_orders.check_may_begin_anew(connection, report_id)
        await audit.append(connection, decisions.FIRST_AFRESH_EVENT, report_id, details)
        return
    await reports.decided(connection, report_id)
    await audit.append(connection, filing_log.AFRESH_EVENT, report_id, details)
    await filing_orders.begin_anew(connection, report_id, now=datetime.now(UTC))


def _check_can_become(report: Report, state: State) -> None:
    if state not in TRANSITIONS[report.state]:
        raise ConflictError(
            f"The report is {report.state.value}, and cannot become {state.value} from there."
        )


async def _disable(connection: AsyncConnection, entry_id: int, *, report_id: str, by: str) -> None:
    """Take an entry of a bank out of force; one that is gone already is no error."""
    there = await connection.execute(
        select(entries.c.id).where(
            entries.c.id == entry_id, entries.c.removed_generation.is_(None), bank_entries.visible()
        )
    )
    if there.first() is not None:
        why = f"a custodian rejected report {report_id}"
        await entry_marks.disable(connection, entry_id, why=why, by=by)


def told_of(signed: Signed, by: str) -> dict[str, Any]:
    """What the audit entry says of a decision: digests of sealed files, and who signed."""
    decision = signed.decision
    told: dict[str, Any] = {
        "decision_sha256": signed.sha256,
        "sealed_sha256": list(decision.sealed_sha256),
        "by": by,
    }
    if decision.action is Action.APPROVE_AUTOMATICALLY:
        told |= {sealed.WORKER: decision.custodian, "automatic": "yes"}
    else:
        told["custodian"] = decision.custodian
    if decision.disabled_entries:
        told["disabled_entries"] = [str(each) for each in decision.disabled_entries]
    return told
