"""Garbage in the tables that gates and workers work with: no loop ends, and one row stands before no other.

What is not in the audit log (keys, notices, alarms, whom the database calls a custodian, banks, limits) is
read again and again by what runs for months. An error that nobody foresaw would end the worker, or be told
in the log each second and do nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import pytest
from sqlalchemy import insert, text, update

from app.banks.current import CurrentBanks
from app.custody.identity import write_identity
from app.custody.roster import RosterFile
from app.errors import CordonError, ReportNotStoredError
from app.filing import alarms as alarms_of_time
from app.filing import checkpoints, notify
from app.main import PinsWatch
from app.media import SignalType
from app.report.outbox import SealedOutbox
from app.retention import purge
from app.settings import RetentionSettings, StoreSettings
from app.store import alarms, custodians, keys, notices, processes, schema
from app.store.alarms import AlarmKind
from app.store.allowances import Allowances, Ask, Slots
from app.store.banks import bank_listing, bank_signals, bank_sweeping, entry_days, entry_marks, kept_values
from app.store.banks.bank_reader import BankReader
from app.store.database import Database
from app.store.keys import KeyRing, Scope
from app.store.notices import Notice
from app.store.record.witness import Witness
from app.store.reports import removal, reports
from app.store.reports.shelf import ReportShelf
from app.store.schema import metadata
from tests.pins import add_custodian, pins_of
from tests.store.test_banks import make, some
from tests.store.test_entries import HOTLINE, give
from tests.store.test_garbage import TABLES as OF_THE_RECORD
from tests.store.test_garbage import Undone, free_of_constraints, garbage, kinds
from tests.stubs import stub

TABLES: Final = tuple(name for name in metadata.tables if name not in OF_THE_RECORD)

TODAY: Final = datetime.now(UTC).date()


@dataclass
class Ear:
    """A channel that remembers what it was told."""

    name: str = "webhook"
    at_once: int = 1
    heard: list[Notice] = field(default_factory=list)

    def wants(self, notice: Notice) -> bool:
        del notice
        return True

    async def tell(self, told: Sequence[Notice]) -> None:
        self.heard += told


@dataclass(frozen=True)
class Works:
    """A database in which each table has rows, and what reads them."""

    database: Database
    store: StoreSettings
    pins: RosterFile
    report_id: str
    entry_ids: tuple[int, ...]
    key_id: str
    token: str
    process_id: str

    @property
    def loops(self) -> dict[str, Callable[[Database], Awaitable[object]]]:
        """Each loop of a gate and a worker, and what a request asks, by name."""
        key = self.store.state_dir / "worker.key"
        witness = Witness(self.store.state_dir / "seen")
        ask = Ask(self.key_id, 50, 32, permits=1, wanted=Slots(1, 1))
        return {
            "notices are told": lambda at: notify.tell(at, [Ear()]),
            "a token is looked up": lambda at: KeyRing(at).authenticate(self.token),
            "keys are listed": _reading(keys.list_keys),
            "alarms are read": _reading(alarms.standing),
            "alarms are counted": _reading(alarms.count_standing),
            "time raises alarms": lambda at: alarms_of_time.watch(at, datetime.now(UTC)),
            "custodians are compared": lambda at: PinsWatch(at, self.pins).look(),
            "what a custodian reads": _reading(partial(custodians.readable_by, custodian="0" * 16)),
            "processes are read": _reading(processes.live),
            "a heart beats": lambda at: processes.heartbeat(at, self.process_id, 1),
            "limits are drawn": lambda at: Allowances(at, self.process_id).draw([ask]),
            "limits are drawn beside another": lambda at: Allowances(at, "another").draw([ask]),
            "banks are followed": self._follow,
            "banks are built": self._build,
            "banks are swept": self._sweep,
            "reports are released": entry_marks.release_reports,
            "values are forgotten": lambda at: kept_values.forget(at, kept_values.MOST_DAYS),
            "values are read": kept_values.read,
            "what is over is pruned": _reading(reports.prune),
            "the log is signed": lambda at: checkpoints.sign(at, key, self.pins, witness),
            "what is urgent is told": lambda at: purge.watch(at, RetentionSettings(), datetime.now(UTC)),
            "tombstones are read": _reading(removal.every),
            "entries are listed": _reading(partial(bank_listing.page, name="a")),
            "doubts are read": _reading(partial(bank_listing.doubted, entry_ids=self.entry_ids)),
            "entries are counted": _reading(bank_signals.counts),
            "media are counted": _reading(partial(entry_days.count, day=TODAY, media={self.entry_ids[1]: 5})),
            "a match is kept": self._commit,
        }

    async def _follow(self, database: Database) -> None:
        current = CurrentBanks(BankReader(database), self.store.state_dir, poll_seconds=60)
        await current.start()
        try:
            assert "not followed" not in str(current.status().failing)
        finally:
            await current.close()

    async def _build(self, database: Database) -> None:
        for of in SignalType:
            async for _ in BankReader(database).entries(of, 1_000_000):
                pass

    async def _sweep(self, database: Database) -> None:
        await bank_sweeping.sweep(database)
        await bank_sweeping.prune_old(database, 100)

    async def _commit(self, database: Database) -> None:
        shelf = ReportShelf(database, None, self.pins)
        try:
            await SealedOutbox(shelf, require_custodian=True).commit(stub("a"))
        except ReportNotStoredError:
            pass
        except CordonError as error:
            raise AssertionError("who handed it in is told that they were wrong") from error


def _reading(
    read: Callable[..., Awaitable[object]],
) -> Callable[[Database], Awaitable[object]]:
    async def reading(database: Database) -> None:
        async with database.begin() as connection:
            await read(connection)

    return reading


@pytest.fixture
async def works(database: Database, store: StoreSettings) -> Works:
    pins = pins_of(store)
    ada = await add_custodian(database, pins)
    await add_custodian(database, pins, "grace")
    write_identity(ada, store.state_dir / "worker.key")
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    report_id = (await outbox.commit(stub("a"))).id
    await make(database)
    await give(database, some(1, 2, 3), HOTLINE)
    now = datetime.now(UTC)
    rows: dict[str, dict[str, Any]] = {
        "kept_values": {"day": TODAY, "value": b"v" * kept_values.ROW_BYTES},
        "suppression_pairs": {"suppressor_id": 1, "entry_id": 2, "at": now, "by": "cli"},
        "idempotency": {"keyed_hash": b"k", "report_id": report_id, "expires_at": now + timedelta(days=1)},
        "tombstones": {
            "id": "01J9ZK3V5T8QX2M4N6P8R0S1T2",
            "bank_kind": "csam",
            "state": "rejected",
            "created_at": now,
            "removed_at": now,
        },
        "opinions": {"entry_id": 1, "source_id": 1, "change_id": 1, "withdrawn": False},
    }
    process_id = await processes.register(database, processes.GATE)
    async with database.begin() as connection:
        key, token = await keys.create(connection, name="a", scopes=frozenset({Scope.INGEST}))
        await alarms.raise_alarm(connection, AlarmKind.REPORT_WAITING, report_id)
        entry_ids = tuple(each.id for each in await bank_listing.page(connection, "a"))
        await entry_marks.disable(connection, entry_ids[0], why="a logo", by="cli")
        await entry_days.count(connection, TODAY, {entry_ids[1]: 5})
        rows["key_slots"] = {"key_id": key.id, "process_id": process_id, "requests": 1, "lines": 1}
        for name, row in rows.items():
            await connection.execute(insert(metadata.tables[name]).values(**row))
        await notices.address(connection, {"webhook": lambda _: True})
        await notices.post(connection, notices.REPORT_CHANGED, report_id, "queued")
    await Allowances(database, "another").draw([Ask(key.id, 50, 32, permits=1)])
    return Works(database, store, pins, report_id, entry_ids, key.id, token, process_id)


@pytest.mark.parametrize("table", TABLES)
async def test_garbage_in_what_is_worked_with_ends_no_loop(works: Works, table: str) -> None:
    """Each reads on, or says in one of Cordon's own errors what it cannot: those it is called again after."""
    await free_of_constraints(works.database, *TABLES)
    async with works.database.connect() as connection:
        columns = await kinds(connection, table)
        assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()  # noqa: S608
    for number, (column, every) in enumerate(columns.items()):
        for value in every[number % 7 :: 7]:
            for name, loop in works.loops.items():
                async with garbage(works.database, table, column, value, "") as connection:
                    try:
                        await loop(Undone(works.database, connection))
                    except CordonError:
                        pass
                    except Exception as error:
                        raise AssertionError(f"{name}: {table}.{column} = {value[:60]}") from error


