"""The worker: files what custodians approved, keeps the index snapshots built, removes what is past its time.

Gates do without it; with it, no gate of a shared snapshot directory has to build a large index itself.
"""

import asyncio
import contextlib
import itertools
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from app import kernel, log
from app.banks.current import CurrentBanks
from app.custody.identity import Identity, read_identity
from app.custody.roster import RosterFile
from app.errors import InvalidRequestError, NotFoundError, NotReadyError
from app.filing import alarms, checkpoints, notify
from app.filing.cybertip.environment import endpoint
from app.filing.filer import Filer, open_filer
from app.retention import purge
from app.settings import RetentionSettings, Settings
from app.store import alarms as alarms_in_store
from app.store import processes
from app.store.alarms import AlarmKind
from app.store.banks import bank_sweeping, entry_marks, kept_values
from app.store.database import Database, open_current
from app.store.record.checkpoints import AuditBrokenError
from app.store.record.witness import Witness
from app.store.reports import reports
from app.store.rows import UnreadableRowError
from app.wiring import INTERRUPTED, announced, open_banks, repeating

logger = logging.getLogger(__name__)

TIDY_SECONDS: Final = 60.0
BY: Final = "worker"
BANKS: Final = "banks"
"""Of the alarms that banks cannot be read, or their index not built: what is in force stays."""
NOTIFY_SECONDS: Final = 5.0
CHECKPOINT_SECONDS: Final = 3600.0
FILE_SECONDS: Final = 5.0
PURGE_EVERY: Final = 24 * 60
"""Reports whose time is over are looked for every so many turns: once a day, and at the start."""
SWEEP_EVERY: Final = 60
"""What deleted banks and broken imports left is swept every so many turns: it reads all entries."""


@dataclass
class Chore:
    """What is done every so many turns, and once more at the next where the database cut it short.

    Attributes:
        every: how many turns lie between.
        due: the turn from which on it is to be done.
    """

    every: int
    do: Callable[[], Awaitable[object]]
    due: int = 0

    async def turn(self, number: int) -> None:
        """Do it if it is due.

        Raises:
            NotReadyError, UnreadableRowError: the database cut it short.
        """
        if number >= self.due:
            await self.do()
            self.due = number + self.every


