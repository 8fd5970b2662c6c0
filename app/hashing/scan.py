"""One untrusted medium → its shape and the hashes of its renderings, inside the locked child process.

``scan`` is a generator: the process around it forwards what it yields, and resumes it after ``Need`` only
when the memory it asks for was granted.
"""

import hashlib
import mmap
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from app import formats
from app.hashing import parts, pdq, samples
from app.hashing.decode import Medium, Size, UndecodableError, open_medium
from app.hashing.perceptual import Shrinker
from app.hashing.picture import Picture
from app.hashing.records import Forms, Limits, Need
from app.media import PDQ_BYTES, Background, Reason, Rendering, Shape

_LONGEST_SIDE = 65_535
"""Largest width or height in pixels: what most formats can hold at all. Beyond, memory goes by the side."""

_LARGEST_SIDE_TOLD = 2**32 - 1
"""Largest width or height that a record holds; a TIFF of 64-bit places can claim more."""


def scan(
    untrusted: mmap.mmap | bytes, limits: Limits
) -> Generator[Shape | Need | Rendering | Forms, None, Reason | None]:
    """Hash every rendering of a medium.

    Args:
        untrusted: all of its bytes.
        limits: what it may ask of the decoder.

    Yields:
        Its shape once, then the memory it needs, then, once resumed, its renderings in order, each followed
        by its forms. The shape counts frames only up to one more than ``limits.max_frames``.

    Returns:
        None if it was fully scanned, else the reason; what was yielded so far stays valid.
    """
    if not len(untrusted):
        return Reason.EMPTY
    told = formats.tell(untrusted[: formats.HEAD_BYTES])
    if told not in formats.IMAGES or told.name in limits.disabled_formats:
        return Reason.UNSUPPORTED_FORMAT
    try:
        medium = open_medium(untrusted, told, most_frames=limits.max_frames + 1, max_pixels=limits.max_pixels)
        _check_sides(side for size in medium.sizes for side in size)
        width, height = medium.sizes[0]
        yield Shape(told.kind, told.name, width, height, len(medium.sizes))
        need = Need(medium.decode_bytes + max(_hashing_bytes(size) for size in medium.sizes))
        if need.bytes > limits.max_decode_bytes or not all(_fits(size, limits) for size in medium.sizes):
            return Reason.TOO_MANY_PIXELS
        yield need
        return (yield from _renderings(medium, limits))
    except UndecodableError as error:
        return error.reason


def preload() -> None:
    """Import every plugin and warm every decoder, so that nothing is imported or opened afterwards.

    Raises:
        RuntimeError: a sample cannot be read, or PDQ comes out otherwise than pdqhash's on this machine, so
            that no answer of this process could be trusted.
    """
    if not pdq.agrees_with_reference():
        raise RuntimeError("PDQ differs from pdqhash on this machine; no hash can be trusted")
    limits = Limits(max_pixels=2**20, max_frames=10, max_decode_bytes=2**30, disabled_formats=frozenset())
    for sample in samples.every():
        if not any(isinstance(told, Rendering) for told in list(scan(sample, limits))):
            raise RuntimeError("a decoder cannot read its own sample")


def _renderings(medium: Medium, limits: Limits) -> Generator[Rendering | Forms, None, Reason | None]:
    several = len(medium.sizes) > 1
    seen: set[bytes] = set()
    decoded = 0
    # Not enumerate, which holds on to the last picture while the next is decoded.
    for picture in islice(medium.pictures(), limits.max_frames):
        if decoded == len(medium.sizes):
            # More than its headers told, and so than its shape has.
            return Reason.CORRUPT
        frame, decoded = decoded, decoded + 1
        if not _fits(picture.size, limits):
            return Reason.TOO_MANY_PIXELS
        for background in (Background.WHITE, Background.BLACK):
            hashed = _hash(picture, background, with_digest=several)
            if hashed.digest not in seen:
                if hashed.digest is not None:
                    seen.add(hashed.digest)
                shown = Background.NONE if hashed.opaque else background
                yield Rendering(frame, shown, hashed.pdq, hashed.quality, hashed.phash)
                yield from hashed.forms
            if hashed.opaque:
                break
        del picture
    if len(medium.sizes) > limits.max_frames:
        return Reason.TOO_MANY_FRAMES
    return None if decoded == len(medium.sizes) else Reason.CORRUPT


@dataclass(frozen=True)
class _Hashed:
    pdq: bytes
    quality: int
    phash: bytes
    forms: list[Forms]
    opaque: bool
    digest: bytes | None


def _hash(picture: Picture, background: Background, *, with_digest: bool) -> _Hashed:
    """Read a picture once, and again only where PDQ's reference must be asked."""
    width, height = picture.size
    rows = pdq.strip_rows(width)
    downsampler = pdq.Downsampler(height, width) if min(width, height) >= pdq.SMALLEST_SIDE else None
    shrinker = Shrinker(width, height)
    digest = hashlib.blake2b(f"{width} {height} ".encode(), digest_size=16) if with_digest else None
    opaque = True
    for strip, strip_is_opaque in picture.strips(rows, background):
        opaque = opaque and strip_is_opaque
        pixels = np.asarray(strip)
        shrinker.add(strip)
        if downsampler is not None:
            downsampler.add(pixels)
        if digest is not None:
            digest.update(pixels.data)
    phash = shrinker.finish()
    if downsampler is None:
        return _Hashed(bytes(PDQ_BYTES), 0, phash, [], opaque, digest.digest() if digest else None)
    spectrum = pdq.analyse(downsampler.finish(), width * height)
    forms = [Forms(None, spectrum.quality, spectrum.forms), *parts.forms(shrinker.grey)]
    # Its grey copy goes before the reference, which may want memory, comes.
    del shrinker

    def strips() -> Iterator[NDArray[np.uint8]]:
        return (np.asarray(strip) for strip, _ in picture.strips(rows, background))

    value, quality = pdq.settle(spectrum, height, width, strips)
    return _Hashed(value, quality, phash, forms, opaque, digest.digest() if digest else None)


def _check_sides(sides: Iterable[int]) -> None:
    for side in sides:
        if side < 1:
            raise UndecodableError(Reason.CORRUPT)
        if side > _LARGEST_SIDE_TOLD:
            raise UndecodableError(Reason.TOO_MANY_PIXELS)


def _fits(size: Size, limits: Limits) -> bool:
    return size[0] * size[1] <= limits.max_pixels and max(size) <= _LONGEST_SIDE


def _hashing_bytes(size: Size) -> int:
    """Most memory that reading a decoded picture takes, besides the picture."""
    width, height = size
    strips = 16 * pdq.STRIP_BYTES
    copies = max(width * height + parts.most_bytes(width, height), pdq.reference_bytes(width, height))
    return strips + pdq.sums_bytes(width, height) + copies
