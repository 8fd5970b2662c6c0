"""Removes reports whose time is over, and erases what is left of them in the database's files.

Removing is a transaction a report, with its audit entry and a tombstone; erasing comes after, and is done
again until it succeeds. A report is looked at anew when its row is locked: a hold that came first stands.

What a row says is believed only as far as the audit log says it too, and how a report ended only as far as
somebody signed it: whoever can write to the database has nothing removed by it.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app import log
from app.custody.roster import Roster
from app.errors import ConflictError, NotFoundError
from app.retention.schedule import Due, due, is_near
from app.settings import RetentionSettings
from app.store import alarms, endings, erasure, removal, reports
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.decisions import PURGED_EVENT
from app.store.filings import Transaction
from app.store.recorded import of_each, recorded
from app.store.reports import Report
from app.store.schema import UnreadableRowError
from app.store.witness import Witness

logger = logging.getLogger(__name__)

_UNREADABLE: Final = "its row holds what no Cordon wrote"

UNFINISHED_AFTER: Final = timedelta(hours=1)
"""How long what was removed may still stand in the database's files before a person is called."""


class _AlteredError(ConflictError):
    """A report does not stand as the audit log has it; the message says how."""


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
    return tuple(Planned(report, due(report, settings)) for report in (await _read_all(database)).reports)


async def purge(
    database: Database,
    settings: RetentionSettings,
    roster: Roster,
    now: datetime,
    *,
    by: str,
    witness: Witness | None = None,
) -> tuple[str, ...]:
    """Remove the reports whose time is over; their ids. ``erase`` is what must follow.

    A report that stands otherwise than the audit log has it stays, and so does one whose end nobody signed;
    an alarm is raised of each.

    Args:
        database: where they are.
        settings: how long they are kept.
        roster: the pinned, whose signatures count.
        now: the time.
        by: who removes them, for the audit log.
        witness: what was seen of the audit log; None takes it as it is now.

    Raises:
        AuditBrokenError: the log does not follow on from what was seen of it; nothing is removed by it.
        InvalidRequestError: what was seen of it cannot be remembered.
        NotReadyError: the database does not answer.
    """
    if witness is not None:
        await witness.follow(database)
    kept = {report_id: why async for report_id, why in _altered(database)}
    removed = []
    for each in await plan(database, settings):
        if not each.is_over(now) or each.report.id in kept:
            continue
        try:
            if await _remove(database, settings, roster, each.report.id, now, by=by, witness=witness):
                removed.append(each.report.id)
        except ConflictError as error:
            kept[each.report.id] = str(error)
    for report_id, why in kept.items():
        log.event(logger, logging.ERROR, "report_altered", report=report_id, detail=why)
    async with database.begin() as connection:
        await alarms.match_to(connection, AlarmKind.REPORT_ALTERED, kept)
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
    near = [report.id for report in (await _read_all(database)).reports if is_near(report, settings, now)]
    late = await removal.unerased(database, removed_before=now - UNFINISHED_AFTER)
    async with database.begin() as connection:
        await alarms.match_to(connection, AlarmKind.RETENTION_NEAR, near)
        await alarms.match_to(connection, AlarmKind.REMOVAL_UNFINISHED, ["database"] if late else [])


async def _altered(database: Database) -> AsyncIterator[tuple[str, str]]:
    """The reports that stand otherwise than the audit log has them, and how; whatever their time."""
    read = await _read_all(database)
    for report_id in read.unreadable:
        yield report_id, _UNREADABLE
    for page in range(0, len(read.reports), reports.MAX_LISTED):
        some = read.reports[page : page + reports.MAX_LISTED]
        async with database.connect() as connection:
            logged = await of_each(connection, [each.id for each in some])
        for each in some:
            if logged[each.id].contradicts(each) is None:
                continue
            # A gate or a filer may have been between the two looks.
            try:
                async with database.begin() as connection:
                    await _stands(connection, each.id)
            except _AlteredError as error:
                yield each.id, str(error)
            except NotFoundError:
                continue


async def _stands(connection: Transaction, report_id: str) -> Report:
    """A report, its row locked, with no time earlier than the audit log has it.

    Raises:
        NotFoundError: there is none of this id.
        _AlteredError: it does not stand as the log has it.
    """
    await reports.lock(connection, report_id)
    report = await reports.get(connection, report_id)
    logged = await recorded(connection, report_id)
    contradiction = logged.contradicts(report)
    if contradiction is not None:
        raise _AlteredError(contradiction)
    return logged.no_earlier(report)


async def _remove(
    database: Database,
    settings: RetentionSettings,
    roster: Roster,
    report_id: str,
    now: datetime,
    *,
    by: str,
    witness: Witness | None,
) -> bool:
    """Remove a report if its time is over by all that is known of it; whether it was.

    Raises:
        ConflictError: it does not stand as the audit log has it, or nobody signed that it ended so.
    """
    async with database.begin() as connection:
        try:
            found = await _stands(connection, report_id)
        except NotFoundError:
            return False
        if not Planned(found, due(found, settings)).is_over(now):
            return False
        if witness is not None:
            await witness.check(connection, report_id)
        proven = await endings.check(connection, report_id, found.state, roster)
        planned = Planned(found, due(proven.no_earlier(found), settings))
        if not planned.is_over(now):
            return False
        await removal.remove(
            connection,
            report_id,
            event=PURGED_EVENT,
            details={"by": by, "why": planned.due.why, "jurisdiction": settings.jurisdiction or "none"},
        )
    return True


@dataclass(frozen=True)
class _Read:
    """All reports that can be read, oldest first, and the ids of those that cannot."""

    reports: Sequence[Report]
    unreadable: Sequence[str]


async def _read_all(database: Database) -> _Read:
    """Read every report: one that somebody made unreadable does not stand before the others."""
    found: list[Report] = []
    unreadable: list[str] = []
    async with database.connect() as connection:
        ids = await reports.every_id(connection)
        for page in range(0, len(ids), reports.MAX_LISTED):
            some = ids[page : page + reports.MAX_LISTED]
            try:
                found += sorted(await reports.get_some(connection, some), key=lambda each: each.id)
                continue
            except UnreadableRowError:
                pass
            for report_id in some:
                try:
                    found.append(await reports.get(connection, report_id))
                except UnreadableRowError:
                    unreadable.append(report_id)
                except NotFoundError:
                    continue
    return _Read(found, unreadable)
