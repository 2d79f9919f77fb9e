"""A pod that is to end, under load: no request fails, and nothing that was acknowledged is lost.

Three times a function, or with CAMPAIGN=long fifty times. Each time takes 40 s, mostly waiting; where every command
can have a network of its own, PODS of them run side by side (default: one a function), else one after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.knative.apart import apart, can
from tests.knative.rendering import FUNCTIONS
from tests.knative.tools import tool
from tests.support.local import ROOT

TIMES = 50 if os.environ.get("CAMPAIGN") == "long" else 3
PODS = int(os.environ.get("PODS") or len(FUNCTIONS))
SECONDS = TIMES * len(FUNCTIONS) * 100


@pytest.fixture(scope="module")
def stops() -> Iterator[dict[str, list[Future[subprocess.CompletedProcess[str]]]]]:
    """The runs of all functions, begun."""
    tool("queue"), tool("kustomize")
    with ThreadPoolExecutor(PODS if can() else 1) as pool:
        # In turn, so that no function waits for all of another.
        runs: dict[str, list[Future[subprocess.CompletedProcess[str]]]] = {name: [] for name in FUNCTIONS}
        for _ in range(TIMES):
            for name in FUNCTIONS:
                runs[name].append(pool.submit(stop, name))
        yield runs
        pool.shutdown(cancel_futures=True)


def stop(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """One run, in a network of its own if there can be one."""
    command = [sys.executable, "-m", "tests.knative.stop", name, *options]
    return subprocess.run(apart(*command) if can() else command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_pod_that_is_to_end_under_load_fails_no_request_and_loses_nothing(
    name: str, stops: dict[str, list[Future[subprocess.CompletedProcess[str]]]], say: Callable[[str], None]
) -> None:
    for number, run in enumerate(stops[name], 1):
        done = run.result()
        assert done.returncode == 0, f"{name}, time {number} of {TIMES}: {done.stderr[-2000:]}\n{done.stdout[-3000:]}"
        say(f"{name} {number}/{TIMES}: {done.stdout.splitlines()[-1]}")


def test_a_function_that_does_not_wait_for_the_routers_would_be_noticed() -> None:
    tool("queue"), tool("kustomize")
    done = stop("ingest", "--without-hook")
    assert done.returncode != 0
    assert "failed: ['AssertionError" in done.stdout
    assert "502" in done.stdout
