"""The lines of a pipe. It cannot be read twice: what was read and is not in the spool is gone with the process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select

from functions.edge.lines import split
from functions.edge.records import Batch, Records

GATHER_SECONDS = 0.1
"""Lines that come so soon after one another are sent together."""

_READ_BYTES = 256 * 1024


class Pipe:
    """The lines of standard input, or whatever is open as `fd`."""

    def __init__(self, records: Records, fd: int = 0) -> None:
        self._records = records
        self._fd = fd
        self._batch = Batch()
        self._rest = b""
        self._piece = 0
        self._closed = False

    @property
    def ended(self) -> bool:
        """Whether the pipe is closed and all its lines were given away."""
        return self._closed and not (self._rest or self._piece or self._batch.records)

    async def wait(self) -> None:
        """Return when there are lines, and no more have come for a moment."""
        await _readable(self._fd)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                while not self._batch.full and not self._closed:
                    await _readable(self._fd)
                    self._take()

    def read(self) -> Batch:
        """The lines that are there."""
        self._split()
        batch, self._batch = self._batch, Batch()
        return batch

    def stop(self) -> None:
        """Take what is in the pipe now for all there is."""
        while not self._closed and select.select([self._fd], [], [], 0)[0]:
            self._take()
        self._closed = True

    def _take(self) -> None:
        data = os.read(self._fd, _READ_BYTES)
        self._closed = not data
        self._rest += data
        self._split()

    def _split(self) -> None:
        taken = 0
        for line in split(self._rest, self._piece, self._closed):
            if self._batch.full:
                break
            self._records.add(self._batch, line)
            self._piece = line.carry
            taken += line.size
        self._rest = self._rest[taken:]


async def _readable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:
        return  # a regular file: it is always readable
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
