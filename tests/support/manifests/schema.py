"""Documents by the definitions of their kinds, as strictly as `kubectl --validate=strict`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.support.manifests.documents import Document

CRDS = Path(__file__).parents[4] / "shared" / "crds"
"""Definitions of the kinds of Knative, Strimzi and the others; they are not part of the project."""
WITHOUT = "the resource definitions of Knative, Strimzi and the others are not part of the project"

TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NUMBER = {"type": "integer", "minimum": 0}


def _object(required: str = "", /, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_OPERATOR = {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]}
_EXPRESSION = _object("key operator", key=TEXT, operator=_OPERATOR, values=_list(TEXT))
_SELECTOR = _object(matchLabels=TEXTS, matchExpressions=_list(_EXPRESSION))
_BLOCK = {"type": "object", "required": ["cidr"]}
_PEER = _object(namespaceSelector=_SELECTOR, podSelector=_SELECTOR, ipBlock=_BLOCK)
_PORT = _object(protocol={"enum": ["TCP", "UDP", "SCTP"]}, port={"type": ["integer", "string"]}, endPort=NUMBER)
_METADATA = _object("name", name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
_BUILT_IN: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "Namespace"): _object(),
    ("v1", "ServiceAccount"): _object(automountServiceAccountToken={"type": "boolean"}),
    ("v1", "ConfigMap"): _object("data", data=TEXTS),
    ("v1", "Secret"): _object("stringData", stringData=TEXTS, type=TEXT),
    ("batch/v1", "Job"): _object(
        "spec",
        spec=_object(
            "template ttlSecondsAfterFinished backoffLimit",
            ttlSecondsAfterFinished=NUMBER,
            backoffLimit=NUMBER,
            activeDeadlineSeconds=NUMBER,
            template=_object("spec", metadata={}, spec={"type": "object"}),
        ),
    ),
    ("networking.k8s.io/v1", "NetworkPolicy"): _object(
        "spec",
        spec=_object(
            "podSelector policyTypes",
            podSelector=_SELECTOR,
            policyTypes=_list({"enum": ["Ingress", "Egress"]}),
            ingress=_list(_object("", **{"from": _list(_PEER), "ports": _list(_PORT)})),
            egress=_list(_object(to=_list(_PEER), ports=_list(_PORT))),
        ),
    ),
    ("serving.knative.dev/v1beta1", "DomainMapping"): _object(
        "spec",
        spec=_object(
            "ref",
            ref=_object("apiVersion kind name", apiVersion=TEXT, kind=TEXT, name=TEXT, namespace=TEXT),
            tls=_object("secretName", secretName=TEXT),
        ),
    ),
}


@functools.cache
def definitions() -> dict[tuple[str, str], dict[str, Any]]:
    """The schemas of all served versions, by apiVersion and kind."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in CRDS.rglob("*.yaml"):
        for crd in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            if crd and crd.get("kind") == "CustomResourceDefinition":
                for version in crd["spec"]["versions"]:
                    key = f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]
                    found[key] = _closed(version["schema"]["openAPIV3Schema"])
    return found


def schema_problems(document: Document) -> list[str]:
    """What the definition of its kind does not allow, unknown fields included."""
    key = str(document.body.get("apiVersion", "")), document.kind
    schema = _BUILT_IN.get(key)
    if not schema and not CRDS.exists():
        return []
    if not (schema := schema or definitions().get(key)):
        return [document.wrong("apiVersion", f"is {key[0]}: this kind is not known by it")]
    known = {**schema["properties"], "apiVersion": {}, "kind": {}, "metadata": _METADATA}
    found = _problems(document, "", {**schema, "properties": known, "additionalProperties": False}, document.body)
    if document.kind == "Job" and CRDS.exists() and (pod := document.pod()):
        found += _problems(document, "spec.template.spec.", _pod_schema(), pod.get("spec"))
    return found


def _problems(document: Document, prefix: str, schema: dict[str, Any], body: Any) -> list[str]:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(body)
    return [
        document.wrong(prefix + ".".join(map(str, error.absolute_path)), f"is not as defined: {error.message[:300]}")
        for error in errors
    ]


@functools.cache
def _pod_schema() -> dict[str, Any]:
    """The pod of a Job: what Knative knows of a pod, and the field that Jobs need besides."""
    service = definitions()["serving.knative.dev/v1", "Service"]
    spec = service["properties"]["spec"]["properties"]["template"]["properties"]["spec"]
    properties = {key: value for key, value in spec["properties"].items() if not key.endswith("TimeoutSeconds")}
    return {**spec, "properties": {**properties, "restartPolicy": {"enum": ["Never", "OnFailure"]}}}


def _closed(schema: Any) -> Any:
    """The schema with unknown fields refused where it lists the known ones."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _closed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        made["type"] = ["integer", "string"]
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        made["additionalProperties"] = False
    return made
