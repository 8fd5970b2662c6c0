"""Filing: approved bytes, once; what is not known to be filed is tried again or left to a person."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update

from app.custody import decision
from app.custody.decision import Action
from app.custody.identity import generate
from app.custody.roster import WorkerKeys
from app.errors import ConflictError, InvalidRequestError
from app.filing.cybertip.answers import Answer
from app.filing.cybertip.client import CyberTipline, open_client
from app.filing.cybertip.environment import DOUBLE_PASSWORD, DOUBLE_USER, Endpoint, Environment
from app.filing.cybertip.reporter import Reporter
from app.filing.cybertip_double.application import Fault, Planned
from app.filing.cybertip_double.service import State as There
from app.filing.filer import Filer
from app.filing.turn import LONGEST_PAUSE, Outcome, file_next, pause_after
from app.media import BankKind
from app.settings import FilingSettings, StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.record import audit
from app.store.record.witness import Witness
from app.store.reports import accepting, decisions, filing_log, filing_orders, filings, reports
from app.store.reports.filings import LEASE, Step, UnreadableReportError
from app.store.reports.report_states import State
from app.store.schema import decisions as decision_table
from app.store.schema import filings as table
from app.store.schema import reports as report_table
from tests.deciding import deciding, seen
from tests.filing.office import URL, Line, Office, document, open_office
from tests.pins import add_custodian, remove_custodian


@pytest.fixture
async def office(database: Database, store: StoreSettings) -> AsyncIterator[Office]:
    async with open_office(database, store) as opened:
        yield opened


async def soon(office: Office) -> Outcome | None:
    """A turn after whatever pause was set."""
    office.clock.ahead += LONGEST_PAUSE * 2
    return await file_next(office.desk)


async def test_the_approved_bytes_are_filed_once_and_the_receipt_is_kept_sealed(office: Office) -> None:
    """At the double: a dry run, not filed. The receipt opens with a custodian's key, verbatim."""
    xml = document("01JANY") + b"<!-- signed as it stands -->"
    report_id = await office.queued()
    await office.approve(report_id, xml)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert await file_next(office.desk) is None
    (there,) = office.double.service.reports.values()
    assert there.document == xml
    assert there.state is There.FINISHED
    report = await office.report(report_id)
    assert (report.state, report.receipt_at) == (State.DRY_RUN, None)
    filing = await office.filing(report_id)
    assert (filing.step, filing.authority_report_id, filing.last_code) == (Step.FINISHED, there.id, 0)
    assert filing.request_id
    assert filing.receipt is not None
    receipt = office.ada.decrypt(filing.receipt)
    assert receipt.startswith(b"<?xml")
    assert there.id.encode() in receipt
    told = dict(await office.events(report_id))
    assert told["report.submitted"]["authority_report_id"] == there.id
    assert set(told["report.dry_run"]) == {
        *("from", "environment", "authority_report_id", "receipt_sha256", "ending")
    }
    assert await office.doubts(report_id) == ()


async def test_what_production_takes_is_filed_and_its_receipt_has_a_time(
    database: Database, store: StoreSettings
) -> None:
    """Only there does it count, and retention begins."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        assert await file_next(office.desk) is Outcome.FILED
        report = await office.report(report_id)
        assert report.state is State.FILED
        assert report.receipt_at is not None
        assert report.decided_at is not None
        assert report.receipt_at > report.decided_at
        assert await office.doubts(report_id) == ()


async def test_a_receipt_is_no_older_than_the_decision_however_wrong_the_clock_is(
    database: Database, store: StoreSettings
) -> None:
    """A worker whose clock is a year behind does not have the report purged a year too early."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        office.clock.ahead = -timedelta(days=400)
        assert await file_next(office.desk) is Outcome.FILED
        report = await office.report(report_id)
        assert report.receipt_at == report.decided_at


async def test_reports_that_nobody_approved_stay_where_they_are(office: Office) -> None:
    """Queued, or rejected."""
    await office.queued("a")
    await office.reject(await office.queued("b"))
    assert await file_next(office.desk) is None
    assert office.double.calls["submit"] == 0


async def test_an_approved_report_that_somebody_called_another_kind_is_parked_and_not_passed_over(
    office: Office,
) -> None:
    """Only csam is approved; it is filed once the row is put back."""
    report_id = await office.approved("c")
    kind = update(report_table).where(report_table.c.id == report_id)
    async with office.database.begin() as connection:
        await connection.execute(kind.values(bank_kind=BankKind.TEST.value))
    assert await file_next(office.desk) is Outcome.PARKED
    assert office.double.calls["submit"] == 0
    async with office.database.begin() as connection:
        assert (await reports.get(connection, report_id)).cause == "tampered"
        await connection.execute(kind.values(bank_kind=BankKind.CSAM.value))
        await filing_orders.retry(connection, report_id, now=office.desk.now(), by="cli")
    assert await file_next(office.desk) is Outcome.DRY_RUN


