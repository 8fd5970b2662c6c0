"""The database: SQLite beside the process, or PostgreSQL by URL, opened so that a commit is durable.

SQLite runs in WAL mode with ``synchronous=FULL`` and overwrites what is deleted; its file is 0600 in a
directory of 0700. On PostgreSQL each write transaction asks for ``synchronous_commit``. Neither the URL
nor any value that goes to the database appears in an error or a log.

It does not promise what the server beneath PostgreSQL does with its disks (``fsync=off``), nor what a
disk does that lies about its cache.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, get_origin

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    RowMapping,
    Select,
    cast,
    event,
    func,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import NotReadyError
from app.settings import SettingsError, StoreSettings
from app.store.schema import UnreadableRowError

DATABASE_NAME: Final = "cordon.db"

LOCK_WAIT_SECONDS: Final = 5.0
"""How long one statement waits for another process's write on SQLite."""

STATEMENT_SECONDS: Final = 10.0
"""How long PostgreSQL, or a free connection of the pool, is waited for."""

IDLE_SECONDS: Final = 60
"""How long a write transaction on PostgreSQL may do nothing: one of a process that is stopped, or of a
machine that froze, would keep what it locked, as the end of the audit log, from all others for ever."""

_WRITES_ON_POSTGRESQL: Final = text(
    "SELECT set_config('synchronous_commit', 'on', true), "
    "set_config('idle_in_transaction_session_timeout', :idle, true)"
)

_WRITING_SECONDS: Final = 1.0
"""How long who writes in many transactions goes on before it leaves the others their turn."""

_TURN_SECONDS: Final = 0.125
"""For so long then. SQLite looks for its lock every tenth of a second, and knows no queue."""

RETRY_SECONDS: Final = 5.0
"""How long a write is tried again that failed for a reason that passes."""

_FIRST_PAUSE_SECONDS: Final = 0.02

# serialization_failure, deadlock_detected, lock_not_available (PostgreSQL's appendix A).
_PASSING_SQLSTATES: Final = frozenset({"40001", "40P01", "55P03"})

MIGRATIONS: Final = Path(__file__).resolve().parents[2] / "migrations"

# Any number will do, if no other use of advisory locks in the same database takes it too.
_MIGRATION_LOCK: Final = 0x436F72646F6E01

_LEAST_INTEGER: Final = -(2**63)
_LARGEST_INTEGER: Final = 2**63 - 1

_WRITES: Final = "cordon_writes"

# At DEBUG these log statements with their values, and rows.
_TALKATIVE_LOGGERS: Final = ("sqlalchemy", "aiosqlite", "alembic")

# What a connection attempt raises is not always wrapped by SQLAlchemy.
DATABASE_ERRORS: Final = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    sqlite3.Error,
    OSError,
    TimeoutError,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Answer = TypeVar("Answer")
Made = TypeVar("Made")
Row = TypeVar("Row", bound="DataclassInstance")


class SchemaError(Exception):
    """The tables are not those that this Cordon speaks; the message names the mend."""


