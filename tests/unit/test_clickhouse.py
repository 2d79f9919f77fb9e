"""How ClickHouse's answers become ours, seen with a client that only pretends."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import urllib3.exceptions
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from functions.common import clickhouse
from functions.common.clickhouse import ClickHouse, ClickHouseConfig
from functions.common.errors import BadRows, ClickHouseUnavailable, Overloaded, QueryLimit, TorporError

REFUSAL = (
    "Code: 27. DB::Exception: Cannot parse input: "
    "expected '\"' before: 'x': (at row 2)\n: While executing ParallelParsingBlockInputFormat. "
    "(CANNOT_PARSE_INPUT_ASSERTION_FAILED) (version 26.9.4.1 (official build))"
)


class Client:
    """Keeps what it is asked; fails as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def _call(self, name: str, given: Any) -> None:
        self.gate.wait(5)
        self.calls.append((name, given))
        if self.failure:
            raise self.failure

    def command(self, sql: str, parameters: dict[str, Any] | None = None) -> str:
        self._call("command", (sql, parameters))
        return "26.9.4.1"

    def raw_insert(self, table: str, insert_block: bytes, fmt: str, settings: dict[str, str]) -> None:
        self._call("insert", (table, insert_block, fmt, settings))

    def raw_query(self, sql: str, parameters: dict[str, Any], settings: dict[str, Any], fmt: str) -> bytes:
        self._call("query", (sql, parameters, settings, fmt))
        return b'{"n":1}\n'


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def db(client: Client) -> ClickHouse:
    pretended: Any = client
    return ClickHouse(lambda: pretended, connections=1)


def failed(code: int | None, text: str = "no") -> DatabaseError:
    return DatabaseError(text, code=code)


async def test_an_insert_is_json_lines_that_are_written_before_the_answer(db: ClickHouse, client: Client) -> None:
    await db.insert("logs", b"{}\n{}")
    ((_, (table, rows, form, settings)),) = client.calls
    assert (table, rows, form) == ("logs", b"{}\n{}", "JSONEachRow")
    assert settings["async_insert"] == "0"
    assert settings["input_format_skip_unknown_fields"] == "0"
    assert "insert_deduplication_token" not in settings


async def test_an_insert_with_a_token_carries_it(db: ClickHouse, client: Client) -> None:
    await db.insert("logs", b"{}", "event-1")
    assert client.calls[0][1][3]["insert_deduplication_token"] == "event-1"


@pytest.mark.parametrize("code", sorted(clickhouse._BAD_ROWS))
async def test_rows_that_are_never_taken_are_bad_rows(db: ClickHouse, client: Client, code: int) -> None:
    client.failure = failed(code)
    with pytest.raises(BadRows) as caught:
        await db.insert("logs", b"{")
    assert caught.value.code == code


@pytest.mark.parametrize("code", [60, 81, 159, 202, 210, 241, 242, 252, 319, 439, 516, 999])
async def test_any_other_failure_of_an_insert_may_pass(db: ClickHouse, client: Client, code: int) -> None:
    client.failure = failed(code)
    with pytest.raises(ClickHouseUnavailable):
        await db.insert("logs", b"{}")


async def test_a_refusal_is_told_without_version_and_internals(db: ClickHouse, client: Client) -> None:
    client.failure = failed(27, REFUSAL)
    with pytest.raises(BadRows) as caught:
        await db.insert("logs", b"{")
    text = str(caught.value)
    assert "Cannot parse input: expected '\"' before: 'x'" in text
    assert not any(noise in text for noise in ("\n", "version", "DB::Exception", "ParallelParsing"))


async def test_a_long_refusal_is_cut(db: ClickHouse, client: Client) -> None:
    client.failure = failed(27, "x" * 100_000)
    with pytest.raises(BadRows) as caught:
        await db.insert("logs", b"{")
    assert len(str(caught.value)) == 1000


