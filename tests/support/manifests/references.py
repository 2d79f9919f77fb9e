"""Names in manifests: what they name is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.support.manifests.documents import Document, dig, find
from tests.support.manifests.settings import programs


def reference_problems(documents: list[Document]) -> list[str]:
    """References to what is not there."""
    found: list[str] = []
    for document in documents:
        found += [*_secrets(document, documents), *_pod(document, documents), *_objects(document, documents)]
    return [*found, *_topics(documents), *_addresses(documents), *_keepers(documents)]


def _secrets(document: Document, documents: list[Document]) -> Iterator[str]:
    """Secrets are those of knative/examples/secrets.yaml, where each key is explained."""
    for field, name, key in _secret_keys(document.body, ""):
        known = find(documents, "Secret", name, document.namespace)
        if not known:
            yield document.wrong(field, f"names the Secret {name}, which knative/examples/secrets.yaml does not have")
        elif key and key not in known[0].body["stringData"]:
            yield document.wrong(field, f"names the key {key}, which the Secret {name} does not have")


def _secret_keys(value: Any, field: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield from _secret_keys(part, f"{field}[{number}]")
    elif isinstance(value, dict):
        for key, part in value.items():
            where = f"{field}.{key}".lstrip(".")
            if key == "secretKeyRef":
                yield where, part.get("name", ""), part.get("key", "")
            elif key == "secretName":
                yield where, str(part), ""
            elif key == "secret" and isinstance(part, dict) and "ref" in part:
                yield f"{where}.ref", part["ref"].get("name", ""), ""
            else:
                yield from _secret_keys(part, where)


def _pod(document: Document, documents: list[Document]) -> Iterator[str]:
    account = dig(document.pod() or {}, ["spec", "serviceAccountName"])
    if account and not find(documents, "ServiceAccount", account, document.namespace):
        yield document.wrong("spec.template.spec.serviceAccountName", f"is {account}, which does not exist")
    for field, container in document.containers():
        for number, source in enumerate(container.get("envFrom") or []):
            name = dig(source, ["configMapRef", "name"])
            if not find(documents, "ConfigMap", name, document.namespace):
                yield document.wrong(f"{field}.envFrom[{number}]", f"names the ConfigMap {name}, which does not exist")
    if document.kind == "ServiceAccount" and document.body.get("automountServiceAccountToken") is not False:
        yield document.wrong("automountServiceAccountToken", "is not false")
    if document.kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
        yield document.wrong("kind", f"is {document.kind}: the functions ask nothing of Kubernetes")


def _objects(document: Document, documents: list[Document]) -> Iterator[str]:
    wanted = {
        "KafkaSource": [("spec.sink.ref", "Service"), ("spec.delivery.deadLetterSink.ref", "KafkaSink")],
        "DomainMapping": [("spec.ref", "Service")],
    }
    for field, kind in wanted.get(document.kind, []):
        ref = document.get(field) or {}
        there = [
            other
            for other in find(documents, str(ref.get("kind")), str(ref.get("name")), document.namespace)
            if other.body.get("apiVersion") == ref.get("apiVersion")
        ]
        if ref.get("kind") != kind:
            yield document.wrong(f"{field}.kind", f"is {ref.get('kind')}: expected {kind}")
        elif not there:
            yield document.wrong(field, f"names {ref.get('apiVersion')} {kind} {ref.get('name')}, which does not exist")
    if document.group == "kafka.strimzi.io" and document.kind != "Kafka":
        cluster = (document.get("metadata.labels") or {}).get("strimzi.io/cluster")
        if not find(documents, "Kafka", cluster or "", document.namespace):
            yield document.wrong("metadata.labels.strimzi.io/cluster", f"names {cluster}, which does not exist")


def _topics(documents: list[Document]) -> Iterator[str]:
    topics = {document.name for document in find(documents, "KafkaTopic")}
    for document in documents:
        names = document.get("spec.topics") or [] if document.kind == "KafkaSource" else []
        for number, name in enumerate(names):
            if name not in topics:
                yield document.wrong(f"spec.topics[{number}]", f"is {name}, which is no topic")
        if document.kind == "KafkaSink" and document.get("spec.topic") not in topics:
            yield document.wrong("spec.topic", f"is {document.get('spec.topic')}, which is no topic")
    for program in programs(documents):
        for variable in ("KAFKA_TOPIC", "KAFKA_DEAD_LETTER_TOPIC"):
            if variable in program.values and program.values[variable] not in topics:
                yield f"{program.places[variable]} is {program.values[variable]}, which is no topic"


def _addresses(documents: list[Document]) -> Iterator[str]:
    """Addresses of Kafka and ClickHouse are those of knative/platform."""
    kafkas = {
        f"{kafka.name}-kafka-bootstrap.{kafka.namespace}:{listener['port']}"
        for kafka in find(documents, "Kafka")
        for listener in kafka.get("spec.kafka.listeners")
    }
    stores = {f"clickhouse-{store.name}.{store.namespace}" for store in find(documents, "ClickHouseInstallation")}
    for program in programs(documents):
        for variable, known in (("KAFKA_BOOTSTRAP_SERVERS", kafkas), ("CLICKHOUSE_HOST", stores)):
            for address in program.values.get(variable, "").split(","):
                if address and address not in known:
                    yield f"{program.places[variable]} is {address}: expected {' or '.join(sorted(known))}"
    for document in find(documents, "KafkaSource") + find(documents, "KafkaSink"):
        for number, address in enumerate(document.get("spec.bootstrapServers") or []):
            if address not in kafkas:
                yield document.wrong(f"spec.bootstrapServers[{number}]", f"is {address}, where no Kafka is")


def _keepers(documents: list[Document]) -> Iterator[str]:
    keepers = {f"keeper-{one.name}" for one in find(documents, "ClickHouseKeeperInstallation")}
    for store in find(documents, "ClickHouseInstallation"):
        for number, node in enumerate(store.get("spec.configuration.zookeeper.nodes") or []):
            if node.get("host") not in keepers:
                yield store.wrong(f"spec.configuration.zookeeper.nodes[{number}].host", f"is {node.get('host')}")
