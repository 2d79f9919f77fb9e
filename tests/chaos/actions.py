"""What faults do, each until it has struck as often as planned."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import random
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec

from functions.common.event import Event
from tests.chaos.arena import Arena
from tests.chaos.client import Load
from tests.chaos.faultpoints import CRASHED
from tests.chaos.ledger import TENANT
from tests.chaos.payload import Log, content_hash, iso
from tests.chaos.supervisor import Program, until

_MOST_PACES = 4.0
_UP_SECONDS = 60.0


@dataclasses.dataclass
class Strikes:
    """The state of a fault while it works: how often it shall strike, how often it has, and its own chance."""

    arena: Arena
    load: Load
    rng: random.Random
    planned: int
    fired: int = 0

    async def pause(self, seconds: float) -> None:
        """Wait for about so long."""
        await asyncio.sleep(seconds * self.rng.uniform(0.3, 1.7))


Action = Callable[[Strikes], Awaitable[None]]


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
            before = program.starts
            await supervisor.stop(program.name)
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


def kill_reader(name: str, path: str) -> Action:
    """SIGKILL while a client reads; what it reads to the end holds no log twice."""

    async def act(strikes: Strikes) -> None:
        supervisor = strikes.arena.supervisor
        for _ in range(strikes.planned):
            await supervisor.ensure(name)
            reading = asyncio.create_task(_read(strikes.arena.url(name) + path))
            await strikes.pause(0.1)
            strikes.fired += supervisor.signal(name, signal.SIGKILL)
            ids = await reading
            if len(ids) != len(set(ids)):
                raise RuntimeError(f"{name} gave {len(ids) - len(set(ids))} logs twice")

    return act


async def _read(url: str) -> list[str]:
    """The ids of the logs in an answer; none if it broke off."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        try:
            text = (await http.get(url)).text
        except httpx.TransportError:
            return []
    return re.findall(r'"id":"(\d+-[0-9a-f]{16})"', text)


async def poison(strikes: Strikes) -> None:
    """Events with a line that ClickHouse refuses: it must be found among the dead letters, its neighbours stored."""
    for number in range(strikes.planned):
        await strikes.pause(0.3)
        logs, rows = zip(*(_row(strikes, f"{number}-{line}") for line in range(10)), strict=True)
        await strikes.load.ledger.sent(logs)
        bad = rows[3].replace(b"{", b'{"no_such_column":1,', 1)
        event = Event.fresh(TENANT, b"\n".join([*rows[:3], bad, *rows[4:]]))
        await asyncio.to_thread(strikes.arena.topics.produce, event)
        await strikes.load.ledger.outcome("ok", [log.uid for log in logs])
        strikes.fired += 1


def _row(strikes: Strikes, name: str) -> tuple[Log, bytes]:
    load, uid = strikes.load, f"{strikes.load.prefix}poison-{name}"
    shown: dict[str, Any] = {
        "service": load.services[0],
        "level": "INFO",
        "message": f"poisoned {name}",
        "trace_id": uid,
    }
    shown |= {"metadata": {}, "span_id": ""}
    row = {"tenant": TENANT, "timestamp": str(load.base), **shown, "dedupe": strikes.rng.getrandbits(63)}
    digest = content_hash({"timestamp": iso(load.base), **shown})
    return Log(uid, b"", digest, True), msgspec.json.encode(row)
