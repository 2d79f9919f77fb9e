"""The host on real sockets."""

import asyncio
import socket

import httpx
import pytest

from functions.common.host import listen, server
from tests.unit.test_host import Probe


@pytest.fixture
def probe() -> Probe:
    return Probe()


async def test_a_real_server_ends_requests_under_way_before_the_function_stops(probe: Probe) -> None:
    with listen(0, "127.0.0.1") as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        http = server(probe)
        serving = asyncio.create_task(http.serve(sockets=[sock]))
        while not http.started:  # noqa: ASYNC110  it has no event for that
            await asyncio.sleep(0.001)
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            health = await client.get("/healthz")
            assert health.status_code == 200
            assert not {"server", "date"} & set(health.headers)
            slow = asyncio.create_task(client.get("/slow"))
            await probe.asked.wait()
            http.should_exit = True
            await asyncio.sleep(0.15)  # it looks every 0.1 s
            assert not serving.done()
            probe.gate.set()
            assert (await slow).text == "done"
        await serving
    assert probe.life == ["start", "request /slow", "answer /slow", "stop"]


def test_a_socket_listens_as_soon_as_it_is_made() -> None:
    with listen(0, "127.0.0.1") as sock, socket.create_connection(sock.getsockname(), timeout=5):
        pass


def test_without_a_host_a_socket_takes_ipv4_connections() -> None:
    with listen(0) as sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=5):
        pass
