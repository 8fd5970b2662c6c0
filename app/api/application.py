"""The HTTP application: routes, error handling and OpenAPI, put together."""

from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.answer import EXAMPLES
from app.api import bank_entries, banks, batch, health, ingest, problems, reports
from app.api.edge import HEALTH_ROUTES, REQUEST_ID_HEADER, Edge, Keys
from app.api.limits import KeyLimits
from app.api.services import Services
from app.errors import (
    CordonError,
    InvalidRequestError,
    MalformedError,
    MethodNotAllowedError,
    NotFoundError,
)

_DESCRIPTION: Final = (
    "Cordon takes media by upload or URL, hashes it in memory, matches it against banks of known hashes, "
    "and hands on only what is clear. Every route but `/livez`, `/readyz` and `/metrics` needs a token: "
    "`Authorization: Bearer <token>`, or Basic with the token as the password; any path and method without "
    "one is 401. With one, a path that is not here is 404, and a method that is not served there 405 with "
    "`Allow`; what is no request of HTTP/1.1 or 1.0 is 400. The three "
    "health routes answer HEAD too. This document is `/openapi.json`. Every answer has a "
    "`Cordon-Request-Id`, which stands in the log too."
)
_MODULES: Final = (ingest, batch, banks, bank_entries, reports, health)
_MODELS_OF_STREAMED_BODIES: Final[tuple[type[BaseModel], ...]] = (
    problems.Problem,
    ingest.UrlRequest,
    batch.BatchLine,
    banks.BankRequest,
    banks.SignalsRequest,
    bank_entries.DisableRequest,
    bank_entries.NoteRequest,
    bank_entries.PairRequest,
)


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
    for module in _MODULES:
        app.include_router(module.router)
    app.add_exception_handler(CordonError, _on_cordon_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _leave_to_the_edge)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def application(services: Services, keys: Keys, limits: KeyLimits) -> ASGIApp:
    """The ASGI application of one web process, authentication in front."""
    app = routes()
    app.state.services = services

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        # The framework's layers would cost as much as all else that is done for a small upload.
        if scope["type"] == "http" and ingest.is_plain(scope):
            await ingest.answer_plain(services, scope, receive, send)
        else:
            await app(scope, receive, send)

    return Edge(served, keys, limits, services.metrics, services.settings.intake)


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas that streamed bodies and errors refer to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in _MODELS_OF_STREAMED_BODIES:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        for schema in schemas.values():
            _describe_members(schema)
        document["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "password": {"type": "http", "scheme": "basic"},
        }
        # Here rather than at their routes, where the framework would drop members that are null.
        document["components"]["examples"] = problems.examples() | {
            f"verdict.{verdict}": {"value": example.model_dump(mode="json")}
            for verdict, example in EXAMPLES.items()
        }
        document["components"]["headers"] = {
            REQUEST_ID_HEADER: problems.documented_header(
                "The request's id, as in the log.", {"type": "string"}
            )
        }
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if path not in HEALTH_ROUTES:
                    operation["security"] = [{"token": []}, {"password": []}]
                for told in operation["responses"].values():
                    reference = {"$ref": f"#/components/headers/{REQUEST_ID_HEADER}"}
                    told["headers"] = {REQUEST_ID_HEADER: reference} | told.get("headers", {})
        app.openapi_schema = document
    return app.openapi_schema


def _describe_members(schema: dict[str, Any]) -> None:
    """Put what a docstring says of each attribute beside the member it speaks of."""
    summary, _, attributes = schema.get("description", "").partition("\n\nAttributes:\n")
    if attributes:
        schema["description"] = summary
    for line in attributes.splitlines():
        name, _, said = line.strip().partition(": ")
        schema["properties"][name]["description"] = said


async def _on_cordon_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, CordonError):
        raise error
    return problems.response(problems.problem_of(error, request.state.request_id))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    # Where, and the name of the parameter; what comes behind that is pydantic's own.
    where = ".".join(str(part) for part in first["loc"][1:2])
    refusal = InvalidRequestError(f"'{where}': {first['msg']}." if where else f"{first['msg']}.")
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
    headers = dict(error.headers or {})
    if isinstance(refusal, MethodNotAllowedError):
        # The framework knows the methods of the first route of this path alone.
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return problems.response(problems.problem_of(refusal, request.state.request_id), headers)


async def _leave_to_the_edge(_request: Request, error: Exception) -> Response:
    """Keep the framework from answering for what nobody expected: the edge does, with a problem."""
    raise error


def _methods(request: Request) -> set[str]:
    """The methods that are served at the path of a request."""
    routers = (request.app.router, *(module.router for module in _MODULES))
    return {
        method
        for router in routers
        for route in router.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
