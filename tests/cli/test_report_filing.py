"""``cordon report file``: one approved report, by the worker's own steps, once."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.custody.identity import write_identity
from app.settings import StoreSettings
from app.store import alarms, processes
from app.store.alarms import AlarmKind
from app.store.database import Database
from tests.cli.conftest import Cordon, Ran
from tests.cli.test_report_schema import filing_with
from tests.filing.double import Double, running_double
from tests.filing.office import Office, open_office


@pytest.fixture
async def office(cordon: Cordon) -> AsyncIterator[Office]:
    """Reports in the state that the command works on, and the key that they are approved for."""
    store = StoreSettings(state_dir=cordon.home / "state")
    store.state_dir.mkdir(mode=0o700)
    database = Database.open(store)
    try:
        await database.migrate_if_empty()
        async with open_office(database, store) as opened:
            write_identity(opened.worker, store.state_dir / "worker.key")
            yield opened
    finally:
        await database.close()


async def ran(cordon: Cordon, report_id: str, double: Double, *options: str) -> Ran:
    """The command, run to its end."""
    return await asyncio.to_thread(cordon, "report", "file", report_id, *options, given=filing_with(double))


async def test_one_report_is_filed_now_and_only_once_and_no_other(cordon: Cordon, office: Office) -> None:
    """Whoever asks for it again is told why not; a report that nobody approved is left alone."""
    one, other, queued = await office.approved("a"), await office.approved("b"), await office.queued("c")
    off = await asyncio.to_thread(cordon, "report", "file", one)
    assert (off.code, "CORDON_CYBERTIP" in off.err) == (1, True)
    with running_double() as double:
        assert (await ran(cordon, queued, double)).code == 1
        filed = await ran(cordon, one, double, "--json")
        assert (filed.code, filed.document) == (0, {"id": one, "state": "dry_run", "parked_cause": None})
        again = await ran(cordon, one, double)
        assert (again.code, again.out.decode().strip()) == (1, f"report {one} is dry_run")
        assert double.tell(one)["filed_exactly_once"]
        assert (await office.report(other)).state == "approved"
        assert (await office.report(queued)).state == "queued"


async def test_what_the_host_refuses_is_told_with_what_to_do(cordon: Cordon, office: Office) -> None:
    """It is parked for a person, or put off; the exit code says that the host does not have it."""
    refused, unanswered = await office.approved("a"), await office.approved("b")
    with running_double() as double:
        double.fault("submit", code=4100)
        parked = await ran(cordon, refused, double, "--json")
        assert (parked.code, parked.document["parked_cause"]) == (1, "authority_4100")
        assert "docs/filing.md" in parked.err
        double.fault("submit", fault="html_502")
        postponed = await ran(cordon, unanswered, double)
        assert (postponed.code, "tries again" in postponed.err) == (1, True)
        early = await ran(cordon, unanswered, double)
        assert (early.code, "report retry" in early.err) == (1, True)
        assert (await asyncio.to_thread(cordon, "report", "retry", unanswered)).code == 0
        assert (await ran(cordon, unanswered, double)).code == 0
        assert double.tell(unanswered)["filed_exactly_once"]


async def test_an_approval_is_taken_back_at_the_terminal_as_long_as_it_is_not_filed(
    cordon: Cordon, office: Office
) -> None:
    """Told what happens now, what came of it, and where the report stands; the other one came too late."""
    early, late = await office.approved("a"), await office.approved("b")
    key = cordon.home / "ada.key"
    write_identity(office.ada, key)
    with running_double() as double:
        for report_id, fault in ((early, "unheard"), (late, "unanswered")):
            double.fault("finish", fault=fault)
            assert (await ran(cordon, report_id, double)).code == 1
            rejected = await asyncio.to_thread(
                cordon,
                *("report", "reject", report_id, "--identity", str(key), "--reason", "a logo", "--yes"),
            )
            assert rejected.code == 0
            assert "is taken back; where it is open, the worker withdraws it" in rejected.err
        withdrawn = await ran(cordon, early, double)
        assert (withdrawn.code, withdrawn.out.decode().strip()) == (1, f"report {early} is retracted")
        assert "a custodian rejected it" in withdrawn.err
        assert (await ran(cordon, late, double)).out.decode().strip() == f"report {late} is dry_run"
        told = double.tell(early)
        assert (told["retracted"], told["finished"]) == (1, 0)
        assert double.tell(late)["filed_exactly_once"]
    listed = await asyncio.to_thread(cordon, "report", "list", "--state", "retracted", "--json")
    assert [listed.document["id"]] == [early]


async def test_filing_afresh_after_an_attempted_finish_takes_a_custodians_signature(
    cordon: Cordon, office: Office
) -> None:
    """Without one nothing is changed; the reason is read by custodians alone."""
    report_id = await office.approved()
    key = cordon.home / "ada.key"
    write_identity(office.ada, key)
    signed = ("--identity", str(key), "--reason", "NCMEC never had it")
    with running_double() as double:
        double.fault("finish", code=9999)
        assert (await ran(cordon, report_id, double, "--json")).document["parked_cause"] == (
            "authority_unknown_code"
        )
        retry = ("report", "retry", report_id)
        for wrong in (("--afresh", "--yes"), ("--afresh", *signed[:2], "--yes"), signed):
            refused = await asyncio.to_thread(cordon, *retry, *wrong)
            assert (refused.code, "--afresh" in refused.err) == (2, True)
        assert (await office.report(report_id)).state == "parked"
        taken = await asyncio.to_thread(cordon, *retry, "--afresh", *signed, "--yes")
        assert (taken.code, "is to be opened anew" in taken.err) == (0, True)
        assert (await ran(cordon, report_id, double)).code == 0
        told = double.tell(report_id)
        assert (told["opened"], told["filed_exactly_once"]) == (2, True)
    opened = await asyncio.to_thread(cordon, "report", "open", report_id, *signed[:2])
    assert "afresh  ada\n      reason: NCMEC never had it" in opened.out.decode()
    assert b"NCMEC never had it" not in (await asyncio.to_thread(cordon, "report", "show", report_id)).out


async def test_how_far_the_filing_of_a_report_has_come_is_shown(cordon: Cordon, office: Office) -> None:
    """Attempts, codes, times, the authority's id, and when it is tried again; nothing of what is filed."""
    untried, failing, filed = [await office.approved(medium) for medium in "abc"]

    async def shown(report_id: str, *options: str) -> Ran:
        return await asyncio.to_thread(cordon, "report", "show", report_id, *options)

    with running_double() as double:
        double.fault("finish", code=1000)
        assert (await ran(cordon, failing, double)).code == 1
        assert (await ran(cordon, filed, double)).code == 0
    nothing = (await shown(untried, "--json")).document
    assert (nothing["filing"], [each["step"] for each in nothing["steps"]]) == (None, ["approved"])
    told = (await shown(failing, "--json")).document
    filing = told["filing"]
    assert (filing["environment"], filing["step"], filing["last_code"]) == ("double", "finishing", 1000)
    assert (filing["attempts"], filing["in_hand_until"]) == (1, None)
    assert told["created_at"] < filing["opened_at"] < filing["finish_attempted_at"]
    assert filing["finish_attempted_at"] < filing["next_attempt_at"]
    assert [(each["step"], each["authority_report_id"]) for each in told["steps"]] == [
        ("approved", None),
        ("submitted", filing["authority_report_id"]),
        ("finishing", filing["authority_report_id"]),
    ]
    done = (await shown(filed, "--json")).document
    assert (done["filing"]["step"], done["filing"]["next_attempt_at"]) == ("finished", None)
    assert [each["step"] for each in done["steps"]][-2:] == ["finishing", "dry_run"]
    for_people = (await shown(failing)).out.decode()
    assert "  last code: 1000" in for_people
    assert "when (UTC)           step       where   its id there" in for_people
    assert for_people.splitlines()[-1].split()[2:] == ["finishing", "double", filing["authority_report_id"]]
    assert "canary" not in for_people


