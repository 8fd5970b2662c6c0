"""What a report says: the stub, metadata only by type. No field here can hold media.

The stub is versioned JSON. Its reader is a custodian; it is sealed before it is stored.
"""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from app import __version__
from app.context import Context
from app.media import BankKind, Match, Provenance, Rendering, Shape, Signals, SignalType, Variant

STUB_VERSION: Final = 1

MEMBERS: Final = (
    *("stub_version", "report_id", "automatic_filing", "ingest_id", "cordon_version", "created_at"),
    *("bank_kind", "test", "statement", "submitted_by", "provenance", "context", "media", "signals"),
    "matches",
)
"""Of a report. A gate that was taken over can write others, and call them what it likes."""

SEEN_BY_NOBODY: Final = (
    "Cordon showed this media to no person and kept no copy; whether anyone saw it elsewhere is not "
    "known to Cordon."
)


@dataclass(frozen=True)
class Stub:
    """A report before it is sealed.

    Attributes:
        kind: the most severe kind among the banks that report it.
        test: whether only test banks report it; such a report can never be filed.
        sha256: the medium's SHA-256, raw.
        place: where it was found, as ordered key-value pairs; empty if its sender named no place.
    """

    submission_id: str
    kind: BankKind
    test: bool
    key_id: str | None
    idempotency_key: str | None = field(repr=False)
    sha256: bytes = field(repr=False)
    place: tuple[tuple[str, str], ...] = field(repr=False)
    content: dict[str, Any] = field(repr=False)

    def to_json(self, report_id: str, *, automatic: bool = False) -> bytes:
        """The document that is sealed, as UTF-8 JSON.

        Args:
            report_id: of its report.
            automatic: whether it is sealed to the worker too, which may file it by itself.
        """
        document = {
            "stub_version": STUB_VERSION,
            "report_id": report_id,
            "automatic_filing": automatic,
        }
        text = json.dumps(document | self.content, ensure_ascii=False, sort_keys=False)
        # A lone surrogate has no UTF-8; as a backslash escape it is JSON still, and the report stays whole.
        return text.encode("utf-8", "backslashreplace")


def draft(
    *,
    submission_id: str,
    entrance: str,
    key_id: str | None,
    context: Context,
    idempotency_key: str | None,
    provenance: Provenance,
    size: int,
    shape: Shape | None,
    signals: Signals,
    matches: tuple[Match, ...],
) -> Stub:
    """Write down a match: what was found where, when, by which signal, handed in by whom."""
    kinds = [match.kind for match in matches if match.action == "report"]
    kind = next(kind for kind in BankKind if kind in kinds)
    content: dict[str, Any] = {
        "ingest_id": submission_id,
        "cordon_version": __version__,
        "created_at": _text(datetime.now(UTC)),
        "bank_kind": kind.value,
        "test": kind is BankKind.TEST,
        "statement": SEEN_BY_NOBODY,
        "submitted_by": {"entrance": entrance, "key_id": key_id},
        "provenance": _provenance(provenance),
        "context": context.said(),
        "media": {
            "bytes": size,
            "kind": shape.kind if shape else None,
            "format": shape.format if shape else None,
            "width": shape.width if shape else None,
            "height": shape.height if shape else None,
            "frames": shape.frames if shape else None,
        },
        "signals": {
            "md5": signals.digests.md5.hex(),
            "sha1": signals.digests.sha1.hex(),
            "sha256": signals.digests.sha256.hex(),
            "renderings": [_rendering(rendering) for rendering in signals.renderings],
        },
        "matches": [_match(match) for match in matches],
    }
    return Stub(
        submission_id=submission_id,
        kind=kind,
        test=kind is BankKind.TEST,
        key_id=key_id,
        idempotency_key=idempotency_key,
        sha256=signals.digests.sha256,
        place=place_of(provenance, context),
        content=content,
    )


def place_of(provenance: Provenance, context: Context) -> tuple[tuple[str, str], ...]:
    """Where a medium was found: the requested URL, else (platform, account_id, post_id, source_url).

    Empty if the sender named none of these: such an upload is a report of its own.
    """
    if provenance.requested_url is not None:
        return (("url", provenance.requested_url),)
    named = {
        "platform": context.platform,
        "account_id": context.account_id,
        "post_id": context.post_id,
        "source_url": context.source_url,
    }
    return tuple((key, value) for key, value in named.items() if value is not None)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _provenance(provenance: Provenance) -> dict[str, Any]:
    if provenance.requested_url is None:
        return {"how": "uploaded", "received_at": _text(provenance.received_at)}
    return {
        "how": "fetched",
        "fetched_at": _text(provenance.received_at),
        "requested_url": provenance.requested_url,
        "redirects": list(provenance.redirects),
        "final_url": provenance.final_url,
        "resolved_address": provenance.resolved_address,
        "resolved_port": provenance.resolved_port,
        "via_proxy": provenance.via_proxy,
        "status": provenance.status,
        "headers": dict(provenance.headers),
    }


def _rendering(rendering: Rendering) -> dict[str, Any]:
    return {
        "frame": rendering.frame,
        "background": rendering.background.value,
        "pdq": rendering.pdq.hex(),
        "quality": rendering.quality,
        "phash": rendering.phash.hex(),
    }


def _match(match: Match) -> dict[str, Any]:
    return {
        "bank": match.bank,
        "bank_kind": match.kind.value,
        "action": match.action.value,
        "entry_id": match.entry_id,
        "signal": match.type.value,
        "entry_value": match.entry_value.hex(),
        "query_value": match.query_value.hex(),
        "distance": match.distance,
        "tier": match.tier.value if match.tier is not None else None,
        "threshold": match.threshold,
        "quality": (match.variant or match.rendering).quality
        if match.rendering is not None and match.type is SignalType.PDQ
        else None,
        "frame": match.rendering.frame if match.rendering is not None else None,
        "background": match.rendering.background.value if match.rendering is not None else None,
        "variant": _variant(match.variant) if match.variant is not None else None,
        "parked": match.parked,
        "suppressors": [each.entry_id for each in match.suppressors],
    }


def _variant(variant: Variant) -> dict[str, Any]:
    """What had been done to the picture that matched, as far as the search had to undo it."""
    return {
        "symmetry": variant.symmetry.value,
        "negative": variant.negative,
        "region": variant.region._asdict() if variant.region is not None else None,
    }