class Database:
    """One database, its connections, and its schema.

    Attributes:
        engine: for reading; writers use ``begin``.
        is_sqlite: whether it is a file of this machine.
        file: that file; None of PostgreSQL.
    """

    def __init__(self, engine: AsyncEngine, file: Path | None = None) -> None:
        self.engine = engine
        self.is_sqlite = file is not None
        self.file = file
        self._file_id = _file_id(file) if file is not None else None
        self._writing_engine = engine.execution_options(**{_WRITES: True})
        # SQLite has one writer at a time. Waiting here is fair and free; waiting in SQLite is polling.
        self._turn: contextlib.AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if self.is_sqlite else contextlib.nullcontext()
        )
        self._gave_way_at = float("-inf")

    @classmethod
    def open(cls, settings: StoreSettings) -> Self:
        """Open the database that the settings name; the tables are not looked at yet.

        Raises:
            SettingsError: ``CORDON_DATABASE_URL`` is of no known form, or the directory cannot be used.
        """
        for name in _TALKATIVE_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        url = settings.database_url
        if url is None:
            make_private_directory(settings.state_dir)
            return cls._open_file(settings.state_dir / DATABASE_NAME)
        path = _sqlite_path(url)
        if path is None:
            return cls(_open_postgresql(url))
        if not path.parent.exists():
            make_private_directory(path.parent)
        return cls._open_file(path)

    @classmethod
    def _open_file(cls, path: Path) -> Self:
        return cls(_open_sqlite(path), path)

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with; all reads of one ``async with`` see one state on SQLite.

        Raises:
            NotReadyError: the database does not answer.
        """
        with _told_as_not_ready():
            async with self.engine.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A durable write transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            NotReadyError: the database does not answer or cannot be written.
            sqlalchemy.exc.IntegrityError: a constraint was hurt; functions of the store deal with it.
        """
        with _told_as_not_ready():
            async with self._transaction() as connection:
                yield connection

    async def write(self, work: Callable[[AsyncConnection], Awaitable[Answer]]) -> Answer:
        """Run work in a durable write transaction, and again if it failed for a reason that passes.

        Such are a lock that was waited for too long, two transactions in each other's way, a row that
        another process made at the same moment, and a lost connection. After the last, nobody knows whether
        the commit happened: the work must find out what it did already.

        Raises:
            NotReadyError: the database does not answer, cannot be written, or the reason did not pass.
        """
        deadline = time.monotonic() + RETRY_SECONDS
        pause = _FIRST_PAUSE_SECONDS
        with _told_as_not_ready(conflicts=True):
            while True:
                try:
                    async with self._transaction() as connection:
                        return await work(connection)
                except SQLAlchemyError as error:
                    if not _passes(error) or time.monotonic() + pause > deadline:
                        raise
                await asyncio.sleep(pause)
                pause *= 2

    async def give_way(self) -> None:
        """Let other processes write, now and then: for who writes in one transaction after another.

        Else a report could find SQLite busy whenever it looks, for as long as an import takes.
        """
        if self.is_sqlite and time.monotonic() - self._gave_way_at >= _WRITING_SECONDS:
            await asyncio.sleep(_TURN_SECONDS)
            self._gave_way_at = time.monotonic()

    async def migrate_if_empty(self) -> None:
        """Make the tables if there are none. Several processes may do so at once."""
        await self._change_schema(lambda connection: None if _revisions(connection) else _upgrade(connection))

    async def upgrade(self) -> None:
        """Bring the tables to this Cordon's schema."""
        await self._change_schema(_upgrade)

    async def check_current(self) -> None:
        """Return only if the tables are those that this Cordon speaks.

        Raises:
            SchemaError: they are missing, older or newer.
            NotReadyError: the database does not answer.
        """
        async with self.connect() as connection:
            there = await connection.run_sync(_revisions)
        scripts = ScriptDirectory.from_config(_alembic_config())
        if there == set(scripts.get_heads()):
            return
        if there - {script.revision for script in scripts.walk_revisions()}:
            raise SchemaError("the database was made by a newer Cordon; install that, or restore a backup")
        was = "is older than this Cordon" if there else "has no tables yet"
        raise SchemaError(f"the database {was}; run 'cordon db upgrade'")

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._turn, self._writing_engine.begin() as connection:
            # SQLite would go on writing to a file that was deleted or replaced, and that nobody reads again.
            if self.file is not None and _file_id(self.file) != self._file_id:
                raise FileNotFoundError(errno.ENOENT, "the database file was deleted or replaced")
            if not self.is_sqlite:
                # Stronger than whatever the role or the database was configured to.
                await connection.execute(_WRITES_ON_POSTGRESQL, {"idle": f"{IDLE_SECONDS}s"})
            yield connection

    async def _change_schema(self, change: Callable[[Connection], None]) -> None:
        async with self.begin() as connection:
            if not self.is_sqlite:
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                )
            await connection.run_sync(change)


@contextlib.asynccontextmanager
async def open_current(settings: StoreSettings) -> AsyncIterator[Database]:
    """The database that the settings name, migrated if it was empty, until the block ends.

    Raises:
        SettingsError, NotReadyError, SchemaError: it cannot be used as it is.
    """
    database = Database.open(settings)
    try:
        await database.migrate_if_empty()
        await database.check_current()
        yield database
    finally:
        await database.close()


