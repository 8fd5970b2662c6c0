"""Which schema a database has, and how it comes to this Cordon's: by the scripts in ``migrations``.

Every process looks which one it is, and hardly any has to change it. So looking reads one table and the names
of the scripts. Alembic, a fifth of what a process would load, comes in when there is something to change.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, column, inspect, select, table

MIGRATIONS: Final = Path(__file__).resolve().parents[2] / "migrations"

_VERSION: Final = table("alembic_version", column("version_num"))


def known() -> frozenset[str]:
    """The revisions that this Cordon has scripts for. A script's name begins with its own."""
    return frozenset(script.name.partition("_")[0] for script in (MIGRATIONS / "versions").glob("*_*.py"))


def current() -> str:
    """The revision that this Cordon speaks: the newest."""
    return max(known())


def revisions(connection: Connection) -> set[str]:
    """What a database says of itself: one revision, none if it is empty, or whatever somebody put there."""
    if not inspect(connection).has_table(_VERSION.name):
        return set()
    return set(connection.execute(select(_VERSION.c.version_num)).scalars())


def upgrade(connection: Connection) -> None:
    """Bring the tables to this Cordon's schema, in the transaction that has begun."""
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
