"""From a request to a row, a search and a file, through every part."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent

from functions.common import timestamps
from tests.support.local import ROOT, LocalTorpor


def unique(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def ten_thousand(service: str, bad: tuple[int, int, int] = (17, 5000, 9999)) -> bytes:
    """10,000 JSON lines within the last minutes, three of them bad in three ways."""
    now = timestamps.now()
    lines = [
        json.dumps(
            {
                "timestamp": timestamps.iso(now - number * 10_000_000),
                "service": service,
                "level": ("info", "warning", "error")[number % 3],
                "message": f"request {number} took {number % 97} ms",
                "metadata": {"number": str(number)},
            }
        )
        for number in range(10_000)
    ]
    syntax, time_, service_ = bad
    lines[syntax - 1] = lines[syntax - 1][:-5]
    lines[time_ - 1] = lines[time_ - 1].replace(timestamps.iso(now - (time_ - 1) * 10_000_000), "yesterday")
    lines[service_ - 1] = lines[service_ - 1].replace(f'"{service}"', '""')
    return "\n".join(lines).encode()


def exported(torpor: LocalTorpor, **parameters: str) -> list[dict[str, object]]:
    answer = torpor.http.get(torpor.url("export", "/api/v1/logs/export"), params={"format": "json", **parameters})
    answer.raise_for_status()
    logs: list[dict[str, object]] = json.loads(gzip.decompress(answer.content))
    return logs


def counted(torpor: LocalTorpor, **parameters: str) -> int:
    answer = torpor.http.get(torpor.url("query", "/api/v1/logs/aggregate"), params=parameters)
    answer.raise_for_status()
    return sum(bucket["count"] for bucket in answer.json())


def test_of_10000_lines_with_3_bad_ones_9997_are_found_and_the_bad_ones_named(torpor: LocalTorpor) -> None:
    service = unique("bad-lines")
    answer = torpor.send(ten_thousand(service))
    assert (answer["accepted"], answer["rejected"]) == (9997, 3)
    assert [(error["line"], error["field"]) for error in answer["errors"]] == [
        (17, None),
        (5000, "timestamp"),
        (9999, "service"),
    ]
    assert torpor.wait_for_total(9997, service=service) == 9997


def test_a_file_sent_three_times_under_one_key_counts_once_everywhere(torpor: LocalTorpor) -> None:
    service = unique("three-times")
    body = ten_thousand(service)
    key = unique("key")
    answers = [torpor.send(body, idempotency_key=key) for _ in range(3)]
    assert {(answer["accepted"], answer["batch"]) for answer in answers} == {(9997, key)}
    assert torpor.wait_for_total(9997, service=service) == 9997
    time.sleep(1)  # the later copies may still be on their way
    assert torpor.total(service=service) == 9997
    assert counted(torpor, service=service) == 9997
    logs = exported(torpor, service=service)
    assert len(logs) == len({log["id"] for log in logs}) == 9997


def test_a_log_with_an_id_counts_once_in_whatever_batch_it_comes_again(torpor: LocalTorpor) -> None:
    service = unique("own-id")
    logs = [
        {"service": service, "id": f"log-{number}", "timestamp": time.time_ns(), "message": str(number)}
        for number in range(100)
    ]
    for size in (100, 7, 33):
        for start in range(0, 100, size):
            torpor.send(b"\n".join(json.dumps(log).encode() for log in logs[start : start + size]))
    assert torpor.wait_for_total(100, service=service) == 100
    time.sleep(0.5)
    assert torpor.total(service=service) == 100


def test_what_was_sent_is_what_a_search_and_an_export_return(torpor: LocalTorpor) -> None:
    service = unique("same")
    log = {
        "timestamp": timestamps.iso(timestamps.now()),
        "service": service,
        "level": "ERROR",
        "message": 'quotes " and \\ and \t and ü and \u0000 and\nlines, {p:String}',
        "metadata": {"a.b": "1", "ключ": "значение", "empty": ""},
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
    }
    torpor.send(json.dumps(log).encode())
    torpor.wait_for_total(1, service=service)
    (found,) = torpor.search(service=service)["logs"]
    assert {name: found[name] for name in log} == log
    (in_file,) = exported(torpor, service=service)
    assert in_file == found
    answer = torpor.http.get(torpor.url("query", f"/api/v1/logs/{found['id']}"))
    assert answer.json() == found


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({"content-type": "application/json"}, b'[{"service": "%b"}, {"service": "%b"}]', id="array"),
        pytest.param({"content-type": "application/json"}, b'{\n"service":\n"%b"}', id="object"),
    ],
)
def test_json_arrives_in_any_shape(torpor: LocalTorpor, headers: dict[str, str], body: bytes) -> None:
    service = unique("shape")
    count = body.count(b"%b")
    content = body.replace(b"%b", service.encode())
    answer = torpor.http.post(torpor.url("ingest", "/api/v1/ingest"), content=content, headers=headers)
    assert answer.json()["accepted"] == count
    assert torpor.wait_for_total(count, service=service) == count


def test_cloudevents_of_the_published_sdk_are_logs(torpor: LocalTorpor) -> None:
    source = unique("/orders")
    for make in (to_binary, to_structured):
        event = CloudEvent({"source": source, "type": "order.created"}, {"message": "order created", "service": source})
        headers, body = make(event)
        for _ in range(2):
            torpor.http.post(torpor.url("ingest"), content=body, headers=headers).raise_for_status()
    assert torpor.wait_for_total(2, service=source) == 2
    (log, _) = torpor.search(service=source)["logs"]
    assert log["message"] == "order created"
    assert log["metadata"]["cloudevents.event_type"] == "order.created"


def test_every_function_says_that_it_is_alive_ready_and_what_it_measures(torpor: LocalTorpor) -> None:
    for function in ("ingest", "index", "query", "export"):
        assert torpor.http.get(torpor.url(function, "/healthz")).text == "ok\n"
        assert torpor.http.get(torpor.url(function, "/readyz")).status_code == 200
        assert "torpor_ingest_logs_total" in torpor.http.get(torpor.url(function, "/metrics")).text
    assert torpor.http.get(torpor.url("query", "/health")).json()["clickhouse"]["status"] == "ok"


def test_the_commands_of_the_readme_work_as_written(torpor: LocalTorpor, tmp_path: Path) -> None:
    block = re.search(r"<!-- try -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    script = block[1]
    for name, port in (("ingest", 8081), ("query", 8083), ("export", 8084)):
        script = script.replace(f":{port}", f":{torpor.ports[name]}")
    # A second is plenty on a machine that does nothing else.
    script = script.replace("sleep 1;", "sleep 5;")
    done = subprocess.run(
        ["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    sent, found, *_ = done.stdout.split("}{")
    assert '"accepted":1' in sent
    assert '"message":"first light"' in found
    assert "id,timestamp,tenant,service,level,message,metadata,trace_id,span_id" in done.stdout
    (file,) = tmp_path.glob("logs-*.csv.gz")
    assert ',"hello","INFO","first light",' in gzip.decompress(file.read_bytes()).decode()


def test_the_other_searches_of_the_readme_work_as_written(torpor: LocalTorpor) -> None:
    text = (ROOT / "README.md").read_text().split("## Search")[1].split("## Export")[0]
    block = re.search(r"```\n(curl.*?)```", text, re.S)
    assert block
    script = block[1].replace(":8083", f":{torpor.ports['query']}").replace("curl ", "curl -sS --fail-with-body ")
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_second_torpor_on_the_same_data_is_told_so(torpor: LocalTorpor) -> None:
    second = LocalTorpor(Path(torpor.environment["DATA_DIR"]))
    with pytest.raises(RuntimeError, match=r"torpor: DATA_DIR .* is used by another Torpor; stop it or set DATA_DIR"):
        second.start()
    assert second.wait() == 1


def test_data_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    torpor = LocalTorpor(tmp_path / "file" / "data")
    with pytest.raises(RuntimeError, match=r"torpor: DATA_DIR .*file/data cannot be used: Not a directory"):
        torpor.start()
    assert torpor.wait() == 1
