"""Rollups: counts per minute, service and level of hours that are over, always equal to what the logs say.

An hour is settled if no insert has touched it since its rollup was made. Inserts count themselves per hour, within
the insert and after its rows (schema, 0002); a rollup keeps the count that it saw before it read the logs. So what is
stored after that makes the two differ, and the hour is counted from its logs again: a rollup can be useless for a
while, but never wrong.

`python -m functions.common.rollup` (or `make rollup`) makes the rollups that are missing; index does it as it goes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from functions.common import search, timestamps
from functions.common.clickhouse import ClickHouse, ClickHouseConfig
from functions.common.config import ConfigError, environment, load
from functions.common.errors import TorporError
from functions.common.record import TABLE
from functions.common.search import Filter, Statement

HOUR = 3600 * timestamps.NANOSECONDS
MINUTE_SECONDS = 60
OPEN_FOR = 300 * timestamps.NANOSECONDS
"""How long after its end an hour is left alone: most late logs have come by then."""
_MOST_HOURS = 1000

# How often each hour was touched, and how often before its rollup was made.
_STATES = (
    "SELECT tenant, hour, sum(touches) AS touched, sum(seen) AS rolled_up, sum(made) AS generation FROM ("
    "SELECT tenant, hour, sum(inserts) AS touches, toUInt64(0) AS seen, toUInt64(0) AS made "
    "FROM touched WHERE {range} GROUP BY tenant, hour UNION ALL "
    "SELECT tenant, hour, 0, argMax(inserts, generation), max(generation) "
    "FROM rollup_hours WHERE {range} GROUP BY tenant, hour) GROUP BY tenant, hour"
)


class _Hour(msgspec.Struct):
    tenant: str
    hour: int
    touched: int
    rolled_up: int
    generation: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a count of a range reads: rollups of these generations, and the logs of these ranges [start, end)."""

    generations: list[int]
    ranges: list[tuple[int, int]]


def covers(filter: Filter, seconds: int) -> bool:
    """Whether rollups know enough to count by this filter, per interval of so many seconds."""
    return not (filter.search or filter.trace_id or filter.metadata) and seconds % MINUTE_SECONDS == 0


def plan(filter: Filter, settled: Mapping[int, int], oldest: int) -> Plan:
    """Divide the filter's range into whole settled hours and the rest.

    `settled` maps starts of hours to generations. Nothing before `oldest` is read from rollups: logs that outlived
    their retention go day by day, rollups in their own time.
    """
    inside = sorted(hour for hour in settled if max(filter.start, oldest) <= hour and hour + HOUR <= filter.end)
    ranges: list[tuple[int, int]] = []
    at = filter.start
    for hour in inside:
        if at < hour:
            ranges.append((at, hour))
        at = hour + HOUR
    if at < filter.end:
        ranges.append((at, filter.end))
    return Plan([settled[hour] for hour in inside], ranges)


async def settled_hours(
    clickhouse: ClickHouse, tenant: str, start: int, end: int, limits: Mapping[str, int | str] | None = None
) -> dict[int, int]:
    """Generations of the settled hours of a tenant within [start, end), by the start of the hour in nanoseconds."""
    sql = _STATES.format(
        range="tenant = {tenant:String} AND hour >= toDateTime({first:UInt32}, 'UTC') "
        "AND hour <= toDateTime({last:UInt32}, 'UTC')"
    )
    rows = await clickhouse.select(
        f"SELECT tenant, toUnixTimestamp(hour) AS hour, touched, rolled_up, generation FROM ({sql}) "
        "WHERE generation > 0 AND touched = rolled_up",
        {"tenant": tenant, "first": _seconds(start), "last": _seconds(end)},
        limits,
    )
    hours = (msgspec.json.decode(row, type=_Hour) for row in rows.splitlines())
    return {hour.hour * timestamps.NANOSECONDS: hour.generation for hour in hours}


