"""``/livez``, ``/readyz`` and ``/metrics`` for anyone who watches; ``/v1/status`` for operators."""

import asyncio
import contextlib
import time
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app import __version__, metrics
from app.api import problems
from app.api.edge import Key
from app.api.services import InServices, Services, scope
from app.banks.current import BanksStatus
from app.controls import Control, controls
from app.custody.roster import Roster
from app.errors import NotReadyError
from app.store import alarms, custodians, processes, reports

router = APIRouter(tags=["ops"])

_WRITE_SECONDS: Final = 2.0
_ANSWER_LIFE_SECONDS: Final = 1.0
_ALARMS_SHOWN: Final = 100


class Readiness:
    """Whether a match would be caught and stored now; asked at most once a second, however often polled."""

    def __init__(self, at: Services, process_id: str) -> None:
        self._at = at
        self._process_id = process_id
        self._asking = asyncio.Lock()
        self._failing: tuple[str, ...] = ()
        self._asked_at = float("-inf")

    async def failing(self) -> tuple[str, ...]:
        """Names of the checks that fail; empty if the gate is ready."""
        async with self._asking:
            if time.monotonic() - self._asked_at > _ANSWER_LIFE_SECONDS:
                self._failing = await self._ask()
                self._asked_at = time.monotonic()
            return self._failing

    async def _ask(self) -> tuple[str, ...]:
        at = self._at
        checks = {
            "database": await self._can_write(),
            "banks": self._banks_ready(),
            "sandbox": at.sandbox.alive,
        }
        if at.settings.serve.require_custodian:
            checks["custodian"] = self._custodian_known()
        return tuple(name for name, holds in checks.items() if not holds)

    async def _can_write(self) -> bool:
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await processes.heartbeat(self._at.database, self._process_id, self._at.banks.generation)
        except (NotReadyError, TimeoutError):
            return False
        return True

    def _banks_ready(self) -> bool:
        try:
            self._at.banks.ready(None)
        except NotReadyError:
            return False
        return True

    def _custodian_known(self) -> bool:
        try:
            return bool(self._at.pins.read_if_there().custodians)
        except NotReadyError:
            return False


class Gauges:
    """What is measured when somebody looks, not when it happens."""

    def __init__(self, at: Services) -> None:
        self._at = at
        gauge = at.metrics.gauge
        self._ready = gauge("cordon_ready", "1 if a match would be caught and stored now.")
        self._generation = gauge("cordon_index_generation", "Generation of the banks in force.")
        self._queue = gauge("cordon_reports_queued", "Reports that wait for a custodian.")
        self._queue_age = gauge("cordon_reports_queued_oldest_seconds", "Age of the oldest of them.")
        self._alarms = gauge("cordon_alarms", "Alarms that stand.", "kind")
        self._custodians = gauge("cordon_custodians", "Pinned custodians, whom reports are sealed to.")
        self._held = gauge("cordon_media_held", "Media in the quarantine.")
        self._reserved = gauge("cordon_media_reserved_bytes", "Bytes of the budget that they take.")
        self._controls = at.metrics.gauge("cordon_control", "1 if the control is in force.", "control")

    async def refresh(self) -> None:
        """Read all of it anew; what the database cannot tell keeps its last value."""
        at = self._at
        self._ready.set(not await at.readiness.failing())
        self._generation.set(at.banks.generation)
        self._held.set(at.gate.quarantine.held_media)
        self._reserved.set(at.gate.quarantine.reserved_bytes)
        for control in controls(at.sandbox, at.pins):
            self._controls.labels(control.control).set(control.in_force)
        with contextlib.suppress(NotReadyError):
            self._custodians.set(len(at.pins.read_if_there().custodians))
        with contextlib.suppress(NotReadyError):
            async with at.database.connect() as connection:
                queue = await reports.queue(connection)
                self._queue.set(queue.depth)
                self._queue_age.set(queue.oldest_age_seconds or 0)
                for kind, count in (await alarms.count_standing(connection)).items():
                    self._alarms.labels(kind.value).set(count)


class Ready(BaseModel):
    """The gate's readiness."""

    status: str = Field(examples=["ready"])
    failing: list[str] = Field(description="Names of the failing checks, and nothing more.", examples=[[]])


class Alive(BaseModel):
    """The process runs."""

    status: Literal["alive"] = "alive"


class Queue(BaseModel):
    """Reports that wait for a custodian."""

    depth: int
    oldest_age_seconds: float | None


class StandingAlarm(BaseModel):
    """What a person must look at."""

    kind: alarms.AlarmKind
    subject: str = Field(description="Id of what it is about, most often a report.")
    raised_at: datetime


