"""Each lock of a decoder is proved by a decoder that tries to break it (promise 8)."""

import errno
import os
import resource
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from app.hashing.lock import HEADROOM_BYTES
from app.hashing.sandbox import Cause, Sandbox
from app.hashing.syscalls import SYSCALLS
from app.media import Reason
from tests.hashing.sandboxes import decoy_sandbox, told

MEBIBYTE = 1024 * 1024
NUMBERS = SYSCALLS[os.uname().machine]
SINCE_LINUX_5_1 = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "pidfd_open": 434,
    "close_range": 436,
    "pidfd_getfd": 438,
    "landlock_create_ruleset": 444,
    "memfd_secret": 447,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """One sandbox for all attempts: its worker is replaced when one kills it."""
    async with decoy_sandbox(max_frames=10) as running:
        yield running


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def code_of(sandbox: Sandbox, attempt: str) -> int:
    """The error number that an attempt was answered with; 0 if it went through."""
    scan = await told(sandbox, attempt)
    assert scan.undecidable is Reason.CORRUPT, "the decoder was killed instead"
    assert scan.shape is not None
    return scan.shape.width - 1


async def is_killed(sandbox: Sandbox, attempt: str) -> bool:
    """Whether an attempt was the decoder's last."""
    crashed = sandbox.state.replaced[Cause.CRASHED]
    scan = await told(sandbox, attempt)
    return (
        scan.undecidable is Reason.DECODER_FAILED
        and scan.shape is None
        and sandbox.state.replaced[Cause.CRASHED] == crashed + 1
    )


