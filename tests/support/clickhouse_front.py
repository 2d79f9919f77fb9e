"""A stand-in for the HTTP interface of a ClickHouse server, with the real ClickHouse engine (chdb) behind it.

No ClickHouse server can be installed where these tests run, but the functions under test must talk to one over HTTP
from processes of their own. Every statement, parameter, setting, format and error here is the engine's. This module
only carries them over HTTP the way the server does. Each request gets a connection of its own to the engine, so its
database and settings end with it. One process serves one directory, and the rows stay there when it stops.

    python -m tests.support.clickhouse_front --path DIR --port 0

What differs from a server:
- no users, passwords, roles or TLS: any credentials are accepted;
- no sessions: `session_id` is ignored, so SET, USE and temporary tables do not outlive a request;
- no async inserts: the engine writes the rows before it answers, whatever `async_insert` says;
- `query_id` is only echoed, so KILL QUERY does not find it; a query whose client went away stops at its next block;
- not implemented, answered with code 48: `role`, `compress` and `decompress`, external data, parameters of an INSERT
  that brings data, INSERT SELECT FROM input(), SETTINGS after the FORMAT of an INSERT;
- `client_protocol_version` is ignored, there are no progress headers, and Content-Type is not set;
- formats with a header or a footer (JSON, Arrow, Parquet, ...), WITH TOTALS and all that is not a SELECT are built
  whole before they are sent; the other formats are sent block by block, so a failure may show after fewer rows than
  with a server; a streamed answer has no X-ClickHouse-Summary;
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
from contextlib import contextmanager
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
STREAMED = {
    "native",
    "rowbinary",
    "tabseparated",
    "tsv",
    "csv",
    "jsoneachrow",
    "jsonlines",
    "ndjson",
    "jsoncompacteachrow",
}
ROWS = {b"SELECT", b"WITH", b"FROM", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS", b"CHECK"}
# URL parameters of the HTTP interface itself; every other one is a setting of the query.
TRANSPORT = {
    "query",
    "database",
    "default_format",
    "query_id",
    "session_id",
    "session_timeout",
    "session_check",
    "quota_key",
}
TRANSPORT |= {
    "user",
    "password",
    "buffer_size",
    "wait_end_of_query",
    "client_protocol_version",
    "close_session",
    "stacktrace",
}
REFUSED = {"role", "compress", "decompress"}
# The embedded build is laxer than a server in these two.
SERVER_SETTINGS = {"implicit_select": "0", "allow_introspection_functions": "0"}
HEAD_BYTES = 262_144  # the server's default max_query_size: an INSERT must end before it, its data may go on
# Codes that the server answers with a status other than 500 (its exceptionCodeToHTTPStatus).
STATUS = {
    **dict.fromkeys((194,), 401),
    **dict.fromkeys((192, 193, 497, 512, 516), 403),
    **dict.fromkeys((6, 8, 15, 16, 25, 26, 27, 36, 38, 41, 44, 53, 62, 71, 72), 400),
    **dict.fromkeys((117, 167, 168, 223, 321, 376, 427, 441, 675, 676), 400),
    **dict.fromkeys((22, 46, 47, 50, 56, 60, 63, 73, 78, 81, 109, 115, 511), 404),
    **{48: 501, 76: 503, 159: 408, 209: 503, 381: 411, 439: 503},
}
TOKEN = re.compile(
    rb"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$|[()\[\]{};]|\w+""",
    re.S,
)
BEFORE_DATA = re.compile(rb"[ \t\f]*;?[ \t\f]*\r?\n?")
POOL = ThreadPoolExecutor(max_workers=32, thread_name_prefix="engine")


class Failure(Exception):
    """An error in ClickHouse's words: `Code: N. DB::Exception: ... (NAME)`."""

    def __init__(self, text: str) -> None:
        found = re.search(r"Code: (\d+)\. ", text)
        self.code = int(found[1]) if found else 1001
        self.text = text[found.start() :] if found else f"Code: 1001. DB::Exception: {text} (STD_EXCEPTION)"
        super().__init__(self.text)


def unsupported(what: str) -> Failure:
    return Failure(f"Code: 48. DB::Exception: {what} is not supported by this stand-in. (NOT_IMPLEMENTED)")


class Statement(NamedTuple):
    """What HTTP must know of a statement; what it means is left to the engine."""

    sql: bytes
    format: str | None = None  # of the FORMAT clause
    data: bytes | None = None  # what follows an INSERT ... FORMAT; None if the statement brings no data
    returns_rows: bool = False
    in_one_piece: bool = True  # it can be streamed: no totals come after the rows
    several: bool = False  # more follows a semicolon


