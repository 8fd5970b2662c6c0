"""What proves that reports that are gone were removed: the remover's signature, or the custodians' orders.

Whoever can write to the database can delete a report and append the entry of a removal. So each such entry is
asked for what somebody signed: that of a purge holds it itself (``app.custody.removal``), that of an order
names a document of the tombstone.

Removals of before are told apart by one entry, which the migration to signed removals wrote where there was a
log: those that stand before it prove nothing. Only the first such entry counts, and none that stands after a
report was sealed whose entry says that its removal will be signed: nobody makes a deletion of today one of
before without writing anew what a checkpoint, or the worker's memory, holds fast.
"""

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.custody import removal as signed_removal
from app.custody.decision import Action, verify
from app.custody.roster import Pinned, Roster
from app.errors import SignatureRequiredError
from app.store import custodians
from app.store.record.audit import said
from app.store.reports import decisions, sealed
from app.store.reports.recorded import Recorded, of_each
from app.store.reports.report_states import State
from app.store.rows import UnreadableRowError, as_it_stands, as_text, readable
from app.store.schema import audit as log
from app.store.schema import tombstones

MEMBER: Final = sealed.REMOVAL
"""Of the details of an audit entry: the document that the remover signed."""

SIGNED_FROM_EVENT: Final = "removals.signed"
"""Written by the migration: what was removed before it was removed without a signature."""

_AT_ONCE: Final = 500
_FROM_THE_DECISION: Final = frozenset({State.REJECTED, State.RETRACTED})
"""Their time counts from the decision; that of others never from before the report was sealed."""


@dataclass(frozen=True)
class Unproven:
    """An entry of a removal that nothing signed stands behind.

    Attributes:
        report_id: of the report, as far as that is text.
        entry: number of the entry, as far as that is one.
        what: is wrong, in words.
    """

    report_id: str
    entry: int | None
    what: str


@dataclass(frozen=True)
class Examined:
    """What the entries of removals came to.

    Attributes:
        unproven: those that nothing signed stands behind.
        before: how many reports were purged before removals were signed.
        signed_from: number of the entry that says since when they are; None if they were from the first on.
    """

    unproven: tuple[Unproven, ...]
    before: int
    signed_from: int | None


@dataclass(frozen=True)
class _Entry:
    seq: int | None
    event: str
    subject: str


@dataclass(frozen=True)
class _Page:
    """Some entries of removals, what they say, and what the log says of their reports."""

    entries: list[_Entry]
    details: dict[int, dict[str, Any]]
    logged: dict[str, Recorded]

    def __iter__(self) -> Iterator[tuple[_Entry, dict[str, Any], Recorded]]:
        for each in self.entries:
            told = self.details.get(each.seq, {}) if each.seq is not None else {}
            yield each, told, self.logged[each.subject]


async def examine(connection: AsyncConnection, roster: Roster) -> Examined:
    """Hold every entry of a removal against what was signed of it."""
    signed_from = await _signed_from(connection)
    entries = await _entries(connection)
    asked = [each for each in entries if not _is_before(each, signed_from)]
    unproven: list[Unproven] = []
    async for some in _pages(connection, asked):
        orders = await _orders(connection, list(some.logged))
        for each, told, logged in some:
            found = (
                _signer_of_purge(each.subject, told, logged, roster)
                if each.event == decisions.PURGED_EVENT
                else _signer_of_order(each.subject, told, orders.get(each.subject, b""), roster)
            )
            if not isinstance(found, str):
                counts = await custodians.counts(connection, roster, found, each.seq or 0)
                found = "" if counts else "who signed its removal was pinned no more"
            if found:
                unproven.append(Unproven(each.subject, each.seq, f"it is gone, and {found}"))
    return Examined(tuple(unproven), len(entries) - len(asked), signed_from)


async def untrue_tombstones(connection: AsyncConnection) -> tuple[Unproven, ...]:
    """Removed reports whose tombstone is gone, or says otherwise than the log how they ended or of what kind.

    What is counted of removed reports, and told of one, is read from there.
    """
    entries = [each for each in await _entries(connection) if each.seq is not None]
    found: list[Unproven] = []
    async for some in _pages(connection, entries):
        stones = await _stones(connection, list(some.logged))
        for each, told, logged in some:
            ended, kind = told.get("state"), logged.bank_kind
            if each.subject not in stones:
                # An order went with it, and ``examine`` misses that.
                if each.event == decisions.PURGED_EVENT:
                    found.append(
                        Unproven(each.subject, each.seq, "it was removed, and its tombstone is gone")
                    )
                continue
            says, is_of = stones[each.subject]
            if isinstance(ended, str) and says != ended:
                what = f"its tombstone says that it ended as {says}, and the log {ended}"
                found.append(Unproven(each.subject, each.seq, what))
            if kind is not None and is_of != kind:
                what = f"its tombstone says that it was of kind {is_of}, and the log {kind}"
                found.append(Unproven(each.subject, each.seq, what))
    return tuple(found)


