"""What the banks of one generation say of a medium."""

import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from app.entries import Bank, Entries
from app.matching.index import EntryIndex
from app.matching.loaded import LoadedBanks
from app.matching.near import MATCHES_KEPT
from app.media import (
    PDQ_BYTES,
    SPARE_BITS,
    Background,
    BankAction,
    BankKind,
    Digests,
    Match,
    Region,
    Rendering,
    Signals,
    SignalType,
    Symmetry,
    Tier,
    Variant,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RNG = np.random.default_rng(1)
PDQ = RNG.integers(0, 256, (20, 32), np.uint8)
PHASH = RNG.integers(0, 256, (20, 8), np.uint8)
MD5, SHA1, SHA256 = b"\x01" * 16, b"\x02" * 20, b"\x03" * 32


def bank(number: int, name: str, **policy: object) -> Bank:
    told: dict[str, object] = {
        "kind": BankKind.CSAM,
        "action": BankAction.REPORT,
        "thresholds": {},
        "no_report_reason": None,
        "max_age_seconds": None,
        "created_at": NOW,
        "first_generation": 1,
        "changed_at": NOW,
    }
    return Bank(id=number, name=name, **(told | policy))  # type: ignore[arg-type]


def held(of: SignalType, in_bank: int, *values: bytes, first_id: int = 1) -> Entries:
    count = len(values)
    return Entries(
        of,
        np.arange(first_id, first_id + count, dtype=np.int64),
        np.full(count, in_bank, np.int64),
        np.frombuffer(b"".join(values), np.uint8).reshape(count, of.size_bytes),
    )


def loaded(
    banks: list[Bank],
    *chunks: list[Entries],
    removed: list[int] | None = None,
    pending: int | None = None,
    named_pairs: frozenset[tuple[int, int]] = frozenset(),
) -> LoadedBanks:
    indexes = tuple(EntryIndex.build(chunk) for chunk in chunks)
    counts: dict[tuple[int, SignalType], int] = {}
    for index in indexes:
        for key, count in index.counts.items():
            counts[key] = counts.get(key, 0) + count
    return LoadedBanks(
        generation=1,
        banks={each.name: each for each in banks},
        indexes=indexes,
        counts=counts,
        removed=np.array(removed or [], np.int64),
        pending=frozenset() if pending is None else frozenset({pending}),
        named_pairs=named_pairs,
    )


def flip(value: np.ndarray, bits: int) -> bytes:
    changed = np.unpackbits(value)
    changed[:bits] ^= 1
    return np.packbits(changed).tobytes()


def seen(
    pdq: bytes = bytes(PDQ[0]), phash: bytes = b"\xaa" * 8, quality: int = 100, frame: int = 0
) -> Rendering:
    return Rendering(frame, Background.NONE, pdq, quality, phash)


def medium(*renderings: Rendering, md5: bytes = MD5) -> Signals:
    return Signals(Digests(md5, SHA1, SHA256), renderings)


def matches(banks: LoadedBanks, signals: Signals, *names: str) -> tuple[Match, ...]:
    return banks.consult(signals, frozenset(names) or None)[1]


@pytest.mark.parametrize(
    ("of", "value"), [(SignalType.MD5, MD5), (SignalType.SHA1, SHA1), (SignalType.SHA256, SHA256)]
)
def test_each_digest_matches_exactly(of: SignalType, value: bytes) -> None:
    banks = loaded([bank(1, "a")], [held(of, 1, value, first_id=9)])
    (match,) = matches(banks, medium())
    assert (match.bank, match.type, match.entry_id, match.distance) == ("a", of, 9, 0)
    assert match.entry_value == match.query_value == value
    assert match.rendering is None


@pytest.mark.parametrize(("distance", "matched"), [(0, True), (31, True), (32, False)])
def test_pdq_matches_up_to_31_bits_by_default(distance: int, *, matched: bool) -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, flip(PDQ[0], distance))])
    found = matches(banks, medium(seen()))
    assert [match.distance for match in found] == ([distance] if matched else [])
    if matched:
        assert found[0].threshold == 31
        assert found[0].entry_value == flip(PDQ[0], distance)
        assert found[0].query_value == bytes(PDQ[0])
        assert found[0].rendering == seen()


