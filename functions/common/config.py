"""Settings from environment variables: the one file that reads the environment.

A function declares its settings as a frozen dataclass whose fields are made by `setting`. The variable is the
field's name in upper case. A value of the wrong type stops the start with an error that names the variable.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class ConfigError(Exception):
    """A setting has a value that cannot be used."""


def setting(default: Any, text: str) -> Any:
    """Declare a setting with its default and the sentence that the README shows for it."""
    return dataclasses.field(default=default, metadata={"text": text})


def environment() -> Mapping[str, str]:
    """The process's environment variables."""
    return os.environ


def load(config: type[T], env: Mapping[str, str]) -> T:
    """Fill the dataclass `config` from `env`; nested dataclasses are filled from the same mapping.

    Raises ConfigError naming the variable whose value has the wrong type. An empty value counts as not set.
    """
    hints = get_type_hints(config)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # T is a dataclass by contract
        kind: Any = hints[field.name]
        if dataclasses.is_dataclass(kind):
            values[field.name] = load(kind, env)  # type: ignore[arg-type]  # a class, never an instance
        elif text := env.get(field.name.upper(), ""):
            values[field.name] = _cast(field.name.upper(), kind, text)
    try:
        return config(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def settings(config: type[Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield (variable, default, text) of every setting, nested ones included."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings(hints[field.name])
        else:
            yield field.name.upper(), field.default, field.metadata["text"]


def _cast(variable: str, kind: type, text: str) -> object:
    if kind is bool:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise ConfigError(f"{variable} is {text!r}: expected true or false")
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{variable} is {text!r}: expected {kind.__name__}") from None
