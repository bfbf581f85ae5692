"""Overlays: what is drawn lies where the camera says, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.drawing import (
    FINGER_COLORS,
    SIDE_COLORS,
    TRUTH_STYLE,
    DrawingStyle,
    draw_hands,
    draw_skeleton,
    draw_status,
    fitted,
)  # fmt: skip
from wildhands_ros.drawing.hands import bounding_region, label_text
from wildhands_ros.hands import FINGERS, Hand, Side

WIDTH, HEIGHT = 640, 480
CAMERA = Camera.pinhole(WIDTH, HEIGHT, 400)
MESH_ONLY = DrawingStyle(skeleton=False, labels=False)
SKELETON_ONLY = DrawingStyle(mesh=False, labels=False)


def ball(radius: float, rings: int = 12, sectors: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """A sphere's vertices (V, 3) and outward faces (F, 3)."""
    polar = np.linspace(0, np.pi, rings)
    around = np.arange(sectors) * 2 * np.pi / sectors
    p, a = np.meshgrid(polar, around, indexing="ij")
    vertices = radius * np.stack([np.sin(p) * np.cos(a), np.sin(p) * np.sin(a), np.cos(p)], axis=-1).reshape(-1, 3)
    faces = []
    for i in range(rings - 1):
        for j in range(sectors):
            k = (j + 1) % sectors
            a0, a1, b0, b1 = i * sectors + j, i * sectors + k, (i + 1) * sectors + j, (i + 1) * sectors + k
            faces += [(a0, b0, b1), (a0, b1, a1)]
    return vertices, np.array(faces, dtype=np.int32)


BALL, FACES = ball(0.06)
ALL_FACES = {side: FACES for side in Side}


def hand_at(center: tuple[float, float, float], side: Side = Side.RIGHT, camera: Camera = CAMERA, **changes) -> Hand:
    """A flat fan of fingers with a ball for a mesh."""
    joints = np.zeros((21, 3))
    for i, finger in enumerate(FINGERS.values()):
        direction = np.array([(i - 2) * 0.25, -1.0, 0.0])
        for step, joint in enumerate(finger):
            joints[joint] = direction * (0.03 + 0.015 * step)
    joints += center
    hand = Hand(
        side=side, score=0.97, box=(0.0, 0.0, 1.0, 1.0), joints=joints, keypoints=camera.project(joints),
        pose=np.tile(np.eye(3), (16, 1, 1)), betas=np.zeros(10), translation=np.array(center), estimator="test",
        hand_model="ball", vertices=BALL + center,
    )  # fmt: skip
    return replace(hand, **changes)


def picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(axis=-1)


def test_no_hands_leave_the_picture_as_it_is_and_return_a_copy():
    image = picture()
    out = draw_hands(image, [], CAMERA, ALL_FACES)
    assert np.array_equal(out, image) and out is not image and not np.shares_memory(out, image)


def test_input_is_never_written_to():
    image = picture()
    image.flags.writeable = False
    out = draw_hands(image, [hand_at((0.0, 0.0, 0.4))], CAMERA, ALL_FACES)
    assert changed(image, out).any() and out.flags.writeable


@pytest.mark.parametrize("style", [MESH_ONLY, SKELETON_ONLY, DrawingStyle(labels=False)])
def test_only_the_hands_region_changes(style):
    image, hand = picture(), hand_at((0.05, -0.03, 0.4))
    rows, columns = np.nonzero(changed(image, draw_hands(image, [hand], CAMERA, ALL_FACES, style)))
    x0, y0, x1, y1 = bounding_region(hand, CAMERA)
    margin = 14  # half of the widest bone, and smooth edges
    assert len(rows) > 500
    assert columns.min() >= x0 - margin and columns.max() <= x1 + margin
    assert rows.min() >= y0 - margin and rows.max() <= y1 + margin


@pytest.mark.parametrize(
    "camera",
    [
        CAMERA,
        Camera(WIDTH, HEIGHT, 250, 250, 319.5, 239.5, Distortion.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0)),
        Camera(WIDTH, HEIGHT, 400, 400, 330, 230, Distortion.PLUMB_BOB, (-0.2, 0.05, 0.001, -0.001)),
    ],
    ids=["pinhole", "fisheye", "plumb_bob"],
)
def test_mesh_covers_its_projected_vertices_and_ends_at_the_silhouette(camera):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    hand = hand_at((0.12, 0.06, 0.4), camera=camera)
    mask = changed(image, draw_hands(image, [hand], camera, ALL_FACES, MESH_ONLY))
    pixels = np.round(camera.project(hand.vertices)).astype(np.float32)
    hull = cv2.convexHull(pixels)
    for u, v in pixels.astype(int):
        assert mask[max(v - 1, 0) : v + 2, max(u - 1, 0) : u + 2].any()
    for v, u in np.argwhere(mask)[::7]:
        assert cv2.pointPolygonTest(hull, (float(u), float(v)), True) > -2


