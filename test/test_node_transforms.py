"""TF: the stand-in for tf2's buffer against known answers, hands in another frame, and the node's target_frame."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time as Stamp
from domains import own_domain
from geometry_msgs.msg import TransformStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from node_bench import Bench, camera_info, plain, raw_image
from node_fakes import FakePipeline, fake_pipeline, make_hand
from numpy.typing import NDArray
from rclpy.clock import Clock as RosClock
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from transforms3d.quaternions import quat2mat
from visualization_msgs.msg import MarkerArray

from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Side
from wildhands_ros.msg import HandPoseArray
from wildhands_ros.node import transform_buffer
from wildhands_ros.node.diagnostics import Drop, Statistics
from wildhands_ros.node.executor import NodeExecutor
from wildhands_ros.node.inputs import CameraCache, InputTopics
from wildhands_ros.node.outlets import Published
from wildhands_ros.node.parameters import snapshot
from wildhands_ros.node.transform_buffer import Sieve, TransformBuffer, TransformError, TransformLookup
from wildhands_ros.node.wildhands_node import WildhandsNode
from wildhands_ros.node.worker import Worker
from wildhands_ros.rigid import RigidTransform, moved_hand
from wildhands_ros.rotations import exp_so3, matrix_from_quaternion, quaternion_from_matrix

SECOND = 10**9


def rigid(turn: tuple[float, float, float], place: tuple[float, float, float]) -> RigidTransform:
    """turn: a rotation vector."""
    return RigidTransform(exp_so3(np.array(turn)), np.array(place, dtype=float))


def stamped(parent: str, child: str, pose: RigidTransform, at_ns: int = 0) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = Stamp(sec=at_ns // SECOND, nanosec=at_ns % SECOND)
    place, turn = message.transform.translation, message.transform.rotation
    place.x, place.y, place.z = pose.translation.tolist()
    turn.x, turn.y, turn.z, turn.w = quaternion_from_matrix(pose.rotation).tolist()
    return message


def found(buffer: TransformBuffer, target: str, source: str, at_ns: int) -> RigidTransform:
    lookup = TransformLookup(Sieve(buffer), _NoListener())
    return lookup(target, source, at_ns, 0.0)


class _NoListener:
    def unregister(self) -> None:
        pass


def same(a: RigidTransform, b: RigidTransform, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(a.rotation, b.rotation, atol=atol)
    np.testing.assert_allclose(a.translation, b.translation, atol=atol)


CAMERA_IN_MAP = rigid((-math.pi / 2, 0, 0), (10, 20, 1.5))


# --- rigid transforms -----------------------------------------------------------------------------------------------

vectors = st.tuples(*[st.floats(-2, 2)] * 3)
rigids = st.builds(rigid, vectors, vectors)


@settings(max_examples=50)
@given(rigids, rigids, vectors)
def test_transforms_are_applied_one_after_the_other_and_undone(a: RigidTransform, b: RigidTransform, x: Any) -> None:
    points = np.array([x])
    np.testing.assert_allclose((a @ b).apply(points), a.apply(b.apply(points)), atol=1e-9)
    np.testing.assert_allclose(a.inverse().apply(a.apply(points)), points, atol=1e-9)


def test_halfway_is_half_the_way_and_half_the_turn() -> None:
    start, end = rigid((0, 0, 0.2), (1, 0, 0)), rigid((0, 0, 1.0), (3, 2, 0))
    same(start.towards(end, 0.5), rigid((0, 0, 0.6), (2, 1, 0)))
    same(start.towards(end, 0.0), start)
    same(start.towards(end, 1.0), end)


# --- the buffer -----------------------------------------------------------------------------------------------------


def _robot() -> TransformBuffer:
    """map → odom → base (moving: 1 m/s along x, turning 0.4 rad/s about z) → head (static) → camera (static)."""
    buffer = TransformBuffer()
    buffer.set_transform(stamped("map", "odom", rigid((0, 0, 0), (5, 0, 0)), 0))
    buffer.set_transform(stamped("map", "odom", rigid((0, 0, 0), (5, 0, 0)), 10 * SECOND))
    for second in range(0, 10, 2):
        pose = rigid((0, 0, 0.4 * second), (second, 0, 0))
        buffer.set_transform(stamped("odom", "base", pose, second * SECOND))
    buffer.set_transform_static(stamped("base", "head", rigid((0, 0.3, 0), (0.1, 0, 1.5))))
    buffer.set_transform_static(stamped("head", "camera", rigid((-math.pi / 2, 0, 0), (0, 0, 0.1))))
    return buffer


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1.9, 2.0, 7.3])
def test_an_interpolated_chain_gives_the_known_pose(seconds: float) -> None:
    buffer = _robot()
    at_ns = round(seconds * SECOND)
    base = rigid((0, 0, 0.4 * seconds), (seconds, 0, 0))
    head, camera = rigid((0, 0.3, 0), (0.1, 0, 1.5)), rigid((-math.pi / 2, 0, 0), (0, 0, 0.1))
    expected = rigid((0, 0, 0), (5, 0, 0)) @ base @ head @ camera
    same(found(buffer, "map", "camera", at_ns), expected)
    same(found(buffer, "camera", "map", at_ns), expected.inverse())
    same(found(buffer, "head", "camera", at_ns), camera)
    same(found(buffer, "camera", "camera", at_ns), rigid((0, 0, 0), (0, 0, 0)))


def test_branches_meet_in_their_common_parent() -> None:
    buffer = _robot()
    hand = rigid((1, 0, 0), (0, 0.5, 0))
    buffer.set_transform_static(stamped("base", "arm", hand))
    head, camera = rigid((0, 0.3, 0), (0.1, 0, 1.5)), rigid((-math.pi / 2, 0, 0), (0, 0, 0.1))
    # the moving frames above both do not matter, also where they are not known
    same(found(buffer, "arm", "camera", 99 * SECOND), hand.inverse() @ head @ camera)


def test_nothing_is_extrapolated() -> None:
    buffer = _robot()
    with pytest.raises(TransformError, match="newest transform of 'base' is 0.250 s older"):
        found(buffer, "map", "camera", 8 * SECOND + SECOND // 4)
    fresh = TransformBuffer()
    fresh.set_transform(stamped("map", "camera", rigid((0, 0, 0), (0, 0, 0)), 5 * SECOND))
    with pytest.raises(TransformError, match="oldest transform of 'camera' is 1.000 s newer"):
        found(fresh, "map", "camera", 4 * SECOND)


def test_what_is_missing_is_named() -> None:
    buffer = _robot()
    with pytest.raises(TransformError, match="'moon' is not known"):
        found(buffer, "moon", "camera", SECOND)
    with pytest.raises(TransformError, match="'webcam' is not known"):
        found(buffer, "map", "webcam", SECOND)
    buffer.set_transform_static(stamped("other_root", "webcam", rigid((0, 0, 0), (0, 0, 0))))
    with pytest.raises(TransformError, match="not in one tree"):
        found(buffer, "map", "webcam", SECOND)


def test_a_loop_of_frames_ends() -> None:
    buffer = TransformBuffer()
    buffer.set_transform_static(stamped("a", "b", rigid((0, 0, 0), (1, 0, 0))))
    buffer.set_transform_static(stamped("b", "a", rigid((0, 0, 0), (1, 0, 0))))
    with pytest.raises(TransformError, match="loop"):
        buffer.set_transform_static(stamped("root", "c", rigid((0, 0, 0), (0, 0, 0))))
        found(buffer, "root", "b", SECOND)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotation.w", 0.0), ("rotation.w", 0.4), ("rotation.w", 2.1), ("rotation.x", math.nan),
     ("translation.x", math.nan), ("translation.z", math.inf)],
)  # fmt: skip
@pytest.mark.parametrize("static", [False, True])
def test_transforms_that_are_none_are_left_out(name: str, value: float, static: bool) -> None:
    buffer = TransformBuffer()
    wrong = stamped("map", "camera", rigid((0, 0, 0), (0, 0, 0)))
    part, axis = name.split(".")
    setattr(getattr(wrong.transform, part), axis, value)
    (buffer.set_transform_static if static else buffer.set_transform)(wrong)
    with pytest.raises(TransformError, match="not known"):
        found(buffer, "map", "camera", 0)
    stray = stamped("map", "camera", rigid((0, 0, 0.3), (1, 2, 3)))
    stray.transform.rotation.z *= 1.5
    stray.transform.rotation.w *= 1.5
    (buffer.set_transform_static if static else buffer.set_transform)(stray)
    same(found(buffer, "map", "camera", 0), rigid((0, 0, 0.3), (1, 2, 3)))  # but a turn that is not quite of length 1


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("parent", "child"), [("camera", "camera"), ("", "camera"), ("map", "")])
def test_transforms_without_two_frames_are_left_out(parent: str, child: str, static: bool) -> None:
    buffer = TransformBuffer()
    wrong = stamped(parent, child, rigid((0, 0, 0), (0, 0, 0)))
    (buffer.set_transform_static if static else buffer.set_transform)(wrong)
    with pytest.raises(TransformError, match=f"the frame '{parent}' is not known"):
        found(buffer, parent, "other", 0)


@pytest.mark.parametrize(("parent", "child"), [("/map", "camera"), ("map", "/camera"), ("/map", "/camera")])
@pytest.mark.parametrize("static", [True, False])
def test_names_of_ros_1_are_those_without_the_slash(parent: str, child: str, static: bool) -> None:
    buffer = TransformBuffer()
    add = buffer.set_transform_static if static else buffer.set_transform
    add(stamped(parent, child, rigid((0, 0, 0), (1, 0, 0)), SECOND))
    assert found(buffer, "map", "camera", SECOND).translation[0] == 1
    add(stamped("/map", "map", rigid((0, 0, 0), (1, 0, 0)), SECOND))  # its own parent
    assert found(buffer, "map", "camera", SECOND).translation[0] == 1


def test_a_frame_is_static_or_moving_as_it_was_sent_last() -> None:
    buffer = TransformBuffer()
    for at in (1, 2):  # a calibrated place, and then where it is measured to be
        buffer.set_transform_static(stamped("map", "camera", rigid((0, 0, 0), (7, 0, 0))))
        assert found(buffer, "map", "camera", at * SECOND).translation[0] == 7
        buffer.set_transform(stamped("map", "camera", rigid((0, 0, 0), (at, 0, 0)), at * SECOND))
        assert found(buffer, "map", "camera", at * SECOND).translation[0] == at
        with pytest.raises(TransformError, match="older than the image"):
            found(buffer, "map", "camera", 5 * SECOND)


def test_ten_seconds_are_remembered_in_any_order_of_arrival() -> None:
    buffer = TransformBuffer()
    for second in (0, 30, 25, 21, 28, 5, 19):
        buffer.set_transform(stamped("map", "base", rigid((0, 0, 0), (second, 0, 0)), second * SECOND))
    np.testing.assert_allclose(found(buffer, "map", "base", 23 * SECOND).translation, [23, 0, 0])
    with pytest.raises(TransformError, match="oldest"):
        found(buffer, "map", "base", 20 * SECOND)  # what came at 0, 5 and 19 is forgotten
    buffer.set_transform(stamped("map", "base", rigid((0, 0, 0), (7, 0, 0)), 25 * SECOND))  # a correction
    np.testing.assert_allclose(found(buffer, "map", "base", 25 * SECOND).translation, [7, 0, 0])


def test_a_frame_that_is_hung_elsewhere_is_not_interpolated_across() -> None:
    buffer = TransformBuffer()
    buffer.set_transform(stamped("left_hand", "cup", rigid((0, 0, 0), (1, 0, 0)), SECOND))
    buffer.set_transform(stamped("right_hand", "cup", rigid((0, 0, 0), (9, 0, 0)), 2 * SECOND))
    np.testing.assert_allclose(found(buffer, "left_hand", "cup", 3 * SECOND // 2).translation, [1, 0, 0])


def test_time_zero_is_the_latest_that_is_known_of_all() -> None:
    answer = _robot().lookup_transform("map", "camera", Time(), Duration())
    assert (answer.header.stamp.sec, answer.header.frame_id, answer.child_frame_id) == (8, "map", "camera")


def test_a_transform_that_comes_late_is_waited_for() -> None:
    buffer = _robot()
    answers: list[RigidTransform] = []
    lookup = TransformLookup(Sieve(buffer), _NoListener())
    waiting = threading.Thread(target=lambda: answers.append(lookup("map", "camera", 9 * SECOND, 10.0)))
    waiting.start()
    buffer.set_transform(stamped("odom", "base", rigid((0, 0, 4.0), (10, 0, 0)), 10 * SECOND))
    waiting.join(10)
    assert answers and answers[0].translation[0] > 13.5
    buffer.clear()
    with pytest.raises(TransformError):
        found(buffer, "map", "camera", 9 * SECOND)
    same(found(buffer, "base", "head", 9 * SECOND), rigid((0, 0.3, 0), (0.1, 0, 1.5)))  # static ones are sent only once


class _Awaited(TransformBuffer):
    """Tells when somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def lookup_transform(self, *question: Any) -> TransformStamped:
        self.asked.set()
        return super().lookup_transform(*question)