def varied(pdq: bytes, quality: int = 100, region: Region | None = None) -> Variant:
    return Variant(pdq, quality, Symmetry.FLIP_X, negative=True, region=region)


def test_a_match_tells_which_variant_of_the_picture_it_is() -> None:
    """The picture as it stands comes first where a variant is no nearer."""
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, bytes(PDQ[1]), bytes(PDQ[2]))])
    first, inner = varied(flip(PDQ[1], 5)), varied(flip(PDQ[2], 9), region=Region(1, 2, 30, 40))
    rendering = replace(seen(flip(PDQ[1], 5)), variants=(first, inner))
    plain, part = matches(banks, medium(rendering))
    assert (plain.variant, plain.distance, plain.query_value) == (None, 5, rendering.pdq)
    assert (part.variant, part.distance, part.query_value) == (inner, 9, inner.pdq)
    assert part.rendering == rendering


@pytest.mark.parametrize(("quality", "matched"), [(49, False), (50, True)])
def test_a_variant_speaks_by_its_own_quality(quality: int, *, matched: bool) -> None:
    """A part may have structure that the whole has not, and the other way round."""
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, bytes(PDQ[1]))])
    inner = varied(bytes(PDQ[1]), quality, Region(0, 0, 9, 9))
    rendering = replace(seen(quality=100 - quality), variants=(inner,))
    assert bool(matches(banks, medium(rendering))) is matched


@pytest.mark.parametrize(("distance", "matched"), [(0, True), (6, True), (7, False)])
def test_phash_matches_up_to_6_bits_at_any_quality(distance: int, *, matched: bool) -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PHASH, 1, flip(PHASH[0], distance))])
    found = matches(banks, medium(seen(phash=bytes(PHASH[0]), quality=0)))
    assert [match.distance for match in found] == ([distance] if matched else [])


@pytest.mark.parametrize(("quality", "matched"), [(49, False), (50, True)])
def test_pdq_under_quality_50_does_not_match(quality: int, *, matched: bool) -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, bytes(PDQ[0]))])
    assert bool(matches(banks, medium(seen(quality=quality)))) is matched


def test_each_bank_matches_at_its_own_threshold() -> None:
    entry = flip(PDQ[0], 40)
    banks = loaded(
        [
            bank(1, "default"),
            bank(2, "wide", thresholds={SignalType.PDQ: 40}),
            bank(3, "exact", thresholds={SignalType.PDQ: 0}),
        ],
        [held(SignalType.PDQ, number, entry, first_id=number) for number in (1, 2, 3)],
    )
    (match,) = matches(banks, medium(seen()))
    assert (match.bank, match.distance, match.threshold) == ("wide", 40, 40)
    assert {match.bank for match in matches(banks, medium(seen(pdq=entry)))} == {"default", "wide", "exact"}


def test_only_the_banks_asked_for_answer() -> None:
    banks = loaded(
        [bank(1, "a"), bank(2, "b")],
        [held(SignalType.PDQ, 1, bytes(PDQ[0])), held(SignalType.MD5, 2, MD5, first_id=2)],
    )
    consulted, found = banks.consult(medium(seen()), frozenset({"b"}))
    assert (consulted.banks, consulted.holds_pdq) == (1, False)
    assert [match.bank for match in found] == ["b"]
    consulted, found = banks.consult(medium(seen()), None)
    assert (consulted.banks, consulted.holds_pdq) == (2, True)
    assert {match.bank for match in found} == {"a", "b"}


def test_entries_of_a_bank_that_is_gone_are_ignored() -> None:
    banks = loaded(
        [bank(1, "a")],
        [
            held(SignalType.MD5, 1, b"\x09" * 16),
            held(SignalType.MD5, 99, MD5, first_id=5),
            held(SignalType.PDQ, 99, bytes(PDQ[0]), first_id=6),
            held(SignalType.PHASH, 3, b"\xaa" * 8, first_id=7),
        ],
    )
    consulted, found = banks.consult(medium(seen()), None)
    assert found == ()
    assert (consulted.banks, consulted.holds_pdq) == (1, False)


