"""pHash: the 64 bits of ``imagehash.phash`` (8 by 8 of a 32 by 32 DCT), in little memory.

``imagehash`` shrinks the whole grey picture with Pillow's Lanczos filter, which works along rows first and
along columns then. Its first half needs one row at a time, so a strip after another gives the very same
picture of 32 by 32.
"""

from typing import Final

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE: Final = 32
"""``hash_size`` times ``highfreq_factor``, imagehash's defaults."""


class Shrinker:
    """Sums the strips of one picture up to its pHash. Takes 32 bytes for each row."""

    def __init__(self) -> None:
        self._strips: list[NDArray[np.uint8]] = []

    def add(self, strip: Image.Image) -> None:
        """Take the next rows, an RGB picture of the whole picture's width."""
        narrow = strip.convert("L").resize((_SIDE, strip.height), Image.Resampling.LANCZOS)
        self._strips.append(np.asarray(narrow))

    def finish(self) -> bytes:
        """The hash, once all rows were added: 8 bytes, in the order of its hex text."""
        narrow = Image.fromarray(np.concatenate(self._strips))
        small = narrow.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        return bytes.fromhex(str(imagehash.phash(small)))
