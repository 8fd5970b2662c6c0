"""Canonical PDQ is pdqhash's, bit for bit, in pictures of every shape."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pdqhash
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app.hashing import engine, pdq
from app.media import PDQ_MINIMUM_QUALITY, Symmetry
from tests.hashing.drawings import dense, distance, drawing, pdq_of
from tests.hashing.test_engine import ENGINES

DATA = Path(__file__).parents[3] / "shared" / "data"

PUBLISHED = {
    "aaa-orig": "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22",
    "blur-a-little": "f8f8f0cee0f4a84f06370a2a038f63f0b36e26d596621e1d33e6b39c4e9c9b22",
    "blur-a-lot": "f8f8f0cee0f4a84f0637022a038f67f0b36e26d596621e1d33e6b39c4e9c9b22",
    "high-contrast": "f8f8f0cee0f4a84f06370a2a068f67f0b36e26d596621e1d33e6339c4e9c9b22",
    "high-saturation": "f8f8f0cee0f4a84f06370a22038f67f0b36e2ed596221e1d33e6b39c4e9c9b22",
    "sharpen-a-little": "f8f8f0cee0f4a84f0e370a22038f67f0b36e2ed596221e1d33e6b39c4a9c9b22",
    "sharpen-a-lot": "d8f8f0cec0f4a84f8e370a22038f67f0b36a2ed597231e1d72e6b39c4a9c9b22",
    "shrink-a-little": "f8f8f0cee0f4a84f06370a22038f67f0b36e2ed596621e1d33e6339c4e9c9b22",
    "shrink-a-lot": "d0f8f1ccc0f4a84d0a370a3a228f67f0b36e2ed5b6623e1d33e6339c4e9c9b22",
    "square-128x128": "d8f8f1eec0f4a84f0e37022a078f63f0b36e2ed596621e1d33e6239c4e9c9b22",
    "square-256x256": "d8f8f0cec4f4a84f0637022a078f67f0b36e2ee5b6621e1d33e6239c4e9c9b22",
    "square-512x512": "d8f8f0cec0f4a84f0637022a278f67f0b36e2ed596621e1d33e6339c4e9c9b22",
}

Pixels = NDArray[np.uint8]
Kind = Callable[[np.random.Generator, int, int], Pixels]


def pixels_of(picture: Image.Image) -> Pixels:
    return np.array(picture, np.uint8)


def noise(chance: np.random.Generator, height: int, width: int) -> Pixels:
    return chance.integers(0, 256, (height, width, 3), dtype=np.uint8)


def camera(chance: np.random.Generator, height: int, width: int) -> Pixels:
    return pixels_of(drawing(int(chance.integers(2**31)), (width, height)))


def low_contrast(chance: np.random.Generator, height: int, width: int) -> Pixels:
    return (camera(chance, height, width) // 24 + 180).astype(np.uint8)


def mirrored(chance: np.random.Generator, height: int, width: int) -> Pixels:
    half = camera(chance, height, (width + 1) // 2)
    return np.ascontiguousarray(np.concatenate([half, half[:, ::-1]], axis=1)[:, :width])


def tiled(chance: np.random.Generator, height: int, width: int) -> Pixels:
    rows, columns = (int(side) for side in chance.integers(1, 40, 2))
    tile = noise(chance, rows, columns)
    return np.ascontiguousarray(np.tile(tile, (height // rows + 1, width // columns + 1, 1))[:height, :width])


def striped(chance: np.random.Generator, height: int, width: int) -> Pixels:
    stripes = tiled(chance, 1, width).repeat(height, axis=0)
    fading = np.linspace(0, 1, height)[:, np.newaxis, np.newaxis] if chance.random() < 0.5 else 1
    return (stripes * fading).astype(np.uint8)


def flat(chance: np.random.Generator, height: int, width: int) -> Pixels:
    return np.full((height, width, 3), chance.integers(0, 256, 3), np.uint8)


def black_and_white(chance: np.random.Generator, height: int, width: int) -> Pixels:
    return ((camera(chance, height, width)[:, :, :1] > 120) * np.uint8(255)).repeat(3, axis=2)


KINDS = (noise, camera, low_contrast, mirrored, tiled, striped, flat, black_and_white)

shapes = st.one_of(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    # Up to 1 to 50, lying and standing.
    st.tuples(st.integers(5, 40), st.integers(1, 50)).map(lambda sides: (sides[0], sides[0] * sides[1])),
    st.tuples(st.integers(5, 40), st.integers(1, 50)).map(lambda sides: (sides[0] * sides[1], sides[0])),
    st.sampled_from([(64, 64), (63, 65), (128, 128), (127, 129), (64, 300), (5, 5), (4, 5), (512, 512)]),
)


@pytest.fixture(params=ENGINES, scope="module")
def each_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is compiled, and then what serves without a compiler."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "ENGINE", ENGINES[request.param])
        yield


@pytest.mark.usefixtures("each_engine")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shape=shapes, kind=st.sampled_from(KINDS), seed=st.integers(0, 2**31))
def test_every_picture_hashes_as_pdqhash_hashes_it(
    shape: tuple[int, int],
    kind: Kind,
    seed: int,
) -> None:
    rgb: Pixels = kind(np.random.default_rng(seed), *shape)
    assert pdq.canonical(rgb) == pdq_of(Image.fromarray(rgb))


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("kind", KINDS)
def test_larger_pictures_hash_as_pdqhash_hashes_them(kind: Kind) -> None:
    rgb: Pixels = kind(np.random.default_rng(5), 700, 1100)
    assert pdq.canonical(rgb) == pdq_of(Image.fromarray(rgb))


@pytest.mark.usefixtures("each_engine")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(shape=(64, 64), kind=mirrored, rows=7, seed=0)
@given(
    shape=st.tuples(st.integers(5, 300), st.integers(5, 300)),
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 400),
    seed=st.integers(0, 2**31),
)
def test_the_reference_followed_strip_by_strip_is_pdqhash(
    shape: tuple[int, int], kind: Kind, rows: int, seed: int
) -> None:
    """Of 64 by 64 pixels too, which it takes as they are."""
    rgb: Pixels = kind(np.random.default_rng(seed), *shape)

    def strips() -> Iterator[Pixels]:
        for top in range(0, len(rgb), rows):
            yield rgb[top : top + rows]

    assert pdq.reference(*shape, strips) == pdq_of(Image.fromarray(rgb))


def test_a_part_of_a_picture_hashes_as_its_copy() -> None:
    """Though its rows do not follow on each other in memory."""
    part = noise(np.random.default_rng(5), 300, 400)[20:220, 30:330]
    assert pdq.canonical(part) == pdq.canonical(part.copy())


def test_a_large_picture_that_ties_is_hashed_as_pdqhash_does_in_little_memory() -> None:
    rgb = flat(np.random.default_rng(6), 1030, 1010)
    downsampler = pdq.Downsampler(1030, 1010)
    downsampler.add(rgb)
    assert not pdq.analyse(downsampler.finish(), 1030, 1010).certain
    assert pdq.canonical(rgb) == pdq_of(Image.fromarray(rgb))


@given(st.integers(5, 3000))
@settings(max_examples=30, deadline=None)
def test_each_row_of_the_reducer_is_the_squared_box_mean_at_its_centre(length: int) -> None:
    window = -(-length // 128)
    reach = (window + 2) // 2
    means = np.zeros((length, length))
    for place in range(length):
        first, last = max(0, place + reach - window), min(length, place + reach)
        means[place, first:last] = 1 / (last - first)
    centres = [int((row + 0.5) * length / 64) for row in range(64)]
    assert np.allclose(dense(pdq.reducer(length), length), (means[centres] @ means), atol=1e-6)


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_strips_of_any_height_sum_up_to_the_same(rows: int) -> None:
    rgb = camera(np.random.default_rng(8), 333, 250)
    at_once, parts = pdq.Downsampler(333, 250), pdq.Downsampler(333, 250)
    at_once.add(rgb)
    for top in range(0, 333, rows):
        parts.add(rgb[top : top + rows])
    assert np.allclose(at_once.finish(), parts.finish(), atol=1e-3)


def test_a_very_long_picture_hashes_as_pdqhash_hashes_it() -> None:
    """What the reference rounds off adds up along it: this one's quality is 64, and by exact sums 63."""
    knots = np.random.default_rng(37).integers(150, 256, (7, 9, 3), np.uint8)
    rgb = pixels_of(Image.fromarray(knots).resize((50_000, 22), Image.Resampling.BICUBIC))
    assert pdq.canonical(rgb) == pdq_of(Image.fromarray(rgb))


