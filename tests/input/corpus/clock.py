"""Moments that ingest takes, as text and in nanoseconds."""

from __future__ import annotations

import datetime
import itertools
import time

HOUR = 3600
DAY = 24 * HOUR
_BEGAN = int(time.time()) - HOUR
_numbers = itertools.count()


def text(seconds: int) -> str:
    """RFC 3339 of whole seconds since 1970."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}Z"


def recent() -> tuple[str, int]:
    """A moment of the last hour that nobody else was given, and its nanoseconds."""
    number = next(_numbers) * 1000 + 1
    return f"{text(_BEGAN)[:-1]}.{number:09d}Z", _BEGAN * 1_000_000_000 + number


def ago(seconds: int) -> tuple[str, int]:
    """The moment so many seconds before the start of the run."""
    moment = _BEGAN + HOUR - seconds
    return text(moment), moment * 1_000_000_000


def nanoseconds(text: str) -> int:
    """Nanoseconds of a time as `recent` and the API write it."""
    seconds = datetime.datetime.fromisoformat(text[:19] + "+00:00")
    return round(seconds.timestamp()) * 1_000_000_000 + int(text[20:29])
