"""A match in what could be scanned is a match, whatever comes after it; and digests need no decoder."""

import hashlib
from collections.abc import Callable, Mapping

import pytest
from PIL import Image

from tests.gates import RunningGate, fill_bank, wait_for
from tests.hostile import media
from tests.hostile.attack import send
from tests.hostile.media import HEIGHT, WIDTH, encoded, picture

FIRST, UNKNOWN, SECOND = (picture(seed).quantize(64).convert("RGB") for seed in (11, 12, 13))
"""Of so few colours that a GIF holds them all."""


def _several(first: Image.Image, encoding: str, **options: object) -> bytes:
    return encoded(first, encoding, save_all=True, append_images=[SECOND.copy()], **options)


def _damaged(chunk: bytes) -> bytes:
    """A chunk of a lossless WebP with its header whole, and nonsense for pixels."""
    return chunk[:13] + b"\xff" * (len(chunk) - 13)


def _png_frames(first: Image.Image, frames: list[bytes]) -> bytes:
    return media.apng(frames, len(frames) + 1, first=encoded(first, "PNG"))


def _gif_frames(first: Image.Image, *frames: bytes) -> bytes:
    return encoded(first, "GIF")[:-1] + b"".join(frames) + b";"


def _webp_frames(first: Image.Image, frames: list[bytes]) -> bytes:
    return media.riff(
        media.webp_canvas(WIDTH, HEIGHT, 2),
        (b"ANIM", bytes(6)),
        media.webp_frame(encoded(first, "WEBP", lossless=True)[12:], WIDTH, HEIGHT),
        *[media.webp_frame(frame, 8, 8) for frame in frames],
    )


def _tiff_pages(first: Image.Image, count: int) -> bytes:
    pixels = first.convert("L").tobytes()
    pages = [media.page(WIDTH, HEIGHT, count=len(pixels)), *[media.page(4, 4, count=16)] * count]
    return media.tiff(pixels, *pages)


ANIMATIONS: Mapping[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "gif, 600 frames": ("too_many_frames", lambda first: _gif_frames(first, media.gif_frame() * 600)),
    "png, 600 frames": ("too_many_frames", lambda first: _png_frames(first, [media.DOT] * 600)),
    "webp, 600 frames": (
        "too_many_frames",
        lambda first: _webp_frames(first, [media.webp_chunk(8, 8)] * 600),
    ),
    "tiff, 600 pages": ("too_many_frames", lambda first: _tiff_pages(first, 600)),
    "gif, cut off": ("corrupt", lambda first: _several(first, "GIF")[:-500]),
    "tiff, cut off": ("corrupt", lambda first: _several(first, "TIFF")[:-10_000]),
    "jpeg, several, cut off": ("corrupt", lambda first: _several(first, "MPO")[:-500]),
    "heic, several, cut off": ("corrupt", lambda first: _several(first, "HEIF", quality=90)[:-50]),
    "png, a later frame damaged": (
        "corrupt",
        lambda first: _png_frames(first, [media.DOT, b"\xff" * 20]),
    ),
    "webp, a later frame damaged": (
        "corrupt",
        lambda first: _webp_frames(first, [_damaged(media.webp_chunk(8, 8))]),
    ),
}


@pytest.fixture(scope="session")
def filled(gate: RunningGate) -> RunningGate:
    """The gate, with the first picture's PDQ in a bank."""
    fill_bank(gate, "first-frames", encoded(FIRST, "PNG"))
    return gate


@pytest.mark.parametrize("name", ANIMATIONS)
def test_a_match_in_a_first_frame_is_a_match_whatever_follows(filled: RunningGate, name: str) -> None:
    """By PDQ: the files' digests are in no bank. Without the match, the reason stands."""
    reason, build = ANIMATIONS[name]
    assert send(filled.client(), build(FIRST)).told == "match"
    assert send(filled.client(), build(UNKNOWN)).told == reason


def test_known_bytes_are_a_match_even_where_nothing_can_be_decoded(gate: RunningGate) -> None:
    """Too long, cut off, too large, of a format that is refused, a single byte."""
    known = [
        _gif_frames(SECOND, media.gif_frame() * 600),
        encoded(SECOND, "JPEG")[:-500],
        media.png(100_000, 100_000, media.chunk(b"IDAT")),
        b"%PDF-1.7\n%%EOF",
        b"\x07",
    ]
    assert {send(gate.client(), content).answer["verdict"] for content in known} == {"undecidable"}
    bank = gate.client("bank")
    bank.put("/v1/banks/digests", json={"kind": "csam", "action": "report"}).raise_for_status()
    signals = [{"type": "sha256", "value": hashlib.sha256(content).hexdigest()} for content in known]
    bank.post("/v1/banks/digests/signals", json={"signals": signals}).raise_for_status()
    wait_for(lambda: send(gate.client(), known[-1]).told == "match")
    assert {send(gate.client(), content).told for content in known} == {"match"}
