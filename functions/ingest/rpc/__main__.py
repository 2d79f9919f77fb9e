"""Serve ingest over gRPC: `python -m functions.ingest.rpc`."""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from functions.common.config import ConfigError, environment, load
from functions.common.host import DRAIN_SECONDS, HostConfig
from functions.common.kafka import KafkaPublisher
from functions.common.log import configure
from functions.ingest.intake import Config, Intake
from functions.ingest.rpc.server import Rpc


async def serve() -> None:
    """Serve on PORT until SIGTERM, then drain."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    env = environment()
    host, config = load(HostConfig, env), load(Config, env)
    configure(host.log_level)
    intake = Intake(config, KafkaPublisher(config.kafka))
    rpc = Rpc(intake)
    await intake.start()
    try:
        await rpc.start(f"[::]:{host.port}")
        await stop.wait()
        await rpc.stop(DRAIN_SECONDS)
    finally:
        await intake.stop()


def main() -> None:
    """Run with the settings of the environment."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    except ConfigError as error:
        sys.exit(f"functions.ingest.rpc: {error}")


if __name__ == "__main__":
    main()
