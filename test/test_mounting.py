"""Cameras that are mounted sideways or upside down: the same hands, whichever way the picture came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import ConfigError
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Hand, HandBox, Landmarks, Side
from wildhands_ros.mounting import Turn
from wildhands_ros.pipeline import EstimationConfig, Pipeline, PipelineConfig, PipelineResult
from wildhands_ros.synthetic import Lens, SequenceConfig, SyntheticSequence
from wildhands_ros.tracking import TrackingConfig

MODEL = load_hand_model()
CAMERA = Camera(64, 48, 40, 44, 30, 25, Distortion.PLUMB_BOB, (-0.1, 0.01, 2e-3, -3e-3))
QUARTERS = range(4)


def made_up_hand(camera: Camera) -> Hand:
    rng = np.random.default_rng(7)
    pose = Rotation.from_rotvec(rng.normal(scale=0.4, size=(16, 3))).as_matrix()
    betas, translation = rng.normal(size=10), np.array([0.05, -0.02, 0.5])
    vertices, joints = MODEL.layer(Side.LEFT).numpy(pose, betas, translation)
    pixels = camera.project(joints)
    return Hand(
        Side.LEFT, 0.9, (3.0, 5.0, 40.0, 30.0), joints, pixels, pose, betas, translation, "says", MODEL.name, vertices
    )


@pytest.mark.parametrize("quarters", QUARTERS)
def test_pixels_go_where_the_picture_has_them(quarters: int) -> None:
    """Against numpy's own way of turning."""
    image = np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8)
    turn = Turn(quarters, 64, 48)
    turned = turn.image(image)
    assert np.array_equal(turned, np.rot90(image, -quarters)) and turned.flags.c_contiguous
    v, u = np.mgrid[0:48, 0:64]
    x, y = np.moveaxis(turn.pixels(np.stack([u, v], axis=-1)), -1, 0)
    assert np.array_equal(turned[y, x], image)
    assert np.array_equal(turn.back.image(turned), image)
    assert turn.back.back == turn


