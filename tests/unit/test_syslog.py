"""Lines of syslog as records: what the RFCs show, what devices send, and what is no syslog at all."""

import datetime
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functions.common import timestamps
from functions.common.host import Host
from functions.common.identity import MAX_RECORDS, of_id
from functions.common.record import UNKNOWN_SERVICE, Incoming, Record, decode
from functions.common.syslog import read
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from functions.ingest.normalise import Normaliser, Outcome
from tests.support.memory import MemoryPublisher

PATH = "/api/v1/syslog"
NOW = timestamps.parse("2026-11-22T16:00:00Z")
UTC = datetime.UTC
thousand = settings(deadline=None, max_examples=1000)


def at(text: str) -> int:
    return timestamps.parse(text)


def one(line: bytes | str, received: int = NOW) -> Incoming:
    return read(line if isinstance(line, bytes) else line.encode(), received)


def named(facility: str, severity: str, **others: str) -> dict[str, str]:
    return {"facility": facility, "severity": severity, **others}


def backwards(text: str) -> bytes:
    """The bytes of a text that a line was escaped to."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), text.encode())


# RFC 5424

RFC_5424 = [
    (
        b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed on /dev/pts/8",
        Incoming(
            service="su",
            message="'su root' failed on /dev/pts/8",
            timestamp=at("2003-10-11T22:14:15.003Z"),
            level="FATAL",
            metadata=named("auth", "crit", host="mymachine.example.com", msgid="ID47"),
        ),
    ),
    (
        b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.",
        Incoming(
            service="myproc",
            message="%% It's time to make the do-nuts.",
            timestamp=at("2003-08-24T12:14:15.000003Z"),
            metadata=named("local4", "notice", host="192.0.2.1", pid="8710"),
        ),
    ),
    (
        b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
        b'[exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"] '
        b"\xef\xbb\xbfAn application event log entry",
        Incoming(
            service="evntslog",
            message="An application event log entry",
            timestamp=at("2003-10-11T22:14:15.003Z"),
            metadata={
                **named("local4", "notice", host="mymachine.example.com", msgid="ID47"),
                "exampleSDID@32473.iut": "3",
                "exampleSDID@32473.eventSource": "Application",
                "exampleSDID@32473.eventID": "1011",
            },
        ),
    ),
    (
        b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
        b'[exampleSDID@32473 iut="3" eventSource="Application"][examplePriority@32473 class="high"]',
        Incoming(
            service="evntslog",
            message="",
            timestamp=at("2003-10-11T22:14:15.003Z"),
            metadata={
                **named("local4", "notice", host="mymachine.example.com", msgid="ID47"),
                "exampleSDID@32473.iut": "3",
                "exampleSDID@32473.eventSource": "Application",
                "examplePriority@32473.class": "high",
            },
        ),
    ),
    (b"<0>1 - - - - - -", Incoming(service=UNKNOWN_SERVICE, level="FATAL", metadata=named("kern", "emerg"))),
    (
        b"<191>1 - db1 - - - - still here",
        Incoming(service="db1", message="still here", level="DEBUG", metadata=named("local7", "debug", host="db1")),
    ),
]


@pytest.mark.parametrize(("line", "expected"), RFC_5424)
def test_a_line_of_rfc_5424_becomes_a_record(line: bytes, expected: Incoming) -> None:
    assert one(line) == expected


@pytest.mark.parametrize(("fraction", "nanoseconds"), [("", 0), (".5", 500_000_000), (".123456789", 123_456_789)])
def test_a_time_keeps_all_its_digits(fraction: str, nanoseconds: int) -> None:
    record = one(f"<14>1 2026-11-22T15:00:00{fraction}+01:00 h a - - - x")
    assert record.timestamp == at("2026-11-22T14:00:00Z") + nanoseconds


@pytest.mark.parametrize("time", ["2026-02-30T00:00:00Z", "2026-11-22T15:00:00+25:00", "1970-01-01T00:29:50Z"])
def test_a_time_that_is_none_or_of_a_clock_that_was_never_set_is_kept_beside_the_record(time: str) -> None:
    record = one(f"<14>1 {time} h a - - - x")
    assert (record.timestamp, record.metadata["time"], record.message) == (None, time, "x")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\0", b"\n\0", b"\0\n"])
def test_one_end_of_line_is_not_the_messages(end: bytes) -> None:
    assert one(b"<14>1 - h a - - - x" + end).message == "x"
    assert one(b"<14>1 - h a - - - x\t" + end).message == "x\t"


def test_only_the_first_byte_order_mark_is_stripped() -> None:
    assert one("<14>1 - h a - - - \ufeff\ufeffx").message == "\ufeffx"


def test_structured_data_is_unescaped_and_nothing_of_it_is_lost() -> None:
    data = r'[a@1 q="say \"hi\" \\ [\]" w="c:\dir" e="" r="1" r="2" r="3"][a@1 r="4"][bare][bare]'
    record = one(f"<14>1 - h a - - {data} x")
    assert record.message == "x"
    assert record.metadata == {
        **named("user", "info", host="h"),
        "a@1.q": 'say "hi" \\ []',
        "a@1.w": "c:\\dir",
        "a@1.e": "",
        "a@1.r": "1",
        "a@1.r.2": "2",
        "a@1.r.3": "3",
        "a@1.r.4": "4",
        "bare": "",
        "bare.2": "",
    }


@pytest.mark.parametrize(
    "rest",
    ['[a b="c] x', '[a b="]"] x', "[a b=c] x", "[] x", '[a b="c"]x', "no data at all", "", '[a b="c\\"] x', "-x"],
)
def test_a_line_with_broken_structured_data_is_its_own_message_and_has_the_headers_fields(rest: str) -> None:
    line = f"<11>1 2026-11-22T15:00:00Z h app 7 m {rest}"
    assert one(line) == Incoming(
        service="app",
        message=line,
        timestamp=at("2026-11-22T15:00:00Z"),
        level="ERROR",
        metadata=named("user", "err", host="h", pid="7", msgid="m"),
    )


def test_the_record_takes_its_id_and_trace_from_structured_data_of_any_element() -> None:
    data = '[x@1 trace_id="4bf92f35" other="o"][y@1 span_id="00f0" log.record.uid="u-1"][z@1 log.record.uid="u-2"]'
    record = one(f"<14>1 - h a - - {data} x")
    assert (record.trace_id, record.span_id, record.id) == ("4bf92f35", "00f0", "u-1")
    assert record.metadata == {**named("user", "info", host="h"), "x@1.other": "o", "z@1.log.record.uid": "u-2"}


@pytest.mark.parametrize("trace", ["", "t" * 129, "not one", "ü"])
def test_what_cannot_be_a_trace_id_stays_metadata(trace: str) -> None:
    record = one(f'<14>1 - h a - - [x trace_id="{trace}" log.record.uid=""] x')
    assert (record.trace_id, record.id) == ("", "")
    assert (record.metadata["x.trace_id"], record.metadata["x.log.record.uid"]) == (trace, "")


@pytest.mark.parametrize("element", ['[s@1 n="v"]', "[s@1]"])
def test_more_structured_data_than_a_record_may_hold_stays_in_the_message(element: str) -> None:
    line = f"<14>1 - h a - - {element * 901} x"
    assert one(line) == Incoming(service="a", message=line, metadata=named("user", "info", host="h"))
    assert len(one(f"<14>1 - h a - - {element * 450} x").metadata) == 453


@pytest.mark.parametrize("name", ["h" * 256, "hôte"])
def test_a_name_that_no_service_can_have_leaves_the_line_in_the_message(name: str) -> None:
    assert one(f"<14>1 - {name} - - - - x").message == f"1 - {name} - - - - x"
    assert one(f"<14>1 - - {name} - - - x").message == f"1 - - {name} - - - x"


@pytest.mark.parametrize(
    ("priority", "facility", "severity", "level"),
    [
        (0, "kern", "emerg", "FATAL"),
        (9, "user", "alert", "FATAL"),
        (18, "mail", "crit", "FATAL"),
        (27, "daemon", "err", "ERROR"),
        (36, "auth", "warning", "WARN"),
        (45, "syslog", "notice", "INFO"),
        (54, "lpr", "info", "INFO"),
        (63, "news", "debug", "DEBUG"),
        (64, "uucp", "emerg", "FATAL"),
        (72, "cron", "emerg", "FATAL"),
        (80, "authpriv", "emerg", "FATAL"),
        (88, "ftp", "emerg", "FATAL"),
        (96, "ntp", "emerg", "FATAL"),
        (104, "audit", "emerg", "FATAL"),
        (112, "alert", "emerg", "FATAL"),
        (120, "clock", "emerg", "FATAL"),
        (128, "local0", "emerg", "FATAL"),
        (191, "local7", "debug", "DEBUG"),
    ],
)
def test_a_priority_is_a_facility_and_a_severity(priority: int, facility: str, severity: str, level: str) -> None:
    for line in (f"<{priority}>1 - h a - - - x", f"<{priority}>a: x"):
        record = one(line)
        assert (record.service, record.message, record.level) == ("a", "x", level)
        assert (record.metadata["facility"], record.metadata["severity"]) == (facility, severity)


# RFC 3164 and its kin

T = "2026-11-22T15:00:00Z"
# The line, then service, message, time and metadata beside facility and severity.
Expected = tuple[str, str, str | None, dict[str, str]]
RFC_3164: list[tuple[str, Expected]] = [
    (
        "<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
        ("su", "'su root' failed for lonvick on /dev/pts/8", "2026-10-11T22:14:15Z", {"host": "mymachine"}),
    ),
    (
        "<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
        ("10.0.0.99", "Use the BFG!", "2027-02-05T17:32:18Z", {"host": "10.0.0.99"}),
    ),
    (
        "<165>Aug 24 05:34:00 CST 1987 mymachine myproc[10]: %% It's time to make the do-nuts.  %%",
        (
            "myproc",
            "%% It's time to make the do-nuts.  %%",
            "1987-08-24T11:34:00Z",
            {"host": "mymachine", "pid": "10"},
        ),
    ),
    (
        "<0>1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!",
        (
            UNKNOWN_SERVICE,
            "1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!",
            None,
            {},
        ),
    ),
    # rsyslog with precise times, with an offset and without
    (
        "<30>2026-11-22T16:00:00.123456+01:00 web systemd[1]: Started nginx.",
        ("systemd", "Started nginx.", "2026-11-22T15:00:00.123456Z", {"host": "web", "pid": "1"}),
    ),
    ("<30>2026-11-22T15:00:00 web app: up", ("app", "up", T, {"host": "web"})),
    # no host, as it is sent to /dev/log; no time; no tag
    ("<30>Nov 22 15:00:00 dhcpd[4]: bound", ("dhcpd", "bound", T, {"pid": "4"})),
    ("<30>Nov 22 15:00:00 cafe: open", ("cafe", "open", T, {})),
    ("<30>dnsmasq[12]: started", ("dnsmasq", "started", None, {"pid": "12"})),
    ("<30>usb 1-1: new device found", (UNKNOWN_SERVICE, "usb 1-1: new device found", None, {})),
    (
        "<30>Nov 22 15:00:00 gw last message repeated 2 times",
        ("gw", "last message repeated 2 times", T, {"host": "gw"}),
    ),
    ("<30>Nov 22 15:00:00 (no names) here", (UNKNOWN_SERVICE, "(no names) here", T, {})),
    ("<30>Nov 22 15:00:00 word", (UNKNOWN_SERVICE, "word", T, {})),
    ("<30>Nov 22 15:00:00", (UNKNOWN_SERVICE, "", T, {})),
    # tags and hosts of all kinds
    (
        "<30>Nov 22 15:00:00 mx postfix/smtpd[9]: connect from a[10.0.0.1]",
        ("postfix/smtpd", "connect from a[10.0.0.1]", T, {"host": "mx", "pid": "9"}),
    ),
    ("<30>Nov 22 15:00:00 pc kernel: [ 12.3] eth0: up", ("kernel", "[ 12.3] eth0: up", T, {"host": "pc"})),
    ("<30>Nov 22 15:00:00 mac launchd[1] (x): ended", ("launchd", "(x): ended", T, {"host": "mac", "pid": "1"})),
    ("<30>Nov 22 15:00:00 fe80::1%eth0 su: x", ("su", "x", T, {"host": "fe80::1%eth0"})),
    ("<30>Nov 22 15:00:00 [2001:db8::1] su: x", ("su", "x", T, {"host": "[2001:db8::1]"})),
    ("<30>Nov 22 15:00:00 src@relay/web su: x", ("su", "x", T, {"host": "src@relay/web"})),
    ("<30>Nov 22 15:00:00 web 46: x", ("web", "46: x", T, {"host": "web"})),
    # Cisco
    (
        "<189>46: *Nov 22 15:59:11.123 UTC: %SYS-5-CONFIG_I: Configured from console",
        (
            "%SYS-5-CONFIG_I",
            "Configured from console",
            "2026-11-22T15:59:11.123Z",
            {"sequence": "46", "clock": "*"},
        ),
    ),
    (
        "<189>47: *Mar  1 00:00:46.123: %LINK-3-UPDOWN: Interface up",
        ("%LINK-3-UPDOWN", "Interface up", None, {"sequence": "47", "clock": "*", "time": "Mar  1 00:00:46.123"}),
    ),
    (
        "<189>48: r1: .Nov 22 16:30:00.5 CET: %SYS-5-RESTART: System restarted",
        (
            "%SYS-5-RESTART",
            "System restarted",
            "2026-11-22T15:30:00.5Z",
            {"sequence": "48", "host": "r1", "clock": "."},
        ),
    ),
    ("<189>49: 00:00:47: %LINK-3-UPDOWN: up", (UNKNOWN_SERVICE, "49: 00:00:47: %LINK-3-UPDOWN: up", None, {})),
    ("<189>: 2026 Nov 22 15:00:00 UTC: %ETHPORT-5-IF_UP: up", ("%ETHPORT-5-IF_UP", "up", T, {})),
    ("<189>Nov 22 2026 15:00:00: %ASA-6-302013: Built", ("%ASA-6-302013", "Built", T, {})),
    ("<189>Nov 22 2026 15:00:00 fw1 : %ASA-6-302013: Built", ("%ASA-6-302013", "Built", T, {"host": "fw1"})),
    ("<189>50: Nov 22 15:00:00: some text only", (UNKNOWN_SERVICE, "some text only", T, {"sequence": "50"})),
    ("<189>r1: Nov 22 15:00:00 r2 su: x", ("su", "x", T, {"host": "r1", "host.2": "r2"})),
    # no times
    ("<30>Foo 22 15:00:00 web app: x", (UNKNOWN_SERVICE, "Foo 22 15:00:00 web app: x", None, {})),
    ("<30>Feb 30 15:00:00 web app: x", (UNKNOWN_SERVICE, "Feb 30 15:00:00 web app: x", None, {})),
    ("<30>Nov 22 25:00:00 web app: x", (UNKNOWN_SERVICE, "Nov 22 25:00:00 web app: x", None, {})),
    ("<30>Nov 22 15:00:00web app: x", (UNKNOWN_SERVICE, "Nov 22 15:00:00web app: x", None, {})),
]
PRIORITIES = {
    "<34>": ("auth", "crit", "FATAL"),
    "<13>": ("user", "notice", "INFO"),
    "<165>": ("local4", "notice", "INFO"),
    "<0>": ("kern", "emerg", "FATAL"),
    "<30>": ("daemon", "info", "INFO"),
    "<189>": ("local7", "notice", "INFO"),
}


@pytest.mark.parametrize(("line", "expected"), RFC_3164)
def test_a_line_of_rfc_3164_or_of_a_device_becomes_a_record(line: str, expected: Expected) -> None:
    service, message, time, metadata = expected
    facility, severity, level = PRIORITIES[line[: line.index(">") + 1]]
    assert one(line) == Incoming(
        service=service,
        message=message,
        timestamp=at(time) if time else None,
        level=level,
        metadata=named(facility, severity, **metadata),
    )


def test_a_line_without_a_priority_as_it_lies_in_files_says_nothing_of_its_level() -> None:
    assert one("Nov 22 15:00:00 web CRON[77]: (root) CMD (true)") == Incoming(
        service="CRON",
        message="(root) CMD (true)",
        timestamp=at(T),
        metadata={"host": "web", "pid": "77"},
    )


@pytest.mark.parametrize(
    "line",
    ["", "Use the BFG!", "<192>x: y", "<999>1 - h a - - - x", "<01>x", "<>x", "<1x", "ERROR: x", '{"a": 1}', "1"],
)
def test_a_line_that_is_no_syslog_is_a_message(line: str) -> None:
    assert one(line) == Incoming(service=UNKNOWN_SERVICE, message=line)


def test_a_line_without_a_time_has_no_timestamp() -> None:
    for line in ("<34>su: x", "x", "<34>1 - h a - - - x", "<189>47: *Mar  1 00:00:46: %A-1-B: x"):
        assert one(line).timestamp is None


@pytest.mark.parametrize(
    ("text", "received", "expected"),
    [
        ("Dec 31 23:59:59", "2027-01-01T00:00:01Z", "2026-12-31T23:59:59Z"),
        ("Jan  1 00:00:01", "2026-12-31T23:59:59Z", "2027-01-01T00:00:01Z"),
        ("Jan 01 00:00:01", "2027-01-01T00:00:02Z", "2027-01-01T00:00:01Z"),
        ("Jul  1 12:00:00", "2027-01-01T00:00:00Z", "2027-07-01T12:00:00Z"),
        ("Jul  4 12:00:00", "2027-01-01T00:00:00Z", "2026-07-04T12:00:00Z"),
        ("Feb 29 12:00:00", "2028-03-01T00:00:00Z", "2028-02-29T12:00:00Z"),
        ("Feb 29 12:00:00", "2027-03-01T00:00:00Z", "2028-02-29T12:00:00Z"),
        ("Feb 29 12:00:00", "2025-12-01T00:00:00Z", "2024-02-29T12:00:00Z"),
        ("Feb 29 12:00:00", "2099-01-01T00:00:00Z", "2096-02-29T12:00:00Z"),
        ("Feb 29 12:00:00", "2101-01-01T00:00:00Z", "2104-02-29T12:00:00Z"),
        ("Dec 31 23:59:60", "2027-01-01T00:00:01Z", "2027-01-01T00:00:00Z"),
        ("Jan  1 00:30:00 CET", "2026-12-31T23:30:01Z", "2026-12-31T23:30:00Z"),
        ("Dec 31 20:00:00 EST", "2027-01-01T01:00:01Z", "2027-01-01T01:00:00Z"),
        ("Nov 22 15:00:00.25 +02:00", "2026-11-22T13:00:00Z", "2026-11-22T13:00:00.25Z"),
    ],
)
def test_the_year_is_the_one_that_puts_the_time_nearest_to_the_arrival(text: str, received: str, expected: str) -> None:
    assert one(f"<34>{text} h su: x", at(received)).timestamp == at(expected)


# Bytes that are not UTF-8


def test_bytes_that_are_not_utf_8_are_escaped_wherever_they_stand() -> None:
    record = one(b'<14>1 - h a p\xff - [s\xfe@1 n="caf\xe9 \\\\xe9"] \xef\xbb\xbfna\xc3\xafve \xe2\x82 \\x \\')
    assert record.message == "naïve \\xe2\\x82 \\x5cx \\"
    assert record.metadata == {
        **named("user", "info", host="h", pid="p\\xff", encoding="escaped"),
        "s\\xfe@1.n": "caf\\xe9 \\x5cxe9",
    }
    assert backwards(record.metadata["s\\xfe@1.n"]) == b"caf\xe9 \\xe9"


def test_a_line_of_utf_8_is_never_escaped() -> None:
    record = one("<14>1 - h a - - - grüße \\xff \ud7ff\U0001f600")
    assert record.message == "grüße \\xff \ud7ff\U0001f600"
    assert "encoding" not in record.metadata


@thousand
@given(st.binary(max_size=60))
@example(b"\\x\xff\\x5c")
def test_a_line_that_is_no_syslog_can_be_read_backwards_whatever_its_bytes(data: bytes) -> None:
    line = b"? " + data + b"."
    record = one(line)
    is_text = "encoding" not in record.metadata
    assert (record.message.encode() if is_text else backwards(record.message)) == line
    assert record.timestamp is None and record.service == UNKNOWN_SERVICE


# What must hold for every line

SEEDS = [line for line, _ in RFC_5424] + [line.encode() for line, _ in RFC_3164]


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A line with a part replaced by another line's, or by anything."""
    line, other = draw(st.sampled_from(SEEDS)), draw(st.sampled_from(SEEDS) | st.binary(max_size=12))
    begin, end = sorted((draw(st.integers(0, len(line))), draw(st.integers(0, len(line)))))
    return line[:begin] + other[draw(st.integers(0, len(other))) :] + line[end:]


