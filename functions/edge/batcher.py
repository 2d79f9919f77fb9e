"""Messages that come close together become a batch, and each batch goes into the spool in one transaction."""

from __future__ import annotations

import asyncio
import collections
import logging
import sys
from collections.abc import Callable
from typing import NamedTuple

from functions.common.record import Incoming, encode
from functions.edge.spool import Full, Spool, SpoolError

log = logging.getLogger(__name__)

MAX_COUNT, MAX_BYTES = 1000, 500_000
"""Messages of a batch, and bytes of them as JSON lines; one message may be larger."""
LINGER = 0.2
"""Seconds that a message waits for others."""
AWAITED_LINGER = 0.02
"""The same if somebody waits until it is stored."""
_RETRY = 1.0
_SAY_AGAIN = 60.0


class _Closed(NamedTuple):
    body: bytes
    logs: int
    callbacks: list[Callable[[], None]]


class Batcher:
    """Stands before the spool. While `held` is true it takes no more, and nothing more should be brought.

    `on_put` is called when a batch is in the spool, `on_held` when `held` has changed.
    """

    def __init__(self, spool: Spool, on_put: Callable[[], None], on_held: Callable[[], None]) -> None:
        self.held = False
        self._spool = spool
        self._on_put = on_put
        self._on_held = on_held
        self._lines: list[bytes] = []
        self._size = 0
        self._callbacks: list[Callable[[], None]] = []
        self._closed: collections.deque[_Closed] = collections.deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._said = -_SAY_AGAIN

    def add(self, record: Incoming) -> None:
        """Take a message. It is taken even while `held`, and waits in memory."""
        line = encode(record)
        if self._lines and self._size + len(line) > MAX_BYTES:
            self.flush()
        self._lines.append(line)
        self._size += len(line) + 1
        if len(self._lines) == MAX_COUNT:
            self.flush()
        else:
            self._flush_within(LINGER)

    def when_stored(self, callback: Callable[[], None]) -> None:
        """Call `callback` once all that was added is in the spool: at once, if it is."""
        if self._lines:
            self._callbacks.append(callback)
            self._flush_within(AWAITED_LINGER)
        elif self._closed:
            self._closed[-1].callbacks.append(callback)
        else:
            callback()

    def flush(self) -> None:
        """Put what was added into the spool now, if it has room."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            self._closed.append(_Closed(b"\n".join(self._lines), len(self._lines), self._callbacks))
            self._lines, self._size, self._callbacks = [], 0, []
        if not self.held:
            self.put()

    def put(self) -> None:
        """Try to put the batches that wait: the spool may have room again."""
        if self._again:
            self._again.cancel()
            self._again = None
        while self._closed:
            body, logs, callbacks = self._closed[0]
            try:
                self._spool.put(body, logs)
            except SpoolError as error:
                return self._hold(error)
            self._closed.popleft()
            self._on_put()
            for callback in callbacks:
                callback()
        if self.held:
            self.held = False
            self._on_held()

    def finish(self) -> int:
        """Put everything, beyond the spool's limit if need be; return how many messages the disk did not take."""
        self._spool.max_bytes = sys.maxsize  # what is in memory is little, and would be lost
        self.flush()
        self.put()
        return sum(closed.logs for closed in self._closed)

    def _hold(self, error: SpoolError) -> None:
        loop = asyncio.get_running_loop()
        # A full spool takes a batch whenever one is dropped: it is full again and again.
        if loop.time() - self._said >= _SAY_AGAIN:
            self._said = loop.time()
            level = logging.WARNING if isinstance(error, Full) else logging.ERROR
            log.log(level, "the spool takes no more messages; senders have to wait", extra={"error": str(error)})
        self._again = loop.call_later(_RETRY, self.put)
        if not self.held:
            self.held = True
            self._on_held()

    def _flush_within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer and self._due > due:
            self._timer.cancel()
            self._timer = None
        if not self._timer:
            self._timer, self._due = loop.call_later(seconds, self.flush), due
