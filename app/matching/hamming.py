"""Exact search by Hamming distance: every row within the threshold, never an approximation.

Multi-index hashing (Norouzi, Punjani, Fleet, 'Fast exact search in Hamming space with multi-index hashing',
2014). The bits of each row, shuffled once by a fixed permutation so that bits that go together spread out,
are cut into bands. Each band has a directory from its value to the rows that hold it. If a row is within T
bits of a query, then for any radii r with sum(r + 1) >= T + 1 it is within r of the query in at least one
band, so looking up all band values that near finds it, and the true distance is then counted.

Where that would cost more than looking at every row, as in a small index or in one whose rows share a band,
every row is looked at instead. The worst case is that of a scan.

``HammingIndex.search`` is the seam behind which a faster search can stand.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import accumulate, combinations, pairwise
from math import comb
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

WORD_BITS: Final = 64

SCANNED_ROWS: Final = 8192
"""Up to this many rows a scan is as fast as any directory."""

_DIRECTORY_PER_ROW: Final = 12
"""Most directory slots a row, all bands together."""

_SCAN_CHUNK: Final = 16384
_PROBES_AT_ONCE: Final = 1 << 18
_CANDIDATES_AT_ONCE: Final = 1 << 20

# Counting one candidate costs about this many rows of a scan: memory in no order against memory in order.
_CANDIDATE_COST: Final = 6

# Any fixed number will do; snapshots depend on it.
_PERMUTATION_SEED: Final = 0x50445131

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

    @classmethod
    def none(cls) -> Self:
        """No pairs."""
        empty = np.empty(0, np.int64)
        return cls(empty, empty, empty)


@dataclass(frozen=True)
class Band:
    """A run of bits of a row.

    Attributes:
        start: first bit.
        width: number of bits, at most 32.
        base: where its part of the directory begins.
    """

    start: int
    width: int
    base: int


@dataclass(frozen=True, eq=False)
class HammingIndex:
    """Rows of equal length and the directories of their bands.

    Attributes:
        rows: uint64, shape (n, words); shuffled by ``pack``.
        directory: uint32; for each band and value, where its rows begin in ``postings``, and at the end the
            length of that; empty if the index is only ever scanned.
        postings: uint32; for each band, all indices of rows in the order of its values.
    """

    rows: Rows = field(repr=False)
    directory: NDArray[np.uint32] = field(repr=False)
    postings: NDArray[np.uint32] = field(repr=False)

    @classmethod
    def build(cls, values: NDArray[np.uint8]) -> Self:
        """Index values in memory: uint8, shape (n, bytes), bytes a multiple of 8."""
        rows = pack(values)
        bands = bands_of(*rows.shape)
        starts, postings = [], []
        for begins, order in directories(rows):
            starts.append(begins)
            postings.append(order)
        if not bands:
            return cls(rows, np.empty(0, np.uint32), np.empty(0, np.uint32))
        end = np.array([len(bands) * len(rows)], np.uint32)
        return cls(rows, np.concatenate([*starts, end]), np.concatenate(postings))

    def __len__(self) -> int:
        return len(self.rows)

    def value(self, entry: int) -> bytes:
        """The value that a row was made from."""
        return bytes(unpack(self.rows[entry : entry + 1])[0])

    def search(self, queries: NDArray[np.uint8], threshold: int) -> Hits:
        """All rows within ``threshold`` bits of each query.

        Args:
            queries: uint8, shape (n, bytes).
            threshold: largest distance in bits, 0 or more.
        """
        wanted = pack(queries)
        bands = bands_of(*self.rows.shape)
        probes = _probes(bands, len(self.rows), threshold)
        if probes is None:
            return _joined([self._scan(query, wanted, threshold) for query in range(len(wanted))])
        at_once = max(1, _PROBES_AT_ONCE // len(probes.masks))
        return _joined(
            [
                hits
                for begin in range(0, len(wanted), at_once)
                for hits in self._look_up(begin, wanted[begin : begin + at_once], probes, bands, threshold)
            ]
        )

    def _look_up(
        self, first: int, wanted: Rows, probes: "_Probes", bands: tuple[Band, ...], threshold: int
    ) -> Iterator[Hits]:
        """Search a few queries by their bands, and those that meet crowded bands by a scan."""
        keys = _all_keys(wanted, bands)
        slots = (keys[:, probes.bands] ^ probes.masks) + probes.bases
        begins = self.directory[slots].astype(np.int64)
        sizes = self.directory[slots + 1] - begins
        totals = sizes.sum(axis=1)
        crowded = totals * _CANDIDATE_COST > len(self.rows)
        for query in np.flatnonzero(crowded):
            hits = self._scan(int(query), wanted, threshold)
            yield hits._replace(queries=hits.queries + first)
        quiet = np.flatnonzero(~crowded)
        for group in _groups(totals[quiet], _CANDIDATES_AT_ONCE):
            hits = self._count(quiet[group], begins, sizes, wanted, threshold)
            yield hits._replace(queries=hits.queries + first)

    def _count(
        self,
        queries: NDArray[np.int64],
        begins: NDArray[np.int64],
        sizes: NDArray[np.int64],
        wanted: Rows,
        threshold: int,
    ) -> Hits:
        """Count the distances of all rows that share a near band value with these queries."""
        flat = sizes[queries].ravel()
        found = np.flatnonzero(flat)
        lengths = flat[found]
        ends = lengths.cumsum()
        count = int(ends[-1]) if len(ends) else 0
        places = np.repeat(begins[queries].ravel()[found] - ends + lengths, lengths) + np.arange(count)
        candidates = self.postings[places].astype(np.int64)
        asked = np.repeat(queries, sizes[queries].sum(axis=1))
        distances = _distances(self.rows[candidates], wanted[asked])
        near = np.flatnonzero(distances <= threshold)
        # A row turns up once for each band that it shares.
        pairs, first_seen = np.unique(asked[near] * len(self.rows) + candidates[near], return_index=True)
        counted: NDArray[np.uint16] = distances[near][first_seen]
        return Hits(pairs // len(self.rows), pairs % len(self.rows), counted.astype(np.int64))

    def _scan(self, query: int, wanted: Rows, threshold: int) -> Hits:
        """Count the distances of all rows to one query."""
        entries, distances = [], []
        for begin in range(0, len(self.rows), _SCAN_CHUNK):
            counted = _distances(self.rows[begin : begin + _SCAN_CHUNK], wanted[query])
            near = np.flatnonzero(counted <= threshold)
            if len(near):
                entries.append(near + begin)
                distances.append(counted[near])
        if not entries:
            return Hits.none()
        found = np.concatenate(entries)
        return Hits(np.full(len(found), query, np.int64), found, np.concatenate(distances).astype(np.int64))


def pack(values: NDArray[np.uint8]) -> Rows:
    """Values as shuffled rows of 64-bit words: uint8 (n, bytes) to uint64 (n, bytes / 8)."""
    count, size = values.shape
    table = _shuffled_bytes(size)
    rows = np.zeros((count, size // 8), np.uint64)
    for begin in range(0, count, _SCAN_CHUNK):
        some = slice(begin, begin + _SCAN_CHUNK)
        for place in range(size):
            rows[some] |= table[place].take(values[some, place], axis=0)
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
    starts = accumulate(widths, initial=0)
    bases = accumulate((1 << width for width in widths), initial=0)
    return tuple(Band(start, width, base) for start, width, base in zip(starts, widths, bases, strict=False))


def directory_length(rows: int, words: int) -> int:
    """The length of the directory of so many rows of so many words."""
    bands = bands_of(rows, words)
    return sum(1 << band.width for band in bands) + 1 if bands else 0


def directories(rows: Rows) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint32]]]:
    """For each band, in order: its part of the directory, and its part of the postings."""
    indices = np.arange(len(rows), dtype=np.uint64)
    for number, band in enumerate(bands_of(*rows.shape)):
        keys = _keys(rows, band)
        # Sorting value and index as one number is several times as fast as an argsort.
        ordered = (keys.astype(np.uint64) << np.uint64(32)) | indices
        ordered.sort()
        counts = np.bincount(keys, minlength=1 << band.width)
        begins = np.cumsum(counts) - counts + number * len(rows)
        yield begins.astype(np.uint32), ordered.astype(np.uint32)


class _Probes(NamedTuple):
    """What to look up for each query: its key in ``bands[i]``, with the bits of ``masks[i]`` turned over."""

    bands: NDArray[np.int64]
    masks: NDArray[np.int64]
    bases: NDArray[np.int64]


@lru_cache(maxsize=16)
def _probes(bands: tuple[Band, ...], rows: int, threshold: int) -> _Probes | None:
    """The cheapest look-ups that find all rows within the threshold; None if a scan is cheaper."""
    radii = [-1] * len(bands)
    limit = rows // _CANDIDATE_COST

    def cost(band: int) -> float:
        """Of raising a band's radius by one: the directory slots it adds, and the rows found there."""
        slots = comb(bands[band].width, radii[band] + 1)
        return slots * (1 + 2 * rows / (1 << bands[band].width))

    if not bands:
        return None
    spent = 0.0
    while sum(radius + 1 for radius in radii) < threshold + 1:
        cheapest = min(range(len(bands)), key=cost)
        spent += cost(cheapest)
        if spent > limit:
            return None
        radii[cheapest] += 1
    which, masks = [], []
    for number, (band, radius) in enumerate(zip(bands, radii, strict=True)):
        near = _masks(band.width, radius)
        which.append(np.full(len(near), number, np.int64))
        masks.append(near)
    numbers = np.concatenate(which)
    return _Probes(numbers, np.concatenate(masks), np.array([band.base for band in bands])[numbers])