@thousand
@given(st.binary() | mangled(), st.integers(0, 1 << 63))
def test_no_line_fails_and_every_record_can_be_sent(line: bytes, received: int) -> None:
    record = read(line, received)
    assert 0 < len(record.service.encode()) <= 255
    assert record.timestamp is None or isinstance(record.timestamp, int)
    record.timestamp = NOW  # normalise refuses old ones, as it should
    outcome = Outcome("b")
    chunks = list(Normaliser("t", "b", False, NOW, timestamps.DAY, 1 << 20).chunks([(1, record)], outcome))
    assert outcome.errors == []
    assert decode(chunks[0].data).message == record.message


words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
names = st.text("abcXYZ019_-@", min_size=1, max_size=20).filter(lambda text: text not in ("trace_id", "span_id"))
values = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text('"\\]= x', max_size=12)
elements = st.dictionaries(
    names.map(lambda name: f"{name}@32473"), st.dictionaries(names, values, max_size=3), max_size=3
)
messages = st.text(st.characters(exclude_categories=["Cs"]), max_size=80).filter(
    lambda text: not text.startswith(("CEF:", "\ufeff")) and text[-1:] not in ("\n", "\r", "\0")
)
moments = st.integers(10**17 + 10**9, 4 * 10**18)


def escaped(value: str) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", value)


