"""A guard against asking by media: it slows and reports a key that seems to search for an edit that slips by.

A gate answers 'match' or 'clear'. Whoever holds a matching picture and a token can edit it until the answer
changes. What that looks like: many different files that are all nearly the same picture as one that matched.

What is kept to see it: for each key, for an hour, sketches of the latest matches. A sketch is the PDQ hash
combined with random bits that this process drew and nobody else knows; distances between sketches are those
between hashes, and nothing else can be read from them. Nothing of it is stored, logged or shared, so each
gate sees what it is asked itself, and a restart forgets.

It does not stop someone patient, nor one with many keys. It makes the search slow, and visible. It does not
see a few large steps (a bisection between a match and what is clear takes ten), edits that move PDQ far at
once, nor pictures that PDQ cannot speak for. A picture that many people send in many versions within minutes,
as happens to news, looks like a search too.
"""

import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.media import (
    PDQ_BYTES,
    PDQ_MINIMUM_QUALITY,
    Decision,
    Rendering,
    Signals,
    SignalType,
    Symmetry,
    Verdict,
)
from app.pipeline import Submission

NEAR_BITS: Final = 60
"""Two pictures this close in PDQ are taken for edits of one.

Unrelated ones are 128 bits apart, give or take 8. Of 7 million pairs of crops from 70 photographs, 3 were
this near: a key that asks fifty times a second, beside as many matches as are remembered, is an eighth of
the way to suspicion by chance.
"""

REMEMBERED_MATCHES: Final = 64
SUSPECTED_ABOVE: Final = 30.0
FORGOTTEN_AFTER_SECONDS: Final = 3600.0

SLOWED_SECONDS: Final = 1.0
"""A key under suspicion has its media decided one after another, so far apart."""

_HALF_LIFE_SECONDS: Final = 600.0
_EDIT_THAT_MATCHED: Final = 1.0
_EDIT_THAT_DID_NOT: Final = 3.0

_LOOKS_OF_A_MATCH: Final = 4
_LOOKS_COMPARED: Final = 4096
"""All pages of the longest medium, and then some: an edit must not hide behind others."""

Looks = NDArray[np.uint64]
"""Of shape (n, 4): sketches of n PDQ hashes."""


@dataclass(frozen=True)
class _Sketch:
    """One file that matched: when, which (by a keyed hash), and what it looked like."""

    seen_at: float
    file: bytes = field(repr=False)
    looks: Looks = field(repr=False)


@dataclass
class _History:
    """What one key did lately."""

    matches: deque[_Sketch] = field(default_factory=lambda: deque(maxlen=REMEMBERED_MATCHES))
    score: float = 0.0
    scored_at: float = 0.0
    reported_at: float = float("-inf")
    turn_at: float = float("-inf")


