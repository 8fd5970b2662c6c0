"""What an auditor finds in the tables that the log says otherwise of, and in which entry."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from sqlalchemy import delete, insert, select, text, update

from app.custody.decision import Action
from app.custody.identity import Identity, fingerprint
from app.custody.removal import Removal, sign
from app.custody.roster import RosterFile
from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store.database import Database
from app.store.record import audit
from app.store.reports import (
    accepting,
    decisions,
    inspection,
    recorded,
    removal,
    removal_proofs,
    reports,
    resealing,
    sealed,
)
from app.store.reports.inspection import Discrepancy
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from app.store.schema import audit as log
from app.store.schema import decisions as documents
from app.store.schema import reports as table
from app.store.schema import sightings, tombstones
from tests.deciding import deciding, seen
from tests.pins import add_custodian, pins_of
from tests.stubs import stub


@dataclass(frozen=True)
class Shelf:
    """A report that was seen twice, and an untouched one."""

    database: Database
    pins: RosterFile
    ada: Identity
    report_id: str
    untouched: str

    async def found(self) -> list[Discrepancy]:
        """All that is wrong."""
        async with self.database.connect() as connection:
            stored = await inspection.stored(connection, None)
            removed = await removal_proofs.examine(connection, self.pins.read())
            found = list(await inspection.at_large(connection, stored, removed))
            for report_id in await reports.every_id(connection):
                found += await inspection.of_report(connection, report_id, self.pins.read())
        return found

    async def remove(self, report_id: str) -> None:
        """Remove one whose time is over."""
        async with self.database.begin() as connection:
            await reports.move(connection, report_id, to=State.REJECTED)
            signed = Removal(
                report_id=report_id,
                state="rejected",
                sealed_sha256=(),
                due_at=datetime.now(UTC),
                why="0 days from the rejection",
                at=datetime.now(UTC),
                signer=fingerprint(self.ada.public_key),
            )
            details = {removal_proofs.MEMBER: sign(signed, self.ada)}
            await removal.remove(connection, report_id, event=decisions.PURGED_EVENT, details=details)

    async def entry(self, event: str) -> int:
        """Number of the entry of an event of the report."""
        async with self.database.connect() as connection:
            wanted = select(log.c.seq).where(log.c.subject == self.report_id, log.c.event == event)
            return int((await connection.execute(wanted)).scalar_one())

    async def run(self, *statements: object) -> None:
        """Write to the database."""
        async with self.database.begin() as connection:
            for statement in statements:
                await connection.execute(statement)  # type: ignore[call-overload]


@pytest.fixture
async def shelf(database: Database, store: StoreSettings) -> Shelf:
    pins = pins_of(store)
    ada = await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    report_id = (await outbox.commit(stub("a"))).id
    assert (await outbox.commit(stub("a"))).id == report_id
    return Shelf(database, pins, ada, report_id, (await outbox.commit(stub("b"))).id)


async def test_what_is_as_it_was_recorded_is_no_discrepancy(shelf: Shelf) -> None:
    """Sealed, seen again, sealed anew, or removed as it should be."""
    assert await shelf.found() == []
    await add_custodian(shelf.database, shelf.pins, "grace")
    assert await resealing.reseal(shelf.database, shelf.report_id, shelf.ada, shelf.pins.read(), by="cli")
    assert await shelf.found() == []
    await shelf.remove(shelf.untouched)
    assert await shelf.found() == []


class Ahead(datetime):
    """The clock of a machine that is a day ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Ahead":
        """A day too late."""
        return super().now(tz) + timedelta(days=1)