def test_holes_do_not_open_between_triangles():
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    style = replace(MESH_ONLY, opacity=1.0, side_colors={side: (0, 60, 60) for side in Side})
    out = draw_hands(image, [hand_at((0.0, 0.0, 0.4))], CAMERA, ALL_FACES, style)
    disk = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(disk, (320, 240), 56, 1, -1)
    assert out[disk > 0][:, 0].max() < 200  # red is high only in the background, and a little in the gloss


def test_mesh_edges_are_smooth():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    out = draw_hands(image, [hand_at((0.0, 0.0, 0.4))], CAMERA, ALL_FACES, replace(MESH_ONLY, opacity=1.0))
    brightness = out.max(axis=-1)
    inner = cv2.erode((brightness > 0).astype(np.uint8), np.ones((3, 3)))
    edge = brightness[(brightness > 0) & (inner == 0)]
    assert np.unique(edge).size > 8


def test_back_faces_are_culled():
    image = picture()
    inside_out = {side: FACES[:, ::-1] for side in Side}
    center_only = draw_hands(image, [hand_at((0.0, 0.0, 0.4))], CAMERA, ALL_FACES, MESH_ONLY)
    inverted = draw_hands(image, [hand_at((0.0, 0.0, 0.4))], CAMERA, inside_out, MESH_ONLY)
    nearest, farthest = center_only[240, 320], inverted[240, 320]
    assert not np.array_equal(nearest, farthest)


def test_the_nearer_hand_covers_the_farther_one_whatever_their_order():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    near, far = hand_at((0.0, 0.0, 0.4), Side.LEFT), hand_at((0.02, 0.0, 0.6), Side.RIGHT)
    style = replace(MESH_ONLY, opacity=1.0)
    a, b = (draw_hands(image, hands, CAMERA, ALL_FACES, style) for hands in ([near, far], [far, near]))
    assert np.array_equal(a, b)
    red, _, blue = a[240, 320].astype(int)
    assert blue > red  # teal, not orange


def test_nan_vertices_and_joints_are_left_out():
    image, hand = picture(), hand_at((0.0, 0.0, 0.4))
    vertices, joints = hand.vertices.copy(), hand.joints.copy()
    vertices[::5] = np.nan
    joints[[0, 4, 12]] = np.nan
    out = draw_hands(image, [replace(hand, vertices=vertices, joints=joints)], CAMERA, ALL_FACES)
    assert changed(image, out).any()
    nothing = replace(hand, vertices=np.full_like(vertices, np.nan), joints=np.full_like(joints, np.nan))
    assert np.array_equal(draw_hands(image, [nothing], CAMERA, ALL_FACES), image)


@pytest.mark.parametrize("center", [(0.0, 0.0, -0.4), (3.0, 0.0, 0.4), (0.0, -3.0, 0.4)])
def test_hands_that_are_not_in_the_picture_draw_nothing(center):
    image = picture()
    assert np.array_equal(draw_hands(image, [hand_at(center)], CAMERA, ALL_FACES), image)


@pytest.mark.parametrize("center", [(0.31, 0.0, 0.4), (-0.33, 0.24, 0.4), (0.0, 0.0, 0.05), (0.0, 0.0, 0.01)])
def test_hands_over_the_edge_or_around_the_camera_are_safe(center):
    image = picture()
    out = draw_hands(image, [hand_at(center), hand_at(center, valid=False)], CAMERA, ALL_FACES)
    assert out.shape == image.shape and out.dtype == np.uint8


