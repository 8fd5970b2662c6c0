"""One turn at a report that is to be filed with the CyberTipline: approved bytes, once, across every crash.

A report is opened (``/submit``), and then filed (``/finish``), which cannot be undone:

1. take the turn at a report that is due, under a lease with a fresh token;
2. open what a custodian signed, and check that these are the bytes;
3. ``/submit``; keep the authority's id before anything else;
4. look at lease, state and approval for the last time, and write down that the next call is about to be made,
   in the log and in the worker's own memory of it;
5. ``/finish``; keep the answer, verbatim, sealed to the custodians.

Until 4 is written, whoever comes next begins with ``/submit`` again: an open report that nobody finishes
expires. From then on ``/finish`` is repeated under the very same id, and only what the authority says counts.
Where a custodian rejects a report that is open, ``/retract`` takes the place of ``/finish``: the authority
takes one of the two, and its answer says which. Nothing is cleaned up on the way out, so that a kill is no
different from any other end.
"""

import hashlib
import logging
import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from app import log
from app.custody import ending
from app.custody.ending import Ending
from app.custody.identity import fingerprint
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.filing import receipts
from app.filing.cybertip.answers import Answer, Call, Meaning, cause, meaning
from app.filing.cybertip.environment import Environment
from app.filing.cybertip.reading import UnreadableError, read
from app.filing.cybertip.reporter import reporter_is_placeholder
from app.filing.cybertip.schema import refusals
from app.filing.desk import Desk, NotPinnedError
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.record.audit import TakenBackError
from app.store.record.checkpoints import AuditBrokenError
from app.store.reports import decisions, endings, filing_log, filings, reports
from app.store.reports.decisions import NotApprovedError, WithdrawnError
from app.store.reports.filings import Step, Transaction, Turn
from app.store.reports.report_states import State

logger = logging.getLogger(__name__)

FIRST_PAUSE: Final = timedelta(seconds=30)
LONGEST_PAUSE: Final = timedelta(hours=1)
"""Pauses double from the first to the longest; then it goes on at that, for as long as it takes."""

OPEN_FOR: Final = timedelta(hours=20)
"""An open report is not finished after this; the authority deletes it after 24 hours."""


_TRIED_OUT: Final = frozenset(each.value for each in Environment if not each.counts)


class Outcome(StrEnum):
    """What came of a turn."""

    FILED = "filed"
    DRY_RUN = "dry_run"
    PARKED = "parked"
    RETRACTED = "retracted"
    """A custodian took the approval back, and what was open at the authority is withdrawn."""
    POSTPONED = "postponed"
    STOPPED = "stopped"
    """The authority refuses Cordon itself: no report can be filed until a person mends that."""
    OVERTAKEN = "overtaken"
    """Somebody else has the turn, or decided otherwise; nothing was done here."""


@dataclass(frozen=True)
class _Document:
    """The XML that custodians signed."""

    xml: bytes
    sha256: str


class _HaltedError(Exception):
    """The turn cannot go on; ``halt`` says what follows, ``cause`` why if a person is needed."""

    def __init__(
        self, halt: Meaning, cause: str, answer: Answer | None = None, *, keep_open: bool = False
    ) -> None:
        super().__init__(cause)
        self.halt = halt
        self.cause = cause
        self.answer = answer or Answer()
        self.keep_open = keep_open


class _IdUnprovenError(_HaltedError):
    """Nothing that the worker signed says that the authority opened this report under the id in its row."""

    def __init__(self) -> None:
        super().__init__(Meaning.PARK, "id_unproven")


class _WithdrawnError(_HaltedError):
    """A custodian took the approval back: what is open at the authority is to be withdrawn there."""


async def file_next(
    desk: Desk, report_id: str | None = None, *, but_for: Collection[str] = ()
) -> Outcome | None:
    """As ``take_next``; what came of it, or None if none is due."""
    taken = await take_next(desk, report_id, but_for=but_for)
    return taken[1] if taken is not None else None


