"""An untrusted URL → what would be asked of whom, or a refusal. Pure: no look-up, no socket.

Parsers that disagree are how guards of this kind are passed, so there is one parser here, strict, and all
later steps use its parts: the host that is resolved, checked, named to the server and to TLS is the very
same string. What is unusual is refused rather than mended: userinfo, control characters, spaces,
backslashes, percent-encoded hosts, hosts that some resolvers read as numbers (``2130706433``, ``0x7f.1``,
``127.1``, ``0177.0.0.1``).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar
from urllib.parse import quote, urljoin

import idna

from app.errors import UrlRefusedError
from app.fetch.address import Address

Kind = TypeVar("Kind", IPv4Address, IPv6Address)

MAX_URL_CHARACTERS: Final = 2083
"""Longest URL taken, at every hop; the contract's limit."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_PORT: Final = 65535

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]+)(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]+)(?::(?P<port>[0-9]{1,5}))?")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f-\x9f\\\ud800-\udfff]")

# Labels of RFC 1123, and the underscores and outer hyphens that real hosts have all the same.
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}")
_MAX_HOST_CHARACTERS: Final = 253
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

# All visible ASCII but what the URL Standard percent-encodes in a path: " < > ` { }
_KEPT: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"<>`{}')

LOCALHOST: Final = "localhost"
_INNER_SUFFIXES: Final = (
    # Names that DNS does not answer for, or answers for each network anew: IANA's Special-Use Domain Names
    # (RFC 6761, 6762, 7686, 8375, 9476), ICANN's .internal, and those that RFC 6762, appendix G, saw in
    # use. The ones for documentation and tests are not here: they lead nowhere.
    "alt",
    "arpa",
    "corp",
    "home",
    "internal",
    "intranet",
    "lan",
    "local",
    "localdomain",
    LOCALHOST,
    "onion",
    "private",
    # Cloud metadata services and cluster services with names of their own.
    "metadata.goog",
    "metadata.packet.net",
    "metadata.tencentyun.com",
    "svc",
)


@dataclass(frozen=True)
class Target:
    """What a checked URL asks for.

    Attributes:
        scheme: ``http`` or ``https``.
        host: lower-case ASCII name without a trailing dot, or an address in its canonical form.
        address: the same as a value if the URL named an address.
        port: 1 to 65535.
        path: path and query as sent, ASCII, beginning with ``/``.
    """

    scheme: str
    host: str = field(repr=False)
    address: Address | None = field(repr=False)
    port: int
    path: str = field(repr=False)

    @property
    def authority(self) -> str:
        """Host, and port unless it is the scheme's own, as in the Host header."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The canonical URL: without fragment, default port and other spellings of one host."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def is_inner_name(self) -> bool:
        """Whether the host is a name that can only mean something on an inner network."""
        if self.address is not None:
            return False
        if "." not in self.host:
            return True
        return any(self.host.endswith(f".{suffix}") or self.host == suffix for suffix in _INNER_SUFFIXES)

    @property
    def is_localhost(self) -> bool:
        """Whether the host means this machine by definition (RFC 6761, section 6.3)."""
        return self.host == LOCALHOST or self.host.endswith(f".{LOCALHOST}")


def parse(untrusted_url: str, ports: Collection[int] | None) -> Target:
    """Check a URL and take it apart.

    Args:
        untrusted_url: absolute, of at most 2,083 characters.
        ports: those that may be dialled; None for any.

    Raises:
        UrlRefusedError: it is not a plain http or https URL, or its port may not be dialled.
    """
    if len(untrusted_url) > MAX_URL_CHARACTERS:
        raise UrlRefusedError("the URL is too long")
    if _FORBIDDEN.search(untrusted_url):
        raise UrlRefusedError("the URL holds a space, a control character, a backslash or half a character")
    parts = _URL.fullmatch(untrusted_url)
    if parts is None:
        raise UrlRefusedError("not an absolute http or https URL")
    if "@" in parts["authority"]:
        raise UrlRefusedError("the URL carries credentials")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise UrlRefusedError("the URL's host or port cannot be read")
    scheme = parts["scheme"].lower()
    port = int(authority["port"] or DEFAULT_PORTS[scheme])
    if not 0 < port <= _MAX_PORT or (ports is not None and port not in ports):
        raise UrlRefusedError("the port may not be dialled; see CORDON_FETCH_PORTS")
    host, address = _host(authority["host"])
    path = quote((parts["path"] or "/") + (parts["query"] or ""), safe=_KEPT)
    return Target(scheme, host, address, port, path)


def follow(target: Target, untrusted_location: bytes, ports: Collection[int] | None) -> Target:
    """Check where a redirect leads.

    Args:
        target: what was asked for.
        untrusted_location: the Location header's value, absolute or relative.
        ports: those that may be dialled; None for any.

    Raises:
        UrlRefusedError: as ``parse``.
    """
    location = _text(untrusted_location)
    # Before joining: urljoin drops tabs and line ends silently.
    if location is None or len(location) > MAX_URL_CHARACTERS or _FORBIDDEN.search(location):
        raise UrlRefusedError("a redirect's URL is too long, not UTF-8, or holds a forbidden character")
    joined = _joined(target.url, location)
    if joined is None:
        raise UrlRefusedError("a redirect's URL cannot be read")
    return parse(joined, ports)


def _host(untrusted_host: str) -> tuple[str, Address | None]:
    if untrusted_host.startswith("["):
        # After a percent sign comes an interface of this machine.
        address = None if "%" in untrusted_host else _literal(IPv6Address, untrusted_host[1:-1])
        if address is None:
            raise UrlRefusedError("the URL's host is not an IPv6 address")
        return _shortest(address), address
    name = untrusted_host.lower() if untrusted_host.isascii() else _idna(untrusted_host)
    labels = name.removesuffix(".").split(".")
    if len(name) > _MAX_HOST_CHARACTERS or not all(map(_LABEL.fullmatch, labels)):
        raise UrlRefusedError("the URL's host is not a name")
    if not _NUMBER.fullmatch(labels[-1]):
        return name.removesuffix("."), None
    number = _literal(IPv4Address, untrusted_host)
    if number is None:
        raise UrlRefusedError("the URL's host is an address in an unusual form")
    return str(number), number


def _shortest(address: IPv6Address) -> str:
    """As the URL standard writes it (WHATWG, host serializing): in groups of hexadecimal digits throughout.

    ``str`` has a mapped IPv4 address in its dotted form, from Python 3.13 on.
    """
    if address.ipv4_mapped is None:
        return str(address)
    high, low = divmod(int(address.ipv4_mapped), 2**16)
    return f"::ffff:{high:x}:{low:x}"


# Each of these swallows an error whose text repeats its input, so that no refusal carries it as its context.


def _text(untrusted: bytes) -> str | None:
    try:
        return untrusted.decode()
    except UnicodeDecodeError:
        return None


def _joined(base: str, untrusted_location: str) -> str | None:
    try:
        return urljoin(base, untrusted_location)
    except ValueError:
        return None


def _literal(kind: type[Kind], untrusted_literal: str) -> Kind | None:
    try:
        return kind(untrusted_literal)
    except ValueError:
        return None


def _idna(untrusted_host: str) -> str:
    """The ASCII form of an international name (IDNA 2008, mapped by UTS 46); empty if it has none."""
    try:
        return idna.encode(untrusted_host, uts46=True, std3_rules=True).decode("ascii")
    except ValueError:
        return ""
