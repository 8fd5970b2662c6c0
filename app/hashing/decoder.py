"""The child's side of the sandbox: a fork server, and the locked workers it makes.

The fork server imports and warms all decoders once, gives up its privileges, and from then on only forks.
It never sees a byte of any medium. Each worker it makes locks itself before its first medium, answers with
records of fixed layout alone, and has no way to say anything else.

Both end with the trusting side: by its socket's end, and by the kernel's own signal if it is killed.
"""

import gc
import importlib
import json
import mmap
import os
import signal
import socket
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn, Protocol, Self, cast

from app import kernel
from app.hashing import records
from app.hashing.lock import (
    CHANNEL,
    HEADROOM_BYTES,
    LockRefusedError,
    address_space_bytes,
    lock,
    open_own_size,
    separate,
)
from app.hashing.records import End, Forms, Limits, Look, Need, Refusal
from app.media import Reason, Rendering, Shape

BOOT: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from app.hashing.decoder import main; main(sys.argv[2])"
)
"""What the interpreter is told to run, with the import path of the trusting side and the orders as JSON.

Isolated mode (``-I``) reads no path from the environment or the working directory, so it is handed over.
"""

_THREAD_SECONDS: Final = 1.0
_IGNORED_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Scanner(Protocol):
    """The module that decodes: ``app.hashing.scan``, or a test's stand-in."""

    def preload(self) -> None:
        """Import and warm all that decoding needs."""

    def scan(
        self, untrusted: mmap.mmap, limits: Limits, look: Look
    ) -> Generator[Shape | Need | Rendering | Forms, None, Reason | None]:
        """Hash every rendering of a medium."""


