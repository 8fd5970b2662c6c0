"""Who may come in: authentication stands before routing, scopes behind it."""

import base64
import json
import socket
import subprocess
import time
from collections import defaultdict

import httpx
import pytest

from app.store.keys import Scope
from tests.gates import CORDON, RunningGate, environment, one_in_three, seconds_until
from tests.journeys.conftest import HARMLESS

HEALTH = ("/livez", "/readyz", "/metrics")
ULID = "01J9ZK3V5T8QX2M4N6P8R0S1T2"
IDS = defaultdict(lambda: ULID, name="x", entry_id="7")
SCOPES = {"/v1/banks": "bank", "/v1/reports": "report", "/v1/status": "ops"}
"""Of what begins so; all else takes media in."""
SPELLINGS = [
    *("{}/", "/{}", "{}?/livez", "{}#/livez", "{};/livez", "{}%00", "{}%0d%0aX:%20y", "/livez/..{}"),
    *("/livez/%2e%2e{}", "/livez%2f..{}", "/%2f{}", "http://gate{}", "{}\\..\\livez", "/livez\\..{}"),
]
"""Where a route might be found by something that reads paths otherwise."""


def answered(gate: RunningGate, head: str) -> int:
    """The status that is answered to the head of a request, as it stands."""
    with socket.create_connection(("127.0.0.1", gate.port), timeout=30) as connection:
        connection.sendall(f"{head}\r\nHost: gate\r\nConnection: close\r\n\r\n".encode("latin-1"))
        version, status, _ = connection.recv(1024).split(b" ", 2)
    assert version == b"HTTP/1.1"
    return int(status)


def routes_of(gate: RunningGate) -> list[tuple[str, str, str]]:
    """Method, path and scope of each route that there is and that needs a token."""
    document = gate.client("all").get("/openapi.json").json()
    routes = [
        (method.upper(), path.format_map(IDS), scope_of(path))
        for path, operations in document["paths"].items()
        for method in operations
        if path not in HEALTH
    ]
    assert len(routes) > 20
    return routes


def scope_of(path: str) -> str:
    return next((scope for start, scope in SCOPES.items() if path.startswith(start)), "ingest")


def test_no_spelling_of_a_path_and_no_method_gets_by_without_a_token(gate: RunningGate) -> None:
    """What the parser itself refuses is 400; nothing else is told."""
    paths = sorted({path for _, path, _ in routes_of(gate)} | {"/openapi.json"})
    odd_methods = ("HEAD", "TRACE", "CONNECT", "PROPFIND", "M-SEARCH", "get", "BREW")
    for path in paths:
        for spelling in SPELLINGS:
            for method in ("GET", "POST"):
                head = f"{method} {spelling.format(path)} HTTP/1.1"
                assert answered(gate, head) in {400, 401}, head
        for method in odd_methods:
            expected = {400, 401} if method == "CONNECT" else {401}
            assert answered(gate, f"{method} {path} HTTP/1.1") in expected, (method, path)
    for head in (
        "GET /v1/status HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        "GET /v1/status HTTP/1.1\r\nX-Original-URL: /livez\r\nX-Rewrite-URL: /livez",
        "GET /v1/status HTTP/1.1\r\nX-HTTP-Method-Override: GET\r\nX-Forwarded-Prefix: /livez",
        "GET /v1/status HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "GET /v1/status HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
        "GET /livez HTTP/1.1\r\nHost: other\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
        "POST /v1/ingest HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
    ):
        assert answered(gate, head) in ({200, 400} if "/livez HTTP" in head else {400, 401}), head


def test_without_a_token_everything_but_health_is_401(gate: RunningGate) -> None:
    """Routes, methods and paths that do not exist are not told apart."""
    paths = [path for _, path, _ in routes_of(gate)] + [
        "/",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/v1/nothing",
        "/livez/",
    ]
    with httpx.Client(base_url=gate.url, timeout=60, trust_env=False) as anonymous:
        for path in paths:
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
                answer = anonymous.request(method, path)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (method, path)
        for path in HEALTH:
            assert anonymous.get(path).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    ["Bearer wrong", "Bearer", "Basic !!!", "Digest x", "Bearer " + "x" * 5000, "bearer"],
)
def test_a_wrong_token_is_401(gate: RunningGate, authorization: str) -> None:
    """However it is spelt."""
    answer = httpx.get(
        f"{gate.url}/v1/status", headers={"Authorization": authorization}, timeout=60, trust_env=False
    )
    assert answer.status_code == 401
    assert "Bearer" in answer.headers["www-authenticate"]


def test_the_token_may_be_a_basic_password(gate: RunningGate) -> None:
    """For hooks that know only a URL."""
    password = base64.b64encode(f"anyone:{gate.prepared.tokens['ops']}".encode()).decode()
    answer = httpx.get(
        f"{gate.url}/v1/status", headers={"Authorization": f"Basic {password}"}, timeout=60, trust_env=False
    )
    assert answer.status_code == 200


def test_each_route_insists_on_its_scope(gate: RunningGate) -> None:
    """A key with every scope but the one is 403; /openapi.json needs any token."""
    scopes = {scope.value for scope in Scope}
    for method, path, scope in routes_of(gate):
        for other in scopes - {scope}:
            answer = gate.client(other).request(method, path, params={"url": "http://127.0.0.1/"})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (method, path, other)
    for scope in scopes:
        assert gate.client(scope).get("/openapi.json").status_code == 200


def test_what_does_not_exist_is_told_to_holders_of_a_token(gate: RunningGate) -> None:
    """404 and 405 as problems; a slash at the end redirects nowhere; no documentation pages."""
    client = gate.client("all")
    for path in ("/docs", "/redoc", "/v1/ingest/", "/v1/nothing"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    for method in ("GET", "PROPFIND", "BREW"):
        answer = client.request(method, "/v1/ingest")
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed"), method
        assert "POST" in answer.headers["allow"]


def test_a_method_is_read_as_it_comes_even_in_pieces(gate: RunningGate) -> None:
    """Only the beginning of a head is a method, and one byte of it is not taken for all."""
    token = gate.prepared.tokens["ops"]
    pieces = (b"G", b"ET /v1/sta", b"tus HTTP/1.1\r\nHost: g", b"ate here\r\nAuthorization: Bearer ")
    with socket.create_connection(("127.0.0.1", gate.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (*pieces, f"{token}\r\nConnection: close\r\n\r\n".encode()):
            connection.sendall(piece)
            time.sleep(0.05)
        assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")


def test_a_revoked_token_is_dead_within_five_seconds(gate: RunningGate) -> None:
    """In the running process, which knew the key."""
    surroundings = environment(gate.prepared.store)

    def run(*arguments: str) -> str:
        return subprocess.run(
            [CORDON, *arguments], env=surroundings, capture_output=True, text=True, check=True
        ).stdout

    def status(token: str) -> int:
        return httpx.post(
            f"{gate.url}/v1/ingest",
            content=HARMLESS,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "image/jpeg"},
            timeout=60,
            trust_env=False,
        ).status_code

    def seconds() -> float:
        made = json.loads(run("key", "create", "--name", "short-lived", "--scope", "ingest", "--json"))
        assert set(made) == {"id", "token", "scopes"}
        token = made["token"]
        assert status(token) == 200
        return seconds_until(lambda: status(token) == 401, after=lambda: run("key", "revoke", made["id"]))

    assert one_in_three(lambda: seconds() < 5)
