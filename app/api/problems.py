"""Error code → HTTP status: the one table, and the problem documents made from it (RFC 9457)."""

import json
from typing import Any, Final

from pydantic import BaseModel, Field
from starlette.responses import Response

from app.answer import EXAMPLES, IngestAnswer
from app.errors import CordonError, FetchFailedError

STATUSES: Final[dict[str, tuple[int, str]]] = {
    "malformed": (400, "Malformed request"),
    "unauthenticated": (401, "Not authenticated"),
    "forbidden": (403, "Forbidden"),
    "not_found": (404, "Not found"),
    "method_not_allowed": (405, "Method not allowed"),
    "conflict": (409, "Conflict"),
    "too_large": (413, "Too large"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "invalid_request": (422, "Invalid request"),
    "invalid_context": (422, "Invalid context"),
    "url_refused": (422, "URL refused"),
    "undecidable": (422, "Undecidable"),
    "signature_required": (422, "Signature required"),
    "rate_limited": (429, "Rate limited"),
    "matched": (451, "Matched"),
    "internal": (500, "Internal error"),
    "fetch_failed": (502, "Fetch failed"),
    "not_ready": (503, "Not ready"),
    "overloaded": (503, "Overloaded"),
    "report_not_stored": (503, "Result not stored"),
    "fetch_timeout": (504, "Fetch timed out"),
}

MEDIA_TYPE: Final = "application/problem+json"
_RETRY_AFTER_SECONDS: Final = {"rate_limited": 1, "not_ready": 5, "overloaded": 1, "report_not_stored": 5}
_WWW_AUTHENTICATE: Final = 'Bearer realm="cordon", Basic realm="cordon"'

_OF_ANY_ROUTE: Final = ("malformed", "internal")
_OF_ANY_ROUTE_WITH_A_TOKEN: Final = (
    *_OF_ANY_ROUTE,
    "unauthenticated",
    "forbidden",
    "rate_limited",
    "not_ready",
)
_EXAMPLE_ID: Final = "01J9ZK3V5T8QX2M4N6P8R0S1T2"
_EXAMPLE_DETAILS: Final = {
    "malformed": "The body is not valid JSON in UTF-8.",
    "unauthenticated": "Send a valid token: 'Authorization: Bearer <token>'.",
    "forbidden": "This token lacks the scope 'ingest'.",
    "not_found": "There is no such bank.",
    "conflict": "The kind of a bank is fixed; make another bank.",
    "too_large": "Larger than the 67108864 bytes this service accepts.",
    "unsupported_media_type": "Send application/json.",
    "invalid_request": "'url' must be there, and a string.",
    "invalid_context": "'context.uploader_port': Input should be less than or equal to 65535.",
    "url_refused": "This URL cannot be fetched.",
    "undecidable": "This medium could not be decided, and was withheld.",
    "signature_required": "The signature of this decision is not good.",
    "rate_limited": "This key is at its limit of requests. Slow down.",
    "matched": "This medium matched a bank and was dropped.",
    "internal": "Something failed here; nothing was released.",
    "fetch_failed": "The host did not deliver the medium.",
    "not_ready": "The service is not ready to decide. Try again later.",
    "overloaded": "The service is at its limit. Try again shortly.",
    "report_not_stored": "The result could not be stored. Nothing was released; try again.",
    "fetch_timeout": "The host took too long to deliver the medium.",
}


class Problem(BaseModel):
    """An error, as RFC 9457 shapes it."""

    type: str = Field(examples=["urn:cordon:problem:url_refused"])
    title: str = Field(examples=["URL refused"])
    status: int = Field(examples=[422])
    code: str = Field(examples=["url_refused"], json_schema_extra={"enum": list(STATUSES)})
    detail: str = Field(examples=["This URL cannot be fetched."])
    id: str = Field(description="The request's id, as in the log.", examples=[_EXAMPLE_ID])
    upstream_status: int | None = Field(
        None, description="With `fetch_failed`: what the permitted host answered, if it did."
    )
    result: IngestAnswer | None = Field(
        None, description="With `matched` and `undecidable` on `/v1/media`: the verdict."
    )


def problem(
    code: str,
    detail: str,
    request_id: str,
    *,
    upstream_status: int | None = None,
    result: IngestAnswer | None = None,
) -> dict[str, Any]:
    """The JSON members of one problem."""
    status, title = STATUSES[code]
    members: dict[str, Any] = {
        "type": f"urn:cordon:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "id": request_id,
    }
    if upstream_status is not None:
        members["upstream_status"] = upstream_status
    if result is not None:
        members["result"] = result.model_dump(mode="json")
    return members


def problem_of(error: CordonError, request_id: str) -> dict[str, Any]:
    """The JSON members of the problem that an error stands for."""
    upstream_status = error.upstream_status if isinstance(error, FetchFailedError) else None
    return problem(error.code, error.detail, request_id, upstream_status=upstream_status)


def response(members: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """The HTTP answer that carries a problem."""
    all_headers = {"cache-control": "no-store", **(headers or {})}
    code = members["code"]
    if code in _RETRY_AFTER_SECONDS:
        all_headers["retry-after"] = str(_RETRY_AFTER_SECONDS[code])
    if code == "unauthenticated":
        all_headers["www-authenticate"] = _WWW_AUTHENTICATE
    return Response(json.dumps(members), members["status"], all_headers, MEDIA_TYPE)


def documented(*codes: str, needs_token: bool = True) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI ``responses`` of a route that can answer these codes, besides those that any can."""
    of_any_route = _OF_ANY_ROUTE_WITH_A_TOKEN if needs_token else _OF_ANY_ROUTE
    by_status: dict[int, list[str]] = {}
    for code, (status, _) in STATUSES.items():
        if code in {*codes, *of_any_route}:
            by_status.setdefault(status, []).append(code)
    return {
        status: {
            "description": " · ".join(STATUSES[code][1] for code in of_status),
            "headers": _documented_headers(of_status),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {
                        code: {"$ref": f"#/components/examples/problem.{code}"} for code in of_status
                    },
                }
            },
        }
        for status, of_status in by_status.items()
    }


def documented_header(description: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """An OpenAPI header; required means that every answer of its status has it."""
    return {"description": description, "required": required, "schema": schema}


def examples() -> dict[str, Any]:
    """The examples that ``documented`` refers to, as components of the document."""
    return {f"problem.{code}": {"value": _example(code)} for code in _EXAMPLE_DETAILS}


def _documented_headers(codes: list[str]) -> dict[str, Any]:
    headers = {}
    if "unauthenticated" in codes:
        headers["WWW-Authenticate"] = documented_header(
            "The two ways to send a token.", {"type": "string", "const": _WWW_AUTHENTICATE}
        )
    if not _RETRY_AFTER_SECONDS.keys().isdisjoint(codes):
        headers["Retry-After"] = documented_header(
            "After how many seconds it may be worth trying again.", {"type": "integer", "minimum": 1}
        )
    return headers


def _example(code: str) -> dict[str, Any]:
    return problem(
        code,
        _EXAMPLE_DETAILS[code],
        _EXAMPLE_ID,
        upstream_status=404 if code == "fetch_failed" else None,
        result={"matched": EXAMPLES["match"], "undecidable": EXAMPLES["undecidable"]}.get(code),
    )