async def take_next(
    desk: Desk, report_id: str | None = None, *, but_for: Collection[str] = ()
) -> tuple[str, Outcome] | None:
    """Take one turn at a report that is due; its id and what came of it, or None if none is due.

    Args:
        desk: what filing needs.
        report_id: this report, and no other; None for whichever is due longest.
        but_for: ids of reports that are passed over.

    Raises:
        UnreadableReportError: the report that is due longest has a row that holds what no Cordon wrote.
        AuditBrokenError: the audit log does not follow on from what was seen of it; nothing is filed by it.
        MemoryUnusableError: what was seen of it cannot be remembered.
        NotPinnedError: the worker is not the pinned one.
        NotReadyError: the database failed, or the file of the pinned is none. The lease runs out by itself.
    """
    await desk.witness.follow(desk.database)
    if not desk.is_pinned(desk.pins.read()):
        raise NotPinnedError
    async with desk.database.begin() as connection:
        turn = await filings.claim(
            connection,
            environment=desk.environment.value,
            now=desk.now(),
            report_id=report_id,
            but_for=but_for,
        )
    if turn is None:
        return None
    try:
        return turn.report_id, await _take(desk, turn)
    except AuditBrokenError:
        raise
    except ConflictError:
        # Somebody changed it since the turn began, which runs out by itself.
        raise filings.UnreadableReportError(turn.report_id) from None


async def _take(desk: Desk, turn: Turn) -> Outcome:
    """Take a turn to its end, and log what came of it."""
    try:
        outcome = await _file(desk, turn)
    except _HaltedError as halted:
        outcome = await _halt(desk, turn, halted)
        _tell(outcome, turn, halted.answer, halted.cause)
        return outcome
    _tell(outcome, turn, Answer(), None)
    return outcome


async def _file(desk: Desk, turn: Turn) -> Outcome:
    opened = turn
    try:
        document = await _document(desk, turn)
        opened = turn = await _from_where_it_stands(desk, turn)
        await _check_opened_here(desk, turn)
        async with desk.database.connect() as connection:
            await _check_never_attempted_otherwise(connection, desk, turn)
        if turn.filing.authority_report_id is None:
            if (ended := await _close_earlier(desk, turn)) is not None:
                return ended
            answer = _expect(Meaning.DONE, Call.SUBMIT, await desk.authority.submit(document.xml))
            filing = replace(turn.filing, authority_report_id=str(answer.report_id))
            kept = await _keep_opened(desk, turn, answer)
            opened = replace(turn, state=State.SUBMITTED, filing=filing)
            if not kept:
                return await _retract_unwanted(desk, opened)
        if not await _attempt_finish(desk, opened, document):
            return Outcome.OVERTAKEN
    except _HaltedError as halted:
        is_open = opened.state is State.SUBMITTED and opened.filing.authority_report_id is not None
        if isinstance(halted, _WithdrawnError) and is_open:
            return await _withdraw(desk, opened)
        unproven = isinstance(halted, _IdUnprovenError)
        if halted.halt is Meaning.PARK and not unproven and _open_and_unfinished(desk, opened):
            return await _withdraw_and_park(desk, opened, halted)
        raise
    authority_report_id = str(opened.filing.authority_report_id)
    answer = _expect(Meaning.FINISHED, Call.FINISH, await desk.authority.finish(authority_report_id))
    return await _keep_finished(desk, turn, authority_report_id, answer)


