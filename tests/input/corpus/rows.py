"""Events to index: others than ingest's, and events of ingest with lines that are no rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.input.case import Case, Log
from tests.input.corpus import clock
from tests.input.corpus.documents import documents
from tests.input.corpus.events import BATCH, GONE, STRUCTURED

STORED, NOT_OURS = frozenset({204}), frozenset({422})
_TYPE = "io.torpor.logs.batch.v1"


def _headers(number: int, **changes: Any) -> dict[str, str]:
    event = {
        "specversion": "1.0",
        "id": f"index-{number}",
        "source": "/torpor/ingest",
        "type": _TYPE,
        "tenant": "default",
    }
    kept = {f"ce-{name}": value for name, value in (event | changes).items() if value is not GONE}
    return {**kept, "content-type": "application/x-ndjson"}


def _row(number: int, message: str = "", **changes: Any) -> tuple[bytes, Log]:
    _, moment = clock.recent()
    row: dict[str, Any] = {
        "tenant": "default",
        "timestamp": f"{moment:019d}",
        "service": "index",
        "level": "INFO",
        "message": message,
    }
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
        "type": (
            GONE,
            "",
            "other",
            "io.torpor.logs.batch.v2",
            "a" * 10_000,
            "%69o.torpor.logs.batch.v1",
            "IO.TORPOR.LOGS.BATCH.V1",
        ),
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
    wrong: dict[str, Any] = {
        "timestamp": "x",
        "metadata": "x",
        "dedupe": "x",
        "unknown": 1,
        "trace_id": {"a": "\ud800"},
    }
    for field, value in wrong.items():
        number += 2
        first, log = _row(number, f"good beside {field}")
        body = first + b"\n" + _row(number + 1, "bad", **{field: value})[0]
        yield Case(f"index wrong {field}", body, _headers(number), "index", path="/", expect=STORED, logs=[log])
    for label, value in (
        ("line feed", "%0A"),
        ("escape", "%1B%5B2J"),
        ("DEL", "%7F"),
        ("C1", "%C2%9B"),
        ("no UTF-8", "%FF"),
        ("long", "i" * 5000),
    ):
        number += 1
        yield Case(f"index id with {label}", b"bad line", _headers(number, id=value), "index", path="/", expect=STORED)
    number += 1
    yield Case(
        "index reason with controls", b'{"\\u009b\\u007f":1}', _headers(number), "index", path="/", expect=STORED
    )
    rows = [_row(100_000 + place) for place in range(5000)]
    body = b"\n".join([*(row for row, _ in rows[:2500]), b"bad", *(row for row, _ in rows[2500:])])
    yield Case(
        "index one bad in 5000", body, _headers(5), "index", path="/", expect=STORED, logs=[log for _, log in rows]
    )
    for name in ("gzip", "br", "x"):
        number += 1
        headers = _headers(number) | {"content-encoding": name}
        yield Case(f"index encoded {name}", b"\x1f\x8b\x08", headers, "index", path="/", expect=STORED)
