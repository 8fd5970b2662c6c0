"""Exact search by Hamming distance: every row within the threshold, never an approximation.

Multi-index hashing (Norouzi, Punjani, Fleet, 'Fast exact search in Hamming space with multi-index hashing',
2014). The bits of each row, shuffled once by a fixed permutation so that bits that go together spread out,
are cut into bands (``_permutation`` tells how: the forms of a picture look up the same lines). Each band
has a directory from its value to the rows that hold it. If a row is within T bits of a query, then for any
radii r with sum(r + 1) >= T + 1 it is within r of the query in at least one band, so looking up all band
values that near finds it, and the true distance is then counted. Bits of a query that are in doubt do not
count: of a band that has some, every value of them is looked up.

Where that would cost more than looking at every row, as in a small index or in one whose rows share a band,
every row is looked at instead. The worst case is that of a scan.

The directory of a band tells for each of its values where the rows that hold it begin in the band's postings;
one number more ends the last. Bands are so narrow that a value has some ten to twenty rows, about one line of
the cache: what a look-up costs is the lines that it fetches from memory in no order, and many values with a
row or none would cost more of them than few values with a line of rows.

A posting tells where a row is: the number of its group, as many rows as fit into two lines of the cache,
since memory gives two lines side by side as fast as one. The bits above it hold as much as fits of the row's
value in the next band, the first after the last: a hint that sets most rows aside before they are fetched
(``gather`` in ``_hamming.c`` tells why none is lost). Where the processor can, sixteen postings are looked at
in one go.

``HammingIndex.search`` is the seam; what loops behind it is compiled (``_hamming.c``) where it could be.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from math import comb, isqrt
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.errors import NotReadyError
from app.matching.engine import ENGINE, Engine
from app.matching.fallback import hint_bits
from app.media import PDQ_BITS

WORD_BITS: Final = 64
_LINE_WORDS: Final = 8

SCANNED_ROWS: Final = 8192
"""Up to this many rows a scan is as fast as any directory."""

_DIRECTORY_PER_ROW: Final = 1.2
"""Most values of bands a row, all bands together."""

# What a look-up costs, in rows of a scan: a value in the directory and its first postings, one posting more,
# and a group of rows that is fetched. Memory in no order against memory in order.
_VALUE_COST: Final = 12
_POSTING_COST: Final = 0.5
_ROW_COST: Final = 10

# A scan takes the place of a look-up that meets more postings than this part of all rows.
_CROWD: Final = 4

HITS_AT_ONCE: Final = 1 << 18
"""Hits that are held at once, where the caller does not ask for all of them: some 10 MB."""

# Queries of one call, so that whoever looks at the clock in between need not wait long.
_LOOKED_UP_AT_ONCE: Final = 64
_SCANNED_AT_ONCE: Final = 1 << 24

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
    def slots(self) -> int:
        """How many numbers its part of the directory has."""
        return (1 << self.width) + 1


@dataclass(frozen=True, eq=False)
class HammingIndex:
    """Rows of equal length and the directories of their bands.

    Attributes:
        rows: uint64, shape (n, words); shuffled by ``pack``.
        directory: uint32, shape (slots,); band after band, empty if the index is only ever scanned.
        postings: uint32, shape (bands, n); for each band, all rows in the order of its values.
    """

    rows: Rows = field(repr=False)
    directory: NDArray[np.uint32] = field(repr=False)
    postings: NDArray[np.uint32] = field(repr=False)

    @classmethod
    def build(cls, values: NDArray[np.uint8]) -> Self:
        """Index values in memory: uint8, shape (n, bytes), bytes 8, 16, 24 or 32."""
        rows = _lines(len(values), values.shape[1] // 8)
        _shuffle(values, rows)
        bands = bands_of(*rows.shape)
        directory = np.empty(directory_slots(*rows.shape), np.uint32)
        postings = np.empty((len(bands), len(rows)), np.uint32)
        begin = 0
        for number, band in enumerate(bands):
            index_band(rows, number, directory[begin : begin + band.slots], postings[number])
            begin += band.slots
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
        return Hits(*map(np.concatenate, zip(_NO_HITS, *self.pieces(queries, threshold), strict=True)))

    def pieces(
        self,
        queries: NDArray[np.uint8],
        threshold: int,
        *,
        doubts: NDArray[np.uint8] | None = None,
        most: int = HITS_AT_ONCE,
    ) -> Iterator[Hits]:
        """What ``search`` finds, in its order, some at a time: a bank may be near to a value with all it has.

        Each piece is the work of a fraction of a second, and has so many hits, or a few more.

        Args:
            queries: uint8, shape (n, bytes).
            threshold: largest distance in bits, 0 or more.
            doubts: in the shape of ``queries``, the bits of each that do not count; all do if None.
            most: hits of one piece.

        Raises:
            NotReadyError: the index is damaged.
        """
        count, words = self.rows.shape
        cuts = _cuts(count, words, threshold) if doubts is None else _uncut(count, words)
        # Without cuts every row is looked at, and neither directory nor postings are.
        directory, postings = (self.directory, self.postings) if len(cuts) else (_NOTHING, _NOTHING)
        packed = pack(queries)
        doubted = pack(doubts) if doubts is not None else _NO_DOUBTS
        at_once = _LOOKED_UP_AT_ONCE if len(cuts) else max(1, _SCANNED_AT_ONCE // max(1, count))
        for begin in range(0, len(packed), at_once):
            some = packed[begin : begin + at_once]
            number = row = 0
            while number < len(some):
                try:
                    found, number, row = engine.search(
                        self.rows,
                        words,
                        directory,
                        postings,
                        cuts,
                        some,
                        doubted[begin : begin + at_once],
                        threshold,
                        count // _CROWD,
                        most,
                        number,
                        row,
                    )
                except ValueError as error:
                    raise NotReadyError(f"banks: {error}") from None
                if not found:
                    yield _NO_HITS
                    continue
                hits = np.frombuffer(found, np.uint32).reshape(-1, 3).T.astype(np.int64)
                yield Hits(hits[0] + begin, hits[1], hits[2])


_NOTHING: Final = np.empty(0, np.uint32)
_NO_DOUBTS: Final = np.empty((0, 1), np.uint64)
_NO_HITS: Final = Hits(*np.empty((3, 0), np.int64))


def pack(values: NDArray[np.uint8]) -> Rows:
    """Values as shuffled rows of 64-bit words: uint8 (n, bytes) to uint64 (n, bytes / 8)."""
    count, size = values.shape
    rows = np.empty((count, size // 8), np.uint64)
    _shuffle(values, rows)
    return rows


def unpack(rows: Rows) -> NDArray[np.uint8]:
    """The values that rows were made from."""
    values = np.ascontiguousarray(rows).view(np.uint8)
    back = np.argsort(_permutation(values.shape[1] * 8))
    return np.packbits(np.unpackbits(values, axis=1)[:, back], axis=1)


def _shuffle(values: NDArray[np.uint8], rows: Rows) -> None:
    size = values.shape[1]
    engine.shuffle(np.ascontiguousarray(values), size // 8, _shuffled_bytes(size), rows)


def _lines(count: int, words: int) -> Rows:
    """Room for rows that begins with a line of the cache, as in a snapshot: no group lies on three."""
    room = np.empty(count * words + _LINE_WORDS, np.uint64)
    begin = -room.ctypes.data // room.itemsize % _LINE_WORDS
    return room[begin : begin + count * words].reshape(count, words)


@lru_cache(maxsize=64)
def bands_of(rows: int, words: int) -> tuple[Band, ...]:
    """The bands that so many rows of so many words are cut into; none if a scan is as good."""
    if rows <= SCANNED_ROWS:
        return ()
    bits = words * WORD_BITS
    for count in range(max(2, bits // 32), bits):
        # The wider ones apart: look-ups reach further in every other band than in those beside it.
        apart = [*range(0, count, 2), *range(1, count, 2)]
        wide = set(apart[: bits % count])
        starts = [0, *accumulate(bits // count + (band in wide) for band in range(count))]
        bands = tuple(Band(start, end - start) for start, end in pairwise(starts))
        if sum(band.slots for band in bands) <= _DIRECTORY_PER_ROW * rows:
            break
    return bands


def directory_slots(rows: int, words: int) -> int:
    """How many numbers the directory of so many rows of so many words has."""
    return sum(band.slots for band in bands_of(rows, words))


def index_band(rows: Rows, number: int, directory: NDArray[np.uint32], postings: NDArray[np.uint32]) -> None:
    """Fill one band's part of the directory, shape (slots,), and its postings, shape (rows,)."""
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
    if not bands:
        return _NO_CUTS
    hint = hint_bits(rows, words)
    shapes = [
        (min(hint, following.width), band.width)
        for band, following in zip(bands, (*bands[1:], bands[0]), strict=True)
    ]
    radii, narrowest = [-1], min(band.width for band in bands)
    while radii[-1] < narrowest and _cost(rows, *shapes[0], radii[-1], -1) < rows:
        radii.append(radii[-1] + 1)
    costs = [
        [[_cost(rows, *shape, radius, following) for following in radii] for radius in radii]
        for shape in shapes
    ]
    choices, cost = _cheapest(np.array(costs), threshold + 1)
    if cost >= rows:
        return _NO_CUTS
    cuts = [(band.start, band.width, radii[choice]) for band, choice in zip(bands, choices, strict=True)]
    return np.array(cuts, np.int32)


