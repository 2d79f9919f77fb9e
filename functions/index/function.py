"""Index: events into ClickHouse.

The bytes of an event go into the table as they are. Events that wait together are one insert. Only when ClickHouse
refuses an insert are events looked at one by one, and lines (see salvage.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from functions.common import metrics, timestamps
from functions.common.clickhouse import ClickHouse, ClickHouseConfig
from functions.common.commit import GroupCommit
from functions.common.config import load, setting
from functions.common.errors import BadRows, MethodNotAllowed, TorporError
from functions.common.event import MAX_RECORD_BYTES, Event
from functions.common.framework import application
from functions.common.http import Json, problem, read_body
from functions.common.kafka import KafkaConfig, KafkaPublisher, Publisher
from functions.common.record import TABLE
from functions.common.rollup import settle
from functions.common.tracing import TraceConfig, Tracer
from functions.index.salvage import salvage

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of index."""

    kafka: KafkaConfig = dataclasses.field(default_factory=KafkaConfig)
    clickhouse: ClickHouseConfig = dataclasses.field(default_factory=ClickHouseConfig)
    traces: TraceConfig = dataclasses.field(default_factory=TraceConfig)
    max_insert_bytes: int = setting(64 * 1024 * 1024, "Bytes of an insert; one event may be larger")
    max_waiting_bytes: int = setting(128 * 1024 * 1024, "Bytes in progress before the answer is 503")
    rollup_seconds: int = setting(60, "Seconds between makings of rollups while logs come in; 0 is never")


class Index:
    """The function: one instance a process."""

    def __init__(self, config: Config, clickhouse: ClickHouse, publisher: Publisher) -> None:
        self.config = config
        self.clickhouse = clickhouse
        self.publisher = publisher
        self.app = application("index", self.respond)
        self._tracer = Tracer(config.traces, "index")
        self._inserted = False

    async def start(self) -> None:
        """Begin to connect."""
        self._commit = GroupCommit(
            self._insert,
            max_size=self.config.max_insert_bytes,
            max_count=self.config.max_insert_bytes,  # rows are bounded by their bytes
            writers=1,
            max_waiting=self.config.max_waiting_bytes,
        )
        self._rollups = asyncio.create_task(self._roll_up())
        await self.publisher.start()
        await self._tracer.start()

    async def ready(self) -> None:
        """Return if ClickHouse answers."""
        await self.clickhouse.ping()

    async def stop(self) -> None:
        """Wait for the inserts under way and disconnect."""
        self._rollups.cancel()
        await asyncio.wait([self._rollups])
        await self._commit.drain()
        await self.publisher.stop()
        await self.clickhouse.close()
        await self._tracer.stop()

    async def respond(self, request: Request) -> Response:
        """Turn every outcome into a response: nothing escapes to the framework."""
        try:
            response = await self._route(request)
        except Exception as error:  # noqa: BLE001  the one place where an error becomes a response
            response = problem(error)
        metrics.INDEX_REQUESTS.labels(response.status_code).inc()
        return response

    async def _route(self, request: Request) -> Response:
        if request.method == "GET" and request.url.path == "/":
            return Json({"function": "index", "ready": "/readyz", "metrics": "/metrics"})
        if request.method != "POST":
            raise MethodNotAllowed("KafkaSource posts events here", "GET, POST" if request.url.path == "/" else "POST")
        event = Event.from_http(request.headers, await read_body(request, MAX_RECORD_BYTES))
        try:
            await self._commit.add(event, size=len(event.data) + 1, count=1)
        except BadRows:
            await salvage(event, self.clickhouse, self.publisher, self.config.kafka.kafka_dead_letter_topic)
        return Response(status_code=204)

    async def _insert(self, events: list[Event]) -> None:
        started = time.perf_counter()
        # A token serves only if the same event comes alone again; FINAL is what makes counts right.
        token = events[0].id if len(events) == 1 else ""
        data = b"\n".join(event.data for event in events)
        try:
            traces = dict.fromkeys(event.traceparent for event in events if event.traceparent)
            with self._tracer.span("insert", *traces, events=len(events)):
                await self.clickhouse.insert(TABLE, data, token)
        except TorporError:
            metrics.FAILED_INSERTS.inc()
            raise
        self._inserted = True
        now = timestamps.now()
        for event in events:
            if event.time:
                metrics.SEARCHABLE_SECONDS.observe(max(0, now - event.time) / timestamps.NANOSECONDS)
        metrics.INSERTS.inc()
        metrics.INSERT_EVENTS.observe(len(events))
        metrics.INSERTED_BYTES.inc(len(data))
        metrics.INSERT_SECONDS.observe(time.perf_counter() - started)

    async def _roll_up(self) -> None:
        while self.config.rollup_seconds:
            await asyncio.sleep(self.config.rollup_seconds)
            # Nothing runs when nothing happens: what is not rolled up is counted from the logs.
            if self._inserted:
                self._inserted = False
                try:
                    metrics.ROLLUPS.inc(await settle(self.clickhouse, timestamps.now()))
                except Exception as error:  # noqa: BLE001  counts come from the logs meanwhile; try again in a while
                    log.warning("rollups are not made", extra={"error": str(error)})


def new(env: Mapping[str, str]) -> Index:
    """The function as the environment configures it."""
    config = load(Config, env)
    return Index(config, ClickHouse.server(config.clickhouse), KafkaPublisher(config.kafka))
