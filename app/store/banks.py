"""Banks and their entries. Every change takes the next generation in its own transaction.

A change of the banks first takes the row of ``index_state``, so changes commit in the order of their
generations, and whoever reads generation G finds all that is of G or before.

A large import would hold up all other writers of SQLite, reports among them. It is staged instead: its
entries come in many short transactions, under a change that has no generation yet and that nobody reads;
the last transaction gives it one, and all of it is there at once. What a crash leaves of an import is never
read, and is swept away later.

Values of entries appear in no error, log or audit entry.
"""

import re
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import groupby
from typing import Any, Final

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Row,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import Bank, Changes, Entries, Head, NewSignal, is_plain_text
from app.errors import ConflictError, InvalidRequestError, NotFoundError, NotReadyError
from app.media import BankAction, BankKind, SignalType
from app.store import audit
from app.store.database import Database
from app.store.schema import banks, changes, entries, index_state

SMALL_CHANGE: Final = 10_000
"""A change of up to so many entries is in force within seconds; what is larger needs a new snapshot."""

STAGED_AT_ONCE: Final = 20_000
"""Entries of a large import in one transaction: about half a second of SQLite's only write lock."""

LARGEST_THRESHOLDS: Final = {SignalType.PDQ: 64, SignalType.PHASH: 16}
"""In bits. Unrelated pictures are 128 and 32 bits apart on average; beyond these, anything may match."""

MAX_REASON_CHARACTERS: Final = 1000

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_READ_AT_ONCE: Final = 2_000
_SWEPT_AT_ONCE: Final = 20_000
_READ_ATTEMPTS: Final = 10
_CHANGES_AT_ONCE: Final = 1_000
_NONCE_BYTES: Final = 16


@dataclass(frozen=True)
class Changed:
    """What a change did.

    Attributes:
        generation: the one it took.
        changed: how many entries it added or removed.
        unchanged: how many signals were there already, or were not there to be removed.
    """

    generation: int
    changed: int
    unchanged: int


@dataclass(frozen=True)
class Staged:
    """A large import on its way.

    Attributes:
        change_id: the change that its entries come under.
        cleared: whether an earlier import into the bank was given up for this one.
    """

    bank: Bank
    change_id: int
    cleared: bool


