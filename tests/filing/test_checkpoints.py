"""The worker signs the audit log's head, with a pinned key alone, and tells it to its log."""

import logging
from pathlib import Path

import pytest

from app.custody import checkpoint
from app.custody.identity import generate, write_identity
from app.custody.roster import Roster, WorkerKeys
from app.filing.checkpoints import sign
from app.settings import StoreSettings
from app.store import checkpoints
from app.store.database import Database
from tests.pins import add_custodian, pins_of


async def test_a_pinned_worker_signs_and_its_log_line_is_a_copy_to_keep(
    database: Database, store: StoreSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a key nothing happens; a key that is not pinned, or that others may read, is told."""
    caplog.set_level(logging.INFO)
    pins, key, identity = pins_of(store), tmp_path / "worker.key", generate()
    await add_custodian(database, pins)
    await sign(database, key, pins)
    assert caplog.records == []
    write_identity(identity, key)
    for mode in (0o600, 0o644):
        key.chmod(mode)
        await sign(database, key, pins)
        assert caplog.records.pop().getMessage() == "no_audit_checkpoint"
    key.chmod(0o600)
    pins.write(Roster(pins.read().custodians, WorkerKeys.of(identity)))
    caplog.clear()
    for _ in range(2):
        await sign(database, key, pins)
    (record,) = caplog.records
    assert record.getMessage() == "audit_checkpoint"
    async with database.connect() as connection:
        (stored,), bad = await checkpoints.stored(connection, pins.read())
    told = next(
        value for value in record.__dict__.values() if isinstance(value, dict) and "document" in value
    )
    assert checkpoint.verify(told["document"].encode(), pins.read()) == stored
    assert (stored.seq, bad) == (1, 0)
