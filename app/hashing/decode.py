"""Untrusted bytes of a known format → what its headers say, then its frames and pages, decoded one by one.

Each format is read by the one decoder named here; no other ever sees the bytes. Headers are read first and
tell every size and the memory that decoding takes, so that what is too large is refused before a pixel of
it exists. What a decoder raises on damaged bytes becomes ``UndecodableError``; memory that runs out does not.

Deliberately not read: embedded thumbnails, depth maps and profiles; TIFF's sub-directories.
"""

import mmap
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, islice
from typing import Final, TypeVar

from PIL import AvifImagePlugin, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    ROWSPERSTRIP,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TILELENGTH,
    TILEWIDTH,
    TiffImageFile,
)
from PIL.WebPImagePlugin import WebPImageFile
from pillow_heif import open_heif, options

from app import formats
from app.formats import Format
from app.hashing import png
from app.hashing.picture import Picture, Small, upright
from app.hashing.reader import Piece, whole
from app.media import Reason

Untrusted = mmap.mmap | bytes
Size = tuple[int, int]
File = TypeVar("File", bound=ImageFile)
Item = TypeVar("Item")

_DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    RuntimeError,
    struct.error,
    png.DamagedPngError,
)
"""What Pillow's decoders and pillow_heif raise on bytes that are not what they should be."""

# Threads of a decoder's own have no place in a locked process; thumbnails and the like are not looked at.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
options.DECODE_THREADS = 1
options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False

_COARSEST_STEP: Final = 43
"""Largest step of a block's mean, in luma or colours, of which a quick look was measured: quality 20."""

_BYTES_PER_PIXEL: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Of Pillow's modes in memory; all others take 4."""


class UndecodableError(Exception):
    """The medium, or the rest of it, cannot be decoded. ``reason`` tells why."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason: Final = reason


@dataclass(frozen=True)
class Medium:
    """An opened medium, of which no pixel is decoded yet.

    Attributes:
        sizes: width and height of each frame or page as a viewer shows them, as far as the headers could be
            read, and never more than were asked for.
        decode_bytes: most memory that is in use at once while its frames are decoded.
        pictures: decodes them in order. Each picture is good until the next is asked for.
        smaller: decodes the only picture so many times smaller, in grey, for less than ``pictures`` takes;
            None where that cannot be done.
    """

    sizes: tuple[Size, ...]
    decode_bytes: int
    pictures: Callable[[], Iterator[Picture]]
    smaller: Callable[[int], Small] | None = None


@contextmanager
def decoding(max_pixels: int) -> Iterator[None]:
    """Surrounds every call into a decoder.

    Raises:
        UndecodableError: the bytes are damaged, or a picture in them has more than ``max_pixels``.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UndecodableError(Reason.TOO_MANY_PIXELS) from None
    except _DECODER_ERRORS:
        raise UndecodableError(Reason.CORRUPT) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def open_medium(untrusted: Untrusted, told: Format, *, most_frames: int, max_pixels: int) -> Medium:
    """Read a medium's headers.

    Args:
        untrusted: all its bytes.
        told: its format, one of ``formats.IMAGES``.
        most_frames: how many frames or pages to look for; the medium may have more.
        max_pixels: most pixels of any of them.

    Raises:
        UndecodableError: not even its headers can be read.
    """
    return _OPENERS[told](untrusted, most_frames, max_pixels)


