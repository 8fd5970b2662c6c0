"""What the processes do again and again goes on, whatever one turn of it met."""

import asyncio
import logging

import pytest

from app.errors import NotReadyError
from app.wiring import repeating


async def test_one_turn_that_fails_as_nobody_foresaw_is_logged_without_its_text_and_ends_no_later_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody waits for such a task: notices, heartbeats and checkpoints stopped without a word otherwise."""
    turns: list[Exception | None] = [NotReadyError("not now"), ValueError("canary"), None]
    over = asyncio.Event()

    async def work() -> None:
        if not turns:
            over.set()
        elif (failure := turns.pop(0)) is not None:
            raise failure

    with caplog.at_level(logging.ERROR):
        async with repeating(work, 0):
            await asyncio.wait_for(over.wait(), 10)
    (record,) = caplog.records
    assert (record.msg, record.cordon_fields["error"]) == ("turn_failed", "ValueError")  # type: ignore[attr-defined]
    assert "canary" not in str(vars(record))
