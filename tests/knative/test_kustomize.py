"""The real kustomize makes of every folder what the project's own rendering makes, which the checks read."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.knative.rendering import (
    FOLDERS,
    FUNCTIONS,
    RENDERED,
    SOURCES,
    VARIANTS,
    Document,
    environment,
    find,
    rendered,
    service,
    source_variant,
)
from tests.support.local import ROOT
from tests.support.manifests.documents import Document as Checked
from tests.support.manifests.kustomize import render as expected_of

HASH = re.compile(r"-[0-9a-z]{10}$")


def plain(document: Any, names: frozenset[str]) -> Any:
    """The document without the hashes that kustomize gives to names of generated ConfigMaps."""
    if isinstance(document, dict):
        return {key: plain(value, names) for key, value in document.items()}
    if isinstance(document, list):
        return [plain(value, names) for value in document]
    return HASH.sub("", document) if isinstance(document, str) and document in names else document


def by_name(documents: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The documents by kind and name."""
    found = {(body["apiVersion"], body["kind"], body["metadata"]["name"]): body for body in documents}
    assert len(found) == len(documents), "two documents have one name"
    return found


def generated(documents: list[Document]) -> frozenset[str]:
    """The names of generated ConfigMaps."""
    return frozenset(body["metadata"]["name"] for body in documents if body["kind"] == "ConfigMap")


@pytest.mark.parametrize("folder", [*FOLDERS, SOURCES])
def test_kustomize_makes_what_the_checks_of_manifests_check(folder: str) -> None:
    documents = rendered(folder)
    problems: list[str] = []
    expected: list[Checked] = expected_of(ROOT, folder, problems)
    assert problems == []
    names = generated(documents)
    assert by_name([plain(body, names) for body in documents]) == by_name([body.body for body in expected])
    assert list(yaml.safe_load_all((RENDERED / f"{folder.replace('/', '-')}.yaml").read_text())) == documents


@pytest.mark.parametrize("variant", VARIANTS)
def test_kustomize_makes_of_a_variant_what_the_checks_of_manifests_check(variant: str) -> None:
    problems: list[str] = []
    expected = expected_of(ROOT, f"{SOURCES}/variants/{variant}", problems, expected_of(ROOT, SOURCES, problems))
    assert problems == []
    assert by_name(source_variant(variant)) == by_name([document.body for document in expected])


def test_variants_go_together() -> None:
    source = find(source_variant("without-keda", "sasl"), "KafkaSource", "logs")
    assert source["spec"]["net"]["sasl"]["enable"] is True
    assert source["metadata"]["annotations"] == {"autoscaling.eventing.knative.dev/class": "disabled"}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_changed_setting_makes_a_new_revision(folder: str, name: str) -> None:
    (container,) = service(folder, name)["spec"]["template"]["spec"]["containers"]
    named = [source["configMapRef"]["name"] for source in container["envFrom"]]
    # A hash in the name: kustomize found the reference, and other content would have another one.
    assert all(HASH.search(reference) for reference in named), named
    assert set(named) <= generated(rendered(folder))
    assert environment(folder, name)


@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_an_overlay_names_every_image_with_a_tag(folder: str) -> None:
    text = (RENDERED / f"{folder.replace('/', '-')}.yaml").read_text() if rendered(folder) else ""
    images = re.findall(r"^\s+(?:- )?image: (\S+)$", text, re.M)
    assert len(images) == len(FUNCTIONS) + 1, "each function, and the migration"
    assert all(re.fullmatch(r"[^/]+/torpor-(ingest|index|query|export):\S+", image) for image in images), images
