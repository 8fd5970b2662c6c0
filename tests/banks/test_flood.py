"""Entries that match very many media unlike each other are parked; copies of one picture never do that."""

import random
from datetime import date
from itertools import count

import pytest
from sqlalchemy import select

from app.banks import flood
from app.banks.flood import FloodGuard
from app.errors import NotReadyError
from app.media import (
    Background,
    BankAction,
    BankKind,
    Decision,
    Digests,
    Match,
    Rendering,
    Signals,
    SignalType,
    Verdict,
)
from app.pipeline import Submission
from app.settings import Profile
from app.store import alarms, schema
from app.store.banks import bank_listing, entry_days, entry_marks
from app.store.banks.bank_listing import EntryState
from app.store.database import Database
from tests.store.test_banks import add, make, signal

MOST = 5
SUBMISSION = Submission("id", "http", "key", Profile())
CHANCE = random.Random(7)
_FILES = count()


class Day:
    now = date(2026, 11, 26)

    def __call__(self) -> date:
        return self.now


@pytest.fixture
def day() -> Day:
    return Day()


@pytest.fixture
async def entry(database: Database) -> int:
    """The id of one PDQ entry of a csam bank."""
    await make(database)
    await add(database, [signal(1, SignalType.PDQ)])
    async with database.connect() as connection:
        (found,) = await bank_listing.page(connection, "a")
    return found.id


def picture() -> int:
    """The PDQ of a picture that looks like no other."""
    return CHANCE.getrandbits(256)


def matched(
    guard: FloodGuard,
    entry: int,
    pdq: int,
    *,
    quality: int = 100,
    distance: int = 20,
    action: BankAction = BankAction.REPORT,
    of: SignalType = SignalType.PDQ,
    file: bytes | None = None,
) -> None:
    """Tell the guard of a new file that looks like this and matched the entry."""
    sha256 = file or next(_FILES).to_bytes(32)
    rendering = Rendering(0, Background.NONE, pdq.to_bytes(32), quality, bytes(8))
    match = Match("a", BankKind.CSAM, action, entry, of, b"e", b"q", distance, 31, rendering)
    signals = Signals(Digests(bytes(16), bytes(20), sha256), (rendering,))
    guard.concluded(SUBMISSION, signals, Decision(Verdict.MATCH, matches=(match,)))


async def counted(database: Database) -> dict[tuple[int, date], int]:
    async with database.connect() as connection:
        rows = await connection.execute(select(schema.entry_days))
        return {(row.entry_id, row.day): row.media for row in rows}


async def parked(database: Database) -> list[int]:
    async with database.connect() as connection:
        found = await bank_listing.page(connection, "a", state=EntryState.PARKED)
        standing = {alarm.subject for alarm in await alarms.standing(connection)}
    assert standing == {str(each.id) for each in found}
    return [each.id for each in found]


async def test_an_entry_is_parked_when_it_matches_too_many_media_in_a_day(
    database: Database, entry: int, day: Day
) -> None:
    guard = FloodGuard(database, MOST, day=day)
    for _ in range(MOST):
        matched(guard, entry, picture())
    await guard.settle()
    assert await parked(database) == []
    assert await counted(database) == {(entry, day.now): MOST}
    matched(guard, entry, picture())
    await guard.settle()
    assert await parked(database) == [entry]
    async with database.connect() as connection:
        assert (await bank_listing.get(connection, entry)).media == {day.now: MOST + 1}


async def test_copies_of_one_picture_count_once(database: Database, entry: int, day: Day) -> None:
    """Saved anew a thousand times, each time up to 31 bits from the first."""
    guard = FloodGuard(database, MOST, day=day)
    first = picture()
    for bits in [0, *(CHANCE.randint(0, 31) for _ in range(200))]:
        copy = first
        for bit in CHANCE.sample(range(256), bits):
            copy ^= 1 << bit
        matched(guard, entry, copy)
    await guard.settle()
    assert await counted(database) == {(entry, day.now): 1}


async def test_pictures_that_pdq_cannot_tell_apart_count_by_their_files(
    database: Database, entry: int, day: Day
) -> None:
    """A plain picture's PDQ says nothing, so each file is one; the same file is one."""
    guard = FloodGuard(database, MOST, day=day)
    for file in (b"\1" * 32, b"\1" * 32, b"\2" * 32):
        matched(guard, entry, 0, quality=10, of=SignalType.PHASH, distance=3, file=file)
    await guard.settle()
    assert await counted(database) == {(entry, day.now): 2}


