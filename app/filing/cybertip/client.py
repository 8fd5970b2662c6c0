"""Calls to the CyberTipline. Whatever happens on the way becomes an ``Answer``; nothing is repeated here.

No redirects, no proxy from the environment, no compressed bodies, at most a mebibyte of answer, and an end
to every call. Whether to ask again is for the filer to know: the one irreversible call must not be repeated
by a layer that does not know what it is.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import certifi
import httpx

from app import __version__
from app.filing.cybertip.answers import Answer, Call, Trouble, heard, parse
from app.filing.cybertip.environment import Endpoint
from app.filing.cybertip.reading import MAX_BYTES
from app.filing.trust import is_untrusted, trusted

CALL_SECONDS: Final = 60.0
"""Longest time of one call from dialling to the last byte; far shorter than a lease."""

LONGEST_QUIET_SECONDS: Final = 3600.0
"""How long one answer to one report keeps all others from being sent."""

_TOO_MANY: Final = frozenset({429, 503})
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)


class CyberTipline:
    """The API of one environment.

    Args:
        http: a client that ``open_client`` made.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._quiet_until = 0.0

    @property
    def asks_to_wait(self) -> bool:
        """Whether the authority has too many requests, and said for how long it wants to be left alone."""
        return time.monotonic() < self._quiet_until

    async def status(self) -> Answer:
        """Whether the service is there and knows these credentials."""
        return await self._call(Call.STATUS, "GET")

    async def submit(self, document: bytes) -> Answer:
        """Open a report with its XML."""
        return await self._call(
            Call.SUBMIT, "POST", content=document, headers={"Content-Type": "text/xml; charset=utf-8"}
        )

    async def finish(self, report_id: str) -> Answer:
        """File an open report. It cannot be undone."""
        return await self._call(Call.FINISH, "POST", report_id=report_id)

    async def retract(self, report_id: str) -> Answer:
        """Withdraw an open report; after finishing it cannot be."""
        return await self._call(Call.RETRACT, "POST", report_id=report_id)

    async def schema(self) -> Answer:
        """Fetch the schema; it is in the body if the status is 200."""
        return await self._call(Call.SCHEMA, "GET")

    async def _call(
        self,
        call: Call,
        method: str,
        *,
        report_id: str | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        form = {"id": report_id} if report_id is not None else None
        told = Answer()
        try:
            async with (
                asyncio.timeout(CALL_SECONDS),
                self._http.stream(
                    method, call.value, data=form, content=content, headers=headers
                ) as response,
            ):
                told = heard(
                    response.status_code,
                    request_id=response.headers.get("Request-ID"),
                    retry_after=response.headers.get("Retry-After"),
                )
                if told.status in _TOO_MANY:
                    quiet = min(told.retry_after, LONGEST_QUIET_SECONDS)
                    self._quiet_until = max(self._quiet_until, time.monotonic() + quiet)
                # A compressed body would be inflated before it could be counted.
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    return replace(told, trouble=Trouble.ENCODED)
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        return replace(told, trouble=Trouble.TOO_LARGE)
                return parse(call, told, bytes(body), sent_id=report_id)
        except (httpx.HTTPError, OSError) as error:
            if is_untrusted(error):
                return Answer(trouble=Trouble.UNTRUSTED)
            # TimeoutError is an OSError. What was cut off in the middle is no answer either, but its
            # Request-ID is what the authority's support asks for.
            return replace(told, status=None, trouble=Trouble.NO_ANSWER)


async def _go_nowhere(response: httpx.Response) -> None:
    """Forget where a redirect leads: httpx reads that though it follows none, and raises if it is no URL."""
    response.headers.pop("Location", None)


@contextlib.asynccontextmanager
async def open_client(
    endpoint: Endpoint, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[CyberTipline]:
    """A client of an environment until the block ends.

    Args:
        endpoint: where, and with whose credentials.
        transport: what carries the requests in place of the network, for tests.
    """
    async with httpx.AsyncClient(
        base_url=endpoint.base_url,
        auth=httpx.BasicAuth(endpoint.user, endpoint.password),
        headers={"User-Agent": f"Cordon/{__version__}", "Accept": "text/xml", "Accept-Encoding": "identity"},
        timeout=_TIMEOUT,
        follow_redirects=False,
        trust_env=False,
        verify=trusted(Path(certifi.where())),
        event_hooks={"response": [_go_nowhere]},
        transport=transport,
    ) as http:
        yield CyberTipline(http)
