"""Searches and exports that ask for too much, or for what is not there."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from urllib.parse import quote, urlencode

from tests.input.case import OK, REFUSED, Answer, Case
from tests.input.corpus.searches import EXPORT, LOGS, READ, get, post


def _cursor(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def abuse() -> list[Case]:
    """Long ranges, high limits, many filters, large requests, words without end, cursors that were never given."""
    return [*_ranges(), *_many(), *_bodies(), *_cursors(), *_words()]


def _ranges() -> Iterator[Case]:
    for start, end in (
        ("1970-01-01", "2262-01-01"),
        ("1925-01-01", "2025-01-01"),
        ("0", "9223372036"),
        ("-999999w", "now"),
        ("1", "2"),
    ):
        status = READ
        yield get(f"{start} to {end}", f"{LOGS}?start_time={start}&end_time={end}&limit=10", status)
        yield get(
            f"{start} to {end} counted", f"{LOGS}/aggregate?start_time={start}&end_time={end}&interval=1s", status
        )
        yield get(
            f"{start} to {end} in weeks", f"{LOGS}/aggregate?start_time={start}&end_time={end}&interval=999999w", status
        )
        yield get(
            f"{start} to {end} exported",
            f"{EXPORT}?start_time={start}&end_time={end}&service=nobody",
            status,
            function="export",
        )
    for limit in (
        "0",
        "-1",
        "10001",
        "1000000000",
        "9223372036854775808",
        "1" + "0" * 5000,
        "1e9",
        "NaN",
        "",
        "null",
        "true",
    ):
        yield get(f"limit {limit[:30]}", f"{LOGS}?limit={limit}", REFUSED)
        yield get(f"offset {limit[:30]}", f"{LOGS}?offset={limit}00", REFUSED if limit.strip("0") else READ)
    yield get("offset and cursor", f"{LOGS}?offset=1&cursor={_cursor([0, 1, 1, 1])}", REFUSED)
    yield get("the farthest page", f"{LOGS}?limit=10000&offset=100000", OK)
    yield get("turned around", f"{LOGS}?start_time=now&end_time=-1h", REFUSED)


def _many() -> Iterator[Case]:
    for function, path in (("query", LOGS), ("export", EXPORT)):
        for count, status in ((100, OK), (101, REFUSED), (1000, REFUSED)):
            for name in ("service", "metadata.k"):
                query = "&".join(f"{name}=v{number}" for number in range(count))
                yield get(f"{function} {count} times {name}", f"{path}?{query}", status, function=function)
            query = "&".join(f"metadata.k{number}=v" for number in range(count))
            if count != 100:
                yield get(f"{function} {count} keys", f"{path}?{query}", status, function=function)
        yield get(
            f"{function} 100 keys",
            f"{path}?" + "&".join(f"metadata.k{n}=v" for n in range(100)),
            OK | {422},
            function=function,
        )
        for size in (1_000_000, 60_000):
            target = f"{path}?service={'a' * size}".encode()
            raw = [b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"]
            yield Case(
                f"{function} query string of {size}",
                function=function,
                raw=raw,
                expect=REFUSED | {0, 414, 431},
                close=True,
            )
        yield get(
            f"{function} 5000 parameters", f"{path}?" + "&".join("x=y" for _ in range(5000)), REFUSED, function=function
        )
        yield get(f"{function} twice the same", f"{path}?search=a&search=b", REFUSED, function=function)


def _bodies() -> Iterator[Case]:
    for body in (
        b"",
        b"[]",
        b"null",
        b"1",
        b'"x"',
        b"{",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"limit":1,"limit":0}',
    ):
        yield post(f"body {body[:20]!r}", body, REFUSED)
    yield post("body of 5 MB", b'{"service":"' + b"a" * 5_000_000 + b'"}', frozenset({413}))
    yield post("body of 3 MB", b'{"service":"' + b"a" * 3_000_000 + b'"}', REFUSED)
    yield post("100,000 names", json.dumps({f"k{number}": 1 for number in range(100_000)}).encode(), REFUSED)
    for name in (
        "start_time",
        "end_time",
        "service",
        "level",
        "search",
        "trace_id",
        "metadata",
        "limit",
        "cursor",
        "offset",
        "total",
    ):
        for value in (
            "true",
            "[]",
            "{}",
            "[[]]",
            "1e400",
            "-1",
            "NaN",
            '["a",1]',
            "[null]",
            '{"k":{"a":1}}',
            '"\\ud800"',
            "1" * 400,
            "null",
            '"\\u0000"',
        ):
            yield post(f"{name} {value[:20]}", f'{{"limit":1,"{name}":{value}}}'.encode(), READ)
    for name in ("metadata.\\u0000", "metadata.", "metadata", "__proto__", "metadata.\\ud800", "METADATA.k"):
        yield post(f"name {name}", f'{{"limit":1,"{name}":"v"}}'.encode(), READ)
    for kind in (
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "",
    ):
        yield Case(f"type {kind}", b'{"limit":1}', {"content-type": kind}, "query", path=LOGS, expect=READ | {415})


def _cursors() -> Iterator[Case]:
    top = 2**63
    for value in (
        [0, 1, 1, 1], [0, 0, 0, 0], [0, top - 1, top - 1, 2**64 - 1], [0, top, 0, 0], [top, 0, 0, 0], [0, 0, 0, 2**64],
        [-1, 0, 0, 0], [1.5, 0, 0, 0], [0, 0, 0], [0, 0, 0, 0, 0], [None] * 4, [True] * 4, ["0"] * 4, [[0]] * 4, {},
        {"a": 1}, "x", 1, None, [10**400, 0, 0, 0], [2, 1, 1, 1], "1 OR 1=1", [0, 1, "1; DROP", 0],
    ):  # fmt: skip
        yield get(f"cursor {str(value)[:60]}", f"{LOGS}?limit=1&cursor={_cursor(value)}", READ)
    for text in (
        "====",
        "a",
        "a" * 1000,
        "a" * 1001,
        "%00",
        "W10",
        "WzBd",
        "W" * 999,
        base64.b64encode(b"[" * 700).decode(),
    ):
        yield get(f"cursor {text[:20]}", f"{LOGS}?limit=1&cursor={quote(text)}", REFUSED)


def _words() -> Iterator[Case]:
    patterns = {
        "letters": " ".join("abcdefghij" * 50)[:1000], "numbers": " ".join(str(number) for number in range(260))[:1000],
        "one word": "a" * 1000, "too long": "a" * 1001, "the same": "a " * 500, "umlauts": "ü " * 500,
        "signs": "-" * 1000, "regex": "(a+)+$" * 100, "stars": "a*" * 500, "emoji": "😀 " * 300,
        "zero width": "\u200b" * 500, "marks": "a" + "\u0301" * 999, "nul": "a\x00" * 500, "percent": "%_" * 500,
        "64 words": " ".join(f"w{n}" for n in range(64)), "65 words": " ".join(f"w{n}" for n in range(65)),
        "underscores": "_a_" * 300, "one digit": "1", "superscript": "²", "roman": "Ⅷ", "arabic digit": "٣",
        "full width": "ａ", "letter of two": "ǅ", "sharp s": "ẞ", "dotted": "İ" * 1000,
    }  # fmt: skip
    for name, words in patterns.items():
        query = urlencode({"search": words, "start_time": "-6h", "limit": "10"})
        yield get(f"words {name}", f"{LOGS}?{query}", READ | {422})
        yield get(
            f"words {name} counted",
            f"{LOGS}/aggregate?{urlencode({'search': words, 'start_time': '-6h'})}",
            READ | {422},
        )
        export = urlencode({"search": words, "format": "ndjson", "service": "nobody"})
        yield get(f"words {name} exported", f"{EXPORT}?{export}", READ | {422}, function="export")


def exports() -> list[Case]:
    """Forty exports of everything at once: some are told to come again, none is half a file."""
    path = f"{EXPORT}?start_time=1970-01-01&end_time=2262-01-01&format=json"
    return [get(f"export {number} of 40", path, OK | {503}, _whole, "export") for number in range(40)]


def _whole(answer: Answer) -> str | None:
    return None if answer.status == 503 or json.loads(gzip.decompress(answer.body)) else "an empty file"
