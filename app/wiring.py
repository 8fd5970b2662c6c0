"""Wires the stages to their adapters: a gate on its database, for the web process and the command line alike.

It also has what every process on a database does: say that it lives, and do things again and again.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from app import log
from app.banks.current import CurrentBanks
from app.banks.dry_run import ClearTraffic
from app.banks.flood import FloodGuard
from app.banks.listed import ListedBanks
from app.custody.roster import RosterFile
from app.errors import NotReadyError
from app.fetch.client import Fetcher
from app.hashing.sandbox import Sandbox
from app.pipeline import Banks, Gate, Outbox
from app.quarantine import Quarantine
from app.report.outbox import CUSTODIANS_AHEAD_SECONDS, SealedOutbox
from app.settings import Settings
from app.store import custodians, processes
from app.store.banks.bank_reader import BankReader
from app.store.database import Database, open_current
from app.store.reports.shelf import ReportShelf

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 1.0
NOTICE_SECONDS: Final = 2 * HEARTBEAT_SECONDS
"""After so long, every process has heard of another that began."""

INTERRUPTED: Final = 130
"""Exit code after SIGINT, as shells count it."""


@dataclass(frozen=True)
class Wired:
    """A gate and the adapters beneath it."""

    gate: Gate
    fetcher: Fetcher
    sandbox: Sandbox


@dataclass
class Presence:
    """This process as the database knows it, and how many gates run on it, this one included."""

    process_id: str
    gates: int = 1
    since: float = field(default_factory=time.monotonic)

    async def known_to_others(self) -> None:
        """Wait until other gates have had the time to hear of this one, if there are any.

        Until then, one that was alone counts what keys may do in its own memory.
        """
        if self.gates > 1:
            await asyncio.sleep(max(self.since + NOTICE_SECONDS - time.monotonic(), 0))


@dataclass(frozen=True)
class WiredWithState(Wired):
    """A gate on a database, as the web process and ``cordon ingest`` run it."""

    database: Database
    banks: CurrentBanks
    presence: Presence
    pins: RosterFile


@contextlib.asynccontextmanager
async def open_gate(settings: Settings, role: str) -> AsyncIterator[WiredWithState]:
    """A gate on the database that the settings name, announced there under its role."""
    async with (
        open_current(settings.store) as database,
        open_banks(settings, database) as banks,
        announced(database, banks, role) as presence,
        Sandbox(settings.hashing) as sandbox,
        _open_fetcher(settings) as fetcher,
    ):
        pins = await open_pins(settings, database)
        outbox = SealedOutbox(
            ReportShelf(database, settings.store.place_key, pins),
            require_custodian=settings.serve.require_custodian,
            automatic_within=settings.files_by_itself_within,
        )
        watches: list[FloodGuard | ClearTraffic] = [FloodGuard(database, settings.policy.flood_media)]
        if role == processes.GATE:
            # What the command line takes in is no traffic, and its settings are not those of the gates.
            watches.append(
                ClearTraffic(
                    database,
                    days=settings.policy.keep_clear_days,
                    share=settings.policy.keep_clear_share,
                    clock=time.monotonic,
                )
            )
        gate = dataclasses.replace(_gate(settings, sandbox, banks, outbox), watches=tuple(watches))
        async with contextlib.AsyncExitStack() as settling:
            for watch in watches:
                await settling.enter_async_context(_settled(watch.settle))
            await settling.enter_async_context(repeating(outbox.count_ahead, CUSTODIANS_AHEAD_SECONDS))
            yield WiredWithState(gate, fetcher, sandbox, database, banks, presence, pins)


async def open_pins(settings: Settings, database: Database) -> RosterFile:
    """The file of the pinned custodians.

    Where no file is named and none is there yet, the database's custodians are pinned. A file that is named
    and is not there leaves nobody pinned, so that nothing is taken in.
    """
    pins = RosterFile(settings.roster_path)
    return await custodians.open_pins(database, pins, trust_first=settings.custody.custodians is None)


@contextlib.asynccontextmanager
async def open_listed_gate(settings: Settings, banks: ListedBanks) -> AsyncIterator[Wired]:
    """A gate on banks read from list files: no state, no custodian, no report."""
    async with Sandbox(settings.hashing) as sandbox, _open_fetcher(settings) as fetcher:
        yield Wired(_gate(settings, sandbox, banks, None), fetcher, sandbox)


def _gate(settings: Settings, sandbox: Sandbox, banks: Banks, outbox: Outbox | None) -> Gate:
    return Gate(
        quarantine=Quarantine(settings.intake.inflight_bytes),
        hasher=sandbox,
        banks=banks,
        outbox=outbox,
        max_bytes=settings.intake.max_bytes,
        max_video_bytes=settings.intake.max_video_bytes,
        low_quality=settings.policy.low_quality,
    )


@contextlib.asynccontextmanager
async def open_banks(settings: Settings, database: Database) -> AsyncIterator[CurrentBanks]:
    """The banks of a database, followed as they change."""
    banks = CurrentBanks(BankReader(database), settings.store.state_dir)
    await banks.start()
    try:
        yield banks
    finally:
        await banks.close()


@contextlib.asynccontextmanager
async def _open_fetcher(settings: Settings) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(settings.fetch)
    try:
        yield fetcher
    finally:
        await fetcher.close()


@contextlib.asynccontextmanager
async def announced(database: Database, banks: CurrentBanks, role: str) -> AsyncIterator[Presence]:
    """Tell the database that this process lives, and which generation it has in force."""
    presence = Presence(await processes.register(database, role))

    async def beat() -> None:
        try:
            await processes.heartbeat(database, presence.process_id, banks.generation)
        except processes.ForgottenError:
            await processes.register(database, role, presence.process_id)
        async with database.connect() as connection:
            live = await processes.live(connection)
        presence.gates = max(sum(process.role == processes.GATE for process in live), 1)

    await beat()
    async with repeating(beat, HEARTBEAT_SECONDS):
        try:
            yield presence
        finally:
            with contextlib.suppress(NotReadyError):
                await processes.unregister(database, presence.process_id)


@contextlib.asynccontextmanager
async def _settled(settle: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Bring what was counted to the database, again and again, and once more at the end."""
    async with repeating(settle, HEARTBEAT_SECONDS):
        yield
    with contextlib.suppress(NotReadyError):
        await settle()


@contextlib.asynccontextmanager
async def repeating(work: Callable[[], Awaitable[None]], seconds: float) -> AsyncIterator[None]:
    """Do something every few seconds; what fails is tried again."""

    async def repeat() -> None:
        while True:
            try:
                await work()
            except NotReadyError:
                pass
            except Exception as error:  # noqa: BLE001 - an edge of its own: nobody would see this task end
                log.failure(logger, "turn_failed", error)
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
