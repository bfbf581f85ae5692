"""The pipeline: what is composed of what, and its behaviour as a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.detection import DetectorConfig
from wildhands_ros.errors import ConfigError, ImageError
from wildhands_ros.estimation import Estimates, LandmarkFit, hand_length
from wildhands_ros.evaluation import score_sequence
from wildhands_ros.frames import LATE_NS, Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import HandBox, Landmarks, Side
from wildhands_ros.pipeline import EstimationConfig, Pipeline, PipelineConfig
from wildhands_ros.pipeline.pipeline import make_estimator
from wildhands_ros.synthetic import Lens, SequenceConfig, SyntheticSequence
from wildhands_ros.tracking import TrackingConfig

CAMERA = Camera.pinhole(640, 480, 400)
IMAGE = np.zeros((480, 640, 3), np.uint8)


def seen_hand(side: Side, x: float, score: float = 0.9, follow_id: int = 0) -> HandBox:
    """A flat hand half a metre away, as a perfect landmark network would see it."""
    joints = load_hand_model().layer(side).rest_joints(np.zeros(10))
    joints = joints - joints[9]
    joints = joints[:, [0, 2, 1]] * [1, -1, 1]  # the back towards the camera
    pixels = CAMERA.project(joints + [x, 0, 0.5])
    box = (*pixels.min(axis=0).tolist(), *pixels.max(axis=0).tolist())
    return HandBox(side, box, score, landmarks=Landmarks(pixels, joints, 0.99), follow_id=follow_id)


@dataclass
class ScriptedDetector:
    boxes: list[HandBox]
    calls: list[str] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    heard: list[dict[int, float]] = field(default_factory=list)

    def detect(self, image: np.ndarray) -> list[HandBox]:
        self.calls.append("detect")
        return self.boxes

    def follow(self, image: np.ndarray, stamp_ns: int) -> list[HandBox]:
        self.calls.append("follow")
        self.stamps.append(stamp_ns)
        return self.boxes

    def hear(self, sides: Mapping[int, float]) -> None:
        self.heard.append(dict(sides))

    def configure(self, config: DetectorConfig) -> bool:
        self.calls.append(f"score_threshold {config.score_threshold}")
        return config.threads == DetectorConfig().threads

    def reset(self) -> None:
        self.calls.append("reset")


def make_pipeline(detector: ScriptedDetector, config: PipelineConfig | None = None) -> Pipeline:
    model = load_hand_model()
    return Pipeline(config or PipelineConfig(), detector, LandmarkFit(model), model)


def frame(stamp_ns: int = 0) -> Frame:
    return Frame(IMAGE, CAMERA, stamp_ns=stamp_ns)


def test_a_stream_has_tracks_and_a_still_has_none() -> None:
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1, follow_id=4), seen_hand(Side.RIGHT, 0.1, follow_id=5)])
    pipeline = make_pipeline(detector)
    assert [h.track_id for h in pipeline.process(frame()).hands] == [0, 1]
    assert [h.track_id for h in pipeline.process_still(frame()).hands] == [-1, -1]
    assert detector.calls == ["follow", "detect"]


def test_stills_and_the_stream_leave_each_other_alone() -> None:
    rng = np.random.default_rng(5)

    def noisy() -> HandBox:
        box = seen_hand(Side.LEFT, -0.1, follow_id=4)
        assert box.landmarks is not None
        return replace(box, landmarks=replace(box.landmarks, image=box.landmarks.image + rng.normal(0, 4, (21, 2))))

    alone, disturbed = make_pipeline(ScriptedDetector([])), make_pipeline(ScriptedDetector([]))
    for i in range(6):
        box, other = noisy(), noisy()
        expected = alone.process(frame(i * 10**8), [box])
        found = disturbed.process(frame(i * 10**8), [box])
        assert np.array_equal(found.hands[0].joints, expected.hands[0].joints)
        still = disturbed.process_still(frame(i * 10**8), [other])
        fresh = make_pipeline(ScriptedDetector([])).process_still(frame(), [other])
        assert np.array_equal(still.hands[0].joints, fresh.hands[0].joints)
        assert disturbed.process_still(frame(), []).hands == ()


def test_boxes_may_come_one_by_one() -> None:
    pipeline, box = make_pipeline(ScriptedDetector([])), seen_hand(Side.LEFT, -0.1)
    weak = replace(box, score=0.2)
    for process in (pipeline.process, pipeline.process_still):
        result = process(frame(), (each for each in [box, weak]))
        assert len(result.hands) == 1 and len(result.skipped) == 1


def test_pictures_of_another_size_are_a_new_stream() -> None:
    """What was followed lies elsewhere in them: hands were lost, and one came back as the other side."""
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1)])
    pipeline = make_pipeline(detector)
    for i in range(2):
        pipeline.process(frame(i))
    camera = CAMERA.resized(320, 240)
    for i in range(4):  # whose clock is its own
        pipeline.process(Frame(IMAGE[::2, ::2], camera, stamp_ns=i))
    assert detector.calls == ["follow", "follow", "reset", "follow", "follow", "follow", "follow"]
    assert detector.stamps == [0, 1, 0, 1, 2, 3]


def test_an_estimator_is_told_of_every_new_stream() -> None:
    class Counting(LandmarkFit):
        resets = 0

        def reset(self) -> None:
            super().reset()
            self.resets += 1

    estimator = Counting(load_hand_model())
    pipeline = Pipeline(PipelineConfig(), ScriptedDetector([]), estimator, load_hand_model())
    later = 10 * LATE_NS
    for stamp_ns, camera, resets in (
        (later, CAMERA, 0), (later + 1, CAMERA, 0), (0, CAMERA, 1), (1, CAMERA.resized(320, 240), 2),
    ):  # fmt: skip
        image = np.zeros((camera.height, camera.width, 3), np.uint8)
        pipeline.process(Frame(image, camera, stamp_ns=stamp_ns))
        assert estimator.resets == resets
    pipeline.reset()
    assert estimator.resets == 3


def test_an_estimator_is_told_of_every_picture_of_the_stream_and_of_stills_with_hands() -> None:
    """It forgets hands that are not there any more, and must not take a still for one of the stream."""
    told: list[int] = []

    class Told(LandmarkFit):
        def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
            told.append(len(boxes))
            return super().estimate(frame, boxes)

    pipeline = Pipeline(PipelineConfig(), None, Told(load_hand_model()), load_hand_model())
    boxes = [seen_hand(Side.LEFT, -0.1)]
    pipeline.process(frame(), boxes)
    pipeline.process(frame(), [])
    pipeline.process_still(frame(), [])
    pipeline.process_still(frame(), boxes)
    assert told == [1, 0, 1]


def test_after_a_reset_hands_are_new_ones() -> None:
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1)])
    pipeline = make_pipeline(detector)
    before, same = (pipeline.process(frame(i)).hands[0].track_id for i in range(2))
    pipeline.reset()
    assert before == same != pipeline.process(frame(2)).hands[0].track_id
    assert detector.calls == ["follow", "follow", "reset", "follow"]


def test_the_stages_times_make_up_the_whole() -> None:
    pipeline = make_pipeline(ScriptedDetector([seen_hand(Side.LEFT, -0.1)]))
    for process in (pipeline.process, pipeline.process_still):
        timings = dict(process(frame()).timings)
        total = timings.pop("total")
        assert set(timings) == {"detect", "estimate", "track"} and min(timings.values()) >= 0
        assert sum(timings.values()) == pytest.approx(total)


def test_hands_carry_meshes_where_that_is_asked_for() -> None:
    model, box = load_hand_model(), seen_hand(Side.LEFT, -0.1)
    for mesh in (True, False):
        estimator = make_estimator(EstimationConfig(estimator="landmarks", mesh=mesh), model)
        (hand,) = estimator.estimate(frame(), [box]).hands
        assert (hand.vertices is not None) == mesh


def test_a_frame_needs_an_image_and_its_camera() -> None:
    for nothing in (None, [[[0, 0, 0]]]):
        with pytest.raises(ImageError, match="needs an image as an array"):
            Frame(nothing, CAMERA)  # type: ignore[arg-type]
    for nothing in (None, CAMERA.matrix, CAMERA.to_dict()):
        with pytest.raises(ImageError, match=r"a frame needs its Camera, not .*: Camera.pinhole"):
            Frame(IMAGE, nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["process", "process_still"])
def test_bare_pictures_and_boxes_are_refused_in_words(method: str) -> None:
    process = getattr(make_pipeline(ScriptedDetector([])), method)
    with pytest.raises(ImageError, match=r"takes a Frame, not ndarray: Frame\(rgb, Camera"):
        process(IMAGE)
    for box in ((1.0, 2.0, 3.0, 4.0), np.ones(4)):
        with pytest.raises(ConfigError, match=r"boxes are HandBox\(side.* not (tuple|ndarray)$"):
            process(frame(), [box])


@pytest.mark.parametrize("stamp", [1.5, 1700000000.25, 33e6, "1", None])
def test_a_frame_is_stamped_in_whole_nanoseconds(stamp: object) -> None:
    with pytest.raises(ImageError, match=r"whole nanoseconds, not .*round\(seconds \* 1e9\)"):
        Frame(IMAGE, CAMERA, stamp_ns=stamp)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="index is a whole number"):
        Frame(IMAGE, CAMERA, index=stamp)  # type: ignore[arg-type]
    found = Frame(IMAGE, CAMERA, stamp_ns=np.int64(7), index=np.uint8(3))  # type: ignore[arg-type]
    assert [(type(v), v) for v in (found.stamp_ns, found.index)] == [(int, 7), (int, 3)]


def test_improbable_hands_are_left_out() -> None:
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1, score=0.3), seen_hand(Side.RIGHT, 0.1, score=0.8)])
    result = make_pipeline(detector, PipelineConfig(min_score=0.5)).process(frame())
    assert [h.side for h in result.hands] == [Side.RIGHT] and len(result.boxes) == 1 and result.skipped == ()
    given = [*detector.boxes, seen_hand(Side.LEFT, 0.0, score=0.5), replace(detector.boxes[0], score=float("nan"))]
    for process in ("process", "process_still"):
        pipeline = make_pipeline(ScriptedDetector([]), PipelineConfig(min_score=0.5))
        result = getattr(pipeline, process)(frame(), given)
        assert [box.score for box in result.boxes] == [0.8, 0.5] and len(result.hands) == 2
        assert [text.partition(",")[0] for text in result.skipped] == [
            "left hand in box 0 is left out: its score is 0.3",
            "left hand in box 3 is left out: its score is nan",
        ]


def test_boxes_that_cannot_be_used_are_reported_with_the_reason() -> None:
    bare = HandBox(Side.LEFT, (10, 10, 90, 90), 1.0)
    result = make_pipeline(ScriptedDetector([])).process(frame(), [bare])
    assert result.hands == () and result.boxes == (bare,) and len(result.skipped) == 1


def test_time_going_backwards_starts_a_new_stream() -> None:
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1)])
    pipeline = make_pipeline(detector)
    first = pipeline.process(frame(10**9)).hands[0].track_id
    again = pipeline.process(frame(0)).hands[0].track_id
    assert detector.calls == ["follow", "reset", "follow"] and again != first


@pytest.mark.parametrize("smooth", [False, True])
def test_a_picture_that_comes_late_belongs_to_the_stream(smooth: bool) -> None:
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1)])
    pipeline = make_pipeline(detector, PipelineConfig(tracking=TrackingConfig(smooth=smooth)))
    stamps = [10**9, 10**9 + 66, 10**9 + 33, 10**9 - LATE_NS + 66, 10**9 + 99]
    results = [pipeline.process(frame(stamp)) for stamp in stamps]
    assert [result.stamp_ns for result in results] == stamps
    assert [hand.track_id for result in results for hand in result.hands] == [0] * 5
    assert detector.stamps == [10**9, 10**9 + 66, 10**9 + 66, 10**9 + 66, 10**9 + 99] and "reset" not in detector.calls
    assert all(np.isfinite(result.hands[0].joints).all() for result in results)


@pytest.mark.parametrize(
    ("change", "glides"),
    [
        ({"cx": 2.0, "fx": 2.0, "fy": 2.0}, True), ({"cx": 6.0, "cy": -4.5}, True), ({"fx": 3.9, "fy": -3.9}, True),
        # by more than a hundredth of the picture or of the focal length, of which a camera changes as it focuses
        ({"cx": 60.0}, False), ({"cx": -7.0}, False), ({"cy": 5.5}, False), ({"fx": 40.0, "fy": 40.0}, False),
        ({"fx": -4.5}, False), ({"fy": 4.5}, False), ({"model": Distortion.PLUMB_BOB}, False),
    ],
)  # fmt: skip
def test_smoothing_begins_anew_with_another_camera(change: dict[str, Any], glides: bool) -> None:
    pipeline = make_pipeline(
        ScriptedDetector([seen_hand(Side.LEFT, -0.1)]), PipelineConfig(tracking=TrackingConfig(smooth=True))
    )
    for i in range(5):
        pipeline.process(Frame(IMAGE, CAMERA, stamp_ns=i * 33_000_000))
    other = (
        replace(CAMERA, model=change["model"], coefficients=(0.0, 0.0, 0.0, 0.0))
        if "model" in change
        else replace(CAMERA, **{name: getattr(CAMERA, name) + by for name, by in change.items()})
    )
    result = pipeline.process(Frame(IMAGE, other, stamp_ns=5 * 33_000_000))
    (smooth,), (raw,) = result.hands, result.raw
    assert smooth.track_id == 0
    assert np.allclose(smooth.joints, raw.joints, atol=1e-6) != glides


def test_where_stamps_stand_still_time_goes_on_for_detector_estimator_and_tracker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As those of a driver that stamps nothing. A stream begins anew with an earlier stamp, all the same."""
    detector, seen, tracked = ScriptedDetector([seen_hand(Side.LEFT, -0.1, follow_id=1)]), [], []
    pipeline = make_pipeline(detector)
    estimate, update = pipeline.estimator.estimate, pipeline._tracker.update
    monkeypatch.setattr(
        pipeline.estimator, "estimate", lambda f, boxes: (seen.append(f.stamp_ns), estimate(f, boxes))[1]
    )
    monkeypatch.setattr(
        pipeline._tracker, "update", lambda hands, at, camera: (tracked.append(at), update(hands, at, camera))[1]
    )
    stamp_ns = 5 * 10**9
    for _ in range(61):
        assert pipeline.process(frame(stamp_ns)).stamp_ns == stamp_ns
    assert detector.stamps == seen == tracked
    assert seen[30] == stamp_ns and seen[60] - stamp_ns == pytest.approx(1e9, abs=100)
    assert "reset" not in detector.calls
    pipeline.process(frame(stamp_ns - 2 * LATE_NS))
    assert detector.stamps[-1] == seen[-1] == tracked[-1] == stamp_ns - 2 * LATE_NS and "reset" in detector.calls


