"""``/livez``, ``/readyz`` and ``/metrics`` for anyone who watches; ``/v1/status`` for operators."""

import asyncio
from datetime import datetime
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from app import __version__, metrics
from app.api import problems
from app.api.edge import Key
from app.api.readiness import READ_SECONDS
from app.api.services import InServices, scope
from app.banks.current import BanksStatus
from app.controls import Control, controls
from app.custody.roster import Roster
from app.errors import NotReadyError
from app.store import alarms, custodians, processes
from app.store.reports import reports

router = APIRouter(tags=["ops"])

_ALARMS_SHOWN: Final = 100


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
    try:
        async with asyncio.timeout(READ_SECONDS), at.database.connect() as connection:
            queue = await reports.queue(connection)
            differences = (await custodians.compare(connection, roster)).told()
            live = await processes.live(connection)
            stand = await alarms.standing(connection, _ALARMS_SHOWN)
    except TimeoutError:
        raise NotReadyError("database (no answer)") from None
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
        controls=list(controls(at.sandbox, at.settings)),
        probing=list(at.guard.suspected),
        warnings=warnings,
    )
