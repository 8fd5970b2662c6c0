"""Decisions for tests, signed as a custodian's own command signs them."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from app.custody.decision import Action, Decision, sign
from app.custody.identity import Identity, encrypt, fingerprint
from app.custody.roster import Roster
from app.store.database import Database
from app.store.reports import sealed

XML = b"<report/>"


async def seen(database: Database, report_id: str, roster: Roster) -> tuple[str, ...]:
    """The digests of a report's sealed files, as a custodian sees them when it is opened."""
    async with database.connect() as connection:
        return tuple(sealed.digests(await sealed.authentic(connection, report_id, roster)).values())


def approving(
    report_id: str,
    sealed_sha256: Sequence[str],
    identity: Identity,
    *,
    xml: bytes = XML,
    xml_to: Sequence[str] = (),
    **changed: Any,
) -> bytes:
    """The signed approval of an XML, sealed to its signer and those named."""
    return deciding(
        Action.APPROVE,
        report_id,
        sealed_sha256,
        identity,
        **{
            "xml_sha256": hashlib.sha256(xml).hexdigest(),
            "xml": encrypt(xml, (identity.public_key, *xml_to)),
            **changed,
        },
    )


def deciding(
    action: Action, report_id: str, sealed_sha256: Sequence[str], identity: Identity, **changed: Any
) -> bytes:
    """A signed decision of any kind, with members set."""
    return sign(
        Decision(
            **{
                "action": action,
                "report_id": report_id,
                "sealed_sha256": tuple(sealed_sha256),
                "decided_at": datetime.now(UTC),
                "custodian": fingerprint(identity.public_key),
                **changed,
            }
        ),
        identity,
    )
