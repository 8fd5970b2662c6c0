"""Hashing beside the reference, and a look-up beside hashing, in one run on one machine.

Figures are medians in milliseconds. Only ratios within one run mean anything: on a shared machine the
absolute figures move with its other guests, which is why the share of stolen processor time stands below.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from app.hashing.workers import ENVIRONMENT
from app.matching.hamming import HammingIndex
from app.media import PDQ_BYTES, PDQ_DEFAULT_THRESHOLD
from bench.hashing import hashing
from bench.machine import stolen_share, ticks

SEED: Final = 20_260_101
ENTRIES: Final = 1_000_000
QUERIES: Final = 200


def main() -> None:
    """Measure, and print two tables."""
    argparse.ArgumentParser(prog="python -m bench", description=__doc__).parse_args()
    if not ENVIRONMENT.items() <= os.environ.items():
        # A decoder's own, for both: some of it is read as the interpreter starts, and no more.
        os.execve(sys.executable, [sys.executable, "-m", "bench"], os.environ | ENVIRONMENT)  # noqa: S606
    console = Console()
    rng = np.random.default_rng(SEED)
    before = ticks()
    console.print(hashing())
    console.print(matching(rng))
    share = stolen_share(before, ticks())
    console.print(f"Stolen by the host meanwhile: {share:.0%} of the busy processor time")


def matching(rng: np.random.Generator) -> Table:
    """Look-ups of random hashes, of which next to none is near an entry."""
    began = time.perf_counter()
    index = HammingIndex.build(rng.integers(0, 256, (ENTRIES, PDQ_BYTES), np.uint8))
    built = time.perf_counter() - began
    queries = rng.integers(0, 256, (QUERIES, 1, PDQ_BYTES), np.uint8)
    times = [timed(index.search, query, PDQ_DEFAULT_THRESHOLD) for query in queries]
    table = Table("entries", "built in", "a look-up, ms", "99th percentile, ms")
    figures = f"{statistics.median(times):.2f}", f"{np.percentile(times, 99):.2f}"
    table.add_row(f"{ENTRIES:,}", f"{built:.1f} s", *figures)
    return table


def timed(work: Callable[..., object], *arguments: Any) -> float:  # noqa: ANN401 - handed on as they are
    """How long a call takes, in milliseconds."""
    began = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - began) * 1000


if __name__ == "__main__":
    main()
