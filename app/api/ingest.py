"""``/v1/ingest`` and ``/v1/media``: one medium in, a verdict or the clear medium out."""

import asyncio
import contextlib
import functools
import json
import logging
import re
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from ulid import ULID

from app import formats, log, release
from app.answer import EXAMPLES, IngestAnswer, answer
from app.api import bodies, problems
from app.api.edge import Key, require_scope
from app.api.services import InServices, RequestId, Services, scope
from app.context import MAX_URL_CHARACTERS, Context, parse_context
from app.errors import (
    CordonError,
    InvalidRequestError,
    MalformedError,
    NotReadyError,
    UnsupportedMediaTypeError,
)
from app.media import Verdict
from app.pipeline import Arrival, Arrived, Receipt, Submission, check_ready, ingest
from app.quarantine import QuarantinedMedia
from app.settings import Profile
from app.store.record import audit

logger = logging.getLogger(__name__)

router = APIRouter(tags=["ingest"])

MAX_JSON_BYTES: Final = 64 * 1024
VERDICT_HEADER: Final = "Cordon-Verdict"
ANSWER_HEADER: Final = "Cordon-Answer"

_IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}")
_STATUS_OF_VERDICT: Final = {Verdict.CLEAR: 204, Verdict.MATCH: 451, Verdict.UNDECIDABLE: 422}

_ENTRANCE_PROBLEMS: Final = (
    "too_large",
    "unsupported_media_type",
    "invalid_request",
    "invalid_context",
    "url_refused",
    "fetch_failed",
    "overloaded",
    "report_not_stored",
    "fetch_timeout",
)
_PROBLEMS_OF_BODIES: Final = ("unsupported_media_type", "invalid_context")

_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_EXAMPLE_CONTEXT: Final = {"platform": "example", "account_id": "42", "client_ref": "row-17"}
_EXAMPLE_URL: Final = "https://pictures.example/a.jpg"
_URL_SCHEMA: Final[dict[str, Any]] = {
    "format": "uri",
    "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://",
    "maxLength": MAX_URL_CHARACTERS,
}
_URL_BODY: Final[dict[str, Any]] = {
    "schema": {"$ref": "#/components/schemas/UrlRequest"},
    "example": {"url": _EXAMPLE_URL, "context": _EXAMPLE_CONTEXT},
}
_IDEMPOTENCY_KEY_DOC: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Keeps a retry from making a second report for 24 hours. It replays no verdict.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
    "example": "row-17-try-1",
}
_INGEST_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": _URL_BODY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["media"],
                    "additionalProperties": False,
                    "properties": {
                        "media": {"type": "string", "format": "binary"},
                        "context": {"$ref": "#/components/schemas/Context"},
                    },
                },
                "encoding": {"context": {"contentType": "application/json"}},
            },
            "application/octet-stream": _BINARY,
            "image/*": _BINARY,
            "video/*": _BINARY,
        },
    },
    "parameters": [_IDEMPOTENCY_KEY_DOC],
}
_FETCH_BODY: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": _URL_BODY}},
    "parameters": [_IDEMPOTENCY_KEY_DOC],
}


def _verdict_header(*verdicts: Verdict, required: bool = True) -> dict[str, Any]:
    return {
        VERDICT_HEADER: problems.documented_header(
            "The verdict. An answer without it is an error.",
            {"type": "string", "enum": [verdict.value for verdict in verdicts]},
            required=required,
        )
    }


def _ingest_answers() -> dict[int | str, dict[str, Any]]:
    """A verdict, as JSON or as a status alone; 422 without a body is one too."""
    answers = problems.documented(*_ENTRANCE_PROBLEMS)
    answers[422] |= {
        "description": f"{answers[422]['description']} · With `answer=status`, without a body: undecidable",
        "headers": _verdict_header(Verdict.UNDECIDABLE, required=False),
    }
    return answers | {
        200: {
            "description": "The verdict, whatever it is.",
            "headers": _verdict_header(*Verdict),
            "content": {
                "application/json": {
                    "examples": {
                        verdict: {"$ref": f"#/components/examples/verdict.{verdict}"} for verdict in EXAMPLES
                    }
                }
            },
        },
        204: {"description": "With `answer=status`: clear.", "headers": _verdict_header(Verdict.CLEAR)},
        451: {"description": "With `answer=status`: match.", "headers": _verdict_header(Verdict.MATCH)},
    }


