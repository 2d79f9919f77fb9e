"""The forwarder: sends what waits in a spool to ingest, batch after batch, until ingest has it.

A batch is sent under the same Idempotency-Key until it is answered, so however often that is, its logs count once. What
ingest refuses for good is kept in a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import random
import ssl
from collections.abc import Callable

import httpx
import msgspec

from functions.edge import refused
from functions.edge.spool import Batch, Spool, SpoolError

log = logging.getLogger(__name__)

FIRST_WAIT, MAX_WAIT = 0.2, 30.0
"""Seconds between two tries of a batch, at first and at most, if ingest asks for no other by Retry-After."""
MAX_ASKED = 300.0
"""Seconds that a Retry-After may ask for."""
PATH = "/api/v1/ingest"
_REFUSED = (400, 413, 415)
_NOT_INGEST = (404, 405)
_TIMEOUT = httpx.Timeout(30, connect=5)


def endpoint(url: str, name: str = "INGEST_URL") -> str:
    """Where the ingest at `url` takes logs, which may be that address already.

    Raises ValueError, with the `name` of the setting, if it is no address of HTTP.
    """
    address = url.rstrip("/").removesuffix(PATH) + PATH
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"{name} is {url!r}: expected http://host:port")
    return address


class _Error(msgspec.Struct):
    line: int
    error: str
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.error}" if self.field else self.error


class _Answer(msgspec.Struct):
    accepted: int = 0
    rejected: int = 0
    errors: list[_Error] = []
    detail: str = ""


class _Taken(_Answer, kw_only=True):
    """An answer 200: without these two it is not ingest that answers."""

    accepted: int
    rejected: int


class _Failure(Exception):
    """The batch has to be sent again; `wait` is what the answer asks for in seconds, if it does."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


class Forwarder:
    """Sends a spool's batches to the ingest at `url`, one at a time, oldest first.

    `sent` and `refused` count logs since the start; `failing` is why the last try failed, or empty. `on_change` is
    called when one of these has changed.
    """

    def __init__(
        self,
        spool: Spool,
        url: str,
        client: httpx.AsyncClient | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.sent = 0
        self.refused = 0
        self.failing = ""
        self._spool = spool
        self._url = endpoint(url)
        self._client = client
        self._on_change = on_change
        self._woken = asyncio.Event()
        self._hurried = asyncio.Event()
        self._emptied = asyncio.Event()

    def wake(self) -> None:
        """Say that a batch was put."""
        self._emptied.clear()
        self._woken.set()

    async def run(self) -> None:
        """Send until cancelled."""
        # The certificate authorities are the system's; OpenSSL's SSL_CERT_FILE names others.
        tls = ssl.create_default_context()
        own = contextlib.nullcontext(self._client) if self._client else None
        async with own or httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT, verify=tls) as client:
            while True:
                self._woken.clear()
                while batch := self._spool.head():
                    await self._deliver(client, batch)
                self._emptied.set()
                await self._woken.wait()

    async def drain(self, timeout: float | None = None) -> bool:
        """Try at once, and for `timeout` seconds or as long as it takes, to empty the spool, while `run` runs.

        Return whether it is empty.
        """
        if self._spool.batches:
            self._emptied.clear()
            self._hurried.set()
            self.wake()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout)
        return not self._spool.batches

    async def _deliver(self, client: httpx.AsyncClient, batch: Batch) -> None:
        packed = await asyncio.to_thread(gzip.compress, batch.body, 1)
        wait = FIRST_WAIT
        while True:
            try:
                self._settle(batch, await self._post(client, batch.key, packed))
            except _Failure as failure:
                self._fails(str(failure))
                pause = wait if failure.wait is None else min(max(failure.wait, FIRST_WAIT), MAX_ASKED)
            else:
                return self._works()
            # Spread, so that many forwarders do not come back at the same moment, and never before they were asked to.
            hurried = await self._pause(pause * random.uniform(1, 1.25))
            wait = FIRST_WAIT if hurried else min(wait * 2, MAX_WAIT)

    async def _pause(self, seconds: float) -> bool:
        """Wait; return whether that was cut short, because there is no more time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurried.wait(), seconds)
        hurried = self._hurried.is_set()
        self._hurried.clear()
        return hurried

    async def _post(self, client: httpx.AsyncClient, key: str, packed: bytes) -> httpx.Response:
        headers = {"content-type": "application/x-ndjson", "content-encoding": "gzip", "idempotency-key": key}
        try:
            response = await client.post(self._url, content=packed, headers=headers)
        except httpx.RequestError as error:
            raise _Failure(f"{type(error).__name__} {error}".strip()) from None
        if response.status_code != 200 and response.status_code not in _REFUSED:
            asked = response.headers.get("retry-after", "")
            wait = float(asked) if asked.isascii() and asked.isdecimal() else None
            answer = f"{response.status_code} {response.text[:300]}".strip()
            if response.status_code in _NOT_INGEST:
                raise _Failure(f"this is not ingest: check INGEST_URL / --url; it answers {answer}", wait)
            raise _Failure(answer, wait)
        return response

    def _settle(self, batch: Batch, response: httpx.Response) -> None:
        """Drop the batch, once what was refused of it is in the file. Raises _Failure if it cannot be."""
        taken = response.status_code == 200
        try:
            answer: _Answer = msgspec.json.decode(response.content, type=_Taken if taken else _Answer)
        except msgspec.DecodeError:
            if taken:
                raise _Failure(f"the answer 200 is not one of ingest: {response.text[:100]}") from None
            answer = _Answer()
        rejected = answer.rejected if taken else answer.rejected or batch.count
        try:
            if rejected:
                self._keep(batch, answer, f"{response.status_code} {answer.detail}".strip())
            self._spool.drop(batch.key)
        except (OSError, SpoolError) as error:
            raise _Failure(str(error)) from None
        self.sent += answer.accepted
        self.refused += rejected

    def _keep(self, batch: Batch, answer: _Answer, reason: str) -> None:
        reasons = {error.line: str(error) for error in answer.errors}
        if not reasons or len(reasons) < answer.rejected:
            # Not all that were refused are named: it may be any of the batch.
            reasons = dict.fromkeys(range(1, batch.body.count(b"\n") + 2), reason) | reasons
        file = refused.file_of(self._spool)
        kept = refused.keep(file, batch, reasons)
        log.error("ingest refused logs; they are kept in a file", extra={"logs": kept, "file": str(file)})

    def _fails(self, text: str) -> None:
        if not self.failing:
            log.warning("cannot hand logs on to ingest; they wait", extra={"url": self._url, "error": text})
        self.failing = text
        self._on_change()

    def _works(self) -> None:
        if self.failing:
            log.info("ingest takes logs again", extra={"url": self._url, "waiting": self._spool.count})
        self.failing = ""
        self._on_change()