def test_what_was_added_since_the_snapshot_matches_and_what_was_removed_does_not() -> None:
    banks = loaded(
        [bank(1, "a")],
        [
            held(SignalType.PDQ, 1, *(bytes(value) for value in PDQ[:4])),
            held(SignalType.MD5, 1, MD5, first_id=50),
        ],
        [held(SignalType.PDQ, 1, bytes(PDQ[5]), first_id=60)],
        removed=[1, 50],
    )
    assert matches(banks, medium(seen(pdq=bytes(PDQ[0])))) == ()
    assert [match.entry_id for match in matches(banks, medium(seen(pdq=bytes(PDQ[1]))))] == [2]
    assert [match.entry_id for match in matches(banks, medium(seen(pdq=bytes(PDQ[5]))))] == [60]


def test_an_entry_is_told_once_at_its_smallest_distance() -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, bytes(PDQ[0]))])
    frames = [seen(pdq=flip(PDQ[0], bits), frame=number) for number, bits in enumerate((9, 4, 4, 20))]
    (match,) = matches(banks, medium(*frames))
    assert match.distance == 4
    assert match.rendering == frames[1]


def test_many_frames_find_their_entries_each() -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, *(bytes(value) for value in PDQ))])
    frames = [seen(pdq=flip(value, 3), frame=number) for number, value in enumerate(PDQ)]
    found = matches(banks, medium(*frames))
    assert sorted(match.entry_id for match in found) == list(range(1, 21))
    assert all(match.rendering == frames[match.entry_id - 1] for match in found)


def test_so_many_matches_are_told_and_each_bank_that_matched_is_among_them() -> None:
    rng = np.random.default_rng(5)
    crowd = []
    for _ in range(400):
        bits = np.unpackbits(PDQ[0])
        bits[rng.choice(256, int(rng.integers(1, 25)), replace=False)] ^= 1
        crowd.append(np.packbits(bits).tobytes())
    banks = loaded(
        [bank(1, "crowded"), bank(2, "far", action=BankAction.BLOCK), bank(3, "digest")],
        [
            held(SignalType.PDQ, 1, *crowd),
            held(SignalType.PDQ, 2, flip(PDQ[0], 31), first_id=1000),
            held(SignalType.SHA1, 3, SHA1, first_id=2000),
        ],
    )
    found = matches(banks, medium(seen()))
    assert {match.bank for match in found} == {"crowded", "far", "digest"}
    assert MATCHES_KEPT <= len(found) <= MATCHES_KEPT + 3
    distances = [match.distance for match in found]
    assert distances == sorted(distances)
    assert len({(match.type, match.entry_id) for match in found}) == len(found)


def test_a_digest_match_is_told_beside_perceptual_ones() -> None:
    banks = loaded(
        [bank(1, "a")],
        [
            held(SignalType.PDQ, 1, bytes(PDQ[0])),
            held(SignalType.PHASH, 1, b"\xaa" * 8, first_id=2),
            held(SignalType.SHA256, 1, SHA256, first_id=3),
        ],
    )
    assert {match.type for match in matches(banks, medium(seen()))} == {
        SignalType.PDQ,
        SignalType.PHASH,
        SignalType.SHA256,
    }


def test_a_medium_without_renderings_is_asked_about_by_its_digests() -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, bytes(PDQ[0]))])
    consulted, found = banks.consult(medium(), None)
    assert (consulted.banks, consulted.holds_pdq, found) == (1, True, ())


