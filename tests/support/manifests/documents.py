"""Documents, and where they come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

_MISSING = object()


@dataclasses.dataclass
class Document:
    """A manifest, and the files that it was made of."""

    file: str
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.body.get("kind", ""))

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.get("metadata.name", ""))

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.get("metadata.namespace", "default"))

    @property
    def group(self) -> str:
        """Its API group; empty for the core."""
        return str(self.body.get("apiVersion", "")).rpartition("/")[0]

    def is_function(self) -> bool:
        """Whether it is a Service of Knative."""
        return self.kind == "Service" and self.group == "serving.knative.dev"

    def get(self, path: str, default: Any = None) -> Any:
        """The field at `path`, whose parts are divided by dots; those that contain dots cannot be reached so."""
        return dig(self.body, path.split("."), default)

    def wrong(self, field: str, what: str) -> str:
        """The line that tells of a problem."""
        return f"{self.file}: {self.kind} {self.name}: {field} {what}"

    def pod(self) -> dict[str, Any] | None:
        """The template of its pods, if it has any."""
        template = self.get("spec.template") if self.is_function() or self.kind == "Job" else None
        return template if isinstance(template, dict) else None

    def containers(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Its containers, each with its field."""
        spec = (self.pod() or {}).get("spec") or {}
        for number, container in enumerate(spec.get("containers") or []):
            yield f"spec.template.spec.containers[{number}]", container


def dig(value: Any, keys: Iterable[str], default: Any = None) -> Any:
    """What lies in nested mappings under `keys`, or the default."""
    for key in keys:
        value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
    return default if value is _MISSING else value


def read(root: Path, file: str, problems: list[str]) -> list[Document]:
    """The documents of a YAML file."""
    try:
        bodies = list(yaml.load_all((root / file).read_text(), yaml.CSafeLoader))
    except (OSError, yaml.YAMLError) as error:
        problems.append(f"{file}: cannot be read: {error}")
        return []
    problems += [f"{file}: has a document that is no mapping" for body in bodies if not isinstance(body, dict)]
    return [Document(file, body) for body in bodies if isinstance(body, dict)]


def find(
    documents: Iterable[Document], kind: str, name: str | None = None, namespace: str | None = None
) -> list[Document]:
    """The documents of a kind, with that name and namespace, if given."""
    return [
        document
        for document in documents
        if document.kind == kind
        and (name is None or document.name == name)
        and (namespace is None or document.namespace == namespace)
    ]
