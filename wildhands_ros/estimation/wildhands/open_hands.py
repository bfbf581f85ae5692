"""The open network as an estimator: this package's own weights on the open hand, refined by detected landmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation.refinement import Parameters, RefinementConfig, Refiner
from wildhands_ros.estimation.wildhands.checkpoint import is_instead, is_there
from wildhands_ros.estimation.wildhands.crops import Picture
from wildhands_ros.estimation.wildhands.decode import Decoded
from wildhands_ros.estimation.wildhands.estimator import Found, WildHands, WildHandsConfig, upright_rolls
from wildhands_ros.estimation.wildhands.loading import LoadedNetwork, load_network
from wildhands_ros.estimation.wildhands.places import Box, CropPlace, unusable
from wildhands_ros.estimation.wildhands.steady import KnownRolls, SteadyCrops
from wildhands_ros.estimation.wildhands.views import RectifiedView
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandModel
from wildhands_ros.hands import HandBox, Side

SHIPPED_CHECKPOINT = Path(__file__).parent / "data" / "open_hand_network.safetensors"
"""The weights that come with this package."""

OPEN_HAND = "open"
"""The hand model whose parameters an open network speaks."""

_FITS = (0.83, 1.15)
"""Edge of a box about the hand that was found over that of the box it was found in. The network was trained on boxes
that are right to that; by half of what one is too large or too small, the hand is found too near or too far off."""

_BESIDE = 0.15
"""The same of the distance of their middles, in edges of the box about the hand."""

_CLOSER_LOOKS = 3

_UNSURE = 0.02
"""Metres of expected error from which on a box may show a part of the hand only."""

_WIDER = 1.8
"""By how much larger a crop shows it then."""

_SURER = 0.9
"""Of that expected error: what it may be after the wider look for this one to count."""


class OpenHands(WildHands):
    """A network that was trained on the open hand, as an `Estimator`; every box is estimated.

    Of earlier pictures it only remembers how large the crops of followed hands were, and where up was in them.

    Hands that are not followed are looked at again, where the configuration allows it (`look_again`): in a crop about
    the hand as it was found, where that does not fit a box without landmarks, which may be drawn in any way; and in a
    wider one, where the network is not sure, since a box about wrong landmarks often shows a part of the hand only.

        estimator = OpenHands.load(WildHandsConfig(), load_hand_model())

    refine: whether hands are moved towards the landmarks of their boxes; without landmarks they stay as the network has
    them. Moved or not, that network and landmarks see different hands makes a hand of which the network is not sure
    invalid (`Hand.valid`), and any hand of a network without expected errors.
    """

    name = "open"

    def __init__(
        self,
        network: LoadedNetwork,
        hand_model: HandModel,
        config: WildHandsConfig,
        *,
        with_mesh: bool = True,
        refine: bool = True,
        refinement: RefinementConfig | None = None,
    ) -> None:
        """Raises ConfigError for another hand model than the open hand, or a network that was trained on another."""
        if hand_model.name != OPEN_HAND:
            raise ConfigError(
                f"the open network speaks the open hand's parameters, not those of '{hand_model.name}': leave mano_dir "
                "empty, or take the estimator 'landmarks', or 'wildhands' with weights that were trained with MANO"
            )
        if network.info.hand_model != OPEN_HAND:
            raise ConfigError(
                f"this checkpoint was trained on the hand model '{network.info.hand_model}', not on the open hand: "
                "take the estimator 'wildhands'"
            )
        super().__init__(network, hand_model, replace(config, all_hands=True), with_mesh=with_mesh)
        self.refine = refine
        self.refiner = Refiner(hand_model, refinement)
        self._steady = SteadyCrops()
        self._known_rolls = KnownRolls()

    @classmethod
    def load(
        cls,
        config: WildHandsConfig,
        hand_model: HandModel,
        *,
        with_mesh: bool = True,
        refine: bool = True,
        refinement: RefinementConfig | None = None,
    ) -> OpenHands:
        """Loads the checkpoint that the configuration names, or the shipped one where it names none.

        Raises ModelFileError where it is missing or damaged, ConfigError for a runtime that cannot be or a checkpoint
        of another hand model.
        """
        checkpoint = config.checkpoint or SHIPPED_CHECKPOINT
        if missing := open_checkpoint_missing(checkpoint):
            raise ModelFileError(missing)
        network = load_network(checkpoint, config.runtime)
        return cls(network, hand_model, config, with_mesh=with_mesh, refine=refine, refinement=refinement)

    def reset(self) -> None:
        """Forgets the crops of the hands: a new stream begins."""
        self._steady.reset()
        self._known_rolls.reset()

    def _place(self, box: Box, camera: Camera, view: RectifiedView | None) -> CropPlace | str:
        """The network learned from boxes around what the picture shows; a detector's may reach over its edge."""
        if view is None and unusable(box, camera.width, camera.height) is None:
            box = _within(box, camera)
        return super()._place(box, camera, view)

    def _steadied(self, places: list[CropPlace], boxes: Sequence[HandBox], stamp_ns: int) -> list[CropPlace]:
        return self._steady(places, boxes, stamp_ns)

    def _first_rolls(
        self, boxes: Sequence[HandBox], camera: Camera, view: RectifiedView | None, stamp_ns: int
    ) -> list[float]:
        """Those of the pictures before: the network knows better than landmarks where up is, and wanders less."""
        known = [self._known_rolls(box, stamp_ns) for box in boxes]
        seen = super()._first_rolls(boxes, camera, view, stamp_ns)
        return [first if roll is None else roll for roll, first in zip(known, seen, strict=True)]

    def _keep_rolls(self, boxes: Sequence[HandBox], rolls: Sequence[float], stamp_ns: int) -> None:
        self._known_rolls.keep(boxes, rolls, stamp_ns)

    def _look_elsewhere(
        self, picture: Picture, camera: Camera, places: list[CropPlace], boxes: Sequence[HandBox], rolls: list[float],
        decoded: Decoded,
    ) -> tuple[list[CropPlace], list[float], Decoded]:  # fmt: skip
        if not self.config.look_again:
            return places, rolls, decoded
        # crops of followed hands must not flicker
        alone = [i for i, box in enumerate(boxes) if box.follow_id < 0]
        drawn_anyhow = [i for i in alone if boxes[i].landmarks is None]
        looked = self._look_closer(picture, camera, places, boxes, rolls, decoded, drawn_anyhow)
        return self._look_wider(picture, camera, boxes, *looked, alone)

    def _look_closer(
        self, picture: Picture, camera: Camera, places: list[CropPlace], boxes: Sequence[HandBox], rolls: list[float],
        decoded: Decoded, which: Sequence[int],
    ) -> tuple[list[CropPlace], list[float], Decoded]:  # fmt: skip
        """Looks at some of the hands in the crops that fit them as they were found, until they do."""
        left = list(which)
        for _ in range(_CLOSER_LOOKS):
            fitting = {i: self._fitting(camera, places[i], boxes[i].side, decoded, i) for i in left}
            upright = upright_rolls(rolls, decoded)
            left = [i for i in left if fitting[i] is not None or upright[i] != rolls[i]]
            if not left:
                break
            places = [fitting.get(i) or place for i, place in enumerate(places)]
            rolls = [upright[i] if i in left else roll for i, roll in enumerate(rolls)]
            decoded = self._look_at(left, picture, camera, places, boxes, rolls, decoded)
        return places, rolls, decoded

    def _look_wider(
        self, picture: Picture, camera: Camera, boxes: Sequence[HandBox], places: list[CropPlace], rolls: list[float],
        decoded: Decoded, which: Sequence[int],
    ) -> tuple[list[CropPlace], list[float], Decoded]:  # fmt: skip
        """Looks at those of the hands of which the network is not sure with more about them, and then as they are found
        there; what is seen so counts where the network is surer of it."""
        errors = {i: self._error_as_seen(decoded, i, boxes[i], camera, places[i]) for i in which}
        unsure = [i for i in which if errors[i] > _UNSURE]
        if not unsure:
            return places, rolls, decoded
        wider = list(places)
        for i in unsure:
            wider[i] = CropPlace.square(places[i].center, _WIDER * places[i].extent)
        turned = upright_rolls(rolls, decoded)
        seen = self._look_at(unsure, picture, camera, wider, boxes, turned, decoded)
        wider, turned, seen = self._look_closer(picture, camera, wider, boxes, turned, seen, unsure)
        surer = [i for i in unsure if self._error_as_seen(seen, i, boxes[i], camera, wider[i]) < _SURER * errors[i]]
        places = [wider[i] if i in surer else place for i, place in enumerate(places)]
        rolls = [turned[i] if i in surer else roll for i, roll in enumerate(rolls)]
        return places, rolls, decoded.with_rows(surer, seen.rows(surer))

    def _fitting(self, camera: Camera, place: CropPlace, side: Side, decoded: Decoded, index: int) -> CropPlace | None:
        """The crop that fits a hand as it was found in another one; None where that one fits, or none is known."""
        vertices, _ = self.pose_hand(side, decoded.pose[index], decoded.betas[index], decoded.translation[index])
        outline = camera.project(vertices)
        if not np.isfinite(outline).all():
            return None
        (x0, y0), (x1, y1) = outline.min(axis=0), outline.max(axis=0)
        # this box is drawn as the training's were, whatever factor makes up for how the given ones are
        factor = self.network.info.variant.box_factor
        fitting = self._crops.place(camera, _within((float(x0), float(y0), float(x1), float(y1)), camera), factor)
        if not isinstance(fitting, CropPlace):
            return None
        beside = math.dist(place.center, fitting.center) / (fitting.extent / factor)
        fits = _FITS[0] <= fitting.extent / place.extent <= _FITS[1] and beside <= _BESIDE
        return None if fits else fitting

    def _settled(self, frame: Frame, box: HandBox, found: Found) -> Found:
        if box.landmarks is None:
            return found
        look = self.refiner.refine if self.refine else self.refiner.compare
        seen = look(Parameters(found.pose, found.betas, found.translation), box.side, box.landmarks, frame.camera)
        if seen is None:
            return found
        moved = seen.parameters
        return Found(moved.pose, moved.betas, moved.translation, seen.error, seen.agrees)


def _within(box: Box, camera: Camera) -> Box:
    """What a picture shows of a box."""
    x0, y0, x1, y1 = box
    return max(x0, -0.5), max(y0, -0.5), min(x1, camera.width - 0.5), min(y1, camera.height - 0.5)


def open_checkpoint_missing(path: Path = SHIPPED_CHECKPOINT) -> str | None:
    """What to do about an open network's checkpoint that is not there, in words; None where it is."""
    if is_there(path):
        return None
    if path == SHIPPED_CHECKPOINT:
        return f"the open network's weights ({path}) are not in this installation: install the package again"
    return is_instead(path) or (
        f"the checkpoint {path} is missing: name another, or none for the one that comes with this package"
    )