@lru_cache(maxsize=64)
def _masks(width: int, radius: int) -> NDArray[np.int64]:
    """All numbers of ``width`` bits with at most ``radius`` set; none for a radius of -1."""
    return np.array(
        [
            sum(1 << bit for bit in bits)
            for weight in range(min(radius, width) + 1)
            for bits in combinations(range(width), weight)
        ],
        np.int64,
    )


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


def _keys(rows: Rows, band: Band) -> NDArray[np.int64]:
    """The value of one band of each row."""
    word, offset = divmod(band.start, WORD_BITS)
    keys = rows[:, word] >> np.uint64(offset)
    if offset + band.width > WORD_BITS:
        keys |= rows[:, word + 1] << np.uint64(WORD_BITS - offset)
    return (keys & np.uint64((1 << band.width) - 1)).astype(np.int64)


def _all_keys(rows: Rows, bands: tuple[Band, ...]) -> NDArray[np.int64]:
    """The values of all bands of a few rows, shape (rows, bands)."""
    words, offsets, spills, masks = _cuts(bands)
    low = rows[:, words] >> offsets
    high = rows[:, np.minimum(words + 1, rows.shape[1] - 1)] << (np.uint64(WORD_BITS - 1) & -offsets)
    return ((low | high * spills) & masks).astype(np.int64)


