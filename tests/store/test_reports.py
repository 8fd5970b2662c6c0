"""Reports: one for each medium at each place, joined while queued, never stored in half."""

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, text, update

from app.context import Context
from app.custody.identity import Identity, fingerprint, generate, read_identity
from app.custody.roster import Roster, RosterFile
from app.errors import InvalidRequestError, NotFoundError, NotReadyError, ReportNotStoredError
from app.media import BankKind, ReportReference
from app.report.outbox import CUSTODIANS_LIFE_SECONDS, SealedOutbox
from app.report.seal import digest, open_report
from app.settings import StoreSettings
from app.store import custodians
from app.store.database import Database
from app.store.reports import reports, sealed
from app.store.reports.report_states import State
from app.store.reports.sealed import TamperedError
from app.store.reports.shelf import ReportShelf
from app.store.schema import audit, idempotency, sightings
from app.store.schema import custodians as rows
from app.store.schema import reports as table
from tests import age_plugin
from tests.age_plugin import Oddity
from tests.chain import verify_chain
from tests.conftest import run_on_postgres
from tests.pins import add_custodian, pins_of, remove_custodian
from tests.stubs import stub

SWAP_WITH_DIGEST = (
    "UPDATE reports SET (sealed, sealed_sha256) = "
    "(SELECT sealed, sealed_sha256 FROM reports WHERE id = :other) WHERE id = :id"
)
HERE = Context(platform="p", account_id="1")


@pytest.fixture
def pins(store: StoreSettings) -> RosterFile:
    """The file of the pinned custodians."""
    return pins_of(store)


@pytest.fixture
async def custodian(database: Database, pins: RosterFile) -> Identity:
    """The identity of the one custodian."""
    return await add_custodian(database, pins)


@pytest.fixture
async def outbox(database: Database, pins: RosterFile, custodian: Identity) -> SealedOutbox:
    return SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)


@pytest.fixture
async def other_gate(store: StoreSettings) -> AsyncIterator[SealedOutbox]:
    """The outbox of another process on the same database."""
    opened = Database.open(store)
    yield SealedOutbox(ReportShelf(opened, None, pins_of(store)), require_custodian=True)
    await opened.close()


async def _all(database: Database, columns: Any) -> list[tuple[Any, ...]]:
    async with database.connect() as connection:
        return [tuple(row) for row in (await connection.execute(columns)).all()]


async def _counts(database: Database) -> tuple[int, int]:
    """How many reports and later sightings there are; each with its audit entry, in an unbroken chain."""
    report_count = len(await _all(database, select(table.c.id)))
    sighting_count = len(await _all(database, select(sightings.c.id)))
    events = [
        event for (event,) in await _all(database, select(audit.c.event)) if event.startswith("report.")
    ]
    assert events.count("report.sealed") == report_count
    assert events.count("report.sighted") == sighting_count
    async with database.connect() as connection:
        assert await verify_chain(connection) is None
    return report_count, sighting_count


async def test_a_match_becomes_a_queued_report_that_a_custodian_opens(
    database: Database, outbox: SealedOutbox, pins: RosterFile, custodian: Identity
) -> None:
    before = datetime.now(UTC)
    reference = await outbox.commit(stub(kind=BankKind.NCII))
    assert not reference.joined
    async with database.connect() as connection:
        report = await reports.get(connection, reference.id)
        (file,) = (await sealed.authentic(connection, reference.id, pins.read())).values()
        assert await sealed.sealed(connection, reference.id) == file
    assert before <= report.created_at <= datetime.now(UTC)
    assert (report.state, report.on_hold, report.bank_kind) == ("queued", False, BankKind.NCII)
    assert report.custodians == (fingerprint(custodian.public_key),)
    assert report.sealed_sha256 == digest(file).hex()
    document = open_report(file, custodian, report_id=reference.id)
    assert document["bank_kind"] == "ncii"


async def test_a_report_is_sealed_to_every_custodian_of_that_moment(
    database: Database, outbox: SealedOutbox, pins: RosterFile, custodian: Identity
) -> None:
    bob = await add_custodian(database, pins, "bob")
    early = await outbox.commit(stub("early"))
    await remove_custodian(database, pins, "bob")
    carol = await add_custodian(database, pins, "carol")
    late = await outbox.commit(stub("late"))
    async with database.connect() as connection:
        (early_file,) = (await sealed.authentic(connection, early.id, pins.read())).values()
        (late_file,) = (await sealed.authentic(connection, late.id, pins.read())).values()
    for file, opens, does_not in ((early_file, bob, carol), (late_file, carol, bob)):
        assert open_report(file, opens) == open_report(file, custodian)
        with pytest.raises(Exception, match="does not open"):
            open_report(file, does_not)


