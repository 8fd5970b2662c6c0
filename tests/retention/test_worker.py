"""The worker process keeps time: it purges when it starts, and erases what another left."""

import asyncio
import signal
import subprocess
from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store import alarms, removal
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.schema import reports as table
from app.store.shelf import ReportShelf
from tests.gates import CORDON, START_SECONDS, environment
from tests.pins import add_custodian, pins_of
from tests.stubs import stub


async def test_a_worker_removes_what_is_due_erases_it_and_raises_what_time_raises(
    store: StoreSettings, database: Database
) -> None:
    """One report of a year ago, and one that has waited for a custodian for longer than a day."""
    pins = pins_of(store)
    await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    due, waiting = [(await outbox.commit(stub(name))).id for name in ("due", "waiting")]
    long_ago = datetime.now(UTC) - timedelta(days=400)
    async with database.begin() as connection:
        for report_id, changed in (
            (due, {"state": "filed", "changed_at": long_ago, "receipt_at": long_ago}),
            (waiting, {"created_at": datetime.now(UTC) - timedelta(hours=25)}),
        ):
            await connection.execute(update(table).where(table.c.id == report_id).values(changed))
    process = await asyncio.create_subprocess_exec(
        CORDON,
        "worker",
        env=environment(store, jurisdiction="us"),
        cwd=store.state_dir.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            while not (await _tombs(database))[:1] or (await _tombs(database))[0].erased_at is None:
                assert process.returncode is None
                await asyncio.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            await process.wait()
    (tomb,) = await _tombs(database)
    assert tomb.id == due
    async with database.connect() as connection:
        stand = [(alarm.kind, alarm.subject) for alarm in await alarms.standing(connection)]
    assert stand == [(AlarmKind.REPORT_WAITING, waiting)]


async def _tombs(database: Database) -> tuple[removal.Tombstone, ...]:
    async with database.connect() as connection:
        return await removal.every(connection)
