"""Hostile media, each with what may come of it: ``clear``, or the reason why it is undecidable.

A medium is built when it is asked for, since some are large. ``ENDLESS`` are those that no time is enough
for: a few bytes that ask for minutes of work, or for hours.
"""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from PIL import Image

from tests.hostile import media
from tests.hostile.media import HEIGHT, SAMPLES, WIDTH, sample
from tests.hostile.mutations import pieces

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Vector:
    """A hostile medium.

    Attributes:
        build: makes its bytes.
        outcomes: what may come of it. More than one only where it hangs on the speed of the machine.
    """

    build: Callable[[], bytes]
    outcomes: frozenset[str]


def vector(build: Callable[[], bytes], *outcomes: str) -> Vector:
    return Vector(build, frozenset(outcomes))


def _sample(name: str, change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    return lambda: change(sample(name))


def _png_with(*parts: Callable[[], bytes]) -> Callable[[], bytes]:
    """The sample PNG with more chunks before its picture."""

    def build() -> bytes:
        own = media.png_parts(sample("png"))
        return media.png(WIDTH, HEIGHT, *(part() for part in parts), *own)

    return build


def _replaced(name: str, old: bytes, new: bytes) -> Callable[[], bytes]:
    """A sample in which some bytes, that must be there, are others."""

    def change(whole: bytes) -> bytes:
        assert old in whole
        return whole.replace(old, new)

    return _sample(name, change)


def _flat_png(width: int, height: int) -> bytes:
    return media.png(width, height, media.chunk(b"IDAT", zlib.compress(bytes((1 + 3 * width) * height))))


def _text_chunk(count: int) -> bytes:
    return media.chunk(b"tEXt", b"comment\0" + b"x" * count)


def _segments(marker: int, start: bytes, count: int, fill: int = 65_000) -> Callable[[], bytes]:
    return lambda: media.jpeg_with(*[media.segment(marker, start + bytes(fill))] * count)


def _profile_segments() -> bytes:
    parts = (b"ICC_PROFILE\0" + bytes([number, 255]) + bytes(65_000) for number in range(1, 256))
    return media.jpeg_with(*(media.segment(0xE2, part) for part in parts))


def _jpeg_of(width: int, height: int, marker: int = 0xC0) -> bytes:
    """The sample JPEG with another size in its header."""
    whole = sample("jpeg")
    place = whole.index(b"\xff\xc0")
    size = struct.pack(">HH", height, width)
    return whole[: place + 1] + bytes([marker]) + whole[place + 2 : place + 5] + size + whole[place + 9 :]


def _pictures_behind(count: int, *, whole: bool) -> bytes:
    """A multi-picture JPEG whose index tells of many pictures, one behind another.

    Each is whole up to its pixels; or none ends before the file does, so that each is read with all that
    stand behind it.
    """
    first = sample("jpeg")
    scan = first.index(b"\xff\xda")
    head = first[: scan + 64 if whole else scan]
    index = 2 + len(media.multi_picture([0] * count))
    # Places are counted from the index's own start, behind 'MPF'.
    start = index + len(first) - 2 - 10
    return media.jpeg_with(
        media.multi_picture([start + number * len(head) for number in range(count)]), after=head * count
    )


def _heic_of_many(count: int) -> bytes:
    """A HEIC of many pictures, all with the same data."""
    kind, data, properties, _ = media.tile("heic")
    item = media.Item(kind, data, range(1, len(properties) + 1))
    return media.heif(b"heic", [item] * count, properties)


def _grid_of_itself(name: str) -> bytes:
    told = struct.pack(">BBBBHH", 0, 0, 1, 1, 128, 128)
    brand = {"heic": b"heic", "avif": b"avif"}[name]
    return media.heif(brand, [media.Item(b"grid", told, [1], [1, 1, 1, 1])], [media.extent(128, 128)])


def _grids_of_grids(name: str, depth: int) -> bytes:
    """Each grid is made of four of the next: 4 to the power of ``depth`` tiles in a few bytes."""
    kind, data, properties, _ = media.tile(name)
    brand = {"heic": b"heic", "avif": b"avif"}[name]
    told = struct.pack(">BBBBHH", 0, 0, 1, 1, 64, 64)
    grids = [
        media.Item(b"grid", told, [len(properties)], [number + 1] * 4, hidden=number > 1)
        for number in range(1, depth + 1)
    ]
    return media.heif(brand, [*grids, media.Item(kind, data, range(1, len(properties) + 1))], properties)


def _overlay(width: int, height: int) -> bytes:
    kind, data, properties, _ = media.tile("heic")
    told = struct.pack(">BBHHHHII", 0, 1, 0, 0, 0, 0, width, height) + struct.pack(">ii", 0, 0) * 2
    items = [
        media.Item(b"iovl", told, [len(properties) + 1], [2, 2]),
        media.Item(kind, data, range(1, len(properties) + 1), hidden=True),
    ]
    return media.heif(b"heic", items, [*properties, media.extent(width, height)])


def _identity_of_itself() -> bytes:
    return media.heif(b"heic", [media.Item(b"iden", b"", [1], [1])], [media.extent(64, 64)])


def _nested_boxes(depth: int) -> bytes:
    nested = b""
    for _ in range(depth):
        nested = media.box(b"meta", bytes(4), nested)
    return media.box(b"ftyp", b"avif", bytes(4), b"avif") + nested


def _sample_counts(count: int) -> Callable[[], bytes]:
    """An AVIF sequence that claims so many frames, all of one size."""

    def change(whole: bytes) -> bytes:
        place = whole.index(b"stsz") + 8
        whole = whole[:place] + struct.pack(">II", 40, count) + whole[place + 8 :]
        for kind, skipped in ((b"stts", 12), (b"stsc", 16)):
            place = whole.index(kind) + skipped - 4
            whole = whole[: place + 4] + struct.pack(">I", count) + whole[place + 8 :]
        return whole

    return _sample("avif, animated", change)


def _gif_with(part: bytes) -> Callable[[], bytes]:
    """The sample GIF with something before its picture."""

    def change(whole: bytes) -> bytes:
        start = next(piece.start for piece in pieces(whole))
        return whole[:start] + part + whole[start:]

    return _sample("gif", change)


def _webp_of(width: int, height: int, *more: tuple[bytes, bytes], flags: int = 0) -> bytes:
    """A WebP of one colour, with more chunks behind its picture."""
    picture = media.webp_chunk(width, height)
    return media.riff(media.webp_canvas(width, height, flags), (picture[:4], picture[8:]), *more)


def _first_half(name: str) -> Callable[[], bytes]:
    return _sample(name, lambda whole: whole[: len(whole) // 2])


def _spliced(name: str) -> Callable[[], bytes]:
    """The first half of a sample, and the second half of a PNG."""
    return lambda: sample(name)[: len(sample(name)) // 2] + sample("png, alpha")[8_000:]


def _behind(name: str, before: bytes) -> Callable[[], bytes]:
    return _sample(name, lambda whole: before + whole)


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("index.html", "<script>alert(1)</script>")
    return file.getvalue()


def _pages(count: int) -> bytes:
    return media.tiff(bytes(16), *[media.page(4, 4, count=16)] * count)


def _tiff_compressed(number: int) -> bytes:
    """A TIFF that says of plain pixels that they are compressed."""
    pixels = media.picture().convert("L").tobytes()
    return media.tiff(pixels, media.page(WIDTH, HEIGHT, count=len(pixels), compression=number))


def _tiff_of_jpeg() -> bytes:
    """A TIFF of 96 by 72 pixels that holds a JPEG of 65,535 by 65,535."""
    data = _jpeg_of(65_535, 65_535)
    return media.tiff(data, media.page(WIDTH, HEIGHT, count=len(data), compression=7))


def _tiff_of_bomb() -> bytes:
    """64 MiB of zeros, compressed, where 96 by 72 pixels are told."""
    data = media.zeros(64)
    return media.tiff(data, media.page(WIDTH, HEIGHT, count=len(data), compression=8))


def _big_tiff(width: int) -> bytes:
    """A TIFF with 64-bit places, as wide as told."""
    fields = [(256, 16, 1, width), (257, 16, 1, 10), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    fields += [(273, 16, 1, 8), (278, 16, 1, 10), (279, 16, 1, 100)]
    entries = b"".join(struct.pack("<HHQQ", *field) for field in fields)
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(fields)) + entries + bytes(8)


def _tiff_of_loop() -> bytes:
    """Two directories that each name the other as the next one."""
    whole = media.tiff(bytes(16), media.page(4, 4, count=16), media.page(4, 4, count=16))
    return whole[:-4] + whole[4:8]


def _tiff_with_tag(tag: int, count: int) -> bytes:
    """A TIFF with a tag of so many bytes."""
    pixels = media.picture().convert("L").tobytes()
    fields = media.page(WIDTH, HEIGHT, count=len(pixels))
    return media.tiff(pixels + bytes(count), sorted([*fields, (tag, 7, count, 8 + len(pixels))]))


def _tiff_of_clear_codes() -> bytes:
    """A LZW strip that only ever starts anew: the code of 9 bits for that, 800,000 times."""
    data = b"\x80\x40\x20\x10\x08\x04\x02\x01\x00" * 100_000
    return media.tiff(data, media.page(WIDTH, HEIGHT, count=len(data), compression=5))


DIMENSIONS: Mapping[str, Vector] = {
    "png, 100,000 square": vector(
        lambda: media.png(100_000, 100_000, media.chunk(b"IDAT", media.zeros(1))), "too_many_pixels"
    ),
    "png, as large as can be told": vector(
        lambda: media.png(2**31 - 1, 2**31 - 1, media.chunk(b"IDAT", media.zeros(1))), "too_many_pixels"
    ),
    "png, larger than can be told": vector(
        lambda: media.png(2**32 - 1, 2**32 - 1, media.chunk(b"IDAT", media.zeros(1))),
        "too_many_pixels",
        "corrupt",
    ),
    "png, one pixel high and 100 million wide": vector(
        lambda: media.png(100_000_000, 1, media.chunk(b"IDAT", media.zeros(1))), "too_many_pixels"
    ),
    "png, no pixel": vector(lambda: media.png(0, 0, media.chunk(b"IDAT", media.zeros(1))), "corrupt"),
    "png, animated, on 10,000 square": vector(
        lambda: media.apng([media.DOT] * 2, 3, size=(10_000, 10_000)), "too_many_pixels"
    ),
    "png, 65,535 wide and one high": vector(partial(_flat_png, 65_535, 1), "low_quality"),
    "png, one wide and 65,535 high": vector(partial(_flat_png, 1, 65_535), "low_quality"),
    "png, 65,536 wide and one high": vector(partial(_flat_png, 65_536, 1), "too_many_pixels"),
    "png, one pixel": vector(partial(_flat_png, 1, 1), "low_quality"),
    "jpeg, 65,535 square": vector(partial(_jpeg_of, 65_535, 65_535), "too_many_pixels"),
    "jpeg, no pixel high": vector(partial(_jpeg_of, 100, 0), "corrupt"),
    "gif, 65,535 square": vector(lambda: media.gif(65_535, 65_535, media.gif_frame()), "too_many_pixels"),
    "gif, a frame far beyond the canvas": vector(
        lambda: media.gif(10, 10, media.gif_frame(), media.gif_frame(corner=(65_000, 65_000))),
        "too_many_pixels",
    ),
    "gif, no pixel": vector(lambda: media.gif(0, 0, media.gif_frame(0, 0)), "corrupt"),
    "bmp, 100,000 square": vector(lambda: media.bmp(100_000, 100_000, bytes(100)), "too_many_pixels"),
    "bmp, as large as can be told": vector(
        lambda: media.bmp(2**31 - 1, -(2**31), bytes(100)), "too_many_pixels", "corrupt"
    ),
    "bmp, less than no pixel": vector(lambda: media.bmp(-100, 100, bytes(10_000)), "too_many_pixels"),
    "bmp, no pixel": vector(lambda: media.bmp(0, 0, bytes(100)), "corrupt"),
    "tiff, 100,000 square": vector(
        lambda: media.tiff(bytes(100), media.page(100_000, 100_000)), "too_many_pixels"
    ),
    "tiff, as large as can be told": vector(
        lambda: media.tiff(bytes(100), media.page(2**32 - 1, 2**32 - 1)), "too_many_pixels"
    ),
    "tiff, larger than can be told": vector(partial(_big_tiff, 2**40), "too_many_pixels"),
    "tiff, no pixel": vector(lambda: media.tiff(bytes(100), media.page(0, 0)), "corrupt"),
    "tiff, the second page 100,000 square": vector(
        lambda: media.tiff(bytes(16), media.page(4, 4, count=16), media.page(100_000, 100_000)),
        "too_many_pixels",
    ),
    "webp, 16,777,216 square": vector(
        lambda: media.riff(media.webp_canvas(2**24, 2**24), (b"VP8L", bytes(20))), "too_many_pixels"
    ),
    "webp, a lossy picture of 16,383 square": vector(
        lambda: media.riff((b"VP8 ", b"\x30\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(20))), "too_many_pixels"
    ),
    "webp, a lossless picture of 16,384 square": vector(
        lambda: media.riff((b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(20))), "too_many_pixels"
    ),
    "webp, no pixel": vector(lambda: media.riff((b"VP8 ", b"\x30\0\0\x9d\x01\x2a" + bytes(24))), "corrupt"),
    "avif, 100,000 square": vector(
        _replaced("avif", media.extent(WIDTH, HEIGHT), media.extent(100_000, 100_000)), "corrupt"
    ),
    "avif, 16,000 square": vector(
        _replaced("avif", media.extent(WIDTH, HEIGHT), media.extent(16_000, 16_000)), "too_many_pixels"
    ),
    "heic, 100,000 square": vector(
        _replaced("heic", media.extent(WIDTH, HEIGHT), media.extent(100_000, 100_000)),
        "too_many_pixels",
        "corrupt",
    ),
    "heic, 16,000 square": vector(
        _replaced("heic", media.extent(WIDTH, HEIGHT), media.extent(16_000, 16_000)), "too_many_pixels"
    ),
}


LENGTHS: Mapping[str, Vector] = {
    "png, 100,000 frames": vector(
        lambda: media.apng([media.DOT] * 99_999, 100_000), "too_many_frames", "decode_timeout"
    ),
    "png, more frames told than there are": vector(lambda: media.apng([media.DOT], 2**32 - 1), "clear"),
    "gif, 100,000 frames": vector(lambda: media.gif(8, 8, media.gif_frame() * 100_000), "too_many_frames"),
    "webp, 100,000 frames": vector(
        lambda: media.riff(
            media.webp_canvas(8, 8, 2),
            (b"ANIM", bytes(6)),
            *[media.webp_frame(media.webp_chunk(8, 8), 8, 8)] * 100_000,
        ),
        "too_many_frames",
    ),
    "avif, 100 million frames": vector(_sample_counts(100_000_000), "corrupt"),
    "heic, 600 pictures": vector(partial(_heic_of_many, 600), "too_many_frames"),
    "heic, 60,000 pictures": vector(partial(_heic_of_many, 60_000), "corrupt"),
    "jpeg, 3,000 pictures": vector(partial(_pictures_behind, 3_000, whole=True), "corrupt"),
    "tiff, 20,000 pages": vector(partial(_pages, 20_000), "too_many_frames"),
    "tiff, pages in a loop": vector(_tiff_of_loop, "low_quality", "corrupt"),
    "tiff, a page that is its own next": vector(
        lambda: media.tiff(bytes(16), media.page(4, 4, count=16), following=24), "low_quality", "corrupt"
    ),
    "tiff, a next page outside the file": vector(
        lambda: media.tiff(bytes(16), media.page(4, 4, count=16), following=2**32 - 2), "corrupt"
    ),
}

CHUNKS: Mapping[str, Vector] = {
    "png, a text of 40 MiB": vector(_png_with(partial(_text_chunk, 40 * MEBIBYTE)), "clear"),
    "png, 100,000 texts": vector(_png_with(lambda: _text_chunk(1) * 100_000), "clear"),
    "png, 100,000 chunks of no pixels": vector(_png_with(lambda: media.chunk(b"IDAT") * 100_000), "clear"),
    "png, 40 MiB of EXIF": vector(_png_with(lambda: media.chunk(b"eXIf", bytes(40 * MEBIBYTE))), "clear"),
    "png, 40 MiB of palette": vector(
        _png_with(lambda: media.chunk(b"PLTE", bytes(40 * MEBIBYTE))), "clear", "corrupt"
    ),
    "jpeg, 55 MB of comments": vector(_segments(0xFE, b"", 850), "decoder_failed"),
    "jpeg, 13 MB of EXIF": vector(_segments(0xE1, b"Exif\0\0", 200), "decoder_failed", "decode_timeout"),
    "jpeg, 40 MB of XMP": vector(
        _segments(0xE1, b"http://ns.adobe.com/xap/1.0/\0", 615), "clear", "decoder_failed"
    ),
    "jpeg, 3 MB of EXIF": vector(_segments(0xE1, b"Exif\0\0", 50), "clear"),
    "jpeg, 17 MB of profile": vector(_profile_segments, "clear", "decoder_failed"),
    "jpeg, 10,000 empty segments": vector(_segments(0xEF, b"", 10_000, fill=0), "clear"),
    "jpeg, 16 KiB of fill bytes": vector(lambda: media.jpeg_with(b"\xff" * 16_384), "clear"),
    "gif, a comment of 4 MB": vector(
        _gif_with(b"\x21\xfe" + (b"\xff" + bytes(255)) * 16_000 + b"\0"), "clear"
    ),
    "gif, a comment of 1-byte blocks": vector(_gif_with(b"\x21\xfe" + b"\x01x" * 50_000 + b"\0"), "clear"),
    "gif, 100 KB of nothing": vector(_gif_with(bytes(100_000)), "clear"),
    "webp, 40 MiB of EXIF": vector(
        partial(_webp_of, 64, 64, (b"EXIF", bytes(40 * MEBIBYTE)), flags=8), "low_quality"
    ),
    "webp, 40 MiB of profile": vector(
        partial(_webp_of, 64, 64, (b"ICCP", bytes(40 * MEBIBYTE)), flags=32), "low_quality", "corrupt"
    ),
    "webp, 100,000 unknown chunks": vector(
        partial(_webp_of, 64, 64, *[(b"junk", b"")] * 100_000), "low_quality"
    ),
    "tiff, a directory of 20,000 fields": vector(
        lambda: media.tiff(bytes(16), [*media.page(4, 4, count=16), *[(60_000, 3, 1, 0)] * 20_000]),
        "low_quality",
    ),
    "tiff, a field of a billion values": vector(
        lambda: media.tiff(bytes(16), sorted([*media.page(4, 4, count=16), (324, 4, 10**9, 8)])),
        "low_quality",
        "corrupt",
    ),
    "tiff, 40 MiB of XMP": vector(partial(_tiff_with_tag, 700, 40 * MEBIBYTE), "decoder_failed"),
    "tiff, 40 MiB of profile": vector(partial(_tiff_with_tag, 34675, 40 * MEBIBYTE), "decoder_failed"),
    "tiff, 100 million strips": vector(
        lambda: media.tiff(bytes(100), media.page(1, 99_999_999, rows=1)), "too_many_pixels"
    ),
    "tiff, tiles of 4 billion pixels": vector(
        lambda: media.tiff(
            bytes(16), media.page(4, 4, count=16, compression=8, tile_width=65_536, tile_height=65_536)
        ),
        "corrupt",
        "too_many_pixels",
    ),
    "avif, boxes 10,000 deep": vector(partial(_nested_boxes, 10_000), "corrupt"),
    "avif, 40 MiB of free space": vector(
        _sample("avif", lambda whole: whole + media.box(b"free", bytes(40 * MEBIBYTE))), "clear"
    ),
    "heic, 40 MiB of free space": vector(
        _sample("heic", lambda whole: whole + media.box(b"free", bytes(40 * MEBIBYTE))), "clear"
    ),
}

DEFLATED: Mapping[str, Vector] = {
    "png, 1 GiB where 20 KB are told": vector(
        lambda: media.png(WIDTH, HEIGHT, media.chunk(b"IDAT", media.zeros(1024))), "low_quality"
    ),
    "png, 1 GiB of compressed text": vector(
        _png_with(lambda: media.chunk(b"zTXt", b"comment\0\0" + media.zeros(1024))), "clear"
    ),
    "png, 1 GiB of international text": vector(
        _png_with(lambda: media.chunk(b"iTXt", b"comment\0\x01\0\0\0" + media.zeros(1024))), "clear"
    ),
    "png, 1 GiB of profile": vector(
        _png_with(lambda: media.chunk(b"iCCP", b"profile\0\0" + media.zeros(1024))), "clear"
    ),
    "png, animated, a frame of 1 GiB": vector(lambda: media.apng([media.zeros(1024)], 2), "clear"),
    "webp, 4 million pixels in 100 bytes": vector(partial(_webp_of, 2_000, 2_000), "low_quality"),
    "webp, 42 million pixels in 100 bytes": vector(partial(_webp_of, 6_500, 6_500), "too_many_pixels"),
    "tiff, 64 MiB where 7 KB are told": vector(_tiff_of_bomb, "low_quality", "corrupt"),
    "tiff, endless codes": vector(_tiff_of_clear_codes, "corrupt", "low_quality"),
    "bmp, run-length, 50 million pixels": vector(
        lambda: media.bmp(10_000, 5_000, b"\xff\x00" * 200_000, compression=1), "corrupt", "decode_timeout"
    ),
}

BOXES: Mapping[str, Vector] = {
    f"{name}, {told}": vector(build, *outcomes)
    for name in ("avif", "heic")
    for told, build, outcomes in (
        ("10,000 tiles", partial(media.grid, name, 100, 100), ["clear", "corrupt", "too_many_pixels"]),
        ("900 tiles", partial(media.grid, name, 30, 30), ["clear", "low_quality"]),
        ("one tile, 65,025 times", partial(media.grid, name, 255, 255, own=False), ["corrupt"]),
        (
            "a grid larger than its tiles",
            partial(media.grid, name, 2, 2, size=(9_000, 9_000)),
            ["too_many_pixels"],
        ),
        (
            "a grid as large as can be told",
            partial(media.grid, name, 2, 2, size=(2**32 - 1,) * 2),
            ["corrupt"],
        ),
        (
            "a grid smaller than its tiles",
            partial(media.grid, name, 8, 8, size=(1, 1)),
            ["corrupt", "low_quality"],
        ),
        ("a grid of no pixel", partial(media.grid, name, 1, 1, size=(0, 0)), ["corrupt"]),
        ("fewer tiles than told", partial(media.grid, name, 16, 16, tiles=3), ["corrupt"]),
        ("more tiles than told", partial(media.grid, name, 1, 1, tiles=900), ["corrupt"]),
        ("a grid of itself", partial(_grid_of_itself, name), ["corrupt"]),
        ("grids of grids", partial(_grids_of_grids, name, 14), ["corrupt"]),
    )
} | {
    "heic, an overlay of 4 billion pixels": vector(partial(_overlay, 65_535, 65_535), "too_many_pixels"),
    "heic, an identity of itself": vector(_identity_of_itself, "corrupt"),
}

ENDLESS: Mapping[str, Callable[[], bytes]] = {
    "png, 500 frames on a large canvas": lambda: media.apng(
        [zlib.compress(bytes([0, level % 256, level // 256, 0])) for level in range(499)],
        500,
        size=(4_500, 4_500),
    ),
    "jpeg, 2,000 scans over 64 million pixels": partial(media.scans, 8_000, 8_000, 2_000),
    "jpeg, 3,000 pictures that do not end": partial(_pictures_behind, 3_000, whole=False),
    "jpeg, 16 MiB of fill bytes": lambda: media.jpeg_with(b"\xff" * (16 * MEBIBYTE)),
    "gif, 8 MiB of nothing": _gif_with(bytes(8 * MEBIBYTE)),
    "avif, 65,025 tiles": partial(media.grid, "avif", 255, 255),
}
"""Media that keep a decoder busy until its time is over."""

DAMAGED: Mapping[str, Vector] = {
    **{f"the first half of {name}": vector(_first_half(name), "corrupt") for name in SAMPLES},
    **{
        f"the first half of {name}, then a png's": vector(_spliced(name), *outcomes)
        for name, *outcomes in (
            ("jpeg", "corrupt", "clear"),
            ("png", "corrupt"),
            ("gif", "corrupt"),
            ("webp", "corrupt"),
            ("bmp", "corrupt", "clear"),
            ("tiff", "corrupt"),
            ("avif", "corrupt", "clear", "low_quality"),
            ("heic", "corrupt", "clear", "low_quality"),
        )
    },
    "png, nothing but its end": vector(lambda: media.PNG_SIGNATURE + media.chunk(b"IEND"), "corrupt"),
    "png, nothing but its signature": vector(lambda: media.PNG_SIGNATURE, "corrupt"),
    "png, a checksum that is wrong": vector(
        _sample("png", lambda whole: whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:]), "corrupt"
    ),
    "png, a chunk as long as can be told": vector(
        _sample("png", lambda whole: whole[:33] + b"\xff\xff\xff\xff" + whole[37:]), "corrupt"
    ),
    "png, a chunk that must be understood": vector(
        _png_with(lambda: media.chunk(b"EVIL", bytes(9))), "corrupt"
    ),
    "png, animated, its frames out of order": vector(
        _replaced("png, animated", b"fcTL\0\0\0\1", b"fcTL\0\0\0\7"), "corrupt"
    ),
    "jpeg, nothing but its start": vector(lambda: b"\xff\xd8\xff\xe0", "corrupt"),
    "jpeg, without tables to quantize by": vector(_replaced("jpeg", b"\xff\xdb", b"\xff\xfe"), "corrupt"),
    "jpeg, lossless": vector(partial(_jpeg_of, WIDTH, HEIGHT, 0xC3), "corrupt"),
    "jpeg, hierarchical": vector(partial(_jpeg_of, WIDTH, HEIGHT, 0xC5), "corrupt"),
    "jpeg, its pictures outside the file": vector(
        lambda: media.jpeg_with(media.multi_picture([2**32 - 1, 2**31, 10**6])), "clear"
    ),
    "jpeg, its picture is its own second": vector(
        lambda: media.jpeg_with(media.multi_picture([2**32 - 10])), "clear"
    ),
    "gif, codes outside the table": vector(
        lambda: media.gif(64, 64, media.gif_frame(64, 64, b"\x08\xff" + b"\xfe" * 255 + b"\0")), "corrupt"
    ),
    "webp, longer than it is": vector(
        _sample("webp", lambda whole: whole[:4] + b"\xf0\xff\xff\xff" + whole[8:]), "corrupt", "clear"
    ),
    "webp, a frame that says it is one byte longer": vector(
        _sample("webp, animated", lambda whole: whole[:48] + bytes([whole[48] + 1]) + whole[49:]), "corrupt"
    ),
    "bmp, its pixels outside the file": vector(
        _sample("bmp", lambda whole: whole[:10] + b"\xff\xff\xff\x7f" + whole[14:]), "corrupt"
    ),
    "tiff, a larger jpeg in it": vector(_tiff_of_jpeg, "corrupt"),
    **{
        f"tiff, not compressed by method {number}": vector(partial(_tiff_compressed, number), "corrupt")
        for number in (
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            32766,
            32809,
            34661,
            34676,
            34677,
            34712,
            34887,
            34925,
            50000,
            50001,
        )
    },
    "tiff, its directory outside the file": vector(lambda: b"II*\0\xff\xff\xff\xff", "corrupt"),
    "tiff, its directory in its head": vector(lambda: b"MM\0*\0\0\0\0" + bytes(100), "corrupt"),
    "tiff, a strip of 4 GiB": vector(
        lambda: media.tiff(bytes(16), media.page(4, 4, count=2**32 - 1, compression=5)), "corrupt"
    ),
}

DISGUISED: Mapping[str, Vector] = {
    "a jpeg that is also a zip": vector(_sample("jpeg", lambda whole: whole + _zip()), "clear"),
    "a png that is also a zip": vector(_sample("png", lambda whole: whole + _zip()), "clear"),
    "a gif with a page behind it": vector(
        _sample("gif", lambda whole: whole + b"<html><script>alert(1)</script></html>"), "clear"
    ),
    "a gif with a page in its comment": vector(
        _gif_with(b"\x21\xfe\x1f<html><script>alert(1)</script>\0"), "clear"
    ),
    "a gif that is also a script": vector(lambda: b"GIF89a/*" + sample("gif") + b"*/=1;alert(1)", "corrupt"),
    "a bmp that is also a script": vector(
        lambda: b"BM=1;/*" + sample("bmp") + b"*/alert(1)", "unsupported_format"
    ),
    "a jpeg with a pdf in its comment": vector(
        lambda: media.jpeg_with(media.segment(0xFE, b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n")), "clear"
    ),
    "a jpeg with a pdf behind it": vector(_sample("jpeg", lambda whole: whole + b"%PDF-1.7\n%%EOF"), "clear"),
    "a pdf with a jpeg in it": vector(_behind("jpeg", b"%PDF-1.7\n1 0 obj\nstream\n"), "unsupported_format"),
    "a page with a png in it": vector(_behind("png", b"<html><!--"), "unsupported_format"),
    "a jpeg behind an empty line": vector(_behind("jpeg", b"\n"), "unsupported_format"),
    "a png behind a png": vector(_sample("png", lambda whole: whole * 2), "clear"),
    "a gif behind a jpeg": vector(_sample("jpeg", lambda whole: whole + sample("gif")), "clear"),
    "an avif that says it is a heic": vector(_replaced("avif", b"avif", b"heic"), "corrupt"),
    "a heic that says it is an avif": vector(_replaced("heic", b"heic", b"avif"), "corrupt"),
    "a heic that says it is a film": vector(
        _replaced("heic", b"ftypheic", b"ftypisom"), "unsupported_format", "corrupt", "clear"
    ),
    "a webp that says it is a film": vector(_replaced("webp", b"WEBP", b"AVI "), "unsupported_format"),
    "a tiff of the other byte order": vector(_sample("tiff", lambda whole: b"MM\0*" + whole[4:]), "corrupt"),
    "a jpeg wrapped in a tiff": vector(
        lambda: media.tiff(sample("jpeg"), media.page(50_000, 50_000, count=2_000, compression=7)),
        "too_many_pixels",
    ),
    "an archive of a jpeg": vector(
        _sample("jpeg", lambda whole: gzip.compress(whole, mtime=0)), "unsupported_format"
    ),
}

REFUSED: Mapping[str, Vector] = {
    "nothing": vector(lambda: b"", "empty"),
    **{
        f"the byte {byte:#04x}": vector(partial(bytes, [byte]), "unsupported_format")
        for byte in (0x00, 0x0A, 0x42, 0x47, 0x49, 0x89, 0xFF)
    },
    **{
        name: vector(partial(bytes, content), "unsupported_format")
        for name, content in {
            "a svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>',
            "a svg of a billion laughs": b'<!DOCTYPE s [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><svg>&b;</svg>',
            "a svg behind a byte order mark": b"\xef\xbb\xbf<?xml version='1.0'?><svg/>",
            "a pdf": b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\n%%EOF",
            "a psd": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(100),
            "an eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
            "an eps of dos": b"\xc5\xd0\xd3\xc6" + bytes(100),
            "an ico": b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0" + bytes(100),
            "a text": b"These are plain words.\n" * 100,
            "a page": b"<!DOCTYPE html><html><body>403</body></html>",
            "a json": b'{"error": "not found"}',
            "a gzip": gzip.compress(bytes(10**6), mtime=0),
            "a 7z": b"7z\xbc\xaf\x27\x1c" + bytes(100),
            "a tar": b"a.txt".ljust(257, b"\0") + b"ustar\x0000" + bytes(248),
            "a program": b"\x7fELF\x02\x01\x01" + bytes(100),
            "a script": b"#!/bin/sh\nrm -rf /\n",
            "a jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
            "a jpeg 2000 codestream": b"\xff\x4f\xff\x51" + bytes(100),
            "a jpeg xl": b"\xff\x0a" + bytes(100),
            "a jpeg xl in boxes": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100),
            "a dds": b"DDS |\0\0\0" + bytes(120),
            "a ppm": b"P6\n9999999 9999999\n255\n" + bytes(100),
            "a pcx": b"\x0a\x05\x01\x08" + bytes(124),
            "a tga": b"\0\0\x02" + bytes(9) + b"\x40\0\x40\0\x18\0" + bytes(100),
            "a qoi": b"qoif" + struct.pack(">IIBB", 64, 64, 3, 0) + bytes(100),
            "a wmf": b"\xd7\xcd\xc6\x9a" + bytes(100),
            "a fli": struct.pack("<IHHHH", 128, 0xAF11, 1, 64, 64) + bytes(116),
            "an icns": b"icns\0\0\0\x10" + bytes(100),
            "a blp": b"BLP2" + bytes(150),
            "a flash film": b"FWS\x09" + bytes(100),
            "an mp4": media.box(b"ftyp", b"isom", bytes(4), b"mp42") + media.box(b"mdat", bytes(100)),
            "a mov": media.box(b"ftyp", b"qt  ", bytes(4)) + media.box(b"moov"),
            "a webm": b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm" + bytes(100),
            "an avi": media.riff((b"LIST", b"hdrl" + bytes(60)), form=b"AVI "),
            "a wav": media.riff((b"fmt ", bytes(16)), form=b"WAVE"),
        }.items()
    },
    "a zip": vector(_zip, "unsupported_format"),
    "an encoded ico": vector(lambda: media.encoded(Image.new("RGB", (32, 32)), "ICO"), "unsupported_format"),
    "an encoded jpeg 2000": vector(lambda: media.encoded(media.picture(), "JPEG2000"), "unsupported_format"),
    "an encoded eps": vector(lambda: media.encoded(media.picture(), "EPS"), "unsupported_format"),
    "an encoded pdf": vector(lambda: media.encoded(media.picture(), "PDF"), "unsupported_format"),
}

EVERY: Mapping[str, Vector] = {
    **DIMENSIONS,
    **LENGTHS,
    **CHUNKS,
    **DEFLATED,
    **BOXES,
    **DAMAGED,
    **DISGUISED,
    **REFUSED,
}
"""All that a decoder is done with in time, or may be."""
