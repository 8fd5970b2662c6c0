"""What one value of a CyberTipline report must look like: lengths, URLs, addresses, times, enumerations.

The schema of the authority is looser than its server: these are the server's rules as its documentation tells
them ("CyberTipline Reporting API Technical Documentation", page of 2025-06-11, and the schema beside it).
A rule is a function from a text to the mend, or None if the text is good.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

Rule = Callable[[str], str | None]

MAX_URL: Final = 2083
MAX_NAME: Final = 100
MAX_EMAIL: Final = 255
MAX_EMAIL_LOCAL_PART: Final = 64
MAX_PLATFORM: Final = 256
MAX_ESCALATION: Final = 3000
MAX_DATE_DESCRIPTION: Final = 3000
MAX_ESP_IDENTIFIER: Final = 255
MAX_ESP_SERVICE: Final = 100
MAX_FILE_NAME: Final = 2056
MAX_HASH_TYPE: Final = 64
MAX_PAIR_NAME: Final = 64
MAX_INFORMATION: Final = 3000
"""No limit is documented for ``additionalInfo``; a peer of long standing keeps to this one."""

INCIDENT_TYPES: Final = (
    "Child Pornography (possession, manufacture, and distribution)",
    "Child Sex Trafficking",
    "Child Sex Tourism",
    "Child Sexual Molestation",
    "Misleading Domain Name",
    "Misleading Words or Digital Images on the Internet",
    "Online Enticement of Children for Sexual Acts",
    "Unsolicited Obscene Material Sent to a Child",
)
REPORT_ANNOTATIONS: Final = (
    "sextortion",
    "csamSolicitation",
    "minorToMinorInteraction",
    "spam",
    "sadisticOnlineExploitation",
)
FILE_ANNOTATIONS: Final = (
    *("animeDrawingVirtualHentai", "potentialMeme", "viral", "possibleSelfProduction", "physicalHarm"),
    *("violenceGore", "bestiality", "liveStreaming", "infant", "generativeAi"),
)
CLASSIFICATIONS: Final = ("A1", "A2", "B1", "B2")
"""The industry's classes: A prepubescent, B pubescent; 1 sex act, 2 lascivious exhibition (the schema's
``industryClassification``; for companies that share hashes under NCMEC's agreement)."""
EVENT_NAMES: Final = ("Login", "Registration", "Purchase", "Upload", "Other", "Unknown")
EMAIL_TYPES: Final = ("Home", "Work", "Business", "Recovery")
PHONE_TYPES: Final = ("Mobile", "Home", "Business", "Work", "Fax", "Internet", "Recovery")
ADDRESS_TYPES: Final = ("Home", "Business", "Billing", "Shipping", "Technical")

_PORTS: Final = range(1, 65536)
_AGES: Final = range(151)
_URL: Final = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_NOT_IN_URL: Final = re.compile(r'[<>"{}|\\^`]')
_HOST_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_EMAIL_LOCAL: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NOT_XML: Final = re.compile(r"[^\t\n\r -\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def units(text: str) -> int:
    """Length of a text as the authority's server counts it: UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def clean(untrusted: str) -> str:
    """A text without what XML 1.0 cannot hold and without control characters but tab and line feed."""
    return _NOT_XML.sub("\ufffd", untrusted.replace("\r\n", "\n").replace("\r", "\n"))


def text(most: int | None = None, *, needed: bool = True) -> Rule:
    """A text of at most so many UTF-16 code units, and not blank if it is needed."""

    def check(value: str) -> str | None:
        if needed and not value.strip():
            return "must not be blank; leave it out instead"
        if most is not None and units(value) > most:
            return f"is longer than {most} characters"
        return None if clean(value) == value else "holds control characters"

    return check


def one_of(*allowed: str) -> Rule:
    """One of a few words, to the letter."""

    def check(value: str) -> str | None:
        return None if value in allowed else f"is none of: {', '.join(allowed)}"

    return check


def url(value: str) -> str | None:
    """An http or https URL in ASCII, without blanks, of at most 2083 characters."""
    if len(value) > MAX_URL:
        return f"is longer than {MAX_URL} characters"
    if _URL.fullmatch(value) is None or _NOT_IN_URL.search(value) is not None:
        return "must be a URL, 'http://' or 'https://', without blanks and in ASCII"
    try:
        parts = urlsplit(value)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "must be a URL with a host, and a port from 1 to 65535 if any"
    if port == 0 or not _is_host(host):
        return "must be a URL with a host, and a port from 1 to 65535 if any"
    return None


def email(value: str) -> str | None:
    """An e-mail address: 255 characters at most, 64 before the @."""
    local, at, domain = value.rpartition("@")
    if (
        not at
        or len(value) > MAX_EMAIL
        or len(local) > MAX_EMAIL_LOCAL_PART
        or _EMAIL_LOCAL.fullmatch(local) is None
        or "." not in domain
        or not _is_host(domain)
    ):
        return (
            f"must be an e-mail address: {MAX_EMAIL} characters at most, {MAX_EMAIL_LOCAL_PART} before the @"
        )
    return None


def address(value: str) -> str | None:
    """An IPv4 or IPv6 address, written without a zone."""
    try:
        ip_address(value)
    except ValueError:
        return "must be an IPv4 or IPv6 address"
    return "must be an address without a zone" if "%" in value else None


def port(value: str) -> str | None:
    """A port number from 1 to 65535."""
    good = value.isascii() and value.isdigit() and len(value) <= len("65535") and int(value) in _PORTS
    return None if good else "must be a port from 1 to 65535"


def age(value: str) -> str | None:
    """An age in years, 0 to 150."""
    good = value.isascii() and value.isdigit() and len(value) <= len("150") and int(value) in _AGES
    return None if good else "must be an age from 0 to 150"


def past(now: datetime) -> Rule:
    """A moment before ``now``: ISO 8601 with ``Z`` or an offset like ``+01:00``."""

    def check(value: str) -> str | None:
        moment = read_moment(value)
        if moment is None:
            return "must be a time with a zone, like 2026-01-31T12:00:00Z"
        return None if moment < now else "must lie in the past"

    return check


def date(value: str) -> str | None:
    """A calendar date, ``2026-01-31``."""
    try:
        datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return "must be a date, like 2026-01-31"
    return None if _DATE.fullmatch(value) else "must be a date, like 2026-01-31"


def flag(value: str) -> str | None:
    """A presence flag: an empty element, or ``true``. To say no, leave it out."""
    return None if value in {"", "true"} else "must be empty or 'true'; leave it out to say no"


def boolean(value: str) -> str | None:
    """An XML boolean."""
    return None if value in {"true", "false", "1", "0"} else "must be true or false"


def number(value: str) -> str | None:
    """A whole number of 64 bits, not negative."""
    good = value.isascii() and value.isdigit() and len(value) <= len(str(2**63)) and int(value) < 2**63
    return None if good else "must be a whole number"


def read_moment(value: str) -> datetime | None:
    """A time with a zone as the API takes it; None if it is none."""
    if _MOMENT.fullmatch(value) is None:
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None


def write_moment(moment: datetime) -> str:
    """A time as Cordon sends it: UTC, whole seconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_host(host: str) -> bool:
    if ":" in host or host.replace(".", "").isdigit():
        return address(host) is None
    labels = host.removesuffix(".").split(".")
    return len(host) <= MAX_EMAIL and all(_HOST_LABEL.fullmatch(label) for label in labels)
