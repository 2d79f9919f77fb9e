"""One run of the shipper: from its source into the spool, and from there to ingest, until a signal or the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any

from functions.edge import refused
from functions.edge.follow import Files
from functions.edge.forward import Forwarder
from functions.edge.pipe import Pipe
from functions.edge.progress import Progress, say
from functions.edge.records import Batch
from functions.edge.spool import Full, Spool

STOP_SECONDS = 2.0
"""How long what was read is still sent when Ctrl-C or SIGTERM ends the reading."""
FAILED = 1
"""Exit status if something was refused, lost, or could not be read."""
LEFT = 130
"""Exit status if Ctrl-C came before all was delivered."""


class Shipper:
    """Reads the source into the spool, which the forwarder sends on."""

    def __init__(self, source: Pipe | Files, spool: Spool, url: str, quiet: bool) -> None:
        self._source = source
        self._spool = spool
        self._changed = asyncio.Event()
        self._forwarder = Forwarder(spool, url, on_change=self._changed.set)
        self._progress = Progress(spool, self._forwarder, quiet)
        self._quiet = quiet
        self._stop = asyncio.Event()
        self._asked = False
        self._lost = 0

    async def run(self) -> int:
        """Read and send until the source has ended or a signal comes; return the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        tasks = [asyncio.create_task(work) for work in (self._forwarder.run(), self._progress.run(), self._ship())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return self._conclude()

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGINT and isinstance(self._source, Pipe) and not self._source.ended and not self._asked:
            # Ctrl-C goes to all of a pipeline: the program before this one has last words.
            self._asked = True
            say("reading on until the pipe is closed; Ctrl-C again ends the reading")
        else:
            self._stop.set()

    async def _ship(self) -> None:
        while not self._source.ended and not self._stop.is_set():
            batch = self._source.read()
            await self._store(batch)
            if not batch.full and not self._source.ended:
                await _until(self._stop, self._source.wait())
        if not self._stop.is_set():
            return await _until(self._stop, self._forwarder.drain())
        self._source.stop()
        while not self._source.ended:
            await self._store(self._source.read())
        await self._forwarder.drain(STOP_SECONDS)

    async def _store(self, batch: Batch) -> None:
        """Put the batch into the spool, and wait if that is full: nothing is read meanwhile."""
        while batch.records or batch.positions:
            self._changed.clear()
            try:
                self._spool.put(batch.body, len(batch.records), batch.positions)
            except Full as error:
                self._progress.full = str(error)
                if self._stop.is_set():
                    # The lines of a file are read again by the next run.
                    self._lost += len(batch.records) if isinstance(self._source, Pipe) else 0
                    return
                await _until(self._stop, asyncio.wait_for(self._changed.wait(), 1))
            else:
                self._progress.full = ""
                self._progress.read += len(batch.records)
                self._forwarder.wake()
                break
        await asyncio.sleep(0)

    def _conclude(self) -> int:
        """Say what came of it; return the exit status."""
        left = self._spool.count
        if not self._quiet:
            say(self._progress.counts())
        if left:
            say(f"{left:,} lines are left in {self._spool.path}; the next run with this spool delivers them")
        if self._forwarder.refused:
            kept = f"they are kept in {refused.file_of(self._spool)}, each with the reason"
            say(f"ingest refused {self._forwarder.refused:,} lines; {kept}")
        if self._lost:
            say(f"{self._lost:,} lines of the pipe are lost: the spool is full")
        following = isinstance(self._source, Files) and not self._source.once
        unread = isinstance(self._source, Files) and self._source.once and self._source.unread
        if self._forwarder.refused or self._lost or unread:
            return FAILED
        return LEFT if left and not following else 0


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> None:
    """Do the work until it is done or the event happens. Raises what the work raises, but for TimeoutError."""
    tasks = [asyncio.create_task(work), asyncio.create_task(event.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await tasks[0]
