"""An approval taken back while its report is open at the authority: withdrawn there, or filed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update

from app.custody.decision import Action
from app.filing import turn as filing_turn
from app.filing.cybertip.answers import Answer
from app.filing.cybertip.environment import Environment
from app.filing.cybertip_double.application import Fault, Planned
from app.filing.cybertip_double.service import State as There
from app.filing.desk import Desk
from app.filing.turn import Outcome, file_next
from app.settings import StoreSettings
from app.store.database import Database
from app.store.reports import decisions, filing_orders, filings, reports
from app.store.reports.filings import LEASE, LONGEST_PAUSE
from app.store.reports.report_states import State
from app.store.schema import filings as filings_table
from app.store.schema import reports as report_table
from tests.deciding import deciding, seen
from tests.filing.office import Office, document, open_office


@pytest.fixture
async def office(database: Database, store: StoreSettings) -> AsyncIterator[Office]:
    async with open_office(database, store) as opened:
        yield opened


@dataclass
class Meddling:
    """The authority, where something happens while a call is under way: before or after it is heard."""

    office: Office
    call: str
    happens: Callable[[], Awaitable[None]]
    first: bool = False

    def desk(self) -> Desk:
        """The worker's, with this authority."""
        desk: Desk = replace(self.office.desk, authority=self)  # type: ignore[arg-type]
        return desk

    def __getattr__(self, call: str) -> Callable[[Any], Awaitable[Answer]]:
        async def asked(argument: Any) -> Answer:
            if call == self.call and self.first:
                await self.happens()
            answer: Answer = await getattr(self.office.authority, call)(argument)
            if call == self.call and not self.first:
                await self.happens()
            return answer

        return asked


async def opened(office: Office) -> str:
    """The id of an approved report that is open, and whose worker died."""
    report_id = await office.approved()
    async with office.database.begin() as connection:
        turn = await filings.claim(connection, environment=office.environment.value, now=office.clock())
    assert turn is not None
    answer = await office.authority.submit(document(report_id))
    assert await office.keep_opened(turn, str(answer.report_id))
    office.clock.ahead += LEASE
    return report_id


async def soon(office: Office) -> Outcome | None:
    """A turn after whatever pause was set."""
    office.clock.ahead += LONGEST_PAUSE * 2
    return await file_next(office.desk)


async def state(office: Office, report_id: str) -> State:
    return (await office.report(report_id)).state


def there(office: Office) -> list[There]:
    """What became of each report that was opened at the double."""
    return [each.state for each in office.double.service.reports.values()]


async def test_a_report_that_is_rejected_while_it_is_open_is_withdrawn_and_never_finished(
    office: Office,
) -> None:
    """Its state tells what the authority has; the decision, and that it was carried out, are on record."""
    report_id = await opened(office)
    before = (await office.report(report_id)).decided_at
    await office.reject(report_id)
    assert await state(office, report_id) is State.SUBMITTED
    assert await file_next(office.desk) is Outcome.RETRACTED
    assert await file_next(office.desk) is None
    report = await office.report(report_id)
    assert (report.state, report.cause, report.receipt_at) == (State.RETRACTED, None, None)
    assert before is not None
    assert report.decided_at is not None
    assert report.decided_at > before
    assert there(office) == [There.RETRACTED]
    assert office.double.calls["finish"] == 0
    filing = await office.filing(report_id)
    told = dict(await office.events(report_id))
    assert list(told)[-2:] == ["report.withdrawn", "report.retracted"]
    assert told["report.retracted"].pop("ending")
    assert await office.doubts(report_id) == ()
    assert told["report.retracted"] == {
        "from": "submitted",
        "environment": "double",
        "authority_report_id": filing.authority_report_id,
    }
    async with office.database.connect() as connection:
        signed = await decisions.every(connection, report_id, office.pins.read())
        listed = (await reports.list_reports(connection, state=State.RETRACTED)).reports
    assert [each.decision.action for each in signed] == [Action.APPROVE, Action.REJECT]
    assert told["report.withdrawn"]["decision_sha256"] == signed[1].sha256
    assert [each.id for each in listed] == [report_id]


