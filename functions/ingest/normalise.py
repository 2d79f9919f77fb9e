"""Records to rows: validate, name levels, fix the timestamp, give identity. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import msgspec

from functions.common import identity, timestamps
from functions.common.errors import TooLarge
from functions.common.event import MAX_DATA_BYTES, MAX_LOGS
from functions.common.record import LEVEL_ALIASES, Incoming, Record, encode
from functions.ingest.records import Numbered, Rejected

MAX_SERVICE_BYTES = 255
MAX_TRACE_BYTES = 128
MAX_METADATA = 1000
MAX_ERRORS = 100
"""Bad records that an answer names; all are counted."""


class LineError(msgspec.Struct):
    """A rejected record as the answer names it: its line, or its place in the array."""

    line: int
    field: str | None
    error: str


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of a request's records, known as `batch`; `errors` holds the first `max_errors` rejected ones.

    `reasons` counts the rejected by the field at fault.
    """

    batch: str = ""
    accepted: int = 0
    rejected: int = 0
    errors: list[LineError] = dataclasses.field(default_factory=list)
    max_errors: int = MAX_ERRORS
    reasons: dict[str, int] = dataclasses.field(default_factory=dict)


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
        for number, record in records:
            try:
                row = self._row(record, base, number)
            except Rejected as rejected:
                outcome.rejected += 1
                reason = rejected.field or "record"
                outcome.reasons[reason] = outcome.reasons.get(reason, 0) + 1
                if len(outcome.errors) < outcome.max_errors:
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

    def _row(self, record: Incoming | Rejected, base: int, number: int) -> bytes:
        if number >= identity.MAX_RECORDS:
            raise TooLarge(f"the request has more than {identity.MAX_RECORDS - 1} records")
        if isinstance(record, Rejected):
            raise Rejected(record.field, str(record))  # a new one: raised itself, it would keep this frame alive
        metadata = record.metadata
        given = str(record.level)
        level = LEVEL_ALIASES.get(given) or LEVEL_ALIASES.get(given.lower())
        if level is None:
            # Not lost: an unknown level is kept as metadata.
            level, metadata = "INFO", {"level": given, **metadata}
        self._check(record)
        dedupe = base + number
        if record.id:
            dedupe, metadata = identity.of_id(self.tenant, record.id), {"id": record.id, **metadata}
        row = encode(
            Record(
                self.tenant,
                str(self._timestamp(record)).zfill(19),
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
        # A character has at most four bytes: most texts need not be encoded to be measured.
        if len(record.message) > self.max_message // 4:
            _limit("message", record.message, self.max_message)
        if len(record.service) > MAX_SERVICE_BYTES // 4:
            _limit("service", record.service, MAX_SERVICE_BYTES)
        if len(record.trace_id) > MAX_TRACE_BYTES // 4 or len(record.span_id) > MAX_TRACE_BYTES // 4:
            _limit("trace_id", record.trace_id, MAX_TRACE_BYTES)
            _limit("span_id", record.span_id, MAX_TRACE_BYTES)
        if len(record.metadata) > MAX_METADATA:
            raise Rejected("metadata", f"{len(record.metadata)} entries; the limit is {MAX_METADATA}")


def _limit(field: str, text: str, limit: int) -> None:
    if (size := len(text.encode())) > limit:
        raise Rejected(field, f"{size} bytes; the limit is {limit}")
