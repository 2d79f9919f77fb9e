"""Manifests keep to what Knative accepts and to what the code reads; and the checks would see it if they did not."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.manifests import problems
from tests.support.manifests.documents import find
from tests.support.manifests.kustomize import render
from tests.support.manifests.schema import CRDS, WITHOUT
from tests.support.manifests.settings import programs

ROOT = Path(__file__).parents[2]
FOLDERS = ("knative", "kafka-sources")
OVERLAYS = [
    "knative/base",
    *(f"knative/overlays/{name}" for name in ("dev", "prod", "local-registry")),
    "kafka-sources",
]
VARIANTS = ["without-keda", "sasl", "tls"]
needs_definitions = pytest.mark.skipif(not CRDS.exists(), reason=WITHOUT)
needs_kubectl = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="kubectl, which has kustomize in it, is not here"
)


def test_the_manifests_keep_every_rule() -> None:
    assert problems(ROOT) == []


def test_every_function_is_deployed_and_nothing_else() -> None:
    documents = render(ROOT, "knative/base", [])
    assert {program.document.name: program.holder for program in programs(documents)} == {
        "ingest": "ingest",
        "ingest-grpc": "ingest",
        "index": "index",
        "query": "query",
        "export": "export",
        "migrate": "migrate",
    }


def test_a_file_is_named_after_the_service_in_it() -> None:
    services = find(render(ROOT, "knative/base", []), "Service")
    assert {document.file for document in services} == {f"knative/base/{document.name}.yaml" for document in services}


# What the checks make of a folder is what kustomize makes of it


@needs_kubectl
@pytest.mark.parametrize("folder", OVERLAYS)
def test_kustomize_makes_the_same_of_a_folder(folder: str) -> None:
    assert kustomized(ROOT / folder) == rendered(ROOT, folder)


@needs_kubectl
@pytest.mark.parametrize("variant", VARIANTS)
def test_kustomize_makes_the_same_of_a_variant(variant: str, tmp_path: Path) -> None:
    copy(tmp_path)
    change(tmp_path, "kafka-sources/kustomization.yaml", "# components:", f"components: [variants/{variant}]\n#")
    assert kustomized(tmp_path / "kafka-sources") == rendered(tmp_path, "kafka-sources")


def kustomized(folder: Path) -> dict[str, Any]:
    """What `kubectl kustomize` makes, without the hashes in the names of ConfigMaps."""
    made = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    bodies = list(yaml.safe_load_all(made.stdout))
    maps = [body["metadata"]["name"] for body in bodies if body["kind"] == "ConfigMap"]
    assert len(set(maps)) == len(maps)
    text = made.stdout
    for name in maps:
        assert re.fullmatch(r"[a-z]+-[a-z0-9]{10}", name), "a changed setting would make no new Revision"
        text = text.replace(f"name: {name}\n", f"name: {name[:-11]}\n")
    return {f"{body['kind']} {body['metadata']['name']}": body for body in yaml.safe_load_all(text)}


def rendered(root: Path, folder: str) -> dict[str, Any]:
    found: list[str] = []
    documents = {f"{document.kind} {document.name}": document.body for document in render(root, folder, found)}
    assert not found
    return documents


# Planted mistakes


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A text of a manifest in another's place, and the field that the checks must then name."""

    what: str
    old: str
    new: str
    field: str
    told_of: str = ""
    """The file that is to be named, if it is another one."""
    by_definition: bool = False
    """Whether only the definitions of the kinds tell it."""