async def _from_where_it_stands(desk: Desk, turn: Turn) -> Turn:
    """The turn as it may go on: as it stands, or from the beginning where that is safe."""
    filing, now = turn.filing, desk.now()
    elsewhere = filing.environment != desk.environment.value
    if filing.step is Step.RETRACTED:
        return await _afresh(desk, turn, now)
    tried_out = filing.step is Step.FINISHED or elsewhere
    if filing.finish_attempted_at is not None:
        if tried_out and filing.environment in _TRIED_OUT:
            return await _afresh(desk, turn, now)
        if elsewhere or turn.state is not State.SUBMITTED:
            raise _HaltedError(Meaning.PARK, "finish_unknown")
        return turn
    expired = filing.opened_at is not None and abs(now - filing.opened_at) > OPEN_FOR
    # Approved again since it was opened: what is open may be another document.
    superseded = filing.step is Step.OPENED and turn.state is not State.SUBMITTED
    if elsewhere or expired or superseded:
        return await _afresh(desk, turn, now)
    return turn


async def _afresh(desk: Desk, turn: Turn, now: datetime) -> Turn:
    async with desk.database.begin() as connection:
        await filings.begin_afresh(connection, turn, environment=desk.environment.value, now=now)
        filing = await filings.get(connection, turn.report_id)
    if filing is None:
        raise _HaltedError(Meaning.RETRY, "gone")
    return replace(turn, filing=filing)


async def _document(desk: Desk, turn: Turn) -> _Document:
    """What is to be filed, opened and checked: these very bytes, and none that the authority must refuse."""
    async with desk.database.connect() as connection:
        approval = await _approval(connection, desk, turn)
    try:
        xml = desk.identity.decrypt(approval.xml)
    except InvalidRequestError:
        raise _HaltedError(Meaning.PARK, "not_sealed_to_worker") from None
    if hashlib.sha256(xml).hexdigest() != approval.xml_sha256:
        raise _HaltedError(Meaning.PARK, "not_what_was_signed")
    try:
        root = read(xml)
    except UnreadableError:
        raise _HaltedError(Meaning.PARK, "invalid_document") from None
    # What was true when it was signed is so still, even if this clock was set back since.
    now = max(desk.now(), *(signed.decision.decided_at for signed in approval.signed))
    if wrong := refusals(root, now, desk.schema):
        log.event(
            logger, logging.WARNING, "document_refusable", report=turn.report_id, detail="; ".join(wrong)
        )
        raise _HaltedError(Meaning.PARK, "invalid_document")
    if desk.environment is Environment.PRODUCTION and reporter_is_placeholder(root):
        raise _HaltedError(Meaning.PARK, "reporter_placeholder")
    return _Document(xml, approval.xml_sha256)


async def _approval(connection: Transaction, desk: Desk, turn: Turn) -> decisions.Approval:
    try:
        await desk.witness.check(connection, turn.report_id)
        roster = desk.pins.read()
        if not desk.is_pinned(roster):
            # Another key was pinned since the turn began.
            raise _HaltedError(Meaning.RETRY, "worker_not_pinned")
        return await decisions.approval(
            connection,
            turn.report_id,
            roster,
            dual_control=desk.dual_control,
            automatic=desk.automatic,
            seen=desk.witness.seen(turn.report_id),
        )
    except WithdrawnError:
        raise _WithdrawnError(Meaning.PARK, "not_approved") from None
    except NotApprovedError:
        raise _HaltedError(Meaning.PARK, "not_approved") from None
    except ConflictError:
        raise _HaltedError(Meaning.PARK, "tampered") from None
    except NotFoundError:
        # Destroyed by a custodian; there is nothing left to park either.
        raise _HaltedError(Meaning.RETRY, "gone") from None


async def _keep_opened(desk: Desk, turn: Turn, answer: Answer) -> bool:
    """Commit the authority's id; whether the report may go on under it."""

    async def keep(connection: Transaction) -> bool:
        return await filings.opened(
            connection,
            turn,
            str(answer.report_id),
            request_id=answer.request_id,
            now=desk.now(),
            details=details,
            signed=signed,
        )

    details = _details(desk, str(answer.report_id))
    signed = _signed(desk, turn, State.SUBMITTED, details)
    try:
        return await desk.database.write(keep)
    except filings.KnownIdError:
        raise _HaltedError(Meaning.PARK, "authority_known_report_id", answer) from None


