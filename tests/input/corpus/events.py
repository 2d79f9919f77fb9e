"""Odd CloudEvents: to ingest, which takes them for logs, and to index, which takes ingest's alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.input import model
from tests.input.case import OK, REFUSED, Case, Log
from tests.input.corpus import clock
from tests.input.corpus.documents import documents

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
GONE = object()


def _event(**changes: Any) -> dict[str, Any]:
    event = {"specversion": "1.0", "id": "e", "source": "/events", "type": "t", "time": clock.recent()[0], "data": "text"}
    return {name: value for name, value in (event | changes).items() if value is not GONE}


def _log(event: dict[str, Any]) -> list[Log]:
    texts = {name: value for name, value in event.items() if isinstance(value, str) and name not in ("data", "data_base64")}
    data = event.get("data")
    moment = clock.nanoseconds(event["time"])
    log = model.event(texts, json.dumps(data) if data is not None else None, moment)
    return [log] if log else []


def _structured(name: str, body: bytes, expect: frozenset[int], logs: list[Log]) -> Case:
    return Case(name, body, {"content-type": STRUCTURED}, path="/", expect=expect, logs=logs)


def to_ingest() -> list[Case]:
    """Events with attributes missing, empty, of wrong types, large, many; data twice; batches of none and many."""
    return [*_attributes(), *_data(), *_batches(), *_binary()]


def _attributes() -> Iterator[Case]:
    for name in ("specversion", "id", "source", "type", "time"):
        for value in (GONE, "", None, 1, True, [], {}, ["x"], "\u0000" if name == "time" else GONE):
            label = "absent" if value is GONE else json.dumps(value)
            yield _structured(f"{name} {label}", json.dumps(_event(**{name: value})).encode(), REFUSED, [])
    for version in ("0.1", "0.2", "0.3", "1", "1.0.0", "1.1", "2.0", " 1.0", "१.०"):
        yield _structured(f"specversion {version}", json.dumps(_event(specversion=version)).encode(), REFUSED, [])
    large = {"attribute": "a" * 65536, "subject": "s" * 65537, "id": "i" * 65536}
    for name, value in large.items():
        event = _event(**{name: value})
        yield _structured(f"{name} of 64 KiB", json.dumps(event).encode(), OK, _log(event))
    yield _structured("source of 64 KiB", json.dumps(_event(source="s" * 65536)).encode(), REFUSED, [])
    names = ("UPPER", "with-hyphen", "with.dot", "with space", "é", "", "a" * 21, "a" * 5000, "data_", "$ref", "1", "\u0000")
    for number, name in enumerate(names):
        event = _event(id=f"name-{number}", **{name: "value"})
        yield _structured(f"attribute named {name[:30]!r}", json.dumps(event).encode(), OK, _log(event))
    for count, taken in ((900, True), (1001, False), (100_000, False)):
        event = _event(id=f"many-{count}", **{f"a{number}": "v" for number in range(count)})
        yield _structured(f"{count} attributes", json.dumps(event).encode(), OK if taken else REFUSED, _log(event) if taken else [])
    for body in (b"", b"null", b"[]", b"{}", b"1", b'"x"', b"x", b"\xff", b'{"specversion":"1.0"', b"[{}]"):
        yield _structured(f"event {body!r}", body, REFUSED, [])


def _data() -> Iterator[Case]:
    both = _event(data_base64=model.packed(b"x"))
    yield _structured("data and data_base64", json.dumps(both).encode(), REFUSED, [])
    for packed in ("!", "a", "====", model.packed(b"\xff"), 1, [], {}, True, "eA==\n", "e A="):
        event = _event(data=GONE, data_base64=packed)
        yield _structured(f"data_base64 {packed!r}", json.dumps(event).encode(), REFUSED, [])
    text = "é\n\x00"
    event = _event(id="packed", data=text)
    body = _event(id="packed", time=event["time"], data=GONE, data_base64=model.packed(text.encode()))
    yield _structured("data_base64", json.dumps(body).encode(), OK, _log(event))
    for number, data in enumerate(
        (None, "", 0, False, [], {}, {"message": None}, {"message": ""}, {"message": "m", "service": "own"}, {"message": [1]},
         {"message": "m", "metadata": {"k": "v"}}, {"message": "m", "level": "error"}, {"message": "m", "id": "mine"},
         {"message": "m", "timestamp": 1}, {"message": "m", "trace_id": "t"}, {"Message": "m"}, {"message": "m", "service": None})
    ):  # fmt: skip
        event = _event(id=f"data-{number}", data=data)
        yield _structured(f"data {data!r}", json.dumps(event).encode(), OK, _log(event))
    for data in ({"message": "m", "service": 1}, {"message": "m", "service": ""}, {"message": "m", "metadata": []},
                 {"message": "m", "metadata": "x"}, {"message": "m", "trace_id": 1}, {"message": "x" * 300_000}):  # fmt: skip
        yield _structured(f"refused data {str(data)[:60]}", json.dumps(_event(data=data)).encode(), REFUSED, [])


def _batches() -> Iterator[Case]:
    kind = {"content-type": BATCH}
    for body in (b"[]", b"", b"{}", b"[1]", b"[null]", b"[[]]", b"[{}]", b"[", json.dumps(_event()).encode()):
        yield Case(f"batch {body[:20]!r}", body, kind, path="/", expect=REFUSED)
    one_bad = json.dumps([_event(id="b1"), _event(id="")]).encode()
    yield Case("batch with a bad one", one_bad, kind, path="/", expect=REFUSED)
    many = [_event(id=f"many-{number}", data=number) for number in range(10_000)]
    logs = [Log(**{**vars(log), "line": number}) for number, event in enumerate(many, 1) for log in _log(event)]
    yield Case("batch of 10,000", json.dumps(many).encode(), kind, path="/", expect=OK, logs=logs)


def _binary() -> Iterator[Case]:
    def case(name: str, expect: frozenset[int], logs: list[Log], body: bytes = b"text", kind: str = "text/plain", **own: Any) -> Case:
        event = _event(id=f"binary {name}", data=GONE) | own
        headers = {f"ce-{key}": value for key, value in event.items() if value is not GONE}
        made = logs or (_log(_event(**event) | {"data": body.decode()}) if expect == OK else [])
        return Case(f"binary {name}", body, {**headers, "content-type": kind}, path="/", expect=expect, logs=made)

    yield case("text", OK, [])
    for kind in ("text/html", "application/xml", "application/octet-stream", "image/png", "x/y"):
        yield case(kind, OK, [], kind=kind)
    yield case("no UTF-8", REFUSED, [], body=b"\xff")
    yield case("broken JSON", REFUSED, [], body=b"{", kind="application/json")
    yield case("JSON of a type of its own", REFUSED, [], body=b"{", kind="application/x+json")
    yield case("lines", REFUSED, [], body=b"1\n2", kind="application/json")
    yield case("no id", REFUSED, [], id=GONE)
    yield case("an empty id", REFUSED, [], id="")
    yield case("no time", REFUSED, [], time=GONE)
    yield case("no source", REFUSED, [], source=GONE)
    yield case("version 0.3", REFUSED, [], specversion="0.3")
    for value in ("%", "%2", "%zz", "%u0041", "a%", "%25", "%2525", "%00", "%0a", "%C3%A9", "%c3%a9", "%F0%9F%98%80", '"a"', "a+b"):
        yield _encoded(value)
    for value in ("%ff", "%c3", "%ed%a0%80", "%c0%80", "caf%e9"):  # no UTF-8 when it is decoded: it cannot be kept
        yield case(f"encoded {value}", REFUSED, [], subject=value)
        yield case(f"id encoded {value}", REFUSED, [], id=value)


def _encoded(value: str) -> Case:
    from urllib.parse import unquote

    event = _event(id=f"encoded {value}", data="text")
    headers = {f"ce-{key}": item.replace("%", "%25") for key, item in event.items() if key != "data"}
    headers |= {"ce-subject": value, "content-type": "text/plain"}
    decoded = value.replace('"', "") if value.startswith('"') else unquote(value)
    logs = _log(event | {"subject": decoded})
    return Case(f"binary encoded {value}", b"text", headers, path="/", expect=OK, logs=logs)


STORED, NOT_OURS = frozenset({204}), frozenset({422})
_TYPE = "io.torpor.logs.batch.v1"


def _headers(number: int, **changes: Any) -> dict[str, str]:
    event = {"specversion": "1.0", "id": f"index-{number}", "source": "/torpor/ingest", "type": _TYPE, "tenant": "default"}
    kept = {f"ce-{name}": value for name, value in (event | changes).items() if value is not GONE}
    return {**kept, "content-type": "application/x-ndjson"}


def _row(number: int, message: str = "", **changes: Any) -> tuple[bytes, Log]:
    text, moment = clock.recent()
    row: dict[str, Any] = {"tenant": "default", "timestamp": f"{moment:019d}", "service": "index", "level": "INFO", "message": message}
    row |= {"metadata": {"n": str(number)}, "trace_id": "", "span_id": "", "dedupe": number, **changes}
    return json.dumps(row).encode(), Log("index", message, metadata=(("n", str(number)),), time=moment)


def to_index() -> list[Case]:
    """Events that are not ingest's, and events of it with lines that are no rows: the good ones are stored."""
    return [*_foreign(), *_lines()]