@pytest.mark.parametrize(
    ("banks", "names", "said"),
    [
        (loaded([]), None, "no bank counts"),
        (loaded([bank(1, "a", first_generation=None)]), None, "no bank counts"),
        (loaded([bank(1, "a")], [held(SignalType.MD5, 1, MD5)]), {"b"}, "there is no bank 'b'"),
        (loaded([bank(1, "a")], [held(SignalType.MD5, 1, MD5)]), {"a", "b"}, "there is no bank 'b'"),
        (loaded([bank(1, "a")]), None, "bank 'a' was emptied: fill it, or delete it"),
        (loaded([bank(1, "a"), bank(2, "b")], [held(SignalType.MD5, 1, MD5)]), None, "bank 'b' was emptied"),
        (loaded([bank(1, "a", first_generation=5)], pending=5), None, "no bank counts"),
        (
            loaded([bank(1, "a", first_generation=5)], [held(SignalType.MD5, 1, bytes(16))], pending=5),
            None,
            "no bank counts",
        ),
        (loaded([bank(1, "a")], [held(SignalType.MD5, 1, MD5)]), set(), "no bank counts"),
    ],
)
def test_banks_that_cannot_decide_say_why_and_none_counts_as_consulted(
    banks: LoadedBanks, names: set[str] | None, said: str
) -> None:
    asked = None if names is None else frozenset(names)
    assert said in (banks.lacking(asked) or "")
    assert banks.consult(medium(seen()), asked)[0].banks == 0


@pytest.mark.parametrize(
    ("banks", "names"),
    [
        (loaded([bank(1, "a")], [held(SignalType.MD5, 1, MD5)]), None),
        (loaded([bank(1, "a"), bank(2, "b")], [held(SignalType.MD5, 1, MD5)]), {"a"}),
        (
            loaded([bank(1, "a"), bank(2, "b", first_generation=None)], [held(SignalType.MD5, 1, MD5)]),
            {"a", "b"},
        ),
        (
            loaded(
                [bank(1, "a"), bank(2, "b", first_generation=5)],
                [held(SignalType.MD5, 1, MD5), held(SignalType.MD5, 2, MD5, first_id=2)],
                pending=5,
            ),
            None,
        ),
    ],
)
def test_banks_that_can_decide_lack_nothing(banks: LoadedBanks, names: set[str] | None) -> None:
    assert banks.lacking(None if names is None else frozenset(names)) is None


def test_what_a_bank_holds_before_its_first_import_is_in_force_matches() -> None:
    """A small change is in force within seconds, though a large one before it waits for its index."""
    banks = loaded(
        [bank(1, "a"), bank(2, "b", first_generation=5)],
        [held(SignalType.MD5, 1, bytes(16)), held(SignalType.PDQ, 2, bytes(PDQ[0]), first_id=2)],
        pending=5,
    )
    consulted, found = banks.consult(medium(seen()), None)
    assert [match.bank for match in found] == ["b"]
    assert (consulted.banks, consulted.holds_pdq) == (1, True)
    assert not banks.is_far_from((seen(),), None)


def test_nothing_that_is_loaded_shows_a_value_when_printed() -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.MD5, 1, MD5), held(SignalType.PDQ, 1, bytes(PDQ[0]))])
    (match, *_) = matches(banks, medium(seen()))
    shown = f"{banks!r} {match!r} {held(SignalType.MD5, 1, MD5)!r}"
    for value in (MD5, bytes(PDQ[0])):
        assert value.hex() not in shown
        assert repr(value)[2:-1] not in shown


def nearer_by(bits: int, value: bytes, to: bytes) -> bytes:
    """A value that is so many bits from another, on the way to it from a third."""
    differing = np.flatnonzero(np.unpackbits(np.frombuffer(value, np.uint8) ^ np.frombuffer(to, np.uint8)))
    changed = np.unpackbits(np.frombuffer(to, np.uint8))
    changed[differing[:bits]] ^= 1
    return np.packbits(changed).tobytes()


HARMLESS = {"kind": BankKind.OTHER, "action": BankAction.SUPPRESS}


