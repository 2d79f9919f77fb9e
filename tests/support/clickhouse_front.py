"""A stand-in for the HTTP interface of a ClickHouse server, with the real ClickHouse engine (chdb) behind it.

No ClickHouse server can be installed where these tests run, but the functions under test must talk to one over HTTP
from processes of their own. Every statement, parameter, setting, format and error here is the engine's; this module
only carries them over HTTP the way the server does. Each request gets a connection of its own to the engine, so its
database and its settings end with it. One process serves one directory, and the rows stay there when it stops.

    python -m tests.support.clickhouse_front --path DIR --port 0

What differs from a server:
- no users, passwords, roles or TLS: any credentials are accepted;
- no sessions: `session_id` is ignored, so SET, USE and temporary tables do not outlive a request;
- no async inserts: the rows are written before the answer, whatever `async_insert` says;
- `query_id` is only echoed, so KILL QUERY does not find it; a query whose client went away stops at its next block;
- refused: `compress`, `decompress`, external data, and parameters in an INSERT ... FORMAT that brings data;
- not understood: INSERT SELECT FROM input(), SETTINGS after the FORMAT of an INSERT;
- `client_protocol_version` is ignored, there are no progress headers, and Content-Type is not set;
- formats with a header or a footer (JSON, Arrow, Parquet, ...), WITH TOTALS and all that is not a SELECT are built
  whole before they are sent; the other formats are sent block by block, so a failure may show after fewer rows than
  with a server, and such an answer has no X-ClickHouse-Summary;
- the `default` database has the Overlay engine of the embedded build: create databases with ENGINE = Atomic.
"""

import argparse
import asyncio
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import chdb
import lz4.frame
import uvicorn
import zstandard
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

# Blocks of these formats can be put one after the other; a block of any other brings its own header or footer.
STREAMED = {"native", "rowbinary", "tabseparated", "tsv", "csv", "jsoneachrow", "jsonlines", "jsoncompacteachrow"}
RETURNS_ROWS = (b"", b"SELECT", b"WITH", b"UNION", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS", b"CHECK")
# URL parameters of the interface itself; every other one is a setting of the query.
INTERFACE = {"query", "query_id", "database", "default_format", "user", "password", "quota_key", "buffer_size"}
INTERFACE |= {"session_id", "session_timeout", "session_check", "wait_end_of_query", "client_protocol_version"}
SERVER_DEFAULTS = {"implicit_select": "0", "allow_introspection_functions": "0"}  # the embedded build is laxer here
HEAD_BYTES = 262_144  # the server's default max_query_size: an INSERT must end before it, its data may go on
# The codes that the server answers with a status other than 500 (its exceptionCodeToHTTPStatus).
STATUS = {194: 401, 159: 408, 381: 411, 229: 413, 779: 415, 48: 501, 76: 503, 209: 503, 439: 503}
STATUS |= dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123, 167, 168, 223), 400)
STATUS |= dict.fromkeys((321, 376, 427, 441, 675, 676), 400) | dict.fromkeys((192, 193, 497, 512, 516), 403)
STATUS |= dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511), 404)

QUOTED = rb"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$"""
BRACKETED = rb"[(\[{][^()\[\]{}]*[)\]}]"
DATA = re.compile(rb"\bSELECT\b|\bVALUES\b|\bFORMAT\s+([a-z]\w*)[ \t\f]*;?[ \t\f]*\r?\n?", re.I)
FORMAT = re.compile(rb"\bFORMAT\s+([a-z]\w*)\s*(?:$|;|SETTINGS\b)", re.I)

POOL = ThreadPoolExecutor(max_workers=32, thread_name_prefix="engine")
connect: Callable[[str], Any] = chdb.connect


class Failure(Exception):
    """An error in ClickHouse's words: `Code: N. DB::Exception: ... (NAME)`."""

    def __init__(self, text: str) -> None:
        found = re.search(r"Code: (\d+)\. ", text)
        self.code = int(found[1]) if found else 1001
        self.text = text[found.start() :] if found else f"Code: 1001. DB::Exception: {text} (STD_EXCEPTION)"


class Statement(NamedTuple):
    """What HTTP must know of a statement; what it means is left to the engine."""

    sql: bytes
    format: str | None  # of its FORMAT clause
    data: bytes | None = None  # what follows an INSERT ... FORMAT; None if the statement brings no data
    returns_rows: bool = False
    has_totals: bool = False  # they come after the rows, and the engine leaves them out of a stream
    several: bool = False


