"""Export: logs as a file, oldest first.

The file is made of keyset pages, each a query of its own: memory stays flat, no cursor is held open, and while one
page goes out the next is read. The first page is read before the answer begins, so what fails early has its proper
status; what fails later breaks the connection, and the file has no end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from functions.common import metrics, search, timestamps
from functions.common.clickhouse import ClickHouse, ClickHouseConfig
from functions.common.config import load, setting
from functions.common.errors import Overloaded
from functions.common.identity import parse_log_id
from functions.common.parameters import to_filter
from functions.common.search import Cursor, Filter
from functions.export.formats import Compressor, Format
from functions.export.routes import ExportQuery, routes

log = logging.getLogger(__name__)

_FIRST_PAGE = 100
_MOST_ROWS = 50_000
_PAGE_BYTES = 16 * 1024 * 1024
"""What a page should weigh: the number of rows follows from the pages before."""
_CHUNK_BYTES = 256 * 1024


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of export."""

    clickhouse: ClickHouseConfig = dataclasses.field(default_factory=ClickHouseConfig)
    tenant: str = setting("default", "Tenant that logs are stored and searched under")
    query_timeout: int = setting(30, "Seconds a query may run")
    query_memory_bytes: int = setting(2 * 1024**3, "Bytes of memory a query may use in ClickHouse")
    max_exports: int = setting(4, "Exports at a time; more are told to retry")

    def limits(self) -> dict[str, int | str]:
        """The settings of ClickHouse that bound a page's query."""
        return {
            "max_execution_time": self.query_timeout,
            "max_memory_usage": self.query_memory_bytes,
            # Rows that are larger than those before must not make a page of gigabytes. ClickHouse then stops early:
            # the page is shorter, never empty, and the next one goes on behind it.
            "max_result_bytes": _PAGE_BYTES,
            "result_overflow_mode": "break",
            **search.ROW_SETTINGS,
        }


class Export:
    """The function: one instance a process."""

    def __init__(self, config: Config, clickhouse: ClickHouse) -> None:
        self.config = config
        self.clickhouse = clickhouse
        self.app = routes(self)
        self._running = 0

    async def start(self) -> None:
        """Nothing to prepare: ClickHouse is asked when somebody asks for a file."""

    async def ready(self) -> None:
        """Return if ClickHouse answers."""
        await self.clickhouse.ping()

    async def stop(self) -> None:
        """Disconnect."""
        await self.clickhouse.close()

    async def export(self, query: ExportQuery) -> tuple[str, AsyncGenerator[bytes, None]]:
        """The name of the file, and its bytes. Raises before the first byte whatever the first page raises."""
        if self._running >= self.config.max_exports:
            raise Overloaded(f"{self.config.max_exports} exports are running; retry later")
        filter = to_filter(query, self.config.tenant)
        form = query.new_format()
        times = (timestamps.iso(moment)[:19] for moment in (filter.start, filter.end))
        start, end = (f"{time}Z".replace(":", "").replace("-", "") for time in times)
        name = f"logs-{start}-{end}.{form.extension}{query.suffix()}"
        pages = self._pages(filter, form)
        self._running += 1
        try:
            first = await anext(pages, b"")
        except BaseException:
            self._running -= 1
            raise
        file = self._file(first, pages, form, query)
        await anext(file)  # begun, it frees its place however it ends, even if nobody reads on
        return name, file

    async def _file(
        self, first: bytes, pages: AsyncGenerator[bytes, None], form: Format, query: ExportQuery
    ) -> AsyncGenerator[bytes, None]:
        outcome = "broken"
        try:
            yield b""
            compressor: Compressor = query.new_compressor()
            yield compressor.compress(form.head())
            if first:
                async for chunk in _through(compressor, form.page(first)):
                    yield chunk
            async for rows in pages:
                # Beside the loop, as the compression is: other requests go on meanwhile.
                page = await asyncio.to_thread(form.page, rows)
                async for chunk in _through(compressor, page):
                    yield chunk
            yield compressor.compress(form.tail()) + compressor.flush()
            outcome = "complete"
        except Exception:
            # The connection breaks with the error: nothing is appended that could pass for data.
            log.exception("an export broke off")
            raise
        finally:
            self._running -= 1
            metrics.EXPORTS.labels(form.extension, outcome).inc()
            await pages.aclose()

    async def _pages(self, filter: Filter, form: Format) -> AsyncGenerator[bytes, None]:
        limit = _FIRST_PAGE
        reading = asyncio.create_task(self._page(filter, form, limit, None))
        try:
            while rows := await reading:
                timestamp, dedupe = parse_log_id(form.last_id(rows))
                limit = min(max(limit * _PAGE_BYTES // len(rows), 100), _MOST_ROWS)
                after = Cursor(filter.start, filter.end, timestamp, dedupe)
                reading = asyncio.create_task(self._page(filter, form, limit, after))
                metrics.EXPORTED_BYTES.inc(len(rows))
                yield rows
        finally:
            reading.cancel()

    async def _page(self, filter: Filter, form: Format, limit: int, after: Cursor | None) -> bytes:
        statement = search.oldest(filter, limit, after, form.columns)
        rows = await self.clickhouse.select(statement.sql, statement.parameters, self.config.limits(), form.output)
        # ArrowStream has a schema even where it has no rows.
        return rows if form.output != "ArrowStream" or _has_rows(rows) else b""


async def _through(compressor: Compressor, page: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(page), _CHUNK_BYTES):
        part = page[start : start + _CHUNK_BYTES]
        if packed := await asyncio.to_thread(compressor.compress, part):
            yield packed


def _has_rows(stream: bytes) -> bool:
    import pyarrow as pa

    with pa.ipc.open_stream(stream) as reader:
        return any(batch.num_rows for batch in reader)


def new(env: Mapping[str, str]) -> Export:
    """The function as the environment configures it."""
    config = load(Config, env)
    return Export(config, ClickHouse.server(config.clickhouse))
