"""Exact search by Hamming distance: every row within the threshold, never an approximation.

Multi-index hashing (Norouzi, Punjani, Fleet, 'Fast exact search in Hamming space with multi-index hashing',
2014). The bits of each row, shuffled once by a fixed permutation so that bits that go together spread out,
are cut into bands. Each band has a directory from its value to the rows that hold it. If a row is within T
bits of a query, then for any radii r with sum(r + 1) >= T + 1 it is within r of the query in at least one
band, so looking up all band values that near finds it, and the true distance is then counted.

Where that would cost more than looking at every row, as in a small index or in one whose rows share a band,
every row is looked at instead. The worst case is that of a scan.

The directory of a band is lines of 64 bytes, one cache line each, for 60 values: a uint32 tells where the
rows of the first begin in the band's postings, and a byte for each tells how far behind that its rows end.
255 says 'or further': such rows are sought up to the beginning of the next line, and told apart by their own
bits. One more line ends the last.

A posting is the index of a row. The bits above it hold as much as fits of the row's value in the next band,
the first after the last: a hint that sets most rows aside before they are fetched (``may_lead`` in
``_hamming.c`` tells why none is lost).

``HammingIndex.search`` is the seam; what loops behind it is compiled (``_hamming.c``) where it could be.
"""

from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import accumulate
from math import comb
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.errors import NotReadyError
from app.matching.engine import ENGINE, Engine
from app.matching.fallback import LINE_BUCKETS, LINE_BYTES

WORD_BITS: Final = 64

SCANNED_ROWS: Final = 8192
"""Up to this many rows a scan is as fast as any directory."""

_DIRECTORY_PER_ROW: Final = 12
"""Most values of bands a row, all bands together."""

# Counting one candidate costs about this many rows of a scan: memory in no order against memory in order.
_CANDIDATE_COST: Final = 6

# Any fixed number will do; snapshots depend on it.
_PERMUTATION_SEED: Final = 0x50445131

engine: Engine = ENGINE

Rows = NDArray[np.uint64]


class Hits(NamedTuple):
    """Pairs of a query and a row within the threshold, by query and then by row.

    Attributes:
        queries: int64, shape (n,); indices of queries.
        entries: int64, shape (n,); indices of rows.
        distances: int64, shape (n,); in bits.
    """

    queries: NDArray[np.int64]
    entries: NDArray[np.int64]
    distances: NDArray[np.int64]


