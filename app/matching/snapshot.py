"""Index files: immutable, checksummed, mapped read-only and shared by all processes that open them.

A snapshot holds all entries of one generation. It is written under another name, forced to disk and then
renamed, so under its own name it is whole or not there, and a crash leaves the last good one. Its name tells
its generation and the nonce of that, which sets it apart from snapshots of another database.

Layout: a fixed head, then sections on page boundaries, then metadata as JSON. The head holds the place and
the SHA-256 of the metadata; the metadata holds the place and the CRC-32 of each section. ``open_snapshot``
checks the first, ``Snapshot.verify`` the second. The checksums are against damage, not against someone who
can write to the directory: that is private to the service.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import mmap
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app import files
from app.entries import Entries
from app.matching.columns import Banks, Ids, is_code_kind, is_offset_kind
from app.matching.digests import DigestIndex
from app.matching.hamming import HammingIndex, bands_of, directory_slots, index_band, pack
from app.matching.index import EntryIndex, Part, count_by_bank
from app.media import SignalType

_MAGIC: Final = b"CORDONIX"
_VERSION: Final = 7
_HEAD: Final = struct.Struct("<8sIIQ32s")
_ALIGNMENT: Final = 4096
_SLOT_BYTES: Final = 4
_VERIFIED_AT_ONCE: Final = 1 << 24
_NAME: Final = re.compile(r"(\d{20})-([0-9a-f]{32})\.snapshot")
_UNFINISHED: Final = ".unfinished"
_LOCK: Final = "lock"
_BUILDER: Final = re.compile(r"process \d+ since \d\d:\d\d:\d\d UTC")
_BUILDER_BYTES: Final = 64

_DIGEST_SECTIONS: Final = {"prefixes": "<u8", "values": "|u1"}
_PERCEPTUAL_SECTIONS: Final = {"rows": "<u8", "directory": "<u4", "postings": "<u4"}


class SnapshotError(Exception):
    """A file is not a whole snapshot, or cannot be read; the message names no value of it."""


class AbandonedError(Exception):
    """The building of a snapshot was stopped."""


class Name(NamedTuple):
    """What a snapshot is of, as its file name tells."""

    generation: int
    nonce: bytes
    path: Path


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An open snapshot. The mapping lives as long as some array of the index does.

    Attributes:
        generation: all entries that were there at it are in the index.
        nonce: of that generation.
    """

    generation: int
    nonce: bytes = field(repr=False)
    path: Path
    index: EntryIndex = field(repr=False)
    _sections: tuple[tuple[NDArray[Any], int], ...] = field(repr=False)

    def verify(self) -> None:
        """Compare all of it with its checksums; blocking, about half a second for 10 million entries.

        Raises:
            SnapshotError: it is damaged.
        """
        for section, expected in self._sections:
            if _checksum(section) != expected:
                raise SnapshotError("a section does not have its checksum")


