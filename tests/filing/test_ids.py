"""The authority's ids are believed only as the worker signed them, whatever somebody puts in the database."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app.custody import ending
from app.custody.decision import Action
from app.filing.cybertip.environment import Environment
from app.filing.cybertip_double.application import Fault, Planned
from app.filing.cybertip_double.service import State as There
from app.filing.turn import LONGEST_PAUSE, Outcome, file_next
from app.settings import StoreSettings
from app.store.database import Database
from app.store.record import audit
from app.store.reports import endings, filing_orders, filings
from app.store.reports.filing_log import FINISHING_EVENT, GIVEN_ID_EVENT
from app.store.reports.filings import Step
from app.store.reports.report_states import State
from app.store.schema import audit as log
from app.store.schema import filings as table
from app.store.schema import reports
from tests.deciding import deciding, seen
from tests.filing.office import Office, document, open_office


@pytest.fixture
async def office(database: Database, store: StoreSettings) -> AsyncIterator[Office]:
    async with open_office(database, store) as opened:
        yield opened


async def filed_already(office: Office) -> str:
    """The id of a report of somebody else that the authority has."""
    reply = office.double.service.submit("text/xml", document("01SOMEBODYELSES"))
    office.double.service.finish(reply.report_id)
    return str(reply.report_id)


async def write(office: Office, report_id: str, **values: Any) -> None:
    """Call a report submitted, and write its row of the filings."""
    async with office.database.begin() as connection:
        if await filings.get(connection, report_id) is None:
            await filings.claim(connection, environment="double", now=office.clock(), report_id=report_id)
        free = {"lease": None, "leased_until": None} | values
        await connection.execute(update(table).where(table.c.report_id == report_id).values(**free))
        await connection.execute(
            update(reports).where(reports.c.id == report_id).values(state=State.SUBMITTED.value)
        )


async def append(office: Office, report_id: str, event: str, details: audit.Details) -> None:
    """An entry that follows on from all before."""
    async with office.database.begin() as connection:
        await audit.append(connection, event, report_id, details)


async def entry(office: Office, report_id: str, event: str) -> dict[str, Any]:
    """The details of the newest entry of an event."""
    return dict(await office.events(report_id))[event]


@pytest.mark.parametrize("step", [Step.OPENED, Step.FINISHING])
@pytest.mark.parametrize("rejected", [False, True], ids=["approved", "rejected"])
@pytest.mark.parametrize("forged", ["nothing", "an entry", "an entry with the signature of another report"])
async def test_a_report_does_not_count_as_filed_under_the_id_of_another(
    office: Office,
    step: Step,
    rejected: bool,  # noqa: FBT001 - a parameter of pytest's
    forged: str,
) -> None:
    """The authority would say that it has that one; this one would be lost, and called filed."""
    other = await office.approved("b")
    assert await file_next(office.desk) is Outcome.DRY_RUN
    report_id = await office.approved()
    signed = await entry(office, other, GIVEN_ID_EVENT)
    finished = signed["authority_report_id"] if "signature" in forged else await filed_already(office)
    now = office.clock()
    attempted = now if step is Step.FINISHING else None
    await write(
        *(office, report_id),
        step=step.value, authority_report_id=finished, opened_at=now, finish_attempted_at=attempted,
    )  # fmt: skip
    if forged != "nothing":
        details = {"environment": "double", "authority_report_id": finished}
        await append(office, report_id, GIVEN_ID_EVENT, signed | details)
        if attempted:
            await append(office, report_id, FINISHING_EVENT, details)
    if rejected:
        await office.reject(report_id)
    calls = dict(office.double.calls)
    assert await file_next(office.desk) is Outcome.PARKED
    report = await office.report(report_id)
    assert (report.state, report.cause) == (State.PARKED, "id_unproven")
    assert office.double.calls == calls


async def test_what_is_parked_for_its_id_is_opened_anew_unless_somebody_tried_to_finish_it(
    office: Office,
) -> None:
    report_id = await office.approved()
    now = office.clock()
    await write(office, report_id, step="opened", authority_report_id="4711", opened_at=now)
    assert await file_next(office.desk) is Outcome.PARKED
    async with office.database.begin() as connection:
        assert not await filing_orders.retry(connection, report_id, now=office.clock(), by="cli")
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert office.double.tell(report_id)["filed_exactly_once"]


@pytest.mark.parametrize("signed", ["nothing", "that another id of it was withdrawn"])
async def test_nobody_but_the_worker_says_that_the_authority_withdrew_a_report(
    database: Database, store: StoreSettings, signed: str
) -> None:
    """The authority has it, and its answer was lost: it would be filed a second time."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        await filed_and_called_withdrawn(office, signed)


async def filed_and_called_withdrawn(office: Office, signed: str) -> None:
    report_id = await office.approved()
    details: dict[str, Any] = {}
    if signed != "nothing":
        office.double.plan.append(Planned("finish", Fault.UNHEARD))
        await file_next(office.desk)
        await office.reject(report_id)
        assert await file_next(office.desk) is Outcome.RETRACTED
        details = await entry(office, report_id, "report.retracted")
        await office.approve(report_id)
    office.double.plan.append(Planned("finish", Fault.UNANSWERED))
    office.clock.ahead += LONGEST_PAUSE * 2
    assert await file_next(office.desk) is Outcome.POSTPONED
    attempted = await entry(office, report_id, FINISHING_EVENT)
    await append(office, report_id, "report.retracted", details or attempted)
    async with office.database.begin() as connection:
        await connection.execute(delete(table).where(table.c.report_id == report_id))
    assert await file_next(office.desk) is Outcome.PARKED
    assert (await office.report(report_id)).cause == "finish_unknown"
    assert office.double.tell(report_id)["finished"] == 1
    assert office.double.tell(report_id)["open"] == 0


async def test_what_is_filed_afresh_is_withdrawn_under_no_id_but_its_own(office: Office) -> None:
    """The authority would say that it has the other one, and the report would count as filed."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", code=9999))
    assert await file_next(office.desk) is Outcome.PARKED
    forged = {"environment": "double", "authority_report_id": await filed_already(office)}
    await append(office, report_id, FINISHING_EVENT, forged)
    digests = await seen(office.database, report_id, office.pins.read())
    await office.decide(Action.AFRESH, report_id, deciding(Action.AFRESH, report_id, digests, office.ada))
    assert await file_next(office.desk) is Outcome.DRY_RUN
    told = office.double.tell(report_id)
    assert (told["retracted"], told["finished"]) == (1, 1)
    assert office.double.service.reports[told["report_ids"][0]].state is There.RETRACTED


async def test_each_id_that_the_authority_gives_is_signed(office: Office) -> None:
    """Also that of a report that is opened once more while it is submitted already."""
    report_id = await office.approved()
    office.double.plan.append(Planned("finish", Fault.UNHEARD))
    await file_next(office.desk)
    await office.reject(report_id)
    await file_next(office.desk)
    await office.approve(report_id)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    async with office.database.connect() as connection:
        given = await endings.given(connection, report_id, office.pins.read())
        rows = await connection.execute(
            select(log.c.details).where(log.c.subject == report_id, log.c.event == GIVEN_ID_EVENT)
        )
        documents = [audit.said(row.details)[endings.MEMBER] for row in rows]
    assert given == {("double", each) for each in office.double.tell(report_id)["report_ids"]}
    said = [ending.verify(each, office.pins.read())[0] for each in documents]
    assert [each.state for each in said] == ["submitted"] * 2
    assert await office.doubts(report_id) == ()
