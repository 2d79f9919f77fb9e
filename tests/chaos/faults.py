"""The faults: a name, what it does, and how often it must strike for a round to count."""

from __future__ import annotations

import dataclasses

from tests.chaos.actions import (
    Action,
    crash,
    freeze,
    kill,
    kill_broker,
    kill_reader,
    poison,
    proxied,
    rebalance,
    redeliver,
    refuse_clickhouse,
    resend,
    scale,
    slow,
    stall_broker,
    terminate,
)

_EXPORT = "/api/v1/logs/export?format=ndjson&start_time=-3d"


@dataclasses.dataclass(frozen=True)
class Fault:
    """A row of the table. `strikes` is how often in a short run, `most` in the long campaign."""

    text: str
    act: Action
    strikes: int
    most: int
    needs_apache: bool = False


FAULTS: dict[str, Fault] = {
    "none": Fault("nothing fails", resend, 0, 0),
    "client-resend": Fault("clients send again what was taken, in batches cut differently", resend, 1, 10),
    "kill-ingest": Fault("SIGKILL of ingest", kill("ingest", 1.0), 4, 100),
    "kill-index": Fault("SIGKILL of index", kill("index", 1.0), 4, 100),
    "kill-source": Fault("SIGKILL of the source", kill("source", 3.0), 2, 100),
    "kill-broker": Fault("SIGKILL of the broker", kill_broker, 1, 100, needs_apache=True),
    "kill-clickhouse": Fault("SIGKILL of the engine's server", kill("clickhouse", 2.0), 2, 100),
    "crash-after-produce": Fault("ingest dies before it answers", crash("ingest", "after_produce", 0.05), 3, 100),
    "crash-after-insert": Fault("index dies before it answers", crash("index", "after_insert", 0.1), 3, 100),
    "eat-ingest": Fault("answers of ingest are swallowed", proxied("ingest", "eat", 0.1), 10, 300),
    "eat-kafka": Fault("Kafka's answers are swallowed", proxied("kafka", "eat", 0.1), 5, 100, needs_apache=True),
    "eat-index": Fault("answers of index are swallowed", proxied("index", "eat", 0.1), 10, 300),
    "eat-clickhouse": Fault("ClickHouse's answers are swallowed", proxied("clickhouse", "eat", 0.2), 5, 300),
    "cut-ingest": Fault("requests are cut in half", proxied("ingest", "cut", 0.1), 10, 300),
    "reset-index": Fault("deliveries are reset", proxied("index", "reset", 0.1), 10, 300),
    "slow": Fault("every hop is slow", slow, 4, 4),
    "stop-ingest": Fault("SIGSTOP of ingest", freeze("ingest", 5.0), 1, 10),
    "stop-index": Fault("SIGSTOP of index", freeze("index", 5.0), 1, 10),
    "stop-source": Fault("SIGSTOP of the source, until the group gives it up", freeze("source", 8.0), 1, 10),
    "stop-query": Fault("SIGSTOP of query", freeze("query", 3.0), 1, 10),
    "stop-export": Fault("SIGSTOP of export", freeze("export", 3.0), 1, 10),
    "stop-broker": Fault("a stall longer than the delivery timeout", stall_broker, 1, 10),
    "clickhouse-refuses": Fault("ClickHouse refuses connections", refuse_clickhouse, 1, 20),
    "clickhouse-hangs": Fault("SIGSTOP of the engine's server", freeze("clickhouse", 5.0), 1, 10),
    "rebalance": Fault("a second source comes and goes while the first retries", rebalance, 1, 20),
    "scale": Fault("functions go to zero and come back on demand", scale, 4, 120),
    "sigterm": Fault("SIGTERM under load", terminate, 6, 60),
    "kill-query": Fault("SIGKILL of query while it is read", kill_reader("query", "/api/v1/logs?limit=10000"), 3, 100),
    "kill-export": Fault("SIGKILL of export while it is read", kill_reader("export", _EXPORT), 3, 100),
    "poison": Fault("events with a line that ClickHouse refuses", poison, 5, 50),
    "redeliver": Fault("the whole topic again from the earliest offset", redeliver, 1, 3, needs_apache=True),
}
"""All faults by name."""
