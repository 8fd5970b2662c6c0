"""Automatic filing: sealed to the worker only then, approved by it alone, and only what nobody touched."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.context import Context
from app.custody.decision import Action, Decision, sign
from app.custody.identity import Identity, encrypt, generate, read_identity
from app.custody.roster import WorkerKeys
from app.errors import ConflictError, InvalidRequestError, SignatureRequiredError
from app.filing.automatic import AutomaticApproval, Terms
from app.filing.turn import Outcome, file_next
from app.media import BankKind, ReportReference
from app.report.draft import Stub
from app.report.outbox import SealedOutbox
from app.report.seal import open_report
from app.settings import StoreSettings
from app.store.database import Database
from app.store.reports import accepting, decisions, reports, sealed
from app.store.reports.decisions import NotApprovedError
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from app.store.schema import reports as report_table
from tests import age_plugin
from tests.age_plugin import Oddity
from tests.deciding import deciding, seen
from tests.filing.office import REPORTER, Office, open_office
from tests.pins import add_custodian
from tests.stubs import stub

TERMS = Terms(8, REPORTER, "voluntary", None)


@dataclass
class Automatic:
    """An office whose gate and worker have automatic filing on."""

    office: Office
    outbox: SealedOutbox
    approval: AutomaticApproval

    async def found(self, found: Stub | None = None) -> ReportReference:
        """Store a match as the gate does."""
        return await self.outbox.commit(found or stub())

    async def state(self, report_id: str) -> State:
        """Where it is."""
        return (await self.office.report(report_id)).state

    async def file(self) -> Outcome | None:
        """One turn of filing."""
        return await file_next(replace(self.office.desk, automatic=True))

    async def files(self, report_id: str) -> list[bytes]:
        """Its sealed files."""
        async with self.office.database.connect() as connection:
            found = await sealed.authentic(connection, report_id, self.office.pins.read())
        return list(found.values())


@pytest.fixture
async def automatic(database: Database, store: StoreSettings) -> AsyncIterator[Automatic]:
    async with open_office(database, store) as office:
        yield _automatic(office)


def _automatic(office: Office, within: int | None = 8) -> Automatic:
    outbox = SealedOutbox(
        ReportShelf(office.database, None, office.pins), require_custodian=True, automatic_within=within
    )
    return Automatic(office, outbox, AutomaticApproval(replace(office.desk, automatic=True), TERMS))


async def test_what_is_certain_is_approved_by_the_worker_and_filed_once(automatic: Automatic) -> None:
    """The log, the XML and the custodians' words say that it was the worker, and that nobody looked."""
    office = automatic.office
    report_id = (await automatic.found()).id
    await automatic.approval.turn()
    assert await automatic.state(report_id) is State.APPROVED
    assert await automatic.file() is Outcome.DRY_RUN
    assert await automatic.file() is None
    await automatic.approval.turn()
    assert office.double.tell(report_id)["filed_exactly_once"]
    worker = WorkerKeys.of(office.worker).fingerprint
    told = dict(await office.events(report_id))
    assert list(told) == [
        "report.sealed",
        "report.opened",
        "report.approved",
        "report.given_id",
        "report.submitted",
        "report.finishing",
        "report.dry_run",
    ]
    assert told["report.sealed"]["worker"] == worker
    assert told["report.opened"] == {"worker": worker, "by": "worker"}
    approved = told["report.approved"]
    assert (approved["worker"], approved["automatic"], approved["by"]) == (worker, "yes", "worker")
    assert "custodian" not in approved
    async with office.database.connect() as connection:
        ((_, action, signer),) = await decisions.listed(connection, report_id)
        (signed,) = await decisions.every(connection, report_id, office.pins.read())
    assert (action, signer) == ("approve_automatically", worker)
    assert signed.decision.words is not None
    assert "no person" in json.loads(office.ada.decrypt(signed.decision.words))["note"]
    assert signed.decision.xml is not None
    assert b"no person of the reporter looked at this report" in office.ada.decrypt(signed.decision.xml)
    document = open_report((await automatic.files(report_id))[0], office.ada)
    assert document["automatic_filing"] is True


