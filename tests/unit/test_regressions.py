"""Faults that were found once and must not come back. Each test says what was wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request

from functions.common import timestamps
from functions.common.errors import BadRequest, BadRows, TooLarge
from functions.common.log import JsonFormatter
from functions.common.record import TABLE, Incoming
from functions.export.function import Config, Export
from functions.export.routes import ExportQuery
from functions.ingest import intake
from functions.ingest.dialects import cloudevents, json_records, loki_json, otlp_json, splunk_events, syslog
from functions.ingest.dialects.splunk_fields import Query
from functions.ingest.records import MAX_COMMAS, MAX_RECORD_BYTES, Numbered, Rejected
from tests.support.engine import fresh_database
from tests.support.memory import MemoryPublisher

EVENT = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/s",
    "ce-type": "t",
    "ce-time": "2026-01-31T12:00:00Z",
}


def subject(value: str) -> str:
    """The subject of an event with this header."""
    ((_, record),) = cloudevents.records({**EVENT, "ce-subject": value}, "text/plain", b"")
    assert isinstance(record, Incoming)
    return record.metadata["cloudevents.event_subject"]


@pytest.mark.parametrize("encoded", ["%FF", "caf%E9", "%C0%A0", "%ED%A0%80", "caf\xe9"])
def test_an_attribute_that_is_not_utf8_is_refused_and_not_changed_into_another(encoded: str) -> None:
    # Two ids became one and the same text of replacement characters, and so two logs became one.
    with pytest.raises(BadRequest):
        cloudevents.records({**EVENT, "ce-id": encoded}, "text/plain", b"")
    with pytest.raises(BadRequest):
        subject(encoded)


def test_a_header_in_quotes_loses_its_quotes_before_it_is_decoded() -> None:
    assert subject('"a \\"b\\" %C3%A9"') == 'a "b" é'
    assert subject('"') == '"'
    assert subject('"a" "b"') == '"a" "b"'


def test_a_header_in_raw_utf8_is_read_as_utf8() -> None:
    assert subject("é".encode().decode("latin-1")) == "é"


async def test_rows_that_are_not_utf8_are_bad_rows_and_not_an_engine_that_is_away() -> None:
    # The engine quotes them in its error, its client cannot decode that, and index said 503 to the event for ever.
    database = await fresh_database("regressions_rows")
    try:
        for rows in (b'"\xff"', b"\x1f\x8b\x08", b'{"\xc3":1}'):
            with pytest.raises(BadRows) as raised:
                await database.insert(TABLE, rows)
            assert raised.value.code in (27, 117)
    finally:
        await database.close()


def test_an_own_log_line_holds_no_character_that_a_terminal_obeys() -> None:
    text = "\x00\x1b[2J\x7f\x9b2J\x85\u2028\u202egnp.exe\u2069é"
    record = logging.LogRecord("torpor", logging.ERROR, __file__, 1, text, None, None)
    line = JsonFormatter().format(record)
    assert json.loads(line)["message"] == text
    assert line.isprintable() and "é" in line


async def test_a_page_of_an_export_stays_small_where_small_logs_are_followed_by_large_ones() -> None:
    # The number of rows followed from the logs before: 50,000 logs of 256 KiB would have been one page of 12 GB.
    now = timestamps.now()
    sizes = [10] * 1000 + [250_000] * 300
    lines = [_row(now - len(sizes) + number, number, size) for number, size in enumerate(sizes)]
    pages: list[int] = []
    store = await fresh_database("regressions_pages")
    try:
        for start in range(0, len(lines), 100):
            await store.insert(TABLE, b"\n".join(lines[start : start + 100]))
        select = store.select

        async def remember(*arguments: Any) -> bytes:
            pages.append(len(rows := await select(*arguments)))
            return rows

        store.select = remember  # type: ignore[assignment,method-assign]  # looks on
        _, file = await Export(Config(), store).export(ExportQuery(format="ndjson"))
        numbers = [json.loads(line)["metadata"]["n"] for line in b"".join([part async for part in file]).splitlines()]
    finally:
        await store.close()
    assert numbers == [str(number) for number in range(len(sizes))]
    assert len(pages) > 4 and max(pages) < 32 * 1024 * 1024


def _row(timestamp: int, number: int, size: int) -> bytes:
    row = {
        "tenant": "default",
        "timestamp": f"{timestamp:019d}",
        "service": "s",
        "level": "INFO",
        "message": "x" * size,
    }
    return json.dumps({**row, "metadata": {"n": str(number)}, "dedupe": number}).encode()


def _bodies() -> dict[str, tuple[Callable[[bytes], Numbered], bytes]]:
    """JSON of which each item became an object before the first was read: 20 MiB of them took up to 770 MB."""
    tiny = b"1," * (MAX_COMMAS + 1) + b"1"
    return {
        "json": (lambda body: json_records.records(body, "application/json"), b"[%b]" % tiny),
        "events": (lambda body: cloudevents.records({}, cloudevents.BATCHED, body), b"[%b]" % tiny),
        "otlp": (otlp_json.records, b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[%b]}]}]}' % tiny),
        "loki": (loki_json.records, b'{"streams":[{"stream":{},"values":[%b]}]}' % tiny),
    }


@pytest.mark.parametrize("name", ["json", "events", "otlp", "loki"])
def test_json_of_millions_of_tiny_items_is_too_large_before_it_is_parsed(name: str) -> None:
    read, body = _bodies()[name]
    with pytest.raises(TooLarge, match="commas"):
        read(body)


def test_a_record_as_large_as_no_row_is_rejected_before_it_is_parsed() -> None:
    # An object of 14 MiB of fields took 420 MB, and eight seconds in which nobody else was answered.
    large = b'{"service":"s","message":"%b"}' % (b"x" * MAX_RECORD_BYTES)
    record = json_records.read(large)
    assert isinstance(record, Rejected) and str(record) == f"{len(large)} bytes; the limit is {MAX_RECORD_BYTES}"
    with pytest.raises(BadRequest, match="event 1: 4000029 bytes"):
        cloudevents.records({}, cloudevents.STRUCTURED, b'{"specversion":"1.0","data":"' + b"x" * MAX_RECORD_BYTES)


def test_a_line_of_syslog_as_large_as_no_row_is_rejected_before_it_is_taken_apart() -> None:
    # 20 MiB of structured data without parameters took 1.2 GB.
    ((number, record), (_, after)) = syslog.new(_request()).records(b"<13>1 - h a - - " + b"[a]" * 400_000 + b"\nafter")
    assert number == 1 and isinstance(record, Rejected) and record.field == "message"
    assert isinstance(after, Incoming) and after.message == "after"


def test_a_text_full_of_ends_of_events_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    # It held the only thread for ten seconds.
    monkeypatch.setattr(splunk_events, "MAX_COMMAS", 1000)
    (one,) = splunk_events.events(b'{"event":"' + b"}{" * 1000 + b'"}', Query({}))
    assert isinstance(one, Incoming)
    with pytest.raises(TooLarge, match="might end"):
        list(splunk_events.events(b'{"event":"' + b"}{" * 1002 + b'"}', Query({})))


async def test_a_request_whose_rows_would_be_a_thousand_times_its_size_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What a resource, a query or a stream says each record has a copy of: a megabyte became 45 GB.
    monkeypatch.setattr(intake, "MAX_ROWS_BYTES", 5_000_000)
    publisher = MemoryPublisher()
    taking = intake.Intake(intake.Config(), publisher)
    await taking.start()
    records = enumerate((Incoming("s", "x" * 200_000) for _ in range(1000)), 1)
    with pytest.raises(TooLarge, match="5000000 bytes"):
        await taking.store(records, None)
    await taking.stop()
    assert not publisher.records


def _request() -> Request:
    return Request({"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []})
