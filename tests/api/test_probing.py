"""A key that edits a picture until it slips by is slowed and reported; an honest crawler is not."""

import hashlib
import random
from itertools import count

import pytest

from app.api.probing import FORGOTTEN_AFTER_SECONDS, NEAR_BITS, SLOWED_SECONDS, ProbeGuard
from app.media import (
    Background,
    BankAction,
    BankKind,
    Decision,
    Digests,
    Match,
    Region,
    Rendering,
    Signals,
    SignalType,
    Symmetry,
    Variant,
    Verdict,
)
from app.pipeline import Submission
from app.settings import Profile

MATCH, CLEAR = Decision(Verdict.MATCH), Decision(Verdict.CLEAR)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock: Clock) -> ProbeGuard:
    return ProbeGuard(clock)


_FILES = count()


def looks(pdq: int, quality: int = 100) -> Signals:
    """A new file that looks like this."""
    return file_of(rendering(pdq, quality))


def rendering(
    pdq: int, quality: int = 100, *, frame: int = 0, variants: tuple[Variant, ...] = ()
) -> Rendering:
    return Rendering(frame, Background.NONE, pdq.to_bytes(32), quality, bytes(8), variants)


def form(
    pdq: int,
    *,
    symmetry: Symmetry = Symmetry.ORIGINAL,
    negative: bool = False,
    region: Region | None = None,
) -> Variant:
    return Variant(pdq.to_bytes(32), 100, symmetry, negative, region)


def file_of(*renderings: Rendering) -> Signals:
    """A new file with these pages."""
    name = str(next(_FILES)).encode()
    digests = Digests(
        hashlib.md5(name, usedforsecurity=False).digest(),
        hashlib.sha1(name, usedforsecurity=False).digest(),
        hashlib.sha256(name).digest(),
    )
    return Signals(digests, renderings)


def asked_by(key_id: str | None = "key", *, guarded: bool = True) -> Submission:
    return Submission("id", "http", key_id, Profile(), guarded=guarded)


def edit(picture: int, bits: int, chance: random.Random) -> int:
    """The picture with so many bits of its PDQ turned."""
    for bit in chance.sample(range(256), bits):
        picture ^= 1 << bit
    return picture


def by_pdq(found: Rendering, variant: Variant | None = None) -> Decision:
    """A match of this rendering, or of one of its forms."""
    value = (variant or found).pdq
    match = Match(
        bank="bank",
        kind=BankKind.CSAM,
        action=BankAction.REPORT,
        entry_id=1,
        type=SignalType.PDQ,
        entry_value=value,
        query_value=value,
        distance=0,
        threshold=31,
        rendering=found,
        variant=variant,
    )
    return Decision(Verdict.MATCH, matches=(match,))


def probe(guard: ProbeGuard, submission: Submission, edits: int = 40) -> None:
    """Edit one picture more and more, as someone does who wants it to slip by."""
    chance = random.Random(1)
    picture = chance.getrandbits(256)
    for number in range(edits):
        bits = number
        guard.concluded(submission, looks(edit(picture, bits, chance)), MATCH if bits <= 31 else CLEAR)


def test_a_search_for_an_edit_that_slips_by_is_slowed_and_told_once(guard: ProbeGuard, clock: Clock) -> None:
    probe(guard, asked_by())
    assert guard.pause_seconds("key") > 0
    assert guard.suspected == ("key",)
    assert guard.take_news("key")
    assert not guard.take_news("key")
    clock.now += FORGOTTEN_AFTER_SECONDS
    assert guard.pause_seconds("key") == 0


def test_other_keys_and_keys_without_the_guard_are_left_alone(guard: ProbeGuard) -> None:
    probe(guard, asked_by())
    assert guard.pause_seconds("another") == 0
    probe(guard, asked_by("ci", guarded=False))
    probe(guard, asked_by(None))
    assert guard.suspected == ("key",)
    assert not guard.take_news("ci")


def test_a_crawler_that_meets_many_different_pictures_is_not_suspected(guard: ProbeGuard) -> None:
    chance = random.Random(2)
    for _ in range(500):
        guard.concluded(asked_by(), looks(chance.getrandbits(256)), chance.choice([MATCH, CLEAR]))
    assert not guard.suspected


def test_the_very_same_file_again_is_no_edit(guard: ProbeGuard) -> None:
    seen = looks(random.Random(3).getrandbits(256))
    for _ in range(200):
        guard.concluded(asked_by(), seen, MATCH)
    assert not guard.suspected


def test_pictures_that_pdq_cannot_speak_for_are_not_compared(guard: ProbeGuard) -> None:
    for _ in range(200):
        guard.concluded(asked_by(), looks(0, quality=0), MATCH)
    assert not guard.suspected


