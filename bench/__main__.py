"""Hashing beside the reference, and a look-up beside hashing, in one run on one machine.

Figures are medians in milliseconds. Only ratios within one run mean anything: on a shared machine the
absolute figures move with its other guests, which is why the share of stolen processor time stands below.
"""

import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from app.hashing import pdq
from app.matching.hamming import HammingIndex
from app.media import PDQ_BYTES, PDQ_DEFAULT_THRESHOLD

SEED: Final = 20_260_101
SIZES: Final = {"1.6 megapixels": (1600, 1000), "12 megapixels": (4000, 3000)}
ENTRIES: Final = 1_000_000
QUERIES: Final = 200


def main() -> None:
    """Measure, and print two tables."""
    console = Console()
    rng = np.random.default_rng(SEED)
    stolen_before, busy_before = ticks()
    console.print(hashing(rng))
    console.print(matching(rng))
    stolen, busy = ticks()
    share = (stolen - stolen_before) / max(busy - busy_before, 1)
    console.print(f"Stolen by the host meanwhile: {share:.0%} of the busy processor time")


def hashing(rng: np.random.Generator) -> Table:
    """Canonical PDQ beside the reference, on the same pixels."""
    table = Table(
        "picture", "decoded by Pillow", "hashed by pdqhash", "by Cordon", "times faster", "same hash"
    )
    for name, (width, height) in SIZES.items():
        jpeg = draw(rng, width, height)
        pixels = decode(jpeg)
        decoding = median(5, decode, jpeg)
        peer = median(5, pdqhash.compute, pixels)
        own = median(15, pdq.canonical, pixels)
        same = np.packbits(pdqhash.compute(pixels)[0]).tobytes() == pdq.canonical(pixels)[0]
        figures = f"{decoding:.1f}", f"{peer:.1f}", f"{own:.2f}", f"{peer / own:.0f}"
        table.add_row(name, *figures, "yes" if same else "NO")
    return table


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


def draw(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A JPEG with structure at every scale, as photographs have it."""
    total = np.zeros((height, width, 3))
    for cells in (4, 16, 64, 256):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), float) / np.sqrt(cells)
    out = io.BytesIO()
    Image.fromarray((total * 255 / total.max()).astype(np.uint8)).save(out, "JPEG", quality=88)
    return out.getvalue()


def decode(jpeg: bytes) -> NDArray[np.uint8]:
    """All pixels of a JPEG: shape (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def timed(work: Callable[..., object], *arguments: Any) -> float:  # noqa: ANN401 - handed on as they are
    """How long a call takes, in milliseconds."""
    began = time.perf_counter()
    work(*arguments)
    return (time.perf_counter() - began) * 1000


def median(runs: int, work: Callable[..., object], *arguments: Any) -> float:  # noqa: ANN401 - the same
    """The median time of a call in milliseconds, after one that does not count."""
    work(*arguments)
    return statistics.median(timed(work, *arguments) for _ in range(runs))


def ticks() -> tuple[int, int]:
    """Processor time since the machine started, in ticks: stolen by the host, and busy in all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return steal, user + nice + system + irq + softirq + steal


if __name__ == "__main__":
    main()
