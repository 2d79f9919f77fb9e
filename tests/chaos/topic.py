"""What the judge and the faults ask of Kafka: how far the source is, what lies among the dead letters, and rewinding.

All calls block and are bounded in time. Each has a client of its own: brokers die here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import kafka
import kafka.errors
import msgspec

from functions.common.event import Event

GROUP = "torpor-index"
LOGS, DEAD_LETTERS = "logs", "logs-dead-letter"
_SECONDS = 5
_MILLISECONDS = _SECONDS * 1000


class Topics:
    """The topics behind a bootstrap address."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def lag(self) -> int:
        """Records of the log topic that the group has not committed. Raises KafkaError if Kafka does not answer."""
        with self._client() as client:
            partitions = _partitions(client, LOGS)
            ends = client.end_offsets(partitions, timeout_ms=_MILLISECONDS)
            done = sum(client.committed(partition, timeout_ms=_MILLISECONDS) or 0 for partition in partitions)
            return int(sum(ends.values()) - done)

    def rewind(self) -> int:
        """Set the group to the earliest offsets and return how many records it will read again. No member may run."""
        with self._client() as client:
            partitions = _partitions(client, LOGS)
            begins = client.beginning_offsets(partitions, timeout_ms=_MILLISECONDS)
            ends = client.end_offsets(partitions, timeout_ms=_MILLISECONDS)
            offsets = {partition: kafka.OffsetAndMetadata(begins[partition], "", -1) for partition in partitions}
            client.commit(offsets, timeout_ms=_MILLISECONDS)
            return int(sum(ends.values()) - sum(begins.values()))

    def produce(self, event: Event) -> None:
        """Put an event into the log topic, past ingest."""
        producer = kafka.KafkaProducer(bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=False)
        try:
            producer.send(LOGS, key=event.id.encode(), value=event.data, headers=event.kafka_headers())
            producer.flush(timeout=_SECONDS)
        finally:
            producer.close(timeout=_SECONDS)

    def dead_letter_ids(self, prefix: str) -> set[str]:
        """Trace ids, beginning with `prefix`, of all logs among the dead letters."""
        found: set[str] = set()
        with self._client() as client:
            partitions = _partitions(client, DEAD_LETTERS)
            client.assign(partitions)
            client.seek_to_beginning(*partitions)
            ends = client.end_offsets(partitions, timeout_ms=_MILLISECONDS)
            while any(client.position(partition, timeout_ms=_MILLISECONDS) < end for partition, end in ends.items()):
                for records in client.poll(timeout_ms=1000).values():
                    for record in records:
                        found.update(_trace_ids(record.value or b""))
        return {uid for uid in found if uid.startswith(prefix)}

    @contextlib.contextmanager
    def _client(self) -> Iterator[kafka.KafkaConsumer]:
        client = kafka.KafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=GROUP,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            bootstrap_timeout_ms=_MILLISECONDS,
        )
        try:
            yield client
        finally:
            client.close(autocommit=False, timeout_ms=1000)


def _partitions(client: kafka.KafkaConsumer, topic: str) -> list[kafka.TopicPartition]:
    # Nothing to look at would look like nothing left to do.
    if not (numbers := client.partitions_for_topic(topic)):
        raise kafka.errors.UnknownTopicOrPartitionError(topic)
    return [kafka.TopicPartition(topic, number) for number in numbers]


def _trace_ids(data: bytes) -> Iterator[str]:
    for line in data.splitlines():
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            yield str(msgspec.json.decode(line)["trace_id"])
