"""The loops of hashing in NumPy and Pillow, for where there is no compiler.

The results are those of ``_pixels.c``; they take longer.

What the arguments are is told by ``app.hashing.engine.Engine``.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SHRUNK: Final = 32
_WINDOWS: Final = 128
_BLOCK: Final = 4
_REACH: Final = 4
_SAMPLES: Final = 9


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


def box_means(vectors: NDArray[np.float32], count: int, means: NDArray[np.float32], /) -> None:
    """Take the reference's box mean over vectors."""
    for place, mean in enumerate(sliding_mean(vectors, count, vectors.shape[1])):
        means[place] = mean


def sliding_mean(
    vectors: Iterable[NDArray[np.float32]], count: int, length: int
) -> Iterator[NDArray[np.float32]]:
    """The reference's box mean over ``count`` vectors of a length: its ``box1DFloat``.

    Each mean that is yielded is overwritten by the next.
    """
    window = -(-count // _WINDOWS)
    reach = (window + 2) // 2
    held = np.empty((window, length), np.float32)
    total, mean = np.zeros(length, np.float32), np.empty(length, np.float32)
    vectors = iter(vectors)
    for step in range(count + reach - 1):
        oldest = held[step % window]
        newest = next(vectors) if step < count else None
        if newest is not None:
            total += newest
        if step >= window:
            total -= oldest
        if newest is not None:
            oldest[:] = newest
        if step >= reach - 1:
            size = min(step + 1, count) - max(step + 1 - window, 0)
            yield np.divide(total, np.float32(size), out=mean)


def step_sums(reduced: NDArray[np.float64], noise: float, /) -> tuple[int, int, int]:
    """The gradients that PDQ's quality is made of, each in whole steps, summed up with their noise."""
    steps = np.concatenate([np.diff(reduced, axis=axis).ravel() for axis in (0, 1)])
    steps = np.abs(steps) * (100 / 255)
    least, most = np.maximum(steps - noise, 0), steps + noise
    return int(np.trunc(least).sum()), int(np.trunc(steps).sum()), int(np.trunc(most).sum())


def forms_of(coefficients: NDArray[np.float64], doubt: float, /) -> tuple[bytes, bytes]:
    """What PDQ makes of 16 by 16 coefficients, in all 16 forms; and which are near each symmetry's median."""
    forms = symmetries(coefficients)
    middle = forms.shape[1] // 2
    ranked = np.partition(forms, (middle - 1, middle), axis=1)
    # The lower median, of the coefficients and of their negatives.
    lower, upper = ranked[:, middle - 1 : middle], ranked[:, middle : middle + 1]
    bits = np.concatenate([forms > lower, forms < upper])
    near = (forms >= lower - doubt) & (forms <= upper + doubt)
    hashes, doubts = (np.packbits(each[:, ::-1], axis=1).tobytes() for each in (bits, near))
    return hashes, doubts


def symmetries(coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """The coefficients of the eight symmetries, float64 (8, 256), in the order of ``Symmetry``.

    A flip changes the sign of cosines of odd frequency along its axis.
    """
    flip = np.where(np.arange(1, len(coefficients) + 1) % 2, -1.0, 1.0)
    across, down = flip[np.newaxis, :], flip[:, np.newaxis]
    turned = coefficients.T
    return np.stack(
        [
            coefficients,
            turned * down,
            coefficients * across * down,
            turned * across,
            coefficients * down,
            coefficients * across,
            turned,
            turned * across * down,
        ]
    ).reshape(8, -1)


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


def halve(grey: NDArray[np.uint8], _width: int, halved: NDArray[np.uint8], /) -> None:
    """Make a picture half as large, by the means of two by two pixels."""
    halved[:] = np.asarray(Image.fromarray(grey).reduce(2))


def find_edges(  # noqa: PLR0917 - as the compiled one takes them
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
    """Weigh blocks of four rows, and find the edges between their columns."""
    count = len(luma) // _BLOCK
    blocks = luma[: count * _BLOCK].reshape(count, _BLOCK, width)
    np.add.reduce(blocks, axis=1, dtype=np.int16, out=sums)
    np.less_equal(blocks.max(axis=1) - blocks.min(axis=1), most_flat, out=flat)
    is_smooth = flat.copy()
    is_smooth[1:] &= np.abs(np.diff(sums, axis=0)) <= most_smooth
    smooth[0] = 0
    np.cumsum(is_smooth, axis=0, out=smooth[1:])
    edges[0] = 0
    np.cumsum(_edges_of(sums, flat, step, lasting_step), axis=0, out=edges[1:, 1:-1])
    edges[:, 0] = edges[:, -1] = np.arange(count + 1)


def _edges_of(
    sums: NDArray[np.int16], flat: NDArray[np.bool_], step: int, lasting_step: int
) -> NDArray[np.bool_]:
    """Where a block has an edge between two columns: bool (blocks, width - 1)."""
    width = sums.shape[1]
    beyond = np.pad(sums, ((0, 0), (_REACH, _REACH)), mode="edge")
    flat_beyond = np.pad(flat, ((0, 0), (_REACH, _REACH)), mode="edge")
    # The columns beyond a line are a sum of sums: two at a time, then four.
    beyond = beyond[:, 1:] + beyond[:, :-1]
    beyond = beyond[:, 2:] + beyond[:, :-2]
    flat_beyond = flat_beyond[:, 1:] & flat_beyond[:, :-1]
    flat_beyond = flat_beyond[:, 2:] & flat_beyond[:, :-2]
    lasting = np.abs(beyond[:, _REACH + 1 : width + _REACH] - beyond[:, 1:width])
    before, after = flat_beyond[:, 1:width], flat_beyond[:, _REACH + 1 : width + _REACH]
    found: NDArray[np.bool_] = lasting > lasting_step
    found |= before
    found |= after
    found &= np.abs(sums[:, 1:] - sums[:, :-1]) > step
    found |= before & ~flat[:, 1:]
    found |= after & ~flat[:, :-1]
    return found


def find_uniform(  # noqa: PLR0917 - as the compiled one takes them
    sums: NDArray[np.int16],
    flat: NDArray[np.bool_],
    _width: int,
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
    """Find the columns of which most blocks are flat and near the column's level."""
    sums, flat = sums[first:last, left:right], flat[first:last, left:right]
    samples = np.arange(_SAMPLES) * (last - first - 1) // (_SAMPLES - 1)
    sampled = sums[samples]
    level = np.sort(sampled, axis=0)[_SAMPLES // 2]
    held = (np.abs(sampled - level) <= near) & flat[samples]
    np.greater_equal(np.add.reduce(held, axis=0, dtype=np.int16), _SAMPLES - outliers, out=uniform)
    columns = np.flatnonzero(uniform)
    if len(columns):
        held = np.abs(sums[:, columns] - level[columns]) <= near
        held &= flat[:, columns]
        uniform[columns] = np.add.reduce(held, axis=0, dtype=np.int16) >= share * (last - first)


def score_lines(  # noqa: PLR0917 - as the compiled one takes them
    edges: NDArray[np.int16],
    _lines: int,
    first: int,
    last: int,
    left: int,
    right: int,
    window: int,
    scores: NDArray[np.float64],
    /,
) -> None:
    """Score lines: half of the share of edge in the best window, and the share in all of the span."""
    counts = edges[first : last + 1, left:right]
    best = (counts[window:] - counts[:-window]).max(axis=0) / window
    scores[:] = best / 2 + (counts[-1] - counts[0]) / (last - first)