def _jpeg(untrusted: Untrusted, most_frames: int, max_pixels: int) -> Medium:
    """A JPEG, and the other pictures of a multi-picture file (CIPA DC-007) that are really there."""

    def load(start: int, *, header: bool = False) -> JpegImageFile:
        with decoding(max_pixels):
            image = JpegImageFile(whole(untrusted, start))
            if not header:
                image.load()
            return image

    first = load(0, header=True)
    orientation = _orientation(first)
    starts = [0]
    for start in _multi_picture_starts(first):
        if untrusted[start : start + 2] == b"\xff\xd8" and start not in starts:
            starts.append(start)
    further = _until_undecodable(load(start, header=True) for start in starts[1:most_frames])
    headers = [first, *further]

    def picture(start: int) -> Picture:
        image = load(start)
        return Picture(image, _orientation(image))

    def smaller(scale: int) -> Small:
        """Luma alone, by a transform of each block's lowest frequencies alone; to be called once."""
        size = width, height = first.size
        with decoding(max_pixels):
            first.draft("L", (max(1, width // scale), max(1, height // scale)))
            first.load()
        if first.mode != "L" or first.size != (-(-width // scale), -(-height // scale)):
            raise UndecodableError(Reason.CORRUPT)
        return Small.of(first, size, orientation, scale)

    return Medium(
        sizes=(
            upright(first.size, orientation),
            *(upright(image.size, _orientation(image)) for image in further),
        ),
        decode_bytes=max(_jpeg_bytes(image) for image in headers),
        pictures=lambda: map(picture, starts),
        smaller=smaller if len(starts) == 1 and _luma_is_what_is_seen(first) else None,
    )


def _luma_is_what_is_seen(image: JpegImageFile) -> bool:
    """Whether the luma alone tells what a viewer shows, but for what clips.

    Colours that are coarser than by two, or of coarser steps than any that was measured, which hardly anybody
    writes, clip where the luma has no trace of it.
    """
    if image.mode not in ("L", "RGB"):
        return False
    _, across, down, _ = zip(*image.layer, strict=True)
    # A file without tables is damaged, which is for the canonical look to say.
    coarsest = max((steps[0] for steps in image.quantization.values()), default=0)
    return bool(2 * min(across) >= max(across) and 2 * min(down) >= max(down) and coarsest <= _COARSEST_STEP)


def _multi_picture_starts(image: JpegImageFile) -> Iterator[int]:
    """Where the multi-picture index says that the further pictures start."""
    index = image.info.get("mp", b"")
    order = ">" if index[:2] == b"MM" else "<"
    with suppress(struct.error):
        (directory,) = struct.unpack_from(f"{order}I", index, 4)
        (count,) = struct.unpack_from(f"{order}H", index, directory)
        for tag in range(directory + 2, directory + 2 + 12 * count, 12):
            name, _, length, place = struct.unpack_from(f"{order}HHII", index, tag)
            if name == 0xB002:  # noqa: PLR2004 - MPEntry
                for entry in range(place, place + length, 16):
                    (offset,) = struct.unpack_from(f"{order}I", index, entry + 8)
                    if offset:
                        yield image.info["mpoffset"] + offset


def _jpeg_bytes(image: JpegImageFile) -> int:
    """The picture, and all coefficients at 2 bytes each where they come in more than one scan."""
    width, height = image.size
    need = width * height * _bytes_per_pixel(image.mode)
    assert image.fp is not None  # noqa: S101 - for the type checker: the header was just read
    scan_end = image.fp.tell()
    image.fp.seek(max(0, scan_end - 2 * image.layers - 8))
    one_scan = image.fp.read(5) == b"\xff\xda" + struct.pack(">HB", 2 * image.layers + 6, image.layers)
    if not one_scan or "progressive" in image.info:
        most_across = max((across for _, across, _, _ in image.layer), default=1)
        most_down = max((down for _, _, down, _ in image.layer), default=1)
        shares = sum(across * down for _, across, down, _ in image.layer) / max(1, most_across * most_down)
        need += int(2 * shares * (width + 64) * (height + 64))
    return need


def _png(untrusted: Untrusted, most_frames: int, max_pixels: int) -> Medium:
    with decoding(max_pixels):
        chunks = png.read_chunks(untrusted, most_frames)
        mode = PngImageFile(chunks.as_png(chunks.size, chunks.still or chunks.frames[0].data)).mode
    orientation = _orientation_of(chunks.exif)

    def load(size: Size, data: list[Piece]) -> Picture:
        image, low_bytes = PngImageFile(chunks.as_png(size, data)), None
        image.load()
        if chunks.splits_samples:
            low_bytes = PngImageFile(chunks.as_png(size, data))
            # Read as little-endian, the byte that is kept is the other one.
            low_bytes.tile = [low_bytes.tile[0]._replace(args="RGB;16L")]
            low_bytes.load()
        return Picture(image, orientation, chunks.transparent, low_bytes)

    def load_rgba(size: Size, data: list[Piece]) -> Image.Image:
        return load(size, data).seen((0, 0, *size)).convert("RGBA")

    def pictures() -> Iterator[Picture]:
        if chunks.still:
            with decoding(max_pixels):
                picture = load(chunks.size, chunks.still)
            yield picture
            del picture
        canvases = png.compose(chunks, load_rgba)
        while True:
            with decoding(max_pixels):
                canvas = next(canvases, None)
            if canvas is None:
                return
            yield Picture(canvas, orientation)

    pixels = _pixels(chunks.size)
    once = pixels * _bytes_per_pixel(mode) * (2 if chunks.splits_samples else 1)
    return Medium(
        sizes=(upright(chunks.size, orientation),)
        * min(bool(chunks.still) + len(chunks.frames), most_frames),
        decode_bytes=once + (pixels * 22 if chunks.frames else 0),
        pictures=pictures,
    )


def _gif(untrusted: Untrusted, most_frames: int, max_pixels: int) -> Medium:
    with decoding(max_pixels):
        sizes = _gif_sizes(untrusted, most_frames)

    def pictures() -> Iterator[Picture]:
        for image in _sequence(GifImageFile, untrusted, max_pixels):
            # A GIF without a palette is grey.
            transparent = image.info.get("transparency") if image.mode == "L" else None
            yield Picture(image, transparent=None if transparent is None else (transparent,))

    return Medium(
        sizes=sizes,
        decode_bytes=max(_pixels(size) for size in sizes) * (3 if len(sizes) == 1 else 22),
        pictures=pictures,
    )


def _gif_sizes(untrusted: Untrusted, most_frames: int) -> tuple[Size, ...]:
    """The canvas at each frame, from the blocks' lengths alone; it grows with frames that stand out."""
    width, height, flags = struct.unpack_from("<HHB", untrusted, 6)
    place = 13 + _gif_palette_bytes(flags)
    sizes: list[Size] = []
    while len(sizes) < most_frames and place < len(untrusted):
        kind = untrusted[place]
        place += 1
        if kind == 0x3B:  # noqa: PLR2004 - the trailer
            break
        if kind == 0x2C:  # noqa: PLR2004 - an image
            left, top, across, down, flags = struct.unpack("<HHHHB", untrusted[place : place + 9])
            width, height = max(width, left + across), max(height, top + down)
            sizes.append((width, height))
            place += 9 + _gif_palette_bytes(flags) + 1
        elif kind == 0x21:  # noqa: PLR2004 - an extension
            place += 1
        else:
            continue
        while place < len(untrusted) and (length := untrusted[place]):
            place += 1 + length
        place += 1
    if not sizes:
        raise UndecodableError(Reason.CORRUPT)
    return tuple(sizes)


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp(untrusted: Untrusted, most_frames: int, max_pixels: int) -> Medium:
    """Read from the container: libwebp allocates two canvases as soon as it opens a file."""
    size: Size | None = None
    exif, frames = b"", 0
    with decoding(max_pixels):
        for kind, start, end in _webp_chunks(untrusted):
            head = untrusted[start : start + 10]
            if kind == b"VP8X":
                size = (1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little"))
            elif kind == b"VP8 ":
                across, down = struct.unpack("<HH", head[6:10])
                size = size or (across & 0x3FFF, down & 0x3FFF)
            elif kind == b"VP8L":
                bits = int.from_bytes(head[1:5], "little")
                size = size or (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
            elif kind == b"ANMF":
                frames += 1
                if frames == most_frames:
                    break
            elif kind == b"EXIF" and not exif:
                exif = untrusted[start:end]
    if size is None:
        raise UndecodableError(Reason.CORRUPT)

    def pictures() -> Iterator[Picture]:
        for image in _sequence(WebPImageFile, untrusted, max_pixels):
            yield Picture(image, _orientation(image))

    return Medium(
        sizes=(upright(size, _orientation_of(exif)),) * max(frames, 1),
        decode_bytes=_pixels(size) * 18 + 3 * len(untrusted),
        pictures=pictures,
    )


def _webp_chunks(untrusted: Untrusted) -> Iterator[tuple[bytes, int, int]]:
    place = 12
    while place + 8 <= len(untrusted):
        kind, length = struct.unpack("<4sI", untrusted[place : place + 8])
        yield kind, place + 8, min(place + 8 + length, len(untrusted))
        place += 8 + length + length % 2


def _bmp(untrusted: Untrusted, most_frames: int, max_pixels: int) -> Medium:
    del most_frames
    with decoding(max_pixels):
        image = BmpImageFile(whole(untrusted))
    return Medium(
        sizes=(image.size,),
        # Run-length encoded ones are decoded in Python, to bytes and a copy of them.
        decode_bytes=_pixels(image.size) * (_bytes_per_pixel(image.mode) + 3),
        pictures=lambda: (
            Picture(image) for image in islice(_sequence(BmpImageFile, untrusted, max_pixels), 1)
        ),
    )


def _tiff(untrusted: Untrusted, most_frames: int, max_pixels: int) -> Medium:
    with decoding(max_pixels):
        image = TiffImageFile(whole(untrusted))
        sizes, need = [image.size], _tiff_bytes(image, len(untrusted))
    with suppress(UndecodableError):
        for page in range(1, most_frames):
            with decoding(max_pixels):
                image.seek(page)
                sizes.append(image.size)
                need = max(need, _tiff_bytes(image, len(untrusted)))

    def pictures() -> Iterator[Picture]:
        for page in _sequence(TiffImageFile, untrusted, max_pixels):
            # Pillow has applied the orientation.
            yield _with_levels(page)

    return Medium(tuple(sizes), need, pictures)


def _tiff_bytes(image: TiffImageFile, file_bytes: int) -> int:
    """The page, again if it is turned, and what libtiff wants: the file, and a strip or a tile."""
    tags = image.tag_v2
    width, height = image.size
    need = (
        _pixels(image.size) * _bytes_per_pixel(image.mode) * (2 if tags.get(Base.Orientation, 1) != 1 else 1)
    )
    bits = max(8, *tags.get(BITSPERSAMPLE, (1,))) * max(3, tags.get(SAMPLESPERPIXEL, 1))
    across = tags.get(TILEWIDTH, max(width, height))
    down = tags.get(TILELENGTH, min(tags.get(ROWSPERSTRIP, height), max(width, height)))
    decoding_bytes = 2 * across * down * bits // 8
    if not isinstance(decoding_bytes, int) or decoding_bytes < 0:
        # A tag may come as a fraction or below zero, which no count is.
        raise UndecodableError(Reason.CORRUPT)
    return need + (decoding_bytes + file_bytes if image.use_load_libtiff else 0)


def _with_levels(page: TiffImageFile) -> Picture:
    """A page, with what brings its samples to 0 to 255."""
    tags = page.tag_v2
    inverted = page.mode in ("I;16", "F") and tags.get(PHOTOMETRIC_INTERPRETATION) == 0
    if page.mode.startswith("I;16"):
        return Picture(page, divisor=2.0 ** (tags.get(BITSPERSAMPLE, (16,))[0] - 8), inverted=inverted)
    if page.mode in ("I", "F"):
        unsigned = page.mode == "I" and tags.get(SAMPLEFORMAT, (1,))[0] == 1
        return Picture(page, inverted=inverted, unsigned=unsigned).with_fitting_divisor()
    return Picture(page)


def _avif(untrusted: Untrusted, most_frames: int, max_pixels: int) -> Medium:
    with decoding(max_pixels):
        image = AvifImageFile(whole(untrusted))
    # Pillow tells the container's own turns and mirrors as an EXIF orientation, in place of the one in EXIF.
    orientation = _orientation(image)

    def pictures() -> Iterator[Picture]:
        return (Picture(frame, orientation) for frame in _sequence(AvifImageFile, untrusted, max_pixels))

    return Medium(
        sizes=(upright(image.size, orientation),) * min(image.n_frames, most_frames),
        # A sequence keeps up to eight frames to predict from, and the one it is at.
        decode_bytes=_pixels(image.size) * (20 + (3 * min(image.n_frames, 9) if image.is_animated else 0))
        + 2 * len(untrusted),
        pictures=pictures,
    )


def _heic(untrusted: Untrusted, most_frames: int, max_pixels: int) -> Medium:
    with decoding(max_pixels):
        images = list(open_heif(whole(untrusted)))
    # The one a viewer shows comes first. Where it cannot be read, no other may pass for it.
    images.sort(key=lambda image: not image.info["primary"])
    if not images or not images[0].info["primary"]:
        raise UndecodableError(Reason.CORRUPT)

    def pictures() -> Iterator[Picture]:
        while images:
            with decoding(max_pixels):
                # libheif has applied the container's turns and mirrors; EXIF's is not meant to be.
                picture = Picture(images.pop(0).to_pillow())
            yield picture
            # Or it would still be there while the next is decoded.
            del picture

    return Medium(
        sizes=tuple(image.size for image in images[:most_frames]),
        decode_bytes=max(_pixels(image.size) for image in images) * 20 + 2 * len(untrusted),
        pictures=pictures,
    )


def _sequence(image_class: type[File], untrusted: Untrusted, max_pixels: int) -> Iterator[File]:
    """Each frame or page in turn, decoded; always the same object."""
    with decoding(max_pixels):
        image = image_class(whole(untrusted))
    for frame in count():
        with decoding(max_pixels):
            try:
                image.seek(frame)
            except EOFError:
                return
            image.load()
        yield image


def _until_undecodable(items: Iterator[Item]) -> list[Item]:
    found: list[Item] = []
    with suppress(UndecodableError):
        found.extend(items)
    return found


def _orientation(image: Image.Image) -> int:
    return _orientation_of(image.info.get("exif", b""))


def _orientation_of(untrusted_exif: bytes) -> int:
    """EXIF's orientation, 1 if it has none that makes sense. XMP's is not asked: no viewer follows it."""
    if not untrusted_exif:
        return 1
    exif = Image.Exif()
    with suppress(*_DECODER_ERRORS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exif.load(untrusted_exif)
        orientation = exif.get(Base.Orientation, 1)
        if isinstance(orientation, int) and 1 <= orientation <= 8:  # noqa: PLR2004 - the values EXIF has
            return orientation
    return 1


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _bytes_per_pixel(mode: str) -> int:
    return _BYTES_PER_PIXEL.get(mode, 4)


_OPENERS: Final[dict[Format, Callable[[Untrusted, int, int], Medium]]] = {
    formats.JPEG: _jpeg,
    formats.PNG: _png,
    formats.GIF: _gif,
    formats.WEBP: _webp,
    formats.BMP: _bmp,
    formats.TIFF: _tiff,
    formats.AVIF: _avif,
    formats.HEIC: _heic,
}
