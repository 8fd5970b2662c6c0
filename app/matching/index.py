"""All entries of some banks in one place, each type behind the search that fits it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from app.entries import Entries
from app.matching.columns import Banks, Ids
from app.matching.digests import DigestIndex
from app.matching.hamming import HammingIndex
from app.media import SignalType


@dataclass(frozen=True, eq=False)
class Part:
    """The entries of one type.

    Attributes:
        search: over their values.
        ids: the store's ids, in the order of ``search``.
        banks: ids of their banks.
    """

    search: HammingIndex | DigestIndex
    ids: Ids = field(repr=False)
    banks: Banks = field(repr=False)


@dataclass(frozen=True, eq=False)
class EntryIndex:
    """Entries of all types, immutable.

    Attributes:
        parts: by type; types without entries are left out.
        counts: number of entries by bank id and type.
    """

    parts: Mapping[SignalType, Part]
    counts: Mapping[tuple[int, SignalType], int]

    @classmethod
    def build(cls, chunks: Iterable[Entries]) -> Self:
        """Index entries in memory; blocking."""
        by_type: dict[SignalType, list[Entries]] = {}
        for entries in chunks:
            if len(entries):
                by_type.setdefault(entries.type, []).append(entries)
        parts = {
            of: part(
                of,
                np.concatenate([entries.values for entries in some]),
                np.concatenate([entries.ids for entries in some]),
                np.concatenate([entries.banks for entries in some]),
            )
            for of, some in by_type.items()
        }
        counts: Counter[tuple[int, SignalType]] = Counter()
        for of, built in parts.items():
            counts.update(count_by_bank(of, built.banks))
        return cls(parts, counts)

    def digests(self, of: SignalType) -> DigestIndex | None:
        """The search over digests of a type; None if there are none."""
        there = self.parts.get(of)
        return there.search if there is not None and isinstance(there.search, DigestIndex) else None

    def perceptual(self, of: SignalType) -> HammingIndex | None:
        """The search over perceptual hashes of a type; None if there are none."""
        there = self.parts.get(of)
        return there.search if there is not None and isinstance(there.search, HammingIndex) else None


def part(of: SignalType, values: NDArray[np.uint8], ids: NDArray[np.int64], banks: NDArray[np.int64]) -> Part:
    """Index the entries of one type in memory."""
    if of.is_digest:
        digests, order = DigestIndex.build(values)
        return Part(digests, Ids.of(ids[order]), Banks.of(banks[order]))
    return Part(HammingIndex.build(values), Ids.of(ids), Banks.of(banks))


def count_by_bank(of: SignalType, banks: Banks) -> dict[tuple[int, SignalType], int]:
    """How many entries each bank has, by bank id and type."""
    counts = np.bincount(banks.codes, minlength=len(banks.table))
    return {(bank, of): count for bank, count in zip(banks.table.tolist(), counts.tolist(), strict=True)}


NO_ENTRIES: Final = EntryIndex({}, {})