@pytest.mark.parametrize(("k1", "glides"), [(-0.101, True), (-0.2, False), (0.1, False)])
def test_smoothing_begins_anew_behind_another_lens(k1: float, glides: bool) -> None:
    """A driver that loads another calibration, with the same K."""
    pipeline = make_pipeline(
        ScriptedDetector([seen_hand(Side.LEFT, -0.1)]), PipelineConfig(tracking=TrackingConfig(smooth=True))
    )
    lens = replace(CAMERA, fx=250.0, fy=250.0, model=Distortion.PLUMB_BOB, coefficients=(-0.1, 0.0, 0.0, 0.0))
    for i in range(5):
        before = pipeline.process(Frame(IMAGE, lens, stamp_ns=i * 33_000_000)).raw[0].joints
    result = pipeline.process(Frame(IMAGE, replace(lens, coefficients=(k1, 0.0, 0.0, 0.0)), stamp_ns=5 * 33_000_000))
    (smooth,), (raw,) = result.hands, result.raw
    assert smooth.track_id == 0 and (np.abs(raw.joints - before).max() > 0.003) != glides  # the lens is looked through
    assert np.allclose(smooth.joints, raw.joints, atol=1e-6) != glides


@pytest.mark.parametrize(("name", "glides"), [("left_camera", True), ("right_camera", False)])
def test_smoothing_begins_anew_in_another_frame(name: str, glides: bool) -> None:
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1)])
    pipeline = make_pipeline(detector, PipelineConfig(tracking=TrackingConfig(smooth=True)))
    pipeline.process(Frame(IMAGE, CAMERA, frame_id="left_camera"))
    detector.boxes = [seen_hand(Side.LEFT, -0.06)]  # as the other camera of a pair sees it, that has the same lens
    result = pipeline.process(Frame(IMAGE, CAMERA, stamp_ns=33_000_000, frame_id=name))
    (smooth,), (raw,) = result.hands, result.raw
    assert smooth.track_id == 0
    assert np.allclose(smooth.joints, raw.joints, atol=1e-6) != glides


