"""The compiled loops of hashing are in use where they were built, and touch nothing that is not theirs."""

from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app.hashing import _pixels, engine, fallback, pdq
from app.hashing.engine import Engine
from tests.hashing.drawings import dense, drawing

ENGINES: Final[dict[str, Engine]] = {"compiled": _pixels, "fallback": fallback}


def test_the_compiled_engine_is_the_one_in_use_where_it_is_built() -> None:
    assert engine.COMPILED
    assert engine.ENGINE is _pixels


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(st.integers(5, 700), st.integers(5, 700), st.sampled_from([1, 3, 4])),
    scale=st.sampled_from([1, 2, 4, 8]),
    from_end=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_both_engines_sum_up_as_the_matrices_say(
    shape: tuple[int, int, int], scale: int, *, from_end: bool, seed: int
) -> None:
    (height, width, channels), chance = shape, np.random.default_rng(seed)
    rows, columns = -(-height // scale), -(-width // scale)
    samples = chance.integers(0, 256, (rows, columns * channels), np.uint8)
    cut = int(chance.integers(0, rows + 1))
    weights = chance.random(channels, np.float32)
    down, across = pdq.reducer(height, scale, from_end), pdq.reducer(width, scale, from_end)
    grey = samples.reshape(rows, columns, channels) @ weights.astype(float)
    expected = dense(down, rows) @ grey @ dense(across, columns).T
    engines: tuple[Engine, ...] = (_pixels, fallback)
    for each in engines:
        sums, reduced = np.zeros((64, columns * channels), np.float32), np.empty((64, 64))
        each.add_rows(sums, samples[:cut], 0, *down)
        each.add_rows(sums, samples[cut:], cut, *down)
        each.gather(sums, weights, *across, reduced)
        assert np.allclose(reduced, expected, atol=1e-3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (37, 53)])
def test_pixels_in_place_are_those_that_a_copy_holds(mode: str, size: tuple[int, int]) -> None:
    """And outlive the picture."""
    picture = drawing(1, size) if min(size) > 1 else Image.effect_noise(size, 90).convert("RGB")
    rgb = picture.convert(mode).convert("RGB")
    expected = np.array(rgb)
    pixels = engine.pixels_of(rgb)
    del rgb
    Image.effect_noise((2000, 2000), 90)
    assert pixels.shape == (size[1], size[0], 4)
    assert np.array_equal(pixels[:, :, :3], expected)
    assert not pixels.flags.writeable
    grey = picture.convert("L")
    assert np.array_equal(engine.pixels_of(grey), np.array(grey))


def test_pixels_that_lie_in_several_pieces_are_copied() -> None:
    """As Pillow keeps those of a picture of more than 16 MiB."""
    rgb = drawing(2, (2048, 2100))
    with pytest.raises(ValueError, match="contiguous"):
        rgb.__arrow_c_array__()
    pixels = engine.pixels_of(rgb)
    assert pixels.shape == (2100, 2048, 3)
    assert np.array_equal(pixels, np.asarray(rgb))


def test_an_array_of_another_size_is_refused() -> None:
    _, array = Image.new("RGB", (5, 7)).__arrow_c_array__()
    for size in (139, 141, 0, -1):
        with pytest.raises(ValueError, match="in one piece"):
            _pixels.Pixels(array, size)
    with pytest.raises(ValueError, match="incorrect name"):
        _pixels.Pixels(Image.new("RGB", (5, 7)).__arrow_c_schema__(), 140)


HEIGHT, WIDTH = 300, 80
ROWS: dict[str, Any] = {
    "sums": np.zeros((64, WIDTH * 3), np.float32),
    "rows": np.zeros((HEIGHT, WIDTH * 3), np.uint8),
    "top": 0,
    **pdq.reducer(HEIGHT)._asdict(),
}
BAD_ROWS: dict[str, dict[str, Any]] = {
    "rows of half a sample": {"rows": bytes(WIDTH * 3 + 1)},
    "sums that are cut short": {"sums": bytearray(64 * 4 * WIDTH - 1)},
    "no sums": {"sums": bytearray()},
    "a row before the first": {"top": -1},
    "weights that are cut short": {"weights": bytes(64 * 4 - 1)},
    "fewer weights than told": {"weights": bytes(64 * 4)},
    "starts that are cut short": {"starts": bytes(63 * 8)},
    "a start before the first": {"starts": np.full(64, -1)},
    "an end before its start": {"ends": np.full(64, 3), "starts": np.full(64, 4)},
    "an end beyond all": {"ends": np.full(64, 2**62)},
}