@pytest.mark.parametrize("call", ["submit", "finish"])
async def test_after_every_fault_it_is_filed_once_or_a_person_is_asked(office: Office, call: str) -> None:
    """Whatever is answered, the double never has it twice, and it never disappears."""
    for fault in sorted(set(Fault) - {Fault.SLOW}):
        report_id = await office.approved(fault)
        office.double.plan.append(Planned(call, fault))
        first = await file_next(office.desk)
        report = await office.report(report_id)
        if first is Outcome.PARKED:
            assert report.state is State.PARKED, fault
            assert not office.double.tell(report_id)["filed_exactly_once"] or call == "finish", fault
            continue
        if first is not Outcome.DRY_RUN:
            assert first in {Outcome.POSTPONED, Outcome.STOPPED}, fault
            assert report.state is (State.APPROVED if call == "submit" else State.SUBMITTED), fault
            assert await file_next(office.desk) is None, fault
            assert await soon(office) is Outcome.DRY_RUN, fault
        assert office.double.tell(report_id)["filed_exactly_once"], fault


CODES: dict[int, tuple[Outcome, Outcome]] = {
    **dict.fromkeys((1000, 1100, 1110, 1111, 1300), (Outcome.POSTPONED, Outcome.POSTPONED)),
    **dict.fromkeys((2000, 3000, 3100, 3300), (Outcome.STOPPED, Outcome.STOPPED)),
    **dict.fromkeys(
        (1210, 4000, 4100, 4110, 4200, 5001, 5002, 5101, 9999, -1), (Outcome.PARKED, Outcome.PARKED)
    ),
    5102: (Outcome.PARKED, Outcome.DRY_RUN),
}


@pytest.mark.parametrize(("call", "status"), [("submit", 200), ("finish", 400)])
async def test_every_code_has_its_class(office: Office, call: str, status: int) -> None:
    """After an attempted finish only 0 and 5102 mean filed; an unknown code is not tried for ever."""
    for code, outcomes in CODES.items():
        outcome = outcomes[call == "finish"]
        report_id = await office.approved(str(code))
        office.double.plan.append(Planned(call, code=code, status=status))
        assert await file_next(office.desk) is outcome, code
        report, filing = await office.report(report_id), await office.filing(report_id)
        assert filing.last_code == code
        assert (report.state is State.PARKED) == (outcome is Outcome.PARKED)
        if outcome is Outcome.PARKED:
            assert report.cause == (f"authority_{code}" if 0 < code < 9999 else "authority_unknown_code")
        assert (filing.finish_attempted_at is not None) == (call == "finish")


async def test_a_lost_answer_to_finish_is_asked_for_under_the_same_id(office: Office) -> None:
    """The one dangerous moment: it was filed, and nobody was told."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", Fault.UNANSWERED))
    assert await file_next(office.desk) is Outcome.POSTPONED
    assert await soon(office) is Outcome.DRY_RUN
    assert office.double.calls["submit"] == 1
    assert (await office.filing(report_id)).last_code == 5102
    assert office.double.tell(report_id)["filed_exactly_once"]


async def test_an_id_that_is_another_reports_is_never_finished_nor_withdrawn_for_this_one(
    office: Office,
) -> None:
    """Something on the way repeats an old answer: 5102 under that id would say that this one is filed."""

    class Repeating(CyberTipline):
        async def submit(self, document: bytes) -> Answer:
            return Answer(200, code=0, report_id=there.id)

    first = await office.approved("first")
    assert await file_next(office.desk) is Outcome.DRY_RUN
    (there,) = office.double.service.reports.values()
    second = await office.approved("second")
    repeating = replace(office.desk, authority=Repeating(office.authority._http))
    assert await file_next(repeating) is Outcome.PARKED
    assert (await office.report(second)).cause == "authority_known_report_id"
    assert (await office.filing(second)).authority_report_id is None
    assert (await office.report(first)).state is State.DRY_RUN
    assert there.state is There.FINISHED
    assert office.double.calls["retract"] == 0
    await office.approve(second)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert office.double.tell(second)["filed_exactly_once"]


async def test_an_id_that_another_environment_gave_to_another_report_can_be_given(office: Office) -> None:
    """Each counts for itself: what was tried at the double keeps nothing from being filed for real."""
    await office.approved("first")
    assert await file_next(office.desk) is Outcome.DRY_RUN
    (there,) = office.double.service.reports.values()
    second = await office.approved("second")
    elsewhere = replace(office, environment=Environment.TEST)
    async with office.database.begin() as connection:
        turn = await filings.claim(connection, environment="test", now=office.clock())
    assert turn is not None
    assert await elsewhere.keep_opened(turn, there.id)
    assert (await office.filing(second)).authority_report_id == there.id


async def test_an_id_that_two_workers_are_given_at_once_is_kept_for_one_of_two_reports(
    database: Database, store: StoreSettings
) -> None:
    """Neither has committed it when the other looks: one is filed, and the other waits for a person."""
    both, one_by_one = asyncio.Barrier(2), asyncio.Lock()
    given: list[Answer] = []

    class Repeating(CyberTipline):
        async def submit(self, document: bytes) -> Answer:
            async with one_by_one:
                if not given:
                    given.append(await super().submit(document))
            await both.wait()
            return given[0]

    async with open_office(database, store) as office:
        report_ids = [await office.approved(medium) for medium in "ab"]
        other = Database.open(store)
        try:
            desks = [
                replace(office.desk, database=each, authority=Repeating(office.authority._http))
                for each in (database, other)
            ]
            outcomes = await asyncio.gather(
                *(file_next(desk, report_id) for desk, report_id in zip(desks, report_ids, strict=True))
            )
        finally:
            await other.close()
        assert sorted(map(str, outcomes)) == [Outcome.DRY_RUN, Outcome.PARKED]
        (parked,) = [each for each in report_ids if (await office.report(each)).state is State.PARKED]
        assert (await office.report(parked)).cause == "authority_known_report_id"
        assert (await office.filing(parked)).authority_report_id is None
        (there,) = office.double.service.reports.values()
        assert there.state is There.FINISHED
        assert (office.double.calls["finish"], office.double.calls["retract"]) == (1, 0)


async def test_a_report_that_expired_under_an_attempted_finish_is_parked(office: Office) -> None:
    """It may have been filed and forgotten: nothing restarts by itself."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", Fault.UNHEARD))
    assert await file_next(office.desk) is Outcome.POSTPONED
    office.double.service.advance(timedelta(hours=25))
    assert await soon(office) is Outcome.PARKED
    assert (await office.report(report_id)).cause == "authority_5001"
    assert office.double.calls["submit"] == 1


