"""The HTTP application: routes, error handling and OpenAPI, put together."""

from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from app import __version__
from app.api import banks, batch, health, ingest, problems, reports
from app.api.edge import Edge, Keys
from app.api.limits import KeyLimits
from app.api.services import Services
from app.context import Context
from app.errors import (
    CordonError,
    InvalidRequestError,
    MalformedError,
    MethodNotAllowedError,
    NotFoundError,
    RefusedError,
)

_DESCRIPTION: Final = (
    "Cordon takes media by upload or URL, hashes it in memory, matches it against banks of known hashes, "
    "and hands on only what is clear. Every route but `/livez`, `/readyz` and `/metrics` needs a token: "
    "`Authorization: Bearer <token>`, or Basic with the token as the password."
)


class UrlRequest(BaseModel):
    """A medium by URL, and what is said of it."""

    url: str = Field(examples=["https://pictures.example/a.jpg"])
    context: Context | None = None


def routes() -> FastAPI:
    """All routes, without services and without authentication."""
    app = FastAPI(
        title="Cordon",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in (ingest, batch, banks, reports, health):
        app.include_router(module.router)
    app.add_exception_handler(CordonError, _on_cordon_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def application(services: Services, keys: Keys, limits: KeyLimits) -> ASGIApp:
    """The ASGI application of one web process, authentication in front."""
    app = routes()
    app.state.services = services
    return Edge(app, keys, limits, services.metrics, services.settings.intake)


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas that streamed bodies and errors refer to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (problems.Problem, UrlRequest, banks.SignalsRequest):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        document["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic"},
        }
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _tidy(operation, needs_token=path not in {"/livez", "/readyz", "/metrics"})
        app.openapi_schema = document
    return app.openapi_schema


def _tidy(operation: dict[str, Any], *, needs_token: bool) -> None:
    """Replace the framework's own error shape by ours, and say who may call."""
    if needs_token:
        operation["security"] = [{"token": []}, {"password": []}]
    answers = operation.get("responses", {})
    schema = str(answers.get("422", {}).get("content", {}).get("application/json", {}))
    if "HTTPValidationError" in schema:
        answers.pop("422")
        answers |= {str(status): text for status, text in problems.documented("invalid_request").items()}


async def _on_cordon_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, CordonError):
        raise error
    return problems.response(problems.problem_of(error, request.state.request_id))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in {"query", "path", "body"})
    refusal: RefusedError = InvalidRequestError(
        f"'{where}': {first['msg']}." if where else f"{first['msg']}."
    )
    if first["type"] == "json_invalid":
        refusal = MalformedError("The body is not valid JSON.")
    return problems.response(problems.problem_of(refusal, request.state.request_id))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework raises by itself: no such path, no such method, a body it cannot read."""
    if not isinstance(error, HTTPException):
        raise error
    mapped: dict[int, CordonError] = {
        404: NotFoundError("There is nothing here."),
        405: MethodNotAllowedError("This method is not served here."),
    }
    refusal = mapped.get(error.status_code, MalformedError("The request cannot be read."))
    return problems.response(
        problems.problem_of(refusal, request.state.request_id), dict(error.headers or {})
    )