async def test_a_retracted_report_can_be_approved_anew_and_is_filed_once(office: Office) -> None:
    """Under another id: the first is closed for ever."""
    report_id = await opened(office)
    await office.reject(report_id)
    assert await file_next(office.desk) is Outcome.RETRACTED
    await office.approve(report_id)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert sorted(there(office)) == [There.FINISHED, There.RETRACTED]
    assert office.double.tell(report_id)["filed_exactly_once"]


@pytest.mark.parametrize(
    ("planned", "first", "last"),
    [
        (Planned("retract", Fault.UNHEARD), Outcome.POSTPONED, State.RETRACTED),
        (Planned("retract", Fault.UNANSWERED), Outcome.POSTPONED, State.RETRACTED),
        (Planned("retract", Fault.HTML_502), Outcome.POSTPONED, State.RETRACTED),
        (Planned("retract", Fault.TRUNCATED), Outcome.POSTPONED, State.RETRACTED),
        (Planned("retract", Fault.DOCTYPE), Outcome.POSTPONED, State.RETRACTED),
        (Planned("retract", Fault.HUGE), Outcome.POSTPONED, State.RETRACTED),
        (Planned("retract", Fault.WRONG_ROOT), Outcome.POSTPONED, State.RETRACTED),
        (Planned("retract", code=1000), Outcome.POSTPONED, State.RETRACTED),
        (Planned("retract", code=2000, status=401), Outcome.STOPPED, State.RETRACTED),
        (Planned("retract", code=5101), Outcome.RETRACTED, State.RETRACTED),
        (Planned("retract", code=5001), Outcome.RETRACTED, State.RETRACTED),
        (Planned("retract", code=5102), Outcome.DRY_RUN, State.DRY_RUN),
        (Planned("retract", code=4000), Outcome.PARKED, State.PARKED),
        (Planned("retract", code=9999), Outcome.PARKED, State.PARKED),
    ],
    ids=lambda value: str(value.fault or value.code) if isinstance(value, Planned) else None,
)
async def test_what_comes_of_a_withdrawal_is_what_the_authority_says(
    office: Office, planned: Planned, first: Outcome, last: State
) -> None:
    """A lost answer is asked for again, an unknown one parks; no answer at all makes it be finished."""
    report_id = await opened(office)
    await office.reject(report_id)
    office.double.plan.append(planned)
    assert await file_next(office.desk) is first
    if first in {Outcome.POSTPONED, Outcome.STOPPED}:
        assert await state(office, report_id) is State.SUBMITTED
        assert await file_next(office.desk) is None
        await soon(office)
    assert await state(office, report_id) is last
    assert await soon(office) is None
    assert office.double.calls["finish"] == 0


async def test_a_withdrawal_that_was_parked_is_tried_again_under_the_same_id(office: Office) -> None:
    """The id is kept for the person who asks the authority."""
    report_id = await opened(office)
    called = (await office.filing(report_id)).authority_report_id
    await office.reject(report_id)
    office.double.plan.append(Planned("retract", code=9999))
    assert await file_next(office.desk) is Outcome.PARKED
    assert (await office.report(report_id)).cause == "authority_unknown_code"
    assert (await office.filing(report_id)).authority_report_id == called
    async with office.database.begin() as connection:
        await filing_orders.retry(connection, report_id, now=office.clock(), by="cli")
    assert await file_next(office.desk) is Outcome.RETRACTED
    assert there(office) == [There.RETRACTED]


async def test_a_rejection_that_comes_too_late_finds_the_report_filed(office: Office) -> None:
    """The answer to finish was lost: only the authority knows, and it says that it has it."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", Fault.UNANSWERED))
    assert await file_next(office.desk) is Outcome.POSTPONED
    await office.reject(report_id)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert (await office.filing(report_id)).receipt is not None
    assert office.double.tell(report_id)["filed_exactly_once"]


async def test_a_finish_that_never_arrived_is_withdrawn_and_one_that_arrives_late_is_refused(
    office: Office,
) -> None:
    """The authority takes one of the two."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", Fault.UNHEARD))
    assert await file_next(office.desk) is Outcome.POSTPONED
    await office.reject(report_id)
    assert await file_next(office.desk) is Outcome.RETRACTED
    called = (await office.filing(report_id)).authority_report_id
    assert called is not None
    assert (await office.authority.finish(called)).code == 5101
    assert there(office) == [There.RETRACTED]