async def test_only_a_report_that_was_never_finished_begins_anew_after_a_day(office: Office) -> None:
    """Opened, and the worker died: the authority has deleted it by now."""
    report_id = await office.approved()
    await opened_and_died(office, report_id)
    office.double.service.advance(timedelta(hours=25))
    office.clock.ahead += timedelta(hours=25)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    told = office.double.tell(report_id)
    assert (told["opened"], told["filed_exactly_once"]) == (2, True)


async def test_more_reports_are_passed_over_than_a_statement_has_parameters(office: Office) -> None:
    """A round gives each report one turn, and there may be very many of them, or of rows of somebody else."""
    report_ids = {await office.approved(), await office.approved()}
    others = {f"{at:026}" for at in range(70_000)}
    async with office.database.begin() as connection:
        for _ in report_ids:
            turn = await filings.claim(
                connection, environment="double", now=office.clock(), but_for=others - report_ids
            )
            assert turn is not None
            others.add(turn.report_id)
    assert report_ids < others


async def opened_and_died(office: Office, report_id: str) -> None:
    """A worker that is killed between its two calls."""
    async with office.database.begin() as connection:
        turn = await filings.claim(connection, environment="double", now=office.clock())
    assert turn is not None
    answer = await office.authority.submit(document(report_id))
    assert await office.keep_opened(turn, str(answer.report_id))
    office.clock.ahead += LEASE


async def test_whoever_comes_after_a_death_goes_on_under_the_same_id(office: Office) -> None:
    report_id = await office.approved()
    await opened_and_died(office, report_id)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert office.double.tell(report_id)["opened"] == 1


async def test_a_turn_is_nobody_elses_until_its_lease_ends(office: Office) -> None:
    """And whoever lost it changes nothing more, whatever its clock says."""
    report_id = await office.approved()
    now = office.clock()
    async with office.database.begin() as connection:
        late = await filings.claim(connection, environment="double", now=now)
        assert late is not None
        assert await filings.claim(connection, environment="double", now=now) is None
    async with office.database.begin() as connection:
        turn = await filings.claim(connection, environment="double", now=now + LEASE)
        assert turn is not None
        for held, kept in ((late, False), (turn, True)):
            assert await filings.opened(connection, held, "7", request_id=None, now=now, details={}) is kept
            assert await filings.attempt_finish(connection, held, now=now + LEASE) is kept
        assert not await filings.park(connection, late, cause="late")
        assert not await filings.postpone(connection, late, until=now)
        assert not await filings.begin_afresh(connection, late, environment="double", now=now)
        assert not await filings.attempt_finish(connection, turn, now=now + LEASE * 2)
    assert (await office.report(report_id)).state is State.SUBMITTED


async def test_a_lease_that_a_clock_set_far_ahead_keeps_nobody_waiting(office: Office) -> None:
    """Whoever has it may finish nothing under it, and the next one takes the turn at once."""
    await office.approved()
    now = office.clock()
    async with office.database.begin() as connection:
        ahead = await filings.claim(connection, environment="double", now=now + timedelta(days=30))
        assert ahead is not None
        assert await filings.opened(connection, ahead, "7", request_id=None, now=now, details={})
        assert not await filings.attempt_finish(connection, ahead, now=now)
        turn = await filings.claim(connection, environment="double", now=now)
        assert turn is not None
        assert turn.token != ahead.token


@pytest.mark.parametrize("jump", [timedelta(days=-30), timedelta(days=30)])
async def test_a_clock_that_jumps_keeps_no_report_waiting(office: Office, jump: timedelta) -> None:
    """A pause that was set by a wrong clock ends at once when it is right again."""
    report_id = await office.approved()
    office.double.plan.extend([Planned("submit", Fault.TOO_MANY)])
    office.clock.ahead = abs(jump)
    await file_next(office.desk)
    office.clock.ahead = abs(jump) + min(jump, timedelta()) + timedelta(hours=2)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert office.double.tell(report_id)["filed_exactly_once"]


async def test_the_pause_that_the_authority_asks_for_is_kept(office: Office) -> None:
    await office.approved()
    office.double.plan.append(Planned("submit", Fault.TOO_MANY))
    await file_next(office.desk)
    async with office.database.connect() as connection:
        next_at = (await connection.execute(select(table.c.next_attempt_at))).scalar_one()
    assert next_at - office.clock() > timedelta(seconds=6)


def test_pauses_double_to_an_hour_and_go_on() -> None:
    """Long past 72 hours: nothing is given up."""
    assert pause_after(1, 0) == timedelta(seconds=30)
    assert pause_after(3, 0) == timedelta(minutes=2)
    assert pause_after(10_000, 0) == LONGEST_PAUSE
    assert pause_after(10_000, 1) == LONGEST_PAUSE * 1.5
    assert sum((pause_after(n, 0) for n in range(1, 101)), timedelta()) > timedelta(hours=72)


