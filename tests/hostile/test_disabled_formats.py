"""The switch for the day on which a decoder is found vulnerable."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import StoreSettings
from tests.gates import CORDON, RunningGate, environment, wait_for
from tests.hostile.attack import attacked_gate, check_unharmed, send
from tests.hostile.media import SAMPLES, encoded, picture, sample

OFF = ("heic", "avif", "tiff")
KNOWN = "heic"


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGate]:
    """A gate without three decoders, whose bank holds another picture's hashes and a HEIC's digest."""
    another = encoded(picture(14), "PNG")
    with attacked_gate(tmp_path_factory.mktemp("gate"), another, disabled_formats=", ".join(OFF)) as running:
        digest = {"type": "sha256", "value": hashlib.sha256(sample(KNOWN)).hexdigest()}
        bank = running.client("bank")
        bank.post("/v1/banks/mock-list/signals", json={"signals": [digest]}).raise_for_status()
        wait_for(lambda: send(running.client(), sample(KNOWN)).told == "match")
        yield running
    check_unharmed(running)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != KNOWN])
def test_no_decoder_reads_a_format_that_is_switched_off(gate: RunningGate, name: str) -> None:
    """Whatever the request says of its type; all others go on being decoded."""
    outcome = send(gate.client(), sample(name))
    if name.partition(",")[0] in OFF:
        assert (outcome.told, outcome.answer["media"]) == ("unsupported_format", None)
    else:
        assert outcome.told == "clear"


def test_its_digests_are_still_matched(gate: RunningGate) -> None:
    outcome = send(gate.client(), sample(KNOWN))
    assert (outcome.told, outcome.answer["media"]) == ("match", None)


def test_a_gate_does_not_start_if_it_is_told_to_switch_off_what_there_is_not(tmp_path: Path) -> None:
    """A typo would leave the decoder on."""
    settings = environment(StoreSettings(state_dir=tmp_path / "state"), disabled_formats="hiec")
    found = subprocess.run(
        [CORDON, "serve"], env=settings, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 2
    assert "CORDON_DISABLED_FORMATS" in found.stderr
    assert "heic" in found.stderr
