"""Canonical PDQ: the 256 bits and the quality that ``pdqhash`` gives for the full pixels, much faster.

PDQ is linear up to its threshold. Its downsample (two box means an axis, then 64 centres an axis) is
``A(height) · luma · A(width)ᵀ``, where ``A(n)`` depends on the length alone; its bits say which half of the
lowest 16 by 16 DCT coefficients lies above their median. Computed that way, a picture is read once, strip by
strip, and the sums come out right to within the rounding noise of the reference.

Where that noise could decide (two coefficients tie at the median, as in pictures that are their own mirror
image, or the quality lies at a step), the reference itself is asked: ``pdqhash`` for pictures that it can
hash in little memory, and for larger ones the same float32 operations in the same order, strip by strip.

Source: 'PDQ: A perceptual hash' (2017-10-09) and the C++ in facebook/ThreatExchange that ``pdqhash`` wraps.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

import numpy as np
import pdqhash
from numpy.typing import NDArray

from app.hashing import engine
from app.hashing.fallback import sliding_mean
from app.media import PDQ_BITS, PDQ_BYTES, PDQ_MINIMUM_QUALITY

Strips = Callable[[], Iterator[NDArray[np.uint8]]]
"""Reads a picture from top to bottom, again at each call, as strips of shape (rows, width, channels)."""

SMALLEST_SIDE: Final = 5
"""Below this, in pixels, the reference gives the zero hash and quality 0 (its MIN_HASHABLE_DIM)."""

LARGEST_QUALITY: Final = 100

STRIP_BYTES: Final = 256 * 1024
"""Size of a strip that keeps its float copy in the processor's cache."""

_SIDE: Final = 64
_COEFFICIENTS: Final = 16
_GRADIENTS_PER_QUALITY: Final = 90
_LUMA: Final = (0.299, 0.587, 0.114)
_GREY: Final = np.ones(1, np.float32)

_GAP: Final = 5e-3
"""Coefficients on either side of the median that are closer than this could have swapped places.

The reference's float32 noise was at most 0.015 in a coefficient over some thousand pictures of more than
160,000 pixels, and never swapped two that were more than 0.0011 apart.
"""

_WIDE_GAP: Final = 5e-2
"""The same for small pictures, where fewer pixels average the noise away (worst swap seen: 0.0061), and for
those of little quality, whose coefficients lie close (0.0057)."""

_SMALL_PIXELS: Final = 250_000

_GRADIENT_NOISE: Final = 1e-3
"""How far the reference's noise may move a gradient, in its steps of 255 / 100."""

_LONG_SIDE: Final = 3000
"""Along a longer side the noise grows: the reference's running sums add up what they round off.

Of 866 pictures with a side of 8,000 to 65,535 pixels it was 0.041 in a coefficient at most, and swapped two
that were 0.0068 apart.
"""

_REFERENCE_PIXELS: Final = 1_000_000
"""Above this the reference is followed strip by strip: it would take some 40 bytes for each pixel."""

_REFERENCE_ROWS: Final = 256

_DOUBT: Final = 2.0
"""Coefficients this near to the median may lie on its other side in a canonical look.

Of 3,201 quick looks at JPEGs, at a short side of 370 pixels or more, three further coefficients did at most.
See ``docs/decisions/0010-a-quick-look-first.md``.
"""

_REDUCERS: Final = 64
"""How many lengths' matrices are kept: of a picture, and of all its parts."""

# The reference multiplies in double precision and keeps the product in single.
_DCT: Final = (
    float(np.float32(math.sqrt(2.0 / _SIDE)))
    * np.cos(
        math.pi
        / 2.0
        / _SIDE
        * np.arange(1, _COEFFICIENTS + 1)[:, np.newaxis]
        * (2 * np.arange(_SIDE) + 1)[np.newaxis, :]
    )
).astype(np.float32)
_DCT_DOUBLE: Final = _DCT.astype(np.float64)


