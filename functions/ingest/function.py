"""Ingest over HTTP: logs in, events to Kafka.

A request is read, unpacked and taken apart into records by the protocol of its path; the answer follows Kafka's
acknowledgement of all of them.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from functions.common import metrics
from functions.common.config import load
from functions.common.errors import MethodNotAllowed, NotFound, TorporError
from functions.common.framework import application
from functions.common.http import problem, read_body
from functions.common.kafka import KafkaPublisher, Publisher
from functions.ingest.decode import inflate
from functions.ingest.dialects.dialect import Dialect
from functions.ingest.intake import Config, Intake

PATH = "/api/v1/ingest"
# Which module of dialects/ reads what is posted where. It is imported with its first request: a cold start is short.
ROUTES = {
    "/": "own",
    PATH: "own",
    "/v1/logs": "otlp",
    "/loki/api/v1/push": "loki",
    "/_bulk": "elasticsearch",
    "/{index}/_bulk": "elasticsearch",
    "/services/collector": "splunk",
    "/services/collector/event": "splunk",
    "/services/collector/event/1.0": "splunk",
    "/services/collector/raw": "splunk",
    "/services/collector/raw/1.0": "splunk",
    "/api/v1/syslog": "syslog",
}
HEALTH = ("/services/collector/health", "/services/collector/health/1.0")
_INDEX_BULK = re.compile("/.+/_bulk")  # a name with a date in it may hold a slash
_WHAT: dict[str, object] = {"function": "ingest", "send": f"POST {PATH}", "ready": "/readyz", "metrics": "/metrics"}


class Ingest:
    """The function: one instance a process."""

    def __init__(self, config: Config, publisher: Publisher) -> None:
        self.intake = Intake(config, publisher)
        self.app = application("ingest", self.respond)

    async def start(self) -> None:
        """Begin to connect to Kafka."""
        await self.intake.start()

    async def ready(self) -> None:
        """Return if Kafka is connected."""
        await self.intake.ready()

    async def stop(self) -> None:
        """Wait for the events under way and disconnect."""
        await self.intake.stop()

    async def respond(self, request: Request) -> Response:
        """Turn every outcome into a response: nothing escapes to the framework."""
        started = time.perf_counter()
        protocol = "none"
        try:
            if request.method in ("GET", "HEAD"):
                response = await self._look(request.url.path)
            else:
                dialect = _dialect(request)
                protocol = dialect.name
                response = await self._ingest(dialect, request)
        except Exception as error:  # noqa: BLE001  the one place where an error becomes a response
            response = problem(error)
        metrics.INGEST_REQUESTS.labels(protocol, response.status_code).inc()
        metrics.INGEST_SECONDS.observe(time.perf_counter() - started)
        return response

    async def _look(self, path: str) -> Response:
        if path == "/":
            from functions.ingest.dialects.elasticsearch import handshake

            return handshake(_WHAT)
        if path in HEALTH:
            from functions.ingest.dialects.splunk import health

            return health(await self._is_ready())
        raise _wrong(path)

    async def _is_ready(self) -> bool:
        try:
            await self.intake.ready()
        except TorporError:
            return False
        return True

    async def _ingest(self, dialect: Dialect, request: Request) -> Response:
        headers, limit = request.headers, self.intake.config.max_request_bytes
        declared = headers.get("content-length", "")
        try:
            with self.intake.hold(min(int(declared), limit) if declared.isdecimal() else limit):
                packed = await read_body(request, limit)
                body = inflate(packed, headers.get("content-encoding") or dialect.encoding, limit)
                with self.intake.hold(len(body) if body is not packed else 0):
                    records, trace = dialect.records(body), headers.get("traceparent", "")
                    key = headers.get("idempotency-key")
                    outcome = await self.intake.store(records, key, dialect.max_errors, trace)
        except Exception as error:  # noqa: BLE001  each protocol has its own way to say what went wrong
            return dialect.problem(error)
        return dialect.answer(outcome)


def _dialect(request: Request) -> Dialect:
    path = request.url.path
    name = ROUTES.get(path, "elasticsearch" if _INDEX_BULK.fullmatch(path) else "")
    if not name or (request.method != "POST" and not (request.method == "PUT" and name == "elasticsearch")):
        raise _wrong(path)
    dialect: Dialect = importlib.import_module(f"functions.ingest.dialects.{name}").new(request)
    return dialect


def _wrong(path: str) -> NotFound | MethodNotAllowed:
    """The error for a path, or for its method if there is something at the path."""
    posts = path in ROUTES or _INDEX_BULK.fullmatch(path)
    looks = path == "/" or path in HEALTH
    if not posts and not looks:
        return NotFound(f"nothing here; send logs with POST {PATH}")
    allowed = ["GET"] * looks + ["POST"] * bool(posts) + ["PUT"] * path.endswith("/_bulk")
    return MethodNotAllowed(f"send logs with POST {path if posts else PATH}", ", ".join(allowed))


def new(env: Mapping[str, str]) -> Ingest:
    """The function as the environment configures it."""
    config = load(Config, env)
    return Ingest(config, KafkaPublisher(config.kafka))
