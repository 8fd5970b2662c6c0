"""Single entries of a bank, as those see them who look after it: what sources say, what people decided."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Row, Select, exists, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import NewSignal
from app.errors import NotFoundError
from app.media import BankAction, SignalType
from app.store.banks import bank_opinions
from app.store.banks.bank_opinions import Opinion
from app.store.rows import readable
from app.store.schema import banks, changes, entries, entry_days, entry_marks, opinions, suppression_pairs

MAX_LISTED: Final = 1000

_FOUND_AT_ONCE: Final = 200
_DAYS_TOLD: Final = 7
_DISABLED: Final = entry_marks.c.disabled_at.is_not(None)


class EntryState(StrEnum):
    """What stands out about an entry."""

    DISABLED = "disabled"
    PARKED = "parked"
    DISPUTED = "disputed"


@dataclass(frozen=True)
class Disabled:
    """That an entry is out of force: since when, by whom, why."""

    at: datetime
    by: str
    why: str


@dataclass(frozen=True)
class BankEntry:
    """One entry of a bank.

    Attributes:
        bank: name of the bank.
        value: raw.
        added_at: when it came into the bank.
        sources: what each source says of it, by name.
        disputed: whether they disagree on what it is.
        parked_at: since when it waits for a person; None if it does not.
        tolerated_until: until when it is not to be parked, because a person kept it.
        suppressors: ids of the entries that were named to cancel it.
        media: how many different media it matched, by day, for the last days on which it did.
    """

    id: int
    bank: str
    type: SignalType
    value: bytes = field(repr=False)
    note: str | None
    added_at: datetime
    sources: tuple[Opinion, ...]
    disputed: bool
    disabled: Disabled | None
    parked_at: datetime | None
    tolerated_until: datetime | None
    suppressors: tuple[int, ...]
    media: Mapping[date, int]


_SHOWN: Final = (
    select(
        entries.c.id,
        entries.c.type,
        entries.c.value,
        entries.c.note,
        banks.c.name,
        changes.c.at,
        entry_marks.c.disabled_at,
        entry_marks.c.disabled_by,
        entry_marks.c.disabled_why,
        entry_marks.c.parked_at,
        entry_marks.c.tolerated_until,
    )
    .join(banks, banks.c.id == entries.c.bank_id)
    .join(changes, changes.c.id == entries.c.change_id)
    .outerjoin(entry_marks, entry_marks.c.entry_id == entries.c.id)
    .where(entries.c.removed_generation.is_(None), changes.c.generation.is_not(None))
)


async def get(connection: AsyncConnection, entry_id: int, *, in_bank: str | None = None) -> BankEntry:
    """One entry.

    Raises:
        NotFoundError: there is no such entry in that bank, or in any.
    """
    rows = await _rows(connection, _SHOWN.where(entries.c.id == entry_id))
    if not rows or in_bank not in {None, rows[0].name}:
        raise NotFoundError("There is no such entry.")
    return (await _told(connection, rows))[0]


async def is_emptied(connection: AsyncConnection, name: str) -> bool:
    """Whether a bank counts and no entry of it is in force any more, so that gates refuse to decide.

    Raises:
        NotFoundError: there is no such bank.
    """
    in_force = (
        exists()
        .where(entries.c.bank_id == banks.c.id, entries.c.removed_generation.is_(None))
        .where(changes.c.id == entries.c.change_id, changes.c.generation.is_not(None))
        .where(~exists().where(_DISABLED, entry_marks.c.entry_id == entries.c.id))
    )
    bank = (
        await connection.execute(
            select(banks.c.action, banks.c.first_generation, in_force.label("in_force")).where(
                banks.c.name == name
            )
        )
    ).one_or_none()
    if bank is None:
        raise NotFoundError("There is no such bank.")
    counts = bank.first_generation is not None and bank.action != BankAction.SUPPRESS.value
    return counts and not bank.in_force


async def page(
    connection: AsyncConnection,
    name: str,
    *,
    state: EntryState | None = None,
    after: int = 0,
    limit: int = 100,
) -> tuple[BankEntry, ...]:
    """Entries of a bank by ascending id.

    Args:
        connection: to read with.
        name: of the bank.
        state: only those of which this holds.
        after: only those of a larger id, for the next page.
        limit: at most so many, and never more than ``MAX_LISTED``.

    Raises:
        NotFoundError: there is no such bank.
    """
    bank_id = await _bank_id(connection, name)
    limit = min(limit, MAX_LISTED)
    of_bank = _SHOWN.where(entries.c.bank_id == bank_id).order_by(entries.c.id).limit(limit)
    if state is not None:
        of_bank = of_bank.where(_MAY_BE[state])
    found: list[BankEntry] = []
    while len(found) < limit:
        rows = await _rows(connection, of_bank.where(entries.c.id > after))
        if not rows:
            break
        after = rows[-1].id
        told = await _told(connection, rows)
        found += [each for each in told if state is not EntryState.DISPUTED or each.disputed]
        if state is not EntryState.DISPUTED:
            break
    return tuple(found[:limit])


async def find(connection: AsyncConnection, name: str, signals: Sequence[NewSignal]) -> tuple[BankEntry, ...]:
    """The entries of a bank that are these very signals; what it does not hold is left out.

    Raises:
        NotFoundError: there is no such bank.
    """
    bank_id = await _bank_id(connection, name)
    rows: list[Row[*tuple[Any, ...]]] = []
    for begin in range(0, len(signals), _FOUND_AT_ONCE):
        wanted = [(each.type.value, each.value) for each in signals[begin : begin + _FOUND_AT_ONCE]]
        asked = _SHOWN.where(
            entries.c.bank_id == bank_id, tuple_(entries.c.type, entries.c.value).in_(wanted)
        )
        rows += await _rows(connection, asked.order_by(entries.c.id))
    return await _told(connection, rows)


async def doubted(connection: AsyncConnection, entry_ids: Collection[int]) -> frozenset[int]:
    """Which of some entries their sources disagree on, or a person took out of force."""
    doubts: set[int] = set()
    wanted = sorted(entry_ids)
    for begin in range(0, len(wanted), _FOUND_AT_ONCE):
        some = _SHOWN.where(entries.c.id.in_(wanted[begin : begin + _FOUND_AT_ONCE]))
        told = await _told(connection, await _rows(connection, some))
        doubts |= {each.id for each in told if each.disputed or each.disabled is not None}
    return frozenset(doubts)


# A first source speaks through the change that brought an entry; where a second one does, it has a row.
_MAY_BE: Final = {
    EntryState.DISABLED: entry_marks.c.disabled_at.is_not(None),
    EntryState.PARKED: entry_marks.c.parked_at.is_not(None),
    EntryState.DISPUTED: entries.c.id.in_(select(opinions.c.entry_id)),
}


async def _bank_id(connection: AsyncConnection, name: str) -> int:
    bank_id: int | None = await connection.scalar(select(banks.c.id).where(banks.c.name == name))
    if bank_id is None:
        raise NotFoundError("There is no such bank.")
    return bank_id


async def _rows(connection: AsyncConnection, wanted: Select[Any]) -> Sequence[Row[*tuple[Any, ...]]]:
    with readable():
        rows: Sequence[Row[*tuple[Any, ...]]] = (await connection.execute(wanted)).all()
    return rows


async def _told(connection: AsyncConnection, rows: Sequence[Row[*tuple[Any, ...]]]) -> tuple[BankEntry, ...]:
    """What is told of entries.

    Raises:
        UnreadableRowError: something of them is what no Cordon wrote.
    """
    with readable():
        return await _all_told(connection, rows)


async def _all_told(
    connection: AsyncConnection, rows: Sequence[Row[*tuple[Any, ...]]]
) -> tuple[BankEntry, ...]:
    ids = [row.id for row in rows]
    said = await bank_opinions.of_entries(connection, ids)
    pairs: dict[int, list[int]] = {}
    days: dict[int, dict[date, int]] = {}
    for begin in range(0, len(ids), _FOUND_AT_ONCE):
        some = ids[begin : begin + _FOUND_AT_ONCE]
        named = select(suppression_pairs).where(suppression_pairs.c.entry_id.in_(some))
        for pair in await connection.execute(named.order_by(suppression_pairs.c.suppressor_id)):
            pairs.setdefault(pair.entry_id, []).append(pair.suppressor_id)
        counted = select(entry_days).where(entry_days.c.entry_id.in_(some))
        for count in await connection.execute(counted.order_by(entry_days.c.day.desc())):
            of_entry = days.setdefault(count.entry_id, {})
            if len(of_entry) < _DAYS_TOLD:
                of_entry[count.day] = count.media
    return tuple(
        BankEntry(
            id=row.id,
            bank=row.name,
            type=SignalType(row.type),
            value=row.value,
            note=row.note,
            added_at=row.at,
            sources=said[row.id],
            disputed=bank_opinions.disputed(said[row.id]),
            disabled=Disabled(row.disabled_at, row.disabled_by, row.disabled_why)
            if row.disabled_at is not None
            else None,
            parked_at=row.parked_at,
            tolerated_until=row.tolerated_until,
            suppressors=tuple(pairs.get(row.id, ())),
            media=days.get(row.id, {}),
        )
        for row in rows
    )
