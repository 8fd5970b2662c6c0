"""Where reports are filed: nowhere, the double on this machine, NCMEC's test host, or for real.

Real reports need two settings of their own and a reporter who is no placeholder. There is no setting for the
address of a real host, so none can be mistyped into one.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from app.filing.cybertip.reporter import Reporter
from app.settings import Settings, SettingsError

TEST_URL: Final = "https://exttest.cybertip.org/ispws"
PRODUCTION_URL: Final = "https://report.cybertip.org/ispws"
DOUBLE_USER: Final = "double"
DOUBLE_PASSWORD: Final = "double"  # noqa: S105 - the double guards nothing

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})


class Environment(StrEnum):
    """Where reports go; ids of one mean nothing to another."""

    DOUBLE = "double"
    TEST = "test"
    PRODUCTION = "production"

    @property
    def counts(self) -> bool:
        """Whether what is finished there is filed."""
        return self is Environment.PRODUCTION


@dataclass(frozen=True)
class Endpoint:
    """An environment's address and credentials.

    Raises:
        SettingsError: on construction, if the address is not the environment's own.
    """

    environment: Environment
    base_url: str
    user: str = field(repr=False)
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        known = {Environment.TEST: TEST_URL, Environment.PRODUCTION: PRODUCTION_URL}
        expected = known.get(self.environment, self.base_url)
        if self.base_url != expected:
            raise SettingsError("reports are sent to no other address than the environment's own")
        parts = urlsplit(self.base_url)
        if self.environment is Environment.DOUBLE and (
            parts.scheme != "http" or parts.hostname not in _LOOPBACK or parts.username is not None
        ):
            raise SettingsError("CORDON_CYBERTIP_DOUBLE_URL: the double is on this machine alone")


def endpoint(settings: Settings) -> Endpoint | None:
    """Where the settings say that reports are filed; None if nowhere.

    Raises:
        SettingsError: something that the environment needs is missing; the message names it.
    """
    filing = settings.filing
    if filing.cybertip == "off":
        return None
    environment = Environment(filing.cybertip)
    if environment is Environment.DOUBLE:
        return Endpoint(
            environment,
            filing.cybertip_double_url,
            filing.cybertip_user or DOUBLE_USER,
            filing.cybertip_password or DOUBLE_PASSWORD,
        )
    if not filing.cybertip_user or not filing.cybertip_password:
        raise SettingsError(
            f"CORDON_CYBERTIP={environment.value} needs CORDON_CYBERTIP_USER and CORDON_CYBERTIP_PASSWORD; "
            "NCMEC gives out others for each of its hosts"
        )
    if environment is Environment.PRODUCTION:
        _check_production(settings)
    url = PRODUCTION_URL if environment is Environment.PRODUCTION else TEST_URL
    return Endpoint(environment, url, filing.cybertip_user, filing.cybertip_password)


def _check_production(settings: Settings) -> None:
    if not settings.filing.cybertip_real_reports:
        raise SettingsError(
            "CORDON_CYBERTIP=production files real reports; set CORDON_CYBERTIP_REAL_REPORTS=true too "
            "if you mean it"
        )
    check_reporter(settings)


def check_reporter(settings: Settings) -> None:
    """Return only if reports can be sent in somebody's name.

    Raises:
        SettingsError: the reporter is a placeholder or has no address, or their role or preservation is open.
    """
    reporter = Reporter.of(settings.filing)
    if reporter.placeholders:
        raise SettingsError(f"{reporter.placeholders[0]} is a placeholder; set it to what NCMEC registered")
    if reporter.wrong is not None:
        raise SettingsError(reporter.wrong)
    if settings.report.reporter_role is None:
        raise SettingsError(
            "CORDON_REPORTER_ROLE must be set to file: 'provider' or 'voluntary'; ask a lawyer"
        )
    if settings.report.reporter_role == "provider" and settings.report.preservation is None:
        raise SettingsError(
            "CORDON_PRESERVATION must be set by hand where CORDON_REPORTER_ROLE is 'provider'; ask a lawyer "
            "whether 'metadata_only' meets your duty to preserve"
        )
