"""Media drawn and built by code: a valid sample of each format, and the parts that hostile ones are made of.

Nothing here was ever anybody's photograph. ``SAMPLES`` are small, whole and harmless, and each has structure
enough for PDQ; the functions below them build what no encoder would write.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()

WIDTH, HEIGHT = 96, 72

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def picture(seed: int = 0, *, alpha: bool = False) -> Image.Image:
    """Soft noise of 96 by 72 pixels, the same for the same seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10, 4 if alpha else 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, encoding: str, **options: Any) -> bytes:
    """The picture as a file of this encoding."""
    file = io.BytesIO()
    image.copy().save(file, encoding, **options)
    return file.getvalue()


def _several() -> dict[str, Any]:
    """What makes an encoder write two more pictures.

    Drawn anew each time, since encoders leave their settings on pictures, where the next trips over them.
    """
    return {"save_all": True, "append_images": [picture(1), picture(2)]}


def _grey() -> Image.Image:
    return picture().convert("L")


def _deep() -> Image.Image:
    return Image.fromarray(np.asarray(_grey()).astype(np.uint16) * 257)


def _lying() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


SAMPLES: Mapping[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(picture(), "JPEG", quality=90),
    "jpeg, progressive": lambda: encoded(picture(), "JPEG", progressive=True, exif=_lying()),
    "jpeg, grey": lambda: encoded(_grey(), "JPEG"),
    "jpeg, cmyk": lambda: encoded(picture().convert("CMYK"), "JPEG"),
    "jpeg, several": lambda: encoded(picture(), "MPO", **_several()),
    "png": lambda: encoded(picture(), "PNG"),
    "png, alpha": lambda: encoded(picture(alpha=True), "PNG", exif=_lying()),
    "png, palette": lambda: encoded(picture().quantize(64), "PNG", transparency=3),
    "png, 16 bit": lambda: encoded(_deep(), "PNG"),
    "png, 1 bit": lambda: encoded(picture().convert("1"), "PNG"),
    "png, animated": lambda: encoded(picture(alpha=True), "PNG", **_several(), disposal=1, blend=1),
    "gif": lambda: encoded(picture(), "GIF"),
    "gif, animated": lambda: encoded(picture(), "GIF", **_several(), disposal=2),
    "webp": lambda: encoded(picture(), "WEBP", quality=90, exif=_lying()),
    "webp, lossless": lambda: encoded(picture(alpha=True), "WEBP", lossless=True),
    "webp, animated": lambda: encoded(picture(alpha=True), "WEBP", **_several()),
    "bmp": lambda: encoded(picture(), "BMP"),
    "bmp, palette": lambda: encoded(picture().quantize(16), "BMP"),
    "bmp, run-length": lambda: bmp(WIDTH, HEIGHT, run_length(np.asarray(_grey())), compression=1),
    "tiff": lambda: encoded(picture(), "TIFF", exif=_lying()),
    "tiff, several": lambda: encoded(picture(), "TIFF", **_several()),
    "tiff, fax": lambda: encoded(picture().convert("1"), "TIFF", compression="group4"),
    "tiff, 16 bit": lambda: encoded(_deep(), "TIFF"),
    "tiff, float": lambda: encoded(_grey().convert("F"), "TIFF"),
    "tiff, lab": lambda: encoded(picture().convert("LAB"), "TIFF"),
    "tiff, lzw": lambda: encoded(picture(), "TIFF", compression="tiff_lzw"),
    "tiff, deflate": lambda: encoded(picture(), "TIFF", compression="tiff_adobe_deflate"),
    "tiff, jpeg": lambda: encoded(picture(), "TIFF", compression="jpeg"),
    "tiff, packbits": lambda: encoded(picture(), "TIFF", compression="packbits"),
    "tiff, zstd": lambda: encoded(picture(), "TIFF", compression="zstd"),
    "tiff, lzma": lambda: encoded(picture(), "TIFF", compression="lzma"),
    "avif": lambda: encoded(picture(), "AVIF", quality=90, speed=10),
    "avif, alpha": lambda: encoded(picture(alpha=True), "AVIF", speed=10, exif=_lying()),
    "avif, animated": lambda: encoded(picture(), "AVIF", **_several(), speed=10),
    "avif, grid": lambda: grid("avif", 2, 2),
    "heic": lambda: encoded(picture(), "HEIF", quality=80),
    "heic, several": lambda: encoded(picture(), "HEIF", **_several()),
    "heic, grid": lambda: grid("heic", 2, 2),
}
"""Name → a valid medium, for every format and every way through the decoders."""


