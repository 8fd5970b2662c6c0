"""What no bank needs any more, deleted for good: what deleted banks and imports left, and removed entries."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import and_, delete, exists, func, or_, select, update

from app.store.banks import bank_opinions, entry_days, entry_marks
from app.store.database import Database, spans
from app.store.schema import banks, changes, entries, index_state

ABANDONED: Final = timedelta(days=1)
"""Since the beginning of an import: 10 million entries take minutes."""

KEPT_REMOVED: Final = timedelta(days=1)
"""How long a removed entry stays in the database, for processes that have not heard of its removal."""

_SWEPT_AT_ONCE: Final = 20_000


async def sweep(database: Database) -> int:
    """Delete what deleted banks and given-up imports left, in short transactions; tells how many entries.

    An import that has not finished within ``ABANDONED`` is given up: whatever ran it was killed.
    """
    async with database.begin() as connection:
        begun = datetime.now(UTC) - ABANDONED
        await connection.execute(delete(changes).where(changes.c.generation.is_(None), changes.c.at < begun))
    leftover = or_(
        entries.c.bank_id.not_in(select(banks.c.id)), entries.c.change_id.not_in(select(changes.c.id))
    )
    swept = 0
    async for first, last in spans(database, entries.c.id, _SWEPT_AT_ONCE):
        # By ranges of ids, which no planner can turn into a scan of all that there is.
        some = entries.c.id.between(first, last) & leftover
        async with database.connect() as connection:
            if not (await connection.execute(select(exists().where(some)))).scalar_one():
                continue
        async with database.begin() as connection:
            # Asked again: an entry may have been taken over by a new change in between.
            swept += (await connection.execute(delete(entries).where(some))).rowcount
        await database.give_way()
    await bank_opinions.sweep(database)
    await entry_marks.sweep(database)
    await entry_days.sweep(database)
    return swept


async def prune_old(database: Database, built: int) -> int:
    """Delete for good what was removed over a day ago; tells how many entries.

    Args:
        database: where the banks are.
        built: generation of the newest snapshot; what it still needs to be told of removals is kept.
    """
    pruned_already = select(index_state.c.pruned_generation).scalar_subquery()
    of_old = select(func.max(changes.c.generation)).where(
        changes.c.removed > 0,
        changes.c.at < datetime.now(UTC) - KEPT_REMOVED,
        changes.c.generation <= built,
        changes.c.generation > pruned_already,
    )
    async with database.connect() as connection:
        generation: int | None = await connection.scalar(of_old)
    return 0 if generation is None else await prune(database, generation)


async def prune(database: Database, generation: int) -> int:
    """Delete for good the entries that were removed up to a generation; tells how many.

    A process whose snapshot is older builds a new one.
    """
    removed = and_(entries.c.removed_generation <= generation, entries.c.removed_generation.is_not(None))
    async with database.begin() as connection:
        await connection.execute(
            update(index_state)
            .where(index_state.c.pruned_generation < generation)
            .values(pruned_generation=generation)
        )
    pruned = 0
    while True:
        async with database.begin() as connection:
            some = select(entries.c.id).where(removed).limit(_SWEPT_AT_ONCE)
            gone = await connection.execute(delete(entries).where(entries.c.id.in_(some)))
        pruned += gone.rowcount
        await database.give_way()
        if gone.rowcount < _SWEPT_AT_ONCE:
            return pruned