def _cheapest(costs: NDArray[np.float64], total: int) -> tuple[list[int], float]:
    """The cheapest choice of numbers around a ring that add up to a total, by dynamic programming.

    Args:
        costs: shape (places, numbers, numbers); what a number costs at a place, beside each at the next.
        total: what the numbers, from 0 up, have to add up to.

    Returns:
        The number of each place, and what they cost together: infinite if none add up to it.
    """
    numbers = costs.shape[1]
    # By the first number, which the last is beside; by the number of the latest place; and by the sum so far.
    least = np.full((numbers, numbers, total + 1), np.inf)
    for number in range(min(numbers, total + 1)):
        least[number, number, number] = 0
    came_from = []
    for cost in costs[:-1]:
        ways = least[:, :, np.newaxis, :] + cost[:, :, np.newaxis]
        came_from.append(ways.argmin(axis=1))
        cheapest = ways.min(axis=1)
        least = np.full_like(least, np.inf)
        for number in range(min(numbers, total + 1)):
            least[:, number, number:] = cheapest[:, number, : total + 1 - number]
    closed = least[:, :, total] + costs[-1].T
    first, latest = map(int, np.unravel_index(closed.argmin(), closed.shape))
    chosen, left = [latest], total
    for before in reversed(came_from):
        left -= chosen[-1]
        chosen.append(int(before[first, chosen[-1], left]))
    return chosen[::-1], float(closed[first, latest])