def _foreign() -> Iterator[Case]:
    row, _ = _row(1)
    number = 0
    for name, values in {
        "specversion": (GONE, "", "0.3", "2.0", "1", "1.0.0"),
        "type": (GONE, "", "other", "io.torpor.logs.batch.v2", "a" * 10_000, "%69o.torpor.logs.batch.v1", "IO.TORPOR.LOGS.BATCH.V1"),
        "id": (GONE, ""),
        "source": (GONE, ""),
        "tenant": (GONE, ""),
    }.items():
        for value in values:
            number += 1
            headers = _headers(number, **{name: value})
            label = "absent" if value is GONE else str(value)[:30]
            yield Case(f"index {name} {label!r}", row, headers, "index", path="/", expect=NOT_OURS)
    yield Case("index structured", b"{}", {"content-type": STRUCTURED}, "index", path="/", expect=NOT_OURS)
    yield Case("index batch", b"[]", {"content-type": BATCH}, "index", path="/", expect=NOT_OURS)
    yield Case("index nothing", b"", {}, "index", path="/", expect=NOT_OURS)
    yield Case("index 2 MiB and more", b"x" * 2_097_153, _headers(99), "index", path="/", expect=frozenset({413}))


def _lines() -> Iterator[Case]:
    number = 1000
    for name, _, document in documents():
        number += 2
        first, log = _row(number, f"before {name}")
        last, other = _row(number + 1, f"after {name}")
        body = b"\n".join([first, document.replace(b"\n", b" "), last])
        if document.strip() in (b"{}", b"[]", b"[{}]") or document.strip().startswith(b"[") or b'"a"' in document:
            continue  # ClickHouse reads objects that lack columns, and arrays of rows: ingest never writes them
        yield Case(f"index line {name}", body, _headers(number), "index", path="/", expect=STORED, logs=[log, other])
    wrong: dict[str, Any] = {"timestamp": "x", "metadata": "x", "dedupe": "x", "unknown": 1, "trace_id": {"a": "\ud800"}}
    for field, value in wrong.items():
        number += 2
        first, log = _row(number, f"good beside {field}")
        body = first + b"\n" + _row(number + 1, "bad", **{field: value})[0]
        yield Case(f"index wrong {field}", body, _headers(number), "index", path="/", expect=STORED, logs=[log])
    for label, value in (("line feed", "%0A"), ("escape", "%1B%5B2J"), ("DEL", "%7F"), ("C1", "%C2%9B"), ("no UTF-8", "%FF"), ("long", "i" * 5000)):
        number += 1
        yield Case(f"index id with {label}", b"bad line", _headers(number, id=value), "index", path="/", expect=STORED)
    number += 1
    yield Case("index reason with controls", b'{"\\u009b\\u007f":1}', _headers(number), "index", path="/", expect=STORED)
    rows = [_row(100_000 + place) for place in range(5000)]
    body = b"\n".join([*(row for row, _ in rows[:2500]), b"bad", *(row for row, _ in rows[2500:])])
    yield Case("index one bad in 5000", body, _headers(5), "index", path="/", expect=STORED, logs=[log for _, log in rows])
    for name in ("gzip", "br", "x"):
        number += 1
        headers = _headers(number) | {"content-encoding": name}
        yield Case(f"index encoded {name}", b"\x1f\x8b\x08", headers, "index", path="/", expect=STORED)
