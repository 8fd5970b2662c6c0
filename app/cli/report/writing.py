"""New files of mode 0600: what they hold was sealed."""

import os
from pathlib import Path

from app.cli.console import FailedError, UsageError, printable


def write_new(path: Path, content: bytes) -> None:
    """Write a file that was not there, for its owner's eyes alone.

    Raises:
        UsageError: there is one already, which is not overwritten, or none can be made there, or it is called
            ``-``: who writes that means standard output, and would not look for such a file again.
        FailedError: it could not be written whole; none is left.
    """
    if path == Path("-"):
        raise UsageError("--out names a new file; nothing is written to standard output")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{printable(str(path))} exists and is not overwritten") from None
    except OSError as error:
        raise UsageError(f"{printable(str(path))} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise FailedError(f"{printable(str(path))} cannot be written: {error.strerror}") from None
