"""The node's parameters: one table that declares and documents them, and one typed snapshot that the node reads."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from wildhands_ros.detection.config import THRESHOLDS
from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.known_length import LONGEST
from wildhands_ros.images import JPEG_QUALITY
from wildhands_ros.paths import expanded
from wildhands_ros.pipeline import ESTIMATORS, PipelineConfig
from wildhands_ros.settings import config_from_dict

Value: TypeAlias = "bool | int | float | str | list[float]"

TRANSPORTS = ("raw", "compressed")
RECTIFIED = {"auto": None, "true": True, "false": False}
DEFAULT_CAPTURE_DIR = "~/.ros/wildhands_captures"
_LONGEST_BOND_PERIOD_S = 10.0


class When(str, Enum):
    """When a parameter may be set.

    LIVE: at any time, in effect from the next image on. CONFIGURE: while the node is unconfigured, in effect when it is
    configured. START: only with the node's start; read-only afterwards.
    """

    LIVE = "live"
    CONFIGURE = "configure"
    START = "start"


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    minimum, maximum: for numbers, inclusive; None: unbounded. step: for whole numbers, from the minimum on; 0: all.
    choices: for strings.
    """

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    step: int = 0
    choices: tuple[str, ...] = ()
    when: When = When.LIVE

    def descriptor(self) -> ParameterDescriptor:
        """The same for ROS tools."""
        limits = f"one of: {', '.join(self.choices)}" if self.choices else ""
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.description,
            read_only=self.when is When.START,
            dynamic_typing="true" in self.choices,  # which YAML and `ros2 param set` take for a truth value
            additional_constraints="; ".join(text for text in (limits, _WHEN_IN_WORDS[self.when]) if text),
        )
        if self.minimum is None and self.maximum is None:
            return descriptor
        if isinstance(self.default, int):
            low = -(2**31) if self.minimum is None else self.minimum
            high = 2**31 - 1 if self.maximum is None else self.maximum
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=self.step)]
        else:
            low = -math.inf if self.minimum is None else self.minimum
            high = math.inf if self.maximum is None else self.maximum
            descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
        return descriptor


_WHEN_IN_WORDS = {
    When.LIVE: "",
    When.CONFIGURE: "May be set while the node is unconfigured.",
    When.START: "",  # read_only says it
}

NODE_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "autostart", True,
        "Configure and activate by itself. false: wait for `ros2 lifecycle`, a launch file or a lifecycle manager.",
        when=When.START,
    ),
    Parameter(
        "bond_heartbeat_period", 0.0,
        "Seconds between the heartbeats of a bond with a lifecycle manager, which Nav2's expects to be 0.1 unless its "
        "bond_timeout is 0; needs bondpy. 0: no bond.",
        0.0, _LONGEST_BOND_PERIOD_S, when=When.CONFIGURE,
    ),
    Parameter(
        "image_transport", "raw",
        "raw: subscribe to `image`; compressed: to `image/compressed` (JPEG or PNG).",
        choices=TRANSPORTS, when=When.CONFIGURE,
    ),
    Parameter(
        "rectified", "auto",
        "Whether images are rectified (use P of camera_info, no distortion) or not (K and D). auto: yes if the image "
        "topic is called image_rect or the like.",
        choices=tuple(RECTIFIED), when=When.CONFIGURE,
    ),
    Parameter(
        "target_frame", "",
        "TF frame in which hands, markers, points and TF frames are published, at the image's stamp. Empty: the "
        "camera's own frame, and nothing waits for TF.",
        when=When.CONFIGURE,
    ),
    Parameter(
        "target_frame_timeout", 0.1,
        "Seconds that a result waits for the transform to `target_frame` at its image's stamp before it is dropped.",
        0.0, 5.0,
    ),
    Parameter("publish_tf", True, "Send the wrists, and joints if `tf_joints`, of valid hands as TF frames."),
    Parameter("tf_joints", True, "Send all 21 joints of a hand as TF frames, not the wrist alone."),
    Parameter("tf_prefix", "", "Put before the names of the TF frames, such as 'robot1/'."),
    Parameter("publish_markers", True, "Publish markers for RViz while somebody subscribes to them."),
    Parameter("marker_mesh", True, "Markers include the hand's mesh."),
    Parameter("marker_lifetime", 0.5, "Seconds after which markers vanish by themselves; 0: never.", 0.0, 3600.0),
    Parameter("publish_points", False, "Publish the meshes' vertices as a point cloud while somebody subscribes."),
    Parameter("publish_annotated", True, "Publish the annotated image while somebody subscribes to it."),
    Parameter("jpeg_quality", JPEG_QUALITY, "Quality of the compressed annotated image.", 1, 100),
    Parameter("publish_vertices", False, "Hands carry the vertices of their mesh (9 KB a hand)."),
    Parameter(
        "capture_dir", DEFAULT_CAPTURE_DIR,
        "Folder for what ~/capture keeps, absolute or below the home folder (~/...); made when it is needed.",
    ),
    Parameter("capture_timeout", 5.0, "Seconds that ~/capture waits for the next image.", 0.1, 60.0),
)  # fmt: skip
"""What concerns the topics; what concerns the hands themselves follows from `PipelineConfig`."""

