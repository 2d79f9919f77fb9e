"""Traces without a collector: a traceparent is passed on as it came, and nothing is loaded."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from functions.common.config import ConfigError, load
from functions.common.event import Event
from functions.common.log import JsonFormatter
from functions.common.tracing import TraceConfig, Tracer, current

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED, SILENT = f"00-{TRACE}-00f067aa0ba902b7-01", "00-1bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"


@pytest.fixture
def tracer() -> Tracer:
    return Tracer(TraceConfig(), "ingest")


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ((), ""),
        (("",), ""),
        ((SAMPLED,), SAMPLED),
        ((SILENT, SAMPLED), SAMPLED),
        ((SILENT, ""), SILENT),
        (("00-nonsense", SAMPLED), SAMPLED),
        (("00-nonsense\r\nx: y",), ""),
        ((f"00-{'0' * 32}-00f067aa0ba902b7-01",), ""),
        ((f"00-{TRACE}-{'0' * 16}-01",), ""),
    ],
)
def test_a_block_belongs_to_the_first_trace_that_is_sampled(
    tracer: Tracer, parents: tuple[str, ...], expected: str
) -> None:
    with tracer.span("work", *parents) as traceparent:
        assert traceparent == current.get() == expected
    assert current.get() == ""


async def test_without_an_endpoint_there_is_nothing_to_start_or_stop(tracer: Tracer) -> None:
    await tracer.start()
    await tracer.stop()


def test_an_event_carries_its_trace_and_has_no_such_attribute_without_one() -> None:
    traced = dict(Event.fresh("t", b"", SAMPLED).kafka_headers())
    assert traced["ce_traceparent"] == SAMPLED.encode()
    assert "ce_traceparent" not in dict(Event.fresh("t", b"").kafka_headers())
    headers = {name.replace("ce_", "ce-"): value.decode() for name, value in traced.items()}
    assert Event.from_http(headers, b"").traceparent == SAMPLED


def test_a_log_line_within_a_block_names_its_trace(tracer: Tracer) -> None:
    record = logging.makeLogRecord({"msg": "m", "levelname": "INFO"})
    with tracer.span("work", SAMPLED):
        assert json.loads(JsonFormatter().format(record))["trace_id"] == TRACE
    assert "trace_id" not in json.loads(JsonFormatter().format(record))


@pytest.mark.parametrize("ratio", ["-0.1", "1.5", "some"])
def test_a_ratio_that_is_none_is_named(ratio: str) -> None:
    with pytest.raises(ConfigError, match="TRACE_RATIO"):
        load(TraceConfig, {"TRACE_RATIO": ratio})


def test_the_sdk_is_not_loaded_where_nothing_is_sent() -> None:
    code = "import sys, functions.ingest.function, functions.index.function; print(*sys.modules)"
    root = Path(__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert not any(name.startswith("opentelemetry") for name in loaded.split())
