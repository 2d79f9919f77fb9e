"""What query and export share as HTTP APIs: errors as problem details, requests counted by route, OpenAPI."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from prometheus_client import REGISTRY
from pydantic import BaseModel

from functions.common.api import new_api, url_parameters
from functions.common.errors import (
    BadRequest,
    ClickHouseUnavailable,
    NotFound,
    Overloaded,
    QueryLimit,
    TooLarge,
    TorporError,
)
from functions.common.host import Host
from functions.export.function import Config as ExportConfig
from functions.export.function import Export
from functions.export.routes import ExportQuery
from functions.query.function import Config as QueryConfig
from functions.query.function import Query
from functions.query.models import Bucket, Health, Log, LogPage, LogQuery
from functions.query.routes import AggregateQuery, ErrorsQuery
from tests.support.memory import MemoryClickHouse

SECRET = "the password is swordfish"

ERRORS: dict[str, Exception] = {
    "bad": BadRequest("bad parameter", {"limit": "too high", "level": "unknown"}),
    "missing": NotFound("there is no log with this id"),
    "large": TooLarge("the body is too large"),
    "limit": QueryLimit("the query was stopped"),
    "overloaded": Overloaded("too much is going on"),
    "clickhouse": ClickHouseUnavailable("ClickHouse does not answer"),
    "ours": TorporError("the query failed"),
    "routing": HTTPException(418, "not a pot"),
    "unexpected": RuntimeError(SECRET),
}


@pytest.fixture(scope="module")
def api() -> FastAPI:
    """An API with one route, that fails as its address says."""
    api = new_api("Toy", "For tests.")

    @api.get("/fail/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name]

    @api.get("/numbers/{number}")
    async def numbers(number: int, body: int = 0) -> int:
        return number + body

    @api.post("/numbers/{number}")
    async def more(number: int) -> None: ...

    return api


@pytest.fixture
def http(api: FastAPI) -> httpx.AsyncClient:
    return client(api)


@pytest.fixture(scope="module")
def functions() -> dict[str, FastAPI]:
    return {
        "query": Query(QueryConfig(), MemoryClickHouse()).app,
        "export": Export(ExportConfig(), MemoryClickHouse()).app,
    }


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://api")


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


# Problems


@pytest.mark.parametrize(
    ("name", "status", "title", "detail"),
    [
        ("bad", 400, "bad request", "bad parameter"),
        ("missing", 404, "not found", "there is no log with this id"),
        ("large", 413, "content too large", "the body is too large"),
        ("limit", 422, "query limit reached", "the query was stopped"),
        ("overloaded", 503, "overloaded", "too much is going on"),
        ("clickhouse", 503, "clickhouse unavailable", "ClickHouse does not answer"),
        ("ours", 500, "internal error", "the query failed"),
        ("routing", 400, "bad request", "not a pot"),
    ],
)
async def test_an_error_is_a_problem_with_its_status_and_text(
    http: httpx.AsyncClient, name: str, status: int, title: str, detail: str
) -> None:
    answer = await http.get(f"/fail/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    problem = answer.json()
    problem.pop("errors", None)
    assert problem == {"type": "about:blank", "title": title, "status": status, "detail": detail}


async def test_a_problem_names_every_field_at_fault(http: httpx.AsyncClient) -> None:
    assert (await http.get("/fail/bad")).json()["errors"] == [
        {"field": "limit", "error": "too high"},
        {"field": "level", "error": "unknown"},
    ]
    assert "errors" not in (await http.get("/fail/limit")).json()


@pytest.mark.parametrize(("name", "seconds"), [("overloaded", "1"), ("clickhouse", "2"), ("limit", None)])
async def test_only_what_may_work_later_says_when_to_retry(
    http: httpx.AsyncClient, name: str, seconds: str | None
) -> None:
    assert (await http.get(f"/fail/{name}")).headers.get("retry-after") == seconds


async def test_an_unexpected_error_is_told_without_its_text_and_logged_with_it(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await http.get("/fail/unexpected")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert answer.json()["detail"] == "this is a fault of the server; its log says more"
    assert SECRET not in answer.text
    assert SECRET in caplog.text


async def test_an_unknown_address_is_a_problem(http: httpx.AsyncClient) -> None:
    answer = await http.get("/nowhere")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["title"] == "not found"


async def test_a_method_that_is_not_allowed_is_a_problem_that_names_those_that_are(http: httpx.AsyncClient) -> None:
    answer = await http.delete("/numbers/1")
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")
    assert answer.json()["title"] == "method not allowed"
    assert answer.headers["allow"] == "GET, POST"
    assert (await http.post("/fail/bad")).headers["allow"] == "GET"


@pytest.mark.parametrize(("url", "field"), [("/numbers/x", "number"), ("/numbers/1?body=x", "body")])
async def test_what_the_framework_refuses_names_the_parameter_and_not_its_place(
    http: httpx.AsyncClient, url: str, field: str
) -> None:
    answer = await http.get(url)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)


# Metrics


async def test_requests_are_counted_by_route_and_status_and_never_by_path(http: httpx.AsyncClient) -> None:
    def counted() -> list[float]:
        requests = "torpor_query_requests_total"
        return [
            sample(requests, route="/numbers/{number}", status="200"),
            sample(requests, route="/fail/{name}", status="422"),
            sample(requests, route="/fail/{name}", status="500"),
            sample(requests, route="none", status="404"),
            sample("torpor_query_seconds_count", route="/numbers/{number}"),
        ]

    before = counted()
    for url in ("/numbers/1", "/numbers/2", "/fail/limit", "/fail/unexpected", "/nowhere/12345"):
        await http.get(url)
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [2, 1, 1, 1, 2]
    routes = {labels.labels.get("route", "") for metric in REGISTRY.collect() for labels in metric.samples}
    assert not any("12345" in route for route in routes)


# OpenAPI


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


ROUTES = {
    "query": {
        ("/", "get"),
        ("/health", "get"),
        ("/api/v1/logs", "get"),
        ("/api/v1/logs", "post"),
        ("/api/v1/logs/aggregate", "get"),
        ("/api/v1/logs/errors", "get"),
        ("/api/v1/logs/{id}", "get"),
    },
    "export": {("/", "get"), ("/api/v1/logs/export", "get")},
}
MODELS: dict[tuple[str, str], type[BaseModel]] = {
    ("query", "/api/v1/logs"): LogQuery,
    ("query", "/api/v1/logs/aggregate"): AggregateQuery,
    ("query", "/api/v1/logs/errors"): ErrorsQuery,
    ("export", "/api/v1/logs/export"): ExportQuery,
}
every_function = pytest.mark.parametrize("name", ["query", "export"])


@every_function
async def test_the_documentation_and_its_source_are_served(functions: dict[str, FastAPI], name: str) -> None:
    http = client(functions[name])
    page = await http.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "/openapi.json" in page.text
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == f"Torpor {name}"


@every_function
def test_every_route_is_documented_and_nothing_else(functions: dict[str, FastAPI], name: str) -> None:
    documented = list(operations(functions[name].openapi()))
    assert {(path, method) for path, method, _ in documented} == ROUTES[name]
    for path, _, operation in documented:
        assert operation.get("description") or operation["summary"]
        assert operation["responses"]["200"]["description"]
        if path.startswith("/api/"):
            assert {"400", "422", "503"} <= set(operation["responses"])
    assert len({operation["operationId"] for *_, operation in documented}) == len(documented)


@every_function
def test_every_reference_of_the_documentation_leads_somewhere(functions: dict[str, FastAPI], name: str) -> None:
    document = functions[name].openapi()
    for reference in set(references(document)):
        node: Any = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


@every_function
def test_every_parameter_is_listed_by_its_name_in_the_url(functions: dict[str, FastAPI], name: str) -> None:
    for path, method, operation in operations(functions[name].openapi()):
        listed = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
        assert len(listed) == len(operation.get("parameters", []))
        if model := MODELS.get((name, path)) if method == "get" else None:
            assert set(listed) == {"metadata.<key>" if field == "metadata" else field for field in model.model_fields}
            assert all(parameter["description"] and parameter["schema"] for parameter in listed.values())
        in_path = {parameter["name"] for parameter in listed.values() if parameter["in"] == "path"}
        assert in_path == {part[1:-1] for part in path.split("/") if part.startswith("{")}


def test_the_body_of_a_search_is_documented_as_its_parameters_are(functions: dict[str, FastAPI]) -> None:
    body = functions["query"].openapi()["paths"]["/api/v1/logs"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["schema"]["properties"]) == set(LogQuery.model_fields)
    for example in body["schema"]["examples"]:
        LogQuery.model_validate(example)


def test_every_success_has_an_example_that_is_one(functions: dict[str, FastAPI]) -> None:
    document = functions["query"].openapi()
    models: dict[str, type[BaseModel]] = {model.__name__: model for model in (Health, Log, LogPage, Bucket)}
    seen = set()
    for path, _, operation in operations(document):
        if path == "/":
            continue
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        model = schema.get("items", schema)["$ref"].rpartition("/")[2]
        examples = document["components"]["schemas"][model]["examples"]
        assert examples
        for example in examples:
            # All of it: an example without a field that answers have would mislead.
            assert set(models[model].model_validate(example).model_fields_set) == set(models[model].model_fields)
        seen.add(model)
    assert seen == set(models)


def test_a_parameter_in_the_url_is_described_as_its_field_is() -> None:
    listed = {parameter["name"]: parameter for parameter in url_parameters(LogQuery)["parameters"]}
    assert listed["limit"] == {
        "name": "limit",
        "in": "query",
        "description": "Logs a page",
        "schema": {"default": 1000, "maximum": 10_000, "minimum": 1, "type": "integer"},
    }
    assert listed["metadata.<key>"]["schema"] == {"type": "string"}


# Under the host


@every_function
async def test_the_host_answers_for_every_function(name: str) -> None:
    clickhouse = MemoryClickHouse()
    function = Query(QueryConfig(), clickhouse) if name == "query" else Export(ExportConfig(), clickhouse)
    http = client(Host(function))
    assert (await http.get("/healthz")).text == "ok\n"
    assert (await http.get("/readyz")).text == "ok\n"
    assert b"torpor_query_requests_total" in (await http.get("/metrics")).content
    clickhouse.failure = ClickHouseUnavailable("ClickHouse does not answer")
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "ClickHouse does not answer\n")
    assert (await http.get("/healthz")).status_code == 200
