"""Manifests are valid by the definitions of the resources they make."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CRDS = ROOT.parent / "shared" / "crds"
DOCUMENTS = [
    pytest.param(document, id=f"{path.name}-{document['kind']}-{document['metadata']['name']}")
    for path in sorted((ROOT / "kafka-sources").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


@functools.cache
def definitions() -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in CRDS.rglob("*.yaml"):
        for crd in yaml.safe_load_all(path.read_text()):
            if crd and crd.get("kind") == "CustomResourceDefinition":
                for version in crd["spec"]["versions"]:
                    key = f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]
                    found[key] = version["schema"]["openAPIV3Schema"]
    return found


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused where it lists the known ones, as a strict API server does."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        made["additionalProperties"] = False
    return made


@pytest.mark.skipif(not CRDS.exists(), reason="the resource definitions are not part of the project")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_manifest_is_valid_by_its_definition(document: dict[str, Any]) -> None:
    schema = definitions()[document["apiVersion"], document["kind"]]
    known = {"apiVersion": {}, "kind": {}, "metadata": {}, **schema["properties"]}
    schema = closed({**schema, "properties": {**known, "metadata": {}}})
    jsonschema.validate(document, schema)
