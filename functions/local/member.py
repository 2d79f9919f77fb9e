"""The member of the consumer group: Kafka's blocking client. All calls must come from one thread.

No call raises because of Kafka. While Kafka is away the member waits, and says so once.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection
from typing import Any

from functions.common import kafka_consumer
from functions.common.kafka import KafkaConfig, Partition, require_reachable
from functions.local.manifests import Source
from functions.local.offsets import Offsets

log = logging.getLogger(__name__)

MAX_RECORDS = 50
"""Records in hand at once, as KafkaSource's max.poll.records has it."""
OPTIONS = {
    "isolation_level": "read_committed",
    "max_partition_fetch_bytes": 4 * 1024 * 1024,
    "fetch_max_wait_ms": 200,
    # A member that died is replaced after this, and the embedded broker lets a new one wait half of it.
    "session_timeout_ms": 6000,
    "heartbeat_interval_ms": 1000,
    # A broker that hangs or comes back, and a topic that is made later, are noticed within seconds.
    "request_timeout_ms": 10_000,
    "reconnect_backoff_max_ms": 1000,
    "metadata_max_age_ms": 2000,
    # The one who creates a topic decides on its partitions.
    "allow_auto_create_topics": False,
}
_POLL_SECONDS = 0.2
_BUSY_POLL_SECONDS = 0.02
_PAUSE_SECONDS = 1.0
_COMMIT_SECONDS = 2.0
_CLOSE_SECONDS = 2.0


class Member:
    """One member that reads all partitions of the source's topics, from what the group committed last."""

    def __init__(self, config: KafkaConfig, source: Source, offsets: Offsets) -> None:
        self._config = config
        self._source = source
        self._offsets = offsets
        self._consumer: Any = None
        self._away = False

    def poll(self, room: int, busy: Collection[Partition]) -> list[Any]:
        """Up to `room` new records, none of a busy partition.

        Waits for some for a fifth of a second, less if a partition is busy, since that one may soon want more. Must be
        called again and again even with no room at all: it is what keeps the member in its group.
        """
        try:
            self._consumer = self._consumer or self._join()
            return self._read(self._consumer, room, busy)
        except Exception as error:  # noqa: BLE001  whatever the client throws, a new one is begun
            self._note(error)
            self._leave()
            time.sleep(_PAUSE_SECONDS)
            return []

    def commit(self) -> None:
        """Commit what is finished; what did not change is committed again, which shows whether Kafka is there."""
        if self._consumer and (done := self._offsets.done()):
            try:
                kafka_consumer.commit(self._consumer, done, _COMMIT_SECONDS)
            except Exception as error:  # noqa: BLE001  if the client cannot go on, it will not poll either
                self._note(error)
            else:
                self._note(None)

    def close(self) -> None:
        """Commit and leave the group."""
        if self._consumer:
            self.commit()
            self._leave()

    def _join(self) -> Any:
        require_reachable(self._config)
        reset = self._source.initial_offset
        consumer = kafka_consumer.consumer(self._config, [], self._source.group, auto_offset_reset=reset, **OPTIONS)
        kafka_consumer.keep_account(consumer, list(self._source.topics), self._offsets)
        self._note(None)
        return consumer

    def _read(self, consumer: Any, room: int, busy: Collection[Partition]) -> list[Any]:
        assigned = consumer.assignment()
        limit = room
        if self._source.ordered:
            # Records of one partition wait for each other: a share for each partition, so that none takes all room.
            limit = min(room, MAX_RECORDS // len(assigned)) if assigned else 1
        timeout = _BUSY_POLL_SECONDS if busy else _POLL_SECONDS
        records = kafka_consumer.poll(consumer, timeout, max(1, limit), busy if room > 0 else assigned)
        for record in records:
            self._offsets.took((record.topic, record.partition), record.offset)
        epoch = self._offsets.epoch
        self._offsets.reached(epoch, kafka_consumer.progress(consumer))
        return records

    def _note(self, error: Exception | None) -> None:
        if error and not self._away:
            log.warning("kafka is away", extra={"error": f"{type(error).__name__} {error}".strip()})
        elif self._away and not error:
            log.info("kafka is back")
        self._away = error is not None

    def _leave(self) -> None:
        self._offsets.assigned(())  # nothing is left to be committed, which would not end in time
        if self._consumer:
            with contextlib.suppress(Exception):  # it is given up in any case
                self._consumer.close(autocommit=False, timeout_ms=round(_CLOSE_SECONDS * 1000))
            self._consumer = None
            self._offsets.assigned(())
