"""What ``/metrics`` shows of the state of things, beside what it counts."""

import asyncio
import contextlib

from app.api.readiness import READ_SECONDS, Readiness
from app.banks.current import CurrentBanks
from app.controls import controls
from app.custody.roster import RosterFile
from app.errors import NotReadyError
from app.hashing.sandbox import Sandbox, SandboxState
from app.metrics import Metrics
from app.quarantine import Quarantine
from app.settings import Settings
from app.store import alarms
from app.store.database import Database
from app.store.reports import reports


class Gauges:
    """What is measured when somebody looks, not when it happens."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        readiness: Readiness,
        database: Database,
        banks: CurrentBanks,
        sandbox: Sandbox,
        quarantine: Quarantine,
        pins: RosterFile,
        settings: Settings,
    ) -> None:
        self._readiness = readiness
        self._database = database
        self._banks = banks
        self._sandbox = sandbox
        self._quarantine = quarantine
        self._pins = pins
        self._settings = settings
        self._metrics = metrics
        self._told = SandboxState()

    async def refresh(self) -> None:
        """Read all of it anew; what the database cannot tell keeps its last value."""
        metrics = self._metrics
        metrics.ready.set(not await self._readiness.failing())
        metrics.generation.set(self._banks.generation)
        metrics.held.set(self._quarantine.held_media)
        metrics.reserved.set(self._quarantine.reserved_bytes)
        self._look_at_decoders()
        for control in controls(self._sandbox, self._settings):
            metrics.controls.labels(control.control).set(control.in_force)
        with contextlib.suppress(NotReadyError):
            metrics.custodians.set(len(self._pins.read_if_there().custodians))
        with contextlib.suppress(NotReadyError, TimeoutError):
            async with asyncio.timeout(READ_SECONDS), self._database.connect() as connection:
                queue = await reports.queue(connection)
                metrics.queue.set(queue.depth)
                metrics.queue_age.set(queue.oldest_age_seconds or 0)
                for kind, count in (await alarms.count_standing(connection)).items():
                    metrics.alarms.labels(kind.value).set(count)

    def _look_at_decoders(self) -> None:
        before, self._told = self._told, self._sandbox.state
        now, metrics = self._told, self._metrics
        metrics.scanning.set(now.in_flight)
        metrics.decoding.set(now.decode_bytes)
        metrics.decoders.set(now.workers)
        metrics.fork_servers.inc(now.fork_servers - before.fork_servers)
        for cause, count in now.replaced.items():
            metrics.decoders_replaced.labels(cause.value).inc(count - before.replaced.get(cause, 0))
