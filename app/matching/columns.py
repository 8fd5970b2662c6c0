"""What is told of each entry beside its value, in few bytes: an id, and a bank.

Ids of entries were given out one after another, and there are few banks: four bytes and one are enough for
nearly every index. Both columns are read like the arrays that they stand for.
"""

from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

WIDE: Final = "<u8"
"""The dtype that holds any offset."""

_OFFSET_KINDS: Final = ("<u4", WIDE)
_CODE_KINDS: Final = ("|u1", "<u2", "<u4")


@dataclass(frozen=True, eq=False)
class Ids:
    """Numbers that lie near each other.

    Attributes:
        base: the least of them.
        offsets: unsigned, shape (n,): how far beyond it each of them is.
    """

    base: int
    offsets: NDArray[Any] = field(repr=False)

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> Self:
        """From int64 of shape (n,)."""
        base = int(numbers.min()) if len(numbers) else 0
        offsets = (numbers - base).astype(WIDE)
        return cls(base, offsets.astype(_narrowest(offsets, _OFFSET_KINDS)))

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, places: Any) -> NDArray[np.int64]:  # noqa: ANN401 - whatever indexes an array
        return np.asarray(self.offsets[places], np.int64) + self.base


@dataclass(frozen=True, eq=False)
class Banks:
    """Numbers of which there are few different ones.

    Attributes:
        table: int64, ascending: the different ones.
        codes: unsigned, shape (n,): for each, its place in ``table``.
    """

    table: NDArray[np.int64]
    codes: NDArray[Any] = field(repr=False)

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> Self:
        """From int64 of shape (n,)."""
        table = np.unique(numbers)
        codes = np.searchsorted(table, numbers)
        return cls(table, codes.astype(_narrowest(codes, _CODE_KINDS)))

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, places: Any) -> NDArray[np.int64]:  # noqa: ANN401 - the same
        return np.asarray(self.table[self.codes[places]])


def is_offset_kind(kind: str) -> bool:
    """Whether ``Ids`` has offsets of this dtype."""
    return kind in _OFFSET_KINDS


def is_code_kind(kind: str) -> bool:
    """Whether ``Banks`` has codes of this dtype."""
    return kind in _CODE_KINDS


def _narrowest(numbers: NDArray[Any], kinds: tuple[str, ...]) -> str:
    largest = int(numbers.max()) if len(numbers) else 0
    return next(kind for kind in kinds if largest <= np.iinfo(np.dtype(kind)).max)
