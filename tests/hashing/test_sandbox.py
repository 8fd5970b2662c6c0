"""The pool of decoders: one medium's trouble is never another's, and nothing outlives the gate."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.hashing import records, workers
from app.hashing.records import End, Need
from app.hashing.sandbox import Cause, Sandbox, SandboxError
from app.media import Background, Reason, Rendering, Shape
from app.settings import HashingSettings
from tests.hashing import decoys
from tests.hashing.sandboxes import QUARANTINE, decoy_sandbox, medium, told

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1024 * 1024
AT_ONCE_SECONDS = 1.5
"""As long as a decoy may take on a busy machine for what takes it no time."""


@pytest.fixture(autouse=True)
def _nothing_is_left_in_quarantine() -> Iterator[None]:
    yield
    assert (QUARANTINE.held_media, QUARANTINE.reserved_bytes) == (0, 0)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, which a process brings about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


def is_running(pid: int) -> bool:
    """Whether a process is there and not merely uncollected."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def has_spun(pid: int) -> bool:
    """Whether a process took a tenth of a second in its own code, so that it spins by now."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[11]) >= os.sysconf("SC_CLK_TCK") / 10


def processes_of(sandbox: Sandbox) -> tuple[int, ...]:
    """Process ids of the fork server and all workers."""
    assert sandbox._server is not None
    return (sandbox._server._process.pid, *(worker.pid for worker in (*sandbox._idle, *sandbox._busy)))


async def test_a_scan_holds_what_the_decoder_found() -> None:
    async with decoy_sandbox() as sandbox:
        scan = await told(sandbox, "honest 3")
        assert scan.undecidable is None
        assert scan.shape == Shape("image", "png", 4, 3, 3)
        assert scan.renderings == tuple(
            Rendering(frame, Background.NONE, decoys.PDQ, 80, decoys.PHASH) for frame in range(3)
        )


async def test_an_empty_medium_is_undecidable_without_a_decoder() -> None:
    sandbox = Sandbox(HashingSettings())
    scan = await told(sandbox, b"")
    assert (scan.shape, scan.renderings, scan.undecidable) == (None, (), Reason.EMPTY)


@pytest.mark.parametrize("end", ["segfault", "raise"])
async def test_a_decoder_that_crashes_is_replaced_and_what_it_found_is_kept(end: str) -> None:
    async with decoy_sandbox() as sandbox:
        scan = await told(sandbox, f"partly {end}")
        assert scan.undecidable is Reason.DECODER_FAILED
        assert scan.shape == Shape("image", "png", 4, 3, 2)
        assert scan.renderings == (decoys.FIRST,)
        assert sandbox.state.replaced[Cause.CRASHED] == 1
        assert (await told(sandbox, "honest")).undecidable is None


async def test_a_decoder_that_hangs_is_replaced_and_what_it_found_is_kept() -> None:
    async with decoy_sandbox(decode_seconds=AT_ONCE_SECONDS) as sandbox:
        scan = await told(sandbox, "partly spin")
        assert scan.undecidable is Reason.DECODE_TIMEOUT
        assert scan.renderings == (decoys.FIRST,)
        assert sandbox.state.replaced[Cause.TIMED_OUT] == 1
        assert (await told(sandbox, "honest")).undecidable is None


SHAPE = records.pack(1, Shape("image", "png", 4, 3, 1)).hex()
NEED = records.pack(1, Need(1_000)).hex()
DONE = records.pack(1, End(None)).hex()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("00", id="no record"),
        pytest.param(DONE, id="done with nothing to show"),
        pytest.param(SHAPE + "00", id="a byte too many"),
        pytest.param("ff" * 5_000, id="far too many bytes"),
        pytest.param(records.pack(2, End(Reason.CORRUPT)).hex(), id="another medium's answer"),
        pytest.param(f"{SHAPE} {NEED} {NEED}", id="a second need"),
    ],
)
async def test_a_decoder_that_lies_is_killed_and_its_medium_undecidable(words: str) -> None:
    async with decoy_sandbox() as sandbox:
        scan = await told(sandbox, f"say {words}")
        assert (scan.renderings, scan.undecidable) == ((), Reason.DECODER_FAILED)
        assert sandbox.state.replaced[Cause.MISBEHAVED] == 1
        assert (await told(sandbox, "honest")).undecidable is None


async def test_a_decoder_that_floods_is_stopped_at_the_limit_of_frames() -> None:
    async with decoy_sandbox(max_frames=50) as sandbox:
        scan = await told(sandbox, "flood")
        assert scan.undecidable is Reason.DECODER_FAILED
        assert len(scan.renderings) == 50


@pytest.mark.parametrize("noticed", ["at rest", "at the hand-over"])
async def test_a_decoder_that_speaks_unasked_is_replaced_before_the_next_medium(noticed: str) -> None:
    """An answer prepared for the next medium must not be taken for its scan."""
    async with decoy_sandbox() as sandbox:
        end = records.pack(1, End(Reason.CORRUPT)).hex()
        early = " ".join(records.pack(2, found).hex() for found in (Shape("image", "png", 9, 9, 1), Need(1)))
        assert (await told(sandbox, f"say {end} {early}")).undecidable is Reason.CORRUPT
        if noticed == "at rest":
            await until(lambda: not sandbox._idle)
        else:
            # The loop must not turn before the next medium comes.
            (worker,) = sandbox._idle
            assert select.select([worker._channel], [], [], 60)[0]
        scan = await told(sandbox, "honest")
        assert (scan.shape, scan.undecidable) == (Shape("image", "png", 4, 3, 1), None)
        assert sandbox.state.replaced[Cause.CRASHED] == 1


async def test_a_decoder_at_rest_that_was_heard_already_is_not_taken_for_lost() -> None:
    """The loop may call for words that were read, and the medium ended, since it noticed them."""
    async with decoy_sandbox() as sandbox:
        assert (await told(sandbox, "honest")).undecidable is None
        (worker,) = sandbox._idle
        worker._hear()
        assert sandbox._idle == [worker]
        assert not sum(sandbox.state.replaced.values())
        worker.kill()
        await until(lambda: not sandbox._idle)
        assert sandbox.state.replaced[Cause.CRASHED] == 1


async def test_media_in_flight_are_untouched_when_another_decoder_dies() -> None:
    async with decoy_sandbox(decoders=3, decode_seconds=30) as sandbox:
        spinning = asyncio.create_task(told(sandbox, "partly spin"))
        await until(lambda: sandbox.state.decode_bytes == 1_000)
        (spinner,) = sandbox._busy
        await until(lambda: has_spun(spinner.pid))
        others = await asyncio.gather(
            *(told(sandbox, order) for order in ("segfault", "honest", "raise", "honest 2", "allocate"))
        )
        assert [scan.undecidable for scan in others] == [
            Reason.DECODER_FAILED,
            None,
            Reason.DECODER_FAILED,
            None,
            Reason.DECODER_FAILED,
        ]
        assert not spinning.done()
    assert (await spinning).renderings == (decoys.FIRST,)


@pytest.mark.parametrize("media", [1, 3])
async def test_a_decoder_sees_no_more_media_than_it_may(media: int) -> None:
    async with decoy_sandbox(decoder_media=media) as sandbox:
        for _ in range(6):
            assert (await told(sandbox, "honest")).undecidable is None
        assert sandbox.state.replaced[Cause.RECYCLED] == 6 // media


async def test_a_decoder_that_does_not_shrink_back_is_replaced_before_it_has_no_room() -> None:
    async with decoy_sandbox() as sandbox:
        for _ in range(9):
            assert (await told(sandbox, "keep 15")).undecidable is None
        assert sandbox.state.replaced[Cause.OUTGREW] == 3
        assert sum(sandbox.state.replaced.values()) == 3


async def test_a_decoder_that_keeps_hold_of_its_medium_is_replaced() -> None:
    async with decoy_sandbox() as sandbox:
        assert (await told(sandbox, "hold")).undecidable is None
        assert sandbox.state.replaced[Cause.OUTGREW] == 1


@pytest.mark.parametrize("order", ["honest", "segfault"])
async def test_no_more_decoders_run_than_may_and_one_that_waits_to_take_the_place_of_another(
    order: str,
) -> None:
    async with decoy_sandbox(decoders=2, decoder_media=2) as sandbox:
        most = most_at_work = 0

        async def one() -> None:
            nonlocal most, most_at_work
            await told(sandbox, order)
            most = max(most, sandbox.state.workers)
            most_at_work = max(most_at_work, len(sandbox._busy))

        await asyncio.gather(*(one() for _ in range(40)))
        assert most <= 3
        assert most_at_work <= 2


async def test_no_medium_waits_until_a_decoder_that_saw_enough_is_replaced() -> None:
    """Another is at hand: with the fork server stopped, which makes none, the next medium is scanned too."""
    async with decoy_sandbox(decoder_media=1) as sandbox:
        await told(sandbox, "honest")
        await until(lambda: sandbox.state.workers == 2)
        os.kill(processes_of(sandbox)[0], signal.SIGSTOP)
        for _ in range(2):
            async with asyncio.timeout(workers._READY_SECONDS / 2):
                assert (await told(sandbox, "honest")).undecidable is None
        os.kill(processes_of(sandbox)[0], signal.SIGCONT)


async def test_memory_for_decoding_is_granted_from_one_budget() -> None:
    """Two media that need more than half each take turns, and both are scanned."""
    async with decoy_sandbox(decoders=4, max_decode_bytes=10 * MEBIBYTE) as sandbox:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, sandbox.state.decode_bytes)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        scans = await asyncio.gather(*(told(sandbox, f"slowly {6 * MEBIBYTE}") for _ in range(12)))
        watching.cancel()
        assert {scan.undecidable for scan in scans} == {None}
        assert most == 6 * MEBIBYTE
        assert sandbox.state.decode_bytes == 0


async def test_what_needs_more_than_the_budget_alone_has_too_many_pixels() -> None:
    async with decoy_sandbox(max_decode_bytes=10 * MEBIBYTE) as sandbox:
        scan = await told(sandbox, f"honest 1 {10 * MEBIBYTE + 1}")
        assert (scan.renderings, scan.undecidable) == ((), Reason.TOO_MANY_PIXELS)
        assert (await told(sandbox, f"honest 1 {10 * MEBIBYTE}")).undecidable is None


async def test_memory_is_returned_whatever_becomes_of_the_decoder() -> None:
    async with decoy_sandbox(decode_seconds=0.2) as sandbox:
        for order in ("partly segfault", "partly spin", "partly raise", f"allocate {MEBIBYTE}"):
            await told(sandbox, order)
        await until(lambda: sandbox.state.decode_bytes == 0)


async def test_a_medium_that_waits_too_long_for_a_decoder_is_undecidable() -> None:
    async with decoy_sandbox(scan_seconds=AT_ONCE_SECONDS) as sandbox:
        await sandbox._turns.acquire()
        assert (await told(sandbox, "honest")).undecidable is Reason.SCAN_TIMEOUT
        sandbox._turns.release()
        assert (await told(sandbox, "honest")).undecidable is None


async def test_a_medium_is_given_up_when_waiting_and_decoding_take_too_long_together() -> None:
    async with decoy_sandbox(decode_seconds=30, scan_seconds=0.3) as sandbox:
        assert (await told(sandbox, "spin")).undecidable is Reason.SCAN_TIMEOUT
        assert sandbox.state.replaced[Cause.ABANDONED] == 1


async def test_a_medium_that_waits_too_long_for_memory_is_undecidable() -> None:
    seconds = {"decode_seconds": AT_ONCE_SECONDS, "scan_seconds": 2 * AT_ONCE_SECONDS}
    async with decoy_sandbox(**seconds, max_decode_bytes=1_500) as sandbox:
        await sandbox._budget.reserve(1_000)
        scan = await told(sandbox, "honest")
        assert scan.undecidable is Reason.SCAN_TIMEOUT, "waiting for memory is not decoding"
        assert scan.shape == Shape("image", "png", 4, 3, 1)


async def test_a_scan_that_is_cancelled_leaves_no_decoder_at_work() -> None:
    async with decoy_sandbox(decode_seconds=30) as sandbox:
        spinning = asyncio.create_task(told(sandbox, "partly spin"))
        await until(lambda: sandbox.state.decode_bytes == 1_000)
        (worker,) = sandbox._busy
        spinning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spinning
        await until(lambda: not is_running(worker.pid))
        assert (await told(sandbox, "honest")).undecidable is None
        assert sandbox.state.decode_bytes == 0


@pytest.mark.parametrize("noticed", ["at rest", "at the hand-over"])
async def test_a_decoder_that_dies_at_rest_costs_no_medium(noticed: str) -> None:
    async with decoy_sandbox() as sandbox:
        await told(sandbox, "honest")
        (worker,) = sandbox._idle
        os.kill(worker.pid, signal.SIGKILL)
        if noticed == "at rest":
            await until(lambda: not sandbox._idle)
        else:
            while is_running(worker.pid):
                # The loop must not turn before the next medium comes.
                time.sleep(0.001)  # noqa: ASYNC251
        assert (await told(sandbox, "honest")).undecidable is None
        assert sandbox.state.replaced[Cause.CRASHED] == 1


async def test_the_fork_server_is_restarted_when_it_dies() -> None:
    async with decoy_sandbox(decoders=2, decode_seconds=30) as sandbox:
        spinning = asyncio.create_task(told(sandbox, "partly spin"))
        await until(lambda: sandbox.state.decode_bytes == 1_000)
        # What it found before it spins has to be here before it is lost with its fork server.
        (spinner,) = sandbox._busy
        await until(lambda: has_spun(spinner.pid))
        server, *workers = processes_of(sandbox)
        assert sandbox.alive
        os.kill(server, signal.SIGKILL)
        lost = await spinning
        assert (lost.undecidable, lost.renderings) == (Reason.DECODER_FAILED, (decoys.FIRST,))
        assert (await told(sandbox, "honest")).undecidable is None
        assert sandbox.state.fork_servers >= 2
        assert sandbox.alive
        assert not any(is_running(pid) for pid in (server, *workers))


async def test_a_fork_server_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with decoy_sandbox(decoder_media=1) as sandbox:
        monkeypatch.setattr(workers, "_READY_SECONDS", AT_ONCE_SECONDS)
        os.kill(processes_of(sandbox)[0], signal.SIGSTOP)
        assert (await told(sandbox, "honest")).undecidable is None, "a worker was at rest"
        assert (await told(sandbox, "honest")).undecidable is None
        assert sandbox.state.fork_servers >= 2


async def test_a_decoder_that_is_stopped_is_replaced() -> None:
    async with decoy_sandbox(decode_seconds=AT_ONCE_SECONDS) as sandbox:
        os.kill(sandbox._idle[0].pid, signal.SIGSTOP)
        assert (await told(sandbox, "honest")).undecidable is Reason.DECODE_TIMEOUT
        assert (await told(sandbox, "honest")).undecidable is None


async def test_the_sandbox_says_when_it_is_not_alive() -> None:
    sandbox = Sandbox(HashingSettings(decoders=1), scanner="tests.hashing.decoys")
    seen = [sandbox.alive]
    await sandbox.start()
    seen.append(sandbox.alive)
    os.kill(processes_of(sandbox)[0], signal.SIGKILL)
    await until(lambda: not sandbox.alive)
    await until(lambda: sandbox.alive)
    await sandbox.close()
    seen.append(sandbox.alive)
    assert seen == [False, True, False]


async def test_closing_ends_every_process_and_every_scan() -> None:
    sandbox = Sandbox(
        HashingSettings(decoders=2, decode_seconds=30, max_decode_bytes=1_500), scanner="tests.hashing.decoys"
    )
    await sandbox.start()
    spinning = asyncio.create_task(told(sandbox, "partly spin"))
    await until(lambda: sandbox.state.decode_bytes == 1_000)
    waiting_for_memory = asyncio.create_task(told(sandbox, "honest"))
    waiting_for_a_decoder = asyncio.create_task(told(sandbox, "honest"))
    await until(lambda: sandbox.state.in_flight == 3)
    processes = processes_of(sandbox)
    await sandbox.close()
    assert not any(is_running(pid) for pid in processes)
    for scan in await asyncio.gather(spinning, waiting_for_memory, waiting_for_a_decoder):
        assert scan.undecidable is Reason.DECODER_FAILED
    assert (await told(sandbox, "honest")).undecidable is Reason.DECODER_FAILED


async def test_no_descriptor_is_left_open() -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with decoy_sandbox():
        pass
    before = open_descriptors()
    async with decoy_sandbox(decoder_media=2, decode_seconds=0.1) as sandbox:
        for order in ("honest", "honest", "honest", "segfault", "say 00", "spin", "honest"):
            await told(sandbox, order)
    assert open_descriptors() == before


async def test_the_signals_of_a_terminal_or_a_service_manager_do_not_end_decoders() -> None:
    async with decoy_sandbox() as sandbox:
        for pid in processes_of(sandbox):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        assert (await told(sandbox, "honest")).undecidable is None
        assert sum(sandbox.state.replaced.values()) == 0
        assert sandbox.state.fork_servers == 1


async def test_a_scanner_that_leaves_threads_running_is_refused() -> None:
    """A worker forked beside one could hang on a lock that nobody holds any more."""
    sandbox = Sandbox(HashingSettings(), scanner="tests.hashing.threading_decoy")
    with pytest.raises(SandboxError, match="left threads running"):
        await sandbox.start()


async def test_a_scanner_that_cannot_be_loaded_is_told_to_the_operator() -> None:
    sandbox = Sandbox(HashingSettings(), scanner="tests.hashing.there_is_no_such_module")
    with pytest.raises(SandboxError, match="there_is_no_such_module"):
        await sandbox.start()
    assert not sandbox.alive


GATE = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
from app.hashing.sandbox import Sandbox
from app.settings import HashingSettings
from tests.hashing.sandboxes import medium

async def main():
    async with Sandbox(HashingSettings(decoders=1, decode_seconds=60), scanner="tests.hashing.decoys") as box:
        with medium("partly spin") as media:
            scanning = asyncio.create_task(box.scan(media))
            while not box.state.decode_bytes:
                await asyncio.sleep(0.01)
            print(box._server._process.pid, *(worker.pid for worker in box._busy), flush=True)
            await scanning

asyncio.run(main())
"""


