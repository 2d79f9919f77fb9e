"""Each function behind the real queue-proxy, with the numbers of its manifest."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import httpx
import pytest
from grpc import RpcError, StatusCode

from tests.knative.backends import MANY
from tests.knative.load import LOADS, GrpcLoad, IngestLoad, batch, event_headers, slowly
from tests.knative.pod import FOLDER, Pod, pod
from tests.knative.rendering import FUNCTIONS, service
from tests.knative.silence import Silence

Settings = Mapping[str, str]
LIMITED = ("index", "query", "export")
"""Those with a containerConcurrency. The others refuse by themselves, with a Retry-After."""
NOBODY = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "CLICKHOUSE_HOST": "127.0.0.1", "CLICKHOUSE_PORT": "1"}


def ask(http: httpx.Client, name: str) -> httpx.Response:
    """A request to index, query or export that needs ClickHouse."""
    if name == "index":
        return http.post("/", content=b"{}", headers=event_headers())
    return http.get("/api/v1/logs" if name == "query" else "/api/v1/logs/export")


def spec(name: str, field: str) -> int:
    """A number of the manifest."""
    number: int = service(FOLDER, name)["spec"]["template"]["spec"][field]
    return number


@pytest.mark.parametrize("name", FUNCTIONS)
def test_requests_pass_and_what_is_acknowledged_is_there(
    name: str, settings: Settings, say: Callable[[str], None]
) -> None:
    with pod(name, settings) as made:
        load = LOADS[name](made, settings)
        for _ in range(10):
            load.request()
        load.late(2)
        say(f"{name}: {load.verify()}")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_probe_says_ready_even_if_nothing_behind_the_function_is_and_not_without_it(
    name: str, say: Callable[[str], None]
) -> None:
    made = Pod(name, NOBODY)
    try:
        say(f"{name}: ready after {made.wait_until_ready():.2f} s")
        made.function.kill()
        assert not made.ready(), "the function is gone"
    finally:
        made.kill()


@pytest.mark.parametrize("name", LIMITED)
def test_ten_times_as_many_requests_wait_as_may_run_and_the_next_is_refused(
    name: str, say: Callable[[str], None]
) -> None:
    limit = spec(name, "containerConcurrency")
    most = limit + 10 * limit
    with Silence() as clickhouse, pod(name, {**NOBODY, **clickhouse.settings}) as made:
        http = made.client()
        with ThreadPoolExecutor(most) as threads:
            running = [threads.submit(ask, http, name) for _ in range(most)]
            assert not wait(running, 3, FIRST_COMPLETED).done, "one was answered before there was one too many"
            refused = ask(http, name)
            assert (refused.status_code, refused.text.strip()) == (503, "pending request queue full")
            assert "retry-after" not in refused.headers, "queue-proxy sends one now: ingest.yaml says it does not"
            clickhouse.end()
            answers = [request.result() for request in running]
        # All of these are the function's own: it was asked in the end, and nobody was left waiting.
        assert {answer.status_code for answer in answers} == {503}
        assert all(answer.headers["content-type"] == "application/problem+json" for answer in answers)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    say(f"{name}: {limit} run, {10 * limit} wait, the next is refused")


def test_ingest_has_no_limit_on_requests(kafka: Settings) -> None:
    assert spec("ingest", "containerConcurrency") == spec("ingest-grpc", "containerConcurrency") == 0
    with pod("ingest", kafka) as made, ThreadPoolExecutor(200) as threads:
        load = IngestLoad(made, kafka)
        for request in [threads.submit(load.late, 3) for _ in range(200)]:
            request.result()


@pytest.mark.parametrize("name", LIMITED)
def test_an_answer_that_does_not_begin_in_time_is_a_504(name: str) -> None:
    with (
        Silence() as clickhouse,
        pod(name, {**NOBODY, **clickhouse.settings}, timeoutSeconds=5, responseStartTimeoutSeconds=2) as made,
    ):
        http = made.client()
        started = time.monotonic()
        answer = ask(http, name)
        seconds = time.monotonic() - started
        assert (answer.status_code, answer.text) == (504, "request timeout")
        assert 1.9 < seconds < 4


def test_the_time_of_an_upload_counts_until_the_answer_begins(kafka: Settings) -> None:
    with pod("ingest", kafka, responseStartTimeoutSeconds=2) as made:
        load = IngestLoad(made, kafka)
        load.late(1)
        with pytest.raises(AssertionError, match="504 request timeout"):
            load.late(4)


def test_a_file_that_takes_longer_than_the_limit_ends_as_if_it_were_whole_but_shows_that_it_is_not(
    clickhouse: Settings,
) -> None:
    with pod("export", clickhouse, timeoutSeconds=3) as made:
        http = made.client()
        found: dict[str, bytes] = {}
        for form in ("ndjson", "json"):
            parameters = {"format": form, "compression": "none", "service": "many"}
            with http.stream("GET", "/api/v1/logs/export", params=parameters) as answer:
                assert answer.status_code == 200
                chunks = answer.iter_raw()
                first = next(chunks)
                time.sleep(4)
                found[form] = first + b"".join(chunks)
    # No error reached the client: it is queue-proxy that ended the answer, in good order, with this text.
    ends = {name: file[-15:] for name, file in found.items()}
    assert ends == dict.fromkeys(found, b"request timeout")
    assert found["ndjson"].count(b"\n") < MANY
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(found["json"])


def test_a_file_is_sent_as_it_is_made_and_no_faster_than_it_is_read(
    clickhouse: Settings, say: Callable[[str], None]
) -> None:
    with pod("export", clickhouse) as made:
        http = made.client()
        parameters = {"format": "ndjson", "service": "many"}
        with http.stream("GET", "/api/v1/logs/export", params=parameters) as answer:
            chunks = answer.iter_raw()
            size = len(next(chunks))
            time.sleep(3)
            made_so_far = exported_bytes(made)
            size += sum(map(len, chunks))
        say(f"export: {made_so_far / size:.0%} of {size / 1e6:.0f} MB made while nobody read on")
        assert made_so_far < size * 0.6
        assert exported_bytes(made) >= size


def exported_bytes(made: Pod) -> float:
    """What the function says of itself, past queue-proxy."""
    text = httpx.get(f"{made.function.url}/metrics", trust_env=False).text
    return float(text.split("\ntorpor_export_bytes_total ")[1].split()[0])


def test_each_batch_of_a_stream_is_answered_while_the_stream_is_open(kafka: Settings) -> None:
    with pod("ingest-grpc", kafka) as made:
        stub = GrpcLoad(made, kafka).stub
        sent = [batch([f"{number}"], "stream") for number in range(4)]
        started = time.monotonic()
        answered = [time.monotonic() - started for _ in stub.StreamLogBatches(slowly(sent, 3), timeout=30)]
        assert len(answered) == 4
        assert answered[0] < 1, "the first answer came with the last"
        assert answered[3] > 2.9


def test_a_stream_that_is_open_longer_than_the_limit_is_an_error_to_its_client(
    kafka: Settings, say: Callable[[str], None]
) -> None:
    with pod("ingest-grpc", kafka, timeoutSeconds=2, responseStartTimeoutSeconds=2) as made:
        stub = GrpcLoad(made, kafka).stub
        sent = [batch([f"{number}"], "stream") for number in range(7)]
        with pytest.raises(RpcError) as caught:
            list(stub.StreamLogBatches(slowly(sent, 6), timeout=30))
        assert caught.value.code() is not StatusCode.OK
        say(f"ingest-grpc: {caught.value.code()}: {caught.value.details()}")


def test_a_request_that_is_too_large_is_told_so_though_its_body_was_not_read(kafka: Settings) -> None:
    with pod("ingest", kafka) as made:
        http = made.client()
        assert made.environment["ENABLE_HTTP_FULL_DUPLEX"] == "true"
        for _ in range(20):
            body = (b"x" * 1_000_000 for _ in range(40))
            answer = http.post("/api/v1/ingest", content=body, headers={"content-type": "application/x-ndjson"})
            assert answer.status_code == 413, f"{answer.status_code} {answer.text}"


def test_connections_that_were_idle_are_used_again_without_an_error(
    settings: Settings, say: Callable[[str], None]
) -> None:
    with pod("query", settings) as made:
        load = LOADS["query"](made, settings)
        for _ in range(3):
            load.request()
            time.sleep(6)  # uvicorn and hypercorn by themselves would have closed them after 5 s
        say(f"query: {load.verify()}")
