"""The README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from fastapi.routing import APIRoute

from functions.common import host
from functions.common.record import COLUMNS
from functions.export.routes import routes as export_routes
from functions.ingest.function import HEALTH, ROUTES
from functions.query.routes import routes as query_routes
from tests.support.docs import metric_rows, setting_rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def table(first_cell: str) -> list[list[str]]:
    """The rows of the README's table whose head begins with `first_cell`."""
    _, _, rest = README.partition(f"\n| {first_cell} |")
    assert rest, f"the README has no table that begins with {first_cell}"
    return [cells(line) for line in rest.split("\n\n")[0].splitlines()[2:]]


def test_every_setting_stands_in_the_readme_with_its_default() -> None:
    _, _, rest = README.partition("| Variable |")
    assert rest.split("\n\n")[0].splitlines()[2:] == setting_rows()


def test_every_metric_stands_in_the_readme() -> None:
    _, _, rest = README.partition("| Metric |")
    assert rest.split("\n\n")[0].splitlines()[2:] == metric_rows()


def test_every_route_stands_in_the_readme() -> None:
    routes = {("ingest", "POST", path) for path in ROUTES} | {("ingest", "GET", path) for path in ("/", *HEALTH)}
    routes |= {("ingest", "PUT", path) for path, dialect in ROUTES.items() if dialect == "elasticsearch"}
    routes |= {("index", "POST", "/"), ("index", "GET", "/")}
    nobody = cast(Any, SimpleNamespace())
    for name, api in (("query", query_routes(nobody)), ("export", export_routes(nobody))):
        for route in api.routes:
            if isinstance(route, APIRoute):
                routes |= {(name, method, route.path) for method in route.methods or ()}
    routes |= {("every function", "GET", path) for path in host._PATHS}
    documented = {
        (row[0], method, path.strip("`"))
        for row in table("Function")
        for method in row[1].split(", ")
        for path in row[2].split("`, `")
    }
    assert documented == routes


def test_every_column_stands_in_the_readme_as_the_schema_has_it() -> None:
    ddl = (ROOT / "schema/single/0001_logs.sql").read_text()
    documented = {row[0]: row[1] for row in table("Column")}
    assert tuple(documented) == COLUMNS
    for column, kind in documented.items():
        assert re.search(rf"^ +{column} +{re.escape(kind)}(,| )", ddl, re.M), f"the schema has no {column} {kind}"


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_every_file_that_the_readme_names_exists(target: str) -> None:
    paths = [ROOT / target, ROOT / "functions" / target]
    assert any(path.exists() for path in paths)


def test_every_make_target_that_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets


def test_topics_groups_and_limits_of_the_manifests_are_those_of_the_code() -> None:
    from functions.common.event import MAX_RECORD_BYTES
    from functions.common.kafka import KafkaConfig

    config = KafkaConfig()
    manifests = [
        document
        for path in sorted((ROOT / "kafka-sources").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    topics = {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == "KafkaTopic"}
    assert set(topics) == {config.kafka_topic, config.kafka_dead_letter_topic}
    assert topics[config.kafka_topic]["spec"]["partitions"] == config.kafka_partitions
    for topic in topics.values():
        assert topic["spec"]["config"]["max.message.bytes"] == str(MAX_RECORD_BYTES)
    (source,) = (manifest for manifest in manifests if manifest["kind"] == "KafkaSource")
    assert source["spec"]["topics"] == [config.kafka_topic]
    assert source["spec"]["initialOffset"] == "earliest"
    assert {"retry", "backoffPolicy", "backoffDelay", "timeout", "deadLetterSink"} == set(source["spec"]["delivery"])
    (sink,) = (manifest for manifest in manifests if manifest["kind"] == "KafkaSink")
    assert source["spec"]["delivery"]["deadLetterSink"]["ref"]["name"] == sink["metadata"]["name"]
    assert sink["spec"]["topic"] == config.kafka_dead_letter_topic
