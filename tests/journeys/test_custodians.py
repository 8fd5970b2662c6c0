"""A running gate and its custodians: seals to the pinned, tells where the database differs, or is closed."""

import asyncio
from pathlib import Path

from app.custody.identity import generate
from app.custody.roster import RosterFile
from app.settings import StoreSettings
from app.store import custodians
from app.store.database import Database
from tests.gates import Prepared, RunningGate, fill_bank, prepare, running_gate, wait_for
from tests.journeys.conftest import BANKED, EDITED
from tests.pins import pins_of


def report(gate: RunningGate) -> dict[str, object]:
    """What is told of the report of a new match."""
    answer = gate.client().post("/v1/ingest", content=EDITED, headers={"Content-Type": "image/jpeg"})
    shown = gate.client("report").get(f"/v1/reports/{answer.json()['report']['id']}")
    found: dict[str, object] = shown.json()
    return found


async def _add_row(prepared: Prepared, name: str) -> str:
    """Write a custodian to the database alone; the fingerprint."""
    database = Database.open(prepared.store)
    try:
        async with database.begin() as connection:
            added = await custodians.add(connection, name=name, untrusted_public_key=generate().public_key)
        return added.fingerprint
    finally:
        await database.close()


def test_a_custodian_in_the_database_alone_is_told_and_reads_nothing(tmp_path: Path) -> None:
    """In the status, as an alarm, in the log; once the row is pinned, all of that is gone and she reads."""
    prepared = asyncio.run(prepare(StoreSettings(state_dir=tmp_path / "state")))
    with running_gate(prepared) as gate:
        fill_bank(gate, "list", BANKED)
        pins = pins_of(prepared.store)
        pinned = list(pins.read().fingerprints)
        assert report(gate)["custodians"] == pinned
        mallory = asyncio.run(_add_row(prepared, "mallory"))
        ops = gate.client("ops")

        def alarms() -> list[tuple[str, str]]:
            stand = ops.get("/v1/status").json()["alarms"]
            return [(each["kind"], each["subject"]) for each in stand]

        wait_for(lambda: ("custodian_unproven", mallory) in alarms())
        status = ops.get("/v1/status").json()
        assert [mallory in warning for warning in status["warnings"]].count(True) == 1
        assert status["custodians"] == 2
        assert report(gate)["custodians"] == pinned
        assert b"custodians_differ" in gate.log.read_bytes()
        added = asyncio.run(_row(prepared, "mallory"))
        pins.write(pins.read().with_custodian(added.as_pinned))
        assert report(gate)["custodians"] == [*pinned, mallory]
        wait_for(lambda: alarms() == [])


async def _row(prepared: Prepared, name: str) -> custodians.Custodian:
    database = Database.open(prepared.store)
    try:
        async with database.connect() as connection:
            (row,) = [each for each in await custodians.active(connection) if each.name == name]
            return row
    finally:
        await database.close()


def test_a_named_file_that_is_not_there_takes_nothing_in_until_it_is(tmp_path: Path) -> None:
    """The rows of the database are not pinned in its place; a file that others may write pins nobody."""
    prepared = asyncio.run(prepare(StoreSettings(state_dir=tmp_path / "state")))
    file = RosterFile(tmp_path / "pinned" / "custodians")
    with running_gate(prepared, custodians=str(file.path)) as gate:
        ops = gate.client("ops")

        def failing() -> list[str]:
            found: list[str] = gate.public("/readyz").json()["failing"]
            return found

        assert "custodian" in failing()
        answer = gate.client().post("/v1/ingest", content=EDITED, headers={"Content-Type": "image/jpeg"})
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert not file.path.exists()
        rows = asyncio.run(_row(prepared, "ada")).as_pinned
        file.write(file.read_if_there().with_custodian(rows))
        wait_for(lambda: "custodian" not in failing())
        assert ops.get("/v1/status").json()["custodians"] == 1
        file.path.chmod(0o666)
        wait_for(lambda: "custodian" in failing())
        assert any("others may write" in warning for warning in ops.get("/v1/status").json()["warnings"])
