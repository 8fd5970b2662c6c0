"""The lock of a decoder process: afterwards it can open nothing, start nothing and reach nobody.

It comes in two parts, both before the first untrusted byte:

1. ``separate``, once in the fork server after its imports: namespaces of its own where the host allows, no
   capabilities, no new privileges. Its workers inherit that.
2. ``lock``, in each worker: limits, not dumpable, Landlock without a single rule, a seccomp allow-list. The
   order is the kernel's: setting up each needs calls that the last forbids.

What is in force is found by trying, not by having asked. Without seccomp nothing is decoded. Landlock may
be missing in the kernel and namespaces may be refused (Docker refuses them): that is told, not hidden.

What stays possible for a decoder that was taken over: to compute within its limits, and to answer with lies
about media that come to it before it is replaced.
"""

import errno
import os
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from app import kernel
from app.hashing.syscalls import SYSCALLS

MEBIBYTE: Final = 1024 * 1024

CHANNEL: Final = 3
"""The one descriptor a worker reads from and answers to; 0 to 2 are /dev/null."""

OWN_SIZE: Final = 4
"""The descriptor that a worker reads its own size from: /proc/self/statm."""

MAX_OPEN_FILES: Final = 16
"""More than a worker ever needs: those above, and a medium while that is being mapped."""

HEADROOM_BYTES: Final = 64 * MEBIBYTE
"""What a worker may take beyond what it was granted: to read a header, and for its allocators' slack."""


@dataclass(frozen=True)
class Condition:
    """A call that is allowed if one of its arguments, masked, has one of these values.

    Attributes:
        argument: its position, from 0.
        otherwise: error number of the answer if it has none of them.
    """

    name: str
    argument: int
    mask: int
    values: tuple[int, ...]
    otherwise: int