async def _unsigned(office: Office, report_id: str) -> None:
    async with office.database.begin() as connection:
        await connection.execute(delete(decision_table))


async def _unpinned(office: Office, report_id: str) -> None:
    await add_custodian(office.database, office.pins, "grace")
    await remove_custodian(office.database, office.pins, "ada")


async def _scribbled(office: Office, report_id: str) -> None:
    await _scribble(office, report_id, "report.annotated")


async def _sealed_scribble(office: Office, report_id: str) -> None:
    await _scribble(office, report_id, "report.sighted")


async def _scribble(office: Office, report_id: str, event: str) -> None:
    """An entry that follows on the others, and that no Cordon would write."""
    async with office.database.begin() as connection:
        await audit.append(connection, event, report_id, {"by": "a thief"})


async def _swapped(office: Office, report_id: str) -> None:
    async with office.database.begin() as connection:
        await connection.execute(text("UPDATE reports SET sealed = sealed_sha256"))


def replace_worker(office: Office) -> None:
    """Pin another worker's keys."""
    office.pins.write(office.pins.read().with_worker(WorkerKeys.of(generate())))


async def test_a_worker_whose_key_was_replaced_files_nothing_and_parks_nothing(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing would prove what it says of the reports; the worker that is pinned goes on with them."""
    report_id, pinned = await office.approved(), office.pins.read()
    replace_worker(office)
    with pytest.raises(InvalidRequestError, match="not the pinned one"):
        await file_next(office.desk)
    await Filer(office.database, office.desk, timedelta(hours=72)).turn()
    assert "worker_key_not_pinned" in caplog.messages
    assert office.double.calls["submit"] == 0
    office.pins.write(pinned)
    changing = Line(office.double, meanwhile=lambda: replace_worker(office))
    async with open_client(Endpoint(Environment.DOUBLE, URL, DOUBLE_USER, DOUBLE_PASSWORD), changing) as line:
        assert await file_next(replace(office.desk, authority=line)) is Outcome.POSTPONED
    assert (office.double.calls["submit"], office.double.calls["finish"]) == (1, 0)
    office.pins.write(pinned)
    assert await soon(office) is Outcome.DRY_RUN
    assert (await office.report(report_id)).state is State.DRY_RUN


@pytest.mark.parametrize("when", ["before it is submitted", "while it is open"])
@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (_unsigned, "not_approved"),
        (_unpinned, "not_approved"),
        (_scribbled, "not_approved"),
        (_sealed_scribble, "tampered"),
        (_swapped, "tampered"),
    ],
)
async def test_what_is_approved_no_more_is_parked_and_withdrawn(
    office: Office, when: str, change: Any, cause: str
) -> None:
    """Whoever can only write to the database gets nothing filed."""
    report_id = await office.approved()
    if when == "while it is open":
        await opened_and_died(office, report_id)
    await change(office, report_id)
    assert await file_next(office.desk) is Outcome.PARKED
    report = await office.report(report_id)
    assert (report.state, report.cause) == (State.PARKED, cause)
    assert {each.state for each in office.double.service.reports.values()} <= {There.RETRACTED}
    assert office.double.calls["finish"] == 0


async def test_what_is_approved_no_more_and_was_finished_all_the_same_is_kept_as_filed(
    office: Office,
) -> None:
    """The authority answers that to the withdrawal, as where the database forgot who called it before."""
    report_id = await office.approved()
    await opened_and_died(office, report_id)
    await office.authority.finish(str((await office.filing(report_id)).authority_report_id))
    await _unpinned(office, report_id)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert (await office.report(report_id)).state is State.DRY_RUN
    assert (office.double.calls["finish"], office.double.calls["retract"]) == (1, 1)
    assert office.double.tell(report_id)["filed_exactly_once"]


@pytest.mark.parametrize(
    ("xml", "changed", "cause"),
    [
        (b"<report/>", {}, "invalid_document"),
        (b"no XML", {}, "invalid_document"),
        (b"<!DOCTYPE report><report/>", {}, "invalid_document"),
        (None, {"xml_sha256": "0" * 64}, "not_what_was_signed"),
        (None, {"xml_to": ()}, "not_sealed_to_worker"),
    ],
    ids=["empty", "no XML", "document type", "other digest", "not for the worker"],
)
async def test_a_document_that_cannot_be_filed_is_parked_before_anything_is_sent(
    office: Office, xml: bytes | None, changed: dict[str, Any], cause: str
) -> None:
    report_id = await office.queued()
    if "xml_to" in changed:
        office.worker, worker = office.ada, office.worker
        await office.approve(report_id, xml)
        office.worker = worker
    else:
        await office.approve(report_id, xml, **changed)
    assert await file_next(office.desk) is Outcome.PARKED
    assert (await office.report(report_id)).cause == cause
    assert office.double.calls["submit"] == 0


async def test_the_log_names_each_field_that_the_authority_must_refuse_and_not_its_value(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """What is parked as an invalid document can be mended only by who knows which part of it."""
    report_id = await office.queued()
    xml = document(report_id)
    await office.approve(report_id, xml.replace(b"<firstName>", b"<firstName>" + b"canary" * 20))
    assert await file_next(office.desk) is Outcome.PARKED
    (record,) = [each for each in caplog.records if each.message == "document_refusable"]
    told = str(record.__dict__)
    assert "the reporter's first name, CORDON_REPORTER_FIRST_NAME," in told
    assert "is longer than 100 characters" in told
    assert (report_id in told, "canary" in told) == (True, False)


async def test_nothing_is_filed_for_real_in_the_name_of_a_placeholder(office: Office) -> None:
    """Whoever approves elsewhere has settings of their own there, and the worker files what was signed."""
    for environment, outcome in (
        (Environment.DOUBLE, Outcome.DRY_RUN),
        (Environment.TEST, Outcome.DRY_RUN),
        (Environment.PRODUCTION, Outcome.PARKED),
    ):
        report_id = await office.queued()
        await office.approve(report_id, document(report_id, Reporter.of(FilingSettings())))
        office.environment = environment
        before = office.double.calls["submit"]
        assert await file_next(office.desk) is outcome
        report = await office.report(report_id)
        assert (report.cause == "reporter_placeholder") == (outcome is Outcome.PARKED)
        assert office.double.calls["submit"] - before == (outcome is not Outcome.PARKED)


async def test_a_report_that_is_rejected_while_it_is_being_submitted_is_not_finished(office: Office) -> None:
    """What was opened is withdrawn at the authority."""
    report_id = await office.approved()
    submit = office.double.service.submit

    async with office.database.begin() as connection:
        turn = await filings.claim(connection, environment="double", now=office.clock())
    assert turn is not None
    await office.reject(report_id)
    reply = submit("text/xml", document(report_id))
    async with office.database.begin() as connection:
        assert not await filings.opened(
            connection, turn, str(reply.report_id), request_id=None, now=office.clock(), details={}
        )
    assert (await office.report(report_id)).state is State.REJECTED
    office.clock.ahead += LEASE
    assert await file_next(office.desk) is None


async def test_a_dry_run_that_is_approved_again_is_filed_again_and_elsewhere(office: Office) -> None:
    """What went to the double never counts: the same report goes to production after another approval."""
    report_id = await office.approved()
    assert await file_next(office.desk) is Outcome.DRY_RUN
    await office.approve(report_id)
    office.environment = Environment.PRODUCTION
    assert await file_next(office.desk) is Outcome.FILED
    assert office.double.tell(report_id)["finished"] == 2


@pytest.mark.parametrize("first", [Environment.TEST, Environment.PRODUCTION])
async def test_a_finish_that_was_attempted_for_real_is_never_left_for_another_environment(
    office: Office, first: Environment
) -> None:
    """From a test host nothing real can have been filed."""
    report_id = await office.approved()
    office.environment = first
    office.double.plan.append(Planned("finish", Fault.UNANSWERED))
    assert await file_next(office.desk) is Outcome.POSTPONED
    office.environment = Environment.DOUBLE
    assert await soon(office) is (Outcome.DRY_RUN if first is Environment.TEST else Outcome.PARKED)
    if first is Environment.PRODUCTION:
        assert (await office.report(report_id)).cause == "finish_unknown"


async def retry(office: Office, report_id: str) -> bool:
    """A person lets it be tried again."""
    async with office.database.begin() as connection:
        return await filing_orders.retry(connection, report_id, now=office.clock(), by="cli")


async def afresh(office: Office, report_id: str) -> None:
    """A custodian signs that it may be filed as a new report."""
    sealed = await seen(office.database, report_id, office.pins.read())
    await office.decide(Action.AFRESH, report_id, deciding(Action.AFRESH, report_id, sealed, office.ada))


async def test_a_parked_report_is_tried_again_under_the_same_id_or_afresh(office: Office) -> None:
    """Where a finish was attempted, nothing but a custodian's signed word opens a second one."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", code=9999))
    assert await file_next(office.desk) is Outcome.PARKED
    office.double.plan.append(Planned("finish", code=5001))
    assert await retry(office, report_id)
    assert await file_next(office.desk) is Outcome.PARKED
    assert office.double.calls["submit"] == 1
    await afresh(office, report_id)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert office.double.calls["submit"] == 2
    assert office.double.tell(report_id)["filed_exactly_once"]
    told = [event for event, _ in await office.events(report_id)]
    assert told[-5:-3] == ["report.afresh", "report.submitted"]
    assert told[-3:] == ["report.given_id", "report.finishing", "report.dry_run"]
    async with office.database.connect() as connection:
        signed = await decisions.every(connection, report_id, office.pins.read())
    assert signed[-1].decision.action is Action.AFRESH


async def test_what_is_filed_afresh_is_withdrawn_first_so_that_a_late_finish_makes_no_second_report(
    office: Office,
) -> None:
    """A filer that stood still right before it sent ``/finish``, and wakes when all is over."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", code=9999))
    assert await file_next(office.desk) is Outcome.PARKED
    (first,) = office.double.service.reports
    await afresh(office, report_id)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    late = await office.authority.finish(str(first))
    assert late.code == 5101
    states = sorted(each.state for each in office.double.service.reports.values())
    assert states == sorted([There.RETRACTED, There.FINISHED])
    assert await office.doubts(report_id) == ()


async def test_what_a_custodian_signs_afresh_and_the_authority_has_is_filed_as_it_stands_there(
    office: Office,
) -> None:
    """Whoever did not ask first makes no second report of it; while nobody answers, nothing is opened."""
    report_id = await office.approved()
    office.double.plan += [Planned("finish", Fault.UNANSWERED), Planned("finish", code=9999)]
    assert await file_next(office.desk) is Outcome.POSTPONED
    assert await soon(office) is Outcome.PARKED
    (first,) = office.double.service.reports
    await afresh(office, report_id)
    office.double.plan.append(Planned("retract", Fault.UNHEARD))
    assert await file_next(office.desk) is Outcome.POSTPONED
    assert office.double.calls["submit"] == 1
    assert await soon(office) is Outcome.DRY_RUN
    assert office.double.calls["submit"] == 1
    assert office.double.tell(report_id)["filed_exactly_once"]
    assert (await office.filing(report_id)).authority_report_id == str(first)
    assert await office.doubts(report_id) == ()


async def test_only_what_is_parked_and_may_be_filed_already_is_begun_afresh(office: Office) -> None:
    """Elsewhere it needs no signature; and while the worker asks for the answer, that comes first."""
    report_id = await office.approved()
    with pytest.raises(ConflictError, match="Nobody tried"):
        await afresh(office, report_id)
    office.double.plan.append(Planned("submit", code=4100))
    assert await file_next(office.desk) is Outcome.PARKED
    with pytest.raises(ConflictError, match="report retry"):
        await afresh(office, report_id)
    assert not await retry(office, report_id)
    office.double.plan.append(Planned("finish", Fault.UNANSWERED))
    assert await file_next(office.desk) is Outcome.POSTPONED
    with pytest.raises(ConflictError, match="goes on with it by itself"):
        await afresh(office, report_id)
    assert await soon(office) is Outcome.DRY_RUN
    with pytest.raises(ConflictError):
        await afresh(office, report_id)


async def test_under_dual_control_two_must_say_that_it_is_filed_afresh_each_time(office: Office) -> None:
    """The first word changes nothing, nor does a second of the same one; what was carried out is over."""
    grace = await add_custodian(office.database, office.pins, "grace")
    report_id = await office.approved()
    for submits in (1, 2):
        office.double.plan.append(Planned("finish", code=9999))
        assert await file_next(office.desk) is Outcome.PARKED
        assert office.double.calls["submit"] == submits
        states = []
        for who in (office.ada, office.ada, grace):
            sealed = await seen(office.database, report_id, office.pins.read())
            signed = deciding(Action.AFRESH, report_id, sealed, who)
            async with office.database.begin() as connection:
                taken = await accepting.take(
                    connection,
                    signed,
                    office.pins.read(),
                    report_id=report_id,
                    actions=(Action.AFRESH,),
                    dual_control=True,
                    by="cli",
                )
            states.append(taken.state)
        assert states == [State.PARKED, State.PARKED, State.SUBMITTED]
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert office.double.calls["submit"] == 3


async def test_under_dual_control_one_word_that_the_log_calls_the_second_begins_nothing_afresh(
    office: Office,
) -> None:
    """Who hands it in writes the entry of it: the worker counts who signed."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", code=9999))
    assert await file_next(office.desk) is Outcome.PARKED
    await afresh(office, report_id)
    async with office.database.connect() as connection:
        for dual_control, counted in ((False, 1), (True, 0)):
            found = await decisions.afresh(
                connection, report_id, office.pins.read(), dual_control=dual_control
            )
            assert len(found) == counted


