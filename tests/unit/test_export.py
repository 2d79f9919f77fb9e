"""Export over HTTP: the file, what is asked of ClickHouse for it, and what happens when it fails or nobody waits."""

import asyncio
import contextlib
import csv
import gzip
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet
import pytest
from backports import zstd
from prometheus_client import REGISTRY

from functions.common import timestamps
from functions.common.errors import ClickHouseUnavailable, Overloaded, QueryLimit
from functions.common.host import Host
from functions.common.identity import log_id
from functions.export.function import Config, Export
from tests.support.memory import MemoryClickHouse

NOW = 1_769_860_800_123_456_789
URL = "/api/v1/logs/export"
UNPACK: dict[str, Callable[[bytes], bytes]] = {"none": bytes, "gzip": gzip.decompress, "zstd": zstd.decompress}
PACKED = {"none": ("", ""), "gzip": (".gz", "application/gzip"), "zstd": (".zst", "application/zstd")}
INJECTION = "x') OR 1 = 1; DROP TABLE logs --"


def json_lines(*numbers: int, message: str = "a\u2028b") -> bytes:
    logs = [{"id": log_id(NOW + number, number), "message": message} for number in numbers]
    return "".join(json.dumps(log, ensure_ascii=False) + "\n" for log in logs).encode()


def csv_rows(*numbers: int) -> bytes:
    return b"".join(b'"%b","a ""quoted""\nline"\n' % log_id(NOW + number, number).encode() for number in numbers)


def arrow(*numbers: int) -> bytes:
    """Pages of Arrow have a schema even where they have no rows."""
    table = pa.table({"id": pa.array([log_id(NOW + number, number) for number in numbers], pa.string())})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


RENDER: dict[str, Callable[..., bytes]] = {"JSONEachRow": json_lines, "CSV": csv_rows, "ArrowStream": arrow}


class Pages(MemoryClickHouse):
    """Gives one page of log numbers after another; an error is raised in its turn. `gate` holds every page back."""

    def __init__(self, *pages: list[int] | Exception) -> None:
        super().__init__()
        self.pages = list(pages)
        self.endless = False
        self.asked = asyncio.Semaphore(0)

    async def select(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, int | str] | None = None,
        output: str = "JSONEachRow",
    ) -> bytes:
        """The next page."""
        await super().select(sql, parameters, settings, output)
        self.asked.release()
        await self.gate.wait()
        page = self.pages.pop(0) if self.pages else []
        if isinstance(page, Exception):
            raise page
        if self.endless:
            self.pages.append(page)
        return RENDER[output](*page) if page or output == "ArrowStream" else b""


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timestamps, "now", lambda: NOW)


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture(scope="module")
def function() -> Export:
    """One for all tests; two exports at a time."""
    return Export(Config(max_exports=2, query_timeout=3, query_memory_bytes=4), Pages())


@pytest.fixture
async def http(function: Export, pages: Pages) -> AsyncIterator[httpx.AsyncClient]:
    function.clickhouse = pages
    transport = httpx.ASGITransport(Host(function), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://export") as http:
        yield http
    assert function._running == 0, "a test left an export behind"


async def stream(function: Export, query: str, on_part: Callable[[bytes], None], gone: asyncio.Event) -> int:
    """Export as a server does: every part is given to `on_part`; the client goes away when `gone` is set."""
    asked = False
    status = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        if message["type"] == "http.response.body":
            on_part(message["body"])
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": URL,
        "raw_path": URL.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [],
        "server": ("export", 80),
        "client": ("client", 1),
    }
    await Host(function)(scope, receive, send)
    return status


def outcomes(extension: str) -> list[float]:
    """Complete and broken exports so far."""
    name = "torpor_export_requests_total"
    return [
        REGISTRY.get_sample_value(name, {"format": extension, "outcome": outcome}) or 0
        for outcome in ("complete", "broken")
    ]


# The file