async def test_a_report_that_vanished_after_an_attempted_finish_is_not_called_retracted(
    office: Office,
) -> None:
    """It may have been filed and forgotten: a person asks. Their word closes it."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", Fault.UNHEARD))
    assert await file_next(office.desk) is Outcome.POSTPONED
    office.double.service.advance(timedelta(hours=25))
    await office.reject(report_id)
    assert await file_next(office.desk) is Outcome.PARKED
    assert (await office.report(report_id)).cause == "authority_5001"
    await office.reject(report_id)
    assert await state(office, report_id) is State.REJECTED


async def test_a_second_rejection_after_a_day_is_the_last_word_of_who_can_ask_no_more(
    database: Database, store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent after it, an answer that was late still counts, and approving it anew parks it."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        office.double.plan.append(Planned("finish", Fault.UNHEARD))
        assert await file_next(office.desk) is Outcome.POSTPONED
        for _ in range(2):
            await office.reject(report_id)
            assert await state(office, report_id) is State.SUBMITTED
        monkeypatch.setattr(filing_orders, "ASKED_WITHIN", timedelta())
        await office.reject(report_id)
        assert await state(office, report_id) is State.REJECTED
        assert await office.doubts(report_id) == ()
        assert await soon(office) is None
        assert office.double.calls["retract"] == 0
        await office.approve(report_id)
        assert await soon(office) is Outcome.PARKED
        assert (await office.report(report_id)).cause == "finish_unknown"
        assert there(office) == [There.OPEN]


async def test_a_finish_that_was_heard_before_the_last_word_makes_it_filed(
    database: Database, store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a person said: the authority has it, and the worker that waited for the answer says so."""
    monkeypatch.setattr(filing_orders, "ASKED_WITHIN", timedelta())
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()

        async def rejected_twice() -> None:
            await office.reject(report_id)
            await office.reject(report_id)
            assert await state(office, report_id) is State.REJECTED

        assert await file_next(Meddling(office, "finish", rejected_twice).desk()) is Outcome.FILED
        assert await state(office, report_id) is State.FILED
        assert there(office) == [There.FINISHED]


@pytest.mark.parametrize("attempted", [False, True])
@pytest.mark.parametrize("gone", [False, True])
async def test_a_report_whose_filing_cannot_be_read_can_be_rejected(
    database: Database,
    store: StoreSettings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    attempted: bool,
    gone: bool,
) -> None:
    """The log says whether somebody tried to finish it: then it is no end before a day has passed."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        fault = Planned("finish" if attempted else "submit", Fault.UNHEARD)
        office.double.plan.append(fault)
        assert await file_next(office.desk) is Outcome.POSTPONED
        async with database.begin() as connection:
            table = filings_table
            if gone:
                await connection.execute(delete(table))
            else:
                await connection.execute(update(table).values(step="a step that no Cordon takes"))
        await office.reject(report_id)
        if attempted:
            assert await state(office, report_id) is State.SUBMITTED
            monkeypatch.setattr(filing_orders, "ASKED_WITHIN", timedelta())
            await office.reject(report_id)
        assert await state(office, report_id) is State.REJECTED
        assert await soon(office) is None
        assert office.double.calls["finish"] == int(attempted)


async def test_a_rejection_while_it_is_being_submitted_withdraws_what_was_opened(office: Office) -> None:
    """It is rejected at once; that it was open for a moment is on record too."""
    report_id = await office.approved()
    meddling = Meddling(office, "submit", lambda: office.reject(report_id))
    assert await file_next(meddling.desk()) is Outcome.RETRACTED
    assert there(office) == [There.RETRACTED]
    told = dict(await office.events(report_id))
    assert list(told)[-3:] == ["report.rejected", "report.given_id", "report.retracted"]
    assert told["report.retracted"]["authority_report_id"] in office.double.service.reports
    async with office.database.connect() as connection:
        assert len(await decisions.every(connection, report_id, office.pins.read())) == 2


async def test_what_cannot_be_withdrawn_then_stays_rejected_and_expires(office: Office) -> None:
    report_id = await office.approved()
    meddling = Meddling(office, "submit", lambda: office.reject(report_id))
    office.double.plan.append(Planned("retract", Fault.UNHEARD))
    assert await file_next(meddling.desk()) is Outcome.OVERTAKEN
    assert await state(office, report_id) is State.REJECTED
    assert await soon(office) is None
    assert office.double.calls["finish"] == 0


async def test_a_rejection_just_before_finish_is_called_withdraws_it(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look, in the transaction that allows the call, sees it."""
    report_id = await office.approved()
    attempt = filing_turn._attempt_finish

    async def rejected_first(*arguments: Any) -> bool:
        await office.reject(report_id)
        return await attempt(*arguments)

    monkeypatch.setattr(filing_turn, "_attempt_finish", rejected_first)
    assert await file_next(office.desk) is Outcome.RETRACTED
    assert there(office) == [There.RETRACTED]
    assert (await office.filing(report_id)).finish_attempted_at is None


