"""Records that are deep, wide, long, of wrong types, with odd numbers and times, and under odd content types."""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.input import model
from tests.input.case import INGEST, JSON, LINES, OK, REFUSED, Case, Log
from tests.input.corpus import clock

TOO_LARGE = frozenset({413})
DEEP, WIDE, MEBI = 100_000, 100_000, 1024 * 1024
_GOOD = b'{"service":"shapes","message":"a neighbour"}'


def sizes() -> list[Case]:
    """Each limit, met and passed by one, and what is far beyond it. Neighbours must be stored."""
    cases = []
    for name, record in {**dict(_large()), **dict(_limits())}.items():
        cases.append(model.of_lines(name, [_GOOD, record, _GOOD]))
        if len(record) < 10_000_000:
            neighbour, log = model.expected(_GOOD), model.expected(record, 2)
            logs = [found for found in (neighbour, log) if found]
            if not name.startswith("deep"):
                cases.append(Case(f"{name} in an array", b"[%b,%b]" % (_GOOD, record), JSON, expect=OK, logs=logs))
    for name, body in _whole():
        cases.append(Case(name, body, LINES, expect=REFUSED | TOO_LARGE))
        cases.append(Case(f"{name} as JSON", body, JSON, expect=REFUSED | TOO_LARGE))
        headers = {"content-type": "application/cloudevents+json"}
        cases.append(Case(f"{name} as event", body, headers, path="/", expect=REFUSED | TOO_LARGE))
    return cases


