"""What Knative Serving's webhook refuses beyond the schema, and what it lets through although it does nothing.

Knative Serving 1.23: pkg/apis/autoscaling/annotation_validation.go, pkg/apis/serving/{k8s_validation,fieldmask}.go and
v1/revision_validation.go, with the feature flags as they are by default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from functions.common.host import DRAIN_SECONDS
from tests.support.manifests.documents import Document

AUTOSCALING = "autoscaling.knative.dev/"
FULL_DUPLEX = "features.knative.dev/http-full-duplex"
VISIBILITY = "networking.knative.dev/visibility"
_QUIET_SECONDS = 30
"""How long queue-proxy waits for new requests before a pod that is to end is told so."""
_LONGEST = 600
_RESERVED_PORTS = {8008, 8012, 8013, 8022, 9090, 9091}
_POD_FIELDS = {
    "automountServiceAccountToken", "containerConcurrency", "containers", "enableServiceLinks", "idleTimeoutSeconds",
    "imagePullSecrets", "responseStartTimeoutSeconds", "serviceAccountName", "timeoutSeconds", "volumes",
}  # fmt: skip
"""Those that no feature flag guards."""
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}

Check = Callable[[str], bool]


def _number(kind: type[int] | type[float], low: float, high: float = 1e9) -> Check:
    def check(text: str) -> bool:
        try:
            return low <= kind(text) <= high
        except ValueError:
            return False

    return check


def _duration(low: float, high: float) -> Check:
    def check(text: str) -> bool:
        if not re.fullmatch(r"(\d+(ms|s|m|h))+", text):
            return False
        seconds = sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+)(ms|s|m|h)", text))
        return low <= seconds <= high and seconds == int(seconds)

    return check


def _one_of(*values: str) -> Check:
    return lambda text: text in values


ANNOTATIONS: dict[str, Check] = {
    AUTOSCALING + "class": _one_of("kpa.autoscaling.knative.dev"),  # the other one does not go to zero
    AUTOSCALING + "metric": _one_of("concurrency", "rps"),
    AUTOSCALING + "target": _number(float, 0.01),
    AUTOSCALING + "target-utilization-percentage": _number(float, 1, 100),
    AUTOSCALING + "min-scale": _number(int, 0),
    AUTOSCALING + "max-scale": _number(int, 0),
    AUTOSCALING + "initial-scale": _number(int, 1),
    AUTOSCALING + "activation-scale": _number(int, 2),
    AUTOSCALING + "scale-down-delay": _duration(0, 3600),
    AUTOSCALING + "window": _duration(6, 3600),
    AUTOSCALING + "panic-window-percentage": _number(float, 1, 100),
    AUTOSCALING + "panic-threshold-percentage": _number(float, 110, 1000),
    AUTOSCALING + "scale-to-zero-pod-retention-period": _duration(0, 3600),
    AUTOSCALING + "target-burst-capacity": _number(float, -1),
    AUTOSCALING + "metric-aggregation-algorithm": _one_of("linear", "weighted-exponential"),
    "serving.knative.dev/progress-deadline": _duration(1, 3600),
    FULL_DUPLEX: _one_of("Enabled", "Disabled"),
    **{
        f"queue.sidecar.serving.knative.dev/{what}-resource-{which}": lambda text: bool(text)
        for what in ("cpu", "memory", "ephemeral-storage")
        for which in ("request", "limit")
    },
}
"""Annotations of a template that do something. An unknown one is not refused by Knative: it does nothing."""


def serving_problems(document: Document) -> list[str]:
    """The problems of a Knative Service besides those of its pod."""
    if not document.is_function():
        return []
    return [*_annotations(document), *_revision(document), *_service(document)]


def _annotations(document: Document) -> Iterator[str]:
    annotations = document.get("spec.template.metadata.annotations") or {}
    for key, value in annotations.items():
        field = f"spec.template.metadata.annotations.{key}"
        if key not in ANNOTATIONS:
            yield document.wrong(field, "is no annotation that Knative heeds on a template")
        elif not isinstance(value, str):
            yield document.wrong(field, f"is {value!r}: expected a text in quotes")
        elif not ANNOTATIONS[key](value):
            yield document.wrong(field, f"is {value!r}, which is out of its range")
    for key in ("min-scale", "max-scale"):
        if AUTOSCALING + key not in annotations:
            yield document.wrong(f"spec.template.metadata.annotations.{AUTOSCALING}{key}", "is missing")
    yield from _scales(document, annotations)
    # A refusal before the body was read becomes a 502 without it; with HTTP/2 the two do not go together.
    if (annotations.get(FULL_DUPLEX) == "Enabled") != (document.name == "ingest"):
        yield document.wrong(f"spec.template.metadata.annotations.{FULL_DUPLEX}", "is for ingest, and for ingest only")


def _scales(document: Document, annotations: dict[str, Any]) -> Iterator[str]:
    low, start, high = (
        int(text) if re.fullmatch(r"\d+", text := str(annotations.get(AUTOSCALING + key, default))) else 0
        for key, default in (("min-scale", "0"), ("activation-scale", "2"), ("max-scale", "0"))
    )
    field = f"spec.template.metadata.annotations.{AUTOSCALING}"
    if high and low > high:
        yield document.wrong(field + "min-scale", f"is {low}, more than max-scale, {high}")
    if AUTOSCALING + "activation-scale" in annotations and (start < low or (high and start > high)):
        yield document.wrong(field + "activation-scale", f"is {start}, not from min-scale to max-scale")


def _revision(document: Document) -> Iterator[str]:
    spec = (document.pod() or {}).get("spec") or {}
    values: dict[str, Any] = {
        key: spec.get(key) for key in ("containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds")
    }
    for key, value in values.items():
        # Written out, all three: the default of one depends on another, and has cut off answers.
        if not isinstance(value, int):
            yield document.wrong(f"spec.template.spec.{key}", f"is {value!r}: expected a number")
            return
    if not 0 <= values["containerConcurrency"] <= 1000:
        yield document.wrong("spec.template.spec.containerConcurrency", "is not 0 to 1000")
    least = _QUIET_SECONDS + DRAIN_SECONDS
    if not least <= values["timeoutSeconds"] <= _LONGEST:
        yield document.wrong(
            "spec.template.spec.timeoutSeconds",
            f"is {values['timeoutSeconds']}: expected {least}, which a pod needs to end in order, to {_LONGEST}",
        )
    if not 0 < values["responseStartTimeoutSeconds"] <= values["timeoutSeconds"]:
        yield document.wrong("spec.template.spec.responseStartTimeoutSeconds", "is not 1 to timeoutSeconds")
    for key in spec.keys() - _POD_FIELDS:
        yield document.wrong(f"spec.template.spec.{key}", "is behind a feature flag that is off")
    # It would also count writing, which streams and WebSockets do not always do.
    if spec.get("idleTimeoutSeconds"):
        yield document.wrong("spec.template.spec.idleTimeoutSeconds", "is set")


def _service(document: Document) -> Iterator[str]:
    name = document.get("spec.template.metadata.name")
    if name is not None and not str(name).startswith(f"{document.name}-"):
        yield document.wrong("spec.template.metadata.name", f"does not begin with {document.name}-")
    ports = [(field, port) for field, container in document.containers() for port in container.get("ports") or []]
    if len(ports) != 1:
        yield document.wrong("spec.template.spec.containers[0].ports", f"has {len(ports)} ports: Knative takes one")
    for field, port in ports:
        number = port.get("containerPort")
        if not isinstance(number, int) or not 0 < number < 65536 or number in _RESERVED_PORTS:
            yield document.wrong(f"{field}.ports[0].containerPort", f"is {number}, which is no port or is reserved")
        if port.get("name", "http1") not in ("http1", "h2c"):
            yield document.wrong(f"{field}.ports[0].name", f"is {port['name']}: expected http1 or h2c")
        # Of the functions only the gRPC server speaks HTTP/2, and it speaks nothing else.
        wanted = "h2c" if document.name == "ingest-grpc" else "http1"
        if port.get("name", "http1") in ("http1", "h2c") and port.get("name", "http1") != wanted:
            yield document.wrong(f"{field}.ports[0].name", f"is {port.get('name')}: this server speaks {wanted}")
        if port.get("protocol", "TCP") != "TCP":
            yield document.wrong(f"{field}.ports[0].protocol", "is not TCP")
    private = (document.get("metadata.labels") or {}).get(VISIBILITY) == "cluster-local"
    if private != (document.name == "index"):
        what = "is open to the outside" if not private else "is closed to the outside"
        yield document.wrong(f"metadata.labels.{VISIBILITY}", f"says that {document.name} {what}")
