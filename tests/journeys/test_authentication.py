"""Who may come in: authentication stands before routing, scopes behind it."""

import base64
import json
import subprocess

import httpx
import pytest

from tests.gates import CORDON, RunningGate, environment, wait_for
from tests.journeys.conftest import HARMLESS

HEALTH = ("/livez", "/readyz", "/metrics")
ROUTES = [
    ("POST", "/v1/ingest", "ingest"),
    ("POST", "/v1/ingest/batch", "ingest"),
    ("POST", "/v1/media", "ingest"),
    ("GET", "/v1/media?url=http://127.0.0.1/", "ingest"),
    ("GET", "/v1/banks", "bank"),
    ("PUT", "/v1/banks/x", "bank"),
    ("POST", "/v1/banks/x/signals", "bank"),
    ("POST", "/v1/banks/x/signals/remove", "bank"),
    ("GET", "/v1/reports", "report"),
    ("GET", "/v1/reports/01J9ZK3V5T8QX2M4N6P8R0S1T2", "report"),
    ("GET", "/v1/reports/01J9ZK3V5T8QX2M4N6P8R0S1T2/sealed", "report"),
    ("POST", "/v1/reports/01J9ZK3V5T8QX2M4N6P8R0S1T2/hold", "report"),
    ("POST", "/v1/reports/01J9ZK3V5T8QX2M4N6P8R0S1T2/unhold", "report"),
    ("GET", "/v1/status", "ops"),
]


def test_without_a_token_everything_but_health_is_401(gate: RunningGate) -> None:
    """Routes, methods and paths that do not exist are not told apart."""
    paths = [path for _, path, _ in ROUTES] + [
        "/",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/v1/nothing",
        "/livez/",
    ]
    with httpx.Client(base_url=gate.url, trust_env=False) as anonymous:
        for path in paths:
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
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
    answer = httpx.get(f"{gate.url}/v1/status", headers={"Authorization": authorization}, trust_env=False)
    assert answer.status_code == 401
    assert "Bearer" in answer.headers["www-authenticate"]


def test_the_token_may_be_a_basic_password(gate: RunningGate) -> None:
    """For hooks that know only a URL."""
    password = base64.b64encode(f"anyone:{gate.prepared.tokens['ops']}".encode()).decode()
    answer = httpx.get(
        f"{gate.url}/v1/status", headers={"Authorization": f"Basic {password}"}, trust_env=False
    )
    assert answer.status_code == 200


def test_each_route_insists_on_its_scope(gate: RunningGate) -> None:
    """A key with every scope but the one is 403; /openapi.json needs any token."""
    for method, path, scope in ROUTES:
        for other in {"ingest", "bank", "report", "ops"} - {scope}:
            answer = gate.client(other).request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (method, path, other)
    for scope in ("ingest", "bank", "report", "ops"):
        assert gate.client(scope).get("/openapi.json").status_code == 200


def test_what_does_not_exist_is_told_to_holders_of_a_token(gate: RunningGate) -> None:
    """404 and 405 as problems; a slash at the end redirects nowhere; no documentation pages."""
    client = gate.client("all")
    for path in ("/docs", "/redoc", "/v1/ingest/", "/v1/nothing"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    answer = client.get("/v1/ingest")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in answer.headers["allow"]


def test_a_revoked_token_is_dead_within_five_seconds(gate: RunningGate) -> None:
    """In the running process, which knew the key."""
    surroundings = environment(gate.prepared.store)

    def run(*arguments: str) -> str:
        return subprocess.run(
            [CORDON, *arguments], env=surroundings, capture_output=True, text=True, check=True
        ).stdout

    made = json.loads(run("key", "create", "--name", "short-lived", "--scope", "ingest", "--json"))
    assert set(made) == {"id", "token", "scopes"}

    def status() -> int:
        return httpx.post(
            f"{gate.url}/v1/ingest",
            content=HARMLESS,
            headers={"Authorization": f"Bearer {made['token']}", "Content-Type": "image/jpeg"},
            trust_env=False,
        ).status_code

    assert status() == 200
    run("key", "revoke", made["id"])
    wait_for(lambda: status() == 401, 5)
