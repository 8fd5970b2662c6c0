"""The record of what happened: append-only, each entry's digest covering the one before it.

An entry that was edited, moved, inserted or taken out breaks the chain from there on. What the chain alone
cannot show is that its newest entries were cut off, or that all of it was written anew.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.schema import audit

BEFORE_THE_FIRST: Final = bytes(32)
"""What the first entry names as the digest before it."""

_APPEND_LOCK: Final = 0x436F72646F6E02

Details = Mapping[str, str | int | list[str]]


async def append(connection: AsyncConnection, event: str, subject: str, details: Details) -> None:
    """Add an entry in the caller's write transaction; it stands if and only if that commits.

    Append last: on PostgreSQL the lock that keeps writers in line is held until the transaction ends, and
    whoever holds it must not wait for anything else.

    Args:
        connection: within ``Database.begin``.
        event: what happened, like ``report.sealed``.
        subject: id of what it happened to.
        details: ids and digests of sealed files; never anything that a report holds sealed.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _APPEND_LOCK})
    newest = (
        await connection.execute(select(audit.c.seq, audit.c.digest).order_by(audit.c.seq.desc()).limit(1))
    ).one_or_none()
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


async def verify_chain(connection: AsyncConnection) -> int | None:
    """The number of the first entry that does not follow from those before it; None if all do."""
    expected_seq, previous = 1, BEFORE_THE_FIRST
    async with connection.stream(select(audit).order_by(audit.c.seq)) as entries:
        async for row in entries.mappings():
            entry = dict(row)
            if entry.pop("digest") != _digest(entry) or (row["seq"], row["previous"]) != (
                expected_seq,
                previous,
            ):
                return expected_seq
            expected_seq, previous = row["seq"] + 1, row["digest"]
    return None


def _digest(entry: Mapping[str, Any]) -> bytes:
    """SHA-256 over the entry, the digest before it included, written in one way only."""
    readable = {
        **entry,
        "at": entry["at"].astimezone(UTC).isoformat(timespec="microseconds"),
        "previous": entry["previous"].hex(),
    }
    return hashlib.sha256(_canonical(readable).encode()).digest()


def _canonical(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
