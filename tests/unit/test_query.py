"""Query over HTTP: what is asked of ClickHouse, and what becomes of its answer."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from functions.common import timestamps
from functions.common.errors import ClickHouseUnavailable, Overloaded, QueryLimit
from functions.common.host import Host
from functions.common.identity import log_id
from functions.common.search import Cursor
from functions.query.function import MAX_BUCKETS, Config, Query
from functions.query.models import MAX_LIMIT, MAX_OFFSET
from functions.query.routes import MAX_BODY
from tests.support.memory import MemoryClickHouse

NOW = 1_769_860_800_123_456_789
DAY = 86_400_000_000_000
LOGS = "/api/v1/logs"
ROUTES = [LOGS, f"{LOGS}/aggregate", f"{LOGS}/errors", f"{LOGS}/{log_id(1, 2)}"]
INJECTION = "x') OR 1 = 1; DROP TABLE logs --"


class Table(MemoryClickHouse):
    """Has `size` logs, the newest first, and counts `counted`."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.counted = 0
        self.broken: Exception | None = None

    async def select(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, int | str] | None = None,
        output: str = "JSONEachRow",
    ) -> bytes:
        """A count, or the rows from OFFSET to LIMIT."""
        await super().select(sql, parameters, settings, output)
        if self.broken:
            raise self.broken
        limits = re.search(r"LIMIT (\d+)(?: OFFSET (\d+))?\)?$", sql)
        most, skipped = (int(part or 0) for part in limits.groups()) if limits else (self.size, 0)
        if "FROM logs" not in sql:
            return b""
        if sql.startswith("SELECT count() AS n"):
            return b'{"n":%d}\n' % (min(most, self.counted) if limits else self.counted)
        return b"".join(map(row, range(skipped, min(skipped + most, self.size))))


def row(number: int) -> bytes:
    """The log with this number, as ClickHouse writes it."""
    return b'{"id":"%s","message":"log %d \\u2028 \\/"}\n' % (log_id(NOW - number, number).encode(), number)


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timestamps, "now", lambda: NOW)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture(scope="module")
def function() -> Query:
    """One for all tests: its routes take longer to make than a test takes."""
    return Query(Config(), Table())


@pytest.fixture
async def http(function: Query, table: Table) -> AsyncIterator[httpx.AsyncClient]:
    function.clickhouse = table
    async with client(function) as http:
        yield http


def client(function: Query) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(Host(function), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://query")


def reads(table: Table) -> list[tuple[str, dict[str, Any], dict[str, Any], str]]:
    """The statements that read logs: what a test without any would say nothing about."""
    found = [select for select in table.selects if "FROM logs" in select[0]]
    assert found
    return found


def asked(table: Table) -> tuple[str, dict[str, Any]]:
    """The statement that read logs or counts by interval, and its parameters."""
    (statement,) = [select[:2] for select in reads(table) if not select[0].startswith("SELECT count() AS n")]
    return statement


def named(answer: httpx.Response) -> set[str]:
    """The parameters that a problem names."""
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json"), answer.text
    return {error["field"] for error in answer.json()["errors"]}


# What is asked


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ([], {}),
        ([("start_time", "-15m")], {"start_time": "-15m"}),
        (
            [("start_time", "2026-01-01T00:00:00Z"), ("end_time", "1769000000")],
            {"start_time": "2026-01-01T00:00:00Z", "end_time": 1_769_000_000},
        ),
        ([("service", "a"), ("service", "b,c")], {"service": ["a", "b,c"]}),
        ([("service", "a")], {"service": "a"}),
        ([("level", "error,warning"), ("level", "CRIT")], {"level": ["error,warning", "CRIT"]}),
        ([("search", "card declined"), ("trace_id", "abc")], {"search": "card declined", "trace_id": "abc"}),
        ([("metadata.user.id", "42"), ("metadata.a", "b")], {"metadata.a": "b", "metadata": {"user.id": ["42"]}}),
        ([("limit", "7"), ("offset", "3"), ("total", "exact")], {"limit": 7, "offset": 3, "total": "exact"}),
        ([("cursor", Cursor(1, 2, 3, 4).encode())], {"cursor": Cursor(1, 2, 3, 4).encode()}),
        ([("search", INJECTION), ("service", INJECTION)], {"search": INJECTION, "service": INJECTION}),
    ],
)
async def test_get_and_post_mean_the_same(
    table: Table, http: httpx.AsyncClient, url: list[tuple[str, str]], body: dict[str, Any]
) -> None:
    table.size = 20
    got = await http.get(LOGS, params=urlencode(url))
    from_get, table.selects = table.selects, []
    posted = await http.post(LOGS, json=body)
    assert (got.status_code, posted.status_code) == (200, 200)
    assert table.selects == from_get
    assert len(from_get) == 2
    assert {**got.json(), "query_time_ms": 0} == {**posted.json(), "query_time_ms": 0}


