"""Whoever can only write to the database has no report removed by time: it is kept and named, an alarm tells.

Each attack is followed by a purge that comes late enough for all of them, and by an auditor's look. What each
of them changes or forges is all that there is to change in a row, and to append to the log.
"""

import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update

from app.custody import ending
from app.custody.decision import Action
from app.custody.ending import Ending
from app.custody.identity import Identity, fingerprint, generate
from app.custody.roster import WorkerKeys
from app.errors import ConflictError, SignatureRequiredError
from app.report.outbox import SealedOutbox
from app.retention import purge
from app.settings import RetentionSettings, StoreSettings
from app.store import alarms, custodians
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.record import audit
from app.store.record.checkpoints import AuditBrokenError
from app.store.record.witness import Witness
from app.store.reports import (
    accepting,
    decisions,
    endings,
    inspection,
    removal,
    removal_proofs,
    reports,
    resealing,
    sealed,
)
from app.store.reports.decisions import NotApprovedError, WithdrawnError
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from app.store.schema import audit as log
from app.store.schema import decisions as documents
from app.store.schema import reports as table
from app.store.schema import tombstones
from tests.chain import verify_chain
from tests.deciding import approving, deciding, seen
from tests.ended import bring_to, pin_worker, word_of
from tests.pins import add_custodian, pins_of, remove_custodian
from tests.stubs import stub

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=800)
LONG_AGO = NOW - timedelta(days=4000)
US = RetentionSettings(jurisdiction="us")
EU = RetentionSettings(jurisdiction="eu")


class Site:
    """A database with reports in it, a custodian and a worker, who are honest, and a thief, who writes."""

    def __init__(self, database: Database, store: StoreSettings) -> None:
        self.database, self.pins = database, pins_of(store)
        self.outbox = SealedOutbox(ReportShelf(database, None, self.pins), require_custodian=True)
        self.thief = generate()

    async def open(self) -> None:
        self.ada = await add_custodian(self.database, self.pins)
        self.worker = pin_worker(self.pins)

    async def report(self, state: State, medium: str = "a") -> str:
        """A report that came to its state honestly."""
        report_id = (await self.outbox.commit(stub(medium))).id
        await bring_to(self.database, self.pins, report_id, state, ada=self.ada, worker=self.worker)
        return report_id

    async def decide(self, report_id: str, action: Action, *, dual_control: bool = False) -> str:
        """A decision of ada's, taken in; the SHA-256 of its document."""
        document = await self.signed(report_id, action)
        async with self.database.begin() as connection:
            await accepting.take(
                connection,
                document,
                self.pins.read(),
                report_id=report_id,
                actions=(action,),
                dual_control=dual_control,
                by="cli",
            )
        return hashlib.sha256(document).hexdigest()

    async def signed(self, report_id: str, action: Action) -> bytes:
        """A decision of ada's."""
        files = await seen(self.database, report_id, self.pins.read())
        if action is Action.APPROVE:
            return approving(report_id, files, self.ada, xml=os.urandom(16))
        return deciding(action, report_id, files, self.ada)

    async def write(self, report_id: str, **values: object) -> None:
        """What the thief writes to the row."""
        async with self.database.begin() as connection:
            await connection.execute(update(table).where(table.c.id == report_id).values(**values))

    async def append(self, report_id: str, state: State, **details: Any) -> None:
        """The entry that would come with a state, appended as Cordon does, and the row made to go with it."""
        async with self.database.begin() as connection:
            await audit.append(connection, f"report.{state.value}", report_id, {"by": "cli", **details})
        decided = state in {State.REJECTED, State.FILED_MANUALLY}
        now = datetime.now(UTC)
        await self.write(
            report_id,
            state=state.value,
            changed_at=now,
            place_hash=None,
            **({"decided_at": now} if decided else {}),
            **({"receipt_at": now} if state is State.FILED else {}),
        )

    async def put(self, report_id: str, document: bytes) -> str:
        """A document put into the table of decisions; its SHA-256."""
        name = hashlib.sha256(document).hexdigest()
        async with self.database.begin() as connection:
            await connection.execute(
                insert(documents).values(
                    id=name, report_id=report_id, at=NOW, action="reject", custodian="x", document=document
                )
            )
        return name

    async def purge(self, settings: RetentionSettings = US, now: datetime = LATER) -> tuple[str, ...]:
        """What the worker does when its time comes."""
        return await purge.purge(
            self.database, settings, self.pins.read(), now, by="worker", identity=self.worker
        )

    async def is_kept_and_named(self, report_id: str, settings: RetentionSettings, now: datetime) -> bool:
        """Whether a purge leaves it, an alarm tells of it, and an auditor names it and nothing else."""
        removed = await self.purge(settings, now)
        async with self.database.connect() as connection:
            assert await verify_chain(connection) is None
            told = {
                each.subject
                for each in await alarms.standing(connection)
                if each.kind is AlarmKind.REPORT_ALTERED
            }
            there = await reports.every_id(connection)
            named = {each for each in there if await inspection.of_report(connection, each, self.pins.read())}
            stored = await inspection.stored(connection, None)
            gone = await removal_proofs.examine(connection, self.pins.read())
            assert await inspection.at_large(connection, stored, gone) == ()
        return report_id not in removed and report_id in there and told == named == {report_id}