@pytest.mark.parametrize(
    ("distance", "tier", "action"),
    [
        (0, Tier.STRONG, BankAction.REPORT),
        (16, Tier.STRONG, BankAction.REPORT),
        (17, Tier.NEAR, BankAction.BLOCK),
        (31, Tier.NEAR, BankAction.BLOCK),
    ],
)
def test_what_a_bank_does_goes_by_the_tier_of_the_match(
    distance: int, tier: Tier, action: BankAction
) -> None:
    tiered = bank(1, "a", tier_actions={Tier.NEAR: BankAction.BLOCK})
    banks = loaded([tiered], [held(SignalType.PDQ, 1, flip(PDQ[0], distance))])
    (match,) = matches(banks, medium(seen()))
    assert (match.tier, match.action) == (tier, action)


def test_a_phash_match_is_near_and_a_digest_has_no_tier() -> None:
    tiered = bank(
        1,
        "a",
        kind=BankKind.OTHER,
        tier_actions={Tier.STRONG: BankAction.BLOCK, Tier.NEAR: BankAction.OBSERVE},
    )
    banks = loaded(
        [tiered], [held(SignalType.PHASH, 1, b"\xaa" * 8), held(SignalType.MD5, 1, MD5, first_id=2)]
    )
    found = {match.type: (match.tier, match.action) for match in matches(banks, medium(seen()))}
    assert found == {
        SignalType.PHASH: (Tier.NEAR, BankAction.OBSERVE),
        SignalType.MD5: (None, BankAction.REPORT),
    }


@pytest.mark.parametrize(("quality", "matched"), [(69, False), (70, True), (100, True)])
def test_a_bank_sees_no_pdq_match_of_a_picture_below_its_least_quality(
    quality: int, *, matched: bool
) -> None:
    """The next bank, with another, does; and pHash and digests ask for none."""
    careful, other = bank(1, "careful", minimum_quality=70), bank(2, "other")
    entries = [
        held(SignalType.PDQ, 1, bytes(PDQ[0])),
        held(SignalType.PDQ, 2, bytes(PDQ[0]), first_id=2),
        held(SignalType.PHASH, 1, b"\xaa" * 8, first_id=3),
    ]
    banks = loaded([careful, other], [entries[0]], [entries[1], entries[2]])
    found = {(match.bank, match.type) for match in matches(banks, medium(seen(quality=quality)))}
    expected = {("other", SignalType.PDQ), ("careful", SignalType.PHASH)}
    assert found == (expected | {("careful", SignalType.PDQ)} if matched else expected)


def test_the_value_of_the_best_quality_counts_where_two_frames_have_the_same() -> None:
    banks = loaded([bank(1, "a", minimum_quality=70)], [held(SignalType.PDQ, 1, bytes(PDQ[0]))])
    (match,) = matches(banks, medium(seen(quality=60), seen(quality=90, frame=1)))
    assert match.rendering is not None
    assert match.rendering.frame == 1


def test_what_is_harmless_and_nearer_is_told_with_a_match_and_makes_none_itself() -> None:
    entry = flip(PDQ[0], 20)
    near = nearer_by(5, entry, bytes(PDQ[0]))
    banks = loaded(
        [bank(1, "a"), bank(2, "harmless", **HARMLESS)],
        [held(SignalType.PDQ, 1, entry), held(SignalType.PDQ, 2, near, first_id=2)],
    )
    (match,) = matches(banks, medium(seen()))
    assert [(each.entry_id, each.named) for each in match.suppressors] == [(2, False)]
    named = replace(banks, named_pairs=frozenset({(2, 1)}))
    (match,) = matches(named, medium(seen()))
    assert [each.named for each in match.suppressors] == [True]


@pytest.mark.parametrize(("distance", "suppressed"), [(16, True), (17, False)])
def test_what_is_harmless_has_to_be_within_its_own_threshold(distance: int, *, suppressed: bool) -> None:
    """16 bits by default: closer than what makes a match."""
    entry = flip(PDQ[0], 25)
    banks = loaded(
        [bank(1, "a"), bank(2, "harmless", **HARMLESS)],
        [
            held(SignalType.PDQ, 1, entry),
            held(SignalType.PDQ, 2, nearer_by(distance, entry, bytes(PDQ[0])), first_id=2),
        ],
    )
    (match,) = matches(banks, medium(seen()))
    assert bool(match.suppressors) is suppressed