def test_of_a_picture_of_little_quality_the_reference_is_asked_sooner() -> None:
    """Its coefficients lie so close to each other that smaller noise decides."""
    sooner = 0
    for seed in range(60):
        downsampler = pdq.Downsampler(520, 600)
        downsampler.add(low_contrast(np.random.default_rng(seed), 520, 600))
        spectrum = pdq.analyse(downsampler.finish(), 520, 600)
        ranked = np.sort(spectrum.coefficients, axis=None)
        if spectrum.quality < PDQ_MINIMUM_QUALITY and 0.01 < ranked[128] - ranked[127] < 0.04:
            sooner += 1
            assert not spectrum.certain
    assert sooner


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("seed", [365, 628, 1628])
def test_where_rounding_decides_the_quality_alone_the_reference_is_asked(seed: int) -> None:
    """Between areas whose greys are 51 apart each step counts 20, or 19 where it comes out a trifle less."""
    chance = np.random.default_rng(seed)
    cells, side = chance.integers(2, 9), chance.integers(20, 90)
    greys = 51 * chance.integers(0, 6, (cells, cells))
    rgb = np.kron(greys, np.ones((side, side), np.int64)).astype(np.uint8)[:, :, np.newaxis].repeat(3, axis=2)
    downsampler = pdq.Downsampler(*rgb.shape[:2])
    downsampler.add(rgb)
    spectrum = pdq.analyse(downsampler.finish(), *rgb.shape[:2])
    hash_and_quality = pdq_of(Image.fromarray(rgb))
    assert spectrum.bits == hash_and_quality[0], "its bits are in no doubt"
    assert not spectrum.certain
    assert pdq.canonical(rgb) == hash_and_quality