def scan(sql: bytes) -> Statement:
    """Find the format of a statement, and where the data of an INSERT begins."""

    def blank(match: re.Match[bytes]) -> bytes:
        return b" " * len(match.group())

    # The statement without what is quoted, commented out or in brackets; all else stays at its offset.
    outer, count = re.sub(QUOTED, blank, sql, flags=re.S), 1
    while count:
        outer, count = re.subn(BRACKETED, blank, outer)
    word = re.match(rb"\s*(\w*)", outer)
    first = word[1].upper() if word else b""
    data = DATA.search(outer) if first == b"INSERT" else None
    if data and data.group().upper() != b"SELECT":
        return Statement(sql[: data.start()], (data[1] or b"Values").decode(), sql[data.end() :])
    form = FORMAT.search(outer)
    totals, several = re.search(rb"\bTOTALS\b", outer, re.I), re.search(rb";\s*\w", outer)
    return Statement(sql, form and form[1].decode(), None, first in RETURNS_ROWS, bool(totals), bool(several))


def quoted(text: str, mark: str) -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


def encoder(name: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """Write and end of one compressed frame. All that was written can be read at once."""
    if name == "zstd":
        zstd = zstandard.ZstdCompressor(level=1).compressobj()
        return lambda data: zstd.compress(data) + zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), zstd.flush
    if name == "lz4":
        frame = lz4.frame.LZ4FrameCompressor(auto_flush=True)
        head = [frame.begin()]
        return lambda data: (head.pop() if head else b"") + frame.compress(data), lambda: b"".join(head) + frame.flush()
    if name:
        gzip = zlib.compressobj(1, wbits=31 if name == "gzip" else 15)
        return lambda data: gzip.compress(data) + gzip.flush(zlib.Z_SYNC_FLUSH), gzip.flush
    return bytes, bytes


def decoder(name: str) -> Any:
    if name in ("gzip", "deflate"):
        return zlib.decompressobj(31 if name == "gzip" else 15)
    if name == "zstd":
        return zstandard.ZstdDecompressor().decompressobj()
    if name == "lz4":
        return lz4.frame.LZ4FrameDecompressor()
    raise Failure(f"Code: 48. DB::Exception: Content-Encoding {name} is not supported here. (NOT_IMPLEMENTED)")


async def decoded(request: Request) -> AsyncIterator[bytes]:
    """The request body, decompressed. Clients send zstd and lz4 as a row of frames."""
    encoding, frame = request.headers.get("content-encoding", "identity"), None
    async for chunk in request.stream():
        if encoding == "identity":
            yield chunk
            continue
        try:
            while chunk:
                frame = frame or decoder(encoding)
                yield frame.decompress(chunk)
                chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        except (zlib.error, zstandard.ZstdError, RuntimeError) as error:
            raise Failure(f"Code: 271. DB::Exception: Cannot read {encoding}: {error}. (CANNOT_DECOMPRESS)") from None
    if frame is not None:
        raise Failure(f"Code: 271. DB::Exception: The {encoding} data ends too early. (CANNOT_DECOMPRESS)")


async def form(request: Request) -> dict[str, str]:
    """The fields of a multipart form, in which clients send parameters too long for a URL."""
    kind, _, boundary = request.headers.get("content-type", "").partition("; boundary=")
    fields = {}
    for part in (await request.body()).split(b"--" + boundary.encode())[1:-1] if kind == "multipart/form-data" else ():
        head, _, value = part[2:-2].partition(b"\r\n\r\n")
        name = re.search(rb'\bname="([^"]*)"', head)
        if name is None or b"filename=" in head:
            raise Failure("Code: 48. DB::Exception: External data is not supported here. (NOT_IMPLEMENTED)")
        fields[name[1].decode()] = value.decode()
    return fields