_LIVE = (
    "min_score", "max_distance", "tracking.", "estimation.hand_length", "estimation.largest_expected_error",
    *(f"detection.{name}" for name in THRESHOLDS),
)  # fmt: skip
_CHOICES: Mapping[str, tuple[str, ...]] = {"estimation.estimator": ESTIMATORS}
_STEPS: Mapping[str, int] = {"upright_rotation": 90}
_RANGES: Mapping[str, tuple[float, float]] = {
    "min_score": (0, 1),
    "max_distance": (0, 1000),
    "upright_rotation": (0, 270),
    "detection.threads": (1, 256),
    "detection.max_hands": (1, 32),
    "detection.wanted_hands": (1, 32),
    "detection.palm_threshold": (1e-3, 0.999),
    "detection.score_threshold": (1e-3, 0.999),
    "detection.keep_threshold": (1e-3, 0.999),
    "detection.box_margin": (0, 10),
    "detection.wearer_prior": (0, 10),
    "detection.candidates": (1, 256),
    "detection.search_views": (1, 256),
    "detection.patrol_every": (1, 10000),
    "estimation.box_factor": (0, 10),
    "estimation.hand_length": (0, LONGEST),
    "estimation.largest_expected_error": (1e-3, 1),
    "estimation.looks": (1, 3),
    "estimation.threads": (0, 1024),
    "estimation.refinement.pixels": (1e-3, 1),
    "estimation.refinement.outlier": (0.1, 100),
    "estimation.refinement.turn": (0.1, 180),
    "estimation.refinement.bend": (0.1, 180),
    "estimation.refinement.size": (1e-3, 10),
    "estimation.refinement.depth": (1e-3, 1),
    "estimation.refinement.place": (1e-3, 10),
    "estimation.refinement.least_presence": (1e-3, 0.999),
    "estimation.refinement.largest_error": (1e-3, 10),
    "estimation.refinement.largest_strain": (0.1, 999),
    "estimation.tolerance_mm": (1e-3, 1000),
    "tracking.min_cutoff": (1e-3, 1e3),
    "tracking.beta": (0, 1e4),
    "tracking.max_gap_s": (1e-3, 3600),
    "tracking.reach_m": (1e-3, 100),
    "tracking.max_speed_m_s": (1e-3, 1e4),
    "tracking.max_turn_rad_s": (1e-3, 1e4),
}
"""What ROS tools show as sliders and refuse at once; the configuration's own checks come on top."""


@dataclass(frozen=True)
class NodeParameters:
    """All parameters at one moment, as the node reads them. Meanings: `NODE_PARAMETERS`."""

    autostart: bool
    bond_heartbeat_period: float
    image_transport: str
    rectified: bool | None
    target_frame: str
    target_frame_timeout: float
    publish_tf: bool
    tf_joints: bool
    tf_prefix: str
    publish_markers: bool
    marker_mesh: bool
    marker_lifetime: float
    publish_points: bool
    publish_annotated: bool
    jpeg_quality: int
    publish_vertices: bool
    capture_dir: Path
    capture_timeout: float
    pipeline: PipelineConfig


