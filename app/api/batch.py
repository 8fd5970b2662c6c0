"""``/v1/ingest/batch``: many URLs in one request, answered in order of finishing.

Items that were begun are finished and reported even if the caller goes away; nothing of the list is stored.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from app import log
from app.answer import EXAMPLES, IngestAnswer, answer
from app.api import bodies, problems
from app.api.edge import Key
from app.api.ingest import counted_ingest, new_id, profile_of, url_arrival
from app.api.services import InServices, Services, scope
from app.errors import (
    CordonError,
    MalformedError,
    OverloadedError,
    TooLargeError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
)
from app.pipeline import Submission, check_ready

logger = logging.getLogger(__name__)

router = APIRouter(tags=["ingest"])

MAX_LINES: Final = 1000
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
MEDIA_TYPE: Final = "application/x-ndjson"

_AT_ONCE: Final = 16
_OVERLOAD_PATIENCE_SECONDS: Final = 60
_OVERLOAD_PAUSE_SECONDS: Final = 0.25


@dataclass
class _Batch:
    """One batch while it runs: lines still to begin, and answers not yet sent."""

    lines: list[tuple[int, bytes]]
    answers: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    abandoned: bool = False


class BatchLine(BaseModel):
    """One line of a batch's answer. It has `result` or `problem`; the last line has `done` alone."""

    line: int | SkipJsonSchema[None] = Field(None, description="The line of the request, counted from 1.")
    client_ref: str | None = Field(None, description="As in the line's context.")
    status: int | SkipJsonSchema[None] = Field(None, description="What `/v1/ingest` would have answered.")
    result: IngestAnswer | SkipJsonSchema[None] = Field(None, description="With status 200.")
    problem: problems.Problem | SkipJsonSchema[None] = Field(None, description="With any other status.")
    done: int | SkipJsonSchema[None] = Field(None, description="How many lines were answered: all.")


_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "At most 1,000 lines and 4 MiB. Blank lines are skipped.",
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "type": "string",
                    "contentMediaType": MEDIA_TYPE,
                    "contentSchema": {"$ref": "#/components/schemas/UrlRequest"},
                },
                "example": '{"url": "https://pictures.example/a.jpg", "context": {"client_ref": "row-17"}}\n',
            }
        },
    }
}
_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": 'One line an item, in order of finishing; the last line is `{"done": n}`.',
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "type": "string",
                    "contentMediaType": MEDIA_TYPE,
                    "contentSchema": {"$ref": "#/components/schemas/BatchLine"},
                },
                "example": "".join(
                    json.dumps(line) + "\n"
                    for line in (
                        {
                            "line": 1,
                            "client_ref": "row-17",
                            "status": 200,
                            "result": EXAMPLES["clear"].model_dump(mode="json"),
                        },
                        {"done": 1},
                    )
                ),
            }
        },
    }
}


@router.post(
    "/v1/ingest/batch",
    name="batch",
    response_class=Response,
    responses=problems.documented("too_large", "unsupported_media_type") | _ANSWER,
    openapi_extra=_BODY,
    summary="Hand in up to 1,000 URLs, one JSON object a line",
)
async def post_batch(request: Request, at: InServices, key: Annotated[Key, scope("ingest")]) -> Response:
    """Every line is the JSON of `/v1/ingest`. A bad line fails alone."""
    if bodies.content_type(request)[0] != MEDIA_TYPE:
        raise UnsupportedMediaTypeError(f"Send {MEDIA_TYPE}.")
    if "idempotency-key" in request.headers:
        raise MalformedError("Idempotency-Key is not taken on the batch; use it on /v1/ingest.")
    await check_ready(at.gate, profile_of(at, key))
    body = await bodies.read_bounded(request, MAX_BATCH_BYTES)
    lines = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if len(lines) > MAX_LINES:
        raise TooLargeError(MAX_LINES, "lines")
    return StreamingResponse(
        _run(at, key, lines), media_type=MEDIA_TYPE, headers={"cache-control": "no-store"}
    )


async def _run(at: Services, key: Key, lines: list[tuple[int, bytes]]) -> AsyncIterator[bytes]:
    """Yield the answers as they come; stop beginning items once nobody listens."""
    batch = _Batch(list(reversed(lines)))
    # Held by the process, not by this generator: cancelling the answer must not cancel begun items.
    workers = [asyncio.create_task(_work(at, key, batch)) for _ in range(min(_AT_ONCE, len(lines)))]
    at.running.update(workers)
    for worker in workers:
        worker.add_done_callback(at.running.discard)
    try:
        for _ in lines:
            yield await batch.answers.get()
        yield _line({"done": len(lines)})
    finally:
        batch.abandoned = True


async def _work(at: Services, key: Key, batch: _Batch) -> None:
    while batch.lines and not batch.abandoned:
        number, untrusted_line = batch.lines.pop()
        async with at.limits.line(key):
            told = await _item(at, key, number, untrusted_line)
        batch.answers.put_nowait(_line(told))


async def _item(at: Services, key: Key, number: int, untrusted_line: bytes) -> dict[str, Any]:
    """Take one line through the gate; what goes wrong is told in its answer."""
    item_id = new_id()
    client_ref: str | None = None
    try:
        untrusted = bodies.decode_json(untrusted_line)
        client_ref = _client_ref(untrusted)
        if not await at.keys.is_active(key.id):
            # A batch may run for minutes; a revoked key begins nothing more.
            raise UnauthenticatedError  # noqa: TRY301 - told like what else goes wrong with a line
        result = await _patiently(at, key, item_id, untrusted)
    except CordonError as error:
        told = problems.problem_of(error, item_id)
    except Exception as error:  # noqa: BLE001 - a line is an edge of its own: its neighbours go on
        log.failure(logger, "item_failed", error, request_id=item_id)
        told = problems.problem("internal", "Something failed here; nothing was released.", item_id)
    else:
        return {"line": number, "client_ref": client_ref, "status": 200, "result": result}
    return {"line": number, "client_ref": client_ref, "status": told["status"], "problem": told}


async def _patiently(at: Services, key: Key, item_id: str, untrusted: object) -> dict[str, Any]:
    """Ingest one item, waiting while the budget of bytes is spent: its neighbours will free it."""
    profile = profile_of(at, key)
    submission = Submission(
        id=item_id, entrance="batch", key_id=key.id, profile=profile, guarded=key.probe_guard
    )
    arrive = url_arrival(at, untrusted)
    deadline = asyncio.get_running_loop().time() + _OVERLOAD_PATIENCE_SECONDS
    while True:
        try:
            receipt = await counted_ingest(at, submission, arrive)
        except OverloadedError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(_OVERLOAD_PAUSE_SECONDS)
        else:
            return answer(receipt, disclose_banks=profile.disclose_banks).model_dump(mode="json")


def _client_ref(untrusted: object) -> str | None:
    """What the caller calls this line, even if the rest of it is wrong."""
    context = untrusted.get("context") if isinstance(untrusted, dict) else None
    given = context.get("client_ref") if isinstance(context, dict) else None
    return given if isinstance(given, str) else None


def _line(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"
