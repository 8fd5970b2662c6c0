"""Banks as people run them, over the real server: tiers, single entries, floods, dry runs."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo.pictures import encoded, scene
from tests.gates import (
    CORDON,
    Prepared,
    RunningGate,
    environment,
    running_gate,
    signals_of,
    wait_for,
)
from tests.journeys.conftest import HARMLESS as HARMLESS_PICTURE

PICTURE = encoded(scene(33), "PNG")
PDQ = signals_of(PICTURE)[1]["value"]


def differing(*bits: int) -> str:
    """The PDQ of ``PICTURE`` with some bits flipped, as hex."""
    changed = np.unpackbits(np.frombuffer(bytes.fromhex(PDQ), np.uint8))
    changed[list(bits)] ^= 1
    return np.packbits(changed).tobytes().hex()


STRONG, NEAR, HARMLESS = differing(*range(10)), differing(*range(25)), differing(*range(3))


@pytest.fixture
def bank(gate: RunningGate) -> Callable[..., httpx.Response]:
    """Asks a bank route with a key that may do all."""
    return gate.client("all").request


@pytest.fixture
def ingest(gate: RunningGate) -> Callable[[], dict[str, Any]]:
    """Hands the picture in."""

    def answer() -> dict[str, Any]:
        answered = gate.client().post("/v1/ingest", content=PICTURE, headers={"Content-Type": "image/png"})
        assert answered.status_code == 200, answered.text
        body: dict[str, Any] = answered.json()
        return body

    return answer


def pdq(*values: str) -> dict[str, Any]:
    """A body of PDQ signals."""
    return {"signals": [{"type": "pdq", "value": value} for value in values]}


def test_a_withdrawal_by_one_source_leaves_what_another_gave_in_force(
    bank: Callable[..., httpx.Response], ingest: Callable[[], dict[str, Any]]
) -> None:
    """And a blank source is refused, since it would remove outright."""
    bank("PUT", "/v1/banks/shared", json={"kind": "test", "action": "report"}).raise_for_status()
    for source in ("hotline", "police"):
        bank("POST", "/v1/banks/shared/signals", json=pdq(PDQ) | {"source": source}).raise_for_status()
    remove = "/v1/banks/shared/signals/remove"
    assert bank("POST", remove, json=pdq(PDQ) | {"source": " "}).status_code == 422
    first = bank("POST", remove, json=pdq(PDQ) | {"source": "hotline"}).json()
    assert (first["changed"], first["kept"]) == (0, 1)
    wait_for(lambda: ingest()["verdict"] == "match")
    last = bank("POST", remove, json=pdq(PDQ) | {"source": "police"}).json()
    assert (last["changed"], last["kept"]) == (1, 0)
    bank("POST", "/v1/banks/shared/signals", json=pdq(differing(*range(128)))).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")


def test_a_near_match_is_only_counted_and_a_strong_one_blocked(
    bank: Callable[..., httpx.Response], ingest: Callable[[], dict[str, Any]]
) -> None:
    """As the tiers of the bank say; and a change of them is in force within seconds."""
    policy = {"kind": "other", "action": "block", "tiers": {"near": "observe"}}
    made = bank("PUT", "/v1/banks/tiered", json=policy)
    assert made.status_code == 201
    assert made.json()["tiers"] == {"strong": "block", "near": "observe"}
    bank("POST", "/v1/banks/tiered/signals", json=pdq(NEAR)).raise_for_status()
    assert ingest()["verdict"] == "clear"
    bank("POST", "/v1/banks/tiered/signals", json=pdq(STRONG)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    bank("POST", "/v1/banks/tiered/signals/remove", json=pdq(STRONG)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")
    bank("PUT", "/v1/banks/tiered", json={"kind": "other", "action": "block"}).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    bank("PUT", "/v1/banks/tiered", json={"kind": "other", "action": "observe"}).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")


def test_what_is_known_to_be_harmless_cancels_near_matches_and_nothing_else(
    gate: RunningGate, bank: Callable[..., httpx.Response], ingest: Callable[[], dict[str, Any]]
) -> None:
    """With the scope for it; never an exact match, and never one of a csam bank."""
    harmless = {"kind": "other", "action": "suppress"}
    refused = gate.client("bank").put("/v1/banks/harmless", json=harmless)
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    bank("PUT", "/v1/banks/harmless", json=harmless).raise_for_status()
    refused = gate.client("bank").post("/v1/banks/harmless/signals", json=pdq(HARMLESS))
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")

    bank("PUT", "/v1/banks/unwanted", json={"kind": "other", "action": "block"}).raise_for_status()
    bank("POST", "/v1/banks/unwanted/signals", json=pdq(NEAR)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    bank("POST", "/v1/banks/harmless/signals", json=pdq(HARMLESS)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")

    bank("POST", "/v1/banks/unwanted/signals", json=pdq(PDQ)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    bank("POST", "/v1/banks/unwanted/signals/remove", json=pdq(PDQ)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")

    bank("POST", "/v1/banks/mock-list/signals", json=pdq(NEAR)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    assert ingest()["report"]["state"] == "queued"
    bank("POST", "/v1/banks/mock-list/signals/remove", json=pdq(NEAR)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")
    bank("POST", "/v1/banks/harmless/signals/remove", json=pdq(HARMLESS)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    bank("PUT", "/v1/banks/unwanted", json={"kind": "other", "action": "observe"}).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"kind": "csam", "action": "report", "tiers": {"near": "observe"}}, "csam bank cannot only observe"),
        ({"kind": "other", "action": "report", "tiers": {"strong": "block"}}, "'tiers'"),
        ({"kind": "other", "action": "report", "tiers": {"far": "block"}}, "'tiers.far'"),
        (
            {"kind": "other", "action": "report", "tiers": {"near": "suppress"}},
            "'tiers.near': Input should be 'report', 'block' or 'observe'.",
        ),
        ({"kind": "other", "action": "report", "thresholds": 31}, "'thresholds': must be a JSON object."),
        ({"kind": "other", "action": "report", "minimum_quality": 40}, "'minimum_quality'"),
        ({"kind": "ncii", "action": "suppress"}, "its kind must be 'other'"),
        ({"kind": "other", "action": "suppress", "thresholds": {"pdq": 40}}, "pdq 0 to 31"),
    ],
)
def test_a_policy_that_is_wrong_is_refused_by_name(
    bank: Callable[..., httpx.Response], policy: dict[str, Any], said: str
) -> None:
    """422, with the member and the mend."""
    refused = bank("PUT", "/v1/banks/wrong", json=policy)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert said in refused.json()["detail"]
    listed = bank("GET", "/v1/banks/mock-list/entries", params={"state": "odd"})
    assert listed.json()["detail"].startswith("'state': Input should be 'disabled'")


def test_one_entry_is_disabled_and_the_rest_of_its_bank_goes_on(
    gate: RunningGate, bank: Callable[..., httpx.Response], ingest: Callable[[], dict[str, Any]]
) -> None:
    """In force within seconds; and its terms are shown to holders of the scope alone."""
    bank("PUT", "/v1/banks/run", json={"kind": "ncii", "action": "block"}).raise_for_status()
    given = pdq(NEAR, "f0" * 32) | {"source": "hotline", "restrictions": "reports only"}
    bank("POST", "/v1/banks/run/signals", json=given).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    (found,) = bank("POST", "/v1/banks/run/find", json=pdq(NEAR)).json()["entries"]
    assert [(each["source"], each["restrictions"]) for each in found["sources"]] == [
        ("hotline", "reports only")
    ]
    entry = f"/v1/banks/run/entries/{found['id']}"
    assert gate.client("ops").get(entry).status_code == 403
    assert bank("POST", f"{entry}/disable", json={}).status_code == 422
    disabled = bank("POST", f"{entry}/disable", json={"why": "a logo"})
    assert (disabled.status_code, disabled.json()["disabled"]["why"]) == (200, "a logo")
    wait_for(lambda: ingest()["verdict"] == "clear")
    listed = bank("GET", "/v1/banks/run/entries", params={"state": "disabled"}).json()["entries"]
    assert [each["id"] for each in listed] == [found["id"]]
    assert bank("POST", f"{entry}/annotate", json={"note": "case 17"}).json()["note"] == "case 17"
    bank("POST", f"{entry}/enable").raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    bank("POST", f"{entry}/disable", json={"why": "a logo"}).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")
    assert bank("POST", "/v1/banks/mock-list/entries/999999/enable").status_code == 404
    history = bank("GET", "/v1/banks/run/history").json()["changes"]
    assert [(each["what"], each["entries"]) for each in history[-2:]] == [
        ("signals_added", 2),
        ("created", None),
    ]
    assert [each["entry_id"] for each in history[:2]] == [found["id"]] * 2
    assert all(each["by"] == history[0]["by"] != "cli" for each in history)


def test_a_csam_entry_is_cancelled_only_by_one_that_was_named_for_it(
    gate: RunningGate, bank: Callable[..., httpx.Response], ingest: Callable[[], dict[str, Any]]
) -> None:
    """With both scopes; and it matches again once the pair is taken apart."""
    bank("PUT", "/v1/banks/harmless", json={"kind": "other", "action": "suppress"}).raise_for_status()
    bank("POST", "/v1/banks/harmless/signals", json=pdq(HARMLESS)).raise_for_status()
    bank("POST", "/v1/banks/mock-list/signals", json=pdq(NEAR)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    (harmless,) = bank("POST", "/v1/banks/harmless/find", json=pdq(HARMLESS)).json()["entries"]
    (entry,) = bank("POST", "/v1/banks/mock-list/find", json=pdq(NEAR)).json()["entries"]
    at, body = f"/v1/banks/mock-list/entries/{entry['id']}", {"suppressor_id": harmless["id"]}
    for lacking in ("bank", "bank:suppress"):
        assert gate.client(lacking).post(f"{at}/pair", json=body).status_code == 403
    assert bank("POST", f"{at}/pair", json=body).json()["suppressors"] == [harmless["id"]]
    wait_for(lambda: ingest()["verdict"] == "clear")
    bank("POST", f"{at}/unpair", json=body).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "match")
    bank("POST", "/v1/banks/mock-list/signals/remove", json=pdq(NEAR)).raise_for_status()
    wait_for(lambda: ingest()["verdict"] == "clear")


ALIKE = [
    encoded(Image.blend(scene(33), scene(seed).resize(scene(33).size), share), "PNG")
    for seed, share in ((40, 0.2), (41, 0.25), (43, 0.15), (44, 0.25))
]
"""Pictures that an entry of ``PICTURE`` matches near, and that are not near each other."""


@pytest.mark.usefixtures("gate")
def test_an_entry_that_matches_very_many_media_is_parked_and_goes_on_blocking(prepared: Prepared) -> None:
    """Ops are told, its reports wait, its callers notice nothing; until a person keeps it."""
    with running_gate(prepared, flood_media="2") as gate:
        bank, reports = gate.client("all").request, gate.client("report")
        bank("PUT", "/v1/banks/flood", json={"kind": "ncii", "action": "report"}).raise_for_status()
        bank("POST", "/v1/banks/flood/signals", json=pdq(PDQ)).raise_for_status()

        def ingest(picture: bytes) -> tuple[str, str, str]:
            """The verdict, what is told of the report, and its state as those see it who may."""
            answered = gate.client().post(
                "/v1/ingest", content=picture, headers={"Content-Type": "image/png"}
            )
            body = answered.json()
            if body["report"] is None:
                return body["verdict"], "", ""
            report = reports.get(f"/v1/reports/{body['report']['id']}").json()
            return body["verdict"], body["report"]["state"], report["state"]

        def alarms() -> list[dict[str, Any]]:
            status = gate.client("ops").get("/v1/status").json()
            return [each for each in status["alarms"] if each["kind"] == "bank_entry_parked"]

        wait_for(lambda: ingest(ALIKE[0]) == ("match", "queued", "queued"))
        for _ in range(5):
            assert ingest(ALIKE[0]) == ("match", "queued", "queued")
        assert ingest(ALIKE[1]) == ("match", "queued", "queued")
        assert ingest(ALIKE[2]) == ("match", "queued", "queued")
        wait_for(lambda: len(alarms()) == 1)
        (entry,) = bank("GET", "/v1/banks/flood/entries", params={"state": "parked"}).json()["entries"]
        assert alarms()[0]["subject"] == str(entry["id"])
        assert list(entry["media"].values()) == [3]
        wait_for(lambda: ingest(ALIKE[3]) == ("match", "queued", "parked"))

        kept = bank("POST", f"/v1/banks/flood/entries/{entry['id']}/keep")
        assert (kept.status_code, kept.json()["parked_at"]) == (200, None)
        assert bank("POST", f"/v1/banks/flood/entries/{entry['id']}/keep").status_code == 409
        assert alarms() == []
        wait_for(lambda: ingest(ALIKE[3]) == ("match", "queued", "queued"))
        history = bank("GET", "/v1/banks/flood/history").json()["changes"]
        assert [(each["what"], each["entry_id"]) for each in history[:2]] == [
            ("entry_kept", entry["id"]),
            ("entry_parked", entry["id"]),
        ]
        assert history[1]["by"] == "flood_guard"
        bank("PUT", "/v1/banks/flood", json={"kind": "ncii", "action": "observe"}).raise_for_status()


def test_a_list_is_tried_on_clear_traffic_that_the_operator_chose_to_keep(
    prepared: Prepared, gate: RunningGate, tmp_path: Path
) -> None:
    """By a gate that was told to keep some; the other one keeps nothing, as is the default."""
    near = np.unpackbits(np.frombuffer(bytes.fromhex(signals_of(HARMLESS_PICTURE)[1]["value"]), np.uint8))
    near[:7] ^= 1
    listed = tmp_path / "list.csv"
    listed.write_text(f"type,value\npdq,{np.packbits(near).tobytes().hex()}\n")

    def try_list() -> tuple[int, dict[str, Any]]:
        ran = subprocess.run(
            [CORDON, "bank", "dry-run", "mock-list", "--list", listed, "--json"],
            env=environment(prepared.store),
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        return ran.returncode, json.loads(ran.stdout) if ran.stdout else {}

    def ingest(gate: RunningGate) -> None:
        answered = gate.client().post(
            "/v1/ingest", content=HARMLESS_PICTURE, headers={"Content-Type": "image/jpeg"}
        )
        assert answered.json()["verdict"] == "clear"

    ingest(gate)
    assert try_list() == (1, {})
    with running_gate(prepared, wait_until_ready=True, keep_clear_days="7", keep_clear_share="1") as keeping:
        ingest(keeping)
    code, told = try_list()
    assert (code, told["media"], told["entries"], told["matched"]) == (0, 1, 1, 1)
    assert told["by_action"] == {"report": 1, "block": 0, "observe": 0, "suppress": 0}
    assert told["by_distance"][7] == 1
