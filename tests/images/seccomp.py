"""The filter of system calls that container engines put around a container by default, as runc takes it.

The file is the one that buildah and podman read (Debian: golang-github-containers-common). What it says of
capabilities is for engines that grant some; here a container has none.
"""

from __future__ import annotations

import functools
import json
import platform
from pathlib import Path
from typing import Any

FILE = Path("/usr/share/containers/seccomp.json")
ARCHITECTURES = {"x86_64": ("SCMP_ARCH_X86_64", "amd64"), "aarch64": ("SCMP_ARCH_AARCH64", "arm64")}


@functools.cache
def profile() -> dict[str, Any]:
    """The filter for a container without capabilities on this machine."""
    file = json.loads(FILE.read_text())
    architecture, name = ARCHITECTURES[platform.machine()]
    [also] = [entry["subArchitectures"] for entry in file["archMap"] if entry["architecture"] == architecture]
    return {
        "defaultAction": file["defaultAction"],
        "defaultErrnoRet": file["defaultErrnoRet"],
        "architectures": [architecture, *(also or [])],
        "syscalls": [_rule(rule) for rule in file["syscalls"] if _applies(rule, name)],
    }


def _applies(rule: dict[str, Any], architecture: str) -> bool:
    wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
    if wanted.get("caps") or architecture in (unwanted.get("arches") or []):
        return False
    return architecture in (wanted.get("arches") or [architecture])


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {
        key: rule[key] for key in ("names", "action", "errnoRet", "args") if rule.get(key) is not None
    }
    if "args" in kept:
        kept["args"] = [{key: value for key, value in one.items() if value is not None} for one in kept["args"]]
    return kept
