"""What became of a bank: who did what to it, when, and to how many entries. Read from the audit log."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.errors import NotFoundError
from app.store.record.audit import said
from app.store.rows import readable
from app.store.schema import audit

MAX_LISTED: Final = 1000

_PREFIX: Final = "bank."


@dataclass(frozen=True)
class BankChange:
    """One change of a bank.

    Attributes:
        seq: its number in the audit log.
        what: ``created``, ``configured``, ``signals_added``, ``signals_removed``, ``entry_disabled``, ...
        by: id of a key, ``cli``, or ``flood_guard``.
        entries: how many it added or removed; None for a change of another kind.
        entry_id: the entry it was about; None if it was about the bank.
        details: what else the audit says: ids, words of this program, and numbers, like how many signals were
            ``known`` before, or how many entries were ``kept`` that a source withdrew.
    """

    seq: int
    at: datetime
    what: str
    by: str
    entries: int | None
    entry_id: int | None
    details: dict[str, Any]


async def history(
    connection: AsyncConnection, name: str, *, before: int | None = None, limit: int = 100
) -> tuple[BankChange, ...]:
    """The changes of the banks that had this name, newest first; those of deleted ones too.

    Args:
        connection: to read with.
        name: of the bank.
        before: only those with a smaller number in the audit log, for the next page.
        limit: at most so many, and never more than ``MAX_LISTED``.

    Raises:
        NotFoundError: there never was such a bank.
        UnreadableRowError: an entry cannot be read.
    """
    of_name = select(audit).where(audit.c.subject == name, audit.c.event.startswith(_PREFIX))
    page = of_name.order_by(audit.c.seq.desc()).limit(min(limit, MAX_LISTED))
    with readable():
        found = await connection.execute(page if before is None else page.where(audit.c.seq < before))
        rows = found.mappings().all()
    told = tuple(_change(row["seq"], row["at"], row["event"], said(row["details"])) for row in rows)
    if not told and (await connection.execute(of_name.limit(1))).first() is None:
        raise NotFoundError("There is no such bank.")
    return told


def _change(seq: int, at: datetime, event: str, details: dict[str, Any]) -> BankChange:
    return BankChange(
        seq=seq,
        at=at,
        what=event.removeprefix(_PREFIX),
        by=str(details.pop("by", "")),
        entries=_number(details.pop("entries", None)),
        entry_id=_number(details.pop("entry_id", None)),
        details=details,
    )


def _number(untrusted: object) -> int | None:
    return untrusted if isinstance(untrusted, int) else None
