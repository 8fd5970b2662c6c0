"""Wires the stages to their adapters, for the web process, the worker and the command line alike."""

import asyncio
import contextlib
import dataclasses
import gc
import ipaddress
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT
from typing import Final

import uvicorn

from app import log
from app.api.application import application
from app.api.gauges import Gauges
from app.api.limits import KeyLimits
from app.api.probing import ProbeGuard
from app.api.readiness import Readiness
from app.api.server import GateProtocol, Server
from app.api.services import Services
from app.banks.current import CurrentBanks
from app.banks.dry_run import ClearTraffic
from app.banks.flood import FloodGuard
from app.banks.listed import ListedBanks
from app.controls import controls
from app.custody import plugins
from app.custody.roster import RosterFile
from app.errors import NotReadyError
from app.fetch.client import Fetcher
from app.hashing.sandbox import Sandbox
from app.kernel import harden_this_process
from app.metrics import Metrics
from app.pipeline import Banks, Gate, Outbox
from app.quarantine import Quarantine
from app.report.outbox import CUSTODIANS_AHEAD_SECONDS, SealedOutbox
from app.settings import Settings, SettingsError
from app.store import alarms, custodians, processes
from app.store.allowances import Allowances
from app.store.banks.bank_reader import BankReader
from app.store.database import Database, open_current
from app.store.keys import KEYS_AHEAD_SECONDS, KeyRing
from app.store.reports.shelf import ReportShelf

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 1.0
NOTICE_SECONDS: Final = 2 * HEARTBEAT_SECONDS
BACKLOG: Final = 2048
LAST_USE_SECONDS: Final = 10.0
PINS_WATCH_SECONDS: Final = 5.0
INTERRUPTED: Final = 130
"""Exit code after SIGINT, as shells count it."""


class ControlMissingError(Exception):
    """``CORDON_STRICT`` is set and a required control is not in force; the message names it."""


@dataclass(frozen=True)
class Wired:
    """A gate and the adapters beneath it."""

    gate: Gate
    fetcher: Fetcher
    sandbox: Sandbox


@dataclass(frozen=True)
class WiredWithState(Wired):
    """A gate on a database, as the web process and ``cordon ingest`` run it."""

    database: Database
    banks: CurrentBanks
    presence: "Presence"
    pins: RosterFile


class PinsWatch:
    """Tells, once for each change, where the database has other custodians, and who cannot be sealed to."""

    def __init__(self, database: Database, pins: RosterFile) -> None:
        self._database = database
        self._pins = pins
        self._told: frozenset[str] | None = None
        self._gone: tuple[str, ...] = ()

    async def look(self) -> None:
        """Compare both now; what changed is logged, and an alarm stands for each difference."""
        roster = self._pins.read_if_there()
        gone = plugins.missing(roster.public_keys)
        if gone and gone != self._gone:
            log.event(
                logger,
                logging.WARNING,
                "custodian_plugin_missing",
                programs=" ".join(gone),
                advice="nothing can be sealed, so nothing is taken in; install it in this process's PATH",
            )
        self._gone = gone
        async with self._database.connect() as connection:
            difference = await custodians.compare(connection, roster)
        if difference.fingerprints == self._told:
            return
        for line in difference.told():
            log.event(logger, logging.WARNING, "custodians_differ", detail=line)
        async with self._database.begin() as connection:
            await alarms.match_to(connection, alarms.AlarmKind.CUSTODIAN_UNPROVEN, difference.fingerprints)
        self._told = difference.fingerprints


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


async def serve(settings: Settings, *, host: str, port: int, ready_file: Path | None) -> int:
    """Run the web process until a signal ends it; the exit code.

    Raises:
        SettingsError: it cannot listen there, or it would beyond loopback in the clear.
        ControlMissingError: strict, and a required control is missing.
    """
    _refuse_plain_http(settings, host)
    _check_tls_files(settings)
    if ready_file is not None:
        _remove_ready_file(ready_file)
    harden_this_process()
    with _bind(host, port) as listening:
        async with open_gate(settings, "serve") as wired:
            _check_controls(settings, wired)
            services = _services(settings, wired)
            served = application(services, services.keys, services.limits)
            server = Server(_uvicorn_config(settings, served))
            await wired.presence.known_to_others()
            async with (
                repeating(services.keys.read_ahead, KEYS_AHEAD_SECONDS),
                repeating(services.keys.write_last_use, LAST_USE_SECONDS),
                repeating(services.limits.settle, HEARTBEAT_SECONDS),
                repeating(PinsWatch(wired.database, wired.pins).look, PINS_WATCH_SECONDS),
                asyncio.TaskGroup() as tasks,
            ):
                tasks.create_task(server.serve([listening]))
                await server.up.wait()
                await _say_what_is_in_force(settings, wired, listening)
                # What is there now stays: to look through all of it for garbage would hold up uploads.
                gc.collect()
                gc.freeze()
                if ready_file is not None:
                    _write_ready_file(ready_file, _base_url(settings, host, listening))
            await _drain(services, server)
    if ready_file is not None:
        with contextlib.suppress(SettingsError):
            _remove_ready_file(ready_file)
    log.event(logger, logging.INFO, "stopped")
    return INTERRUPTED if server.ended_by is SIGINT else 0


