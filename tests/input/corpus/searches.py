"""Every text as every parameter of query and export, and searches that ask for too much."""

from __future__ import annotations

import base64
import collections
import json
from collections.abc import Iterator
from urllib.parse import quote, urlencode

from tests.input.case import JSON, OK, REFUSED, Answer, Case, Check
from tests.input.corpus import texts
from tests.input.corpus.strings import NO_TEXT, TEXTS

LOGS, EXPORT = "/api/v1/logs", "/api/v1/logs/export"
READ = frozenset({200, 400})
SINCE = "start_time=-6h"


def _get(name: str, path: str, expect: frozenset[int], check: Check | None = None, function: str = "query") -> Case:
    return Case(name, function=function, method="GET", path=path, expect=expect, check=check)


def _post(name: str, body: bytes, expect: frozenset[int], check: Check | None = None) -> Case:
    return Case(name, body, JSON, function="query", path=LOGS, expect=expect, check=check)


def _total(expected: int) -> Check:
    def check(answer: Answer) -> str | None:
        page = json.loads(answer.body)
        found = (page["total"], len(page["logs"]))
        return None if found == (expected, expected) else f"found {found} logs, not {expected}"

    return check


def _lines(expected: int) -> Check:
    def check(answer: Answer) -> str | None:
        found = len(answer.body.splitlines())
        return None if found == expected else f"exported {found} logs, not {expected}"

    return check


def _finds(span: str) -> Check:
    def check(answer: Answer) -> str | None:
        if answer.status != 200:
            return None  # there is no word in it
        spans = {log["span_id"] for log in json.loads(answer.body)["logs"]}
        return None if span in spans else f"the log {span}, whose message is the search, is not found"

    return check


def filters() -> list[Case]:
    """Each text as each filter: exactly the logs that hold it are found, by query and by export."""
    stored = [log for case in texts.everywhere() for log in case.logs]
    services = collections.Counter(log.service for log in stored)
    traces = collections.Counter(log.trace_id for log in stored)
    entries = collections.Counter(entry for log in stored for entry in log.metadata)
    cases: list[Case] = []
    for number, text in enumerate(TEXTS):
        name, value = f"{number:03d}", quote(text, safe="")
        own = f"metadata.{value}=key"
        found = entries[text, "key"]
        cases += [
            _get(f"{name} service", f"{LOGS}?{SINCE}&service={value}", OK, _total(services[text])),
            _get(f"{name} value", f"{LOGS}?{SINCE}&metadata.value={value}", OK, _total(entries["value", text])),
            _get(f"{name} key", f"{LOGS}?{SINCE}&{own}", OK, _total(found)),
            _get(f"{name} search", f"{LOGS}?{SINCE}&service=texts&search={value}&limit=10000", READ, _finds(f"{name}-plain")),
            _get(f"{name} export", f"{EXPORT}?{SINCE}&format=ndjson&{own}", OK, _lines(found), "export"),
            _post(f"{name} body", json.dumps({"start_time": "-6h", "trace_id": text}).encode(), OK, _total(traces[text])),
        ]
    return cases


PARAMETERS = ("start_time", "end_time", "level", "limit", "offset", "cursor", "total", "unknown", "metadata", "metadata.", "")


def parameters() -> list[Case]:
    """Each text as each parameter that is not compared with logs, and as the name of one."""
    cases: list[Case] = []
    values = [quote(text, safe="") for text in TEXTS] + [quote(data) for data in NO_TEXT] + ["9" * 400, "-1", "1e3", "0x1", "1.0", "1 "]
    for number, value in enumerate(values):
        for name in PARAMETERS:
            cases.append(_get(f"{number:03d} {name}", f"{LOGS}?limit=1&{name}={value}".replace("limit=1&limit", "limit"), READ))
        cases.append(_get(f"{number:03d} interval", f"{LOGS}/aggregate?interval={value}", READ))
        cases.append(_get(f"{number:03d} id", f"{LOGS}/{value}", READ | {404, 307}))
        cases.append(_get(f"{number:03d} errors", f"{LOGS}/errors?limit={value}", READ))
        cases.append(_get(f"{number:03d} name", f"{LOGS}?limit=1&{value}=x", READ))
        for name in ("format", "compression", "formulas", "start_time", "cursor"):
            cases.append(_get(f"{number:03d} export {name}", f"{EXPORT}?{name}={value}", READ, function="export"))
    return cases