@pytest.mark.parametrize(
    ("query", "extension", "media_type", "compression"),
    [
        ("", "json", "application/json", "gzip"),
        ("format=json", "json", "application/json", "gzip"),
        ("format=csv", "csv", "text/csv; charset=utf-8", "gzip"),
        ("format=ndjson", "ndjson", "application/x-ndjson", "none"),
        ("format=parquet", "parquet", "application/vnd.apache.parquet", "none"),
        ("format=parquet&compression=none", "parquet", "application/vnd.apache.parquet", "none"),
        *[
            (f"format={name}&compression={compression}", name, media_type, compression)
            for name, media_type in [
                ("json", "application/json"),
                ("csv", "text/csv; charset=utf-8"),
                ("ndjson", "application/x-ndjson"),
            ]
            for compression in UNPACK
        ],
    ],
)
async def test_a_file_is_named_and_typed_by_its_format_and_compression(
    pages: Pages, http: httpx.AsyncClient, query: str, extension: str, media_type: str, compression: str
) -> None:
    pages.pages = [[1, 2], [3]]
    answer = await http.get(f"{URL}?{query}&start_time=2026-01-01T00:00:00Z")
    suffix, packed_type = PACKED[compression]
    name = f"logs-20260101T000000Z-20260131T120000Z.{extension}{suffix}"
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["content-type"] == (packed_type or media_type)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "content-encoding" not in answer.headers  # the file stays packed where it is saved
    assert read_ids(extension, UNPACK[compression](answer.content)) == [log_id(NOW + n, n) for n in (1, 2, 3)]


def read_ids(extension: str, file: bytes) -> list[str]:
    match extension:
        case "json":
            return [log["id"] for log in json.loads(file)]
        case "ndjson":
            return [json.loads(line)["id"] for line in file.split(b"\n")[:-1]]
        case "csv":
            header, *lines = csv.reader(io.StringIO(file.decode(), newline=""), strict=True)
            assert header[0] == "id"
            return [line[0] for line in lines]
        case _:
            ids: list[str] = pyarrow.parquet.read_table(io.BytesIO(file)).column("id").to_pylist()
            return ids


@pytest.mark.parametrize("extension", ["json", "ndjson", "csv", "parquet"])
async def test_an_export_without_logs_is_a_file_without_logs(http: httpx.AsyncClient, extension: str) -> None:
    answer = await http.get(
        URL, params={"format": extension, **({} if extension == "parquet" else {"compression": "none"})}
    )
    assert answer.status_code == 200
    assert read_ids(extension, answer.content) == []


@pytest.mark.parametrize("compression", UNPACK)
async def test_a_page_larger_than_a_part_is_whole(pages: Pages, http: httpx.AsyncClient, compression: str) -> None:
    pages.pages = [list(range(6_000)), [6_000]]
    answer = await http.get(URL, params={"format": "ndjson", "compression": compression})
    assert UNPACK[compression](answer.content) == json_lines(*range(6_001))


async def test_a_finished_export_is_counted_as_complete_with_its_bytes(pages: Pages, http: httpx.AsyncClient) -> None:
    def exported() -> float:
        return REGISTRY.get_sample_value("torpor_export_bytes_total") or 0

    before, size = outcomes("ndjson"), exported()
    pages.pages = [[1], [2]]
    answer = await http.get(URL, params={"format": "ndjson"})
    assert outcomes("ndjson") == [before[0] + 1, before[1]]
    assert exported() - size == len(answer.content)


# What is asked


