"""What sources say of entries: one entry, an opinion of each source that gave it.

Where an import says the same of all that it brings, that stands once, with the change. Only what differs has
a row of its own: what a line says of its signal, and what a later import says of an entry that was there. A
source's newest word is its opinion, until it takes it back. What an import that is not finished says is read
by nobody.

What was given without a source has a word too, of ``NOBODY``: somebody here put it there, and no source can
take that back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import delete, exists, func, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import NewSignal, Origin
from app.store.database import Database, spans
from app.store.schema import changes, entries, opinions, sources

NOBODY: Final = 0
"""In the place of a source's id, which begin at 1."""

_OPINIONS_AT_ONCE: Final = 20_000
_ENTRIES_AT_ONCE: Final = 500

# Whether what a change says of all it brings is said of an entry: where a line of a list without a source
# named one, that was its only word.
_SAYS_IT: Final = """(changes.source_id IS NOT NULL OR NOT EXISTS (
    SELECT 1 FROM opinions AS of_line WHERE of_line.entry_id = entries.id AND of_line.change_id = changes.id
))"""

# {given} has one row for each signal and source. A row is written if the source's newest word is another.
_RECORD: Final = """
INSERT INTO opinions (entry_id, source_id, change_id, reference, classification, restrictions, listed_at)
SELECT entries.id, given.source_id, {change}, given.reference, given.classification, given.restrictions,
    given.listed_at
FROM {given} JOIN entries ON entries.bank_id = {bank} AND entries.type = given.type
    AND entries.value = given.value AND entries.removed_generation IS NULL
WHERE NOT EXISTS (
    SELECT 1 FROM (
        SELECT opinions.change_id, opinions.reference, opinions.classification, opinions.restrictions,
            opinions.listed_at, opinions.withdrawn
        FROM opinions JOIN changes ON changes.id = opinions.change_id
        WHERE opinions.entry_id = entries.id AND opinions.source_id = given.source_id
            AND changes.generation IS NOT NULL
        UNION ALL
        SELECT changes.id, NULL, changes.classification, changes.restrictions, NULL, false
        FROM changes
        WHERE changes.id = entries.change_id AND changes.source_id = given.source_id
        ORDER BY 1 DESC LIMIT 1
    ) AS newest
    WHERE newest.reference IS NOT DISTINCT FROM given.reference
        AND newest.classification IS NOT DISTINCT FROM given.classification
        AND newest.restrictions IS NOT DISTINCT FROM given.restrictions
        AND newest.listed_at IS NOT DISTINCT FROM given.listed_at
        AND NOT newest.withdrawn
)
ON CONFLICT (entry_id, source_id, change_id) DO UPDATE SET
    reference = excluded.reference, classification = excluded.classification,
    restrictions = excluded.restrictions, listed_at = excluded.listed_at
"""
_RECORD_POSTGRESQL: Final = _RECORD.format(
    change="$1::bigint",
    bank="$2",
    given="unnest($3::int[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::text[], $9::text[]) "
    "AS given (source_id, type, value, reference, classification, restrictions, listed_at)",
)
_RECORD_SQLITE: Final = _RECORD.format(
    change=":change",
    bank=":bank",
    given="(SELECT :source_id AS source_id, :type AS type, :value AS value, :reference AS reference, "
    ":classification AS classification, :restrictions AS restrictions, :listed_at AS listed_at) AS given",
)

# For what was given without a source, where its own change does not say that already.
_GIVEN_BY_NOBODY: Final = """
INSERT INTO opinions (entry_id, source_id, change_id)
SELECT entries.id, {nobody}, {change}
FROM {given} JOIN entries ON entries.bank_id = {bank} AND entries.type = given.type
    AND entries.value = given.value AND entries.removed_generation IS NULL
JOIN changes ON changes.id = entries.change_id
WHERE NOT (changes.source_id IS NULL AND {says_it}) AND NOT EXISTS (
    SELECT 1 FROM opinions AS said JOIN changes AS saying ON saying.id = said.change_id
    WHERE said.entry_id = entries.id AND said.source_id = {nobody} AND saying.generation IS NOT NULL
)
ON CONFLICT (entry_id, source_id, change_id) DO NOTHING
"""
_GIVEN_BY_NOBODY_POSTGRESQL: Final = _GIVEN_BY_NOBODY.format(
    nobody=NOBODY,
    says_it=_SAYS_IT,
    change="$1::bigint",
    bank="$2",
    given="unnest($3::text[], $4::bytea[]) AS given (type, value)",
)
_GIVEN_BY_NOBODY_SQLITE: Final = _GIVEN_BY_NOBODY.format(
    nobody=NOBODY,
    says_it=_SAYS_IT,
    change="given.change",
    bank="given.bank",
    given="(SELECT ? AS change, ? AS bank, ? AS type, ? AS value) AS given",
)

