"""An approval that was taken back is filed by no worker that saw that, whatever the database says since.

Each theft is played on an office whose worker follows the log, by somebody who may write every table.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from app.errors import InvalidRequestError
from app.filing.cybertip.answers import Answer
from app.filing.cybertip.client import CyberTipline
from app.filing.desk import Desk
from app.filing.turn import Outcome, file_next
from app.settings import StoreSettings
from app.store.database import Database
from app.store.record import audit
from app.store.record.audit import BEFORE_THE_FIRST
from app.store.record.checkpoints import AuditBrokenError
from app.store.record.witness import Witness
from app.store.reports.decisions import PURGED_EVENT
from app.store.reports.removal import remove
from app.store.reports.report_states import State
from app.store.schema import audit as log
from app.store.schema import audit_checkpoints, decisions, filings, reports, tombstones
from tests.filing.office import Office, open_office

Rows = list[dict[str, Any]]


async def write_log(database: Database, change: Callable[[Rows], Rows]) -> None:
    """Put other entries in the log, numbered and chained anew, and take away what was signed under it."""
    async with database.begin() as connection:
        rows = [dict(row) for row in (await connection.execute(select(log).order_by(log.c.seq))).mappings()]
        await connection.execute(delete(log))
        await connection.execute(delete(audit_checkpoints))
        previous = BEFORE_THE_FIRST
        for number, row in enumerate(change(rows), 1):
            entry = {name: row[name] for name in row if name != "digest"} | {
                "seq": number,
                "previous": previous,
            }
            previous = audit._digest(entry)
            await connection.execute(insert(log).values(**entry, digest=previous))


async def put_back(office: Office, report_id: str) -> None:
    """Let the row say that it is approved, and let nothing say that it was taken back."""
    async with office.database.begin() as connection:
        await connection.execute(
            update(reports).where(reports.c.id == report_id).values(state=State.APPROVED.value)
        )
        await connection.execute(
            delete(decisions).where(decisions.c.report_id == report_id, decisions.c.action == "reject")
        )


async def without_rejection(office: Office, report_id: str) -> None:
    """The rejection is gone, and the log is whole by itself."""
    await put_back(office, report_id)
    await write_log(
        office.database,
        lambda rows: [each for each in rows if (each["subject"], each["event"]) != (report_id, REJECTED)],
    )


async def with_something_else(office: Office, report_id: str) -> None:
    """As many entries as before, and the one of the rejection is of something else."""
    await put_back(office, report_id)
    await write_log(
        office.database,
        lambda rows: [
            each | {"event": "report.opened", "details": "{}"} if each["event"] == REJECTED else each
            for each in rows
        ],
    )


async def changed_in_place(office: Office, report_id: str) -> None:
    """The one entry is changed, and its digest left as it was, so that all others still follow on it."""
    await put_back(office, report_id)
    async with office.database.begin() as connection:
        await connection.execute(
            update(log)
            .where(log.c.subject == report_id, log.c.event == REJECTED)
            .values(event="report.opened", details="{}")
        )


async def told_of_another(office: Office, report_id: str) -> None:
    """The one entry says that another report was rejected."""
    await put_back(office, report_id)
    async with office.database.begin() as connection:
        await connection.execute(
            update(log)
            .where(log.c.subject == report_id, log.c.event == REJECTED)
            .values(subject="01J9ZK3V5T8QX2M4N6P8R0S1T2")
        )


async def from_a_backup(office: Office, report_id: str) -> None:
    """The end of the log is cut off, as when the backup of that morning is put in place."""
    await put_back(office, report_id)
    await write_log(office.database, lambda rows: rows[: [each["event"] for each in rows].index(REJECTED)])


REJECTED = f"report.{State.REJECTED}"
THEFTS = (without_rejection, with_something_else, changed_in_place, told_of_another, from_a_backup)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """The worker's own file."""
    return tmp_path / "worker.key.seen"


def worker_of(office: Office, memory: Path | None) -> Desk:
    """A worker, with what it remembers from before it was started."""
    return replace(office.desk, witness=Witness(memory))


async def refuses(office: Office, desk: Desk, report_id: str) -> bool:
    """Whether a worker leaves a report alone that stands there approved; nothing reached the authority."""
    try:
        outcome = await file_next(desk, report_id)
    except AuditBrokenError:
        outcome = None
    sent = office.double.tell(report_id)["filed_exactly_once"]
    assert sent == (outcome is Outcome.DRY_RUN)
    return outcome in {None, Outcome.PARKED}


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("theft", THEFTS, ids=lambda theft: theft.__name__)
async def test_an_approval_that_was_taken_back_and_put_back_is_not_filed(
    database: Database,
    store: StoreSettings,
    memory: Path,
    theft: Callable[[Office, str], Awaitable[None]],
    restarted: bool,  # noqa: FBT001 - a parameter of pytest's
) -> None:
    """By a worker that runs meanwhile, or one started after the theft on what the last one remembered."""
    async with open_office(database, store) as office:
        report_id = await office.approved()
        await office.reject(report_id)
        await office.queued("another")
        desk = worker_of(office, memory)
        await desk.witness.follow(database)
        await theft(office, report_id)
        assert await refuses(office, worker_of(office, memory) if restarted else desk, report_id)


