"""Banks in the store: policies, entries, generations, and what others see meanwhile. On both databases."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select, text, update

from app.entries import Bank, Changes, Head, NewSignal, Origin
from app.errors import ConflictError, InvalidRequestError, NotFoundError, NotReadyError
from app.media import BankAction, BankKind, SignalType, Tier
from app.store import schema
from app.store.banks import bank_reader, bank_signals, bank_sweeping, banks
from app.store.banks.bank_reader import BankReader
from app.store.banks.bank_signals import Changed, Staged
from app.store.database import Database
from tests.chain import verify_chain

# What does not depend on the database is tried on one; the rest on both.
on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


def signal(number: int, of: SignalType = SignalType.MD5, note: str | None = None) -> NewSignal:
    raw = hashlib.sha256(str(number).encode()).digest()
    return NewSignal(of, raw[: of.size_bytes], note)


def some(*numbers: int) -> list[NewSignal]:
    return [signal(number) for number in numbers]


async def make(
    database: Database, name: str = "a", kind: BankKind = BankKind.CSAM, by: str = "cli", **policy: Any
) -> Bank:
    wanted = banks.Policy(**{"action": BankAction.REPORT} | policy)
    async with database.begin() as connection:
        return await banks.create(connection, name, kind, wanted, by=by)


async def add(database: Database, signals: Sequence[NewSignal], name: str = "a") -> Changed:
    async with database.begin() as connection:
        return await bank_signals.add(connection, name, signals, by="cli")


async def remove(
    database: Database, signals: Sequence[NewSignal], origin: Origin | None = None, name: str = "a"
) -> Changed:
    async with database.begin() as connection:
        return await bank_signals.remove(connection, name, signals, by="cli", origin=origin)


async def delete(database: Database, name: str = "a") -> int:
    async with database.begin() as connection:
        return await banks.delete_bank(connection, name, by="cli")


async def get(database: Database, name: str = "a") -> Bank:
    async with database.connect() as connection:
        return await banks.get(connection, name)


async def counts(database: Database) -> dict[tuple[int, SignalType], int]:
    async with database.connect() as connection:
        return dict(await bank_signals.counts(connection))


async def rows(database: Database) -> int:
    async with database.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(schema.entries))).scalar_one()


async def head(database: Database, generation: int = 0, nonce: bytes = b"") -> Head:
    return await BankReader(database).head(generation, nonce)


async def changes(database: Database, since: int = 0) -> Changes:
    return await BankReader(database).changes(since)


async def values(database: Database, of: SignalType, generation: int) -> list[bytes]:
    return [
        value.tobytes()
        async for entries in BankReader(database).entries(of, generation)
        for value in entries.values
    ]


def added(read: Changes) -> list[bytes]:
    return sorted(value.tobytes() for entries in read.added for value in entries.values)


async def test_a_bank_is_made_and_read_back(database: Database) -> None:
    made = await make(database, thresholds={SignalType.PDQ: 20})
    assert made == await get(database)
    assert (made.name, made.kind, made.action) == ("a", BankKind.CSAM, BankAction.REPORT)
    assert (made.threshold(SignalType.PDQ), made.threshold(SignalType.PHASH)) == (20, 6)
    assert made.threshold(SignalType.MD5) == 0
    assert (made.first_generation, made.changed_at) == (None, None)
    assert made.created_at.tzinfo is not None


async def test_all_banks_are_listed_by_name(database: Database) -> None:
    for name in ("b", "C", "a"):
        await make(database, name)
    async with database.connect() as connection:
        assert {bank.name for bank in await banks.every(connection)} == {"a", "b", "C"}


async def test_a_name_is_taken_once(database: Database) -> None:
    await make(database)
    with pytest.raises(ConflictError):
        await make(database)
    assert (await head(database)).generation == 1


@on_sqlite
@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a\n", "ä", "x" * 65])
async def test_a_wrong_name_is_refused(database: Database, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="Name a bank"):
        await make(database, name)


@on_sqlite
@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"action": BankAction.OBSERVE}, "csam bank cannot only observe"),
        ({"action": BankAction.BLOCK}, "needs a 'no_report_reason'"),
        ({"action": BankAction.BLOCK, "no_report_reason": "  "}, "needs a 'no_report_reason'"),
        ({"no_report_reason": "why"}, "is for csam banks that only block"),
        ({"kind": BankKind.NCII, "no_report_reason": "why"}, "is for csam banks that only block"),
        ({"action": BankAction.BLOCK, "no_report_reason": "a\0b"}, "control character"),
        ({"thresholds": {SignalType.PDQ: 65}}, "pdq 0 to 64"),
        ({"thresholds": {SignalType.PDQ: -1}}, "pdq 0 to 64"),
        ({"thresholds": {SignalType.PHASH: 17}}, "phash 0 to 16"),
        ({"thresholds": {SignalType.MD5: 0}}, "pdq 0 to 64"),
        ({"minimum_quality": 49}, "'minimum_quality': set 50 to 100"),
        ({"minimum_quality": 101}, "'minimum_quality': set 50 to 100"),
        ({"tier_actions": {Tier.NEAR: BankAction.OBSERVE}}, "csam bank cannot only observe"),
        ({"tier_actions": {Tier.NEAR: BankAction.BLOCK}}, "needs a 'no_report_reason'"),
        ({"tier_actions": {Tier.NEAR: BankAction.SUPPRESS}}, "use 'report', 'block' or 'observe'"),
        (
            {"kind": BankKind.OTHER, "tier_actions": {Tier.STRONG: BankAction.BLOCK}},
            "a farther match may not do more",
        ),
        (
            {
                "kind": BankKind.OTHER,
                "action": BankAction.BLOCK,
                "tier_actions": {Tier.STRONG: BankAction.REPORT},
            },
            "a farther match may not do more",
        ),
        ({"action": BankAction.SUPPRESS}, "its kind must be 'other'"),
        (
            {
                "kind": BankKind.OTHER,
                "action": BankAction.SUPPRESS,
                "tier_actions": {Tier.NEAR: BankAction.BLOCK},
            },
            "a suppression bank has none",
        ),
        (
            {"kind": BankKind.OTHER, "action": BankAction.SUPPRESS, "thresholds": {SignalType.PDQ: 32}},
            "pdq 0 to 31",
        ),
    ],
)
async def test_a_policy_that_would_let_harm_through_silently_is_refused(
    database: Database, policy: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        await make(database, **policy)


async def test_a_csam_bank_may_only_block_for_a_reason_that_is_kept(database: Database) -> None:
    made = await make(database, action=BankAction.BLOCK, no_report_reason="another team reports")
    assert made.no_report_reason == "another team reports"


async def test_a_policy_put_anew_is_whole_in_itself(database: Database) -> None:
    """The reason that an earlier one had does not stand for the one that it lacks."""
    await make(database, action=BankAction.BLOCK, no_report_reason="another team reports")
    async with database.begin() as connection:
        with pytest.raises(InvalidRequestError, match="needs a 'no_report_reason'"):
            await banks.put(connection, "a", BankKind.CSAM, banks.Policy(BankAction.BLOCK), by="key")


async def test_policies_change_and_what_is_not_named_stays(database: Database) -> None:
    await make(database, kind=BankKind.OTHER, thresholds={SignalType.PDQ: 20})
    async with database.begin() as connection:
        changed = await banks.configure(connection, "a", action=BankAction.OBSERVE, by="k1")
    assert (changed.action, changed.thresholds) == (BankAction.OBSERVE, {SignalType.PDQ: 20})
    async with database.begin() as connection:
        changed = await banks.configure(connection, "a", thresholds={}, by="k1")
    assert (changed.action, changed.thresholds) == (BankAction.OBSERVE, {})
    assert (await head(database)).generation == 3


async def test_tiers_and_the_least_quality_are_kept_and_change_apart(database: Database) -> None:
    tiers = {Tier.NEAR: BankAction.OBSERVE}
    made = await make(database, kind=BankKind.OTHER, tier_actions=tiers, minimum_quality=70)
    assert made == await get(database)
    assert (made.action_of(Tier.STRONG), made.action_of(Tier.NEAR)) == (BankAction.REPORT, BankAction.OBSERVE)
    assert (made.action_of(None), made.minimum_quality) == (BankAction.REPORT, 70)
    async with database.begin() as connection:
        changed = await banks.configure(connection, "a", minimum_quality=60, by="cli")
        assert (changed.tier_actions, changed.minimum_quality) == (tiers, 60)
        changed = await banks.configure(connection, "a", tier_actions={}, by="cli")
        assert (changed.action_of(Tier.NEAR), changed.minimum_quality) == (BankAction.REPORT, 60)


@on_sqlite
async def test_a_suppression_bank_stays_one_and_takes_no_digest_that_can_be_forged(
    database: Database,
) -> None:
    await make(database, "harmless", kind=BankKind.OTHER, action=BankAction.SUPPRESS)
    await make(database, "a", kind=BankKind.OTHER)
    for name, action in (("harmless", BankAction.BLOCK), ("a", BankAction.SUPPRESS)):
        async with database.begin() as connection:
            with pytest.raises(InvalidRequestError, match="stays one"):
                await banks.configure(connection, name, action=action, by="cli")
    for of in (SignalType.MD5, SignalType.SHA1):
        with pytest.raises(InvalidRequestError, match="two files of one value"):
            await add(database, [signal(1, SignalType.PDQ), signal(2, of)], "harmless")
    assert await rows(database) == 0
    kinds = (SignalType.PDQ, SignalType.PHASH, SignalType.SHA256)
    assert (await add(database, [signal(1, of) for of in kinds], "harmless")).changed == 3
    assert (await get(database, "harmless")).threshold(SignalType.PDQ) == 16


async def test_a_reason_goes_with_the_action_it_was_given_for(database: Database) -> None:
    await make(database, action=BankAction.BLOCK, no_report_reason="why")
    async with database.begin() as connection:
        changed = await banks.configure(connection, "a", thresholds={SignalType.PDQ: 1}, by="cli")
        assert changed.no_report_reason == "why"
        changed = await banks.configure(connection, "a", action=BankAction.REPORT, by="cli")
        assert changed.no_report_reason is None
    with pytest.raises(InvalidRequestError):
        async with database.begin() as connection:
            await banks.configure(connection, "a", action=BankAction.BLOCK, by="cli")


async def test_banks_that_are_put_at_the_same_time_are_all_put(database: Database) -> None:
    """One makes it, the others find it; none is told that it is in another's way."""

    async def put() -> bool:
        async with database.begin() as connection:
            policy = banks.Policy(BankAction.REPORT)
            return (await banks.put(connection, "a", BankKind.TEST, policy, by="cli"))[1]

    assert sorted(await asyncio.gather(*(put() for _ in range(4)))) == [False, False, False, True]


