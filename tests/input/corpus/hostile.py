"""Bodies made to break one protocol: deep, wide, with lengths that lie, of millions of nothings."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.input.case import REFUSED, Case, Log
from tests.input.corpus import clock
from tests.input.corpus.documents import documents
from tests.input.corpus.foreign import WRONG
from tests.input.corpus.protocols import JSON, PLAIN, PROTOBUF, TAKEN, sent, snappy
from tests.input.corpus.protocols import bulk as write_bulk
from tests.input.corpus.protocols import hec as write_hec

MEBI = 1024 * 1024
LARGE = 20 * MEBI - 1000
DEEP = 100_000
ANY = WRONG | TAKEN
_OTLP, _LOKI, _HEC, _RAW = "/v1/logs", "/loki/api/v1/push", "/services/collector/event", "/services/collector/raw"
_LINES = {"content-type": "application/x-ndjson"}
KEY = {"idempotency-key": "hostile"}


def field(number: int, data: bytes) -> bytes:
    """A field of protobuf that has a length."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """A number as protobuf and snappy write it."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def many(item: bytes, size: int = LARGE) -> bytes:
    return item * (size // len(item))


def otlp() -> list[Case]:
    """Of OTLP and gRPC's Export: messages of nothing by the million, deep values, lying lengths."""
    return [
        *(Case(f"protobuf {name}", body, PROTOBUF | KEY, path=_OTLP, expect=ANY) for name, body in messages()),
        *(Case(f"json {name}", body, JSON | KEY, path=_OTLP, expect=ANY) for name, body in _otlp_json()),
        Case("copies", copies(), PROTOBUF, path=_OTLP, expect=frozenset({413})),
    ]


def record(data: bytes) -> bytes:
    """A request of one log."""
    return field(1, field(2, field(2, data)))


def messages() -> Iterator[tuple[str, bytes]]:
    yield "logs of nothing", field(1, field(2, many(b"\x12\x00")))
    yield "logs of one number", field(1, field(2, many(b"\x12\x02\x10\x01")))
    yield "resources of nothing", many(b"\n\x00")
    yield "scopes of nothing", field(1, many(b"\x12\x00"))
    yield "attributes of a resource", field(1, field(1, many(b"\n\x00")) + field(2, field(2, b"")))
    yield "attributes of a log", record(many(b"\x32\x00"))
    yield "attributes below the limit", record(many(b"\x32\x00", 3_900_000))
    yield "values of an array", record(field(5, field(5, many(b"\n\x00"))))
    yield "values below the limit", record(field(5, field(5, many(b"\n\x00", 3_900_000))))
    value = b""
    for _ in range(3000):
        value = field(5, field(1, value))
    yield "deep values", record(field(5, value))
    yield "groups", b"\x0b" * 1000
    yield "groups inside", record(b"\x0b" * 1000 + b"\x0c" * 1000)
    yield "field 0", record(b"\x02\x01a")
    yield "a varint without end", record(b"\x08" + b"\xff" * 20)
    yield "a tag of 10 bytes", b"\xff" * 9 + b"\x01"
    for size in (2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1):
        yield f"a length of {size}", b"\n" + varint(size) + b"abc"
        yield f"an inner length of {size}", field(1, b"\x12" + varint(size) + b"abc")
    yield "numbers for messages", field(1, field(2, b"\x10\x01" * 1000)) + b"\x08\x01"
    yield "no UTF-8", record(field(3, b"\xff\xfe"))
    yield "JSON", b'{"resourceLogs":[]}'


def copies() -> bytes:
    """A resource of almost a megabyte that each of thousands of logs would have a copy of."""
    resource = field(1, field(1, b"k") + field(2, field(1, b"v" * 900_000)))
    return field(1, field(1, resource) + field(2, many(b"\x12\x00", 100_000)))


def _otlp_json() -> Iterator[tuple[str, bytes]]:
    head = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":['
    tail = b"]}]}]}"
    yield "logs of nothing", head + many(b"1,") + b"1" + tail
    yield "objects of nothing", head + many(b"{},") + b"{}" + tail
    yield "resources of nothing", b'{"resourceLogs":[' + many(b"{},") + b"{}]}"
    yield "attributes of nothing", head + b'{"attributes":[' + many(b"{},") + b"{}]}" + tail
    deep = b'{"arrayValue":{"values":[' * DEEP + b"{}" + b"]}}" * DEEP
    yield "deep", head + b'{"body":' + deep + b"}" + tail
    yield "brackets", b"[" * LARGE
    yield "twice", b'{"resourceLogs":[],"resourceLogs":[{}]}'
    numbers = (
        "1e999",
        "-1",
        "1.5",
        '"1.5"',
        '"-1"',
        "18446744073709551616",
        "9" * 400,
        f'"{"9" * 4000}"',
        "true",
        "[]",
    )
    for number in numbers:
        for name in ("timeUnixNano", "severityNumber", "flags", "droppedAttributesCount"):
            yield f"{name} {number[:20]}", head + f'{{"{name}":{number}}}'.encode() + tail
    for _, kind, document in documents():
        if kind != "y":
            yield f"document {document[:20]!r}", head + b'{"body":{"stringValue":' + document + b"}}" + tail


def loki() -> list[Case]:
    """Of Loki: entries of nothing, labels that are none, snappy that lies."""
    cases = [Case(f"protobuf {name}", snappy(body), PROTOBUF | KEY, path=_LOKI, expect=ANY) for name, body in _pushes()]
    cases += [Case(f"snappy {name}", body, PROTOBUF, path=_LOKI, expect=WRONG) for name, body in _snappy()]
    return cases + [Case(f"json {name}", body, JSON, path=_LOKI, expect=ANY) for name, body in _loki_json()]


def _pushes() -> Iterator[tuple[str, bytes]]:
    labels = field(1, b'{a="b"}')
    yield "entries of nothing", field(1, labels + many(b"\x12\x00"))
    yield "streams of nothing", many(b"\n\x00")
    yield "metadata of nothing", field(1, labels + field(2, many(b"\x1a\x00")))
    yield "metadata below the limit", field(1, labels + field(2, many(b"\x1a\x00", 3_900_000)))
    names = b",".join(b'a%x="b"' % number for number in range(300_000))
    for text in (
        *(b"{" + names + b"}", b"{" * DEEP, b'{a="' + b'\\"' * DEEP + b'"}', b'{a="' + b"\\" * DEEP, b"", b"{", b"}"),
        *(b'{a="b"', b'{a="b",}', b'{a="b" b="c"}', b'{a="\\ud800"}', b'{a="\\xff"}', b'{a="b",a="c"}', b'{="b"}'),
        *(b'{a="\\U7fffffff"}', b"{a=`" + b"`a" * 1000, b'{a=~"b"}', b"\xff", b'{a="b"} x', b" " * MEBI),
    ):
        yield f"labels {text[:16]!r} {len(text)}", field(1, field(1, text) + field(2, b""))
    for seconds, nanos in ((2**63 - 1, 0), (2**64 - 1, 0), (1, 2**31 - 1), (1, 2**64 - 1)):
        time = b"\x08" + varint(seconds) + b"\x10" + varint(nanos)
        yield f"time {seconds}.{nanos}", field(1, labels + field(2, field(1, time)))


def _snappy() -> Iterator[tuple[str, bytes]]:
    for size in (0, 1, LARGE, 2**31, 2**32 - 1):
        yield f"length {size}", varint(size) + b"\x00a"
    yield "zeros", snappy(bytes(100 * MEBI))
    yield "length of 11 bytes", b"\xff" * 11
    yield "a copy before the start", varint(100) + b"\x00a" + b"\xfe\xff\xff" * 2
    yield "a copy of itself", varint(LARGE) + b"\x00a" + b"\xfe\x00\x00" * 100
    yield "plain", field(1, field(1, b'{a="b"}'))
    yield "the framed format", b"\xff\x06\x00\x00sNaPpY" + b"\x01\x05\x00\x00\x00\x00\x00\x00a"
    yield "twice", snappy(snappy(field(1, b"") * 1000))


def _loki_json() -> Iterator[tuple[str, bytes]]:
    head, tail = b'{"streams":[{"stream":{"a":"b"},"values":[', b"]}]}"
    yield "entries of nothing", head + many(b"1,") + b"1" + tail
    yield "streams of nothing", b'{"streams":[' + many(b'{"stream":{},"values":[]},')[:-1] + b"]}"
    yield "deep labels", b'{"streams":[{"stream":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b',"values":[["1",""]]}]}'
    yield "deep metadata", head + b'["1","",' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"]" + tail
    for time in ('"x"', '""', '"-1"', "1", '"1.5"', '"' + "9" * 5000 + '"', '"٣"', '"1e18"', "null", '" 1"'):
        yield f"time {time[:20]}", head + f'[{time},"x"]'.encode() + tail
    for name, _, document in documents():
        yield f"document {name}", head + b'["1",%b]' % document + tail  # the time is long ago, whatever the line is