@pytest.mark.parametrize(("estimator", "exposed"), [("open", True), ("wildhands", False)])
def test_dark_pictures_are_brightened_for_the_open_network_alone(estimator: str, exposed: bool) -> None:
    model = load_hand_model()
    seen: list[np.ndarray] = []

    class Looking(LandmarkFit):
        def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
            seen.append(frame.image)
            return super().estimate(frame, boxes)

    config = PipelineConfig(estimation=EstimationConfig(estimator=estimator))
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1)])
    pipeline = Pipeline(config, detector, Looking(model), model)
    dark = np.random.default_rng(1).integers(0, 20, IMAGE.shape, np.uint8)
    for process in (pipeline.process, pipeline.process_still):
        process(Frame(dark, CAMERA))
    assert all((image.max() > 200) == exposed for image in seen) and len(seen) == 2
    assert dark.max() < 20


def test_raw_results_stay_available_when_smoothing() -> None:
    config = PipelineConfig(tracking=TrackingConfig(smooth=True))
    pipeline = make_pipeline(ScriptedDetector([seen_hand(Side.LEFT, -0.1)]), config)
    result = pipeline.process(frame())
    assert result.hands[0].smoothed and not result.raw[0].smoothed


def test_warming_up_leaves_no_trace() -> None:
    detectors = [ScriptedDetector([seen_hand(Side.LEFT, -0.1)]) for _ in range(2)]
    pipelines = [make_pipeline(detector) for detector in detectors]
    pipelines[0].warm_up()
    assert detectors[0].calls == ["detect", "reset"]
    warm, cold = (pipeline.process(frame()).hands[0] for pipeline in pipelines)
    assert warm.track_id == cold.track_id
    np.testing.assert_array_equal(warm.joints, cold.joints)
    without = Pipeline(PipelineConfig(), None, LandmarkFit(load_hand_model()), load_hand_model())
    without.warm_up()  # boxes are always given
    assert not without.configure(replace(without.config, detection=DetectorConfig(score_threshold=0.8)))


