"""uvicorn, set up for a gate: no access log, bounded headers, and no body lost to a client's hurry."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http import h11_impl

MAX_HEADER_BYTES: Final = 32 * 1024


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


class Server(uvicorn.Server):
    """A uvicorn server that ends by draining, and tells which signal ended it."""

    ended_by: signal.Signals | None = None

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
        self.should_exit = True
        self.ended_by = number