async def _attempt_finish(desk: Desk, turn: Turn, document: _Document) -> bool:
    """Commit that ``/finish`` is about to be called; whether it may be."""
    async with desk.database.begin() as connection:
        if not await filings.attempt_finish(connection, turn, now=desk.now()):
            return False
        await _check_still_approved(connection, desk, turn, document)
        await _check_never_attempted_otherwise(connection, desk, turn)
        await filings.record_attempt(connection, turn, _details(desk, str(turn.filing.authority_report_id)))
    await _remember_attempt(desk, turn)
    return True


async def _remember_attempt(desk: Desk, turn: Turn) -> None:
    """Return only if the worker itself remembers that this report is about to be finished, and as what.

    The log is where anybody who can write to the database takes out again what came of it, as a trigger does
    in the very transaction: the report would be due as if nothing had been, and be filed again and again.
    """
    await desk.witness.follow(desk.database)
    where = (desk.environment.value, str(turn.filing.authority_report_id))
    if all(each.at_authority != where for each in desk.witness.attempts(turn.report_id)):
        raise _HaltedError(Meaning.PARK, "tampered")


async def _check_still_approved(connection: Transaction, desk: Desk, turn: Turn, document: _Document) -> None:
    """Return only if this very document is approved still; the report's row is locked."""
    approval = await _approval(connection, desk, turn)
    if approval.xml_sha256 != document.sha256:
        raise _HaltedError(Meaning.PARK, "approval_changed")


async def _check_opened_here(desk: Desk, turn: Turn) -> None:
    """Return only if the authority gave this very report the id in its row, if one stands there.

    Whoever can write to the database could put one there that is finished already: this report would be
    called filed, and never be.
    """
    filing = turn.filing
    if filing.authority_report_id is None:
        return
    async with desk.database.connect() as connection:
        given = await endings.given(connection, turn.report_id, desk.pins.read())
    if (filing.environment, filing.authority_report_id) not in given:
        raise _IdUnprovenError


async def _check_never_attempted_otherwise(connection: Transaction, desk: Desk, turn: Turn) -> None:
    """Return only if neither the log nor what was seen of it knows of an attempt for real by another id."""
    roster, report_id = desk.pins.read(), turn.report_id
    withdrawn = await endings.withdrawn(connection, report_id, roster)
    try:
        afresh = await decisions.afresh(
            *(connection, report_id, roster),
            dual_control=desk.dual_control,
            seen=desk.witness.seen(report_id),
        )
    except NotApprovedError:
        raise _HaltedError(Meaning.PARK, "not_approved") from None
    except TakenBackError:
        raise _HaltedError(Meaning.PARK, "tampered") from None
    stands = await filing_log.attempted(connection, report_id, withdrawn=withdrawn, afresh=afresh)
    seen = filing_log.attempted_as_seen(desk.witness.attempts(report_id), withdrawn=withdrawn, afresh=afresh)
    for environment, authority_report_id in (*stands, *seen):
        if environment not in _TRIED_OUT and authority_report_id != turn.filing.authority_report_id:
            raise _HaltedError(Meaning.PARK, "finish_unknown")


async def _keep_finished(desk: Desk, turn: Turn, authority_report_id: str, answer: Answer) -> Outcome:
    receipt, to_all = await receipts.seal(answer.body, desk.pins, desk.identity)
    state = State.FILED if desk.environment.counts else State.DRY_RUN
    details = _details(desk, authority_report_id)
    details |= _signed(desk, turn, state, details)

    async def keep(connection: Transaction) -> bool:
        filed = await filings.finished(
            connection,
            turn,
            authority_report_id,
            counts=desk.environment.counts,
            receipt=receipt,
            code=answer.code,
            request_id=answer.request_id,
            now=desk.now(),
            details=details,
        )
        # Another worker may have kept its own. The report's row is locked, so that nobody else raises it.
        if not to_all and await reports.receipt(connection, turn.report_id) == receipt:
            await alarms.raise_alarm(connection, AlarmKind.RECEIPT_NOT_SEALED, turn.report_id)
        return filed

    if not await desk.database.write(keep):
        return Outcome.OVERTAKEN
    return Outcome.FILED if desk.environment.counts else Outcome.DRY_RUN