@cache
def sample(name: str) -> bytes:
    """A valid medium of ``SAMPLES``."""
    return SAMPLES[name]()


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG, its checksum right."""
    return (
        struct.pack(">I4s", len(content), kind)
        + content
        + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
    )


def png(width: int, height: int, *parts: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of these parts between IHDR and IEND."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return PNG_SIGNATURE + header + b"".join(parts) + chunk(b"IEND")


def png_parts(whole: bytes) -> Iterator[bytes]:
    """The chunks of a PNG between IHDR and IEND."""
    place = len(PNG_SIGNATURE)
    while place < len(whole):
        end = place + 12 + int.from_bytes(whole[place : place + 4], "big")
        if whole[place + 4 : place + 8] not in (b"IHDR", b"IEND"):
            yield whole[place:end]
        place = end


def zeros(count: int) -> bytes:
    """A zlib stream of so many MiB of zeros, a thousandth of their size, made without inflating anything."""
    block = bytes(2**20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (count * 2**20 % 65521) << 16 | 1
    return b"\x78\xda" + one * count + b"\x03\x00" + struct.pack(">I", checksum)


def apng(
    frames: Iterable[bytes],
    told: int,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    first: bytes | None = None,
) -> bytes:
    """A still PNG of 96 by 72 RGB pixels, the sample's if none is given, then frames of one pixel each."""
    pixels = [part[8:-4] for part in png_parts(first or sample("png")) if part[4:8] == b"IDAT"]
    numbers = itertools.count()

    def control(width: int, height: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", next(numbers), width, height, 0, 0, 1, 10, 0, 0))

    parts = [
        chunk(b"acTL", struct.pack(">II", told, 0)),
        control(WIDTH, HEIGHT),
        chunk(b"IDAT", b"".join(pixels)),
    ]
    for data in frames:
        parts += [control(1, 1), chunk(b"fdAT", struct.pack(">I", next(numbers)) + data)]
    return png(*size, *parts)


DOT = zlib.compress(b"\x00\xff\xff\xff")
"""One white RGB pixel of a PNG, compressed."""

GIF_DOT = b"\x02\x02\x44\x01\x00"
"""One pixel of a GIF, compressed."""


def gif_frame(
    width: int = 1, height: int = 1, data: bytes = GIF_DOT, corner: tuple[int, int] = (0, 0)
) -> bytes:
    """A frame of a GIF, with its control block."""
    return b"\x21\xf9\x04\x04\x0a\x00\x00\x00\x2c" + struct.pack("<HHHHB", *corner, width, height, 0) + data


def gif(width: int, height: int, *parts: bytes) -> bytes:
    """A GIF of these parts, with a palette of black and white."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\0\0\0\xff\xff\xff"
        + b"".join(parts)
        + b";"
    )


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(*segments: bytes, after: bytes = b"") -> bytes:
    """The sample JPEG with more segments at its start, and bytes after its end."""
    whole = sample("jpeg")
    return whole[:2] + b"".join(segments) + whole[2:] + after


def scans(width: int, height: int, count: int) -> bytes:
    """A progressive JPEG of nothing but so many scans, of a few bytes each, that all go over every block."""
    blocks = -(-width // 8) * -(-height // 8)
    # Both tables hold one code, '0': a difference of none, and 'the next 16,384 blocks and more end here'.
    dc = segment(0xC4, b"\x00\x01" + bytes(15) + b"\x00")
    ac = segment(0xC4, b"\x10\x01" + bytes(15) + b"\xe0")
    frame = segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")
    first = segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + bytes(-(-blocks // 8))
    # 14 further bits of each code: 11,111,111,111,110, so that no byte is a marker's.
    run = "0" + "1" * 13 + "0"
    told = -(-blocks // (2**15 - 2))
    bits = (run * told).ljust(-(-15 * told // 8) * 8, "1")
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    more = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + data
    quantisation = segment(0xDB, b"\x00" + b"\x01" * 64)
    return b"\xff\xd8" + quantisation + frame + dc + ac + first + more * count + b"\xff\xd9"


def multi_picture(starts: Sequence[int]) -> bytes:
    """The index of a multi-picture JPEG: where further pictures start, counted from its own start."""
    entries = b"".join(struct.pack(">IIIHH", 0x020002, 100, start, 0, 0) for start in starts)
    directory = struct.pack(">H", 3) + b"".join(
        struct.pack(">HHI4s", tag, kind, length, value)
        for tag, kind, length, value in (
            (0xB000, 7, 4, b"0100"),
            (0xB001, 4, 1, struct.pack(">I", len(starts))),
            (0xB002, 7, len(entries), struct.pack(">I", 50)),
        )
    )
    return segment(0xE2, b"MPF\0" + b"MM\0*\0\0\0\x08" + directory + struct.pack(">I", 0) + entries)


def bmp(width: int, height: int, data: bytes, *, bits: int = 8, compression: int = 0) -> bytes:
    """A BMP of this header and data, with a grey palette where it needs one."""
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256)) if bits == 8 else b""
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


def run_length(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Grey pixels in BMP's run-length encoding, from the lowest row up."""
    rows = (b"".join(b"\x01" + bytes([value]) for value in row.tolist()) for row in pixels[::-1])
    return b"\x00\x00".join(rows) + b"\x00\x01"


Field = tuple[int, int, int, int]
"""A field of a TIFF directory: tag, type, count, and its value or where that is."""

SHORT, LONG = 3, 4


def directory(fields: Iterable[Field], following: int = 0) -> bytes:
    """A directory of a little-endian TIFF, and where the next one is."""
    entries = [struct.pack("<HHII", *field) for field in fields]
    return struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following)


