"""The outermost layer of HTTP: who may come in, and the one place where any error ends.

Authentication stands before routing, so that a caller without a token learns nothing of what exists.
Every request gets an id, told in the answer and the log; the log line holds the id, the route's name, the
status and the duration, and never a path, a query or a client's address.
"""

import asyncio
import base64
import binascii
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from app import log
from app.api import problems
from app.api.limits import KeyLimits
from app.errors import ForbiddenError, MalformedError, NotReadyError, RateLimitedError, UnauthenticatedError
from app.settings import IntakeSettings

logger = logging.getLogger(__name__)

HEALTH_ROUTES: Final = frozenset({"/livez", "/readyz", "/metrics"})
REQUEST_ID_HEADER: Final = "Cordon-Request-Id"

LINGER_SECONDS: Final = 2.0
LINGER_BYTES: Final = 4 * 1024 * 1024
"""How long and how much of a refused body is read and thrown away, before its connection is closed."""

_MAX_AUTHORIZATION_BYTES: Final = 1024


class Key(Protocol):
    """What a token stands for."""

    @property
    def id(self) -> str:
        """The key's id, safe to log."""

    @property
    def scopes(self) -> frozenset[str]:
        """What it may do."""

    @property
    def profile(self) -> str:
        """The name of the profile it is bound to."""

    @property
    def rate_per_second(self) -> int:
        """Requests and batch lines it may begin in a second."""

    @property
    def concurrency(self) -> int:
        """How many requests, and as many lines of batches, may run at once."""

    @property
    def probe_guard(self) -> bool:
        """Whether what looks like probing is slowed."""


class Keys(Protocol):
    """Knows tokens."""

    async def authenticate(self, untrusted_token: str) -> Key | None:
        """The active key of a token, or None."""


class Observer(Protocol):
    """Counts answered requests."""

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""


@dataclass
class _Exchange:
    """What is known of one request and its answer while it runs.

    Attributes:
        has_body: whether some of its body may not have been read yet.
        lingers: whether the answer was sent but for its end, which closes the connection.
    """

    id: str
    has_body: bool
    status: int = 0
    started: bool = False
    lingers: bool = False
    began: float = field(default_factory=time.perf_counter)


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(
        self, app: ASGIApp, keys: Keys, limits: KeyLimits, observer: Observer, intake: IntakeSettings
    ) -> None:
        self._intake = intake
        self._app = app
        self._keys = keys
        self._limits = limits
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        exchange = _Exchange(
            id=str(ULID()),
            has_body=b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0",
        )
        scope.setdefault("state", {})["request_id"] = exchange.id

        async def watched_receive() -> Message:
            message = await (self._in_time(receive, exchange) if exchange.has_body else receive())
            if message["type"] == "http.request" and not message.get("more_body", False):
                exchange.has_body = False
            return message

        async def watched_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.started = True
                exchange.status = message["status"]
                own = [(REQUEST_ID_HEADER.lower().encode(), exchange.id.encode())]
                if exchange.has_body:
                    # What is left of a refused body is not waited for: the connection ends instead.
                    own.append((b"connection", b"close"))
                message = {**message, "headers": [*message.get("headers", []), *own]}
            elif exchange.has_body and not message.get("more_body", False):
                exchange.lingers = True
                message = {**message, "more_body": True}
            await send(message)

        try:
            await self._serve(scope, watched_receive, watched_send, headers)
        except ClientDisconnect:
            log.event(logger, logging.INFO, "client_gone", request_id=exchange.id)
        except Exception as error:  # noqa: BLE001 - the edge of the process: no error may pass with its text
            log.failure(logger, "request_failed", error, request_id=exchange.id)
            if exchange.started:
                raise _AnswerBrokenError from None
            await problems.response(
                problems.problem("internal", "Something failed here; nothing was released.", exchange.id)
            )(scope, watched_receive, watched_send)
        finally:
            self._finish(scope, exchange)
        if exchange.lingers:
            await _linger(receive)
            await send({"type": "http.response.body"})

    async def _in_time(self, receive: Receive, exchange: _Exchange) -> Message:
        """The next piece of a body, from a sender who does not hold its place by dribbling.

        Raises:
            MalformedError: the body pauses or lasts too long.
        """
        left = exchange.began + self._intake.upload_total_seconds - time.perf_counter()
        try:
            async with asyncio.timeout(min(self._intake.upload_idle_seconds, left)):
                return await receive()
        except TimeoutError:
            raise MalformedError("The body did not arrive in time.") from None

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes]
    ) -> None:
        if not (scope["method"] in {"GET", "HEAD"} and scope["path"] in HEALTH_ROUTES):
            token = _token(headers.get(b"authorization"))
            try:
                key = await self._keys.authenticate(token) if token else None
                if key is None:
                    raise UnauthenticatedError  # noqa: TRY301 - one way of answering for all refusals
                scope["state"]["key"] = key
                async with self._limits.request(key):
                    await self._app(scope, receive, send)
            except (UnauthenticatedError, RateLimitedError, NotReadyError) as refused:
                refusal = problems.problem_of(refused, scope["state"]["request_id"])
                await problems.response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _finish(self, scope: Scope, exchange: _Exchange) -> None:
        route: Any = scope.get("route")
        name = getattr(route, "name", None) or "none"
        seconds = time.perf_counter() - exchange.began
        self._observer.answered(name, exchange.status, seconds)
        log.event(
            logger,
            logging.DEBUG if name in {"livez", "readyz", "metrics"} else logging.INFO,
            "answered",
            request_id=exchange.id,
            route=name,
            status=exchange.status,
            seconds=round(seconds, 4),
            key_id=getattr(scope["state"].get("key"), "id", None),
        )


async def _linger(receive: Receive) -> None:
    """Throw away what a sender still sends.

    Closing a connection on bytes that nobody read resets it, and the answer that stands in it is lost.
    """
    left = LINGER_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))


class _AnswerBrokenError(Exception):
    """An answer failed after it had begun: the connection is cut, so that the caller cannot take it whole."""


def require_scope(key: Key, scope: str) -> None:
    """Return only if the key has the scope.

    Raises:
        ForbiddenError: it has not.
    """
    if scope not in key.scopes:
        raise ForbiddenError(scope)


def _token(untrusted_authorization: bytes | None) -> str | None:
    """The token of a Bearer or Basic header; None if there is none that can be read."""
    if untrusted_authorization is None or len(untrusted_authorization) > _MAX_AUTHORIZATION_BYTES:
        return None
    scheme, _, value = untrusted_authorization.partition(b" ")
    try:
        if scheme.lower() == b"bearer":
            return value.strip().decode("ascii") or None
        if scheme.lower() == b"basic":
            _, _, password = base64.b64decode(value.strip(), validate=True).partition(b":")
            return password.decode("ascii") or None
    except (UnicodeDecodeError, binascii.Error):
        return None
    return None
