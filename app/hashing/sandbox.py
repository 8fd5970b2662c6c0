"""The sandbox, seen from the trusting side: a whole medium goes in, its checked scan comes out.

What it promises: only locked processes decode (``app.hashing.lock``). One that crashes, hangs, lies or has
seen enough media is killed and replaced, its medium is undecidable with the reason, and the others go on.
What arrived validly before is kept, since a match in it still counts. A medium is at most one's trouble.

What it does not: tell whether a decoder that was taken over lies about what a picture looks like. Digests
are therefore computed elsewhere, and decoders are replaced after ``CORDON_DECODER_MEDIA`` media.
"""

import asyncio
import logging
import math
import os
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

from app.hashing.budget import Budget
from app.hashing.lock import Lock
from app.hashing.records import SEQUENCE_NUMBERS, Answers, End, Limits, Look, MisbehaviourError, Need, split
from app.hashing.workers import ForkServer, SandboxError, Worker, WorkerGoneError
from app.log import event
from app.media import Reason, Scan, VariantKind
from app.quarantine import QuarantinedMedia
from app.settings import HashingSettings

__all__ = ["Cause", "Sandbox", "SandboxError", "SandboxState"]

_logger: Final = logging.getLogger(__name__)

_QUICK_LOOK_BYTES: Final = 64 * 1024 * 1024
"""Most memory that is granted for a quick look before it is asked for; few media take more."""

_AHEAD: Final = 2
"""Decoders beyond one a processor: they have their next medium before the event loop comes round to it.

Where there are two processors, four took in 4 % more uploads a second than two, none of them later for it.
"""

_SPARE: Final = 1
"""Decoders that wait for one to be replaced, so that no medium has to.

A new one takes some 6 ms to make, and its first medium 4 ms more than the next ones.
"""

_RESTART_SECONDS: Final = 1.0
"""Between two tries to start a fork server."""


class Cause(StrEnum):
    """Why a worker was replaced."""

    RECYCLED = "recycled"
    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    OUTGREW = "outgrew"
    MISBEHAVED = "misbehaved"
    ABANDONED = "abandoned"


@dataclass(frozen=True)
class SandboxState:
    """What the workers do, and what became of them; without more, of a sandbox that was not started.

    Attributes:
        workers: workers there are now, each of them locked.
        in_flight: media being scanned or waiting for it.
        replaced: workers replaced so far, by cause.
        fork_servers: fork servers started so far.
        decode_bytes: memory granted to decoding now.
    """

    workers: int = 0
    in_flight: int = 0
    replaced: Mapping[Cause, int] = field(default_factory=dict)
    fork_servers: int = 0
    decode_bytes: int = 0


