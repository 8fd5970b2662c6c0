"""The short run of ``tests.hostile.fuzz``; by hand it is run for hours."""

from pathlib import Path

from tests.hostile import fuzz
from tests.hostile.mutations import NAMES, mutated

SEED = 20_261_122
FILES = 300


def test_mutated_media_are_all_answered_and_leave_nothing_behind(tmp_path: Path) -> None:
    """No crash, no hang, no growth, and a verdict of the contract for each."""
    with fuzz.fuzzed_gate(tmp_path) as (gate, client):
        findings = fuzz.run(gate, client, SEED, 0, FILES)
    assert findings.failures == [], str(findings)
    assert findings.told.total() == FILES
    assert {"clear", "match", "corrupt"} <= set(findings.told), "the mutations do not reach the decoders"


def test_what_is_sent_depends_on_the_seed_and_the_number_alone() -> None:
    some = [mutated(SEED, number) for number in range(200)]
    assert some == [mutated(SEED, number) for number in range(200)]
    assert some != [mutated(SEED + 1, number) for number in range(200)]
    assert len({content for _, content in some}) > 190
    assert len({name for name, _ in some}) > len(NAMES) * 3 // 4