def _services(settings: Settings, wired: WiredWithState) -> Services:
    guard = ProbeGuard(time.monotonic)
    metrics = Metrics()
    readiness = Readiness(
        process_id=wired.presence.process_id,
        database=wired.database,
        banks=wired.banks,
        sandbox=wired.sandbox,
        pins=wired.pins,
        require_custodian=settings.serve.require_custodian,
    )
    return Services(
        settings=settings,
        database=wired.database,
        banks=wired.banks,
        sandbox=wired.sandbox,
        gate=dataclasses.replace(wired.gate, watches=(*wired.gate.watches, guard)),
        fetch=wired.fetcher.fetch,
        metrics=metrics,
        keys=KeyRing(wired.database),
        limits=KeyLimits(
            lambda: wired.presence.gates == 1,
            Allowances(wired.database, wired.presence.process_id).draw,
            time.monotonic,
        ),
        guard=guard,
        pins=wired.pins,
        readiness=readiness,
        gauges=Gauges(
            metrics,
            readiness=readiness,
            database=wired.database,
            banks=wired.banks,
            sandbox=wired.sandbox,
            quarantine=wired.gate.quarantine,
            pins=wired.pins,
            settings=settings,
        ),
    )


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


def _refuse_plain_http(settings: Settings, host: str) -> None:
    if settings.serve.tls_cert is not None or settings.serve.plain_http:
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        message = (
            "CORDON_HOST is beyond loopback and TLS is off: set CORDON_TLS_CERT and CORDON_TLS_KEY, or "
            "CORDON_PLAIN_HTTP=true if a proxy in front ends TLS"
        )
        raise SettingsError(message)


def _check_controls(settings: Settings, wired: WiredWithState) -> None:
    found = controls(wired.sandbox, settings)
    missing = [each.control for each in found if each.required and not each.in_force]
    if missing and settings.serve.strict:
        message = f"CORDON_STRICT is set and these controls are missing: {', '.join(missing)}"
        raise ControlMissingError(message)


def _uvicorn_config(settings: Settings, app: object) -> uvicorn.Config:
    tls = settings.serve
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=GateProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(int(settings.serve.drain_seconds), 1),
        ssl_certfile=str(tls.tls_cert) if tls.tls_cert else None,
        ssl_keyfile=str(tls.tls_key) if tls.tls_key else None,
    )


def _bind(host: str, port: int) -> socket.socket:
    """A socket at that address, bound before anything slow begins; uvicorn makes it listen."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        message = f"cannot listen on CORDON_HOST, CORDON_PORT ({host}, {port}): {error.strerror}"
        raise SettingsError(message) from None


def _base_url(settings: Settings, host: str, listening: socket.socket) -> str:
    scheme = "https" if settings.serve.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


async def _say_what_is_in_force(settings: Settings, wired: WiredWithState, listening: socket.socket) -> None:
    """The start-up lines: where it listens, every control, and what an operator should mend."""
    port = listening.getsockname()[1]
    tls = settings.serve.tls_cert is not None
    log.event(logger, logging.INFO, "serving", port=port, tls=tls, process=wired.presence.process_id)
    if sys.stderr.isatty():
        # For a person who wonders where to point a browser or curl; its own address is no secret.
        sys.stderr.write(f"listening at {_base_url(settings, listening.getsockname()[0], listening)}\n")
    states = {each.control: each.in_force for each in controls(wired.sandbox, settings)}
    log.event(logger, logging.INFO, "controls", **states)
    if settings.fetch.fetch_allow:
        log.event(logger, logging.WARNING, "fetch_allow_is_set", networks=len(settings.fetch.fetch_allow))
    known = 0
    with contextlib.suppress(NotReadyError):
        known = len(wired.pins.read_if_there().custodians)
    if known < custodians.ENOUGH:
        log.event(logger, logging.WARNING, "too_few_custodians", custodians=known, advice=custodians.TOO_FEW)


def _check_tls_files(settings: Settings) -> None:
    for name, path in (("TLS_CERT", settings.serve.tls_cert), ("TLS_KEY", settings.serve.tls_key)):
        if path is not None and not os.access(path, os.R_OK):
            message = f"CORDON_{name}: the file cannot be read"
            raise SettingsError(message)


def _remove_ready_file(path: Path) -> None:
    """Take away what an earlier run left, so that nobody takes its address for this run's."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        message = f"--ready-file cannot be used: {error.strerror}"
        raise SettingsError(message) from None
    if not os.access(path.parent, os.W_OK):
        message = "--ready-file cannot be used: its directory is not there, or cannot be written"
        raise SettingsError(message)


def _write_ready_file(path: Path, url: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(f"{url}\n")
    partial.replace(path)


async def _drain(services: Services, server: Server) -> None:
    """Finish what was begun: media whose client has gone, and items of abandoned batches.

    The time that uvicorn took for answers in flight counts: one limit holds for both together.
    """
    begun = {*services.gate.begun, *services.running}
    if begun:
        log.event(logger, logging.INFO, "draining", begun=len(begun))
        left = server.drain_until - asyncio.get_running_loop().time()
        _, unfinished = await asyncio.wait(begun, timeout=max(left, 1))
        if unfinished:
            log.event(logger, logging.WARNING, "gave_up_draining", unfinished=len(unfinished))
