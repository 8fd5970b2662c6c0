"""What is stored of reports, held against the audit log: an auditor's look, which changes nothing."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.roster import Roster
from app.errors import ConflictError, NotFoundError
from app.store import decisions, endings, reports, sealed
from app.store.recorded import recorded
from app.store.report_states import ENDED
from app.store.schema import audit as log
from app.store.schema import reports as table

_EARLIER: Final = log.alias("earlier")


@dataclass(frozen=True)
class Discrepancy:
    """Where what is stored is not what the log says.

    Attributes:
        report_id: of the report.
        entry: number of the entry that says otherwise; None if no single one does.
        what: is wrong, in words.
    """

    report_id: str
    entry: int | None
    what: str

    def told(self) -> str:
        """It in one line."""
        where = f" (entry {self.entry})" if self.entry is not None else ""
        return f"report {self.report_id}{where}: {self.what}"


async def missing(connection: AsyncConnection) -> tuple[Discrepancy, ...]:
    """Reports that the log says were sealed and never removed, and that are not there."""
    removed = exists().where(
        _EARLIER.c.subject == log.c.subject, _EARLIER.c.event.in_(decisions.REMOVED_EVENTS)
    )
    rows = await connection.execute(
        select(log.c.seq, log.c.subject)
        .where(log.c.event == sealed.SEALED_EVENT, log.c.subject.not_in(select(table.c.id)), ~removed)
        .order_by(log.c.seq)
    )
    what = "it is gone, and no entry says that it was removed"
    return tuple(Discrepancy(row.subject, row.seq, what) for row in rows)


async def put_back(connection: AsyncConnection) -> tuple[Discrepancy, ...]:
    """Reports that the log says were removed, and that are there."""
    rows = await connection.execute(
        select(log.c.seq, log.c.subject)
        .where(log.c.event.in_(decisions.REMOVED_EVENTS), log.c.subject.in_(select(table.c.id)))
        .order_by(log.c.seq)
    )
    return tuple(Discrepancy(row.subject, row.seq, "it was removed, and is there") for row in rows)


async def of_report(connection: AsyncConnection, report_id: str, roster: Roster) -> tuple[Discrepancy, ...]:
    """What is wrong with a report: its sealed files, the decisions, its row; nothing of one that is gone."""
    try:
        found = [
            Discrepancy(report_id, each.entry, each.what)
            for each in await sealed.differences(connection, report_id, roster)
        ]
        try:
            await decisions.every(connection, report_id, roster)
        except ConflictError as error:
            found.append(Discrepancy(report_id, None, str(error)))
        # Where these are not as recorded, nothing proves how it ended either: that says it once.
        found += await _standing(connection, report_id, roster, proves=not found)
    except NotFoundError:
        return ()
    return tuple(found)


async def _standing(
    connection: AsyncConnection, report_id: str, roster: Roster, *, proves: bool
) -> tuple[Discrepancy, ...]:
    """What is wrong with the row of a report, and if asked, with what proves how it ended."""
    report, logged = await reports.get(connection, report_id), await recorded(connection, report_id)
    contradiction = logged.contradicts(report)
    if contradiction is not None and await reports.get(connection, report_id) != report:
        # A gate or a filer was between the two looks: as it stands now.
        return await _standing(connection, report_id, roster, proves=proves)
    if contradiction is not None:
        return (Discrepancy(report_id, logged.entry, contradiction),)
    if proves and report.state in ENDED:
        try:
            await endings.check(connection, report_id, report.state, roster)
        except ConflictError as error:
            return (Discrepancy(report_id, logged.entry, str(error)),)
    return ()
