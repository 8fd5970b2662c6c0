"""uvicorn, set up for a gate: no access log, bounded headers, and no body lost to a client's hurry."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Iterator
from typing import Final

import h11
import uvicorn
from ulid import ULID
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http import h11_impl

from app.api import problems
from app.api.edge import REQUEST_ID_HEADER

MAX_HEADER_BYTES: Final = 32 * 1024

HEAD_SECONDS: Final = 10.0
"""How long a connection may take to bring the head of a request."""


class _PatientCycle(h11_impl.RequestResponseCycle):
    """Hands over a body that arrived whole even if its sender hung up right after it.

    uvicorn tells the application of a hang-up before the bytes that came before it. A medium whose last
    byte has arrived must be reported whether or not its sender is still there, so here the body comes first.
    """

    _whole_body_told = False

    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        if message["type"] == "http.disconnect" and not self.more_body and not self._whole_body_told:
            message = {"type": "http.request", "body": bytes(self.body), "more_body": False}
            self.body = bytearray()
        if message["type"] == "http.request" and not message["more_body"]:
            self._whole_body_told = True
        return message


# uvicorn has no setting for this class; tests/journeys hold the behaviour.
h11_impl.RequestResponseCycle = _PatientCycle  # type: ignore[misc]


class GateProtocol(h11_impl.H11Protocol):
    """HTTP/1.1 whose own refusals are problem documents too, and which does not wait for ever for a head.

    uvicorn's keep-alive timer is disarmed by a single byte, so a client that dribbles headers would hold
    its connection for as long as it likes.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Take bytes; once a head is whole, its wait is over, and the next one's begins with its bytes."""
        if self._idle and self._head_timer is None:
            self._await_head()
        super().data_received(data)
        if not self._idle:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the wait."""
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def _idle(self) -> bool:
        # uvicorn's annotation leaves out that there is no cycle before the first request.
        cycle: h11_impl.RequestResponseCycle | None = self.__dict__.get("cycle")
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

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - ours says the same of all
        """Answer what is no HTTP request, or has headers without end, and hang up."""
        request_id = str(ULID())
        refusal = problems.problem("malformed", "This is not an HTTP request served here.", request_id)
        body = json.dumps(refusal).encode()
        head = h11.Response(
            status_code=400,
            reason=b"Bad Request",
            headers=[
                (b"content-type", problems.MEDIA_TYPE.encode()),
                (b"content-length", str(len(body)).encode()),
                (REQUEST_ID_HEADER.lower().encode(), request_id.encode()),
                (b"connection", b"close"),
            ],
        )
        parts = (head, h11.Data(data=body), h11.EndOfMessage())
        # In one piece, since hanging up on a sender who is still at it may cost the pieces after the first.
        self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        self.transport.close()


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
