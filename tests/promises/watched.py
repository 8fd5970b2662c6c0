"""Real gates, workers and commands under strace, and what they are expected to do."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from app.settings import StoreSettings
from tests.gates import CORDON, Prepared, RunningGate, environment, running_gate, wait_for
from tests.promises.canaries import MIB, Gallery
from tests.promises.doors import Site
from tests.promises.proof import Expected
from tests.promises.tracing import Trace

LIMIT = 9 * MIB
SETTINGS = {
    "max_bytes": str(LIMIT),
    "max_video_bytes": str(LIMIT + MIB),
    "max_inflight_bytes": str(8 * LIMIT),
    "decoders": "2",
    # As much as a busy machine under strace may need for what is decoded in a moment elsewhere.
    "decode_seconds": "5",
    "fetch_first_byte_seconds": "5",
    "fetch_total_seconds": "15",
    "drain_seconds": "2",
}
NSCD = "/var/run/nscd/socket"
"""Where C libraries ask for names and users first; it seldom runs."""


def expected_of(
    store: StoreSettings, site: Site, *, files: tuple[str, ...] = (), addresses: tuple[str, ...] = ()
) -> Expected:
    """What Cordon does on files and sockets: its database, its log, its ready file, its site; no more.

    Args:
        store: its state.
        site: what it fetches from.
        files: patterns of more files that it may write.
        addresses: patterns of what else it may connect to.
    """
    state, work = re.escape(str(store.state_dir)), re.escape(str(store.state_dir.parent))
    return Expected(
        files=(
            rf"{state}/cordon\.db(-wal|-shm|-journal)?",
            rf"{state}(/custodians|/\.custodians\.partial)?",
            rf"{work}/ready-\d+(\.partial)?",
            rf"{work}/log-\w+",
            # Python's own, and how a decoder asks to be the first to go when memory runs out.
            r".*/__pycache__(/[^/]+\.pyc(\.\d+)?)?",
            r"/proc/\d+/oom_score_adj",
            *files,
        ),
        mapped=(rf"{state}/cordon\.db-shm",),
        addresses=(NSCD, rf"127\.0\.0\.1:({site.host.port}|{site.names.port})", *addresses),
        programs=(re.escape(sys.executable), re.escape(str(CORDON))),
    )


@contextlib.contextmanager
def watched_gate(
    trace: Trace,
    prepared: Prepared,
    site: Site,
    *,
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
    **settings: str,
) -> Iterator[RunningGate]:
    """A gate under strace; when the block has ended, so has the gate, and its trace is whole.

    Args:
        trace: where to.
        prepared: its database.
        site: whose names it asks for.
        before: a command to run strace under.
        after: a command to run the gate under, below strace.
        settings: over ``SETTINGS``.
    """
    given = SETTINGS | {"fetch_resolver": site.names.address} | settings
    with running_gate(
        prepared, wait_until_ready=False, wrapper=(*before, *trace.wrapper, *after), **given
    ) as gate:
        yield gate
    trace.wait()


@contextlib.contextmanager
def watched_command(
    trace: Trace, store: StoreSettings, site: Site, *arguments: str, **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A ``cordon`` command under strace, with pipes for its standard streams; killed with the block."""
    names = {"fetch_resolver": site.names.address, "fetch_allow": "127.0.0.0/8", "fetch_ports": "*"}
    with subprocess.Popen(
        [*trace.wrapper, str(CORDON), *arguments],
        env=environment(store, **(SETTINGS | names | settings)),
        cwd=store.state_dir.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
    trace.wait()


def fill(gate: RunningGate, gallery: Gallery) -> None:
    """Make a bank that reports, and wait until what is near the gallery's entry would match."""
    bank = gate.client("bank")
    bank.put("/v1/banks/known", json={"kind": "csam", "action": "report"}).raise_for_status()
    signals = [{"type": "pdq", "value": gallery.entry}]
    bank.post("/v1/banks/known/signals", json={"signals": signals}).raise_for_status()
    wait_for(lambda: gate.public("/readyz").status_code == httpx.codes.OK)


def surfaces_of(gate: RunningGate) -> dict[str, bytes]:
    """What may be read of a running gate, and its log."""
    return {
        **{
            path: gate.client("all").get(path).content
            for path in ("/metrics", "/readyz", "/v1/status", "/v1/reports", "/v1/banks")
        },
        "log": gate.log.read_bytes(),
    }


def decoders_of(gate: RunningGate) -> set[int]:
    """Process ids of its decoders: what its fork server forked."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
    servers = {process for process, parent in parents.items() if parent == gate.process.pid}
    return {process for process, parent in parents.items() if parent in servers}


def held(gate: RunningGate) -> int:
    """How many media are in its quarantine."""
    return int(gate.client("ops").get("/v1/status").json()["intake"]["held_media"])


def stored(gate: RunningGate) -> int:
    """How many sightings were reported."""
    listed = gate.client("report").get("/v1/reports", params={"limit": 1000}).json()["reports"]
    return sum(1 + int(report["later_sightings"]) for report in listed)
