"""Sandboxes whose decoders do what they are told (``decoys``), and media to tell them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.hashing.sandbox import Sandbox
from app.media import Scan
from app.quarantine import Quarantine, QuarantinedMedia
from app.settings import HashingSettings

QUARANTINE = Quarantine(256 * 1024 * 1024)


def medium(content: str | bytes) -> QuarantinedMedia:
    """A whole medium, to be wiped by who asked for it."""
    untrusted = content if isinstance(content, bytes) else content.encode() + b"\n"
    media = QUARANTINE.admit(max_bytes=QUARANTINE.budget_bytes, max_video_bytes=QUARANTINE.budget_bytes)
    media.write(untrusted)
    media.finish()
    return media


@asynccontextmanager
async def decoy_sandbox(**settings: object) -> AsyncIterator[Sandbox]:
    """A running sandbox of one decoder, if not told otherwise, that runs the decoys."""
    chosen = HashingSettings.model_validate({"decoders": 1, "decode_seconds": 5} | settings)
    async with Sandbox(chosen, scanner="tests.hashing.decoys") as sandbox:
        yield sandbox


async def told(sandbox: Sandbox, content: str | bytes) -> Scan:
    """What comes of one medium."""
    with medium(content) as media:
        return await sandbox.scan(media)
