"""Reports whose time is over: removed from every file that Cordon controls, and nothing else is."""

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from app.custody.decision import Action
from app.custody.identity import Identity, generate
from app.custody.roster import RosterFile
from app.errors import ConflictError, NotFoundError, SignatureRequiredError
from app.report.outbox import SealedOutbox
from app.retention import purge
from app.settings import RetentionSettings, StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.reports import removal, reports, sealed
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from app.store.schema import audit as audit_log
from app.store.schema import decisions, filings, sightings, tombstones
from app.store.schema import reports as table
from tests.chain import verify_chain
from tests.deciding import deciding, seen
from tests.ended import bring_to, pin_worker
from tests.pins import add_custodian, pins_of
from tests.stubs import stub

US = RetentionSettings(jurisdiction="us")
NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=400)
WINDOW = 24


class Shelf:
    """A database with a custodian, and reports in it."""

    def __init__(self, database: Database, pins: RosterFile, identity: Identity) -> None:
        self.database, self.pins, self.identity = database, pins, identity
        self.worker = pin_worker(pins)
        self.outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)

    async def report(self, medium: str, state: State = State.FILED, *, sighted: int = 0) -> str:
        """A report that came to its state, with later sightings."""
        for _ in range(sighted + 1):
            report_id = (await self.outbox.commit(stub(medium))).id
        await bring_to(self.database, self.pins, report_id, state, ada=self.identity, worker=self.worker)
        return report_id

    async def purge(self, now: datetime = LATER, settings: RetentionSettings = US) -> tuple[str, ...]:
        """Remove what is over by then."""
        return await purge.purge(
            self.database, settings, self.pins.read(), now, by="worker", identity=self.worker
        )

    async def order(self, report_id: str, action: Action = Action.DESTROY) -> bytes:
        """A signed decision on a report as it stands."""
        digests = await seen(self.database, report_id, self.pins.read())
        return deciding(action, report_id, digests, self.identity)

    async def destroy(self, report_id: str, document: bytes, *, dual_control: bool = False) -> bool:
        async with self.database.begin() as connection:
            return await removal.destroy(
                connection,
                document,
                self.pins.read(),
                report_id=report_id,
                dual_control=dual_control,
                by="cli",
            )

    async def files(self, report_id: str) -> sealed.Files:
        async with self.database.connect() as connection:
            return await sealed.files(connection, report_id)

    async def ids(self) -> list[str]:
        async with self.database.connect() as connection:
            return sorted(each.id for each in (await reports.list_reports(connection)).reports)

    async def tombs(self) -> tuple[removal.Tombstone, ...]:
        async with self.database.connect() as connection:
            return await removal.every(connection)

    async def events(self, report_id: str) -> list[str]:
        async with self.database.connect() as connection:
            rows = await connection.execute(
                select(audit_log.c.event).where(audit_log.c.subject == report_id).order_by(audit_log.c.seq)
            )
            assert await verify_chain(connection) is None
            return list(rows.scalars())


@pytest.fixture
async def shelf(database: Database, store: StoreSettings) -> Shelf:
    pins = pins_of(store)
    return Shelf(database, pins, await add_custodian(database, pins))


async def _directory(database: Database) -> Path:
    """Where the database's files are. PostgreSQL's write-ahead log is not among what Cordon can clear."""
    if database.file is not None:
        return database.file.parent
    async with database.connect() as connection:
        at = "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database"
        where = text(f"{at} WHERE datname = current_database()")
        return Path((await connection.execute(where)).scalar_one())


def _windows(files: sealed.Files) -> Iterator[bytes]:
    """Pieces of the ciphertexts, each on one page; not the line that every age file begins with."""
    for file in files.values():
        yield from (file[at : at + WINDOW] for at in range(48, len(file) - WINDOW, 4 * WINDOW))


async def _found(database: Database, files: sealed.Files) -> int:
    """How many pieces of the ciphertexts stand in the database's files."""
    if not database.is_sqlite:
        async with database.connect() as connection:
            await connection.execute(text("CHECKPOINT"))
    content = b"".join(
        each.read_bytes() for each in (await _directory(database)).rglob("*") if each.is_file()
    )
    return sum(piece in content for piece in _windows(files))


async def test_after_the_purge_no_file_of_the_database_holds_a_piece_of_the_ciphertext(shelf: Shelf) -> None:
    """Neither the report's own nor that of later sightings, nor what others wrote around them."""
    gone = [await shelf.report(f"gone-{number}", sighted=2) for number in range(8)]
    files: sealed.Files = {}
    for each in gone:
        files |= await shelf.files(each)
    kept = await shelf.report("kept", State.QUEUED)
    pieces = len(list(_windows(files)))
    assert pieces > 300
    assert await _found(shelf.database, files) > 0.9 * pieces
    assert await shelf.purge() == tuple(gone)
    assert await purge.erase(shelf.database)
    assert await _found(shelf.database, files) == 0
    assert await shelf.ids() == [kept]
    assert await _found(shelf.database, await shelf.files(kept)) > 0


