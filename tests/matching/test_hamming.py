"""The search is exact: for any rows, queries and threshold it finds what counting all distances finds.

Each test runs with the compiled loops, which ``make setup`` builds, for each kind of processor that this one
can stand in for, and with those in NumPy.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Final, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.errors import NotReadyError
from app.matching import _hamming, fallback, hamming
from app.matching.engine import ENGINE, Engine
from app.matching.hamming import Band, HammingIndex, bands_of, directory_slots, pack, unpack

Values = NDArray[np.uint8]


def _compiled(search: str) -> Engine:
    by_name = {
        "search": getattr(_hamming, search),
        "build_band": _hamming.build_band,
        "shuffle": _hamming.shuffle,
    }
    return cast("Engine", SimpleNamespace(**by_name))


ENGINES: Final[dict[str, Engine]] = {"fallback": fallback} | {
    name: _compiled(name) for name in dir(_hamming) if name.startswith("search_")
}
"""What this processor can do."""


@pytest.fixture(scope="module", params=ENGINES, autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each of them in turn, for all that is built and searched."""
    hamming.engine = ENGINES[request.param]
    yield hamming.engine
    hamming.engine = ENGINE


def random_values(count: int, size: int = 32, seed: int = 1) -> Values:
    return np.random.default_rng(seed).integers(0, 256, (count, size), np.uint8)


def flipped(value: Values, bits: int, rng: np.random.Generator) -> Values:
    """A value that differs in exactly so many bits."""
    changed = np.unpackbits(value)
    changed[rng.choice(len(changed), bits, replace=False)] ^= 1
    return np.packbits(changed)


def counted(
    values: Values, queries: Values, threshold: int, doubts: Values | None = None
) -> set[tuple[int, int, int]]:
    """All pairs within the threshold, by counting every distance."""
    found = set()
    for number, query in enumerate(queries):
        certain = ~doubts[number] if doubts is not None else np.uint8(255)
        distances = np.unpackbits((values ^ query) & certain, axis=1).sum(axis=1, dtype=np.int64)
        found |= {
            (number, int(entry), int(distances[entry])) for entry in np.flatnonzero(distances <= threshold)
        }
    return found


def searched(
    index: HammingIndex, queries: Values, threshold: int, doubts: Values | None = None
) -> set[tuple[int, int, int]]:
    pieces = index.pieces(queries, threshold, doubts=doubts)
    hits = [np.concatenate(column) for column in zip(np.empty((3, 0), int), *pieces, strict=True)]
    pairs = list(zip(*(column.tolist() for column in hits), strict=True))
    assert len(set(pairs)) == len(pairs), "a pair is told twice"
    assert pairs == sorted(pairs), "pairs come by query and then by row"
    return set(pairs)


def planted(values: Values, distances: list[int], seed: int = 2) -> Values:
    """For each distance, a query that far from some row."""
    rng = np.random.default_rng(seed)
    return np.stack([flipped(values[rng.integers(len(values))], bits, rng) for bits in distances])


@pytest.fixture(scope="module")
def indexed(engine: Engine) -> tuple[Values, HammingIndex]:
    """Rows enough for bands."""
    values = random_values(30_000)
    index = HammingIndex.build(values)
    assert len(index.directory)
    return values, index


@pytest.mark.parametrize("threshold", [*range(0, 65, 4), 31, 47, 100, 127, 256])
def test_every_row_within_the_threshold_is_found(
    indexed: tuple[Values, HammingIndex], threshold: int
) -> None:
    values, index = indexed
    queries = planted(values, [threshold, max(0, threshold - 1), min(256, threshold + 1), 0])
    expected = counted(values, queries, threshold)
    assert len(expected) >= 3
    assert searched(index, queries, threshold) == expected


