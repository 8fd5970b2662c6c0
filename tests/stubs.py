"""Stubs of drawn-up matches, full of canaries: words that must stand nowhere in the clear."""

import hashlib
from datetime import UTC, datetime

from app.context import Context
from app.media import (
    Background,
    BankAction,
    BankKind,
    Digests,
    Match,
    Provenance,
    Rendering,
    Shape,
    Signals,
    SignalType,
)
from app.report.draft import Stub, draft

URL = "https://canary-host.example/canary-path/picture.png?token=canary-query"
ACCOUNT = "canary-account"
ADDRESS = "203.0.113.77"
IDEMPOTENCY_KEY = "canary-idempotency-key"
HEADER = "canary-etag"


def digests_of(medium: str) -> Digests:
    """The digests of a pretended medium."""
    content = medium.encode()
    return Digests(
        hashlib.md5(content, usedforsecurity=False).digest(),
        hashlib.sha1(content, usedforsecurity=False).digest(),
        hashlib.sha256(content).digest(),
    )


def perceptual_of(medium: str) -> Rendering:
    """A pretended rendering's hashes."""
    return Rendering(0, Background.NONE, hashlib.sha256(b"pdq" + medium.encode()).digest(), 100, b"canaryPH")


def stub(
    medium: str = "a",
    *,
    url: str | None = URL,
    context: Context | None = None,
    kind: BankKind = BankKind.CSAM,
    key_id: str | None = "01JKEY",
    idempotency_key: str | None = None,
    matches: tuple[Match, ...] | None = None,
) -> Stub:
    """The stub of a medium that matched by SHA-256 and by PDQ: fetched from ``url``, or uploaded if None.

    It matched otherwise where ``matches`` says so.
    """
    digests, rendering = digests_of(medium), perceptual_of(medium)
    by_both = tuple(
        Match(
            bank="canary-bank",
            kind=kind,
            action=BankAction.REPORT,
            entry_id=7,
            type=type_,
            entry_value=value,
            query_value=value,
            distance=0,
            threshold=threshold,
            rendering=seen,
        )
        for type_, value, threshold, seen in (
            (SignalType.SHA256, digests.sha256, 0, None),
            (SignalType.PDQ, rendering.pdq, 31, rendering),
        )
    )
    now = datetime.now(UTC)
    fetched = Provenance(
        received_at=now,
        requested_url=url,
        final_url=url,
        resolved_address=ADDRESS,
        resolved_port=443,
        status=200,
        headers=(("etag", HEADER),),
    )
    return draft(
        submission_id="01JINGEST",
        entrance="http",
        key_id=key_id,
        context=context if context is not None else Context(account_name=ACCOUNT),
        idempotency_key=idempotency_key,
        provenance=fetched if url is not None else Provenance(received_at=now),
        size=1234,
        shape=Shape("image", "png", 640, 480, 1),
        signals=Signals(digests, (rendering,)),
        matches=by_both if matches is None else matches,
    )


def canaries(medium: str = "a") -> list[bytes]:
    """What a sealed report of ``stub(medium)`` must hide: text, and hashes raw and in hex of either case."""
    digests, rendering = digests_of(medium), perceptual_of(medium)
    hashes = [digests.md5, digests.sha1, digests.sha256, rendering.pdq, rendering.phash]
    texts = [URL, "canary-host", "canary-path", "canary-query", ACCOUNT, ADDRESS, IDEMPOTENCY_KEY, HEADER]
    return (
        [text.encode() for text in texts]
        + hashes
        + [value.hex().encode() for value in hashes]
        + [value.hex().upper().encode() for value in hashes]
    )
