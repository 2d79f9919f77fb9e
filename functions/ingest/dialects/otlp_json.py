"""OTLP's logs as JSON (OTLP 1.x, "JSON Protobuf Encoding"): ids are hexadecimal, 64-bit integers may be text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from functions.common.errors import BadRequest
from functions.common.record import LEVELS, Incoming
from functions.ingest.dialects.otlp_fields import ID, Surroundings, level, real
from functions.ingest.records import Numbered, Rejected, check_commas, check_size, note


class ArrayValue(msgspec.Struct, gc=False):
    """A list of values."""

    values: list[AnyValue] | None = None


class KeyValueList(msgspec.Struct, gc=False):
    """Named values."""

    values: list[KeyValue] | None = None


class AnyValue(msgspec.Struct, rename="camel", gc=False):
    """A value of any kind: one of these, or none."""

    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    array_value: ArrayValue | None = None
    kvlist_value: KeyValueList | None = None
    bytes_value: str | None = None


class KeyValue(msgspec.Struct, gc=False):
    """An attribute."""

    key: str | None = None
    value: AnyValue | None = None


class LogRecord(msgspec.Struct, rename="camel", gc=False):
    """A log."""

    time_unix_nano: int | str | None = None
    observed_time_unix_nano: int | str | None = None
    severity_number: int | str | None = None
    severity_text: str | None = None
    body: AnyValue | None = None
    attributes: list[KeyValue] | None = None
    dropped_attributes_count: int | str | None = None
    flags: int | str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    event_name: str | None = None


class Scope(msgspec.Struct, gc=False):
    """What in the program wrote the logs."""

    name: str | None = None
    version: str | None = None
    attributes: list[KeyValue] | None = None


class ScopeLogs(msgspec.Struct, rename="camel", gc=False):
    """The logs of a scope, each still as its JSON: a broken one does not take the others with it."""

    scope: Scope | None = None
    log_records: list[msgspec.Raw] | None = None


class Resource(msgspec.Struct, gc=False):
    """What runs the program."""

    attributes: list[KeyValue] | None = None


class ResourceLogs(msgspec.Struct, rename="camel", gc=False):
    """The logs of a resource."""

    resource: Resource | None = None
    scope_logs: list[ScopeLogs] | None = None


class Request(msgspec.Struct, rename="camel", gc=False):
    """An ExportLogsServiceRequest."""

    resource_logs: list[ResourceLogs] | msgspec.UnsetType | None = msgspec.UNSET


_request = msgspec.json.Decoder(Request).decode
_log = msgspec.json.Decoder(LogRecord).decode
_SEVERITIES = {
    f"SEVERITY_NUMBER_{name}{step if step > 1 else ''}": 4 * place + step
    for place, name in enumerate(LEVELS)
    for step in range(1, 5)
}
_SEVERITIES["SEVERITY_NUMBER_UNSPECIFIED"] = 0


def records(body: bytes) -> Numbered:
    """The log records of an ExportLogsServiceRequest. Raises BadRequest if it is none, TooLarge for too many items."""
    check_commas(body)
    try:
        request = _request(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not an ExportLogsServiceRequest in JSON: {error}") from None
    if request.resource_logs is msgspec.UNSET and len(body.strip()) > len("{}"):
        # What is no request at all must not be told that it was taken.
        raise BadRequest("there are no resourceLogs in the request; records of Torpor's own go to /api/v1/ingest")
    return enumerate(_records(request), 1)


def _records(request: Request) -> Iterator[Incoming | Rejected]:
    for resource_logs in request.resource_logs or ():
        resource = _shared(resource_logs.resource)
        for scope_logs in resource_logs.scope_logs or ():
            scope = scope_logs.scope or Scope()
            surroundings = Surroundings(resource, scope.name or "", scope.version or "", _shared(scope))
            for raw in scope_logs.log_records or ():
                yield _read(raw, surroundings)


def _shared(owner: Resource | Scope | None) -> dict[str, str]:
    try:
        return _attributes(owner.attributes if owner else None)
    except RecursionError:
        raise BadRequest("an attribute of a resource or a scope is nested too deeply") from None


def _read(raw: msgspec.Raw, surroundings: Surroundings) -> Incoming | Rejected:
    try:
        check_size(raw)
        return _record(_log(raw), surroundings)
    except Rejected as rejected:
        return rejected
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejected(None, f"not a LogRecord: {error}")


def _record(record: LogRecord, surroundings: Surroundings) -> Incoming:
    own = _attributes(record.attributes)
    severity = level(_severity(record.severity_number, own), record.severity_text or "", own)
    uid = own.pop(ID, "")
    if record.event_name:
        note(own, "event_name", record.event_name)
    if flags := _whole("flags", record.flags) & 0xFF:
        note(own, "trace_flags", f"{flags:02x}")
    if dropped := _whole("dropped_attributes_count", record.dropped_attributes_count):
        note(own, "dropped_attributes_count", str(dropped))
    return Incoming(
        surroundings.service,
        _text(record.body),
        _whole("timestamp", record.time_unix_nano) or _whole("timestamp", record.observed_time_unix_nano) or None,
        severity,
        surroundings.around(own),
        _hexadecimal(record.trace_id),
        _hexadecimal(record.span_id),
        uid,
    )


def _whole(field: str, value: int | str | None) -> int:
    if isinstance(value, str):
        number = _integer(value)
        if isinstance(number, str):
            raise Rejected(field, f"{number[:32]!r} is not a whole number")
        return number
    return value or 0


def _severity(value: int | str | None, metadata: dict[str, str]) -> int:
    if isinstance(value, str):
        # The specification wants the number. Some send protobuf's name for it, or the number as text.
        number = _SEVERITIES.get(value, _integer(value))
        if isinstance(number, int):
            return number
        note(metadata, "severity_number", number)
        return 0
    return value or 0


def _hexadecimal(text: str | None) -> str:
    return text.lower() if text and text.strip("0") else ""


def _attributes(attributes: Iterable[KeyValue] | None) -> dict[str, str]:
    return {pair.key or "": _text(pair.value) for pair in attributes or ()}


def _text(value: AnyValue | None) -> str:
    if value is None:
        return ""
    if value.string_value is not None:
        return value.string_value
    plain = _plain(value)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()


def _plain(value: AnyValue | None) -> Any:
    if value is None:
        return ""
    if value.array_value is not None:
        return [_plain(item) for item in value.array_value.values or ()]
    if value.kvlist_value is not None:
        return {pair.key or "": _plain(pair.value) for pair in value.kvlist_value.values or ()}
    if value.int_value is not None:
        return _integer(value.int_value) if isinstance(value.int_value, str) else value.int_value
    if value.double_value is not None:
        return _real(value.double_value)
    given = (value.string_value, value.bool_value, value.bytes_value)
    return next((plain for plain in given if plain is not None), "")


def _real(value: float | str) -> float | str:
    try:
        return real(float(value))
    except ValueError:
        return value


def _integer(text: str) -> int | str:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdecimal() and len(digits) <= 20 else text
