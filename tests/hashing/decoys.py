"""A scanner that is told by its medium to misbehave: the locks are proved by trying them.

A fork server imports it in place of ``app.hashing.scan``. The first line of a medium is what to do. What an
attempt came to is told by the width of the shape: 1 if it went through, else 1 and the error's number.
"""

import ctypes
import errno
import mmap
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

from app.hashing.lock import CHANNEL, MAX_OPEN_FILES
from app.hashing.records import Limits, Look, Need
from app.media import Background, Reason, Rendering, Shape

Answers = Generator[Shape | Need | Rendering, None, Reason | None]

MEBIBYTE = 1024 * 1024
PDQ = bytes(range(32))
PHASH = bytes(range(8))
FIRST = Rendering(0, Background.NONE, PDQ, 80, PHASH)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def preload() -> None:
    """Nothing to load: all is imported above, as the lock keeps it from being loaded later."""


def scan(untrusted: mmap.mmap, limits: Limits, _look: Look) -> Answers:
    """Do what the medium says."""
    order = bytes(untrusted).partition(b"\n")[0]
    name, *arguments = order.decode().split(" ")
    if name in ATTEMPTS:
        yield from _told(lambda: ATTEMPTS[name](*arguments))
        return Reason.CORRUPT
    return (yield from BEHAVIOURS[name](untrusted, limits, *arguments))


def _told(attempt: Callable[[], object]) -> Answers:
    try:
        attempt()
    except OSError as error:
        yield Shape("image", "png", 1 + (error.errno or 0), 1, 1)
    else:
        yield Shape("image", "png", 1, 1, 1)
    return None


def _syscall(*arguments: str) -> None:
    if _libc.syscall(*(ctypes.c_long(int(argument)) for argument in arguments)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _count_descriptors() -> None:
    """Raise with the number of open descriptors after the channel."""
    found = 0
    for number in range(CHANNEL + 1, MAX_OPEN_FILES):
        try:
            os.close(os.dup(number))
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        else:
            found += 1
    raise OSError(found, "open")


def _shell() -> None:
    if os.system("true") != 0:  # noqa: S605 - this is the attempt
        raise OSError(errno.EPERM, "refused")


def _raise_limit() -> None:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:
        # What Python makes of EPERM here.
        raise OSError(errno.EPERM, "refused") from None


def _thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _secrets() -> None:
    if any("CORDON" in name for name in os.environ) or any("CORDON" in text for text in sys.argv[1:]):
        raise OSError(1, "a secret is in reach")


ATTEMPTS: dict[str, Callable[..., object]] = {
    "write-file": lambda path: os.open(path, os.O_WRONLY | os.O_CREAT),
    "read-file": lambda path: Path(path).read_bytes(),
    "list": os.listdir,
    "stat": os.stat,
    "write-out": lambda number: os.write(int(number), b"canary"),
    "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "shell": _shell,
    "spawn": lambda: subprocess.run(["/bin/true"], check=True),
    "execute": lambda: os.execv("/bin/sh", ["sh"]),  # noqa: S606 - this is the attempt
    "fork": os.fork,
    "memory-file": lambda: os.memfd_create("more"),
    "raise-limit": _raise_limit,
    "executable-memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "kill-parent": lambda: os.kill(os.getppid(), 9),
    "syscall": _syscall,
    "descriptors": _count_descriptors,
    "thread": _thread,
    "secrets": _secrets,
}


def _honest(untrusted: mmap.mmap, limits: Limits, frames: str = "1", need: str = "1000") -> Answers:
    yield Shape("image", "png", 4, 3, int(frames))
    yield Need(int(need))
    for frame in range(int(frames)):
        yield Rendering(frame, Background.NONE, PDQ, 80, PHASH)
    return None


def _slowly(untrusted: mmap.mmap, limits: Limits, need: str) -> Answers:
    """Use what it was granted for long enough to be seen."""
    yield Shape("image", "png", 4, 3, 1)
    yield Need(int(need))
    until = time.monotonic() + 0.02
    while time.monotonic() < until:
        pass
    yield FIRST
    return None


def _size(untrusted: mmap.mmap, limits: Limits) -> Answers:
    yield Shape("image", "png", len(untrusted), 1 + sum(untrusted[:]), 1)
    return Reason.CORRUPT


def _scribble(untrusted: mmap.mmap, limits: Limits) -> Answers:
    """Make the map of the medium writable, so that it could be changed after it was hashed."""
    address = _address(untrusted)
    yield from _told(lambda: _mprotect(address))
    return Reason.CORRUPT


def _address(untrusted: mmap.mmap) -> int:
    buffer = (ctypes.c_void_p * 16)()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(untrusted), buffer, 0)
    address = buffer[0]
    ctypes.pythonapi.PyBuffer_Release(buffer)
    assert address is not None
    return address


