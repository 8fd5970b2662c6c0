"""Decisions over HTTP: the signed document is the body, and without one nothing is decided."""

import asyncio
import json

import httpx
import pytest
from sqlalchemy import update

from app.custody.decision import Action
from app.custody.roster import Roster
from app.store.database import Database
from app.store.schema import reports as table
from tests.deciding import approving, deciding, seen
from tests.gates import Prepared, RunningGate
from tests.journeys.conftest import EDITED
from tests.pins import pins_of


@pytest.fixture
def report_id(gate: RunningGate) -> str:
    """A queued report."""
    answer = gate.client().post("/v1/ingest", content=EDITED, headers={"Content-Type": "image/jpeg"})
    return str(answer.json()["report"]["id"])


def digests(prepared: Prepared, report_id: str) -> tuple[str, ...]:
    async def read() -> tuple[str, ...]:
        database = Database.open(prepared.store)
        try:
            return await seen(database, report_id, _roster(prepared))
        finally:
            await database.close()

    return asyncio.run(read())


def _roster(prepared: Prepared) -> Roster:
    return pins_of(prepared.store).read()


def post(gate: RunningGate, report_id: str, action: str, body: bytes) -> httpx.Response:
    return gate.client("report").post(f"/v1/reports/{report_id}/{action}", content=body)


def test_a_signed_document_decides(gate: RunningGate, prepared: Prepared, report_id: str) -> None:
    """Rejected, annotated, then approved by the other custodian; the same document twice is a conflict."""
    ada, grace = prepared.custodians
    before = digests(prepared, report_id)
    approval = approving(report_id, before, grace)
    rejection = deciding(Action.REJECT, report_id, before, ada)
    answer = post(gate, report_id, "reject", rejection)
    assert (answer.status_code, answer.json()["state"]) == (200, "rejected")
    note = post(gate, report_id, "annotate", deciding(Action.ANNOTATE, report_id, before, ada))
    assert (note.status_code, note.json()["state"]) == (200, "rejected")
    late = post(gate, report_id, "approve", approval)
    assert (late.status_code, late.json()["code"]) == (409, "conflict")
    answer = post(gate, report_id, "approve", approving(report_id, before, grace))
    assert (answer.status_code, answer.json()["state"]) == (200, "approved")
    again = post(gate, report_id, "reject", rejection)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    unsigned = post(gate, report_id, "afresh", b"{}")
    assert (unsigned.status_code, unsigned.json()["code"]) == (422, "signature_required")
    assert "retry --afresh" in unsigned.json()["detail"]
    untried = post(gate, report_id, "afresh", deciding(Action.AFRESH, report_id, before, ada))
    assert (untried.status_code, untried.json()["code"]) == (409, "conflict")


def test_nothing_is_decided_without_a_custodian_s_signature(
    gate: RunningGate, prepared: Prepared, report_id: str
) -> None:
    """No body, no document, another action's, another report's: 422; the state stays."""
    ada, _ = prepared.custodians
    before = digests(prepared, report_id)
    rejection = deciding(Action.REJECT, report_id, before, ada)
    elsewhere = deciding(Action.REJECT, "01J9ZK3V5T8QX2M4N6P8R0S1T2", before, ada)
    for action, body in (
        ("approve", b""),
        ("approve", b"{}"),
        ("reject", rejection.replace(b"ed25519", b"")[:-2]),
        ("approve", rejection),
        ("reject", elsewhere),
        ("annotate", rejection),
    ):
        answer = post(gate, report_id, action, body)
        assert (answer.status_code, answer.json()["code"]) == (422, "signature_required")
    large = post(gate, report_id, "approve", bytes(2 * 1024 * 1024))
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    stays = gate.client("report").get(f"/v1/reports/{report_id}").json()
    assert (stays["state"], stays["decided_at"]) == ("queued", None)
    forbidden = gate.client("ingest").post(f"/v1/reports/{report_id}/reject", content=rejection)
    assert forbidden.status_code == 403


