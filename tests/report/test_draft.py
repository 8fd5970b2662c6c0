"""The stub: all that a custodian needs, and a place that says when two sightings are one."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.context import Context, parse_context
from app.media import (
    BankAction,
    BankKind,
    Match,
    Provenance,
    Region,
    Signals,
    SignalType,
    Symmetry,
    Variant,
)
from app.report.draft import MEMBERS, draft, place_of
from tests.stubs import ADDRESS, HEADER, URL, canaries, digests_of, perceptual_of, stub

UPLOADED = Provenance(received_at=datetime(2026, 1, 2, tzinfo=UTC))


def _document(**given: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(stub(**given).to_json("01JREPORT"))
    return document


def test_the_stub_says_what_was_found_where_by_which_signal() -> None:
    document = _document()
    assert document["stub_version"] == 1
    assert document["report_id"] == "01JREPORT"
    assert document["submitted_by"] == {"entrance": "http", "key_id": "01JKEY"}
    assert "showed this media to no person and kept no copy" in document["statement"]
    provenance = document["provenance"]
    assert (provenance["requested_url"], provenance["resolved_address"]) == (URL, ADDRESS)
    assert provenance["headers"] == {"etag": HEADER}
    assert document["media"] == {
        "bytes": 1234,
        "kind": "image",
        "format": "png",
        "width": 640,
        "height": 480,
        "frames": 1,
    }
    assert document["signals"]["sha256"] == digests_of("a").sha256.hex()
    assert [(match["signal"], match["distance"], match["threshold"]) for match in document["matches"]] == [
        ("sha256", 0, 0),
        ("pdq", 0, 31),
    ]
    assert document["matches"][1]["quality"] == 100
    assert document["matches"][1]["query_value"] == perceptual_of("a").pdq.hex()


def test_its_members_are_those_by_which_others_are_told_from_it() -> None:
    assert set(_document()) == set(MEMBERS)


def test_an_upload_tells_when_it_was_received() -> None:
    provenance = _document(url=None)["provenance"]
    assert provenance.keys() == {"how", "received_at"}
    assert provenance["received_at"].endswith("Z")


def test_the_kind_is_the_most_severe_of_the_banks_that_report() -> None:
    assert stub(kind=BankKind.TEST).test
    assert not stub(kind=BankKind.CSAM).test
    assert _document(kind=BankKind.NCII)["bank_kind"] == "ncii"


def test_a_text_without_utf8_does_not_make_a_match_impossible_to_report() -> None:
    with_surrogate = replace(stub(), content={"context": {"platform": "lone \ud800 surrogate"}})
    assert json.loads(with_surrogate.to_json("01J"))["context"]["platform"] == "lone \ud800 surrogate"


def test_nothing_secret_stands_in_a_stubs_repr() -> None:
    shown = repr(stub(idempotency_key="canary-idempotency-key"))
    assert [canary for canary in canaries() if canary.decode("latin-1") in shown] == []
    assert BankAction.REPORT.value not in shown


def test_the_place_of_a_fetched_medium_is_its_url_whatever_the_caller_says() -> None:
    fetched = replace(UPLOADED, requested_url=URL)
    assert place_of(fetched, Context(platform="p", post_id="1")) == (("url", URL),)


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({}, ()),
        ({"account_name": "n", "page_url": "https://p.example", "client_ref": "r"}, ()),
        ({"platform": "p"}, (("platform", "p"),)),
        (
            {"source_url": "u", "post_id": "3", "account_id": "2", "platform": "p"},
            (("platform", "p"), ("account_id", "2"), ("post_id", "3"), ("source_url", "u")),
        ),
    ],
)
def test_the_place_of_an_upload_is_what_its_sender_named(
    said: dict[str, str], place: tuple[tuple[str, str], ...]
) -> None:
    assert place_of(UPLOADED, parse_context(said)) == place


def test_the_stub_tells_which_variant_of_the_picture_matched() -> None:
    """A custodian needs to know that a part, turned and negative, is what the entry knows."""
    rendering = perceptual_of("a")
    variant = Variant(bytes(32), 77, Symmetry.ROTATE_90, negative=True, region=Region(1, 2, 30, 40))
    found = [
        Match(
            bank="b",
            kind=BankKind.CSAM,
            action=BankAction.REPORT,
            entry_id=1,
            type=SignalType.PDQ,
            entry_value=bytes(32),
            query_value=bytes(32),
            distance=3,
            threshold=31,
            rendering=rendering,
            variant=each,
        )
        for each in (None, variant)
    ]
    told = draft(
        submission_id="01J",
        entrance="http",
        key_id=None,
        context=Context(),
        idempotency_key=None,
        provenance=UPLOADED,
        size=1,
        shape=None,
        signals=Signals(digests_of("a"), (rendering,)),
        matches=tuple(found),
    ).content["matches"]
    assert [each["variant"] for each in told] == [
        None,
        {
            "symmetry": "rotate90",
            "negative": True,
            "region": {"left": 1, "top": 2, "width": 30, "height": 40},
        },
    ]
    assert [each["quality"] for each in told] == [100, 77]
