"""Signals of banks: added and removed all or none, or brought in by a large import.

A large import would hold up all other writers of SQLite, reports among them. It is staged instead: its
entries come in many short transactions, under a change that has no generation yet and that nobody reads;
the last transaction gives it one, and all of it is there at once. What a crash leaves of an import is never
read, and ``bank_sweeping`` takes it away later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import UNSUPPRESSING, Bank, NewSignal, Origin
from app.errors import ConflictError, InvalidRequestError
from app.media import SignalType
from app.store.banks import bank_changes, bank_entries, bank_opinions, bank_sweeping, banks
from app.store.database import Database
from app.store.record import audit
from app.store.rows import readable
from app.store.schema import banks as bank_table
from app.store.schema import changes, entries
from app.store.schema import entry_marks as table_of_marks

SMALL_CHANGE: Final = 10_000
"""A change of up to so many entries is in force within seconds; what is larger needs a new snapshot."""

STAGED_AT_ONCE: Final = 20_000
"""Entries of a large import in one transaction: about half a second of SQLite's only write lock."""

NOT_SUPPRESSING: Final = (
    "A suppression bank takes sha256, pdq and phash: of md5 and sha1, two files of one value can be made."
)

_GIVEN_UP: Final = (
    "Nothing was imported: another import into this bank has begun since, or the bank is gone. "
    "Once that one is done, import it again."
)


@dataclass(frozen=True)
class Changed:
    """What a change did.

    Attributes:
        generation: the one it took.
        changed: how many entries it added or removed.
        unchanged: how many signals were there already, or were not there to be removed.
        kept: how many entries one source withdrew and another stands by, so that they stay.
    """

    generation: int
    changed: int
    unchanged: int
    kept: int = 0


@dataclass(frozen=True)
class Staged:
    """A large import on its way.

    Attributes:
        change_id: the change that its entries come under.
        cleared: whether an earlier import into the bank was given up for this one.
        origin: where all of it comes from, and on what terms.
    """

    bank: Bank
    change_id: int
    cleared: bool
    origin: Origin | None = None


async def counts(connection: AsyncConnection) -> Mapping[tuple[int, SignalType], int]:
    """How many entries there are, by id of bank and type. Reads all of them."""
    wanted = (
        select(entries.c.bank_id, entries.c.type, func.count())
        .where(entries.c.removed_generation.is_(None), bank_entries.visible())
        .group_by(entries.c.bank_id, entries.c.type)
    )
    with readable():
        rows = (await connection.execute(wanted)).all()
        return {(bank_id, SignalType(of)): count for bank_id, of, count in rows}


async def disabled(connection: AsyncConnection) -> Mapping[int, int]:
    """How many entries are disabled, by id of bank."""
    rows = await connection.execute(
        select(entries.c.bank_id, func.count().label("disabled"))
        .join(table_of_marks, table_of_marks.c.entry_id == entries.c.id)
        .where(
            table_of_marks.c.disabled_at.is_not(None),
            entries.c.removed_generation.is_(None),
            bank_entries.visible(),
        )
        .group_by(entries.c.bank_id)
    )
    return {row.bank_id: row.disabled for row in rows}


async def add(
    connection: AsyncConnection,
    name: str,
    signals: Sequence[NewSignal],
    *,
    by: str,
    origin: Origin | None = None,
) -> Changed:
    """Add signals to a bank, all or none; those it holds already stay as they are.

    Args:
        connection: within ``Database.begin``.
        name: of the bank.
        signals: for thousands; millions are to be staged.
        by: as in ``create``.
        origin: where all of them come from, and on what terms.

    Raises:
        NotFoundError: there is no such bank.
        InvalidRequestError: a digest for a suppression bank that cannot cancel.
    """
    generation = await bank_changes.next_generation(connection)
    bank = await banks.get(connection, name)
    _check_suppressing(bank, signals)
    change_id = await bank_changes.record(connection, generation, bank.id, origin)
    await bank_opinions.keep_of_unfinished(connection, bank.id, signals)
    added = await bank_entries.insert_new(connection, bank.id, change_id, signals)
    await bank_opinions.record(connection, bank.id, change_id, signals, origin, all_new=added == len(signals))
    await connection.execute(update(changes).where(changes.c.id == change_id).values(added=added))
    await _imported(connection, bank, generation, imported=bool(signals))
    known = len(signals) - added
    told = {"known": known}
    await _audit_change(connection, "bank.signals_added", bank, generation, changed=added, by=by, told=told)
    return Changed(generation, added, known)