async def test_pages_go_on_after_the_last_log_in_the_same_range(
    pages: Pages, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = iter(range(NOW, NOW + 10**12, 10**9))
    monkeypatch.setattr(timestamps, "now", lambda: next(later))
    pages.pages = [[1, 2], [5]]
    await http.get(URL, params={"start_time": "-1h", "service": INJECTION, "level": "error", "search": INJECTION})
    (first, *_), (second, *_), (third, *_) = [select[1:] for select in pages.selects]
    base = {
        "tenant": "default",
        "start": NOW - 3600 * 10**9,
        "end": NOW,
        "services": [INJECTION],
        "levels": ["ERROR"],
        "search": INJECTION,
    }
    assert first == base
    assert second == {**base, "cursor_timestamp": NOW + 2, "cursor_dedupe": 2}
    assert third == {**base, "cursor_timestamp": NOW + 5, "cursor_dedupe": 5}
    for sql, *_ in pages.selects:
        assert "FROM logs FINAL WHERE tenant = {tenant:String}" in sql
        assert "ORDER BY timestamp, dedupe LIMIT" in sql
        assert "DROP" not in sql


@pytest.mark.parametrize(
    ("extension", "output"),
    [("json", "JSONEachRow"), ("ndjson", "JSONEachRow"), ("csv", "CSV"), ("parquet", "ArrowStream")],
)
async def test_every_page_is_bounded_and_rendered_by_clickhouse(
    pages: Pages, http: httpx.AsyncClient, extension: str, output: str
) -> None:
    pages.pages = [[1]]
    await http.get(URL, params={"format": extension})
    assert len(pages.selects) == 2
    for *_, settings, rendered in pages.selects:
        assert settings == {
            "max_execution_time": 3,
            "max_memory_usage": 4,
            "max_result_bytes": 16 * 1024 * 1024,
            "result_overflow_mode": "break",
            "date_time_output_format": "iso",
        }
        assert rendered == output


@pytest.mark.parametrize(
    ("formulas", "escaped"), [({}, True), ({"formulas": "escape"}, True), ({"formulas": "keep"}, False)]
)
async def test_formulas_in_csv_are_escaped_unless_they_are_to_be_kept(
    pages: Pages, http: httpx.AsyncClient, formulas: dict[str, str], escaped: bool
) -> None:
    await http.get(URL, params={"format": "csv", **formulas})
    assert ("if(match(message, " in pages.selects[0][0]) == escaped


@pytest.mark.parametrize(
    ("size", "limit"),
    [
        (1_024, 50_000),  # small logs: as many as a page may have
        (1_638_400, 100),  # a page of the right weight
        (655_360, 250),
        (16_384_000, 100),  # large logs: few, but never fewer
    ],
)
async def test_the_rows_of_a_page_follow_from_the_weight_of_the_page_before(
    pages: Pages, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, size: int, limit: int
) -> None:
    monkeypatch.setattr("functions.export.function._PAGE_BYTES", 1_638_400)
    message = "x" * (size - len(json_lines(1, message="")))
    monkeypatch.setitem(RENDER, "JSONEachRow", lambda *numbers: json_lines(*numbers, message=message))
    pages.pages = [[1]]
    await http.get(URL, params={"format": "ndjson"})
    assert [int(sql.rpartition("LIMIT ")[2]) for sql, *_ in pages.selects] == [100, limit]


# What is wrong


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "xml"),
        ("format", ""),
        ("compression", "lz4"),
        ("compression", ""),
        ("formulas", "run"),
        ("start_time", "yesterday"),
        ("end_time", "-999999w"),
        ("level", "loud"),
        ("search", "--"),
        ("metadata", "a"),
        ("limit", "5"),
        ("cursor", "a"),
        ("query", "a"),
    ],
)
async def test_a_bad_parameter_is_named(pages: Pages, http: httpx.AsyncClient, name: str, value: str) -> None:
    answer = await http.get(URL, params={name: value})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert [error["field"] for error in answer.json()["errors"]] == [name]
    assert pages.selects == []


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_a_parquet_file_is_not_compressed_again(http: httpx.AsyncClient, compression: str) -> None:
    answer = await http.get(URL, params={"format": "parquet", "compression": compression})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "compression"


async def test_a_format_given_twice_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.get(f"{URL}?format=csv&format=json")).json()["errors"][0]["field"] == "format"


