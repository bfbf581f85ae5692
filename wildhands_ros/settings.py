"""Settings as frozen dataclasses: their types checked, filled from files and parameters, and written down again."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import numbers
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from wildhands_ros.errors import ConfigError
from wildhands_ros.paths import expanded
from wildhands_ros.yaml_files import read_yaml

_T = TypeVar("_T")
_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", Path: "a path"}


def check_types(settings: Any, prefix: str = "") -> None:
    """For `__post_init__`: converts every field to its annotated type. Raises ConfigError with its dotted path.

    Text becomes a path or the member of an enum, a whole number a float, numpy's numbers plain ones.
    """
    hints = typing.get_type_hints(type(settings))
    for f in dataclasses.fields(settings):
        value = _convert(f"{prefix}{f.name}", hints[f.name], getattr(settings, f.name))
        object.__setattr__(settings, f.name, value)


def config_from_dict(kind: type[_T], values: Mapping[str, Any], prefix: str = "") -> _T:
    """A configuration dataclass from nested mappings (YAML); what is not named keeps its default.

    Raises ConfigError, naming the value by its dotted path, for unknown names and wrong types.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"settings are names with values, not {str(values)[:80]!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, 1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known are {', '.join(sorted(fields))}"
            raise ConfigError(f"unknown setting '{path}': {hint}")
        if hints[name] is Path and value == "" and _has_default(fields[name]):  # "not set", as below
            continue
        arguments[name] = _convert(path, hints[name], value)
    return kind(**arguments)


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)


def config_to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `config_from_dict`: nested plain values."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def read_settings(path: Path) -> dict[str, Any]:
    """Names and values from a YAML file. Raises ConfigError where there are none."""
    values = read_yaml(path, ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings: expected names and values")
    if any(isinstance(value, dict) and "ros__parameters" in value for value in values.values()):
        raise ConfigError(
            f"{path} is a ROS parameter file, for the node's --params-file: expected are nested settings, without "
            "node names and ros__parameters, and those of the pipeline alone (docs/recordings.md)"
        )
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return config_to_dict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _convert(path: str, kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        if isinstance(value, typing.cast(type, kind)):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"'{path}' holds settings of its own, not the value {value!r}")
        return config_from_dict(typing.cast(type, kind), value, f"{path}.")
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None or value == "":  # ROS parameters have no null: empty stands for "not set"
            return None
        (kind,) = [k for k in typing.get_args(kind) if k is not type(None)]
        return _convert(path, kind, value)
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        item = typing.get_args(kind)[0]
        return tuple(_convert(f"{path}[{i}]", item, v) for i, v in enumerate(value))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _member(path, kind, value)
    if kind is Path and isinstance(value, (str, Path)):
        if "\0" in str(value):  # where the system takes paths it would be a ValueError
            raise ConfigError(f"'{path}' must be a path, and no path contains NUL: {str(value)!r}")
        return expanded(value)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"'{path}' is too large a number") from None
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    hint = _hint(value) if kind is float and isinstance(value, str) else ""
    raise ConfigError(f"'{path}' must be {_WORDS.get(kind, 'a list')}, not {value!r}{hint}")


def _hint(text: str) -> str:
    """How to write a number that YAML takes for text, for want of a point or of the exponent's sign; else nothing."""
    found = re.fullmatch(r"([-+]?[0-9]+(?:\.[0-9]*)?)[eE]([-+]?[0-9]+)", text)
    if found is None:
        return ""
    digits, exponent = found.groups()
    return f", which YAML takes for text: write {digits}{'' if '.' in digits else '.0'}e{int(exponent):+d}"


def _member(path: str, kind: type[enum.Enum], value: Any) -> enum.Enum:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(item.value) for item in kind)
        raise ConfigError(f"unknown {path} {value!r}: known are {known}") from None
