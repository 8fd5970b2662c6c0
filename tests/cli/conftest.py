"""What tests of the command line share: the real command, and a gate's state made with it."""

import asyncio
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.settings import StoreSettings
from demo.pictures import edited, encoded, scene
from tests.cli.prefork import Forker, started_forker
from tests.gates import RunningGate, environment, prepare, running_gate, wait_for
from tests.worlds import MediaHost

BANKED = encoded(scene(7), "PNG")
EDITED = encoded(edited(scene(7)), "JPEG", quality=70)
HARMLESS = encoded(scene(21), "JPEG", quality=90)
FLAT = encoded(Image.new("RGB", (400, 300), (90, 120, 150)), "PNG")
WORDS = b"These are plain words under a picture's name.\n" * 20


@dataclass(frozen=True)
class Ran:
    """What one run of the command came to."""

    code: int
    out: bytes
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON line on stdout."""
        (document,) = self.documents
        return document


@dataclass(frozen=True)
class Cordon:
    """The real command on one state directory."""

    home: Path
    forker: Forker

    @property
    def environment(self) -> dict[str, str]:
        """What it runs with: this gate's settings, and no other's."""
        store = StoreSettings(state_dir=self.home / "state")
        return environment(store, decoders="1", fetch_allow="127.0.0.0/8", fetch_ports="*")

    def __call__(
        self, *arguments: str | Path, stdin: bytes = b"", given: Mapping[str, str] | None = None
    ) -> Ran:
        """Run one command to its end in the home directory, with these variables on top of its own."""
        code, out, err = self.forker.run(
            [str(argument) for argument in arguments],
            stdin=stdin,
            environment={**self.environment, **(given or {})},
            directory=self.home,
        )
        return Ran(code, out, err.decode())


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """What starts the commands of these tests."""
    with started_forker() as started:
        yield started


@pytest.fixture
def cordon(tmp_path: Path, forker: Forker) -> Cordon:
    """The command, with no state yet."""
    home = tmp_path / "home"
    home.mkdir()
    return Cordon(home, forker)


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory, forker: Forker) -> Cordon:
    """The site, as every test that has one of its own begins with it."""
    cordon = Cordon(tmp_path_factory.mktemp("untouched"), forker)
    for name in ("ada", "grace"):
        made = cordon("custodian", "keygen", "--out", f"{name}.key")
        public_key, signing_key = made.out.decode().strip(), made.err.split("--signing-key ")[1].split()[0]
        assert cordon("custodian", "add", name, public_key, "--signing-key", signing_key).code == 0
    pictures(cordon.home)
    hashed = cordon("bank", "hash", "banked.png", "--json")
    assert cordon("bank", "create", "known", "--kind", "csam", "--action", "report").code == 0
    assert cordon("bank", "import", "known", "-", stdin=hashed.out).code == 0
    assert cordon("bank", "create-test").code == 0
    return cordon


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, untouched: Cordon, forker: Forker) -> Cordon:
    """The command on a gate that takes media in: ada and grace, the bank ``known`` of BANKED, a test bank.

    Its reports are those of all tests that have no site of their own.
    """
    home = tmp_path_factory.mktemp("site")
    shutil.copytree(untouched.home, home, dirs_exist_ok=True)
    return Cordon(home, forker)


@pytest.fixture
def own(untouched: Cordon, cordon: Cordon) -> Cordon:
    """The same, for one test alone."""
    shutil.copytree(untouched.home, cordon.home, dirs_exist_ok=True)
    return cordon


@pytest.fixture(scope="session")
def animation() -> bytes:
    """A GIF of two scenes, a second each."""
    frames = [scene(seed).resize((320, 240)) for seed in (7, 21)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=1000)
    return file.getvalue()


def pictures(folder: Path) -> None:
    """Write the pictures of these tests to a folder."""
    for name, content in {
        "banked.png": BANKED,
        "edited.jpg": EDITED,
        "harmless.jpg": HARMLESS,
        "flat.png": FLAT,
        "words.jpg": WORDS,
    }.items():
        (folder / name).write_bytes(content)


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory, forker: Forker) -> Iterator[RunningGate]:
    """A running gate whose bank lists BANKED."""
    store = StoreSettings(state_dir=tmp_path_factory.mktemp("gate") / "state")
    with running_gate(asyncio.run(prepare(store))) as running:
        home = store.state_dir.parent
        cordon = Cordon(home, forker)
        pictures(home)
        hashed = cordon("bank", "hash", "banked.png", "--json")
        assert cordon("bank", "create", "known", "--kind", "csam", "--action", "report").code == 0
        assert cordon("bank", "import", "known", "-", stdin=hashed.out).code == 0
        assert cordon("bank", "create-test").code == 0
        wait_for(lambda: running.client("ops").get("/v1/status").json()["ready"])
        yield running


@pytest.fixture(scope="session")
def host() -> Iterator[MediaHost]:
    """Serves the pictures on loopback."""
    files = {
        "/banked.png": (BANKED, "image/png"),
        "/edited.jpg": (EDITED, "image/jpeg"),
        "/harmless.jpg": (HARMLESS, "image/jpeg"),
        "/flat.png": (FLAT, "image/png"),
    }
    with MediaHost(files) as serving:
        yield serving


def pixels_of(content: bytes) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(io.BytesIO(content)) as picture:
        return picture.size
