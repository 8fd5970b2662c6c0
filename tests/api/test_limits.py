"""What a key may begin in a second and run at once, alone and shared between gates."""

import asyncio
import contextlib
from dataclasses import dataclass

import pytest

from app.api.limits import KeyLimits
from app.errors import RateLimitedError


@dataclass
class Key:
    id: str = "key"
    rate_per_second: int = 10
    concurrency: int = 4
    probe_guard: bool = True


class World:
    """A clock and a number of gates that tests turn."""

    now = 0.0
    gates = 1

    def limits(self) -> KeyLimits:
        return KeyLimits(lambda: self.gates, lambda: self.now)


def begun(limits: KeyLimits, key: Key, tries: int) -> int:
    """How many of so many requests, one after the other, may begin."""
    count = 0
    for _ in range(tries):
        with contextlib.suppress(RateLimitedError), limits.request(key):
            count += 1
    return count


def test_a_refusal_tells_when_to_come_again() -> None:
    world, key = World(), Key(rate_per_second=2)
    limits = world.limits()
    assert begun(limits, key, 2) == 2
    with pytest.raises(RateLimitedError) as refusal, limits.request(key):
        pass
    assert refusal.value.retry_after_seconds == pytest.approx(0.5)


def test_a_second_of_requests_may_begin_at_once_and_then_as_time_allows() -> None:
    world, key = World(), Key()
    limits = world.limits()
    assert begun(limits, key, 50) == 10
    world.now += 0.35
    assert begun(limits, key, 50) == 3
    world.now += 100
    assert begun(limits, key, 50) == 10


def test_gates_share_a_limit() -> None:
    world, key = World(), Key(concurrency=5)
    world.gates = 2
    limits = world.limits()
    assert begun(limits, key, 50) == 5
    world.now += 10
    with limits.request(key), limits.request(key), limits.request(key), pytest.raises(RateLimitedError):
        limits.request(key).__enter__()


def test_a_slow_key_may_still_begin_one() -> None:
    world, key = World(), Key(rate_per_second=1)
    world.gates = 4
    limits = world.limits()
    assert begun(limits, key, 5) == 1
    world.now += 3.9
    assert begun(limits, key, 5) == 0
    world.now += 0.2
    assert begun(limits, key, 5) == 1


def test_requests_that_failed_give_their_place_back() -> None:
    world, key = World(), Key(concurrency=1)
    limits = world.limits()
    with pytest.raises(ZeroDivisionError), limits.request(key):
        _ = 1 / 0
    with limits.request(key):
        pass


def test_keys_do_not_share_limits() -> None:
    world = World()
    limits = world.limits()
    assert begun(limits, Key("a"), 20) == 10
    assert begun(limits, Key("b"), 20) == 10


async def test_lines_wait_for_their_turn_beside_the_request_that_brought_them() -> None:
    """A batch of a key that may run one thing at a time comes to its end."""
    loop = asyncio.get_running_loop()
    limits, key = KeyLimits(lambda: 1, loop.time), Key(rate_per_second=1000, concurrency=1)
    at_once = most = 0

    async def line() -> None:
        nonlocal at_once, most
        async with limits.line(key):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.001)
            at_once -= 1

    with limits.request(key):
        await asyncio.gather(*(line() for _ in range(5)))
    assert most == 1


def test_keys_that_are_idle_are_forgotten() -> None:
    world = World()
    limits = world.limits()
    for number in range(100):
        begun(limits, Key(str(number)), 1)
    world.now += 1000
    begun(limits, Key("last"), 1)
    assert len(limits._uses) == 1
