"""The search that query and export share: a filter, the SQL it means, and the cursor that walks its pages. Pure.

Every value reaches ClickHouse as a parameter, never as text of the statement. Every read says FINAL, so a log that
was stored twice is seen once.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

from functions.common.errors import BadRequest
from functions.common.record import TABLE

ROW = (
    "concat(toString(toUnixTimestamp64Nano(timestamp)), '-', leftPad(lower(hex(dedupe)), 16, '0')) AS id, "
    "timestamp, tenant, service, level, message, metadata, trace_id, span_id"
)
"""The columns of a log as the API shows it, in its order."""

ROW_SETTINGS = {"date_time_output_format": "iso"}
"""Timestamps as RFC 3339 with nine digits."""


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which logs: of `tenant`, from `start` (inclusive) to `end` (exclusive) in nanoseconds, and all that is set."""

    tenant: str
    start: int
    end: int
    services: list[str] = dataclasses.field(default_factory=list)
    levels: list[str] = dataclasses.field(default_factory=list)
    search: str = ""
    trace_id: str = ""
    metadata: dict[str, list[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Cursor:
    """The place after a log in the walk through the range from `start` to `end`.

    The range travels with the cursor, so a walk that began "up to now" does not shift while it goes on.
    """

    start: int
    end: int
    timestamp: int
    dedupe: int

    def encode(self) -> str:
        """The cursor as opaque text."""
        return base64.urlsafe_b64encode(msgspec.json.encode(dataclasses.astuple(self))).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Read what `encode` wrote; raises BadRequest if it is anything else."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            cursor = cls(*msgspec.json.decode(raw, type=tuple[int, int, int, int]))
        except (msgspec.DecodeError, binascii.Error, ValueError):
            raise BadRequest("not a cursor", {"cursor": "expected the value of `next` of the page before"}) from None
        if not all(0 <= value < 1 << 63 for value in (cursor.start, cursor.end, cursor.timestamp)):
            raise BadRequest("not a cursor", {"cursor": "it names no time"})
        if not 0 <= cursor.dedupe < 1 << 64:
            raise BadRequest("not a cursor", {"cursor": "it names no log"})
        return cursor


@dataclasses.dataclass(frozen=True)
class Statement:
    """SQL and its parameters."""

    sql: str
    parameters: dict[str, Any]


# One row a condition: when it applies, its SQL, its parameter.
_CONDITIONS: tuple[tuple[Callable[[Filter], Any], str, str], ...] = (
    (lambda f: f.services, "service IN {services:Array(String)}", "services"),
    (lambda f: f.levels, "level IN {levels:Array(String)}", "levels"),
    # Lower case on both sides: the same rows with the text index, which holds lowerUTF8(message), and without it.
    (lambda f: f.search, "hasAllTokens(lowerUTF8(message), lowerUTF8({search:String}))", "search"),
    (lambda f: f.trace_id, "trace_id = {trace_id:String}", "trace_id"),
)


def where(filter: Filter) -> Statement:
    """The conditions of a filter, joined by AND."""
    conditions = [
        "tenant = {tenant:String}",
        "timestamp >= fromUnixTimestamp64Nano({start:Int64}, 'UTC')",
        "timestamp < fromUnixTimestamp64Nano({end:Int64}, 'UTC')",
    ]
    parameters: dict[str, Any] = {"tenant": filter.tenant, "start": filter.start, "end": filter.end}
    for value_of, sql, name in _CONDITIONS:
        if value := value_of(filter):
            conditions.append(sql)
            parameters[name] = value
    for number, (key, values) in enumerate(filter.metadata.items()):
        # The first half is implied by the second; it is what the index on values can answer.
        conditions.append(f"hasAny(mapValues(metadata), {{values{number}:Array(String)}})")
        conditions.append(f"metadata[{{key{number}:String}}] IN {{values{number}:Array(String)}}")
        parameters |= {f"key{number}": key, f"values{number}": values}
    return Statement(" AND ".join(conditions), parameters)


def newest(filter: Filter, limit: int, after: Cursor | None = None, offset: int = 0) -> Statement:
    """The newest `limit` logs, or the next ones after a cursor."""
    match = where(filter)
    place, parameters = _place(after, "<=", "<")
    sql = (
        f"SELECT {ROW} FROM {TABLE} FINAL WHERE {match.sql}{place} "
        f"ORDER BY timestamp DESC, dedupe DESC LIMIT {limit:d} OFFSET {offset:d}"
    )
    return Statement(sql, match.parameters | parameters)


def oldest(filter: Filter, limit: int, after: Cursor | None = None, columns: str = ROW) -> Statement:
    """The oldest `limit` logs, or the next ones after a cursor, in the order in which they are stored."""
    match = where(filter)
    place, parameters = _place(after, ">=", ">")
    sql = f"SELECT {columns} FROM {TABLE} FINAL WHERE {match.sql}{place} ORDER BY timestamp, dedupe LIMIT {limit:d}"
    return Statement(sql, match.parameters | parameters)


def count(filter: Filter, most: int | None) -> Statement:
    """How many logs match; with `most`, counting stops there."""
    match = where(filter)
    if most is None:
        return Statement(f"SELECT count() AS n FROM {TABLE} FINAL WHERE {match.sql}", match.parameters)
    inner = f"SELECT 1 FROM {TABLE} FINAL WHERE {match.sql} LIMIT {most:d}"
    return Statement(f"SELECT count() AS n FROM ({inner})", match.parameters)


def one(tenant: str, timestamp: int, dedupe: int) -> Statement:
    """The log with this identity."""
    sql = (
        f"SELECT {ROW} FROM {TABLE} FINAL WHERE tenant = {{tenant:String}} "
        "AND timestamp = fromUnixTimestamp64Nano({timestamp:Int64}, 'UTC') AND dedupe = {dedupe:UInt64}"
    )
    return Statement(sql, {"tenant": tenant, "timestamp": timestamp, "dedupe": dedupe})


def _place(after: Cursor | None, at: str, beyond: str) -> tuple[str, dict[str, Any]]:
    if after is None:
        return "", {}
    # Not a comparison of tuples: only this form lets the primary key skip what was read before.
    moment = "fromUnixTimestamp64Nano({cursor_timestamp:Int64}, 'UTC')"
    sql = f" AND timestamp {at} {moment} AND (timestamp {beyond} {moment} OR dedupe {beyond} {{cursor_dedupe:UInt64}})"
    return sql, {"cursor_timestamp": after.timestamp, "cursor_dedupe": after.dedupe}
