"""The loops of the search in NumPy, for where there is no compiler: the results of ``_hamming.c``, slower.

What the arguments are is told by ``app.matching.engine.Engine``, and what a directory holds by
``app.matching.hamming``.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

LINE_BYTES: Final = 64
LINE_BUCKETS: Final = 60
"""Values of a band that one line of its directory speaks for."""

_BASE_BYTES: Final = LINE_BYTES - LINE_BUCKETS
_SATURATED: Final = 255
_WORD_BITS: Final = 64
_POSTING_BITS: Final = 32

_ROWS_AT_ONCE: Final = 16384
_PROBES_AT_ONCE: Final = 1 << 18
_CANDIDATES_AT_ONCE: Final = 1 << 20

_Rows = NDArray[np.uint64]


def search(  # noqa: PLR0917 - as the compiled one takes them
    rows: _Rows,
    _words: int,
    directory: NDArray[np.uint8],
    postings: NDArray[np.uint32],
    cuts: NDArray[np.int32],
    queries: _Rows,
    threshold: int,
    limit: int,
    /,
) -> bytes:
    """All pairs of a query and a row within the threshold, each once: uint32 triples, by query."""
    index = _Index(rows, directory, postings, threshold)
    if not len(cuts):
        found = [index.scanned(number, query) for number, query in enumerate(queries)]
        return _triples(found)
    probes = _probes(cuts.tobytes())
    at_once = max(1, _PROBES_AT_ONCE // len(probes.masks))
    found = [
        triples
        for first in range(0, len(queries), at_once)
        for triples in _look_up(index, probes, cuts, queries[first : first + at_once], first, limit)
    ]
    return _triples(found)


def build_band(  # noqa: PLR0917 - the same
    rows: _Rows,
    _words: int,
    start: int,
    width: int,
    next_start: int,
    next_width: int,
    directory: NDArray[np.uint8],
    postings: NDArray[np.uint32],
    /,
) -> None:
    """Fill the lines and the postings of one band."""
    keys = _keys(rows, start, width)
    # Sorting value and index as one number is several times as fast as an argsort.
    ordered = (keys << np.uint64(32)) | np.arange(len(rows), dtype=np.uint64)
    ordered.sort()
    indices = ordered.astype(np.uint32)
    row_bits = _row_bits(len(rows))
    hints = _keys(rows, next_start, min(_POSTING_BITS - row_bits, next_width))
    postings[:] = (hints << np.uint64(row_bits)).astype(np.uint32)[indices] | indices
    buckets = len(directory) * LINE_BUCKETS
    ends = np.full(buckets + 1, len(rows), np.int64)
    ends[0] = 0
    counts = np.bincount(keys.astype(np.int64), minlength=1 << width)
    np.cumsum(counts, out=ends[1 : len(counts) + 1])
    bases = ends[:-1:LINE_BUCKETS]
    directory[:, :_BASE_BYTES] = bases.astype("<u4").view(np.uint8).reshape(-1, _BASE_BYTES)
    behind = ends[1:].reshape(-1, LINE_BUCKETS) - bases[:, np.newaxis]
    directory[:, _BASE_BYTES:] = np.minimum(behind, _SATURATED)


def shuffle(
    values: NDArray[np.uint8], _words: int, table: NDArray[np.uint64], rows: NDArray[np.uint64], /
) -> None:
    """Fill rows from values, by a table of what each byte becomes at each place."""
    rows[:] = 0
    for begin in range(0, len(values), _ROWS_AT_ONCE):
        some = slice(begin, begin + _ROWS_AT_ONCE)
        for place in range(values.shape[1]):
            rows[some] |= table[place].take(values[some, place], axis=0)


class _Triples(NamedTuple):
    """Columns of queries, rows and distances."""

    queries: NDArray[np.int64]
    entries: NDArray[np.int64]
    distances: NDArray[np.int64]


class _Index(NamedTuple):
    """What is searched, and how far."""

    rows: _Rows
    directory: NDArray[np.uint8]
    postings: NDArray[np.uint32]
    threshold: int

    def scanned(self, number: int, query: _Rows) -> _Triples:
        """All rows near one query, by counting every distance."""
        entries, distances = [], []
        for begin in range(0, len(self.rows), _ROWS_AT_ONCE):
            counted = _distances(self.rows[begin : begin + _ROWS_AT_ONCE], query)
            near = np.flatnonzero(counted <= self.threshold)
            entries.append(near + begin)
            distances.append(counted[near].astype(np.int64))
        found = np.concatenate(entries) if entries else np.empty(0, np.int64)
        return _Triples(
            np.full(len(found), number, np.int64),
            found,
            np.concatenate(distances) if distances else np.empty(0, np.int64),
        )


class _Probes(NamedTuple):
    """What to look up for each query: its key in ``bands[i]``, with the bits of ``masks[i]`` turned over.

    ``lines[i]`` is where the directory of that band begins, ``places[i]`` the number of the band.
    """

    bands: NDArray[np.int64]
    masks: NDArray[np.int64]
    lines: NDArray[np.int64]


@lru_cache(maxsize=16)
def _probes(cuts: bytes) -> _Probes:
    bands, masks, lines = [], [], []
    line = 0
    for number, (_, width, radius) in enumerate(np.frombuffer(cuts, np.int32).reshape(-1, 3).tolist()):
        near = _masks(width, radius)
        bands.append(np.full(len(near), number, np.int64))
        masks.append(near)
        lines.append(np.full(len(near), line, np.int64))
        line += -(-(1 << width) // LINE_BUCKETS) + 1
    return _Probes(np.concatenate(bands), np.concatenate(masks), np.concatenate(lines))


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


def _look_up(  # noqa: PLR0917 - one search, cut where its memory is bounded
    index: _Index, probes: _Probes, cuts: NDArray[np.int32], queries: _Rows, first: int, limit: int
) -> Iterator[_Triples]:
    """Search a few queries by their bands, and those that meet crowded bands by a scan."""
    keys = np.stack([_keys(queries, start, width) for start, width, _ in cuts.tolist()], axis=1).astype(
        np.int64
    )
    lines, slots = np.divmod(keys[:, probes.bands] ^ probes.masks, LINE_BUCKETS)
    begins, sizes = _buckets(index, lines + probes.lines, slots)
    totals = sizes.sum(axis=1)
    for query in np.flatnonzero(totals > limit).tolist():
        yield index.scanned(first + query, queries[query])
    begins += probes.bands * len(index.rows)
    quiet = np.flatnonzero(totals <= limit)
    for group in _groups(totals[quiet], _CANDIDATES_AT_ONCE):
        found = _count(index, quiet[group], begins, sizes, queries)
        yield found._replace(queries=found.queries + first)


def _buckets(
    index: _Index, lines: NDArray[np.int64], slots: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the rows of buckets begin in their band's postings, and how many they are, or a few more."""
    base_words = index.directory.view("<u4")[:, 0]
    bases = base_words[lines].astype(np.int64)
    before = index.directory[lines, _BASE_BYTES - 1 + slots].astype(np.int64)
    begins = bases + np.where(slots > 0, before, 0)
    behind = index.directory[lines, _BASE_BYTES + slots].astype(np.int64)
    ends = np.where(behind < _SATURATED, bases + behind, base_words[lines + 1].astype(np.int64))
    if (begins > ends).any() or (ends > len(index.rows)).any():
        raise ValueError("the index is damaged: it points outside itself")
    return begins, ends - begins


