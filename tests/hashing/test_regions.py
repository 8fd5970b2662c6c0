"""Pictures within pictures are found, and hashed well enough to match what a bank holds of them.

The full check, over photographs and over thousands of benign pictures, is ``bench/detection.py``.
"""

import asyncio
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from app.hashing import regions
from app.media import PDQ_DEFAULT_THRESHOLD, PDQ_MINIMUM_QUALITY
from app.settings import StoreSettings
from bench import edits, pictures
from tests.gates import fill_bank, prepare, running_gate
from tests.hashing.drawings import Found, distance, found_in, pdq_of
from tests.journeys.test_killed import stored_stubs

PICTURES = 4
EVERY_EDIT = {**edits.SYMMETRIES, **edits.FRAMES}
MOST_BYTES_PER_PIXEL = 23


def values_of(found: Found) -> list[bytes]:
    """All PDQ values that a medium is looked up by."""
    values = [value for value, quality in found.pdqs if quality >= PDQ_MINIMUM_QUALITY]
    for forms in found.forms:
        if forms.quality >= PDQ_MINIMUM_QUALITY:
            values += [forms.hashes[at : at + 32] for at in range(0, len(forms.hashes), 32)]
    return values


def matches(entry: bytes, values: list[bytes]) -> bool:
    return any(distance(entry, value) <= PDQ_DEFAULT_THRESHOLD for value in values)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """Distinct pictures, all but the first few there to stand beside those."""
    return [pictures.photograph(seed, ((480, 360), (360, 480))[seed % 2]) for seed in range(PICTURES + 8)]


@pytest.mark.parametrize("name", EVERY_EDIT)
def test_an_edited_picture_is_found(name: str, photographs: list[Image.Image]) -> None:
    """Each picture is edited, saved as a JPEG, and compared with what a bank would hold of the original."""
    chance = random.Random(name)
    missed = 0
    for place in range(PICTURES):
        others = photographs[place + 1 : place + 9]
        medium = edits.encode(EVERY_EDIT[name](photographs[place], others, chance))
        missed += not matches(pdq_of(photographs[place])[0], values_of(found_in(medium)))
    # A sheet's many cells compete for few places.
    assert missed <= (1 if name.startswith(("collage", "contact")) else 0)


@pytest.mark.parametrize("seed", [4, 26, 30])
def test_rectangles_that_are_nearly_right_do_not_keep_out_the_one_that_is(seed: int) -> None:
    """Of a player's frame, of that without one bar, and of the picture in it, the last is the one to find."""
    photograph = pictures.photograph(seed, ((480, 360), (360, 480))[seed % 2])
    medium = edits.encode(edits.paused(photograph, [], random.Random(seed)))
    assert matches(pdq_of(photograph)[0], values_of(found_in(medium)))


def test_a_region_is_told_in_pixels_of_the_picture(photographs: list[Image.Image]) -> None:
    """Its place is right to a pixel, however large the picture; the likeliest comes first."""
    for scale in (1, 2):
        size = photographs[0].width * scale, photographs[0].height * scale
        bordered = ImageOps.expand(photographs[0].resize(size), 40 * scale, (200, 20, 20))
        first = found_in(edits.encode(bordered, "PNG")).forms[1].region
        assert first is not None
        expected = (40 * scale, 40 * scale, *size)
        assert np.abs(np.subtract(first, expected)).max() <= 2 * scale


def test_pictures_that_have_nothing_in_common_stay_apart() -> None:
    """Photographs, pages and screens, each looked up with every variant among all the others."""
    drawn = [
        found_in(edits.encode(kind(seed)))
        for seed in range(7)
        for kind in (pictures.photograph, pictures.document, pictures.screen)
    ]
    searched = [values_of(found) for found in drawn]
    assert sum(len(values) for values in searched) > 16 * len(drawn)
    for entry, (value, quality) in enumerate(found.pdqs[0] for found in drawn):
        for owner, values in enumerate(searched):
            if owner != entry and quality >= PDQ_MINIMUM_QUALITY:
                assert not matches(value, values)


