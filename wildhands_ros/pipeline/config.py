"""The one typed configuration, filled alike from ROS parameters, YAML and the command line."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from wildhands_ros.detection import DetectorConfig, default_models_dir
from wildhands_ros.errors import ConfigError
from wildhands_ros.tracking import TrackingConfig

ESTIMATORS = ("landmarks",)
_T = TypeVar("_T")


@dataclass(frozen=True)
class EstimationConfig:
    """How boxes become hands.

    estimator: 'landmarks', the baseline that fits the hand model to detected landmarks.
    mano_dir: folder with the user's MANO_RIGHT.pkl and MANO_LEFT.pkl; None takes the open hand model.
    mesh: whether hands carry their vertices.
    """

    estimator: str = "landmarks"
    mano_dir: Path | None = None
    mesh: bool = True

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ConfigError(f"unknown estimator '{self.estimator}': known are {', '.join(ESTIMATORS)}")


@dataclass(frozen=True)
class PipelineConfig:
    """Everything that decides what comes out for a picture.

    models_dir: where `wildhands models fetch` put the detector's models.
    min_score: hands less probable than this are left out, 0 to 1.
    """

    models_dir: Path = field(default_factory=default_models_dir)
    min_score: float = 0.5
    detection: DetectorConfig = field(default_factory=DetectorConfig)
    estimation: EstimationConfig = field(default_factory=EstimationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"min_score must lie between 0 and 1, not {self.min_score}")


def config_from_dict(kind: type[_T], values: Mapping[str, Any], prefix: str = "") -> _T:
    """A configuration dataclass from nested mappings (YAML); what is not named keeps its default.

    Raises ConfigError, naming the value by its dotted path, for unknown names and wrong types.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known are {', '.join(sorted(fields))}"
            raise ConfigError(f"unknown setting '{path}': {hint}")
        arguments[name] = _convert(path, hints[name], value)
    return kind(**arguments)


def config_to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `config_from_dict`: nested plain values."""
    result: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            result[f.name] = config_to_dict(value)
        elif isinstance(value, Path):
            result[f.name] = str(value)
        else:
            result[f.name] = list(value) if isinstance(value, tuple) else value
    return result


def _convert(path: str, kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"'{path}' holds settings of its own, not the value {value!r}")
        return config_from_dict(typing.cast(type, kind), value, f"{path}.")
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        if value is None or value == "":  # ROS parameters have no null: empty stands for "not set"
            return None
        (kind,) = [k for k in typing.get_args(kind) if k is not type(None)]
        return _convert(path, kind, value)
    if kind is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        item = typing.get_args(kind)[0]
        return tuple(_convert(f"{path}[{i}]", item, v) for i, v in enumerate(value))
    raise ConfigError(f"'{path}' must be a {getattr(kind, '__name__', kind)}, not {value!r}")
