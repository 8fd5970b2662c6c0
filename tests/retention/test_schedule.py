"""When a report may be removed, by state, jurisdiction and calendar."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.media import BankKind
from app.retention.schedule import JURISDICTIONS, due, is_near
from app.settings import RetentionSettings
from app.store.reports.report_states import State
from app.store.reports.reports import Report

SEEN = datetime(2026, 1, 1, tzinfo=UTC)
DECIDED = datetime(2026, 2, 1, tzinfo=UTC)
RECEIPT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def _report(state: State = State.FILED, **changed: Any) -> Report:
    given: dict[str, Any] = {
        "id": "01J9ZK3V5T8QX2M4N6P8R0S1T2",
        "created_at": SEEN,
        "state": state,
        "changed_at": RECEIPT,
        "cause": None,
        "decided_at": DECIDED,
        "receipt_at": RECEIPT,
        "on_hold": False,
        "bank_kind": BankKind.CSAM,
        "custodians": (),
        "sealed_sha256": "00" * 32,
        "later_sightings": 0,
    }
    return Report(**given | changed)


def _at(report: Report, **settings: Any) -> datetime | None:
    return due(report, RetentionSettings(**settings)).at


@pytest.mark.parametrize("place", ["us", "uk", "ca-c16"])
def test_a_filed_report_is_kept_for_one_calendar_year_from_its_receipt(place: str) -> None:
    assert _at(_report(), jurisdiction=place) == datetime(2027, 3, 1, 12, 30, tzinfo=UTC)


def test_without_a_receipt_the_year_counts_from_the_last_decision() -> None:
    """As of one that was filed by hand, or only for practice."""
    for state in (State.FILED_MANUALLY, State.DRY_RUN):
        ends = _at(_report(state, receipt_at=None), jurisdiction="us")
        assert ends == datetime(2027, 2, 1, tzinfo=UTC)


def test_a_calendar_year_has_366_days_where_it_holds_a_leap_day() -> None:
    """18 USC 2258A(h) says one year, not 365 days; from a leap day it ends a day later, never earlier."""
    over_leap_day = _report(receipt_at=datetime(2027, 6, 1, tzinfo=UTC))
    from_leap_day = _report(receipt_at=datetime(2028, 2, 29, tzinfo=UTC))
    assert _at(over_leap_day, jurisdiction="us") == datetime(2028, 6, 1, tzinfo=UTC)
    assert _at(from_leap_day, jurisdiction="us") == datetime(2029, 3, 1, tzinfo=UTC)


def test_in_the_eu_a_report_is_kept_for_a_year_from_detection_at_most() -> None:
    """However long the operator would like to keep it; a longest time ends a day early from a leap day."""
    assert _at(_report(), jurisdiction="eu") == datetime(2027, 1, 1, tzinfo=UTC)
    assert _at(_report(), jurisdiction="eu", retention_days=5000) == datetime(2027, 1, 1, tzinfo=UTC)
    assert _at(_report(), jurisdiction="eu", retention_days=10) == RECEIPT + timedelta(days=10)
    leap = _report(created_at=datetime(2028, 2, 29, tzinfo=UTC), receipt_at=datetime(2028, 3, 1, tzinfo=UTC))
    assert _at(leap, jurisdiction="eu") == datetime(2029, 2, 28, tzinfo=UTC)


def test_an_operator_may_keep_longer_and_never_shorter_than_the_least_time() -> None:
    assert _at(_report(), jurisdiction="us", retention_days=10) == datetime(2027, 3, 1, 12, 30, tzinfo=UTC)
    assert _at(_report(), jurisdiction="us", retention_days=400) == RECEIPT + timedelta(days=400)
    assert _at(_report(), jurisdiction="ca") == RECEIPT + timedelta(days=21)
    assert _at(_report(), jurisdiction="ca", retention_days=365) == RECEIPT + timedelta(days=365)


@pytest.mark.parametrize("state", [State.REJECTED, State.RETRACTED])
def test_a_rejected_report_goes_after_30_days_or_as_set_and_at_once_in_the_eu(state: State) -> None:
    """And so does one that was rejected while it was open at the authority, which withdrew it."""
    rejected = _report(state, receipt_at=None)
    assert _at(rejected) == DECIDED + timedelta(days=30)
    assert _at(rejected, jurisdiction="us", rejected_days=7) == DECIDED + timedelta(days=7)
    assert _at(rejected, jurisdiction="eu") == DECIDED


@pytest.mark.parametrize("place", [None, *JURISDICTIONS])
@pytest.mark.parametrize("state", [State.QUEUED, State.APPROVED, State.SUBMITTED, State.PARKED])
def test_time_removes_nothing_that_still_waits_for_somebody(state: State, place: str | None) -> None:
    assert _at(_report(state), jurisdiction=place) is None


@pytest.mark.parametrize("place", [None, *JURISDICTIONS])
@pytest.mark.parametrize("state", State)
def test_a_hold_stands_over_everything(state: State, place: str | None) -> None:
    told = due(_report(state, on_hold=True), RetentionSettings.model_validate({"jurisdiction": place}))
    assert (told.at, told.why) == (None, "on hold")


def test_without_a_jurisdiction_no_filed_report_is_removed() -> None:
    """Which law holds is not guessed, and nothing is destroyed by a default."""
    told = due(_report(), RetentionSettings())
    assert (told.at, told.why) == (None, "CORDON_JURISDICTION is not set")


def test_what_nobody_finished_is_near_its_longest_time_30_days_before() -> None:
    queued = _report(State.QUEUED, decided_at=None, receipt_at=None)
    end = datetime(2027, 1, 1, tzinfo=UTC)
    before, after = end - timedelta(days=30, hours=1), end - timedelta(days=30, hours=-1)
    eu = RetentionSettings(jurisdiction="eu")
    assert not is_near(queued, eu, before)
    assert is_near(queued, eu, after)
    assert not is_near(_report(State.QUEUED, on_hold=True), eu, after)
    assert not is_near(_report(State.FILED), eu, after)
    assert not is_near(queued, RetentionSettings(jurisdiction="us"), after)
