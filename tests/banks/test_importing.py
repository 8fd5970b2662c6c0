"""From a list file into a bank, all or nothing, and into force. On both databases."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest

from app.banks import importing
from app.banks.current import CurrentBanks
from app.banks.importing import BadLinesError, Imported, ListFile, import_list, wait_in_force
from app.banks.lists import ListError
from app.errors import ConflictError, NotFoundError
from app.media import BankAction, BankKind, Digests, Signals, SignalType
from app.store import processes
from app.store.banks import bank_signals, bank_sweeping, banks
from app.store.banks.bank_reader import BankReader
from app.store.database import Database

on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def few_signals_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_signals, "SMALL_CHANGE", 5)
    monkeypatch.setattr(bank_signals, "STAGED_AT_ONCE", 4)


@pytest.fixture
async def bank(database: Database) -> str:
    async with database.begin() as connection:
        made = await banks.create(connection, "a", BankKind.OTHER, banks.Policy(BankAction.REPORT), by="cli")
    return made.name


def digest(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def listed(folder: Path, *lines: str, skip_bad: bool = False) -> ListFile:
    path = folder / "list.csv"
    path.write_text("\n".join(["type,value", *lines]) + "\n")
    return ListFile(path, skip_bad=skip_bad)


def lines(*numbers: int) -> list[str]:
    return [f"sha256,{digest(number)}" for number in numbers]


async def count(database: Database) -> int:
    async with database.connect() as connection:
        return sum((await bank_signals.counts(connection)).values())


async def test_a_small_list_is_imported_at_once(database: Database, bank: str, tmp_path: Path) -> None:
    done = await import_list(database, bank, listed(tmp_path, *lines(1, 2, 2)), by="cli")
    assert done == Imported(generation=2, added=2, present=1, left_out=0)
    assert await count(database) == 2


async def test_a_large_list_is_staged_and_then_there_at_once(
    database: Database, bank: str, tmp_path: Path
) -> None:
    seen: list[tuple[str, int]] = []
    done = await import_list(
        database,
        bank,
        listed(tmp_path, *lines(*range(10), 3)),
        by="cli",
        progress=lambda step, number: seen.append((step, number)),
    )
    assert done == Imported(generation=2, added=10, present=1, left_out=0)
    assert await count(database) == 10
    assert seen == [("check", 12), ("import", 4), ("import", 8), ("import", 11)]
    again = await import_list(database, bank, listed(tmp_path, *lines(*range(11))), by="cli")
    assert (again.added, again.present) == (1, 10)


async def test_what_is_imported_comes_into_force(database: Database, bank: str, tmp_path: Path) -> None:
    following = CurrentBanks(BankReader(database), tmp_path, poll_seconds=0.01)
    await following.start()
    done = await import_list(database, bank, listed(tmp_path, *lines(*range(20))), by="cli")
    async with asyncio.timeout(20):
        await following.wait_for(done.generation)
    medium = Signals(Digests(b"\1" * 16, b"\1" * 20, bytes.fromhex(digest(7))), ())
    assert following.ready(None).consult(medium, None)[1]
    await following.close()


@pytest.mark.parametrize("good", [2, 8])
async def test_a_bad_line_keeps_all_of_a_list_out(
    database: Database, bank: str, tmp_path: Path, good: int
) -> None:
    refused = listed(tmp_path, *lines(*range(good)), "sha256,xx", "md5")
    with pytest.raises(BadLinesError, match="2 bad lines") as caught:
        await import_list(database, bank, refused, by="cli")
    assert [line.number for line in caught.value.summary.first_bad] == [good + 2, good + 3]
    assert await count(database) == 0
    async with database.connect() as connection:
        assert (await banks.get(connection, bank)).first_generation is None


async def test_bad_lines_can_be_left_out_and_are_named(database: Database, bank: str, tmp_path: Path) -> None:
    some = listed(tmp_path, *lines(*range(8)), "sha256,xx", skip_bad=True)
    done = await import_list(database, bank, some, by="cli")
    assert (done.added, done.left_out) == (8, 1)
    assert [str(line) for line in done.first_left_out] == [
        "line 10: has 2 characters, and sha256 64 hex digits"
    ]


@on_sqlite
async def test_a_list_without_any_signal_is_refused(database: Database, bank: str, tmp_path: Path) -> None:
    with pytest.raises(ListError, match="holds no signals"):
        await import_list(database, bank, listed(tmp_path), by="cli")
    with pytest.raises(ListError, match="holds no signals"):
        await import_list(database, bank, listed(tmp_path, "sha256,xx", skip_bad=True), by="cli")


@on_sqlite
async def test_a_list_that_looks_like_another_type_is_refused(
    database: Database, bank: str, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("\n".join(digest(number) for number in range(100)))
    with pytest.raises(ListError, match="SHA-256"):
        await import_list(database, bank, ListFile(tmp_path / "plain", of=SignalType.PDQ), by="cli")
    assert await count(database) == 0
    forced = ListFile(tmp_path / "plain", of=SignalType.PDQ, force=True)
    assert (await import_list(database, bank, forced, by="cli")).added == 100


@on_sqlite
async def test_an_unknown_bank_or_file_is_told_before_anything_is_done(
    database: Database, bank: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError):
        await import_list(database, "b", listed(tmp_path, *lines(1)), by="cli")
    with pytest.raises(ListError, match="No such file") as caught:
        await import_list(database, bank, ListFile(tmp_path / "secret-name"), by="cli")
    assert "secret-name" not in str(caught.value)


@on_sqlite
async def test_a_list_that_grows_bad_between_check_and_import_is_not_imported(
    database: Database, bank: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = listed(tmp_path, *lines(*range(20)))
    begin = bank_signals.begin_import

    async def spoil(*args: Any, **options: Any) -> bank_signals.Staged:
        with some.path.open("a") as file:
            file.write("bad\n")
        return await begin(*args, **options)

    monkeypatch.setattr(bank_signals, "begin_import", spoil)
    with pytest.raises(ListError, match="changed"):
        await import_list(database, bank, some, by="cli")
    assert await count(database) == 0


async def test_an_import_that_is_cut_off_leaves_nothing(
    database: Database, bank: str, tmp_path: Path
) -> None:
    def cut_off(step: str, number: int) -> None:
        if (step, number) == ("import", 8):
            raise KeyboardInterrupt

    importing_task = import_list(
        database, bank, listed(tmp_path, *lines(*range(20))), by="cli", progress=cut_off
    )
    with pytest.raises(KeyboardInterrupt):
        await importing_task
    assert await count(database) == 0
    assert await bank_sweeping.sweep(database) == 0, "it swept up behind itself"


@on_sqlite
async def test_of_two_imports_at_once_the_later_wins_and_the_earlier_says_so(
    database: Database, bank: str, tmp_path: Path
) -> None:
    async def second() -> None:
        (tmp_path / "b").mkdir()
        await import_list(database, bank, listed(tmp_path / "b", *lines(*range(100, 120))), by="cli")

    begun: list[asyncio.Task[None]] = []

    def progress(step: str, number: int) -> None:
        if (step, number) == ("import", 4):
            begun.append(asyncio.create_task(second()))

    with pytest.raises(ConflictError, match="Nothing was imported"):
        await import_list(database, bank, listed(tmp_path, *lines(*range(2000))), by="cli", progress=progress)
    await begun[0]
    assert await count(database) == 20


@on_sqlite
async def test_waiting_tells_which_processes_are_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_LOOK_AGAIN_SECONDS", 0.01)
    slow = await processes.register(database, "serve")
    quick = await processes.register(database, "serve")
    await processes.heartbeat(database, quick, 7)
    assert [process.id for process in await wait_in_force(database, 7, seconds=0)] == [slow]
    waited: list[list[str]] = []

    async def progress(behind: list[processes.Process]) -> None:
        waited.append([process.id for process in behind])
        if len(waited) == 2:
            catch_up.append(asyncio.create_task(processes.heartbeat(database, slow, 8)))

    catch_up: list[asyncio.Task[None]] = []
    assert await wait_in_force(database, 7, seconds=20, progress=progress) == []
    assert waited[:2] == [[slow], [slow]]


@on_sqlite
async def test_other_writers_get_their_turn_while_a_large_list_is_imported(
    database: Database, bank: str, tmp_path: Path
) -> None:
    """On SQLite there is one writer: a report must not wait for an import."""
    process = await processes.register(database, "serve")
    beats = 0
    finished = asyncio.Event()

    async def beat() -> None:
        nonlocal beats
        while not finished.is_set():
            await processes.heartbeat(database, process, beats)
            beats += 1

    beating = asyncio.create_task(beat())
    await import_list(database, bank, listed(tmp_path, *lines(*range(200))), by="cli")
    finished.set()
    await beating
    assert beats >= 20