def written(timestamp: int, digits: int, offset: int) -> str:
    """A time in RFC 3339 with so many digits after the point, in a zone so many minutes from UTC."""
    local = timestamps.iso(timestamp + offset * 60 * timestamps.NANOSECONDS)
    zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02d}:{abs(offset) % 60:02d}" if offset else "Z"
    return local[:19] + (f".{local[20 : 20 + digits]}" if digits else "") + zone


@thousand
@given(
    priority=st.integers(0, 191),
    timestamp=moments,
    digits=st.integers(0, 9),
    offset=st.integers(-14 * 60, 14 * 60),
    header=st.tuples(words, words, words, words),
    data=elements,
    message=messages,
    marked=st.booleans(),
)
def test_a_line_of_rfc_5424_made_of_parts_comes_apart_into_them(
    priority: int,
    timestamp: int,
    digits: int,
    offset: int,
    header: tuple[str, str, str, str],
    data: dict[str, dict[str, str]],
    message: str,
    marked: bool,
) -> None:
    timestamp -= timestamp % 10 ** (9 - digits)
    sent = "".join(
        "[" + element + "".join(" " + name + '="' + escaped(value) + '"' for name, value in found.items()) + "]"
        for element, found in data.items()
    )
    line = f"<{priority}>1 {written(timestamp, digits, offset)} {' '.join(header)} {sent or '-'}"
    record = one(line + " " + "\ufeff" * marked + message)
    host, app, pid, message_id = header
    assert record.message == message
    assert record.timestamp == timestamp
    assert record.service == (app if app != "-" else host if host != "-" else UNKNOWN_SERVICE)
    given_names = {"host": host, "pid": pid, "msgid": message_id}
    expected = {name: value for name, value in given_names.items() if value != "-"}
    for element, found in data.items():
        expected |= {f"{element}.{name}": value for name, value in found.items()} or {element: ""}
    assert {**record.metadata, **expected} == record.metadata
    assert len(record.metadata) == len(expected) + 2


