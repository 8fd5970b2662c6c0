"""What a key may begin in a second and run at once, at a gate that is alone and over several together."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from app.api.limits import KeyLimits, LimitedKey
from app.errors import NotReadyError, RateLimitedError
from app.store import allowances, keys, processes
from app.store.allowances import Allowances, Ask, Grant, Slots
from app.store.database import Database


@dataclass
class Key:
    """A key that is in no database."""

    id: str = "key"
    rate_per_second: int = 10
    concurrency: int = 4
    probe_guard: bool = True


async def nobody_to_ask(asks: Sequence[Ask]) -> Mapping[str, Grant]:
    """A gate that is alone has no use for the database."""
    raise NotReadyError(repr(asks))


class World:
    """A clock that tests turn, and a gate that is alone."""

    now = 0.0

    def limits(self) -> KeyLimits:
        return KeyLimits(lambda: True, nobody_to_ask, lambda: self.now)


async def begun(limits: KeyLimits, key: LimitedKey, tries: int) -> int:
    """How many of so many requests, one after the other, may begin."""
    count = 0
    for _ in range(tries):
        with contextlib.suppress(RateLimitedError):
            async with limits.request(key):
                count += 1
    return count


async def running(stack: contextlib.AsyncExitStack, limits: KeyLimits, key: LimitedKey, tries: int) -> int:
    """How many of so many requests may run at once; they do until the stack is closed."""
    count = 0
    for _ in range(tries):
        with contextlib.suppress(RateLimitedError):
            await stack.enter_async_context(limits.request(key))
            count += 1
    return count


async def test_a_refusal_tells_when_to_come_again() -> None:
    world, key = World(), Key(rate_per_second=2)
    limits = world.limits()
    assert await begun(limits, key, 2) == 2
    with pytest.raises(RateLimitedError) as refusal:
        async with limits.request(key):
            pass
    assert refusal.value.retry_after_seconds == pytest.approx(0.5)


async def test_a_second_of_requests_may_begin_at_once_and_then_as_time_allows() -> None:
    world, key = World(), Key()
    limits = world.limits()
    assert await begun(limits, key, 50) == 10
    world.now += 0.35
    assert await begun(limits, key, 50) == 3
    world.now += 100
    assert await begun(limits, key, 50) == 10


async def test_requests_that_failed_give_their_place_back() -> None:
    world, key = World(), Key(concurrency=1)
    limits = world.limits()
    with pytest.raises(ZeroDivisionError):
        async with limits.request(key):
            _ = 1 / 0
    async with limits.request(key):
        pass


async def test_keys_do_not_share_limits() -> None:
    world = World()
    limits = world.limits()
    assert await begun(limits, Key("a"), 20) == 10
    assert await begun(limits, Key("b"), 20) == 10


async def test_lines_wait_for_their_turn_beside_the_request_that_brought_them() -> None:
    """A batch of a key that may run one thing at a time comes to its end."""
    loop = asyncio.get_running_loop()
    limits, key = KeyLimits(lambda: True, nobody_to_ask, loop.time), Key(rate_per_second=1000, concurrency=1)
    assert await most_lines_at_once(limits, key, 5) == 1


async def most_lines_at_once(limits: KeyLimits, key: LimitedKey, lines: int) -> int:
    """How many lines of a batch ran at once, once all have."""
    at_once = most = 0

    async def line() -> None:
        nonlocal at_once, most
        async with limits.line(key):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.001)
            at_once -= 1

    async with limits.request(key):
        await asyncio.gather(*(line() for _ in range(lines)))
    return most


async def test_keys_that_are_idle_are_forgotten() -> None:
    world = World()
    limits = world.limits()
    for number in range(100):
        await begun(limits, Key(str(number)), 1)
    world.now += 1000
    await begun(limits, Key("last"), 1)
    assert len(limits._uses) == 1


class Gates:
    """Several gates on one database, as far as they limit keys, with one clock that tests turn.

    Attributes:
        draws: how often the database was asked.
    """

    def __init__(self, database: Database) -> None:
        self.now = time.time()
        self.database = database
        self.alone = False
        self.draws = 0
        self.process_ids: list[str] = []

    async def start(self) -> KeyLimits:
        """One more gate."""
        self.process_ids.append(await processes.register(self.database, processes.GATE))
        shared = Allowances(self.database, self.process_ids[-1])

        async def draw(asks: Sequence[Ask]) -> Mapping[str, Grant]:
            self.draws += 1
            return await shared.draw(asks)

        return KeyLimits(lambda: self.alone, draw, lambda: self.now)

    async def key(self, rate_per_second: int, concurrency: int) -> keys.Key:
        """A key of the database."""
        async with self.database.begin() as connection:
            made, _ = await keys.create(
                connection,
                name="limited",
                scopes=frozenset({keys.Scope.INGEST}),
                rate_per_second=rate_per_second,
                concurrency=concurrency,
            )
        return made


@pytest.fixture
def gates(database: Database, monkeypatch: pytest.MonkeyPatch) -> Gates:
    made = Gates(database)

    async def clock(_: AsyncConnection) -> datetime:
        return datetime.fromtimestamp(made.now, UTC)

    # The server's clock goes on by itself, more or less far while a slow machine runs a test.
    monkeypatch.setattr(allowances, "clock", clock)
    # Nobody says here that a gate still runs.
    monkeypatch.setattr(processes, "LIVE_SECONDS", 1e6)
    return made


async def flood(
    gates: Gates, limits: Sequence[KeyLimits], key: keys.Key, seconds: float, chance: random.Random
) -> int:
    """Ask at random gates, from 12 callers at once, every 5 ms; how many may begin."""
    passed = 0

    async def ask() -> None:
        nonlocal passed
        with contextlib.suppress(RateLimitedError):
            async with chance.choice(limits).request(key):
                passed += 1

    for _ in range(round(seconds / 0.005)):
        await asyncio.gather(*(ask() for _ in range(12)))
        gates.now += 0.005
    return passed


async def test_several_gates_together_grant_a_keys_rate_and_no_more(gates: Gates) -> None:
    """Whatever reaches which: the sum is the rate, after the one second's worth that may begin at once."""
    several = [await gates.start() for _ in range(3)]
    key = await gates.key(40, 32)
    seconds = 1.5
    passed = await flood(gates, several, key, seconds, random.Random(1))
    assert 40 * (seconds + 1) * 0.8 < passed <= 40 * (seconds + 1)


