"""Sends an input: by an HTTP client where it is HTTP, by a socket where it is not."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import httpx

from tests.input.case import Answer, Case
from tests.support.local import LocalTorpor

HANG_SECONDS = 10.0
_SETTLE_SECONDS = 0.15
_RETRIES = 5
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


class Client:
    """Asks the functions of one Torpor."""

    def __init__(self, torpor: LocalTorpor) -> None:
        self._ports = torpor.ports
        limits = httpx.Limits(max_connections=40, max_keepalive_connections=20)
        self._http = httpx.AsyncClient(trust_env=False, timeout=HANG_SECONDS, limits=limits)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, case: Case) -> Answer:
        """The answer to an input; a 503 that says when to come again is asked again, as a client would."""
        for _ in range(_RETRIES):
            started = time.perf_counter()
            try:
                answer = await asyncio.wait_for(self._once(case), 3 * HANG_SECONDS)
            except (TimeoutError, httpx.TimeoutException):
                return Answer(0, hung=True, seconds=time.perf_counter() - started)
            if answer.status != 503 or "retry-after" not in answer.headers:
                break
            await asyncio.sleep(float(answer.headers["retry-after"]) / 2)
        return answer

    async def get(self, function: str, path: str, parameters: dict[str, str]) -> bytes:
        """The body of an answer that must be 200."""
        answer = await self._http.get(f"http://127.0.0.1:{self._ports[function]}{path}", params=parameters)
        answer.raise_for_status()
        return answer.content

    async def _once(self, case: Case) -> Answer:
        return await (self._by_socket(case) if case.raw else self._by_http(case))

    async def _by_http(self, case: Case) -> Answer:
        started = time.perf_counter()
        url = f"http://127.0.0.1:{self._ports[case.function]}{case.path}"
        headers: Any = dict(case.headers)
        try:
            answer = await self._http.request(case.method, url, content=case.body, headers=headers)
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            return Answer(0, repr(error).encode(), seconds=time.perf_counter() - started)
        return Answer(answer.status_code, answer.content, answer.headers, time.perf_counter() - started)

    async def _by_socket(self, case: Case) -> Answer:
        started = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._ports[case.function])
        data = b""
        try:
            reading = asyncio.create_task(_read(reader, case.answers))
            try:
                for part in case.raw:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(case.pause)
                if case.close:
                    writer.write_eof()
            except OSError:  # it may answer and hang up before it has read everything
                pass
            data, hung = await reading
        finally:
            writer.close()
        answers = split(data)
        status, body = answers[0] if answers else (0, data)
        more = tuple(status for status, _ in answers[1:])
        return Answer(status, body, {}, time.perf_counter() - started, more, hung)


async def _read(reader: asyncio.StreamReader, answers: int) -> tuple[bytes, bool]:
    """What comes until `answers` answers are there and a moment has passed, and whether none came in time."""
    data, deadline = b"", time.monotonic() + (HANG_SECONDS if answers else 0.6)
    while True:
        enough = answers and len(split(data)) >= answers
        wait = _SETTLE_SECONDS if enough else deadline - time.monotonic()
        try:
            part = await asyncio.wait_for(reader.read(1 << 16), max(wait, 0.01))
        except TimeoutError:
            return data, bool(answers) and not enough
        except OSError:
            return data, False
        if not part:
            return data, False
        data += part


def split(data: bytes) -> list[tuple[int, bytes]]:
    """The complete answers in what came over a connection."""
    found: list[tuple[int, bytes]] = []
    while data.startswith(b"HTTP/1."):
        head, separator, rest = data.partition(b"\r\n\r\n")
        if not separator:
            break
        status = int(head[9:12])
        length, chunked = _LENGTH.search(head), b"transfer-encoding: chunked" in head.lower()
        if chunked:
            body, separator, rest = rest.partition(b"0\r\n\r\n")
            if not separator:
                break
        else:
            size = int(length[1]) if length else 0 if status in (100, 204, 304) else len(rest)
            if len(rest) < size:
                break
            body, rest = rest[:size], rest[size:]
        if status != 100:
            found.append((status, body))
        data = rest
    return found