def test_what_is_harmless_and_no_nearer_than_the_entry_suppresses_nothing() -> None:
    entry = flip(PDQ[0], 8)
    banks = loaded(
        [bank(1, "a"), bank(2, "harmless", **HARMLESS)],
        [held(SignalType.PDQ, 1, entry), held(SignalType.PDQ, 2, flip(PDQ[0], 8), first_id=2)],
    )
    (match,) = matches(banks, medium(seen()))
    assert match.suppressors == ()


def test_a_match_stands_where_one_of_many_frames_is_nearer_to_the_entry() -> None:
    """A film that shows what is harmless once, and the listed picture after it, is not harmless."""
    entry = flip(PDQ[0], 20)
    near = nearer_by(3, entry, bytes(PDQ[0]))
    banks = loaded(
        [bank(1, "a"), bank(2, "harmless", **HARMLESS)],
        [held(SignalType.PDQ, 1, entry), held(SignalType.PDQ, 2, near, first_id=2)],
    )
    (alone,) = matches(banks, medium(seen()))
    assert alone.suppressors
    (beside,) = matches(banks, medium(seen(), seen(pdq=nearer_by(2, bytes(PDQ[0]), entry), frame=1)))
    assert beside.suppressors == ()


def test_a_file_known_to_be_harmless_byte_by_byte_is_nearer_than_any_likeness() -> None:
    banks = loaded(
        [bank(1, "a"), bank(2, "harmless", **HARMLESS)],
        [held(SignalType.PDQ, 1, flip(PDQ[0], 3)), held(SignalType.SHA256, 2, SHA256, first_id=2)],
    )
    (match,) = matches(banks, medium(seen()))
    assert [each.entry_id for each in match.suppressors] == [2]


def test_only_suppression_banks_that_are_asked_suppress_and_they_never_decide() -> None:
    entry = flip(PDQ[0], 20)
    near = nearer_by(3, entry, bytes(PDQ[0]))
    banks = loaded(
        [bank(1, "a"), bank(2, "harmless", **HARMLESS)],
        [held(SignalType.PDQ, 1, entry), held(SignalType.PDQ, 2, near, first_id=2)],
    )
    (match,) = matches(banks, medium(seen()), "a")
    assert match.suppressors == ()
    assert banks.lacking(frozenset({"harmless"})) is not None
    assert banks.consult(medium(seen()), frozenset({"harmless"}))[0].banks == 0
    assert banks.consult(medium(seen()), None)[0].banks == 1


def test_a_removed_entry_suppresses_nothing() -> None:
    entry = flip(PDQ[0], 20)
    near = nearer_by(3, entry, bytes(PDQ[0]))
    banks = loaded(
        [bank(1, "a"), bank(2, "harmless", **HARMLESS)],
        [held(SignalType.PDQ, 1, entry), held(SignalType.PDQ, 2, near, first_id=2)],
        removed=[2],
    )
    (match,) = matches(banks, medium(seen()))
    assert match.suppressors == ()


@pytest.mark.parametrize(
    ("wrong", "in_doubt", "far"),
    [
        (31 + SPARE_BITS, 0, False),
        (32 + SPARE_BITS, 0, True),
        (31 + SPARE_BITS, 20, False),
        (32 + SPARE_BITS, 20, True),
    ],
)
def test_what_is_in_doubt_is_far_only_by_the_bits_that_are_not(
    wrong: int, in_doubt: int, *, far: bool
) -> None:
    """That goes for the picture as it stands and for its forms, each with its own doubts."""
    doubted = ((1 << in_doubt) - 1).to_bytes(PDQ_BYTES)
    value = bytes(one ^ other for one, other in zip(flip(PDQ[0], wrong), doubted, strict=True))
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, value)])
    upright, flipped = (bytearray(8 * PDQ_BYTES) for _ in range(2))
    upright[:PDQ_BYTES] = doubted
    place = list(Symmetry).index(Symmetry.FLIP_X) * PDQ_BYTES
    flipped[place : place + PDQ_BYTES] = doubted
    elsewhere = replace(seen(bytes(PDQ[9]), phash=b""), doubts=bytes(flipped))
    variant = varied(bytes(PDQ[0]))
    assert variant.symmetry is Symmetry.FLIP_X
    assert banks.is_far_from([replace(seen(phash=b""), doubts=bytes(upright))], None) is far
    assert banks.is_far_from([replace(elsewhere, variants=(variant,))], None) is far
    unsure_elsewhere = replace(elsewhere, doubts=bytes(upright), variants=(variant,))
    assert banks.is_far_from([unsure_elsewhere], None) is (far or in_doubt > 0)


