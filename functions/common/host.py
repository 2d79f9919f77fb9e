"""The host: one process serves one function.

The socket listens before anything slow is imported, so a platform that waits for the port, and clients that were
already routed here, lose no time. Then the function starts, and on SIGTERM it drains: no new connections, requests
under way end, and the function stops. The host itself answers /healthz, /readyz and /metrics.
"""

from __future__ import annotations

import dataclasses
import errno
import gc
import importlib
import signal
import socket
import sys
from typing import TYPE_CHECKING, Protocol

from functions.common.config import ConfigError, environment, load, setting
from functions.common.log import configure

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp, Receive, Scope, Send

DRAIN_SECONDS = 25
"""How long requests under way may take after SIGTERM: below Kubernetes' default grace of 30 s."""
KEEP_ALIVE_SECONDS = 80
"""Idle connections stay open longer than the 75 s of common proxies, so that the proxy closes first."""


@dataclasses.dataclass(frozen=True)
class HostConfig:
    """Settings of the process that serves a function."""

    port: int = setting(8080, "Port that a function listens on, when it runs by itself")
    log_level: str = setting(
        "INFO", "Least level of the process's own log: DEBUG, INFO, WARNING or ERROR; under `make run`, WARNING"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"PORT is {self.port}: expected 0 to 65535")
        if self.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"LOG_LEVEL is {self.log_level!r}: expected DEBUG, INFO, WARNING or ERROR")


class Function(Protocol):
    """What the host asks of a function."""

    @property
    def app(self) -> ASGIApp:
        """The application that answers requests."""

    async def start(self) -> None:
        """Prepare to serve. Must not wait for Kafka or ClickHouse: they may come up later."""

    async def ready(self) -> None:
        """Return if what the function needs can be reached; raise TorporError if not."""

    async def stop(self) -> None:
        """Let go of everything, after the last request has ended."""


class Host:
    """The ASGI application around a function."""

    def __init__(self, function: Function) -> None:
        self._function = function

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the host's own paths and pass everything else on."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http" and (answer := _PATHS.get(scope["path"])):
            status, content_type, body = await answer(self._function)
            headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        else:
            await self._function.app(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        from functions.common import metrics

        await self._function.start()
        metrics.READY_TIME.set_to_current_time()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._function.stop()
        await send({"type": "lifespan.shutdown.complete"})


async def _health(function: Function) -> tuple[int, bytes, bytes]:
    return 200, b"text/plain", b"ok\n"


async def _readiness(function: Function) -> tuple[int, bytes, bytes]:
    from functions.common.errors import TorporError

    try:
        await function.ready()
    except TorporError as error:
        return 503, b"text/plain", f"{error}\n".encode()
    return 200, b"text/plain", b"ok\n"


async def _metrics(function: Function) -> tuple[int, bytes, bytes]:
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return 200, CONTENT_TYPE_LATEST.encode(), generate_latest()


_PATHS = {"/healthz": _health, "/readyz": _readiness, "/metrics": _metrics}


def listen(port: int, host: str = "") -> socket.socket:
    """A listening socket on `port`: of `host`, or of all addresses, IPv6 and IPv4."""
    if not host and socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=2048)
    return socket.create_server((host, port), backlog=2048)


def server(function: Function) -> uvicorn.Server:
    """The HTTP server of a function; serve it on a socket made by `listen`."""
    import uvicorn

    config = uvicorn.Config(
        Host(function),
        lifespan="on",
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        backlog=2048,
    )
    return uvicorn.Server(config)


def serve(module: str) -> None:
    """Serve the function that `module` makes by its `new(environment)`, on PORT, until SIGTERM."""
    gc.disable()  # imports make no garbage worth looking for
    for number in (signal.SIGTERM, signal.SIGINT):
        # The server drains first and then raises the signal again: to have been asked to end is no failure.
        signal.signal(number, lambda *_: sys.exit(0))
    env = environment()
    try:
        config = load(HostConfig, env)
        configure(config.log_level)
        with listen(config.port) as sock:
            function: Function = importlib.import_module(module).new(env)
            http = server(function)
            gc.collect()
            gc.freeze()
            gc.enable()
            http.run(sockets=[sock])
    except ConfigError as error:
        sys.exit(f"{module}: {error}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.exit(f"{module}: port {config.port} is in use; set PORT to another")