class SnapshotWriter:
    """Writes one snapshot: entries a type at a time, then ``finish``. All methods block.

    The rows of perceptual hashes go to the file as they come; what is held in memory is their ids and, for
    one type at a time, what its search is made of.
    """

    def __init__(self, directory: Path, generation: int, nonce: bytes) -> None:
        self._path = directory / _name(generation, nonce)
        self._unfinished = self._path.with_suffix(_UNFINISHED)
        self._generation = generation
        self._nonce = nonce
        self._abandoned = False
        self._types: dict[str, dict[str, dict[str, Any]]] = {}
        self._counts: Counter[tuple[int, SignalType]] = Counter()
        self._open_type: SignalType | None = None
        self._ids: list[NDArray[np.int64]] = []
        self._banks: list[NDArray[np.int64]] = []
        self._values: list[NDArray[np.uint8]] = []
        descriptor = os.open(
            self._unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        self._file = os.fdopen(descriptor, "w+b")
        self._file.write(bytes(_ALIGNMENT))
        self._section = _Section(_ALIGNMENT)

    def add(self, entries: Entries) -> None:
        """Add entries; all of one type before those of the next.

        Raises:
            AbandonedError: see ``abandon``.
            OSError: the disk is full, or fails.
        """
        self._check()
        if not len(entries):
            return
        if self._open_type is not entries.type:
            self._finish_type()
            self._open_type = entries.type
            self._section = self._begin_section()
        self._ids.append(entries.ids)
        self._banks.append(entries.banks)
        if entries.type.is_digest:
            self._values.append(entries.values)
        else:
            self._append(pack(entries.values), self._section)

    def finish(self) -> Path:
        """Complete the file, force it to disk and give it its name.

        Raises:
            AbandonedError: see ``abandon``.
            OSError: the disk is full, or fails.
        """
        self._finish_type()
        metadata = json.dumps(
            {
                "generation": self._generation,
                "nonce": self._nonce.hex(),
                "types": self._types,
                "counts": [[bank, of.value, count] for (bank, of), count in self._counts.items()],
            }
        ).encode()
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(metadata)
        self._file.seek(0)
        self._file.write(
            _HEAD.pack(_MAGIC, _VERSION, len(metadata), place, hashlib.sha256(metadata).digest())
        )
        self._file.flush()
        # A file that is cut short in place kills whoever maps it, as by copying another over it; one that
        # takes its name does not.
        os.fchmod(self._file.fileno(), 0o400)
        os.fsync(self._file.fileno())
        self._check()
        self._file.close()
        self._unfinished.rename(self._path)
        files.sync_directory(self._path.parent)
        return self._path

    def abandon(self) -> None:
        """Make whatever step runs now, or comes next, fail; from another thread too."""
        self._abandoned = True

    def discard(self) -> None:
        """Close and delete the file if it is not finished."""
        self._file.close()
        self._unfinished.unlink(missing_ok=True)

    def _check(self) -> None:
        if self._abandoned:
            raise AbandonedError

    def _finish_type(self) -> None:
        """Write all sections of the type whose entries have come, but for rows that are written."""
        of = self._open_type
        if of is None:
            return
        ids, banks = np.concatenate(self._ids), np.concatenate(self._banks)
        values = np.concatenate(self._values) if self._values else None
        self._ids, self._banks, self._values, self._open_type = [], [], [], None
        if values is not None:
            digests, order = DigestIndex.build(values)
            ids, banks = ids[order], banks[order]
            sections = {
                "prefixes": self._write_section(digests.prefixes),
                "values": self._write_section(digests.values),
            }
        else:
            sections = self._perceptual_sections(len(ids))
        packed_ids, packed_banks = Ids.of(ids), Banks.of(banks)
        self._counts.update(count_by_bank(of, packed_banks))
        self._types[of.value] = {
            **sections,
            "ids": self._write_section(packed_ids.offsets) | {"base": packed_ids.base},
            "banks": self._write_section(packed_banks.codes) | {"table": packed_banks.table.tolist()},
        }

    def _perceptual_sections(self, count: int) -> dict[str, dict[str, Any]]:
        """Index the rows that were written, a band at a time."""
        rows_section = self._section
        shape = (count, rows_section.length // 8 // count)
        bands = bands_of(*shape)
        directory = self._begin_section()
        postings = _Section(_aligned(directory.offset + directory_slots(*shape) * _SLOT_BYTES))
        self._file.flush()
        with contextlib.closing(
            mmap.mmap(
                self._file.fileno(), rows_section.length, prot=mmap.PROT_READ, offset=rows_section.offset
            )
        ) as mapping:
            rows = np.frombuffer(mapping, "<u8").reshape(shape)
            for number, band in enumerate(bands):
                self._check()
                slots, order = np.empty(band.slots, np.uint32), np.empty(count, np.uint32)
                index_band(rows, number, slots, order)
                # Each goes behind what its section has: the file ends where the last of the postings does.
                self._append(slots, directory)
                self._append(order, postings)
            # The mapping cannot be closed while an array looks at it.
            del rows
        return {
            "rows": rows_section.described(shape, "<u8"),
            "directory": directory.described((directory.length // _SLOT_BYTES,), "<u4"),
            "postings": postings.described((len(bands), count), "<u4"),
        }

    def _begin_section(self) -> "_Section":
        self._file.seek(0, os.SEEK_END)
        return _Section(_aligned(self._file.tell()))

    def _write_section(self, column: NDArray[Any]) -> dict[str, Any]:
        self._check()
        section = self._begin_section()
        self._append(column, section)
        return section.described(column.shape, column.dtype.str)

    def _append(self, column: NDArray[Any], section: "_Section") -> None:
        data = np.ascontiguousarray(column).data.cast("B") if column.size else b""
        self._file.seek(section.offset + section.length)
        self._file.write(data)
        section.length += len(data)
        section.crc32 = zlib.crc32(data, section.crc32)


@dataclass
class _Section:
    """A section while it is written."""

    offset: int
    length: int = 0
    crc32: int = 0

    def described(self, shape: tuple[int, ...], kind: str) -> dict[str, Any]:
        return {"offset": self.offset, "shape": list(shape), "kind": kind, "crc32": self.crc32}


def open_snapshot(path: Path) -> Snapshot:
    """Map a snapshot; a matter of milliseconds. Its sections are not compared with their checksums yet.

    Raises:
        SnapshotError: it is not there, is not a whole snapshot, was written by another version, or is another
            than its name says.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mapping = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise SnapshotError(f"cannot be mapped: {type(error).__name__}") from None
    try:
        return _Reader(mapping).snapshot(path)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"not a whole snapshot: {type(error).__name__}") from None


def snapshots_in(directory: Path) -> list[Name]:
    """The finished snapshots in a directory, newest generation first; none if there is no directory."""
    try:
        paths = list(directory.iterdir())
    except FileNotFoundError:
        return []
    names = [(_NAME.fullmatch(path.name), path) for path in paths]
    found = [Name(int(match[1]), bytes.fromhex(match[2]), path) for match, path in names if match]
    return sorted(found, reverse=True)


def remove_others(directory: Path, keep: Path) -> None:
    """Delete all other snapshots and what crashes left; processes that mapped one keep it.

    Only for the holder of ``building``. What cannot be deleted stays: it is in nobody's way.
    """
    for path in directory.iterdir():
        if path != keep and (_NAME.fullmatch(path.name) or path.suffix == _UNFINISHED):
            with contextlib.suppress(OSError):
                path.unlink()


def prepare(directory: Path) -> None:
    """Make the directory, for this user alone.

    Raises:
        OSError: it cannot be made.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def building(directory: Path) -> Iterator[bool]:
    """Try for the right to build in a directory, which one process has at a time; tells whether it was got.

    In a directory that is mounted read-only, as gates may mount the worker's, it never is. Whoever has it is
    told by ``builder``.
    """
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        descriptor = None
    if descriptor is None:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            # A disk that is full is no reason not to look for a snapshot.
            with contextlib.suppress(OSError):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} since {datetime.now(UTC):%H:%M:%S} UTC".encode())
            yield True
    finally:
        os.close(descriptor)


def builder(directory: Path) -> str | None:
    """Who has the right to build in a directory, and since when: for operators. None if nobody has it.

    A process that hangs while it has it keeps all others from building.
    """
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        said = _BUILDER.fullmatch(os.read(descriptor, _BUILDER_BYTES).decode(errors="replace"))
        return said[0] if said else "a process that does not say which"
    else:
        return None
    finally:
        os.close(descriptor)


class _Reader:
    """Reads the parts of a mapped file."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self._sections: list[tuple[NDArray[Any], int]] = []

    def snapshot(self, path: Path) -> Snapshot:
        magic, version, length, place, digest = _HEAD.unpack_from(self._mapping)
        metadata = self._mapping[place : place + length]
        if magic != _MAGIC or version != _VERSION:
            raise SnapshotError("written by another version")
        if place + length != len(self._mapping) or hashlib.sha256(metadata).digest() != digest:
            raise SnapshotError("its metadata does not have its checksum")
        said = json.loads(metadata)
        parts = {
            SignalType(of): self._part(SignalType(of), sections) for of, sections in said["types"].items()
        }
        index = EntryIndex(
            parts, {(int(bank), SignalType(of)): int(count) for bank, of, count in said["counts"]}
        )
        generation, nonce = int(said["generation"]), bytes.fromhex(said["nonce"])
        if path.name != _name(generation, nonce):
            raise SnapshotError("it is of another generation than its name says")
        return Snapshot(generation, nonce, path, index, tuple(self._sections))

    def _part(self, of: SignalType, sections: Mapping[str, Mapping[str, Any]]) -> Part:
        kinds = _DIGEST_SECTIONS if of.is_digest else _PERCEPTUAL_SECTIONS
        columns = {name: self._column(sections[name]) for name in (*kinds, "ids", "banks")}
        count = len(columns["ids"])
        search: DigestIndex | HammingIndex
        shapes: dict[str, tuple[int, ...]] = {"banks": (count,)}
        if of.is_digest:
            shapes |= {"prefixes": (count,), "values": (count, of.size_bytes)}
            search = DigestIndex(columns["prefixes"], columns["values"])
        else:
            words = of.size_bytes // 8
            shapes |= {
                "rows": (count, words),
                "directory": (directory_slots(count, words),),
                "postings": (len(bands_of(count, words)), count),
            }
            search = HammingIndex(columns["rows"], columns["directory"], columns["postings"])
        fitting = (
            all(columns[name].shape == shape for name, shape in shapes.items())
            and all(columns[name].dtype.str == kind for name, kind in kinds.items())
            and is_offset_kind(columns["ids"].dtype.str)
            and is_code_kind(columns["banks"].dtype.str)
        )
        if not fitting:
            raise SnapshotError("its sections do not fit together")
        return Part(
            search,
            Ids(int(sections["ids"]["base"]), columns["ids"]),
            Banks(np.array(sections["banks"]["table"], np.int64), columns["banks"]),
        )

    def _column(self, section: Mapping[str, Any]) -> NDArray[Any]:
        shape = tuple(int(length) for length in section["shape"])
        column = np.frombuffer(
            self._mapping, section["kind"], count=math.prod(shape), offset=section["offset"]
        ).reshape(shape)
        self._sections.append((column, section["crc32"]))
        return column


def _name(generation: int, nonce: bytes) -> str:
    return f"{generation:020d}-{nonce.hex()}.snapshot"


def _aligned(place: int) -> int:
    """The first page boundary from a place on."""
    return place + -place % _ALIGNMENT


def _checksum(column: NDArray[Any]) -> int:
    if not column.size:
        return 0
    data = column.data.cast("B")
    checksum = 0
    for begin in range(0, len(data), _VERIFIED_AT_ONCE):
        checksum = zlib.crc32(data[begin : begin + _VERIFIED_AT_ONCE], checksum)
    return checksum