def elasticsearch() -> list[Case]:
    """Of Elasticsearch: lines in the wrong order, many actions, deep and wide documents."""
    found = [Case(name, body, _LINES | KEY, path="/_bulk", expect=ANY) for name, body in _bulks()]
    for index in ("%00", "a" * 5000, "..", "%2e%2e", "é", "a%2Fb", "%0d%0aX: y", "{index}", "_all", "a,b"):
        found.append(Case(f"index {index[:20]}", write_bulk([]), _LINES, path=f"/{index}/_bulk", expect=WRONG | {404}))
    return found


def _bulks() -> Iterator[tuple[str, bytes]]:
    action = b'{"create":{}}\n'
    yield "deletes", many(b'{"delete":{}}\n', 700_000)
    yield "action lines only", action * 50_001
    yield "empty documents", (action + b"{}\n") * 10_000
    yield "newlines", b"\n" * LARGE
    yield "deep", action + b'{"a":' * DEEP + b"1" + b"}" * DEEP
    yield "deep array", action + b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}"
    yield "long names", action + b'{"%b":' % (b"n" * 400) * 900 + b"1" + b"}" * 900
    yield "wide", action + b"{" + b",".join(b'"%x":1' % number for number in range(300_000)) + b"}"
    yield "numbers", action + b'{"a":[' + many(b"1.5,", 3_800_000) + b"1]}"
    yield "a large document", action + b'{"a":"' + b"x" * 10_000_000 + b'"}'
    for line in (
        *(b"{}", b"[]", b"1", b'{"create":1}', b'{"create":{},"index":{}}', b'{"CREATE":{}}', b"x", b"\xff"),
        *(b'{"create":{"_id":[]}}', b'{"create":{"_index":{}}}', b'{"create":{}', b'{"create":' * DEEP),
    ):
        yield f"action {line[:30]!r}", line + b"\n{}\n"
    for name, _, document in documents():
        yield f"document {name}", action + document.replace(b"\n", b" ") + b"\n"


