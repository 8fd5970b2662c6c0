"""What ``cordon ingest`` is to take in: paths, URLs and standard input, named one by one or in a list.

Everything is looked at before anything is ingested, so that a typo costs nothing.
"""

import asyncio
import contextlib
import csv
import io
import json
import os
import re
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from app.cli.console import UsageError, printable
from app.context import Context, parse_context
from app.errors import InvalidContextError

STANDARD_INPUT: Final = "-"
CHUNK_BYTES: Final = 256 * 1024

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_TAG_SEPARATOR: Final = ";"


class Kind(StrEnum):
    """Where the bytes of a source come from."""

    FILE = "file"
    URL = "url"
    STANDARD_INPUT = "standard input"


class ListFormat(StrEnum):
    """How a list of sources is written."""

    LINES = "lines"
    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True)
class Source:
    """One medium to take in.

    Attributes:
        line: its line in the list, or its place among the sources; 1-based.
        name: as it was given, or the path below the directory that was.
    """

    line: int
    name: str = field(repr=False)
    kind: Kind
    context: Context = field(default_factory=Context)

    @property
    def path(self) -> Path:
        """The file, if it is one."""
        return Path(self.name)


def named(arguments: Sequence[str]) -> list[Source]:
    """The sources that were named on the command line, directories expanded to their files.

    Raises:
        UsageError: one does not exist, or is neither a file, a directory, a URL nor ``-``.
    """
    if arguments.count(STANDARD_INPUT) > 1:
        raise UsageError("'-' stands for standard input, which can be read only once")
    expanded = [found for argument in arguments for found in _expand(argument)]
    return [Source(line, name, kind) for line, (name, kind) in enumerate(expanded, 1)]


def listed(file: BinaryIO, written_as: ListFormat) -> list[Source]:
    """The sources of a list, each with the context that stands beside it.

    Raises:
        UsageError: a line is bad, named by its number, or a file of the list does not exist.
    """
    # Names of files need not be UTF-8; the same bytes come out again when they are opened.
    try:
        text = file.read().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UsageError(f"the list cannot be read: {error.strerror}") from None
    read = {ListFormat.LINES: _read_lines, ListFormat.JSONL: _read_jsonl, ListFormat.CSV: _read_csv}
    sources = []
    for line, name, only_url, untrusted_context in read[written_as](text):
        try:
            context = parse_context(untrusted_context)
            sources += [
                Source(line, found, kind, context) for found, kind in _expand_listed(name, only_url=only_url)
            ]
        except (UsageError, InvalidContextError) as error:
            raise UsageError(f"line {line} of the list: {error}") from None
    return sources


@contextlib.contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """The bytes of a file or of standard input.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    if source.kind is Kind.STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    with open_file(source.path) as file:
        yield file


async def chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """A file's bytes to its end. A pipe is waited for without a thread, which an interrupt could not end.

    Raises:
        OSError: it cannot be read.
    """
    mode = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        while untrusted_chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield untrusted_chunk
        return
    reader = asyncio.StreamReader(limit=CHUNK_BYTES)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    try:
        while untrusted_chunk := await reader.read(CHUNK_BYTES):
            yield untrusted_chunk
    finally:
        pipe.close()


def open_file(path: Path) -> BinaryIO:
    """Open a file to read a medium from; never a pipe or a device, which might never end.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        message = "not a plain file"
        raise OSError(0, message)
    return os.fdopen(descriptor, "rb", buffering=0)


def _expand_listed(name: str, *, only_url: bool) -> Iterator[tuple[str, Kind]]:
    if name == STANDARD_INPUT:
        raise UsageError("'-' has no meaning in a list")
    if only_url and not _URL.match(name):
        raise UsageError("'url' holds no URL; write paths under 'source'")
    yield from _expand(name)


def _expand(name: str) -> Iterator[tuple[str, Kind]]:
    if name == STANDARD_INPUT:
        if sys.stdin.isatty():
            raise UsageError("'-' reads a medium from standard input, and that is this terminal: pipe it in")
        yield name, Kind.STANDARD_INPUT
        return
    if _URL.match(name):
        yield name, Kind.URL
        return
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a path"
        raise UsageError(f"{printable(name)}: {why}") from None
    if stat.S_ISDIR(mode):
        yield from ((str(path), Kind.FILE) for path in _files_below(Path(name)))
    elif stat.S_ISREG(mode):
        yield name, Kind.FILE
    else:
        raise UsageError(f"{printable(name)}: neither a file nor a directory; pipe media in with '-'")


def _files_below(directory: Path) -> list[Path]:
    """All files in a directory and those below it, sorted. Links to directories are not followed.

    What is no plain file, such a link among them, stays in and fails where it is read: to leave it out
    would call a data set clean that was not wholly looked at.
    """

    def fail(error: OSError) -> None:
        raise UsageError(f"{printable(str(error.filename))}: {error.strerror}")

    files = []
    for folder, subfolders, names in os.walk(directory, onerror=fail):
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        files += [Path(folder, name) for name in (*names, *links)]
    return sorted(files)


_Entry = tuple[int, str, bool, object]
"""Line, name, whether only a URL will do, context as it was written."""


def _read_lines(text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        name = line.removesuffix("\r")
        if name.strip() and not name.startswith("#"):
            yield number, name, False, None


def _read_jsonl(text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            untrusted = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"line {number} of the list: not valid JSON") from None
        if not isinstance(untrusted, dict) or not {"url", "source", "context"}.issuperset(untrusted):
            raise UsageError(f'line {number} of the list: write {{"url": "...", "context": {{...}}}}')
        name, only_url = _name_of(number, untrusted.get("url"), untrusted.get("source"))
        yield number, name, only_url, untrusted.get("context")


def _read_csv(text: str) -> Iterator[_Entry]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    known = {"url", "source", *Context.model_fields}
    try:
        columns = [column.strip() for column in reader.fieldnames or ()]
        if not {"url", "source"}.intersection(columns):
            raise UsageError("line 1 of the list: the header needs a column 'url' or 'source'")
        unknown = sorted(set(columns) - known)
        if unknown or len(set(columns)) < len(columns):
            told = f"unknown column '{printable(unknown[0])}'" if unknown else "a column stands there twice"
            raise UsageError(f"line 1 of the list: {told}; known are {', '.join(sorted(known))}")
        reader.fieldnames = columns
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"line {reader.line_num} of the list: not as many fields as the header")
            given = {column: value for column, value in row.items() if value}
            name, only_url = _name_of(reader.line_num, given.pop("url", None), given.pop("source", None))
            context: dict[str, object] = dict(given)
            if "tags" in given:
                context["tags"] = [tag.strip() for tag in given["tags"].split(_TAG_SEPARATOR) if tag.strip()]
            yield reader.line_num, name, only_url, context
    except csv.Error as error:
        raise UsageError(f"line {reader.line_num + 1} of the list: {error}") from None


def _name_of(line: int, url: object, source: object) -> tuple[str, bool]:
    """What one entry names; a URL that was scraped from somewhere must never be taken for a path."""
    name = url if source is None else source
    if not isinstance(name, str) or not name or (url is not None and source is not None):
        raise UsageError(f"line {line} of the list: name one 'url' or one 'source'")
    return name, url is not None
