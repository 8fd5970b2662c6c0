"""Tokens and what they may do. A token is shown once, when it is made; only its SHA-256 is stored."""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import RowMapping, bindparam, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from ulid import ULID

from app import log
from app.errors import NotFoundError, NotReadyError
from app.store.database import Database
from app.store.record import audit
from app.store.rows import UnreadableRowError, as_it_stands, as_text, of_its_types, read_each
from app.store.schema import keys

logger = logging.getLogger(__name__)

TOKEN_PREFIX: Final = "cordon_"  # noqa: S105 - how tokens begin, so that scanners for leaked secrets know them
TOKEN_BYTES: Final = 32

DEFAULT_RATE_PER_SECOND: Final = 50
DEFAULT_CONCURRENCY: Final = 32

KEYS_LIFE_SECONDS: Final = 1.0
"""How long a process trusts what it read of the keys: a revocation is in force everywhere after it."""

KEYS_AHEAD_SECONDS: Final = KEYS_LIFE_SECONDS / 2
"""How often a gate reads them, so that no request waits for it: at full load that takes a while."""

_READ_SECONDS: Final = 5.0
"""How long the database has to tell the keys; every request waits for that."""

_PAUSE_SECONDS: Final = 0.05


class Scope(StrEnum):
    """What a key may be allowed to do."""

    INGEST = "ingest"
    BANK = "bank"
    SUPPRESS = "bank:suppress"
    REPORT = "report"
    OPS = "ops"


@dataclass(frozen=True)
class Key:
    """A token's other half.

    Attributes:
        id: ULID, safe to log and show.
        scopes: what it may do.
        profile: name of the intake policy it is bound to.
        rate_per_second: requests and batch lines it may begin in a second, over all gates together.
        concurrency: how many of them may run at once, over all gates together.
        probe_guard: whether what looks like a search for edits that slip through is slowed and reported.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    profile: str
    created_at: datetime
    rate_per_second: int = DEFAULT_RATE_PER_SECOND
    concurrency: int = DEFAULT_CONCURRENCY
    probe_guard: bool = True
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


async def create(
    connection: AsyncConnection,
    *,
    name: str,
    scopes: frozenset[Scope],
    profile: str = "default",
    rate_per_second: int = DEFAULT_RATE_PER_SECOND,
    concurrency: int = DEFAULT_CONCURRENCY,
    probe_guard: bool = True,
) -> tuple[Key, str]:
    """Make a key; the token beside it is nowhere else and cannot be shown again."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    key = Key(
        str(ULID()), name, scopes, profile, datetime.now(UTC), rate_per_second, concurrency, probe_guard
    )
    named = sorted(scope.value for scope in scopes)
    await connection.execute(
        insert(keys).values(
            id=key.id,
            name=name,
            token_hash=_hash(token),
            scopes=named,
            profile=profile,
            rate_per_second=rate_per_second,
            concurrency=concurrency,
            probe_guard=probe_guard,
            created_at=key.created_at,
        )
    )
    details: audit.Details = {
        "name": name,
        "scopes": named,
        "profile": profile,
        "rate_per_second": rate_per_second,
        "concurrency": concurrency,
        "probe_guard": "on" if probe_guard else "off",
    }
    await audit.append(connection, "key.created", key.id, details)
    return key, token


async def list_keys(connection: AsyncConnection) -> tuple[tuple[Key, ...], tuple[str, ...]]:
    """All keys ever made, oldest first, the revoked ones too; and the ids of those that cannot be read."""
    wanted = select(keys).order_by(keys.c.id)
    found, unreadable = await read_each(connection, wanted, _key)
    if not unreadable:
        return tuple(found), ()
    ids = select(as_it_stands(connection, keys.c.id)).where(or_(*unreadable)).order_by(keys.c.id)
    return tuple(found), tuple(map(as_text, (await connection.execute(ids)).scalars()))


async def revoke(connection: AsyncConnection, key_id: str) -> None:
    """End a key; every running process refuses it within a few seconds. Revoking twice is no error.

    Raises:
        NotFoundError: there is no such key.
    """
    revoked_at = (
        await connection.execute(select(keys.c.revoked_at).where(keys.c.id == key_id).with_for_update())
    ).one_or_none()
    if revoked_at is None:
        raise NotFoundError("There is no such key.")
    if revoked_at[0] is not None:
        return
    await connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_at=datetime.now(UTC)))
    await audit.append(connection, "key.revoked", key_id, {})


