"""The banks in force follow the store: soon, whole, and never older or emptier than they were."""

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import stat
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app import worker
from app.banks import current
from app.banks.current import CurrentBanks
from app.entries import Changes, Entries, Head, NewSignal
from app.errors import NotReadyError
from app.matching import snapshot
from app.matching.snapshot import building, prepare, snapshots_in
from app.media import Background, BankAction, BankKind, Digests, Rendering, Signals, SignalType
from app.settings import StoreSettings
from app.store import alarms, schema
from app.store.banks import bank_signals, bank_sweeping, banks
from app.store.banks.bank_reader import BankReader
from app.store.database import Database

SMALL = 5
MERGED = 12
LOADED = 18
PATIENCE = 20

on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)
pytestmark = on_sqlite


@pytest.fixture(autouse=True)
def few_entries_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_signals, "SMALL_CHANGE", SMALL)
    monkeypatch.setattr(current, "MERGED_ABOVE", MERGED)
    monkeypatch.setattr(current, "LOADED_ABOVE_SNAPSHOT", LOADED)
    monkeypatch.setattr(current, "_OTHER_BUILDER_SECONDS", 0.01)
    monkeypatch.setattr(current, "_BUILD_AGAIN_SECONDS", 0.01)


class SwitchedStore:
    """A real store that can be cut off, or changed for another, while it is followed."""

    def __init__(self, database: Database) -> None:
        self.reader = BankReader(database)
        self.cut_off = False
        self.asked = 0

    def _answer(self) -> BankReader:
        self.asked += 1
        if self.cut_off:
            raise NotReadyError("database (cut off)")
        return self.reader

    async def head(self, generation: int, nonce: bytes) -> Head:
        return await self._answer().head(generation, nonce)

    async def changes(self, since: int) -> Changes:
        return await self._answer().changes(since)

    def entries(self, of: SignalType, generation: int) -> AsyncGenerator[Entries, None]:
        # The generator itself: one around it would leave it, and its connection, open when it is closed.
        return self._answer().entries(of, generation)


@pytest.fixture
def switched(database: Database) -> SwitchedStore:
    return SwitchedStore(database)