async def test_that_a_clock_was_set_back_or_is_behind_anothers_is_no_change_of_the_database(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written last is not the latest then; time still counts from the latest."""
    with monkeypatch.context() as machine:
        machine.setattr(reports, "datetime", Ahead)
        machine.setattr(audit, "datetime", Ahead)
        async with shelf.database.begin() as connection:
            parked = await reports.move(connection, shelf.report_id, to=State.PARKED, cause="test")
    rejection = deciding(
        Action.REJECT,
        shelf.report_id,
        await seen(shelf.database, shelf.report_id, shelf.pins.read()),
        shelf.ada,
    )
    async with shelf.database.begin() as connection:
        await accepting.take(
            connection,
            rejection,
            shelf.pins.read(),
            report_id=shelf.report_id,
            actions=(Action.REJECT,),
            by="cli",
        )
        rejected = await reports.get(connection, shelf.report_id)
    assert parked.changed_at is not None
    assert rejected.changed_at is not None
    assert rejected.changed_at < parked.changed_at
    assert await shelf.found() == []
    async with shelf.database.connect() as connection:
        kept = (await recorded.recorded(connection, shelf.report_id)).no_earlier(rejected)
    assert kept.changed_at is not None
    assert kept.changed_at >= parked.changed_at


@pytest.mark.parametrize("writes", [False, True])
async def test_who_looks_while_a_report_is_sealed_anew_sees_nothing_that_somebody_changed(
    shelf: Shelf,
    writes: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """An auditor, a worker about to file, a custodian who opens it: file and log are of one moment."""
    alone = shelf.pins.read()
    await add_custodian(shelf.database, shelf.pins, "grace")
    both = shelf.pins.read()

    async def seal_anew() -> None:
        for roster in (both, alone) * 10:
            assert await resealing.reseal(shelf.database, shelf.report_id, shelf.ada, roster, by="cli")

    async def look() -> None:
        if writes:
            async with shelf.database.begin() as connection:
                await reports.lock(connection, shelf.report_id)
                await sealed.authentic(connection, shelf.report_id, both)
            return
        async with shelf.database.connect() as connection:
            assert await inspection.of_report(connection, shelf.report_id, both) == ()

    sealing = asyncio.create_task(seal_anew())
    while not sealing.done():
        await asyncio.gather(*(look() for _ in range(3)))
    await sealing


async def test_a_changed_file_is_named_with_the_entry_that_recorded_it(shelf: Shelf) -> None:
    """The report's own, a later sighting's, and one that was sealed anew: the last that recorded it."""
    await shelf.run(update(sightings).values(sealed=b"x"))
    (found,) = await shelf.found()
    assert (found.report_id, found.entry) == (shelf.report_id, await shelf.entry("report.sighted"))
    assert "the sealed file of sighting" in found.what
    await shelf.run(delete(sightings))
    (found,) = await shelf.found()
    assert found.what.endswith("is gone")
    await shelf.run(update(table).where(table.c.id == shelf.report_id).values(sealed=b"x"))
    told = {each.entry: each.what for each in await shelf.found()}
    assert told[await shelf.entry("report.sealed")] == "its sealed file is not the one that was recorded"


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"bank_kind": "other"}, "it stands as one of kind other, and the log says csam"),
        ({"bank_kind": "test"}, "it stands as one of kind test, and the log says csam"),
        ({"cause": "tampered"}, "the log has another cause for which it is parked"),
        ({"custodians": []}, "it says of a sealed file that others open it than were recorded"),
    ],
)
async def test_what_a_row_says_in_the_clear_is_held_against_the_log(
    shelf: Shelf, changed: dict[str, object], what: str
) -> None:
    """A report of another kind is filed no more, and nobody would look for it."""
    await shelf.run(update(table).where(table.c.id == shelf.report_id).values(**changed))
    assert [(each.report_id, each.what) for each in await shelf.found()] == [(shelf.report_id, what)]


async def test_what_stands_beside_a_decision_is_held_against_what_was_signed(shelf: Shelf) -> None:
    """Lists show that, without opening the document."""
    digests = await seen(shelf.database, shelf.report_id, shelf.pins.read())
    async with shelf.database.begin() as connection:
        await accepting.take(
            connection,
            deciding(Action.ANNOTATE, shelf.report_id, digests, shelf.ada),
            shelf.pins.read(),
            report_id=shelf.report_id,
            actions=(Action.ANNOTATE,),
            by="cli",
        )
    assert await shelf.found() == []
    await shelf.run(update(documents).values(action="reject"))
    (found,) = await shelf.found()
    assert found.what == "beside a decision stands another action or signer than in it"


async def test_a_changed_file_that_was_sealed_anew_is_named_with_that_entry(shelf: Shelf) -> None:
    """And where what signed the resealing is gone, none of its entries can be believed."""
    await add_custodian(shelf.database, shelf.pins, "grace")
    await resealing.reseal(shelf.database, shelf.report_id, shelf.ada, shelf.pins.read(), by="cli")
    await shelf.run(update(table).where(table.c.id == shelf.report_id).values(sealed=b"x"))
    (found,) = await shelf.found()
    assert found.entry == await shelf.entry("report.resealed")
    await shelf.run(delete(documents))
    assert {each.what for each in await shelf.found()} == {
        "the entries of its sealed files do not follow on from each other",
        "The decisions on this report are not those that the audit log recorded.",
    }


async def test_a_vanished_report_is_named_and_so_is_one_that_was_put_back(shelf: Shelf) -> None:
    """A tombstone explains nothing: only an entry of the removal does."""
    async with shelf.database.connect() as connection:
        (kept,) = (await connection.execute(select(table).where(table.c.id == shelf.untouched))).mappings()
    await shelf.run(delete(table).where(table.c.id == shelf.untouched))
    (found,) = await shelf.found()
    assert (found.report_id, "gone" in found.what) == (shelf.untouched, True)
    await shelf.run(insert(table).values(**kept))
    assert await shelf.found() == []
    await shelf.remove(shelf.untouched)
    await shelf.run(delete(tombstones), insert(table).values(**kept))
    back = await shelf.found()
    assert {each.report_id for each in back} == {shelf.untouched}
    assert "it was removed, and is there" in [each.what for each in back]


async def test_what_somebody_has_the_database_do_at_the_tables_is_named(database: Database) -> None:
    """A trigger, a view in the place of a table; on PostgreSQL a rule and row security too."""
    async with database.begin() as connection:
        assert await inspection.of_others(connection) == ()
        action = "BEGIN SELECT RAISE(IGNORE); END"
        if not database.is_sqlite:
            action = "FOR EACH ROW EXECUTE FUNCTION quiet()"
            await connection.execute(
                text(
                    "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
                )
            )
            await connection.execute(text("CREATE RULE hush AS ON DELETE TO alarms DO INSTEAD NOTHING"))
            await connection.execute(text("ALTER TABLE reports ENABLE ROW LEVEL SECURITY"))
        await connection.execute(text(f"CREATE TRIGGER quiet BEFORE INSERT ON alarms {action}"))
        await connection.execute(text("ALTER TABLE notices RENAME TO others"))
        await connection.execute(text("CREATE VIEW notices AS SELECT * FROM others"))
    async with database.connect() as connection:
        found = await inspection.of_others(connection)
    if database.is_sqlite:
        assert found == ("trigger quiet", "view notices")
    else:
        assert found == (
            *("row security of reports", "rule hush of alarms", "trigger quiet of alarms"),
            "view notices",
        )


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("named", "made"),
    [
        ("table more within audit", ["CREATE TABLE more (LIKE audit)", "ALTER TABLE more INHERIT audit"]),
        ("table audit within basis", ["CREATE TABLE basis ()", "ALTER TABLE audit INHERIT basis"]),
        ("rule hush of processes", ["CREATE RULE hush AS ON INSERT TO processes DO INSTEAD NOTHING"]),
        ("function good at reports", ["ALTER TABLE reports ADD CHECK (public.good(state))"]),
        ("function good at filings", ["CREATE INDEX ON filings (public.good(step))"]),
        ("function good at alarms", ["ALTER TABLE alarms ADD more bool DEFAULT public.good('')"]),
        (
            "type odd at reports",
            [
                "CREATE DOMAIN odd AS text CHECK (public.good(VALUE))",
                "ALTER TABLE reports ALTER cause TYPE odd",
            ],
        ),
        (
            "operator = of types of the system",
            ["CREATE OPERATOR = (LEFTARG = text, RIGHTARG = varchar, FUNCTION = same)"],
        ),
        (
            "function max, called as one of the system",
            ["CREATE FUNCTION max(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1'"],
        ),
        (
            "table reports of schema public, hidden by another",
            [
                "CREATE SCHEMA before",
                "CREATE TABLE before.reports (LIKE reports)",
                "SET LOCAL search_path = before, public",
            ],
        ),
    ],
)
async def test_what_else_changes_what_postgresql_writes_or_tells_is_named(
    database: Database, named: str, made: list[str]
) -> None:
    """What the tables inherit, what their columns are made of, and what a comparison may call."""
    async with database.begin() as connection:
        for statement in (
            "CREATE FUNCTION good(text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'",
            "CREATE FUNCTION same(text, varchar) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'",
            "ALTER TABLE processes RENAME TO whole",
            "CREATE TABLE processes (LIKE whole) PARTITION BY LIST (id)",
        ):
            await connection.execute(text(statement))
        assert await inspection.of_others(connection) == ()
        for statement in made:
            await connection.execute(text(statement))
        assert await inspection.of_others(connection) == (named,)
