"""The four images: what is in them, and how they start, serve and end where Knative would run them."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.agents.agent import missing
from tests.images import container, image
from tests.images.container import Container
from tests.support import clickhouse_front
from tests.support.kafka import free_port
from tests.support.local import ROOT

pytestmark = pytest.mark.timeout(900)
STARTS = 10
MB = 1_000_000
# Packed, without the base; most of export is pyarrow.
LARGEST = {"ingest": 45, "index": 45, "query": 45, "export": 90}
# No backend is there: a start does not wait for one.
ABSENT = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "CLICKHOUSE_HOST": "127.0.0.1", "CLICKHOUSE_PORT": "9"}


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that is answered without a backend."""

    method: str
    path: str
    status: int
    body: str = ""


@dataclasses.dataclass(frozen=True)
class Service:
    """A Service of knative/base, the function whose image it runs, and in how many ms it is to answer."""

    name: str
    function: str
    bar: int
    real: Request | None


SERVICES = {
    service.name: service
    for service in (
        Service("ingest", "ingest", 300, Request("POST", "/api/v1/ingest", 400, '{"message": "of no service"}')),
        Service("ingest-grpc", "ingest", 300, None),
        Service("index", "index", 300, Request("POST", "/", 422, "no event")),
        Service("query", "query", 400, Request("GET", "/openapi.json", 200)),
        Service("export", "export", 350, Request("GET", "/openapi.json", 200)),
    )
}
services = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
functions = pytest.mark.parametrize("function", image.FUNCTIONS)


class Images:
    """The images, each built when it is first asked for, and containers of them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._roots: dict[str, Path] = {}

    def root(self, function: str) -> Path:
        """The files of a function's image."""
        if function not in self._roots:
            self._roots[function] = self._stack.enter_context(image.mounted(image.build(function)))
        return self._roots[function]

    def bundle(self, service: str, function: str, **env: str) -> tuple[Path, dict[str, Any]]:
        """A folder, and the configuration of a container as the manifest of `service` wants it."""
        root = self.root(function)
        found = image.configuration(f"localhost/torpor-{function}")
        pod = container.pod(service)
        assert pod["image"] == f"torpor-{function}"
        folder = self._folder / service
        folder.mkdir(exist_ok=True)
        return folder, container.bundle(root, found, pod, {**ABSENT, **env})

    def python(self, function: str, code: str) -> Any:
        """What a program in the image prints as JSON."""
        folder, config = self.bundle(function, function)
        return json.loads(container.output(folder, config, ["python", "-c", code]))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    if reason := image.why_not():
        missing(reason)
    image.buildah("rm", "--all")  # what an interrupted run left
    with ExitStack() as stack:
        yield Images(tmp_path_factory.mktemp("images"), stack)


def answer(connection: socket.socket, request: Request) -> None:
    """Wait for the answer to a request, which must be the expected one."""
    client = http.client.HTTPConnection("pod")
    client.sock = connection
    client.request(request.method, request.path, request.body or None, {"content-type": "application/x-ndjson"})
    response = client.getresponse()
    text = response.read()
    assert response.status == request.status, text


HEALTH = Request("GET", "/healthz", 200)


def first_answer(service: Service, started: Container, port: int) -> None:
    """Wait for the first answer of a service that was just started."""
    connection = started.connect(port)
    if service.name != "ingest-grpc":
        with connection:
            answer(connection, HEALTH)
        return
    connection.close()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        check(health_pb2.HealthCheckRequest(), timeout=container.START_SECONDS)


@functions
def test_an_image_holds_the_packages_of_its_own_extra_in_the_locked_versions_and_no_other(
    images: Images, function: str
) -> None:
    command = [".venv/bin/uv", "pip", "compile", "pyproject.toml", "--extra", function, "--constraint"]
    command += ["requirements.lock", "--python-version", "3.11", "--quiet", "--no-header", "--no-annotate"]
    extra = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    code = "import importlib.metadata as m, json; print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
    held = [
        f"{name.lower().replace('_', '-').replace('.', '-')}=={version}"
        for name, version in images.python(function, code)
    ]
    assert sorted(held) == sorted(extra)
    print(f"\n{function}: {len(held)} packages, those of its extra")


