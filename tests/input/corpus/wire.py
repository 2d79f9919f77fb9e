"""HTTP that is malformed, contradictory, large or slow, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator

from tests.input import model
from tests.input.case import ANY, INGEST, OK, REFUSED, Case, Log

_TYPE = b"Content-Type: application/x-ndjson\r\n"
_HEAD = b"POST " + INGEST.encode() + b" HTTP/1.1\r\nHost: h\r\n" + _TYPE
_CLOSE = b"Connection: close\r\n"
LARGE = REFUSED | {200, 413, 431, 414}
FUNCTIONS = ("ingest", "index", "query", "export")


def _line(name: str) -> tuple[bytes, list[Log]]:
    line = b'{"service":"wire","message":"%b"}' % name.encode()
    log = model.expected(line)
    return line, [log] if log else []


def _length(line: bytes, more: int = 0) -> bytes:
    return b"Content-Length: %d\r\n" % (len(line) + more)


def _chunked(line: bytes, size: int = 7) -> bytes:
    parts = [line[start : start + size] for start in range(0, len(line), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def bodies() -> list[Case]:
    """Lengths and chunks: right, wrong, and against one another."""
    return [*_good(), *_lengths(), *_chunks(), *_smuggled(), *_slow()]


def _good() -> Iterator[Case]:
    chunked = b"Transfer-Encoding: chunked\r\n"
    for name, head, pack in (
        ("plain", b"", None),
        ("HTTP/1.0", b"", None),
        ("expect", b"Expect: 100-continue\r\n", None),
        ("chunked", chunked, _chunked),
        ("chunked with a trailer", chunked, lambda line: _chunked(line)[:-2] + b"X: y\r\n\r\n"),
        ("chunk extension", chunked, lambda line: b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(line), line)),
        ("a byte a chunk", chunked, lambda line: _chunked(line, 1)),
        ("an unknown host", b"X-Forwarded-Host: [::\r\nX-Forwarded-Proto: \r\n", None),
    ):
        line, logs = _line(name)
        length = b"" if pack else _length(line)
        body = pack(line) if pack else line
        request = (_HEAD + _CLOSE + head + length + b"\r\n" + body).replace(b"Connection: close\r\nTransfer", b"Transfer")
        if name == "HTTP/1.0":
            request = request.replace(b"HTTP/1.1", b"HTTP/1.0")
        yield Case(name, expect=OK, logs=logs, raw=[request])
    line, logs = _line("without a host")
    yield Case("without a host", expect=ANY, logs=logs, raw=[(_HEAD + _length(line) + b"\r\n" + line).replace(b"Host: h\r\n", b"")])
    line, logs = _line("pipelined")
    request = _HEAD + _length(line) + b"\r\n" + line
    yield Case("pipelined", expect=OK, logs=logs * 5, raw=[request * 5], answers=5)
    yield Case("line breaks before", expect=OK, logs=logs, raw=[b"\r\n\r\n" + request])
    yield Case("no type", expect=OK, logs=logs, raw=[request.replace(_TYPE, b"")])
    yield Case("a byte at a time", expect=OK, logs=logs, raw=[request[place : place + 1] for place in range(len(request))])


def _lengths() -> Iterator[Case]:
    line, logs = _line("lengths")
    short = _HEAD + _length(line, -5) + b"\r\n" + line
    yield Case("a length too short", expect=REFUSED, raw=[short], answers=2)
    yield Case("a length too short, closed", expect=REFUSED, raw=[short], answers=2, close=True)
    yield Case("a length too long, closed", expect=NOTHING, raw=[_HEAD + _length(line, 5) + b"\r\n" + line], close=True)
    yield Case("a length too long, silent", raw=[_HEAD + _length(line, 5) + b"\r\n" + line], answers=0)
    yield Case("no length", expect=REFUSED, raw=[_HEAD + b"\r\n" + line], answers=2)
    yield Case("length 0 and a body", expect=REFUSED, raw=[_HEAD + b"Content-Length: 0\r\n\r\n" + line], answers=2)
    yield Case("half a head", raw=[_HEAD], answers=0)
    yield Case("half a head, closed", expect=NOTHING, raw=[_HEAD], close=True)
    for value in (b"-1", b"+5", b"0x10", b"1e1", b"5 5", b"5,5", b"", b"a", b"9" * 30, b"18446744073709551616", b"\xb2"):
        request = _HEAD + _CLOSE + b"Content-Length: " + value + b"\r\n\r\n" + line
        yield Case(f"length {value!r}", expect=REFUSED | {413}, raw=[request])
    yield Case("21 MB declared", expect=frozenset({413}), raw=[_HEAD + b"Content-Length: 21000000\r\n\r\n" + line])
    two = _HEAD + _CLOSE + _length(line) + _length(line, 1) + b"\r\n" + line
    yield Case("two lengths", expect=REFUSED, raw=[two])
    twice = _HEAD + _CLOSE + _length(line) * 2 + b"\r\n" + line
    yield Case("the same length twice", expect=ANY, logs=_optional(logs), raw=[twice])


NOTHING = frozenset({0, 400})
"""The client is gone: whether it was answered, nobody knows."""


def _chunks() -> Iterator[Case]:
    head = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    line, logs = _line("chunks")
    yield Case("chunks without end", raw=[head + b"%x\r\n%b\r\n" % (len(line), line)], answers=0)
    yield Case("chunks without end, closed", expect=NOTHING, raw=[head + _chunked(line)[:-5]], close=True)
    yield Case("a chunk cut off", expect=NOTHING, raw=[head + b"ff\r\n" + line], close=True)
    for size in (b"zz", b"-1", b"+5", b"0x5", b"", b" ", b"f" * 17, b"f" * 5000, b"5;" + b"a" * 100_000, b"1 1", b"\x00"):
        yield Case(f"chunk of {size[:20]!r}", expect=NOTHING | {413}, raw=[head + size + b"\r\n" + line + b"\r\n0\r\n\r\n"], close=True)
    yield Case("chunk without its break", expect=NOTHING, raw=[head + b"%x\r\n%bXX0\r\n\r\n" % (len(line), line)], close=True)
    bare = _chunked(line).replace(b"\r\n", b"\n")
    yield Case("bare line feeds", expect=NOTHING | OK, logs=_optional(logs), raw=[head + bare], close=True)
    for coding in (b"gzip", b"gzip, chunked", b"chunked, chunked", b"chunked, gzip", b"identity", b"xchunked", b"Chunked ", b"\x0bchunked"):
        request = head.replace(b": chunked", b": " + coding) + _chunked(line)
        yield Case(f"coding {coding!r}", expect=ANY | {0}, logs=_optional(logs), raw=[request], close=True, answers=2)


def _smuggled() -> Iterator[Case]:
    line, logs = _line("smuggled")
    inner = _HEAD + _length(line) + b"\r\n" + line
    both = _HEAD + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield Case("length and chunks", expect=REFUSED, raw=[both % (len(inner) + 5) + b"0\r\n\r\n" + inner])
    yield Case("length within chunks", expect=REFUSED, raw=[both % 4 + _chunked(inner)])
    for disguise in (
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
        b" Transfer-Encoding: chunked",
        b"X: y\r\n Transfer-Encoding: chunked",
        b"X: y\nTransfer-Encoding: chunked",
    ):
        body = b"0\r\n\r\n" + inner
        request = _HEAD + _CLOSE + _length(body) + disguise + b"\r\n\r\n" + body
        yield Case(f"disguised {disguise!r}", expect=REFUSED, raw=[request])
    body = b"0\r\n\r\n" + inner  # an underscore makes another header: this is a body of six lines, the last a log
    request = _HEAD + _CLOSE + _length(body) + b"Transfer_Encoding: chunked\r\n\r\n" + body
    last = [Log(**{**vars(log), "line": body.count(b"\n") + 1}) for log in logs]
    yield Case("an underscore", expect=OK, logs=last, raw=[request])


def _slow() -> Iterator[Case]:
    line, logs = _line("slow")
    head = _HEAD + _CLOSE + _length(line) + b"\r\n"
    parts = [head, *(line[place : place + 2] for place in range(0, len(line), 2))]
    yield Case("slow body", expect=OK, logs=logs, raw=parts, pause=0.1, slow=True)
    chunks = [_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *_chunked(line).splitlines(True)]
    yield Case("slow chunks", expect=OK, logs=logs, raw=chunks, pause=0.05, slow=True)


def _optional(logs: list[Log]) -> list[Log]:
    return [Log(**{**vars(log), "optional": True}) for log in logs]


REQUEST_LINES = (
    b"GET", b"GET /", b"GET / HTTP/9.9", b"GET / HTTP/0.9", b"GET / HTTP/1.1.1", b"GET  /  HTTP/1.1", b"get / HTTP/1.1", b" GET / HTTP/1.1",
    b"GET\t/\tHTTP/1.1", b"GET / HTTP/1.1 x", b"GET / http/1.1", b"GET x HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1",
    b"GET http://other/ HTTP/1.1", b"GET http://[::1/ HTTP/1.1", b"GET http:// HTTP/1.1", b"GET //other/x HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1",
    b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /%zz HTTP/1.1", b"GET /% HTTP/1.1", b"GET /\xff HTTP/1.1",
    b"GET /\xc3\xa9 HTTP/1.1", b"GET /%ff HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x1b[2J HTTP/1.1", b"GET /? HTTP/1.1", b"GET /?%ff=%ff HTTP/1.1",
    b"GET /?\xff=\xff HTTP/1.1", b"GET /api/v1/logs?service=\xff HTTP/1.1", b"GET /api/v1/logs?service=%ff HTTP/1.1", b"GET /api/v1/logs/%ff HTTP/1.1",
    b"GET /api/v1/logs/\xff HTTP/1.1", b"GET /api/v1/logs/ HTTP/1.1", b"GET /api/v1/logs// HTTP/1.1", b"GET /api/v1/logs;a HTTP/1.1",
    b"GET /api/v1/logs#f HTTP/1.1", b"GET /api/v1/logs/export/ HTTP/1.1", b"CONNECT h:1 HTTP/1.1", b"TRACE / HTTP/1.1", b"FOO / HTTP/1.1",
    b"PUT /api/v1/logs HTTP/1.1", b"DELETE /api/v1/logs HTTP/1.1", b"PATCH / HTTP/1.1", b"POST / HTTP/1.1", b"GET /metrics?x HTTP/1.1",
    b"POST /healthz HTTP/1.1", b"GET /readyz/ HTTP/1.1", b"PRI * HTTP/2.0", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00\x00\x00", b"\xff" * 100,
    b"GET /docs HTTP/1.1", b"GET /openapi.json HTTP/1.1", b"SSH-2.0-x", b"*1\r\n$4\r\nPING", b"GET /" + b"a" * 70_000 + b" HTTP/1.1",
    b"GET /?" + b"a" * 1_000_000 + b" HTTP/1.1", b"A" * 200_000,
)  # fmt: skip
HEADERS = (
    b"X: " + b"a" * 100_000, b"\r\n".join(b"X%d: y" % number for number in range(1000)), b"\r\n".join([b"X: y"] * 10_000), b"X" * 100_000 + b": y",
    b"X: \x00", b"X: \x01", b"X: \x7f", b"X: \xff", b"X", b": y", b"X y: z", b"X : y", b"X:", b"\xff: y", b"X: y\r\n folded", b"X: y\rZ: w", b"X: y\nZ: w",
    b"Host: [", b"Host: [::1", b"Host: a/b?c#d", b"Host: \xff", b"Host: a\r\nHost: b", b"Host: user:pw@h", b"Host: h:99999", b"Host: h:x", b"Host:", b"Host: /",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
    b"Connection: close, keep-alive", b"Connection: \x01", b"Expect: 200-maybe", b"Range: bytes=0-0", b"If-None-Match: *", b"Accept: x/y", b"Accept-Encoding: *",
    b"Cookie: " + b"a=b;" * 10_000, b"Authorization: Basic \xff", b"X-Forwarded-For: \xff", b"traceparent: \xff", b"Function-Execution-Id: \x1b[2J", b"X-Cloud-Trace-Context: /;o=",
)  # fmt: skip


def heads() -> list[Case]:
    """Odd request lines and headers, to every function; a function must answer the next client as before."""
    cases = []
    for function in FUNCTIONS:
        for number, line in enumerate(REQUEST_LINES):
            raw = [line + b"\r\nHost: h\r\n" + _CLOSE + b"\r\n"]
            cases.append(_head(f"{function} line {number} {line[:40]!r}", function, raw))
        for number, header in enumerate(HEADERS):
            for path in (b"/", b"/api/v1/logs", b"/api/v1/logs/", b"/healthz"):
                host = b"" if header.startswith(b"Host") else b"Host: h\r\n"
                raw = [b"GET " + path + b" HTTP/1.1\r\n" + host + _CLOSE + header + b"\r\n\r\n"]
                cases.append(_head(f"{function}{path.decode()} header {number} {header[:40]!r}", function, raw))
        body = b"GET /api/v1/logs?limit=1 HTTP/1.1\r\nHost: h\r\n" + _CLOSE + b"Content-Length: 4\r\n\r\nbody"
        cases.append(_head(f"{function} GET with a body", function, [body]))
    return cases


def _head(name: str, function: str, raw: list[bytes]) -> Case:
    return Case(name, function=function, raw=raw, expect=frozenset(range(200, 500)) | {0, 501, 505}, answers=1, close=True)
