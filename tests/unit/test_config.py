"""Settings come from variables, and a wrong one is named."""

import dataclasses
import os
from typing import Any

import pytest

from functions.common.config import ConfigError, environment, load, setting, settings


@dataclasses.dataclass(frozen=True)
class Inner:
    inner_port: int = setting(1, "Port")

    def __post_init__(self) -> None:
        if self.inner_port > 9:
            raise ValueError(f"INNER_PORT is {self.inner_port}: expected 0 to 9")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    name: str = setting("none", "Name")
    seconds: float = setting(0.5, "Seconds")
    shiny: bool = setting(False, "Shiny")


def test_without_variables_the_defaults_hold() -> None:
    assert load(Outer, {}) == Outer()


def test_variables_are_the_fields_in_upper_case() -> None:
    loaded = load(Outer, {"NAME": "x", "SECONDS": "2", "SHINY": "yes", "INNER_PORT": "7", "OTHER": "!"})
    assert loaded == Outer(Inner(7), "x", 2.0, True)


def test_an_empty_value_counts_as_not_set() -> None:
    assert load(Outer, {"NAME": "", "SECONDS": "", "SHINY": "", "INNER_PORT": ""}) == Outer()


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "Yes", "on"])
def test_true_has_several_names(text: str) -> None:
    assert load(Outer, {"SHINY": text}).shiny is True


@pytest.mark.parametrize("text", ["0", "false", "False", "no", "OFF"])
def test_false_has_several_names(text: str) -> None:
    assert load(Outer, {"SHINY": text}).shiny is False


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("INNER_PORT", "x", "int"),
        ("INNER_PORT", "1.5", "int"),
        ("SECONDS", "soon", "float"),
        ("SHINY", "maybe", "true or false"),
        ("INNER_PORT", "10", "0 to 9"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(variable: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable} is .*{text}.*: expected {expected}"):
        load(Outer, {variable: text})


def test_all_settings_are_listed_with_default_and_text() -> None:
    assert list(settings(Outer)) == [
        ("INNER_PORT", 1, "Port"),
        ("NAME", "none", "Name"),
        ("SECONDS", 0.5, "Seconds"),
        ("SHINY", False, "Shiny"),
    ]


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORPOR_TEST", "here")
    assert environment()["TORPOR_TEST"] == "here"
    assert environment() is os.environ


def declared() -> list[Any]:
    from functions.common.host import HostConfig
    from functions.common.migrate import SchemaConfig
    from functions.index.function import Config as IndexConfig
    from functions.ingest.intake import Config as IngestConfig

    return [HostConfig, SchemaConfig, IndexConfig, IngestConfig]


@pytest.mark.parametrize("config", declared(), ids=lambda config: f"{config.__module__}.{config.__name__}")
def test_every_setting_can_be_loaded_from_its_own_default(config: Any) -> None:
    env = {variable: str(default) for variable, default, _ in settings(config)}
    assert load(config, env) == config()


@pytest.mark.parametrize("config", declared(), ids=lambda config: f"{config.__module__}.{config.__name__}")
def test_settings_cannot_be_changed_later(config: Any) -> None:
    loaded = load(config, {})
    field = dataclasses.fields(loaded)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(loaded, field, None)
