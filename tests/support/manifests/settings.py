"""Environment variables of manifests and settings of the code: each is the other's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from functions.common.config import ConfigError, load, settings
from functions.common.host import HostConfig
from tests.support.docs import HOLDERS
from tests.support.manifests.documents import Document, find

_SHARED = ("TENANT", "RETENTION_DAYS")
"""Settings that must have one value wherever they are read; those of Kafka and ClickHouse too."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What a container runs, with the values that its variables have here, and the place of each."""

    document: Document
    field: str
    container: dict[str, Any]
    holder: str
    values: dict[str, str]
    places: dict[str, str]

    def number(self, variable: str) -> float:
        """A setting's value here, or its default."""
        defaults = {name: default for name, default, _ in settings(HOLDERS[self.holder])}
        return float(self.values.get(variable) or defaults[variable])


def programs(documents: list[Document]) -> Iterator[Program]:
    """What the containers of `documents` run."""
    for document in documents:
        for field, container in document.containers():
            values: dict[str, str] = {}
            places: dict[str, str] = {}
            for source in container.get("envFrom") or []:
                name = (source.get("configMapRef") or {}).get("name")
                for config in find(documents, "ConfigMap", name, document.namespace) if name else []:
                    values |= config.body["data"]
                    places |= {variable: f"{config.file}: {variable}" for variable in config.body["data"]}
            for number, variable in enumerate(container.get("env") or []):
                # What a Secret holds is not known here.
                name = str(variable.get("name"))
                values[name] = str(variable.get("value", ""))
                places[name] = document.wrong(f"{field}.env[{number}]", name)
            yield Program(document, field, container, _holder(container), values, places)


def settings_problems(documents: list[Document]) -> list[str]:
    """Variables that nothing reads, settings without a value, values that cannot be used or do not agree."""
    found: list[str] = []
    known = list(programs(documents))
    for program in known:
        if program.holder not in HOLDERS:
            found.append(program.document.wrong(f"{program.field}.image", "and command are none of the project's"))
            continue
        found += [*_names(program), *_values(program), *_twice(documents, program)]
    for variable in {variable for program in known for variable in program.values}:
        if variable in _SHARED or variable.startswith(("KAFKA_", "CLICKHOUSE_")):
            readers = [program for program in known if variable in program.values]
            values = {program.values[variable]: program.places[variable] for program in readers}
            if len(values) > 1:
                found.append(f"{' and '.join(values.values())} differ: {' and '.join(map(repr, values))}")
    return [*found, *_clear_text(documents), *(problem for program in known for problem in _relations(program))]


def _holder(container: dict[str, Any]) -> str:
    image = str(container.get("image", "")).rpartition("/")[2].partition(":")[0].removeprefix("torpor-")
    command = container.get("command") or ["python", "-m", f"functions.{image}"]
    modules = {
        ("ingest", "functions.ingest"): "ingest",
        ("ingest", "functions.ingest.rpc"): "ingest",
        ("index", "functions.index"): "index",
        ("index", "functions.common.migrate"): "migrate",
        ("query", "functions.query"): "query",
        ("export", "functions.export"): "export",
    }
    return modules.get((image, command[-1]), "") if command[:2] == ["python", "-m"] else ""


def _names(program: Program) -> Iterator[str]:
    read = {name: default for name, default, _ in settings(HOLDERS[program.holder])}
    host = {} if program.holder == "migrate" else {name: default for name, default, _ in settings(HostConfig)}
    for variable in program.values.keys() - read.keys() - host.keys():
        yield f"{program.places[variable]} is no setting of {program.holder}"
    for variable, default in read.items():
        # In a cluster nothing is at localhost.
        if "localhost" in str(default) and not program.values.get(variable):
            yield program.document.wrong(f"{program.field}.envFrom", f"does not set {variable}, by default {default}")


def _values(program: Program) -> Iterator[str]:
    for config in (HOLDERS[program.holder], HostConfig):
        try:
            load(config, program.values)
        except ConfigError as error:
            places = [place for variable, place in program.places.items() if variable in str(error)]
            yield f"{(places or [program.document.wrong(program.field, 'env')])[0]}: {error}"


def _twice(documents: list[Document], program: Program) -> Iterator[str]:
    seen: set[str] = set()
    for source in program.container.get("envFrom") or []:
        name = (source.get("configMapRef") or {}).get("name")
        for config in find(documents, "ConfigMap", name, program.document.namespace):
            for variable in seen & config.body["data"].keys():
                yield program.document.wrong(f"{program.field}.envFrom", f"sets {variable} twice")
            seen |= config.body["data"].keys()


def _clear_text(documents: list[Document]) -> Iterator[str]:
    for config in find(documents, "ConfigMap"):
        for variable, value in config.body["data"].items():
            if variable.endswith("PASSWORD") and value:
                yield f"{config.file}: {variable} stands in clear text: it belongs into a Secret"
    for document in documents:
        for field, container in document.containers():
            for number, variable in enumerate(container.get("env") or []):
                if "value" in variable:
                    yield document.wrong(f"{field}.env[{number}]", "has a value: settings belong into ConfigMaps")


def _relations(program: Program) -> Iterator[str]:
    """Settings of the code beside those of Knative."""
    spec = (program.document.pod() or {}).get("spec") or {}
    first_byte = spec.get("responseStartTimeoutSeconds", 0)
    if not program.document.is_function() or not isinstance(first_byte, int):
        return
    limits = {"ingest": "KAFKA_DELIVERY_TIMEOUT", "query": "QUERY_TIMEOUT", "export": "QUERY_TIMEOUT"}
    variable = limits.get(program.holder)
    try:
        if variable and program.number(variable) >= first_byte:
            what = f"is not more than {variable}: Knative would answer first"
            yield program.document.wrong("spec.template.spec.responseStartTimeoutSeconds", what)
        if program.holder == "export" and program.number("MAX_EXPORTS") < spec.get("containerConcurrency", 0):
            yield program.document.wrong("spec.template.spec.containerConcurrency", "is more than MAX_EXPORTS")
    except ValueError:
        return  # told already