@pytest.fixture
async def site(database: Database, store: StoreSettings) -> Site:
    built = Site(database, store)
    await built.open()
    return built


async def test_a_tombstone_that_somebody_set_up_beforehand_holds_no_other_report_up(site: Site) -> None:
    """Removing the report would meet it: the purge ended there, day after day, and called nobody."""
    stopped, over = await site.report(State.FILED), await site.report(State.FILED, "b")
    called_filed = await site.report(State.QUEUED, "c")
    await site.write(called_filed, state=State.FILED.value)
    async with site.database.begin() as connection:
        await connection.execute(
            insert(tombstones).values(
                id=stopped, bank_kind="csam", state="filed", created_at=LONG_AGO, removed_at=LONG_AGO
            )
        )
    assert await site.purge() == (over,)
    async with site.database.connect() as connection:
        stand = await alarms.standing(connection)
        doubts = await inspection.at_large(
            connection,
            await inspection.stored(connection, None),
            await removal_proofs.examine(connection, site.pins.read()),
        )
    altered = {each.subject for each in stand if each.kind is AlarmKind.REPORT_ALTERED}
    assert altered == {stopped, called_filed}
    assert [each.report_id for each in doubts] == [stopped]


_ENDED_LONG_AGO: dict[str, object] = {"decided_at": LONG_AGO, "changed_at": LONG_AGO, "place_hash": None}


async def test_a_row_that_cannot_be_read_is_kept_and_named_and_the_others_go(site: Site) -> None:
    """Neither the purge nor the alarms of time end at it."""
    junk, over = await site.report(State.FILED), await site.report(State.FILED, "b")
    await site.write(junk, state="junk")
    assert await site.purge() == (over,)
    await purge.watch(site.database, US, LATER)
    async with site.database.connect() as connection:
        stand = await alarms.standing(connection)
    assert junk in {each.subject for each in stand if each.kind is AlarmKind.REPORT_ALTERED}
    await site.write(junk, state=State.FILED.value)
    assert await site.purge() == (junk,)


@pytest.mark.parametrize(
    ("was", "written"),
    [
        (State.QUEUED, {"state": "rejected", **_ENDED_LONG_AGO}),
        (State.QUEUED, {"state": "filed", "receipt_at": LONG_AGO, **_ENDED_LONG_AGO}),
        (State.APPROVED, {"state": "filed_manually", **_ENDED_LONG_AGO}),
        (State.APPROVED, {"state": "dry_run", **_ENDED_LONG_AGO}),
        (State.PARKED, {"state": "retracted", **_ENDED_LONG_AGO}),
        (State.REJECTED, {"decided_at": LONG_AGO}),
        (State.REJECTED, {"decided_at": None, "changed_at": None, "created_at": LONG_AGO}),
        (State.RETRACTED, {"decided_at": LONG_AGO}),
        (State.FILED, {"receipt_at": LONG_AGO}),
        (State.FILED, {"receipt_at": None, "decided_at": LONG_AGO}),
        (State.FILED, {"state": "rejected", "decided_at": LONG_AGO}),
        (State.FILED_MANUALLY, {"decided_at": LONG_AGO}),
        (State.DRY_RUN, {"receipt_at": LONG_AGO}),
    ],
)
async def test_a_row_that_says_what_the_log_does_not_is_kept_and_named(
    site: Site, was: State, written: dict[str, object]
) -> None:
    """State and times: the purge comes the next day, when by the log nothing is over."""
    report_id = await site.report(was)
    other = await site.report(State.QUEUED, "b")
    await site.write(report_id, **written)
    assert await site.is_kept_and_named(report_id, US, datetime.now(UTC) + timedelta(days=1))
    assert other != report_id


