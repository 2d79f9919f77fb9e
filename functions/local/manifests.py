"""The manifests in kafka-sources/ as Knative understands them, with its defaults.

Read are the KafkaSource and the KafkaSinks; every other kind is passed over. What is wrong is told with file and field.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from functions.common.config import ConfigError

_DURATION = re.compile(r"P(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:[.,]\d+)?)S)?)?", re.ASCII)
_TIMEOUT = "PT600S"
_REQUIRED = object()


class ManifestError(ConfigError):
    """A manifest that cannot be used; the message names its file and field."""


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where events go: a Kubernetes object by kind and name, or an address."""

    kind: str = ""
    name: str = ""
    uri: str = ""


@dataclasses.dataclass(frozen=True)
class DeliverySpec:
    """How often and how long a delivery is tried, in seconds. The defaults are those of a source without `delivery`."""

    retry: int = 10
    policy: str = "exponential"
    delay: float = 0.3
    timeout: float = 600.0
    dead_letter: Destination | None = None

    def backoff(self, number: int) -> float:
        """Seconds to wait before retry `number`, counted from 1."""
        return self.delay * (number if self.policy == "linear" else 2**number)


@dataclasses.dataclass(frozen=True)
class Source:
    """A KafkaSource."""

    name: str
    namespace: str
    topics: tuple[str, ...]
    group: str
    sink: Destination
    consumers: int = 1
    initial_offset: str = "latest"
    ordered: bool = True
    delivery: DeliverySpec = DeliverySpec()
    extensions: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Manifests:
    """The KafkaSource, and the topic of every KafkaSink by its name."""

    source: Source
    sink_topics: Mapping[str, str]


def read_manifests(directory: Path) -> Manifests:
    """Read all documents of `directory`/*.yaml. Raises ManifestError if one is wrong, or KafkaSources are not one."""
    documents = [document for path in sorted(directory.glob("*.yaml")) for document in _documents(path)]
    sources = [_source(document) for document in documents if document.body.get("kind") == "KafkaSource"]
    sinks = [document for document in documents if document.body.get("kind") == "KafkaSink"]
    if len(sources) != 1:
        raise ManifestError(f"{directory} has {len(sources)} manifests of a KafkaSource: expected 1")
    return Manifests(sources[0], {sink.text("metadata.name"): sink.text("spec.topic") for sink in sinks})


def seconds(duration: str) -> float:
    """Seconds of an ISO 8601 duration of days and less (PT0.5S). Raises ValueError if it is none."""
    match = _DURATION.fullmatch(duration)
    if not match or not any(match.groups()):
        raise ValueError(f"{duration!r} is no duration: expected one like PT0.5S")
    days, hours, minutes, rest = (float((part or "0").replace(",", ".")) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


@dataclasses.dataclass(frozen=True)
class _Document:
    """One document of a file, read field by field."""

    path: Path
    body: dict[str, Any]

    def wrong(self, field: str, problem: str) -> ManifestError:
        return ManifestError(f"{self.path}: {field} {problem}")

    def get(self, field: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The field's value, or `default` if it is absent or null."""
        value: Any = self.body
        for name in field.split("."):
            if value is not None and not isinstance(value, dict):
                raise self.wrong(field, f"cannot be read: {name} is inside of something else than a mapping")
            value = value.get(name) if value else None
        if value is None:
            if default is _REQUIRED:
                raise self.wrong(field, "is missing")
            return default
        # To Python, true is a number.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.wrong(field, f"is {value!r}: expected {kind.__name__}")
        return value

    def text(self, field: str, default: Any = _REQUIRED) -> str:
        return str(self.get(field, str, default))

    def count(self, field: str, default: int) -> int:
        value = int(self.get(field, int, default))
        if value < 0:
            raise self.wrong(field, f"is {value}: expected 0 or more")
        return value

    def choice(self, field: str, choices: Iterable[str]) -> str:
        """One of the choices; the first is the default."""
        first, *others = choices
        value = self.text(field, first)
        if value not in (first, *others):
            raise self.wrong(field, f"is {value!r}: expected {' or '.join((first, *others))}")
        return value

    def seconds(self, field: str, default: str) -> float:
        try:
            return seconds(self.text(field, default))
        except ValueError as error:
            raise self.wrong(field, f"is wrong: {error}") from None

    def destination(self, field: str) -> Destination | None:
        if not self.get(field, dict, None):
            return None
        if uri := self.text(f"{field}.uri", ""):
            return Destination(uri=uri)
        return Destination(self.text(f"{field}.ref.kind"), self.text(f"{field}.ref.name"))


def _documents(path: Path) -> list[_Document]:
    try:
        bodies = list(yaml.safe_load_all(path.read_text()))
    except yaml.YAMLError as error:
        raise ManifestError(f"{path} is no YAML: {error}") from None
    return [_Document(path, body) for body in bodies if isinstance(body, dict)]


def _source(document: _Document) -> Source:
    name = document.text("metadata.name")
    topics = document.get("spec.topics", list)
    if not topics or not all(isinstance(topic, str) for topic in topics):
        raise document.wrong("spec.topics", f"is {topics!r}: expected names of topics")
    sink = document.destination("spec.sink")
    if not sink:
        raise document.wrong("spec.sink", "is missing")
    extensions = document.get("spec.ceOverrides.extensions", dict, {})
    return Source(
        name=name,
        namespace=document.text("metadata.namespace", "default"),
        topics=tuple(topics),
        group=document.text("spec.consumerGroup", f"knative-kafka-source-{name}"),
        sink=sink,
        consumers=document.count("spec.consumers", 1),
        initial_offset=document.choice("spec.initialOffset", ("latest", "earliest")),
        ordered=document.choice("spec.ordering", ("ordered", "unordered")) == "ordered",
        delivery=_delivery(document),
        extensions={str(key): str(value) for key, value in extensions.items()},
    )


def _delivery(document: _Document) -> DeliverySpec:
    if document.get("spec.delivery", dict, None) is None:
        return DeliverySpec()
    # With a `delivery`, what it leaves out has other defaults than without one: no retries at all.
    return DeliverySpec(
        retry=document.count("spec.delivery.retry", 0),
        policy=document.choice("spec.delivery.backoffPolicy", ("exponential", "linear")),
        delay=document.seconds("spec.delivery.backoffDelay", "PT0.2S"),
        timeout=document.seconds("spec.delivery.timeout", _TIMEOUT) or seconds(_TIMEOUT),
        dead_letter=document.destination("spec.delivery.deadLetterSink"),
    )
