"""Draws the pictures of docs/hand_model.md: the open hand in several poses and shapes.

    .venv/bin/python tools/draw_open_hand.py docs/images

Needs the "demo" extra (deodr).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.drawing import FINGER_COLORS, SIDE_COLORS, draw_skeleton
from wildhands_ros.hand_model import HandLayer, load_hand_model
from wildhands_ros.hands import Side, wrist_rotation
from wildhands_ros.synthetic.meshes import subdivide, vertex_normals
from wildhands_ros.synthetic.renderer import Mesh, face_edges, render

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

SIZE = 300  # pixels of one view
DISTANCE = 1.0  # metres: far enough to look undistorted
FIELD = 0.25  # metres across a view
SKIN = np.array([222.0, 170.0, 142.0])
PAPER = 246.0

# Views: where the viewer looks along, and what is up, in the wrist frame (x fingers, y thumb on a right hand, z back)
BACK = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0))
PALM = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
THUMB_SIDE = ((0.1, -1.0, -0.25), (0.0, 0.0, 1.0))
OBLIQUE = ((-0.45, -0.75, -0.65), (0.4, -0.2, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    model = load_hand_model()
    right, left = model.right, model.left

    poses = [("rest", rest()), ("flat", flat(right)), ("relaxed", curled(0.5)), ("pinch", pinch()),
             ("grasp", grasp()), ("fist", fist(right))]  # fmt: skip
    rows = []
    for view in (BACK, PALM, OBLIQUE):
        rows.append([draw(right, angles, view=view) for _, angles in poses])
    rows.append([draw(right, angles, view=THUMB_SIDE, skeleton=True) for _, angles in poses])
    save(folder / "open_hand_poses.png", rows, [name for name, _ in poses])

    shapes = [("mean", 0, 0.0)] + [
        (f"beta {k + 1} = {sigma:+.0f}", k, sigma) for k in range(3) for sigma in (-2.0, 2.0)
    ]
    people = [draw(right, rest(), betas=sigma * np.eye(10)[k], view=BACK) for _, k, sigma in shapes]
    save(folder / "open_hand_shapes.png", [people], [name for name, _, _ in shapes])

    both = [draw(layer, rest(), view=view, skeleton=True) for layer in (left, right) for view in (BACK, PALM)]
    names = [f"{side}, {view}" for side in ("left", "right") for view in ("back", "palm")]
    save(folder / "open_hand_sides.png", [both], names)


# --- poses: angles from rest (15, 3) as in HandAnatomy -----------------------------------------------------------


def rest() -> FloatArray:
    return np.zeros((15, 3))


def flat(layer: HandLayer) -> FloatArray:
    return -layer.anatomy.rest


def curled(amount: float) -> FloatArray:
    angles = rest()
    angles[[0, 3, 6, 9], 0] = 0.6 * amount
    angles[[1, 4, 7, 10], 0] = 1.0 * amount
    angles[[2, 5, 8, 11], 0] = 0.6 * amount
    angles[[12, 13, 14], 0] = 0.1, 0.3 * amount, 0.4 * amount
    return angles


def pinch() -> FloatArray:
    angles = curled(0.35)
    angles[0:3, 0] = 0.75, 0.75, 0.35
    angles[12] = 0.15, 0.35, 0
    angles[13, 0], angles[14, 0] = 0.25, 0.45
    return angles


def grasp() -> FloatArray:
    """Round a cylinder."""
    angles = curled(1.0)
    angles[12] = 0.0, 0.5, 0.0
    angles[13, 0], angles[14, 0] = 0.35, 0.6
    return angles


def fist(layer: HandLayer) -> FloatArray:
    angles = rest()
    angles[[0, 3, 6, 9]] = -layer.anatomy.rest[[0, 3, 6, 9]]
    angles[[0, 3, 6, 9], 0] = 1.35
    angles[[1, 4, 7, 10], 0] = 1.6
    angles[[2, 5, 8, 11], 0] = 1.0
    angles[12] = 0.35, 0.3, 0
    angles[13, 0], angles[14, 0] = 0.7, 0.9
    return angles


# --- drawing ------------------------------------------------------------------------------------------------------


def draw(
    layer: HandLayer,
    angles: FloatArray,
    *,
    betas: FloatArray | None = None,
    view: tuple[Sequence[float], Sequence[float]] = BACK,
    skeleton: bool = False,
) -> Image:
    """One view of one hand, (SIZE, SIZE, 3)."""
    pose = np.concatenate([np.eye(3)[None], layer.anatomy.rotations(angles)])
    betas = np.zeros(10) if betas is None else betas
    vertices, joints = layer.numpy(layer.pose_from_rotations(pose), betas, np.zeros(3))
    into_camera = _look(layer, joints, view)
    wrist = joints[0]
    center = np.array([0.0, 0.085, 0.0]) if view in (BACK, PALM) else np.zeros(3)
    if view not in (BACK, PALM):
        center = -into_camera @ (wrist_rotation(layer.joint_template, layer.side) @ np.array([0.075, 0.0, 0.0]))
    place = np.array([0, 0, DISTANCE]) + center
    vertices, joints = (vertices - wrist) @ into_camera.T + place, (joints - wrist) @ into_camera.T + place

    scale = 3  # drawn larger and averaged
    camera = Camera.pinhole(SIZE * scale, SIZE * scale, SIZE * scale * DISTANCE / FIELD)
    picture, _ = render([_skin(layer, vertices)], camera, np.full((SIZE * scale, SIZE * scale, 3), PAPER, np.float32))
    image = picture.clip(0, 255).astype(np.uint8)
    if skeleton:
        draw_skeleton(
            image, camera.project(joints), FINGER_COLORS[layer.side], palm_color=SIDE_COLORS[layer.side],
            depths=joints[:, 2], width=3.0 * scale,
        )  # fmt: skip
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def _look(layer: HandLayer, joints: FloatArray, view: tuple[Sequence[float], Sequence[float]]) -> FloatArray:
    """Rotation (3, 3) from the hand model's axes to the camera's (x right, y down, z forward)."""
    axes = wrist_rotation(joints, layer.side)
    mirror = np.array([1.0, 1.0 if layer.side is Side.RIGHT else -1.0, 1.0])
    forward, up = (axes @ (np.array(v) * mirror) for v in view)
    forward = forward / np.linalg.norm(forward)
    down = -(up - forward * (up @ forward))
    down = down / np.linalg.norm(down)
    return np.stack([np.cross(down, forward), down, forward])


def _skin(layer: HandLayer, vertices: FloatArray) -> Mesh:
    """The mesh, smoothed and lit from above left."""
    faces = layer.faces.astype(np.int64)
    albedo = layer.data.albedo
    for _ in range(2):
        matrix, faces = subdivide(faces, len(vertices))
        vertices, albedo = matrix @ vertices, matrix @ albedo
    normals = vertex_normals(vertices, faces)
    light = np.array([-0.45, -0.6, -0.65])
    shade = 0.42 + 0.62 * np.clip(normals @ light, 0, 1) + 0.08 * np.clip(normals @ np.array([0.8, 0.3, -0.5]), 0, 1)
    return Mesh(vertices, faces, (SKIN * albedo * shade[:, None]).clip(0, 255), face_edges(faces))


def save(path: Path, rows: Sequence[Sequence[Image]], titles: Sequence[str]) -> None:
    sheet = np.concatenate([_trimmed(np.concatenate(list(row), axis=1)) for row in rows], axis=0)
    header = np.full((34, sheet.shape[1], 3), int(PAPER), np.uint8)
    for i, title in enumerate(titles):
        (width, _), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
        place = (i * SIZE + (SIZE - width) // 2, 23)
        cv2.putText(header, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (60, 60, 60), 1, cv2.LINE_AA)
    cv2.imwrite(str(path), np.concatenate([header, sheet])[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def _trimmed(row: Image) -> Image:
    """The row without most of the empty paper above and below."""
    used = np.flatnonzero((row != int(PAPER)).any(axis=(1, 2)))
    return row[max(used[0] - 12, 0) : used[-1] + 13]


if __name__ == "__main__":
    main()
