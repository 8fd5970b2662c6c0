"""Notices: written with what they tell of, copied for each channel, kept until they were told."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store import notices
from app.store.database import Database
from app.store.notices import ALARM_RAISED, REPORT_CHANGED
from app.store.reports.shelf import ReportShelf
from app.store.schema import notices as table
from tests.pins import add_custodian, pins_of
from tests.stubs import stub

LEASE = timedelta(minutes=5)


async def _left(database: Database) -> int:
    async with database.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


async def test_each_new_report_leaves_one_notice_and_a_later_sighting_none(
    database: Database, store: StoreSettings
) -> None:
    """In the report's own transaction, of its id and state alone."""
    pins = pins_of(store)
    await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    first = await outbox.commit(stub("one"))
    assert (await outbox.commit(stub("one"))).joined
    second = await outbox.commit(stub("two"))
    async with database.connect() as connection:
        rows = await connection.execute(
            select(table.c.event, table.c.subject, table.c.state).order_by(table.c.created_at)
        )
        assert [tuple(row) for row in rows] == [
            ("report.changed", first.id, "queued"),
            ("report.changed", second.id, "queued"),
        ]


async def test_a_notice_is_copied_for_each_channel_that_wants_it(database: Database) -> None:
    """What none wants goes, as does what waits for a channel that is gone; nothing is copied twice."""
    async with database.begin() as connection:
        await notices.post(connection, REPORT_CHANGED, "R1", "filed")
        await notices.post(connection, ALARM_RAISED, "R2", "report_waiting")
    wanted = {"webhook": lambda _: True, "email": lambda notice: notice.event == ALARM_RAISED}
    for _ in range(2):
        async with database.begin() as connection:
            assert not await notices.address(connection, wanted)
    taken = {}
    for channel in wanted:
        async with database.begin() as connection:
            taken[channel] = await notices.take_due(connection, channel, limit=10, lease=LEASE)
    assert [notice.subject for notice in taken["webhook"]] == ["R1", "R2"]
    assert [(notice.subject, notice.state) for notice in taken["email"]] == [("R2", "report_waiting")]
    ids = [notice.id for notices_taken in taken.values() for notice in notices_taken]
    assert len(set(ids)) == len(ids)
    async with database.begin() as connection:
        await notices.post(connection, REPORT_CHANGED, "R3", "queued")
        await notices.told(connection, ids[:1])
        await notices.address(connection, {})
    assert await _left(database) == 0


async def test_a_notice_that_was_taken_is_nobody_elses_until_its_lease_is_over(
    store: StoreSettings, database: Database
) -> None:
    """Then the next one gets it under the same id; a postponed one comes when it is due."""
    async with database.begin() as connection:
        await notices.post(connection, REPORT_CHANGED, "R1", "filed")
        await notices.address(connection, {"webhook": lambda _: True})
    other = Database.open(store)

    async def take(by: Database, lease: timedelta) -> tuple[notices.Notice, ...]:
        async with by.begin() as connection:
            return await notices.take_due(connection, "webhook", limit=10, lease=lease)

    try:
        (first,) = await take(database, LEASE)
        assert first.attempts == 0
        assert await take(other, LEASE) == ()
        async with database.begin() as connection:
            await notices.postpone(connection, [first.id], datetime.now(UTC))
        (again,) = await take(other, timedelta(0))
        assert (again.id, again.attempts) == (first.id, 1)
        (yet_again,) = await take(database, LEASE)
        assert yet_again.attempts == 2
        async with database.connect() as connection:
            assert await notices.oldest(connection, "webhook") == first.created_at
            assert await notices.oldest(connection, "email") is None
    finally:
        await other.close()