def _count(
    index: _Index,
    asking: NDArray[np.int64],
    begins: NDArray[np.int64],
    sizes: NDArray[np.int64],
    queries: _Rows,
) -> _Triples:
    """Count the distances of all rows that share a near band value with these queries."""
    flat = sizes[asking].ravel()
    filled = np.flatnonzero(flat)
    lengths = flat[filled]
    ends = lengths.cumsum()
    count = int(ends[-1]) if len(ends) else 0
    places = np.repeat(begins[asking].ravel()[filled] - ends + lengths, lengths) + np.arange(count)
    # What a hint would set aside is set aside by its distance.
    row_mask = (1 << _row_bits(len(index.rows))) - 1
    candidates = index.postings.reshape(-1)[places].astype(np.int64) & row_mask
    if (candidates >= len(index.rows)).any():
        raise ValueError("the index is damaged: it points outside itself")
    asked = np.repeat(asking, sizes[asking].sum(axis=1))
    distances = _distances(index.rows[candidates], queries[asked])
    near = np.flatnonzero(distances <= index.threshold)
    # A row turns up once for each band that it shares.
    pairs, first_seen = np.unique(asked[near] * len(index.rows) + candidates[near], return_index=True)
    return _Triples(
        pairs // len(index.rows), pairs % len(index.rows), distances[near][first_seen].astype(np.int64)
    )


def _row_bits(count: int) -> int:
    """How many bits of a posting the index of a row takes."""
    return max(1, (count - 1).bit_length())


def _keys(rows: _Rows, start: int, width: int) -> NDArray[np.uint64]:
    """The value of one band of each row."""
    word, offset = divmod(start, _WORD_BITS)
    keys: NDArray[np.uint64] = rows[:, word] >> np.uint64(offset)
    if offset + width > _WORD_BITS:
        keys |= rows[:, word + 1] << np.uint64(_WORD_BITS - offset)
    return keys & np.uint64((1 << width) - 1)


def _distances(rows: _Rows, wanted: _Rows) -> NDArray[np.uint16]:
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


def _triples(parts: list[_Triples]) -> bytes:
    if not parts:
        return b""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return np.stack(columns, axis=1).astype(np.uint32).tobytes()
