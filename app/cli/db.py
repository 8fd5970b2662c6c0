"""``cordon db``: the database's schema."""

import asyncio

import typer

from app.cli.console import say

app = typer.Typer(no_args_is_help=True)


@app.callback()
def db() -> None:
    """Bring the database to this Cordon's schema, or check that it has it.

    Which database, CORDON_DATABASE_URL says; without it, it is cordon.db in CORDON_STATE_DIR.

        cordon db check
        cordon db upgrade
    """


@app.command()
def upgrade() -> None:
    """Bring the database to this Cordon's schema. Make a backup first, and stop the gates.

    An empty database needs no upgrade: every command that uses it makes its tables. Doing it twice is no
    error.

        cordon db upgrade
    """
    asyncio.run(_upgrade())
    say("the database is current")


@app.command()
def check() -> None:
    """Exit 0 if the database has this Cordon's schema, else 1. Changes nothing.

    cordon db check && cordon serve
    """
    asyncio.run(_check())
    say("the database is current")


async def _upgrade() -> None:
    from app.cli.state import read_settings
    from app.store.database import Database

    database = Database.open(read_settings().store)
    try:
        await database.upgrade()
    finally:
        await database.close()


async def _check() -> None:
    from app.cli.state import read_settings
    from app.store.database import Database

    database = Database.open(read_settings().store)
    try:
        await database.check_current()
    finally:
        await database.close()
