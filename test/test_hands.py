"""Hand types and the anatomical wrist frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wildhands_ros.hands import (
    FINGERS,
    KEYPOINT_NAMES,
    MANO_TO_KEYPOINTS,
    SKELETON,
    Hand,
    HandBox,
    Landmarks,
    Side,
    wrist_rotation,
)
from wildhands_ros.rotations import exp_so3


def flat_right_hand() -> np.ndarray:
    """Palm down on a table, fingers along +x, seen in axes x forward, y left, z up: the thumb is on the left (+y)."""
    joints = np.zeros((21, 3))
    for place, name in zip((0.03, 0.02, 0.0, -0.02, -0.04), FINGERS, strict=True):
        for k, index in enumerate(FINGERS[name]):
            joints[index] = [0.09 + 0.025 * k, place, 0]
    return joints


def test_wrist_frame_of_a_flat_right_hand_is_the_identity() -> None:
    joints = flat_right_hand()
    assert np.allclose(wrist_rotation(joints, Side.RIGHT), np.eye(3), atol=1e-12)


def test_wrist_frame_of_a_left_hand_points_out_of_its_back_too() -> None:
    joints = flat_right_hand() * [1, -1, 1]  # the mirrored hand, also palm down
    assert np.allclose(wrist_rotation(joints, Side.LEFT), np.eye(3), atol=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_wrist_frame_turns_with_the_hand_and_mirrors_with_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    joints = flat_right_hand() + 0.005 * rng.normal(size=(21, 3))
    rotation, shift = exp_so3(rng.normal(size=3)), rng.normal(size=3)
    frame = wrist_rotation(joints, Side.RIGHT)
    assert np.allclose(frame.T @ frame, np.eye(3)) and np.linalg.det(frame) > 0
    assert np.allclose(wrist_rotation(joints @ rotation.T + shift, Side.RIGHT), rotation @ frame)
    mirror = np.diag([-1.0, 1, 1])
    assert np.allclose(wrist_rotation(joints @ mirror, Side.LEFT), mirror @ frame @ np.diag([1.0, -1, 1]))


@pytest.mark.parametrize("side", list(Side))
def test_bent_fingers_do_not_turn_the_wrist(side: Side) -> None:
    """Its frame is that of the wrist and the knuckles of the index, middle and little finger."""
    joints = flat_right_hand()
    bent = joints + np.random.default_rng(1).normal(size=(21, 3))
    knuckles = [KEYPOINT_NAMES.index(name) for name in ("wrist", "index_mcp", "middle_mcp", "pinky_mcp")]
    bent[knuckles] = joints[knuckles]
    np.testing.assert_array_equal(wrist_rotation(bent, side), wrist_rotation(joints, side))


def test_collapsed_joints_have_no_orientation_but_no_nan_either() -> None:
    tiny = 1e-9 * flat_right_hand()
    assert np.allclose(wrist_rotation(tiny, Side.RIGHT), wrist_rotation(flat_right_hand(), Side.RIGHT))
    along = np.outer(np.arange(21), [1.0, 2.0, 3.0])
    for joints in (np.zeros((21, 3)), np.full((21, 3), np.nan), along, 1e-6 * along):
        assert np.allclose(wrist_rotation(joints, Side.LEFT), np.eye(3))


def test_names_skeleton_and_mano_order_belong_together() -> None:
    assert len(KEYPOINT_NAMES) == 21 and sorted(MANO_TO_KEYPOINTS) == list(range(21))
    assert len(SKELETON) == 20 and {child for _, child in SKELETON} == set(range(1, 21))
    for finger, indices in FINGERS.items():
        assert all(KEYPOINT_NAMES[i].startswith(finger) for i in indices)
    mano_tips = [MANO_TO_KEYPOINTS[indices[-1]] for indices in FINGERS.values()]
    assert mano_tips == [16, 17, 18, 19, 20]
    mano_joints = {name: [MANO_TO_KEYPOINTS[i] for i in indices[:3]] for name, indices in FINGERS.items()}
    assert mano_joints == {
        "index": [1, 2, 3], "middle": [4, 5, 6], "pinky": [7, 8, 9], "ring": [10, 11, 12], "thumb": [13, 14, 15],
    }  # fmt: skip
    for indices in FINGERS.values():
        chain = (0, *indices)
        assert set(zip(chain, chain[1:], strict=False)) <= set(SKELETON)


@pytest.fixture
def hand() -> Hand:
    return Hand(
        Side.RIGHT, 1.0, (0, 0, 1, 1), flat_right_hand(), np.zeros((21, 2)), np.tile(np.eye(3), (16, 1, 1)),
        np.zeros(10), np.zeros(3), "test", "open",
    )  # fmt: skip


def test_what_is_given_out_cannot_be_changed() -> None:
    """Trackers and followers keep the hands that they give out; whoever makes one keeps their own arrays."""
    joints = flat_right_hand()
    hand = Hand(
        Side.RIGHT, 1.0, (0, 0, 1, 1), joints, np.zeros((21, 2)), np.tile(np.eye(3), (16, 1, 1)), np.zeros(10),
        np.zeros(3), "test", "open", vertices=np.zeros((778, 3)), grasp=(1, np.zeros(9)),
    )  # fmt: skip
    assert hand.grasp is not None
    landmarks = Landmarks(np.zeros((21, 2)), np.zeros((21, 3)), 1.0)
    arrays = (hand.joints, hand.keypoints, hand.pose, hand.betas, hand.translation, hand.vertices, *hand.wrist)
    arrays = (*arrays, hand.grasp[1])
    for array in (*arrays, landmarks.image, landmarks.world):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array *= 1000
    joints += 1


@pytest.mark.parametrize(
    ("name", "shape"),
    [("joints", (20, 3)), ("keypoints", (21, 3)), ("pose", (48,)), ("betas", (1, 10)), ("translation", (4,))],
)
def test_a_hand_of_the_wrong_shape_is_refused(hand: Hand, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{name} has shape"):
        replace(hand, **{name: np.zeros(shape)})


@pytest.mark.parametrize(("image", "world"), [((20, 2), (21, 3)), ((21, 2), (21, 2))])
def test_landmarks_of_the_wrong_shape_are_refused(image: tuple[int, int], world: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="landmarks"):
        Landmarks(np.zeros(image), np.zeros(world), 1.0)


def test_boxes_take_what_other_detectors_give() -> None:
    corners = np.array([10, 20, 110, 220], np.float32)
    box = HandBox("right", corners, np.float32(0.75))  # type: ignore[arg-type]
    assert box == HandBox(Side.RIGHT, (10.0, 20.0, 110.0, 220.0), 0.75)
    assert [type(value) for value in (box.side, *box.xyxy, box.score)] == [Side, *[float] * 5]
    with pytest.raises(ValueError, match="up"):
        HandBox("up", (0, 0, 1, 1), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="four"):
        HandBox(Side.LEFT, (0, 0, 1), 1.0)  # type: ignore[arg-type]


def test_a_box_lies_about_its_middle_and_is_as_large_as_its_longer_edge() -> None:
    for xyxy in ((10, 20, 110, 60), (10, 20, 50, 120)):
        box = HandBox(Side.LEFT, xyxy, 1.0)
        assert box.center == ((xyxy[0] + xyxy[2]) / 2, (xyxy[1] + xyxy[3]) / 2) and box.size == 100


def test_the_wrist_lies_where_the_first_joint_does_and_sides_have_another(hand: Hand) -> None:
    position, rotation = hand.wrist
    np.testing.assert_array_equal(position, hand.joints[0])
    np.testing.assert_array_equal(rotation, wrist_rotation(hand.joints, hand.side))
    assert (Side.LEFT.other, Side.RIGHT.other) == (Side.RIGHT, Side.LEFT)


def test_sides_may_be_texts_and_are_never_mistaken(hand: Hand) -> None:
    for side in Side:
        named = replace(hand, side=side.value)
        assert named.side is side
        np.testing.assert_array_equal(named.wrist[1], replace(hand, side=side).wrist[1])
        np.testing.assert_array_equal(wrist_rotation(hand.joints, side.value), wrist_rotation(hand.joints, side))
    with pytest.raises(ValueError, match="banana"):
        replace(hand, side="banana")


def test_hands_can_be_looked_for_in_lists(hand: Hand) -> None:
    other = replace(hand)
    assert hand in [other, hand] and hand != other and len({hand, other}) == 2
