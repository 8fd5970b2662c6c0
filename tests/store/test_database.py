"""The database: durable, private, migrated once, and silent about its values."""

import asyncio
import contextlib
import logging
import sqlite3
import stat
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from app.api.readiness import Readiness
from app.errors import NotReadyError
from app.settings import SettingsError, StoreSettings
from app.store import database as database_module
from app.store import migrating
from app.store.database import Database, SchemaError, open_current
from app.store.migrating import MIGRATIONS
from app.store.processes import register
from app.store.schema import index_state, metadata, processes, secrets
from tests.conftest import run_on_postgres

ROOT = Path(__file__).resolve().parents[2]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def _names(database: Database) -> list[str]:
    async with database.connect() as connection:
        return list((await connection.execute(select(secrets.c.name).order_by(secrets.c.name))).scalars())


async def test_migrations_make_exactly_the_tables_of_the_schema(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))

    async with database.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_an_empty_database_is_migrated_and_then_current(empty_store: StoreSettings) -> None:
    database = Database.open(empty_store)
    try:
        with pytest.raises(SchemaError, match="cordon db upgrade"):
            await database.check_current()
        await database.migrate_if_empty()
        await database.check_current()
        await database.migrate_if_empty()
        await database.upgrade()
        assert await _names(database) == ["place"]
    finally:
        await database.close()


async def test_processes_that_migrate_an_empty_database_at_once_all_succeed(
    empty_store: StoreSettings,
) -> None:
    program = (
        "import asyncio, sys\n"
        "from app.settings import StoreSettings\n"
        "from app.store.database import Database\n"
        "async def main():\n"
        "    database = Database.open(StoreSettings.model_validate_json(sys.argv[1]))\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    await database.migrate_if_empty()\n"
        "    await database.check_current()\n"
        "    await database.close()\n"
        "asyncio.run(main())\n"
    )
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            empty_store.model_dump_json(),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert await racer.stdout.readline() == b"ready\n"
    await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    assert [racer.returncode for racer in racers] == [0, 0]
    database = Database.open(empty_store)
    assert await _names(database) == ["place"]
    await database.close()


async def test_a_migration_works_from_any_working_directory(
    empty_store: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    database = Database.open(empty_store)
    await database.migrate_if_empty()
    await database.check_current()
    await database.close()


async def test_an_older_and_a_newer_database_are_refused_with_the_mend(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'"))
    with pytest.raises(SchemaError, match="newer Cordon"):
        await database.check_current()
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(SchemaError, match="cordon db upgrade"):
        await database.check_current()


def test_the_names_of_the_migrations_tell_what_alembic_reads_in_them() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    assert migrating.known() == {script.revision for script in scripts.walk_revisions()}
    assert [migrating.current()] == scripts.get_heads()


def test_a_process_that_has_nothing_to_migrate_loads_no_alembic() -> None:
    """It takes a fifth of what a process loads, and each command is one."""
    loaded = "import sys, app.main, app.worker; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", loaded], check=False).returncode == 0


def test_the_migrations_are_part_of_an_installed_cordon() -> None:
    """They stand beside ``app`` in the source tree and in a wheel alike."""
    assert (MIGRATIONS / "env.py").is_file()
    assert MIGRATIONS.parent == ROOT
    assert 'include = ["app*", "migrations*"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


async def test_sqlite_is_durable_private_and_overwrites_what_it_deletes(tmp_path: Path) -> None:
    state_dir = tmp_path / "deep" / "state"
    database = Database.open(StoreSettings(state_dir=state_dir))
    await database.migrate_if_empty()
    async with database.begin() as connection:
        settings = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "temp_store")
        }
        await connection.execute(insert(secrets).values(name="x", value=b"y"))
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "secure_delete": 1,
        "temp_store": 2,
    }
    files = sorted(path.name for path in state_dir.iterdir())
    assert files == ["cordon.db", "cordon.db-shm", "cordon.db-wal"]
    assert _mode(state_dir) == 0o700
    assert {_mode(state_dir / name) for name in files} == {0o600}
    await database.close()