@pytest.mark.parametrize(("distance", "far"), [(31, False), (32, True)])
def test_a_part_is_never_in_doubt(distance: int, *, far: bool) -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, flip(PDQ[0], distance))])
    part = varied(bytes(PDQ[0]), region=Region(1, 2, 30, 40))
    whole = replace(seen(bytes(PDQ[9]), phash=b""), doubts=bytes([255]) * 8 * PDQ_BYTES)
    assert banks.is_far_from([replace(seen(bytes(PDQ[9])), variants=(part,))], None) is far
    assert not banks.is_far_from([whole], None)


def test_nothing_is_far_where_there_is_nothing_to_be_far_from() -> None:
    """A look that PDQ cannot speak for or that does not say its doubts, and banks that do not count."""
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, bytes(PDQ[0]))])
    assert banks.is_far_from([seen(bytes(PDQ[1]))], None)
    assert not banks.is_far_from([seen(bytes(PDQ[1]), quality=49)], None)
    assert not banks.is_far_from([seen(bytes(PDQ[1]), phash=b"")], None)
    assert not banks.is_far_from([], None)
    assert not banks.is_far_from([seen(bytes(PDQ[1]))], frozenset({"b"}))


def test_the_widest_threshold_of_the_banks_asked_says_how_far_is_far() -> None:
    banks = loaded(
        [bank(1, "a"), bank(2, "wide", thresholds={SignalType.PDQ: 40})],
        [held(SignalType.PDQ, 2, flip(PDQ[0], 40), first_id=2)],
        [held(SignalType.PDQ, 1, bytes(PDQ[5]))],
    )
    assert not banks.is_far_from([seen()], None)
    assert banks.is_far_from([seen()], frozenset({"a"}))
    assert not banks.is_far_from([seen(bytes(PDQ[5]))], None)


def test_banks_say_which_types_they_hold() -> None:
    banks = loaded(
        [bank(1, "a"), bank(2, "b")],
        [held(SignalType.MD5, 1, MD5)],
        [held(SignalType.PHASH, 2, bytes(PHASH[0]), first_id=2), held(SignalType.SHA1, 2, SHA1, first_id=3)],
    )
    assert banks.digest_types == {SignalType.MD5, SignalType.SHA1}
    assert banks.holds(SignalType.PHASH, None)
    assert banks.holds(SignalType.PHASH, frozenset({"b"}))
    assert not banks.holds(SignalType.PHASH, frozenset({"a"}))


def test_a_digest_that_was_not_computed_does_not_pass_for_one_that_is_not_there() -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.SHA1, 1, SHA1)])
    with pytest.raises(ValueError, match="another length"):
        banks.consult(Signals(Digests(md5=MD5), ()), None)


