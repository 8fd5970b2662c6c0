"""The database: SQLite beside the process, or PostgreSQL by URL, written to so that a commit is durable.

Neither the URL nor any value that goes to the database appears in an error or a log.

It does not promise what the server beneath PostgreSQL does with its disks (``fsync=off``), nor what a
disk does that lies about its cache.
"""

import asyncio
import contextlib
import errno
import logging
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import asyncpg
from sqlalchemy import ColumnElement, Connection, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.errors import NotReadyError
from app.settings import SettingsError, StoreSettings
from app.store import migrating
from app.store.engines import WRITES, open_postgresql, open_sqlite, sqlite_path
from app.store.rows import UnreadableRowError, is_unreadable

DATABASE_NAME: Final = "cordon.db"

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

ROOM_BYTES: Final = 4 * 1024 * 1024
"""So much is free on SQLite's disk, or the next report may not fit. A write that succeeds tells nothing of
that: a small one goes to where the write-ahead log has room already."""

RETRY_SECONDS: Final = 5.0
"""How long a write is tried again that failed for a reason that passes."""

_FIRST_PAUSE_SECONDS: Final = 0.02

# serialization_failure, deadlock_detected, lock_not_available (PostgreSQL's appendix A).
_PASSING_SQLSTATES: Final = frozenset({"40001", "40P01", "55P03"})

# Any number will do, if no other use of advisory locks in the same database takes it too.
_MIGRATION_LOCK: Final = 0x436F72646F6E01

_LEAST_INTEGER: Final = -(2**63)
_LARGEST_INTEGER: Final = 2**63 - 1

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


_MEANT: Final = {
    "SQLITE_BUSY": "another process has it locked",
    "SQLITE_FULL": "its disk is full",
    "SQLITE_READONLY": "it is read-only",
    "25006": "it is read-only",
    "28P01": "it refuses the password",
    "3D000": "there is no such database",
    "53100": "its disk is full",
    "53300": "it takes no more connections",
    "57P03": "it is starting or stopping",
}
"""What codes mean that an operator can do something about, for those who do not know them by heart."""

Answer = TypeVar("Answer")


class SchemaError(Exception):
    """The tables are not those that this Cordon speaks; the message names the mend."""


class Database:
    """One database, its connections, and its schema.

    Attributes:
        engine: the one whose connections all others are.
        is_sqlite: whether it is a file of this machine.
        file: that file; None of PostgreSQL.
    """

    def __init__(self, engine: AsyncEngine, file: Path | None = None) -> None:
        self.engine = engine
        self.is_sqlite = file is not None
        self.file = file
        self._file_id = _file_id(file) if file is not None else None
        # Said, since who owns the database or the role can set another: then what is looked at once a row is
        # locked would be as old as the wait for it.
        self._writing_engine = engine.execution_options(
            **{WRITES: True}, **({} if self.is_sqlite else {"isolation_level": "READ COMMITTED"})
        )
        # PostgreSQL would show each statement what was committed just before it: a report as it stood, and
        # the log as it says a moment later, which looks as if somebody had changed the database.
        self._reading_engine = (
            engine if self.is_sqlite else engine.execution_options(isolation_level="REPEATABLE READ")
        )
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
        path = sqlite_path(url)
        if path is None:
            return cls(open_postgresql(url))
        if not path.parent.exists():
            make_private_directory(path.parent)
        return cls._open_file(path)

    @classmethod
    def _open_file(cls, path: Path) -> Self:
        try:
            return cls(open_sqlite(path), path)
        except (OSError, sqlite3.Error) as error:
            raise SettingsError(f"{path}: cannot be opened as a database: {describe(error)}") from None

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()

    def has_room(self) -> bool:
        """Whether reports fit on the disk; of PostgreSQL's, its server alone knows."""
        if self.file is None:
            return True
        try:
            disk = os.statvfs(self.file.parent)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize >= ROOM_BYTES

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with; all reads of one ``async with`` see one state.

        Raises:
            NotReadyError: the database does not answer.
        """
        with _told_as_not_ready():
            async with self._reading_engine.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A durable write transaction: committed at the end of the block, rolled back if it raises.

        Where a constraint can be hurt, the block deals with that. One that is hurt otherwise is
        not of Cordon's making, as that of a trigger: the database does not take the write.

        On PostgreSQL each statement sees what others committed before it: whoever compares what is stored of
        a report with the log locks its row first (``app.store.reports.reports.lock``).

        Raises:
            NotReadyError: the database does not answer or cannot be written.
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
        with _told_as_not_ready():
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
        await self._change_schema(_upgrade_if_empty)

    async def upgrade(self) -> None:
        """Bring the tables to this Cordon's schema."""
        await self._change_schema(migrating.upgrade)

    async def check_current(self) -> None:
        """Return only if the tables are those that this Cordon speaks.

        Raises:
            SchemaError: they are missing, older or newer.
            NotReadyError: the database does not answer.
        """
        async with self.connect() as connection:
            there = await connection.run_sync(migrating.revisions)
        if there == {migrating.current()}:
            return
        if there - migrating.known():
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
    kind = type(error).__name__ + (f", {code}" if code else "")
    return f"{kind}: {_MEANT[code]}" if code in _MEANT else kind


async def clock(connection: AsyncConnection) -> datetime:
    """One clock for all processes on a database: its server's, or that of the machine that SQLite is on."""
    if connection.dialect.name != "postgresql":
        return datetime.now(UTC)
    # Not the time at which the transaction began: it may have waited for a row since.
    now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return now


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


@contextlib.contextmanager
def _told_as_not_ready() -> Iterator[None]:
    try:
        yield
    except DATABASE_ERRORS as error:
        if is_unreadable(error):
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


def _file_id(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _upgrade_if_empty(connection: Connection) -> None:
    if not migrating.revisions(connection):
        migrating.upgrade(connection)
