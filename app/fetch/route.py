"""Ways out: straight to addresses that were checked, or through the one egress proxy.

A route serves one request and is closed after it, so no connection is ever shared between requests. Host,
SNI and the certificate's name come from the URL; where the packets go is decided here alone.
"""

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import httpcore

from app.errors import FetchFailedError
from app.fetch.address import Address
from app.settings import SettingsError

MAX_HEAD_BYTES: Final = 64 * 1024
"""Once as many were read and no answer's head is whole, nothing more is."""

_PROXY_PORTS: Final = {"http": 80, "socks5h": 1080}
_MAX_SOCKS_CREDENTIAL_BYTES: Final = 255


@dataclass(frozen=True)
class Proxy:
    """The egress proxy: ``http`` or ``socks5h``, and its credentials if it wants any."""

    scheme: str
    host: str = field(repr=False)
    port: int = field(repr=False)
    credentials: tuple[bytes, bytes] | None = field(repr=False)


@dataclass(frozen=True)
class Milestones:
    """What httpcore's ``trace`` extension says on the way.

    Attributes:
        connected: the connection stands, TLS included; the request goes out next.
        proxy_reached: the proxy was reached and is asked for the host next.
        host_permitted: the proxy let us through. None: only the answer can tell.
    """

    connected: str
    proxy_reached: str | None = None
    host_permitted: str | None = None


_MILESTONES: Final = {
    (None, "http"): Milestones("connection.connect_tcp.complete"),
    (None, "https"): Milestones("connection.start_tls.complete"),
    ("http", "http"): Milestones("connection.connect_tcp.complete", "connection.connect_tcp.complete"),
    ("http", "https"): Milestones(
        "proxy.start_tls.complete", "connection.connect_tcp.complete", "proxy.start_tls.started"
    ),
    ("socks5h", "http"): Milestones(
        "socks.setup_socks5_connection.complete",
        "socks.connect_tcp.complete",
        "socks.setup_socks5_connection.complete",
    ),
    ("socks5h", "https"): Milestones(
        "socks.start_tls.complete",
        "socks.connect_tcp.complete",
        "socks.setup_socks5_connection.complete",
    ),
}


@dataclass
class HeadBudget:
    """How many more bytes may be read before the head of an answer is whole; None once it is.

    httpcore limits each head, but not how many of status 1xx come before the one that counts.
    """

    left: int | None = MAX_HEAD_BYTES

    def spend(self, count: int) -> None:
        """Count bytes that were read.

        Raises:
            httpcore.ReadError: there is still no whole head.
        """
        if self.left is None:
            return
        if self.left <= 0:
            raise httpcore.ReadError
        self.left -= count


class Route:
    """One connection's way out, used as ``async with``.

    Attributes:
        pool: sends the request.
    """

    def __init__(
        self,
        backend: "PinnedBackend | ProxyBackend",
        ssl_context: ssl.SSLContext,
        proxy: Proxy | None = None,
    ) -> None:
        self._backend = backend
        self.pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            proxy=_for_httpcore(proxy) if proxy else None,
            max_connections=1,
            max_keepalive_connections=0,
            http2=False,
            retries=0,
            network_backend=backend,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.pool.aclose()
        finally:
            # httpcore forgets a stream when it is cancelled between connecting and the request.
            for stream in self._backend.opened:
                await stream.aclose()

    @property
    def dialled(self) -> Address | None:
        """The address that was connected; None if there is none, or a proxy did it."""
        return self._backend.dialled if isinstance(self._backend, PinnedBackend) else None


class PinnedBackend(httpcore.AsyncNetworkBackend):
    """Dials checked addresses, whatever host it is asked for. It resolves nothing.

    Attributes:
        opened: the streams it opened.
        dialled: the address that could be connected.
    """

    def __init__(self, addresses: Sequence[Address], until: float, budget: HeadBudget) -> None:
        """Take the addresses in the order to try them, and when to give up, in the loop's seconds."""
        self._addresses = addresses
        self._until = until
        self._budget = budget
        self._sockets = httpcore.AnyIOBackend()
        self.opened: list[httpcore.AsyncNetworkStream] = []
        self.dialled: Address | None = None

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - httpcore's signature; the point is not to use it
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - httpcore's signature
        local_address: str | None = None,  # noqa: ARG002 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that lets us; each gets an equal share of the time left.

        Raises:
            httpcore.ConnectError, httpcore.ConnectTimeout: none did.
        """
        loop = asyncio.get_running_loop()
        failure: Exception = httpcore.ConnectError()
        for position, address in enumerate(self._addresses):
            share = max(0, self._until - loop.time()) / (len(self._addresses) - position)
            try:
                stream = await self._sockets.connect_tcp(
                    str(address), port, timeout=share, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                self.opened.append(stream)
                self.dialled = address
                return _Stream(stream, self._budget)
        raise failure


class ProxyBackend(httpcore.AsyncNetworkBackend):
    """Dials the egress proxy, which its operator named; the proxy is asked for the host afterwards.

    Attributes:
        opened: the streams it opened.
    """

    def __init__(self, budget: HeadBudget) -> None:
        self._budget = budget
        self._sockets = httpcore.AnyIOBackend()
        self.opened: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the proxy.

        Raises:
            FetchFailedError: it cannot be reached; that says nothing of the URL.
        """
        try:
            stream = await self._sockets.connect_tcp(host, port, timeout, local_address, socket_options)
        except (httpcore.ConnectError, httpcore.ConnectTimeout):
            raise FetchFailedError("the egress proxy cannot be reached; see CORDON_FETCH_PROXY") from None
        self.opened.append(stream)
        return _Stream(stream, self._budget)


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that counts what is read of it."""

    def __init__(self, stream: httpcore.AsyncNetworkStream, budget: HeadBudget) -> None:
        self._stream = stream
        self._budget = budget

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - theirs
        untrusted = await self._stream.read(max_bytes, timeout)
        self._budget.spend(len(untrusted))
        return untrusted

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - theirs
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> httpcore.AsyncNetworkStream:
        # An IPv6 address stands in brackets in a URL, and without them in a certificate.
        name = server_hostname.strip("[]") if server_hostname else None
        return _Stream(await self._stream.start_tls(ssl_context, name, timeout), self._budget)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 - httpcore's signature
        return self._stream.get_extra_info(info)


def milestones(scheme: str, proxy: Proxy | None) -> Milestones:
    """What happens on the way to a host, asked for by ``http`` or ``https``."""
    return _MILESTONES[proxy.scheme if proxy else None, scheme]


def parse_proxy(url: str) -> Proxy:
    """Read the setting ``CORDON_FETCH_PROXY``: ``http://`` or ``socks5h://``, with credentials or without.

    Raises:
        SettingsError: it cannot be read; the message does not repeat it.
    """
    message = "CORDON_FETCH_PROXY: write 'http://[user:password@]host[:port]', or the same with socks5h"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        username, password = unquote(parts.username or ""), unquote(parts.password or "")
        credentials = (username.encode(), password.encode()) if username or password else None
    except ValueError:
        raise SettingsError(message) from None
    if parts.scheme not in _PROXY_PORTS or not host or not host.isascii() or parts.path not in {"", "/"}:
        raise SettingsError(message)
    if credentials is not None and max(map(len, credentials)) > _MAX_SOCKS_CREDENTIAL_BYTES:
        raise SettingsError(message)
    return Proxy(parts.scheme, host, port or _PROXY_PORTS[parts.scheme], credentials)


def _for_httpcore(proxy: Proxy) -> httpcore.Proxy:
    url = httpcore.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target="/")
    return httpcore.Proxy(url, auth=proxy.credentials)