def test_settings_that_smoothing_does_not_have_leave_it_alone() -> None:
    config, rng = PipelineConfig(tracking=TrackingConfig(smooth=True)), np.random.default_rng(6)
    changed, other = (make_pipeline(ScriptedDetector([]), config) for _ in range(2))
    for i in range(6):
        if i == 4:
            assert changed.configure(replace(config, min_score=0.4, max_distance=2.0))
        box = seen_hand(Side.LEFT, -0.1 + 0.01 * rng.normal())
        (a,), (b,) = (pipeline.process(frame(i * 10**8), [box]).hands for pipeline in (changed, other))
        assert np.array_equal(a.joints, b.joints)


def test_hands_out_of_reach_are_left_out_and_named() -> None:
    pipeline = make_pipeline(ScriptedDetector([seen_hand(Side.LEFT, -0.05), seen_hand(Side.RIGHT, 0.3)]))
    both = pipeline.process(frame()).hands
    distances = {hand.side: np.linalg.norm(hand.joints[0]) for hand in both}
    near, far = sorted(distances, key=lambda side: distances[side])
    limit = float(np.mean(list(distances.values())))
    assert distances[near] < limit < distances[far]
    assert pipeline.configure(replace(pipeline.config, max_distance=limit))
    result = pipeline.process(frame(1))
    assert [hand.side for hand in result.hands] == [hand.side for hand in result.raw] == [near]
    assert result.skipped[0].startswith(f"{far.value} hand is left out") and "max_distance" in result.skipped[0]
    assert len(result.boxes) == 2
    assert len(pipeline.process_still(frame(2)).hands) == 1
    assert pipeline.configure(replace(pipeline.config, max_distance=0.0))
    assert len(pipeline.process(frame(3)).hands) == 2


