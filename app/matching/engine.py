"""What loops behind the search: compiled where it could be, NumPy elsewhere, with the same results.

Cordon is built with the compiled one where there is a C compiler. Without it everything works, and a look-up
in a large bank takes several times as long; ``cordon doctor`` and the status tell which one is in use.

Why it is so is told in docs/decisions/0009-search-in-c.md.
"""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from app.matching import fallback


class Engine(Protocol):
    """The loops of ``app.matching.hamming``. All raise ``ValueError`` for what does not fit together."""

    def search(  # noqa: PLR0917 - C takes them by position
        self,
        rows: NDArray[np.uint64],
        words: int,
        directory: NDArray[np.uint32],
        postings: NDArray[np.uint32],
        cuts: NDArray[np.int32],
        queries: NDArray[np.uint64],
        doubts: NDArray[np.uint64],
        threshold: int,
        limit: int,
        most: int,
        number: int,
        row: int,
        /,
    ) -> tuple[bytes, int, int]:
        """Pairs of a query and a row within the threshold, each once: all, or some and where to go on.

        Args:
            rows: shape (n, words).
            words: 1 to 4.
            directory: shape (slots,), and ``postings``, shape (bands, n): as ``HammingIndex`` holds them.
            postings: see there.
            cuts: start, width and radius of each band; none to look at every row. Where bits are in doubt,
                the radii are planned for each query instead.
            queries: shape (queries, words).
            doubts: the bits of each query that do not count, shaped as ``queries``; of length 0 if all do.
            threshold: in bits.
            limit: the most postings of one query; with more, every row is looked at instead.
            most: stop where so many pairs were found; a few more may be told, of a look-up that was begun.
            number: the query to begin with, and ``row``, its row.
            row: see there.

        Returns:
            uint32 triples of query, row and distance, by query and then by row; and the query and the row to
            go on from. The query is the number of all queries when all is found.

        Raises:
            ValueError: the index is damaged.
        """

    def build_band(  # noqa: PLR0917 - the same
        self,
        rows: NDArray[np.uint64],
        words: int,
        start: int,
        width: int,
        next_start: int,
        next_width: int,
        directory: NDArray[np.uint32],
        postings: NDArray[np.uint32],
        /,
    ) -> None:
        """Fill the part of the directory, shape (2**width + 1,), and the postings, shape (n,), of one band.

        Args:
            rows: shape (n, words).
            words: 1 to 4.
            start: of the band, and ``width``, in bits.
            width: see there.
            next_start: of the band after it, and ``next_width``, in bits: postings hint at its values.
            next_width: see there.
            directory: to be filled.
            postings: to be filled.
        """

    def shuffle(
        self,
        values: NDArray[np.uint8],
        words: int,
        table: NDArray[np.uint64],
        rows: NDArray[np.uint64],
        /,
    ) -> None:
        """Fill rows, shape (n, words), from values, by a table of what each byte becomes at each place."""


def _best() -> Engine:
    try:
        from app.matching import _hamming  # noqa: PLC0415 - not there without a compiler
    except ImportError:
        return fallback
    return _hamming


ENGINE: Final = _best()

COMPILED: Final = ENGINE is not fallback
"""Whether the compiled loops are there."""
