"""Clients in JavaScript: OpenTelemetry's SDK, pino-loki and winston-loki."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.agents.agent import COUNT, found, missing, moments, needed, times, unique
from tests.support.local import LocalTorpor

HERE = Path(__file__).parent / "node"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NODE = 20
"""The major version that the clients need."""


@pytest.fixture(scope="module")
def node() -> str:
    """The path of a Node.js that has the clients."""
    path = needed("node")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < NODE:
        missing(f"Node.js is {version.strip()}; the clients need {NODE} or later")
    if not (HERE / "node_modules").exists():
        missing("the clients are not installed; make test-agents does that (npm)")
    return path


def run(node: str, script: str, **argument: Any) -> None:
    """Run a script of the folder to its end. It must not complain."""
    done = subprocess.run(
        [node, str(HERE / script), json.dumps(argument)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("way", ["http", "proto", "grpc"])
def test_opentelemetrys_sdk(torpor: LocalTorpor, node: str, way: str, compression: str) -> None:
    service, sent = unique(f"otel-js-{way}"), moments(1)
    url = f"http://127.0.0.1:{torpor.ports['grpc']}" if way == "grpc" else torpor.url("ingest", "/v1/logs")
    texts = [str(time) for time in sent]
    run(
        node,
        "otlp.mjs",
        way=way,
        url=url,
        compression=compression,
        service=service,
        times=texts,
        traceId=TRACE,
        spanId=SPAN,
    )
    logs = found(torpor, service)
    assert times(logs) == sent
    assert {(log["level"], log["trace_id"], log["span_id"]) for log in logs} == {("WARN", TRACE, SPAN)}
    assert [log["message"] for log in logs[::2]] == [f"order {number}" for number in range(0, COUNT, 2)]
    assert [json.loads(log["message"]) for log in logs[1::2]] == [
        {"order": number, "paid": False} for number in range(1, COUNT, 2)
    ]
    assert [log["metadata"]["number"] for log in logs] == [str(number) for number in range(COUNT)]
    metadata = logs[7]["metadata"]
    assert (
        metadata.items()
        >= {
            "price": "1.5",
            "late": "true",
            "tags": '["a","b"]',
            "address": '{"city":"Köln"}',
            "region": "us",
            "resource.region": "eu",
            "severity_number": "14",
            "severity_text": "attention",
            "event_name": "order.late",
            "otel.scope.name": "shop.orders",
            "otel.scope.version": "1.2",
        }.items()
    )


def test_pino_loki(torpor: LocalTorpor, node: str) -> None:
    service, sent = unique("pino"), moments(1)
    run(node, "pino.mjs", url=torpor.url("ingest", ""), service=service, times=[str(time) for time in sent])
    logs = found(torpor, service)
    assert times(logs) == sent
    assert [log["message"] for log in logs] == [f"line {number}" for number in range(COUNT)]
    assert [log["level"] for log in logs[:4]] == ["INFO", "WARN", "ERROR", "FATAL"]
    assert [log["metadata"]["number"] for log in logs] == [str(number) for number in range(COUNT)]
    assert {log["metadata"]["env"] for log in logs} == {"test"}
    assert all(log["metadata"]["hostname"] for log in logs)


@pytest.mark.parametrize("encoding", ["json", "snappy"])
def test_winston_loki(torpor: LocalTorpor, node: str, encoding: str) -> None:
    service, sent = unique(f"winston-{encoding}"), moments(1_000_000)
    milliseconds = [time // 1_000_000 for time in sent]
    as_json = encoding == "json"
    run(node, "winston.mjs", url=torpor.url("ingest", ""), json=as_json, service=service, times=milliseconds)
    logs = found(torpor, service)
    assert times(logs) == sent
    assert [log["message"] for log in logs] == [f"line {number}" for number in range(COUNT)]
    assert [log["level"] for log in logs[:4]] == ["DEBUG", "INFO", "WARN", "ERROR"]
    assert {log["metadata"]["env"] for log in logs} == {"test"}
    # In protobuf this client leaves it out: so the test knows that it did not fall back to JSON.
    assert [log["metadata"].get("number") for log in logs] == [str(n) if as_json else None for n in range(COUNT)]


def test_the_lock_holds_exact_versions_and_hashes_and_no_place_to_fetch_from() -> None:
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    assert packages.pop("")["dependencies"] == wanted
    for name, package in packages.items():
        assert "integrity" in package and "resolved" not in package, name
