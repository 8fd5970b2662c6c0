"""What Cordon asks of the Linux kernel that Python's standard library has no words for.

Thin ctypes calls, no policy: ``app.hashing.lock`` locks decoders with them, ``app.controls`` hardens the
process that holds media. Each raises ``OSError`` with the kernel's own error number.
"""

import ctypes
import os
import resource
import struct
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_LIBC.syscall.restype = ctypes.c_long
_LIBC.unshare.argtypes = [ctypes.c_int]
_LIBC.mlockall.argtypes = [ctypes.c_int]

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS = 38, 39
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

# linux/sched.h
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x04000000, 0x08000000, 0x10000000, 0x40000000

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # bits/mman-linux.h

_LINUX_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_CAPABILITIES = 64

_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1  # linux/seccomp.h

# The same on all architectures, as are all calls that are younger than Linux 5.1.
_NR_LANDLOCK_CREATE_RULESET, _NR_LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_CREATE_RULESET_VERSION = 1  # linux/landlock.h
_LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_LANDLOCK_FILE_RIGHTS_SINCE_5 = 16


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    # Variadic: a plain Python integer would be passed as 32 bits, the rest of its register undefined.
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_LIBC.syscall(ctypes.c_long(number), *passed))


def die_with_parent(signal_number: int) -> None:
    """Have this process sent a signal when the thread that started it ends.

    A change of credentials takes it back, so it comes after one; and the parent may already be gone, which
    the caller must look for.
    """
    _checked(_LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def forbid_core_dumps() -> None:
    """Let nobody dump, trace or read the memory of this process; the next execve takes it back.

    ``RLIMIT_CORE`` alone would not stop a core dump that is piped to a program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _checked(_LIBC.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def is_dumpable() -> bool:
    """Whether the kernel would dump this process, or let another trace it."""
    return _checked(_LIBC.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)) != 0


def lock_memory() -> bool:
    """Keep all pages of this process out of swap, if its limit lets it lock any amount.

    Under a smaller limit, later allocations would fail, so nothing is locked.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY:
        return False
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    # On fault: locking must not make the kernel fill every page that was only reserved.
    return int(_LIBC.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)) == 0


def harden_this_process() -> None:
    """Keep this process's memory out of core dumps, other processes and, if its limit allows, swap.

    To be called first by every process that holds media, a private key or an opened report: an execve takes
    it back.
    """
    forbid_core_dumps()
    lock_memory()


def forbid_new_privileges() -> None:
    """Let no later execve gain privileges."""
    _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def may_gain_privileges() -> bool:
    """Whether an execve could still gain privileges."""
    return _checked(_LIBC.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)) == 0


def unshare(namespaces: int) -> None:
    """Move this process, which must have one thread, to new namespaces."""
    _checked(_LIBC.unshare(namespaces))


def drop_capabilities() -> None:
    """Give up every capability, for good where the kernel lets this process say so."""
    for capability in range(_CAPABILITIES):
        # Refused to whoever may not, unknown to older kernels: then there is nothing to drop.
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("Ii", _LINUX_CAPABILITY_VERSION_3, 0))
    _checked(_LIBC.capset(header, bytes(struct.calcsize("6I"))))


def forbid_files_and_network_by_landlock() -> int:
    """Forbid this process, by Landlock, to open anything it has not open; its ABI version.

    From ABI 4 TCP is forbidden too, from ABI 6 abstract sockets and signals to other processes.
    """
    abi = _syscall(_NR_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    files = (1 << _LANDLOCK_FILE_RIGHTS.get(abi, _LANDLOCK_FILE_RIGHTS_SINCE_5)) - 1
    net = 0b11 if abi >= 4 else 0  # noqa: PLR2004 - see the docstring
    scoped = 0b11 if abi >= 6 else 0  # noqa: PLR2004 - see the docstring
    size = 24 if scoped else 16 if net else 8
    rules = ctypes.create_string_buffer(struct.pack("QQQ", files, net, scoped)[:size], size)
    descriptor = _syscall(_NR_LANDLOCK_CREATE_RULESET, rules, size, 0)
    try:
        _syscall(_NR_LANDLOCK_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)
    return abi


def load_seccomp(number: int, program: bytes) -> None:
    """Load a seccomp filter for all threads of this process.

    Args:
        number: the number of the seccomp call on this machine.
        program: instructions of ``struct sock_filter``, 8 bytes each.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    _syscall(
        number,
        _SECCOMP_SET_MODE_FILTER,
        _SECCOMP_FILTER_FLAG_TSYNC,
        ctypes.create_string_buffer(header, len(header)),
    )
