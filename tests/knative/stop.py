"""`python -m tests.knative.stop FUNCTION [--without-hook]`: end a pod under load as Kubernetes does.

Kubelet calls the preStop hook that Knative gives the function, which waits on queue-proxy, and sends queue-proxy
SIGTERM at the same time. Requests keep coming until the routers have noticed. When 30 s went by without a new one, the
hook returns, and the function gets its SIGTERM. One request is under way all that time, and longer where it may.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.knative.backends import broker, store
from tests.knative.load import LOADS, Load
from tests.knative.pod import QUIET_SECONDS, Pod, pod

CLIENTS = 4
_BEFORE_SECONDS = 1.0
_NOTICED_SECONDS, _END_SECONDS = 5, 60
_LATE_SECONDS = QUIET_SECONDS + 3
"""Begun as the last request, it ends this long after; the function has got its SIGTERM three seconds before."""


class Failed(Exception):
    """A request failed, or something ended in another way than it should."""


class Clients:
    """Threads that send one request after another, until they are told to stop or one of them fails."""

    def __init__(self, load: Load) -> None:
        self.count, self.failures, self._load = 0, list[str](), load
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while not self._stop.is_set():
            self._try(self._load.request)

    def late(self, seconds: float) -> threading.Thread:
        """One request that takes long, begun now."""
        thread = threading.Thread(target=self._try, args=(lambda: self._load.late(seconds),))
        thread.start()
        return thread

    def stop(self) -> None:
        """Return when every request is answered but the late one."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _try(self, request: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            request()
        except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
            self.failures.append(f"{type(error).__name__} after {time.monotonic() - started:.1f} s: {error}")
            self._stop.set()
        with self._lock:
            self.count += 1


def stopped(made: Pod, load: Load, after: float, *, hook_too: bool = True) -> str:
    """End the pod under load; the routers notice `after` so many seconds. Raises Failed, else says what happened.

    Without the hook the function gets its SIGTERM at once, as in a pod that Knative did not make.
    """
    clients = Clients(load)
    time.sleep(_BEFORE_SECONDS)
    before, told = clients.count, time.monotonic()
    hook = made.end()
    if not hook_too:
        made.function.terminate()
    _expect(_unready(made), f"the probe still says ready after {_NOTICED_SECONDS} s: no router would take the pod out")
    time.sleep(after)
    late = clients.late(_LATE_SECONDS)
    time.sleep(0.2)
    clients.stop()
    _expect(not clients.failures, f"failed: {clients.failures}")
    meanwhile = clients.count - before
    hook.join(_END_SECONDS)
    waited = time.monotonic() - told
    _expect(not hook.is_alive(), f"the preStop hook has not returned after {waited:.1f} s")
    _expect(waited > after + QUIET_SECONDS, f"the preStop hook did not wait for quiet: it took {waited:.1f} s")
    asked, late_too = time.monotonic(), late.is_alive()
    made.function.terminate()
    statuses = made.wait()
    ended = time.monotonic()
    late.join()
    _expect(not clients.failures, f"failed: {clients.failures}\n{made.log()[-2000:]}")
    _expect(statuses == (0, 0), f"function and queue-proxy ended with {statuses}\n{made.log()[-2000:]}")
    grace = made.spec["timeoutSeconds"]
    _expect(ended - told < grace, f"it took {ended - told:.1f} s, and is killed after {grace} s")
    return (
        f"{clients.count} requests, {meanwhile} after SIGTERM, 0 failed; {ended - told:.0f} s of {grace} s, "
        f"{ended - asked:.1f} s of them the function's{', a request under way' if late_too else ''}; {load.verify()}"
    )


def _unready(made: Pod) -> bool:
    deadline = time.monotonic() + _NOTICED_SECONDS
    while made.ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _expect(true: bool, what: str) -> None:
    if not true:
        raise Failed(what)


@contextlib.contextmanager
def needs(name: str, directory: Path) -> Iterator[dict[str, str]]:
    """What a function needs, as settings."""
    with contextlib.ExitStack() as stack:
        settings: dict[str, str] = {}
        if name.startswith("ingest") or name == "index":
            settings |= stack.enter_context(broker())
        if name in ("index", "query", "export"):
            settings |= stack.enter_context(store(directory))
        yield settings


def main(name: str, *options: str) -> None:
    """Print what happened, or end with what went wrong."""
    # What is acknowledged is compared with all that is there, so each run has a broker and a store of its own.
    with tempfile.TemporaryDirectory(prefix="torpor-stop-") as directory, needs(name, Path(directory)) as settings:
        try:
            with pod(name, settings) as made:
                load, after = LOADS[name](made, settings), random.uniform(0.5, 3)
                print(stopped(made, load, after, hook_too="--without-hook" not in options), flush=True)
        except (Failed, AssertionError) as error:
            print(error, flush=True)
            sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
