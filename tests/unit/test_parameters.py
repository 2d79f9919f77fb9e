"""What a request says becomes a filter; what it says wrongly is named."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from functions.common import timestamps
from functions.common.errors import BadRequest
from functions.common.parameters import (
    DEFAULT_RANGE,
    MAX_SEARCH,
    MAX_VALUES,
    SearchParameters,
    gather,
    interval_seconds,
    to_filter,
)
from functions.common.record import LEVEL_ALIASES, LEVELS
from functions.common.search import Cursor, Filter

QUICK = settings(max_examples=80, deadline=None)
NOW = 1_769_860_800_123_456_789
SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timestamps, "now", lambda: NOW)


def of_url(*items: tuple[str, str]) -> Filter:
    return to_filter(SearchParameters.model_validate(gather(list(items))), "tenant")


def of_body(body: Any) -> Filter:
    return to_filter(SearchParameters.model_validate_json(json.dumps(body)), "tenant")


def fields(error: Exception) -> set[str]:
    """The parameters that an error names."""
    if isinstance(error, ValidationError):
        return {str(fault["loc"][0]) for fault in error.errors()}
    assert isinstance(error, BadRequest)
    return set(error.fields)


# Times


def test_a_search_without_times_is_of_the_24_hours_before_now() -> None:
    filter = of_url()
    assert (filter.start, filter.end) == (NOW - 24 * 3600 * SECOND, NOW)
    assert filter == Filter(tenant="tenant", start=filter.start, end=filter.end)


def test_a_search_with_an_end_alone_is_of_the_24_hours_before_it() -> None:
    filter = of_url(("end_time", "2026-01-10T00:00:00Z"))
    assert timestamps.iso(filter.end) == "2026-01-10T00:00:00.000000000Z"
    assert filter.end - filter.start == DEFAULT_RANGE


def test_a_search_with_a_start_alone_goes_up_to_now() -> None:
    filter = of_url(("start_time", "2020-01-01"))
    assert (timestamps.iso(filter.start)[:10], filter.end) == ("2020-01-01", NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("-1s", 1),
        ("-15m", 900),
        ("-1h", 3600),
        ("-24h", 86_400),
        ("-7d", 7 * 86_400),
        ("-2w", 14 * 86_400),
        ("-999999s", 999_999),
    ],
)
def test_a_relative_time_is_before_now(text: str, seconds: int) -> None:
    assert of_url(("start_time", text)).start == NOW - seconds * SECOND
    assert of_body({"end_time": text, "start_time": "2000-01-01"}).end == NOW - seconds * SECOND


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-31T12:00:00.123456789Z",
        "2026-01-31 12:00:00.123456789",
        "2026-01-31T13:30:00.123456789+01:30",
        "1769860800123456789",
        1_769_860_800_123_456_789,
        "now",
    ],
)
def test_a_moment_may_be_written_in_many_ways(value: str | int) -> None:
    assert of_body({"end_time": value}).end == NOW
    assert of_url(("end_time", str(value))).end == NOW


@pytest.mark.parametrize("value", [1_769_860_800, 1_769_860_800_000, 1_769_860_800_000_000, 1_769_860_800.0])
def test_a_number_is_of_the_unit_that_its_size_tells(value: float) -> None:
    assert of_body({"end_time": value}).end == NOW - 123_456_789


@pytest.mark.parametrize("name", ["start_time", "end_time"])
@pytest.mark.parametrize(
    "value",
    [
        "yesterday",
        "",
        " ",
        "-1",
        "-1y",
        "-1 h",
        "- 1h",
        "+1h",
        "--1h",
        "-1234567s",
        "-١h",
        "Now",
        "2026-13-01T00:00:00Z",
        "2026-02-30",
        "2026-01-31T25:00:00Z",
        "2026-01-31T12:00:00+25:00",
        "1969-12-31T23:59:59Z",
        "2262-04-12T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "0",
        "1" * 20,
        "NaN",
        "1' OR 1=1",
        "-999999w",
    ],
)
def test_a_bad_time_is_named(name: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        of_url((name, value))
    assert fields(caught.value) == {name}


@pytest.mark.parametrize("name", ["start_time", "end_time"])
@pytest.mark.parametrize("value", [True, False, [], {}, ["2026-01-31"], -5, 0, 1e300, 10**19])
def test_a_time_in_a_body_that_is_no_time_is_named_once(name: str, value: Any) -> None:
    with pytest.raises((BadRequest, ValidationError)) as caught:
        of_body({name: value})
    assert fields(caught.value) == {name}
    assert not isinstance(caught.value, ValidationError) or caught.value.error_count() == 1


@pytest.mark.parametrize(
    ("start", "end"), [("-1h", "-2h"), ("-1h", "-1h"), ("now", "now"), ("2026-01-02", "2026-01-01")]
)
def test_a_range_that_ends_before_it_begins_is_refused(start: str, end: str) -> None:
    with pytest.raises(BadRequest) as caught:
        of_url(("start_time", start), ("end_time", end))
    assert caught.value.fields == {"start_time": "not before end_time"}


def test_a_range_does_not_begin_before_1970() -> None:
    assert of_url(("end_time", "1970-01-01T01:00:00Z")).start == 0


def test_a_cursor_brings_its_own_range() -> None:
    filter = to_filter(SearchParameters(start_time="-1h", service=["a"]), "tenant", Cursor(1, 2, 3, 4))
    assert filter == Filter(tenant="tenant", start=1, end=2, services=["a"])


# Levels, services, words


@pytest.mark.parametrize(("alias", "level"), LEVEL_ALIASES.items())
def test_a_level_may_go_by_any_of_its_names_in_any_case(alias: str, level: str) -> None:
    assert of_url(("level", alias)).levels == of_body({"level": alias.upper()}).levels == [level]


@pytest.mark.parametrize(
    "items",
    [
        [("level", "error"), ("level", "warning")],
        [("level", "ERROR,WARN")],
        [("level", " err , wrn ")],
    ],
)
def test_several_levels_are_repeated_or_separated_by_commas(items: list[tuple[str, str]]) -> None:
    assert of_url(*items).levels == ["ERROR", "WARN"]


def test_levels_of_a_body_are_a_text_or_a_list() -> None:
    assert of_body({"level": "error,warn"}).levels == of_body({"level": ["error", "warn"]}).levels == ["ERROR", "WARN"]


@pytest.mark.parametrize("text", ["loud", "", ",", "error,", "error,,warn", "error;warn", "ERROR' --", "0"])
def test_an_unknown_level_is_named_with_those_that_exist(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        of_url(("level", text))
    assert fields(caught.value) == {"level"}
    assert all(level in caught.value.fields["level"] for level in LEVELS)


def test_several_services_are_repeated_and_a_comma_is_part_of_a_name() -> None:
    assert of_url(("service", "a,b"), ("service", "c")).services == ["a,b", "c"]
    assert of_body({"service": ["a,b", "c"]}).services == ["a,b", "c"]
    assert of_body({"service": "a"}).services == ["a"]


@pytest.mark.parametrize("text", ["-", "_", "% _ '", "\n\t\0", "☃", "...", " "])
def test_words_without_a_letter_or_digit_are_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        of_url(("search", text))
    assert fields(caught.value) == {"search"}


@pytest.mark.parametrize("text", ["a", "0", "user_id=42", "ошибка", "失敗", "x' OR '1'='1"])
def test_words_are_passed_on_as_they_are(text: str) -> None:
    assert of_url(("search", text)).search == text


# Metadata


@pytest.mark.parametrize(
    "filter",
    [
        lambda: of_url(("metadata.user.id", "42"), ("metadata.user.id", "43"), ("metadata.a", "")),
        lambda: of_body({"metadata.user.id": ["42", "43"], "metadata.a": ""}),
        lambda: of_body({"metadata": {"user.id": ["42", "43"], "a": [""]}}),
        lambda: of_body({"metadata": {"user.id": ["42", "43"]}, "metadata.a": ""}),
    ],
    ids=["url", "body", "nested", "both"],
)
def test_metadata_means_the_same_in_a_url_a_body_and_nested(filter: Any) -> None:
    assert filter().metadata == {"user.id": ["42", "43"], "a": [""]}


def test_metadata_in_a_url_needs_its_key() -> None:
    with pytest.raises(BadRequest) as caught:
        of_url(("metadata", '{"a": "b"}'))
    assert caught.value.fields == {"metadata": "write metadata.<key>=<value>"}


@pytest.mark.parametrize("body", [{"metadata": None}, {"metadata": "a"}, {"metadata": {"a": 5}}, {"metadata.a": None}])
def test_metadata_that_is_not_texts_is_named(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        of_body(body)
    assert fields(caught.value) == {"metadata"}


# Any parameter


@pytest.mark.parametrize("name", ["start_time", "end_time", "search", "trace_id", "limit", "anything"])
def test_a_parameter_given_twice_is_named(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        gather([(name, "1"), ("service", "a"), (name, "1")])
    assert caught.value.fields == {name: "given more than once"}


@pytest.mark.parametrize("name", ["severity", "startTime", "Level", "query", "body", "metadat", "", "metadata_a"])
def test_an_unknown_parameter_is_named(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        of_url((name, "1"))
    assert fields(caught.value) == {name}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"service": "s" * 256}, "service"),
        ({"service": ["s"] * (MAX_VALUES + 1)}, "service"),
        ({"service": 5}, "service"),
        ({"level": ["error"] * (MAX_VALUES + 1)}, "level"),
        ({"level": {"a": 1}}, "level"),
        ({"search": "s" * (MAX_SEARCH + 1)}, "search"),
        ({"search": ["a"]}, "search"),
        ({"trace_id": "t" * 129}, "trace_id"),
        ({"trace_id": None}, "trace_id"),
        ({"metadata": {"k" * 1001: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 256}}, "metadata"),
        ({"metadata": {str(number): "v" for number in range(MAX_VALUES + 1)}}, "metadata"),
    ],
)
def test_what_is_too_long_too_much_or_of_another_type_is_named(body: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        of_body(body)
    assert fields(caught.value) == {name}


names = st.sampled_from(
    ["start_time", "end_time", "service", "level", "search", "trace_id", "metadata", "metadata.a", "metadata."]
) | st.text(max_size=10)
times = st.from_regex(r"-?[0-9]{1,20}[smhdw]?|[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.+-]{0,30}Z?")
values = times | st.sampled_from(["error,warn", "now", "-1h", "a b"]) | st.text(max_size=20)


@given(st.lists(st.tuples(names, values), max_size=6))
@example([("start_time", "-999999w"), ("end_time", "-999999w")])
@example([("end_time", "2262-04-11T23:47:16.854775808Z")])
@QUICK
def test_any_url_is_a_filter_within_what_clickhouse_can_hold_or_a_bad_request(items: list[tuple[str, str]]) -> None:
    try:
        filter = of_url(*items)
    except (BadRequest, ValidationError):
        return
    assert 0 <= filter.start <= filter.end < 1 << 63


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(names, json_values, max_size=5) | json_values)
@QUICK
def test_any_json_is_a_filter_or_a_bad_request(body: Any) -> None:
    try:
        filter = of_body(body)
    except (BadRequest, ValidationError):
        return
    assert 0 <= filter.start <= filter.end < 1 << 63


# Intervals


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("1d", 86_400),
        ("2w", 1_209_600),
        ("minute", 60),
        ("hour", 3600),
        ("day", 86_400),
    ],
)
def test_an_interval_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert interval_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "5", "m", "-5m", "1.5h", "5M", "5 m", "1y", "1234567s", "٣m", "5m; DROP"])
def test_any_other_interval_is_named(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        interval_seconds(text)
    assert fields(caught.value) == {"interval"}
