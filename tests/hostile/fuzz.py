"""Mutated media against a real gate: ``python -m tests.hostile.fuzz --files 100000 --seed 1``.

Every file must have an answer of the contract within the time for decoding; the gate's own process must not
end, nor grow, nor run out of descriptors; and no decoder may crash by an error that was not foreseen. What is
sent depends on the seed and the file's number alone, so one file is sent again with
``--seed SEED --first NUMBER --files 1``. Ctrl-C ends the run and tells what came of it so far.
The exit code is 1 if anything was found.
"""

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.gates import RunningGate
from tests.hostile.attack import SLACK_SECONDS, Outcome, attacked_gate, send, send_for_status, warnings_of
from tests.hostile.media import encoded, picture
from tests.hostile.mutations import mutated
from tests.hostile.watch import resident_bytes, tree

MEBIBYTE = 2**20

DECODE_SECONDS = 5
DECODERS = 2
MOST_DESCRIPTORS = 128
"""What the gate may have open: it needs some thirty, so a leak of one in three files is found in 300."""

MOST_GROWTH_BYTES = 48 * MEBIBYTE
"""How much more the gate's own process, or its fork server, may hold after all files than after the first."""

STATUS_EVERY = 4
"""Of one in so many files only the status is asked for, which a quick look may be enough for."""

BATCH_FILES = 100
MOST_FAILURES = 10
"""After so many, no more files are sent."""

BANKED = encoded(picture(2), "PNG")
"""The last of the three pictures in the samples that hold several, so that some of what is sent matches."""


@dataclass
class Findings:
    """What came of a run.

    Attributes:
        told: how many files came to each outcome.
        slowest: the longest that a file took, and its number.
        failures: what must not happen, with the numbers of the files it happened to where that is known.
        resident_first: bytes that the gate and its fork server held in RAM after the first files.
        resident: the same after all.
    """

    seed: int
    files: int = 0
    seconds: float = 0
    told: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0, 0)
    failed_decoders: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    resident_first: tuple[int, ...] = ()
    resident: tuple[int, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.files} files of seed {self.seed} in {self.seconds:.0f} s",
            "outcomes: " + ", ".join(f"{count} {told}" for told, count in self.told.most_common()),
            f"slowest: {self.slowest[0]:.2f} s, file {self.slowest[1]}",
            "resident, gate and fork server: "
            + ", then ".join(_mebibytes(held) for held in (self.resident_first, self.resident)),
        ]
        if self.failed_decoders:
            lines.append(f"decoder_failed: files {self.failed_decoders}")
        return "\n".join(lines + [f"FOUND: {failure}" for failure in self.failures])


def run(gate: RunningGate, client: httpx.Client, seed: int, first: int, files: int) -> Findings:
    """Send so many files and tell what came of them."""
    findings = Findings(seed)
    began = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), ThreadPoolExecutor(DECODERS) as pool:
        for start in range(first, first + files, BATCH_FILES):
            batch = range(start, min(start + BATCH_FILES, first + files))
            list(pool.map(lambda number: _send(client, number, findings), batch))
            findings.seconds = time.monotonic() - began
            findings.resident = tuple(resident_bytes(each) for each in tree(gate.process.pid)[:2])
            findings.resident_first = findings.resident_first or findings.resident
            _show(findings, files)
            if gate.process.poll() is not None or len(findings.failures) >= MOST_FAILURES:
                break
    _judge(gate, findings)
    return findings


_counting = threading.Lock()


def _send(client: httpx.Client, number: int, findings: Findings) -> None:
    if len(findings.failures) >= MOST_FAILURES:
        return
    _, content = mutated(findings.seed, number)
    try:
        ask = send_for_status if number % STATUS_EVERY == 0 else send
        outcome: Outcome | None = ask(client, content)
    except (AssertionError, httpx.HTTPError, ValueError) as error:
        outcome = None
        failure = f"file {number}: {type(error).__name__}: {error}"
    with _counting:
        findings.files += 1
        if outcome is None:
            findings.failures.append(failure)
            return
        findings.told[outcome.told] += 1
        findings.slowest = max(findings.slowest, (outcome.seconds, number))
        if outcome.told == "decoder_failed":
            findings.failed_decoders.append(number)
        if outcome.seconds > DECODE_SECONDS + SLACK_SECONDS:
            findings.failures.append(f"file {number}: no answer for {outcome.seconds:.1f} s")


def _judge(gate: RunningGate, findings: Findings) -> None:
    if gate.process.poll() is not None:
        findings.failures.append(f"the gate ended with {gate.process.returncode}")
    growth = [now - then for then, now in zip(findings.resident_first, findings.resident, strict=True)]
    if max(growth) > MOST_GROWTH_BYTES:
        findings.failures.append("the gate grew")
    counted = Counter(warnings_of(gate))
    findings.failures += [f"{count} times in the log: {warning}" for warning, count in counted.items()]


def _mebibytes(held: tuple[int, ...]) -> str:
    return " + ".join(f"{each / MEBIBYTE:.0f}" for each in held) + " MiB"


def _show(findings: Findings, files: int) -> None:
    on_terminal = sys.stderr.isatty()
    if on_terminal or findings.files % 1000 == 0:
        rate = findings.files / findings.seconds
        line = f"{findings.files} of {files} files, {rate:.0f} a second, {len(findings.failures)} failures"
        sys.stderr.write(line.ljust(79) + ("\r" if on_terminal else "\n"))
        sys.stderr.flush()


@contextlib.contextmanager
def fuzzed_gate(folder: Path) -> Iterator[tuple[RunningGate, httpx.Client]]:
    """A gate that may open few files, and its client."""
    limited = ("prlimit", f"--nofile={MOST_DESCRIPTORS}")
    with attacked_gate(
        folder, BANKED, wrapper=limited, decoders=DECODERS, decode_seconds=DECODE_SECONDS
    ) as gate:
        client = gate.client()
        client.timeout = httpx.Timeout(DECODE_SECONDS + 2 * SLACK_SECONDS)
        yield gate, client


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    told = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        fuzzed_gate(Path(folder)) as (gate, client),
    ):
        findings = run(gate, client, told.seed, told.first, told.files)
    sys.stdout.write(f"{findings}\n")
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