# What fails


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (QueryLimit("it runs longer than allowed"), 422, None),
        (ClickHouseUnavailable("ClickHouse does not answer"), 503, "2"),
        (Overloaded("too many statements"), 503, "1"),
        (RuntimeError("the password is swordfish"), 500, None),
    ],
    ids=["limit", "unavailable", "overloaded", "unexpected"],
)
async def test_what_fails_before_the_first_byte_has_its_status_and_frees_its_place(
    pages: Pages, http: httpx.AsyncClient, error: Exception, status: int, retry_after: str | None
) -> None:
    for _ in range(3):  # more than may run at a time
        pages.pages = [error]
        answer = await http.get(URL)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert "content-disposition" not in answer.headers
        assert answer.headers.get("retry-after") == retry_after
        assert (str(error) in answer.text) == (status != 500)


@pytest.mark.parametrize("error", [ClickHouseUnavailable("gone"), QueryLimit("too long"), RuntimeError("swordfish")])
async def test_what_fails_later_breaks_the_connection_and_frees_its_place(
    function: Export, pages: Pages, http: httpx.AsyncClient, error: Exception
) -> None:
    before = outcomes("json")
    for _ in range(3):
        parts: list[bytes] = []
        pages.pages = [[1], [2], error]
        with pytest.raises((type(error), RuntimeError)):
            await stream(function, "compression=none", parts.append, asyncio.Event())
        file = b"".join(parts)
        assert file.startswith(b"[\n{")
        assert b"]" not in file
        with pytest.raises(json.JSONDecodeError):
            json.loads(file)
    assert outcomes("json") == [before[0], before[1] + 3]


async def test_what_fails_later_is_seen_by_the_client(function: Export, pages: Pages) -> None:
    function.clickhouse = pages
    pages.pages = [[1], RuntimeError("gone")]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Host(function)), base_url="http://export") as http:
        with pytest.raises(RuntimeError):
            await http.get(URL)


# How many


async def test_more_exports_than_allowed_are_told_to_retry_and_a_finished_one_makes_room(
    pages: Pages, http: httpx.AsyncClient
) -> None:
    pages.gate.clear()
    running = [asyncio.create_task(http.get(URL)) for _ in range(2)]
    for _ in running:
        await pages.asked.acquire()
    answer = await http.get(URL)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["detail"] == "2 exports are running; retry later"
    pages.gate.set()
    assert [(await export).status_code for export in running] == [200, 200]
    assert (await http.get(URL)).status_code == 200


@pytest.mark.parametrize("extension", ["json", "csv", "parquet"])
async def test_a_client_that_goes_away_midway_makes_room(
    function: Export, pages: Pages, http: httpx.AsyncClient, extension: str
) -> None:
    pages.endless = True
    before = outcomes(extension)
    for _ in range(3):
        pages.pages = [[1, 2]]
        gone = asyncio.Event()
        seen: list[bytes] = []

        def leave(part: bytes, seen: list[bytes] = seen, gone: asyncio.Event = gone) -> None:
            seen.append(part)
            if len(seen) == 5:
                gone.set()

        assert await stream(function, f"format={extension}&compression=none", leave, gone) == 200
        assert function._running == 0
    assert outcomes(extension) == [before[0], before[1] + 3]


async def test_a_client_that_goes_away_before_the_first_byte_makes_room(
    function: Export, pages: Pages, http: httpx.AsyncClient
) -> None:
    gone = asyncio.Event()
    gone.set()
    for _ in range(3):
        pages.pages = [[1], [2]]
        await stream(function, "", lambda part: None, gone)
    assert function._running == 0


async def test_an_export_that_is_cancelled_while_it_reads_the_first_page_makes_room(
    function: Export, pages: Pages, http: httpx.AsyncClient
) -> None:
    pages.gate.clear()
    running = asyncio.create_task(stream(function, "", lambda part: None, asyncio.Event()))
    await pages.asked.acquire()
    assert function._running == 1
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert function._running == 0


async def test_the_root_names_the_route(http: httpx.AsyncClient) -> None:
    assert (await http.get("/")).json()["routes"] == {URL: ["GET"]}
