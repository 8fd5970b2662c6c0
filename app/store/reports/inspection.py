"""What is stored of reports, held against the audit log: an auditor's look, which changes nothing."""

import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, bindparam, exists, or_, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.roster import Roster
from app.errors import ConflictError, NotFoundError
from app.store.reports import decisions, endings, filings, removal_proofs, reports, sealed
from app.store.reports.recorded import recorded
from app.store.reports.report_states import ENDED, State
from app.store.rows import UnreadableRowError, as_it_stands, as_text, readable
from app.store.schema import audit as log
from app.store.schema import filings as filing_table
from app.store.schema import metadata, tombstones
from app.store.schema import reports as table

_EARLIER: Final = log.alias("earlier")
_IDS: Final = select(table.c.id).where(table.c.id.is_not(None))
_ULID: Final = re.compile("[0-9A-HJKMNP-TV-Z]{26}")
_WITH_RECEIPT: Final = (State.FILED, State.DRY_RUN)
_COMPARED_EVENTS: Final = (*sealed.RECORDING_EVENTS, *decisions.DECISION_EVENTS, *decisions.REMOVED_EVENTS)

_OTHERS_ON_SQLITE: Final = """
SELECT type || ' ' || name AS what FROM sqlite_schema
WHERE type = 'trigger' OR (type = 'view' AND name IN :tables) ORDER BY what
"""

# By their full names: who owns a schema can put others of the same name before them. What comes with the
# server, and what Cordon's own tables are made of, is in pg_catalog; what comes with an extension is known.
_OTHERS_ON_POSTGRESQL: Final = """
WITH ours AS (SELECT oid, relname, relkind, relrowsecurity FROM pg_catalog.pg_class WHERE relname IN :tables),
system AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema')),
extended AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'),
parts AS (
    SELECT 'pg_catalog.pg_constraint'::regclass AS classid, o.oid AS objid, ours.relname
    FROM pg_catalog.pg_constraint o JOIN ours ON o.conrelid = ours.oid
    UNION ALL SELECT 'pg_catalog.pg_attrdef'::regclass, o.oid, ours.relname
    FROM pg_catalog.pg_attrdef o JOIN ours ON o.adrelid = ours.oid
    UNION ALL SELECT 'pg_catalog.pg_class'::regclass, o.indexrelid, ours.relname
    FROM pg_catalog.pg_index o JOIN ours ON o.indrelid = ours.oid
)
SELECT 'trigger ' || t.tgname || ' of ' || ours.relname AS what
FROM pg_catalog.pg_trigger t JOIN ours ON ours.oid = t.tgrelid WHERE NOT t.tgisinternal
UNION SELECT 'rule ' || r.rulename || ' of ' || ours.relname
FROM pg_catalog.pg_rewrite r JOIN ours ON ours.oid = r.ev_class WHERE ours.relkind IN ('r', 'p')
UNION SELECT 'row security of ' || relname FROM ours WHERE relrowsecurity
UNION SELECT 'view ' || relname FROM ours WHERE relkind IN ('v', 'm', 'f')
UNION SELECT 'table ' || c.relname || ' within ' || p.relname
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
WHERE i.inhrelid IN (SELECT oid FROM ours) OR i.inhparent IN (SELECT oid FROM ours)
UNION SELECT 'table ' || c.relname || ' of schema ' || n.nspname || ', hidden by another'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid IN (SELECT oid FROM ours) AND n.nspname = ANY (pg_catalog.current_schemas(true))
AND NOT pg_catalog.pg_table_is_visible(c.oid)
UNION SELECT 'function ' || f.proname || ' at ' || parts.relname
FROM parts JOIN pg_catalog.pg_depend d ON d.classid = parts.classid AND d.objid = parts.objid
JOIN pg_catalog.pg_proc f ON d.refclassid = 'pg_catalog.pg_proc'::regclass AND f.oid = d.refobjid
UNION SELECT 'type ' || t.typname || ' at ' || ours.relname
FROM pg_catalog.pg_attribute a JOIN ours ON ours.oid = a.attrelid
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attnum > 0 AND t.typnamespace NOT IN (SELECT oid FROM system)
UNION SELECT 'operator ' || o.oprname || ' of types of the system'
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_type l ON l.oid = o.oprleft JOIN pg_catalog.pg_type r ON r.oid = o.oprright
WHERE o.oprnamespace NOT IN (SELECT oid FROM system) AND l.typnamespace IN (SELECT oid FROM system)
AND r.typnamespace IN (SELECT oid FROM system)
AND ('pg_catalog.pg_operator'::regclass, o.oid) NOT IN (SELECT classid, objid FROM extended)
UNION SELECT 'function ' || f.proname || ', called as one of the system'
FROM pg_catalog.pg_proc f WHERE f.pronamespace NOT IN (SELECT oid FROM system)
AND f.proname IN (SELECT proname FROM pg_catalog.pg_proc WHERE pronamespace IN (SELECT oid FROM system))
AND ('pg_catalog.pg_proc'::regclass, f.oid) NOT IN (SELECT classid, objid FROM extended)
ORDER BY what
"""


