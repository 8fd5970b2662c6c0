"""Processes: announced, heard of, forgotten; and the heartbeat proves that the database can be written."""

from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from sqlalchemy import select, update

from app.errors import NotReadyError
from app.store import database as opened
from app.store import processes
from app.store.database import Database
from app.store.processes import LIVE_SECONDS
from app.store.schema import processes as table


async def _live(database: Database) -> list[tuple[str, str, int]]:
    async with database.connect() as connection:
        return [(found.id, found.role, found.generation) for found in await processes.live(connection)]


async def _last_seen(database: Database, process_id: str, ago: timedelta) -> None:
    async with database.begin() as connection:
        await connection.execute(
            update(table).where(table.c.id == process_id).values(seen_at=datetime.now(UTC) - ago)
        )


async def test_a_process_tells_which_generation_it_has_in_force(database: Database) -> None:
    process_id = await processes.register(database, "serve")
    assert await _live(database) == [(process_id, "serve", 0)]
    await processes.heartbeat(database, process_id, 7)
    assert await _live(database) == [(process_id, "serve", 7)]


async def test_a_process_that_ended_or_fell_silent_is_not_waited_for(database: Database) -> None:
    ended, silent, lives = [await processes.register(database, "serve") for _ in range(3)]
    await processes.unregister(database, ended)
    await _last_seen(database, silent, timedelta(seconds=LIVE_SECONDS + 1))
    assert await _live(database) == [(lives, "serve", 0)]
    await processes.heartbeat(database, silent, 1)
    assert sorted(await _live(database)) == sorted([(silent, "serve", 1), (lives, "serve", 0)])


class _AnHourBehind(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "_AnHourBehind":
        return super().now(tz) - timedelta(hours=1)


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
async def test_a_process_whose_machine_has_another_time_is_waited_for(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        for module in (opened, processes):
            elsewhere.setattr(module, "datetime", _AnHourBehind, raising=False)
        late = await processes.register(database, "serve")
        await processes.heartbeat(database, late, 3)
    assert await _live(database) == [(late, "serve", 3)]


async def test_processes_long_gone_are_forgotten_when_another_starts(database: Database) -> None:
    gone = await processes.register(database, "serve")
    await _last_seen(database, gone, timedelta(days=2))
    started = await processes.register(database, "worker")
    async with database.connect() as connection:
        assert (await connection.execute(select(table.c.id))).scalars().all() == [started]


async def test_a_heartbeat_that_writes_nothing_is_no_proof(database: Database) -> None:
    with pytest.raises(processes.ForgottenError, match="not registered"):
        await processes.heartbeat(database, "01JNOBODY", 1)


async def test_a_process_that_was_forgotten_registers_again_under_its_id(database: Database) -> None:
    process_id = await processes.register(database, "serve")
    await processes.unregister(database, process_id)
    assert await processes.register(database, "serve", process_id) == process_id
    await processes.heartbeat(database, process_id, 3)
    assert await _live(database) == [(process_id, "serve", 3)]


async def test_a_heartbeat_fails_when_the_database_cannot_be_written(database: Database) -> None:
    process_id = await processes.register(database, "serve")
    async with database.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE processes RENAME TO elsewhere")
    with pytest.raises(NotReadyError, match="database"):
        await processes.heartbeat(database, process_id, 1)
