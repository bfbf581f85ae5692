"""Message builders: hands to HandPose, TF and markers, without a node."""

import math
import struct
from dataclasses import replace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, PointStamped
from node_fakes import FACES, make_hand, make_joints
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from transforms3d.quaternions import mat2quat
from visualization_msgs.msg import Marker, MarkerArray

from wildhands_ros.camera import Camera
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import FINGERS, KEYPOINT_NAMES, SKELETON, Side
from wildhands_ros.msg import HandPose, HandPoseArray
from wildhands_ros.node import clouds, markers, stencil
from wildhands_ros.node.clouds import hand_cloud
from wildhands_ros.node.hands_bag import HandsBag
from wildhands_ros.node.markers import hand_markers, serialized_hand_markers
from wildhands_ros.node.messages import duration, hand_pose, hand_pose_array, points, stamp_ns
from wildhands_ros.node.transforms import SerializedTransforms, hand_transforms, joint_rotations, quaternions
from wildhands_ros.pipeline import PipelineResult
from wildhands_ros.recordings import BagReader
from wildhands_ros.recordings.hands_reader import read_hands, recorded_hands
from wildhands_ros.rotations import exp_so3, matrix_from_quaternion

HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id="camera")


def _array(point):
    return np.array([point.x, point.y, point.z])


def _quaternion(q):
    return np.array([q.x, q.y, q.z, q.w])


# --- HandPose -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", list(Side))
def test_hand_pose_carries_every_field_through_serialisation(side):
    rng = np.random.default_rng(1)
    hand = make_hand(
        side,
        pose=exp_so3(rng.normal(size=(16, 3))),
        betas=rng.normal(size=10),
        track_id=7,
        valid=False,
        jump=True,
        smoothed=True,
    )
    message = deserialize_message(serialize_message(hand_pose(hand)), HandPose)

    assert message.side == {Side.LEFT: HandPose.SIDE_LEFT, Side.RIGHT: HandPose.SIDE_RIGHT}[side]
    assert (message.track_id, message.hand_model, message.estimator) == (7, "tetrahedron", "fake")
    assert message.score == pytest.approx(0.9) and message.side_probability == pytest.approx(0.8)
    assert (message.valid, message.jump, message.smoothed) == (False, True, True)
    assert message.reprojection_error == pytest.approx(1.5) and message.expected_error == pytest.approx(0.0125)
    np.testing.assert_allclose(message.box, hand.box)
    np.testing.assert_allclose(np.reshape(message.keypoints, (21, 2)), hand.keypoints, rtol=1e-6)
    np.testing.assert_allclose([_array(p) for p in message.joints], hand.joints)
    np.testing.assert_allclose(np.reshape(message.mano_pose, (16, 3, 3)), hand.pose, atol=1e-6)
    np.testing.assert_allclose(message.mano_betas, hand.betas, rtol=1e-6)
    np.testing.assert_allclose(message.mano_translation, hand.translation, rtol=1e-6)
    position, rotation = hand.wrist
    np.testing.assert_allclose(_array(message.wrist.position), position)
    np.testing.assert_allclose(matrix_from_quaternion(_quaternion(message.wrist.orientation)), rotation, atol=1e-12)


def test_wrist_points_along_the_middle_finger_and_out_of_the_back():
    for side in Side:  # both hands hold their fingers up and their backs towards the camera
        rotation = matrix_from_quaternion(_quaternion(hand_pose(make_hand(side)).wrist.orientation))
        np.testing.assert_allclose(rotation[:, 0], [0, -1, 0], atol=1e-12)
        np.testing.assert_allclose(rotation[:, 2], [0, 0, -1], atol=1e-12)


def test_unknown_grasp_is_marked_as_unknown():
    message = hand_pose(make_hand())
    assert message.grasp == HandPose.GRASP_UNKNOWN and len(message.grasp_probabilities) == 0
    known = hand_pose(make_hand(grasp=(HandPose.GRASP_LATERAL, np.eye(9)[6])))
    assert known.grasp == HandPose.GRASP_LATERAL
    np.testing.assert_allclose(known.grasp_probabilities, np.eye(9)[6])


