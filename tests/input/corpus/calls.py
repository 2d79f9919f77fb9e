"""Calls of gRPC: bytes that are no message, metadata that means something elsewhere, wrong methods, broken streams."""

from __future__ import annotations

from collections.abc import Iterator

from tests.input.case import OK, REFUSED, Case, Log
from tests.input.corpus.hostile import KEY, copies, field, many, messages
from tests.input.corpus.protocols import SERVICE, Sent, batch, sent

_OWN = "/torpor.logs.v1.LogIngestionService"
_EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_ANY = frozenset({200, 400, 413})
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


def calls() -> list[Case]:
    """Each method with what it cannot read, and with what others would obey."""
    cases = [*_broken(), *_metadata(), *_streams(), *_paths(), *_frames()]
    return [Case(**{**vars(case), "function": "grpc"}) for case in cases]


def _logs(logs: list[Sent]) -> list[Log]:
    return [Log(SERVICE, log.message, metadata=(("k", log.value),), time=log.time) for log in logs]


def _entry(log: Sent) -> bytes:
    return batch([log])[2:] if len(batch([log])) < 130 else batch([log])[3:]


def _broken() -> Iterator[Case]:
    large = 4 * 1024 * 1024 - 100
    for name, body in messages():
        if len(body) < 5_000_000:
            yield Case(f"export {name}", body, KEY, path=_EXPORT, expect=_ANY)
    yield Case("export copies", copies(), path=_EXPORT, expect=frozenset({400}))
    yield Case(
        "export logs of nothing in 4 MiB", field(1, field(2, many(b"\x12\0", large))), path=_EXPORT, expect=REFUSED
    )
    yield Case("over 4 MiB", bytes(5_000_000), path=_EXPORT, expect=frozenset({413}))
    for method in ("IngestLog", "IngestLogBatch", "IngestLogStream", "StreamLogBatches"):
        path = f"{_OWN}/{method}"
        yield Case(f"{method} nothings", many(b"\n\0", large), path=path, expect=_ANY)
        metadata = field(1, field(2, b"s") + field(5, b'{"a":' * 100_000))
        for number, data in enumerate(
            (b"\xff", b"\n\x05a", b"{}", b"\x0b", b"\x02\0", metadata, b"\0" * 5, field(2, b"\xff"))
        ):
            yield Case(f"{method} {number}", data, KEY, path=path, expect=_ANY)


def _metadata() -> Iterator[Case]:
    for name, value in (
        *(("idempotency-key", ""), ("idempotency-key", "a b"), ("idempotency-key", "k" * 256)),
        *(("grpc-timeout-x", "1"), ("x-forwarded-for", "127.0.0.1"), ("te-x", "gzip"), ("content-encoding", "gzip")),
        *(
            ("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-01"),
            ("traceparent", "x" * 4000),
            ("x-bin", b"\0\xff\r\n"),
        ),
        *(("host", "other"), ("authorization", "Bearer x"), ("tenant", "other"), ("x", "y" * 6000)),
    ):
        logs = sent(f"metadata {name} {len(value)}")
        refused = name == "idempotency-key"
        headers = {name: value}
        yield Case(
            f"{name} {value[:12]!r} {len(value)}", batch(logs), headers, path=f"{_OWN}/IngestLogBatch",
            expect=REFUSED if refused else OK, logs=[] if refused else _logs(logs),
        )  # fmt: skip


def _streams() -> Iterator[Case]:
    good = sent("in a stream", count=3)
    messages = [_entry(good[0]), b"\xff", _entry(good[1]), field(2, b"\xff"), _entry(good[2])]
    yield Case("a stream with bad logs", path=f"{_OWN}/IngestLogStream", raw=messages, expect=OK, logs=_logs(good))
    first = sent("before a broken batch")
    path = f"{_OWN}/StreamLogBatches"
    broken = [batch(first), b"\xff", batch(sent("after a broken batch"))]
    yield Case("a broken batch", path=path, raw=broken, expect=REFUSED, logs=_logs(first), stored=REFUSED)
    yield Case("many empty batches", path=path, raw=[b""] * 5000, expect=OK)
    yield Case("many empty logs", path=f"{_OWN}/IngestLogStream", raw=[b""] * 5000, expect=_ANY)


def _paths() -> Iterator[Case]:
    for path in (
        "/",
        "/x/y",
        f"{_OWN}/Nothing",
        f"{_OWN}/",
        f"{_EXPORT}/",
        f"{_EXPORT}x",
        "/../Export",
        "/" + "a" * 5000,
    ):
        yield Case(f"at {path[:40]}", batch(sent("x")), path=path, expect=frozenset({404}))


def _frames() -> Iterator[Case]:
    """What is no HTTP/2, or broken, on the port of gRPC: closed, and nothing else. Settings alone are well."""
    silent = {"answers": 0, "path": "socket"}
    for name, parts in (
        ("HTTP/1.1", [b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"]),
        ("noise", [bytes(range(256)) * 40]),
        ("half a preface", [_PREFACE[:10]]),
        ("a preface and noise", [_PREFACE + b"\xff" * 1000]),
        ("settings only", [_PREFACE + _SETTINGS]),
        ("settings that lie", [_PREFACE + b"\xff\xff\xff\x04\0\0\0\0\0"]),
        ("data on no stream", [_PREFACE + _SETTINGS + b"\0\0\x05\0\0\0\0\0\0hello"]),
        ("headers without end", [_PREFACE + _SETTINGS + b"\0\0\x01\x01\0\0\0\0\x01\x82" * 100]),
        ("resets", [_PREFACE + _SETTINGS + b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\0" * 1000]),
        ("pings", [_PREFACE + _SETTINGS + b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)] * 100),
    ):
        yield Case(name, raw=parts, close=True, **silent)  # type: ignore[arg-type]  # of one kind with Case's fields
