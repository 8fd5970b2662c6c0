"""The audit log: a chain that shows what was changed in it."""

import asyncio
import contextlib

import pytest
from sqlalchemy import delete, select, update

from app.settings import StoreSettings
from app.store.database import Database
from app.store.record.audit import append
from app.store.schema import audit
from tests.chain import verify_chain


async def _write(database: Database, count: int) -> None:
    for number in range(count):
        async with database.begin() as connection:
            await append(connection, "thing.happened", f"subject-{number}", {"count": number, "ids": ["a"]})


async def _first_broken(database: Database) -> int | None:
    async with database.connect() as connection:
        return await verify_chain(connection)


async def test_an_untouched_chain_is_whole(database: Database) -> None:
    assert await _first_broken(database) is None
    await _write(database, 3)
    assert await _first_broken(database) is None


@pytest.mark.parametrize(
    "tampering",
    [
        update(audit).where(audit.c.seq == 2).values(subject="somebody-else"),
        update(audit).where(audit.c.seq == 2).values(event="another.event"),
        update(audit).where(audit.c.seq == 2).values(details="{}"),
        update(audit).where(audit.c.seq == 2).values(digest=bytes(32)),
        delete(audit).where(audit.c.seq == 2),
    ],
    ids=["subject", "event", "details", "digest", "removal"],
)
async def test_an_edit_or_a_removal_is_found_where_it_is(database: Database, tampering: object) -> None:
    await _write(database, 4)
    async with database.begin() as connection:
        await connection.execute(tampering)  # type: ignore[call-overload]
    assert await _first_broken(database) == 2


async def test_two_entries_that_changed_places_are_found(database: Database) -> None:
    await _write(database, 3)
    async with database.begin() as connection:
        for seq, into in ((1, 10), (2, 1), (10, 2)):
            await connection.execute(update(audit).where(audit.c.seq == seq).values(seq=into))
    assert await _first_broken(database) == 1


async def test_an_entry_of_a_transaction_that_fails_is_not_there(database: Database) -> None:
    await _write(database, 1)
    with contextlib.suppress(KeyError):
        async with database.begin() as connection:
            await append(connection, "thing.happened", "never", {})
            raise KeyError
    await _write(database, 1)
    async with database.connect() as connection:
        subjects = (await connection.execute(select(audit.c.subject).order_by(audit.c.seq))).scalars().all()
    assert subjects == ["subject-0", "subject-0"]
    assert await _first_broken(database) is None


async def test_many_writers_in_several_processes_make_one_chain(store: StoreSettings) -> None:
    databases = [Database.open(store) for _ in range(3)]
    try:
        await asyncio.gather(*(_write(database, 5) for database in databases for _ in range(2)))
        async with databases[0].connect() as connection:
            assert await verify_chain(connection) is None
            count = (await connection.execute(audit.select())).fetchall()
        assert [entry.seq for entry in count] == list(range(1, 31))
    finally:
        for database in databases:
            await database.close()
