"""Which times ingest takes: not older than it keeps logs, and not over a day ahead."""

from __future__ import annotations

from functions.common import timestamps

_SPARE = 3600 * timestamps.NANOSECONDS


def holds(moment: int, now: int, retention: int) -> bool:
    """Whether ingest takes a log of this time: now, and for an hour yet, as logs wait and clocks differ.

    All three are nanoseconds, `retention` how long ingest keeps logs.
    """
    return now - retention + _SPARE <= moment <= now + timestamps.DAY - _SPARE