def test_settings_that_need_no_models_change_in_place() -> None:
    detector = ScriptedDetector([seen_hand(Side.LEFT, -0.1, score=0.6)])
    pipeline = make_pipeline(detector)
    track_id = pipeline.process(frame()).hands[0].track_id
    assert pipeline.configure(replace(pipeline.config, tracking=TrackingConfig(smooth=True)))
    assert pipeline.process(frame(1)).hands[0].track_id == track_id
    assert pipeline.configure(replace(pipeline.config, min_score=0.7))
    assert pipeline.process(frame(2)).hands == ()
    assert pipeline.configure(replace(pipeline.config, detection=DetectorConfig(score_threshold=0.8)))
    assert detector.calls[-1] == "score_threshold 0.8" and pipeline.config.detection.score_threshold == 0.8
    assert pipeline.configure(replace(pipeline.config, min_score=0.5))
    for length in (0.16, 0.2, 0.0):
        assert pipeline.configure(replace(pipeline.config, estimation=EstimationConfig(hand_length=length)))
        (hand,) = pipeline.process(frame(3)).raw
        assert hand.track_id == track_id and hand_length(hand.joints) == pytest.approx(length or 0.189, rel=0.02)
    trusted: list[float] = []
    pipeline.estimator.trust_up_to = trusted.append  # type: ignore[method-assign]
    for length in (0.0, 0.2):  # by which the estimator becomes part of another one
        estimation = EstimationConfig(hand_length=length, largest_expected_error=0.02 + length)
        assert pipeline.configure(replace(pipeline.config, estimation=estimation)) and trusted[-1] == 0.02 + length
    assert pipeline.configure(replace(pipeline.config, min_score=0.4)) and trusted == [0.02, 0.22]
    assert not pipeline.configure(replace(pipeline.config, detection=DetectorConfig(threads=1)))
    elsewhere = replace(pipeline.config, models_dir=pipeline.config.models_dir / "other")
    assert not pipeline.configure(elsewhere) and pipeline.config != elsewhere


@pytest.mark.parametrize("lens", list(Lens))
def test_a_rendered_sequence_is_understood(lens: Lens) -> None:
    """The whole core on pictures whose truth is known; the bounds are what is promised, not what is reached."""
    sequence = SyntheticSequence(SequenceConfig(seed=1, lens=lens, seconds=4, rate=12))
    pipeline = Pipeline.from_config(PipelineConfig())
    results, truths = [], []
    for picture, truth in sequence:
        results.append(pipeline.process(picture).hands)
        truths.append(truth)
    score = score_sequence(results, truths)
    assert score.recall >= 0.95 and score.false == 0 and score.side_accuracy == 1
    assert score.keypoint_percent < 10 and score.mpjpe_mm < 30 and score.wrist_percent < 15
    assert score.id_changes == 0