def test_a_time_before_all_times_is_no_decision_and_no_error_of_the_gate(
    gate: RunningGate, prepared: Prepared, report_id: str
) -> None:
    """It is looked at before any signature is: anybody with a token can send it."""
    ada, _ = prepared.custodians
    rejection = deciding(Action.REJECT, report_id, digests(prepared, report_id), ada)
    document = json.loads(rejection)
    said = json.loads(document["signed"]) | {"decided_at": "0001-01-01T00:00:00+23:59"}
    document["signed"] = json.dumps(said, sort_keys=True, separators=(",", ":"))
    answer = post(gate, report_id, "reject", json.dumps(document).encode())
    assert (answer.status_code, answer.json()["code"]) == (422, "signature_required")


def test_a_report_that_cannot_be_read_is_named_beside_the_others(
    gate: RunningGate, prepared: Prepared, report_id: str
) -> None:
    """It is not among them, and no page ends at it."""
    http = gate.client("report")
    before = {each["id"] for each in http.get("/v1/reports").json()["reports"]}

    async def write(state: str) -> None:
        database = Database.open(prepared.store)
        async with database.begin() as connection:
            await connection.execute(update(table).where(table.c.id == report_id).values(state=state))
        await database.close()

    asyncio.run(write("junk"))
    try:
        answer = http.get("/v1/reports", params={"limit": 1000})
    finally:
        asyncio.run(write("queued"))
    assert (answer.status_code, answer.json()["unreadable"]) == (200, [report_id])
    assert {each["id"] for each in answer.json()["reports"]} == before - {report_id}
    assert http.get("/v1/reports").json()["unreadable"] == []


def test_a_hold_that_a_custodian_signed_takes_a_signature_to_end(
    gate: RunningGate, prepared: Prepared, report_id: str
) -> None:
    """A token alone ends one that a token set, with an empty body or an empty object."""
    ada, _ = prepared.custodians
    http = gate.client("report")
    for action, held in (("hold", True), ("unhold", False)):
        answer = http.post(f"/v1/reports/{report_id}/{action}", json={})
        assert (answer.status_code, answer.json()["on_hold"]) == (200, held)
    before = digests(prepared, report_id)
    refused = post(gate, report_id, "hold", deciding(Action.UNHOLD, report_id, before, ada))
    assert (refused.status_code, refused.json()["code"]) == (422, "signature_required")
    signed = post(gate, report_id, "hold", deciding(Action.HOLD, report_id, before, ada))
    assert (signed.status_code, signed.json()["on_hold"]) == (200, True)
    for body in (b"", b"{}"):
        answer = http.post(f"/v1/reports/{report_id}/unhold", content=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "signature_required")
    assert http.get(f"/v1/reports/{report_id}").json()["on_hold"]
    ended = post(gate, report_id, "unhold", deciding(Action.UNHOLD, report_id, before, ada))
    assert (ended.status_code, ended.json()["on_hold"]) == (200, False)


def test_filing_by_hand_and_destroying_take_a_signed_document_too(
    gate: RunningGate, prepared: Prepared, report_id: str
) -> None:
    """What is held is not destroyed; afterwards there is nothing to fetch."""
    ada, _ = prepared.custodians
    before = digests(prepared, report_id)
    for action in ("filed", "destroy"):
        answer = post(gate, report_id, action, deciding(Action.ANNOTATE, report_id, before, ada))
        assert (answer.status_code, answer.json()["code"]) == (422, "signature_required")
    answer = post(gate, report_id, "filed", deciding(Action.FILED, report_id, before, ada))
    assert (answer.status_code, answer.json()["state"]) == (200, "filed_manually")
    gate.client("report").post(f"/v1/reports/{report_id}/hold").raise_for_status()
    order = deciding(Action.DESTROY, report_id, before, ada)
    held = post(gate, report_id, "destroy", order)
    assert (held.status_code, held.json()["code"]) == (409, "conflict")
    gate.client("report").post(f"/v1/reports/{report_id}/unhold").raise_for_status()
    done = post(gate, report_id, "destroy", order)
    assert (done.status_code, done.content) == (204, b"")
    assert gate.client("report").get(f"/v1/reports/{report_id}/sealed").status_code == 404
    assert post(gate, report_id, "destroy", order).status_code == 404
