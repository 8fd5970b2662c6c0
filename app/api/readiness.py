"""Whether a match would be caught and stored now."""

import asyncio
import time
from typing import Final

from app.banks.current import CurrentBanks
from app.custody import plugins
from app.custody.roster import RosterFile
from app.errors import NotReadyError
from app.hashing.sandbox import Sandbox
from app.store import processes
from app.store.database import Database

READ_SECONDS: Final = 2.0
"""How long the database has to tell what is shown of it: who watches waits ten at most, mostly."""

_WRITE_SECONDS: Final = 2.0
_ANSWER_LIFE_SECONDS: Final = 1.0


class Readiness:
    """Asks what a match needs, at most once a second, however often it is polled."""

    def __init__(
        self,
        *,
        process_id: str,
        database: Database,
        banks: CurrentBanks,
        sandbox: Sandbox,
        pins: RosterFile,
        require_custodian: bool,
    ) -> None:
        self._process_id = process_id
        self._database = database
        self._banks = banks
        self._sandbox = sandbox
        self._pins = pins
        self._require_custodian = require_custodian
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
        checks = {
            "database": await self._can_write(),
            "banks": self._banks_ready(),
            "sandbox": self._sandbox.alive,
        }
        if self._require_custodian:
            checks["custodian"] = self._custodian_known()
        return tuple(name for name, holds in checks.items() if not holds)

    async def _can_write(self) -> bool:
        if not self._database.has_room():
            return False
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await processes.heartbeat(self._database, self._process_id, self._banks.generation)
        except (NotReadyError, TimeoutError):
            return False
        return True

    def _banks_ready(self) -> bool:
        try:
            self._banks.ready(None)
        except NotReadyError:
            return False
        return True

    def _custodian_known(self) -> bool:
        """Whether somebody is pinned, and every program is there that it takes to seal to them."""
        try:
            public_keys = self._pins.read_if_there().public_keys
        except NotReadyError:
            return False
        return bool(public_keys) and not plugins.missing(public_keys)
