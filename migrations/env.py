"""Alembic's entrance. Cordon hands it a connection that has begun; the ``alembic`` command opens its own."""

import asyncio
from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from app.settings import load
from app.store.database import Database
from app.store.schema import UtcDateTime, metadata


def write_type(kind: str, item: object, _autogenerate: AutogenContext) -> str | Literal[False]:
    """Keep migrations free of ``app``, which goes on changing after they are written."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def migrate(connection: Connection) -> None:
    """Run the migrations in the connection's own transaction: all of them or none."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        render_item=write_type,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_from_command_line() -> None:
    """Serve ``alembic revision --autogenerate`` and the like on the configured database."""
    database = Database.open(load().store)
    try:
        async with database.begin() as connection:
            await connection.run_sync(migrate)
    finally:
        await database.close()


given: Connection | None = context.config.attributes.get("connection")
if given is None:
    asyncio.run(migrate_from_command_line())
else:
    migrate(given)