async def test_a_note_is_not_taken_for_the_word_that_it_is_filed_afresh(office: Office) -> None:
    """It has a custodian's good signature; what it was recorded as is written by who can write to the log."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", code=9999))
    assert await file_next(office.desk) is Outcome.PARKED
    sealed = await seen(office.database, report_id, office.pins.read())
    noted = deciding(Action.ANNOTATE, report_id, sealed, office.ada)
    async with office.database.begin() as connection:
        signed = decision.verify(noted, office.pins.read())
        await accepting.record(connection, signed)
        told = accepting.told_of(signed, "cli")
        await audit.append(connection, filing_log.AFRESH_EVENT, report_id, told)
        await filing_orders.begin_anew(connection, report_id, now=office.clock())
    assert await file_next(office.desk) is Outcome.PARKED
    assert (await office.report(report_id)).cause == "not_approved"
    assert office.double.calls["submit"] == 1
    assert any("as another than was signed" in each.what for each in await office.doubts(report_id))


async def test_an_attempt_that_is_hidden_in_the_database_is_read_from_the_log(
    database: Database, store: StoreSettings
) -> None:
    """Whoever wipes how far it had come makes no second report of it: it is parked, and nothing is sent."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        for number, wiped in enumerate((delete(table), update(table).values(**WIPED))):
            report_id = await office.approved(str(number))
            office.double.plan.append(Planned("finish", Fault.UNANSWERED))
            assert await file_next(office.desk) is Outcome.POSTPONED
            async with database.begin() as connection:
                await connection.execute(wiped)
            assert await soon(office) is Outcome.PARKED
            assert (await office.report(report_id)).cause == "finish_unknown"
            assert office.double.tell(report_id)["opened"] == 1
            sealed = await seen(database, report_id, office.pins.read())
            by_hand = deciding(Action.FILED, report_id, sealed, office.ada)
            await office.decide(Action.FILED, report_id, by_hand)
            assert (await office.report(report_id)).state is State.FILED_MANUALLY


