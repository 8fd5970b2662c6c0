"""One medium at a time, by every form of ``/v1/ingest``, as a caller meets it."""

import contextlib
import json
import socket

import httpx
import pytest

from tests.gates import RunningGate
from tests.journeys.conftest import BANKED, EDITED, FLAT, HARMLESS, MIRRORED, WORDS
from tests.worlds import MediaHost

MEDIA_PART = b'--b\r\nContent-Disposition: form-data; name="media"\r\n\r\nx\r\n--b\r\n'
KEYS = ["id", "verdict", "disposition", "reason", "media", "signals", "matches", "report"]


@pytest.mark.parametrize(
    ("content", "verdict", "disposition", "reason"),
    [
        (HARMLESS, "clear", "dropped", None),
        (BANKED, "match", "dropped", None),
        (EDITED, "match", "dropped", None),
        (MIRRORED, "match", "dropped", None),
        (FLAT, "undecidable", "withheld", "low_quality"),
        (WORDS, "undecidable", "withheld", "unsupported_format"),
        (HARMLESS[:5000], "undecidable", "withheld", "corrupt"),
        (b"", "undecidable", "withheld", "empty"),
    ],
    ids=["clear", "exact copy", "edited copy", "mirrored negative", "flat", "words", "truncated", "empty"],
)
def test_a_raw_body_gets_its_verdict(
    gate: RunningGate, content: bytes, verdict: str, disposition: str, reason: str | None
) -> None:
    """The answer has all keys of the contract, and only those."""
    answer = gate.client().post("/v1/ingest", content=content, headers={"Content-Type": "image/png"})
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == KEYS
    assert (body["verdict"], body["disposition"], body["reason"]) == (verdict, disposition, reason)
    assert answer.headers["cordon-verdict"] == verdict
    assert (body["signals"] is not None) == (verdict == "clear")
    assert body["matches"] == ([] if verdict == "match" else None)
    assert (body["report"] is not None) == (verdict == "match")


def test_a_clear_answer_tells_what_the_medium_is(gate: RunningGate) -> None:
    """Kind, format and size come from the bytes; the hashes are the canonical ones."""
    body = post_raw(gate, HARMLESS).json()
    assert body["media"] == {
        "kind": "image",
        "format": "jpeg",
        "width": 960,
        "height": 640,
        "frames": 1,
        "bytes": len(HARMLESS),
    }
    assert len(body["signals"]["pdq"]["value"]) == 64
    assert body["signals"]["pdq"]["quality"] >= 50
    assert len(body["signals"]["phash"]) == 16


@pytest.mark.parametrize(
    ("content", "status", "verdict"),
    [(HARMLESS, 204, "clear"), (EDITED, 451, "match"), (WORDS, 422, "undecidable")],
    ids=["clear", "match", "undecidable"],
)
def test_answer_status_has_a_header_and_no_body(
    gate: RunningGate, content: bytes, status: int, verdict: str
) -> None:
    """Hooks that know only a status code can tell a verdict from an error by the header."""
    answer = gate.client().post(
        "/v1/ingest?answer=status", content=content, headers={"Content-Type": "application/octet-stream"}
    )
    assert (answer.status_code, answer.headers["cordon-verdict"], answer.content) == (status, verdict, b"")


