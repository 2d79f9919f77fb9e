"""Every route of query and export that the OpenAPI names, with arbitrary values for its parameters.

The status must be one that the OpenAPI documents, the content type the one it gives for it, and never 500.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from functions.common import timestamps
from functions.export.function import Config as ExportConfig
from functions.export.function import Export
from functions.query.function import Config as QueryConfig
from functions.query.function import Query
from tests.support.engine import fresh_database

EXAMPLES = 150
# What a client may always be told, whatever the route: it is not there, or not with this method.
ALWAYS = {"404", "405"}
VALUES = st.one_of(
    st.text(max_size=40),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "-1h",
            "now",
            "2026-01-31",
            "1s",
            "1h",
            "0",
            "10",
            "1e9",
            "ERROR",
            "err,warn",
            "exact",
            "csv",
            "zstd",
            "parquet",
            "none",
            "keep",
        ]
    ),
    st.binary(max_size=10).map(lambda data: data.decode("latin-1")),
)
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(VALUES, inner, max_size=3),
    max_leaves=5,
)


class Target:
    """Both applications on one database, asked in one loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        database = await fresh_database("schema_fuzz")
        row = {
            "tenant": "default",
            "timestamp": f"{timestamps.now():019d}",
            "service": "s",
            "level": "ERROR",
            "message": "a b c",
        }
        await database.insert("logs", json.dumps(row | {"metadata": {"k": "v"}, "dedupe": 1}).encode())
        self.apps = {"query": Query(QueryConfig(), database).app, "export": Export(ExportConfig(), database).app}
        self.database = database

    def close(self) -> None:
        self.loop.run_until_complete(self.database.close())
        self.loop.close()

    def ask(self, app: str, method: str, path: str, **content: Any) -> httpx.Response:
        """The answer of an application; what it raises is raised here."""
        return self.loop.run_until_complete(self._ask(app, method, path, **content))

    async def _ask(self, app: str, method: str, path: str, **content: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.apps[app])
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **content)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.close()


def routes(target: Target, app: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each operation that an application documents."""
    schema = target.ask(app, "GET", "/openapi.json").json()
    return [
        (method.upper(), path, operation)
        for path, found in schema["paths"].items()
        for method, operation in found.items()
    ]


def hold(answer: httpx.Response, operation: dict[str, Any], schema: dict[str, Any]) -> None:
    """Hold an answer to what is documented."""
    documented = operation["responses"]
    status = str(answer.status_code)
    assert status in documented.keys() | ALWAYS, (
        f"{answer.request.method} {answer.request.url}: {status} {answer.text[:300]}"
    )
    kind = answer.headers["content-type"].partition(";")[0]
    if answer.status_code >= 400:
        assert kind == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
        return
    known = {name.partition(";")[0]: content for name, content in documented[status].get("content", {}).items()}
    assert kind in known, f"{kind} is not among {sorted(known)}"
    if kind == "application/json" and "$ref" in json.dumps(known[kind]):
        validator = Draft202012Validator({**known[kind]["schema"], "components": schema["components"]})
        validator.validate(answer.json())


@pytest.mark.parametrize("app", ["query", "export"])
def test_every_documented_route_answers_arbitrary_parameters_as_it_is_documented(target: Target, app: str) -> None:
    schema = target.ask(app, "GET", "/openapi.json").json()
    operations = routes(target, app)
    names = sorted({parameter["name"] for *_, operation in operations for parameter in operation.get("parameters", [])})

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        for method, path, operation in operations:
            own = [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
            chosen = data.draw(st.lists(st.sampled_from(own or names) | st.sampled_from(names) | VALUES, max_size=3))
            pairs = [(name.replace("<key>", data.draw(VALUES)), data.draw(VALUES)) for name in chosen]
            query = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in pairs)
            filled = path.replace("{id}", _quoted(data.draw(VALUES)) or "x")
            answer = target.ask(app, method, f"{filled}?{query}")
            hold(answer, operation, schema)

    check()


def test_arbitrary_bodies_of_a_search_are_answered_as_it_is_documented(target: Target) -> None:
    schema = target.ask("query", "GET", "/openapi.json").json()
    ((path, operation),) = [(path, found["post"]) for path, found in schema["paths"].items() if "post" in found]
    names = list(operation["requestBody"]["content"]["application/json"]["schema"]["properties"])

    @settings(max_examples=EXAMPLES * 2, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.dictionaries(st.sampled_from(names) | VALUES, BODIES, max_size=3) | BODIES | st.binary(max_size=60))
    def check(body: object) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        hold(target.ask("query", "POST", path, content=content), operation, schema)

    check()


def _quoted(text: str) -> str:
    return quote(text.encode(errors="surrogatepass"), safe="")
