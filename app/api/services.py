"""What the routes work with: the wired stages of one web process."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from fastapi import Depends, Request

from app.api.edge import Key, require_scope
from app.api.gauges import Gauges
from app.api.limits import KeyLimits
from app.api.probing import ProbeGuard
from app.api.readiness import Readiness
from app.banks.current import CurrentBanks
from app.custody.roster import RosterFile
from app.hashing.sandbox import Sandbox
from app.media import Provenance
from app.metrics import Metrics
from app.pipeline import Gate
from app.quarantine import QuarantinedMedia
from app.settings import Profile, Settings
from app.store.database import Database
from app.store.keys import KeyRing

Fetch = Callable[[str, QuarantinedMedia], Awaitable[Provenance]]


@dataclass
class Services:
    """The stages and adapters of one web process.

    Attributes:
        running: tasks of batches, which outlive the answers they feed.
    """

    settings: Settings
    database: Database
    banks: CurrentBanks
    sandbox: Sandbox
    gate: Gate
    fetch: Fetch
    metrics: Metrics
    keys: KeyRing
    limits: KeyLimits
    guard: ProbeGuard
    pins: RosterFile
    readiness: Readiness
    gauges: Gauges
    running: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def profiles(self) -> Mapping[str, Profile]:
        """The intake policies by name."""
        return self.settings.profiles


async def services(request: Request) -> Services:
    """The services of the process that serves this request."""
    return cast("Services", request.app.state.services)


async def request_id(request: Request) -> str:
    """The id of this request, as in its answer and the log."""
    return cast("str", request.state.request_id)


def scope(name: str) -> Any:  # noqa: ANN401 - what the framework declares it as
    """A dependency that gives the caller's key and insists on a scope."""

    async def check(request: Request) -> Key:
        key = cast("Key", request.state.key)
        require_scope(key, name)
        return key

    return Depends(check)


InServices = Annotated[Services, Depends(services)]
RequestId = Annotated[str, Depends(request_id)]