@pytest.mark.parametrize("url", ROUTES)
async def test_no_value_is_ever_text_of_a_statement(table: Table, http: httpx.AsyncClient, url: str) -> None:
    given = [
        ("service", INJECTION),
        ("search", INJECTION),
        ("trace_id", INJECTION),
        (f"metadata.{INJECTION}", INJECTION),
    ]
    await http.get(url, params=urlencode(given))
    assert all("DROP" not in sql for sql, *_ in table.selects)
    for sql, parameters, *_ in reads(table):
        assert INJECTION in str(parameters) or "{dedupe:UInt64}" in sql


@pytest.mark.parametrize("url", ROUTES)
async def test_every_read_says_final_and_names_the_tenant_of_the_configuration(table: Table, url: str) -> None:
    async with client(Query(Config(tenant="acme"), table)) as http:
        await http.get(url)
    for sql, parameters, *_ in reads(table):
        assert "FROM logs FINAL WHERE tenant = {tenant:String}" in sql
        assert parameters["tenant"] == "acme"


@pytest.mark.parametrize("url", ROUTES)
async def test_every_read_is_bounded_by_the_limits_of_the_configuration(table: Table, url: str) -> None:
    async with client(Query(Config(query_timeout=3, query_memory_bytes=4, query_rows_read=5), table)) as http:
        await http.get(url)
    for _, _, settings, output in reads(table):
        assert settings == {
            "max_execution_time": 3,
            "max_memory_usage": 4,
            "max_rows_to_read": 5,
            "date_time_output_format": "iso",
        }
        assert output == "JSONEachRow"


async def test_a_search_without_parameters_is_of_the_last_24_hours(table: Table, http: httpx.AsyncClient) -> None:
    await http.get(LOGS)
    sql, parameters = asked(table)
    assert parameters == {"tenant": "default", "start": NOW - DAY, "end": NOW}
    assert sql.endswith("ORDER BY timestamp DESC, dedupe DESC LIMIT 1001 OFFSET 0")


async def test_a_filter_reaches_clickhouse(table: Table, http: httpx.AsyncClient) -> None:
    await http.get(LOGS, params=[("level", "err,wrn"), ("metadata.user.id", "42"), ("start_time", "-1h")])
    sql, parameters = asked(table)
    assert parameters == {
        "tenant": "default",
        "start": NOW - DAY // 24,
        "end": NOW,
        "levels": ["ERROR", "WARN"],
        "key0": "user.id",
        "values0": ["42"],
    }
    assert "level IN {levels:Array(String)}" in sql


