"""What of an index is near a medium: which entries, at which of its values, and which harmless one is nearer.

Columns are NumPy arrays of one length, int64 unless said otherwise: places of queries among the values of a
medium, places of entries in their index, and Hamming distances in bits.
"""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from app.entries import Bank
from app.matching.columns import Banks
from app.matching.hamming import HammingIndex
from app.matching.index import EntryIndex
from app.media import (
    PDQ_BYTES,
    PDQ_MINIMUM_QUALITY,
    Rendering,
    SignalType,
    Symmetry,
    Variant,
)

MATCHES_KEPT: Final = 100
"""Matches told of one medium, beyond the nearest of each bank and type, which is always told."""

_BEST_QUALITY: Final = 100
_PLACES: Final = {symmetry: place for place, symmetry in enumerate(Symmetry)}
_EMPTY: Final[NDArray[np.int64]] = np.empty(0, np.int64)


class Deadline:
    """When to stop."""

    def __init__(self, seconds: float) -> None:
        self._at = monotonic() + seconds
        self.passed = False

    def is_over(self) -> bool:
        """Whether the time is up; ``passed`` remembers that somebody had to stop for it."""
        self.passed = self.passed or monotonic() >= self._at
        return self.passed


class Query(NamedTuple):
    """A value to search for, and what it is the value of."""

    value: bytes
    rendering: Rendering
    variant: Variant | None = None

    @property
    def quality(self) -> int:
        """PDQ's, 0 to 100, of the picture or the part that it is the hash of."""
        return (self.variant or self.rendering).quality

    @property
    def doubts(self) -> bytes:
        """Which bits of the hash of a whole picture are in doubt; a part is found alike in both looks."""
        if self.variant is None:
            return self.rendering.doubts[:PDQ_BYTES]
        if self.variant.region is not None:
            return b""
        begin = _PLACES[self.variant.symmetry] * PDQ_BYTES
        return self.rendering.doubts[begin : begin + PDQ_BYTES]


class Searched(NamedTuple):
    """The distinct values of one type of a medium, in columns.

    Attributes:
        values: uint8, shape (n, size of the type in bytes).
        qualities: int64, shape (n,); PDQ's, 0 to 100, and 100 for a type that asks for none.
    """

    queries: Sequence[Query]
    values: NDArray[np.uint8]
    qualities: NDArray[np.int64]

    @classmethod
    def of(cls, of: SignalType, queries: Sequence[Query]) -> Self:
        """Each value once, for the query of the best quality that has it."""
        best: dict[bytes, Query] = {}
        for query in queries:
            there = best.get(query.value)
            if there is None or there.quality < query.quality:
                best[query.value] = query
        distinct = list(best.values())
        asks = of is SignalType.PDQ
        return cls(
            distinct,
            np.frombuffer(b"".join(best), np.uint8).reshape(-1, of.size_bytes),
            np.array([query.quality if asks else _BEST_QUALITY for query in distinct], np.int64),
        )


class Found(NamedTuple):
    """An entry that is near a medium: at which of its values, and how near."""

    bank: Bank
    entry_id: int
    value: bytes
    query: int
    distance: int


class Policy(NamedTuple):
    """Of the banks that are asked, in columns by ascending id.

    Attributes:
        thresholds: in bits, by type.
        minimum_qualities: of a PDQ match, 0 to 100.
        suppresses: bool; whether the bank is one of suppression.
    """

    ids: NDArray[np.int64]
    thresholds: Mapping[SignalType, NDArray[np.int64]]
    minimum_qualities: NDArray[np.int64]
    suppresses: NDArray[np.bool_]

    @classmethod
    def of(cls, asked: Sequence[Bank]) -> Self:
        """Of these banks, those that suppress among them."""
        ordered = sorted(asked, key=lambda bank: bank.id)
        return cls(
            np.array([bank.id for bank in ordered], np.int64),
            {
                of: np.array([bank.threshold(of) for bank in ordered], np.int64)
                for of in SignalType
                if not of.is_digest
            },
            np.array([bank.minimum_quality for bank in ordered], np.int64),
            np.array([bank.suppresses for bank in ordered], np.bool_),
        )


class Near(NamedTuple):
    """Columns of queries, entries and their distances."""

    queries: NDArray[np.int64]
    entries: NDArray[np.int64]
    distances: NDArray[np.int64]


_NOTHING_NEAR: Final = Near(_EMPTY, _EMPTY, _EMPTY)


def pdq_queries(renderings: Sequence[Rendering]) -> list[Query]:
    """All hashes with enough structure for PDQ to speak: the pictures as they stand, then their variants."""
    plain = [Query(rendering.pdq, rendering) for rendering in renderings]
    varied = [
        Query(variant.pdq, rendering, variant) for rendering in renderings for variant in rendering.variants
    ]
    return [query for query in (*plain, *varied) if query.quality >= PDQ_MINIMUM_QUALITY]


def phash_queries(renderings: Sequence[Rendering]) -> list[Query]:
    """The pHash of each picture as it stands: it has no variants, and asks for no quality."""
    return [Query(rendering.phash, rendering) for rendering in renderings]