# What an import that is not finished says stands too, and keeps the entry: else a withdrawal by one source
# would take away what another is bringing.
_STANDS: Final = """
SELECT 1 FROM (
    SELECT opinions.source_id, opinions.change_id, opinions.withdrawn
    FROM opinions JOIN changes ON changes.id = opinions.change_id WHERE opinions.entry_id = entries.id
    UNION ALL
    SELECT COALESCE(changes.source_id, {nobody}), changes.id, false
    FROM changes WHERE changes.id = entries.change_id AND {says_it}
) AS said
WHERE NOT said.withdrawn {of} AND NOT EXISTS (
    SELECT 1 FROM opinions AS later WHERE later.entry_id = entries.id AND later.withdrawn
        AND later.source_id = said.source_id AND later.change_id > said.change_id
)
"""
_WITHDRAW: Final = """
INSERT INTO opinions (entry_id, source_id, change_id, withdrawn)
SELECT entries.id, given.source_id, {change}, true
FROM {given} JOIN entries ON entries.bank_id = {bank} AND entries.type = given.type
    AND entries.value = given.value AND entries.removed_generation IS NULL
JOIN changes ON changes.id = entries.change_id AND changes.generation IS NOT NULL
WHERE EXISTS ({stands})
"""
_WITHDRAW_POSTGRESQL: Final = _WITHDRAW.format(
    change="$1::bigint",
    bank="$2",
    given="unnest($3::int[], $4::text[], $5::bytea[]) AS given (source_id, type, value)",
    stands=_STANDS.format(nobody=NOBODY, says_it=_SAYS_IT, of="AND said.source_id = given.source_id"),
)
_WITHDRAW_SQLITE: Final = _WITHDRAW.format(
    change=":change",
    bank=":bank",
    given="(SELECT :source_id AS source_id, :type AS type, :value AS value) AS given",
    stands=_STANDS.format(nobody=NOBODY, says_it=_SAYS_IT, of="AND said.source_id = given.source_id"),
)
_DESERTED: Final = """
UPDATE entries SET removed_generation = :generation
WHERE id IN (SELECT entry_id FROM opinions WHERE change_id = :change) AND NOT EXISTS ({stands})
"""
_REMOVE_DESERTED: Final = _DESERTED.format(stands=_STANDS.format(nobody=NOBODY, says_it=_SAYS_IT, of=""))

# For entries that a change takes over from an import which is not finished.
_KEEP: Final = """
INSERT INTO opinions (entry_id, source_id, change_id, classification, restrictions)
SELECT entries.id, COALESCE(changes.source_id, {nobody}), changes.id, changes.classification,
    changes.restrictions
FROM {given} JOIN entries ON entries.bank_id = {bank} AND entries.type = given.type
    AND entries.value = given.value AND entries.removed_generation IS NULL
JOIN changes ON changes.id = entries.change_id AND changes.generation IS NULL
WHERE {says_it}
ON CONFLICT (entry_id, source_id, change_id) DO NOTHING
"""
_KEEP_POSTGRESQL: Final = _KEEP.format(
    nobody=NOBODY, says_it=_SAYS_IT, bank="$1", given="unnest($2::text[], $3::bytea[]) AS given (type, value)"
)
_KEEP_SQLITE: Final = _KEEP.format(
    nobody=NOBODY, says_it=_SAYS_IT, bank=":bank", given="(SELECT :type AS type, :value AS value) AS given"
)


@dataclass(frozen=True)
class Opinion:
    """What a source says of an entry.

    Attributes:
        reference: its id there.
        classification: in the source's own terms.
        listed_at: when the source listed it, as an RFC 3339 date or moment.
        imported_at: when it was told here.
    """

    source: str
    reference: str | None
    classification: str | None
    restrictions: str | None
    listed_at: str | None
    imported_at: datetime


class _Given(NamedTuple):
    source_id: int
    type: str
    value: bytes
    reference: str | None
    classification: str | None
    restrictions: str | None
    listed_at: str | None


async def terms(connection: AsyncConnection, origin: Origin | None) -> dict[str, Any]:
    """What a change says of all that it brings, as its row has it."""
    if origin is None or origin.source is None:
        return {}
    return {
        "source_id": (await _source_ids(connection, {origin.source}))[origin.source],
        "classification": origin.classification,
        "restrictions": origin.restrictions,
    }


