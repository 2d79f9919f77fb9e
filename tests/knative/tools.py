"""Knative's own programs, built from the Go module beside this file: kn, the queue-proxy, and kustomize.

`python -m tests.knative.tools` builds them and says what it has. They stay in build/knative until go.mod changes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.local import ROOT

HERE = Path(__file__).parent
BUILT = ROOT / "build" / "knative"
PROGRAMS = {
    "kn": "knative.dev/client/cmd/kn",
    "queue": "knative.dev/serving/cmd/queue",
    "kustomize": "sigs.k8s.io/kustomize/kustomize/v5",
}
# Pure Go needs no C compiler; the rest makes the same bytes wherever the checkout lies.
_SETTINGS = {"CGO_ENABLED": "0", "GOFLAGS": f"-mod=readonly -trimpath {os.environ.get('GOFLAGS', '')}".strip()}
_BUILD_SECONDS = 1800


def tool(name: str) -> str:
    """The path of a program, built if need be. Without Go the test is skipped, or under CI=true fails."""
    if reason := why_not():
        missing(reason)
    build()
    return str(BUILT / name)


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it under CI=true, where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def why_not() -> str | None:
    """What is missing to have the programs, or None."""
    if _is_built() or shutil.which("go"):
        return None
    return "kn, queue-proxy and kustomize are built by Go 1.25 or newer: there is no go on PATH"


def build() -> None:
    """Build what is not there, or not of this go.mod. Raises RuntimeError with Go's words if it cannot be built."""
    BUILT.mkdir(parents=True, exist_ok=True)
    # Two test runs may start at once; the second waits and finds the work done.
    with (BUILT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_built():
            command = ["go", "build", "-o", f"{BUILT}/", *PROGRAMS.values()]
            done = _go(command)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
            (BUILT / "stamp").write_text(_stamp())


def versions() -> dict[str, str]:
    """The version of the module that each program is of."""
    modules = dict(re.findall(r"^\t(\S+) (v\S+)", (HERE / "go.mod").read_text(), re.M))
    return {name: next(modules[part] for part in _parents(path) if part in modules) for name, path in PROGRAMS.items()}


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _stamp() -> str:
    return json.dumps([(HERE / "go.mod").read_text(), (HERE / "go.sum").read_text()])


def _is_built() -> bool:
    stamp = BUILT / "stamp"
    return stamp.is_file() and stamp.read_text() == _stamp() and all((BUILT / name).is_file() for name in PROGRAMS)


def _go(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **_SETTINGS}
    return subprocess.run(
        command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
    )


def main() -> None:
    """Build, and say what is there. Without Go say so, which is a failure only under CI=true."""
    if reason := why_not():
        print(reason)
        sys.exit(os.environ.get("CI") == "true")
    started = time.monotonic()
    build()
    for name, version in versions().items():
        print(f"{name:10} {PROGRAMS[name]} {version}")
    print(f"in {BUILT.relative_to(ROOT)} after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
