"""What may be filed with nobody looking: each bound, from both sides; all else waits for a person."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.context import Context, parse_context
from app.media import (
    Background,
    BankAction,
    BankKind,
    Match,
    Provenance,
    Region,
    Rendering,
    Shape,
    Signals,
    SignalType,
    Suppressor,
    Symmetry,
    Variant,
)
from app.report.automatic import may_file
from app.report.draft import draft
from tests.stubs import URL, digests_of, perceptual_of

SEEN = replace(perceptual_of("a"), quality=80)
BY_PDQ = Match(
    bank="list",
    kind=BankKind.CSAM,
    action=BankAction.REPORT,
    entry_id=7,
    type=SignalType.PDQ,
    entry_value=bytes(32),
    query_value=SEEN.pdq,
    distance=8,
    threshold=31,
    rendering=SEEN,
)
BY_DIGEST = replace(BY_PDQ, type=SignalType.SHA256, distance=0, threshold=0, rendering=None)
NOW = datetime(2026, 11, 26, tzinfo=UTC)
FETCHED = Provenance(received_at=NOW, requested_url=URL)
UPLOADED = Provenance(received_at=NOW)
STILL = Shape("image", "png", 640, 480, 1)


def document(
    *matches: Match,
    provenance: Provenance = FETCHED,
    context: Context | None = None,
    shape: Shape | None = STILL,
    renderings: tuple[Rendering, ...] = (SEEN,),
) -> dict[str, Any]:
    """A stub as the worker reads it."""
    drawn = draft(
        submission_id="01JINGEST",
        entrance="http",
        key_id=None,
        context=context or Context(),
        idempotency_key=None,
        provenance=provenance,
        size=1,
        shape=shape,
        signals=Signals(digests_of("a"), renderings),
        matches=matches,
    )
    read: dict[str, Any] = json.loads(drawn.to_json("01JREPORT"))
    return read


def may(*matches: Match, distance: int = 8, **given: Any) -> bool:
    return may_file(document(*matches, **given), distance=distance)


@pytest.mark.parametrize("of", [SignalType.MD5, SignalType.SHA1, SignalType.SHA256])
def test_the_very_bytes_may_be_filed_whatever_they_hold(of: SignalType) -> None:
    """Also where nothing could be decoded, and where the entry matched too much by its picture."""
    match = replace(BY_DIGEST, type=of)
    assert may(match)
    assert may(match, shape=None, renderings=())
    assert may(replace(match, parked=True))


def test_the_whole_picture_may_be_filed_up_to_the_distance() -> None:
    """Which an operator can only make less."""
    assert may(BY_PDQ)
    assert may(replace(BY_PDQ, distance=0), distance=0)
    assert not may(replace(BY_PDQ, distance=9))
    assert not may(BY_PDQ, distance=7)


def test_a_picture_of_little_structure_waits() -> None:
    """Quality 80 is the least."""
    poorer = replace(SEEN, quality=79)
    assert not may(replace(BY_PDQ, rendering=poorer), renderings=(poorer,))


@pytest.mark.parametrize(
    "changed",
    [
        {"variant": Variant(SEEN.pdq, 80, Symmetry.FLIP_X, negative=False, region=None)},
        {"variant": Variant(SEEN.pdq, 80, Symmetry.ORIGINAL, negative=True, region=None)},
        {"variant": Variant(SEEN.pdq, 80, Symmetry.ORIGINAL, negative=False, region=Region(0, 0, 9, 9))},
        {"type": SignalType.PHASH, "distance": 0, "threshold": 6},
        {"parked": True},
        {"suppressors": (Suppressor(9, named=False),)},
        {"query_value": bytes(32)},
    ],
    ids=["flipped", "negative", "part", "phash", "parked", "harmless is nearer", "another picture's"],
)
def test_what_matched_otherwise_waits(changed: dict[str, Any]) -> None:
    """Only the untransformed whole picture, by PDQ, and by an entry that nothing speaks against."""
    assert not may(replace(BY_PDQ, **changed))
    assert may(replace(BY_PDQ, **changed), BY_DIGEST)


@pytest.mark.parametrize("match", [BY_PDQ, BY_DIGEST])
@pytest.mark.parametrize(
    "changed",
    [
        {"kind": BankKind.TEST},
        {"kind": BankKind.NCII},
        {"kind": BankKind.TERRORISM},
        {"kind": BankKind.OTHER},
    ],
)
def test_only_csam_is_filed_and_a_test_never(match: Match, changed: dict[str, Any]) -> None:
    """Nor what a csam bank matched less certainly beside it."""
    assert not may(replace(match, **changed))
    assert not may(replace(match, **changed), replace(BY_PDQ, distance=20))
    assert not may_file(document(match) | {"test": True}, distance=8)


@pytest.mark.parametrize("kind", ["ncii", "terrorism", "other", "test"])
def test_what_is_told_to_be_of_another_kind_waits(kind: str) -> None:
    """Whatever it says of its matches: the kind is what the report stands under in the clear."""
    assert not may_file(document(BY_DIGEST) | {"bank_kind": kind}, distance=8)


@pytest.mark.parametrize("action", [BankAction.BLOCK, BankAction.OBSERVE])
def test_a_bank_that_does_not_report_has_nothing_filed(action: BankAction) -> None:
    """Beside one that does, less certainly."""
    assert not may(replace(BY_DIGEST, action=action), replace(BY_PDQ, distance=20))


@pytest.mark.parametrize(
    ("shape", "renderings"),
    [
        (replace(STILL, frames=2), (SEEN,)),
        (replace(STILL, frames=2), (SEEN, replace(SEEN, frame=1))),
        (replace(STILL, kind="video"), (SEEN,)),
        (STILL, (replace(SEEN, background=Background.WHITE),)),
        (STILL, (SEEN, replace(SEEN, background=Background.BLACK))),
        (STILL, (replace(SEEN, phash=b""),)),
        (None, ()),
    ],
    ids=["frames", "two frames", "video", "on white", "on two", "quick look", "not decoded"],
)
def test_a_pdq_of_less_than_one_whole_still_picture_waits(
    shape: Shape | None, renderings: tuple[Rendering, ...]
) -> None:
    """A frame is not all, what lies on a background is not untransformed, a quick look not canonical."""
    assert not may(BY_PDQ, shape=shape, renderings=renderings)


@pytest.mark.parametrize(
    "said",
    [
        {"account_id": "7"},
        {"profile_url": "https://p.example/7"},
        {"uploader_ip": "203.0.113.5"},
        {"source_url": "https://p.example/post"},
    ],
)
def test_an_upload_must_tell_who_or_where(said: dict[str, Any]) -> None:
    """One of the four, and no other; without one a person adds what is known."""
    assert may(BY_DIGEST, provenance=UPLOADED, context=parse_context(said))
    for other in ({}, {"account_name": "n"}, {"platform": "p", "post_id": "1"}):
        assert not may(BY_DIGEST, provenance=UPLOADED, context=parse_context(other))


@pytest.mark.parametrize("lacking", ["requested_url", "fetched_at"])
def test_a_fetch_must_tell_url_host_and_time(lacking: str) -> None:
    """What a stub lacks of them."""
    whole = document(BY_DIGEST)
    assert may_file(whole, distance=8)
    del whole["provenance"][lacking]
    assert not may_file(whole, distance=8)


def test_a_fetch_must_tell_a_host() -> None:
    """A URL without one was not fetched."""
    assert not may(BY_DIGEST, provenance=replace(FETCHED, requested_url="https:///picture"))
