"""The trusting side's grip on the decoder processes: one fork server, and the workers it makes.

``ForkServer.start`` runs a fresh interpreter with a scrubbed environment and no descriptor but its socket.
``ForkServer.fork`` gives a ``Worker`` that has proved its lock. A worker is killed through a descriptor of
the process, which never hits another one, and collected by the fork server only when told to, so that its
process id is nobody else's for as long as it is used here.
"""

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import app
from app.hashing import decoder, records
from app.hashing.lock import HEADROOM_BYTES, Lock, LockRefusedError, resource_limits
from app.log import event

_logger: Final = logging.getLogger(__name__)

_START_SECONDS: Final = 60.0
"""For the imports, on a slow disk that has nothing cached."""

_READY_SECONDS: Final = 10.0
"""For a fork and its lock, which take milliseconds."""

_DEATH_SECONDS: Final = 5.0
"""For the kernel to take down a killed process."""

ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    # One thread in all: a fork copies no others, and user namespaces are refused to a process with more.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Each further arena reserves 64 MiB of address space, which is limited.
    "MALLOC_ARENA_MAX": "1",
    # A worker shrinks after each medium, to within half its headroom: what is freed goes back to the kernel.
    # Not what the usual picture takes, since to fetch that again costs a third of the time of hashing it.
    "MALLOC_MMAP_THRESHOLD_": str(12 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 1024 * 1024),
    # What a large picture takes is fetched in pages of 2 MiB, where the kernel has them, in less time.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # A large picture lies in one piece, so that it is read where it lies; Pillow's own are 16 MiB.
    "PILLOW_BLOCK_SIZE": "1024m",
}
"""What the fork server and its decoders find in theirs."""

_PASSED_ON: Final = ("LD_LIBRARY_PATH",)
"""What some interpreters cannot start without."""


class SandboxError(Exception):
    """Decoders cannot be made. The message is for operators and says why."""


class WorkerGoneError(Exception):
    """A worker's end of its channel is closed."""