def _mprotect(address: int) -> None:
    if _libc.mprotect(address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _allocate(untrusted: mmap.mmap, limits: Limits, need: str = "0") -> Answers:
    """Allocate without end."""
    yield Shape("image", "png", 1, 1, 1)
    yield Need(int(need))
    hoard = []
    while True:
        hoard.append(bytearray(MEBIBYTE))


_KEPT: list[bytearray] = []


def _keep(untrusted: mmap.mmap, limits: Limits, megabytes: str) -> Answers:
    """Keep memory beyond the medium, as caches do."""
    _KEPT.append(bytearray(int(megabytes) * MEBIBYTE))
    return (yield from _honest(untrusted, limits))


_HELD: list[memoryview] = []


def _hold(untrusted: mmap.mmap, limits: Limits) -> Answers:
    """Keep looking at the medium after its scan."""
    _HELD.append(memoryview(untrusted))
    return (yield from _honest(untrusted, limits))


def _measure(untrusted: mmap.mmap, limits: Limits, need: str = "0") -> Answers:
    """Tell how many MiB can be had once ``need`` was granted, as the frame of a rendering."""
    yield Shape("image", "png", 1, 1, 100_000)
    yield Need(int(need))
    hoard = []
    try:
        while True:
            hoard.append(bytearray(MEBIBYTE))
    except MemoryError:
        had = len(hoard)
        hoard.clear()
    yield Rendering(had, Background.NONE, PDQ, 80, PHASH)
    return Reason.CORRUPT


def _partly(untrusted: mmap.mmap, limits: Limits, then: str) -> Answers:
    """Give one valid rendering, then end badly."""
    yield Shape("image", "png", 4, 3, 2)
    yield Need(1000)
    yield FIRST
    return (yield from BEHAVIOURS[then](untrusted, limits))


def _spin(untrusted: mmap.mmap, limits: Limits) -> Answers:
    yield from ()
    while True:
        pass


def _segfault(untrusted: mmap.mmap, limits: Limits) -> Answers:
    yield from ()
    ctypes.string_at(0)
    return None


def _raise(untrusted: mmap.mmap, limits: Limits) -> Answers:
    yield from ()
    raise ZeroDivisionError


def _say(untrusted: mmap.mmap, limits: Limits, *words: str) -> Answers:
    """Send any bytes instead of records, then wait."""
    yield from ()
    for word in words:
        raw = bytes.fromhex(word)
        _libc.send(CHANNEL, raw, len(raw), 0)
    while True:
        pass


def _flood(untrusted: mmap.mmap, limits: Limits) -> Answers:
    yield Shape("image", "png", 4, 3, 2**32 - 1)
    yield Need(1000)
    for frame in range(2**32 - 1):
        yield Rendering(frame, Background.NONE, PDQ, 80, PHASH)
    return None


BEHAVIOURS: dict[str, Callable[..., Answers]] = {
    "honest": _honest,
    "slowly": _slowly,
    "size": _size,
    "scribble": _scribble,
    "allocate": _allocate,
    "keep": _keep,
    "hold": _hold,
    "measure": _measure,
    "partly": _partly,
    "spin": _spin,
    "segfault": _segfault,
    "raise": _raise,
    "say": _say,
    "flood": _flood,
}