def test_vertices_only_where_asked_for():
    hand = make_hand()
    assert len(hand_pose(hand).vertices) == 0
    np.testing.assert_allclose(np.reshape(hand_pose(hand, with_vertices=True).vertices, (-1, 3)), hand.vertices, 1e-6)
    assert len(hand_pose(make_hand(vertices=None), with_vertices=True).vertices) == 0


def test_nan_survives_where_the_message_allows_it():
    keypoints = np.full((21, 2), math.nan)
    message = hand_pose(make_hand(keypoints=keypoints, reprojection_error=math.nan, expected_error=math.nan))
    assert np.isnan(message.keypoints).all()
    assert math.isnan(message.reprojection_error) and math.isnan(message.expected_error)


def test_no_hands_is_an_empty_array_with_the_images_header():
    message = hand_pose_array([], HEADER, (640, 480), latency_ns=1_500_000_002, processing_ns=3_000)
    message = deserialize_message(serialize_message(message), HandPoseArray)
    assert (message.header, list(message.hands)) == (HEADER, [])
    assert (message.image_width, message.image_height) == (640, 480)
    assert (message.latency.sec, message.latency.nanosec) == (1, 500_000_002)
    assert (message.processing_time.sec, message.processing_time.nanosec) == (0, 3_000)


def test_a_stamp_of_another_clock_gives_no_junk():
    ahead = hand_pose_array([], HEADER, (1, 1), latency_ns=-5).latency
    assert (ahead.sec, ahead.nanosec) == (0, 0)
    longest = duration(10**30)
    assert (longest.sec, longest.nanosec) == (2**31 - 1, 0)
    before = duration(-1)
    assert (before.sec, before.nanosec) == (-1, 999_999_999)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("flag", ["valid", "jump", "smoothed"])
def test_hands_come_back_out_of_their_messages(side, flag):
    rng = np.random.default_rng(2)
    flags = {"valid": False, "jump": False, "smoothed": False} | {flag: True}
    full = make_hand(
        side, pose=exp_so3(rng.normal(size=(16, 3))), betas=rng.normal(size=10), keypoints=rng.normal(size=(21, 2)),
        track_id=7, grasp=(HandPose.GRASP_LATERAL, np.eye(9)[6]), **flags,
    )  # fmt: skip
    bare = make_hand(side.other, vertices=None, reprojection_error=math.nan, expected_error=math.nan, track_id=-1)
    message = hand_pose_array(
        [full, bare], HEADER, (640, 480), latency_ns=1_500_000_000, processing_ns=30_000_000, with_vertices=True
    )
    message.hands.append(HandPose())  # which says no side
    found = recorded_hands(deserialize_message(serialize_message(message), HandPoseArray))
    assert (found.stamp_ns, found.frame_id, found.image_size) == (12_000_000_345, "camera", (640, 480))
    assert (found.latency_s, found.processing_s) == pytest.approx((1.5, 0.03))
    assert len(found.hands) == 2
    for hand, expected in zip(found.hands, (full, bare), strict=True):
        for name in ("side", "estimator", "hand_model", "valid", "jump", "smoothed", "track_id"):
            assert getattr(hand, name) == getattr(expected, name), name
        for name in (
            "score", "box", "joints", "keypoints", "pose", "betas", "translation", "side_probability",
            "reprojection_error", "expected_error",
        ):  # fmt: skip
            np.testing.assert_allclose(getattr(hand, name), getattr(expected, name), rtol=1e-6, err_msg=name)
    assert found.hands[0].vertices is not None and found.hands[0].grasp is not None
    np.testing.assert_allclose(found.hands[0].vertices, full.vertices, rtol=1e-6)
    assert found.hands[0].grasp[0] == HandPose.GRASP_LATERAL
    np.testing.assert_allclose(found.hands[0].grasp[1], np.eye(9)[6])
    assert found.hands[1].vertices is None and found.hands[1].grasp is None


