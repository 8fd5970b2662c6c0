"""PNG and APNG: their chunks, checked, and an animation's frames as a viewer composes them.

Only the chunks that make pixels are handed to the decoder, so compressed texts, profiles and whatever else
a PNG carries are never inflated. A chunk that is cut short, fails its checksum or is out of order makes the
whole PNG corrupt, as viewers built on libpng hold it.

Source: Portable Network Graphics, third edition (W3C), with APNG's acTL, fcTL and fdAT.
"""

import mmap
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import IO, Final, NamedTuple

from PIL import Image

from app.hashing.reader import Piece, file_of

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_PALETTE: Final = 3
_COLOURS: Final = 2
_SIXTEEN_BITS: Final = 16
_CRITICAL: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_DESCRIBING: Final = frozenset({b"PLTE", b"tRNS", b"acTL"})
_ANIMATING: Final = frozenset({b"fcTL", b"fdAT"})
_CHECKED: Final = _CRITICAL | _DESCRIBING | _ANIMATING
_HEADER: Final = struct.Struct(">IIBBBBB")


class DamagedPngError(Exception):
    """The chunks do not make a PNG."""


class Disposal(IntEnum):
    """What becomes of a frame's region before the next frame is drawn."""

    NONE = 0
    BACKGROUND = 1
    PREVIOUS = 2


class Blend(IntEnum):
    """How a frame is laid on what is there."""

    SOURCE = 0
    OVER = 1


class _Header(NamedTuple):
    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filtering: int
    interlace: int


