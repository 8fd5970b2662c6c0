"""From a list file into a bank: all of it or nothing, and then until it is in force everywhere.

A list is read twice: first to see that it is good, then to import it. What changed in between is checked
again. A small list is one transaction. A large one is staged, so that other writers get their turn, and
becomes visible at once when all of it is there.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Final

from app.banks.lists import BadLine, ListChunk, ListError, ListSummary, read_list, summarize
from app.entries import UNSUPPRESSING, NewSignal, Origin
from app.media import SignalType
from app.store import processes
from app.store.banks import bank_signals, bank_sweeping, banks
from app.store.database import Database

_LOOK_AGAIN_SECONDS: Final = 0.25
_SORTED_AT_ONCE: Final = 500_000


@dataclass(frozen=True)
class ListFile:
    """A list file and how to read it.

    Attributes:
        of: the type of all values, where the lines do not tell it.
        force: take values for PDQ although they look like SHA-256.
        skip_bad: leave bad lines out in place of refusing the list.
        origin: where all of it comes from, and on what terms; what a line says stands over it.
    """

    path: Path
    of: SignalType | None = None
    force: bool = False
    skip_bad: bool = False
    origin: Origin | None = None

    def chunks(self) -> Iterator[ListChunk]:
        """Its lines, as ``read_list`` gives them.

        Raises:
            ListError: it cannot be read, or is refused as a whole.
        """
        try:
            with self.path.open("rb") as untrusted:
                source = self.origin.source if self.origin is not None else None
                yield from read_list(untrusted, of=self.of, force=self.force, source=source)
        except OSError as error:
            raise ListError(f"the list cannot be read: {error.strerror}") from None

    def checked(self, progress: Callable[[int], None] | None = None) -> ListSummary:
        """What it holds, if it may be imported.

        Raises:
            BadLinesError: it has bad lines, and they are not to be left out.
            ListError: it cannot be read, holds no signals, or is refused as a whole.
        """
        summary = summarize(self.chunks(), progress=progress)
        if summary.bad and not self.skip_bad:
            raise BadLinesError(summary)
        if not summary.counts:
            raise ListError("the list holds no signals")
        return summary


class BadLinesError(ListError):
    """A list has bad lines; ``summary`` tells how many, and names the first of them."""

    def __init__(self, summary: ListSummary) -> None:
        count = "1 bad line" if summary.bad == 1 else f"{summary.bad} bad lines"
        super().__init__(f"{count}; mend the list")
        self.summary = summary


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        generation: the one from which on it is visible.
        added: number of new entries.
        present: number of signals that the bank held already, or that the list repeats.
        left_out: number of bad lines.
        first_left_out: the first of them.
    """

    generation: int
    added: int
    present: int
    left_out: int
    first_left_out: list[BadLine] = field(default_factory=list)


async def import_list(
    database: Database,
    name: str,
    listed: ListFile,
    *,
    by: str,
    progress: Callable[[str, int], None] | None = None,
) -> Imported:
    """Import a list into a bank, durably; what it brings is not in force yet.

    Args:
        database: where the bank is.
        name: of the bank.
        listed: the list.
        by: who does it, for the audit.
        progress: told the step, ``check`` or ``import``, and how many lines or signals are done.

    Raises:
        NotFoundError: there is no such bank.
        ConflictError: another import into the bank began meanwhile.
        ListError: the list is refused; nothing was imported.
        NotReadyError: the database failed; nothing was imported.
    """

    def tell(step: str) -> Callable[[int], None]:
        return lambda done: progress(step, done) if progress is not None else None

    async with database.connect() as connection:
        bank = await banks.get(connection, name)
    summary = await asyncio.to_thread(listed.checked, tell("check"))
    if bank.suppresses and not UNSUPPRESSING.isdisjoint(summary.counts):
        raise ListError(bank_signals.NOT_SUPPRESSING)
    total = summary.counts.total()
    if total <= bank_signals.SMALL_CHANGE:
        signals = await asyncio.to_thread(lambda: list(_signals(listed)))
        async with database.begin() as connection:
            changed = await bank_signals.add(connection, name, signals, by=by, origin=listed.origin)
    else:
        changed = await _import_staged(database, name, listed, by, tell("import"))
    return Imported(changed.generation, changed.changed, changed.unchanged, summary.bad, summary.first_bad)


async def _import_staged(
    database: Database, name: str, listed: ListFile, by: str, progress: Callable[[int], None]
) -> bank_signals.Changed:
    staged = await bank_signals.begin_import(database, name, origin=listed.origin)
    done = 0

    async def give_up() -> None:
        await asyncio.shield(bank_signals.give_up_import(database, staged))

    async with contextlib.AsyncExitStack() as unfinished:
        unfinished.push_async_callback(give_up)
        signals = _signals(listed)
        while some := await asyncio.to_thread(lambda: _sorted(islice(signals, _SORTED_AT_ONCE))):
            for begin in range(0, len(some), bank_signals.STAGED_AT_ONCE):
                part = some[begin : begin + bank_signals.STAGED_AT_ONCE]
                await bank_signals.stage(database, staged, part)
                done += len(part)
                progress(done)
        changed = await bank_signals.finish_import(database, staged, given=done, by=by)
        unfinished.pop_all()
    if staged.cleared:
        await bank_sweeping.sweep(database)
    return changed


def _sorted(signals: Iterable[NewSignal]) -> list[NewSignal]:
    """In the order of the database's index: then each transaction writes a few of its pages, not all."""
    return sorted(signals, key=itemgetter(0, 1))


def _signals(listed: ListFile) -> Iterator[NewSignal]:
    """The signals of a list; bad lines are left out, or refused as they were when it was checked."""
    for chunk in listed.chunks():
        if chunk.bad and not listed.skip_bad:
            raise ListError("the list changed while it was imported")
        yield from chunk.signals


async def wait_in_force(
    database: Database,
    generation: int,
    *,
    seconds: float,
    progress: Callable[[list[processes.Process]], Awaitable[None]] | None = None,
) -> list[processes.Process]:
    """Wait until all live processes have a generation in force, and tell which have not in that time.

    Args:
        database: where processes tell what they have in force.
        generation: to wait for.
        seconds: the longest to wait.
        progress: told which processes are waited for, whenever it is looked at.

    Raises:
        NotReadyError: the database does not answer.
    """
    until = time.monotonic() + seconds
    while True:
        async with database.connect() as connection:
            live = await processes.live(connection)
        behind = [process for process in live if process.generation < generation]
        if not behind or time.monotonic() >= until:
            return behind
        if progress is not None:
            await progress(behind)
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
