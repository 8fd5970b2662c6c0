"""pHash: the 64 bits of ``imagehash.phash`` (8 by 8 of a 32 by 32 DCT), in little memory.

``imagehash`` makes a grey copy of the picture and shrinks it with Pillow's Lanczos filter, whose rounding
depends on the order of its two passes, and that on the picture's shape. So the grey copy is made here, a
strip at a time, and everything after it is left to the same two libraries.
"""

from typing import Final

import imagehash
from PIL import Image

_SIDE: Final = 32
"""``hash_size`` times ``highfreq_factor``, imagehash's defaults."""


class Shrinker:
    """Gathers the strips of one picture for its pHash. Takes one byte for each pixel.

    Attributes:
        grey: the grey copy, so far.
    """

    def __init__(self, width: int, height: int) -> None:
        self.grey: Final = Image.new("L", (width, height))
        self._row = 0

    def add(self, strip: Image.Image) -> None:
        """Take the next rows, an RGB picture of the whole picture's width."""
        self.grey.paste(strip.convert("L"), (0, self._row))
        self._row += strip.height

    def finish(self) -> bytes:
        """The hash, once all rows were added: 8 bytes, in the order of its hex text."""
        small = self.grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        return bytes.fromhex(str(imagehash.phash(small)))
