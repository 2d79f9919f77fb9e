"""Odd CloudEvents to ingest, which takes them for logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from tests.input import model
from tests.input.case import OK, REFUSED, Case, Log
from tests.input.corpus import clock

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
GONE = object()


def _event(**changes: Any) -> dict[str, Any]:
    event = {
        "specversion": "1.0",
        "id": "e",
        "source": "/events",
        "type": "t",
        "time": clock.recent()[0],
        "data": "text",
    }
    return {name: value for name, value in (event | changes).items() if value is not GONE}


def _log(event: dict[str, Any]) -> list[Log]:
    texts = {
        name: value for name, value in event.items() if isinstance(value, str) and name not in ("data", "data_base64")
    }
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
    names = (
        "UPPER",
        "with-hyphen",
        "with.dot",
        "with space",
        "é",
        "",
        "a" * 21,
        "a" * 5000,
        "data_",
        "$ref",
        "1",
        "\u0000",
    )
    for number, name in enumerate(names):
        event = _event(id=f"name-{number}", **{name: "value"})
        yield _structured(f"attribute named {name[:30]!r}", json.dumps(event).encode(), OK, _log(event))
    for count, taken in ((900, True), (1001, False), (100_000, False)):
        event = _event(id=f"many-{count}", **{f"a{number}": "v" for number in range(count)})
        yield _structured(
            f"{count} attributes", json.dumps(event).encode(), OK if taken else REFUSED, _log(event) if taken else []
        )
    for body in (b"", b"null", b"[]", b"{}", b"1", b'"x"', b"x", b"\xff", b'{"specversion":"1.0"', b"[{}]"):
        yield _structured(f"event {body!r}", body, REFUSED, [])


def _data() -> Iterator[Case]:
    both = _event(data_base64=model.packed(b"x"))
    yield _structured("data and data_base64", json.dumps(both).encode(), REFUSED, [])
    for packed in _NO_BASE64:
        event = _event(data=GONE, data_base64=packed)
        yield _structured(f"data_base64 {packed!r}", json.dumps(event).encode(), REFUSED, [])
    text = "é\n\x00"
    event = _event(id="packed", data=text)
    body = _event(id="packed", time=event["time"], data=GONE, data_base64=model.packed(text.encode()))
    yield _structured("data_base64", json.dumps(body).encode(), OK, _log(event))
    for number, data in enumerate(_TAKEN):
        event = _event(id=f"data-{number}", data=data)
        yield _structured(f"data {data!r}", json.dumps(event).encode(), OK, _log(event))
    for data in _REFUSED:
        yield _structured(f"refused data {str(data)[:60]}", json.dumps(_event(data=data)).encode(), REFUSED, [])


_NO_BASE64: tuple[Any, ...] = ("!", "a", "====", model.packed(b"\xff"), 1, [], {}, True, "eA==\n", "e A=")
_TAKEN: tuple[Any, ...] = (
    None, "", 0, False, [], {}, {"message": None}, {"message": ""}, {"message": "m", "service": "own"},
    {"message": [1]}, {"message": "m", "metadata": {"k": "v"}}, {"message": "m", "level": "error"},
    {"message": "m", "id": "mine"}, {"message": "m", "timestamp": 1}, {"message": "m", "trace_id": "t"},
    {"Message": "m"}, {"message": "m", "service": None},
)  # fmt: skip
_REFUSED: tuple[Any, ...] = (
    {"message": "m", "service": 1}, {"message": "m", "service": ""}, {"message": "m", "metadata": []},
    {"message": "m", "metadata": "x"}, {"message": "m", "trace_id": 1}, {"message": "x" * 300_000},
)  # fmt: skip


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
    def case(
        name: str, expect: frozenset[int], logs: list[Log], body: bytes = b"text", kind: str = "text/plain", **own: Any
    ) -> Case:
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
    for value in (
        "%",
        "%2",
        "%zz",
        "%u0041",
        "a%",
        "%25",
        "%2525",
        "%00",
        "%0a",
        "%C3%A9",
        "%c3%a9",
        "%F0%9F%98%80",
        '"a"',
        "a+b",
    ):
        yield _encoded(value)
    for value in ("%ff", "%c3", "%ed%a0%80", "%c0%80", "caf%e9"):  # no UTF-8 when it is decoded: it cannot be kept
        yield case(f"encoded {value}", REFUSED, [], subject=value)
        yield case(f"id encoded {value}", REFUSED, [], id=value)


def _encoded(value: str) -> Case:
    event = _event(id=f"encoded {value}", data="text")
    headers = {f"ce-{key}": item.replace("%", "%25") for key, item in event.items() if key != "data"}
    headers |= {"ce-subject": value, "content-type": "text/plain"}
    decoded = value.replace('"', "") if value.startswith('"') else unquote(value)
    logs = _log(event | {"subject": decoded})
    return Case(f"binary encoded {value}", b"text", headers, path="/", expect=OK, logs=logs)
