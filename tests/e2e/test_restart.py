"""Nothing acknowledged is lost when the process ends, however it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import APACHE
from tests.support import clickhouse_front
from tests.support.kafka import free_port
from tests.support.local import ROOT, LocalTorpor

COUNT = """
import sys, chdb
connection = chdb.connect(sys.argv[1])
print(connection.query("SELECT count() FROM torpor.logs").bytes().decode())
"""


def lines(service: str, count: int = 1000) -> bytes:
    now = time.time_ns()
    return b"\n".join(
        json.dumps({"service": service, "timestamp": now + number, "message": f"number {number}"}).encode()
        for number in range(count)
    )


def stored_rows(data: Path) -> int:
    """Rows in the engine's files, read while no process has them open."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(data / "clickhouse")], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return int(done.stdout)


def test_sigkill_between_acknowledgement_and_indexing_loses_and_doubles_nothing(
    fresh: LocalTorpor, tmp_path: Path
) -> None:
    fresh.start()
    # The source has not joined its group yet: what is acknowledged now is in Kafka only.
    accepted = sum(fresh.send(lines("killed"), idempotency_key=f"key-{n}")["accepted"] for n in range(5))
    fresh.kill()
    assert accepted == 5000
    assert stored_rows(tmp_path / "data") < 5000, "everything was indexed before the kill: nothing is proved"
    fresh.start()
    assert fresh.wait_for_total(5000, service="killed") == 5000
    assert fresh.stop() == 0
    fresh.start()
    assert fresh.total(service="killed") == 5000


def test_ctrl_c_under_load_ends_within_seconds_and_loses_nothing_acknowledged(fresh: LocalTorpor) -> None:
    fresh.start()
    acknowledged = 0
    stopping = threading.Event()

    def send() -> None:
        nonlocal acknowledged
        with httpx.Client(trust_env=False) as http:
            while not stopping.is_set():
                try:
                    answer = http.post(
                        fresh.url("ingest", "/api/v1/ingest"),
                        content=lines("interrupted", 100),
                        headers={"content-type": "application/x-ndjson", "idempotency-key": uuid.uuid4().hex},
                    )
                except httpx.TransportError:
                    continue  # nobody listens any more; what was under way has no answer
                if answer.status_code == 200:
                    acknowledged += answer.json()["accepted"]

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(5)
    started = time.monotonic()
    assert fresh.stop() == 0
    took = time.monotonic() - started
    stopping.set()
    sender.join()
    assert took < 15
    fresh.start()
    assert acknowledged > 100
    # What had no answer may be stored too.
    assert acknowledged <= fresh.total(service="interrupted") <= acknowledged + 100
    assert fresh.total(service="interrupted") % 100 == 0


def test_while_clickhouse_is_away_ctrl_c_waits_and_a_second_one_leaves_the_rest_to_the_next_start(
    tmp_path: Path,
) -> None:
    if APACHE:
        pytest.skip("what remains lies in the embedded broker here")
    port = free_port()
    local = LocalTorpor(tmp_path / "data", {"CLICKHOUSE_HOST": "127.0.0.1", "CLICKHOUSE_PORT": str(port)})
    with clickhouse_front.running(tmp_path / "server", port):
        local.start()
        local.send(lines("before", 10))
        assert local.wait_for_total(10, service="before") == 10
    assert local.send(lines("away", 10))["accepted"] == 10
    local.interrupt()
    local.wait_for("storing what was acknowledged", 20)
    time.sleep(1)
    assert local.process is not None and local.process.poll() is None
    local.interrupt()
    assert local.wait() == 1
    with clickhouse_front.running(tmp_path / "server", port):
        local.start()
        assert any("taken up from an earlier run" in line for line in local.output)
        assert local.wait_for_total(10, service="away") == 10
        assert local.total(service="before") == 10
        assert local.stop() == 0


def test_a_port_in_use_is_named_with_the_setting_that_changes_it(fresh: LocalTorpor, torpor: LocalTorpor) -> None:
    fresh.environment["QUERY_PORT"] = str(torpor.ports["query"])
    with pytest.raises(RuntimeError, match=rf"port {torpor.ports['query']} is in use; set QUERY_PORT to another"):
        fresh.start()


def test_an_empty_store_is_given_a_sample_that_the_first_search_shows(tmp_path: Path) -> None:
    if APACHE:
        pytest.skip("the same on any broker")
    local = LocalTorpor(tmp_path / "data", {"SAMPLE": "1"})
    for _ in range(2):
        local.start()
        assert local.total() == 5000
        assert len(local.http.get(local.url("query", "/api/v1/logs/errors")).json()) == 100
        assert local.stop() == 0
