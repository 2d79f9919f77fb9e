"""The functions as separate processes, ClickHouse over HTTP: as a cluster runs them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping

import httpx
import pytest

from tests.e2e.conftest import kafka_settings
from tests.support import clickhouse_front
from tests.support.local import ROOT
from tests.support.processes import FunctionProcess, function
from tests.support.tansu import Tansu


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """A broker, a migrated ClickHouse over HTTP, and the settings that name them."""
    directory = tmp_path_factory.mktemp("processes")
    with kafka_settings(directory / "kafka") as apache, clickhouse_front.running(directory / "clickhouse") as address:
        host, port = address
        named = {"CLICKHOUSE_HOST": host, "CLICKHOUSE_PORT": str(port)}
        done = subprocess.run(
            [sys.executable, "-m", "functions.common.migrate"],
            cwd=ROOT,
            env=named,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "applied 0001_logs.sql" in done.stdout
        if apache:
            yield {**named, **apache}
        else:
            with Tansu() as broker:
                yield {**named, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}


def lines(service: str, count: int) -> bytes:
    now = time.time_ns()
    return b"\n".join(
        json.dumps({"service": service, "timestamp": now + number, "message": f"number {number}"}).encode()
        for number in range(count)
    )


def send(ingest: FunctionProcess, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{ingest.url}/api/v1/ingest",
        content=body,
        headers={"content-type": "application/x-ndjson", **headers},
        trust_env=False,
        timeout=30,
    )


def total(query: FunctionProcess, expected: int, **parameters: str) -> int:
    deadline = time.monotonic() + 30
    while True:
        answer = httpx.get(
            f"{query.url}/api/v1/logs", params={"total": "exact", "limit": 1, **parameters}, trust_env=False
        )
        answer.raise_for_status()
        count: int = answer.json()["total"]
        if count >= expected or time.monotonic() > deadline:
            return count
        time.sleep(0.05)


@pytest.fixture
def source(settings: Mapping[str, str]) -> Iterator[FunctionProcess]:
    """Index, with the KafkaSource stand-in that feeds it."""
    with function("index", settings) as index:
        process = subprocess.Popen(
            [sys.executable, "-m", "functions.local.source", "--sink", f"index={index.url}"],
            cwd=ROOT,
            env={**dict(settings)},
        )
        yield index
        process.terminate()
        process.wait(30)


def test_a_log_travels_through_four_processes_and_counts_once(
    settings: Mapping[str, str], source: FunctionProcess
) -> None:
    with function("ingest", settings) as ingest, function("query", settings) as query:
        for _ in range(3):
            assert send(ingest, lines("processes", 500), **{"idempotency-key": "one"}).status_code == 200
        body = lines("twice", 500)
        for _ in range(2):
            send(ingest, body, **{"idempotency-key": "two"})
        assert total(query, 500, service="twice") == 500
        with function("export", settings) as export:
            url = f"{export.url}/api/v1/logs/export?format=ndjson&service=twice"
            assert len(httpx.get(url, trust_env=False).text.splitlines()) == 500


def test_what_was_acknowledged_before_ingest_was_killed_is_indexed_later_once(settings: Mapping[str, str]) -> None:
    with function("ingest", settings) as ingest:
        for number in range(20):
            assert send(ingest, lines("killed", 100), **{"idempotency-key": f"killed-{number}"}).status_code == 200
        ingest.kill()
    with function("query", settings) as query:
        assert total(query, 0, service="killed") == 0, "index does not run yet"
        with function("index", settings) as index:
            process = subprocess.Popen(
                [sys.executable, "-m", "functions.local.source", "--sink", f"index={index.url}"],
                cwd=ROOT,
                env={**dict(settings)},
            )
            try:
                assert total(query, 2000, service="killed") == 2000
                time.sleep(1)
                assert total(query, 2000, service="killed") == 2000
            finally:
                process.terminate()
                process.wait(30)


def test_sigterm_under_load_answers_every_request_that_was_under_way(settings: Mapping[str, str]) -> None:
    with function("ingest", settings) as ingest:
        broken: list[str] = []
        answered = 0
        stop = threading.Event()

        def work() -> None:
            nonlocal answered
            with httpx.Client(trust_env=False, timeout=30) as http:
                while not stop.is_set():
                    try:
                        answer = http.post(
                            f"{ingest.url}/api/v1/ingest",
                            content=lines("drained", 50),
                            headers={"content-type": "application/x-ndjson"},
                        )
                        answered += 1
                        if answer.status_code != 200:
                            broken.append(answer.text)
                    except httpx.ConnectError:
                        return  # no longer listening: a proxy would have taken another pod
                    except httpx.TransportError as error:
                        broken.append(repr(error))
                        return

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        ingest.terminate()
        assert ingest.wait() == 0
        stop.set()
        for thread in threads:
            thread.join()
        assert answered > 20
        # A request that was written to an idle connection as it closed was not read: a proxy sends it again.
        assert [text for text in broken if "RemoteProtocolError" not in text and "ReadError" not in text] == []


def test_without_kafka_ingest_answers_503_with_retry_after_and_recovers_by_itself(settings: Mapping[str, str]) -> None:
    broker = Tansu()
    named = {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "KAFKA_DELIVERY_TIMEOUT": "2"}
    process = FunctionProcess("ingest", {**settings, **named})
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = send(process, lines("nobody", 1))
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"] == "application/problem+json"
        assert httpx.get(f"{process.url}/readyz", trust_env=False).status_code == 503
        assert httpx.get(f"{process.url}/healthz", trust_env=False).status_code == 200
        with broker:
            deadline = time.monotonic() + 20
            while (answer := send(process, lines("nobody", 1))).status_code != 200:
                assert time.monotonic() < deadline, answer.text
    finally:
        process.kill()


def test_without_clickhouse_a_search_is_a_503_and_never_an_empty_page(settings: Mapping[str, str]) -> None:
    process = FunctionProcess("query", {**settings, "CLICKHOUSE_PORT": "1"})
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                answer = httpx.get(f"{process.url}/api/v1/logs", trust_env=False)
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert answer.status_code == 503
        assert "logs" not in answer.json()
        assert httpx.get(f"{process.url}/health", trust_env=False).json()["clickhouse"]["status"] == "unavailable"
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PORT", "http", "PORT is 'http': expected int"),
        ("RETENTION_DAYS", "a month", "RETENTION_DAYS is 'a month': expected int"),
        ("KAFKA_CREATE_TOPICS", "maybe", "KAFKA_CREATE_TOPICS is 'maybe': expected true or false"),
    ],
)
def test_a_bad_setting_stops_the_start_and_is_named(variable: str, value: str, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "functions.ingest"],
        cwd=ROOT,
        env={variable: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr


def test_a_port_in_use_stops_the_start_and_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "functions.ingest"],
            cwd=ROOT,
            env={"PORT": port},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        f"functions.ingest.function: port {port} is in use; set PORT to another\n",
    )
