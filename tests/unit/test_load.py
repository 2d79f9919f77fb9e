"""Load: when batches are due, what is sent again, and what the summary says. No network: ingest is a function here."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from functions.common import config
from functions.local import load
from functions.local.load import BACKOFF, MAX_WAIT, Config, Load, schedule
from functions.local.report import Tally, fault, percentile, summary

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("rate", "size"), [(1, 1), (19, 1), (20, 1), (40, 2), (1000, 50), (20_000, 1000), (300_000, 1000)]
)
def test_a_request_holds_a_twentieth_of_a_second_within_bounds(rate: int, size: int) -> None:
    assert Config(rate=rate).batch_size == size


def test_a_batch_size_that_is_set_is_used() -> None:
    assert config.load(Config, {"RATE": "1000", "BATCH": "7"}).batch_size == 7


def test_rate_times_duration_logs_are_sent() -> None:
    assert config.load(Config, {}).total == 60_000
    assert config.load(Config, {"RATE": "3", "DURATION": "0.5"}).total == 2
    assert config.load(Config, {"RATE": "1", "DURATION": "0.1"}).total == 1


@pytest.mark.parametrize(
    "env",
    [
        {"RATE": "0"},
        {"RATE": "many"},
        {"DURATION": "0"},
        {"DURATION": "nan"},
        {"DURATION": "inf"},
        {"BATCH": "-1"},
        {"BATCH": "50001"},
        {"INGEST_URL": "localhost:8081"},
        {"INGEST_URL": "http://localhost:99999"},
        {"QUERY_URL": "http://"},
    ],
)
def test_a_setting_that_cannot_be_used_is_named(env: dict[str, str]) -> None:
    with pytest.raises(config.ConfigError, match=next(iter(env))):
        config.load(Config, env)


@pytest.mark.parametrize(("total", "rate", "size"), [(1, 1, 1), (60_000, 1000, 50), (1001, 700, 100), (5, 10, 50)])
def test_the_schedule_holds_every_log_once_and_keeps_the_rate(total: int, rate: int, size: int) -> None:
    batches = list(schedule(total, rate, size))
    assert [n for batch in batches for n in range(batch.first, batch.first + batch.count)] == list(range(1, total + 1))
    assert max(batch.count for batch in batches) <= size
    assert batches[-1].due == total / rate
    assert all(batch.due == pytest.approx((batch.first + batch.count - 1) / rate) for batch in batches)


def test_a_batch_is_due_when_its_last_log_has_happened() -> None:
    start = 1_790_000_000 * SECOND
    batch = list(schedule(1000, 1000, 50))[3]
    times = batch.times(start, 1000)
    assert len(times) == 50
    assert times[0] == start + 151 * SECOND // 1000
    assert times[-1] == start + round(batch.due * SECOND)


@pytest.mark.parametrize("status", [None, 429, 503])
def test_what_may_work_later_is_tried_five_times_with_longer_waits(status: int | None) -> None:
    waits = [load.wait_before_retry(tried, status) for tried in range(1, 6)]
    assert waits == [*BACKOFF, None]
    assert list(BACKOFF) == sorted(BACKOFF)
    assert len(waits) == 5


@pytest.mark.parametrize("status", [200, 400, 404, 413, 500])
def test_what_has_an_answer_for_good_is_not_sent_again(status: int) -> None:
    assert load.wait_before_retry(1, status, "1") is None


@pytest.mark.parametrize(
    ("retry_after", "wait"),
    [
        ("3", 3.0),
        ("0", BACKOFF[0]),
        ("86400", MAX_WAIT),
        ("Wed, 21 Oct 2026 07:28:00 GMT", BACKOFF[0]),
        ("²", BACKOFF[0]),
    ],
)
def test_retry_after_is_honoured_within_bounds(retry_after: str, wait: float) -> None:
    assert load.wait_before_retry(1, 503, retry_after) == wait


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, 0.0),
        ([4.0], 0.0, 4.0),
        ([4.0], 0.99, 4.0),
        ([3.0, 1.0, 2.0, 4.0], 0.5, 2.0),
        ([float(n) for n in range(100, 0, -1)], 0.95, 95.0),
        ([float(n) for n in range(100, 0, -1)], 0.99, 99.0),
        ([float(n) for n in range(100, 0, -1)], 1.0, 100.0),
    ],
)
def test_a_percentile_is_a_value_that_was_measured(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_the_summary_says_what_became_of_the_logs() -> None:
    tally = Tally(sent=2000, accepted=1840, rejected=10, repeats=3, seconds=4.0)
    tally.failed.update({"500": 100, "no answer": 50})
    tally.reasons.update({"500": "boom", "no answer": "ConnectError", "rejected": "line 3"})
    tally.latencies = [n / 1000 for n in range(1, 101)]
    tally.lateness = [0.001] * 98 + [0.051, 0.2]
    assert summary(tally, 1000).splitlines() == [
        "sent      2,000 logs in 100 requests, and 3 requests again",
        "accepted  1,840",
        "rejected  10; the first: line 3",
        "failed    150",
        "  500: 100; the first: boom",
        "  no answer: 50; the first: ConnectError",
        "rate      500 logs/s of 1,000 asked (50.0%)",
        "late      2 requests by over 50 ms, p99 51.0 ms",
        "latency   p50 50.0 ms, p95 95.0 ms, p99 99.0 ms, max 100.0 ms from the intended time",
    ]


def test_a_summary_of_nothing_does_not_make_figures_up() -> None:
    text = summary(Tally(), 1000)
    assert "rate      0 logs/s" in text
    assert "no request was answered 200" in text


@pytest.mark.parametrize(
    ("sent", "accepted", "found", "words"),
    [
        (10, 10, 10, ""),
        (10, 9, 9, "1 of 10 logs sent were not accepted"),
        (10, 10, 9, "10 logs were accepted and a search finds 9"),
        (10, 10, 11, "10 logs were accepted and a search finds 11"),
        (10, 9, 10, "1 of 10 logs sent were not accepted; 9 logs were accepted and a search finds 10"),
        (10, 10, None, "no search was answered"),
    ],
)
def test_a_run_fails_unless_all_that_was_sent_is_found_once(
    sent: int, accepted: int, found: int | None, words: str
) -> None:
    assert fault(Tally(sent=sent, accepted=accepted), found) == words


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BACKOFF", (0.0, 0.0, 0.0, 0.0))


async def sent_to(ingest: Callable[[httpx.Request], httpx.Response], settings: Config) -> Load:
    """A run whose requests `ingest` answers."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(ingest)) as client:
        run = Load(settings, client, 1)
        await run.send()
    return run