@dataclass(frozen=True)
class Orders:
    """What the trusting side tells a fork server when it starts it.

    Attributes:
        parent: process id of the trusting side.
        control: number of the inherited socket to it.
        scanner: import path of the module that decodes.
        cpu_seconds: processor time that a worker may take over its whole life.
    """

    parent: int
    control: int
    scanner: str
    cpu_seconds: int
    limits: Limits

    def to_json(self) -> str:
        """The orders as text for a command line; they hold no secret."""
        return json.dumps(asdict(self), default=sorted)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` wrote."""
        told = json.loads(text)
        limits = told.pop("limits")
        return cls(
            limits=Limits(**limits | {"disabled_formats": frozenset(limits["disabled_formats"])}), **told
        )


def main(orders_json: str) -> NoReturn:
    """Be the fork server until the trusting side is gone."""
    orders = Orders.from_json(orders_json)
    _die_with(orders.parent)
    # A terminal's Ctrl-C and a service manager's SIGTERM reach all processes; the trusting side, which
    # finishes what was begun, decides when these end.
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=orders.control)
    scanner = cast("Scanner", importlib.import_module(orders.scanner))
    scanner.preload()
    _wait_for_threads_to_end()
    _be_killed_first()
    own_network = separate()
    kernel.forbid_core_dumps()
    _die_with(orders.parent)
    # From here on there are workers, whose standard error must lead nowhere.
    os.dup2(0, 2)
    gc.collect()
    gc.freeze()
    control.send(records.PRELOADED)
    _serve_forks(control, orders, scanner, own_network=own_network)
    os._exit(0)


def _die_with(parent: int) -> None:
    kernel.die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _wait_for_threads_to_end() -> None:
    """Be alone: a fork copies the locks that other threads hold, and not the threads."""
    deadline = time.monotonic() + _THREAD_SECONDS
    # One that was joined is listed a moment longer.
    while len(list(Path("/proc/self/task").iterdir())) > 1:
        if time.monotonic() > deadline:
            raise RuntimeError("the preloaded libraries left threads running")
        time.sleep(0.001)


def _be_killed_first() -> None:
    """Have the kernel, when it runs out of memory, end decoders rather than the gate."""
    # Refused where /proc is read-only; then the kernel chooses by size, which is mostly right.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _serve_forks(control: socket.socket, orders: Orders, scanner: Scanner, *, own_network: bool) -> None:
    server = os.getpid()
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, records.BURY.size, 1, socket.MSG_CMSG_CLOEXEC)
        if order == records.FORK:
            try:
                pid = os.fork()
            except OSError:
                os.close(descriptors[0])
                control.send(records.FORKED.pack(0))
                continue
            if pid == 0:
                _be_worker(server, descriptors[0], orders, scanner, own_network=own_network)
            os.close(descriptors[0])
            process = os.pidfd_open(pid)
            socket.send_fds(control, [records.FORKED.pack(pid)], [process])
            os.close(process)
        elif order:
            (pid,) = records.BURY.unpack(order)
            _, status = os.waitpid(pid, 0)
            control.send(records.BURIED.pack(pid, status))
        else:
            return


def _be_worker(
    server: int, channel_number: int, orders: Orders, scanner: Scanner, *, own_network: bool
) -> NoReturn:
    # Whatever happens in here, nothing may return into the fork server's loop.
    status = 1
    try:
        os.dup2(channel_number, CHANNEL)
        _close_all_after(CHANNEL)
        open_own_size()
        _die_with(server)
        channel = socket.socket(fileno=CHANNEL)
        try:
            locked = lock(cpu_seconds=orders.cpu_seconds, own_network=own_network)
        except LockRefusedError as error:
            channel.send(records.pack_refusal(Refusal(error.step, error.code)))
        else:
            channel.send(records.pack_lock(locked))
            # What caches and allocators keep must leave room to open the next medium.
            most_bytes = locked.address_space_bytes + HEADROOM_BYTES // 2
            _answer_jobs(channel, scanner, orders.limits, most_bytes)
            status = 0
    finally:
        os._exit(status)


def _close_all_after(last: int) -> None:
    # A list first: the directory's own descriptor is in it, and is closed by the time we come to it.
    for number in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if number > last:
            with suppress(OSError):
                os.close(number)


def _answer_jobs(channel: socket.socket, scanner: Scanner, limits: Limits, most_bytes: int) -> None:
    while True:
        job, descriptors, _, _ = socket.recv_fds(channel, records.JOB.size, 1)
        if not job:
            return
        sequence, size, granted_bytes, *look = records.JOB.unpack(job)
        untrusted = mmap.mmap(descriptors[0], size, prot=mmap.PROT_READ)
        os.close(descriptors[0])
        telling = _Telling(channel, sequence, granted_bytes)
        reason = telling.tell(scanner.scan(untrusted, limits, Look(*look)))
        spent = reason is Reason.DECODER_FAILED or address_space_bytes() > most_bytes + size
        try:
            untrusted.close()
        except BufferError:
            # Something still looks at it; only the end of this process unmaps it then.
            spent = True
        telling.end(End(reason, spent))


class _Telling:
    """Tells the trusting side what is found in one medium, at once or, to spare it wake-ups, all together.

    What is decoded frame by frame is told frame by frame, since a crash in one must not cost those before.
    """

    def __init__(self, channel: socket.socket, sequence: int, granted_bytes: int) -> None:
        self._channel = channel
        self._sequence = sequence
        self._granted_bytes = granted_bytes
        self._together = False
        self._kept = b""

    def tell(
        self, findings: Generator[Shape | Need | Rendering | Forms, None, Reason | None]
    ) -> Reason | None:
        try:
            while True:
                self._take(next(findings))
        except StopIteration as end:
            return cast("Reason | None", end.value)
        except MemoryError:
            return Reason.DECODER_FAILED

    def end(self, end: End) -> None:
        self._keep(end)
        self._send()

    def _take(self, found: Shape | Need | Rendering | Forms) -> None:
        if isinstance(found, Shape):
            self._together = found.frames == 1 and self._granted_bytes > 0
        self._keep(found)
        must_wait = isinstance(found, Need) and found.bytes > self._granted_bytes
        if must_wait or not self._together:
            self._send()
        if must_wait and self._channel.recv(len(records.GO)) != records.GO:
            os._exit(0)

    def _keep(self, found: Shape | Need | Rendering | Forms | End) -> None:
        record = records.pack(self._sequence, found)
        if len(self._kept) + len(record) > records.MAX_WORD_BYTES:
            self._send()
        self._kept += record

    def _send(self) -> None:
        self._channel.send(self._kept)
        self._kept = b""
