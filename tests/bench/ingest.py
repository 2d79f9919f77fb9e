"""How many logs a second ingest takes in per core, in each protocol: `make bench-ingest`.

The server is a process of its own, before a Kafka that takes everything at once; its CPU time is read from the
kernel, so that what else the machine does hardly counts. The reference is the same bytes taken apart into records and
nothing more, in this process, in the same round.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import grpc

from tests.bench.bodies import Request, requests

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def post(port: int, request: Request, until: float, times: list[float]) -> int:
    """Send over one connection until the time is up; return the requests that were answered by a 2xx."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {request.path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {len(request.body)}\r\n"
    message = (head + "".join(f"{k}: {v}\r\n" for k, v in request.headers.items()) + "\r\n").encode() + request.body
    done = 0
    while time.perf_counter() < until:
        started = time.perf_counter()
        writer.write(message)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"{request.name}: {answer!r} {await reader.read(1000)!r}")
        length = answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or b"0"))
        times.append(time.perf_counter() - started)
        done += 1
    writer.close()
    await writer.wait_closed()
    return done


async def call(channel: grpc.aio.Channel, request: Request, until: float, times: list[float]) -> int:
    """Call one after another until the time is up; return how many."""
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{request.path}")
    done = 0
    while time.perf_counter() < until:
        started = time.perf_counter()
        await method(request.body)
        times.append(time.perf_counter() - started)
        done += 1
    return done


async def drive(pid: int, ports: tuple[int, int], request: Request, seconds: float) -> tuple[float, float, float]:
    """Logs a CPU second of the server, logs a second by the clock, and the 99th percentile of the answers in ms."""
    times: list[float] = []
    spent, started = cpu_seconds(pid), time.perf_counter()
    until = started + seconds
    if request.is_grpc:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
            calls = (call(channel, request, until, times) for _ in range(request.connections))
            done = sum(await asyncio.gather(*calls))
    else:
        done = sum(await asyncio.gather(*(post(ports[0], request, until, times) for _ in range(request.connections))))
    elapsed, spent = time.perf_counter() - started, cpu_seconds(pid) - spent
    logs = done * request.logs
    return logs / max(spent, 1 / _TICKS), logs / elapsed, sorted(times)[len(times) * 99 // 100] * 1000


def parse_alone(request: Request) -> float:
    """Logs a CPU second if they are taken apart into records and nothing more."""
    assert request.parse
    started = time.process_time()
    count = 0
    while time.process_time() - started < SECONDS / 4:
        count += sum(1 for _ in request.parse(request.body))
    return count / (time.process_time() - started)


def show(request: Request, figures: list[tuple[float, float, float]], alone: list[float]) -> None:
    """A row of the table."""
    rates = [rate for rate, _, _ in figures]
    median = statistics.median(rates)
    spread = (max(rates) - min(rates)) / median
    clock = statistics.median(rate for _, rate, _ in figures)
    p99 = statistics.median(latency for _, _, latency in figures)
    bar = f"{request.bar:>9,} {'held' if median >= request.bar else 'MISSED':>7}" if request.bar else " " * 17
    ratio = f"{median / statistics.median(alone):8.2f}" if alone else " " * 8
    print(f"{request.name:32}{median:12,.0f} {spread:6.0%} {bar}{ratio} {clock:12,.0f} {p99:8.1f}", flush=True)


def main() -> None:
    """Measure every protocol in turn, ROUNDS times, and print a table."""
    everything = requests()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout and server.stdin
    http, rpc = map(int, server.stdout.readline().split())
    figures: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    alone: dict[str, list[float]] = defaultdict(list)
    try:
        for request in everything:  # the first requests load modules
            asyncio.run(drive(server.pid, (http, rpc), request, 0.3))
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            for request in everything:
                figures[request.name].append(asyncio.run(drive(server.pid, (http, rpc), request, SECONDS)))
                if request.parse:
                    alone[request.name].append(parse_alone(request))
    finally:
        server.stdin.close()
        server.wait(10)
    size = len(everything[0].body) / everything[0].logs
    print(f"medians of {ROUNDS} rounds of {SECONDS:.0f} s; generated logs of {size:.0f} bytes as JSON; no Kafka")
    print(f"{'':32}{'per core':>12} {'spread':>6} {'bar':>9} {'':7}{'of parse':>8} {'by clock':>12} {'p99 ms':>8}")
    for request in everything:
        show(request, figures[request.name], alone[request.name])


if __name__ == "__main__":
    main()
