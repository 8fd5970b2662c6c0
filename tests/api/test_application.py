"""What the application answers by itself, before and after any route."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from app.answer import IngestAnswer
from app.api import problems
from app.api.application import application, routes
from app.api.limits import KeyLimits
from app.media import Verdict
from app.metrics import Metrics
from app.settings import IntakeSettings
from tests.api.test_limits import nobody_to_ask


@dataclass(frozen=True)
class Key:
    id: str = "key"
    scopes: frozenset[str] = frozenset({"ingest", "bank", "report", "ops"})
    profile: str = "default"
    rate_per_second: int = 1000
    concurrency: int = 10
    probe_guard: bool = True


@dataclass(frozen=True)
class Keys:
    key: Key = field(default_factory=Key)

    async def authenticate(self, untrusted_token: str) -> Key | None:
        return self.key if untrusted_token == "good" else None  # noqa: S105 - no password


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application whose database is broken in a way that nobody foresaw."""
    services = SimpleNamespace(
        metrics=Metrics(), settings=SimpleNamespace(intake=IntakeSettings()), database=None
    )
    limits = KeyLimits(lambda: True, nobody_to_ask, lambda: 0.0)
    app = cast("Any", application(cast("Any", services), Keys(), limits))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://gate",
        headers={"Authorization": "Bearer good"},
    ) as opened:
        yield opened


async def test_what_nobody_expected_is_a_problem_too(client: httpx.AsyncClient) -> None:
    """500 with a code and an id, as documented, and nothing of the error itself."""
    answer = await client.get("/v1/banks")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert answer.json()["code"] == "internal"
    assert answer.json()["id"] == answer.headers["cordon-request-id"]
    assert "AttributeError" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("OPTIONS", "/v1/media", "GET, POST"),
        ("GET", "/v1/ingest", "POST"),
        ("DELETE", "/v1/banks/name", "PUT"),
        ("TRACE", "/livez", "GET, HEAD"),
        ("POST", "/openapi.json", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_all_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """405 with Allow, also where several routes share a path."""
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_body_must_say_that_it_is_json(client: httpx.AsyncClient, method: str) -> None:
    """415 before it is read, wherever JSON is the only form."""
    path = "/v1/banks/name" if method == "PUT" else "/v1/banks/name/signals"
    answer = await client.request(method, path, content=b"{}", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        ({"kind": "csam"}, "'action'"),
        ({"kind": "csam", "action": "report", "colour": "red"}, "'colour'"),
        ({"kind": "csam", "action": "report", "thresholds": {"pdq": 65}}, "'thresholds.pdq'"),
        ({"kind": "csam", "action": "report", "thresholds": {"pdq": "31"}}, "'thresholds.pdq'"),
        ({"kind": "csam", "action": "report", "thresholds": {"pdq": True}}, "'thresholds.pdq'"),
        ({"kind": "csam", "action": "report", "thresholds": {"md5": 1}}, "'thresholds.md5'"),
        ([], "must be a JSON object"),
    ],
)
async def test_a_wrong_policy_is_named(client: httpx.AsyncClient, policy: object, named: str) -> None:
    """422 names the member."""
    answer = await client.put("/v1/banks/name", json=policy)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert named in answer.json()["detail"]


def test_the_document_tells_what_any_route_can_answer() -> None:
    """The errors that stand before its route, the request's id, and examples that are some."""
    document = routes().openapi()
    for path, operations in document["paths"].items():
        open_to_all = path in {"/livez", "/readyz", "/metrics"}
        for operation in operations.values():
            told = operation["responses"]
            assert {"400", "500"} <= told.keys()
            assert open_to_all or {"401", "403", "429", "503"} <= told.keys()
            assert ("security" in operation) is not open_to_all
            for status, response in told.items():
                assert "Cordon-Request-Id" in response["headers"]
                for code in response.get("content", {}).get(problems.MEDIA_TYPE, {}).get("examples", {}):
                    assert problems.STATUSES[code][0] == int(status)
    examples = {name: example["value"] for name, example in document["components"]["examples"].items()}
    for name, example in examples.items():
        kind, _, said = name.partition(".")
        if kind == "problem":
            problem = problems.Problem.model_validate(example)
            assert (problem.code, problem.status) == (said, problems.STATUSES[said][0])
        else:
            assert IngestAnswer.model_validate(example).verdict == said
    assert examples.keys() >= {f"verdict.{verdict.value}" for verdict in Verdict}
    assert "HTTPValidationError" not in document["components"]["schemas"]
