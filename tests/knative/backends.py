"""What lies behind the functions: a broker, and a store with logs in it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from functions.common import timestamps
from functions.common.config import load
from functions.common.kafka import KafkaConfig
from functions.common.record import Record, encode
from functions.index.topic import Reader
from tests.support import clickhouse_front
from tests.support.local import ROOT
from tests.support.tansu import Tansu

FEW, MANY = 1000, 150_000
"""Logs of the services `few` and `many`, which are there to be read. Those of `many` fit into no buffer on the way."""


@contextlib.contextmanager
def broker() -> Iterator[dict[str, str]]:
    """The settings for a broker of one's own."""
    with Tansu() as running:
        yield {"KAFKA_BOOTSTRAP_SERVERS": running.bootstrap, "KAFKA_CREATE_TOPICS": "true"}


@contextlib.contextmanager
def store(directory: Path) -> Iterator[dict[str, str]]:
    """The settings for a migrated ClickHouse of one's own, with logs in it."""
    with clickhouse_front.running(directory) as (host, port):
        settings = {"CLICKHOUSE_HOST": host, "CLICKHOUSE_PORT": str(port), "CLICKHOUSE_DATABASE": "torpor"}
        subprocess.run([sys.executable, "-m", "functions.common.migrate"], cwd=ROOT, env=settings, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        now = timestamps.now()
        statement(settings, "INSERT INTO logs FORMAT JSONEachRow", rows("few", FEW, now))
        # Made where they lie, each of 500 bytes; and none at the same moment as those, which would be the same log.
        columns = f"'default', fromUnixTimestamp64Nano({now} - {FEW} - number), 'many', 'INFO', repeat('long ', 80)"
        statement(settings, f"INSERT INTO logs SELECT {columns}, map(), '', '', number FROM numbers({MANY})")
        yield settings


def statement(settings: Mapping[str, str], sql: str, data: bytes = b"") -> str:
    """What ClickHouse answers."""
    url = f"http://{settings['CLICKHOUSE_HOST']}:{settings['CLICKHOUSE_PORT']}/"
    answer = httpx.post(url, params={"query": sql, "database": "torpor"}, content=data, trust_env=False, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.text


def rows(name: str, count: int, now: int) -> bytes:
    """Rows as an event holds them."""
    return b"\n".join(
        encode(Record("default", str(now - number), name, "INFO", f"number {number}", {}, "", "", number))
        for number in range(count)
    )


def topic(settings: Mapping[str, str], service: str) -> list[str]:
    """The messages of a service's logs in the topic."""
    config = load(KafkaConfig, settings)
    events = Reader(config, config.kafka_topic)
    lines = (line for record in events for line in (record.value or b"").splitlines())
    logs = map(json.loads, lines)
    return [log["message"] for log in logs if log["service"] == service]