def test_no_decoder_outlives_a_gate_that_is_killed(tmp_path: Path) -> None:
    """Also from another working directory than the source tree."""
    with subprocess.Popen(
        [sys.executable, "-c", GATE], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as gate:
        assert gate.stdout is not None
        processes = [int(pid) for pid in gate.stdout.readline().split()]
        assert len(processes) == 2
        assert all(is_running(pid) for pid in processes)
        gate.kill()
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in processes):
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def test_a_wiped_medium_is_gone_for_the_decoder_too() -> None:
    """The decoder's map shows the gate's own memory, so that overwriting it leaves no copy there."""
    async with decoy_sandbox(decode_seconds=30) as sandbox:
        media = medium(b"partly spin\ncanary")
        scanning = asyncio.create_task(sandbox.scan(media))
        await until(lambda: sandbox.state.decode_bytes == 1_000)
        (worker,) = sandbox._busy
        maps = Path(f"/proc/{worker.pid}/maps").read_text()
        (line,) = [line for line in maps.splitlines() if "memfd:cordon-media" in line]
        span, permissions, *_ = line.split()
        assert permissions == "r--s"
        start = int(span.partition("-")[0], 16)
        with Path(f"/proc/{worker.pid}/mem").open("rb", buffering=0) as memory:  # noqa: ASYNC230
            memory.seek(start)
            assert memory.read(18) == b"partly spin\ncanary"
            media.wipe()
            memory.seek(start)
            assert memory.read(18) == bytes(18)
        scanning.cancel()
        await asyncio.wait([scanning])
