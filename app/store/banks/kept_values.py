"""PDQ values of clear media, kept for dry runs where the operator chose so, with the day and no more."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, insert, select

from app.media import PDQ_BYTES
from app.store.database import Database
from app.store.rows import readable
from app.store.schema import kept_values

MOST_DAYS: Final = 7
"""However gates are set, nothing is kept for longer."""

ROW_BYTES: Final = PDQ_BYTES + 1
"""A value is kept as its 32 bytes, and one of the picture's quality."""

_READ_AT_ONCE: Final = 10_000


async def keep(database: Database, day: date, rows: Sequence[bytes]) -> None:
    """Store values of a day, each of ``ROW_BYTES``.

    Raises:
        NotReadyError: the database does not answer; nothing was stored.
    """
    async with database.begin() as connection:
        await connection.execute(insert(kept_values), [{"day": day, "value": row} for row in rows])


async def forget(database: Database, days: int) -> None:
    """Delete what has been kept for so many days; with 0, all of it.

    Raises:
        NotReadyError: the database does not answer.
    """
    past = kept_values.c.day <= datetime.now(UTC).date() - timedelta(days=days)
    async with database.connect() as connection:
        if not await connection.scalar(select(func.count()).select_from(kept_values).where(past)):
            return
    async with database.begin() as connection:
        await connection.execute(delete(kept_values).where(past))


async def read(database: Database) -> NDArray[np.uint8]:
    """All that is kept: uint8, shape (n, ``ROW_BYTES``).

    Raises:
        NotReadyError: the database does not answer.
        UnreadableRowError: a row holds what no Cordon wrote.
    """
    asked = select(kept_values.c.value).execution_options(yield_per=_READ_AT_ONCE)
    async with database.connect() as connection, connection.stream(asked) as found:
        with readable():
            chunks = [b"".join(row.value for row in rows) async for rows in found.partitions()]
            return np.frombuffer(b"".join(chunks), np.uint8).reshape(-1, ROW_BYTES)
