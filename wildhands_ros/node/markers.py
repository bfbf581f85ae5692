"""Hands as RViz markers."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from wildhands_ros.drawing import FINGER_COLORS, SIDE_COLORS
from wildhands_ros.hands import FINGERS, SKELETON, Hand, Side
from wildhands_ros.node.messages import duration, points

FloatArray = NDArray[np.float64]

Key: TypeAlias = tuple[str, int]
"""Namespace and id, which together name a marker in RViz."""

_BONE_WIDTH_M = 0.004
_JOINT_SIZE_M = 0.009
_MESH_OPACITY = 0.6
_INVALID_OPACITY = 0.25  # of everything that belongs to a hand that is not valid

_MARK = np.array([[-7.3e-290, 3.1e-291, -1.9e-292]])  # metres: no joint and no vertex lies there

_BONES, _ALL_JOINTS = np.array(SKELETON).reshape(-1), np.arange(21)

_Places: TypeAlias = tuple[FloatArray, NDArray[np.integer]]
"""Coordinates (N, 3) in metres, and which of them the points of a marker are."""

_FINGER_OF = {joint: finger for finger, joints in FINGERS.items() for joint in joints}


def hand_markers(
    hands: Sequence[Hand],
    header: Header,
    faces: Mapping[Side, NDArray[np.integer]],
    shown: frozenset[Key] = frozenset(),
    *,
    mesh: bool = True,
    lifetime_s: float = 0.5,
) -> tuple[MarkerArray, frozenset[Key]]:
    """Skeleton, joints and mesh of each hand, and the deletion of what was `shown` before and is gone.

    Namespaces `left/skeleton`, `left/joints`, `left/mesh` and the same on the right; the id is the hand's track id, or
    its place in the list where it has none. Markers vanish by themselves after `lifetime_s` (0: never), so that a
    picture of hands does not outlive its node. Hands that are not valid are faint. Hands with coordinates that are not
    finite are left out, as RViz refuses them.

    Returns the message and the keys that are shown now.
    """
    markers, places = _markers(hands, header, faces if mesh else {}, lifetime_s)
    for marker, (coordinates, order) in zip(markers, places, strict=True):
        named = points(coordinates)
        marker.points = [named[i] for i in order.tolist()]  # corners share their points
    return _with_deletions(markers, header, shown)


def serialized_hand_markers(
    hands: Sequence[Hand],
    header: Header,
    faces: Mapping[Side, NDArray[np.integer]],
    shown: frozenset[Key] = frozenset(),
    *,
    mesh: bool = True,
    lifetime_s: float = 0.5,
) -> tuple[bytes, frozenset[Key]]:
    """The same message as `hand_markers`, serialised, in a tenth of the time; empty where there is nothing to send.

    A mesh has thousands of corners, each a Python object to make and to take apart again. Here the message is
    serialised with one point a marker, and the coordinates are put in its place: in CDR, the format of ROS messages on
    the wire, a point is three doubles, a sequence its length and its elements, and since a point's size is a multiple
    of the largest alignment, nothing that follows moves out of alignment (OMG DDS-XTypes 1.3, 7.4.3: XCDR version 1).
    """
    markers, places = _markers(hands, header, faces if mesh else {}, lifetime_s)
    for marker in markers:
        marker.points = points(_MARK)
    message, keys = _with_deletions(markers, header, shown)
    if not message.markers:
        return b"", keys
    filled = _with_points(serialize_message(message), [coordinates[order] for coordinates, order in places])
    if filled is None:  # a middleware that serialises in another way
        filled = serialize_message(hand_markers(hands, header, faces, shown, mesh=mesh, lifetime_s=lifetime_s)[0])
    return filled, keys


def _markers(
    hands: Sequence[Hand], header: Header, faces: Mapping[Side, NDArray[np.integer]], lifetime_s: float
) -> tuple[list[Marker], list[_Places]]:
    """The markers of the hands without points, and what each one's points are."""
    markers: list[Marker] = []
    places: list[_Places] = []
    for place, hand in enumerate(hands):
        if not np.isfinite(hand.joints).all():
            continue
        marker_id = hand.track_id if hand.track_id >= 0 else place
        markers += [_skeleton(hand, header, marker_id), _joints(hand, header, marker_id)]
        places += [(hand.joints, _BONES), (hand.joints, _ALL_JOINTS)]
        if hand.vertices is not None and hand.side in faces and np.isfinite(hand.vertices).all():
            markers.append(_mesh(hand, header, marker_id))
            places.append((hand.vertices, faces[hand.side].reshape(-1)))
    for marker in markers:
        marker.lifetime = duration(round(lifetime_s * 1e9))
    return markers, places


