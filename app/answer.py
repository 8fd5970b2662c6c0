"""The answer to an ingest, the same over HTTP and on the command line."""

from typing import Final, Literal

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


EXAMPLES: Final = {
    "clear": IngestAnswer(
        id="01J9ZK3V5T8QX2M4N6P8R0S1T2",
        verdict=Verdict.CLEAR,
        disposition=Disposition.DROPPED,
        reason=None,
        media=MediaAnswer(kind="image", format="jpeg", width=1600, height=1004, frames=1, bytes=361182),
        signals=SignalsAnswer(
            pdq=PdqAnswer(
                value="f8f8f0cce0f4e84d0e370a22028f67f0b36e2ed596623e1d33e6339c4e9c9b22", quality=100
            ),
            phash="d6c6391999e666c3",
            md5="9e107d9d372bb6826bd81d3542a419d6",
            sha1="2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
            sha256="d7a8fbb307d7809469ca9abcb0082e4f8d5651e46d3cdb762d02d0bf37c9e592",
        ),
        matches=None,
        report=None,
    ),
    "match": IngestAnswer(
        id="01J9ZK3V5T8QX2M4N6P8R0S1T3",
        verdict=Verdict.MATCH,
        disposition=Disposition.DROPPED,
        reason=None,
        media=MediaAnswer(kind="image", format="png", width=640, height=480, frames=1, bytes=512034),
        signals=None,
        matches=(),
        report=ReportAnswer(id="01J9ZK3V6A7B8C9D0E1F2G3H4J"),
    ),
    "undecidable": IngestAnswer(
        id="01J9ZK3V5T8QX2M4N6P8R0S1T4",
        verdict=Verdict.UNDECIDABLE,
        disposition=Disposition.WITHHELD,
        reason=Reason.UNSUPPORTED_FORMAT,
        media=None,
        signals=None,
        matches=None,
        report=None,
    ),
}
"""An answer of each verdict, for the documentation."""


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
