"""One immutable generation of all banks, and what it says of a medium."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.entries import Bank
from app.matching.columns import Banks
from app.matching.hamming import HammingIndex
from app.matching.index import EntryIndex
from app.media import (
    PDQ_MINIMUM_QUALITY,
    Consulted,
    Match,
    Rendering,
    Signals,
    SignalType,
    Variant,
)

MATCHES_KEPT: Final = 100
"""Matches told of one medium, beyond the nearest of each bank and type, which is always told."""

# An adversarial bank can answer every query with all that it holds: only so many such answers at once.
_QUERIES_AT_ONCE: Final = 8

_EMPTY: Final[NDArray[np.int64]] = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class LoadedBanks:
    """The banks of one generation and all of their entries that are in force.

    Attributes:
        generation: up to here, all is in force.
        banks: by name, with their policies.
        indexes: the snapshot, and what was added since.
        removed: int64, ascending: ids of entries that were removed since.
        counts: number of entries in force by bank id and type.
        pending: generations whose entries wait for a new snapshot.
    """

    generation: int
    banks: Mapping[str, Bank]
    indexes: tuple[EntryIndex, ...]
    counts: Mapping[tuple[int, SignalType], int]
    removed: NDArray[np.int64] = field(default_factory=lambda: _EMPTY, repr=False)
    pending: frozenset[int] = frozenset()

    def held(self, bank: Bank) -> int:
        """How many entries of a bank are in force."""
        return sum(self.counts.get((bank.id, of), 0) for of in SignalType)

    def counts_in(self, bank: Bank) -> bool:
        """Whether a bank counts: its first import is in force."""
        if bank.first_generation is None:
            return False
        return bank.first_generation not in self.pending or self.held(bank) > 0

    def named(self, names: frozenset[str] | None) -> tuple[Bank, ...]:
        """The banks of these names that count, or all that count."""
        return tuple(
            bank
            for name, bank in self.banks.items()
            if (names is None or name in names) and self.counts_in(bank)
        )

    def lacking(self, names: frozenset[str] | None) -> str | None:
        """Why these banks, or all, cannot decide: for operators. None if they can."""
        unknown = sorted(names - self.banks.keys()) if names is not None else []
        if unknown:
            return f"there is no bank {unknown[0]!r}"
        asked = self.named(names)
        if not asked:
            return "no bank counts: none has had its first import"
        emptied = [bank.name for bank in asked if not self.held(bank)]
        return f"bank {emptied[0]!r} was emptied" if emptied else None

    def consult(self, signals: Signals, names: frozenset[str] | None) -> tuple[Consulted, tuple[Match, ...]]:
        """Ask the named banks, or all, about a medium. Blocking, pure computation.

        If these banks cannot decide, none is said to have been consulted, and nothing can be clear.

        Returns:
            What was consulted; and the matches, one for each entry at its smallest distance, nearest first.
        """
        asked = self.named(names)
        policy = _Policy.of(asked)
        found = [
            *self._digest_matches(signals, asked),
            *self._perceptual_matches(SignalType.PDQ, _pdq_queries(signals.renderings), policy),
            *self._perceptual_matches(SignalType.PHASH, _phash_queries(signals.renderings), policy),
        ]
        consulted = Consulted(
            banks=len(asked) if self.lacking(names) is None else 0,
            holds_pdq=any(self.counts.get((bank.id, SignalType.PDQ), 0) for bank in asked),
        )
        return consulted, _kept(found)

    @cached_property
    def _by_id(self) -> Mapping[int, Bank]:
        return {bank.id: bank for bank in self.banks.values()}

    def _digest_matches(self, signals: Signals, asked: Sequence[Bank]) -> Iterator[Match]:
        values = {
            SignalType.MD5: signals.digests.md5,
            SignalType.SHA1: signals.digests.sha1,
            SignalType.SHA256: signals.digests.sha256,
        }
        may_match = {bank.id for bank in asked}
        for index in self.indexes:
            for of, value in values.items():
                digests = index.digests(of)
                if digests is None:
                    continue
                for entry in digests.search(value):
                    entry_id, bank_id = int(index.parts[of].ids[entry]), int(index.parts[of].banks[entry])
                    if bank_id in may_match and not _among(np.array([entry_id]), self.removed)[0]:
                        bank = self._by_id[bank_id]
                        yield Match(
                            bank=bank.name,
                            kind=bank.kind,
                            action=bank.action,
                            entry_id=entry_id,
                            type=of,
                            entry_value=value,
                            query_value=value,
                            distance=0,
                            threshold=0,
                        )

    def _perceptual_matches(
        self, of: SignalType, queries: Sequence["_Query"], policy: "_Policy"
    ) -> Iterator[Match]:
        """Matches of one type: searched at the largest threshold in use, held against each bank's own."""
        first_of = {query.value: query for query in reversed(queries)}
        values = list(first_of)
        for index in self.indexes:
            search = index.perceptual(of)
            if search is None or not values or not len(policy.ids):
                continue
            near = self._near(of, index, search, np.frombuffer(b"".join(values), np.uint8), policy)
            for query, entry, distance in zip(*near, strict=True):
                bank = self._by_id[int(index.parts[of].banks[entry])]
                yield Match(
                    bank=bank.name,
                    kind=bank.kind,
                    action=bank.action,
                    entry_id=int(index.parts[of].ids[entry]),
                    type=of,
                    entry_value=search.value(int(entry)),
                    query_value=values[int(query)],
                    distance=int(distance),
                    threshold=bank.threshold(of),
                    rendering=first_of[values[int(query)]].rendering,
                    variant=first_of[values[int(query)]].variant,
                )

    def _near(
        self,
        of: SignalType,
        index: EntryIndex,
        search: HammingIndex,
        flat_values: NDArray[np.uint8],
        policy: "_Policy",
    ) -> "_Near":
        """The nearest entries of one index, a few queries at a time so that memory stays bounded."""
        part = index.parts[of]
        queries = flat_values.reshape(-1, of.size_bytes)
        thresholds = policy.thresholds[of]
        widest = int(thresholds.max())
        nearest = _Near(_EMPTY, _EMPTY, _EMPTY)
        for begin in range(0, len(queries), _QUERIES_AT_ONCE):
            hits = search.search(queries[begin : begin + _QUERIES_AT_ONCE], widest)
            if not len(hits.entries):
                continue
            banks = part.banks[hits.entries]
            places = np.minimum(np.searchsorted(policy.ids, banks), len(policy.ids) - 1)
            holds = (
                (policy.ids[places] == banks)
                & (hits.distances <= thresholds[places])
                & ~_among(part.ids[hits.entries], self.removed)
            )
            nearest = _nearest(
                _Near(
                    np.concatenate([nearest.queries, hits.queries[holds] + begin]),
                    np.concatenate([nearest.entries, hits.entries[holds]]),
                    np.concatenate([nearest.distances, hits.distances[holds]]),
                ),
                part.banks,
            )
        return nearest


