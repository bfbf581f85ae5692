"""The node's parameters: one table that declares and documents them, and one typed snapshot that the node reads."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from wildhands_ros.errors import ConfigError
from wildhands_ros.images import JPEG_QUALITY
from wildhands_ros.pipeline import PipelineConfig, config_from_dict

Value: TypeAlias = "bool | int | float | str | list[float]"

TRANSPORTS = ("raw", "compressed")
RECTIFIED = {"auto": None, "true": True, "false": False}


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    minimum, maximum: for numbers, inclusive; None: unbounded. choices: for strings. live: can be set while running.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = True

    def descriptor(self) -> ParameterDescriptor:
        """The same for ROS tools."""
        limits = f"one of: {', '.join(self.choices)}" if self.choices else ""
        descriptor = ParameterDescriptor(
            name=self.name, description=self.description, read_only=not self.live, additional_constraints=limits
        )
        if self.minimum is None and self.maximum is None:
            return descriptor
        if isinstance(self.default, int):
            low, high = (-(2**31) if self.minimum is None else self.minimum, self.maximum or 2**31 - 1)
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            low = -math.inf if self.minimum is None else self.minimum
            high = math.inf if self.maximum is None else self.maximum
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        return descriptor


NODE_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "image_transport", "raw",
        "raw: subscribe to `image`; compressed: to `image/compressed` (JPEG or PNG).", choices=TRANSPORTS, live=False,
    ),
    Parameter(
        "rectified", "auto",
        "Whether images are rectified (use P of camera_info, no distortion) or not (K and D). auto: yes if the image "
        "topic's name contains 'rect' or camera_info's roi.do_rectify is set.",
        choices=tuple(RECTIFIED), live=False,
    ),
    Parameter("publish_tf", True, "Send the wrists, and joints if `tf_joints`, of valid hands as TF frames."),
    Parameter("tf_joints", True, "Send all 21 joints of a hand as TF frames, not the wrist alone."),
    Parameter("tf_prefix", "", "Put before the names of the TF frames, such as 'robot1/'."),
    Parameter("publish_markers", True, "Publish markers for RViz while somebody subscribes to them."),
    Parameter("marker_mesh", True, "Markers include the hand's mesh."),
    Parameter("marker_lifetime", 0.5, "Seconds after which markers vanish by themselves; 0: never.", 0.0, 3600.0),
    Parameter("publish_annotated", True, "Publish the annotated image while somebody subscribes to it."),
    Parameter("jpeg_quality", JPEG_QUALITY, "Quality of the compressed annotated image.", 1, 100),
    Parameter("publish_vertices", False, "Hands carry the vertices of their mesh (9 KB a hand)."),
)  # fmt: skip
"""What concerns the topics; what concerns the hands themselves follows from `PipelineConfig`."""

_LIVE = ("min_score", "tracking.")
_RANGES: Mapping[str, tuple[float, float]] = {"min_score": (0.0, 1.0)}


@dataclass(frozen=True)
class NodeParameters:
    """All parameters at one moment, as the node reads them. Meanings: `NODE_PARAMETERS`."""

    image_transport: str
    rectified: bool | None
    publish_tf: bool
    tf_joints: bool
    tf_prefix: str
    publish_markers: bool
    marker_mesh: bool
    marker_lifetime: float
    publish_annotated: bool
    jpeg_quality: int
    publish_vertices: bool
    pipeline: PipelineConfig


def parameter_table() -> tuple[Parameter, ...]:
    """Every parameter of the node, in the order of the documentation."""
    return NODE_PARAMETERS + tuple(_pipeline_parameters(PipelineConfig, PipelineConfig(), ""))


def declare(node: Node, table: Iterable[Parameter] | None = None) -> NodeParameters:
    """Declares the table's parameters and reads what the user gave. Raises ConfigError for values without sense."""
    rows = parameter_table() if table is None else tuple(table)
    declared = node.declare_parameters("", [(row.name, row.default, row.descriptor()) for row in rows])
    return snapshot({parameter.name: parameter.value for parameter in declared})


def snapshot(values: Mapping[str, Value]) -> NodeParameters:
    """The typed form of parameter values by dotted name; names that are not in the table are ignored.

    Raises ConfigError naming the parameter and what it may be.
    """
    rows = {row.name: row for row in parameter_table()}
    complete = {name: values.get(name, row.default) for name, row in rows.items()}
    for name, row in rows.items():
        _require_allowed(row, complete[name])
    own = {row.name: complete.pop(row.name) for row in NODE_PARAMETERS}
    own["rectified"] = RECTIFIED[str(own["rectified"])]  # type: ignore[assignment]
    pipeline = config_from_dict(PipelineConfig, _nested(complete))
    return NodeParameters(**own, pipeline=pipeline)  # type: ignore[arg-type]


def _require_allowed(row: Parameter, value: Value) -> None:
    if row.choices and value not in row.choices:
        raise ConfigError(f"parameter {row.name} must be one of {', '.join(row.choices)}, not {value!r}")
    if row.name == "tf_prefix" and (str(value).startswith("/") or " " in str(value)):
        raise ConfigError(f"parameter tf_prefix must have no leading slash and no spaces, not {value!r}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low = -math.inf if row.minimum is None else row.minimum
        high = math.inf if row.maximum is None else row.maximum
        if not low <= value <= high:
            raise ConfigError(f"parameter {row.name} must lie between {low:g} and {high:g}, not {value}")


def _pipeline_parameters(kind: type, default: object, prefix: str) -> Iterator[Parameter]:
    """A row for every setting below a configuration dataclass; descriptions come from its docstring."""
    descriptions = _field_descriptions(kind)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name, value = f"{prefix}{field.name}", getattr(default, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _pipeline_parameters(typing.cast(type, hints[field.name]), value, f"{name}.")
            continue
        low, high = _RANGES.get(name, (None, None))
        yield Parameter(
            name,
            _ros_value(value, hints[field.name]),
            descriptions.get(field.name, f"See {kind.__name__}."),
            minimum=low,
            maximum=high,
            live=name.startswith(_LIVE),
        )


def _ros_value(value: object, hint: object) -> Value:
    """A default as a ROS parameter, which knows neither null (empty text) nor paths (text) nor tuples (lists)."""
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if value is None and optional:
        return ""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    assert isinstance(value, (bool, int, float, str)), f"no ROS parameter can hold {value!r}"
    return value


def _field_descriptions(kind: type) -> dict[str, str]:
    """Field name → text, from docstring lines such as `name: text` or `first, second: text` and their continuations."""
    result: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.cleandoc(kind.__doc__ or "").splitlines():
        start = re.match(r"([a-z]\w*(?:, [a-z]\w*)*): (.+)", line)
        if start:
            names = start[1].split(", ")
            result.update(dict.fromkeys(names, start[2]))
        elif line.startswith(" ") and names:
            result.update({name: f"{result[name]} {line.strip()}" for name in names})
        else:
            names = []
    return {name: text[0].upper() + text[1:] for name, text in result.items()}


def _nested(values: Mapping[str, Value]) -> dict[str, object]:
    """{'a.b': 1} → {'a': {'b': 1}}."""
    result: dict[str, object] = {}
    for name, value in values.items():
        *folders, leaf = name.split(".")
        place = result
        for folder in folders:
            place = typing.cast("dict[str, object]", place.setdefault(folder, {}))
        place[leaf] = value
    return result
