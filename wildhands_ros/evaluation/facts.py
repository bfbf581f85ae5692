"""What is known of a sample beside its labels, as groups by which errors are broken down."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from wildhands_ros.samples import HIDDEN, Sample

UNKNOWN = ""
"""Group of samples that do not say."""


def describe(sample: Sample) -> dict[str, str]:
    """The group of a sample under each of `BREAKDOWNS`; `UNKNOWN` where the sample does not tell."""
    return {name: group(sample) for name, group in BREAKDOWNS.items()}


def describe_estimate(expected_error: float, valid: bool | None) -> dict[str, str]:
    """The group of an estimated hand under each of `OF_ESTIMATES`. expected_error: metres, NaN where unknown; valid:
    None where nothing was estimated."""
    return {
        "expected error": _bin(1e3 * expected_error, (0, 12, 15, 18, 22, 27), "{}–{} mm", "over {} mm"),
        "valid": UNKNOWN if valid is None else "valid" if valid else "not valid",
    }


def off_axis_angle(sample: Sample) -> float:
    """Degrees between the optical axis and the middle of the hand (of its crop, where it has no joints)."""
    if sample.joints is not None:
        x, y, z = sample.joints.mean(axis=0)
    else:
        x, y, z = sample.camera.unproject(np.array(sample.center))
    return math.degrees(math.atan2(math.hypot(x, y), z))


def _angle(sample: Sample) -> str:
    return _bin(off_axis_angle(sample), (0, 15, 30, 45, 60), "{}–{}°", "over {}°")


def _distance(sample: Sample) -> str:
    if sample.joints is None:
        return UNKNOWN
    return _bin(float(np.linalg.norm(sample.joints[0])), (0, 0.3, 0.45, 0.6, 0.8), "{}–{} m", "over {} m")


def _occlusion(sample: Sample) -> str:
    """How much of the hand something else hides."""
    share = sample.tags.get("occlusion")
    if not isinstance(share, (int, float)):
        if sample.mask is None:
            return UNKNOWN
        hidden, seen = np.count_nonzero(sample.mask == HIDDEN), np.count_nonzero(sample.mask == 255)
        if hidden + seen == 0:
            return UNKNOWN
        share = hidden / (hidden + seen)
    return _bin(100 * float(share), (0, 2, 15, 35, 60), "{}–{} %", "over {} %")


def _visible(sample: Sample) -> str:
    """Joints in the picture that nothing but the hand hides."""
    if sample.visible is None:
        return UNKNOWN
    count = int(sample.visible.sum())
    return "all joints" if count == 21 else _bin(count, (0, 7, 14, 21), "{}–{} joints", "", inclusive=True)


def _size(sample: Sample) -> str:
    """Edge of the crop in pixels of its picture: small ones are blurred."""
    return _bin(sample.extent, (0, 100, 200, 400), "{}–{} px", "over {} px")


def _tag(name: str, without: str) -> Callable[[Sample], str]:
    """Groups by a tag's value; `without` names the group where it is false or empty. Floats are taken for shares."""

    def group(sample: Sample) -> str:
        if name not in sample.tags:
            return UNKNOWN
        value = sample.tags[name]
        if isinstance(value, bool):
            return name if value else without
        if isinstance(value, float):  # also a whole one: 0.0 belongs with 0.1
            return _bin(value, (0, 0.2, 0.4, 0.6, 0.8), "{}–{}", "over {}")
        return str(value) or without

    return group


def _held(sample: Sample) -> str:
    if "held" not in sample.tags:
        return UNKNOWN
    return "an object" if sample.tags["held"] else "nothing"


BREAKDOWNS: Mapping[str, Callable[[Sample], str]] = {
    "angle off the axis": _angle,
    "distance": _distance,
    "occlusion": _occlusion,
    "visible joints": _visible,
    "size of the crop": _size,
    "side": lambda sample: sample.side.value,
    "holds": _held,
    "object": _tag("held", "nothing"),
    "pose": _tag("pose", "unnamed"),
    "glove": _tag("glove", "bare"),
    "skin": _tag("skin", "unnamed"),
    "lens": _tag("lens", "unnamed"),
    "light": _tag("light", "unnamed"),
    "hands": _tag("hands", "unnamed"),
}
"""Name of a breakdown → the group of a sample in it."""

OF_ESTIMATES = ("expected error", "valid")
"""Breakdowns by what the estimator says of its own hands."""


def _bin(value: float, edges: Sequence[float], between: str, above: str, *, inclusive: bool = False) -> str:
    if math.isnan(value):  # of a label that is not finite
        return UNKNOWN
    if value < edges[0]:
        return above.replace("over", "under").format(f"{edges[0]:g}")
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        if value < high:
            return between.format(f"{low:g}", f"{high - 1 if inclusive else high:g}")
    return above.format(f"{edges[-1]:g}")


def group_order(groups: Sequence[str]) -> list[str]:
    """The groups by their first number, then by name; unknown last."""

    def key(group: str) -> tuple[bool, bool, float, int, str]:
        # names are the data's own words: ".", "²" and "1.5.2" are no numbers, but may begin like one
        found = re.match(r"(under |over )?(-?[0-9]+(?:\.[0-9]+)?)", group)
        if found is None:
            return group == UNKNOWN, True, 0.0, 0, group
        return False, False, float(found[2]), {"under ": -1, None: 0, "over ": 1}[found[1]], group

    return sorted(set(groups), key=key)
