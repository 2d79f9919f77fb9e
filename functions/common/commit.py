"""Natural group commit: what waits together is written together.

While one write runs, the next group forms; when the writer is free, the group leaves at once. There is no timer: a
lone item is not delayed, and under load groups grow by themselves. A caller returns only when its group is written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from functions.common.errors import Overloaded

T = TypeVar("T")


class Group(Generic[T]):
    """Items of one key that are written together; `size` in bytes, `count` in logs."""

    __slots__ = ("count", "done", "items", "key", "size")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.items: list[T] = []
        self.size = 0
        self.count = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class GroupCommit(Generic[T]):
    """Gather items of the same key and write them by `write(items)`.

    A group holds at most `max_size` bytes and `max_count` logs, unless a single item is larger. At most `writers`
    groups are being written. More than `max_waiting` bytes waiting or being written raise Overloaded.
    """

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[None]],
        *,
        max_size: int,
        max_count: int,
        writers: int,
        max_waiting: int,
    ) -> None:
        self._write = write
        self._max_size = max_size
        self._max_count = max_count
        self._writers = writers
        self._max_waiting = max_waiting
        self._open: dict[Hashable, Group[T]] = {}
        self._full: deque[Group[T]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = 0

    async def add(self, item: T, *, size: int, count: int, key: Hashable = None) -> None:
        """Return when the item is written; raise what its group's write raised."""
        self._admit(size)
        # Shielded: one caller that goes away must not cancel the write of the others.
        await asyncio.shield(self._put(item, size, count, key).done)

    async def add_all(self, items: list[tuple[T, int, int]], *, key: Hashable = None) -> None:
        """Return when all items, each with its size and count, are written.

        Overloaded is raised for all of them or none. What a write raised is raised once every write has ended.
        """
        self._admit(sum(size for _, size, _ in items))
        groups = dict.fromkeys(self._put(item, size, count, key) for item, size, count in items)
        writes = [asyncio.shield(group.done) for group in groups]
        for result in await asyncio.gather(*writes, return_exceptions=True):
            if result is not None:
                raise result

    def _admit(self, size: int) -> None:
        if self.waiting and self.waiting + size > self._max_waiting:
            raise Overloaded("too many bytes in flight; retry later")

    def _put(self, item: T, size: int, count: int, key: Hashable) -> Group[T]:
        self.waiting += size
        group = self._open.get(key)
        if group and (group.size + size > self._max_size or group.count + count > self._max_count):
            self._full.append(self._open.pop(key))
            group = None
        if group is None:
            group = self._open[key] = Group(key)
            # At the end of this turn of the loop, so that all requests that arrived with it share the group.
            asyncio.get_running_loop().call_soon(self._start)
        group.items.append(item)
        group.size += size
        group.count += count
        return group

    async def drain(self) -> None:
        """Return when everything added so far is written or has failed."""
        while self._tasks or self._full or self._open:
            self._start()
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        while len(self._tasks) < self._writers and (self._full or self._open):
            group = self._full.popleft() if self._full else self._open.pop(next(iter(self._open)))
            task = asyncio.get_running_loop().create_task(self._run(group))
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    async def _run(self, group: Group[T]) -> None:
        try:
            await self._write(group.items)
        except BaseException as error:  # noqa: BLE001  every waiter must hear of it, cancellation included
            group.done.set_exception(error)
            group.done.exception()  # all callers may be gone: then nobody retrieves it
        else:
            group.done.set_result(None)
        finally:
            self.waiting -= group.size

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start()
