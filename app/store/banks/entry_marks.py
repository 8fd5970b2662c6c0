"""What is decided of single entries, and touches no other: disabled, annotated, parked, paired.

Each decision takes a generation of its own, so that every process follows it within seconds, and is told in
the audit log by ids alone.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import is_plain_text
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.media import PARKED_WITH_ITS_ENTRY, BankAction, BankKind, SignalType
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.banks import bank_changes, bank_entries
from app.store.database import Database
from app.store.record import audit
from app.store.reports import reports
from app.store.reports.report_states import State
from app.store.schema import banks, changes, entries, entry_marks, suppression_pairs
from app.store.schema import reports as table_of_reports

MAX_WHY_CHARACTERS: Final = 1000
MAX_NOTE_CHARACTERS: Final = 1000

TOLERATED: Final = timedelta(days=30)
"""How long an entry that a person kept is not parked again."""

_RELEASED_AT_ONCE: Final = 20

FLOOD_GUARD: Final = "flood_guard"
"""Who parks entries, as the audit has it."""


async def disable(
    connection: AsyncConnection, entry_id: int, *, why: str, by: str, in_bank: str | None = None
) -> int:
    """Take one entry out of force, and leave the rest of its bank alone; tells the generation.

    It stays in the bank, so that an import that brings it again does not bring it back into force. If it was
    parked, that is decided with this.

    Args:
        connection: within ``Database.begin``.
        entry_id: its id.
        why: for those who look at it later.
        by: id of a key, or ``cli``.
        in_bank: the bank that it has to be in; any if None.

    Raises:
        NotFoundError: there is no such entry.
        InvalidRequestError: the reason is missing, too long, or no plain text.
    """
    if not why.strip() or len(why) > MAX_WHY_CHARACTERS or not is_plain_text(why):
        raise InvalidRequestError(
            f"'why': say why in 1 to {MAX_WHY_CHARACTERS} characters, no control character."
        )
    generation = await bank_changes.next_generation(connection)
    entry = await _entry(connection, entry_id, in_bank)
    told = {"disabled_at": datetime.now(UTC), "disabled_by": by, "disabled_why": why, "parked_at": None}
    await _mark(connection, entry, told)
    await _decided(connection, entry)
    await _tell(connection, "bank.entry_disabled", entry, generation, by)
    return generation


async def enable(connection: AsyncConnection, entry_id: int, *, by: str, in_bank: str | None = None) -> int:
    """Put a disabled entry in force again; tells the generation.

    Raises:
        NotFoundError: there is no such entry.
    """
    generation = await bank_changes.next_generation(connection)
    entry = await _entry(connection, entry_id, in_bank)
    await _mark(connection, entry, {"disabled_at": None, "disabled_by": None, "disabled_why": None})
    await _tell(connection, "bank.entry_enabled", entry, generation, by)
    return generation


async def annotate(
    connection: AsyncConnection, entry_id: int, *, note: str | None, by: str, in_bank: str | None = None
) -> None:
    """Set the note of one entry, or take it away.

    Raises:
        NotFoundError: there is no such entry.
        InvalidRequestError: the note is too long, or no plain text.
    """
    if note is not None and (len(note) > MAX_NOTE_CHARACTERS or not is_plain_text(note)):
        raise InvalidRequestError(f"'note': at most {MAX_NOTE_CHARACTERS} characters, no control character.")
    entry = await _entry(connection, entry_id, in_bank)
    await connection.execute(update(entries).where(entries.c.id == entry.id).values(note=note))
    await audit.append(
        connection,
        "bank.entry_annotated",
        entry.name,
        {"bank_id": entry.bank_id, "entry_id": entry.id, "by": by},
    )


async def keep(connection: AsyncConnection, entry_id: int, *, by: str, in_bank: str | None = None) -> int:
    """Decide that a parked entry is right: its matches are reported again; tells the generation.

    It is not parked again for ``TOLERATED``.

    Raises:
        NotFoundError: there is no such entry.
        ConflictError: it is not parked.
    """
    generation = await bank_changes.next_generation(connection)
    entry = await _entry(connection, entry_id, in_bank)
    kept = await connection.execute(
        update(entry_marks)
        .where(entry_marks.c.entry_id == entry.id, entry_marks.c.parked_at.is_not(None))
        .values(parked_at=None, tolerated_until=datetime.now(UTC) + TOLERATED)
    )
    if not kept.rowcount:
        raise ConflictError("This entry is not parked.")
    await _decided(connection, entry)
    await _tell(connection, "bank.entry_kept", entry, generation, by)
    return generation


async def park(connection: AsyncConnection, entry_id: int, *, media: int) -> bool:
    """Park an entry that matched too many different media, and tell ops; whether that is new.

    Args:
        connection: within ``Database.begin``.
        entry_id: its id.
        media: how many it matched today.
    """
    if await _parkable(connection, entry_id) is None:
        return False
    # Asked again once no other gate can park it. A generation that was taken has to be told of, used or not.
    generation = await bank_changes.next_generation(connection)
    entry = await _parkable(connection, entry_id)
    await bank_changes.record(connection, generation, entry.bank_id if entry is not None else 0)
    if entry is None:
        return False
    await _mark(connection, entry, {"parked_at": datetime.now(UTC)})
    await alarms.raise_alarm(connection, AlarmKind.BANK_ENTRY_PARKED, str(entry_id))
    await audit.append(
        connection,
        "bank.entry_parked",
        entry.name,
        {
            "bank_id": entry.bank_id,
            "entry_id": entry_id,
            "generation": generation,
            "media": media,
            "by": FLOOD_GUARD,
        },
    )
    return True


async def name_pair(
    connection: AsyncConnection, entry_id: int, suppressor_id: int, *, by: str, in_bank: str | None = None
) -> int:
    """Let an entry of a suppression bank cancel near matches of one csam entry; tells the generation.

    Args:
        connection: within ``Database.begin``.
        entry_id: the entry that may be cancelled.
        suppressor_id: the entry, of the same type or a sha256, that may cancel it.
        by: id of a key that has the scope ``bank:suppress``, or ``cli``.
        in_bank: the bank that the first has to be in; any if None.

    Raises:
        NotFoundError: there is no such entry.
        ConflictError: the entries do not make such a pair.
    """
    generation = await bank_changes.next_generation(connection)
    entry = await _entry(connection, entry_id, in_bank)
    await _check_pair(connection, entry, suppressor_id)
    pair = {"suppressor_id": suppressor_id, "entry_id": entry_id, "at": datetime.now(UTC), "by": by}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    await connection.execute(dialect.insert(suppression_pairs).values(**pair).on_conflict_do_nothing())
    await _tell(connection, "bank.pair_named", entry, generation, by, suppressor_id=suppressor_id)
    return generation


async def drop_pair(
    connection: AsyncConnection, entry_id: int, suppressor_id: int, *, by: str, in_bank: str | None = None
) -> int:
    """Take a named pair away; tells the generation.

    Raises:
        NotFoundError: there is no such entry, or no such pair.
    """
    generation = await bank_changes.next_generation(connection)
    entry = await _entry(connection, entry_id, in_bank)
    dropped = await connection.execute(
        delete(suppression_pairs).where(
            suppression_pairs.c.entry_id == entry_id, suppression_pairs.c.suppressor_id == suppressor_id
        )
    )
    if not dropped.rowcount:
        raise NotFoundError("There is no such pair.")
    await _tell(connection, "bank.pair_dropped", entry, generation, by, suppressor_id=suppressor_id)
    return generation


async def sweep(database: Database) -> None:
    """Delete what was decided of entries that are gone, and end their alarms."""
    there = exists().where(entries.c.id == entry_marks.c.entry_id, entries.c.removed_generation.is_(None))
    # A staged entry may be taken over by a new change, so only what no row stands for is gone.
    pair_there = (
        exists().where(entries.c.id == suppression_pairs.c.entry_id),
        exists().where(entries.c.id == suppression_pairs.c.suppressor_id),
    )
    async with database.begin() as connection:
        gone = (await connection.execute(select(entry_marks.c.entry_id).where(~there))).scalars().all()
        for entry_id in gone:
            await alarms.clear_alarm(connection, AlarmKind.BANK_ENTRY_PARKED, str(entry_id))
        await connection.execute(delete(entry_marks).where(~there))
        await connection.execute(delete(suppression_pairs).where(~(pair_there[0] & pair_there[1])))


async def release_reports(database: Database) -> int:
    """Queue the reports that waited with entries, once no entry waits any more; tells how many.

    Which of them waited with which entry is sealed, so they go together. A few at a time, so that no report
    that comes in waits long for the database. An entry that was removed, or whose bank was deleted, waits no
    more.
    """
    await _let_go(database)
    released = 0
    while True:
        async with database.begin() as connection:
            parked = exists().where(entry_marks.c.parked_at.is_not(None))
            waiting = (
                select(table_of_reports.c.id)
                .where(
                    table_of_reports.c.state == State.PARKED.value,
                    table_of_reports.c.cause == PARKED_WITH_ITS_ENTRY,
                    ~parked,
                )
                .order_by(table_of_reports.c.id)
                .limit(_RELEASED_AT_ONCE)
            )
            some = (await connection.execute(waiting)).scalars().all()
            for report_id in some:
                await reports.move(connection, report_id, to=State.QUEUED, expect={State.PARKED})
        released += len(some)
        if len(some) < _RELEASED_AT_ONCE:
            return released


async def _let_go(database: Database) -> None:
    """Nobody can decide of a parked entry that is gone: it is not parked any more, and its alarm ends."""
    there = (
        exists()
        .where(entries.c.id == entry_marks.c.entry_id, entries.c.removed_generation.is_(None))
        .where(banks.c.id == entries.c.bank_id)
    )
    gone = select(entry_marks.c.entry_id).where(entry_marks.c.parked_at.is_not(None), ~there)
    async with database.connect() as connection:
        if (await connection.execute(gone.limit(1))).first() is None:
            return
    async with database.begin() as connection:
        for entry_id in (await connection.execute(gone)).scalars().all():
            await connection.execute(
                update(entry_marks).where(entry_marks.c.entry_id == entry_id).values(parked_at=None)
            )
            await alarms.clear_alarm(connection, AlarmKind.BANK_ENTRY_PARKED, str(entry_id))


async def _entry(connection: AsyncConnection, entry_id: int, in_bank: str | None) -> Row[*tuple[Any, ...]]:
    """An entry that is in a bank, with its type, and the bank's kind and name."""
    asked = (
        select(entries.c.id, entries.c.bank_id, entries.c.type, banks.c.kind, banks.c.name)
        .join(banks, banks.c.id == entries.c.bank_id)
        .join(changes, changes.c.id == entries.c.change_id)
        .where(
            entries.c.id == entry_id,
            entries.c.removed_generation.is_(None),
            changes.c.generation.is_not(None),
        )
    )
    entry = (await connection.execute(asked)).one_or_none()
    if entry is None or in_bank not in {None, entry.name}:
        raise NotFoundError("There is no such entry.")
    return entry


