"""Controls are told as they are: in force where they hold, missing where something takes them away."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app import controls as module
from app.controls import controls
from app.hashing.sandbox import Sandbox
from app.settings import FilingSettings, HashingSettings, Settings, StoreSettings
from tests import jail

REQUIRED = {
    "no_new_privileges",
    "seccomp",
    "landlock",
    "limits",
    "not_dumpable",
    "memory_locked_or_no_swap",
}
REPORTED = {
    "network_namespace",
    "core_pattern_not_piped",
    "custodians_pinned",
    "custodian_plugins_found",
    "worker_key_out_of_reach",
    "compiled_search",
    "compiled_hashing",
}
NOWHERE = Settings(store=StoreSettings(state_dir=Path("nowhere")))

GATE = """
import asyncio, json, sys
from pathlib import Path
from app.controls import controls
from app.hashing.sandbox import Sandbox, SandboxError
from app.kernel import harden_this_process
from app.settings import HashingSettings, Settings, StoreSettings
from tests.hashing.sandboxes import told

async def main():
    harden_this_process()
    try:
        async with Sandbox(HashingSettings(decoders=1), scanner={scanner!r}) as sandbox:
            scan = await told(sandbox, {medium!r})
            settings = Settings(store=StoreSettings(state_dir=Path('nowhere')))
            found = [vars(control) for control in controls(sandbox, settings)]
            print(json.dumps({{"controls": found, "reason": scan.undecidable, "shape": vars(scan.shape),
                              "swap": open("/proc/swaps").read().count(chr(10)) > 1}}))
    except SandboxError as error:
        print(json.dumps({{"error": str(error)}}))

asyncio.run(main())
"""
DECOY_GATE = GATE.format(scanner="tests.hashing.decoys", medium="honest")


def run(command: list[str]) -> dict[str, Any]:
    """What a gate started by this command found."""
    ran = subprocess.run(
        command,
        capture_output=True,
        check=False,
        text=True,
        cwd=jail.ROOT,
        env=os.environ | {"PYTHONPATH": str(jail.ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def in_force(found: dict[str, Any]) -> set[str]:
    return {control["control"] for control in found["controls"] if control["in_force"]}


def gate(program: str) -> list[str]:
    return [sys.executable, "-c", program]


async def test_every_control_has_its_name_and_whether_strict_mode_requires_it() -> None:
    found = controls(Sandbox(HashingSettings()), NOWHERE)
    assert {control.control for control in found if control.required} == REQUIRED
    assert {control.control for control in found if not control.required} == REPORTED


async def test_nothing_that_decoders_prove_is_in_force_without_a_decoder() -> None:
    found = {control.control: control for control in controls(Sandbox(HashingSettings()), NOWHERE)}
    for name in REQUIRED - {"memory_locked_or_no_swap"}:
        assert not found[name].in_force


def test_a_hardened_gate_with_decoders_has_all_that_this_machine_gives() -> None:
    found = run(gate(DECOY_GATE))
    assert found["reason"] is None
    assert REQUIRED - {"memory_locked_or_no_swap"} <= in_force(found)


def test_a_gate_that_can_be_dumped_says_so() -> None:
    found = run(gate(DECOY_GATE.replace("harden_this_process()\n", "pass\n")))
    assert "not_dumpable" not in in_force(found)


def test_a_gate_where_namespaces_are_refused_works_and_says_so() -> None:
    found = run(jail.refusing(jail.NO_NAMESPACES, gate(DECOY_GATE)))
    assert found["reason"] is None
    assert "network_namespace" not in in_force(found)
    assert REQUIRED - {"memory_locked_or_no_swap"} <= in_force(found)


def test_a_gate_without_landlock_works_and_says_so() -> None:
    found = run(jail.refusing(jail.NO_LANDLOCK, gate(DECOY_GATE)))
    assert found["reason"] is None
    assert "landlock" not in in_force(found)
    assert {"seccomp", "limits", "no_new_privileges"} <= in_force(found)


def test_nothing_is_decoded_where_seccomp_is_refused() -> None:
    found = run(jail.refusing(jail.NO_SECCOMP, gate(DECOY_GATE)))
    assert found == {"error": "a decoder cannot lock itself: seccomp: Function not implemented"}


@pytest.mark.skipif(not jail.CAN_CONTAIN, reason="building the container's mounts needs root")
@pytest.mark.parametrize("user", [65534, 0])
def test_a_gate_contained_as_docker_does_it_has_every_required_control(user: int) -> None:
    """Also as root without capabilities. The real scanner, so that its preloading is tried there too."""
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 58, 0, 54, 40, 1, 1, 1, 24, 0, 4, 0, 0, 0, 0)
    drawn = header + bytes(4)
    program = GATE.format(scanner="app.hashing.scan", medium=drawn)
    found = run(jail.contained(gate(program), user=user))
    assert found["shape"]["format"] == "bmp"
    missing = {"memory_locked_or_no_swap"} if found["swap"] else set()
    of_the_machine = {
        "custodian_plugins_found",
        "core_pattern_not_piped",
        "compiled_search",
        "compiled_hashing",
        "worker_key_out_of_reach",
    }
    assert in_force(found) - of_the_machine == REQUIRED - missing


def test_memory_that_may_be_swapped_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the kernel would show, since no test can turn swap on."""
    (tmp_path / "self").mkdir()
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/core_pattern").write_text("|/usr/share/apport/apport\n")
    (tmp_path / "self/cgroup").write_text("0::/system.slice/cordon.service\n")
    (tmp_path / "self/status").write_text("VmSize:\t  1000 kB\nVmLck:\t       0 kB\n")
    header = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    (tmp_path / "swaps").write_text(header)
    groups = tmp_path / "cgroups"
    group = groups / "system.slice/cordon.service"
    group.mkdir(parents=True)
    monkeypatch.setattr(module, "_PROC", tmp_path)
    monkeypatch.setattr(module, "_CGROUPS", groups)

    def memory() -> bool:
        found = {
            control.control: control.in_force for control in controls(Sandbox(HashingSettings()), NOWHERE)
        }
        assert not found["core_pattern_not_piped"]
        return found["memory_locked_or_no_swap"]

    assert memory()
    (tmp_path / "swaps").write_text(header + "/dev/sda2 partition 1048576 0 -2\n")
    assert not memory()
    (group / "memory.swap.max").write_text("max\n")
    assert not memory()
    (group / "memory.swap.max").write_text("0\n")
    assert memory()
    (group / "memory.swap.max").write_text("max\n")
    (groups / "system.slice/memory.swap.max").write_text("0\n")
    assert memory(), "what a group above may not, one below may not"


def test_a_gate_that_can_read_the_workers_key_says_so(tmp_path: Path) -> None:
    """At the default place and at a named one; and so does one that can write what the worker remembers."""

    def told(settings: Settings) -> tuple[bool, str]:
        found = {each.control: each for each in controls(Sandbox(HashingSettings()), settings)}
        control = found["worker_key_out_of_reach"]
        return control.in_force, control.detail

    by_default = Settings(store=StoreSettings(state_dir=tmp_path))
    named = Settings(filing=FilingSettings(filing_identity=tmp_path / "named.key"))
    assert (told(by_default)[0], told(named)[0]) == (True, True)
    for settings in (by_default, named):
        settings.worker_memory_path.touch(0o600)
        in_force, detail = told(settings)
        assert (in_force, "remembers" in detail, "CORDON_FILING_IDENTITY" in detail) == (False, True, True)
        settings.worker_key_path.touch(0o600)
        assert "read the worker's key" in told(settings)[1]
