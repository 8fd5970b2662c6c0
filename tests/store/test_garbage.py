"""An auditor's look at a database in which somebody wrote garbage: it is named, and nothing falls over.

Here the tables hold no constraint any more, as whoever owns the database can have it: each column of what an
auditor reads takes each kind of garbage in turn, which is rolled back afterwards.
"""

import contextlib
import hashlib
import itertools
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody import ending
from app.custody.decision import Action
from app.custody.ending import Ending
from app.custody.identity import Identity, fingerprint
from app.custody.roster import Roster, RosterFile
from app.errors import ConflictError, NotFoundError
from app.filing.cybertip.environment import Environment
from app.filing.cybertip_double.application import Fault, Planned
from app.filing.filer import Filer
from app.filing.turn import LONGEST_PAUSE, Outcome, file_next
from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.banks import bank_history
from app.store.database import Database
from app.store.record import audit, checkpoints
from app.store.record.audit import Head
from app.store.reports import (
    accepting,
    decisions,
    endings,
    filing_log,
    filings,
    inspection,
    removal_proofs,
    reports,
    resealing,
)
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from app.store.rows import readable
from app.store.schema import metadata
from tests.deciding import deciding, seen
from tests.ended import pin_worker
from tests.filing.office import open_office
from tests.pins import add_custodian, pins_of
from tests.stubs import stub

TABLES: Final = ("audit", "reports", "sightings", "decisions", "audit_checkpoints", "filings")

DEEP: Final = "'" + "[" * 20_000 + "'"
NUMERAL: Final = '\'{"sealed_sha256": ' + "9" * 6000 + "}'"
OTHERWISE: Final = (
    '\'{"decision_sha256": ["x"], "sighting": {"a": 1}, "sealed_sha256": null}\'',
    '\'{"decision_sha256": "\\u0000", "sighting": "\\ud800", "sealed_sha256": "\\u0000"}\'',
    "'[]'",
    "''",
    DEEP,
    NUMERAL,
    "'2026-02-31 00:00:00'",
)
NUMBERS: Final = ("-1", "9223372036854775807")
ANYTHING: Final = (
    *("NULL", "1.5", "x'fffe'", "CAST(x'fffe' AS TEXT)", "1e400", "'9999-12-31 23:59:59.999999'"),
    *NUMBERS,
    *OTHERWISE,
)
"""What SQLite keeps in any column."""

OF_TYPE: Final = {
    "text": (*OTHERWISE, "NULL", "repeat('x', 100000)"),
    "bytea": ("NULL", "''", "'\\xfffe'", "convert_to(repeat('x', 100000), 'UTF8')"),
    "timestamp with time zone": (
        *("NULL", "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-01-01'"),
        *("'0001-01-01 00:00:00+00'", "'9999-12-31 23:59:59+00'"),
    ),
    "json": ("NULL", "'5'", "'null'", "'{\"a\": 1}'", "'[[], 1]'"),
    "bigint": ("NULL", *NUMBERS),
    "integer": ("NULL", "-1", "2147483647"),
    "double precision": ("NULL", "'NaN'", "'-Infinity'", "1e300", "-1"),
    "date": ("NULL", "'infinity'", "'4713-01-01 BC'", "'294276-01-01'", "'9999-12-31'"),
    "boolean": ("NULL",),
}

UNIQUE: Final = (
    "CREATE UNIQUE INDEX free_report ON reports (id)",
    "CREATE UNIQUE INDEX free_filing ON filings (report_id)",
    "CREATE UNIQUE INDEX free_alarm ON alarms (kind, subject) WHERE cleared_at IS NULL",
)
"""What points to the one, and what is written to the others, wants that."""

NAMED: Final = {
    "audit": ("seq", "at", "event", "subject", "details", "previous", "digest"),
    "reports": ("id", "sealed", "sealed_sha256"),
    "sightings": ("id", "report_id", "sealed", "sealed_sha256"),
    "decisions": ("id", "report_id", "document"),
    "audit_checkpoints": ("document",),
    "filings": ("report_id", "step"),
}
"""Where no garbage at all goes without a word. Elsewhere that is so of what cannot be read."""


_NOW: Final = datetime.now(UTC)
BEGUN: Final = {
    "environment": "test",
    "step": "finishing",
    "authority_report_id": "4711",
    "request_id": "a-request",
    "opened_at": _NOW,
    "finish_attempted_at": _NOW,
    "last_code": 0,
    "attempts": 1,
    "first_attempt_at": _NOW,
    "next_attempt_at": _NOW,
    "lease": b"a token",
    "leased_until": _NOW,
    "receipt": b"a receipt",
}
"""A filing that holds something in each column."""


UNREADABLE: Final = AlarmKind.ROW_UNREADABLE


