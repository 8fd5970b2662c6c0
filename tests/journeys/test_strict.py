"""The strict gate, started as Docker would run it; and one that lacks a control, which does not start."""

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from app.settings import StoreSettings
from tests.gates import Prepared, fill_bank, prepare, running_gate
from tests.jail import CAN_CONTAIN, NO_LANDLOCK, contained, refusing
from tests.journeys.conftest import BANKED, EDITED, HARMLESS

_NOBODY = 65534


@pytest.fixture
def prepared_for_nobody() -> Iterator[Prepared]:
    """A gate's state on the one file system that stays writable under a read-only root, nobody's own."""
    folder = Path("/dev/shm") / f"cordon-strict-{uuid4().hex}"  # noqa: S108 - a tmpfs, as containers have
    folder.mkdir(mode=0o700)
    try:
        prepared = asyncio.run(prepare(StoreSettings(state_dir=folder / "state")))
        for path in (folder, *folder.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY)
        yield prepared
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(not CAN_CONTAIN, reason="only root can build the container's mounts")
def test_a_strict_gate_works_as_docker_runs_it(prepared_for_nobody: Prepared) -> None:
    """As nobody, without a capability, on a read-only root, refused namespaces: all required is in force."""
    with running_gate(prepared_for_nobody, wrapper=tuple(contained([])), strict="true") as gate:
        fill_bank(gate, "mock-list", BANKED)
        verdicts = [
            gate.client()
            .post("/v1/ingest", content=content, headers={"Content-Type": "image/jpeg"})
            .json()["verdict"]
            for content in (HARMLESS, EDITED)
        ]
        assert verdicts == ["clear", "match"]
        controls = {each["control"]: each for each in gate.client("ops").get("/v1/status").json()["controls"]}
        assert all(each["in_force"] for each in controls.values() if each["required"])
        assert not controls["network_namespace"]["in_force"]
        metrics = gate.public("/metrics").text
        assert 'cordon_control{control="seccomp"} 1.0' in metrics
        assert 'cordon_control{control="network_namespace"} 0.0' in metrics
        assert all(f'cordon_control{{control="{name}"}}' in metrics for name in controls)
        lines = [json.loads(line) for line in gate.log.read_text().splitlines()]
        (told,) = [line for line in lines if line["event"] == "controls"]
        assert {name: told[name] for name in controls} == {
            name: each["in_force"] for name, each in controls.items()
        }


def test_a_strict_gate_that_lacks_a_control_does_not_start(tmp_path: Path) -> None:
    """It names what is missing; the same gate starts where strict is off."""
    prepared = asyncio.run(prepare(StoreSettings(state_dir=tmp_path / "state")))
    wrapper = tuple(refusing(NO_LANDLOCK, []))
    with (
        pytest.raises(AssertionError, match="landlock"),
        running_gate(prepared, wrapper=wrapper, strict="true"),
    ):
        pass
    with running_gate(prepared, wrapper=wrapper) as gate:
        assert gate.public("/livez").status_code == 200
