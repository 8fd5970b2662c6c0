"""Where reports go: nowhere by default, and for real only if everything that it needs was set by hand."""

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidRequestError, NotFoundError
from app.filing.cybertip.environment import PRODUCTION_URL, TEST_URL, Endpoint, Environment, endpoint
from app.filing.desk import worker_identity
from app.settings import FilingSettings, ReportSettings, Settings, SettingsError, StoreSettings

REAL: dict[str, Any] = {
    "cybertip": "production",
    "cybertip_real_reports": True,
    "cybertip_user": "ngo",
    "cybertip_password": "secret",
    "reporter_first_name": "Ada",
    "reporter_last_name": "Lovelace",
    "reporter_email": "ada@analytical.org",
    "reporter_company": "Analytical Society",
}


def settings(role: Any = "voluntary", preservation: Any = None, **filing: Any) -> Settings:
    return Settings(
        filing=FilingSettings(**filing),
        report=ReportSettings(reporter_role=role, preservation=preservation),
    )


def test_filing_is_off_by_default() -> None:
    assert endpoint(Settings()) is None


def test_each_environment_has_its_own_address() -> None:
    """And no setting for a real one."""
    double = endpoint(settings(cybertip="double"))
    test = endpoint(settings(**REAL | {"cybertip": "test"}))
    real = endpoint(settings(**REAL))
    assert double is not None
    assert double.base_url == "http://127.0.0.1:8091/ispws"
    assert (test and test.base_url, real and real.base_url) == (TEST_URL, PRODUCTION_URL)
    assert [each.counts for each in Environment] == [False, False, True]
    assert "secret" not in repr(real)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cybertip_real_reports": False}, "CORDON_CYBERTIP_REAL_REPORTS"),
        ({"cybertip_user": None}, "CORDON_CYBERTIP_USER"),
        ({"cybertip_password": None}, "CORDON_CYBERTIP_PASSWORD"),
        ({"reporter_first_name": "Placeholder"}, "CORDON_REPORTER_FIRST_NAME"),
        ({"reporter_email": "ada@example.com"}, "CORDON_REPORTER_EMAIL"),
        ({"reporter_email": "ada.analytical.org"}, "CORDON_REPORTER_EMAIL must be an e-mail address"),
        ({"reporter_contact_email": "bob@"}, "CORDON_REPORTER_CONTACT_EMAIL must be an e-mail address"),
        ({"reporter_last_name": "a" * 50 + "b" * 51}, "CORDON_REPORTER_LAST_NAME is longer than 100"),
        ({"reporter_contact_first_name": "ab" * 51}, "CORDON_REPORTER_CONTACT_FIRST_NAME is longer than 100"),
        ({"reporter_company": "Your Company"}, "CORDON_REPORTER_COMPANY"),
        ({"role": None}, "CORDON_REPORTER_ROLE"),
        ({"role": "provider"}, "CORDON_PRESERVATION"),
    ],
)
def test_production_needs_all_of_it(changed: dict[str, Any], named: str) -> None:
    """The error names the setting that is missing."""
    with pytest.raises(SettingsError, match=named):
        endpoint(settings(**REAL | changed))
    assert endpoint(settings(**REAL | {"role": "provider", "preservation": "metadata_only"})) is not None


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        (Environment.DOUBLE, PRODUCTION_URL),
        (Environment.DOUBLE, "http://10.0.0.1:8091/ispws"),
        (Environment.DOUBLE, "http://127.0.0.1@evil.example/ispws"),
        (Environment.TEST, PRODUCTION_URL),
        (Environment.PRODUCTION, TEST_URL),
    ],
)
def test_reports_go_to_no_other_address_than_the_environments_own(environment: Environment, url: str) -> None:
    with pytest.raises(SettingsError):
        Endpoint(environment, url, "u", "p")


def test_the_workers_key_is_made_where_no_setting_names_one(tmp_path: Path) -> None:
    """0600, once; one that others may read, or that a setting names and is not there, is refused."""
    own = Settings(store=StoreSettings(state_dir=tmp_path))
    made = worker_identity(own)
    assert worker_identity(own) == made
    assert (tmp_path / "worker.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "worker.key").chmod(0o640)
    with pytest.raises(InvalidRequestError, match="chmod 600"):
        worker_identity(own)
    with pytest.raises(NotFoundError):
        worker_identity(Settings(filing=FilingSettings(filing_identity=tmp_path / "none.key")))
