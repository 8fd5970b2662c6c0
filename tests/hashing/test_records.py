"""What a decoder says is believed only as far as an honest one could have said it."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.hashing import records
from app.hashing.lock import Lock, LockStep
from app.hashing.records import (
    MAX_DOUBTFUL_BITS,
    MAX_REGIONS,
    Answers,
    End,
    Forms,
    Look,
    MisbehaviourError,
    Need,
    Refusal,
)
from app.media import Background, Reason, Region, Rendering, Shape, Symmetry, VariantKind

SEQUENCE = 7
SHAPE = Shape("image", "png", 40, 30, 3)
NEED = Need(1_000)
DONE = End(None)
HASHES = bytes(range(16)) * 32
FORMS = Forms(None, 80, HASHES)


def rendering(frame: int = 0, background: Background = Background.NONE, quality: int = 80) -> Rendering:
    return Rendering(frame, background, bytes(range(32)), quality, bytes(range(8)))


def part(left: int = 0, top: int = 0, width: int = 40, height: int = 30, quality: int = 70) -> Forms:
    return Forms(Region(left, top, width, height), quality, HASHES)


def answers(
    *found: Shape | Need | Rendering | Forms | End, max_pixels: int = 1_200, max_frames: int = 3
) -> Answers:
    """The trusting side after these answers."""
    heard = Answers(SEQUENCE, max_pixels=max_pixels, max_frames=max_frames)
    for answer in found:
        assert heard.accept(records.pack(SEQUENCE, answer)) == answer
    return heard


def test_an_honest_decoders_answers_arrive_as_they_were_given() -> None:
    found = (
        rendering(0, Background.WHITE),
        rendering(0, Background.BLACK),
        rendering(1),
        rendering(2, quality=0),
    )
    heard = answers(SHAPE, NEED, *found, DONE)
    assert heard.shape == SHAPE
    assert heard.renderings == list(found)


def quick(frame: int = 0, doubted: int = 3) -> Rendering:
    """In doubt in so many bits of its last symmetry."""
    return Rendering(frame, Background.NONE, bytes(range(32)), 80, b"", doubts=doubts(doubted))


def doubts(doubted: int) -> bytes:
    return ((1 << doubted) - 1).to_bytes(8 * 32)


@pytest.mark.parametrize(
    ("look", "frames", "lie"),
    [
        pytest.param(Look(quick=False), 1, quick(), id="where a canonical look was asked for"),
        pytest.param(Look(quick=True), 2, quick(), id="at one of several frames"),
        pytest.param(Look(quick=True), 1, quick(doubted=MAX_DOUBTFUL_BITS + 1), id="in too much doubt"),
        pytest.param(
            Look(quick=True), 1, replace(rendering(), doubts=doubts(1)), id="canonical, and yet in doubt"
        ),
    ],
)
def test_a_quick_look_is_taken_only_where_it_was_asked_for(look: Look, frames: int, lie: Rendering) -> None:
    """A decoder that was taken over cannot have its hashes searched more loosely than they must be."""
    heard = Answers(SEQUENCE, max_pixels=1_200, max_frames=3, look=look)
    for answer in (replace(SHAPE, frames=frames), NEED):
        heard.accept(records.pack(SEQUENCE, answer))
    with pytest.raises(MisbehaviourError):
        heard.accept(records.pack(SEQUENCE, lie))
    assert heard.renderings == []


def test_a_quick_look_arrives_with_its_doubt_and_a_canonical_one_is_as_good() -> None:
    for answer in (quick(doubted=MAX_DOUBTFUL_BITS), quick(doubted=0), rendering()):
        heard = Answers(SEQUENCE, max_pixels=1_200, max_frames=3, look=Look(quick=True))
        for each in (replace(SHAPE, frames=1), NEED, answer):
            heard.accept(records.pack(SEQUENCE, each))
        assert heard.renderings == [answer]


def test_every_format_has_a_number() -> None:
    for told in records.FORMATS:
        shape = Shape(told.kind, told.name, 1, 1, 1)
        assert answers(shape).shape == shape


@pytest.mark.parametrize(
    "reason",
    [
        Reason.UNSUPPORTED_FORMAT,
        Reason.CORRUPT,
        Reason.TOO_MANY_PIXELS,
        Reason.TOO_MANY_FRAMES,
        Reason.DECODER_FAILED,
    ],
)
def test_a_decoder_may_give_up_at_any_point(reason: Reason) -> None:
    for so_far in ((), (SHAPE,), (SHAPE, NEED), (SHAPE, NEED, rendering())):
        answers(*so_far, End(reason))


@pytest.mark.parametrize("reason", [Reason.EMPTY, Reason.LOW_QUALITY, Reason.NO_BANK, Reason.SCAN_TIMEOUT])
def test_a_decoder_cannot_give_the_trusting_sides_reasons(reason: Reason) -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        records.pack(SEQUENCE, End(reason))


@pytest.mark.parametrize(
    ("so_far", "lie"),
    [
        pytest.param((), DONE, id="done without a shape"),
        pytest.param((SHAPE, NEED), DONE, id="done without a rendering"),
        pytest.param((SHAPE, NEED, rendering(1)), DONE, id="done without the first frame"),
        pytest.param((), NEED, id="a need before the shape"),
        pytest.param((), rendering(), id="a rendering before the shape"),
        pytest.param((SHAPE,), rendering(), id="a rendering before the need"),
        pytest.param((SHAPE,), SHAPE, id="a second shape"),
        pytest.param((SHAPE, NEED), NEED, id="a second need"),
        pytest.param((SHAPE, NEED, rendering(1)), rendering(0), id="frames backwards"),
        pytest.param((SHAPE, NEED, rendering(1)), rendering(1), id="a frame twice"),
        pytest.param(
            (SHAPE, NEED, rendering(0, Background.BLACK)),
            rendering(0, Background.WHITE),
            id="backgrounds backwards",
        ),
        pytest.param((SHAPE, NEED), rendering(3), id="a frame beyond the shape's"),
        pytest.param((SHAPE, NEED), rendering(quality=101), id="an impossible quality"),
        pytest.param((Shape("image", "png", 41, 30, 1),), NEED, id="going on with too many pixels"),
        pytest.param((), Shape("image", "png", 0, 30, 1), id="no width"),
        pytest.param((), Shape("image", "png", 30, 0, 1), id="no height"),
        pytest.param((), Shape("image", "png", 30, 1, 0), id="no frames"),
        pytest.param((SHAPE, NEED, rendering(), DONE), rendering(1), id="a rendering after the end"),
        pytest.param((SHAPE, NEED, rendering(), DONE), DONE, id="a second end"),
        pytest.param((SHAPE, NEED), FORMS, id="forms of nothing"),
        pytest.param((SHAPE, NEED, rendering(), DONE), FORMS, id="forms after the end"),
        pytest.param((SHAPE, NEED, rendering(), FORMS), FORMS, id="forms twice"),
        pytest.param((SHAPE, NEED, rendering(), part()), part(), id="a part twice"),
        pytest.param((SHAPE, NEED, rendering(), part()), FORMS, id="the whole after its part"),
        pytest.param((SHAPE, NEED, rendering()), Forms(None, 101, HASHES), id="forms of impossible quality"),
        pytest.param((SHAPE, NEED, rendering()), part(left=1), id="a part beyond the right edge"),
        pytest.param((SHAPE, NEED, rendering()), part(top=1), id="a part beyond the lower edge"),
        pytest.param(
            (SHAPE, NEED, rendering()), part(left=2**32 - 1, width=9), id="a part that wraps around"
        ),
        pytest.param((SHAPE, NEED, rendering()), part(left=1, width=0), id="a part without width"),
        pytest.param((SHAPE, NEED, rendering()), part(left=1, height=0), id="a part without height"),
        pytest.param(
            (SHAPE, NEED, rendering(1)), part(width=41), id="a later frame's part of too many pixels"
        ),
    ],
)
def test_an_answer_out_of_turn_or_range_is_misbehaviour(
    so_far: tuple[Shape | Need | Rendering | Forms | End, ...], lie: Shape | Need | Rendering | Forms | End
) -> None:
    heard = answers(*so_far)
    before = (heard.shape, list(heard.renderings))
    with pytest.raises(MisbehaviourError):
        heard.accept(records.pack(SEQUENCE, lie))
    assert (heard.shape, heard.renderings) == before


def test_forms_become_the_variants_of_the_rendering_before_them() -> None:
    """All but the picture as it stands, which is the rendering's own."""
    inner = part(5, 6, 20, 10)
    heard = answers(SHAPE, NEED, rendering(0), FORMS, inner, rendering(1), FORMS, DONE)
    first, second = heard.renderings
    assert (len(first.variants), len(second.variants)) == (15 + 16, 15)
    whole, parts = first.variants[:15], first.variants[15:]
    assert {variant.region for variant in whole} == {None}
    assert {variant.region for variant in parts} == {Region(5, 6, 20, 10)}
    assert {(variant.symmetry, variant.negative) for variant in parts} == {
        (symmetry, negative) for symmetry in Symmetry for negative in (False, True)
    }
    assert (Symmetry.ORIGINAL, False) not in {(variant.symmetry, variant.negative) for variant in whole}
    assert [variant.quality for variant in first.variants] == [80] * 15 + [70] * 16
    assert b"".join(variant.pdq for variant in parts) == HASHES


