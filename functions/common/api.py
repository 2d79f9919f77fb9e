"""A FastAPI application as query and export have it: errors as problem details, requests counted by route."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException as RoutingError
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.common import metrics
from functions.common.errors import BadRequest, MethodNotAllowed, NotFound, TorporError
from functions.common.http import problem


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []


def problem_response(description: str) -> dict[str, object]:
    """The OpenAPI description of an answer that is a problem."""
    # Not as FastAPI's `model`: that would say application/json.
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }


PROBLEMS: dict[int | str, dict[str, object]] = {
    400: problem_response("A parameter is wrong; `errors` names it"),
    422: problem_response("The query needs more time, memory or rows than allowed"),
    503: problem_response("ClickHouse does not answer, or too much is going on; retry later"),
}


def new_api(title: str, description: str) -> FastAPI:
    """An application without routes."""
    api = FastAPI(title=title, description=description, version="1", redoc_url=None)
    api.add_exception_handler(TorporError, _problem)
    api.add_exception_handler(RequestValidationError, _problem)
    api.add_exception_handler(ValidationError, _problem)
    api.add_exception_handler(RoutingError, _problem)
    api.add_exception_handler(Exception, _problem)
    api.add_middleware(_Measured)
    return api


async def _problem(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", None)
    if isinstance(error, RequestValidationError):  # its places begin with the part of the request: the body
        error = BadRequest("bad parameter", dict(_fault(fault, fault["loc"][1:]) for fault in error.errors()))
    elif isinstance(error, ValidationError):
        error = BadRequest("bad parameter", dict(_fault(fault, fault["loc"]) for fault in error.errors()))
    elif isinstance(error, HTTPException | RoutingError):
        known = {404: NotFound("nothing here; GET / lists what is"), 405: MethodNotAllowed("not with this method")}
        error = known.get(error.status_code, BadRequest(str(error.detail)))
    response = problem(error)
    if status == 405:
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    # The routing error knows those of one route only.
    routes = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in routes for method in getattr(route, "methods", ())}


def _fault(fault: Any, place: tuple[str | int, ...]) -> tuple[str, str]:
    text = "unknown parameter" if fault["type"] == "extra_forbidden" else str(fault["msg"])
    return ".".join(map(str, place)) or "body", text


def url_parameters(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a model whose fields come in the URL, each by its name."""
    properties: dict[str, Any] = model.model_json_schema()["properties"]
    parameters = []
    for field, described in properties.items():
        name, schema = field, {key: value for key, value in described.items() if key != "title"}
        description = schema.pop("description", "")
        if field == "metadata":
            name, schema, description = "metadata.<key>", {"type": "string"}, "An entry of the metadata equals this"
        parameters.append({"name": name, "in": "query", "description": description, "schema": schema})
    return {"parameters": parameters}


class _Measured:
    """Counts requests and their time by route. Not Starlette's own base: that one costs more than a route does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            # The route, not the path: paths hold ids, and a label for each would never end.
            route = getattr(scope.get("route"), "path", "none")
            metrics.QUERIES.labels(route, status).inc()
            metrics.QUERY_SECONDS.labels(route).observe(time.perf_counter() - started)
