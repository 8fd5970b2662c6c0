"""Where ``cordon ingest --save`` puts clear media: new files of mode 0600 under harmless names."""

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from app.cli.console import UsageError, printable
from app.cli.sources import Kind, Source

_MAX_STEM_BYTES: Final = 150

_UNSAFE: Final = re.compile(r"[^\w.-]+")

_EXTENSIONS: Final = {
    "jpeg": ("jpg", "jpeg", "jpe", "jfif"),
    "tiff": ("tif", "tiff"),
    "heic": ("heic", "heif"),
    "mpeg": ("mpg", "mpeg"),
    "mpeg-ts": ("ts", "m2ts", "mts"),
    "mp4": ("mp4", "m4v"),
    "ogg": ("ogv", "ogg"),
}
"""By format, the first being the one that is given to a file that has none of them."""


class SaveDirectory:
    """A directory that clear media are written to. No file in it is ever replaced.

    Raises:
        UsageError: it is not there and cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--save {printable(str(directory))}: {error.strerror}") from None
        self._directory = directory
        self._taken: set[str] = set()

    def choose(self, source: Source, ingest_id: str, told_format: str) -> Path:
        """A path where nothing is yet, named like the source and ending as its bytes say it must."""
        stem, extension = safe_name(source, ingest_id, told_format)
        number = 1
        while True:
            name = f"{stem}.{extension}" if number == 1 else f"{stem}-{number}.{extension}"
            path = self._directory / name
            if name not in self._taken and not path.is_symlink() and not path.exists():
                self._taken.add(name)
                return path
            number += 1


def safe_name(source: Source, ingest_id: str, told_format: str) -> tuple[str, str]:
    """Stem and extension for a saved medium; the ingest's id if the source has no name to keep."""
    extensions = _EXTENSIONS.get(told_format, (told_format,))
    name = _UNSAFE.sub("_", _base_name(source)).lstrip(".")
    stem, dot, extension = name.rpartition(".")
    if not dot:
        stem, extension = name, ""
    if extension.lower() not in extensions:
        # A short ending is taken for a wrong extension, a long one for a part of the name.
        stem = stem if dot and extension.isalnum() and len(extension) <= len("jpeg") else name
        extension = extensions[0]
    stem = stem.encode()[:_MAX_STEM_BYTES].decode("utf-8", "ignore").strip("._-")
    return stem or ingest_id, extension


def _base_name(source: Source) -> str:
    if source.kind is Kind.FILE:
        return source.path.name
    if source.kind is Kind.URL:
        try:
            return unquote(urlsplit(source.name).path).rpartition("/")[2]
        except ValueError:
            return ""
    return ""
