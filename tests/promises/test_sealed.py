"""Promise 5: who steals the database reads no report."""

import logging
from pathlib import Path

import pytest
from sqlalchemy import select

from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store import keys
from app.store.database import Database
from app.store.reports.shelf import ReportShelf
from app.store.schema import metadata
from tests.pins import add_custodian, pins_of
from tests.stubs import IDEMPOTENCY_KEY, canaries, stub


async def _fill(store: StoreSettings) -> list[bytes]:
    """Store a report, a later sighting and an upload; gives all that must not be found."""
    database = Database.open(store)
    pins = pins_of(store)
    identity = await add_custodian(database, pins)
    async with database.begin() as connection:
        _, token = await keys.create(connection, name="k", scopes=frozenset({keys.Scope.INGEST}))
    outbox = SealedOutbox(ReportShelf(database, "k" * 32, pins), require_custodian=True)
    assert not (await outbox.commit(stub(idempotency_key=IDEMPOTENCY_KEY))).joined
    assert (await outbox.commit(stub())).joined
    assert not (await outbox.commit(stub(url=None))).joined
    # Left open until now, so that SQLite's write-ahead log is still there to be stolen.
    stolen = [
        *canaries(),
        *(secret.encode() for secret in identity.secret_keys),
        token.encode(),
        token[7:].encode(),
    ]
    found = _files(store.state_dir) + await _columns(database)
    assert identity.public_key.encode() in found
    await database.close()
    found += _files(store.state_dir)
    return [canary for canary in stolen if canary in found]


def _files(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.glob("*")) if directory.is_dir() else b""


async def _columns(database: Database) -> bytes:
    async with database.connect() as connection:
        rows = [row for table in metadata.sorted_tables for row in await connection.execute(select(table))]
    return b"\n".join(
        value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row
    )


async def test_a_stolen_database_tells_nothing_of_a_match_and_holds_no_key(
    store: StoreSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert await _fill(store) == []
    assert [canary for canary in canaries() if canary.decode("latin-1") in caplog.text] == []
