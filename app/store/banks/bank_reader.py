"""Banks as the index reads them: how far they have come, what changed, and all entries as a stream.

What is read is of one generation, whoever writes meanwhile.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from itertools import groupby
from typing import Any, Final

import numpy as np
from sqlalchemy import Row, exists, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import Changes, Entries, Head
from app.media import SignalType
from app.store.banks import bank_signals, banks
from app.store.database import Database
from app.store.rows import of_its_types, readable
from app.store.schema import changes, entries, entry_marks, index_state, suppression_pairs

_READ_AT_ONCE: Final = 1_000
"""Rows at a time: with more, Python looks for garbage among them again and again."""
_CHANGES_AT_ONCE: Final = 1_000


class BankReader:
    """Reads banks for the index; what ``app.banks.current`` polls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self, generation: int, nonce: bytes) -> Head:
        """How far the banks have come, as seen from a generation of theirs; 0 stands for an empty beginning.

        Raises:
            NotReadyError: the database does not answer.
            UnreadableRowError: a row holds what no Cordon wrote.
        """
        known = exists().where(changes.c.generation == generation, changes.c.nonce == nonce)
        touched = (
            select(func.coalesce(func.sum(changes.c.added + changes.c.removed), 0))
            .where(changes.c.generation > generation)
            .scalar_subquery()
        )
        asked = (
            select(
                index_state.c.generation,
                index_state.c.pruned_generation,
                changes.c.nonce,
                known.label("known"),
                touched.label("touched"),
            )
            .select_from(index_state)
            .outerjoin(changes, changes.c.generation == index_state.c.generation)
        )
        async with self._database.connect() as connection:
            with readable():
                row = (await connection.execute(asked)).one()
                return of_its_types(
                    Head(
                        generation=row.generation,
                        nonce=row.nonce or b"",
                        pruned_generation=row.pruned_generation,
                        known=generation == 0 or bool(row.known),
                        touched=int(row.touched),
                    )
                )

    async def changes(self, since: int) -> Changes:
        """All banks, and what became of their entries since a generation.

        Raises:
            NotReadyError: the database does not answer.
            UnreadableRowError: a row holds what no Cordon wrote.
        """
        async with self._database.connect() as connection:
            with readable():
                pending = tuple(
                    await connection.scalars(
                        select(changes.c.generation)
                        .where(changes.c.generation > since, changes.c.added > bank_signals.SMALL_CHANGE)
                        .order_by(changes.c.generation)
                    )
                )
                return Changes(
                    generation=await _generation(connection),
                    banks=await banks.every(connection),
                    added=await _added(connection, since),
                    **await _removed(connection, since),
                    pending=pending,
                    **await _marked(connection, frozenset(pending)),
                    named=await _named(connection),
                )

    async def entries(self, of: SignalType, generation: int) -> AsyncGenerator[Entries, None]:
        """All entries of a type at a generation, a few thousand at a time; close it if it is not exhausted.

        Those of deleted banks may still be there; check ``pruned_generation`` afterwards.

        Raises:
            NotReadyError: the database does not answer.
            UnreadableRowError: a row holds what no Cordon wrote.
        """
        asked = (
            select(entries.c.id, entries.c.bank_id, entries.c.value)
            .join(changes, changes.c.id == entries.c.change_id)
            .where(
                entries.c.type == of.value,
                changes.c.generation <= generation,
                or_(entries.c.removed_generation.is_(None), entries.c.removed_generation > generation),
            )
            .execution_options(yield_per=_READ_AT_ONCE)
        )
        async with self._database.connect() as connection, connection.stream(asked) as found:
            with readable():
                async for rows in found.partitions():
                    yield _columns(of, rows)

    async def in_force(self, bank_id: int, of: SignalType) -> AsyncGenerator[Entries, None]:
        """The entries of one bank and type that are in force now; close it if it is not exhausted.

        Raises:
            NotReadyError: the database does not answer.
            UnreadableRowError: a row holds what no Cordon wrote.
        """
        disabled = exists().where(
            entry_marks.c.entry_id == entries.c.id, entry_marks.c.disabled_at.is_not(None)
        )
        asked = (
            select(entries.c.id, entries.c.bank_id, entries.c.value)
            .join(changes, changes.c.id == entries.c.change_id)
            .where(
                entries.c.bank_id == bank_id,
                entries.c.type == of.value,
                entries.c.removed_generation.is_(None),
                changes.c.generation.is_not(None),
                ~disabled,
            )
            .execution_options(yield_per=_READ_AT_ONCE)
        )
        async with self._database.connect() as connection, connection.stream(asked) as found:
            with readable():
                async for rows in found.partitions():
                    yield _columns(of, rows)


