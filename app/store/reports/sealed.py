"""The sealed files of reports: read as they stand, checked against the audit log, sealed anew, destroyed."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.decision import Action, verify
from app.custody.roster import Roster
from app.errors import ConflictError, NotFoundError, SignatureRequiredError
from app.media import BankKind
from app.store import custodians
from app.store.record.audit import said
from app.store.reports.report_states import State
from app.store.reports.reports import absent, named
from app.store.schema import audit as audit_log
from app.store.schema import decisions, reports, sightings

SEALED_EVENT: Final = "report.sealed"
SIGHTED_EVENT: Final = "report.sighted"
RESEALED_EVENT: Final = "report.resealed"
RECORDING_EVENTS: Final = (SEALED_EVENT, SIGHTED_EVENT, RESEALED_EVENT)

_ID_LENGTH: Final = 26
_HEX_SHA256: Final = re.compile("[0-9a-f]{64}")

OPENED_EVENT: Final = "report.opened"

REMOVAL: Final = "removal"
SIGNED: Final = "signed"
"""What the audit entry of a seal says of the report's removal to come: see ``removal_proofs``."""

BANK_KIND: Final = "bank_kind"
"""What it calls the kind that is told in the clear: whether a report can be filed hangs on that."""

WORKER: Final = "worker"
"""What the audit entry of a seal calls the fingerprint of the worker, where a file is sealed to it too."""

Files = dict[str, bytes]
"""Sealed files by id: the report's own first, then those of its later sightings, oldest first."""


@dataclass(frozen=True)
class Difference:
    """What is stored and what the audit log says of it, where these differ.

    Attributes:
        entry: number of the entry that recorded it; None if none did.
        what: is wrong, in words.
    """

    entry: int | None
    what: str


class TamperedError(ConflictError):
    """A sealed file is not the one that the audit log recorded."""

    def __init__(self, report_id: str) -> None:
        super().__init__(
            f"Report {report_id}: what is stored is not what the audit log recorded when it was sealed. "
            "Somebody changed the database."
        )


async def sealed(connection: AsyncConnection, report_id: str) -> bytes:
    """The sealed file of a report as it stands, an age file; to open it, take ``authentic``.

    Raises:
        NotFoundError: there is none of this id.
        TamperedError: what stands there is no file.
    """
    file = await connection.execute(select(reports.c.sealed).where(reports.c.id == report_id))
    row = file.one_or_none()
    if row is None:
        raise await absent(connection, report_id)
    return _as_file(row.sealed, report_id)


async def sealed_sighting(connection: AsyncConnection, report_id: str, sighting_id: str) -> bytes:
    """The sealed file of a later sighting as it stands.

    Raises:
        NotFoundError: there is none of these ids.
        TamperedError: what stands there is no file.
    """
    file = await connection.execute(
        select(sightings.c.sealed).where(sightings.c.id == sighting_id, sightings.c.report_id == report_id)
    )
    row = file.one_or_none()
    if row is None:
        raise NotFoundError("There is no such sighting.")
    return _as_file(row.sealed, report_id)


async def files(connection: AsyncConnection, report_id: str) -> Files:
    """The sealed files of a report as they stand.

    Raises:
        NotFoundError: there is no report of this id.
        TamperedError: something that stands there is no file, or has no id.
    """
    found = {report_id: await sealed(connection, report_id)}
    later = select(sightings.c.id, sightings.c.sealed).where(sightings.c.report_id == report_id)
    for row in await connection.execute(later.order_by(sightings.c.id)):
        if not isinstance(row.id, str):
            raise TamperedError(report_id)
        found[row.id] = _as_file(row.sealed, report_id)
    return found


def _as_file(untrusted: object, report_id: str) -> bytes:
    if not isinstance(untrusted, bytes):
        # SQLite keeps anything in any column.
        raise TamperedError(report_id)
    return untrusted


