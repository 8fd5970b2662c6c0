"""The load tool speaks the public contract, and counts as an error whatever is no verdict."""

import asyncio
import json
from pathlib import Path

import pytest

from bench import load
from tests.gates import RunningGate, make_unlimited_key
from tests.journeys.conftest import BANKED, HARMLESS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clear picture, and one that matches."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.jpg").write_bytes(HARMLESS)
    (pictures / "b.jpg").write_bytes(BANKED)
    return pictures


@pytest.mark.parametrize("answer", ["status", "json"])
def test_it_tells_verdicts_times_and_memory(
    gate: RunningGate, folder: Path, capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    token = asyncio.run(make_unlimited_key(gate))
    common = ["--url", gate.url, "--key", token, "--folder", str(folder)]
    turns = ["--seconds", "0.5", "--rounds", "1", "--concurrency", "2", "--pid", str(gate.process.pid)]
    assert load.main([*common, *turns, "--answer", answer, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (turn,) = told["turns"]["cordon"]
    assert set(turn["outcomes"]) == {"clear", "match"}
    assert turn["per_second"] > 0
    assert 0 < turn["p50_ms"] <= turn["p90_ms"] <= turn["p99_ms"]
    assert told["resident_bytes"] > 50 * 1024 * 1024


def test_what_is_no_verdict_is_an_error(
    gate: RunningGate, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused key answers fast, and must not pass for speed."""
    common = ["--url", gate.url, "--key", "wrong", "--folder", str(folder), "--json"]
    assert load.main([*common, "--seconds", "0.3", "--rounds", "1", "--concurrency", "1"]) == 1
    (turn,) = json.loads(capsys.readouterr().out)["turns"]["cordon"]
    assert set(turn["outcomes"]) == {"error 401"}
    assert turn["p50_ms"] == 0