async def test_a_hold_that_was_taken_off_stands_by_the_log(site: Site) -> None:
    """And one that somebody put on in the row alone is named too."""
    held, free = await site.report(State.FILED), await site.report(State.FILED, "b")
    async with site.database.begin() as connection:
        await reports.set_hold(connection, held, on_hold=True, by="cli")
    await site.write(held, on_hold=False)
    assert await site.purge() == (free,)
    assert await site.is_kept_and_named(held, US, LATER)
    await site.write(held, on_hold=True)
    assert await site.purge() == ()
    async with site.database.connect() as connection:
        assert await alarms.standing(connection) == ()


async def _by_the_row_alone(site: Site, report_id: str) -> None:
    await site.write(report_id, on_hold=False)


async def _with_an_entry(site: Site, report_id: str) -> None:
    async with site.database.begin() as connection:
        await reports.set_hold(connection, report_id, on_hold=False, by="cli")


async def _with_the_hold_taken_for_its_end(site: Site, report_id: str) -> None:
    async with site.database.connect() as connection:
        held = (await decisions.every(connection, report_id, site.pins.read()))[-1]
    async with site.database.begin() as connection:
        told = {"by": "cli", "decision_sha256": held.sha256}
        await reports.set_hold(connection, report_id, on_hold=False, by="cli", signed=told)


async def _signed_off_by_the_thief(site: Site, report_id: str) -> None:
    files = await seen(site.database, report_id, site.pins.read())
    forged = deciding(Action.UNHOLD, report_id, files, site.thief, custodian=fingerprint(site.ada.public_key))
    told = {"by": "cli", "decision_sha256": await site.put(report_id, forged)}
    async with site.database.begin() as connection:
        await reports.set_hold(connection, report_id, on_hold=False, by="cli", signed=told)


async def _with_the_decision_taken_away(site: Site, report_id: str) -> None:
    async with site.database.begin() as connection:
        await connection.execute(delete(documents).where(documents.c.action == "hold"))
        await reports.set_hold(connection, report_id, on_hold=False, by="cli")


@pytest.mark.parametrize(
    "take_off",
    [
        _by_the_row_alone,
        _with_an_entry,
        _with_the_hold_taken_for_its_end,
        _signed_off_by_the_thief,
        _with_the_decision_taken_away,
    ],
    ids=lambda take_off: take_off.__name__.strip("_"),
)
async def test_a_hold_that_a_custodian_signed_stands_whatever_row_and_log_say(
    site: Site, take_off: Callable[[Site, str], Awaitable[None]]
) -> None:
    """Its report is over and due: a purge leaves it, an alarm and an auditor name it, nobody destroys it."""
    report_id = await site.report(State.FILED)
    await site.decide(report_id, Action.HOLD)
    assert await site.purge() == ()
    async with site.database.connect() as connection:
        assert await alarms.standing(connection) == ()
        assert await inspection.of_report(connection, report_id, site.pins.read()) == ()
    order = await site.signed(report_id, Action.DESTROY)
    await take_off(site, report_id)
    assert await site.is_kept_and_named(report_id, US, LATER)
    async with site.database.begin() as connection:
        with pytest.raises(ConflictError):
            await removal.destroy(
                connection, order, site.pins.read(), report_id=report_id, dual_control=False, by="cli"
            )


async def test_a_hold_ends_with_any_custodians_signature_and_no_token(site: Site) -> None:
    """One that nobody signed ends with a token; another hold after a signed end is again only a flag."""
    report_id = await site.report(State.FILED)
    await site.decide(report_id, Action.HOLD)
    roster = site.pins.read()
    async with site.database.begin() as connection:
        with pytest.raises(SignatureRequiredError):
            await accepting.set_hold(connection, report_id, roster, on_hold=False, by="01JKEY")
    await site.decide(report_id, Action.UNHOLD)
    for on_hold in (True, False):
        async with site.database.begin() as connection:
            held = await accepting.set_hold(connection, report_id, roster, on_hold=on_hold, by="01JKEY")
        assert held.on_hold is on_hold
    assert await site.purge() == (report_id,)


