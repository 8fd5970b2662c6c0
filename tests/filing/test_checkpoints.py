"""The worker signs the audit log's head, with a pinned key alone, and tells it to its log."""

import logging
from pathlib import Path

import pytest
from sqlalchemy import delete

from app.custody import checkpoint
from app.custody.identity import generate, write_identity
from app.custody.roster import Roster, WorkerKeys
from app.filing.checkpoints import sign
from app.settings import StoreSettings
from app.store.database import Database
from app.store.record import audit, checkpoints
from app.store.record.witness import Witness
from app.store.schema import audit as log
from app.store.schema import audit_checkpoints
from tests.pins import add_custodian, pins_of


async def test_a_pinned_worker_signs_and_its_log_line_is_a_copy_to_keep(
    database: Database, store: StoreSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a key nothing happens; a key that is not pinned, or that others may read, is told."""
    caplog.set_level(logging.INFO)
    pins, key, identity = pins_of(store), tmp_path / "worker.key", generate()
    witness = Witness(tmp_path / "seen")
    await add_custodian(database, pins)
    await sign(database, key, pins, witness)
    assert caplog.records == []
    write_identity(identity, key)
    for mode in (0o600, 0o644):
        key.chmod(mode)
        await sign(database, key, pins, witness)
        assert caplog.records.pop().getMessage() == "no_audit_checkpoint"
    key.chmod(0o600)
    pins.write(Roster(pins.read().custodians, WorkerKeys.of(identity)))
    caplog.clear()
    for _ in range(2):
        await sign(database, key, pins, witness)
    (record,) = caplog.records
    assert record.getMessage() == "audit_checkpoint"
    async with database.connect() as connection:
        (stored,), bad = await checkpoints.stored(connection, pins.read())
    told = next(
        value for value in record.__dict__.values() if isinstance(value, dict) and "document" in value
    )
    assert checkpoint.verify(told["document"].encode(), pins.read()) == stored
    assert (stored.seq, bad) == (1, 0)


async def test_a_worker_signs_no_log_that_it_saw_otherwise(
    database: Database, store: StoreSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where whoever wrote the log anew took away all that was signed under it; what it saw stays."""
    caplog.set_level(logging.INFO)
    pins, key, identity = pins_of(store), tmp_path / "worker.key", generate()
    await add_custodian(database, pins)
    write_identity(identity, key)
    pins.write(Roster(pins.read().custodians, WorkerKeys.of(identity)))
    await sign(database, key, pins, Witness(tmp_path / "seen"))
    async with database.begin() as connection:
        await connection.execute(delete(log))
        await connection.execute(delete(audit_checkpoints))
        await audit.append(connection, "custodian.added", "mallory", {})
    caplog.clear()
    await sign(database, key, pins, Witness(tmp_path / "seen"))
    assert "no_audit_checkpoint" in caplog.messages
    async with database.connect() as connection:
        assert await checkpoints.stored(connection, pins.read()) == ((), 0)
