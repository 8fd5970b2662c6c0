"""The limits of keys where several gates share them: what each gate took, in one place for all.

A key's rate is a bucket: a second's worth of permits, refilled with time. What is stored of it is when it
will be full again, which says all (the generic cell rate algorithm, ITU-T I.371). How many a key may run at
once are slots; each gate has a row of those it holds. A gate takes some of both at a time, so the database
is asked less often than requests come, and what all gates hold together is never more than there is.

A gate that was not heard of for ``processes.LIVE_SECONDS`` has lost its slots.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store import processes
from app.store.database import Database, clock
from app.store.rows import UnreadableRowError, readable
from app.store.schema import key_permits, key_slots
from app.store.schema import processes as running

BURST_SECONDS: Final = 1.0
"""A key that was idle may begin at once what it may begin in this time, and one request at least."""


@dataclass(frozen=True)
class Slots:
    """How many requests of a key, and how many lines of batches, a gate may run."""

    requests: int = 0
    lines: int = 0


@dataclass(frozen=True)
class Ask:
    """What a gate wants of a key's limits.

    Attributes:
        permits: how many it wants to begin.
        begun: how many it began without a permit, since it was alone then; below 0, how many it gives back.
        held: slots that it has or fills now; they stand, whatever others hold.
        wanted: slots that it would like to have in all.
    """

    key_id: str
    rate_per_second: int
    concurrency: int
    permits: int = 0
    begun: float = 0.0
    held: Slots = Slots()
    wanted: Slots = Slots()


@dataclass(frozen=True)
class Grant:
    """What it gets.

    Attributes:
        seconds: until there will be another permit; 0 if there is one.
    """

    permits: int
    slots: Slots
    seconds: float


def most_permits(rate_per_second: int) -> float:
    """How many permits of a key there can be at once."""
    return max(rate_per_second * BURST_SECONDS, 1.0)


class Allowances:
    """A gate's way to the limits that it shares with others."""

    def __init__(self, database: Database, process_id: str) -> None:
        self._database = database
        self._process_id = process_id

    async def draw(self, asks: Sequence[Ask]) -> dict[str, Grant]:
        """Take what there is of what is wanted, and give back what is not; by key.

        Raises:
            NotReadyError: the database cannot be written.
        """
        # In one order everywhere, so that two gates cannot wait for each other.
        asks = sorted(asks, key=lambda ask: ask.key_id)
        return await self._database.write(lambda connection: self._draw_all(connection, asks))

    async def _draw_all(self, connection: AsyncConnection, asks: Sequence[Ask]) -> dict[str, Grant]:
        return {ask.key_id: await self._draw(connection, ask) for ask in asks}

    async def _draw(self, connection: AsyncConnection, ask: Ask) -> Grant:
        full_at = await _locked_full_at(connection, ask.key_id)
        now = (await clock(connection)).timestamp()
        most, rate = most_permits(ask.rate_per_second), ask.rate_per_second
        # What was begun without a permit may leave a debt, of no more than a burst.
        there = min(max(most - max(full_at - now, 0.0) * rate - ask.begun, -most), most)
        granted = max(min(ask.permits, math.floor(there)), 0)
        left = there - granted
        await connection.execute(
            update(key_permits)
            .where(key_permits.c.key_id == ask.key_id)
            .values(full_at=now + (most - left) / rate)
        )
        slots = await self._slots(connection, ask)
        return Grant(granted, slots, max(1.0 - left, 0.0) / rate)

    async def _slots(self, connection: AsyncConnection, ask: Ask) -> Slots:
        since = await processes.silent_since(connection)
        with readable():
            others = (
                await connection.execute(
                    select(func.sum(key_slots.c.requests), func.sum(key_slots.c.lines))
                    .join(running, running.c.id == key_slots.c.process_id)
                    .where(
                        key_slots.c.key_id == ask.key_id,
                        key_slots.c.process_id != self._process_id,
                        running.c.seen_at >= since,
                    )
                )
            ).one()
            free = [ask.concurrency - int(taken or 0) for taken in others]
        slots = Slots(
            max(ask.held.requests, min(ask.wanted.requests, free[0])),
            max(ask.held.lines, min(ask.wanted.lines, free[1])),
        )
        mine = key_slots.c.key_id == ask.key_id, key_slots.c.process_id == self._process_id
        await connection.execute(delete(key_slots).where(*mine))
        if slots != Slots():
            await connection.execute(
                insert(key_slots).values(
                    key_id=ask.key_id,
                    process_id=self._process_id,
                    requests=slots.requests,
                    lines=slots.lines,
                )
            )
        return slots


async def _locked_full_at(connection: AsyncConnection, key_id: str) -> float:
    """When a key's bucket is full; its row is this transaction's until it ends."""
    row = select(key_permits.c.full_at).where(key_permits.c.key_id == key_id).with_for_update()
    try:
        with readable():
            full_at = (await connection.execute(row)).scalar_one_or_none()
            full_at = float(full_at) if full_at is not None else None
    except UnreadableRowError:
        # Somebody else wrote it. What is drawn is written over it.
        return 0.0
    if full_at is None:
        # Two gates may do so at once; then one fails, and Database.write tries again.
        await connection.execute(insert(key_permits).values(key_id=key_id, full_at=0.0))
        return 0.0
    return full_at if math.isfinite(full_at) else 0.0