async def test_a_purge_leaves_a_tombstone_and_an_audit_entry_and_nothing_that_hung_on_the_report(
    shelf: Shelf,
) -> None:
    report_id = await shelf.report("a", sighted=1)
    async with shelf.database.begin() as connection:
        await connection.execute(
            filings.insert().values(
                report_id=report_id, environment="production", step="finished", authority_report_id="4711",
                attempts=1, first_attempt_at=NOW, next_attempt_at=NOW, receipt=b"sealed",
            )
        )  # fmt: skip
        await alarms.raise_alarm(connection, AlarmKind.FILING_FAILING, report_id)
    files = await shelf.files(report_id)
    await shelf.purge()
    (tomb,) = await shelf.tombs()
    assert (tomb.id, tomb.state, tomb.authority_report_id) == (report_id, State.FILED, "4711")
    assert (tomb.document, tomb.erased_at) == (None, None)
    assert (await shelf.events(report_id))[-1] == "report.purged"
    async with shelf.database.connect() as connection:
        details = await connection.execute(
            select(audit_log.c.details).where(audit_log.c.event == "report.purged")
        )
        told = details.scalar_one()
        for each in (sightings, decisions, filings):
            assert (await connection.execute(select(each))).all() == []
        assert await alarms.standing(connection) == ()
    assert all(hashlib.sha256(file).hexdigest() in told for file in files.values())
    assert "one calendar year from the receipt" in told
    assert await purge.erase(shelf.database)
    assert (await shelf.tombs())[0].erased_at is not None


async def test_what_is_not_due_held_or_waiting_stays(shelf: Shelf) -> None:
    """And a plan says of each why."""
    held = await shelf.report("held")
    async with shelf.database.begin() as connection:
        await reports.set_hold(connection, held, on_hold=True, by="cli")
    stays = [held, *[await shelf.report(state, State(state)) for state in ("queued", "approved", "parked")]]
    rejected = await shelf.report("rejected", State.REJECTED)
    retracted = await shelf.report("retracted", State.RETRACTED)
    assert await shelf.purge(NOW + timedelta(days=29)) == ()
    why = {each.report.id: each.due.why for each in await purge.plan(shelf.database, US)}
    assert why[held] == "on hold"
    assert why[rejected] == why[retracted] == "30 days from the rejection"
    gone = await shelf.purge(NOW + timedelta(days=31))
    assert gone == (rejected, retracted)
    assert [each.state for each in await shelf.tombs()] == [State.REJECTED, State.RETRACTED]
    assert await shelf.purge() == ()
    assert await shelf.ids() == sorted(stays)