def _with_deletions(markers: list[Marker], header: Header, shown: frozenset[Key]) -> tuple[MarkerArray, frozenset[Key]]:
    keys = frozenset((marker.ns, marker.id) for marker in markers)
    gone = [Marker(header=header, ns=ns, id=i, action=Marker.DELETE) for ns, i in sorted(shown - keys)]
    return MarkerArray(markers=gone + markers), keys


def _with_points(serialized: bytes, sequences: Sequence[FloatArray]) -> bytes | None:
    """A message in which the sequences that hold the single point `_MARK` hold the points (N, 3) of `sequences`.

    None where the message is not laid out as CDR.
    """
    *pieces, rest = serialized.split(_MARK.tobytes())
    if len(pieces) != len(sequences) or any(piece[-4:] != struct.pack("=I", 1) for piece in pieces):
        return None
    filled: list[bytes] = []
    for piece, coordinates in zip(pieces, sequences, strict=True):
        filled += [piece[:-4], struct.pack("=I", len(coordinates)), coordinates.astype(np.float64).tobytes()]
    return b"".join([*filled, rest])


def _skeleton(hand: Hand, header: Header, marker_id: int) -> Marker:
    marker = _marker(hand, header, marker_id, "skeleton", Marker.LINE_LIST)
    marker.scale.x = _BONE_WIDTH_M
    colors = _joint_colors(hand.side, hand.valid)
    marker.colors = [colors[child] for _, child in SKELETON for _ in range(2)]
    return marker


def _joints(hand: Hand, header: Header, marker_id: int) -> Marker:
    marker = _marker(hand, header, marker_id, "joints", Marker.SPHERE_LIST)
    marker.scale.x = marker.scale.y = marker.scale.z = _JOINT_SIZE_M
    marker.colors = list(_joint_colors(hand.side, hand.valid))
    return marker


def _mesh(hand: Hand, header: Header, marker_id: int) -> Marker:
    """Without its points."""
    marker = _marker(hand, header, marker_id, "mesh", Marker.TRIANGLE_LIST)
    marker.scale.x = marker.scale.y = marker.scale.z = 1.0
    marker.color.a *= _MESH_OPACITY
    return marker


def _marker(hand: Hand, header: Header, marker_id: int, part: str, kind: int) -> Marker:
    marker = Marker(header=header, ns=f"{hand.side.value}/{part}", id=marker_id, type=kind, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.color = _color(SIDE_COLORS[hand.side], 1.0 if hand.valid else _INVALID_OPACITY)
    return marker


@lru_cache
def _joint_colors(side: Side, valid: bool) -> tuple[ColorRGBA, ...]:
    """One for each of the 21 joints: its finger's, and the side's for the wrist. Not to be changed."""
    opacity = 1.0 if valid else _INVALID_OPACITY
    of_finger = {name: _color(rgb, opacity) for name, rgb in FINGER_COLORS[side].items()}
    return _color(SIDE_COLORS[side], opacity), *(of_finger[_FINGER_OF[joint]] for joint in range(1, 21))


def _color(rgb: tuple[int, int, int], opacity: float) -> ColorRGBA:
    red, green, blue = (value / 255 for value in rgb)
    return ColorRGBA(r=red, g=green, b=blue, a=opacity)
