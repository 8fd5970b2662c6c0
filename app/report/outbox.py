"""A match → a sealed report, committed before anybody is answered."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from app import log
from app.custody.plugins import SEAL_SECONDS
from app.custody.recipients import programs_of
from app.errors import ConflictError, NotReadyError, ReportNotStoredError
from app.media import BankKind, ReportReference
from app.report.automatic import may_file
from app.report.draft import Stub
from app.report.seal import seal

logger = logging.getLogger(__name__)

CUSTODIANS_LIFE_SECONDS: Final = 1.0
"""How long the number of custodians is believed before it is read again."""

CUSTODIANS_AHEAD_SECONDS: Final = CUSTODIANS_LIFE_SECONDS / 2
"""How often a gate reads it, so that no medium waits for it: at full load that takes a while."""

SEALING_AT_ONCE: Final = 4
"""How many reports are sealed by programs of plugins at a time; the others wait for their turn."""

# Threads of their own: programs of plugins that hang must not take those that decide about other media.
_SEALING: Final = ThreadPoolExecutor(max_workers=SEALING_AT_ONCE, thread_name_prefix="sealing")

Seal = Callable[[str, Sequence[str], str | None], Awaitable[bytes]]
"""Seals the stub under a report's id to the custodians' public keys, and to the worker's if it is named."""


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
        to_worker: bool = False,
    ) -> ReportReference:
        """Seal and commit one sighting, once: as a new report, or joined to a queued one.

        With ``to_worker`` it is sealed to the pinned worker too, if one is pinned.

        Raises:
            NotReadyError: the store failed.
            ReportNotStoredError: no custodian is pinned, or sealing failed.
        """

    async def record_block(self, submission_id: str, by: str, banks: Sequence[str]) -> None:
        """Commit an audit entry of a match that is only blocked.

        Raises:
            NotReadyError: the store failed.
        """

    async def count_custodians(self) -> int:
        """How many custodians reports are sealed to now.

        Raises:
            NotReadyError: the store failed, or the program of a custodian's plugin is not there.
        """


class SealedOutbox:
    """Seals stubs to the custodians and commits them, or says that it could not.

    Args:
        shelf: where they are kept.
        require_custodian: whether nothing is taken in while nobody is there to seal to.
        automatic_within: largest PDQ distance of what the worker may file by itself; None if it may nothing,
            and then nothing is sealed to it.
    """

    def __init__(self, shelf: Shelf, *, require_custodian: bool, automatic_within: int | None = None) -> None:
        self._shelf = shelf
        self._require_custodian = require_custodian
        self._automatic_within = automatic_within
        self._counting = asyncio.Lock()
        self._count = 0
        self._counted_at = float("-inf")

    async def count_ahead(self) -> None:
        """Count the custodians before what is known is too old; for a task that runs every half second.

        Raises:
            NotReadyError: the store does not answer, or one could not be sealed to.
        """
        if self._require_custodian:
            began = time.monotonic()
            count = await self._shelf.count_custodians()
            self._count, self._counted_at = count, began

    async def check_ready(self) -> None:
        """Return only if a report could be sealed now, as known for at most a second.

        Raises:
            NotReadyError: no custodian is known and one is required, one could not be sealed to, or the store
                does not answer.
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

        async def sealed(report_id: str, public_keys: Sequence[str], worker: str | None) -> bytes:
            document = stub.to_json(report_id, automatic=worker is not None)
            return await _sealed(document, (*public_keys, worker) if worker is not None else public_keys)

        try:
            return await self._shelf.put(
                bank_kind=stub.kind,
                sha256=stub.sha256,
                place=stub.place,
                key_id=stub.key_id,
                idempotency_key=stub.idempotency_key,
                seal=sealed,
                parked_cause=parked_cause,
                to_worker=parked_cause is None
                and self._automatic_within is not None
                and may_file(stub.content, distance=self._automatic_within),
            )
        except (NotReadyError, ConflictError) as error:
            # A conflict is a row that somebody else wrote: no fault of who handed the medium in.
            raise ReportNotStoredError(str(error)) from None

    async def record_block(self, submission_id: str, by: str, banks: Sequence[str]) -> None:
        """Put a match that nobody has to report on the record.

        Args:
            submission_id: of the ingest.
            by: id of the key that handed it in, or the entrance that needs none.
            banks: names of those that block it.

        Raises:
            ReportNotStoredError: it could not be stored.
        """
        try:
            await self._shelf.record_block(submission_id, by, banks)
        except (NotReadyError, ConflictError) as error:
            # A conflict is a row that somebody else wrote: no fault of who handed the medium in.
            raise ReportNotStoredError(str(error)) from None


async def _sealed(document: bytes, public_keys: Sequence[str]) -> bytes:
    """The sealed document; with a key of a plugin in ``SEAL_SECONDS`` at most, and nothing else waits for it.

    Raises:
        ReportNotStoredError: it was not sealed.
    """
    programs = programs_of(public_keys)
    if not programs:
        return seal(document, public_keys)
    try:
        async with asyncio.timeout(SEAL_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(_SEALING, seal, document, public_keys)
    except TimeoutError:
        failed = ReportNotStoredError(
            f"{' or '.join(programs)} did not seal within {SEAL_SECONDS:.0f} seconds"
        )
    except ReportNotStoredError as error:
        failed = error
    log.event(logger, logging.WARNING, "custodian_plugin_failed", detail=str(failed))
    raise failed