@dataclass(frozen=True)
class Spectrum:
    """What PDQ knows of a picture before it is cut down to bits.

    Attributes:
        coefficients: float64 (16, 16), the lowest of the downsample's DCT, its constant ones left out.
        quality: 0 to 100.
        certain: whether the reference's rounding noise cannot change the bits or the quality.
    """

    coefficients: NDArray[np.float64] = field(repr=False)
    quality: int
    certain: bool

    @property
    def bits(self) -> bytes:
        """The hash: 32 bytes, the first holding bits 255 to 248."""
        return self.forms[:PDQ_BYTES]

    @property
    def forms(self) -> bytes:
        """All 16 hashes of the picture, one after the other: its eight symmetries, then its negative's.

        A flip turns the sign of every other coefficient, a turn over the diagonal transposes them, and a
        negative turns all signs. Of a picture that is really flipped the reference gives a hash a few bits
        off, since the places where it samples are not quite its own mirror image.
        """
        return self._told[0]

    @property
    def doubts(self) -> bytes:
        """Which bits may well be others in a canonical look, if this is of a quick one.

        32 bytes for each of the eight symmetries; they are the same for its negative.
        """
        return self._told[1]

    @cached_property
    def _told(self) -> tuple[bytes, bytes]:
        return engine.ENGINE.forms_of(self.coefficients, _DOUBT)


