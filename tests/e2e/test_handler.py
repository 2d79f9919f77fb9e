"""The handler of Python's logging against a running Torpor, and against servers that fail in every way they can."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gzip
import http.server
import json
import logging
import logging.config
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.edge.handler import TorporHandler
from tests.chaos.proxy import Proxy
from tests.support.kafka import free_port
from tests.support.kafka_security import make_certificates
from tests.support.local import ROOT, LocalTorpor

TAKEN = (200, b'{"accepted": 1, "rejected": 0, "errors": [], "batch": "b"}')
BUSY = (503, b'{"detail": "not now"}')


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def until(condition: Callable[[], object], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


@contextlib.contextmanager
def logging_to(url: str, service: str = "pay", **settings: Any) -> Iterator[tuple[logging.Logger, TorporHandler]]:
    """A logger of its own with a handler, which is closed in the end."""
    handler = TorporHandler(service, url, **settings)
    logger = logging.Logger("shop.cart")
    logger.addHandler(handler)
    try:
        yield logger, handler
    finally:
        handler.close()


class Server:
    """An HTTP server that gives `answers` first and then takes everything.

    `connections` counts those that were opened, `logs` those that were taken, each with its key and line as Torpor
    tells them apart. A None for an answer stores and then cuts the connection.
    """

    def __init__(self, *answers: tuple[int, bytes] | None, port: int = 0, certificate: Path | None = None) -> None:
        self.answers = list(answers)
        self.headers: dict[str, str] = {}
        self.delay, self.idle = 0.0, 60.0
        self.connections = 0
        self._open: list[socket.socket] = []
        self.posts: list[tuple[str, str, bytes, float]] = []
        self.logs: dict[tuple[str, int], dict[str, Any]] = {}
        server = self

        class Face(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1
                server._open.append(self.connection)
                self.connection.settimeout(server.idle)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                server.take(self, body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        class Quiet(http.server.ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is what these tests are about."""

        self._server = Quiet(("127.0.0.1", port), Face)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.port}"

    def take(self, face: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer one post."""
        key = face.headers["idempotency-key"]
        self.posts.append((face.path, key, body, time.monotonic()))
        answer = self.answers.pop(0) if self.answers else TAKEN
        if answer is None or answer[0] == 200:
            for number, text in enumerate(gzip.decompress(body).split(b"\n")):
                self.logs[key, number] = json.loads(text)
        if answer is None:
            face.close_connection = True
            return
        status, text = answer
        time.sleep(self.delay)
        face.send_response(status)
        for name, value in self.headers.items():
            face.send_header(name, value)
        face.send_header("content-length", str(len(text)))
        face.end_headers()
        face.wfile.write(text)

    @property
    def messages(self) -> collections.Counter[str]:
        return collections.Counter(log["message"] for log in self.logs.values())

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server.server_close()
            thread.join()


def run(script: str, *arguments: str, warnings: str = "error", **environment: str) -> tuple[str, str, float]:
    """Run a program; returns what it said on stdout and stderr, and its seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", warnings, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, time.monotonic() - began


PROGRAM = """
import logging, os, sys, time
from functions.edge.handler import TorporHandler
service, url = sys.argv[1:3]
handler = TorporHandler(service, url)
log = logging.getLogger()
log.addHandler(handler)
log.setLevel("INFO")
"""


def test_what_is_logged_is_what_a_search_finds(torpor: LocalTorpor) -> None:
    service = unique("found")
    with logging_to(torpor.url("ingest"), service) as (logger, _):
        try:
            raise LookupError("no such cart: \udcff")
        except LookupError:
            logger.exception("cart %s ü €", "a\nb", extra={"cart": {"id": 7}, "trace_id": "4bf9", "span_id": "00f0"})
    assert torpor.wait_for_total(1, service=service) == 1
    (log,) = torpor.search(service=service)["logs"]
    assert (log["level"], log["message"], log["trace_id"], log["span_id"]) == ("ERROR", "cart a\nb ü €", "4bf9", "00f0")
    metadata = log["metadata"]
    assert metadata["logger"] == "shop.cart" and metadata["cart"] == '{"id":7}'
    assert metadata["exception.type"] == "LookupError"
    assert metadata["exception.message"] == "no such cart: \\udcff"
    assert metadata["exception.stacktrace"].startswith("Traceback (most recent call last)")
    assert metadata["code.file.path"] == __file__


def test_logs_are_found_at_the_rate_they_are_delivered(torpor: LocalTorpor) -> None:
    service = unique("rate")
    with logging_to(torpor.url("ingest"), service, capacity=10**6) as (logger, handler):
        began = time.perf_counter()
        for number in range(30_000):
            logger.info("request %d took %s ms", number, 2.5, extra={"user": "anna", "number": number})
        emitted = time.perf_counter() - began
        handler.flush(60)
        delivered = time.perf_counter() - began
        print(f"\n{30_000 / emitted:,.0f} emits/s, {30_000 / delivered:,.0f} logs/s delivered")
        assert (handler.waiting, handler.dropped, handler.refused) == (0, 0, 0)
    assert torpor.wait_for_total(30_000, 60, service=service) == 30_000


def test_a_log_that_torpor_refuses_is_told_and_the_others_are_found(
    torpor: LocalTorpor, capsys: pytest.CaptureFixture[str]
) -> None:
    service = unique("refused")
    with logging_to(torpor.url("ingest"), service, interval=60) as (_, handler):
        for created in (time.time(), 1.0, time.time()):
            handler.handle(logging.makeLogRecord({"msg": "m", "levelno": 20, "created": created}))
        handler.flush()
        assert handler.refused == 1
        handler.handle(logging.makeLogRecord({"msg": "m", "levelno": 20, "created": 1.0}))
        handler.flush()
        assert handler.refused == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "logs were refused: line " in first and first.endswith("older than the 30 days that logs are kept")
    assert "1 of 1 logs were refused" in second and "older than the 30 days" in second
    assert torpor.wait_for_total(2, service=service) == 2


@contextlib.asynccontextmanager
async def bad_network(torpor: LocalTorpor) -> AsyncIterator[Proxy]:
    """A way to ingest on which anything may be lost."""
    proxy = Proxy(free_port(), torpor.ports["ingest"], random.Random(2))
    await proxy.up()
    try:
        yield proxy
    finally:
        await proxy.down()
        await asyncio.sleep(0.1)  # what it has open ends


async def test_a_swallowed_answer_counts_once(torpor: LocalTorpor) -> None:
    service = unique("swallowed")
    async with bad_network(torpor) as proxy:
        with logging_to(f"http://127.0.0.1:{proxy.port}", service) as (logger, handler):
            proxy.eat = 1.0
            for number in range(500):
                logger.info("%d", number)
            assert await asyncio.to_thread(until, lambda: proxy.hits >= 3)
            assert handler.waiting == 500
            # What was stored is found before its answer ever arrived.
            assert await asyncio.to_thread(until, lambda: torpor.total(service=service))
            proxy.eat = 0.0
            await asyncio.to_thread(handler.flush, 30)
            assert handler.waiting == 0
            assert await asyncio.to_thread(torpor.wait_for_total, 500, service=service) == 500
            await asyncio.to_thread(handler.close)


async def test_every_log_counts_once_over_a_bad_network(torpor: LocalTorpor) -> None:
    service = unique("bad-network")
    async with bad_network(torpor) as proxy:
        with logging_to(f"http://127.0.0.1:{proxy.port}", service, batch_size=100, interval=0.05) as (logger, handler):
            proxy.eat = proxy.cut = proxy.reset = 0.15
            for number in range(1000):
                logger.info("%d", number)
                if number % 50 == 0:
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(handler.flush, 60)
            assert (handler.waiting, handler.dropped, handler.refused) == (0, 0, 0)
            assert proxy.hits >= 3
            assert await asyncio.to_thread(torpor.wait_for_total, 1000, service=service) == 1000
            await asyncio.to_thread(handler.close)


def test_a_program_that_ends_at_once_has_all_its_logs_found(torpor: LocalTorpor) -> None:
    service = unique("exit")
    script = PROGRAM + "for n in range(5000): log.info('line %d', n)"
    _, errors, _ = run(script, service, torpor.url("ingest"))
    assert errors == ""
    assert torpor.wait_for_total(5000, service=service) == 5000


def test_a_program_that_fails_has_its_last_words_found(torpor: LocalTorpor) -> None:
    service = unique("fails")
    script = PROGRAM + "sys.excepthook = lambda *what: log.critical('failed', exc_info=what)\nlog.info('begun')\n1 / 0"
    done = subprocess.run([sys.executable, "-c", script, service, torpor.url("ingest")], cwd=ROOT, check=False)
    assert done.returncode == 1
    assert torpor.wait_for_total(2, service=service) == 2
    (log,) = torpor.search(service=service, level="FATAL")["logs"]
    assert log["metadata"]["exception.type"] == "ZeroDivisionError"


def test_what_is_logged_while_the_interpreter_ends_is_found(torpor: LocalTorpor) -> None:
    service = unique("ends")
    script = PROGRAM + "import atexit\natexit.register(log.warning, 'the first and the last')"
    _, errors, _ = run(script, service, torpor.url("ingest"))
    assert errors == ""
    assert torpor.wait_for_total(1, service=service) == 1


def test_a_forked_process_sends_its_own_logs_and_only_those(torpor: LocalTorpor) -> None:
    service = unique("fork")
    script = PROGRAM + (
        "for n in range(200): log.info('before %d', n)\n"
        "for child in range(4):\n"
        "    if child == 2: handler.flush()\n"  # two leave with logs waiting, two with an open connection
        "    if os.fork() == 0:\n"
        "        for n in range(50): log.info('child %d %d', child, n)\n"
        "        sys.exit()\n"
        "    log.info('parent %d', child)\n"
        "for child in range(4): assert os.wait()[1] == 0\n"
        "log.info('last')\n"
    )
    # Python 3.12 and later warn of every fork beside a thread.
    _, errors, _ = run(script, service, torpor.url("ingest"), warnings="ignore::DeprecationWarning")
    assert errors == ""
    expected = 200 + 4 * 50 + 4 + 1
    assert torpor.wait_for_total(expected, service=service) == expected


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_send_their_logs_before_they_end(
    torpor: LocalTorpor, tmp_path: Path, method: str
) -> None:
    service = unique(method)
    file = tmp_path / "program.py"
    file.write_text(
        PROGRAM
        + "import multiprocessing\n"
        + "def work(n):\n"
        + "    for m in range(50): logging.getLogger('work').info('%d %d', n, m)\n"
        + "if __name__ == '__main__':\n"
        + f"    context = multiprocessing.get_context({method!r})\n"
        + "    log.info('begun')\n"
        + "    all = [context.Process(target=work, args=(n,)) for n in range(3)]\n"
        + "    for each in all: each.start()\n"
        + "    for each in all: each.join()\n"
        + "    sys.exit(max(each.exitcode for each in all))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", str(file), service, torpor.url("ingest")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert torpor.wait_for_total(151, service=service) == 151


def test_a_program_whose_logging_is_configured_again_loses_nothing(torpor: LocalTorpor) -> None:
    service = unique("configured")
    script = f"""
import logging.config, sys
def configure(level):
    logging.config.dictConfig({{
        "version": 1, "disable_existing_loggers": False,
        "handlers": {{"torpor": {{
            "class": "functions.edge.handler.TorporHandler", "level": level, "service": "{service}",
            "url": "{torpor.url("ingest")}", "headers": {{"X-Cluster": "eu"}}, "flush_timeout": 10,
        }}}},
        "loggers": {{"shop": {{"handlers": ["torpor"], "level": "DEBUG"}}}},
    }})
configure("INFO")
kept = logging.getLogger("shop").handlers[0]
logging.getLogger("shop").info("1")
logging.getLogger("elsewhere").addHandler(kept)
configure("WARNING")
logging.getLogger("shop").info("below")
logging.getLogger("shop").warning("2")
logging.getLogger("elsewhere").error("3: by a handler that was closed, and that logging does not know any more")
"""
    _, errors, _ = run(script)
    assert errors == ""
    assert torpor.wait_for_total(3, service=service) == 3


async def test_a_program_of_asyncio_is_not_held_up(torpor: LocalTorpor) -> None:
    service = unique("asyncio")
    longest = 0.0
    with logging_to(torpor.url("ingest"), service) as (logger, handler):

        async def work(worker: int) -> None:
            nonlocal longest
            for number in range(100):
                began = time.perf_counter()
                logger.info("%d %d", worker, number)
                longest = max(longest, time.perf_counter() - began)
                await asyncio.sleep(0)

        await asyncio.gather(*(work(number) for number in range(20)))
        await asyncio.to_thread(handler.flush)
    assert longest < 0.5
    assert await asyncio.to_thread(torpor.wait_for_total, 2000, service=service) == 2000


def test_batches_share_a_connection() -> None:
    with Server().running() as server, logging_to(f"{server.url}/logs/", interval=0) as (logger, handler):
        for number in range(10):
            logger.info("%d", number)
            handler.flush()
        assert len(server.posts) == 10 and server.connections == 1
        assert {path for path, *_ in server.posts} == {"/logs/api/v1/ingest"}


def test_a_batch_that_finds_no_room_is_sent_again_and_found_once() -> None:
    with Server(BUSY, (500, b""), BUSY).running() as server, logging_to(server.url, interval=60) as (logger, handler):
        for number in range(100):
            logger.info("%d", number)
        handler.flush()
        assert handler.waiting == 0
        assert server.messages == {str(number): 1 for number in range(100)}
        first, *again, last = server.posts[:4]
        assert all(post[:3] == first[:3] for post in again) and last[:3] == first[:3]


def test_retry_after_is_kept_to() -> None:
    with Server(BUSY).running() as server, logging_to(server.url) as (logger, handler):
        server.headers = {"Retry-After": "1"}
        logger.info("once")
        handler.flush()
        (*_, first), (*_, second) = server.posts
        assert 1 <= second - first < 2


def test_a_connection_that_was_closed_between_batches_costs_nothing() -> None:
    with Server().running() as server, logging_to(server.url) as (logger, handler):
        server.idle = 0.1
        logger.info("1")
        handler.flush()
        time.sleep(0.5)
        logger.info("2")
        handler.flush()
        assert handler.waiting == 0 and server.connections == 2
        assert server.messages == {"1": 1, "2": 1}


def test_a_connection_that_is_cut_after_storing_gets_the_same_batch_again() -> None:
    with Server(None, None).running() as server, logging_to(server.url) as (logger, handler):
        logger.info("once")
        handler.flush()
        assert (len(server.posts), handler.waiting) == (3, 0)
        assert server.messages == {"once": 1}


def test_an_answer_that_takes_too_long_is_not_waited_for() -> None:
    with Server().running() as server, logging_to(server.url, timeout=0.3) as (logger, handler):
        server.delay = 1.0
        logger.info("once")
        time.sleep(0.6)
        server.delay = 0.0
        handler.flush()
        assert handler.waiting == 0 and len(server.posts) >= 2
        assert server.messages == {"once": 1}


def test_a_server_that_refuses_before_it_has_read_everything_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    class Early(Server):
        def take(self, face: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
            face.close_connection = True
            super().take(face, body)

    server = Early((413, b'{"detail": "too much"}'))
    face: Any = server._server.RequestHandlerClass
    face.do_POST = lambda self: server.take(self, b"")
    with server.running(), logging_to(server.url) as (logger, handler):
        logger.info("%s", random.Random(3).randbytes(120_000).hex())
        handler.flush()
        assert handler.refused == 1
    assert capsys.readouterr().err.endswith("logs were refused: too much\n")


def test_a_server_that_was_away_gets_what_was_logged_meanwhile() -> None:
    port = free_port()
    with logging_to(f"http://127.0.0.1:{port}") as (logger, handler):
        for round_ in range(2):
            for number in range(100):
                logger.info("%d away %d", round_, number)
            time.sleep(0.5)
            assert handler.waiting == 100
            with Server(port=port).running() as server:
                handler.flush()
                assert handler.waiting == 0
                assert server.messages == {f"{round_} away {number}": 1 for number in range(100)}


def test_a_certificate_is_checked_and_a_good_one_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl on PATH to make a certificate")
    trusted, certificate = make_certificates(tmp_path)
    with Server(certificate=certificate).running() as server:
        with logging_to(server.url, flush_timeout=0.5) as (logger, _):
            logger.info("unknown authority")
        said = capsys.readouterr().err
        assert said.count("logs wait") == 1 and said.count("1 logs were not delivered") == 1
        assert "certificate" in said.lower()
        _, errors, _ = run(PROGRAM + "log.info('safe')", "pay", server.url, SSL_CERT_FILE=str(trusted))
        assert errors == ""
        assert server.messages == {"safe": 1}


def test_headers_go_with_every_request() -> None:
    with Server().running() as server:
        seen: list[str] = []
        take = server.take

        def look(face: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
            seen.append(face.headers["x-api-key"])
            take(face, body)

        looking: Callable[..., None] = look
        server.take = looking  # type: ignore[method-assign]  # the one request header that a test asks for
        with logging_to(server.url, headers={"X-API-Key": "k"}) as (logger, _):
            logger.info("m")
        assert seen == ["k"]


def test_without_a_server_a_program_is_not_slowed_grows_by_little_and_ends_in_time() -> None:
    script = PROGRAM + (
        "import json, pathlib\n"
        "def most(): return int(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "log.info('first'); before = most()\n"
        "took = []\n"
        "for n in range(100_000):\n"
        "    began = time.perf_counter(); log.info('line %d', n, extra={'n': n})\n"
        "    took.append(time.perf_counter() - began)\n"
        "took.sort()\n"
        "grown = most() - before\n"
        "times = [sum(took), took[50_000], took[99_000], took[-1]]\n"
        "print(json.dumps([*times, grown, handler.waiting, handler.dropped]))\n"
        "handler.flush_timeout = 1.0; sys.stdout.flush(); print(time.monotonic())"
    )
    out, errors, _ = run(script, "pay", f"http://127.0.0.1:{free_port()}")
    ended = time.monotonic()
    figures, last = out.splitlines()
    total, median, late, longest, grown, waiting, dropped = json.loads(figures)
    print(f"\nmedian {median * 1e6:.1f} µs, 99% {late * 1e6:.1f} µs, longest {longest * 1e3:.1f} ms, {grown} KiB more")
    assert total < 20 and median < 0.001 and longest < 1
    assert grown < 50 * 1024
    assert (waiting, dropped) == (10_000, 90_001)
    # The monotonic clock of this machine is one for all its processes.
    assert ended - float(last) < 2
    assert errors.startswith("torpor handler: 100001 logs were not delivered to http://127.0.0.1:")
