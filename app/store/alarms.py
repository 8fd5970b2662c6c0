"""What a person must look at: raised once for each cause, kept until the cause is gone, told by notice.

An alarm names a kind and the id of what it is about, and nothing more. Those that time alone raises are found
anew at each turn of the worker (``app.filing.alarms``); the others are raised by whoever sees the cause.

What calls somebody stands in the database: whoever can write there takes it out again, or has a trigger that
never lets it in. So each process also says in its own log, once, of what it sees the cause.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, RowMapping, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app import log
from app.store import notices
from app.store.reports.reports import named
from app.store.rows import UnreadableRowError, of_its_types, read_each
from app.store.schema import alarms, reports

logger = logging.getLogger(__name__)

MAX_LISTED: Final = 1000


class AlarmKind(StrEnum):
    """What is wrong. The subject is the id of a report unless another is named."""

    REPORT_WAITING = "report_waiting"
    """No custodian decided it within 24 hours."""
    REPORT_PARKED = "report_parked"
    """Filing stopped at a question that only a person can answer."""
    FILING_FAILING = "filing_failing"
    """It was approved 72 hours ago and is not filed."""
    FILING_REFUSED = "filing_refused"
    """The authority takes no report from this Cordon at all; the subject is the environment."""
    WORKER_BLOCKED = "worker_blocked"
    """A worker files nothing before somebody mends what it works with; the subject is what that is: its
    ``memory``, its ``key``, or the file of the ``custodians``."""
    RECEIPT_NOT_SEALED = "receipt_not_sealed"
    """It is filed, and the authority's receipt is not sealed to every custodian yet."""
    RETENTION_NEAR = "retention_near"
    """It may not be kept for much longer, and nothing may remove it yet."""
    CUSTODIAN_UNPROVEN = "custodian_unproven"
    """A custodian in the database whom nobody vouched for; the subject is a fingerprint."""
    BANK_ENTRY_PARKED = "bank_entry_parked"
    """An entry that matched far too often waits for a person; the subject is the entry."""
    INDEX_NOT_BUILT = "index_not_built"
    """The worker cannot build the index, as on a full disk: what changes the banks by much does not come into
    force; the subject is ``banks``."""
    REPORT_ALTERED = "report_altered"
    """It does not stand as the audit log has it, or nothing signed proves how it ended: time does not remove
    it. Or it is gone, and nothing signed proves that it was removed."""
    ROW_UNREADABLE = "row_unreadable"
    """A row holds what no Cordon wrote: the subject is the report that cannot be filed, or what is cut short
    each time, ``filing`` or ``upkeep``, or ``banks``, of which nothing new comes into force."""
    REMOVAL_UNFINISHED = "removal_unfinished"
    """Removed reports may still stand in the database's files; the subject is ``database``."""
    REMOVAL_UNSIGNED = "removal_unsigned"
    """The time of some reports is over, and the worker has no pinned key to sign that it removes them; the
    subject is ``worker``."""
    AUDIT_BROKEN = "audit_broken"
    """The audit log does not follow on from what was signed before (the subject is ``audit``), or from what
    the worker saw (``worker``)."""
    NOTICES_FAILING = "notices_failing"
    """Nobody could be told for a day; the subject is the channel."""


