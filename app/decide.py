"""Matches and banks consulted → verdict. Pure: no clock, no store, no network.

The order of the rules:

1. No bank was consulted: undecidable, ``no_bank``. An empty index is not a clean verdict.
2. A match that was cancelled does not count; see ``_is_cancelled``.
3. A bank that reports or blocks matched: match, even if the rest could not be scanned.
4. The scan was not complete: undecidable, with the scan's reason; or the banks could not be asked about all
   of it in time, ``scan_timeout``. One that calls itself complete and hashed nothing contradicts itself:
   ``decoder_failed``.
5. A bank holds PDQ entries, no digest matched, and no rendering is good enough for PDQ to speak:
   undecidable, ``low_quality``, unless the policy accepts that.
6. Otherwise: clear.
"""

from collections.abc import Sequence

from app.media import (
    PDQ_MINIMUM_QUALITY,
    BankAction,
    BankKind,
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
    cancelled = tuple(match for match in matches if consulted.all_told and _is_cancelled(match))
    standing = tuple(match for match in matches if match not in cancelled) if cancelled else tuple(matches)
    verdict, reason = _verdict(consulted, standing, scan, accept_low_quality=accept_low_quality)
    reported = [match for match in standing if match.action is BankAction.REPORT]
    return Decision(
        verdict,
        reason,
        standing,
        cancelled,
        parked=bool(reported) and consulted.all_told and all(map(_is_parked, reported)),
    )


def _verdict(
    consulted: Consulted, standing: Sequence[Match], scan: Scan, *, accept_low_quality: bool
) -> tuple[Verdict, Reason | None]:
    if any(match.action is not BankAction.OBSERVE for match in standing):
        return Verdict.MATCH, None
    if scan.undecidable is not None:
        return Verdict.UNDECIDABLE, scan.undecidable
    if not consulted.in_time:
        return Verdict.UNDECIDABLE, Reason.SCAN_TIMEOUT
    if not scan.renderings:
        return Verdict.UNDECIDABLE, Reason.DECODER_FAILED
    if consulted.holds_pdq and not accept_low_quality and not _pdq_can_speak(standing, scan):
        return Verdict.UNDECIDABLE, Reason.LOW_QUALITY
    return Verdict.CLEAR, None


def _is_cancelled(match: Match) -> bool:
    """Whether something known to be harmless is nearer to the medium than the entry that matched.

    Never for a medium that has the entry's very value: a wrong entry is disabled, not suppressed. A csam
    entry only by one that was named for it.
    """
    if match.exact:
        return False
    return any(each.named or match.kind is not BankKind.CSAM for each in match.suppressors)


def _is_parked(match: Match) -> bool:
    """Whether a match waits with its entry for a person; a digest never does."""
    return match.parked and not match.type.is_digest


def _pdq_can_speak(matches: Sequence[Match], scan: Scan) -> bool:
    return any(rendering.quality >= PDQ_MINIMUM_QUALITY for rendering in scan.renderings) or any(
        match.type.is_digest for match in matches
    )