def accept(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"accepted": len(request.content.splitlines()), "rejected": 0, "batch": "b"})


async def test_every_log_is_sent_under_a_key_of_its_batch_and_marked_with_the_run() -> None:
    requests: list[httpx.Request] = []

    def ingest(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return accept(request)

    run = await sent_to(ingest, Config(rate=1000, duration=0.21, batch=50))
    logs = [json.loads(line) for request in requests for line in request.content.splitlines()]
    assert (run.tally.sent, run.tally.accepted, run.tally.done) == (210, 210, 210)
    assert [len(request.content.splitlines()) for request in requests] == [50, 50, 50, 50, 10]
    assert len({request.headers["idempotency-key"] for request in requests}) == 5
    assert {request.headers["content-type"] for request in requests} == {"application/x-ndjson"}
    assert {str(request.url) for request in requests} == {"http://localhost:8081/api/v1/ingest"}
    assert {log["metadata"]["load_id"] for log in logs} == {run.id}
    assert len(run.tally.latencies) == len(run.tally.lateness) == 5
    assert run.tally.seconds >= 0.21


@pytest.mark.usefixtures("no_waiting")
async def test_what_fails_for_now_is_sent_again_unchanged_under_the_same_key() -> None:
    tries: dict[str, list[bytes]] = {}

    def ingest(request: httpx.Request) -> httpx.Response:
        bodies = tries.setdefault(request.headers["idempotency-key"], [])
        bodies.append(request.content)
        if len(bodies) == 1:
            raise httpx.ReadError("reset")
        return accept(request) if len(bodies) == 4 else httpx.Response(429 + 74 * (len(bodies) % 2))

    run = await sent_to(ingest, Config(rate=1000, duration=0.1))
    assert [len(bodies) for bodies in tries.values()] == [4, 4]
    assert all(len(set(bodies)) == 1 for bodies in tries.values())
    assert (run.tally.accepted, run.tally.repeats, run.tally.failed.total()) == (100, 6, 0)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("answer", "status", "tries"),
    [
        (httpx.Response(503), "503", 5),
        (httpx.Response(400), "400", 1),
        (httpx.Response(200, text="hi"), "unreadable 200", 1),
    ],
)
async def test_what_fails_for_good_is_counted_by_status(answer: httpx.Response, status: str, tries: int) -> None:
    run = await sent_to(lambda _: httpx.Response(answer.status_code, content=answer.content), Config(duration=0.05))
    assert run.tally.failed == {status: 50}
    assert run.tally.repeats == tries - 1
    assert run.tally.latencies == []


