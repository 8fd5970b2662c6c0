"""The quarantine: media in RAM, bounded, counted, and overwritten when done.

Each medium lives in one anonymous memory file (``memfd_create``) that only Cordon's processes can see.
Bytes enter it through a memory map, never through ``write``. Its digests are computed on this trusting side,
as the bytes arrive or when they are asked for, so a decoder that was taken over cannot hide an exact match.

It does not promise that no copy stays in RAM: the interpreter, libraries and the kernel make their own.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import weakref
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Final, Self

from app import formats
from app.errors import OverloadedError, TooLargeError
from app.media import DIGEST_TYPES, Digests, SignalType

HEAD_BYTES: Final = 4096
"""How many leading bytes may tell that a medium is a video."""

_FIRST_CAPACITY: Final = 256 * 1024
_WIPE_BLOCK: Final = memoryview(bytes(1024 * 1024))

_MADV_POPULATE_WRITE: Final = 23  # linux/mman.h

# linux/fcntl.h; FUTURE_WRITE keeps this process's writable map, so that it can still overwrite the bytes.
_F_ADD_SEALS: Final = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW, _F_SEAL_FUTURE_WRITE = 0x1, 0x2, 0x4, 0x10


class Quarantine:
    """The budget of bytes that all media held at once may take."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes: Final = budget_bytes
        self.reserved_bytes = 0
        self.held_media = 0

    def admit(
        self,
        *,
        max_bytes: int,
        max_video_bytes: int,
        expected_bytes: int | None = None,
        digests: AbstractSet[SignalType] = DIGEST_TYPES,
    ) -> "QuarantinedMedia":
        """Make room for one medium before its first byte is read.

        Args:
            max_bytes: most bytes it may have.
            max_video_bytes: the same if its first bytes say that it is a video.
            expected_bytes: how many its sender promises, if known.
            digests: which are to be computed as the bytes arrive; the others are when they are asked for.

        Raises:
            TooLargeError: more is promised than any medium may have.
            OverloadedError: the budget is spent.
        """
        largest = self.largest(max_bytes, max_video_bytes)
        if expected_bytes is not None and expected_bytes > largest:
            raise TooLargeError(largest)
        return QuarantinedMedia(self, max_bytes, max_video_bytes, expected_bytes, digests)

    def largest(self, max_bytes: int, max_video_bytes: int) -> int:
        """Most bytes that any medium under these limits may have."""
        return min(max(max_bytes, max_video_bytes), self.budget_bytes)

    def reserve(self, count: int) -> None:
        """Take ``count`` bytes from the budget.

        Raises:
            OverloadedError: the budget is spent.
        """
        if self.reserved_bytes + count > self.budget_bytes:
            raise OverloadedError("the budget of bytes in flight is spent; see CORDON_MAX_INFLIGHT_BYTES")
        self.reserved_bytes += count

    def give_back(self, count: int) -> None:
        """Return ``count`` bytes to the budget."""
        self.reserved_bytes -= count


