"""The record of what happened: append-only, each entry's digest covering the one before it.

An entry that was edited, moved, inserted or taken out breaks the chain from there on. What the chain alone
cannot show is that its newest entries were cut off, or that all of it was written anew: checkpoints show that
(``app.store.record.checkpoints``).
"""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import ConflictError, NotReadyError
from app.store.rows import UnreadableRowError, readable
from app.store.schema import audit

BEFORE_THE_FIRST: Final = bytes(32)
"""What the first entry names as the digest before it."""

_APPEND_LOCK: Final = 0x436F72646F6E02
_LAST_SEQ: Final = 2**63 - 1

_NOT_OURS: Final = "made into what no Cordon writes"

Details = Mapping[str, str | int | list[str]]


Seen = Sequence[tuple[str, bytes]]
"""Entries of a subject that somebody saw, oldest first: the event of each, and the SHA-256 of its details."""


class TakenBackError(ConflictError):
    """What the log says of a report is not what was seen there before."""

    def __init__(self, report_id: str) -> None:
        super().__init__(
            f"Report {report_id}: the audit log does not say of it what it said before. Somebody changed the "
            "database."
        )


@dataclass(frozen=True)
class Head:
    """An entry as the newest of its time: its digest covers all before it."""

    seq: int
    digest: bytes = field(repr=False)


@dataclass(frozen=True)
class Entry:
    """An entry that follows on those before it."""

    seq: int
    event: str
    subject: str
    details: str = field(repr=False)
    digest: bytes = field(repr=False)


@dataclass(frozen=True)
class Finding:
    """Where the log was changed.

    Attributes:
        first: number of the first entry that it may be.
        last: of the last.
        what: was done to them, as far as can be told.
    """

    first: int
    last: int
    what: str


@dataclass(frozen=True)
class Examined:
    """What reading the log came to.

    Attributes:
        entries: how many follow on each other from the beginning.
        vouched: up to which entry a checkpoint vouches for them.
        finding: the first change; None if there is none.
    """

    entries: int
    vouched: int
    finding: Finding | None


async def append(connection: AsyncConnection, event: str, subject: str, details: Details) -> None:
    """Add an entry in the caller's write transaction; it stands if and only if that commits.

    Append last: on PostgreSQL the lock that keeps writers in line is held until the transaction ends, and
    whoever holds it must not wait for anything else.

    Args:
        connection: within ``Database.begin``.
        event: what happened, like ``report.sealed``.
        subject: id of what it happened to.
        details: ids and digests of sealed files; never anything that a report holds sealed.

    Raises:
        NotReadyError: nothing can follow on the newest entry, since no Cordon wrote it.
    """
    await _lock(connection)
    newest = await head(connection)
    if newest is not None and not (_is_number(newest.seq) and isinstance(newest.digest, bytes)):
        raise NotReadyError(
            "the newest entry of the audit log is none that Cordon wrote; run 'cordon audit verify'"
        )
    seq, previous = (newest.seq + 1, newest.digest) if newest is not None else (1, BEFORE_THE_FIRST)
    entry = {
        "seq": seq,
        "at": datetime.now(UTC),
        "event": event,
        "subject": subject,
        "details": _canonical(details),
        "previous": previous,
    }
    await connection.execute(insert(audit).values(**entry, digest=_digest(entry)))


def said(untrusted_details: object) -> dict[str, Any]:
    """What the details of an entry say; nothing where no Cordon wrote them."""
    if not isinstance(untrusted_details, str):
        return {}
    try:
        told = json.loads(untrusted_details)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


async def head(connection: AsyncConnection) -> Head | None:
    """The newest entry; None if there is none."""
    newest = (
        await connection.execute(select(audit.c.seq, audit.c.digest).order_by(audit.c.seq.desc()).limit(1))
    ).one_or_none()
    return Head(newest.seq, newest.digest) if newest is not None else None


async def settled_head(connection: AsyncConnection) -> Head | None:
    """The newest entry, with no other to come before the caller's transaction ends; None if there is none.

    Args:
        connection: within ``Database.begin``; see ``append`` on what not to wait for then.
    """
    await _lock(connection)
    return await head(connection)


