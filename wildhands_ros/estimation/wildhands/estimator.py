"""WildHands as an estimator of the pipeline."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation.estimator import Estimates
from wildhands_ros.estimation.wildhands import published
from wildhands_ros.estimation.wildhands.checkpoint import checkpoint_missing
from wildhands_ros.estimation.wildhands.crops import CropMaker, Picture, Prepared
from wildhands_ros.estimation.wildhands.decode import Decoded, decode
from wildhands_ros.estimation.wildhands.expected_errors import disagreement
from wildhands_ros.estimation.wildhands.loading import LoadedNetwork, load_network
from wildhands_ros.estimation.wildhands.looks import FURTHER_ROLLS, MOST_LOOKS, mean_of_looks
from wildhands_ros.estimation.wildhands.places import Box, CropPlace, unusable
from wildhands_ros.estimation.wildhands.runtime import RuntimeConfig
from wildhands_ros.estimation.wildhands.upright import (
    WRIST,
    roll_of,
    roll_of_direction,
    rolled_back,
)
from wildhands_ros.estimation.wildhands.variant import Crops
from wildhands_ros.estimation.wildhands.views import RectifiedView, needs_view
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandLayer, HandModel
from wildhands_ros.hands import Hand, HandBox, Side
from wildhands_ros.settings import check_types

FloatArray = NDArray[np.float64]

logger = logging.getLogger(__name__)

_HAND_MODELS = {
    "mano": "name the folder with MANO_RIGHT.pkl and MANO_LEFT.pkl (--mano-dir, or the parameter estimation.mano_dir)",
    "open": "leave mano_dir empty",
}
"""The hand models that a checkpoint may name, and how to get each."""

_UPRIGHT_ENOUGH = math.radians(20)
_BELIEVED = math.radians(60)  # landmarks that point further from up are wrong too often to begin with them
_NEAREST = 0.02  # metres of depth, as in training (`batch.project_to_crop`)
_SIDE_WEIGHT = 6.0  # of how much surer a network is of a hand as one of a side: fits best, on rendered hands
_IN_DOUBT = 2 / 3  # of the largest expected error: what is allowed where landmarks see a different hand


@dataclass(frozen=True)
class WildHandsConfig:
    """How the network is used.

    checkpoint: the published file or one in this package's format.
    box_factor: edge of the crop over the longer edge of the box; 0 takes the checkpoint's own (1.75 for the published).
    all_hands: every box, not just the most probable one of each side.
    look_again: whether `OpenHands` looks at other crops of hands that are not followed, where they do not fit their
        boxes or it is not sure of them.
    looks: how many looks at each hand are averaged, 1 to 3; more than one only with networks of upright hands.
    nearest, farthest: metres; hands whose wrist lies outside are marked invalid.
    largest_expected_error: metres; so are hands that are likely to be farther off (`Hand.expected_error`). Where
        landmarks see a different hand, two thirds of it.
    """

    checkpoint: Path | None = None
    box_factor: float = 0.0
    all_hands: bool = False
    look_again: bool = True
    looks: int = 1
    nearest: float = 0.05
    farthest: float = 3.0
    largest_expected_error: float = 0.027
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        check_types(self)
        if self.box_factor != 0 and not 0.5 <= self.box_factor <= 10:
            raise ConfigError(f"box_factor must lie between 0.5 and 10 or be 0, not {self.box_factor}")
        if not 1 <= self.looks <= MOST_LOOKS:
            raise ConfigError(f"looks must lie between 1 and {MOST_LOOKS}, not {self.looks}")
        if not 0 < self.nearest < self.farthest:
            raise ConfigError(f"nearest ({self.nearest}) must be positive and less than farthest ({self.farthest})")
        if not self.largest_expected_error > 0:
            raise ConfigError(f"largest_expected_error must be positive, not {self.largest_expected_error}")


@dataclass(frozen=True)
class Found:
    """One hand in the camera frame, not yet posed: pose (16, 3, 3), betas (10,), translation (3,) metres.

    error: pixels from what the detector saw of it; NaN where nothing was compared. agrees: whether both can be of the
    same hand.
    """

    pose: FloatArray
    betas: FloatArray
    translation: FloatArray
    error: float = math.nan
    agrees: bool = True


class WildHands:
    """The WildHands network as an `Estimator`: each picture on its own, all its hands in one pass.

        estimator = WildHands.load(WildHandsConfig(Path("wildhands.ckpt")), load_hand_model(Path("mano")))
        for hand in estimator.estimate(frame, boxes).hands: ...

    Results are in the frame of the camera that took the picture, also where a rectified view of a distorted picture
    or perspective crops lie between. Not thread-safe.
    """

    name = "wildhands"

    def __init__(
        self, network: LoadedNetwork, hand_model: HandModel, config: WildHandsConfig, *, with_mesh: bool = True
    ) -> None:
        self.network = network
        self.hand_model = hand_model
        self.config = config
        self.with_mesh = with_mesh
        variant = network.info.variant
        trained = network.info.hand_model
        if trained in _HAND_MODELS and trained != hand_model.name:
            logger.warning(
                "this checkpoint was trained on the hand model '%s' but poses the hand model '%s', so every hand will "
                "have wrong joints and a wrong shape: %s", trained, hand_model.name, _HAND_MODELS[trained],
            )  # fmt: skip
        if config.looks > 1 and not variant.upright:
            raise ConfigError(
                f"this network was not trained to see hands upright and gains nothing by {config.looks} looks: leave "
                "looks at 1"
            )
        self._crops = CropMaker(variant, config.box_factor or variant.box_factor, network.runtime.device)
        self._layers = {side: self.bare_layer(hand_model.layer(side)) for side in Side}
        self._view: RectifiedView | None = None

    @classmethod
    def load(cls, config: WildHandsConfig, hand_model: HandModel, *, with_mesh: bool = True) -> WildHands:
        """Loads the checkpoint, and exports and checks it where its runtime needs that (see `loading.load_network`).

        Raises ModelFileError saying what is missing and where to get it, ConfigError for a runtime that cannot be.
        """
        missing = checkpoint_missing(config.checkpoint)
        if missing or config.checkpoint is None:
            raise ModelFileError(missing or "no checkpoint was named")
        return cls(load_network(config.checkpoint, config.runtime), hand_model, config, with_mesh=with_mesh)

    @staticmethod
    def bare_layer(layer: HandLayer) -> HandLayer:
        """The same hand without its mean pose: its pose is the joints' whole rotations."""
        return HandLayer(replace(layer.data, hands_mean=np.zeros(45)))

    @property
    def context(self) -> float:
        """How far about a hand the network looks: edge of a square about its box over the longer edge of that; infinite
        where a trunk looks at the whole picture."""
        variant = self.network.info.variant
        return math.inf if variant.frame_trunk else self._crops.factor * variant.roll_margin

    def reset(self) -> None:
        """Nothing is remembered from picture to picture."""

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        """The hands of one picture. A box that cannot be used is skipped with the reason."""
        image, camera, view = self._undistorted(frame)
        kept, places, skipped = [], [], {}
        placed = [self._place(box.xyxy, camera, view) for box in boxes]
        usable = [index for index, place in enumerate(placed) if isinstance(place, CropPlace)]
        chosen = usable if self.config.all_hands else _best_of_each_side(boxes, usable)
        for index, (box, place) in enumerate(zip(boxes, placed, strict=True)):
            if not isinstance(place, CropPlace):
                skipped[index] = _skip(index, box, place)
            elif index in chosen:
                kept.append(index)
                places.append(place)
            else:
                skipped[index] = _skip(
                    index, box, f"there is a more probable {box.side.value} hand (see all_hands, --all-hands)"
                )
        if not kept:
            return Estimates((), tuple(skipped.values()))
        estimated = [boxes[index] for index in kept]
        places = self._steadied(places, estimated, frame.stamp_ns)
        rolls = self._first_rolls(estimated, camera, view, frame.stamp_ns)
        picture = self._crops.upload(image)  # once, for all looks at it
        decoded = self._look(picture, camera, places, estimated, rolls)
        rolls, decoded = self._look_again(picture, camera, places, estimated, rolls, decoded)
        places, rolls, decoded = self._look_elsewhere(picture, camera, places, estimated, rolls, decoded)
        if decoded.directions is not None:
            upright = [roll + roll_of_direction(d) for roll, d in zip(rolls, decoded.directions, strict=True)]
            self._keep_rolls(estimated, upright, frame.stamp_ns)
        decoded = self._look_further(picture, camera, places, estimated, rolls, decoded)
        hands = []
        for position, (index, box) in enumerate(zip(kept, estimated, strict=True)):
            hand = self._hand(frame, box, decoded, position, (camera, places[position]))
            if hand is None:
                skipped[index] = _skip(index, box, "the network's output is not finite")
            else:
                hands.append(hand)
        return Estimates(tuple(hands), tuple(reason for _, reason in sorted(skipped.items())))

    def side_log_odds(self, frame: Frame, boxes: Sequence[HandBox]) -> list[float]:
        """Log-odds of "right" for each box's hand, whatever its side is said to be: shown it as a hand of either side,
        the network is surer where it is one. 0 where the network does not tell."""
        if self.network.info.errors is None:
            return [0.0] * len(boxes)
        image, camera, view = self._undistorted(frame)
        placed = [self._place(box.xyxy, camera, view) for box in boxes]
        usable = [(i, place) for i, place in enumerate(placed) if isinstance(place, CropPlace)]
        if not usable:
            return [0.0] * len(boxes)
        places = [place for _, place in usable] * 2
        shown = [replace(boxes[i], side=side) for side in (Side.LEFT, Side.RIGHT) for i, _ in usable]
        picture = self._crops.upload(image)
        rolls = [self._roll(box, camera, view) for box in shown]
        decoded = self._look(picture, camera, places, shown, rolls)
        _, decoded = self._look_again(picture, camera, places, shown, rolls, decoded)
        errors = [self._error_as_seen(decoded, i, box, camera, places[i]) for i, box in enumerate(shown)]
        odds = [0.0] * len(boxes)
        for (i, _), left, right in zip(usable, errors[: len(usable)], errors[len(usable) :], strict=True):
            odds[i] = _SIDE_WEIGHT * math.log(left / right) if 0 < left < math.inf and 0 < right < math.inf else 0.0
        return odds

    def prepare(self, frame: Frame, boxes: Sequence[HandBox]) -> Prepared:
        """The network's inputs for boxes that can all be used. Raises ConfigError with the reason where one cannot."""
        if not boxes:
            raise ConfigError("without boxes there is nothing that a network could look at")
        image, camera, view = self._undistorted(frame)
        places = [self._place(box.xyxy, camera, view) for box in boxes]
        for index, place in enumerate(places):
            if not isinstance(place, CropPlace):
                raise ConfigError(_skip(index, boxes[index], place))
        usable = [place for place in places if isinstance(place, CropPlace)]
        rolls = [self._roll(box, camera, view) for box in boxes]
        return self._crops.prepare(image, camera, usable, [box.side is Side.RIGHT for box in boxes], rolls)

    def pose_hand(
        self, side: Side, pose: FloatArray, betas: FloatArray, translation: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Vertices (V, 3) and keypoints (21, 3) of one of the network's hands, camera frame, metres."""
        layer = self.hand_model.layer(side)
        if self.network.info.variant.crops is Crops.PUBLISHED:
            rotations = published.joint_rotations(pose, layer.data.hands_mean)
        else:
            rotations = layer.rotations_from_pose(pose)
        return self._layers[side].numpy(rotations, betas, translation)

    def within_reach(self, joints: FloatArray) -> bool:
        """Whether the wrist of joints (21, 3) lies where the configuration allows a valid hand's."""
        distance = float(np.linalg.norm(joints[0]))
        return self.config.nearest <= distance <= self.config.farthest and bool(joints[0, 2] > 0)

    def trust_up_to(self, largest_expected_error: float) -> None:
        """From now on hands that are likely to be farther off than this, in metres, are not valid."""
        self.config = replace(self.config, largest_expected_error=largest_expected_error)

    def _undistorted(self, frame: Frame) -> tuple[NDArray[np.uint8], Camera, RectifiedView | None]:
        camera = frame.camera
        # published weights are shown pixels that are not square, as the published code shows them
        published_way = self.network.info.variant.crops is Crops.PUBLISHED
        if not (camera.has_distortion if published_way else needs_view(camera)):
            return frame.image, camera, None
        if self._view is None or self._view.source != frame.camera:
            self._view = RectifiedView.of(frame.camera)
        return self._view.image(frame.image), self._view.camera, self._view

    def _place(self, box: Box, camera: Camera, view: RectifiedView | None) -> CropPlace | str:
        if view is not None:
            reason = unusable(box, view.source.width, view.source.height)
            if reason is not None:
                return reason
            seen = view.box(box)
            if seen is None:
                return "its box lies outside the rectified view of this picture"
            box = seen
        return self._crops.place(camera, box)

    def _steadied(self, places: list[CropPlace], boxes: Sequence[HandBox], stamp_ns: int) -> list[CropPlace]:
        """The crops to look at, from those of the boxes; here the same."""
        return places

    def _first_rolls(
        self, boxes: Sequence[HandBox], camera: Camera, view: RectifiedView | None, stamp_ns: int
    ) -> list[float]:
        """The rolls for the first looks at a picture."""
        return [self._roll(box, camera, view) for box in boxes]

    def _keep_rolls(self, boxes: Sequence[HandBox], rolls: Sequence[float], stamp_ns: int) -> None:
        """Takes note of the rolls with which the network would have seen the hands upright; here not."""

    def _roll(self, box: HandBox, camera: Camera, view: RectifiedView | None) -> float:
        """The roll for the first look: the one that makes the landmarks point up (`upright.roll_of`), where they are
        likely to be right."""
        if box.landmarks is None or not self.network.info.variant.upright:
            return 0.0
        seen = box.landmarks.image
        roll = roll_of(seen if view is None else camera.project(view.source.unproject(seen)))
        return roll if abs(roll) <= _BELIEVED else 0.0

    def _look(
        self, picture: Picture, camera: Camera, places: Sequence[CropPlace], boxes: Sequence[HandBox],
        rolls: Sequence[float],
    ) -> Decoded:  # fmt: skip
        """What the network says of crops rolled so, in the camera's frame."""
        prepared = self._crops.prepare(picture, camera, places, [box.side is Side.RIGHT for box in boxes], rolls)
        variant = self.network.info.variant
        decoded = decode(variant, prepared, self.network.runtime(prepared.inputs))
        if not variant.upright:
            return decoded
        hands = zip(decoded.pose, decoded.translation, decoded.betas, boxes, rolls, strict=True)
        back = [
            rolled_back(p, t, self.hand_model.layer(box.side).rest_joints(betas)[WRIST], roll)
            for p, t, betas, box, roll in hands
        ]
        return replace(decoded, pose=np.stack([p for p, _ in back]), translation=np.stack([t for _, t in back]))

    def _look_at(
        self, which: Sequence[int], picture: Picture, camera: Camera, places: Sequence[CropPlace],
        boxes: Sequence[HandBox], rolls: Sequence[float], decoded: Decoded,
    ) -> Decoded:  # fmt: skip
        """The answers, with those of another look at some of the hands in their places."""
        if not which:
            return decoded
        seen = self._look(
            picture, camera, [places[i] for i in which], [boxes[i] for i in which], [rolls[i] for i in which]
        )
        return decoded.with_rows(which, seen)

    def _look_again(
        self, picture: Picture, camera: Camera, places: Sequence[CropPlace], boxes: Sequence[HandBox],
        rolls: list[float], decoded: Decoded,
    ) -> tuple[list[float], Decoded]:  # fmt: skip
        """Rolls and answers after a second look at the hands that do not point up in their crops: without landmarks, or
        with wrong ones, the first look tells where up is. Hands whose networks see them as they are stay."""
        upright = upright_rolls(rolls, decoded)
        again = [i for i, roll in enumerate(upright) if roll != rolls[i]]
        return upright, self._look_at(again, picture, camera, places, boxes, upright, decoded)

    def _look_elsewhere(
        self, picture: Picture, camera: Camera, places: list[CropPlace], boxes: Sequence[HandBox], rolls: list[float],
        decoded: Decoded,
    ) -> tuple[list[CropPlace], list[float], Decoded]:  # fmt: skip
        """Crops, rolls and answers after looks at other crops of hands that their boxes may not fit; here none."""
        return places, rolls, decoded

    def _look_further(
        self, picture: Picture, camera: Camera, places: Sequence[CropPlace], boxes: Sequence[HandBox],
        rolls: Sequence[float], decoded: Decoded,
    ) -> Decoded:  # fmt: skip
        """The mean of these answers and those of further looks, all of them in one pass."""
        further = FURTHER_ROLLS[: self.config.looks - 1]
        if not further:
            return decoded
        turned = [
            roll + (more if box.side is Side.RIGHT else -more)
            for more in further
            for roll, box in zip(rolls, boxes, strict=True)
        ]
        found = self._look(picture, camera, [*places] * len(further), [*boxes] * len(further), turned)
        return mean_of_looks([decoded, *found.split(len(further))])

    def _hand(
        self, frame: Frame, box: HandBox, decoded: Decoded, index: int, shown: tuple[Camera, CropPlace]
    ) -> Hand | None:
        """One of the hands as it is reported; None where it is not finite. shown: the camera of the picture that the
        network saw, and the hand's crop."""
        found = Found(decoded.pose[index], decoded.betas[index], decoded.translation[index])
        if not all(np.isfinite(values).all() for values in (found.pose, found.betas, found.translation)):
            return None
        found = self._settled(frame, box, found)
        vertices, joints = self.pose_hand(box.side, found.pose, found.betas, found.translation)
        grasp = None if decoded.grasp is None else (int(decoded.grasp[index].argmax()), decoded.grasp[index])
        expected_error = self._expected_error(decoded, index, joints, *shown)
        return Hand(
            side=box.side,
            score=box.score,
            side_probability=box.side_probability,
            box=box.xyxy,
            joints=joints,
            keypoints=frame.camera.project(joints),
            pose=found.pose,
            betas=found.betas,
            translation=found.translation,
            vertices=vertices if self.with_mesh else None,
            estimator=self.name,
            hand_model=self.hand_model.name,
            reprojection_error=found.error,
            expected_error=expected_error,
            valid=self._credible(expected_error, found.agrees) and self.within_reach(joints),
            follow_id=box.follow_id,
            grasp=grasp,
        )

    def _expected_error(
        self, decoded: Decoded, index: int, joints: FloatArray, camera: Camera, place: CropPlace
    ) -> float:
        """How far joints (21, 3) are likely to be off, metres; NaN where the checkpoint does not tell."""
        errors = self.network.info.errors
        if errors is None or decoded.keypoints is None or decoded.spread is None:
            return math.nan
        _, edge = self._crops.frame(camera).in_picture(place)
        # joints beside the camera or behind it are far out of the picture, not nowhere
        ahead = np.column_stack([joints[:, :2], np.maximum(joints[:, 2], _NEAREST)])
        apart = disagreement(decoded.keypoints[index], camera.project(ahead) / (edge / 2))
        return float(errors(decoded.spread[index], apart))

    def _error_as_seen(self, decoded: Decoded, index: int, box: HandBox, camera: Camera, place: CropPlace) -> float:
        """The expected error of a hand as the network has it, before anything else moves it."""
        pose, betas, translation = decoded.pose[index], decoded.betas[index], decoded.translation[index]
        _, joints = self.pose_hand(box.side, pose, betas, translation)
        return self._expected_error(decoded, index, joints, camera, place)

    def _credible(self, expected_error: float, agrees: bool) -> bool:
        """Whether a hand is likely to be good enough. Landmarks are often wrong where a hand is hard to see: that they
        see another one counts only where the network is not sure either."""
        if math.isnan(expected_error):
            return agrees
        return expected_error <= self.config.largest_expected_error * (1 if agrees else _IN_DOUBT)

    def _settled(self, frame: Frame, box: HandBox, found: Found) -> Found:
        """A hand as it is to be reported, from what the network found."""
        return found


def upright_rolls(rolls: Sequence[float], decoded: Decoded) -> list[float]:
    """The rolls at which hands seen with these rolls would point up; the same for those that nearly do, or of which the
    network does not tell."""
    if decoded.directions is None:
        return list(rolls)
    off = [roll_of_direction(direction) for direction in decoded.directions]
    return [roll + more if abs(more) > _UPRIGHT_ENOUGH else roll for roll, more in zip(rolls, off, strict=True)]


def _best_of_each_side(boxes: Sequence[HandBox], usable: Sequence[int]) -> list[int]:
    """Of the indices `usable` those of the most probable box of each side."""
    best: dict[Side, int] = {}
    for index in usable:
        side = boxes[index].side
        if side not in best or not boxes[index].score <= boxes[best[side]].score:
            best[side] = index
    return list(best.values())


def _skip(index: int, box: HandBox, reason: str) -> str:
    return f"{box.side.value} hand in box {index} cannot be estimated: {reason}"
