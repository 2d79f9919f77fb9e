"""KafkaSources, KafkaSinks and the settings of their data plane: what Knative would take, and lose logs by.

Knative's Kafka broker 1.23: control-plane/pkg/core/config/utils.go, pkg/autoscaler/autoscaler_api.go, and data-plane.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from functions.local.manifests import seconds
from tests.support.manifests.documents import Document, find

SCALING = "autoscaling.eventing.knative.dev/"
_DELIVERY = {"retry", "backoffPolicy", "backoffDelay", "timeout", "deadLetterSink"}
_SCALE = {"min-scale": 0, "max-scale": 1, "polling-interval": 1, "cooldown-period": 60, "lag-threshold": 1}
"""Annotations that do something, with the least value. (activation-lag-threshold is read and does nothing.)"""


def eventing_problems(documents: list[Document]) -> list[str]:
    """The problems of the sources and sinks among `documents`."""
    found: list[str] = []
    for source in find(documents, "KafkaSource"):
        found += [*_source(source), *_delivery(source), *_scaling(source), *_around(source, documents)]
    for sink in find(documents, "KafkaSink"):
        if not sink.get("spec.bootstrapServers"):
            found.append(sink.wrong("spec.bootstrapServers", "is missing"))
    for config in find(documents, "ConfigMap", "config-kafka-source-data-plane"):
        found += _data_plane(config, documents)
    return found


def _source(source: Document) -> Iterator[str]:
    if source.body.get("apiVersion") != "sources.knative.dev/v1":
        yield source.wrong("apiVersion", "is not sources.knative.dev/v1")
    if source.get("spec.initialOffset") != "earliest":
        yield source.wrong("spec.initialOffset", "is not earliest: what is in the topic already would be skipped")
    if source.get("spec.ordering") not in ("ordered", "unordered"):
        yield source.wrong("spec.ordering", "is neither ordered nor unordered")
    if not source.get("spec.consumerGroup"):
        yield source.wrong("spec.consumerGroup", "is missing: a source made anew would begin anew")
    if not source.get("spec.bootstrapServers"):
        yield source.wrong("spec.bootstrapServers", "is missing")
    if not isinstance(source.get("spec.consumers"), int):
        yield source.wrong("spec.consumers", "is missing")


def _delivery(source: Document) -> Iterator[str]:
    delivery = source.get("spec.delivery") or {}
    for key in sorted(_DELIVERY - delivery.keys()):
        yield source.wrong(f"spec.delivery.{key}", "is missing: what a delivery leaves out has no good default")
    for key in sorted(delivery.keys() - _DELIVERY):
        yield source.wrong(f"spec.delivery.{key}", "is refused by the webhook, or read by nobody")
    retry = delivery.get("retry", 1)
    # From about 60 on the exponential overflows.
    if not isinstance(retry, int) or not 1 <= retry <= (20 if delivery.get("backoffPolicy") == "exponential" else 1000):
        yield source.wrong("spec.delivery.retry", f"is {retry!r}: expected 1 to 20")
    if delivery.get("backoffPolicy", "linear") not in ("linear", "exponential"):
        yield source.wrong("spec.delivery.backoffPolicy", "is neither linear nor exponential")
    for key in ("backoffDelay", "timeout"):
        try:
            if seconds(str(delivery.get(key, "PT1S"))) <= 0:
                yield source.wrong(f"spec.delivery.{key}", "is no time at all")
        except ValueError as error:
            yield source.wrong(f"spec.delivery.{key}", str(error))


def _scaling(source: Document) -> Iterator[str]:
    annotations = source.get("metadata.annotations") or {}
    numbers: dict[str, int] = {}
    for key, value in annotations.items():
        field, name = f"metadata.annotations.{key}", str(key).removeprefix(SCALING)
        if key == SCALING + "class":
            if value not in ("disabled", "keda.autoscaling.knative.dev"):
                yield source.wrong(field, f"is {value!r}: expected disabled or keda.autoscaling.knative.dev")
        elif not str(key).startswith(SCALING) or name not in _SCALE:
            yield source.wrong(field, "is no annotation that Knative heeds on a KafkaSource")
        elif not re.fullmatch(r"\d+", str(value)) or not isinstance(value, str) or int(value) < _SCALE[name]:
            yield source.wrong(field, f"is {value!r}: expected a number from {_SCALE[name]}, in quotes")
        else:
            numbers[name] = int(value)
    if numbers.get("min-scale", 0) > numbers.get("max-scale", 50):
        yield source.wrong(f"metadata.annotations.{SCALING}min-scale", "is more than max-scale")


def _around(source: Document, documents: list[Document]) -> Iterator[str]:
    names = source.get("spec.topics") or []
    partitions = sum(topic.get("spec.partitions", 0) for name in names for topic in find(documents, "KafkaTopic", name))
    most = (source.get("metadata.annotations") or {}).get(SCALING + "max-scale", "0")
    if str(most).isdecimal() and int(most) > partitions:
        yield source.wrong(f"metadata.annotations.{SCALING}max-scale", f"is {most}: there are {partitions} partitions")
    if source.get("spec.consumers", 0) > partitions:
        yield source.wrong("spec.consumers", f"is more than the partitions, {partitions}")
    for function in find(documents, "Service", source.get("spec.sink.ref.name")):
        limit = function.get("spec.template.spec.timeoutSeconds", 0)
        try:
            timeout = seconds(str(source.get("spec.delivery.timeout", "PT0S")))
        except ValueError:
            continue
        if timeout < limit:
            what = f"is {timeout:g} s, less than timeoutSeconds of {function.name}, {limit}: events would be sent twice"
            yield source.wrong("spec.delivery.timeout", what)


def _data_plane(config: Document, documents: list[Document]) -> Iterator[str]:
    key = "config-kafka-source-consumer.properties"
    lines = str((config.body.get("data") or {}).get(key, "")).splitlines()
    properties = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    largest = max(
        (int((topic.get("spec.config") or {}).get("max.message.bytes", 0)) for topic in find(documents, "KafkaTopic")),
        default=0,
    )
    if int(properties.get("max.partition.fetch.bytes", 0)) < largest:
        yield config.wrong(f"data.{key}: max.partition.fetch.bytes", f"is less than a record of the topics, {largest}")
    for required in ("key.deserializer", "value.deserializer", "enable.auto.commit"):
        if required not in properties:
            yield config.wrong(f"data.{key}: {required}", "is missing")
