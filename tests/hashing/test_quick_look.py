"""A quick look at a JPEG: its hashes are as near to the canonical ones as it says, its parts the same."""

import io
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app import formats
from app.hashing import pdq, regions
from app.hashing.decode import open_medium
from app.hashing.picture import Small
from app.hashing.records import MAX_DOUBTFUL_BITS, Forms, Look
from app.hashing.scan import scan
from app.media import PDQ_BYTES, SPARE_BITS, Reason, Region, Rendering
from tests.hashing.drawings import LIMITS, dense, drawing, encoded, turned

Looked = tuple[Rendering | None, list[Forms], Reason | None]


def looked_at(medium: bytes, *, quick: bool) -> Looked:
    """The first rendering, all forms, and the reason."""
    scanning = scan(medium, LIMITS, Look(quick=quick))
    rendering: Rendering | None = None
    forms: list[Forms] = []
    while True:
        try:
            told = next(scanning)
        except StopIteration as end:
            return rendering, forms, end.value
        if isinstance(told, Rendering):
            rendering = rendering or told
        elif isinstance(told, Forms):
            forms.append(told)


def split(forms: Forms) -> list[bytes]:
    return [forms.hashes[place : place + PDQ_BYTES] for place in range(0, len(forms.hashes), PDQ_BYTES)]


@cache
def jpegs() -> list[bytes]:
    """JPEGs of many sizes, turns and ways of being encoded."""
    chance = np.random.default_rng(5)
    sizes = [(1600, 1000), (1001, 1531), (999, 777), (640, 480), (333, 501), (130, 97), (64, 64), (9, 5)]
    made = []
    for number in range(48):
        width, height = sizes[number % len(sizes)]
        picture = drawing(number, (width, height))
        picture = picture.convert("L") if number % 7 == 3 else picture
        made.append(
            encoded(
                picture,
                "JPEG",
                quality=int(chance.integers(30, 98)),
                subsampling=int(chance.integers(0, 3)),
                progressive=bool(number % 5 == 2),
                exif=turned(1 + number % 8),
            )
        )
    return made


def test_colours_much_coarser_than_the_luma_get_no_quick_look() -> None:
    """They clip over many pixels, of which the luma has no trace."""
    jpeg = bytearray(encoded(drawing(1, (640, 480)), "JPEG", subsampling=0))
    sampling = jpeg.index(b"\xff\xc0") + 11
    assert jpeg[sampling] == 0x11, "the luma's share of the samples, across and down"
    found = []
    for jpeg[sampling] in (0x11, 0x22, 0x41, 0x14):
        medium = open_medium(bytes(jpeg), formats.JPEG, most_frames=1, max_pixels=LIMITS.max_pixels)
        found.append(medium.smaller is not None)
    assert found == [True, True, False, False]


def test_steps_coarser_than_were_measured_get_no_quick_look() -> None:
    """In this one, red alone, 13 bits of a quick look were wrong and not in doubt."""
    pixels = np.array(drawing(3, (1500, 1000)))
    pixels[:, :, 1:] = 0
    quick = {}
    for quality in (5, 19, 20):
        jpeg = encoded(Image.fromarray(pixels), "JPEG", quality=quality)
        rendering, _, _ = looked_at(jpeg, quick=True)
        assert rendering is not None
        quick[quality] = rendering.phash == b""
    assert quick == {5: False, 19: False, 20: True}


def test_a_picture_smaller_than_was_measured_gets_no_quick_look() -> None:
    """Few pixels even out little of what is wrong with each."""
    found = []
    for size in ((640, 370), (640, 369), (10, 640)):
        rendering, _, _ = looked_at(encoded(drawing(2, size), "JPEG", quality=90), quick=True)
        assert rendering is not None
        found.append(rendering.phash == b"")
    assert found == [True, False, False]


def test_no_form_of_a_quick_look_is_wrong_where_it_says_that_it_is_not() -> None:
    """A search without the bits in doubt, and so much wider, misses nothing within the threshold."""
    quickly = 0
    for jpeg in jpegs():
        quick, (forms, *_), _ = looked_at(jpeg, quick=True)
        canonical, (canonical_forms, *_), _ = looked_at(jpeg, quick=False)
        assert quick is not None
        assert canonical is not None
        if quick.phash:
            assert quick == canonical
            continue
        quickly += 1
        doubts = [quick.doubts[begin : begin + PDQ_BYTES] for begin in range(0, 8 * PDQ_BYTES, PDQ_BYTES)]
        assert max(int.from_bytes(each).bit_count() for each in doubts) <= MAX_DOUBTFUL_BITS
        assert abs(quick.quality - canonical.quality) <= 2
        assert quick.pdq == split(forms)[0]
        told = [(quick.pdq, canonical.pdq, doubts[0])]
        told += zip(split(forms), split(canonical_forms), doubts * 2, strict=True)
        for one, other, doubt in told:
            wrong = int.from_bytes(one) ^ int.from_bytes(other)
            assert (wrong & ~int.from_bytes(doubt)).bit_count() <= SPARE_BITS
    # Else all of this would be about nothing.
    assert quickly >= 20