async def record(
    connection: AsyncConnection,
    bank_id: int,
    change_id: int,
    signals: Sequence[NewSignal],
    origin: Origin | None,
    *,
    all_new: bool,
) -> None:
    """Write down what is said of signals that a bank holds now, where it is not as their change says.

    Args:
        connection: within ``Database.begin``.
        bank_id: of the bank.
        change_id: the import that says it.
        signals: all of them, whether they were new or not.
        origin: what the import says of all.
        all_new: whether the change brought all of them, so that its own word stands for those without one.
    """
    everything = origin is not None and origin.source is not None and not all_new
    telling = signals if everything else [signal for signal in signals if signal.origin is not None]
    ids = await _source_ids(connection, {name for each in telling if (name := source_of(each, origin))})
    # The last word of a list on a signal stands, for each source.
    given = {(row.type, row.value, row.source_id): row for row in _given(telling, origin, ids)}
    rows = list(given.values())
    for begin in range(0, len(rows), _OPINIONS_AT_ONCE):
        some = rows[begin : begin + _OPINIONS_AT_ONCE]
        if connection.dialect.name == "postgresql":
            columns = [list(column) for column in zip(*some, strict=True)]
            await connection.exec_driver_sql(_RECORD_POSTGRESQL, (change_id, bank_id, *columns))
        else:
            await connection.exec_driver_sql(
                _RECORD_SQLITE, [{"change": change_id, "bank": bank_id, **row._asdict()} for row in some]
            )
    # Last: whether the change says it for them hangs on what its lines say for sources.
    if not all_new and not everything:
        by_nobody = [signal for signal in signals if signal.origin is None]
        await _record_nobodys(connection, bank_id, change_id, by_nobody)


async def keep_of_unfinished(connection: AsyncConnection, bank_id: int, signals: Sequence[NewSignal]) -> None:
    """Write down what imports that are not finished say of signals whose entries another change takes over.

    Comes before that: with its entries, an import would lose its word on them.
    """
    unfinished = select(changes.c.id).where(changes.c.bank_id == bank_id, changes.c.generation.is_(None))
    # Until the commit, none brings in more.
    if not (await connection.execute(unfinished.with_for_update())).all():
        return
    for begin in range(0, len(signals), _OPINIONS_AT_ONCE):
        some = sorted({(each.type.value, each.value) for each in signals[begin : begin + _OPINIONS_AT_ONCE]})
        if connection.dialect.name == "postgresql":
            columns = [list(column) for column in zip(*some, strict=True)]
            await connection.exec_driver_sql(_KEEP_POSTGRESQL, (bank_id, *columns))
        else:
            await connection.exec_driver_sql(
                _KEEP_SQLITE, [{"bank": bank_id, "type": of, "value": value} for of, value in some]
            )


async def withdraw(
    connection: AsyncConnection,
    bank_id: int,
    change_id: int,
    signals: Sequence[NewSignal],
    origin: Origin | None,
) -> int:
    """Take back what sources say of signals; tells of how many entries something was taken back.

    Args:
        connection: within ``Database.begin``.
        bank_id: of the bank.
        change_id: the withdrawal.
        signals: each names its source, or ``origin`` does for all.
        origin: what is said of all.
    """
    ids = await _source_ids(connection, {name for each in signals if (name := source_of(each, origin))})
    given = {(row.source_id, row.type, row.value) for row in _given(signals, origin, ids)}
    rows = sorted(given)
    for begin in range(0, len(rows), _OPINIONS_AT_ONCE):
        some = rows[begin : begin + _OPINIONS_AT_ONCE]
        if connection.dialect.name == "postgresql":
            columns = [list(column) for column in zip(*some, strict=True)]
            await connection.exec_driver_sql(_WITHDRAW_POSTGRESQL, (change_id, bank_id, *columns))
        else:
            await connection.exec_driver_sql(
                _WITHDRAW_SQLITE,
                [
                    {"change": change_id, "bank": bank_id, "source_id": source_id, "type": of, "value": value}
                    for source_id, of, value in some
                ],
            )
    taken_back = select(func.count(opinions.c.entry_id.distinct())).where(opinions.c.change_id == change_id)
    return int((await connection.execute(taken_back)).scalar_one())


async def remove_deserted(connection: AsyncConnection, change_id: int, generation: int) -> int:
    """Remove the entries of a withdrawal that no source stands by any more; tells how many.

    One that came without a source stays: somebody here put it there.
    """
    removed = await connection.execute(
        text(_REMOVE_DESERTED), {"generation": generation, "change": change_id}
    )
    return removed.rowcount


def source_of(signal: NewSignal, origin: Origin | None) -> str | None:
    """Who gives a signal: who its line names, or who gives all of them."""
    return _merged(signal, origin).source