def find(  # noqa: PLR0917 - one step of ``LoadedBanks.consult``
    of: SignalType,
    index: EntryIndex,
    search: HammingIndex,
    searched: Searched,
    policy: Policy,
    removed: NDArray[np.int64],
    deadline: Deadline,
) -> tuple[Near, Near, bool]:
    """The nearest entries of one index, those of suppression banks apart; and whether these are all.

    What is near comes some at a time, and only the nearest of it is kept, so that memory stays bounded.

    Args:
        of: PDQ or pHash.
        index: where the entries are.
        search: of this type in the index.
        searched: values of the medium.
        policy: of the banks that are asked.
        removed: ids of entries that are gone or disabled, ascending.
        deadline: when to stop; then what was found so far is given, and is not all.
    """
    part = index.parts[of]
    thresholds = policy.thresholds[of]
    nearest = {False: _NOTHING_NEAR, True: _NOTHING_NEAR}
    all_told = True
    for hits in search.pieces(searched.values, int(thresholds.max())):
        banks = part.banks[hits.entries]
        places = np.minimum(np.searchsorted(policy.ids, banks), len(policy.ids) - 1)
        holds = (
            (policy.ids[places] == banks)
            & (hits.distances <= thresholds[places])
            & (searched.qualities[hits.queries] >= policy.minimum_qualities[places])
            & ~among(part.ids[hits.entries], removed)
        )
        for suppresses, so_far in nearest.items():
            some = holds & (policy.suppresses[places] == suppresses)
            if not some.any():
                continue
            nearest[suppresses], told = _nearest(
                Near(
                    np.concatenate([so_far.queries, hits.queries[some]]),
                    np.concatenate([so_far.entries, hits.entries[some]]),
                    np.concatenate([so_far.distances, hits.distances[some]]),
                ),
                part.banks,
            )
            # A suppressor that is left out cancels nothing, so only matches have to be told.
            all_told &= told or suppresses
        if deadline.is_over():
            return nearest[False], nearest[True], False
    return nearest[False], nearest[True], all_told


def nearer(
    of: SignalType, found: Sequence[Found], suppressing: Sequence[Found], searched: Searched
) -> dict[int, list[int]]:
    """For entries that matched: ids of the suppression entries that are nearer wherever they matched.

    A medium has many values, as of its frames. An entry that matched at one that no suppression entry is
    nearer to is not outdone there, whatever holds of the others.
    """
    ranges = [(each, *_reach(of, each, searched)) for each in suppressing]
    nearer: dict[int, list[int]] = {}
    for each in found:
        distances, matched = _reach(of, each, searched)
        outdone_by = [
            suppressor.entry_id
            for suppressor, theirs, reached in ranges
            if matched.any() and np.all((reached & (theirs < distances))[matched])
        ]
        if outdone_by:
            nearer[each.entry_id] = outdone_by
    return nearer


def among(ids: NDArray[np.int64], ordered: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the ids are in an ascending array."""
    if not len(ordered):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
    return np.asarray(ordered[places] == ids)


def _nearest(found: Near, banks_of_entries: Banks) -> tuple[Near, bool]:
    """Each entry once, at its smallest distance: the nearest, and each bank's; whether these are all."""
    some = _worth_sorting(found, banks_of_entries)
    entries = found.entries[some]
    order = np.lexsort((found.queries[some], found.distances[some]))
    _, first_seen = np.unique(entries[order], return_index=True)
    ordered = some[order[np.sort(first_seen)]]
    _, nearest_of_banks = np.unique(banks_of_entries[found.entries[ordered]], return_index=True)
    keep = ordered[np.union1d(np.arange(min(MATCHES_KEPT, len(ordered))), nearest_of_banks)]
    kept = Near(found.queries[keep], found.entries[keep], found.distances[keep])
    return kept, len(keep) == len(ordered) and len(some) == len(found.entries)


def _worth_sorting(found: Near, banks_of_entries: Banks) -> NDArray[np.int64]:
    """Which of very many, by query within each distance, can be the nearest or that of a bank; else all.

    An entry stands there once for each query at most. So among so many as are kept, times the queries, there
    are as many entries as are kept.
    """
    places = np.arange(len(found.entries))
    queries = int(np.ptp(found.queries)) + 1 if len(places) else 1
    most = (MATCHES_KEPT + len(banks_of_entries.table)) * queries
    if len(places) <= most:
        return places
    furthest = int(np.searchsorted(np.bincount(found.distances).cumsum(), most))
    nearest = np.flatnonzero(found.distances < furthest)
    some = np.flatnonzero(found.distances == furthest)[: most - len(nearest)]
    codes = banks_of_entries.codes[found.entries].astype(np.int64)
    # The first of each bank at its smallest distance, in one number.
    firsts = np.full(len(banks_of_entries.table), np.iinfo(np.int64).max)
    np.minimum.at(firsts, codes, found.distances * len(places) + places)
    of_banks = firsts[firsts < np.iinfo(np.int64).max] % len(places)
    return np.unique(np.concatenate([nearest, some, of_banks]))


def _reach(of: SignalType, each: Found, searched: Searched) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How far each value of a medium is from an entry, and at which of them that matches."""
    differing = searched.values ^ np.frombuffer(each.value, np.uint8)
    distances = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
    minimum = each.bank.minimum_quality
    return distances, (distances <= each.bank.threshold(of)) & (searched.qualities >= minimum)