ADVICE: Final = {
    AlarmKind.REPORT_WAITING: "open it and decide: 'cordon report approve' or 'reject'; of another kind "
    "than csam it cannot be approved: 'cordon report export', then 'filed' or 'reject'",
    AlarmKind.REPORT_PARKED: "'cordon report show' has the cause, and 'Causes of parked' in "
    "docs/filing.md what to do",
    AlarmKind.FILING_FAILING: "look at 'cordon report show', the worker's log and the authority's status",
    AlarmKind.FILING_REFUSED: "check CORDON_CYBERTIP_USER and its password, and ask the authority",
    AlarmKind.WORKER_BLOCKED: "the worker's log has why (nothing_is_filed). 'memory': the file of "
    "CORDON_FILING_MEMORY needs room, and a worker that may write it; 'key': pin the worker's, or start one "
    "with the pinned; 'custodians': mend the file of CORDON_CUSTODIANS",
    AlarmKind.RECEIPT_NOT_SEALED: "mend the plugin that the worker's log names, or remove its custodian",
    AlarmKind.RETENTION_NEAR: "decide it now, or ask a lawyer and put it on hold",
    AlarmKind.CUSTODIAN_UNPROVEN: "find out who added it: 'cordon custodian list'",
    AlarmKind.BANK_ENTRY_PARKED: "look at it with 'cordon bank entry show', then 'keep' or 'disable' it",
    AlarmKind.INDEX_NOT_BUILT: "read why in the worker's log (banks_snapshot_failed): most often the disk of "
    "its snapshots is full, which takes room for two",
    AlarmKind.REPORT_ALTERED: "somebody changed the database: run 'cordon audit verify', which names what "
    "is wrong, and keep a copy of it",
    AlarmKind.ROW_UNREADABLE: "somebody changed the database: run 'cordon audit verify', which names what "
    "is wrong, and keep a copy of it",
    AlarmKind.REMOVAL_UNFINISHED: "run 'cordon report purge' while nothing else holds the database",
    AlarmKind.REMOVAL_UNSIGNED: "give the worker a key and pin it, or run 'cordon report purge' with "
    "--identity and a custodian's",
    AlarmKind.AUDIT_BROKEN: "somebody changed the database, or put an older one in place: run 'cordon audit "
    "verify', keep a copy of it; one of 'worker' stands for what the worker remembers (docs/filing.md)",
    AlarmKind.NOTICES_FAILING: "check CORDON_NOTIFY_... and the receiver; the worker's log has the reason. "
    "'email-2' is the second address of CORDON_NOTIFY_EMAIL_TO",
}
"""What to do about each kind, for people."""


_SAID: Final[WeakKeyDictionary[Engine, set[tuple[AlarmKind, str]]]] = WeakKeyDictionary()
"""What each database's alarms were said of in this process's log."""

_STANDS: Final = alarms.c.cleared_at.is_(None) & alarms.c.kind.in_([kind.value for kind in AlarmKind])


@dataclass(frozen=True)
class Alarm:
    """An alarm that stands."""

    kind: AlarmKind
    subject: str
    raised_at: datetime


async def raise_alarm(connection: AsyncConnection, kind: AlarmKind, subject: str) -> bool:
    """Raise an alarm unless it stands already; whether it is new.

    Call it before appending to the audit log: it may wait for another transaction that raises the same.

    Args:
        connection: within ``Database.begin``.
        kind: what is wrong.
        subject: id of what it is about; never anything that a report holds sealed.
    """
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    raised = await connection.execute(
        dialect.insert(alarms)
        .values(kind=kind.value, subject=subject, raised_at=datetime.now(UTC))
        .on_conflict_do_nothing(
            index_elements=[alarms.c.kind, alarms.c.subject], index_where=alarms.c.cleared_at.is_(None)
        )
        .returning(alarms.c.id)
    )
    if raised.scalar_one_or_none() is None:
        _say_once(connection, kind, subject)
        return False
    await notices.post(connection, notices.ALARM_RAISED, subject, kind.value)
    log.event(logger, logging.WARNING, "alarm_raised", kind=kind.value, subject=subject)
    _said(connection).add((kind, subject))
    return True


def _say_once(connection: AsyncConnection, kind: AlarmKind, subject: str) -> None:
    """Say in the log that an alarm stands which this process did not raise, or of which no row was made."""
    if (kind, subject) not in _said(connection):
        log.event(logger, logging.WARNING, "alarm_stands", kind=kind.value, subject=subject)
        _said(connection).add((kind, subject))


def _said(connection: AsyncConnection) -> set[tuple[AlarmKind, str]]:
    """Of what this process said in its log that it stands."""
    return _SAID.setdefault(connection.sync_engine, set())


