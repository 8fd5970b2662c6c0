"""Some dozens of the schedules that ``make torture`` runs by the thousand, on both databases."""

import random

from app.settings import StoreSettings
from tests.filing.torture import KILLS, run


async def test_under_torture_each_report_is_filed_exactly_once_or_visibly_parked(
    store: StoreSettings,
) -> None:
    """Killed at some awaits of an else quiet turn, and drawn schedules of all that goes wrong."""
    kills = sorted(random.Random(3).sample(range(KILLS), 12))
    drawn = range(KILLS + 100, KILLS + 114)
    ends = await run(store, [*kills, *drawn])
    assert ends["filed exactly once"] >= 12
    assert ends["retracted"] >= 2
