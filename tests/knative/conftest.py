"""A broker, and a store with logs in it, that tests share; and what they have to tell, in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.knative import backends

TOLD = pytest.StashKey[list[str]]()


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Have a line printed when all tests are done."""
    return request.config.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what tests said."""
    if told := config.stash.get(TOLD, []):
        terminalreporter.section("what was run")
        terminalreporter.write_line("\n".join(told))


@pytest.fixture(scope="session")
def kafka() -> Iterator[dict[str, str]]:
    """The settings for a broker."""
    with backends.broker() as settings:
        yield settings


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The settings for a ClickHouse with logs in it."""
    with backends.store(tmp_path_factory.mktemp("clickhouse")) as settings:
        yield settings


@pytest.fixture(scope="session")
def settings(kafka: dict[str, str], clickhouse: dict[str, str]) -> dict[str, str]:
    """The settings for both."""
    return {**kafka, **clickhouse}
