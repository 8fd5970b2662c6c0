"""Decisions: taken in as signed, on the report as it was seen; what may be filed is read from them alone."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select, text, update

from app.custody.decision import Action
from app.custody.identity import Identity, generate
from app.custody.roster import RosterFile
from app.entries import NewSignal
from app.errors import ConflictError, NotFoundError, SignatureRequiredError
from app.media import BankAction, BankKind, SignalType
from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store.banks import bank_signals, banks
from app.store.database import Database
from app.store.reports import accepting, decisions, filings, reports
from app.store.reports.decisions import Approval, NotApprovedError, WithdrawnError
from app.store.reports.report_states import State
from app.store.reports.reports import Report
from app.store.reports.shelf import ReportShelf
from app.store.schema import audit, entries, entry_marks
from app.store.schema import decisions as table
from app.store.schema import reports as report_table
from tests.chain import verify_chain
from tests.deciding import XML, approving, deciding, seen
from tests.pins import add_custodian, pins_of, remove_custodian
from tests.stubs import stub

ALL = (Action.APPROVE, Action.REJECT, Action.ANNOTATE)


@dataclass(frozen=True)
class Office:
    """A database with two custodians and a queued report."""

    database: Database
    pins: RosterFile
    outbox: SealedOutbox
    ada: Identity
    grace: Identity
    report_id: str

    async def seen(self) -> tuple[str, ...]:
        """What both of them see when they open the report."""
        return await seen(self.database, self.report_id, self.pins.read())

    async def take(
        self, document: bytes, *, dual_control: bool = False, actions: Collection[Action] = ALL
    ) -> Report:
        """Hand a document in."""
        async with self.database.begin() as connection:
            return await accepting.take(
                connection,
                document,
                self.pins.read(),
                report_id=self.report_id,
                actions=actions,
                dual_control=dual_control,
                by="cli",
            )

    async def approve(self, identity: Identity, *, dual_control: bool = False, xml: bytes = XML) -> Report:
        """Let a custodian approve the report as it stands."""
        document = approving(self.report_id, await self.seen(), identity, xml=xml)
        return await self.take(document, dual_control=dual_control)

    async def reject(self, identity: Identity, *, dual_control: bool = False) -> Report:
        """Let a custodian reject it."""
        document = deciding(Action.REJECT, self.report_id, await self.seen(), identity)
        return await self.take(document, dual_control=dual_control)

    async def filed(self, identity: Identity, *, dual_control: bool = False) -> Report:
        """Let a custodian say that it was filed by hand."""
        document = deciding(Action.FILED, self.report_id, await self.seen(), identity)
        return await self.take(document, dual_control=dual_control, actions=(Action.FILED,))

    async def approval(self, *, dual_control: bool = False) -> Approval:
        """What the worker may file."""
        async with self.database.connect() as connection:
            return await decisions.approval(
                connection, self.report_id, self.pins.read(), dual_control=dual_control
            )

    async def events(self) -> list[str]:
        """What the audit log says of the report, in order."""
        async with self.database.connect() as connection:
            assert await verify_chain(connection) is None
            rows = await connection.execute(
                select(audit.c.event).where(audit.c.subject == self.report_id).order_by(audit.c.seq)
            )
            return list(rows.scalars())

    async def tamper(self, statement: str) -> None:
        """Write to the database as somebody who has nothing else."""
        async with self.database.begin() as connection:
            await connection.execute(text(statement), {"id": self.report_id} if ":id" in statement else {})


@pytest.fixture
async def office(database: Database, store: StoreSettings) -> Office:
    pins = pins_of(store)
    ada, grace = [await add_custodian(database, pins, name) for name in ("ada", "grace")]
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    return Office(database, pins, outbox, ada, grace, (await outbox.commit(stub())).id)


async def test_an_approval_brings_the_report_on_and_is_what_the_worker_reads(office: Office) -> None:
    """The very XML that was sealed and signed; the audit entry names document and sealed file."""
    report = await office.approve(office.ada)
    assert report.state is State.APPROVED
    assert report.decided_at is not None
    approval = await office.approval()
    assert office.ada.decrypt(approval.xml) == XML
    (signed,) = approval.signed
    assert signed.decision.xml_sha256 == approval.xml_sha256
    async with office.database.connect() as connection:
        rows = await connection.execute(select(audit.c.details).where(audit.c.event == "report.approved"))
        details = json.loads(rows.scalar_one())
    assert details["decision_sha256"] == signed.sha256
    assert details["sealed_sha256"] == [report.sealed_sha256]
    assert approval.xml_sha256 not in json.dumps(details)


async def test_a_decision_taken_back_is_approved_no_more(office: Office) -> None:
    """Approved, rejected, approved anew; annotations in between change nothing."""
    await office.approve(office.ada)
    await office.take(deciding(Action.ANNOTATE, office.report_id, await office.seen(), office.grace))
    assert (await office.approval()).signed[0].decision.action is Action.APPROVE
    assert (await office.reject(office.grace)).state is State.REJECTED
    with pytest.raises(WithdrawnError):
        await office.approval()
    await office.approve(office.grace)
    assert len((await office.approval()).signed) == 1
    assert await office.events() == [
        *("report.sealed", "report.approved", "report.annotated", "report.rejected", "report.approved")
    ]


async def test_under_dual_control_two_custodians_approve_the_very_same_xml(office: Office) -> None:
    """One alone does not, however often; nor two of different documents."""
    for _ in range(2):
        report = await office.approve(office.ada, dual_control=True)
        assert report.state is State.QUEUED
    with pytest.raises(NotApprovedError, match="Too few"):
        await office.approval(dual_control=True)
    other = await office.approve(office.grace, dual_control=True, xml=b"<other/>")
    assert other.state is State.QUEUED
    both = await office.approve(office.ada, dual_control=True, xml=b"<other/>")
    assert both.state is State.APPROVED
    approval = await office.approval(dual_control=True)
    assert {each.decision.custodian for each in approval.signed} == set(office.pins.read().fingerprints)
    assert office.ada.decrypt(approval.xml) == b"<other/>"
    assert (await office.events()).count("report.first_approval") == 3


async def test_under_dual_control_one_custodian_alone_approves_nothing_away(office: Office) -> None:
    """A first approval of another document leaves what two approved as it is, wherever the report is."""
    for each in (office.ada, office.grace):
        await office.approve(each, dual_control=True)
    with pytest.raises(ConflictError, match="is approved, and cannot become approved"):
        await office.approve(office.ada, dual_control=True, xml=b"<other/>")
    async with office.database.begin() as connection:
        await reports.move(connection, office.report_id, to=State.SUBMITTED)
    other = await office.approve(office.ada, dual_control=True, xml=b"<other/>")
    assert other.state is State.SUBMITTED
    approval = await office.approval(dual_control=True)
    assert (office.grace.decrypt(approval.xml), len(approval.signed)) == (XML, 2)
    both = await office.approve(office.grace, dual_control=True, xml=b"<other/>")
    assert both.state is State.APPROVED
    approval = await office.approval(dual_control=True)
    assert (office.grace.decrypt(approval.xml), len(approval.signed)) == (b"<other/>", 2)


async def test_under_dual_control_one_custodian_alone_rejects_nothing(office: Office) -> None:
    """What was approved stands until a second rejects it too; an approval in between undoes the first."""
    for _ in range(2):
        assert (await office.reject(office.ada, dual_control=True)).state is State.QUEUED
    await office.approve(office.grace)
    assert (await office.reject(office.grace, dual_control=True)).state is State.APPROVED
    assert (await office.approval()).signed
    assert (await office.reject(office.ada, dual_control=True)).state is State.REJECTED
    with pytest.raises(WithdrawnError):
        await office.approval()
    assert (await office.events()).count("report.first_rejection") == 3
    with pytest.raises(ConflictError, match="is rejected, and cannot become rejected"):
        await office.reject(office.grace, dual_control=True)


async def test_a_first_rejection_counts_no_more_after_another_sighting_or_once_its_signer_left(
    office: Office,
) -> None:
    """The second speaks of the same report, and two custodians of now must have signed."""
    await office.reject(office.ada, dual_control=True)
    assert (await office.outbox.commit(stub())).joined
    assert (await office.reject(office.grace, dual_control=True)).state is State.QUEUED
    await remove_custodian(office.database, office.pins, "grace")
    assert (await office.reject(office.ada, dual_control=True)).state is State.QUEUED


async def test_under_dual_control_one_custodian_alone_buries_nothing_as_filed_by_hand(office: Office) -> None:
    """Until a second says so too the report goes on; a note of the second's, or another sighting, is none."""
    for _ in range(2):
        assert (await office.filed(office.ada, dual_control=True)).state is State.QUEUED
    note = deciding(Action.ANNOTATE, office.report_id, await office.seen(), office.grace)
    assert (await office.take(note, dual_control=True)).state is State.QUEUED
    assert (await office.outbox.commit(stub())).joined
    assert (await office.filed(office.grace, dual_control=True)).state is State.QUEUED
    await office.approve(office.ada)
    assert (await office.approval()).signed
    assert (await office.filed(office.ada, dual_control=True)).state is State.FILED_MANUALLY
    with pytest.raises(NotApprovedError):
        await office.approval()
    events = await office.events()
    assert (events.count("report.first_filed"), events.count("report.filed_manually")) == (3, 1)
    with pytest.raises(ConflictError, match="cannot become filed_manually"):
        await office.filed(office.grace, dual_control=True)


