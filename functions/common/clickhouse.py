"""ClickHouse: the one file that knows its client. A server over HTTP, or the same engine embedded in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from functions.common.config import setting
from functions.common.errors import BadRows, ClickHouseUnavailable, Overloaded, QueryLimit, TorporError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

log = logging.getLogger(__name__)
T = TypeVar("T")

# Codes of ClickHouse (src/Common/ErrorCodes.cpp) that say: these rows will never be taken.
_BAD_ROWS = {6, 20, 23, 25, 26, 27, 32, 33, 38, 41, 53, 69, 70, 72, 117, 130, 131, 321, 349, 407, 467}
# ... and: this query needs more time, memory or rows than allowed.
_LIMITS = {
    158: "it reads more rows than allowed",
    159: "it runs longer than allowed",
    160: "it runs longer than allowed",
    241: "it needs more memory than allowed",
    307: "it reads more bytes than allowed",
    396: "its result has more rows or bytes than allowed",
}
# Unknown table, database, column: the schema is not applied yet.
_NO_SCHEMA = {16, 47, 60, 81}
# Too many queries, no connection, no replica, no Keeper: the same query may work later.
_NOT_NOW = {202, 203, 209, 210, 242, 279, 286, 319, 425, 439, 999}
# Engine texts name the place in the input; the temporary file and the version say nothing to the reader.
_NOISE = re.compile(
    r"Code: \d+\. |DB::Exception: |: \(in file/uri [^)]*\)|\(version [^)]*\)+|: While executing.*", re.S
)


@dataclasses.dataclass(frozen=True)
class ClickHouseConfig:
    """How to reach ClickHouse."""

    clickhouse_host: str = setting("localhost", "ClickHouse server")
    clickhouse_port: int = setting(8123, "Its HTTP port (usually 8443 with TLS)")
    clickhouse_user: str = setting("default", "ClickHouse user")
    clickhouse_password: str = setting("", "Its password")
    clickhouse_database: str = setting("torpor", "Database of the logs")
    clickhouse_secure: bool = setting(False, "Speak TLS to ClickHouse")
    clickhouse_cafile: str = setting("", "File of the CA that signed the server's certificate (PEM)")
    clickhouse_connections: int = setting(8, "Statements in progress at a time; eight times as many may wait")


class ClickHouse:
    """A database with the table of logs. All methods raise ClickHouseUnavailable if it does not answer."""

    def __init__(self, connect: Callable[[], Client], connections: int) -> None:
        self._connect = connect
        self._threads = ThreadPoolExecutor(max_workers=connections, thread_name_prefix="clickhouse")
        self._most_waiting = connections * 9
        self._pending = 0

    @classmethod
    def server(cls, config: ClickHouseConfig) -> ClickHouse:
        """A ClickHouse server over HTTP; connects at the first statement."""
        client: list[Client] = []
        lock = threading.Lock()

        def connect() -> Client:
            with lock:  # one client serves all threads: it holds no session
                if not client:
                    client.append(_server_client(config))
            return client[0]

        return cls(connect, config.clickhouse_connections)

    @classmethod
    def embedded(cls, path: Path, database: str = "torpor", connections: int = 4) -> ClickHouse:
        """The engine in this process with its data under `path`. One process may open a path at a time."""
        local = threading.local()

        def connect() -> Client:
            if not hasattr(local, "client"):  # a client of the engine does one statement at a time
                local.client = _embedded_client(path, database)
            client: Client = local.client
            return client

        return cls(connect, connections)

    async def ping(self) -> str:
        """Return the version of the server."""
        try:
            return await self._run(lambda client: str(client.command("SELECT version()")))
        except _EngineError as error:
            raise ClickHouseUnavailable(f"ClickHouse cannot be used: {error.text}") from error

    async def insert(self, table: str, rows: bytes, token: str = "") -> None:
        """Insert JSON lines; they are visible when this returns.

        The same rows with the same `token` again are not stored again. Raises BadRows if the rows are at fault: then
        none of them, or some, are stored.
        """
        settings = {
            # The answer must follow the write, and waiting lines are grouped before they come here.
            "async_insert": "0",
            "distributed_foreground_insert": "1",
            # A batch of late logs may touch more days than ClickHouse likes; refusing it would help nobody.
            "throw_on_max_partitions_per_insert_block": "0",
            # A field that the table lacks must not vanish silently.
            "input_format_skip_unknown_fields": "0",
            **({"insert_deduplication_token": token} if token else {}),
        }

        def insert(client: Client) -> None:
            client.raw_insert(table, insert_block=rows, fmt="JSONEachRow", settings=settings)

        try:
            await self._run(insert)
        except _EngineError as error:
            if error.code in _BAD_ROWS:
                raise BadRows(error.text, error.code) from error
            raise ClickHouseUnavailable(f"cannot insert: {error.text}") from error

    async def select(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, int | str] | None = None,
        output: str = "JSONEachRow",
    ) -> bytes:
        """Run a SELECT with `{name:Type}` parameters and return its rows in ClickHouse's format `output`.

        Raises QueryLimit if it needs more than `settings` allow.
        """
        clauses = ", ".join(f"{name} = {value!r}" for name, value in (settings or {}).items())
        statement = f"{sql} SETTINGS {clauses}" if clauses else sql

        def select(client: Client) -> bytes:
            # The server then waits for the end before it answers, so that a failure midway is an error, not an end.
            whole = {"wait_end_of_query": 1}
            return client.raw_query(statement, parameters=dict(parameters or {}), settings=whole, fmt=output)

        try:
            return await self._run(select)
        except _EngineError as error:
            if error.code in _LIMITS:
                raise QueryLimit(
                    f"the query was stopped: {_LIMITS[error.code]}; narrow the time range or add a filter"
                ) from error
            if error.code in _NO_SCHEMA:
                raise ClickHouseUnavailable("the schema is not applied; run the migration") from error
            if error.code in _NOT_NOW:
                raise ClickHouseUnavailable(f"ClickHouse cannot answer now: {error.text}") from error
            log.exception("query failed", extra={"code": error.code, "sql": sql})
            raise TorporError("the query failed") from error

    async def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement that returns nothing, such as DDL."""
        try:
            await self._run(lambda client: client.command(sql, parameters=dict(parameters or {})))
        except _EngineError as error:
            raise TorporError(f"ClickHouse refuses a statement: {error.text}") from error

    async def close(self) -> None:
        """Wait for running statements and let go of the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, statement: Callable[[Client], T]) -> T:
        if self._pending >= self._most_waiting:
            raise Overloaded("too many statements are waiting for ClickHouse; retry later")
        self._pending += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._translate, statement)
        finally:
            self._pending -= 1

    def _translate(self, statement: Callable[[Client], T]) -> T:
        import clickhouse_connect.driver.exceptions as driver
        import urllib3.exceptions

        try:
            return statement(self._connect())
        except driver.Error as error:
            if error.code:
                raise _EngineError(error.code, str(error)) from error
            if (cause := _undecoded(error)) is not None:
                raise cause from error
            raise ClickHouseUnavailable("ClickHouse does not answer") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClickHouseUnavailable("ClickHouse does not answer") from error


class _EngineError(Exception):
    """ClickHouse answered with an error code."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = " ".join(_NOISE.sub("", text).split())[:1000]
        super().__init__(self.text)


