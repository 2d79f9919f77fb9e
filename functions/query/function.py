"""Query: search, count and fetch logs.

A request becomes a Filter, the filter SQL, and ClickHouse's rows go out as the bytes they came in: they are JSON
already, under the names of the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Mapping

import msgspec

from functions.common import rollup, search, timestamps
from functions.common.clickhouse import ClickHouse, ClickHouseConfig
from functions.common.config import load, setting
from functions.common.errors import BadRequest, ClickHouseUnavailable, NotFound, Overloaded
from functions.common.identity import parse_log_id
from functions.common.parameters import SearchParameters, interval_seconds, to_filter
from functions.common.search import Cursor, Filter, Statement
from functions.query.models import EXACT_UP_TO, Dependency, Health, LogQuery
from functions.query.routes import routes

MAX_BUCKETS = 50_000


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of query."""

    clickhouse: ClickHouseConfig = dataclasses.field(default_factory=ClickHouseConfig)
    tenant: str = setting("default", "Tenant that logs are stored and searched under")
    retention_days: int = setting(30, "Days after which logs are deleted; ingest refuses older ones")
    query_timeout: int = setting(30, "Seconds a query may run")
    query_memory_bytes: int = setting(2 * 1024**3, "Bytes of memory a query may use in ClickHouse")
    query_rows_read: int = setting(0, "Rows a query may read; 0 is no limit")

    def limits(self) -> dict[str, int | str]:
        """The settings of ClickHouse that bound a query."""
        return {
            "max_execution_time": self.query_timeout,
            "max_memory_usage": self.query_memory_bytes,
            "max_rows_to_read": self.query_rows_read,
            **search.ROW_SETTINGS,
        }


class Query:
    """The function: one instance a process."""

    def __init__(self, config: Config, clickhouse: ClickHouse) -> None:
        self.config = config
        self.clickhouse = clickhouse
        self.app = routes(self)
        self._waking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to connect, so that the first search need not wait for it."""
        self._waking = asyncio.create_task(self._wake())

    async def ready(self) -> None:
        """Return if ClickHouse answers."""
        await self.clickhouse.ping()

    async def stop(self) -> None:
        """Disconnect."""
        if self._waking:
            self._waking.cancel()
        await self.clickhouse.close()

    async def page(self, query: LogQuery) -> bytes:
        """A page of logs, newest first, as JSON."""
        started = time.perf_counter()
        cursor = Cursor.decode(query.cursor) if query.cursor else None
        if cursor and query.offset:
            raise BadRequest("bad parameter", {"offset": "not together with a cursor"})
        filter = to_filter(query, self.config.tenant, cursor)
        lines, counted = await asyncio.gather(
            self._lines(search.newest(filter, query.limit + 1, cursor, query.offset)), self._count(filter, query.total)
        )
        total, relation = counted
        if len(lines) <= query.limit and not cursor and (lines or not query.offset):
            # All are in hand, and counted at the same moment.
            total, relation = query.offset + len(lines), "eq"
        more = len(lines) > query.limit
        page = lines[: query.limit]
        head = {
            "total": total,
            "total_relation": relation,
            "limit": query.limit,
            "offset": query.offset,
            "next": _after(filter, page[-1]) if more else None,
            "query_time_ms": round((time.perf_counter() - started) * 1000, 3),
        }
        return b'{"logs":[%b],%b' % (b",".join(page), msgspec.json.encode(head)[1:])

    async def log(self, log_id: str) -> bytes:
        """One log as JSON. Raises NotFound if there is none with this id."""
        lines = await self._lines(search.one(self.config.tenant, *parse_log_id(log_id)))
        if not lines:
            raise NotFound("there is no log with this id")
        return lines[0]

    async def errors(self, parameters: SearchParameters, limit: int) -> bytes:
        """The newest logs of level ERROR and FATAL as a JSON list."""
        filter = to_filter(parameters, self.config.tenant)
        filter = dataclasses.replace(filter, levels=filter.levels or ["ERROR", "FATAL"])
        return b"[%b]" % b",".join(await self._lines(search.newest(filter, limit)))

    async def aggregate(self, parameters: SearchParameters, interval: str) -> bytes:
        """Counts per interval, service and level as a JSON list."""
        seconds = interval_seconds(interval)
        filter = to_filter(parameters, self.config.tenant)
        parts = await self._parts(filter, seconds)
        lines = await self._lines(rollup.aggregate(filter, parts, seconds, MAX_BUCKETS + 1, hour=seconds == 3600))
        if len(lines) > MAX_BUCKETS:
            text = f"it makes more than {MAX_BUCKETS} counts; choose a longer interval or narrow the search"
            raise BadRequest("too many counts", {"interval": text})
        return b"[%b]" % b",".join(lines)

    async def health(self) -> Health:
        """Whether ClickHouse answers."""
        try:
            version = await self.clickhouse.ping()
        except (ClickHouseUnavailable, Overloaded) as error:
            return Health(status="unavailable", clickhouse=Dependency(status="unavailable", error=str(error)))
        return Health(status="ok", clickhouse=Dependency(status="ok", version=version))

    async def _parts(self, filter: Filter, seconds: int) -> rollup.Plan:
        settled: dict[int, int] = {}
        if rollup.covers(filter, seconds):
            limits = self.config.limits()
            settled = await rollup.settled_hours(self.clickhouse, filter.tenant, filter.start, filter.end, limits)
        oldest = timestamps.now() - self.config.retention_days * timestamps.DAY
        return rollup.plan(filter, settled, oldest)

    async def _lines(self, statement: Statement) -> list[bytes]:
        rows = await self.clickhouse.select(statement.sql, statement.parameters, self.config.limits())
        return rows.splitlines()

    async def _count(self, filter: Filter, total: str) -> tuple[int, str]:
        most = None if total == "exact" else EXACT_UP_TO + 1
        (line,) = await self._lines(search.count(filter, most))
        number: int = msgspec.json.decode(line)["n"]
        return (number, "eq") if most is None or number < most else (EXACT_UP_TO, "gte")

    async def _wake(self) -> None:
        with contextlib.suppress(ClickHouseUnavailable):  # the first search will say so
            await self.clickhouse.ping()


def new(env: Mapping[str, str]) -> Query:
    """The function as the environment configures it."""
    config = load(Config, env)
    return Query(config, ClickHouse.server(config.clickhouse))


class _Identified(msgspec.Struct):
    id: str


def _after(filter: Filter, line: bytes) -> str:
    timestamp, dedupe = parse_log_id(msgspec.json.decode(line, type=_Identified).id)
    return Cursor(filter.start, filter.end, timestamp, dedupe).encode()
