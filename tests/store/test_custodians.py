"""Custodians: public keys that are keys, names that are free, and a record of every change."""

import pytest
from sqlalchemy import select

from app.custody.identity import fingerprint, generate
from app.errors import ConflictError, InvalidRequestError, NotFoundError
from app.store import custodians
from app.store.custodians import Custodian
from app.store.database import Database
from app.store.schema import audit


async def _add(database: Database, name: str, public_key: str, signing_key: str | None = None) -> Custodian:
    async with database.begin() as connection:
        return await custodians.add(
            connection, name=name, untrusted_public_key=public_key, untrusted_signing_key=signing_key
        )


async def _active(database: Database) -> list[str]:
    async with database.connect() as connection:
        known = await custodians.active(connection)
    return [custodian.name for custodian in known]


async def _remove(database: Database, name: str) -> None:
    async with database.begin() as connection:
        await custodians.remove(connection, name)


async def test_a_custodian_is_stored_with_both_public_keys(database: Database) -> None:
    identity = generate()
    added = await _add(database, "ada", identity.public_key, identity.signing_public_key)
    async with database.connect() as connection:
        assert await custodians.active(connection) == (added,)
    assert added.fingerprint == fingerprint(identity.public_key)
    assert added.signing_key == identity.signing_public_key


async def test_changes_stand_in_the_audit_log(database: Database) -> None:
    named = (await _add(database, "ada", generate().public_key)).fingerprint
    await _remove(database, "ada")
    async with database.connect() as connection:
        entries = (
            await connection.execute(select(audit.c.event, audit.c.subject).order_by(audit.c.seq))
        ).all()
    assert [tuple(entry) for entry in entries] == [("custodian.added", named), ("custodian.removed", named)]


async def test_a_name_is_free_again_after_its_custodian_left(database: Database) -> None:
    await _add(database, "ada", generate().public_key)
    with pytest.raises(ConflictError, match="ada"):
        await _add(database, "ada", generate().public_key)
    assert await _active(database) == ["ada"]
    await _remove(database, "ada")
    assert await _active(database) == []
    await _add(database, "ada", generate().public_key)
    assert await _active(database) == ["ada"]


async def test_one_key_is_one_custodian(database: Database) -> None:
    public_key = generate().public_key
    await _add(database, "ada", public_key)
    with pytest.raises(ConflictError, match="'ada'"):
        await _add(database, "bob", public_key)
    assert await _active(database) == ["ada"]


async def test_what_is_no_key_is_refused_and_nothing_is_stored(database: Database) -> None:
    identity = generate()
    with pytest.raises(InvalidRequestError):
        await _add(database, "ada", "age1nonsense")
    with pytest.raises(InvalidRequestError):
        await _add(database, "ada", identity.public_key, "nonsense")
    assert await _active(database) == []


async def test_removing_who_is_not_there_is_told(database: Database) -> None:
    with pytest.raises(NotFoundError, match="ada"):
        await _remove(database, "ada")
