"""Gates to attack: a patient one, and one that gives a medium a second."""

from collections.abc import Iterator

import pytest

from demo.pictures import encoded, scene
from tests.gates import RunningGate
from tests.hostile.attack import attacked_gate, check_unharmed

BANKED = encoded(scene(7), "PNG")
HARMLESS = encoded(scene(21), "JPEG")


@pytest.fixture(scope="session")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGate]:
    """Gives a medium the time that is the default; its bank holds ``BANKED``."""
    with attacked_gate(tmp_path_factory.mktemp("gate"), BANKED) as running:
        yield running
    check_unharmed(running)


@pytest.fixture(scope="session")
def hasty_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGate]:
    """Gives a medium a second; its bank holds ``BANKED``."""
    with attacked_gate(tmp_path_factory.mktemp("gate"), BANKED, decode_seconds=1) as running:
        yield running
    check_unharmed(running)
