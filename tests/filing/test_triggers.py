"""Who owns the tables can have the database itself change what the worker wrote, in the very transaction.

Nothing but what the worker remembers by itself tells it then what it did.
"""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from app.filing.cybertip.environment import Environment
from app.filing.cybertip_double.application import Fault, Planned
from app.filing.filer import Filer
from app.filing.turn import LONGEST_PAUSE, Outcome, file_next
from app.settings import StoreSettings
from app.store.database import Database
from app.store.record import audit
from app.store.record.checkpoints import AuditBrokenError
from app.store.record.witness import Witness
from app.store.reports.filing_log import FINISHING_EVENT
from app.store.reports.report_states import State
from tests.filing.office import open_office

_FORGET = """
UPDATE reports SET state = 'approved', receipt_at = NULL WHERE id = NEW.subject;
DELETE FROM filings WHERE report_id = NEW.subject;
"""
_CUT_OFF = "DELETE FROM audit WHERE seq > (SELECT max(seq) FROM audit WHERE event = 'report.approved');"
_NOT_FILED = "DELETE FROM audit WHERE event = 'report.filed';"
_DUE_AGAIN = """
UPDATE reports SET state = 'submitted', receipt_at = NULL WHERE id = NEW.subject;
UPDATE filings SET step = 'finishing', receipt = NULL WHERE report_id = NEW.subject;
"""


async def trigger(database: Database, event: str, *, before: bool = False, does: str = "") -> None:
    """Have the database do something when an entry of an event is written, or write none of it."""
    when = "BEFORE" if before else "AFTER"
    if database.is_sqlite:
        of_sqlite = does or "SELECT RAISE(IGNORE);"
        action = f"WHEN NEW.event = '{event}' BEGIN {of_sqlite} END"
    else:
        action = f"FOR EACH ROW WHEN (NEW.event = '{event}') EXECUTE FUNCTION quiet()"
    async with database.begin() as connection:
        if not database.is_sqlite:
            function = f"$$ BEGIN {does} RETURN NULL; END $$"
            await connection.execute(
                text(f"CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS {function}")
            )
        await connection.execute(text(f"CREATE TRIGGER quiet {when} INSERT ON audit {action}"))


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_the_database_forgets_as_it_is_written_is_filed_once(
    database: Database,
    store: StoreSettings,
    tmp_path: Path,
    restarts: bool,  # noqa: FBT001 - a parameter of pytest's
) -> None:
    """All that came after the approval is gone, as if nothing had been: then nothing is filed any more."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        await trigger(database, "report.filed", does=_CUT_OFF + _FORGET)
        desk = replace(office.desk, witness=Witness(tmp_path / "seen"))
        await file_next(desk)
        assert (await office.report(report_id)).state is State.APPROVED
        assert await office.doubts(report_id) == ()
        if restarts:
            desk = replace(office.desk, witness=Witness(tmp_path / "seen"))
        with pytest.raises(AuditBrokenError):
            await file_next(desk)
        assert office.double.tell(report_id)["filed_exactly_once"]


async def test_a_report_that_is_due_again_though_it_was_tried_is_parked(
    database: Database, store: StoreSettings
) -> None:
    """The entry that it was about to be finished stands; row and end are gone."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        await trigger(database, "report.filed", does=_NOT_FILED + _FORGET)
        desk = office.desk
        await file_next(desk)
        assert await file_next(desk) is Outcome.PARKED
        assert (await office.report(report_id)).cause == "finish_unknown"
        assert office.double.tell(report_id)["filed_exactly_once"]


@pytest.mark.parametrize("planted", ["of the double", "withdrawn before"])
async def test_an_attempt_that_somebody_wrote_hides_none_before_it(
    database: Database, store: StoreSettings, planted: str
) -> None:
    """It would be the newest, and one that keeps nothing from being filed: the report was filed twice."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        details = {"environment": "double", "authority_report_id": "1"}
        if planted == "withdrawn before":
            office.double.plan.append(Planned("finish", Fault.UNHEARD))
            await file_next(office.desk)
            await office.reject(report_id)
            assert await file_next(office.desk) is Outcome.RETRACTED
            details = dict(await office.events(report_id))[FINISHING_EVENT]
            await office.approve(report_id)
            office.clock.ahead += LONGEST_PAUSE * 2
        await trigger(database, "report.filed", does=_NOT_FILED + _FORGET)
        desk = office.desk
        assert await file_next(desk) is Outcome.FILED
        async with database.begin() as connection:
            await audit.append(connection, FINISHING_EVENT, report_id, details)
        assert await file_next(desk) is Outcome.PARKED
        assert (await office.report(report_id)).cause == "finish_unknown"
        assert office.double.tell(report_id)["filed_exactly_once"]


async def test_nothing_is_finished_whose_attempt_the_database_does_not_write_down(
    database: Database, store: StoreSettings
) -> None:
    """Nobody would know later that it was: it is withdrawn where it was opened, and waits for a person."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        await trigger(database, "report.finishing", before=True)
        assert await file_next(office.desk) is Outcome.PARKED
        assert (await office.report(report_id)).cause == "tampered"
        assert office.double.calls["finish"] == 0
        assert office.double.tell(report_id)["retracted"] == 1


async def test_a_report_that_the_database_calls_due_whatever_came_of_it_ends_no_turn_late(
    database: Database, store: StoreSettings
) -> None:
    """The authority was asked about it as fast as it answered, and nothing else was done."""
    async with open_office(database, store, environment=Environment.PRODUCTION) as office:
        report_id = await office.approved()
        await trigger(database, "report.filed", does=_NOT_FILED + _DUE_AGAIN)
        filer = Filer(database, office.desk, timedelta(hours=72))
        await filer.turn()
        assert office.double.calls["finish"] == 1
        await filer.turn()
        assert office.double.calls["finish"] == 2
        assert office.double.tell(report_id)["filed_exactly_once"]
