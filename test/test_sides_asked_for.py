"""Sides of which the detector is not sure: what the estimator says of them, and who hears it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_detection_follower import ACROSS, FRAME_NS, PICTURE, UPRIGHT, Search
from test_pipeline import CAMERA, IMAGE, ScriptedDetector, frame, seen_hand

from wildhands_ros.detection import DetectorConfig
from wildhands_ros.detection.boxes import with_evidence
from wildhands_ros.detection.follower import HandFollower
from wildhands_ros.estimation import KnownLength, LandmarkFit, SideJudge
from wildhands_ros.estimation.wildhands import (
    Backend,
    OpenHands,
    RuntimeConfig,
    WildHandsConfig,
    load_checkpoint,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.check_pictures import check_pictures
from wildhands_ros.estimation.wildhands.open_hands import SHIPPED_CHECKPOINT
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import HandBox, Side
from wildhands_ros.mounting import Turn
from wildhands_ros.pipeline import Pipeline, PipelineConfig

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = load_hand_model()
SIDES = st.sampled_from(list(Side))


class Judge(LandmarkFit):
    """The landmark fit with an opinion about sides."""

    def __init__(self, right: float) -> None:
        super().__init__(MODEL)
        self.right = right
        self.asked: list[list[int]] = []

    def side_log_odds(self, frame: Frame, boxes: Sequence[HandBox]) -> list[float]:
        self.asked.append([box.follow_id for box in boxes])
        return [self.right] * len(boxes)


@dataclass
class Stream:
    """A pipeline whose detector sees a left hand of which it is sure, and one of which it is not."""

    right: float = 4.0
    config: PipelineConfig = field(default_factory=PipelineConfig)

    def __post_init__(self) -> None:
        sure = replace(seen_hand(Side.LEFT, -0.1, follow_id=4), side_probability=0.99)
        unsure = replace(seen_hand(Side.LEFT, 0.1, follow_id=5), side_probability=0.9)
        self.detector = ScriptedDetector([sure, unsure])
        self.judge = Judge(self.right)
        self.pipeline = Pipeline(self.config, self.detector, self.judge, MODEL)

    def sides(self, milliseconds: int) -> list[tuple[Side, float]]:
        result = self.pipeline.process(frame(milliseconds * 10**6))
        assert [hand.side for hand in result.hands] == [box.side for box in result.boxes]
        return [(box.side, round(box.side_probability, 3)) for box in result.boxes]


# --- evidence ---------------------------------------------------------------------------------------------------------


@given(SIDES, st.floats(0.5, 1.0), st.floats(-8, 8))
def test_evidence_for_the_other_side_of_the_mirror_gives_the_other_side(side: Side, sure: float, right: float) -> None:
    box = HandBox(side, (0, 0, 1, 1), 1.0, sure)
    weighed = with_evidence(box, right)
    mirrored = with_evidence(replace(box, side=Side.LEFT if side is Side.RIGHT else Side.RIGHT), -right)
    assert mirrored.side_probability == weighed.side_probability and 0.5 <= weighed.side_probability <= 1
    assert mirrored.side is not weighed.side


@given(SIDES, st.floats(0.5, 0.999), st.floats(-8, 8))
def test_opposite_evidence_cancels(side: Side, sure: float, right: float) -> None:
    box = HandBox(side, (0, 0, 1, 1), 1.0, sure)
    back = with_evidence(with_evidence(box, right), -right)
    assert back.side_probability == pytest.approx(sure, abs=1e-6)
    assert back.side is side or sure == pytest.approx(0.5, abs=1e-6)


def test_evidence_adds_up_in_log_odds() -> None:
    box = HandBox(Side.LEFT, (0, 0, 1, 1), 1.0, 0.8)
    assert with_evidence(box, math.log(4)).side_probability == pytest.approx(0.5)
    other = with_evidence(box, math.log(36))
    assert other.side is Side.RIGHT and other.side_probability == pytest.approx(0.9)
    surer = with_evidence(box, -math.log(4))
    assert surer.side is Side.LEFT and surer.side_probability == pytest.approx(16 / 17)
    certain = replace(box, side_probability=1.0)
    assert with_evidence(certain, 20.0).side is Side.LEFT  # what is certain needs more than that


# --- the pipeline -----------------------------------------------------------------------------------------------------


def test_a_side_that_is_impossible_is_the_other_one() -> None:
    box = with_evidence(HandBox(Side.LEFT, (0, 0, 1, 1), 1.0, 0.0), 0.5)
    assert box.side is Side.RIGHT and box.side_probability == pytest.approx(1.0)


def test_an_answer_that_is_no_number_says_nothing() -> None:
    stream = Stream(right=math.nan)
    assert stream.sides(0) == [(Side.LEFT, 0.99), (Side.LEFT, 0.9)]
    assert stream.detector.heard == []


def test_only_sides_in_doubt_are_asked_about_and_the_detector_hears_the_answer() -> None:
    stream = Stream()
    expected = 1 / (1 + math.exp(-(4 - math.log(9))))
    assert stream.sides(0) == [(Side.LEFT, 0.99), (Side.RIGHT, round(expected, 3))]
    assert stream.judge.asked == [[5]] and stream.detector.heard == [{5: 4.0}]


def test_about_a_followed_hand_somebody_is_asked_twice_a_second() -> None:
    stream = Stream(right=-1.0)
    for i in range(40):
        stream.sides(33 * i)
    assert stream.judge.asked == [[5]] * 3
    stream.pipeline.reset()
    stream.sides(0)
    assert len(stream.judge.asked) == 4


def test_another_doubtful_hand_is_asked_about_at_once() -> None:
    stream = Stream(right=-1.0)
    stream.sides(0)
    stream.detector.boxes.append(replace(stream.detector.boxes[1], follow_id=6))
    stream.sides(33)
    stream.sides(66)
    assert stream.judge.asked == [[5], [6]]


def test_of_stills_every_doubtful_side_is_asked_about_and_nothing_remembered() -> None:
    stream = Stream()
    for _ in range(2):
        result = stream.pipeline.process_still(frame())
        assert [hand.side for hand in result.hands] == [Side.LEFT, Side.RIGHT]
    assert stream.judge.asked == [[-1], [-1]] and stream.detector.heard == []
    stream.sides(0)
    assert stream.judge.asked[2:] == [[5]]


def test_a_still_of_another_time_does_not_make_the_stream_ask_again() -> None:
    stream = Stream(right=-1.0)
    stream.sides(0)
    stream.pipeline.process_still(frame(10**10))
    stream.sides(33)
    assert stream.judge.asked == [[5], [-1]]


def test_sides_that_somebody_gave_are_not_asked_about() -> None:
    stream = Stream()
    for process in (stream.pipeline.process, stream.pipeline.process_still):
        result = process(frame(), stream.detector.boxes)
        assert [hand.side for hand in result.hands] == [Side.LEFT, Side.LEFT]
    assert stream.judge.asked == []


def test_an_estimator_that_cannot_tell_is_not_asked() -> None:
    stream = Stream()
    plain = Pipeline(PipelineConfig(), stream.detector, LandmarkFit(MODEL), MODEL)
    assert [box.side for box in plain.process(frame()).boxes] == [Side.LEFT, Side.LEFT]
    assert stream.detector.heard == []


def test_an_estimator_of_a_known_length_tells_what_its_own_does() -> None:
    boxes = [seen_hand(Side.LEFT, 0.0)] * 2
    assert isinstance(KnownLength(Judge(3.0), 0.19), SideJudge)
    assert KnownLength(Judge(3.0), 0.19).side_log_odds(frame(), boxes) == [3.0, 3.0]
    assert KnownLength(LandmarkFit(MODEL), 0.19).side_log_odds(frame(), boxes) == [0.0, 0.0]


def test_turned_cameras_are_asked_in_upright_pictures() -> None:
    """Where the detector found the boxes, and where a left hand is a left hand."""
    stream = Stream(config=PipelineConfig(upright_rotation=90))
    seen: list[tuple[int, int]] = []
    judge = stream.judge.side_log_odds
    stream.judge.side_log_odds = lambda f, b: seen.append((f.camera.width, f.camera.height)) or judge(f, b)  # type: ignore
    turn = Turn(1, CAMERA.width, CAMERA.height)
    stream.detector.boxes = [replace(box, landmarks=None) for box in stream.detector.boxes]
    boxes = stream.pipeline.process(frame()).boxes
    assert seen == [(CAMERA.height, CAMERA.width)]
    expected = with_evidence(turn.back.boxes(stream.detector.boxes)[1], 4.0)
    assert (boxes[1].side, boxes[1].xyxy) == (Side.RIGHT, expected.xyxy)


# --- the detector -----------------------------------------------------------------------------------------------------


def test_a_follow_believes_what_it_hears_as_far_as_beliefs_go() -> None:
    follower = HandFollower(Search([UPRIGHT], rights=(1.0,), evidence=(3.0,)))  # type: ignore[arg-type]
    (box,) = follower.step(PICTURE, 0)
    assert box.side is Side.RIGHT
    follower.hear({box.follow_id: -4.0, box.follow_id + 1: 99.0})
    (other,) = follower.step(PICTURE, FRAME_NS)
    assert (other.side, other.follow_id) == (Side.LEFT, box.follow_id)
    follower.hear({box.follow_id: -1000.0})
    assert follower._follows[0].belief == -6
    follower.hear({box.follow_id: 12.0})
    assert follower.step(PICTURE, 2 * FRAME_NS)[0].side is Side.RIGHT


def test_two_hands_whose_sides_were_heard_keep_their_places() -> None:
    """Their looks say the opposite as before, which is no sign that the hands have exchanged places."""
    config = DetectorConfig(patrol_every=100, wearer_prior=0.0)
    follower = HandFollower(Search([UPRIGHT, ACROSS], rights=(3.0, -3.0), config=config))  # type: ignore[arg-type]
    first, second = follower.step(PICTURE, 0)
    assert (first.side, second.side) == (Side.RIGHT, Side.LEFT)
    follower.hear({first.follow_id: -6.0, second.follow_id: 6.0})
    for i in range(1, 15):
        boxes = follower.step(PICTURE, i * FRAME_NS)
        assert [(box.follow_id, box.side) for box in boxes] == [(0, Side.LEFT), (1, Side.RIGHT)]
        for box, places in zip(boxes, (UPRIGHT, ACROSS), strict=True):
            assert box.landmarks is not None and np.array_equal(box.landmarks.image, places), i


def test_a_hand_whose_side_was_heard_is_still_the_one_that_looks_like_it() -> None:
    search = Search([UPRIGHT, ACROSS], rights=(5.0, -5.0), config=DetectorConfig(patrol_every=100, wearer_prior=0.0))
    follower = HandFollower(search)  # type: ignore[arg-type]
    follower.step(PICTURE, 0)
    follower.hear({0: -8.0, 1: 8.0})
    search.hands, search.rights = [ACROSS], (-5.0,)
    (box,) = follower.step(PICTURE, FRAME_NS)
    assert box.follow_id == 1


# --- the open network -------------------------------------------------------------------------------------------------


def config(checkpoint: Path | None = None) -> WildHandsConfig:
    return WildHandsConfig(checkpoint, runtime=RuntimeConfig("cpu", Backend.TORCH, threads=1))


@pytest.fixture(scope="module")
def network() -> OpenHands:
    return OpenHands.load(config(), MODEL)


def told(network: OpenHands, *, mirrored: bool = False) -> tuple[list[float], list[Side]]:
    """Log-odds of "right" of the hands of some rendered pictures, all said to be left ones, and what they are."""
    odds, sides = [], []
    for picture in check_pictures(0, 5):
        image, width = picture.image, picture.camera.width
        boxes = dict(picture.boxes)
        if mirrored:
            image = image[:, ::-1]
            boxes = {side: (width - 1 - x1, y0, width - 1 - x0, y1) for side, (x0, y0, x1, y1) in boxes.items()}
        camera = replace(picture.camera, cx=width - 1 - picture.camera.cx if mirrored else picture.camera.cx)
        given = [HandBox(Side.LEFT, box, 1.0) for box in boxes.values()]
        odds += network.side_log_odds(Frame(np.ascontiguousarray(image), camera), given)
        sides += list(boxes)
    return odds, sides


def test_the_network_knows_left_hands_from_right_ones(network: OpenHands) -> None:
    odds, sides = told(network)
    right = [(value > 0) == (side is Side.RIGHT) for value, side in zip(odds, sides, strict=True)]
    assert len(right) == 10 and sum(right) >= 9


def test_mirrored_pictures_say_the_opposite(network: OpenHands) -> None:
    np.testing.assert_allclose(told(network, mirrored=True)[0], -np.array(told(network)[0]), atol=0.02)


def test_asking_changes_nothing_and_boxes_without_a_crop_say_nothing(network: OpenHands) -> None:
    (picture,) = check_pictures(0, 1)
    shown = Frame(picture.image, picture.camera)
    boxes = [HandBox(side, box, 1.0, follow_id=i) for i, (side, box) in enumerate(picture.boxes.items())]
    network.reset()
    expected = [hand.joints for hand in network.estimate(shown, boxes).hands]
    network.reset()
    odds = network.side_log_odds(shown, boxes)
    outside = HandBox(Side.LEFT, (-50.0, -50.0, -10.0, -10.0), 1.0)
    with_it = network.side_log_odds(shown, [boxes[0], outside, boxes[1]])
    assert with_it == pytest.approx([odds[0], 0.0, odds[1]], abs=1e-3)
    assert network.side_log_odds(shown, [outside]) == [0.0] and network.side_log_odds(shown, []) == []
    np.testing.assert_array_equal([hand.joints for hand in network.estimate(shown, boxes).hands], expected)


def test_a_network_without_expected_errors_tells_nothing(tmp_path: Path) -> None:
    weights, info = load_checkpoint(SHIPPED_CHECKPOINT)
    save_checkpoint(tmp_path / "n.safetensors", weights, replace(info, errors=None), half=True)
    silent = OpenHands.load(config(tmp_path / "n.safetensors"), MODEL)
    assert silent.side_log_odds(Frame(IMAGE, CAMERA), [seen_hand(Side.LEFT, 0.0)]) == [0.0]
