"""The worker as it runs: a process that files with a double that is another, and is killed meanwhile."""

import asyncio
import contextlib
import json
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from PIL import ImageOps
from sqlalchemy.ext.asyncio import AsyncConnection

from app import worker
from app.banks.current import CurrentBanks
from app.custody.decision import Action
from app.custody.identity import generate, write_identity
from app.custody.roster import Pinned, Roster, WorkerKeys
from app.filing.cybertip_double.application import Fault, Planned
from app.filing.filer import Filer
from app.filing.turn import Outcome, file_next
from app.settings import StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.banks.bank_reader import BankReader
from app.store.database import Database
from app.store.reports.report_states import State
from demo.pictures import encoded, scene
from tests.deciding import approving, deciding
from tests.filing.double import Double
from tests.filing.office import REPORTING, Office, document, open_office
from tests.filing.working import running_worker
from tests.gates import (
    CORDON,
    START_SECONDS,
    RunningGate,
    environment,
    fill_bank,
    prepare,
    running_gate,
    wait_for,
)
from tests.pins import pins_of


async def wait_until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until another process brought something about."""
    async with asyncio.timeout(START_SECONDS):
        while not await holds():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.02)


async def wait_until_left(office: Office, states: set[State], report_ids: list[str]) -> None:
    """Wait until no report is in any of the states."""
    await wait_until(lambda: _is_left(office, states, report_ids))


async def _is_left(office: Office, states: set[State], report_ids: list[str]) -> bool:
    return not {(await office.report(each)).state for each in report_ids} & states


async def wait_until_it_stands(database: Database, alarm: tuple[AlarmKind, str]) -> None:
    """Wait until an alarm was raised."""

    async def stands() -> bool:
        return alarm in await standing(database)

    await wait_until(stands)


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
        with running_worker(store, **settings) as process:
            await wait_until_one_is_done(office, report_ids)
            await asyncio.sleep(drawn.random() / 5)
            process.send_signal(signal.SIGKILL)
        async with database.begin() as connection:
            # The leases of the dead, and the pauses, as if they had run out.
            await connection.exec_driver_sql("UPDATE filings SET lease = NULL, leased_until = NULL")
            await connection.exec_driver_sql("UPDATE filings SET next_attempt_at = first_attempt_at")
        with running_worker(store, **settings) as process:
            await wait_until_left(office, {State.APPROVED, State.SUBMITTED}, report_ids)
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_SECONDS) == 0
        for report_id in report_ids:
            assert double.tell(report_id)["filed_exactly_once"]
            assert (await office.report(report_id)).state is State.DRY_RUN
        log = (store.state_dir / "worker.log").read_text()
        assert "canary" not in log
        assert "filing_on" in log


async def test_a_report_whose_row_cannot_be_read_is_named_and_the_others_are_filed(
    database: Database, store: StoreSettings, double: Double
) -> None:
    """The alarm and an auditor name the report, and nobody repeats what stands there; mended, it is filed."""
    never = "294276-01-01" if database.file is None else "never"
    async with open_office(database, store) as office:
        write_identity(office.worker, store.state_dir / "worker.key")
        spoiled = await office.approved("a")
        office.double.plan.append(Planned("submit", Fault.HTML_502))
        assert await file_next(office.desk) is Outcome.POSTPONED
        async with database.begin() as connection:
            await connection.exec_driver_sql("UPDATE filings SET next_attempt_at = first_attempt_at")
            await connection.exec_driver_sql(f"UPDATE filings SET opened_at = '{never}'")  # noqa: S608 - ours
        good = await office.approved("b")
        with running_worker(store, cybertip="double", cybertip_double_url=double.url) as process:
            await wait_until_left(office, {State.APPROVED, State.SUBMITTED}, [good])
            await wait_until_it_stands(database, (AlarmKind.ROW_UNREADABLE, spoiled))
            verified = await asyncio.to_thread(_run, store, "audit", "verify")
            assert verified.returncode == 1
            assert f"report {spoiled}: its row of the table filings holds what no" in verified.stderr
            assert (await office.report(spoiled)).state is State.APPROVED
            async with database.begin() as connection:
                await connection.exec_driver_sql("UPDATE filings SET opened_at = NULL")
            await wait_until_left(office, {State.APPROVED, State.SUBMITTED}, [spoiled])
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_SECONDS) == 0
        assert double.tell(spoiled)["filed_exactly_once"]
        log = (store.state_dir / "worker.log").read_text()
        assert not [secret for secret in ("never", "294276", "canary") if secret in log + verified.stderr]


async def test_an_alarm_that_filing_raises_before_upkeep_can_write_stands(
    database: Database, store: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a connection is made to PostgreSQL: it would be cleared, and raised anew a minute later."""
    other = Database.open(store)
    filer, banks = Filer(other, None, timedelta(days=1)), CurrentBanks(BankReader(other), store.state_dir)
    begin = database.begin

    @contextlib.asynccontextmanager
    async def begin_later() -> AsyncIterator[AsyncConnection]:
        await filer._tell(frozenset({"R1"}))
        async with begin() as connection:
            yield connection

    with monkeypatch.context() as busy:
        busy.setattr(database, "begin", begin_later)
        await worker._tell_unreadable(database, partial(worker._unreadable, set(), filer, banks))
    await other.close()
    assert await standing(database) == [(AlarmKind.ROW_UNREADABLE, "R1")]