@dataclass(frozen=True)
class Frame:
    """One frame of an animation: its region, how it is drawn, and where its compressed pixels are."""

    size: tuple[int, int]
    corner: tuple[int, int]
    disposal: Disposal
    blend: Blend
    data: list[Piece] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Chunks:
    """What a PNG's chunks say.

    Attributes:
        transparency: content of tRNS.
        exif: content of eXIf.
        still: where the compressed pixels of the picture outside the animation are; empty if there is none.
        frames: of the animation, at most as many as were asked for; empty if it is none.
    """

    header: _Header
    palette: bytes = field(repr=False)
    transparency: bytes = field(repr=False)
    exif: bytes = field(repr=False)
    still: list[Piece] = field(repr=False)
    frames: list[Frame]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture, or of an animation's canvas."""
        return self.header.width, self.header.height

    @property
    def transparent(self) -> tuple[int, ...] | None:
        """The one sample or RGB triple that stands for nothing, in the values that Pillow decodes to."""
        depth, colour = self.header.depth, self.header.colour
        count = {0: 1, _COLOURS: 3}.get(colour, 0)
        if not count or len(self.transparency) < 2 * count:
            return None
        samples = struct.unpack_from(f">{count}H", self.transparency)
        most = 2**depth - 1
        # Pillow spreads fewer than 8 bits over 0 to 255.
        return tuple((sample & most) * (255 // most if depth < 8 else 1) for sample in samples)  # noqa: PLR2004 - bits of a byte

    @property
    def splits_samples(self) -> bool:
        """Whether pixels must be decoded twice, since only their full 16 bits tell which are transparent."""
        return (
            self.header.depth == _SIXTEEN_BITS and self.header.colour == _COLOURS and bool(self.transparency)
        )

    def as_png(self, size: tuple[int, int], data: list[Piece]) -> IO[bytes]:
        """A PNG of these compressed pixels alone."""
        length = sum(end - start for _, start, end in data)
        before = SIGNATURE + _chunk(b"IHDR", _HEADER.pack(*size, *self.header[2:]))
        if self.header.colour == _PALETTE:
            before += _chunk(b"PLTE", self.palette)
            if self.transparency:
                before += _chunk(b"tRNS", self.transparency)
        before += struct.pack(">I4s", length, b"IDAT")
        # The checksums of the data were checked where they stood; the decoder skips this one.
        after = bytes(4) + _chunk(b"IEND", b"")
        return file_of([(before, 0, len(before)), *data, (after, 0, len(after))])


def read_chunks(untrusted: mmap.mmap | bytes, most_frames: int) -> Chunks:
    """Walk all chunks of a PNG, keeping no more than ``most_frames`` frames of an animation.

    Raises:
        DamagedPngError: they do not make a PNG.
    """
    walk = _walk(untrusted)
    # None, where IEND comes first.
    kind, start, end = next(walk, (b"", 0, 0))
    if kind != b"IHDR" or end - start != _HEADER.size:
        raise DamagedPngError
    header = _Header(*_HEADER.unpack(untrusted[start:end]))
    kept: dict[bytes, bytes] = {}
    still: list[Piece] = []
    frames: list[Frame] = []
    # Compressed pixels belong to the last frame that was announced, to the still picture before that.
    data, sequence, before = still, 0, kind
    has_pixels = False
    for kind, start, end in walk:
        if kind == b"IDAT":
            if has_pixels and before != b"IDAT":
                raise DamagedPngError
            has_pixels = True
            data.append((untrusted, start, end))
        elif kind in _ANIMATING and b"acTL" in kept:
            if untrusted[start : start + 4] != struct.pack(">I", sequence):
                raise DamagedPngError
            sequence += 1
            if kind == b"fcTL":
                frame = _frame(untrusted[start:end], (header.width, header.height))
                frames.extend([frame] if len(frames) < most_frames else [])
                data = frame.data
            elif data is still or not has_pixels:
                raise DamagedPngError
            else:
                data.append((untrusted, start + 4, end))
        elif kind == b"eXIf" or (kind in _DESCRIBING and not has_pixels):
            kept.setdefault(kind, untrusted[start:end])
        before = kind
    if not has_pixels or (header.colour == _PALETTE and not kept.get(b"PLTE")):
        raise DamagedPngError
    return Chunks(
        header,
        palette=kept.get(b"PLTE", b""),
        transparency=kept.get(b"tRNS", b""),
        exif=kept.get(b"eXIf", b""),
        still=still,
        frames=frames,
    )


def compose(
    chunks: Chunks, decode: Callable[[tuple[int, int], list[Piece]], Image.Image]
) -> Iterator[Image.Image]:
    """The canvas of an animation after each frame, RGBA; the next frame is drawn on the same picture.

    Args:
        chunks: of the animation.
        decode: decodes compressed pixels of a size to RGBA.
    """
    if not chunks.frames:
        return
    canvas = Image.new("RGBA", chunks.size)
    for index, frame in enumerate(chunks.frames):
        (left, top), (width, height) = frame.corner, frame.size
        box = (left, top, left + width, top + height)
        pixels = decode(frame.size, frame.data)
        behind = canvas.crop(box)
        if frame.blend is Blend.OVER:
            canvas.alpha_composite(pixels, frame.corner)
        else:
            canvas.paste(pixels, box)
        yield canvas
        # Before the first frame there was nothing to go back to.
        if frame.disposal is Disposal.PREVIOUS and index:
            canvas.paste(behind, box)
        elif frame.disposal is not Disposal.NONE:
            canvas.paste((0, 0, 0, 0), box)


def _walk(untrusted: mmap.mmap | bytes) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's kind and the start and end of its content, up to and without IEND."""
    place, size = len(SIGNATURE), len(untrusted)
    while True:
        if place + 12 > size:
            raise DamagedPngError
        length, kind = struct.unpack(">I4s", untrusted[place : place + 8])
        start, end = place + 8, place + 8 + length
        if end + 4 > size or (kind not in _CRITICAL and not kind[0] & 0x20):
            raise DamagedPngError
        if kind in _CHECKED:
            checksum = zlib.crc32(untrusted[start:end], zlib.crc32(kind))
            if untrusted[end : end + 4] != struct.pack(">I", checksum):
                raise DamagedPngError
        if kind == b"IEND":
            return
        yield kind, start, end
        place = end + 4


def _frame(content: bytes, canvas: tuple[int, int]) -> Frame:
    try:
        _, width, height, left, top, _, _, disposal, blend = struct.unpack(">IIIIIHHBB", content)
        frame = Frame((width, height), (left, top), Disposal(disposal), Blend(blend))
    except (struct.error, ValueError):
        raise DamagedPngError from None
    if not width or not height or left + width > canvas[0] or top + height > canvas[1]:
        raise DamagedPngError
    return frame


def _chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I4s", len(content), kind)
        + content
        + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    )
