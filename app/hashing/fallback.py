"""The loops of hashing in NumPy, for where there is no compiler: the results of ``_pixels.c``, slower.

What the arguments are is told by ``app.hashing.engine.Engine``.
"""

import numpy as np
from numpy.typing import NDArray


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