async def test_a_key_whose_requests_all_reach_one_of_several_gates_gets_its_whole_rate(gates: Gates) -> None:
    one, *_others = [await gates.start() for _ in range(3)]
    key = await gates.key(40, 32)
    passed = await flood(gates, [one], key, 1.0, random.Random(2))
    assert 40 * 1.8 < passed <= 40 * 2


async def test_the_database_is_asked_less_often_than_requests_come(gates: Gates) -> None:
    """An eighth of a second's permits are taken at a time, and a gate that got none does not ask again."""
    one, two = [await gates.start() for _ in range(2)]
    key = await gates.key(200, 32)
    passed = await flood(gates, [one, two], key, 1.0, random.Random(3))
    assert passed > 200 * 1.8
    assert gates.draws < passed / 4


async def test_several_gates_run_no_more_at_once_than_a_key_may(gates: Gates) -> None:
    """A slot that one gives back is another's, after a second at most."""
    one, two = [await gates.start() for _ in range(2)]
    key = await gates.key(1000, 5)
    async with contextlib.AsyncExitStack() as at_one, contextlib.AsyncExitStack() as at_two:
        assert await running(at_one, one, key, 9) == 5
        assert await running(at_two, two, key, 9) == 0
        await at_one.aclose()
        # What ran since it last settled is kept for the next request.
        await one.settle()
        await one.settle()
        gates.now += 0.15
        assert await running(at_two, two, key, 9) == 5
        assert await running(at_one, one, key, 9) == 0


async def test_random_requests_over_gates_never_run_too_many_at_once(gates: Gates) -> None:
    several = [await gates.start() for _ in range(3)]
    key = await gates.key(100_000, 7)
    chance = random.Random(4)
    at_once, most, passed = 0, 0, 0

    async def caller() -> None:
        nonlocal at_once, most, passed
        for _ in range(60):
            with contextlib.suppress(RateLimitedError):
                async with chance.choice(several).request(key):
                    at_once += 1
                    passed += 1
                    most = max(most, at_once)
                    await asyncio.sleep(chance.random() / 100)
                    at_once -= 1
            await asyncio.sleep(0.001)
            gates.now += 0.001

    async def settling() -> None:
        for limits in itertools.cycle(several):
            await asyncio.sleep(0.03)
            await limits.settle()

    settles = asyncio.create_task(settling())
    await asyncio.gather(*(caller() for _ in range(20)))
    settles.cancel()
    assert passed > 50
    assert most == 7


