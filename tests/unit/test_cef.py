"""Lines of CEF as records: alone, as the message of syslog, and as a published package makes them."""

import datetime
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from cefevent import CEFEvent  # type: ignore[import-untyped]  # it ships no types
from hypothesis import example, given, settings
from hypothesis import strategies as st

from functions.common import timestamps
from functions.common.cef import fill, moment
from functions.common.host import Host
from functions.common.record import UNKNOWN_SERVICE, Incoming, decode
from functions.common.syslog import read
from functions.ingest.function import Ingest
from functions.ingest.intake import Config
from functions.ingest.normalise import Normaliser, Outcome
from tests.support.memory import MemoryPublisher

NOW = timestamps.parse("2026-11-22T16:00:00Z")
thousand = settings(deadline=None, max_examples=1000)


def at(text: str) -> int:
    return timestamps.parse(text)


def one(line: str | bytes, received: int = NOW) -> Incoming:
    return read(line if isinstance(line, bytes) else line.encode(), received)


def event(extension: str, severity: str = "5") -> Incoming:
    return one(f"CEF:0|Acme|Wall|1.2|100|Denied|{severity}|{extension}")


HEADER = {"cef.vendor": "Acme", "cef.version": "1.2", "cef.class": "100", "cef.severity": "5", "cef.format": "0"}
SYSLOG = {"facility": "local0", "severity": "info"}


