"""The custodians that reports are sealed to: public keys alone."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app import custody
from app.errors import ConflictError, NotFoundError
from app.store import audit
from app.store.schema import custodians

ENOUGH: Final = 2
TOO_FEW: Final = "fewer than two custodians: one lost key loses every report"


@dataclass(frozen=True)
class Custodian:
    """A person whose public key reports are sealed to.

    Attributes:
        public_key: the ``age1...`` recipient.
        signing_key: the Ed25519 verification key, ``ed25519:...``; None if none was given.
        fingerprint: 16 hex digits that name the public key.
    """

    name: str
    public_key: str
    signing_key: str | None
    fingerprint: str
    added_at: datetime


async def active(connection: AsyncConnection) -> tuple[Custodian, ...]:
    """All custodians that new reports are sealed to, oldest first."""
    rows = await connection.execute(
        select(
            custodians.c.name,
            custodians.c.public_key,
            custodians.c.signing_key,
            custodians.c.fingerprint,
            custodians.c.added_at,
        )
        .where(custodians.c.removed_at.is_(None))
        .order_by(custodians.c.id)
    )
    return tuple(Custodian(**row) for row in rows.mappings())


async def count(connection: AsyncConnection) -> int:
    """How many custodians new reports are sealed to."""
    counting = select(func.count()).select_from(custodians).where(custodians.c.removed_at.is_(None))
    return (await connection.execute(counting)).scalar_one()


async def add(
    connection: AsyncConnection,
    *,
    name: str,
    untrusted_public_key: str,
    untrusted_signing_key: str | None = None,
) -> Custodian:
    """Seal new reports to one more custodian. Older reports stay closed to them.

    Raises:
        InvalidRequestError: a key is none.
        ConflictError: the name or the key is taken.
    """
    public_key = custody.checked_public_key(untrusted_public_key)
    signing_key = custody.checked_signing_key(untrusted_signing_key) if untrusted_signing_key else None
    custodian = Custodian(name, public_key, signing_key, custody.fingerprint(public_key), datetime.now(UTC))
    for other in await active(connection):
        if other.public_key == public_key:
            raise ConflictError(f"This key is already the key of custodian '{other.name}'.")
    try:
        await connection.execute(
            insert(custodians).values(
                name=custodian.name,
                public_key=custodian.public_key,
                signing_key=custodian.signing_key,
                fingerprint=custodian.fingerprint,
                added_at=custodian.added_at,
            )
        )
    except IntegrityError:
        raise ConflictError(f"There is already a custodian '{name}'.") from None
    details = {"name": name, "fingerprint": custodian.fingerprint, "public_key": public_key}
    await audit.append(connection, "custodian.added", custodian.fingerprint, details)
    return custodian


async def remove(connection: AsyncConnection, name: str) -> None:
    """Seal no more reports to a custodian. What was sealed to them, they can still open.

    Raises:
        NotFoundError: there is no such custodian.
    """
    removed = (
        await connection.execute(
            update(custodians)
            .where(custodians.c.name == name, custodians.c.removed_at.is_(None))
            .values(removed_at=datetime.now(UTC))
            .returning(custodians.c.fingerprint)
        )
    ).scalar_one_or_none()
    if removed is None:
        raise NotFoundError(f"There is no custodian '{name}'.")
    await audit.append(connection, "custodian.removed", removed, {"name": name, "fingerprint": removed})
