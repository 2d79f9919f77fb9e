"""Bodies whose length lies, chunks that are wrong, requests within requests, slow senders, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator

from tests.input import model
from tests.input.case import ANY, INGEST, OK, REFUSED, Case, Log

_TYPE = b"Content-Type: application/x-ndjson\r\n"
_HEAD = b"POST " + INGEST.encode() + b" HTTP/1.1\r\nHost: h\r\n" + _TYPE
_CLOSE = b"Connection: close\r\n"


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
        request = (_HEAD + _CLOSE + head + length + b"\r\n" + body).replace(
            b"Connection: close\r\nTransfer", b"Transfer"
        )
        if name == "HTTP/1.0":
            request = request.replace(b"HTTP/1.1", b"HTTP/1.0")
        yield Case(name, expect=OK, logs=logs, raw=[request])
    line, logs = _line("without a host")
    yield Case(
        "without a host",
        expect=ANY,
        logs=logs,
        raw=[(_HEAD + _length(line) + b"\r\n" + line).replace(b"Host: h\r\n", b"")],
    )
    line, logs = _line("pipelined")
    request = _HEAD + _length(line) + b"\r\n" + line
    yield Case("pipelined", expect=OK, logs=logs * 5, raw=[request * 5], answers=5)
    yield Case("line breaks before", expect=OK, logs=logs, raw=[b"\r\n\r\n" + request])
    yield Case("no type", expect=OK, logs=logs, raw=[request.replace(_TYPE, b"")])
    yield Case(
        "a byte at a time", expect=OK, logs=logs, raw=[request[place : place + 1] for place in range(len(request))]
    )


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
    for value in (
        b"-1",
        b"+5",
        b"0x10",
        b"1e1",
        b"5 5",
        b"5,5",
        b"",
        b"a",
        b"9" * 30,
        b"18446744073709551616",
        b"\xb2",
    ):
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
    for size in (
        b"zz",
        b"-1",
        b"+5",
        b"0x5",
        b"",
        b" ",
        b"f" * 17,
        b"f" * 5000,
        b"5;" + b"a" * 100_000,
        b"1 1",
        b"\x00",
    ):
        yield Case(
            f"chunk of {size[:20]!r}",
            expect=NOTHING | {413},
            raw=[head + size + b"\r\n" + line + b"\r\n0\r\n\r\n"],
            close=True,
        )
    yield Case(
        "chunk without its break", expect=NOTHING, raw=[head + b"%x\r\n%bXX0\r\n\r\n" % (len(line), line)], close=True
    )
    bare = _chunked(line).replace(b"\r\n", b"\n")
    yield Case("bare line feeds", expect=NOTHING | OK, logs=_optional(logs), raw=[head + bare], close=True)
    for coding in (
        b"gzip",
        b"gzip, chunked",
        b"chunked, chunked",
        b"chunked, gzip",
        b"identity",
        b"xchunked",
        b"Chunked ",
        b"\x0bchunked",
    ):
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
