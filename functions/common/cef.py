"""The Common Event Format of ArcSight (CEF, revisions 25 and 26), and the times that it shares with syslog. Pure.

`CEF:Version|Device Vendor|Device Product|Device Version|Device Event Class ID|Name|Severity|Extension`. In the header
a vertical bar and a backslash are escaped, in the extension an equals sign, a backslash and the ends of lines; a value
goes on until the next word that an equals sign follows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from functions.common import timestamps
from functions.common.record import Incoming

MAX_PAIRS = 900
"""Names and values that a line is taken apart into; a record's metadata has room for a few more."""

_HEADER = re.compile(r"CEF: ?(\d+(?:\.\d+)?)" + r"\|([^|\\]*+(?:\\.[^|\\]*+)*+)" * 6 + r"(?:\| *(.*))?", re.DOTALL)
_HEADER_ESCAPE = re.compile(r"\\([|\\])")
_KEY = re.compile(r"(?:^| )([\w.\[\]-]+)=")
_ESCAPE = re.compile(r"\\([\\=nr])")
_ESCAPED = {"\\": "\\", "=": "=", "n": "\n", "r": "\r"}
_LEVELS = {
    **{str(severity): "INFO" for severity in range(4)},
    **{str(severity): "WARN" for severity in range(4, 7)},
    **{str(severity): "ERROR" for severity in range(7, 9)},
    **{str(severity): "FATAL" for severity in range(9, 11)},
    "low": "INFO",
    "medium": "WARN",
    "high": "ERROR",
    "very-high": "FATAL",
}
_TIMES = ("rt", "end", "start")
# The longest Device Product of the standard; in UTF-8, too, it is shorter than a service may be.
_MAX_PRODUCT = 63

_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: month for month, name in enumerate(_NAMES, 1)}
# Those of RFC 5322 (4.3) and Europe's. Other names stand for several zones, or for none.
_ZONES = {
    **dict.fromkeys(("UTC", "GMT", "Z", "WET"), 0),
    **{"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7},
    **{"BST": 1, "WEST": 1, "CET": 1, "MET": 1, "CEST": 2, "MEST": 2, "EET": 2, "EEST": 3},
}
_DATE = re.compile(
    # Before the month a year stands only where Cisco's colon is before it: RFC 3164 (5.4) calls it no time.
    r"(?:(?<=: )(\d{4}) )?([A-Z][a-z]{2}) +(\d{1,2}) (?:(\d{4}) )?(\d\d:\d\d:\d\d(?:[.,]\d+)?)"
    rf"(?: ?({'|'.join(_ZONES)})?([+-]\d\d:?\d\d)?(?=[ :]|$))?(?: (\d{{4}}))?(?=[ :]|$)",
    re.ASCII,
)
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?=[ :]|$)",
    re.ASCII,
)
_HALF_A_YEAR = 182 * timestamps.DAY
_HOUR = 3600 * timestamps.NANOSECONDS
_EARLIEST = 10**17


def refine(record: Incoming, received: int) -> None:
    """Take the record's message apart if it is CEF; any other stays as it is.

    The device's product becomes the service, `msg` or else the name the message, `rt`, `end` or `start` the timestamp.
    All the rest is metadata: the header's fields as `cef.<field>`, extensions under their own names. `received` is the
    time of arrival in nanoseconds.
    """
    match = _HEADER.fullmatch(record.message)
    if not match:
        return
    before, *parts = _KEY.split(match[8] or "")
    if len(parts) // 2 + len(record.metadata) > MAX_PAIRS:
        return
    version, vendor, product, device_version, event_class, name, severity = (
        _HEADER_ESCAPE.sub(r"\1", text) if "\\" in text else text for text in match.groups()[:7]
    )
    pairs = [
        (key, _ESCAPE.sub(_unescaped, value) if "\\" in value else value)
        for key, value in zip(parts[::2], parts[1::2], strict=True)
    ]
    extension = dict(reversed(pairs))  # of those that are repeated, the first
    header = {"vendor": vendor, "version": device_version, "class": event_class, "severity": severity}
    header |= {"format": version, "extension": before}
    _place(record, product, extension, header, received)
    record.level = _LEVELS.get(severity.strip().lower().replace(" ", "-"), "INFO")
    record.message = name
    if message := extension.get("msg"):
        record.message, header["name"] = message, name
        pairs.remove(("msg", message))
    fill(record.metadata, ((f"cef.{field}", text) for field, text in header.items() if text))
    fill(record.metadata, pairs)


