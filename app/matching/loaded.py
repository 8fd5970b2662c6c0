"""One immutable generation of all banks, and what it says of a medium."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import islice
from time import monotonic
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.entries import SUPPRESSING_DIGEST, Bank
from app.matching.columns import Banks
from app.matching.hamming import HammingIndex
from app.matching.index import EntryIndex
from app.media import (
    PDQ_BYTES,
    PDQ_MINIMUM_QUALITY,
    SPARE_BITS,
    Consulted,
    Digests,
    Match,
    Rendering,
    Signals,
    SignalType,
    Suppressor,
    Symmetry,
    Variant,
    tier_of,
)

MATCHES_KEPT: Final = 100
"""Matches told of one medium, beyond the nearest of each bank and type, which is always told."""

SEARCH_SECONDS: Final = 20.0
"""How long one medium is looked up. A picture takes a millisecond; what takes so long was made to."""

_SUPPRESSORS_TOLD: Final = 10

_BEST_QUALITY: Final = 100

_PLACES: Final = {symmetry: place for place, symmetry in enumerate(Symmetry)}

_EMPTY: Final[NDArray[np.int64]] = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class LoadedBanks:
    """The banks of one generation and all of their entries that are in force.

    Attributes:
        generation: up to here, all is in force.
        banks: by name, with their policies.
        indexes: the snapshot, and what was added since.
        removed: int64, ascending: ids of entries that were removed since, or are disabled.
        counts: number of entries in force by bank id and type.
        pending: generations whose entries wait for a new snapshot.
        parked: ids of entries that wait for a person.
        tolerated: ids of entries, and until when they are not to be parked.
        named_pairs: of ids: an entry of a suppression bank, and the one it may cancel although that is csam.
        search_seconds: how long one medium is looked up.
    """

    generation: int
    banks: Mapping[str, Bank]
    indexes: tuple[EntryIndex, ...]
    counts: Mapping[tuple[int, SignalType], int]
    removed: NDArray[np.int64] = field(default_factory=lambda: _EMPTY, repr=False)
    pending: frozenset[int] = frozenset()
    parked: frozenset[int] = field(default=frozenset(), repr=False)
    tolerated: Mapping[int, datetime] = field(default_factory=dict, repr=False)
    named_pairs: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)
    search_seconds: float = SEARCH_SECONDS

    def held(self, bank: Bank) -> int:
        """How many entries of a bank are in force."""
        return sum(self.counts.get((bank.id, of), 0) for of in SignalType)

    def counts_in(self, bank: Bank) -> bool:
        """Whether a bank counts: its first import is in force."""
        return bank.first_generation is not None and bank.first_generation not in self.pending

    def named(self, names: frozenset[str] | None) -> tuple[Bank, ...]:
        """The banks of these names that are asked, or all: those that count, or hold something already.

        Small changes of a bank may be in force before its first import is. They match; but what matches none
        of them is not clear for that.
        """
        return tuple(
            bank
            for name, bank in self.banks.items()
            if (names is None or name in names) and (self.counts_in(bank) or self.held(bank) > 0)
        )

    def lacking(self, names: frozenset[str] | None) -> str | None:
        """Why these banks, or all, cannot decide: for operators. None if they can."""
        unknown = sorted(names - self.banks.keys()) if names is not None else []
        if unknown:
            return f"there is no bank {unknown[0]!r}"
        deciding = self._deciding(names)
        if not deciding:
            return "no bank counts: none has had its first import"
        emptied = [bank.name for bank in deciding if not self.held(bank)]
        return f"bank {emptied[0]!r} was emptied" if emptied else None

    def consult(self, signals: Signals, names: frozenset[str] | None) -> tuple[Consulted, tuple[Match, ...]]:
        """Ask the named banks, or all, about a medium. Blocking computation, for so many seconds at most.

        If these banks cannot decide, none is said to have been consulted, and nothing can be clear. Nor can
        it if the time is up before all was asked.

        Returns:
            What was consulted; and the matches, one for each entry at its smallest distance, nearest first.
        """
        deadline = _Deadline(self.search_seconds)
        asked = self.named(names)
        deciding = self._deciding(names)
        digests = self._digest_matches(signals.digests, asked)
        # What was seen to be harmless, byte by byte, is nearer than any entry that only resembles it.
        harmless = [
            match.entry_id
            for match in digests
            if self.banks[match.bank].suppresses and match.type is SUPPRESSING_DIGEST
        ]
        found = [match for match in digests if not self.banks[match.bank].suppresses]
        all_told = True
        for of, queries in (
            (SignalType.PDQ, _pdq_queries(signals.renderings)),
            (SignalType.PHASH, _phash_queries(signals.renderings)),
        ):
            if not queries:
                continue
            matches, told = self._perceptual_matches(
                of, _Searched.of(of, queries), _Policy.of(asked), harmless, deadline
            )
            found += matches
            all_told &= told
        kept = _kept(found)
        consulted = Consulted(
            banks=len(deciding) if self.lacking(names) is None else 0,
            holds_pdq=any(
                self.counts.get((bank.id, SignalType.PDQ), 0) for bank in asked if not bank.suppresses
            ),
            all_told=all_told and len(kept) == len(found),
            in_time=not deadline.passed,
        )
        return consulted, kept

    @property
    def digest_types(self) -> frozenset[SignalType]:
        """Which digests of a medium must be known to consult these banks."""
        return frozenset(of for index in self.indexes for of in index.parts if of.is_digest)

    def holds(self, of: SignalType, names: frozenset[str] | None) -> bool:
        """Whether the named banks, or all, hold entries of a type."""
        return any(self.counts.get((bank.id, of), 0) for bank in self.named(names))

    def is_far_from(self, renderings: Sequence[Rendering], names: frozenset[str] | None) -> bool:
        """Whether no PDQ hash that a canonical look could find is near any entry. Blocking computation.

        Whatever might be near says no, removed entries and those of other banks included, and what was not
        looked up in time: then it is worth a canonical look, and ``consult``.
        """
        asked = self.named(names)
        queries = _pdq_queries(renderings)
        if not asked or not queries:
            return False
        if not all(rendering.phash or rendering.doubts for rendering in renderings):
            # Not canonical, and yet without a word of what may be wrong with it: nothing to conclude from.
            return False
        reach = max(bank.threshold(SignalType.PDQ) for bank in asked)
        # Each once: what is its own mirror image has the same hashes twice.
        doubted = {(query.value, query.doubts): None for query in queries if query.doubts}
        certain = {query.value: None for query in queries if not query.doubts}
        wanted = [
            (
                _values(value for value, _ in doubted),
                _values(doubts for _, doubts in doubted),
                reach + SPARE_BITS,
            ),
            (_values(certain), None, reach),
        ]
        deadline = _Deadline(self.search_seconds)
        for index in self.indexes:
            search = index.perceptual(SignalType.PDQ)
            if search is None:
                continue
            for values, doubts, within in wanted:
                for hits in search.pieces(values, within, doubts=doubts, most=1):
                    if len(hits.entries) or deadline.is_over():
                        return False
        return True

    def _deciding(self, names: frozenset[str] | None) -> list[Bank]:
        """The banks that a verdict rests on: those that count and do not suppress."""
        return [bank for bank in self.named(names) if self.counts_in(bank) and not bank.suppresses]

    @cached_property
    def _by_id(self) -> Mapping[int, Bank]:
        return {bank.id: bank for bank in self.banks.values()}

    def _digest_matches(self, digests: Digests, asked: Sequence[Bank]) -> list[Match]:
        """Entries of the very digests of a medium, those of suppression banks included."""
        values = {
            SignalType.MD5: digests.md5,
            SignalType.SHA1: digests.sha1,
            SignalType.SHA256: digests.sha256,
        }
        may_match = {bank.id for bank in asked}
        found = []
        for index in self.indexes:
            for of, value in values.items():
                search = index.digests(of)
                if search is None:
                    continue
                for entry in search.search(value):
                    entry_id, bank_id = int(index.parts[of].ids[entry]), int(index.parts[of].banks[entry])
                    if bank_id in may_match and not _among(np.array([entry_id]), self.removed)[0]:
                        bank = self._by_id[bank_id]
                        found.append(
                            Match(
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
                        )
        return found

    def _perceptual_matches(
        self,
        of: SignalType,
        searched: "_Searched",
        policy: "_Policy",
        harmless: Sequence[int],
        deadline: "_Deadline",
    ) -> tuple[list[Match], bool]:
        """Matches of one type, and whether these are all: searched at the largest threshold in use.

        Args:
            of: PDQ or pHash.
            searched: values of the medium.
            policy: of the banks that are asked.
            harmless: ids of entries of suppression banks that the medium is, byte by byte.
            deadline: when to stop.
        """
        found: list[_Found] = []
        suppressing: list[_Found] = []
        all_told = True
        for index in self.indexes:
            search = index.perceptual(of)
            if search is None or not searched.queries or not len(policy.ids):
                continue
            near, near_suppressing, told = self._near(of, index, search, searched, policy, deadline)
            all_told &= told
            for kept, into in ((near, found), (near_suppressing, suppressing)):
                into += [
                    _Found(
                        self._by_id[int(index.parts[of].banks[entry])],
                        int(index.parts[of].ids[entry]),
                        search.value(int(entry)),
                        int(query),
                        int(distance),
                    )
                    for query, entry, distance in zip(*kept, strict=True)
                ]
        nearer = _nearer(of, found, suppressing, searched) if suppressing else {}
        matches = []
        for each in found:
            query = searched.queries[each.query]
            suppressors = [*harmless, *nearer.get(each.entry_id, ())]
            matches.append(
                Match(
                    bank=each.bank.name,
                    kind=each.bank.kind,
                    action=each.bank.action_of(tier_of(of, each.distance)),
                    entry_id=each.entry_id,
                    type=of,
                    entry_value=each.value,
                    query_value=query.value,
                    distance=each.distance,
                    threshold=each.bank.threshold(of),
                    rendering=query.rendering,
                    variant=query.variant,
                    suppressors=self._told(suppressors, each.entry_id) if suppressors else (),
                    parked=each.entry_id in self.parked,
                )
            )
        return matches, all_told

    def _told(self, suppressors: Sequence[int], entry_id: int) -> tuple[Suppressor, ...]:
        """Some of the suppressors of an entry, those first that were named for it."""
        told = [Suppressor(each, (each, entry_id) in self.named_pairs) for each in suppressors]
        return tuple(sorted(told, key=lambda each: not each.named)[:_SUPPRESSORS_TOLD])

    def _near(  # noqa: PLR0917 - one step of ``consult``
        self,
        of: SignalType,
        index: EntryIndex,
        search: HammingIndex,
        searched: "_Searched",
        policy: "_Policy",
        deadline: "_Deadline",
    ) -> tuple["_Near", "_Near", bool]:
        """The nearest entries of one index, those of suppression banks apart; and whether these are all.

        What is near comes some at a time, and only the nearest of it is kept, so that memory stays bounded.
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
                & ~_among(part.ids[hits.entries], self.removed)
            )
            for suppresses, so_far in nearest.items():
                some = holds & (policy.suppresses[places] == suppresses)
                if not some.any():
                    continue
                nearest[suppresses], told = _nearest(
                    _Near(
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


class _Deadline:
    """When to stop."""

    def __init__(self, seconds: float) -> None:
        self._at = monotonic() + seconds
        self.passed = False

    def is_over(self) -> bool:
        """Whether the time is up; ``passed`` remembers that somebody had to stop for it."""
        self.passed = self.passed or monotonic() >= self._at
        return self.passed


class _Query(NamedTuple):
    """A value to search for, and what it is the value of."""

    value: bytes
    rendering: Rendering
    variant: Variant | None = None

    @property
    def quality(self) -> int:
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


class _Searched(NamedTuple):
    """The distinct values of one type of a medium, in columns.

    Attributes:
        values: uint8, shape (n, size of the type in bytes).
        qualities: int64, shape (n,); PDQ's, 0 to 100, and 100 for a type that asks for none.
    """

    queries: Sequence[_Query]
    values: NDArray[np.uint8]
    qualities: NDArray[np.int64]

    @classmethod
    def of(cls, of: SignalType, queries: Sequence[_Query]) -> "_Searched":
        best: dict[bytes, _Query] = {}
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


class _Found(NamedTuple):
    """An entry that is near a medium: at which of its values, and how near."""

    bank: Bank
    entry_id: int
    value: bytes
    query: int
    distance: int


class _Policy(NamedTuple):
    """Of the banks that are asked, in columns by ascending id."""

    ids: NDArray[np.int64]
    thresholds: Mapping[SignalType, NDArray[np.int64]]
    minimum_qualities: NDArray[np.int64]
    suppresses: NDArray[np.bool_]

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
            np.array([bank.minimum_quality for bank in ordered], np.int64),
            np.array([bank.suppresses for bank in ordered], np.bool_),
        )


class _Near(NamedTuple):
    """Columns of queries, entries and their distances."""

    queries: NDArray[np.int64]
    entries: NDArray[np.int64]
    distances: NDArray[np.int64]


_NOTHING_NEAR: Final = _Near(_EMPTY, _EMPTY, _EMPTY)


def _nearest(found: _Near, banks_of_entries: Banks) -> tuple[_Near, bool]:
    """Each entry once, at its smallest distance: the nearest, and each bank's; whether these are all."""
    some = _worth_sorting(found, banks_of_entries)
    entries = found.entries[some]
    order = np.lexsort((found.queries[some], found.distances[some]))
    _, first_seen = np.unique(entries[order], return_index=True)
    ordered = some[order[np.sort(first_seen)]]
    _, nearest_of_banks = np.unique(banks_of_entries[found.entries[ordered]], return_index=True)
    keep = ordered[np.union1d(np.arange(min(MATCHES_KEPT, len(ordered))), nearest_of_banks)]
    kept = _Near(found.queries[keep], found.entries[keep], found.distances[keep])
    return kept, len(keep) == len(ordered) and len(some) == len(found.entries)


def _worth_sorting(found: _Near, banks_of_entries: Banks) -> NDArray[np.int64]:
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


def _nearer(
    of: SignalType, found: Sequence[_Found], suppressing: Sequence[_Found], searched: _Searched
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


def _reach(of: SignalType, each: _Found, searched: _Searched) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How far each value of a medium is from an entry, and at which of them that matches."""
    differing = searched.values ^ np.frombuffer(each.value, np.uint8)
    distances = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
    minimum = each.bank.minimum_quality
    return distances, (distances <= each.bank.threshold(of)) & (searched.qualities >= minimum)


def _kept(found: Sequence[Match]) -> tuple[Match, ...]:
    """The nearest matches, and the nearest of each bank and type, nearest first."""
    ordered = sorted(found, key=lambda match: match.distance)
    nearest_of_banks = {(match.bank, match.type): match for match in reversed(ordered)}
    always = {id(match) for match in nearest_of_banks.values()}
    others = {id(match) for match in islice((m for m in ordered if id(m) not in always), MATCHES_KEPT)}
    return tuple(match for match in ordered if id(match) in always or id(match) in others)


def _pdq_queries(renderings: Sequence[Rendering]) -> list[_Query]:
    """All hashes with enough structure for PDQ to speak: the pictures as they stand, then their variants."""
    plain = [_Query(rendering.pdq, rendering) for rendering in renderings]
    varied = [
        _Query(variant.pdq, rendering, variant) for rendering in renderings for variant in rendering.variants
    ]
    return [query for query in (*plain, *varied) if query.quality >= PDQ_MINIMUM_QUALITY]


def _phash_queries(renderings: Sequence[Rendering]) -> list[_Query]:
    return [_Query(rendering.phash, rendering) for rendering in renderings]


def _values(hashes: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, PDQ_BYTES)


def _among(ids: NDArray[np.int64], ordered: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the ids are in an ascending array."""
    if not len(ordered):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
    return np.asarray(ordered[places] == ids)