@thousand
@given(
    priority=st.integers(0, 191),
    received=st.datetimes(datetime.datetime(1975, 1, 1), datetime.datetime(2200, 1, 1)),
    near_new_year=st.booleans(),
    apart=st.integers(-180 * 86_400, 180 * 86_400),
    host=st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True),
    tag=st.from_regex(r"[a-zA-Z(%][a-zA-Z0-9_./()%-]{0,30}", fullmatch=True).filter(lambda tag: tag != "CEF"),
    pid=st.none() | st.integers(0, 10**7),
    message=messages,
)
def test_a_line_of_rfc_3164_made_of_parts_comes_apart_into_them(
    priority: int,
    received: datetime.datetime,
    near_new_year: bool,
    apart: int,
    host: str,
    tag: str,
    pid: int | None,
    message: str,
) -> None:
    arrival = received.replace(microsecond=0, tzinfo=UTC)
    if near_new_year:
        arrival, apart = arrival.replace(month=12, day=31, hour=23), apart // 100
    sent = arrival + datetime.timedelta(seconds=apart)
    number = f"[{pid}]" if pid is not None else ""
    line = f"<{priority}>{sent:%b} {sent.day:2d} {sent:%H:%M:%S} {host} {tag}{number}: {message}"
    record = one(line, int(arrival.timestamp()) * timestamps.NANOSECONDS)
    assert (record.service, record.message, record.metadata["host"]) == (tag, message, host)
    assert record.timestamp == int(sent.timestamp()) * timestamps.NANOSECONDS
    assert record.metadata.get("pid") == (None if pid is None else str(pid))