def splunk() -> list[Case]:
    """Of Splunk: texts that look like more events, arrays of nothing, odd times, raw lines by the million."""
    texts = ['}{"event":"forged"}', '"}{"event":"x"}', '\\"}{', "}\n{", '{"event":"inner"}', "}{" * 5000, '\\\\"}{"']
    logs = [log for text in texts for log in sent(text, text)]
    expected = [
        Log("clients", log.message, metadata=(("k", log.value),), time=log.time, line=place)
        for place, log in enumerate(logs, 1)
    ]
    found = [Case("events in texts", write_hec(logs), JSON, path=_HEC, expect=TAKEN, logs=expected)]
    array = b"[" + write_hec(again := sent("in an array", count=1)) + b"]"
    log = Log("clients", "in an array", metadata=(("k", "v"),), time=again[0].time)
    found.append(Case("an array", array, JSON, path=_HEC, expect=TAKEN, logs=[log]))
    found += [Case(name, body, JSON | KEY, path=_HEC, expect=ANY) for name, body in _events()]
    found += [
        Case("raw nothing", b"\n" * LARGE, path=_RAW, expect=WRONG),
        Case(
            "raw copies", b"a\n" * 300_000, path=f"{_RAW}?host={'h' * 20_000}", expect=frozenset({413, 400, 414, 431})
        ),
        Case("raw bytes", b"\xff\n\xfe\n", path=_RAW, expect=WRONG),
    ]
    return found


