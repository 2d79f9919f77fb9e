"""Syslog frames out of a TCP stream."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.edge.framing import LIMIT, Frame, Frames

Framing = Callable[[bytes], bytes]
MESSAGE = b"<34>1 2026-01-31T12:00:00Z host app - - - hello"


def decoded(stream: bytes, size: int = 0, *, cut: bool = False) -> list[Frame]:
    """The frames of a stream that comes `size` bytes at a time, or at once."""
    frames = Frames()
    size = size or len(stream) or 1
    parts = [stream[start : start + size] for start in range(0, len(stream), size)]
    return [frame for part in parts for frame in frames.feed(part)] + frames.end(cut=cut)


def bodies(stream: bytes) -> list[bytes]:
    return [frame.body for frame in decoded(stream)]


def counted(message: bytes) -> bytes:
    return b"%d %b" % (len(message), message)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0", b"\r\n\0"])
def test_a_line_ends_at_a_line_feed_or_nul_with_or_without_a_carriage_return(end: bytes) -> None:
    assert bodies(b"<1>one" + end + b"<2>two" + end) == [b"<1>one", b"<2>two"]


def test_a_counted_message_keeps_its_lines() -> None:
    assert bodies(counted(b"<1>one\nstill one") + counted(b"<2>two")) == [b"<1>one\nstill one", b"<2>two"]


def test_ends_of_lines_at_the_end_of_a_counted_message_or_after_it_are_not_of_it() -> None:
    assert bodies(counted(b"<1>one\n") + counted(b"<2>two\0") + b"\n" + counted(b"<3>three")) == [
        b"<1>one",
        b"<2>two",
        b"<3>three",
    ]


def test_both_framings_may_take_turns_on_a_connection() -> None:
    stream = counted(b"<1>a") + b"<2>b\n" + counted(b"<3>c") + b"<4>d\r\n" + b"<5>e"
    assert bodies(stream) == [b"<1>a", b"<2>b", b"<3>c", b"<4>d", b"<5>e"]


def test_empty_lines_are_no_messages() -> None:
    assert bodies(b"\n\r\n\0\n<1>one\n\n") == [b"<1>one"]


@pytest.mark.parametrize(
    "line", [b"404 not found", b"2026 was a year", b"7", b"12 ", b"0 <1>", b"1234567 <1>x", b"012 <1>x", b"3  <1>x"]
)
def test_a_line_that_only_begins_like_a_count_is_a_line(line: bytes) -> None:
    assert bodies(line + b"\n<2>next\n") == [line, b"<2>next"]
    assert bodies(line) == [line]


def test_a_last_line_needs_no_end() -> None:
    assert decoded(b"<1>one\n<2>two") == [Frame(b"<1>one"), Frame(b"<2>two")]


def test_a_last_line_of_a_stream_that_was_cut_off_says_so() -> None:
    assert decoded(b"<1>one\n<2>tw", cut=True) == [Frame(b"<1>one"), Frame(b"<2>tw", cut=True)]


def test_a_counted_message_of_which_a_part_is_missing_says_so() -> None:
    assert decoded(counted(b"<1>one") + counted(b"<2>two")[:-1]) == [Frame(b"<1>one"), Frame(b"<2>tw", cut=True)]


@pytest.mark.parametrize("framed", [counted, lambda message: message + b"\n"], ids=["counted", "line"])
def test_a_message_over_the_limit_comes_in_pieces_and_the_next_one_is_whole(framed: Framing) -> None:
    message = b"<1>" + b"x" * (2 * LIMIT)
    pieces = [Frame(message[:LIMIT], 1), Frame(message[LIMIT : 2 * LIMIT], 2), Frame(message[2 * LIMIT :], 3)]
    for size in (0, 1000):
        assert decoded(framed(message) + framed(MESSAGE), size) == [*pieces, Frame(MESSAGE)]
    exactly = message[:LIMIT]
    assert decoded(framed(exactly) + framed(MESSAGE)) == [Frame(exactly), Frame(MESSAGE)]


def test_a_piece_ends_between_two_characters() -> None:
    message = b"<1>" + "é€😀".encode() * 20_000
    pieces = decoded(message + b"\n")
    assert b"".join(piece.body for piece in pieces) == message
    for piece in pieces:
        piece.body.decode()
        assert piece.piece == 3 or LIMIT - 3 <= len(piece.body) <= LIMIT
    assert len(pieces) == 3


def test_bytes_that_are_no_text_are_cut_all_the_same() -> None:
    message = b"<1>" + b"\x80" * (3 * LIMIT)
    pieces = decoded(message + b"\n")
    assert b"".join(piece.body for piece in pieces) == message
    assert all(len(piece.body) <= LIMIT for piece in pieces)


text = st.binary(min_size=1, max_size=60).map(lambda body: body.translate(None, b"\r\n\0")).filter(bool)
lines = text.map(lambda body: (b"<1>" + body, b"<1>" + body + b"\n"))
counts = st.binary(max_size=60).map(lambda body: b"<1>" + body + b".").map(lambda body: (body, counted(body)))


@given(st.lists(lines | counts))
def test_every_message_comes_out_as_it_went_in(messages: list[tuple[bytes, bytes]]) -> None:
    assert decoded(b"".join(framed for _, framed in messages)) == [Frame(message) for message, _ in messages]


parts = st.sampled_from([b"<1>", b"12", b"5 <", b" ", b"\n", b"\r", b"\0", b"a" * LIMIT, b"b" * 70, "€".encode()])


@given(st.lists(parts | st.binary(max_size=5), max_size=12).map(b"".join), st.integers(1, 9), st.booleans())
def test_the_frames_of_any_bytes_do_not_depend_on_how_they_come(stream: bytes, size: int, cut: bool) -> None:
    if len(stream) > 1000:
        size *= 7919
    at_once = decoded(stream, cut=cut)
    assert decoded(stream, size, cut=cut) == at_once
    # A count, its space and the ends of lines go; nothing else does.
    assert sum(len(frame.body) for frame in at_once) <= len(stream)
    assert all(frame.body and len(frame.body) <= LIMIT for frame in at_once)


@pytest.mark.parametrize("framed", [counted, lambda message: message + b"\n"], ids=["counted", "line"])
def test_a_byte_of_a_long_message_takes_no_more_time_than_one_of_a_short_one(framed: Framing) -> None:
    def seconds(message: bytes) -> float:
        stream = framed(message) * (240_000 // len(message))
        started = time.process_time()
        decoded(stream, 1)
        return time.process_time() - started

    assert seconds(b"<1>" + b"x" * 60_000) < 4 * seconds(MESSAGE) + 0.1
