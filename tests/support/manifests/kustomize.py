"""kustomize, as far as the project uses it: what it makes of a folder, and what it would take without a word.

The project's patches are JSON merge patches, which is what kustomize makes of patches of kinds that it does not know,
and JSON patches (RFC 7386, RFC 6902).
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support.manifests.documents import Document, dig, read

_FIELDS = {
    "apiVersion", "kind", "namespace", "resources", "components", "configurations", "configMapGenerator", "images",
    "patches",
}  # fmt: skip


def render(root: Path, folder: str, problems: list[str], given: list[Document] | None = None) -> list[Document]:
    """The documents that kustomize makes of `folder`; a component works on those that are given."""
    file = f"{folder}/kustomization.yaml"
    documents = given or []
    for kustomization in read(root, file, problems):
        spec = kustomization.body
        problems += [f"{file}: {field} is not used in this project" for field in spec if field not in _FIELDS]
        for resource in spec.get("resources") or []:
            path = os.path.normpath(f"{folder}/{resource}")
            if (root / path).is_dir():
                documents += render(root, path, problems)
            else:
                documents += read(root, path, problems)
        problems += [
            f"{file}: configurations names {name}, which does not exist"
            for name in spec.get("configurations") or []
            if not (root / folder / name).is_file()
        ]
        for generator in spec.get("configMapGenerator") or []:
            _generate(root, folder, generator, documents, problems)
        for component in spec.get("components") or []:
            documents = render(root, os.path.normpath(f"{folder}/{component}"), problems, documents)
        for patch in spec.get("patches") or []:
            _patch(root, folder, patch, documents, problems)
        _name(file, spec, documents, problems)
    return documents


def _generate(
    root: Path, folder: str, generator: dict[str, Any], documents: list[Document], problems: list[str]
) -> None:
    file, name = f"{folder}/kustomization.yaml", generator["name"]
    lines = [(file, literal) for literal in generator.get("literals") or []]
    for env in generator.get("envs") or []:
        path = f"{folder}/{env}"
        if (root / path).is_file():
            lines += [(path, line) for line in (root / path).read_text().splitlines()]
        else:
            problems.append(f"{file}: configMapGenerator {name} names {env}, which does not exist")
    data: dict[str, str] = {}
    for source, line in lines:
        key, equals, value = line.partition("=")
        if not line.strip() or line.startswith("#"):
            continue
        if not equals:
            # kustomize would take the value from the environment of whoever runs it.
            problems.append(f"{source}: {line} has no value")
        if key in data:
            problems.append(f"{source}: {key} is set twice")
        data[key] = value
    (source,) = {source for source, _ in lines} or {file}
    merged = [document for document in documents if document.kind == "ConfigMap" and document.name == name]
    if generator.get("behavior") == "merge" and not merged:
        problems.append(f"{file}: configMapGenerator {name} changes a ConfigMap that does not exist")
    elif generator.get("behavior") == "merge":
        (known,) = merged
        _note_repetition(source, f"configMapGenerator {name}", known.body["data"], data, problems)
        known.body["data"] |= data
        known.file += f" changed by {source}"
    else:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}
        documents.append(Document(source, body))


def _patch(root: Path, folder: str, patch: dict[str, Any], documents: list[Document], problems: list[str]) -> None:
    file = f"{folder}/{patch.get('path', 'kustomization.yaml')}"
    bodies = [change.body for change in read(root, file, problems)] if "path" in patch else []
    if "patch" in patch:
        bodies = [yaml.safe_load(patch["patch"])]
    for body in bodies:
        target = patch.get("target") or _target(body)
        chosen = [document for document in documents if _matches(document, target)]
        if not chosen:
            problems.append(f"{file}: patches {target}, which is not there")
        unchanged: list[bool] = []
        for document in chosen:
            before = copy.deepcopy(document.body)
            if isinstance(body, list):
                for operation in body:
                    _operate(file, document, operation, problems)
                unchanged.append(before == document.body)
            else:
                _note_repetition(file, "patch", before, body, problems)
                document.body = _merge(document.body, body)
            document.file += f" changed by {file}"
        if unchanged and all(unchanged):
            problems.append(f"{file}: patches.{target} changes nothing")


def _target(body: dict[str, Any]) -> dict[str, str]:
    group, _, version = str(body.get("apiVersion", "")).rpartition("/")
    name = str(dig(body, ["metadata", "name"], ""))
    return {"group": group, "version": version, "kind": str(body.get("kind", "")), "name": re.escape(name)}


def _matches(document: Document, target: dict[str, str]) -> bool:
    version = str(document.body.get("apiVersion", "")).rpartition("/")[2]
    values = {"group": document.group, "version": version, "kind": document.kind, "name": document.name}
    return all(re.fullmatch(pattern, values[key]) for key, pattern in target.items())


def _operate(file: str, document: Document, operation: dict[str, Any], problems: list[str]) -> None:
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place: Any = document.body
    for key in parents:
        if isinstance(place, list):
            place = place[int(key)] if key.isdigit() and int(key) < len(place) else None
        else:
            place = place.get(key) if isinstance(place, dict) else None
    verb = operation["op"]
    if not isinstance(place, dict) or (verb != "add" and last not in place):
        problems.append(f"{file}: patches {operation['path']}, which {document.kind} {document.name} does not have")
    elif verb == "remove":
        del place[last]
    elif verb in ("add", "replace"):
        place[last] = operation["value"]
    else:
        problems.append(f"{file}: op is {verb}: expected add, replace or remove")


def _merge(base: Any, patch: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    merged = {**base, **{key: _merge(base.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in merged.items() if value is not None}


def _note_repetition(file: str, where: str, base: dict[str, Any], patch: dict[str, Any], problems: list[str]) -> None:
    """An overlay holds differences only."""
    for keys, value in _leaves(patch):
        if keys[-1] not in ("apiVersion", "kind", "name") and dig(base, keys) == value:
            problems.append(f"{file}: {where}: {'.'.join(keys)} is {value!r} already, or not there to be removed")


def _leaves(value: dict[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, part in value.items():
        if isinstance(part, dict):
            yield from _leaves(part, (*keys, key))
        else:
            yield (*keys, key), part


def _name(file: str, spec: dict[str, Any], documents: list[Document], problems: list[str]) -> None:
    if namespace := spec.get("namespace"):
        for document in documents:
            if document.kind != "Namespace":
                document.body.setdefault("metadata", {})["namespace"] = namespace
    containers = [container for document in documents for _, container in document.containers()]
    for image in spec.get("images") or []:
        named = [container for container in containers if container.get("image") == image["name"]]
        if not named:
            problems.append(f"{file}: images.{image['name']} is the image of nothing")
        for container in named:
            container["image"] = f"{image.get('newName', image['name'])}:{image.get('newTag', 'latest')}"