@pytest.mark.parametrize(
    ("within", "found", "parked_cause"),
    [
        (None, stub(), None),
        (8, stub(kind=BankKind.TEST), None),
        (8, stub(kind=BankKind.NCII), None),
        (8, stub(url=None), None),
        (8, stub(), "bank_entry_parked"),
    ],
    ids=["off", "test", "ncii", "no provenance", "parked"],
)
async def test_nothing_else_is_sealed_to_the_worker(
    automatic: Automatic, within: int | None, found: Stub, parked_cause: str | None
) -> None:
    """With the setting off nothing at all; and the worker leaves it where it is."""
    outbox = _automatic(automatic.office, within).outbox
    report_id = (await outbox.commit(found, parked_cause=parked_cause)).id
    before = await automatic.state(report_id)
    (file,) = await automatic.files(report_id)
    assert file.count(b"-> X25519 ") == 1
    with pytest.raises(InvalidRequestError):
        open_report(file, automatic.office.worker)
    assert open_report(file, automatic.office.ada)["automatic_filing"] is False
    await automatic.approval.turn()
    ((event, told),) = await automatic.office.events(report_id)
    assert (event, "worker" in told) == ("report.sealed", False)
    assert await automatic.state(report_id) is before


async def test_where_no_worker_is_pinned_reports_are_sealed_to_the_custodians(
    automatic: Automatic,
) -> None:
    """And wait for them."""
    office = automatic.office
    office.pins.write(replace(office.pins.read(), worker=None))
    report_id = (await automatic.found()).id
    assert (await automatic.files(report_id))[0].count(b"-> X25519 ") == 1
    await automatic.approval.turn()
    assert await automatic.state(report_id) is State.QUEUED


async def test_a_worker_that_is_pinned_no_more_opens_nothing(automatic: Automatic) -> None:
    """Although it could: what was sealed to it stays so."""
    office = automatic.office
    report_id = (await automatic.found()).id
    office.pins.write(replace(office.pins.read(), worker=WorkerKeys.of(generate())))
    await automatic.approval.turn()
    assert [event for event, _ in await office.events(report_id)] == ["report.sealed"]
    assert await automatic.state(report_id) is State.QUEUED


async def test_the_worker_asks_the_rule_itself(automatic: Automatic) -> None:
    """A gate that seals what it should not does not decide; looked at once, it is left to a person."""
    gate = SealedOutbox(
        ReportShelf(automatic.office.database, None, automatic.office.pins),
        require_custodian=True,
        automatic_within=8,
    )
    near = stub()
    certain = near.content["matches"]
    report_id = (await gate.commit(near)).id
    lies = replace(near, content=near.content | {"matches": [certain[1] | {"distance": 9}]})
    lying = await _sealed_by_hand(automatic.office, lies)
    broken = await _sealed_by_hand(automatic.office, replace(near, content={"matches": 1}))
    unmarked = await _sealed_by_hand(automatic.office, near, marked=False)
    for _ in range(2):
        await automatic.approval.turn()
    assert await automatic.state(report_id) is State.APPROVED
    for left in (lying, broken, unmarked):
        assert await automatic.state(left) is State.QUEUED
        assert [event for event, _ in await automatic.office.events(left)].count("report.opened") == 1
    assert automatic.approval.left == {lying, broken, unmarked}


async def _sealed_by_hand(office: Office, found: Stub, *, marked: bool = True) -> str:
    """A report that somebody sealed to the worker who need not be a gate."""
    keys = WorkerKeys.of(office.worker)
    shelf = ReportShelf(office.database, None, office.pins)

    async def sealing(report_id: str, public_keys: Any, worker: str | None) -> bytes:
        assert worker == keys.public_key
        return encrypt(found.to_json(report_id, automatic=marked), (*public_keys, worker))

    reference = await shelf.put(
        bank_kind=BankKind.CSAM,
        sha256=bytes(32),
        place=(),
        key_id=None,
        idempotency_key=None,
        seal=sealing,
        to_worker=True,
    )
    return reference.id


