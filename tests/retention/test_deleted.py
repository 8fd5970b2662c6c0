"""Whoever deletes a report, and forges the entry of its removal, is found out: nobody signed that.

Each deletion is followed by the purge of a worker and by an auditor's look, on both databases. What was
removed before Cordon signed removals is told apart, and nobody makes a deletion of today one of then.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update

from app.custody import removal as signed_removal
from app.custody.decision import Action
from app.custody.identity import Identity, fingerprint, generate
from app.custody.removal import Removal
from app.custody.roster import Roster, WorkerKeys
from app.errors import SignatureRequiredError
from app.report.outbox import SealedOutbox
from app.retention import purge
from app.settings import RetentionSettings, StoreSettings
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.record import audit
from app.store.reports import inspection, removal, removal_proofs, reports, sealed
from app.store.reports.decisions import DESTROYED_EVENT, PURGED_EVENT
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from app.store.schema import audit as log
from app.store.schema import reports as table
from app.store.schema import tombstones
from tests.chain import verify_chain
from tests.deciding import deciding, seen
from tests.ended import bring_to, pin_worker
from tests.pins import add_custodian, pins_of
from tests.stubs import stub

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=400)
US = RetentionSettings(jurisdiction="us")


class Site:
    """A database with reports in it, a custodian and a worker, and a thief who writes."""

    def __init__(self, database: Database, store: StoreSettings) -> None:
        self.database, self.pins, self.thief = database, pins_of(store), generate()
        self.outbox = SealedOutbox(ReportShelf(database, None, self.pins), require_custodian=True)

    async def open(self) -> None:
        self.ada = await add_custodian(self.database, self.pins)
        self.worker = pin_worker(self.pins)

    async def report(self, medium: str, state: State = State.QUEUED) -> str:
        report_id = (await self.outbox.commit(stub(medium))).id
        await bring_to(self.database, self.pins, report_id, state, ada=self.ada, worker=self.worker)
        return report_id

    async def purge(self, now: datetime = NOW) -> tuple[str, ...]:
        return await purge.purge(self.database, US, self.pins.read(), now, by="worker", identity=self.worker)

    async def order(self, report_id: str, identity: Identity, action: Action = Action.DESTROY) -> bytes:
        digests = await seen(self.database, report_id, self.pins.read())
        return deciding(action, report_id, digests, identity, custodian=fingerprint(self.ada.public_key))

    async def delete(
        self, report_id: str, event: str = PURGED_EVENT, document: bytes | None = None, **details: Any
    ) -> None:
        """All that Cordon does when it removes a report, done by the thief."""
        async with self.database.begin() as connection:
            await removal.remove(
                connection,
                report_id,
                event=event,
                details={"by": "worker", "why": "30 days from the rejection", **details},
                document=document,
            )

    async def found(self) -> set[str]:
        """What an auditor names, and says is wrong; the log itself is whole."""
        async with self.database.connect() as connection:
            assert await verify_chain(connection) is None
            stored = await inspection.stored(connection, None)
            removed = await removal_proofs.examine(connection, self.pins.read())
            assert removed.before == 0
            found = await inspection.at_large(connection, stored, removed)
            for each in stored.ids:
                found += await inspection.of_report(connection, each, self.pins.read())
        return {each.report_id for each in found}

    async def told(self) -> set[str]:
        """What alarms tell of after the worker looked."""
        await self.purge()
        async with self.database.connect() as connection:
            stand = await alarms.standing(connection)
        return {each.subject for each in stand if each.kind is AlarmKind.REPORT_ALTERED}


@pytest.fixture
async def site(database: Database, store: StoreSettings) -> Site:
    built = Site(database, store)
    await built.open()
    return built


def signed(site: Site, report_id: str, by: Identity, **changed: Any) -> str:
    """What a remover signs of a report whose time is over."""
    removed = Removal(report_id, "rejected", ("0" * 64,), datetime.now(UTC), "0 days", datetime.now(UTC), "")
    signer = fingerprint(site.worker.public_key if by is site.thief else by.public_key)
    return signed_removal.sign(replace(removed, **({"signer": signer} | changed)), by)


Deletion = Callable[[Site], Awaitable[str]]


async def _no_entry_at_all(site: Site) -> str:
    report_id = await site.report("a", State.REJECTED)
    async with site.database.begin() as connection:
        await connection.execute(delete(table).where(table.c.id == report_id))
    return report_id


async def _an_entry_that_nobody_signed(site: Site) -> str:
    report_id = await site.report("a", State.REJECTED)
    await site.delete(report_id)
    return report_id


async def _signed_by_the_thief(site: Site) -> str:
    report_id = await site.report("a", State.REJECTED)
    await site.delete(report_id, removal=signed(site, report_id, site.thief))
    return report_id


async def _signed_of_another_report(site: Site) -> str:
    report_id, other = await site.report("a", State.REJECTED), await site.report("b", State.REJECTED)
    await site.delete(report_id, removal=signed(site, other, site.worker))
    return report_id


async def _what_is_no_document(site: Site) -> str:
    report_id = await site.report("a", State.REJECTED)
    await site.delete(report_id, removal=["[" * 50_000])
    return report_id


async def _signed_by_a_custodian_of_one_that_waited(site: Site) -> str:
    """Their own key, and the database: what the log says of the report stands against it."""
    report_id = await site.report("a")
    await site.delete(report_id, removal=signed(site, report_id, site.ada))
    return report_id


async def _signed_by_a_custodian_too_early(site: Site) -> str:
    report_id = await site.report("a", State.REJECTED)
    early = NOW - timedelta(days=1)
    await site.delete(report_id, removal=signed(site, report_id, site.ada, due_at=early))
    return report_id


async def _signed_by_a_custodian_before_it_was_due(site: Site) -> str:
    report_id = await site.report("a", State.REJECTED)
    await site.delete(report_id, removal=signed(site, report_id, site.ada, due_at=LATER))
    return report_id


async def _signed_by_a_custodian_while_on_hold(site: Site) -> str:
    report_id = await site.report("a", State.REJECTED)
    async with site.database.begin() as connection:
        await reports.set_hold(connection, report_id, on_hold=True, by="cli")
        await connection.execute(update(table).where(table.c.id == report_id).values(on_hold=False))
    await site.delete(report_id, removal=signed(site, report_id, site.ada))
    return report_id


async def _an_order_that_is_not_there(site: Site) -> str:
    report_id = await site.report("a")
    await site.delete(report_id, DESTROYED_EVENT, decision_sha256="0" * 64)
    return report_id


async def _an_order_of_the_thief(site: Site) -> str:
    report_id = await site.report("a")
    order = await site.order(report_id, site.thief)
    name = hashlib.sha256(order).hexdigest()
    await site.delete(report_id, DESTROYED_EVENT, order, decision_sha256=name)
    return report_id


async def _an_order_of_another_report(site: Site) -> str:
    report_id, other = await site.report("a"), await site.report("b")
    order = await site.order(other, site.ada)
    name = hashlib.sha256(order).hexdigest()
    await site.delete(report_id, DESTROYED_EVENT, order, decision_sha256=name)
    return report_id


async def _a_note_for_an_order(site: Site) -> str:
    report_id = await site.report("a")
    order = await site.order(report_id, site.ada, Action.ANNOTATE)
    name = hashlib.sha256(order).hexdigest()
    await site.delete(report_id, DESTROYED_EVENT, order, decision_sha256=name)
    return report_id


async def _an_order_whose_tombstone_was_taken_away(site: Site) -> str:
    report_id = await site.report("a")
    order = await site.order(report_id, site.ada)
    name = hashlib.sha256(order).hexdigest()
    await site.delete(report_id, DESTROYED_EVENT, order, decision_sha256=name)
    assert await site.found() == set()
    async with site.database.begin() as connection:
        await connection.execute(delete(tombstones).where(tombstones.c.id == report_id))
    return report_id


async def _called_one_of_before(site: Site) -> str:
    """With the entry that the migration writes, behind it."""
    report_id = await site.report("a", State.REJECTED)
    await site.delete(report_id)
    async with site.database.begin() as connection:
        await audit.append(connection, removal_proofs.SIGNED_FROM_EVENT, "removals", {})
    return report_id


@pytest.mark.parametrize(
    "deletion",
    [
        _no_entry_at_all,
        _an_entry_that_nobody_signed,
        _signed_by_the_thief,
        _signed_of_another_report,
        _what_is_no_document,
        _signed_by_a_custodian_of_one_that_waited,
        _signed_by_a_custodian_too_early,
        _signed_by_a_custodian_before_it_was_due,
        _signed_by_a_custodian_while_on_hold,
        _an_order_that_is_not_there,
        _an_order_of_the_thief,
        _an_order_of_another_report,
        _a_note_for_an_order,
        _an_order_whose_tombstone_was_taken_away,
        _called_one_of_before,
    ],
    ids=lambda deletion: deletion.__name__.strip("_"),
)
async def test_a_report_that_somebody_deleted_is_named_and_an_alarm_tells_of_it(
    site: Site, deletion: Deletion
) -> None:
    """And no other: one that Cordon removed beside it is none."""
    honest = await site.report("honest", State.REJECTED)
    assert await site.purge(NOW + timedelta(days=31)) == (honest,)
    assert await site.found() == await site.told() == set()
    deleted = await deletion(site)
    assert deleted in await site.found()
    assert (await site.found()) == {deleted}
    assert await site.told() == {deleted}


async def test_without_a_pinned_key_nothing_is_removed_and_an_alarm_says_so(site: Site) -> None:
    """None at all, one that nobody pinned, and one that was pinned once."""
    report_id = await site.report("a", State.REJECTED)
    former = site.worker
    pin_worker(site.pins)
    for identity in (None, site.thief, former):
        roster = site.pins.read()
        assert await purge.purge(site.database, US, roster, LATER, by="worker", identity=identity) == ()
        async with site.database.connect() as connection:
            stand = [(each.kind, each.subject) for each in await alarms.standing(connection)]
            assert await reports.every_id(connection) == (report_id,)
        assert stand == [(AlarmKind.REMOVAL_UNSIGNED, "worker")]
    by_ada = await purge.purge(site.database, US, site.pins.read(), LATER, by="cli", identity=site.ada)
    assert by_ada == (report_id,)
    async with site.database.connect() as connection:
        assert await alarms.standing(connection) == ()
    assert await site.found() == set()


async def test_what_was_removed_before_removals_were_signed_is_told_apart(site: Site) -> None:
    """An older Cordon's database, brought up: no false alarm, and no way in for deletions of today."""
    purged, left = await site.report("a", State.REJECTED), await site.report("b", State.REJECTED)
    await site.delete(purged)
    async with site.database.begin() as connection:
        # What an older Cordon left: no entry of a seal says that its removal will be signed.
        entries = (await connection.execute(select(log).order_by(log.c.seq))).mappings().all()
        await connection.execute(delete(log))
        for entry in entries:
            details = {
                name: value for name, value in audit.said(entry["details"]).items() if name != "removal"
            }
            await audit.append(connection, entry["event"], entry["subject"], details)
        await connection.execute(text("UPDATE alembic_version SET version_num = '0006'"))
    assert await _examined(site) == ({purged}, 0)
    await site.database.upgrade()
    assert await _examined(site) == (set(), 1)
    assert await site.told() == set()
    # Nor does it help to have the database brought up again.
    await site.delete(left)
    async with site.database.begin() as connection:
        await audit.append(connection, removal_proofs.SIGNED_FROM_EVENT, "removals", {})
    assert await _examined(site) == ({left}, 1)
    assert await site.told() == {left}


