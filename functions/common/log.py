"""Structured logs: one JSON object a line on standard error.

ERROR means that data may be lost or that a person must act; WARNING that something unexpected happened and nothing
is lost. Variables go into `extra`, never into the text; no header and no body is ever logged.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback

import msgspec

from functions.common import tracing

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
# What JSON leaves as it is and a terminal obeys: DEL and the controls above it, line separators, changes of direction.
_UNSEEN = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class JsonFormatter(logging.Formatter):
    """Format a log record as a JSON object: time, level, logger, message, the extras, and the traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if traceparent := tracing.current.get():
            line["trace_id"] = traceparent[3:35]
        line.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = "".join(traceback.format_exception(record.exc_info[1]))
        text = msgspec.json.encode(line, enc_hook=str).decode()
        return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def configure(level: str = "INFO") -> None:
    """Send the logs of the whole process to standard error as JSON lines."""
    formatter = JsonFormatter()
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("kafka").setLevel("CRITICAL")  # it repeats itself on every retry; ours name the outcome once
    logging.getLogger("httpx").setLevel("WARNING")
