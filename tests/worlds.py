"""Doubles of the world outside, on real sockets of this machine, each with a log of what it saw.

They run on a thread of their own, so tests of any kind and other processes can talk to them::

    with MediaHost({"/cat.png": (png, "image/png")}) as host:
        fetch(host.url("/cat.png"))
        assert host.asked[0].headers["user-agent"] == "Cordon/0.1.0"

        host.serve("/late.png", png, "image/png")      # also while it runs
        host.redirect("/here", "/there")
        host.script("/liar", answer_by_hand)           # async (Asked, StreamReader, StreamWriter) -> None

    with NameServer({"cat.example": ["127.0.0.1"], "dog.example": Turns(["127.0.0.1"], ["10.0.0.1"])}) as dns:
        FetchSettings(fetch_resolver=dns.address)

    with HttpProxy({"cat.example": ("127.0.0.1", host.port)}) as proxy: ...
    with SocksProxy({"cat.example": ("127.0.0.1", host.port)}) as proxy: ...
"""

import asyncio
import base64
import contextlib
import ipaddress
import ssl
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

Result = TypeVar("Result")


class _Double(ABC):
    """Something that listens, on an event loop in a thread of its own, while a ``with`` block runs."""

    def __enter__(self) -> Self:
        self._mistakes: list[Mapping[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _, mistake: self._mistakes.append(mistake))
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(self).__name__, daemon=True)
        self._thread.start()
        self.do(self._start())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.do(self._finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        assert not self._mistakes, f"the double itself failed: {self._mistakes}"

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run something on the double's own loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    @abstractmethod
    async def _start(self) -> None: ...

    @abstractmethod
    async def _stop(self) -> None: ...

    async def _finish(self) -> None:
        await self._stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


class _TcpDouble(_Double):
    """A double that accepts TCP connections.

    Attributes:
        port: where it listens, once it runs.
        connections: how many it accepted.
    """

    def __init__(self, address: str, port: int, ssl_context: ssl.SSLContext | None = None) -> None:
        self.listens_on = address
        self.port = port
        self.connections = 0
        self._open: set[asyncio.Task[None] | None] = set()
        self._ssl_context = ssl_context

    def wait_until_idle(self) -> None:
        """Return once every connection is closed."""
        self.do(asyncio.wait_for(self._idle.wait(), 10))

    async def _start(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()
        self._server = await asyncio.start_server(
            self._accept, self.listens_on, self.port, ssl=self._ssl_context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        # asyncio leaves a connection open that it accepted and had not set up when its server closed.
        for listening in self._server.sockets:
            self._loop.remove_reader(listening.fileno())
        for _ in range(5):
            await asyncio.sleep(0)
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # Held here, since asyncio keeps only weak references to tasks.
        self._open.add(asyncio.current_task())
        self._idle.clear()
        # What a peer does to a connection is its business; the double's log tells what matters. Cancelled
        # is what still runs at the end, and asyncio would take that for a mistake.
        with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            try:
                await self._talk(reader, writer)
            finally:
                writer.close()
                self._open.discard(asyncio.current_task())
                if not self._open:
                    self._idle.set()
                try:
                    await writer.wait_closed()
                except asyncio.CancelledError:
                    # TLS waits for the other side's goodbye, which nobody waits for any more.
                    writer.transport.abort()
                    raise

    @abstractmethod
    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...


@dataclass(frozen=True)
class Asked:
    """One request as it came; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    raw: bytes = field(repr=False)

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


Script = Callable[[Asked, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Answers one request by hand; the connection is closed afterwards."""


async def read_request(reader: asyncio.StreamReader) -> Asked:
    """Read the head of a request."""
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(": ") for line in lines)
    return Asked(method, target, {name.lower(): value for name, _, value in pairs}, raw)


def answer(
    body: bytes = b"",
    *,
    status: str = "200 OK",
    headers: Mapping[str, str] | None = None,
    length: int | None = None,
) -> bytes:
    """An HTTP answer as bytes; ``length`` lets it lie about its body."""
    told = {"Content-Length": str(len(body) if length is None else length)} | dict(headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items() if value)
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("latin-1") + body


def says(raw: bytes) -> Script:
    """A script that sends these bytes."""

    async def send(_asked: Asked, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return send


class MediaHost(_TcpDouble):
    """A web host: serves files from memory, redirects, and misbehaves as told.

    Attributes:
        asked: the requests it read, in order.
        server_names: the SNI of each TLS handshake.
    """

    def __init__(
        self,
        files: Mapping[str, tuple[bytes, str]] | None = None,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(address, port, ssl_context)
        self.asked: list[Asked] = []
        self.server_names: list[str | None] = []
        self._scripts: dict[str, Script] = {}
        if ssl_context is not None:
            ssl_context.sni_callback = self._hear_server_name
        for path, (content, media_type) in (files or {}).items():
            self.serve(path, content, media_type)

    def url(self, path: str, host: str | None = None) -> str:
        """The URL of a path here, under another host's name if one is given."""
        if host is None:
            host = f"[{self.listens_on}]" if ":" in self.listens_on else self.listens_on
        scheme = "https" if self._ssl_context else "http"
        return f"{scheme}://{host}:{self.port}{path}"

    def serve(self, path: str, content: bytes, media_type: str, **headers: str) -> None:
        """Answer a path with a file; ``Last_Modified="..."`` adds a header."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        self.script(path, says(answer(content, headers={"Content-Type": media_type} | more)))

    def redirect(self, path: str, to: str, status: int = 302, **headers: str) -> None:
        """Answer a path with a redirect; ``to`` is sent as it stands."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        raw = answer(status=f"{status} Elsewhere", headers={"Location": "{}"} | more)
        self.script(path, says(raw.replace(b"{}", to.encode("utf-8", "surrogatepass"))))

    def script(self, path: str, script: Script) -> None:
        """Answer a path by hand."""
        self._scripts[path] = script

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await read_request(reader)
        self.asked.append(asked)
        script = self._scripts.get(asked.path, says(answer(status="404 Not Found")))
        await script(asked, reader, writer)

    def _hear_server_name(
        self, _socket: ssl.SSLSocket | ssl.SSLObject, name: str | None, _context: ssl.SSLContext
    ) -> None:
        self.server_names.append(name)


class Turns(list[Sequence[str]]):
    """Different addresses at each look-up; the last ones stay."""

    def __init__(self, *turns: Sequence[str]) -> None:
        super().__init__(turns)


@dataclass(frozen=True)
class Alias:
    """A CNAME; with ``bare``, the server does not add what the alias leads to."""

    name: str
    bare: bool = False


@dataclass(frozen=True)
class Broken:
    """A name whose server says this, or nothing at all."""

    code: dns.rcode.Rcode | None = None


Records = Sequence[str] | Turns | Alias | Broken


class NameServer(_Double):
    """A DNS server on UDP; names that it does not have do not exist.

    Attributes:
        asked: what was looked up, in order: name and record type.
        port: where it listens.
    """

    def __init__(self, names: Mapping[str, Records]) -> None:
        self.names = dict(names)
        self.asked: list[tuple[str, str]] = []
        self.port = 0
        self._turns: Counter[tuple[str, str]] = Counter()

    @property
    def address(self) -> str:
        """Address and port, as the setting takes it."""
        return f"127.0.0.1:{self.port}"

    def looked_up(self, name: str) -> int:
        """How often the IPv4 addresses of a name were asked for."""
        return self.asked.count((name, "A"))

    async def _start(self) -> None:
        double = self

        class Listener(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast("asyncio.DatagramTransport", transport)

            def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
                reply = double._reply(dns.message.from_wire(data))
                if reply is not None:
                    self.transport.sendto(reply.to_wire(), addr)

        self._transport, _ = await self._loop.create_datagram_endpoint(
            Listener, local_addr=("127.0.0.1", self.port)
        )
        self.port = self._transport.get_extra_info("sockname")[1]

    async def _stop(self) -> None:
        self._transport.close()

    def _reply(self, query: dns.message.Message) -> dns.message.Message | None:
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        for _ in range(20):
            records = self.names.get(name)
            if not isinstance(records, Alias):
                break
            reply.answer.append(_rrset(name, "CNAME", [records.name + "."]))
            if records.bare:
                return reply
            name = records.name
        if isinstance(records, Broken):
            if records.code is None:
                return None
            reply.set_rcode(records.code)
        elif records is None or isinstance(records, Alias):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        else:
            addresses = self._addresses(name, kind, records)
            if addresses:
                reply.answer.append(_rrset(name, kind, addresses))
        return reply

    def _addresses(self, name: str, kind: str, records: Sequence[str] | Turns) -> list[str]:
        if isinstance(records, Turns):
            turn = min(self._turns[name, kind], len(records) - 1)
            self._turns[name, kind] += 1
            records = records[turn]
        version = {"A": 4, "AAAA": 6}.get(kind)
        return [address for address in records if ipaddress.ip_address(address).version == version]


def _rrset(name: str, kind: str, values: Sequence[str]) -> dns.rrset.RRset:
    return dns.rrset.from_text_list(dns.name.from_text(name), 60, dns.rdataclass.IN, kind, values)


Hosts = Mapping[str, tuple[str, int]]


class HttpProxy(_TcpDouble):
    """An HTTP proxy with a name service of its own: tunnels with CONNECT, forwards the rest.

    Attributes:
        asked: the requests it read, in order.
        says: names it does not connect, and what it sends instead; None hangs until the client leaves.
    """

    def __init__(self, hosts: Hosts, *, says: Mapping[str, bytes | None] | None = None) -> None:
        super().__init__("127.0.0.1", 0)
        self.hosts = hosts
        self.says = says or {}
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        """Its URL, without credentials."""
        return f"http://127.0.0.1:{self.port}"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await read_request(reader)
        self.asked.append(asked)
        authority = asked.target.removeprefix("http://").partition("/")[0]
        host = authority.rpartition(":")[0] or authority
        if host in self.says:
            await _say_or_hang(reader, writer, self.says[host])
        elif host not in self.hosts:
            writer.write(answer(status="502 No such host"))
        else:
            there = await asyncio.open_connection(*self.hosts[host])
            if asked.method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                path = asked.target.removeprefix("http://").removeprefix(authority)
                there[1].write(asked.raw.replace(asked.target.encode(), path.encode(), 1))
            await _relay((reader, writer), there)


class SocksProxy(_TcpDouble):
    """A SOCKS5 proxy with a name service of its own.

    Attributes:
        asked: hosts and ports it was asked for, in order.
        credentials: what it wants; None for nothing.
        given: what it was given.
        says: names it does not connect, and the reply code it gives; None hangs until the client leaves.
    """

    def __init__(
        self,
        hosts: Hosts,
        *,
        credentials: tuple[bytes, bytes] | None = None,
        says: Mapping[str, int | None] | None = None,
    ) -> None:
        super().__init__("127.0.0.1", 0)
        self.hosts = hosts
        self.credentials = credentials
        self.says = says or {}
        self.asked: list[tuple[str, int]] = []
        self.given: list[tuple[bytes, bytes]] = []

    @property
    def url(self) -> str:
        """Its URL, without credentials."""
        return f"socks5h://127.0.0.1:{self.port}"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        await reader.readexactly(count)
        writer.write(b"\x05\x02" if self.credentials else b"\x05\x00")
        if self.credentials and not await self._authenticated(reader, writer):
            return
        host, port = await _socks_address(reader)
        self.asked.append((host, port))
        if host in self.hosts:
            there = await asyncio.open_connection(*self.hosts[host])
            writer.write(b"\x05\x00\x00\x01" + bytes(6))
            await _relay((reader, writer), there)
            return
        code = self.says.get(host, 4)
        said = None if code is None else bytes([5, code, 0, 1]) + bytes(6)
        await _say_or_hang(reader, writer, said)

    async def _authenticated(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        _, length = await reader.readexactly(2)
        user = await reader.readexactly(length)
        (length,) = await reader.readexactly(1)
        self.given.append((user, await reader.readexactly(length)))
        right = self.given[-1] == self.credentials
        writer.write(b"\x01\x00" if right else b"\x01\x01")
        return right


def basic(user: str, password: str) -> str:
    """The value of a Basic authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def _socks_address(reader: asyncio.StreamReader) -> tuple[str, int]:
    kind = (await reader.readexactly(4))[3]
    if kind == 3:
        (length,) = await reader.readexactly(1)
        host = (await reader.readexactly(length)).decode()
    else:
        host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
    return host, int.from_bytes(await reader.readexactly(2), "big")


async def _say_or_hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: bytes | None) -> None:
    if raw is None:
        await reader.read()
    else:
        writer.write(raw)
        await writer.drain()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _relay(here: Connection, there: Connection) -> None:
    """Carry bytes both ways until both sides are done."""

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(65536):
                sink.write(piece)
                await sink.drain()
            sink.write_eof()

    try:
        await asyncio.gather(carry(here[0], there[1]), carry(there[0], here[1]))
    finally:
        there[1].close()
