"""What is opened stays in memory: whoever holds a private key can be dumped by nobody."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.custody.identity import generate, write_identity
from app.report.seal import seal
from app.settings import StoreSettings
from app.store.database import Database
from tests.gates import environment

_TOLD = "print('dumpable', kernel.is_dumpable(), resource.getrlimit(resource.RLIMIT_CORE))"
COMMAND = f"""
import resource
from app import kernel
from app.cli.main import main
assert kernel.is_dumpable()
main()
{_TOLD}
"""
WORKER = f"""
import asyncio, os, resource, signal
from app import kernel
from app.settings import load
from app.worker import work

async def turn():
    working = asyncio.create_task(work(load()))
    await asyncio.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    await working

assert kernel.is_dumpable()
asyncio.run(turn())
{_TOLD}
"""
UNDUMPABLE = "dumpable False (0, 0)"


def _last_line(store: StoreSettings, code: str, *arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(store),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout.splitlines()[-1]


def test_a_custodian_who_opens_a_report_or_makes_a_key_leaves_no_core_dump(tmp_path: Path) -> None:
    """Their own machine is nobody's to harden: the command does it, before it reads the key."""
    ada = generate()
    write_identity(ada, tmp_path / "ada.key")
    (tmp_path / "report.age").write_bytes(seal(b'{"stub_version": 1}', (ada.public_key,)))
    store = StoreSettings(state_dir=tmp_path / "state")
    opening = (
        "report",
        "open",
        str(tmp_path / "report.age"),
        "--identity",
        str(tmp_path / "ada.key"),
        "--json",
    )
    assert _last_line(store, COMMAND, *opening) == UNDUMPABLE
    making = ("custodian", "keygen", "--out", str(tmp_path / "grace.key"))
    assert _last_line(store, COMMAND, *making) == UNDUMPABLE


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_the_worker_which_opens_what_it_files_leaves_no_core_dump(
    database: Database,
    store: StoreSettings,
) -> None:
    """It holds its own key, and the XML of every report that it files."""
    assert _last_line(store, WORKER) == UNDUMPABLE