async def test_a_later_sighting_is_filed_with_its_report_if_nobody_must_look_at_it(
    automatic: Automatic,
) -> None:
    """What it tells stands in the XML. One that waits for a person keeps its report waiting."""
    office = automatic.office
    certain = (await automatic.found()).id
    assert (await automatic.found(stub(context=Context(account_id="seen-again")))).joined
    other = (await automatic.found(stub("b"))).id
    joined = await _automatic(office, None).outbox.commit(stub("b"))
    assert (joined.id, joined.joined) == (other, True)
    await automatic.approval.turn()
    assert await automatic.state(certain) is State.APPROVED
    async with office.database.connect() as connection:
        (signed,) = await decisions.every(connection, certain, office.pins.read())
    assert len(signed.decision.sealed_sha256) == 2
    assert signed.decision.xml is not None
    assert b"seen-again" in office.ada.decrypt(signed.decision.xml)
    assert await automatic.state(other) is State.QUEUED


async def test_what_a_person_has_in_hand_is_left_to_them(automatic: Automatic) -> None:
    """On hold, annotated, or decided: each before the worker looked."""
    office = automatic.office
    held, noted, rejected = [(await automatic.found(stub(medium))).id for medium in "abc"]
    await _hold(office, held, on_hold=True)
    sealed_sha256 = await seen(office.database, noted, office.pins.read())
    await office.decide(Action.ANNOTATE, noted, deciding(Action.ANNOTATE, noted, sealed_sha256, office.ada))
    await office.reject(rejected)
    await automatic.approval.turn()
    assert [await automatic.state(each) for each in (held, noted, rejected)] == [
        State.QUEUED,
        State.QUEUED,
        State.REJECTED,
    ]
    for each in (held, noted, rejected):
        assert "report.opened" not in dict(await office.events(each))
    await _hold(office, held, on_hold=False)
    await automatic.approval.turn()
    assert await automatic.state(held) is State.APPROVED
    assert await automatic.state(noted) is State.QUEUED


async def _hold(office: Office, report_id: str, *, on_hold: bool) -> None:
    async with office.database.begin() as connection:
        await reports.set_hold(connection, report_id, on_hold=on_hold, by="cli")


