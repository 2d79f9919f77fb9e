"""The whole, as the end-to-end tests have it, and a relay before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import fresh, torpor
from tests.e2e.test_relay import Relay, running
from tests.support.local import LocalTorpor

__all__ = ["fresh", "relay", "torpor"]


@pytest.fixture
def relay(torpor: LocalTorpor, tmp_path: Path) -> Iterator[Relay]:
    """A relay that runs."""
    with running(Relay(tmp_path / "relay", torpor.url("ingest", ""))) as relay:
        yield relay