def _run(store: StoreSettings, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(CORDON), *arguments]
    return subprocess.run(command, env=environment(store), capture_output=True, text=True, check=False)


async def wait_until_one_is_done(office: Office, report_ids: list[str]) -> None:
    """Wait until the first report is done."""

    async def is_done() -> bool:
        return any([(await office.report(each)).state is State.DRY_RUN for each in report_ids])

    await wait_until(is_done)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_worker_files_nothing_unless_it_is_told_where(
    database: Database, store: StoreSettings
) -> None:
    """Off by default; what was approved three days ago raises an alarm all the same, and is said to wait."""
    async with open_office(database, store) as office:
        report_id = await office.approved()
        async with database.begin() as connection:
            await connection.exec_driver_sql("UPDATE reports SET decided_at = '2026-01-01 00:00:00.000000'")
        with running_worker(store):
            # That its time is not that of the log, as the test ages it, raises another, before or after.
            await wait_until_it_stands(database, (AlarmKind.FILING_FAILING, report_id))
            shown = _run(store, "report", "show", report_id)
            assert "waits for: filing is off in the worker that runs; set CORDON_CYBERTIP" in shown.stdout
            assert f"report {report_id}: filing is off" in _run(store, "report", "list").stderr
        assert (await office.report(report_id)).state is State.APPROVED


BANKED = encoded(scene(7), "PNG")
SAVED_ANEW = encoded(scene(7), "JPEG", quality=90)
MIRRORED = encoded(ImageOps.mirror(scene(7)), "PNG")