async def of_entries(
    connection: AsyncConnection, entry_ids: Sequence[int]
) -> Mapping[int, tuple[Opinion, ...]]:
    """The opinions on some entries, by id; of each source its newest word, by name."""
    newest: dict[int, dict[str, Opinion]] = {entry_id: {} for entry_id in entry_ids}
    for begin in range(0, len(entry_ids), _ENTRIES_AT_ONCE):
        ids = entry_ids[begin : begin + _ENTRIES_AT_ONCE]
        with_the_change = (
            select(
                entries.c.id, sources.c.name, changes.c.classification, changes.c.restrictions, changes.c.at
            )
            .join(changes, changes.c.id == entries.c.change_id)
            .join(sources, sources.c.id == changes.c.source_id)
            .where(entries.c.id.in_(ids), changes.c.generation.is_not(None))
        )
        for row in await connection.execute(with_the_change):
            newest[row.id][row.name] = Opinion(
                row.name, None, row.classification, row.restrictions, None, row.at
            )
        on_its_own = (
            select(opinions, sources.c.name, changes.c.at)
            .join(changes, changes.c.id == opinions.c.change_id)
            .join(sources, sources.c.id == opinions.c.source_id)
            .where(opinions.c.entry_id.in_(ids), changes.c.generation.is_not(None))
            .order_by(opinions.c.change_id)
        )
        for row in await connection.execute(on_its_own):
            if row.withdrawn:
                newest[row.entry_id].pop(row.name, None)
                continue
            newest[row.entry_id][row.name] = Opinion(
                row.name, row.reference, row.classification, row.restrictions, row.listed_at, row.at
            )
    return {
        entry_id: tuple(by_source[name] for name in sorted(by_source))
        for entry_id, by_source in newest.items()
    }


def disputed(of_one: Sequence[Opinion]) -> bool:
    """Whether sources disagree on what an entry is; one that does not say agrees with all."""
    said = {opinion.classification.casefold() for opinion in of_one if opinion.classification is not None}
    return len(said) > 1


async def sweep(database: Database) -> None:
    """Delete what was said of entries that are gone, or by imports that were given up."""
    leftover = ~exists().where(entries.c.id == opinions.c.entry_id) | ~exists().where(
        changes.c.id == opinions.c.change_id
    )
    async for first, last in spans(database, opinions.c.entry_id, _OPINIONS_AT_ONCE):
        some = opinions.c.entry_id.between(first, last) & leftover
        async with database.connect() as connection:
            if not (await connection.execute(select(exists().where(some)))).scalar_one():
                continue
        async with database.begin() as connection:
            await connection.execute(delete(opinions).where(some))
        await database.give_way()


async def _record_nobodys(
    connection: AsyncConnection, bank_id: int, change_id: int, signals: Sequence[NewSignal]
) -> None:
    # Where no source ever gave anything, none can take anything back, and all is as its change says.
    if await connection.scalar(select(sources.c.id).limit(1)) is None:
        return
    for begin in range(0, len(signals), _OPINIONS_AT_ONCE):
        some = [(each.type.value, each.value) for each in signals[begin : begin + _OPINIONS_AT_ONCE]]
        if connection.dialect.name == "postgresql":
            columns = [list(column) for column in zip(*some, strict=True)]
            await connection.exec_driver_sql(_GIVEN_BY_NOBODY_POSTGRESQL, (change_id, bank_id, *columns))
        else:
            await connection.exec_driver_sql(
                _GIVEN_BY_NOBODY_SQLITE, [(change_id, bank_id, *each) for each in some]
            )


def _merged(signal: NewSignal, origin: Origin | None) -> Origin:
    """What is said of a signal: what its line says, and for the rest what is said of all."""
    own, common = signal.origin or Origin(), origin or Origin()
    return Origin(*(mine if mine is not None else theirs for mine, theirs in zip(own, common, strict=True)))


def _given(
    signals: Sequence[NewSignal], origin: Origin | None, source_ids: Mapping[str, int]
) -> Iterator[_Given]:
    for signal in signals:
        merged = _merged(signal, origin)
        if merged.source is not None:
            source_id = source_ids[merged.source]
            yield _Given(source_id, signal.type.value, signal.value, *merged[1:])


async def _source_ids(connection: AsyncConnection, names: set[str]) -> dict[str, int]:
    """The ids of sources by name; those that are new get one."""
    if not names:
        return {}
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    ordered = sorted(names)
    await connection.execute(
        dialect.insert(sources).on_conflict_do_nothing(), [{"name": name} for name in ordered]
    )
    known: dict[str, int] = {}
    for begin in range(0, len(ordered), _ENTRIES_AT_ONCE):
        some = ordered[begin : begin + _ENTRIES_AT_ONCE]
        rows = await connection.execute(select(sources.c.name, sources.c.id).where(sources.c.name.in_(some)))
        known |= {row.name: row.id for row in rows}
    return known