async def test_an_open_state_directory_and_file_are_closed_to_others(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o755)
    database = Database.open(StoreSettings(state_dir=state_dir))
    await database.migrate_if_empty()
    files = [state_dir / name for name in ("cordon.db", "cordon.db-wal", "cordon.db-shm")]
    for file in files:
        file.chmod(0o644)
    state_dir.chmod(0o755)
    other = Database.open(StoreSettings(state_dir=state_dir))
    assert _mode(state_dir) == 0o700
    assert [_mode(file) for file in files] == [0o600] * 3
    await other.close()
    await database.close()


def test_a_directory_that_others_write_to_is_refused_and_left_alone(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(SettingsError, match="others may write there"):
        Database.open(StoreSettings(state_dir=shared))
    assert (_mode(shared), list(shared.iterdir())) == (0o1777, [])


async def test_sqlite_by_url_is_a_file_of_that_path(tmp_path: Path) -> None:
    path = tmp_path / "own" / "other.db"
    database = Database.open(StoreSettings(database_url=f"sqlite:///{path}"))
    await database.migrate_if_empty()
    await database.close()
    assert (_mode(path.parent), _mode(path)) == (0o700, 0o600)


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hunter2@h/d", "hunter2", "sqlite://", "sqlite:///:memory:", "sqlite:///hunter2?mode=ro"],
)
def test_another_database_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="CORDON_DATABASE_URL") as refusal:
        Database.open(StoreSettings(database_url=url))
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2@/d?host=/nowhere-at-all",
        "postgresql://user:hunter2@127.0.0.1:1/d",
        "postgresql://user:hunter2@127.0.0.1:1/d?sslmode=hunter2",
    ],
)
async def test_an_unreachable_server_is_not_ready_and_its_password_is_not_told(url: str) -> None:
    database = Database.open(StoreSettings(database_url=url))
    with pytest.raises(NotReadyError, match="database") as refusal:
        async with database.connect():
            pass
    shown = f"{refusal.value} {refusal.value.__cause__} {refusal.value.detail} {database.engine!r}"
    assert "hunter2" not in shown
    await database.close()