def test_the_parts_of_a_jpeg_are_the_same_in_both_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region cannot make a quick verdict differ, as both find and hash it in the same copy."""

    def find(luma: np.ndarray) -> list[Region]:
        height, width = luma.shape
        # From the pixels, so that another copy would give other regions.
        left, top = int(luma[:, : width // 2].sum()) % (width // 2), int(luma[0].sum()) % (height // 2)
        return [Region(left, top, width // 2, height // 2), Region(0, 0, width - left, height)]

    monkeypatch.setattr(regions, "find", find)
    for jpeg in jpegs():
        _, forms, _ = looked_at(jpeg, quick=True)
        _, canonical_forms, _ = looked_at(jpeg, quick=False)
        assert forms[1:] == canonical_forms[1:]
        assert len(forms) == 3 or min(Image.open(io.BytesIO(jpeg)).size) < 20


def test_what_is_damaged_is_damaged_at_a_quick_look_as_well() -> None:
    whole = encoded(drawing(3, (900, 800)), "JPEG", quality=85)
    for end in range(20, len(whole), len(whole) // 40):
        assert looked_at(whole[:end], quick=True) == looked_at(whole[:end], quick=False)
        assert looked_at(whole[:end], quick=True)[2] is Reason.CORRUPT


@pytest.mark.parametrize(
    "medium",
    [
        pytest.param(encoded(drawing(1), "PNG"), id="another format"),
        pytest.param(encoded(drawing(1).convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(encoded(drawing(1), "MPO", append_images=[drawing(2)]), id="two pictures"),
        pytest.param(encoded(Image.new("RGB", (900, 900), (90, 120, 130)), "JPEG"), id="flat"),
        pytest.param(encoded(drawing(1, (60, 40_000)), "JPEG"), id="a strip"),
        pytest.param(encoded(drawing(1, (4, 400)), "JPEG"), id="too small"),
    ],
)
def test_what_a_quick_look_cannot_answer_for_gets_a_canonical_one(medium: bytes) -> None:
    assert looked_at(medium, quick=True) == looked_at(medium, quick=False)


def test_a_picture_that_is_its_own_mirror_image_gets_a_canonical_look() -> None:
    """Coefficients that tie at the median are nobody's to guess."""
    half = np.asarray(drawing(4, (500, 700)))
    mirrored = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    rendering, *_ = looked_at(encoded(mirrored, "JPEG", quality=90), quick=True)
    assert rendering is not None
    assert rendering.phash


@settings(deadline=None, max_examples=60)
@given(
    st.integers(5, 900), st.integers(5, 900), st.sampled_from([1, 2, 4, 8]), st.integers(1, 8), st.integers()
)
def test_a_small_copy_weighs_each_pixel_as_the_picture_would(
    height: int, width: int, scale: int, orientation: int, seed: int
) -> None:
    """Where the pixels of each group are alike, the copy gives the very sums, however it is turned."""
    chance = np.random.default_rng(abs(seed))
    small = chance.integers(0, 256, (-(-height // scale), -(-width // scale)), np.uint8)
    large = small.repeat(scale, axis=0).repeat(scale, axis=1)[:height, :width]
    copy = Small.of(Image.fromarray(small), (width, height), orientation, scale)
    upright = np.asarray(_set_upright(Image.fromarray(large), orientation))
    assert (copy.height, copy.width) == upright.shape
    reduced = pdq.downsample(copy.luma, copy.height, copy.width, scale, copy.from_end)
    down, across = (dense(pdq.reducer(side), side) for side in upright.shape)
    expected = down @ upright.astype(float) @ across.T
    assert np.abs(reduced - expected).max() < 0.01


def _set_upright(picture: Image.Image, orientation: int) -> Image.Image:
    """By EXIF's own words: where the stored first row and column belong."""
    pixels = np.asarray(picture)
    pixels = pixels.T if orientation >= 5 else pixels
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return Image.fromarray(np.ascontiguousarray(pixels))
