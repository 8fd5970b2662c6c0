"""What a bank would match of clear traffic; what is kept for that, and that it is nothing unless chosen."""

import asyncio
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import select

from app.banks import dry_run as module
from app.banks.dry_run import ClearTraffic, dry_run
from app.entries import NewSignal
from app.errors import NotFoundError, NotReadyError
from app.media import (
    Background,
    BankAction,
    BankKind,
    Decision,
    Digests,
    Rendering,
    Signals,
    SignalType,
    Tier,
    Verdict,
)
from app.pipeline import Submission
from app.settings import Profile
from app.store import schema
from app.store.banks import bank_listing, entry_marks, kept_values
from app.store.database import Database
from tests.store.test_banks import add, make

SUBMISSION = Submission("id", "http", "key", Profile())
CLEAR, MATCH = Decision(Verdict.CLEAR), Decision(Verdict.MATCH)
RNG = np.random.default_rng(3)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pdq() -> bytes:
    return RNG.bytes(32)


def flip(value: bytes, bits: int) -> bytes:
    changed = np.unpackbits(np.frombuffer(value, np.uint8))
    changed[:bits] ^= 1
    return np.packbits(changed).tobytes()


def looks(*values: bytes, quality: int = 100) -> Signals:
    renderings = tuple(
        Rendering(frame, Background.NONE, value, quality, bytes(8)) for frame, value in enumerate(values)
    )
    return Signals(Digests(bytes(16), bytes(20), bytes(32)), renderings)


def traffic(database: Database, days: int = 7, share: float = 1, clock: Clock | None = None) -> ClearTraffic:
    return ClearTraffic(database, days=days, share=share, clock=clock or Clock())


async def kept(database: Database) -> list[bytes]:
    return sorted(row.tobytes() for row in await kept_values.read(database))


async def test_nothing_is_kept_unless_it_was_chosen(database: Database) -> None:
    keeper = traffic(database, days=0)
    keeper.concluded(SUBMISSION, looks(pdq()), CLEAR)
    await keeper.settle()
    assert await kept(database) == []


async def test_only_what_is_clear_and_has_structure_is_kept_with_the_day_alone(database: Database) -> None:
    """The first frame's value and its quality; no other column is there to tell more."""
    keeper, first = traffic(database), pdq()
    keeper.concluded(SUBMISSION, looks(first, pdq(), quality=80), CLEAR)
    keeper.concluded(SUBMISSION, looks(pdq()), MATCH)
    keeper.concluded(SUBMISSION, looks(pdq(), quality=49), CLEAR)
    keeper.concluded(SUBMISSION, looks(), CLEAR)
    await keeper.settle()
    assert await kept(database) == [first + bytes([80])]
    assert {column.name for column in schema.kept_values.columns} == {"id", "day", "value"}