class LiveProcess(BaseModel):
    """A process that works on the same database."""

    id: str
    role: str
    generation: int = Field(description="Of the banks that it has in force.")


class Intake(BaseModel):
    """What this process holds of media now."""

    held_media: int
    reserved_bytes: int
    budget_bytes: int


class Status(BaseModel):
    """What an operator wants to know."""

    version: str
    ready: bool
    failing: list[str] = Field(description="Names of the failing checks of `/readyz`.")
    banks: BanksStatus
    queue: Queue
    alarms: list[StandingAlarm] = Field(description="Oldest first, at most 100; the metrics count all.")
    custodians: int = Field(description="The pinned ones: those that reports are sealed to now.")
    processes: list[LiveProcess]
    intake: Intake
    controls: list[Control]
    probing: list[str] = Field(description="Ids of the keys that seem to search for what slips by.")
    warnings: list[str] = Field(description="What an operator should mend.")


@router.get(
    "/livez",
    name="livez",
    responses=problems.documented(needs_token=False),
    response_description="It runs.",
    summary="200 while the process runs",
)
@router.head("/livez", name="livez", include_in_schema=False)
async def livez() -> Alive:
    """Say that the process runs; no more."""
    return Alive()


@router.get(
    "/readyz",
    name="readyz",
    response_model=Ready,
    response_description="It would.",
    responses=problems.documented(needs_token=False)
    | {
        503: {
            "model": Ready,
            "description": "A match would not be caught and stored now.",
            "headers": {
                "Retry-After": problems.documented_header(
                    "After how many seconds it may be worth asking again.", {"type": "integer"}
                )
            },
        }
    },
    summary="200 only if a match would be caught and stored now",
)
@router.head("/readyz", name="readyz", include_in_schema=False)
async def readyz(at: InServices) -> Response:
    """Database writable, banks loaded, sandbox alive, a custodian known; else 503 naming what fails."""
    failing = await at.readiness.failing()
    body = Ready(status="not_ready" if failing else "ready", failing=list(failing))
    headers = {"retry-after": "5"} if failing else {}
    return Response(body.model_dump_json(), 503 if failing else 200, headers, "application/json")


@router.get(
    "/metrics",
    name="metrics",
    responses=problems.documented(needs_token=False)
    | {200: {"description": "Every metric.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
    summary="Prometheus text",
)
@router.head("/metrics", name="metrics", include_in_schema=False)
async def get_metrics(at: InServices) -> Response:
    """Counters and gauges; no label tells a URL, host, hash, account, key or bank."""
    await at.gauges.refresh()
    return Response(at.metrics.exposition(), 200, media_type=metrics.CONTENT_TYPE)


@router.get(
    "/v1/status",
    name="status",
    responses=problems.documented(),
    response_description="All of it.",
    summary="Generations, ages, queue depth and age, controls in force",
)
async def status(at: InServices, key: Annotated[Key, scope("ops")]) -> Status:  # noqa: ARG001
    """What an operator wants to know of this process and the state it shares."""
    warnings = []
    try:
        roster = at.pins.read_if_there()
    except NotReadyError as error:
        roster = Roster()
        warnings.append(str(error))
    async with at.database.connect() as connection:
        queue = await reports.queue(connection)
        differences = (await custodians.compare(connection, roster)).told()
        live = await processes.live(connection)
        stand = await alarms.standing(connection, _ALARMS_SHOWN)
    if len(roster.custodians) < custodians.ENOUGH:
        warnings.append(custodians.TOO_FEW)
    warnings += differences
    if at.settings.fetch.fetch_allow:
        warnings.append("CORDON_FETCH_ALLOW is set: addresses that are not global may be reached")
    failing = list(await at.readiness.failing())
    return Status(
        version=__version__,
        ready=not failing,
        failing=failing,
        banks=at.banks.status(),
        queue=Queue(depth=queue.depth, oldest_age_seconds=queue.oldest_age_seconds),
        alarms=[
            StandingAlarm(kind=each.kind, subject=each.subject, raised_at=each.raised_at) for each in stand
        ],
        custodians=len(roster.custodians),
        processes=[
            LiveProcess(id=process.id, role=process.role, generation=process.generation) for process in live
        ],
        intake=Intake(
            held_media=at.gate.quarantine.held_media,
            reserved_bytes=at.gate.quarantine.reserved_bytes,
            budget_bytes=at.gate.quarantine.budget_bytes,
        ),
        controls=list(controls(at.sandbox, at.pins)),
        probing=list(at.guard.suspected),
        warnings=warnings,
    )