def scan(sql: bytes) -> Statement:
    """Find the format of a statement and where the data of an INSERT begins, past quotes, comments and brackets."""
    first = previous = b""
    form: str | None = None
    depth, ended, totals, several = 0, False, False, False
    for token in TOKEN.finditer(sql):
        word = token.group().upper()
        if word[:1] in b"'\"`$" or word.startswith((b"--", b"/*")):
            continue
        if word in b"([{":
            depth += 1
        elif word in b")]}":
            depth -= 1
        elif depth == 0 and word == b";":
            ended = True
        elif depth == 0 and ended:
            several = True
        elif depth == 0:
            first = first or word
            if previous == b"FORMAT" and not word[:1].isdigit():
                form = token.group().decode()
                if first == b"INSERT":
                    end = BEFORE_DATA.match(sql, token.end())
                    start = sql[: token.start()].upper().rindex(b"FORMAT")
                    return Statement(sql[:start], form, sql[end.end() if end else token.end() :])
            elif first == b"INSERT" and word == b"VALUES":
                return Statement(sql[: token.start()], "Values", sql[token.end() :])
            totals |= word in (b"TOTALS", b"EXTREMES")
            previous = word
    return Statement(sql, form, None, not first or first in ROWS, not totals, several)


class Asked(NamedTuple):
    """The parameters of a request, sorted into what they are for."""

    query: bytes
    database: str | None
    default_format: str
    query_id: str
    wait: bool
    parameters: dict[str, str]
    settings: dict[str, str]

    @classmethod
    def of(cls, request: Request, fields: dict[str, str]) -> "Asked":
        given = {**request.query_params, **fields}
        refused = sorted(name for name in REFUSED if given.get(name, "0") != "0")
        if refused:
            raise unsupported(f"The parameter {refused[0]}")
        settings = {k: v for k, v in given.items() if k not in TRANSPORT | REFUSED and not k.startswith("param_")}
        if request.method == "GET" and settings.get("readonly", "0") == "0":
            settings["readonly"] = "2"  # as the server does: only a POST may change anything
        return cls(
            given.get("query", "").encode(),
            given.get("database") or request.headers.get("x-clickhouse-database"),
            given.get("default_format") or request.headers.get("x-clickhouse-format") or "TabSeparated",
            given.get("query_id") or str(uuid.uuid4()),
            given.get("wait_end_of_query", "0") == "1",
            {k.removeprefix("param_"): v for k, v in given.items() if k.startswith("param_")},
            SERVER_SETTINGS | settings,
        )


def quoted(text: str, mark: str) -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


class Session:
    """A connection to the engine for one request. Its calls run in threads, one at a time."""

    running = 0

    def __init__(self, path: str) -> None:
        self.conn = chdb.connect(path)
        self._lock = threading.Lock()

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(POOL, self._locked, function, *args)

    def _locked(self, function: Callable[..., Any], *args: Any) -> Any:
        with self._lock:
            Session.running += 1
            try:
                return function(*args)
            except RuntimeError as error:
                raise Failure(str(error)) from None
            finally:
                Session.running -= 1

    def prepare(self, asked: Asked) -> None:
        if asked.database:
            self.conn.query(f"USE {quoted(asked.database, '`')}")
        self.conn.query(
            "SET " + ", ".join(f"{quoted(k, '`')} = {quoted(v, chr(39))}" for k, v in asked.settings.items())
        )

    def close(self) -> None:
        # Not awaited: a call that is still in the engine, because its client went away, is waited for in a thread.
        POOL.submit(self._locked, self.conn.close)


class Encoder(NamedTuple):
    """A compressed answer: what is written can be read at once, and it is all one frame."""

    name: str
    write: Callable[[bytes], bytes]
    end: Callable[[], bytes]

    @classmethod
    def accepted(cls, accept: str, settings: dict[str, str]) -> "Encoder":
        if settings.get("enable_http_compression") in ("0", "false"):
            accept = ""
        if "zstd" in accept:
            z = zstandard.ZstdCompressor(level=1).compressobj()
            return cls("zstd", lambda data: z.compress(data) + z.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), z.flush)
        if "lz4" in accept:
            frame = lz4.frame.LZ4FrameCompressor(auto_flush=True)
            return cls(
                "lz4", lambda data: (b"" if frame.started() else frame.begin()) + frame.compress(data), frame.flush
            )
        if "gzip" in accept or "deflate" in accept:
            name, wbits = ("gzip", 31) if "gzip" in accept else ("deflate", 15)
            d = zlib.compressobj(1, wbits=wbits)
            return cls(name, lambda data: d.compress(data) + d.flush(zlib.Z_SYNC_FLUSH), d.flush)
        return cls("", bytes, bytes)


