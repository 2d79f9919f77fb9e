"""Lines of syslog: RFC 5424 (6), RFC 3164 (4) with what devices make of it, and CEF as their message. Pure.

No line is refused: what cannot be taken apart stays in the message. Bytes that are not UTF-8 are not lost either: in a
line that has some, each becomes `\\xNN` wherever it stands, a backslash that an x follows becomes `\\x5c`, and the
metadata says `encoding: escaped`; read backwards this gives the bytes that came.
"""

from __future__ import annotations

import contextlib
import re

import msgspec

from functions.common import cef, timestamps
from functions.common.record import UNKNOWN_SERVICE, Incoming

_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
_SEVERITIES = {
    **dict.fromkeys(("emerg", "alert", "crit"), "FATAL"),
    **{"err": "ERROR", "warning": "WARN", "notice": "INFO", "info": "INFO", "debug": "DEBUG"},
}
# By the digits of PRI: facility, severity, level.
_PRIORITIES = {
    str(8 * code + rank): (facility, severity, level)
    for code, facility in enumerate(_FACILITIES)
    for rank, (severity, level) in enumerate(_SEVERITIES.items())
}
_PRIORITY = re.compile(r"<(\d{1,3})>", re.ASCII)

# RFC 5424. Names may be longer than its limits: many are. What may become the service is held to that field's.
_HEADER = re.compile(
    r"<(\d{1,3})>1 (-|\d{4}-\S+) ([!-~]{1,255}) ([!-~]{1,255}) (\S+) (\S+)(?: |$)",
    re.ASCII,
)
_NAME = r'[^\s="\]]+'
_PARAMETERS = rf'(?: +{_NAME}="[^"\\\]]*+(?:\\.[^"\\\]]*+)*+")*+'
_STRUCTURED = re.compile(rf"(?:\[{_NAME}{_PARAMETERS} *\])++(?: |$)", re.DOTALL)
_ELEMENT = re.compile(rf"\[({_NAME})({_PARAMETERS}) *\]", re.DOTALL)
_PARAMETER = re.compile(rf'({_NAME})="([^"\\\]]*+(?:\\.[^"\\\]]*+)*+)"', re.DOTALL)
_ESCAPE = re.compile(r'\\(["\\\]])')
# Parameters that are fields of the record.
_FIELDS = {"trace_id": "trace_id", "span_id": "span_id", "log.record.uid": "id"}
_TRACE = re.compile(r"[!-~]{1,128}", re.ASCII)

# RFC 3164. Cisco's devices put a number, a name and the state of their clock before the time.
_CISCO = re.compile(r"(?: ?(\d+): )?(?:: )?(?:([\w.-]{1,255}): )?([*.]?)", re.ASCII)
# A word before a colon, or before a process's number in brackets.
_WORD = r"[!-9;-Z\\^-~]{1,255}"
_IS_TAG = rf"{_WORD}(?:\[[^\]\s]*\]:?|:)(?: |$)"
# Not a number, which would be Cisco's, and not CEF.
_TAG = rf"(?:(?!\d+:|CEF:)(?P<tag>{_WORD})(?:\[(?P<pid>[^\]\s]*)\]:?|:)(?: |$))?"
_HOST = r"(?P<host>[\w./@-]{1,255}|[\[\]\dA-Fa-f:.]{2,64}(?:%\w{1,32})?)"
_TAGGED = re.compile(_TAG, re.ASCII)
# After the time: a colon, or the name of the host, which a colon of its own may follow; then the tag.
_ORIGIN = re.compile(rf"(?:: *| *(?:(?!{_IS_TAG}){_HOST} +(?:: +)?(?=\S))?){_TAG}", re.ASCII)


def read(line: bytes, received: int) -> Incoming:
    """The record that a line is; one that is no syslog is a record whose message is the line.

    `received` is the time of arrival in nanoseconds. It gives RFC 3164 the year: the timestamp of a line that has no
    time is None. One NUL and one end of line at the end are not the line's.
    """
    if line[-1:] < b" ":
        line = line.removesuffix(b"\0").removesuffix(b"\n").removesuffix(b"\r").removesuffix(b"\0")
    try:
        return _read(line.decode(), received)
    except UnicodeDecodeError:
        return _escaped(_read(line.decode(errors="surrogateescape"), received))