@pytest.mark.filterwarnings("error")
def test_vertices_beside_the_camera_are_left_out():
    """Their pixels are finite and too far out for OpenCV's whole numbers."""
    image, hand = picture(), hand_at((0.0, 0.0, 0.4))
    drawn = []
    for place in ((0.1, 0.1, 1e-9), (np.nan, np.nan, np.nan)):
        vertices = hand.vertices.copy()
        vertices[200] = place
        drawn.append(draw_hands(image, [replace(hand, vertices=vertices)], CAMERA, ALL_FACES, MESH_ONLY))
    assert np.array_equal(*drawn) and changed(image, drawn[0]).any()


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (64, 48)])
def test_tiny_pictures_are_safe(size):
    camera = CAMERA.resized(*size)
    out = draw_hands(picture(*size), [hand_at((0.0, 0.0, 0.4))], camera, ALL_FACES)
    assert out.shape == (size[1], size[0], 3)


@pytest.mark.parametrize(("size", "labelled"), [((64, 48), False), ((320, 240), True)])
def test_labels_do_not_hide_a_small_picture(size, labelled):
    camera = Camera.pinhole(*size, size[0] * 0.6)
    hand = hand_at((0.0, 0.0, 0.4))
    drawn, bare = (
        draw_hands(picture(*size), [hand], camera, ALL_FACES, DrawingStyle(labels=labels)) for labels in (True, False)
    )
    assert np.array_equal(drawn, bare) != labelled


def test_a_mirrored_scene_draws_the_mirrored_picture():
    def mirrored(points):
        return points * (-1, 1, 1)

    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    hand = hand_at((0.07, -0.02, 0.4))
    mirror = replace(hand, joints=mirrored(hand.joints), vertices=mirrored(hand.vertices))
    out = draw_hands(image, [hand], CAMERA, {Side.RIGHT: FACES}, DrawingStyle(labels=False))
    flipped = draw_hands(image, [mirror], CAMERA.mirrored(), {Side.RIGHT: FACES[:, ::-1]}, DrawingStyle(labels=False))
    a, b = changed(image, out), changed(image, flipped)[:, ::-1]
    assert (a & b).sum() / (a | b).sum() > 0.97  # the light does not mirror, shapes do


def test_hands_without_vertices_get_the_skeleton():
    image, hand = picture(), hand_at((0.0, 0.0, 0.4), vertices=None)
    with_mesh_style = draw_hands(image, [hand], CAMERA, ALL_FACES, DrawingStyle(labels=False))
    skeleton = draw_hands(image, [hand], CAMERA, ALL_FACES, SKELETON_ONLY)
    assert changed(image, skeleton).any() and np.array_equal(with_mesh_style, skeleton)


def test_invalid_hands_are_hollow():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    hand = hand_at((0.0, 0.0, 0.4))
    valid = draw_hands(image, [hand], CAMERA, ALL_FACES, MESH_ONLY)
    invalid = draw_hands(image, [replace(hand, valid=False)], CAMERA, ALL_FACES, MESH_ONLY)
    dashed = draw_hands(image, [hand], CAMERA, ALL_FACES, replace(MESH_ONLY, dashed=True))
    assert 0 < changed(image, invalid).sum() < 0.3 * changed(image, valid).sum()
    assert np.array_equal(invalid, dashed)


@pytest.mark.parametrize("opacity", [0.0, 0.3, 1.0])
def test_the_outline_of_an_invalid_hand_is_the_same_for_every_opacity(opacity):
    image, hand = picture(), hand_at((0.0, 0.0, 0.4), valid=False)
    expected = draw_hands(image, [hand], CAMERA, ALL_FACES, MESH_ONLY)
    drawn = draw_hands(image, [hand], CAMERA, ALL_FACES, replace(MESH_ONLY, opacity=opacity))
    assert np.array_equal(drawn, expected)


def test_sides_have_their_colours():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for side in Side:
        out = draw_hands(image, [hand_at((0.0, 0.0, 0.4), side)], CAMERA, ALL_FACES, replace(MESH_ONLY, opacity=1.0))
        mean = out[changed(image, out)].mean(axis=0)
        color = np.array(SIDE_COLORS[side], dtype=float)
        cosine = mean @ color / np.linalg.norm(mean) / np.linalg.norm(color)
        assert cosine > 0.97


def test_skeleton_joins_the_keypoints_in_the_fingers_colours():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    hand = hand_at((0.0, 0.0, 0.4))
    draw_skeleton(image, hand.keypoints, FINGER_COLORS[Side.RIGHT], palm_color=(9, 9, 9), width=5)
    for finger, joints in FINGERS.items():
        middle = (hand.keypoints[joints[0]] + hand.keypoints[joints[1]]) / 2
        u, v = np.round(middle).astype(int)
        assert tuple(int(c) for c in image[v, u]) == FINGER_COLORS[Side.RIGHT][finger]


