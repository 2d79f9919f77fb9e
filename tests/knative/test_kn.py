"""The real kn takes every Service as it is: nothing of it is dropped, nothing added."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.knative.cluster import Cluster, cluster
from tests.knative.rendering import FOLDERS, FUNCTIONS, Document, service
from tests.knative.tools import tool

EVERY = [(folder, name) for folder in FOLDERS for name in FUNCTIONS]
FLAGLESS = (
    r"\.spec\.template\.spec\.(responseStartTimeoutSeconds|automountServiceAccountToken) is gone",
    r".*\.securityContext\.readOnlyRootFilesystem is gone",
    # Without it a pod does not start as long as a Secret is missing.
    r".*\.(secretKeyRef|secret)\.optional is gone",
    r".*\.emptyDir\.sizeLimit is gone",
    # These say the same in another way.
    r".*\.name was 'tmp' and is 'tmp-[0-9a-f]{8}'",
    r".*\.readinessProbe\.(httpGet|tcpSocket)\.port was not there and is 8080",
)
"""What kn has no flag for: why the commands of this project give it files."""
OWN = ("client.knative.dev/", "kubectl.kubernetes.io/")
"""Annotations of kn's own."""


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with nothing in it."""
    with cluster(tmp_path) as made:
        yield made


def kn(*arguments: str, home: Path) -> str:
    """What kn says; it must succeed."""
    environment = {"PATH": os.defpath, "HOME": str(home)}
    done = subprocess.run(
        [tool("kn"), *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"kn {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def written(document: Document, directory: Path) -> str:
    """The path of a file with the document."""
    path = directory / f"{document['metadata']['name']}.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def differences(expected: Any, found: Any, place: str = "") -> Iterator[str]:
    """Where `found` lacks something, has another value, or has a value that says something where none was."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted(expected.keys() | found.keys()):
            if key in expected and key in found:
                yield from differences(expected[key], found[key], f"{place}.{key}")
            elif key in expected:
                yield f"{place}.{key} is gone"
            elif not key.startswith(OWN) and not says_nothing(found[key]):
                yield f"{place}.{key} was not there and is {found[key]!r}"
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif expected != found:
        yield f"{place} was {expected!r} and is {found!r}"


def says_nothing(value: Any) -> bool:
    """Whether a value is what Go writes for a field that is not set, or holds annotations of kn alone."""
    if isinstance(value, dict):
        return all(key.startswith(OWN) or says_nothing(part) for key, part in value.items())
    return not value


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_kn_writes_the_service_as_it_is_rendered(folder: str, name: str, tmp_path: Path) -> None:
    document = service(folder, name)
    target = tmp_path / "target"
    target.mkdir()
    file = written(document, tmp_path)
    kn("service", "create", name, "-n", "torpor", "-f", file, "--target", str(target), home=tmp_path)
    found = yaml.safe_load((target / "torpor" / "ksvc" / f"{name}.yaml").read_text())
    assert list(differences(document, found)) == []


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_kn_applies_the_service_as_it_is_rendered_once(folder: str, name: str, tmp_path: Path, empty: Cluster) -> None:
    document = service(folder, name)
    command = ["service", "apply", name, "-n", "torpor", "--no-wait", "--kubeconfig", str(empty.kubeconfig), "-f"]
    kn(*command, written(document, tmp_path), home=tmp_path)
    assert list(differences(document, empty.services[name])) == []
    empty.services[name] |= {"status": {"url": "http://example.com"}}
    assert "No changes to apply" in kn(*command, written(document, tmp_path), home=tmp_path)
    changed = copy.deepcopy(document)
    changed["spec"]["template"]["spec"]["timeoutSeconds"] += 1
    del changed["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"]
    kn(*command, written(changed, tmp_path), home=tmp_path)
    empty.services[name].pop("status")
    empty.services[name]["metadata"].pop("generation")
    assert list(differences(changed, empty.services[name])) == []
    assert "PATCH" in empty.asked


def flags(document: Document) -> list[str]:
    """The same Service by flags, as far as kn has them."""
    template = document["spec"]["template"]
    spec, (container,) = template["spec"], template["spec"]["containers"]
    (port,) = container["ports"]
    words = ["--image", container["image"], "--service-account", spec["serviceAccountName"]]
    words += ["--port", f"{port['name']}:{port['containerPort']}"]
    words += ["--concurrency-limit", str(spec["containerConcurrency"]), "--timeout", str(spec["timeoutSeconds"])]
    words += ["--security-context", "strict"]
    for place, metadata in (("service", document["metadata"]), ("revision", template["metadata"])):
        for kind in ("label", "annotation"):
            words += each(
                f"--{kind}-{place}", [f"{key}={value}" for key, value in metadata.get(f"{kind}s", {}).items()]
            )
    return words + of_the_container(container) + volumes(spec["volumes"], container["volumeMounts"])


def of_the_container(container: dict[str, Any]) -> list[str]:
    """The flags of what runs."""
    probe = container["readinessProbe"].get("httpGet")
    secrets = {variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in container["env"]}
    return [
        *each("--env-from", [f"cm:{source['configMapRef']['name']}" for source in container["envFrom"]]),
        *each("--env-value-from", [f"{name}=secret:{key['name']}:{key['key']}" for name, key in secrets.items()]),
        *each("--request", [f"{name}={value}" for name, value in container["resources"]["requests"].items()]),
        *each("--limit", [f"{name}={value}" for name, value in container["resources"]["limits"].items()]),
        *each("--cmd", container.get("command", [])),
        *each("--probe-readiness", [f"http::8080:{probe['path']}" if probe else "tcp::8080"]),
        *each("--pull-policy", [container["imagePullPolicy"]] if "imagePullPolicy" in container else []),
    ]


def volumes(made: list[dict[str, Any]], mounted: list[dict[str, Any]]) -> list[str]:
    """The flags of files."""
    names = {volume["name"]: volume.get("secret", {}).get("secretName") for volume in made}
    secrets = [f"{name}=secret:{secret}" for name, secret in names.items() if secret]
    kinds = {name: name if secret else f"ed:{name}" for name, secret in names.items()}
    return each("--volume", secrets) + each("--mount", [f"{at['mountPath']}={kinds[at['name']]}" for at in mounted])


def each(flag: str, values: list[str]) -> list[str]:
    """The flag before each value."""
    return [word for value in values for word in (flag, value)]


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_by_flags_kn_makes_the_same_service_except_for_what_it_has_no_flag_for(
    folder: str, name: str, tmp_path: Path
) -> None:
    document = service(folder, name)
    target = tmp_path / "target"
    target.mkdir()
    kn("service", "create", name, "-n", "torpor", *flags(document), "--target", str(target), home=tmp_path)
    found = yaml.safe_load((target / "torpor" / "ksvc" / f"{name}.yaml").read_text())
    others = list(differences(document, found))
    assert [line for line in others if not re.fullmatch("|".join(FLAGLESS), line)] == []
    missing = [known for known in FLAGLESS if not any(re.fullmatch(known, line) for line in others)]
    assert missing == [], "kn has learned to say these"
