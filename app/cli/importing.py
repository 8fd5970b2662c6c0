"""How lists get into banks and out of them, as told on a terminal."""

import asyncio
import contextlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from app.banks.importing import BadLinesError, Imported, ListFile, import_list, wait_in_force
from app.banks.lists import BadLine, ListError, UnlikelyPdqError, new_signal
from app.cli import testpicture
from app.cli.console import FailedError, UsageError, emit_json, printable, say
from app.cli.state import BY, open_state, read_settings
from app.entries import NewSignal, Origin
from app.errors import ConflictError, NotFoundError
from app.media import BankAction, BankKind
from app.settings import Settings, load
from app.store import alarms, processes
from app.store.alarms import AlarmKind
from app.store.banks import bank_listing, bank_signals, banks, entry_marks
from app.store.banks.bank_signals import SMALL_CHANGE
from app.store.database import Database
from app.store.processes import Process

STANDARD_INPUT: Final = Path("-")

SMALL_CHANGE_SECONDS: Final = 10.0
"""How long to wait for a small change, which is in force everywhere within 5."""

_SAID_AFTER_SECONDS: Final = 2.0
"""How long running processes are waited for before that is said."""

_SAID_AGAIN_SECONDS: Final = 60.0
"""How often it is said again, and of which."""

_SHOWN_SECONDS: Final = 0.25


class Progress(Protocol):
    """What is told of a step like ``import``: how much is done, and of how much at most, if that is known."""

    def __call__(self, step: str, done: int, /, most: int | None = None) -> None:
        """Show it."""


def _show_nothing(_step: str, _done: int, /, most: int | None = None) -> None:
    """For what is no terminal."""


def import_file(name: str, listed: ListFile, *, wait_seconds: float, as_json: bool) -> None:
    """Add the signals of a list to a bank, and wait until every running process has them in force.

    Args:
        name: of the bank.
        listed: the list.
        wait_seconds: how long to wait.
        as_json: whether to print what came of it as JSON, once it is stored.

    Raises:
        UsageError: the list is bad; nothing was imported.
        FailedError: it was imported, but is not in force everywhere after ``wait_seconds``.
    """
    told = _told("nothing was imported", may_leave_out=True)
    with rereadable(listed) as list_file, told, _progress() as progress:
        asyncio.run(_import(name, list_file, progress, wait_seconds, as_json=as_json))


def remove_file(name: str, listed: ListFile, *, as_json: bool) -> None:
    """Remove the signals of a list from a bank, and wait until every running process has that in force.

    Args:
        name: of the bank.
        listed: the list.
        as_json: whether to print what came of it as JSON, once it is stored.

    Raises:
        UsageError: the list is bad; nothing was removed.
    """
    with rereadable(listed) as list_file, _told("nothing was removed"), _progress() as progress:
        list_file.checked()
        signals = [signal for chunk in list_file.chunks() for signal in chunk.signals]
        asyncio.run(_remove(name, signals, listed.origin, progress, as_json=as_json))


def read_signals(listed: ListFile) -> list[NewSignal]:
    """All signals of a list.

    Raises:
        UsageError: the list is bad.
    """
    with rereadable(listed) as list_file, _told("nothing was done"):
        list_file.checked()
        return [signal for chunk in list_file.chunks() for signal in chunk.signals]


async def wait_for_small_change(database: Database, generation: int) -> None:
    """Wait until every running process follows a small change.

    Raises:
        FailedError: it is stored, but not in force everywhere in time.
    """
    await _wait(database, generation, SMALL_CHANGE_SECONDS)


async def tell_if_emptied(database: Database, name: str) -> None:
    """Warn if a bank has no entry in force any more: its gates take nothing in from now on."""
    async with database.connect() as connection:
        emptied = await bank_listing.is_emptied(connection, name)
    if emptied:
        say(
            f"warning: no entry of bank {printable(name)} is in force any more, and gates refuse to decide; "
            f"put one in force, or 'cordon bank delete {printable(name)}'"
        )


def create_test_bank(name: str) -> None:
    """Make a bank of kind ``test`` that holds the test picture; one that is there gets what it lacks.

    Raises:
        ConflictError: there is a bank of that name and another kind.
    """
    asyncio.run(_create_test_bank(name))


