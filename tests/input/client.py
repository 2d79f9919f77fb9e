"""Sends an input: by an HTTP client where it is HTTP, by a socket where it is not."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import grpc
import httpx

from tests.input.case import Answer, Case
from tests.support.local import LocalTorpor

HANG_SECONDS = 10.0
_SETTLE_SECONDS = 0.15
_RETRIES = 5
_DIRECT = [("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1), ("grpc.max_metadata_size", 1 << 20)]
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNIMPLEMENTED: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 0,
    grpc.StatusCode.CANCELLED: 0,
}
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)


class Client:
    """Asks the functions of one Torpor."""

    def __init__(self, torpor: LocalTorpor) -> None:
        self._ports = torpor.ports
        limits = httpx.Limits(max_connections=40, max_keepalive_connections=20)
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{torpor.ports['grpc']}", _DIRECT)
        self._http = httpx.AsyncClient(trust_env=False, timeout=HANG_SECONDS, limits=limits)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()
        await self._channel.close()

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
        if case.function == "grpc" and case.path != "socket":
            return await self._by_grpc(case)
        return await (self._by_socket(case) if case.raw else self._by_http(case))

    async def _by_grpc(self, case: Case) -> Answer:
        started = time.perf_counter()
        messages: Any = list(case.raw) or [case.body]
        call: Any = self._channel
        metadata = list(case.headers.items())
        try:
            if case.path.endswith("Stream"):
                body = await call.stream_unary(case.path)(iter(messages), metadata=metadata)
            elif case.path.endswith("StreamLogBatches"):
                answers = call.stream_stream(case.path)(iter(messages), metadata=metadata)
                body = b"".join([answer async for answer in answers])
            else:
                body = await call.unary_unary(case.path)(messages[0], metadata=metadata, timeout=HANG_SECONDS)
        except grpc.aio.AioRpcError as error:
            return _told(error, time.perf_counter() - started)
        return Answer(200, body, seconds=time.perf_counter() - started)

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


def _told(error: grpc.aio.AioRpcError, seconds: float) -> Answer:
    """A status of gRPC as HTTP would tell it. What may be sent again brings details with it."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    status = _STATUSES.get(error.code(), 500)
    headers: dict[str, str] = {}
    if isinstance(details, bytes) and b"RetryInfo" in details:
        status, headers = 503, {"retry-after": "1"}
    hung = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return Answer(status, (error.details() or "").encode(), headers, seconds, hung=hung)


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
