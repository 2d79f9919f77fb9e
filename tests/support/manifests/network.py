"""Network policies: they choose pods that exist, and let through what is needed and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tests.support.manifests.documents import Document, dig, find
from tests.support.manifests.settings import Program, programs

_ELSEWHERE = {"kourier-system", "knative-serving", "kube-system", "monitoring"}
"""Namespaces that others make."""


def network_problems(documents: list[Document]) -> list[str]:
    """The problems of the network policies among `documents`."""
    found = [problem for policy in find(documents, "NetworkPolicy") for problem in _policy(policy, documents)]
    return [*found, *_covered(documents)]


def labels(document: Document) -> dict[str, str]:
    """The labels that pods of a Service or Job have."""
    own = dig(document.pod() or {}, ["metadata", "labels"]) or {}
    return {**own, "serving.knative.dev/service": document.name} if document.is_function() else dict(own)


def chooses(selector: dict[str, Any], found: dict[str, str]) -> bool:
    """Whether a label selector chooses what has the labels `found`."""
    operators: dict[str, Callable[[str, list[str]], bool]] = {
        "In": lambda key, values: found.get(key) in values,
        "NotIn": lambda key, values: found.get(key) not in values,
        "Exists": lambda key, values: key in found,
        "DoesNotExist": lambda key, values: key not in found,
    }
    return all(found.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()) and all(
        expression.get("operator") in operators
        and operators[expression["operator"]](expression.get("key", ""), expression.get("values") or [])
        for expression in selector.get("matchExpressions") or []
    )


def selector_problems(document: Document, field: str, pods: list[dict[str, str]]) -> Iterator[str]:
    """What a selector names that no pod has."""
    selector = document.get(field) or {}
    if not any(chooses(selector, pod) for pod in pods):
        yield document.wrong(field, "chooses nothing")
    for number, expression in enumerate(selector.get("matchExpressions") or []):
        known = {pod.get(expression.get("key", "")) for pod in pods}
        for value in set(expression.get("values") or []) - known:
            yield document.wrong(f"{field}.matchExpressions[{number}].values", f"has {value}, which no pod has")


def pods(documents: list[Document], namespace: str) -> list[dict[str, str]]:
    """The labels of all pods of a namespace."""
    return [labels(document) for document in documents if document.pod() and document.namespace == namespace]


def _policy(document: Document, documents: list[Document]) -> Iterator[str]:
    yield from selector_problems(document, "spec.podSelector", pods(documents, document.namespace))
    if not any((document.get("spec.podSelector") or {}).values()):
        yield document.wrong("spec.podSelector", "chooses everything")
    namespaces = _ELSEWHERE | {other.name for other in find(documents, "Namespace")}
    for way, side in (("ingress", "from"), ("egress", "to")):
        for number, rule in enumerate(document.get(f"spec.{way}") or []):
            field = f"spec.{way}[{number}]"
            if not rule.get(side) or not all("port" in port for port in rule.get("ports") or [{}]):
                yield document.wrong(field, f"lets in or out more than it names: {side} and ports are both needed")
            for peer in rule.get(side) or []:
                if "ipBlock" not in peer and _namespace(peer) not in namespaces:
                    yield document.wrong(
                        f"{field}.{side}", f"names the namespace {_namespace(peer)}, which is not there"
                    )
        if document.get(f"spec.{way}") and way.capitalize() not in (document.get("spec.policyTypes") or []):
            yield document.wrong("spec.policyTypes", f"lacks {way.capitalize()}")


def _covered(documents: list[Document]) -> Iterator[str]:
    """Every pod has its policies, and they let it reach and be reached as it must."""
    policies = find(documents, "NetworkPolicy")
    for program in programs(documents):
        pod = program.document
        chosen = [
            policy
            for policy in policies
            if policy.namespace == pod.namespace and chooses(policy.get("spec.podSelector") or {}, labels(pod))
        ]
        for way in ("Ingress", "Egress"):
            if not any(way in (policy.get("spec.policyTypes") or []) for policy in chosen):
                yield pod.wrong("spec.template.metadata.labels", f"are chosen by no NetworkPolicy for {way}")
        for way, protocol, namespace, port in _ways(program):
            if not any(_lets(policy, way, protocol, namespace, port) for policy in chosen):
                what = f"are chosen by no NetworkPolicy that lets {way} {protocol} {port} of {namespace}"
                yield pod.wrong("spec.template.metadata.labels", what)


def _ways(program: Program) -> Iterator[tuple[str, str, str, str]]:
    """Way, protocol, namespace and port of all that a pod must reach and be reached by."""
    for protocol in ("UDP", "TCP"):
        yield "egress", protocol, "kube-system", "53"
    store = f"{program.values.get('CLICKHOUSE_HOST', '')}:{program.values.get('CLICKHOUSE_PORT', '')}".strip(":")
    for address in (*program.values.get("KAFKA_BOOTSTRAP_SERVERS", "").split(","), store):
        host, _, port = address.rpartition(":")
        if address:
            yield "egress", "TCP", host.partition(".")[2], port
    if program.document.is_function():
        # The queue-proxy listens for HTTP/1, for HTTP/2 and for the autoscaler; the function itself is only read.
        for namespace in ("kourier-system", "knative-serving"):
            yield "ingress", "TCP", namespace, "8013" if program.document.name == "ingest-grpc" else "8012"
        yield "ingress", "TCP", "knative-serving", "9090"
        yield "ingress", "TCP", "monitoring", "9091"
        yield "ingress", "TCP", "monitoring", "8080"


def _lets(policy: Document, way: str, protocol: str, namespace: str, port: str) -> bool:
    side = "to" if way == "egress" else "from"
    return any(
        (protocol, port) in {(one.get("protocol", "TCP"), str(one.get("port"))) for one in rule.get("ports") or []}
        and any(_namespace(peer) == namespace for peer in rule.get(side) or [])
        for rule in policy.get(f"spec.{way}") or []
    )


def _namespace(peer: dict[str, Any]) -> str:
    return str(dig(peer, ["namespaceSelector", "matchLabels", "kubernetes.io/metadata.name"], ""))
