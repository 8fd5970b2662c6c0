"""A guard against asking by media: it slows and reports a key that seems to search for an edit that slips by.

A gate answers 'match' or 'clear'. Whoever holds a matching picture and a token can edit it until the answer
changes. What that looks like: many different files that are all nearly the same picture as one that matched.

What is kept to see it: for each key, for an hour, sketches of the latest matches. A sketch is the PDQ hash
combined with random bits that this process drew and nobody else knows; distances between sketches are those
between hashes, and nothing else can be read from them. Nothing of it is stored, logged or shared, so each
gate sees what it is asked itself, and a restart forgets.

It does not stop someone patient, nor one with many keys. It makes the search slow, and visible.
"""

import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from app.media import PDQ_BYTES, PDQ_MINIMUM_QUALITY, Decision, Rendering, Signals, Verdict
from app.pipeline import Submission

NEAR_BITS: Final = 80
"""Two pictures this close in PDQ are taken for edits of one; unrelated ones are about 128 bits apart."""

REMEMBERED_MATCHES: Final = 64
SUSPECTED_ABOVE: Final = 30.0
FORGOTTEN_AFTER_SECONDS: Final = 3600.0
SLOWED_SECONDS: Final = 2.0

_HALF_LIFE_SECONDS: Final = 600.0
_EDIT_THAT_MATCHED: Final = 1.0
_EDIT_THAT_DID_NOT: Final = 3.0
_RENDERINGS_LOOKED_AT: Final = 4


@dataclass(frozen=True)
class _Sketch:
    """One file that matched: when, which (by a keyed hash), and what it looked like."""

    seen_at: float
    file: bytes = field(repr=False)
    looks: tuple[int, ...] = field(repr=False)


@dataclass
class _History:
    """What one key did lately."""

    matches: deque[_Sketch] = field(default_factory=lambda: deque(maxlen=REMEMBERED_MATCHES))
    score: float = 0.0
    scored_at: float = 0.0
    reported_at: float = float("-inf")


class ProbeGuard:
    """Watches what each guarded key asks; one a process.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._pad = int.from_bytes(secrets.token_bytes(PDQ_BYTES))
        self._histories: dict[str, _History] = {}

    def compares(self, submission: Submission, renderings: Sequence[Rendering]) -> bool:
        """Whether it takes the medium's SHA-256 to tell if it is an edit of one that matched."""
        history = self._histories.get(submission.key_id or "") if submission.guarded else None
        looks = self._looks(renderings)
        return history is not None and any(_look_alike(looks, earlier.looks) for earlier in history.matches)

    def concluded(self, submission: Submission, signals: Signals, decision: Decision) -> None:
        """Take note of one medium that came to a verdict."""
        if submission.key_id is None or not submission.guarded:
            return
        now = self._clock()
        sketch = self._sketch(now, signals)
        if not sketch.looks:
            return
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
        if any(_is_edit(sketch, earlier) for earlier in history.matches):
            history.score += _EDIT_THAT_MATCHED if matched else _EDIT_THAT_DID_NOT
        if matched:
            history.matches.append(sketch)

    def pause_seconds(self, key_id: str) -> float:
        """How long the next medium of a key is to wait."""
        return SLOWED_SECONDS if self._is_suspected(key_id) else 0.0

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

    def _sketch(self, now: float, signals: Signals) -> _Sketch:
        file = hashlib.blake2b(signals.digests.sha256, key=self._secret, digest_size=8).digest()
        return _Sketch(now, file, self._looks(signals.renderings))

    def _looks(self, renderings: Sequence[Rendering]) -> tuple[int, ...]:
        return tuple(
            int.from_bytes(rendering.pdq) ^ self._pad
            for rendering in renderings[:_RENDERINGS_LOOKED_AT]
            if rendering.quality >= PDQ_MINIMUM_QUALITY
        )


def _is_edit(one: _Sketch, other: _Sketch) -> bool:
    """Whether two different files show nearly the same picture."""
    return one.file != other.file and _look_alike(one.looks, other.looks)


def _look_alike(some: Sequence[int], others: Sequence[int]) -> bool:
    return any((one ^ other).bit_count() <= NEAR_BITS for one in some for other in others)
