"""Some dozens of the schedules that ``make torture`` runs by the thousand, and what they are good for."""

import random
from collections.abc import Sequence
from typing import Final

import pytest

from app.filing.cybertip_double.application import Fault
from app.settings import StoreSettings
from tests.filing import planted
from tests.filing.planted import Plant
from tests.filing.torture import ANSWERED, INTERLEAVED, KILLS, KINDS, OVERTAKEN, QUIET, STEPS, run


async def test_under_torture_each_report_is_filed_exactly_once_or_visibly_parked(
    store: StoreSettings,
) -> None:
    """One thing that goes wrong in an else quiet turn, and drawn schedules of all that goes wrong."""
    chosen = random.Random(3)
    kills = sorted(chosen.sample(range(KILLS), 12))
    others = sorted(chosen.sample(range(KILLS, QUIET), 14))
    ends = await run(store, [*kills, *others, *range(QUIET + 100, QUIET + 114)])
    assert ends["filed exactly once"] >= 12
    assert ends["retracted"] >= 2


def _overtaken(happening: str, other: str | Fault) -> list[int]:
    """The schedules in which a worker stops before each of its steps in turn."""
    return [KINDS[0] + OVERTAKEN.index((step, happening, other)) for step in range(1, STEPS + 1)]


def _interleaved(step: int) -> list[int]:
    """The schedules in which it stops before one, and the other before each of its own."""
    return [KINDS[1] + INTERLEAVED.index((step, other_step)) for other_step in range(1, STEPS + 1)]


def _answered(call: str, how: Fault | int, hours: int = 0) -> list[int]:
    return [KINDS[2] + ANSWERED.index((call, how, hours))]


_ANY: Final = _overtaken("nothing", "nobody")[:1]

PLANTED: Final[Sequence[tuple[Plant, Sequence[int], str]]] = (
    (planted.no_fence, _overtaken("nothing", Fault.UNHEARD), "parked for nothing"),
    (planted.one_token_for_all, _interleaved(6), "parked for nothing"),
    (
        planted.turn_not_looked_at_before_finish,
        _overtaken("a day goes by", Fault.UNHEARD),
        "another id was to be finished before",
    ),
    (planted.id_kept_after_finish, _ANY, "the log did not tell before"),
    (
        planted.submits_again_after_an_attempt,
        _answered("finish", Fault.UNANSWERED),
        "another id was to be finished before",
    ),
    (planted.attempt_not_written_down, _ANY, "the log did not tell before"),
    (planted.retracted_is_tried_again, _answered("finish", 5101), "postponed after /finish was answered"),
    (planted.vanished_begins_anew, _answered("finish", 5001), "postponed after /finish was answered"),
    (planted.unknown_begins_anew, _answered("finish", 9999), "postponed after /finish was answered"),
    (
        planted.approval_not_looked_at_before_finish,
        _overtaken("rejected", "nobody"),
        "it was rejected before",
    ),
    (
        planted.finished_taken_for_retracted,
        _answered("retract too late", Fault.UNHEARD),
        "said to be retracted, and is filed",
    ),
    (planted.rejection_not_read, _overtaken("rejected", "nobody"), "rejected"),
    (planted.wrong_clocks_are_believed, _answered("submit", Fault.HTML_502, 1000), "lost: approved"),
    (planted.parked_without_a_word, _overtaken("a day goes by", "nobody"), "there is no end to it"),
    (planted.other_bytes, _ANY, "other bytes than the approved"),
    (planted.receipt_thrown_away, _ANY, "no receipt"),
)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("plant", "schedules", "told"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED]
)
async def test_a_bug_that_files_twice_loses_or_changes_a_report_is_called_out(
    store: StoreSettings, monkeypatch: pytest.MonkeyPatch, plant: Plant, schedules: Sequence[int], told: str
) -> None:
    """The torture judges: without the bug, these very schedules find nothing."""
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=told):
        await run(store, schedules)
