"""Banks straight from list files, for a run without any state: in memory, always ready, blocking only."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Final, Self

import numpy as np

from app.banks.importing import ListFile
from app.banks.lists import ListError
from app.entries import Bank, Entries, NewSignal
from app.errors import NotReadyError
from app.matching.index import EntryIndex
from app.matching.loaded import LoadedBanks
from app.media import BankAction, BankKind, SignalType

_GENERATION: Final = 1


class ListedBanks:
    """One bank a list, of kind ``other`` and action ``block``, named after its file."""

    def __init__(self, loaded: LoadedBanks) -> None:
        self._loaded = loaded

    @classmethod
    def read(cls, lists: Sequence[ListFile]) -> Self:
        """Read lists into memory; blocking.

        Raises:
            ListError: a list cannot be read, holds no signals, has bad lines, or is refused as a whole.
        """
        banks = [
            _bank(number, name) for number, name in enumerate(_names(listed.path.stem for listed in lists), 1)
        ]
        chunks = [
            entries
            for bank, listed in zip(banks, lists, strict=True)
            for entries in _entries(bank, listed, numbers=count(1))
        ]
        index = EntryIndex.build(chunks)
        return cls(
            LoadedBanks(
                generation=_GENERATION,
                banks={bank.name: bank for bank in banks},
                indexes=(index,),
                counts=index.counts,
            )
        )

    def ready(self, names: frozenset[str] | None) -> LoadedBanks:
        """The banks of these lists.

        Raises:
            NotReadyError: there is no list, or a name is none of theirs.
        """
        lacking = self._loaded.lacking(names)
        if lacking is not None:
            raise NotReadyError(f"banks: {lacking}")
        return self._loaded


def _names(stems: Iterable[str]) -> Iterator[str]:
    """A name for each list, told apart by a number where two files have the same."""
    taken: set[str] = set()
    for stem in stems:
        candidates = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
        name = next(name for name in candidates if name not in taken)
        taken.add(name)
        yield name


def _bank(number: int, name: str) -> Bank:
    now = datetime.now(UTC)
    return Bank(
        id=number,
        name=name,
        kind=BankKind.OTHER,
        action=BankAction.BLOCK,
        thresholds={},
        no_report_reason=None,
        max_age_seconds=None,
        created_at=now,
        first_generation=_GENERATION,
        changed_at=now,
    )


def _entries(bank: Bank, listed: ListFile, numbers: Iterator[int]) -> Iterator[Entries]:
    """The entries of a list by type, each value once; their ids count up through the list."""
    listed.checked()
    seen: set[tuple[SignalType, bytes]] = set()
    for chunk in listed.chunks():
        if chunk.bad and not listed.skip_bad:
            raise ListError("the list changed while it was read")
        fresh = {(signal.type, signal.value): signal for signal in chunk.signals}
        yield from _columns(bank, [signal for key, signal in fresh.items() if key not in seen], numbers)
        seen |= fresh.keys()


def _columns(bank: Bank, signals: Sequence[NewSignal], numbers: Iterator[int]) -> Iterator[Entries]:
    for of in SignalType:
        values = [signal.value for signal in signals if signal.type is of]
        if values:
            yield Entries(
                type=of,
                ids=np.fromiter(numbers, np.int64, len(values)),
                banks=np.full(len(values), bank.id, np.int64),
                values=np.frombuffer(b"".join(values), np.uint8).reshape(len(values), of.size_bytes),
            )
