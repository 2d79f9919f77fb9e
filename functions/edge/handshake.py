"""TLS connections are accepted here, as a server of the event loop drops those whose handshake fails without a word."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine

from functions.edge.receive import address

log = logging.getLogger(__name__)

_PAUSE = 1.0


class Handshakes:
    """Accepts TLS connections on a listening socket until it is closed, and gives each a protocol that `make` makes.

    A handshake that fails is a warning with the peer's address, one for each peer until `forget` is called.
    """

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext, make: Callable[[], asyncio.Protocol]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = tls
        self._make = make
        self._told: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._start(self._accept())

    def close(self) -> None:
        """Accept no more, and break off the handshakes that are not done."""
        for task in [*self._tasks]:
            task.cancel()
        self._sock.close()

    def forget(self) -> None:
        """Warn once more of peers that were told of."""
        self._told.clear()

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(self._sock)
            except OSError as error:
                log.error("a TLS connection cannot be accepted", extra={"error": str(error)})
                await asyncio.sleep(_PAUSE)
            else:
                self._start(self._greet(accepted, address(peer)))

    async def _greet(self, accepted: socket.socket, peer: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, accepted, ssl=self._tls)
        except ssl.SSLError as error:
            if peer not in self._told:
                self._told.add(peer)
                text = "no TLS connection came about; plain TCP goes to SYSLOG_PORT"
                log.warning(text, extra={"peer": peer, "error": error.reason or str(error)})
        except OSError:
            pass  # gone, or silent for too long, before it had said anything
