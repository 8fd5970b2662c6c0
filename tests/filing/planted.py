"""Bugs that a filer could have, planted one at a time: what the torture must call out.

Each takes a promise of ``app.filing.turn`` or ``app.store.reports.filings`` out, as a hurried change might;
nothing of them is ever in ``app``. Where one promise is kept in two places, a bug takes it out of both.
"""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import and_, or_, update

from app.filing import turn as filing_turn
from app.filing.cybertip import answers
from app.filing.cybertip.answers import Answer, Call, Meaning
from app.filing.cybertip.client import CyberTipline
from app.filing.desk import Desk
from app.filing.turn import Outcome
from app.store.reports import decisions, filings
from app.store.reports.filings import Step, Turn
from app.store.schema import filings as table

Patch = pytest.MonkeyPatch
Plant = Callable[[Patch], None]


def no_look_at_the_log(patch: Patch) -> None:
    """What the log tells of an attempt under another id is not asked for."""

    async def nothing(*_: Any) -> None:
        return None

    patch.setattr(filing_turn, "_check_never_attempted_otherwise", nothing)


def no_fence(patch: Patch) -> None:
    """Whoever had the turn once changes the filing, whosever turn it is by now."""

    async def change(connection: Any, turn: Turn, *, valid_at: object = None, **values: object) -> bool:
        del valid_at
        wanted = update(table).where(table.c.report_id == turn.report_id).values(**values)
        return bool((await connection.execute(wanted)).rowcount)

    patch.setattr(filings, "_change", change)


def one_token_for_all(patch: Patch) -> None:
    """Two workers have the same token."""
    patch.setattr("app.store.reports.filings.secrets.token_bytes", bytes)


def turn_not_looked_at_before_finish(patch: Patch) -> None:
    """The lease is not looked at right before the call that cannot be undone, and nothing else is either."""

    async def attempt(connection: Any, turn: Turn, *, now: Any) -> bool:
        values = {"step": Step.FINISHING.value, "finish_attempted_at": now}
        await connection.execute(update(table).where(table.c.report_id == turn.report_id).values(**values))
        return True

    patch.setattr(filings, "attempt_finish", attempt)
    no_look_at_the_log(patch)


def id_kept_after_finish(patch: Patch) -> None:
    """The authority's id is committed with its last word, and not before anything else."""
    keep_opened, keep_finished = filing_turn._keep_opened, filing_turn._keep_finished
    opened: dict[bytes, Answer] = {}

    async def later(_desk: Desk, turn: Turn, answer: Answer) -> bool:
        opened[turn.token] = answer
        return True

    async def at_once(*_: Any) -> bool:
        return True

    async def both(desk: Desk, turn: Turn, authority_report_id: str, answer: Answer) -> Outcome:
        if turn.token in opened:
            await keep_opened(desk, turn, opened.pop(turn.token))
        return await keep_finished(desk, turn, authority_report_id, answer)

    patch.setattr(filing_turn, "_keep_opened", later)
    patch.setattr(filing_turn, "_attempt_finish", at_once)
    patch.setattr(filing_turn, "_keep_finished", both)


def submits_again_after_an_attempt(patch: Patch) -> None:
    """Whatever was not kept as finished begins with /submit again."""

    async def from_the_beginning(desk: Desk, turn: Turn) -> Turn:
        if turn.filing.step is Step.FINISHED:
            return turn
        return await filing_turn._afresh(desk, turn, desk.now())

    patch.setattr(filing_turn, "_from_where_it_stands", from_the_beginning)
    no_look_at_the_log(patch)


def attempt_not_written_down(patch: Patch) -> None:
    """That /finish is about to be called is kept nowhere: after a crash, nobody knows."""

    async def attempt(connection: Any, turn: Turn, *, now: Any) -> bool:
        wanted = (table.c.report_id == turn.report_id) & (table.c.lease == turn.token)
        leased = await connection.execute(
            update(table).where(wanted, table.c.leased_until > now).values(step=Step.OPENED.value)
        )
        return bool(leased.rowcount)

    async def nothing(*_: Any) -> None:
        return None

    patch.setattr(filings, "attempt_finish", attempt)
    patch.setattr(filings, "record_attempt", nothing)
    patch.setattr(filing_turn, "_remember_attempt", nothing)