class Worker:
    """One locked decoder process.

    Attributes:
        pid: its process id, for logs and limits.
        lock: what it found in force before its first medium.
        media: how many media it was handed.
        granted_bytes: memory granted to it for the medium it has now.
    """

    def __init__(
        self, server: "ForkServer", pid: int, process: int, channel: socket.socket, lock: Lock
    ) -> None:
        self.pid = pid
        self.lock = lock
        self.media = 0
        self.granted_bytes = 0
        self._server = server
        self._process = process
        self._channel = channel
        self._medium_bytes = 0
        self._on_loss: Callable[[], None] | None = None
        self._awaited: asyncio.Future[bytes] | None = None
        self._listens = False

    def hand_over(self, sequence: int, descriptor: int, size: int, look: records.Look) -> None:
        """Give it a medium, and say how closely to look at it and how much memory was granted beforehand.

        Raises:
            OSError: it is gone.
            WorkerGoneError: it ended or spoke without being asked.
        """
        if self._speaks():
            raise WorkerGoneError
        self.media += 1
        self._medium_bytes = size
        self._limit_memory()
        job = records.JOB.pack(sequence, size, self.granted_bytes, look.quick, look.parts)
        socket.send_fds(self._channel, [job], [descriptor])

    def grant(self, count: int) -> None:
        """Let it take this much memory for its medium, and go on.

        Raises:
            OSError: it is gone.
        """
        self.granted_bytes = count
        self._limit_memory()
        self._channel.send(records.GO)

    async def receive(self) -> bytes:
        """Its next, untrusted word.

        Raises:
            WorkerGoneError: there will be none.
        """
        with contextlib.suppress(BlockingIOError):
            return self._read()
        self._awaited = asyncio.get_running_loop().create_future()
        self._listen()
        try:
            return await self._awaited
        finally:
            self._awaited = None

    def rest(self, on_loss: Callable[[], None]) -> None:
        """Watch it while it has nothing to do: whatever it says or does then, it is lost."""
        self._on_loss = on_loss
        self._listen()

    def wake(self) -> None:
        """End ``rest``."""
        self._on_loss = None

    def kill(self) -> None:
        """End it, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    async def bury(self) -> None:
        """Wait until it is dead and its memory free, and let go of all that belonged to it."""
        try:
            async with asyncio.timeout(_DEATH_SECONDS):
                await _readable(self._process)
        except TimeoutError:
            event(_logger, logging.ERROR, "decoder_not_dying", pid=self.pid)
        finally:
            self._ignore()
            self._channel.close()
            self._server.bury(self.pid)
            if self._server.gone.is_set():
                # An orphan; where the gate is process 1, as in a container, it is the gate's to collect.
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, self._process, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222 - WNOHANG
            os.close(self._process)

    def _listen(self) -> None:
        """Hear it from now on, until nobody wants to: once for many media, as asking for it is not free."""
        if not self._listens:
            asyncio.get_running_loop().add_reader(self._channel.fileno(), self._hear)
            self._listens = True

    def _ignore(self) -> None:
        if self._listens:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._listens = False

    def _hear(self) -> None:
        if self._on_loss is not None:
            if self._speaks():
                self._on_loss()
        elif self._awaited is None:
            self._ignore()
        elif not self._awaited.done():
            try:
                self._awaited.set_result(self._read())
            except BlockingIOError:
                return
            except (WorkerGoneError, OSError) as error:
                self._awaited.set_exception(error)

    def _speaks(self) -> bool:
        """Whether it has something to say, or ended: what made the loop call may have been read since."""
        try:
            self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except ConnectionError:
            return True  # It ended with something unread.
        return True

    def _read(self) -> bytes:
        try:
            # One byte more than any word has, so that a longer one does not pass for it.
            untrusted = self._channel.recv(records.MAX_WORD_BYTES + 1)
        except ConnectionError:
            raise WorkerGoneError from None
        if not untrusted:
            raise WorkerGoneError
        return untrusted

    def _limit_memory(self) -> None:
        ceiling = self.lock.address_space_bytes + HEADROOM_BYTES + self._medium_bytes + self.granted_bytes
        # The soft limit: it can be raised again for the next medium, by this side alone.
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_AS)
        soft = ceiling if hard == resource.RLIM_INFINITY else min(ceiling, hard)
        resource.prlimit(self.pid, resource.RLIMIT_AS, (soft, hard))


class ForkServer:
    """The process that makes workers.

    Attributes:
        gone: set when it has ended, whatever the cause.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, cpu_seconds: int) -> None:
        self.gone = asyncio.Event()
        self._process = process
        self._control = control
        self._limits = resource_limits(cpu_seconds)
        self._forking: deque[asyncio.Future[tuple[int, int]]] = deque()

    @classmethod
    async def start(cls, *, scanner: str, cpu_seconds: int, limits: records.Limits) -> Self:
        """Start the process and wait until it has preloaded all decoders.

        Args:
            scanner: import path of the module that decodes.
            cpu_seconds: processor time that a worker may take over its whole life.
            limits: what one medium may ask of a worker.

        Raises:
            SandboxError: it cannot.
        """
        try:
            control, inherited = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            control.setblocking(False)
            with inherited:
                orders = decoder.Orders(os.getpid(), inherited.fileno(), scanner, cpu_seconds, limits)
                process = _run_decoder(orders)
        except OSError as error:
            raise SandboxError(f"the decoders cannot be started: {error.strerror}") from error
        server = cls(process, control, cpu_seconds)
        with contextlib.ExitStack() as undo:
            undo.callback(server.kill)
            await server._wait_until_preloaded()
            undo.pop_all()
        asyncio.get_running_loop().add_reader(control, server._hear)
        return server

    async def fork(self) -> Worker:
        """Make a worker and wait until it has proved its lock.

        Raises:
            SandboxError: it cannot be made, or cannot lock itself.
        """
        try:
            channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise SandboxError(f"a decoder has no channel: {error.strerror}") from error
        channel.setblocking(False)
        forked: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        with contextlib.ExitStack() as undo:
            undo.callback(self._dispose_of, forked)
            undo.callback(channel.close)
            try:
                with theirs:
                    self._say(records.FORK, theirs.fileno())
                self._forking.append(forked)
                async with asyncio.timeout(_READY_SECONDS):
                    pid, process = await forked
            except TimeoutError:
                self.kill()
                raise SandboxError("the fork server does not answer") from None
            found = await _first_word(channel)
            self._check_limits(pid)
            undo.pop_all()
        return Worker(self, pid, process, channel, found)

    def bury(self, pid: int) -> None:
        """Have a worker that was killed collected."""
        with contextlib.suppress(SandboxError):
            self._say(records.BURY.pack(pid))

    def kill(self) -> None:
        """End it; the kernel ends its workers with it."""
        if self.gone.is_set():
            return
        self.gone.set()
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        self._process.kill()
        # Killed processes end in milliseconds, and nothing may be started in its place before.
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()
        for forked in self._forking:
            if not forked.done():
                forked.set_exception(SandboxError("the fork server has ended"))

    async def _wait_until_preloaded(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_START_SECONDS):
                word = await loop.sock_recv(self._control, len(records.PRELOADED))
        except TimeoutError:
            raise SandboxError(f"the decoders were not loaded in {_START_SECONDS:.0f} seconds") from None
        if word != records.PRELOADED:
            # It has seen no medium yet, so what it says is safe to show.
            _, complaint = self._process.communicate()
            last_line = (complaint.decode(errors="replace").strip().splitlines() or ["no word"])[-1]
            raise SandboxError(f"the decoders cannot be loaded: {last_line}")
        # From here on it leads nowhere at the other end.
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _say(self, word: bytes, *descriptors: int) -> None:
        try:
            socket.send_fds(self._control, [word], descriptors)
        except OSError:
            self.kill()
            raise SandboxError("the fork server has ended") from None

    def _hear(self) -> None:
        try:
            word, descriptors, _, _ = socket.recv_fds(
                self._control, records.BURIED.size, 1, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except ConnectionError:
            word, descriptors = b"", []
        if len(word) == records.FORKED.size:
            self._hear_forked(records.FORKED.unpack(word)[0], descriptors)
        elif len(word) == records.BURIED.size:
            _tell_of_end(*records.BURIED.unpack(word))
        else:
            event(_logger, logging.ERROR, "fork_server_ended")
            self.kill()

    def _hear_forked(self, pid: int, descriptors: Sequence[int]) -> None:
        forked = self._forking.popleft()
        if pid == 0:
            if not forked.done():
                forked.set_exception(SandboxError("no room for another process"))
        elif forked.done():
            self._dispose(pid, descriptors[0])
        else:
            forked.set_result((pid, descriptors[0]))

    def _dispose_of(self, forked: asyncio.Future[tuple[int, int]]) -> None:
        """End the worker that was made, if one was."""
        if forked.done() and not forked.cancelled() and forked.exception() is None:
            self._dispose(*forked.result())

    def _dispose(self, pid: int, process: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)
        self.bury(pid)

    def _check_limits(self, pid: int) -> None:
        """Ask the kernel, not the worker, whether its limits are in force."""
        try:
            in_force = all(
                0 <= found <= ceiling
                for name, ceiling in self._limits.items()
                for found in resource.prlimit(pid, name)
            )
        except OSError as error:
            reason = f"the limits of a decoder cannot be read: {os.strerror(error.errno or 0)}"
            raise SandboxError(reason) from None
        if not in_force:
            raise SandboxError("the limits of a decoder are not in force")


def _run_decoder(orders: decoder.Orders) -> subprocess.Popen[bytes]:
    arguments = ["-I", "-B", "-c", decoder.BOOT, json.dumps(_import_path()), orders.to_json()]
    return subprocess.Popen(  # noqa: S603 - our own interpreter and program, with nobody else's words
        [sys.executable, *arguments],
        env=ENVIRONMENT | {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd="/",
        pass_fds=(orders.control,),
        # A terminal's signals are not for it.
        start_new_session=True,
    )


async def _first_word(channel: socket.socket) -> Lock:
    try:
        async with asyncio.timeout(_READY_SECONDS):
            word = records.unpack_first_word(await _receive(channel))
    except TimeoutError:
        raise SandboxError(f"a decoder was not ready in {_READY_SECONDS:.0f} seconds") from None
    except WorkerGoneError:
        raise SandboxError("a decoder ended before it was locked") from None
    except records.MisbehaviourError as error:
        raise SandboxError(f"a decoder's first word was {error}") from None
    if isinstance(word, records.Refusal):
        raise SandboxError(f"a decoder cannot lock itself: {LockRefusedError(word.step, word.code)}")
    return word


async def _receive(channel: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    try:
        # One byte more than any record has, so that a longer one does not pass for it.
        untrusted = await loop.sock_recv(channel, records.MAX_RECORD_BYTES + 1)
    except ConnectionError:
        raise WorkerGoneError from None
    if not untrusted:
        raise WorkerGoneError
    return untrusted


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    seen = asyncio.Event()
    loop.add_reader(descriptor, seen.set)
    try:
        await seen.wait()
    finally:
        loop.remove_reader(descriptor)


def _tell_of_end(pid: int, status: int) -> None:
    code = os.waitstatus_to_exitcode(status)
    if code in {0, -signal.SIGKILL}:
        event(_logger, logging.DEBUG, "decoder_ended", pid=pid)
    else:
        how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
        event(_logger, logging.WARNING, "decoder_crashed", pid=pid, how=how)


def _import_path() -> list[str]:
    """The child's import path: this process's, and the folder this very package was loaded from."""
    found = [entry for entry in sys.path if Path(entry).is_absolute()]
    here = str(Path(app.__file__).parents[1])
    return found if here in found else [here, *found]
