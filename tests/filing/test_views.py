"""Who owns the tables can put views in their places, which answer each question otherwise.

What the worker saw of a report in the log, it then asks of the very answers that it decides by.
"""

import pytest
from sqlalchemy import text

from app.custody.decision import Action
from app.filing.cybertip.environment import Environment
from app.filing.cybertip_double.application import Planned
from app.filing.turn import Outcome, file_next
from app.settings import StoreSettings
from app.store.database import Database
from app.store.record import audit
from app.store.reports.filing_log import AFRESH_EVENT
from app.store.reports.report_states import State
from tests.deciding import deciding, seen
from tests.filing.office import open_office

pytestmark = pytest.mark.parametrize("store", ["postgresql"], indirect=True)

_ASKED_BY_EVENT = "current_query() LIKE '%event IN%'"
"""As what is decided of a report is asked for; the log as a whole, and all of a report, are not."""


async def lie(database: Database, *statements: str, log: str, decisions: str = "true") -> None:
    """Show only what is said here of two tables, and do more."""
    async with database.begin() as connection:
        for table, shown in (("audit", log), ("decisions", decisions)):
            await connection.execute(text(f"ALTER TABLE {table} RENAME TO true_{table}"))
            await connection.execute(
                text(f"CREATE VIEW {table} AS SELECT * FROM true_{table} WHERE {shown}")  # noqa: S608
            )
        for statement in statements:
            await connection.execute(text(statement))


@pytest.mark.parametrize("event", ["report.rejected", "report.filed_manually"])
async def test_what_the_worker_saw_taken_back_is_not_filed_though_a_view_hides_it(
    database: Database, store: StoreSettings, event: str
) -> None:
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        desk = office.desk
        report_id = await office.approved()
        action = Action.REJECT if event == "report.rejected" else Action.FILED
        digests = await seen(database, report_id, office.pins.read())
        await office.decide(action, report_id, deciding(action, report_id, digests, office.ada))
        await desk.witness.follow(database)
        await lie(
            database,
            "UPDATE reports SET state = 'approved'",
            log=f"event <> '{event}' OR NOT {_ASKED_BY_EVENT}",
            decisions="action = 'approve'",
        )
        assert await file_next(desk) is Outcome.PARKED
        report = await office.report(report_id)
        assert (report.state, report.cause) == (State.PARKED, "tampered")
        assert office.double.calls["submit"] == 0


async def test_a_word_that_a_report_is_filed_afresh_is_good_for_one_filing(
    database: Database, store: StoreSettings
) -> None:
    """The worker sees it once more, after what it filed by it; what would contradict that a view hides."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        desk = office.desk
        report_id = await office.approved()
        office.double.plan.append(Planned("finish", code=9999))
        assert await file_next(desk) is Outcome.PARKED
        digests = await seen(database, report_id, office.pins.read())
        word = deciding(Action.AFRESH, report_id, digests, office.ada)
        await office.decide(Action.AFRESH, report_id, word)
        told = dict(await office.events(report_id))[AFRESH_EVENT]
        async with database.connect() as connection:
            newest = await audit.head(connection)
        assert newest is not None
        assert await file_next(desk) is Outcome.FILED
        await lie(
            database,
            "UPDATE reports SET state = 'approved', receipt_at = NULL",
            "DELETE FROM filings",
            log=f"NOT {_ASKED_BY_EVENT} OR seq <= {newest.seq}",
        )
        async with database.begin() as connection:
            await audit.append(connection, AFRESH_EVENT, report_id, told)
        assert await file_next(desk) is Outcome.PARKED
        assert office.double.tell(report_id)["finished"] == 1
