"""What custodians decided: taken in as they signed it, on the report as they saw it, and read back checked.

The state of a report is a convenience for lists. What may be filed is read from the signed documents and the
audit log, so that whoever can write to the database alone makes nothing approved.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.decision import APPROVALS, HOLDS, Action, Decision, Signed, sign, verify
from app.custody.identity import Identity, encrypt, fingerprint
from app.custody.roster import Roster
from app.errors import ConflictError, SignatureRequiredError
from app.media import BankKind
from app.store import audit, bank_entries, custodians, entry_marks, filings, reports, sealed
from app.store.database import Database
from app.store.report_states import TRANSITIONS, State
from app.store.reports import Report
from app.store.rows import UnreadableRowError, readable
from app.store.schema import audit as audit_log
from app.store.schema import decisions, entries

RESEALINGS: Final = 3
"""How often a report is sealed anew at most: again if it was seen, or decided on, meanwhile."""

CLOCKS_DIFFER: Final = timedelta(minutes=5)
"""How far ahead of the database's clock a custodian's may be."""

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
_OVER_EVENTS: Final = (
    *(f"report.{State.FILED}", f"report.{State.FILED_MANUALLY}", filings.FILED_TOO_EVENT),
    *REMOVED_EVENTS,
)
"""After these nothing is filed, whatever was approved before."""
_HOLD_EVENTS: Final = (reports.HELD_EVENT, reports.UNHELD_EVENT)
DECISION_EVENTS: Final = (
    *(FIRST_APPROVAL_EVENT, FIRST_REJECTION_EVENT, FIRST_ORDER_EVENT, DESTROYED_EVENT),
    *(ANNOTATED_EVENT, sealed.RESEALED_EVENT, filings.WITHDRAWN_EVENT, filings.AFRESH_EVENT),
    *(_APPROVED_EVENT, _REJECTED_EVENT, f"report.{State.FILED_MANUALLY}", FIRST_AFRESH_EVENT),
    *(FIRST_FILED_EVENT, *_HOLD_EVENTS),
)
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
    first = await first_of_two(connection, decision, roster) if dual_control else signed
    if decision.action is Action.REJECT and first is not None:
        # What both of them named.
        for entry_id in sorted({*decision.disabled_entries} & {*first.decision.disabled_entries}):
            await _disable(connection, entry_id, report_id=report_id, by=by)
    await record(connection, signed)
    details, is_first = _told(signed, by), first is None
    if decision.action is Action.ANNOTATE:
        await audit.append(connection, ANNOTATED_EVENT, report_id, details)
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
        await audit.append(connection, FIRST_APPROVAL_EVENT, report_id, details)
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
    if not on_hold and is_held(await every(connection, report_id, roster)):
        raise SignatureRequiredError(
            "A custodian signed this hold: it ends with a custodian's signature, 'cordon report unhold "
            "--identity FILE'."
        )
    return await reports.set_hold(connection, report_id, on_hold=on_hold, by=by)


def is_held(signed: Sequence[Signed]) -> bool:
    """Whether a custodian signed that a report is on hold, and none signed since that it is not."""
    newest = next((each for each in reversed(signed) if each.decision.action in HOLDS), None)
    return newest is not None and newest.decision.action is Action.HOLD


def check_not_held(signed: Sequence[Signed]) -> None:
    """Return only if no hold stands that a custodian signed.

    Raises:
        ConflictError: one does, whatever the report's row and the newest entry say.
    """
    if is_held(signed):
        raise ConflictError("A custodian signed that it is on hold, and none signed that this ended.")


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
    if report.on_hold or await every(connection, decision.report_id, roster):
        raise ConflictError("A person has this report in hand.")
    await record(connection, signed)
    details = _told(signed, by)
    return await reports.move(
        connection, report.id, to=State.APPROVED, expect={State.QUEUED}, details=details
    )


async def reseal(database: Database, report_id: str, identity: Identity, roster: Roster, *, by: str) -> bool:
    """Seal a report's files anew to the pinned custodians, signed by one of them; whether that was needed.

    Args:
        database: where it is.
        report_id: the report's.
        identity: a pinned custodian's, which opens all of the files.
        roster: the pinned.
        by: as in ``take``.

    Raises:
        NotFoundError: there is no such report.
        InvalidRequestError: the identity does not open it.
        SignatureRequiredError: the identity is no pinned custodian's.
        ConflictError: the database was changed, or the report was seen again each time.
        NotReadyError: the program of a custodian's plugin is missing, or did not seal.
    """
    for left in reversed(range(RESEALINGS)):
        async with database.connect() as connection:
            report = await reports.get(connection, report_id)
            later = await reports.list_sightings(connection, report_id)
            if {report.custodians, *(each.custodians for each in later)} == {roster.fingerprints}:
                return False
            found = await sealed.authentic(connection, report_id, roster)
        # Not in the transaction: a plugin may wait for a person, and a gate would wait with it.
        document, resealed = sealed_anew(report_id, found, identity, roster)
        try:
            async with database.begin() as connection:
                await take_resealed(connection, document, resealed, roster, report_id=report_id, by=by)
        except ConflictError:
            # Seen again meanwhile, or decided on: what was sealed is not all of it.
            if not left:
                raise
        else:
            break
    return True


def sealed_anew(
    report_id: str, found: sealed.Files, identity: Identity, roster: Roster
) -> tuple[bytes, sealed.Files]:
    """A report's files sealed anew to the pinned custodians, after the signed document that says so.

    Raises:
        InvalidRequestError: the identity does not open them, or does not sign.
    """
    opened = {name: identity.decrypt(file) for name, file in found.items()}
    resealed = {name: encrypt(document, roster.public_keys) for name, document in opened.items()}
    decision = Decision(
        action=Action.RESEAL,
        report_id=report_id,
        sealed_sha256=tuple(sealed.digests(found).values()),
        decided_at=datetime.now(UTC),
        custodian=fingerprint(identity.public_key),
        resealed_sha256=tuple(sealed.digests(resealed).values()),
    )
    return sign(decision, identity), resealed


async def take_resealed(
    connection: AsyncConnection,
    untrusted: bytes,
    files: Mapping[str, bytes],
    roster: Roster,
    *,
    report_id: str,
    by: str,
) -> Report:
    """Put the files that a custodian sealed anew in the place of a report's.

    What they hold, and to whom they are sealed, only a custodian can see: the signature stands for it.

    Args:
        connection: within ``Database.begin``.
        untrusted: the signed document.
        files: sealed files by id, each of the report's.
        roster: the pinned, whom they are said to be sealed to.
        report_id: the report's.
        by: as in ``take``.

    Raises:
        NotFoundError: there is no such report.
        SignatureRequiredError: no pinned custodian signed it, or it is not about these files.
        ConflictError: the report is not as its signer saw it.
    """
    signed = verify(untrusted, roster)
    decision = signed.decision
    if decision.action is not Action.RESEAL or decision.report_id != report_id:
        raise SignatureRequiredError("The decision is not one to seal this report anew.")
    await check_stands(connection, signed, roster)
    there = await sealed.files(connection, report_id)
    resealed = {name: files[name] for name in there if name in files}
    if (
        resealed.keys() != there.keys()
        or len(files) != len(there)
        or tuple(sealed.digests(resealed).values()) != decision.resealed_sha256
    ):
        raise SignatureRequiredError("The files are not those that the decision names.")
    await record(connection, signed)
    fingerprints = list(roster.fingerprints)
    await sealed.replace(connection, report_id, resealed, fingerprints)
    told = _told(signed, by) | {
        "sealed_sha256": list(decision.resealed_sha256),
        "custodians": fingerprints,
    }
    await audit.append(connection, sealed.RESEALED_EVENT, report_id, told)
    return await reports.get(connection, report_id)


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
    earlier = await every(connection, decision.report_id, roster)
    if any(other.decision.decided_at >= decision.decided_at for other in earlier):
        raise ConflictError("This decision was taken in already, or a later one was.")
    if decision.decided_at > datetime.now(UTC) + CLOCKS_DIFFER:
        raise ConflictError("This decision is from the future: set the clock where it is signed.")
    return report


async def record(connection: AsyncConnection, signed: Signed) -> None:
    """Store the document; whoever calls it appends the audit entry that names its ``sha256``."""
    await connection.execute(
        insert(decisions).values(
            id=signed.sha256,
            report_id=signed.decision.report_id,
            at=datetime.now(UTC),
            action=signed.decision.action.value,
            custodian=signed.decision.custodian,
            document=signed.document,
        )
    )


async def every(connection: AsyncConnection, report_id: str, roster: Roster) -> tuple[Signed, ...]:
    """All decisions on a report, oldest first, as the audit log has them.

    Raises:
        NotApprovedError: a document is missing, was added, or is not signed by who is pinned or was.
    """
    return tuple(signed for _, signed in await _recorded(connection, report_id, roster))


async def _recorded(
    connection: AsyncConnection, report_id: str, roster: Roster
) -> tuple[tuple[str, Signed], ...]:
    """All decisions as ``every`` gives them, each after the event that it was recorded as."""
    rows = await connection.execute(
        select(decisions.c.id, decisions.c.document).where(decisions.c.report_id == report_id)
    )
    documents = {row.id: row.document for row in rows}
    recorded = await connection.execute(
        select(audit_log.c.seq, audit_log.c.event, audit_log.c.details)
        .where(audit_log.c.subject == report_id, audit_log.c.event.in_(DECISION_EVENTS))
        .order_by(audit_log.c.seq)
    )
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
) -> Approval:
    """What custodians approved for filing and nobody took back; the worker files this and nothing else.

    Args:
        connection: to read with.
        report_id: the report's.
        roster: the pinned.
        dual_control: whether two different custodians must have approved the very same XML.
        automatic: whether the worker's own approval counts too; under dual control it never does.

    Raises:
        NotFoundError: there is no such report.
        WithdrawnError: a custodian rejected it after it was approved.
        NotApprovedError: too few approve, who did is pinned no more, or the database was changed.
        ConflictError: the same, of a sealed file.
    """
    stood = await sealed.stood(connection, report_id, roster)
    recorded = await _recorded(connection, report_id, roster)
    decided = _in_force(recorded)
    approved = standing(decided)
    over = await connection.execute(
        select(audit_log.c.seq).where(audit_log.c.subject == report_id, audit_log.c.event.in_(_OVER_EVENTS))
    )
    if over.first() is not None:
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


def standing(signed: Sequence[Signed]) -> list[Signed]:
    """The approvals of one and the same XML that no later decision took back."""
    found: list[Signed] = []
    for each in signed:
        decision = each.decision
        if decision.action is Action.REJECT:
            found = []
        elif decision.action in APPROVALS:
            same = found and found[-1].decision.xml_sha256 == decision.xml_sha256
            found = [*found, each] if same else [each]
    return found


def waiting(signed: Sequence[Signed], action: Action) -> list[Signed]:
    """The decisions of a kind that a second one of it, by another custodian, would put in force.

    An approval is overtaken by a rejection, and a rejection by an approval; an order to destroy, and that it
    was filed by hand, by nothing.
    """
    if action is Action.APPROVE:
        return standing(signed)
    found: list[Signed] = []
    for each in signed:
        if each.decision.action is action:
            found.append(each)
        elif action is Action.REJECT and each.decision.action in APPROVALS:
            found = []
    return found


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
        elif event == filings.AFRESH_EVENT:
            found = []
    return found


async def _reject(
    connection: AsyncConnection, report: Report, details: audit.Details, *, is_first: bool
) -> None:
    """Reject a report, or have it withdrawn where it is open; or note the first of the two words for that."""
    if is_first:
        if report.state is not State.SUBMITTED:
            _check_can_become(report, State.REJECTED)
        await audit.append(connection, FIRST_REJECTION_EVENT, report.id, details)
    elif await filings.withdraw(connection, report.id, now=datetime.now(UTC)):
        await reports.decided(connection, report.id)
        await audit.append(connection, filings.WITHDRAWN_EVENT, report.id, details)
    else:
        await reports.move(connection, report.id, to=State.REJECTED, details=details)


async def _filed_by_hand(
    connection: AsyncConnection, report: Report, details: audit.Details, *, is_first: bool
) -> None:
    """End a report that was filed by hand, or note the first of the two words for that."""
    if is_first:
        _check_can_become(report, State.FILED_MANUALLY)
        await audit.append(connection, FIRST_FILED_EVENT, report.id, details)
    else:
        await reports.move(connection, report.id, to=State.FILED_MANUALLY, details=details)


async def _file_afresh(
    connection: AsyncConnection, report_id: str, details: audit.Details, *, is_first: bool
) -> None:
    """Let a report be opened anew, or note the first of the two words that this takes."""
    if is_first:
        await filings.check_may_begin_anew(connection, report_id)
        await audit.append(connection, FIRST_AFRESH_EVENT, report_id, details)
        return
    await reports.decided(connection, report_id)
    await audit.append(connection, filings.AFRESH_EVENT, report_id, details)
    await filings.begin_anew(connection, report_id, now=datetime.now(UTC))


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


def _told(signed: Signed, by: str) -> dict[str, Any]:
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
