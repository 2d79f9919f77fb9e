"""What tests of agents share: the programs they need, the times they send, and what is found of them."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import Any, NoReturn

import pytest

from functions.common import timestamps
from tests.support.local import LocalTorpor

COUNT = 500


def needed(program: str) -> str:
    """The path of a program. Without it the test is skipped, or under CI=true fails."""
    # An ordinary user's PATH may be without the folder of daemons.
    if path := shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"):
        return path
    missing(f"{program} is not installed")


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it under CI=true, where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def unique(name: str) -> str:
    """A service that no other test has."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def moments(unit: int, count: int = COUNT) -> list[int]:
    """Past times in nanoseconds, in whole units of so many, each of its own and with all digits that this leaves it."""
    step = max(1_000_003 // unit, 1) * unit
    first = (timestamps.now() - 60 * timestamps.NANOSECONDS) // unit * unit - count * step
    return [first + number * step for number in range(count)]


def found(torpor: LocalTorpor, service: str, count: int = COUNT, seconds: float = 30) -> list[dict[str, Any]]:
    """The logs of a service, oldest first; there must be `count` of them."""
    total = torpor.wait_for_total(count, seconds, service=service)
    assert total == count
    logs: list[dict[str, Any]] = torpor.search(service=service, limit=str(count))["logs"]
    return logs[::-1]


def times(logs: list[dict[str, Any]]) -> list[int]:
    """When the logs were written, in nanoseconds."""
    return [timestamps.parse(log["timestamp"]) for log in logs]
