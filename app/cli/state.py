"""What commands that work on a gate's state share."""

import contextlib
from collections.abc import AsyncIterator

from app import log
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