# Over HTTP


class Face:
    """Ingest as a client sees it, and the rows that it published."""

    def __init__(self, client: httpx.AsyncClient, publisher: MemoryPublisher) -> None:
        self.client, self.publisher = client, publisher

    async def post(self, body: bytes, **headers: str) -> httpx.Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(PATH, content=body, headers=given)

    @property
    def rows(self) -> list[Record]:
        return [decode(line) for _, _, value, _ in self.publisher.records for line in value.split(b"\n")]


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    publisher = MemoryPublisher()
    function = Ingest(Config(), publisher)
    await function.start()
    transport = httpx.ASGITransport(app=Host(function), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
        yield Face(client, publisher)
    await function.stop()


def recent(seconds: int = 60) -> str:
    return timestamps.iso(timestamps.now() - seconds * timestamps.NANOSECONDS)


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain; charset=utf-8", "application/syslog", "application/octet-stream", ""]
)
async def test_lines_become_rows(face: Face, kind: str) -> None:
    time = recent()
    old = datetime.datetime.now(UTC).strftime("%b %e %H:%M:%S")
    body = f"\ufeff<11>1 {time} web shop 7 - - sold\r\n\n \n<30>{old} gw su[4]: caf\n<14>up: yes\nplain text\n".encode()
    answer = await face.post(body, **({"content_type": kind} if kind else {}))
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in ("accepted", "rejected", "errors")} == {
        "accepted": 4,
        "rejected": 0,
        "errors": [],
    }
    rows = face.rows
    assert [(row.service, row.level, row.message) for row in rows] == [
        ("shop", "ERROR", "sold"),
        ("su", "INFO", "caf"),
        ("up", "INFO", "yes"),
        (UNKNOWN_SERVICE, "INFO", "plain text"),
    ]
    assert int(rows[0].timestamp) == at(time)
    assert rows[0].metadata == named("user", "err", host="web", pid="7")
    assert [row.dedupe - rows[0].dedupe for row in rows] == [0, 3, 4, 5]


