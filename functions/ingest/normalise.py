"""JSON records to rows: validate, name levels, fix the timestamp, give identity. Pure.

Most records take the short way, one strict decoding. A record with other fields, other types or nulls takes the long
way: nulls count as absent, a message or metadata that is not text becomes its JSON text, and fields that are not the
record's become metadata.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec

from functions.common import identity, timestamps
from functions.common.errors import TooLarge
from functions.common.event import MAX_DATA_BYTES, MAX_LOGS
from functions.common.record import LEVEL_ALIASES, Record, encode
from functions.ingest.decode import Numbered

MAX_SERVICE_BYTES = 255
MAX_TRACE_BYTES = 128
MAX_METADATA = 1000
MAX_ERRORS = 100
"""Bad records that an answer names; all are counted."""


class Incoming(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A record as clients send it."""

    service: str = ""
    message: str = ""
    timestamp: str | int | float | None = None
    level: str | int = "INFO"
    metadata: dict[str, str] = {}
    trace_id: str = ""
    span_id: str = ""
    id: str = ""


class Rejected(Exception):
    """A record that is not taken: the field at fault, or None for the whole, and what is wrong with it."""

    def __init__(self, field: str | None, error: str) -> None:
        super().__init__(error)
        self.field = field


class LineError(msgspec.Struct):
    """A rejected record as the answer names it: its line, or its place in the array."""

    line: int
    field: str | None
    error: str


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of a request's records."""

    accepted: int = 0
    rejected: int = 0
    errors: list[LineError] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Rows as JSON lines, few enough for one event."""

    data: bytes
    count: int


@dataclasses.dataclass(frozen=True)
class Normaliser:
    """Turns the records of one request into rows.

    `batch` is the request's identity; `repeatable` says that the client may send it again, so that each record must
    bring its timestamp. `now` and `retention` are in nanoseconds, `max_message` in bytes.
    """

    tenant: str
    batch: str
    repeatable: bool
    now: int
    retention: int
    max_message: int

    def chunks(self, records: Numbered, outcome: Outcome) -> Iterator[Chunk]:
        """Yield the rows of the good records and note all in `outcome`.

        Now and then a chunk without rows comes, so that the caller gets its turn among many bad records too.
        """
        base = identity.of_batch(self.tenant, self.batch)
        rows: list[bytes] = []
        size = 0
        for number, raw in records:
            try:
                row = self._row(raw, base, number)
            except Rejected as rejected:
                outcome.rejected += 1
                if len(outcome.errors) < MAX_ERRORS:
                    outcome.errors.append(LineError(number, rejected.field, str(rejected)))
                if outcome.rejected % MAX_LOGS == 0:
                    yield Chunk(b"", 0)
                continue
            if size + len(row) > MAX_DATA_BYTES or len(rows) == MAX_LOGS:
                outcome.accepted += len(rows)
                yield Chunk(b"\n".join(rows), len(rows))
                rows, size = [], 0
            rows.append(row)
            size += len(row) + 1
        if rows:
            outcome.accepted += len(rows)
            yield Chunk(b"\n".join(rows), len(rows))

    def _row(self, raw: bytes, base: int, number: int) -> bytes:
        if number >= identity.MAX_RECORDS:
            raise TooLarge(f"the request has more than {identity.MAX_RECORDS - 1} records")
        record = _read(raw)
        metadata = record.metadata
        level = LEVEL_ALIASES.get(record.level.lower()) if isinstance(record.level, str) else None
        if level is None:
            # Not lost: an unknown level is kept as metadata.
            level, metadata = "INFO", {"level": str(record.level), **metadata}
        self._check(record)
        dedupe = base + number
        if record.id:
            dedupe, metadata = identity.of_id(self.tenant, record.id), {"id": record.id, **metadata}
        row = encode(
            Record(
                self.tenant,
                f"{self._timestamp(record):019d}",
                record.service,
                level,
                record.message,
                metadata,
                record.trace_id,
                record.span_id,
                dedupe,
            )
        )
        if len(row) > MAX_DATA_BYTES:
            raise Rejected(None, f"the record has {len(row)} bytes as JSON; the limit is {MAX_DATA_BYTES}")
        return row

    def _timestamp(self, record: Incoming) -> int:
        if record.timestamp is None:
            if record.id or self.repeatable:
                raise Rejected(
                    "timestamp",
                    "missing: a record with an id, or under an Idempotency-Key, must bring its timestamp, "
                    "or it would be another log each time it is sent",
                )
            return self.now
        try:
            timestamp = timestamps.parse(record.timestamp)
        except ValueError as error:
            raise Rejected("timestamp", str(error)) from None
        if timestamp < self.now - self.retention:
            raise Rejected("timestamp", f"older than the {self.retention // timestamps.DAY} days that logs are kept")
        if timestamp > self.now + timestamps.DAY:
            raise Rejected("timestamp", "more than a day ahead")
        return timestamp

    def _check(self, record: Incoming) -> None:
        if not record.service:
            raise Rejected("service", "missing")
        _limit("service", record.service, MAX_SERVICE_BYTES)
        _limit("message", record.message, self.max_message)
        _limit("trace_id", record.trace_id, MAX_TRACE_BYTES)
        _limit("span_id", record.span_id, MAX_TRACE_BYTES)
        if len(record.metadata) > MAX_METADATA:
            raise Rejected("metadata", f"{len(record.metadata)} entries; the limit is {MAX_METADATA}")


def _limit(field: str, text: str, limit: int) -> None:
    # A character has at most four bytes: most texts need not be encoded to be measured.
    if len(text) * 4 > limit and (size := len(text.encode())) > limit:
        raise Rejected(field, f"{size} bytes; the limit is {limit}")


_strict = msgspec.json.Decoder(Incoming).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode
_number = msgspec.json.Decoder(int | float).decode


def _read(raw: bytes) -> Incoming:
    try:
        try:
            return _strict(raw)
        except msgspec.ValidationError:
            return _read_freely(_fields(raw))
    except msgspec.ValidationError:
        raise Rejected(None, "not a JSON object") from None
    except UnicodeDecodeError:
        raise Rejected(None, "not UTF-8") from None
    except msgspec.DecodeError as error:
        raise Rejected(None, f"not JSON: {error}") from None
    except RecursionError:
        raise Rejected(None, "not JSON: nested too deeply") from None


def _read_freely(fields: dict[str, msgspec.Raw]) -> Incoming:
    given = {name: raw for name, raw in fields.items() if bytes(raw) != b"null"}
    record = Incoming()
    for name in ("service", "trace_id", "span_id"):
        if name in given and not bytes(given[name]).startswith(b'"'):
            raise Rejected(name, "not text")
    for name in ("service", "message", "level", "trace_id", "span_id", "id"):
        if name in given:
            setattr(record, name, _as_text(given.pop(name)))
    if "timestamp" in given:
        record.timestamp = _as_time(given.pop("timestamp"))
    if "metadata" in given:
        try:
            metadata = _fields(given.pop("metadata"))
        except msgspec.ValidationError:
            raise Rejected("metadata", "not a JSON object") from None
        given = {**given, **metadata}
    record.metadata = {name: _as_text(raw) for name, raw in given.items() if bytes(raw) != b"null"}
    return record


def _as_text(raw: msgspec.Raw) -> str:
    text = bytes(raw)
    return _text(text) if text.startswith(b'"') else text.decode()


def _as_time(raw: msgspec.Raw) -> str | int | float:
    if bytes(raw).startswith(b'"'):
        return _text(raw)
    try:
        number: int | float = _number(raw)
        return number
    except msgspec.ValidationError:
        raise Rejected("timestamp", "neither text nor a number") from None