async def test_lines_of_batches_share_a_keys_slots_over_gates(gates: Gates) -> None:
    one, two = [await gates.start() for _ in range(2)]
    key = await gates.key(1000, 1)

    async def time_passes() -> None:
        while True:
            await asyncio.sleep(0.005)
            gates.now += 0.005

    passing = asyncio.create_task(time_passes())
    async with asyncio.timeout(20):
        assert await most_lines_at_once(one, key, 3) == 1
        await one.settle()
        await one.settle()
        assert await most_lines_at_once(two, key, 3) == 1
    passing.cancel()


async def test_a_gate_that_was_alone_brings_in_what_it_began_and_runs(gates: Gates) -> None:
    """Once a second gate is there, what the first did in the last second counts for both."""
    one = await gates.start()
    key = await gates.key(20, 4)
    gates.alone = True
    async with contextlib.AsyncExitStack() as at_one, contextlib.AsyncExitStack() as at_two:
        assert await running(at_one, one, key, 3) == 3
        assert await begun(one, key, 40) == 17
        assert gates.draws == 0
        gates.alone, two = False, await gates.start()
        await one.settle()
        assert await running(at_two, two, key, 1) == 0
        await one.settle()
        gates.now += 0.3
        assert await running(at_two, two, key, 9) == 1


async def test_a_gate_that_is_alone_again_counts_by_itself(gates: Gates) -> None:
    one, two = [await gates.start() for _ in range(2)]
    key = await gates.key(20, 4)
    # Rounding may keep one back for a moment.
    assert await begun(one, key, 40) in {19, 20}
    gates.alone = True
    await one.settle()
    gates.now += 0.31
    assert await begun(one, key, 40) in {6, 7}
    gates.alone = False
    async with contextlib.AsyncExitStack() as at_two:
        gates.now += 0.5
        assert await running(at_two, two, key, 9) == 4


async def test_a_gate_that_fell_silent_has_lost_its_slots(
    gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = [await gates.start() for _ in range(2)]
    key = await gates.key(1000, 3)
    async with contextlib.AsyncExitStack() as at_one, contextlib.AsyncExitStack() as at_two:
        assert await running(at_one, one, key, 9) == 3
        assert await running(at_two, two, key, 9) == 0
        await asyncio.sleep(0.3)
        gates.now += 0.3
        monkeypatch.setattr(processes, "LIVE_SECONDS", 0.2)
        assert await running(at_two, two, key, 9) == 3


async def test_permits_that_were_not_used_are_given_back(gates: Gates) -> None:
    """A gate that asks now and then does not starve the others."""
    one, two = [await gates.start() for _ in range(2)]
    key = await gates.key(8, 32)
    shared = Allowances(gates.database, gates.process_ids[0])
    ask = Ask(key.id, 8, 32, permits=8)
    assert (await shared.draw([ask]))[key.id].permits == 8
    assert (await shared.draw([ask]))[key.id].permits == 0
    assert (await shared.draw([Ask(key.id, 8, 32, begun=-8)]))[key.id].seconds == 0
    assert await begun(two, key, 20) == 8
    assert await begun(one, key, 20) == 0


async def test_without_its_database_a_gate_among_others_takes_nothing_in(gates: Gates) -> None:
    """Its share is unknown then; a line of a batch waits."""
    one = await gates.start()
    key = await gates.key(10, 4)
    async with gates.database.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE key_permits RENAME TO elsewhere")
    with pytest.raises(NotReadyError):
        async with one.request(key):
            pass
    line = asyncio.create_task(most_lines_at_once(one, key, 0))
    with pytest.raises(NotReadyError):
        await line
    async with gates.database.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO key_permits")
    assert await begun(one, key, 1) == 1


async def test_slots_that_are_held_stand_whatever_others_hold(gates: Gates) -> None:
    await gates.start()
    await gates.start()
    key = await gates.key(10, 4)
    first, second = (Allowances(gates.database, process_id) for process_id in gates.process_ids)
    await first.draw([Ask(key.id, 10, 4, held=Slots(4, 0), wanted=Slots(4, 0))])
    grant = (await second.draw([Ask(key.id, 10, 4, held=Slots(3, 1), wanted=Slots(9, 2))]))[key.id]
    assert grant.slots == Slots(3, 2)