@pytest.mark.parametrize("first", [True, False], ids=["before it is heard", "after it is done"])
async def test_a_rejection_while_it_is_being_finished_is_too_late(office: Office, *, first: bool) -> None:
    """It is filed, and says so."""
    report_id = await office.approved()
    meddling = Meddling(office, "finish", lambda: office.reject(report_id), first=first)
    assert await file_next(meddling.desk()) is Outcome.DRY_RUN
    assert await soon(office) is None
    assert office.double.tell(report_id)["filed_exactly_once"]


async def test_another_worker_withdraws_what_a_slow_one_is_about_to_finish(office: Office) -> None:
    """The lease ended in mid-call. Whoever comes second at the authority is told so, and nothing is lost."""
    report_id = await office.approved()

    async def taken_over() -> None:
        await office.reject(report_id)
        office.clock.ahead += LEASE * 2
        assert await file_next(office.desk) is Outcome.RETRACTED

    assert await file_next(Meddling(office, "finish", taken_over, first=True).desk()) is Outcome.OVERTAKEN
    assert await state(office, report_id) is State.RETRACTED
    assert there(office) == [There.RETRACTED]


async def test_what_was_approved_anew_while_it_was_being_withdrawn_is_filed_once(office: Office) -> None:
    """The newer word counts, and the withdrawn id is never finished."""
    report_id = await opened(office)
    await office.reject(report_id)
    meddling = Meddling(office, "retract", lambda: office.approve(report_id))
    assert await file_next(meddling.desk()) is Outcome.OVERTAKEN
    assert await state(office, report_id) is State.APPROVED
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert sorted(there(office)) == [There.FINISHED, There.RETRACTED]