def make_private_directory(path: Path) -> None:
    """Make a directory that only this user can enter, or make an existing one so.

    Raises:
        SettingsError: it cannot be made, or it is one that others write to as well, like ``/tmp``.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & stat.S_IWOTH:
            raise SettingsError(f"{path}: others may write there; name a directory of its own")
        if mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        message = f"{path}: cannot be used as a directory of state: {error.strerror}"
        raise SettingsError(message) from error


def describe(error: BaseException) -> str:
    """What kind of database error it is, for operators: never its text, which may hold values."""
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code = (
        getattr(origin, "sqlite_errorname", None)
        or getattr(origin, "sqlstate", None)
        or (os.strerror(origin.errno) if isinstance(origin, OSError) and origin.errno else None)
    )
    return type(error).__name__ + (f", {code}" if code else "")


async def clock(connection: AsyncConnection) -> datetime:
    """One clock for all processes on a database: its server's, or that of the machine that SQLite is on."""
    if connection.dialect.name != "postgresql":
        return datetime.now(UTC)
    # Not the time at which the transaction began: it may have waited for a row since.
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Rows are read within: one that holds what no Cordon wrote is an ``UnreadableRowError``.

    SQLite keeps anything in any column, bytes that are no text in one of text too, and PostgreSQL times of
    other ages than Python has. Whatever stumbles over that says so in one of these ways.
    """
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise UnreadableRowError from None
    except DBAPIError as error:
        if not _is_unreadable(error):
            raise
        raise UnreadableRowError from None


async def spans(
    database: "Database", numbers: ColumnElement[int], width: int
) -> AsyncIterator[tuple[int, int]]:
    """Ranges of a column's numbers, at most so wide and none of them empty, from the least on.

    However far apart they are: whoever can write to the database makes nobody count for ever.

    Raises:
        NotReadyError: the database does not answer.
        UnreadableRowError: what follows on the last range is no number.
    """
    last = _LEAST_INTEGER
    while True:
        async with database.connect() as connection:
            first = await connection.scalar(select(func.min(numbers)).where(numbers > last))
        if first is None:
            return
        if not isinstance(first, int):
            raise UnreadableRowError
        last = min(first + width - 1, _LARGEST_INTEGER)
        yield first, last


async def read_each(
    connection: AsyncConnection, wanted: Select[Any], made: Callable[[RowMapping], Made]
) -> tuple[list[Made], list[ColumnElement[bool]]]:
    """What is made of each row, in order; and where those rows are that hold what no Cordon wrote.

    They are read together, and one by one only if one of them cannot be read, so that it stands before no
    other. What holds of the place of a row is true until the transaction ends.

    Args:
        connection: to read with.
        wanted: rows of one table.
        made: makes something of a row.
    """
    try:
        with readable():
            rows = (await connection.execute(wanted)).mappings().all()
            return [made(row) for row in rows], []
    except UnreadableRowError:
        pass
    place: ColumnElement[Any] = literal_column(
        "rowid" if connection.dialect.name == "sqlite" else "CAST(ctid AS TEXT)"
    )
    places = (await connection.execute(wanted.with_only_columns(place, maintain_column_froms=True))).scalars()
    found: list[Made] = []
    unreadable: list[ColumnElement[bool]] = []
    for at in places.all():
        there = place == literal(at)
        try:
            with readable():
                found += [made(row) for row in (await connection.execute(wanted.where(there))).mappings()]
        except UnreadableRowError:
            unreadable.append(there)
    return found, unreadable


def as_it_stands(connection: AsyncConnection, column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A column to be read whatever somebody put there: SQLite keeps anything in any, and gives its bytes."""
    return cast(column, LargeBinary) if connection.dialect.name == "sqlite" else column


def as_text(untrusted: object) -> str:
    """What such a column holds, where it should hold text."""
    return untrusted.decode("utf-8", "backslashreplace") if isinstance(untrusted, bytes) else str(untrusted)


def of_its_types(row: Row) -> Row:
    """A frozen dataclass that was made of a row, if each field holds what it is declared to.

    Raises:
        UnreadableRowError: one does not: SQLite keeps anything in any column, and constraints can be dropped.
    """
    for each in fields(row):
        # What an item of a tuple or a set is, its reader has seen.
        origin = get_origin(each.type)
        declared: Any = origin if origin in {tuple, frozenset} else each.type
        if not isinstance(getattr(row, each.name), declared):
            raise UnreadableRowError
    return row


def _is_unreadable(error: DBAPIError) -> bool:
    """Whether it is Python's driver that found text to be no UTF-8, and not SQLite that failed."""
    return isinstance(error.orig, sqlite3.OperationalError) and not hasattr(error.orig, "sqlite_errorname")


