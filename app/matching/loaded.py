"""One immutable generation of all banks, and what it says of a medium."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.entries import SUPPRESSING_DIGEST, Bank
from app.matching import near
from app.matching.index import EntryIndex
from app.media import (
    PDQ_BYTES,
    SPARE_BITS,
    Consulted,
    Digests,
    Match,
    Rendering,
    Signals,
    SignalType,
    Suppressor,
    tier_of,
)

SEARCH_SECONDS: Final = 20.0
"""How long one medium is looked up. A picture takes a millisecond; what takes so long was made to."""

_SUPPRESSORS_TOLD: Final = 10


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
    removed: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
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
        """Why these banks, or all, cannot decide, and what mends that: for operators. None if they can."""
        unknown = sorted(names - self.banks.keys()) if names is not None else []
        if unknown:
            return f"there is no bank {unknown[0]!r}, which the profile names: make it, or name others there"
        deciding = self._deciding(names)
        if not deciding:
            return "no bank counts: none has had its first import ('cordon bank import')"
        emptied = [bank.name for bank in deciding if not self.held(bank)]
        return f"bank {emptied[0]!r} was emptied: fill it, or delete it" if emptied else None

    def consult(self, signals: Signals, names: frozenset[str] | None) -> tuple[Consulted, tuple[Match, ...]]:
        """Ask the named banks, or all, about a medium. Blocking computation, for so many seconds at most.

        If these banks cannot decide, none is said to have been consulted, and nothing can be clear. Nor can
        it if the time is up before all was asked.

        Returns:
            What was consulted; and the matches, one for each entry at its smallest distance, nearest first.
        """
        deadline = near.Deadline(self.search_seconds)
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
            (SignalType.PDQ, near.pdq_queries(signals.renderings)),
            (SignalType.PHASH, near.phash_queries(signals.renderings)),
        ):
            if not queries:
                continue
            matches, told = self._perceptual_matches(
                of, near.Searched.of(of, queries), near.Policy.of(asked), harmless, deadline
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
        queries = near.pdq_queries(renderings)
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
        deadline = near.Deadline(self.search_seconds)
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
                    if bank_id in may_match and not near.among(np.array([entry_id]), self.removed)[0]:
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
        searched: near.Searched,
        policy: near.Policy,
        harmless: Sequence[int],
        deadline: near.Deadline,
    ) -> tuple[list[Match], bool]:
        """Matches of one type, and whether these are all: searched at the largest threshold in use.

        Args:
            of: PDQ or pHash.
            searched: values of the medium.
            policy: of the banks that are asked.
            harmless: ids of entries of suppression banks that the medium is, byte by byte.
            deadline: when to stop.
        """
        found: list[near.Found] = []
        suppressing: list[near.Found] = []
        all_told = True
        for index in self.indexes:
            search = index.perceptual(of)
            if search is None or not searched.queries or not len(policy.ids):
                continue
            close, close_suppressors, told = near.find(
                of, index, search, searched, policy, self.removed, deadline
            )
            all_told &= told
            for kept, into in ((close, found), (close_suppressors, suppressing)):
                into += [
                    near.Found(
                        self._by_id[int(index.parts[of].banks[entry])],
                        int(index.parts[of].ids[entry]),
                        search.value(int(entry)),
                        int(query),
                        int(distance),
                    )
                    for query, entry, distance in zip(*kept, strict=True)
                ]
        nearer = near.nearer(of, found, suppressing, searched) if suppressing else {}
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


def _kept(found: Sequence[Match]) -> tuple[Match, ...]:
    """The nearest matches, and the nearest of each bank and type, nearest first."""
    ordered = sorted(found, key=lambda match: match.distance)
    nearest_of_banks = {(match.bank, match.type): match for match in reversed(ordered)}
    always = {id(match) for match in nearest_of_banks.values()}
    others = {id(match) for match in islice((m for m in ordered if id(m) not in always), near.MATCHES_KEPT)}
    return tuple(match for match in ordered if id(match) in always or id(match) in others)


def _values(hashes: Iterable[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, PDQ_BYTES)