async def test_writes_are_durable_on_postgresql_whatever_the_database_was_set_to(
    database: Database, store: StoreSettings
) -> None:
    if store.database_url is not None:
        name = store.database_url.split("/")[3].split("?")[0]
        await run_on_postgres(store.database_url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    async with database.begin() as connection:
        setting = "PRAGMA synchronous" if database.is_sqlite else "SHOW synchronous_commit"
        assert (await connection.exec_driver_sql(setting)).scalar_one() in {2, "on"}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_who_writes_on_postgresql_sees_what_others_committed_whatever_the_database_was_set_to(
    database: Database, store: StoreSettings, level: str
) -> None:
    """What is looked at once a row is locked would be as old as the wait for that row."""
    if store.database_url is None:
        return
    name = store.database_url.split("/")[3].split("?")[0]
    await run_on_postgres(
        store.database_url, f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"
    )
    async with database.begin() as connection:
        setting = await connection.exec_driver_sql("SHOW transaction_isolation")
        assert setting.scalar_one() == "read committed"


async def test_who_stops_in_the_middle_of_a_write_keeps_nobody_from_writing_for_ever(
    database: Database, store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen machine, or a process that somebody stopped: its locks are PostgreSQL's to take back."""
    if database.is_sqlite:
        return
    monkeypatch.setattr(database_module, "IDLE_SECONDS", 1)
    other = Database.open(store)
    row = select(index_state.c.generation).with_for_update()

    written: list[str] = []

    async def write_and_stop() -> None:
        async with database.begin() as stopped:
            await stopped.execute(row)
            async with other.begin() as connection:
                await connection.execute(row)
            written.append("another")
            await stopped.execute(row)

    try:
        with pytest.raises(NotReadyError):
            await write_and_stop()
        assert written == ["another"]
    finally:
        await other.close()


async def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    with contextlib.suppress(KeyError):
        async with database.begin() as connection:
            await connection.execute(insert(secrets).values(name="torn", value=b"x"))
            raise KeyError
    assert await _names(database) == ["place"]


async def test_values_stand_in_no_log_and_no_error(
    store: StoreSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    database = Database.open(store)
    secret = "the-value-nobody-may-see"  # noqa: S105 - the canary
    async with database.begin() as connection:
        await connection.execute(insert(secrets).values(name=secret, value=secret.encode()))
        assert (await connection.execute(select(secrets).where(secrets.c.name == secret))).one()
    with pytest.raises(NotReadyError) as refusal:
        await database.write(
            lambda connection: connection.execute(
                text("INSERT INTO no_such_table VALUES (:it)"), {"it": secret}
            )
        )
    with pytest.raises(NotReadyError, match="IntegrityError") as conflict:
        async with database.begin() as connection:
            await connection.execute(insert(secrets).values(name="x", value=None))
    await database.close()
    shown = caplog.text + str(refusal.value) + repr(refusal.value) + str(conflict.value)
    assert "nobody-may-see" not in shown


async def test_a_write_is_tried_again_when_another_made_the_same_row(database: Database) -> None:
    attempts = 0

    async def work(connection: object) -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise IntegrityError("INSERT", {}, Exception())
        return attempts

    assert await database.write(work) == 3


async def test_a_write_gives_up_when_the_reason_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.engines.LOCK_WAIT_SECONDS", 0.01)
    monkeypatch.setattr("app.store.database.RETRY_SECONDS", 0.1)
    settings = StoreSettings(state_dir=tmp_path / "state")
    database = Database.open(settings)
    await database.migrate_if_empty()
    other = sqlite3.connect(settings.state_dir / "cordon.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(NotReadyError, match="SQLITE_BUSY: another process has it locked"):
        await database.write(lambda connection: connection.execute(insert(secrets)))
    other.close()
    await database.close()


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_database_file_that_was_deleted_or_replaced_takes_no_more_writes(
    tmp_path: Path, *, replaced: bool
) -> None:
    """SQLite itself would go on as if nothing had happened, and each report would be lost."""
    settings = StoreSettings(state_dir=tmp_path / "state")
    database = Database.open(settings)
    await database.migrate_if_empty()
    (settings.state_dir / "cordon.db").rename(tmp_path / "moved.db")
    if replaced:
        (settings.state_dir / "cordon.db").touch()
    with pytest.raises(NotReadyError, match="No such file"):
        await database.write(lambda connection: connection.execute(select(secrets)))
    await database.close()


async def test_writers_of_one_process_and_of_several_wait_for_each_other(store: StoreSettings) -> None:
    databases = [Database.open(store) for _ in range(2)]

    async def count_up(database: Database) -> None:
        async with database.begin() as connection:
            read = select(index_state.c.generation).with_for_update()
            generation = (await connection.execute(read)).scalar_one()
            await asyncio.sleep(0)
            await connection.execute(index_state.update().values(generation=generation + 1))

    await asyncio.gather(*(count_up(database) for database in databases for _ in range(10)))
    async with databases[0].connect() as connection:
        assert (await connection.execute(select(index_state.c.generation))).scalar_one() == 20
    for database in databases:
        await database.close()


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_gate_whose_disk_is_full_is_not_ready_though_small_writes_still_succeed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go to where the write-ahead log has room already; the next report would not."""
    banks: Any = SimpleNamespace(generation=0)
    nothing: Any = None
    ready = Readiness(
        process_id=await register(database, "serve"),
        database=database,
        banks=banks,
        sandbox=nothing,
        pins=nothing,
        require_custodian=True,
    )
    assert database.has_room()
    assert await ready._can_write()
    # Of a disk that has less than this free.
    monkeypatch.setattr("app.store.database.ROOM_BYTES", 2**62)
    async with database.begin() as connection:
        await connection.execute(index_state.update().values(generation=1))
    assert not await ready._can_write()


async def test_all_reads_of_one_connection_see_one_state(database: Database) -> None:
    """Whatever is committed between them: else a report and the log of a moment later would not agree."""
    generation = select(index_state.c.generation)
    async with database.connect() as connection:
        before = (await connection.execute(generation)).scalar_one()
        async with database.begin() as other:
            await other.execute(index_state.update().values(generation=before + 1))
        assert (await connection.execute(generation)).scalar_one() == before
    async with database.connect() as connection:
        assert (await connection.execute(generation)).scalar_one() == before + 1


async def test_who_writes_in_one_transaction_after_another_gives_way_to_other_processes(
    store: StoreSettings,
) -> None:
    """SQLite knows no queue: a report would find it busy for as long as a large import takes."""
    importing, reporting = Database.open(store), Database.open(store)
    reported = asyncio.Event()

    async def import_much() -> None:
        while not reported.is_set():
            async with importing.begin() as connection:
                await connection.execute(update(index_state).values(generation=index_state.c.generation + 1))
                await asyncio.sleep(0.4)
            await importing.give_way()

    busy = asyncio.create_task(import_much())
    try:
        for name in ("first", "second", "third"):
            async with asyncio.timeout(4), reporting.begin() as connection:
                await connection.execute(insert(secrets).values(name=name, value=b""))
    finally:
        reported.set()
        await busy
        await importing.close()
        await reporting.close()


async def test_times_come_back_in_utc_and_naive_ones_are_refused(database: Database) -> None:
    moment = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=-5)))
    row = {"id": "p", "role": "serve", "started_at": moment, "generation": 0}
    async with database.begin() as connection:
        await connection.execute(insert(processes).values(**row, seen_at=moment))
        (stored,) = (await connection.execute(select(processes.c.seen_at))).scalars()
    assert (stored, stored.utcoffset()) == (moment, timedelta(0))
    naive = update(processes).values(seen_at=moment.replace(tzinfo=None))
    with pytest.raises(NotReadyError, match="StatementError"):
        await database.write(lambda connection: connection.execute(naive))


async def test_a_cancelled_write_gives_its_turn_and_its_connection_back(database: Database) -> None:
    for _ in range(20):
        began = asyncio.Event()

        async def write(began: asyncio.Event = began) -> None:
            async with database.begin() as connection:
                began.set()
                await connection.execute(insert(secrets).values(name="cancelled", value=b"x"))
                await asyncio.Event().wait()

        task = asyncio.create_task(write())
        await began.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert await _names(database) == ["place"]


async def test_a_connection_that_is_opened_for_nobody_any_more_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is cancelled while the driver's thread opens a file leaves no file open."""
    made: list[sqlite3.Connection] = []
    slowly = threading.Event()
    connect = sqlite3.connect

    def remembered(*told: Any, **named: Any) -> sqlite3.Connection:
        slowly.wait(0.05)
        made.append(connect(*told, **named))
        return made[-1]

    database = Database.open(StoreSettings(state_dir=tmp_path / "state"))
    monkeypatch.setattr("aiosqlite.core.sqlite3.connect", remembered)
    for turns in range(1, 12):
        reading = asyncio.create_task(_read(database))
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    await database.close()
    assert made
    for connection in made:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


async def _read(database: Database) -> None:
    async with database.connect() as connection:
        await connection.execute(text("SELECT 1"))
        await asyncio.sleep(60)


def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(SettingsError, match="cannot be used"):
        Database.open(StoreSettings(state_dir=tmp_path / "state"))


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "cordon.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(SettingsError, match="cannot be opened"):
        Database.open(StoreSettings(state_dir=tmp_path / "state"))


async def test_what_the_command_line_opens_is_migrated_current_and_closed(empty_store: StoreSettings) -> None:
    async with open_current(empty_store) as database:
        assert await _names(database) == ["place"]
        async with database.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = 'from-the-future'"))
    with pytest.raises(SchemaError, match="newer Cordon"):
        async with open_current(empty_store):
            pass
