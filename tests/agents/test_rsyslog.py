"""rsyslogd as a process of its own: what it forwards to the relay, and what it sends by omelasticsearch."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from functions.common import timestamps
from tests.agents.agent import COUNT, found, missing, moments, needed, times, unique
from tests.e2e.test_relay import Relay, running
from tests.support.kafka import free_port
from tests.support.local import LocalTorpor

ROOT = Path(__file__).parents[2]
AWAY_SECONDS = 4.0
MICROSECOND = 1000
RETRY = 'queue.type="linkedList" action.resumeRetryCount="-1" action.resumeInterval="1"'
ELASTICSEARCH = """
module(load="omelasticsearch")
template(name="document" type="list" option.jsonf="on") {
  property(outname="@timestamp" name="timereported" dateFormat="rfc3339" format="jsonf")
  property(outname="service" name="programname" format="jsonf")
  property(outname="level" name="syslogseverity-text" format="jsonf")
  property(outname="message" name="msg" format="jsonf")
  property(outname="host.name" name="hostname" format="jsonf")
}
template(name="identity" type="string" string="%programname%-%msgid%")
"""


def of_the_readme(port: int) -> tuple[str, str]:
    """The template and the rules that the README gives to people, for a relay on `port`."""
    block = re.search(r"<!-- rsyslog -->\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block
    template, rules = block[1].split("\n", 1)
    return template, rules.replace("5514", str(port))


def forward(port: int, protocol: str, framing: str, template: str) -> str:
    """The action that forwards to the relay."""
    kind = f'protocol="{protocol}" tcp_framing="{framing}" template="RSYSLOG_{template}"'
    return f'action(type="omfwd" target="127.0.0.1" port="{port}" {kind} {RETRY})'


def bulk(port: int) -> str:
    """The action that sends to ingest, each message under an identity of its own."""
    how = 'bulkMode="on" searchIndex="logs" searchType="" writeOperation="create" dynBulkId="on" bulkId="identity"'
    return f'action(type="omelasticsearch" server="http://127.0.0.1:{port}" template="document" {how} {RETRY})'


@contextlib.contextmanager
def rsyslog(folder: Path, actions: str, head: str = "") -> Iterator[int]:
    """Run rsyslogd within the block; the actions get the lines that its port takes."""
    port = free_port()
    file = folder / "rsyslog.conf"
    file.write_text(f"""
