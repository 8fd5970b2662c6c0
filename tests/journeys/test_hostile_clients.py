"""Clients that hurry, dribble, crowd or stay: health keeps answering, and nobody gets more than is theirs."""

import asyncio
import contextlib
import resource
import socket
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.settings import StoreSettings
from tests.gates import RunningGate, fill_bank, make_key, prepare, running_gate, wait_for
from tests.journeys.conftest import BANKED, HARMLESS

IMAGE = {"Content-Type": "image/jpeg"}


def ask(gate: RunningGate, token: str) -> httpx.Response:
    """Hand in a harmless picture."""
    return httpx.post(
        f"{gate.url}/v1/ingest",
        content=HARMLESS,
        headers=IMAGE | {"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    )


def held_media(gate: RunningGate) -> int:
    """How many media are on their way in."""
    return int(gate.client("ops").get("/v1/status").json()["intake"]["held_media"])


def livez_seconds(gate: RunningGate) -> float:
    """How long ``/livez`` takes on a connection of its own, the quickest of three: other tests run too."""

    def seconds() -> float:
        began = time.monotonic()
        assert httpx.get(f"{gate.url}/livez", timeout=10, trust_env=False).status_code == 200
        return time.monotonic() - began

    return min(seconds() for _ in range(3))


def test_a_key_beyond_its_rate_is_slowed_and_others_are_not(gate: RunningGate) -> None:
    """429 with Retry-After, before the body is read; the next second it may again."""
    token = asyncio.run(make_key(gate, rate_per_second=1))
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(gate, token), range(12)))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] >= 1
    assert statuses[429] >= 4
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "rate_limited"
    assert int(refused.headers["retry-after"]) >= 1
    assert ask(gate, gate.prepared.tokens["ingest"]).status_code == 200
    time.sleep(1.1)
    assert ask(gate, token).status_code == 200


def test_a_key_runs_no_more_at_once_than_it_may(gate: RunningGate) -> None:
    """An upload that has not ended holds its place."""
    token = asyncio.run(make_key(gate, concurrency=1))
    with socket.create_connection(("127.0.0.1", gate.port)) as slow:
        slow.sendall(
            f"POST /v1/ingest HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: image/jpeg\r\nContent-Length: 10\r\n\r\n".encode()
        )
        wait_for(lambda: held_media(gate) == 1)
        assert ask(gate, token).status_code == 429
    wait_for(lambda: ask(gate, token).status_code == 200)


def begun_by(gates: Sequence[RunningGate], token: str, seconds: float) -> tuple[int, float]:
    """How many requests could be begun at these gates by turns, and in how many seconds.

    They ask for what costs nothing but a permit: 404, or 429 where there is none. Connections stay open, so
    that they come much faster than the key may, on a busy machine too.
    """
    passed = 0
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(8))
        clients = [stack.enter_context(gate.new_client()) for gate in gates]
        by_turns = [clients[number % len(clients)] for number in range(8)]
        headers = {"Authorization": f"Bearer {token}"}
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            statuses = list(pool.map(lambda at: at.get("/v1/nothing", headers=headers).status_code, by_turns))
            assert set(statuses) <= {404, 429}
            passed += statuses.count(404)
        return passed, time.monotonic() - began


def begun_upload(gate: RunningGate, token: str) -> socket.socket:
    """An upload that has not ended."""
    slow = socket.create_connection(("127.0.0.1", gate.port), timeout=10)
    slow.sendall(
        f"POST /v1/ingest HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: 10\r\n\r\n".encode()
    )
    return slow


def test_two_gates_share_the_limits_of_a_key(store: StoreSettings) -> None:
    """Both together begin and run no more than one would, and one of them alone no less."""
    prepared = asyncio.run(prepare(store))
    rate = 6
    with running_gate(prepared) as one:
        fill_bank(one, "mock-list", BANKED)
        token = asyncio.run(make_key(one, rate_per_second=rate))
        # A second gate that starts meanwhile brings no second limit.
        with ThreadPoolExecutor() as meanwhile, contextlib.ExitStack() as later:
            counting = meanwhile.submit(begun_by, [one], token, 4)
            two = later.enter_context(running_gate(prepared))
            passed, seconds = counting.result()
            assert rate * seconds * 0.6 < passed <= rate * (seconds + 1) + 1
            for gates in ([one, two], [two]):
                passed, seconds = begun_by(gates, token, 3)
                # Half the rate, and half a burst, would be fewer.
                assert rate * (seconds + 1) / 2 < passed <= rate * (seconds + 1) + 1
            few = asyncio.run(make_key(one, concurrency=3))
            time.sleep(1.2)
            with contextlib.ExitStack() as uploads:
                for _ in range(3):
                    uploads.enter_context(begun_upload(one, few))
                wait_for(lambda: held_media(one) == 3)
                assert [ask(gate, few).status_code for gate in (one, two)] == [429, 429]
            wait_for(lambda: ask(two, few).status_code == 200)