@dataclass(frozen=True)
class Discrepancy:
    """Where what is stored is not what the log says.

    Attributes:
        report_id: of the report.
        entry: number of the entry that says otherwise; None if no single one does.
        what: is wrong, in words.
    """

    report_id: str
    entry: int | None
    what: str

    def told(self) -> str:
        """It in one line."""
        where = f" (entry {self.entry})" if self.entry is not None else ""
        return f"report {self.report_id[: reports.ULID_LENGTH]}{where}: {self.what}"


_Found = tuple[Discrepancy, ...]
_Look = Callable[[AsyncConnection, str, Roster], Awaitable[_Found]]


@dataclass(frozen=True)
class Stored:
    """Which reports are stored.

    Attributes:
        ids: of all of them, oldest first.
        nameless: what stands in the place of an id, and is none.
        beyond: ids of those that entries from the log's first change on tell of: that such a report agrees
            with them proves nothing, that it differs is worth a look all the same.
    """

    ids: tuple[str, ...]
    nameless: tuple[str, ...]
    beyond: tuple[str, ...]


async def stored(connection: AsyncConnection, broken_at: int | None) -> Stored:
    """Which reports are stored.

    Args:
        connection: to read with.
        broken_at: number of the first entry that cannot be believed; None if the log is whole.
    """
    found = await _ids(connection, select(table.c.id))
    ids = tuple(each for each in found if _ULID.fullmatch(each))
    nameless = tuple(each[: reports.ULID_LENGTH] for each in found if not _ULID.fullmatch(each))
    if broken_at is None:
        return Stored(ids, nameless, ())
    told_of = exists().where(
        log.c.subject == table.c.id, log.c.event.in_(_COMPARED_EVENTS), log.c.seq >= broken_at
    )
    beyond = set(await _ids(connection, select(table.c.id).where(told_of)))
    return Stored(ids, nameless, tuple(each for each in ids if each in beyond))


async def at_large(
    connection: AsyncConnection, found: Stored, removed: removal_proofs.Examined
) -> tuple[Discrepancy, ...]:
    """What is wrong with the reports as a whole: one is gone, was put back, or has no id.

    And what is left of a removed one says otherwise than the log.

    Args:
        connection: to read with.
        found: which are stored.
        removed: what the entries of removals came to.
    """
    return (
        *(Discrepancy(each, None, "this is no id that a Cordon gave to a report") for each in found.nameless),
        *await missing(connection),
        *unproven(removed),
        *await put_back(connection),
        *await buried_alive(connection),
        *(
            Discrepancy(each.report_id, each.entry, each.what)
            for each in await removal_proofs.untrue_tombstones(connection)
        ),
        *await of_no_report(connection),
    )


