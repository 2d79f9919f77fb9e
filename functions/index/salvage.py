"""When ClickHouse refuses an event: store the good lines, send the bad ones to the dead-letter topic.

A line that is no row as the record declares it is bad at once. What ClickHouse refuses beyond that is found by
halving, so one bad line among 10,000 costs some 30 inserts.
"""

from __future__ import annotations

import asyncio
import logging
import re

import msgspec

from functions.common import metrics
from functions.common.clickhouse import ClickHouse
from functions.common.errors import BadRows
from functions.common.event import DeadLetter, Event
from functions.common.kafka import Publisher
from functions.common.record import TABLE, decode

log = logging.getLogger(__name__)
_AT_ONCE = 100
"""Dead letters on their way at a time."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


async def salvage(event: Event, clickhouse: ClickHouse, publisher: Publisher, topic: str) -> None:
    """Store what can be stored of `event`, and publish the rest to `topic`.

    Returns when every line is in ClickHouse or in Kafka. Raises Transient if one of them cannot take its part now:
    then the event must come again, and repeating the whole is harmless.
    """
    good: list[bytes] = []
    bad: list[tuple[bytes, BadRows]] = []
    for line in event.data.split(b"\n"):
        if reason := fault(line, event.tenant):
            bad.append((line, BadRows(reason)))
        elif line.strip():
            good.append(line)
    bad += await _insert(good, clickhouse)
    letters = [DeadLetter(event, line, _CONTROL.sub(" ", str(error))[:500], error.code) for line, error in bad]
    for start in range(0, len(letters), _AT_ONCE):
        some = letters[start : start + _AT_ONCE]
        await asyncio.gather(*(publisher.publish(topic, event.id, one.data, one.kafka_headers()) for one in some))
    metrics.DEAD_LETTERS.inc(len(bad))
    if bad:
        extra = {"event": event.id, "origin": event.origin, "lines": len(bad), "reason": str(bad[0][1])[:500]}
        log.error("lines went to the dead-letter topic", extra=extra)


def fault(line: bytes, tenant: str) -> str:
    """Why a line is no row of the tenant's, whatever ClickHouse says; empty if it is one, or is blank."""
    try:
        record = decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"not a row: {error}" if line.strip() else ""
    return "" if record.tenant == tenant else "the row's tenant is not the event's"


async def _insert(lines: list[bytes], clickhouse: ClickHouse) -> list[tuple[bytes, BadRows]]:
    """Insert the lines; return those that ClickHouse refuses even alone."""
    if not lines:
        return []
    try:
        await clickhouse.insert(TABLE, b"\n".join(lines))
    except BadRows as error:
        if len(lines) == 1:
            return [(lines[0], error)]
        half = len(lines) // 2
        return [*await _insert(lines[:half], clickhouse), *await _insert(lines[half:], clickhouse)]
    return []
