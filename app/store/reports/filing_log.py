"""What the audit log says of a report's way to the authority: its steps, and attempts to finish it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from app.store.record import audit
from app.store.reports.report_states import State
from app.store.rows import readable
from app.store.schema import audit as audit_log

RETRIED_EVENT: Final = "report.retried"

FILED_TOO_EVENT: Final = "report.filed_too"
"""The authority has it, though it was filed by hand, destroyed or begun afresh meanwhile."""

GIVEN_ID_EVENT: Final = "report.given_id"
"""The authority opened it, and gave it an id, which the worker signed (``app.custody.ending``)."""

FINISHING_EVENT: Final = "report.finishing"
"""The irreversible call is about to be made, for the first time under this id."""

AFRESH_EVENT: Final = "report.afresh"
"""It is opened anew, whatever came of an earlier finish: a person's word."""

WITHDRAWN_EVENT: Final = "report.withdrawn"
"""Rejected while it is open at the authority: it stays where it is until that said what became of it."""

_STEP_EVENTS: Final = (
    *(f"report.{state}" for state in State if state is not State.QUEUED),
    *(RETRIED_EVENT, FILED_TOO_EVENT, FINISHING_EVENT, AFRESH_EVENT, WITHDRAWN_EVENT),
)


OF_ATTEMPTS: Final = frozenset({FINISHING_EVENT, f"report.{State.RETRACTED}", AFRESH_EVENT})
"""Entries of attempts to finish a report, and of what ends one."""

AtAuthority = tuple[str, str]
"""An environment, and an id that the authority gave there."""

NOWHERE: Final[AtAuthority] = ("", "")
"""In the place of what an entry should tell: if no filer wrote it, nobody knows under which."""


@dataclass(frozen=True)
class LoggedStep:
    """What the audit log says of one step on a report's way to the authority.

    Attributes:
        step: the state that it came to, or ``finishing``, ``withdrawn``, ``afresh``, ``retried`` or
            ``filed_too``.
        cause: why it was parked.
        environment: where it was taken; None of what is decided here.
        authority_report_id: under which id.
    """

    at: datetime
    step: str
    cause: str | None
    environment: str | None
    authority_report_id: str | None


async def steps(connection: AsyncConnection, report_id: str) -> tuple[LoggedStep, ...]:
    """Every step of a report on its way to the authority, oldest first, as the log says it: not checked.

    Raises:
        UnreadableRowError: an entry of one cannot be read.
    """
    wanted = (
        select(audit_log.c.at, audit_log.c.event, audit_log.c.details)
        .where(audit_log.c.subject == report_id, audit_log.c.event.in_(_STEP_EVENTS))
        .order_by(audit_log.c.seq)
    )
    with readable():
        rows = (await connection.execute(wanted)).all()
    return tuple(_logged(row.at, row.event, row.details) for row in rows)


async def taken_back(connection: AsyncConnection, report_ids: Collection[str]) -> dict[str, datetime]:
    """Which of some reports were rejected while the authority may have them, and not approved since.

    By id, since when: the first such rejection after the newest approval.

    Raises:
        UnreadableRowError: an entry of one cannot be read.
    """
    wanted = (
        select(audit_log.c.subject, audit_log.c.event, audit_log.c.at)
        .where(
            audit_log.c.subject.in_(report_ids),
            audit_log.c.event.in_([WITHDRAWN_EVENT, f"report.{State.APPROVED}"]),
        )
        .order_by(audit_log.c.seq)
    )
    with readable():
        rows = (await connection.execute(wanted)).all()
    found: dict[str, datetime] = {}
    for row in rows:
        if row.event == WITHDRAWN_EVENT:
            found.setdefault(row.subject, row.at)
        else:
            found.pop(row.subject, None)
    return found