def test_stamps_are_integer_nanoseconds():
    assert stamp_ns(Time(sec=1_700_000_000, nanosec=123_456_789)) == 1_700_000_000_123_456_789


# --- TF -------------------------------------------------------------------------------------------------------------


def test_quaternions_equal_those_of_transforms3d():
    rng = np.random.default_rng(0)
    half_turns = math.pi * np.eye(3)
    matrices = exp_so3(np.concatenate([rng.normal(size=(200, 3)) * 3, np.zeros((1, 3)), half_turns]))
    for q, matrix in zip(quaternions(matrices), matrices, strict=True):
        w, x, y, z = mat2quat(matrix)
        np.testing.assert_allclose(np.abs(q @ [x, y, z, w]), 1, atol=1e-12)  # the same up to sign
        assert q[3] >= 0


def test_frames_are_named_and_placed():
    hand = make_hand(Side.LEFT)
    frames = {t.child_frame_id: t for t in hand_transforms([("left", hand)], HEADER, prefix="robot/")}
    assert set(frames) == {f"robot/left_{name}" for name in KEYPOINT_NAMES}
    for joint, name in enumerate(KEYPOINT_NAMES):
        frame = frames[f"robot/left_{name}"]
        assert frame.header == HEADER
        np.testing.assert_allclose(_array(frame.transform.translation), hand.joints[joint])
        np.testing.assert_allclose(np.linalg.norm(_quaternion(frame.transform.rotation)), 1)
    assert [t.child_frame_id for t in hand_transforms([("left_2", hand)], HEADER, joints=False)] == ["left_2_wrist"]


@pytest.mark.parametrize("joints", [True, False])
def test_serialised_frames_are_the_same_message(joints):
    serialized = SerializedTransforms()
    named = [("left", make_hand(Side.LEFT)), ("right", make_hand(Side.RIGHT, joints=make_joints(Side.RIGHT) * 1.7))]
    # frames of every length, since what follows a text is aligned; and each layout with other numbers and stamps
    for frame, prefix in zip(("a", "ab", "abc", "camera_optical_frame"), ("", "r/", "robot/", "☃"), strict=True):
        for count in (1, 2, 1, 2):
            named = [(name, replace(hand, joints=hand.joints + 0.01 * count)) for name, hand in named]
            header = Header(stamp=Time(sec=-count, nanosec=999_999_999 - count), frame_id=frame)
            options = {"prefix": prefix, "joints": joints}
            data = serialized(named[:count], header, **options)
            expected = TFMessage(transforms=hand_transforms(named[:count], header, **options))
            assert len(expected.transforms) == count * (21 if joints else 1)
            assert deserialize_message(data, TFMessage) == expected and len(data) == len(serialize_message(expected))
    assert serialized([], HEADER) == b""


def test_frames_that_are_serialised_in_another_way_are_still_right(monkeypatch):
    def otherwise(message):  # everything four bytes later
        data = serialize_message(message)
        return data[:4] + b"----" + data[4:]

    monkeypatch.setattr(stencil, "serialize_message", otherwise)
    data = SerializedTransforms()([("right", make_hand())], HEADER)
    expected = TFMessage(transforms=hand_transforms([("right", make_hand())], HEADER))
    assert deserialize_message(data[:4] + data[8:], TFMessage) == expected


def test_layouts_are_forgotten_when_there_are_too_many():
    built = []

    def build(layout, numbers, stamp):
        built.append(layout)
        return PointStamped(header=Header(stamp=stamp, frame_id=layout), point=points(numbers[None])[0])

    serializer = stencil.Serializer(build)
    for layout in (*(str(i) for i in range(40)), "39", "0"):
        expected = PointStamped(
            header=Header(stamp=HEADER.stamp, frame_id=layout), point=Point(x=1.0, y=math.inf, z=-0.0)
        )
        data = serializer(layout, np.array([1, math.inf, -0.0]), HEADER.stamp)
        assert deserialize_message(data, PointStamped) == expected
    assert built == [*(str(i) for i in range(40)), "0"]