async def _lock(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _APPEND_LOCK})


async def examine(
    connection: AsyncConnection,
    known: Sequence[Head],
    *,
    after: Head | None = None,
    see: Callable[[Entry], None] | None = None,
) -> Examined:
    """Read the log from its beginning and find the first place where it was changed.

    Args:
        connection: to read with.
        known: what is known of entries from elsewhere: checkpoints whose signatures were found good.
        after: begin here instead, with what is known of this entry.
        see: called with each entry that follows on those before it.
    """
    start = after or Head(0, BEFORE_THE_FIRST)
    walk = _Walk(start.seq, start.digest, start.seq, {each.seq: each for each in known}, see)
    contradicted = [each.seq for each in known if walk.known[each.seq] != each]
    if contradicted:
        contradiction = Finding(1, contradicted[0], "written anew: two checkpoints contradict each other")
        return Examined(0, 0, contradiction)
    try:
        with readable():
            finding = await _read(connection, walk, after=after)
    except UnreadableRowError:
        finding = await _read_one_by_one(connection, walk)
    if finding is not None:
        return Examined(walk.seq, walk.vouched, finding)
    newest_known = max(walk.known, default=0)
    if newest_known > walk.seq:
        cut_off = Finding(walk.seq + 1, newest_known, "cut off the end")
        return Examined(walk.seq, walk.vouched, cut_off)
    return Examined(walk.seq, walk.vouched, None)


async def _read(connection: AsyncConnection, walk: "_Walk", *, after: Head | None) -> Finding | None:
    """Walk along the entries; the first change."""
    wanted = select(audit).where(audit.c.seq > after.seq) if after is not None else select(audit)
    async with connection.stream(wanted.order_by(audit.c.seq)) as entries:
        async for row in entries.mappings():
            finding = walk.step(dict(row))
            if finding is not None:
                return finding
    return None


async def _read_one_by_one(connection: AsyncConnection, walk: "_Walk") -> Finding | None:
    """Go on from where the walk is to the entry that cannot be read: drivers tell only that there is one."""
    numbers = select(audit.c.seq).where(audit.c.seq > walk.seq).order_by(audit.c.seq)
    try:
        with readable():
            found = (await connection.execute(numbers)).scalars().all()
    except UnreadableRowError:
        return walk.not_ours(None)
    for seq in found:
        try:
            with readable():
                row = (await connection.execute(select(audit).where(audit.c.seq == seq))).mappings().first()
        except UnreadableRowError:
            return walk.not_ours(seq)
        finding = walk.step(dict(row)) if row is not None else None
        if finding is not None:
            return finding
    # Not after where the walk is: an entry without a number, or under one that was there.
    return walk.not_ours(None)


async def since(
    connection: AsyncConnection,
    last: Head | None,
    *,
    known: Sequence[Head] = (),
    see: Callable[[Entry], None] | None = None,
) -> Finding | None:
    """Read what came after an entry that was read before; the first change, of that entry on.

    Args:
        connection: to read with.
        last: the newest entry of then; None to read all.
        known: as in ``examine``.
        see: as in ``examine``.
    """
    if last is not None:
        newest = await head(connection) or Head(0, BEFORE_THE_FIRST)
        if newest.seq <= last.seq and newest != last:
            first = min(newest.seq + 1, last.seq)
            return Finding(first, last.seq, "cut off the end, or written anew")
    return (await examine(connection, known, after=last, see=see)).finding