async def clear_alarm(connection: AsyncConnection, kind: AlarmKind, subject: str) -> bool:
    """End an alarm whose cause is gone; whether it stood. Within ``Database.begin``."""
    _said(connection).discard((kind, subject))
    cleared = await connection.execute(
        update(alarms)
        .where(alarms.c.kind == kind.value, alarms.c.subject == subject, alarms.c.cleared_at.is_(None))
        .values(cleared_at=datetime.now(UTC))
    )
    if not cleared.rowcount:
        return False
    await notices.post(connection, notices.ALARM_CLEARED, subject, kind.value)
    log.event(logger, logging.INFO, "alarm_cleared", kind=kind.value, subject=subject)
    return True


async def clear_all_of(connection: AsyncConnection, subject: str) -> None:
    """End every alarm about something that is no more."""
    for kind in AlarmKind:
        await clear_alarm(connection, kind, subject)


async def match_to(connection: AsyncConnection, kind: AlarmKind, subjects: Collection[str]) -> None:
    """Make the alarms of a kind be those of these subjects: raise what is new, clear what is gone."""
    stood, _ = await read_each(
        connection,
        select(alarms.c.subject).where(alarms.c.kind == kind.value, alarms.c.cleared_at.is_(None)),
        _subject,
    )
    standing = set(stood)
    for subject in sorted(set(subjects) & standing):
        _say_once(connection, kind, subject)
    for subject in sorted(set(subjects) - standing):
        await raise_alarm(connection, kind, subject)
    said = {about for of, about in _said(connection) if of is kind}
    for subject in sorted((standing | said) - set(subjects)):
        await clear_alarm(connection, kind, subject)


async def reports_stuck_in(
    connection: AsyncConnection, state: str, *, since: datetime | None = None, but_for: str = ""
) -> frozenset[str]:
    """Ids of the reports that are in a state, and have been since before some moment if one is given.

    Those parked for the cause ``but_for`` are left out.
    """
    stuck = select(reports.c.id).where(
        reports.c.state == state, func.coalesce(reports.c.cause, "-") != but_for, named(connection)
    )
    if since is not None:
        stuck = stuck.where(func.coalesce(reports.c.changed_at, reports.c.created_at) < since)
    return frozenset((await connection.execute(stuck)).scalars())


async def standing(connection: AsyncConnection, limit: int = MAX_LISTED) -> tuple[Alarm, ...]:
    """The alarms that stand, oldest first; none of a kind that this Cordon does not know, or unreadable."""
    found, _ = await read_each(
        connection,
        select(alarms.c.kind, alarms.c.subject, alarms.c.raised_at)
        .where(_STANDS)
        .order_by(alarms.c.raised_at, alarms.c.id)
        .limit(limit),
        _alarm,
    )
    return tuple(found)


async def subjects_of(connection: AsyncConnection, kind: AlarmKind) -> tuple[str, ...]:
    """What the alarms of one kind that stand are about, in order; none that cannot be read."""
    found, _ = await read_each(
        connection,
        select(alarms.c.subject).where(_STANDS, alarms.c.kind == kind.value).order_by(alarms.c.subject),
        _subject,
    )
    return tuple(found)


async def count_standing(connection: AsyncConnection) -> dict[AlarmKind, int]:
    """How many alarms of each kind stand; every kind is named."""
    rows = await connection.execute(
        select(alarms.c.kind, func.count()).where(_STANDS).group_by(alarms.c.kind)
    )
    return dict.fromkeys(AlarmKind, 0) | {AlarmKind(kind): count for kind, count in rows}


def _subject(row: RowMapping) -> str:
    if not isinstance(row["subject"], str):
        raise UnreadableRowError
    return row["subject"]


def _alarm(row: RowMapping) -> Alarm:
    return of_its_types(Alarm(AlarmKind(row["kind"]), row["subject"], row["raised_at"]))
