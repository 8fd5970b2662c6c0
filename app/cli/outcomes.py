"""What came of each source of ``cordon ingest``, and the work on many of them side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.cli.sources import Source

MATCHED_CODES = frozenset({"matched", "report_not_stored"})
"""Problems that say that a medium matched."""


@dataclass(frozen=True)
class Outcome:
    """What came of one source.

    Attributes:
        answer: as of ``POST /v1/ingest``; None if there is no verdict.
        problem: why there is none, as the API tells it; None if there is a verdict.
        saved: where the clear medium was written, if that was asked for.
    """

    source: Source
    answer: dict[str, Any] | None = field(default=None, repr=False)
    problem: dict[str, Any] | None = field(default=None, repr=False)
    saved: Path | None = None

    @property
    def verdict(self) -> str:
        """``clear``, ``match``, ``undecidable``, or ``failed`` if there is no verdict."""
        return str(self.answer["verdict"]) if self.answer is not None else "failed"

    @property
    def matched(self) -> bool:
        """Whether it matched, even if its report could not be stored."""
        return self.verdict == "match" or (
            self.problem is not None and self.problem.get("code") in MATCHED_CODES
        )


Work = Callable[[Source], Awaitable[Outcome]]
Tell = Callable[[Outcome], None]


def failure(source: Source, code: str, detail: str) -> Outcome:
    """The outcome of a source that failed on this side of the gate."""
    return Outcome(source, problem=problem(code, detail))


def problem(code: str, detail: str) -> dict[str, Any]:
    """What went wrong on this side of the gate, told as the API tells its own problems."""
    return {"type": f"urn:cordon:problem:{code}", "title": detail, "code": code, "detail": detail}


async def work_on_all(sources: Sequence[Source], work: Work, tell: Tell, *, at_once: int) -> None:
    """Work on all sources, ``at_once`` at a time, and tell of each as it is done."""
    waiting = iter(sources)

    async def take_turns() -> None:
        for source in waiting:
            tell(await work(source))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(at_once, len(sources))):
            tasks.create_task(take_turns())