WIPED: dict[str, Any] = {
    "step": "submitting",
    "authority_report_id": None,
    "opened_at": None,
    "finish_attempted_at": None,
}


async def test_a_row_that_no_cordon_wrote_keeps_no_other_report_from_being_filed(office: Office) -> None:
    """Nor the worker from working: that report is named, and passed over until the row is mended or gone."""
    spoiled = await office.approved("a")
    office.double.plan.append(Planned("submit", Fault.HTML_502))
    assert await file_next(office.desk) is Outcome.POSTPONED
    async with office.database.begin() as connection:
        await connection.execute(
            update(table).values(step="a thief's", next_attempt_at=table.c.first_attempt_at)
        )
    good, elsewhere = await office.approved("b"), await office.approved("c")
    office.clock.ahead += LONGEST_PAUSE * 2
    with pytest.raises(UnreadableReportError, match=spoiled):
        await file_next(office.desk)
    assert await file_next(office.desk, but_for=[spoiled]) is Outcome.DRY_RUN
    office.double.plan.append(Planned("finish", Fault.UNANSWERED))
    assert await file_next(office.desk, but_for=[spoiled]) is Outcome.POSTPONED
    async with office.database.begin() as connection:
        await connection.execute(
            update(table).where(table.c.report_id == elsewhere).values(environment="a thief's")
        )
    office.clock.ahead += LONGEST_PAUSE * 2
    assert await file_next(office.desk, but_for=[spoiled]) is Outcome.PARKED
    states = [(await office.report(each)).state for each in (spoiled, good, elsewhere)]
    assert states == [State.APPROVED, State.DRY_RUN, State.PARKED]
    assert (await office.report(elsewhere)).cause == "finish_unknown"
    async with office.database.begin() as connection:
        await connection.execute(delete(table).where(table.c.report_id == spoiled))
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert await file_next(office.desk) is None


