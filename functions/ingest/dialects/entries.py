"""Torpor's gRPC messages (schema/log.proto) to records. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from google.protobuf.message import DecodeError

from functions.common.errors import BadRequest
from functions.common.record import Incoming
from functions.ingest.dialects import wire
from functions.ingest.dialects.json_records import texts
from functions.ingest.proto.log_pb2 import LogBatch, LogEntry
from functions.ingest.records import Numbered, Rejected


def entry(data: bytes) -> LogEntry | Rejected:
    """A LogEntry, or why the bytes are none."""
    try:
        return LogEntry.FromString(data)
    except DecodeError:
        return Rejected(None, "the message is not a LogEntry")


def batch(data: bytes) -> Sequence[LogEntry | bytes]:
    """The entries of a LogBatch, or their bytes. Raises BadRequest if it is none, TooLarge for more than allowed."""
    if len(data) <= wire.SMALL:
        with contextlib.suppress(DecodeError):  # then one by one: a broken entry does not take the others with it
            return LogBatch.FromString(data).logs
    try:
        return wire.split(data)[0]
    except DecodeError:
        raise BadRequest("the message is not a LogBatch") from None


def records(entries: Iterable[LogEntry | bytes], first: int = 1) -> Numbered:
    """The records of entries, parsed one at a time and numbered from `first` on."""
    return enumerate(_records(entries), first)


def _records(entries: Iterable[LogEntry | bytes]) -> Iterator[Incoming | Rejected]:
    for data in entries:
        given = entry(data) if isinstance(data, bytes) else data
        if isinstance(given, Rejected):
            yield given
            continue
        try:
            metadata = texts(text) if (text := given.metadata) else {}
        except (msgspec.DecodeError, RecursionError):
            yield Rejected("metadata", "not a JSON object")
            continue
        yield Incoming(
            given.service,
            given.message,
            given.timestamp or None,
            given.level or "INFO",
            metadata,
            given.trace_id,
            given.span_id,
            given.id,
        )