# What is wrong


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start_time", "yesterday"),
        ("start_time", "now"),
        ("start_time", ""),
        ("end_time", "2026-02-30"),
        ("end_time", "-999999w"),
        ("level", "loud"),
        ("level", ""),
        ("service", "s" * 256),
        ("search", "s" * 1001),
        ("search", "%_'"),
        ("trace_id", "t" * 129),
        ("metadata", "a"),
        ("limit", "0"),
        ("limit", str(MAX_LIMIT + 1)),
        ("limit", "many"),
        ("limit", ""),
        ("limit", "1.5"),
        ("offset", "-1"),
        ("offset", str(MAX_OFFSET + 1)),
        ("cursor", "not-a-cursor"),
        ("cursor", "☃"),
        ("cursor", "c" * 1001),
        ("total", "all"),
        ("query", "a"),
        ("body", "a"),
        ("path", "a"),
        ("tenant", "other"),
        ("interval", "1h"),
        ("Limit", "1"),
    ],
)
async def test_a_bad_parameter_is_named_by_get_and_by_post(
    table: Table, http: httpx.AsyncClient, name: str, value: str
) -> None:
    for answer in (await http.get(LOGS, params={name: value}), await http.post(LOGS, json={name: value})):
        assert {field.removesuffix(".0") for field in named(answer)} == {name}  # .0: the first of several values
    assert table.selects == []


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"limit": 0, "offset": -1, "nonsense": 1}, {"limit", "offset", "nonsense"}),
        ({"start_time": True}, {"start_time"}),
        ({"end_time": ["now"]}, {"end_time"}),
        ({"service": ["a", 5]}, {"service.1"}),
        ({"metadata": {"a": {"b": "c"}}}, {"metadata.a"}),
        ({"metadata.a": None}, {"metadata.a"}),
        ({"cursor": 5}, {"cursor"}),
        (None, {"body"}),
        ([], {"body"}),
        ("text", {"body"}),
    ],
)
async def test_a_bad_body_is_refused_by_the_name_of_its_fields(
    http: httpx.AsyncClient, body: Any, names: set[str]
) -> None:
    assert named(await http.post(LOGS, json=body)) == names


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"search":"\\ud800"}', b"[" * 100_000, b'{"limit":%s}' % (b"1" * 5000), b"{} x"]
)
async def test_a_body_that_is_no_json_is_a_bad_request(http: httpx.AsyncClient, body: bytes) -> None:
    assert named(await http.post(LOGS, content=body)) == {"body"}


async def test_a_body_may_come_under_any_content_type(http: httpx.AsyncClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = await http.post(LOGS, content=b'{"limit": 5}', headers={"content-type": kind})
        assert (answer.status_code, answer.json()["limit"]) == (200, 5)


async def test_a_body_over_the_limit_is_not_read_to_its_end(http: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 4 * MAX_BODY:
            sent += 65_536
            yield b" " * 65_536

    assert (await http.post(LOGS, content=endless())).status_code == 413
    assert sent <= MAX_BODY + 65_536
    answer = await http.post(LOGS, content=b" " * (MAX_BODY + 1))
    assert (answer.status_code, answer.json()["title"]) == (413, "content too large")


async def test_a_parameter_given_twice_is_named(http: httpx.AsyncClient) -> None:
    assert named(await http.get(f"{LOGS}?limit=1&limit=2")) == {"limit"}
    assert named(await http.get(f"{LOGS}/aggregate?interval=1h&interval=1h")) == {"interval"}


async def test_a_cursor_and_an_offset_exclude_each_other(http: httpx.AsyncClient) -> None:
    cursor = Cursor(1, 2, 3, 4).encode()
    assert named(await http.get(LOGS, params={"cursor": cursor, "offset": 1})) == {"offset"}
    assert (await http.get(LOGS, params={"cursor": cursor, "offset": 0})).status_code == 200


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"{LOGS}/aggregate?interval=0m", "interval"),
        (f"{LOGS}/aggregate?interval=often", "interval"),
        (f"{LOGS}/aggregate?limit=5", "limit"),
        (f"{LOGS}/errors?limit=0", "limit"),
        (f"{LOGS}/errors?limit=10001", "limit"),
        (f"{LOGS}/errors?cursor=a", "cursor"),
        (f"{LOGS}/errors?level=loud", "level"),
        (f"{LOGS}/1-2", "id"),
        (f"{LOGS}/9223372036854775808-0000000000000000", "id"),
        (f"{LOGS}/1-00000000000000AA", "id"),
        (f"{LOGS}/%27%20OR%201", "id"),
    ],
)
async def test_a_bad_parameter_of_the_other_routes_is_named(
    table: Table, http: httpx.AsyncClient, url: str, name: str
) -> None:
    assert named(await http.get(url)) == {name}
    assert table.selects == []


# Pages


