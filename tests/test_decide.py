"""Deciding: the whole table, and what must hold of every case of it."""

from itertools import chain, combinations, product

import pytest

from app.decide import decide
from app.media import (
    Background,
    BankAction,
    BankKind,
    Consulted,
    Decision,
    Match,
    Reason,
    Rendering,
    Scan,
    Shape,
    SignalType,
    Suppressor,
    Verdict,
)

SHAPE = Shape("image", "png", 640, 480, 1)
ACTIONS, TYPES = (
    (BankAction.REPORT, BankAction.BLOCK, BankAction.OBSERVE),
    (SignalType.PDQ, SignalType.PHASH, SignalType.SHA256),
)
SCAN_REASONS = tuple(reason for reason in Reason if reason not in {Reason.LOW_QUALITY, Reason.NO_BANK})


def _match(action: BankAction, type_: SignalType = SignalType.PDQ) -> Match:
    return Match("b", BankKind.OTHER, action, 1, type_, b"e", b"q", 0, 31)


def _scan(*qualities: int, undecidable: Reason | None = None) -> Scan:
    renderings = tuple(
        Rendering(frame, Background.NONE, bytes(32), quality, bytes(8))
        for frame, quality in enumerate(qualities)
    )
    return Scan(SHAPE if qualities else None, renderings, undecidable)


REPORT, BLOCK, OBSERVE = (_match(action) for action in ACTIONS)
OBSERVED_DIGEST = _match(BankAction.OBSERVE, SignalType.MD5)
OBSERVED_PHASH = _match(BankAction.OBSERVE, SignalType.PHASH)

Row = tuple[str, int, bool, tuple[Match, ...], Scan, Verdict, Reason | None]

TABLE: list[Row] = [
    ("clear", 1, True, (), _scan(100), Verdict.CLEAR, None),
    ("clear at the least quality", 1, True, (), _scan(50), Verdict.CLEAR, None),
    ("clear if one of many frames is good enough", 1, True, (), _scan(0, 49, 50), Verdict.CLEAR, None),
    ("low quality", 1, True, (), _scan(49), Verdict.UNDECIDABLE, Reason.LOW_QUALITY),
    ("low quality of all frames", 1, True, (), _scan(0, 49), Verdict.UNDECIDABLE, Reason.LOW_QUALITY),
    ("low quality where no bank holds PDQ", 1, False, (), _scan(0), Verdict.CLEAR, None),
    ("low quality, digest observed", 1, True, (OBSERVED_DIGEST,), _scan(0), Verdict.CLEAR, None),
    (
        "pHash makes nothing clear",
        1,
        True,
        (OBSERVED_PHASH,),
        _scan(0),
        Verdict.UNDECIDABLE,
        Reason.LOW_QUALITY,
    ),
    ("observed", 1, True, (OBSERVE,), _scan(100), Verdict.CLEAR, None),
    ("reported", 1, True, (REPORT,), _scan(100), Verdict.MATCH, None),
    ("blocked", 1, True, (BLOCK,), _scan(100), Verdict.MATCH, None),
    ("reported beside observed", 2, True, (OBSERVE, REPORT), _scan(100), Verdict.MATCH, None),
    ("reported at low quality", 1, True, (REPORT,), _scan(0), Verdict.MATCH, None),
    (
        "reported though it cannot be decoded",
        1,
        True,
        (REPORT,),
        _scan(undecidable=Reason.CORRUPT),
        Verdict.MATCH,
        None,
    ),
    (
        "reported though not all was scanned",
        1,
        True,
        (BLOCK,),
        _scan(100, undecidable=Reason.TOO_MANY_FRAMES),
        Verdict.MATCH,
        None,
    ),
    (
        "observed but not all scanned",
        1,
        True,
        (OBSERVE,),
        _scan(100, undecidable=Reason.TOO_MANY_FRAMES),
        Verdict.UNDECIDABLE,
        Reason.TOO_MANY_FRAMES,
    ),
    ("no bank", 0, False, (), _scan(100), Verdict.UNDECIDABLE, Reason.NO_BANK),
    (
        "no bank comes first",
        0,
        True,
        (),
        _scan(undecidable=Reason.EMPTY),
        Verdict.UNDECIDABLE,
        Reason.NO_BANK,
    ),
    ("whole scan of nothing", 1, False, (), _scan(), Verdict.UNDECIDABLE, Reason.DECODER_FAILED),
    *(
        (f"scan says {reason}", 1, False, (), _scan(100, undecidable=reason), Verdict.UNDECIDABLE, reason)
        for reason in SCAN_REASONS
    ),
]


