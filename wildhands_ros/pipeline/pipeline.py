"""One picture in, its hands out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.detection import DetectorConfig, HandDetector
from wildhands_ros.detection.boxes import with_evidence
from wildhands_ros.errors import ConfigError, ImageError
from wildhands_ros.estimation import Estimates, Estimator, LandmarkFit
from wildhands_ros.estimation.known_length import of_length
from wildhands_ros.exposure import well_exposed
from wildhands_ros.frames import Frame, StreamClock, stream_time
from wildhands_ros.hand_model import HandModel, load_hand_model
from wildhands_ros.hands import Hand, HandBox, Side
from wildhands_ros.libraries import NEEDED, how_to_get
from wildhands_ros.mounting import Turn
from wildhands_ros.pipeline.config import EstimationConfig, PipelineConfig
from wildhands_ros.pipeline.sides import SideQuestions
from wildhands_ros.tracking import HandTracker

_SAME_CAMERA = 0.01  # by so much of focal length and picture a camera's intrinsics may change while it focuses


@dataclass(frozen=True, eq=False)
class PipelineResult:
    """The hands of one picture.

    hands: what to use; smoothed where the configuration says so. raw: always as estimated, same order.
    boxes: every hand that the detector found with at least `min_score`, also those without an estimate.
    skipped: for each box without an estimate, the reason in words.
    timings: seconds spent in 'detect', 'estimate', 'track' and in 'total'.
    """

    stamp_ns: int
    hands: tuple[Hand, ...]
    raw: tuple[Hand, ...]
    boxes: tuple[HandBox, ...]
    skipped: tuple[str, ...]
    timings: Mapping[str, float]


class Detector(Protocol):
    """What the pipeline needs of a detector; `HandDetector` is one."""

    def detect(self, image: NDArray[np.uint8]) -> list[HandBox]:
        """Hands of a single picture, RGB (H, W, 3) uint8."""
        ...

    def follow(self, image: NDArray[np.uint8], stamp_ns: int) -> list[HandBox]:
        """Hands of the next picture of a stream."""
        ...

    def hear(self, sides: Mapping[int, float]) -> None:
        """Takes independent evidence about the sides of followed hands into account from the next picture on: log-odds
        of "right", by `follow_id`. The pipeline weighs it in for this picture alone."""
        ...

    def configure(self, config: DetectorConfig) -> bool:
        """Takes other thresholds; False where more differs."""
        ...

    def reset(self) -> None:
        """Forgets the stream."""
        ...


def make_estimator(config: EstimationConfig, hand_model: HandModel) -> Estimator:
    """The estimator that the configuration names, ready to run.

    Raises ModelFileError saying which files are missing and where to get them, ConfigError for an impossible runtime or
    where there is no torch.
    """
    _require_its_hand_model(config)
    return of_length(_plain_estimator(config, hand_model), config.hand_length)


def _plain_estimator(config: EstimationConfig, hand_model: HandModel) -> Estimator:
    if config.estimator == "landmarks":
        return LandmarkFit(hand_model, with_mesh=config.mesh)
    # torch takes seconds to import, and the landmark fit does without it
    with needs_torch(f"the estimator '{config.estimator}'"):
        from wildhands_ros.estimation.wildhands import (
            Backend,
            OpenHands,
            Precision,
            RuntimeConfig,
            WildHands,
            WildHandsConfig,
        )

    runtime = RuntimeConfig(
        device=config.device,
        backend=Backend(config.backend),
        precision=Precision(config.precision),
        threads=config.threads,
        tolerance_mm=config.tolerance_mm,
        calibration=config.calibration,
        cache_dir=config.cache_dir,
    )
    network = WildHandsConfig(
        checkpoint=config.checkpoint,
        box_factor=config.box_factor,
        all_hands=config.all_hands,
        looks=config.looks,
        largest_expected_error=config.largest_expected_error,
        runtime=runtime,
    )
    if config.estimator == "open":
        return OpenHands.load(
            network, hand_model, with_mesh=config.mesh, refine=config.refine, refinement=config.refinement
        )
    return WildHands.load(network, hand_model, with_mesh=config.mesh)


@contextmanager
def needs_torch(what: str) -> Iterator[None]:
    """Around imports of the network: raises ConfigError, saying that `what` needs torch, where one does not load."""
    try:
        yield
    except (ImportError, OSError) as error:  # OSError: torch is there, and a library of its own is not
        library = (getattr(error, "name", None) or "torch").partition(".")[0]
        raise ConfigError(
            f"{what} needs {library}, which cannot be loaded ({error}): "
            f"{how_to_get(NEEDED.get(library, library))}; or take the estimator 'landmarks' "
            "(wildhands doctor tells more)"
        ) from error


def _require_its_hand_model(config: EstimationConfig) -> None:
    """Before any file is read: MANO's files would be of no use to the open network."""
    if config.estimator == "open" and config.mano_dir is not None:
        raise ConfigError(
            f"the estimator 'open' speaks the open hand's parameters, not MANO's (mano_dir is {config.mano_dir}): "
            "leave mano_dir empty, or take 'landmarks', or 'wildhands' with weights that were trained with MANO"
        )