async def test_a_worker_that_remembers_nothing_files_it(database: Database, store: StoreSettings) -> None:
    """So the file is what protects, and the theft is whole: nothing else in the database gives it away."""
    async with open_office(database, store) as office:
        report_id = await office.approved()
        await office.reject(report_id)
        await without_rejection(office, report_id)
        assert not await refuses(office, worker_of(office, None), report_id)


async def test_what_happens_after_the_worker_looked_is_no_theft(
    database: Database, store: StoreSettings, memory: Path
) -> None:
    """Approved, rejected and approved again while it watches: what stands last is filed."""
    async with open_office(database, store) as office:
        desk = worker_of(office, memory)
        report_id = await office.approved()
        await desk.witness.follow(database)
        await office.reject(report_id)
        await desk.witness.follow(database)
        await office.approve(report_id)
        assert await file_next(desk, report_id) is Outcome.DRY_RUN
        assert office.double.tell(report_id)["filed_exactly_once"]


async def test_a_report_that_was_filed_is_not_filed_again_under_another_id(
    database: Database, store: StoreSettings, memory: Path
) -> None:
    """Although the database forgot that it was: as after a backup from before was put in place."""
    async with open_office(database, store) as office:
        report_id = await office.approved()
        desk = worker_of(office, memory)
        assert await file_next(desk) is Outcome.DRY_RUN
        assert await file_next(desk) is None
        async with database.begin() as connection:
            await connection.execute(delete(filings).where(filings.c.report_id == report_id))
            await connection.execute(
                update(reports).where(reports.c.id == report_id).values(state=State.APPROVED.value)
            )
        before_it = [f"report.{State.SUBMITTED}", f"report.{State.DRY_RUN}"]
        await write_log(database, lambda rows: [each for each in rows if each["event"] not in before_it])
        with pytest.raises(AuditBrokenError):
            await file_next(worker_of(office, memory), report_id)
        assert office.double.tell(report_id)["filed_exactly_once"]


async def test_a_report_that_was_removed_and_put_back_is_not_filed(
    database: Database, store: StoreSettings
) -> None:
    """Row, approval and all, from a backup: the log says that its time was over."""
    async with open_office(database, store) as office:
        report_id = await office.approved()
        kept: Mapping[Any, Rows] = {table: await _of(database, table) for table in (reports, decisions)}
        async with database.begin() as connection:
            await remove(connection, report_id, event=PURGED_EVENT, details={"by": "worker"})
        async with database.begin() as connection:
            await connection.execute(delete(tombstones))
            for table, rows in kept.items():
                await connection.execute(insert(table), rows)
        assert await refuses(office, worker_of(office, None), report_id)
        assert (await office.report(report_id)).cause == "not_approved"


async def test_an_approval_moved_to_another_report_is_not_filed(
    database: Database, store: StoreSettings
) -> None:
    """Document, audit entry and state, as if it had been taken in there."""
    async with open_office(database, store) as office:
        approved, other = await office.approved("a"), await office.queued("b")
        async with database.begin() as connection:
            await connection.execute(update(decisions).values(report_id=other))
            await connection.execute(
                update(reports).where(reports.c.id == other).values(state=State.APPROVED.value)
            )
        await write_log(
            database,
            lambda rows: [
                each | {"subject": other} if each["event"] == f"report.{State.APPROVED}" else each
                for each in rows
            ],
        )
        assert await refuses(office, worker_of(office, None), other)
        assert not office.double.tell(approved)["filed_exactly_once"]


async def _of(database: Database, table: Any) -> Rows:
    async with database.connect() as connection:
        return [dict(row) for row in (await connection.execute(select(table))).mappings()]


async def test_an_attempt_that_cannot_be_remembered_is_not_made_and_is_made_once_when_it_can(
    database: Database, store: StoreSettings, memory: Path
) -> None:
    """The worker's disk fails between the two calls, when the log says that the second is about to come."""

    class Failing(CyberTipline):
        async def submit(self, document: bytes) -> Answer:
            memory.unlink()
            memory.mkdir()
            return await super().submit(document)

    async with open_office(database, store) as office:
        report_id = await office.approved()
        desk = worker_of(office, memory)
        with pytest.raises(InvalidRequestError, match="memory"):
            await file_next(replace(desk, authority=Failing(office.authority._http)))
        assert (office.double.calls["submit"], office.double.calls["finish"]) == (1, 0)
        assert (await office.report(report_id)).state is State.SUBMITTED
        office.clock.ahead += timedelta(minutes=10)
        with pytest.raises(InvalidRequestError, match="memory"):
            await file_next(desk)
        assert office.double.calls["finish"] == 0
        memory.rmdir()
        assert await file_next(desk) is Outcome.DRY_RUN
        assert office.double.calls["submit"] == 1
        assert office.double.tell(report_id)["filed_exactly_once"]
