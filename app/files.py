"""Small files that are replaced whole: after a crash, a reader finds the old one or the new."""

import os
from pathlib import Path


def replace(path: Path, content: bytes, *, mode: int = 0o600, owner: os.stat_result | None = None) -> None:
    """Put a file in the place of one that may be there, durably. One process at a time.

    Args:
        path: in a directory that is there.
        content: all that it holds.
        mode: its permissions, whatever the umask says.
        owner: whose file's user and group it takes over, where root writes; those of this process if None.

    Raises:
        OSError: it cannot be written; what was there is there still.
    """
    partial = path.with_name(f".{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if owner is not None:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Have what was made, renamed or removed in a directory survive a crash.

    Raises:
        OSError: it does not.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
