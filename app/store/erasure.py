"""Rewrites the database's files, so that nothing of deleted rows is left in them.

SQLite overwrites what is deleted, yet copies that moved from page to page, and old pages in the write-ahead
log, stay: it takes a VACUUM, and a checkpoint that empties the log. PostgreSQL keeps deleted rows until
VACUUM FULL writes the tables anew.

Beyond reach: what the file system and flash cells keep of freed blocks, PostgreSQL's own write-ahead log,
replicas and backups. ``docs/retention.md`` says what to do about each.
"""

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotReadyError
from app.store.database import Database, describe
from app.store.engines import LOCK_WAIT_SECONDS

TABLES: Final = ("reports", "sightings", "decisions", "filings", "idempotency")
"""Where reports and what hangs on them stand."""

WAIT_SECONDS: Final = 5.0
"""How long others are waited for that still read, or hold a table."""

REWRITE_SECONDS: Final = 3600.0

_PAUSE_SECONDS: Final = 0.1


async def erase(database: Database) -> bool:
    """Rewrite what held reports; whether all of it was. False means: somebody is reading, try again.

    Raises:
        NotReadyError: the database does not answer, or this role may not rewrite its tables.
    """
    if database.file is not None:
        return await asyncio.to_thread(_erase_sqlite, database.file)
    async with database.connect() as connection:
        return await _erase_postgresql(connection)


def _erase_sqlite(path: Path) -> bool:
    try:
        # Outside SQLAlchemy, which begins a transaction: VACUUM cannot run in one.
        with contextlib.closing(
            sqlite3.connect(path, timeout=LOCK_WAIT_SECONDS, isolation_level=None)
        ) as connection:
            # In memory: VACUUM's transient database would go to the temp directory otherwise.
            for pragma in ("secure_delete=ON", "synchronous=FULL", "temp_store=MEMORY"):
                connection.execute(f"PRAGMA {pragma}")
            # Once before, so that what was overwritten with zeros is so in the file itself.
            return _emptied_log(connection) and _vacuumed(connection) and _emptied_log(connection)
    except sqlite3.Error as error:
        raise NotReadyError(f"the database cannot be erased: {describe(error)}") from None


def _vacuumed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            return False
        raise
    return True


def _emptied_log(connection: sqlite3.Connection) -> bool:
    """Write the log back to the file and cut it to nothing; False if somebody reads from it all the time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)


async def _erase_postgresql(connection: AsyncConnection) -> bool:
    # Outside SQLAlchemy, which begins a transaction: VACUUM cannot run in one.
    driver: Any = (await connection.get_raw_connection()).driver_connection
    if not await _earlier_readers_are_gone(driver):
        return False
    before = await _file_numbers(driver)
    await driver.execute(f"SET lock_timeout = {round(1000 * WAIT_SECONDS)}")
    try:
        await driver.execute(f"VACUUM (FULL) {', '.join(TABLES)}", timeout=REWRITE_SECONDS)
    except asyncpg.LockNotAvailableError:
        return False
    finally:
        await driver.execute("RESET lock_timeout")
    after = await _file_numbers(driver)
    # It only warns where it may not.
    if any(before[table] == after[table] for table in TABLES):
        raise NotReadyError("VACUUM FULL left a table as it was: the role must own Cordon's tables")
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        # The old files, cut to nothing already, go with the next one.
        await driver.execute("CHECKPOINT", timeout=REWRITE_SECONDS)
    return True


async def _file_numbers(driver: Any) -> dict[str, int]:  # noqa: ANN401 - asyncpg brings no types
    names = ", ".join(f"'{table}'" for table in TABLES)
    rows = await driver.fetch(
        "SELECT relname, pg_relation_filenode(oid) AS number FROM pg_class "  # noqa: S608 - names of ours
        f"WHERE oid IN (SELECT to_regclass(name) FROM unnest(ARRAY[{names}]) AS name)"
    )
    return {row["relname"]: row["number"] for row in rows}


async def _earlier_readers_are_gone(driver: Any) -> bool:  # noqa: ANN401 - asyncpg brings no types
    """Wait for transactions that can still see what was deleted: VACUUM FULL would copy it for them."""
    deadline = time.monotonic() + WAIT_SECONDS
    now = await driver.fetchval("SELECT clock_timestamp()")
    while True:
        earlier = await driver.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL AND xact_start < $1",
            now,
        )
        if not earlier:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_PAUSE_SECONDS)