async def remove(
    connection: AsyncConnection,
    name: str,
    signals: Sequence[NewSignal],
    *,
    by: str,
    origin: Origin | None = None,
) -> Changed:
    """Remove signals from a bank, all or none; those it does not hold are no error.

    One that names a source is withdrawn by that source alone, and removed only if no other stands by it.

    Args:
        connection: within ``Database.begin``.
        name: of the bank.
        signals: for thousands.
        by: as in ``create``.
        origin: who withdraws all of them, where a signal does not say it.

    Raises:
        NotFoundError: there is no such bank.
    """
    generation = await bank_changes.next_generation(connection)
    bank = await banks.get(connection, name)
    change_id = await bank_changes.record(connection, generation, bank.id)
    withdrawing = [each for each in signals if bank_opinions.source_of(each, origin) is not None]
    removing = [each for each in signals if bank_opinions.source_of(each, origin) is None]
    removed = await bank_entries.mark_removed(connection, bank.id, generation, removing)
    withdrawn = deserted = 0
    if withdrawing:
        withdrawn = await bank_opinions.withdraw(connection, bank.id, change_id, withdrawing, origin)
        deserted = await bank_opinions.remove_deserted(connection, change_id, generation)
    gone = removed + deserted
    await connection.execute(update(changes).where(changes.c.id == change_id).values(removed=gone))
    await _audit_change(
        connection,
        "bank.signals_withdrawn" if withdrawing else "bank.signals_removed",
        bank,
        generation,
        changed=gone,
        by=by,
        told={"kept": withdrawn - deserted} if withdrawing else {},
    )
    return Changed(generation, gone, len(signals) - removed - withdrawn, kept=withdrawn - deserted)


async def begin_import(database: Database, name: str, *, origin: Origin | None = None) -> Staged:
    """Begin a large import. One that was begun before and not finished is given up.

    Args:
        database: where the bank is.
        name: of the bank.
        origin: as in ``add``.

    Raises:
        NotFoundError: there is no such bank.
    """
    async with database.begin() as connection:
        bank = await banks.get(connection, name)
        given_up = await connection.execute(
            delete(changes).where(changes.c.bank_id == bank.id, changes.c.generation.is_(None))
        )
        change_id = await bank_changes.record(connection, None, bank.id, origin)
    return Staged(bank, change_id, cleared=given_up.rowcount > 0, origin=origin)


async def stage(database: Database, staged: Staged, signals: Sequence[NewSignal]) -> int:
    """Bring in a part of a large import, in a transaction of its own; tells how many were new.

    Raises:
        ConflictError: the import was given up for another one, or its bank was deleted.
        InvalidRequestError: a digest for a suppression bank that cannot cancel.
    """
    _check_suppressing(staged.bank, signals)
    mine = changes.c.id == staged.change_id, changes.c.generation.is_(None)
    async with database.begin() as connection:
        # First, so that whoever takes over its entries meanwhile waits, and finds all of them.
        if (await connection.execute(select(changes.c.id).where(*mine).with_for_update())).first() is None:
            raise ConflictError(_GIVEN_UP)
        added = await bank_entries.insert_new(connection, staged.bank.id, staged.change_id, signals)
        await bank_opinions.record(
            connection,
            staged.bank.id,
            staged.change_id,
            signals,
            staged.origin,
            all_new=added == len(signals),
        )
        await connection.execute(update(changes).where(*mine).values(added=changes.c.added + added))
    await database.give_way()
    return added


async def finish_import(database: Database, staged: Staged, *, given: int, by: str) -> Changed:
    """Make all that was staged visible at once.

    Args:
        database: where the bank is.
        staged: the import.
        given: how many signals were staged, those that the bank held already among them.
        by: as in ``create``.

    Raises:
        ConflictError: as ``stage``.
    """
    async with database.begin() as connection:
        generation = await bank_changes.next_generation(connection)
        finished = (
            await connection.execute(
                update(changes)
                .where(changes.c.id == staged.change_id, changes.c.generation.is_(None))
                .values(generation=generation, at=datetime.now(UTC))
                .returning(changes.c.added)
            )
        ).one_or_none()
        if finished is None:
            raise ConflictError(_GIVEN_UP)
        bank = await banks.get(connection, staged.bank.name)
        await _imported(connection, bank, generation, imported=True)
        known = given - finished.added
        told = {"known": known}
        await _audit_change(
            connection, "bank.signals_added", bank, generation, changed=finished.added, by=by, told=told
        )
    return Changed(generation, finished.added, known)


async def give_up_import(database: Database, staged: Staged) -> None:
    """Drop a large import that cannot be finished, and sweep away what came of it."""
    async with database.begin() as connection:
        await connection.execute(
            delete(changes).where(changes.c.id == staged.change_id, changes.c.generation.is_(None))
        )
    await bank_sweeping.sweep(database)


def _check_suppressing(bank: Bank, signals: Sequence[NewSignal]) -> None:
    if bank.suppresses and any(signal.type in UNSUPPRESSING for signal in signals):
        raise InvalidRequestError(NOT_SUPPRESSING)


async def _imported(connection: AsyncConnection, bank: Bank, generation: int, *, imported: bool) -> None:
    """Note that a bank was imported into; an empty import does not make it count."""
    if imported:
        await connection.execute(
            update(bank_table)
            .where(bank_table.c.id == bank.id)
            .values(changed_at=datetime.now(UTC), first_generation=bank.first_generation or generation)
        )


async def _audit_change(
    connection: AsyncConnection,
    event: str,
    bank: Bank,
    generation: int,
    *,
    changed: int,
    by: str,
    told: Mapping[str, int],
) -> None:
    await audit.append(
        connection,
        event,
        bank.name,
        {"bank_id": bank.id, "generation": generation, "entries": changed, "by": by, **told},
    )