def retracted_is_tried_again(patch: Patch) -> None:
    """5101 after /finish is asked again, as if it would pass."""
    patch.setitem(answers.OF_CALL[Call.FINISH], 5101, Meaning.RETRY)


def vanished_begins_anew(patch: Patch) -> None:
    """5001 after /finish is taken for a report that expired, which may begin anew."""
    _begins_anew_after(patch, lambda answer: answer.code == 5001)


def unknown_begins_anew(patch: Patch) -> None:
    """A code that nobody knows is taken for a report that must begin anew."""
    _begins_anew_after(patch, lambda answer: answer.code is not None and answer.code not in answers.CODES)


def _begins_anew_after(patch: Patch, wanted: Callable[[Answer], bool]) -> None:
    halt = filing_turn._halt

    async def begin_anew(desk: Desk, turn: Turn, halted: Any) -> Outcome:
        if halted.halt is Meaning.PARK and wanted(halted.answer):
            async with desk.database.begin() as connection:
                await filings.begin_afresh(
                    connection, turn, environment=desk.environment.value, now=desk.now()
                )
                await filings.postpone(connection, turn, until=desk.now())
            return Outcome.POSTPONED
        return await halt(desk, turn, halted)

    patch.setattr(filing_turn, "_halt", begin_anew)
    no_look_at_the_log(patch)


def approval_not_looked_at_before_finish(patch: Patch) -> None:
    """What a custodian took back while it was being opened is finished all the same."""

    async def nothing(*_: Any) -> None:
        return None

    patch.setattr(filing_turn, "_check_still_approved", nothing)


def finished_taken_for_retracted(patch: Patch) -> None:
    """5102 to /retract is taken for a success."""
    patch.setitem(answers.OF_CALL[Call.RETRACT], 5102, Meaning.DONE)


def rejection_not_read(patch: Patch) -> None:
    """What is open is finished even though a custodian rejected it."""
    approval = filing_turn._approval

    async def standing(connection: Any, desk: Desk, turn: Turn) -> Any:
        try:
            return await approval(connection, desk, turn)
        except filing_turn._WithdrawnError:
            signed = [
                each
                for each in await decisions.every(connection, turn.report_id, desk.pins.read())
                if each.decision.xml is not None
            ]
            last = signed[-1].decision
            return decisions.Approval(str(last.xml_sha256), bytes(last.xml or b""), (signed[-1],))

    patch.setattr(filing_turn, "_approval", standing)


def wrong_clocks_are_believed(patch: Patch) -> None:
    """What a clock that was ahead put off is waited for, however long that takes."""

    def due(now: Any) -> Any:
        return and_(
            table.c.next_attempt_at <= now,
            or_(table.c.lease.is_(None), table.c.leased_until <= now),
        )

    patch.setattr(filings, "_due", due)


def parked_without_a_word(patch: Patch) -> None:
    """A turn that needs a person ends, and nobody is told."""
    halt = filing_turn._halt

    async def forgets(desk: Desk, turn: Turn, halted: Any) -> Outcome:
        if halted.halt is Meaning.PARK:
            return Outcome.PARKED
        return await halt(desk, turn, halted)

    patch.setattr(filing_turn, "_halt", forgets)


def other_bytes(patch: Patch) -> None:
    """What is sent is not to the letter what was signed."""
    submit = CyberTipline.submit

    async def tidied(self: CyberTipline, xml: bytes) -> Answer:
        return await submit(self, xml.strip() + b"\n<!-- tidied -->")

    patch.setattr(CyberTipline, "submit", tidied)


def receipt_thrown_away(patch: Patch) -> None:
    """The answer to /finish is kept as a word, and not as it came."""
    keep = filings.finished

    async def without(*arguments: Any, **named: Any) -> bool:
        kept = await keep(*arguments, **named)
        connection, turn = arguments[0], arguments[1]
        await connection.execute(
            update(table).where(table.c.report_id == turn.report_id).values(receipt=None)
        )
        return kept

    patch.setattr(filings, "finished", without)