async def test_putting_a_bank_makes_it_or_changes_it_and_never_its_kind(database: Database) -> None:
    reporting = banks.Policy(BankAction.REPORT, {SignalType.PDQ: 3})
    blocking = banks.Policy(BankAction.BLOCK)
    async with database.begin() as connection:
        _, made = await banks.put(connection, "a", BankKind.NCII, reporting, by="k1")
    assert made
    async with database.begin() as connection:
        bank, made = await banks.put(connection, "a", BankKind.NCII, blocking, by="k1")
    assert not made
    assert (bank.action, bank.thresholds) == (BankAction.BLOCK, {})
    with pytest.raises(ConflictError, match="kind"):
        async with database.begin() as connection:
            await banks.put(connection, "a", BankKind.OTHER, blocking, by="k1")


async def test_signals_are_added_once(database: Database) -> None:
    bank = await make(database)
    assert await add(database, some(1, 2, 3)) == Changed(generation=2, changed=3, unchanged=0)
    assert await add(database, some(3, 4, 4, 2)) == Changed(generation=3, changed=1, unchanged=3)
    assert await counts(database) == {(bank.id, SignalType.MD5): 4}


async def test_values_of_different_types_and_banks_do_not_get_in_each_others_way(database: Database) -> None:
    first, second = await make(database), await make(database, "b")
    both = [signal(1, SignalType.PDQ), signal(1, SignalType.SHA256), signal(1, SignalType.MD5)]
    await add(database, both)
    assert (await add(database, both, "b")).changed == 3
    assert set(await counts(database)) == {(bank.id, each.type) for bank in (first, second) for each in both}


