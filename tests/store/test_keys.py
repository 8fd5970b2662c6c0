"""Keys: shown once, stored hashed, refused soon after they are revoked."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select, text

from app.errors import NotFoundError, NotReadyError
from app.settings import StoreSettings
from app.store import keys
from app.store.database import Database
from app.store.keys import KEYS_LIFE_SECONDS, Key, KeyRing, Scope
from app.store.schema import audit
from app.store.schema import keys as table


async def _create(database: Database, *scopes: Scope, profile: str = "default") -> tuple[Key, str]:
    async with database.begin() as connection:
        return await keys.create(connection, name="n", scopes=frozenset(scopes), profile=profile)


async def _revoke(database: Database, key: Key) -> None:
    async with database.begin() as connection:
        await keys.revoke(connection, key.id)


@pytest.fixture
async def other_process(store: StoreSettings) -> AsyncIterator[Database]:
    """The same database, opened as another process would."""
    opened = Database.open(store)
    yield opened
    await opened.close()


async def test_a_token_opens_what_its_key_was_made_for(database: Database) -> None:
    key, token = await _create(database, Scope.INGEST, Scope.OPS, profile="strict")
    found = await KeyRing(database).authenticate(token)
    assert found == key
    assert {scope.value for scope in found.scopes} == {"ingest", "ops"}
    assert found.profile == "strict"


async def test_a_token_is_long_random_and_stored_only_hashed(database: Database) -> None:
    tokens = [(await _create(database, Scope.INGEST))[1] for _ in range(2)]
    assert len(set(tokens)) == 2
    assert all(token.startswith("cordon_") and len(token) == 50 for token in tokens)
    async with database.connect() as connection:
        stored = [(await connection.execute(select(each))).all() for each in (table, audit)]
    assert not any(token[7:20] in str(stored) for token in tokens)


@pytest.mark.parametrize("token", ["", "cordon_", "x" * 1000, "cordon_é", "\ud800"])
async def test_an_unknown_token_opens_nothing(database: Database, token: str) -> None:
    await _create(database, Scope.INGEST)
    assert await KeyRing(database).authenticate(token) is None


async def test_a_key_made_elsewhere_opens_at_once(database: Database, other_process: Database) -> None:
    ring = KeyRing(database)
    assert await ring.authenticate("cordon_unknown") is None
    _, token = await _create(other_process, Scope.INGEST)
    assert await ring.authenticate(token) is not None


async def test_a_key_revoked_elsewhere_is_refused_after_the_life_of_what_was_read(
    database: Database, other_process: Database
) -> None:
    """The contract allows five seconds; the ring trusts what it read for ``KEYS_LIFE_SECONDS``."""
    ring = KeyRing(database)
    key, token = await _create(database, Scope.INGEST)
    assert await ring.authenticate(token) is not None
    await _revoke(other_process, key)
    ring._read_at -= KEYS_LIFE_SECONDS
    assert await ring.authenticate(token) is None
    assert KEYS_LIFE_SECONDS <= 2


async def test_what_is_read_ahead_is_known_to_requests_that_read_nothing(
    database: Database, other_process: Database
) -> None:
    """Requests do not wait for the database each second, though a revocation is in force as soon."""
    ring = KeyRing(database)
    kept, token = await _create(database, Scope.INGEST)
    revoked, its_token = await _create(database, Scope.INGEST)
    assert await ring.authenticate(token) == await ring.authenticate(token)
    await _revoke(other_process, revoked)
    ring._read_at -= KEYS_LIFE_SECONDS
    await ring.read_ahead()
    async with ring._reading:
        # Nobody else can read now.
        found = await asyncio.wait_for(ring.authenticate(token), 1)
        assert found is not None
        assert found.id == kept.id
        assert await asyncio.wait_for(ring.is_active(kept.id), 1)
        assert not await asyncio.wait_for(ring.is_active(revoked.id), 1)
    assert await ring.authenticate(its_token) is None


async def test_revoking_is_recorded_once_and_is_forever(database: Database) -> None:
    key, _ = await _create(database, Scope.INGEST)
    await _revoke(database, key)
    async with database.connect() as connection:
        (first,), _ = await keys.list_keys(connection)
    await _revoke(database, key)
    async with database.connect() as connection:
        assert await keys.list_keys(connection) == ((first,), ())
        events = (
            await connection.execute(select(audit.c.event, audit.c.subject).order_by(audit.c.seq))
        ).all()
    assert first.revoked_at is not None
    assert [tuple(row) for row in events] == [("key.created", key.id), ("key.revoked", key.id)]


async def test_revoking_what_is_not_there_is_told(database: Database) -> None:
    with pytest.raises(NotFoundError):
        await _revoke(database, Key("01J", "n", frozenset(), "default", datetime.now(UTC)))


async def test_known_tokens_are_not_looked_up_each_time_and_floods_share_few_reads(
    database: Database,
) -> None:
    _, token = await _create(database, Scope.INGEST)
    ring = KeyRing(database)
    reads = 0

    @event.listens_for(database.engine.sync_engine, "before_cursor_execute")
    def count(*arguments: object) -> None:
        nonlocal reads
        reads += "FROM keys" in str(arguments[2])

    await asyncio.gather(*(ring.authenticate(token) for _ in range(50)))
    assert reads == 1
    await asyncio.gather(*(ring.authenticate(f"cordon_{number}") for number in range(500)))
    assert reads <= 3
    assert len(ring._keys) == 1


async def test_nothing_opens_when_the_keys_cannot_be_read(database: Database) -> None:
    _, token = await _create(database, Scope.INGEST)
    ring = KeyRing(database)
    assert await ring.authenticate(token) is not None
    async with database.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE keys RENAME TO elsewhere")
    ring._read_at -= KEYS_LIFE_SECONDS
    with pytest.raises(NotReadyError):
        await ring.authenticate(token)


@pytest.mark.parametrize("store", ["postgresql"], indirect=True)
async def test_all_who_wait_for_a_database_that_does_not_answer_hear_it_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one after another: the last of many would wait for minutes."""
    monkeypatch.setattr("app.store.keys._READ_SECONDS", 1.0)
    ring = KeyRing(database)
    async with database.begin() as connection:
        await connection.execute(text("LOCK TABLE keys IN ACCESS EXCLUSIVE MODE"))
        async with asyncio.timeout(10):
            answers = await asyncio.gather(
                *(ring.authenticate("a token") for _ in range(30)), return_exceptions=True
            )
    assert {type(answer) for answer in answers} == {NotReadyError}
    assert await ring.authenticate("a token") is None


