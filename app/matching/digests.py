"""Exact look-up of digests: sorted once, found by binary search on their first 8 bytes."""

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

_PREFIX_BYTES: Final = 8


@dataclass(frozen=True, eq=False)
class DigestIndex:
    """Digests of one length, in the order of their first 8 bytes.

    Attributes:
        prefixes: uint64, shape (n,), ascending: the first 8 bytes of each value.
        values: uint8, shape (n, bytes).
    """

    prefixes: NDArray[np.uint64] = field(repr=False)
    values: NDArray[np.uint8] = field(repr=False)

    @classmethod
    def build(cls, values: NDArray[np.uint8]) -> tuple[Self, NDArray[np.int64]]:
        """Index values, uint8 of shape (n, bytes).

        Returns:
            The index, and for each of its entries the index of the value it was made from.
        """
        prefixes = np.ascontiguousarray(values[:, :_PREFIX_BYTES]).view(">u8")[:, 0].astype(np.uint64)
        order = np.argsort(prefixes)
        return cls(prefixes[order], values[order]), order

    def __len__(self) -> int:
        return len(self.prefixes)

    def value(self, entry: int) -> bytes:
        """The value of an entry."""
        return bytes(self.values[entry])

    def search(self, wanted: bytes) -> NDArray[np.int64]:
        """Indices of all entries with this value; int64, ascending.

        Raises:
            ValueError: it is no value of this length; a digest that nobody computed must not pass for absent.
        """
        if len(wanted) != self.values.shape[1]:
            raise ValueError("a digest of another length than those of the index")
        prefix = np.uint64(int.from_bytes(wanted[:_PREFIX_BYTES], "big"))
        first = int(np.searchsorted(self.prefixes, prefix, side="left"))
        last = int(np.searchsorted(self.prefixes, prefix, side="right"))
        same = (self.values[first:last] == np.frombuffer(wanted, np.uint8)).all(axis=1)
        return np.flatnonzero(same) + first
