"""The SQL of a search: values only as parameters, FINAL in every read, cursors that go on where a page stopped."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functions.common import rollup, search
from functions.common.errors import BadRequest
from functions.common.search import Cursor, Filter, Statement

QUICK = settings(max_examples=80, deadline=None)

INJECTION = "x') OR 1 = 1; DROP TABLE logs -- {start:Int64} \\' ` \n"
EVERYTHING = Filter(
    tenant=f"tenant {INJECTION}",
    start=1_000,
    end=2_000,
    services=[f"service {INJECTION}", "b"],
    levels=[f"level {INJECTION}"],
    search=f"search {INJECTION}",
    trace_id=f"trace {INJECTION}",
    metadata={f"key {INJECTION}": [f"value {INJECTION}", "c"], "other": ["d"]},
)
PLAIN = Filter(tenant="t", start=1_000, end=2_000)
CURSOR = Cursor(1_000, 2_000, 1_500, 1 << 63)
WHOLE = rollup.Plan([], [(1_000, 2_000)])

STATEMENTS: dict[str, Callable[[Filter], Statement]] = {
    "newest": lambda filter: search.newest(filter, 100),
    "newest after a cursor": lambda filter: search.newest(filter, 100, CURSOR),
    "newest with an offset": lambda filter: search.newest(filter, 100, None, 7),
    "oldest": lambda filter: search.oldest(filter, 100),
    "oldest after a cursor": lambda filter: search.oldest(filter, 100, CURSOR),
    "count": lambda filter: search.count(filter, None),
    "capped count": lambda filter: search.count(filter, 10_001),
    "aggregate": lambda filter: rollup.aggregate(filter, WHOLE, 3600, 50_001, hour=True),
    "one": lambda filter: search.one(filter.tenant, 1_500, 1 << 63),
}

every_statement = pytest.mark.parametrize("make", STATEMENTS.values(), ids=STATEMENTS.keys())
nanoseconds = st.integers(0, (1 << 63) - 1)
cursors = st.builds(Cursor, nanoseconds, nanoseconds, nanoseconds, st.integers(0, (1 << 64) - 1))
texts = st.text(max_size=30)
filters = st.builds(
    Filter,
    tenant=texts,
    start=nanoseconds,
    end=nanoseconds,
    services=st.lists(texts, max_size=3),
    levels=st.lists(texts, max_size=3),
    search=texts,
    trace_id=texts,
    metadata=st.dictionaries(texts, st.lists(texts, max_size=3), max_size=3),
)


def decoded(text: str) -> Cursor | None:
    """The cursor, if it is one."""
    try:
        return Cursor.decode(text)
    except BadRequest:
        return None


def opaque(value: Any) -> str:
    """What a cursor would be that holds this value."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


# Statements


@every_statement
def test_a_value_is_a_parameter_and_never_text_of_the_statement(make: Callable[[Filter], Statement]) -> None:
    statement = make(EVERYTHING)
    assert "DROP" not in statement.sql
    assert f"tenant {INJECTION}" in statement.parameters.values()


@given(filters)
@QUICK
def test_the_text_of_a_statement_depends_only_on_which_conditions_are_set(filter: Filter) -> None:
    like = Filter(
        tenant="t",
        start=1,
        end=2,
        services=["s"] if filter.services else [],
        levels=["INFO"] if filter.levels else [],
        search="word" if filter.search else "",
        trace_id="id" if filter.trace_id else "",
        metadata={str(number): ["v"] for number in range(len(filter.metadata))},
    )
    for make in STATEMENTS.values():
        assert make(filter).sql == make(like).sql