def test_text_is_no_picture() -> None:
    """The lines of a page fall apart: next to no hash is spent on them."""
    for seed in range(8):
        page = Image.new("RGB", (800, 1000), (255, 255, 255))
        pen = ImageDraw.Draw(page)
        for top in (60, 380, 700):
            pictures.write(pen, (70, top), 640, 12, 12 + seed, (0, 0, 0), random.Random(seed))
        assert len(regions.find(np.asarray(page.convert("L")))) <= 2


@pytest.mark.parametrize(
    "luma",
    [
        np.full((600, 800), 200, np.uint8),
        np.zeros((47, 900), np.uint8),
        np.zeros((1, 1), np.uint8),
        np.repeat(np.arange(255, dtype=np.uint8)[:, np.newaxis], 300, axis=1),
    ],
    ids=["flat", "too thin", "one pixel", "a ramp"],
)
def test_where_there_is_no_picture_none_is_found(luma: NDArray[np.uint8]) -> None:
    assert list(regions.find(luma)) == []


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["noise", "boxes", "stripes"]),
)
def test_any_picture_gives_a_few_regions_inside_of_it(height: int, width: int, seed: int, kind: str) -> None:
    """None is all of it, none is told twice, none is too small to be hashed."""
    chance = np.random.default_rng(seed)
    luma = chance.integers(0, 256, (height, width), np.uint8)
    if kind == "stripes":
        luma = np.repeat(luma[:, :1], width, axis=1)
    if kind == "boxes":
        luma[:] = 0
        for _ in range(12):
            top, left = int(chance.integers(0, height)), int(chance.integers(0, width))
            luma[top : top + 200, left : left + 200] = chance.integers(0, 256)
    luma.flags.writeable = False
    found = regions.find(luma)
    assert len(found) <= 14
    assert len(set(found)) == len(found)
    for left, top, across, down in found:
        assert 0 <= left < left + across <= width
        assert 0 <= top < top + down <= height
        assert min(across, down) >= 48
        assert (across, down) != (width, height)


@pytest.mark.parametrize("size", [(500, 500), (1920, 1080)])
def test_finding_takes_no_more_memory_than_is_asked_for(
    size: tuple[int, int], photographs: list[Image.Image]
) -> None:
    """The decoder's memory is granted before; the densest pictures count."""
    sheet = edits.collage(3)(photographs[0], photographs[1:9], random.Random(1))
    for picture in (sheet, pictures.document(3), pictures.screen(4)):
        luma = np.asarray(picture.convert("L").resize(size))
        regions.find(luma)
        tracemalloc.start()
        regions.find(luma)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= MOST_BYTES_PER_PIXEL * luma.size


def test_only_the_sealed_stub_tells_which_part_matched(tmp_path: Path) -> None:
    """A client whose bordered, mirrored picture matched learns no more than one whose picture is banked."""
    photograph = pictures.photograph(3, (640, 480))
    banked = edits.encode(photograph, "PNG")
    hidden = edits.encode(ImageOps.expand(ImageOps.mirror(photograph), 60, (200, 20, 20)))
    prepared = asyncio.run(prepare(StoreSettings(state_dir=tmp_path / "state")))
    with running_gate(prepared) as gate:
        fill_bank(gate, "mock-list", banked)
        answers = [
            gate.client().post("/v1/ingest", content=medium, headers={"Content-Type": "image/png"})
            for medium in (banked, hidden)
        ]
        as_told = [answer.json() for answer in answers]
    assert [told["verdict"] for told in as_told] == ["match", "match"]
    for told in as_told:
        assert (told["signals"], told["matches"]) == (None, [])
        assert not any(word in json.dumps(told) for word in ("variant", "region", "symmetry", "flip"))
    stubs = cast("list[dict[str, Any]]", asyncio.run(stored_stubs(prepared)))
    variants = [match["variant"] for stub in stubs for match in stub["matches"] if match["variant"]]
    assert [(variant["symmetry"], variant["negative"]) for variant in variants] == [("flipy", False)]
    region = variants[0]["region"]
    assert np.abs(np.subtract(list(region.values()), [60, 60, 640, 480])).max() <= 2
