"""What a bank would match of clear traffic: PDQ values that were kept for that, where the operator chose to.

Nothing is kept by default. What is kept says nothing but what a picture looked like, on which day: no URL, no
account, no digest. It goes after as many days as were chosen, 7 at most.

A dry run compares the pictures as they stand with the PDQ entries that are in force: it tries no flips and no
pictures within pictures, and asks no suppression bank.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app.banks.flood import today
from app.entries import Bank
from app.errors import NotReadyError
from app.matching.hamming import HammingIndex
from app.media import (
    PDQ_BYTES,
    PDQ_MINIMUM_QUALITY,
    BankAction,
    Decision,
    Rendering,
    Signals,
    SignalType,
    Verdict,
    tier_of,
)
from app.pipeline import Submission
from app.store.banks import banks, kept_values
from app.store.banks.bank_reader import BankReader
from app.store.database import Database

MOST_UNWRITTEN: Final = 10_000
"""Values that wait for the database in memory; more are left out."""

ENTRIES_TOLD: Final = 20

_FORGET_EVERY_SECONDS: Final = 3600.0
_QUERIES_AT_ONCE: Final = 64


class ClearTraffic:
    """Keeps PDQ values of clear media, if the operator chose to; one a process.

    Args:
        database: where they are kept.
        days: for how long; 0 keeps none, and deletes what was kept before.
        share: of the clear media, 0 to 1, drawn at random.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        database: Database,
        *,
        days: int,
        share: float,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._days = days
        self._share = share
        self._clock = clock
        self._forgot_at = float("-inf")
        self._unwritten: list[bytes] = []

    def compares(self, submission: Submission, renderings: Sequence[Rendering]) -> bool:  # noqa: ARG002
        """It asks for no digest."""
        return False

    def concluded(self, submission: Submission, signals: Signals, decision: Decision) -> None:  # noqa: ARG002
        """Take what a clear medium looks like, if it is drawn."""
        # Nothing hangs on whether anyone can guess which are drawn.
        if not self._days or decision.verdict is not Verdict.CLEAR or random.random() >= self._share:  # noqa: S311
            return
        for rendering in signals.renderings[:1]:
            if rendering.quality >= PDQ_MINIMUM_QUALITY and len(self._unwritten) < MOST_UNWRITTEN:
                self._unwritten.append(rendering.pdq + bytes([rendering.quality]))

    async def settle(self) -> None:
        """Write what was drawn, and now and then delete what is past its time.

        Raises:
            NotReadyError: the database does not answer; what was drawn is kept for the next time.
        """
        if self._clock() - self._forgot_at >= _FORGET_EVERY_SECONDS:
            await kept_values.forget(self._database, self._days)
            self._forgot_at = self._clock()
        rows, self._unwritten = self._unwritten, []
        if rows:
            try:
                await kept_values.keep(self._database, today(), rows)
            except (NotReadyError, asyncio.CancelledError):
                # A gate that stops cancels the turn, and settles once more.
                self._unwritten = [*rows, *self._unwritten][:MOST_UNWRITTEN]
                raise


@dataclass(frozen=True)
class DryRun:
    """What a bank would match.

    Attributes:
        media: how many values were kept.
        entries: how many PDQ entries of the bank were compared with them.
        by_distance: how many media have their nearest entry at each distance in bits, 0 to the threshold.
        by_action: how many of them the bank would report, block, or only count.
        busiest: the entries that would match most media, and how many; an entry is told by its id, one of a
            list by its number among the PDQ values there.
    """

    bank: str
    threshold: int
    media: int
    entries: int
    by_distance: tuple[int, ...]
    by_action: dict[BankAction, int]
    busiest: tuple[tuple[int, int], ...]

    @property
    def matched(self) -> int:
        """How many media it would match."""
        return sum(self.by_distance)


async def dry_run(
    database: Database,
    name: str,
    *,
    threshold: int | None = None,
    listed: Sequence[bytes] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DryRun:
    """Compare a bank with what was kept of clear traffic.

    Args:
        database: where both are.
        name: of the bank.
        threshold: in bits of PDQ; the bank's own if None.
        listed: PDQ values that are tried in the place of the bank's entries, with its policy.
        progress: told how many of how many comparisons are done.

    Raises:
        NotFoundError: there is no such bank.
        NotReadyError: the database does not answer.
    """
    async with database.connect() as connection:
        bank = await banks.get(connection, name)
    rows = await kept_values.read(database)
    rows = rows[rows[:, PDQ_BYTES] >= bank.minimum_quality]
    ids, values = await _entries(database, bank) if listed is None else _numbered(listed)
    reach = bank.threshold(SignalType.PDQ) if threshold is None else threshold
    kept = np.ascontiguousarray(rows[:, :PDQ_BYTES])
    nearest, counts = await asyncio.to_thread(_compare, kept, values, reach, progress)
    distances = nearest[nearest <= reach]
    order = np.argsort(-counts, kind="stable")[:ENTRIES_TOLD]
    return DryRun(
        bank=bank.name,
        threshold=reach,
        media=len(kept),
        entries=len(ids),
        by_distance=tuple(np.bincount(distances, minlength=reach + 1).tolist()),
        by_action=dict(
            Counter(bank.action_of(tier_of(SignalType.PDQ, distance)) for distance in distances.tolist())
        ),
        busiest=tuple((int(ids[place]), int(counts[place])) for place in order if counts[place]),
    )


async def _entries(database: Database, bank: Bank) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Ids and values of a bank's PDQ entries that are in force."""
    ids, values = [np.empty(0, np.int64)], [np.empty((0, PDQ_BYTES), np.uint8)]
    async with contextlib.aclosing(BankReader(database).in_force(bank.id, SignalType.PDQ)) as chunks:
        async for chunk in chunks:
            ids.append(chunk.ids)
            values.append(chunk.values)
    return np.concatenate(ids), np.concatenate(values)


def _numbered(listed: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    values = np.frombuffer(b"".join(listed), np.uint8).reshape(-1, PDQ_BYTES)
    return np.arange(1, len(values) + 1), values


def _compare(
    kept: NDArray[np.uint8],
    entries: NDArray[np.uint8],
    reach: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each kept value the distance of its nearest entry, and for each entry how many values are near.

    The larger side is indexed and the smaller one looked up in it.
    """
    nearest = np.full(len(kept), reach + 1, np.int64)
    counts = np.zeros(len(entries), np.int64)
    asks_by_kept = len(kept) <= len(entries)
    asked, held = (kept, entries) if asks_by_kept else (entries, kept)
    if not len(asked):
        return nearest, counts
    index = HammingIndex.build(held)
    for begin in range(0, len(asked), _QUERIES_AT_ONCE):
        hits = index.search(asked[begin : begin + _QUERIES_AT_ONCE], reach)
        of_asked = hits.queries + begin
        of_kept, of_entries = (of_asked, hits.entries) if asks_by_kept else (hits.entries, of_asked)
        np.minimum.at(nearest, of_kept, hits.distances)
        np.add.at(counts, of_entries, 1)
        if progress is not None:
            progress(min(begin + _QUERIES_AT_ONCE, len(asked)), len(asked))
    return nearest, counts