@dataclass(frozen=True)
class Archive:
    """Reports that were seen twice, sealed anew, decided on and begun to be filed, and a checkpoint."""

    database: Database
    pins: RosterFile
    ada: Identity
    report_id: str

    @property
    def roster(self) -> Roster:
        """The pinned."""
        return self.pins.read()


@pytest.fixture
async def archive(database: Database, store: StoreSettings) -> Archive:
    pins = pins_of(store)
    ada = await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    report_id = (await outbox.commit(stub("a"))).id
    await outbox.commit(stub("a"))
    await outbox.commit(stub("b"))
    await add_custodian(database, pins, "grace")
    await resealing.reseal(database, report_id, ada, pins.read(), by="cli")
    signed = deciding(Action.ANNOTATE, report_id, await seen(database, report_id, pins.read()), ada)
    async with database.begin() as connection:
        await accepting.take(
            connection, signed, pins.read(), report_id=report_id, actions=(Action.ANNOTATE,), by="cli"
        )
    worker = pin_worker(pins)
    said = Ending(report_id, "submitted", "test", "4711", _NOW, fingerprint(worker.public_key))
    receipt = {"receipt_sha256": hashlib.sha256(b"a receipt").hexdigest()}
    async with database.begin() as connection:
        await connection.execute(insert(metadata.tables["filings"]).values(**BEGUN, report_id=report_id))
        given = {endings.MEMBER: ending.sign(said, worker)}
        await audit.append(connection, filing_log.GIVEN_ID_EVENT, report_id, given)
        await audit.append(connection, filing_log.FILED_TOO_EVENT, report_id, receipt)
    await checkpoints.take(database, ada, pins.read())
    await free_of_constraints(database)
    return Archive(database, pins, ada, report_id)


async def free_of_constraints(database: Database, *more: str) -> None:
    """The tables of an auditor, and more, as whoever owns them can make them."""
    tables = (*TABLES, *more)
    unique = [index for index in UNIQUE if index.split(" ON ")[1].split()[0] in tables]
    if database.file is not None:
        await database.close()
        with contextlib.closing(sqlite3.connect(database.file, isolation_level=None)) as connection:
            for name in tables:
                connection.execute(f"CREATE TABLE free AS SELECT * FROM {name}")  # noqa: S608 - one of those above
                connection.execute(f"DROP TABLE {name}")
                connection.execute(f"ALTER TABLE free RENAME TO {name}")
            for index in unique:
                connection.execute(index)
        return
    async with database.begin() as connection:
        for name in tables:
            await connection.execute(text(f"CREATE TABLE free AS SELECT * FROM {name}"))  # noqa: S608
            await connection.execute(text(f"DROP TABLE {name} CASCADE"))
            await connection.execute(text(f"ALTER TABLE free RENAME TO {name}"))
        for index in unique:
            await connection.execute(text(index))


async def kinds(connection: AsyncConnection, table: str) -> dict[str, tuple[str, ...]]:
    """The garbage that each column of a table takes."""
    if connection.dialect.name == "sqlite":
        return {column.name: ANYTHING for column in metadata.tables[table].columns}
    found = await connection.execute(
        text("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = :name"),
        {"name": table},
    )
    return {row.column_name: OF_TYPE[row.data_type] for row in found}


async def look(connection: AsyncConnection, roster: Roster) -> list[str]:
    """All that an auditor finds, as ``cordon audit verify`` does."""
    known, bad = await checkpoints.stored(connection, roster)
    examined = await audit.examine(connection, [Head(each.seq, each.digest) for each in known])
    finding = examined.finding
    found = ["bad checkpoint"] * bad + ([checkpoints.told(finding)] if finding is not None else [])
    broken_at = finding.first if finding is not None else None
    stored = await inspection.stored(connection, broken_at)
    removed = await removal_proofs.examine(connection, roster)
    found += [each.told() for each in await inspection.at_large(connection, stored, removed)]
    for report_id in stored.ids:
        found += [each.told() for each in await inspection.of_report(connection, report_id, roster)]
    return found


async def use(connection: AsyncConnection, archive: Archive) -> None:
    """All else that reads these rows: it answers, or says what it cannot."""
    report_id, roster = archive.report_id, archive.roster
    for read in (
        partial(reports.list_reports),
        partial(reports.get, report_id=report_id),
        partial(reports.list_sightings, report_id=report_id),
        partial(decisions.listed, report_id=report_id),
        partial(decisions.approval, report_id=report_id, roster=roster, dual_control=False),
        partial(filing_log.steps, report_id=report_id),
        partial(filing_log.attempted, report_id=report_id),
        partial(filings.get, report_id=report_id),
        partial(filings.receipt_as_recorded, report_id=report_id),
        partial(bank_history.history, name=report_id),
        partial(audit.digests_of, subject=report_id),
    ):
        try:
            with readable():
                await read(connection)
        except (ConflictError, NotFoundError):
            pass


