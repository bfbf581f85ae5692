"""The open network as the pipeline's estimator: its checkpoint, its hand model, refinement, validity."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.cli import main
from wildhands_ros.cli.bench import stage_table
from wildhands_ros.cli.common import add_pipeline, read_pipeline
from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation import Estimator, LandmarkFit
from wildhands_ros.estimation.refinement import Parameters, RefinementConfig, Refiner
from wildhands_ros.estimation.wildhands import (
    SHIPPED_CHECKPOINT,
    CheckpointInfo,
    Crops,
    OpenHands,
    Perspective,
    RuntimeConfig,
    Translation,
    Trunk,
    Variant,
    WildHands,
    WildHandsConfig,
    load_checkpoint,
    open_checkpoint_missing,
    open_hands,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.bench import WHOLE_ESTIMATE, bench_open
from wildhands_ros.estimation.wildhands.check_pictures import check_pictures
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.estimation.wildhands.places import CropPlace
from wildhands_ros.estimation.wildhands.runtime import Backend, Precision
from wildhands_ros.estimation.wildhands.steady import KnownRolls, SteadyCrops
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandModel, load_hand_model
from wildhands_ros.hands import Hand, HandBox, Landmarks, Side
from wildhands_ros.pipeline import DEFAULT_ESTIMATOR, ESTIMATORS, EstimationConfig, Pipeline, PipelineConfig
from wildhands_ros.pipeline.pipeline import make_estimator

pytestmark = pytest.mark.usefixtures("one_thread")

CAMERA = Camera.pinhole(640, 480, 400)
BARREL = Camera(640, 480, 400, 400, 320, 240, Distortion.PLUMB_BOB, (-0.1, 0.02, 0.0, 0.0))
FRAME_NS = 33_333_333
BOX = HandBox(Side.RIGHT, (240.0, 160.0, 400.0, 320.0), 0.9)


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model()


@pytest.fixture(scope="module")
def variant(model: HandModel) -> Variant:
    """The shipped network's way of working, with narrower heads."""
    x, y, z = (float(v) for v in model.right.joint_template[0])
    return Variant(
        trunk=Trunk.LANDMARKS, frame_trunk=False, grasp=True, crops=Crops.SHARP, perspective=Perspective.CORRECTION,
        translation=Translation.CROP, fusion=(48, 32, 24), features=96, hidden=48, box_factor=1.5, mirror=True,
        root=(x, y, z),
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(variant: Variant, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("open") / "open.safetensors"
    save_checkpoint(path, made_up_network(variant, 5), CheckpointInfo(variant, "none", "open", "Apache-2.0"), half=True)
    return path


@pytest.fixture(scope="module")
def frame() -> Frame:
    return a_frame(CAMERA)


def a_frame(camera: Camera) -> Frame:
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width]
    waves = [127 + 80 * np.sin(rows / 23 + k) * np.cos(columns / (17 + 5 * k)) for k in range(3)]
    return Frame(np.stack(waves, axis=-1).astype(np.uint8), camera)


def configuration(checkpoint: Path | None = None) -> WildHandsConfig:
    """With a made-up network, whose hands do not lie where it looks, crops are those of the boxes."""
    runtime = RuntimeConfig(device="cpu", backend=Backend.TORCH, threads=1)
    return WildHandsConfig(checkpoint, look_again=checkpoint is None, runtime=runtime)


def load(checkpoint: Path, model: HandModel, *, refine: bool = True, **weights: float) -> OpenHands:
    return OpenHands.load(configuration(checkpoint), model, refine=refine, refinement=RefinementConfig(**weights))


@pytest.fixture(scope="module")
def estimator(checkpoint: Path, model: HandModel) -> OpenHands:
    return load(checkpoint, model)


def alone(estimator: OpenHands, frame: Frame, box: HandBox) -> Hand:
    estimates = estimator.estimate(frame, [box])
    assert not estimates.skipped
    return estimates.hands[0]


def landmarks_of(hand: Hand, model: HandModel, camera: Camera, presence: float = 1.0) -> Landmarks:
    """Where the landmark network would see a hand."""
    points = Refiner(model).landmarks(Parameters(hand.pose, hand.betas, hand.translation), hand.side)
    return Landmarks(camera.project(points), points - points.mean(axis=0), presence)


# --- what it makes of pictures ----------------------------------------------------------------------------------------


def test_hands_are_whole(estimator: OpenHands, frame: Frame, model: HandModel) -> None:
    as_protocol: Estimator = estimator
    assert as_protocol.name == "open"
    hand = alone(estimator, frame, BOX)
    assert hand.estimator == "open" and hand.hand_model == "open" and hand.grasp is not None
    vertices, joints = model.right.numpy(hand.pose, hand.betas, hand.translation)
    assert np.allclose(joints, hand.joints) and hand.vertices is not None and np.allclose(vertices, hand.vertices)
    assert np.isnan(hand.reprojection_error)


def test_every_box_is_estimated(estimator: OpenHands, frame: Frame) -> None:
    other = replace(BOX, xyxy=(40.0, 60.0, 180.0, 200.0), score=0.6)
    estimates = estimator.estimate(frame, [BOX, other])
    assert len(estimates.hands) == 2 and not estimates.skipped


def test_boxes_without_landmarks_stay_as_the_network_has_them(checkpoint, estimator, model, frame) -> None:
    plain = load(checkpoint, model, refine=False)
    assert np.array_equal(alone(estimator, frame, BOX).joints, alone(plain, frame, BOX).joints)


@pytest.mark.parametrize("camera", [CAMERA, BARREL])
@pytest.mark.parametrize("side", Side)
def test_landmarks_move_the_hand(estimator: OpenHands, model: HandModel, side: Side, camera: Camera) -> None:
    frame, box = a_frame(camera), replace(BOX, side=side)
    raw = alone(estimator, frame, box)
    seen = landmarks_of(raw, model, camera)
    size = np.ptp(seen.image, axis=0).max()
    moved = replace(seen, image=seen.image + 0.06 * size)
    hand = alone(estimator, frame, replace(box, landmarks=moved))
    shift = hand.keypoints - raw.keypoints
    assert np.allclose(shift.mean(axis=0), 0.06 * size, atol=0.02 * size)
    assert hand.reprojection_error < 0.5 * np.sqrt(2) * 0.06 * size and hand.valid
    assert np.allclose(camera.project(hand.joints), hand.keypoints)
    vertices, joints = model.layer(side).numpy(hand.pose, hand.betas, hand.translation)
    assert np.allclose(joints, hand.joints) and np.allclose(vertices, hand.vertices)


def test_without_refinement_landmarks_only_judge(checkpoint, estimator, model, frame) -> None:
    plain = load(checkpoint, model, refine=False)
    raw = alone(plain, frame, BOX)
    seen = landmarks_of(raw, model, CAMERA)
    shifted = replace(seen, image=seen.image + [9.0, 0.0])
    hand = alone(plain, frame, replace(BOX, landmarks=shifted))
    assert np.array_equal(hand.joints, raw.joints) and hand.reprojection_error == pytest.approx(9.0, abs=1e-6)
    assert hand.valid


@pytest.mark.parametrize("refine", [True, False])
def test_a_hand_that_the_landmarks_contradict_is_invalid(checkpoint, model, frame, refine: bool) -> None:
    estimator = load(checkpoint, model, refine=refine)
    raw = alone(estimator, frame, BOX)
    seen = landmarks_of(raw, model, CAMERA)
    middle = seen.image.mean(axis=0)
    smaller = replace(seen, image=middle + 0.45 * (seen.image - middle) + np.ptp(seen.image, axis=0) * 0.3)
    assert raw.valid
    assert alone(estimator, frame, replace(BOX, landmarks=seen)).valid
    assert not alone(estimator, frame, replace(BOX, landmarks=smaller)).valid
    unsure = replace(smaller, presence=0.4)
    hand = alone(estimator, frame, replace(BOX, landmarks=unsure))
    assert hand.valid and np.array_equal(hand.joints, raw.joints)


def test_boxes_over_the_edge_mean_what_the_picture_shows(estimator: OpenHands, frame: Frame) -> None:
    cut, over = replace(BOX, xyxy=(-0.5, 200.0, 120.0, 330.0)), replace(BOX, xyxy=(-90.0, 200.0, 120.0, 330.0))
    assert np.array_equal(alone(estimator, frame, over).joints, alone(estimator, frame, cut).joints)
    assert alone(estimator, frame, over).box == over.xyxy


def test_followed_hands_keep_the_size_of_their_crops(estimator: OpenHands, frame: Frame) -> None:
    """The flicker of a box does not reach the depth; its place, and what is reported of it, do."""
    x0, y0, x1, y1 = BOX.xyxy
    wider = (x0 - 10, y0 - 10, x1 + 10, y1 + 10)

    def depths(follow_id: int) -> list[float]:
        estimator.reset()
        found = []
        for i in range(8):
            box = replace(BOX, xyxy=(BOX.xyxy, wider)[i % 2], follow_id=follow_id)
            hand = alone(estimator, replace(frame, stamp_ns=i * FRAME_NS), box)
            assert hand.box == box.xyxy
            found.append(float(hand.joints[0, 2]))
        return found

    jumping, steady = depths(-1), depths(3)
    assert steady[0] == jumping[0]
    assert np.abs(np.diff(steady)).mean() < 0.5 * np.abs(np.diff(jumping)).mean()
    # a new stream, a hand that was away for long, another hand: the crop of the box
    estimator.estimate(replace(frame, stamp_ns=0), [replace(BOX, follow_id=3)])
    fresh = replace(BOX, xyxy=wider, follow_id=4)
    assert alone(estimator, replace(frame, stamp_ns=FRAME_NS), fresh).joints[0, 2] == jumping[1]
    late = replace(frame, stamp_ns=10**9)
    assert alone(estimator, late, replace(fresh, follow_id=3)).joints[0, 2] == jumping[1]
    estimator.reset()
    assert alone(estimator, replace(frame, stamp_ns=FRAME_NS), replace(fresh, follow_id=3)).joints[0, 2] == jumping[1]


@pytest.fixture(scope="module")
def shipped(model: HandModel) -> OpenHands:
    return OpenHands.load(configuration(), model, refine=False)


def grown(box: HandBox, factor: float, beside: float = 0) -> HandBox:
    x0, y0, x1, y1 = box.xyxy
    x, y, width, height = (x0 + x1) / 2 + beside * box.size, (y0 + y1) / 2, (x1 - x0) * factor, (y1 - y0) * factor
    return replace(box, xyxy=(x - width / 2, y - height / 2, x + width / 2, y + height / 2))


@pytest.mark.parametrize("distorted", [False, True])
@pytest.mark.parametrize(("factor", "beside"), [(0.5, 0), (0.7, 0), (1.5, 0), (2.0, 0), (1.0, 0.3)])
def test_a_hand_that_does_not_fit_its_box_is_looked_at_as_it_was_found(
    shipped: OpenHands, model: HandModel, factor: float, beside: float, distorted: bool
) -> None:
    as_told = OpenHands(shipped.network, model, replace(shipped.config, look_again=False), refine=False)
    off, off_as_told = [], []
    for picture in check_pictures(0, 5):
        camera = picture.camera
        if distorted:  # so little that the pictures are still right, but shown in a rectified view
            camera = replace(camera, model=Distortion.PLUMB_BOB, coefficients=(-0.01, 0.0, 0.0, 0.0))
        frame = Frame(picture.image, camera)
        for side, xyxy in picture.boxes.items():
            tight = HandBox(side, xyxy, 1.0)
            box = grown(tight, factor, beside)
            right = alone(as_told, frame, tight).joints
            hand = alone(shipped, frame, box)
            assert hand.box == box.xyxy
            off.append(np.linalg.norm(hand.joints - right, axis=1).mean())
            off_as_told.append(np.linalg.norm(alone(as_told, frame, box).joints - right, axis=1).mean())
    assert np.median(off) < 0.6 * np.median(off_as_told)


@pytest.mark.parametrize("factor", [0.6, 1.5, 2.0])
def test_a_box_factor_that_makes_up_for_how_boxes_are_drawn_is_not_that_of_boxes_about_found_hands(
    shipped: OpenHands, model: HandModel, factor: float
) -> None:
    own = shipped.network.info.variant.box_factor
    making_up = OpenHands(shipped.network, model, replace(shipped.config, box_factor=own / factor), refine=False)
    for picture in check_pictures(1, 2):
        frame = Frame(picture.image, picture.camera)
        for side, xyxy in picture.boxes.items():
            tight = HandBox(side, xyxy, 1.0)
            right = alone(shipped, frame, tight).joints
            np.testing.assert_allclose(alone(making_up, frame, grown(tight, factor)).joints, right, atol=1e-3)


def test_only_boxes_without_landmarks_are_drawn_again_and_none_of_followed_hands(
    checkpoint: Path, model: HandModel, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks(box: HandBox, **settings: bool) -> int:
        estimator = OpenHands.load(replace(configuration(checkpoint), **settings), model)
        seen, look = [], estimator._look
        monkeypatch.setattr(estimator, "_look", lambda *arguments: seen.append(arguments) or look(*arguments))
        alone(estimator, frame, box)
        return len(seen)

    landmarks = Landmarks(np.full((21, 2), np.nan), np.zeros((21, 3)), 0.0)
    assert looks(BOX, look_again=True) == 4  # this network never finds the hand where it looks
    assert looks(replace(BOX, follow_id=0), look_again=True) == 1
    assert looks(replace(BOX, landmarks=landmarks), look_again=True) == 1
    assert looks(BOX, look_again=False) == 1


def test_where_the_network_is_not_sure_it_looks_wider_and_believes_what_it_is_surer_of(
    shipped: OpenHands, monkeypatch: pytest.MonkeyPatch
) -> None:
    (picture,) = check_pictures(3, 1)
    frame = Frame(picture.image, picture.camera)
    nothing = Landmarks(np.full((21, 2), np.nan), np.zeros((21, 3)), 0.0)  # so that the box is the detector's
    box = replace(grown(HandBox(Side.LEFT, picture.boxes[Side.LEFT], 1.0), 0.45), landmarks=nothing)
    followed = alone(shipped, frame, replace(box, follow_id=0))
    wider = alone(shipped, frame, box)
    right = alone(shipped, frame, HandBox(Side.LEFT, picture.boxes[Side.LEFT], 1.0)).joints
    assert followed.expected_error > 0.02 and wider.expected_error < 0.9 * followed.expected_error
    assert np.abs(wider.joints - right).mean() < 0.5 * np.abs(followed.joints - right).mean()
    monkeypatch.setattr(open_hands, "_SURER", 0.1)
    np.testing.assert_allclose(alone(shipped, frame, box).joints, followed.joints, atol=1e-6)
    monkeypatch.undo()
    monkeypatch.setattr(open_hands, "_UNSURE", 1.01 * followed.expected_error)
    np.testing.assert_allclose(alone(shipped, frame, box).joints, followed.joints, atol=1e-6)


def test_of_two_hands_only_the_one_that_does_not_fit_is_looked_at_again(
    shipped: OpenHands, monkeypatch: pytest.MonkeyPatch
) -> None:
    (picture,) = check_pictures(3, 1)
    frame = Frame(picture.image, picture.camera)
    fitting, other = (HandBox(side, picture.boxes[side], 1.0) for side in (Side.LEFT, Side.RIGHT))
    before = alone(shipped, frame, fitting)
    seen, look = [], shipped._look
    monkeypatch.setattr(shipped, "_look", lambda *arguments: seen.append(arguments[3]) or look(*arguments))
    hands = shipped.estimate(frame, [fitting, grown(other, 1.6)]).hands
    np.testing.assert_allclose(hands[0].joints, before.joints, atol=1e-5)
    assert [box.side for box in seen[0]] == [fitting.side, other.side]
    assert len(seen) > 1 and all([box.side for box in boxes] == [other.side] for boxes in seen[1:])


def test_crops_follow_their_boxes_but_for_a_bounded_lag() -> None:
    steady, box = SteadyCrops(), replace(BOX, follow_id=0)

    def square(extent: float) -> CropPlace:
        return CropPlace.square((100.0, 80.0), extent)

    def extent(wanted: float, i: int) -> float:
        (crop,) = steady([square(wanted)], [box], i * FRAME_NS)
        half = crop.extent / 2
        assert crop.center == (100, 80)
        assert crop.box == pytest.approx((100 - half, 80 - half, 100 + half, 80 + half))
        return crop.extent

    assert extent(50, 0) == 50
    assert 50 < extent(51, 1) < 50.5
    assert extent(100, 2) == pytest.approx(100 / 1.15)  # the hand came near at once: never cut off
    assert [extent(100, i) for i in range(3, 33)][-1] == pytest.approx(100, rel=1e-3)
    assert extent(20, 33) == pytest.approx(20 * 1.15)
    # the same from pictures half as often
    slow, fast = SteadyCrops(), SteadyCrops()
    for one, step in ((slow, 2), (fast, 1)):
        one([square(100)], [box], 0)
        for i in range(step, 5, step):
            (last,) = one([square(105)], [box], i * FRAME_NS)
        assert last.extent == pytest.approx(105 * math.exp(math.log(100 / 105) * math.exp(-4 * FRAME_NS * 1e-9 / 0.09)))


def test_rolls_are_known_of_followed_hands_for_half_a_second() -> None:
    rolls, hands = KnownRolls(), [replace(BOX, follow_id=i) for i in (0, 7, -1, 8)]

    def known(stamp_ms: int) -> list[float | None]:
        return [rolls(hand, stamp_ms * 10**6) for hand in hands]

    assert known(1000) == [None] * 4
    rolls.keep(hands, [0.5, 4.0, 1.0, math.nan], 1000 * 10**6)
    both = [0.5, pytest.approx(4.0 - math.tau), None, None]
    assert known(1033) == known(1499) == both
    assert known(1000) == known(1500) == known(900) == [None] * 4  # the same picture, a later and an earlier one
    rolls.keep(hands[1:2], [0.1], 1400 * 10**6)  # a picture in which the first was not seen
    assert known(1450) == [0.5, 0.1, None, None] and known(1600) == [None, 0.1, None, None]
    rolls.reset()
    assert known(1450) == [None] * 4


def test_useless_landmarks_are_passed_over(estimator: OpenHands, frame: Frame) -> None:
    nothing = Landmarks(np.full((21, 2), np.nan), np.zeros((21, 3)), 1.0)
    hand = alone(estimator, frame, replace(BOX, landmarks=nothing))
    assert np.array_equal(hand.joints, alone(estimator, frame, BOX).joints)


def test_mirrored_pictures_give_mirrored_hands(estimator: OpenHands, model: HandModel, frame: Frame) -> None:
    raw = alone(estimator, frame, BOX)
    seen = landmarks_of(raw, model, CAMERA)
    seen = replace(seen, image=seen.image + 6.0)
    hand = alone(estimator, frame, replace(BOX, landmarks=seen))
    x0, y0, x1, y1 = BOX.xyxy
    last = CAMERA.width - 1
    flipped = Landmarks(
        np.stack([last - seen.image[:, 0], seen.image[:, 1]], axis=1), seen.world * (-1, 1, 1), seen.presence
    )
    mirrored = alone(
        estimator,
        Frame(np.ascontiguousarray(frame.image[:, ::-1]), CAMERA.mirrored()),
        HandBox(Side.LEFT, (last - x1, y0, last - x0, y1), 0.9, landmarks=flipped),
    )
    assert np.allclose(mirrored.joints, hand.joints * (-1, 1, 1), atol=1e-4)


# --- which network, which hand ----------------------------------------------------------------------------------------


def test_another_hand_model_is_refused(checkpoint: Path, model: HandModel) -> None:
    with pytest.raises(ConfigError, match="speaks the open hand's parameters, not those of 'mano'"):
        load(checkpoint, HandModel("mano", model.right, model.left, ""))


def test_a_checkpoint_of_another_hand_is_refused(variant: Variant, model: HandModel, tmp_path: Path) -> None:
    path = tmp_path / "mano.safetensors"
    save_checkpoint(path, made_up_network(variant, 5), CheckpointInfo(variant, "none", "mano", "?"))
    with pytest.raises(ConfigError, match="trained on the hand model 'mano'"):
        load(path, model)


def test_mano_files_are_refused_before_any_is_read() -> None:
    config = PipelineConfig(estimation=EstimationConfig(estimator="open", mano_dir=Path("/nowhere")))
    with pytest.raises(ConfigError, match="'open' speaks the open hand's parameters, not MANO's .*mano_dir"):
        Pipeline.from_config(config, with_detector=False)
    with pytest.raises(ConfigError, match="mano_dir"):
        make_estimator(config.estimation, load_hand_model())


def test_missing_checkpoints_say_what_to_do(model: HandModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.safetensors is missing: name another, or none"):
        OpenHands.load(configuration(tmp_path / "gone.safetensors"), model)
    absent = tmp_path / "open_hand_network.safetensors"
    monkeypatch.setattr(open_hands, "SHIPPED_CHECKPOINT", absent)
    with pytest.raises(ModelFileError, match="not in this installation"):
        OpenHands.load(configuration(), model)
    assert "not in this installation" in (open_checkpoint_missing(absent) or "")
    # the other network's message is about the weights that users bring
    with pytest.raises(ModelFileError, match="WildHands weights are their authors'"):
        make_estimator(EstimationConfig(estimator="wildhands"), model)


def test_the_pipeline_makes_it(checkpoint: Path, model: HandModel, frame: Frame, tmp_path: Path) -> None:
    estimation = EstimationConfig(
        estimator="open", checkpoint=checkpoint, backend="torch", device="cpu", threads=1, mesh=False, refine=False
    )
    pipeline = Pipeline.from_config(PipelineConfig(estimation=estimation), with_detector=False)
    hand = pipeline.process(frame, [BOX]).hands[0]
    assert hand.estimator == "open" and hand.vertices is None
    assert isinstance(pipeline.estimator, OpenHands) and not pipeline.estimator.refine


@pytest.mark.parametrize(("name", "kind"), [("open", OpenHands), ("wildhands", WildHands)])
def test_every_setting_reaches_the_network(
    model: HandModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type
) -> None:
    given: dict[str, Any] = {}

    def load(config: WildHandsConfig, hand_model: HandModel, **options: Any) -> LandmarkFit:
        given.update(options, config=config, hand_model=hand_model)
        return LandmarkFit(hand_model)

    monkeypatch.setattr(kind, "load", load)
    make_estimator(
        EstimationConfig(
            estimator=name, mesh=False, checkpoint=tmp_path / "a", box_factor=2.5, all_hands=True, looks=3,
            refine=False, largest_expected_error=0.02, device="cuda:1", backend="openvino", precision="int8",
            threads=3, tolerance_mm=2.5, calibration=tmp_path / "b", cache_dir=tmp_path / "c",
            refinement=RefinementConfig(turn=9.0),
        ),
        model,
    )  # fmt: skip
    runtime = RuntimeConfig(
        device="cuda:1", backend=Backend.OPENVINO, precision=Precision.INT8, threads=3, tolerance_mm=2.5,
        calibration=tmp_path / "b", cache_dir=tmp_path / "c",
    )  # fmt: skip
    config = WildHandsConfig(
        checkpoint=tmp_path / "a", box_factor=2.5, all_hands=True, looks=3, largest_expected_error=0.02, runtime=runtime
    )
    own = {"refine": False, "refinement": RefinementConfig(turn=9.0)} if name == "open" else {}
    assert given == {"config": config, "hand_model": model, "with_mesh": False, **own}


def test_the_shipped_checkpoint_is_what_it_should_be_where_it_is_there() -> None:
    """Without it the estimator must not be the default."""
    if open_checkpoint_missing() is not None:
        assert DEFAULT_ESTIMATOR != "open"
        return
    network, info = load_checkpoint(SHIPPED_CHECKPOINT)
    assert SHIPPED_CHECKPOINT.stat().st_size <= 20e6
    assert info.hand_model == "open" and info.licence == "Apache-2.0" and info.training_data and info.errors
    assert network.variant.mirror and not network.variant.frame_trunk


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_default_is_one_of_them_everywhere() -> None:
    assert set(ESTIMATORS) == {"open", "landmarks", "wildhands"}
    assert EstimationConfig().estimator == PipelineConfig().estimation.estimator == DEFAULT_ESTIMATOR


def test_the_command_line_chooses(tmp_path: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_pipeline(parser)

    def chosen(*arguments: str) -> EstimationConfig:
        return read_pipeline(parser.parse_args(arguments)).estimation

    assert chosen().estimator == DEFAULT_ESTIMATOR and chosen().refine
    assert chosen("--estimator", "open", "--no-refine") == EstimationConfig(estimator="open", refine=False)
    assert chosen("--checkpoint", "w.ckpt").estimator == "wildhands"
    assert chosen("--checkpoint", "w.ckpt", "--all-hands").all_hands and not chosen("--checkpoint", "w.ckpt").all_hands
    assert chosen("--estimator", "open", "--checkpoint", "w.st").checkpoint == Path("w.st")
    assert chosen("--checkpoint", str(SHIPPED_CHECKPOINT)).estimator == "open"
    assert chosen("--checkpoint", str(SHIPPED_CHECKPOINT), "--estimator", "wildhands").estimator == "wildhands"
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(SHIPPED_CHECKPOINT.read_bytes()[:1000])
    for path in (damaged, tmp_path, Path(__file__)):
        assert chosen("--checkpoint", str(path)).estimator == "wildhands"


def test_doctor_speaks_of_the_open_network(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--no-topics"])
    assert "open network" in capsys.readouterr().out


def test_bench_times_every_stage(estimator: OpenHands) -> None:
    timings = bench_open(estimator, rounds=2)
    stages = ["crops", "network", "hand model", "refinement", WHOLE_ESTIMATE]
    assert [(t.stage, t.hands) for t in timings] == [(stage, count) for count in (1, 2) for stage in stages]
    assert all(t.runs == 2 and 0 < t.median_ms <= t.p95_ms for t in timings)
    text = stage_table([replace(t, median_ms=6.0 * t.hands, cpu_ms=9.0 * t.hands) for t in timings])
    assert text.count("\n") == 1 + len(stages) and all(stage in text for stage in stages)
    assert text.count(" 6.0 ") == text.count(" 9.0 ") == 2 * len(stages)  # each hand's share