async def told_of(
    connection: AsyncConnection, subject: str, events: Collection[str], seen: Seen = ()
) -> Sequence[Row[Any, Any, Any]]:
    """Number, event and details of the entries of a subject, of some events, oldest first.

    Args:
        connection: to read with.
        subject: id of what they are about.
        events: which.
        seen: all entries of these events, and maybe of others, that somebody saw of the subject. A database
            whose tables are views can answer each question otherwise, so that what one was told proves
            nothing of what another is.

    Raises:
        TakenBackError: those that were seen are not the first of them.
    """
    wanted = select(audit.c.seq, audit.c.event, audit.c.details)
    wanted = wanted.where(audit.c.subject == subject, audit.c.event.in_(events)).order_by(audit.c.seq)
    found = (await connection.execute(wanted)).all()
    known = [each for each in seen if each[0] in events]
    if [(each.event, details_digest(each.details)) for each in found[: len(known)]] != known:
        raise TakenBackError(subject)
    return found


def details_digest(untrusted_details: object) -> bytes:
    """SHA-256 of what an entry says; SQLite keeps anything there."""
    return hashlib.sha256(str(untrusted_details).encode("utf-8", "surrogatepass")).digest()


async def digests_of(connection: AsyncConnection, subject: str) -> tuple[bytes, ...]:
    """The digests that the entries of a subject have by what they say now, oldest first.

    What no Cordon wrote has the digest of nothing.

    Raises:
        UnreadableRowError: an entry cannot even be read.
    """
    wanted = select(audit).where(audit.c.subject == subject).order_by(audit.c.seq)
    with readable():
        entries = [dict(row) for row in (await connection.execute(wanted)).mappings()]
    return tuple(_digest(entry) if _is_ours(entry) else b"" for entry in entries)


@dataclass
class _Walk:
    """Where a reader of the log is, and what the next entry must look like."""

    seq: int
    digest: bytes
    vouched: int
    known: Mapping[int, Head]
    see: Callable[[Entry], None] | None = None

    def step(self, entry: dict[str, Any]) -> Finding | None:
        """Go on to the next entry, and show it if it follows on; what is wrong with it."""
        finding = self._wrong_with(entry) if _is_ours(entry) else self.not_ours(entry["seq"])
        if finding is None:
            self.seq, self.digest = entry["seq"], entry["digest"]
            if self.seq in self.known:
                self.vouched = self.seq
            if self.see is not None:
                self.see(Entry(self.seq, entry["event"], entry["subject"], entry["details"], self.digest))
        return finding

    def _wrong_with(self, entry: Mapping[str, Any]) -> Finding | None:
        seq, written = entry["seq"], entry["digest"]
        if seq <= self.seq:
            return Finding(seq, seq, "inserted")
        if seq != self.seq + 1:
            return Finding(self.seq + 1, seq - 1, "removed")
        if _digest(entry) != written:
            return Finding(seq, seq, "edited, or put in the place of another")
        if entry["previous"] != self.digest:
            return Finding(max(seq - 1, 1), seq, "changed: they do not follow on each other")
        if seq in self.known and self.known[seq].digest != written:
            return Finding(self.vouched + 1, seq, "written anew, from some entry among them on")
        return None

    def not_ours(self, untrusted_seq: object) -> Finding:
        """That an entry was found that no Cordon wrote: under its number, or where the next one should be."""
        seq = untrusted_seq if isinstance(untrusted_seq, int) else self.seq + 1
        return Finding(seq, seq, _NOT_OURS)


def _is_ours(entry: Mapping[str, Any]) -> bool:
    """Whether each column holds what it is for; SQLite keeps anything anywhere."""
    return (
        _is_number(entry["seq"])
        and isinstance(entry["at"], datetime)
        and all(isinstance(entry[name], str) for name in ("event", "subject", "details"))
        and all(isinstance(entry[name], bytes) for name in ("previous", "digest"))
    )


def _is_number(untrusted: object) -> bool:
    return isinstance(untrusted, int) and untrusted < _LAST_SEQ


def _digest(entry: Mapping[str, Any]) -> bytes:
    """SHA-256 over the entry, the digest before it included, written in one way only."""
    covered = {name: entry[name] for name in entry if name != "digest"}
    readable = {
        **covered,
        "at": entry["at"].astimezone(UTC).isoformat(timespec="microseconds"),
        "previous": entry["previous"].hex(),
    }
    return hashlib.sha256(_canonical(readable).encode()).digest()


def _canonical(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
