"""The search beside FAISS: how long a look-up takes, what it costs in memory, and what somebody can do to it.

Each look-up is of one PDQ value within 31 bits. Cordon reads a snapshot as a gate does, mapped from a file;
FAISS's flat binary index counts every distance; its multi-hash index, at one flip of each of 16 bands, is
sure of 31 bits too. Both run in one thread, and what is told of a look-up is processor time, which neighbours
on the machine touch least. A ratio is taken in each of several rounds, in which the two take turns; its
median is told, and the least and the largest. Whatever Cordon finds has to be what the flat index finds.

FAISS is no dependency of Cordon: ``.venv/bin/pip install faiss-cpu`` puts it beside it. 100 million entries
take 9 GB of disk, and as much memory to be searched at full speed; FAISS's flat index takes 3.2 GB more.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from app.entries import Entries
from app.hashing import pdq
from app.matching import engine, hamming
from app.matching.hamming import Band, HammingIndex
from app.matching.snapshot import SnapshotWriter, open_snapshot, prepare
from app.media import PDQ_BITS, PDQ_BYTES, PDQ_DEFAULT_THRESHOLD, SignalType
from bench.pictures import photograph

try:
    import faiss
except ModuleNotFoundError:
    HAS_FAISS = False
else:
    HAS_FAISS = True

SEED: Final = 20_260_102
SIZES: Final = (10_000, 100_000, 1_000_000, 10_000_000)
HUNDRED_MILLION: Final = 100_000_000
SWEPT: Final = (0, 16, 24, 31, 36, 40, 48)
SWEPT_AT_ONCE: Final = (31, 38, 40, 44, 47)
"""Further than a quick look searches, which is 36 bits where the threshold is 31, less those in doubt."""
FORMS: Final = 16
"""A picture is looked up in so many forms: flips, turns, and the negatives of them."""

ROUNDS: Final = 5
LARGEST_MULTI_HASH: Final = 1_000_000
"""Beyond, FAISS's multi-hash index takes minutes to build and many GB: only where it is asked for."""

SKEWED: Final = 1_000_000
ADVERSARIAL: Final = 1_000_000

_NOTHING: Final = np.empty(0, np.uint32)
_NO_BANDS: Final = np.empty((0, 3), np.int32)

_CHUNK: Final = 1 << 18
_PICTURES: Final = 200
_CROPS: Final = 6_000
_NEAR: Final = 16

Values = NDArray[np.uint8]