def _cursor(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def abuse() -> list[Case]:
    """Long ranges, high limits, many filters, large requests, words without end, cursors that were never given."""
    return [*_ranges(), *_many(), *_bodies(), *_cursors(), *_words()]


def _ranges() -> Iterator[Case]:
    for start, end in (("1970-01-01", "2262-01-01"), ("1925-01-01", "2025-01-01"), ("0", "9223372036"), ("-999999w", "now"), ("1", "2")):
        status = READ
        yield _get(f"{start} to {end}", f"{LOGS}?start_time={start}&end_time={end}&limit=10", status)
        yield _get(f"{start} to {end} counted", f"{LOGS}/aggregate?start_time={start}&end_time={end}&interval=1s", status)
        yield _get(f"{start} to {end} in weeks", f"{LOGS}/aggregate?start_time={start}&end_time={end}&interval=999999w", status)
        yield _get(f"{start} to {end} exported", f"{EXPORT}?start_time={start}&end_time={end}&service=nobody", status, function="export")
    for limit in ("0", "-1", "10001", "1000000000", "9223372036854775808", "1" + "0" * 5000, "1e9", "NaN", "", "null", "true"):
        yield _get(f"limit {limit[:30]}", f"{LOGS}?limit={limit}", REFUSED)
        yield _get(f"offset {limit[:30]}", f"{LOGS}?offset={limit}00", REFUSED if limit.strip("0") else READ)
    yield _get("offset and cursor", f"{LOGS}?offset=1&cursor={_cursor([0, 1, 1, 1])}", REFUSED)
    yield _get("the farthest page", f"{LOGS}?limit=10000&offset=100000", OK)
    yield _get("turned around", f"{LOGS}?start_time=now&end_time=-1h", REFUSED)


def _many() -> Iterator[Case]:
    for function, path in (("query", LOGS), ("export", EXPORT)):
        for count, status in ((100, OK), (101, REFUSED), (1000, REFUSED)):
            for name in ("service", "metadata.k"):
                query = "&".join(f"{name}=v{number}" for number in range(count))
                yield _get(f"{function} {count} times {name}", f"{path}?{query}", status, function=function)
            query = "&".join(f"metadata.k{number}=v" for number in range(count))
            if count != 100:
                yield _get(f"{function} {count} keys", f"{path}?{query}", status, function=function)
        yield _get(f"{function} 100 keys", f"{path}?" + "&".join(f"metadata.k{n}=v" for n in range(100)), OK | {422}, function=function)
        for size in (1_000_000, 60_000):
            target = f"{path}?service={'a' * size}".encode()
            raw = [b"GET " + target + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"]
            yield Case(f"{function} query string of {size}", function=function, raw=raw, expect=REFUSED | {0, 414, 431}, close=True)
        yield _get(f"{function} 5000 parameters", f"{path}?" + "&".join("x=y" for _ in range(5000)), REFUSED, function=function)
        yield _get(f"{function} twice the same", f"{path}?search=a&search=b", REFUSED, function=function)


def _bodies() -> Iterator[Case]:
    for body in (b"", b"[]", b"null", b"1", b'"x"', b"{", b"\xff", b"\xef\xbb\xbf{}", b"{}{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"limit":1,"limit":0}'):
        yield _post(f"body {body[:20]!r}", body, REFUSED)
    yield _post("body of 5 MB", b'{"service":"' + b"a" * 5_000_000 + b'"}', frozenset({413}))
    yield _post("body of 3 MB", b'{"service":"' + b"a" * 3_000_000 + b'"}', REFUSED)
    yield _post("100,000 names", json.dumps({f"k{number}": 1 for number in range(100_000)}).encode(), REFUSED)
    for name in ("start_time", "end_time", "service", "level", "search", "trace_id", "metadata", "limit", "cursor", "offset", "total"):
        for value in ("true", "[]", "{}", "[[]]", "1e400", "-1", "NaN", '["a",1]', '[null]', '{"k":{"a":1}}', '"\\ud800"', "1" * 400, "null", '"\\u0000"'):
            yield _post(f"{name} {value[:20]}", f'{{"limit":1,"{name}":{value}}}'.encode(), READ)
    for name in ("metadata.\\u0000", "metadata.", "metadata", "__proto__", "metadata.\\ud800", "METADATA.k"):
        yield _post(f"name {name}", f'{{"limit":1,"{name}":"v"}}'.encode(), READ)
    for kind in ("text/plain", "application/xml", "multipart/form-data; boundary=x", "application/json; charset=utf-16", ""):
        yield Case(f"type {kind}", b'{"limit":1}', {"content-type": kind}, "query", path=LOGS, expect=READ | {415})


def _cursors() -> Iterator[Case]:
    top = 2**63
    for value in (
        [0, 1, 1, 1], [0, 0, 0, 0], [0, top - 1, top - 1, 2**64 - 1], [0, top, 0, 0], [top, 0, 0, 0], [0, 0, 0, 2**64], [-1, 0, 0, 0], [1.5, 0, 0, 0], [0, 0, 0],
        [0, 0, 0, 0, 0], [None] * 4, [True] * 4, ["0"] * 4, [[0]] * 4, {}, {"a": 1}, "x", 1, None, [10**400, 0, 0, 0], [2, 1, 1, 1], "1 OR 1=1", [0, 1, "1; DROP", 0],
    ):  # fmt: skip
        yield _get(f"cursor {str(value)[:60]}", f"{LOGS}?limit=1&cursor={_cursor(value)}", READ)
    for text in ("====", "a", "a" * 1000, "a" * 1001, "%00", "W10", "WzBd", "W" * 999, base64.b64encode(b"[" * 700).decode()):
        yield _get(f"cursor {text[:20]}", f"{LOGS}?limit=1&cursor={quote(text)}", REFUSED)


def _words() -> Iterator[Case]:
    patterns = {
        "letters": " ".join("abcdefghij" * 50)[:1000], "numbers": " ".join(str(number) for number in range(260))[:1000], "one word": "a" * 1000, "too long": "a" * 1001,
        "the same": "a " * 500, "umlauts": "ü " * 500, "signs": "-" * 1000, "regex": "(a+)+$" * 100, "stars": "a*" * 500, "emoji": "😀 " * 300, "zero width": "\u200b" * 500,
        "marks": "a" + "\u0301" * 999, "nul": "a\x00" * 500, "percent": "%_" * 500, "64 words": " ".join(f"w{n}" for n in range(64)), "65 words": " ".join(f"w{n}" for n in range(65)),
        "underscores": "_a_" * 300, "one digit": "1", "superscript": "²", "roman": "Ⅷ", "arabic digit": "٣", "full width": "ａ", "letter of two": "ǅ", "sharp s": "ẞ", "dotted": "İ" * 1000,
    }  # fmt: skip
    for name, words in patterns.items():
        query = urlencode({"search": words, "start_time": "-6h", "limit": "10"})
        yield _get(f"words {name}", f"{LOGS}?{query}", READ | {422})
        yield _get(f"words {name} counted", f"{LOGS}/aggregate?{urlencode({'search': words, 'start_time': '-6h'})}", READ | {422})
        export = urlencode({"search": words, "format": "ndjson", "service": "nobody"})
        yield _get(f"words {name} exported", f"{EXPORT}?{export}", READ | {422}, function="export")
    for number in range(40):
        path = f"{EXPORT}?start_time=1970-01-01&end_time=2262-01-01&format=json"
        yield _get(f"export {number} of 40", path, OK | {503}, function="export")
