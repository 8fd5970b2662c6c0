"""How a change of the banks begins: with the next generation, and a row that tells of it."""

import secrets
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.entries import Origin
from app.store.banks import bank_opinions
from app.store.schema import changes, index_state

_NONCE_BYTES: Final = 16


async def next_generation(connection: AsyncConnection) -> int:
    """Take the next generation. Comes first in a change: it puts all writers of banks in line."""
    return int(
        (
            await connection.execute(
                update(index_state)
                .values(generation=index_state.c.generation + 1)
                .returning(index_state.c.generation)
            )
        ).scalar_one()
    )


async def take_turn(connection: AsyncConnection) -> None:
    """Wait until no other change is under way, for one that has to look before it takes its generation."""
    await connection.execute(select(index_state.c.generation).with_for_update())


async def record(
    connection: AsyncConnection, generation: int | None, bank_id: int, origin: Origin | None = None
) -> int:
    """Write a change down and tell its id; what it adds or removes is counted later.

    Args:
        connection: within ``Database.begin``.
        generation: the one it took; None for an import that is not finished.
        bank_id: of the bank.
        origin: what it says of all that it brings.
    """
    terms = await bank_opinions.terms(connection, origin)
    return int(
        (
            await connection.execute(
                insert(changes)
                .values(
                    generation=generation,
                    nonce=secrets.token_bytes(_NONCE_BYTES),
                    bank_id=bank_id,
                    added=0,
                    removed=0,
                    at=datetime.now(UTC),
                    **terms,
                )
                .returning(changes.c.id)
            )
        ).scalar_one()
    )
