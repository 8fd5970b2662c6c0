"""What commands that work on a gate's state share."""

import contextlib
from collections.abc import AsyncIterator

from app import log
from app.cli.console import say
from app.custody.roster import RosterFile
from app.settings import Settings, load
from app.store.database import Database, open_current

BY: str = "cli"
"""Who did it, in the audit log: whoever can write to the database from here."""


def read_settings() -> Settings:
    """The settings of the environment and ``cordon.toml``; what goes wrong inside is logged from now on.

    Raises:
        SettingsError: a setting is wrong.
    """
    log.configure("warning")
    return load()


@contextlib.asynccontextmanager
async def open_state(settings: Settings | None = None) -> AsyncIterator[Database]:
    """The database that the settings name: migrated if it was empty, refused if it is old.

    Raises:
        SettingsError, NotReadyError, SchemaError: it cannot be used as it is.
    """
    async with open_current((settings or read_settings()).store) as database:
        yield database


@contextlib.asynccontextmanager
async def open_custody() -> AsyncIterator[tuple[Database, RosterFile]]:
    """The database, and the file of the pinned custodians.

    Where no file is named and none is there yet, the database's custodians are pinned, and that is told.

    Raises:
        SettingsError, NotReadyError, SchemaError: the database cannot be used as it is.
    """
    from app.store import custodians

    settings = read_settings()
    pins = RosterFile(settings.roster_path)
    there = pins.path.exists()
    async with open_state(settings) as database:
        await custodians.open_pins(database, pins, trust_first=settings.custody.custodians is None)
        if not there and pins.path.exists():
            say("pinned the custodians that the database told of; compare their fingerprints:")
            for each in pins.read().custodians:
                say(f"  {each.fingerprint}  {each.name}")
        yield database, pins
