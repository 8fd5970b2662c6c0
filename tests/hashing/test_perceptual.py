"""pHash is imagehash's, and what it is made of Pillow's own pixels, in pictures of every shape."""

from collections.abc import Iterator

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.hashing import engine, perceptual
from tests.hashing.drawings import drawing
from tests.hashing.test_engine import ENGINES

shapes = st.one_of(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    # Lying and standing strips.
    st.tuples(st.integers(1, 8), st.integers(1, 3000)),
    st.tuples(st.integers(1, 3000), st.integers(1, 8)),
    # About where Pillow changes the order of its passes.
    st.tuples(st.integers(20, 300), st.integers(-2, 2)).map(
        lambda drawn: (max(1, 2 * drawn[0] - 32 + drawn[1]), drawn[0])
    ),
    # Where coefficients begin to fit into 16 bits.
    st.tuples(st.integers(20, 40), st.integers(4090, 4100)),
    st.sampled_from([(32, 32), (31, 33), (33, 31), (32, 500), (500, 32), (2, 65_535), (65_535, 2)]),
)


@pytest.fixture(params=ENGINES, scope="module")
def each_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is compiled, and then what serves without a compiler."""
    perceptual._filter_for.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "ENGINE", ENGINES[request.param])
        yield
    perceptual._filter_for.cache_clear()


@pytest.mark.usefixtures("each_engine")
@settings(max_examples=150, deadline=None)
@given(shape=shapes, levels=st.sampled_from([2, 256]), seed=st.integers(0, 2**31))
def test_every_picture_is_shrunk_to_the_pixels_that_pillow_gives(
    shape: tuple[int, int], levels: int, seed: int
) -> None:
    """Noise of black and white alone goes beyond what 8 bits hold, where the filter overshoots."""
    noise = np.random.default_rng(seed).integers(0, levels, shape) * (255 // (levels - 1))
    grey = noise.astype(np.uint8)
    expected = np.asarray(Image.fromarray(grey).resize((32, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(perceptual.shrunk(grey), expected)


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("size", [(640, 480), (333, 1000), (1000, 333), (7, 5), (1, 1)])
@pytest.mark.parametrize("rows", [1, 17, 5000])
def test_a_picture_that_comes_in_strips_hashes_as_imagehash_hashes_it(
    size: tuple[int, int], rows: int
) -> None:
    rgb = drawing(3, size) if min(size) > 1 else Image.new("RGB", size, "teal")
    shrinker = perceptual.Shrinker(*size)
    for top in range(0, size[1], rows):
        strip = rgb.crop((0, top, size[0], min(top + rows, size[1])))
        shrinker.add(engine.pixels_of(strip) if engine.ENGINE is ENGINES["compiled"] else np.asarray(strip))
    assert np.array_equal(shrinker.grey, np.asarray(rgb.convert("L")))
    assert shrinker.finish().hex() == str(imagehash.phash(rgb))


@pytest.mark.usefixtures("each_engine")
def test_every_colour_has_the_grey_that_pillow_gives_it() -> None:
    """All levels of two channels at a time, beside extremes of the third."""
    levels = np.arange(256, dtype=np.uint8)
    for third in (0, 1, 127, 254, 255):
        for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            planes = [*np.meshgrid(levels, levels), np.full((256, 256), third, np.uint8)]
            rgb = Image.fromarray(np.stack([planes[place] for place in order], axis=2))
            expected, grey = np.asarray(rgb.convert("L")), np.empty((256, 256), np.uint8)
            engine.ENGINE.grey_of(np.asarray(rgb), grey)
            assert np.array_equal(grey, expected)
            engine.ENGINE.grey_of(engine.pixels_of(rgb), grey)
            assert np.array_equal(grey, expected)


def test_pillow_shrinks_itself_where_what_it_does_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of it may take its passes in another order: the hash is what it says."""
    rgb = drawing(4, (300, 700))
    monkeypatch.setattr(perceptual, "_rows_shrunk", lambda grey: np.zeros((32, len(grey)), np.uint8))
    perceptual.shrinks_as_pillow.cache_clear()
    try:
        assert not perceptual.shrinks_as_pillow()
        shrinker = perceptual.Shrinker(*rgb.size)
        shrinker.add(np.asarray(rgb))
        assert shrinker.finish().hex() == str(imagehash.phash(rgb))
    finally:
        perceptual.shrinks_as_pillow.cache_clear()


def test_what_is_shrunk_here_is_known_to_be_pillows() -> None:
    assert perceptual.shrinks_as_pillow()