def _large() -> Iterator[tuple[str, bytes]]:
    for field in ("message", "metadata", "service", "timestamp", "level", "id", "x"):
        yield f"deep arrays in {field}", b'{"service":"s","%b":%b%b}' % (field.encode(), b"[" * DEEP, b"]" * DEEP)
        yield f"deep objects in {field}", b'{"service":"s","%b":%b1%b}' % (field.encode(), b'{"a":' * DEEP, b"}" * DEEP)
    keys = b",".join(b'"k%d":1' % number for number in range(WIDE))
    yield "100,000 keys", b'{"service":"s",%b}' % keys
    yield "100,000 entries", b'{"service":"s","metadata":{%b}}' % keys
    yield "100,000 keys in a message", b'{"service":"s","message":{%b}}' % keys[:200_000].rpartition(b",")[0]
    yield "100,000 times the same key", b'{"service":"s",%b"message":"last"}' % (b'"message":"x",' * WIDE)
    yield "a key of 1 MiB", b'{"service":"s","%b":1}' % (b"k" * MEBI)
    yield "an entry's key of 1 MiB", b'{"service":"s","metadata":{"%b":"1"}}' % (b"k" * MEBI)
    yield "an entry's key of 500 KiB", b'{"service":"s","metadata":{"%b":"1"}}' % (b"k" * (MEBI // 2))
    yield "a line of 10 MB", b'{"service":"s","message":"%b"}' % (b"m" * 10_000_000)
    yield "a line of 10 MB that is no JSON", b"x" * 10_000_000
    yield "a service of 1 MiB", b'{"service":"%b"}' % (b"s" * MEBI)
    yield "an id of 1 MB", b'{"service":"s","timestamp":1,"id":"%b"}' % (b"i" * 1_000_000)
    yield "escapes", b'{"service":"s","message":"%b"}' % (b"\\u0001" * 200_000)


def _limits() -> Iterator[tuple[str, bytes]]:
    limits = {"service": 255, "trace_id": 128, "span_id": 128, "message": 256 * 1024}
    for field, limit in limits.items():
        for size in (limit - 1, limit, limit + 1):
            record = {"service": "shapes", field: "a" * size}
            yield f"{field} of {size}", json.dumps(record).encode()
            wide = {"service": "shapes", field: "é" * (size // 2) + "a" * (size % 2)}
            yield f"{field} of {size} in characters of two bytes", json.dumps(wide, ensure_ascii=False).encode()
    for size in (999, 1000, 1001):
        entries = {f"k{number}": str(number) for number in range(size)}
        yield f"{size} entries", json.dumps({"service": "shapes", "metadata": entries}).encode()
        yield f"{size} unknown fields", json.dumps({"service": "shapes", **entries}).encode()
    # Control characters grow sixfold when they are written as JSON for ClickHouse.
    yield "a message that grows", json.dumps({"service": "shapes", "message": "\x01" * 160_000}).encode()


def _whole() -> Iterator[tuple[str, bytes]]:
    yield "only brackets", b"[" * DEEP
    yield "only braces", b'{"a":' * DEEP
    yield "only closing brackets", b"]" * DEEP
    yield "20 MiB and a byte", b" " * (20 * MEBI + 1)
    yield "a million records", b"{}\n" * 1_048_576
    yield "a million commas", b"," * MEBI
    yield "5000 bad lines", b"x\n" * 5000
    yield "5000 bad items", b"[" + b"1," * 5000 + b"1]"
    yield "a text of 5 MB", b'"' + b"a" * 5_000_000 + b'"'
    yield "a number of 5 MB", b"1" * 5_000_000


NUMBERS = (
    "0", "-0", "1", "-1", "0.1", "1e2", "1E+2", "1e-400", "1e308", "1e309", "1e400", "-1e400", "NaN", "Infinity",
    "-Infinity", "9007199254740993", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "-9223372036854775809", "18446744073709551615", "18446744073709551616", "1.0000000000000000000000000001", "0x10",
    "01", "1_0", ".5", "5.", "+1", "1" + "0" * 5000, "0." + "3" * 5000, "1e99999999999999999999",
    "0e99999999999999999999", "-0.0", "1.7976931348623157e308",
)  # fmt: skip
WRONG = ("null", "true", "false", "0", "1.5", '""', '"x"', "[]", "{}", "[[]]", '{"a":[1]}', '[{"a":null}]', "[null]")
FIELDS = ("service", "message", "level", "metadata", "trace_id", "span_id", "id", "other", "", "tenant", "dedupe")


def numbers() -> list[Case]:
    """Each number in each field: a text stays as it was written, or the record is refused."""
    return [_values(f"{number[:24]}", number) for number in NUMBERS]


def types() -> list[Case]:
    """A value of each type in each field, and fields that come twice."""
    cases = [_values(value, value) for value in WRONG]
    twice = [b'{"service":"a","service":"shapes","message":%b,"message":"last"}' % value.encode() for value in WRONG]
    twice += [b'{"service":"shapes","metadata":{"k":"1","k":"2"},"metadata":%b}' % value.encode() for value in WRONG]
    twice += [
        b'{"service":"shapes","k":1,"metadata":{"k":"m"}}',
        b'{"service":"shapes","level":"odd","metadata":{"level":"m"}}',
    ]
    return [*cases, model.of_lines("twice", [_GOOD, *twice])]


def _values(name: str, value: str) -> Case:
    lines = [_GOOD]
    for field in FIELDS:
        service = "" if field == "service" else '"service":"shapes",'
        lines.append(f'{{{service}"span_id":"n","{field}":{value}}}'.encode())
    lines.append(f'{{"service":"shapes","metadata":{{"k":{value}}}}}'.encode())
    lines.append(f'{{"service":"shapes","message":[{value},{{"n":{value}}}]}}'.encode())
    return model.of_lines(name, lines)


TYPES_READ = (
    "application/x-ndjson", "application/ndjson", "application/jsonl", "application/json", "text/json",
    "APPLICATION/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"',
    "application/json ; charset=us-ascii", "", "application/json;", "application/json;;;",
    "application/json; x=y; charset=utf8",
)  # fmt: skip
OTHER_TYPES = (
    "text/plain", "text/html", "application/xml", "text/csv", "application/octet-stream",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/x-protobuf",
    "application/jsonx", "application", "/", "*/*", "json", "application/json; charset=utf-7",
    "application/json; charset=utf-16", "application/json; charset=latin-1", "application/json; charset=",
    "application/json, text/plain", "a" * 5000, "application/json\\", "image/png", "application/problem+json",
    "application/json; charset=utf-8; charset=utf-16",
)  # fmt: skip


def content_types() -> list[Case]:
    """Media types and charsets that are read, and others."""
    cases = []
    for status, types in ((200, TYPES_READ), (415, OTHER_TYPES)):
        for kind in types:
            line = b'{"service":"shapes","message":"type %b"}' % kind[:100].encode().replace(b'"', b"'").replace(
                b"\\", b"/"
            )
            log = model.expected(line)
            logs = [log] if log and status == 200 else []
            cases.append(Case(kind[:60], line, {"content-type": kind}, expect=frozenset({status}), logs=logs))
    return cases


def many_days(days: int) -> list[Case]:
    """A log of each of the last days in one request, and older ones, which are refused."""
    lines, logs = [], []
    for number in range(days + 30):
        text, moment = clock.ago(number * clock.DAY)
        lines.append(b'{"service":"shapes","message":"day %d","timestamp":"%b"}' % (number, text.encode()))
        log = model.expected(lines[-1], number + 1, moment)
        if log and number < days:
            logs.append(Log(**{**vars(log), "line": number + 1}))
    return [Case(f"{days} days", b"\n".join(lines), LINES, path=INGEST, expect=OK, logs=logs)]