async def test_a_report_that_was_approved_anew_and_then_rejected_is_asked_for_where_finish_was_called(
    office: Office,
) -> None:
    """Nothing that the authority may have is called rejected before it said that it has it not."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", Fault.UNANSWERED))
    assert await file_next(office.desk) is Outcome.POSTPONED
    await office.approve(report_id)
    assert await state(office, report_id) is State.APPROVED
    await office.reject(report_id)
    assert await state(office, report_id) is State.SUBMITTED
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert office.double.tell(report_id)["filed_exactly_once"]


async def test_nothing_is_asked_of_one_environment_about_a_report_of_another(office: Office) -> None:
    """Ids mean nothing there: what was open at the double expires, a finish for real is a question."""
    report_id = await opened(office)
    await office.reject(report_id)
    office.environment = Environment.PRODUCTION
    assert await file_next(office.desk) is Outcome.RETRACTED
    assert office.double.calls["retract"] == 0
    attempted = await office.approved("b")
    office.double.plan.append(Planned("finish", Fault.UNANSWERED))
    assert await file_next(office.desk) is Outcome.POSTPONED
    await office.reject(attempted)
    office.environment = Environment.DOUBLE
    assert await soon(office) is Outcome.PARKED
    assert (await office.report(attempted)).cause == "finish_unknown"
    assert office.double.calls["retract"] == 0
    assert await state(office, report_id) is State.RETRACTED


async def test_whoever_can_only_write_to_the_database_cannot_bring_a_rejected_report_on(
    office: Office,
) -> None:
    """Its state says approved, and its decisions do not."""
    report_id = await office.approved()
    await office.reject(report_id)
    async with office.database.begin() as connection:
        await connection.execute(update(report_table).values(state=State.APPROVED.value))
    assert await file_next(office.desk) is Outcome.PARKED
    assert (await office.report(report_id)).cause == "not_approved"
    assert office.double.calls["submit"] == 0


async def test_what_the_authority_has_is_filed_whatever_was_decided_meanwhile(
    database: Database, store: StoreSettings
) -> None:
    """Approved anew, or parked by another worker and rejected, while the answer was on its way."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        anew = await office.approved("a")
        meddling = Meddling(office, "finish", lambda: office.approve(anew))
        assert await file_next(meddling.desk()) is Outcome.FILED
        assert await state(office, anew) is State.FILED
        rejected = await office.approved("b")

        async def parked_and_rejected() -> None:
            office.clock.ahead += LEASE * 2
            office.double.plan.append(Planned("finish", code=9999))
            assert await file_next(office.desk) is Outcome.PARKED
            await office.reject(rejected)

        assert await file_next(Meddling(office, "finish", parked_and_rejected).desk()) is Outcome.FILED
        assert await state(office, rejected) is State.FILED


class DiedError(BaseException):
    """The worker is gone, with the answer that it had."""


@pytest.mark.parametrize("heard", [True, False])
async def test_a_parked_report_is_not_called_rejected_while_a_finish_is_in_the_air(
    database: Database,
    store: StoreSettings,
    heard: bool,  # noqa: FBT001 - a parameter of pytest's
) -> None:
    """Another worker parked it, a custodian rejects it, and the first one's call comes through, or never."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()

        async def parked_and_rejected() -> None:
            office.clock.ahead += LEASE * 2
            office.double.plan.append(Planned("finish", code=9999))
            assert await file_next(office.desk) is Outcome.PARKED
            await office.reject(report_id)
            if heard:
                await office.authority.finish(str((await office.filing(report_id)).authority_report_id))
            raise DiedError

        with pytest.raises(DiedError):
            await file_next(Meddling(office, "finish", parked_and_rejected, first=True).desk())
        outcome = await soon(office)
        assert outcome is (Outcome.FILED if heard else Outcome.RETRACTED)
        assert await state(office, report_id) is (State.FILED if heard else State.RETRACTED)
        assert there(office) == [There.FINISHED if heard else There.RETRACTED]


async def test_a_report_filed_by_hand_meanwhile_stays_so_and_both_are_on_record(office: Office) -> None:
    """Nothing can undo either; whoever reads the log sees that there are two."""
    report_id = await office.approved()

    async def by_hand() -> None:
        sealed = await seen(office.database, report_id, office.pins.read())
        signed = deciding(Action.FILED, report_id, sealed, office.ada)
        await office.decide(Action.FILED, report_id, signed)

    assert await file_next(Meddling(office, "finish", by_hand).desk()) is Outcome.OVERTAKEN
    assert await state(office, report_id) is State.FILED_MANUALLY
    events = [event for event, _ in await office.events(report_id)]
    assert events[-2:] == ["report.filed_manually", "report.filed_too"]


@pytest.mark.parametrize("call", ["submit", "finish"])
async def test_a_report_that_is_gone_when_the_answer_comes_ends_no_worker(office: Office, call: str) -> None:
    """Destroyed meanwhile: what is open is withdrawn, what is filed is on record."""
    report_id = await office.approved()

    async def gone() -> None:
        async with office.database.begin() as connection:
            await connection.execute(report_table.delete())

    assert await file_next(Meddling(office, call, gone).desk()) is Outcome.OVERTAKEN
    assert there(office) == [There.RETRACTED if call == "submit" else There.FINISHED]
    events = [event for event, _ in await office.events(report_id)]
    assert (events[-1] == "report.filed_too") == (call == "finish")
