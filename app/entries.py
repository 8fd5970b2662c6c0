"""Banks and their entries, as the store, the index and the import speak of them.

Entries travel as columns, a chunk at a time: millions of them pass through on the way to an index. Their
values are masked in ``repr``, like all fingerprints (promise 6).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.media import (
    DEFAULT_THRESHOLDS,
    DIGEST_TYPES,
    PDQ_MINIMUM_QUALITY,
    PDQ_STRONG_DISTANCE,
    BankAction,
    BankKind,
    SignalType,
    Tier,
)

SUPPRESSION_THRESHOLDS: Final = {SignalType.PDQ: PDQ_STRONG_DISTANCE, SignalType.PHASH: 2}
"""In bits: what cancels a match has to be closer than what makes one."""

SUPPRESSING_DIGEST: Final = SignalType.SHA256
"""The one digest that may cancel: of the others, two files of one value can be made."""

UNSUPPRESSING: Final = DIGEST_TYPES - {SUPPRESSING_DIGEST}

PLAIN_TEXT_PATTERN: Final = r"^[^\u0000-\u001f\u007f-\u009f]*$"
"""What notes and reasons may hold, as a JSON Schema says it: no control character."""

_NOT_PLAIN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def is_plain_text(untrusted: str) -> bool:
    """Whether a text has no control character and no half of one beyond 16 bits."""
    return _NOT_PLAIN.search(untrusted) is None


@dataclass(frozen=True)
class Bank:
    """A bank and its policy.

    Attributes:
        id: of the store; never that of an earlier bank.
        action: on a match, unless its tier has another.
        thresholds: in bits, where they differ from the defaults.
        no_report_reason: why a csam bank only blocks.
        max_age_seconds: how old its last import may be; only for banks that an exchange feeds.
        first_generation: that of its first import; None before it.
        changed_at: when it was last imported into.
        tier_actions: on a match of a tier, where it differs from ``action``.
        minimum_quality: PDQ matches of pictures below it, 0 to 100, do not count here.
    """

    id: int
    name: str
    kind: BankKind
    action: BankAction
    thresholds: Mapping[SignalType, int]
    no_report_reason: str | None
    max_age_seconds: int | None
    created_at: datetime
    first_generation: int | None
    changed_at: datetime | None
    tier_actions: Mapping[Tier, BankAction] = field(default_factory=dict)
    minimum_quality: int = PDQ_MINIMUM_QUALITY

    @property
    def suppresses(self) -> bool:
        """Whether it cancels matches of other banks, and makes none itself."""
        return self.action is BankAction.SUPPRESS

    def threshold(self, of: SignalType) -> int:
        """The largest Hamming distance in bits that still matches; 0 for digests."""
        defaults = SUPPRESSION_THRESHOLDS if self.suppresses else DEFAULT_THRESHOLDS
        return self.thresholds.get(of, defaults.get(of, 0))

    def action_of(self, tier: Tier | None) -> BankAction:
        """What it does on a match of a tier; None is a digest."""
        return self.action if tier is None else self.tier_actions.get(tier, self.action)


class Origin(NamedTuple):
    """What a source says of a signal. What is None here is as the import as a whole says it, if it does.

    Attributes:
        source: who gave it.
        reference: its id there.
        classification: what it is, in the source's terms, like ``A1``.
        restrictions: what it may be used for, and by whom.
        listed_at: when the source listed it, as an RFC 3339 date or moment.
    """

    source: str | None = None
    reference: str | None = None
    classification: str | None = None
    restrictions: str | None = None
    listed_at: str | None = None

    def __repr__(self) -> str:
        return "<Origin>"


class NewSignal(NamedTuple):
    """A checked signal on its way into a bank, or out of it; ``value`` is raw.

    Attributes:
        origin: where it comes from, if its line tells; None if that is the same for the whole import.
    """

    type: SignalType
    value: bytes
    note: str | None = None
    origin: Origin | None = None

    def __repr__(self) -> str:
        return f"<NewSignal {self.type.value}>"


@dataclass(frozen=True, eq=False)
class Entries:
    """Columns of entries of one type.

    Attributes:
        ids: int64, shape (n,); the store's.
        banks: int64, shape (n,); ids of the banks.
        values: uint8, shape (n, size of the type in bytes).
    """

    type: SignalType
    ids: NDArray[np.int64] = field(repr=False)
    banks: NDArray[np.int64] = field(repr=False)
    values: NDArray[np.uint8] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Head:
    """How far the banks in the store have come.

    Attributes:
        generation: the newest.
        nonce: what tells it from the same number in another history; empty before the first.
        pruned_generation: removals up to here can no longer be read.
        known: whether the generation that was asked about is part of this history.
        touched: how many entries were added or removed since it.
    """

    generation: int
    nonce: bytes = field(repr=False)
    pruned_generation: int
    known: bool
    touched: int


@dataclass(frozen=True, eq=False)
class Changes:
    """All banks, and what became of their entries since an earlier generation.

    Attributes:
        generation: the newest, which all of this is of.
        added: entries of small changes, still there.
        removed: int64, shape (n,); ids of removed entries.
        removed_counts: how many of the removed were there at the earlier generation, by bank id and type.
        pending: generations whose entries are too many to be read as changes; ascending.
        disabled: int64, shape (n,), ascending; ids of all entries that are disabled now.
        disabled_counts: how many of them are neither removed nor pending, by bank id and type.
        parked: ids of the entries that wait for a person.
        tolerated: ids of those that a person released, and until when they are not to be parked again.
        named: pairs of ids: an entry of a suppression bank, and the one it may cancel although that is csam.
    """

    generation: int
    banks: tuple[Bank, ...]
    added: tuple[Entries, ...]
    removed: NDArray[np.int64] = field(repr=False)
    removed_counts: Mapping[tuple[int, SignalType], int]
    pending: tuple[int, ...]
    disabled: NDArray[np.int64] = field(repr=False, default_factory=lambda: np.empty(0, np.int64))
    disabled_counts: Mapping[tuple[int, SignalType], int] = field(default_factory=dict)
    parked: frozenset[int] = frozenset()
    tolerated: Mapping[int, datetime] = field(default_factory=dict)
    named: frozenset[tuple[int, int]] = frozenset()