def _curled(side, angle=1.2):
    """A hand whose long fingers bend by `angle` at every joint, towards the palm (+z, away from the camera)."""
    joints = make_joints(side)
    for name, (mcp, *rest) in FINGERS.items():
        if name == "thumb":
            continue
        bend, place = 0.0, joints[mcp]
        for joint in rest:
            bend += angle
            place = place + 0.025 * np.array([0, -math.cos(bend), math.sin(bend)])
            joints[joint] = place
    return make_hand(side, joints=joints)


@pytest.mark.parametrize("side", list(Side))
def test_joint_frames_point_along_their_bones_and_keep_their_backs(side):
    hand = _curled(side)
    turns = joint_rotations(hand)
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (21, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    for parent, child in SKELETON:
        if parent:
            bone = hand.joints[child] - hand.joints[parent]
            np.testing.assert_allclose(turns[parent][:, 0], bone / np.linalg.norm(bone), atol=1e-9)
    for tip in (8, 12, 16, 20):
        np.testing.assert_allclose(turns[tip], turns[tip - 1])
        # curled by 3 × 1.2 rad in one plane, z still points out of the finger's back
        bend = 3 * 1.2
        np.testing.assert_allclose(turns[tip][:, 2], [0, -math.sin(bend), -math.cos(bend)], atol=1e-9)


def test_collapsed_fingers_still_have_frames():
    joints = make_joints(Side.RIGHT)
    joints[6:9] = joints[5]
    turns = joint_rotations(make_hand(joints=joints))
    assert np.isfinite(turns).all()
    np.testing.assert_allclose(turns[5], turns[0])


# --- markers --------------------------------------------------------------------------------------------------------


def _markers(hands, shown=frozenset(), **options):
    return hand_markers(hands, HEADER, {side: FACES for side in Side}, shown, **options)


def test_markers_show_bones_joints_and_mesh():
    hand = make_hand(Side.LEFT, track_id=5)
    message, keys = _markers([hand], lifetime_s=0.25)
    by_ns = {m.ns: m for m in message.markers}
    assert keys == {("left/skeleton", 5), ("left/joints", 5), ("left/mesh", 5)}
    for marker in message.markers:
        assert (marker.header, marker.action) == (HEADER, Marker.ADD)
        assert (marker.lifetime.sec, marker.lifetime.nanosec) == (0, 250_000_000)
        assert marker.pose.orientation.w == 1
    bones = np.array([_array(p) for p in by_ns["left/skeleton"].points])
    np.testing.assert_allclose(bones.reshape(20, 2, 3), hand.joints[np.array(SKELETON)])
    assert len(by_ns["left/skeleton"].colors) == len(bones)
    np.testing.assert_allclose([_array(p) for p in by_ns["left/joints"].points], hand.joints)
    corners = np.array([_array(p) for p in by_ns["left/mesh"].points])
    np.testing.assert_allclose(corners, hand.vertices[FACES.reshape(-1)])
    scale = by_ns["left/mesh"].scale
    assert (scale.x, scale.y, scale.z) == (1, 1, 1)


@pytest.mark.parametrize("mesh", [True, False])
@pytest.mark.parametrize("sides", [(), (Side.LEFT,), (Side.LEFT, Side.RIGHT)])
def test_serialised_markers_are_the_same_message(sides, mesh):
    model = load_hand_model()
    faces = {side: model.layer(side).faces for side in Side}
    rng = np.random.default_rng(3)
    vertices = {side: rng.normal(size=(faces[side].max() + 1, 3)) for side in Side}
    hands = [make_hand(side, vertices=vertices[side], valid=side is Side.LEFT) for side in sides]
    shown = frozenset({("left/mesh", 9), ("right/skeleton", 0)})
    # frames of every length, since what follows a text is aligned
    for frame in ("", "a", "ab", "abc", "camera_optical_frame"):
        header = Header(stamp=Time(sec=1, nanosec=2), frame_id=frame)
        plain, keys = hand_markers(hands, header, faces, shown, mesh=mesh)
        data, serialized_keys = serialized_hand_markers(hands, header, faces, shown, mesh=mesh)
        assert deserialize_message(data, MarkerArray) == deserialize_message(serialize_message(plain), MarkerArray)
        assert keys == serialized_keys and len(plain.markers) == 2 + len(sides) * (3 if mesh else 2)
    assert serialized_hand_markers((), HEADER, faces)[0] == b""


def test_markers_that_are_serialised_in_another_way_are_still_right(monkeypatch):
    hand = make_hand()
    expected, _ = hand_markers([hand], HEADER, {side: FACES for side in Side})
    monkeypatch.setattr(markers, "_with_points", lambda *_: None)
    data, _ = serialized_hand_markers([hand], HEADER, {side: FACES for side in Side})
    assert deserialize_message(data, MarkerArray) == deserialize_message(serialize_message(expected), MarkerArray)


def test_markers_of_gone_hands_are_deleted_once():
    _, keys = _markers([make_hand(Side.LEFT, track_id=0), make_hand(Side.RIGHT, track_id=1)])
    message, keys = _markers([make_hand(Side.RIGHT, track_id=1)], keys)
    deleted = {(m.ns, m.id) for m in message.markers if m.action == Marker.DELETE}
    assert deleted == {("left/skeleton", 0), ("left/joints", 0), ("left/mesh", 0)}
    message, keys = _markers([], keys)
    assert {m.ns for m in message.markers} == {"right/skeleton", "right/joints", "right/mesh"}
    message, keys = _markers([], keys)
    assert message.markers == [] and keys == frozenset()


def test_a_hand_that_changes_its_side_leaves_no_marker_behind():
    _, keys = _markers([make_hand(Side.LEFT, track_id=3)])
    message, keys = _markers([make_hand(Side.RIGHT, track_id=3)], keys)
    assert {m.ns for m in message.markers if m.action == Marker.DELETE} == {
        "left/skeleton", "left/joints", "left/mesh",
    }  # fmt: skip


def test_two_hands_of_one_side_without_tracks_have_their_own_markers():
    _, keys = _markers([make_hand(track_id=-1), make_hand(track_id=-1)])
    assert len(keys) == 6


def test_markers_leave_out_what_rviz_refuses():
    nan = np.full((4, 3), np.nan)
    assert _markers([make_hand(joints=np.full((21, 3), np.nan))])[0].markers == []
    assert {m.ns for m in _markers([make_hand(vertices=nan)])[0].markers} == {"right/skeleton", "right/joints"}
    assert {m.ns for m in _markers([make_hand(vertices=None)])[0].markers} == {"right/skeleton", "right/joints"}
    assert {m.ns for m in _markers([make_hand()], mesh=False)[0].markers} == {"right/skeleton", "right/joints"}


def test_hands_that_are_not_valid_are_faint():
    faint, solid = (_opacities(make_hand(valid=valid)) for valid in (False, True))
    assert solid == pytest.approx({"skeleton": 1.0, "joints": 1.0, "mesh": 0.6})  # bones are seen through the skin
    assert all(0 < opacity < 0.5 * solid[part] for part, opacity in faint.items()) and len(faint) == 3


def _opacities(hand):
    """Of each part of a hand's markers, which has only one."""
    result = {}
    for marker in _markers([hand])[0].markers:
        (opacity,) = {color.a for color in marker.colors or [marker.color]}
        result[marker.ns.partition("/")[2]] = opacity
    return result


# --- point cloud ----------------------------------------------------------------------------------------------------


def test_the_point_cloud_holds_the_vertices_of_all_valid_hands():
    hands = [make_hand(Side.LEFT), make_hand(Side.RIGHT, vertices=None), make_hand(Side.RIGHT)]
    hands.append(make_hand(Side.LEFT, valid=False))  # a cloud cannot say so
    cloud = deserialize_message(serialize_message(hand_cloud(hands, HEADER)), PointCloud2)
    assert (cloud.header, cloud.height, cloud.width, cloud.is_bigendian) == (HEADER, 1, 8, False)
    assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
        ("x", 0, PointField.FLOAT32, 1), ("y", 4, PointField.FLOAT32, 1), ("z", 8, PointField.FLOAT32, 1),
    ]  # fmt: skip
    assert (cloud.point_step, cloud.row_step) == (12, 96)
    expected = struct.pack("<24f", *np.concatenate([hands[0].vertices, hands[2].vertices]).ravel())
    assert bytes(cloud.data) == expected


