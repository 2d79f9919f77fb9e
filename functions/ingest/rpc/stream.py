"""Streams of messages: work on them in their order while more arrive, and keep only a few in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

GROUP_MESSAGES = 1000
GROUP_BYTES = 1_000_000
_AHEAD = 8
"""Messages of a stream that are worked on at a time."""


async def together(messages: AsyncIterator[bytes], work: Callable[[list[bytes]], Awaitable[None]]) -> None:
    """Give `work` groups of what has arrived while it worked on the last one. Reading pauses while it lags behind.

    An error of `work` ends it at once; one of `messages` is raised once what came before is worked on.
    """
    waiting: list[bytes] = []
    news, room = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        size = 0
        async for message in messages:
            size = size + len(message) if waiting else len(message)
            waiting.append(message)
            news.set()
            if len(waiting) >= GROUP_MESSAGES or size >= GROUP_BYTES:
                room.clear()
                await room.wait()

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: news.set())
    try:
        while waiting or not reader.done():
            await news.wait()
            news.clear()
            group, waiting = waiting, []
            room.set()
            if group:
                await work(group)
        await reader
    finally:
        await _end(reader)


async def in_turn(messages: AsyncIterator[bytes], work: Callable[[bytes], Awaitable[T]]) -> AsyncGenerator[T, None]:
    """What `work` makes of each message, in their order, some of them worked on at a time.

    An error, of `work` or of `messages`, is raised in its turn, after the answers to what came before.
    """
    begun: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()
    room = asyncio.Semaphore(_AHEAD)

    async def start() -> None:
        async for message in messages:
            await room.acquire()
            begun.put_nowait(asyncio.ensure_future(work(message)))

    starter = asyncio.create_task(start())
    starter.add_done_callback(begun.put_nowait)  # comes last, whatever ended it
    task: asyncio.Future[Any] = starter
    try:
        while (task := await begun.get()) is not starter:
            answer: T = await task
            room.release()
            yield answer
        await starter
    finally:
        await _end(starter, task, *(begun.get_nowait() for _ in range(begun.qsize())))


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Return when these have ended; what they make or raise nobody asks for any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
