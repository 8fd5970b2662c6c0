"""The loops of the search in NumPy, for where there is no compiler: the results of ``_hamming.c``, slower.

What the arguments are is told by ``app.matching.engine.Engine``, and what a directory holds by
``app.matching.hamming``.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations, pairwise
from math import comb
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_WORD_BITS: Final = 64
_POSTING_BITS: Final = 32
_GROUP_WORDS: Final = 16
_DAMAGED: Final = "the index is damaged: it points outside itself"

_ROWS_AT_ONCE: Final = 16384
_PROBES_AT_ONCE: Final = 1 << 18
_CANDIDATES_AT_ONCE: Final = 1 << 20

_PLANNED_PROBES: Final = 1 << 18
_PROBE_COST: Final = 12
"""As in ``_hamming.c``: what may be looked up for one query with bits in doubt, and what that is worth."""

_ALL_BITS: Final = (1 << _WORD_BITS) - 1

_Rows = NDArray[np.uint64]


def search(  # noqa: PLR0917 - as the compiled one takes them
    rows: _Rows,
    _words: int,
    directory: NDArray[np.uint32],
    postings: NDArray[np.uint32],
    cuts: NDArray[np.int32],
    queries: _Rows,
    doubts: _Rows,
    threshold: int,
    limit: int,
    most: int,
    number: int,
    row: int,
    /,
) -> tuple[bytes, int, int]:
    """All pairs of a query and a row within the threshold, each once: uint32 triples, by query."""
    index = _Index(rows, directory, postings, threshold)
    certain = ~doubts if len(doubts) else np.full_like(queries, _ALL_BITS)
    found: list[_Triples] = []
    room = most
    while number < len(queries) and room > 0:
        crowded = row > 0 or not len(cuts)
        if not crowded:
            probes = _planned(index, cuts, doubts[number]) if len(doubts) else _probes(cuts.tobytes())
            crowded = probes is None
            if probes is not None:
                at_once = 1 if len(doubts) else max(1, _PROBES_AT_ONCE // len(probes.masks))
                asked = slice(number, number + at_once)
                triples, number, crowded = _look_up(index, cuts, probes, queries, certain, asked, limit)
                found += triples
                room -= sum(len(some.entries) for some in triples)
        if crowded and room > 0:
            scanned, row = index.scanned(number, queries[number], certain[number], row, room)
            found.append(scanned)
            room -= len(scanned.entries)
            if row == len(rows):
                number, row = number + 1, 0
    return _triples(found), number, row


def build_band(  # noqa: PLR0917 - the same
    rows: _Rows,
    _words: int,
    start: int,
    width: int,
    next_start: int,
    next_width: int,
    directory: NDArray[np.uint32],
    postings: NDArray[np.uint32],
    /,
) -> None:
    """Fill one band's part of the directory and its postings."""
    keys = _keys(rows, start, width)
    # Sorting value and index as one number is several times as fast as an argsort.
    ordered = (keys << np.uint64(32)) | np.arange(len(rows), dtype=np.uint64)
    ordered.sort()
    indices = ordered.astype(np.uint32)
    told = hint_bits(*rows.shape)
    hints = _keys(rows, next_start, min(told, next_width))
    above = np.uint64(_POSTING_BITS - told)
    postings[:] = (hints << above).astype(np.uint32)[indices] | indices >> np.uint32(_shift(rows.shape[1]))
    directory[0] = 0
    directory[1:] = np.bincount(keys.astype(np.int64), minlength=1 << width).cumsum()


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
    directory: NDArray[np.uint32]
    postings: NDArray[np.uint32]
    threshold: int

    def scanned(self, number: int, query: _Rows, certain: _Rows, row: int, room: int) -> tuple[_Triples, int]:
        """The rows near one query from a row on, by counting every distance; and where that stopped."""
        entries, distances = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        while row < len(self.rows) and room > 0:
            counted = _distances(self.rows[row : row + _ROWS_AT_ONCE], query, certain)
            near = np.flatnonzero(counted <= self.threshold)[:room]
            entries.append(near + row)
            distances.append(counted[near].astype(np.int64))
            room -= len(near)
            row = row + len(counted) if room else row + int(near[-1]) + 1
        found = np.concatenate(entries)
        return _Triples(np.full(len(found), number, np.int64), found, np.concatenate(distances)), row


