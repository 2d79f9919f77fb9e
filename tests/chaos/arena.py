"""Everything that runs in a campaign: the broker, the engine behind its HTTP front, five processes, four proxies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from kafka.errors import KafkaError

from tests.chaos.proxy import Proxy
from tests.chaos.supervisor import Supervisor, until
from tests.chaos.topic import Topics
from tests.support.kafka import ApacheKafka, Broker, free_port, why_not
from tests.support.local import ROOT
from tests.support.tansu import Tansu

FUNCTIONS = ("ingest", "index", "query", "export")
_SHORT_BACKOFF = "PT0.1S"
_QUIET_SECONDS = 1.0


class ProxiedKafka(ApacheKafka):
    """Apache Kafka with a listener for ingest alone, whose advertised address is a proxy's."""

    def __init__(self, directory: Path, proxy_port: int) -> None:
        super().__init__(directory, listeners={"INGEST": "PLAINTEXT"})
        advertised = f"PLAIN://{self.bootstrap},INGEST://127.0.0.1:{proxy_port}"
        self._properties = self._properties | {"advertised.listeners": advertised}

    @property
    def ingest_port(self) -> int:
        """Where the proxy finds the broker."""
        return int(self.addresses["INGEST"].rpartition(":")[2])


class Arena:
    """A pipeline of processes with a proxy on every hop. `short` makes the source retry sooner."""

    def __init__(self, directory: Path, seed: str, *, short: bool) -> None:
        self.seed = seed
        self.directory = directory
        self.short = short
        names = (*FUNCTIONS, "clickhouse", *(f"{name}-proxy" for name in ("ingest", "kafka", "index", "clickhouse")))
        self.ports = {name: free_port() for name in names}
        self.why_tansu = why_not()
        self.broker: Broker = (
            Tansu() if self.why_tansu else ProxiedKafka(directory / "kafka", self.ports["kafka-proxy"])
        )
        self.topics = Topics(self.broker.bootstrap)
        self.supervisor = Supervisor(directory, seed)
        self.proxies = {
            "ingest": self._proxy("ingest", self.ports["ingest"], "ingest"),
            "kafka": self._proxy("kafka", self._broker_port()),
            "index": self._proxy("index", self.ports["index"], "index"),
            "clickhouse": self._proxy("clickhouse", self.ports["clickhouse"]),
        }
        self.broker_starts = 0
        self._programs()

    @property
    def ingest_url(self) -> str:
        """Where clients send."""
        return f"http://127.0.0.1:{self.ports['ingest-proxy']}/api/v1/ingest"

    def url(self, name: str) -> str:
        """A program's own address, past every proxy."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def _broker_port(self) -> int:
        if isinstance(self.broker, ProxiedKafka):
            return self.broker.ingest_port
        return int(self.broker.bootstrap.rpartition(":")[2])

    def _proxy(self, name: str, target: int, wakes: str = "") -> Proxy:
        async def wake() -> None:
            await self.supervisor.ensure(wakes)

        rng = random.Random(f"{self.seed}/proxy/{name}")
        return Proxy(self.ports[f"{name}-proxy"], target, rng, wake if wakes else None)

    def _programs(self) -> None:
        common = {
            "CLICKHOUSE_HOST": "127.0.0.1",
            "KAFKA_DELIVERY_TIMEOUT": "3",
            "LOG_LEVEL": "WARNING",
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap,
        }
        # The embedded broker advertises itself: there ingest passes the proxy only to ask for the address.
        of = {
            "ingest": {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{self.ports['kafka-proxy']}"},
            "index": {"CLICKHOUSE_PORT": str(self.ports["clickhouse-proxy"])},
        }
        direct = {"CLICKHOUSE_PORT": str(self.ports["clickhouse"])}
        for name in FUNCTIONS:
            arguments = (f"functions.{name}",)
            self.supervisor.add(name, arguments, common | of.get(name, direct), self.ports[name])
        source = ["functions.local.source", "--sink", f"index=http://127.0.0.1:{self.ports['index-proxy']}"]
        if self.short:
            source += ["--manifests", str(self._manifests())]
        self.supervisor.add("source", source, common, kept=True)
        self.supervisor.add("second-source", source, common)
        port = self.ports["clickhouse"]
        front = ["tests.support.clickhouse_front", "--path", str(self.directory / "clickhouse"), "--port", str(port)]
        self.supervisor.add("clickhouse", front, {}, port, kept=True)

    def _migrate(self) -> None:
        settings = {"CLICKHOUSE_HOST": "127.0.0.1", "CLICKHOUSE_PORT": str(self.ports["clickhouse"])}
        command = [sys.executable, "-m", "functions.common.migrate"]
        subprocess.run(command, cwd=ROOT, env=os.environ | settings, capture_output=True, check=True, timeout=60)

    def _manifests(self) -> Path:
        """The manifests with a shorter back-off: a short run cannot wait through a long one after each fault."""
        directory = self.directory / "kafka-sources"
        directory.mkdir()
        for path in (ROOT / "kafka-sources").glob("*.yaml"):
            text = path.read_text().replace("backoffDelay: PT0.5S", f"backoffDelay: {_SHORT_BACKOFF}")
            (directory / path.name).write_text(text)
        return directory

    async def start(self) -> None:
        """Start everything but what starts on demand."""
        await asyncio.gather(asyncio.to_thread(self.start_broker), self.supervisor.ensure("clickhouse"))
        await asyncio.to_thread(self._migrate)
        for proxy in self.proxies.values():
            await proxy.up()
        await self.supervisor.ensure("source")
        self.supervisor.watch()

    def start_broker(self) -> None:
        """Start the broker, and return when it answers."""
        self.broker.start()
        self.broker_starts += 1

    async def heal(self) -> None:
        """Take back whatever a fault may have left."""
        for proxy in self.proxies.values():
            await proxy.heal()
        for name in (*FUNCTIONS, "source", "clickhouse"):
            self.supervisor.signal(name, signal.SIGCONT)
        self.broker.resume()
        await self.supervisor.stop("second-source")
        for name in FUNCTIONS:
            await self.supervisor.replace(name)
        await self.supervisor.ensure("clickhouse")
        await self.supervisor.ensure("source")

    async def sql(self, statement: str) -> bytes:
        """Ask the engine itself, past every function."""
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            answer = await http.post(self.url("clickhouse"), params={"database": "torpor"}, content=statement)
        answer.raise_for_status()
        return answer.content

    async def lag(self) -> int | None:
        """Records that the source has not committed; None if Kafka does not say."""
        try:
            return await asyncio.to_thread(self.topics.lag)
        except KafkaError:
            return None

    async def idle(self, seconds: float) -> bool:
        """Wait for a lag of zero; say whether it came in time."""
        deadline = time.monotonic() + seconds
        if self.why_tansu:
            # The embedded broker's end offsets cannot be relied on: there, no delivery for a while must do.
            quiet = asyncio.get_running_loop().time
            return await until(lambda: quiet() - self.proxies["index"].last_request > _QUIET_SECONDS, seconds)
        while await self.lag() != 0:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.3)
        return True

    async def close(self) -> None:
        """End everything."""
        await self.supervisor.close()
        for proxy in self.proxies.values():
            await proxy.down()
        await asyncio.to_thread(self.broker.kill)


@contextlib.asynccontextmanager
async def arena(directory: Path, seed: str, *, short: bool) -> AsyncIterator[Arena]:
    """A running arena, ended at the end of the block."""
    made = Arena(directory, seed, short=short)
    try:
        await made.start()
        yield made
    finally:
        await made.close()
