"""Alarms: one for each cause, however often it is seen; kept until it is gone; each told by a notice."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, text, update

from app.filing import alarms as watching
from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store import alarms
from app.store.alarms import ADVICE, AlarmKind
from app.store.database import Database
from app.store.reports.shelf import ReportShelf
from app.store.schema import alarms as table
from app.store.schema import notices, reports
from tests.pins import add_custodian, pins_of
from tests.stubs import stub


async def _standing(database: Database) -> list[tuple[AlarmKind, str]]:
    async with database.connect() as connection:
        return [(alarm.kind, alarm.subject) for alarm in await alarms.standing(connection)]


async def _posted(database: Database) -> list[tuple[str, str, str]]:
    async with database.connect() as connection:
        rows = await connection.execute(
            select(notices.c.event, notices.c.subject, notices.c.state).order_by(notices.c.created_at)
        )
        return [(row.event, row.subject, row.state) for row in rows if row.event.startswith("alarm.")]


async def test_an_alarm_is_raised_once_cleared_once_and_raised_anew(database: Database) -> None:
    """Each change is told once, and what was cleared may come back."""
    for work, expected in (
        (alarms.raise_alarm, [True, False]),
        (alarms.clear_alarm, [True, False]),
        (alarms.raise_alarm, [True, False]),
    ):
        for changed in expected:
            async with database.begin() as connection:
                assert await work(connection, AlarmKind.REPORT_PARKED, "R1") is changed
    assert await _standing(database) == [(AlarmKind.REPORT_PARKED, "R1")]
    assert await _posted(database) == [
        ("alarm.raised", "R1", "report_parked"),
        ("alarm.cleared", "R1", "report_parked"),
        ("alarm.raised", "R1", "report_parked"),
    ]
    async with database.connect() as connection:
        counted = await alarms.count_standing(connection)
    assert counted == {**dict.fromkeys(AlarmKind, 0), AlarmKind.REPORT_PARKED: 1}


async def _never_store(database: Database) -> None:
    """Have the database take no alarm in."""
    action = "BEGIN SELECT RAISE(IGNORE); END"
    async with database.begin() as connection:
        if not database.is_sqlite:
            action = "FOR EACH ROW EXECUTE FUNCTION quiet()"
            await connection.execute(
                text(
                    "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
                )
            )
        await connection.execute(text(f"CREATE TRIGGER quiet BEFORE INSERT ON alarms {action}"))


@pytest.mark.parametrize("how", ["taken in never", "there before"])
async def test_an_alarm_that_the_database_keeps_back_is_in_the_log_of_who_sees_its_cause(
    database: Database, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Once, for as long as the cause is seen; and anew when it comes back."""
    caplog.set_level(logging.INFO)
    if how == "there before":
        async with database.begin() as connection:
            at = datetime.now(UTC)
            row = {"kind": "report_parked", "subject": "R1", "raised_at": at}
            await connection.execute(insert(table).values(row))
    else:
        await _never_store(database)
    for subjects in (["R1"], ["R1"], ["R1", "R2"], [], ["R2"]):
        async with database.begin() as connection:
            await alarms.match_to(connection, AlarmKind.REPORT_PARKED, subjects)
    said = [(each.msg, each.cordon_fields["subject"]) for each in caplog.records]  # type: ignore[attr-defined]
    told = [subject for event, subject in said if event in {"alarm_raised", "alarm_stands"}]
    assert told == ["R1", "R2", "R2"]


async def test_an_alarm_goes_with_a_transaction_that_fails(database: Database) -> None:
    """Nothing is told of what did not happen."""

    async def attempt() -> None:
        async with database.begin() as connection:
            await alarms.raise_alarm(connection, AlarmKind.FILING_FAILING, "R1")
            raise LookupError

    try:
        await attempt()
    except LookupError:
        assert await _standing(database) == []
        assert await _posted(database) == []
    else:
        raise AssertionError


async def test_processes_that_see_the_same_cause_raise_one_alarm(
    store: StoreSettings, database: Database
) -> None:
    """The second waits for the first, and finds it raised."""
    others = [Database.open(store) for _ in range(3)]

    async def see(by: Database) -> bool:
        async with by.begin() as connection:
            return await alarms.raise_alarm(connection, AlarmKind.CUSTODIAN_UNPROVEN, "f00d")

    try:
        raised = await asyncio.gather(*(see(by) for by in (database, *others)))
    finally:
        for other in others:
            await other.close()
    assert sorted(raised) == [False, False, False, True]
    assert len(await _posted(database)) == 1


async def test_every_kind_says_what_to_do() -> None:
    assert set(ADVICE) == set(AlarmKind)


async def test_a_report_that_waits_a_day_or_is_parked_raises_an_alarm_until_it_moves(
    database: Database, store: StoreSettings
) -> None:
    """At the worker's turn, on the states that stand; a day less a minute is no alarm."""
    pins = pins_of(store)
    await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    early, late, parked = [(await outbox.commit(stub(name))).id for name in ("early", "late", "parked")]
    now = datetime.now(UTC)

    async def put(report_id: str, **values: object) -> None:
        async with database.begin() as connection:
            await connection.execute(update(reports).where(reports.c.id == report_id).values(values))

    await put(late, created_at=now + timedelta(minutes=2))
    await put(parked, state="parked", changed_at=now)
    for passed, waiting in (
        (timedelta(hours=23, minutes=59), []),
        (timedelta(hours=24, minutes=1), [early]),
        (timedelta(hours=24, minutes=1), [early]),
        (timedelta(hours=24, minutes=3), [early, late]),
    ):
        await watching.watch(database, now + passed)
        assert sorted(await _standing(database)) == [
            (AlarmKind.REPORT_PARKED, parked),
            *((AlarmKind.REPORT_WAITING, each) for each in waiting),
        ]
    for each in (early, late):
        await put(each, state="rejected", changed_at=now)
    await put(parked, state="approved", changed_at=now)
    await watching.watch(database, now + timedelta(days=3))
    assert await _standing(database) == []
