"""Promise 5, whole: who has the database and all of the web process's environment reads and decides nothing.

The thief is a program of its own (``thief.py``), started with what a gate is started with. What it wrote is
then met by the gate's own outbox and watch, the worker's reading of approvals, and an auditor who kept one
checkpoint.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.context import Context
from app.custody import checkpoint
from app.custody.decision import Action
from app.custody.identity import Identity, generate
from app.custody.roster import RosterFile, WorkerKeys
from app.errors import ConflictError, SignatureRequiredError
from app.main import PinsWatch
from app.report.outbox import SealedOutbox
from app.report.seal import open_report
from app.settings import StoreSettings
from app.store import alarms, audit, checkpoints, decisions, sealed
from app.store.alarms import AlarmKind
from app.store.audit import Head
from app.store.database import Database
from app.store.sealed import TamperedError
from app.store.shelf import ReportShelf
from tests.deciding import XML, approving, deciding, seen
from tests.gates import environment
from tests.pins import add_custodian
from tests.stubs import canaries, stub

ROOT = Path(__file__).resolve().parents[2]
PLACE_KEY = "k" * 32


@dataclass(frozen=True)
class House:
    """A gate's database with reports in it; the pin file lies where the web process has nothing to write."""

    store: StoreSettings
    database: Database
    pins: RosterFile
    outbox: SealedOutbox
    ada: Identity
    queued: str
    approved: str
    kept: Head

    def steal(self, *what: str) -> Any:
        """Run the thief with what the web process was started with."""
        given = environment(self.store, place_key=PLACE_KEY, custodians=str(self.pins.path))
        ran = subprocess.run(
            [sys.executable, "-m", "tests.promises.thief", *what],
            env=given,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    async def finding(self) -> audit.Finding | None:
        """What an auditor with one kept checkpoint finds."""
        async with self.database.connect() as connection:
            return (await audit.examine(connection, [self.kept])).finding

    async def approval(self, report_id: str) -> decisions.Approval:
        """What the worker would file."""
        async with self.database.connect() as connection:
            return await decisions.approval(connection, report_id, self.pins.read(), dual_control=False)


@pytest.fixture
async def house(database: Database, store: StoreSettings, tmp_path: Path) -> House:
    pins = RosterFile(tmp_path / "pinned")
    ada = await add_custodian(database, pins, "ada")
    await add_custodian(database, pins, "grace")
    worker = generate()
    roster = pins.read()
    pins.write(type(roster)(roster.custodians, WorkerKeys.of(worker)))
    outbox = SealedOutbox(ReportShelf(database, PLACE_KEY, pins), require_custodian=True)
    queued = (await outbox.commit(stub("a"))).id
    approved = (await outbox.commit(stub("b"))).id
    digests = await seen(database, approved, pins.read())
    document = approving(approved, digests, ada, xml_to=[worker.public_key], words=b"", xml=XML)
    async with database.begin() as connection:
        await decisions.take(
            connection, document, pins.read(), report_id=approved, actions=[Action.APPROVE], by="cli"
        )
    signed = await checkpoints.take(database, worker, pins.read())
    assert signed is not None
    kept = checkpoint.verify(signed.document, pins.read())
    return House(store, database, pins, outbox, ada, queued, approved, Head(kept.seq, kept.digest))


async def test_nothing_of_any_report_can_be_read(house: House) -> None:
    """Not in a table, a file of the state directory or a setting; and no key that opens anything is there."""
    stolen = house.steal("read")
    assert (stolen["keys"], stolen["opened"], stolen["documents"]) == ([], 0, 1)
    hidden = [canary.decode("latin-1") for medium in ("a", "b") for canary in canaries(medium)]
    assert [canary for canary in (*hidden, XML.decode()) if canary in stolen["loot"]] == []
    for secret in (*house.ada.secret_keys, (house.ada.signing_seed or b"").decode("latin-1")):
        assert secret not in stolen["loot"]
    assert house.ada.public_key in stolen["loot"]


async def test_no_recipient_is_added_and_no_key_swapped_unnoticed(house: House) -> None:
    """The gate goes on sealing to the pinned alone, and says that the database differs."""
    house.steal("recipients")
    reference = await house.outbox.commit(stub("c", context=Context(tags=("after",))))
    async with house.database.connect() as connection:
        (file,) = (await sealed.authentic(connection, reference.id, house.pins.read())).values()
    assert open_report(file, house.ada, report_id=reference.id)
    assert file.count(b"-> X25519 ") == len(house.pins.read().custodians) == 2
    await PinsWatch(house.database, house.pins).look()
    async with house.database.connect() as connection:
        raised = [each.kind for each in await alarms.standing(connection)]
    assert raised.count(AlarmKind.CUSTODIAN_UNPROVEN) >= 2


async def test_no_approval_can_be_forged(house: House) -> None:
    """Signed with a key of the thief's own, as another, or taken from another report.

    Not over HTTP, and not by writing document, audit entry and state as if it had been taken in.
    """
    house.steal("recipients")
    forged = house.steal("approvals", house.queued)
    assert len(forged) == 4
    for document in forged:
        with pytest.raises(SignatureRequiredError):
            async with house.database.begin() as connection:
                await decisions.take(
                    connection,
                    document.encode(),
                    house.pins.read(),
                    report_id=house.queued,
                    actions=[Action.APPROVE],
                    by="thief",
                )
    assert (await house.approval(house.approved)).signed
    for document in forged:
        house.steal("put", house.queued, document)
        with pytest.raises(ConflictError):
            await house.approval(house.queued)


async def test_an_approval_that_was_taken_back_is_noticed_when_it_is_put_back(house: House) -> None:
    """Its signature is good: what shows it is the checkpoint that somebody kept."""
    digests = await seen(house.database, house.approved, house.pins.read())
    original = (await house.approval(house.approved)).signed[0].document.decode()
    async with house.database.begin() as connection:
        await decisions.take(
            connection,
            deciding(Action.REJECT, house.approved, digests, house.ada),
            house.pins.read(),
            report_id=house.approved,
            actions=[Action.REJECT],
            by="cli",
        )
    assert await house.finding() is None
    house.steal("put", house.approved, original)
    assert await house.finding() is not None


async def test_no_stub_is_swapped_unnoticed(house: House) -> None:
    """Opening finds it; and where the log was written anew to hide it, whoever kept a checkpoint does."""
    house.steal("swap", house.queued)
    async with house.database.connect() as connection:
        with pytest.raises(TamperedError):
            await sealed.authentic(connection, house.queued, house.pins.read())
    assert await house.finding() is None
    house.steal("swap", house.queued, "quietly")
    found = await house.finding()
    assert found is not None
    assert found.first <= house.kept.seq