def _gated_download_answers(*problem_codes: str) -> dict[int | str, dict[str, Any]]:
    """The medium, or why it stays here."""
    answers = problems.documented(*problem_codes, "undecidable", "matched")
    answers[422]["headers"] = _verdict_header(Verdict.UNDECIDABLE, required=False)
    answers[451]["headers"] = _verdict_header(Verdict.MATCH)
    answers[200] = {
        "description": "The very bytes that were scanned, if they are clear. They tell the type too.",
        "headers": _verdict_header(Verdict.CLEAR)
        | {
            ANSWER_HEADER: problems.documented_header(
                "With `answer=header`: what `/v1/ingest` would have answered, as JSON on one line.",
                {"type": "string"},
                required=False,
            ),
            "Content-Disposition": problems.documented_header(
                "A browser saves it and does not show it.", {"type": "string", "const": "attachment"}
            ),
            "X-Content-Type-Options": problems.documented_header(
                "A browser takes no other type for it.", {"type": "string", "const": "nosniff"}
            ),
        },
        "content": {
            "image/*": _BINARY,
            "video/*": _BINARY,
            "application/octet-stream": _BINARY,
        },
    }
    return answers


_MediaAnswerForm = Annotated[
    Literal["header"] | SkipJsonSchema[None],
    Query(
        alias="answer",
        description=f"`header` to have `/v1/ingest`'s answer in `{ANSWER_HEADER}` beside a clear medium. "
        "Its hashes take a full decoding, which the verdict alone seldom needs.",
    ),
]


class UrlRequest(BaseModel):
    """A medium by URL, and what is said of it."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        description="Absolute. Whatever it leads to is fetched only if it may be.",
        examples=[_EXAMPLE_URL],
        json_schema_extra=_URL_SCHEMA,
    )
    context: Context | None = None


@router.post(
    "/v1/ingest",
    name="ingest",
    response_model=IngestAnswer,
    responses=_ingest_answers(),
    openapi_extra=_INGEST_BODY,
    summary="Hand in one medium, as a URL or as bytes, and get its verdict",
)
async def post_ingest(
    request: Request,
    at: InServices,
    request_id: RequestId,
    key: Annotated[Key, scope("ingest")],
    answer_form: Annotated[
        Literal["status"] | SkipJsonSchema[None],
        Query(
            alias="answer",
            description="`status` for a verdict that is told by status and header alone, without a body.",
        ),
    ] = None,
) -> Response:
    """Hash a medium in memory and match it against the banks. This route gives verdicts, not bytes."""
    if request.query_params.keys() - {"answer"}:
        # A hook that mistypes it would take the 200 of any verdict for a clear one.
        raise InvalidRequestError("The only query parameter here is 'answer'.")
    return await _answered(request, at, request_id, key, answer_form)


async def _answered(
    request: Request, at: Services, request_id: str, key: Key, answer_form: Literal["status"] | None
) -> Response:
    profile = profile_of(at, key)
    submission = _submission(request, request_id, key, profile)
    media_type, parameters = bodies.content_type(request)
    expected = bodies.declared_bytes(request)
    arrive: Arrival
    if media_type == "application/json":
        await check_ready(at.gate, profile)
        arrive = await _url_arrival(request, at)
        expected = None
    elif media_type == "multipart/form-data":
        arrive = functools.partial(bodies.pour_multipart, request, parameters)
        # Boundaries and the context come on top of the medium, so the length is only an upper bound.
        expected = max(expected - bodies.MULTIPART_OVERHEAD_BYTES, 0) if expected is not None else None
    elif media_type == "application/octet-stream" or re.fullmatch(r"(image|video)/.+", media_type):
        arrive = functools.partial(bodies.pour_body, request)
    else:
        raise UnsupportedMediaTypeError(
            "Send application/json with a URL, multipart/form-data, or the bytes as image/*, video/* or "
            "application/octet-stream."
        )
    receipt = await counted_ingest(
        at, submission, arrive, expected_bytes=expected, tell_signals=answer_form != "status"
    )
    headers = {VERDICT_HEADER: receipt.verdict.value, "cache-control": "no-store"}
    if answer_form == "status":
        return Response(status_code=_STATUS_OF_VERDICT[receipt.verdict], headers=headers)
    body = answer(receipt, disclose_banks=profile.disclose_banks)
    return Response(body.model_dump_json(), 200, headers, "application/json")


_ROUTE: Final = next(route for route in router.routes if isinstance(route, Route) and route.name == "ingest")
_ANSWER_FORMS_OF_QUERIES: Final[dict[bytes, Literal["status"] | None]] = {
    b"": None,
    b"answer=status": "status",
}


def is_plain(scope: Scope) -> bool:
    """Whether the framework would hand a request to ``post_ingest`` as it is."""
    return (
        scope["path"] == _ROUTE.path
        and scope["method"] == "POST"
        and scope["query_string"] in _ANSWER_FORMS_OF_QUERIES
    )


async def answer_plain(at: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer such a request without the framework, in the same words."""
    scope["route"] = _ROUTE
    request = Request(scope, receive)
    request_id, key = request.state.request_id, request.state.key
    answer_form = _ANSWER_FORMS_OF_QUERIES[scope["query_string"]]
    try:
        require_scope(key, "ingest")
        response = await _answered(request, at, request_id, key, answer_form)
    except CordonError as error:
        response = problems.response(problems.problem_of(error, request_id))
    await response(scope, receive, send)


