"""The real decoders, locked: every format, with the results they give unlocked, and nothing opened."""

import io
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pillow_heif
import pytest
import pytest_asyncio
from PIL import Image

from app.hashing.lock import ALLOWED, ALLOWED_IF, REFUSED
from app.hashing.records import Forms, Limits
from app.hashing.sandbox import Sandbox
from app.hashing.scan import scan
from app.media import Reason, Rendering, Scan, Shape, VariantKind
from app.settings import HashingSettings
from tests import jail
from tests.hashing.sandboxes import told

in_module = pytest.mark.asyncio(loop_scope="module")

SETTINGS = HashingSettings(decoders=1)
DEEP = np.arange(40_000, dtype=np.uint16).reshape(200, 200)


def drawing(seed: int, *, alpha: bool = False) -> Image.Image:
    """A picture with enough structure to hash, the same for the same seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 10, 4 if alpha else 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((200, 160), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, **options: Any) -> bytes:
    with io.BytesIO() as written:
        image.save(written, **options)
        return written.getvalue()


def every_format() -> dict[str, bytes]:
    pillow_heif.register_heif_opener()
    first, *others = (drawing(seed) for seed in range(4))
    several: dict[str, Any] = {"save_all": True, "append_images": others}
    return {
        "jpeg": encoded(first, format="JPEG", quality=90),
        "jpeg, progressive, grey": encoded(first.convert("L"), format="JPEG", progressive=True),
        "jpeg, cmyk": encoded(first.convert("CMYK"), format="JPEG"),
        "png": encoded(first, format="PNG"),
        "png, alpha": encoded(drawing(0, alpha=True), format="PNG"),
        "png, palette": encoded(first.quantize(16), format="PNG"),
        "png, 16 bit": encoded(Image.fromarray(DEEP), format="PNG"),
        "png, animated": encoded(first, format="PNG", **several),
        "gif": encoded(first, format="GIF"),
        "gif, animated": encoded(first, format="GIF", **several),
        "webp": encoded(first, format="WEBP", quality=90),
        "webp, lossless, alpha": encoded(drawing(0, alpha=True), format="WEBP", lossless=True),
        "webp, animated": encoded(first, format="WEBP", **several),
        "bmp": encoded(first, format="BMP"),
        "tiff": encoded(first, format="TIFF"),
        "tiff, lzw, pages": encoded(first, format="TIFF", compression="tiff_lzw", **several),
        "tiff, deflate": encoded(first, format="TIFF", compression="tiff_adobe_deflate"),
        "tiff, jpeg": encoded(first, format="TIFF", compression="jpeg"),
        "avif": encoded(first, format="AVIF", quality=90),
        "avif, animated": encoded(first, format="AVIF", **several),
        "heic": encoded(first, format="HEIF", quality=90),
        "not a picture": b"%PDF-1.7" + bytes(100),
        "half a jpeg": encoded(first, format="JPEG")[:2_000],
    }


MEDIA = every_format()


def unlocked(content: bytes) -> Scan:
    """What the scanner says in this process."""
    limits = Limits(
        SETTINGS.max_pixels, SETTINGS.max_frames, SETTINGS.max_decode_bytes, SETTINGS.disabled_formats
    )
    shape: Shape | None = None
    renderings: list[Rendering] = []
    scanning = scan(content, limits)
    while True:
        try:
            found = next(scanning)
        except StopIteration as end:
            reason: Reason | None = end.value
            return Scan(shape, tuple(renderings), reason)
        if isinstance(found, Shape):
            shape = found
        elif isinstance(found, Rendering):
            renderings.append(found)
        elif isinstance(found, Forms):
            known = renderings[-1].variants
            variants = (*known, *found.variants(frozenset(VariantKind)))
            renderings[-1] = replace(renderings[-1], variants=variants)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SETTINGS) as running:
        yield running


@in_module
@pytest.mark.parametrize("name", MEDIA)
async def test_a_locked_decoder_finds_what_an_unlocked_one_finds(sandbox: Sandbox, name: str) -> None:
    scan = await told(sandbox, MEDIA[name])
    assert scan == unlocked(MEDIA[name])
    if name not in {"not a picture", "half a jpeg"}:
        assert scan.undecidable is None
        assert scan.renderings
    assert sum(sandbox.state.replaced.values()) == 0


@in_module
async def test_one_decoder_scans_every_format_many_times_without_growing(sandbox: Sandbox) -> None:
    for _ in range(3):
        for content in MEDIA.values():
            await told(sandbox, content)
    assert sum(sandbox.state.replaced.values()) == 0


SCAN_ALL = """
import asyncio, sys
from pathlib import Path
from app.hashing.sandbox import Sandbox
from app.settings import HashingSettings
from tests.hashing.sandboxes import told

async def main():
    async with Sandbox(HashingSettings(decoders=1)) as sandbox:
        for path in sorted(Path(sys.argv[1]).iterdir()):
            await told(sandbox, path.read_bytes())
        assert sum(sandbox.state.replaced.values()) == 0

asyncio.run(main())
"""


@pytest.mark.skipif(which("strace") is None, reason="strace is not installed")
def test_a_locked_decoder_opens_nothing_and_makes_no_call_that_would_kill(tmp_path: Path) -> None:
    """Seen from outside: what a worker asks of the kernel once its filter stands."""
    media = tmp_path / "media"
    media.mkdir()
    for number, content in enumerate(MEDIA.values()):
        (media / str(number)).write_bytes(content)
    trace = tmp_path / "trace"
    subprocess.run(
        ["strace", "-f", "-qq", "-o", str(trace), sys.executable, "-c", SCAN_ALL, str(media)],
        check=True,
        cwd=jail.ROOT,
        timeout=120,
    )
    made = _calls_after_the_lock(trace.read_text(errors="replace"))
    assert {"mmap", "recvmsg", "sendto", "clone"} <= {name for name, _ in made}, "nothing was decoded"
    for name, call in made:
        assert name in NAMED, call
        assert name not in REFUSED_CALLS or re.search(r"= -1 E[A-Z]+ ", call), call


NAMED = {*ALLOWED, *(rule.name for rule in ALLOWED_IF)}.union(*REFUSED.values())
REFUSED_CALLS = {name for names in REFUSED.values() for name in names}


def _calls_after_the_lock(trace: str) -> list[tuple[str, str]]:
    """Name and line of each call that a process with its filter loaded made, its threads' included."""
    locked: set[str] = set()
    begun: dict[str, str] = {}
    made: list[tuple[str, str]] = []
    for line in trace.splitlines():
        pid, _, call = line.partition(" ")
        call = call.strip()
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", call):
            call = begun.pop(pid) + resumed[1]
        elif call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>")
            continue
        if re.match(r"seccomp\(SECCOMP_SET_MODE_FILTER,.*= 0$", call):
            locked.add(pid)
        elif pid in locked and (name := re.match(r"(\w+)\(", call)):
            made.append((name[1], call))
            if name[1] == "clone" and (thread := re.search(r"= (\d+)$", call)):
                locked.add(thread[1])
    return made