@contextlib.asynccontextmanager
async def garbage(database: Database, table: str, column: str, value: str, where: str) -> AsyncIterator[Any]:
    """Garbage in a row, for as long as the block goes on."""

    class UndoneError(Exception):
        pass

    with contextlib.suppress(UndoneError):
        async with database.begin() as connection:
            changing = f"UPDATE {table} SET {column} = {value} {where}"  # noqa: S608 - garbage of ours
            await connection.execute(text(changing.replace(":", "\\:")))
            yield connection
            raise UndoneError


@pytest.mark.parametrize("table", TABLES)
async def test_garbage_in_any_column_is_named_and_fells_nobody(archive: Archive, table: str) -> None:
    """In the log: in an entry in the middle, and in the last."""
    async with archive.database.connect() as connection:
        assert await look(connection, archive.roster) == []
        columns = await kinds(connection, table)
        newest = (await connection.execute(text("SELECT max(seq) FROM audit"))).scalar_one()
    wheres = {
        "audit": [f"WHERE seq = {seq}" for seq in (4, newest)],
        "reports": [f"WHERE id = '{archive.report_id}'"],
    }.get(table, [""])
    for number, (column, every) in enumerate(columns.items()):
        # Where it may go without a word, each kind of garbage meets some of the columns.
        values = every if column in NAMED[table] else every[number % 3 :: 3]
        for value, where in zip(values, itertools.cycle(wheres), strict=False):
            async with garbage(archive.database, table, column, value, where) as connection:
                found = await look(connection, archive.roster)
                what = f"{table}.{column} = {value[:60]} {where}"
                assert found or column not in NAMED[table], what
                assert all(len(each) < 1000 for each in found), what
                await use(connection, archive)


class Undone(Database):
    """A database whose transactions are parts of one that is rolled back."""

    def __init__(self, database: Database, connection: AsyncConnection) -> None:
        super().__init__(database.engine, database.file)
        self._connection = connection

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        async with self.begin() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._connection.begin_nested():
            yield self._connection


@pytest.mark.parametrize("table", ["filings", "reports", "sightings", "decisions"])
async def test_garbage_in_a_row_of_one_report_keeps_no_other_from_being_filed(
    database: Database, store: StoreSettings, table: str
) -> None:
    """What cannot be filed for it is passed over, under an alarm that names it, and named by an auditor."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        spoiled, good = await office.approved("a"), await office.queued("b")
        office.double.plan.append(Planned("finish", Fault.UNANSWERED))
        assert await file_next(office.desk) is Outcome.POSTPONED
        await office.approve(good)
        await free_of_constraints(database)
        office.clock.ahead += LONGEST_PAUSE
        async with database.connect() as connection:
            columns = await kinds(connection, table)
        where = f"WHERE {'id' if table == 'reports' else 'report_id'} = '{spoiled}'"
        for number, (column, every) in enumerate(columns.items()):
            step = 2 if table == "filings" else 4
            for value in every[number % step :: step]:
                async with garbage(database, table, column, value, where) as connection:
                    what = f"{table}.{column} = {value[:60]}"
                    undone = Undone(database, connection)
                    filer = Filer(undone, replace(office.desk, database=undone), timedelta(hours=72))
                    await filer.turn()
                    assert (await reports.get(connection, good)).state is State.FILED, what
                    raised = [each for each in await alarms.standing(connection) if each.kind is UNREADABLE]
                    assert [each.subject for each in raised] == sorted(filer.passed_over), what
                    found = await look(connection, office.pins.read())
                    if filer.passed_over:
                        assert filer.passed_over == {spoiled}, what
                        assert any(each.startswith(f"report {spoiled}") for each in found), what
                    elif table == "filings":
                        state = (await reports.get(connection, spoiled)).state
                        assert state in {State.FILED, State.PARKED}, what


@pytest.mark.parametrize("table", ["alarms", "notices", "custodians"])
async def test_garbage_in_what_else_stands_in_the_database_keeps_no_report_from_being_filed(
    database: Database, store: StoreSettings, table: str
) -> None:
    """Also where an alarm or a notice cannot be read any more, or whom the database calls a custodian."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        async with database.begin() as connection:
            await alarms.raise_alarm(connection, AlarmKind.REPORT_WAITING, report_id)
        await free_of_constraints(database, table)
        async with database.connect() as connection:
            columns = await kinds(connection, table)
        for number, (column, every) in enumerate(columns.items()):
            for value in every[number % 3 :: 3]:
                async with garbage(database, table, column, value, "") as connection:
                    undone = Undone(database, connection)
                    await Filer(undone, replace(office.desk, database=undone), timedelta(hours=72)).turn()
                    filed = (await reports.get(connection, report_id)).state
                    assert filed is State.FILED, f"{table}.{column} = {value[:60]}"