async def test_the_same_medium_at_the_same_place_joins_with_a_stub_of_its_own(
    database: Database, outbox: SealedOutbox, pins: RosterFile, custodian: Identity
) -> None:
    first = await outbox.commit(stub())
    second = await outbox.commit(stub(context=Context(tags=("second",))))
    assert second == ReportReference(first.id, joined=True)
    assert await _counts(database) == (1, 1)
    async with database.connect() as connection:
        assert (await reports.get(connection, first.id)).later_sightings == 1
        (sighting,) = await reports.list_sightings(connection, first.id)
        _, file = (await sealed.authentic(connection, first.id, pins.read())).values()
    assert sighting.sealed_sha256 == digest(file).hex()
    assert open_report(file, custodian, report_id=first.id)["context"] == {"tags": ["second"]}


@pytest.mark.parametrize(
    ("one", "other", "joins"),
    [
        ({"url": "https://a.example/1"}, {"url": "https://a.example/1"}, True),
        ({"url": "https://a.example/1"}, {"url": "https://a.example/2"}, False),
        ({"medium": "a"}, {"medium": "b"}, False),
        ({"url": None, "context": HERE}, {"url": None, "context": HERE}, True),
        ({"url": None, "context": HERE}, {"url": None, "context": Context(platform="p", post_id="1")}, False),
        ({"url": None, "context": HERE}, {"url": None, "context": Context(account_id="1")}, False),
        ({"url": None}, {"url": None}, False),
        (
            {"url": None, "context": Context(tags=("t",))},
            {"url": None, "context": Context(tags=("t",))},
            False,
        ),
        ({"key_id": "01JA"}, {"key_id": "01JB"}, True),
        ({"kind": BankKind.TEST}, {"kind": BankKind.CSAM}, False),
    ],
    ids=[
        "same URL",
        "another URL",
        "another medium",
        "same post",
        "another post",
        "fewer words",
        "no place",
        "no place though tagged",
        "another key",
        "a kind that can be filed",
    ],
)
async def test_sightings_join_if_medium_and_place_are_the_same(
    outbox: SealedOutbox, one: dict[str, Any], other: dict[str, Any], *, joins: bool
) -> None:
    first = await outbox.commit(stub(**one))
    second = await outbox.commit(stub(**other))
    assert (second.joined, second.id == first.id) == (joins, joins)


async def test_a_report_that_left_the_queue_is_not_joined(database: Database, outbox: SealedOutbox) -> None:
    first = await outbox.commit(stub())
    async with database.begin() as connection:
        await connection.execute(update(table).values(state="rejected", place_hash=None))
    second = await outbox.commit(stub())
    assert second.id != first.id
    assert not second.joined


async def test_gates_with_another_place_key_do_not_know_each_others_hashes(
    database: Database, outbox: SealedOutbox, pins: RosterFile
) -> None:
    keyed = SealedOutbox(ReportShelf(database, "k" * 32, pins), require_custodian=True)
    await outbox.commit(stub())
    assert not (await keyed.commit(stub())).joined
    hashes = [found for (found,) in await _all(database, select(table.c.place_hash))]
    assert len(set(hashes)) == 2


async def test_a_retry_under_one_idempotency_key_is_no_second_sighting(
    database: Database, outbox: SealedOutbox, other_gate: SealedOutbox
) -> None:
    uploaded: dict[str, Any] = {"url": None}
    for given in (uploaded, {}):
        first = await outbox.commit(stub(**given, idempotency_key="retry-1"))
        again = await other_gate.commit(stub(**given, idempotency_key="retry-1"))
        assert again == ReportReference(first.id, joined=True)
    assert await _counts(database) == (2, 0)


@pytest.mark.parametrize(
    "changed", [{"key_id": "01JOTHER"}, {"idempotency_key": "other"}, {"medium": "b"}, {"context": HERE}]
)
async def test_an_idempotency_key_covers_token_medium_and_place(
    database: Database, outbox: SealedOutbox, changed: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"url": None, "idempotency_key": "same"}
    await outbox.commit(stub(**given))
    assert not (await outbox.commit(stub(**given | changed))).joined
    assert await _counts(database) == (2, 0)


