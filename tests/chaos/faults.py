"""The faults: a name, what it does, and how many times it must strike for a round to count."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
import signal
from collections.abc import Awaitable, Callable

from tests.chaos.arena import Arena
from tests.chaos.faultpoints import CRASHED
from tests.chaos.supervisor import Program, until

_MOST_PACES = 4.0
_UP_SECONDS = 60.0


@dataclasses.dataclass
class Strikes:
    """The state of a fault while it works: how often it shall strike, how often it has, and its own chance."""

    arena: Arena
    rng: random.Random
    planned: int
    fired: int = 0

    async def pause(self, seconds: float) -> None:
        """Wait for about so long."""
        await asyncio.sleep(seconds * self.rng.uniform(0.3, 1.7))


Action = Callable[[Strikes], Awaitable[None]]


@dataclasses.dataclass(frozen=True)
class Fault:
    """A row of the table. `strikes` is how often in a short run, `most` in the long campaign."""

    text: str
    act: Action
    strikes: int
    most: int
    needs_apache: bool = False
    replays: bool = False


def kill(name: str, pace: float) -> Action:
    """SIGKILL at random moments; the program comes back by itself or on demand."""

    async def act(strikes: Strikes) -> None:
        supervisor = strikes.arena.supervisor
        for _ in range(strikes.planned):
            await strikes.pause(pace)
            await supervisor.ensure(name)
            strikes.fired += supervisor.signal(name, signal.SIGKILL)

    return act


async def kill_broker(strikes: Strikes) -> None:
    """SIGKILL of the broker, and a start on the same data a moment later."""
    for _ in range(strikes.planned):
        await strikes.pause(1.0)
        await asyncio.to_thread(strikes.arena.broker.kill)
        strikes.fired += 1
        await strikes.pause(0.5)
        await asyncio.to_thread(strikes.arena.start_broker)


def crash(function: str, point: str, probability: float) -> Action:
    """The function dies by itself right after `point`, with that probability each time."""

    async def act(strikes: Strikes) -> None:
        supervisor = strikes.arena.supervisor
        exits = supervisor.programs[function].exits
        before = exits[CRASHED]
        await supervisor.replace(function, ("tests.chaos.faultpoints", function, point, str(probability)))
        most = _UP_SECONDS + strikes.planned * _MOST_PACES
        await until(lambda: exits[CRASHED] - before >= strikes.planned, most)
        strikes.fired = exits[CRASHED] - before

    return act


def proxied(hop: str, behaviour: str, probability: float) -> Action:
    """The hop's proxy eats answers, cuts requests or resets connections, each with that probability."""

    async def act(strikes: Strikes) -> None:
        proxy = strikes.arena.proxies[hop]
        before = proxy.hits
        setattr(proxy, behaviour, probability)
        most = _UP_SECONDS + strikes.planned * _MOST_PACES
        await until(lambda: proxy.hits - before >= strikes.planned, most)
        setattr(proxy, behaviour, 0.0)
        strikes.fired = proxy.hits - before

    return act


def freeze(name: str, seconds: float) -> Action:
    """SIGSTOP, and SIGCONT after some seconds."""

    async def act(strikes: Strikes) -> None:
        supervisor = strikes.arena.supervisor
        for _ in range(strikes.planned):
            await strikes.pause(0.5)
            await supervisor.ensure(name)
            strikes.fired += supervisor.signal(name, signal.SIGSTOP)
            await asyncio.sleep(seconds)
            supervisor.signal(name, signal.SIGCONT)

    return act


async def stall_broker(strikes: Strikes) -> None:
    """The broker stands still for twice the delivery timeout."""
    for _ in range(strikes.planned):
        await strikes.pause(0.5)
        await asyncio.to_thread(strikes.arena.broker.pause)
        strikes.fired += 1
        await asyncio.sleep(6.0)
        strikes.arena.broker.resume()


async def refuse_clickhouse(strikes: Strikes) -> None:
    """Index cannot connect to ClickHouse for some seconds."""
    proxy = strikes.arena.proxies["clickhouse"]
    for _ in range(strikes.planned):
        await strikes.pause(0.5)
        await proxy.down()
        strikes.fired += 1
        await asyncio.sleep(3.0)
        await proxy.up()


async def rebalance(strikes: Strikes) -> None:
    """While index can store nothing and the source retries, a second source joins the group, and leaves it."""
    arena = strikes.arena
    for _ in range(strikes.planned):
        await arena.proxies["clickhouse"].down()
        await strikes.pause(0.5)
        await arena.supervisor.ensure("second-source")
        await asyncio.sleep(3.0)
        await arena.proxies["clickhouse"].up()
        await strikes.pause(1.0)
        await arena.supervisor.stop("second-source")
        strikes.fired += 1