async def test_what_a_gate_that_stops_was_about_to_write_is_written_at_its_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turn is cancelled in the middle, and another is taken."""
    keeper = traffic(database)
    keeper.concluded(SUBMISSION, looks(pdq()), CLEAR)
    writing = asyncio.Event()

    async def never(*_: object) -> None:
        writing.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(kept_values, "keep", never)
        turn = asyncio.create_task(keeper.settle())
        await writing.wait()
        turn.cancel()
        await asyncio.wait([turn])
    await keeper.settle()
    assert len(await kept(database)) == 1


async def test_a_share_of_the_traffic_is_drawn(database: Database) -> None:
    keeper = traffic(database, share=0.2)
    for _ in range(500):
        keeper.concluded(SUBMISSION, looks(pdq()), CLEAR)
    await keeper.settle()
    assert 50 < len(await kept(database)) < 150


async def test_what_is_kept_goes_after_its_days_and_at_once_if_nothing_is_to_be_kept(
    database: Database,
) -> None:
    """A gate looks when it starts, and every hour."""
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=age) for age in range(9)]
    for day in days:
        await kept_values.keep(database, day, [bytes(33)])

    async def left() -> list[date]:
        async with database.connect() as connection:
            return sorted(await connection.scalars(select(schema.kept_values.c.day)), reverse=True)

    clock = Clock()
    await traffic(database, days=7, clock=clock).settle()
    assert await left() == days[:7]
    keeper = traffic(database, days=3, clock=clock)
    await keeper.settle()
    assert await left() == days[:3]
    await kept_values.keep(database, days[8], [bytes(33)])
    clock.now = 3599
    await keeper.settle()
    assert days[8] in await left()
    clock.now = 3600
    await keeper.settle()
    assert days[8] not in await left()
    await traffic(database, days=0).settle()
    assert await left() == []


async def test_what_could_not_be_written_is_written_later_and_memory_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_UNWRITTEN", 5)
    keeper = traffic(database)

    def fail() -> None:
        message = "the database does not answer"
        raise NotReadyError(message)

    for _ in range(20):
        keeper.concluded(SUBMISSION, looks(pdq()), CLEAR)
    with monkeypatch.context() as broken:
        broken.setattr(Database, "begin", lambda _: fail())
        with pytest.raises(NotReadyError):
            await keeper.settle()
    await keeper.settle()
    assert len(await kept(database)) == 5


@pytest.mark.parametrize("more_entries", [False, True])
async def test_a_dry_run_tells_what_a_bank_would_match_and_at_which_distance(
    database: Database, *, more_entries: bool
) -> None:
    """The same whichever side is larger; each medium counts once, at its nearest entry."""
    await make(
        database,
        kind=BankKind.OTHER,
        action=BankAction.BLOCK,
        tier_actions={Tier.NEAR: BankAction.OBSERVE},
    )
    values = [pdq() for _ in range(3)]
    others = [pdq() for _ in range(20 if more_entries else 0)]
    await add(database, [NewSignal(SignalType.PDQ, value) for value in (*values, *others)])
    seen = [flip(values[0], 5), flip(values[0], 30), flip(values[1], 31), flip(values[2], 32)]
    unlike = [pdq() for _ in range(0 if more_entries else 20)]
    await kept_values.keep(database, date(2026, 1, 1), [each + bytes([90]) for each in (*seen, *unlike)])
    done: list[tuple[int, int]] = []
    tried = await dry_run(database, "a", progress=lambda *told: done.append(told))
    assert (tried.media, tried.entries, tried.matched) == (4 + len(unlike), 3 + len(others), 3)
    assert {bits: count for bits, count in enumerate(tried.by_distance) if count} == {5: 1, 30: 1, 31: 1}
    assert tried.by_action == {BankAction.BLOCK: 1, BankAction.OBSERVE: 2}
    async with database.connect() as connection:
        found = await bank_listing.find(connection, "a", [NewSignal(SignalType.PDQ, values[0])])
    assert tried.busiest[0] == (found[0].id, 2)
    assert done[-1][0] == done[-1][1]
    narrow = await dry_run(database, "a", threshold=10)
    assert (narrow.matched, len(narrow.by_distance)) == (1, 11)
    assert (await dry_run(database, "a", threshold=40)).matched == 4


async def test_a_dry_run_leaves_out_what_is_not_in_force(database: Database) -> None:
    """Disabled and removed entries, those of other banks, and media below the bank's least quality."""
    await make(database, minimum_quality=70)
    await make(database, "b")
    values = [pdq() for _ in range(4)]
    signals = [NewSignal(SignalType.PDQ, value) for value in values]
    await add(database, signals[:2])
    await add(database, signals[2:], "b")
    async with database.connect() as connection:
        (entry,) = await bank_listing.find(connection, "a", signals[:1])
    async with database.begin() as connection:
        await entry_marks.disable(connection, entry.id, why="w", by="cli")
    await kept_values.keep(database, date(2026, 1, 1), [value + bytes([80]) for value in values])
    await kept_values.keep(database, date(2026, 1, 1), [values[1] + bytes([60])])
    tried = await dry_run(database, "a")
    assert (tried.media, tried.entries, tried.matched) == (4, 1, 1)


async def test_a_list_is_tried_before_it_is_imported(database: Database) -> None:
    await make(database)
    values = [pdq() for _ in range(3)]
    await kept_values.keep(database, date(2026, 1, 1), [flip(values[1], 3) + bytes([80])])
    tried = await dry_run(database, "a", listed=values)
    assert (tried.entries, tried.matched, tried.busiest) == (3, 1, ((2, 1),))
    async with database.connect() as connection:
        assert await bank_listing.page(connection, "a") == ()


async def test_a_dry_run_of_nothing_matches_nothing_and_of_no_bank_is_told(database: Database) -> None:
    await make(database)
    tried = await dry_run(database, "a")
    assert (tried.media, tried.entries, tried.matched, tried.busiest) == (0, 0, 0, ())
    with pytest.raises(NotFoundError):
        await dry_run(database, "none")