@dataclass(frozen=True)
class Band:
    """A run of bits of a row.

    Attributes:
        start: first bit.
        width: number of bits, at most 32.
    """

    start: int
    width: int

    @property
    def lines(self) -> int:
        """How many lines its directory has."""
        return -(-(1 << self.width) // LINE_BUCKETS) + 1


@dataclass(frozen=True, eq=False)
class HammingIndex:
    """Rows of equal length and the directories of their bands.

    Attributes:
        rows: uint64, shape (n, words); shuffled by ``pack``.
        directory: uint8, shape (lines, 64); band after band, empty if the index is only ever scanned.
        postings: uint32, shape (bands, n); for each band, all rows in the order of its values.
    """

    rows: Rows = field(repr=False)
    directory: NDArray[np.uint8] = field(repr=False)
    postings: NDArray[np.uint32] = field(repr=False)

    @classmethod
    def build(cls, values: NDArray[np.uint8]) -> Self:
        """Index values in memory: uint8, shape (n, bytes), bytes 8, 16, 24 or 32."""
        rows = pack(values)
        bands = bands_of(*rows.shape)
        directory = np.empty((directory_lines(*rows.shape), LINE_BYTES), np.uint8)
        postings = np.empty((len(bands), len(rows)), np.uint32)
        begin = 0
        for number, band in enumerate(bands):
            index_band(rows, number, directory[begin : begin + band.lines], postings[number])
            begin += band.lines
        return cls(rows, directory, postings)

    def __len__(self) -> int:
        return len(self.rows)

    def value(self, entry: int) -> bytes:
        """The value that a row was made from."""
        return bytes(unpack(self.rows[entry : entry + 1])[0])

    def search(self, queries: NDArray[np.uint8], threshold: int) -> Hits:
        """All rows within ``threshold`` bits of each query. The interpreter is free meanwhile.

        Args:
            queries: uint8, shape (n, bytes).
            threshold: largest distance in bits, 0 or more.

        Raises:
            NotReadyError: the index is damaged.
        """
        count, words = self.rows.shape
        cuts = _cuts(count, words, threshold)
        # Without cuts every row is looked at, and neither directory nor postings are.
        directory, postings = (self.directory, self.postings) if len(cuts) else (_NO_LINES, _NO_POSTINGS)
        try:
            found = engine.search(
                self.rows,
                words,
                directory,
                postings,
                cuts,
                pack(queries),
                threshold,
                count // _CANDIDATE_COST,
            )
        except ValueError as error:
            raise NotReadyError(f"banks: {error}") from None
        return Hits(*np.frombuffer(found, np.uint32).reshape(-1, 3).T.astype(np.int64))


_NO_LINES: Final = np.empty((0, LINE_BYTES), np.uint8)
_NO_POSTINGS: Final = np.empty(0, np.uint32)


def pack(values: NDArray[np.uint8]) -> Rows:
    """Values as shuffled rows of 64-bit words: uint8 (n, bytes) to uint64 (n, bytes / 8)."""
    count, size = values.shape
    rows = np.empty((count, size // 8), np.uint64)
    engine.shuffle(np.ascontiguousarray(values), size // 8, _shuffled_bytes(size), rows)
    return rows


def unpack(rows: Rows) -> NDArray[np.uint8]:
    """The values that rows were made from."""
    values = np.ascontiguousarray(rows).view(np.uint8)
    back = np.argsort(_permutation(values.shape[1] * 8))
    return np.packbits(np.unpackbits(values, axis=1)[:, back], axis=1)


@lru_cache(maxsize=64)
def bands_of(rows: int, words: int) -> tuple[Band, ...]:
    """The bands that so many rows of so many words are cut into; none if a scan is as good."""
    if rows <= SCANNED_ROWS:
        return ()
    bits = words * WORD_BITS
    for count in range(max(2, bits // 32), bits):
        widths = [bits // count + (band < bits % count) for band in range(count)]
        if sum(1 << width for width in widths) <= _DIRECTORY_PER_ROW * rows:
            break
    return tuple(
        Band(start, width) for start, width in zip(accumulate(widths, initial=0), widths, strict=False)
    )


def directory_lines(rows: int, words: int) -> int:
    """How many lines the directory of so many rows of so many words has."""
    return sum(band.lines for band in bands_of(rows, words))


def index_band(rows: Rows, number: int, directory: NDArray[np.uint8], postings: NDArray[np.uint32]) -> None:
    """Fill one band's lines of the directory, shape (lines, 64), and its postings, shape (rows,)."""
    bands = bands_of(*rows.shape)
    band, following = bands[number], bands[(number + 1) % len(bands)]
    engine.build_band(
        rows,
        rows.shape[1],
        band.start,
        band.width,
        following.start,
        following.width,
        directory,
        postings,
    )


@lru_cache(maxsize=64)
def _cuts(rows: int, words: int, threshold: int) -> NDArray[np.int32]:
    """The cheapest look-ups that find all rows within the threshold.

    Returns:
        Start, width and radius of each band, shape (bands, 3), the radius -1 where it can be left out; of
        length 0 if a scan is cheaper.
    """
    bands = bands_of(rows, words)
    radii = [-1] * len(bands)
    limit = rows // _CANDIDATE_COST

    def cost(band: int) -> float:
        """Of raising a band's radius by one: the directory slots it adds, and the rows found there."""
        slots = comb(bands[band].width, radii[band] + 1)
        return slots * (1 + 2 * rows / (1 << bands[band].width))

    spent = 0.0
    while bands and sum(radius + 1 for radius in radii) < threshold + 1:
        raisable = [number for number, band in enumerate(bands) if radii[number] < band.width]
        cheapest = min(raisable, key=cost, default=None)
        spent += cost(cheapest) if cheapest is not None else limit + 1
        if spent > limit or cheapest is None:
            return _NO_CUTS
        radii[cheapest] += 1
    cuts = [(band.start, band.width, radius) for band, radius in zip(bands, radii, strict=True)]
    return np.array(cuts, np.int32).reshape(-1, 3)


_NO_CUTS: Final = np.empty((0, 3), np.int32)


@cache
def _permutation(bits: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(_PERMUTATION_SEED)).permutation(bits)


@cache
def _shuffled_bytes(size: int) -> NDArray[np.uint64]:
    """For each place and each byte there, the row that it becomes when all else is zero."""
    table = np.zeros((size, 256, size), np.uint8)
    for place in range(size):
        alone = np.zeros((256, size), np.uint8)
        alone[:, place] = np.arange(256)
        table[place] = np.packbits(np.unpackbits(alone, axis=1)[:, _permutation(size * 8)], axis=1)
    return table.view("<u8").astype(np.uint64)
