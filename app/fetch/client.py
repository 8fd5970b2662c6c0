"""A URL → the bytes behind it, in the quarantine, and where they came from.

Every hop of a fetch goes through the same steps: parse the URL, refuse what may not be asked for, resolve
the name once, check every address found, dial one of those, ask. A redirect begins them anew.

What a failure tells, and to whom:

- What is refused, at any hop, looks the same: a forbidden URL or port, an inner name, a name that does not
  exist or that a resolver is slow about, an address that may not be dialled, one bad address among good
  ones. Refusals that took a look-up or a proxy are held back to ``REFUSAL_SECONDS``, so that their time
  does not tell inner names that exist from names that do not.
- Once a permitted host is being dialled, its failures are its own: ``fetch_failed``, ``fetch_timeout``,
  ``too_large``.
- Behind a proxy, names are resolved where we cannot see it. All that goes wrong between reaching the proxy
  and its letting us through looks like a refusal. A plain ``http`` URL over an HTTP proxy is not tunnelled:
  there the proxy's own errors and the host's cannot be told apart, so each answer but 200 and redirects is
  a refusal. ``socks5h`` has no such loss.

httpcore, the engine under httpx, is used without httpx's client: that one parses Location headers itself
even where it does not follow them, logs each URL at level INFO, keeps cookies, and takes proxies and
credentials from where nobody looks. httpcore logs hosts at level DEBUG; ``app.log`` drops what libraries
say.

A redirect from https to http is followed: http URLs are taken at the front door too, the journey is in the
provenance, and no credentials, cookies or referrer travel along. A body without Content-Length and chunks
ends where the host closes the connection; nobody can tell whether it was cut short.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import certifi
import httpcore
import socksio

from app.errors import FetchFailedError, FetchTimeoutError, UrlRefusedError
from app.fetch.address import Address, kind_of
from app.fetch.resolve import DnsResolver, Resolver, SystemResolver
from app.fetch.route import (
    MAX_HEAD_BYTES,
    HeadBudget,
    Milestones,
    PinnedBackend,
    Proxy,
    ProxyBackend,
    Route,
    milestones,
    parse_proxy,
)
from app.fetch.url import Target, follow, parse
from app.media import Provenance
from app.quarantine import QuarantinedMedia
from app.settings import FetchSettings

MAX_REDIRECTS: Final = 5
REFUSAL_SECONDS: Final = 0.3
"""A refusal that took a look-up is told no sooner; longer than a look-up usually takes."""

MAX_ADDRESSES: Final = 16
"""Addresses of one name that are tried."""

MAX_HEADERS: Final = 128
MAX_RECORDED_CHARACTERS: Final = 1024
"""A header's value in the provenance is cut to this."""

_FREE_PIECES: Final = 4096
_BYTES_PER_PIECE: Final = 256

_OK: Final = 200
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_RECORDED_HEADERS: Final = ("Date", "Last-Modified", "ETag", "Content-Type", "Content-Length")
_LOOPBACK: Final = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))

_TIMEOUTS: Final = (TimeoutError, httpcore.TimeoutException)
_FAILURES: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    socksio.SOCKSError,
    ssl.SSLError,
    OSError,
)