def test_multipart_carries_the_medium_and_its_context(gate: RunningGate) -> None:
    """The part's own type is ignored, and the context may come after the medium."""
    answer = gate.client().post(
        "/v1/ingest",
        files={
            "media": ("x.txt", EDITED, "text/plain"),
            "context": (None, json.dumps({"platform": "example", "account_id": "7"})),
        },
    )
    assert answer.json()["verdict"] == "match"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"--b\r\nContent-Disposition: form-data; name=media\r\n\r\n" + HARMLESS, 400, "malformed"),
        (b"no boundary at all", 400, "malformed"),
        (
            b'--b\r\nContent-Disposition: form-data; name="context"\r\n\r\n{}\r\n--b--\r\n',
            422,
            "invalid_request",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
            422,
            "invalid_request",
        ),
        (
            MEDIA_PART
            + b'Content-Disposition: form-data; name="context"\r\n\r\n{"platfrom": 1}\r\n--b--\r\n',
            422,
            "invalid_context",
        ),
    ],
    ids=["truncated", "not multipart", "no media", "unknown part", "typo in the context"],
)
def test_a_wrong_multipart_body_is_an_error(gate: RunningGate, body: bytes, status: int, code: str) -> None:
    """A truncated body is never taken for a whole one."""
    answer = gate.client().post(
        "/v1/ingest", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_url_is_fetched_and_decided(gate: RunningGate, host: MediaHost) -> None:
    """JSON with a URL takes the same path as an upload."""
    verdicts = {
        path: gate.client().post("/v1/ingest", json={"url": host.url(path)}).json()["verdict"]
        for path in ("/harmless.jpg", "/edited.jpg", "/words.jpg")
    }
    assert verdicts == {"/harmless.jpg": "clear", "/edited.jpg": "match", "/words.jpg": "undecidable"}


def test_a_host_that_answers_with_an_error_is_a_failed_fetch(gate: RunningGate, host: MediaHost) -> None:
    """What a permitted host answered is told, and nothing else of it."""
    answer = gate.client().post("/v1/ingest", json={"url": host.url("/missing")})
    assert (answer.status_code, answer.json()["code"], answer.json()["upstream_status"]) == (
        502,
        "fetch_failed",
        404,
    )


def test_all_refused_urls_look_the_same(gate: RunningGate) -> None:
    """An inner address, a name that does not resolve and a forbidden scheme differ by the id alone."""
    told = set()
    for url in (
        "http://169.254.169.254/",
        "http://10.0.0.1/",
        "http://no-such-name.invalid/",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/",
        "",
    ):
        answer = gate.client().post("/v1/ingest", json={"url": url})
        assert answer.status_code == 422
        told.add(answer.text.replace(answer.json()["id"], "ID"))
    assert len(told) == 1
    assert json.loads(told.pop())["code"] == "url_refused"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"url": 7}, "invalid_request"),
        ({}, "invalid_request"),
        ({"url": "http://127.0.0.1/", "extra": 1}, "invalid_request"),
        ([], "invalid_request"),
        ({"url": "http://127.0.0.1/", "context": {"posted_at": "yesterday"}}, "invalid_context"),
        ({"url": "http://127.0.0.1/", "context": {"uploader_ip": "nowhere"}}, "invalid_context"),
        ({"url": "http://127.0.0.1/", "context": {"tags": ["x" * 65]}}, "invalid_context"),
        ({"url": "http://127.0.0.1/", "context": {"platform": "x" * 257}}, "invalid_context"),
    ],
)
def test_wrong_json_names_the_field(gate: RunningGate, body: object, code: str) -> None:
    """Nothing is lost silently, a mistyped key least of all."""
    answer = gate.client().post("/v1/ingest", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_broken_json_is_malformed(gate: RunningGate) -> None:
    """Not JSON, doubled keys, and JSON nested without end."""
    for body in (b"{", b'{"url": "a", "url": "b"}', b"[" * 60000, b"\xff"):
        answer = gate.client().post("/v1/ingest", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed"), body[:20]


def test_a_mistyped_query_parameter_is_refused(gate: RunningGate) -> None:
    """A hook that asks for a status, and mistypes it, must not take the 200 of a match for clear."""
    answer = gate.client().post(
        "/v1/ingest?ANSWER=status", content=EDITED, headers={"Content-Type": "image/x"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_other_request_types_are_not_taken(gate: RunningGate) -> None:
    """415 for a form, for text, and for no type at all."""
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {},
    ):
        answer = gate.client().post("/v1/ingest", content=b"x", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_clear_medium_is_handed_on_whole(gate: RunningGate, host: MediaHost) -> None:
    """The gated download gives the very bytes, by POST and by GET."""
    client = gate.client()
    for answer in (
        client.post("/v1/media", json={"url": host.url("/harmless.jpg")}),
        client.get("/v1/media", params={"url": host.url("/harmless.jpg")}),
    ):
        assert (answer.status_code, answer.content == HARMLESS) == (200, True)
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"] == "attachment"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cordon-verdict"] == "clear"


def test_the_answer_stands_beside_a_clear_medium_only_where_it_is_asked_for(
    gate: RunningGate, host: MediaHost
) -> None:
    """It tells canonical hashes, which a verdict alone seldom takes the time for."""
    client, url = gate.client(), host.url("/harmless.jpg")
    plain = client.post("/v1/media", json={"url": url})
    assert "cordon-answer" not in plain.headers
    asked = client.post("/v1/media?answer=header", json={"url": url})
    told = json.loads(asked.headers["cordon-answer"])
    assert asked.content == plain.content == HARMLESS
    assert told["signals"] == client.post("/v1/ingest", json={"url": url}).json()["signals"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/edited.jpg", 451, "matched"), ("/words.jpg", 422, "undecidable")],
)
def test_what_is_not_clear_is_not_handed_on(
    gate: RunningGate, host: MediaHost, path: str, status: int, code: str
) -> None:
    """The verdict stands under ``result``; not one byte of the medium does."""
    answer = gate.client().post("/v1/media", json={"url": host.url(path)})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["result"]["verdict"] == answer.headers["cordon-verdict"]


def test_the_same_sighting_joins_its_report(gate: RunningGate, host: MediaHost) -> None:
    """One place is one report while it waits; an upload without a place is its own."""
    client = gate.client()
    fetched = {
        client.post("/v1/ingest", json={"url": host.url("/edited.jpg?one-place")}).json()["report"]["id"]
        for _ in range(3)
    }
    uploaded = {post_raw(gate, EDITED).json()["report"]["id"] for _ in range(2)}
    assert (len(fetched), len(uploaded)) == (1, 2)
    report = gate.client("report").get(f"/v1/reports/{fetched.pop()}").json()
    assert len(report["sightings"]) == 2


def test_an_idempotency_key_keeps_a_retry_from_reporting_twice(gate: RunningGate) -> None:
    """Every request is decided anew; only the report is remembered, for this key and this medium."""

    def report(content: bytes, key: str) -> str:
        answer = gate.client().post(
            "/v1/ingest",
            content=content,
            headers={"Content-Type": "image/jpeg", "Idempotency-Key": key},
        )
        return str(answer.json()["report"]["id"])

    first = report(EDITED, "attempt-1")
    assert report(EDITED, "attempt-1") == first
    assert report(EDITED, "attempt-2") != first
    assert report(BANKED, "attempt-1") != first


def test_an_upload_beyond_the_limit_is_not_read_on(gate: RunningGate) -> None:
    """413 comes at the limit, also where the length was not told beforehand."""
    limit = 64 * 1024 * 1024
    sent = 0

    def endless() -> object:
        nonlocal sent
        while True:
            sent += 1024 * 1024
            yield bytes(1024 * 1024)

    with gate.new_client() as client:
        answer = client.post(
            "/v1/ingest",
            content=endless(),  # type: ignore[arg-type]
            headers={"Content-Type": "image/png"},
        )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert sent < limit + 32 * 1024 * 1024


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HELLO THERE\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nA: " + b"x" * 100_000,
    ],
    ids=["TLS on a plain port", "no HTTP", "a header without end"],
)
def test_what_is_no_request_gets_a_problem_too(gate: RunningGate, sent: bytes) -> None:
    """The server's own refusals have the shape of all others."""
    with socket.create_connection(("127.0.0.1", gate.port), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        told = bytearray()
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                told += piece
    head, _, body = bytes(told).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["code"] == "malformed"


def post_raw(gate: RunningGate, content: bytes) -> httpx.Response:
    """Post bytes as they are."""
    return gate.client().post(
        "/v1/ingest", content=content, headers={"Content-Type": "application/octet-stream"}
    )
