"""The only module that hands media onward, and only what the pipeline released."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from app.media import Disposition, Verdict
from app.pipeline import Receipt
from app.quarantine import QuarantinedMedia

CHUNK_BYTES: Final = 256 * 1024


def released_media(receipt: Receipt) -> QuarantinedMedia:
    """The medium of a receipt that released it. The caller wipes it when it has been handed on.

    Raises:
        RuntimeError: the verdict is not clear; a programming error.
    """
    if (
        receipt.released is None
        or receipt.verdict is not Verdict.CLEAR
        or receipt.disposition is not Disposition.RELEASED
    ):
        message = "only what is clear can be released"
        raise RuntimeError(message)
    return receipt.released


def chunks(media: QuarantinedMedia) -> Iterator[bytes]:
    """The very bytes that were scanned, in order."""
    for start in range(0, media.size, CHUNK_BYTES):
        yield media.read(start, CHUNK_BYTES)


def to_file(receipt: Receipt, path: Path) -> None:
    """Write a clear medium to a new file of mode 0600, whole or not at all.

    Raises:
        FileExistsError: the file is already there.
        OSError: it cannot be written.
    """
    media = released_media(receipt)
    try:
        with new_file(path) as file:
            for chunk in chunks(media):
                file.write(chunk)
    finally:
        media.wipe()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file of mode 0600 that appears under its name, whole, only if the block ends well.

    For what was released alone: ``cordon ingest --server`` writes with it what a server handed on.

    Raises:
        FileExistsError: the file is already there.
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
        # A link, unlike a rename, never replaces a file that is already there.
        os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