async def redeliver(strikes: Strikes) -> None:
    """The whole topic is consumed again from its earliest offset."""
    arena = strikes.arena
    source = arena.supervisor.programs["source"]
    for _ in range(strikes.planned):
        await strikes.pause(1.0)
        source.kept = False
        await arena.supervisor.stop("source")
        again = await asyncio.to_thread(arena.topics.rewind)
        source.kept = True
        await arena.supervisor.ensure("source")
        strikes.fired += again > 0


async def resend(strikes: Strikes) -> None:
    """Nothing fails; what clients send again, in other batches, is counted."""
    await asyncio.sleep(2.0)
    strikes.fired = strikes.planned


async def scale(strikes: Strikes) -> None:
    """Ingest and index go to zero, and come back with the next request."""
    supervisor = strikes.arena.supervisor
    for _ in range(strikes.planned):
        await strikes.pause(1.0)
        for program in (supervisor.programs["ingest"], supervisor.programs["index"]):
            await supervisor.ensure(program.name)
            await supervisor.stop(program.name)
            before = program.starts
            strikes.fired += await until(functools.partial(_came_back, program, before), _UP_SECONDS)


def _came_back(program: Program, starts: int) -> bool:
    return program.running and program.starts > starts


async def terminate(strikes: Strikes) -> None:
    """SIGTERM to ingest, index and source under load, in random order."""
    supervisor = strikes.arena.supervisor
    names = ["ingest", "index", "source"]
    for _ in range(strikes.planned):
        strikes.rng.shuffle(names)
        for name in names:
            await supervisor.ensure(name)
            strikes.fired += supervisor.signal(name, signal.SIGTERM)
            await strikes.pause(0.5)


async def slow(strikes: Strikes) -> None:
    """Every hop takes a moment longer each way."""
    for proxy in strikes.arena.proxies.values():
        proxy.delay = 0.1
        strikes.fired += 1
    await asyncio.sleep(3.0)


FAULTS: dict[str, Fault] = {
    "none": Fault("nothing fails", resend, 0, 0),
    "client-resend": Fault("clients send again what was taken, in batches cut differently", resend, 1, 10),
    "kill-ingest": Fault("SIGKILL of ingest", kill("ingest", 1.0), 4, 100),
    "kill-index": Fault("SIGKILL of index", kill("index", 1.0), 4, 100),
    "kill-source": Fault("SIGKILL of the source", kill("source", 2.0), 2, 100),
    "kill-broker": Fault("SIGKILL of the broker", kill_broker, 1, 100, needs_apache=True),
    "kill-clickhouse": Fault("SIGKILL of the engine's server", kill("clickhouse", 2.0), 2, 100),
    "crash-after-produce": Fault("ingest dies before it answers", crash("ingest", "after_produce", 0.05), 3, 100),
    "crash-after-insert": Fault("index dies before it answers", crash("index", "after_insert", 0.1), 3, 100),
    "eat-ingest": Fault("answers of ingest are swallowed", proxied("ingest", "eat", 0.1), 10, 300),
    "eat-kafka": Fault("Kafka's answers are swallowed", proxied("kafka", "eat", 0.1), 5, 100, needs_apache=True),
    "eat-index": Fault("answers of index are swallowed", proxied("index", "eat", 0.1), 10, 300),
    "eat-clickhouse": Fault("ClickHouse's answers are swallowed", proxied("clickhouse", "eat", 0.2), 5, 300),
    "cut-ingest": Fault("requests are cut in half", proxied("ingest", "cut", 0.1), 10, 300),
    "reset-index": Fault("deliveries are reset", proxied("index", "reset", 0.1), 10, 300),
    "slow": Fault("every hop is slow", slow, 4, 4),
    "stop-ingest": Fault("SIGSTOP of ingest", freeze("ingest", 5.0), 1, 10),
    "stop-index": Fault("SIGSTOP of index", freeze("index", 5.0), 1, 10),
    "stop-source": Fault("SIGSTOP of the source, until the group gives it up", freeze("source", 8.0), 1, 10),
    "stop-broker": Fault("a stall longer than the delivery timeout", stall_broker, 1, 10),
    "clickhouse-refuses": Fault("ClickHouse refuses connections", refuse_clickhouse, 1, 20),
    "clickhouse-hangs": Fault("SIGSTOP of the engine's server", freeze("clickhouse", 5.0), 1, 10),
    "rebalance": Fault("a second source comes and goes while the first retries", rebalance, 1, 20),
    "scale": Fault("functions go to zero and come back on demand", scale, 4, 120),
    "sigterm": Fault("SIGTERM under load", terminate, 6, 60),
    "redeliver": Fault("the whole topic again from the earliest offset", redeliver, 1, 3, replays=True),
}
"""All faults by name."""
