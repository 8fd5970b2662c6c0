"""The budget of decoding memory: bounded, in order, and never lost."""

import asyncio

import pytest

from app.hashing.budget import Budget


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_fits_is_granted_at_once() -> None:
    budget = Budget(10)
    await budget.reserve(6)
    await budget.reserve(4)
    assert budget.reserved == 10


async def test_what_does_not_fit_waits_until_enough_was_returned() -> None:
    budget = Budget(10)
    await budget.reserve(8)
    waiting = asyncio.create_task(budget.reserve(5))
    await settle()
    budget.release(2)
    await settle()
    assert not waiting.done()
    budget.release(1)
    await waiting
    assert budget.reserved == 10


async def test_a_small_need_does_not_overtake_a_large_one() -> None:
    budget = Budget(10)
    await budget.reserve(8)
    order: list[int] = []

    async def take(count: int) -> None:
        await budget.reserve(count)
        order.append(count)

    tasks = [asyncio.create_task(take(count)) for count in (9, 1)]
    await settle()
    assert order == [], "the 1 would fit, but came later"
    budget.release(8)
    await asyncio.gather(*tasks)
    assert order == [9, 1]


async def test_who_gives_up_lets_those_behind_go_on() -> None:
    budget = Budget(10)
    await budget.reserve(5)
    large, small = asyncio.create_task(budget.reserve(9)), asyncio.create_task(budget.reserve(2))
    await settle()
    large.cancel()
    await small
    assert budget.reserved == 7
    with pytest.raises(asyncio.CancelledError):
        await large


async def test_who_gives_up_in_the_moment_of_the_grant_returns_it() -> None:
    budget = Budget(10)
    await budget.reserve(10)
    waiting = asyncio.create_task(budget.reserve(4))
    await settle()
    budget.release(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.reserved == 0


async def test_who_gives_up_from_the_middle_takes_nothing() -> None:
    budget = Budget(10)
    await budget.reserve(10)
    first, middle, last = (asyncio.create_task(budget.reserve(count)) for count in (6, 4, 3))
    await settle()
    middle.cancel()
    await settle()
    budget.release(10)
    await asyncio.gather(first, last)
    assert budget.reserved == 9
