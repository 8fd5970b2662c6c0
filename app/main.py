"""The web process: a gate behind an HTTP server, from its first look at the settings to its last answer."""

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
from app.controls import controls
from app.custody import plugins
from app.custody.roster import RosterFile
from app.errors import NotReadyError
from app.kernel import harden_this_process
from app.metrics import Metrics
from app.settings import Settings, SettingsError
from app.store import alarms, custodians
from app.store.allowances import Allowances
from app.store.database import Database
from app.store.keys import KEYS_AHEAD_SECONDS, KeyRing
from app.wiring import HEARTBEAT_SECONDS, INTERRUPTED, WiredWithState, open_gate, repeating

logger = logging.getLogger(__name__)

BACKLOG: Final = 2048
LAST_USE_SECONDS: Final = 10.0
PINS_WATCH_SECONDS: Final = 5.0


class ControlMissingError(Exception):
    """``CORDON_STRICT`` is set and a required control is not in force; the message names it."""


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