class _Query(NamedTuple):
    """A value to search for, and what it is the value of."""

    value: bytes
    rendering: Rendering
    variant: Variant | None


class _Policy(NamedTuple):
    """Of the banks that are asked: their ids, ascending, and their thresholds by type."""

    ids: NDArray[np.int64]
    thresholds: Mapping[SignalType, NDArray[np.int64]]

    @classmethod
    def of(cls, asked: Sequence[Bank]) -> "_Policy":
        ordered = sorted(asked, key=lambda bank: bank.id)
        return cls(
            np.array([bank.id for bank in ordered], np.int64),
            {
                of: np.array([bank.threshold(of) for bank in ordered], np.int64)
                for of in SignalType
                if not of.is_digest
            },
        )


class _Near(NamedTuple):
    """Columns of queries, entries and their distances."""

    queries: NDArray[np.int64]
    entries: NDArray[np.int64]
    distances: NDArray[np.int64]


def _nearest(found: _Near, banks_of_entries: Banks) -> _Near:
    """Each entry once, at its smallest distance; the nearest ones, and the nearest of each bank."""
    order = np.lexsort((found.queries, found.distances))
    _, first_seen = np.unique(found.entries[order], return_index=True)
    ordered = order[np.sort(first_seen)]
    _, nearest_of_banks = np.unique(banks_of_entries[found.entries[ordered]], return_index=True)
    keep = ordered[np.union1d(np.arange(min(MATCHES_KEPT, len(ordered))), nearest_of_banks)]
    return _Near(found.queries[keep], found.entries[keep], found.distances[keep])


def _kept(found: Sequence[Match]) -> tuple[Match, ...]:
    """The nearest matches, and the nearest of each bank and type, nearest first."""
    ordered = sorted(found, key=lambda match: match.distance)
    nearest_of_banks = {(match.bank, match.type): match for match in reversed(ordered)}
    always = {id(match) for match in nearest_of_banks.values()}
    others = {id(match) for match in islice((m for m in ordered if id(m) not in always), MATCHES_KEPT)}
    return tuple(match for match in ordered if id(match) in always or id(match) in others)


def _pdq_queries(renderings: Sequence[Rendering]) -> list["_Query"]:
    """All hashes with enough structure for PDQ to speak: the pictures as they stand, then their variants."""
    plain = [_Query(rendering.pdq, rendering, None) for rendering in renderings]
    varied = [
        _Query(variant.pdq, rendering, variant) for rendering in renderings for variant in rendering.variants
    ]
    return [
        query
        for query in (*plain, *varied)
        if (query.variant or query.rendering).quality >= PDQ_MINIMUM_QUALITY
    ]


def _phash_queries(renderings: Sequence[Rendering]) -> list["_Query"]:
    return [_Query(rendering.phash, rendering, None) for rendering in renderings]


def _among(ids: NDArray[np.int64], ordered: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the ids are in an ascending array."""
    if not len(ordered):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
    return np.asarray(ordered[places] == ids)
