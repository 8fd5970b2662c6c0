"""What journeys share: a running gate with a bank, on each database, and a picture host."""

import asyncio
from collections.abc import Iterator
from uuid import uuid4

import pytest
from PIL import ImageOps

from app.settings import StoreSettings
from demo.pictures import edited, encoded, scene
from tests.conftest import run_on_postgres
from tests.gates import Prepared, RunningGate, fill_bank, prepare, running_gate
from tests.worlds import Asked, MediaHost

BANKED = encoded(scene(7), "PNG")
EDITED = encoded(edited(scene(7)), "JPEG", quality=70)
MIRRORED = encoded(ImageOps.invert(ImageOps.mirror(edited(scene(7)))), "JPEG", quality=70)
HARMLESS = encoded(scene(21), "JPEG", quality=90)
FLAT = encoded(scene(21).resize((1, 1)).resize((400, 300)), "PNG")
WORDS = b"These are plain words under a picture's name.\n" * 20


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """A database with custodians and keys: first on SQLite, then on PostgreSQL."""
    state_dir = tmp_path_factory.mktemp("gate") / "state"
    if request.param == "sqlite":
        yield asyncio.run(prepare(StoreSettings(state_dir=state_dir)))
        return
    server: str = request.getfixturevalue("postgres_url")
    name = f"journey_{uuid4().hex}"
    asyncio.run(run_on_postgres(server, f"CREATE DATABASE {name}"))
    url = server.replace("@/postgres?", f"@/{name}?")
    yield asyncio.run(prepare(StoreSettings(state_dir=state_dir, database_url=url)))
    asyncio.run(run_on_postgres(server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="module")
def gate(prepared: Prepared) -> Iterator[RunningGate]:
    """A gate that is ready: its bank holds ``BANKED``, and a match is reported."""
    with running_gate(prepared) as running:
        fill_bank(running, "mock-list", BANKED)
        yield running


@pytest.fixture(scope="module")
def host() -> Iterator[MediaHost]:
    """Serves the journeys' pictures on loopback; what is under ``/slow`` takes half a second."""
    files = {
        "/banked.png": (BANKED, "image/png"),
        "/edited.jpg": (EDITED, "image/jpeg"),
        "/harmless.jpg": (HARMLESS, "image/jpeg"),
        "/flat.png": (FLAT, "image/png"),
        "/words.jpg": (WORDS, "image/jpeg"),
    }
    with MediaHost(files) as serving:
        serving.script("/slow/edited.jpg", _slowly_edited)
        yield serving


async def _slowly_edited(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(EDITED)}\r\n\r\n".encode())
    await writer.drain()
    await asyncio.sleep(0.5)
    writer.write(EDITED)
    await writer.drain()