async def test_an_import_makes_a_bank_count_and_an_empty_one_does_not(database: Database) -> None:
    await make(database)
    await add(database, [])
    assert (await get(database)).first_generation is None
    await add(database, some(1))
    bank = await get(database)
    assert bank.first_generation == 3
    assert bank.changed_at is not None
    await add(database, some(2))
    assert (await get(database)).first_generation == 3


async def test_removed_signals_are_gone_and_may_come_back_as_new_entries(database: Database) -> None:
    bank = await make(database)
    await add(database, some(1, 2))
    assert await remove(database, some(2, 5)) == Changed(generation=3, changed=1, unchanged=1)
    assert await counts(database) == {(bank.id, SignalType.MD5): 1}
    (old,) = (await changes(database, 2)).removed.tolist()
    await add(database, some(2))
    (back,) = (await changes(database, 3)).added
    assert back.ids.tolist() != [old]


async def test_unknown_banks_are_told_as_such(database: Database) -> None:
    for attempt in (get(database), add(database, some(1)), remove(database, some(1)), delete(database)):
        with pytest.raises(NotFoundError):
            await attempt
    with pytest.raises(NotFoundError):
        await bank_signals.begin_import(database, "a")
    assert (await head(database)).generation == 0


async def test_a_change_that_fails_leaves_no_trace(database: Database) -> None:
    await make(database)
    before = await head(database)

    class CutOffError(Exception):
        pass

    async def fail() -> None:
        async with database.begin() as connection:
            await bank_signals.add(connection, "a", some(1, 2), by="cli")
            raise CutOffError

    with pytest.raises(CutOffError):
        await fail()
    assert await head(database) == before
    assert await counts(database) == {}