async def test_a_page_holds_the_rows_as_clickhouse_wrote_them(table: Table, http: httpx.AsyncClient) -> None:
    table.size = 2
    answer = await http.get(LOGS)
    assert answer.headers["content-type"] == "application/json"
    assert answer.content.startswith(b'{"logs":[%b,%b],"total":2,' % (row(0)[:-1], row(1)[:-1]))
    page = answer.json()
    assert page.pop("query_time_ms") >= 0
    assert len(page.pop("logs")) == 2
    assert page == {"total": 2, "total_relation": "eq", "limit": 1000, "offset": 0, "next": None}


async def test_a_page_without_logs_is_a_page(http: httpx.AsyncClient) -> None:
    page = (await http.get(LOGS)).json()
    assert (page["logs"], page["total"], page["total_relation"], page["next"]) == ([], 0, "eq", None)


@pytest.mark.parametrize(("limit", "more"), [(1, True), (2, True), (3, False), (4, False)])
async def test_there_is_a_next_page_only_if_there_are_more_logs(
    table: Table, http: httpx.AsyncClient, limit: int, more: bool
) -> None:
    table.size = 3
    page = (await http.get(LOGS, params={"limit": limit})).json()
    assert len(page["logs"]) == min(limit, 3)
    assert (page["next"] is not None) == more
    assert f"LIMIT {limit + 1} " in asked(table)[0]