@lru_cache(maxsize=64)
def _cuts(
    bands: tuple[Band, ...],
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Of each band: its first word, the offset there, whether it spills into the next, and its mask."""
    words, offsets = np.divmod(np.array([band.start for band in bands], np.int64), WORD_BITS)
    widths = np.array([band.width for band in bands], np.int64)
    spills = offsets + widths > WORD_BITS
    masks = (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
    return words, offsets.astype(np.uint64), spills.astype(np.uint64), masks


def _distances(rows: Rows, wanted: Rows) -> NDArray[np.uint16]:
    """Differing bits of each row and a query, or of each pair of rows."""
    differing = np.bitwise_count(rows ^ wanted)
    # Summing a short axis is slow in NumPy; its columns one by one are not.
    total: NDArray[np.uint16] = differing[:, 0].astype(np.uint16)
    for word in range(1, differing.shape[1]):
        total += differing[:, word]
    return total


def _groups(sizes: NDArray[np.int64], limit: int) -> Iterator[slice]:
    """Runs of queries that have no more than ``limit`` candidates together, or are alone."""
    ends = np.flatnonzero(np.diff(np.cumsum(sizes) // limit)) + 1
    yield from (slice(begin, end) for begin, end in pairwise([0, *ends.tolist(), len(sizes)]) if end > begin)


def _joined(parts: list[Hits]) -> Hits:
    """All pairs of several searches, in order."""
    if len(parts) < 2:  # noqa: PLR2004 - nothing to join
        return parts[0] if parts else Hits.none()
    queries, entries, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((entries, queries))
    return Hits(queries[order], entries[order], distances[order])