@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        ((), 0),
        ((VariantKind.SYMMETRIES,), 7),
        ((VariantKind.NEGATIVES,), 1),
        ((VariantKind.REGIONS,), 1),
        ((VariantKind.SYMMETRIES, VariantKind.NEGATIVES), 15),
        ((VariantKind.SYMMETRIES, VariantKind.REGIONS), 7 + 8),
        ((VariantKind.NEGATIVES, VariantKind.REGIONS), 1 + 2),
        (tuple(VariantKind), 15 + 16),
    ],
)
def test_only_the_kinds_asked_for_are_kept(kinds: tuple[VariantKind, ...], count: int) -> None:
    heard = Answers(SEQUENCE, max_pixels=1_200, max_frames=3, variants=frozenset(kinds))
    for answer in (SHAPE, NEED, rendering(), FORMS, part(5, 6, 20, 10), DONE):
        heard.accept(records.pack(SEQUENCE, answer))
    assert len(heard.renderings[0].variants) == count


def test_more_parts_than_allowed_are_misbehaviour() -> None:
    heard = answers(SHAPE, NEED, rendering(), FORMS, *(part(width=1 + at) for at in range(MAX_REGIONS)))
    with pytest.raises(MisbehaviourError):
        heard.accept(records.pack(SEQUENCE, part(width=30)))


