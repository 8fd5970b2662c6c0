"""How much one key may ask for: a rate and a number at once, over all gates together.

Gates on one database share a key's limits by dividing them: with n gates running, each grants an nth. No
request waits for another process that way, and the sum holds whatever a load balancer does; a key whose
requests all reach one of n gates gets an nth of its rate.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from app.errors import RateLimitedError

_BURST_SECONDS: Final = 1.0
"""A key that was idle may begin at once what it may begin in this time."""

_CONCURRENCY_RETRY_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02
_IDLE_SECONDS: Final = 60.0


class LimitedKey(Protocol):
    """What a key is allowed."""

    @property
    def id(self) -> str:
        """The key's id."""

    @property
    def rate_per_second(self) -> int:
        """Requests and batch lines it may begin in a second."""

    @property
    def concurrency(self) -> int:
        """How many requests, and as many lines of batches, may run at once."""


@dataclass
class _Use:
    """What one key has used here: a bucket of permits, refilled with time, and what runs now.

    Lines are counted apart from requests: a batch must not wait for the slot that it holds itself.
    """

    permits: float
    refilled_at: float
    requests: int = 0
    lines: int = 0


class KeyLimits:
    """The limits of all keys, as one process grants them.

    Args:
        gates: how many gates share the limits now, this one included.
        clock: seconds, never going back.
    """

    def __init__(self, gates: Callable[[], int], clock: Callable[[], float]) -> None:
        self._gates = gates
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextlib.contextmanager
    def request(self, key: LimitedKey) -> Iterator[None]:
        """Run one request of a key.

        Raises:
            RateLimitedError: the key began too many in this second, or has too many running.
        """
        use = self._use(key)
        if use.requests >= self._at_once(key):
            raise RateLimitedError(_CONCURRENCY_RETRY_SECONDS)
        if use.permits < 1:
            raise RateLimitedError((1 - use.permits) / self._rate(key))
        use.permits -= 1
        use.requests += 1
        try:
            yield
        finally:
            use.requests -= 1

    @contextlib.asynccontextmanager
    async def line(self, key: LimitedKey) -> AsyncIterator[None]:
        """Run one line of a batch, as soon as the key may begin another."""
        # Permits come with time alone, so there is no event to wait for.
        while (use := self._use(key)).permits < 1 or use.lines >= self._at_once(key):  # noqa: ASYNC110
            await asyncio.sleep(max((1 - use.permits) / self._rate(key), _PAUSE_SECONDS))
        use.permits -= 1
        use.lines += 1
        try:
            yield
        finally:
            use.lines -= 1

    def _at_once(self, key: LimitedKey) -> int:
        return math.ceil(key.concurrency / self._gates())

    def _rate(self, key: LimitedKey) -> float:
        return key.rate_per_second / self._gates()

    def _use(self, key: LimitedKey) -> _Use:
        now, rate = self._clock(), self._rate(key)
        most = max(rate * _BURST_SECONDS, 1)
        use = self._uses.get(key.id)
        if use is None:
            self._forget_idle(now)
            use = self._uses[key.id] = _Use(most, now)
        use.permits = min(most, use.permits + (now - use.refilled_at) * rate)
        use.refilled_at = now
        return use

    def _forget_idle(self, now: float) -> None:
        """A key that was idle for long has a full bucket again, so nothing of it needs to be known."""
        for key_id in [
            key_id
            for key_id, use in self._uses.items()
            if not use.requests and not use.lines and now - use.refilled_at > _IDLE_SECONDS
        ]:
            del self._uses[key_id]
