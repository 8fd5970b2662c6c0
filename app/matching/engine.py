"""What loops behind the search: compiled where it could be, NumPy elsewhere, with the same results.

Cordon is built with the compiled one where there is a C compiler. Without it everything works, and a look-up in a
large bank takes several times as long; ``cordon doctor`` and the status tell which one is in use.
"""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from app.matching import fallback

try:
    from app.matching import _hamming
except ImportError:
    _hamming = None  # type: ignore[assignment]


class Engine(Protocol):
    """The loops of ``app.matching.hamming``. All raise ``ValueError`` for what does not fit together."""

    def search(  # noqa: PLR0917 - C takes them by position
        self,
        rows: NDArray[np.uint64],
        words: int,
        directory: NDArray[np.uint8],
        postings: NDArray[np.uint32],
        cuts: NDArray[np.int32],
        queries: NDArray[np.uint64],
        threshold: int,
        limit: int,
        /,
    ) -> bytes:
        """All pairs of a query and a row within the threshold, each once.

        Args:
            rows: shape (n, words).
            words: 1 to 4.
            directory: shape (lines, 64), and ``postings``, shape (bands, n): as ``HammingIndex`` holds them.
            postings: see there.
            cuts: start, width and radius of each band; none to look at every row.
            queries: shape (queries, words).
            threshold: in bits.
            limit: the most candidates of one query; with more, every row is looked at instead.

        Returns:
            uint32 triples of query, row and distance, by query and then by row.

        Raises:
            ValueError: the index is damaged.
        """

    def build_band(  # noqa: PLR0917 - the same
        self,
        rows: NDArray[np.uint64],
        words: int,
        start: int,
        width: int,
        directory: NDArray[np.uint8],
        postings: NDArray[np.uint32],
        /,
    ) -> None:
        """Fill the lines and the postings of one band."""

    def shuffle(
        self,
        values: NDArray[np.uint8],
        words: int,
        table: NDArray[np.uint64],
        rows: NDArray[np.uint64],
        /,
    ) -> None:
        """Fill rows, shape (n, words), from values, by a table of what each byte becomes at each place."""


COMPILED: Final = _hamming is not None
"""Whether the compiled loops are there."""

ENGINE: Final[Engine] = _hamming if COMPILED else fallback
