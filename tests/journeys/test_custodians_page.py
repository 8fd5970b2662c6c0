"""What docs/custodians.md teaches, command by command, against the real gate, worker and double.

Commands are read from the page and run as they stand; what they print must be what the page shows. Keys,
tokens, ids and times are others in each run: where a command of the page holds one that an earlier command
printed, the one of this run takes its place. A line ``...`` stands for lines that the page leaves out.
"""

import contextlib
import os
import pty
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.ahead import shim
from tests.gates import CORDON, wait_for
from tests.ports import held_port

PAGE = Path(__file__).parents[2] / "docs" / "custodians.md"
FIRST, LAST = "## Practise it once, from the match to the purge", "## Read a report"
YEAR_LATER = "### A year later"

_OTHER_IN_EACH_RUN = re.compile(
    r"age1[0-9a-z]{58}|ed25519:[0-9A-Za-z+/]{43}=|\b01[0-9A-HJKMNP-TV-Z]{24}\b|\b[0-9a-f]{16}\b"
    r"|\b\d{12}\b|(?<=whole: )\d+|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?\+00:00)?"
)
_STAYS_RUNNING = {"cordon serve", "cordon worker", "cordon dev cybertip-double"}


@dataclass(frozen=True)
class Step:
    """A command of the page, the heading it stands under, and the lines that it is shown to print."""

    heading: str
    command: str
    shown: Sequence[str]


@dataclass
class Journey:
    """A folder, the programs that run in it, and what this run printed in place of what the page shows."""

    home: Path
    gate: str
    double: str
    printed: dict[str, str] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    cordon: Path = CORDON

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CORDON_")}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        # Two of the defaults, which others on this machine may use: the ports.
        ports = {
            "CORDON_PORT": self.gate.rpartition(":")[2],
            "CORDON_CYBERTIP_DOUBLE_URL": f"{self.double}/ispws",
        }
        return kept | ports | {"PATH": f"{self.cordon.parent}:{kept['PATH']}", "COLUMNS": "200"}

    def take(self, step: Step) -> None:
        """Run a command, and hold what it prints against the page."""
        if step.command in _STAYS_RUNNING:
            self._start(step.command)
            return
        # What the worker does takes it a moment: what only looks is run until it sees it.
        patient = step.command.startswith(("cordon report show", "cordon report list"))
        deadline = time.monotonic() + (40 if patient else 0)
        while (differs := self._differs(step.shown, out := self._run(step.command))) is not None:
            assert time.monotonic() < deadline, f"$ {step.command}\npage: {differs}\nrun:\n{out}"
            time.sleep(0.5)

    def _run(self, command: str) -> str:
        for shown, real in self.printed.items():
            command = command.replace(shown, real)
        command = command.replace("http://127.0.0.1:8080", self.gate)
        teacher, terminal = pty.openpty()
        ran = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.home,
            env=self.environment,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert ran.stdout is not None
        printed = b""
        try:
            while heard := os.read(ran.stdout.fileno(), 65_536):
                printed += heard
                if printed.endswith(b"? [y/N] "):
                    os.write(teacher, b"y\n")
            ran.wait(timeout=60)
        finally:
            ran.kill()
            ran.stdout.close()
            os.close(teacher)
            os.close(terminal)
        return printed.decode().replace("? [y/N] ", "? [y/N] y\n")

    def _differs(self, shown: Sequence[str], out: str) -> str | None:
        """The first line of the page that the run did not print; None if it printed what the page shows."""
        lines = iter(out.splitlines())
        skips = False
        for expected in shown:
            if expected == "...":
                skips = True
                continue
            for line in lines:
                if _same(expected, line):
                    self._note(expected, line)
                    break
                if not skips:
                    return expected
            else:
                return expected
            skips = False
        rest = list(lines)
        return f"(no more lines) {rest[0]}" if rest and not skips else None

    def _note(self, expected: str, line: str) -> None:
        pairs = zip(_OTHER_IN_EACH_RUN.finditer(expected), _OTHER_IN_EACH_RUN.finditer(line), strict=True)
        self.printed |= {shown[0]: real[0] for shown, real in pairs if "-" not in shown[0]}

    def _start(self, command: str) -> None:
        port = f" --port {self.double.rpartition(':')[2]}" if "double" in command else ""
        with (self.home / f"{len(self.running)}.log").open("wb") as log:
            self.running.append(
                subprocess.Popen(
                    [*f"{command}{port}".split()],
                    cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )
            )  # fmt: skip
        if "serve" in command:
            wait_for(lambda: _answers(f"{self.gate}/readyz"))
        elif "double" in command:
            wait_for(lambda: _answers(f"{self.double}/double/reports/none"))

    def a_year_later(self, command: str) -> str:
        """What a command prints in a copy of this folder, by a clock that is a year ahead."""
        later = self.home.with_name("a year later")
        shutil.copytree(self.home, later, ignore=shutil.ignore_patterns("cordon.db*"))
        with (
            contextlib.closing(sqlite3.connect(self.home / ".cordon" / "cordon.db")) as now,
            contextlib.closing(sqlite3.connect(later / ".cordon" / "cordon.db")) as then,
        ):
            now.backup(then)
        ahead = Journey(later, self.gate, self.double, cordon=shim(later / "ahead", days=367))
        return ahead._run(command)

    def filed(self) -> dict[str, object]:
        """What came of the one report at the double."""
        report_id = self._run("cordon report list --json").split('"')[3]
        told: dict[str, object] = httpx.get(
            f"{self.double}/double/reports/{report_id}", timeout=60, trust_env=False
        ).json()
        return told


@pytest.fixture
def journey(tmp_path: Path) -> Iterator[Journey]:
    home = tmp_path / "practice"
    home.mkdir()
    with held_port() as gate, held_port() as double:
        journey = Journey(home, f"http://127.0.0.1:{gate}", f"http://127.0.0.1:{double}")
        yield journey
        for process in journey.running:
            process.terminate()
        for process in journey.running:
            process.wait(45)


def test_the_page_leads_somebody_who_is_no_programmer_from_the_match_to_the_purge(journey: Journey) -> None:
    """Every command of it, in order; the double has the report exactly once, and in the end it is gone."""
    (journey.home / "cordon.toml").write_text(_block("toml"))
    steps = _steps()
    assert len(steps) > 25
    for number, step in enumerate(steps):
        if step.heading == YEAR_LATER != steps[number - 1].heading:
            assert journey.filed()["filed_exactly_once"]
            assert journey.a_year_later("cordon report purge").splitlines() == _block("text").splitlines()
        journey.take(step)
    assert [process.poll() for process in journey.running] == [None] * 3


def _section() -> list[str]:
    lines = PAGE.read_text().splitlines()
    return lines[lines.index(FIRST) : lines.index(LAST)]


def _block(kind: str) -> str:
    lines = _section()
    start = lines.index(f"```{kind}") + 1
    return "\n".join(lines[start : lines.index("```", start)])


def _steps() -> list[Step]:
    steps: list[Step] = []
    heading, inside = "", False
    shown: list[str] = []
    for line in _section():
        if line.startswith("###"):
            heading = line
        elif line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            shown = []
            steps.append(Step(heading, line.removeprefix("$ "), shown))
        elif inside:
            shown.append(line)
    return steps


def _same(expected: str, line: str) -> bool:
    """Whether two lines say the same but for what is other in each run, and for how wide columns are."""
    plain = [" ".join(_OTHER_IN_EACH_RUN.sub("~", each).split()) for each in (expected, line)]
    return plain[0] == plain[1]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=60, trust_env=False).is_success
    except httpx.TransportError:
        return False