def test_slow_and_endless_uploads_end(store: StoreSettings) -> None:
    """A pause, a dribbled head, and a chunked body without end: each is cut off, and health answers."""
    prepared = asyncio.run(prepare(store))
    with running_gate(prepared, upload_idle_seconds="1", upload_total_seconds="3") as gate:
        fill_bank(gate, "mock-list", BANKED)
        head = (
            f"POST /v1/ingest HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {prepared.tokens['ingest']}\r\n"
            f"Content-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
        ).encode()
        with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as pausing:
            pausing.sendall(head + b"1\r\nx\r\n")
            assert pausing.recv(4096).startswith(b"HTTP/1.1 400")
        with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as endless:
            began = time.monotonic()
            endless.sendall(head)
            with contextlib.suppress(ConnectionError):
                while time.monotonic() - began < 15:
                    endless.sendall(b"1\r\nx\r\n")
                    time.sleep(0.05)
            assert time.monotonic() - began < 10
        assert livez_seconds(gate) < 1
        status = gate.client("ops").get("/v1/status").json()
        assert status["intake"]["held_media"] == 0


def test_a_dribbled_head_is_not_waited_for(gate: RunningGate) -> None:
    """One byte a second would otherwise hold a connection for ever."""
    with socket.create_connection(("127.0.0.1", gate.port), timeout=1) as dribbling:
        began = time.monotonic()
        dribbling.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        ended = False
        while not ended and time.monotonic() - began < 20:
            try:
                dribbling.sendall(b"y")
                ended = dribbling.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
        assert ended