@functions
def test_an_image_holds_its_own_function_and_what_all_share(images: Images, function: str) -> None:
    app = images.root(function) / "app"
    assert {path.name for path in (app / "functions").iterdir()} == {"__init__.py", "__pycache__", "common", function}
    assert {path.name for path in app.iterdir()} == {"LICENSE", "functions"} | (
        {"schema"} if function == "index" else set()
    )
    assert not [path for path in app.rglob("*") if path.stat().st_uid or path.stat().st_mode & 0o022]


# All but what starts at once, and the generated client, which finds its neighbour only in a client's own folder.
IMPORTS = """
import importlib, json, pkgutil, sys
package = importlib.import_module("functions.{function}")
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in [*names, "functions.common.host", *{also}]:
    if not name.endswith(("__main__", "_pb2_grpc")):
        importlib.import_module(name)
bare = []
for module in list(sys.modules.values()):
    spec = getattr(module, "__spec__", None)
    if spec and spec.cached and spec.origin.endswith(".py"):
        try:
            with open(spec.cached, "rb") as file:
                checked = file.read(8)[4:] != bytes([1, 0, 0, 0])
        except OSError:
            checked = True
        if checked:
            bare.append(spec.origin)
print(json.dumps([bare, len(sys.modules)]))
"""
# What a function loads only when it needs it.
ALSO = {
    "ingest": ["lz4.frame", "crc32c", "zstandard", "uvloop"],
    "index": ["functions.common.migrate", "lz4.frame", "uvloop"],
    "query": ["fastapi", "uvloop"],
    "export": ["pyarrow.parquet", "uvloop"],
}


@functions
def test_every_module_loads_and_its_bytecode_is_there_for_good(images: Images, function: str) -> None:
    bare, count = images.python(function, IMPORTS.format(function=function, also=ALSO[function]))
    assert bare == []
    assert count > 200


RIGHTS = """
import json, os, pathlib
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def writable(folder):
    try:
        pathlib.Path(folder, "probe").write_text("x")
    except OSError as error:
        return error.strerror
    return "written"
kept = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
folders = ("/", "/app", "/venv", "/usr", "/var/tmp", "/tmp")
print(json.dumps([os.getuid(), os.getgid(), [int(status[k], 16) for k in kept], {f: writable(f) for f in folders}]))
"""


@functions
def test_a_container_runs_as_nobody_without_rights_and_can_write_to_tmp_only(images: Images, function: str) -> None:
    uid, gid, rights, folders = images.python(function, RIGHTS)
    assert (uid, gid) == (65532, 65532)
    assert rights == [0, 0, 0, 0, 0, 1, 2]
    assert folders.pop("/tmp") == "written"
    assert set(folders.values()) == {"Read-only file system"}


@functions
def test_an_image_says_what_it_is(images: Images, function: str) -> None:
    images.root(function)
    config = image.configuration(f"localhost/torpor-{function}")
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert config["Entrypoint"] == ["python", "-m", f"functions.{function}"]
    assert (config["User"], list(config["ExposedPorts"])) == ("65532:65532", ["8080/tcp"])
    assert labels.pop("description").endswith(function)
    del labels["io.buildah.version"]
    assert labels == {"title": f"torpor-{function}", "version": "0.0.0", "revision": image.REVISION, "licenses": "MIT"}


@dataclasses.dataclass(frozen=True)
class Start:
    """Bytes of memory; then milliseconds: from the process's begin, from asking runc, of processor time, and so on."""

    memory: int
    first: float
    first_since_asked: float
    cpu: float
    real: float
    end: float