async def test_a_new_log_begins_without_an_entry_of_the_migration(site: Site) -> None:
    """All of its reports say from the first on that their removal will be signed."""
    report_id = await site.report("a")
    async with site.database.connect() as connection:
        first = await connection.execute(select(log.c.event).order_by(log.c.seq).limit(1))
        assert first.scalar_one() == "custodian.added"
        entry = await connection.execute(
            select(log.c.details).where(log.c.subject == report_id, log.c.event == sealed.SEALED_EVENT)
        )
        assert audit.said(entry.scalar_one())["removal"] == "signed"


@pytest.mark.parametrize("changed", [{"sealed_sha256": ("x",)}, {"signer": "x"}])
def test_a_document_of_another_form_is_no_removal(changed: dict[str, Any]) -> None:
    """Whoever signed it."""
    worker = generate()
    roster = Roster(worker=WorkerKeys.of(worker))
    removed = Removal("01", "filed", ("0" * 64,), NOW, "a year", NOW, fingerprint(worker.public_key))
    found, signer = signed_removal.verify(signed_removal.sign(removed, worker), roster)
    assert (found, signer) == (removed, WorkerKeys.of(worker).as_pinned)
    with pytest.raises(SignatureRequiredError):
        signed_removal.verify(signed_removal.sign(replace(removed, **changed), worker), roster)


async def _examined(site: Site) -> tuple[set[str], int]:
    async with site.database.connect() as connection:
        found = await removal_proofs.examine(connection, site.pins.read())
    return {each.report_id for each in found.unproven}, found.before