@pytest.mark.parametrize("quarters", QUARTERS)
def test_a_turned_hand_is_the_same_hand_before_a_turned_camera(quarters: int) -> None:
    hand, turn = made_up_hand(CAMERA), Turn(quarters, 64, 48)
    turned, camera = turn.hand(hand), turn.camera(CAMERA)
    assert (camera.width, camera.height) == ((48, 64) if quarters % 2 else (64, 48))
    vertices, joints = MODEL.layer(Side.LEFT).numpy(turned.pose, turned.betas, turned.translation)
    np.testing.assert_allclose(turned.joints, joints, atol=1e-9)
    assert turned.vertices is not None and hand.vertices is not None
    np.testing.assert_allclose(turned.vertices, vertices, atol=1e-7)  # the skinning weights are of float32
    np.testing.assert_allclose(turned.keypoints, camera.project(joints), atol=1e-9)
    assert turned.joints[0, 2] == hand.joints[0, 2] and turned.side is hand.side
    (x0, y0), (x1, y1) = turn.pixels(np.reshape(hand.box, (2, 2)))
    assert turned.box == (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    back = turn.back.hand(turned)
    for name in ("joints", "keypoints", "pose", "translation", "vertices", "box"):
        np.testing.assert_allclose(getattr(back, name), getattr(hand, name), atol=1e-12)
    assert replace(hand, vertices=None).vertices is None is turn.hand(replace(hand, vertices=None)).vertices


@pytest.mark.parametrize("quarters", QUARTERS)
@pytest.mark.parametrize("corners", [(3.0, 5.0, 40.0, 30.0), (40.0, 5.0, 3.0, 30.0), (3.0, 30.0, 40.0, 5.0)])
def test_boxes_turn_with_their_landmarks_and_bad_ones_stay_bad(
    quarters: int, corners: tuple[float, float, float, float]
) -> None:
    hand, turn = made_up_hand(CAMERA), Turn(quarters, 64, 48)
    box = HandBox(Side.LEFT, corners, 0.9, landmarks=Landmarks(hand.keypoints, hand.joints, 0.99), follow_id=4)
    turned = turn.box(box)
    assert turned.landmarks is not None
    np.testing.assert_allclose(turned.landmarks.image, turn.hand(hand).keypoints)
    np.testing.assert_allclose(turned.landmarks.world, turn.hand(hand).joints)
    x0, y0, x1, y1 = turned.xyxy
    edges = [corners[2] - corners[0], corners[3] - corners[1]]
    assert [x1 - x0, y1 - y0] == (edges[::-1] if quarters % 2 else edges)
    middle = np.array([[corners[0] + corners[2], corners[1] + corners[3]]]) / 2
    np.testing.assert_allclose(turned.center, turn.pixels(middle)[0])
    again = turn.back.box(turned)
    assert again.xyxy == corners and (again.side, again.score, again.follow_id) == (Side.LEFT, 0.9, 4)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """A few pictures of two hands through a lens that is not centred, a fifth of a second apart."""
    sequence = SyntheticSequence(SequenceConfig(seed=1, lens=Lens.WIDE, seconds=1, rate=5))
    found = []
    for frame, _ in sequence:
        camera = frame.camera.cropped(24, 16, frame.camera.width - 24, frame.camera.height - 16)
        found.append(replace(frame, image=np.ascontiguousarray(frame.image[16:, 24:]), camera=camera))
    return found


def compare(found: PipelineResult, expected: PipelineResult, turn: Turn) -> None:
    """Hands of pictures that were turned by `turn`, and of the same pictures upright."""
    assert len(found.hands) == len(expected.hands) and len(found.boxes) == len(expected.boxes)
    for name in ("hands", "raw"):
        for hand, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            truth = turn.hand(other)
            assert (hand.side, hand.score, hand.track_id, hand.valid) == (
                truth.side, truth.score, truth.track_id, truth.valid
            )  # fmt: skip
            for field in ("joints", "translation", "vertices", "pose"):
                np.testing.assert_allclose(getattr(hand, field), getattr(truth, field), atol=1e-6)
            np.testing.assert_allclose(hand.keypoints, truth.keypoints, atol=1e-3)
            np.testing.assert_allclose(hand.box, truth.box)
    for box, expected_box in zip(found.boxes, expected.boxes, strict=True):
        np.testing.assert_allclose(box.xyxy, turn.box(expected_box).xyxy)


@pytest.mark.parametrize(("estimator", "rotations"), [("open", [270]), ("landmarks", [90, 180, 270])])
def test_hands_are_the_same_whichever_way_the_camera_is_mounted(
    estimator: str, rotations: list[int], frames: list[Frame]
) -> None:
    """As a stream, smoothed, and as stills; detector and estimator are shown the very same pictures."""
    config = PipelineConfig(
        estimation=EstimationConfig(estimator=estimator, backend="torch"), tracking=TrackingConfig(smooth=True)
    )
    upright = Pipeline.from_config(config)
    stream = [upright.process(frame) for frame in frames]
    still = upright.process_still(frames[-1])
    assert all(result.hands for result in stream[1:]) and still.hands
    for degrees in rotations:
        turn = Turn(4 - degrees // 90, frames[0].camera.width, frames[0].camera.height)  # as the camera is mounted
        pipeline = Pipeline.from_config(replace(config, upright_rotation=degrees))
        for frame, expected in zip(frames, stream, strict=True):
            compare(pipeline.process(turn.frame(frame)), expected, turn)
        compare(pipeline.process_still(turn.frame(frames[-1])), still, turn)
        given = turn.boxes(still.boxes)
        compare(pipeline.process_still(turn.frame(frames[-1]), given), still, turn)


def test_only_quarter_turns_are_taken() -> None:
    for degrees in (45, -90, 360, 1):
        with pytest.raises(ConfigError, match=f"0, 90, 180, 270; not {degrees}"):
            PipelineConfig(upright_rotation=degrees)
    config = PipelineConfig(estimation=EstimationConfig(estimator="landmarks"))
    pipeline = Pipeline.from_config(config, with_detector=False)
    assert not pipeline.configure(replace(config, upright_rotation=90))