async def _generation(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(index_state.c.generation))).scalar_one())


async def _added(connection: AsyncConnection, since: int) -> tuple[Entries, ...]:
    """Entries of small changes after a generation that are still there."""
    small = await connection.scalars(
        select(changes.c.id)
        .where(changes.c.generation > since, changes.c.added.between(1, bank_signals.SMALL_CHANGE))
        .order_by(changes.c.id)
    )
    # Asked for by the changes' own ids: from a join, PostgreSQL expects as many entries of each as the
    # largest import brought, and reads the whole table.
    read: list[Entries] = []
    for ids in small.partitions(_CHANGES_AT_ONCE):
        asked = (
            select(entries.c.id, entries.c.bank_id, entries.c.value, entries.c.type)
            .where(entries.c.change_id.in_(ids), entries.c.removed_generation.is_(None))
            .order_by(entries.c.type)
            .execution_options(yield_per=_READ_AT_ONCE)
        )
        async with connection.stream(asked) as found:
            async for rows in found.partitions():
                read += [
                    _columns(SignalType(of), list(group))
                    for of, group in groupby(rows, key=lambda row: row.type)
                ]
    return tuple(read)


async def _removed(connection: AsyncConnection, since: int) -> dict[str, Any]:
    """Ids of entries removed after a generation; and how many of them were there at it, by bank and type."""
    rows = (
        await connection.execute(
            select(
                entries.c.id,
                entries.c.bank_id,
                entries.c.type,
                (changes.c.generation <= literal(since)).label("was_there"),
            )
            .join(changes, changes.c.id == entries.c.change_id)
            .where(entries.c.removed_generation > since)
            .order_by(entries.c.id)
        )
    ).all()
    return {
        "removed": np.fromiter((row.id for row in rows), np.int64, len(rows)),
        "removed_counts": Counter((row.bank_id, SignalType(row.type)) for row in rows if row.was_there),
    }


async def _marked(connection: AsyncConnection, pending: frozenset[int]) -> dict[str, Any]:
    """What stands of single entries: disabled, and how many by bank and type; parked; not to be parked."""
    rows = (
        await connection.execute(
            select(entry_marks, entries.c.type, changes.c.generation)
            .join(entries, entries.c.id == entry_marks.c.entry_id)
            .join(changes, changes.c.id == entries.c.change_id)
            .where(entries.c.removed_generation.is_(None), changes.c.generation.is_not(None))
            .order_by(entry_marks.c.entry_id)
        )
    ).all()
    disabled = [row for row in rows if row.disabled_at is not None]
    return {
        "disabled": np.array([row.entry_id for row in disabled], np.int64),
        "disabled_counts": Counter(
            (row.bank_id, SignalType(row.type)) for row in disabled if row.generation not in pending
        ),
        "parked": frozenset(row.entry_id for row in rows if row.parked_at is not None),
        "tolerated": {row.entry_id: row.tolerated_until for row in rows if row.tolerated_until is not None},
    }


async def _named(connection: AsyncConnection) -> frozenset[tuple[int, int]]:
    rows = await connection.execute(select(suppression_pairs.c.suppressor_id, suppression_pairs.c.entry_id))
    return frozenset((row.suppressor_id, row.entry_id) for row in rows)


def _columns(of: SignalType, rows: Sequence[Row[*tuple[Any, ...]]]) -> Entries:
    """Rows of (id, bank_id, value), at least one, as columns; what else they hold is passed over."""
    ids, bank_ids, values, *_ = zip(*rows, strict=True)
    return Entries(
        type=of,
        ids=np.array(ids, np.int64),
        banks=np.array(bank_ids, np.int64),
        values=np.frombuffer(b"".join(values), np.uint8).reshape(len(rows), of.size_bytes),
    )
