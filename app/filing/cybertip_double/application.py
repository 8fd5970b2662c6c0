"""The double over HTTP: authentication, forms, its quirks, and every fault that a client must live through.

``/ispws/...`` are the calls. ``/double/...`` steer it and need no password: ``POST /double/faults`` sets
what goes wrong next and ``DELETE`` there clears that, ``POST /double/clock`` moves its clock, and
``GET /double/reports/{id}`` tells what came of a report of the sender, by the sender's own id.
"""

import asyncio
import base64
import hmac
import io
import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qs

from multipart import MultipartError, MultipartParser, parse_options_header

from app.filing.cybertip_double import service as double
from app.filing.cybertip_double.service import Reply, Service, State

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PREFIX: Final = "/ispws/"
CALLS: Final = {
    "status": "GET",
    "xsd": "GET",
    "submit": "POST",
    "upload": "POST",
    "fileinfo": "POST",
    "finish": "POST",
    "retract": "POST",
}
MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024
HUGE_BYTES: Final = 4 * 1024 * 1024
SLOW_SECONDS: Final = 120.0

_ODD_TYPE: Final = b"application/xml;charset=ISO-8859-1"
_BAD_REQUEST: Final = 400


class Fault(StrEnum):
    """What can go wrong with a call. All but the first two do the work and spoil the answer alone."""

    UNHEARD = "unheard"
    """The connection breaks before anything is done."""
    TOO_MANY = "too_many"
    """429, and nothing is done."""
    UNANSWERED = "unanswered"
    """The connection breaks after it is done."""
    SLOW = "slow"
    """The answer comes after two minutes."""
    HTML_502 = "html_502"
    EMPTY_500 = "empty_500"
    REDIRECT = "redirect"
    HUGE = "huge"
    DOCTYPE = "doctype"
    DEEP = "deep"
    TRUNCATED = "truncated"
    WRONG_ROOT = "wrong_root"
    NO_REPORT_ID = "no_report_id"
    ENCODED = "encoded"
    HTML_200 = "html_200"
    EMPTY_200 = "empty_200"


@dataclass(frozen=True)
class Planned:
    """What goes wrong with the next of a call: a fault, or a code of the application."""

    call: str
    fault: Fault | None = None
    code: int | None = None
    status: int = _BAD_REQUEST


@dataclass(frozen=True)
class Response:
    """An answer on its way. ``length`` is more than the body where the connection breaks within it."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", _ODD_TYPE),)
    length: int | None = None


@dataclass
class Application:
    """The double as an ASGI application.

    Attributes:
        error_status: of HTTP for answers with a code; the real one has been seen with 200 and with 400.
        plan: what goes wrong next, in order.
        calls: how often each was heard.
    """

    service: Service
    user: str
    password: str
    error_status: int = _BAD_REQUEST
    plan: deque[Planned] = field(default_factory=deque)
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CALLS, 0))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = await _body(receive)
        path, method = str(scope["path"]), str(scope["method"])
        if path.startswith(PREFIX):
            response = await self._answer(path.removeprefix(PREFIX), method, headers, body)
        else:
            response = self._steer(path, method, body)
        length = len(response.body) if response.length is None else response.length
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [
                    *response.headers,
                    (b"content-length", str(length).encode()),
                    (b"request-id", secrets.token_hex(8).encode()),
                    (b"set-cookie", b"balancer=a1; Path=/"),
                ],
            }
        )
        await send({"type": "http.response.body", "body": response.body})

    async def _answer(self, call: str, method: str, headers: dict[str, str], body: bytes) -> Response:
        if not self._knows(headers.get("authorization", "")):
            refused = Reply(double.UNAUTHENTICATED, "authentication is required")
            return Response(
                401,
                double.write(refused),
                ((b"content-type", _ODD_TYPE), (b"www-authenticate", b'Basic realm="CyberTipline double"')),
            )
        if call not in CALLS or CALLS[call] != method:
            return Response(404, b"<html><body>Not Found</body></html>", ((b"content-type", b"text/html"),))
        self.calls[call] += 1
        planned = self._planned(call)
        early = _early(planned) if planned is not None else None
        if early is not None:
            return early
        if call == "xsd" and self.service.schema is not None:
            return Response(200, self.service.schema.text)
        reply = self._do(call, headers.get("content-type", ""), body)
        response = Response(200 if reply.code == double.OK else self.error_status, double.write(reply))
        if planned is None or planned.fault is None:
            return response
        if planned.fault is Fault.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        return _spoiled(response, planned.fault)

    def _knows(self, authorization: str) -> bool:
        expected = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return hmac.compare_digest(authorization.encode(), f"Basic {expected}".encode())

    def _planned(self, call: str) -> Planned | None:
        """The next thing planned for a call, taken from the plan."""
        for planned in self.plan:
            if planned.call == call:
                self.plan.remove(planned)
                return planned
        return None

    def _do(self, call: str, content_type: str, body: bytes) -> Reply:
        form = _form(content_type, body) or {}
        report_id = form.get("id", b"").decode("ascii", "replace")
        do: dict[str, Callable[[], Reply]] = {
            "status": lambda: self.service.status(self.user),
            "xsd": lambda: Reply(double.NOT_FOUND, "this double was started without a schema"),
            "submit": lambda: self.service.submit(content_type, body),
            "upload": lambda: self.service.upload(report_id, form.get("file")),
            "fileinfo": lambda: self.service.file_info(content_type, body),
            "finish": lambda: self.service.finish(report_id),
            "retract": lambda: self.service.retract(report_id),
        }
        return do[call]()

    def _steer(self, path: str, method: str, body: bytes) -> Response:
        """The double's own routes."""
        try:
            told = self._told(path) if method == "GET" else self._change(f"{method} {path}", body)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            return _json(_BAD_REQUEST, {"error": f"{type(error).__name__}: {error}"})
        if told is None:
            return _json(404, {"error": "there is /double/reports, /double/faults and /double/clock"})
        return _json(200, told)

    def _told(self, path: str) -> dict[str, Any] | None:
        if path == "/double/reports":
            senders = dict.fromkeys(
                each.sender_id for each in self.service.reports.values() if each.sender_id
            )
            return {"reports": [self.tell(sender) for sender in senders]}
        sender = path.removeprefix("/double/reports/")
        return self.tell(sender) if sender != path else None

    def _change(self, route: str, body: bytes) -> dict[str, Any] | None:
        asked = json.loads(body or b"{}")
        if route == "POST /double/clock":
            self.service.advance(timedelta(seconds=float(asked["advance_seconds"])))
            return {"now": self.service.now.isoformat()}
        if route == "POST /double/faults":
            self.plan.extend(_plans(asked))
        elif route == "DELETE /double/faults":
            self.plan.clear()
        else:
            return None
        return {"planned": len(self.plan)}

    def tell(self, sender_id: str) -> dict[str, Any]:
        """What came of a report of the sender."""
        found = self.service.of_sender(sender_id)
        finished = [each for each in found if each.state is State.FINISHED]
        return {
            "sender_id": sender_id,
            "opened": len(found),
            **{state.value: sum(each.state is state for each in found) for state in State},
            "filed_exactly_once": len(finished) == 1,
            "report_ids": [each.id for each in found],
            "document": finished[0].document.decode() if finished else None,
        }