@contextlib.contextmanager
def rereadable(listed: ListFile) -> Iterator[ListFile]:
    """The same list, from a file that can be read twice: what comes through a pipe is kept in RAM.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if listed.path != STANDARD_INPUT and stat.S_ISREG(listed.path.stat().st_mode):
            yield listed
            return
        kept = os.memfd_create("cordon-list", os.MFD_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{printable(str(listed.path))}: {error.strerror}") from None
    try:
        try:
            with (
                sys.stdin.buffer if listed.path == STANDARD_INPUT else listed.path.open("rb") as pipe,
                os.fdopen(kept, "wb", closefd=False) as copy,
            ):
                copy.writelines(pipe)
        except OSError as error:
            raise UsageError(f"{printable(str(listed.path))}: {error.strerror}") from None
        yield replace(listed, path=Path(f"/proc/self/fd/{kept}"))
    finally:
        os.close(kept)


async def _import(
    name: str, listed: ListFile, progress: Progress, wait_seconds: float, *, as_json: bool
) -> None:
    settings = read_settings()
    async with open_state(settings) as database:
        imported = await import_list(database, name, listed, by=BY, progress=progress)
        _tell_imported(name, imported)
        if as_json:
            counts = {"added": imported.added, "known": imported.present, "left_out": imported.left_out}
            emit_json({"bank": name, **counts})
        await _wait(database, imported.generation, wait_seconds, progress)
        if imported.added > SMALL_CHANGE:
            await _build_index(settings, database, imported.generation, progress, wait_seconds)


async def _build_index(
    settings: Settings, database: Database, generation: int, progress: Progress, seconds: float
) -> None:
    """Build the index if nobody runs who would, so that the next gate to start is ready at once."""
    async with database.connect() as connection:
        if await processes.live(connection):
            return
    say("building the index; no gate runs that would")
    from app.wiring import open_banks

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), open_banks(settings, database) as current:
            built = asyncio.create_task(current.wait_for(generation))
            try:
                while not (await asyncio.wait([built], timeout=_SHOWN_SECONDS))[0]:
                    if current.build_read is not None:
                        done, most = current.build_read
                        progress("build", done, most)
            finally:
                built.cancel()
            await built
            say("built")


def _tell_imported(name: str, imported: Imported) -> None:
    _tell_bad_lines(imported.first_left_out, imported.left_out)
    if imported.left_out:
        say(f"left out: {'1 bad line' if imported.left_out == 1 else f'{imported.left_out} bad lines'}")
    there = f"; {imported.present} it held already, or came twice" if imported.present else ""
    say(f"{imported.added} signals are new in bank {printable(name)}{there}")


async def _remove(
    name: str, signals: list[NewSignal], origin: Origin | None, progress: Progress, *, as_json: bool
) -> None:
    async with open_state() as database:
        parts = []
        # A part at a time, so that no report waits long for the database. What a crash leaves over is removed
        # when it is tried again, and matches until then.
        for begin in range(0, len(signals), SMALL_CHANGE):
            some = signals[begin : begin + SMALL_CHANGE]
            async with database.begin() as connection:
                parts.append(await bank_signals.remove(connection, name, some, by=BY, origin=origin))
            await database.give_way()
            progress("withdraw", begin + len(some), len(signals))
        await entry_marks.release_reports(database)
        removed, kept = sum(part.changed for part in parts), sum(part.kept for part in parts)
        absent = len(signals) - removed - kept
        stay = f"; {kept} stay, as another source stands by them" if kept else ""
        there = f"; {absent} were not in it" if absent else ""
        say(f"{removed} signals are removed from bank {printable(name)}{stay}{there}")
        if as_json:
            emit_json({"bank": name, "removed": removed, "kept": kept, "absent": absent})
        await tell_if_emptied(database, name)
        await _wait(database, parts[-1].generation, SMALL_CHANGE_SECONDS, progress)


async def _create_test_bank(name: str) -> None:
    signals = [new_signal(of, value, "the test picture") for of, value in testpicture.signals()]
    async with open_state() as database:
        async with database.begin() as connection:
            try:
                kind = (await banks.get(connection, name)).kind
            except NotFoundError:
                kind = BankKind.TEST
                await banks.create(connection, name, kind, banks.Policy(BankAction.REPORT), by=BY)
            if kind is not BankKind.TEST:
                raise ConflictError("There is a bank of that name and another kind.")
            changed = await bank_signals.add(connection, name, signals, by=BY)
        say(f"bank {name} holds the test picture; 'cordon test-picture --out test.png' draws it")
        await _wait(database, changed.generation, SMALL_CHANGE_SECONDS)


async def _wait(
    database: Database, generation: int, seconds: float, progress: Progress = _show_nothing
) -> None:
    """Wait until every running process has a generation in force, and say so if that takes long.

    Raises:
        FailedError: it is stored, but not in force everywhere after ``seconds``.
    """
    began = time.monotonic()
    said_at: float | None = None

    async def tell(behind: list[Process]) -> None:
        nonlocal said_at
        waited = time.monotonic() - began
        progress("wait", int(waited))
        if said_at is None and waited >= _SAID_AFTER_SECONDS:
            said_at = waited
            say(f"stored; waiting for {_counted(behind)} to have it in force, as their index is built")
        elif said_at is not None and waited - said_at >= _SAID_AGAIN_SECONDS:
            said_at = waited
            say(f"waiting for {waited:.0f} s: for {_named(behind)}{await _hindrance(database)}")

    behind = await wait_in_force(database, generation, seconds=seconds, progress=tell)
    if behind:
        raise FailedError(
            f"stored, but not in force in {_counted(behind)} within {seconds:g} s ({_named(behind)}); until "
            f"it is, they go on with what they had{await _hindrance(database)}"
        )
    if said_at is not None:
        say("in force")


def _counted(behind: list[Process]) -> str:
    return "1 running process" if len(behind) == 1 else f"{len(behind)} running processes"


def _named(behind: list[Process]) -> str:
    """Each by its role and the id that its log and ``/v1/status`` tell."""
    return ", ".join(f"{printable(process.role)} {printable(process.id)}" for process in behind)


async def _hindrance(database: Database) -> str:
    """Who keeps them waiting, as far as that is seen from here, and why, where the worker told it."""
    from app.banks.current import who_builds

    # Others may have a directory of their own.
    holder = who_builds(load().store.state_dir)
    who = f"; {holder} has the right to build the index" if holder is not None else ""
    async with database.connect() as connection:
        unbuilt = await alarms.subjects_of(connection, AlarmKind.INDEX_NOT_BUILT)
    return who + ("; the worker cannot build the index: its log says why" if unbuilt else "")


@contextlib.contextmanager
def _told(what_not: str, *, may_leave_out: bool = False) -> Iterator[None]:
    """Tell of a bad list which lines are bad, and that it had no effect.

    Args:
        what_not: that nothing was done.
        may_leave_out: whether the command has the options that take a doubtful list.

    Raises:
        UsageError: in the place of any ``ListError``.
    """
    way_out = ""
    try:
        yield
    except ListError as error:
        if isinstance(error, BadLinesError):
            _tell_bad_lines(error.summary.first_bad, error.summary.bad)
            way_out = ", or use '--skip-bad' to import the rest"
        elif isinstance(error, UnlikelyPdqError):
            way_out = ", or '--force' if they are PDQ"
        raise UsageError(f"{what_not}: {error}{way_out if may_leave_out else ''}") from None


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal while a list is checked and imported, and while an index is built."""
    if not sys.stderr.isatty():
        yield _show_nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Counts

    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeRemainingColumn(),
    )
    with Counts(*columns, console=Console(stderr=True), transient=True) as counts:
        task = counts.add_task("reading", total=None)
        shown, checked = "", None

        def show(step: str, done: int, /, most: int | None = None) -> None:
            nonlocal shown, checked, task
            if step == "check":
                checked = done
            elif step == "import":
                # Nearly: headers, remarks and bad lines are lines as well.
                most = checked
            if step != shown:
                # Another bar: one keeps the total that it once had.
                counts.remove_task(task)
                task = counts.add_task(f"{step}ing", total=most)
            shown = step
            # Drawn at once: a step that is over before the bar's next turn would not be seen.
            counts.update(task, completed=done, total=most, refresh=True)

        yield show


def _tell_bad_lines(first: list[BadLine], count: int) -> None:
    for line in first:
        say(str(line))
    if count > len(first):
        say(f"and {count - len(first)} more bad lines")
