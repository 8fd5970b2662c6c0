"""How entries get into banks and out of them, many at once, in the words of each database."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

from sqlalchemy import ColumnElement, exists
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import NewSignal
from app.store.schema import changes, entries

_SIGNALS_AT_ONCE: Final = 20_000

# A conflict is with an entry that is present. If that is of an import which is not finished, and may never
# be, it becomes one of this change.
_INSERT: Final = """
INSERT INTO entries (bank_id, type, value, note, change_id)
{signals}
ON CONFLICT (bank_id, type, value) WHERE removed_generation IS NULL
DO UPDATE SET change_id = excluded.change_id, note = excluded.note
WHERE entries.change_id <> excluded.change_id AND NOT EXISTS (
    SELECT 1 FROM changes WHERE changes.id = entries.change_id AND changes.generation IS NOT NULL
)
"""
_INSERT_POSTGRESQL: Final = _INSERT.format(
    signals="SELECT $1, signal.type, signal.value, signal.note, $2 "
    "FROM unnest($3::text[], $4::bytea[], $5::text[]) AS signal (type, value, note)"
)
# SQLite asks for the WHERE before an ON CONFLICT.
_SIGNALS_SQLITE: Final = """
SELECT given.bank, signal.column1, signal.column2, signal.column3, given.change
FROM (SELECT ? AS bank, ? AS change) AS given, (VALUES {signals}) AS signal WHERE true
"""
# Many rows a statement: three times as fast as one.
_SQLITE_ROWS: Final = 500
_REMOVE: Final = """
UPDATE entries SET removed_generation = {generation}
{signals}
WHERE bank_id = {bank} AND entries.type = {type} AND entries.value = {value} AND removed_generation IS NULL
AND EXISTS (SELECT 1 FROM changes WHERE changes.id = entries.change_id AND changes.generation IS NOT NULL)
"""
_REMOVE_SQLITE: Final = _REMOVE.format(generation="?", signals="", bank="?", type="?", value="?")
_REMOVE_POSTGRESQL: Final = _REMOVE.format(
    generation="$1",
    signals="FROM unnest($3::text[], $4::bytea[]) AS signal (type, value)",
    bank="$2",
    type="signal.type",
    value="signal.value",
)


async def insert_new(
    connection: AsyncConnection, bank_id: int, change_id: int, signals: Sequence[NewSignal]
) -> int:
    """Insert the signals that a bank does not hold, under a change; tells how many."""
    added = 0
    for chunk in _chunks(signals):
        # PostgreSQL refuses to meet the same value twice in one statement. Sorted, an index grows faster.
        unique = sorted({(signal.type, signal.value): signal for signal in chunk}.values())
        if connection.dialect.name == "postgresql":
            added += await _insert_postgresql(connection, bank_id, change_id, unique)
            continue
        whole = len(unique) - len(unique) % _SQLITE_ROWS
        for size, some in ((_SQLITE_ROWS, unique[:whole]), (len(unique) - whole, unique[whole:])):
            if some:
                added += await _insert_sqlite(connection, bank_id, change_id, some, rows=size)
    return added


async def mark_removed(
    connection: AsyncConnection, bank_id: int, generation: int, signals: Sequence[NewSignal]
) -> int:
    """Mark those of the signals that a bank holds as removed; tells how many."""
    removed = 0
    for chunk in _chunks(signals):
        types, values = [signal.type.value for signal in chunk], [signal.value for signal in chunk]
        if connection.dialect.name == "postgresql":
            marked = await connection.exec_driver_sql(
                _REMOVE_POSTGRESQL, (generation, bank_id, types, values)
            )
        else:
            marked = await connection.exec_driver_sql(
                _REMOVE_SQLITE, [(generation, bank_id, *each) for each in zip(types, values, strict=True)]
            )
        removed += marked.rowcount
    return removed


def visible() -> ColumnElement[bool]:
    """Whether the change that brought an entry has a generation."""
    return exists().where(changes.c.id == entries.c.change_id, changes.c.generation.is_not(None))


async def _insert_postgresql(
    connection: AsyncConnection, bank_id: int, change_id: int, signals: Sequence[NewSignal]
) -> int:
    inserted = await connection.exec_driver_sql(
        _INSERT_POSTGRESQL,
        (
            bank_id,
            change_id,
            [signal.type.value for signal in signals],
            [signal.value for signal in signals],
            [signal.note for signal in signals],
        ),
    )
    return inserted.rowcount


async def _insert_sqlite(
    connection: AsyncConnection, bank_id: int, change_id: int, signals: Sequence[NewSignal], *, rows: int
) -> int:
    """Insert signals, so many rows a statement; their number is a multiple of that."""
    parameters = [
        (
            bank_id,
            change_id,
            *(
                field
                for signal in signals[begin : begin + rows]
                for field in (signal.type.value, signal.value, signal.note)
            ),
        )
        for begin in range(0, len(signals), rows)
    ]
    inserted = await connection.exec_driver_sql(_insert_sqlite_of(rows), parameters)
    return inserted.rowcount


@cache
def _insert_sqlite_of(rows: int) -> str:
    signals = ", ".join(["(?, ?, ?)"] * rows)
    return _INSERT.format(signals=_SIGNALS_SQLITE.format(signals=signals))


def _chunks(signals: Sequence[NewSignal]) -> Iterator[Sequence[NewSignal]]:
    for begin in range(0, len(signals), _SIGNALS_AT_ONCE):
        yield signals[begin : begin + _SIGNALS_AT_ONCE]
