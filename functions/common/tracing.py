"""Traces of the write path: from a client's traceparent, through the event, to the insert.

W3C Trace Context comes in, CloudEvents' distributed tracing extension carries it from function to function, and spans
leave by OTLP over HTTP. Without an endpoint nothing is loaded, and a traceparent is passed on as it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from functions.common.config import setting

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_SAMPLED = 1
_FLUSH_SECONDS = 3

current: contextvars.ContextVar[str] = contextvars.ContextVar("traceparent", default="")
"""The traceparent of the span that the code runs in: log lines name its trace."""


@dataclasses.dataclass(frozen=True)
class TraceConfig:
    """Settings of traces."""

    otel_exporter_otlp_endpoint: str = setting(
        "", "Where spans are sent by OTLP over HTTP, such as http://collector:4318; empty: no traces are made"
    )
    trace_ratio: float = setting(0.01, "Share of the requests that are traced, of those that bring no traceparent")

    def __post_init__(self) -> None:
        if not 0 <= self.trace_ratio <= 1:
            raise ValueError(f"TRACE_RATIO is {self.trace_ratio}: expected 0 to 1")


class Tracer:
    """Makes the spans of one function."""

    def __init__(self, config: TraceConfig, function: str) -> None:
        self._config = config
        self._function = function
        self._provider: TracerProvider | None = None
        self._loading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to load the SDK, where there is somewhere to send to. What comes before it is there is not traced."""
        if self._config.otel_exporter_otlp_endpoint:
            self._loading = asyncio.create_task(asyncio.to_thread(self._load))

    async def stop(self) -> None:
        """Send what is left, within seconds."""
        if self._loading:
            await asyncio.wait([self._loading])
        if self._provider:
            await asyncio.to_thread(self._provider.force_flush, _FLUSH_SECONDS * 1000)
            await asyncio.to_thread(self._provider.shutdown)
            self._provider = None

    @contextlib.contextmanager
    def span(self, name: str, *parents: str, **attributes: int) -> Iterator[str]:
        """Name what happens within the block; yields the block's traceparent.

        `parents` are traceparents: the span belongs to the trace of the first that is sampled and links to the others.
        """
        contexts = {parent: context for parent in parents if (context := _context(parent))}
        sampled = (parent for parent, (_, _, flags) in contexts.items() if flags & _SAMPLED)
        first = next(sampled, next(iter(contexts), ""))
        if self._provider:
            yield from self._sdk_span(name, first, [parent for parent in contexts if parent != first], attributes)
        else:
            with _within(first):
                yield first

    def _sdk_span(self, name: str, first: str, others: Sequence[str], attributes: dict[str, int]) -> Iterator[str]:
        from opentelemetry import trace

        assert self._provider
        parent = _remote(first)
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent)) if parent else None
        links = [trace.Link(remote) for other in others if (remote := _remote(other))]
        tracer = self._provider.get_tracer("torpor")
        with tracer.start_as_current_span(name, context, links=links, attributes=attributes) as span:
            own = span.get_span_context()
            traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"
            with _within(traceparent):
                yield traceparent

    def _load(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        provider = TracerProvider(
            ParentBasedTraceIdRatio(self._config.trace_ratio),
            Resource.create({"service.name": f"torpor-{self._function}"}),
            shutdown_on_exit=False,
        )
        endpoint = self._config.otel_exporter_otlp_endpoint.rstrip("/") + "/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=_FLUSH_SECONDS)))
        self._provider = provider


@contextlib.contextmanager
def _within(traceparent: str) -> Iterator[None]:
    token = current.set(traceparent)
    try:
        yield
    finally:
        current.reset(token)


def _context(traceparent: str) -> tuple[str, str, int] | None:
    """Trace, span and flags of a traceparent, or None if it is none."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if not match or not int(match[1], 16) or not int(match[2], 16):
        return None
    return match[1], match[2], int(match[3], 16)


def _remote(traceparent: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    if context := _context(traceparent):
        trace, span, flags = context
        return SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(flags & _SAMPLED))
    return None
