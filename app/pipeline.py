"""The one path of every medium, top to bottom; it reads as the specification.

Every entrance calls ``ingest``. The stages do not know each other; this module alone knows their order:
admit → arrive → hash → match → decide → report → release.

From the moment the last byte has arrived, the rest runs in a task of its own, so that a caller who goes
away cannot cancel a report (promise 4).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from app.context import Context
from app.decide import decide
from app.errors import ReportNotStoredError
from app.media import (
    DIGEST_TYPES,
    PARKED_WITH_ITS_ENTRY,
    BankAction,
    Consulted,
    Decision,
    Disposition,
    Match,
    Provenance,
    Reason,
    Rendering,
    ReportReference,
    Scan,
    Shape,
    Signals,
    SignalType,
    VariantKind,
    Verdict,
)
from app.quarantine import Quarantine, QuarantinedMedia
from app.report.draft import Stub, draft
from app.settings import LowQualityPolicy, Profile

_NOTHING_SAID: Final = Context()


@dataclass(frozen=True)
class Arrived:
    """What is known once the last byte has arrived: where it came from and what was said of it."""

    provenance: Provenance
    context: Context = _NOTHING_SAID


Arrival = Callable[[QuarantinedMedia], Awaitable[Arrived]]
"""Pours untrusted bytes into the quarantine, from a request body, a URL or a file."""


class Hasher(Protocol):
    """Decodes and hashes in locked child processes."""

    async def scan(
        self, media: QuarantinedMedia, variants: frozenset[VariantKind], *, quick: bool = False
    ) -> Scan:
        """Hash all renderings of a whole medium, and these variants of them.

        What fails is told in the scan, not raised. With ``quick``, hashes near to the canonical ones are
        enough, where they cost less.
        """


class LoadedBanks(Protocol):
    """One immutable generation of all banks."""

    @property
    def digest_types(self) -> frozenset[SignalType]:
        """Which digests of a medium must be known to consult these banks."""

    def holds(self, of: SignalType, names: frozenset[str] | None) -> bool:
        """Whether the named banks, or all, hold entries of a type."""

    def is_far_from(self, renderings: Sequence[Rendering], names: frozenset[str] | None) -> bool:
        """Whether no PDQ hash that a canonical look could find is near any entry. Blocking."""

    def consult(self, signals: Signals, names: frozenset[str] | None) -> tuple[Consulted, tuple[Match, ...]]:
        """Ask the named banks, or all, about a medium. Blocking, pure computation."""


class Banks(Protocol):
    """The generation in force."""

    def ready(self, names: frozenset[str] | None) -> LoadedBanks:
        """The banks now in force.

        Raises:
            NotReadyError: none counts, or one that counts is not loaded, was emptied, or is too old.
        """


class Outbox(Protocol):
    """Seals and stores reports."""

    async def check_ready(self) -> None:
        """Return only if a report could be sealed now.

        Raises:
            NotReadyError: no custodian is known.
        """

    async def commit(self, stub: Stub, *, parked_cause: str | None = None) -> ReportReference:
        """Store a report durably, once; parked at once if there is a cause for it.

        Raises:
            ReportNotStoredError: it could not be stored.
        """

    async def record_block(self, submission_id: str, by: str, banks: Sequence[str]) -> None:
        """Put a match that nobody has to report on the record.

        Raises:
            ReportNotStoredError: it could not be stored.
        """


class Watch(Protocol):
    """Sees what is asked, not who answers what."""

    def compares(self, submission: "Submission", renderings: Sequence[Rendering]) -> bool:
        """Whether the SHA-256 of a medium that looks like this is to be known when it is concluded."""

    def concluded(self, submission: "Submission", signals: Signals, decision: Decision) -> None:
        """One medium came to a verdict."""


@dataclass(frozen=True)
class Submission:
    """Who hands a medium in, and by which way.

    Attributes:
        id: ULID of this ingest, told in the answer and the log.
        entrance: ``http``, ``batch`` or ``cli``.
        key_id: id of the token's key; None for a run without a server.
        guarded: whether a search for edits that slip by is to be noticed.
    """

    id: str
    entrance: str
    key_id: str | None
    profile: Profile
    guarded: bool = True
    idempotency_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Receipt:
    """What became of a medium.

    ``signals`` is None unless the verdict is clear and they were asked for. ``released`` is the medium
    itself, whole and scanned, if its release was asked for and the verdict is clear; whoever gets it wipes
    it. ``observed`` is whether a bank that only observes matched it, whatever the others said.
    """

    id: str
    verdict: Verdict
    disposition: Disposition
    reason: Reason | None
    size: int
    shape: Shape | None
    signals: Signals | None
    matched_banks: tuple[str, ...]
    report: ReportReference | None
    provenance: Provenance
    observed: bool
    released: QuarantinedMedia | None = None


@dataclass(frozen=True)
class Gate:
    """The stages, wired, and the limits they share.

    Attributes:
        begun: media whose last byte has arrived and whose verdict is not stored yet; a process that is
            asked to stop waits for them.
    """

    quarantine: Quarantine
    hasher: Hasher
    banks: Banks
    outbox: Outbox | None
    max_bytes: int
    max_video_bytes: int
    low_quality: LowQualityPolicy
    watches: tuple[Watch, ...] = ()
    begun: set["asyncio.Task[Receipt]"] = field(default_factory=set)


async def check_ready(gate: Gate, profile: Profile) -> LoadedBanks:
    """Return only if a match would be caught and stored now: the banks that would catch it.

    Raises:
        NotReadyError: otherwise.
    """
    if gate.outbox is not None:
        await gate.outbox.check_ready()
    return gate.banks.ready(profile.banks)


async def ingest(
    gate: Gate,
    submission: Submission,
    arrive: Arrival,
    *,
    expected_bytes: int | None = None,
    release: bool = False,
    tell_signals: bool = True,
) -> Receipt:
    """Take one medium through the gate.

    Args:
        gate: the wired stages.
        submission: who hands it in.
        arrive: pours the bytes in.
        expected_bytes: how many bytes the sender promises, if known.
        release: hand the medium on if it is clear; else only its verdict is told.
        tell_signals: tell its fingerprints if it is clear; without, a quick look may be enough to see that.

    Raises:
        NotReadyError, OverloadedError, TooLargeError: before the first byte is read.
        RefusedError, UnavailableError: what ``arrive`` raises; nothing is left behind.
        ReportNotStoredError: it matched, was dropped, and that could not be stored.
    """
    profile = submission.profile
    banks = await check_ready(gate, profile)
    media = gate.quarantine.admit(
        max_bytes=min(gate.max_bytes, profile.max_bytes or gate.max_bytes),
        max_video_bytes=min(gate.max_video_bytes, profile.max_video_bytes or gate.max_video_bytes),
        expected_bytes=expected_bytes,
        digests=DIGEST_TYPES if tell_signals else banks.digest_types,
    )
    with contextlib.ExitStack() as undo:
        undo.callback(media.wipe)
        arrived = await arrive(media)
        media.finish()
        undo.pop_all()
    concluding = asyncio.create_task(
        _conclude(gate, submission, media, arrived, release=release, tell_signals=tell_signals)
    )
    gate.begun.add(concluding)
    concluding.add_done_callback(gate.begun.discard)
    try:
        return await asyncio.shield(concluding)
    except asyncio.CancelledError:
        concluding.add_done_callback(_wipe_unclaimed)
        raise


async def _conclude(
    gate: Gate,
    submission: Submission,
    media: QuarantinedMedia,
    arrived: Arrived,
    *,
    release: bool,
    tell_signals: bool,
) -> Receipt:
    """Hash, match, decide, report. The medium is wiped on every way out but a release."""
    released = False
    try:
        scan, signals, decision = await _judge(gate, submission, media, tell_signals=tell_signals)
        for watch in gate.watches:
            watch.concluded(submission, signals, decision)
        report = await _report(gate, submission, media.size, arrived, scan, signals, decision)
        released = release and decision.verdict is Verdict.CLEAR
        return Receipt(
            id=submission.id,
            verdict=decision.verdict,
            disposition=_disposition(decision.verdict, released=released),
            reason=decision.reason,
            size=media.size,
            shape=scan.shape,
            signals=signals if tell_signals and decision.verdict is Verdict.CLEAR else None,
            matched_banks=_matched_banks(decision),
            report=report,
            provenance=arrived.provenance,
            observed=any(match.action is BankAction.OBSERVE for match in decision.matches),
            released=media if released else None,
        )
    finally:
        if not released:
            media.wipe()


async def _judge(
    gate: Gate, submission: Submission, media: QuarantinedMedia, *, tell_signals: bool
) -> tuple[Scan, Signals, Decision]:
    """Hash, match and decide; quickly where no hash is told and nothing is near.

    A quick look alone never concludes anything but clear: what it finds near, or cannot answer for, gets a
    canonical look, and the verdict is that one's.
    """
    names, variants = submission.profile.banks, submission.profile.variants
    quick = not tell_signals and not gate.banks.ready(names).holds(SignalType.PHASH, names)
    scan = await gate.hasher.scan(media, variants, quick=quick)
    told = DIGEST_TYPES if tell_signals else frozenset()
    if any(watch.compares(submission, scan.renderings) for watch in gate.watches):
        told |= {SignalType.SHA256}
    banks = gate.banks.ready(names)
    if not scan.is_canonical:
        decided = await asyncio.to_thread(_clear_at_a_glance, banks, names, media, scan, told)
        if decided is not None:
            return scan, *decided
        scan = await gate.hasher.scan(media, variants)
        banks = gate.banks.ready(names)
    accept_low_quality = (submission.profile.low_quality or gate.low_quality) == "accept"
    return scan, *await asyncio.to_thread(_decide, banks, names, media, scan, told, accept_low_quality)


def _clear_at_a_glance(
    banks: LoadedBanks,
    names: frozenset[str] | None,
    media: QuarantinedMedia,
    scan: Scan,
    told: frozenset[SignalType],
) -> tuple[Signals, Decision] | None:
    """What a quick look is enough to decide: nothing but that a medium is clear. Blocking."""
    if scan.undecidable is not None or banks.holds(SignalType.PHASH, names):
        return None
    if not banks.is_far_from(scan.renderings, names):
        return None
    # Nothing of its PDQ can match, so the digests alone are left to ask for.
    digests = media.digests_of(banks.digest_types | told)
    consulted, matches = banks.consult(Signals(digests, ()), names)
    decision = decide(consulted=consulted, matches=matches, scan=scan)
    if matches or decision.verdict is not Verdict.CLEAR:
        return None
    return Signals(digests, scan.renderings), decision


def _decide(  # noqa: PLR0917 - in the order of the stages
    banks: LoadedBanks,
    names: frozenset[str] | None,
    media: QuarantinedMedia,
    scan: Scan,
    told: frozenset[SignalType],
    accept_low_quality: bool,  # noqa: FBT001 - run in a thread
) -> tuple[Signals, Decision]:
    """What a canonical look decides. Blocking."""
    signals = Signals(media.digests_of(banks.digest_types | told), scan.renderings)
    consulted, matches = banks.consult(signals, names)
    decision = decide(consulted=consulted, matches=matches, scan=scan, accept_low_quality=accept_low_quality)
    if decision.verdict is Verdict.MATCH:
        # A report tells all of them.
        signals = Signals(media.digests, scan.renderings)
    return signals, decision


async def _report(  # noqa: PLR0917 - each stage's result, in the order of the stages
    gate: Gate,
    submission: Submission,
    size: int,
    arrived: Arrived,
    scan: Scan,
    signals: Signals,
    decision: Decision,
) -> ReportReference | None:
    if not decision.to_report:
        if decision.verdict is Verdict.MATCH and gate.outbox is not None:
            by = submission.key_id or submission.entrance
            await gate.outbox.record_block(submission.id, by, _matched_banks(decision))
        return None
    if gate.outbox is None:
        raise ReportNotStoredError("a bank asks for reports, and this run has no store")
    stub = draft(
        submission_id=submission.id,
        entrance=submission.entrance,
        key_id=submission.key_id,
        context=arrived.context,
        idempotency_key=submission.idempotency_key,
        provenance=arrived.provenance,
        size=size,
        shape=scan.shape,
        signals=signals,
        matches=decision.matches,
    )
    return await gate.outbox.commit(stub, parked_cause=PARKED_WITH_ITS_ENTRY if decision.parked else None)


def _matched_banks(decision: Decision) -> tuple[str, ...]:
    """The banks that made the verdict a match; those that only observe stay silent."""
    if decision.verdict is not Verdict.MATCH:
        return ()
    deciding = [match.bank for match in decision.matches if match.action is not BankAction.OBSERVE]
    return tuple(dict.fromkeys(deciding))


def _disposition(verdict: Verdict, *, released: bool) -> Disposition:
    if verdict is Verdict.UNDECIDABLE:
        return Disposition.WITHHELD
    return Disposition.RELEASED if released else Disposition.DROPPED


def _wipe_unclaimed(concluding: "asyncio.Task[Receipt]") -> None:
    """Overwrite a released medium whose caller went away before it could be handed on."""
    if concluding.cancelled() or concluding.exception() is not None:
        return
    released = concluding.result().released
    if released is not None:
        released.wipe()