@pytest.mark.usefixtures("no_waiting")
async def test_a_server_that_hangs_up_is_no_answer() -> None:
    def ingest(_: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("gone")

    run = await sent_to(ingest, Config(duration=0.05))
    assert run.tally.failed == {"no answer": 50}
    assert run.tally.reasons == {"no answer": "RemoteProtocolError gone"}


async def test_batches_go_out_on_time_while_earlier_answers_are_awaited() -> None:
    async def ingest(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.5)
        return accept(request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(ingest)) as client:
        run = Load(Config(rate=200, duration=0.2), client, 1)
        await run.send()
    assert run.tally.accepted == 40
    # One after another they would take ten seconds.
    assert run.tally.seconds < 3
    assert min(run.tally.latencies) >= 0.49


async def test_a_run_that_is_stopped_waits_for_what_it_sent() -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(accept)) as client:
        run = Load(Config(rate=1000, duration=60), client, 1)
        asyncio.get_running_loop().call_later(0.12, run.stop.set)
        await asyncio.wait_for(run.send(), 5)
    assert 0 < run.tally.sent < 1000
    assert run.tally.accepted == run.tally.sent


async def test_the_search_asks_until_it_finds_what_was_accepted() -> None:
    totals = iter([httpx.Response(503), httpx.Response(200, json={"logs": [], "total": 50})])
    searches: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return accept(request)
        searches.append(request)
        return next(totals)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        run = Load(Config(duration=0.05), client, 1)
        await run.send()
        assert await run.find() == (50, "")
    assert len(searches) == 2
    parameters = searches[-1].url.params
    assert searches[-1].url.path == "/api/v1/logs"
    assert {name: parameters[name] for name in ("metadata.load_id", "total", "limit")} == {
        "metadata.load_id": run.id,
        "total": "exact",
        "limit": "1",
    }
    assert parameters["start_time"] < parameters["end_time"]


async def test_a_search_that_nobody_answers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MAX_WAIT", 0.0)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return accept(request)
        raise httpx.ConnectError("refused")

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        run = Load(Config(duration=0.05), client, 1)
        await run.send()
        assert await run.find() == (None, "nothing answers at http://localhost:8083")


async def test_an_ingest_that_is_not_there_is_told_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    # Port 1 of the loopback: nothing listens there.
    assert await load.run(Config(ingest_url="http://127.0.0.1:1")) == 1
    assert capsys.readouterr().err == "load: nothing answers at http://127.0.0.1:1; start it with make run\n"
