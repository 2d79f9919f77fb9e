"""Reading a topic, or a part of it, once: in no group and without committing anything.

A pass ends at the end that the topic has when it begins, so it ends even while others write. That end is taken from
what is fetched: it is the one place where every broker tells it right.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from functions.common import kafka_consumer
from functions.common.envelope import Record
from functions.common.errors import KafkaUnavailable, NotFound
from functions.common.kafka import KafkaConfig, Partition
from functions.common.kafka_consumer import KafkaError

Offsets = Mapping[int, Sequence[range]]
"""The offsets that are wanted, by the number of their partition."""

EVERY = range(sys.maxsize)
SILENCE = 30.0
"""Seconds without any progress after which Kafka counts as away."""
_POLL_SECONDS = 0.2
_POLL_RECORDS = 50
_OPTIONS = {
    "isolation_level": "read_committed",
    # An offset that is not there is an error: to go on elsewhere would be to skip records, or to read all of them.
    "auto_offset_reset": "none",
    "allow_auto_create_topics": False,
    "fetch_max_bytes": 16 * 1024 * 1024,
    "fetch_max_wait_ms": 200,
    "request_timeout_ms": 10_000,
}
_RANGE = re.compile(r"(\d{1,9}):(\d{1,18})(-)?(\d{1,18})?", re.ASCII)


def parse_offsets(text: str) -> Offsets:
    """Offsets such as `0:100-200,3:17,5:0-`: partition, colon, first and last offset. Raises ValueError."""
    offsets: dict[int, list[range]] = {}
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match:
            raise ValueError(f"{part[:64]!r} is no range of offsets: expected one like 0:100-200, 0:17 or 0:100-")
        first = int(match[2])
        last = int(match[4]) if match[4] else sys.maxsize if match[3] else first
        if last < first:
            raise ValueError(f"{part[:64]!r} ends before it begins")
        offsets.setdefault(int(match[1]), []).append(range(first, min(last + 1, sys.maxsize)))
    return offsets


class Reader:
    """One pass over `topic`: the `offsets`, or all of it, from the first record since `since` (milliseconds) on.

    `total` is the number of offsets to pass, 0 as long as it is not known, and `passed` says how many are behind.
    """

    def __init__(self, config: KafkaConfig, topic: str, offsets: Offsets | None = None, since: int = 0) -> None:
        self._config = config
        self._topic = topic
        self._offsets = offsets
        self._since = since
        self._starts: dict[int, int] = {}
        self._stops: dict[int, int] = {}
        self._positions: dict[int, int] = {}

    @property
    def total(self) -> int:
        """Offsets between the beginnings and the ends."""
        if len(self._stops) < len(self._starts):
            return 0
        return sum(max(stop - self._starts[number], 0) for number, stop in self._stops.items())

    @property
    def passed(self) -> int:
        """Offsets that were read, or skipped as nothing is there."""
        return sum(
            max(min(self._positions.get(number, start), self._stops.get(number, 0)) - start, 0)
            for number, start in self._starts.items()
        )

    def __iter__(self) -> Iterator[Record]:
        """The records, in order within each partition.

        Raises NotFound if the topic, a partition or an offset is not there, KafkaUnavailable if Kafka is not.
        """
        try:
            consumer = kafka_consumer.consumer(self._config, [], None, **_OPTIONS)
            try:
                yield from self._read(consumer)
            finally:
                consumer.close(autocommit=False, timeout_ms=2000)
        except kafka_consumer.OffsetOutOfRangeError as error:
            raise NotFound(f"{self._topic} has no such offset: {error}") from error
        except KafkaError as error:
            raise KafkaUnavailable(f"Kafka cannot be read: {type(error).__name__} {error}".strip()) from error

    def _read(self, consumer: Any) -> Iterator[Record]:
        self._begin(consumer)
        silent_since = time.monotonic()
        while not self._done():
            passed = {(self._topic, number) for number in self._starts if self._passed(number)}
            records = kafka_consumer.poll(consumer, _POLL_SECONDS, _POLL_RECORDS, passed)
            before = dict(self._positions), dict(self._stops)
            self._note(kafka_consumer.progress(consumer))
            yield from filter(self._wanted, records)
            # Whoever takes the records may take a long time for it.
            if records or before != (self._positions, self._stops):
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > SILENCE:
                raise KafkaUnavailable(f"Kafka has sent nothing of {self._topic} for {SILENCE:.0f} seconds")

    def _begin(self, consumer: Any) -> None:
        first = kafka_consumer.first_offsets(consumer, self._topic, self._since)
        if not first:
            raise NotFound(f"Kafka has no topic {self._topic}")
        if missing := sorted((self._offsets or {}).keys() - first.keys()):
            raise NotFound(f"{self._topic} has no partition {missing[0]}")
        for number, offset in first.items():
            if offset is not None and (self._offsets is None or number in self._offsets):
                self._starts[number] = max(offset, min(wanted.start for wanted in self._ranges(number)))
        if self._starts:
            kafka_consumer.read_from(consumer, {(self._topic, number): start for number, start in self._starts.items()})

    def _note(self, progress: Mapping[Partition, tuple[int, int | None]]) -> None:
        for (_, number), (position, end) in progress.items():
            self._positions[number] = position
            if end is not None and number not in self._stops:
                if end < self._starts[number]:
                    raise NotFound(f"partition {number} of {self._topic} ends before offset {self._starts[number]}")
                self._stops[number] = min(end, max(wanted.stop for wanted in self._ranges(number)))

    def _wanted(self, record: Record) -> bool:
        number, offset = record.partition, record.offset
        return offset < self._stops.get(number, 0) and any(offset in wanted for wanted in self._ranges(number))

    def _ranges(self, number: int) -> Sequence[range]:
        return [EVERY] if self._offsets is None else self._offsets[number]

    def _passed(self, number: int) -> bool:
        return number in self._stops and self._positions[number] >= self._stops[number]

    def _done(self) -> bool:
        return all(self._passed(number) for number in self._starts)
