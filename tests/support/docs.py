"""What the README's tables must say, made from the code. `python -m tests.support.docs` prints them."""

from __future__ import annotations

import dataclasses

from prometheus_client.metrics import MetricWrapperBase

from functions.common import metrics
from functions.common.clickhouse import ClickHouseConfig
from functions.common.config import settings
from functions.common.host import HostConfig
from functions.common.kafka import KafkaConfig
from functions.common.migrate import SchemaConfig
from functions.edge import relay, ship
from functions.export import function as export
from functions.index import function as index
from functions.index import replay
from functions.ingest.intake import Config as IngestConfig
from functions.local.compose import LocalConfig
from functions.local.load import Config as LoadConfig
from functions.query import function as query


@dataclasses.dataclass(frozen=True)
class MigrateConfig:
    """What the migration reads."""

    clickhouse: ClickHouseConfig
    schema: SchemaConfig


HOLDERS = {
    "ingest": IngestConfig,
    "index": index.Config,
    "query": query.Config,
    "export": export.Config,
    "migrate": MigrateConfig,
    "replay": replay.Config,
    "dead-letters": KafkaConfig,
    "run": LocalConfig,
    "load": LoadConfig,
    "relay": relay.Config,
    "ship": ship.Config,
}


def setting_rows() -> list[str]:
    """The rows of the table of settings: one a variable, with all that read it."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for name, default, text in settings(HostConfig):
        rows[name] = (_row(name, default, text), ["every function"])
    for holder, config in HOLDERS.items():
        for name, default, text in settings(config):
            row, readers = rows.setdefault(name, (_row(name, default, text), []))
            assert row == _row(name, default, text), f"{name} is declared twice, differently"
            readers.append(holder)
    return [row.format(readers=", ".join(readers)) for row, readers in rows.values()]


def metric_rows() -> list[str]:
    """The rows of the table of metrics, in the order of the code."""
    found = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    rows = []
    for metric in found:
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(metric._labelnames)
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return rows


def _row(name: str, default: object, text: str) -> str:
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f"| `{name}` | {f'`{shown}`' if shown else ''} | {{readers}} | {text} |"


if __name__ == "__main__":
    print("| Metric | Type | Labels | Meaning |", "|---|---|---|---|", *metric_rows(), "", sep="\n")
    print("| Variable | Default | Read by | Meaning |", "|---|---|---|---|", *setting_rows(), sep="\n")