async def test_every_change_is_in_the_audit_with_counts_and_without_values(database: Database) -> None:
    await make(database)
    await add(database, some(1, 2))
    await remove(database, some(1))
    async with database.begin() as connection:
        await banks.configure(connection, "a", thresholds={SignalType.PDQ: 9}, by="k7")
    staged = await bank_signals.begin_import(database, "a")
    await bank_signals.stage(database, staged, some(5, 6, 7))
    await bank_signals.finish_import(database, staged, given=3, by="cli")
    await delete(database)
    async with database.connect() as connection:
        entries = (await connection.execute(select(schema.audit).order_by(schema.audit.c.seq))).all()
        assert await verify_chain(connection) is None
    told = [(entry.event, entry.subject, json.loads(entry.details)) for entry in entries]
    assert [(event, subject) for event, subject, _ in told] == [
        ("bank.created", "a"),
        ("bank.signals_added", "a"),
        ("bank.signals_removed", "a"),
        ("bank.configured", "a"),
        ("bank.signals_added", "a"),
        ("bank.deleted", "a"),
    ]
    assert [details["generation"] for _, _, details in told] == [1, 2, 3, 4, 5, 6]
    assert [details.get("entries") for _, _, details in told] == [None, 2, 1, None, 3, None]
    assert told[3][2]["by"] == "k7"
    everything = " ".join(entry.details for entry in entries)
    assert not any(each.value.hex() in everything for each in some(1, 2, 5, 6, 7))


async def test_generations_come_in_the_order_of_their_commits(database: Database) -> None:
    """Writers at once: whoever reads generation G finds all that is of G or before."""
    for name in "abcd":
        await make(database, name)
    done = await asyncio.gather(*(add(database, some(number), "abcd"[number % 4]) for number in range(20)))
    assert sorted(changed.generation for changed in done) == list(range(5, 25))
    assert (await head(database)).generation == 24
    assert len(added(await changes(database))) == 20