class Fetcher:
    """Fetches media from URLs. One serves many fetches at once; nothing is shared between them."""

    def __init__(self, settings: FetchSettings, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """Prepare to fetch.

        Args:
            settings: limits, ports, what else may be reached, resolver, proxy.
            ssl_context: whom to trust; the system's and certifi's authorities if None.

        Raises:
            SettingsError: the resolver or the proxy cannot be read.
        """
        self._settings = settings
        self._ssl_context = ssl_context or _default_ssl_context()
        self._proxy: Proxy | None = parse_proxy(settings.fetch_proxy) if settings.fetch_proxy else None
        self._resolver: Resolver = (
            DnsResolver(settings.fetch_resolver, settings.fetch_connect_seconds / 2)
            if settings.fetch_resolver
            else SystemResolver()
        )

    async def fetch(self, untrusted_url: str, media: QuarantinedMedia) -> Provenance:
        """Pour what a URL leads to into the quarantine. The caller wipes it, on errors too.

        Returns:
            The journey; its ``redirects`` are the URLs redirected to, in order, the final one last.

        Raises:
            UrlRefusedError: it may not be fetched; why is told to operators only.
            FetchFailedError: a permitted host did not deliver.
            FetchTimeoutError: it did not in time.
            TooLargeError: the medium is larger than it may be.
            OverloadedError: the budget of bytes, or of look-ups, is spent.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._settings.fetch_total_seconds
        target = parse(untrusted_url, self._settings.fetch_ports)
        requested_url = target.url
        redirects: list[str] = []
        while True:
            self._check(target)
            answer = await self._get(target, media, ends_at)
            if answer.location is None:
                return Provenance(
                    received_at=datetime.now(UTC),
                    requested_url=requested_url,
                    redirects=tuple(redirects),
                    final_url=target.url,
                    resolved_address=str(answer.address) if answer.address else None,
                    resolved_port=target.port if answer.address else None,
                    via_proxy=self._proxy is not None,
                    status=answer.status,
                    headers=answer.headers,
                )
            if len(redirects) == MAX_REDIRECTS:
                raise FetchFailedError(f"more than {MAX_REDIRECTS} redirects", answer.status)
            target = follow(target, answer.location, self._settings.fetch_ports)
            redirects.append(target.url)

    @property
    def _to_http_proxy(self) -> bool:
        return self._proxy is not None and self._proxy.scheme == "http"

    async def close(self) -> None:
        """Let go of what look-ups need."""
        self._resolver.close()

    def _check(self, target: Target) -> None:
        """Refuse what needs no look-up to be refused."""
        if target.address is not None:
            self._refuse_unless_permitted([target.address])
        elif target.is_inner_name and (self._proxy is not None or not self._settings.fetch_allow):
            # With addresses allowed by hand an inner name may lead to one of them; the look-up will tell.
            raise UrlRefusedError("the host is a name of inner networks")

    def _refuse_unless_permitted(self, addresses: Sequence[Address]) -> None:
        if not addresses:
            raise UrlRefusedError("the name leads to no address")
        for address in addresses:
            kind = kind_of(address, self._settings.fetch_allow)
            if not kind.may_be_dialled:
                raise UrlRefusedError(f"the address is {kind}; CORDON_FETCH_ALLOW can permit it")

    async def _get(self, target: Target, media: QuarantinedMedia, ends_at: float) -> "_Answer":
        """Ask one host once, and mind what a failure tells."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        connect_until = min(ends_at, began + self._settings.fetch_connect_seconds)
        hop = _Hop(
            limit=asyncio.timeout_at(connect_until),
            first_byte_seconds=self._settings.fetch_first_byte_seconds,
            ends_at=ends_at,
            milestones=milestones(target.scheme, self._proxy),
        )
        failure: FetchFailedError | FetchTimeoutError | UrlRefusedError
        try:
            async with hop.limit, await self._route(target, hop, connect_until) as route:
                return await self._ask(target, media, route, hop)
        except _TIMEOUTS:
            failure = hop.failure(FetchTimeoutError())
        except _FAILURES as error:
            failure = hop.failure(FetchFailedError(f"the host failed: {type(error).__name__}"))
        except UrlRefusedError as error:
            failure = error
        if isinstance(failure, UrlRefusedError):
            await asyncio.sleep(began + REFUSAL_SECONDS - loop.time())
        # Outside the handlers, so that the library's error, which may name the host, is not its context.
        raise failure

    async def _route(self, target: Target, hop: "_Hop", connect_until: float) -> Route:
        if self._proxy is not None:
            hop.must_look_refused = False
            return Route(ProxyBackend(hop.budget), self._ssl_context, self._proxy)
        addresses = await self._addresses(target)
        self._refuse_unless_permitted(addresses)
        hop.must_look_refused = False
        backend = PinnedBackend(addresses[:MAX_ADDRESSES], connect_until, hop.budget)
        return Route(backend, self._ssl_context)

    async def _addresses(self, target: Target) -> Sequence[Address]:
        if target.address is not None:
            return [target.address]
        if target.is_localhost:
            # Both mean this machine, whichever a hosts file names; those that are permitted will do.
            kinds = {address: kind_of(address, self._settings.fetch_allow) for address in _LOOPBACK}
            return [address for address, kind in kinds.items() if kind.may_be_dialled]
        return await self._resolver.addresses(target.host)

    async def _ask(self, target: Target, media: QuarantinedMedia, route: Route, hop: "_Hop") -> "_Answer":
        headers: Mapping[bytes | str, bytes | str] = {
            "Host": target.authority,
            "User-Agent": self._settings.fetch_user_agent,
            "Accept": "*/*",
            # What is compressed cannot be counted before it is inflated.
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        # httpcore writes the host into what it asks of an HTTP proxy as it stands.
        host = f"[{target.host}]" if self._to_http_proxy and ":" in target.host else target.host
        url = httpcore.URL(scheme=target.scheme, host=host, port=target.port, target=target.path)
        extensions = {"trace": hop.trace}
        async with route.pool.stream("GET", url, headers=headers, extensions=extensions) as response:
            hop.limit.reschedule(hop.ends_at)
            hop.budget.left = None
            untrusted = _Head(response)
            if untrusted.leads_on:
                hop.must_look_refused = False
                return _Answer(response.status, location=untrusted.first(b"location"))
            if response.status != _OK:
                raise hop.failure(FetchFailedError("the answer's status is not 200", response.status))
            hop.must_look_refused = False
            untrusted.check()
            await _pour(response, untrusted.content_length, media)
            return _Answer(response.status, address=route.dialled, headers=untrusted.recorded)


@dataclass
class _Hop:
    """One request on its way.

    Attributes:
        limit: until when the present step may take, connecting first.
        first_byte_seconds: how long the host may then think.
        ends_at: the end of the whole fetch, in the loop's seconds.
        milestones: where on the way the next two change.
        must_look_refused: whether a failure now could tell something of inner names.
        budget: what may be read until there is an answer.
    """

    limit: asyncio.Timeout
    first_byte_seconds: float
    ends_at: float
    milestones: Milestones
    must_look_refused: bool = True
    budget: HeadBudget = field(default_factory=HeadBudget)

    async def trace(self, event: str, _told: Mapping[str, object]) -> None:
        """Listen to httpcore."""
        if event == self.milestones.proxy_reached:
            self.must_look_refused = True
        if event == self.milestones.host_permitted:
            self.must_look_refused = False
        if event == self.milestones.connected:
            answer_until = asyncio.get_running_loop().time() + self.first_byte_seconds
            self.limit.reschedule(min(self.ends_at, answer_until))

    def failure(
        self, error: FetchFailedError | FetchTimeoutError
    ) -> FetchFailedError | FetchTimeoutError | UrlRefusedError:
        """What to raise for a failure now."""
        return UrlRefusedError(str(error)) if self.must_look_refused else error


@dataclass(frozen=True)
class _Answer:
    """What a host answered: the way onward, or that the medium has arrived from an address."""

    status: int
    location: bytes | None = field(default=None, repr=False)
    address: Address | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class _Head:
    """The untrusted status and headers of an answer."""

    def __init__(self, response: httpcore.Response) -> None:
        self._status = response.status
        self._headers = [(name.lower(), value) for name, value in response.headers]

    def first(self, name: bytes) -> bytes | None:
        """The first value of a header, named in lower case."""
        return next((value for other, value in self._headers if other == name), None)

    @property
    def leads_on(self) -> bool:
        """Whether it is a redirect with somewhere to go."""
        return self._status in _REDIRECTS and bool(self.first(b"location"))

    @property
    def content_length(self) -> int | None:
        """How many bytes are promised; None if their number is told otherwise or not at all."""
        promised = self.first(b"content-length")
        if promised is None or self.first(b"transfer-encoding") is not None:
            return None
        # httpcore has checked that it is a number.
        return int(promised)

    @property
    def recorded(self) -> tuple[tuple[str, str], ...]:
        """The headers that the provenance keeps."""
        values = ((name, self.first(name.lower().encode())) for name in _RECORDED_HEADERS)
        return tuple(
            (name, value.decode("latin-1")[:MAX_RECORDED_CHARACTERS])
            for name, value in values
            if value is not None
        )

    def check(self) -> None:
        """Refuse a head of absurd size, and a body that is not the medium's own bytes.

        Raises:
            FetchFailedError: either.
        """
        size = sum(len(name) + len(value) for name, value in self._headers)
        if len(self._headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
            raise FetchFailedError("the answer has too many headers", self._status)
        encodings = b",".join(value for name, value in self._headers if name == b"content-encoding")
        if {encoding.strip().lower() for encoding in encodings.split(b",")} - {b"", b"identity"}:
            raise FetchFailedError("the body is encoded although identity was asked for", self._status)


async def _pour(response: httpcore.Response, promised: int | None, media: QuarantinedMedia) -> None:
    """Take the raw body, counted as it comes.

    Raises:
        TooLargeError, OverloadedError: the quarantine's.
        FetchFailedError: it comes in so many small pieces that they cost more than the bytes are worth.
    """
    if promised is not None:
        media.expect(promised)
    pieces = 0
    async for untrusted_piece in response.aiter_stream():
        media.write(untrusted_piece)
        pieces += 1
        if pieces > _FREE_PIECES + media.size // _BYTES_PER_PIECE:
            raise FetchFailedError("the body came in too many small pieces", response.status)


def _default_ssl_context() -> ssl.SSLContext:
    """Trust the system's authorities and certifi's.

    Built by hand, since ``ssl.create_default_context`` writes session keys to the file that the environment
    names in SSLKEYLOGFILE.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    context.load_verify_locations(certifi.where())
    return context
