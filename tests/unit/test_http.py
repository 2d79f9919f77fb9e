"""Problems as JSON, and bodies that stop at their limit."""

import json
import logging
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from functions.common.errors import (
    BadRequest,
    KafkaUnavailable,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    TorporError,
    Transient,
)
from functions.common.http import Json, problem, read_body


class Sent:
    """A request whose body comes in parts; `received` counts those that were asked for."""

    def __init__(self, parts: Iterable[bytes | None], headers: dict[str, str] | None = None) -> None:
        self._messages: list[Message] = [
            {"type": "http.disconnect"} if part is None else {"type": "http.request", "body": part, "more_body": True}
            for part in parts
        ]
        self.received = 0
        pairs = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.request = Request({"type": "http", "method": "POST", "headers": pairs}, self._receive)

    async def _receive(self) -> Message:
        self.received += 1
        return self._messages.pop(0) if self._messages else {"type": "http.request", "body": b"", "more_body": False}


def told(error: Exception) -> dict[str, Any]:
    response = problem(error)
    body: dict[str, Any] = json.loads(bytes(response.body))
    assert response.media_type == "application/problem+json"
    assert response.headers["content-type"] == "application/problem+json"
    assert body["status"] == response.status_code
    return body


def test_a_problem_tells_type_title_status_and_detail() -> None:
    assert told(NotFound("nothing here")) == {
        "type": "about:blank",
        "title": "not found",
        "status": 404,
        "detail": "nothing here",
    }


def test_a_problem_names_the_fields_at_fault() -> None:
    assert told(BadRequest("bad parameter", {"limit": "too big"}))["errors"] == [{"field": "limit", "error": "too big"}]


def test_what_may_work_later_says_when() -> None:
    assert problem(KafkaUnavailable("x")).headers["retry-after"] == "2"
    assert problem(Transient("x")).headers["retry-after"] == "1"
    assert "retry-after" not in problem(TooLarge("x")).headers


def test_a_method_that_is_not_allowed_is_answered_with_those_that_are() -> None:
    assert problem(MethodNotAllowed("x", "GET, POST")).headers["allow"] == "GET, POST"
    assert "allow" not in problem(MethodNotAllowed("x")).headers


def test_an_error_that_is_not_ours_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        body = told(ValueError("password=hunter2"))
    assert body["status"] == 500
    assert "hunter2" not in json.dumps(body)
    assert caplog.records[0].exc_info


def test_our_own_errors_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert told(TorporError("the query failed"))["detail"] == "the query failed"
    assert caplog.records == []


def test_json_is_encoded_as_it_is() -> None:
    response = Json({"a": [1, "é"]})
    assert bytes(response.body) == '{"a":[1,"é"]}'.encode()
    assert response.headers["content-type"] == "application/json"


async def test_a_body_in_parts_is_put_together() -> None:
    assert await read_body(Sent([b"ab", b"", b"cd"]).request, 4) == b"abcd"


async def test_an_empty_body_is_empty() -> None:
    assert await read_body(Sent([]).request, 0) == b""


async def test_a_body_declared_too_long_is_not_read() -> None:
    sent = Sent([b"x" * 11], {"content-length": "11"})
    with pytest.raises(TooLarge, match="11 bytes; the limit is 10"):
        await read_body(sent.request, 10)
    assert sent.received == 0


@pytest.mark.parametrize("headers", [{}, {"content-length": "3"}, {"content-length": "x"}, {"content-length": "-5"}])
async def test_a_body_of_unknown_length_is_read_up_to_the_limit(headers: dict[str, str]) -> None:
    sent = Sent([b"x" * 4] * 1000, headers)
    with pytest.raises(TooLarge, match="more than 10"):
        await read_body(sent.request, 10)
    assert sent.received == 3


async def test_a_client_that_goes_away_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="went away"):
        await read_body(Sent([b"ab", None]).request, 10)