def _read(text: str, received: int) -> Incoming:
    match = _HEADER.match(text)
    record = _new(text, match) if match and match[1] in _PRIORITIES else _old(text, received)
    if record.message.startswith("CEF:"):
        cef.refine(record, received)
    record.service = record.service or record.metadata.get("host", UNKNOWN_SERVICE)
    return record


def _new(text: str, match: re.Match[str]) -> Incoming:
    """RFC 5424: what follows the header is structured data and the message."""
    priority, time, host, app, pid, message_id = match.groups()
    facility, severity, level = _PRIORITIES[priority]
    metadata = {"facility": facility, "severity": severity}
    for name, value in (("host", host), ("pid", pid), ("msgid", message_id)):
        if value != "-":
            metadata[name] = value
    record = Incoming("" if app == "-" else app, text, None, level, metadata)
    if time != "-":
        with contextlib.suppress(ValueError):
            record.timestamp = cef.believed(timestamps.parse(time))
        if record.timestamp is None:
            metadata["time"] = time
    start = match.end()
    if text[start : start + 2] in ("- ", "-"):
        record.message = text[start + 2 :].removeprefix("\ufeff")
    elif (data := _STRUCTURED.match(text, start)) and _count(data[0]) <= cef.MAX_PAIRS:
        record.message = text[data.end() :].removeprefix("\ufeff")
        cef.fill(metadata, _parameters(record, data[0]))
    return record


def _count(data: str) -> int:
    """How many entries structured data would be, or more."""
    return data.count('="') + data.count("[")


def _parameters(record: Incoming, data: str) -> list[tuple[str, str]]:
    """The names and values of structured data, without those that are fields of the record, which it gets."""
    found: list[tuple[str, str]] = []
    for element, parameters in _ELEMENT.findall(data):
        if not parameters:
            found.append((element, ""))
        for name, value in _PARAMETER.findall(parameters):
            if "\\" in value:
                value = _ESCAPE.sub(r"\1", value)
            field = _FIELDS.get(name)
            if field and not getattr(record, field) and (value if field == "id" else _TRACE.fullmatch(value)):
                setattr(record, field, value)
            else:
                found.append((f"{element}.{name}", value))
    return found


def _old(text: str, received: int) -> Incoming:
    """RFC 3164, of which any part may be missing."""
    match = _PRIORITY.match(text)
    priority = _PRIORITIES.get(match[1]) if match else None
    if not match or not priority:
        record = Incoming(message=text)
        found = cef.moment(text, received)
        return _dated(record, text, received, 0, found) if found else record
    facility, severity, level = priority
    record = Incoming(level=level, metadata={"facility": facility, "severity": severity})
    start = match.end()
    device = _CISCO.match(text, start)
    at = device.end() if device else start
    found = cef.moment(text, received, at)
    if not found:
        return _tagged(record, _TAGGED.match(text, start))
    if device:
        pairs = (("sequence", device[1]), ("host", device[2]), ("clock", device[3]))
        record.metadata |= {name: value for name, value in pairs if value}
    return _dated(record, text, received, at, found)


def _dated(record: Incoming, text: str, received: int, start: int, found: tuple[int, int]) -> Incoming:
    """The record of a line whose time begins at `start` and has been found."""
    sent, end = cef.believed(found[0]), found[1]
    # A clock that its own device does not trust may be years off.
    if sent is None or (record.metadata.get("clock") == "*" and abs(sent - received) > timestamps.DAY):
        record.metadata["time"] = text[start:end]
    else:
        record.timestamp = sent
    match = _ORIGIN.match(text, end)
    if match and match["host"]:
        cef.fill(record.metadata, [("host", match["host"])])
    return _tagged(record, match)


def _tagged(record: Incoming, match: re.Match[str] | None) -> Incoming:
    """The record with the tag that was found, and as its message what follows."""
    if match:
        record.service = match["tag"] or ""
        if match["pid"]:
            record.metadata["pid"] = match["pid"]
        record.message = match.string[match.end() :]
    return record


def _escaped(record: Incoming) -> Incoming:
    """The record of a line with bytes that are not UTF-8, which are surrogates in it, as text that can be sent."""
    metadata = {_escape(name): _escape(value) for name, value in record.metadata.items()}
    cef.fill(metadata, [("encoding", "escaped")])
    return msgspec.structs.replace(
        record,
        service=_escape(record.service),
        message=_escape(record.message),
        id=_escape(record.id),
        metadata=metadata,
    )


def _escape(text: str) -> str:
    return text.replace("\\x", "\\x5cx").encode(errors="surrogateescape").decode(errors="backslashreplace")
