"""Long work shows on a terminal how far it has come, and leaves nothing of that elsewhere."""

import asyncio
import os
import pty
import re
import subprocess
import threading
from pathlib import Path

from app.settings import StoreSettings
from app.store import processes
from app.store.banks.bank_signals import SMALL_CHANGE
from app.store.database import open_current
from tests.cli.conftest import Cordon
from tests.gates import CORDON


def on_terminal(state: Path, *arguments: str, code: int = 0) -> str:
    """What a command shows where its error output is a terminal."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                shown.extend(os.read(ours, 65536))
            except OSError:
                return

    reading = threading.Thread(target=read)
    reading.start()
    environment = os.environ | {"CORDON_STATE_DIR": str(state), "TERM": "xterm", "COLUMNS": "100"}
    ran = subprocess.run([CORDON, *arguments], check=False, env=environment, stderr=theirs, timeout=120)
    os.close(theirs)
    reading.join()
    os.close(ours)
    assert ran.returncode == code
    return shown.decode()


def test_a_large_import_shows_how_far_it_has_come(tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    numbers = range(1, 3 * SMALL_CHANGE)
    listed.write_text("type,value\n" + "".join(f"pdq,{number:064x}\n" for number in numbers))
    state = tmp_path / "state"
    on_terminal(state, "bank", "create", "large", "--kind", "other", "--action", "block")

    shown = on_terminal(state, "bank", "import", "large", str(listed))

    said = ["checking", "importing", "20,000", "new in bank large", "built"]
    places = [shown.index(each) for each in said]
    assert places == sorted(places)


async def test_an_import_that_waits_shows_that_it_waits(tmp_path: Path) -> None:
    """A gate that builds its index for minutes must not look like a second that is left of the import."""
    state = tmp_path / "state"
    await asyncio.to_thread(
        on_terminal, state, "bank", "create", "small", "--kind", "other", "--action", "block"
    )
    listed = tmp_path / "list.csv"
    listed.write_text("type,value\n" + "".join(f"pdq,{1 + n:064x}\n" for n in range(SMALL_CHANGE + 1)))
    importing = ("bank", "import", "small", str(listed), "--wait", "5")
    async with open_current(StoreSettings(state_dir=state)) as database:
        gate = await processes.register(database, processes.GATE)
        ran = asyncio.create_task(asyncio.to_thread(on_terminal, state, *importing, code=1))
        # One that says nothing for a while is taken for gone.
        while not (await asyncio.wait([ran], timeout=1))[0]:
            await processes.heartbeat(database, gate, 0)
    shown = ran.result()

    said = ["checking", "importing", "new in bank small", "waiting", "not in force in 1 running process"]
    places = [shown.index(each) for each in said]
    assert places == sorted(places)
    made_up = re.findall(r"[0-9]:[0-9]{2}:[0-9]{2}", shown[shown.index("waiting") :])
    assert made_up == [], "nobody knows how long that takes"


def test_work_on_many_reports_shows_how_far_it_has_come(own: Cordon) -> None:
    """Sealing anew and verifying; each to the last report."""
    assert own("ingest", "banked.png", "edited.jpg").code == 3
    state, key = own.home / "state", str(own.home / "ada.key")
    assert "sealing anew" in on_terminal(state, "report", "reseal", "--identity", key)
    verified = on_terminal(state, "audit", "verify")
    assert "comparing reports" in verified
    assert "2/2" in verified


def test_what_is_no_terminal_sees_no_bar(cordon: Cordon) -> None:
    cordon("bank", "create", "small", "--kind", "other", "--action", "block")

    ran = cordon("bank", "import", "small", "-", stdin=b"type,value\npdq," + b"1" * 64 + b"\n")

    assert ran.err.splitlines() == ["cordon: 1 signals are new in bank small"]
