"""A guard against entries that match far too much: it parks them, so that a person decides.

A PDQ entry of a logo, a test card or a plain gradient is near very many pictures that have nothing else in
common. What that looks like: one entry, a day, many different media, none of them the entry's very value.

Two media are different if they do not look alike themselves: saved anew, cut to another size or copied a
thousand times, a picture counts once. To see that, sketches are kept in memory for a day: the PDQ hash of
each medium combined with random bits that this process drew, from which nothing but distances can be read.
The database gets one count for each entry and day, over all gates together.

A parked entry goes on matching, and what it matches goes on being dropped: only its reports wait, as
``parked``, until somebody keeps the entry or disables it.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Final

from app import log
from app.errors import NotReadyError
from app.media import (
    PDQ_BYTES,
    PDQ_DEFAULT_THRESHOLD,
    PDQ_MINIMUM_QUALITY,
    BankAction,
    Decision,
    Match,
    Rendering,
    Signals,
)
from app.pipeline import Submission
from app.store.banks import entry_days, entry_marks
from app.store.database import Database

MOST_ENTRIES: Final = 2_000
"""Entries that sketches are kept of, at once; the one that was seen first is forgotten for another."""

logger = logging.getLogger(__name__)


def today() -> date:
    """The day in UTC."""
    return datetime.now(UTC).date()


@dataclass
class _Seen:
    """Sketches of the different media that an entry matched: of those with a PDQ, and of others' files."""

    looks: list[int] = field(default_factory=list, repr=False)
    files: set[bytes] = field(default_factory=set, repr=False)

    def __len__(self) -> int:
        return len(self.looks) + len(self.files)


class FloodGuard:
    """Counts the different media that each entry matches; one a process.

    Args:
        database: where the counts of all gates come together.
        most: how many different media a day an entry may match.
        day: tells which day it is.
    """

    def __init__(self, database: Database, most: int, *, day: Callable[[], date] = today) -> None:
        self._database = database
        self._most = most
        self._day = day
        self._of = day()
        self._pad = int.from_bytes(secrets.token_bytes(PDQ_BYTES))
        self._secret = secrets.token_bytes(32)
        self._seen: dict[int, _Seen] = {}
        self._uncounted: dict[int, int] = {}

    def compares(self, submission: Submission, renderings: Sequence[Rendering]) -> bool:  # noqa: ARG002
        """It asks for nothing that a match does not tell anyway."""
        return False

    def concluded(self, submission: Submission, signals: Signals, decision: Decision) -> None:  # noqa: ARG002
        """Take note of what a medium matched."""
        if not decision.matches:
            return
        if self._of != self._day():
            self._of = self._day()
            self._seen.clear()
        for match in decision.matches:
            if match.action is not BankAction.OBSERVE and not match.exact and self._is_new(match, signals):
                self._uncounted[match.entry_id] = self._uncounted.get(match.entry_id, 0) + 1

    async def settle(self) -> None:
        """Bring the counts to the database, and park what matched too many media.

        Raises:
            NotReadyError: the database does not answer; what was counted is kept for the next time.
        """
        counted, self._uncounted = self._uncounted, {}
        if not counted:
            return
        try:
            async with self._database.begin() as connection:
                totals = await entry_days.count(connection, self._of, counted)
        except (NotReadyError, asyncio.CancelledError):
            # A gate that stops cancels the turn, and settles once more.
            for entry_id, media in counted.items():
                self._uncounted[entry_id] = self._uncounted.get(entry_id, 0) + media
            raise
        flooding = {entry_id: media for entry_id, media in totals.items() if media > self._most}
        # Those that are left if the database goes away are asked for again, though no new media may come.
        self._uncounted = dict.fromkeys(flooding, 0) | self._uncounted
        for entry_id, media in flooding.items():
            async with self._database.begin() as connection:
                parked = await entry_marks.park(connection, entry_id, media=media)
            if not self._uncounted[entry_id]:
                del self._uncounted[entry_id]
            if parked:
                log.event(logger, logging.WARNING, "bank_entry_parked", entry=entry_id, media=media)

    def _is_new(self, match: Match, signals: Signals) -> bool:
        """Whether a medium is unlike all that the entry matched before, as far as that is remembered."""
        seen = self._seen.get(match.entry_id)
        if seen is None:
            while len(self._seen) >= MOST_ENTRIES:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[match.entry_id] = _Seen()
        if len(seen) > self._most:
            return False
        rendering = match.rendering
        if rendering is not None and rendering.quality >= PDQ_MINIMUM_QUALITY:
            look = int.from_bytes(rendering.pdq) ^ self._pad
            if any((look ^ other).bit_count() <= PDQ_DEFAULT_THRESHOLD for other in seen.looks):
                return False
            seen.looks.append(look)
            return True
        file = hashlib.blake2b(signals.digests.sha256, key=self._secret, digest_size=8).digest()
        if file in seen.files:
            return False
        seen.files.add(file)
        return True