def test_what_a_gate_seals_to_the_worker_is_filed_once_with_nobody_looking(
    store: StoreSettings, double: Double
) -> None:
    """A real gate, worker and double: the very bytes and a copy saved anew of them are filed, and no more."""
    prepared = asyncio.run(prepare(store))
    settings: dict[str, Any] = {
        "autofile": "true",
        "cybertip": "double",
        "cybertip_double_url": double.url,
        **REPORTING,
    }
    own, key = generate(), store.state_dir.parent / "own.key"
    with running_gate(prepared, **settings) as gate:
        pins = pins_of(store)
        pins.write(replace(pins.read(), worker=WorkerKeys.of(own)))
        write_identity(own, key)
        fill_bank(gate, "list", BANKED)
        found = {
            name: _report(gate, picture, **said)
            for name, picture, said in (
                ("exact", BANKED, {"account_id": "7"}),
                ("saved anew", SAVED_ANEW, {"uploader_ip": "203.0.113.5"}),
                ("mirrored", MIRRORED, {"account_id": "7"}),
                ("from nowhere", BANKED, {}),
            )
        }
        with running_worker(store, **settings, filing_identity=str(key)) as process:
            wait_for(lambda: {_shown(gate, found[name])["state"] for name in CERTAIN} == {"dry_run"})
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_SECONDS) == 0
        for name, report_id in found.items():
            told = double.tell(report_id)
            state = _shown(gate, report_id)["state"]
            assert (told["filed_exactly_once"], state) == (
                (True, "dry_run") if name in CERTAIN else (False, "queued")
            ), name
        detail = _shown(gate, found["exact"])
        called = detail["filing"]["authority_report_id"]
        assert (detail["filing"]["step"], detail["filing"]["last_code"]) == ("finished", 0)
        assert [(each["step"], each["authority_report_id"]) for each in detail["steps"]] == [
            ("approved", None),
            *((step, called) for step in ("submitted", "finishing", "dry_run")),
        ]
        untouched = _shown(gate, found["mirrored"])
        assert (untouched["filing"], untouched["steps"]) == (None, [])
        shown = subprocess.run(
            [CORDON, "report", "show", found["exact"]],
            env=environment(store, **settings),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "action: approve_automatically" in shown
        assert f"signer: {WorkerKeys.of(own).fingerprint}" in shown
        adas = store.state_dir.parent / "ada.key"
        write_identity(prepared.custodians[0], adas)
        opened = subprocess.run(
            [CORDON, "report", "open", found["exact"], "--identity", str(adas)],
            env=environment(store, **settings),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "approve_automatically  the worker, and no person" in opened
    assert "approved_automatically" in (store.state_dir / "worker.log").read_text()


def test_an_approval_that_is_taken_back_over_http_is_withdrawn_by_the_worker(
    store: StoreSettings, double: Double
) -> None:
    """A real gate, worker and double: open there, and never finished."""
    prepared = asyncio.run(prepare(store))
    ada, own, key = prepared.custodians[0], generate(), store.state_dir.parent / "own.key"
    write_identity(own, key)
    settings = {"cybertip": "double", "cybertip_double_url": double.url, "filing_identity": str(key)}
    with running_gate(prepared) as gate:
        pins = pins_of(store)
        pins.write(replace(pins.read(), worker=WorkerKeys.of(own)))
        fill_bank(gate, "list", BANKED)
        report_id = _report(gate, BANKED, account_id="7")
        digests = (_shown(gate, report_id)["sealed_sha256"],)
        approval = approving(report_id, digests, ada, xml=document(report_id), xml_to=(own.public_key,))
        assert _decided(gate, report_id, "approve", approval) == "approved"
        double.fault("finish", fault="unheard")
        with running_worker(store, **settings) as process:
            wait_for(lambda: _is_put_off(_shown(gate, report_id)["filing"]))
            rejection = deciding(Action.REJECT, report_id, digests, ada)
            assert _decided(gate, report_id, "reject", rejection) == "submitted"
            wait_for(lambda: _shown(gate, report_id)["state"] == "retracted")
            process.send_signal(signal.SIGTERM)
            assert process.wait(START_SECONDS) == 0
        steps = [each["step"] for each in _shown(gate, report_id)["steps"]]
        assert steps == ["approved", "submitted", "finishing", "withdrawn", "retracted"]
    told = double.tell(report_id)
    assert (told["opened"], told["retracted"], told["finished"]) == (1, 1, 0)


def _is_put_off(filing: dict[str, Any] | None) -> bool:
    """Whether finishing was tried, and nobody waits for an answer."""
    return filing is not None and filing["step"] == "finishing" and filing["in_hand_until"] is None


def _decided(gate: RunningGate, report_id: str, action: str, document: bytes) -> str:
    """The state after a signed decision."""
    answer = gate.client("report").post(f"/v1/reports/{report_id}/{action}", content=document)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["state"])


CERTAIN = ("exact", "saved anew")


def _report(gate: RunningGate, picture: bytes, **said: str) -> str:
    """The id of the report of an upload."""
    parts: Any = {"media": ("p", picture, "image/png"), "context": (None, json.dumps(said))}
    answer = gate.client().post("/v1/ingest", files=parts)
    assert answer.json()["verdict"] == "match"
    return str(answer.json()["report"]["id"])


def _shown(gate: RunningGate, report_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = gate.client("report").get(f"/v1/reports/{report_id}").json()
    return shown


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reporter_company": "Placeholder"}, "CORDON_REPORTER_COMPANY is a placeholder"),
        ({"filing_identity": ""}, "CORDON_AUTOFILE needs CORDON_FILING_IDENTITY"),
        ({}, "cordon custodian pin --worker age1"),
    ],
)
def test_a_worker_that_cannot_file_by_itself_does_not_start(
    store: StoreSettings, changed: dict[str, str], said: str
) -> None:
    """The last is one whose key nobody pinned. Each says what is wrong."""
    asyncio.run(prepare(store))
    pins_of(store).write(Roster((Pinned("ada", generate().public_key),)))
    key = store.state_dir.parent / "own.key"
    write_identity(generate(), key)
    named = {"autofile": "true", "cybertip": "double", "filing_identity": str(key), **REPORTING, **changed}
    settings = {name: value for name, value in named.items() if value}
    ran = subprocess.run(
        [CORDON, "worker"],
        env=environment(store, **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode != 0
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


async def standing(database: Database) -> list[tuple[AlarmKind, str]]:
    """The alarms that stand."""
    async with database.connect() as connection:
        return [(each.kind, each.subject) for each in await alarms.standing(connection)]
