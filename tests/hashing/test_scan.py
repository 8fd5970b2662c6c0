"""What a scan finds in media of every format and pixel mode, whole, damaged and hostile."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import imagehash
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from app.hashing import pdq, regions
from app.media import Background, Reason, Region
from tests.hashing.drawings import distance, drawing, encoded, found_in, pdq_of, turned

pillow_heif.register_heif_opener()

WHOLE = drawing(3)
SMALL = drawing(5, (160, 120))
GREY = WHOLE.convert("L")
TRANSLUCENT = WHOLE.copy()
TRANSLUCENT.putalpha(drawing(4).convert("L"))


def on(background: str, picture: Image.Image) -> Image.Image:
    below = Image.new("RGBA", picture.size, background)
    below.alpha_composite(picture.convert("RGBA"))
    return below.convert("RGB")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
@pytest.mark.parametrize("encoder", ["PNG", "TIFF", "GIF", "BMP"])
def test_every_pixel_mode_gives_the_hash_of_the_same_pixels_as_rgb(mode: str, encoder: str) -> None:
    picture = WHOLE.quantize(64) if mode == "P" else WHOLE.convert(mode)
    if (encoder, mode) in {("GIF", "RGB"), ("GIF", "RGBA"), ("GIF", "LA"), ("BMP", "LA")}:
        picture = picture.convert("L")

    found = found_in(encoded(picture, encoder))

    assert found.pdqs == [pdq_of(picture)]
    assert found.renderings[0].background is Background.NONE
    assert found.reason is None


@pytest.mark.parametrize(
    ("mode", "encoder"),
    [("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("LAB", "TIFF"), ("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "JPEG")],
)
def test_colour_spaces_are_converted_as_pillow_does(mode: str, encoder: str) -> None:
    picture = WHOLE
    if mode == "LAB":
        # Pillow converts to LAB through a transform only.
        picture = Image.merge("LAB", WHOLE.split())
    medium = encoded(picture.convert(mode) if mode != "LAB" else picture, encoder)

    with Image.open(io.BytesIO(medium)) as opened:
        assert opened.mode == ("RGB" if (mode, encoder) == ("YCbCr", "JPEG") else mode)
        assert found_in(medium).pdqs == [pdq_of(opened)]


def test_sixteen_bit_samples_hash_by_their_high_byte() -> None:
    low = np.random.default_rng(1).integers(0, 256, (300, 400), dtype=np.uint16)
    samples = np.asarray(GREY, np.uint16) * 256 + low
    for encoder in ("PNG", "TIFF"):
        assert found_in(encoded(Image.fromarray(samples), encoder)).pdqs == [pdq_of(GREY)]
    big_endian = Image.frombytes("I;16B", GREY.size, samples.astype(">u2").tobytes())
    assert found_in(encoded(big_endian, "TIFF")).pdqs == [pdq_of(GREY)]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(colour: int, depth: int, rows: np.ndarray[Any, Any], *, transparent: bytes = b"") -> bytes:
    """A PNG of samples, as the format stores them; ``rows`` holds each row's bytes."""
    height, width = rows.shape[:2]
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(
        ">IIBBBBB", width * 8 // depth if depth < 8 else width, height, depth, colour, 0, 0, 0
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + (png_chunk(b"tRNS", transparent) if transparent else b"")
        + png_chunk(b"IDAT", zlib.compress(raw))
        + png_chunk(b"IEND", b"")
    )


