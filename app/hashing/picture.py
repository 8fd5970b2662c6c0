"""One decoded frame or page → strips of RGB pixels, upright, as a viewer shows them on a background.

Every pixel mode ends in the very RGB values that the same pixels have in an RGB PNG: palettes looked up,
16-bit samples cut to their high byte, CMYK, YCbCr and LAB converted as Pillow does, alpha laid on a
background. Only a strip at a time is converted, so that a picture costs no more than its decoded form.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.hashing.engine import pixels_in_place, pixels_of
from app.media import Background

Box = tuple[int, int, int, int]

_TRANSPOSITIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what sets the picture upright (EXIF 2.32, tag 0x0112)."""

_LYING: Final = frozenset({5, 6, 7, 8})
_FROM_THE_FAR_END: Final = frozenset({3, 4, 7, 8})
_FROM_THE_RIGHT: Final = frozenset({2, 3, 6, 7})
"""Orientations that set the picture upright with its stored corner at the bottom, and at the right."""

_HIGH_BYTE: Final = 256.0
_MOST_OF_8_BITS: Final = 2**8 - 1
_MOST_OF_16_BITS: Final = 2**16 - 1
_PEEK_PIXELS: Final = 2**18
_OPAQUE: Final = 255

_ALPHA_MODES: Final = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_SAMPLE_MODES: Final = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})