async def decoded(request: Request) -> AsyncIterator[bytes]:
    """The request body, decompressed; clients send gzip as one stream, zstd and lz4 as a row of frames."""
    makers: dict[str, Callable[[], Any]] = {
        "gzip": lambda: zlib.decompressobj(31),
        "deflate": zlib.decompressobj,
        "lz4": lz4.frame.LZ4FrameDecompressor,
        "zstd": lambda: zstandard.ZstdDecompressor().decompressobj(),
    }
    encoding = request.headers.get("content-encoding", "identity")
    if encoding == "identity":
        async for chunk in request.stream():
            yield chunk
        return
    if encoding not in makers:
        raise unsupported(f"Content-Encoding {encoding}")
    decoder = None
    try:
        async for chunk in request.stream():
            rest: bytes | None = chunk
            while rest:
                decoder = decoder or makers[encoding]()
                yield decoder.decompress(rest)
                rest, decoder = (decoder.unused_data, None) if decoder.eof else (None, decoder)
        if decoder is not None:
            raise EOFError("the data ends too early")
    except (zlib.error, zstandard.ZstdError, RuntimeError, EOFError) as error:
        raise Failure(f"Code: 271. DB::Exception: Cannot decompress {encoding}: {error}. (CANNOT_DECOMPRESS)") from None


async def form(request: Request) -> dict[str, str]:
    """The fields of a multipart form, in which clients send parameters too long for a URL."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        return {}
    fields = {}
    for part in (await request.body()).split(b"--" + kind.partition("boundary=")[2].strip('"').encode())[1:-1]:
        head, _, value = part[2:-2].partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if name is None or b"filename=" in head:
            raise unsupported("External data")
        fields[name[1].decode()] = value.decode()
    return fields


class Reply:
    """The answer to one request: a status and a body, or rows as they come."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self._encoder = Encoder("", bytes, bytes)
        self._tag = uuid.uuid4().hex[:16]
        self._started = False
        self.headers = {**headers, "X-ClickHouse-Exception-Tag": self._tag}

    def compress(self, encoder: Encoder) -> None:
        self._encoder = encoder

    async def start(self, status: int = 200, length: int | None = None) -> None:
        if length is not None:
            self.headers["Content-Length"] = str(length)
        if self._encoder.name:
            self.headers["Content-Encoding"] = self._encoder.name
        self._started = True
        headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in self.headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": self._encoder.write(data), "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": self._encoder.end()})

    async def whole(self, status: int, data: bytes) -> None:
        body = self._encoder.write(data) + self._encoder.end() if data else b""
        if not data:
            self._encoder = Encoder("", bytes, bytes)
        await self.start(status, len(body))
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, failure: Failure, version: str) -> None:
        text = failure.text if "(version " in failure.text else f"{failure.text} (version {version})"
        if not self._started:
            self.compress(Encoder("", bytes, bytes))
            self.headers["X-ClickHouse-Exception-Code"] = str(failure.code)
            await self.whole(STATUS.get(failure.code, 500), text.encode() + b"\n")
            return
        # Too late for a status. The server writes the error into the body between two marks, and leaves out the last
        # chunk, so that no client takes the body for whole. Returning without an end makes uvicorn close like that.
        message = text.encode()[:16_000] + b"\n"
        mark, tag = b"\r\n__exception__\r\n", self._tag.encode()
        await self.write(mark + tag + b"\r\n" + message + b"%d " % len(message) + tag + mark)