async def test_a_rejection_that_nobody_carries_out_says_so_and_what_to_do(
    cordon: Cordon, office: Office
) -> None:
    """By the command, by show and by list, where no worker runs; the command that they name ends it."""
    ada = cordon.home / "ada.key"
    write_identity(office.ada, ada)
    report_id = await office.approved("a")
    words = f"report {report_id}: rejected, and the authority may have it: no worker runs"
    mend = f"'cordon report file {report_id}'"

    async def report(*arguments: str) -> Ran:
        return await asyncio.to_thread(cordon, "report", *arguments, given=filing_with(double))

    with running_double() as double:
        assert f"{report_id}: no worker runs that files it" in (await report("list")).err
        double.fault("finish", code=9999)
        assert (await report("file", report_id)).code == 1
        assert (await office.report(report_id)).state == "parked"
        waits_for = (await report("show", report_id, "--json")).document["waits_for"]
        assert "'Causes of parked' in docs/filing.md has what to do about authority_unknown_code" in waits_for
        rejected = await report("reject", report_id, "--identity", str(ada), "--reason", "a logo", "--yes")
        assert (rejected.code, (await office.report(report_id)).state) == (0, "submitted")
        listed = await report("list")
        assert all(words in told and mend in told for told in (rejected.err, listed.err))
        assert mend in (await report("show", report_id, "--json")).document["waits_for"]
        process = await processes.register(office.database, processes.WORKER)
        shown = await report("show", report_id)
        assert b"waits for: rejected: the worker asks the authority for it back" in shown.out
        await processes.unregister(office.database, process)
        assert "what was open there is withdrawn" in (await report("file", report_id)).err
        assert (await office.report(report_id)).state == "retracted"
        assert (await report("show", report_id, "--json")).document["waits_for"] is None
        assert (await report("list")).err == ""
        assert double.tell(report_id)["finished"] == 0


