"""The parts of a picture that are hashed on their own, as they are found in a grey copy of little detail."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.hashing import pdq, regions
from app.hashing.picture import Small
from app.hashing.records import MAX_REGIONS, Forms
from app.media import Region

_SCALES: Final = (1, 2, 4, 8)
"""How many times smaller the copy may be: what a JPEG's transform gives for less."""

_SHORT_SIDE: Final = 370
"""Least short side in pixels that is left where there was one: the hash of the whole hardly moves then.

Just so low that of the usual 4,000 by 3,000 pixels an eighth will do, for which a JPEG needs no transform.
"""

_MOST_PIXELS: Final = 2 * 1024 * 1024
"""Largest copy that is looked at."""

_BYTES_PER_PIXEL: Final = 24
"""Of the copy, what finding and hashing the parts may take at once."""


def scale(width: int, height: int) -> int:
    """How many times smaller the copy of a picture is."""
    detailed = [each for each in _SCALES if min(width, height) >= each * _SHORT_SIDE]
    small = [each for each in _SCALES if width * height <= each * each * _MOST_PIXELS]
    return max(detailed[-1] if detailed else 1, small[0] if small else _SCALES[-1])


def is_detailed(width: int, height: int) -> bool:
    """Whether the copy of a picture of this size shows enough to hash the whole picture by it.

    Of a smaller picture too few pixels make up each of PDQ's places to even out what luma says otherwise than
    colours: one of 498 by 369 pixels was 7 bits off, one of 62 by 5 was 15.
    """
    return min(width, height) >= scale(width, height) * _SHORT_SIDE


def small_copy(grey: NDArray[np.uint8]) -> Small:
    """The copy of an upright grey picture: uint8 (height, width)."""
    height, width = grey.shape
    by = scale(width, height)
    return Small(np.asarray(Image.fromarray(grey).reduce(by)) if by > 1 else grey, width, height, by)


def forms(copy: Small) -> Iterator[Forms]:
    """Find and hash the parts of a picture in its small copy."""
    luma, by = copy.luma, copy.scale
    if luma.size > _MOST_PIXELS:
        return
    for found in islice(regions.find(luma), MAX_REGIONS):
        left, top = found.left * by, found.top * by
        right, bottom = (
            min(left + found.width * by, copy.width),
            min(top + found.height * by, copy.height),
        )
        region = Region(left, top, right - left, bottom - top)
        if min(region.width, region.height) < pdq.SMALLEST_SIDE:
            continue
        part = luma[found.top : found.top + found.height, found.left : found.left + found.width]
        reduced = pdq.downsample(part, region.height, region.width, by)
        spectrum = pdq.analyse(reduced, region.height, region.width)
        yield Forms(region, spectrum.quality, spectrum.forms)


def most_bytes(width: int, height: int) -> int:
    """Most memory that ``forms`` takes for a picture of this size."""
    by = scale(width, height)
    return min(-(-width // by) * -(-height // by), _MOST_PIXELS) * _BYTES_PER_PIXEL
