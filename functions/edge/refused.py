"""What ingest refuses for good: kept in a file beside the spool, with the reasons, for a person to mend."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from functions.common import timestamps
from functions.edge.spool import Batch, Spool


def file_of(spool: Spool) -> Path:
    """Where the logs lie that were refused of a spool's: JSON lines, one a log."""
    return spool.path.parent / "refused.jsonl"


def keep(file: Path, batch: Batch, reasons: Mapping[int, str]) -> int:
    """Append the logs of the batch that `reasons` names by their lines, from 1; return how many the disk now has.

    Raises OSError; then there is no part of them in the file.
    """
    now = timestamps.iso(timestamps.now())
    entries = [
        {"time": now, "batch": batch.key, "line": number, "error": reasons[number], "record": _record(line)}
        for number, line in enumerate(batch.body.split(b"\n"), 1)
        if line and number in reasons
    ]
    rest = memoryview(msgspec.json.Encoder().encode_lines(entries))
    with file.open("ab", buffering=0) as opened:
        start = opened.tell()
        try:
            while rest:
                rest = rest[opened.write(rest) :]
            os.fsync(opened.fileno())
        except OSError as error:
            opened.truncate(start)
            raise OSError(error.errno, error.strerror, str(file)) from error
    return len(entries)


def _record(line: bytes) -> msgspec.Raw | str:
    try:
        msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return line.decode(errors="replace")
    return msgspec.Raw(line)