ALLOWED: Final = (
    *("brk", "munmap", "madvise", "mremap", "close", "sched_yield"),
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday"),
    *("rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "sigaltstack", "restart_syscall"),
    *("exit", "exit_group", "getpid", "gettid", "getrandom"),
    # libde265 (HEIC) starts a thread whatever it is told, and glibc's new threads die without these.
    *("set_robust_list", "rseq"),
)
"""Calls that are allowed whatever their arguments."""

_WHOLE: Final = 0xFFFFFFFF
_PROT_EXEC: Final = 0x4
_F_DUPFD_CLOEXEC: Final = 1030
_FUTEX_FLAGS: Final = 0x180
_FUTEX_OPERATIONS: Final = (0, 1, 3, 4, 5, 9, 10)
"""To wait, wake and requeue; none of those with priority inheritance, which nobody here needs."""

_THREAD: Final = 0x3D0F00
"""The flags that glibc starts a thread with: memory, files, signal handlers and the rest all shared."""

_CLONE_DETACHED: Final = 0x400000
"""Without effect since Linux 2.6; musl still sets it."""

ALLOWED_IF: Final = (
    *(Condition(name, 0, _WHOLE, (CHANNEL,), errno.EBADF) for name in ("recvmsg", "recvfrom", "sendto")),
    *(Condition(name, 2, _PROT_EXEC, (0,), errno.EPERM) for name in ("mmap", "mprotect")),
    Condition("pread64", 0, _WHOLE, (OWN_SIZE,), errno.EBADF),
    Condition("futex", 1, _WHOLE & ~_FUTEX_FLAGS, _FUTEX_OPERATIONS, errno.ENOSYS),
    # mmap of the medium duplicates its descriptor.
    Condition("fcntl", 1, _WHOLE, (_F_DUPFD_CLOEXEC,), errno.EPERM),
    Condition("clone", 0, _WHOLE & ~_CLONE_DETACHED, (_THREAD,), errno.EPERM),
)

REFUSED: Final = {
    errno.EACCES: (
        *("open", "openat", "openat2", "access", "faccessat", "faccessat2", "readlink", "readlinkat"),
        *("stat", "lstat", "fstat", "newfstatat", "statx", "getcwd", "getdents64"),
    ),
    errno.EPERM: (
        *("fork", "vfork", "prctl", "prlimit64", "getrlimit", "setrlimit", "getrusage", "sysinfo", "uname"),
        *("mbind", "set_mempolicy", "get_mempolicy", "sched_getaffinity", "sched_setaffinity"),
    ),
    errno.EBADF: ("read", "write", "lseek"),
    errno.ENOTTY: ("ioctl",),
    # glibc then starts threads with clone, whose flags a filter can see.
    errno.ENOSYS: ("clone3", "membarrier"),
}
"""Error number → calls that get it as their answer, since libraries try them. All else kills the process."""

# linux/bpf_common.h, linux/seccomp.h, linux/audit.h
_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


class LockStep(IntEnum):
    """The parts of the lock without which nothing is decoded."""

    LIMITS = 1
    NOT_DUMPABLE = 2
    NO_NEW_PRIVILEGES = 3
    SECCOMP = 4


class LockRefusedError(Exception):
    """The kernel refused a part of the lock that decoding cannot do without.

    Attributes:
        step: the part.
        code: the kernel's error number.
    """

    def __init__(self, step: LockStep, code: int) -> None:
        super().__init__(f"{step.name.lower()}: {os.strerror(code)}")
        self.step = step
        self.code = code


@dataclass(frozen=True)
class Lock:
    """What a worker found in force by trying, before its first medium.

    Attributes:
        address_space_bytes: what it takes before its first medium.
        landlock_abi: version of the Landlock that refuses it every file; 0 if none does.
        own_network: whether it lives in a network namespace without any interface.
        memory_locked: whether none of its pages can be swapped out.
    """

    address_space_bytes: int
    landlock_abi: int
    own_network: bool
    memory_locked: bool


def separate() -> bool:
    """Move the fork server to namespaces of its own and drop its capabilities; whether it got a network.

    The process must have one thread. Afterwards it is neither dumpable nor bound to die with its parent:
    a change of credentials takes both back.
    """
    before = _network()
    others = kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    try:
        kernel.unshare(kernel.CLONE_NEWUSER | others)
    except OSError:
        # With capabilities it goes without a user namespace; without either it does not go.
        with suppress(OSError):
            kernel.unshare(others)
    with _required(LockStep.NO_NEW_PRIVILEGES):
        kernel.drop_capabilities()
        kernel.forbid_new_privileges()
    return _network() != before


def _network() -> int:
    return Path("/proc/self/ns/net").stat().st_ino


def lock(*, cpu_seconds: int, own_network: bool) -> Lock:
    """Lock this worker, for good. ``open_own_size`` comes before.

    Args:
        cpu_seconds: processor time it may take over its whole life.
        own_network: what ``separate`` found.

    Raises:
        LockRefusedError: a part is missing without which nothing may be decoded.
    """
    machine = os.uname().machine
    if machine not in SYSCALLS:
        raise LockRefusedError(LockStep.SECCOMP, errno.ENOSYS)
    program = seccomp_program(machine)
    memory_locked = kernel.lock_memory()
    taken = address_space_bytes()
    with _required(LockStep.LIMITS):
        for name, ceiling in resource_limits(cpu_seconds).items():
            _lower(name, ceiling, hard=True)
        # The soft limit alone: the trusting side moves it for each medium, and seccomp keeps it from here.
        _lower(resource.RLIMIT_AS, taken + HEADROOM_BYTES, hard=False)
    with _required(LockStep.NOT_DUMPABLE):
        kernel.forbid_core_dumps()
    landlock_abi = _landlock()
    # Asked last, since a change of credentials would have taken it back.
    if kernel.is_dumpable():
        raise LockRefusedError(LockStep.NOT_DUMPABLE, errno.EPERM)
    if kernel.may_gain_privileges():
        raise LockRefusedError(LockStep.NO_NEW_PRIVILEGES, errno.EPERM)
    with _required(LockStep.SECCOMP):
        kernel.load_seccomp(SYSCALLS[machine]["seccomp"], program)
    # Landlock does not cover stat, so nothing but the filter can be what refuses it.
    if not _is_refused(lambda: Path("/").stat()):
        raise LockRefusedError(LockStep.SECCOMP, errno.EPERM)
    return Lock(taken, landlock_abi, own_network, memory_locked)


def resource_limits(cpu_seconds: int) -> dict[int, int]:
    """Resource → the most a worker may ever take of it, address space aside."""
    return {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
    }


def _lower(name: int, ceiling: int, *, hard: bool) -> None:
    """Lower a limit to a ceiling, or leave it at what is lower already."""
    _, most = resource.getrlimit(name)
    lowered = ceiling if most == resource.RLIM_INFINITY else min(ceiling, most)
    resource.setrlimit(name, (lowered, lowered if hard else most))


def open_own_size() -> None:
    """Open what ``address_space_bytes`` reads, since nothing can be opened later."""
    found = os.open("/proc/self/statm", os.O_RDONLY)
    if found != OWN_SIZE:
        os.dup2(found, OWN_SIZE)
        os.close(found)


def address_space_bytes() -> int:
    """How much address space this process takes, as the kernel counts it against the limit."""
    return int(os.pread(OWN_SIZE, 64, 0).split()[0]) * resource.getpagesize()


def seccomp_program(machine: str) -> bytes:
    """The allow-list as a BPF program: 8 bytes an instruction.

    Args:
        machine: ``x86_64`` or ``aarch64``.
    """
    numbers = SYSCALLS[machine]
    program = [
        _instruction(_LOAD, _ARCHITECTURE_OFFSET),
        _instruction(_JUMP_IF_EQUAL, _ARCHITECTURES[machine], if_true=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_OFFSET),
    ]
    for name in ALLOWED:
        if name in numbers:
            program += _answer(numbers[name], _ALLOW)
    for rule in ALLOWED_IF:
        program += _conditional(numbers[rule.name], rule)
    for code, names in REFUSED.items():
        for name in names:
            if name in numbers:
                program += _answer(numbers[name], _ERRNO | code)
    program.append(_instruction(_RETURN, _KILL_PROCESS))
    return b"".join(program)


def _answer(number: int, action: int) -> list[bytes]:
    return [_instruction(_JUMP_IF_EQUAL, number, if_false=1), _instruction(_RETURN, action)]


def _conditional(number: int, rule: Condition) -> list[bytes]:
    # The low half of the argument; the kernel ignores the rest of each of these. Both ways out return, so
    # that nobody after this finds the argument where the call's number was.
    checks = [
        _instruction(_LOAD, _ARGUMENTS_OFFSET + 8 * rule.argument),
        _instruction(_AND, rule.mask),
        *(
            _instruction(_JUMP_IF_EQUAL, value, if_true=len(rule.values) - position)
            for position, value in enumerate(rule.values)
        ),
        _instruction(_RETURN, _ERRNO | rule.otherwise),
        _instruction(_RETURN, _ALLOW),
    ]
    return [_instruction(_JUMP_IF_EQUAL, number, if_false=len(checks)), *checks]


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _landlock() -> int:
    """Refuse every file by Landlock; its ABI, or 0 if it is not there or refuses nothing."""
    if _is_refused(_open_root):
        # Something else refuses already; then trying proves nothing about Landlock.
        return 0
    try:
        abi = kernel.forbid_files_and_network_by_landlock()
    except OSError:
        # Not built, not enabled, or refused by a container's filter: told as not in force.
        return 0
    return abi if _is_refused(_open_root) else 0


def _open_root() -> None:
    os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))


def _is_refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except PermissionError:
        return True
    return False


@contextmanager
def _required(step: LockStep) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LockRefusedError(step, error.errno or errno.EPERM) from error
