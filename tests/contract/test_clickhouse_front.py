"""The stand-in for a ClickHouse server keeps the promises of the HTTP interface, as seen by the real client."""

import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import lz4.frame
import pytest
import zstandard
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, StreamFailureError
from urllib3.exceptions import ProtocolError

from tests.support.clickhouse_front import running, scan

Server = tuple[str, int]
JSON_LINES = {"query": "INSERT INTO logs.t FORMAT JSONEachRow"}
TEXTS = [
    "plain",
    'it\'s "quoted" and `more`',
    "a\nnew\r\nline",
    "back\\slash \\n \\' \\",
    "a\ttab",
    "a\0nul",
    "ünïcode ☃ 𝄞",
    "{x:String} %s $1 ; -- /* FORMAT TSV",
    "",
]
# Fails in the seventh block of ten, when the first six were sent.
FAILS_LATE = "SELECT number, throwIf(number = 650000, 'too far') FROM numbers(1000000) SETTINGS max_threads = 1"


def connect(server: Server, **options: Any) -> Client:
    return clickhouse_connect.get_client(host=server[0], port=server[1], **options)


def ask(
    server: Server,
    given: dict[str, str],
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request without the client, to see what it would hide."""
    connection = http.client.HTTPConnection(*server, timeout=30)
    try:
        connection.request(method, "/?" + urlencode(given), body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def raw_stream(client: Client, query: str, fmt: str) -> Any:
    """The HTTP response itself, as the client hands it out."""
    return client.raw_stream(query, fmt=fmt)


def compressed(encoding: str, data: bytes) -> bytes:
    if encoding == "gzip":
        return gzip.compress(data)
    return bytes(zstandard.compress(data) if encoding == "zstd" else lz4.frame.compress(data))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("clickhouse")) as address:
        connect(address).command("CREATE DATABASE logs ENGINE = Atomic")
        yield address


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    client = connect(server, database="logs")
    client.command(
        "CREATE TABLE t (n Int64, s String) ENGINE = MergeTree ORDER BY n"
        " SETTINGS non_replicated_deduplication_window = 100"
    )
    yield client
    client.command("DROP TABLE t SYNC")
    client.close()


def stored(client: Client) -> list[tuple[int, str]]:
    return [(row[0], row[1]) for row in client.query("SELECT n, s FROM t ORDER BY n").result_rows]


# Queries and parameters


def test_a_ping_is_answered(server: Server, client: Client) -> None:
    assert client.ping()
    connection = http.client.HTTPConnection(*server, timeout=30)
    for path in ("/ping", "/"):  # both over one connection, which stays open
        connection.request("GET", path)
        assert connection.getresponse().read() == b"Ok.\n"
    connection.close()


@pytest.mark.parametrize("text", TEXTS)
def test_a_parameter_with_quotes_and_newlines_arrives_unchanged(client: Client, text: str) -> None:
    query = "SELECT {x:String} AS x, {n:Int64} AS n, {xs:Array(String)} AS xs"
    given = {"x": text, "n": -(2**63), "xs": [text, "b"]}
    assert client.query(query, parameters=given).result_rows == [(text, -(2**63), [text, "b"])]
    assert json.loads(client.raw_query(query, parameters=given, fmt="JSONEachRow"))["x"] == text


def test_a_parameter_too_long_for_the_url_arrives_unchanged(client: Client) -> None:
    text = "".join(TEXTS) * 500
    assert client.query("SELECT {x:String} AS x", parameters={"x": text}).result_rows == [(text,)]


def test_a_parameter_that_is_missing_is_an_error_of_the_engine(client: Client) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query("SELECT {x:String}")
    assert caught.value.code == 456


def test_a_parameter_can_name_a_table_and_be_a_value_of_an_insert(client: Client) -> None:
    client.command("INSERT INTO {t:Identifier} VALUES ({n:Int64}, {s:String})", {"t": "t", "n": 1, "s": TEXTS[1]})
    assert client.query("SELECT n, s FROM {t:Identifier}", {"t": "t"}).result_rows == [(1, TEXTS[1])]


def test_a_command_returns_a_value_or_a_summary(client: Client) -> None:
    assert client.command("SELECT 40 + 2") == 42
    assert client.command("SELECT 'x' WHERE 0") == ""
    assert client.command("EXISTS TABLE t") == 1
    summary = client.command("INSERT INTO t SELECT number, '' FROM numbers(3)")
    assert summary.written_rows == 3  # type: ignore[union-attr]


def test_the_database_of_the_client_is_the_one_of_its_queries(server: Server) -> None:
    assert connect(server, database="system").command("SELECT currentDatabase()") == "system"
    with pytest.raises(DatabaseError) as caught:
        connect(server, database="no_such_database")
    assert caught.value.code == 81


def test_the_answer_has_the_headers_of_a_server(server: Server) -> None:
    status, headers, body = ask(
        server, {"query": "SELECT 1 FORMAT JSONEachRow", "query_id": "mine", "wait_end_of_query": "1"}
    )
    assert (status, body) == (200, b'{"1":1}\n')
    assert headers["X-ClickHouse-Query-Id"] == "mine"
    assert headers["X-ClickHouse-Format"] == "JSONEachRow"
    assert headers["X-ClickHouse-Timezone"]
    assert headers["X-ClickHouse-Server-Display-Name"]
    assert json.loads(headers["X-ClickHouse-Summary"])["read_rows"] == "1"


def test_the_default_format_holds_where_the_query_names_none(server: Server) -> None:
    assert ask(server, {"query": "SELECT 1 AS a, 'b' AS b"})[2] == b"1\tb\n"
    assert ask(server, {"query": "SELECT 1 AS a", "default_format": "JSONEachRow"})[2] == b'{"a":1}\n'
    assert ask(server, {"query": "SELECT"}, b"1 AS a FORMAT CSV")[2] == b"1\n"  # the body goes on where the URL stops


def test_a_get_cannot_change_anything(server: Server, client: Client) -> None:
    assert ask(server, {"query": "SELECT 1"}, method="GET")[2] == b"1\n"
    _, headers, _ = ask(server, {"query": "INSERT INTO logs.t VALUES (1, '')"}, method="GET")
    assert headers["X-ClickHouse-Exception-Code"] == "164"
    assert stored(client) == []


# Formats and streams


def test_a_raw_query_returns_json_lines(client: Client) -> None:
    lines = client.raw_query("SELECT number AS n FROM numbers(200000) ORDER BY n", fmt="JSONEachRow").splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(200_000))


def test_a_native_result_and_an_arrow_result_hold_the_same_rows(client: Client) -> None:
    query = "SELECT number AS n, toString(number) AS s FROM numbers(200000) ORDER BY n"
    expected = [(n, str(n)) for n in range(200_000)]
    assert client.query(query).result_rows == expected
    with client.query_rows_stream(query) as rows:
        assert list(rows) == expected
    table = client.query_arrow(query, use_strings=True)
    assert list(zip(table["n"].to_pylist(), table["s"].to_pylist(), strict=True)) == expected


def test_a_result_without_rows_keeps_its_columns_where_the_format_has_them(client: Client) -> None:
    assert client.query("SELECT n, s FROM t LIMIT 0").column_names == ("n", "s")
    assert client.query("SELECT n, s FROM t").result_rows == []
    assert client.raw_query("SELECT n, s FROM t", fmt="JSONEachRow") == b""
    assert json.loads(client.raw_query("SELECT n, s FROM t", fmt="JSON"))["rows"] == 0


def test_a_raw_stream_brings_rows_before_the_query_ends(client: Client) -> None:
    begin = time.monotonic()
    query = "SELECT number AS n, sleepEachRow(0.2) FROM numbers(6) SETTINGS max_block_size = 1, max_threads = 1"
    stream = raw_stream(client, query, "JSONEachRow")
    pieces = [(piece, time.monotonic() - begin) for piece in stream.stream(amt=None)]
    assert [json.loads(piece)["n"] for piece, _ in pieces] == list(range(6))
    assert pieces[0][1] < 0.8
    assert pieces[-1][1] > 1.0


def test_totals_are_part_of_a_streamed_answer(client: Client) -> None:
    with client.raw_stream(
        "SELECT number % 2 AS k, count() FROM numbers(10) GROUP BY k WITH TOTALS", fmt="TSV"
    ) as stream:
        assert stream.read().split(b"\n\n")[1] == b"0\t10\n"


@pytest.mark.parametrize("encoding", ["zstd", "lz4", "gzip", "deflate"])
def test_a_result_is_compressed_as_the_client_asks(server: Server, encoding: str) -> None:
    query = "SELECT number AS n, 'the same text' AS s FROM numbers(300000) ORDER BY n"
    client = connect(server, compress=encoding)
    assert client.query(query).result_columns[0] == list(range(300_000))
    with client.query_column_block_stream(query) as blocks:
        assert sum(len(block[0]) for block in blocks) == 300_000
    accept = {"Accept-Encoding": encoding}
    for wait in ("0", "1"):
        _, headers, body = ask(server, {"query": query, "wait_end_of_query": wait}, headers=accept)
        assert headers["Content-Encoding"] == encoding
        assert 0 < len(body) < 2_000_000
    _, headers, _ = ask(server, {"query": query, "enable_http_compression": "0"}, headers=accept)
    assert headers["Content-Encoding"] is None


# Inserts


@pytest.mark.parametrize("encoding", [None, "gzip", "zstd", "lz4"])
@pytest.mark.parametrize("way", ["bytes", "pieces"])
def test_rows_sent_as_json_lines_are_stored(client: Client, encoding: str | None, way: str) -> None:
    rows = list(enumerate(TEXTS * 5000))
    data = "".join(json.dumps({"n": n, "s": s}) + "\n" for n, s in rows).encode()
    if encoding:
        data = compressed(encoding, data)
    block: Any = data if way == "bytes" else (data[at : at + 10_007] for at in range(0, len(data), 10_007))
    summary = client.raw_insert("t", ["n", "s"], block, fmt="JSONEachRow", compression=encoding)
    assert summary.written_rows == len(rows)
    assert stored(client) == rows


@pytest.mark.parametrize("encoding", [False, "gzip", "zstd", "lz4"])
def test_rows_sent_as_native_blocks_are_stored(server: Server, client: Client, encoding: bool | str) -> None:
    rows = list(enumerate(TEXTS * 5000))
    writer = connect(server, database="logs", compress=encoding)
    assert writer.insert("t", rows, column_names=["n", "s"]).written_rows == len(rows)
    assert stored(client) == rows


def test_rows_after_values_are_stored(server: Server, client: Client) -> None:
    client.command("INSERT INTO t VALUES (1, 'a;'), (1 + 1, upper('b'));")
    assert ask(server, {"query": "INSERT INTO logs.t (n) VALUES"}, b"(3)")[0] == 200
    assert stored(client) == [(1, "a;"), (2, "B"), (3, "")]


def test_several_frames_of_one_body_are_all_read(server: Server, client: Client) -> None:
    for n, encoding in enumerate(("gzip", "zstd", "lz4")):
        body = b"".join(compressed(encoding, b'{"n":%d,"s":"%d"}\n' % (n, part)) for part in range(3))
        status, _, _ = ask(server, JSON_LINES, body, {"Content-Encoding": encoding})
        assert status == 200
    assert len(stored(client)) == 9


def test_the_same_deduplication_token_stores_rows_once(client: Client) -> None:
    for token, text in (("first", b"a"), ("first", b"b"), ("second", b"a")):
        data = b'{"n":1,"s":"%s"}' % text
        client.raw_insert("t", insert_block=data, fmt="JSONEachRow", settings={"insert_deduplication_token": token})
    assert stored(client) == [(1, "a"), (1, "a")]


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "lz4"])
def test_a_body_that_is_cut_or_not_compressed_stores_nothing(server: Server, client: Client, encoding: str) -> None:
    whole = compressed(encoding, b'{"n":1,"s":"x"}\n' * 1000)
    for body in (whole[:-3], b"this is not compressed at all"):
        status, headers, _ = ask(server, JSON_LINES, body, {"Content-Encoding": encoding})
        assert (status, headers["X-ClickHouse-Exception-Code"]) == (500, "271")
    assert stored(client) == []


def test_an_insert_whose_client_goes_away_stores_nothing(server: Server, client: Client) -> None:
    path = "/?" + urlencode(JSON_LINES)
    with socket.create_connection(server) as connection:
        row = b'{"n":1,"s":"x"}\n'
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        connection.sendall(head + b"%x\r\n%s\r\n" % (len(row), row))
        time.sleep(0.2)
    time.sleep(0.2)
    assert stored(client) == []


# Settings and errors


def test_a_setting_holds_for_its_query_only(client: Client) -> None:
    query = "SELECT getSetting('max_block_size')"
    default = client.command(query)
    assert client.command(query, settings={"max_block_size": 7}) == 7
    assert client.query(query, settings={"max_block_size": 8}).result_rows == [(8,)]
    assert client.command(query) == default
    with pytest.raises(DatabaseError) as caught:
        client.command("INSERT INTO t VALUES (1, '')", settings={"readonly": 1})
    assert caught.value.code == 164
    client.command("INSERT INTO t VALUES (1, '')")


def test_an_error_has_the_code_of_the_engine_and_the_status_of_a_server(server: Server, client: Client) -> None:
    cases: list[tuple[str, dict[str, Any], int, int]] = [
        ("SELECT * FROM no_such_table", {}, 60, 404),
        ("SELECT * FROM no_such_database.t", {}, 81, 404),
        ("SELECT no_such_column FROM t", {}, 47, 404),
        ("SELECT no_such_function(1)", {}, 46, 404),
        ("SELECT 1", {"no_such_setting": 1}, 115, 404),
        ("SELECT 1 FORMAT NoSuchFormat", {}, 73, 404),
        ("SELEC 1", {}, 62, 400),
        ("SELECT 1; SELECT 2", {}, 62, 400),
        ("DROP TABLE t; SELECT 1", {}, 62, 400),
        ("SELECT 1 WHERE 1 IN (" + "1, " * 100_000 + "1)", {}, 62, 400),
        ("SELECT toInt8('x')", {}, 6, 400),
        ("SELECT sleep(3)", {"max_execution_time": 1}, 159, 408),
        ("SELECT groupArray(number) FROM numbers(50000000)", {"max_memory_usage": 10_000_000}, 241, 500),
        ("SELECT throwIf(1)", {}, 395, 500),
    ]
    for query, settings, code, status in cases:
        with pytest.raises(DatabaseError) as caught:
            client.raw_query(query, settings=settings)
        assert caught.value.code == code, query
        given = {"database": "logs"} | {name: str(value) for name, value in settings.items()}
        answer = ask(server, given, query.encode())
        assert (answer[0], answer[1]["X-ClickHouse-Exception-Code"]) == (status, str(code)), query
        assert re.match(rb"Code: %d\. DB::Exception: .*\([A-Z_]+\).*\n$" % code, answer[2], re.S), query
        assert b"(version " in answer[2]


def test_bad_data_is_refused_with_its_code_and_stores_nothing(client: Client) -> None:
    good = b'{"n":1,"s":"x"}\n' * 1000
    for line, code in ((b'{"n":"x"}', 27), (b"rubbish", 27), (b'{"n":2,"other":1}', 117)):
        with pytest.raises(DatabaseError) as caught:
            client.raw_insert(
                "t", None, good + line, fmt="JSONEachRow", settings={"input_format_skip_unknown_fields": 0}
            )
        assert caught.value.code == code
        assert "row 1001" in str(caught.value)
    with pytest.raises(DatabaseError) as caught:
        client.raw_insert("no_such_table", None, good * 500, fmt="JSONEachRow")
    assert caught.value.code == 60
    assert stored(client) == []


@pytest.mark.parametrize("encoding", [False, "zstd", "lz4", "gzip"])
def test_a_failure_in_mid_stream_is_raised_by_the_client(server: Server, encoding: bool | str) -> None:
    client = connect(server, compress=encoding)
    seen = []

    def receive() -> None:
        with client.query_rows_stream(FAILS_LATE) as rows:
            seen.extend(rows)

    with pytest.raises(StreamFailureError, match="too far") as caught:
        receive()
    assert (caught.value.code, caught.value.name) == (395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO")
    assert len(seen) < 650_000
    assert client.command("SELECT 1") == 1


def test_a_failure_in_mid_stream_ends_a_raw_stream_with_an_error(client: Client) -> None:
    stream = raw_stream(client, FAILS_LATE, "JSONEachRow")
    received = bytearray()

    def receive() -> None:
        for piece in stream.stream(65_536):
            received.extend(piece)

    with pytest.raises(ProtocolError):
        receive()
    tag = stream.headers["X-ClickHouse-Exception-Tag"].encode()
    rows, _, rest = received.partition(b"\r\n__exception__\r\n" + tag + b"\r\n")
    assert rows.count(b"\n") > 300_000
    message, _, end = rest.rpartition(b"\n%d " % (rest.index(b"\n") + 1))
    assert message.startswith(b"Code: 395. DB::Exception: too far")
    assert end == tag + b"\r\n__exception__\r\n"


def test_a_failure_is_an_ordinary_error_when_the_end_is_waited_for(client: Client) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query(FAILS_LATE)
    assert caught.value.code == 395
    assert not isinstance(caught.value, OperationalError)


# Several at once, and from run to run


def test_queries_run_in_parallel(server: Server) -> None:
    clients = [connect(server) for _ in range(4)]
    begin = time.monotonic()
    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(lambda client: client.command("SELECT sleep(1)"), clients)] == [0] * 4
    assert time.monotonic() - begin < 3


def test_a_query_is_answered_while_an_insert_is_under_way(server: Server, client: Client) -> None:
    seen = []

    def rows() -> Iterator[bytes]:
        yield b'{"n":1,"s":"x"}\n'
        seen.append(connect(server, database="logs").command("SELECT count() FROM t"))
        yield b'{"n":2,"s":"y"}\n'

    client.raw_insert("t", None, rows(), fmt="JSONEachRow")  # type: ignore[arg-type]
    assert seen == [0]
    assert stored(client) == [(1, "x"), (2, "y")]


def test_a_stream_that_is_left_early_ends_its_query(server: Server, client: Client) -> None:
    stream = raw_stream(connect(server), "SELECT number FROM numbers(1000000000000)", "TSV")
    assert stream.read(10)
    stream.close()
    for _ in range(50):
        running_now = client.command("SELECT count() FROM system.processes WHERE query LIKE '%1000000000000%'")
        if running_now == 1:  # this very query
            return
        time.sleep(0.1)
    pytest.fail("the query still runs")


def test_a_restart_on_the_same_path_keeps_the_rows(tmp_path: Path) -> None:
    with running(tmp_path) as address:
        client = connect(address)
        client.command("CREATE DATABASE logs ENGINE = Atomic")
        client.command("CREATE TABLE logs.t (n Int64) ENGINE = MergeTree ORDER BY n")
        client.raw_insert("logs.t", None, b'{"n":1}\n{"n":2}', fmt="JSONEachRow")
    with running(tmp_path) as address:
        assert connect(address).command("SELECT sum(n) FROM logs.t") == 3


def started(path: Path) -> tuple[subprocess.Popen[str], Server]:
    command = [sys.executable, "-m", "tests.support.clickhouse_front", "--path", str(path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.fullmatch(r"listening on (127\.0\.0\.1):(\d+)\n", process.stdout.readline())
    assert found
    return process, (found[1], int(found[2]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    process, address = started(tmp_path)
    with process:
        assert connect(address).command("SELECT 1") == 1
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, rest, errors) == (0, "", "")


def test_a_signal_ends_the_process_while_a_query_runs(tmp_path: Path) -> None:
    process, address = started(tmp_path)
    path = "/?" + urlencode({"query": "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(number)"})
    with process, socket.create_connection(address) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        time.sleep(0.5)
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_one_path_is_served_by_one_process(server: Server, tmp_path: Path) -> None:
    with running(tmp_path), pytest.raises(RuntimeError, match="did not start"), running(tmp_path):
        pass


def test_scanning_an_insert_is_not_misled_by_its_text() -> None:
    for data in (os.urandom(100_000), b"$a$" * 30_000, b"/*" * 50_000, b"(" * 100_000, b"'" * 100_001):
        statement = scan(b"INSERT INTO t (a, `format`, values) SETTINGS x = 'FORMAT y' FORMAT Native\n" + data)
        assert (statement.format, statement.data) == ("Native", data)
    assert scan(b"\n/* SELECT */ insert\tINTO t\r\nFORMAT TSV\r\n1\ta").data == b"1\ta"
    assert scan(b"INSERT INTO t SELECT 1 FORMAT TSV").data is None
    assert scan(b"SELECT format FROM t -- FORMAT CSV").format is None
    assert scan(b"SELECT ';' AS a, $tag$ ; FORMAT JSON $tag$ FORMAT TSV SETTINGS max_threads = 1").format == "TSV"
