"""What kustomize makes of the manifests, and what a pod takes from it."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.knative.tools import BUILT, tool
from tests.support.local import ROOT

RENDERED = BUILT / "rendered"
"""Where the documents stay, for whoever wants to look at them or to check them."""
FOLDERS = ["knative/base", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("knative/overlays/*/"))]
SOURCES = "kafka-sources"
VARIANTS = sorted(path.name for path in ROOT.glob(f"{SOURCES}/variants/*/"))
FUNCTIONS = ("ingest", "ingest-grpc", "index", "query", "export")
Document = dict[str, Any]


@functools.cache
def rendered(folder: str) -> list[Document]:
    """The documents that kustomize makes of a folder of this checkout."""
    return render(ROOT / folder, folder.replace("/", "-"))


@functools.cache
def source_variant(*variants: str) -> list[Document]:
    """The documents of kafka-sources with the comment taken off some of its components, as its text tells people to."""
    name = "-".join((SOURCES, *variants))
    copy = RENDERED / name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / SOURCES, copy)
    path = copy / "kustomization.yaml"
    text = path.read_text()
    for line in ("components:", *(f"  - variants/{variant}" for variant in variants)):
        text, count = re.subn(f"^# {line}$", line, text, flags=re.M)
        assert count == 1, f"{SOURCES}/kustomization.yaml has no comment {line!r}"
    path.write_text(text)
    return render(copy, name)


def render(folder: Path, name: str) -> list[Document]:
    """What kustomize makes of any folder, kept under `name`."""
    done = subprocess.run([tool("kustomize"), "build", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    RENDERED.mkdir(parents=True, exist_ok=True)
    (RENDERED / f"{name}.yaml").write_text(done.stdout)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def find(documents: Iterable[Document], kind: str, name: str, group: str = "") -> Document:
    """The one document of that kind and name."""
    (found,) = [
        document
        for document in documents
        if document["kind"] == kind
        and document["metadata"]["name"] == name
        and document["apiVersion"].startswith(group)
    ]
    return found


def service(folder: str, name: str) -> Document:
    """A function's Service."""
    return find(rendered(folder), "Service", name, "serving.knative.dev/")


def environment(folder: str, name: str) -> Mapping[str, str]:
    """The variables that a function's container gets from ConfigMaps; those from Secrets, which may be missing, not."""
    (container,) = service(folder, name)["spec"]["template"]["spec"]["containers"]
    values: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        values |= find(rendered(folder), "ConfigMap", source["configMapRef"]["name"])["data"]
    return values