@pytest.mark.parametrize(
    "failure",
    [
        failed(None),
        OperationalError("broken pipe"),
        urllib3.exceptions.ReadTimeoutError(urllib3.connectionpool.HTTPConnectionPool("x"), "/", "late"),
        urllib3.exceptions.ProtocolError("reset"),
        ConnectionRefusedError("no"),
        TimeoutError("late"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_server_that_does_not_answer_is_unavailable(db: ClickHouse, client: Client, failure: Exception) -> None:
    client.failure = failure
    attempts = (db.ping(), db.insert("logs", b"{}"), db.select("SELECT 1"), db.command("SELECT 1"))
    for attempt in attempts:
        with pytest.raises(ClickHouseUnavailable, match=r"^ClickHouse does not answer$"):
            await attempt


async def test_a_server_that_cannot_be_connected_to_is_unavailable() -> None:
    def connect() -> Any:
        raise OperationalError("no route")

    with pytest.raises(ClickHouseUnavailable):
        await ClickHouse(connect, connections=1).ping()


async def test_a_connection_is_tried_again_at_the_next_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Any] = [OperationalError("no route"), Client(), Client()]

    def connect(config: ClickHouseConfig) -> Any:
        attempt = attempts.pop(0)
        if isinstance(attempt, Exception):
            raise attempt
        return attempt

    monkeypatch.setattr(clickhouse, "_server_client", connect)
    db = ClickHouse.server(ClickHouseConfig())
    with pytest.raises(ClickHouseUnavailable):
        await db.ping()
    await asyncio.gather(*(db.ping() for _ in range(10)))
    assert len(attempts) == 1  # one client serves all
    await db.close()


async def test_each_thread_has_a_client_of_its_own_to_the_embedded_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Client] = []
    meeting: Any = threading.Barrier(2)  # so that two statements are on two threads

    def connect(path: Path, database: str) -> Client:
        assert (path, database) == (tmp_path, "mine")
        made.append(Client())
        made[-1].gate = meeting
        return made[-1]

    monkeypatch.setattr(clickhouse, "_embedded_client", connect)
    db = ClickHouse.embedded(tmp_path, "mine", connections=2)
    assert made == []
    for _ in range(3):
        await asyncio.gather(db.ping(), db.ping())
    assert [len(client.calls) for client in made] == [3, 3]
    await db.close()


async def test_a_ping_returns_the_version(db: ClickHouse) -> None:
    assert await db.ping() == "26.9.4.1"


async def test_a_server_that_does_not_let_us_in_is_not_ready(db: ClickHouse, client: Client) -> None:
    client.failure = failed(516, "Code: 516. DB::Exception: default: Authentication failed")
    with pytest.raises(ClickHouseUnavailable, match="Authentication failed"):
        await db.ping()


async def test_a_select_passes_parameters_and_limits(db: ClickHouse, client: Client) -> None:
    rows = await db.select("SELECT {n:UInt8}", {"n": 1}, {"max_execution_time": 5, "mode": "throw"}, "Parquet")
    assert rows == b'{"n":1}\n'
    statement = "SELECT {n:UInt8} SETTINGS max_execution_time = 5, mode = 'throw'"
    assert client.calls == [("query", (statement, {"n": 1}, {"wait_end_of_query": 1}, "Parquet"))]


async def test_a_select_without_limits_is_left_as_it_is(db: ClickHouse, client: Client) -> None:
    await db.select("SELECT 1")
    assert client.calls[0][1][0] == "SELECT 1"


@pytest.mark.parametrize("code", sorted(clickhouse._LIMITS))
async def test_a_query_that_needs_too_much_is_told_how_to_need_less(db: ClickHouse, client: Client, code: int) -> None:
    client.failure = failed(code)
    with pytest.raises(QueryLimit, match="narrow the time range"):
        await db.select("SELECT 1")


@pytest.mark.parametrize("code", sorted(clickhouse._NO_SCHEMA))
async def test_without_the_schema_a_query_may_work_later(db: ClickHouse, client: Client, code: int) -> None:
    client.failure = failed(code)
    with pytest.raises(ClickHouseUnavailable, match="run the migration"):
        await db.select("SELECT 1")


async def test_any_other_failure_of_a_query_is_logged_and_not_told(
    db: ClickHouse, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.failure = failed(62, "Syntax error near secret")
    with caplog.at_level(logging.ERROR), pytest.raises(TorporError, match=r"^the query failed$"):
        await db.select("SELECT wrong")
    assert vars(caplog.records[0])["code"] == 62
    assert vars(caplog.records[0])["sql"] == "SELECT wrong"


async def test_a_refused_statement_is_told(db: ClickHouse, client: Client) -> None:
    client.failure = failed(57, "Code: 57. DB::Exception: Table exists")
    with pytest.raises(TorporError, match="ClickHouse refuses a statement: Table exists"):
        await db.command("CREATE TABLE t")


async def test_a_statement_takes_parameters(db: ClickHouse, client: Client) -> None:
    await db.command("INSERT INTO t SELECT {n:UInt8}", {"n": 1})
    assert client.calls == [("command", ("INSERT INTO t SELECT {n:UInt8}", {"n": 1}))]


async def test_a_fault_of_ours_is_not_taken_for_one_of_clickhouse(db: ClickHouse, client: Client) -> None:
    client.failure = KeyError("ours")
    with pytest.raises(KeyError):
        await db.ping()


async def test_too_many_waiting_statements_are_refused_until_there_is_room(db: ClickHouse, client: Client) -> None:
    client.gate.clear()
    waiting = [asyncio.create_task(db.ping()) for _ in range(9)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await db.ping()
    client.gate.set()
    assert await asyncio.gather(*waiting) == ["26.9.4.1"] * 9
    await db.ping()


async def test_closing_waits_for_statements_under_way(db: ClickHouse, client: Client) -> None:
    client.gate.clear()
    pinging = asyncio.create_task(db.ping())
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(db.close())
    await asyncio.sleep(0.01)
    assert not closing.done()
    client.gate.set()
    await asyncio.gather(closing, pinging)


def test_the_server_is_reached_as_configured_and_without_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    import clickhouse_connect

    asked: dict[str, Any] = {}
    monkeypatch.setattr(clickhouse_connect, "get_client", lambda **settings: asked.update(settings))
    clickhouse._server_client(
        ClickHouseConfig("db", 8443, "u", "p", "mine", clickhouse_secure=True, clickhouse_cafile="ca.pem")
    )
    expected = {"host": "db", "port": 8443, "username": "u", "password": "p", "database": "mine", "secure": True}
    assert expected.items() <= asked.items()
    assert asked["ca_cert"] == "ca.pem"
    assert asked["autogenerate_session_id"] is False
    assert asked["query_retries"] == 0
