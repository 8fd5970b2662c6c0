"""A match → a sealed report, committed before anybody is answered."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from app.errors import NotReadyError, ReportNotStoredError
from app.media import BankKind, ReportReference
from app.report.draft import Stub
from app.report.seal import seal

CUSTODIANS_LIFE_SECONDS: Final = 1.0
"""How long the number of custodians is believed before it is read again."""

Seal = Callable[[str, Sequence[str]], bytes]
"""Seals the stub under a report's id to the custodians' public keys."""


class Shelf(Protocol):
    """Where sealed reports are kept."""

    async def put(
        self,
        *,
        bank_kind: BankKind,
        sha256: bytes,
        place: tuple[tuple[str, str], ...],
        key_id: str | None,
        idempotency_key: str | None,
        seal: Seal,
        parked_cause: str | None = None,
    ) -> ReportReference:
        """Seal and commit one sighting, once: as a new report, or joined to a queued one.

        Raises:
            NotReadyError: the store failed.
            ReportNotStoredError: no custodian is pinned, or sealing failed.
        """

    async def count_custodians(self) -> int:
        """How many custodians reports are sealed to now.

        Raises:
            NotReadyError: the store failed.
        """


class SealedOutbox:
    """Seals stubs to the custodians and commits them, or says that it could not."""

    def __init__(self, shelf: Shelf, *, require_custodian: bool) -> None:
        self._shelf = shelf
        self._require_custodian = require_custodian
        self._counting = asyncio.Lock()
        self._count = 0
        self._counted_at = float("-inf")

    async def check_ready(self) -> None:
        """Return only if a report could be sealed now, as known for at most a second.

        Raises:
            NotReadyError: no custodian is known and one is required, or the store does not answer.
        """
        if not self._require_custodian:
            return
        async with self._counting:
            if time.monotonic() - self._counted_at > CUSTODIANS_LIFE_SECONDS:
                self._count = await self._shelf.count_custodians()
                self._counted_at = time.monotonic()
        if self._count < 1:
            raise NotReadyError("no custodian is pinned; see 'cordon custodian add'")

    async def commit(self, stub: Stub, *, parked_cause: str | None = None) -> ReportReference:
        """Store a report durably, once.

        Args:
            stub: the report.
            parked_cause: why it is parked at once instead of queued.

        Raises:
            ReportNotStoredError: it could not be stored. Nothing of it was, or a later attempt joins it.
        """
        try:
            return await self._shelf.put(
                bank_kind=stub.kind,
                sha256=stub.sha256,
                place=stub.place,
                key_id=stub.key_id,
                idempotency_key=stub.idempotency_key,
                seal=lambda report_id, public_keys: seal(stub.to_json(report_id), public_keys),
                parked_cause=parked_cause,
            )
        except NotReadyError as error:
            raise ReportNotStoredError(str(error)) from None