async def test_bytes_that_are_not_utf_8_arrive(face: Face) -> None:
    assert (await face.post(b"<14>a: caf\xe9\n")).json()["accepted"] == 1
    (row,) = face.rows
    assert (row.message, row.metadata["encoding"]) == ("caf\\xe9", "escaped")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/json", ""])
async def test_lines_are_taken_under_any_content_type_since_curl_names_its_own(face: Face, kind: str) -> None:
    assert (await face.post(b"<14>a: x", content_type=kind)).json()["accepted"] == 1


async def test_a_text_that_is_said_not_to_be_utf_8_is_refused(face: Face) -> None:
    answer = await face.post(b"<14>a: x", content_type="text/plain; charset=utf-16")
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert face.rows == []


async def test_a_sender_that_repeats_itself_under_an_id_is_counted_once(face: Face) -> None:
    line = f'<14>1 {recent()} web shop - - [m@1 log.record.uid="u-1"] sold'.encode()
    for _ in range(2):
        assert (await face.post(line)).status_code == 200
    first, second = face.rows
    assert first == second
    assert (first.dedupe, first.metadata["id"]) == (of_id("default", "u-1"), "u-1")


async def test_a_line_without_a_time_cannot_be_known_again(face: Face) -> None:
    lines = f'<14>1 - web shop - - [m@1 log.record.uid="u-1"] sold\n<14>1 {recent()} web shop - - - sold\n'.encode()
    answer = await face.post(lines)
    assert (answer.json()["accepted"], answer.json()["errors"][0]["line"]) == (1, 1)
    answer = await face.post(b"\n<14>a: x", idempotency_key="k")
    assert answer.status_code == 400
    assert [(error["line"], error["field"]) for error in answer.json()["errors"]] == [(2, "timestamp")]


