"""A function that dies at a chosen point, or breaks a promise: the tests' own way to start it.

    python -m tests.chaos.faultpoints ingest after_produce 0.05
    python -m tests.chaos.faultpoints query none 0 --mutation no-final

A crash point ends the process, as SIGKILL would, right after the work is done and before anybody hears of it. A
mutation takes a guard away, so that a test can show that the oracle notices.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

from functions.common import identity
from functions.common.clickhouse import ClickHouse
from functions.common.host import serve
from functions.common.kafka import KafkaPublisher

CRASHED = 137
"""Exit status at a crash point."""
POINTS = {"after_produce": (KafkaPublisher, "publish"), "after_insert": (ClickHouse, "insert")}
_LATE_SECONDS = 0.3


def crash(point: str, probability: float, rng: random.Random) -> None:
    """From now on the process ends after that share of successes."""
    owner, name = POINTS[point]
    original: Callable[..., Awaitable[None]] = getattr(owner, name)

    async def crashing(*arguments: Any, **options: Any) -> None:
        await original(*arguments, **options)
        if rng.random() < probability:
            os._exit(CRASHED)

    setattr(owner, name, crashing)


def no_final() -> None:
    """Reads see every stored row."""
    original = ClickHouse.select

    async def select(self: ClickHouse, sql: str, *arguments: Any, **options: Any) -> bytes:
        return await original(self, sql.replace(" FINAL", ""), *arguments, **options)

    setattr(ClickHouse, "select", select)  # noqa: B010  mypy would call it an assignment to a method


def no_dedupe() -> None:
    """A log has another identity each time it is sent."""

    def anything(*_: str) -> int:
        return random.getrandbits(64) >> identity.NUMBER_BITS << identity.NUMBER_BITS

    for name in ("of_id", "of_batch"):
        setattr(identity, name, anything)


def commit_first() -> None:
    """Index says that an event is stored before it is."""
    original = ClickHouse.insert
    tasks: set[asyncio.Task[None]] = set()

    async def insert(self: ClickHouse, *arguments: Any, **options: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(_LATE_SECONDS)
            await original(self, *arguments, **options)

        task = asyncio.create_task(later())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    setattr(ClickHouse, "insert", insert)  # noqa: B010  mypy would call it an assignment to a method


MUTATIONS: dict[str, Callable[[], None]] = {
    "no-final": no_final,
    "no-dedupe": no_dedupe,
    "commit-first": commit_first,
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.faultpoints", description=main.__doc__)
    parser.add_argument("function", choices=("ingest", "index", "query", "export"))
    parser.add_argument("point", choices=("none", *POINTS))
    parser.add_argument("probability", type=float)
    parser.add_argument("--mutation", choices=tuple(MUTATIONS))
    options = parser.parse_args()
    if options.point != "none":
        crash(options.point, options.probability, random.Random(os.environ.get("CHAOS_SEED", "0")))
    if options.mutation:
        MUTATIONS[options.mutation]()
    serve(f"functions.{options.function}.function")


if __name__ == "__main__":
    main()