async def test_exact_matches_and_observing_banks_do_not_count(
    database: Database, entry: int, day: Day
) -> None:
    """The very value of an entry is what it is for, and an observing bank has no report to wait."""
    guard = FloodGuard(database, MOST, day=day)
    for _ in range(3 * MOST):
        matched(guard, entry, picture(), distance=0)
        matched(guard, entry, picture(), distance=0, of=SignalType.SHA256)
        matched(guard, entry, picture(), action=BankAction.OBSERVE)
    await guard.settle()
    assert await counted(database) == {}
    assert await parked(database) == []


async def test_the_counts_of_all_gates_come_together(database: Database, entry: int, day: Day) -> None:
    gates = [FloodGuard(database, MOST, day=day) for _ in range(3)]
    for gate in gates:
        for _ in range(2):
            matched(gate, entry, picture())
        await gate.settle()
    assert await parked(database) == [entry]


async def test_each_day_begins_anew(database: Database, entry: int, day: Day) -> None:
    guard = FloodGuard(database, MOST, day=day)
    for _ in range(4):
        day.now = day.now.replace(day=day.now.day + 1)
        for _ in range(MOST):
            matched(guard, entry, picture())
        await guard.settle()
    assert await parked(database) == []
    assert set((await counted(database)).values()) == {MOST}


async def test_what_could_not_be_counted_is_counted_later(
    database: Database, entry: int, day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = FloodGuard(database, MOST, day=day)

    def fail() -> None:
        message = "the database does not answer"
        raise NotReadyError(message)

    for _ in range(MOST):
        matched(guard, entry, picture())
    with monkeypatch.context() as broken:
        broken.setattr(Database, "begin", lambda _: fail())
        with pytest.raises(NotReadyError):
            await guard.settle()
    matched(guard, entry, picture())
    await guard.settle()
    assert await parked(database) == [entry]


async def test_memory_is_bounded_whatever_comes(
    database: Database, entry: int, day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By entries, of which the oldest is forgotten, and by sketches of each."""
    monkeypatch.setattr(flood, "MOST_ENTRIES", 10)
    guard = FloodGuard(database, MOST, day=day)
    for _ in range(50):
        matched(guard, entry, picture())
    await guard.settle()
    assert await counted(database) == {(entry, day.now): MOST + 1}
    for number in range(1000, 1050):
        matched(guard, number, picture())
    matched(guard, entry, picture())
    await guard.settle()
    assert len(await counted(database)) == 51
    assert len(guard._seen) == 10


async def test_nothing_is_written_where_nothing_matched(database: Database, day: Day) -> None:
    guard = FloodGuard(database, MOST, day=day)
    guard.concluded(SUBMISSION, Signals(Digests(b"", b"", b""), ()), Decision(Verdict.CLEAR))
    await guard.settle()
    assert await counted(database) == {}


async def test_an_entry_that_is_gone_is_counted_in_vain(database: Database, day: Day) -> None:
    """Of one that was removed meanwhile, no alarm is raised, and no generation is used up."""
    await make(database)
    guard = FloodGuard(database, MOST, day=day)
    for _ in range(MOST + 1):
        matched(guard, 999, picture())
    await guard.settle()
    assert await parked(database) == []
    async with database.connect() as connection:
        assert await connection.scalar(select(schema.index_state.c.generation)) == 1


async def test_counts_of_very_many_entries_come_to_the_database(database: Database, day: Day) -> None:
    """More than one statement takes: a dense bank can match thousands of entries within seconds."""
    async with database.begin() as connection:
        totals = await entry_days.count(connection, day.now, dict.fromkeys(range(1, 12_001), 2))
    assert totals == dict.fromkeys(range(1, 12_001), 2)
    assert len(await counted(database)) == 12_000


async def test_an_entry_is_parked_though_the_database_went_away_when_it_was_to_be(
    database: Database, entry: int, day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it matches then is not counted any more, so nothing else would ask for it."""
    guard = FloodGuard(database, MOST, day=day)
    for _ in range(MOST + 1):
        matched(guard, entry, picture())

    async def fail(*_: object, **__: object) -> bool:
        raise NotReadyError("database")

    with monkeypatch.context() as broken:
        broken.setattr(entry_marks, "park", fail)
        with pytest.raises(NotReadyError):
            await guard.settle()
    assert await parked(database) == []
    await guard.settle()
    assert await parked(database) == [entry]
    assert await counted(database) == {(entry, day.now): MOST + 1}
