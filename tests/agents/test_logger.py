"""logger of util-linux, by every transport and format that it has."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from functions.common import timestamps
from tests.agents.agent import COUNT, found, needed, times, unique
from tests.e2e.test_relay import Relay
from tests.support.local import LocalTorpor

RFC5424 = [
    "--rfc5424",
    *("--msgid", "ID7", "--sd-id", "shop@32473", "--sd-param", 'note="a \\"b\\" \\]"'),
    *("--sd-param", 'trace_id="0af7651916cd43dd8448eb211c80319c"'),
]
BURST = 50


@pytest.mark.parametrize("transport", ["tcp", "tcp counted", "udp"])
@pytest.mark.parametrize("form", ["rfc5424", "rfc3164"])
def test_what_it_sends_is_found(torpor: LocalTorpor, relay: Relay, transport: str, form: str) -> None:
    service = unique("logger")
    command = [needed("logger"), "--server", "127.0.0.1", "--port", str(relay.port), "--tag", service, "--id=4711"]
    command += ["--priority", "local3.err", "--udp" if transport == "udp" else "--tcp"]
    command += ["--octet-count"] if transport == "tcp counted" else []
    command += RFC5424 if form == "rfc5424" else ["--rfc3164"]
    begin = timestamps.now()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "TZ": "UTC"})
    assert process.stdin
    for first in range(0, COUNT, BURST):
        process.stdin.write("".join(f"line {n}, ümläut\n" for n in range(first, first + BURST)).encode())
        process.stdin.flush()
        time.sleep(0.02)  # a burst by UDP may be more than the system keeps for the relay
    process.stdin.close()
    assert process.wait(20) == 0
    logs = found(torpor, service)
    assert sorted(log["message"] for log in logs) == sorted(f"line {number}, ümläut" for number in range(COUNT))
    assert {log["level"] for log in logs} == {"ERROR"}
    metadata = logs[0]["metadata"]
    assert metadata.items() >= {"facility": "local3", "severity": "err", "pid": "4711"}.items()
    assert metadata["host"]
    if form == "rfc5424":
        assert begin // 1000 * 1000 <= times(logs)[0] <= times(logs)[-1] <= timestamps.now()
        assert any(time_ % 1_000_000 for time_ in times(logs))
        assert metadata.items() >= {"msgid": "ID7", "shop@32473.note": 'a "b" ]', "timeQuality.tzKnown": "1"}.items()
        assert {log["trace_id"] for log in logs} == {"0af7651916cd43dd8448eb211c80319c"}
    else:  # in whole seconds
        assert begin - timestamps.NANOSECONDS <= times(logs)[0] <= times(logs)[-1] <= timestamps.now()