async def _withdraw(desk: Desk, turn: Turn) -> Outcome:
    """Withdraw a report at the authority, as a custodian wanted, unless it is filed already.

    Finishing may have been attempted before, and may be under way: the authority takes either that or this.
    """
    await _check_opened_here(desk, turn)
    filing, authority_report_id = turn.filing, str(turn.filing.authority_report_id)
    attempted = filing.finish_attempted_at is not None
    if filing.environment != desk.environment.value:
        if attempted and filing.environment not in _TRIED_OUT:
            raise _HaltedError(Meaning.PARK, "finish_unknown")
        # What is open in another environment expires there: nobody finishes it.
        return await _keep_retracted(desk, turn, Answer())
    answer = await desk.authority.retract(authority_report_id)
    found = meaning(Call.RETRACT, answer)
    if found is Meaning.FINISHED:
        return await _keep_finished(desk, turn, authority_report_id, answer)
    # What is not known there expired, unless somebody tried to file it.
    if found is Meaning.DONE or (found is Meaning.GONE and not attempted):
        return await _keep_retracted(desk, turn, answer)
    if found in {Meaning.RETRY, Meaning.STOP}:
        raise _HaltedError(found, f"{Call.RETRACT.value}_{found.value}", answer)
    raise _HaltedError(Meaning.PARK, cause(answer), answer, keep_open=True)


async def _close_earlier(desk: Desk, turn: Turn) -> Outcome | None:
    """Withdraw what a custodian signed is filed afresh; what came of it, if the authority has it after all.

    A filer that stood still since before ``/finish`` may send that yet: the authority takes either of them.
    Whatever else it answers, that custodian's word stands.
    """
    async with desk.database.connect() as connection:
        given = await endings.given(connection, turn.report_id, desk.pins.read())
        earlier = await filing_log.attempted_before_afresh(connection, turn.report_id, given=given)
    if earlier is None or earlier[0] != desk.environment.value:
        return None
    answer = await desk.authority.retract(earlier[1])
    found = meaning(Call.RETRACT, answer)
    if found is Meaning.FINISHED:
        return await _keep_finished(desk, turn, earlier[1], answer)
    if found in {Meaning.RETRY, Meaning.STOP}:
        raise _HaltedError(found, f"{Call.RETRACT.value}_{found.value}", answer)
    return None


async def _retract_unwanted(desk: Desk, turn: Turn) -> Outcome:
    """Withdraw what was opened while somebody decided otherwise; it would expire anyway."""
    answer = await desk.authority.retract(str(turn.filing.authority_report_id))
    if meaning(Call.RETRACT, answer) is not Meaning.DONE:
        return Outcome.OVERTAKEN
    return await _keep_retracted(desk, turn, answer)


async def _keep_retracted(desk: Desk, turn: Turn, answer: Answer) -> Outcome:
    where = {
        "environment": turn.filing.environment,
        "authority_report_id": str(turn.filing.authority_report_id),
    }
    details = where | _signed(desk, turn, State.RETRACTED, where)

    async def keep(connection: Transaction) -> bool:
        return await filings.retracted(
            connection, turn, code=answer.code, request_id=answer.request_id, details=details
        )

    return Outcome.RETRACTED if await desk.database.write(keep) else Outcome.OVERTAKEN