LINES = [
    (
        "CEF:0|Security|threatmanager|1.0|100|worm successfully stopped|10|src=10.0.0.1 dst=2.1.2.2 spt=1232",
        Incoming(
            service="threatmanager",
            message="worm successfully stopped",
            level="FATAL",
            metadata={
                **{"cef.vendor": "Security", "cef.version": "1.0", "cef.class": "100"},
                **{"cef.severity": "10", "cef.format": "0", "src": "10.0.0.1", "dst": "2.1.2.2", "spt": "1232"},
            },
        ),
    ),
    # escapes in the header, which has an equals sign as it is, and in the extension, which has a bar as it is
    (
        r"CEF:1|a\|b|c\\d|e=f|\x|Name|Low|act=blocked a | request=http://x/?a\=b&c=d msg=one\=1\r\ntwo\\n three ",
        Incoming(
            service="c\\d",
            message="one=1\r\ntwo\\n three ",
            level="INFO",
            metadata={
                **{"cef.vendor": "a|b", "cef.version": "e=f", "cef.class": "\\x", "cef.severity": "Low"},
                **{"cef.format": "1", "cef.name": "Name", "act": "blocked a |", "request": "http://x/?a=b&c=d"},
            },
        ),
    ),
    # a header of syslog, whose fields stay, and whose time gives way to the event's
    (
        "<134>Nov 22 15:00:00 fw1 agent[9]: CEF: 0|Acme|Wall|1.2|100|Denied|5|rt=1795359599123 dvchost=fw1",
        Incoming(
            service="Wall",
            message="Denied",
            timestamp=1_795_359_599_123_000_000,
            level="WARN",
            metadata={
                **{**SYSLOG, "host": "fw1", "pid": "9", "app": "agent", "time": "2026-11-22T15:00:00.000000000Z"},
                **{**HEADER, "rt": "1795359599123", "dvchost": "fw1"},
            },
        ),
    ),
    (
        '<134>1 2026-11-22T15:00:00Z fw1 - - - [s@1 a="b"] \ufeffCEF:0|Acme|Wall|1.2|100|Denied|5|host=x  severity=y',
        Incoming(
            service="Wall",
            message="Denied",
            timestamp=at("2026-11-22T15:00:00Z"),
            level="WARN",
            metadata={
                **{**SYSLOG, "host": "fw1", "s@1.a": "b"},
                **{**HEADER, "host.2": "x ", "severity.2": "y"},
            },
        ),
    ),
    (
        "Nov 22 15:00:00 fw1 CEF:0|Acme|Wall|1.2|100|Denied|5",
        Incoming(
            service="Wall",
            message="Denied",
            timestamp=at("2026-11-22T15:00:00Z"),
            level="WARN",
            metadata={"host": "fw1", **HEADER},
        ),
    ),
    # what has no key, empty values, names that are repeated, labels
    (
        "CEF:0|Acme|Wall|1.2|100|Denied|5|no key cs1Label=User Role cs1= cs1=admin cs1=root ad.x[0]=1 msg= msg=last",
        Incoming(
            service="Wall",
            message="Denied",
            level="WARN",
            metadata={
                **{**HEADER, "cef.extension": "no key", "cs1Label": "User Role", "cs1": "", "cs1.2": "admin"},
                **{"cs1.3": "root", "ad.x[0]": "1", "msg": "", "msg.2": "last"},
            },
        ),
    ),
    # no product
    ("<134>app: CEF:0|||||Denied||", Incoming("app", "Denied", metadata={**SYSLOG, "cef.format": "0"})),
    ("CEF:0|||||Denied|", Incoming(UNKNOWN_SERVICE, "Denied", metadata={"cef.format": "0"})),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_a_line_of_cef_becomes_a_record(line: str, expected: Incoming) -> None:
    assert one(line) == expected


@pytest.mark.parametrize(
    ("severity", "level"),
    [
        *((str(number), "INFO") for number in range(4)),
        *((str(number), "WARN") for number in (4, 5, 6)),
        *((str(number), "ERROR") for number in (7, 8)),
        *((str(number), "FATAL") for number in (9, 10)),
        *(("Low", "INFO"), ("Medium", "WARN"), ("High", "ERROR"), ("Very-High", "FATAL"), ("very high", "FATAL")),
        *(("Unknown", "INFO"), ("11", "INFO"), ("odd", "INFO"), (" 9 ", "FATAL")),
    ],
)
def test_a_severity_is_a_level_and_is_kept(severity: str, level: str) -> None:
    record = event("", severity)
    assert (record.level, record.metadata["cef.severity"]) == (level, severity)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1795359599123", "2026-11-22T14:59:59.123Z"),
        ("1795359599123 ", "2026-11-22T14:59:59.123Z"),
        ("Nov 22 14:59:59", "2026-11-22T14:59:59Z"),
        ("Nov 22 14:59:59.123", "2026-11-22T14:59:59.123Z"),
        ("Nov 22 09:59:59 EST", "2026-11-22T14:59:59Z"),
        ("Nov 22 15:59:59.123 CET", "2026-11-22T14:59:59.123Z"),
        ("Nov 22 2026 14:59:59", "2026-11-22T14:59:59Z"),
        ("Nov 22 2026 14:59:59.123", "2026-11-22T14:59:59.123Z"),
        ("Nov 22 2026 14:59:59 UTC", "2026-11-22T14:59:59Z"),
        ("Nov 22 2026 14:59:59.123 GMT+00:00", "2026-11-22T14:59:59.123Z"),
        ("Nov 22 2026 20:29:59 GMT+05:30", "2026-11-22T14:59:59Z"),
        ("Nov 22 2026 06:59:59 -0800", "2026-11-22T14:59:59Z"),
        ("2026-11-22 14:59:59", "2026-11-22T14:59:59Z"),
        ("2026-11-22T15:59:59.5+01:00", "2026-11-22T14:59:59.5Z"),
    ],
)
def test_a_time_is_read_in_all_its_forms_and_kept(text: str, time: str) -> None:
    record = event(f"rt={text}")
    assert (record.timestamp, record.metadata["rt"]) == (at(time), text)