async def test_the_head_knows_the_generations_of_its_own_history_alone(database: Database) -> None:
    assert (await head(database)).known
    assert (await head(database)).nonce == b""
    await make(database)
    await add(database, some(1))
    now = await head(database)
    assert len(now.nonce) == 16
    await add(database, some(2, 3))
    await remove(database, some(1))
    later = await head(database, now.generation, now.nonce)
    assert (later.generation, later.known, later.touched) == (4, True, 3)
    assert later.nonce != now.nonce
    assert not (await head(database, now.generation, later.nonce)).known
    assert not (await head(database, 99, now.nonce)).known


async def test_changes_tell_what_was_added_and_removed_since(database: Database) -> None:
    bank = await make(database)
    await add(database, some(1, 2, 3))
    await add(database, [*some(4, 5), signal(6, SignalType.PDQ)])
    await remove(database, some(1, 4))
    read = await changes(database, 2)
    assert read.generation == 4
    assert [each.name for each in read.banks] == ["a"]
    assert added(read) == sorted([signal(5).value, signal(6, SignalType.PDQ).value])
    assert all(entries.values.shape == (len(entries), entries.type.size_bytes) for entries in read.added)
    assert len(read.removed) == 2
    assert read.removed_counts == {(bank.id, SignalType.MD5): 1}, "only 1 was there at generation 2"
    assert read.pending == ()


async def test_changes_of_nothing_are_empty(database: Database) -> None:
    read = await changes(database)
    assert (read.generation, read.banks, read.added, read.pending) == (0, (), (), ())
    assert len(read.removed) == 0


async def test_a_change_too_large_to_be_read_as_one_is_pending(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_signals, "SMALL_CHANGE", 3)
    await make(database)
    await add(database, some(1, 2, 3, 4))
    await add(database, some(5))
    read = await changes(database)
    assert read.pending == (2,)
    assert added(read) == [signal(5).value]


async def test_all_entries_of_a_generation_are_read_whatever_came_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_reader, "_READ_AT_ONCE", 3)
    await make(database)
    await add(database, some(*range(10)))
    await remove(database, some(3))
    await add(database, [*some(20), signal(21, SignalType.SHA256)])
    await remove(database, some(4))
    assert sorted(await values(database, SignalType.MD5, 2)) == sorted(
        each.value for each in some(*range(10))
    )
    at_three = [each.value for each in some(*range(10)) if each != signal(3)]
    assert sorted(await values(database, SignalType.MD5, 3)) == sorted(at_three)
    assert len(await values(database, SignalType.MD5, 5)) == 9
    assert await values(database, SignalType.SHA256, 5) == [signal(21, SignalType.SHA256).value]
    assert await values(database, SignalType.PDQ, 5) == []


async def test_entries_are_told_with_their_ids_and_banks(database: Database) -> None:
    first, second = await make(database), await make(database, "b")
    await add(database, some(1, 2))
    await add(database, some(3), "b")
    (read,) = (await changes(database)).added
    assert np.array_equal(np.sort(read.ids), np.unique(read.ids))
    assert sorted(read.banks.tolist()) == [first.id, first.id, second.id]


async def test_a_staged_import_is_seen_by_nobody_until_it_is_finished(database: Database) -> None:
    bank = await make(database)
    staged = await bank_signals.begin_import(database, "a")
    assert await bank_signals.stage(database, staged, some(1, 2, 3)) == 3
    assert await bank_signals.stage(database, staged, some(3, 4)) == 1
    assert await counts(database) == {}
    assert (await head(database)).generation == 1
    assert added(await changes(database)) == []
    assert await values(database, SignalType.MD5, 99) == []
    assert (await get(database)).first_generation is None
    finished = await bank_signals.finish_import(database, staged, given=5, by="cli")
    assert (finished.generation, finished.changed, finished.unchanged) == (2, 4, 1)
    assert await counts(database) == {(bank.id, SignalType.MD5): 4}
    assert (await get(database)).first_generation == 2
    assert len(await values(database, SignalType.MD5, 2)) == 4
    assert (await head(database)).touched == 4


