"""The REST API of query: addresses, parameters and shapes. What they do is in function.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Request, Response
from pydantic import Field

from functions.common.api import PROBLEMS, new_api, problem_response, url_parameters
from functions.common.http import read_body
from functions.common.parameters import SearchParameters, gather
from functions.query.models import Bucket, Health, Log, LogPage, LogQuery

if TYPE_CHECKING:
    from functions.query import function

JSON = "application/json"
MAX_BODY = 4 * 1024 * 1024
"""Bytes: more than the longest search has."""


class ErrorsQuery(SearchParameters):
    """A search for errors."""

    limit: Annotated[int, Field(ge=1, le=10_000, description="Logs at most")] = 100


class AggregateQuery(SearchParameters):
    """Counts over time."""

    interval: Annotated[str, Field(description="30s, 5m, 1h, 1d: a number and s, m, h, d or w")] = "1h"


def routes(query: function.Query) -> FastAPI:
    """The application whose routes ask `query`."""
    api = new_api("Torpor query", "Search logs. Every log counts once, however often it was sent.")

    @api.get("/", summary="What is here")
    async def root() -> dict[str, object]:
        paths = api.openapi()["paths"]
        here = {path: sorted(method.upper() for method in methods) for path, methods in paths.items()}
        return {"function": "query", "routes": here, "documentation": "/docs", "openapi": "/openapi.json"}

    @api.get("/health", responses={503: {"model": Health, "description": "ClickHouse does not answer"}})
    async def health(response: Response) -> Health:
        """The state of ClickHouse."""
        state = await query.health()
        response.status_code = 200 if state.status == "ok" else 503
        return state

    @api.post(
        "/api/v1/logs",
        responses={
            200: {"model": LogPage},
            413: problem_response("The body is too large"),
            **PROBLEMS,
        },
        openapi_extra={"requestBody": {"required": True, "content": {JSON: {"schema": LogQuery.model_json_schema()}}}},
    )
    async def post_logs(request: Request) -> Response:
        """Search, newest first; the search is a JSON body."""
        parameters = LogQuery.model_validate_json(await read_body(request, MAX_BODY))
        return Response(await query.page(parameters), media_type=JSON)

    @api.get("/api/v1/logs", responses={200: {"model": LogPage}, **PROBLEMS}, openapi_extra=url_parameters(LogQuery))
    async def get_logs(request: Request) -> Response:
        """Search, newest first; the search is in the URL."""
        parameters = LogQuery.model_validate(gather(request.query_params.multi_items()))
        return Response(await query.page(parameters), media_type=JSON)

    @api.get(
        "/api/v1/logs/aggregate",
        responses={200: {"model": list[Bucket]}, **PROBLEMS},
        openapi_extra=url_parameters(AggregateQuery),
    )
    async def aggregate(request: Request) -> Response:
        """Counts per interval, service and level, oldest first."""
        parameters = AggregateQuery.model_validate(gather(request.query_params.multi_items()))
        return Response(await query.aggregate(parameters, parameters.interval), media_type=JSON)

    @api.get(
        "/api/v1/logs/errors",
        responses={200: {"model": list[Log]}, **PROBLEMS},
        openapi_extra=url_parameters(ErrorsQuery),
    )
    async def errors(request: Request) -> Response:
        """The newest errors: levels ERROR and FATAL, unless `level` says otherwise."""
        parameters = ErrorsQuery.model_validate(gather(request.query_params.multi_items()))
        return Response(await query.errors(parameters, parameters.limit), media_type=JSON)

    @api.get(
        "/api/v1/logs/{id}",
        responses={200: {"model": Log}, 404: problem_response("There is no such log"), **PROBLEMS},
    )
    async def one(id: str) -> Response:
        """One log by its id."""
        return Response(await query.log(id), media_type=JSON)

    return api