def main() -> None:
    """Measure, and print the tables."""
    asked = argparse.ArgumentParser(
        prog="python -m bench.search", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    asked.add_argument("--largest", type=int, default=SIZES[-1], help="leave out sizes beyond this one")
    asked.add_argument(
        "--with-100-million", action="store_true", help="measure that as well, in 12 GB of memory"
    )
    asked.add_argument(
        "--multi-hash",
        type=int,
        default=LARGEST_MULTI_HASH,
        metavar="N",
        help="leave FAISS's multi-hash index out beyond this size",
    )
    asked.add_argument("--pictures", type=Path, metavar="DIR", help="crops of these, in place of drawn ones")
    asked.add_argument("--directory", type=Path, default=Path("build/bench"), help="for the snapshots")
    given = asked.parse_args()
    if not HAS_FAISS:
        asked.exit(1, "bench.search: FAISS is not installed: .venv/bin/pip install faiss-cpu\n")
    faiss.omp_set_num_threads(1)
    prepare(given.directory)
    console = Console()
    console.print(
        f"Cordon's loops are {'compiled' if engine.COMPILED else 'in NumPy: nothing was compiled'}."
    )
    sizes = [size for size in SIZES if size <= given.largest]
    if given.with_100_million:
        sizes.append(HUNDRED_MILLION)
    stolen = Stolen()
    alone = Table(
        "entries", "built, s", "bytes an entry", "opened, ms", "p50, ms", "p99, ms", f"{FORMS} at once, ms",
        title="Random values: Cordon",
    )  # fmt: skip
    beside = Table(
        "entries", "flat, ms", f"flat, {FORMS}, ms", "times faster", f"for {FORMS}", "multi-hash, ms",
        title="Random values: FAISS, and how many times faster Cordon is than its flat index",
    )  # fmt: skip
    by_threshold = Table("entries", *map(str, SWEPT), title="Random values: p50 in ms, by threshold in bits")
    at_once_by_threshold = Table("entries", *map(str, SWEPT_AT_ONCE), title=f"The same, {FORMS} at once")
    for size in track(sizes, "Sizes", console=console, transient=True):
        measured = Measured(
            given.directory,
            random_values(size),
            size,
            multi_hash=size <= given.multi_hash,
        )
        own, peer = measured.rows()
        alone.add_row(*own)
        beside.add_row(*peer)
        by_threshold.add_row(f"{size:,}", *(f"{measured.swept(threshold):.3f}" for threshold in SWEPT))
        at_once_by_threshold.add_row(
            f"{size:,}", *(f"{measured.swept(threshold, FORMS):.2f}" for threshold in SWEPT_AT_ONCE)
        )
        measured.close()
    for table in (alone, beside, by_threshold, at_once_by_threshold):
        console.print(table)
    console.print(skewed(given.directory, given.pictures))
    console.print(adversarial())
    console.print(f"Stolen by the host meanwhile: {stolen.share():.0%} of the busy processor time")


class Measured:
    """One bank behind Cordon and behind FAISS, its multi-hash index if that is asked for."""

    def __init__(self, directory: Path, chunks: Iterator[Values], size: int, *, multi_hash: bool) -> None:
        began = time.perf_counter()
        drawing = 0.0
        writer = SnapshotWriter(directory, size, bytes(16))
        self.flat = faiss.IndexBinaryFlat(PDQ_BITS)
        self.multi_hash = None
        if multi_hash:
            self.multi_hash = faiss.IndexBinaryMultiHash(PDQ_BITS, 16, 16)
            self.multi_hash.nflip = 1
        first_id = 1
        while True:
            # What is drawn, and what the peer does, is none of Cordon's time.
            paused = time.perf_counter()
            values = next(chunks, None)
            if values is not None:
                self.flat.add(values)
            if values is not None and self.multi_hash is not None:
                self.multi_hash.add(values)
            drawing += time.perf_counter() - paused
            if values is None:
                break
            ids = np.arange(first_id, first_id + len(values))
            writer.add(Entries(SignalType.PDQ, ids, np.ones(len(values), np.int64), values))
            first_id += len(values)
            self.last = values
        self.path = writer.finish()
        self.built = time.perf_counter() - began - drawing
        began = time.perf_counter()
        snapshot = open_snapshot(self.path)
        self.opened = (time.perf_counter() - began) * 1000
        snapshot.verify()
        search = snapshot.index.perceptual(SignalType.PDQ)
        assert search is not None  # noqa: S101 - a snapshot of PDQ values holds some
        self.search = search
        self.size = size
        self.rng = np.random.default_rng(size)

    def rows(self) -> tuple[list[str], list[str]]:
        """What the tables of sizes say of it: Cordon alone, and FAISS beside it."""
        own, many, flat, flat_many = [], [], [], []
        ratios, many_ratios = [], []
        multi_hash: list[float] = []
        for _ in range(ROUNDS):
            queries = self.queries(60)
            mine = [timed_search(self.search, query) for query in queries]
            together = [timed_search(self.search, queries[at : at + FORMS]) for at in (0, FORMS, 2 * FORMS)]
            own += mine
            many += together
            theirs = [timed_range(self.flat, query) for query in queries[:12]]
            theirs_many = timed_range(self.flat, queries[:FORMS])
            self.compare(queries[:FORMS])
            flat += theirs
            flat_many.append(theirs_many)
            ratios.append(statistics.median(theirs) / statistics.median(mine))
            many_ratios.append(theirs_many / statistics.median(together))
            if self.multi_hash is not None:
                multi_hash += [timed_range(self.multi_hash, query) for query in queries[:12]]
        return [
            f"{self.size:,}",
            f"{self.built:.1f}",
            f"{self.path.stat().st_size / self.size:.1f}",
            f"{self.opened:.1f}",
            f"{statistics.median(own):.3f}",
            f"{np.percentile(own, 99):.3f}",
            f"{statistics.median(many):.2f}",
        ], [
            f"{self.size:,}",
            middle(flat),
            middle(flat_many),
            spread(ratios),
            spread(many_ratios),
            middle(multi_hash),
        ]

    def swept(self, threshold: int, at_once: int = 1) -> float:
        """The median look-up at a threshold, of so many values, in milliseconds."""
        queries = self.queries(40 * at_once).reshape(40, -1)
        return statistics.median(timed_search(self.search, some, threshold) for some in queries)

    def queries(self, count: int) -> Values:
        """Half of them near an entry, half of them anywhere; shape (count, bytes)."""
        near = flipped(self.rng, self.last[self.rng.integers(0, len(self.last), count)], 28)
        anywhere = self.rng.integers(0, 256, (count, PDQ_BYTES), np.uint8)
        return np.where((np.arange(count) % 2 == 0)[:, np.newaxis], near, anywhere)

    def compare(self, queries: Values) -> None:
        """Stop if Cordon finds anything else than the index that counts every distance."""
        bounds, distances, entries = self.flat.range_search(queries, PDQ_DEFAULT_THRESHOLD + 1)
        theirs = {
            (query, int(entries[at]), int(distances[at]))
            for query in range(len(queries))
            for at in range(int(bounds[query]), int(bounds[query + 1]))
        }
        hits = self.search.search(queries, PDQ_DEFAULT_THRESHOLD)
        if set(zip(*(column.tolist() for column in hits), strict=True)) != theirs:
            raise SystemExit("Cordon and FAISS differ")

    def close(self) -> None:
        """Remove its file."""
        self.path.unlink()


def skewed(directory: Path, pictures: Path | None) -> Table:
    """Look-ups in a bank of hashes of pictures that resemble each other, beside one of random values."""
    table = Table(
        "values", "p50, ms", "p99, ms", f"{FORMS} at once, ms", "flat, ms", "times faster", f"for {FORMS}",
        title=f"{SKEWED:,} entries: crops of a few pictures, up to {_NEAR} bits turned over, and random ones",
    )  # fmt: skip
    for name, chunks in (
        ("crops of pictures", crops(pictures)),
        ("random", random_values(SKEWED)),
    ):
        measured = Measured(directory, chunks, SKEWED, multi_hash=False)
        own, peer = measured.rows()
        table.add_row(name, *own[4:], peer[1], *peer[3:5])
        measured.close()
    return table


def adversarial() -> Table:
    """The worst that entries can be made to do, beside a scan by the same loops."""
    table = Table(
        "entries made up", "worst look-up, ms", "a scan, ms", "flat, ms", "beside the scan",
        title=f"{ADVERSARIAL:,} entries made to be slow",
    )  # fmt: skip
    rng = np.random.default_rng(SEED)
    bands = hamming.bands_of(ADVERSARIAL, PDQ_BYTES // 8)
    random = rng.integers(0, 256, (ADVERSARIAL, PDQ_BYTES), np.uint8)
    every, most, half = slice(None), bands[:-3], bands[: len(bands) // 2]
    near, side_by_side = PDQ_DEFAULT_THRESHOLD, slice(ADVERSARIAL // 1000)
    seventh, ninth, fourteenth, thirtieth = (slice(None, None, part) for part in (7, 9, 14, 30))
    for name, values, threshold, doubted in (
        ("one band shared", sharing(random, bands[:1], every), near, 0),
        ("half of the bands", sharing(random, half, every), near, 0),
        ("all bands but three, so that most match", sharing(random, most, every), near, 0),
        ("one band, by a seventh of them", sharing(random, bands[:1], seventh), near, 0),
        ("the same, within 48 bits", sharing(random, bands[:1], seventh), 48, 0),
        ("two bands, by a ninth", sharing(random, bands[:2], ninth), near, 0),
        ("two bands, by a fourteenth", sharing(random, bands[:2], fourteenth), near, 0),
        ("the same, 40 bits in doubt", sharing(random, bands[:2], fourteenth), near, 40),
        ("two bands, by a thirtieth", sharing(random, bands[:2], thirtieth), near, 0),
        ("all bands, by a thousandth, side by side", sharing(random, bands, side_by_side), near, 0),
    ):
        index = HammingIndex.build(values)
        flat = faiss.IndexBinaryFlat(PDQ_BITS)
        flat.add(values)
        queries = flipped(rng, np.repeat(values[:1], 40, axis=0), 6)
        doubts = flipped(rng, np.zeros((40, PDQ_BYTES), np.uint8), 2 * doubted)
        own, scan = [], []
        for query, doubt in zip(queries, doubts, strict=True):
            left_out = doubt if doubted else None
            turns = [
                (
                    timed_search(index, query, threshold, left_out),
                    timed_scan(index, query, threshold, left_out),
                )
                for _ in range(7)
            ]
            # Each at its best: a neighbour's turn on the processor is not the search's.
            own.append(min(taken for taken, _ in turns))
            scan.append(min(taken for _, taken in turns))
        theirs = statistics.median(timed_range(flat, query, threshold) for query in queries[:20])
        table.add_row(
            name, f"{max(own):.2f}", f"{max(scan):.2f}", f"{theirs:.2f}", f"{max(own) / max(scan):.2f}"
        )
    return table


def sharing(values: Values, bands: Sequence[Band], which: slice) -> Values:
    """Values of which some have these bands of the first."""
    bits = np.zeros(PDQ_BITS, np.uint8)
    for band in bands:
        bits[band.start : band.start + band.width] = 1
    mask = hamming.unpack(np.packbits(bits, bitorder="little").view("<u8")[np.newaxis])
    shared = values.copy()
    shared[which] = (shared[which] & ~mask) | (values[0] & mask)
    return shared


def random_values(count: int) -> Iterator[Values]:
    """So many values, some at a time."""
    rng = np.random.default_rng(SEED)
    for begin in range(0, count, _CHUNK):
        yield rng.integers(0, 256, (min(_CHUNK, count - begin), PDQ_BYTES), np.uint8)


def crops(directory: Path | None) -> Iterator[Values]:
    """Hashes of crops of pictures, each many times with a few bits turned over."""
    rng = np.random.default_rng(SEED)
    pictures = list(read(directory) if directory else map(pixels, map(photograph, range(_PICTURES))))
    hashes: list[bytes] = []
    while len(hashes) < _CROPS:
        picture = pictures[rng.integers(len(pictures))]
        height, width = picture.shape[:2]
        tall, wide = (int(length * rng.uniform(0.3, 1)) for length in (height, width))
        top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        crop = np.ascontiguousarray(picture[top : top + tall, left : left + wide])
        value, quality = pdq.canonical(crop)
        if quality >= 50:
            hashes.append(value)
    values = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, PDQ_BYTES)
    for begin in range(0, SKEWED, _CHUNK):
        some = values[rng.integers(0, len(values), min(_CHUNK, SKEWED - begin))]
        yield flipped(rng, some, _NEAR)


def read(directory: Path) -> Iterator[NDArray[np.uint8]]:
    """Some pictures of a directory."""
    paths = sorted(path for path in directory.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    for path in paths[:: max(1, len(paths) // _PICTURES)]:
        yield pixels(Image.open(path).convert("RGBA"))


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Of a picture, at most 512 a side: shape (height, width, 3)."""
    small = picture.convert("RGB")
    small.thumbnail((512, 512))
    return np.array(small)


def flipped(rng: np.random.Generator, values: Values, most: int) -> Values:
    """Values with up to so many bits of each turned over."""
    turned = values.copy()
    each = np.arange(len(values))
    for _ in range(most):
        places = rng.integers(0, PDQ_BITS, len(values))
        turned[each, places >> 3] ^= rng.integers(0, 2, len(values), np.uint8) << (places & 7).astype(
            np.uint8
        )
    return turned


def timed_search(
    search: HammingIndex, query: Values, threshold: int = PDQ_DEFAULT_THRESHOLD, doubt: Values | None = None
) -> float:
    """How long a look-up takes, in milliseconds, as a gate does it: what is near comes some at a time."""
    queries = query.reshape(-1, PDQ_BYTES)
    doubts = None if doubt is None else doubt.reshape(-1, PDQ_BYTES)
    began = time.thread_time()
    for _ in search.pieces(queries, threshold, doubts=doubts):
        pass
    return (time.thread_time() - began) * 1000


def timed_scan(search: HammingIndex, query: Values, threshold: int, doubt: Values | None) -> float:
    """How long counting every distance takes, in milliseconds: the same, but that nothing is looked up."""
    hamming.engine = cast("engine.Engine", EveryRow)
    try:
        return timed_search(search, query, threshold, doubt)
    finally:
        hamming.engine = engine.ENGINE


class EveryRow:
    """The same loops, without the bands that they would look something up in."""

    @staticmethod
    def search(*given: Any) -> tuple[bytes, int, int]:  # noqa: ANN401 - all that the loops take
        """As the loops search an index that is too small for bands."""
        rows, words, _, _, _, *others = given
        return engine.ENGINE.search(rows, words, _NOTHING, _NOTHING, _NO_BANDS, *others)

    shuffle = staticmethod(engine.ENGINE.shuffle)


def timed_range(index: "faiss.IndexBinary", query: Values, threshold: int = PDQ_DEFAULT_THRESHOLD) -> float:
    """How long FAISS takes, in milliseconds; it finds what is nearer than the radius."""
    queries = query.reshape(-1, PDQ_BYTES)
    began = time.thread_time()
    index.range_search(queries, threshold + 1)
    return (time.thread_time() - began) * 1000


def middle(times: list[float]) -> str:
    """The median, or a dash where nothing was measured."""
    return f"{statistics.median(times):.2f}" if times else "-"


def spread(ratios: list[float]) -> str:
    """The median, and the least and the largest."""
    return f"{statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f})" if ratios else "-"


class Stolen:
    """Processor time that the host gave to others, since this was made."""

    def __init__(self) -> None:
        self._began = self._ticks()

    def share(self) -> float:
        """Of the busy time."""
        stolen, busy = (now - then for now, then in zip(self._ticks(), self._began, strict=True))
        return stolen / max(busy, 1)

    @staticmethod
    def _ticks() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = fields
        return steal, user + nice + system + irq + softirq + steal


if __name__ == "__main__":
    main()
