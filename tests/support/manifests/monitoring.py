"""What Prometheus is told: pods to read that exist, and alerts on metrics that functions have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from functions.common import metrics
from tests.support.manifests.documents import Document, dig, find
from tests.support.manifests.network import pods, selector_problems


def monitoring_problems(documents: list[Document]) -> list[str]:
    """The problems of the monitors and rules among `documents`."""
    found = [problem for monitor in find(documents, "PodMonitor") for problem in _monitor(monitor, documents)]
    for rules in find(documents, "PrometheusRule"):
        for group in rules.get("spec.groups") or []:
            for number, rule in enumerate(group.get("rules") or []):
                field = f"spec.groups.{group.get('name')}.rules[{number}]"
                found += [*_alert(rules, field, rule), *_kafka_alert(rules, field, rule, documents)]
    return found


def _monitor(document: Document, documents: list[Document]) -> Iterator[str]:
    known, ports = pods(documents, document.namespace), {"user-port", "http-usermetric"}
    for kafka in find(documents, "Kafka", namespace=document.namespace):
        known.append({"strimzi.io/name": f"{kafka.name}-kafka-exporter"})
        ports = {"tcp-prometheus"}
    yield from selector_problems(document, "spec.selector", known)
    for number, endpoint in enumerate(document.get("spec.podMetricsEndpoints") or []):
        if endpoint.get("port") not in ports:
            yield document.wrong(f"spec.podMetricsEndpoints[{number}].port", f"is {endpoint.get('port')}")


def _kafka_alert(document: Document, field: str, rule: dict[str, Any], documents: list[Document]) -> Iterator[str]:
    known = {
        "consumergroup": {source.get("spec.consumerGroup") for source in find(documents, "KafkaSource")},
        "topic": {topic.name for topic in find(documents, "KafkaTopic")},
    }
    for label, value in re.findall(r'\b(consumergroup|topic)="([^"]*)"', str(rule.get("expr"))):
        if value not in known[label]:
            yield document.wrong(f"{field}.expr", f"asks for the {label} {value}, which is not there")


def _counted() -> dict[str, tuple[str, ...]]:
    """The series that functions have, each with its labels."""
    known: dict[str, tuple[str, ...]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (family,) = metric.describe()
            suffixes = ("_total",) if family.type == "counter" else ("_bucket", "_count", "_sum")
            known |= {family.name + suffix: tuple(metric._labelnames) for suffix in suffixes}
    return known


def _alert(document: Document, field: str, rule: dict[str, Any]) -> Iterator[str]:
    known = _counted()
    for name, selector in re.findall(r"\b(torpor_\w+)(?:\{([^}]*)\})?", str(rule.get("expr"))):
        if name not in known:
            yield document.wrong(f"{field}.expr", f"names {name}, which no function counts")
        for label in re.findall(r'(\w+)\s*[=!]~?=?\s*"', selector):
            if label not in known.get(name, (label,)):
                yield document.wrong(f"{field}.expr", f"asks {name} for {label}, which it does not have")
    for key in ("summary", "runbook"):
        if not dig(rule, ["annotations", key]):
            yield document.wrong(f"{field}.annotations.{key}", "is missing")
    if dig(rule, ["labels", "severity"]) not in ("warning", "critical"):
        yield document.wrong(f"{field}.labels.severity", "is neither warning nor critical")
