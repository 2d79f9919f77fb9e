"""Kafka, the writing side. With kafka_consumer.py the one place that knows Kafka's client.

The producer keeps to what was measured to be safe: no idempotence (the client's idempotent producer can wedge for
ever after one stall of the broker), one request in flight, `acks=all`, and no buffer of its own to grow: callers wait
for the acknowledgement and bound what waits. A duplicate that a retry makes is harmless (see identity.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import kafka
import kafka.admin
import kafka.errors
import kafka.record.util

from functions.common.config import setting
from functions.common.errors import KafkaUnavailable
from functions.common.event import MAX_RECORD_BYTES

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes]]
Partition = tuple[str, int]
"""A topic's name and the number of one of its partitions."""


@dataclasses.dataclass(frozen=True)
class KafkaConfig:
    """How to reach Kafka; security settings pass through to the client."""

    kafka_bootstrap_servers: str = setting("localhost:9092", "Kafka brokers, host:port, separated by commas")
    kafka_topic: str = setting("logs", "Topic of the log events")
    kafka_dead_letter_topic: str = setting("logs-dead-letter", "Topic of lines that ClickHouse refuses")
    kafka_create_topics: bool = setting(True, "Create missing topics at start")
    kafka_partitions: int = setting(12, "Partitions of a created log topic")
    kafka_replication_factor: int = setting(-1, "Replicas of a created topic; -1 is the broker's default")
    kafka_compression: str = setting("lz4", "Compression of records: lz4, zstd, snappy, gzip or none")
    kafka_delivery_timeout: float = setting(10.0, "Seconds to wait for Kafka's acknowledgement before a 503")
    kafka_security_protocol: str = setting("PLAINTEXT", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
    kafka_sasl_mechanism: str = setting("", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")
    kafka_sasl_username: str = setting("", "User for SASL")
    kafka_sasl_password: str = setting("", "Password for SASL")
    kafka_ssl_cafile: str = setting("", "File of the CA that signed the brokers' certificates (PEM)")
    kafka_ssl_certfile: str = setting("", "File of the client's certificate (PEM), for mutual TLS")
    kafka_ssl_keyfile: str = setting("", "File of the client's key (PEM)")

    def connection(self) -> dict[str, Any]:
        """The client's arguments that name brokers and credentials."""
        optional = {
            "sasl_mechanism": self.kafka_sasl_mechanism,
            "sasl_plain_username": self.kafka_sasl_username,
            "sasl_plain_password": self.kafka_sasl_password,
            "ssl_cafile": self.kafka_ssl_cafile,
            "ssl_certfile": self.kafka_ssl_certfile,
            "ssl_keyfile": self.kafka_ssl_keyfile,
        }
        return {
            "bootstrap_servers": self.kafka_bootstrap_servers.split(","),
            "security_protocol": self.kafka_security_protocol,
            "bootstrap_timeout_ms": 5000,
            **{name: value for name, value in optional.items() if value},
        }


class Publisher(Protocol):
    """Where ingest and index write records."""

    async def start(self) -> None:
        """Begin to connect; do not wait for it."""

    async def publish(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        """Return when all in-sync replicas have the record; raise KafkaUnavailable if they do not in time."""

    async def ready(self) -> None:
        """Return if connected; raise KafkaUnavailable if not."""

    async def stop(self) -> None:
        """Send what is under way and disconnect."""


class KafkaPublisher:
    """Publisher to Apache Kafka, or a broker that speaks its protocol.

    Connects in the background and again by itself after an outage. `acknowledged` holds the next offset of every
    (topic, partition) that was written to.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._producer: kafka.KafkaProducer | None = None
        self._connecting: asyncio.Future[kafka.KafkaProducer] | None = None
        # send() may block while it fetches metadata, so it runs beside the loop.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="kafka-send")
        self._timeouts = 0
        self.acknowledged: dict[Partition, int] = {}

    async def start(self) -> None:
        """Begin to connect; do not wait for it."""
        _require_fast_crc()
        self._connect()

    async def ready(self) -> None:
        """Return if connected; raise KafkaUnavailable if not."""
        await self._connected(timeout=1.0)

    async def publish(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        """Return when all in-sync replicas have the record; raise KafkaUnavailable if they do not in time."""
        timeout = self._config.kafka_delivery_timeout
        producer = await self._connected(timeout)
        loop = asyncio.get_running_loop()
        acknowledged: asyncio.Future[Any] = loop.create_future()

        def settle(method: Callable[[Any], None]) -> Callable[[Any], None]:
            def in_loop(result: Any) -> None:
                if not acknowledged.done():  # the caller may have gone
                    method(result)

            def on_network_thread(result: Any) -> None:
                loop.call_soon_threadsafe(in_loop, result)

            return on_network_thread

        def send() -> None:
            record = producer.send(topic, key=key.encode(), value=value, headers=headers)
            record.add_callback(settle(acknowledged.set_result))
            record.add_errback(settle(acknowledged.set_exception))

        try:
            await loop.run_in_executor(self._threads, send)
            # The client keeps its own, shorter, time; this one is for a client that does not.
            record = await asyncio.wait_for(acknowledged, timeout + 5)
        except (kafka.errors.KafkaError, TimeoutError) as error:
            self._note_failure(producer, error)
            raise KafkaUnavailable(f"Kafka did not acknowledge: {type(error).__name__}") from error
        self._timeouts = 0
        place = topic, record.partition
        self.acknowledged[place] = max(self.acknowledged.get(place, 0), record.offset + 1)

    async def stop(self) -> None:
        """Send what is under way and disconnect."""
        if self._connecting and not self._connecting.done():
            await asyncio.wait([self._connecting], timeout=6)
        if self._producer:
            await asyncio.to_thread(_close, self._producer)
            self._producer = None
        self._threads.shutdown(wait=False)

    def _connect(self) -> asyncio.Future[kafka.KafkaProducer]:
        if self._connecting is None:
            loop = asyncio.get_running_loop()
            self._connecting = loop.run_in_executor(None, self._build)
            self._connecting.add_done_callback(self._connection_tried)
        return self._connecting

    def _connection_tried(self, attempt: asyncio.Future[kafka.KafkaProducer]) -> None:
        self._connecting = None
        if not attempt.cancelled() and (error := attempt.exception()):
            log.warning("cannot connect to kafka", extra={"error": str(error)})
        elif not attempt.cancelled():
            self._producer = attempt.result()

    async def _connected(self, timeout: float) -> kafka.KafkaProducer:
        if self._producer:
            return self._producer
        try:
            return await asyncio.wait_for(asyncio.shield(self._connect()), timeout)
        except (kafka.errors.KafkaError, TimeoutError, OSError) as error:
            raise KafkaUnavailable("no connection to Kafka") from error

    def _build(self) -> kafka.KafkaProducer:
        require_reachable(self._config)
        if self._config.kafka_create_topics:
            create_topics(self._config)
        timeout = round(self._config.kafka_delivery_timeout * 1000)
        return kafka.KafkaProducer(
            **self._config.connection(),
            acks="all",
            enable_idempotence=False,
            max_in_flight_requests_per_connection=1,
            compression_type=None if self._config.kafka_compression == "none" else self._config.kafka_compression,
            linger_ms=0,
            batch_size=256 * 1024,
            max_request_size=MAX_RECORD_BYTES,
            delivery_timeout_ms=timeout,
            request_timeout_ms=max(timeout // 2, 1000),
            max_block_ms=timeout,
        )

    def _note_failure(self, producer: kafka.KafkaProducer, error: Exception) -> None:
        self._timeouts += 1
        log.warning("kafka did not acknowledge", extra={"error": str(error), "in_a_row": self._timeouts})
        # A client that fails again and again may be stuck for good: begin anew.
        if self._timeouts >= 3 and self._producer is producer:
            self._timeouts = 0
            self._producer = None
            asyncio.get_running_loop().run_in_executor(None, _close, producer)


def require_reachable(config: KafkaConfig) -> None:
    """Raise the last broker's OSError if none of the brokers takes a connection.

    To be asked before a client is made: one that finds no broker leaves a thread and sockets behind.
    """
    refusal = OSError("no brokers")
    for server in config.kafka_bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":") if ":" in server else (server.strip(), "", "9092")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError as error:
            refusal = error
        else:
            return
    raise refusal


def create_topics(config: KafkaConfig) -> None:
    """Create the topics of logs and dead letters if they are missing. Raises KafkaError if Kafka cannot be reached."""
    admin = kafka.KafkaAdminClient(**config.connection())
    try:
        wanted = {config.kafka_topic: config.kafka_partitions, config.kafka_dead_letter_topic: 1}
        missing = set(wanted) - set(admin.list_topics())
        for name in sorted(missing):
            topic = kafka.admin.NewTopic(
                name,
                num_partitions=wanted[name],
                replication_factor=config.kafka_replication_factor,
                topic_configs={"max.message.bytes": str(MAX_RECORD_BYTES)},
            )
            try:
                admin.create_topics([topic])
            except kafka.errors.TopicAlreadyExistsError:
                continue  # another pod was faster
            log.info("created topic", extra={"topic": name, "partitions": wanted[name]})
    finally:
        admin.close()


def _close(producer: kafka.KafkaProducer) -> None:
    try:
        producer.flush(timeout=5)
        producer.close(timeout=5)
    except kafka.errors.KafkaError as error:
        log.warning("kafka producer did not close", extra={"error": str(error)})


def _require_fast_crc() -> None:
    # Without the crc32c package the client computes checksums in Python: 50 times slower on large records.
    if kafka.record.util.crc32c_c is None:
        raise RuntimeError("the package crc32c is missing: install kafka-python[crc32c]")
