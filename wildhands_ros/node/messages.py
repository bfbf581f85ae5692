"""Hands as ROS messages: pure functions, no node needed."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Pose
from numpy.typing import NDArray
from std_msgs.msg import Header

from wildhands_ros.hands import Hand, Side
from wildhands_ros.msg import HandPose, HandPoseArray
from wildhands_ros.node.transforms import quaternions

FloatArray = NDArray[np.float64]

SIDES = {Side.LEFT: HandPose.SIDE_LEFT, Side.RIGHT: HandPose.SIDE_RIGHT}

_SECOND = 10**9
_LONGEST = (2**31 - 1) * _SECOND  # what the seconds of a Duration can hold


def hand_pose_array(
    hands: Sequence[Hand],
    header: Header,
    image_size: tuple[int, int],
    *,
    latency_ns: int = 0,
    processing_ns: int = 0,
    with_vertices: bool = False,
) -> HandPoseArray:
    """All hands of one image.

    header: the image's own. image_size: width and height in pixels. latency_ns: from the image's stamp to now, on the
    node's clock; negative (a stamp of another clock, ahead of ours) becomes 0.
    """
    width, height = image_size
    return HandPoseArray(
        header=header,
        hands=[hand_pose(hand, with_vertices=with_vertices) for hand in hands],
        image_width=width,
        image_height=height,
        latency=duration(max(latency_ns, 0)),
        processing_time=duration(processing_ns),
    )


def hand_pose(hand: Hand, *, with_vertices: bool = False) -> HandPose:
    """One hand; see msg/HandPose.msg for units, frames and order. Vertices only where asked for and there."""
    message = HandPose(
        side=SIDES[hand.side],
        side_probability=float(hand.side_probability),
        track_id=int(hand.track_id),
        score=float(hand.score),
        box=np.asarray(hand.box, np.float32),
        keypoints=hand.keypoints.astype(np.float32).reshape(-1),
        wrist=pose_message(*hand.wrist),
        joints=points(hand.joints),
        mano_pose=hand.pose.astype(np.float32).reshape(-1),
        mano_betas=hand.betas.astype(np.float32),
        mano_translation=hand.translation.astype(np.float32),
        hand_model=hand.hand_model,
        estimator=hand.estimator,
        valid=bool(hand.valid),
        jump=bool(hand.jump),
        smoothed=bool(hand.smoothed),
        reprojection_error=float(hand.reprojection_error),
        expected_error=float(hand.expected_error),
        grasp=HandPose.GRASP_UNKNOWN,
    )
    if with_vertices and hand.vertices is not None:
        message.vertices = float_array(hand.vertices)
    if hand.grasp is not None:
        message.grasp = int(hand.grasp[0])
        message.grasp_probabilities = float_array(hand.grasp[1])
    return message


def pose_message(place: FloatArray, turn: FloatArray) -> Pose:
    """place (3,) in metres, turn (3, 3) rotation matrix."""
    message = Pose()
    message.position.x, message.position.y, message.position.z = place.tolist()
    q = message.orientation
    q.x, q.y, q.z, q.w = quaternions(turn[None])[0].tolist()
    return message


def points(coordinates: FloatArray) -> list[Point]:
    """(N, 3) → points."""
    return [Point(x=x, y=y, z=z) for x, y, z in coordinates.tolist()]


def float_array(values: FloatArray) -> array[float]:
    """Any shape → the flat float32 array that a message field float32[] takes without converting."""
    result = array("f")
    result.frombytes(np.ascontiguousarray(values, dtype=np.float32).tobytes())
    return result


def duration(nanoseconds: int) -> Duration:
    """Integer nanoseconds, cut to what the message can hold (68 years)."""
    seconds, rest = divmod(min(max(int(nanoseconds), -_LONGEST), _LONGEST), _SECOND)
    return Duration(sec=seconds, nanosec=rest)


def duration_s(duration: Duration) -> float:
    """A message's Duration in seconds."""
    return float(duration.sec + duration.nanosec * 1e-9)


def header_at(stamp_ns: int, frame_id: str) -> Header:
    """stamp_ns: integer nanoseconds."""
    return Header(stamp=Time(sec=stamp_ns // _SECOND, nanosec=stamp_ns % _SECOND), frame_id=frame_id)


def stamp_ns(stamp: Time) -> int:
    """A message's stamp in integer nanoseconds."""
    return int(stamp.sec) * _SECOND + int(stamp.nanosec)