async def of_others(connection: AsyncConnection) -> tuple[str, ...]:
    """What no Cordon makes, and by which the database changes what is written, or what it tells; in words.

    Triggers, rules, views and row security at Cordon's tables, and on PostgreSQL tables that inherit from
    these or hide them, and functions, types and operators that such a table, or a comparison, uses.
    """
    wanted = _OTHERS_ON_SQLITE if connection.dialect.name == "sqlite" else _OTHERS_ON_POSTGRESQL
    rows = await connection.execute(
        text(wanted).bindparams(bindparam("tables", expanding=True)), {"tables": sorted(metadata.tables)}
    )
    return tuple(rows.scalars())


async def missing(connection: AsyncConnection) -> tuple[Discrepancy, ...]:
    """Reports that the log says were sealed and never removed, and that are not there."""
    removed = exists().where(
        _EARLIER.c.subject == log.c.subject, _EARLIER.c.event.in_(decisions.REMOVED_EVENTS)
    )
    wanted = log.c.event == sealed.SEALED_EVENT, log.c.subject.not_in(_IDS), ~removed
    return await _told_by(connection, wanted, "it is gone, and no entry says that it was removed")


def unproven(removed: removal_proofs.Examined) -> tuple[Discrepancy, ...]:
    """Reports that the log says were removed, and nothing signed does."""
    return tuple(Discrepancy(each.report_id, each.entry, each.what) for each in removed.unproven)


async def put_back(connection: AsyncConnection) -> tuple[Discrepancy, ...]:
    """Reports that the log says were removed, and that are there."""
    wanted = log.c.event.in_(decisions.REMOVED_EVENTS), log.c.subject.in_(_IDS)
    return await _told_by(connection, wanted, "it was removed, and is there")


async def buried_alive(connection: AsyncConnection) -> tuple[Discrepancy, ...]:
    """Reports that are there, with a tombstone."""
    both = select(tombstones.c.id).where(tombstones.c.id.in_(_IDS))
    return tuple(
        Discrepancy(each, None, "a tombstone of it stands, and it is there")
        for each in await _ids(connection, both)
    )


async def of_no_report(connection: AsyncConnection) -> tuple[Discrepancy, ...]:
    """Rows of filings that are of no report: what one knew of its way to the authority may be missing."""
    alone = select(filing_table.c.report_id).where(
        or_(filing_table.c.report_id.is_(None), filing_table.c.report_id.not_in(_IDS))
    )
    return tuple(
        Discrepancy(each, None, "a row of the table filings is of it, and there is no such report")
        for each in await _ids(connection, alone)
    )


async def _told_by(
    connection: AsyncConnection, wanted: tuple[ColumnElement[bool], ...], what: str
) -> tuple[Discrepancy, ...]:
    """What such entries are about, where their numbers and subjects can be told."""
    subject = as_it_stands(connection, log.c.subject)
    rows = await connection.execute(select(log.c.seq, subject).where(*wanted).order_by(log.c.seq))
    return tuple(
        Discrepancy(as_text(named), seq if isinstance(seq, int) else None, what) for seq, named in rows
    )


async def of_report(connection: AsyncConnection, report_id: str, roster: Roster) -> tuple[Discrepancy, ...]:
    """What is wrong with a report: its sealed files, the decisions, its row; nothing of one that is gone."""
    found: list[Discrepancy] = []
    try:
        for look in (_of_files, _of_decisions, _of_filing, _of_rows):
            found += await _told(look, connection, report_id, roster)
        # Where these are not as recorded, nothing proves how it ended either: that says it once.
        found += await _told(partial(_standing, proves=not found), connection, report_id, roster)
    except NotFoundError:
        return ()
    return tuple(dict.fromkeys(found))


async def _told(look: _Look, connection: AsyncConnection, report_id: str, roster: Roster) -> _Found:
    """What a look finds, or that it comes to no end, for what no Cordon wrote."""
    try:
        with readable():
            return await look(connection, report_id, roster)
    except ConflictError as error:
        return (Discrepancy(report_id, None, str(error)),)


