"""The context: what a caller may say, checked key by key, and never repeated in an error."""

import json
from typing import Any

import pytest

from app.context import MAX_CONTEXT_BYTES, Context, parse_context
from app.errors import InvalidContextError

URL = "https://platform.example/"
WHOLE = {
    "source_url": URL + "picture.jpg",
    "page_url": URL + "page",
    "profile_url": URL + "profile",
    "platform": "platform",
    "account_id": "42",
    "account_name": "Ada",
    "post_id": "p-1",
    "posted_at": "2026-01-31T12:00:00+01:00",
    "uploaded_at": "2026-01-31T12:00:00.500000Z",
    "uploader_ip": "2001:db8::1",
    "uploader_port": 443,
    "client_ref": "ref-1",
    "tags": ["a", "b"],
}


def test_every_key_of_the_contract_is_taken_and_told_as_it_came() -> None:
    assert parse_context(WHOLE).said() == WHOLE
    assert set(WHOLE) == set(Context.model_fields)


def test_nothing_said_is_an_empty_context() -> None:
    assert parse_context(None).said() == parse_context({}).said() == {}
    assert parse_context(dict.fromkeys(WHOLE.keys() - {"tags"})).said() == {}


def test_an_unknown_key_is_refused_so_that_a_typo_loses_nothing() -> None:
    with pytest.raises(InvalidContextError, match="account_id") as refusal:
        parse_context({"acount_id": "canary"})
    assert refusal.value.code == "invalid_context"
    assert "canary" not in f"{refusal.value} {refusal.value.detail} {refusal.value.__cause__}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "u" * 2083) for key in ("source_url", "page_url", "profile_url")),
        *((key, "é" * 256) for key in ("platform", "account_id", "account_name", "post_id", "client_ref")),
        ("tags", ["t" * 64] * 50),
        ("uploader_port", 65535),
        ("uploader_port", "1"),
        ("uploader_port", 443.0),
        ("uploader_ip", "203.0.113.7"),
        ("posted_at", "2026-01-31t12:00:00z"),
        ("posted_at", "2026-01-31 12:00:00.123-08:00"),
    ],
)
def test_what_is_just_within_the_limits_is_taken(key: str, value: Any) -> None:
    assert key in parse_context({key: value}).said()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "u" * 2084) for key in ("source_url", "page_url", "profile_url")),
        *((key, "x" * 257) for key in ("platform", "account_id", "account_name", "post_id", "client_ref")),
        ("platform", ""),
        ("platform", 5),
        ("platform", "lone \ud800 surrogate"),
        ("tags", ["t"] * 51),
        ("tags", ["t" * 65]),
        ("tags", [""]),
        ("tags", "a"),
        ("tags", {"a": "b"}),
        ("uploader_port", 0),
        ("uploader_port", 65536),
        ("uploader_port", True),
        ("uploader_port", 443.5),
        ("uploader_port", "٤٤٣"),
        ("uploader_ip", "203.0.113.7/24"),
        ("uploader_ip", "host.example"),
        ("uploader_ip", 5),
        ("uploader_ip", True),
        ("posted_at", "2025-03-04"),
        ("posted_at", "2025-03-04T12:00:00"),
        ("posted_at", "2025-03-04T12:00Z"),
        ("posted_at", "2026-02-30T12:00:00Z"),
        ("posted_at", "2025-03-04T12:00:00Z\n"),
        ("posted_at", "1735689600"),
        ("posted_at", 1735689600),
        ("uploaded_at", True),
    ],
)
def test_what_is_beyond_the_limits_is_refused_by_its_key_and_not_repeated(key: str, value: Any) -> None:
    with pytest.raises(InvalidContextError, match=f"'context.{key}") as refusal:
        parse_context({"client_ref": "canary", key: value})
    assert "canary" not in str(refusal.value)
    assert "Value error" not in str(refusal.value)
    if isinstance(value, str) and len(value) > 8:
        assert value not in str(refusal.value)


def test_all_of_it_is_at_most_16_kib() -> None:
    texts = ("platform", "account_id", "account_name", "post_id", "client_ref")
    fitting: dict[str, Any] = {"tags": ["t" * 64] * 50, **dict.fromkeys(texts, "é" * 256)}
    fitting |= dict.fromkeys(("source_url", "page_url"), "é" * 2083)
    room = MAX_CONTEXT_BYTES - len(json.dumps(fitting | {"profile_url": ""}, ensure_ascii=False).encode())
    assert parse_context(fitting | {"profile_url": "x" * room}).profile_url == "x" * room
    with pytest.raises(InvalidContextError, match="16384 bytes"):
        parse_context(fitting | {"profile_url": "x" * (room + 1)})


@pytest.mark.parametrize("untrusted", [[], "text", 5, True])
def test_what_is_no_object_is_refused(untrusted: object) -> None:
    with pytest.raises(InvalidContextError, match="JSON object"):
        parse_context(untrusted)


def test_what_is_nested_too_deeply_to_measure_is_refused() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(InvalidContextError):
        parse_context({"tags": nested})
    # Taken apart by hand: an end of all at once would recurse too.
    while nested:
        nested = nested.pop()


def test_a_context_shows_nothing_of_itself() -> None:
    context = parse_context(WHOLE)
    assert {repr(context), str(context), f"{context}"} == {"<Context>"}
