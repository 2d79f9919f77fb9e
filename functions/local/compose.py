"""The composition: four functions, the engine, the broker and the KafkaSource stand-in in one process.

The functions are the ones that a cluster runs, each on a port of its own; only what lies around them differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from functions.common import host, timestamps
from functions.common.clickhouse import ClickHouse, ClickHouseConfig
from functions.common.config import ConfigError, load, setting
from functions.common.event import CONTENT_TYPE
from functions.common.kafka import KafkaConfig, KafkaPublisher
from functions.common.migrate import SchemaConfig, migrate
from functions.common.record import TABLE
from functions.export import function as export
from functions.export.function import Export
from functions.index import function as index
from functions.index.function import Index
from functions.ingest import function as ingest
from functions.ingest.function import Ingest
from functions.ingest.intake import Config as IngestConfig
from functions.ingest.rpc.server import Rpc
from functions.local.broker import Broker
from functions.local.generate import Generator
from functions.local.manifests import read_manifests
from functions.local.source import KafkaSource
from functions.query import function as query
from functions.query.function import Query

if TYPE_CHECKING:
    import uvicorn

KAFKA_SOURCES = Path(__file__).parents[2] / "kafka-sources"
_SAMPLE_LOGS = 5_000
_SAMPLE_BATCH = 1_000
_SAMPLE_RANGE = timestamps.DAY * 23 // 24
"""A little less than a search looks back by default, so that it shows them all for a while."""
_GRACE_SECONDS = 3
"""How long downloads and searches may go on after Ctrl-C."""


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """Settings of the one-command mode."""

    ingest_port: int = setting(8081, "Port of ingest")
    index_port: int = setting(8082, "Port of index")
    query_port: int = setting(8083, "Port of query")
    export_port: int = setting(8084, "Port of export")
    grpc_port: int = setting(50051, "Port of ingest's gRPC server")
    kafka_port: int = setting(9092, "Port of the embedded broker")
    data_dir: str = setting("data", "Folder of the embedded engine and broker")
    sample: bool = setting(True, "Load generated logs into an empty store")

    def ports(self) -> dict[str, int]:
        """The HTTP port of each function."""
        return {name: getattr(self, f"{name}_port") for name in ("ingest", "index", "query", "export")}


class Local:
    """Everything in one process. `say` is told, a line each, what is being done."""

    def __init__(self, env: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._say = say
        self._env = dict(env)
        self.config = load(LocalConfig, env)
        self.schema = load(SchemaConfig, env)
        self.clickhouse = load(ClickHouseConfig, env)
        self.data = Path(self.config.data_dir).absolute()
        self.embedded_clickhouse = not env.get("CLICKHOUSE_HOST")
        own = not env.get("KAFKA_BOOTSTRAP_SERVERS")
        self.broker = Broker(self.data / "broker", self.config.kafka_port) if own else None
        self._servers: dict[str, tuple[uvicorn.Server, asyncio.Task[None]]] = {}
        self._cleanup = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Bring everything up; return when logs can be sent, and the sample, if there is one, can be found."""
        self._take_data()
        sockets = {name: _listen(name, port) for name, port in self.config.ports().items()}
        applied = await migrate(self._open, self.clickhouse.clickhouse_database, self.schema)
        self._say("schema: " + (f"applied {', '.join(applied)}" if applied else "up to date"))
        if self.broker:
            await self.broker.start()
            self._env["KAFKA_BOOTSTRAP_SERVERS"] = self.broker.bootstrap
            self._say("broker: " + ("taken up from an earlier run" if self.broker.taken_up else "started"))
        kafka = load(KafkaConfig, self._env)
        self._to_kafka = KafkaPublisher(kafka)
        dead_letters = KafkaPublisher(kafka)
        taking = Ingest(load(IngestConfig, self._env), self._to_kafka)
        functions: dict[str, host.Function] = {"ingest": taking, **self._others(dead_letters)}
        for name, function in functions.items():
            await self._serve(name, function, sockets[name])
        self._rpc = Rpc(taking.intake)
        await self._rpc.start(f"127.0.0.1:{self.config.grpc_port}")
        self._cleanup.push_async_callback(self._rpc.stop, _GRACE_SECONDS)
        manifests = read_manifests(KAFKA_SOURCES)
        services = {"index": f"http://127.0.0.1:{self.config.index_port}"}
        self._source = KafkaSource(kafka, manifests.source, services, dead_letters, manifests.sink_topics)
        self._cleanup.push_async_callback(self._source.stop)
        await self._source.start()
        if self.config.sample and await self._is_empty():
            await self._load_sample()

    async def stop(self, hurry: asyncio.Event) -> bool:
        """Take in nothing more, store what was acknowledged, and end. Return whether all of it is stored.

        Waits for ClickHouse as long as it takes, unless `hurry` is set: then the rest stays in Kafka, and an embedded
        broker is left running, for the next start.
        """
        await self._rpc.stop(_GRACE_SECONDS)
        await self._stop_server("ingest")
        stored = await self._drained(hurry)
        await self._cleanup.aclose()
        if self.broker and stored:
            await self.broker.stop()
        return stored

    async def abandon(self) -> None:
        """End after a start that failed midway. A broker that was left running by an earlier run is left again."""
        await self._cleanup.aclose()
        if self.broker and self.broker.pid and not self.broker.taken_up:
            await self.broker.stop()

    def _take_data(self) -> None:
        """Keep every other Torpor off this one's data, which the engine and the broker could not share."""
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            lock = self._cleanup.enter_context((self.data / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"DATA_DIR {self.data} is used by another Torpor; stop it or set DATA_DIR") from None
        except OSError as error:
            raise ConfigError(f"DATA_DIR {self.data} cannot be used: {error.strerror}") from None

    def _open(self, database: str) -> ClickHouse:
        if self.embedded_clickhouse:
            return ClickHouse.embedded(self.data / "clickhouse", database)
        return ClickHouse.server(dataclasses.replace(self.clickhouse, clickhouse_database=database))

    def _others(self, dead_letters: KafkaPublisher) -> dict[str, host.Function]:
        database = self.clickhouse.clickhouse_database
        return {
            "index": Index(load(index.Config, self._env), self._open(database), dead_letters),
            "query": Query(load(query.Config, self._env), self._open(database)),
            "export": Export(load(export.Config, self._env), self._open(database)),
        }

    async def _serve(self, name: str, function: host.Function, sock: socket.socket) -> None:
        http = host.server(function)
        # The command hears signals, for all servers at once.
        http.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]  # a stand-in for a method
        http.config.timeout_graceful_shutdown = _GRACE_SECONDS
        task = asyncio.create_task(http.serve(sockets=[sock]))
        self._servers[name] = (http, task)
        self._cleanup.push_async_callback(self._stop_server, name)
        while not http.started:
            if task.done():
                raise RuntimeError(f"{name} does not start") from task.exception()
            await asyncio.sleep(0.005)

    async def _stop_server(self, name: str) -> None:
        http, task = self._servers[name]
        http.should_exit = True
        await task

    async def _drained(self, hurry: asyncio.Event) -> bool:
        acknowledged = self._to_kafka.acknowledged
        if await self._source.drained(acknowledged, timeout=2):
            return True
        self._say("storing what was acknowledged; Ctrl-C again to leave it to the next start")
        while not hurry.is_set():
            if await self._source.drained(acknowledged, timeout=0.5):
                return True
        return False

    async def _is_empty(self) -> bool:
        db = self._open(self.clickhouse.clickhouse_database)
        try:
            return not await db.select(f"SELECT 1 FROM {TABLE} LIMIT 1")
        finally:
            await db.close()

    async def _load_sample(self) -> None:
        """Send generated logs of the last 23 hours, by the way that all logs go, and wait until they are stored."""
        now = timestamps.now()
        step = _SAMPLE_RANGE // _SAMPLE_LOGS
        times = [now - step * (_SAMPLE_LOGS - number) for number in range(_SAMPLE_LOGS)]
        generator = Generator(seed=1)
        url = f"http://127.0.0.1:{self.config.ingest_port}{ingest.PATH}"
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            for start in range(0, _SAMPLE_LOGS, _SAMPLE_BATCH):
                lines = generator.lines(times[start : start + _SAMPLE_BATCH])
                answer = await client.post(url, content=lines, headers={"content-type": CONTENT_TYPE})
                answer.raise_for_status()
        await self._source.drained(self._to_kafka.acknowledged, timeout=30)
        self._say(f"sample: {_SAMPLE_LOGS} generated logs of the last 23 hours (SAMPLE=0 starts empty)")


def _listen(name: str, port: int) -> socket.socket:
    """A socket on loopback only: this mode asks nobody for a key."""
    try:
        return host.listen(port, "127.0.0.1")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} is in use; set {name.upper()}_PORT to another") from None
        raise
