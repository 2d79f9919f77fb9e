"""The publisher and the database that unit tests use behave as the real ones do, where tests rely on it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from functions.common.clickhouse import ClickHouse
from functions.common.errors import BadRows, ClickHouseUnavailable, KafkaUnavailable
from functions.common.event import Event
from functions.common.kafka import KafkaConfig, KafkaPublisher, Publisher
from functions.common.kafka_consumer import consumer
from functions.common.record import TABLE
from tests.support.engine import fresh_database
from tests.support.memory import MemoryClickHouse, MemoryPublisher
from tests.support.tansu import Tansu

Read = Callable[[], list[tuple[str, bytes, list[tuple[str, bytes]]]]]


def read_all(broker: Tansu) -> list[tuple[str, bytes, list[tuple[str, bytes]]]]:
    config = KafkaConfig(kafka_bootstrap_servers=broker.bootstrap)
    reader = consumer(
        config, ["logs"], "stand-ins", auto_offset_reset="earliest", session_timeout_ms=2000, heartbeat_interval_ms=500
    )
    records = []
    for _ in range(50):
        records += [record for some in reader.poll(timeout_ms=200).values() for record in some]
        if records:
            break
    reader.close()
    return [(record.key.decode(), record.value, list(record.headers)) for record in records]


@pytest.fixture(params=["memory", "broker"])
async def publisher(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Publisher, Read]]:
    if request.param == "memory":
        memory = MemoryPublisher()
        yield memory, lambda: [(key, value, headers) for _, key, value, headers in memory.records]
        return
    with Tansu() as broker:
        real = KafkaPublisher(KafkaConfig(kafka_bootstrap_servers=broker.bootstrap))
        await real.start()
        yield real, lambda: read_all(broker)
        await real.stop()


async def test_what_is_published_can_be_read_with_its_key_and_headers(publisher: tuple[Publisher, Read]) -> None:
    target, read = publisher
    event = Event.fresh("tenant", b"one\ntwo")
    headers = event.kafka_headers()
    await target.ready()
    await target.publish("logs", event.id, event.data, headers)
    assert await asyncio.to_thread(read) == [(event.id, b"one\ntwo", headers)]


@pytest.fixture(params=["memory", "broker"])
async def without_kafka(request: pytest.FixtureRequest) -> AsyncIterator[Publisher]:
    if request.param == "memory":
        memory = MemoryPublisher()
        memory.failure = KafkaUnavailable("no connection to Kafka")
        yield memory
        return
    real = KafkaPublisher(KafkaConfig(kafka_bootstrap_servers="127.0.0.1:1", kafka_delivery_timeout=0.5))
    await real.start()
    yield real
    await real.stop()


async def test_without_kafka_nothing_is_published_and_nothing_is_ready(without_kafka: Publisher) -> None:
    with pytest.raises(KafkaUnavailable):
        await without_kafka.publish("logs", "key", b"value", [])
    with pytest.raises(KafkaUnavailable):
        await without_kafka.ready()


class Refusing(MemoryClickHouse):
    """Refuses what is no JSON object, as a test would have it do."""

    def refuse(self, rows: bytes) -> None:
        if any(not line.startswith(b"{") for line in rows.split(b"\n")):
            raise BadRows("no object", 26)


@pytest.fixture(params=["memory", "engine"])
async def clickhouse(request: pytest.FixtureRequest) -> AsyncIterator[ClickHouse]:
    if request.param == "memory":
        yield Refusing()
        return
    db = await fresh_database(f"stand_ins_{uuid.uuid4().hex}")
    yield db
    await db.close()


async def test_rows_that_are_refused_raise_bad_rows_with_a_code(clickhouse: ClickHouse) -> None:
    with pytest.raises(BadRows) as refused:
        await clickhouse.insert(TABLE, b"nonsense")
    assert refused.value.code
    assert str(refused.value)


async def test_a_database_answers_a_ping_with_its_version(clickhouse: ClickHouse) -> None:
    assert (await clickhouse.ping()).count(".") == 3


@pytest.mark.parametrize("memory", [True, False])
async def test_a_database_that_does_not_answer_is_unavailable(memory: bool) -> None:
    from functions.common.clickhouse import ClickHouseConfig

    db: ClickHouse = MemoryClickHouse()
    if isinstance(db, MemoryClickHouse):
        db.failure = ClickHouseUnavailable("ClickHouse does not answer")
    if not memory:
        db = ClickHouse.server(ClickHouseConfig(clickhouse_host="127.0.0.1", clickhouse_port=1))
    for call in (db.ping(), db.insert(TABLE, b"{}"), db.select("SELECT 1")):
        with pytest.raises(ClickHouseUnavailable, match="ClickHouse does not answer"):
            await call
    await db.close()