async def test_an_idempotency_key_is_forgotten_after_24_hours(
    database: Database, outbox: SealedOutbox
) -> None:
    await outbox.commit(stub("old", url=None, idempotency_key="k"))
    ((expires_at,),) = await _all(database, select(idempotency.c.expires_at))
    assert abs(expires_at - datetime.now(UTC) - timedelta(hours=24)) < timedelta(minutes=1)
    async with database.begin() as connection:
        await connection.execute(update(idempotency).values(expires_at=datetime.now(UTC)))
    await outbox.commit(stub("new", url=None))
    assert await _all(database, select(idempotency.c.keyed_hash)) == []
    assert not (await outbox.commit(stub("old", url=None, idempotency_key="k"))).joined


async def test_gates_that_see_the_same_at_once_make_one_report(
    database: Database, outbox: SealedOutbox, other_gate: SealedOutbox
) -> None:
    gates = (outbox, other_gate)
    references = await asyncio.gather(
        *(gates[number % 2].commit(stub(f"medium-{number % 4}")) for number in range(40))
    )
    assert len({reference.id for reference in references}) == 4
    assert [reference.joined for reference in references].count(False) == 4
    assert await _counts(database) == (4, 36)


async def test_retries_that_race_make_one_report_and_no_sighting(
    database: Database, outbox: SealedOutbox, other_gate: SealedOutbox
) -> None:
    gates = (outbox, other_gate)
    references = await asyncio.gather(
        *(gates[number % 2].commit(stub(url=None, idempotency_key="k")) for number in range(12))
    )
    assert len({reference.id for reference in references}) == 1
    assert await _counts(database) == (1, 0)


