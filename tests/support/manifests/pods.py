"""Pods as Knative's webhook and the restricted pod security standard want them, those of the migration's Job too.

Knative Serving 1.23, pkg/apis/serving/{k8s_validation,fieldmask}.go, with the feature flags as they are by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.support.manifests.documents import Document

_RESERVED_ENV = {"PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"}
_RESERVED_PATHS = {"/", "/dev", "/dev/log"}
_VOLUMES = {"secret", "configMap", "projected", "emptyDir"}
_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_problems(document: Document) -> list[str]:
    """The problems of the pods that a Service or Job makes."""
    if not document.pod():
        return []
    found = [*_pod(document)]
    for field, container in document.containers():
        found += [*_container(document, field, container), *_mounts(document, field, container)]
        if document.is_function():
            found += _probes(document, field, container)
    return found


def _pod(document: Document) -> Iterator[str]:
    spec = (document.pod() or {}).get("spec") or {}
    if spec.get("automountServiceAccountToken") is not False:
        yield document.wrong("spec.template.spec.automountServiceAccountToken", "is not false")
    if document.kind == "Job" and spec.get("restartPolicy") not in ("Never", "OnFailure"):
        yield document.wrong("spec.template.spec.restartPolicy", "is neither Never nor OnFailure")
    if not spec.get("serviceAccountName"):
        yield document.wrong("spec.template.spec.serviceAccountName", "is missing")
    mounted = {
        mount.get("name") for _, container in document.containers() for mount in container.get("volumeMounts") or []
    }
    for number, volume in enumerate(spec.get("volumes") or []):
        field = f"spec.template.spec.volumes[{number}]"
        if volume.get("name") not in mounted:
            yield document.wrong(field, f"{volume.get('name')} is mounted nowhere")
        secret = volume.get("secret")
        if secret is not None and not (secret.get("secretName") and secret.get("optional") is True):
            yield document.wrong(f"{field}.secret", "is not one that may be missing")
        for kind in volume.keys() - {"name"} - _VOLUMES:
            yield document.wrong(f"{field}.{kind}", "is behind a feature flag that is off")


def _container(document: Document, field: str, container: dict[str, Any]) -> Iterator[str]:
    if container.get("name") == "queue-proxy" or (document.kind == "Job" and not container.get("name")):
        yield document.wrong(f"{field}.name", "is reserved, or missing where it must be given")
    for number, variable in enumerate(container.get("env") or []):
        if variable.get("name") in _RESERVED_ENV:
            yield document.wrong(f"{field}.env[{number}]", f"sets {variable['name']}, which is reserved")
        if ((variable.get("valueFrom") or {}).get("secretKeyRef") or {}).get("optional") is not True:
            yield document.wrong(f"{field}.env[{number}].valueFrom.secretKeyRef.optional", "is not true")
    security = container.get("securityContext") or {}
    for key, value in _SECURITY.items():
        if security.get(key) != value:
            yield document.wrong(f"{field}.securityContext.{key}", f"is {security.get(key)!r}: expected {value!r}")
    for key in ("requests.cpu", "requests.memory", "limits.memory"):
        which, what = key.split(".")
        if what not in ((container.get("resources") or {}).get(which) or {}):
            yield document.wrong(f"{field}.resources.{key}", "is missing")


def _probes(document: Document, field: str, container: dict[str, Any]) -> Iterator[str]:
    ready = container.get("readinessProbe") or {}
    if not ready:
        yield document.wrong(f"{field}.readinessProbe", "is missing")
    path = (ready.get("httpGet") or {}).get("path")
    # /readyz would ask for what is behind the function too, and who is not ready cannot say that it is away.
    if "httpGet" in ready and path != "/healthz":
        yield document.wrong(f"{field}.readinessProbe.httpGet.path", f"is {path}: expected /healthz")
    if not ready.get("periodSeconds"):
        for key in ready.keys() & {"failureThreshold", "timeoutSeconds"}:
            yield document.wrong(f"{field}.readinessProbe.{key}", "is not allowed without periodSeconds")
    if container.get("startupProbe"):
        yield document.wrong(f"{field}.startupProbe", "makes every cold start longer")
    names = {port.get("name") for port in container.get("ports") or []}
    numbers = {port.get("containerPort") for port in container.get("ports") or []}
    for probe in ("readinessProbe", "livenessProbe"):
        for how in ("httpGet", "tcpSocket", "grpc"):
            port = ((container.get(probe) or {}).get(how) or {}).get("port")
            if port is not None and port not in (names if isinstance(port, str) else numbers):
                yield document.wrong(f"{field}.{probe}.{how}.port", f"is {port}, which is not the container's")


def _mounts(document: Document, field: str, container: dict[str, Any]) -> Iterator[str]:
    volumes = {volume.get("name"): volume for volume in ((document.pod() or {}).get("spec") or {}).get("volumes") or []}
    paths = []
    for number, mount in enumerate(container.get("volumeMounts") or []):
        where = f"{field}.volumeMounts[{number}]"
        paths.append(mount.get("mountPath"))
        volume = volumes.get(mount.get("name"))
        if volume is None:
            yield document.wrong(f"{where}.name", f"is {mount.get('name')}: there is no such volume")
        elif "emptyDir" not in volume and mount.get("readOnly") is not True:
            yield document.wrong(f"{where}.readOnly", "is not true")
        path = str(mount.get("mountPath"))
        if path in _RESERVED_PATHS or not path.startswith("/"):
            yield document.wrong(f"{where}.mountPath", f"is {path}, which is reserved or no path")
    if "/tmp" not in paths:
        yield document.wrong(f"{field}.volumeMounts", "has no emptyDir at /tmp, and the root cannot be written")
    if len(paths) != len(set(paths)):
        yield document.wrong(f"{field}.volumeMounts", "mounts twice at one path")
