"""uvicorn, set up for a gate: no access log, bounded headers, and no body lost to a client's hurry."""

import asyncio
import contextlib
import json
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any, Final

import uvicorn
from ulid import ULID
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http import httptools_impl

from app.api import problems
from app.api.edge import REQUEST_ID_HEADER

MAX_HEADER_BYTES: Final = 32 * 1024
"""Most bytes of a request's head, and of what stands around the pieces of its body."""

HEAD_SECONDS: Final = 10.0
"""How long a connection may take to bring the head of a request."""

MAX_PIPELINED: Final = 8
"""Requests that may wait on a connection for the answer to an earlier one."""

_VERSIONS: Final = frozenset({"1.0", "1.1"})

_METHODS: Final = frozenset(b"GET HEAD POST PUT DELETE PATCH OPTIONS TRACE CONNECT".split())
_OTHER_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?= )")
_UNSERVED_METHOD: Final = b"UNLINK"
"""Stands for all methods that are not in ``_METHODS``: the parser knows a list, and we serve none of them."""


class _PatientCycle(httptools_impl.RequestResponseCycle):
    """Hands over a body that arrived whole even if its sender hung up right after it.

    uvicorn tells the application of a hang-up before the bytes that came before it. A medium whose last
    byte has arrived must be reported whether or not its sender is still there, so here the body comes first.

    Attributes:
        pieces: what arrived of the body and was not handed over, uncopied.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as uvicorn has them
        super().__init__(*args, **kwargs)
        self.pieces: list[bytes] = []
        self._whole_body_told = False

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if message["type"] == "http.disconnect" and (self.more_body or self._whole_body_told):
            return message
        self._whole_body_told = not self.more_body
        body = b"".join(self.pieces)
        self.pieces.clear()
        return {"type": "http.request", "body": body, "more_body": self.more_body}


# uvicorn has no setting for this class; tests/journeys hold the behaviour.
httptools_impl.RequestResponseCycle = _PatientCycle  # type: ignore[misc]


class _NotServedError(Exception):
    """A head that the parser lets pass and that is not answered here; the parser makes a 400 of it."""


class GateProtocol(httptools_impl.HttpToolsProtocol):
    """HTTP/1.1 whose own refusals are problem documents too, and which does not wait for ever for a head.

    uvicorn's keep-alive timer is disarmed by a single byte, so a client that dribbles headers would hold
    its connection for as long as it likes. Nor does it bound what the parser keeps of a head or a trailer.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _bytes_since_progress = 0
    _amid_message = False
    cycle: _PatientCycle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; once a head is whole, its wait is over, and the next one's begins with its bytes."""
        if self._idle and self._head_timer is None:
            self._await_head()
        self._bytes_since_progress += len(data)
        if not self._amid_message:
            data = _with_a_known_method(data)
        super().data_received(data)
        if not self._idle:
            self._stop_waiting()
        if self._bytes_since_progress > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the wait."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        self._amid_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Begin to answer.

        Raises:
            _NotServedError: as ``_check_head``.
        """
        # Trailers come to the same list later, and are no headers of the request.
        self.scope["headers"] = headers = [(name, value.rstrip(b" \t")) for name, value in self.headers]
        self._check_head(headers)
        self._bytes_since_progress = 0
        super().on_headers_complete()
        if self.parser.should_upgrade():
            # It is answered as if it had not asked, and the parser reads nothing after it.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Keep a piece of a body; once a second one waits to be handed over, nothing more is read."""
        self._bytes_since_progress = 0
        if self.cycle.response_complete:
            return
        self.cycle.pieces.append(body)
        if len(self.cycle.pieces) > 1:
            self.flow.pause_reading()
        self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Note that a body is whole."""
        self._bytes_since_progress = 0
        self._amid_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin to answer the next request, if one waits; until none does, nothing more is read."""
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def _check_head(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse what the parser does not.

        Raises:
            _NotServedError: it is not a request with one host, one known end, and room to wait for its turn.
        """
        version = self.parser.get_http_version()
        hosts = [value for name, value in headers if name == b"host"]
        codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
        if version not in _VERSIONS or len(hosts) > 1 or (version == "1.1" and not hosts):
            raise _NotServedError
        # Nothing else is decoded, and before HTTP/1.1 there were no chunks (RFC 9112, section 6.1). A length
        # beside a coding is refused by the parser.
        if codings and (version != "1.1" or codings != [b"chunked"]):
            raise _NotServedError
        if len(self.pipeline) >= MAX_PIPELINED or sum(map(_length, headers)) > MAX_HEADER_BYTES:
            raise _NotServedError

    @property
    def _idle(self) -> bool:
        # uvicorn's annotation leaves out that there is no cycle before the first request.
        cycle: _PatientCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up_on_head)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up_on_head(self) -> None:
        self._head_timer = None
        if self._idle and not self.transport.is_closing():
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: anybody could fill the log with it."""

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - ours says the same of all
        """Answer what is no HTTP request, or has headers without end, and hang up."""
        if not self._idle and not self.cycle.more_body:
            # It came after a whole request, whose answer is then the last on this connection.
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if self._idle or not (self.cycle.response_started or self.pipeline):
            self._refuse()
        if not self._idle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _refuse(self) -> None:
        request_id = str(ULID())
        refusal = problems.problem("malformed", "This is not an HTTP request served here.", request_id)
        body = json.dumps(refusal).encode()
        head = (
            b"HTTP/1.1 400 Bad Request\r\n"
            b"content-type: %b\r\ncontent-length: %d\r\n%b: %b\r\nconnection: close\r\n\r\n"
        ) % (
            problems.MEDIA_TYPE.encode(),
            len(body),
            REQUEST_ID_HEADER.lower().encode(),
            request_id.encode(),
        )
        # In one piece, since hanging up on a sender who is still at it may cost the pieces after the first.
        self.transport.write(head + body)


def _with_a_known_method(data: bytes) -> bytes:
    """The beginning of a head, so that a method of any name is answered as one that is not served."""
    found = _OTHER_METHOD.match(data)
    if found is None or found[0] in _METHODS:
        return data
    return _UNSERVED_METHOD + data[found.end() :]


def _length(header: tuple[bytes, bytes]) -> int:
    name, value = header
    return len(name) + len(value)


class Server(uvicorn.Server):
    """A uvicorn server that ends by draining, and tells which signal ended it.

    Attributes:
        up: set once the socket listens.
        ended_by: the signal that ended it, or None while it runs.
        drain_until: when, on the event loop's clock, unfinished work is given up.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self.ended_by: signal.Signals | None = None
        self.drain_until = float("-inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain on the first SIGTERM or SIGINT, give up on the second; never re-raise them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _end(self, number: signal.Signals) -> None:
        if self.should_exit:
            self.force_exit = True
        drain_seconds = self.config.timeout_graceful_shutdown or 0
        self.drain_until = asyncio.get_running_loop().time() + drain_seconds
        self.should_exit = True
        self.ended_by = number
