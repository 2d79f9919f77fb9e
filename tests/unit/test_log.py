"""Our own log: one JSON object a line, whatever is logged."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from functions.common.log import JsonFormatter, configure


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which gets its own handlers and levels back."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    names = [logging.getLogger(name) for name in ("kafka", "httpx")]
    levels = [named.level for named in names]
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)
    for named, old in zip(names, levels, strict=True):
        named.setLevel(old)


def line(message: str, *args: Any, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger("torpor.test").makeRecord(
        "torpor.test", logging.WARNING, "file.py", 1, message, args, None, extra=extra
    )
    record.created, record.msecs = 1_769_860_800.25, 250.0
    formatter = JsonFormatter()
    formatter.converter = time.gmtime
    text = formatter.format(record)
    assert "\n" not in text
    decoded: dict[str, Any] = json.loads(text)
    return decoded


def test_a_line_has_time_level_logger_and_message() -> None:
    assert line("it is %s", "late") == {
        "time": "2026-01-31T12:00:00.250Z",
        "level": "WARNING",
        "logger": "torpor.test",
        "message": "it is late",
    }


def test_extras_become_fields() -> None:
    logged = line("x", event="id-1", lines=3, fine=True)
    assert (logged["event"], logged["lines"], logged["fine"]) == ("id-1", 3, True)


def test_a_message_with_line_breaks_stays_one_line() -> None:
    assert line("a\r\n{}\u2028\x1b[2J")["message"] == "a\r\n{}\u2028\x1b[2J"


def test_an_extra_that_is_not_json_is_logged_as_its_text() -> None:
    assert line("x", error=ValueError("why"))["error"] == "why"


def test_an_exception_is_logged_with_its_traceback() -> None:
    try:
        raise ValueError("deep down")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    logged = json.loads(JsonFormatter().format(record))
    assert "ValueError: deep down" in logged["exception"]
    assert "test_log.py" in logged["exception"]


def test_an_empty_exc_info_adds_nothing() -> None:
    record = logging.makeLogRecord({"msg": "fine", "exc_info": (None, None, None)})
    assert "exception" not in json.loads(JsonFormatter().format(record))


def test_the_process_logs_json_lines_on_standard_error(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("WARNING")
    logging.getLogger("functions.any").warning("heard", extra={"n": 1})
    logging.getLogger("functions.any").info("not heard")
    logging.getLogger("kafka.client").warning("repeats itself")
    out, err = capsys.readouterr()
    assert out == ""
    logged = json.loads(err)
    assert (logged["message"], logged["n"], logged["time"][-1]) == ("heard", 1, "Z")