async def work(settings: Settings) -> int:
    """Run the worker until a signal ends it; the exit code.

    Raises:
        SettingsError: ``CORDON_NOTIFY_CA_FILE`` cannot be read as certificates, or something that filing
            needs is missing.
        NotFoundError, InvalidRequestError: the worker's own identity, or its memory, cannot be used.
    """
    # Its memory is not locked: what it builds is as large as all banks together.
    kernel.forbid_core_dumps()
    pins, witness = RosterFile(settings.roster_path), Witness(settings.worker_memory_path)
    role = processes.WORKER if endpoint(settings) is not None else processes.UPKEEP
    told = partial(notify.tell, to=notify.channels(settings.notify))
    ended: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()

    def end(number: signal.Signals) -> None:
        if not ended.done():
            ended.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    async with (
        open_current(settings.store) as database,
        open_banks(settings, database) as banks,
        announced(database, banks, role) as presence,
        repeating(partial(told, database), NOTIFY_SECONDS),
        repeating(
            partial(checkpoints.sign, database, settings.worker_key_path, pins, witness), CHECKPOINT_SECONDS
        ),
        open_filer(settings, database, witness) as filer,
    ):
        cut: set[str] = set()
        refused: dict[str, str] = {}
        filing = asyncio.create_task(_file(filer, cut))
        until: set[asyncio.Future[Any]] = {ended, filing}
        chores = (
            Chore(1, partial(_tidy, database)),
            Chore(1, partial(entry_marks.release_reports, database)),
            Chore(1, partial(kept_values.forget, database, kept_values.MOST_DAYS)),
            Chore(1, partial(_watch, database)),
            Chore(PURGE_EVERY, partial(_purge, database, settings, pins, witness)),
            Chore(1, partial(_keep, database, settings.retention)),
            Chore(1, filer.watch),
            Chore(1, filer.seal_receipts),
            Chore(SWEEP_EVERY, partial(_sweep, database, banks)),
        )
        log.event(logger, logging.INFO, "working", process=presence.process_id)
        for turn in itertools.count():
            for chore in chores:
                if not ended.done():
                    with _surviving(cut, refused, "upkeep"):
                        await chore.turn(turn)
            with contextlib.suppress(NotReadyError):
                await _tell_unreadable(database, partial(_unreadable, cut, filer, banks))
                await watch_index(database, banks)
            cut.clear()
            await asyncio.wait(until, timeout=TIDY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                break
            if filing.done():
                # Only an error that nobody foresaw ends it: rather no worker than one that files nothing.
                await filing
        # A turn that is cut off is taken up again when its lease is over, as after a kill.
        filing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await filing
    log.event(logger, logging.INFO, "stopped")
    return INTERRUPTED if ended.result() is signal.SIGINT else 0


async def _file(filer: Filer, cut: set[str]) -> None:
    """File what is due, again and again."""
    refused: dict[str, str] = {}
    while True:
        with _surviving(cut, refused, "filing"):
            await filer.turn()
        await asyncio.sleep(FILE_SECONDS)


@contextlib.contextmanager
def _surviving(cut: set[str], refused: dict[str, str], what: str) -> Iterator[None]:
    """What the database cuts short is done again; if somebody made a row unreadable, it is remembered.

    What the database refuses is told once, until it takes something again: it may refuse one write alone.
    """
    try:
        yield
    except NotReadyError as error:
        if refused.get(what) != str(error):
            log.failure(logger, "turn_failed", error, code=error.code, of=what, detail=str(error))
        refused[what] = str(error)
    except UnreadableRowError as error:
        log.failure(logger, "turn_failed", error, code=error.code, of=what)
        cut.add(what)
    else:
        refused.pop(what, None)


def _unreadable(cut: set[str], filer: Filer, banks: CurrentBanks) -> set[str]:
    """What rows that cannot be read cut short since the last time, or keep from filing or from the banks."""
    return cut | filer.passed_over | ({BANKS} if banks.unreadable else set())


async def _tell_unreadable(database: Database, unreadable: Callable[[], set[str]]) -> None:
    """Call a person for it, as it is when it can be written: filing may call for a report in the meantime."""
    async with database.begin() as connection:
        await alarms_in_store.match_to(connection, AlarmKind.ROW_UNREADABLE, unreadable())


async def watch_index(database: Database, banks: CurrentBanks) -> None:
    """Call a person while the index cannot be built: gates go on with what they have, and say nothing."""
    failing = {BANKS} if banks.status().build_failing is not None else set()
    async with database.begin() as connection:
        await alarms_in_store.match_to(connection, AlarmKind.INDEX_NOT_BUILT, failing)


async def _tidy(database: Database) -> None:
    """Remove what is past its time, and say what waits too long."""
    async with database.begin() as connection:
        await reports.prune(connection)
        queue = await reports.queue(connection)
    if queue.depth:
        log.event(
            logger, logging.INFO, "queue", depth=queue.depth, oldest_seconds=round(queue.oldest_age_seconds)
        )


async def _watch(database: Database) -> None:
    """Say what waits for a person for too long."""
    await alarms.watch(database, datetime.now(UTC))


async def _purge(database: Database, settings: Settings, pins: RosterFile, witness: Witness) -> None:
    """Remove reports whose time is over, as far as the audit log can be believed, and with a signature."""
    try:
        await purge.purge(
            database,
            settings.retention,
            pins.read_if_there(),
            datetime.now(UTC),
            by=BY,
            identity=_own_key(settings.worker_key_path),
            witness=witness,
        )
    except (AuditBrokenError, InvalidRequestError) as error:
        log.failure(logger, "nothing_is_removed", error, code=error.code)


def _own_key(path: Path) -> Identity | None:
    """The worker's identity; None if it has none."""
    try:
        return read_identity(path)
    except NotFoundError:
        return None


async def _sweep(database: Database, banks: CurrentBanks) -> None:
    """Delete what deleted banks and broken imports left, and what no snapshot needs any more."""
    await bank_sweeping.sweep(database)
    status = banks.status()
    await bank_sweeping.prune_old(database, status.snapshot_generation or status.generation)


async def _keep(database: Database, settings: RetentionSettings) -> None:
    """Erase what is still to be erased of removed reports, and say what time has made urgent."""
    await purge.erase(database)
    await purge.watch(database, settings, datetime.now(UTC))