class Pipeline:
    """Detector, estimator and tracker for one camera stream. Not thread-safe: one instance per stream.

    pipeline = Pipeline.from_config(PipelineConfig())
    result = pipeline.process(Frame(image, Camera.pinhole(1280, 720, focal=640), stamp_ns=time.time_ns()))
    for hand in result.hands:
        print(hand.side.value, hand.joints[0])
    """

    def __init__(
        self, config: PipelineConfig, detector: Detector | None, estimator: Estimator, hand_model: HandModel
    ) -> None:
        self.config = config
        self.estimator = estimator
        self.hand_model = hand_model
        self._detector = detector
        self._tracker = HandTracker(config.tracking, hand_model, estimator.pose_hand)
        # published weights see pictures as they are, so that their numbers are the published ones
        self._exposes = config.estimation.estimator == "open"
        self._stamp_ns: int | None = None
        self._side_questions = SideQuestions()
        self._clock = StreamClock()
        self._camera: Camera | None = None
        self._frame_id = ""

    @classmethod
    def from_config(cls, config: PipelineConfig, *, with_detector: bool = True) -> Pipeline:
        """Loads the models. Raises ModelFileError naming what is missing and how to get it, ConfigError for settings
        that contradict each other.

        with_detector: False for pictures whose boxes are always given; the detector's models are then not needed.
        """
        _require_its_hand_model(config.estimation)
        hand_model = load_hand_model(config.estimation.mano_dir)
        detector = HandDetector.from_directory(config.models_dir, config.detection) if with_detector else None
        return cls(config, detector, make_estimator(config.estimation, hand_model), hand_model)

    @property
    def faces(self) -> dict[Side, NDArray[np.int32]]:
        """Triangles (F, 3) of each side's mesh."""
        return {side: self.hand_model.layer(side).faces for side in Side}

    def warm_up(self) -> None:
        """Sends an empty picture with two made-up hands through, and forgets it: the first use of a network is slow."""
        frame = Frame(np.full((720, 1280, 3), 128, np.uint8), Camera.guess(1280, 720))
        if self._detector is not None:
            self._detector.detect(frame.image)
        places = {Side.LEFT: (300.0, 250.0, 500.0, 450.0), Side.RIGHT: (800.0, 250.0, 1000.0, 450.0)}
        self.estimator.estimate(frame, [HandBox(side, place, 1.0) for side, place in places.items()])
        self.reset()

    def reset(self) -> None:
        """Forgets everything that was seen: a new stream begins."""
        if self._detector is not None:
            self._detector.reset()
        self.estimator.reset()
        self._tracker.reset()
        self._side_questions.reset()
        self._stamp_ns = None
        self._clock = StreamClock()
        self._camera = None

    def configure(self, config: PipelineConfig) -> bool:
        """Takes another configuration where that needs no models: `min_score`, `max_distance`, `tracking`, the
        detector's thresholds, the hands' length or their largest expected error.

        Hands keep their track ids. False, and nothing is changed, where more differs: make a new pipeline.
        """
        length, error = config.estimation.hand_length, config.estimation.largest_expected_error
        same = replace(
            self.config, min_score=config.min_score, max_distance=config.max_distance, tracking=config.tracking,
            detection=config.detection,
            estimation=replace(self.config.estimation, hand_length=length, largest_expected_error=error),
        )  # fmt: skip
        if same != config:
            return False
        detector = self._detector
        if config.detection != self.config.detection and not (detector and detector.configure(config.detection)):
            return False
        self._tracker.configure(config.tracking)
        if length != self.config.estimation.hand_length:
            self.estimator = of_length(self.estimator, length)
            self._tracker.smooth_anew()  # shapes are smoothed over seconds: another person's would come as slowly
        if error != self.config.estimation.largest_expected_error:
            self.estimator.trust_up_to(error)
        self.config = config
        return True

    def process(self, frame: Frame, boxes: Sequence[HandBox] | None = None) -> PipelineResult:
        """The hands of the next picture of a stream.

        boxes: take these instead of running the detector. A stamp long before the last one (a bag that loops, a clock
        that was set) starts a new stream, and so does another size of the pictures, in which nothing is where it was.
        A picture that came late, by less than `LATE_NS`, is taken for as new as the one before it.
        """
        _require_frame(frame)
        now_ns = self._stream_time(frame)
        start = time.perf_counter()
        turn = self._upright(frame)
        seen = turn.frame(replace(frame, stamp_ns=now_ns))
        left_out: list[str] = []
        if boxes is None:
            found = self._require_detector().follow(seen.image, now_ns)
        else:
            found, left_out = self._given(boxes, turn)
        return self._hands(frame, seen, turn, found, start, left_out, tracked=True, sides_given=boxes is not None)

    def _stream_time(self, frame: Frame) -> int:
        """When the frame was taken, or, where it came late, the one before it; forgets what another stream showed.

        Where stamps stand still, time goes on all the same, for detector, estimator and tracker alike (`StreamClock`).
        """
        now_ns = stream_time(self._stamp_ns, frame.stamp_ns)
        if self._stamp_ns is not None and self._camera is not None:
            if _sizes_differ(frame.camera, self._camera):
                now_ns = frame.stamp_ns
                self.reset()
            elif now_ns < self._stamp_ns:
                self.reset()
            elif frame.frame_id != self._frame_id or _is_another(frame.camera, self._camera):
                self._tracker.smooth_anew()  # what stood still is elsewhere for it
        self._stamp_ns, self._camera, self._frame_id = now_ns, frame.camera, frame.frame_id
        return self._clock(now_ns)

    def process_still(self, frame: Frame, boxes: Sequence[HandBox] | None = None) -> PipelineResult:
        """The hands of a single picture that belongs to no stream: looked at more closely, without track ids."""
        _require_frame(frame)
        start = time.perf_counter()
        turn = self._upright(frame)
        seen = turn.frame(frame)
        left_out: list[str] = []
        if boxes is None:
            found = self._require_detector().detect(seen.image)
        else:
            found, left_out = self._given(boxes, turn)
        # not followed, whoever followed them: the estimator would take the picture for one of the stream
        found = [replace(box, follow_id=-1) for box in found]
        return self._hands(frame, seen, turn, found, start, left_out, tracked=False, sides_given=boxes is not None)

    def _upright(self, frame: Frame) -> Turn:
        """What makes the picture upright, as the detector and the networks know pictures."""
        return Turn(self.config.upright_rotation // 90, frame.camera.width, frame.camera.height)

    def _require_detector(self) -> Detector:
        if self._detector is None:
            raise ConfigError("this pipeline was made without a detector: give the boxes of every picture")
        return self._detector

    def _given(self, boxes: Sequence[HandBox], turn: Turn) -> tuple[list[HandBox], list[str]]:
        """Boxes that somebody gave, in the upright picture, and those of them that `min_score` leaves out, in words."""
        given, least = _hand_boxes(boxes), self.config.min_score
        improbable = [
            f"{box.side.value} hand in box {index} is left out: its score is {box.score:g}, min_score {least:g}"
            for index, box in enumerate(given)
            if not box.score >= least
        ]
        return turn.boxes(given), improbable

    def _near_enough(self, hands: Sequence[Hand]) -> tuple[list[Hand], list[str]]:
        """Hands that `max_distance` leaves, and those that it leaves out, in words."""
        most = self.config.max_distance or np.inf
        near, too_far = [], []
        for hand in hands:
            distance = float(np.linalg.norm(hand.joints[0]))
            if distance > most:
                too_far.append(
                    f"{hand.side.value} hand is left out: its wrist is {distance:.2f} m away, max_distance {most:g}"
                )
            else:  # NaN as well
                near.append(hand)
        return near, too_far

    def _asked_for_sides(self, seen: Frame, boxes: Sequence[HandBox]) -> list[HandBox]:
        """The boxes, with what the estimator says of those whose side is in doubt; the detector hears it, too."""
        odds = self._side_questions(self.estimator, seen, boxes)
        told = {box.follow_id: right for box, right in zip(boxes, odds, strict=True) if right and box.follow_id >= 0}
        if told:
            self._require_detector().hear(told)
        return [with_evidence(box, right) if right else box for box, right in zip(boxes, odds, strict=True)]

    def _hands(
        self, frame: Frame, seen: Frame, turn: Turn, boxes: Sequence[HandBox], start: float, left_out: Sequence[str],
        *, tracked: bool, sides_given: bool,
    ) -> PipelineResult:  # fmt: skip
        """The hands of `frame`, from boxes in the upright picture `seen` that `turn` makes of it.

        The time of `seen` is the stream's; that of the frame, where it came late, is not. sides_given: by whoever knows
        them, and not by the detector.
        """
        boxes = [box for box in boxes if box.score >= self.config.min_score]
        detected = time.perf_counter()
        if boxes and self._exposes:
            seen = replace(seen, image=well_exposed(seen.image))
        if not sides_given:
            boxes = self._asked_for_sides(seen, boxes)
        estimates = self.estimator.estimate(seen, boxes) if boxes or tracked else Estimates((), ())
        estimated = time.perf_counter()
        near, too_far = self._near_enough(estimates.hands)
        raw = smooth = turn.back.hands(near)
        if tracked:
            raw, smooth = self._tracker.update(raw, seen.stamp_ns, frame.camera)
        end = time.perf_counter()
        return PipelineResult(
            stamp_ns=frame.stamp_ns,
            hands=tuple(smooth),
            raw=tuple(raw),
            boxes=tuple(turn.back.boxes(boxes)),
            skipped=(*left_out, *estimates.skipped, *too_far),
            timings={
                "detect": detected - start,
                "estimate": estimated - detected,
                "track": end - estimated,
                "total": end - start,
            },
        )


def _require_frame(frame: object) -> None:
    """Raises ImageError for a bare picture, as other packages take it."""
    if not isinstance(frame, Frame):
        raise ImageError(
            f"a pipeline takes a Frame, not {type(frame).__name__}: Frame(rgb, Camera.pinhole(width, height, focal), "
            "stamp_ns), from wildhands_ros.frames and wildhands_ros.camera"
        )


def _hand_boxes(boxes: Iterable[object]) -> list[HandBox]:
    """The same boxes. Raises ConfigError for bare ones."""
    checked = []
    for box in boxes:
        if not isinstance(box, HandBox):
            raise ConfigError(
                f"boxes are HandBox(side, (x0, y0, x1, y1), score), from wildhands_ros.hands, not {type(box).__name__}"
            )
        checked.append(box)
    return checked


def _sizes_differ(camera: Camera, other: Camera) -> bool:
    return (camera.width, camera.height) != (other.width, other.height)


def _is_another(camera: Camera, other: Camera) -> bool:
    """Whether this is no longer the same camera, and not only one that focuses."""
    focal = np.array([camera.fx / other.fx, camera.fy / other.fy]) - 1
    center = np.array([(camera.cx - other.cx) / camera.width, (camera.cy - other.cy) / camera.height])
    if camera.model is not other.model or np.abs([focal, center]).max() > _SAME_CAMERA:
        return True
    return camera.coefficients != other.coefficients and _views_differ(camera, other)


def _views_differ(camera: Camera, other: Camera) -> bool:
    """Whether somewhere in the picture the lenses look in other directions (radians, as focal lengths' parts are)."""
    x, y = np.meshgrid(np.linspace(0, camera.width - 1, 5), np.linspace(0, camera.height - 1, 5))
    pixels = np.stack([x, y], axis=-1)
    apart = np.abs(camera.angles(pixels) - other.angles(pixels))
    return bool(np.nan_to_num(apart).max() > _SAME_CAMERA)  # NaN: where one of them sees nothing
