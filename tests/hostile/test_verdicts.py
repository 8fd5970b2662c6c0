"""Hostile media get a verdict, each the one it should, in bounded time, and no decoder crashes."""

import pytest

from tests.gates import RunningGate
from tests.hostile import vectors
from tests.hostile.attack import SLACK_SECONDS, send
from tests.hostile.conftest import BANKED, HARMLESS
from tests.hostile.media import SAMPLES, sample


@pytest.mark.parametrize("name", SAMPLES)
def test_what_the_damage_is_done_to_is_harmless(gate: RunningGate, name: str) -> None:
    """Else a hostile medium could be undecidable for another reason than its own."""
    assert send(gate.client(), sample(name)).told == "clear"


@pytest.mark.parametrize("name", vectors.EVERY)
def test_a_hostile_medium_gets_its_verdict(gate: RunningGate, name: str) -> None:
    vector = vectors.EVERY[name]
    outcome = send(gate.client(), vector.build())
    assert outcome.told in vector.outcomes
    assert outcome.seconds < 10 + SLACK_SECONDS


@pytest.mark.parametrize("name", vectors.ENDLESS)
def test_a_medium_that_takes_for_ever_is_given_up(hasty_gate: RunningGate, name: str) -> None:
    """Its decoder is killed, and the next medium has another one."""
    outcome = send(hasty_gate.client(), vectors.ENDLESS[name]())
    assert outcome.told == "decode_timeout"
    assert outcome.seconds < 1 + SLACK_SECONDS
    assert send(hasty_gate.client(), HARMLESS).told == "clear"
    assert send(hasty_gate.client(), BANKED).told == "match"