async def test_a_hold_that_comes_between_the_plan_and_the_removal_stands(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    report_id = await shelf.report("a")
    planned = await purge.plan(shelf.database, US)

    async def of_before(*_: object) -> tuple[purge.Planned, ...]:
        return planned

    async with shelf.database.begin() as connection:
        await reports.set_hold(connection, report_id, on_hold=True, by="cli")
    monkeypatch.setattr(purge, "plan", of_before)
    assert await shelf.purge() == ()
    assert await shelf.ids() == [report_id]


async def test_two_workers_purge_each_report_once(shelf: Shelf, store: StoreSettings) -> None:
    gone = [await shelf.report(str(number)) for number in range(5)]
    other = Database.open(store)
    try:
        removed = await asyncio.gather(
            shelf.purge(),
            purge.purge(other, US, shelf.pins.read(), LATER, by="worker", identity=shelf.worker),
        )
    finally:
        await other.close()
    assert sorted(removed[0] + removed[1]) == gone
    assert len(await shelf.tombs()) == len(gone)
    for each in gone:
        assert (await shelf.events(each)).count("report.purged") == 1


async def test_while_somebody_reads_nothing_counts_as_erased_and_an_alarm_tells_of_it(
    shelf: Shelf, store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader from before the removal keeps old pages alive; once it is gone, the next turn erases."""
    monkeypatch.setattr("app.store.erasure.WAIT_SECONDS", 0.3)
    report_id = await shelf.report("a")
    files = await shelf.files(report_id)
    reader = Database.open(store)
    try:
        async with reader.connect() as reading:
            if not reader.is_sqlite:
                await reading.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            await reading.execute(select(table.c.sealed))
            await shelf.purge()
            assert not await purge.erase(shelf.database)
            assert (await shelf.tombs())[0].erased_at is None
            await purge.watch(shelf.database, US, datetime.now(UTC))
            assert await _standing(shelf.database) == []
            await purge.watch(shelf.database, US, datetime.now(UTC) + timedelta(hours=2))
            assert await _standing(shelf.database) == [(AlarmKind.REMOVAL_UNFINISHED, "database")]
    finally:
        await reader.close()
    assert await purge.erase(shelf.database)
    assert await _found(shelf.database, files) == 0
    await purge.watch(shelf.database, US, datetime.now(UTC) + timedelta(hours=2))
    assert await _standing(shelf.database) == []


async def test_a_report_that_nobody_decides_raises_an_alarm_before_its_longest_time(shelf: Shelf) -> None:
    report_id = await shelf.report("a", State.QUEUED)
    eu = RetentionSettings(jurisdiction="eu")
    for days, expected in ((300, []), (340, [(AlarmKind.RETENTION_NEAR, report_id)])):
        await purge.watch(shelf.database, eu, NOW + timedelta(days=days))
        assert await _standing(shelf.database) == expected
    await purge.watch(shelf.database, US, NOW + timedelta(days=340))
    assert await _standing(shelf.database) == []


async def test_a_custodian_destroys_a_report_whatever_its_time_and_the_signed_order_stays(
    shelf: Shelf,
) -> None:
    report_id = await shelf.report("a", State.QUEUED)
    files = await shelf.files(report_id)
    document = await shelf.order(report_id)
    await shelf.destroy(report_id, document)
    assert await shelf.ids() == []
    assert (await shelf.events(report_id))[-1] == "report.destroyed"
    assert (await shelf.tombs())[0].document == document
    assert await purge.erase(shelf.database)
    assert await _found(shelf.database, files) == 0
    with pytest.raises(NotFoundError):
        await shelf.destroy(report_id, document)


async def test_under_dual_control_two_custodians_order_it_and_both_orders_stay(shelf: Shelf) -> None:
    """One alone does not, however often, and neither on hold."""
    report_id = await shelf.report("a", State.QUEUED)
    grace = await add_custodian(shelf.database, shelf.pins, "grace")
    digests = await seen(shelf.database, report_id, shelf.pins.read())
    for _ in range(2):
        first = await shelf.order(report_id)
        assert not await shelf.destroy(report_id, first, dual_control=True)
    async with shelf.database.begin() as connection:
        await reports.set_hold(connection, report_id, on_hold=True, by="cli")
    for identity in (shelf.identity, grace):
        order = deciding(Action.DESTROY, report_id, digests, identity)
        with pytest.raises(ConflictError, match="on hold"):
            await shelf.destroy(report_id, order, dual_control=True)
    async with shelf.database.begin() as connection:
        await reports.set_hold(connection, report_id, on_hold=False, by="cli")
    assert await shelf.ids() == [report_id]
    second = deciding(Action.DESTROY, report_id, digests, grace)
    assert await shelf.destroy(report_id, second, dual_control=True)
    assert await shelf.ids() == []
    assert (await shelf.tombs())[0].document == first + b"\n" + second
    events = await shelf.events(report_id)
    assert events.count("report.first_order_to_destroy") == 2
    assert events[-1] == "report.destroyed"


async def test_nothing_is_destroyed_on_hold_in_filing_or_without_a_pinned_custodians_order(
    shelf: Shelf,
) -> None:
    held, filing, other = [await shelf.report(name, State.PARKED) for name in ("held", "filing", "other")]
    async with shelf.database.begin() as connection:
        await reports.set_hold(connection, held, on_hold=True, by="cli")
        await reports.move(connection, filing, to=State.SUBMITTED)
    for report_id in (held, filing):
        with pytest.raises(ConflictError):
            await shelf.destroy(report_id, await shelf.order(report_id))
    stranger = Shelf(shelf.database, shelf.pins, generate())
    for document in (
        b"{}",
        await stranger.order(other),
        await shelf.order(held),
        await shelf.order(other, Action.ANNOTATE),
    ):
        with pytest.raises(SignatureRequiredError):
            await shelf.destroy(other, document)
    assert await shelf.ids() == sorted([held, filing, other])
    assert await shelf.tombs() == ()


async def _standing(database: Database) -> list[tuple[AlarmKind, str]]:
    async with database.connect() as connection:
        return [(alarm.kind, alarm.subject) for alarm in await alarms.standing(connection)]


async def test_more_that_was_removed_at_once_than_a_statement_has_parameters_is_noted_as_erased(
    database: Database,
) -> None:
    left = {"bank_kind": "csam", "state": State.FILED, "created_at": NOW, "removed_at": LATER}
    async with database.begin() as connection:
        await connection.execute(insert(tombstones), [{"id": f"{at:026}", **left} for at in range(33_000)])
    assert await purge.erase(database)
    assert await removal.unerased(database) == ()
