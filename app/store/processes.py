"""The processes that run on one database, and the index generation that each has in force.

The row of a process is also the write that proves that the database can be written. When it was heard of is
told by one clock for all, since those of their machines may differ.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from app.errors import NotReadyError
from app.store.database import Database, clock
from app.store.rows import of_its_types, read_each
from app.store.schema import processes

LIVE_SECONDS: Final = 10.0
"""A process not heard of for so long is taken for dead; each is to be heard of every second or two."""

GATE: Final = "serve"
"""The role of a web process."""

WORKER: Final = "worker"
"""The role of the process that files."""

UPKEEP: Final = "upkeep"
"""The role of a worker with filing off."""

_FORGOTTEN_AFTER: Final = timedelta(days=1)


@dataclass(frozen=True)
class Process:
    """A process that was heard of lately.

    Attributes:
        role: ``serve``, ``worker``, ``upkeep`` or ``cli``.
        generation: the index generation it has in force; 0 if none.
    """

    id: str
    role: str
    started_at: datetime
    seen_at: datetime
    generation: int


class ForgottenError(NotReadyError):
    """The database knows no such process: it was silent for a day, or a backup was put in place."""

    def __init__(self) -> None:
        super().__init__("this process is not registered; it may have been stopped for a day")


async def register(database: Database, role: str, process_id: str | None = None) -> str:
    """Announce this process and forget those long gone; gives the id that its heartbeats go by.

    Args:
        database: where it is announced.
        role: ``serve``, ``worker``, ``upkeep`` or ``cli``.
        process_id: the id that it had, if it was forgotten.

    Raises:
        NotReadyError: the database cannot be written.
    """
    process_id = process_id or str(ULID())
    async with database.begin() as connection:
        now = await clock(connection)
        await connection.execute(delete(processes).where(processes.c.seen_at < now - _FORGOTTEN_AFTER))
        await connection.execute(
            insert(processes).values(id=process_id, role=role, started_at=now, seen_at=now, generation=0)
        )
    return process_id


async def heartbeat(database: Database, process_id: str, generation: int) -> None:
    """Tell that this process lives and which generation it has in force; it is a durable write.

    Raises:
        ForgottenError: this process has to register again; nothing was written.
        NotReadyError: the database cannot be written.
    """
    async with database.begin() as connection:
        beat = (
            update(processes)
            .where(processes.c.id == process_id)
            .values(seen_at=await clock(connection), generation=generation)
        )
        if (await connection.execute(beat)).rowcount != 1:
            raise ForgottenError


async def unregister(database: Database, process_id: str) -> None:
    """Say that this process ends, so that nobody waits for it.

    Raises:
        NotReadyError: the database cannot be written.
    """
    async with database.begin() as connection:
        await connection.execute(delete(processes).where(processes.c.id == process_id))


async def silent_since(connection: AsyncConnection) -> datetime:
    """A process that was last seen before this moment is taken for dead."""
    return await clock(connection) - timedelta(seconds=LIVE_SECONDS)


async def live(connection: AsyncConnection) -> tuple[Process, ...]:
    """The processes heard of within ``LIVE_SECONDS``, oldest first; none whose row cannot be read."""
    found, _ = await read_each(
        connection,
        select(processes)
        .where(processes.c.seen_at >= await silent_since(connection))
        .order_by(processes.c.id),
        lambda row: of_its_types(Process(**row)),
    )
    return tuple(found)
