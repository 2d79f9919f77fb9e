"""Request lines and headers that are odd, large or wrong, byte by byte, to every function."""

from __future__ import annotations

from tests.input.case import Case

FUNCTIONS = ("ingest", "index", "query", "export")
_CLOSE = b"Connection: close\r\n"
REQUEST_LINES = (
    b"GET", b"GET /", b"GET / HTTP/9.9", b"GET / HTTP/0.9", b"GET / HTTP/1.1.1", b"GET  /  HTTP/1.1", b"get / HTTP/1.1",
    b" GET / HTTP/1.1", b"GET\t/\tHTTP/1.1", b"GET / HTTP/1.1 x", b"GET / http/1.1", b"GET x HTTP/1.1",
    b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET http://other/ HTTP/1.1", b"GET http://[::1/ HTTP/1.1",
    b"GET http:// HTTP/1.1", b"GET //other/x HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1",
    b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /%zz HTTP/1.1", b"GET /% HTTP/1.1",
    b"GET /\xff HTTP/1.1", b"GET /\xc3\xa9 HTTP/1.1", b"GET /%ff HTTP/1.1", b"GET /\x00 HTTP/1.1",
    b"GET /\x1b[2J HTTP/1.1", b"GET /? HTTP/1.1", b"GET /?%ff=%ff HTTP/1.1", b"GET /?\xff=\xff HTTP/1.1",
    b"GET /api/v1/logs?service=\xff HTTP/1.1", b"GET /api/v1/logs?service=%ff HTTP/1.1",
    b"GET /api/v1/logs/%ff HTTP/1.1", b"GET /api/v1/logs/\xff HTTP/1.1", b"GET /api/v1/logs/ HTTP/1.1",
    b"GET /api/v1/logs// HTTP/1.1", b"GET /api/v1/logs;a HTTP/1.1", b"GET /api/v1/logs#f HTTP/1.1",
    b"GET /api/v1/logs/export/ HTTP/1.1", b"CONNECT h:1 HTTP/1.1", b"TRACE / HTTP/1.1", b"FOO / HTTP/1.1",
    b"PUT /api/v1/logs HTTP/1.1", b"DELETE /api/v1/logs HTTP/1.1", b"PATCH / HTTP/1.1", b"POST / HTTP/1.1",
    b"GET /metrics?x HTTP/1.1", b"POST /healthz HTTP/1.1", b"GET /readyz/ HTTP/1.1", b"PRI * HTTP/2.0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00\x00\x00", b"\xff" * 100, b"GET /docs HTTP/1.1",
    b"GET /openapi.json HTTP/1.1", b"SSH-2.0-x", b"*1\r\n$4\r\nPING", b"GET /" + b"a" * 70_000 + b" HTTP/1.1",
    b"GET /?" + b"a" * 1_000_000 + b" HTTP/1.1", b"A" * 200_000,
)  # fmt: skip
HEADERS = (
    b"X: " + b"a" * 100_000, b"\r\n".join(b"X%d: y" % number for number in range(1000)),
    b"\r\n".join([b"X: y"] * 10_000), b"X" * 100_000 + b": y", b"X: \x00", b"X: \x01", b"X: \x7f", b"X: \xff", b"X",
    b": y", b"X y: z", b"X : y", b"X:", b"\xff: y", b"X: y\r\n folded", b"X: y\rZ: w", b"X: y\nZ: w", b"Host: [",
    b"Host: [::1", b"Host: a/b?c#d", b"Host: \xff", b"Host: a\r\nHost: b", b"Host: user:pw@h", b"Host: h:99999",
    b"Host: h:x", b"Host:", b"Host: /",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c", b"Connection: close, keep-alive", b"Connection: \x01",
    b"Expect: 200-maybe", b"Range: bytes=0-0", b"If-None-Match: *", b"Accept: x/y", b"Accept-Encoding: *",
    b"Cookie: " + b"a=b;" * 10_000, b"Authorization: Basic \xff", b"X-Forwarded-For: \xff", b"traceparent: \xff",
    b"Function-Execution-Id: \x1b[2J", b"X-Cloud-Trace-Context: /;o=",
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
    return Case(
        name, function=function, raw=raw, expect=frozenset(range(200, 500)) | {0, 501, 505}, answers=1, close=True
    )