async def test_where_the_longest_time_counts_from_detection_that_is_held_against_the_log(site: Site) -> None:
    """A report that was filed today, and was found long ago by its row alone."""
    report_id = await site.report(State.FILED_MANUALLY)
    await site.write(report_id, created_at=LONG_AGO)
    assert await site.is_kept_and_named(report_id, EU, datetime.now(UTC) + timedelta(days=1))


Forgery = Callable[[Site, str], Awaitable[None]]


async def _says_nothing(site: Site, report_id: str) -> None:
    await site.append(report_id, State.REJECTED)


async def _signed_by_the_thief(site: Site, report_id: str) -> None:
    files = await seen(site.database, report_id, site.pins.read())
    forged = deciding(Action.REJECT, report_id, files, site.thief, custodian=fingerprint(site.ada.public_key))
    name = await site.put(report_id, forged)
    await site.append(report_id, State.REJECTED, decision_sha256=name)


async def _of_another_report(site: Site, report_id: str) -> None:
    other = await site.report(State.QUEUED, "b")
    name = await site.put(report_id, await site.signed(other, Action.REJECT))
    await site.append(report_id, State.REJECTED, decision_sha256=name)


async def _a_note_for_a_rejection(site: Site, report_id: str) -> None:
    name = await site.put(report_id, await site.signed(report_id, Action.ANNOTATE))
    await site.append(report_id, State.REJECTED, decision_sha256=name)


async def _the_first_of_two(site: Site, report_id: str) -> None:
    name = await site.decide(report_id, Action.REJECT, dual_control=True)
    await site.append(report_id, State.REJECTED, decision_sha256=name)


async def _taken_back(site: Site, report_id: str) -> None:
    name = await site.decide(report_id, Action.REJECT)
    await site.decide(report_id, Action.APPROVE)
    await site.append(report_id, State.REJECTED, decision_sha256=name)


async def _before_it_was_seen_again(site: Site, report_id: str) -> None:
    """Signed and never handed in; then the report was seen again."""
    document = await site.signed(report_id, Action.REJECT)
    assert (await site.outbox.commit(stub("a"))).id == report_id
    name = await site.put(report_id, document)
    await site.append(report_id, State.REJECTED, decision_sha256=name)


async def _filed_unsigned(site: Site, report_id: str) -> None:
    await site.append(report_id, State.FILED, environment="production", authority_report_id="4711")


async def _filed_by_the_thief(site: Site, report_id: str) -> None:
    said = Ending(report_id, "filed", "production", "4711", LONG_AGO, fingerprint(site.worker.public_key))
    await site.append(report_id, State.FILED, ending=ending.sign(said, site.thief))


async def _filed_by_a_custodian(site: Site, report_id: str) -> None:
    """A custodian's key is none of a worker's."""
    await site.append(report_id, State.FILED, ending=word_of(site.ada, report_id, State.FILED))


async def _filed_as_another_was(site: Site, report_id: str) -> None:
    other = await site.report(State.QUEUED, "b")
    await site.append(report_id, State.FILED, ending=word_of(site.worker, other, State.FILED))


async def _filed_as_it_was_tried_out(site: Site, report_id: str) -> None:
    await site.append(report_id, State.FILED, ending=word_of(site.worker, report_id, State.DRY_RUN))


async def _tried_out_before_it_was_approved_anew(site: Site, report_id: str) -> None:
    await bring_to(site.database, site.pins, report_id, State.DRY_RUN, ada=site.ada, worker=site.worker)
    async with site.database.connect() as connection:
        entry = await connection.execute(
            select(log.c.details).where(log.c.event == "report.dry_run", log.c.subject == report_id)
        )
        signed = json.loads(entry.scalar_one())[endings.MEMBER]
    await site.decide(report_id, Action.APPROVE)
    await site.append(report_id, State.DRY_RUN, ending=signed)


async def _no_document_at_all(site: Site, report_id: str) -> None:
    await site.append(report_id, State.RETRACTED, ending="[" * 50_000)