@pytest.mark.parametrize("given", BAD_ROWS.values(), ids=BAD_ROWS)
def test_rows_that_do_not_fit_are_refused_before_they_are_read(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        _pixels.add_rows(*(ROWS | given).values())


COLUMNS: dict[str, Any] = {
    "sums": np.zeros((64, WIDTH * 3), np.float32),
    "channels": np.zeros(3, np.float32),
    **pdq.reducer(WIDTH)._asdict(),
    "reduced": np.zeros((64, 64)),
}
BAD_COLUMNS: dict[str, dict[str, Any]] = {
    "no channel": {"channels": b""},
    "five channels": {"channels": bytes(20)},
    "half a channel": {"channels": bytes(10)},
    "sums of fewer channels": {"channels": bytes(16)},
    "narrower sums": {"sums": np.zeros((64, WIDTH * 3 - 3), np.float32)},
    "sums that are cut short": {"sums": bytes(64 * 4 * WIDTH * 3 - 4)},
    "an end beyond all": {"ends": np.full(64, 2**62)},
    "nowhere to put it": {"reduced": bytearray(64 * 64 * 4)},
}


@pytest.mark.parametrize("given", BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_columns_that_do_not_fit_are_refused_before_they_are_read(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"do not fit|reach beyond"):
        _pixels.gather(*(COLUMNS | given).values())


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**31), step=st.sampled_from([0, 0.01, 1, 50]))
def test_both_engines_say_the_same_of_a_downsample_and_of_coefficients(seed: int, step: float) -> None:
    """Where many values are the same, too, as in flat pictures."""
    chance = np.random.default_rng(seed)
    reduced, coefficients = chance.uniform(0, 255, (64, 64)), chance.normal(0, 50, (16, 16))
    if step:
        reduced, coefficients = np.round(reduced / step) * step, np.round(coefficients / step) * step
    assert _pixels.step_sums(reduced, 1e-3) == fallback.step_sums(reduced, 1e-3)
    assert _pixels.forms_of(coefficients, 0.5) == fallback.forms_of(coefficients, 0.5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(1, 40), st.integers(0, 2**31))
def test_both_engines_take_the_very_same_means(count: int, length: int, seed: int) -> None:
    """Bit by bit, since the reference's rounding is what they are there for."""
    vectors = np.random.default_rng(seed).uniform(0, 255, (count, length)).astype(np.float32)
    means, expected = np.empty_like(vectors), np.empty_like(vectors)
    _pixels.box_means(vectors, count, means)
    fallback.box_means(vectors, count, expected)
    assert np.array_equal(means, expected)


def test_vectors_that_do_not_fit_their_means_are_refused() -> None:
    vectors = np.zeros((6, 5), np.float32)
    for count, means in ((0, 30), (-6, 30), (7, 30), (6, 29), (6, 31)):
        with pytest.raises(ValueError, match="their means"):
            _pixels.box_means(vectors, count, np.zeros(means, np.float32))


def test_what_is_no_downsample_and_no_coefficients_is_refused() -> None:
    with pytest.raises(ValueError, match="no downsample"):
        _pixels.step_sums(np.zeros((64, 63)), 1e-3)
    with pytest.raises(ValueError, match="no downsample"):
        _pixels.step_sums(np.zeros((64, 64)), -1e-3)
    with pytest.raises(ValueError, match="no coefficients"):
        _pixels.forms_of(np.zeros((16, 15)), 0.5)


def test_numbers_that_are_none_end_no_search_elsewhere() -> None:
    """None can come of pixels. Were one there, what is told of it would be wrong, and nothing else."""
    for values in ([np.nan] * 256, [np.nan, *range(255)], [*range(128), np.nan, *range(127)], [np.inf] * 256):
        hashes, near = _pixels.forms_of(np.array(values, np.float64).reshape(16, 16), 0.5)
        assert len(hashes) == 512
        assert len(near) == 256
    assert _pixels.step_sums(np.full((64, 64), np.nan), 1e-3) == (0, 0, 0)


FILTER = _pixels.filter_for(100)
SHRUNK: dict[str, Any] = {"rows": bytes(7 * 100), "by": FILTER, "shrunk": bytearray(32 * 7)}


def at(place: int, value: int) -> bytes:
    """The filter, with another number in its head."""
    head = np.frombuffer(FILTER, np.int32).copy()
    head[place] = value
    return head.tobytes()


BAD_SHRUNK: dict[str, dict[str, Any]] = {
    "half a row": {"rows": bytes(7 * 100 - 50)},
    "a row too many": {"rows": bytes(8 * 100)},
    "room for half a row": {"shrunk": bytearray(32 * 7 - 1)},
    "no room": {"shrunk": bytearray()},
    "no filter": {"by": b""},
    "a filter that is cut short": {"by": FILTER[:-1]},
    "a head alone": {"by": FILTER[: 4 * 35]},
    "a filter for another length": {"by": _pixels.filter_for(101)},
    "no length": {"by": at(0, 0)},
    "a length that none has": {"by": at(0, -1), "rows": b"", "shrunk": b""},
    "more coefficients than there are": {"by": at(1, 2**31 - 1)},
    "fewer coefficients": {"by": at(1, 0)},
    "a shift beyond all": {"by": at(2, 40)},
    "a start before the first": {"by": at(3, -1)},
    "a start beyond the last": {"by": at(34, 101)},
}