async def _of_files(connection: AsyncConnection, report_id: str, roster: Roster) -> _Found:
    differ = await sealed.differences(connection, report_id, roster)
    return tuple(Discrepancy(report_id, each.entry, each.what) for each in differ)


async def _of_decisions(connection: AsyncConnection, report_id: str, roster: Roster) -> _Found:
    signed = await decisions.every(connection, report_id, roster)
    listed = await decisions.listed(connection, report_id)
    said = Counter((each.decision.action.value, each.decision.custodian) for each in signed)
    if said != Counter((action, custodian) for _, action, custodian in listed):
        return (Discrepancy(report_id, None, "beside a decision stands another action or signer than in it"),)
    return ()


async def _of_filing(connection: AsyncConnection, report_id: str, roster: Roster) -> _Found:
    """Whether its way to the authority can be read, with an id that was signed and the recorded receipt."""
    try:
        with readable():
            filing = await filings.get(connection, report_id)
            receipt = await filings.receipt_as_recorded(connection, report_id)
    except UnreadableRowError:
        return (Discrepancy(report_id, None, "its row of the table filings holds what no Cordon wrote"),)
    found = []
    if filing is not None and filing.authority_report_id is not None:
        at_authority = filing.environment, filing.authority_report_id
        if at_authority not in await endings.named(connection, report_id, roster):
            found.append("the authority's id beside it, or where that is, is none that a worker signed")
    state = (await reports.get(connection, report_id)).state
    # What went to the double may be filed for real since, and its receipt was given up for that.
    if (
        receipt is None
        and state in _WITH_RECEIPT
        and await filings.receipts_recorded(connection, report_id, f"report.{state}")
    ):
        found.append("the authority's receipt is gone")
    return tuple(Discrepancy(report_id, None, what) for what in found)


async def _of_rows(connection: AsyncConnection, report_id: str, roster: Roster) -> _Found:
    """Whether its rows can be read, and tell the digests of the very files that were recorded."""
    report = await reports.get(connection, report_id)
    later = await reports.list_sightings(connection, report_id)
    told = {report_id: report.sealed_sha256} | {each.id: each.sealed_sha256 for each in later}
    stands = sealed.digests(await sealed.files(connection, report_id))
    differs = await sealed.differences(connection, report_id, roster)
    if told != stands and not differs:
        return (Discrepancy(report_id, None, "the digest beside a sealed file is not that file's"),)
    sealed_to = {report_id: report.custodians} | {each.id: each.custodians for each in later}
    recorded_to = await sealed.recipients(connection, report_id)
    if not differs and any(
        recorded_to.get(name) not in (None, list(custodians)) for name, custodians in sealed_to.items()
    ):
        return (
            Discrepancy(report_id, None, "it says of a sealed file that others open it than were recorded"),
        )
    return ()


async def _standing(connection: AsyncConnection, report_id: str, roster: Roster, *, proves: bool) -> _Found:
    """What is wrong with the row of a report, and if asked, with what proves how it ended."""
    report, logged = await reports.get(connection, report_id), await recorded(connection, report_id)
    contradiction = logged.contradicts(report)
    if contradiction is not None and await reports.get(connection, report_id) != report:
        # A gate or a filer was between the two looks: as it stands now.
        return await _standing(connection, report_id, roster, proves=proves)
    if contradiction is not None:
        return (Discrepancy(report_id, logged.entry, contradiction),)
    if not proves:
        return ()
    try:
        if not report.on_hold:
            decisions.check_not_held(await decisions.every(connection, report_id, roster))
        if report.state in ENDED:
            await endings.check(connection, report_id, report.state, roster)
    except ConflictError as error:
        return (Discrepancy(report_id, logged.entry, str(error)),)
    return ()


async def _ids(connection: AsyncConnection, wanted: Select[Any]) -> tuple[str, ...]:
    """Ids in order, also such as are no text."""
    (column,) = wanted.selected_columns
    wanted = wanted.with_only_columns(as_it_stands(connection, column))
    rows = await connection.execute(wanted.order_by(column))
    return tuple(as_text(each) for each in rows.scalars())