@pytest.mark.parametrize("meanwhile", ["held", "rejected", "annotated", "seen again"])
async def test_whoever_is_faster_than_the_worker_overtakes_it(
    automatic: Automatic, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    """Between its look and its signature."""
    office = automatic.office
    report_id = (await automatic.found()).id
    opening = automatic.approval._open

    async def opened(*given: Any) -> Any:
        found = await opening(*given)
        sealed_sha256 = await seen(office.database, report_id, office.pins.read())
        if meanwhile == "held":
            await _hold(office, report_id, on_hold=True)
        elif meanwhile == "rejected":
            await office.reject(report_id)
        elif meanwhile == "annotated":
            note = deciding(Action.ANNOTATE, report_id, sealed_sha256, office.ada)
            await office.decide(Action.ANNOTATE, report_id, note)
        else:
            assert (await automatic.found()).joined
        return found

    monkeypatch.setattr(automatic.approval, "_open", opened)
    await automatic.approval.turn()
    assert await automatic.state(report_id) in {State.QUEUED, State.REJECTED}
    assert "report.approved" not in dict(await office.events(report_id))
    monkeypatch.undo()
    await automatic.approval.turn()
    expected = {"rejected": State.REJECTED, "seen again": State.APPROVED}
    assert await automatic.state(report_id) is expected.get(meanwhile, State.QUEUED)


async def test_two_workers_at_once_approve_once(automatic: Automatic) -> None:
    """With the same key, as two of one installation have."""
    office = automatic.office
    ids = [(await automatic.found(stub(medium))).id for medium in "abc"]
    await asyncio.gather(automatic.approval.turn(), _automatic(office).approval.turn())
    for report_id in ids:
        assert await automatic.state(report_id) is State.APPROVED
        assert [event for event, _ in await office.events(report_id)].count("report.approved") == 1


async def test_the_workers_approval_counts_for_nothing_where_it_is_not_wanted(
    automatic: Automatic,
) -> None:
    """Switched off since, under dual control, or signed by a worker who is pinned no more: it is parked."""
    office = automatic.office
    report_id = (await automatic.found()).id
    await automatic.approval.turn()
    roster = office.pins.read()
    other = replace(roster, worker=WorkerKeys.of(generate()))
    async with office.database.connect() as connection:
        for pinned, dual_control, on in (
            (roster, False, False),
            (roster, True, True),
            (other, False, True),
        ):
            with pytest.raises(ConflictError):
                await decisions.approval(
                    connection, report_id, pinned, dual_control=dual_control, automatic=on
                )
        approval = await decisions.approval(connection, report_id, roster, dual_control=False, automatic=True)
    assert len(approval.signed) == 1
    assert await file_next(office.desk) is Outcome.PARKED
    report = await office.report(report_id)
    assert (report.state, report.cause) == (State.PARKED, "not_approved")


async def test_the_worker_is_never_the_first_of_two(automatic: Automatic) -> None:
    """A custodian who approves the very same document is the first; another must be the second.

    Even if somebody wrote the worker's key into the pinned as a custodian's too.
    """
    office = automatic.office
    grace = await add_custodian(office.database, office.pins, "grace")
    pinned = office.pins.read()
    office.pins.write(replace(pinned, worker=None))
    await add_custodian(office.database, office.pins, "machine", office.worker)
    office.pins.write(replace(office.pins.read(), worker=pinned.worker))
    report_id = (await automatic.found()).id
    await automatic.approval.turn()
    async with office.database.begin() as connection:
        (signed,) = await decisions.every(connection, report_id, office.pins.read())
        await connection.execute(
            update(report_table).where(report_table.c.id == report_id).values(state=State.PARKED.value)
        )
    assert await _second(office, signed.decision, office.ada) is State.PARKED
    async with office.database.connect() as connection:
        with pytest.raises(NotApprovedError, match="Too few"):
            await decisions.approval(
                connection, report_id, office.pins.read(), dual_control=True, automatic=True
            )
    assert await _second(office, signed.decision, grace) is State.APPROVED


async def _second(office: Office, first: Decision, identity: Identity) -> State:
    document = deciding(
        Action.APPROVE,
        first.report_id,
        first.sealed_sha256,
        identity,
        xml=first.xml,
        xml_sha256=first.xml_sha256,
    )
    async with office.database.begin() as connection:
        report = await accepting.take(
            connection,
            document,
            office.pins.read(),
            report_id=first.report_id,
            actions=(Action.APPROVE,),
            dual_control=True,
            by="cli",
        )
    return report.state


async def test_nobody_else_approves_automatically_and_the_worker_decides_nothing_else(
    automatic: Automatic,
) -> None:
    """Neither a custodian under the worker's action, nor the worker under theirs, nor handed in by HTTP."""
    office = automatic.office
    report_id = (await automatic.found()).id
    roster = office.pins.read()
    sealed_sha256 = await seen(office.database, report_id, roster)
    xml = {"xml": b"x", "xml_sha256": "0" * 64}
    tried = [
        (deciding(Action.APPROVE_AUTOMATICALLY, report_id, sealed_sha256, office.ada, **xml), True),
        (deciding(Action.APPROVE, report_id, sealed_sha256, office.worker, **xml), True),
        (deciding(Action.REJECT, report_id, sealed_sha256, office.worker), True),
        (deciding(Action.APPROVE_AUTOMATICALLY, report_id, sealed_sha256, office.worker, **xml), False),
    ]
    for document, any_action in tried:
        with pytest.raises(SignatureRequiredError):
            async with office.database.begin() as connection:
                await accepting.take(
                    connection,
                    document,
                    roster,
                    report_id=report_id,
                    actions=tuple(Action) if any_action else (Action.APPROVE,),
                    by="cli",
                )
    said = Decision(
        Action.APPROVE_AUTOMATICALLY,
        report_id,
        sealed_sha256,
        datetime.now(UTC),
        roster.custodians[0].fingerprint,
        xml_sha256="0" * 64,
        xml=b"x",
    )
    for decision, identity in (
        (said, office.ada),
        (replace(said, custodian=WorkerKeys.of(office.worker).fingerprint), office.ada),
        (replace(said, action=Action.REJECT, xml=None, xml_sha256=None), office.ada),
    ):
        assert sign(decision, identity)
        with pytest.raises(SignatureRequiredError):
            async with office.database.begin() as connection:
                await accepting.approve_automatically(connection, decision, identity, roster, by="worker")
    assert await automatic.state(report_id) is State.QUEUED


async def test_a_custodian_can_reject_what_the_worker_approved(automatic: Automatic) -> None:
    """Until it is filed; then it does not come back by itself."""
    report_id = (await automatic.found()).id
    await automatic.approval.turn()
    await automatic.office.reject(report_id)
    await automatic.approval.turn()
    assert await automatic.file() is None
    assert await automatic.state(report_id) is State.REJECTED


async def test_a_swapped_file_is_left_where_it_is(automatic: Automatic) -> None:
    """It is not what the audit log recorded."""
    office = automatic.office
    report_id = (await automatic.found()).id
    forged = encrypt(
        stub("b").to_json(report_id, automatic=True),
        (office.worker.public_key, office.ada.public_key),
    )
    async with office.database.begin() as connection:
        await connection.execute(update(report_table).values(sealed=forged))
    await automatic.approval.turn()
    assert await automatic.state(report_id) is State.QUEUED
    assert automatic.approval.left == {report_id}


async def test_what_a_former_worker_approved_can_still_be_read(automatic: Automatic) -> None:
    """As a new worker's key is pinned, the old one's decisions stay on the record and file nothing."""
    office = automatic.office
    report_id = (await automatic.found()).id
    await automatic.approval.turn()
    roster = office.pins.read()
    keys = WorkerKeys.of(office.worker)
    former = replace(roster.custodians[0], name="worker", public_key=keys.public_key)
    after = replace(
        roster,
        worker=WorkerKeys.of(generate()),
        former=(replace(former, signing_key=keys.signing_key),),
    )
    async with office.database.connect() as connection:
        assert len(await decisions.every(connection, report_id, after)) == 1
        with pytest.raises(NotApprovedError):
            await decisions.approval(connection, report_id, after, dual_control=False, automatic=True)


async def test_what_a_plugin_does_not_seal_is_left_to_a_person_and_the_rest_is_filed(
    automatic: Automatic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at once, so that the record does not fill up; a worker that is started anew looks again."""
    office = automatic.office
    plugin = age_plugin.install(tmp_path / "bin", "pia")
    monkeypatch.setenv("PATH", f"{plugin.program.parent}{os.pathsep}{os.environ['PATH']}")
    report_id, approved = (await automatic.found()).id, await office.approved()
    identity = read_identity(plugin.write_identity(tmp_path / "pia.txt"), attended=True)
    await add_custodian(office.database, office.pins, "pia", identity)
    plugin.become(Oddity.CRASHES)
    for _ in range(2):
        await automatic.approval.turn()
    told = [event for event, _ in await office.events(report_id)]
    assert (await automatic.state(report_id), told) == (State.QUEUED, ["report.sealed", "report.opened"])
    assert await automatic.file() is Outcome.DRY_RUN
    assert await automatic.state(approved) is State.DRY_RUN
    plugin.become(Oddity.NONE)
    await AutomaticApproval(replace(office.desk, automatic=True), TERMS).turn()
    assert await automatic.state(report_id) is State.APPROVED
