"""The record: what one log is, everywhere.

`Record` is the declaration of record: its fields, in this order, are the table's columns. A test holds the schema and
the README's table to it.
"""

from __future__ import annotations

import msgspec

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")

# Names that common loggers and syslog use, in lower case.
LEVEL_ALIASES = {
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


COLUMNS = Record.__struct_fields__
TABLE = "logs"

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Record).decode
