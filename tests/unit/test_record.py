"""The record is one declaration: the table's columns, in its order."""

import msgspec
import pytest

from functions.common.record import COLUMNS, LEVEL_ALIASES, LEVELS, Record, decode, encode

RECORD = Record("t", "1790000000000000000", "s", "INFO", "m", {"k": "v"}, "", "", 2**64 - 1)


def test_a_row_has_the_columns_in_their_order() -> None:
    assert tuple(msgspec.json.decode(encode(RECORD))) == COLUMNS


def test_a_row_reads_back_as_it_was() -> None:
    assert decode(encode(RECORD)) == RECORD


def test_a_row_is_one_line_whatever_the_message_holds() -> None:
    record = msgspec.structs.replace(RECORD, message='"\r\n\0\u2028\\', metadata={"\n": "\n"})
    assert b"\n" not in encode(record)
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    "change",
    [{"extra": 1}, {"dedupe": None}, {"dedupe": "1"}, {"timestamp": 1790000000}, {"metadata": {"k": 1}}],
    ids=str,
)
def test_another_shape_is_no_row(change: dict[str, object]) -> None:
    row = {**msgspec.to_builtins(RECORD), **change}
    with pytest.raises(msgspec.ValidationError):
        decode(msgspec.json.encode(row))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_row_lacks_no_column(column: str) -> None:
    row = msgspec.to_builtins(RECORD)
    del row[column]
    with pytest.raises(msgspec.ValidationError, match=column):
        decode(msgspec.json.encode(row))


def test_aliases_are_levels_or_in_lower_case_and_lead_to_levels() -> None:
    assert set(LEVEL_ALIASES.values()) == set(LEVELS)
    assert {alias for alias in LEVEL_ALIASES if alias != alias.lower()} == set(LEVELS)


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_its_own_alias(level: str) -> None:
    assert LEVEL_ALIASES[level.lower()] == LEVEL_ALIASES[level] == level
