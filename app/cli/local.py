"""``cordon ingest`` without a server: the same pipeline, in this process."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ulid import ULID

from app import release
from app.answer import answer
from app.api import problems
from app.cli.console import say
from app.cli.outcomes import Outcome, failure
from app.cli.saving import SaveDirectory
from app.cli.sources import Kind, Source, chunks, opened
from app.context import MAX_STRING_CHARACTERS, Context
from app.errors import CordonError, OverloadedError
from app.media import Provenance
from app.pipeline import Arrival, Arrived, Gate, Receipt, Submission, ingest
from app.quarantine import QuarantinedMedia
from app.settings import Profile
from app.store.banks.bank_reader import BankReader
from app.wiring import Wired, WiredWithState

ENTRANCE: Final = "cli"

_OVERLOAD_PATIENCE_SECONDS: Final = 60
_OVERLOAD_PAUSE_SECONDS: Final = 0.1
_SAID_AFTER_SECONDS: Final = 1.0
_DRAIN_SECONDS: Final = 30


@contextlib.asynccontextmanager
async def drained(gate: Gate) -> AsyncIterator[None]:
    """Let media whose last byte has arrived come to their end, even if the run is interrupted."""
    try:
        yield
    finally:
        if gate.begun:
            await asyncio.wait(gate.begun, timeout=_DRAIN_SECONDS)


async def wait_for_banks(wired: WiredWithState) -> None:
    """Wait until all that is stored of the banks is in force here; large banks may need an index built."""
    newest = (await BankReader(wired.database).head(0, b"")).generation
    waiting = asyncio.create_task(wired.banks.wait_for(newest))
    done, _ = await asyncio.wait([waiting], timeout=_SAID_AFTER_SECONDS)
    if not done:
        say("waiting for the index of the banks to be built")
    await waiting


@dataclass(frozen=True)
class LocalRun:
    """A gate in this process.

    Attributes:
        disclose_banks: name the banks that matched.
        save: where clear media go; None if only verdicts are wanted.
    """

    wired: Wired
    profile: Profile
    disclose_banks: bool
    save: SaveDirectory | None

    async def take_in(self, source: Source) -> Outcome:
        """Take one source through the gate."""
        ingest_id = str(ULID())
        try:
            receipt = await self._patiently(source, ingest_id)
        except CordonError as error:
            return Outcome(source, problem=problems.problem_of(error, ingest_id))
        except OSError as error:
            return failure(source, "unreadable", f"The file cannot be read: {error.strerror}.")
        told = answer(receipt, disclose_banks=self.disclose_banks).model_dump(mode="json")
        if receipt.released is None or self.save is None:
            return Outcome(source, answer=told)
        path = self.save.choose(source, ingest_id, receipt.shape.format if receipt.shape else "bin")
        try:
            await asyncio.to_thread(release.to_file, receipt, path)
        except OSError as error:
            return failure(source, "not_saved", f"It is clear, but could not be saved: {error.strerror}.")
        return Outcome(source, answer=told, saved=path)

    async def _patiently(self, source: Source, ingest_id: str) -> Receipt:
        """Ingest, waiting while other media of this run have spent the budget of bytes."""
        submission = Submission(id=ingest_id, entrance=ENTRANCE, key_id=None, profile=self.profile)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _OVERLOAD_PATIENCE_SECONDS
        while True:
            try:
                async with self._arrival(source) as (arrive, expected_bytes):
                    return await ingest(
                        self.wired.gate,
                        submission,
                        arrive,
                        expected_bytes=expected_bytes,
                        release=self.save is not None,
                    )
            except OverloadedError:
                # What came from standard input cannot be read a second time.
                if source.kind is Kind.STANDARD_INPUT or loop.time() > deadline:
                    raise
                await asyncio.sleep(_OVERLOAD_PAUSE_SECONDS)

    @contextlib.asynccontextmanager
    async def _arrival(self, source: Source) -> AsyncIterator[tuple[Arrival, int | None]]:
        if source.kind is Kind.URL:

            async def fetch(media: QuarantinedMedia) -> Arrived:
                return Arrived(await self.wired.fetcher.fetch(source.name, media), source.context)

            yield fetch, None
            return
        with opened(source) as file:
            size = os.fstat(file.fileno()).st_size if source.kind is Kind.FILE else None
            context = _telling_path(source)

            async def read(media: QuarantinedMedia) -> Arrived:
                async for untrusted_chunk in chunks(file):
                    media.write(untrusted_chunk)
                return Arrived(Provenance(received_at=datetime.now(UTC)), context)

            yield read, size


def _telling_path(source: Source) -> Context:
    """The context of a file, its path as the reference if there is none: a custodian has to find it again.

    It is no place, so that a file that was moved or copied is not taken for another sighting.
    """
    if source.context.client_ref is not None or source.kind is not Kind.FILE:
        return source.context
    path = str(Path(source.name).absolute())[-MAX_STRING_CHARACTERS:]
    return source.context.model_copy(update={"client_ref": path})