def test_a_suspected_key_has_its_media_decided_one_after_another(guard: ProbeGuard, clock: Clock) -> None:
    """However many it sends at once."""
    probe(guard, asked_by())
    turns = [guard.pause_seconds("key") for _ in range(5)]
    assert turns == [SLOWED_SECONDS * number for number in range(1, 6)]
    clock.now += 10 * SLOWED_SECONDS
    assert guard.pause_seconds("key") == SLOWED_SECONDS


def test_an_edit_cannot_hide_behind_other_pages(guard: ProbeGuard) -> None:
    """All pages of a medium are compared with what matched, not only the first."""
    chance = random.Random(5)
    picture = chance.getrandbits(256)
    guard.concluded(asked_by(), looks(picture), MATCH)
    for _ in range(12):
        others = [rendering(chance.getrandbits(256), frame=frame) for frame in range(100)]
        edited = rendering(edit(picture, 33, chance), frame=100)
        guard.concluded(asked_by(), file_of(*others, edited), CLEAR)
    assert guard.suspected == ("key",)


def test_an_edit_within_a_screenshot_is_an_edit(guard: ProbeGuard) -> None:
    chance = random.Random(6)
    picture = chance.getrandbits(256)
    guard.concluded(asked_by(), looks(picture), MATCH)
    for _ in range(12):
        part = form(edit(picture, 33, chance), region=Region(10, 10, 100, 100))
        guard.concluded(asked_by(), file_of(rendering(chance.getrandbits(256), variants=(part,))), CLEAR)
    assert guard.suspected == ("key",)


def test_of_what_matched_only_what_did_is_remembered(guard: ProbeGuard) -> None:
    """A page that stood beside a match is nobody's secret: sending it again, alone, is no probing."""
    chance = random.Random(7)
    matching, beside = rendering(chance.getrandbits(256)), rendering(chance.getrandbits(256), frame=1)
    guard.concluded(asked_by(), file_of(matching, beside), by_pdq(matching))
    for _ in range(40):
        guard.concluded(asked_by(), looks(int.from_bytes(beside.pdq)), CLEAR)
    assert not guard.suspected
    for _ in range(12):
        guard.concluded(asked_by(), looks(edit(int.from_bytes(matching.pdq), 33, chance)), CLEAR)
    assert guard.suspected == ("key",)


def test_edits_of_a_mirror_image_that_matched_are_found_by_what_it_shows(guard: ProbeGuard) -> None:
    """The form that matched is remembered, and the picture that it is a form of."""
    chance = random.Random(8)
    mirrored, shown = chance.getrandbits(256), chance.getrandbits(256)
    found = rendering(shown, variants=(form(mirrored, symmetry=Symmetry.FLIP_Y),))
    guard.concluded(asked_by("one"), file_of(found), by_pdq(found, found.variants[0]))
    guard.concluded(asked_by("two"), file_of(found), by_pdq(found, found.variants[0]))
    for _ in range(12):
        guard.concluded(asked_by("one"), looks(edit(shown, 33, chance)), CLEAR)
        guard.concluded(asked_by("two"), looks(edit(mirrored, 33, chance)), CLEAR)
    assert guard.suspected == ("one", "two")


def test_pictures_farther_apart_than_edits_are_are_not_taken_for_edits(guard: ProbeGuard) -> None:
    chance = random.Random(9)
    picture = chance.getrandbits(256)
    guard.concluded(asked_by("far"), looks(picture), MATCH)
    guard.concluded(asked_by("near"), looks(picture), MATCH)
    for _ in range(12):
        guard.concluded(asked_by("far"), looks(edit(picture, NEAR_BITS + 1, chance)), CLEAR)
        guard.concluded(asked_by("near"), looks(edit(picture, NEAR_BITS, chance)), CLEAR)
    assert guard.suspected == ("near",)


def test_a_sketch_does_not_hold_the_hash(guard: ProbeGuard) -> None:
    picture = random.Random(4).getrandbits(256)
    guard.concluded(asked_by(), looks(picture), MATCH)
    (history,) = guard._histories.values()
    (sketch,) = history.matches[0].looks
    assert sketch.tobytes() != picture.to_bytes(32)
    assert picture.to_bytes(32) not in history.matches[0].file
    assert f"{picture:x}" not in repr(history)


def test_the_digest_of_a_file_is_asked_for_only_where_it_looks_like_one_that_matched(
    guard: ProbeGuard,
) -> None:
    """Computing it costs more than all else of the guard."""
    chance = random.Random(8)
    picture = chance.getrandbits(256)
    assert not guard.compares(asked_by(), looks(picture).renderings)
    guard.concluded(asked_by(), looks(picture), MATCH)
    assert guard.compares(asked_by(), looks(edit(picture, 60, chance)).renderings)
    assert not guard.compares(asked_by(), looks(chance.getrandbits(256)).renderings)
    assert not guard.compares(asked_by("another"), looks(picture).renderings)
    assert not guard.compares(asked_by(guarded=False), looks(picture).renderings)
    assert not guard.compares(asked_by(None), looks(picture).renderings)
