"""What a record must become: the README said a second time, with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence

from tests.input.case import ANY, INGEST, LINES, OK, REFUSED, Case, Log

MAX_MESSAGE, MAX_SERVICE, MAX_TRACE, MAX_METADATA, MAX_ROW = 256 * 1024, 255, 128, 1000, 1_000_000
_LEVEL_NAMES = {
    "TRACE": "trace trc finest",
    "DEBUG": "debug dbg verbose fine",
    "INFO": "info inf information informational notice log",
    "WARN": "warn warning wrn",
    "ERROR": "error err severe",
    "FATAL": "fatal critical crit alert emerg emergency panic",
}
_LEVELS = {name: level for level, names in _LEVEL_NAMES.items() for name in names.split()}
_SPACE = re.compile(r"[ \t\n\r]*")
_OWN = ("service", "message", "level", "trace_id", "span_id", "id", "timestamp", "metadata")


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=str, parse_float=str)


def is_json(document: bytes) -> bool:
    """Whether these bytes are one JSON text in UTF-8."""
    try:
        _DECODER.decode(document.decode())
    except (ValueError, RecursionError):
        return False
    return True


def fields(text: str) -> dict[str, str]:
    """The values of a JSON object as they are written. Raises ValueError if it is none."""
    value = _DECODER.decode(text)
    _whole(json.dumps(value, ensure_ascii=False))
    if not isinstance(value, dict):
        raise ValueError("not an object")
    found: dict[str, str] = {}
    place = _skip(text, text.index("{") + 1)
    while text[place] != "}":
        key, place = _DECODER.raw_decode(text, place)
        place = _skip(text, _skip(text, place) + 1)
        _, end = _DECODER.raw_decode(text, place)
        found[key] = text[place:end]
        place = _skip(text, end)
        place = _skip(text, place + 1) if text[place] == "," else place
    return found


def expected(raw: bytes, line: int = 1, time: int | None = None) -> Log | None:
    """The log that a record must become, or None if it must be refused. `time` is what its timestamp means."""
    try:
        given = {name: value for name, value in fields(raw.decode()).items() if value != "null"}
        nested = {name: value for name, value in fields(given.pop("metadata", "{}")).items() if value != "null"}
        own = {name: given.pop(name) for name in _OWN if name in given}
        if any(not own[name].startswith('"') for name in ("service", "trace_id", "span_id") if name in own):
            return None
        texts = {name: _text(value) for name, value in own.items()}
        metadata = {_whole(name): _text(value) for name, value in {**given, **nested}.items()}
    except (ValueError, RecursionError):
        return None
    return _log(texts, metadata, line, time)


def _log(texts: Mapping[str, str], metadata: dict[str, str], line: int, time: int | None) -> Log | None:
    service, message, level = texts.get("service", ""), texts.get("message", ""), texts.get("level", "INFO")
    trace, span = texts.get("trace_id", ""), texts.get("span_id", "")
    too_long = len(message.encode()) > MAX_MESSAGE or max(len(trace.encode()), len(span.encode())) > MAX_TRACE
    if not service or len(service.encode()) > MAX_SERVICE or too_long or len(metadata) > MAX_METADATA:
        return None
    if texts.get("id") and "timestamp" not in texts:
        return None
    if level.lower() not in _LEVELS:
        metadata = {"level": level, **metadata}
    if texts.get("id"):
        metadata = {"id": texts["id"], **metadata}
    if len(json.dumps([message, metadata], ensure_ascii=False).encode()) > MAX_ROW:
        return None
    if metadata.get("level") == "-0":
        metadata["level"] = "0"  # a whole number as a level is a number
    entries = tuple(metadata.items())
    return Log(service, message, _LEVELS.get(level.lower(), "INFO"), entries, trace, span, time, line)


def event(attributes: Mapping[str, str], data: str | None, time: int | None, line: int = 1) -> Log | None:
    """The log that a CloudEvent with these attributes and this JSON text as data must become."""
    named = ("id", "source", "type", "subject")
    kept = {name: value for name, value in attributes.items() if name not in ("specversion", "time", "datacontenttype")}
    metadata = {f"cloudevents.{'event_' * (name in named)}{name}": _dump(value) for name, value in kept.items()}
    record = {"message": data or '""'}
    try:
        if data and data.strip()[:1] == "{":
            inner = {name: value for name, value in fields(data).items() if value != "null"}
            if "message" in inner:
                metadata = {**fields(inner.pop("metadata", "{}")), **metadata}
                record = inner
    except (ValueError, RecursionError):
        return None
    record = {"service": _dump(attributes["source"]), **record, "metadata": _object(metadata)}
    record |= {"id": _dump(f"{attributes['source']}#{attributes['id']}"), "timestamp": _dump(attributes.get("time"))}
    return expected(_object(record).encode(errors="surrogatepass"), line, time)


def of_lines(name: str, lines: Sequence[bytes], time: int | None = None, *, unsure: bool = False) -> Case:
    """JSON lines to ingest. With `unsure`, a line may be refused where the model would take it."""
    body = b"\n".join(lines)
    logs = [expected(line, number, time) for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    found = [log for log in logs if log]
    if unsure:
        found = [Log(**{**vars(log), "optional": True}) for log in found]
    status = ANY if unsure else OK if found else REFUSED
    return Case(name, body, LINES, path=INGEST, expect=status, logs=found)


def packed(data: bytes) -> str:
    """Bytes as `data_base64` has them."""
    return base64.b64encode(data).decode()


def _object(values: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{_dump(name)}:{value}" for name, value in values.items()) + "}"


def _dump(value: str | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return match.end() if match else place


def _text(raw: str) -> str:
    return _whole(json.loads(raw)) if raw.startswith('"') else raw


def _whole(text: str) -> str:
    text.encode()  # a half of a pair of surrogates is no text: UnicodeEncodeError is a ValueError
    return text
