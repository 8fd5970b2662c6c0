"""How many different media entries matched, by day; nothing of the media."""

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

from sqlalchemy import delete, exists
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.database import Database
from app.store.schema import entries, entry_days

KEPT: Final = timedelta(days=30)

_COUNTED_AT_ONCE: Final = 5_000
"""PostgreSQL takes 32,767 parameters a statement, and each count is three."""


async def count(connection: AsyncConnection, day: date, media: Mapping[int, int]) -> dict[int, int]:
    """Add to the counts of a day, by id of the entry, and tell what they came to."""
    # In one order, so that two gates cannot wait for each other.
    rows = [{"entry_id": each, "day": day, "media": media[each]} for each in sorted(media)]
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    totals: dict[int, int] = {}
    for begin in range(0, len(rows), _COUNTED_AT_ONCE):
        counted = dialect.insert(entry_days).values(rows[begin : begin + _COUNTED_AT_ONCE])
        total = await connection.execute(
            counted.on_conflict_do_update(
                index_elements=[entry_days.c.entry_id, entry_days.c.day],
                set_={"media": entry_days.c.media + counted.excluded.media},
            ).returning(entry_days.c.entry_id, entry_days.c.media)
        )
        totals |= {row.entry_id: row.media for row in total}
    return totals


async def sweep(database: Database) -> None:
    """Forget the counts of entries that are gone, and those that are old."""
    there = exists().where(entries.c.id == entry_days.c.entry_id, entries.c.removed_generation.is_(None))
    oldest = datetime.now(UTC).date() - KEPT
    async with database.begin() as connection:
        await connection.execute(delete(entry_days).where(~there | (entry_days.c.day < oldest)))