def test_a_transform_is_waited_for_as_long_as_it_is_wanted() -> None:
    buffer, given_up = _Awaited(), threading.Event()
    lookup = TransformLookup(Sieve(buffer), _NoListener())
    errors: list[str] = []

    def wait() -> None:
        try:
            lookup("map", "camera", SECOND, 3600.0, given_up)
        except TransformError as error:
            errors.append(str(error))

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert buffer.asked.wait(60)
    given_up.set()
    waiting.join(60)
    assert errors == ["the frame 'map' is not known to TF"]


class _NoOutlets:
    def publish(self, *_: object) -> Published:
        return Published(at=time.monotonic(), since_capture_s=math.nan)

    def publish_annotated(self, *_: object) -> None:
        pass

    def hide(self) -> None:
        pass


class _Counted(Statistics):
    """Statistics that tell when an image has been worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Semaphore(0)

    def result_published(self, *measured: Any, **more: Any) -> None:
        super().result_published(*measured, **more)
        self.done.release()


class _Desk:
    """A worker of its own, whose results go nowhere. said: kinds of problems."""

    def __init__(self, lookup: Any, clock: RosClock | None = None, **settings: Any) -> None:
        parameters = replace(snapshot({"target_frame": "map"}), **settings)
        self.said: list[str] = []
        self.statistics = _Counted()
        self.worker = Worker(
            FakePipeline(parameters.pipeline), _NoOutlets(), InputTopics("/image", "/camera_info", compressed=False),
            CameraCache(False), settings=lambda: parameters, statistics=self.statistics,
            report=lambda kind, _text: self.said.append(kind), clock=clock or RosClock(), context=Context(),
            bridge=None, transforms=lookup,
        )  # fmt: skip
        self.worker.start()
        self.worker.put_info(camera_info())

    def show(self, at: float, frame_id: str = "camera") -> None:
        """Returns when the image has been worked on."""
        image = raw_image(plain(), "rgb8", Stamp(sec=int(at), nanosec=round(at % 1 * SECOND)))
        image.header.frame_id = frame_id
        self.worker.put_image(image)
        assert self.statistics.done.acquire(timeout=60), self.statistics.summary()


class _Everywhere:
    """Knows every transform, and notes what it is told and asked."""

    def __init__(self) -> None:
        self.jumps: list[tuple[int, int]] = []
        self.times: list[int] = []
        self.asked: list[str] = []

    def __call__(self, _target: str, source: str, *_: object) -> RigidTransform:
        self.asked.append(source)
        return CAMERA_IN_MAP

    def time_jumped(self, before_ns: int, after_ns: int) -> None:
        self.jumps.append((before_ns, after_ns))

    def time_goes_on(self, now_ns: int) -> None:
        self.times.append(now_ns)


def test_a_worker_that_is_stopped_does_not_complain_of_a_transform_that_might_have_come() -> None:
    buffer = _Awaited()
    desk = _Desk(TransformLookup(Sieve(buffer), _NoListener()), target_frame_timeout=3600.0)
    desk.worker.put_image(raw_image(plain(), "rgb8", Stamp(sec=1)))
    assert buffer.asked.wait(60)
    stopping = threading.Thread(target=desk.worker.stop, daemon=True)
    stopping.start()
    stopping.join(60)
    assert desk.statistics.summary().dropped[Drop.NO_TRANSFORM] == 1 and not desk.said


@pytest.mark.parametrize(
    ("stamps", "said", "jumps"),
    [
        ((10, 11), set(), []),
        ((10, 9.75), {"images_out_of_order"}, []),
        ((10, 9.5), {"time_went_backwards"}, []),  # a matter of order
        ((10, 8), {"time_went_backwards"}, [(10 * SECOND, 8 * SECOND)]),
        ((1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3), set(), []),  # a player that shows each image five times
        ((1, 1, 1, 1, 1, 1), {"stamps_stand_still"}, []),
    ],
)
def test_time_is_what_the_stamps_make_of_it(
    stamps: tuple[float, ...], said: set[str], jumps: list[tuple[int, int]]
) -> None:
    lookup = _Everywhere()
    desk = _Desk(lookup)
    for stamp in stamps:
        desk.show(stamp)
    desk.worker.stop()
    assert set(desk.said) == said and lookup.jumps == jumps


def test_it_is_said_when_time_has_not_jumped_after_all() -> None:
    lookup = _Everywhere()
    desk = _Desk(lookup)
    for stamp in (1000, 400, 1001):
        desk.show(stamp)
    desk.worker.stop()
    assert lookup.jumps == [(1000 * SECOND, 400 * SECOND)] and lookup.times == [1000 * SECOND, 1001 * SECOND]


def test_what_is_in_the_target_frame_already_needs_no_transform() -> None:
    lookup = _Everywhere()
    desk = _Desk(lookup)
    for frame_id in ("camera", "map"):
        desk.show(1.0, frame_id)
    desk.worker.stop()
    assert lookup.asked == ["camera"]


def _hear(sieve: Sieve, seconds: int) -> None:
    """That the camera is as many metres away then."""
    sieve.set_transform(stamped("map", "camera", rigid((0, 0, 0), (seconds, 0, 0)), seconds * SECOND))


def test_what_is_late_of_the_round_before_keeps_nothing_out() -> None:
    now = [0.0]
    sieve = Sieve(TransformBuffer(), lambda: now[0])
    heard = partial(_hear, sieve)
    heard(1000)
    sieve.time_jumped(1000 * SECOND, 400 * SECOND)
    heard(1001)  # was on its way
    heard(400)
    heard(401)
    assert found(sieve.buffer, "map", "camera", 400 * SECOND).translation[0] == 400  # not "older than all"
    now[0] = 1.0  # nothing of before is on its way any more: time may go on as fast as it likes
    heard(1001)
    assert found(sieve.buffer, "map", "camera", 1001 * SECOND).translation[0] == 1001


def test_where_time_has_not_jumped_after_all_nothing_is_lost() -> None:
    """One image had a wrong stamp; the next has a right one."""
    now = [0.0]
    sieve = Sieve(TransformBuffer(), lambda: now[0])
    heard = partial(_hear, sieve)
    heard(1000)
    sieve.time_jumped(1000 * SECOND, 400 * SECOND)
    heard(1001)
    sieve.time_goes_on(401 * SECOND)
    heard(1002)
    with pytest.raises(TransformError):
        found(sieve.buffer, "map", "camera", 1001 * SECOND)
    sieve.time_goes_on(1001 * SECOND)
    heard(1003)
    for seconds in (1001, 1002, 1003):
        assert found(sieve.buffer, "map", "camera", seconds * SECOND).translation[0] == seconds
    sieve.time_jumped(1003 * SECOND, 400 * SECOND)
    heard(1004)
    now[0] = 1.0
    heard(401)
    sieve.time_goes_on(1000 * SECOND)  # much later: what was late is of a round that is long over
    assert found(sieve.buffer, "map", "camera", 401 * SECOND).translation[0] == 401
    with pytest.raises(TransformError):
        found(sieve.buffer, "map", "camera", 1004 * SECOND)


@pytest.mark.parametrize("jump_s", [-5, 5, 600])
def test_a_small_jump_or_one_ahead_makes_nothing_late(jump_s: int) -> None:
    sieve = Sieve(TransformBuffer(), lambda: 0.0)
    after = 1000 + jump_s
    sieve.time_jumped(1000 * SECOND, after * SECOND)
    for seconds in (1000, after, after + 1):
        _hear(sieve, seconds)
    assert found(sieve.buffer, "map", "camera", (after + 1) * SECOND).translation[0] == after + 1


def test_whatever_tf2_raises_becomes_one_error() -> None:
    class Theirs:
        def lookup_transform(self, *_arguments: object) -> TransformStamped:
            raise LookupError('"map" passed to lookupTransform argument target_frame does not exist.')

        def clear(self) -> None:
            pass

        def set_transform(self, *_arguments: object) -> None:
            pass

        def set_transform_static(self, *_arguments: object) -> None:
            pass

    with pytest.raises(TransformError, match="does not exist"):
        TransformLookup(Sieve(Theirs()), _NoListener())("map", "camera", SECOND, 0.0)


def test_tf_transformations_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def like_tf_transformations(quaternion: list[float]) -> NDArray[np.float64]:
        homogeneous = np.eye(4)
        x, y, z, w = quaternion
        homogeneous[:3, :3] = quat2mat([w, x, y, z])
        return homogeneous

    own = found(_robot(), "map", "camera", 5 * SECOND)
    monkeypatch.setattr(transform_buffer, "quaternion_matrix", like_tf_transformations)
    same(found(_robot(), "map", "camera", 5 * SECOND), own)


# --- hands in another frame -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", list(Side))
def test_a_moved_hand_is_what_the_hand_model_says_there(side: Side) -> None:
    layer = load_hand_model().layer(side)
    rng = np.random.default_rng(1)
    pose, betas = exp_so3(rng.normal(size=(16, 3)) * 0.4), rng.normal(size=10)
    translation = np.array([0.1, -0.2, 0.6])
    vertices, joints = layer.numpy(pose, betas, translation)
    hand = make_hand(side, joints=joints, vertices=vertices, pose=pose, betas=betas, translation=translation)
    transform = rigid((0.4, -1.1, 2.0), (3, -2, 1))
    moved = moved_hand(hand, transform)
    np.testing.assert_allclose(moved.joints, transform.apply(joints), atol=1e-12)
    their_vertices, their_joints = layer.numpy(moved.pose, betas, moved.translation)
    np.testing.assert_allclose(their_vertices, transform.apply(vertices), atol=1e-9)
    np.testing.assert_allclose(their_joints, transform.apply(joints), atol=1e-9)
    np.testing.assert_allclose(moved.wrist[1], transform.rotation @ hand.wrist[1], atol=1e-12)
    np.testing.assert_array_equal(moved.keypoints, hand.keypoints)
    np.testing.assert_array_equal(hand.pose, pose)  # the hand itself is left alone


# --- the node -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(start: Callable[..., Any]) -> Bench:
    """A node whose hands are wanted in `map`."""
    bench = start(
        Bench, "fake", "--ros-args", "-p", "target_frame:=map", "-p", "target_frame_timeout:=0.2",
        "-p", "publish_points:=true",
    )  # fmt: skip
    bench.connect(black=True)
    return bench


def test_hands_markers_points_and_tf_come_in_the_target_frame(bench: Bench) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    tf = bench.listen(TFMessage, "/tf", 100)
    markers, points = bench.listen(MarkerArray, "/wildhands/markers"), bench.listen(PointCloud2, "/wildhands/points")
    image = raw_image(plain(), "rgb8", bench.stamp())
    # before TF knows the camera, nothing is published and the reason is said
    bench.publish(image)
    text = bench.said("no transform from 'camera_optical_frame' to target_frame 'map'")
    unknown = any(words in text for words in ("is not known to TF", "target_frame does not exist"))  # ours; tf2_ros's
    assert unknown and "The result is dropped" in text
    bench.wait(lambda: int(bench.diagnosed("images dropped (no transform)")) == 1, "the drop is not counted")
    assert not any(hands.hands for hands in bench.hands)

    bench.node.create_publisher(TFMessage, "/tf_static", latched).publish(
        TFMessage(transforms=[stamped("map", "camera_optical_frame", CAMERA_IN_MAP)])
    )

    def all_came() -> bool:
        bench.publish(raw_image(plain(), "rgb8", bench.stamp()))
        return bool(bench.hands and bench.hands[-1].hands and markers and points and tf)

    bench.wait(all_came, "nothing comes in the target frame")
    result = bench.send(raw_image(plain(), "rgb8", bench.stamp()))
    assert result.header.frame_id == "map"
    known = {side: make_hand(side) for side in Side}
    for hand, side in zip(result.hands, Side, strict=True):
        expected = moved_hand(known[side], CAMERA_IN_MAP)
        np.testing.assert_allclose([[p.x, p.y, p.z] for p in hand.joints], expected.joints, atol=1e-9)
        q = hand.wrist.orientation
        np.testing.assert_allclose(matrix_from_quaternion([q.x, q.y, q.z, q.w]), expected.wrist[1], atol=1e-9)
        np.testing.assert_allclose(np.reshape(hand.keypoints, (21, 2)), known[side].keypoints, rtol=1e-6)
    bench.wait(lambda: tf[-1].transforms[0].header.stamp == result.header.stamp, "no TF of this image")
    frames = {t.child_frame_id: t for t in tf[-1].transforms}
    wrist = frames["left_wrist"]
    place = wrist.transform.translation
    assert wrist.header.frame_id == "map"
    np.testing.assert_allclose([place.x, place.y, place.z], CAMERA_IN_MAP.apply(known[Side.LEFT].joints)[0], atol=1e-9)
    assert {m.header.frame_id for m in markers[-1].markers} == {points[-1].header.frame_id} == {"map"}
    assert points[-1].width == 8


def test_an_empty_image_needs_no_transform(bench: Bench) -> None:
    result = bench.send(raw_image(plain((0, 0, 0)), "rgb8", bench.stamp()))
    assert len(result.hands) == 0 and result.header.frame_id == "map"


# --- time -----------------------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back_follows_hands_anew(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake", "--ros-args", "-p", "use_sim_time:=true")
    clock = bench.node.create_publisher(Clock, "/clock", 10)

    def heard(seconds: int) -> None:
        clock.publish(Clock(clock=Stamp(sec=seconds)))

    bench.connect()
    bench.wait(lambda: heard(1000) or clock.get_subscription_count(), "nobody hears the clock")
    image = raw_image(plain(), "rgb8", bench.stamp())

    def latency() -> float:
        image.header.stamp = bench.stamp()
        heard(1000)
        result = bench.send(image)
        return result.latency.sec + image.header.stamp.sec

    bench.wait(lambda: latency() == 1000, "it does not take the time of /clock")
    before = bench.send(raw_image(plain(), "rgb8", bench.stamp())).hands[0].track_id
    heard(400)
    assert "followed anew" in bench.said("the node's clock went back by 600.000 s")
    assert bench.send(raw_image(plain(), "rgb8", bench.stamp())).hands[0].track_id == before + 1
    assert bench.stop() == 0


def test_images_that_go_back_far_forget_the_moving_frames_of_before(start: Callable[..., Any]) -> None:
    bench = start(Bench, "fake", "--ros-args", "-p", "target_frame:=map", "-p", "target_frame_timeout:=0.2")
    bench.connect(black=True)
    tf = bench.node.create_publisher(TFMessage, "/tf", 100)

    def is_placed(seconds: int) -> bool:
        tf.publish(TFMessage(transforms=[stamped("map", "camera_optical_frame", CAMERA_IN_MAP, seconds * SECOND)]))
        bench.publish(raw_image(plain(), "rgb8", Stamp(sec=seconds, nanosec=0)))
        found = [hands for hands in bench.hands if hands.hands and hands.header.stamp.sec == seconds]
        return bool(found)

    bench.wait(lambda: is_placed(1000), "no hand is placed")
    # a bag that begins anew, played without --clock: its frames are older than any that are kept
    bench.wait(lambda: is_placed(400), "no hand is placed once stamps went back")
    assert "followed anew" in bench.said("image stamps went back by 600.000 s")
    assert bench.stop() == 0


@pytest.mark.parametrize("simulated", [True, False])
def test_a_transform_that_is_late_when_time_goes_back_keeps_no_other_out(
    simulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transform_buffer, "_LATE_S", 3600.0)  # however busy the machine is
    rclpy.init(args=[], domain_id=own_domain())
    overrides = {"autostart": False, "target_frame": "map", "use_sim_time": simulated}
    node = WildhandsNode(fake_pipeline, overrides=[Parameter(name, value=value) for name, value in overrides.items()])
    player = Node("player")
    executor = NodeExecutor()
    executor.add_node(node)
    executor.add_node(player)
    placed: set[int] = set()
    player.create_subscription(
        HandPoseArray, "/wildhands/hands", lambda message: placed.add(message.header.stamp.sec), 10
    )
    tf, clock = player.create_publisher(TFMessage, "/tf", 100), player.create_publisher(Clock, "/clock", 10)
    images, infos = (
        player.create_publisher(Image, "/image", 10),
        player.create_publisher(CameraInfo, "/camera_info", 10),
    )

    def hear_of(seconds: int) -> None:
        tf.publish(TFMessage(transforms=[stamped("map", "camera_optical_frame", CAMERA_IN_MAP, seconds * SECOND)]))

    def show(seconds: int) -> None:
        image, info = raw_image(plain(), "rgb8", Stamp(sec=seconds)), camera_info()
        info.header = image.header
        clock.publish(Clock(clock=Stamp(sec=seconds)))
        infos.publish(info)
        images.publish(image)

    def wait(condition: Callable[[], object], play: Callable[[], None]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, node.statistics.summary()
            play()
            pause = time.monotonic() + 0.2
            while not condition() and time.monotonic() < pause:
                executor.spin_once(0.02)

    def play(seconds: int) -> None:
        hear_of(seconds)
        show(seconds)

    try:
        assert node.trigger_configure() is node.trigger_activate() is TransitionCallbackReturn.SUCCESS
        wait(lambda: 1000 in placed, lambda: play(1000))
        wait(lambda: "time_went_backwards" in node.statistics.summary().problems, lambda: show(400))
        hear_of(1001)  # the last one of the round before
        wait(lambda: 401 in placed, lambda: play(401))
    finally:
        executor.shutdown()
        node.destroy_node()
        player.destroy_node()
        rclpy.shutdown()
