"""A rendered sequence of two hands seen from the head, with exactly known poses.

The open hand model (or the user's own), moved by a script, lit, textured and seen through a wide-angle lens. It serves
demonstrations and tests: what is published can be compared with what is true.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import ConfigError
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandLayer, HandModel, load_hand_model
from wildhands_ros.hands import Hand, Side, wrist_rotation
from wildhands_ros.synthetic.arm import Arm, ArmLook
from wildhands_ros.synthetic.fingers import FingerPoser
from wildhands_ros.synthetic.light import Lights, reach, shade, to_display
from wildhands_ros.synthetic.meshes import FloatArray, vertex_normals
from wildhands_ros.synthetic.motion import HandScript, HeadScript
from wildhands_ros.synthetic.renderer import Mesh, render
from wildhands_ros.synthetic.room import Room

VISIBLE_FRACTION = 0.5
"""A hand counts as visible where at least this part of it can be seen."""

_NOISE_MARGIN = 64
_SKINS = ((0.50, 0.27, 0.18), (0.56, 0.33, 0.23), (0.38, 0.19, 0.115), (0.24, 0.115, 0.07), (0.46, 0.26, 0.15))
_SLEEVES = ((0.09, 0.13, 0.24), (0.30, 0.08, 0.07), (0.22, 0.23, 0.22), (0.06, 0.06, 0.07), (0.55, 0.53, 0.48))
_HAND_CHANNEL = {Side.LEFT: 0, Side.RIGHT: 1}
"""Where the renderer's values past red, green and blue tell each hand's silhouette."""


class Lens(str, Enum):
    """The camera's lens: an undistorted one of 104° across, or an equidistant fisheye of 140°."""

    WIDE = "wide"
    FISHEYE = "fisheye"

    def camera(self, width: int, height: int) -> Camera:
        """The camera of pictures of this size."""
        if self is Lens.WIDE:
            return Camera.pinhole(width, height, width / 2 / np.tan(np.radians(52)))
        focal = width / 2 / np.radians(70)
        center = ((width - 1) / 2, (height - 1) / 2)
        return Camera(width, height, focal, focal, *center, Distortion.EQUIDISTANT, (0.012, -0.006, 0.001, 0.0))


@dataclass(frozen=True)
class SequenceConfig:
    """What to render.

    seed: decides shapes, looks, place and the details of the motion. seconds, rate: length and frames a second. lens,
    width, height: of the camera. noise: spread of the sensor's noise in grey levels of 255. shape_spread: of the shape
    coefficients, in standard deviations. frame_id: of the camera.
    """

    seed: int = 0
    seconds: float = 10.0
    rate: float = 30.0
    lens: Lens = Lens.WIDE
    width: int = 1280
    height: int = 720
    noise: float = 2.0
    shape_spread: float = 0.5
    frame_id: str = "camera_optical_frame"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"the seed must not be negative, but it is {self.seed}")
        if not (0 < self.seconds < math.inf and 0 < self.rate < math.inf):
            raise ConfigError(f"a sequence of {self.seconds} s at {self.rate} frames/s: both must be positive")
        if self.width < 16 or self.height < 16:
            raise ConfigError(f"pictures of {self.width}x{self.height}: at least 16x16 pixels are needed")
        if not (0 <= self.noise < math.inf and 0 <= self.shape_spread < math.inf):
            raise ConfigError("noise and shape_spread must be numbers and not negative")


@dataclass(frozen=True)
class SceneTruth:
    """The true hands of one frame, left then right, also those out of sight.

    visible_fraction[i]: part of hand i's silhouette that lies in the picture and is not hidden by the other hand or a
    thing, 0 to 1. visible[i]: whether that is at least `VISIBLE_FRACTION`.
    """

    hands: tuple[Hand, ...]
    visible: tuple[bool, ...]
    visible_fraction: tuple[float, ...]