async def test_a_report_that_waits_because_the_host_refuses_cordon_itself_says_so(
    cordon: Cordon, office: Office
) -> None:
    """By show and list, until it takes one; 'retry' of one that nobody began names that command."""
    first, second = await office.approved("a"), await office.approved("b")
    process = await processes.register(office.database, processes.WORKER)
    assert (await asyncio.to_thread(cordon, "report", "list")).err == ""
    async with office.database.begin() as connection:
        await alarms.raise_alarm(connection, AlarmKind.FILING_REFUSED, "double")
    await processes.heartbeat(office.database, process, 0)
    listed = await asyncio.to_thread(cordon, "report", "list")
    for report_id in (first, second):
        said = f"report {report_id}: the authority refuses Cordon itself (alarm filing_refused, double)"
        assert said in listed.err
    await processes.heartbeat(office.database, process, 0)
    shown = await asyncio.to_thread(cordon, "report", "show", second, "--json")
    assert "CORDON_CYBERTIP_USER" in shown.document["waits_for"]
    retried = await asyncio.to_thread(cordon, "report", "retry", second)
    assert (retried.code, f"'cordon report show {second}'" in retried.err) == (1, True)
    with running_double() as double:
        assert (await ran(cordon, first, double)).code == 0
    await processes.heartbeat(office.database, process, 0)
    assert (await asyncio.to_thread(cordon, "report", "list")).err == ""


@pytest.mark.parametrize(
    ("kind", "subject", "words"),
    [
        (AlarmKind.WORKER_BLOCKED, "memory", "before somebody mends its memory (alarm worker_blocked)"),
        (AlarmKind.AUDIT_BROKEN, "worker", "(alarm audit_broken)"),
    ],
)
async def test_a_report_that_waits_because_the_worker_files_nothing_says_so(
    cordon: Cordon, office: Office, kind: AlarmKind, subject: str, words: str
) -> None:
    """By show and list, and 'report alarms' has the way out."""
    report_id = await office.approved("a")
    await processes.register(office.database, processes.WORKER)
    async with office.database.begin() as connection:
        await alarms.raise_alarm(connection, kind, subject)
    listed = await asyncio.to_thread(cordon, "report", "list")
    assert words in listed.err
    shown = await asyncio.to_thread(cordon, "report", "show", report_id, "--json")
    assert words in shown.document["waits_for"]
    told = await asyncio.to_thread(cordon, "report", "alarms")
    assert (kind.value in told.out.decode(), alarms.ADVICE[kind][:40] in told.out.decode()) == (True, True)
