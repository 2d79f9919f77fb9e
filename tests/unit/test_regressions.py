"""Faults that were found once and must not come back. Each test says what was wrong."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from functions.common import timestamps
from functions.common.errors import BadRequest, BadRows
from functions.common.log import JsonFormatter
from functions.common.record import TABLE, Incoming
from functions.export.function import Config, Export
from functions.export.routes import ExportQuery
from functions.ingest.dialects import cloudevents
from tests.support.engine import fresh_database

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