def _place(record: Incoming, product: str, extension: dict[str, str], header: dict[str, str], received: int) -> None:
    """Give the record the service and the timestamp of the event; those of a syslog header become metadata."""
    if product.strip() and len(product) <= _MAX_PRODUCT:
        fill(record.metadata, [("app", record.service)] if record.service else [])
        record.service = product
    else:
        header["product"] = product
    for key in _TIMES:
        if (sent := _time(extension.get(key, ""), received)) is not None:
            if isinstance(record.timestamp, int) and record.timestamp != sent:
                record.metadata["time"] = timestamps.iso(record.timestamp)
            record.timestamp = sent
            return


def _time(text: str, received: int) -> int | None:
    text = text.strip()
    if text.isdecimal():
        try:
            return believed(timestamps.parse(text))
        except ValueError:
            return None
    found = moment(text, received)
    return believed(found[0]) if found and found[1] == len(text) else None


def _unescaped(match: re.Match[str]) -> str:
    return _ESCAPED[match[1]]


def fill(metadata: dict[str, str], pairs: Iterable[tuple[str, str]]) -> None:
    """Add all pairs: a name that is there already gets a number, the second `<name>.2`."""
    numbers: dict[str, int] = {}
    for name, value in pairs:
        if name in metadata:
            number = numbers.get(name, 2)
            while (numbered := f"{name}.{number}") in metadata:
                number += 1
            numbers[name] = number + 1
            name = numbered
        metadata[name] = value


def believed(timestamp: int) -> int | None:
    """The timestamp, or None for one before 1973: the clock was never set."""
    # As a number it would also be taken for one of micro- or milliseconds.
    return timestamp if timestamp >= _EARLIEST else None


def moment(text: str, received: int, start: int = 0) -> tuple[int, int] | None:
    """The time that stands in `text` at `start`, in nanoseconds, and where it ends; None if there is none.

    Read are RFC 3339 and `Mmm dd [yyyy] hh:mm:ss[.fraction] [zone] [yyyy]`. Without a zone it is UTC; without a year
    it is in the year that puts it nearest to `received`.
    """
    try:
        if match := _DATE.match(text, start):
            first, month, day, early, clock, zone, offset, last = match.groups()
            date = f"{_MONTHS.get(month, 0):02d}-{day:0>2}T{clock}{offset or 'Z'}"
            hours = _ZONES[zone] if zone and not offset else 0
            year = first or early or last
            sent = timestamps.parse(f"{year}-{date}") if year else _nearest(date, received)
            return sent - hours * _HOUR, match.end()
        if match := _RFC3339.match(text, start):
            return timestamps.parse(match[0]), match.end()
    except ValueError:
        pass
    return None


def _nearest(date: str, received: int) -> int:
    year = time.gmtime(received // timestamps.NANOSECONDS).tm_year
    leap_day = date.startswith("02-29")
    if not leap_day:
        sent = timestamps.parse(f"{year}-{date}")
        if abs(sent - received) < _HALF_A_YEAR:
            return sent
    reach = 4 if leap_day else 1  # the nearest leap year is at most so far away
    years = range(year - reach, year + reach + 1)
    sent_in = [timestamps.parse(f"{each}-{date}") for each in years if not leap_day or _is_leap(each)]
    return min(sent_in, key=lambda sent: abs(sent - received))


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