class Exchange:
    """One request, its connection to the engine, and its answer."""

    def __init__(self, front: "Front", request: Request, send: Send) -> None:
        self._front, self._request, self._send = front, request, send
        self._conn, self._lock = connect(front.path), threading.Lock()
        self._tag, self._started = uuid.uuid4().hex[:16], False
        self._headers = {"X-ClickHouse-Server-Display-Name": front.name, "X-ClickHouse-Exception-Tag": self._tag}

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(POOL, self._locked, function, *args)

    def _locked(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._lock:  # a connection does one thing at a time
            try:
                return function(*args)
            except RuntimeError as error:
                raise Failure(str(error)) from None

    def close(self) -> None:
        # Not awaited: when the client went away, a call may still be in the engine, and a thread can wait for it.
        POOL.submit(self._locked, self._conn.close)

    async def _start(self, status: int, encoding: str = "") -> None:
        self._encode, self._encode_end = encoder(encoding)
        self._started = True
        headers = self._headers | ({"Content-Encoding": encoding} if encoding else {})
        pairs = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": self._encode(data), "more_body": True})

    async def _end(self) -> None:
        await self._send({"type": "http.response.body", "body": self._encode_end()})

    async def plain(self, status: int, text: str) -> None:
        await self._start(status)
        await self._write(text.encode())
        await self._end()

    async def fail(self, failure: Failure) -> None:
        text = failure.text if "(version " in failure.text else f"{failure.text} (version {self._front.version})"
        if not self._started:
            self._headers["X-ClickHouse-Exception-Code"] = str(failure.code)
            return await self.plain(STATUS.get(failure.code, 500), text + "\n")
        # Too late for a status. The server writes the error into the body between two marks, and leaves out the last
        # chunk, so that no client takes the body for whole. Returning without an end makes uvicorn close and log.
        message, mark, tag = text.encode()[:16_000] + b"\n", b"\r\n__exception__\r\n", self._tag.encode()
        await self._write(mark + tag + b"\r\n" + message + b"%d " % len(message) + tag + mark)

    def _summary(self, **counts: float) -> None:
        self._headers["X-ClickHouse-Summary"] = json.dumps({name: str(int(count)) for name, count in counts.items()})

    def _prepare(self, given: dict[str, str]) -> dict[str, str]:
        """Apply the database and the settings; return the parameters of the query."""
        settings = {k: v for k, v in given.items() if k not in INTERFACE and not k.startswith("param_")}
        if self._request.method == "GET" and settings.get("readonly", "0") == "0":
            settings["readonly"] = "2"  # as the server does: only a POST may change anything
        if given.get("database"):
            self._conn.query(f"USE {quoted(given['database'], '`')}")
        values = (SERVER_DEFAULTS | settings).items()
        self._conn.query(
            "SET " + ", ".join(f"{quoted(name, '`')} = {quoted(value, chr(39))}" for name, value in values)
        )
        return {k.removeprefix("param_"): v for k, v in given.items() if k.startswith("param_")}

    async def answer(self) -> None:
        fields = await form(self._request)
        given = {**self._request.query_params, **fields}
        self._headers["X-ClickHouse-Query-Id"] = given.get("query_id") or str(uuid.uuid4())
        self._headers["X-ClickHouse-Timezone"] = given.get("session_timezone") or self._front.zone
        parameters = await self._call(self._prepare, given)
        # The query in the URL and the body are one text, as for the server.
        text = given["query"].encode() + b"\n" if given.get("query") else b""
        chunks = decoded(self._request)
        while not fields and len(text) < HEAD_BYTES and (chunk := await anext(chunks, None)) is not None:
            text += chunk
        statement = scan(text)
        if statement.data is not None and not parameters:
            return await self._insert(statement, chunks)
        if not fields:
            text += b"".join([chunk async for chunk in chunks])
        statement = scan(text)
        if statement.data is not None and statement.format != "Values":
            raise Failure("Code: 48. DB::Exception: No parameters in an INSERT with data here. (NOT_IMPLEMENTED)")
        # The engine takes parameters only with the whole text of a statement, VALUES and all.
        await self._run(statement._replace(sql=text), given, parameters)

    async def _insert(self, statement: Statement, chunks: AsyncIterator[bytes]) -> None:
        inserter = await self._call(self._conn.send_insert, statement.sql, statement.format)
        if statement.data:
            await self._call(inserter.append, statement.data)
        async for chunk in chunks:
            if chunk:
                await self._call(inserter.append, chunk)
        done = await self._call(inserter.finish)
        written = {"written_rows": done.rows_written, "written_bytes": done.bytes_written}
        self._summary(
            read_rows=done.rows_written, read_bytes=done.bytes_written, **written, elapsed_ns=done.elapsed * 1e9
        )
        await self._start(200)
        await self._end()

    async def _run(self, statement: Statement, given: dict[str, str], parameters: dict[str, str]) -> None:
        form_of_rows = statement.format or given.get("default_format") or "TabSeparated"
        accepted = self._request.headers.get("accept-encoding", "")
        encoding = next((name for name in ("zstd", "lz4", "gzip", "deflate") if name in accepted), "")
        if given.get("enable_http_compression", "1") != "1":
            encoding = ""
        query = (statement.sql, form_of_rows, parameters)
        whole = given.get("wait_end_of_query") == "1" or statement.has_totals or form_of_rows.lower() not in STREAMED
        # Several statements in one text go the same way: only there does the engine refuse them like the server.
        if (not whole or statement.several) and await self._stream(query, encoding):
            return
        result = await self._call(self._conn.query, *query)
        if statement.returns_rows or result.size():
            self._headers["X-ClickHouse-Format"] = form_of_rows
        read = {"read_rows": result.storage_rows_read(), "read_bytes": result.storage_bytes_read()}
        written = {"written_rows": result.rows_written(), "written_bytes": result.bytes_written()}
        self._summary(**read, **written, result_rows=result.rows_read(), elapsed_ns=result.elapsed() * 1e9)
        await self._start(200, encoding if result.size() else "")
        if result.size():
            await self._write(result.bytes())
        await self._end()

    async def _stream(self, query: tuple[bytes, str, dict[str, str]], encoding: str) -> bool:
        try:
            rows = await self._call(self._conn.send_query, *query)
        except Failure as failure:
            if "Streaming query is not supported" in failure.text:
                return False  # not a SELECT
            raise
        block = await self._call(rows.fetch)
        self._headers["X-ClickHouse-Format"] = query[1]
        await self._start(200, encoding)
        while block is not None and not await self._request.is_disconnected():
            await self._write(block.bytes())
            block = await self._call(rows.fetch)
        await self._end()
        return True


class Front:
    """The ASGI application."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._root = connect(path)  # keeps the engine up between requests
        facts = self._root.query("SELECT displayName(), timezone(), version()", "TSV").bytes().decode()
        self.name, self.zone, self.version = facts.rstrip("\n").split("\t")
        self.close = self._root.close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        exchange, path = Exchange(self, request, send), request.url.path
        try:
            if path == "/ping" or (path == "/" and request.method == "GET" and "query" not in request.query_params):
                await exchange.plain(200, "Ok.\n")
            elif path != "/":
                await exchange.plain(404, f"There is no handle {path}\n")
            else:
                with suppress(ClientDisconnect):  # an INSERT that was not finished is cancelled by the close
                    await exchange.answer()
        except Failure as failure:
            await exchange.fail(failure)
        finally:
            exchange.close()


def serve(path: str, port: int) -> None:
    """Serve the directory until SIGTERM or SIGINT."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    # uvicorn stops by itself on these signals and raises them again when it is done: that is where this runs.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    front = Front(path)
    idle = threading.Thread(target=POOL.shutdown, daemon=True)
    try:
        with socket.create_server(("127.0.0.1", port)) as listener:
            print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
            times: dict[str, Any] = {"timeout_keep_alive": 60, "timeout_graceful_shutdown": 1}
            uvicorn.Server(uvicorn.Config(front, lifespan="off", log_level="error", **times)).run(sockets=[listener])
    finally:
        idle.start()
        idle.join(2)
        front.close()
        if idle.is_alive():
            os._exit(0)  # the engine cannot be made to stop a query; what was inserted is on disk already


@contextmanager
def running(path: str | Path, port: int = 0) -> Iterator[tuple[str, int]]:
    """A process that serves the directory: its host and port, a free one unless it is given."""
    command = [sys.executable, "-m", "tests.support.clickhouse_front", "--path", str(path), "--port", str(port)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = select.select([process.stdout], [], [], 60)[0]
            line = process.stdout.readline() if ready else ""
            if not line.startswith("listening on "):
                raise RuntimeError(f"the ClickHouse stand-in did not start: {line!r}")
            host, _, found = line.split()[-1].partition(":")
            yield host, int(found)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve a directory of ClickHouse tables over HTTP, for tests.")
    parser.add_argument("--path", required=True)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    serve(arguments.path, arguments.port)
