"""When ClickHouse refuses an event, good lines are stored and bad ones go to the dead-letter topic."""

import logging
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common.errors import BadRows, ClickHouseUnavailable, KafkaUnavailable, TorporError
from functions.common.event import DEAD_LETTER_TYPE, Event
from functions.common.record import Record, encode
from functions.index.salvage import salvage
from tests.support.memory import MemoryClickHouse, MemoryPublisher


class Picky(MemoryClickHouse):
    """Refuses rows whose message is `poison`."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts = 0

    def refuse(self, rows: bytes) -> None:
        self.attempts += 1
        if b'"message":"poison"' in rows:
            raise BadRows("Cannot parse:\n\x1b[2J poison", 27)

    @property
    def lines(self) -> list[bytes]:
        return [line for _, rows, _ in self.inserts for line in rows.split(b"\n")]


def row(message: str = "fine", tenant: str = "t", number: int = 0) -> bytes:
    return encode(Record(tenant, "1790000000000000000", "s", "INFO", message, {}, "", "", number))


def event(*lines: bytes) -> Event:
    return Event("event-1", "t", b"\n".join(lines), "3/42")


async def run(*lines: bytes) -> tuple[Picky, MemoryPublisher]:
    clickhouse, publisher = Picky(), MemoryPublisher()
    await salvage(event(*lines), clickhouse, publisher, "dead")
    return clickhouse, publisher


async def test_good_lines_are_stored_in_one_insert_without_a_token() -> None:
    clickhouse, publisher = await run(row(number=1), row(number=2))
    assert clickhouse.inserts == [("logs", row(number=1) + b"\n" + row(number=2), "")]
    assert publisher.records == []


async def test_a_line_that_is_refused_goes_to_the_dead_letters_with_the_reason() -> None:
    clickhouse, publisher = await run(row(number=1), row("poison"), row(number=2))
    assert clickhouse.lines == [row(number=1), row(number=2)]
    ((topic, key, value, headers),) = publisher.records
    assert (topic, key, value) == ("dead", "event-1", row("poison"))
    told = dict(headers)
    assert told["ce_type"] == DEAD_LETTER_TYPE.encode()
    assert told["ce_reason"] == b"Cannot parse: [2J poison"
    assert told["ce_code"] == b"27"
    assert (told["ce_originid"], told["ce_origin"], told["ce_tenant"]) == (b"event-1", b"3/42", b"t")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not a row"),
        (b"5", "not a row"),
        (b"\xff", "not a row"),
        (b'{"tenant":"t"}', "not a row"),
        (row()[:-1] + b',"extra":1}', "not a row"),
        (b"[" * 100_000, "not a row"),
        (row().replace(b"fine", b"\xff"), "not a row"),
        (row(tenant="other"), "the row's tenant is not the event's"),
    ],
    ids=lambda value: repr(value[:20]),
)
async def test_a_line_that_is_no_row_is_not_even_tried(line: bytes, reason: str) -> None:
    clickhouse, publisher = await run(row(), line)
    assert clickhouse.lines == [row()]
    ((_, _, value, headers),) = publisher.records
    assert value == line
    assert dict(headers)["ce_reason"].decode().startswith(reason)
    assert dict(headers)["ce_code"] == b"0"


async def test_blank_lines_are_nothing() -> None:
    clickhouse, publisher = await run(b"", row(), b" \r", b"")
    assert clickhouse.lines == [row()]
    assert publisher.records == []


async def test_an_event_without_a_good_line_is_not_inserted() -> None:
    clickhouse, publisher = await run(b"{", b"")
    assert clickhouse.attempts == 0
    assert len(publisher.records) == 1


async def test_one_bad_line_among_ten_thousand_costs_some_thirty_inserts() -> None:
    lines = [row(number=number) for number in range(9_999)]
    clickhouse, publisher = await run(*lines[:7_777], row("poison"), *lines[7_777:])
    assert clickhouse.lines == lines
    assert len(publisher.records) == 1
    assert clickhouse.attempts <= 2 * math.ceil(math.log2(10_000)) + 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["fine", "poison", "broken", "foreign"]), max_size=40))
async def test_every_line_is_stored_or_a_dead_letter_and_never_both(kinds: list[str]) -> None:
    lines = [
        b"{" if kind == "broken" else row(kind, "x" if kind == "foreign" else "t", number)
        for number, kind in enumerate(kinds)
    ]
    clickhouse, publisher = await run(*lines)
    stored = [line for line, kind in zip(lines, kinds, strict=True) if kind == "fine"]
    dead = [line for line, kind in zip(lines, kinds, strict=True) if kind != "fine"]
    assert clickhouse.lines == stored
    assert sorted(value for _, _, value, _ in publisher.records) == sorted(dead)


async def test_a_long_reason_is_cut() -> None:
    class Wordy(MemoryClickHouse):
        def refuse(self, rows: bytes) -> None:
            raise BadRows("x" * 10_000, 27)

    publisher = MemoryPublisher()
    await salvage(event(row()), Wordy(), publisher, "dead")
    assert len(dict(publisher.records[0][3])["ce_reason"]) == 500


@pytest.mark.parametrize("failure", [KafkaUnavailable("no"), ClickHouseUnavailable("no")], ids=str)
async def test_what_cannot_be_taken_now_fails_for_the_whole_event(failure: TorporError) -> None:
    clickhouse, publisher = Picky(), MemoryPublisher()
    publisher.failure = failure if isinstance(failure, KafkaUnavailable) else None
    clickhouse.failure = failure if isinstance(failure, ClickHouseUnavailable) else None
    with pytest.raises(type(failure)):
        await salvage(event(row(), row("poison")), clickhouse, publisher, "dead")
    assert publisher.records == []


async def test_dead_letters_are_told_to_a_person_once_an_event(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await run(row("poison"), b"{", row())
    (told,) = caplog.records
    assert told.levelname == "ERROR"
    assert vars(told)["lines"] == 2
    assert (vars(told)["event"], vars(told)["origin"]) == ("event-1", "3/42")


async def test_a_rescue_without_dead_letters_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await run(row())
    assert caplog.records == []
