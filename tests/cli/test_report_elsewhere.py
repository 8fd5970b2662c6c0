"""Reports of a gate elsewhere: opened and decided where the custodian's key is, without any database."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from app.custody.decision import Action
from app.custody.identity import Identity, encrypt, generate, write_identity
from app.custody.roster import WorkerKeys
from app.store.database import Database
from app.store.reports import inspection
from tests.cli.conftest import EDITED, Cordon, Ran
from tests.deciding import deciding
from tests.gates import RunningGate
from tests.pins import add_custodian, pins_of, remove_custodian


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


def test_what_ends_a_report_is_signed_at_her_own_machine_too(
    desk: Cordon, gate: RunningGate, report_id: str
) -> None:
    """That it was filed by hand, and the order to destroy it; on hold it stays."""
    said = ("--identity", "ada.key", "--reference", "web 17", "--yes")
    filed = run(desk, gate, "filed", report_id, *said)
    assert (filed.code, f"report {report_id} is filed by hand" in filed.err) == (0, True), filed.err
    assert gate.client("report").get(f"/v1/reports/{report_id}").json()["state"] == "filed_manually"
    order = ("destroy", report_id, "--identity", "grace.key", "--reason", "order 12", "--yes")
    assert run(desk, gate, "hold", report_id, "--identity", "ada.key").code == 0
    held = run(desk, gate, *order)
    assert (held.code, "on hold" in held.err) == (1, True)
    assert run(desk, gate, "unhold", report_id, "--identity", "ada.key").code == 0
    destroyed = run(desk, gate, *order)
    assert (destroyed.code, f"report {report_id} is destroyed" in destroyed.err) == (0, True), destroyed.err
    assert "the worker there erases what is left" in destroyed.err
    again = run(desk, gate, *order)
    assert (again.code, "This report was removed" in again.err) == (1, True)
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


async def test_reports_are_sealed_anew_at_her_own_machine(
    desk: Cordon, gate: RunningGate, report_id: str
) -> None:
    """So that one who was added later opens them, sightings too; what is sealed so already is left alone."""
    pins, later = pins_of(gate.prepared.store), generate()
    database = Database.open(gate.prepared.store)
    try:
        await add_custodian(database, pins, "hedy", later)
        write_identity(later, desk.home / "hedy.key")
        (desk.home / "pinned").write_bytes(pins.path.read_bytes())
        await remove_custodian(database, pins, "hedy")
        stale = run(desk, gate, "reseal", report_id, "--identity", "ada.key")
        assert (stale.code, "take a new copy of the gate's file" in stale.err) == (1, True)
        await add_custodian(database, pins, "hedy", later)
        closed = run(desk, gate, "open", report_id, "--identity", "hedy.key")
        assert closed.code != 0
        stranger = run(desk, gate, "reseal", report_id, "--identity", "hedy.key")
        assert "not opened by this key, and left as they are: 1 reports" in stranger.err
        done = run(desk, gate, "reseal", report_id, "--identity", "ada.key")
        assert (done.code, "sealed anew: 1 reports" in done.err) == (0, True), done.err
        opened = run(desk, gate, "open", report_id, "--identity", "hedy.key", "--json")
        # Other tests may have left it queued, so that more than one sighting joined it.
        assert len(opened.documents) > 1
        assert {each["report_id"] for each in opened.documents} == {report_id}
        assert run(desk, gate, "reseal", "--identity", "grace.key").code == 0
        again = run(desk, gate, "reseal", "--identity", "ada.key")
        assert (again.code, "sealed anew: 0 reports" in again.err) == (0, True)
        async with database.connect() as connection:
            assert await inspection.of_report(connection, report_id, pins.read()) == ()
    finally:
        await remove_custodian(database, pins, "hedy")
        await database.close()


def test_no_other_files_are_put_in_a_report_s_place(gate: RunningGate, report_id: str) -> None:
    """Than those that a pinned custodian signed, all of them; nor by another decision."""
    client, (ada, _) = gate.client("report"), gate.prepared.custodians
    shown = client.get(f"/v1/reports/{report_id}").json()
    ids = [report_id, *(each["id"] for each in shown["sightings"])]
    digests = [shown["sealed_sha256"], *(each["sealed_sha256"] for each in shown["sightings"])]
    files = {name: encrypt(b"{}", [ada.public_key]) for name in ids}
    resealed = [hashlib.sha256(file).hexdigest() for file in files.values()]
    roster = pins_of(gate.prepared.store).read()

    def post(signer: Identity, files: Mapping[str, bytes], action: Action = Action.RESEAL) -> httpx.Response:
        said = {"resealed_sha256": tuple(resealed)} if action is Action.RESEAL else {}
        decision = json.loads(deciding(action, report_id, digests, signer, **said))
        encoded = {name: base64.b64encode(file).decode() for name, file in files.items()}
        body = {"decision": decision, "custodians": list(roster.fingerprints), "files": encoded}
        return client.post(f"/v1/reports/{report_id}/reseal", json=body)

    for refused in (
        post(generate(), files),
        post(ada, files, Action.ANNOTATE),
        post(ada, {name: files[name] for name in ids[1:]}),
        post(ada, files | {"01J9ZK3V5T8QX2M4N6P8R0S1T2": b"x"}),
        post(ada, files | {report_id: files[report_id] + b"x"}),
    ):
        assert (refused.status_code, refused.json()["code"]) == (422, "signature_required")
    malformed = client.post(f"/v1/reports/{report_id}/reseal", json={"files": {}})
    assert (malformed.status_code, malformed.json()["code"]) == (422, "invalid_request")
    assert client.get(f"/v1/reports/{report_id}").json()["sealed_sha256"] == shown["sealed_sha256"]
