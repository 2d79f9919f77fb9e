"""The event: one CloudEvent 1.0 in binary mode is one Kafka record and holds one batch of logs.

Data is JSON lines, each a `Record`, exactly as ClickHouse reads them, so index inserts the bytes as they are.
Headers are `ce_...` in Kafka (CloudEvents Kafka binding 1.0) and `ce-...` over HTTP, where KafkaSource posts them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from urllib.parse import unquote

from functions.common import timestamps
from functions.common.errors import NotOurs
from functions.common.identity import batch_id

TYPE = "io.torpor.logs.batch.v1"
DEAD_LETTER_TYPE = "io.torpor.logs.deadletter.v1"
SOURCE = "/torpor/ingest"
CONTENT_TYPE = "application/x-ndjson"

MAX_DATA_BYTES = 1_000_000
"""Bytes of data an event may hold: with headers it stays below 1 MiB, Kafka's usual limit of a record."""
MAX_LOGS = 10_000
"""Logs an event may hold."""
MAX_RECORD_BYTES = 2 * 1024 * 1024
"""What topic and producer allow a record: an event with room to spare."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A batch of one tenant's logs.

    `origin` says where in Kafka it was read ("partition/offset"), if it was; `time` is when ingest made it, in
    nanoseconds, or 0 if that is not known; `traceparent` is the trace it belongs to, if it is traced.
    """

    id: str
    tenant: str
    data: bytes
    origin: str = ""
    time: int = dataclasses.field(default=0, compare=False)
    traceparent: str = ""

    @classmethod
    def fresh(cls, tenant: str, data: bytes, traceparent: str = "") -> Event:
        """A new event with an id of its own."""
        return cls(batch_id(), tenant, data, traceparent=traceparent)

    def kafka_headers(self) -> list[tuple[str, bytes]]:
        """The record's headers."""
        attributes = {
            "specversion": "1.0",
            "id": self.id,
            "source": SOURCE,
            "type": TYPE,
            "time": timestamps.iso(timestamps.now()),
            # KafkaSource does not map the record's key, so the attribute repeats it.
            "partitionkey": self.id,
            "tenant": self.tenant,
            "traceparent": self.traceparent,
        }
        return [
            *((f"ce_{name}", value.encode()) for name, value in attributes.items() if value),
            ("content-type", CONTENT_TYPE.encode()),
        ]

    @classmethod
    def from_http(cls, headers: Mapping[str, str], data: bytes) -> Event:
        """Read what KafkaSource posts. Raises NotOurs if it is no event of ingest's."""
        if headers.get("ce-specversion") != "1.0":
            raise NotOurs("no CloudEvent in binary mode: the header ce-specversion is not 1.0")
        if headers.get("ce-type") != TYPE:
            raise NotOurs(f"the event's type is {headers.get('ce-type', '')[:128]!r}, not {TYPE}")
        for name in ("ce-id", "ce-source", "ce-tenant"):
            if not headers.get(name):
                raise NotOurs(f"the event has no {name}")
        # Values are percent-encoded where a header could not hold them (HTTP binding 1.0, 3.1.3.2).
        event_id, tenant = unquote(headers["ce-id"]), unquote(headers["ce-tenant"])
        origin = "/".join(headers.get(f"ce-knativekafka{name}", "") for name in ("partition", "offset"))
        time, traceparent = _time(headers.get("ce-time", "")), headers.get("ce-traceparent", "")
        return cls(event_id, tenant, data, origin.strip("/"), time, traceparent)


def _time(text: str) -> int:
    try:
        return timestamps.parse(text)
    except ValueError:
        return 0


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """Bytes of an event that ClickHouse refuses, with the reason."""

    event: Event
    data: bytes
    reason: str
    code: int

    def kafka_headers(self) -> list[tuple[str, bytes]]:
        """The record's headers: a CloudEvent that names the event it was part of."""
        attributes = {
            "specversion": "1.0",
            "id": batch_id(),
            "source": "/torpor/index",
            "type": DEAD_LETTER_TYPE,
            "time": timestamps.iso(timestamps.now()),
            "tenant": self.event.tenant,
            "reason": self.reason,
            "code": str(self.code),
            "originid": self.event.id,
            "origin": self.event.origin,
        }
        return [
            *((f"ce_{name}", value.encode()) for name, value in attributes.items() if value),
            ("content-type", CONTENT_TYPE.encode()),
        ]