def test_style_switches_parts_on_and_off():
    image, hand = picture(), hand_at((0.0, 0.0, 0.4), box=(100.0, 100.0, 500.0, 400.0))
    nothing = DrawingStyle(mesh=False, skeleton=False, labels=False)
    assert np.array_equal(draw_hands(image, [hand], CAMERA, ALL_FACES, nothing), image)
    boxed = draw_hands(image, [hand], CAMERA, ALL_FACES, replace(nothing, boxes=True))
    mask = changed(image, boxed)
    assert mask[100, 100:500].mean() > 0.9 and mask[100:400, 500].mean() > 0.9 and not mask[200, 300]
    far = replace(hand, box=(100.0, -1e12, 1e12, 400.0))  # as somebody's file may have it
    mask = changed(image, draw_hands(image, [far], CAMERA, ALL_FACES, replace(nothing, boxes=True)))
    assert mask[:400, 100].mean() > 0.9 and mask[400, 100:].mean() > 0.9 and not mask[200, 300]
    labelled = changed(image, draw_hands(image, [hand], CAMERA, ALL_FACES, replace(nothing, labels=True)))
    rows, _ = np.nonzero(labelled)
    assert len(rows) and rows.max() < bounding_region(hand, CAMERA)[1]  # above the hand, not over it
    truth = draw_hands(np.zeros_like(image), [hand], CAMERA, ALL_FACES, TRUTH_STYLE)
    assert (np.ptp(truth.astype(int), axis=-1) < 10).all() and truth.max() == 255  # white, with a dark halo


@pytest.mark.parametrize("values", [{"opacity": 1.2}, {"opacity": -0.1}, {"line_width": 0.0}])
def test_style_refuses_nonsense(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        DrawingStyle(**values)


def test_labels_tell_side_score_depth_and_track():
    hand = hand_at((0.0, 0.0, 0.42), track_id=3)
    assert label_text(hand) == "R 0.97  0.42 m  #3"
    assert label_text(replace(hand, side=Side.LEFT, track_id=-1, valid=False)) == "L? 0.97  0.42 m"


def test_labels_of_hands_at_one_place_do_not_cover_each_other():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    hands = [hand_at((0.0, 0.0, 0.4), Side.LEFT), hand_at((0.002, 0.0, 0.42), Side.RIGHT)]
    labels = DrawingStyle(mesh=False, skeleton=False)
    both = changed(image, draw_hands(image, hands, CAMERA, ALL_FACES, labels)).sum()
    one_by_one = sum(changed(image, draw_hands(image, [hand], CAMERA, ALL_FACES, labels)).sum() for hand in hands)
    assert both == one_by_one


def test_status_writes_in_the_corner_only():
    image = picture()
    out = draw_status(image, ["24.8 frames/s", "2 hands"])
    mask = changed(image, out)
    assert mask[8:32, 8:80].mean() > 0.9 and not mask[240:].any() and not mask[:, 400:].any()
    assert np.array_equal(draw_status(image, []), image)


@pytest.mark.parametrize("size", [(120, 80), (20, 30), (31, 200)])
def test_a_fitted_picture_keeps_its_shape_in_the_middle_of_black(size):
    found = fitted(np.full((40, 60, 3), 200, np.uint8), *size)
    assert found.shape == (size[1], size[0], 3) and set(np.unique(found)) <= {0, 200}
    rows, columns = np.flatnonzero(found.any(axis=(1, 2))), np.flatnonzero(found.any(axis=(0, 2)))
    assert abs(len(columns) / len(rows) - 1.5) < 0.1 and (len(rows) == size[1] or len(columns) == size[0])
    assert abs(rows[0] + rows[-1] + 1 - size[1]) <= 1 and abs(columns[0] + columns[-1] + 1 - size[0]) <= 1


def test_photographs_keep_their_shape_on_grey_also_where_they_are_strips() -> None:
    canvas = fitted(np.full((283, 200, 3), 7, np.uint8), 1280, 720, grey=96)
    assert canvas.shape == (720, 1280, 3) and (canvas[0, 0] == 96).all()
    columns = np.flatnonzero((canvas[360] == 7).all(axis=1))
    assert len(columns) == round(200 * 720 / 283)
    assert fitted(np.full((1, 4000, 3), 7, np.uint8), 1280, 720).shape == (720, 1280, 3)
