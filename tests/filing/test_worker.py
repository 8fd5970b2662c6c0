"""The worker as it runs: a process that files with a double that is another, and is killed meanwhile."""

import asyncio
import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from app.custody.identity import write_identity
from app.settings import StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.report_states import State
from tests.filing.double import Double
from tests.filing.office import Office, open_office
from tests.gates import CORDON, environment


@contextlib.contextmanager
def running_worker(store: StoreSettings, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """``cordon worker`` with a log beside its state; killed in the end."""
    with (store.state_dir / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [CORDON, "worker"], env=environment(store, log_level="info", **settings), stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


async def wait_until_left(office: Office, states: set[State], report_ids: list[str], seconds: float) -> None:
    """Wait until no report is in any of the states."""
    deadline = time.monotonic() + seconds
    while {(await office.report(each)).state for each in report_ids} & states:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_worker_that_is_killed_and_started_again_files_each_report_once(
    database: Database, store: StoreSettings, double: Double
) -> None:
    """SIGKILL at moments that nobody chose; whoever comes next waits for the lease and goes on."""
    drawn = random.Random(5)
    async with open_office(database, store) as office:
        write_identity(office.worker, store.state_dir / "worker.key")
        report_ids = [await office.approved(str(number)) for number in range(6)]
        settings = {"cybertip": "double", "cybertip_double_url": double.url}
        double.fault("finish", fault="unanswered")
        double.fault("submit", fault="html_502")
        with running_worker(store, **settings) as worker:
            await wait_until_one_is_done(office, report_ids)
            await asyncio.sleep(drawn.random() / 5)
            worker.send_signal(signal.SIGKILL)
        async with database.begin() as connection:
            # The leases of the dead, and the pauses, as if they had run out.
            await connection.exec_driver_sql("UPDATE filings SET lease = NULL, leased_until = NULL")
            await connection.exec_driver_sql("UPDATE filings SET next_attempt_at = first_attempt_at")
        with running_worker(store, **settings) as worker:
            await wait_until_left(office, {State.APPROVED, State.SUBMITTED}, report_ids, 60)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(30) == 0
        for report_id in report_ids:
            assert double.tell(report_id)["filed_exactly_once"]
            assert (await office.report(report_id)).state is State.DRY_RUN
        log = (store.state_dir / "worker.log").read_text()
        assert "canary" not in log
        assert "filing_on" in log


async def wait_until_one_is_done(office: Office, report_ids: list[str]) -> None:
    """Wait until the first report is done."""
    deadline = time.monotonic() + 60
    while not any([(await office.report(each)).state is State.DRY_RUN for each in report_ids]):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_worker_files_nothing_unless_it_is_told_where(
    database: Database, store: StoreSettings
) -> None:
    """Off by default; what was approved three days ago raises an alarm all the same."""
    async with open_office(database, store) as office:
        report_id = await office.approved()
        async with database.begin() as connection:
            await connection.exec_driver_sql("UPDATE reports SET decided_at = '2026-01-01 00:00:00.000000'")
        with running_worker(store):
            deadline = time.monotonic() + 40
            while not (found := await standing(database)):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        assert found == [(AlarmKind.FILING_FAILING, report_id)]
        assert (await office.report(report_id)).state is State.APPROVED


async def standing(database: Database) -> list[tuple[AlarmKind, str]]:
    """The alarms that stand."""
    async with database.connect() as connection:
        return [(each.kind, each.subject) for each in await alarms.standing(connection)]