async def test_the_next_page_goes_on_after_the_last_log_in_the_same_range(
    table: Table, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.size = 3
    page = (await http.get(LOGS, params={"limit": 2, "start_time": "-1h"})).json()
    table.selects = []
    monkeypatch.setattr(timestamps, "now", lambda: NOW + 60 * 1_000_000_000)
    await http.get(LOGS, params={"limit": 2, "start_time": "-1h", "cursor": page["next"]})
    sql, parameters = asked(table)
    assert parameters == {
        "tenant": "default",
        "start": NOW - DAY // 24,
        "end": NOW,
        "cursor_timestamp": NOW - 1,
        "cursor_dedupe": 1,
    }
    moment = "fromUnixTimestamp64Nano({cursor_timestamp:Int64}, 'UTC')"
    assert f"timestamp <= {moment} AND (timestamp < {moment} OR dedupe < {{cursor_dedupe:UInt64}})" in sql


# Totals


@pytest.mark.parametrize(
    ("counted", "given", "total", "relation"),
    [
        (9_999, {}, 9_999, "eq"),
        (10_000, {}, 10_000, "eq"),
        (10_001, {}, 10_000, "gte"),
        (5_000_000, {}, 10_000, "gte"),
        (5_000_000, {"total": "exact"}, 5_000_000, "eq"),
        (10_000, {"total": "exact"}, 10_000, "eq"),
    ],
)
async def test_a_total_is_exact_up_to_10000_or_where_asked(
    table: Table, http: httpx.AsyncClient, counted: int, given: dict[str, str], total: int, relation: str
) -> None:
    table.size, table.counted = 10, counted
    page = (await http.get(LOGS, params={"limit": 5, **given})).json()
    assert (page["total"], page["total_relation"]) == (total, relation)
    (count,) = [sql for sql, *_ in reads(table) if sql.startswith("SELECT count() AS n")]
    assert ("LIMIT 10001" in count) == (not given)


@pytest.mark.parametrize(
    ("given", "total", "relation"),
    [
        ({}, 10, "eq"),
        ({"limit": 10}, 10, "eq"),
        ({"offset": 4}, 10, "eq"),
        ({"offset": 9, "total": "exact"}, 10, "eq"),
        ({"limit": 9}, 10_000, "gte"),
        ({"offset": 10}, 10_000, "gte"),
        ({"cursor": Cursor(1, 2, 3, 4).encode()}, 10_000, "gte"),
    ],
)
async def test_a_page_that_ends_the_search_is_its_own_total(
    table: Table, http: httpx.AsyncClient, given: dict[str, Any], total: int, relation: str
) -> None:
    # Logs that arrive between the two statements must not make a page contradict its total.
    table.size, table.counted = 10, 10_001
    page = (await http.get(LOGS, params=given)).json()
    assert (page["total"], page["total_relation"]) == (total, relation)


# Other routes


async def test_a_log_is_found_by_its_id(table: Table, http: httpx.AsyncClient) -> None:
    table.size = 1
    answer = await http.get(f"{LOGS}/1769860800500000000-5f1d7a84db5c9d21")
    assert (answer.status_code, answer.content) == (200, row(0)[:-1])
    assert asked(table)[1] == {"tenant": "default", "timestamp": 1769860800500000000, "dedupe": 0x5F1D7A84DB5C9D21}


async def test_a_log_that_is_not_there_is_not_found(http: httpx.AsyncClient) -> None:
    answer = await http.get(f"{LOGS}/{log_id(1, 2)}")
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no log with this id")


async def test_errors_are_the_newest_of_the_two_highest_levels(table: Table, http: httpx.AsyncClient) -> None:
    table.size = 3
    answer = await http.get(f"{LOGS}/errors", params={"limit": 2})
    assert [log["id"] for log in answer.json()] == [log_id(NOW, 0), log_id(NOW - 1, 1)]
    sql, parameters = asked(table)
    assert parameters["levels"] == ["ERROR", "FATAL"]
    assert sql.endswith("ORDER BY timestamp DESC, dedupe DESC LIMIT 2 OFFSET 0")


async def test_errors_are_of_another_level_where_asked(table: Table, http: httpx.AsyncClient) -> None:
    await http.get(f"{LOGS}/errors", params={"level": "warn"})
    assert asked(table)[1]["levels"] == ["WARN"]


@pytest.mark.parametrize(
    ("interval", "seconds", "hour"),
    [
        ("", 3600, True),
        ("1h", 3600, True),
        ("60m", 3600, True),
        ("hour", 3600, True),
        ("5m", 300, False),
        ("1d", 86_400, False),
    ],
)
async def test_counts_are_by_interval_and_an_hour_is_called_so(
    table: Table, http: httpx.AsyncClient, interval: str, seconds: int, hour: bool
) -> None:
    answer = await http.get(f"{LOGS}/aggregate", params={"interval": interval} if interval else {})
    assert (answer.status_code, answer.json()) == (200, [])
    sql, _ = asked(table)
    assert f"toIntervalSecond({seconds})" in sql
    assert ("AS hour" in sql) == hour


@pytest.mark.parametrize(("size", "status"), [(MAX_BUCKETS, 200), (MAX_BUCKETS + 1, 400)])
async def test_more_counts_than_a_chart_can_show_are_refused_rather_than_cut(
    table: Table, http: httpx.AsyncClient, size: int, status: int
) -> None:
    table.size = size
    answer = await http.get(f"{LOGS}/aggregate")
    assert answer.status_code == status
    if status == 400:
        assert named(answer) == {"interval"}
    else:
        assert len(answer.json()) == MAX_BUCKETS


async def test_the_root_lists_every_route(http: httpx.AsyncClient) -> None:
    here = (await http.get("/")).json()
    assert here["function"] == "query"
    assert here["routes"][LOGS] == ["GET", "POST"]
    assert set(here["routes"]) == {"/", "/health", LOGS, f"{LOGS}/aggregate", f"{LOGS}/errors", f"{LOGS}/{{id}}"}


async def test_health_tells_of_clickhouse(table: Table, http: httpx.AsyncClient) -> None:
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()["clickhouse"]["version"]) == (200, "0.0.0.0")
    table.failure = ClickHouseUnavailable("ClickHouse does not answer")
    answer = await http.get("/health")
    assert answer.status_code == 503
    assert answer.json()["clickhouse"] == {
        "status": "unavailable",
        "version": None,
        "error": "ClickHouse does not answer",
    }


# What fails


@pytest.mark.parametrize("url", ROUTES)
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
async def test_what_fails_is_a_problem_with_its_status(
    table: Table, http: httpx.AsyncClient, url: str, error: Exception, status: int, retry_after: str | None
) -> None:
    table.broken = error
    answer = await http.get(url)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.headers.get("retry-after") == retry_after
    assert (str(error) in answer.text) == (status != 500)


async def test_starting_does_not_wait_for_clickhouse_and_survives_its_absence(table: Table) -> None:
    table.failure = ClickHouseUnavailable("ClickHouse does not answer")
    query = Query(Config(), table)
    await query.start()
    assert query._waking is not None
    await query._waking
    await query.stop()
