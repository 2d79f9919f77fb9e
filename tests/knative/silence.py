"""A ClickHouse that takes requests and says nothing."""

from __future__ import annotations

import contextlib
import socket
import threading


class Silence:
    """`with Silence() as clickhouse:` has one; `settings` lead a function to it."""

    def __enter__(self) -> Silence:
        self._held: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.settings = {"CLICKHOUSE_HOST": "127.0.0.1", "CLICKHOUSE_PORT": str(self._listener.getsockname()[1])}
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._held.append(self._listener.accept()[0])

    def end(self) -> None:
        """Break all connections and take no new ones."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        while self._held:
            self._held.pop().close()

    def __exit__(self, *error: object) -> None:
        self.end()