def test_a_camera_picture_is_hashed_without_asking_the_reference() -> None:
    certain = 0
    for seed in range(20):
        downsampler = pdq.Downsampler(600, 800)
        downsampler.add(pixels_of(drawing(seed, (800, 600))))
        certain += pdq.analyse(downsampler.finish(), 600, 800).certain
    assert certain >= 16


def forms_of(rgb: Pixels) -> list[bytes]:
    downsampler = pdq.Downsampler(*rgb.shape[:2])
    downsampler.add(rgb)
    forms = pdq.analyse(downsampler.finish(), *rgb.shape[:2]).forms
    return [forms[start : start + 32] for start in range(0, 512, 32)]


EDITS: dict[Symmetry, Callable[[Pixels], Pixels]] = {
    Symmetry.ORIGINAL: lambda rgb: rgb,
    Symmetry.ROTATE_90: np.rot90,
    Symmetry.ROTATE_180: lambda rgb: np.rot90(rgb, 2),
    Symmetry.ROTATE_270: lambda rgb: np.rot90(rgb, 3),
    Symmetry.FLIP_X: np.flipud,
    Symmetry.FLIP_Y: np.fliplr,
    Symmetry.FLIP_PLUS_1: lambda rgb: rgb.transpose(1, 0, 2),
    Symmetry.FLIP_MINUS_1: lambda rgb: np.rot90(rgb, 2).transpose(1, 0, 2),
}
"""What each symmetry does to pixels."""


@pytest.mark.parametrize("size", [(800, 600), (333, 500), (1024, 1024), (90, 1200)])
def test_the_forms_are_those_of_the_really_edited_pixels(size: tuple[int, int]) -> None:
    """To within some bits: the reference does not sample a flipped picture at quite the flipped places."""
    rgb = pixels_of(drawing(31, size))
    edited = [edit(side) for side in (rgb, 255 - rgb) for edit in EDITS.values()]
    expected = [pdq_of(Image.fromarray(np.ascontiguousarray(pixels)))[0] for pixels in edited]
    forms = forms_of(rgb)
    assert [distance(*both) <= 20 for both in zip(forms, expected, strict=True)] == [True] * 16
    # No two are alike, so none can stand in another's place.
    assert min(distance(one, other) for one, other in itertools.combinations(forms, 2)) > 60
    assert forms[0] == expected[0]