def test_sixteen_bit_colour_and_alpha_hash_by_their_high_byte() -> None:
    low = np.random.default_rng(2).integers(0, 256, (300, 400, 4), dtype=np.uint16)
    rgb = np.asarray(WHOLE, np.uint16) * 256 + low[:, :, :3]
    assert found_in(png(2, 16, rgb.astype(">u2"))).pdqs == [pdq_of(WHOLE)]

    rgba = np.asarray(TRANSLUCENT, np.uint16) * 257
    white, black = (pdq_of(on(background, TRANSLUCENT)) for background in ("white", "black"))
    assert found_in(png(6, 16, rgba.astype(">u2"))).pdqs == [white, black]

    grey = np.dstack([np.asarray(GREY, np.uint16) * 257, np.full((300, 400), 65535, np.uint16)])
    assert found_in(png(4, 16, grey.astype(">u2"))).pdqs == [pdq_of(GREY)]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_transparent_sixteen_bit_colour_is_told_by_all_its_bits(orientation: int) -> None:
    rgb = np.asarray(WHOLE, np.uint16) * 256
    hole = (200, 100, 50)
    rgb[50:150, 100:300] = np.array(hole) * 256 + 7
    rgb[200:250, 100:300] = np.array(hole) * 256 + 8
    medium = png(2, 16, rgb.astype(">u2"), transparent=struct.pack(">HHH", *(256 * c + 7 for c in hole)))
    if orientation != 1:
        exif = turned(orientation).tobytes()[6:]
        medium = medium[:33] + png_chunk(b"eXIf", exif) + medium[33:]
    expected = (rgb >> 8).astype(np.uint8)
    shown = []
    for level in (255, 0):
        expected[50:150, 100:300] = level
        picture = Image.fromarray(expected)
        shown.append(pdq_of(picture if orientation == 1 else picture.transpose(Image.Transpose.ROTATE_270)))

    assert found_in(medium).pdqs == shown


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_told_at_every_depth(depth: int) -> None:
    most = 2**depth - 1
    levels = np.asarray(GREY).astype(np.uint32) * most // 255
    hole = int(levels[150, 200])
    if depth == 16:
        rows = levels.astype(">u2")
    elif depth == 8:
        rows = levels.astype(np.uint8)
    else:
        bits = (levels[:, :, np.newaxis] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(300, -1).astype(bool), axis=1)
    medium = png(0, depth, rows, transparent=struct.pack(">H", hole))
    seen = (levels >> 8 if depth == 16 else levels * (255 // most)).astype(np.uint8)
    expected = [
        pdq_of(Image.fromarray(np.where(levels == hole, level, seen).astype(np.uint8))) for level in (255, 0)
    ]

    found = found_in(medium)

    assert found.pdqs == expected
    assert [rendering.background for rendering in found.renderings] == [Background.WHITE, Background.BLACK]


def test_transparent_pictures_are_hashed_on_white_and_on_black() -> None:
    expected = [pdq_of(on(background, TRANSLUCENT)) for background in ("white", "black")]
    assert expected[0] != expected[1]
    for medium in (
        encoded(TRANSLUCENT, "PNG"),
        encoded(TRANSLUCENT, "WEBP", lossless=True, exact=True),
        encoded(TRANSLUCENT, "TIFF"),
    ):
        found = found_in(medium)
        assert found.pdqs == expected
        assert [(rendering.frame, rendering.background) for rendering in found.renderings] == [
            (0, Background.WHITE),
            (0, Background.BLACK),
        ]
        assert found.shape is not None
        assert found.shape.frames == 1


def test_a_palette_with_transparent_entries_is_laid_on_both_backgrounds() -> None:
    picture = WHOLE.quantize(16)
    for encoder, transparency in (("PNG", 3), ("GIF", 3), ("PNG", bytes(range(0, 160, 10)))):
        medium = encoded(picture, encoder, transparency=transparency)
        with Image.open(io.BytesIO(medium)) as opened:
            expected = [pdq_of(on(background, opened)) for background in ("white", "black")]
        assert found_in(medium).pdqs == expected


def test_an_alpha_channel_that_hides_nothing_counts_as_none() -> None:
    picture = WHOLE.copy()
    picture.putalpha(255)
    found = found_in(encoded(picture, "PNG"))
    assert found.pdqs == [pdq_of(WHOLE)]
    assert found.renderings[0].background is Background.NONE


def tiff(tags: dict[int, tuple[int, list[int]]], samples: bytes) -> bytes:
    """A little-endian TIFF of one uncompressed strip. Tags: name → (type, values)."""
    sizes = {3: 2, 4: 4}
    tags = tags | {273: (4, [8]), 279: (4, [len(samples)])}
    entries, extra = b"", b""
    place = 8 + len(samples) + 2 + 12 * len(tags) + 4
    for name in sorted(tags):
        kind, values = tags[name]
        packed = b"".join(value.to_bytes(sizes[kind], "little") for value in values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", place + len(extra)), extra + packed
        entries += struct.pack("<HHI", name, kind, len(values)) + packed.ljust(4, b"\0")
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(samples)) + samples + directory + extra


def tiff_tags(bits: list[int], photometric: int, **more: list[int]) -> dict[int, tuple[int, list[int]]]:
    names = {"extra_samples": 338, "sample_format": 339, "orientation": 274}
    fixed = {256: [400], 257: [300], 258: bits, 259: [1], 262: [photometric], 277: [len(bits)], 278: [300]}
    return {name: (3, values) for name, values in fixed.items()} | {
        names[name]: (3, values) for name, values in more.items()
    }


def test_premultiplied_alpha_is_laid_on_both_backgrounds() -> None:
    samples = np.asarray(TRANSLUCENT, np.uint16)
    premultiplied = np.dstack([samples[:, :, :3] * samples[:, :, 3:] // 255, samples[:, :, 3:]]).astype(
        np.uint8
    )
    colour = tiff(tiff_tags([8] * 4, 2, extra_samples=[1]), premultiplied.tobytes())
    grey = tiff(tiff_tags([8] * 2, 1, extra_samples=[1]), premultiplied[:, :, 1::2].tobytes())
    for medium, mode in ((colour, "RGBA"), (grey, "La")):
        with Image.open(io.BytesIO(medium)) as opened:
            assert opened.mode == mode
            straight = opened.convert("LA").convert("RGBA") if mode == "La" else opened.convert("RGBA")
        found = found_in(medium)
        assert found.reason is None
        for rendering, background in zip(found.renderings, ("white", "black"), strict=True):
            assert distance(rendering.pdq, pdq_of(on(background, straight))[0]) <= 2


def test_grey_tiffs_in_which_zero_is_white_are_seen_so() -> None:
    sixteen = np.asarray(GREY, np.uint16) * 257
    for bits, samples in ((8, np.asarray(GREY)), (16, sixteen)):
        medium = tiff(tiff_tags([bits], 0), samples.tobytes())
        assert found_in(medium).pdqs == [pdq_of(ImageOps.invert(GREY))]


def test_long_samples_are_scaled_by_the_range_they_use() -> None:
    levels = np.asarray(GREY)
    for samples, sample_format in (
        (levels.astype(np.int32), 2),
        (levels.astype(np.int32) * 257, 2),
        (levels.astype(np.uint32) << 24, 1),
        (levels.astype(np.float32), 3),
        (levels.astype(np.float32) / 255, 3),
    ):
        medium = tiff(tiff_tags([32], 1, sample_format=[sample_format]), samples.tobytes())
        assert found_in(medium).pdqs == [pdq_of(GREY)]


def test_floats_that_are_no_numbers_are_no_obstacle() -> None:
    samples = np.asarray(GREY, np.float32) / 255
    samples[0, :4] = np.nan, np.inf, -np.inf, -3
    seen = np.asarray(GREY).copy()
    seen[0, :4] = 0, 255, 0, 0
    medium = tiff(tiff_tags([32], 1, sample_format=[3]), samples.tobytes())
    assert found_in(medium).pdqs == [pdq_of(Image.fromarray(seen))]


def test_twelve_bit_grey_is_scaled_by_its_depth() -> None:
    levels = np.asarray(GREY, np.uint16) * 16
    pairs = levels.reshape(300, 200, 2)
    packed = np.dstack(
        [pairs[:, :, 0] >> 4, (pairs[:, :, 0] & 15) << 4 | pairs[:, :, 1] >> 8, pairs[:, :, 1] & 255]
    ).astype(np.uint8)
    assert found_in(tiff(tiff_tags([12], 1), packed.tobytes())).pdqs == [pdq_of(GREY)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_hashed_upright(orientation: int) -> None:
    # Each its own: AVIF's encoder takes the orientation out of what it is given.
    for encoder, options in (
        ("JPEG", {"exif": turned(orientation), "quality": 95}),
        ("PNG", {"exif": turned(orientation)}),
        ("WEBP", {"exif": turned(orientation), "lossless": True}),
        ("TIFF", {"tiffinfo": {274: orientation}}),
        ("TIFF", {"tiffinfo": {274: orientation}, "compression": "tiff_lzw"}),
        ("AVIF", {"exif": turned(orientation), "quality": 95}),
        ("HEIF", {"quality": 95}),
    ):
        picture = SMALL.copy()
        if encoder == "HEIF":
            # Its encoder turns EXIF's orientation into the container's, if the picture has it.
            picture.info["exif"] = turned(orientation).tobytes()
        medium = encoded(picture, encoder, **options)
        with Image.open(io.BytesIO(medium)) as opened:
            seen = ImageOps.exif_transpose(opened)
            assert seen.size == ((120, 160) if orientation > 4 else (160, 120))
        found = found_in(medium)
        assert found.pdqs == [pdq_of(seen)], encoder
        assert found.shape is not None
        assert (found.shape.width, found.shape.height) == seen.size
        assert found.renderings[0].phash.hex() == str(imagehash.phash(seen))
        # Not twice, nor the other way round.
        intended = ImageOps.exif_transpose(with_exif(orientation))
        assert distance(found.renderings[0].pdq, pdq_of(intended)[0]) <= 16, encoder


def with_exif(orientation: int) -> Image.Image:
    with Image.open(io.BytesIO(encoded(SMALL, "PNG", exif=turned(orientation)))) as opened:
        opened.load()
        return opened


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_of_many_strips_are_hashed_upright(orientation: int) -> None:
    large = drawing(8, (1300, 901))
    medium = encoded(large, "PNG", exif=turned(orientation), compress_level=1)
    with Image.open(io.BytesIO(medium)) as opened:
        seen = ImageOps.exif_transpose(opened)
    found = found_in(medium)
    assert found.pdqs == [pdq_of(seen)]
    assert found.renderings[0].phash.hex() == str(imagehash.phash(seen))


def test_an_orientation_that_makes_no_sense_is_none() -> None:
    for nonsense in (0, 9, 65535):
        assert found_in(encoded(WHOLE, "PNG", exif=turned(nonsense))).pdqs == [pdq_of(WHOLE)]
    assert found_in(encoded(WHOLE, "PNG", exif=b"Exif\0\0MM\0*not EXIF at all")).pdqs == [pdq_of(WHOLE)]


@pytest.mark.parametrize("encoder", ["JPEG", "WEBP", "AVIF", "HEIF"])
@pytest.mark.parametrize("seed", [11, 12])
def test_lossy_formats_stay_near_the_original(encoder: str, seed: int) -> None:
    original = drawing(seed, (480, 360))
    value, quality = pdq_of(original)
    assert quality >= 80

    found = found_in(encoded(original, encoder, quality=90))

    assert found.reason is None
    assert found.shape is not None
    assert found.shape.format == {"HEIF": "heic"}.get(encoder, encoder.lower())
    assert distance(found.renderings[0].pdq, value) <= 16


@pytest.mark.parametrize("encoder", ["PNG", "GIF", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"])
def test_every_frame_that_differs_is_hashed(encoder: str) -> None:
    frames = [drawing(seed, (160, 120)) for seed in (21, 22, 21)]
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "GIF": {}, "PNG": {}}.get(encoder, {"quality": 90})
    medium = encoded(frames[0], encoder, append_images=frames[1:], **options)
    expected = []
    with Image.open(io.BytesIO(medium)) as opened:
        for frame in range(3):
            opened.seek(frame)
            expected.append(pdq_of(opened))

    found = found_in(medium)

    assert found.reason is None
    assert found.shape is not None
    assert found.shape.frames == 3
    # The third frame shows the first one's pixels again; a sequence that predicts may blur them.
    assert found.pdqs[:2] == expected[:2]
    assert [rendering.frame for rendering in found.renderings] == ([0, 1] if encoder != "AVIF" else [0, 1, 2])
    assert distance(expected[0][0], expected[1][0]) > 60


def test_a_frame_that_was_seen_before_is_not_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an animation that stands still for a while costs the reference and the search of each frame."""
    hashed: list[str] = []
    settle, find = pdq.settle, regions.find

    def settle_and_note(*given: Any) -> tuple[bytes, int]:
        hashed.append("whole")
        return settle(*given)

    def find_and_note(luma: np.ndarray[Any, Any]) -> Sequence[Region]:
        hashed.append("parts")
        return find(luma)

    monkeypatch.setattr(pdq, "settle", settle_and_note)
    monkeypatch.setattr(regions, "find", find_and_note)
    pages = [drawing(seed, (160, 120)) for seed in (21, 22, 21, 21, 22)]
    found = found_in(encoded(pages[0], "TIFF", append_images=pages[1:]))
    assert found.shape is not None
    assert found.shape.frames == 5
    assert [rendering.frame for rendering in found.renderings] == [0, 1]
    assert hashed == ["parts", "whole", "parts", "whole"]


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("GIF", {"disposal": 0}),
        ("GIF", {"disposal": 2}),
        ("GIF", {"disposal": 3}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_frames_are_composed_as_pillow_shows_them(encoder: str, options: dict[str, Any]) -> None:
    base = drawing(31, (200, 150)).convert("RGBA")
    spots = []
    for seed in (32, 33, 34):
        spot = Image.new("RGBA", base.size)
        spot.paste(drawing(seed, (80, 60)).convert("RGBA"), (20 * (seed - 31), 15 * (seed - 31)))
        spots.append(spot)
    medium = encoded(base, encoder, append_images=spots, **options)
    expected = []
    with Image.open(io.BytesIO(medium)) as opened:
        for frame in range(4):
            opened.seek(frame)
            seen = opened.convert("RGBA")
            opaque = seen.getchannel("A").getextrema()[0] == 255
            for background in ("white",) if opaque else ("white", "black"):
                expected.append(pdq_of(on(background, seen)))  # noqa: PERF401 - plainer so
    assert found_in(medium).pdqs == list(dict.fromkeys(expected))


def test_an_animations_hidden_still_picture_is_hashed_too() -> None:
    still, first, second = (drawing(seed, (200, 150)) for seed in (41, 42, 43))
    medium = encoded(still, "PNG", append_images=[first, second], default_image=True)
    found = found_in(medium)
    assert found.pdqs == [pdq_of(picture) for picture in (still, first, second)]
    assert found.shape is not None
    assert found.shape.frames == 3


def apng(canvas: tuple[int, int], frames: list[tuple[Image.Image, tuple[int, int], int, int]]) -> bytes:
    """An animation of RGBA pictures, each with its corner, disposal and blend."""
    still = encoded(Image.new("RGBA", canvas), "PNG")
    chunks = png_chunk(b"acTL", struct.pack(">II", len(frames), 0))
    sequence = 0
    for picture, corner, disposal, blend in frames:
        chunks += png_chunk(
            b"fcTL", struct.pack(">IIIIIHHBB", sequence, *picture.size, *corner, 1, 10, disposal, blend)
        )
        rows = np.asarray(picture.convert("RGBA"))
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        if sequence:
            chunks += png_chunk(b"fdAT", struct.pack(">I", sequence + 1) + data)
            sequence += 1
        else:
            chunks += png_chunk(b"IDAT", data)
        sequence += 1
    return still[:33] + chunks + png_chunk(b"IEND", b"")


def test_an_apngs_frames_are_composed_as_its_specification_says() -> None:
    base, patch, veil = drawing(44, (200, 150)), drawing(45, (80, 60)), drawing(46, (120, 90))
    veil.putalpha(100)
    first = base.convert("RGBA")
    patched, veiled, both, holed = first.copy(), first.copy(), first.copy(), first.copy()
    patched.paste(patch, (20, 30))
    veiled.alpha_composite(veil, (60, 40))
    both.paste(patch, (20, 30))
    both.alpha_composite(veil, (60, 40))
    replaced = first.copy()
    replaced.paste(veil, (60, 40))
    holed.paste((0, 0, 0, 0), (20, 30, 100, 90))
    holed.alpha_composite(veil, (60, 40))
    none, background, previous, source, over = 0, 1, 2, 0, 1
    for disposal_of_patch, blend_of_veil, last in (
        (none, over, both),
        (previous, over, veiled),
        (background, over, holed),
        (previous, source, replaced),
    ):
        medium = apng(
            base.size,
            [
                (base, (0, 0), none, source),
                (patch, (20, 30), disposal_of_patch, over),
                (veil, (60, 40), none, blend_of_veil),
            ],
        )
        expected = [pdq_of(first), pdq_of(patched)]
        opaque = last.getchannel("A").getextrema()[0] == 255
        expected += [pdq_of(on(below, last)) for below in (("white",) if opaque else ("white", "black"))]
        assert found_in(medium).pdqs == expected


def test_an_apng_out_of_order_is_corrupt() -> None:
    picture = drawing(47, (64, 48))
    frames = [(picture, (0, 0), 0, 0), (picture, (0, 0), 0, 0)]
    medium = apng((64, 48), frames)
    assert found_in(medium).reason is None
    for kind, place, value in ((b"fdAT", 0, 9), (b"fcTL", 8, 65), (b"fcTL", 24, 7)):
        damaged = bytearray(medium)
        start = medium.rindex(kind) + 4
        (length,) = struct.unpack_from(">I", medium, start - 8)
        if kind == b"fcTL" and place == 24:
            damaged[start + 24] = value
        else:
            struct.pack_into(">I", damaged, start + place, value)
        checksum = zlib.crc32(damaged[start - 4 : start + length])
        struct.pack_into(">I", damaged, start + length, checksum)
        assert found_in(bytes(damaged)).reason is Reason.CORRUPT


def test_pages_of_different_sizes_and_modes_are_each_hashed() -> None:
    pages = [
        drawing(51, (320, 240)),
        drawing(52, (100, 333)).convert("CMYK"),
        drawing(53, (250, 90)).convert("1"),
    ]
    found = found_in(encoded(pages[0], "TIFF", append_images=pages[1:]))
    assert found.pdqs == [pdq_of(page) for page in pages]
    assert found.reason is None


def test_beyond_the_frame_limit_the_first_frames_are_hashed_and_the_reason_told() -> None:
    frames = [drawing(seed, (64, 48)) for seed in range(60, 63)]
    for encoder in ("PNG", "GIF", "WEBP", "TIFF", "AVIF", "HEIF", "MPO"):
        medium = encoded(frames[0], encoder, append_images=frames[1:])
        found = found_in(medium, max_frames=2)
        assert found.reason is Reason.TOO_MANY_FRAMES, encoder
        assert [rendering.frame for rendering in found.renderings] == [0, 1], encoder
        assert found_in(medium, max_frames=3).reason is None, encoder


@pytest.mark.parametrize("rows", [struct.pack("<HIf", 11, 1, 72.5), struct.pack("<HIi", 9, 1, -5)])
def test_a_tiff_whose_rows_are_no_count_is_corrupt(rows: bytes) -> None:
    """As a fraction or below zero they cannot say how much memory a strip takes."""
    content = encoded(SMALL, "TIFF", compression="tiff_lzw")
    place = content.index(struct.pack("<H", 278), struct.unpack_from("<I", content, 4)[0])
    found = found_in(content[: place + 2] + rows + content[place + 12 :])
    assert (found.need, found.reason) == (None, Reason.CORRUPT)


def test_a_chain_of_tiff_pages_that_loops_ends() -> None:
    medium = bytearray(encoded(drawing(71, (64, 48)), "TIFF", append_images=[drawing(72, (64, 48))]))
    (first,) = struct.unpack_from("<I", medium, 4)
    (entries,) = struct.unpack_from("<H", medium, first)
    link = first + 2 + 12 * entries
    (second,) = struct.unpack_from("<I", medium, link)
    (entries,) = struct.unpack_from("<H", medium, second)
    struct.pack_into("<I", medium, second + 2 + 12 * entries, first)

    found = found_in(bytes(medium))

    assert len(found.renderings) == 2
    assert found.reason is None


@pytest.mark.parametrize("encoder", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF"])
def test_too_many_pixels_are_refused_before_any_is_decoded(encoder: str) -> None:
    medium = encoded(SMALL, encoder)
    found = found_in(medium, max_pixels=160 * 120 - 1)
    assert found.reason is Reason.TOO_MANY_PIXELS
    assert found.need is None
    assert found.shape is not None
    assert (found.shape.width, found.shape.height) == (160, 120)
    assert found_in(medium, max_pixels=160 * 120).reason is None


def test_a_page_that_is_too_large_is_refused_wherever_it_stands() -> None:
    medium = encoded(drawing(73, (64, 48)), "TIFF", append_images=[WHOLE])
    found = found_in(medium, max_pixels=400 * 300 - 1)
    assert found.reason is Reason.TOO_MANY_PIXELS
    assert not found.renderings


def test_what_needs_more_memory_than_there_is_has_too_many_pixels() -> None:
    medium = encoded(WHOLE, "WEBP")
    need = found_in(medium).need
    assert need is not None
    found = found_in(medium, max_decode_bytes=need - 1)
    assert found.reason is Reason.TOO_MANY_PIXELS
    assert found.need is None
    assert found_in(medium, max_decode_bytes=need).reason is None


def test_a_hundred_megapixels_fit_the_default_budget() -> None:
    for colour, channels in ((0, 1), (2, 3), (6, 4)):
        header = png(colour, 8, np.zeros((1, 1, channels), np.uint8)).replace(
            struct.pack(">II", 1, 1), struct.pack(">II", 10_000, 10_000)
        )
        checksum = struct.pack(">I", zlib.crc32(header[12:29]))
        found = found_in(header[:29] + checksum + header[33:])
        assert found.need is not None
        # And the pixels that the header promises are not there.
        assert found.reason is Reason.CORRUPT


@pytest.mark.parametrize("encoder", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "MPO"])
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.98])
def test_truncated_media_are_corrupt(encoder: str, kept: float) -> None:
    medium = encoded(SMALL, encoder)
    found = found_in(medium[: int(len(medium) * kept)])
    assert found.reason is Reason.CORRUPT


def test_a_png_whose_pixels_fail_their_checksum_is_corrupt() -> None:
    medium = bytearray(encoded(WHOLE, "PNG"))
    medium[len(medium) // 2] ^= 1
    assert found_in(bytes(medium)).reason is Reason.CORRUPT


def test_frames_before_the_damage_are_hashed_all_the_same() -> None:
    frames = [drawing(seed, (200, 150)) for seed in (81, 82, 83)]
    for encoder in ("GIF", "WEBP"):
        medium = bytearray(encoded(frames[0], encoder, append_images=frames[1:]))
        del medium[-2000:]
        found = found_in(bytes(medium))
        assert found.reason is Reason.CORRUPT
        assert encoder == "WEBP" or len(found.renderings) == 2


def test_an_empty_medium_is_empty() -> None:
    found = found_in(b"")
    assert found.reason is Reason.EMPTY
    assert found.shape is None


@pytest.mark.parametrize(
    "medium",
    [
        b"hello",
        b"%PDF-1.7 ...",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bytes(5000),
        b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(400),
        b"8BPS\0\1" + bytes(100),
    ],
)
def test_what_is_no_picture_is_unsupported(medium: bytes) -> None:
    found = found_in(medium)
    assert found.reason is Reason.UNSUPPORTED_FORMAT
    assert found.shape is None


def test_a_disabled_format_is_unsupported() -> None:
    medium = encoded(WHOLE, "WEBP")
    assert found_in(medium, disabled_formats=frozenset({"webp"})).reason is Reason.UNSUPPORTED_FORMAT
    assert found_in(medium, disabled_formats=frozenset({"avif"})).reason is None


def test_a_polyglot_is_read_as_the_one_format_that_its_first_bytes_tell() -> None:
    shown, hidden = drawing(91), drawing(92)
    for first in ("JPEG", "GIF", "BMP"):
        medium = encoded(shown, first) + encoded(hidden, "PNG") + encoded(hidden, "TIFF")
        found = found_in(medium)
        assert found.shape is not None
        assert found.shape.format == first.lower()
        with Image.open(io.BytesIO(medium), formats=[first]) as opened:
            assert found.pdqs == [pdq_of(opened)]


def test_a_multi_picture_index_that_points_nowhere_hides_nothing() -> None:
    medium = encoded(drawing(93), "MPO", append_images=[drawing(94)])
    second = medium.index(b"\xff\xd8\xff", 10)
    found = found_in(medium[:second])
    assert found.reason is None
    assert len(found.renderings) == 1


def test_compressed_texts_are_never_inflated() -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    medium = encoded(WHOLE, "PNG")
    chunks = b""
    for kind, head in ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")):
        chunks += png_chunk(kind, head + bomb)
    found = found_in(medium[:33] + chunks + medium[33:])
    assert found.reason is None
    assert found.pdqs == [pdq_of(WHOLE)]


def test_tiny_pictures_have_the_zero_hash_and_no_quality() -> None:
    for size in ((1, 1), (4, 300), (300, 4)):
        picture = drawing(95, size) if min(size) > 1 else Image.new("RGB", size, "red")
        found = found_in(encoded(picture, "PNG"))
        assert found.pdqs == [(bytes(32), 0)]
        assert found.renderings[0].phash.hex() == str(imagehash.phash(picture))
        assert found.reason is None


def test_random_damage_never_raises() -> None:
    chance = np.random.default_rng(7)
    small = drawing(96, (48, 40))
    media = [
        encoded(small, encoder) for encoder in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")
    ]
    media += [
        encoded(small, encoder, append_images=[WHOLE.resize((48, 40))]) for encoder in ("MPO", "GIF", "WEBP")
    ]
    media.append(encoded(small, "TIFF", compression="tiff_lzw"))
    for medium in media:
        for _ in range(60):
            damaged = bytearray(medium)
            for place in chance.integers(0, len(damaged), chance.integers(1, 8)):
                damaged[place] = chance.integers(0, 256)
            found_in(bytes(damaged), max_pixels=2_000_000, max_decode_bytes=80 * 2**20)
