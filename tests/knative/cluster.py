"""As much of a Kubernetes API as `kn service apply` asks for: it keeps Services of Knative as they are sent."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

PATH = "/apis/serving.knative.dev/v1/namespaces/torpor/services"
Service = dict[str, Any]


class Cluster:
    """What was applied, by name, and how it was asked for."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.services: dict[str, Service] = {}
        self.asked: list[str] = []

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status and body of an answer."""
        assert path.startswith(PATH), path
        name = path.removeprefix(PATH).strip("/")
        self.asked.append(method)
        if method == "POST":
            name = body["metadata"]["name"]
            self.services[name] = body
        elif name not in self.services:
            return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        if method == "PATCH":
            metadata = self.services[name]["metadata"]
            self.services[name] = _merged(self.services[name], body)
            self.services[name]["metadata"]["generation"] = metadata.get("generation", 0) + 1
        return 200, self.services[name]


def _merged(base: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    merged = {**base, **{key: _merged(base.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in merged.items() if value is not None}


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """A cluster with nothing in it."""
    made = Cluster(directory / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            sent = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, body = made.answer(self.command, self.path.partition("?")[0], json.loads(sent or b"null"))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _answer

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made.kubeconfig.write_text(_kubeconfig(server.server_port))
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def _kubeconfig(port: int) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
            "users": [{"name": "test", "user": {}}],
        }
    )