class Sandbox:
    """A pool of locked decoder processes.

    To be started and closed in the event loop that scans with it::

        async with Sandbox(settings.hashing) as sandbox:
            scan = await sandbox.scan(media)

    Attributes:
        lock: what the newest worker found in force; None before there was one.
    """

    def __init__(self, settings: HashingSettings, *, scanner: str = "app.hashing.scan") -> None:
        """Prepare, without starting anything.

        Args:
            settings: limits, times and sizes.
            scanner: import path of the module that decodes. Production never passes it: it is how tests run
                decoders that misbehave, which must not exist in this package.
        """
        self.lock: Lock | None = None
        self._settings: Final = settings
        self._scanner: Final = scanner
        self._decoders: Final = settings.decoders or len(os.sched_getaffinity(0)) + _AHEAD
        self._budget: Final = Budget(settings.max_decode_bytes)
        # Of half of the budget, so that the other half is there for those that take more.
        self._quick_look_bytes: Final = min(_QUICK_LOOK_BYTES, self._budget.total // (2 * self._decoders))
        self._turns: Final = asyncio.Semaphore(self._decoders)
        self._idle: Final[list[Worker]] = []
        self._busy: Final[dict[Worker, asyncio.Future[None]]] = {}
        self._forking = 0
        self._chores: Final[set[asyncio.Task[None]]] = set()
        self._server: ForkServer | None = None
        self._server_up: Final = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._closed: Final = asyncio.Event()
        self._sequence = 0
        self._in_flight = 0
        self._replaced: Final[Counter[Cause]] = Counter()
        self._fork_servers = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the decoders and prove that they lock themselves.

        Raises:
            SandboxError: they cannot be started, or not be locked.
        """
        await self._start_server()
        self._supervisor = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        """Kill all decoders. Media in flight become undecidable."""
        self._closed.set()
        self._server_up.set()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        for worker in tuple(self._idle):
            self._lose(worker, Cause.ABANDONED)
        for worker in self._busy:
            worker.kill()
        if self._busy:
            await asyncio.wait(self._busy.values())
        while self._chores:
            await asyncio.wait(self._chores)
        if self._server is not None:
            self._server.kill()

    async def scan(
        self,
        media: QuarantinedMedia,
        variants: frozenset[VariantKind] = frozenset(VariantKind),
        *,
        quick: bool = False,
    ) -> Scan:
        """Hash all renderings of a whole medium; what fails is told in the scan, not raised.

        Args:
            media: the medium.
            variants: which kinds of them its renderings are to have.
            quick: whether hashes that are near to the canonical ones are enough, where they cost less.
        """
        if media.size == 0:
            return Scan(None, (), Reason.EMPTY)
        self._sequence = (self._sequence + 1) % SEQUENCE_NUMBERS
        look = Look(quick and self._settings.quick_look, parts=VariantKind.REGIONS in variants)
        answers = Answers(
            self._sequence,
            max_pixels=self._settings.max_pixels,
            max_frames=self._settings.max_frames,
            variants=variants,
            look=look,
        )
        self._in_flight += 1
        try:
            async with asyncio.timeout(self._settings.scan_seconds):
                reason = await self._scan(media, answers, look)
        except TimeoutError:
            reason = Reason.SCAN_TIMEOUT
        finally:
            self._in_flight -= 1
        return Scan(answers.shape, tuple(answers.renderings), reason)

    @property
    def alive(self) -> bool:
        """Whether a medium would be scanned now: workers can be made, and the last one proved its lock."""
        return not self._closed.is_set() and self._server is not None and not self._server.gone.is_set()

    @property
    def state(self) -> SandboxState:
        """As of now."""
        return SandboxState(
            workers=len(self._idle) + len(self._busy),
            in_flight=self._in_flight,
            replaced={cause: self._replaced[cause] for cause in Cause},
            fork_servers=self._fork_servers,
            decode_bytes=self._budget.reserved,
        )

    async def _scan(self, media: QuarantinedMedia, answers: Answers, look: Look) -> Reason | None:
        async with self._turns:
            try:
                worker = await self._assign(media, answers.sequence, look)
            except SandboxError as error:
                event(_logger, logging.ERROR, "no_decoder", why=str(error))
                return Reason.DECODER_FAILED
            cause: Cause | None = Cause.ABANDONED
            try:
                reason, cause = await self._converse(worker, answers)
            finally:
                self._take_back(worker, cause)
            return reason

    async def _assign(self, media: QuarantinedMedia, sequence: int, look: Look) -> Worker:
        """Hand the medium to a worker that rests, else to a new one."""
        while True:
            rested = bool(self._idle)
            worker = self._wake() if rested else await self._fork()
            if look.quick and self._budget.take(self._quick_look_bytes):
                worker.granted_bytes = self._quick_look_bytes
            try:
                worker.hand_over(sequence, media.fd, media.size, look)
            except (OSError, WorkerGoneError):
                # It was lost while it rested, and never had the medium.
                self._retire(worker, Cause.CRASHED)
                if not rested:
                    raise SandboxError("a decoder ended before its first medium") from None
            else:
                self._busy[worker] = asyncio.get_running_loop().create_future()
                return worker

    async def _converse(self, worker: Worker, answers: Answers) -> tuple[Reason | None, Cause | None]:
        """Hear all that a worker has to say of its medium; the reason, and why the worker must go, if so."""
        loop = asyncio.get_running_loop()
        seconds_left = self._settings.decode_seconds
        try:
            while True:
                asked_at = loop.time()
                async with asyncio.timeout(seconds_left):
                    untrusted = await worker.receive()
                # Waiting for memory, below, is not decoding.
                seconds_left -= loop.time() - asked_at
                end: End | None = None
                for record in split(untrusted):
                    match answers.accept(record):
                        case Need(needed) if needed > self._budget.total:
                            return Reason.TOO_MANY_PIXELS, Cause.OUTGREW
                        case Need(needed) if needed > worker.granted_bytes:
                            await self._grant(worker, needed)
                        case End() as told:
                            end = told
                if end is not None:
                    return end.reason, Cause.OUTGREW if end.spent else None
        except TimeoutError:
            return Reason.DECODE_TIMEOUT, Cause.TIMED_OUT
        except (WorkerGoneError, OSError):
            return Reason.DECODER_FAILED, Cause.CRASHED
        except MisbehaviourError as error:
            event(_logger, logging.ERROR, "decoder_misbehaved", pid=worker.pid, how=str(error))
            return Reason.DECODER_FAILED, Cause.MISBEHAVED

    async def _grant(self, worker: Worker, needed: int) -> None:
        """Let a worker have all that its medium takes; while it waits, it holds nothing."""
        self._budget.release(worker.granted_bytes)
        worker.granted_bytes = 0
        await self._budget.reserve(needed)
        worker.grant(needed)

    def _take_back(self, worker: Worker, cause: Cause | None) -> None:
        """Let a worker rest after its medium, or replace it; the next medium waits for neither."""
        self._busy.pop(worker).set_result(None)
        if cause is None and worker.media >= self._settings.decoder_media:
            cause = Cause.RECYCLED
        if cause is None:
            self._budget.release(worker.granted_bytes)
            worker.granted_bytes = 0
            self._rest(worker)
        else:
            self._retire(worker, cause)
            self._do(self._replace())

    def _rest(self, worker: Worker, *, spare: bool = False) -> None:
        """Have a worker at hand; a spare one only if there is no other, as its first medium takes longer."""
        self._idle.insert(0 if spare else len(self._idle), worker)
        worker.rest(lambda: self._lose(worker, Cause.CRASHED))

    def _wake(self) -> Worker:
        worker = self._idle.pop()
        worker.wake()
        return worker

    def _lose(self, worker: Worker, cause: Cause) -> None:
        """Let go of a worker that rests. Another is made when a medium needs it."""
        worker.wake()
        self._idle.remove(worker)
        self._retire(worker, cause)

    def _retire(self, worker: Worker, cause: Cause) -> None:
        self._replaced[cause] += 1
        worker.kill()
        self._do(self._bury(worker))

    async def _bury(self, worker: Worker) -> None:
        await worker.bury()
        # Not before: what it was granted is in use until it is dead.
        self._budget.release(worker.granted_bytes)

    async def _replace(self) -> None:
        try:
            # One at a time: should many end at once, each medium that finds none at rest makes its own.
            while not self._forking and len(self._idle) + len(self._busy) < self._decoders + _SPARE:
                self._rest(await self._fork(), spare=True)
        except SandboxError as error:
            if not self._closed.is_set():
                event(_logger, logging.ERROR, "no_decoder", why=str(error))

    async def _fork(self) -> Worker:
        """A new worker, once there is a fork server.

        Raises:
            SandboxError: it cannot be made.
        """
        self._forking += 1
        try:
            while True:
                await self._server_up.wait()
                server = self._server
                if self._closed.is_set() or server is None:
                    raise SandboxError("the sandbox is closed")
                try:
                    worker = await server.fork()
                except SandboxError:
                    if not server.gone.is_set() or self._closed.is_set():
                        raise
                    if self._server is server:
                        self._server_up.clear()
                    continue
                if self._closed.is_set():
                    worker.kill()
                    await worker.bury()
                    continue
                self.lock = worker.lock
                return worker
        finally:
            self._forking -= 1

    async def _start_server(self) -> None:
        server = await ForkServer.start(
            scanner=self._scanner,
            # Two threads for HEIC. The clock of this side ends a medium; this ends a worker whose
            # trusting side hangs.
            cpu_seconds=math.ceil(2 * self._settings.decode_seconds * self._settings.decoder_media),
            limits=Limits(
                max_pixels=self._settings.max_pixels,
                max_frames=self._settings.max_frames,
                max_decode_bytes=self._settings.max_decode_bytes,
                disabled_formats=self._settings.disabled_formats,
            ),
        )
        with ExitStack() as undo:
            undo.callback(server.kill)
            worker = await server.fork()
            undo.pop_all()
        self._fork_servers += 1
        self._server = server
        self.lock = worker.lock
        self._rest(worker)
        self._server_up.set()

    async def _supervise(self) -> None:
        """Have a fork server whenever there can be one."""
        while True:
            if self._server is not None:
                await self._server.gone.wait()
            self._server_up.clear()
            try:
                await self._start_server()
            except SandboxError as error:
                event(_logger, logging.ERROR, "no_decoder", why=str(error))
                await asyncio.sleep(_RESTART_SECONDS)

    def _do(self, chore: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
