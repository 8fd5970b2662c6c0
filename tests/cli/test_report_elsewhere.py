"""Reports of a gate elsewhere: opened and decided where the custodian's key is, without any database."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.custody.identity import generate, write_identity
from app.custody.roster import WorkerKeys
from tests.cli.conftest import EDITED, Cordon, Ran
from tests.gates import RunningGate
from tests.pins import pins_of


@pytest.fixture
def report_id(gate: RunningGate) -> str:
    """A report that was seen twice at one place."""
    context = json.dumps({"account_id": "4711", "platform": "p"})
    for _ in range(2):
        answer = gate.client().post(
            "/v1/ingest", files={"media": ("m", EDITED), "context": (None, context, "application/json")}
        )
    return str(answer.json()["report"]["id"])


@pytest.fixture
def desk(cordon: Cordon, gate: RunningGate) -> Cordon:
    """A custodian's own machine: her key, a copy of the pinned, a token, and nothing else."""
    pins, worker = pins_of(gate.prepared.store), generate()
    pins.write(replace(pins.read(), worker=WorkerKeys.of(worker)))
    (cordon.home / "pinned").write_bytes(pins.path.read_bytes())
    for name, identity in zip(("ada", "grace"), gate.prepared.custodians, strict=True):
        write_identity(identity, cordon.home / f"{name}.key")
    (cordon.home / "token").write_text(gate.prepared.tokens["report"])
    return cordon


def run(desk: Cordon, gate: RunningGate, *arguments: str | Path) -> Ran:
    given = {"CORDON_CUSTODIANS": str(desk.home / "pinned")}
    return desk("report", *arguments, "--server", gate.url, "--token-file", "token", given=given)


def test_a_custodian_decides_at_her_own_machine(desk: Cordon, gate: RunningGate, report_id: str) -> None:
    """Opened with all sightings, noted, rejected and approved; no database is made on her machine."""
    opened = run(desk, gate, "open", report_id, "--identity", "ada.key", "--json")
    assert [each["report_id"] for each in opened.documents] == [report_id, report_id]
    noted = run(desk, gate, "annotate", report_id, "--identity", "ada.key", "--note", "asked the host")
    assert noted.code == 0, noted.err
    people = run(desk, gate, "open", report_id, "--identity", "grace.key").out.decode()
    assert "annotate  ada\n      note: asked the host" in people
    rejected = run(desk, gate, "reject", report_id, "--identity", "ada.key", "--reason", "a logo", "--yes")
    assert (rejected.code, f"report {report_id} is rejected" in rejected.err) == (0, True)
    approved = run(desk, gate, "approve", report_id, "--identity", "grace.key", "--yes")
    assert (approved.code, b"<espIdentifier>4711" in approved.out) == (0, True)
    shown = gate.client("report").get(f"/v1/reports/{report_id}").json()
    assert shown["state"] == "approved"
    assert not list(desk.home.rglob("cordon.db"))


def test_what_the_gate_refuses_is_told(desk: Cordon, gate: RunningGate, report_id: str) -> None:
    """A wrong token, a report that is not there, no gate at all; and no private key leaves the machine."""
    (desk.home / "token").write_text(gate.prepared.tokens["ingest"])
    forbidden = run(desk, gate, "open", report_id, "--identity", "ada.key")
    assert (forbidden.code, "the gate answers 403" in forbidden.err) == (1, True)
    (desk.home / "token").write_text(gate.prepared.tokens["report"])
    missing = run(desk, gate, "open", "01J9ZK3V5T8QX2M4N6P8R0S1T2", "--identity", "ada.key")
    assert (missing.code, "There is no such report." in missing.err) == (1, True)
    gone = desk(
        *("report", "open", report_id, "--identity", "ada.key", "--token-file", "token"),
        *("--server", "http://127.0.0.1:1"),
        given={"CORDON_CUSTODIANS": str(desk.home / "pinned")},
    )
    assert (gone.code, "cannot be reached" in gone.err) == (1, True)
    assert gate.prepared.identity.encode() not in gate.log.read_bytes()
    alone = desk("report", "open", report_id, "--identity", "ada.key", "--token-file", "token")
    assert (alone.code, "go with --server" in alone.err) == (2, True)