async def test_last_use_is_written_in_one_go(database: Database) -> None:
    (first, first_token), (second, second_token) = [await _create(database, Scope.INGEST) for _ in range(2)]
    third, _ = await _create(database, Scope.INGEST)
    ring = KeyRing(database)
    await ring.write_last_use()
    before = datetime.now(UTC)
    for token in (first_token, second_token, first_token):
        await ring.authenticate(token)
    await ring.write_last_use()
    async with database.connect() as connection:
        used = {key.id: key.last_used_at for key in (await keys.list_keys(connection))[0]}
    assert used[third.id] is None
    for key in (first, second):
        last_used_at = used[key.id]
        assert last_used_at is not None
        assert before <= last_used_at <= before + timedelta(seconds=30)


async def test_last_use_that_could_not_be_written_is_kept_for_the_next_time(database: Database) -> None:
    key, token = await _create(database, Scope.INGEST)
    ring = KeyRing(database)
    await ring.authenticate(token)
    async with database.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE keys RENAME TO elsewhere")
    with pytest.raises(NotReadyError):
        await ring.write_last_use()
    async with database.begin() as connection:
        await connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO keys")
    await ring.write_last_use()
    async with database.connect() as connection:
        (stored,), _ = await keys.list_keys(connection)
    assert stored.id == key.id
    assert stored.last_used_at is not None
