"""Names → addresses, all of them, unchecked. Who may be dialled is decided elsewhere.

A name that does not exist, has no address, or whose servers fail or lie about it, has no addresses here:
the difference is nobody's business.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Protocol

import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdatatype

from app.errors import OverloadedError
from app.fetch.address import Address
from app.settings import SettingsError

_DNS_PORT: Final = 53
_MAX_PORT: Final = 65535
_MAX_ALIASES: Final = 8
_SYSTEM_THREADS: Final = 64
_SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class Resolver(Protocol):
    """Looks names up."""

    async def addresses(self, name: str) -> Sequence[Address]:
        """All IPv4 and IPv6 addresses of an ASCII name, in the order to try them; empty if there is none.

        Raises:
            OverloadedError: too many look-ups are under way.
        """

    def close(self) -> None:
        """Let go of what look-ups need."""


class SystemResolver:
    """Asks the system, so its hosts file and search list count.

    Its threads are its own: a system look-up cannot be cancelled, and slow names must not take the threads
    that matching needs.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_SYSTEM_THREADS, thread_name_prefix="resolve")
        self._free = threading.BoundedSemaphore(_SYSTEM_THREADS)

    async def addresses(self, name: str) -> Sequence[Address]:
        """As ``Resolver``; each look-up takes a thread until the system answers, even if nobody waits."""
        if not self._free.acquire(blocking=False):
            raise OverloadedError("all look-up threads wait for the system's resolver")
        looking_up = self._executor.submit(_look_up, name)
        looking_up.add_done_callback(self._release)
        return await asyncio.wrap_future(looking_up)

    def close(self) -> None:
        """Start no more look-ups."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _release(self, _looked_up: Future[list[Address]]) -> None:
        self._free.release()


def _look_up(name: str) -> list[Address]:
    try:
        # Bytes, since Python's own codec for names refuses some that DNS has.
        found = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return _unique([_address(socket_address) for *_, socket_address in found])


def _address(socket_address: _SocketAddress) -> Address:
    return ipaddress.ip_address(socket_address[0])


class DnsResolver:
    """Asks one DNS server, for A and AAAA, without search list and without the hosts file."""

    def __init__(self, server: str, timeout_seconds: float) -> None:
        """Take ``address`` or ``address:port``, IPv6 with a port in brackets.

        Raises:
            SettingsError: it is neither.
        """
        address, port = _server(server)
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        self._resolver.nameservers = [address]
        self._resolver.port = port
        self._resolver.lifetime = timeout_seconds
        self._resolver.cache = None

    async def addresses(self, name: str) -> Sequence[Address]:
        """As ``Resolver``."""
        try:
            asked = dns.name.from_text(name, origin=dns.name.root)
        except dns.exception.DNSException:
            return []
        answers = await asyncio.gather(
            self._ask(asked, dns.rdatatype.A), self._ask(asked, dns.rdatatype.AAAA)
        )
        return _unique([address for answer in answers for address in answer])

    def close(self) -> None:
        """Nothing is held."""

    async def _ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> list[Address]:
        for _ in range(_MAX_ALIASES):
            try:
                answer = await self._resolver.resolve(name, kind, raise_on_no_answer=False, search=False)
            except (dns.exception.DNSException, OSError, EOFError):
                return []
            if answer.rrset is not None:
                return [ipaddress.ip_address(record.address) for record in answer.rrset]
            if answer.canonical_name == name:
                return []
            # An alias whose own addresses the server left out.
            name = answer.canonical_name
        return []


def _server(server: str) -> tuple[str, int]:
    """Split ``address`` or ``address:port``."""
    host, port = server, str(_DNS_PORT)
    if server.count(":") == 1 or "]:" in server:
        host, _, port = server.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError:
        number = 0
    if not 0 < number <= _MAX_PORT:
        message = "CORDON_FETCH_RESOLVER: write 'address' or 'address:port', like 192.0.2.53:53"
        raise SettingsError(message)
    return str(address), number


def _unique(addresses: Sequence[Address]) -> list[Address]:
    return list(dict.fromkeys(addresses))
