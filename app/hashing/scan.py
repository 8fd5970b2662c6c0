"""One untrusted medium → its shape and the hashes of its renderings, inside the locked child process.

``scan`` is a generator: the process around it forwards what it yields, and resumes it after ``Need`` only
when the memory it asks for was granted.
"""

import mmap
from collections.abc import Generator
from dataclasses import dataclass

from app.media import Reason, Rendering, Shape


@dataclass(frozen=True)
class Limits:
    """What one medium may ask of the decoder.

    Attributes:
        max_pixels: largest width times height of any frame.
        max_frames: most frames or pages.
        max_decode_bytes: most memory that decoding may take.
        disabled_formats: names of formats that are never decoded.
    """

    max_pixels: int
    max_frames: int
    max_decode_bytes: int
    disabled_formats: frozenset[str]


@dataclass(frozen=True)
class Need:
    """Memory, in bytes, that decoding, converting and hashing are going to take at their peak."""

    bytes: int


def scan(
    untrusted: mmap.mmap | bytes, limits: Limits
) -> Generator[Shape | Need | Rendering, None, Reason | None]:
    """Hash every rendering of a medium.

    Args:
        untrusted: all of its bytes.
        limits: what it may ask of the decoder.

    Yields:
        Its shape once, then the memory it needs, then, once resumed, its renderings in order.

    Returns:
        None if it was fully scanned, else the reason; what was yielded so far stays valid.
    """
    yield from ()
    if not len(untrusted):
        return Reason.EMPTY
    del limits
    return Reason.UNSUPPORTED_FORMAT


def preload() -> None:
    """Import every plugin and warm every decoder, so that nothing is imported or opened afterwards."""
