"""Runs one Apache Kafka broker as a child process, so that tests can kill it, pause it and start it again."""

import contextlib
import fcntl
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

POM = Path(__file__).resolve().parent / "apache_kafka" / "pom.xml"
JARS = Path(__file__).resolve().parents[2] / "build" / "kafka-jars"
STAMP = JARS / "stamp"
START_SECONDS, STOP_SECONDS, FETCH_SECONDS = 60.0, 20.0, 600.0
# Below the ports of outgoing connections: among those, a client that retries a stopped broker can connect to itself.
_PORTS = iter(random.SystemRandom().sample(range(20000, 32000), 12000))
Texts = Mapping[str, str]
NONE: Texts = {}
_ONES = """
    node.id num.partitions offsets.topic.num.partitions offsets.topic.replication.factor
    transaction.state.log.num.partitions transaction.state.log.replication.factor transaction.state.log.min.isr
    share.coordinator.state.topic.replication.factor share.coordinator.state.topic.min.isr
"""
PROPERTIES = dict.fromkeys(_ONES.split(), "1") | {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAIN",
    "message.max.bytes": "2097152",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # A broker that was killed is let in again when its old session has run out: 3 s, not Kafka's 9.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


class Broker(Protocol):
    """What a test may do to any broker. The address stays the same from the first start() to the last stop()."""

    @property
    def bootstrap(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


def why_not() -> str | None:
    """Say what is missing to run Apache Kafka here, or None when nothing is."""
    if shutil.which("java") is None:
        return "Apache Kafka needs Java 17 or newer: there is no java on PATH"
    answer = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    if found is None or int(found[1]) < 17:
        return f"Apache Kafka needs Java 17 or newer: java on PATH is {found[1] if found else 'of no known version'}"
    if not _fetched() and shutil.which("mvn") is None:
        return "Apache Kafka is not fetched yet, and fetching it needs Maven: there is no mvn on PATH"
    return None


def _fetched() -> bool:
    return STAMP.is_file() and STAMP.read_bytes() == POM.read_bytes()


def jars() -> Path:
    """Return the directory with Kafka's jars, fetching them when the pom has changed since they were fetched."""
    JARS.parent.mkdir(parents=True, exist_ok=True)
    # Two test runs may start at once; the second waits and finds the work done.
    with JARS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _fetched():
            shutil.rmtree(JARS, ignore_errors=True)
            goal = "dependency:copy-dependencies"
            command = ["mvn", "-q", "-B", "-f", str(POM), goal, "-DincludeScope=runtime", f"-DoutputDirectory={JARS}"]
            result = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
            if result.returncode != 0:
                raise RuntimeError(f"Maven could not fetch Apache Kafka:\n{(result.stdout + result.stderr)[-3000:]}")
            shutil.copyfile(POM, STAMP)
    return JARS


def free_port() -> int:
    """Return a loopback port nobody listens on, another one each time."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free loopback port is left")


class ApacheKafka:
    """One KRaft node, broker and controller at once, on loopback, with data, properties and log in `directory`.

    After stop() or kill(), start() brings it back at the same port with every acknowledged record. `properties` go
    to the broker, `format_options` to the command that makes the directory ready, `listeners` maps names to protocols.
    """

    def __init__(
        self, directory: Path, *, properties: Texts = NONE, listeners: Texts = NONE, format_options: Sequence[str] = ()
    ) -> None:
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAIN": "PLAINTEXT", **listeners}
        self.directory, self.log = directory, directory / "broker.log"
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in protocols}
        self.bootstrap = self.addresses["PLAIN"]
        self._process: subprocess.Popen[bytes] | None = None
        self._format_options = format_options
        self._properties = PROPERTIES | {
            "listeners": ",".join(f"{name}://{address}" for name, address in self.addresses.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "controller.quorum.bootstrap.servers": self.addresses["CONTROLLER"],
            "log.dirs": str(directory / "data"),
            **properties,
        }

    @property
    def running(self) -> bool:
        """Whether the process is there, paused or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Return once the broker answers a Metadata request; raise with its log's tail if it does not."""
        if self.running:
            raise RuntimeError("the broker is running already")
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = self.directory / "server.properties"
        settings.write_text("".join(f"{key}={value}\n" for key, value in self._properties.items()))
        try:
            if not (self.directory / "data" / "meta.properties").exists():
                # One word, since a cluster id may begin with a dash and would be read as an option.
                options = [f"--cluster-id={secrets.token_urlsafe(16)}", "-c", str(settings), *self._format_options]
                self._process = self._java("kafka.tools.StorageTool", "format", "--standalone", *options)
                if self._process.wait(START_SECONDS) != 0:
                    raise RuntimeError(f"the broker's directory could not be made ready:\n{self.log_tail()}")
            self._process = self._java("kafka.Kafka", str(settings))
            deadline = time.monotonic() + START_SECONDS
            while not self._answers():
                if not self.running or time.monotonic() > deadline:
                    raise RuntimeError(f"the broker {'is silent' if self.running else 'ended'}:\n{self.log_tail()}")
                time.sleep(0.1)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the broker in good order, or by force when it takes longer than STOP_SECONDS. May be called twice."""
        if self._process is not None:
            self.resume()  # A paused process would not see the request to end.
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the broker without notice; returns when the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def pause(self) -> None:
        """Stop the broker in its tracks, connections open and nothing answered; returns when it stands still."""
        if self._process is None or not self.running:
            raise RuntimeError("the broker is not running")
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let a paused broker go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def log_tail(self) -> str:
        """Return the last lines of the broker's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        # A small heap and the collector with the fewest threads: the broker shares the machine with the tests.
        options = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-Dlog4j2.level=WARN"]
        command = ["java", *options, "-cp", f"{jars()}/*", *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _answers(self) -> bool:
        # Connected to first because a client whose constructor fails leaves a thread and sockets behind.
        with contextlib.suppress(OSError, KafkaError):
            socket.create_connection(("127.0.0.1", int(self.bootstrap.split(":")[1])), timeout=5).close()
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=5000)
            with contextlib.closing(admin):
                return any(not broker["is_fenced"] for broker in admin.describe_cluster()["brokers"])
        return False
