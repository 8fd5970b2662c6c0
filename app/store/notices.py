"""What custodians and other systems are still to be told: an outbox, written with what it tells of.

A notice holds an event, an id and a state. Whatever writes it knows no channel: the worker, whose settings
alone name the channels and their secrets, gives each new notice a copy for each of them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import case, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from app.store.rows import UnreadableRowError, of_its_types, read_each, readable
from app.store.schema import notices

REPORT_CHANGED: Final = "report.changed"
ALARM_RAISED: Final = "alarm.raised"
ALARM_CLEARED: Final = "alarm.cleared"

_EVENTS: Final = (REPORT_CHANGED, ALARM_RAISED, ALARM_CLEARED)
_ULID: Final = re.compile("[0-9A-HJKMNP-TV-Z]{26}")

_ADDRESSED_AT_ONCE: Final = 1000

_MOST_ATTEMPTS: Final = 2**31 - 1
"""What the column holds on PostgreSQL."""


@dataclass(frozen=True)
class Notice:
    """One event for one channel.

    Attributes:
        id: a ULID; the same however often it is sent.
        event: one of the three above.
        subject: id of the report, or of what the alarm is about.
        state: of the report, or the alarm's kind.
        attempts: how often it was tried before.
    """

    id: str
    event: str
    subject: str
    state: str
    created_at: datetime
    attempts: int


async def post(connection: AsyncConnection, event: str, subject: str, state: str) -> None:
    """Put a notice in the outbox; it stands if and only if the caller's transaction commits."""
    now = datetime.now(UTC)
    await connection.execute(
        insert(notices).values(
            id=str(ULID()),
            event=event,
            subject=subject,
            state=state,
            created_at=now,
            attempts=0,
            next_attempt_at=now,
        )
    )


async def address(connection: AsyncConnection, channels: Mapping[str, Callable[[Notice], bool]]) -> bool:
    """Give each new notice a copy for every channel that wants it; whether more are left.

    Args:
        connection: within ``Database.begin``.
        channels: what each wants. A notice that none wants goes, and so does what waits for a channel that
            is no longer there.

    Raises:
        UnreadableRowError: a row holds what no Cordon wrote.
    """
    gone = notices.c.channel.is_not(None) & notices.c.channel.not_in(list(channels))
    await connection.execute(delete(notices).where(gone))
    new = await connection.execute(
        select(notices)
        .where(notices.c.channel.is_(None))
        .order_by(notices.c.created_at, notices.c.id)
        .limit(_ADDRESSED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    with readable():
        rows = [dict(row) for row in new.mappings()]
        copies = [
            {**row, "id": str(ULID()), "channel": channel}
            for row in rows
            for channel, wants in channels.items()
            if wants(_notice(row))
        ]
    if copies:
        await connection.execute(insert(notices), copies)
    await connection.execute(delete(notices).where(notices.c.id.in_([row["id"] for row in rows])))
    return len(rows) == _ADDRESSED_AT_ONCE


async def take_due(
    connection: AsyncConnection, channel: str, *, limit: int, lease: timedelta
) -> tuple[Notice, ...]:
    """Take what is due for a channel, oldest first; nobody else gets it until the lease is over.

    Whoever takes it and dies leaves it to the next: a notice may be told twice, under the same id.

    Raises:
        UnreadableRowError: a row holds what no Cordon wrote.
    """
    now = datetime.now(UTC)
    due = await connection.execute(
        select(notices)
        .where(notices.c.channel == channel, notices.c.next_attempt_at <= now)
        .order_by(notices.c.created_at, notices.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with readable():
        taken = tuple(_notice(row) for row in due.mappings().all())
    # What somebody else wrote there may be more than the column holds.
    more = case((notices.c.attempts < _MOST_ATTEMPTS, notices.c.attempts + 1))
    await connection.execute(
        update(notices)
        .where(notices.c.id.in_([notice.id for notice in taken]))
        .values(next_attempt_at=now + lease, attempts=func.coalesce(more, _MOST_ATTEMPTS))
    )
    return taken


async def told(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Forget notices that were told, or that are told no more."""
    await connection.execute(delete(notices).where(notices.c.id.in_(ids)))


async def postpone(connection: AsyncConnection, ids: Sequence[str], until: datetime) -> None:
    """Try notices again at some time."""
    await connection.execute(update(notices).where(notices.c.id.in_(ids)).values(next_attempt_at=until))


async def forget_unreadable(connection: AsyncConnection) -> int:
    """Forget the notices whose rows hold what no Cordon wrote; how many they were.

    Nobody can be told of them, and what they were to tell of stands elsewhere.
    """
    _, unreadable = await read_each(connection, select(notices), _notice)
    for there in unreadable:
        await connection.execute(delete(notices).where(there))
    return len(unreadable)


async def oldest(connection: AsyncConnection, channel: str) -> datetime | None:
    """Since when the oldest notice of a channel waits; None if none does."""
    waiting = select(func.min(notices.c.created_at)).where(notices.c.channel == channel)
    with readable():
        since: datetime | None = (await connection.execute(waiting)).scalar_one_or_none()
    return since


def _notice(row: Mapping[Any, Any]) -> Notice:
    if not isinstance(row["next_attempt_at"], datetime):
        raise UnreadableRowError
    notice = of_its_types(Notice(**{each.name: row[each.name] for each in fields(Notice)}))
    # The id goes into headers: no message could be sent with some, nor any that stands in one with it.
    if _ULID.fullmatch(notice.id) is None or notice.event not in _EVENTS:
        raise UnreadableRowError
    return notice