def _undecoded(error: Exception) -> _EngineError | None:
    """The error of the embedded engine that its client could not decode: it quotes input that is not UTF-8."""
    cause = error.__cause__ or error.__context__
    match = re.match(rb"Code: (\d+)", cause.object) if isinstance(cause, UnicodeDecodeError) else None
    return _EngineError(int(match[1]), match.string.decode(errors="backslashreplace")) if match else None


def _server_client(config: ClickHouseConfig) -> Client:
    import clickhouse_connect

    return clickhouse_connect.get_client(
        host=config.clickhouse_host,
        port=config.clickhouse_port,
        username=config.clickhouse_user,
        password=config.clickhouse_password,
        database=config.clickhouse_database,
        secure=config.clickhouse_secure,
        ca_cert=config.clickhouse_cafile or None,
        autogenerate_session_id=False,  # sessions would make statements wait for one another
        connect_timeout=3,
        send_receive_timeout=60,
        query_retries=0,
    )


def _embedded_client(path: Path, database: str) -> Client:
    import clickhouse_connect

    # The client hands inserts to the engine as files: keep those in memory where the system can.
    if Path("/dev/shm").is_dir():
        tempfile.tempdir = "/dev/shm"
    path.mkdir(parents=True, exist_ok=True)
    return clickhouse_connect.get_client(interface="chdb", path=str(path), database=database)
