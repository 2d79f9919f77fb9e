"""The runner can fail: each kind of fault that it looks for is found when it is there."""

from __future__ import annotations

import dataclasses
import json

import pytest

from tests.input.case import OK, REFUSED, Answer, Case, Log
from tests.input.client import Client, split
from tests.input.corpus import clock
from tests.input.judge import Judge
from tests.input.model import expected
from tests.input.run import faults, output_fault, promised

TIME, MOMENT = clock.recent()
LINE = b'{"service": "s", "message": "m", "metadata": {"k": [1]}, "timestamp": "%b"}' % TIME.encode()
ROW: dict[str, object] = {
    "id": f"{MOMENT}-0000000000000001",
    "timestamp": TIME,
    "tenant": "default",
    "service": "s",
    "level": "INFO",
    "message": "m",
    "metadata": {"k": "[1]"},
    "trace_id": "",
    "span_id": "",
}


class Store(Client):
    """Answers a search and an export with these rows."""

    def __init__(self, searched: list[dict[str, object]], exported: list[dict[str, object]]) -> None:
        self.searched, self.exported = searched, exported

    async def get(self, function: str, path: str, parameters: dict[str, str]) -> bytes:
        if function == "export":
            return b"\n".join(json.dumps(row).encode() for row in self.exported)
        return json.dumps({"total": len(self.searched), "logs": self.searched, "next": None}).encode()


def log() -> Log:
    found = expected(LINE, time=MOMENT)
    assert found
    return found


async def judged(rows: list[dict[str, object]], exported: list[dict[str, object]] | None = None) -> list[str]:
    judge = Judge(Store(rows, rows if exported is None else exported))
    return (await judge.settle([(Case("case"), log())]))[1]


async def test_what_is_stored_as_it_was_sent_is_no_fault() -> None:
    assert await judged([ROW]) == []


@pytest.mark.parametrize(
    "change",
    [{"message": "M"}, {"metadata": {}}, {"service": ""}, {"level": "WARN"}, {"tenant": "other"}, {"span_id": "x"}],
)
async def test_a_log_that_differs_is_a_fault(change: dict[str, object]) -> None:
    assert await judged([{**ROW, **change}])


async def test_a_log_with_another_time_one_too_many_and_one_that_only_the_export_shows_are_faults() -> None:
    later = {**ROW, "timestamp": clock.recent()[0]}
    assert await judged([later])
    assert any("refused" in fault for fault in await judged([ROW, {**ROW, "id": ROW["id"], "message": "other"}]))
    assert await judged([ROW], [ROW, later])
    assert await judged([ROW, ROW])


@pytest.mark.parametrize(
    "answer",
    [
        Answer(500),
        Answer(503),
        Answer(400),
        Answer(0),
        Answer(0, hung=True),
        Answer(200, b"{}", seconds=11),
        Answer(200, b"{}", more=(200,)),
        Answer(200, b'{"accepted": 0, "rejected": 1, "errors": []}'),
        Answer(200, b'{"accepted": 2, "rejected": 0, "errors": []}'),
    ],
)
def test_an_answer_that_is_not_the_right_one_is_a_fault(answer: Answer) -> None:
    assert faults(Case("case", expect=OK, logs=[log()]), answer)


def test_a_refusal_promises_no_log_and_an_optional_line_may_be_refused() -> None:
    maybe = dataclasses.replace(log(), optional=True)
    assert promised(Case("case", expect=REFUSED, logs=[log()]), Answer(400)) == ()
    body = b'{"accepted": 0, "rejected": 1, "errors": [{"line": 1}]}'
    assert promised(Case("case", logs=[maybe]), Answer(200, body)) == []


@pytest.mark.parametrize(
    "line", ["Traceback (most recent call last):", '{"a": "\x1b"}', '{"a": "\x7f"}', '{"a": 1', "anything else"]
)
def test_own_output_that_is_no_clean_log_is_a_fault(line: str) -> None:
    assert output_fault(line + "\n")
    assert not output_fault('{"a": "\\u001b"}\n')


def test_answers_are_told_apart_on_one_connection() -> None:
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    many = b"HTTP/1.1 100 Continue\r\n\r\n" + one + b"HTTP/1.1 204 No Content\r\n\r\n" + one[:-1]
    assert split(many) == [(200, b"ok"), (204, b"")]
