"""Pictures drawn by code, and what was found in them."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from app.hashing.pdq import Reducer
from app.hashing.records import Forms, Limits, Need
from app.hashing.scan import scan
from app.media import Reason, Rendering, Shape

LIMITS = Limits(
    max_pixels=100_000_000, max_frames=500, max_decode_bytes=640 * 2**20, disabled_formats=frozenset()
)


def drawing(seed: int = 1, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """A picture as a camera might make it: soft colours, hard edges, grain."""
    chance = np.random.default_rng(seed)
    picture = Image.fromarray(chance.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    pen = ImageDraw.Draw(picture)
    for _ in range(12):
        left, top = chance.integers(0, size[0]), chance.integers(0, size[1])
        across, down = chance.integers(10, max(11, size[0] // 3)), chance.integers(10, max(11, size[1] // 3))
        colour = tuple(int(level) for level in chance.integers(0, 256, 3))
        shape = pen.ellipse if chance.random() < 0.5 else pen.rectangle
        shape((int(left), int(top), int(left + across), int(top + down)), fill=colour)
    grain = chance.integers(-6, 7, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(picture, np.int16) + grain, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, encoder: str, **options: Any) -> bytes:
    """A picture in a format of Pillow's. Drawn pictures are copied: encoders leave settings on them."""
    file = io.BytesIO()
    options["append_images"] = [frame.copy() for frame in options.get("append_images", [])]
    picture.copy().save(file, encoder, save_all=bool(options["append_images"]), **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    """EXIF that says how the picture is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pdq_of(picture: Image.Image) -> tuple[bytes, int]:
    """What pdqhash gives for a picture's pixels as RGB."""
    vector, quality = pdqhash.compute(np.asarray(picture.convert("RGB")))
    return np.packbits(vector.astype(bool)).tobytes(), int(quality)


def distance(one: bytes, other: bytes) -> int:
    """Hamming distance in bits."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


@dataclass(frozen=True)
class Found:
    """All that a scan told."""

    shape: Shape | None
    need: int | None
    renderings: list[Rendering]
    reason: Reason | None
    forms: list[Forms]

    @property
    def pdqs(self) -> list[tuple[bytes, int]]:
        return [(rendering.pdq, rendering.quality) for rendering in self.renderings]


def found_in(medium: bytes, **changed: Any) -> Found:
    """Scan a medium as the process around ``scan`` does."""
    limits: Mapping[str, Any] = vars(LIMITS) | changed
    scanning = scan(medium, Limits(**limits))
    shapes: list[Shape] = []
    needs: list[int] = []
    renderings: list[Rendering] = []
    forms: list[Forms] = []
    reason = None
    while True:
        try:
            told = next(scanning)
        except StopIteration as end:
            reason = end.value
            break
        if isinstance(told, Shape):
            assert not needs
            shapes.append(told)
        elif isinstance(told, Need):
            assert shapes
            assert not renderings
            needs.append(told.bytes)
        elif isinstance(told, Forms):
            assert renderings
            forms.append(told)
        else:
            assert needs
            renderings.append(told)
    assert len(shapes) <= 1
    assert len(needs) <= 1
    return Found(shapes[0] if shapes else None, needs[0] if needs else None, renderings, reason, forms)


def dense(reducer: Reducer, length: int) -> NDArray[np.float64]:
    """What PDQ sums a side up by, with its zeros: float64 (64, length)."""
    matrix = np.zeros((64, length))
    for row, weights, start, end in zip(matrix, *reducer, strict=True):
        row[start:end] = weights[: end - start]
    return matrix