async def attempted(
    connection: AsyncConnection,
    report_id: str,
    *,
    withdrawn: Collection[AtAuthority] = (),
    afresh: Collection[str] | None = None,
) -> tuple[AtAuthority, ...]:
    """Where, and under which ids, finishing was attempted as the log has it; none if it may begin anew.

    It may if it never was attempted, or the authority withdrew each, or a custodian signed that it may.

    Args:
        connection: to read with.
        report_id: the report's.
        withdrawn: what the authority withdrew of it, as the worker signed: anybody who can write to the
            database can write an entry that says so.
        afresh: SHA-256 of each decision by which it may begin anew; None takes the log's word.
    """
    newest_first = await _attempts(connection, report_id)
    return attempted_as_seen(newest_first, withdrawn=withdrawn, afresh=afresh)


def attempted_as_seen(
    newest_first: Sequence["Attempt"],
    *,
    withdrawn: Collection[AtAuthority] = (),
    afresh: Collection[str] | None = None,
) -> tuple[AtAuthority, ...]:
    """As ``attempted``, of the entries that somebody saw.

    All of them, not the newest alone: anybody who can write to the database can append one of the double. And
    a word that it may begin anew ends what was attempted before it was first recorded, and nothing later.
    """
    found: list[AtAuthority] = []
    counted = set[str]()
    for each in reversed(newest_first):
        if each.event == FINISHING_EVENT:
            found.append(each.at_authority or NOWHERE)
        elif each.event == AFRESH_EVENT and (
            afresh is None or (each.decision_sha256 in afresh and each.decision_sha256 not in counted)
        ):
            found = []
            counted.add(each.decision_sha256 or "")
    return tuple(each for each in found if each not in withdrawn)


async def attempted_before_afresh(
    connection: AsyncConnection, report_id: str, *, given: Collection[AtAuthority]
) -> AtAuthority | None:
    """Where, and under which id, finishing was attempted last before a custodian signed that it begins anew.

    None if that is not so, or something came of it since.

    Args:
        connection: to read with.
        report_id: the report's.
        given: where the authority opened it, and under which ids, as the worker signed; no other counts.
    """
    newest_first = await _attempts(connection, report_id)
    if not newest_first or newest_first[0].event != AFRESH_EVENT:
        return None
    attempts = (each.at_authority for each in newest_first if each.event == FINISHING_EVENT)
    return next((each for each in attempts if each in given), None)


def _logged(at: datetime, event: str, details: str) -> LoggedStep:
    said = audit.said(details)
    told = {name: str(said[name]) for name in ("cause", "environment", "authority_report_id") if name in said}
    return LoggedStep(
        at,
        event.removeprefix("report."),
        told.get("cause"),
        told.get("environment"),
        told.get("authority_report_id"),
    )


@dataclass(frozen=True)
class Attempt:
    """An attempt to finish, or what ends one: withdrawn by the authority, or begun afresh.

    Attributes:
        at_authority: the environment and the authority's id; None if the entry does not tell them.
        decision_sha256: of the decision that it names; None if it names none.
    """

    event: str
    at_authority: AtAuthority | None
    decision_sha256: str | None

    @classmethod
    def of(cls, event: str, untrusted_details: object) -> Self:
        """What an entry says of one."""
        said = audit.said(untrusted_details)
        named = said.get("decision_sha256")
        return cls(event, _at_authority(said), named if isinstance(named, str) else None)


async def _attempts(connection: AsyncConnection, report_id: str) -> tuple[Attempt, ...]:
    """What the log has of attempts to finish a report, newest first."""
    rows = await connection.execute(
        select(audit_log.c.event, audit_log.c.details)
        .where(
            audit_log.c.subject == report_id,
            audit_log.c.event.in_(OF_ATTEMPTS),
        )
        .order_by(audit_log.c.seq.desc())
    )
    return tuple(Attempt.of(row.event, row.details) for row in rows)


def _at_authority(said: Mapping[str, Any]) -> AtAuthority | None:
    try:
        return str(said["environment"]), str(said["authority_report_id"])
    except LookupError:
        return None
