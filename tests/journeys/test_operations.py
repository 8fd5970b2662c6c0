"""What operators meet: readiness, status, metrics, logs, draining."""

import asyncio
import json
import os
import signal
import threading
from pathlib import Path

import httpx
import pytest
from sqlalchemy import delete, text

from app.settings import StoreSettings
from app.store import schema
from app.store.database import open_current
from tests.gates import (
    Prepared,
    RunningGate,
    fill_bank,
    one_in_three,
    prepare,
    running_gate,
    seconds_until,
    signals_of,
    wait_for,
)
from tests.journeys.conftest import BANKED, EDITED, HARMLESS
from tests.worlds import MediaHost


def test_a_gate_without_a_bank_takes_nothing_in(store: StoreSettings, tmp_path: Path) -> None:
    """503 before the body is read, also while a bank was made but nothing is in it; then it is ready."""
    with running_gate(asyncio.run(prepare(store))) as gate:

        def ingest() -> httpx.Response:
            return gate.client().post("/v1/ingest", content=HARMLESS, headers={"Content-Type": "image/jpeg"})

        assert gate.public("/livez").status_code == 200
        ready = gate.public("/readyz")
        assert (ready.status_code, ready.json()["failing"]) == (503, ["banks"])
        answer = ingest()
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert int(answer.headers["retry-after"]) > 0
        made = gate.client("bank").put("/v1/banks/list", json={"kind": "csam", "action": "report"})
        assert made.status_code == 201
        assert ingest().status_code == 503
        fill_bank(gate, "list", BANKED)
        wait_for(lambda: gate.public("/readyz").status_code == 200)
        assert ingest().json()["verdict"] == "clear"
        emptied = gate.client("bank").post(
            "/v1/banks/list/signals/remove", json={"signals": signals_of(BANKED)}
        )
        assert emptied.status_code == 200
        wait_for(lambda: ingest().status_code == 503)


def test_a_change_of_a_bank_is_in_force_within_five_seconds(gate: RunningGate) -> None:
    """Added, it matches; removed, it does not; without a restart."""

    def verdict() -> str:
        answer = gate.client().post("/v1/ingest", content=HARMLESS, headers={"Content-Type": "image/jpeg"})
        return str(answer.json()["verdict"])

    bank = gate.client("bank")

    def add() -> None:
        bank.put("/v1/banks/later", json={"kind": "other", "action": "block"}).raise_for_status()
        bank.post("/v1/banks/later/signals", json={"signals": signals_of(HARMLESS)}).raise_for_status()

    def take_back() -> None:
        removed = {"signals": signals_of(HARMLESS)[1:]}
        bank.post("/v1/banks/later/signals/remove", json=removed).raise_for_status()
        assert verdict() == "match"
        bank.put("/v1/banks/later", json={"kind": "other", "action": "observe"}).raise_for_status()

    def seconds() -> float:
        assert verdict() == "clear"
        return max(
            seconds_until(lambda: verdict() == "match", after=add),
            seconds_until(lambda: verdict() == "clear", after=take_back),
        )

    assert one_in_three(lambda: seconds() < 5)


def test_the_status_tells_what_is_in_force(gate: RunningGate) -> None:
    """Generations, the queue, custodians, controls; no hash, no URL."""
    status = gate.client("ops").get("/v1/status").json()
    assert status["ready"]
    assert status["custodians"] == 2
    assert status["banks"]["banks"]
    assert {"control", "required", "in_force", "detail"} == set(status["controls"][0])
    assert len(status["processes"]) >= 1


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
def test_who_watches_is_answered_while_the_database_does_not_answer(store: StoreSettings) -> None:
    """Long before a scrape gives up: the metrics with what they knew, the status with that it cannot tell."""

    async def watched(gate: RunningGate) -> tuple[httpx.Response, ...]:
        async with open_current(gate.prepared.store) as database, database.begin() as connection:
            await connection.execute(text("LOCK TABLE alarms IN ACCESS EXCLUSIVE MODE"))
            metrics = await asyncio.to_thread(httpx.get, f"{gate.url}/metrics", trust_env=False, timeout=8)
            return metrics, await asyncio.to_thread(gate.client("ops").get, "/v1/status", timeout=8)

    with running_gate(asyncio.run(prepare(store))) as gate:
        metrics, status = asyncio.run(watched(gate))
        assert (metrics.status_code, "cordon_ready 0.0" in metrics.text) == (200, True)
        assert (status.status_code, status.json()["code"]) == (503, "not_ready")
        assert gate.client("ops").get("/v1/status").status_code == 200


def test_a_gate_that_the_database_forgot_announces_itself_again(gate: RunningGate) -> None:
    """As after a day of sleep, or when a backup is put in place; it need not be started anew."""

    async def forget() -> None:
        async with open_current(gate.prepared.store) as database, database.begin() as connection:
            assert (await connection.execute(delete(schema.processes))).rowcount >= 1

    def announced() -> set[str]:
        live = gate.client("ops").get("/v1/status").json()["processes"]
        return {process["id"] for process in live if process["role"] == "serve"}

    before = announced()
    asyncio.run(forget())
    wait_for(lambda: announced() == before)
    wait_for(lambda: gate.public("/readyz").status_code == 200)