def _early(planned: Planned) -> Response | None:
    """What is answered in place of doing anything; None if it is done."""
    if planned.fault is Fault.UNHEARD:
        return Response(200, b"", length=1)
    if planned.fault is Fault.TOO_MANY:
        return Response(429, b"", ((b"retry-after", b"7"),))
    if planned.code is not None:
        return Response(planned.status, double.write(Reply(planned.code, "as it was planned")))
    return None


def _plans(asked: dict[str, Any]) -> list[Planned]:
    """What a request plans: ``{"call", "fault" or "code", "status", "times"}``."""
    if asked["call"] not in CALLS:
        message = f"no such call; there are {', '.join(CALLS)}"
        raise ValueError(message)
    fault = Fault(asked["fault"]) if asked.get("fault") is not None else None
    code = int(asked["code"]) if fault is None else None
    planned = Planned(asked["call"], fault, code, int(asked.get("status", _BAD_REQUEST)))
    return [planned] * int(asked.get("times", 1))


def _spoiled(response: Response, fault: Fault) -> Response:
    """An answer as a fault leaves it; the work was done."""
    html = (b"content-type", b"text/html")
    whole = response.body
    spoiled = {
        Fault.UNANSWERED: lambda: Response(response.status, b"", length=len(whole)),
        Fault.SLOW: lambda: response,
        Fault.HTML_502: lambda: Response(502, b"<html><body><p>Bad Gateway</body></html>", (html,)),
        Fault.EMPTY_500: lambda: Response(500, b""),
        Fault.REDIRECT: lambda: Response(302, b"", ((b"location", b"https://elsewhere.invalid/"),)),
        Fault.HUGE: lambda: Response(200, whole + b" " * HUGE_BYTES),
        Fault.DOCTYPE: lambda: Response(
            200, whole.replace(b"?>", b'?><!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/hostname">]>', 1)
        ),
        Fault.DEEP: lambda: Response(200, b"<a>" * 100_000 + b"</a>" * 100_000),
        Fault.TRUNCATED: lambda: Response(200, whole[: len(whole) // 2]),
        Fault.WRONG_ROOT: lambda: Response(
            200,
            whole.replace(b"reportResponse", b"someResponse").replace(b"reportDoneResponse", b"someResponse"),
        ),
        Fault.NO_REPORT_ID: lambda: Response(
            200, double.write(Reply(double.OK, done=b"reportDoneResponse" in whole))
        ),
        Fault.ENCODED: lambda: Response(200, whole, ((b"content-encoding", b"gzip"),)),
        Fault.HTML_200: lambda: Response(
            200, b"<html><body><p>Sign in to the network</body></html>", (html,)
        ),
        Fault.EMPTY_200: lambda: Response(200, b""),
    }
    return spoiled[fault]()


def _form(content_type: str, body: bytes) -> dict[str, bytes] | None:
    """The fields of a form, multipart or urlencoded; None if it is none."""
    kind, options = parse_options_header(content_type)
    if kind == "application/x-www-form-urlencoded":
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
        return {name: values[-1].encode() for name, values in fields.items()}
    if kind != "multipart/form-data" or "boundary" not in options:
        return None
    try:
        # The limits keep every part in memory.
        parser = MultipartParser(
            io.BytesIO(body),
            options["boundary"],
            spool_limit=MAX_REQUEST_BYTES,
            memory_limit=MAX_REQUEST_BYTES,
            disk_limit=0,
        )
        return {part.name: part.raw for part in parser if part.name}
    except MultipartError:
        return None


def _json(status: int, document: dict[str, Any]) -> Response:
    return Response(status, json.dumps(document).encode(), ((b"content-type", b"application/json"),))


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_REQUEST_BYTES or message["type"] == "http.disconnect":
            return b""
        if not message.get("more_body", False):
            return bytes(body)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
