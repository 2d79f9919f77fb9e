"""A pod as Knative makes it: a function, and the real queue-proxy before it, as processes on loopback.

The environment of queue-proxy is what the controller gives it (knative.dev/serving v0.50.0,
pkg/reconciler/revision/resources/queue.go), made of the rendered manifest. Its ports 8022 (drain) and 9090 (for the
autoscaler) are fixed, so one pod runs at a time in a network.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import httpx

from tests.knative import rendering
from tests.knative.tools import missing, tool
from tests.support.kafka import free_port
from tests.support.processes import FunctionProcess

FOLDER = "knative/base"
DRAIN_PORT, AUTOSCALER_PORT = 8022, 9090
QUIET_SECONDS = 30.0
"""How long queue-proxy waits for new requests once the pod is to end (drainSleepDuration)."""
PROBE = {"K-Network-Probe": "queue", "User-Agent": "kube-probe/1.34"}
_START_SECONDS = 30
_END_SECONDS = 120


class Pod:
    """The function `name` with `settings` beside those of its manifest; `changes` replace fields of the pod's spec."""

    def __init__(self, name: str, settings: Mapping[str, str], **changes: int) -> None:
        for port in (DRAIN_PORT, AUTOSCALER_PORT):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    missing(f"port {port} is taken, and queue-proxy cannot be given another one")
        template = rendering.service(FOLDER, name)["spec"]["template"]
        self.spec: Mapping[str, Any] = {**template["spec"], **changes}
        (container,) = self.spec["containers"]
        module = container.get("command", [f"functions.{name}"])[-1].removeprefix("functions.")
        self.function = FunctionProcess(module, {**rendering.environment(FOLDER, name), **settings})
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = _environment(name, template, self.spec, container, self.port, self.function.port)
        self._clients = contextlib.ExitStack()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  it lives as long as the process
        self._proxy = subprocess.Popen(
            [tool("queue")], env=self.environment, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def ready(self) -> bool:
        """What the platform's probe of queue-proxy says, which asks the function."""
        try:
            return httpx.get(self.url, headers=PROBE, trust_env=False, timeout=20).status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self) -> float:
        """Return, when the probe says so, after how many seconds; raise RuntimeError if it does not in time."""
        started = time.monotonic()
        while not self.ready():
            if time.monotonic() > started + _START_SECONDS or self._proxy.poll() is not None:
                raise RuntimeError(f"{self.url} is not ready\n{self.log()}")
            time.sleep(0.02)
        return time.monotonic() - started

    def client(self) -> httpx.Client:
        """A client whose requests go through queue-proxy, closed with the pod."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        client = httpx.Client(base_url=self.url, trust_env=False, timeout=_END_SECONDS, limits=limits)
        return self._clients.enter_context(client)

    def channel(self) -> grpc.Channel:
        """The same for gRPC."""
        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", [("grpc.enable_http_proxy", 0)])
        return self._clients.enter_context(channel)

    def end(self) -> threading.Thread:
        """What kubelet does first, both at once: the function's preStop hook, and SIGTERM to queue-proxy.

        The thread is alive as long as the hook is.
        """

        def pre_stop() -> None:
            # As kubelet: whether the hook worked or not, the function's turn comes next.
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{DRAIN_PORT}/wait-for-drain", trust_env=False, timeout=None)

        hook = threading.Thread(target=pre_stop)
        hook.start()
        self._proxy.send_signal(signal.SIGTERM)
        return hook

    def wait(self) -> tuple[int, int]:
        """Wait until both have ended; the exit statuses of function and queue-proxy."""
        return self.function.wait(), self._proxy.wait(_END_SECONDS)

    def log(self) -> str:
        """What queue-proxy wrote."""
        self._log.seek(0)
        return self._log.read()

    def kill(self) -> None:
        """End both at once, and the clients with them."""
        self._clients.close()
        self.function.kill()
        self._proxy.kill()
        self._proxy.wait()
        self._log.close()


@contextlib.contextmanager
def pod(name: str, settings: Mapping[str, str], **changes: int) -> Iterator[Pod]:
    """A pod that is ready, gone at the end of the block."""
    made = Pod(name, settings, **changes)
    try:
        made.wait_until_ready()
        yield made
    finally:
        made.kill()


def _environment(
    name: str,
    template: Mapping[str, Any],
    spec: Mapping[str, Any],
    container: Mapping[str, Any],
    port: int,
    user_port: int,
) -> dict[str, str]:
    annotations = template["metadata"]["annotations"]
    full_duplex = annotations.get("features.knative.dev/http-full-duplex", "").lower() == "enabled"
    return {
        "CONTAINER_CONCURRENCY": str(spec["containerConcurrency"]),
        "ENABLE_HTTP2_AUTO_DETECTION": "false",
        "ENABLE_HTTP_FULL_DUPLEX": str(full_duplex).lower(),
        "ENABLE_MULTI_CONTAINER_PROBES": "false",
        "HOSTNAME": f"{name}-00001-deployment-0",
        "PATH": os.defpath,
        "QUEUE_SERVING_PORT": str(port),
        "QUEUE_SERVING_TLS_PORT": "8112",
        "REVISION_IDLE_TIMEOUT_SECONDS": str(spec.get("idleTimeoutSeconds", 0)),
        "REVISION_RESPONSE_START_TIMEOUT_SECONDS": str(spec.get("responseStartTimeoutSeconds", 0)),
        "REVISION_TIMEOUT_SECONDS": str(spec["timeoutSeconds"]),
        "SERVING_CONFIGURATION": name,
        "SERVING_LOGGING_CONFIG": "",
        "SERVING_LOGGING_LEVEL": "info",
        "SERVING_NAMESPACE": "torpor",
        "SERVING_POD": f"{name}-00001-deployment-0",
        "SERVING_POD_IP": "127.0.0.1",
        "SERVING_READINESS_PROBE": json.dumps(_probe(container["readinessProbe"], user_port)),
        "SERVING_REVISION": f"{name}-00001",
        "SERVING_SERVICE": name,
        "SYSTEM_NAMESPACE": "knative-serving",
        "USER_PORT": str(user_port),
    }


def _probe(probe: Mapping[str, Any], port: int) -> dict[str, Any]:
    """The probe as the controller completes it (applyReadinessProbeDefaults), which the webhook did before."""
    (kind,) = probe.keys() & {"httpGet", "tcpSocket", "grpc"}
    asked = {**probe[kind], "port": port}
    if kind != "grpc":
        asked["host"] = "127.0.0.1"
    if kind == "httpGet":
        asked.setdefault("scheme", "HTTP")
    return {**probe, kind: asked, "successThreshold": probe.get("successThreshold", 1)}
