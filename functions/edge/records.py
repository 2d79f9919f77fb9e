"""Lines to records, records to batches. Pure, but for the clock.

A line that is a JSON object (RFC 8259) is read as a record under the names that common loggers use; any other is the
message. Nothing of a line is lost: bytes that are not UTF-8 stay readable as `\\xNN`, and what a record has no place
for becomes metadata.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from functions.common import timestamps
from functions.common.record import LEVEL_ALIASES, Incoming, encode
from functions.edge import window
from functions.edge.lines import Line

T = TypeVar("T")
Fields = dict[str, msgspec.Raw]

MAX_BATCH_LINES, MAX_BATCH_BYTES = 10_000, 4 * 1024 * 1024
"""A batch is full with so many records, or so many bytes of them: well below what ingest takes as one request."""
MAX_SERVICE_BYTES = 255
TIMES = ("timestamp", "@timestamp", "time", "ts")
MESSAGES = ("message", "msg", "log")
LEVELS = ("level", "severity", "lvl")

_RETENTION = 30 * timestamps.DAY
_MAX_TRACE_BYTES = 128
_MAX_FIELDS = 990

_fields = msgspec.json.Decoder(Fields).decode
_text = msgspec.json.Decoder(str).decode
_scalar = msgspec.json.Decoder(str | int | float).decode


@dataclasses.dataclass(slots=True)
class Batch:
    """Records as JSON, to be stored together with the positions up to which they were read."""

    records: list[bytes] = dataclasses.field(default_factory=list)
    size: int = 0
    positions: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, record: bytes) -> None:
        """One record more."""
        self.records.append(record)
        self.size += len(record)

    @property
    def full(self) -> bool:
        """Whether it should not grow."""
        return len(self.records) >= MAX_BATCH_LINES or self.size >= MAX_BATCH_BYTES

    @property
    def body(self) -> bytes:
        """The records as JSON lines."""
        return b"\n".join(self.records)


class Records:
    """Makes records of lines.

    Lines get the time at which they were read. It never repeats, so that a search shows them in the order of reading.
    """

    def __init__(self, service: str, level: str, host: str, clock: Callable[[], int] = time.time_ns) -> None:
        self._service = service
        self._level = level
        self._host = host
        self._clock = clock
        self._last = 0

    def add(self, batch: Batch, line: Line, file: str = "") -> None:
        """Add the record of a line, of a file if one is named; a line of nothing but white space makes none."""
        if not line.piece and not line.data.strip():
            return
        self._last = now = max(self._clock(), self._last + 1)
        record = self._structured(line, now) or self._plain(line, now)
        origin = {"host": self._host, "file": file} if file else {"host": self._host}
        # What the line says itself goes first.
        record.metadata = origin | record.metadata
        batch.add(encode(record))

    def _plain(self, line: Line, now: int) -> Incoming:
        metadata: dict[str, str] = {}
        if line.piece:
            metadata["piece"] = str(line.piece)
            if line.last:
                metadata["pieces"] = str(line.piece)
        data = line.data.removesuffix(b"\r") if line.last else line.data
        return Incoming(self._service, data.decode(errors="backslashreplace"), now, self._level, metadata)

    def _structured(self, line: Line, now: int) -> Incoming | None:
        """The record that a JSON object is, or None if the line is none or ingest would not take it as one."""
        if line.piece or not line.data.lstrip().startswith(b"{"):
            return None
        try:
            fields = _present(line.data)
            moment = _pick(fields, TIMES, lambda raw: _moment(raw, now))
            record = Incoming(
                _pick(fields, ("service",), lambda raw: _short(raw, MAX_SERVICE_BYTES)) or self._service,
                _pick(fields, MESSAGES, _as_text) or "",
                now if moment is None else moment,
                _pick(fields, LEVELS, _level) or self._level,
                trace_id=_pick(fields, ("trace_id",), lambda raw: _short(raw, _MAX_TRACE_BYTES)) or "",
                span_id=_pick(fields, ("span_id",), lambda raw: _short(raw, _MAX_TRACE_BYTES)) or "",
            )
            nested = _pick(fields, ("metadata",), lambda raw: _nested(raw, fields))
            # An `id` is metadata, too: as the identity of the log it would make one of two lines that share it.
            record.metadata = {name: _as_text(raw) for name, raw in (fields | (nested or {})).items()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return record if len(record.metadata) <= _MAX_FIELDS else None


def _present(raw: bytes | msgspec.Raw) -> Fields:
    return {name: value for name, value in _fields(raw).items() if bytes(value) != b"null"}


def _pick(fields: Fields, names: tuple[str, ...], read: Callable[[msgspec.Raw], T | None]) -> T | None:
    """Take the first of the fields that can be read; those that cannot stay where they are."""
    for name in names:
        if name in fields and (value := read(fields[name])) is not None:
            del fields[name]
            return value
    return None


def _as_text(raw: msgspec.Raw) -> str:
    text = bytes(raw)
    return _text(text) if text.startswith(b'"') else text.decode()


def _short(raw: msgspec.Raw, limit: int) -> str | None:
    text = _as_text(raw)
    return text if text and bytes(raw).startswith(b'"') and len(text.encode()) <= limit else None


def _level(raw: msgspec.Raw) -> str | None:
    text = _as_text(raw)
    return text if text.lower() in LEVEL_ALIASES else None


def _moment(raw: msgspec.Raw, now: int) -> int | None:
    try:
        moment = timestamps.parse(_scalar(raw))
    except (ValueError, msgspec.ValidationError):
        return None
    return moment if window.holds(moment, now, _RETENTION) else None


def _nested(raw: msgspec.Raw, fields: Mapping[str, msgspec.Raw]) -> Fields | None:
    """The fields of an object of which none has the name of another of the record's."""
    if not bytes(raw).startswith(b"{"):
        return None
    nested = _present(raw)
    return None if nested.keys() & fields.keys() else nested
