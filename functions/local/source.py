"""The KafkaSource stand-in: posts every record of a topic to a sink, at least once, as Knative's KafkaSource does.

One member of the consumer group takes all partitions, whatever `consumers` says: in a cluster they only add speed.
So 50 records are in hand at once, not 50 a consumer. `python -m functions.local.source` runs it alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from functions.common.config import ConfigError, environment, load
from functions.common.kafka import KafkaConfig, KafkaPublisher, Partition, Publisher
from functions.common.log import configure
from functions.local.delivery import Delivery, connections
from functions.local.manifests import Source, read_manifests
from functions.local.member import MAX_RECORDS, Member
from functions.local.offsets import Offsets

log = logging.getLogger(__name__)

T = TypeVar("T")
MANIFESTS = Path(__file__).parents[2] / "kafka-sources"
_FULL_SECONDS = 1.0
_STOP_SECONDS = 8.0


class KafkaSource:
    """A source that runs in the loop it is started in.

    `sinks` has the address of each Service that the manifest names, `dead_letter_topics` the topic of each KafkaSink.
    The publisher is started and stopped by its owner.
    """

    def __init__(
        self,
        config: KafkaConfig,
        manifest: Source,
        sinks: Mapping[str, str],
        publisher: Publisher,
        dead_letter_topics: Mapping[str, str],
        *,
        commit_interval: float = 5.0,
        grace: float = 2.0,
    ) -> None:
        self._clients = connections(MAX_RECORDS)
        self._delivery = Delivery(manifest, sinks, publisher, dead_letter_topics, self._clients)
        self._ordered = manifest.ordered
        self._commit_interval = commit_interval
        self._grace = grace
        self._offsets = Offsets()
        self._member = Member(config, manifest, self._offsets)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kafka-source")
        # What must not be under way at once is in one lane: of a partition in order, else each record alone.
        self._lanes: dict[tuple[Partition, int], deque[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._in_hand = 0
        self._stopping = False
        self._changed = asyncio.Event()

    @property
    def delivered(self) -> int:
        """Records that the sink took."""
        return self._delivery.delivered

    @property
    def dead_lettered(self) -> int:
        """Records that the dead-letter sink took."""
        return self._delivery.dead_lettered

    @property
    def failed(self) -> int:
        """Records that neither took and that count as done all the same."""
        return self._delivery.failed

    async def start(self) -> None:
        """Begin to join the group and to deliver; does not wait for Kafka or the sink."""
        self._running = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Read no more, let deliveries under way end within the grace, commit, leave the group.

        What is cut off is delivered again by the next source of the group. A second call does nothing.
        """
        if self._stopping:
            return
        self._stopping = True
        self._changed.set()
        if self._running:
            await asyncio.wait([self._running], timeout=_STOP_SECONDS)
        tasks = set(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=self._grace)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait([self._on_thread(self._member.close)], timeout=_STOP_SECONDS)
        self._thread.shutdown(wait=False)
        for client in self._clients:
            await client.aclose()

    async def drained(self, at_least: Mapping[Partition, int], timeout: float) -> bool:
        """Wait until everything up to the known ends of its partitions, and up to `at_least`, needs no more work.

        `at_least` maps partitions to the offset after the last that counts. Returns False if the time is over first.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not self._offsets.caught_up(at_least):
                    self._changed.clear()
                    await self._changed.wait()
        return self._offsets.caught_up(at_least)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        commit_at = loop.time() + self._commit_interval
        while not self._stopping:
            await self._room()
            busy = {partition for partition, _ in self._lanes} if self._ordered else set()
            records = await self._on_thread(self._member.poll, MAX_RECORDS - self._in_hand, busy)
            if not self._stopping:
                for record in records:
                    self._take(record)
            self._changed.set()
            if loop.time() >= commit_at:
                await self._on_thread(self._member.commit)
                commit_at = loop.time() + self._commit_interval

    async def _room(self) -> None:
        """Wait until another record may be taken in hand, but not for long: the member must be heard of."""
        if self._in_hand >= MAX_RECORDS and not self._stopping:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _FULL_SECONDS)

    def _take(self, record: Any) -> None:
        partition = (record.topic, record.partition)
        key = (partition, 0 if self._ordered else record.offset)
        self._in_hand += 1
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = deque()
            task = asyncio.create_task(self._drive(key, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        lane.append(record)

    async def _drive(self, key: tuple[Partition, int], lane: deque[Any]) -> None:
        partition, _ = key
        while lane:
            record = lane.popleft()
            # The partition may have gone to another member since the record was read.
            if self._offsets.unfinished(partition, record.offset):
                await self._delivery.deliver(record)
                self._offsets.finished(partition, record.offset)
            self._in_hand -= 1
            self._changed.set()
        del self._lanes[key]

    def _on_thread(self, call: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


async def run(config: KafkaConfig, manifests: Path, sinks: Mapping[str, str]) -> None:
    """Run the source of `manifests` until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    read = read_manifests(manifests)
    publisher = KafkaPublisher(config)
    source = KafkaSource(config, read.source, sinks, publisher, read.sink_topics)
    await publisher.start()
    await source.start()
    await stop.wait()
    await source.stop()
    await publisher.stop()
    counts = {"delivered": source.delivered, "dead_lettered": source.dead_lettered, "failed": source.failed}
    log.info("source stopped", extra=counts)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m functions.local.source", description=main.__doc__)
    parser.add_argument("--manifests", type=Path, default=MANIFESTS, help="folder of the manifests")
    parser.add_argument(
        "--sink", type=_sink, action="append", default=[], metavar="NAME=URL", help="address of a Service"
    )
    options = parser.parse_args(arguments)
    configure(environment().get("LOG_LEVEL", "INFO"))
    try:
        asyncio.run(run(load(KafkaConfig, environment()), options.manifests, dict(options.sink)))
    except ConfigError as error:
        sys.exit(str(error))


def _sink(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not name or not url.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=URL")
    return name, url


if __name__ == "__main__":
    main()
