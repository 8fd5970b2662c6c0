"""The allow-list of each machine, run instruction by instruction; and each layer of the lock by itself."""

import errno
import os
import platform
import re
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.hashing.lock import ALLOWED, ALLOWED_IF, CHANNEL, OWN_SIZE, REFUSED, seccomp_program
from app.hashing.syscalls import SYSCALLS

MACHINES = tuple(SYSCALLS)
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
KILLED = "killed"
PERMITTED = {*ALLOWED, *(rule.name for rule in ALLOWED_IF)}
NAMED = PERMITTED.union(*REFUSED.values())
LAST_CALL = 600
"""Beyond the youngest system call of any kernel to date."""

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def decide(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int | str:
    """What a filter answers a call: 0 to let it pass, an error number, or that the process is killed."""
    program = seccomp_program(machine)
    instructions = list(struct.iter_unpack("HBBI", program))
    passed = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, architecture or ARCHITECTURES[machine], 0, *passed)
    accumulator = position = 0
    while True:
        code, if_true, if_false, value = instructions[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                position += if_true if accumulator == value else if_false
            case 0x06 if value == 0x7FFF0000:
                return 0
            case 0x06 if value >> 16 == 0x5:
                return int(value & 0xFFFF)
            case 0x06 if value == 0x80000000:
                return KILLED
            case _:
                pytest.fail(f"an instruction that this filter should not need: {code:#x} {value:#x}")


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_that_is_not_named_kills(machine: str) -> None:
    numbers = {SYSCALLS[machine][name] for name in NAMED if name in SYSCALLS[machine]}
    for number in range(LAST_CALL):
        assert (decide(machine, number) == KILLED) == (number not in numbers), number


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_kill(machine: str) -> None:
    for architecture in (0x40000003, 0x40000028, *ARCHITECTURES.values()):
        if architecture != ARCHITECTURES[machine]:
            assert decide(machine, SYSCALLS[machine]["brk"], architecture=architecture) == KILLED


def test_calls_in_the_x32_manner_kill() -> None:
    for number in range(LAST_CALL):
        assert decide("x86_64", 0x40000000 + number) == KILLED


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("brk", (), 0),
        ("mmap", (0, 4096, 3), 0),
        ("mmap", (0, 4096, 7), errno.EPERM),
        ("mmap", (0, 4096, 4), errno.EPERM),
        ("mprotect", (0, 4096, 1), 0),
        ("mprotect", (0, 4096, 5), errno.EPERM),
        ("recvmsg", (CHANNEL,), 0),
        ("recvmsg", (4,), errno.EBADF),
        ("sendto", (CHANNEL,), 0),
        ("sendto", (2,), errno.EBADF),
        ("write", (CHANNEL,), errno.EBADF),
        ("pread64", (OWN_SIZE,), 0),
        ("pread64", (CHANNEL,), errno.EBADF),
        ("futex", (0, 128), 0),
        ("futex", (0, 0x80 | 9), 0),
        ("futex", (0, 0x80 | 6), errno.ENOSYS),
        ("fcntl", (4, 1030), 0),
        ("fcntl", (4, 4), errno.EPERM),
        ("clone", (0x3D0F00,), 0),
        ("clone", (0x7D0F00,), 0),
        ("clone", (17,), errno.EPERM),
        ("clone", (0x4111,), errno.EPERM),
        ("clone", (0x3D0F00 | 0x10000000,), errno.EPERM),
        ("clone3", (), errno.ENOSYS),
        ("openat", (), errno.EACCES),
        ("newfstatat", (), errno.EACCES),
        ("prlimit64", (), errno.EPERM),
        ("ioctl", (), errno.ENOTTY),
    ],
)
def test_a_call_is_answered_by_its_arguments(
    machine: str, name: str, arguments: tuple[int, ...], answer: int
) -> None:
    assert decide(machine, SYSCALLS[machine][name], *arguments) == answer


def test_the_numbers_are_those_of_the_kernels_headers() -> None:
    """Of this machine, whose headers come with any C compiler, and of others where theirs are there too."""
    found = {machine for machine in MACHINES if HEADERS[machine].exists()}
    assert os.uname().machine in found
    for machine in found:
        _compare_with_header(machine)


def _compare_with_header(machine: str) -> None:
    told = {
        name: int(number)
        for name, number in re.findall(
            r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text(), re.MULTILINE
        )
    }
    # One call, two names: the generic header has the one of the table behind a macro.
    told.setdefault("newfstatat", told.get("fstatat", -1))
    assert {name: told.get(name) for name in SYSCALLS[machine]} == SYSCALLS[machine]


def test_every_name_in_the_lists_has_a_number_somewhere() -> None:
    known = {name for numbers in SYSCALLS.values() for name in numbers}
    assert {*NAMED, "seccomp"} == known
    for machine in MACHINES:
        assert set(SYSCALLS[machine]) >= PERMITTED


def run(program: str, environment: Mapping[str, str] | None = None) -> str:
    """What a fresh interpreter prints when it runs a program that locks it."""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ) | dict(environment or {}),
        cwd=Path(__file__).parents[2],
    )
    return ran.stdout.strip()


def test_landlock_alone_refuses_every_file_and_tcp() -> None:
    """Without seccomp in front: two walls, each of them whole."""
    answers = run(
        """
import os, socket
from app import kernel
kernel.forbid_new_privileges()
abi = kernel.forbid_files_and_network_by_landlock()
def tell(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno
print(abi, tell(lambda: os.open("/etc/passwd", os.O_RDONLY)), tell(lambda: os.open("/dev/null", os.O_WRONLY)),
      tell(lambda: os.mkdir("/tmp/nothing-of-the-kind")), tell(lambda: os.execv("/bin/true", ["true"])),
      tell(lambda: socket.create_connection(("127.0.0.1", 9))))
"""
    ).split()
    abi, *codes = map(int, answers)
    assert abi >= 1
    assert codes[:4] == [errno.EACCES] * 4
    assert codes[4] == (errno.EACCES if abi >= 4 else errno.ECONNREFUSED)


def test_seccomp_alone_refuses_every_file() -> None:
    # After the filter nothing can be printed, so the exit code tells, and 'run' checks it.
    run(
        """
import os
from app import kernel
from app.hashing.lock import seccomp_program
from app.hashing.syscalls import SYSCALLS
kernel.forbid_new_privileges()
machine = os.uname().machine
kernel.load_seccomp(SYSCALLS[machine]["seccomp"], seccomp_program(machine))
refused = 0
for attempt in (lambda: os.open("/etc/passwd", os.O_RDONLY), lambda: os.open("/dev/null", os.O_WRONLY),
                lambda: os.stat("/"), lambda: os.listdir("/")):
    try:
        attempt()
    except PermissionError:
        refused += 1
os._exit(0 if refused == 4 else 1)
"""
    )


def test_no_capability_is_left_after_separating() -> None:
    status = run(
        """
from pathlib import Path
from app.hashing.lock import separate
separate()
print(Path("/proc/self/status").read_text())
"""
    )
    assert re.findall(r"^Cap\w+:\s+(\w+)$", status, re.MULTILINE) == ["0" * 16] * 5
    assert "NoNewPrivs:\t1" in status


def test_the_lock_knows_this_machine() -> None:
    assert platform.machine() in MACHINES
