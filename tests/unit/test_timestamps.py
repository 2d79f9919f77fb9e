"""Every way to write a moment leads to the same nanoseconds, or to a clear no."""

import datetime
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.common import timestamps
from functions.common.timestamps import NANOSECONDS, iso, parse

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
NOON = 1_769_860_800 * NANOSECONDS  # 2026-01-31T12:00:00Z
LAST = 253_402_300_800 * NANOSECONDS - 1  # the end of the year 9999
quick = settings(deadline=None, max_examples=60)
zones = st.integers(-1439, 1439).map(lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes)))


@pytest.fixture(autouse=True)
def no_second_was_seen() -> None:
    timestamps._seconds.clear()


def outcome(function: Callable[[str], int], text: str) -> int | str:
    try:
        return function(text)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00Z",
        "2026-01-31t12:00:00z",
        "2026-01-31T12:00:00",
        "2026-01-31 12:00:00",
        "2026-01-31 12:00:00 UTC",
        " 2026-01-31T12:00:00Z\n",
        "2026-01-31T12:00",
        "2026-01-31T12:00Z",
        "2026-01-31T12:00:00.0Z",
        "2026-01-31 12:00:00,000",
        "2026-01-31T13:00:00+01:00",
        "2026-01-31T13:00:00 +0100",
        "2026-01-31T06:30:00.000-05:30",
        "2026-02-01T00:00:00.000000000+12:00",
        "1769860800",
        "1769860800000",
        "1769860800000000",
        "1769860800000000000",
    ],
)
def test_noon_has_many_spellings(text: str) -> None:
    assert parse(text) == NOON


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2026-01-31T12:00:00.5Z", 500_000_000),
        ("2026-01-31T12:00:00.123456789Z", 123_456_789),
        ("2026-01-31T12:00:00,000000001Z", 1),
        ("2026-01-31T12:00:00.1234567899999Z", 123_456_789),
    ],
)
def test_fractions_are_kept_to_the_nanosecond(text: str, nanoseconds: int) -> None:
    assert parse(text) == NOON + nanoseconds
    assert parse(text) == NOON + nanoseconds  # once more, when the second was seen before


def test_a_date_is_its_midnight() -> None:
    assert parse("2026-01-31") == NOON - 12 * 3600 * NANOSECONDS


def test_a_leap_second_is_the_second_after_it() -> None:
    assert parse("2016-12-31T23:59:60Z") == parse("2017-01-01T00:00:00Z")
    assert parse("2016-12-31T23:59:60.25Z") == parse("2017-01-01T00:00:00.25Z")
    assert parse("2016-12-31T23:59:59Z") == parse("2017-01-01T00:00:00Z") - NANOSECONDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "now",
        "2026-01-31T12",
        "2026-02-30",
        "2025-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:60:00Z",
        "2026-01-31T12:00:61Z",
        "2026-01-31T12:00:00.Z",
        "2026-01-31T12:00:00+99:99",
        "2026-01-31T12:00:00+01:60",
        "2026-01-31T12:00:00+1",
        "2026-01-31T12:00:00 CET",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "1e9",
        "1769860800.5",
        "12345678901234567890",
        "٢٠٢٦-٠١-٣١T١٢:٠٠:٠٠Z",
        "2026-01-31T12:00:00.٥Z",
        "\0",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    parse("2026-01-31T12:00:00Z")  # the short way must not be laxer
    with pytest.raises(ValueError, match=r"is not a time|no such time zone"):
        parse(text)


@pytest.mark.parametrize("value", [0, -1, 10**19, 10**30, -0.5, 0.0, float("nan"), float("inf"), 1e30, True, False])
def test_a_number_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse(value)


def test_a_refusal_quotes_a_part_of_the_text_only() -> None:
    with pytest.raises(ValueError, match="is not a time") as caught:
        parse("x" * 10_000)
    assert len(str(caught.value)) < 200


@quick
@given(st.integers(0, LAST))
def test_nanoseconds_survive_their_text(nanoseconds: int) -> None:
    assert parse(iso(nanoseconds)) == nanoseconds
    assert parse(iso(nanoseconds)) == nanoseconds


@quick
@given(st.datetimes(timezones=zones), st.sampled_from(["T", " "]))
def test_offsets_and_microseconds_agree_with_the_standard_library(moment: datetime.datetime, between: str) -> None:
    assert parse(moment.isoformat(between)) == (moment - EPOCH) // datetime.timedelta(microseconds=1) * 1000


@quick
@given(
    st.sampled_from([(1, 10**11 - 1, 10**9), (10**11, 10**14 - 1, 10**6), (10**14, 10**17 - 1, 10**3)])
    | st.just((10**17, 10**19 - 1, 1)),
    st.data(),
)
def test_the_unit_of_a_number_is_told_by_its_size(unit: tuple[int, int, int], data: st.DataObject) -> None:
    lowest, highest, factor = unit
    number = data.draw(st.sampled_from([lowest, highest]) | st.integers(lowest, highest))
    assert parse(number) == number * factor
    assert parse(str(number)) == number * factor


@quick
@given(st.floats(1, 4e9))
def test_a_fraction_of_seconds_is_good_to_the_microsecond(seconds: float) -> None:
    nanoseconds = parse(seconds)
    whole, rest = divmod(seconds, 1)
    assert abs(nanoseconds - int(whole) * NANOSECONDS - rest * NANOSECONDS) <= 1000
    assert nanoseconds % 1000 == 0


@pytest.mark.parametrize("value", [1769860800.25, 1769860800250.0, 1769860800250000.0, 1769860800250000000.0])
def test_fractional_numbers_are_told_by_their_size_too(value: float) -> None:
    assert parse(value) == NOON + 250_000_000


@quick
@given(st.integers(0, LAST), st.text("0123456789.,Zz+- T:", max_size=12))
def test_the_short_way_of_a_second_seen_before_leads_where_the_long_one_does(nanoseconds: int, tail: str) -> None:
    second = iso(nanoseconds)[:19]
    for text in (second + tail, second + tail + "Z", f"{second}.{tail}Z", second[:-1] + tail):
        timestamps._seconds.clear()
        slowly = outcome(timestamps._parse_slowly, text)
        parse(second + "Z")
        assert outcome(parse, text) == slowly


def test_the_memory_of_seconds_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timestamps, "_SECONDS_KEPT", 10)
    for second in range(100):
        assert parse(iso(NOON + second * NANOSECONDS)) == NOON + second * NANOSECONDS
        assert len(timestamps._seconds) <= 10


def test_only_utc_seconds_are_remembered() -> None:
    for text in ("2026-01-31T12:00:00+01:00", "2026-01-31T12:00:00", "2016-12-31T23:59:60Z", "2026-01-31 12:00:00Z"):
        parse(text)
    assert timestamps._seconds == {}


def test_now_is_now() -> None:
    before = datetime.datetime.now(datetime.UTC).timestamp()
    assert before - 1 <= timestamps.now() / NANOSECONDS <= before + 10
