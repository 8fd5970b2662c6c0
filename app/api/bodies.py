"""Request bodies: JSON in small bounded pieces, media straight into the quarantine.

Multipart is parsed as a stream by ``multipart``'s push parser, which raises on a truncated body; the
framework's form parser would spool parts to a file, so it is never called.
"""

import json
from datetime import UTC, datetime
from email.message import Message
from typing import Final, TypeVar

from multipart import MultipartError, MultipartSegment, PushMultipartParser
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from app.context import MAX_CONTEXT_BYTES, Context, parse_context
from app.errors import (
    InvalidContextError,
    InvalidRequestError,
    MalformedError,
    TooLargeError,
    UnsupportedMediaTypeError,
)
from app.media import Provenance
from app.pipeline import Arrived
from app.quarantine import QuarantinedMedia

MULTIPART_OVERHEAD_BYTES: Final = 32 * 1024
"""Room for boundaries, part headers and a context around a medium of the largest size."""

Wanted = TypeVar("Wanted", bound=BaseModel)

_IN_OUR_WORDS: Final = {
    "extra_forbidden": "no such key is known here",
    "model_type": "must be a JSON object",
}
_MAX_PARTS: Final = 8
_MAX_BOUNDARY_CHARACTERS: Final = 200


def content_type(request: Request) -> tuple[str, dict[str, str]]:
    """The request's media type in lower case and its parameters; an empty type if none was sent."""
    header = request.headers.get("content-type", "")
    media_type, _, parameters = header.partition(";")
    told = media_type.strip().lower()
    if told.count("/") != 1:
        return "", {}
    return told, _parameters(header) if parameters else {}


def _parameters(header: str) -> dict[str, str]:
    message = Message()
    message["content-type"] = header
    return {str(key).lower(): str(value) for key, value in message.get_params(failobj=[])[1:]}


def declared_bytes(request: Request) -> int | None:
    """What Content-Length promises; None if the length is not told beforehand."""
    length = request.headers.get("content-length")
    return int(length) if length is not None and length.isdecimal() else None


async def read_bounded(request: Request, limit_bytes: int) -> bytes:
    """A small body whole.

    Raises:
        TooLargeError: it is larger than ``limit_bytes``; reading stops there.
    """
    declared = declared_bytes(request)
    if declared is not None and declared > limit_bytes:
        raise TooLargeError(limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise TooLargeError(limit_bytes)
    return bytes(body)


def decode_json(untrusted: bytes) -> object:
    """Decode JSON strictly: UTF-8, no NaN, no doubled keys, no endless nesting.

    Raises:
        MalformedError: it is not such JSON.
    """
    try:
        return json.loads(untrusted.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise MalformedError("The body is not valid JSON in UTF-8.") from None


async def read_json(request: Request, limit_bytes: int) -> object:
    """A small JSON body, decoded.

    Raises:
        UnsupportedMediaTypeError: it does not say that it is JSON.
        TooLargeError, MalformedError: as ``read_bounded`` and ``decode_json``.
    """
    if content_type(request)[0] != "application/json":
        raise UnsupportedMediaTypeError("Send application/json.")
    return decode_json(await read_bounded(request, limit_bytes))


def json_object(untrusted: object, known: frozenset[str]) -> dict[str, object]:
    """A decoded JSON object whose keys are all known.

    Raises:
        InvalidRequestError: it is no object, or has unknown keys.
    """
    if not isinstance(untrusted, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    if not known.issuperset(untrusted):
        raise InvalidRequestError(f"The body has an unknown key. Known keys: {', '.join(sorted(known))}.")
    return untrusted


async def read_model(request: Request, limit_bytes: int, model: type[Wanted]) -> Wanted:
    """Read a JSON body of a certain shape.

    Raises:
        UnsupportedMediaTypeError, TooLargeError, MalformedError: as :func:`read_json`.
        InvalidRequestError: naming the member that is wrong.
    """
    untrusted = await read_json(request, limit_bytes)
    try:
        return model.model_validate(untrusted)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        problem = _IN_OUR_WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRequestError(f"'{where}': {problem}." if where else f"The body: {problem}.") from None


async def pour_body(request: Request, media: QuarantinedMedia) -> Arrived:
    """Pour a raw body into the quarantine as it arrives."""
    async for chunk in request.stream():
        media.write(chunk)
    return Arrived(Provenance(received_at=datetime.now(UTC)))


async def pour_multipart(request: Request, parameters: dict[str, str], media: QuarantinedMedia) -> Arrived:
    """Pour the part ``media`` into the quarantine as it arrives, and read the part ``context``.

    A sender who leaves after the last byte of the medium cannot take it back: it goes on without a context.

    Raises:
        MalformedError: the body is no multipart body, or ends early.
        InvalidRequestError: a part is missing, doubled or unknown.
        InvalidContextError: the context is wrong.
    """
    boundary = parameters.get("boundary", "")
    if not 0 < len(boundary) <= _MAX_BOUNDARY_CHARACTERS:
        raise MalformedError("The Content-Type names no usable multipart boundary.")
    parts = _Parts(media)
    try:
        with PushMultipartParser(
            boundary, content_length=declared_bytes(request) or -1, max_segment_count=_MAX_PARTS, strict=True
        ) as parser:
            async for chunk in request.stream():
                for happened in parser.parse(chunk) if chunk else ():
                    parts.take(happened)
    except MultipartError:
        raise MalformedError("The multipart body is damaged, or ends early.") from None
    except ClientDisconnect:
        if not parts.media_is_whole:
            raise
        return Arrived(Provenance(received_at=datetime.now(UTC)))
    return Arrived(Provenance(received_at=datetime.now(UTC)), parts.context())


class _Parts:
    """Takes the parser's events: media bytes go to the quarantine, the context is kept.

    Attributes:
        media_is_whole: whether the boundary after the medium was seen.
    """

    def __init__(self, media: QuarantinedMedia) -> None:
        self.media_is_whole = False
        self._media = media
        self._seen: set[str] = set()
        self._current = ""
        self._context = bytearray()

    def take(self, happened: MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(happened, MultipartSegment):
            self._begin(happened.name)
        elif happened is None:
            self.media_is_whole = self.media_is_whole or self._current == "media"
        elif self._current == "media":
            self._media.write(happened)
        else:
            self._context += happened
            if len(self._context) > MAX_CONTEXT_BYTES:
                raise InvalidContextError(f"'context' is larger than {MAX_CONTEXT_BYTES} bytes.")

    def context(self) -> Context:
        if "media" not in self._seen:
            raise InvalidRequestError("The part 'media' is missing.")
        if "context" not in self._seen:
            return parse_context(None)
        try:
            return parse_context(decode_json(bytes(self._context)))
        except MalformedError:
            raise InvalidContextError("The part 'context' is not valid JSON in UTF-8.") from None

    def _begin(self, name: str) -> None:
        if name not in {"media", "context"}:
            raise InvalidRequestError("Only the parts 'media' and 'context' are known.")
        if name in self._seen:
            raise InvalidRequestError(f"The part '{name}' is there twice.")
        self._seen.add(name)
        self._current = name


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        message = "a key is there twice"
        raise ValueError(message)
    return document


def _no_constant(_: str) -> object:
    message = "not a JSON number"
    raise ValueError(message)