def test_metrics_count_without_telling(gate: RunningGate, host: MediaHost) -> None:
    """Prometheus text, with no label that holds a URL, a host, a key or a bank."""
    gate.client().post("/v1/ingest", json={"url": host.url("/edited.jpg")})
    shown = gate.public("/metrics").text
    assert 'cordon_ingests_total{disposition="dropped",reason="",verdict="match"}' in shown
    for secret in ("127.0.0.1", "edited", "mock-list", gate.prepared.tokens["ingest"][:16]):
        assert secret not in shown


def test_metrics_tell_what_becomes_of_decoders(prepared: Prepared) -> None:
    """How many there are, what they take, and why each that went was ended."""

    def shown(gate: RunningGate) -> dict[str, float]:
        text = gate.public("/metrics").text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    with running_gate(prepared, decoder_media="2") as gate:
        fill_bank(gate, "mock-list", BANKED)
        client = gate.client()
        before = shown(gate)
        assert before["cordon_decoders"] >= 1
        assert before["cordon_fork_servers_started_total"] == 1
        causes = ("recycled", "crashed", "timed_out", "outgrew", "misbehaved", "abandoned")
        ended = {cause: f'cordon_decoders_replaced_total{{cause="{cause}"}}' for cause in causes}
        assert [before[name] for name in ended.values()] == [0] * len(causes)
        for _ in range(4):
            client.post("/v1/ingest", content=HARMLESS, headers={"content-type": "image/jpeg"})
        once, again = shown(gate), shown(gate)
        assert (once[ended["recycled"]], once[ended["crashed"]]) == (2, 0)
        # Whoever looks twice counts nothing twice.
        assert again[ended["recycled"]] == 2
        assert (once["cordon_media_scanning"], once["cordon_decode_reserved_bytes"]) == (0, 0)
        (server,) = _children_of(gate.process.pid)
        os.kill(server, signal.SIGKILL)
        wait_for(lambda: shown(gate)["cordon_fork_servers_started_total"] == 2, 10)


def _children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_no_log_line_tells_what_it_must_not(gate: RunningGate, host: MediaHost) -> None:
    """At debug level: no URL, host, path, query, token, account, or hash; each line is JSON with an id."""
    client = gate.client()
    client.post(
        "/v1/ingest",
        json={"url": host.url("/edited.jpg?canary-query"), "context": {"account_id": "canary-account"}},
    )
    client.get("/v1/media", params={"url": host.url("/harmless.jpg?canary-query")})
    client.post("/v1/ingest", json={"url": "http://canary-host.invalid/canary-path"})
    client.get("/canary-path?canary-query")
    lines = [json.loads(line) for line in gate.log.read_text().splitlines()]
    answered = [line for line in lines if line["event"] == "answered"]
    assert all(len(line["request_id"]) == 26 for line in answered)
    logged = gate.log.read_text()
    secrets = ["canary", "edited", "harmless", signals_of(BANKED)[0]["value"], signals_of(BANKED)[1]["value"]]
    for secret in (*secrets, gate.prepared.tokens["ingest"], host.url("/")):
        assert secret not in logged


def test_sigterm_finishes_what_was_begun(prepared: Prepared, host: MediaHost) -> None:
    """A request in flight gets its answer; the process ends with exit code 0."""
    with running_gate(prepared) as gate:
        fill_bank(gate, "mock-list", BANKED)
        answers, asked = [], len(host.asked)

        def ask() -> None:
            answers.append(gate.client().post("/v1/ingest", json={"url": host.url("/slow/edited.jpg")}))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: len(host.asked) > asked)
        gate.process.send_signal(signal.SIGTERM)
        asking.join(timeout=30)
        assert gate.process.wait(timeout=30) == 0
        assert answers[0].json()["verdict"] == "match"


def test_beyond_loopback_in_the_clear_is_refused(prepared: Prepared) -> None:
    """Unless TLS is on, or an operator says that a proxy ends it."""
    with (
        pytest.raises(AssertionError, match="CORDON_PLAIN_HTTP"),
        running_gate(prepared, host="0.0.0.0"),  # noqa: S104 - that is the point
    ):
        pass


def test_two_gates_on_one_database_agree(prepared: Prepared) -> None:
    """A bank filled through one is in force in both; a match at one is listed at the other."""
    with running_gate(prepared) as one, running_gate(prepared) as other:
        fill_bank(one, "mock-list", BANKED)
        wait_for(
            lambda: (
                other.client()
                .post("/v1/ingest", content=EDITED, headers={"Content-Type": "image/jpeg"})
                .json()
                .get("verdict")
                == "match"
            )
        )
        ids = [
            {report["id"] for report in each.client("report").get("/v1/reports").json()["reports"]}
            for each in (one, other)
        ]
        assert ids[0] == ids[1] != set()