class Downsampler:
    """Sums the strips of one picture up to PDQ's 64 by 64 downsample.

    Takes 1 KiB for each pixel of width.
    """

    def __init__(self, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._row = 0
        self._sums = np.zeros((_SIDE, 0), np.float32)

    def add(self, strip: NDArray[np.uint8]) -> None:
        """Take the next rows: uint8 (rows, width, channels), of which red, green and blue are the first."""
        rows = strip.reshape(len(strip), -1)
        if not self._row:
            self._sums = np.zeros((_SIDE, rows.shape[1]), np.float32)
        engine.ENGINE.add_rows(self._sums, rows, self._row, *reducer(self._height))
        self._row += len(strip)

    def finish(self) -> NDArray[np.float64]:
        """The downsample, once all rows were added: float64 (64, 64), 0 to 255."""
        reduced = np.empty((_SIDE, _SIDE))
        channels = np.zeros(self._sums.shape[1] // self._width, np.float32)
        channels[: len(_LUMA)] = _LUMA
        engine.ENGINE.gather(self._sums, channels, *reducer(self._width), reduced)
        return reduced


def canonical(rgb: NDArray[np.uint8]) -> tuple[bytes, int]:
    """Hash a picture as ``pdqhash.compute`` does.

    Args:
        rgb: uint8 (height, width, 3), upright and opaque.

    Returns:
        The hash (32 bytes, in the order of PDQ's hex text) and its quality, 0 to 100.
    """
    height, width = rgb.shape[:2]
    rows = strip_rows(width)
    # A view of a part of a picture has gaps between its rows.
    rgb = np.ascontiguousarray(rgb)

    def strips() -> Iterator[NDArray[np.uint8]]:
        for top in range(0, height, rows):
            yield rgb[top : top + rows]

    if min(height, width) < SMALLEST_SIDE:
        return bytes(PDQ_BYTES), 0
    downsampler = Downsampler(height, width)
    for strip in strips():
        downsampler.add(strip)
    return settle(analyse(downsampler.finish(), height, width), height, width, strips)


def settle(spectrum: Spectrum, height: int, width: int, strips: Strips) -> tuple[bytes, int]:
    """Cut a spectrum down to the hash and its quality, asking the reference where its noise decides.

    Args:
        spectrum: what ``Downsampler`` and ``analyse`` made of the picture.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        strips: reads the picture again, if that is needed.
    """
    if spectrum.certain:
        return spectrum.bits, spectrum.quality
    if height * width <= _REFERENCE_PIXELS:
        rgb = np.concatenate([strip[:, :, :3] for strip in strips()])
        vector, quality = pdqhash.compute(rgb)
        return np.packbits(vector.astype(bool)).tobytes(), int(quality)
    return reference(height, width, strips)


def downsample(
    luma: NDArray[np.uint8],
    height: int,
    width: int,
    scale: int,
    from_end: tuple[bool, bool] = (False, False),
) -> NDArray[np.float64]:
    """PDQ's 64 by 64 downsample of a grey picture that was made smaller.

    Args:
        luma: uint8 (ceil(height / scale), ceil(width / scale)); each pixel the mean of scale by scale.
        height: of the original, in pixels.
        width: of the original, in pixels.
        scale: how many times smaller it was made.
        from_end: whether rows, and columns, were grouped from the end; then the first ones may be partial.
    """
    sums, reduced = np.zeros((_SIDE, luma.shape[1]), np.float32), np.empty((_SIDE, _SIDE))
    engine.ENGINE.add_rows(sums, np.ascontiguousarray(luma), 0, *reducer(height, scale, from_end[0]))
    engine.ENGINE.gather(sums, _GREY, *reducer(width, scale, from_end[1]), reduced)
    return reduced


def analyse(reduced: NDArray[np.float64], height: int, width: int) -> Spectrum:
    """Transform a downsample of a picture of this size, and weigh how certain the result is."""
    coefficients = _DCT_DOUBLE @ reduced @ _DCT_DOUBLE.T
    ranked = np.partition(coefficients, (PDQ_BITS // 2 - 1, PDQ_BITS // 2), axis=None)
    gap = ranked[PDQ_BITS // 2] - ranked[PDQ_BITS // 2 - 1]
    longer = max(1.0, max(height, width) / _LONG_SIDE)
    least, quality, most = map(_quality, engine.ENGINE.step_sums(reduced, min(1.0, longer * _GRADIENT_NOISE)))
    is_noisy = height * width < _SMALL_PIXELS or quality < PDQ_MINIMUM_QUALITY
    return Spectrum(
        coefficients=coefficients,
        quality=quality,
        certain=least == most and bool(gap > longer * (_WIDE_GAP if is_noisy else _GAP)),
    )


def strip_rows(width: int) -> int:
    """How many rows of an RGB picture of this width make a strip."""
    return max(1, STRIP_BYTES // (3 * width))


def sums_bytes(width: int, height: int) -> int:
    """Most memory that ``Downsampler`` takes for a picture of this size, the matrices that stay included."""
    # A matrix has two windows a row, of which there are 128 in a length.
    matrices = _REDUCERS * (4 * max(width, height) + 2048)
    return _SIDE * width * 4 * 4 + matrices + 8 * STRIP_BYTES


def reference_bytes(width: int, height: int) -> int:
    """Most memory that asking the reference takes for a picture of this size."""
    if width * height <= _REFERENCE_PIXELS:
        return 48 * width * height
    return 32 * _REFERENCE_ROWS * width + width * height // 16


class Reducer(NamedTuple):
    """``A(length)`` without its zeros; each of its 64 rows sums to 1.

    Attributes:
        weights: float32 (64, k), read-only, where k is the most that any row has; others end in zeros.
        starts: int64 (64,), the place of each row's first weight.
        ends: int64 (64,), the place after its last.
    """

    weights: NDArray[np.float32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]


@lru_cache(maxsize=_REDUCERS)
def reducer(length: int, scale: int = 1, from_end: bool = False) -> Reducer:  # noqa: FBT001, FBT002 - cached
    """``A(length)``.

    Row i is row ``floor((i + 0.5) · length / 64)`` of the squared box mean, whose window is
    ``ceil(length / 128)`` and shrinks at both ends.

    Args:
        length: of the picture's side, in pixels.
        scale: of how many pixels each one is the mean in the picture that the matrix is for, where that was
            made smaller. The weights of these pixels are added up, and ``ceil(length / scale)`` places are
            left: where the samples lie, and how wide they are, is up to the original length.
        from_end: whether pixels were grouped from the end, as in a picture that was turned afterwards.
    """
    window, reach = _window(length)
    places = np.arange(length)
    counts = np.minimum(places + reach, length) - np.maximum(places + reach - window, 0)
    inverse = np.concatenate([[0.0], np.cumsum(1.0 / counts)])
    centres = _centres(length)
    starts = np.maximum(centres - 2 * (window - reach), 0)
    ends = np.minimum(centres + 2 * reach - 1, length)
    columns = starts[:, np.newaxis] + np.arange(np.max(ends - starts))
    outside = columns >= ends[:, np.newaxis]
    columns = np.minimum(columns, ends[:, np.newaxis] - 1)
    # The mean over the window at the centre of the means of which each place is a part.
    first = np.maximum(centres + reach - window, 0)[:, np.newaxis]
    last = np.minimum(centres + reach, length)[:, np.newaxis]
    weights = (
        inverse[np.minimum(last, columns + window - reach + 1)]
        - inverse[np.maximum(first, columns - reach + 1)]
    ) / (last - first)
    weights[outside] = 0
    if scale > 1:
        groups = (length - 1) // scale - (length - 1 - columns) // scale if from_end else columns // scale
        starts, ends = groups[:, 0], groups[:, -1] + 1
        most = int(np.max(ends - starts))
        taken = groups + (np.arange(_SIDE) * most - starts)[:, np.newaxis]
        weights = np.bincount(taken.ravel(), weights.ravel(), _SIDE * most).reshape(_SIDE, most)
    found = Reducer(weights.astype(np.float32), np.ascontiguousarray(starts), np.ascontiguousarray(ends))
    for part in found:
        part.flags.writeable = False
    return found


def reference(height: int, width: int, strips: Strips) -> tuple[bytes, int]:
    """Hash a picture with the very float32 operations of ``pdqhash``, in its order, in little memory.

    Several times slower than ``canonical``. The result is that of ``pdqhash.compute`` wherever that was
    compiled without fused multiply-add, as its builds for x86-64 are.
    """

    def along_rows(block: NDArray[np.float32]) -> NDArray[np.float32]:
        columns = np.ascontiguousarray(block.T)
        means = np.empty_like(columns)
        engine.ENGINE.box_means(columns, width, means)
        return means

    def once() -> Iterator[NDArray[np.float32]]:
        for block in _blocks(_luma_rows(strips()), width):
            yield from np.ascontiguousarray(along_rows(block).T)

    def twice() -> Iterator[NDArray[np.float32]]:
        centres = _centres(width)
        for block in _blocks(sliding_mean(once(), height, width), width):
            yield from np.ascontiguousarray(along_rows(block)[centres].T)

    if height == width == _SIDE:
        # It takes such a picture as its own downsample, and no mean rounds it.
        return _conclude_in_single(np.stack([row.copy() for row in _luma_rows(strips())]))
    rows = np.empty((height, _SIDE), np.float32)
    for place, mean in enumerate(sliding_mean(twice(), height, _SIDE)):
        rows[place] = mean
    return _conclude_in_single(rows[_centres(height)])


def agrees_with_reference() -> bool:
    """Whether this machine's arithmetic gives the hashes of ``pdqhash``, on a few drawn pictures.

    To be asked at start-up: a difference means that no hash of this process can be trusted.
    """
    noise = np.random.default_rng(1)
    for height, width in ((5, 7), (64, 64), (131, 260), (420, 300)):
        across, down = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
        waves = [
            128 + 100 * np.sin(across * a * 9 + b) * np.cos(down * b * 7 + a)
            for a, b in ((1, 2), (2, 1), (3, 3))
        ]
        rgb = (np.stack(waves, axis=2) + noise.integers(0, 20, (height, width, 3))).astype(np.uint8)
        # The pale one's quality lies near 50, the others' at an end of the scale, where it shows little.
        pale, mirrored = rgb // 2 + 60, np.concatenate([rgb, rgb[:, ::-1]], axis=1)
        for picture in (rgb, pale, mirrored, np.full_like(rgb, 77)):
            vector, quality = pdqhash.compute(picture)
            if canonical(picture) != (np.packbits(vector.astype(bool)).tobytes(), int(quality)):
                return False
    return True


def _window(length: int) -> tuple[int, int]:
    """The box mean's window, and how far it reaches from its place: places ``- window + reach`` on."""
    window = -(-length // (2 * _SIDE))
    return window, (window + 2) // 2


def _centres(length: int) -> NDArray[np.int64]:
    return ((np.arange(_SIDE) + 0.5) * length / _SIDE).astype(np.int64)


def _bits(coefficients: NDArray[np.float32]) -> bytes:
    # Torben's median, which the reference uses, is the lower one of an even count.
    median = np.partition(coefficients, PDQ_BITS // 2 - 1, axis=None)[PDQ_BITS // 2 - 1]
    return np.packbits(coefficients.ravel()[::-1] > median).tobytes()


def _quality(step_sum: int) -> int:
    return min(LARGEST_QUALITY, step_sum // _GRADIENTS_PER_QUALITY)


def _conclude_in_single(downsample: NDArray[np.float32]) -> tuple[bytes, int]:
    half = np.add.accumulate(_DCT.T[:, :, np.newaxis] * downsample[:, np.newaxis, :])[-1]
    coefficients = np.add.accumulate(half.T[:, :, np.newaxis] * _DCT.T[:, np.newaxis, :])[-1]
    steps = np.concatenate([np.diff(downsample, axis=axis).ravel() for axis in (0, 1)])
    whole = np.abs(np.trunc(steps * np.float32(100) / np.float32(255)))
    return _bits(coefficients), _quality(int(whole.sum()))


def _luma_rows(strips: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
    red, green, blue = _LUMA
    for strip in strips:
        yield from (strip[:, :, 0] * red + strip[:, :, 1] * green + strip[:, :, 2] * blue).astype(np.float32)


def _blocks(rows: Iterable[NDArray[np.float32]], length: int) -> Iterator[NDArray[np.float32]]:
    """Rows of a length gathered into blocks of 256, the last one smaller; each overwritten by the next."""
    block = np.empty((_REFERENCE_ROWS, length), np.float32)
    filled = 0
    for row in rows:
        block[filled] = row
        filled += 1
        if filled == _REFERENCE_ROWS:
            yield block
            filled = 0
    if filled:
        yield block[:filled]
