"""Reports removed for good: their rows go, a tombstone and the audit log stay.

A tombstone says that there was a report, of what kind, how it ended and when it was removed, and holds the
custodian's signed document where one ordered it. Where its time was over, what the remover signed of that
stands in the audit entry. What still stands in the database's files is for ``app.store.erasure``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import RowMapping, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody.decision import Action, verify
from app.custody.roster import Roster
from app.errors import ConflictError, SignatureRequiredError
from app.media import BankKind
from app.store import alarms
from app.store.database import Database
from app.store.record import audit
from app.store.reports import accepting, decisions, reports, sealed
from app.store.reports.report_states import State
from app.store.reports.reports import Report
from app.store.rows import readable
from app.store.schema import tombstones


@dataclass(frozen=True)
class Tombstone:
    """What is left of a removed report.

    Attributes:
        id: the report's.
        state: how it ended.
        authority_report_id: what the authority called it.
        document: the signed decision that ordered its removal, or both of them, one a line; None if its time
            was over.
        erased_at: when nothing of it was left in the database's files.
    """

    id: str
    bank_kind: BankKind
    state: State
    created_at: datetime
    decided_at: datetime | None
    receipt_at: datetime | None
    authority_report_id: str | None
    removed_at: datetime
    document: bytes | None = field(repr=False)
    erased_at: datetime | None


async def remove(
    connection: AsyncConnection,
    report_id: str,
    *,
    event: str,
    details: audit.Details,
    document: bytes | None = None,
) -> None:
    """Delete a report with its sightings, decisions and receipt; leave a tombstone and an audit entry.

    Args:
        connection: within ``Database.begin``.
        report_id: the report's.
        event: why, for the audit log.
        details: what the entry says besides the digests of the sealed files; nothing that they hold.
        document: the signed decision that orders it.

    Raises:
        NotFoundError: there is no such report.
        ConflictError: it is on hold, which stands over everything; or a tombstone of it stands already.
    """
    await reports.lock(connection, report_id)
    report = await reports.get(connection, report_id)
    _check_not_on_hold(report)
    there = await connection.execute(select(tombstones.c.id).where(tombstones.c.id == report_id))
    if there.first() is not None:
        raise ConflictError("A tombstone of it stands already: somebody changed the database.")
    digests = list(sealed.digests(await sealed.files(connection, report_id)).values())
    await connection.execute(
        insert(tombstones).values(
            id=report_id,
            bank_kind=report.bank_kind.value,
            state=report.state.value,
            created_at=report.created_at,
            decided_at=report.decided_at,
            receipt_at=report.receipt_at,
            authority_report_id=await reports.authority_report_id(connection, report_id),
            removed_at=datetime.now(UTC),
            document=document,
        )
    )
    await sealed.remove(connection, report_id)
    await alarms.clear_all_of(connection, report_id)
    told = {"state": report.state.value, "sealed_sha256": digests, **details}
    await audit.append(connection, event, report_id, told)


def _check_not_on_hold(report: Report) -> None:
    if report.on_hold:
        raise ConflictError(f"The report is on hold; 'cordon report unhold {report.id}' ends that.")


async def destroy(
    connection: AsyncConnection,
    untrusted: bytes,
    roster: Roster,
    *,
    report_id: str,
    dual_control: bool,
    by: str,
) -> bool:
    """Remove a report because a custodian ordered it, whatever its time; whether it is gone.

    It is not where two must order it and this is the first, which is kept.

    Args:
        connection: within ``Database.begin``.
        untrusted: the signed document.
        roster: the pinned.
        report_id: the report that is meant.
        dual_control: whether two different custodians must order it.
        by: id of the key that hands it in, or ``cli``.

    Raises:
        SignatureRequiredError: it is no order to destroy this report that a pinned custodian signed.
        NotFoundError: there is no such report.
        ConflictError: the report is on hold, is being filed, or is not as its signer saw it.
    """
    signed = verify(untrusted, roster)
    if signed.decision.action is not Action.DESTROY or signed.decision.report_id != report_id:
        raise SignatureRequiredError("The decision is not one to destroy this report.")
    report = await accepting.check_stands(connection, signed, roster)
    decisions.check_not_held(await decisions.every(connection, report_id, roster))
    if report.state is State.SUBMITTED:
        raise ConflictError("The report is being filed. Wait until that is over.")
    told = {"decision_sha256": signed.sha256, "custodian": signed.decision.custodian, "by": by}
    orders = [signed]
    if dual_control:
        first = await decisions.first_of_two(connection, signed.decision, roster)
        if first is None:
            _check_not_on_hold(report)
            await accepting.record(connection, signed)
            await audit.append(connection, decisions.FIRST_ORDER_EVENT, report_id, told)
            return False
        orders = [first, signed]
    await remove(
        connection,
        report_id,
        event=decisions.DESTROYED_EVENT,
        details=told,
        document=b"\n".join(each.document for each in orders),
    )
    return True


async def every(connection: AsyncConnection) -> tuple[Tombstone, ...]:
    """The tombstones, oldest report first.

    Raises:
        UnreadableRowError: one holds what no Cordon wrote.
    """
    with readable():
        rows = await connection.execute(select(tombstones).order_by(tombstones.c.id))
        return tuple(_tombstone(row) for row in rows.mappings())


def _tombstone(row: RowMapping) -> Tombstone:
    return Tombstone(**dict(row) | {"bank_kind": BankKind(row["bank_kind"]), "state": State(row["state"])})


async def tombstone(connection: AsyncConnection, report_id: str) -> Tombstone | None:
    """What is left of one report; None if none of this id was removed.

    Raises:
        UnreadableRowError: it holds what no Cordon wrote.
    """
    with readable():
        found = await connection.execute(select(tombstones).where(tombstones.c.id == report_id))
        row = found.mappings().one_or_none()
        return _tombstone(row) if row is not None else None


async def unerased(database: Database, *, removed_before: datetime | None = None) -> tuple[str, ...]:
    """Ids of removed reports of which the database's files may still hold something."""
    wanted = select(tombstones.c.id).where(tombstones.c.erased_at.is_(None))
    if removed_before is not None:
        wanted = wanted.where(tombstones.c.removed_at < removed_before)
    async with database.connect() as connection:
        return tuple((await connection.execute(wanted)).scalars())


async def erased(database: Database, ids: Sequence[str]) -> None:
    """Note that nothing of these is left in the database's files."""
    async with database.begin() as connection:
        # One by one: more than a statement's parameters may have been removed at once.
        await connection.execute(
            update(tombstones)
            .where(tombstones.c.id == bindparam("removed_id"))
            .values(erased_at=datetime.now(UTC)),
            [{"removed_id": report_id} for report_id in ids],
        )