async def test_a_filing_that_is_gone_after_finish_was_called_is_left_to_a_person(
    database: Database, store: StoreSettings
) -> None:
    """The log tells of that call, so that deleting a row that cannot be read files nothing twice."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        office.double.plan.append(Planned("finish", Fault.UNHEARD))
        assert await file_next(office.desk) is Outcome.POSTPONED
        async with database.begin() as connection:
            await connection.execute(delete(table))
        assert await soon(office) is Outcome.PARKED
        assert (await office.report(report_id)).cause == "finish_unknown"
        assert office.double.calls["submit"] == 1


async def test_only_what_was_tried_before_can_be_tried_again(office: Office) -> None:
    """A retry approves nothing: neither what nobody approved, nor what is done."""
    waiting, done = await office.queued("a"), await office.approved("b")
    assert await file_next(office.desk) is Outcome.DRY_RUN
    for report_id in (waiting, done):
        with pytest.raises(ConflictError):
            await retry(office, report_id)
    async with office.database.begin() as connection:
        await reports.move(connection, waiting, to=State.PARKED, cause="test")
    with pytest.raises(ConflictError, match="Nobody tried"):
        await retry(office, waiting)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_where_the_authority_refuses_cordon_it_is_left_alone_under_an_alarm(office: Office) -> None:
    """One refusal, and no report is sent any more until /status is answered well."""
    report_ids = [await office.approved(medium) for medium in "ab"]
    office.double.plan.append(Planned("submit", code=2000, status=401))
    filer = Filer(office.database, office.desk, timedelta(hours=72))
    await filer.turn()
    assert office.double.calls["submit"] == 1
    async with office.database.connect() as connection:
        assert [(each.kind, each.subject) for each in await alarms.standing(connection)] == [
            (AlarmKind.FILING_REFUSED, "double")
        ]
    await filer.turn()
    assert office.double.calls == {**office.double.calls, "submit": 1, "status": 0}
    filer.refused_until = 0
    office.double.plan.append(Planned("status", code=2000, status=401))
    await filer.turn()
    assert (office.double.calls["submit"], office.double.calls["status"]) == (1, 1)
    filer.refused_until = 0
    office.clock.ahead += timedelta(hours=2)
    await filer.turn()
    assert all([(await office.report(each)).state is State.DRY_RUN for each in report_ids])
    async with office.database.connect() as connection:
        assert await alarms.standing(connection) == ()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_that_an_authority_refused_is_over_once_another_or_none_is_asked(office: Office) -> None:
    """As where an operator goes on from the test host to the real one: nobody would ever end that alarm."""

    async def refusing() -> tuple[str, ...]:
        async with office.database.connect() as connection:
            return await alarms.subjects_of(connection, AlarmKind.FILING_REFUSED)

    for after in (Environment.PRODUCTION, None):
        await office.approved(str(after))
        office.double.plan.append(Planned("submit", code=2000, status=401))
        office.environment = Environment.TEST
        filer = Filer(office.database, office.desk, timedelta(hours=72))
        await filer.turn()
        await filer.watch()
        assert await refusing() == ("test",)
        if after is not None:
            office.environment = after
        desk = office.desk if after is not None else None
        await Filer(office.database, desk, timedelta(hours=72)).watch()
        assert await refusing() == ()
        office.clock.ahead += timedelta(hours=2)


def remove_memory(_: Office, memory: Path) -> None:
    """As a disk that is full or read-only."""
    memory.parent.rmdir()


def pin_another(office: Office, _: Path) -> None:
    """As an operator who pinned a new worker, and left the old one running."""
    replace_worker(office)


def spoil_pins(office: Office, _: Path) -> None:
    """As an editor that saved half of it."""
    office.pins.path.write_text("[worker")


@pytest.mark.parametrize(
    ("break_it", "lacking", "words"),
    [
        (remove_memory, "memory", "No such file or directory"),
        (pin_another, "key", "cordon custodian pin"),
        (spoil_pins, "custodians", "not TOML"),
    ],
)
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_worker_that_cannot_file_says_so_until_somebody_mended_what_it_lacks(
    office: Office,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    break_it: Callable[[Office, Path], None],
    lacking: str,
    words: str,
) -> None:
    """By an alarm at once, and in its log once: nobody waits three days for a report that nobody sends."""
    memory = tmp_path / "memory" / "seen"
    memory.parent.mkdir()
    report_id, pinned = await office.approved(), office.pins.path.read_bytes()

    def worker() -> Filer:
        return Filer(office.database, replace(office.desk, witness=Witness(memory)), timedelta(hours=72))

    async def blocked() -> tuple[str, ...]:
        async with office.database.connect() as connection:
            return await alarms.subjects_of(connection, AlarmKind.WORKER_BLOCKED)

    def said() -> list[str]:
        return [
            str(getattr(each, "cordon_fields", ""))
            for each in caplog.records
            if each.message in {"nothing_is_filed", "worker_key_not_pinned"}
        ]

    break_it(office, memory)
    filer, beside = worker(), Filer(office.database, None, timedelta(hours=72))
    await beside.turn()
    for _ in range(3):
        await filer.turn()
        await beside.turn()
        assert await blocked() == (lacking,)
    assert words in said()[0]
    assert len(said()) <= 2
    assert office.double.calls["submit"] == 0
    # Mended, it goes on; so does one that is started in its place.
    memory.parent.mkdir(exist_ok=True)
    office.pins.path.write_bytes(pinned)
    await worker().turn()
    assert await blocked() == ()
    assert (await office.report(report_id)).state is State.DRY_RUN
    async with office.database.begin() as connection:
        await alarms.raise_alarm(connection, AlarmKind.WORKER_BLOCKED, lacking)
    await filer.turn()
    assert await blocked() == ()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_an_authority_that_has_too_many_requests_is_left_alone_for_as_long_as_it_says(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says seven seconds, to one report: no other is sent meanwhile, and then all are."""
    report_ids = [await office.approved(medium) for medium in "abc"]
    office.double.plan.append(Planned("submit", Fault.TOO_MANY))
    filer = Filer(office.database, office.desk, timedelta(hours=72))
    await filer.turn()
    await filer.turn()
    assert office.double.calls["submit"] == 1
    here = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: here() + 8)
    await filer.turn()
    assert office.double.calls["submit"] == 3
    office.clock.ahead += timedelta(hours=2)
    await filer.turn()
    assert all([(await office.report(each)).state is State.DRY_RUN for each in report_ids])


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_what_is_overdue_is_said_while_another_report_waits_for_its_answer(office: Office) -> None:
    """Each slow answer takes a minute; a thousand of them would keep the alarm back for most of a day."""
    first, late = await office.approved("a"), await office.approved("b")
    answered, asked = asyncio.Event(), asyncio.Event()
    submit = office.authority.submit

    async def slowly(document: bytes) -> Answer:
        asked.set()
        await answered.wait()
        return await submit(document)

    filer = Filer(office.database, office.desk, timedelta(hours=72))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(office.authority, "submit", slowly)
        turn = asyncio.create_task(filer.turn())
        await asked.wait()
        office.clock.ahead += timedelta(hours=73)
        await filer.watch()
        async with office.database.connect() as connection:
            standing = await alarms.subjects_of(connection, AlarmKind.FILING_FAILING)
        assert set(standing) == {first, late}
        answered.set()
        await turn


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_what_is_not_filed_72_hours_after_its_approval_raises_an_alarm(office: Office) -> None:
    """Never silence, and it goes on being tried; the alarm ends when it is filed."""
    report_id = await office.approved()
    filer = Filer(office.database, office.desk, timedelta(hours=72))
    for hours in (0, 71, 2):
        office.clock.ahead += timedelta(hours=hours)
        office.double.plan.append(Planned("submit", Fault.HTML_502))
        await filer.turn()
        async with office.database.connect() as connection:
            standing = await alarms.standing(connection)
        assert [(each.kind, each.subject) for each in standing] == (
            [(AlarmKind.FILING_FAILING, report_id)] if hours == 2 else []
        )
    office.clock.ahead += timedelta(hours=3)
    await filer.turn()
    await filer.turn()
    assert (await office.report(report_id)).state is State.DRY_RUN
    async with office.database.connect() as connection:
        assert await alarms.standing(connection) == ()


async def test_a_report_that_is_made_to_look_young_again_and_again_is_overdue_all_the_same(
    office: Office,
) -> None:
    """Whoever keeps it from being filed writes the time of its approval anew; in the log that is seen."""
    report_id = await office.approved()
    office.clock.ahead += timedelta(hours=73)
    young = {"decided_at": office.clock(), "changed_at": office.clock()}
    async with office.database.begin() as connection:
        await connection.execute(update(report_table).where(report_table.c.id == report_id).values(young))
    await Filer(office.database, office.desk, timedelta(hours=72)).watch()
    async with office.database.connect() as connection:
        assert await alarms.subjects_of(connection, AlarmKind.FILING_FAILING) == (report_id,)
