"""The landmark-fit baseline: a hand model fitted to what the landmark network saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.estimation.estimator import Estimates
from wildhands_ros.estimation.fitting.evidence import Evidence, gather
from wildhands_ros.estimation.fitting.freedom import hand_kinematics, natural_prior
from wildhands_ros.estimation.fitting.kinematics import Kinematics
from wildhands_ros.estimation.fitting.minimise import minimise
from wildhands_ros.estimation.fitting.terms import Prior
from wildhands_ros.estimation.landmark_fit.objective import Estimate, Objective, Weights
from wildhands_ros.estimation.landmark_fit.start import first_estimate, moved_into_view, of_model_size
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandModel
from wildhands_ros.hands import Hand, HandBox, Side

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LandmarkFitConfig:
    """How the fit weighs its evidence and when it stops.

    weights: how wrong landmarks tend to be. size_sigma: standard deviation of the betas; firm, because one picture
    cannot tell a large hand from a near one. max_steps, tolerance: of the minimisation.
    doubtful_cost: where a search that started from the last picture's hand ends higher than this, a fresh one is made
    too; in halved squared standard deviations, of some 60 independent numbers.
    nearest, farthest: metres; hands whose wrist lies outside are marked invalid.
    largest_error: mean reprojection error, as a fraction of the landmarks' box, above which a hand is invalid.
    largest_cost: the same for what is left of the cost after the fit.
    """

    weights: Weights = field(default_factory=Weights)
    size_sigma: float = 0.3
    max_steps: int = 12
    tolerance: float = 0.05
    doubtful_cost: float = 60.0
    nearest: float = 0.05
    farthest: float = 2.0
    largest_error: float = 0.05
    largest_cost: float = 80.0


class LandmarkFit:
    """Fits the hand model to the detector's landmarks. A baseline: docs/landmark_fit.md says what it cannot do.

    hand_model: which hand. with_mesh: whether hands carry vertices. Each picture is fitted on its own; the hand
    followed from the last picture is only where the search starts (`HandBox.follow_id`), so results are raw.
    """

    name = "landmarks"

    def __init__(
        self, hand_model: HandModel, *, with_mesh: bool = True, config: LandmarkFitConfig | None = None
    ) -> None:
        self.hand_model = hand_model
        self.with_mesh = with_mesh
        self.config = config or LandmarkFitConfig()
        self._kinematics: dict[Side, Kinematics] = {}
        self._priors: dict[Side, Prior] = {}
        for side in Side:
            self._kinematics[side] = hand_kinematics(hand_model.layer(side))
            self._priors[side] = natural_prior(hand_model.layer(side), self.config.size_sigma)
        self._followed: dict[tuple[int, Side], Estimate] = {}

    def reset(self) -> None:
        """Forgets the hands of earlier pictures."""
        self._followed = {}

    def within_reach(self, joints: FloatArray) -> bool:
        """Whether the wrist of joints (21, 3) lies where the configuration allows a valid hand's."""
        return self.config.nearest <= float(np.linalg.norm(joints[0])) <= self.config.farthest

    def trust_up_to(self, largest_expected_error: float) -> None:
        """Does nothing: the fit does not know how far off it is."""

    def pose_hand(
        self, side: Side, pose: FloatArray, betas: FloatArray, translation: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Vertices (V, 3) and joints (21, 3) of a hand, as the hand model has them."""
        return self.hand_model.layer(side).numpy(pose, betas, translation)

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        """The hands of one picture; boxes without usable landmarks are skipped with the reason."""
        with_landmarks = [box.landmarks for box in boxes if box.landmarks is not None]
        evidence = iter(gather(with_landmarks, frame.camera))
        hands: list[Hand] = []
        skipped: list[str] = []
        followed: dict[tuple[int, Side], Estimate] = {}
        for index, box in enumerate(boxes):
            found = next(evidence) if box.landmarks is not None else "it has no landmarks; let the detector find it"
            if isinstance(found, Evidence):
                estimate, cost = self._fit(box, found)
                if np.isfinite(cost):
                    hands.append(self._hand(box, found, estimate, cost, frame))
                    if box.follow_id >= 0:
                        followed[box.follow_id, box.side] = estimate
                    continue
                found = "no hand in front of the camera agrees with its landmarks"
            skipped.append(f"{box.side.value} hand in box {index} cannot be fitted: {found}")
        if not boxes or any(box.follow_id >= 0 for box in boxes):  # others belong to no stream
            self._followed = followed
        return Estimates(tuple(hands), tuple(skipped))

    def _fit(self, box: HandBox, evidence: Evidence) -> tuple[Estimate, float]:
        kinematics, prior = self._kinematics[box.side], self._priors[box.side]
        evidence = of_model_size(evidence, kinematics, prior)
        objective = Objective(kinematics, prior, self.config.weights, evidence)
        best: tuple[Estimate, float] | None = None
        for start in self._starts(box, evidence):
            found = minimise(objective, start, max_steps=self.config.max_steps, tolerance=self.config.tolerance)
            if best is None or found[1] < best[1]:
                best = found
            if best[1] <= self.config.doubtful_cost:
                break
        assert best is not None  # there is always a fresh start
        return best

    def _starts(self, box: HandBox, evidence: Evidence) -> Iterator[Estimate]:
        """Places to search from: the hand of the last picture if it was followed, then what this picture suggests."""
        kinematics, prior = self._kinematics[box.side], self._priors[box.side]
        last = self._followed.get((box.follow_id, box.side))
        if last is not None:
            yield moved_into_view(last, kinematics, evidence)
        yield first_estimate(kinematics, prior, evidence)

    def _hand(self, box: HandBox, evidence: Evidence, estimate: Estimate, cost: float, frame: Frame) -> Hand:
        kinematics, layer = self._kinematics[box.side], self.hand_model.layer(box.side)
        posture = estimate.posture
        pose, translation = kinematics.mano_pose(posture), kinematics.translation(posture)
        betas = np.zeros(10)
        betas[: len(posture.betas)] = posture.betas
        vertices, joints = layer.numpy(pose, betas, translation)
        keypoints = frame.camera.project(joints)
        expected = frame.camera.project(kinematics.landmarks(posture))
        error = float(np.mean(np.linalg.norm(expected - evidence.pixels, axis=1)[evidence.seen > 0]))
        config = self.config
        agrees = error <= config.largest_error * evidence.size and cost <= config.largest_cost
        return Hand(
            side=box.side,
            score=box.score,
            side_probability=box.side_probability,
            box=box.xyxy,
            joints=joints,
            keypoints=keypoints,
            pose=pose,
            betas=betas,
            translation=translation,
            vertices=vertices if self.with_mesh else None,
            estimator=self.name,
            hand_model=self.hand_model.name,
            reprojection_error=error,
            valid=agrees and self.within_reach(joints),
            follow_id=box.follow_id,
        )