async def authentic(connection: AsyncConnection, report_id: str, roster: Roster) -> Files:
    """The sealed files of a report and its later sightings, each checked against the audit log.

    A file that was sealed anew counts only if a custodian, of now or of then, signed that.

    Raises:
        NotFoundError: there is no report of this id.
        TamperedError: a file is not the one that was sealed, or one is missing or too many.
    """
    found = await files(connection, report_id)
    if await _recorded(connection, report_id, roster) != [digests(found)]:
        raise TamperedError(report_id)
    return found


async def differences(connection: AsyncConnection, report_id: str, roster: Roster) -> tuple[Difference, ...]:
    """Which of a report's sealed files are not as the audit log recorded them last.

    Raises:
        NotFoundError: there is no report of this id.
    """
    try:
        found = digests(await files(connection, report_id))
    except TamperedError:
        return (Difference(None, "what is stored as its sealed files are none"),)
    entries = await connection.execute(
        select(audit_log.c.seq, audit_log.c.event, audit_log.c.details)
        .where(audit_log.c.subject == report_id, audit_log.c.event.in_(RECORDING_EVENTS))
        .order_by(audit_log.c.seq)
    )
    recorded_by: dict[str, int] = {}
    newest = None
    for entry in entries:
        newest = entry.seq
        if entry.event == RESEALED_EVENT:
            recorded_by = dict.fromkeys(recorded_by, entry.seq)
        else:
            sealed_as = report_id if entry.event == SEALED_EVENT else said(entry.details).get("sighting")
            recorded_by[str(sealed_as)] = entry.seq
    try:
        (recorded,) = await _recorded(connection, report_id, roster)
    except TamperedError:
        return (Difference(newest, "the entries of its sealed files do not follow on from each other"),)
    wrong = []
    for name in sorted(recorded.keys() | found.keys()):
        what = "its sealed file" if name == report_id else f"the sealed file of sighting {name[:_ID_LENGTH]}"
        if name not in found:
            wrong.append(Difference(recorded_by[name], f"{what} is gone"))
        elif name not in recorded:
            wrong.append(Difference(None, f"{what} was never recorded"))
        elif found[name] != recorded[name]:
            wrong.append(Difference(recorded_by[name], f"{what} is not the one that was recorded"))
    return tuple(wrong)


async def recipients(connection: AsyncConnection, report_id: str) -> dict[str, object]:
    """Whom each sealed file of a report was sealed to, by the audit log: fingerprints, where it says so."""
    entries = await connection.execute(
        select(audit_log.c.event, audit_log.c.details)
        .where(audit_log.c.subject == report_id, audit_log.c.event.in_(RECORDING_EVENTS))
        .order_by(audit_log.c.seq)
    )
    found: dict[str, object] = {}
    for entry in entries:
        told = said(entry.details)
        if entry.event == RESEALED_EVENT:
            found = dict.fromkeys(found, told.get("custodians"))
        else:
            sealed_as = report_id if entry.event == SEALED_EVENT else str(told.get("sighting"))
            found[sealed_as] = told.get("custodians")
    return found


async def waiting_for_worker(connection: AsyncConnection, worker: str) -> tuple[str, ...]:
    """Ids of queued csam reports that nobody holds and that the worker can open, oldest first.

    Args:
        connection: to read with.
        worker: fingerprint of its public key.
    """
    rows = await connection.execute(
        select(reports.c.id)
        .join(audit_log, audit_log.c.subject == reports.c.id)
        .where(
            reports.c.state == State.QUEUED.value,
            reports.c.bank_kind == BankKind.CSAM.value,
            reports.c.on_hold.is_(False),
            named(connection),
            audit_log.c.event == SEALED_EVENT,
            audit_log.c.details.contains(f'"{WORKER}":"{worker}"', autoescape=True),
        )
        .order_by(reports.c.id)
    )
    return tuple(rows.scalars())


