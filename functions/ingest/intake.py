"""The intake: records of any protocol become rows, rows that wait together share an event, and events go to Kafka.

HTTP and gRPC differ in how a request is read and answered; limits, coalescing and publishing are these.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import Iterator

from functions.common import metrics, timestamps
from functions.common.commit import GroupCommit
from functions.common.config import setting
from functions.common.errors import BadRequest, Overloaded, TooLarge
from functions.common.event import MAX_DATA_BYTES, MAX_LOGS, Event
from functions.common.identity import batch_id
from functions.common.kafka import KafkaConfig, Publisher
from functions.common.tracing import TraceConfig, Tracer
from functions.ingest.normalise import MAX_ERRORS, Chunk, Normaliser, Outcome
from functions.ingest.records import Numbered

_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
MAX_ROWS_BYTES = 256 * 1024 * 1024
"""Bytes of a request's rows. What its records share, each row holds: a small body can grow a thousand times."""
_WRITERS = 4
"""Events on their way to Kafka at a time; more wait and grow together."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of ingest."""

    kafka: KafkaConfig = dataclasses.field(default_factory=KafkaConfig)
    traces: TraceConfig = dataclasses.field(default_factory=TraceConfig)
    tenant: str = setting("default", "Tenant that logs are stored and searched under")
    retention_days: int = setting(30, "Days after which logs are deleted; ingest refuses older ones")
    max_request_bytes: int = setting(20 * 1024 * 1024, "Bytes of a request's body, packed and unpacked")
    max_grpc_bytes: int = setting(4 * 1024 * 1024, "Bytes of a gRPC message, unpacked; other servers' usual limit, too")
    max_message_bytes: int = setting(256 * 1024, "Bytes of a log's message")
    max_waiting_bytes: int = setting(128 * 1024 * 1024, "Bytes in progress before the answer is 503")

    def __post_init__(self) -> None:
        if self.max_waiting_bytes < 2 * self.max_request_bytes:
            raise ValueError("MAX_WAITING_BYTES is less than a request packed and unpacked: twice MAX_REQUEST_BYTES")


class Intake:
    """Takes records in; one instance a process."""

    def __init__(self, config: Config, publisher: Publisher) -> None:
        self.config = config
        self._publisher = publisher
        self._tracer = Tracer(config.traces, "ingest")
        self._held = 0

    async def start(self) -> None:
        """Begin to connect to Kafka."""
        self._commit = GroupCommit(
            self._publish,
            max_size=MAX_DATA_BYTES,
            max_count=MAX_LOGS,
            writers=_WRITERS,
            max_waiting=self.config.max_waiting_bytes,
        )
        await self._publisher.start()
        await self._tracer.start()

    async def ready(self) -> None:
        """Return if Kafka is connected."""
        await self._publisher.ready()

    async def stop(self) -> None:
        """Wait for the events under way and disconnect."""
        await self._commit.drain()
        await self._publisher.stop()
        await self._tracer.stop()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Count `size` bytes as held by requests; raises Overloaded before memory runs out."""
        if self._held and self._held + size > self.config.max_waiting_bytes:
            raise Overloaded("too many bytes in progress; retry later")
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    async def store(
        self, records: Numbered, key: str | None, max_errors: int = MAX_ERRORS, traceparent: str = ""
    ) -> Outcome:
        """Return when Kafka has the good records. Raises TorporError if it has none of them, or may not have them.

        `key` is the client's Idempotency-Key, if it gave one: records of the same key and number are the same log.
        `traceparent` is the client's, if it traces its requests.
        """
        with self._tracer.span("ingest", traceparent) as trace:
            return await self._store(records, key, max_errors, trace)

    async def _store(self, records: Numbered, key: str | None, max_errors: int, trace: str) -> Outcome:
        if key is not None and not _KEY.fullmatch(key):
            raise BadRequest("the Idempotency-Key is not 1 to 255 visible ASCII characters")
        outcome = Outcome(key or batch_id(), max_errors=max_errors)
        normaliser = Normaliser(
            tenant=self.config.tenant,
            batch=outcome.batch,
            repeatable=key is not None,
            now=timestamps.now(),
            retention=self.config.retention_days * timestamps.DAY,
            max_message=self.config.max_message_bytes,
        )
        # Nothing goes to Kafka before the whole request is read: a request that is refused leaves no trace.
        chunks: list[Chunk] = []
        size = 0
        for chunk in normaliser.chunks(records, outcome):
            if chunk.count:
                chunks.append(chunk)
            size += len(chunk.data)
            if size > MAX_ROWS_BYTES:
                raise TooLarge(f"the records have more than {MAX_ROWS_BYTES} bytes as rows; send fewer at a time")
            await asyncio.sleep(0)  # a large request must not keep the others waiting
        # All chunks are admitted, or none: Overloaded, too, leaves no trace.
        await self._commit.add_all(
            [((chunk, trace), len(chunk.data) + 1, chunk.count) for chunk in chunks], key=self.config.tenant
        )
        metrics.INGESTED.labels("accepted").inc(outcome.accepted)
        metrics.INGESTED.labels("rejected").inc(outcome.rejected)
        for reason, count in outcome.reasons.items():
            metrics.REJECTED.labels(reason).inc(count)
        return outcome

    async def _publish(self, waiting: list[tuple[Chunk, str]]) -> None:
        data = b"\n".join(chunk.data for chunk, _ in waiting)
        logs = sum(chunk.count for chunk, _ in waiting)
        with self._tracer.span("publish", *dict.fromkeys(trace for _, trace in waiting), logs=logs) as traceparent:
            event = Event.fresh(self.config.tenant, data, traceparent)
            await self._publisher.publish(self.config.kafka.kafka_topic, event.id, event.data, event.kafka_headers())
        metrics.EVENTS.inc()
        metrics.EVENT_LOGS.observe(logs)
        metrics.INGESTED_BYTES.inc(len(data))
