"""Matches and banks consulted → verdict. Pure: no clock, no store, no network.

The order of the rules:

1. No bank was consulted: undecidable, ``no_bank``. An empty index is not a clean verdict.
2. A bank that reports or blocks matched: match, even if the rest could not be scanned.
3. The scan was not complete: undecidable, with the scan's reason. One that calls itself complete and hashed
   nothing contradicts itself: ``decoder_failed``.
4. A bank holds PDQ entries, no digest matched, and no rendering is good enough for PDQ to speak:
   undecidable, ``low_quality``, unless the policy accepts that.
5. Otherwise: clear.
"""

from collections.abc import Sequence

from app.media import (
    PDQ_MINIMUM_QUALITY,
    BankAction,
    Consulted,
    Decision,
    Match,
    Reason,
    Scan,
    Verdict,
)


def decide(
    *, consulted: Consulted, matches: Sequence[Match], scan: Scan, accept_low_quality: bool = False
) -> Decision:
    """Conclude what a medium is.

    Args:
        consulted: the banks that were asked.
        matches: all matches found in them, observing banks included.
        scan: what the sandbox found.
        accept_low_quality: whether media that PDQ cannot speak for may be clear.
    """
    if consulted.banks < 1:
        return Decision(reason=Reason.NO_BANK)
    if any(match.action is not BankAction.OBSERVE for match in matches):
        return Decision(Verdict.MATCH, matches=tuple(matches))
    if scan.undecidable is not None:
        return Decision(reason=scan.undecidable, matches=tuple(matches))
    if not scan.renderings:
        return Decision(reason=Reason.DECODER_FAILED, matches=tuple(matches))
    if consulted.holds_pdq and not accept_low_quality and not _pdq_can_speak(matches, scan):
        return Decision(reason=Reason.LOW_QUALITY, matches=tuple(matches))
    return Decision(Verdict.CLEAR, matches=tuple(matches))


def _pdq_can_speak(matches: Sequence[Match], scan: Scan) -> bool:
    return any(rendering.quality >= PDQ_MINIMUM_QUALITY for rendering in scan.renderings) or any(
        match.type.is_digest for match in matches
    )