async def test_what_is_added_while_it_is_staged_is_there_at_once(database: Database) -> None:
    """The import may never be finished, so it must not swallow what somebody else adds."""
    await make(database)
    staged = await bank_signals.begin_import(database, "a")
    await bank_signals.stage(database, staged, some(1, 2))
    assert (await add(database, [signal(2, note="urgent")])).changed == 1
    assert added(await changes(database)) == [signal(2).value]
    await bank_signals.give_up_import(database, staged)
    assert added(await changes(database)) == [signal(2).value]
    assert await rows(database) == 1


async def test_what_is_only_staged_cannot_be_removed(database: Database) -> None:
    await make(database)
    staged = await bank_signals.begin_import(database, "a")
    await bank_signals.stage(database, staged, some(1))
    assert (await remove(database, some(1))).changed == 0
    await bank_signals.finish_import(database, staged, given=1, by="cli")
    assert (await remove(database, some(1))).changed == 1


async def test_an_import_begun_later_takes_the_place_of_an_unfinished_one(database: Database) -> None:
    await make(database)
    crashed = await bank_signals.begin_import(database, "a")
    await bank_signals.stage(database, crashed, some(1, 2))
    again = await bank_signals.begin_import(database, "a")
    assert (crashed.cleared, again.cleared) == (False, True)
    with pytest.raises(ConflictError):
        await bank_signals.stage(database, crashed, some(3))
    with pytest.raises(ConflictError):
        await bank_signals.finish_import(database, crashed, given=2, by="cli")
    assert await bank_signals.stage(database, again, some(2, 4)) == 2
    assert (await bank_signals.finish_import(database, again, given=2, by="cli")).changed == 2
    assert sorted(await values(database, SignalType.MD5, 99)) == sorted(each.value for each in some(2, 4))
    assert await bank_sweeping.sweep(database) == 1, "what only the crashed import brought"
    assert await rows(database) == 2


async def test_imports_into_two_banks_do_not_disturb_each_other(database: Database) -> None:
    await make(database)
    await make(database, "b")
    first, second = (
        await bank_signals.begin_import(database, "a"),
        await bank_signals.begin_import(database, "b"),
    )
    await bank_signals.stage(database, first, some(1))
    await bank_signals.stage(database, second, some(1, 2))
    assert (await bank_signals.finish_import(database, second, given=2, by="cli")).changed == 2
    assert (await bank_signals.finish_import(database, first, given=1, by="cli")).changed == 1


async def test_an_import_that_was_killed_is_given_up_after_a_day(database: Database) -> None:
    """And swept away with what it brought; one that still runs then is told."""
    bank = await make(database)
    await add(database, some(0))
    staged = await bank_signals.begin_import(database, "a")
    await bank_signals.stage(database, staged, some(0, 1, 2))
    assert await bank_sweeping.sweep(database) == 0
    long_ago = datetime.now(UTC) - bank_sweeping.ABANDONED - timedelta(minutes=1)
    begun = update(schema.changes).where(schema.changes.c.id == staged.change_id).values(at=long_ago)
    async with database.begin() as connection:
        await connection.execute(begun)
    assert await bank_sweeping.sweep(database) == 2
    assert (await rows(database), await counts(database)) == (1, {(bank.id, SignalType.MD5): 1})
    with pytest.raises(ConflictError):
        await bank_signals.stage(database, staged, some(3))


async def test_a_deleted_bank_is_gone_at_once_and_swept_away_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_sweeping, "_SWEPT_AT_ONCE", 2)
    await make(database)
    other = await make(database, "b")
    await add(database, some(*range(7)))
    await add(database, some(1, 2), "b")
    generation = await delete(database)
    assert (await head(database)).generation == generation
    assert [bank.name for bank in (await changes(database)).banks] == ["b"]
    assert await rows(database) == 9
    assert await bank_sweeping.sweep(database) == 7
    assert await bank_sweeping.sweep(database) == 0
    assert await counts(database) == {(other.id, SignalType.MD5): 2}