@lru_cache(maxsize=64)
def _uncut(rows: int, words: int) -> NDArray[np.int32]:
    """All bands, in the shape of ``_cuts``, their radii yet to be planned: all -1."""
    return np.array([(band.start, band.width, -1) for band in bands_of(rows, words)], np.int32).reshape(-1, 3)


_NO_CUTS: Final = np.empty((0, 3), np.int32)


@lru_cache(maxsize=4096)
def _cost(rows: int, hint_width: int, width: int, radius: int, next_radius: int) -> float:
    """What ``_hamming.c`` takes to look up one band, in rows of a scan: rows pass whose hints do."""
    held = rows / (1 << width)
    total = 0.0
    for weight in range(radius + 1):
        spare = radius + next_radius + 1 - weight
        passing = sum(comb(hint_width, bits) for bits in range(spare + 1)) / (1 << hint_width)
        total += comb(width, weight) * (_VALUE_COST + held * (_POSTING_COST + _ROW_COST * passing))
    return total


@cache
def _permutation(bits: int) -> NDArray[np.int64]:
    """Which bit of a value stands at each place of a row.

    A flip of a picture changes the sign of PDQ's coefficients in every other column or row, a negative that
    of all. So a form of it differs from another, but for what lies about the median, by all bits or none of
    each of four kinds: even or odd columns of even or odd rows. Where each kind has its bands, eight forms
    look up two values of a band, not eight, and find what the others had fetched still in the cache; so do
    the eight that are transposed.
    """
    shuffled = np.random.Generator(np.random.PCG64(_PERMUTATION_SEED)).permutation(bits)
    if bits != PDQ_BITS:
        return shuffled
    rows, columns = np.divmod(shuffled, isqrt(PDQ_BITS))
    return shuffled[np.argsort(rows % 2 * 2 + columns % 2, kind="stable")]


@cache
def _shuffled_bytes(size: int) -> NDArray[np.uint64]:
    """For each place and each byte there, the row that it becomes when all else is zero."""
    table = np.zeros((size, 256, size), np.uint8)
    for place in range(size):
        alone = np.zeros((256, size), np.uint8)
        alone[:, place] = np.arange(256)
        table[place] = np.packbits(np.unpackbits(alone, axis=1)[:, _permutation(size * 8)], axis=1)
    return table.view("<u8").astype(np.uint64)