@dataclass(frozen=True)
class Picture:
    """A decoded frame or page, as it is stored.

    Attributes:
        image: its pixels, in any of Pillow's modes.
        orientation: EXIF's, 1 to 8, that is still to be applied.
        transparent: the one sample or RGB triple that stands for nothing, as stored.
        low_bytes: the low bytes of 16-bit RGB samples; ``image`` holds the high ones.
        divisor: what grey samples of more than 8 bits are divided by to fit 0 to 255.
        inverted: whether 0 is white.
        unsigned: whether 32-bit integers are, which Pillow holds as signed.
    """

    image: Image.Image
    orientation: int = 1
    transparent: tuple[int, ...] | None = None
    low_bytes: Image.Image | None = None
    divisor: float = _HIGH_BYTE
    inverted: bool = False
    unsigned: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as a viewer shows them."""
        return upright(self.image.size, self.orientation)

    def strips(self, rows: int, background: Background) -> Iterator[tuple[NDArray[np.uint8], bool]]:
        """Read the picture from top to bottom.

        Args:
            rows: of each strip; the last one may have fewer.
            background: what transparent pixels are laid on.

        Yields:
            A strip's pixels, uint8 (rows, width, channels), of which red, green and blue are the first; and
            whether none of them let the background through.
        """
        _, height = self.size
        pixels = self._pixels_in_place()
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            if pixels is not None:
                yield pixels[top:bottom], True
                continue
            strip = self.seen(self._stored_box(top, bottom))
            if self.orientation in _TRANSPOSITIONS:
                strip = strip.transpose(_TRANSPOSITIONS[self.orientation])
            if strip.mode == "RGB":
                yield pixels_of(strip), True
                continue
            alpha = strip.getchannel("A")
            if alpha.getextrema()[0] == _OPAQUE:
                yield pixels_of(strip.convert("RGB")), True
            else:
                below = Image.new("RGB", strip.size, background.value)
                below.paste(strip, mask=alpha)
                yield pixels_of(below), False

    def _pixels_in_place(self) -> NDArray[np.uint8] | None:
        """All pixels, where they are what a viewer shows; else None."""
        as_stored = self.orientation not in _TRANSPOSITIONS and self.transparent is None
        return pixels_in_place(self.image) if as_stored and self.image.mode == "RGB" else None

    def seen(self, box: Box) -> Image.Image:
        """A part of the picture, as stored, in RGB, or in RGBA if any of it may be transparent."""
        part = self.image.crop(box)
        if part.mode in _SAMPLE_MODES:
            return self._with_transparency(self._grey(box), np.asarray(part)[:, :, np.newaxis])
        if part.mode in _ALPHA_MODES:
            # Pillow knows no straight way from premultiplied grey to RGB.
            return (part.convert("LA") if part.mode == "La" else part).convert("RGBA")
        if part.mode == "P":
            transparent = "transparency" in part.info or (part.palette and part.palette.mode == "RGBA")
            return part.convert("RGBA" if transparent else "RGB")
        if self.transparent is None:
            return part if part.mode == "RGB" else part.convert("RGB")
        samples = np.asarray(part.convert("L") if part.mode == "1" else part, np.int32)
        if self.low_bytes is not None:
            samples = samples * 256 + np.asarray(self.low_bytes.crop(box), np.int32)
        return self._with_transparency(part.convert("RGB"), samples.reshape(*samples.shape[:2], -1))

    def with_fitting_divisor(self) -> Self:
        """The same picture, its 32-bit samples scaled by the range they use, since nothing else tells it.

        Integers are taken for 8, 16 or 32 bits, floats for 0 to 1 or for the same.
        """
        width, height = self.image.size
        rows = max(1, _PEEK_PIXELS // width)
        greatest = 0.0
        for top in range(0, height, rows):
            samples = self._values((0, top, width, min(top + rows, height)))
            greatest = max(greatest, float(samples.max(initial=0.0, where=np.isfinite(samples))))
        if self.image.mode == "F" and greatest <= 1:
            divisor = 1 / 255
        elif greatest <= _MOST_OF_8_BITS:
            divisor = 1.0
        elif greatest <= _MOST_OF_16_BITS:
            divisor = _HIGH_BYTE
        else:
            divisor = greatest / 255 if self.image.mode == "F" else 2.0**24
        return replace(self, divisor=divisor)

    def _values(self, box: Box) -> NDArray[np.float64]:
        samples = np.asarray(self.image.crop(box))
        # A float that is no number may say so aloud when it is copied.
        with np.errstate(invalid="ignore"):
            return (samples.view(np.uint32) if self.unsigned else samples).astype(np.float64)

    def _stored_box(self, top: int, bottom: int) -> Box:
        width, height = self.image.size
        length = width if self.orientation in _LYING else height
        if self.orientation in _FROM_THE_FAR_END:
            top, bottom = length - bottom, length - top
        return (top, 0, bottom, height) if self.orientation in _LYING else (0, top, width, bottom)

    def _grey(self, box: Box) -> Image.Image:
        values = np.nan_to_num(self._values(box) / self.divisor)
        # Floats have no high byte: whoever wrote them divided, so the nearest step is the one they had.
        values = np.rint(values) if self.image.mode == "F" else np.floor(values)
        grey = np.clip(values, 0, 255).astype(np.uint8)
        return Image.fromarray(255 - grey if self.inverted else grey).convert("RGB")

    def _with_transparency(self, rgb: Image.Image, samples: NDArray[np.generic]) -> Image.Image:
        if self.transparent is None:
            return rgb
        nothing = np.all(samples == np.array(self.transparent), axis=2)
        rgb.putalpha(Image.fromarray(np.where(nothing, np.uint8(0), np.uint8(_OPAQUE))))
        return rgb


@dataclass(frozen=True)
class Small:
    """A grey picture made or decoded smaller than it is, upright.

    Attributes:
        luma: uint8 (rows, columns), each pixel the mean of ``scale`` by ``scale`` of the picture's.
        width: of the picture itself, in pixels, as a viewer shows it.
        height: the same.
        scale: how many times smaller it is.
        from_end: whether rows, and columns, were grouped from the end: the first ones may stand for less.
    """

    luma: NDArray[np.uint8]
    width: int
    height: int
    scale: int
    from_end: tuple[bool, bool] = (False, False)

    @classmethod
    def of(cls, stored: Image.Image, size: tuple[int, int], orientation: int, scale: int) -> Self:
        """Set a small picture upright, mode L; ``size`` is that of the large one as it is stored."""
        turned = stored.transpose(_TRANSPOSITIONS[orientation]) if orientation in _TRANSPOSITIONS else stored
        from_end = orientation in _FROM_THE_FAR_END, orientation in _FROM_THE_RIGHT
        return cls(pixels_of(turned), *upright(size, orientation), scale, from_end)


def upright(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height of a stored picture as a viewer shows it."""
    width, height = size
    return (height, width) if orientation in _LYING else (width, height)
