"""One hand of a scene as a `Sample`: the crop, drawn, and everything that is known about it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.rendered.backgrounds import TextureBank
from wildhands_ros.rendered.rasteriser import SAMPLES, Raster, Window, draw
from wildhands_ros.rendered.scenes import INSIDE_SHARE, Scene, SceneHand
from wildhands_ros.rendered.sensor import Sensor
from wildhands_ros.rendered.shading import shade
from wildhands_ros.samples import BOX_FACTOR, CROP_SIZE, HIDDEN, ManoLabels, Sample
from wildhands_ros.samples.sample import Tag

FloatArray = NDArray[np.float64]

IN_FRONT = 0.004
"""A joint is hidden where the first surface is not its hand's and lies at least this far (metres) in front of it."""

WITHIN_ARM = 0.045
"""The same for the skin of its own forearm, under which the wrist lies."""

MOST_HIDDEN = 0.7
"""Hands of which more is hidden are left out."""

_BLUR_MARGIN = 16  # pixels of the crop around the picture that blur may bring in
_CAP = -100_000  # number of the first face that closes the hand's open end
_SHIFT = 0.08
_GROW = (0.85, 1.2)
_SMALLEST = 24  # pixels of a box's longer edge


@dataclass(frozen=True)
class _Crop:
    box: tuple[float, float, float, float]
    center: tuple[float, float]
    extent: float

    def inside(self, camera: Camera, margin: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which rows and columns of the crop lie in the picture, or within `margin` pixels of the crop from it."""
        step = self.extent / CROP_SIZE
        offsets = (np.arange(CROP_SIZE) - (CROP_SIZE - 1) / 2) * step
        columns, rows = self.center[0] + offsets, self.center[1] + offsets
        reach = 0.5 + margin * step
        return (
            (rows > -reach) & (rows < camera.height - 1 + reach),
            (columns > -reach) & (columns < camera.width - 1 + reach)
        )  # fmt: skip


def hand_sample(
    rng: np.random.Generator, scene: Scene, number: int, bank: TextureBank, sensor: Sensor, *, key: str, source: str,
    hand_model: str,
) -> Sample | None:  # fmt: skip
    """The sample of hand `number` of a scene; None where too little of it is in the picture or in sight.

    rng: of the box's jitter. bank: the textures of the scene's planes. sensor: of the picture. source, key: the
    sample's. hand_model: name of the model that the labels belong to.
    """
    hand, camera = scene.hands[number], scene.view.camera
    keypoints = camera.project(hand.joints)
    size = np.array([camera.width, camera.height]) - 0.5
    inside = ((keypoints > -0.5) & (keypoints < size)).all(axis=1)
    if inside.mean() < INSIDE_SHARE or not np.isfinite(keypoints).all():
        return None
    crop = _crop(rng, scene, hand, keypoints)
    if crop is None:
        return None

    window = Window.of_crop(camera, crop.center, crop.extent)
    raster, own = _drawn(scene, hand, window)
    mask, hidden = _mask(raster, own, scene.geometry.parts, hand.part, crop, camera)
    if hidden > MOST_HIDDEN:
        return None
    visible = inside & _in_sight(raster, scene.geometry.parts, hand, window)

    light = np.empty((CROP_SIZE, CROP_SIZE, 3), np.float32)
    geometry = scene.geometry
    shade(
        raster.faces, raster.inverse_depth, geometry.vertices, geometry.corners, geometry.faces, geometry.parts,
        geometry.materials, scene.lights.row(), scene.shadows.numbers(), scene.planes, bank.texels.ravel(), scene.far,
        (window.fx, window.fy, window.cx, window.cy), *crop.inside(camera, _BLUR_MARGIN), light,
    )  # fmt: skip
    middle = hand.joints.mean(axis=0)
    angle = math.atan2(math.hypot(middle[0], middle[1]), middle[2])
    image = sensor.picture(light, crop.center, crop.extent, camera.width, camera.height, scene.view.stretch(angle))
    tags: dict[str, Tag] = {
        "distance": round(float(np.linalg.norm(hand.joints[0])), 4),
        "angle": round(math.degrees(angle), 2),
        "lens": scene.view.lens,
        "fov": round(scene.view.fov, 1),
        "occlusion": round(hidden, 3),
        "glove": scene.glove.name.lower(),
        "skin": scene.skin,
        "held": hand.held,
        "pose": hand.pose_name,
        "identity": scene.identity,
        "hands": len(scene.hands),
        "light": scene.lights.name,
    }
    return Sample(
        key=key, source=source, image=image, camera=camera, center=crop.center, extent=crop.extent, side=hand.side,
        box=crop.box, joints=hand.joints, mano=ManoLabels(hand.pose, hand.betas, hand.translation, hand_model),
        keypoints=keypoints, keypoint_weights=np.ones(21), visible=visible, mask=mask, grasp=hand.grasp,
        scene=key.rsplit("-", 1)[0], tags=tags,
    )  # fmt: skip


def _crop(rng: np.random.Generator, scene: Scene, hand: SceneHand, keypoints: FloatArray) -> _Crop | None:
    """The jittered box around what the picture shows of the hand, and the crop around it."""
    camera = scene.view.camera
    outline = np.concatenate([keypoints, camera.project(hand.vertices)])
    low = np.clip(outline.min(axis=0), -0.5, (camera.width - 0.5, camera.height - 0.5))
    high = np.clip(outline.max(axis=0), -0.5, (camera.width - 0.5, camera.height - 0.5))
    edge = float((high - low).max())
    if edge < _SMALLEST:
        return None
    middle = (low + high) / 2 + rng.uniform(-_SHIFT, _SHIFT, 2) * edge
    half = (high - low) / 2 * rng.uniform(*_GROW)
    (x0, y0), (x1, y1) = middle - half, middle + half
    return _Crop(
        (float(x0), float(y0), float(x1), float(y1)),
        (float(middle[0]), float(middle[1])),
        float(2 * half.max()) * BOX_FACTOR,
    )


def _drawn(scene: Scene, hand: SceneHand, window: Window) -> tuple[Raster, NDArray[np.bool_]]:
    """All of the scene in the crop, and where the hand alone would be seen, also its inside through its open end."""
    geometry = scene.geometry
    raster = Raster.empty(window.size)
    start, end = (int(geometry.starts[hand.part + i]) for i in (0, 1))
    points = window.homogeneous(geometry.vertices)
    draw(raster, points, geometry.faces[start:end], start)
    draw(raster, points, hand.cap, _CAP)
    own = np.empty(raster.faces.shape, np.bool_)
    _open(raster.faces, raster.inverse_depth, own)
    draw(raster, points, geometry.faces[:start], 0)
    draw(raster, points, geometry.faces[end:], end)
    return raster, own


@njit(cache=True, error_model="numpy")
def _open(faces, inverse, own):  # type: ignore[no-untyped-def]
    """Notes which samples show anything, and takes away what shows the cap."""
    for row in range(faces.shape[0]):
        for column in range(faces.shape[1]):
            own[row, column] = faces[row, column] != -1
            if faces[row, column] < -1:
                faces[row, column], inverse[row, column] = -1, 0


def _mask(
    raster: Raster, own: NDArray[np.bool_], parts: NDArray[np.int32], part: int, crop: _Crop, camera: Camera
) -> tuple[NDArray[np.uint8], float]:
    """The mask, and which part of the hand's samples in the picture is hidden."""
    mask = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
    total, seen = _count(raster.faces, own, parts, part, *crop.inside(camera), mask)
    return mask, 1 - seen / total if total else 1.0


@njit(cache=True, error_model="numpy")
def _count(faces, own, parts, part, in_rows, in_columns, mask):  # type: ignore[no-untyped-def]
    """Fills the mask; the hand's samples in the picture, and those of them that are seen."""
    total, total_seen = 0, 0
    for row in range(mask.shape[0]):
        if not in_rows[row]:
            continue
        for column in range(mask.shape[1]):
            if not in_columns[column]:
                continue
            covered, seen = 0, 0
            for j in range(SAMPLES * row, SAMPLES * row + SAMPLES):
                for i in range(SAMPLES * column, SAMPLES * column + SAMPLES):
                    if own[j, i]:
                        covered += 1
                        seen += faces[j, i] >= 0 and parts[faces[j, i]] == part
            total += covered
            total_seen += seen
            if 2 * seen >= SAMPLES * SAMPLES:
                mask[row, column] = 255
            elif 2 * covered >= SAMPLES * SAMPLES:
                mask[row, column] = HIDDEN
    return total, total_seen


def _in_sight(raster: Raster, parts: NDArray[np.int32], hand: SceneHand, window: Window) -> NDArray[np.bool_]:
    """(21,) whether nothing but the hand itself lies in front of each joint, where the crop shows it."""
    places = window.homogeneous(hand.joints)
    pixels = np.round(places[:, :2] / places[:, 2:]).astype(int)
    within = ((pixels >= 0) & (pixels < window.size)).all(axis=1)
    columns, rows = np.clip(pixels, 0, window.size - 1).T
    face, inverse = raster.faces[rows, columns], raster.inverse_depth[rows, columns]
    part = np.where(face >= 0, parts[face], hand.part)
    room = np.where(part == hand.part + 1, WITHIN_ARM, IN_FRONT)
    with np.errstate(divide="ignore"):
        in_front = 1 / inverse < hand.joints[:, 2] - room
    return np.asarray(within & ~((part != hand.part) & in_front))
