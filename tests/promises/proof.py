"""The one assertion of promises 1, 5 and 6: what a run wrote, and what of it must not be there.

``search`` looks at all of it: every buffer on its way to a file, every way to a disk that is not known, every
file that was left, and all that may be read of a running gate. No finding is the proof, and a leak of any
kind is one: ``leaky.py`` leaks in a dozen ways, and each is found.
"""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select

from app.settings import StoreSettings
from app.store.database import Database
from app.store.schema import metadata
from tests.promises.canaries import Canaries
from tests.promises.tracing import NAMES, RINGS, WRITES, Call

COMPILED = r".*/__pycache__/[^/]+\.pyc(\.\d+)?"
"""Python's own; what is written there is searched all the same."""

SHARED_PLACES = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm")))  # noqa: S108 - that is where leaks go


class Finding(NamedTuple):
    """Something that must not be: a canary, or a way to a disk that nobody knew of."""

    where: str
    what: str


@dataclass(frozen=True)
class Expected:
    """What a program does on files and sockets when it does nothing but its work.

    Attributes:
        files: patterns of whole paths that it may make and write.
        mapped: patterns of whole paths that it may map to write to.
        addresses: patterns of what it may connect to.
        programs: patterns of what it may execute.
    """

    files: tuple[str, ...]
    mapped: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


@dataclass
class Seen:
    """What a trace told: enough to show that it watched.

    Attributes:
        writes: how often a file was written to.
        sent: how often something that is no file was: a socket, a pipe.
        buffers: all that was written, by thread and file, in order.
        files: what was opened to write to.
        memory_files: how many were made.
        programs: command lines of all that was executed.
        processes: ids of all threads that were watched.
    """

    writes: int = 0
    sent: int = 0
    files: set[str] = field(default_factory=set)
    memory_files: int = 0
    programs: list[tuple[bytes, ...]] = field(default_factory=list)
    processes: set[int] = field(default_factory=set)
    buffers: dict[tuple[int, str], bytearray] = field(default_factory=lambda: defaultdict(bytearray))

    def wrote(self, piece: bytes) -> bool:
        """Whether these very bytes were seen on their way to a file."""
        return any(piece in buffer for buffer in self.buffers.values())


@dataclass(frozen=True)
class Run:
    """All that one program left to be looked at.

    Attributes:
        calls: its trace.
        expected: what it may do.
        since: when it began, as ``time.time`` has it.
        surfaces: what may be read of it, by name: logs, answers, columns.
        places: folders that it may have written to.
        but: what in them is none of its own.
    """

    calls: Iterable[Call]
    expected: Expected
    since: float
    surfaces: Mapping[str, bytes] = field(default_factory=dict)
    places: tuple[Path, ...] = ()
    but: Container[Path] = ()


def search(
    run: Run, canaries: Canaries, *, released: Mapping[Path, Canaries] | None = None
) -> tuple[Seen, list[Finding]]:
    """What was seen, and what of it must not be there.

    Args:
        run: what to search.
        canaries: what must stand nowhere.
        released: folders that something else holds for.
    """

    def forbidden(file: str) -> Canaries:
        others = (each for folder, each in (released or {}).items() if Path(file).is_relative_to(folder))
        return next(others, canaries)

    seen, findings = _traced(run.calls, run.expected, canaries)
    for (_, target), buffer in seen.buffers.items():
        findings |= {
            Finding(target, f"written: {name}") for name in forbidden(target).found_in(bytes(buffer))
        }
    for name, text in run.surfaces.items():
        findings |= {Finding(name, f"told: {found}") for found in canaries.found_in(text)}
    for path in changed(run.places, run.since, run.but):
        findings |= {
            Finding(str(path), f"left: {name}") for name in forbidden(str(path)).found_in(_content(path))
        }
    return seen, sorted(findings)


def _traced(calls: Iterable[Call], expected: Expected, canaries: Canaries) -> tuple[Seen, set[Finding]]:
    seen, findings, names = Seen(), set(), bytearray()
    for call in calls:
        seen.processes.add(call.process)
        findings |= set(_ways(call, expected))
        if call.written is not None:
            seen.writes += 1
            for piece in call.strings:
                seen.buffers[call.process, call.written] += piece
        elif call.name in WRITES:
            seen.sent += 1
        elif call.name in NAMES or call.opened is not None:
            # Names of files, targets of links and attributes lie on a disk too.
            names += b"\n".join(call.strings) + b"\n"
        if call.opened is not None:
            seen.files.add(call.opened)
        seen.memory_files += call.name == "memfd_create" and not call.failed
        if call.name == "execve" and not call.failed:
            seen.programs.append(call.strings)
    return seen, findings | {
        Finding("a name", f"written: {name}") for name in canaries.found_in(bytes(names))
    }


def _ways(call: Call, expected: Expected) -> Iterator[Finding]:
    """Ways to a disk, or out of the process, that the program has no use for."""
    if call.opened is not None and not _fits(call.opened, expected.files):
        yield Finding(call.opened, "opened to write")
    if call.written is not None and not _fits(call.written, expected.files):
        yield Finding(call.written, "written")
    if call.shared_map is not None and not _fits(call.shared_map, ("/memfd:cordon-media", *expected.mapped)):
        yield Finding(call.shared_map, "mapped to write")
    if call.moved is not None:
        yield Finding(call.moved, f"{call.name} to a file")
    if call.name in RINGS and not call.failed:
        yield Finding("a ring", call.name)
    if call.name in NAMES and not call.failed:
        named = call.strings[-1].decode(errors="replace")
        if not _fits(named, expected.files):
            yield Finding(named, call.name)
    if call.spoke_to is not None and not _fits(call.spoke_to, expected.addresses):
        yield Finding(call.spoke_to, "connected")
    if call.name in {"execve", "execveat"} and not call.failed:
        program = call.strings[0].decode()
        if not _fits(program, expected.programs):
            yield Finding(program, "executed")


def _fits(found: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, found) for pattern in patterns)


def there(places: Iterable[Path]) -> frozenset[Path]:
    """What is in places that others use as well: not ours, if it was there before."""
    return frozenset(path for place in places for path in place.iterdir())


def changed(places: Iterable[Path], since: float, but: Container[Path]) -> Iterator[Path]:
    """All files in these places that were made or changed since then."""
    for place in places:
        # Files of others come and go meanwhile, and may be closed to us.
        with suppress(OSError):
            for path in sorted(place.iterdir()):
                if path in but or path.is_symlink():
                    continue
                if path.is_dir():
                    yield from changed([path], since, but)
                elif path.is_file() and max(path.stat().st_mtime, path.stat().st_ctime) >= since:
                    yield path


def _content(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


async def columns(store: StoreSettings) -> bytes:
    """Every value of every column, sealed reports included."""
    database = Database.open(store)
    try:
        async with database.connect() as connection:
            rows = [
                row for table in metadata.sorted_tables for row in await connection.execute(select(table))
            ]
    finally:
        await database.close()
    return b"\n".join(
        value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row
    )