@pytest.mark.parametrize("count", [3000])
def test_health_answers_among_a_crowd_of_idle_connections(gate: RunningGate, count: int) -> None:
    """They are cut off in time, and crowd nobody out until then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        with contextlib.ExitStack() as crowd:
            for _ in range(count):
                crowd.enter_context(socket.create_connection(("127.0.0.1", gate.port), timeout=10))
            assert livez_seconds(gate) < 1
            assert ask(gate, gate.prepared.tokens["ingest"]).status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_flood_of_headers_is_refused(gate: RunningGate) -> None:
    """Many, or one without end: 400, and the connection is closed."""
    with socket.create_connection(("127.0.0.1", gate.port), timeout=10) as flooding:
        with contextlib.suppress(ConnectionError):
            flooding.sendall(b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)))
        assert flooding.recv(4096).startswith(b"HTTP/1.1 400")
    assert livez_seconds(gate) < 1


def test_a_request_with_two_ends_is_refused_and_hides_no_other(gate: RunningGate) -> None:
    """A proxy that goes by the length, and a gate that goes by the chunks, would see different requests."""
    token = gate.prepared.tokens["ingest"]
    head = f"Host: g\r\nAuthorization: Bearer {token}\r\nContent-Type: image/jpeg\r\n"
    body = f"5\r\nhello\r\n0\r\n\r\nGET /v1/nothing HTTP/1.1\r\n{head}\r\n"
    two_ends = f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n"
    with socket.create_connection(("127.0.0.1", gate.port), timeout=30) as connection:
        connection.sendall(f"POST /v1/ingest HTTP/1.1\r\n{head}{two_ends}\r\n{body}".encode())
        received = b""
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(4096):
                received += more
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


def spoken(gate: RunningGate, *words: str | bytes) -> bytes:
    """All that is answered to these words, said with a pause between them, until the gate hangs up."""
    with socket.create_connection(("127.0.0.1", gate.port), timeout=30) as connection:
        with contextlib.suppress(ConnectionError):
            for word in words:
                connection.sendall(word.encode("latin-1") if isinstance(word, str) else word)
                time.sleep(0.05)
        received = b""
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(4096):
                received += more
    return received


CHUNKED = "Host: g\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "request_text",
    [
        pytest.param("GET /livez HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param("GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param("GET /livez HTTP/2.0\r\nHost: g\r\n\r\n", id="another version"),
        pytest.param("GET /livez\r\n\r\n", id="no version"),
        pytest.param("GET /livez HTTP/1.1\nHost: g\n\n", id="lines that end otherwise"),
        pytest.param("GET /livez HTTP/1.1\r\nHost: g\r\nX: a\r\n b\r\n\r\n", id="a folded header"),
        pytest.param("GET /livez HTTP/1.1\r\nHost : g\r\n\r\n", id="space before a colon"),
        pytest.param("GET /livez HTTP/1.1\r\nHost: g\r\nX: a\0b\r\n\r\n", id="a zero in a header"),
        pytest.param(
            "POST /livez HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            id="two lengths",
        ),
        pytest.param("POST /livez HTTP/1.1\r\nHost: g\r\nContent-Length: +1\r\n\r\na", id="a signed length"),
        pytest.param(f"POST /livez HTTP/1.1\r\n{CHUNKED}Content-Length: 5\r\n\r\n0\r\n\r\n", id="two ends"),
        pytest.param(f"POST /livez HTTP/1.0\r\n{CHUNKED}\r\n0\r\n\r\n", id="chunks before 1.1"),
        pytest.param(
            f"POST /livez HTTP/1.1\r\n{CHUNKED.replace('chunked', 'gzip, chunked')}\r\n0\r\n\r\n",
            id="a coding that nothing here decodes",
        ),
        pytest.param(
            f"POST /livez HTTP/1.1\r\n{CHUNKED.replace('chunked', 'xchunked')}\r\n0\r\n\r\n",
            id="no such coding",
        ),
    ],
)
def test_a_request_whose_end_could_be_read_in_two_ways_is_refused(
    gate: RunningGate, request_text: str
) -> None:
    """400 as a problem, whoever asks, and nothing after it is read on that connection."""
    received = spoken(gate, request_text + "GET /livez HTTP/1.1\r\nHost: g\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b'"code": "malformed"' in received
    assert b"cordon-request-id: " in received.lower()


@pytest.mark.parametrize(
    "endless",
    [b"0\r\nX: ", b"0\r\n" + b"X: y\r\n", b"1;"],
    ids=["a trailer", "trailers", "a chunk's extension"],
)
def test_what_stands_around_the_pieces_of_a_body_has_an_end(gate: RunningGate, endless: bytes) -> None:
    """The parser would keep it in memory for as long as it comes."""
    token = gate.prepared.tokens["ingest"]
    headers = f"{CHUNKED}Authorization: Bearer {token}\r\nContent-Type: image/png\r\n"
    head = f"POST /v1/ingest HTTP/1.1\r\n{headers}\r\n1\r\nx\r\n"
    more = (b"X: y\r\n" if endless.endswith(b"\n") else b"yyyyyy") * 100_000
    received = spoken(gate, head.encode() + endless, more, more)
    # The answer is lost if the gate hangs up on what is still on its way.
    assert not received or received.startswith(b"HTTP/1.1 400 ")
    wait_for(lambda: held_media(gate) == 0)


def test_a_trailer_is_no_header(gate: RunningGate) -> None:
    """Who could put a token there, after the head was looked at, would be somebody else."""
    token = gate.prepared.tokens["ops"]
    trailer = f"0\r\nAuthorization: Bearer {token}\r\n\r\n"
    received = spoken(gate, f"GET /v1/status HTTP/1.1\r\n{CHUNKED}\r\n{trailer}")
    assert received.startswith(b"HTTP/1.1 401 ")


def test_requests_that_come_together_are_answered_in_turn(gate: RunningGate) -> None:
    """As many as may wait; a flood of them ends the connection after these."""
    get = "GET /livez HTTP/1.1\r\nHost: g\r\n\r\n"
    last = get.replace("Host: g\r\n", "Host: g\r\nConnection: close\r\n")
    assert spoken(gate, get * 4 + last).count(b"HTTP/1.1 200 ") == 5
    assert spoken(gate, get + "nonsense\r\n\r\n").count(b"HTTP/1.1 200 ") == 1
    assert 1 <= spoken(gate, get * 5000).count(b"HTTP/1.1 200 ") <= 20


@pytest.mark.parametrize("body", ["", "hello"])
def test_an_upgrade_that_is_not_served_is_as_if_it_was_not_asked_for(gate: RunningGate, body: str) -> None:
    """Some clients ask for HTTP/2 with their first request; they get their answer, once."""
    upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    token = gate.prepared.tokens["all"]
    received = spoken(
        gate,
        f"POST /v1/ingest HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n{upgrade}"
        f"Content-Type: image/png\r\nContent-Length: {len(body)}\r\n\r\n",
        body,
    )
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b'"verdict":"undecidable"' in received
    assert b"connection: close" in received.lower()


def test_a_spent_budget_refuses_new_media_before_their_bodies(tmp_path: Path) -> None:
    """503 with Retry-After while another upload holds all bytes in flight; then it is taken in again."""
    prepared = asyncio.run(prepare(StoreSettings(state_dir=tmp_path / "state")))
    most = str(1024 * 1024)
    with running_gate(prepared, max_bytes=most, max_video_bytes=most, max_inflight_bytes=most) as gate:
        fill_bank(gate, "mock-list", BANKED)
        token = prepared.tokens["ingest"]
        with socket.create_connection(("127.0.0.1", gate.port)) as slow:
            slow.sendall(
                f"POST /v1/ingest HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer {token}\r\n"
                f"Content-Type: image/jpeg\r\nContent-Length: {1024 * 1024}\r\n\r\nx".encode()
            )
            wait_for(lambda: held_media(gate) == 1)
            refused = ask(gate, token)
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            assert livez_seconds(gate) < 1
        wait_for(lambda: ask(gate, token).status_code == 200)