@pytest.fixture
async def follow(switched: SwitchedStore, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts to follow the store; what was started is stopped at the end."""
    started: list[CurrentBanks] = []

    async def begin(**options: Any) -> CurrentBanks:
        following = CurrentBanks(switched, tmp_path, **({"poll_seconds": 0.01} | options))
        started.append(following)
        await following.start()
        return following

    yield begin
    for following in started:
        await following.close()


def signal(number: int, of: SignalType = SignalType.SHA256) -> NewSignal:
    return NewSignal(of, hashlib.sha256(str(number).encode()).digest()[: of.size_bytes])


async def make(
    database: Database, name: str = "a", kind: BankKind = BankKind.OTHER, by: str = "cli", **policy: Any
) -> None:
    wanted = banks.Policy(**{"action": BankAction.REPORT} | policy)
    async with database.begin() as connection:
        await banks.create(connection, name, kind, wanted, by=by)


async def add(database: Database, *numbers: int, name: str = "a", of: SignalType = SignalType.SHA256) -> int:
    async with database.begin() as connection:
        added = await bank_signals.add(connection, name, [signal(number, of) for number in numbers], by="cli")
    return added.generation


async def remove(database: Database, *numbers: int, name: str = "a") -> int:
    async with database.begin() as connection:
        removed = await bank_signals.remove(
            connection, name, [signal(number) for number in numbers], by="cli"
        )
    return removed.generation


def found(following: CurrentBanks, number: int) -> bool:
    """Whether a medium with this SHA-256 matches."""
    signals = Signals(Digests(b"\1" * 16, b"\1" * 20, signal(number).value), ())
    return bool(following.ready(None).consult(signals, None)[1])


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - what holds is asked of the outside, as an operator would
            await asyncio.sleep(0.005)


async def in_force(following: CurrentBanks, generation: int) -> None:
    async with asyncio.timeout(PATIENCE):
        await following.wait_for(generation)


async def test_what_is_small_is_in_force_when_following_has_begun(
    database: Database, follow: Callable[..., Any]
) -> None:
    await make(database)
    await add(database, 1, 2)
    following = await follow()
    assert following.generation == 2
    assert (found(following, 1), found(following, 3)) == (True, False)
    assert snapshots_in(following._directory) == []


async def test_small_changes_come_into_force_soon(database: Database, follow: Callable[..., Any]) -> None:
    await make(database)
    await add(database, 1, 2)
    following = await follow()
    await in_force(following, await add(database, 3))
    assert found(following, 3)
    await in_force(following, await remove(database, 1))
    assert [found(following, number) for number in (1, 2, 3)] == [False, True, True]
    async with database.begin() as connection:
        changed = await banks.configure(connection, "a", action=BankAction.OBSERVE, by="cli")
    await until(lambda: following.ready(None).banks["a"].action is BankAction.OBSERVE)
    assert following.ready(None).banks["a"] == changed


async def test_what_was_asked_for_stays_as_it_was_for_whoever_holds_it(
    database: Database, follow: Callable[..., Any]
) -> None:
    """A generation is immutable: a medium is decided by one of them."""
    await make(database)
    await add(database, 1)
    following = await follow()
    held = following.ready(None)
    await in_force(following, await remove(database, 1))
    medium = Signals(Digests(b"\1" * 16, b"\1" * 20, signal(1).value), ())
    assert held.consult(medium, None)[1]


async def test_a_process_that_starts_answers_nothing_before_a_large_import_is_loaded(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    await make(database)
    await add(database, *range(20))
    directory = tmp_path / "snapshots"
    prepare(directory)
    with building(directory):
        following = await follow()
        with pytest.raises(NotReadyError):
            following.ready(None)
        assert following.generation == 0
        assert following.status().failing == "not loaded yet"
    await in_force(following, 2)
    assert all(found(following, number) for number in range(20))
    assert following.status().snapshot_generation == 2


async def test_a_small_change_behind_a_large_one_is_in_force_before_it(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    await make(database)
    await add(database, 1)
    following = await follow()
    prepare(tmp_path / "snapshots")
    with building(tmp_path / "snapshots") as mine:
        assert mine
        large = await add(database, *range(100, 130))
        small = await add(database, 2)
        await until(lambda: found(following, 2))
        await in_force(following, large - 1)
        await until(lambda: following.status().building)
        await remove(database, 1)
        await until(lambda: not found(following, 1))
        assert not found(following, 100)
        assert following.generation == large - 1, "the large one is not in force"
    await in_force(following, small)
    assert all(found(following, number) for number in (2, *range(100, 130)))
    assert not found(following, 1)


async def test_a_bank_whose_first_import_is_large_counts_when_that_is_in_force(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    await make(database)
    await add(database, 1)
    await make(database, "b")
    following = await follow()
    prepare(tmp_path / "snapshots")
    with building(tmp_path / "snapshots"):
        large = await add(database, *range(100, 130), name="b")
        await until(lambda: following.status().building)
        following.ready(None)
        with pytest.raises(NotReadyError):
            following.ready(frozenset({"b"}))
    await in_force(following, large)
    following.ready(frozenset({"b"}))


async def test_many_small_changes_are_merged_into_a_snapshot(
    database: Database, follow: Callable[..., Any]
) -> None:
    await make(database)
    following = await follow()
    for number in range(15):
        generation = await add(database, number)
    await in_force(following, generation)
    await until(lambda: following.status().snapshot_generation > 0)
    await until(lambda: not following.status().building)
    await until(lambda: len(following.ready(None).indexes[0].parts) > 0)
    assert all(found(following, number) for number in range(15))
    assert following.ready(None).counts == {(1, SignalType.SHA256): 15}


async def test_a_process_that_starts_again_opens_the_snapshot_that_is_there(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    await make(database)
    await add(database, *range(20))
    await in_force(await follow(), 2)
    await add(database, 50)
    await remove(database, 3)
    with building(tmp_path / "snapshots"):
        again = await follow()
        assert again.generation == 4
        assert [found(again, number) for number in (3, 4, 50)] == [False, True, True]
        assert again.ready(None).counts == {(1, SignalType.SHA256): 20}


async def test_a_process_that_starts_does_not_wait_for_what_is_only_being_merged(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    await make(database)
    for number in range(MERGED + 1):
        await add(database, number)
    prepare(tmp_path / "snapshots")
    with building(tmp_path / "snapshots"):
        following = await follow()
        assert all(found(following, number) for number in range(MERGED + 1))
        assert following.status().building
        for number in range(MERGED + 1, LOADED + 1):
            await add(database, number)
        assert (await follow()).generation == 0, "this is too much for one that starts"
        await until(lambda: found(following, LOADED))
    await until(lambda: following.status().snapshot_generation > 0)


async def damaged_snapshot(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> tuple[snapshot.Name, bytes]:
    """A snapshot of 20 entries with a bit that is wrong, and what it was."""
    await make(database)
    await add(database, *range(20))
    first = await follow()
    await in_force(first, 2)
    await first.close()
    (name,) = snapshots_in(tmp_path / "snapshots")
    whole = name.path.read_bytes()
    # Of the values themselves, which only the full checksum covers.
    name.path.write_bytes(whole[:8192] + bytes([whole[8192] ^ 1]) + whole[8193:])
    return name, whole


async def test_a_damaged_snapshot_is_refused_and_built_again(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    name, whole = await damaged_snapshot(database, follow, tmp_path)
    with building(tmp_path / "snapshots"):
        again = await follow()
        assert again.generation == 0
    await in_force(again, 2)
    assert all(found(again, number) for number in range(20))
    assert name.path.read_bytes() == whole


async def test_a_damaged_snapshot_that_another_has_to_build_anew_is_read_once(
    database: Database,
    follow: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As on a volume that only the worker writes: told once, and in force once the file is another."""
    caplog.set_level(logging.INFO)
    name, whole = await damaged_snapshot(database, follow, tmp_path)
    looks: list[Path] = []

    def counted(directory: Path) -> list[snapshot.Name]:
        looks.append(directory)
        return snapshots_in(directory)

    monkeypatch.setattr(current, "snapshots_in", counted)
    with building(tmp_path / "snapshots"):
        again = await follow()
        await until(lambda: len(_awaited(caplog)) > 0)
        enough = len(looks) + 10
        await until(lambda: len(looks) > enough)
        assert again.generation == 0
        for message in ("banks_snapshot_refused", "banks_snapshot_awaited"):
            assert [record.getMessage() for record in caplog.records].count(message) == 1
        mended = name.path.with_suffix(".mended")
        mended.write_bytes(whole)
        mended.replace(name.path)
        await in_force(again, 2)
    assert all(found(again, number) for number in range(20))


async def test_a_snapshot_of_another_database_is_not_taken_for_this_ones(
    database: Database, follow: Callable[..., Any], tmp_path: Path, switched: SwitchedStore
) -> None:
    """Both came to the same generation with other entries."""
    await make(database)
    await add(database, *range(20))
    first = await follow()
    await in_force(first, 2)
    await first.close()
    other = Database.open(StoreSettings(state_dir=tmp_path / "other"))
    await other.migrate_if_empty()
    await make(other)
    await add(other, *range(100, 120))
    switched.reader = BankReader(other)
    again = await follow()
    await in_force(again, 2)
    assert (found(again, 1), found(again, 101)) == (False, True)
    assert len(snapshots_in(tmp_path / "snapshots")) == 1
    await other.close()


async def test_a_snapshot_under_the_name_of_another_is_refused(
    database: Database, follow: Callable[..., Any], tmp_path: Path, switched: SwitchedStore
) -> None:
    """Else what it holds would decide until the store is asked again."""
    await make(database)
    await add(database, *range(20))
    first = await follow()
    await in_force(first, 2)
    await first.close()
    (name,) = snapshots_in(tmp_path / "snapshots")
    other = Database.open(StoreSettings(state_dir=tmp_path / "other"))
    await other.migrate_if_empty()
    await make(other)
    await add(other, *range(100, 120))
    switched.reader = BankReader(other)
    second = await follow()
    await in_force(second, 2)
    await second.close()
    await other.close()
    (theirs,) = snapshots_in(tmp_path / "snapshots")
    theirs.path.replace(name.path)
    switched.reader = BankReader(database)
    with building(tmp_path / "snapshots"):
        again = await follow()
        assert again.generation == 0
    await in_force(again, 2)
    assert (found(again, 1), found(again, 101)) == (True, False)


async def test_when_the_history_changes_the_old_one_answers_until_the_new_one_is_whole(
    database: Database, follow: Callable[..., Any], tmp_path: Path, switched: SwitchedStore
) -> None:
    """As when a backup is restored under a running process."""
    await make(database)
    await add(database, *range(20))
    following = await follow()
    await in_force(following, 2)
    other = Database.open(StoreSettings(state_dir=tmp_path / "other"))
    await other.migrate_if_empty()
    await make(other, "restored")
    await add(other, *range(100, 120), name="restored")
    await until(lambda: not following.status().building)
    with building(tmp_path / "snapshots") as mine:
        assert mine
        switched.reader = BankReader(other)
        await until(lambda: following.status().building)
        assert (found(following, 1), found(following, 101)) == (True, False)
    await until(lambda: "restored" in following.ready(None).banks)
    assert (found(following, 1), found(following, 101)) == (False, True)
    await following.close()
    await other.close()


async def test_what_is_in_force_goes_on_answering_while_the_store_is_gone(
    database: Database, follow: Callable[..., Any], switched: SwitchedStore
) -> None:
    await make(database)
    await add(database, 1)
    following = await follow()
    switched.cut_off = True
    asked = switched.asked
    await until(lambda: switched.asked > asked + 3)
    assert found(following, 1)
    old = following.status().asked_seconds_ago
    assert old is not None
    assert old > 0.02
    back_at = time.monotonic()
    switched.cut_off = False
    await in_force(following, await add(database, 2))
    assert found(following, 2)
    new = following.status().asked_seconds_ago
    assert new is not None
    assert new < time.monotonic() - back_at


async def test_a_process_that_starts_without_its_store_is_not_ready_until_that_answers(
    database: Database, follow: Callable[..., Any], switched: SwitchedStore
) -> None:
    await make(database)
    await add(database, 1)
    switched.cut_off = True
    following = await follow()
    with pytest.raises(NotReadyError):
        following.ready(None)
    switched.cut_off = False
    await in_force(following, 2)
    assert found(following, 1)


async def test_if_following_ends_by_a_defect_nothing_is_decided_any_more(
    database: Database,
    follow: Callable[..., Any],
    switched: SwitchedStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await make(database)
    await add(database, 1)
    following = await follow()

    async def defect(_generation: int, _nonce: bytes) -> Head:
        raise ZeroDivisionError

    monkeypatch.setattr(switched, "head", defect)
    await until(lambda: following.status().failing is not None)
    with pytest.raises(NotReadyError, match="not followed"):
        following.ready(None)
    with pytest.raises(NotReadyError):
        await following.wait_for(99)


async def test_two_processes_on_one_directory_build_once(
    database: Database, follow: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    finish = snapshot.SnapshotWriter.finish

    def counted(writer: snapshot.SnapshotWriter) -> Path:
        written.append(finish(writer))
        return written[-1]

    monkeypatch.setattr(snapshot.SnapshotWriter, "finish", counted)
    await make(database)
    following = [await follow() for _ in range(3)]
    generation = await add(database, *range(30))
    for each in following:
        await in_force(each, generation)
        assert found(each, 29)
    assert len(written) == 1
    assert len(snapshots_in(tmp_path / "snapshots")) == 1


async def test_a_build_tells_how_many_entries_it_has_read(
    database: Database, follow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int] | None] = []
    finish = snapshot.SnapshotWriter.finish

    def telling(writer: snapshot.SnapshotWriter) -> Path:
        told.append(following.build_read)
        return finish(writer)

    monkeypatch.setattr(snapshot.SnapshotWriter, "finish", telling)
    await make(database)
    following = await follow()
    assert following.build_read is None
    await in_force(following, await add(database, *range(30)))
    assert told == [(30, 30)]
    assert following.build_read is None


async def test_a_build_that_fails_leaves_what_is_in_force_and_is_tried_again(
    database: Database, follow: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(database)
    await add(database, *range(20))
    following = await follow()
    await in_force(following, 2)
    failures: list[OSError] = []
    finish = snapshot.SnapshotWriter.finish

    def full(writer: snapshot.SnapshotWriter) -> Path:
        if len(failures) < 3:
            failures.append(OSError(errno.ENOSPC, "disk full"))
            raise failures[-1]
        return finish(writer)

    monkeypatch.setattr(snapshot.SnapshotWriter, "finish", full)
    generation = await add(database, *range(100, 130))
    await until(lambda: len(failures) == 3)
    assert found(following, 1)
    await in_force(following, generation)
    assert found(following, 129)
    assert not list((tmp_path / "snapshots").glob("*.unfinished"))


async def test_closing_gives_up_a_build_and_leaves_the_last_good_snapshot(
    database: Database, follow: Callable[..., Any], tmp_path: Path, switched: SwitchedStore
) -> None:
    await make(database)
    await add(database, *range(20))
    following = await follow()
    await in_force(following, 2)
    reached = asyncio.Event()
    entries = switched.reader.entries

    async def endless(of: SignalType, generation: int) -> AsyncGenerator[Entries, None]:
        async with contextlib.aclosing(entries(of, generation)) as chunks:
            async for some in chunks:
                yield some
                reached.set()
                await asyncio.Event().wait()

    switched.entries = endless  # type: ignore[method-assign]
    await add(database, *range(100, 130))
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
        await following.close()
    assert [name.generation for name in snapshots_in(tmp_path / "snapshots")] == [2]
    assert not list((tmp_path / "snapshots").glob("*.unfinished"))
    with building(tmp_path / "snapshots") as mine:
        assert mine


async def test_older_snapshots_are_removed_once_a_newer_one_is_there(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    await make(database)
    following = await follow()
    for begin in (0, 100, 200):
        await in_force(following, await add(database, *range(begin, begin + 20)))
    await until(lambda: len(snapshots_in(tmp_path / "snapshots")) == 1)
    assert following.status().snapshot_generation == 4
    assert all(found(following, number) for number in (0, 19, 100, 219))


async def test_a_snapshot_older_than_what_was_pruned_is_not_used(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    """Its removed entries would match again: nobody can tell any more that they were removed."""
    await make(database)
    await add(database, *range(20))
    first = await follow()
    await in_force(first, 2)
    await first.close()
    generation = await remove(database, 3)
    await bank_sweeping.prune(database, generation)
    again = await follow()
    await in_force(again, generation)
    assert (found(again, 3), found(again, 4)) == (False, True)
    assert again.status().snapshot_generation == generation


async def test_entries_of_a_bank_that_was_deleted_do_not_come_back_with_a_new_one(
    database: Database, follow: Callable[..., Any]
) -> None:
    await make(database)
    await make(database, "b")
    await add(database, 999, name="b")
    await add(database, *range(20))
    following = await follow()
    await in_force(following, 4)
    async with database.begin() as connection:
        await banks.delete_bank(connection, "a", by="cli")
    await bank_sweeping.sweep(database)
    await make(database)
    generation = await add(database, 50)
    await in_force(following, generation)
    assert [found(following, number) for number in (1, 50, 999)] == [False, True, True]


NAMES = [None, frozenset({"a"}), frozenset({"a", "b"}), frozenset({"b"}), frozenset({"gone"}), frozenset()]


async def readiness(following: CurrentBanks) -> list[bool]:
    """For each of NAMES, whether those banks are ready."""
    told = []
    for names in NAMES:
        try:
            following.ready(names)
        except NotReadyError:
            told.append(False)
        else:
            told.append(True)
    return told


async def test_readiness_follows_the_contract(database: Database, follow: Callable[..., Any]) -> None:
    following = await follow()
    assert await readiness(following) == [False] * 6, "no bank at all"
    await make(database)
    await make(database, "b")
    await in_force(following, 2)
    assert await readiness(following) == [False] * 6, "none has had its first import"
    await in_force(following, await add(database, 1))
    assert await readiness(following) == [True, True, True, False, False, False], "a counts, b does not yet"
    await in_force(following, await add(database, 2, name="b"))
    assert await readiness(following) == [True, True, True, True, False, False], "both count"
    await in_force(following, await remove(database, 2, name="b"))
    assert await readiness(following) == [False, True, False, False, False, False], "b was emptied"
    async with database.begin() as connection:
        gone = await banks.delete_bank(connection, "b", by="cli")
    await in_force(following, gone)
    assert await readiness(following) == [True, True, False, False, False, False], "b is gone"


async def test_a_bank_that_an_exchange_feeds_must_not_grow_old(
    database: Database, follow: Callable[..., Any]
) -> None:
    moment = datetime.now(UTC)
    await make(database)
    await add(database, 1)
    async with database.begin() as connection:
        await connection.execute(update(schema.banks).values(max_age_seconds=60))
    following = await follow(now=lambda: moment)
    following.ready(None)
    moment += timedelta(seconds=70)
    with pytest.raises(NotReadyError, match="older than its largest age"):
        following.ready(None)
    assert following.status().failing is not None


async def test_a_bank_without_a_largest_age_never_grows_old(
    database: Database, follow: Callable[..., Any]
) -> None:
    await make(database)
    await add(database, 1)
    following = await follow(now=lambda: datetime.now(UTC) + timedelta(days=4000))
    following.ready(None)


async def test_the_status_tells_policies_counts_and_ages(
    database: Database, follow: Callable[..., Any]
) -> None:
    await make(
        database,
        kind=BankKind.CSAM,
        action=BankAction.BLOCK,
        no_report_reason="another team reports",
        thresholds={SignalType.PDQ: 12},
    )
    await make(database, "b")
    await add(database, 1, 2)
    await add(database, 3, of=SignalType.PDQ)
    following = await follow()
    status = following.status()
    assert (status.generation, status.snapshot_generation, status.building) == (4, 0, False)
    assert status.failing is None
    first, second = status.banks
    assert first.age_seconds is not None
    assert replace(first, age_seconds=0) == current.BankStatus(
        name="a",
        kind="csam",
        action="block",
        counts=True,
        entries={"pdq": 1, "phash": 0, "md5": 0, "sha1": 0, "sha256": 2},
        thresholds={"pdq": 12, "phash": 6},
        tiers={"strong": "block", "near": "block"},
        minimum_quality=50,
        no_report_reason="another team reports",
        age_seconds=0,
    )
    assert (second.counts, second.age_seconds) == (False, None)


async def test_pdq_entries_match_from_the_snapshot_and_beside_it(
    database: Database, follow: Callable[..., Any]
) -> None:
    await make(database)
    await add(database, *range(20), of=SignalType.PDQ)
    following = await follow()
    await in_force(following, 2)
    await in_force(following, await add(database, 30, of=SignalType.PDQ))
    for number in (3, 30):
        rendering = Rendering(0, Background.NONE, signal(number, SignalType.PDQ).value, 100, b"\1" * 8)
        medium = Signals(Digests(b"\1" * 16, b"\1" * 20, b"\1" * 32), (rendering,))
        consulted, (match,) = following.ready(None).consult(medium, None)
        assert consulted.holds_pdq
        assert match.entry_value == rendering.pdq


async def test_nothing_is_asked_twice_while_nothing_changes(
    database: Database, follow: Callable[..., Any], switched: SwitchedStore
) -> None:
    """Polling is one question a second, whatever the banks hold."""
    await make(database)
    await add(database, 1)
    await follow()
    read: list[int] = []
    changes = switched.reader.changes

    async def counted(since: int) -> Changes:
        read.append(since)
        return await changes(since)

    switched.changes = counted  # type: ignore[method-assign]
    asked = switched.asked
    await until(lambda: switched.asked > asked + 5)
    assert read == []


async def test_a_read_only_directory_is_no_reason_to_stop_answering(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    await make(database)
    await add(database, 1)
    following = await follow()
    (tmp_path / "snapshots").write_text("in the way")
    await add(database, *range(100, 130))
    small = await add(database, 2)
    await until(lambda: found(following, 2))
    assert following.generation < small
    (tmp_path / "snapshots").unlink()
    await in_force(following, small)


async def test_a_snapshot_that_could_not_be_read_is_tried_again_once_its_mode_is_mended(
    database: Database, follow: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the same file then, of the same time. Who may read all, as root, is refused here by hand."""
    await (await loaded_large(database, follow)).close()
    (name,) = snapshots_in(tmp_path / "snapshots")
    name.path.chmod(0)

    def opened(path: Path) -> snapshot.Snapshot:
        if not path.stat().st_mode & stat.S_IRUSR:
            raise snapshot.SnapshotError("cannot be mapped: PermissionError")
        return snapshot.open_snapshot(path)

    monkeypatch.setattr(current, "open_snapshot", opened)
    with building(tmp_path / "snapshots"):
        again = await follow()
        assert again.generation == 0
        refused = name.path.stat().st_ctime_ns
        # The kernel's clock of files may stand still for some milliseconds.
        while name.path.stat().st_ctime_ns == refused:
            name.path.chmod(0o400)
        await in_force(again, 2)


async def test_ops_are_called_while_the_index_cannot_be_built(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    """As on a full disk: gates go on with what they have, and what was imported is not in force."""
    await make(database)
    await add(database, 1)
    following = await follow()
    (tmp_path / "snapshots").write_text("in the way")
    generation = await add(database, *range(100, 130))
    await until(lambda: following.status().build_failing is not None)
    assert following.status().build_failing == "FileExistsError, EEXIST"
    await worker.watch_index(database, following)
    async with database.connect() as connection:
        (alarm,) = await alarms.standing(connection)
    assert (alarm.kind, alarm.subject) == (alarms.AlarmKind.INDEX_NOT_BUILT, "banks")
    (tmp_path / "snapshots").unlink()
    await in_force(following, generation)
    assert following.status().build_failing is None
    await worker.watch_index(database, following)
    async with database.connect() as connection:
        assert await alarms.standing(connection) == ()


async def loaded_large(database: Database, follow: Callable[..., Any]) -> CurrentBanks:
    """A process that has a large import in force from a snapshot."""
    await make(database)
    await add(database, *range(20))
    following: CurrentBanks = await follow()
    await in_force(following, 2)
    return following


def spoil(path: Path, how: str) -> None:
    """Do to a snapshot what disks and people do."""
    if how == "deleted":
        path.unlink()
    elif how == "replaced":
        path.unlink()
        path.write_bytes(b"something else")
    elif how == "flipped":
        whole = path.read_bytes()
        times = path.stat()
        with path.open("r+b") as file:
            file.seek(8192)
            file.write(bytes([whole[8192] ^ 1]))
        # As a copy that keeps its times does; the one that nobody can set may stand still for milliseconds.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        while path.stat().st_ctime_ns == times.st_ctime_ns:
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        # Its last section is not looked at any more.
        os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("how", ["deleted", "replaced", "flipped", "truncated"])
async def test_a_snapshot_that_is_lost_while_it_is_in_force_is_written_anew(
    database: Database,
    follow: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """Else a gate that starts later would find none, and wait for a worker that sees no reason to build."""
    following = await loaded_large(database, follow)
    (name,) = snapshots_in(tmp_path / "snapshots")
    whole = name.path.read_bytes()
    spoil(name.path, how)
    await until(lambda: name.path.exists() and name.path.read_bytes() == whole)
    await until(lambda: not following.status().building)
    # Where it was changed in place, what was in force was changed with it, until the new one is.
    await until(lambda: all(found(following, number) for number in range(20)))
    lost = [record for record in caplog.records if record.getMessage() == "banks_snapshot_lost"]
    assert len(lost) == 1
    with building(tmp_path / "snapshots"):
        again = await follow()
        assert again.generation == 2, "it opens what was written anew"


async def test_a_lost_snapshot_that_another_writes_anew_is_opened_by_whoever_may_not_write(
    database: Database, follow: Callable[..., Any], tmp_path: Path
) -> None:
    """As gates do that mount the worker's volume: all map one file again."""
    following = await loaded_large(database, follow)
    (name,) = snapshots_in(tmp_path / "snapshots")
    whole = name.path.read_bytes()
    with building(tmp_path / "snapshots"):
        name.path.unlink()
        await until(lambda: following.status().building)
        assert all(found(following, number) for number in range(20)), "what it has mapped goes on answering"
        small = await add(database, 100)
        await in_force(following, small)
        unfinished = name.path.with_suffix(".unfinished")
        unfinished.write_bytes(whole)
        unfinished.replace(name.path)
        await until(lambda: not following.status().building)
    assert following.status().snapshot_generation == 2
    assert found(following, 100)
    assert found(following, 7)


async def test_a_small_change_does_not_hide_that_a_lost_snapshot_cannot_be_written_anew(
    database: Database, follow: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ops would hear that all is well again, and the next gate to start has no index."""
    following = await loaded_large(database, follow)
    (tmp_path / "snapshots").rename(tmp_path / "away")
    (tmp_path / "snapshots").write_text("in the way")
    await until(lambda: following.status().build_failing is not None)
    monkeypatch.setattr(current, "_BUILD_AGAIN_SECONDS", 60)
    small = await add(database, 100)
    await in_force(following, small)
    assert following.status().build_failing == "FileExistsError, EEXIST"


async def test_ops_are_called_when_the_disk_of_whoever_builds_turns_read_only(
    database: Database, follow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kernel makes it after errors: the worker would wait for another to build, who is itself.

    Mounting one takes privileges that tests may lack: the kernel's answer is played here.
    """
    opened = os.open

    def refuse(path: Path, flags: int, *others: int) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *others)

    monkeypatch.setattr(current, "_SAID_AGAIN_SECONDS", 0.05)
    following = await loaded_large(database, follow)
    with monkeypatch.context() as read_only:
        read_only.setattr(os, "open", refuse)
        generation = await add(database, *range(100, 130))
        await until(lambda: following.status().build_failing is not None)
        assert "read-only" in str(following.status().build_failing)
        await worker.watch_index(database, following)
        async with database.connect() as connection:
            (alarm,) = await alarms.standing(connection)
        assert (alarm.kind, alarm.subject) == (alarms.AlarmKind.INDEX_NOT_BUILT, "banks")
    await in_force(following, generation)
    assert following.status().build_failing is None


async def test_whoever_waits_for_another_to_build_says_for_whom_and_again(
    database: Database,
    follow: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that hangs while it has the right to build keeps large imports waiting: ops must see which."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(current, "_SAID_AGAIN_SECONDS", 0.05)
    await make(database)
    await add(database, *range(20))
    prepare(tmp_path / "snapshots")
    with building(tmp_path / "snapshots"):
        following = await follow()
        await until(lambda: len(_awaited(caplog)) > 1)
    first, second, *_ = _awaited(caplog)
    assert (first.levelno, second.levelno) == (logging.INFO, logging.WARNING)
    assert str(second.cordon_fields["builder"]).startswith(f"process {os.getpid()} since ")  # type: ignore[attr-defined]
    await in_force(following, 2)


def _awaited(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == "banks_snapshot_awaited"]
