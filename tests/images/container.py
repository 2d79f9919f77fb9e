"""A container under runc as Knative's pods have it: what knative/base says of memory, rights and command is applied."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.images import seccomp
from tests.support.local import ROOT

START_SECONDS = 30
STOP_SECONDS = 40
TICKS = os.sysconf("SC_CLK_TCK")
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}
FIRST = 262144  # the largest share: a core for whom others wait, so that what else runs here is not measured too
NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")  # not the network: the tests reach it on the loopback address


def pod(service: str) -> dict[str, Any]:
    """The container that the manifest of a Service or of the migration's Job describes."""
    documents = yaml.safe_load_all((ROOT / f"knative/base/{service}.yaml").read_text())
    [found] = [document for document in documents if document["kind"] in ("Service", "Job")]
    [container] = found["spec"]["template"]["spec"]["containers"]
    return dict(container)


def bundle(root: Path, image: Mapping[str, Any], pod: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that runc takes (OCI runtime specification 1.0) for `image` as `pod` wants it."""
    user, _, group = image["User"].partition(":")
    security, memory = pod["securityContext"], pod["resources"]["limits"]["memory"]
    assert security["capabilities"] == {"drop": ["ALL"]} and security["seccompProfile"] == {"type": "RuntimeDefault"}
    small = ["nosuid", "nodev", "noexec", "mode=1777"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": int(user), "gid": int(group)},
            "args": pod.get("command") or image["Entrypoint"],
            "env": [*image["Env"], *(f"{name}={value}" for name, value in env.items())],
            "cwd": image["WorkingDir"],
            "capabilities": {},
            "noNewPrivileges": not security["allowPrivilegeEscalation"],
        },
        "root": {"path": str(root), "readonly": security["readOnlyRootFilesystem"]},
        "hostname": "pod",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": [*small, "size=64m"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": [*small, "size=64m"]},
        ],
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "resources": {"memory": {"limit": int(memory[:-2]) * UNITS[memory[-2:]]}, "cpu": {"shares": FIRST}},
            "seccomp": seccomp.profile(),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


class Container:
    """What runs in a bundle, from now on.

    `asked` is when runc was called and `began` when it had made the process, both on the monotonic clock.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._name = f"torpor-{uuid.uuid4().hex[:12]}"
        self._state = folder / "state"
        self._pid_file = folder / "pid"
        self._pid_file.unlink(missing_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        self.asked = self.began = time.monotonic()
        self._cpu_of_runc = 0.0
        command = self._runc("run", "--bundle", str(folder), "--pid-file", str(self._pid_file), self._name)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def _runc(self, *arguments: str) -> list[str]:
        return ["runc", "--root", str(self._state), *arguments]

    def connect(self, port: int) -> socket.socket:
        """A connection, as soon as the process listens."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            self._note_begin()
            with contextlib.suppress(ConnectionRefusedError):
                return socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS)
            time.sleep(0.001)
        raise RuntimeError(f"it does not listen: {self.kill()}")

    def _note_begin(self) -> None:
        """Keep the last moment at which the process was still runc, which makes it: rather too early than too late."""
        now = time.monotonic()
        with contextlib.suppress(FileNotFoundError, ValueError):
            if not self._proc("comm").startswith("runc"):
                return
            self._cpu_of_runc = self._cpu()
        self.began = now

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{int(self._pid_file.read_text())}/{name}").read_text()

    def _cpu(self) -> float:
        return sum(map(int, self._proc("stat").rpartition(") ")[2].split()[11:13])) / TICKS

    def cpu(self) -> float:
        """Seconds of processor time since the process began."""
        return self._cpu() - self._cpu_of_runc

    def memory(self) -> int:
        """The most bytes that the process had in memory so far."""
        return int(self._proc("status").partition("VmHWM:")[2].split()[0]) * 1024

    def terminate(self) -> None:
        """Ask the process to end, as Kubernetes does."""
        subprocess.run(self._runc("kill", self._name, "TERM"), check=True, capture_output=True)

    def wait(self) -> tuple[int, str]:
        """Wait for the end: the exit status, and what was printed."""
        output, _ = self._process.communicate(timeout=STOP_SECONDS)
        return self._process.returncode, output

    def kill(self) -> str:
        """End everything that is left; return what was printed and not read yet."""
        subprocess.run(self._runc("delete", "--force", self._name), check=False, capture_output=True)
        with contextlib.suppress(ValueError, subprocess.TimeoutExpired):
            return self._process.communicate(timeout=STOP_SECONDS)[0] or ""
        return ""


@contextlib.contextmanager
def running(folder: Path, config: Mapping[str, Any]) -> Iterator[Container]:
    """A container that is gone at the end of the block."""
    container = Container(folder, config)
    try:
        yield container
    finally:
        container.kill()


def output(folder: Path, config: Mapping[str, Any], command: Sequence[str]) -> str:
    """What a command prints in a container of its own. Raises RuntimeError if it fails."""
    changed = {**config, "process": {**config["process"], "args": list(command)}}
    with running(folder, changed) as container:
        status, printed = container.wait()
    if status:
        raise RuntimeError(f"{command[0]} ended with {status}: {printed[-3000:]}")
    return printed
