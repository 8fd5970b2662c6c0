"""Gates to attack: one patient, one that gives a medium a second, each with a bank that holds PDQ."""

import asyncio
from collections.abc import Iterator

import pytest

from app.settings import StoreSettings
from demo.pictures import encoded, scene
from tests.gates import RunningGate, fill_bank, prepare, running_gate
from tests.hostile.attack import warnings_of

BANKED = encoded(scene(7), "PNG")


def _attacked(factory: pytest.TempPathFactory, decode_seconds: str) -> Iterator[RunningGate]:
    prepared = asyncio.run(prepare(StoreSettings(state_dir=factory.mktemp("gate") / "state")))
    with running_gate(prepared, log_level="warning", decode_seconds=decode_seconds) as gate:
        fill_bank(gate, "mock-list", BANKED)
        yield gate
        assert gate.process.poll() is None
    # A decoder may be slow or outgrow its memory; one that crashes or lies has met a mistake of ours.
    assert warnings_of(gate) == []


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGate]:
    """Gives a medium the time that is the default."""
    yield from _attacked(tmp_path_factory, "10")


@pytest.fixture(scope="session")
def hasty_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGate]:
    """Gives a medium a second."""
    yield from _attacked(tmp_path_factory, "1")