@settings(max_examples=150, deadline=None)
@given(
    threshold=st.integers(0, 64),
    distances=st.lists(st.integers(0, 70), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_neighbours_planted_anywhere_are_found_or_not_by_their_distance_alone(
    indexed: tuple[Values, HammingIndex], threshold: int, distances: list[int], seed: int
) -> None:
    values, index = indexed
    queries = planted(values, distances, seed)
    assert searched(index, queries, threshold) == counted(values, queries, threshold)


@settings(max_examples=150, deadline=None)
@given(
    threshold=st.integers(0, 40),
    doubted=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    beyond=st.integers(-3, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_bits_in_doubt_do_not_count(
    indexed: tuple[Values, HammingIndex], threshold: int, doubted: list[int], beyond: int, seed: int
) -> None:
    """Whatever they say and a row says there, and however they lie together."""
    values, index = indexed
    rng = np.random.default_rng(seed)
    doubts = np.stack([flipped(np.zeros(32, np.uint8), bits, rng) for bits in doubted])
    if seed % 2:
        # All in a few bands, as far as they go: the permutation is fixed.
        doubts[:] = unpack(np.sort(pack(doubts), axis=1) >> np.uint64(seed % 48))
    rows = values[rng.integers(len(values), size=len(doubts))]
    noise = rng.integers(0, 256, doubts.shape, np.uint8) & doubts
    certain = [flipped(np.zeros(32, np.uint8), max(0, threshold + beyond), rng) & ~some for some in doubts]
    queries = rows ^ noise ^ np.stack(certain)
    assert searched(index, queries, threshold, doubts) == counted(values, queries, threshold, doubts)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 40),
    size=st.sampled_from([8, 16, 32]),
    threshold=st.integers(0, 64),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_small_index_finds_the_same_as_counting(rows: int, size: int, threshold: int, seed: int) -> None:
    values = random_values(rows, size, seed)
    queries = random_values(3, size, seed + 1)
    if rows:
        queries = np.concatenate([queries, planted(values, [0, min(threshold, size * 8)], seed)])
    assert searched(HammingIndex.build(values), queries, threshold) == counted(values, queries, threshold)


@pytest.mark.parametrize("threshold", [0, 1, 6, 7, 12, 16])
def test_phash_is_searched_exactly_too(threshold: int) -> None:
    values = random_values(20_000, 8)
    index = HammingIndex.build(values)
    assert len(index.directory)
    queries = planted(values, [0, threshold, threshold + 1, 3, 6])
    assert searched(index, queries, threshold) == counted(values, queries, threshold)


def test_rows_of_pictures_that_resemble_each_other_are_all_found() -> None:
    """Skew: a few thousand rows around each of ten centres, where bands are crowded unevenly."""
    rng = np.random.default_rng(3)
    centres = random_values(10, seed=4)
    values = np.stack([flipped(centres[row % 10], int(rng.integers(0, 40)), rng) for row in range(12_000)])
    index = HammingIndex.build(values)
    queries = planted(values, [0, 5, 31, 40])
    for threshold in (0, 16, 31, 48):
        assert searched(index, queries, threshold) == counted(values, queries, threshold)


def test_rows_that_share_all_their_bands_cost_a_scan_and_no_more() -> None:
    """An adversarial bank: every row shares every band with the query but one."""
    base = random_values(1, seed=5)[0]
    values = np.tile(base, (20_000, 1))
    values[:, :2] = random_values(20_000, 2)
    index = HammingIndex.build(values)
    queries = np.stack([base, *values[:3]])
    # Whoever follows a posting, and does not look at row after row, gets lost here.
    index.postings[:] = 2**32 - 1
    assert searched(index, queries, 31) == counted(values, queries, 31)
    far = random_values(1, seed=6)
    assert not counted(values, far, 31)
    assert searched(index, far, 31) == set(), "no bucket of it is crowded, nor holds a row"


def test_rows_that_share_two_bands_are_told_apart_however_many_they_are() -> None:
    """A hint lets them all pass: more candidates than a look-up gathers, so that every row is looked at."""
    values = random_values(70_000, seed=7)
    shared = sharing(bands_of(70_000, 4)[:2])
    base = values[0]
    values[::10] = values[::10] & ~shared | base & shared
    values[-3:] = [flipped(base, distance, np.random.default_rng(8)) for distance in (3, 31, 32)]
    index = HammingIndex.build(values)
    queries = np.stack([base, values[10], random_values(1, seed=9)[0]])
    assert searched(index, queries, 31) == counted(values, queries, 31)


def sharing(bands: Iterable[Band]) -> Values:
    """The bits of these bands, in the places that they have in a value."""
    bits = np.zeros(256, np.uint8)
    for band in bands:
        bits[band.start : band.start + band.width] = 1
    shared: Values = unpack(np.packbits(bits, bitorder="little").view("<u8")[np.newaxis])[0]
    return shared


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(8_193, 20_000),
    part=st.sampled_from([1, 2, 5, 9, 20, 60, 300, 2_000]),
    shared=st.integers(0, 20),
    distance=st.none() | st.sampled_from([0, 3, 30, 31, 32]),
    side_by_side=st.booleans(),
    threshold=st.sampled_from([0, 16, 31, 36, 48]),
    doubted=st.sampled_from([None, 0, 7, 40]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_bank_that_somebody_made_up_hides_a_row_or_tells_one_twice(  # noqa: PLR0917 - the same
    rows: int,
    part: int,
    shared: int,
    distance: int | None,
    side_by_side: bool,  # noqa: FBT001 - as it is drawn
    threshold: int,
    doubted: int | None,
    seed: int,
) -> None:
    """Crowds of every size, which share bands with the query or are all near it, in groups or spread out."""
    rng = np.random.default_rng(seed)
    values = random_values(rows, seed=seed)
    base = values[-1].copy()
    crowd = np.arange(0, rows, part) if not side_by_side else np.arange(-(-rows // part))
    if distance is None:
        bands = bands_of(rows, 4)
        first = int(rng.integers(len(bands)))
        bits = sharing(bands[(first + number) % len(bands)] for number in range(min(shared, len(bands))))
        values[crowd] = values[crowd] & ~bits | base & bits
    else:
        some = np.stack([flipped(base, distance, rng) for _ in range(16)])
        values[crowd] = some[rng.integers(16, size=len(crowd))]
    queries = np.stack([base, flipped(base, 5, rng), values[crowd[-1]], flipped(values[0], threshold, rng)])
    doubts = None
    if doubted is not None:
        doubts = np.stack([flipped(np.zeros(32, np.uint8), doubted, rng) for _ in queries])
    index = HammingIndex.build(values)
    assert searched(index, queries, threshold, doubts) == counted(values, queries, threshold, doubts)


@pytest.mark.parametrize("near", [1, 5, 40, 200])
@pytest.mark.parametrize("most", [1, 50, hamming.HITS_AT_ONCE])
def test_rows_to_which_all_bands_lead_come_once_and_in_order(near: int, most: int) -> None:
    """A few are sorted; more are marked, and looked at in order, which stops and goes on as a scan does."""
    values = random_values(20_000)
    values[100 : 100 + near] = values[0]
    values[-near:] = values[0]
    index = HammingIndex.build(values)
    queries = np.stack([values[0], values[50], values[0]])
    pieces = index.pieces(queries, 31, most=most)
    found = [np.concatenate(column).tolist() for column in zip(*pieces, strict=True)]
    entries = [0, *range(100, 100 + near), *range(20_000 - near, 20_000)]
    assert found[0] == [0] * len(entries) + [1] + [2] * len(entries)
    assert found[1] == [*entries, 50, *entries]
    assert not any(found[2])


@pytest.mark.parametrize("most", [1, 50, hamming.HITS_AT_ONCE])
def test_many_rows_to_which_one_band_leads_come_once_and_in_order(most: int) -> None:
    """More groups than are gathered at once, each near in one band and just too far in all others."""
    rng = np.random.default_rng(10)
    values = random_values(18_000, seed=11)
    crowd = np.arange(0, 18_000, 50)
    differing = np.zeros((len(crowd), 256), np.uint8)
    for start, width, radius in hamming._cuts(18_000, 4, 31)[1:].tolist():
        for bits in differing:
            bits[start + rng.choice(width, radius + 1, replace=False)] = 1
    base = random_values(1, seed=12)[0]
    values[crowd] = base ^ unpack(np.packbits(differing, axis=1, bitorder="little").view("<u8"))
    queries = np.stack([values[1], base, values[1]])
    pieces = HammingIndex.build(values).pieces(queries, 31, most=most)
    found = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    expected = sorted(counted(values, queries, 31))
    assert len(expected) >= len(crowd)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected


def test_the_rows_of_an_index_in_memory_begin_with_a_line_of_the_cache() -> None:
    """A group of rows lies on two lines, as in a snapshot: the third that it would lie on is not fetched."""
    assert HammingIndex.build(random_values(10_000)).rows.ctypes.data % 64 == 0


@pytest.mark.parametrize("rows", [8193, 8194, 8195, 8196])
def test_the_last_rows_are_found_though_their_group_is_not_full(rows: int) -> None:
    values = random_values(rows)
    index = HammingIndex.build(values)
    assert searched(index, values[-5:], 16) == counted(values, values[-5:], 16)


def test_a_damaged_index_gives_an_error_and_no_answer(indexed: tuple[Values, HammingIndex]) -> None:
    """Fail closed: what points outside itself is not followed, nor taken for empty."""
    values, index = indexed
    lost = HammingIndex(index.rows, index.directory, np.full_like(index.postings, 2**32 - 1))
    with pytest.raises(NotReadyError, match="damaged"):
        lost.search(values[:1], 31)
    for slot in (0, 2**32 - 1):
        astray = HammingIndex(index.rows, np.full_like(index.directory, slot), index.postings)
        if slot:
            with pytest.raises(NotReadyError, match="damaged"):
                astray.search(values[:1], 31)
        else:
            assert len(astray.search(values[:1], 31).entries) == 0, "checksums tell an emptied one"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_no_damage_makes_the_search_read_outside_its_memory(
    indexed: tuple[Values, HammingIndex], seed: int, share: float
) -> None:
    """A crash of the process would end this test; an error or a wrong answer is all that may come of it."""
    values, index = indexed
    rng = np.random.default_rng(seed)
    directory, postings = index.directory.copy(), index.postings.copy()
    for damaged in (directory.view(np.uint8), postings.view(np.uint8)):
        places = rng.random(damaged.shape) < share**4
        damaged[places] = rng.integers(0, 256, int(places.sum()), np.uint8)
    with contextlib.suppress(NotReadyError):
        HammingIndex(index.rows, directory, postings).search(values[:20], 31)


def test_rows_that_are_all_the_same_are_all_found() -> None:
    values = np.tile(random_values(1), (9_000, 1))
    hits = HammingIndex.build(values).search(values[:1], 0)
    assert hits.entries.tolist() == list(range(9_000))
    assert not hits.distances.any()


def test_an_empty_index_finds_nothing() -> None:
    hits = HammingIndex.build(np.empty((0, 32), np.uint8)).search(random_values(2), 256)
    assert len(hits.queries) == len(hits.entries) == len(hits.distances) == 0


def test_no_query_finds_nothing(indexed: tuple[Values, HammingIndex]) -> None:
    assert len(indexed[1].search(np.empty((0, 32), np.uint8), 31).entries) == 0


def test_many_queries_at_once_find_what_each_finds_alone(indexed: tuple[Values, HammingIndex]) -> None:
    values, index = indexed
    queries = planted(values, [number % 40 for number in range(300)])
    together = searched(index, queries, 31)
    alone = {
        (number, entry, distance)
        for number in range(300)
        for _, entry, distance in searched(index, queries[number : number + 1], 31)
    }
    assert together == alone


@pytest.mark.parametrize("rows", [hamming.SCANNED_ROWS + 1, 100_000, 1_000_000, 10_000_000, 100_000_000])
@pytest.mark.parametrize("words", [1, 4])
def test_bands_cover_each_bit_once_and_their_directory_stays_in_proportion(rows: int, words: int) -> None:
    bands = bands_of(rows, words)
    assert bands[0].start == 0
    assert [band.start + band.width for band in bands] == [
        *(band.start for band in bands[1:]),
        words * 64,
    ]
    assert all(band.width <= 32 for band in bands)
    assert directory_slots(rows, words) <= 1.2 * rows


@pytest.mark.parametrize("threshold", range(65))
def test_radii_satisfy_the_condition_for_exactness(threshold: int) -> None:
    """If sum(r + 1) >= T + 1, a row within T is within r of the query in some band (pigeonhole)."""
    radii = hamming._cuts(10_000_000, 4, threshold)[:, 2]
    assert (radii + 1).sum() >= threshold + 1


@pytest.mark.parametrize("total", [0, 1, 5, 8, 9])
def test_the_radii_that_are_planned_are_the_cheapest_of_all(total: int) -> None:
    costs = np.random.default_rng(total).random((4, 3, 3))
    ways = {
        choice: sum(costs[place, choice[place], choice[(place + 1) % 4]] for place in range(4))
        for choice in itertools.product(range(3), repeat=4)
        if sum(choice) == total
    }
    chosen, cost = hamming._cheapest(costs, total)
    if ways:
        assert tuple(chosen) == min(ways, key=lambda choice: ways[choice])
        assert cost == pytest.approx(min(ways.values()))
    else:
        assert cost == np.inf


def test_each_row_stands_once_in_the_postings_of_each_band(indexed: tuple[Values, HammingIndex]) -> None:
    """By the number of its group, which four rows of four words share."""
    group_bits = (7_500).bit_length()
    for postings in indexed[1].postings:
        groups = np.sort(postings & np.uint32((1 << group_bits) - 1))
        assert np.array_equal(groups, np.arange(30_000) // 4)


@pytest.mark.parametrize("size", [8, 32])
def test_shuffling_bits_is_undone_and_keeps_distances(size: int) -> None:
    values = random_values(50, size)
    assert np.array_equal(unpack(pack(values)), values)
    kept = np.bitwise_count(pack(values[:1]) ^ pack(values[1:2])).sum()
    assert kept == np.unpackbits(values[0] ^ values[1]).sum()


def test_the_shuffle_never_changes_since_snapshots_rely_on_it() -> None:
    assert pack(np.arange(32, dtype=np.uint8).reshape(1, 32)).tobytes().hex() == (
        "1006000000045202da08761120bc25882b0143c4868b4e28760b6d68008f1c00"
    )


def test_what_flips_and_negatives_turn_over_is_a_whole_band_or_none_of_it() -> None:
    """So that eight forms of a picture look up two values of a band, and not eight."""
    rows, columns = np.indices((16, 16)) % 2
    turned_over = [
        np.packbits(kind.astype(np.uint8)).reshape(1, 32) for kind in (rows, columns, np.ones((16, 16)))
    ]
    for band in bands_of(1_000_000, 4):
        for values in turned_over:
            bits = np.unpackbits(pack(values).view(np.uint8), bitorder="little")
            assert len(set(bits[band.start : band.start + band.width].tolist())) == 1


def test_the_value_of_an_entry_is_told_as_it_came(indexed: tuple[Values, HammingIndex]) -> None:
    values, index = indexed
    assert index.value(123) == values[123].tobytes()


@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_search_that_stops_at_so_many_finds_the_rest_when_it_goes_on(
    indexed: tuple[Values, HammingIndex], most: int
) -> None:
    """By bands where few rows are near, row after row where all of them are, and for queries after those."""
    values, index = indexed
    crowd = HammingIndex.build(np.tile(values[:1], (9_000, 1)))
    for searchable, queries, threshold in (
        (index, planted(values, [0, 40, 3, 31]), 31),
        (index, planted(values, [0, 3]), 110),
        (crowd, np.concatenate([values[1:2], values[:1], values[1:2], values[:1]]), 16),
    ):
        whole = searchable.search(queries, threshold)
        assert len(whole.entries) >= 3
        pieces = list(searchable.pieces(queries, threshold, most=most))
        assert max(len(piece.entries) for piece in pieces) < most + 200
        for all_at_once, pieced in zip(whole, zip(*pieces, strict=True), strict=True):
            assert np.array_equal(all_at_once, np.concatenate(pieced))
