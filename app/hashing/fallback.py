"""The loops of hashing in NumPy and Pillow, for where there is no compiler.

The results are those of ``_pixels.c``; they take longer.

What the arguments are is told by ``app.hashing.engine.Engine``.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SHRUNK: Final = 32


def add_rows(  # noqa: PLR0917 - as the compiled one takes them
    sums: NDArray[np.float32],
    rows: NDArray[np.uint8],
    top: int,
    weights: NDArray[np.float32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    /,
) -> None:
    """Add rows of samples, weighted, to the 64 sums that each has a share in."""
    if rows.shape[1] != sums.shape[1] or top < 0:
        raise ValueError("the rows do not fit the sums")
    samples = rows.astype(np.float32)
    firsts, lasts = np.maximum(starts, top), np.minimum(ends, top + len(rows))
    for place in np.flatnonzero(firsts < lasts).tolist():
        start, first, last = int(starts[place]), int(firsts[place]), int(lasts[place])
        sums[place] += weights[place, first - start : last - start] @ samples[first - top : last - top]


def gather(  # noqa: PLR0917 - the same
    sums: NDArray[np.float32],
    channels: NDArray[np.float32],
    weights: NDArray[np.float32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    reduced: NDArray[np.float64],
    /,
) -> None:
    """Sum the columns of the sums up in the same way."""
    luma = sums.reshape(len(sums), -1, len(channels)) @ channels
    if np.max(ends) > luma.shape[1]:
        raise ValueError("the weights reach beyond the sums")
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        reduced[:, place] = luma[:, start:end] @ weights[place, : end - start]


def grey_of(pixels: NDArray[np.uint8], grey: NDArray[np.uint8], /) -> None:
    """Make pixels grey, as Pillow does."""
    rgb = np.ascontiguousarray(pixels[:, :, :3])
    grey[:] = np.asarray(Image.fromarray(rgb).convert("L"))


def filter_for(_length: int, /) -> bytes:
    """Nothing: Pillow computes its coefficients each time."""
    return b""


def shrink(rows: NDArray[np.uint8], _by: bytes, shrunk: NDArray[np.uint8], /) -> None:
    """Shrink rows to 32 pixels each, by Pillow's Lanczos filter."""
    short = Image.fromarray(rows).resize((_SHRUNK, len(rows)), Image.Resampling.LANCZOS)
    shrunk[:] = np.asarray(short).T