@pytest.mark.parametrize(
    "forge",
    [
        _says_nothing,
        _signed_by_the_thief,
        _of_another_report,
        _a_note_for_a_rejection,
        _the_first_of_two,
        _taken_back,
        _before_it_was_seen_again,
        _filed_unsigned,
        _filed_by_the_thief,
        _filed_by_a_custodian,
        _filed_as_another_was,
        _filed_as_it_was_tried_out,
        _tried_out_before_it_was_approved_anew,
        _no_document_at_all,
    ],
    ids=lambda forge: forge.__name__.strip("_"),
)
async def test_an_end_that_was_forged_in_the_log_too_is_kept_and_named(site: Site, forge: Forgery) -> None:
    """Entries that follow on from all before, with rows that go with them: what is missing is a signature."""
    report_id = await site.report(State.QUEUED)
    await forge(site, report_id)
    assert await site.is_kept_and_named(report_id, US, LATER)


async def test_a_worker_that_saw_the_log_removes_nothing_once_it_was_cut_off(site: Site) -> None:
    """An honest rejection that was taken back stands again, in a log that is whole: only memory tells."""
    report_id = await site.report(State.REJECTED)
    async with site.database.connect() as connection:
        before = await reports.get(connection, report_id)
    witness = Witness()
    await site.decide(report_id, Action.APPROVE)
    await witness.follow(site.database)
    async with site.database.begin() as connection:
        newest = await audit.head(connection)
        assert newest is not None
        await connection.execute(delete(log).where(log.c.seq == newest.seq))
        await connection.execute(delete(documents).where(documents.c.action == "approve"))
    await site.write(report_id, state="rejected", changed_at=before.changed_at, decided_at=before.decided_at)
    with pytest.raises(AuditBrokenError):
        await purge.purge(
            site.database,
            US,
            site.pins.read(),
            LATER,
            by="worker",
            identity=site.worker,
            witness=witness,
        )
    async with site.database.connect() as connection:
        assert [each.kind for each in await alarms.standing(connection)] == [AlarmKind.AUDIT_BROKEN]
    assert await site.purge() == (report_id,)


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
async def test_a_worker_removes_nothing_by_what_a_view_hides_of_what_it_saw(site: Site) -> None:
    """The log as a whole is shown as it is, and not where it is asked how the report ended."""
    report_id = await site.report(State.REJECTED)
    async with site.database.connect() as connection:
        before = await reports.get(connection, report_id)
    witness = Witness()
    await site.decide(report_id, Action.APPROVE)
    await witness.follow(site.database)
    await site.write(report_id, state="rejected", changed_at=before.changed_at, decided_at=before.decided_at)
    shown = "event <> 'report.approved' OR current_query() NOT LIKE '%event IN%'"
    async with site.database.begin() as connection:
        for statement in (
            "ALTER TABLE audit RENAME TO true_audit",
            f"CREATE VIEW audit AS SELECT * FROM true_audit WHERE {shown}",  # noqa: S608 - no value in it
            "ALTER TABLE decisions RENAME TO true_decisions",
            "CREATE VIEW decisions AS SELECT * FROM true_decisions WHERE action <> 'approve'",
        ):
            await connection.execute(text(statement))
    removed = await purge.purge(
        *(site.database, US, site.pins.read(), LATER), by="worker", identity=site.worker, witness=witness
    )
    assert removed == ()
    assert await site.purge() == (report_id,)