async def test_a_key_whose_row_is_garbage_locks_nobody_else_out(works: Works) -> None:
    """It opens nothing itself."""
    async with works.database.begin() as connection:
        _, token = await keys.create(connection, name="b", scopes=frozenset({Scope.OPS}))
        await connection.execute(
            update(schema.keys).where(schema.keys.c.id == works.key_id).values(scopes=["a scope of nobody's"])
        )
    ring = KeyRing(works.database)
    assert await ring.authenticate(works.token) is None
    key = await ring.authenticate(token)
    assert key is not None
    assert key.scopes == {Scope.OPS}


@pytest.mark.parametrize("number", [-5, 2**31 - 1])
async def test_a_notice_that_cannot_be_read_stands_before_no_other(works: Works, number: int) -> None:
    """It is forgotten, and how often another was tried makes nobody count up to that."""
    await free_of_constraints(works.database, "notices")
    async with works.database.begin() as connection:
        await notices.post(connection, notices.ALARM_RAISED, "spoiled", "report_waiting")
        await connection.execute(
            text("UPDATE notices SET event = NULL, next_attempt_at = NULL WHERE subject = 'spoiled'")
        )
        await connection.execute(update(schema.notices).values(attempts=number))
    ear = Ear()
    await notify.tell(works.database, [ear])
    assert {each.subject for each in ear.heard} == {works.report_id}
    async with works.database.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM notices"))).scalar_one() == 0