@pytest.mark.parametrize("given", BAD_SHRUNK.values(), ids=BAD_SHRUNK)
def test_rows_that_do_not_fit_their_filter_are_refused_before_they_are_read(given: dict[str, Any]) -> None:
    with pytest.raises((ValueError, BufferError, TypeError)):
        _pixels.shrink(*(SHRUNK | given).values())


def test_a_filter_is_for_a_length_that_a_picture_can_have() -> None:
    for length in (0, -1, 65_536):
        with pytest.raises(ValueError, match="of that length"):
            _pixels.filter_for(length)


def test_grey_of_another_size_is_refused() -> None:
    for size in (0, 11, 24):
        with pytest.raises(ValueError, match="their grey"):
            _pixels.grey_of(bytes(48), bytearray(size))  # type: ignore[arg-type]


def blocky(chance: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Areas of nearly one luma, with edges between them."""
    levels = chance.integers(0, 6, (height // 7 + 1, width // 9 + 1)) * 40
    areas = levels.repeat(7, axis=0).repeat(9, axis=1)[:height, :width]
    return (areas + chance.integers(0, 14, areas.shape)).astype(np.uint8)


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(st.integers(4, 200), st.integers(1, 200)),
    levels=st.sampled_from([None, 2, 256]),
    seed=st.integers(0, 2**31),
)
def test_both_engines_find_the_same_edges(shape: tuple[int, int], levels: int | None, seed: int) -> None:
    chance = np.random.default_rng(seed)
    luma = chance.integers(0, levels, shape, np.uint8) if levels else blocky(chance, *shape)
    blocks, width = shape[0] // 4, shape[1]
    found = []
    engines: tuple[Engine, ...] = (_pixels, fallback)
    for each in engines:
        sums, flat = np.empty((blocks, width), np.int16), np.empty((blocks, width), np.bool_)
        edges, smooth = np.empty((blocks + 1, width + 1), np.int16), np.empty((blocks + 1, width), np.int16)
        each.find_edges(luma, width, 16, 24, 40, 96, sums, flat, edges, smooth)
        found.append((sums, flat, edges, smooth))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


@settings(deadline=None, max_examples=60)
@given(shape=st.tuples(st.integers(1, 90), st.integers(1, 90)), seed=st.integers(0, 2**31))
def test_both_engines_halve_as_pillow_does(shape: tuple[int, int], seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    expected = np.asarray(Image.fromarray(grey).reduce(2))
    engines: tuple[Engine, ...] = (_pixels, fallback)
    for each in engines:
        halved = np.empty_like(expected)
        each.halve(grey, shape[1], halved)
        assert np.array_equal(halved, expected)


@settings(deadline=None, max_examples=150)
@given(
    shape=st.tuples(st.integers(4, 200), st.integers(1, 120)),
    levels=st.sampled_from([None, 2, 256]),
    share=st.sampled_from([0.0, 0.5, 0.96, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_both_engines_weigh_the_same_spans(
    shape: tuple[int, int], levels: int | None, share: float, seed: int
) -> None:
    """Bit by bit: what is found decides which parts of a picture are hashed."""
    chance = np.random.default_rng(seed)
    luma = chance.integers(0, levels, shape, np.uint8) if levels else blocky(chance, *shape)
    blocks, width = shape[0] // 4, shape[1]
    sums, flat = np.empty((blocks, width), np.int16), np.empty((blocks, width), np.bool_)
    edges, smooth = np.empty((blocks + 1, width + 1), np.int16), np.empty((blocks + 1, width), np.int16)
    fallback.find_edges(luma, width, 16, 24, 40, 96, sums, flat, edges, smooth)
    first, left = int(chance.integers(0, blocks)), int(chance.integers(0, width + 1))
    last, right = int(chance.integers(first + 1, blocks + 1)), int(chance.integers(left, width + 1))
    window = int(chance.integers(1, last - first + 1))
    near = int(chance.integers(0, 64))
    found = []
    engines: tuple[Engine, ...] = (_pixels, fallback)
    for each in engines:
        uniform, scores = np.empty(right - left, np.bool_), np.empty(right - left)
        each.find_uniform(sums, flat, width, first, last, left, right, near, 2, share, uniform)
        each.score_lines(edges, width + 1, first, last, left, right, window, scores)
        found.append((uniform.tobytes(), scores.tobytes()))
    assert found[0] == found[1]


EDGES: dict[str, Any] = {
    "luma": bytes(8 * 5),
    "width": 5,
    "flat": 16,
    "smooth": 24,
    "step": 40,
    "lasting": 96,
    "sums": bytearray(2 * 2 * 5),
    "flats": bytearray(2 * 5),
    "edges": bytearray(2 * 3 * 6),
    "smooths": bytearray(2 * 3 * 5),
}
BAD_EDGES: dict[str, dict[str, Any]] = {
    "no width": {"width": 0},
    "a width before the first": {"width": -5},
    "half a row": {"luma": bytes(8 * 5 - 1)},
    "no block": {"luma": bytes(3 * 5)},
    "a block too many": {"luma": bytes(12 * 5)},
    "a row that none has": {"luma": bytes(4 * 70_000), "width": 70_000},
    "more blocks than can be counted": {"luma": bytes(4 * 32_767), "width": 1},
    "a threshold below none": {"flat": -1},
    "a threshold beyond all": {"step": 40_000},
    "no room for sums": {"sums": bytearray()},
    "no room for flats": {"flats": bytearray(9)},
    "no room for edges": {"edges": bytearray(2 * 2 * 6)},
    "no room for smooths": {"smooths": bytearray(2 * 2 * 5)},
}


@pytest.mark.parametrize("given", BAD_EDGES.values(), ids=BAD_EDGES)
def test_a_picture_that_does_not_fit_is_refused_before_it_is_read(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        _pixels.find_edges(*(EDGES | given).values())


SPAN: dict[str, Any] = {"first": 1, "last": 3, "left": 2, "right": 5}
UNIFORM: dict[str, Any] = {
    "sums": bytes(2 * 4 * 6),
    "flat": bytes(4 * 6),
    "width": 6,
    **SPAN,
    "near": 32,
    "outliers": 2,
    "share": 0.96,
    "uniform": bytearray(3),
}
LINES: dict[str, Any] = {
    "edges": bytes(2 * 5 * 6),
    "lines": 6,
    **SPAN,
    "window": 2,
    "scores": bytearray(8 * 3),
}
BAD_SPANS: dict[str, dict[str, Any]] = {
    "a block before the first": {"first": -1},
    "no block": {"last": 1},
    "a block too many": {"last": 5},
    "a column before the first": {"left": -1},
    "columns backwards": {"left": 6},
    "a column too many": {"right": 7},
}
BAD_UNIFORM: dict[str, dict[str, Any]] = BAD_SPANS | {
    "no width": {"width": 0},
    "another width": {"width": 5},
    "sums that are cut short": {"sums": bytes(2 * 4 * 6 - 1)},
    "flats that are cut short": {"flat": bytes(4 * 6 - 1)},
    "no room": {"uniform": bytearray(2)},
}
BAD_LINES: dict[str, dict[str, Any]] = BAD_SPANS | {
    "no lines": {"lines": 0},
    "another number of lines": {"lines": 7},
    "half a row": {"edges": bytes(2 * 5 * 6 - 2)},
    "no row": {"edges": b""},
    "no window": {"window": 0},
    "a window beyond the span": {"window": 3},
    "no room": {"scores": bytearray(8 * 2)},
}


@pytest.mark.parametrize("given", BAD_UNIFORM.values(), ids=BAD_UNIFORM)
def test_columns_that_a_span_does_not_fit_are_refused_before_they_are_read(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not fit the columns"):
        _pixels.find_uniform(*(UNIFORM | given).values())


@pytest.mark.parametrize("given", BAD_LINES.values(), ids=BAD_LINES)
def test_lines_that_a_span_does_not_fit_are_refused_before_they_are_read(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="does not fit the lines"):
        _pixels.score_lines(*(LINES | given).values())


def test_a_picture_and_a_half_that_do_not_fit_are_refused() -> None:
    for width, size in ((0, 4), (-3, 4), (2, 4), (3, 3), (3, 5), (70_000, 4)):
        with pytest.raises(ValueError, match="its half"):
            _pixels.halve(bytes(9), width, bytearray(size))  # type: ignore[arg-type]


def test_what_fits_is_taken() -> None:
    """Else the refusals above would say nothing."""
    _pixels.add_rows(*ROWS.values())
    _pixels.gather(*COLUMNS.values())
    _pixels.shrink(*SHRUNK.values())
    for size in (12, 16):
        _pixels.grey_of(bytes(48), bytearray(size))  # type: ignore[arg-type]
    _pixels.find_edges(*EDGES.values())
    _pixels.find_uniform(*UNIFORM.values())
    _pixels.score_lines(*LINES.values())
    _pixels.halve(bytes(9), 3, bytearray(4))  # type: ignore[arg-type]