@pytest.mark.parametrize("bounded", [True, False], ids=["by_the_file", "by_the_log_alone"])
@pytest.mark.parametrize("was", [State.QUEUED, State.APPROVED])
async def test_who_left_signs_nothing_any_more_with_the_database_to_write(
    site: Site,
    was: State,
    bounded: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A former custodian's key, a well-formed entry, and a row to go with it: not even an approval is shaken.

    By the pinned file, or by the log where the file is from before it said until when.
    """
    report_id, honest = await site.report(was), await site.report(State.REJECTED, "b")
    await add_custodian(site.database, site.pins, "grace")
    await remove_custodian(site.database, site.pins, "ada")
    roster = site.pins.read()
    (former,) = roster.former
    assert former.until is not None
    if not bounded:
        site.pins.write(replace(roster, former=(replace(former, until=None),)))
    name = await site.put(report_id, await site.signed(report_id, Action.REJECT))
    await site.append(report_id, State.REJECTED, decision_sha256=name)
    assert await site.is_kept_and_named(report_id, US, LATER)
    async with site.database.connect() as connection:
        with pytest.raises(NotApprovedError, match="no more") as refused:
            await decisions.approval(connection, report_id, site.pins.read(), dual_control=False)
        assert honest not in await reports.every_id(connection)
    assert not isinstance(refused.value, WithdrawnError)


async def test_nor_by_being_added_again_in_the_log(site: Site) -> None:
    """An entry that says so needs no key; the pinned file does not say it."""
    report_id = await site.report(State.QUEUED)
    await add_custodian(site.database, site.pins, "grace")
    await remove_custodian(site.database, site.pins, "ada")
    async with site.database.begin() as connection:
        again = {"name": "ada", "fingerprint": fingerprint(site.ada.public_key)}
        await audit.append(connection, "custodian.added", fingerprint(site.ada.public_key), again)
    name = await site.put(report_id, await site.signed(report_id, Action.REJECT))
    await site.append(report_id, State.REJECTED, decision_sha256=name)
    assert await site.is_kept_and_named(report_id, US, LATER)


async def test_a_removal_and_a_resealing_of_who_left_count_no_more_either(site: Site) -> None:
    """Nor does an order to destroy: of each report the auditor says so."""
    resealed, purged, destroyed = [await site.report(State.REJECTED, name) for name in "abc"]
    await add_custodian(site.database, site.pins, "grace")
    before = site.pins.read()
    order = await site.signed(destroyed, Action.DESTROY)
    await remove_custodian(site.database, site.pins, "ada")
    roster = site.pins.read()
    files = await _files(site, resealed)
    document, anew = resealing.sealed_anew(resealed, files, site.ada, before)
    async with site.database.begin() as connection:
        # As if she were a custodian still.
        await resealing.take_resealed(connection, document, anew, before, report_id=resealed, by="cli")
        await removal.destroy(connection, order, before, report_id=destroyed, dual_control=False, by="cli")
    by_ada = await purge.purge(site.database, US, before, LATER, by="cli", identity=site.ada)
    assert purged in by_ada
    async with site.database.connect() as connection:
        examined = await removal_proofs.examine(connection, roster)
    gone = {each.report_id: each.what for each in examined.unproven}
    what = "it is gone, and who signed its removal was pinned no more"
    assert gone == dict.fromkeys([*by_ada, destroyed], what)


async def _files(site: Site, report_id: str) -> sealed.Files:
    async with site.database.connect() as connection:
        return await sealed.authentic(connection, report_id, site.pins.read())


async def test_what_was_signed_by_who_left_or_was_replaced_still_counts(site: Site) -> None:
    """A custodian who was removed since, and a worker whose key was."""
    filed, rejected = await site.report(State.FILED), await site.report(State.REJECTED, "b")
    await add_custodian(site.database, site.pins, "grace")
    await remove_custodian(site.database, site.pins, "ada")
    site.worker = await replace_worker(site)
    assert await site.purge() == (filed, rejected)


async def replace_worker(site: Site, *, bounded: bool = True) -> Identity:
    """Another worker, as ``cordon custodian pin --worker`` pins it, here or before it said until when."""
    worker = generate()
    async with site.database.begin() as connection:
        newest = await audit.settled_head(connection)
        assert newest is not None
        roster = site.pins.read().with_worker(WorkerKeys.of(worker))
        await custodians.record_pinning(connection, roster)
    site.pins.write(roster.bounded(newest.seq) if bounded else roster)
    return worker


@pytest.mark.parametrize("bounded", [True, False])
async def test_the_key_of_a_former_worker_ends_and_removes_nothing_any_more(
    site: Site, *, bounded: bool
) -> None:
    """By the pinned file, or by the log where the file is from before it said until when.

    What it signed before counts: a report that it saw filed goes when its time is over.
    """
    honest, waiting = await site.report(State.FILED), await site.report(State.APPROVED, "b")
    former, before = site.worker, site.pins.read()
    site.worker = await replace_worker(site, bounded=bounded)
    await site.append(waiting, State.FILED, ending=word_of(former, waiting, State.FILED))
    assert await site.is_kept_and_named(waiting, US, LATER)
    async with site.database.connect() as connection:
        assert honest not in await reports.every_id(connection)
    late = await site.report(State.REJECTED, "d")
    by_former = await purge.purge(site.database, US, before, LATER, by="worker", identity=former)
    assert by_former == (waiting, late)
    async with site.database.connect() as connection:
        examined = await removal_proofs.examine(connection, site.pins.read())
    gone = {each.report_id: each.what for each in examined.unproven}
    what = "it is gone, and who signed its removal was pinned no more"
    assert gone == dict.fromkeys(by_former, what)