@router.post(
    "/v1/media",
    name="media",
    response_class=Response,
    responses=_gated_download_answers(*_ENTRANCE_PROBLEMS),
    openapi_extra=_FETCH_BODY,
    summary="Fetch a URL through the gate: the medium itself, only if it is clear",
)
async def post_media(
    request: Request,
    at: InServices,
    request_id: RequestId,
    key: Annotated[Key, scope("ingest")],
    answer_form: _MediaAnswerForm = None,
) -> Response:
    """The gated download. 451 on a match, 422 if undecidable, with the verdict under `result`."""
    await check_ready(at.gate, profile_of(at, key))
    arrive = await _url_arrival(request, at)
    return await _gated_download(at, key, request, request_id, arrive, answer_form)


@router.get(
    "/v1/media",
    name="media",
    response_class=Response,
    responses=_gated_download_answers(
        *(code for code in _ENTRANCE_PROBLEMS if code not in _PROBLEMS_OF_BODIES)
    ),
    openapi_extra={"parameters": [_IDEMPOTENCY_KEY_DOC]},
    summary="The same with the URL in the query, for tools that can do no better",
)
async def get_media(  # noqa: PLR0917 - as the framework gives them
    request: Request,
    at: InServices,
    request_id: RequestId,
    key: Annotated[Key, scope("ingest")],
    url: Annotated[
        str,
        Query(
            description="The URL to fetch. Proxies on the way may log it: prefer POST.",
            examples=[_EXAMPLE_URL],
            json_schema_extra=_URL_SCHEMA,
        ),
    ],
    answer_form: _MediaAnswerForm = None,
) -> Response:
    """The gated download for clients that can only GET."""
    return await _gated_download(at, key, request, request_id, _fetching(at, url, None), answer_form)


def profile_of(at: Services, key: Key) -> Profile:
    """The profile that a key is bound to.

    Raises:
        NotReadyError: the configuration no longer has it; guessing another would change the policy.
    """
    try:
        return at.profiles[key.profile]
    except KeyError:
        raise NotReadyError("a key is bound to a profile that the configuration lacks") from None


async def counted_ingest(
    at: Services,
    submission: Submission,
    arrive: Arrival,
    *,
    expected_bytes: int | None = None,
    release: bool = False,
    tell_signals: bool = True,
) -> Receipt:
    """Run the pipeline, slowed for a key that seems to probe, and count how it ended."""
    key_id = submission.key_id or ""
    if pause_seconds := at.guard.pause_seconds(key_id):
        await asyncio.sleep(pause_seconds)
    try:
        receipt = await ingest(
            at.gate,
            submission,
            arrive,
            expected_bytes=expected_bytes,
            release=release,
            tell_signals=tell_signals,
        )
    except CordonError as error:
        at.metrics.failed(error.code)
        raise
    at.metrics.concluded(receipt)
    if at.guard.take_news(key_id):
        await _tell_of_probing(at, key_id)
    return receipt


