"""Single entries: what sources say of them, what people decide; what became of a bank. On both databases."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from app.entries import NewSignal, Origin
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.filing.alarms import watch
from app.media import PARKED_WITH_ITS_ENTRY, BankAction, BankKind, SignalType
from app.report.outbox import SealedOutbox
from app.settings import StoreSettings
from app.store import alarms, schema
from app.store.alarms import AlarmKind
from app.store.banks import bank_history, bank_listing, bank_signals, bank_sweeping, entry_marks
from app.store.banks.bank_history import BankChange
from app.store.banks.bank_listing import BankEntry, EntryState
from app.store.banks.bank_reader import BankReader
from app.store.banks.bank_signals import Changed
from app.store.database import Database
from app.store.reports import reports
from app.store.reports.report_states import State
from app.store.reports.shelf import ReportShelf
from tests.chain import verify_chain
from tests.pins import add_custodian, pins_of
from tests.store.test_banks import add, delete, head, make, on_sqlite, remove, signal, some
from tests.stubs import stub

HOTLINE = Origin("hotline", None, "A1", "reports only")


async def give(
    database: Database, signals: Sequence[NewSignal], origin: Origin | None = None, name: str = "a"
) -> Changed:
    async with database.begin() as connection:
        return await bank_signals.add(connection, name, signals, by="cli", origin=origin)


def of_line(*numbers: int, source: str = "hotline") -> list[NewSignal]:
    """Signals of which each line names the source."""
    return [NewSignal(SignalType.MD5, signal(each).value, None, Origin(source)) for each in numbers]


NUMBERS = {signal(number, SignalType.PHASH).value: number for number in range(10)}


async def entries(database: Database, state: EntryState | None = None) -> list[BankEntry]:
    """The entries of bank ``a`` in the order of the numbers that they were made of."""
    async with database.connect() as connection:
        found = await bank_listing.page(connection, "a", state=state)
    return sorted(found, key=lambda entry: NUMBERS[entry.value[:8]])


async def only(database: Database) -> BankEntry:
    (entry,) = await entries(database)
    return entry


async def history(database: Database, name: str = "a") -> list[BankChange]:
    async with database.connect() as connection:
        return list(await bank_history.history(connection, name))


async def standing_alarms(database: Database) -> list[tuple[AlarmKind, str]]:
    async with database.connect() as connection:
        return [(alarm.kind, alarm.subject) for alarm in await alarms.standing(connection)]


def told(entry: BankEntry) -> list[tuple[str | None, ...]]:
    return [
        (each.source, each.reference, each.classification, each.restrictions, each.listed_at)
        for each in entry.sources
    ]


async def test_what_an_import_says_of_all_is_said_of_each(database: Database) -> None:
    """It stands once, whatever the number of entries, and a line may say more."""
    await make(database)
    of_its_own = NewSignal(
        SignalType.MD5, signal(3).value, None, Origin(None, "X-17", "B2", None, "2026-01-31")
    )
    await give(database, [*some(1, 2), of_its_own], HOTLINE)
    first, second, third = await entries(database)
    assert told(first) == told(second) == [("hotline", None, "A1", "reports only", None)]
    assert told(third) == [("hotline", "X-17", "B2", "reports only", "2026-01-31")]
    assert not any(each.disputed for each in (first, second, third))
    async with database.connect() as connection:
        rows = await connection.scalar(select(func.count()).select_from(schema.opinions))
    assert rows == 1


async def test_the_same_signal_of_two_sources_is_one_entry_and_disputed_if_they_disagree(
    database: Database,
) -> None:
    """A source that does not say what it is agrees with all; case does not make a difference."""
    await make(database)
    await give(database, some(1, 2, 3), HOTLINE)
    again = await give(database, some(1, 2, 3), Origin("police", None, None, "internal"))
    assert (again.changed, again.unchanged) == (0, 3)
    await give(database, some(2), Origin("exchange", None, "a1"))
    await give(database, some(3), Origin("exchange", None, "B2"))
    first, second, third = await entries(database)
    assert [[each.source for each in entry.sources] for entry in (first, second, third)] == [
        ["hotline", "police"],
        ["exchange", "hotline", "police"],
        ["exchange", "hotline", "police"],
    ]
    assert [each.disputed for each in (first, second, third)] == [False, False, True]
    assert await entries(database, EntryState.DISPUTED) == [third]
    assert first.sources[1].restrictions == "internal"


async def test_the_newest_word_of_a_source_is_its_opinion(database: Database) -> None:
    await make(database)
    await give(database, some(1), HOTLINE)
    await give(database, some(1), Origin("exchange", None, "B2"))
    assert (await only(database)).disputed
    await give(database, some(1), Origin("hotline", None, "B2"))
    entry = await only(database)
    assert [each.classification for each in entry.sources] == ["B2", "B2"]
    assert not entry.disputed


async def test_saying_the_same_again_keeps_nothing_new(database: Database) -> None:
    await make(database)
    for _ in range(3):
        await give(database, some(1, 2), HOTLINE)
        await give(database, some(1, 2), Origin("police", None, "A1"))
    async with database.connect() as connection:
        rows = await connection.scalar(select(func.count()).select_from(schema.opinions))
    assert rows == 2


async def test_what_an_unfinished_import_says_is_read_by_nobody(database: Database) -> None:
    """And is there at once with its entries when it is finished, those that were there before included."""
    await make(database)
    await give(database, some(1), HOTLINE)
    staged = await bank_signals.begin_import(database, "a", origin=Origin("exchange", None, "B2"))
    await bank_signals.stage(database, staged, some(1, 2))
    entry = await only(database)
    assert [each.source for each in entry.sources] == ["hotline"]
    await bank_signals.finish_import(database, staged, given=2, by="cli")
    first, second = await entries(database)
    assert [each.source for each in first.sources] == ["exchange", "hotline"]
    assert first.disputed
    assert told(second) == [("exchange", None, "B2", None, None)]


async def test_what_was_said_goes_with_the_entry(database: Database) -> None:
    """Pruned and swept, nothing of it is left; a signal that comes back begins anew."""
    await make(database)
    await give(database, some(1), HOTLINE)
    await give(database, some(1), Origin("police", None, "B2"))
    await remove(database, some(1))
    await give(database, some(1))
    assert (await only(database)).sources == ()
    await bank_sweeping.prune(database, (await head(database)).generation)
    await bank_sweeping.sweep(database)
    async with database.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(schema.opinions)) == 0


async def test_what_one_source_withdraws_stays_while_another_stands_by_it(database: Database) -> None:
    """The last one takes the entry with it; what nobody gave, and what another gave, is not its to take."""
    await make(database)
    await give(database, some(1, 2, 3), HOTLINE)
    await give(database, some(2), Origin("police", None, "B2"))
    await give(database, some(4))
    await give(database, some(4), HOTLINE)
    withdrawn = await remove(database, some(1, 2, 4, 5), HOTLINE)
    assert (withdrawn.changed, withdrawn.kept, withdrawn.unchanged) == (1, 2, 1)
    second, third, fourth = await entries(database)
    assert [told(entry)[0][:1] for entry in (second, third)] == [("police",), ("hotline",)]
    assert fourth.sources == ()
    assert not second.disputed
    again = await remove(database, some(1, 2, 4, 5), HOTLINE)
    assert (again.changed, again.kept, again.unchanged) == (0, 0, 4)
    last = await remove(database, some(2), Origin("police"))
    assert (last.changed, last.kept, last.unchanged) == (1, 0, 0)
    assert [entry.value for entry in await entries(database)] == [third.value, fourth.value]


async def test_a_source_may_give_again_what_it_withdrew(database: Database) -> None:
    await make(database)
    await give(database, some(1), HOTLINE)
    await give(database, some(1), Origin("police"))
    await remove(database, some(1), HOTLINE)
    assert [each.source for each in (await only(database)).sources] == ["police"]
    await give(database, some(1), HOTLINE)
    assert [each.source for each in (await only(database)).sources] == ["hotline", "police"]
    await remove(database, some(1), Origin("police"))
    assert [each.source for each in (await only(database)).sources] == ["hotline"]
    assert (await remove(database, some(1), HOTLINE)).changed == 1


async def test_lines_name_who_withdraws_them(database: Database) -> None:
    """Two sources in one list, and a line of none, which removes outright."""
    await make(database)
    for origin in (HOTLINE, Origin("police")):
        await give(database, some(1, 2, 3), origin)
    by_line = [
        NewSignal(SignalType.MD5, signal(1).value, None, Origin("hotline")),
        NewSignal(SignalType.MD5, signal(1).value, None, Origin("police")),
        NewSignal(SignalType.MD5, signal(2).value, None, Origin("police")),
        signal(3),
    ]
    changed = await remove(database, by_line)
    assert (changed.changed, changed.kept) == (2, 1)
    assert [each.source for each in (await only(database)).sources] == ["hotline"]
    newest, *_ = await history(database)
    assert (newest.what, newest.entries) == ("signals_withdrawn", 2)


async def test_a_withdrawal_takes_nothing_from_an_import_that_is_under_way(database: Database) -> None:
    """Else the entry would be gone although its second source has just begun to give it."""
    await make(database)
    await give(database, some(1), HOTLINE)
    staged = await bank_signals.begin_import(database, "a", origin=Origin("police"))
    await bank_signals.stage(database, staged, some(1))
    assert (await remove(database, some(1), HOTLINE)).changed == 0
    await bank_signals.finish_import(database, staged, given=2, by="cli")
    assert [each.source for each in (await only(database)).sources] == ["police"]


async def test_what_a_line_says_for_a_source_is_not_said_without_one(database: Database) -> None:
    """In a list of several sources each can withdraw what its lines brought; a line of none stands."""
    await make(database)
    await give(database, [*of_line(1, 2), *of_line(2, source="police"), *some(3, 4), *of_line(4)])
    changed = await remove(database, some(1, 2, 3, 4), HOTLINE)
    assert (changed.changed, changed.kept, changed.unchanged) == (1, 2, 1)
    assert (await remove(database, some(2), Origin("police"))).changed == 1
    assert {entry.value for entry in await entries(database)} == {each.value for each in some(3, 4)}


async def test_what_somebody_adds_without_a_source_stays_when_a_source_withdraws_it(
    database: Database,
) -> None:
    """Although the source was there first; it is no source of its own, and said again it takes no room."""
    await make(database)
    await give(database, some(1), HOTLINE)
    await give(database, of_line(2))
    for _ in range(2):
        await give(database, some(1, 2))
    assert [[each.source for each in entry.sources] for entry in await entries(database)] == [["hotline"]] * 2
    async with database.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(schema.opinions)) == 3
    changed = await remove(database, some(1, 2), HOTLINE)
    assert (changed.changed, changed.kept) == (0, 2)
    assert [entry.sources for entry in await entries(database)] == [(), ()]


@pytest.mark.parametrize("origin", [Origin("police", None, "B2"), None])
async def test_an_import_under_way_keeps_its_word_on_what_another_takes_over(
    database: Database, origin: Origin | None
) -> None:
    """Else a withdrawal by the quicker one would take away what the slower one gave too."""
    await make(database)
    staged = await bank_signals.begin_import(database, "a", origin=origin)
    await bank_signals.stage(database, staged, some(1, 2))
    await give(database, some(1, 2), HOTLINE)
    await bank_signals.finish_import(database, staged, given=1, by="cli")
    told_of = ["hotline", "police"] if origin is not None else ["hotline"]
    assert [[each.source for each in entry.sources] for entry in await entries(database)] == [told_of] * 2
    changed = await remove(database, some(1, 2), HOTLINE)
    assert (changed.changed, changed.kept) == (0, 2)


async def test_an_import_that_was_given_up_stands_by_nothing(database: Database) -> None:
    """From the moment it is given up, before anything of it was swept away."""
    await make(database)
    staged = await bank_signals.begin_import(database, "a", origin=Origin("police"))
    await bank_signals.stage(database, staged, some(1))
    await give(database, some(1), HOTLINE)
    await bank_signals.begin_import(database, "a")
    assert (await remove(database, some(1), HOTLINE)).changed == 1


async def test_entries_are_found_by_their_signals_and_paged_by_id(database: Database) -> None:
    await make(database)
    await make(database, "b")
    await add(database, some(1, 2, 3))
    await add(database, some(1), "b")
    async with database.connect() as connection:
        found = await bank_listing.find(connection, "a", [*some(2, 9), signal(1, SignalType.SHA1)])
        assert [each.value for each in found] == [signal(2).value]
        first = await bank_listing.page(connection, "a", limit=2)
        rest = await bank_listing.page(connection, "a", limit=2, after=first[-1].id)
        assert [len(first), len(rest)] == [2, 1]
        assert await bank_listing.get(connection, found[0].id, in_bank="a") == found[0]
        for entry_id, in_bank in ((found[0].id, "b"), (999, "a"), (999, None)):
            with pytest.raises(NotFoundError):
                await bank_listing.get(connection, entry_id, in_bank=in_bank)
        with pytest.raises(NotFoundError):
            await bank_listing.page(connection, "none")


async def test_one_entry_is_disabled_and_the_rest_stays(database: Database) -> None:
    """Every process hears of it; and an import that brings it again does not bring it back into force."""
    bank = await make(database)
    await add(database, some(1, 2))
    first, _ = await entries(database)
    async with database.begin() as connection:
        generation = await entry_marks.disable(connection, first.id, why="a logo", by="k1", in_bank="a")
    assert (await head(database)).generation == generation
    read = await BankReader(database).changes(0)
    assert read.disabled.tolist() == [first.id]
    assert read.disabled_counts == {(bank.id, SignalType.MD5): 1}
    assert (await add(database, some(1))).unchanged == 1
    (disabled,) = await entries(database, EntryState.DISABLED)
    assert disabled.disabled is not None
    assert (disabled.id, disabled.disabled.by, disabled.disabled.why) == (first.id, "k1", "a logo")
    async with database.begin() as connection:
        await entry_marks.enable(connection, first.id, by="k1")
    assert await entries(database, EntryState.DISABLED) == []
    assert (await BankReader(database).changes(0)).disabled.tolist() == []


@on_sqlite
@pytest.mark.parametrize("why", ["", "  ", "a\0b", "x" * 1001])
async def test_a_reason_for_disabling_is_needed_and_plain(database: Database, why: str) -> None:
    await make(database)
    await add(database, some(1))
    entry = await only(database)
    async with database.begin() as connection:
        with pytest.raises(InvalidRequestError, match="'why'"):
            await entry_marks.disable(connection, entry.id, why=why, by="cli")
    assert (await only(database)).disabled is None


async def test_one_entry_is_annotated_and_nothing_has_to_be_loaded_for_it(database: Database) -> None:
    await make(database)
    await add(database, [signal(1, note="old"), signal(2, note="other")])
    generation = (await head(database)).generation
    first, _ = await entries(database)
    async with database.begin() as connection:
        await entry_marks.annotate(connection, first.id, note="new", by="cli", in_bank="a")
    assert [each.note for each in await entries(database)] == ["new", "other"]
    async with database.begin() as connection:
        await entry_marks.annotate(connection, first.id, note=None, by="cli")
    assert [each.note for each in await entries(database)] == [None, "other"]
    assert (await head(database)).generation == generation


async def test_no_decision_is_made_of_an_entry_that_is_not_there(database: Database) -> None:
    """Removed, in another bank, or of an import that is not finished; and no generation is used up."""
    await make(database)
    await make(database, "b")
    await add(database, some(1))
    entry = await only(database)
    staged = await bank_signals.begin_import(database, "b")
    await bank_signals.stage(database, staged, some(5))
    generation = (await head(database)).generation
    for entry_id, in_bank in ((entry.id, "b"), (entry.id + 1, None), (999, None)):
        with pytest.raises(NotFoundError):
            async with database.begin() as connection:
                await entry_marks.disable(connection, entry_id, why="w", by="cli", in_bank=in_bank)
    assert (await head(database)).generation == generation
    await remove(database, some(1))
    with pytest.raises(NotFoundError):
        async with database.begin() as connection:
            await entry_marks.enable(connection, entry.id, by="cli")


async def test_a_parked_entry_calls_a_person_once_and_is_kept_by_one(database: Database) -> None:
    """Kept, it is not parked again for thirty days; after them it may be."""
    await make(database)
    await add(database, [signal(1, SignalType.PDQ)])
    entry = await only(database)
    for news in (True, False):
        async with database.begin() as connection:
            assert await entry_marks.park(connection, entry.id, media=100) is news
    assert await standing_alarms(database) == [(AlarmKind.BANK_ENTRY_PARKED, str(entry.id))]
    assert (await BankReader(database).changes(0)).parked == {entry.id}
    assert [each.id for each in await entries(database, EntryState.PARKED)] == [entry.id]
    async with database.begin() as connection:
        await entry_marks.keep(connection, entry.id, by="k1", in_bank="a")
    assert await standing_alarms(database) == []
    read = await BankReader(database).changes(0)
    assert read.parked == frozenset()
    assert timedelta(days=29) < read.tolerated[entry.id] - datetime.now(UTC) <= timedelta(days=30)
    async with database.begin() as connection:
        assert not await entry_marks.park(connection, entry.id, media=100)
        past = datetime.now(UTC) - timedelta(seconds=1)
        await connection.execute(update(schema.entry_marks).values(tolerated_until=past))
        assert await entry_marks.park(connection, entry.id, media=100)
        await entry_marks.keep(connection, entry.id, by="k1")
    with pytest.raises(ConflictError, match="not parked"):
        async with database.begin() as connection:
            await entry_marks.keep(connection, entry.id, by="k1")


async def test_disabling_a_parked_entry_is_a_decision_too(database: Database) -> None:
    await make(database)
    await add(database, [signal(1, SignalType.PDQ)])
    entry = await only(database)
    async with database.begin() as connection:
        await entry_marks.park(connection, entry.id, media=100)
    async with database.begin() as connection:
        await entry_marks.disable(connection, entry.id, why="flat", by="cli")
    assert await standing_alarms(database) == []
    assert await entries(database, EntryState.PARKED) == []
    async with database.begin() as connection:
        assert not await entry_marks.park(connection, entry.id, media=100), "it matches nothing any more"


async def test_the_alarm_of_an_entry_that_is_gone_ends(database: Database) -> None:
    await make(database)
    await add(database, [signal(1, SignalType.PDQ)])
    entry = await only(database)
    async with database.begin() as connection:
        await entry_marks.park(connection, entry.id, media=100)
    await remove(database, [signal(1, SignalType.PDQ)])
    await bank_sweeping.sweep(database)
    assert await standing_alarms(database) == []
    async with database.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(schema.entry_marks)) == 0


async def test_only_an_entry_of_a_suppression_bank_is_named_for_a_csam_entry(database: Database) -> None:
    await make(database)
    await make(database, "harmless", kind=BankKind.OTHER, action=BankAction.SUPPRESS)
    await make(database, "other", kind=BankKind.OTHER)
    ids: dict[str, dict[SignalType, int]] = {}
    for name in ("a", "harmless", "other"):
        kinds = [SignalType.PDQ, SignalType.PHASH, SignalType.SHA256]
        await add(database, [signal(1, of) for of in kinds], name)
        async with database.connect() as connection:
            ids[name] = {each.type: each.id for each in await bank_listing.page(connection, name)}
    pdq, phash, sha256 = SignalType.PDQ, SignalType.PHASH, SignalType.SHA256
    for entry_id, suppressor_id, said in (
        (ids["a"][pdq], ids["other"][pdq], "one of a suppression bank"),
        (ids["a"][pdq], 999, "one of a suppression bank"),
        (ids["other"][pdq], ids["harmless"][pdq], "Only entries of csam banks"),
        (ids["a"][sha256], ids["harmless"][sha256], "never cancelled"),
        (ids["a"][pdq], ids["harmless"][phash], "of one type"),
    ):
        with pytest.raises(ConflictError, match=said):
            async with database.begin() as connection:
                await entry_marks.name_pair(connection, entry_id, suppressor_id, by="cli")
    for suppressor_id in (ids["harmless"][pdq], ids["harmless"][sha256], ids["harmless"][pdq]):
        async with database.begin() as connection:
            await entry_marks.name_pair(connection, ids["a"][pdq], suppressor_id, by="cli")
    expected = {(ids["harmless"][pdq], ids["a"][pdq]), (ids["harmless"][sha256], ids["a"][pdq])}
    assert (await BankReader(database).changes(0)).named == expected
    async with database.begin() as connection:
        await entry_marks.drop_pair(connection, ids["a"][pdq], ids["harmless"][sha256], by="cli")
        entry = await bank_listing.get(connection, ids["a"][pdq])
    assert entry.suppressors == (ids["harmless"][pdq],)
    with pytest.raises(NotFoundError):
        async with database.begin() as connection:
            await entry_marks.drop_pair(connection, ids["a"][pdq], ids["harmless"][sha256], by="cli")
    await delete(database, "harmless")
    await bank_sweeping.sweep(database)
    assert (await BankReader(database).changes(0)).named == frozenset()


async def test_the_history_tells_how_many_entries_that_were_there_a_change_spoke_of(
    database: Database,
) -> None:
    """A second source that speaks of it all adds nothing, and one that withdraws may take nothing."""
    await make(database)
    await give(database, some(1, 2), HOTLINE)
    await give(database, some(1, 2, 3), Origin("police"))
    staged = await bank_signals.begin_import(database, "a", origin=Origin("exchange"))
    await bank_signals.stage(database, staged, some(1, 2, 3, 4))
    await bank_signals.finish_import(database, staged, given=4, by="cli")
    await remove(database, some(1, 2), HOTLINE)
    found = await history(database)
    told = [(each.entries, each.details.get("known"), each.details.get("kept")) for each in found]
    assert told == [(0, None, 2), (1, 3, None), (1, 2, None), (2, 0, None), (None, None, None)]


async def test_the_history_tells_who_did_what_to_how_many(database: Database) -> None:
    """Newest first, in pages, and of a deleted bank too; no value stands in it."""
    await make(database)
    await make(database, "b")
    await add(database, some(1, 2))
    await add(database, some(1), "b")
    first, _ = await entries(database)
    async with database.begin() as connection:
        await entry_marks.disable(connection, first.id, why="a secret reason", by="k1")
    await remove(database, some(2))
    await delete(database)
    found = await history(database)
    assert [(each.what, each.by, each.entries, each.entry_id) for each in found] == [
        ("deleted", "cli", None, None),
        ("signals_removed", "cli", 1, None),
        ("entry_disabled", "k1", None, first.id),
        ("signals_added", "cli", 2, None),
        ("created", "cli", None, None),
    ]
    assert found[-1].details["kind"] == "csam"
    async with database.connect() as connection:
        page = await bank_history.history(connection, "a", limit=2)
        rest = await bank_history.history(connection, "a", before=page[-1].seq)
        assert [*page, *rest] == found
        with pytest.raises(NotFoundError):
            await bank_history.history(connection, "none")
        assert await verify_chain(connection) is None
        said = (await connection.execute(select(schema.audit.c.details))).scalars().all()
    assert "secret" not in json.dumps(list(said))


def test_an_entry_shows_no_value_when_printed() -> None:
    entry = BankEntry(
        *(1, "a", SignalType.MD5, b"\x07" * 16, None, datetime.now(UTC), (), False, None, None, None, (), {})
    )
    assert "\\x07" not in repr(entry)
    assert "0707" not in repr(entry)


async def test_reports_that_waited_with_entries_are_queued_when_no_entry_waits_any_more(
    database: Database, store: StoreSettings
) -> None:
    """Which of them waited with which entry is sealed, so they go together; what waits otherwise stays."""
    pins = pins_of(store)
    await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    waiting = [(await outbox.commit(stub(), parked_cause=PARKED_WITH_ITS_ENTRY)).id for _ in range(45)]
    other = (await outbox.commit(stub(), parked_cause="a question")).id
    await make(database)
    await add(database, [signal(number, SignalType.PDQ) for number in (1, 2)])
    async with database.begin() as connection:
        for entry in await entries(database):
            await entry_marks.park(connection, entry.id, media=100)
    first, second = await entries(database)
    async with database.begin() as connection:
        await entry_marks.keep(connection, first.id, by="cli")
    assert await entry_marks.release_reports(database) == 0
    async with database.begin() as connection:
        await entry_marks.disable(connection, second.id, why="flat", by="cli")
    assert await entry_marks.release_reports(database) == 45
    async with database.connect() as connection:
        found = (await reports.list_reports(connection)).reports
        assert await verify_chain(connection) is None
    assert {each.id for each in found if each.state is State.QUEUED} == set(waiting)
    assert {each.id for each in found if each.state is State.PARKED} == {other}


async def test_reports_that_waited_with_an_entry_that_is_gone_are_queued(
    database: Database, store: StoreSettings
) -> None:
    """Removed, or with its bank: nobody can decide of it any more, and its alarm ends."""
    pins = pins_of(store)
    await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    await make(database)
    await add(database, [signal(number, SignalType.PDQ) for number in (1, 2)])
    for gone in (remove(database, [signal(1, SignalType.PDQ)]), delete(database)):
        first, *_ = await entries(database)
        async with database.begin() as connection:
            await entry_marks.park(connection, first.id, media=100)
        await outbox.commit(stub(), parked_cause=PARKED_WITH_ITS_ENTRY)
        assert await entry_marks.release_reports(database) == 0
        assert await standing_alarms(database) == [(AlarmKind.BANK_ENTRY_PARKED, str(first.id))]
        await gone
        assert await entry_marks.release_reports(database) == 1
        assert await standing_alarms(database) == []


async def test_waiting_with_an_entry_raises_one_alarm_and_not_one_for_each_report(
    database: Database, store: StoreSettings
) -> None:
    pins = pins_of(store)
    await add_custodian(database, pins)
    outbox = SealedOutbox(ReportShelf(database, None, pins), require_custodian=True)
    await outbox.commit(stub(), parked_cause=PARKED_WITH_ITS_ENTRY)
    other = (await outbox.commit(stub(), parked_cause="a question")).id
    await watch(database, datetime.now(UTC))
    assert await standing_alarms(database) == [(AlarmKind.REPORT_PARKED, other)]
