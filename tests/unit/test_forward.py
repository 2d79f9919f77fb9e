"""The forwarder: a batch is sent until ingest has it, and nothing that ingest refuses is lost."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from functions.common.host import Host
from functions.common.record import decode
from functions.edge import forward
from functions.edge.forward import Forwarder, endpoint
from functions.edge.spool import Full, Spool
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from tests.support.disk import fill, small_disk
from tests.support.memory import MemoryPublisher

URL = "http://ingest"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool.db", 10**8)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(forward, "MAX_WAIT", 0.04)


@contextlib.asynccontextmanager
async def running(spool: Spool, transport: httpx.AsyncBaseTransport) -> AsyncIterator[Forwarder]:
    async with httpx.AsyncClient(transport=transport) as client:
        forwarder = Forwarder(spool, URL + "/", client)
        task = asyncio.create_task(forwarder.run())
        try:
            yield forwarder
        finally:
            assert not task.done(), task.exception()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Script(httpx.AsyncBaseTransport):
    """Answers as the script says, the last of it again and again, and keeps the requests and when they came."""

    def __init__(self, *script: httpx.Response | Exception) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(asyncio.get_running_loop().time())
        answer = self.script[min(len(self.requests), len(self.script)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    @property
    def keys(self) -> list[str]:
        return [request.headers["idempotency-key"] for request in self.requests]

    @property
    def bodies(self) -> list[bytes]:
        return [gzip.decompress(request.content) for request in self.requests]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.001)


def taken(accepted: int, errors: list[dict[str, Any]] | None = None, rejected: int | None = None) -> httpx.Response:
    rejected = len(errors or []) if rejected is None else rejected
    answer = {"accepted": accepted, "rejected": rejected, "errors": errors or [], "batch": "b"}
    return httpx.Response(200, json=answer)


def kept(spool: Spool) -> list[dict[str, Any]]:
    path = spool.path.parent / "refused.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def line(number: int) -> bytes:
    return b'{"service":"edge","timestamp":"2026-01-31T12:00:00.%09dZ","message":"%d"}' % (number, number)


async def test_ingest_takes_what_was_put_in_order_and_the_spool_is_empty(spool: Spool) -> None:
    publisher = MemoryPublisher()
    function = Ingest(Config(retention_days=36500), publisher)
    await function.start()
    keys = [spool.put(line(1) + b"\n" + line(2), 2), spool.put(line(3), 1)]
    async with running(spool, httpx.ASGITransport(app=Host(function))) as forwarder:
        assert await forwarder.drain(5)
        keys.append(spool.put(line(4), 1))
        forwarder.wake()
        assert await forwarder.drain(5)
        assert (forwarder.sent, forwarder.refused, forwarder.failing) == (4, 0, "")
    await function.stop()
    rows = [decode(row) for _, _, value, _ in publisher.records for row in value.split(b"\n")]
    assert [row.message for row in rows] == ["1", "2", "3", "4"]
    assert (spool.batches, kept(spool)) == (0, [])


async def test_lines_that_ingest_refuses_are_kept_with_its_reasons(spool: Spool) -> None:
    publisher = MemoryPublisher()
    function = Ingest(Config(retention_days=36500), publisher)
    await function.start()
    bad = b'{"timestamp":"2026-01-31T12:00:00Z","message":"no service"}'
    key = spool.put(b"\n".join([line(1), bad, line(2), b"{no json"]), 4)
    none = spool.put(bad, 1)
    async with running(spool, httpx.ASGITransport(app=Host(function))) as forwarder:
        assert await forwarder.drain(5)
        assert (forwarder.sent, forwarder.refused) == (2, 3)
    await function.stop()
    first, second, third = kept(spool)
    assert (first["batch"], first["line"], first["error"]) == (key, 2, "service: missing")
    assert first["record"] == json.loads(bad)
    assert (second["batch"], second["line"], second["record"]) == (key, 4, "{no json")
    assert second["error"].startswith("not JSON")
    assert (third["batch"], third["record"]) == (none, json.loads(bad))


async def test_a_request_is_packed_and_says_what_it_is(spool: Spool) -> None:
    key = spool.put(line(1), 1)
    script = Script(taken(1))
    async with running(spool, script) as forwarder:
        assert await forwarder.drain(5)
    (request,) = script.requests
    assert (request.method, str(request.url)) == ("POST", "http://ingest/api/v1/ingest")
    assert request.headers["content-type"] == "application/x-ndjson"
    assert request.headers["content-encoding"] == "gzip"
    assert script.keys == [key]
    assert script.bodies == [line(1)]


@pytest.mark.parametrize("path", ["", "/", "/api/v1/ingest", "/api/v1/ingest/"])
def test_an_address_may_be_that_of_ingest_or_where_it_takes_logs(path: str) -> None:
    assert endpoint("http://localhost:8081" + path) == "http://localhost:8081/api/v1/ingest"
    assert endpoint("https://host/logs" + path) == "https://host/logs/api/v1/ingest"


@pytest.mark.parametrize("url", ["", "localhost:8081", "ftp://host", "http://", "http://host?a=1", "http://host#a"])
def test_what_is_no_address_is_an_error_that_names_the_setting(url: str) -> None:
    with pytest.raises(ValueError, match=r"^INGEST_URL is '.*': expected http://host:port$"):
        endpoint(url)
    with pytest.raises(ValueError, match=r"^--url is '.*': expected http://host:port$"):
        endpoint(url, "--url")


FAILURES = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("late"),
    httpx.RemoteProtocolError("gone"),
    *(httpx.Response(status, text="no") for status in (301, 401, 403, 404, 429, 500, 502, 503, 504)),
    httpx.Response(200, text="<html>log in first</html>"),
    httpx.Response(200, json={"ok": True}),
    httpx.Response(204),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: getattr(failure, "status_code", type(failure)))
async def test_a_batch_that_has_no_answer_of_ingest_is_sent_again_under_its_key(
    spool: Spool, failure: httpx.Response | Exception
) -> None:
    key = spool.put(line(1), 1)
    script = Script(failure, failure, taken(1))
    async with running(spool, script) as forwarder:
        await until(lambda: forwarder.failing)
        assert spool.batches == 1
        await until(lambda: not spool.batches)
        assert (forwarder.sent, forwarder.refused, forwarder.failing) == (1, 0, "")
    assert script.keys == [key] * 3
    assert script.bodies == [line(1)] * 3
    assert kept(spool) == []


@pytest.mark.parametrize("status", [400, 413, 415])
async def test_a_batch_that_is_refused_as_a_whole_is_kept_as_a_whole(spool: Spool, status: int) -> None:
    spool.put(line(1) + b"\n" + line(2), 2)
    spool.put(line(3), 1)
    script = Script(httpx.Response(status, json={"detail": "it is too much"}), taken(1))
    async with running(spool, script) as forwarder:
        assert await forwarder.drain(5)
        assert (forwarder.sent, forwarder.refused) == (1, 2)
    assert [entry["record"]["message"] for entry in kept(spool)] == ["1", "2"]
    assert {entry["error"] for entry in kept(spool)} == {f"{status} it is too much"}


async def test_if_the_answer_names_fewer_than_it_refused_the_whole_batch_is_kept(spool: Spool) -> None:
    spool.put(b"\n".join(line(number) for number in range(1, 301)), 300)
    named = [{"line": number, "field": None, "error": "bad"} for number in range(1, 101)]
    async with running(spool, Script(taken(150, named, rejected=150))) as forwarder:
        assert await forwarder.drain(5)
        assert (forwarder.sent, forwarder.refused) == (150, 150)
    entries = kept(spool)
    assert [entry["line"] for entry in entries] == list(range(1, 301))
    assert [entry["error"] for entry in entries[99:101]] == ["bad", "200"]


async def test_what_was_refused_before_stays_in_the_file(spool: Spool) -> None:
    for _ in range(2):
        spool.put(line(1), 1)
    async with running(spool, Script(httpx.Response(400))) as forwarder:
        assert await forwarder.drain(5)
    assert len(kept(spool)) == 2


async def test_a_batch_whose_refused_lines_cannot_be_kept_is_held_until_they_can(spool: Spool) -> None:
    file = spool.path.parent / "refused.jsonl"
    file.mkdir()
    spool.put(line(1), 1)
    async with running(spool, Script(httpx.Response(400))) as forwarder:
        assert not await forwarder.drain(0.1)
        assert "refused.jsonl" in forwarder.failing
        file.rmdir()
        assert await forwarder.drain(5)
        assert (forwarder.refused, len(kept(spool))) == (1, 1)


async def test_refused_lines_that_the_disk_has_no_room_for_are_kept_whole_when_it_has(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, contextlib.closing(Spool(disk / "spool.db", 10**9)) as spool:
        spool.put(b"\n".join(line(number) for number in range(2000)), 2000)
        fill(disk / "other")
        async with running(spool, Script(httpx.Response(400))) as forwarder:
            await until(lambda: forwarder.failing)
            assert forwarder.failing == f"[Errno 28] No space left on device: '{disk}/refused.jsonl'"
            assert kept(spool) == []
            (disk / "other").unlink()
            assert await forwarder.drain(10)
        assert [entry["record"]["message"] for entry in kept(spool)] == [str(number) for number in range(2000)]


async def test_the_waits_grow_and_stay_below_their_limit(spool: Spool) -> None:
    spool.put(line(1), 1)
    script = Script(*[httpx.Response(500)] * 6, taken(1))
    async with running(spool, script) as forwarder:
        await until(lambda: not spool.batches)
        assert forwarder.failing == ""
    waits = [later - earlier for earlier, later in zip(script.times, script.times[1:], strict=False)]
    for wait, least in zip(waits, (0.01, 0.02, 0.04, 0.04, 0.04, 0.04), strict=True):
        assert least * 0.99 <= wait < least * 1.25 + 0.1


async def test_a_retry_after_is_kept_to_and_never_undercut(spool: Spool) -> None:
    spool.put(line(1), 1)
    script = Script(httpx.Response(503, headers={"retry-after": "1"}), taken(1))
    async with running(spool, script):
        await until(lambda: not spool.batches)
    assert 1 <= script.times[1] - script.times[0] < 1.5


async def test_to_drain_does_not_wait_for_the_next_try(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "FIRST_WAIT", 60)
    monkeypatch.setattr(forward, "MAX_WAIT", 60)
    spool.put(line(1), 1)
    script = Script(httpx.Response(500), taken(1))
    async with running(spool, script) as forwarder:
        await until(lambda: forwarder.failing)
        assert await forwarder.drain(4)
    assert len(script.requests) == 2


async def test_to_drain_an_empty_spool_is_done_and_a_full_one_takes_no_longer_than_allowed(spool: Spool) -> None:
    async with running(spool, Script(httpx.Response(500))) as forwarder:
        assert await forwarder.drain(0)
        spool.put(line(1), 1)
        started = asyncio.get_running_loop().time()
        assert not await forwarder.drain(0.1)
        assert asyncio.get_running_loop().time() - started < 1
    assert spool.batches == 1


async def test_an_outage_is_logged_once_and_so_is_its_end(spool: Spool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="functions.edge.forward")
    changes: list[tuple[int, str]] = []
    script = Script(*[httpx.ConnectError("refused")] * 5, taken(1))
    async with httpx.AsyncClient(transport=script) as client:
        forwarder = Forwarder(spool, URL, client, lambda: changes.append((forwarder.sent, forwarder.failing)))
        task = asyncio.create_task(forwarder.run())
        for number in range(2):
            spool.put(line(number), 1)
            forwarder.wake()
        await until(lambda: not spool.batches)
        task.cancel()
    messages = [record.message for record in caplog.records]
    assert messages == ["cannot hand logs on to ingest; they wait", "ingest takes logs again"]
    assert changes == [(0, "ConnectError refused")] * 5 + [(1, ""), (2, "")]


@pytest.mark.parametrize("status", [404, 405])
async def test_who_answers_as_ingest_never_does_is_told_once_and_the_logs_are_kept(
    spool: Spool, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    spool.put(line(1), 1)
    script = Script(*[httpx.Response(status, text="no such page")] * 4, taken(1))
    async with running(spool, script) as forwarder:
        await until(lambda: forwarder.failing)
        failing = f"this is not ingest: check INGEST_URL / --url; it answers {status} no such page"
        assert (forwarder.failing, spool.count) == (failing, 1)
        await until(lambda: not spool.batches)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert vars(warning)["error"] == failing
    assert (len(script.requests), kept(spool)) == (5, [])


async def test_what_waits_on_a_full_disk_is_sent_once_and_makes_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, contextlib.closing(Spool(disk / "spool.db", 10**9)) as spool:
        put = 0
        with contextlib.suppress(Full):
            while True:
                spool.put(b"\n".join(line(put + number) for number in range(1000)), 1000)
                put += 1000
        fill(disk / "other")
        script = Script(taken(1000))
        async with running(spool, script) as forwarder:
            assert await forwarder.drain(20)
            assert (forwarder.sent, forwarder.failing) == (put, "")
        sent = b"\n".join(script.bodies).split(b"\n")
        assert sent == [line(number) for number in range(put)]
        assert put > 5000


async def test_refused_logs_are_an_error_in_the_log_without_their_text(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    spool.put(b'{"secret": 1}', 1)
    async with running(spool, Script(httpx.Response(400))) as forwarder:
        assert await forwarder.drain(5)
    (entry,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert entry.message == "ingest refused logs; they are kept in a file"
    assert "secret" not in str(vars(entry))


async def test_without_a_client_it_makes_its_own_and_closes_it(spool: Spool) -> None:
    spool.put(line(1), 1)
    forwarder = Forwarder(spool, "http://127.0.0.1:1")
    task = asyncio.create_task(forwarder.run())
    await until(lambda: forwarder.failing)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert forwarder.failing.startswith("ConnectError")
    assert spool.batches == 1
