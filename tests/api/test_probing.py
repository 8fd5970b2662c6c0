"""A key that edits a picture until it slips by is slowed and reported; an honest crawler is not."""

import hashlib
import random
from itertools import count

import pytest

from app.api.probing import FORGOTTEN_AFTER_SECONDS, SLOWED_SECONDS, ProbeGuard
from app.media import Background, Decision, Digests, Rendering, Signals, Verdict
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
    name = str(next(_FILES)).encode()
    digests = Digests(
        hashlib.md5(name, usedforsecurity=False).digest(),
        hashlib.sha1(name, usedforsecurity=False).digest(),
        hashlib.sha256(name).digest(),
    )
    return Signals(digests, (Rendering(0, Background.NONE, pdq.to_bytes(32), quality, bytes(8)),))


def asked_by(key_id: str | None = "key", *, guarded: bool = True) -> Submission:
    return Submission("id", "http", key_id, Profile(), guarded=guarded)


def edit(picture: int, bits: int, chance: random.Random) -> int:
    """The picture with so many bits of its PDQ turned."""
    for bit in chance.sample(range(256), bits):
        picture ^= 1 << bit
    return picture


def probe(guard: ProbeGuard, submission: Submission, edits: int = 40) -> None:
    """Edit one picture more and more, as someone does who wants it to slip by."""
    chance = random.Random(1)
    picture = chance.getrandbits(256)
    for number in range(edits):
        bits = number
        guard.concluded(submission, looks(edit(picture, bits, chance)), MATCH if bits <= 31 else CLEAR)


def test_a_search_for_an_edit_that_slips_by_is_slowed_and_told_once(guard: ProbeGuard, clock: Clock) -> None:
    probe(guard, asked_by())
    assert guard.pause_seconds("key") == SLOWED_SECONDS
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
    assert guard.suspected == ()


def test_the_very_same_file_again_is_no_edit(guard: ProbeGuard) -> None:
    seen = looks(random.Random(3).getrandbits(256))
    for _ in range(200):
        guard.concluded(asked_by(), seen, MATCH)
    assert guard.suspected == ()


def test_pictures_that_pdq_cannot_speak_for_are_not_compared(guard: ProbeGuard) -> None:
    for _ in range(200):
        guard.concluded(asked_by(), looks(0, quality=0), MATCH)
    assert guard.suspected == ()


def test_a_sketch_does_not_hold_the_hash(guard: ProbeGuard) -> None:
    picture = random.Random(4).getrandbits(256)
    guard.concluded(asked_by(), looks(picture), MATCH)
    (history,) = guard._histories.values()
    assert picture not in history.matches[0].looks
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