async def test_a_decoder_can_write_no_file(sandbox: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    there = tmp_path / "there"
    there.touch(mode=0o666)
    for path in (there, tmp_path / "new"):
        assert await code_of(sandbox, f"write-file {path}") == errno.EACCES
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


async def test_a_decoder_can_write_to_no_standard_stream(sandbox: Sandbox) -> None:
    for number in range(3):
        assert await code_of(sandbox, f"write-out {number}") == errno.EBADF


async def test_a_decoder_can_read_no_database_and_no_other_file(sandbox: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    database = tmp_path / "cordon.db"
    database.write_bytes(b"SQLite format 3\x00")
    database.chmod(0o666)
    for path in (database, "/etc/passwd", "/proc/self/environ", "/dev/null"):
        assert await code_of(sandbox, f"read-file {path}") == errno.EACCES
    assert await code_of(sandbox, f"stat {database}") == errno.EACCES
    assert await code_of(sandbox, "list /") == errno.EACCES


async def test_a_decoder_can_open_no_socket(sandbox: Sandbox) -> None:
    assert await is_killed(sandbox, "socket")


async def test_a_decoder_can_start_no_shell_and_no_other_process(sandbox: Sandbox) -> None:
    assert await code_of(sandbox, "fork") == errno.EPERM
    assert await code_of(sandbox, "shell") == errno.EPERM
    # Python before 3.13 makes a pipe for it first, which is a decoder's last call.
    if sys.version_info >= (3, 13):
        assert await code_of(sandbox, "spawn") == errno.EPERM
    else:
        assert await is_killed(sandbox, "spawn")
    assert await is_killed(sandbox, "execute")


async def test_a_decoder_can_make_no_memory_file_and_hurt_no_process(sandbox: Sandbox) -> None:
    assert await is_killed(sandbox, "memory-file")
    assert await is_killed(sandbox, "kill-parent")


async def test_a_decoder_can_neither_raise_its_limits_nor_run_data(sandbox: Sandbox) -> None:
    assert await code_of(sandbox, "raise-limit") == errno.EPERM
    assert await code_of(sandbox, "executable-memory") == errno.EPERM


@pytest.mark.parametrize("name", SINCE_LINUX_5_1)
async def test_a_decoder_that_makes_a_modern_call_is_killed(sandbox: Sandbox, name: str) -> None:
    assert await is_killed(sandbox, f"syscall {SINCE_LINUX_5_1[name]} 0 0 0")


async def test_a_decoder_that_calls_in_the_x32_manner_is_killed(sandbox: Sandbox) -> None:
    assert await is_killed(sandbox, f"syscall {0x40000000 + NUMBERS['getpid']}")


async def test_a_decoder_can_start_the_thread_that_heic_needs(sandbox: Sandbox) -> None:
    assert await code_of(sandbox, "thread") == 0


async def test_a_decoder_holds_open_its_channel_its_size_and_its_medium_alone(sandbox: Sandbox) -> None:
    await told(sandbox, "honest")
    assert await code_of(sandbox, "descriptors") == 2


async def test_a_decoder_inherits_no_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CORDON_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere/CORDON")
    async with decoy_sandbox() as fresh:
        assert await code_of(fresh, "secrets") == 0


async def test_a_decoder_cannot_change_the_medium_that_was_hashed(sandbox: Sandbox) -> None:
    assert await code_of(sandbox, "scribble") == errno.EACCES


async def test_a_decoder_sees_the_medium_and_not_a_byte_more(sandbox: Sandbox) -> None:
    content = b"size\n" + bytes(9_000)
    scan = await told(sandbox, content)
    assert scan.shape is not None
    assert scan.shape.width == len(content)
    assert scan.shape.height == 1 + sum(content)


async def test_a_decoder_that_allocates_without_end_is_stopped_and_replaced(sandbox: Sandbox) -> None:
    before = sandbox.state.replaced[Cause.OUTGREW]
    scan = await told(sandbox, "allocate")
    assert scan.undecidable is Reason.DECODER_FAILED
    assert sandbox.state.replaced[Cause.OUTGREW] == before + 1
    assert (await told(sandbox, "honest")).undecidable is None


@pytest.mark.parametrize("granted", [0, 100])
async def test_a_decoder_gets_what_it_was_granted_and_the_headroom(sandbox: Sandbox, granted: int) -> None:
    """The limit follows each grant, so that all decoders together keep to the budget."""
    scan = await told(sandbox, f"measure {granted * MEBIBYTE}")
    (rendering,) = scan.renderings
    ceiling = granted + HEADROOM_BYTES // MEBIBYTE
    assert ceiling - 16 < rendering.frame <= ceiling


async def test_a_decoder_that_spins_for_ever_is_killed_by_the_trusting_sides_clock() -> None:
    # As long as what is honest may take on a busy machine.
    async with decoy_sandbox(decode_seconds=1.5) as fresh:
        assert (await told(fresh, "spin")).undecidable is Reason.DECODE_TIMEOUT
        assert fresh.state.replaced[Cause.TIMED_OUT] == 1
        assert (await told(fresh, "honest")).undecidable is None


async def test_the_kernel_confirms_the_lock_from_outside(sandbox: Sandbox) -> None:
    await told(sandbox, "honest")
    worker = sandbox._idle[-1]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {0}
    assert resource.prlimit(worker.pid, resource.RLIMIT_FSIZE) == (0, 0)
    assert resource.prlimit(worker.pid, resource.RLIMIT_CORE) == (0, 0)


async def test_what_a_decoder_found_in_force_is_what_this_machine_allows(sandbox: Sandbox) -> None:
    # What an earlier test had killed may not have been replaced yet.
    await told(sandbox, "honest")
    lock = sandbox.lock
    assert lock is not None
    assert lock.landlock_abi > 0
    if lock.own_network:
        worker = sandbox._idle[-1]
        theirs = Path(f"/proc/{worker.pid}/ns/net").readlink()
        assert theirs != Path("/proc/self/ns/net").readlink()


async def test_decoders_are_what_the_kernel_ends_first_when_memory_runs_out(sandbox: Sandbox) -> None:
    await told(sandbox, "honest")
    worker = sandbox._idle[-1]
    assert Path(f"/proc/{worker.pid}/oom_score_adj").read_text() == "1000\n"
