"""Many URLs in one request."""

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.api.batch import _AT_ONCE
from app.store import keys
from app.store.database import open_current
from tests.gates import RunningGate, wait_for
from tests.journeys.conftest import HARMLESS
from tests.worlds import Asked, MediaHost

NDJSON = {"Content-Type": "application/x-ndjson"}


async def make_key(gate: RunningGate) -> tuple[keys.Key, str]:
    """A key that takes media in, and its token."""
    async with open_current(gate.prepared.store) as database, database.begin() as connection:
        return await keys.create(connection, name="short-lived", scopes=frozenset({keys.Scope.INGEST}))


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
    """A batch may run for minutes: its token is dead within seconds here too. What was begun is finished."""
    key, token = asyncio.run(make_key(gate))
    authorization = {"Authorization": f"Bearer {token}"}
    revoked = asyncio.Event()

    async def held_up(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(HARMLESS)}\r\n\r\n".encode())
        await writer.drain()
        await revoked.wait()
        writer.write(HARMLESS)
        await writer.drain()

    async def let_go() -> None:
        revoked.set()

    def begun() -> int:
        return sum(asked.path == "/held-up.jpg" for asked in host.asked[asked_before:])

    def hand_in() -> list[dict[str, Any]]:
        with gate.new_client() as client:
            answer = client.post("/v1/ingest/batch", content="\n".join(lines), headers=NDJSON | authorization)
        return [json.loads(line) for line in answer.text.splitlines()]

    asked_before = len(host.asked)
    host.script("/held-up.jpg", held_up)
    lines = [json.dumps({"url": f"{host.url('/held-up.jpg')}?{number}"}) for number in range(3 * _AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        handed_in = pool.submit(hand_in)
        try:
            wait_for(lambda: begun() == _AT_ONCE)
            asyncio.run(revoke(gate, key.id))
            wait_for(lambda: gate.client().get("/v1/nothing", headers=authorization).status_code == 401)
        finally:
            host.do(let_go())
        told = handed_in.result()
    assert told.pop() == {"done": len(lines)}
    assert Counter(each["status"] for each in told) == {200: _AT_ONCE, 401: 2 * _AT_ONCE}
    assert {each["problem"]["code"] for each in told if each["status"] != 200} == {"unauthenticated"}
    assert begun() == _AT_ONCE


def test_items_that_were_begun_are_reported_though_the_caller_left(
    gate: RunningGate, host: MediaHost
) -> None:
    """The connection is cut after the first answer; the matches that were being fetched still count."""
    lines = [json.dumps({"url": f"{host.url('/edited.jpg')}?{number}"}) for number in range(8)]

    def stored() -> int:
        return len(gate.client("report").get("/v1/reports").json()["reports"])

    before = stored()
    with (
        gate.new_client() as client,
        client.stream(
            "POST",
            "/v1/ingest/batch",
            content="\n".join(lines),
            headers=NDJSON,
        ) as answer,
    ):
        next(answer.iter_lines())

    # Eight is less than what runs at once, so all of them were begun.
    wait_for(lambda: stored() == before + 8)
