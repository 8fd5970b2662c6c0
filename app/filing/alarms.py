"""Alarms that time raises: found anew at each turn of the worker, and cleared the same way."""

from datetime import datetime, timedelta
from typing import Final

from app.media import PARKED_WITH_ITS_ENTRY
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.reports.report_states import State

WAITING_TOO_LONG: Final = timedelta(hours=24)
"""How long a report may wait for a custodian."""


async def watch(database: Database, now: datetime) -> None:
    """Raise what has become true by now, and clear what no longer is.

    Raises:
        NotReadyError: the database does not answer.
    """
    async with database.begin() as connection:
        waiting = await alarms.reports_stuck_in(connection, State.QUEUED, since=now - WAITING_TOO_LONG)
        await alarms.match_to(connection, AlarmKind.REPORT_WAITING, waiting)
        # Those that wait with a bank entry have one alarm together, that of the entry.
        parked = await alarms.reports_stuck_in(connection, State.PARKED, but_for=PARKED_WITH_ITS_ENTRY)
        await alarms.match_to(connection, AlarmKind.REPORT_PARKED, parked)
