"""How the streams of a push request become records, whatever its encoding.

Source: Grafana Loki 3, pkg/validation/limits.go (discover_service_name), for the labels that name a service.

A label or structured metadata that lies in a column unchanged is not metadata; everything else is. Of two with one
name, structured metadata keeps it, and the label goes under label.NAME.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec

from functions.common.errors import BadRequest, TooLarge
from functions.common.identity import MAX_RECORDS
from functions.common.record import LEVEL_ALIASES, UNKNOWN_SERVICE, Incoming
from functions.ingest.normalise import MAX_METADATA
from functions.ingest.records import Rejected

MAX_LABEL_BYTES = 256 * 1024 * 1024
"""Bytes of labels in all records of a request: each gets a copy, so that a small body can grow very large."""

Texts = dict[str, str]
Entry = tuple[int, str, Texts]
"""Timestamp in nanoseconds, line, structured metadata."""

_SERVICE = (
    *("service_name", "service", "app", "application", "app_name", "name", "app_kubernetes_io_name", "container"),
    *("container_name", "k8s_container_name", "component", "workload", "job", "k8s_job_name"),
)
_SERVICE_METADATA = ("service_name", "service.name")
_LEVEL = ("level", "detected_level", "severity", "severity_text", "lvl")
_TRACE = ("trace_id", "traceID", "traceid")
_SPAN = ("span_id", "spanID", "spanid")

L = TypeVar("L", covariant=True)
E = TypeVar("E", covariant=True)


class Stream(Protocol[L, E]):
    """A stream as its encoding has it."""

    @property
    def labels(self) -> L:
        """What all entries have in common."""

    @property
    def entries(self) -> Sequence[E] | None:
        """A log each."""


class NoStreams(BadRequest):
    """A request without streams: Loki answers 422, and 204 if there are streams and only their entries are missing."""

    status = 422


def records(
    streams: Sequence[Stream[L, E]], read_labels: Callable[[L], Texts], read_entry: Callable[[E], Entry]
) -> Iterator[Incoming | Rejected]:
    """The entries of all streams. Both readers raise Rejected for what they cannot read."""
    if not streams:
        raise NoStreams("there are no streams in the request")
    if len(streams) >= MAX_RECORDS:
        raise TooLarge(f"the request has more than {MAX_RECORDS - 1} streams")
    copied = 0
    for stream in streams:
        if not (entries := stream.entries):
            continue
        try:
            labels = Labels(read_labels(stream.labels))
        except Rejected as rejected:
            yield from itertools.repeat(rejected, len(entries))
            continue
        copied += labels.size * len(entries)
        if copied > MAX_LABEL_BYTES:
            raise TooLarge(f"the labels of all entries together have more than {MAX_LABEL_BYTES} bytes")
        for entry in entries:
            try:
                yield labels.record(*read_entry(entry))
            except Rejected as rejected:
                yield rejected


class Labels:
    """What the entries of a stream share. Raises Rejected if a record cannot hold so many; `size` is in bytes."""

    def __init__(self, labels: Texts) -> None:
        if len(labels) > MAX_METADATA:
            raise Rejected("labels", f"{len(labels)} of them; the limit is {MAX_METADATA}")
        self.size = len(msgspec.json.encode(labels))
        self._labels = dict(labels)
        self._service = _taken(self._labels, _SERVICE)
        self._alone = self._columns({})

    def record(self, timestamp: int, line: str, given: Texts) -> Incoming:
        """The record of an entry with the structured metadata `given`."""
        service, level, metadata, trace_id, span_id = self._columns(given) if given else self._alone
        return Incoming(service, line, timestamp, level, metadata, trace_id, span_id)

    def _columns(self, given: Texts) -> tuple[str, str, Texts, str, str]:
        labels, metadata = dict(self._labels), dict(given)
        service = self._service or _taken(metadata, _SERVICE_METADATA) or UNKNOWN_SERVICE
        level = _level(metadata) or _level(labels) or "INFO"
        trace_id = _taken(metadata, _TRACE) or _taken(labels, _TRACE)
        span_id = _taken(metadata, _SPAN) or _taken(labels, _SPAN)
        for name, value in labels.items():
            if given.get(name) != value:
                while name in given or name in metadata:
                    name = f"label.{name}"
                metadata[name] = value
        return service, level, metadata, trace_id, span_id


def _taken(fields: Texts, names: tuple[str, ...]) -> str:
    for name in names:
        if fields.get(name):
            return fields.pop(name)
    return ""


def _level(fields: Texts) -> str:
    """The first level that is known. It stays in `fields` if the column says it in another word: WARN for warning."""
    for name in _LEVEL:
        if (text := fields.get(name)) and (level := LEVEL_ALIASES.get(text.lower())):
            if text.upper() == level:
                del fields[name]
            return level
    return ""


def nanoseconds(number: int) -> int:
    """The number, if it can be a time in nanoseconds. Raises Rejected, for the field timestamp."""
    # Further on, a number before 1973 would be taken for one of another unit.
    if number < 10**17:
        raise Rejected("timestamp", "not nanoseconds since 1970, or long ago")
    return number