async def _withdraw_and_park(desk: Desk, turn: Turn, halted: _HaltedError) -> Outcome:
    """Withdraw at the authority what is open there and must not be finished; it would expire otherwise."""
    authority_report_id = str(turn.filing.authority_report_id)
    try:
        await _check_opened_here(desk, turn)
    except _IdUnprovenError:
        raise halted from None
    answer = await desk.authority.retract(authority_report_id)
    if meaning(Call.RETRACT, answer) is Meaning.FINISHED:
        return await _keep_finished(desk, turn, authority_report_id, answer)
    raise halted


async def _halt(desk: Desk, turn: Turn, halted: _HaltedError) -> Outcome:
    """End a turn that cannot go on."""
    answer = halted.answer
    async with desk.database.begin() as connection:
        if halted.halt is Meaning.PARK:
            kept = await filings.park(
                connection,
                turn,
                cause=halted.cause,
                code=answer.code,
                request_id=answer.request_id,
                keep_open=halted.keep_open,
                details={"environment": desk.environment.value},
            )
            return Outcome.PARKED if kept else Outcome.OVERTAKEN
        until = desk.now() + max(
            pause_after(turn.filing.attempts, random.random()),  # noqa: S311 - spreads load, guards nothing
            timedelta(seconds=answer.retry_after),
        )
        kept = await filings.postpone(
            connection, turn, until=until, code=answer.code, request_id=answer.request_id
        )
    if halted.halt is Meaning.STOP:
        return Outcome.STOPPED
    return Outcome.POSTPONED if kept else Outcome.OVERTAKEN


def pause_after(attempts: int, drawn: float) -> timedelta:
    """How long to wait after so many attempts: doubling up to an hour, and up to a half more at random.

    Args:
        attempts: how many there were, from 1.
        drawn: from 0 to 1.
    """
    doubled: timedelta = FIRST_PAUSE * 2.0 ** min(max(attempts - 1, 0), 16)
    return min(doubled, LONGEST_PAUSE) * (1 + drawn / 2)


def _open_and_unfinished(desk: Desk, turn: Turn) -> bool:
    filing = turn.filing
    return (
        filing.authority_report_id is not None
        and filing.finish_attempted_at is None
        and filing.step is not Step.RETRACTED
        and filing.environment == desk.environment.value
    )


def _expect(wanted: Meaning, call: Call, answer: Answer) -> Answer:
    """The answer, if it means what is wanted."""
    found = meaning(call, answer)
    if found is wanted:
        return answer
    if found in {Meaning.RETRY, Meaning.STOP}:
        raise _HaltedError(found, f"{call.value}_{found.value}", answer)
    raise _HaltedError(Meaning.PARK, cause(answer), answer)


def _details(desk: Desk, authority_report_id: str) -> dict[str, str]:
    """What the audit log says of a step: ids alone."""
    return {"environment": desk.environment.value, "authority_report_id": authority_report_id}


def _signed(desk: Desk, turn: Turn, state: State, details: dict[str, str]) -> dict[str, str]:
    """The worker's signature under what became of a report at the authority, for an audit entry."""
    said = Ending(
        report_id=turn.report_id,
        state=state.value,
        at=desk.now(),
        worker=fingerprint(desk.identity.public_key),
        **details,
    )
    return {endings.MEMBER: ending.sign(said, desk.identity)}


def _tell(outcome: Outcome, turn: Turn, answer: Answer, why: str | None) -> None:
    """Log what came of a turn, never what was sent or answered."""
    troubled = outcome in {Outcome.PARKED, Outcome.POSTPONED, Outcome.STOPPED}
    log.event(
        logger,
        logging.WARNING if troubled else logging.INFO,
        "filing",
        outcome=outcome.value,
        report=turn.report_id,
        cause=why,
        attempts=turn.filing.attempts,
        http_status=answer.status,
        code=answer.code,
        trouble=answer.trouble.value if answer.trouble is not None else None,
        request_id=answer.request_id,
    )