@services
def test_a_service_answers_within_seconds_and_ends_with_0(images: Images, service: Service) -> None:
    folder, config = images.bundle(service.name, service.function, PORT=str(port := free_port()))
    evict(images.root(service.function))
    from_disk = start(service, folder, config, port)
    slow = {**config["process"], "env": [*config["process"]["env"], "PYTHONPYCACHEPREFIX=/tmp/empty"]}
    compiling = start(service, folder, {**config, "process": slow}, port)
    starts = [start(service, folder, config, port) for _ in range(STARTS)]

    def median(field: str) -> str:
        return f"{statistics.median(getattr(one, field) for one in starts):.0f} ms"

    first = sorted(one.first for one in starts)
    print(
        f"\n{service.name}: first answer {median('first')} after the process began ({first[0]:.0f} to {first[-1]:.0f}, "
        f"n={len(first)}, bar {service.bar}, load {os.getloadavg()[0]:.1f}), {median('cpu')} of processor time; "
        + (f"answer of its own {median('real')}; " if service.real else "")
        + f"{median('first_since_asked')} after runc was asked; {from_disk.first:.0f} ms with an empty page cache; "
        f"{compiling.first:.0f} ms without bytecode; {starts[0].memory / MB:.0f} MB of memory; "
        f"ended {median('end')} after SIGTERM"
    )


def start(service: Service, folder: Path, config: dict[str, Any], port: int) -> Start:
    """Start a container, have it answer, and end it."""
    with container.running(folder, config) as run:
        first_answer(service, run, port)
        first, cpu = time.monotonic(), run.cpu()
        if service.real:
            with run.connect(port) as connection:
                answer(connection, service.real)
        real, memory = time.monotonic(), run.memory()
        told = time.monotonic()
        run.terminate()
        status, printed = run.wait()
        ended = time.monotonic()
    assert status == 0, printed
    seconds = (first - run.began, first - run.asked, cpu, real - run.began, ended - told)
    return Start(memory, *(1000 * value for value in seconds))


def evict(root: Path) -> None:
    """Have the kernel forget the content of an image's files, as if the image had just come to the node."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@services
def test_a_service_that_is_ended_while_it_starts_ends_with_0(images: Images, service: Service) -> None:
    folder, config = images.bundle(service.name, service.function, PORT=str(port := free_port()))
    with container.running(folder, config) as run:
        run.connect(port).close()
        run.terminate()
        status, printed = run.wait()
    assert status == 0, printed


def test_a_service_over_its_memory_limit_is_ended_alone(images: Images) -> None:
    folder, config = images.bundle("ingest", "ingest")
    config["process"]["args"] = ["python", "-c", "data = b'x' * (1 << 30)"]
    with container.running(folder, config) as run:
        status, printed = run.wait()
    assert status == 128 + signal.SIGKILL, printed


def test_the_image_of_index_applies_the_schema(images: Images, tmp_path: Path) -> None:
    with clickhouse_front.running(tmp_path / "clickhouse") as (host, port):
        named = {"CLICKHOUSE_HOST": host, "CLICKHOUSE_PORT": str(port), "SCHEMA_VARIANT": "single"}
        folder, config = images.bundle("migrate", "index", **named)
        command = config["process"]["args"]
        assert "applied 0001_logs.sql" in container.output(folder, config, command)
        assert "nothing to apply" in container.output(folder, config, command)


@functions
def test_an_image_is_small(images: Images, function: str, tmp_path: Path) -> None:
    images.root(function)
    base, *own = image.sizes(f"localhost/torpor-{function}", tmp_path)
    packed, unpacked = (sum(column) / MB for column in zip(*own, strict=True))
    print(
        f"\n{function}: {packed + base[0] / MB:.0f} MB packed, {unpacked + base[1] / MB:.0f} MB unpacked; "
        f"{packed:.0f} and {unpacked:.0f} of it in {len(own)} layers on the base"
    )
    assert packed <= LARGEST[function]