def test_a_bank_in_which_all_is_near_is_told_exactly_and_in_bounded_memory() -> None:
    """Millions of hits: the nearest are kept, and the nearest of each bank, with nothing held of the rest."""
    count, forms = 150_000, 16
    rng = np.random.default_rng(9)
    values = np.tile(PDQ[:1], (count, 1))
    values[:, :3] ^= rng.integers(0, 256, (count, 3), np.uint8) & rng.integers(0, 256, (count, 3), np.uint8)
    entries = Entries(
        SignalType.PDQ, np.arange(1, count + 1), rng.choice([1, 1, 1, 1, 2], count), values.copy()
    )
    entries.values[77, 22:] ^= 0x11
    entries.banks[77] = 3
    banks = loaded([bank(1, "a"), bank(2, "b"), bank(3, "far")], [entries])
    pictures = [seen(flip(PDQ[0], 2 * number), frame=number) for number in range(forms)]

    tracemalloc.start()
    consulted, found = banks.consult(medium(*pictures), None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    queries = np.stack([np.frombuffer(picture.pdq, np.uint8) for picture in pictures])
    distances = np.min(
        [np.bitwise_count(entries.values ^ query).sum(axis=1, dtype=np.int64) for query in queries], axis=0
    )
    assert not consulted.all_told
    assert consulted.in_time
    assert all(match.distance == distances[match.entry_id - 1] for match in found)
    assert len({match.entry_id for match in found}) == len(found)
    assert [match.distance for match in found[:MATCHES_KEPT]] == np.sort(distances)[:MATCHES_KEPT].tolist()
    for number, name in enumerate(("a", "b", "far"), 1):
        nearest = min(match.distance for match in found if match.bank == name)
        assert nearest == distances[entries.banks == number].min()
    hits = sum(int((np.bitwise_count(entries.values ^ query).sum(axis=1) <= 31).sum()) for query in queries)
    assert hits > 1_000_000
    assert peak < 16 * hits, "less than two numbers for each of them would take"


@pytest.mark.parametrize(("each", "all_told"), [(50, True), (51, False)])
def test_matches_that_are_left_out_of_those_of_several_indexes_are_not_told_as_all(
    each: int, *, all_told: bool
) -> None:
    """Each index told all of its own; what no suppression bank cancels may be among what is left out."""
    banks = loaded(
        [bank(1, "a")],
        [held(SignalType.PDQ, 1, *[flip(PDQ[0], 9)] * each)],
        [held(SignalType.PDQ, 1, *[flip(PDQ[0], 9)] * each, first_id=each + 1)],
    )
    consulted, found = banks.consult(medium(seen()), None)
    assert consulted.all_told is all_told
    assert len(found) in {2 * each, MATCHES_KEPT + 1}


def test_suppression_entries_that_are_left_out_leave_all_matches_told() -> None:
    """One that is not looked at cancels nothing, and keeps nothing from being cancelled by the others."""
    entry = flip(PDQ[0], 20)
    near = [nearer_by(3, entry, bytes(PDQ[0]))] * (20 * MATCHES_KEPT)
    banks = loaded(
        [bank(1, "a"), bank(2, "harmless", **HARMLESS)],
        [held(SignalType.PDQ, 1, entry), held(SignalType.PDQ, 2, *near, first_id=2)],
    )
    consulted, (match,) = banks.consult(medium(seen()), None)
    assert consulted.all_told
    assert match.suppressors


def test_of_very_many_entries_at_one_distance_as_many_are_told_as_of_others() -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, *[flip(PDQ[0], 9)] * (20 * MATCHES_KEPT))])
    consulted, found = banks.consult(medium(seen()), None)
    assert not consulted.all_told
    assert MATCHES_KEPT <= len(found) <= MATCHES_KEPT + 1


def test_a_medium_is_looked_up_for_so_long_and_is_not_clear_if_that_was_too_short() -> None:
    """What was found until then is told; nothing that it leaves open is cancelled."""
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, bytes(PDQ[0]))])
    late = replace(banks, search_seconds=0)
    for pdq, expected in ((PDQ[0], 1), (PDQ[1], 0)):
        consulted, found = late.consult(medium(seen(bytes(pdq))), None)
        assert (consulted.in_time, consulted.all_told, len(found)) == (False, False, expected)
    assert banks.consult(medium(seen(bytes(PDQ[1]))), None)[0].in_time
    assert late.consult(medium(), None)[0].in_time, "digests take no time"


def test_a_quick_look_that_takes_too_long_finds_nothing_far() -> None:
    banks = loaded([bank(1, "a")], [held(SignalType.PDQ, 1, bytes(PDQ[0]))])
    assert banks.is_far_from([seen(bytes(PDQ[1]))], None)
    assert not replace(banks, search_seconds=0).is_far_from([seen(bytes(PDQ[1]))], None)
