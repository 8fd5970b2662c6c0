"""Checkpoints of the audit log: signed after reading what came since the last, stored, and told to be kept.

What stands in the database can be taken out of it. The line in the log of whoever signed, or a file, is the
copy that counts later.
"""

import logging
from datetime import UTC, datetime
from typing import Final, NoReturn

from sqlalchemy import LargeBinary, cast, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app import log
from app.custody import checkpoint
from app.custody.checkpoint import Checkpoint
from app.custody.identity import Identity, fingerprint
from app.custody.roster import Roster
from app.errors import ConflictError, InvalidRequestError
from app.store import alarms
from app.store.alarms import AlarmKind
from app.store.database import Database
from app.store.record import audit
from app.store.record.audit import Finding, Head
from app.store.schema import audit_checkpoints

logger = logging.getLogger(__name__)

SUBJECT: Final = "audit"


class AuditBrokenError(ConflictError):
    """The audit log was changed, so that nobody signs it as it is, and nothing is filed by it."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(f"The audit log was changed: {told(finding)}. Nothing was signed or filed.")


async def take(database: Database, identity: Identity, roster: Roster) -> Checkpoint | None:
    """Sign the log's head, store that and tell it; None if it was signed by the same key already.

    Only what came after this key's last stored checkpoint is read, or all of it if there is none.

    Raises:
        InvalidRequestError: the identity has no signing key, or is not pinned.
        AuditBrokenError: the log does not follow on; an alarm is raised too.
        NotReadyError: the database does not answer.
    """
    signer = fingerprint(identity.public_key)
    async with database.connect() as connection:
        head = await audit.head(connection)
        own = [each for each in (await stored(connection, roster))[0] if each.signer == signer]
        last = Head(own[-1].seq, own[-1].digest) if own else None
        if head is None or head == last:
            return None
        finding = await audit.since(connection, last, known=[head])
    if finding is not None:
        await refuse(database, finding)
    signed = checkpoint.verify(checkpoint.sign(head.seq, head.digest, identity).document, roster)
    async with database.begin() as connection:
        # Another process with the same key may have signed the same head.
        dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
        await connection.execute(
            dialect.insert(audit_checkpoints)
            .values(seq=signed.seq, signer=signed.signer, at=datetime.now(UTC), document=signed.document)
            .on_conflict_do_nothing()
        )
    log.event(
        logger, logging.INFO, "audit_checkpoint", entries=signed.seq, document=signed.document.decode("ascii")
    )
    return signed


async def refuse(database: Database, finding: Finding, *, subject: str = SUBJECT) -> NoReturn:
    """Raise the alarm that the log was changed, and the error.

    Raises:
        AuditBrokenError: always.
        NotReadyError: the database does not answer.
    """
    async with database.begin() as connection:
        await alarms.raise_alarm(connection, AlarmKind.AUDIT_BROKEN, subject)
    raise AuditBrokenError(finding)


async def stored(connection: AsyncConnection, roster: Roster) -> tuple[tuple[Checkpoint, ...], int]:
    """The checkpoints of the database that are good, oldest first, and how many are not."""
    wanted = select(audit_checkpoints.c.document)
    if connection.dialect.name == "sqlite":
        # It keeps anything in any column, and what is no bytes could not even be read.
        wanted = select(cast(audit_checkpoints.c.document, LargeBinary))
    rows = await connection.execute(wanted.order_by(audit_checkpoints.c.seq, audit_checkpoints.c.at))
    good, bad = [], 0
    for untrusted in rows.scalars():
        try:
            good.append(checkpoint.verify(untrusted or b"", roster))
        except InvalidRequestError:
            bad += 1
    return tuple(good), bad


def told(finding: Finding) -> str:
    """A finding in words."""
    if finding.first == finding.last:
        return f"entry {finding.first} was {finding.what}"
    return f"entries {finding.first} to {finding.last} were {finding.what}"