def test_without_meshes_the_point_cloud_is_empty():
    broken = make_hand(vertices=np.full((4, 3), np.nan))
    for hands in ([], [make_hand(vertices=None)], [broken]):
        cloud = hand_cloud(hands, HEADER)
        assert (cloud.width, cloud.row_step, len(cloud.data), len(cloud.fields)) == (0, 0, 0, 3)


def test_sensor_msgs_py_makes_the_cloud_where_it_is_installed(monkeypatch):
    made = []
    monkeypatch.setattr(clouds, "_create_cloud", lambda header, points: made.append((header, points)) or "theirs")
    assert hand_cloud([make_hand()], HEADER) == "theirs"
    header, points = made[0]
    assert header == HEADER and points.shape == (4, 3) and points.dtype == np.float32


# --- results in a bag -----------------------------------------------------------------------------------------------


def test_a_recording_stays_where_no_frame_comes(tmp_path):
    path = tmp_path / "hands.mcap"
    path.write_bytes(b"an older one")
    with HandsBag(path, FACES):
        pass
    assert path.read_bytes() == b"an older one" and list(tmp_path.iterdir()) == [path]


def recorded(path, stamps_ms):
    """What is read of a bag of results with these stamps, and when each was recorded, both in milliseconds."""
    camera = Camera.pinhole(64, 48, 60.0)
    with HandsBag(path, FACES) as bag:
        for index, stamp in enumerate(stamps_ms):
            frame = Frame(np.zeros((48, 64, 3), np.uint8), camera, stamp * 10**6, "camera", index, "")
            hand = make_hand(Side.LEFT, track_id=index)
            bag.write(frame, PipelineResult(frame.stamp_ns, (hand,), (hand,), (), (), {"total": 0.01}))
    results = list(read_hands(path))
    assert [result.hands[0].track_id for result in results] == list(range(len(stamps_ms)))
    with BagReader(path) as reader:
        times = [message.log_time_ns // 10**6 for message in reader.messages(["/wildhands/hands"])]
    return [result.stamp_ns // 10**6 for result in results], times


def test_results_of_a_recording_whose_clock_was_set_back_stay_in_order(tmp_path):
    """They are read by when they were recorded, which therefore only goes on; their stamps are the frames'."""
    stamps = [10000, 11000, 12000, 13000, 10000, 11000, 12000, 12000]
    times = [10000, 11000, 12000, 13000, 14000, 15000, 16000, 16000]
    assert recorded(tmp_path / "hands.mcap", stamps) == (stamps, times)


def test_pictures_in_another_order_than_they_were_taken_in_do_not_draw_out_a_recording(tmp_path):
    stamps = [1000, 1066, 1033, 1099, 1165, 1132, 1198]
    assert recorded(tmp_path / "hands.mcap", stamps) == (stamps, [1000, 1066, 1066, 1099, 1165, 1165, 1198])


def test_after_a_stamp_far_ahead_recording_goes_on_a_frame_later(tmp_path):
    year = 365 * 24 * 3600 * 1000
    stamps = [1000, 1040, year, 1120, 1160]
    assert recorded(tmp_path / "hands.mcap", stamps) == (stamps, [1000, 1040, year, year + 40, year + 80])