class _Probes(NamedTuple):
    """What to look up for each query: its key in ``bands[i]``, with the bits of ``masks[i]`` turned over.

    ``slots[i]`` is where that band's part of the directory begins, and ``spare[i]`` how many bits a hint may
    differ in.
    """

    bands: NDArray[np.int64]
    masks: NDArray[np.int64]
    slots: NDArray[np.int64]
    spare: NDArray[np.int64]


@lru_cache(maxsize=16)
def _probes(cuts: bytes) -> _Probes:
    bands, masks, slots, spare = [], [], [], []
    slot = 0
    planned = np.frombuffer(cuts, np.int32).reshape(-1, 3).tolist()
    for number, (_, width, radius) in enumerate(planned):
        near = _masks(width, radius)
        bands.append(np.full(len(near), number, np.int64))
        masks.append(near)
        slots.append(np.full(len(near), slot, np.int64))
        following = planned[(number + 1) % len(planned)][2]
        spare.append(radius + following + 1 - np.bitwise_count(near).astype(np.int64))
        slot += (1 << width) + 1
    return _Probes(*(np.concatenate(column) for column in (bands, masks, slots, spare)))


def _planned(index: _Index, cuts: NDArray[np.int32], doubts: _Rows) -> _Probes | None:
    """What to look up for a query of which these bits do not count; None if a scan is cheaper.

    Why the steps that are cheapest make the fewest look-ups is told at ``plan`` in ``_hamming.c``.
    """
    doubted = [int(_keys(doubts[np.newaxis], start, width)[0]) for start, width, _ in cuts.tolist()]
    widths = cuts[:, 1].tolist()
    sure = [width - some.bit_count() for width, some in zip(widths, doubted, strict=True)]
    radii = [-1] * len(doubted)
    left = min(_PLANNED_PROBES, len(index.rows) // _PROBE_COST)
    for _ in range(index.threshold + 1):
        costs = [
            comb(bits, radius + 1) << some.bit_count() if radius < bits else left + 1
            for bits, radius, some in zip(sure, radii, doubted, strict=True)
        ]
        cheapest = costs.index(min(costs))
        left -= costs[cheapest]
        if left < 0:
            return None
        radii[cheapest] += 1
    bands, masks, slots, spare = [], [], [], []
    slot = 0
    for number, width in enumerate(widths):
        near = _spread(_masks(sure[number], radii[number]), ~doubted[number], width)
        together = radii[number] + radii[(number + 1) % len(radii)] + 1
        some = _spread(np.arange(1 << doubted[number].bit_count()), doubted[number], width)
        masks.append((near[:, np.newaxis] | some).ravel())
        spare.append(np.repeat(together - np.bitwise_count(near).astype(np.int64), len(some)))
        bands.append(np.full(len(masks[-1]), number, np.int64))
        slots.append(np.full(len(masks[-1]), slot, np.int64))
        slot += (1 << width) + 1
    return _Probes(*(np.concatenate(column) for column in (bands, masks, slots, spare)))


def _spread(numbers: NDArray[np.int64], places: int, width: int) -> NDArray[np.int64]:
    """Numbers with their bits moved, the lowest first, to the places that are set, of so many."""
    spread = np.zeros_like(numbers)
    taken = 0
    for place in range(width):
        if places >> place & 1:
            spread |= (numbers >> taken & 1) << place
            taken += 1
    return spread


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


def _look_up(  # noqa: PLR0917 - one search, cut where queries have probes of their own
    index: _Index,
    cuts: NDArray[np.int32],
    probes: _Probes,
    queries: _Rows,
    certain: _Rows,
    asked: slice,
    limit: int,
) -> tuple[list[_Triples], int, bool]:
    """Search some queries by their bands, up to the first that meets crowded bands.

    Returns:
        What was found; the first query that was not searched; and whether that is a crowded one.
    """
    some, counting, first = queries[asked], certain[asked], asked.start
    keys = np.stack([_keys(some, start, width) for start, width, _ in cuts.tolist()], axis=1)
    begins, sizes = _buckets(index, probes.slots + (keys.astype(np.int64)[:, probes.bands] ^ probes.masks))
    crowded = np.flatnonzero(sizes.sum(axis=1) > limit)
    quiet = np.arange(crowded[0] if len(crowded) else len(some))
    begins += probes.bands * len(index.rows)
    hints, hinting = (
        np.stack([_hints(index, cuts, of, number) for number in range(len(cuts))], axis=1)
        for of in (some, counting)
    )
    found = [
        counted._replace(queries=counted.queries + first)
        for group in _groups(sizes[quiet].sum(axis=1), _CANDIDATES_AT_ONCE)
        for counted in [_count(index, probes, quiet[group], begins, sizes, some, counting, hints, hinting)]
    ]
    return found, first + len(quiet), len(crowded) > 0


def _hints(index: _Index, cuts: NDArray[np.int32], queries: _Rows, number: int) -> NDArray[np.uint32]:
    """What each query would have as the hint of a posting in one band."""
    start, width, _ = cuts[(number + 1) % len(cuts)].tolist()
    return _keys(queries, start, min(hint_bits(*index.rows.shape), width)).astype(np.uint32)


def _buckets(index: _Index, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the rows of buckets begin in their band's postings, and how many they are."""
    begins, ends = index.directory[slots].astype(np.int64), index.directory[slots + 1].astype(np.int64)
    if (begins > ends).any() or (ends > len(index.rows)).any():
        raise ValueError(_DAMAGED)
    return begins, ends - begins


def _count(  # noqa: PLR0917 - one search, cut where its memory is bounded
    index: _Index,
    probes: _Probes,
    asking: NDArray[np.int64],
    begins: NDArray[np.int64],
    sizes: NDArray[np.int64],
    queries: _Rows,
    certain: _Rows,
    hints: NDArray[np.uint32],
    hinting: NDArray[np.uint32],
) -> _Triples:
    """Count the distances of the rows that share a near band value with these queries, and whose hint does.

    Why no row is lost by its hint is told at ``gather`` in ``_hamming.c``.
    """
    flat = sizes[asking].ravel()
    filled = np.flatnonzero(flat)
    lengths = flat[filled]
    ends = lengths.cumsum()
    count = int(ends[-1]) if len(ends) else 0
    places = np.repeat(begins[asking].ravel()[filled] - ends + lengths, lengths) + np.arange(count)
    postings = index.postings.reshape(-1)[places]
    above = _POSTING_BITS - hint_bits(*index.rows.shape)
    shift = _shift(index.rows.shape[1])
    firsts = (postings.astype(np.int64) & ((1 << above) - 1)) << shift
    if (firsts >= len(index.rows)).any():
        raise ValueError(_DAMAGED)
    asked, probed = np.divmod(np.repeat(filled, lengths), len(probes.masks))
    asked = asking[asked]
    told = (postings.astype(np.uint64) >> np.uint64(above)).astype(np.uint32)
    bands = probes.bands[probed]
    differing = np.bitwise_count((told ^ hints[asked, bands]) & hinting[asked, bands])
    may_be_near = np.flatnonzero(differing <= probes.spare[probed])
    candidates = (firsts[may_be_near, np.newaxis] + np.arange(1 << shift)).ravel()
    asked = np.repeat(asked[may_be_near], 1 << shift)[candidates < len(index.rows)]
    candidates = candidates[candidates < len(index.rows)]
    distances = _distances(index.rows[candidates], queries[asked], certain[asked])
    near = np.flatnonzero(distances <= index.threshold)
    # A row turns up once for each band that it shares.
    pairs, first_seen = np.unique(asked[near] * len(index.rows) + candidates[near], return_index=True)
    return _Triples(
        pairs // len(index.rows), pairs % len(index.rows), distances[near][first_seen].astype(np.int64)
    )


def hint_bits(count: int, words: int) -> int:
    """How many bits of a posting are left for the hint, of so many rows of so many words."""
    return _POSTING_BITS - max(1, ((count - 1) >> _shift(words)).bit_length())


def _shift(words: int) -> int:
    """Of rows of so many words 2**shift are fetched together, and share a number in postings."""
    return (_GROUP_WORDS // words).bit_length() - 1


def _keys(rows: _Rows, start: int, width: int) -> NDArray[np.uint64]:
    """The value of one band of each row."""
    word, offset = divmod(start, _WORD_BITS)
    keys: NDArray[np.uint64] = rows[:, word] >> np.uint64(offset)
    if offset + width > _WORD_BITS:
        keys |= rows[:, word + 1] << np.uint64(_WORD_BITS - offset)
    return keys & np.uint64((1 << width) - 1)


def _distances(rows: _Rows, wanted: _Rows, certain: _Rows) -> NDArray[np.uint16]:
    """Differing bits, of those that count, of each row and a query, or of each pair of rows."""
    differing = np.bitwise_count((rows ^ wanted) & certain)
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