async def test_what_was_rejected_by_one_stays_so_when_two_must_from_then_on(office: Office) -> None:
    """And what one rejected first is rejected by the next one, where one is enough again."""
    await office.approve(office.ada)
    await office.reject(office.ada)
    with pytest.raises(WithdrawnError):
        await office.approval(dual_control=True)
    await office.approve(office.grace)
    assert (await office.reject(office.ada, dual_control=True)).state is State.APPROVED
    assert (await office.reject(office.ada)).state is State.REJECTED


async def test_a_first_approval_counts_no_more_after_another_sighting(office: Office) -> None:
    """The second would speak of more than the first saw."""
    await office.approve(office.ada, dual_control=True)
    assert (await office.outbox.commit(stub())).joined
    assert (await office.approve(office.grace, dual_control=True)).state is State.QUEUED
    assert (await office.approve(office.ada, dual_control=True)).state is State.APPROVED
    assert len((await office.approval(dual_control=True)).signed) == 2


async def test_a_report_that_changed_since_it_was_seen_is_not_decided(office: Office) -> None:
    document = approving(office.report_id, await office.seen(), office.ada)
    assert (await office.outbox.commit(stub())).joined
    with pytest.raises(ConflictError, match="not as you saw it"):
        await office.take(document)
    assert (await office.events())[-1] == "report.sighted"


