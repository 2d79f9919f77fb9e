"""What is deployed together, checked together: each overlay, and each variant of the source."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from tests.support.manifests.documents import Document, dig, find, read
from tests.support.manifests.eventing import eventing_problems
from tests.support.manifests.kustomize import render
from tests.support.manifests.monitoring import monitoring_problems
from tests.support.manifests.network import network_problems
from tests.support.manifests.pods import pod_problems
from tests.support.manifests.references import reference_problems
from tests.support.manifests.schema import schema_problems
from tests.support.manifests.serving import serving_problems
from tests.support.manifests.settings import settings_problems

BASE = "knative/base"
SOURCES = "kafka-sources"


def problems(root: Path) -> list[str]:
    """All problems of the manifests under `root`, each once."""
    found: list[str] = []
    for functions, variant in deployments(root):
        documents = deployed(root, functions, variant, found)
        for document in documents:
            found += [*schema_problems(document), *pod_problems(document), *serving_problems(document)]
        found += [*eventing_problems(documents), *settings_problems(documents), *reference_problems(documents)]
        found += [*network_problems(documents), *monitoring_problems(documents)]
        found += [*_named_once(documents), *_replicated(documents)]
    return list(dict.fromkeys(found))


def deployments(root: Path) -> list[tuple[str, str]]:
    """Every folder of functions with the plain source, and the base with every variant of the source."""
    overlays, variants = (
        sorted(str(path.parent.relative_to(root)) for path in root.glob(f"{folder}/*/kustomization.yaml"))
        for folder in ("knative/overlays", f"{SOURCES}/variants")
    )
    return [(folder, "") for folder in (BASE, *overlays)] + [(BASE, variant) for variant in variants]


def deployed(root: Path, functions: str, variant: str, found: list[str]) -> list[Document]:
    """The documents of a deployment, with those that are applied by themselves."""
    alone = [f"{SOURCES}/topics.yaml"]
    for folder in (f"{SOURCES}/cluster", "knative/platform", "knative/examples"):
        alone += sorted(str(path.relative_to(root)) for path in (root / folder).glob("*.yaml"))
    documents = render(root, functions, found) + render(root, SOURCES, found)
    if variant:
        documents = render(root, variant, found, documents)
    return documents + list(itertools.chain.from_iterable(read(root, file, found) for file in alone))


def _named_once(documents: list[Document]) -> list[str]:
    keys = [(document.group, document.kind, document.namespace, document.name) for document in documents]
    names = Counter(keys)
    return [
        document.wrong("metadata.name", f"is that of {names[key]} documents")
        for document, key in zip(documents, keys, strict=True)
        if names[key] > 1
    ]


def _replicated(documents: list[Document]) -> list[str]:
    """A topic survives the loss of a broker, and replicas of the store have a keeper."""
    found = []
    brokers = sum(pool.get("spec.replicas", 0) for pool in find(documents, "KafkaNodePool"))
    for topic in find(documents, "KafkaTopic"):
        in_sync = int((topic.get("spec.config") or {}).get("min.insync.replicas", 1))
        replicas = topic.get("spec.replicas", 1)
        if not 1 < in_sync < replicas <= brokers:
            found.append(topic.wrong("spec.config.min.insync.replicas", f"is {in_sync}, with {replicas} replicas"))
    for store in find(documents, "ClickHouseInstallation"):
        clusters = store.get("spec.configuration.clusters") or []
        replicated = any(dig(cluster, ["layout", "replicasCount"], 1) > 1 for cluster in clusters)
        if replicated and not store.get("spec.configuration.zookeeper.nodes"):
            found.append(store.wrong("spec.configuration.clusters", "has replicas without a keeper"))
    return found
