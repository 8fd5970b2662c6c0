"""How much one key may ask for: a rate and a number at once, over all gates together.

A gate that is alone on its database counts in memory. Where there are several, each takes permits and slots
from the database, some at a time, as its callers need them: whichever gates a key's requests reach, it gets
its whole rate and no more. No request waits for the database but one that finds this gate's share used up,
and one question is asked for all that wait.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from app.errors import NotReadyError, RateLimitedError
from app.store.allowances import Ask, Grant, Slots, most_permits

_CONCURRENCY_RETRY_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02
_DATABASE_PAUSE_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 60.0

_SHARE: Final = 8
"""A gate takes an eighth of what a key may at a time, or as much as its callers wait for."""

_NONE_LEFT_SECONDS: Final = 1 / _SHARE
"""How long a gate that got less than it asked for does not ask again."""

_STALE_SECONDS: Final = 1.0
"""How long a permit that was taken may lie unused."""

Draw = Callable[[Sequence[Ask]], Awaitable[Mapping[str, Grant]]]


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
class _Lane:
    """Requests of one key, or lines of its batches.

    They are counted apart: a batch must not wait for the slot that it holds itself.

    Attributes:
        running: how many run now.
        most: how many ran at once since slots were last given back.
        waiting: how many wait for the database.
        slots: how many may run, while there are other gates.
        no_slot_until: when to ask for more again.
    """

    running: int = 0
    most: int = 0
    waiting: int = 0
    slots: int = 0
    no_slot_until: float = float("-inf")


@dataclass
class _Use:
    """What one key has used here.

    Attributes:
        alone: whether its permits are counted in memory.
        counted_at: when ``permits`` was right.
        no_permit_until: when to ask for more again, once all are used.
        stored: the slots that the database knows of.
    """

    key: LimitedKey
    alone: bool
    permits: float
    counted_at: float
    no_permit_until: float = float("-inf")
    requests: _Lane = field(default_factory=_Lane)
    lines: _Lane = field(default_factory=_Lane)
    stored: Slots = field(default_factory=Slots)

    @property
    def lanes(self) -> tuple[_Lane, _Lane]:
        """Both lanes."""
        return self.requests, self.lines

    @property
    def busy(self) -> bool:
        """Whether anything of it runs, waits, or is held."""
        return self.stored != Slots() or any(lane.running or lane.waiting for lane in self.lanes)


class KeyLimits:
    """The limits of all keys, as one process grants them.

    Args:
        alone: whether no other gate runs on the database now.
        draw: takes from what the gates share.
        clock: seconds, never going back.
    """

    def __init__(self, alone: Callable[[], bool], draw: Draw, clock: Callable[[], float]) -> None:
        self._alone = alone
        self._draw_shared = draw
        self._clock = clock
        self._uses: dict[str, _Use] = {}
        self._drawing = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def request(self, key: LimitedKey) -> AsyncIterator[None]:
        """Run one request of a key.

        Raises:
            RateLimitedError: the key began too many in this second, or has too many running.
            NotReadyError: there are other gates, and the database does not answer.
        """
        use = self._use(key)
        lane = use.requests
        seconds = await self._begin(use, lane)
        if seconds is not None:
            raise RateLimitedError(seconds or _CONCURRENCY_RETRY_SECONDS)
        try:
            yield
        finally:
            lane.running -= 1

    @contextlib.asynccontextmanager
    async def line(self, key: LimitedKey) -> AsyncIterator[None]:
        """Run one line of a batch, as soon as the key may begin another."""
        while True:
            use = self._use(key)
            try:
                seconds = await self._begin(use, use.lines)
            except NotReadyError:
                seconds = _DATABASE_PAUSE_SECONDS
            if seconds is None:
                break
            # Permits come with time alone, and slots from anywhere, so there is no event to wait for.
            await asyncio.sleep(max(seconds, _PAUSE_SECONDS))
        try:
            yield
        finally:
            use.lines.running -= 1

    async def settle(self) -> None:
        """Give back the slots that were not needed lately; to be called every second.

        It also tells the other gates, once there are any, of what was begun while there was none.

        Raises:
            NotReadyError: the database cannot be written; the next call tries again.
        """
        async with self._drawing:
            asks = [ask for use in self._uses.values() if (ask := self._settled(use)) is not None]
            if asks:
                grants = await self._draw_shared(asks)
                for key_id, grant in grants.items():
                    self._uses[key_id].stored = grant.slots

    async def _begin(self, use: _Use, lane: _Lane) -> float | None:
        """Begin one: None if it may run, else in how many seconds there is a permit; 0 if a slot lacks."""
        if self._alone():
            self._refill(use)
            slots = use.key.concurrency
        else:
            if not self._has_room(use, lane):
                await self._draw(use, lane)
            slots = lane.slots
        if lane.running >= slots:
            return 0.0
        if use.permits < 1:
            if use.alone:
                return (1 - use.permits) / use.key.rate_per_second
            return max(use.no_permit_until - self._clock(), _PAUSE_SECONDS)
        use.permits -= 1
        lane.running += 1
        lane.most = max(lane.most, lane.running)
        return None

    def _refill(self, use: _Use) -> None:
        """Count the permits that came with time."""
        now, rate = self._clock(), use.key.rate_per_second
        use.permits = min(most_permits(rate), use.permits + (now - use.counted_at) * rate)
        use.counted_at = now
        use.alone = True

    def _has_room(self, use: _Use, lane: _Lane) -> bool:
        fresh = not use.alone and self._clock() - use.counted_at < _STALE_SECONDS
        return fresh and use.permits >= 1 and lane.running < lane.slots

    async def _draw(self, use: _Use, lane: _Lane) -> None:
        """Take more permits and slots from what the gates share, unless somebody did meanwhile."""
        lane.waiting += 1
        try:
            async with self._drawing:
                now = self._clock()
                if self._has_room(use, lane) or now < lane.no_slot_until:
                    return
                if use.permits < 1 and now < use.no_permit_until:
                    return
                ask = self._ask(use, lane)
                grant = (await self._draw_shared([ask]))[use.key.id]
                self._take(use, ask, grant)
                if lane.running >= lane.slots:
                    lane.no_slot_until = self._clock() + _NONE_LEFT_SECONDS
        finally:
            lane.waiting -= 1

    def _ask(self, use: _Use, lane: _Lane) -> Ask:
        key = use.key
        waiting = sum(each.waiting for each in use.lanes)
        begun = self._begun_alone(use) if use.alone else -self._stale_permits(use)
        permits = max(waiting, math.ceil(key.rate_per_second / _SHARE)) - math.floor(use.permits)
        wanted = lane.running + max(lane.waiting, math.ceil(key.concurrency / _SHARE))
        held = Slots(*(max(each.slots, each.running) for each in use.lanes))
        return Ask(
            key_id=key.id,
            rate_per_second=key.rate_per_second,
            concurrency=key.concurrency,
            permits=max(permits, 0),
            begun=begun,
            held=held,
            wanted=Slots(
                max(held.requests, wanted) if lane is use.requests else held.requests,
                max(held.lines, wanted) if lane is use.lines else held.lines,
            ),
        )

    def _begun_alone(self, use: _Use) -> float:
        """What of a key's permits was used while this gate was alone; they are shared from here on."""
        self._refill(use)
        begun = most_permits(use.key.rate_per_second) - use.permits
        use.alone, use.permits = False, 0.0
        return begun

    def _stale_permits(self, use: _Use) -> float:
        """The permits that lay unused for too long, to be given back."""
        if self._clock() - use.counted_at < _STALE_SECONDS:
            return 0.0
        stale, use.permits = use.permits, 0.0
        return stale

    def _take(self, use: _Use, ask: Ask, grant: Grant) -> None:
        now = self._clock()
        use.permits += grant.permits
        use.counted_at = now
        if grant.permits < ask.permits:
            use.no_permit_until = now + max(grant.seconds, _NONE_LEFT_SECONDS)
        use.stored = grant.slots
        use.requests.slots, use.lines.slots = grant.slots.requests, grant.slots.lines

    def _settled(self, use: _Use) -> Ask | None:
        """What to tell the database of a key; None if it knows."""
        alone = self._alone()
        for lane in use.lanes:
            # Lowered here before it is stored, so that no other gate gets what may still be used here.
            lane.slots = 0 if alone else max(lane.most, lane.running)
            lane.most = lane.running
        slots = Slots(use.requests.slots, use.lines.slots)
        begun = self._begun_alone(use) if use.alone and not alone else 0.0
        if slots == use.stored and begun < 1:
            return None
        return Ask(
            use.key.id, use.key.rate_per_second, use.key.concurrency, begun=begun, held=slots, wanted=slots
        )

    def _use(self, key: LimitedKey) -> _Use:
        use = self._uses.get(key.id)
        if use is None:
            self._forget_idle()
            alone = self._alone()
            permits = most_permits(key.rate_per_second) if alone else 0.0
            use = self._uses[key.id] = _Use(key, alone, permits, self._clock())
        use.key = key
        return use

    def _forget_idle(self) -> None:
        """A key that was idle for long has a full bucket again, so nothing of it needs to be known."""
        now = self._clock()
        idle = [
            key_id
            for key_id, use in self._uses.items()
            if not use.busy and now - use.counted_at > _IDLE_SECONDS
        ]
        for key_id in idle:
            del self._uses[key_id]