async def create(
    connection: AsyncConnection,
    *,
    name: str,
    kind: BankKind,
    action: BankAction,
    by: str,
    thresholds: Mapping[SignalType, int] | None = None,
    no_report_reason: str | None = None,
) -> Bank:
    """Make an empty bank. It counts once its first import is in force.

    Args:
        connection: within ``Database.begin``.
        name: 1 to 64 letters, digits, dots, dashes and underscores.
        kind: fixed for good.
        action: ``observe`` is refused for csam.
        by: who does it: the id of a key, or ``cli``; for the audit.
        thresholds: in bits, where they differ from the defaults.
        no_report_reason: needed for a csam bank that only blocks, and refused otherwise.

    Raises:
        InvalidRequestError: the name or the policy is wrong.
        ConflictError: there is a bank of that name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            "Name a bank with 1 to 64 letters, digits, dots, dashes and underscores, a letter or digit first."
        )
    _check_policy(kind, action, thresholds or {}, no_report_reason)
    generation = await _next_generation(connection)
    try:
        bank_id = (
            await connection.execute(
                insert(banks)
                .values(
                    name=name,
                    kind=kind.value,
                    action=action.value,
                    no_report_reason=no_report_reason,
                    thresholds=_plain(thresholds or {}),
                    created_at=datetime.now(UTC),
                )
                .returning(banks.c.id)
            )
        ).scalar_one()
    except IntegrityError:
        raise ConflictError("There is a bank of that name.") from None
    await _record(connection, generation, bank_id)
    await audit.append(
        connection,
        "bank.created",
        name,
        {"bank_id": bank_id, "generation": generation, "by": by, "kind": kind.value, "action": action.value},
    )
    return await get(connection, name)


async def configure(
    connection: AsyncConnection,
    name: str,
    *,
    by: str,
    action: BankAction | None = None,
    thresholds: Mapping[SignalType, int] | None = None,
    no_report_reason: str | None = None,
) -> Bank:
    """Change a bank's policy; what is None stays, and a reason goes with the action it was given for.

    Args:
        connection: within ``Database.begin``.
        name: of the bank.
        action: as in ``create``.
        by: as in ``create``.
        thresholds: all of them: a type that is left out goes back to its default.
        no_report_reason: as in ``create``.

    Raises:
        NotFoundError: there is no such bank.
        InvalidRequestError: the policy is wrong.
    """
    generation = await _next_generation(connection)
    bank = await get(connection, name)
    new_action = action or bank.action
    new_thresholds = bank.thresholds if thresholds is None else thresholds
    reason = no_report_reason
    if reason is None and new_action is bank.action:
        reason = bank.no_report_reason
    _check_policy(bank.kind, new_action, new_thresholds, reason)
    await connection.execute(
        update(banks)
        .where(banks.c.id == bank.id)
        .values(action=new_action.value, thresholds=_plain(new_thresholds), no_report_reason=reason)
    )
    await _record(connection, generation, bank.id)
    await audit.append(
        connection,
        "bank.configured",
        name,
        {
            "bank_id": bank.id,
            "generation": generation,
            "by": by,
            "action": new_action.value,
            "thresholds": [f"{of.value}={bits}" for of, bits in sorted(new_thresholds.items())],
        },
    )
    return await get(connection, name)


async def put(
    connection: AsyncConnection,
    *,
    name: str,
    kind: BankKind,
    action: BankAction,
    by: str,
    thresholds: Mapping[SignalType, int] | None = None,
    no_report_reason: str | None = None,
) -> tuple[Bank, bool]:
    """Make a bank, or give one that is there this policy; tells whether it was made.

    Raises:
        InvalidRequestError: the name or the policy is wrong.
        ConflictError: there is a bank of that name and another kind.
    """
    try:
        bank = await get(connection, name)
    except NotFoundError:
        bank = await create(
            connection,
            name=name,
            kind=kind,
            action=action,
            by=by,
            thresholds=thresholds,
            no_report_reason=no_report_reason,
        )
        return bank, True
    if bank.kind is not kind:
        raise ConflictError("The kind of a bank is fixed; make another bank.")
    bank = await configure(
        connection,
        name,
        by=by,
        action=action,
        thresholds=thresholds or {},
        no_report_reason=no_report_reason,
    )
    return bank, False


async def delete_bank(connection: AsyncConnection, name: str, *, by: str) -> int:
    """Take a bank away with all its entries, and tell the generation; call ``sweep`` after the commit.

    Raises:
        NotFoundError: there is no such bank.
    """
    generation = await _next_generation(connection)
    bank = await get(connection, name)
    await connection.execute(delete(banks).where(banks.c.id == bank.id))
    await connection.execute(
        delete(changes).where(changes.c.bank_id == bank.id, changes.c.generation.is_(None))
    )
    await _record(connection, generation, bank.id)
    await audit.append(
        connection, "bank.deleted", name, {"bank_id": bank.id, "generation": generation, "by": by}
    )
    return generation


async def get(connection: AsyncConnection, name: str) -> Bank:
    """The bank of that name.

    Raises:
        NotFoundError: there is none.
    """
    row = (await connection.execute(select(banks).where(banks.c.name == name))).one_or_none()
    if row is None:
        raise NotFoundError("There is no such bank.")
    return _bank(row)


async def every(connection: AsyncConnection) -> tuple[Bank, ...]:
    """All banks, by name."""
    return tuple(_bank(row) for row in await connection.execute(select(banks).order_by(banks.c.name)))


async def counts(connection: AsyncConnection) -> Mapping[tuple[int, SignalType], int]:
    """How many entries there are, by id of bank and type. Reads all of them."""
    rows = await connection.execute(
        select(entries.c.bank_id, entries.c.type, func.count())
        .where(entries.c.removed_generation.is_(None), _visible())
        .group_by(entries.c.bank_id, entries.c.type)
    )
    return {(bank_id, SignalType(of)): count for bank_id, of, count in rows}


async def add(connection: AsyncConnection, name: str, signals: Sequence[NewSignal], *, by: str) -> Changed:
    """Add signals to a bank, all or none; those it holds already stay as they are.

    Args:
        connection: within ``Database.begin``.
        name: of the bank.
        signals: for thousands; millions are to be staged.
        by: as in ``create``.

    Raises:
        NotFoundError: there is no such bank.
    """
    generation = await _next_generation(connection)
    bank = await get(connection, name)
    change_id = await _record(connection, generation, bank.id)
    added = await _insert(connection, bank.id, change_id, signals)
    await connection.execute(update(changes).where(changes.c.id == change_id).values(added=added))
    await _imported(connection, bank, generation, imported=bool(signals))
    await _audit_change(connection, "bank.signals_added", bank, generation=generation, changed=added, by=by)
    return Changed(generation, added, len(signals) - added)


async def remove(connection: AsyncConnection, name: str, signals: Sequence[NewSignal], *, by: str) -> Changed:
    """Remove signals from a bank, all or none; those it does not hold are no error.

    Raises:
        NotFoundError: there is no such bank.
    """
    generation = await _next_generation(connection)
    bank = await get(connection, name)
    change_id = await _record(connection, generation, bank.id)
    removed = 0
    for chunk in _chunks(signals):
        removed += await _mark_removed(connection, bank.id, generation, chunk)
    await connection.execute(update(changes).where(changes.c.id == change_id).values(removed=removed))
    await _audit_change(
        connection, "bank.signals_removed", bank, generation=generation, changed=removed, by=by
    )
    return Changed(generation, removed, len(signals) - removed)


async def begin_import(database: Database, name: str) -> Staged:
    """Begin a large import. One that was begun before and not finished is given up.

    Raises:
        NotFoundError: there is no such bank.
    """
    async with database.begin() as connection:
        bank = await get(connection, name)
        given_up = await connection.execute(
            delete(changes).where(changes.c.bank_id == bank.id, changes.c.generation.is_(None))
        )
        change_id = await _record(connection, None, bank.id)
    return Staged(bank, change_id, cleared=given_up.rowcount > 0)


async def stage(database: Database, staged: Staged, signals: Sequence[NewSignal]) -> int:
    """Bring in a part of a large import, in a transaction of its own; tells how many were new.

    Raises:
        ConflictError: the import was given up for another one, or its bank was deleted.
    """
    async with database.begin() as connection:
        added = await _insert(connection, staged.bank.id, staged.change_id, signals)
        counted = await connection.execute(
            update(changes)
            .where(changes.c.id == staged.change_id, changes.c.generation.is_(None))
            .values(added=changes.c.added + added)
        )
        if counted.rowcount != 1:
            raise ConflictError("Another import into this bank has begun, or the bank is gone.")
    return added


async def finish_import(database: Database, staged: Staged, *, by: str) -> Changed:
    """Make all that was staged visible at once; ``unchanged`` is not counted.

    Raises:
        ConflictError: as ``stage``.
    """
    async with database.begin() as connection:
        generation = await _next_generation(connection)
        finished = (
            await connection.execute(
                update(changes)
                .where(changes.c.id == staged.change_id, changes.c.generation.is_(None))
                .values(generation=generation, at=datetime.now(UTC))
                .returning(changes.c.added)
            )
        ).one_or_none()
        if finished is None:
            raise ConflictError("Another import into this bank has begun, or the bank is gone.")
        bank = await get(connection, staged.bank.name)
        await _imported(connection, bank, generation, imported=True)
        await _audit_change(
            connection, "bank.signals_added", bank, generation=generation, changed=finished.added, by=by
        )
    return Changed(generation, finished.added, 0)


async def give_up_import(database: Database, staged: Staged) -> None:
    """Drop a large import that cannot be finished, and sweep away what came of it."""
    async with database.begin() as connection:
        await connection.execute(
            delete(changes).where(changes.c.id == staged.change_id, changes.c.generation.is_(None))
        )
    await sweep(database)


async def sweep(database: Database) -> int:
    """Delete what deleted banks and given-up imports left, in short transactions; tells how many entries."""
    leftover = or_(
        entries.c.bank_id.not_in(select(banks.c.id)), entries.c.change_id.not_in(select(changes.c.id))
    )
    async with database.connect() as connection:
        first, last = (await connection.execute(select(func.min(entries.c.id), func.max(entries.c.id)))).one()
    swept = 0
    for begin in range(first or 0, (last or 0) + 1, _SWEPT_AT_ONCE):
        # By ranges of ids, which no planner can turn into a scan of all that there is.
        some = and_(entries.c.id >= begin, entries.c.id < begin + _SWEPT_AT_ONCE, leftover)
        async with database.connect() as connection:
            if not (await connection.execute(select(exists().where(some)))).scalar_one():
                continue
        async with database.begin() as connection:
            # Asked again: an entry may have been taken over by a new change in between.
            swept += (await connection.execute(delete(entries).where(some))).rowcount
    return swept


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
        if gone.rowcount < _SWEPT_AT_ONCE:
            return pruned


class BankReader:
    """Reads banks for the index; what ``app.banks.current`` polls."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def head(self, generation: int, nonce: bytes) -> Head:
        """How far the banks have come, as seen from a generation of theirs; 0 stands for an empty beginning.

        Raises:
            NotReadyError: the database does not answer.
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
            row = (await connection.execute(asked)).one()
        return Head(
            generation=row.generation,
            nonce=row.nonce or b"",
            pruned_generation=row.pruned_generation,
            known=generation == 0 or bool(row.known),
            touched=int(row.touched),
        )

    async def changes(self, since: int) -> Changes:
        """All banks, and what became of their entries since a generation.

        Raises:
            NotReadyError: the database does not answer, or the banks change faster than they can be read.
        """
        for _ in range(_READ_ATTEMPTS):
            async with self._database.connect() as connection:
                before = await _generation(connection)
                read = Changes(
                    generation=before,
                    banks=await every(connection),
                    added=await _added(connection, since),
                    **await _removed(connection, since),
                    pending=tuple(
                        await connection.scalars(
                            select(changes.c.generation)
                            .where(changes.c.generation > since, changes.c.added > SMALL_CHANGE)
                            .order_by(changes.c.generation)
                        )
                    ),
                )
                # PostgreSQL shows each statement what was committed by then: only if nothing was
                # committed in between is all of it of one generation.
                if await _generation(connection) == before:
                    return read
        raise NotReadyError("the banks change faster than they can be read")

    async def entries(self, of: SignalType, generation: int) -> AsyncGenerator[Entries, None]:
        """All entries of a type at a generation, a few thousand at a time; close it if it is not exhausted.

        Those of deleted banks may still be there; check ``pruned_generation`` afterwards.

        Raises:
            NotReadyError: the database does not answer.
        """
        asked = (
            select(entries.c.type, entries.c.id, entries.c.bank_id, entries.c.value)
            .join(changes, changes.c.id == entries.c.change_id)
            .where(
                entries.c.type == of.value,
                changes.c.generation <= generation,
                or_(entries.c.removed_generation.is_(None), entries.c.removed_generation > generation),
            )
            .execution_options(yield_per=_READ_AT_ONCE)
        )
        async with self._database.connect() as connection, connection.stream(asked) as found:
            async for rows in found.partitions():
                yield _columns(of, rows)


def _check_policy(
    kind: BankKind, action: BankAction, thresholds: Mapping[SignalType, int], no_report_reason: str | None
) -> None:
    if kind is BankKind.CSAM and action is BankAction.OBSERVE:
        raise InvalidRequestError("A csam bank cannot only observe: use 'report' or 'block'.")
    needs_reason = kind is BankKind.CSAM and action is BankAction.BLOCK
    if needs_reason and not (no_report_reason or "").strip():
        raise InvalidRequestError("A csam bank that only blocks needs a 'no_report_reason'.")
    if no_report_reason is not None and not needs_reason:
        raise InvalidRequestError("'no_report_reason' is for csam banks that only block.")
    if len(no_report_reason or "") > MAX_REASON_CHARACTERS or not is_plain_text(no_report_reason or ""):
        raise InvalidRequestError(
            f"'no_report_reason': at most {MAX_REASON_CHARACTERS} characters, no control character."
        )
    for of, bits in thresholds.items():
        if not 0 <= bits <= LARGEST_THRESHOLDS.get(of, -1):
            known = ", ".join(f"{known.value} 0 to {most}" for known, most in LARGEST_THRESHOLDS.items())
            raise InvalidRequestError(f"'thresholds': set {known}.")


def _plain(thresholds: Mapping[SignalType, int]) -> dict[str, int]:
    return {of.value: bits for of, bits in thresholds.items()}


def _bank(row: Row[*tuple[Any, ...]]) -> Bank:
    return Bank(
        id=row.id,
        name=row.name,
        kind=BankKind(row.kind),
        action=BankAction(row.action),
        thresholds={SignalType(of): bits for of, bits in row.thresholds.items()},
        no_report_reason=row.no_report_reason,
        max_age_seconds=row.max_age_seconds,
        created_at=row.created_at,
        first_generation=row.first_generation,
        changed_at=row.changed_at,
    )


async def _generation(connection: AsyncConnection) -> int:
    return int((await connection.execute(select(index_state.c.generation))).scalar_one())


async def _next_generation(connection: AsyncConnection) -> int:
    """Take the next generation. Comes first in a change: it puts all writers of banks in line."""
    return int(
        (
            await connection.execute(
                update(index_state)
                .values(generation=index_state.c.generation + 1)
                .returning(index_state.c.generation)
            )
        ).scalar_one()
    )


async def _record(connection: AsyncConnection, generation: int | None, bank_id: int) -> int:
    """Write a change down and tell its id; what it adds or removes is counted later."""
    return int(
        (
            await connection.execute(
                insert(changes)
                .values(
                    generation=generation,
                    nonce=secrets.token_bytes(_NONCE_BYTES),
                    bank_id=bank_id,
                    added=0,
                    removed=0,
                    at=datetime.now(UTC),
                )
                .returning(changes.c.id)
            )
        ).scalar_one()
    )


async def _imported(connection: AsyncConnection, bank: Bank, generation: int, *, imported: bool) -> None:
    """Note that a bank was imported into; an empty import does not make it count."""
    if imported:
        await connection.execute(
            update(banks)
            .where(banks.c.id == bank.id)
            .values(changed_at=datetime.now(UTC), first_generation=bank.first_generation or generation)
        )


async def _audit_change(
    connection: AsyncConnection, event: str, bank: Bank, *, generation: int, changed: int, by: str
) -> None:
    await audit.append(
        connection,
        event,
        bank.name,
        {"bank_id": bank.id, "generation": generation, "entries": changed, "by": by},
    )


def _visible() -> ColumnElement[bool]:
    return exists().where(changes.c.id == entries.c.change_id, changes.c.generation.is_not(None))


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


async def _insert(
    connection: AsyncConnection, bank_id: int, change_id: int, signals: Sequence[NewSignal]
) -> int:
    """Insert what is not there yet; tells how many."""
    added = 0
    for chunk in _chunks(signals):
        # PostgreSQL refuses to meet the same value twice in one statement. Sorted, an index grows faster.
        unique = sorted({(signal.type, signal.value): signal for signal in chunk}.values())
        if connection.dialect.name == "postgresql":
            inserted = await connection.exec_driver_sql(
                _INSERT_POSTGRESQL,
                (
                    bank_id,
                    change_id,
                    [signal.type.value for signal in unique],
                    [signal.value for signal in unique],
                    [signal.note for signal in unique],
                ),
            )
            added += inserted.rowcount
            continue
        whole = len(unique) - len(unique) % _SQLITE_ROWS
        for size, some in ((_SQLITE_ROWS, unique[:whole]), (len(unique) - whole, unique[whole:])):
            if some:
                added += await _insert_sqlite(connection, bank_id, change_id, some, rows=size)
    return added


async def _insert_sqlite(
    connection: AsyncConnection, bank_id: int, change_id: int, signals: Sequence[NewSignal], *, rows: int
) -> int:
    """Insert signals, so many rows a statement, by which their number can be divided."""
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


async def _mark_removed(
    connection: AsyncConnection, bank_id: int, generation: int, signals: Sequence[NewSignal]
) -> int:
    if connection.dialect.name == "postgresql":
        marked = await connection.exec_driver_sql(
            _REMOVE_POSTGRESQL,
            (
                generation,
                bank_id,
                [signal.type.value for signal in signals],
                [signal.value for signal in signals],
            ),
        )
    else:
        marked = await connection.exec_driver_sql(
            _REMOVE_SQLITE, [(generation, bank_id, signal.type.value, signal.value) for signal in signals]
        )
    return marked.rowcount


def _chunks(signals: Sequence[NewSignal]) -> Iterator[Sequence[NewSignal]]:
    for begin in range(0, len(signals), STAGED_AT_ONCE):
        yield signals[begin : begin + STAGED_AT_ONCE]


async def _added(connection: AsyncConnection, since: int) -> tuple[Entries, ...]:
    """Entries of small changes after a generation that are still there."""
    small = await connection.scalars(
        select(changes.c.id)
        .where(changes.c.generation > since, changes.c.added.between(1, SMALL_CHANGE))
        .order_by(changes.c.id)
    )
    # Asked for by the changes' own ids: from a join, PostgreSQL expects as many entries of each as the
    # largest import brought, and reads the whole table.
    read: list[Entries] = []
    for ids in small.partitions(_CHANGES_AT_ONCE):
        asked = (
            select(entries.c.type, entries.c.id, entries.c.bank_id, entries.c.value)
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


def _columns(of: SignalType, rows: Sequence[Row[*tuple[Any, ...]]]) -> Entries:
    """Rows of (type, id, bank_id, value), at least one, as columns."""
    _, ids, bank_ids, values = zip(*rows, strict=True)
    return Entries(
        type=of,
        ids=np.array(ids, np.int64),
        banks=np.array(bank_ids, np.int64),
        values=np.frombuffer(b"".join(values), np.uint8).reshape(len(rows), of.size_bytes),
    )