async def _parkable(connection: AsyncConnection, entry_id: int) -> Row[*tuple[Any, ...]] | None:
    """An entry that is in force and about which nobody decided lately; else None."""
    settled = exists().where(
        entry_marks.c.entry_id == entry_id,
        (entry_marks.c.parked_at.is_not(None))
        | (entry_marks.c.disabled_at.is_not(None))
        | (entry_marks.c.tolerated_until > datetime.now(UTC)),
    )
    asked = (
        select(entries.c.id, entries.c.bank_id, banks.c.name)
        .join(banks, banks.c.id == entries.c.bank_id)
        .where(
            entries.c.id == entry_id,
            entries.c.removed_generation.is_(None),
            bank_entries.visible(),
            ~settled,
        )
    )
    return (await connection.execute(asked)).one_or_none()


async def _check_pair(connection: AsyncConnection, entry: Row[*tuple[Any, ...]], suppressor_id: int) -> None:
    suppressor = (
        await connection.execute(
            select(entries.c.type, banks.c.action)
            .join(banks, banks.c.id == entries.c.bank_id)
            .where(
                entries.c.id == suppressor_id, entries.c.removed_generation.is_(None), bank_entries.visible()
            )
        )
    ).one_or_none()
    if suppressor is None or suppressor.action != BankAction.SUPPRESS.value:
        raise ConflictError("The other entry of a pair must be one of a suppression bank.")
    if entry.kind != BankKind.CSAM.value:
        raise ConflictError("Only entries of csam banks need a pair: others are cancelled without.")
    if SignalType(entry.type).is_digest:
        raise ConflictError("A digest is never cancelled: disable the entry if it is wrong.")
    if not SignalType(suppressor.type).is_digest and suppressor.type != entry.type:
        raise ConflictError("Both entries of a pair must be of one type, or the other one sha256.")


async def _mark(connection: AsyncConnection, entry: Row[*tuple[Any, ...]], values: dict[str, Any]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    await connection.execute(
        dialect.insert(entry_marks)
        .values(entry_id=entry.id, bank_id=entry.bank_id, **values)
        .on_conflict_do_update(index_elements=[entry_marks.c.entry_id], set_=values)
    )


async def _decided(connection: AsyncConnection, entry: Row[*tuple[Any, ...]]) -> None:
    """A person decided of an entry: nobody has to be called for it any more."""
    await alarms.clear_alarm(connection, AlarmKind.BANK_ENTRY_PARKED, str(entry.id))


async def _tell(
    connection: AsyncConnection,
    event: str,
    entry: Row[*tuple[Any, ...]],
    generation: int,
    by: str,
    **more: int,
) -> None:
    """Write a decision down: as a change that others follow, and in the audit log."""
    await bank_changes.record(connection, generation, entry.bank_id)
    details = {"bank_id": entry.bank_id, "entry_id": entry.id, "generation": generation, "by": by, **more}
    await audit.append(connection, event, entry.name, details)
