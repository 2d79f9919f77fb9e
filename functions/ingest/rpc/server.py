"""The gRPC server.

Torpor's own LogIngestionService and OpenTelemetry's LogsService, with health and reflection. What comes here goes the
way of what comes by HTTP: the same limits, coalescing and publishing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from functions.common.config import ConfigError
from functions.common.errors import TorporError
from functions.ingest.intake import Intake
from functions.ingest.rpc.services import Export, LogIngestion

_MAX_CALLS = 1000
"""Calls at a time; more are told RESOURCE_EXHAUSTED."""
_WATCH_SECONDS = 1
"""How often who watches the health is told of a change."""
_OPTIONS = (
    # A second server on the port is a mistake to hear of, not a share of the calls.
    ("grpc.so_reuseport", 0),
    # Clients behind balancers ping often, and a peer that is gone is noticed within a minute.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 40_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class Rpc:
    """The server. Its intake is started and stopped by who made it."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def start(self, address: str) -> int:
        """Listen on `address`, host:port, and return the port. Raises ConfigError if that is not possible."""
        options = [*_OPTIONS, ("grpc.max_receive_message_length", self._intake.config.max_grpc_bytes)]
        self._server = grpc.aio.server(options=options, maximum_concurrent_rpcs=_MAX_CALLS)
        services = (LogIngestion(self._intake), Export(self._intake))
        for service in services:
            handler = grpc.method_handlers_generic_handler(service.name, service.methods())
            self._server.add_generic_rpc_handlers((handler,))
        names = [service.name for service in services]
        self._health = _Health(self._intake, ("", *names))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise ConfigError(f"cannot listen on {address} for gRPC: is the port in use?") from None
        await self._server.start()
        return port

    async def stop(self, grace: float) -> None:
        """Take no new calls, and give those under way `grace` seconds to end."""
        self._health.stopping.set()
        await self._server.stop(grace)


class _Health(health_pb2_grpc.HealthServicer):
    """The standard health service. NOT_SERVING as long as Kafka cannot be reached, and once the server is to stop.

    The library's own knows only what it was told last, and its watchers would keep the server from stopping.
    """

    def __init__(self, intake: Intake, names: Collection[str]) -> None:
        self._intake = intake
        self._names = names
        self.stopping = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> HealthCheckResponse:
        """The health of a service, or NOT_FOUND."""
        status = await self._status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> AsyncIterator[HealthCheckResponse]:
        """The health of a service, now and whenever it has changed."""
        told = None
        while True:
            stops = self.stopping.is_set()
            if (status := await self._status(request.service)) != told:
                yield HealthCheckResponse(status=status)
                told = status
            if stops:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), _WATCH_SECONDS)

    async def _status(self, name: str) -> int:
        if name not in self._names:
            return HealthCheckResponse.SERVICE_UNKNOWN
        if self.stopping.is_set():
            return HealthCheckResponse.NOT_SERVING
        try:
            await self._intake.ready()
        except TorporError:
            return HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse.SERVING