class Front:
    """The ASGI application."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._root = chdb.connect(path)  # keeps the engine up between requests
        facts = self._root.query("SELECT displayName(), timezone(), version()", "TSV").bytes().decode()
        self._name, self._zone, self._version = facts.rstrip("\n").split("\t")

    def close(self) -> None:
        self._root.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        reply = Reply(send, {"X-ClickHouse-Server-Display-Name": self._name})
        path = request.url.path
        if path == "/ping" or (path == "/" and request.method == "GET" and "query" not in request.query_params):
            await reply.whole(200, b"Ok.\n")
            return
        if path != "/":
            await reply.whole(404, f"There is no handle {path}\n".encode())
            return
        session = Session(self._path)
        try:
            await self._answer(request, reply, session)
        except Failure as failure:
            await reply.fail(failure, self._version)
        except ClientDisconnect:
            pass  # the session is closed below, and an INSERT that was not finished is cancelled with it
        finally:
            session.close()

    async def _answer(self, request: Request, reply: Reply, session: Session) -> None:
        fields = await form(request)
        asked = Asked.of(request, fields)
        reply.headers["X-ClickHouse-Query-Id"] = asked.query_id
        reply.headers["X-ClickHouse-Timezone"] = asked.settings.get("session_timezone") or self._zone
        await session.call(session.prepare, asked)
        # The query in the URL and the body are one text, as for the server.
        text = asked.query + b"\n" if asked.query else b""
        chunks = _nothing() if fields else decoded(request)
        async for chunk in chunks:
            text += chunk
            if len(text) >= HEAD_BYTES:
                break
        statement = scan(text)
        if statement.data is not None:
            await _insert(session, statement, asked, chunks, reply)
            return
        rest = [chunk async for chunk in chunks]
        if any(rest):
            statement = scan(text + b"".join(rest))
        reply.compress(Encoder.accepted(request.headers.get("accept-encoding", ""), asked.settings))
        await _run(session, statement, asked, request, reply)


async def _nothing() -> AsyncIterator[bytes]:
    for nothing in ():
        yield nothing


def _summary(reply: Reply, **counts: float) -> None:
    reply.headers["X-ClickHouse-Summary"] = json.dumps({name: str(int(count)) for name, count in counts.items()})


async def _insert(
    session: Session, statement: Statement, asked: Asked, chunks: AsyncIterator[bytes], reply: Reply
) -> None:
    if asked.parameters:
        raise unsupported("A parameter of an INSERT with data")
    try:
        inserter = await session.call(session.conn.send_insert, statement.sql, statement.format)
    except Failure as failure:
        raise unsupported("INSERT SELECT with data") if "INSERT ... SELECT" in failure.text else failure from None
    if statement.data:
        await session.call(inserter.append, statement.data)
    async for chunk in chunks:
        if chunk:
            await session.call(inserter.append, chunk)
    done = await session.call(inserter.finish)
    rows, size = done.rows_written, done.bytes_written
    _summary(
        reply, read_rows=rows, read_bytes=size, written_rows=rows, written_bytes=size, elapsed_ns=done.elapsed * 1e9
    )
    await reply.whole(200, b"")


async def _run(session: Session, statement: Statement, asked: Asked, request: Request, reply: Reply) -> None:
    form_of_rows = statement.format or asked.default_format
    arguments = (statement.sql, form_of_rows, asked.parameters)
    streamed = not asked.wait and statement.in_one_piece and form_of_rows.lower() in STREAMED
    # Several statements in one text go this way as well: only here does the engine refuse them, as the server does.
    if streamed or statement.several:
        try:
            rows = await session.call(session.conn.send_query, *arguments)
        except Failure as failure:
            if "Streaming query is not supported" not in failure.text:
                raise
        else:
            block = await session.call(rows.fetch)
            reply.headers["X-ClickHouse-Format"] = form_of_rows
            await reply.start()
            while block is not None and not await request.is_disconnected():
                await reply.write(block.bytes())
                block = await session.call(rows.fetch)
            await reply.end()
            return
    result = await session.call(session.conn.query, *arguments)
    body = result.bytes()
    if body or statement.returns_rows:
        reply.headers["X-ClickHouse-Format"] = form_of_rows
    _summary(
        reply,
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
        result_rows=result.rows_read(),
        elapsed_ns=result.elapsed() * 1e9,
    )
    await reply.whole(200, body)


def serve(path: str, port: int) -> None:
    """Serve the directory until SIGTERM or SIGINT."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(0)

    # uvicorn stops by itself on these signals and raises them again when it is done: that is where this runs.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    front = Front(path)
    try:
        with socket.create_server(("127.0.0.1", port), backlog=128) as listener:
            print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
            config = uvicorn.Config(
                front, lifespan="off", log_level="error", timeout_keep_alive=60, timeout_graceful_shutdown=2
            )
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        POOL.shutdown(wait=False)
        front.close()
        if Session.running:
            os._exit(0)  # the engine cannot stop these queries; what was inserted is on disk already


@contextmanager
def running(path: str | Path) -> Iterator[tuple[str, int]]:
    """A process that serves the directory: its host and port."""
    command = [sys.executable, "-m", "tests.support.clickhouse_front", "--path", str(path), "--port", "0"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = select.select([process.stdout], [], [], 60)[0]
            line = process.stdout.readline() if ready else ""
            if not line.startswith("listening on "):
                raise RuntimeError(f"the ClickHouse stand-in did not start: {line!r}")
            host, _, port = line.split()[-1].partition(":")
            yield host, int(port)
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
    options = parser.parse_args()
    serve(options.path, options.port)
