"""Removes reports whose time is over, and erases what is left of them in the database's files.

Removing is a transaction a report, with its audit entry and a tombstone; erasing comes after, and is done
again until it succeeds. A report is looked at anew when its row is locked: a hold that came first stands.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app import log
from app.errors import NotFoundError
from app.retention.schedule import Due, due, is_near
from app.settings import RetentionSettings
from app.store import alarms, erasure, removal, reports
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.decisions import PURGED_EVENT
from app.store.reports import Report

logger = logging.getLogger(__name__)

UNFINISHED_AFTER: Final = timedelta(hours=1)
"""How long what was removed may still stand in the database's files before a person is called."""


@dataclass(frozen=True)
class Planned:
    """A report, and when its time is over."""

    report: Report
    due: Due

    def is_over(self, now: datetime) -> bool:
        """Whether it is to be removed now."""
        return self.due.at is not None and self.due.at <= now


async def plan(database: Database, settings: RetentionSettings) -> tuple[Planned, ...]:
    """Every report and when its time is over, oldest first.

    Raises:
        NotReadyError: the database does not answer.
    """
    found = [Planned(report, due(report, settings)) for report in await _all(database)]
    return tuple(sorted(found, key=lambda each: each.report.id))


async def purge(
    database: Database, settings: RetentionSettings, now: datetime, *, by: str
) -> tuple[str, ...]:
    """Remove the reports whose time is over; their ids. ``erase`` is what must follow.

    Raises:
        NotReadyError: the database does not answer.
    """
    over = [each.report.id for each in await plan(database, settings) if each.is_over(now)]
    removed = [each for each in over if await _remove(database, settings, each, now, by=by)]
    if removed:
        log.event(logger, logging.INFO, "purged", reports=len(removed))
    return tuple(removed)


async def erase(database: Database) -> bool:
    """Remove what is left of removed reports from the database's files; whether nothing is left to do.

    Raises:
        NotReadyError: the database does not answer.
    """
    ids = await removal.unerased(database)
    if not ids:
        return True
    if not await erasure.erase(database):
        log.event(logger, logging.WARNING, "not_erased", reports=len(ids))
        return False
    await removal.erased(database, ids)
    return True


async def watch(database: Database, settings: RetentionSettings, now: datetime) -> None:
    """Raise and clear the alarms of what may not be kept for long, and of what could not be erased.

    Raises:
        NotReadyError: the database does not answer.
    """
    near = [report.id for report in await _all(database) if is_near(report, settings, now)]
    late = await removal.unerased(database, removed_before=now - UNFINISHED_AFTER)
    async with database.begin() as connection:
        await alarms.match_to(connection, AlarmKind.RETENTION_NEAR, near)
        await alarms.match_to(connection, AlarmKind.REMOVAL_UNFINISHED, ["database"] if late else [])


async def _remove(
    database: Database, settings: RetentionSettings, report_id: str, now: datetime, *, by: str
) -> bool:
    async with database.begin() as connection:
        try:
            await reports.lock(connection, report_id)
        except NotFoundError:
            return False
        planned = Planned(found := await reports.get(connection, report_id), due(found, settings))
        if not planned.is_over(now):
            return False
        await removal.remove(
            connection,
            report_id,
            event=PURGED_EVENT,
            details={"by": by, "why": planned.due.why, "jurisdiction": settings.jurisdiction or "none"},
        )
    return True


async def _all(database: Database) -> Sequence[Report]:
    found: list[Report] = []
    async with database.connect() as connection:
        while page := await reports.list_reports(
            connection, before=found[-1].id if found else None, limit=reports.MAX_LISTED
        ):
            found += page
    return found