async def _pages(connection: AsyncConnection, entries: list[_Entry]) -> AsyncIterator[_Page]:
    """Entries of removals with what the log says, not too many at a time."""
    for at in range(0, len(entries), _AT_ONCE):
        some = entries[at : at + _AT_ONCE]
        details = await _details(connection, [each.seq for each in some if each.seq is not None])
        yield _Page(some, details, await _recorded(connection, [each.subject for each in some]))


async def _stones(connection: AsyncConnection, report_ids: list[str]) -> dict[str, tuple[str, str]]:
    """The state and the kind that tombstones tell, by id, whatever somebody wrote there."""
    wanted = select(
        tombstones.c.id,
        as_it_stands(connection, tombstones.c.state),
        as_it_stands(connection, tombstones.c.bank_kind),
    ).where(tombstones.c.id.in_(report_ids))
    return {each: (as_text(state), as_text(kind)) for each, state, kind in await connection.execute(wanted)}


def _is_before(entry: _Entry, signed_from: int | None) -> bool:
    """Whether it is of a purge of before these were signed; orders always were."""
    return (
        entry.event == decisions.PURGED_EVENT
        and signed_from is not None
        and entry.seq is not None
        and entry.seq < signed_from
    )


async def _signed_from(connection: AsyncConnection) -> int | None:
    """Number of the entry that what was removed unsigned stands before; None if there is none that counts."""
    first = await connection.execute(select(func.min(log.c.seq)).where(log.c.event == SIGNED_FROM_EVENT))
    marked = await connection.execute(
        select(func.min(log.c.seq)).where(
            log.c.event == sealed.SEALED_EVENT,
            log.c.details.contains(f'"{sealed.REMOVAL}":"{sealed.SIGNED}"', autoescape=True),
        )
    )
    at, since = first.scalar_one(), marked.scalar_one()
    if not isinstance(at, int) or (since is not None and (not isinstance(since, int) or since < at)):
        return None
    return at


async def _entries(connection: AsyncConnection) -> list[_Entry]:
    """The entries of removals in order, whatever somebody wrote into them."""
    rows = await connection.execute(
        select(log.c.seq, log.c.event, as_it_stands(connection, log.c.subject))
        .where(log.c.event.in_(decisions.REMOVED_EVENTS))
        .order_by(log.c.seq)
    )
    return [
        _Entry(seq if isinstance(seq, int) else None, event, as_text(subject)) for seq, event, subject in rows
    ]


async def _details(connection: AsyncConnection, numbers: list[int]) -> dict[int, dict[str, Any]]:
    """What these entries say, by number."""
    wanted = select(log.c.seq, as_it_stands(connection, log.c.details)).where(log.c.seq.in_(numbers))
    return {seq: said(as_text(details)) for seq, details in await connection.execute(wanted)}


async def _orders(connection: AsyncConnection, report_ids: list[str]) -> dict[str, bytes]:
    """What the tombstones hold of signed orders."""
    wanted = select(tombstones.c.id, as_it_stands(connection, tombstones.c.document))
    rows = await connection.execute(wanted.where(tombstones.c.id.in_(report_ids)))
    return {report_id: document for report_id, document in rows if isinstance(document, bytes)}


async def _recorded(connection: AsyncConnection, report_ids: list[str]) -> dict[str, Recorded]:
    """What the log says of how these ended, and when; nothing of one where it cannot be read."""
    try:
        with readable():
            return await of_each(connection, report_ids)
    except UnreadableRowError:
        if len(report_ids) == 1:
            return dict.fromkeys(report_ids, Recorded())
    found = [await _recorded(connection, [each]) for each in report_ids]
    return {report_id: logged for each in found for report_id, logged in each.items()}


def _signer_of_purge(
    report_id: str, told: Mapping[str, Any], logged: Recorded, roster: Roster
) -> Pinned | str:
    """Who signed a purge, or what is wrong with it: by that and by the log, its time must have been over."""
    untrusted = told.get(MEMBER)
    try:
        removed, signer = signed_removal.verify(untrusted if isinstance(untrusted, str) else "", roster)
    except SignatureRequiredError:
        return "nobody who is or was pinned signed that its time was over"
    since = logged.latest.decided_at if logged.state in _FROM_THE_DECISION else logged.latest.created_at
    if removed.report_id != report_id:
        return "what was signed of its removal is about another report"
    if logged.state is None or since is None or removed.state != logged.state.value:
        return "by the log it had not ended as was signed when it was removed"
    if logged.on_hold:
        return "by the log it was on hold"
    if not since <= removed.due_at <= removed.at:
        return "its time was not over"
    return signer


def _signer_of_order(
    report_id: str, told: Mapping[str, Any], documents: bytes, roster: Roster
) -> Pinned | str:
    """Who signed an order, or what is wrong with it: the tombstone must hold that."""
    for document in documents.split(b"\n"):
        if hashlib.sha256(document).hexdigest() != told.get("decision_sha256"):
            continue
        try:
            signed = verify(document, roster, of_then_too=True)
        except SignatureRequiredError:
            break
        if (signed.decision.action, signed.decision.report_id) == (Action.DESTROY, report_id):
            return signed.signer
    return "no custodian who is or was pinned signed the order to destroy it"