def test_more_frames_than_allowed_are_misbehaviour() -> None:
    heard = answers(Shape("image", "gif", 4, 3, 1_000), NEED, rendering(0), rendering(9), max_frames=2)
    with pytest.raises(MisbehaviourError):
        heard.accept(records.pack(SEQUENCE, rendering(10)))


def test_a_shape_of_too_many_pixels_may_be_told_and_nothing_after_it() -> None:
    shape = Shape("image", "png", 41, 30, 1)
    assert answers(shape, End(Reason.TOO_MANY_PIXELS)).shape == shape


def test_an_answer_to_another_medium_is_misbehaviour() -> None:
    for answer in (SHAPE, NEED, rendering(), FORMS, DONE):
        with pytest.raises(MisbehaviourError, match="another medium"):
            answers().accept(records.pack(SEQUENCE + 1, answer))


@pytest.mark.parametrize("position", [-1, 1])
def test_a_record_that_is_too_short_or_too_long_is_misbehaviour(position: int) -> None:
    for answer in (SHAPE, NEED, rendering(), FORMS, DONE):
        packed = records.pack(SEQUENCE, answer)
        with pytest.raises(MisbehaviourError):
            answers().accept(packed[:-1] if position < 0 else packed + b"\x00")


@given(st.lists(st.binary(max_size=records.MAX_RECORD_BYTES + 1), max_size=5))
def test_no_bytes_at_all_break_the_trusting_side(untrusted: list[bytes]) -> None:
    heard = Answers(SEQUENCE, max_pixels=1_200, max_frames=3)
    for record in untrusted:
        try:
            heard.accept(record)
        except MisbehaviourError:
            continue