class QuarantinedMedia:
    """One medium in RAM, from its first byte until it is overwritten.

    Attributes:
        size: bytes received so far.
    """

    def __init__(
        self,
        quarantine: Quarantine,
        max_bytes: int,
        max_video_bytes: int,
        expected_bytes: int | None,
        digests: AbstractSet[SignalType],
    ) -> None:
        self._quarantine = quarantine
        # What would fill the whole budget alone is too large, not a matter of waiting.
        self._limit = min(max_bytes, quarantine.budget_bytes)
        self._video_limit = min(max_video_bytes, quarantine.budget_bytes)
        self._promised = 0
        self.size = 0
        self._sealed = False
        capacity = max(expected_bytes if expected_bytes is not None else _FIRST_CAPACITY, 1)
        capacity = min(capacity, quarantine.budget_bytes)
        quarantine.reserve(capacity)
        try:
            self._memory = _Memory(capacity)
        except OSError as error:
            quarantine.give_back(capacity)
            raise OverloadedError(f"no memory for a medium: {error.strerror}") from None
        self._capacity = capacity
        quarantine.held_media += 1
        self._hashes = {of: _new_hash(of) for of in digests}
        # A safety net for a medium that is dropped without being wiped; wipe() is the rule.
        self._finalizer = weakref.finalize(self, _return, quarantine, self._memory)

    def __repr__(self) -> str:
        return "<QuarantinedMedia>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wipe()

    def expect(self, untrusted_count: int) -> None:
        """Check how many bytes are promised before they are read.

        It reserves nothing: a promise is free, and a host that only promises must not hold memory.

        Raises:
            TooLargeError: no medium may have as many.
            OverloadedError: the budget could not hold them now.
        """
        largest = self._quarantine.largest(self._limit, self._video_limit)
        if untrusted_count > largest:
            raise TooLargeError(largest)
        missing = max(0, untrusted_count - self._capacity)
        self._quarantine.reserve(missing)
        self._quarantine.give_back(missing)
        self._promised = untrusted_count

    def write(self, untrusted_chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes as they arrive.

        Raises:
            TooLargeError: the medium has more bytes than it may.
            OverloadedError: the budget is spent.
        """
        if self._sealed:
            message = "the medium is already whole"
            raise RuntimeError(message)
        count = len(untrusted_chunk)
        end = self.size + count
        # Once the head has come and told what it is, a promise of too much is enough to stop.
        counted = max(end, self._promised) if end >= HEAD_BYTES else end
        if counted > self._limit:
            self._raise_limit_for_video(untrusted_chunk)
        if counted > self._limit:
            raise TooLargeError(self._limit)
        if end > self._capacity:
            self._grow(end)
        # Counted before it is copied, so that no way out leaves a written byte that is not overwritten.
        self._memory.make_ready(self.size, end)
        self._memory.map[self.size : end] = untrusted_chunk
        self.size = end
        for running in self._hashes.values():
            running.update(untrusted_chunk)

    def finish(self) -> None:
        """Declare the medium whole. Afterwards nobody can change, grow or shrink it, except to wipe it."""
        self._sealed = True
        fcntl.fcntl(
            self._memory.fd,
            _F_ADD_SEALS,
            _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_FUTURE_WRITE,
        )

    @property
    def digests(self) -> Digests:
        """All digests of all bytes so far."""
        return self.digests_of(DIGEST_TYPES)

    def digests_of(self, types: AbstractSet[SignalType]) -> Digests:
        """The digests of these types; those that did not grow with the bytes are computed now. Blocking."""
        for of in types - self._hashes.keys():
            late = _new_hash(of)
            with memoryview(self._memory.map) as whole, whole[: self.size] as received:
                late.update(received)
            self._hashes[of] = late
        return Digests(**{of.value: self._hashes[of].digest() for of in types})

    @property
    def head(self) -> bytes:
        """The first bytes, at most 4 KiB."""
        return self._memory.map[: min(self.size, HEAD_BYTES)]

    @property
    def fd(self) -> int:
        """The memory file, to hand to the sandbox; its content is the first ``size`` bytes."""
        return self._memory.fd

    def read(self, start: int, count: int) -> bytes:
        """A copy of ``count`` bytes from ``start``, for the release of what is clear."""
        return self._memory.map[start : min(start + count, self.size)]

    def wipe(self) -> None:
        """Overwrite the bytes, free them and return them to the budget. Safe to call twice."""
        self._finalizer()

    def _raise_limit_for_video(self, untrusted_chunk: bytes | bytearray | memoryview) -> None:
        head = self.head
        if len(head) < HEAD_BYTES:
            head += bytes(untrusted_chunk[: HEAD_BYTES - len(head)])
        told = formats.tell(head)
        if told is not None and told.kind == "video":
            self._limit = max(self._limit, self._video_limit)

    def _grow(self, needed: int) -> None:
        capacity = min(max(self._capacity * 2, needed), max(self._limit, needed))
        # Doubling is a convenience; when the budget cannot carry it, exactly what is needed may still fit.
        try:
            self._quarantine.reserve(capacity - self._capacity)
        except OverloadedError:
            capacity = needed
            self._quarantine.reserve(capacity - self._capacity)
        try:
            self._memory.map.resize(capacity)
        except OSError as error:
            self._quarantine.give_back(capacity - self._capacity)
            raise OverloadedError(f"no memory for a medium to grow: {error.strerror}") from None
        self._capacity = capacity


def _new_hash(of: SignalType) -> "hashlib._Hash":
    # MD5 and SHA-1 are what banks list; nothing here is kept safe by them.
    return hashlib.new(of.value, usedforsecurity=False)


class _Memory:
    """An anonymous memory file, its map, and how many of its bytes were ever used."""

    def __init__(self, capacity: int) -> None:
        self.fd = os.memfd_create("cordon-media", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, capacity)
            self.map = mmap.mmap(self.fd, capacity)
        except OSError:
            os.close(self.fd)
            raise
        self.used = 0

    def make_ready(self, start: int, end: int) -> None:
        """Count bytes as used, and have all their pages at once: one by one they take longer."""
        self.used = end
        first_page = start // mmap.PAGESIZE * mmap.PAGESIZE
        if first_page == end:
            return
        # Linux before 5.14 does not know it, and then the pages come as they are written.
        with contextlib.suppress(OSError):
            self.map.madvise(_MADV_POPULATE_WRITE, first_page, end - first_page)

    def overwrite_and_close(self) -> None:
        # Pages that were never used hold nothing, and writing zeros would make the kernel allocate them.
        for start in range(0, self.used, len(_WIPE_BLOCK)):
            end = min(start + len(_WIPE_BLOCK), self.used)
            self.map[start:end] = _WIPE_BLOCK[: end - start]
        self.map.close()
        os.close(self.fd)


def _return(quarantine: Quarantine, memory: _Memory) -> None:
    capacity = len(memory.map)
    memory.overwrite_and_close()
    quarantine.give_back(capacity)
    quarantine.held_media -= 1