def aggregate(filter: Filter, parts: Plan, seconds: int, most: int, *, hour: bool) -> Statement:
    """Counts per interval, service and level from rollups and logs together, at most `most` rows."""
    match = search.where(filter)
    again = "time AS hour, " if hour else ""
    interval = f"toIntervalSecond({seconds:d})"
    selects, parameters = [], dict(match.parameters)
    if parts.generations:
        conditions = " AND ".join(["tenant = {tenant:String}", "generation IN {generations:Array(UInt64)}"])
        for column, value in (("service", "services"), ("level", "levels")):
            if value in parameters:
                conditions += f" AND {column} IN {{{value}:Array(String)}}"
        selects.append(
            f"SELECT toStartOfInterval(minute, {interval}, 'UTC') AS at, service, level, sum(count) AS n "
            f"FROM rollup WHERE {conditions} AND hour >= toDateTime({{first:UInt32}}, 'UTC') "
            "AND hour < toDateTime({last:UInt32}, 'UTC') GROUP BY at, service, level"
        )
        parameters |= {
            "generations": parts.generations,
            "first": _seconds(filter.start),
            "last": _seconds(filter.end) + 3600,
        }
    if parts.ranges:
        pieces, bounds = _ranges(parts.ranges)
        selects.append(
            f"SELECT toDateTime(toStartOfInterval(timestamp, {interval}, 'UTC'), 'UTC') AS at, service, level, "
            f"count() AS n FROM {TABLE} FINAL WHERE {match.sql} AND ({pieces}) GROUP BY at, service, level"
        )
        parameters |= bounds
    sql = (
        f"SELECT toDateTime64(at, 0, 'UTC') AS time, {again}service, level, sum(n) AS count "
        f"FROM ({' UNION ALL '.join(selects)}) "
        f"GROUP BY time, service, level ORDER BY time, service, level LIMIT {most:d}"
    )
    return Statement(sql, parameters)


async def settle(clickhouse: ClickHouse, now: int) -> int:
    """Make the rollups of hours that are over and were touched since; return how many were made."""
    last = _seconds(now - OPEN_FOR) - 3600
    sql = _STATES.format(range="hour <= toDateTime({last:UInt32}, 'UTC')")
    rows = await clickhouse.select(
        f"SELECT tenant, toUnixTimestamp(hour) AS hour, touched, rolled_up, generation FROM ({sql}) "
        f"WHERE touched != rolled_up AND touched > 0 ORDER BY hour DESC LIMIT {_MOST_HOURS}",
        {"last": last},
    )
    for row in rows.splitlines():
        await _roll_up(clickhouse, msgspec.json.decode(row, type=_Hour))
    return len(rows.splitlines())


async def _roll_up(clickhouse: ClickHouse, hour: _Hour) -> None:
    # Made of the time, so that a later one is larger, and of chance, so that no two are alike.
    generation = time.time_ns() >> 16 << 16 | secrets.randbits(16)
    start = hour.hour * timestamps.NANOSECONDS
    match = search.where(Filter(hour.tenant, start, start + HOUR))
    await clickhouse.command(
        "INSERT INTO rollup SELECT tenant, toDateTime({hour:UInt32}, 'UTC'), {generation:UInt64}, "
        "toDateTime(toStartOfMinute(timestamp, 'UTC'), 'UTC') AS minute, service, level, count() "
        f"FROM {TABLE} FINAL WHERE {match.sql} GROUP BY tenant, minute, service, level",
        {**match.parameters, "hour": hour.hour, "generation": generation},
    )
    state = {"tenant": hour.tenant, "hour": hour.hour, "generation": generation, "inserts": hour.touched}
    await clickhouse.insert("rollup_hours", msgspec.json.encode(state))


def _ranges(ranges: Iterable[tuple[int, int]]) -> tuple[str, dict[str, Any]]:
    pieces: list[str] = []
    parameters: dict[str, Any] = {}
    for number, (start, end) in enumerate(ranges):
        pieces.append(
            f"(timestamp >= fromUnixTimestamp64Nano({{start{number}:Int64}}, 'UTC') "
            f"AND timestamp < fromUnixTimestamp64Nano({{end{number}:Int64}}, 'UTC'))"
        )
        parameters |= {f"start{number}": start, f"end{number}": end}
    return " OR ".join(pieces), parameters


def _seconds(nanoseconds: int) -> int:
    """Seconds of the hour that a moment lies in, within what ClickHouse's DateTime holds."""
    return min(nanoseconds // HOUR * 3600, 2**32 - 7200)


def main() -> None:
    """Make the rollups that are missing on the configured server."""
    try:
        clickhouse = ClickHouse.server(load(ClickHouseConfig, environment()))
        print(f"made the rollups of {asyncio.run(settle(clickhouse, timestamps.now()))} hours")
    except (ConfigError, TorporError) as error:
        sys.exit(f"rollup: {error}")


if __name__ == "__main__":
    main()