async def test_a_decision_is_taken_in_once_and_in_order(office: Office) -> None:
    """Neither again, nor after a later one, nor from a clock far ahead."""
    early = approving(office.report_id, await office.seen(), office.ada)
    await office.reject(office.grace)
    with pytest.raises(ConflictError, match="a later one was"):
        await office.take(early)
    late = approving(office.report_id, await office.seen(), office.ada)
    await office.take(late)
    with pytest.raises(ConflictError, match="taken in already"):
        await office.take(late)
    ahead = datetime.now(UTC) + timedelta(minutes=6)
    future = deciding(Action.ANNOTATE, office.report_id, await office.seen(), office.ada, decided_at=ahead)
    with pytest.raises(ConflictError, match="from the future"):
        await office.take(future)
    assert (await office.events()).count("report.approved") == 1


async def test_a_decision_of_another_report_or_kind_or_by_a_stranger_is_refused(office: Office) -> None:
    """And nothing of it is stored."""
    other = (await office.outbox.commit(stub("other"))).id
    digests = await office.seen()
    of_other = approving(other, await seen(office.database, other, office.pins.read()), office.ada)
    stranger = approving(office.report_id, digests, generate())
    for document, actions in (
        (of_other, ALL),
        (stranger, ALL),
        (approving(office.report_id, digests, office.ada), (Action.REJECT,)),
        (b"{}", ALL),
    ):
        with pytest.raises(SignatureRequiredError):
            await office.take(document, actions=actions)
    missing = "01J9ZK3V5T8QX2M4N6P8R0S1T2"
    with pytest.raises(NotFoundError):
        async with office.database.begin() as connection:
            await accepting.take(
                connection,
                approving(missing, digests, office.ada),
                office.pins.read(),
                report_id=missing,
                actions=ALL,
                by="cli",
            )
    async with office.database.connect() as connection:
        assert (await connection.execute(select(table.c.id))).first() is None
    assert await office.events() == ["report.sealed"]


@pytest.mark.parametrize("kind", [BankKind.TEST, BankKind.NCII, BankKind.TERRORISM, BankKind.OTHER])
async def test_only_reports_of_csam_banks_can_be_approved(office: Office, kind: BankKind) -> None:
    """The others can be rejected, and exported."""
    other = (await office.outbox.commit(stub("other", kind=kind))).id
    digests = await seen(office.database, other, office.pins.read())
    for document, passes in (
        (approving(other, digests, office.ada), False),
        (deciding(Action.REJECT, other, digests, office.ada), True),
    ):
        async with office.database.begin() as connection:
            taken = accepting.take(
                connection, document, office.pins.read(), report_id=other, actions=ALL, by="cli"
            )
            if passes:
                assert (await taken).state is State.REJECTED
            else:
                with pytest.raises(ConflictError, match="Only reports of csam banks"):
                    await taken


