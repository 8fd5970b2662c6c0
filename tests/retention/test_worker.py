"""The worker process keeps time: it purges when it starts, and erases what another left."""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from app.custody.identity import Identity, write_identity
from app.custody.roster import RosterFile
from app.errors import NotReadyError
from app.report.outbox import SealedOutbox
from app.retention import purge
from app.settings import RetentionSettings, StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.reports import removal
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from app.worker import PURGE_EVERY, Chore
from tests.ahead import shim
from tests.ended import bring_to, pin_worker
from tests.gates import START_SECONDS, environment
from tests.pins import add_custodian, pins_of
from tests.stubs import stub


async def test_a_worker_removes_what_is_due_erases_it_and_raises_what_time_raises(
    store: StoreSettings, database: Database
) -> None:
    """A year and a month after one report was filed; another waits for a custodian since."""
    pins = pins_of(store)
    ada = await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    due, waiting = [(await outbox.commit(stub(name))).id for name in ("due", "waiting")]
    await bring_to(database, pins, due, State.FILED, ada=ada, worker=worker_of(store, pins))
    async with a_worker_ahead(store) as process:
        while not (await _tombs(database))[:1] or (await _tombs(database))[0].erased_at is None:
            assert process.returncode is None
            await asyncio.sleep(0.1)
    (tomb,) = await _tombs(database)
    assert tomb.id == due
    async with database.connect() as connection:
        stand = [(alarm.kind, alarm.subject) for alarm in await alarms.standing(connection)]
    assert stand == [(AlarmKind.REPORT_WAITING, waiting)]


async def test_a_row_that_cannot_be_read_ends_no_worker(store: StoreSettings, database: Database) -> None:
    """It calls a person, and what else the worker has to do is done: a report is still removed."""
    pins = pins_of(store)
    ada = await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    over, unreadable = [(await outbox.commit(stub(name))).id for name in ("over", "unreadable")]
    await bring_to(database, pins, over, State.FILED, ada=ada, worker=worker_of(store, pins))
    never = "294276-01-01" if database.file is None else "never"
    async with database.begin() as connection:
        spoilt = f"UPDATE reports SET created_at = '{never}' WHERE id = '{unreadable}'"  # noqa: S608 - ours
        await connection.execute(text(spoilt))
    async with a_worker_ahead(store) as process:
        stand: set[tuple[AlarmKind, str]] = set()
        while (AlarmKind.ROW_UNREADABLE, "upkeep") not in stand:
            assert process.returncode is None
            await asyncio.sleep(0.1)
            async with database.connect() as connection:
                stand = {(alarm.kind, alarm.subject) for alarm in await alarms.standing(connection)}
    assert (AlarmKind.REPORT_ALTERED, unreadable) in stand
    assert [tomb.id for tomb in await _tombs(database)] == [over]


async def test_a_purge_that_the_database_cut_short_is_made_up_for_at_the_next_turn(
    store: StoreSettings, database: Database
) -> None:
    """And once it is done, not before the next day."""
    pins = pins_of(store)
    ada = await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    worker = pin_worker(pins)

    async def purged() -> None:
        now = datetime.now(UTC) + timedelta(days=400)
        settings = RetentionSettings(jurisdiction="us")
        await purge.purge(database, settings, pins.read(), now, by="worker", identity=worker)

    async def rename(name: str, to: str) -> None:
        async with database.begin() as connection:
            await connection.execute(text(f"ALTER TABLE {name} RENAME TO {to}"))

    async def due(medium: str) -> str:
        report_id = (await outbox.commit(stub(medium))).id
        await bring_to(database, pins, report_id, State.FILED, ada=ada, worker=worker)
        return report_id

    first, chore = await due("a"), Chore(PURGE_EVERY, purged)
    await rename("audit", "away")
    with pytest.raises(NotReadyError):
        await chore.turn(0)
    await rename("away", "audit")
    assert await _tombs(database) == ()
    await chore.turn(1)
    assert [tomb.id for tomb in await _tombs(database)] == [first]
    second = await due("b")
    await chore.turn(PURGE_EVERY)
    assert [tomb.id for tomb in await _tombs(database)] == [first]
    await chore.turn(PURGE_EVERY + 1)
    assert [tomb.id for tomb in await _tombs(database)] == [first, second]


def worker_of(store: StoreSettings, pins: RosterFile) -> Identity:
    """A pinned worker's identity, where the worker finds it."""
    worker = pin_worker(pins)
    write_identity(worker, store.state_dir / "worker.key")
    return worker


@contextlib.asynccontextmanager
async def a_worker_ahead(store: StoreSettings) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker whose clock is a year and a month ahead; it ends well when it is told to."""
    process = await asyncio.create_subprocess_exec(
        shim(store.state_dir.parent / "ahead", days=400),
        "worker",
        env=environment(store, jurisdiction="us"),
        cwd=store.state_dir.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(START_SECONDS):
            code = await process.wait()
    assert code == 0


async def _tombs(database: Database) -> tuple[removal.Tombstone, ...]:
    async with database.connect() as connection:
        return await removal.every(connection)
