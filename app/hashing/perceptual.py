"""pHash: the 64 bits of ``imagehash.phash`` (8 by 8 of a 32 by 32 DCT).

``imagehash`` makes a grey copy of the picture and shrinks it with Pillow's Lanczos filter, one axis at a
time. Pillow rounds to 8 bits after each, so that it matters which comes first, and computes in integers, so
that the same pixels can be had faster (``engine.shrink``). Where they are not the same, as it may be with
another Pillow than the one this was written for, Pillow itself shrinks. All else is left to ``imagehash``.
"""

from functools import cache, lru_cache
from typing import Final

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.hashing import engine

_SIDE: Final = 32
"""``hash_size`` times ``highfreq_factor``, imagehash's defaults."""

_FILTERS: Final = 16
"""How many lengths' filters are kept, of at most 24 bytes for each pixel of the length."""


class Shrinker:
    """Gathers the strips of one picture for its pHash.

    Attributes:
        grey: uint8 (height, width), the grey copy so far.
    """

    def __init__(self, width: int, height: int) -> None:
        self.grey: Final = np.empty((height, width), np.uint8)
        self._row = 0

    def add(self, strip: NDArray[np.uint8]) -> None:
        """Take the next rows: uint8 (rows, width, channels), of which red, green and blue are the first."""
        engine.ENGINE.grey_of(strip, self.grey[self._row : self._row + len(strip)])
        self._row += len(strip)

    def finish(self) -> bytes:
        """The hash, once all rows were added: 8 bytes, in the order of its hex text."""
        small = shrunk(self.grey) if shrinks_as_pillow() else _shrunk_by_pillow(self.grey)
        return bytes.fromhex(str(imagehash.phash(Image.fromarray(small))))


def most_bytes(width: int, height: int) -> int:
    """Most memory that a pHash takes for a picture of this size, the filters that stay included."""
    return 2 * width * height + _FILTERS * 24 * max(width, height) + _SIDE * (width + height)


def shrunk(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A grey picture, uint8 (height, width), shrunk to (32, 32) as Pillow does."""
    height, width = grey.shape
    # Pillow's rule, by which it saves work.
    if height - _SIDE > max(0, 2 * (width - _SIDE)):
        turned = Image.fromarray(grey).transpose(Image.Transpose.TRANSPOSE)
        return _rows_shrunk(_rows_shrunk(np.asarray(turned))).T
    return _rows_shrunk(_rows_shrunk(grey))


@cache
def shrinks_as_pillow() -> bool:
    """Whether ``shrunk`` gives Pillow's pixels here, on a few drawn pictures."""
    noise = np.random.default_rng(1)
    # Lying and standing, just before and behind where the axes change places, larger and smaller than 32.
    sizes = ((300, 70), (70, 300), (60, 88), (60, 89), (20, 31), (20, 45), (5000, 40), (1, 1))
    pictures = [noise.integers(0, 2, (height, width), np.uint8) * np.uint8(255) for width, height in sizes]
    return all(np.array_equal(shrunk(picture), _shrunk_by_pillow(picture)) for picture in pictures)


def _rows_shrunk(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each row shrunk to 32 pixels, and made a column."""
    rows, length = grey.shape
    found = np.empty((_SIDE, rows), np.uint8)
    engine.ENGINE.shrink(grey, _filter_for(length), found)
    return found


@lru_cache(maxsize=_FILTERS)
def _filter_for(length: int) -> bytes:
    return engine.ENGINE.filter_for(length)


def _shrunk_by_pillow(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS))