async def touch(connection: AsyncConnection, used: Mapping[str, datetime]) -> None:
    """Note when keys, by id, were last used."""
    await connection.execute(
        update(keys).where(keys.c.id == bindparam("key_id")).values(last_used_at=bindparam("used_at")),
        # In one order everywhere, so that two processes cannot wait for each other.
        [{"key_id": key_id, "used_at": used[key_id]} for key_id in sorted(used)],
    )


class KeyRing:
    """The active keys as one process knows them, read anew each second, and on an unknown token.

    It holds as many keys as there are. However many wrong tokens come in, the database is asked one
    question at a time, and not more often than twenty times a second.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: dict[bytes, Key] = {}
        self._ids: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._failed_at = float("-inf")
        self._reading = asyncio.Lock()
        self._used: dict[str, datetime] = {}
        self._unreadable = 0

    async def authenticate(self, untrusted_token: str) -> Key | None:
        """The active key of a token, or None.

        Raises:
            NotReadyError: the keys cannot be read, and what is known of them is too old to trust.
        """
        token_hash = _hash(untrusted_token)
        asked_at = time.monotonic()
        key = self._keys.get(token_hash)
        if key is None or asked_at - self._read_at > KEYS_LIFE_SECONDS:
            await self._read(asked_at)
            key = self._keys.get(token_hash)
        if key is not None:
            self._used[key.id] = datetime.now(UTC)
        return key

    async def is_active(self, key_id: str) -> bool:
        """Whether a key is still what it was when its token was seen, for what goes on long after that.

        Raises:
            NotReadyError: the keys cannot be read, and what is known of them is too old to trust.
        """
        asked_at = time.monotonic()
        if asked_at - self._read_at > KEYS_LIFE_SECONDS:
            await self._read(asked_at)
        return key_id in self._ids

    async def read_ahead(self) -> None:
        """Read the keys before what is known of them is too old; for a task that runs every half second.

        Raises:
            NotReadyError: the keys cannot be read; the next call tries again.
        """
        await self._read(time.monotonic())

    async def write_last_use(self) -> None:
        """Store when keys were used since the last call; for a task that runs every few seconds.

        Raises:
            NotReadyError: the database cannot be written; the next call tries again.
        """
        if not self._used:
            return
        stored = dict(self._used)
        async with self._database.begin() as connection:
            await touch(connection, stored)
        # Used again meanwhile, it waits for the next call.
        self._used = {key_id: at for key_id, at in self._used.items() if stored.get(key_id) != at}

    async def _read(self, asked_at: float) -> None:
        """Read all keys, unless somebody did since ``asked_at``, or tried to.

        Raises:
            NotReadyError: they cannot be read.
        """
        async with self._reading:
            if self._read_at > asked_at:
                return
            if self._failed_at > asked_at:
                # Else all who wait would try one after another, and the last of them wait for ever.
                raise NotReadyError("database (the keys could not be read)")
            await asyncio.sleep(max(0.0, self._read_at + _PAUSE_SECONDS - time.monotonic()))
            began = time.monotonic()
            try:
                async with asyncio.timeout(_READ_SECONDS), self._database.connect() as connection:
                    active, unreadable = await read_each(
                        connection,
                        select(keys).where(keys.c.revoked_at.is_(None)),
                        lambda row: (row["token_hash"], _key(row)),
                    )
            except NotReadyError:
                self._failed_at = began
                raise
            except TimeoutError:
                self._failed_at = began
                raise NotReadyError("database (no answer)") from None
            if len(unreadable) != self._unreadable:
                # Whose keys they are cannot be told; they open nothing, and the others go on.
                log.event(logger, logging.ERROR, "keys_unreadable", keys=len(unreadable))
            self._unreadable = len(unreadable)
            self._keys, self._read_at = dict(active), began
            self._ids = frozenset(key.id for _, key in active)


def _hash(token: str) -> bytes:
    # A lone surrogate cannot be in a token, but can be in a header.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _key(row: RowMapping) -> Key:
    key = Key(
        id=row["id"],
        name=row["name"],
        scopes=frozenset(Scope(scope) for scope in row["scopes"]),
        profile=row["profile"],
        created_at=row["created_at"],
        rate_per_second=row["rate_per_second"],
        concurrency=row["concurrency"],
        probe_guard=row["probe_guard"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )
    if key.rate_per_second < 1 or key.concurrency < 1:
        raise UnreadableRowError
    return of_its_types(key)