def parameter_table() -> tuple[Parameter, ...]:
    """Every parameter of the node, in the order of the documentation."""
    return NODE_PARAMETERS + tuple(_pipeline_parameters(PipelineConfig, PipelineConfig(), ""))


def declare(node: Node) -> NodeParameters:
    """Declares every parameter and reads what the user gave. Raises ConfigError for values without sense."""
    declared = node.declare_parameters("", [(row.name, row.default, row.descriptor()) for row in parameter_table()])
    return snapshot({parameter.name: parameter.value for parameter in declared})


def snapshot(values: Mapping[str, Value]) -> NodeParameters:
    """The typed form of parameter values by dotted name; names that are not in the table are ignored.

    Raises ConfigError naming the parameter and what it may be.
    """
    rows = {row.name: row for row in parameter_table()}
    complete = {name: values.get(name, row.default) for name, row in rows.items()}
    for name, row in rows.items():
        if row.choices and isinstance(complete[name], bool):
            complete[name] = str(complete[name]).lower()
        _require_allowed(row, complete[name])
    own = {row.name: complete.pop(row.name) for row in NODE_PARAMETERS}
    own["capture_dir"] = expanded(str(own["capture_dir"]))  # type: ignore[assignment]
    own["rectified"] = RECTIFIED[str(own["rectified"])]  # type: ignore[assignment]
    pipeline = config_from_dict(PipelineConfig, _nested(complete))
    return NodeParameters(**own, pipeline=pipeline)  # type: ignore[arg-type]


def refused_now(before: NodeParameters, after: NodeParameters) -> tuple[str, ...]:
    """The names of parameters that differ and may only be set while the node is unconfigured."""
    old, new = _flat(before), _flat(after)
    return tuple(row.name for row in parameter_table() if row.when is not When.LIVE and old[row.name] != new[row.name])


def _flat(values: NodeParameters) -> dict[str, object]:
    """By dotted name."""
    result: dict[str, object] = {}

    def add(prefix: str, value: object) -> None:
        for field in dataclasses.fields(value):  # type: ignore[arg-type]
            item = getattr(value, field.name)
            if dataclasses.is_dataclass(item):
                add(f"{prefix}{field.name}.", item)
            else:
                result[f"{prefix}{field.name}"] = item

    add("", values)
    return {name.removeprefix("pipeline."): value for name, value in result.items()}


def _require_allowed(row: Parameter, value: Value) -> None:
    if row.choices and value not in row.choices:
        raise ConfigError(f"parameter {row.name} must be one of {', '.join(row.choices)}, not {value!r}")
    if row.name in ("tf_prefix", "target_frame") and (str(value).startswith("/") or " " in str(value)):
        raise ConfigError(f"parameter {row.name} must have no leading slash and no spaces, not {value!r}")
    if row.name == "capture_dir" or (row.name == "estimation.cache_dir" and value):  # the node writes there
        _require_folder(row.name, str(value))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low = -math.inf if row.minimum is None else row.minimum
        high = math.inf if row.maximum is None else row.maximum
        if not low <= value <= high:
            raise ConfigError(f"parameter {row.name} must lie between {low:g} and {high:g}, not {value}")


def _require_folder(name: str, value: str) -> None:
    # one's own home may be unknown (no HOME), which matters only when something is written there
    path = Path("/", value[2:]) if value.startswith("~/") else expanded(value)
    if not path.is_absolute() or ".." in path.parts or "\0" in value:
        raise ConfigError(f"parameter {name} must be an absolute path (or ~/...) without '..', not {value!r}")


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
            step=_STEPS.get(name, 0),
            choices=_CHOICES.get(name, ()),
            when=When.LIVE if name.startswith(_LIVE) else When.CONFIGURE,
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
