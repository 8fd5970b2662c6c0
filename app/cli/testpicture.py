"""``cordon test-picture``: Cordon's EICAR. Drawn by code, the same bytes for ever, found in every test bank.

It is written as a PNG by hand: an image library might encode the same pixels differently in its next
version, and then the digests of test banks made before would no longer match.
"""

import hashlib
import struct
import sys
import zlib
from pathlib import Path
from typing import Annotated, Final

import typer

from app.cli.console import UsageError, printable, say

WIDTH: Final = 288
HEIGHT: Final = 224
SCALE: Final = 8
"""Pixels of a side of one of the letters' squares."""

PDQ: Final = "661de7a0cdb3e61b5f2740a4648d6c0fabf01b1c9f70977158581b0fa6a1e3e8"
PHASH: Final = "b80bc2f80dc7a79c"
"""Of the picture below; tests/cli holds them against the real decoder."""

# CORDON over TEST, five by seven squares a letter.
_LETTERS: Final = {
    "C": (0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110),
    "D": (0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110),
    "E": (0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111),
    "N": (0b10001, 0b11001, 0b10101, 0b10011, 0b10001, 0b10001, 0b10001),
    "O": (0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110),
    "R": (0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001),
    "S": (0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110),
    "T": (0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100),
}
_LINES: Final = (("CORDON", 8, 16), ("TEST", 56, 100))
"""What is written, and where: left and top in pixels."""

_LETTER_WIDTH: Final = 5
_LETTER_STEP: Final = _LETTER_WIDTH * SCALE + SCALE // 2


def draw() -> bytes:
    """The picture as a PNG file: 288 by 224 pixels, 8-bit grey, about 64 KB."""
    rows = b"".join(b"\x00" + bytes(_grey(x, y) for x in range(WIDTH)) for y in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(kind, content)
        for kind, content in ((b"IHDR", header), (b"IDAT", _stored(rows)), (b"IEND", b""))
    )


def signals() -> tuple[tuple[str, str], ...]:
    """Type and value of each fingerprint of the picture."""
    content = draw()
    return (
        ("pdq", PDQ),
        ("phash", PHASH),
        ("md5", hashlib.md5(content, usedforsecurity=False).hexdigest()),
        ("sha1", hashlib.sha1(content, usedforsecurity=False).hexdigest()),
        ("sha256", hashlib.sha256(content).hexdigest()),
    )


def _grey(x: int, y: int) -> int:
    """One pixel: letters on a slope of grey, with a disc that keeps the picture from being symmetric."""
    if _is_inked(x, y):
        return 20
    if (x - 30) ** 2 + (y - 170) ** 2 < 40**2:
        return 235
    return 90 + (x + 2 * y) * 120 // (WIDTH + 2 * HEIGHT)


def _is_inked(x: int, y: int) -> bool:
    for text, left, top in _LINES:
        row, column = (y - top) // SCALE, x - left
        index = column // _LETTER_STEP
        square = column % _LETTER_STEP // SCALE
        if 0 <= row < 7 and 0 <= index < len(text) and square < _LETTER_WIDTH:  # noqa: PLR2004 - squares
            return bool(_LETTERS[text[index]][row] >> (_LETTER_WIDTH - 1 - square) & 1)
    return False


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _stored(content: bytes) -> bytes:
    """A zlib stream of one stored block (RFC 1950, RFC 1951 3.2.4): nothing that a compressor chooses."""
    block = struct.pack("<BHH", 1, len(content), len(content) ^ 0xFFFF)
    return b"\x78\x01" + block + content + struct.pack(">I", zlib.adler32(content))


def write(
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A new file; stdout without it.", show_default=False)
    ] = None,
) -> None:
    """Write the test picture, a PNG that every test bank matches. It shows nothing but its name.

    To see a whole gate work without any real material: make a test bank, and hand the picture in. The report
    that comes of it says 'test: true' and can never be filed.

        cordon bank create-test
        cordon test-picture --out test.png
        cordon ingest test.png
    """
    content = draw()
    if out is None:
        if sys.stdout.isatty():
            raise UsageError("a picture is no text for a terminal: give --out FILE, or redirect stdout")
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        with out.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise UsageError(f"{printable(str(out))} exists and is not overwritten") from None
    except OSError as error:
        raise UsageError(f"{printable(str(out))} cannot be written: {error.strerror}") from None
    say(f"the test picture is in {printable(str(out))}")