INGEST, GRPC, INDEX, QUERY, EXPORT, MIGRATE = (
    f"knative/base/{name}.yaml" for name in ("ingest", "ingest-grpc", "index", "query", "export", "migrate")
)
LOGS = "kafka-sources/logs.yaml"
BASE = "knative/base/kustomization.yaml"
POLICIES = "knative/base/network-policies.yaml"
ALERTS = "knative/platform/alerts.yaml"
MISTAKES: dict[str, list[Mistake]] = {
    INGEST: [
        Mistake("a refusal that becomes a 502", '"Enabled"', '"Disabled"', "http-full-duplex is for ingest"),
        Mistake(
            "a misspelt annotation",
            "autoscaling.knative.dev/min-scale",
            "autoscaling.knative.dev/min-scal",
            "min-scal is no annotation",
        ),
        Mistake("a scale without quotes", 'max-scale: "20"', "max-scale: 20", "max-scale is 20", by_definition=True),
        Mistake(
            "a minimum over the maximum", 'min-scale: "0"', 'min-scale: "21"', "autoscaling.knative.dev/min-scale is 21"
        ),
        Mistake("one pod to begin with", 'activation-scale: "2"', 'activation-scale: "1"', "activation-scale is '1'"),
        Mistake("a target of nothing", 'target: "50"', 'target: "0"', "autoscaling.knative.dev/target is '0'"),
        Mistake(
            "a first byte after the end",
            "responseStartTimeoutSeconds: 30",
            "responseStartTimeoutSeconds: 61",
            "responseStartTimeoutSeconds is not 1 to timeoutSeconds",
        ),
        Mistake(
            "a lifecycle",
            "          ports:",
            "          lifecycle: {}\n          ports:",
            "lifecycle",
            by_definition=True,
        ),
        Mistake(
            "a node selector",
            "      containers:",
            "      nodeSelector: {a: b}\n      containers:",
            "nodeSelector is behind",
        ),
        Mistake(
            "a second port",
            "              containerPort: 8080\n",
            "              containerPort: 8080\n            - containerPort: 9000\n",
            "ports has 2 ports",
        ),
        Mistake("h2c where HTTP/1 is spoken", "name: http1", "name: h2c", "ports[0].name is h2c"),
        Mistake(
            "a probe of no port",
            "{path: /healthz}",
            "{path: /healthz, port: 8081}",
            "readinessProbe.httpGet.port is 8081",
        ),
        Mistake(
            "a threshold without a period",
            "            httpGet: {path: /healthz}\n",
            "            httpGet: {path: /healthz}\n            failureThreshold: 3\n",
            "readinessProbe.failureThreshold",
        ),
        Mistake(
            "a token of Kubernetes",
            "      automountServiceAccountToken: false\n",
            "",
            "spec.template.spec.automountServiceAccountToken",
        ),
        Mistake(
            "a key that the Secret does not have",
            "key: sasl.mechanism",
            "key: mechanism",
            "valueFrom.secretKeyRef names the key mechanism",
        ),
    ],
    "knative/overlays/prod/ingest.yaml": [
        Mistake(
            "a minimum over the maximum, by an overlay",
            'min-scale: "1"',
            'min-scale: "51"',
            "autoscaling.knative.dev/min-scale is 51",
        ),
    ],
    QUERY: [
        Mistake(
            "a retention of days", '"5m"', '"2d"', "autoscaling.knative.dev/scale-to-zero-pod-retention-period is '2d'"
        ),
        Mistake("a timeout too short to drain", "timeoutSeconds: 60\n", "timeoutSeconds: 40\n", "timeoutSeconds is 40"),
        Mistake(
            "a writing claim",
            "emptyDir: {sizeLimit: 64Mi}",
            "persistentVolumeClaim: {claimName: a}",
            "volumes[0].persistentVolumeClaim",
        ),
        Mistake("a reserved port", "containerPort: 8080", "containerPort: 9091", "ports[0].containerPort is 9091"),
        Mistake("a port of another name", "name: http1", "name: web", "ports[0].name is web"),
        Mistake(
            "a root that can be written",
            "readOnlyRootFilesystem: true",
            "readOnlyRootFilesystem: false",
            "readOnlyRootFilesystem is False",
        ),
        Mistake(
            "a Secret mounted to be written",
            "clickhouse, readOnly: true",
            "clickhouse, readOnly: false",
            "volumeMounts[1].readOnly",
        ),
        Mistake("no memory limit", "            limits: {memory: 1Gi}\n", "", "resources.limits.memory is missing"),
        Mistake(
            "a ConfigMap that does not exist",
            "                name: query\n",
            "                name: querry\n",
            "envFrom[1] names the ConfigMap querry",
        ),
        Mistake(
            "a Secret that nobody explains",
            "secretKeyRef: {name: torpor-clickhouse",
            "secretKeyRef: {name: clickhouse",
            "valueFrom.secretKeyRef names the Secret clickhouse",
        ),
    ],
    INDEX: [
        Mistake(
            "a utilization of more than all",
            '"80"',
            '"120"',
            "autoscaling.knative.dev/target-utilization-percentage is '120'",
        ),
        Mistake(
            "a concurrency over 1000", "Concurrency: 32", "Concurrency: 1001", "containerConcurrency is not 0 to 1000"
        ),
        Mistake(
            "a probe of what is behind",
            "path: /healthz",
            "path: /readyz",
            "readinessProbe.httpGet.path is /readyz: expected",
        ),
        Mistake("capabilities that are kept", "drop: [ALL]", "drop: [NET_RAW]", "securityContext.capabilities is"),
        Mistake(
            "index open to the outside",
            "visibility: cluster-local",
            "visibility: public",
            "metadata.labels.networking.knative.dev/visibility",
        ),
    ],
    GRPC: [
        Mistake(
            "autoscaling of the Service, not of its template",
            "spec:\n  template:\n    metadata:\n",
            "spec:\n  template:\n    annotations: {}\n    metadata:\n",
            "spec.template",
            by_definition=True,
        ),
        Mistake("HTTP/1 where gRPC is spoken", "name: h2c", "name: http1", "ports[0].name is http1"),
        Mistake("no probe", "          readinessProbe:\n            tcpSocket: {}\n", "", "readinessProbe is missing"),
        Mistake(
            "a server that is none of ours",
            "functions.ingest.rpc",
            "functions.ingest.grpc",
            "containers[0].image and command",
        ),
        Mistake(
            "a ServiceAccount that does not exist",
            "serviceAccountName: ingest",
            "serviceAccountName: ingest-grpc",
            "serviceAccountName is ingest-grpc",
        ),
    ],
    EXPORT: [
        Mistake("a timeout over 600", "timeoutSeconds: 600", "timeoutSeconds: 900", "timeoutSeconds is 900"),
        Mistake(
            "a default first byte",
            "      responseStartTimeoutSeconds: 120\n",
            "",
            "responseStartTimeoutSeconds is None",
        ),
        Mistake(
            "more exports than the function takes", "Concurrency: 2", "Concurrency: 3", "containerConcurrency is more"
        ),
        Mistake(
            "no emptyDir at /tmp",
            "            - {name: tmp, mountPath: /tmp}\n",
            "",
            "volumeMounts has no emptyDir at /tmp",
        ),
        Mistake(
            "a mount without a volume",
            "{name: tmp, mountPath: /tmp}",
            "{name: temp, mountPath: /tmp}",
            "volumeMounts[0].name is temp",
        ),
    ],
    MIGRATE: [
        Mistake(
            "a Job that never ends", "restartPolicy: Never", "restartPolicy: Always", "spec.restartPolicy is neither"
        ),
        Mistake("a Job that stays", "  ttlSecondsAfterFinished: 300\n", "", "'ttlSecondsAfterFinished' is a required"),
        Mistake(
            "a user that may be root", "            runAsNonRoot: true\n", "", "securityContext.runAsNonRoot is None"
        ),
        Mistake("a reserved variable", "name: CLICKHOUSE_PASSWORD", "name: PORT", "env[0] sets PORT"),
    ],
    "knative/base/settings/query.env": [
        Mistake("a setting that does not exist", "QUERY_TIMEOUT", "QUERY_TIME", "QUERY_TIME is no setting of query"),
        Mistake(
            "a query longer than Knative waits",
            "QUERY_TIMEOUT=30",
            "QUERY_TIMEOUT=60",
            "responseStartTimeoutSeconds is not more than QUERY_TIMEOUT",
            told_of=QUERY,
        ),
    ],
    "knative/base/settings/export.env": [
        Mistake(
            "a setting of another function",
            "MAX_EXPORTS=2",
            "MAX_EXPORTS=2\nROLLUP_SECONDS=1",
            "ROLLUP_SECONDS is no setting",
        ),
        Mistake("a tenant of its own", "TENANT=default", "TENANT=other", "TENANT"),
        Mistake("a setting by whoever deploys", "TENANT=default", "TENANT", "TENANT has no value"),
    ],
    "knative/base/settings/index.env": [
        Mistake("a value that cannot be used", "SECONDS=60", "SECONDS=often", "ROLLUP_SECONDS"),
    ],
    "knative/base/settings/ingest.env": [
        Mistake(
            "limits that contradict", "MAX_WAITING_BYTES=134217728", "MAX_WAITING_BYTES=20971520", "MAX_WAITING_BYTES"
        ),
    ],
    "knative/base/settings/kafka.env": [
        Mistake(
            "a Kafka at localhost",
            "KAFKA_BOOTSTRAP_SERVERS=kafka-kafka-bootstrap.kafka:9092\n",
            "",
            "envFrom does not set KAFKA_BOOTSTRAP_SERVERS",
            told_of=INGEST,
        ),
    ],
    "knative/base/settings/clickhouse.env": [
        Mistake(
            "a password in clear text",
            "CLICKHOUSE_USER=torpor",
            "CLICKHOUSE_USER=torpor\nCLICKHOUSE_PASSWORD=a",
            "CLICKHOUSE_PASSWORD",
        ),
    ],
    "knative/examples/domain-mapping.yaml": [
        Mistake("a mapping to nothing", "    name: query", "    name: search", "spec.ref names"),
    ],
    LOGS: [
        Mistake(
            "a group that no alert knows", "torpor-index", "index", "asks for the consumergroup torpor-index", ALERTS
        ),
        Mistake("a delivery without retry", "    retry: 10\n", "", "spec.delivery.retry is missing"),
        Mistake(
            "no dead-letter sink", "    deadLetterSink:", "    deadLetter:", "spec.delivery.deadLetterSink is missing"
        ),
        Mistake(
            "a field that the webhook refuses",
            "    retry: 10\n",
            "    retry: 10\n    retryAfterMax: PT1M\n",
            "spec.delivery.retryAfterMax",
        ),
        Mistake("a delay that overflows", "retry: 10", "retry: 60", "spec.delivery.retry is 60"),
        Mistake("a duration that is none", "PT0.5S", "500ms", "spec.delivery.backoffDelay"),
        Mistake(
            "a delivery shorter than the function", "timeout: PT150S", "timeout: PT60S", "spec.delivery.timeout is 60 s"
        ),
        Mistake(
            "the offset latest",
            "initialOffset: earliest",
            "initialOffset: latest",
            "spec.initialOffset is not earliest",
        ),
        Mistake("more consumers than partitions", "consumers: 12", "consumers: 13", "spec.consumers is more than"),
        Mistake(
            "a dead-letter sink of another kind",
            "kind: KafkaSink",
            "kind: Service",
            "spec.delivery.deadLetterSink.ref.kind is Service",
        ),
        Mistake(
            "a dead-letter sink that does not exist",
            "name: logs-dead-letter",
            "name: dead",
            "spec.delivery.deadLetterSink.ref names",
        ),
        Mistake("a sink of another group", "serving.knative.dev/v1", "v1", "spec.sink.ref names v1 Service index"),
        Mistake("a topic that does not exist", "    - logs\n", "    - log\n", "spec.topics[0] is log"),
        Mistake(
            "an annotation that does nothing",
            "knative.dev/lag-threshold",
            "knative.dev/activation-lag-threshold",
            "activation-lag-threshold is no annotation",
        ),
        Mistake(
            "an unknown field of a source",
            "  consumers: 12",
            "  consumer: 1\n  consumers: 12",
            "consumer",
            by_definition=True,
        ),
    ],
    "kafka-sources/cluster/data-plane.yaml": [
        Mistake(
            "fetches smaller than an event",
            "fetch.bytes=4194304",
            "fetch.bytes=65536",
            "max.partition.fetch.bytes is less",
        ),
    ],
    "kafka-sources/variants/sasl/logs.yaml": [
        Mistake(
            "a variant with a key that the Secret does not have",
            "key: user}",
            "key: username}",
            "spec.net.sasl.user.secretKeyRef names the key username",
        ),
    ],
    "kafka-sources/topics.yaml": [
        Mistake(
            "a topic that survives no loss",
            "  replicas: 3\n",
            "  replicas: 2\n",
            "spec.config.min.insync.replicas is 2",
        ),
        Mistake(
            "a topic of another Kafka",
            "strimzi.io/cluster: kafka",
            "strimzi.io/cluster: logs",
            "strimzi.io/cluster names logs",
        ),
    ],
    "knative/platform/kafka.yaml": [
        Mistake(
            "a Kafka elsewhere",
            "kind: Kafka\nmetadata:\n  name: kafka",
            "kind: Kafka\nmetadata:\n  name: other",
            "spec.bootstrapServers[0] is",
            told_of=LOGS,
        ),
        Mistake(
            "an unknown field of Kafka",
            "    listeners:",
            "    listener: []\n    listeners:",
            "spec.kafka",
            by_definition=True,
        ),
    ],
    "knative/platform/clickhouse.yaml": [
        Mistake("a keeper of another name", "host: keeper-torpor", "host: keeper", "zookeeper.nodes[0].host"),
        Mistake("a layout that is none", "shardsCount: 2", "shards: 2", "layout", by_definition=True),
    ],
    ALERTS: [
        Mistake(
            "an alert on what nobody counts",
            "torpor_index_dead_letters_total",
            "torpor_dead_letters_total",
            ".expr names torpor_dead_letters_total",
        ),
        Mistake(
            "an alert on a label that is not there",
            '{outcome="broken"}',
            '{result="broken"}',
            ".expr asks torpor_export_requests_total for result",
        ),
        Mistake(
            "an alert without a runbook",
            "            runbook: >-\n              `make dead-letters` lists",
            "            book: >-\n              `make dead-letters` lists",
            "annotations.runbook is missing",
        ),
    ],
    "knative/platform/pod-monitors.yaml": [
        Mistake("a port that nobody has", "port: user-port", "port: metrics", "podMetricsEndpoints[0].port is metrics"),
        Mistake("a monitor of nothing", "[ingest, index,", "[injest, index,", "values has injest"),
    ],
    POLICIES: [
        Mistake("a policy that lets ask no names", "port: 53}", "port: 54}", "egress UDP 53 of kube-system", INGEST),
        Mistake("a policy that keeps the gateway out", "port: 8012", "port: 8080", "TCP 8012 of kourier-system", QUERY),
        Mistake(
            "a policy for nobody", "component: migrate", "component: migration", "spec.podSelector chooses nothing"
        ),
        Mistake(
            "a policy that forgets a function",
            "values: [index, query, export, migrate]",
            "values: [index, query, migrate]",
            "are chosen by no NetworkPolicy that lets egress TCP 8123 of clickhouse",
            told_of=EXPORT,
        ),
        Mistake(
            "a policy that lets in everybody",
            "    - from:\n        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}\n",
            "    - from: []\n",
            "spec.ingress[0] lets in or out more",
        ),
        Mistake(
            "a namespace that is not there",
            "metadata.name: knative-serving",
            "metadata.name: knative-server",
            "spec.ingress[0].from names the namespace knative-server",
        ),
        Mistake("a policy with a field that is none", "policyTypes: [Ingress]", "policyType: [Ingress]", "spec"),
    ],
    "knative/overlays/prod/query.yaml": [
        Mistake("a patch of what is not there", "  name: query", "  name: search", "patches"),
    ],
    "knative/overlays/dev/kustomization.yaml": [
        Mistake(
            "a path that is not there",
            "requests/cpu",
            "requests/cores",
            "patches /spec/template/spec/containers/0/resources/requests/cores",
        ),
        Mistake("settings of nothing", "name: migrate\n", "name: migration\n", "configMapGenerator migration"),
    ],
    "knative/overlays/prod/export.yaml": [
        Mistake("a difference that is none", '"20"', '"10"', "autoscaling.knative.dev/max-scale is '10' already"),
    ],
    "knative/overlays/local-registry/kustomization.yaml": [
        Mistake("an image that nothing is of", "name: torpor-query,", "name: torpor-search,", "images.torpor-search"),
    ],
    BASE: [
        Mistake(
            "a file that is not there",
            "  - migrate.yaml",
            "  - migration.yaml",
            "cannot be read",
            told_of="knative/base/migration.yaml",
        ),
    ],
}


@pytest.mark.parametrize(
    ("file", "mistake"),
    [
        pytest.param(file, mistake, id=mistake.what, marks=needs_definitions if mistake.by_definition else ())
        for file, mistakes in MISTAKES.items()
        for mistake in mistakes
    ],
)
def test_a_mistake_is_told_with_file_and_field(file: str, mistake: Mistake, tmp_path: Path) -> None:
    copy(tmp_path)
    change(tmp_path, file, mistake.old, mistake.new)
    told = problems(tmp_path)
    named = mistake.told_of or file
    assert any(named in line and mistake.field in line for line in told), "\n".join(told) or "nothing was told"


def copy(folder: Path) -> None:
    """The manifests in a folder where they can be changed."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name)


def change(root: Path, file: str, old: str, new: str) -> None:
    """Put `new` where `old` first stands."""
    text = (root / file).read_text()
    assert old in text, f"{file} no longer has {old!r}: plant this mistake anew"
    (root / file).write_text(text.replace(old, new, 1))