@pytest.mark.parametrize(
    "text", ["", "0", "soon", "5", "Nov 31 14:59:59", "Nov 22 14:59:59 XYZ", "Nov 22 14:59:59 2", "٣"]
)
def test_what_is_no_time_is_passed_over(text: str) -> None:
    assert event(f"rt={text}").timestamp is None
    assert event(f"rt={text} end=1795359599123 start=1795359599000").timestamp == 1_795_359_599_123_000_000
    assert event(f"rt={text} start=1795359599000").timestamp == 1_795_359_599_000_000_000
    line = f"<134>Nov 22 15:00:00 fw1 CEF:0|Acme|Wall|1.2|100|Denied|5|rt={text}"
    assert one(line).timestamp == at("2026-11-22T15:00:00Z")


def test_a_product_that_no_service_can_have_is_metadata() -> None:
    record = one(f"<134>app: CEF:0|Acme|{'p' * 64}|1|1|n|5|")
    assert (record.service, record.metadata["cef.product"]) == ("app", "p" * 64)
    record = one(b"CEF:0|Acme|" + b"\xff" * 63 + b"|1|1|n|5|")
    assert (record.service, record.metadata["encoding"]) == ("\\xff" * 63, "escaped")


@pytest.mark.parametrize(
    "line",
    ["CEF:", "CEF:0", "CEF:0|a|b|c|d|e", "CEF:x|a|b|c|d|e|5|", "CEF:0|a|b|c|d|e\\|5", "LEEF:1.0|a|b|c|d|", "CEF"],
)
def test_what_is_not_cef_is_a_message(line: str) -> None:
    assert one(line) == Incoming(service=UNKNOWN_SERVICE, message=line)


def test_more_extensions_than_a_record_may_hold_stay_in_the_message() -> None:
    line = "CEF:0|Acme|Wall|1.2|100|Denied|5|" + " ".join(f"k{number}=v" for number in range(901))
    assert one(line) == Incoming(service=UNKNOWN_SERVICE, message=line)
    assert len(one(line[: line.rindex(" ")]).metadata) == 905


def test_names_that_are_there_already_are_numbered() -> None:
    metadata = {"a": "0", "a.3": "3"}
    fill(metadata, [("a", "1"), ("a", "2"), ("b", "1"), ("a.3", "4"), ("b", "2")])
    assert metadata == {"a": "0", "a.3": "3", "a.2": "1", "a.4": "2", "b": "1", "a.3.2": "4", "b.2": "2"}


@pytest.mark.parametrize(
    ("text", "end"), [("Nov 22 15:00:00", 15), ("Nov 22 15:00:00 UTC: x", 19), ("Nov 22 15:00:00 UTCx", 15)]
)
def test_a_time_is_found_with_its_end(text: str, end: int) -> None:
    assert moment("> " + text, NOW, 2) == (at("2026-11-22T15:00:00Z"), end + 2)
    assert moment("> " + text, NOW) is None


# What must hold for every line


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    line, other = (draw(st.sampled_from(LINES))[0].encode() for _ in range(2))
    begin, end = sorted((draw(st.integers(0, len(line))), draw(st.integers(0, len(line)))))
    return line[:begin] + draw(st.binary(max_size=8)) + other[draw(st.integers(0, len(other))) :] + line[end:]


@thousand
@given(mangled() | st.binary().map(lambda data: b"CEF:0|a|b|c|d|e|" + data), st.integers(0, 1 << 63))
@example(b"CEF:0|a|b|c|d|e|5|" + b"a=1 a.2=1 " * 400, NOW)
@example(b"CEF:0|" + b"\\" * 10_000, NOW)
def test_no_line_fails_and_every_record_can_be_sent(line: bytes, received: int) -> None:
    record = read(line, received)
    assert 0 < len(record.service.encode()) <= 255
    assert record.timestamp is None or isinstance(record.timestamp, int)
    record.timestamp = NOW  # normalise refuses old ones, as it should
    outcome = Outcome("b")
    chunks = list(Normaliser("t", "b", False, NOW, timestamps.DAY, 1 << 20).chunks([(1, record)], outcome))
    assert outcome.errors == []
    assert decode(chunks[0].data).message == record.message