def test_the_symmetries_are_those_of_pdqhash() -> None:
    """In its names and order; bits that stand at the median may differ."""
    for seed in range(5):
        rgb = pixels_of(drawing(seed, (640, 480)))
        vectors, _ = pdqhash.compute_dihedral(rgb)
        theirs = [np.packbits(vector.astype(bool)).tobytes() for vector in vectors]
        assert max(distance(*both) for both in zip(forms_of(rgb)[:8], theirs, strict=True)) <= 2


def test_a_negative_of_ties_at_the_median_takes_the_lower_median_of_the_negative() -> None:
    """Where two coefficients tie, a bit is set for neither, in the picture or its negative."""
    coefficients = np.arange(256.0).reshape(16, 16)
    coefficients.flat[128] = coefficients.flat[127]
    forms = pdq.Spectrum(coefficients, 100, certain=False).forms
    assert int.from_bytes(forms[:32]).bit_count() == 127
    assert int.from_bytes(forms[8 * 32 : 9 * 32]).bit_count() == 127
    assert pdq.Spectrum(-coefficients, 100, certain=False).forms[:32] == forms[8 * 32 : 9 * 32]


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1203)])
def test_a_smaller_copy_hashes_nearly_as_the_original(size: tuple[int, int], scale: int) -> None:
    """Its samples lie where the original's do."""
    rgb = drawing(9, size)
    expected = forms_of(pixels_of(rgb))[0]
    copy = np.asarray(rgb.convert("L").reduce(scale))
    reduced = pdq.downsample(copy, size[1], size[0], scale)
    assert distance(pdq.analyse(reduced, *size[::-1]).bits, expected) <= 8


@pytest.mark.usefixtures("each_engine")
def test_the_self_test_passes_here() -> None:
    assert pdq.agrees_with_reference()


def test_the_self_test_fails_where_arithmetic_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdq, "_DCT_DOUBLE", pdq._DCT_DOUBLE[::-1])
    assert not pdq.agrees_with_reference()


@pytest.mark.usefixtures("each_engine")
def test_the_self_test_fails_where_quality_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """By little: a picture of quality 50 may or may not match."""
    quality = pdq._quality
    monkeypatch.setattr(pdq, "_quality", lambda step_sum: int(quality(step_sum) * 0.98))
    assert not pdq.agrees_with_reference()


@pytest.mark.skipif(not DATA.exists(), reason="the reference pictures are not part of this repository")
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_reference_pictures_give_the_published_values(name: str) -> None:
    with Image.open(DATA / "pdq-reference" / f"{name}.jpg") as picture:
        value, quality = pdq.canonical(pixels_of(picture.convert("RGB")))
    assert value.hex() == PUBLISHED[name]
    assert quality == 100


@pytest.mark.skipif(not DATA.exists(), reason="the reference pictures are not part of this repository")
def test_a_picture_turned_back_is_the_picture() -> None:
    turns = {
        "bridge-2-rotate-90": Image.Transpose.ROTATE_90,
        "bridge-3-rotate-180": Image.Transpose.ROTATE_180,
        "bridge-4-rotate-270": Image.Transpose.ROTATE_270,
        "bridge-5-flipx": Image.Transpose.FLIP_TOP_BOTTOM,
        "bridge-6-flipy": Image.Transpose.FLIP_LEFT_RIGHT,
    }
    folder = DATA / "pdq-dihedral"
    with Image.open(folder / "bridge-1-original.jpg") as picture:
        original, _ = pdq.canonical(pixels_of(picture.convert("RGB")))
    for name, turn in turns.items():
        with Image.open(folder / f"{name}.jpg") as picture:
            as_it_is, _ = pdq.canonical(pixels_of(picture.convert("RGB")))
            distances = [
                distance(original, pdq.canonical(pixels_of(picture.convert("RGB").transpose(back)))[0])
                for back in (turn, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)
            ]
        assert distance(original, as_it_is) > 90
        assert min(distances) <= 31


@pytest.mark.skipif(not DATA.exists(), reason="the reference pictures are not part of this repository")
def test_pictures_of_low_quality_are_told() -> None:
    qualities = []
    for path in sorted((DATA / "pdq-low-quality").iterdir()):
        with Image.open(path) as picture:
            rgb = pixels_of(picture.convert("RGB"))
            assert pdq.canonical(rgb) == pdq_of(picture)
        qualities.append(pdq.canonical(rgb)[1])
    assert sum(quality < 5 for quality in qualities) == 2
