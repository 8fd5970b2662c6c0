"""The answer to an ingest, the same over HTTP and on the command line."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.media import PDQ_MINIMUM_QUALITY, Disposition, Reason, Signals, Verdict
from app.pipeline import Receipt


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class MediaAnswer(_Answer):
    """What the medium is, told from its bytes."""

    kind: str = Field(examples=["image"])
    format: str = Field(examples=["jpeg"])
    width: int = Field(examples=[1600])
    height: int = Field(examples=[1004])
    frames: int = Field(examples=[1])
    bytes: int = Field(examples=[361182])


class PdqAnswer(_Answer):
    """The PDQ hash of the first frame as a viewer shows it."""

    value: str = Field(pattern="^[0-9a-f]{64}$")
    quality: int = Field(ge=PDQ_MINIMUM_QUALITY, le=100)


class SignalsAnswer(_Answer):
    """The fingerprints of a clear medium; ``pdq`` is null under quality 50."""

    pdq: PdqAnswer | None
    phash: str | None = Field(pattern="^[0-9a-f]{16}$")
    md5: str = Field(pattern="^[0-9a-f]{32}$")
    sha1: str = Field(pattern="^[0-9a-f]{40}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class BankAnswer(_Answer):
    """A bank that matched, told only where the key's profile discloses banks."""

    bank: str


class ReportAnswer(_Answer):
    """The report that a match was stored in."""

    id: str
    state: Literal["queued"] = "queued"


class IngestAnswer(_Answer):
    """What became of a medium."""

    id: str
    verdict: Verdict
    disposition: Disposition
    reason: Reason | None = Field(description="Null unless the verdict is `undecidable`.")
    media: MediaAnswer | None = Field(description="Null if nothing could be decoded.")
    signals: SignalsAnswer | None = Field(description="Null unless the verdict is `clear`.")
    matches: tuple[BankAnswer, ...] | None = Field(description="Null unless the verdict is `match`.")
    report: ReportAnswer | None = Field(description="Null unless a bank that reports matched.")


def answer(receipt: Receipt, *, disclose_banks: bool) -> IngestAnswer:
    """What a caller may know of a receipt: the verdict, never which entry matched or how closely."""
    shape = receipt.shape
    return IngestAnswer(
        id=receipt.id,
        verdict=receipt.verdict,
        disposition=receipt.disposition,
        reason=receipt.reason,
        media=MediaAnswer(
            kind=shape.kind,
            format=shape.format,
            width=shape.width,
            height=shape.height,
            frames=shape.frames,
            bytes=receipt.size,
        )
        if shape
        else None,
        signals=_signals(receipt.signals) if receipt.signals else None,
        matches=tuple(BankAnswer(bank=bank) for bank in receipt.matched_banks if disclose_banks)
        if receipt.verdict is Verdict.MATCH
        else None,
        report=ReportAnswer(id=receipt.report.id) if receipt.report else None,
    )


def _signals(signals: Signals) -> SignalsAnswer:
    first = signals.renderings[0] if signals.renderings else None
    return SignalsAnswer(
        pdq=PdqAnswer(value=first.pdq.hex(), quality=first.quality)
        if first and first.quality >= PDQ_MINIMUM_QUALITY
        else None,
        phash=first.phash.hex() if first else None,
        md5=signals.digests.md5.hex(),
        sha1=signals.digests.sha1.hex(),
        sha256=signals.digests.sha256.hex(),
    )
