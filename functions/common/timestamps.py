"""Timestamps as nanoseconds since 1970-01-01 UTC, and the texts and numbers people write them as."""

from __future__ import annotations

import datetime
import re
import time

NANOSECONDS = 1_000_000_000
DAY = 86_400 * NANOSECONDS

_UNITS = ((10**11, NANOSECONDS), (10**14, 1_000_000), (10**17, 1000), (10**19, 1))
# RFC 3339 with the liberties of ISO 8601 that loggers take: a space for the T, a comma, no zone (UTC), no seconds.
_TEXT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T t](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?\s*(?:([Zz]|UTC)|([+-])(\d\d):?(\d\d))?",
    re.ASCII,
)
_DURATION = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_AGO = re.compile(r"-(\d{1,6}[smhdw])", re.ASCII)
_SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DIGITS = re.compile(r"\d{1,19}", re.ASCII)
_UTC = datetime.UTC
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
# Nanoseconds of the UTC seconds just seen: logs arrive in order, so most share theirs with another.
_seconds: dict[str, int] = {}
_SECONDS_KEPT = 8192
_TENS: tuple[int, ...] = tuple(10 ** (9 - digits) for digits in range(10))


def now() -> int:
    """The current time in nanoseconds."""
    return time.time_ns()


def parse(value: str | int | float) -> int:
    """Nanoseconds of a text (RFC 3339, digits) or of a number of seconds, milli-, micro- or nanoseconds.

    The unit of a number is told by its size: below 10^11 seconds, 10^14 milliseconds, 10^17 microseconds, above that
    nanoseconds. Raises ValueError if it is none of these.
    """
    if isinstance(value, str):
        # The usual form, 2026-01-31T12:00:00[.fraction]Z, whose second was seen before.
        if (seconds := _seconds.get(value[:19])) is not None and value[-1] == "Z":
            fraction = value[20:-1]
            if len(value) == 20:
                return seconds
            if value[19] == "." and len(fraction) <= 9 and fraction.isdecimal() and fraction.isascii():
                return seconds + int(fraction) * _TENS[len(fraction)]
        return _parse_slowly(value)
    if type(value) is int and 10**17 <= value < 10**19:
        return value  # nanoseconds: what most protocols but JSON carry
    if isinstance(value, bool) or not 0 < value < 10**19:
        raise ValueError(f"{value!r} is not a time")
    unit = next(unit for limit, unit in _UNITS if value < limit)
    if isinstance(value, int):
        return value * unit
    # A float keeps about 16 digits, so more than microseconds would be made up.
    return round(value * (unit / 1000) if unit >= 1000 else value / 1000) * 1000


def parse_or_ago(value: str | int | float, reference: int) -> int:
    """What `parse` reads, and beside it `now`, and `-15m` for so long before `reference`. Raises ValueError."""
    if value == "now":
        return reference
    if isinstance(value, str) and (match := _AGO.fullmatch(value)):
        return reference - duration(match[1]) * NANOSECONDS
    return parse(value)


def duration(text: str) -> int:
    """Seconds of a number and a unit: s, m, h, d or w. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"{text[:64]!r} is not a number and s, m, h, d or w, such as 5m")
    return int(match[1]) * _SECONDS_OF[match[2]]


def iso(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nine digits after the point."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return f"{datetime.datetime.fromtimestamp(seconds, _UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _parse_slowly(text: str) -> int:
    text = text.strip()
    if _DIGITS.fullmatch(text):
        return parse(int(text))
    if _DATE.fullmatch(text):
        text += "T00:00"
    match = _TEXT.fullmatch(text)
    if not match:
        raise ValueError(f"{text[:64]!r} is not a time; use RFC 3339, for example 2026-01-31T12:00:00.5Z")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    # A leap second is counted as the second that follows it: Unix time has no other place for it.
    leap, second = (1, 59) if second == 60 else (0, second)
    try:
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=_UTC)
    except ValueError as error:
        raise ValueError(f"{text[:64]!r} is not a time: {error}") from None
    elapsed = moment - _EPOCH
    seconds = (elapsed.days * 86_400 + elapsed.seconds + leap - _offset(match)) * NANOSECONDS
    if text[10] == "T" and text[19:20] in (".", "Z") and text[-1] == "Z" and not leap:
        if len(_seconds) >= _SECONDS_KEPT:
            _seconds.clear()
        _seconds[text[:19]] = seconds
    fraction: str = match[7] or ""
    return seconds + int(fraction.ljust(9, "0"))


def _offset(match: re.Match[str]) -> int:
    if not match[9]:
        return 0
    hours, minutes = int(match[10]), int(match[11])
    if hours > 23 or minutes > 59:
        raise ValueError(f"{match[0][:64]!r} has no such time zone")
    return (hours * 3600 + minutes * 60) * (-1 if match[9] == "-" else 1)