# Against a package that makes CEF: what it is told comes back. It strips texts.

texts = (st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60) | st.text("\\=|nr a", max_size=20)).map(
    str.strip
)
lines_of_text = st.lists(texts, min_size=1, max_size=2).map("\n".join).map(str.strip)
FIELDS = {
    "message": "msg",
    "deviceCustomString1": "cs1",
    "deviceCustomString1Label": "cs1Label",
    "sourceUserName": "suser",
    "destinationServiceName": "destinationServiceName",
    "requestURL": "request",
    "sourceHostName": "shost",
}
made: Any = CEFEvent(strict=True)
LEVELS = ["INFO"] * 4 + ["WARN"] * 3 + ["ERROR"] * 2 + ["FATAL"] * 2


@thousand
@given(
    header=st.tuples(texts, texts.filter(bool), texts, texts, texts),
    severity=st.integers(0, 10),
    extension=st.dictionaries(st.sampled_from(sorted(FIELDS)), lines_of_text),
    milliseconds=st.none() | st.integers(10**12, 2 * 10**12),
)
def test_what_a_package_writes_is_read_as_it_was_meant(
    header: tuple[str, str, str, str, str], severity: int, extension: dict[str, str], milliseconds: int | None
) -> None:
    made.reset()
    vendor, product, version, signature, name = header
    prefixes = ("deviceVendor", "deviceProduct", "deviceVersion", "signatureId", "name")
    for field, value in [*zip(prefixes, header, strict=True), ("severity", severity), *extension.items()]:
        made.set_field(field, value)
    if milliseconds is not None:
        made.set_field("receiptTime", milliseconds)
    record = one(made.build_cef())
    message = extension.get("message", "")
    expected = {"cef.vendor": vendor, "cef.version": version, "cef.class": signature}
    expected |= {"cef.name": name} if message else {}
    expected = {key: value for key, value in expected.items() if value}
    expected |= {FIELDS[field]: value for field, value in extension.items() if field != "message" or not value}
    expected |= {"rt": str(milliseconds)} if milliseconds is not None else {}
    assert record == Incoming(
        service=product,
        message=message or name,
        timestamp=None if milliseconds is None else milliseconds * 1_000_000,
        level=LEVELS[severity],
        metadata={**expected, "cef.severity": str(severity), "cef.format": "0"},
    )


# Over HTTP


@pytest.fixture
async def client() -> AsyncIterator[tuple[httpx.AsyncClient, MemoryPublisher]]:
    publisher = MemoryPublisher()
    function = Ingest(Config(), publisher)
    await function.start()
    transport = httpx.ASGITransport(app=Host(function), raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
        yield client, publisher
    await function.stop()


async def test_lines_of_cef_become_rows(client: tuple[httpx.AsyncClient, MemoryPublisher]) -> None:
    sender, publisher = client
    sent = timestamps.now() // 1_000_000 - 5000
    header = datetime.datetime.now(datetime.UTC).strftime("<134>%b %e %H:%M:%S fw1 ")
    body = f"CEF:0|Acme|Wall|1|9|Denied|8|rt={sent} src=10.0.0.1\n{header}CEF:0|Acme|Wall|1|9|Allowed|1|msg=all well"
    answer = await sender.post("/api/v1/syslog", content=body.encode())
    assert (answer.status_code, answer.json()["accepted"]) == (200, 2)
    first, second = (decode(line) for _, _, value, _ in publisher.records for line in value.split(b"\n"))
    assert (first.service, first.level, first.message) == ("Wall", "ERROR", "Denied")
    assert (int(first.timestamp), first.metadata["src"]) == (sent * 1_000_000, "10.0.0.1")
    assert (second.service, second.level, second.message) == ("Wall", "INFO", "all well")
    assert (second.metadata["host"], second.metadata["cef.name"]) == ("fw1", "Allowed")
