"""The host: its own paths, the function's life, and a real server on loopback."""

import asyncio
import socket
import sys
import types
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from functions.common import host, metrics
from functions.common.config import ConfigError
from functions.common.errors import KafkaUnavailable, TorporError
from functions.common.host import DRAIN_SECONDS, KEEP_ALIVE_SECONDS, Host, server


class Probe:
    """A function that remembers what the host asks of it."""

    def __init__(self) -> None:
        self.life: list[str] = []
        self.failure: TorporError | None = None
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.life.append(f"request {scope['path']}")
        if scope["path"] == "/slow":
            self.asked.set()
            await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})
        self.life.append(f"answer {scope['path']}")

    async def start(self) -> None:
        self.life.append("start")

    async def ready(self) -> None:
        if self.failure:
            raise self.failure

    async def stop(self) -> None:
        self.life.append("stop")


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
async def client(probe: Probe) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=Host(probe))
    async with httpx.AsyncClient(transport=transport, base_url="http://function") as client:
        yield client


async def test_health_says_that_the_process_lives(client: httpx.AsyncClient, probe: Probe) -> None:
    probe.failure = KafkaUnavailable("no connection to Kafka")
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_readiness_asks_the_function(client: httpx.AsyncClient, probe: Probe) -> None:
    assert (await client.get("/readyz")).status_code == 200
    probe.failure = KafkaUnavailable("no connection to Kafka")
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "no connection to Kafka\n")


async def test_metrics_are_in_prometheus_text(client: httpx.AsyncClient) -> None:
    metrics.INGESTED.labels("accepted")
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'torpor_ingest_logs_total{outcome="accepted"}' in answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_all_else_goes_to_the_function(client: httpx.AsyncClient, probe: Probe) -> None:
    assert (await client.post("/healthz/other")).text == "done"
    assert probe.life == ["request /healthz/other", "answer /healthz/other"]


async def test_the_function_starts_before_and_stops_after_the_server(probe: Probe) -> None:
    sent: list[Message] = []
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(events)

    async def send(message: Message) -> None:
        sent.append(message)
        probe.life.append(message["type"])

    await Host(probe)({"type": "lifespan"}, receive, send)
    assert probe.life == ["start", "lifespan.startup.complete", "stop", "lifespan.shutdown.complete"]


def test_the_proxy_closes_idle_connections_first_and_kubernetes_waits_for_the_drain() -> None:
    config = server(Probe()).config
    assert config.timeout_keep_alive == KEEP_ALIVE_SECONDS > 75
    assert config.timeout_graceful_shutdown == DRAIN_SECONDS < 30


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `serve` does, in order, with a server that returns at once and without changing this process."""
    done: list[str] = []
    collector = {name: lambda name=name: done.append(name) for name in ("disable", "collect", "freeze", "enable")}
    monkeypatch.setattr(host, "gc", SimpleNamespace(**collector))
    monkeypatch.setattr(host, "configure", lambda level: done.append(f"log {level}"))
    real_listen = host.listen

    def listen_there(port: int) -> socket.socket:
        done.append(f"listen {port}")
        return real_listen(0, "127.0.0.1")

    monkeypatch.setattr(host, "listen", listen_there)
    running = SimpleNamespace(run=lambda sockets: done.append(f"run on {len(sockets)} socket"))
    monkeypatch.setattr(host, "server", lambda function: running)
    return done


def module(monkeypatch: pytest.MonkeyPatch, steps: list[str], env: dict[str, str], fault: str = "") -> str:
    """The name of a module whose `new` makes a Probe, in a process with this environment."""

    def new(env: dict[str, str]) -> Probe:
        steps.append("new")
        if fault:
            raise ConfigError(fault)
        return Probe()

    made: Any = types.ModuleType("torpor_test_function")
    made.new = new
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(host, "environment", lambda: env)
    return str(made.__name__)


def test_the_socket_listens_before_the_function_is_made(monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    host.serve(module(monkeypatch, steps, {"PORT": "8123", "LOG_LEVEL": "WARNING"}))
    expected = ["disable", "log WARNING", "listen 8123", "new", "collect", "freeze", "enable", "run on 1 socket"]
    assert steps == expected


def test_port_and_level_have_defaults(monkeypatch: pytest.MonkeyPatch, steps: list[str]) -> None:
    host.serve(module(monkeypatch, steps, {"PORT": ""}))
    assert {"listen 8080", "log INFO"} <= set(steps)


@pytest.mark.parametrize("env", [{"PORT": "x"}, {"PORT": "-1"}, {"PORT": "65536"}, {"LOG_LEVEL": "loud"}], ids=str)
def test_a_wrong_setting_of_the_host_ends_the_process_with_its_name(
    monkeypatch: pytest.MonkeyPatch, steps: list[str], env: dict[str, str]
) -> None:
    with pytest.raises(SystemExit, match=next(iter(env))):
        host.serve(module(monkeypatch, steps, env))
    assert "new" not in steps


def test_a_wrong_setting_of_the_function_ends_the_process_with_its_name(
    monkeypatch: pytest.MonkeyPatch, steps: list[str]
) -> None:
    with pytest.raises(SystemExit, match=r"torpor_test_function: TENANT is"):
        host.serve(module(monkeypatch, steps, {}, fault="TENANT is ''"))
    assert "run on 1 socket" not in steps
