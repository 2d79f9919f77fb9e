"""Kafka, the reading side: for the KafkaSource stand-in, and for commands that read a topic."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import kafka
import kafka.errors

from functions.common.kafka import KafkaConfig, Partition

log = logging.getLogger(__name__)

KafkaError = kafka.errors.KafkaError
OffsetOutOfRangeError = kafka.errors.OffsetOutOfRangeError
_REBALANCING = (
    kafka.errors.CommitFailedError,
    kafka.errors.IllegalGenerationError,
    kafka.errors.RebalanceInProgressError,
    kafka.errors.UnknownMemberIdError,
)


def consumer(config: KafkaConfig, topics: list[str], group: str | None, **options: Any) -> kafka.KafkaConsumer:
    """A consumer of `topics` in `group`, if any, that commits only when told to.

    Not to be used by two threads at once.
    """
    return kafka.KafkaConsumer(*topics, **config.connection(), group_id=group, enable_auto_commit=False, **options)


class Account(Protocol):
    """Keeps account of a consumer's partitions. Is called on the client's own thread, at any time."""

    def assigned(self, partitions: Collection[Partition]) -> None:
        """These are the consumer's, and no others. It goes on where it was in those that it had before."""

    def done(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """The offsets to commit of partitions that may go."""

    def lost(self, partitions: Collection[Partition]) -> None:
        """These are no longer the consumer's, and nothing can be committed."""


def first_offsets(consumer: kafka.KafkaConsumer, topic: str, since: int = 0) -> dict[int, int | None]:
    """The first offset of each partition of the topic; empty if there is no such topic.

    With `since`, in milliseconds since 1970, no record of that time or later comes before the offset, and the offset
    is None if there is no such record.
    """
    partitions = [kafka.TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
    if not partitions:
        return {}
    offsets: dict[int, int | None] = {p.partition: first for p, first in consumer.beginning_offsets(partitions).items()}
    if since:
        for partition, found in consumer.offsets_for_times(dict.fromkeys(partitions, since)).items():
            offsets[partition.partition] = max(offsets[partition.partition] or 0, found.offset) if found else None
    return offsets


def read_from(consumer: kafka.KafkaConsumer, offsets: Mapping[Partition, int]) -> None:
    """Let a consumer that is in no group read these partitions from these offsets on."""
    partitions = {kafka.TopicPartition(*partition): offset for partition, offset in offsets.items()}
    consumer.assign(list(partitions))
    for partition, offset in partitions.items():
        consumer.seek(partition, offset)


def keep_account(consumer: kafka.KafkaConsumer, topics: list[str], account: Account) -> None:
    """Subscribe to the topics; the account is told of every rebalance, and what is done is committed before one."""
    consumer.subscribe(topics, listener=_Rebalance(consumer, account))


def poll(consumer: kafka.KafkaConsumer, timeout: float, limit: int, paused: Collection[Partition]) -> list[Any]:
    """Up to `limit` new records, none of a paused partition; waits for the first one up to `timeout` seconds."""
    assigned = consumer.assignment()
    held = {partition for partition in assigned if partition in paused}
    consumer.pause(*held)
    consumer.resume(*(assigned - held))
    # The client (3.0.12) puts aside what it has parsed of a paused partition, and takes it up again only at the begin
    # of a poll, and only if nothing is in this place. It leaves a drained rest there, and would never come to it.
    polled = consumer.poll(timeout_ms=0, max_records=limit)
    if not polled:
        consumer._fetcher._next_partition_records = consumer._fetcher._next_partition_records or None
        polled = consumer.poll(timeout_ms=round(timeout * 1000), max_records=limit)
    return [record for records in polled.values() for record in records]


def progress(consumer: kafka.KafkaConsumer) -> dict[Partition, tuple[int, int | None]]:
    """Position of the consumer and end of each of its partitions as of the last fetch. Does not wait for Kafka.

    A partition is missing as long as its position is unknown, and its end is None before its first fetch.
    """
    places = {}
    for partition in consumer.assignment():
        try:
            position, end = consumer.position(partition, timeout_ms=0), consumer.highwater(partition)
        except (kafka.errors.IllegalStateError, KeyError):
            continue  # it went just now
        if position is not None:
            places[partition.topic, partition.partition] = position, end
    return places


def commit(consumer: kafka.KafkaConsumer, offsets: Mapping[Partition, int], timeout: float) -> None:
    """Commit the next offset to read of each partition. Raises KafkaError if Kafka does not answer in time.

    Does nothing while partitions are given out anew: records may then be read twice.
    """
    try:
        consumer.commit(_committable(offsets), timeout_ms=round(timeout * 1000))
    except _REBALANCING:
        log.info("offsets are not committed during a rebalance")


class _Rebalance(kafka.AsyncConsumerRebalanceListener):  # type: ignore[misc]  # the client has no types
    def __init__(self, consumer: kafka.KafkaConsumer, account: Account) -> None:
        self._consumer = consumer
        self._account = account

    async def on_partitions_revoked(self, revoked: set[Partition]) -> None:
        if offsets := self._account.done(revoked):
            try:
                await self._consumer.commit_async(_committable(offsets))
            except (kafka.errors.KafkaError, RuntimeError) as error:
                log.warning("offsets of revoked partitions are not committed", extra={"error": str(error)})

    async def on_partitions_assigned(self, assigned: set[Partition]) -> None:
        self._account.assigned(assigned)

    async def on_partitions_lost(self, lost: set[Partition]) -> None:
        self._account.lost(lost)


def _committable(offsets: Mapping[Partition, int]) -> dict[kafka.TopicPartition, kafka.OffsetAndMetadata]:
    return {
        kafka.TopicPartition(*partition): kafka.OffsetAndMetadata(offset, "", -1)
        for partition, offset in offsets.items()
    }
