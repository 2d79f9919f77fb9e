"""Ingest, by HTTP and gRPC, before a Kafka that takes everything at once. Prints its ports, and ends with its input."""

from __future__ import annotations

import asyncio
import gc
import sys

import uvloop

from functions.common import host
from functions.common.kafka import Headers
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from functions.ingest.rpc.server import Rpc


class Discard:
    """A publisher that acknowledges and forgets."""

    async def start(self) -> None:
        """Nothing to connect to."""

    async def publish(self, topic: str, key: str, value: bytes, headers: Headers) -> None:
        """Taken."""

    async def ready(self) -> None:
        """Always."""

    async def stop(self) -> None:
        """Nothing to disconnect from."""


async def main() -> None:
    """Serve until standard input ends."""
    function = Ingest(Config(), Discard())
    sock = host.listen(0, "127.0.0.1")
    http = host.server(function)
    serving = asyncio.create_task(http.serve(sockets=[sock]))
    while not http.started:  # noqa: ASYNC110  the server offers nothing to wait for
        await asyncio.sleep(0.01)
    rpc = Rpc(function.intake)
    port = await rpc.start("127.0.0.1:0")
    gc.collect()
    gc.freeze()  # as the host does
    print(sock.getsockname()[1], port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await rpc.stop(1)
    http.should_exit = True
    await serving


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