async def _tell_of_probing(at: Services, key_id: str) -> None:
    """Say so in the log, the metrics and the audit log; the answer in hand does not depend on it."""
    log.event(logger, logging.WARNING, "probing_suspected", key_id=key_id)
    at.metrics.probing.inc()
    with contextlib.suppress(NotReadyError):
        async with at.database.begin() as connection:
            await audit.append(connection, "key.probing_suspected", key_id, {})


def url_arrival(at: Services, untrusted: object) -> Arrival:
    """The arrival that a decoded ``{"url", "context"}`` asks for.

    Raises:
        InvalidRequestError, InvalidContextError: it is not of that shape.
    """
    if not isinstance(untrusted, dict):
        raise InvalidRequestError('Send a JSON object: {"url": "...", "context": {...}}.')
    if not {"url", "context"}.issuperset(untrusted):
        raise InvalidRequestError("Only the keys 'url' and 'context' are known.")
    untrusted_url = untrusted.get("url")
    if not isinstance(untrusted_url, str):
        raise InvalidRequestError("'url' must be there, and a string.")
    return _fetching(at, untrusted_url, untrusted.get("context"))


async def _url_arrival(request: Request, at: Services) -> Arrival:
    return url_arrival(at, await bodies.read_json(request, MAX_JSON_BYTES))


def _fetching(at: Services, untrusted_url: str, untrusted_context: object) -> Arrival:
    context = parse_context(untrusted_context)

    async def arrive(media: QuarantinedMedia) -> Arrived:
        return Arrived(await at.fetch(untrusted_url, media), context)

    return arrive


async def _gated_download(  # noqa: PLR0917 - what the framework gives, and what it is for
    at: Services, key: Key, request: Request, request_id: str, arrive: Arrival, answer_form: str | None
) -> Response:
    profile = profile_of(at, key)
    submission = _submission(request, request_id, key, profile)
    tell_signals = answer_form == "header"
    receipt = await counted_ingest(at, submission, arrive, release=True, tell_signals=tell_signals)
    headers = {VERDICT_HEADER: receipt.verdict.value}
    if receipt.verdict is Verdict.CLEAR:
        told = answer(receipt, disclose_banks=profile.disclose_banks) if tell_signals else None
        return _ReleasedResponse(receipt, told)
    code, detail = (
        ("matched", "This medium matched a bank and was dropped.")
        if receipt.verdict is Verdict.MATCH
        else ("undecidable", "This medium could not be decided, and was withheld.")
    )
    result = answer(receipt, disclose_banks=profile.disclose_banks)
    return problems.response(problems.problem(code, detail, request_id, result=result), headers)


class _ReleasedResponse(Response):
    """Sends a clear medium from the quarantine, and overwrites it whatever becomes of the client."""

    def __init__(self, receipt: Receipt, told_answer: IngestAnswer | None) -> None:
        self._media = release.released_media(receipt)
        told = formats.tell(self._media.head)
        super().__init__(
            None,
            200,
            {
                VERDICT_HEADER: receipt.verdict.value,
                "content-length": str(self._media.size),
                "content-disposition": "attachment",
                "x-content-type-options": "nosniff",
                "cache-control": "no-store",
            }
            | ({ANSWER_HEADER: json.dumps(told_answer.model_dump(mode="json"))} if told_answer else {}),
            told.media_type if told else "application/octet-stream",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            for chunk in release.chunks(self._media):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._media.wipe()


def _submission(request: Request, request_id: str, key: Key, profile: Profile) -> Submission:
    return Submission(
        id=request_id,
        entrance="http",
        key_id=key.id,
        profile=profile,
        guarded=key.probe_guard,
        idempotency_key=_idempotency_key(request),
    )


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist("idempotency-key")
    if not given:
        return None
    if len(given) > 1 or not _IDEMPOTENCY_KEY.fullmatch(given[0]):
        raise MalformedError("Idempotency-Key must be 1 to 128 visible ASCII characters, once.")
    return given[0]


def new_id() -> str:
    """A fresh ULID."""
    return str(ULID())