@contextlib.contextmanager
def _told_as_not_ready(*, conflicts: bool = False) -> Iterator[None]:
    try:
        yield
    except DATABASE_ERRORS as error:
        if isinstance(error, IntegrityError) and not conflicts:
            raise
        if isinstance(error, DBAPIError) and _is_unreadable(error):
            raise UnreadableRowError from None
        raise NotReadyError(f"database ({describe(error)})") from None


def _passes(error: SQLAlchemyError) -> bool:
    if isinstance(error, IntegrityError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    sqlite = str(getattr(error.orig, "sqlite_errorname", ""))
    return (
        sqlite.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
        or getattr(error.orig, "sqlstate", None) in _PASSING_SQLSTATES
        or error.connection_invalidated
    )


def _sqlite_path(database_url: str) -> Path | None:
    """The file of an SQLite URL; None for a PostgreSQL one. The URL may hold a password: never show it."""
    try:
        url = make_url(database_url)
    except ArgumentError:
        raise SettingsError("CORDON_DATABASE_URL: cannot be read as a URL") from None
    if url.drivername in {"postgresql", "postgres"}:
        return None
    if url.drivername != "sqlite":
        raise SettingsError("CORDON_DATABASE_URL: write 'postgresql://...' or 'sqlite:///path'")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:") or url.query:
        raise SettingsError("CORDON_DATABASE_URL: write the path of a file, 'sqlite:///path'")
    return Path(url.database)


def _open_sqlite(path: Path) -> AsyncEngine:
    try:
        _prepare_sqlite(path)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"{path}: cannot be opened as a database: {describe(error)}") from None
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        # The driver's own transactions begin late and deferred; the listener below begins them instead.
        connect_args={"isolation_level": None, "timeout": LOCK_WAIT_SECONDS},
        hide_parameters=True,
        pool_timeout=STATEMENT_SECONDS,
    )
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(path: Path) -> None:
    """Make the file private before SQLite sees it; its ``-wal`` and ``-shm`` take over its mode.

    Turning to WAL fails when two processes do it at once, whatever the busy timeout: hence the lock.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with contextlib.suppress(FileExistsError):
            _make_private_file(path, os.fstat(directory))
        for file in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
            # By path: opening and closing it here would drop the locks of this process's other connections.
            if file.exists() and stat.S_IMODE(file.stat().st_mode) & 0o077:
                file.chmod(0o600)
        with contextlib.closing(sqlite3.connect(path, timeout=LOCK_WAIT_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    finally:
        os.close(directory)


def _make_private_file(path: Path, directory: os.stat_result) -> None:
    """A new file that its directory's owner alone can use, also where root makes it; SQLite's own follow it.

    Raises:
        FileExistsError: it is there already.
        OSError: it cannot be made, or not be given to that user; then it is not there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, directory.st_uid, directory.st_gid)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def _configure_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - an untyped driver
    cursor = connection.cursor()
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
        # Large sorts would go to a file in the temp directory otherwise.
        "temp_store=MEMORY",
        "trusted_schema=OFF",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _file_id(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader cannot always become a writer: it would fail at once as busy.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _open_postgresql(database_url: str) -> AsyncEngine:
    # asyncpg reads the URL itself, so libpq's own parameters (host, sslmode, ...) work as people know
    # them, and the engine, whose repr ends up in logs, never holds the password.
    async def dial() -> Any:  # noqa: ANN401 - asyncpg brings no types
        return await asyncpg.connect(
            database_url,
            timeout=STATEMENT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            server_settings={"application_name": "cordon"},
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=dial,
        hide_parameters=True,
        pool_timeout=STATEMENT_SECONDS,
        pool_pre_ping=True,
    )
    event.listen(engine.sync_engine, "handle_error", _tell_time_out_of_range)
    return engine


def _tell_time_out_of_range(failed: ExceptionContext) -> None:
    """PostgreSQL keeps times of ages that Python has not, over which the driver stumbles."""
    if isinstance(failed.original_exception, OverflowError):
        raise UnreadableRowError from None


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _revisions(connection: Connection) -> set[str]:
    return set(MigrationContext.configure(connection).get_current_heads())


def _upgrade(connection: Connection) -> None:
    config = _alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
