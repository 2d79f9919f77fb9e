"""The record: what one log is, everywhere.

`Record` is the declaration of record: its fields, in this order, are the table's columns. A test holds the schema and
the README's table to it. `Incoming` is what a client sends, before it is checked.
"""

from __future__ import annotations

import msgspec

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")

# Names that common loggers and syslog use, in lower case; and the levels themselves, which most logs have as they are.
LEVEL_ALIASES = {
    **{level: level for level in LEVELS},
    **{level.lower(): level for level in LEVELS},
    "trc": "TRACE",
    "finest": "TRACE",
    "dbg": "DEBUG",
    "verbose": "DEBUG",
    "fine": "DEBUG",
    "inf": "INFO",
    "information": "INFO",
    "informational": "INFO",
    "notice": "INFO",
    "log": "INFO",
    "warning": "WARN",
    "wrn": "WARN",
    "err": "ERROR",
    "severe": "ERROR",
    "critical": "FATAL",
    "crit": "FATAL",
    "alert": "FATAL",
    "emerg": "FATAL",
    "emergency": "FATAL",
    "panic": "FATAL",
}


class Record(msgspec.Struct, gc=False, frozen=True, forbid_unknown_fields=True):
    """One log, as it lies in an event and as ClickHouse reads it (JSONEachRow).

    `timestamp` is nanoseconds since 1970 in UTC as 19 digits: ClickHouse reads digits in a string as nanoseconds when
    there are 19 of them, and a JSON number as seconds. `dedupe` is the log's identity beside tenant and timestamp.
    """

    tenant: str
    timestamp: str
    service: str
    level: str
    message: str
    metadata: dict[str, str]
    trace_id: str
    span_id: str
    dedupe: int


class Incoming(msgspec.Struct, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """A log as clients send it, in whatever protocol: what every decoder makes, and JSON lines to ingest hold.

    `timestamp` is what timestamps.parse reads, or None for the time of arrival; `id` is the client's own identity of
    the log.
    """

    service: str = ""
    message: str = ""
    timestamp: str | int | float | None = None
    level: str | int = "INFO"
    metadata: dict[str, str] = {}
    trace_id: str = ""
    span_id: str = ""
    id: str = ""


UNKNOWN_SERVICE = "unknown_service"
"""The service of a log whose protocol has no place for it: OpenTelemetry's name for the same."""

COLUMNS = Record.__struct_fields__
TABLE = "logs"

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Record).decode