async def test_lines_under_a_key_make_the_same_rows_each_time(face: Face) -> None:
    body = "\n".join(f"<14>1 {recent(n)} web shop - - - {n}" for n in range(20)).encode()
    for _ in range(2):
        await face.post(body, idempotency_key="k")
    first, second = (value for _, _, value, _ in face.publisher.records)
    assert first == second


@pytest.mark.parametrize("body", [b"", b"\n\r\n \n", b"\xef\xbb\xbf"])
async def test_a_body_without_lines_is_refused(face: Face, body: bytes) -> None:
    answer = await face.post(body)
    assert (answer.status_code, answer.json()["detail"]) == (400, "there are no logs in the body")


async def test_more_lines_than_a_request_may_have_are_refused_before_they_are_read(face: Face) -> None:
    assert (await face.post(b"\n" * MAX_RECORDS)).status_code == 413
    assert face.rows == []


async def test_the_answer_is_that_of_torpors_own_protocol(face: Face) -> None:
    old = b"<14>1 2003-10-11T22:14:15Z h a - - - x"
    ours = await face.post(old)
    own = await face.client.post(
        "/api/v1/ingest", content=json.dumps({"service": "a", "timestamp": "2003-10-11T22:14:15Z"}).encode()
    )
    mine, theirs = ours.json(), own.json()
    assert mine.pop("batch") != theirs.pop("batch")
    assert (ours.status_code, mine) == (own.status_code, theirs)