async def test_a_receiver_that_fails_for_ages_makes_nobody_count(works: Works) -> None:
    """The pause after so many attempts is known at once."""

    class Deaf(Ear):
        async def tell(self, told: Sequence[Notice]) -> None:
            raise notify.NotToldError("HTTP 500")

    async with works.database.begin() as connection:
        await connection.execute(update(schema.notices).values(attempts=2**31 - 1))
    await notify.tell(works.database, [Deaf()])
    async with works.database.connect() as connection:
        waits = (await connection.execute(text("SELECT max(attempts) FROM notices"))).scalar_one()
    assert waits == 2**31 - 1


async def test_an_alarm_whose_row_is_garbage_hides_no_other(works: Works) -> None:
    await free_of_constraints(works.database, "alarms")
    async with works.database.begin() as connection:
        await alarms.raise_alarm(connection, AlarmKind.REPORT_WAITING, "another")
        await connection.execute(text("UPDATE alarms SET subject = NULL WHERE subject = 'another'"))
        assert [each.subject for each in await alarms.standing(connection)] == [works.report_id]
        await alarms.match_to(connection, AlarmKind.REPORT_WAITING, ["a third"])
        assert [each.subject for each in await alarms.standing(connection)] == ["a third"]


async def test_a_custodian_whose_row_is_garbage_is_told_of_and_hides_no_other(works: Works) -> None:
    await free_of_constraints(works.database, "custodians")
    async with works.database.begin() as connection:
        await connection.execute(text("UPDATE custodians SET fingerprint = NULL WHERE name = 'grace'"))
        difference = await custodians.compare(connection, works.pins.read())
    assert difference.unreadable
    assert [each.name for each in difference.missing] == ["grace"]
    assert len(difference.told()) == 2


async def test_banks_that_cannot_be_read_for_a_while_are_followed_again_afterwards(works: Works) -> None:
    """What is in force stays meanwhile, and it is said."""
    current = CurrentBanks(BankReader(works.database), works.store.state_dir, poll_seconds=0.05)
    await current.start()
    try:
        before = current.generation
        async with works.database.begin() as connection:
            await connection.execute(text("UPDATE banks SET action = 'an action of nobody''s'"))
            await connection.execute(text("UPDATE index_state SET generation = generation + 1"))
        await _until(lambda: current.unreadable)
        assert current.generation == before
        assert current.status().failing is None
        async with works.database.begin() as connection:
            await connection.execute(text("UPDATE banks SET action = 'report'"))
        # The banks are in force before the look that read them ends.
        await _until(lambda: current.generation == before + 1 and not current.unreadable)
    finally:
        await current.close()


async def test_rows_far_apart_are_swept_at_once(works: Works) -> None:
    """Whoever writes a number at the end of all numbers keeps no worker from its other chores."""
    async with works.database.begin() as connection:
        await connection.execute(update(schema.opinions).values(entry_id=2**63 - 1))
        await connection.execute(
            text(f"UPDATE entries SET id = {2**63 - 1}, bank_id = -1 WHERE id = {works.entry_ids[0]}")  # noqa: S608
        )
    assert await bank_sweeping.sweep(works.database) == 1
    async with works.database.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM opinions"))).scalar_one() == 0


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError
