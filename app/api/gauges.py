"""What ``/metrics`` shows of the state of things, beside what it counts."""

import asyncio
import contextlib

from app.api.readiness import READ_SECONDS, Readiness
from app.banks.current import CurrentBanks
from app.controls import controls
from app.custody.roster import RosterFile
from app.errors import NotReadyError
from app.hashing.sandbox import Sandbox
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
        gauge = metrics.gauge
        self._ready = gauge("cordon_ready", "1 if a match would be caught and stored now.")
        self._generation = gauge("cordon_index_generation", "Generation of the banks in force.")
        self._queue = gauge("cordon_reports_queued", "Reports that wait for a custodian.")
        self._queue_age = gauge("cordon_reports_queued_oldest_seconds", "Age of the oldest of them.")
        self._alarms = gauge("cordon_alarms", "Alarms that stand.", "kind")
        self._custodians = gauge("cordon_custodians", "Pinned custodians, whom reports are sealed to.")
        self._held = gauge("cordon_media_held", "Media in the quarantine.")
        self._reserved = gauge("cordon_media_reserved_bytes", "Bytes of the budget that they take.")
        self._controls = gauge("cordon_control", "1 if the control is in force.", "control")

    async def refresh(self) -> None:
        """Read all of it anew; what the database cannot tell keeps its last value."""
        self._ready.set(not await self._readiness.failing())
        self._generation.set(self._banks.generation)
        self._held.set(self._quarantine.held_media)
        self._reserved.set(self._quarantine.reserved_bytes)
        for control in controls(self._sandbox, self._settings):
            self._controls.labels(control.control).set(control.in_force)
        with contextlib.suppress(NotReadyError):
            self._custodians.set(len(self._pins.read_if_there().custodians))
        with contextlib.suppress(NotReadyError, TimeoutError):
            async with asyncio.timeout(READ_SECONDS), self._database.connect() as connection:
                queue = await reports.queue(connection)
                self._queue.set(queue.depth)
                self._queue_age.set(queue.oldest_age_seconds or 0)
                for kind, count in (await alarms.count_standing(connection)).items():
                    self._alarms.labels(kind.value).set(count)
