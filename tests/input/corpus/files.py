"""Exported files of hostile texts: each format reads back as what was sent, and no cell of a CSV is a formula."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow.parquet
from backports import zstd

from tests.input import model
from tests.input.case import OK, Answer, Case, Check
from tests.input.corpus import clock

EXPORT = "/api/v1/logs/export?start_time=1970-01-01&end_time=2262-01-01"
_DANGER = ("=", "+", "-", "@", "\t", "\r", "\n")
FORMULAS = (
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "'=1", " =1", "=\"a\"", "=1;2",
    '"=1"', ",=1", "=1,=2", "a,b\n=1", "-", "=", "\ufeff=1", "\u00a0=1", "＝1", "=HYPERLINK(\"http://127.0.0.1\",\"x\")",
    '"', '""', '",=1', "a\"\n=1", "0-0000000000000000", '\n"1-0000000000000000",', "\x00=1",
)  # fmt: skip
Row = tuple[str, ...]


def formulas() -> list[Case]:
    """Cells that a spreadsheet would run, in every column, and texts that look like rows of a file."""
    cases = []
    for number, text in enumerate(FORMULAS):
        time, moment = clock.recent()
        records = [
            {
                "service": text,
                "message": text,
                "timestamp": time,
                "trace_id": text,
                "span_id": text,
                "metadata": {text: text},
            },
            {"service": "formulas", "message": text * 100},
            {"service": "formulas", "metadata": {"k": text}},
        ]
        lines = [json.dumps(record).encode() for record in records]
        case = model.of_lines(f"{number:02d}", lines)
        logs = [type(log)(**{**vars(log), "time": moment}) if log.line == 1 else log for log in case.logs]
        cases.append(Case(case.name, case.body, case.headers, expect=OK, logs=logs))
    return cases


class Files:
    """Compares each format with the lines of JSON, which the judge compares with what was sent."""

    def __init__(self) -> None:
        self._rows: list[Row] = []

    def cases(self) -> list[Case]:
        """All formats and compressions of everything that is stored; the lines come first."""
        readers: dict[str, Callable[[bytes], list[Row]]] = {
            "format=ndjson&compression=none": _ndjson,
            "format=ndjson&compression=gzip": lambda data: _ndjson(gzip.decompress(data)),
            "format=ndjson&compression=zstd": lambda data: _ndjson(zstd.decompress(data)),
            "format=json&compression=none": lambda data: [_row(row) for row in json.loads(data)],
            "format=json": lambda data: [_row(row) for row in json.loads(gzip.decompress(data))],
            "format=csv&compression=none&formulas=keep": _csv,
            "format=csv&formulas=keep": lambda data: _csv(gzip.decompress(data)),
            "format=parquet": _parquet,
        }
        cases = [self._case(name, self._same(read)) for name, read in readers.items()]
        return [
            *cases,
            self._case("format=csv&formulas=escape", self._harmless),
            self._case("format=csv", self._harmless),
        ]

    def _case(self, name: str, check: Check) -> Case:
        return Case(name, function="export", method="GET", path=f"{EXPORT}&{name}", expect=OK, check=check)

    def _same(self, read: Callable[[bytes], list[Row]]) -> Check:
        def check(answer: Answer) -> str | None:
            rows = read(answer.body)
            self._rows = self._rows or rows
            other = next(((left, right) for left, right in zip(rows, self._rows, strict=False) if left != right), None)
            if len(rows) != len(self._rows) or other:
                return f"{len(rows)} rows instead of {len(self._rows)}, first difference {str(other)[:500]}"
            return None

        return check

    def _harmless(self, answer: Answer) -> str | None:
        rows = _cells(gzip.decompress(answer.body))
        if len(rows) != len(self._rows):
            return f"{len(rows)} rows instead of {len(self._rows)}"
        for row, original in zip(rows, self._rows, strict=True):
            for cell, text in zip(row, original, strict=True):
                if cell.startswith(_DANGER):
                    return f"a formula: {cell[:100]!r}"
                expected = f"'{text}" if text.startswith(_DANGER) else text
                if cell != expected and json.loads(cell) != json.loads(text):
                    return f"{cell[:100]!r} instead of {expected[:100]!r}"
        return None


def _row(row: dict[str, Any]) -> Row:
    return tuple(json.dumps(value, sort_keys=True) if isinstance(value, dict) else value for value in row.values())


def _ndjson(data: bytes) -> list[Row]:
    return [_row(json.loads(line)) for line in data.splitlines()]


def _cells(data: bytes) -> list[list[str]]:
    csv.field_size_limit(1 << 30)
    return list(csv.reader(io.StringIO(data.decode(), newline="")))[1:]


def _csv(data: bytes) -> list[Row]:
    return [(*cells[:6], json.dumps(json.loads(cells[6]), sort_keys=True), *cells[7:]) for cells in _cells(data)]


def _parquet(data: bytes) -> list[Row]:
    table = pyarrow.parquet.read_table(io.BytesIO(data))
    times = table.column("timestamp").cast("int64").to_pylist()
    rows = table.drop_columns("timestamp").to_pylist()
    return [_parquet_row(row, moment) for row, moment in zip(rows, times, strict=True)]


def _parquet_row(row: dict[str, Any], moment: int) -> Row:
    time = f"{clock.text(moment // 10**9)[:-1]}.{moment % 10**9:09d}Z"
    metadata = json.dumps(dict(row["metadata"]), sort_keys=True)
    return (
        row["id"],
        time,
        *(row[name] for name in ("tenant", "service", "level", "message")),
        metadata,
        row["trace_id"],
        row["span_id"],
    )