async def test_a_rejection_takes_the_entry_out_of_force_in_the_same_step(office: Office) -> None:
    """All or nothing: where the rejection is refused, the entry stays."""
    signals = [NewSignal(SignalType.SHA256, bytes([number]) * 32) for number in (1, 2)]
    async with office.database.begin() as connection:
        await banks.create(connection, "known", BankKind.CSAM, banks.Policy(BankAction.REPORT), by="cli")
        await bank_signals.add(connection, "known", signals, by="cli")
        first = (await connection.execute(select(entries.c.id).order_by(entries.c.id))).scalars().first()

    async def disabled() -> list[int]:
        async with office.database.connect() as connection:
            rows = await connection.execute(
                select(entry_marks.c.entry_id).where(entry_marks.c.disabled_at.is_not(None))
            )
            return list(rows.scalars())

    stale = deciding(Action.REJECT, office.report_id, ["f" * 64], office.ada, disabled_entries=(first,))
    with pytest.raises(ConflictError):
        await office.take(stale)
    assert await disabled() == []
    digests = await office.seen()
    rejection = deciding(Action.REJECT, office.report_id, digests, office.ada, disabled_entries=(first, 999))
    assert (await office.take(rejection)).state is State.REJECTED
    assert await disabled() == [first]


async def test_who_is_pinned_no_more_approves_no_more(office: Office) -> None:
    """What they approved before is not filed either: another must."""
    await office.approve(office.ada)
    document = deciding(Action.REJECT, office.report_id, await office.seen(), office.ada)
    await remove_custodian(office.database, office.pins, "ada")
    with pytest.raises(SignatureRequiredError, match="no pinned custodian"):
        await office.take(document)
    with pytest.raises(NotApprovedError, match="Too few"):
        await office.approval()
    await office.reject(office.grace)
    await office.approve(office.grace)
    assert len((await office.approval()).signed) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decisions SET document = (SELECT document FROM decisions WHERE report_id <> :id)",
        "DELETE FROM decisions WHERE report_id = :id",
        "DELETE FROM decisions WHERE action = 'reject'",
        "DELETE FROM audit WHERE event = 'report.rejected'",
        "UPDATE decisions SET report_id = :id",
        "UPDATE reports SET sealed = (SELECT sealed FROM reports WHERE id <> :id) WHERE id = :id",
        (
            "INSERT INTO audit SELECT 1000, at, 'report.filed', subject, details, previous, digest "
            "FROM audit WHERE subject = :id AND event = 'report.sealed'"
        ),
    ],
)
async def test_a_database_that_somebody_wrote_to_approves_nothing(office: Office, statement: str) -> None:
    """Whatever state the row says."""
    await office.reject(office.ada)
    await office.approve(office.ada)
    other = (await office.outbox.commit(stub("other"))).id
    digests = await seen(office.database, other, office.pins.read())
    async with office.database.begin() as connection:
        await accepting.take(
            connection,
            approving(other, digests, office.ada),
            office.pins.read(),
            report_id=other,
            actions=ALL,
            by="cli",
        )
    assert (await office.approval()).signed
    await office.tamper(statement)
    with pytest.raises(ConflictError):
        await office.approval()


async def test_what_was_approved_is_not_passed_over_where_somebody_called_it_another_kind(
    office: Office,
) -> None:
    """The worker takes it up, and parks it: nobody would look for one that is of no csam bank."""
    await office.approve(office.ada)
    await office.tamper("UPDATE reports SET bank_kind = 'other' WHERE id = :id")
    async with office.database.begin() as connection:
        turn = await filings.claim(connection, environment="double", now=datetime.now(UTC))
    assert turn is not None
    assert turn.report_id == office.report_id
    with pytest.raises(ConflictError, match="not of the kind that it was approved as"):
        await office.approval()


async def test_the_state_alone_approves_nothing(office: Office) -> None:
    async with office.database.begin() as connection:
        await connection.execute(update(report_table).values(state="approved"))
    with pytest.raises(NotApprovedError, match="Too few"):
        await office.approval()


async def test_a_report_that_is_gone_has_no_decisions(office: Office) -> None:
    """They go with it; the audit log keeps their digests."""
    await office.approve(office.ada)
    async with office.database.begin() as connection:
        await connection.execute(delete(report_table))
    async with office.database.connect() as connection:
        assert (await connection.execute(select(table.c.id))).first() is None
        with pytest.raises(NotFoundError):
            await reports.get(connection, office.report_id)
    assert (await office.events())[-1] == "report.approved"
