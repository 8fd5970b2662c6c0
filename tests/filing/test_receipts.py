"""Receipts while a custodian's plugin fails: none is lost, nothing waits, and all can read it in the end."""

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import update

from app.custody.identity import Identity, encrypt, read_identity, write_identity
from app.errors import InvalidRequestError
from app.filing import receipts
from app.filing.turn import Outcome, file_next
from app.settings import StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.reports import filings as filings_in_store
from app.store.reports.report_states import State
from app.store.schema import filings
from tests import age_plugin
from tests.age_plugin import Oddity, Plugin
from tests.filing.double import Double
from tests.filing.office import Office, open_office
from tests.filing.test_worker import wait_until, wait_until_left
from tests.filing.working import running_worker
from tests.gates import START_SECONDS
from tests.pins import add_custodian


@pytest.fixture
def pia(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    """A plugin whose program is in PATH."""
    plugin = age_plugin.install(tmp_path / "bin", "pia")
    monkeypatch.setenv("PATH", f"{plugin.program.parent}{os.pathsep}{os.environ['PATH']}")
    return plugin


@pytest.fixture
async def office(database: Database, store: StoreSettings) -> AsyncIterator[Office]:
    async with open_office(database, store) as opened:
        yield opened


async def _pinned(office: Office, plugin: Plugin, folder: Path) -> Identity:
    """A custodian with the plugin's key, added when all else is approved."""
    identity = read_identity(plugin.write_identity(folder / "pia.txt"), attended=True)
    return await add_custodian(office.database, office.pins, "pia", identity)


async def _standing(office: Office) -> list[tuple[AlarmKind, str]]:
    async with office.database.connect() as connection:
        return [(each.kind, each.subject) for each in await alarms.standing(connection)]


async def _is_quiet(office: Office) -> bool:
    return not await _standing(office)


async def _receipt(office: Office, report_id: str) -> bytes:
    found = (await office.filing(report_id)).receipt
    assert found is not None
    return found


async def _seal_waiting(office: Office) -> None:
    await receipts.seal_waiting(office.database, office.pins, office.worker)


async def test_the_worker_goes_on_while_a_plugin_seals_a_receipt(
    office: Office, pia: Plugin, tmp_path: Path
) -> None:
    """The plugin waits for something that only the worker's event loop does: else it would never seal."""
    report_id = await office.approved()
    reader = await _pinned(office, pia, tmp_path)
    pia.become(Oddity.WAITS)
    filing = asyncio.create_task(file_next(office.desk))
    while not pia.program.with_suffix(".started").exists():
        assert not filing.done()
        await asyncio.sleep(0.01)
    pia.program.with_suffix(".go").touch()
    assert await filing is Outcome.DRY_RUN
    assert await _standing(office) == []
    receipt = await _receipt(office, report_id)
    assert b"<responseCode>0</responseCode>" in reader.decrypt(receipt)
    with pytest.raises(InvalidRequestError):
        office.worker.decrypt(receipt)


@pytest.mark.parametrize("oddity", [None, Oddity.CRASHES])
async def test_a_receipt_that_cannot_be_sealed_to_all_is_kept_and_sealed_to_all_later(
    office: Office, pia: Plugin, tmp_path: Path, oddity: Oddity | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The report is filed, once, and stays so; an alarm stands until the custodian can read it too."""
    report_id = await office.approved()
    reader = await _pinned(office, pia, tmp_path)
    if oddity is None:
        pia.program.unlink()
    else:
        pia.become(oddity)
    assert await file_next(office.desk) is Outcome.DRY_RUN
    assert office.double.calls["finish"] == 1
    assert (await office.report(report_id)).state is State.DRY_RUN
    assert await _standing(office) == [(AlarmKind.RECEIPT_NOT_SEALED, report_id)]
    assert [each.getMessage() for each in caplog.records].count("receipt_not_sealed_to_all") == 1
    kept = await _receipt(office, report_id)
    verbatim = office.ada.decrypt(kept)
    assert b"<responseCode>0</responseCode>" in verbatim
    assert office.worker.decrypt(kept) == verbatim
    await _seal_waiting(office)
    assert await _receipt(office, report_id) == kept
    assert await _standing(office) == [(AlarmKind.RECEIPT_NOT_SEALED, report_id)]
    pia.become(Oddity.NONE)
    await _seal_waiting(office)
    assert await _standing(office) == []
    anew = await _receipt(office, report_id)
    assert office.ada.decrypt(anew) == reader.decrypt(anew) == verbatim
    with pytest.raises(InvalidRequestError):
        office.worker.decrypt(anew)
    event, details = (await office.events(report_id))[-1]
    assert (event, details) == ("report.receipt_sealed", {"receipt_sha256": hashlib.sha256(anew).hexdigest()})
    await _seal_waiting(office)
    assert await _receipt(office, report_id) == anew


async def test_a_receipt_that_somebody_put_in_its_place_is_not_sealed_anew(
    office: Office, pia: Plugin, tmp_path: Path
) -> None:
    """Else whoever writes to the database has the worker vouch for what the authority never said."""
    report_id = await office.approved()
    await _pinned(office, pia, tmp_path)
    pia.program.unlink()
    assert await file_next(office.desk) is Outcome.DRY_RUN
    forged = encrypt(b"<reportDoneResponse/>", [office.worker.public_key])
    async with office.database.begin() as connection:
        await connection.execute(update(filings).values(receipt=forged))
    pia.become(Oddity.NONE)
    await _seal_waiting(office)
    assert await _receipt(office, report_id) == forged
    assert await _standing(office) == [(AlarmKind.RECEIPT_NOT_SEALED, report_id)]


async def test_what_is_kept_of_the_authoritys_word_is_held_against_the_log(office: Office) -> None:
    """Another report's receipt, one that anybody can seal, none, and another id are each named."""
    first, second = await office.approved(), await office.approved()
    assert [await file_next(office.desk) for _ in range(2)] == 2 * [Outcome.DRY_RUN]
    waits = await office.queued()
    assert [await office.doubts(each) for each in (first, second, waits)] == [(), (), ()]
    forged = encrypt(b"<reportDoneResponse/>", [office.worker.public_key])
    changed = "The receipt is not the one that the audit log tells of: somebody changed it."
    unsigned = "the authority's id beside it, or where that is, is none that a worker signed"
    other = await office.filing(second)
    for values, what in (
        ({"receipt": other.receipt}, changed),
        ({"receipt": forged}, changed),
        ({"receipt": None}, "the authority's receipt is gone"),
        ({"authority_report_id": other.authority_report_id}, unsigned),
        ({"environment": "production"}, unsigned),
    ):
        async with office.database.begin() as connection:
            kept = await filings_in_store.get(connection, first)
            await connection.execute(update(filings).where(filings.c.report_id == first).values(values))
        assert [each.what for each in await office.doubts(first)] == [what]
        assert kept is not None
        async with office.database.begin() as connection:
            as_it_was = {name: getattr(kept, name) for name in values}
            await connection.execute(update(filings).where(filings.c.report_id == first).values(as_it_was))
    assert not await office.doubts(first)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_real_worker_whose_custodians_plugin_is_gone_keeps_the_receipt_and_gives_it_to_all_later(
    office: Office, store: StoreSettings, double: Double, pia: Plugin, tmp_path: Path
) -> None:
    """With a double that is a process: finished there exactly once, and the log names the program."""
    write_identity(office.worker, store.state_dir / "worker.key")
    report_id = await office.approved()
    reader = await _pinned(office, pia, tmp_path)
    pia.program.unlink()
    settings = {"cybertip": "double", "cybertip_double_url": double.url}
    with running_worker(store, **settings) as worker:
        await wait_until_left(office, {State.APPROVED, State.SUBMITTED}, [report_id])
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(START_SECONDS) == 0
    assert (await office.report(report_id)).state is State.DRY_RUN
    assert double.tell(report_id)["filed_exactly_once"]
    log = (store.state_dir / "worker.log").read_text()
    assert "receipt_not_sealed_to_all" in log
    assert "age-plugin-pia" in log
    verbatim = office.ada.decrypt(await _receipt(office, report_id))
    pia.become(Oddity.NONE)
    with running_worker(store, **settings):
        await wait_until(lambda: _is_quiet(office))
    assert reader.decrypt(await _receipt(office, report_id)) == verbatim
    assert double.tell(report_id)["filed_exactly_once"]
