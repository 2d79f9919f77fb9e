"""A TCP proxy whose behaviour can be changed while it runs.

It passes bytes, delays them, is down (refuses connections), resets connections, cuts a request in half, or eats an
answer: the request arrives whole, its answer does not, and the client gets a reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

_CHUNK = 256 * 1024
_CONNECT_SECONDS = 20.0
_EVENT = re.compile(rb"\r\nce-id: ([^\r]{1,200})\r\n", re.IGNORECASE)


class Proxy:
    """From `port` to `target` on loopback. `wake` is awaited before a connection to a target that may sleep."""

    def __init__(
        self, port: int, target: int, rng: random.Random, wake: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.port, self.target = port, target
        self._rng, self._wake = rng, wake
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.delay = 0.0
        self.eat = 0.0
        """Probability that an answer is eaten."""
        self.cut = 0.0
        """Probability that a request is cut in half."""
        self.reset = 0.0
        """Probability that a connection is reset as its request begins."""
        self.hits = 0
        """Answers eaten, requests cut and connections reset so far."""
        self.deliveries: Counter[bytes] = Counter()
        """How often each event passed, by its id."""
        self.last_request = 0.0

    async def up(self) -> None:
        """Take connections."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=_CHUNK, backlog=1024)

    async def down(self) -> None:
        """Refuse connections and reset those that are open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            _abort(writer)

    async def heal(self) -> None:
        """Pass everything."""
        self.delay = self.eat = self.cut = self.reset = 0.0
        await self.up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        upstream: asyncio.StreamWriter | None = None
        tasks: list[asyncio.Task[None]] = []
        try:
            answers, upstream = await self._connect()
            self._open.add(upstream)
            tasks = [
                asyncio.create_task(self._requests(reader, upstream)),
                asyncio.create_task(self._answers(answers, writer)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the target is not there: the client's connection ends below
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for end in (writer, upstream):
                if end is not None:
                    self._open.discard(end)
                    _abort(end)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = asyncio.get_running_loop().time() + _CONNECT_SECONDS
        while True:
            if self._wake:
                await self._wake()
            try:
                return await asyncio.open_connection("127.0.0.1", self.target, limit=_CHUNK)
            except OSError:
                # Only one that is being woken is worth waiting for: then this proxy is the activator.
                if self._wake is None or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(0.03)

    async def _requests(self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        rest = b""
        while data := await reader.read(_CHUNK):
            self.last_request = asyncio.get_running_loop().time()
            rest = self._count(rest + data)
            if self._strikes(self.reset):
                return
            if self._strikes(self.cut):
                upstream.write(data[: len(data) // 2])
                await upstream.drain()
                return
            await asyncio.sleep(self.delay)
            upstream.write(data)
            await upstream.drain()

    async def _answers(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await answers.read(_CHUNK):
            if self._strikes(self.eat):
                return
            await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        # The end of a connection must not overtake what was written to it.
        with contextlib.suppress(OSError):
            writer.write_eof()
            await asyncio.sleep(0.05)

    def _strikes(self, probability: float) -> bool:
        if probability and self._rng.random() < probability:
            self.hits += 1
            return True
        return False

    def _count(self, data: bytes) -> bytes:
        end = 0
        for match in _EVENT.finditer(data):
            self.deliveries[match[1]] += 1
            end = match.end()
        # A header may be cut in two by the chunks.
        return data[max(end, len(data) - 256) :]


def _abort(writer: asyncio.StreamWriter) -> None:
    """End with a reset, and forget what is not sent yet."""
    # A socket that is closed already has no number any more, which is a ValueError.
    with contextlib.suppress(OSError, ValueError):
        sock = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
