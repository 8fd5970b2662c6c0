"""What loops behind hashing: compiled where it could be, NumPy and Pillow elsewhere, with the same results.

Cordon is built with the compiled one where there is a C compiler. Without it everything works, and a picture
takes up to three times as long.
"""

import math
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.hashing import fallback


class Engine(Protocol):
    """The loops of ``app.hashing``. All raise ``ValueError`` for what does not fit together."""

    def add_rows(  # noqa: PLR0917 - C takes them by position
        self,
        sums: NDArray[np.float32],
        rows: NDArray[np.uint8],
        top: int,
        weights: NDArray[np.float32],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        /,
    ) -> None:
        """Add rows of samples, weighted, to the 64 sums that each has a share in.

        Args:
            sums: shape (64, samples), to be added to.
            rows: shape (rows, samples).
            top: which row of the picture the first one is.
            weights: shape (64, k), ``starts`` and ``ends``: what ``pdq.reducer`` gives for the height.
            starts: see there.
            ends: see there.
        """

    def gather(  # noqa: PLR0917 - the same
        self,
        sums: NDArray[np.float32],
        channels: NDArray[np.float32],
        weights: NDArray[np.float32],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
        reduced: NDArray[np.float64],
        /,
    ) -> None:
        """Sum the columns of the sums up in the same way.

        Args:
            sums: shape (64, width · channels), as ``add_rows`` left them.
            channels: the weight of each channel of a pixel, one, three or four.
            weights: shape (64, k), ``starts`` and ``ends``: what ``pdq.reducer`` gives for the width.
            starts: see there.
            ends: see there.
            reduced: shape (64, 64), to be filled.
        """

    def box_means(self, vectors: NDArray[np.float32], count: int, means: NDArray[np.float32], /) -> None:
        """Take the reference's box mean over vectors, in its very float32 operations and their order.

        Args:
            vectors: shape (count, length).
            count: of the vectors.
            means: shape (count, length), to be filled.
        """

    def step_sums(self, reduced: NDArray[np.float64], noise: float, /) -> tuple[int, int, int]:
        """The gradients that PDQ's quality is made of, each in whole steps of 255 / 100, summed up.

        Args:
            reduced: shape (64, 64), 0 to 255.
            noise: by how many steps, 0 to 1, each may be off.

        Returns:
            The sum that is the least for such noise, the one without any, and the most.
        """

    def forms_of(self, coefficients: NDArray[np.float64], doubt: float, /) -> tuple[bytes, bytes]:
        """What PDQ makes of 16 by 16 coefficients, in all 16 forms.

        Args:
            coefficients: shape (16, 16), in one piece.
            doubt: how far from the median, on either side, a coefficient is near to it.

        Returns:
            The hashes, 32 bytes each; and of each of the eight symmetries, the bits whose coefficients are
            near its median, which are those of its negative too.
        """

    def grey_of(self, pixels: NDArray[np.uint8], grey: NDArray[np.uint8], /) -> None:
        """Make pixels grey, as Pillow does.

        Args:
            pixels: shape (rows, width, channels), as ``pixels_of`` gives them.
            grey: shape (rows, width), to be filled.
        """

    def filter_for(self, length: int, /) -> bytes:
        """What ``shrink`` shrinks rows of this length by; no more than 65,535 pixels.

        Raises:
            ValueError: there is no such row.
            OverflowError: its coefficients are too large to be summed up exactly.
        """

    def shrink(self, rows: NDArray[np.uint8], by: bytes, shrunk: NDArray[np.uint8], /) -> None:
        """Shrink rows to 32 pixels each, to the very pixels that Pillow's Lanczos filter gives.

        Args:
            rows: shape (rows, length), grey.
            by: what ``filter_for`` gave for the length.
            shrunk: shape (32, rows), to be filled: each row becomes a column.
        """

    def halve(self, grey: NDArray[np.uint8], width: int, halved: NDArray[np.uint8], /) -> None:
        """Make a picture half as large, by the means of two by two pixels, and of fewer at odd ends.

        Args:
            grey: shape (height, width).
            width: of the picture, 65,535 at most.
            halved: shape (ceil(height / 2), ceil(width / 2)), to be filled.
        """

    def find_edges(  # noqa: PLR0917 - the same
        self,
        luma: NDArray[np.uint8],
        width: int,
        most_flat: int,
        most_smooth: int,
        step: int,
        lasting_step: int,
        sums: NDArray[np.int16],
        flat: NDArray[np.bool_],
        edges: NDArray[np.int16],
        smooth: NDArray[np.int16],
        /,
    ) -> None:
        """Weigh blocks of four rows, and find the edges between their columns.

        A block has an edge at a line where the luma steps, and the four columns on either side differ too or
        are all flat; or where such flat columns begin or end.

        Args:
            luma: shape (height, width); rows that fill no block are left out.
            width: of the picture.
            most_flat: largest range of the luma in a flat column of a block.
            most_smooth: largest step of the sums from block to block in a smooth column, which is flat too.
            step: of the sums from column to column, that an edge is more than.
            lasting_step: the same from four columns' sums to the next four's.
            sums: shape (blocks, width), to be filled: of the luma in each column of a block.
            flat: shape (blocks, width), to be filled.
            edges: shape (blocks + 1, width + 1), to be filled: how many blocks above have an edge at a line.
                All have one at the sides of the picture.
            smooth: shape (blocks + 1, width), to be filled: how many blocks above are smooth.
        """

    def find_uniform(  # noqa: PLR0917 - the same
        self,
        sums: NDArray[np.int16],
        flat: NDArray[np.bool_],
        width: int,
        first: int,
        last: int,
        left: int,
        right: int,
        near: int,
        outliers: int,
        share: float,
        uniform: NDArray[np.bool_],
        /,
    ) -> None:
        """Find the columns of which most blocks are flat and near the column's level.

        Nine blocks, evenly spread, tell the level, their median, and rule most columns out.

        Args:
            sums: shape (blocks, width), and ``flat``, the same: as ``find_edges`` filled them.
            flat: see there.
            width: of the picture.
            first: block that is looked at; ``last``, the one after the last.
            last: see there.
            left: column that is looked at; ``right``, the one after the last.
            right: see there.
            near: how far from the level a sum may be.
            outliers: how many of the nine may be elsewhere.
            share: of all blocks, that may not.
            uniform: shape (right - left,), to be filled.
        """

    def score_lines(  # noqa: PLR0917 - the same
        self,
        edges: NDArray[np.int16],
        lines: int,
        first: int,
        last: int,
        left: int,
        right: int,
        window: int,
        scores: NDArray[np.float64],
        /,
    ) -> None:
        """Score lines: half of the share of edge in the best window, and the share in all of the span.

        Args:
            edges: shape (blocks + 1, lines), as ``find_edges`` filled them.
            lines: of the picture.
            first: block that is looked at; ``last``, the one after the last.
            last: see there.
            left: line that is looked at; ``right``, the one after the last.
            right: see there.
            window: in blocks, at most all.
            scores: shape (right - left,), to be filled.
        """


def _best() -> Engine:
    try:
        from app.hashing import _pixels  # noqa: PLC0415 - not there without a compiler
    except ImportError:
        return fallback
    return _pixels


ENGINE: Final = _best()

COMPILED: Final = ENGINE is not fallback
"""Whether the compiled loops are there."""


def pixels_of(picture: Image.Image) -> NDArray[np.uint8]:
    """The pixels of a picture, L or RGB: uint8 (height, width), or (height, width, channels), read-only.

    RGB has three channels, or four, of which the last says nothing, where they can be had in place.
    """
    pixels = pixels_in_place(picture)
    return np.asarray(picture) if pixels is None else pixels


def pixels_in_place(picture: Image.Image) -> NDArray[np.uint8] | None:
    """The same without a copy; None where there is no way, or where they lie in several pieces."""
    if not COMPILED:
        return None
    from app.hashing._pixels import Pixels  # noqa: PLC0415 - the same

    width, height = picture.size
    shape = (height, width) if picture.mode == "L" else (height, width, 4)
    try:
        _, array = picture.__arrow_c_array__()
        held = Pixels(array, math.prod(shape))
    except ValueError:
        return None
    return np.frombuffer(memoryview(held), np.uint8).reshape(shape)