async def test_a_commit_whose_answer_was_lost_is_not_made_twice(
    database: Database, outbox: SealedOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks right after COMMIT: the attempt that follows finds what was stored."""
    write = database.write

    async def write_and_lose(work: Any) -> Any:
        await write(work)
        return await write(work)

    monkeypatch.setattr(database, "write", write_and_lose)
    first = await outbox.commit(stub(url=None))
    assert not first.joined
    second = await outbox.commit(stub("b"))
    assert (await outbox.commit(stub("b"))) == ReportReference(second.id, joined=True)
    assert await _counts(database) == (2, 1)


async def test_a_cancelled_commit_is_whole_or_not_there(database: Database, outbox: SealedOutbox) -> None:
    landed = 0
    for number in range(40):
        commit = asyncio.create_task(outbox.commit(stub(f"medium-{number}")))
        for _ in range(number):
            await asyncio.sleep(0)
        commit.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await commit
            landed += 1
    report_count, _ = await _counts(database)
    assert report_count >= landed
    assert not (await outbox.commit(stub("afterwards"))).joined


async def test_without_a_custodian_the_gate_is_not_ready_and_nothing_is_stored(
    database: Database, pins: RosterFile
) -> None:
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    with pytest.raises(NotReadyError, match="custodian"):
        await outbox.check_ready()
    with pytest.raises(ReportNotStoredError, match="custodian"):
        await outbox.commit(stub())
    assert await _counts(database) == (0, 0)


async def test_a_gate_that_requires_no_custodian_is_ready_but_stores_nothing_without_one(
    database: Database, pins: RosterFile
) -> None:
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=False)
    await outbox.check_ready()
    with pytest.raises(ReportNotStoredError, match="custodian"):
        await outbox.commit(stub())


async def test_readiness_follows_the_custodians_within_a_second_and_asks_no_more_often(
    database: Database, outbox: SealedOutbox, pins: RosterFile
) -> None:
    reads = 0

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def count(*arguments: object) -> None:
        nonlocal reads
        reads += str(arguments[2]).startswith("SELECT 1")

    await asyncio.gather(*(outbox.check_ready() for _ in range(50)))
    assert reads == 1
    outbox._counted_at -= CUSTODIANS_LIFE_SECONDS
    await outbox.count_ahead()
    await outbox.check_ready()
    assert reads == 2, "what was counted ahead is not counted again"
    await remove_custodian(database, pins, "ada")
    outbox._counted_at -= CUSTODIANS_LIFE_SECONDS
    with pytest.raises(NotReadyError, match="custodian"):
        await outbox.check_ready()


async def test_a_key_that_was_swapped_or_added_in_the_database_is_not_sealed_to(
    database: Database, outbox: SealedOutbox, pins: RosterFile, custodian: Identity
) -> None:
    """Who can write to the database alone adds no recipient; the pinned one still opens all."""
    mallory = generate()
    async with database.begin() as connection:
        await connection.execute(update(rows).values(public_key=mallory.public_key))
        await custodians.add(connection, name="mallory", untrusted_public_key=generate().public_key)
    reference = await outbox.commit(stub())
    async with database.connect() as connection:
        (file,) = (await sealed.authentic(connection, reference.id, pins.read())).values()
    assert open_report(file, custodian, report_id=reference.id)
    with pytest.raises(InvalidRequestError, match="does not open"):
        open_report(file, mallory)


async def test_a_file_of_the_pinned_that_is_none_stores_nothing(
    database: Database, outbox: SealedOutbox, pins: RosterFile
) -> None:
    """A key broken in it, or others allowed to write it: nobody is trusted in its place."""
    text_of = pins.path.read_text()
    for broken, mode in ((text_of.replace('"age1', '"age2'), 0o600), (text_of, 0o666)):
        pins.path.write_text(broken)
        pins.path.chmod(mode)
        with pytest.raises(ReportNotStoredError, match="custodians' file"):
            await outbox.commit(stub())
    assert await _counts(database) == (0, 0)


async def test_a_full_disk_stores_nothing_and_says_so(tmp_path: Path) -> None:
    store = StoreSettings(state_dir=tmp_path / "state")
    database = Database.open(store)
    await database.migrate_if_empty()
    pins = pins_of(store)
    await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    await outbox.commit(stub("before"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((store.state_dir / "cordon.db-wal").stat().st_size, hard))
    try:
        with pytest.raises(ReportNotStoredError, match="SQLITE_") as refusal:
            await outbox.commit(stub("during"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refusal.value.__suppress_context__
    await outbox.commit(stub("after"))
    assert await _counts(database) == (2, 0)
    await database.close()


async def test_a_database_that_goes_away_stores_nothing_and_is_used_again_when_it_is_back(
    database: Database, outbox: SealedOutbox, store: StoreSettings, postgres_url: str
) -> None:
    await outbox.commit(stub("before"))
    if store.database_url is not None:
        name = store.database_url.split("/")[3].split("?")[0]
        await run_on_postgres(
            postgres_url,
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",  # noqa: S608
        )
    else:
        (store.state_dir / "cordon.db").rename(store.state_dir / "away.db")
    with pytest.raises(ReportNotStoredError, match="database") as refusal:
        await outbox.commit(stub("during"))
    assert refusal.value.__suppress_context__
    if store.database_url is not None:
        await run_on_postgres(postgres_url, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    else:
        (store.state_dir / "away.db").rename(store.state_dir / "cordon.db")
    await outbox.commit(stub("after"))
    assert await _counts(database) == (2, 0)


async def test_reports_are_listed_newest_first_in_pages(database: Database, outbox: SealedOutbox) -> None:
    made = [(await outbox.commit(stub(f"medium-{number}"))).id for number in range(5)]
    async with database.begin() as connection:
        await connection.execute(update(table).where(table.c.id == made[0]).values(state="rejected"))
    async with database.connect() as connection:
        first = (await reports.list_reports(connection, limit=2)).reports
        rest = (await reports.list_reports(connection, before=first[-1].id)).reports
        queued = (await reports.list_reports(connection, state=State.QUEUED, limit=10_000)).reports
    listed = [report.id for report in (*first, *rest)]
    assert sorted(listed) == sorted(made)
    assert listed == sorted(made, reverse=True)
    assert {report.id for report in queued} == set(made[1:])


async def test_a_report_that_cannot_be_read_is_named_and_stands_before_no_other(
    database: Database, outbox: SealedOutbox
) -> None:
    """Pages are as full as without it, whatever state is asked for; nor is a time that is none read."""
    made = [(await outbox.commit(stub(f"medium-{number}"))).id for number in range(6)]
    never = "294276-01-01" if database.file is None else "never"
    async with database.begin() as connection:
        await connection.execute(update(table).where(table.c.id.in_(made[3:5])).values(state="junk"))
        spoilt = f"UPDATE reports SET created_at = '{never}' WHERE id = '{made[0]}'"  # noqa: S608 - ours
        await connection.execute(text(spoilt))
    async with database.connect() as connection:
        first = await reports.list_reports(connection, limit=2)
        rest = await reports.list_reports(connection, before=first.reports[-1].id, limit=2)
        queued = await reports.list_reports(connection, state=State.QUEUED)
        filed = await reports.list_reports(connection, state=State.FILED)
    assert [each.id for each in first.reports] == [made[5], made[2]]
    assert first.unreadable == (made[4], made[3])
    assert ([each.id for each in rest.reports], rest.unreadable) == ([made[1]], (made[0],))
    assert [each.id for each in queued.reports] == [made[5], made[2], made[1]]
    assert queued.unreadable == (made[4], made[3], made[0])
    assert (filed.reports, filed.unreadable) == ((), (made[4], made[3]))


async def test_a_hold_is_a_flag_recorded_once_with_who_set_it(
    database: Database, outbox: SealedOutbox
) -> None:
    report_id = (await outbox.commit(stub())).id
    for on_hold in (True, True, False, False):
        async with database.begin() as connection:
            report = await reports.set_hold(connection, report_id, on_hold=on_hold, by="01JKEY")
        assert (report.on_hold, report.state) == (on_hold, "queued")
    entries = await _all(
        database, select(audit.c.event, audit.c.details).where(audit.c.event.like("report.%held"))
    )
    assert entries == [("report.held", '{"by":"01JKEY"}'), ("report.unheld", '{"by":"01JKEY"}')]


async def test_what_is_not_there_is_told(database: Database) -> None:
    async with database.begin() as connection:
        for asked in (
            reports.get(connection, "01J"),
            sealed.sealed(connection, "01J"),
            sealed.authentic(connection, "01J", Roster()),
            reports.set_hold(connection, "01J", on_hold=True, by="cli"),
        ):
            with pytest.raises(NotFoundError):
                await asked
        assert await reports.list_sightings(connection, "01J") == ()


async def test_the_queue_tells_depth_and_age_of_the_oldest(database: Database, outbox: SealedOutbox) -> None:
    async with database.connect() as connection:
        assert await reports.queue(connection) == reports.Queue(0, None)
        assert (await reports.queue(connection)).oldest_age_seconds == 0
    made = [(await outbox.commit(stub(f"medium-{number}"))).id for number in range(3)]
    old = datetime.now(UTC) - timedelta(hours=1)
    async with database.begin() as connection:
        await connection.execute(update(table).where(table.c.id == made[0]).values(state="rejected"))
        await connection.execute(update(table).where(table.c.id == made[1]).values(created_at=old))
        queue = await reports.queue(connection)
    assert (queue.depth, queue.oldest_at) == (2, old)
    assert 3600 <= queue.oldest_age_seconds < 3700


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE reports SET sealed = (SELECT sealed FROM reports WHERE id = :other) WHERE id = :id",
        SWAP_WITH_DIGEST,
        "DELETE FROM audit WHERE subject = :id AND :other <> ''",
        "DELETE FROM sightings WHERE report_id = :id AND :other <> ''",
        "UPDATE sightings SET report_id = :id WHERE report_id = :other",
        "UPDATE audit SET subject = :id WHERE subject = :other",
    ],
    ids=[
        "swapped",
        "swapped with its SHA-256",
        "unrecorded",
        "sighting gone",
        "sighting moved",
        "two records",
    ],
)
async def test_a_report_that_was_tampered_with_is_not_taken_for_authentic(
    database: Database, outbox: SealedOutbox, pins: RosterFile, tampering: str
) -> None:
    report_id, other = [(await outbox.commit(stub(medium))).id for medium in ("a", "b")]
    for medium in ("a", "b"):
        await outbox.commit(stub(medium))
    async with database.connect() as connection:
        assert len(await sealed.authentic(connection, report_id, pins.read())) == 2
    async with database.begin() as connection:
        await connection.execute(text(tampering), {"id": report_id, "other": other})
    async with database.connect() as connection:
        with pytest.raises(TamperedError, match="Somebody changed the database"):
            await sealed.authentic(connection, report_id, pins.read())


async def test_a_report_that_is_being_sealed_when_a_custodian_comes_is_sealed_to_them_too(
    database: Database,
    pins: RosterFile,
    outbox: SealedOutbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who seals the old reports anew right after that would not see this one: nobody would do it again."""
    plugin = age_plugin.install(tmp_path / "bin", "pia")
    monkeypatch.setenv("PATH", f"{plugin.program.parent}{os.pathsep}{os.environ['PATH']}")
    pia = read_identity(plugin.write_identity(tmp_path / "pia.txt"), attended=True)
    await add_custodian(database, pins, "pia", pia)
    plugin.become(Oddity.WAITS)
    committing = asyncio.create_task(outbox.commit(stub()))
    while not plugin.program.with_suffix(".started").exists():
        assert not committing.done()
        await asyncio.sleep(0.01)
    later = await add_custodian(database, pins, "joan")
    plugin.program.with_suffix(".go").touch()
    report_id = (await committing).id
    async with database.connect() as connection:
        (file,) = (await sealed.authentic(connection, report_id, pins.read())).values()
        report = await reports.get(connection, report_id)
    assert open_report(file, later)["report_id"] == report_id
    assert report.custodians == pins.read().fingerprints
    assert await _counts(database) == (1, 0)
