"""The shapes that query speaks, as its OpenAPI shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from functions.common.parameters import SearchParameters

MAX_LIMIT = 10_000
MAX_OFFSET = 100_000
EXACT_UP_TO = 10_000

_LOG: dict[str, JsonValue] = {
    "id": "1769860800500000000-5f1d7a84db5c9d21",
    "timestamp": "2026-01-31T12:00:00.500000000Z",
    "tenant": "default",
    "service": "checkout",
    "level": "ERROR",
    "message": "payment failed: card declined",
    "metadata": {"user_id": "42", "region": "eu-west-1"},
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "span_id": "00f067aa0ba902b7",
}


class LogQuery(SearchParameters):
    """A search for logs, newest first."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"service": "checkout", "level": ["ERROR", "FATAL"], "search": "card declined", "limit": 100}]
        },
    )

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, description="Logs a page")] = 1000
    cursor: Annotated[str | None, Field(description="`next` of the page before", min_length=1, max_length=1000)] = None
    offset: Annotated[
        int, Field(ge=0, le=MAX_OFFSET, description="Logs to skip; a cursor is faster and misses nothing")
    ] = 0
    total: Annotated[Literal["capped", "exact"], Field(description=f"Count all, or stop at {EXACT_UP_TO:,}")] = "capped"


class Log(BaseModel):
    """A log."""

    model_config = ConfigDict(json_schema_extra={"examples": [_LOG]})

    id: str
    timestamp: str
    tenant: str
    service: str
    level: str
    message: str
    metadata: dict[str, str]
    trace_id: str
    span_id: str


class LogPage(BaseModel):
    """A page of logs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "total": 17,
                    "total_relation": "eq",
                    "limit": 1,
                    "offset": 0,
                    "logs": [_LOG],
                    "next": "WzE3Njk3NzQ0MDAwMDAwMDAwMDAsMTc2OTg2MDgwMDUwMDAwMDAwMSwxNzY5ODYwODAwNTAwMDAwMDAwLDY4NzJd",
                    "query_time_ms": 12.5,
                }
            ]
        }
    )

    total: Annotated[int, Field(description="Logs that match")]
    total_relation: Annotated[
        Literal["eq", "gte"], Field(description="`eq`: the total is exact; `gte`: there are at least so many")
    ]
    limit: int
    offset: int
    logs: list[Log]
    next: Annotated[str | None, Field(description="Cursor of the next page; null on the last")]
    query_time_ms: float


class Bucket(BaseModel):
    """How many logs a service wrote at a level in an interval."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "time": "2026-01-31T12:00:00Z",
                    "hour": "2026-01-31T12:00:00Z",
                    "service": "checkout",
                    "level": "ERROR",
                    "count": 17,
                }
            ]
        }
    )

    time: Annotated[str, Field(description="Start of the interval")]
    hour: Annotated[str | None, Field(description="The same, where the interval is an hour")] = None
    service: str
    level: str
    count: int


class Dependency(BaseModel):
    """The state of what query needs."""

    status: Literal["ok", "unavailable"]
    version: str | None = None
    error: str | None = None


class Health(BaseModel):
    """Whether query can answer."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"status": "ok", "clickhouse": {"status": "ok", "version": "26.9.2.1"}}]}
    )

    status: Literal["ok", "unavailable"]
    clickhouse: Dependency
