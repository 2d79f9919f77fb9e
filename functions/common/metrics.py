"""Every metric of every function, in one list. Counted per batch and per request, never per log."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_DELAYS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86400)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)

READY_TIME = Gauge(
    "torpor_ready_timestamp_seconds",
    "When the process began to serve; less process_start_time_seconds it is the length of the cold start",
)

INGESTED = Counter("torpor_ingest_logs_total", "Logs by outcome: accepted or rejected", ["outcome"])
REJECTED = Counter("torpor_ingest_rejected_total", "Rejected logs by reason: the field at fault, or record", ["reason"])
INGESTED_BYTES = Counter("torpor_ingest_bytes_total", "Bytes of accepted logs as they went to Kafka")
INGEST_REQUESTS = Counter("torpor_ingest_requests_total", "Requests by protocol and status", ["protocol", "status"])
INGEST_SECONDS = Histogram("torpor_ingest_seconds", "From request to answer", buckets=_SECONDS)
EVENTS = Counter("torpor_ingest_events_total", "Events that Kafka acknowledged")
EVENT_LOGS = Histogram("torpor_ingest_event_logs", "Logs of an event", buckets=_COUNTS)

INDEX_REQUESTS = Counter("torpor_index_requests_total", "Events by status", ["status"])
INSERTS = Counter("torpor_index_inserts_total", "Inserts into ClickHouse; one insert may hold many events")
INSERT_SECONDS = Histogram("torpor_index_insert_seconds", "Duration of an insert", buckets=_SECONDS)
INSERT_EVENTS = Histogram("torpor_index_insert_events", "Events of an insert", buckets=_COUNTS)
FAILED_INSERTS = Counter("torpor_index_failed_inserts_total", "Inserts that ClickHouse refused or did not take")
SEARCHABLE_SECONDS = Histogram(
    "torpor_index_searchable_seconds", "From ingest's making of an event to its being searchable", buckets=_DELAYS
)
INSERTED_BYTES = Counter("torpor_index_bytes_total", "Bytes of JSON lines inserted")
ROLLUPS = Counter("torpor_index_rollups_total", "Hours whose rollup was made")
DEAD_LETTERS = Counter("torpor_index_dead_letters_total", "Lines that ClickHouse refused")

QUERIES = Counter("torpor_query_requests_total", "Requests by route and status", ["route", "status"])
QUERY_SECONDS = Histogram("torpor_query_seconds", "Duration of a request by route", ["route"], buckets=_SECONDS)

EXPORTS = Counter(
    "torpor_export_requests_total", "Exports by format and outcome: complete or broken", ["format", "outcome"]
)
EXPORTED_BYTES = Counter("torpor_export_bytes_total", "Bytes of exported logs before compression")
