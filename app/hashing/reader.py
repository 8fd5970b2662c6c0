"""A read-only file over untrusted bytes, or over parts of them, that copies no more than is read.

Decoders want a file object. This one holds no view of the memory map, so that the map can be closed at any
time, and may be sought beyond its end, as files may and maps may not.
"""

import io
import mmap
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import IO, Final, cast

Piece = tuple[mmap.mmap | bytes, int, int]
"""Bytes from a start to an end within a buffer."""


class Reader:
    """A file made of pieces of buffers, read as one.

    Attributes:
        size: bytes in all.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces = [piece for piece in pieces if piece[1] < piece[2]]
        self._ends: Final = list(accumulate(end - start for _, start, end in self._pieces))
        self.size: Final = self._ends[-1] if self._ends else 0
        self._place = 0

    def read(self, count: int | None = -1) -> bytes:
        """The next bytes, at most ``count``, all that are left if it is negative."""
        start = self._place
        end = self.size if count is None or count < 0 else min(start + count, self.size)
        if start >= end:
            return b""
        self._place = end
        if len(self._pieces) == 1:
            buffer, first, _ = self._pieces[0]
            return buffer[first + start : first + end]
        parts = []
        index = bisect_right(self._ends, start)
        while start < end:
            buffer, first, last = self._pieces[index]
            skipped = start - (self._ends[index] - (last - first))
            taken = min(last - first - skipped, end - start)
            parts.append(buffer[first + skipped : first + skipped + taken])
            start += taken
            index += 1
        return b"".join(parts)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place counted from the start, from here, or from the end.

        Raises:
            ValueError: it lies before the start.
        """
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        if place < 0:
            raise ValueError("a place before the start of the bytes")
        self._place = place
        return place

    def tell(self) -> int:
        """Where the next read starts."""
        return self._place


def file_of(pieces: Iterable[Piece]) -> IO[bytes]:
    """A ``Reader`` under the type that decoders ask for; they only read, seek and tell."""
    return cast("IO[bytes]", Reader(pieces))


def whole(untrusted: mmap.mmap | bytes, start: int = 0) -> IO[bytes]:
    """All bytes from ``start`` on, as a file."""
    return file_of([(untrusted, start, len(untrusted))])
