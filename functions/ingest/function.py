"""Ingest: logs by HTTP, events to Kafka.

A request is read, unpacked, taken apart into records, normalised into rows and cut into chunks; chunks of requests
that wait together share an event; the answer follows Kafka's acknowledgement of all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator, Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from functions.common import metrics, timestamps
from functions.common.commit import GroupCommit
from functions.common.config import load, setting
from functions.common.errors import BadRequest, MethodNotAllowed, NotFound, Overloaded
from functions.common.event import MAX_DATA_BYTES, MAX_LOGS, Event
from functions.common.framework import application
from functions.common.http import Json, problem, read_body
from functions.common.identity import batch_id
from functions.common.kafka import KafkaConfig, KafkaPublisher, Publisher
from functions.ingest import cloudevents, decode
from functions.ingest.normalise import Chunk, LineError, Normaliser, Outcome

PATH = "/api/v1/ingest"
_KEY = re.compile(r"[\x21-\x7e]{1,255}", re.ASCII)
_WRITERS = 4
"""Events on their way to Kafka at a time; more wait and grow together."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of ingest."""

    kafka: KafkaConfig = dataclasses.field(default_factory=KafkaConfig)
    tenant: str = setting("default", "Tenant that logs are stored and searched under")
    retention_days: int = setting(30, "Days after which logs are deleted; ingest refuses older ones")
    max_request_bytes: int = setting(20 * 1024 * 1024, "Bytes of a request's body, packed and unpacked")
    max_message_bytes: int = setting(256 * 1024, "Bytes of a log's message")
    max_waiting_bytes: int = setting(128 * 1024 * 1024, "Bytes in progress before the answer is 503")

    def __post_init__(self) -> None:
        if self.max_waiting_bytes < 2 * self.max_request_bytes:
            raise ValueError("MAX_WAITING_BYTES is less than a request packed and unpacked: twice MAX_REQUEST_BYTES")


class Answer(msgspec.Struct):
    """The answer to a request: how many records were taken, and which were not and why."""

    accepted: int
    rejected: int
    errors: list[LineError]
    batch: str


class Ingest:
    """The function: one instance a process."""

    def __init__(self, config: Config, publisher: Publisher) -> None:
        self.config = config
        self.publisher = publisher
        self.app = application("ingest", self.respond)
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
        await self.publisher.start()

    async def ready(self) -> None:
        """Return if Kafka is connected."""
        await self.publisher.ready()

    async def stop(self) -> None:
        """Wait for the events under way and disconnect."""
        await self._commit.drain()
        await self.publisher.stop()

    async def respond(self, request: Request) -> Response:
        """Turn every outcome into a response: nothing escapes to the framework."""
        started = time.perf_counter()
        try:
            response = await self._route(request)
        except Exception as error:  # noqa: BLE001  the one place where an error becomes a response
            response = problem(error)
        metrics.INGEST_REQUESTS.labels(response.status_code).inc()
        metrics.INGEST_SECONDS.observe(time.perf_counter() - started)
        return response

    async def _route(self, request: Request) -> Response:
        path = request.url.path
        if path not in (PATH, "/"):
            raise NotFound(f"nothing here; send logs with POST {PATH}")
        if request.method == "POST":
            return await self._ingest(request)
        if request.method == "GET" and path == "/":
            return Json({"function": "ingest", "send": f"POST {PATH}", "ready": "/readyz", "metrics": "/metrics"})
        raise MethodNotAllowed(f"send logs with POST {PATH}", "GET, POST" if path == "/" else "POST")

    async def _ingest(self, request: Request) -> Response:
        headers = request.headers
        kind = decode.media_type(headers.get("content-type", ""))
        key = headers.get("idempotency-key")
        if key is not None and not _KEY.fullmatch(key):
            raise BadRequest("the Idempotency-Key is not 1 to 255 visible ASCII characters")
        limit = self.config.max_request_bytes
        declared = headers.get("content-length", "")
        with self._hold(min(int(declared), limit) if declared.isdecimal() else limit):
            packed = await read_body(request, limit)
            body = decode.inflate(packed, headers.get("content-encoding", ""), limit)
            with self._hold(len(body) if body is not packed else 0):
                if cloudevents.is_cloudevent(headers, kind):
                    records = cloudevents.records(headers, kind, body)
                else:
                    records = decode.records(body, kind)
                return await self._store(records, key)

    @contextlib.contextmanager
    def _hold(self, size: int) -> Iterator[None]:
        """Count `size` bytes as held by requests; raises Overloaded before memory runs out."""
        if self._held and self._held + size > self.config.max_waiting_bytes:
            raise Overloaded("too many bytes in progress; retry later")
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    async def _store(self, records: decode.Numbered, key: str | None) -> Response:
        batch = key or batch_id()
        outcome = Outcome()
        normaliser = Normaliser(
            tenant=self.config.tenant,
            batch=batch,
            repeatable=key is not None,
            now=timestamps.now(),
            retention=self.config.retention_days * timestamps.DAY,
            max_message=self.config.max_message_bytes,
        )
        # Nothing goes to Kafka before the whole request is read: a request that is refused leaves no trace.
        chunks: list[Chunk] = []
        for chunk in normaliser.chunks(records, outcome):
            if chunk.count:
                chunks.append(chunk)
            await asyncio.sleep(0)  # a large request must not keep the others waiting
        # All chunks are admitted, or none: Overloaded, too, leaves no trace.
        await self._commit.add_all(
            [(chunk, len(chunk.data) + 1, chunk.count) for chunk in chunks], key=self.config.tenant
        )
        metrics.INGESTED.labels("accepted").inc(outcome.accepted)
        metrics.INGESTED.labels("rejected").inc(outcome.rejected)
        answer = Answer(outcome.accepted, outcome.rejected, outcome.errors, batch)
        if outcome.accepted:
            return Json(answer)
        return _none_accepted(answer)

    async def _publish(self, chunks: list[Chunk]) -> None:
        event = Event.fresh(self.config.tenant, b"\n".join(chunk.data for chunk in chunks))
        await self.publisher.publish(self.config.kafka.kafka_topic, event.id, event.data, event.kafka_headers())
        metrics.EVENTS.inc()
        metrics.INGESTED_BYTES.inc(len(event.data))


def new(env: Mapping[str, str]) -> Ingest:
    """The function as the environment configures it."""
    config = load(Config, env)
    return Ingest(config, KafkaPublisher(config.kafka))


def _none_accepted(answer: Answer) -> Response:
    first = answer.errors[0] if answer.errors else None
    detail = f"no record was accepted; line {first.line}: {first.error}" if first else "there are no logs in the body"
    body = {"type": "about:blank", "title": "bad request", "status": 400, "detail": detail}
    body |= msgspec.to_builtins(answer)
    return Response(msgspec.json.encode(body), 400, media_type="application/problem+json")
