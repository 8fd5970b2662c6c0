"""Reports sealed anew to the custodians of today: by one of them, who signs which files took whose place."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.decision import Action, Decision, sign, verify
from app.custody.identity import Identity, encrypt, fingerprint
from app.custody.roster import Roster
from app.errors import ConflictError, SignatureRequiredError
from app.store.database import Database
from app.store.record import audit
from app.store.reports import accepting, reports, sealed
from app.store.reports.reports import Report

RESEALINGS: Final = 3
"""How often a report is sealed anew at most: again if it was seen, or decided on, meanwhile."""


async def reseal(database: Database, report_id: str, identity: Identity, roster: Roster, *, by: str) -> bool:
    """Seal a report's files anew to the pinned custodians, signed by one of them; whether that was needed.

    Args:
        database: where it is.
        report_id: the report's.
        identity: a pinned custodian's, which opens all of the files.
        roster: the pinned.
        by: as in ``take``.

    Raises:
        NotFoundError: there is no such report.
        InvalidRequestError: the identity does not open it.
        SignatureRequiredError: the identity is no pinned custodian's.
        ConflictError: the database was changed, or the report was seen again each time.
        NotReadyError: the program of a custodian's plugin is missing, or did not seal.
    """
    for left in reversed(range(RESEALINGS)):
        async with database.connect() as connection:
            report = await reports.get(connection, report_id)
            later = await reports.list_sightings(connection, report_id)
            if {report.custodians, *(each.custodians for each in later)} == {roster.fingerprints}:
                return False
            found = await sealed.authentic(connection, report_id, roster)
        # Not in the transaction: a plugin may wait for a person, and a gate would wait with it.
        document, resealed = sealed_anew(report_id, found, identity, roster)
        try:
            async with database.begin() as connection:
                await take_resealed(connection, document, resealed, roster, report_id=report_id, by=by)
        except ConflictError:
            # Seen again meanwhile, or decided on: what was sealed is not all of it.
            if not left:
                raise
        else:
            break
    return True


def sealed_anew(
    report_id: str, found: sealed.Files, identity: Identity, roster: Roster
) -> tuple[bytes, sealed.Files]:
    """A report's files sealed anew to the pinned custodians, after the signed document that says so.

    Raises:
        InvalidRequestError: the identity does not open them, or does not sign.
    """
    opened = {name: identity.decrypt(file) for name, file in found.items()}
    resealed = {name: encrypt(document, roster.public_keys) for name, document in opened.items()}
    decision = Decision(
        action=Action.RESEAL,
        report_id=report_id,
        sealed_sha256=tuple(sealed.digests(found).values()),
        decided_at=datetime.now(UTC),
        custodian=fingerprint(identity.public_key),
        resealed_sha256=tuple(sealed.digests(resealed).values()),
    )
    return sign(decision, identity), resealed


async def take_resealed(
    connection: AsyncConnection,
    untrusted: bytes,
    files: Mapping[str, bytes],
    roster: Roster,
    *,
    report_id: str,
    by: str,
) -> Report:
    """Put the files that a custodian sealed anew in the place of a report's.

    What they hold, and to whom they are sealed, only a custodian can see: the signature stands for it.

    Args:
        connection: within ``Database.begin``.
        untrusted: the signed document.
        files: sealed files by id, each of the report's.
        roster: the pinned, whom they are said to be sealed to.
        report_id: the report's.
        by: as in ``take``.

    Raises:
        NotFoundError: there is no such report.
        SignatureRequiredError: no pinned custodian signed it, or it is not about these files.
        ConflictError: the report is not as its signer saw it.
    """
    signed = verify(untrusted, roster)
    decision = signed.decision
    if decision.action is not Action.RESEAL or decision.report_id != report_id:
        raise SignatureRequiredError("The decision is not one to seal this report anew.")
    await accepting.check_stands(connection, signed, roster)
    there = await sealed.files(connection, report_id)
    resealed = {name: files[name] for name in there if name in files}
    if (
        resealed.keys() != there.keys()
        or len(files) != len(there)
        or tuple(sealed.digests(resealed).values()) != decision.resealed_sha256
    ):
        raise SignatureRequiredError("The files are not those that the decision names.")
    await accepting.record(connection, signed)
    fingerprints = list(roster.fingerprints)
    await sealed.replace(connection, report_id, resealed, fingerprints)
    told = accepting.told_of(signed, by) | {
        "sealed_sha256": list(decision.resealed_sha256),
        "custodians": fingerprints,
    }
    await audit.append(connection, sealed.RESEALED_EVENT, report_id, told)
    return await reports.get(connection, report_id)
