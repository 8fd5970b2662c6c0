"""One untrusted medium → its shape and the hashes of its renderings, inside the locked child process.

``scan`` is a generator: the process around it forwards what it yields, and resumes it after ``Need`` only
when the memory it asks for was granted.

A quick look decodes a JPEG's luma alone, smaller, and says which bits of its hashes are in doubt. It is
enough to see that nothing is near. What it cannot answer for gets the canonical look in its stead, unasked.
The parts of a JPEG are hashed by the small copy in both, so that they come out the same.
"""

import hashlib
import mmap
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app import formats
from app.hashing import parts, pdq, perceptual, samples
from app.hashing.decode import Medium, Size, UndecodableError, open_medium
from app.hashing.picture import Picture, Small
from app.hashing.records import MAX_DOUBTFUL_BITS, Forms, Limits, Look, Need, most_doubted
from app.media import PDQ_BYTES, PDQ_MINIMUM_QUALITY, Background, Reason, Rendering, Shape

_Finder = Callable[[NDArray[np.uint8]], Iterable[Forms]]
"""Gives the hashes of the parts of a picture, of which a grey copy is at hand."""

_CLOSELY: Final = Look()

_DOUBTFUL_QUALITY: Final = 4
"""A quick look's quality was at most 2 off a canonical one's, of 907 JPEGs."""

_LONGEST_SIDE: Final = 65_535
"""Largest width or height in pixels: what most formats can hold at all. Beyond, memory goes by the side."""

_LARGEST_SIDE_TOLD: Final = 2**32 - 1
"""Largest width or height that a record holds; a TIFF of 64-bit places can claim more."""


def scan(
    untrusted: mmap.mmap | bytes, limits: Limits, look: Look = _CLOSELY
) -> Generator[Shape | Need | Rendering | Forms, None, Reason | None]:
    """Hash every rendering of a medium.

    Args:
        untrusted: all of its bytes.
        limits: what it may ask of the decoder.
        look: how closely.

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
        small = _small(medium) if look.quick or look.parts else None
        quickly = _look_quickly(small) if small and look.quick else []
        found = list(parts.forms(small)) if small and look.parts else []
        if quickly:
            yield from (*quickly, *found)
            return None
        find_parts: _Finder = _parts_of if look.parts and small is None else lambda _: found
        return (yield from _renderings(medium, limits, find_parts))
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
    # Found out once, for all workers.
    perceptual.shrinks_as_pillow()
    limits = Limits(max_pixels=2**20, max_frames=10, max_decode_bytes=2**30, disabled_formats=frozenset())
    for sample in samples.every():
        if not any(isinstance(told, Rendering) for told in list(scan(sample, limits))):
            raise RuntimeError("a decoder cannot read its own sample")


def _small(medium: Medium) -> Small | None:
    """The only picture of a medium, decoded smaller; None where that cannot be done, or not well."""
    width, height = medium.sizes[0]
    if medium.smaller is None or len(medium.sizes) > 1 or min(width, height) < pdq.SMALLEST_SIDE:
        return None
    # What is damaged is damaged in the canonical look as well, which is the one to say so.
    with suppress(UndecodableError):
        return medium.smaller(parts.scale(width, height))
    return None


def _look_quickly(small: Small) -> list[Rendering | Forms]:
    """The hashes of a whole picture by its small copy; nothing if they are too much in doubt."""
    if not parts.is_detailed(small.width, small.height):
        return []
    reduced = pdq.downsample(small.luma, small.height, small.width, small.scale, small.from_end)
    spectrum = pdq.analyse(reduced, small.height, small.width)
    hashes, doubts = spectrum.forms, spectrum.doubts
    if spectrum.quality < PDQ_MINIMUM_QUALITY + _DOUBTFUL_QUALITY or most_doubted(doubts) > MAX_DOUBTFUL_BITS:
        return []
    whole = Rendering(0, Background.NONE, hashes[:PDQ_BYTES], spectrum.quality, b"", doubts=doubts)
    return [whole, Forms(None, spectrum.quality, hashes)]


def _parts_of(grey: NDArray[np.uint8]) -> Iterable[Forms]:
    return parts.forms(parts.small_copy(grey))


def _renderings(
    medium: Medium, limits: Limits, find_parts: _Finder
) -> Generator[Rendering | Forms, None, Reason | None]:
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
            opaque, hashed = _hash(picture, background, find_parts, seen if several else None)
            if hashed is not None:
                shown = Background.NONE if opaque else background
                yield Rendering(frame, shown, hashed.pdq, hashed.quality, hashed.phash)
                yield from hashed.forms
            del hashed
            if opaque:
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


def _hash(
    picture: Picture, background: Background, find_parts: _Finder, seen: set[bytes] | None
) -> tuple[bool, _Hashed | None]:
    """Read a picture once, and again only where PDQ's reference must be asked.

    Args:
        picture: a frame or page.
        background: what it is laid on.
        find_parts: gives the hashes of its parts.
        seen: digests of the pixels that were hashed before, where there are several pictures; this one's is
            added.

    Returns:
        Whether it hides the background, and its hashes; None for those if its pixels were seen before, as in
        animations that stand still for a while.
    """
    width, height = picture.size
    rows = pdq.strip_rows(width)
    downsampler = pdq.Downsampler(height, width) if min(width, height) >= pdq.SMALLEST_SIDE else None
    shrinker = perceptual.Shrinker(width, height)
    digest = hashlib.blake2b(f"{width} {height} ".encode(), digest_size=16)
    opaque = True
    for pixels, strip_is_opaque in picture.strips(rows, background):
        opaque = opaque and strip_is_opaque
        shrinker.add(pixels)
        if downsampler is not None:
            downsampler.add(pixels)
        if seen is not None:
            digest.update(pixels[:, :, :3].tobytes())
    if seen is not None:
        if digest.digest() in seen:
            return opaque, None
        seen.add(digest.digest())
    phash = shrinker.finish()
    if downsampler is None:
        return opaque, _Hashed(bytes(PDQ_BYTES), 0, phash, [])
    spectrum = pdq.analyse(downsampler.finish(), height, width)
    forms = [Forms(None, spectrum.quality, spectrum.forms), *find_parts(shrinker.grey)]
    # Its grey copy goes before the reference, which may want memory, comes.
    del shrinker

    def strips() -> Iterator[NDArray[np.uint8]]:
        return (pixels for pixels, _ in picture.strips(rows, background))

    value, quality = pdq.settle(spectrum, height, width, strips)
    return opaque, _Hashed(value, quality, phash, forms)


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
    copies = max(
        perceptual.most_bytes(width, height),
        width * height + parts.most_bytes(width, height),
        pdq.reference_bytes(width, height),
    )
    return strips + pdq.sums_bytes(width, height) + copies
