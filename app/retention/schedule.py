"""When a report may be removed: a least and a longest time by jurisdiction, and never while it is held.

Time removes nothing that still waits for somebody: only what was filed, rejected, or tried for practice.
This is what software can take from the texts that each profile names; which of them binds you is for your
counsel to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.settings import RetentionSettings
from app.store.reports.report_states import ENDED, State
from app.store.reports.reports import Report

NEAR: Final = timedelta(days=30)
"""How long before its longest time a report that nobody finished raises an alarm."""

_REJECTED: Final = frozenset({State.REJECTED, State.RETRACTED})
"""No match that must be reported, as a custodian found; of neither did the authority get a report."""


@dataclass(frozen=True)
class Span:
    """A time as laws count it: calendar years, or days."""

    years: int = 0
    days: int = 0

    def end(self, start: datetime, *, at_most: bool = False) -> datetime:
        """When it is over; a year from 29 February ends on 1 March, or on 28 February if ``at_most``."""
        try:
            year_later = start.replace(year=start.year + self.years)
        except ValueError:
            month, day = (2, 28) if at_most else (3, 1)
            year_later = start.replace(year=start.year + self.years, month=month, day=day)
        return year_later + timedelta(days=self.days)


@dataclass(frozen=True)
class Jurisdiction:
    """What the law of one place says of keeping.

    Attributes:
        source: the text that says it.
        least: counted from the receipt, else from the last decision.
        longest: counted from detection.
        rejected_at_once: whether a false match may not be kept for a while.
    """

    source: str
    least: Span | None = None
    longest: Span | None = None
    rejected_at_once: bool = False


JURISDICTIONS: Final[Mapping[str, Jurisdiction]] = {
    "us": Jurisdiction("18 USC 2258A(h), as amended by Pub. L. 118-59", least=Span(years=1)),
    "uk": Jurisdiction("SI 2026/268, regulation 8", least=Span(years=1)),
    "eu": Jurisdiction("Regulation (EU) 2021/1232", longest=Span(years=1), rejected_at_once=True),
    "ca": Jurisdiction("Mandatory Reporting Act (S.C. 2011, c. 4)", least=Span(days=21)),
    # For when the order in council has brought these parts of it into force.
    "ca-c16": Jurisdiction("Bill C-16, assented to on 18 June 2026", least=Span(years=1)),
}


@dataclass(frozen=True)
class Due:
    """When a report may be removed, and why then.

    Attributes:
        at: None if time alone does not remove it.
        why: for a person.
    """

    at: datetime | None
    why: str


def due(report: Report, settings: RetentionSettings) -> Due:
    """When a report is to be removed."""
    place = JURISDICTIONS.get(settings.jurisdiction) if settings.jurisdiction is not None else None
    if report.on_hold:
        return Due(None, "on hold")
    if report.state not in ENDED:
        return Due(None, f"{report.state}: not finished")
    decided = report.decided_at or report.changed_at or report.created_at
    if report.state in _REJECTED:
        days = 0 if place is not None and place.rejected_at_once else settings.rejected_days
        return Due(decided + timedelta(days=days), f"{days} days from the rejection")
    if place is None:
        return Due(None, "CORDON_JURISDICTION is not set")
    since, start = ("the receipt", report.receipt_at) if report.receipt_at else ("the decision", decided)
    longest = place.longest.end(report.created_at, at_most=True) if place.longest is not None else None
    ends = [
        (place.least.end(start), f"{_words(place.least)} from {since}") if place.least is not None else None,
        (start + timedelta(days=settings.retention_days), f"{settings.retention_days} days from {since}")
        if settings.retention_days is not None
        else None,
    ]
    least = max((end for end in ends if end is not None), default=None)
    if least is not None and (longest is None or least[0] <= longest):
        return Due(*least)
    if longest is None or place.longest is None:  # each jurisdiction has one of them
        raise LookupError(settings.jurisdiction)
    return Due(longest, f"at most {_words(place.longest)} from detection")


def is_near(report: Report, settings: RetentionSettings, now: datetime) -> bool:
    """Whether a report that nobody finished comes to the longest time that it may be kept."""
    place = JURISDICTIONS.get(settings.jurisdiction) if settings.jurisdiction is not None else None
    if place is None or place.longest is None or report.on_hold or report.state in ENDED:
        return False
    return now > place.longest.end(report.created_at, at_most=True) - NEAR


def _words(span: Span) -> str:
    return "one calendar year" if span.years else f"{span.days} days"
