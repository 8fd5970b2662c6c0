"""The fingerprints of files for ``cordon bank hash``, decoded as every medium is: in a locked process."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.cli.console import UsageError, emit_json, emit_table, printable, say
from app.cli.sources import Kind, Source, chunks, named, opened
from app.cli.state import read_settings
from app.errors import CordonError
from app.hashing.sandbox import Sandbox
from app.kernel import harden_this_process
from app.media import PDQ_MINIMUM_QUALITY, Digests, Scan, SignalType
from app.quarantine import Quarantine
from app.settings import IntakeSettings


@dataclass(frozen=True)
class Fingerprint:
    """One signal of one file.

    Attributes:
        value: hex digits.
        quality: of a pdq, 50 to 100; None for other types.
        frame: 0-based; None for digests.
    """

    source: str
    type: SignalType
    value: str = field(repr=False)
    quality: int | None = None
    frame: int | None = None


def hash_files(files: list[str], *, all_frames: bool, types: frozenset[SignalType], as_json: bool) -> int:
    """Print the fingerprints of all files; the exit code is 1 if one could not be read, or gave none.

    Raises:
        UsageError: a file does not exist, or is a URL.
    """
    sources = named(files)
    if any(source.kind is Kind.URL for source in sources):
        raise UsageError("'bank hash' takes files; hand URLs to 'cordon ingest'")
    return asyncio.run(_hash_files(sources, all_frames=all_frames, types=types, as_json=as_json))


async def _hash_files(
    sources: list[Source], *, all_frames: bool, types: frozenset[SignalType], as_json: bool
) -> int:
    settings = read_settings()
    harden_this_process()
    quarantine = Quarantine(settings.intake.inflight_bytes)
    failed = False
    rows: list[tuple[str, str, str, str]] = []
    async with Sandbox(settings.hashing) as sandbox:
        for source in sources:
            try:
                digests, scan = await _scan(source, quarantine, settings.intake, sandbox)
            except (CordonError, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                say(f"{printable(source.name)}: {why}")
                failed = True
                continue
            told = [
                each for each in _fingerprints(source.name, digests, scan, all_frames) if each.type in types
            ]
            _warn(source.name, scan, types, all_frames=all_frames)
            failed = failed or not told
            for each in told:
                if as_json:
                    emit_json(_document(each, all_frames=all_frames))
                quality = "" if each.quality is None else str(each.quality)
                rows.append((each.type.value, each.value, quality, printable(each.source)))
    if not as_json:
        emit_table(("type", "value", "quality", "source"), rows)
    return 1 if failed else 0


async def _scan(
    source: Source, quarantine: Quarantine, intake: IntakeSettings, sandbox: Sandbox
) -> tuple[Digests, Scan]:
    with (
        opened(source) as file,
        quarantine.admit(max_bytes=intake.max_bytes, max_video_bytes=intake.max_video_bytes) as media,
    ):
        async for untrusted_chunk in chunks(file):
            media.write(untrusted_chunk)
        media.finish()
        return media.digests, await sandbox.scan(media, frozenset())


def _fingerprints(source: str, digests: Digests, scan: Scan, all_frames: bool) -> Iterator[Fingerprint]:
    """In the order of the contract, each value once."""
    yield Fingerprint(source, SignalType.MD5, digests.md5.hex())
    yield Fingerprint(source, SignalType.SHA1, digests.sha1.hex())
    yield Fingerprint(source, SignalType.SHA256, digests.sha256.hex())
    seen: set[tuple[SignalType, bytes]] = set()
    for rendering in scan.renderings if all_frames else scan.renderings[:1]:
        if rendering.quality >= PDQ_MINIMUM_QUALITY and (SignalType.PDQ, rendering.pdq) not in seen:
            seen.add((SignalType.PDQ, rendering.pdq))
            yield Fingerprint(source, SignalType.PDQ, rendering.pdq.hex(), rendering.quality, rendering.frame)
        if (SignalType.PHASH, rendering.phash) not in seen:
            seen.add((SignalType.PHASH, rendering.phash))
            yield Fingerprint(source, SignalType.PHASH, rendering.phash.hex(), frame=rendering.frame)


def _warn(source: str, scan: Scan, types: frozenset[SignalType], *, all_frames: bool) -> None:
    """Say what is left out, and why."""
    if types <= {SignalType.MD5, SignalType.SHA1, SignalType.SHA256}:
        return
    if scan.undecidable is not None:
        say(f"warning: {printable(source)}: not fully hashed: {scan.undecidable.value}")
    looked_at = scan.renderings if all_frames else scan.renderings[:1]
    low = [each.quality for each in looked_at if each.quality < PDQ_MINIMUM_QUALITY]
    if low and SignalType.PDQ in types:
        say(
            f"warning: {printable(source)}: no pdq for {len(low)} of {len(looked_at)} frames: quality "
            f"{max(low)} is under {PDQ_MINIMUM_QUALITY}"
        )


def _document(each: Fingerprint, *, all_frames: bool) -> dict[str, object]:
    document: dict[str, object] = {
        "source": each.source,
        "type": each.type.value,
        "value": each.value,
        "quality": each.quality,
    }
    return document | ({"frame": each.frame} if all_frames and each.frame is not None else {})
