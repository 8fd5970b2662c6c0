"""The banks in force in this process, following the store.

The store is asked each second how far it has come. A change of up to ``SMALL_CHANGE`` entries is read at once
and searched beside the snapshot. A larger one needs a new snapshot: it is built beside what is in force,
which goes on answering, small changes included, and then takes its place. Processes that share a state
directory share its snapshots, and only one of them builds.

What was in force stays in force while the store cannot be read. A process that starts answers nothing before
all that the store holds is loaded.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, ParamSpec, Protocol, TypeVar

import numpy as np

from app.entries import Bank, Changes, Entries, Head
from app.errors import ConflictError, NotReadyError
from app.log import event, failure, kind_of
from app.matching.index import NO_ENTRIES, EntryIndex
from app.matching.loaded import LoadedBanks
from app.matching.snapshot import (
    Name,
    SnapshotError,
    SnapshotWriter,
    builder,
    building,
    open_snapshot,
    prepare,
    remove_others,
    snapshots_in,
)
from app.media import SignalType, Tier

POLL_SECONDS: Final = 1.0

MERGED_ABOVE: Final = 20_000
"""Entries added or removed since the snapshot; with more, a new one is built in the background."""

LOADED_ABOVE_SNAPSHOT: Final = 200_000
"""With more, a process that starts waits for a new snapshot: laying all of it over the old one is slower."""

_BUILD_AGAIN_SECONDS: Final = 30.0
_OTHER_BUILDER_SECONDS: Final = 0.5
_SAID_AGAIN_SECONDS: Final = 60.0
"""How often it is said that another process is waited for, and how long nobody may be building."""

_NOBODY_BUILDS: Final = "nobody builds, and the directory is read-only here"

_Identity = tuple[int, int, int, int]

_SNAPSHOTS: Final = "snapshots"

logger = logging.getLogger(__name__)

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


class BankStore(Protocol):
    """Where banks are read from. All raise ``NotReadyError`` if it does not answer."""

    async def head(self, generation: int, nonce: bytes) -> Head:
        """How far the banks have come, as seen from a generation."""

    async def changes(self, since: int) -> Changes:
        """All banks, and what became of their entries since a generation."""

    def entries(self, of: SignalType, generation: int) -> AsyncGenerator[Entries, None]:
        """All entries of a type at a generation."""


@dataclass(frozen=True)
class BankStatus:
    """A bank as this process has it.

    Attributes:
        counts: whether its first import is in force.
        entries: number of entries in force by type.
        tiers: what it does on a strong and on a near match.
        age_seconds: since its last import; None before the first.
    """

    name: str
    kind: str
    action: str
    counts: bool
    entries: dict[str, int]
    thresholds: dict[str, int]
    tiers: dict[str, str]
    minimum_quality: int
    no_report_reason: str | None
    age_seconds: float | None


@dataclass(frozen=True)
class BanksStatus:
    """What is in force in this process.

    Attributes:
        generation: up to here, all changes are in force; 0 if nothing is loaded.
        snapshot_generation: of the snapshot beneath it; 0 without one.
        building: whether a new snapshot is being built, here or by another process.
        build_failing: why the last attempt failed, as ``OSError, ENOSPC``, or that nobody builds; or None.
        asked_seconds_ago: since the store last told how far it has come; None if it never did.
        failing: why media cannot be decided now; None if they can.
    """

    generation: int
    snapshot_generation: int
    building: bool
    build_failing: str | None
    asked_seconds_ago: float | None
    failing: str | None
    banks: list[BankStatus]


@dataclass(frozen=True, eq=False)
class _Base:
    """What the changes since are laid over: a snapshot, or nothing at all."""

    generation: int = 0
    nonce: bytes = field(default=b"", repr=False)
    index: EntryIndex = field(default=NO_ENTRIES, repr=False)
    path: Path | None = None
    identity: _Identity | None = field(default=None, repr=False)

    def is_lost(self) -> bool:
        """Whether its file is not what it was: the next process to start may not open it. Blocking."""
        return self.path is not None and _identity(self.path) != self.identity


class CurrentBanks:
    """Follows the banks of a store; ``ready`` gives what is in force.

    Attributes:
        unreadable: whether the store holds what no Cordon wrote: what is in force stays, nothing new comes.
    """

    def __init__(
        self,
        store: BankStore,
        state_dir: Path,
        *,
        poll_seconds: float = POLL_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._directory = state_dir / _SNAPSHOTS
        self._poll_seconds = poll_seconds
        self._now = now
        self._base = _Base()
        self._loaded: LoadedBanks | None = None
        # What is in force, to see whether anything is new.
        self._seen: tuple[int, bytes, _Base] | None = None
        # Set at the start, and after the base was lost: until all is loaded, what is in force stays.
        self._must_be_whole = True
        self._following: asyncio.Task[None] | None = None
        self._build: asyncio.Task[None] | None = None
        self._build_wanted = False
        self._refused: set[_Identity] = set()
        self._build_failing: str | None = None
        # The base whose file is not what it was, until another takes its place.
        self._lost: _Base | None = None
        self._build_failed_at = self._lost_at = float("-inf")
        self._build_read: tuple[int, int] | None = None
        self._asked_at: float | None = None
        self._unread = False
        self.unreadable = False
        self._look_again = asyncio.Event()
        self._published = asyncio.Event()

    async def start(self) -> None:
        """Begin to follow the store. What can be loaded without building a snapshot is in force on return."""
        await self._try_to_refresh()
        self._following = asyncio.create_task(self._follow())
        self._following.add_done_callback(self._tell_if_failed)

    async def close(self) -> None:
        """Stop following; a build that runs is given up."""
        running = {task for task in (self._following, self._build) if task is not None}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def ready(self, names: frozenset[str] | None) -> LoadedBanks:
        """The banks now in force.

        Args:
            names: the banks that are to decide; all if None.

        Raises:
            NotReadyError: none of them counts, or one that does is not loaded, was emptied, or is too old.
        """
        failing = self._failing(names)
        if self._loaded is None or failing is not None:
            raise NotReadyError(f"banks: {failing}")
        return self._loaded

    @property
    def generation(self) -> int:
        """Up to here, all changes are in force; 0 if nothing is loaded."""
        return self._loaded.generation if self._loaded is not None else 0

    @property
    def build_read(self) -> tuple[int, int] | None:
        """How many entries the build that runs here has read, and of how many at most; None without one."""
        return self._build_read

    async def wait_for(self, generation: int) -> None:
        """Wait until all changes up to a generation are in force here.

        Raises:
            NotReadyError: the store is not followed any more.
        """
        while self._loaded is None or self._loaded.generation < generation:
            if self._following is None or self._following.done():
                raise NotReadyError("banks: the store is not followed")
            published = asyncio.create_task(self._published.wait())
            await asyncio.wait({published, self._following}, return_when=asyncio.FIRST_COMPLETED)
            published.cancel()

    def status(self) -> BanksStatus:
        """What is in force, for operators."""
        loaded = self._loaded
        return BanksStatus(
            generation=self.generation,
            snapshot_generation=self._base.generation,
            building=self._build_wanted,
            build_failing=self._build_failing if self._build_wanted else None,
            asked_seconds_ago=time.monotonic() - self._asked_at if self._asked_at is not None else None,
            failing=self._failing(None),
            banks=[self._status_of(bank, loaded) for bank in loaded.banks.values()] if loaded else [],
        )

    def _status_of(self, bank: Bank, loaded: LoadedBanks) -> BankStatus:
        perceptual = [of for of in SignalType if not of.is_digest]
        return BankStatus(
            name=bank.name,
            kind=bank.kind.value,
            action=bank.action.value,
            counts=loaded.counts_in(bank),
            entries={of.value: loaded.counts.get((bank.id, of), 0) for of in SignalType},
            thresholds={of.value: bank.threshold(of) for of in perceptual},
            tiers={} if bank.suppresses else {tier.value: bank.action_of(tier).value for tier in Tier},
            minimum_quality=bank.minimum_quality,
            no_report_reason=bank.no_report_reason,
            age_seconds=(self._now() - bank.changed_at).total_seconds() if bank.changed_at else None,
        )

    def _failing(self, names: frozenset[str] | None) -> str | None:
        """Why these banks cannot decide now, for operators."""
        if self._loaded is None:
            return "not loaded yet"
        if self._following is not None and self._following.done():
            return "the store is not followed any more"
        lacking = self._loaded.lacking(names)
        if lacking is not None:
            return lacking
        old = [bank.name for bank in self._loaded.named(names) if self._too_old(bank)]
        return f"bank {old[0]!r} is older than its largest age" if old else None

    def _too_old(self, bank: Bank) -> bool:
        if bank.max_age_seconds is None:
            return False
        return bank.changed_at is None or self._now() - bank.changed_at > timedelta(
            seconds=bank.max_age_seconds
        )

    async def _follow(self) -> None:
        while True:
            # Not wait_for: before Python 3.12 that can swallow the cancellation that ends this.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._look_again.wait()
            self._look_again.clear()
            await self._try_to_refresh()

    async def _try_to_refresh(self) -> None:
        """Bring what is in force up to date; if that fails, it stays as it is."""
        try:
            await self._refresh()
        except (NotReadyError, ConflictError, SnapshotError, OSError) as error:
            if not self._unread:
                failure(logger, "banks_not_read", error)
            self._unread = True
            self.unreadable = isinstance(error, ConflictError)
        else:
            self._unread = self.unreadable = False

    async def _refresh(self) -> None:
        base = self._base
        head = await self._store.head(base.generation, base.nonce)
        if not _usable(base, head):
            # Another history, as when a backup was restored; or removals that this base needs were pruned.
            event(logger, logging.WARNING, "banks_snapshot_outdated", generation=base.generation)
            base, self._must_be_whole = _Base(), True
        if self._must_be_whole and base.path is None:
            base = await self._newest_base(touched=LOADED_ABOVE_SNAPSHOT) or base
            head = await self._store.head(base.generation, base.nonce)
            self._base = base
        self._asked_at = time.monotonic()
        if self._seen != (head.generation, head.nonce, base):
            await self._load(base, head)
        if not self._build_wanted and await self._is_lost(base):
            event(logger, logging.WARNING, "banks_snapshot_lost", generation=base.generation)
            self._lost_at = time.monotonic()
            self._lost = base
            self._build_wanted = True
        # A build may have ended meanwhile; whether another is wanted is then seen at the next look.
        if self._build_wanted and self._base is base:
            self._begin_build()

    async def _is_lost(self, base: _Base) -> bool:
        # On a file system that tells its files anew at each look, not each look is to read all of one.
        if time.monotonic() - self._lost_at < _BUILD_AGAIN_SECONDS:
            return False
        return await asyncio.to_thread(base.is_lost)

    async def _load(self, base: _Base, head: Head) -> None:
        """Put a base and all that changed since in force; or, if that is too much, ask for a new base."""
        if self._must_be_whole and head.touched > LOADED_ABOVE_SNAPSHOT:
            self._build_wanted = True
            return
        changes = await self._store.changes(base.generation)
        self._build_wanted = head.touched > MERGED_ABOVE or bool(changes.pending) or self._lost is base
        if self._must_be_whole and changes.pending:
            return
        added = await asyncio.to_thread(EntryIndex.build, changes.added)
        self._loaded = _laid_over(base.index, added, changes)
        self._must_be_whole = False
        self._seen = (head.generation, head.nonce, base)
        self._published.set()
        self._published = asyncio.Event()

    def _begin_build(self) -> None:
        running = self._build is not None and not self._build.done()
        if not running and time.monotonic() - self._build_failed_at >= _BUILD_AGAIN_SECONDS:
            self._build = asyncio.create_task(self._try_to_build())

    async def _try_to_build(self) -> None:
        began = time.monotonic()
        try:
            base = await self._build_base()
        except (NotReadyError, ConflictError, SnapshotError, OSError) as error:
            self._build_failed_at = time.monotonic()
            self._build_failing = kind_of(error)
            failure(logger, "banks_snapshot_failed", error)
            return
        event(
            logger,
            logging.INFO,
            "banks_snapshot_in_force",
            generation=base.generation,
            entries=sum(base.index.counts.values()),
            seconds=round(time.monotonic() - began, 3),
        )
        self._build_failing = None
        self._base = base
        self._look_again.set()

    async def _build_base(self) -> _Base:
        """A newer base: built here, or by another process that shares the directory."""
        prepare(self._directory)
        began = said_at = idle_since = time.monotonic()
        level = logging.INFO
        # Where its own file is lost, what stands there now may be one of the same generation.
        after = self._base.generation - await asyncio.to_thread(self._base.is_lost)
        while True:
            with building(self._directory) as mine:
                found = await self._newest_base(after=after, touched=MERGED_ABOVE)
                if found is None and mine:
                    found = await self._open(await self._write())
                if found is not None:
                    if mine and found.path is not None:
                        remove_others(self._directory, found.path)
                    return found
            # Where the directory is another's to write, nothing else tells that nobody builds, or hangs.
            # A worker whose disk turned read-only waits for itself.
            holder, now = builder(self._directory), time.monotonic()
            if holder is not None:
                idle_since = now
                if self._build_failing == _NOBODY_BUILDS:
                    self._build_failing = None
            elif now - idle_since >= _SAID_AGAIN_SECONDS:
                self._build_failing = _NOBODY_BUILDS
            if level == logging.INFO or now - said_at >= _SAID_AGAIN_SECONDS:
                said_at = now
                event(
                    logger,
                    level,
                    "banks_snapshot_awaited",
                    detail="another is to build it",
                    builder=holder,
                    seconds=round(said_at - began),
                )
                level = logging.WARNING
            await asyncio.sleep(_OTHER_BUILDER_SECONDS)

    async def _newest_base(self, *, after: int = 0, touched: int) -> _Base | None:
        """The newest whole snapshot of this history with so much at most to be laid over it, or None."""
        for name in snapshots_in(self._directory):
            # All of a large file would be compared again and again, until whoever builds replaces it.
            if (identity := _identity(name.path)) in self._refused:
                continue
            head = await self._store.head(name.generation, name.nonce)
            if name.generation <= after or not _usable(name, head) or head.touched > touched:
                continue
            try:
                return await self._open(name.path)
            except SnapshotError as error:
                if identity is not None:
                    self._refused.add(identity)
                failure(logger, "banks_snapshot_refused", error, generation=name.generation)
        return None

    async def _open(self, path: Path) -> _Base:
        """Open a snapshot and compare all of it with its checksums."""
        # Before it is opened: a file that takes its place meanwhile is another.
        identity = _identity(path)
        opened = await asyncio.to_thread(open_snapshot, path)
        await asyncio.to_thread(opened.verify)
        return _Base(opened.generation, opened.nonce, opened.index, opened.path, identity)

    async def _write(self) -> Path:
        """Write a snapshot of the newest generation, off the event loop."""
        head = await self._store.head(0, b"")
        writer = SnapshotWriter(self._directory, head.generation, head.nonce)
        read = 0
        try:
            self._build_read = read, head.touched
            for of in SignalType:
                async with contextlib.aclosing(self._store.entries(of, head.generation)) as chunks:
                    async for entries in chunks:
                        await _step(writer, writer.add, entries)
                        read += len(entries)
                        self._build_read = read, head.touched
            after = await self._store.head(head.generation, head.nonce)
            if not after.known or after.pruned_generation > head.generation:
                raise SnapshotError("the banks were pruned while they were read")
            return await _step(writer, writer.finish)
        finally:
            self._build_read = None
            writer.discard()

    def _tell_if_failed(self, following: "asyncio.Task[None]") -> None:
        if not following.cancelled() and (error := following.exception()) is not None:
            failure(logger, "banks_not_followed", error)


def who_builds(state_dir: Path) -> str | None:
    """Which process has the right to build the index in a state directory; None if none has."""
    return builder(state_dir / _SNAPSHOTS)


def _usable(base: "_Base | Name", head: Head) -> bool:
    """Whether changes can be laid over a base: it is of this history, and none of them was pruned."""
    return base.generation == 0 or (head.known and base.generation >= head.pruned_generation)


def _identity(path: Path) -> _Identity | None:
    """What tells a file from another of the same name, or from what it was; None if none can be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    # Of its times the one that nobody can set: it tells of a mode that was mended, too.
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def _laid_over(base: EntryIndex, added: EntryIndex, changes: Changes) -> LoadedBanks:
    counts = Counter(base.counts)
    counts.update(added.counts)
    counts.subtract(changes.removed_counts)
    counts.subtract(changes.disabled_counts)
    return LoadedBanks(
        generation=changes.pending[0] - 1 if changes.pending else changes.generation,
        banks={bank.name: bank for bank in changes.banks},
        indexes=(base, added),
        counts=counts,
        removed=np.union1d(changes.removed, changes.disabled),
        pending=frozenset(changes.pending),
        parked=changes.parked,
        tolerated=changes.tolerated,
        named_pairs=changes.named,
    )


async def _step(
    writer: SnapshotWriter,
    function: Callable[_Given, _Answer],
    *args: _Given.args,
    **kwargs: _Given.kwargs,
) -> _Answer:
    """Run a step of a writer in a thread; when cancelled, wait until that thread lets go of the writer."""
    step = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(step)
    except asyncio.CancelledError:
        writer.abandon()
        await asyncio.wait({step})
        raise