async def test_the_id_of_a_deleted_bank_or_entry_never_comes_back(database: Database) -> None:
    """A snapshot may still hold its entries: they must not become those of another bank."""
    old = await make(database)
    await add(database, some(1))
    (entries,) = (await changes(database)).added
    await delete(database)
    await bank_sweeping.sweep(database)
    new = await make(database)
    assert new.id > old.id
    await add(database, some(1))
    (fresh,) = [each for each in (await changes(database)).added if new.id in each.banks]
    assert fresh.ids.max() > entries.ids.max()


async def test_an_import_into_a_bank_that_is_deleted_meanwhile_fails(database: Database) -> None:
    await make(database)
    staged = await bank_signals.begin_import(database, "a")
    await bank_signals.stage(database, staged, some(1))
    await delete(database)
    for attempt in (
        bank_signals.stage(database, staged, some(2)),
        bank_signals.finish_import(database, staged, given=1, by="cli"),
    ):
        with pytest.raises(ConflictError):
            await attempt
    await bank_signals.give_up_import(database, staged)
    assert await rows(database) == 0


async def test_pruning_deletes_removed_entries_and_says_up_to_where(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_sweeping, "_SWEPT_AT_ONCE", 2)
    await make(database)
    await add(database, some(*range(9)))
    await remove(database, some(0, 1, 2, 3, 4))
    await remove(database, some(5))
    assert await bank_sweeping.prune(database, 3) == 5
    assert (await head(database)).pruned_generation == 3
    assert await rows(database) == 4
    assert await bank_sweeping.prune(database, 1) == 0
    assert (await head(database)).pruned_generation == 3, "never backwards"


async def test_ten_thousand_signals_are_one_change(database: Database) -> None:
    bank = await make(database)
    many = [signal(number, SignalType.PDQ) for number in range(10_000)]
    assert (await add(database, many)).changed == 10_000
    assert (await add(database, many)).unchanged == 10_000
    assert (await changes(database)).pending == ()
    assert (await remove(database, many[:9_999])).changed == 9_999
    assert await counts(database) == {(bank.id, SignalType.PDQ): 1}


async def test_changes_are_of_one_generation_even_while_others_write(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed while they are read is of the next reading."""
    await make(database)
    read_added, interruptions = bank_reader._added, iter(range(1))

    async def interrupted(connection: Any, since: int) -> Any:
        if next(interruptions, None) is not None:
            await add(database, some(1))
        return await read_added(connection, since)

    monkeypatch.setattr(bank_reader, "_added", interrupted)
    read = await changes(database)
    assert (read.generation, len(added(read))) == (1, 0)
    read = await changes(database)
    assert (read.generation, len(added(read))) == (2, 1)


async def test_a_store_that_does_not_answer_is_told_as_not_ready(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE entries RENAME TO elsewhere"))
    with pytest.raises(NotReadyError):
        await changes(database)


def test_signals_and_staged_imports_show_no_value_when_printed() -> None:
    assert signal(1).value.hex() not in repr(signal(1))
    assert str(signal(1).value)[2:-1] not in repr([signal(1)])
    assert "Staged" in Staged.__name__


async def test_what_was_removed_is_deleted_a_day_later_unless_a_snapshot_needs_to_hear_of_it(
    database: Database,
) -> None:
    await make(database)
    await add(database, some(1, 2, 3))
    first = (await remove(database, some(1))).generation
    second = (await remove(database, some(2))).generation
    assert await bank_sweeping.prune_old(database, second) == 0
    async with database.begin() as connection:
        await connection.execute(
            update(schema.changes).values(
                at=datetime.now(UTC) - bank_sweeping.KEPT_REMOVED - timedelta(minutes=1)
            )
        )
    third = (await remove(database, some(3))).generation
    assert await bank_sweeping.prune_old(database, first) == 1
    assert await bank_sweeping.prune_old(database, third) == 1
    assert await bank_sweeping.prune_old(database, third) == 0
    async with database.connect() as connection:
        left = await connection.execute(select(schema.entries.c.removed_generation))
        assert left.scalars().all() == [third]
    assert (await head(database)).pruned_generation == second
