"""How the two databases are opened.

SQLite runs in WAL mode with ``synchronous=FULL`` and overwrites what is deleted; its file is 0600 in a
directory of 0700. PostgreSQL is dialled with the URL as it was given, which no engine keeps.
"""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import stat
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiosqlite
import asyncpg
from sqlalchemy import (
    Connection,
    event,
)
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.settings import SettingsError
from app.store.rows import UnreadableRowError

LOCK_WAIT_SECONDS: Final = 5.0
"""How long one statement waits for another process's write on SQLite."""

STATEMENT_SECONDS: Final = 10.0
"""How long PostgreSQL, or a free connection of the pool, is waited for."""

WRITES: Final = "cordon_writes"
"""Execution option of the connections that write: SQLite begins their transactions as a writer's."""


def sqlite_path(database_url: str) -> Path | None:
    """The file of an SQLite URL; None for a PostgreSQL one. The URL may hold a password: never show it.

    Raises:
        SettingsError: it is neither.
    """
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


def open_sqlite(path: Path) -> AsyncEngine:
    """A database in a file, which is made if it is missing, in a directory that is there.

    Raises:
        OSError, sqlite3.Error: it cannot be opened, or is no database.
    """
    _prepare_sqlite(path)
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        async_creator=partial(_dial_sqlite, path.absolute()),
        hide_parameters=True,
        pool_timeout=STATEMENT_SECONDS,
    )
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


async def _dial_sqlite(path: Path) -> aiosqlite.Connection:
    """A connection to the file; the driver leaves to the collector what was opened after nobody waited."""
    connection = aiosqlite.connect(
        path,
        # The driver's own transactions begin late and deferred; a listener of the engine begins them instead.
        isolation_level=None,
        timeout=LOCK_WAIT_SECONDS,
        check_same_thread=False,
    )
    # As SQLAlchemy does where it dials itself: who leaves a connection open can end all the same.
    connection._thread.daemon = True  # noqa: SLF001
    opening = asyncio.ensure_future(connection)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(sqlite3.Error):
            await (await opening).close()
        raise


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


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader cannot always become a writer: it would fail at once as busy.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def open_postgresql(database_url: str) -> AsyncEngine:
    """A database on a server, which is dialled when it is first needed."""

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