global(workDirectory="{folder}" net.enableDNS="off")
module(load="imtcp")
{head}
ruleset(name="actions") {{ {actions} }}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="actions")
""")
    process = subprocess.Popen(
        [needed("rsyslogd"), "-n", "-iNONE", "-f", str(file)],
        env={**os.environ, "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_it_listens(process, port)
        yield port
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise AssertionError("rsyslogd does not listen")


def send(port: int, service: str, sent: list[int], first: int = 0) -> None:
    """Messages with these times, to the microsecond, numbered from `first`."""
    lines = [
        f"<187>1 {timestamps.iso(time)[:26]}Z web-1 {service} 42 ID{number} "
        f'[shop@32473 number="{number}" note="a \\"b\\" \\]"] line {number}, ümläut\n'
        for number, time in enumerate(sent, first)
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall("".join(lines).encode())


def messages(count: int = COUNT) -> list[str]:
    return [f"line {number}, ümläut" for number in range(count)]


@pytest.mark.parametrize(
    ("protocol", "framing", "template"),
    [
        ("tcp", "octet-counted", "SyslogProtocol23Format"),
        ("tcp", "traditional", "SyslogProtocol23Format"),
        ("tcp", "octet-counted", "ForwardFormat"),
        ("tcp", "traditional", "TraditionalForwardFormat"),
        ("udp", "traditional", "SyslogProtocol23Format"),
    ],
)
def test_what_it_forwards_is_found(
    torpor: LocalTorpor, relay: Relay, tmp_path: Path, protocol: str, framing: str, template: str
) -> None:
    service = unique("rsyslog")
    # The traditional format has whole seconds.
    unit = timestamps.NANOSECONDS if template == "TraditionalForwardFormat" else MICROSECOND
    sent = moments(unit)
    with rsyslog(tmp_path, forward(relay.port, protocol, framing, template)) as port:
        send(port, service, sent)
        logs = found(torpor, service)
    assert times(logs) == sent
    assert [log["message"] for log in logs] == messages()
    assert {log["level"] for log in logs} == {"ERROR"}
    metadata = logs[8]["metadata"]
    assert metadata.items() >= {"host": "web-1", "facility": "local7", "severity": "err", "pid": "42"}.items()
    if template == "SyslogProtocol23Format":
        data = {"msgid": "ID8", "shop@32473.number": "8", "shop@32473.note": 'a "b" ]'}
        assert metadata.items() >= data.items()


def test_every_line_of_a_file_is_found_once_though_ingest_is_away_for_a_time(
    fresh: LocalTorpor, tmp_path: Path
) -> None:
    service, log = unique("imfile"), tmp_path / "app.log"
    log.touch()
    follow = f'input(type="imfile" file="{log}" tag="{service}:" severity="warn" ruleset="actions")'
    head = 'module(load="imfile")'
    begin = timestamps.now() // MICROSECOND * MICROSECOND

    def write(first: int) -> None:
        """A quarter of the lines, little by little."""
        for number in range(first, first + COUNT // 4):
            with log.open("a") as file:
                file.write(f"line {number}, ümläut\n")
            time.sleep(0.004)

    fresh.start()
    with running(Relay(tmp_path / "relay", fresh.url("ingest", ""))) as relay:
        actions = forward(relay.port, "tcp", "octet-counted", "SyslogProtocol23Format")
        with rsyslog(tmp_path, actions, f"{head}\n{follow}"):
            write(0)
            assert fresh.wait_for_total(COUNT // 4, service=service) == COUNT // 4
            assert fresh.stop() == 0
            gone = time.monotonic()
            write(COUNT // 4)
            relay.wait_for("cannot hand logs on to ingest; they wait")
            time.sleep(max(0.0, gone + AWAY_SECONDS - time.monotonic()))
            fresh.start()
            write(COUNT // 2)
            # From one moment to the next, with requests under way.
            fresh.kill()
            write(COUNT * 3 // 4)
            fresh.start()
            logs = found(fresh, service, seconds=60)
    assert sorted(log["message"] for log in logs) == sorted(messages())
    assert {log["level"] for log in logs} == {"WARN"}
    assert begin <= times(logs)[0] <= times(logs)[-1] <= timestamps.now()


def test_with_the_identity_of_the_readmes_rules_what_waits_in_rsyslog_for_the_relay_is_found_once(
    torpor: LocalTorpor, tmp_path: Path
) -> None:
    # Without one it may be found twice: while rsyslog waits, it sends the message that it tried first a second time.
    service, sent = unique("waiting"), moments(MICROSECOND)
    relay = Relay(tmp_path / "relay", torpor.url("ingest", ""))
    template, rules = of_the_readme(relay.port)
    with rsyslog(tmp_path, rules, template) as port:
        send(port, service, sent)
        time.sleep(1)
        with running(relay):
            logs = found(torpor, service)
    assert times(logs) == sent
    assert [log["message"] for log in logs] == messages()
    assert len({log["metadata"]["id"] for log in logs}) == COUNT
    assert logs[8]["metadata"]["shop@32473.number"] == "8"


def test_what_it_sends_by_omelasticsearch_is_found_once_though_ingest_is_away_for_a_time(
    fresh: LocalTorpor, tmp_path: Path
) -> None:
    needed("rsyslogd")
    if not any([*Path("/usr").glob(f"lib*/{folder}rsyslog/omelasticsearch.so")] for folder in ("", "*/")):
        missing("omelasticsearch is not installed (rsyslog-elasticsearch)")
    service, sent = unique("omelasticsearch"), moments(MICROSECOND)
    half = COUNT // 2
    fresh.start()
    with rsyslog(tmp_path, bulk(fresh.ports["ingest"]), ELASTICSEARCH) as port:
        send(port, service, sent[:half])
        assert fresh.wait_for_total(half, service=service) == half
        assert fresh.stop() == 0
        send(port, service, sent[half:], half)
        time.sleep(AWAY_SECONDS)
        fresh.start()
        # What a sender repeats is the same log.
        send(port, service, sent)
        send(port, f"{service}-last", sent[-1:])
        found(fresh, f"{service}-last", 1, seconds=60)
        logs = found(fresh, service)
    assert times(logs) == sent
    assert [log["message"] for log in logs] == messages()
    assert {log["level"] for log in logs} == {"ERROR"}
    assert logs[3]["metadata"] == {"id": f"logs/{service}-ID3", "host.name": "web-1", "index": "logs"}