LAYOUTS = st.one_of(
    st.builds(
        lambda *fields: struct.pack("<BIBIII", 3, SEQUENCE, *fields),
        st.integers(0, 255),
        *[st.integers(0, 50) | st.integers(0, 2**32 - 1)] * 3,
    ),
    st.builds(lambda count: struct.pack("<BIQ", 4, SEQUENCE, count), st.integers(0, 2**64 - 1)),
    st.builds(
        lambda frame, background, quality, canonical, doubtful: struct.pack(
            "<BIIB32sB?8sB", 5, SEQUENCE, frame, background, bytes(32), quality, canonical, bytes(8), doubtful
        ),
        st.integers(0, 5) | st.integers(0, 2**32 - 1),
        st.integers(0, 4),
        st.integers(0, 110),
        st.booleans(),
        st.integers(0, 20),
    ),
    st.builds(
        lambda *fields: struct.pack("<BI4IB512s", 7, SEQUENCE, *fields, bytes(512)),
        *[st.integers(0, 50) | st.integers(0, 2**32 - 1)] * 4,
        st.integers(0, 110),
    ),
    st.builds(lambda reason: struct.pack("<BIB?", 6, SEQUENCE, reason, False), st.integers(0, 10)),
)


@given(st.lists(LAYOUTS, max_size=20))
def test_whatever_order_records_come_in_what_is_kept_is_possible(untrusted: list[bytes]) -> None:
    heard = Answers(SEQUENCE, max_pixels=1_200, max_frames=3)
    ended: list[End] = []
    for record in untrusted:
        try:
            found = heard.accept(record)
        except MisbehaviourError:
            continue
        if isinstance(found, End):
            ended.append(found)
    assert len(ended) <= 1
    if heard.renderings:
        assert heard.shape is not None
        assert heard.shape.width * heard.shape.height <= 1_200
        places = [(each.frame, each.background != Background.NONE) for each in heard.renderings]
        assert places == sorted(places)
        assert len({each.frame for each in heard.renderings}) <= 3
        assert all(each.frame < heard.shape.frames for each in heard.renderings)
        assert all(0 <= each.quality <= 100 for each in heard.renderings)
        assert all(each.phash and not each.doubts for each in heard.renderings)
        for region in {variant.region for each in heard.renderings for variant in each.variants}:
            assert region is None or (region.left + region.width) * (region.top + region.height) <= 1_200
    if DONE in ended:
        assert heard.renderings[0].frame == 0


def test_a_locked_workers_first_word_arrives_as_it_was_given() -> None:
    for lock in (Lock(2**40, 7, own_network=True, memory_locked=False), Lock(1, 0, False, True)):
        assert records.unpack_first_word(records.pack_lock(lock)) == lock
    for step in LockStep:
        refusal = Refusal(step, 38)
        assert records.unpack_first_word(records.pack_refusal(refusal)) == refusal


@pytest.mark.parametrize("untrusted", [b"", b"\x01", b"\x02\x09\x00\x00\x00\x00", b"\x06" + bytes(6)])
def test_any_other_first_word_is_misbehaviour(untrusted: bytes) -> None:
    with pytest.raises(MisbehaviourError):
        records.unpack_first_word(untrusted)