@every_statement
@pytest.mark.parametrize("filter", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_every_place_for_a_value_has_its_parameter_and_none_is_left_over(
    make: Callable[[Filter], Statement], filter: Filter
) -> None:
    statement = make(filter)
    assert set(re.findall(r"\{(\w+):[\w()]+\}", statement.sql)) == set(statement.parameters)


@every_statement
def test_every_read_says_final(make: Callable[[Filter], Statement]) -> None:
    sql = make(EVERYTHING).sql
    assert len(re.findall(r"FROM logs FINAL WHERE", sql)) == len(re.findall(r"\blogs\b", sql)) == 1


@every_statement
def test_every_read_is_of_one_tenant(make: Callable[[Filter], Statement]) -> None:
    assert "WHERE tenant = {tenant:String} AND " in make(PLAIN).sql
    assert make(PLAIN).parameters["tenant"] == "t"


def test_a_filter_without_conditions_asks_for_tenant_and_range_only() -> None:
    assert search.where(PLAIN) == Statement(
        "tenant = {tenant:String} AND timestamp >= fromUnixTimestamp64Nano({start:Int64}, 'UTC') "
        "AND timestamp < fromUnixTimestamp64Nano({end:Int64}, 'UTC')",
        {"tenant": "t", "start": 1_000, "end": 2_000},
    )


def test_every_condition_of_a_filter_is_required() -> None:
    match = search.where(EVERYTHING)
    assert match.sql.split(" AND ")[3:] == [
        "service IN {services:Array(String)}",
        "level IN {levels:Array(String)}",
        "hasAllTokens(lowerUTF8(message), lowerUTF8({search:String}))",
        "trace_id = {trace_id:String}",
        "hasAny(mapValues(metadata), {values0:Array(String)})",
        "metadata[{key0:String}] IN {values0:Array(String)}",
        "hasAny(mapValues(metadata), {values1:Array(String)})",
        "metadata[{key1:String}] IN {values1:Array(String)}",
    ]
    assert match.parameters["services"] == EVERYTHING.services
    assert match.parameters["values0"] == [f"value {INJECTION}", "c"]
    assert (match.parameters["key1"], match.parameters["values1"]) == ("other", ["d"])


@pytest.mark.parametrize(
    ("make", "at", "beyond", "order"),
    [
        ("newest after a cursor", "<=", "<", "ORDER BY timestamp DESC, dedupe DESC LIMIT 100"),
        ("oldest after a cursor", ">=", ">", "ORDER BY timestamp, dedupe LIMIT 100"),
    ],
)
def test_a_page_after_a_cursor_names_the_time_alone_before_time_and_identity(
    make: str, at: str, beyond: str, order: str
) -> None:
    statement = STATEMENTS[make](PLAIN)
    moment = "fromUnixTimestamp64Nano({cursor_timestamp:Int64}, 'UTC')"
    # A comparison of tuples would be the same rows, and read the range from its begin.
    assert f" AND timestamp {at} {moment} AND (timestamp {beyond} {moment} OR dedupe {beyond} {{cur" in statement.sql
    assert "(timestamp, dedupe)" not in statement.sql
    assert order in statement.sql
    assert (statement.parameters["cursor_timestamp"], statement.parameters["cursor_dedupe"]) == (1_500, 1 << 63)


def test_a_page_without_a_cursor_has_no_condition_on_the_place() -> None:
    assert "cursor" not in search.newest(PLAIN, 1).sql + search.oldest(PLAIN, 1).sql


def test_an_offset_is_passed_on() -> None:
    assert search.newest(PLAIN, 100, None, 7).sql.endswith("LIMIT 100 OFFSET 7")


def test_a_capped_count_stops_reading_at_its_cap() -> None:
    assert "LIMIT" not in search.count(PLAIN, None).sql
    assert search.count(PLAIN, 10_001).sql.startswith("SELECT count() AS n FROM (SELECT 1 FROM logs FINAL")
    assert search.count(PLAIN, 10_001).sql.endswith(" LIMIT 10001)")


def test_the_time_of_a_count_stands_as_hour_too_where_asked() -> None:
    assert "time AS hour" in rollup.aggregate(PLAIN, WHOLE, 3600, 10, hour=True).sql
    assert "hour" not in rollup.aggregate(PLAIN, WHOLE, 300, 10, hour=False).sql


def test_one_log_is_found_by_its_whole_identity() -> None:
    statement = search.one("t", 1_500, 7)
    assert statement.parameters == {"tenant": "t", "timestamp": 1_500, "dedupe": 7}
    assert "dedupe = {dedupe:UInt64}" in statement.sql


# Cursors


@given(cursors)
@QUICK
def test_a_cursor_is_read_back_as_it_was_written(cursor: Cursor) -> None:
    text = cursor.encode()
    assert Cursor.decode(text) == cursor
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)  # needs no escaping in a URL


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@example("\ud800")
@example("=")
@example("A")
@example("WzEsMiwzLDRd\n")
@QUICK
def test_text_that_is_no_cursor_is_a_bad_request_and_no_other_error(text: str) -> None:
    decoded(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(json_values | st.lists(st.integers(-(1 << 65), 1 << 65), min_size=4, max_size=4))
@QUICK
def test_a_forged_cursor_is_refused_or_within_what_clickhouse_can_hold(value: Any) -> None:
    if cursor := decoded(opaque(value)):
        assert all(0 <= moment < 1 << 63 for moment in (cursor.start, cursor.end, cursor.timestamp))
        assert 0 <= cursor.dedupe < 1 << 64


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        None,
        7,
        "x",
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, "4"],
        [1, 2, 3, None],
        [1, 2, 3, 0.5],
        [-1, 2, 3, 4],
        [1, 1 << 63, 3, 4],
        [1, 2, 1 << 63, 4],
        [1, 2, 3, -1],
        [1, 2, 3, 1 << 64],
    ],
)
def test_what_holds_anything_but_two_bounds_a_time_and_an_identity_is_no_cursor(value: Any) -> None:
    with pytest.raises(BadRequest, match="not a cursor") as caught:
        Cursor.decode(opaque(value))
    assert list(caught.value.fields) == ["cursor"]