async def stood(connection: AsyncConnection, report_id: str, roster: Roster) -> tuple[tuple[str, ...], ...]:
    """The digests of a report's files as they stood since its last sighting: before each resealing, and now.

    Raises:
        NotFoundError, TamperedError: as ``authentic``.
    """
    await authentic(connection, report_id, roster)
    recorded = await _recorded(connection, report_id, roster, all_since_last_sighting=True)
    return tuple(_ordered(each, report_id) for each in recorded)


async def _recorded(
    connection: AsyncConnection, report_id: str, roster: Roster, *, all_since_last_sighting: bool = False
) -> list[dict[str, str]]:
    """What the audit log says of the digests: as they should be now, and if asked, as they were before."""
    entries = await connection.execute(
        select(audit_log.c.seq, audit_log.c.event, audit_log.c.details)
        .where(
            audit_log.c.subject == report_id,
            audit_log.c.event.in_(RECORDING_EVENTS),
        )
        .order_by(audit_log.c.seq)
    )
    recorded: list[dict[str, str]] = [{}]
    for entry in entries:
        try:
            if entry.event == RESEALED_EVENT:
                recorded.append(await _after_resealing(connection, report_id, roster, recorded[-1], entry))
                continue
            details = said(entry.details)
            sealed_as = report_id if entry.event == SEALED_EVENT else str(details["sighting"])
            sealed_sha256 = str(details["sealed_sha256"])
        except LookupError:
            # No Cordon wrote such an entry.
            raise TamperedError(report_id) from None
        if sealed_as in recorded[-1]:
            raise TamperedError(report_id)
        recorded = [recorded[-1] | {sealed_as: sealed_sha256}]
    return recorded if all_since_last_sighting else recorded[-1:]


def _ordered(recorded: Mapping[str, str], report_id: str) -> tuple[str, ...]:
    """The report's own digest first, then those of its later sightings, oldest first."""
    return tuple(recorded[name] for name in _names(recorded, report_id))


def _names(recorded: Mapping[str, str], report_id: str) -> list[str]:
    return sorted(recorded, key=lambda name: (name != report_id, name))


def digests(found: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file, 64 hex digits, in the same order."""
    return {name: hashlib.sha256(file).hexdigest() for name, file in found.items()}


async def replace(
    connection: AsyncConnection, report_id: str, resealed: Mapping[str, bytes], custodians: list[str]
) -> None:
    """Put other sealed files in the place of those of a report; whoever calls it checked and records that."""
    for name, file in resealed.items():
        table = reports if name == report_id else sightings
        await connection.execute(
            update(table)
            .where(table.c.id == name)
            .values(sealed=file, sealed_sha256=hashlib.sha256(file).digest(), custodians=custodians)
        )


async def remove(connection: AsyncConnection, report_id: str) -> None:
    """Delete a report with all that hangs on it but its audit entries; SQLite overwrites what is freed."""
    await connection.execute(delete(reports).where(reports.c.id == report_id))


async def _after_resealing(
    connection: AsyncConnection,
    report_id: str,
    roster: Roster,
    recorded: Mapping[str, str],
    entry: Row[Any, Any, Any],
) -> dict[str, str]:
    """The digests as a resealing left them, if what its audit entry says is what a custodian signed."""
    name = str(said(entry.details)["decision_sha256"])
    if not _HEX_SHA256.fullmatch(name):
        raise TamperedError(report_id)
    row = await connection.execute(select(decisions.c.document).where(decisions.c.id == name))
    document = row.scalar_one_or_none()
    if document is None:
        raise TamperedError(report_id)
    try:
        signed = verify(document, roster, of_then_too=True)
    except SignatureRequiredError:
        raise TamperedError(report_id) from None
    decision = signed.decision
    if (
        signed.sha256 != name
        or (decision.action, decision.report_id) != (Action.RESEAL, report_id)
        or decision.sealed_sha256 != _ordered(recorded, report_id)
        or not await custodians.counts(connection, roster, signed.signer, entry.seq)
    ):
        raise TamperedError(report_id)
    return dict(zip(_names(recorded, report_id), decision.resealed_sha256, strict=True))
