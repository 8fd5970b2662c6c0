"""Removes reports whose time is over, and erases what is left of them in the database's files.

Removing is a transaction a report, with its audit entry and a tombstone; erasing comes after, and is done
again until it succeeds. A report is looked at anew when its row is locked: a hold that came first stands.

What a row says is believed only as far as the audit log says it too, and how a report ended only as far as
somebody signed it: whoever can write to the database has nothing removed by it. Nor does anything go without
a signature under its removal, so that a report that somebody else deleted is told from one that was removed.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app import log
from app.custody import removal as signed_removal
from app.custody.identity import Identity, fingerprint
from app.custody.removal import Removal
from app.custody.roster import Roster
from app.errors import ConflictError, NotFoundError
from app.retention.schedule import Due, due, is_near
from app.settings import RetentionSettings
from app.store import alarms, erasure
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.record.witness import Witness
from app.store.reports import decisions, endings, inspection, removal, removal_proofs, reports, sealed
from app.store.reports.decisions import PURGED_EVENT
from app.store.reports.filings import Transaction
from app.store.reports.recorded import of_each, recorded
from app.store.reports.reports import Report

logger = logging.getLogger(__name__)

SUBJECT: Final = "worker"
"""Of the alarm that nobody can sign."""

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
    identity: Identity | None,
    witness: Witness | None = None,
) -> tuple[str, ...]:
    """Remove the reports whose time is over; their ids. ``erase`` is what must follow.

    A report that stands otherwise than the audit log has it stays, and so does one whose end nobody signed;
    an alarm is raised of each, and of each that is gone without a signature. Where none can be given here,
    all stay, with an alarm of that.

    Args:
        database: where they are.
        settings: how long they are kept.
        roster: the pinned, whose signatures count.
        now: the time.
        by: who removes them, for the audit log.
        identity: of the worker, or of a custodian, who signs; None if there is none.
        witness: what was seen of the audit log; None takes it as it is now.

    Raises:
        AuditBrokenError: the log does not follow on from what was seen of it; nothing is removed by it.
        InvalidRequestError: what was seen of it cannot be remembered.
        NotReadyError: the database does not answer.
    """
    if witness is not None:
        await witness.follow(database)
    kept = {report_id: why async for report_id, why in _altered(database, roster)}
    # Before anything is removed: what the database refuses then must not keep these from being told.
    async with database.begin() as connection:
        for report_id in sorted(kept):
            await alarms.raise_alarm(connection, AlarmKind.REPORT_ALTERED, report_id)
    over = [each.report.id for each in await plan(database, settings) if each.is_over(now)]
    removed, unsigned = [], []
    for report_id in over:
        if report_id in kept:
            continue
        if identity is None or not signed_removal.can_sign(identity, roster):
            unsigned.append(report_id)
            continue
        remover = _Remover(database, settings, roster, now, by, identity, witness)
        try:
            if await remover.remove(report_id):
                removed.append(report_id)
        except ConflictError as error:
            kept[report_id] = str(error)
    for report_id, why in kept.items():
        log.event(logger, logging.ERROR, "report_altered", report=report_id, detail=why)
    async with database.begin() as connection:
        await alarms.match_to(connection, AlarmKind.REPORT_ALTERED, kept)
        await alarms.match_to(connection, AlarmKind.REMOVAL_UNSIGNED, [SUBJECT] if unsigned else [])
    if unsigned:
        log.event(logger, logging.ERROR, "removal_unsigned", reports=len(unsigned))
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


async def _altered(database: Database, roster: Roster) -> AsyncIterator[tuple[str, str]]:
    """The reports that are gone, or stand otherwise than the audit log has them, and how."""
    async with database.connect() as connection:
        removed = await removal_proofs.examine(connection, roster)
        for gone in (*await inspection.missing(connection), *inspection.unproven(removed)):
            yield gone.report_id[: reports.ULID_LENGTH], gone.what
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
            except ConflictError as error:
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


@dataclass(frozen=True)
class _Remover:
    """Removes reports one by one, as ``purge`` was asked to."""

    database: Database
    settings: RetentionSettings
    roster: Roster
    now: datetime
    by: str
    identity: Identity
    witness: Witness | None

    async def remove(self, report_id: str) -> bool:
        """Remove a report if its time is over by all that is known of it; whether it was.

        Raises:
            ConflictError: it does not stand as the audit log has it, nobody signed that it ended so, or a
                custodian signed that it is on hold.
        """
        async with self.database.begin() as connection:
            try:
                found = await _stands(connection, report_id)
            except NotFoundError:
                return False
            if not Planned(found, due(found, self.settings)).is_over(self.now):
                return False
            seen = self.witness.seen(report_id) if self.witness is not None else ()
            if self.witness is not None:
                await self.witness.check(connection, report_id)
            decisions.check_not_held(await decisions.every(connection, report_id, self.roster, seen=seen))
            proven = await endings.check(connection, report_id, found.state, self.roster, seen=seen)
            ends = due(proven.no_earlier(found), self.settings)
            if ends.at is None or ends.at > self.now:
                return False
            files = sealed.digests(await sealed.files(connection, report_id))
            signed = Removal(
                report_id=report_id,
                state=found.state.value,
                sealed_sha256=tuple(files.values()),
                due_at=ends.at,
                why=ends.why,
                at=self.now,
                signer=fingerprint(self.identity.public_key),
            )
            await removal.remove(
                connection,
                report_id,
                event=PURGED_EVENT,
                details={
                    "by": self.by,
                    "why": ends.why,
                    "jurisdiction": self.settings.jurisdiction or "none",
                    removal_proofs.MEMBER: signed_removal.sign(signed, self.identity),
                },
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
            some = await reports.get_readable(connection, ids[page : page + reports.MAX_LISTED])
            found += reversed(some.reports)
            unreadable += some.unreadable
    twice = {report_id for report_id, times in Counter(each.id for each in found).items() if times > 1}
    return _Read([each for each in found if each.id not in twice], [*unreadable, *sorted(twice)])