class ProbeGuard:
    """Watches what each guarded key asks; one a process.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._pad = np.frombuffer(secrets.token_bytes(PDQ_BYTES), np.uint64)
        self._histories: dict[str, _History] = {}

    def compares(self, submission: Submission, renderings: Sequence[Rendering]) -> bool:
        """Whether it takes the medium's SHA-256 to tell if it is an edit of one that matched."""
        history = self._histories.get(submission.key_id or "") if submission.guarded else None
        if history is None:
            return False
        looks = self._padded(islice(_looks(renderings), _LOOKS_COMPARED))
        return any(_look_alike(looks, earlier.looks) for earlier in history.matches)

    def concluded(self, submission: Submission, signals: Signals, decision: Decision) -> None:
        """Take note of one medium that came to a verdict."""
        if submission.key_id is None or not submission.guarded:
            return
        now = self._clock()
        history = self._histories.get(submission.key_id)
        matched = decision.verdict is Verdict.MATCH
        if history is None:
            if not matched:
                return
            history = self._histories[submission.key_id] = _History(scored_at=now)
        history.score = self._score(history, now)
        history.scored_at = now
        while history.matches and now - history.matches[0].seen_at > FORGOTTEN_AFTER_SECONDS:
            history.matches.popleft()
        sketch = self._sketch(now, signals, islice(_looks(signals.renderings), _LOOKS_COMPARED))
        if any(_is_edit(sketch, earlier) for earlier in history.matches):
            history.score += _EDIT_THAT_MATCHED if matched else _EDIT_THAT_DID_NOT
        if matched:
            history.matches.append(self._sketch(now, signals, _matching_looks(signals, decision)))

    def pause_seconds(self, key_id: str) -> float:
        """How long the next medium of a key is to wait; whoever asks has taken that turn."""
        if not self._is_suspected(key_id):
            return 0.0
        history, now = self._histories[key_id], self._clock()
        history.turn_at = max(history.turn_at, now) + SLOWED_SECONDS
        return history.turn_at - now

    def take_news(self, key_id: str) -> bool:
        """Whether a key came under suspicion and nobody was told within the hour; telling is the caller's."""
        history = self._histories.get(key_id)
        now = self._clock()
        if history is None or not self._is_suspected(key_id):
            return False
        if now - history.reported_at < FORGOTTEN_AFTER_SECONDS:
            return False
        history.reported_at = now
        return True

    @property
    def suspected(self) -> tuple[str, ...]:
        """Ids of the keys under suspicion."""
        return tuple(sorted(key_id for key_id in self._histories if self._is_suspected(key_id)))

    def _is_suspected(self, key_id: str) -> bool:
        history = self._histories.get(key_id)
        return history is not None and self._score(history, self._clock()) > SUSPECTED_ABOVE

    @staticmethod
    def _score(history: _History, now: float) -> float:
        decayed: float = history.score * 0.5 ** ((now - history.scored_at) / _HALF_LIFE_SECONDS)
        return decayed

    def _sketch(self, now: float, signals: Signals, looks: Iterable[bytes]) -> _Sketch:
        file = hashlib.blake2b(signals.digests.sha256, key=self._secret, digest_size=8).digest()
        return _Sketch(now, file, self._padded(looks))

    def _padded(self, looks: Iterable[bytes]) -> Looks:
        return np.frombuffer(b"".join(looks), np.uint64).reshape(-1, len(self._pad)) ^ self._pad


def _looks(renderings: Iterable[Rendering]) -> Iterable[bytes]:
    """The PDQ hashes of renderings and of the pictures in them, where they mean something.

    Not those of their flips, turns and negatives: each more would be one more chance to be near something.
    """
    parts = []
    for rendering in renderings:
        if rendering.quality >= PDQ_MINIMUM_QUALITY:
            yield rendering.pdq
        parts += [each for each in rendering.variants if each.region is not None]
    for part in parts:
        upright = part.symmetry is Symmetry.ORIGINAL and not part.negative
        if upright and part.quality >= PDQ_MINIMUM_QUALITY:
            yield part.pdq


def _matching_looks(signals: Signals, decision: Decision) -> Iterable[bytes]:
    """What of a medium matched: the hash that did, and what it is a form of."""
    by_pdq = [match.query_value for match in decision.matches if match.type is SignalType.PDQ]
    matching = [match.rendering for match in decision.matches if match.rendering is not None]
    # Digests match all of a medium.
    found = [*by_pdq, *_looks(matching or signals.renderings)]
    return islice(dict.fromkeys(found), _LOOKS_OF_A_MATCH)


def _is_edit(one: _Sketch, other: _Sketch) -> bool:
    """Whether two different files show nearly the same picture."""
    return one.file != other.file and _look_alike(one.looks, other.looks)


def _look_alike(some: Looks, others: Looks) -> bool:
    apart = np.bitwise_count(some[:, None] ^ others[None]).sum(axis=2, dtype=np.uint16)
    return bool((apart <= NEAR_BITS).any())
