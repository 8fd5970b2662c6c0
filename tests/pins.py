"""Custodians of a database for tests: a row, and a pin beside it, as ``cordon custodian add`` makes both."""

from app.custody.identity import Identity, generate
from app.custody.roster import RosterFile
from app.settings import StoreSettings
from app.store import custodians
from app.store.database import Database
from app.store.record import audit


def pins_of(store: StoreSettings) -> RosterFile:
    """The file of the pinned, where a gate looks for it by default."""
    return RosterFile(store.state_dir / "custodians")


async def add_custodian(
    database: Database, pins: RosterFile, name: str = "ada", identity: Identity | None = None
) -> Identity:
    """Add one more custodian; their identity."""
    identity = identity or generate()
    async with database.begin() as connection:
        added = await custodians.add(
            connection,
            name=name,
            untrusted_public_key=identity.public_key,
            untrusted_signing_key=identity.signing_public_key,
        )
        pins.write(pins.read_if_there().with_custodian(added.as_pinned))
    return identity


async def remove_custodian(database: Database, pins: RosterFile, name: str) -> None:
    """Remove a custodian."""
    async with database.begin() as connection:
        newest = await audit.settled_head(connection)
        await custodians.remove(connection, name)
        pins.write(pins.read().without_custodian(name, until=newest.seq if newest is not None else None))
