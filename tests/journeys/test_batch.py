"""Many URLs in one request."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.store import keys
from app.store.database import open_current
from tests.gates import RunningGate, wait_for
from tests.worlds import MediaHost

NDJSON = {"Content-Type": "application/x-ndjson"}


async def make_key(gate: RunningGate) -> tuple[keys.Key, str]:
    """A key that may begin ten media a second, and its token."""
    async with open_current(gate.prepared.store) as database, database.begin() as connection:
        return await keys.create(
            connection, name="short-lived", scopes=frozenset({keys.Scope.INGEST}), rate_per_second=10
        )


async def revoke(gate: RunningGate, key_id: str) -> None:
    """End a key, as the command does."""
    async with open_current(gate.prepared.store) as database, database.begin() as connection:
        await keys.revoke(connection, key_id)


def test_each_line_gets_its_answer_and_a_bad_line_fails_alone(gate: RunningGate, host: MediaHost) -> None:
    """Answers name their line and the caller's reference; the last line counts them."""
    lines = [
        json.dumps({"url": host.url("/harmless.jpg"), "context": {"client_ref": "a"}}),
        "{broken",
        json.dumps({"url": host.url("/edited.jpg"), "context": {"client_ref": "b"}}),
        "",
        json.dumps({"url": "http://10.0.0.1/", "context": {"client_ref": "c"}}),
        json.dumps({"url": host.url("/missing"), "context": {"client_ref": "d"}}),
        json.dumps({"url": host.url("/words.jpg"), "context": {"client_ref": "e", "oops": 1}}),
    ]
    answer = gate.client().post("/v1/ingest/batch", content="\n".join(lines), headers=NDJSON)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert told.pop() == {"done": 6}
    by_line = {item["line"]: item for item in told}
    assert by_line[1]["client_ref"] == "a"
    assert by_line[1]["result"]["verdict"] == "clear"
    assert (by_line[2]["status"], by_line[2]["problem"]["code"]) == (400, "malformed")
    assert by_line[3]["result"]["verdict"] == "match"
    assert (by_line[5]["status"], by_line[5]["problem"]["code"]) == (422, "url_refused")
    assert by_line[6]["problem"]["upstream_status"] == 404
    assert (by_line[7]["client_ref"], by_line[7]["problem"]["code"]) == ("e", "invalid_context")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"url": "http://10.0.0.1/"}\n' * 1001, 413, "too_large"),
        (b" " * (4 * 1024 * 1024 + 1), 413, "too_large"),
    ],
    ids=["1,001 lines", "more than 4 MiB"],
)
def test_too_much_is_refused_before_any_is_begun(
    gate: RunningGate, content: bytes, status: int, code: str
) -> None:
    """Nothing of such a batch is fetched."""
    answer = gate.client().post("/v1/ingest/batch", content=content, headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_an_idempotency_key_is_not_taken_here(gate: RunningGate) -> None:
    """It would promise something for many media at once that it cannot hold."""
    answer = gate.client().post("/v1/ingest/batch", content=b"{}", headers=NDJSON | {"Idempotency-Key": "x"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


def test_an_empty_batch_is_done_at_once(gate: RunningGate) -> None:
    """No line, no item."""
    answer = gate.client().post("/v1/ingest/batch", content=b"\n\n", headers=NDJSON)
    assert [json.loads(line) for line in answer.text.splitlines()] == [{"done": 0}]


def test_a_batch_begins_nothing_more_once_its_key_is_revoked(gate: RunningGate, host: MediaHost) -> None:
    """A batch may run for minutes: its token is dead within seconds here too."""
    key, token = asyncio.run(make_key(gate))
    lines = [json.dumps({"url": f"{host.url('/harmless.jpg')}?revoked-{number}"}) for number in range(50)]
    told: list[dict[str, Any]] = []
    asked_before = len(host.asked)
    with (
        httpx.Client(base_url=gate.url, trust_env=False, timeout=60) as client,
        client.stream(
            "POST",
            "/v1/ingest/batch",
            content="\n".join(lines),
            headers=NDJSON | {"Authorization": f"Bearer {token}"},
        ) as answer,
    ):
        for line in answer.iter_lines():
            if not told:
                asyncio.run(revoke(gate, key.id))
            told.append(json.loads(line))
    assert told.pop() == {"done": len(lines)}
    statuses = [each["status"] for each in told]
    assert (statuses[0], statuses[-1]) == (200, 401)
    assert {each["problem"]["code"] for each in told if each["status"] != 200} == {"unauthenticated"}
    fetched = [asked for asked in host.asked[asked_before:] if "?revoked-" in asked.target]
    assert len(fetched) == statuses.count(200)
    assert statuses.count(401) > len(lines) // 4


def test_items_that_were_begun_are_reported_though_the_caller_left(
    gate: RunningGate, host: MediaHost
) -> None:
    """The connection is cut after the first answer; the matches that were being fetched still count."""
    lines = [json.dumps({"url": f"{host.url('/edited.jpg')}?{number}"}) for number in range(8)]

    def stored() -> int:
        return len(gate.client("report").get("/v1/reports").json()["reports"])

    before = stored()
    with (
        httpx.Client(base_url=gate.url, trust_env=False) as client,
        client.stream(
            "POST",
            "/v1/ingest/batch",
            content="\n".join(lines),
            headers=NDJSON | {"Authorization": f"Bearer {gate.prepared.tokens['ingest']}"},
        ) as answer,
    ):
        next(answer.iter_lines())

    # Eight is less than what runs at once, so all of them were begun.
    wait_for(lambda: stored() == before + 8)