def page(
    width: int, height: int, *, data: int = 8, count: int = 1, compression: int = 1, **more: int
) -> list[Field]:
    """The fields of a page of 8-bit grey in one strip."""
    tags = {"rows": 278, "tile_width": 322, "tile_height": 323, "predictor": 317, "samples": 277}
    fields = [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 1, 8),
        (259, SHORT, 1, compression),
        (262, SHORT, 1, 1),
        (273, LONG, 1, data),
        (279, LONG, 1, count),
        *((tags[name], LONG, 1, value) for name, value in more.items()),
    ]
    return sorted(fields)


def tiff(data: bytes, *pages: list[Field], following: int = 0) -> bytes:
    """A TIFF of data at place 8 and pages after it, the last one followed by any place."""
    data += bytes(len(data) % 2)
    places = list(itertools.accumulate((6 + 12 * len(each) for each in pages), initial=8 + len(data)))
    directories = [
        directory(each, places[number + 1] if number + 1 < len(pages) else following)
        for number, each in enumerate(pages)
    ]
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + b"".join(directories)


def riff(*chunks: tuple[bytes, bytes], form: bytes = b"WEBP") -> bytes:
    """A RIFF file of these chunks."""
    body = b"".join(
        struct.pack("<4sI", kind, len(content)) + content + bytes(len(content) % 2)
        for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + form + body


def webp_canvas(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    """The chunk that tells a WebP's canvas; flag 2 is an animation, 8 EXIF, 32 a profile."""
    return b"VP8X", struct.pack("<I", flags) + _24(width - 1) + _24(height - 1)


def webp_frame(content: bytes, width: int, height: int) -> tuple[bytes, bytes]:
    """A frame of an animation, at the canvas's corner."""
    return b"ANMF", bytes(6) + _24(width - 1) + _24(height - 1) + _24(100) + b"\x02" + content


@cache
def webp_chunk(width: int, height: int, *, lossless: bool = True) -> bytes:
    """The chunk of one colour that makes a WebP of this size: some tens of bytes if lossless."""
    return encoded(Image.new("RGB", (width, height), "teal"), "WEBP", lossless=lossless, quality=0, method=0)[
        12:
    ]


def _24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def box(kind: bytes, *contents: bytes) -> bytes:
    """A box of an ISO base media file."""
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def full_box(kind: bytes, version: int, flags: int, *contents: bytes) -> bytes:
    """A box with a version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *contents)


def boxes(untrusted: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each box in a row."""
    place = 0
    while place + 8 <= len(untrusted):
        length, kind = struct.unpack_from(">I4s", untrusted, place)
        length = len(untrusted) - place if length == 0 else max(length, 8)
        yield kind, untrusted[place + 8 : place + length]
        place += length


@dataclass(frozen=True)
class Item:
    """An item of a HEIF file.

    Attributes:
        kind: its type.
        data: what it holds.
        properties: those it has, counted from 1.
        parts: the items that it is made of, counted from 1.
        hidden: whether it is not to be shown by itself.
    """

    kind: bytes
    data: bytes
    properties: Sequence[int] = ()
    parts: Sequence[int] = ()
    hidden: bool = False


def heif(brand: bytes, items: Sequence[Item], properties: Sequence[bytes], primary: int = 1) -> bytes:
    """A HEIF file of these items, numbered from 1. Equal data is stored once."""
    data: dict[bytes, int] = {}
    size = 0
    for item in items:
        if item.data not in data:
            data[item.data] = size
            size += len(item.data)
    numbered = list(enumerate(items, 1))
    information = (
        full_box(b"infe", 2, item.hidden, struct.pack(">HH4s", number, 0, item.kind), b"\0")
        for number, item in numbered
    )
    locations = (
        struct.pack(">HHHHII", number, 1, 0, 1, data[item.data], len(item.data)) for number, item in numbered
    )
    associations = (
        struct.pack(">HB", number, len(item.properties)) + bytes(0x80 | each for each in item.properties)
        for number, item in numbered
    )
    references = (
        box(b"dimg", struct.pack(f">HH{len(item.parts)}H", number, len(item.parts), *item.parts))
        for number, item in numbered
        if item.parts
    )
    meta = full_box(
        b"meta",
        0,
        0,
        full_box(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
        full_box(b"pitm", 0, 0, struct.pack(">H", primary)),
        full_box(b"iinf", 0, 0, struct.pack(">H", len(items)), *information),
        full_box(b"iref", 0, 0, *references),
        box(
            b"iprp",
            box(b"ipco", *properties),
            full_box(b"ipma", 0, 0, struct.pack(">I", len(items)), *associations),
        ),
        full_box(b"iloc", 1, 0, struct.pack(">HH", 0x4400, len(items)), *locations),
        box(b"idat", *data),
    )
    return box(b"ftyp", brand, bytes(4), brand, b"mif1") + meta


@cache
def tile(name: str) -> tuple[bytes, bytes, tuple[bytes, ...], tuple[int, int]]:
    """One picture of a sample in boxes: its item type, its data, its properties, its size."""
    encoding, options = {"heic": ("HEIF", {"quality": 60}), "avif": ("AVIF", {"speed": 10})}[name]
    whole = encoded(picture().resize((64, 64)), encoding, **options)
    found = dict(boxes(whole))
    meta = dict(boxes(found[b"meta"][4:]))
    properties = dict(boxes(dict(boxes(meta[b"iprp"]))[b"ipco"]))
    kept = tuple(
        box(kind, properties[kind]) for kind in (b"hvcC", b"av1C", b"pixi", b"ispe") if kind in properties
    )
    return {"heic": b"hvc1", "avif": b"av01"}[name], found[b"mdat"], kept, (64, 64)


def extent(width: int, height: int) -> bytes:
    """The property that tells an item's size."""
    return full_box(b"ispe", 0, 0, struct.pack(">II", width, height))


def grid(
    name: str,
    rows: int,
    columns: int,
    *,
    size: tuple[int, int] | None = None,
    tiles: int | None = None,
    own: bool = True,
) -> bytes:
    """A grid of equal tiles of 64 by 64 pixels.

    Args:
        name: ``heic`` or ``avif``.
        rows: of tiles, up to 256.
        columns: of tiles, up to 256.
        size: what the grid says of its own size, if not the truth.
        tiles: how many it refers to, if not as many as it has.
        own: whether each tile is an item of its own, not always the same one.
    """
    kind, data, properties, (across, down) = tile(name)
    width, height = size or (columns * across, rows * down)
    count = rows * columns if tiles is None else tiles
    told = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width, height)
    parts = [2 + number if own else 2 for number in range(count)]
    shown = Item(b"grid", told, [len(properties) + 1], parts)
    piece = Item(kind, data, range(1, len(properties) + 1), hidden=True)
    return heif(
        {"heic": b"heic", "avif": b"avif"}[name],
        [shown, *[piece] * (count if own else 1)],
        [*properties, extent(width, height)],
    )
