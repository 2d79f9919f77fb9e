"""`make run`: everything on this machine, in one process, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import uvloop

from functions.common.config import ConfigError, environment
from functions.common.errors import TorporError
from functions.common.log import configure
from functions.local.broker import BrokerError
from functions.local.compose import Local


def say(text: str) -> None:
    """Tell the person at the terminal."""
    print(f"  {text}", flush=True)


def banner(local: Local) -> str:
    """What runs where, and what to try."""
    ports = local.config.ports()
    kafka = f"embedded on port {local.broker.port}" if local.broker else "as KAFKA_BOOTSTRAP_SERVERS says"
    clickhouse = f"embedded in {local.data / 'clickhouse'}" if local.embedded_clickhouse else "as CLICKHOUSE_HOST says"
    return f"""
Torpor is running. It listens on this machine only and asks for no key.

  ingest      http://localhost:{ports["ingest"]}    logs in
  gRPC        localhost:{local.config.grpc_port}          logs in
  index       http://localhost:{ports["index"]}    events into ClickHouse; KafkaSource posts here
  query       http://localhost:{ports["query"]}    search; try /docs in a browser
  export      http://localhost:{ports["export"]}    files
  kafka       {kafka}
  clickhouse  {clickhouse}

In a second terminal:

  curl -H 'Content-Type: application/x-ndjson' localhost:{ports["ingest"]}/api/v1/ingest \\
       --data-binary '{{"service": "hello", "level": "info", "message": "first light"}}'
  sleep 1; curl 'localhost:{ports["query"]}/api/v1/logs?service=hello'
  curl -sOJ 'localhost:{ports["export"]}/api/v1/logs/export?format=csv&service=hello' && zcat logs-*.csv.gz

Ctrl-C stops it and loses nothing that was acknowledged.
"""


async def run() -> int:
    """Start, wait for Ctrl-C or SIGTERM, stop; return the exit status."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    local = Local(environment(), say)
    print("Starting Torpor", flush=True)
    try:
        await local.start()
    except BaseException:
        await local.abandon()
        raise
    print(banner(local), flush=True)
    await stop.wait()
    print("\nStopping", flush=True)
    if await local.stop(hurry):
        say("everything that was acknowledged is stored")
        return 0
    say("left what is not stored yet in Kafka: the next start takes it up")
    return 1


def main() -> None:
    """Run with logs of warnings only: the terminal belongs to the person."""
    configure(environment().get("LOG_LEVEL", "WARNING"))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sys.exit(runner.run(run()))
    except (ConfigError, BrokerError, TorporError) as error:
        sys.exit(f"torpor: {error}")
    except KeyboardInterrupt:
        with contextlib.suppress(BrokenPipeError):
            sys.exit("\ninterrupted while starting")


if __name__ == "__main__":
    main()
