"""Whether the audit log is whole, for tests of what writes to it."""

from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.record import audit


async def verify_chain(connection: AsyncConnection) -> int | None:
    """The number of the first entry that does not follow from those before it; None if all do."""
    finding = (await audit.examine(connection, ())).finding
    return finding.first if finding is not None else None