@pytest.mark.parametrize(
    ("banks", "holds_pdq", "matches", "scan", "verdict", "reason"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_the_table(
    banks: int,
    matches: tuple[Match, ...],
    scan: Scan,
    verdict: Verdict,
    reason: Reason | None,
    *,
    holds_pdq: bool,
) -> None:
    decision = decide(consulted=Consulted(banks, holds_pdq), matches=matches, scan=scan)
    assert (decision.verdict, decision.reason) == (verdict, reason)


def test_low_quality_can_be_accepted_by_policy_and_nothing_else_changes() -> None:
    for _, banks, holds_pdq, matches, scan, verdict, reason in TABLE:
        decision = decide(
            consulted=Consulted(banks, holds_pdq), matches=matches, scan=scan, accept_low_quality=True
        )
        expected = (Verdict.CLEAR, None) if reason is Reason.LOW_QUALITY else (verdict, reason)
        assert (decision.verdict, decision.reason) == expected


def test_in_every_case_clear_means_consulted_whole_and_free_of_matches() -> None:
    """Invariant 3, over all combinations of what can be known of a medium."""
    some_matches = [_match(action, type_) for action, type_ in product(ACTIONS, TYPES)]
    all_matches = list(chain.from_iterable(combinations(some_matches, count) for count in range(4)))
    scans = [
        _scan(*qualities, undecidable=undecidable)
        for qualities, undecidable in product([(), (0,), (49,), (50,), (0, 100)], [None, *SCAN_REASONS])
    ]
    verdicts = set()
    for banks, holds_pdq, accept, matches, scan in product(
        (0, 1, 2), (False, True), (False, True), all_matches, scans
    ):
        decision = decide(
            consulted=Consulted(banks, holds_pdq), matches=matches, scan=scan, accept_low_quality=accept
        )
        verdicts.add(decision.verdict)
        assert (decision.reason is None) == (decision.verdict is not Verdict.UNDECIDABLE)
        if decision.verdict is Verdict.CLEAR:
            assert banks
            assert scan.undecidable is None
            assert scan.renderings
            assert {match.action for match in matches} <= {BankAction.OBSERVE}
            spoken = any(rendering.quality >= 50 for rendering in scan.renderings)
            digest = any(match.type is SignalType.SHA256 for match in matches)
            assert spoken or digest or accept or not holds_pdq
        if banks and {match.action for match in matches} & {BankAction.REPORT, BankAction.BLOCK}:
            assert decision.verdict is Verdict.MATCH
            assert decision.matches == matches
    assert verdicts == set(Verdict)


def test_what_nobody_decided_is_undecidable() -> None:
    assert Decision().verdict is Verdict.UNDECIDABLE
    assert next(iter(Verdict)) is Verdict.UNDECIDABLE


def test_only_banks_that_report_oblige_to_report() -> None:
    decision = decide(consulted=Consulted(2, True), matches=(OBSERVE, BLOCK, REPORT), scan=_scan(100))
    assert decision.to_report == (REPORT,)
    assert decide(consulted=Consulted(1, True), matches=(BLOCK,), scan=_scan(100)).to_report == ()


def _near(kind: BankKind, *, named: bool | None, distance: int = 20, parked: bool = False) -> Match:
    """A match in a bank that reports, at a distance in bits; with a suppressor unless ``named`` is None."""
    suppressors = () if named is None else (Suppressor(7, named),)
    return Match(
        *("b", kind, BankAction.REPORT, 1, SignalType.PDQ, b"e", b"q", distance, 31),
        suppressors=suppressors,
        parked=parked,
    )


@pytest.mark.parametrize(
    ("match", "verdict"),
    [
        (_near(BankKind.OTHER, named=False), Verdict.CLEAR),
        (_near(BankKind.NCII, named=True), Verdict.CLEAR),
        (_near(BankKind.OTHER, named=None), Verdict.MATCH),
        (_near(BankKind.OTHER, named=False, distance=0), Verdict.MATCH),
        (_near(BankKind.CSAM, named=False), Verdict.MATCH),
        (_near(BankKind.CSAM, named=True), Verdict.CLEAR),
        (_near(BankKind.CSAM, named=True, distance=0), Verdict.MATCH),
    ],
    ids=[
        "near",
        "near and named",
        "nothing harmless is nearer",
        "exact",
        "csam",
        "csam and named",
        "csam, named and exact",
    ],
)
def test_what_is_nearer_and_harmless_cancels_near_matches_alone(match: Match, verdict: Verdict) -> None:
    """An exact match is never cancelled, and one of csam only by an entry that was named for it."""
    decision = decide(consulted=Consulted(1, True), matches=(match,), scan=_scan(100))
    assert decision.verdict is verdict
    standing, cancelled = ((match,), ()) if verdict is Verdict.MATCH else ((), (match,))
    assert (decision.matches, decision.cancelled) == (standing, cancelled)


def test_one_match_that_stands_is_enough() -> None:
    cancelled, stands = _near(BankKind.OTHER, named=False), _near(BankKind.OTHER, named=None)
    decision = decide(consulted=Consulted(1, True), matches=(cancelled, stands), scan=_scan(100))
    assert (decision.verdict, decision.matches) == (Verdict.MATCH, (stands,))


def test_nothing_is_cancelled_while_some_matches_are_not_told() -> None:
    """One that was left out for their number may be one that nothing cancels."""
    match = _near(BankKind.OTHER, named=False)
    decision = decide(consulted=Consulted(1, True, all_told=False), matches=(match,), scan=_scan(100))
    assert (decision.verdict, decision.matches) == (Verdict.MATCH, (match,))


def test_what_could_not_be_looked_up_in_time_is_not_clear_and_a_match_is_one_all_the_same() -> None:
    late = Consulted(1, True, all_told=False, in_time=False)
    for matches, verdict, reason in (
        ((), Verdict.UNDECIDABLE, Reason.SCAN_TIMEOUT),
        ((OBSERVE,), Verdict.UNDECIDABLE, Reason.SCAN_TIMEOUT),
        ((OBSERVE, BLOCK), Verdict.MATCH, None),
    ):
        decision = decide(consulted=late, matches=matches, scan=_scan(100))
        assert (decision.verdict, decision.reason) == (verdict, reason)
    broken = _scan(100, undecidable=Reason.CORRUPT)
    assert decide(consulted=late, matches=(), scan=broken).reason is Reason.CORRUPT


def test_a_cancelled_match_makes_nothing_clear() -> None:
    """What PDQ cannot speak for, and what was not scanned, stays undecidable."""
    match = _near(BankKind.OTHER, named=False)
    for scan, reason in (
        (_scan(10), Reason.LOW_QUALITY),
        (_scan(100, undecidable=Reason.TOO_MANY_FRAMES), Reason.TOO_MANY_FRAMES),
    ):
        decision = decide(consulted=Consulted(1, True), matches=(match,), scan=scan)
        assert (decision.verdict, decision.reason) == (Verdict.UNDECIDABLE, reason)


def test_a_report_waits_with_its_entry_only_if_no_other_entry_reports() -> None:
    """Parked entries go on blocking; one that is not parked, or a digest, has the report queued."""
    parked, sound = _near(BankKind.CSAM, named=None, parked=True), _near(BankKind.CSAM, named=None)
    for matches, waits in (((parked,), True), ((parked, sound), False), ((sound,), False), ((BLOCK,), False)):
        decision = decide(consulted=Consulted(1, True), matches=matches, scan=_scan(100))
        assert (decision.verdict, decision.parked) == (Verdict.MATCH, waits)
    digest = Match("b", BankKind.CSAM, BankAction.REPORT, 1, SignalType.MD5, b"e", b"q", 0, 0, parked=True)
    assert not decide(consulted=Consulted(1, True), matches=(digest,), scan=_scan(100)).parked
    untold = Consulted(1, True, all_told=False)
    assert not decide(consulted=untold, matches=(parked,), scan=_scan(100)).parked