class SyntheticSequence:
    """The frames of a rendered sequence and the truth of each; the same seed gives the same sequence.

        for frame, truth in SyntheticSequence(SequenceConfig(seed=1)):
            ...

    Can be iterated again and again, and indexed: `sequence[i]` renders frame i alone. Needs the library deodr
    (WildHandsError says so where it is missing).
    """

    def __init__(self, config: SequenceConfig = SequenceConfig(), hand_model: HandModel | None = None) -> None:  # noqa: B008
        self.config = config
        self.hand_model = load_hand_model(None) if hand_model is None else hand_model
        self.camera = config.lens.camera(config.width, config.height)
        rng = np.random.default_rng(config.seed)
        self._lights = Lights()
        betas = np.clip(rng.normal(0, 1, 10), -2, 2) * config.shape_spread
        look = ArmLook(
            skin=_SKINS[config.seed % len(_SKINS)],
            sleeve=_SLEEVES[int(rng.integers(len(_SLEEVES)))],
            bare=bool(rng.random() < 0.3),
            texture_seed=config.seed,
        )
        self._actors = [
            _Actor(self.hand_model.layer(side), betas, look, HandScript(side, rng)) for side in (Side.LEFT, Side.RIGHT)
        ]
        self._head = HeadScript(rng, pitch=np.radians(39))
        self._room = Room(config.seed, table=-0.46, lights=self._lights)
        self._vignette = _vignette(self.camera)
        self._noise = _noise(rng, config)

    def __len__(self) -> int:
        return round(self.config.seconds * self.config.rate)

    def __iter__(self) -> Iterator[tuple[Frame, SceneTruth]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Frame, SceneTruth]:
        """Frame `index`, from 0. Raises IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of a sequence of {len(self)}")
        seconds = index / self.config.rate
        fraction = index / max(len(self) - 1, 1)
        position, axes = self._head.at(seconds)
        poses = [actor.pose(seconds, fraction, position, axes) for actor in self._actors]
        meshes, casters = self._lit(poses, position, axes)

        background = self._room.picture(self.camera, position, axes, casters)
        things = self._room.objects(position, axes, channels=3 + len(_HAND_CHANNEL))
        picture, seen = render([*things, *meshes], self.camera, background)

        hands = tuple(self._hand(actor, pose) for actor, pose in zip(self._actors, poses, strict=True))
        fractions = tuple(
            _visible_fraction(actor, hand, self.camera, seen[..., _HAND_CHANNEL[hand.side]])
            for actor, hand in zip(self._actors, hands, strict=True)
        )
        image = self._exposed(picture, index)
        stamp_ns = round(index * 1e9 / self.config.rate)
        frame = Frame(image, self.camera, stamp_ns, self.config.frame_id, index, f"rendered {index:04d}")
        return frame, SceneTruth(hands, tuple(f >= VISIBLE_FRACTION for f in fractions), fractions)

    def _lit(self, poses: list[_Pose], position: FloatArray, axes: FloatArray) -> tuple[list[Mesh], FloatArray]:
        """Both arms' meshes in the camera's frame with display colours, and the world points that throw shadows."""
        arms = [actor.arm for actor in self._actors]
        coarse = [pose.arm_vertices for pose in poses]
        medium = [np.asarray(arm.to_medium @ vertices) for arm, vertices in zip(arms, coarse, strict=True)]
        casters = np.concatenate([vertices @ axes.T + position for vertices in medium])
        key = reach(casters, np.array(self._lights.direction))
        sky = np.mean([reach(casters, np.array(direction)) for direction in self._lights.around], axis=0)
        starts = np.cumsum([len(vertices) for vertices in medium])[:-1]
        meshes = []
        for arm, vertices, key_part, sky_part in zip(
            arms, medium, np.split(key, starts), np.split(sky, starts), strict=True
        ):
            fine = np.asarray(arm.to_fine @ vertices)
            light = np.asarray(arm.to_fine @ np.stack([key_part, sky_part], axis=1))
            normals = vertex_normals(fine, arm.faces)
            view = -fine / np.maximum(np.linalg.norm(fine, axis=1, keepdims=True), 1e-9)
            linear = shade(
                arm.albedo, normals @ axes.T, view @ axes.T, light[:, 0], light[:, 1], arm.skin, self._lights
            )
            values = np.zeros((len(fine), 3 + len(_HAND_CHANNEL)))
            values[:, :3] = to_display(linear)
            values[:, 3 + _HAND_CHANNEL[arm.side]] = arm.hand
            meshes.append(Mesh(fine, arm.faces, values, arm.edges))
        return meshes, casters

    def _hand(self, actor: _Actor, pose: _Pose) -> Hand:
        keypoints = self.camera.project(pose.joints)
        return Hand(
            side=actor.arm.side,
            score=1.0,
            box=_box(self.camera.project(pose.vertices)),
            joints=pose.joints,
            keypoints=keypoints,
            pose=pose.rotations,
            betas=actor.betas,
            translation=pose.translation,
            estimator="truth",
            hand_model=self.hand_model.name,
            vertices=pose.vertices,
            track_id=0 if actor.arm.side is Side.LEFT else 1,
        )

    def _exposed(self, picture: NDArray[np.float32], index: int) -> NDArray[np.uint8]:
        """The lens's vignetting and the sensor's noise."""
        dy, dx = np.random.default_rng((self.config.seed, index)).integers(0, _NOISE_MARGIN, 2)
        noise = self._noise[dy : dy + picture.shape[0], dx : dx + picture.shape[1]]
        return np.asarray(cv2.add(cv2.multiply(picture, self._vignette), noise, dtype=cv2.CV_8U))


@dataclass(frozen=True)
class _Pose:
    """One hand in the camera's frame."""

    rotations: FloatArray
    translation: FloatArray
    vertices: FloatArray
    joints: FloatArray
    arm_vertices: FloatArray