def _events() -> Iterator[tuple[str, bytes]]:
    yield "nothings", many(b"{}", 400_000)
    yield "array of nothings", b"[" + many(b"{},") + b"{}]"
    yield "half an array", b"[" * DEEP
    yield "deep", b'{"event":' + b"[" * DEEP + b"]" * DEEP + b"}"
    yield "deep fields", b'{"event":"x","fields":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"
    yield "wide fields", b'{"event":"x","fields":{' + b",".join(b'"%x":1' % place for place in range(300_000)) + b"}}"
    yield "open texts", b'{"event":"' + b"}{" * (LARGE // 2)
    yield "backslashes", b'{"event":"' + b"\\" * LARGE
    for time in ("1e400", "-1", "0", "true", "{}", '"x"', "9" * 400, f'"{"9" * 5000}"', '"1e99999999"', "NaN", '"٣.٣"'):
        yield f"time {time[:20]}", b'{"event":"x","time":%b}' % time.encode()
    for name, _, document in documents():
        yield f"document {name}", b'{"time":"1000000000","event":%b}' % document


def syslog() -> list[Case]:
    """Lines that make an expression go back and forth, or would be very many fields; good ones must be stored."""
    time, moment = clock.recent()
    good = b"<14>1 " + time.encode() + b" - clients - - - after them"
    around = (("facility", "user"), ("severity", "info"))
    last = Log("clients", "after them", metadata=around, time=moment)
    found = []
    for place, line in enumerate(_hostile_lines()):
        case = Case(f"line {place} {line[:20]!r}", line, PLAIN | KEY, path="/api/v1/syslog", expect=REFUSED)
        found.append(case)
    both = b"x" * 2_000_000 + b"\n" + good
    found.append(Case("after a long line", both, PLAIN, path="/api/v1/syslog", logs=[last]))
    return [*found, Case("newlines", b"\n" * LARGE, PLAIN, path="/api/v1/syslog", expect=WRONG)]


def _hostile_lines() -> Iterator[bytes]:
    """Without a time of their own, so that under a key none is taken."""
    for size in (300_000, LARGE):
        yield b"<13>1 - h a - - " + many(b"[a]", size)
        yield b"<13>1 - h a - - [a" + many(b' b="c"', size)
        yield b"<13>1 - h a - - [a" + many(b' b="\\', size)
        yield b"CEF:0|a|b|c|d|e|f|" + many(b"a=b ", size)
        yield b"CEF:0|a|b|c|d|e|f|" + many(b" ", size)
        yield b"CEF:0" + many(b"|\\", size)
        yield b"<13>" + many(b"  :", size)
        yield b"<13>" + many(b"a[", size)
        yield b"<" * size
        yield many(b"\xff", size)
        yield b"<13>1 " + b"2" * size
    yield b"<13>1 9999-99-99T99:99:99Z h a - - - x"
    yield b"<999>1 - - - - - - x"
    yield b"<13>Foo 99 99:99:99 h a: x"
    yield json.dumps({"service": "forged"}).encode()
