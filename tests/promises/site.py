"""A whole Cordon for the thief: gate, worker and double as processes, the web process as a user of its own.

It is laid out as the docs ask for: the web process cannot read the worker's key, nor write whom reports are
sealed to. ``Site`` has what its people do, by command, and what its thief does.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import ImageOps

from app.custody.identity import generate, write_identity
from app.custody.roster import Pinned, Roster, RosterFile, WorkerKeys
from app.settings import StoreSettings
from demo.pictures import edited, encoded, scene
from tests.filing.double import Double
from tests.gates import CORDON, RunningGate, environment, fill_bank, prepare, running_gate, wait_for
from tests.jail import ROOT, as_user

NOBODY_ELSE = 61001
"""A user that nothing runs as but the web process."""

BANKED = encoded(scene(7), "PNG")
CERTAIN = BANKED
"""What the worker files by itself, where that is on."""
UNCERTAIN = encoded(ImageOps.mirror(edited(scene(7))), "JPEG", quality=70)

REPORTER = {
    "reporter_first_name": "Ada",
    "reporter_last_name": "Lovelace",
    "reporter_email": "ada@analytical.org",
    "reporter_company": "Analytical Society",
    "reporter_role": "voluntary",
}


@dataclass
class Site:
    """Where it all runs.

    Attributes:
        folder: ``web`` is the web process's, ``office`` nobody's but the worker's and the custodians'.
        user: who the web process runs as.
        web: settings that the web process was started with.
        office: settings of the worker, and of the custodians' commands.
        accounts: words that stand in reports, and must stand nowhere else.
    """

    folder: Path
    user: int
    web: dict[str, str]
    office: dict[str, str]
    double: Double
    gate: RunningGate
    accounts: list[str] = field(default_factory=list)

    @property
    def worker_key(self) -> Path:
        """The worker's key."""
        return Path(self.office["filing_identity"])

    @property
    def log(self) -> str:
        """What the worker logged."""
        return (self.folder / "office" / "worker.log").read_text()

    def matched(self, picture: bytes = UNCERTAIN) -> str:
        """The id of a new report: of an upload by an account of its own."""
        account = f"canary-account-{len(self.accounts)}"
        self.accounts.append(account)
        said = json.dumps({"account_id": account, "source_url": f"https://canary.example/{account}"})
        parts: Any = {"media": ("p", picture, "image/png"), "context": (None, said)}
        answer = self.gate.client().post("/v1/ingest", files=parts).json()
        return str(answer["report"]["id"])

    def state(self, report_id: str) -> str:
        """Where a report is."""
        return str(self.gate.client("report").get(f"/v1/reports/{report_id}").json()["state"])

    def is_filed(self, report_id: str) -> bool:
        """Whether the double has it."""
        return bool(self.double.tell(report_id)["filed_exactly_once"])

    @property
    def key_is_out_of_reach(self) -> bool:
        """What the gate says of the worker's key."""
        controls = self.gate.client("ops").get("/v1/status").json()["controls"]
        (told,) = [each for each in controls if each["control"] == "worker_key_out_of_reach"]
        return bool(told["in_force"])

    def cordon(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the office."""
        return subprocess.run(
            [CORDON, *command],
            env=self._environment,
            cwd=self.folder / "office",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def decide(self, what: str, report_id: str, *said: str) -> None:
        """Approve or reject, as ada."""
        ran = self.cordon("report", what, report_id, "--identity", "ada.key", "--yes", *said)
        assert ran.returncode == 0, ran.stderr

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Run the worker."""
        with (self.folder / "office" / "worker.log").open("ab") as log:
            worker = subprocess.Popen([CORDON, "worker"], env=self._environment, stderr=log)
        try:
            yield
        finally:
            worker.kill()
            worker.wait(10)

    def wait_until_the_worker_saw(self, entries: int) -> None:
        """Wait until it has read so much of the audit log."""
        seen = Path(f"{self.worker_key}.seen")
        wait_for(lambda: seen.exists() and json.loads(seen.read_text())["seq"] >= entries)

    def keep_checkpoint(self) -> int:
        """Sign the log as ada, and keep the line where the office is; how many entries there are."""
        signed = self.cordon("audit", "checkpoint", "--identity", "ada.key", "--out", "kept")
        assert signed.returncode == 0, signed.stderr
        return int(json.loads(json.loads(signed.stdout)["signed"])["seq"])

    def steal(self, what: str, *arguments: str) -> Any:
        """Run the thief as what the web process is."""
        own = self.folder / "web" / "thief"
        if not own.exists():
            own.mkdir()
            os.chown(own, self.user, self.user)
        ran = subprocess.run(
            as_user(self.user, [sys.executable, "-m", "tests.promises.thief", what, str(own), *arguments]),
            env=environment(self.gate.prepared.store, **self.web) | {"PYTHONDONTWRITEBYTECODE": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    @property
    def _environment(self) -> dict[str, str]:
        state = StoreSettings(state_dir=self.folder / "office" / "state")
        return environment(state, **self.office)


@contextlib.contextmanager
def site(store: StoreSettings, double: Double, *, automatic: bool = False) -> Iterator[Site]:
    """Build it on a database, with the gate running; the worker is started with ``Site.working``."""
    folder = Path(tempfile.mkdtemp(prefix="cordon-site-"))
    folder.chmod(0o755)
    try:
        with _site(folder, store, double, automatic=automatic) as built:
            yield built
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _site(folder: Path, store: StoreSettings, double: Double, *, automatic: bool) -> Iterator[Site]:
    web, office, pinned = folder / "web", folder / "office", folder / "pinned"
    office.mkdir(mode=0o700)
    pinned.mkdir(mode=0o755)
    web.mkdir()
    prepared = asyncio.run(prepare(store.model_copy(update={"state_dir": web / "state"})))
    user = _user(store)
    give(user, web)
    worker = generate()
    for name, identity in zip(("ada", "grace", "worker"), (*prepared.custodians, worker), strict=True):
        write_identity(identity, office / f"{name}.key")
    RosterFile(pinned / "custodians").write(
        Roster(
            tuple(
                Pinned(name, each.public_key, each.signing_public_key)
                for name, each in zip(("ada", "grace"), prepared.custodians, strict=True)
            ),
            WorkerKeys.of(worker),
        )
    )
    (pinned / "custodians").chmod(0o644)
    both: dict[str, Any] = {
        "custodians": str(pinned / "custodians"),
        "cybertip": "double",
        "cybertip_double_url": double.url,
        # So that the gate sees whether it could read it.
        "filing_identity": str(office / "worker.key"),
    }
    if automatic:
        both["autofile"] = "true"
    # Another directory of state than the web process's, as on another machine; the same database.
    there = store.database_url or f"sqlite:///{web / 'state' / 'cordon.db'}"
    with running_gate(prepared, wrapper=tuple(as_user(user, [])), **both, place_key="k" * 32) as gate:
        fill_bank(gate, "list", BANKED)
        yield Site(
            folder,
            user,
            web=both | {"place_key": "k" * 32},
            office=both | REPORTER | {"database_url": there},
            double=double,
            gate=gate,
        )


def _user(store: StoreSettings) -> int:
    """Who the web process runs as: on PostgreSQL who may reach its socket, and so all of its files too."""
    if store.database_url is None:
        return NOBODY_ELSE
    (folder,) = parse_qs(urlsplit(store.database_url).query)["host"]
    return Path(folder).stat().st_uid


def give(user: int, *folders: Path) -> None:
    """Make all of it a user's."""
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user)