class _Actor:
    """One hand of the sequence: its shape, looks and script."""

    def __init__(self, layer: HandLayer, betas: FloatArray, look: ArmLook, script: HandScript) -> None:
        self.betas = betas
        self.arm = Arm(layer, betas, look)
        self.faces = layer.faces
        self._layer = layer
        self._poser = FingerPoser(layer)
        self._script = script
        _, joints = layer.numpy(np.tile(np.eye(3), (16, 1, 1)), betas, np.zeros(3))
        self._rest_wrist = wrist_rotation(joints, layer.side)

    def pose(self, seconds: float, fraction: float, position: FloatArray, axes: FloatArray) -> _Pose:
        """The hand as the camera sees it; position, axes: of the camera in the world."""
        motion = self._script.at(seconds, fraction)
        rotations = self._poser.rotations(motion.fingers)
        rotations[0] = axes.T @ motion.orientation @ self._rest_wrist.T
        _, joints = self._layer.numpy(rotations, self.betas, np.zeros(3))
        translation = axes.T @ (motion.wrist - position) - joints[0]
        vertices, joints = self._layer.numpy(rotations, self.betas, translation)
        elbow = axes.T @ (motion.elbow - position)
        return _Pose(rotations, translation, vertices, joints, self.arm.coarse(vertices, joints, elbow))


def _visible_fraction(actor: _Actor, hand: Hand, camera: Camera, seen: NDArray[np.float32]) -> float:
    """Seen pixels of the hand, of those that its whole silhouette would have in an endless picture."""
    assert hand.vertices is not None
    pixels = camera.project(hand.vertices)
    if not np.isfinite(pixels).all():
        return 0.0
    low = np.floor(pixels.min(axis=0))
    extent = np.ceil(pixels.max(axis=0)) - low + 1
    step = max(float(extent.max()) / 256, 1.0)  # a hand close to the eye is large: count coarsely
    mask = np.zeros((int(extent[1] / step) + 2, int(extent[0] / step) + 2), np.uint8)
    corners = np.round((pixels - low) / step * 16).astype(np.int32)[actor.faces]
    for corner in corners:
        cv2.fillConvexPoly(mask, corner, 1, cv2.LINE_8, 4)
    whole = float(mask.sum()) * step * step
    return float(np.clip(seen.sum() / max(whole, 1.0), 0, 1))


def _box(pixels: FloatArray) -> tuple[float, float, float, float]:
    """Around the finite pixels; NaN where there are none."""
    finite = pixels[np.isfinite(pixels).all(axis=1)]
    if not len(finite):
        return (float("nan"),) * 4
    (x0, y0), (x1, y1) = finite.min(axis=0), finite.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _vignette(camera: Camera) -> NDArray[np.float32]:
    """Brightness (H, W, 3) of the lens."""
    v, u = np.mgrid[0 : camera.height, 0 : camera.width]
    r2 = ((u - camera.cx) ** 2 + (v - camera.cy) ** 2) / (0.25 * (camera.width**2 + camera.height**2))
    return np.repeat((1 - 0.22 * r2).astype(np.float32)[..., None], 3, axis=-1)


def _noise(rng: np.random.Generator, config: SequenceConfig) -> NDArray[np.float32]:
    """A sheet of the sensor's noise, larger than a picture, of which each frame takes another part."""
    height, width = config.height + _NOISE_MARGIN, config.width + _NOISE_MARGIN
    grey = rng.standard_normal((height, width, 1), np.float32)
    color = rng.standard_normal((height, width, 3), np.float32)
    return np.asarray(config.noise * (grey + 0.5 * color), dtype=np.float32)
