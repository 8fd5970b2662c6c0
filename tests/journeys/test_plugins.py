"""A running gate with a custodian whose key takes an age plugin: it seals by that, or takes nothing in."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.custody.identity import read_identity
from app.custody.roster import Pinned
from app.report.outbox import SEALING_AT_ONCE
from app.settings import StoreSettings
from demo.pictures import encoded, scene
from tests import age_plugin
from tests.age_plugin import Oddity, Plugin
from tests.gates import RunningGate, fill_bank, prepare, running_gate, wait_for
from tests.journeys.conftest import BANKED, EDITED
from tests.pins import pins_of

HARMLESS = encoded(scene(21), "JPEG", quality=90)


@dataclass(frozen=True)
class Site:
    """A gate that seals to ada, grace, and pia, whose key is a plugin's."""

    gate: RunningGate
    pia: Plugin

    def take(self, medium: bytes) -> httpx.Response:
        """What it answers to a medium."""
        return self.gate.client().post("/v1/ingest", content=medium, headers={"Content-Type": "image/jpeg"})

    def ready(self) -> httpx.Response:
        """What it says of itself."""
        return self.gate.public("/readyz")

    @property
    def reports(self) -> int:
        """How many it stored."""
        return len(self.gate.client("report").get("/v1/reports").json()["reports"])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The gate, pia's plugin in its PATH, and a bank."""
    pia = age_plugin.install(tmp_path / "bin", "pia")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    prepared = asyncio.run(prepare(StoreSettings(state_dir=tmp_path / "state")))
    with running_gate(prepared) as gate:
        pins = pins_of(prepared.store)
        pins.write(pins.read().with_custodian(Pinned("pia", pia.recipient)))
        fill_bank(gate, "list", BANKED)
        yield Site(gate, pia)


def test_a_match_is_sealed_by_the_plugins_program_before_it_is_answered(site: Site, tmp_path: Path) -> None:
    """Pia's identity opens it, and so does ada's own key; a later sighting of it joins it."""
    answer = site.take(EDITED).json()
    assert answer["verdict"] == "match"
    sealed = site.gate.client("report").get(f"/v1/reports/{answer['report']['id']}/sealed").content
    pia = read_identity(site.pia.write_identity(tmp_path / "pia.txt"), attended=True)
    (ada, _) = site.gate.prepared.custodians
    stub = json.loads(pia.decrypt(sealed))
    assert stub == json.loads(ada.decrypt(sealed))
    assert stub["report_id"] == answer["report"]["id"]
    assert _controls(site)["custodian_plugins_found"]


def test_a_gate_without_the_program_takes_nothing_in_until_it_is_there(site: Site) -> None:
    """It says so at once, by name to the operator, and by the name of the check to everybody else."""
    hidden = site.pia.program.rename(site.pia.program.with_name("hidden"))
    wait_for(lambda: site.ready().status_code == httpx.codes.SERVICE_UNAVAILABLE)
    assert site.ready().json()["failing"] == ["custodian"]
    wait_for(lambda: site.take(HARMLESS).status_code == httpx.codes.SERVICE_UNAVAILABLE)
    assert site.take(EDITED).json()["code"] == "not_ready"
    assert not _controls(site)["custodian_plugins_found"]
    wait_for(lambda: b'"programs": "age-plugin-pia"' in site.gate.log.read_bytes())
    hidden.rename(site.pia.program)
    wait_for(lambda: site.ready().status_code == httpx.codes.OK)
    assert site.take(EDITED).json()["verdict"] == "match"


@pytest.mark.parametrize("oddity", [Oddity.CRASHES, Oddity.REFUSES])
def test_a_match_that_a_plugin_does_not_seal_is_not_answered_and_not_released(
    site: Site, oddity: Oddity
) -> None:
    """Not stored for the other custodians alone either: it is asked again, and then it is stored once."""
    site.pia.become(oddity)
    for _ in range(2):
        answer = site.take(EDITED)
        assert (answer.status_code, answer.json()["code"]) == (503, "report_not_stored")
    assert site.reports == 0
    log = site.gate.log.read_bytes()
    assert b"age-plugin-pia did not seal" in log
    assert b"not plugged in" not in log
    site.pia.become(Oddity.NONE)
    assert site.take(EDITED).json()["verdict"] == "match"
    assert site.reports == 1


def test_a_plugin_that_hangs_holds_up_its_own_match_alone_and_not_for_ever(site: Site) -> None:
    """While six matches wait for it, two of them for their turn, all else is answered and can be written."""
    site.pia.become(Oddity.HANGS)
    answers: list[httpx.Response] = []
    waiting = [threading.Thread(target=lambda: answers.append(_alone(site, EDITED))) for _ in range(6)]
    for each in waiting:
        each.start()
    # On a busy machine the first may be given up before the last began.
    wait_for(lambda: len(site.pia.running) == SEALING_AT_ONCE or not all(each.is_alive() for each in waiting))
    bank = site.gate.client("bank").put("/v1/banks/other", json={"kind": "test", "action": "block"})
    harmless = site.take(HARMLESS).json()["verdict"]
    held_up = [each for each in waiting if each.is_alive()]
    for each in waiting:
        each.join(60)
    assert (harmless, bank.status_code) == ("clear", 201)
    assert held_up
    assert [(each.status_code, each.json()["code"]) for each in answers] == [(503, "report_not_stored")] * 6
    assert b"age-plugin-pia did not seal within 10 seconds" in site.gate.log.read_bytes()
    site.pia.become(Oddity.NONE)
    assert site.take(EDITED).json()["verdict"] == "match"
    assert site.reports == 1


def _alone(site: Site, medium: bytes) -> httpx.Response:
    with site.gate.new_client() as client:
        return client.post("/v1/ingest", content=medium, headers={"Content-Type": "image/jpeg"})


def _controls(site: Site) -> dict[str, bool]:
    status = site.gate.client("ops").get("/v1/status").json()
    return {each["control"]: each["in_force"] for each in status["controls"]}
