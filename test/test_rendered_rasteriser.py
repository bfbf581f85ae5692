"""The rasteriser against rays that are intersected with every triangle."""

from __future__ import annotations

import numpy as np
import pytest

from wildhands_ros.camera import Camera
from wildhands_ros.rendered.rasteriser import NEAR, Raster, Window, depth_map, draw, smooth_normals, weights
from wildhands_ros.rendered.things import corner_normals
from wildhands_ros.synthetic.meshes import box

WINDOW = Window(40.0, 44.0, 23.3, 25.1, 48)


def _drawn(vertices, faces, window=WINDOW):
    raster = Raster.empty(window.size)
    draw(raster, window.homogeneous(vertices), faces.astype(np.int32))
    return raster


def _by_rays(vertices, faces, window):
    """Nearest front face on each sample's ray, by solving for each triangle, its 1/z, and how close the call was."""
    v, u = np.mgrid[0 : window.size, 0 : window.size]
    rays = np.stack([(u - window.cx) / window.fx, (v - window.cy) / window.fy, np.ones_like(u)], -1).reshape(-1, 3)
    number, inverse = np.full(len(rays), -1), np.zeros(len(rays))
    margin = np.full(len(rays), np.inf)
    for i, (a, b, c) in enumerate(vertices[faces]):
        if np.cross(b - a, c - a) @ a >= 0:
            continue
        s = np.linalg.solve(np.stack([a, b, c], axis=1), rays.T).T  # ray = s · corners; point = s / sum(s)
        depth = 1 / np.where(s.sum(axis=1) == 0, 1e-12, s.sum(axis=1))
        inside = (s * depth[:, None]).min(axis=1)
        margin = np.minimum(margin, np.where(depth > 0, np.abs(inside), np.inf))
        hit = (inside >= 0) & (depth > NEAR)
        margin = np.minimum(margin, np.where(hit & (inverse > 0), np.abs(1 / depth - inverse) + 1e-12, np.inf))
        better = hit & (1 / depth > inverse)
        number, inverse = np.where(better, i, number), np.where(better, 1 / depth, inverse)
    shape = (window.size, window.size)
    return number.reshape(shape), inverse.reshape(shape), margin.reshape(shape)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_rays(seed):
    rng = np.random.default_rng(seed)
    centers = np.stack([rng.uniform(-0.5, 0.5, 40), rng.uniform(-0.5, 0.5, 40), rng.uniform(0.3, 2, 40)], axis=1)
    vertices = (centers[:, None] + rng.normal(0, 0.15, (40, 3, 3))).reshape(-1, 3)
    faces = np.arange(120).reshape(-1, 3)
    raster = _drawn(vertices, faces)
    number, inverse, margin = _by_rays(vertices, faces, WINDOW)
    clear = margin > 1e-5
    assert clear.mean() > 0.95 and (number >= 0).mean() > 0.1
    np.testing.assert_array_equal(raster.faces[clear], number[clear])
    np.testing.assert_allclose(raster.inverse_depth[clear], inverse[clear], rtol=1e-5)


def test_triangles_through_the_cameras_plane():
    rng = np.random.default_rng(7)
    vertices = rng.normal(0, 1, (60, 3))  # half of the corners lie behind the camera
    faces = np.arange(60).reshape(-1, 3)
    raster = _drawn(vertices, faces)
    number, inverse, margin = _by_rays(vertices, faces, WINDOW)
    clear = (margin > 1e-4) & (inverse < 0.9 / NEAR)
    assert (number[clear] >= 0).any()
    np.testing.assert_array_equal(raster.faces[clear], number[clear])


def test_neighbours_leave_no_gaps():
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 14), np.linspace(-1, 1, 14), indexing="xy"), axis=-1)
    vertices = np.concatenate([grid.reshape(-1, 2), np.ones((196, 1))], axis=1) + rng.normal(0, 0.02, (196, 3))
    index = np.arange(196).reshape(14, 14)
    a, b, c, d = index[:-1, :-1].ravel(), index[:-1, 1:].ravel(), index[1:, 1:].ravel(), index[1:, :-1].ravel()
    faces = np.concatenate([np.stack([a, c, b], 1), np.stack([a, d, c], 1)])
    assert (_drawn(vertices, faces).faces >= 0).all()
    assert (_drawn(vertices, faces[:, ::-1]).faces < 0).all()  # seen from behind


def test_weights_are_correct_in_perspective():
    corners = np.array([[-0.4, -0.3, 0.4], [0.1, 0.9, 2.0], [1.5, -0.4, 3.0]])
    for x, y in ((0.0, 0.0), (0.1, 0.05), (-0.3, -0.2)):
        point = np.array(weights(corners, 0, 1, 2, x, y)) @ corners
        np.testing.assert_allclose(point[:2] / point[2], (x, y), atol=1e-12)


def test_window_of_a_crop_is_the_samples_definition():
    camera = Camera(640, 480, 400.0, 410.0, 300.0, 250.0)
    center, extent = (210.0, 330.0), 130.0
    window = Window.of_crop(camera, center, extent, samples=1)
    point = np.array([-0.1, 0.15, 0.5])
    pixel = camera.project(point)
    expected = (pixel - center) * 224 / extent + 111.5
    places = window.homogeneous(point)
    np.testing.assert_allclose(places[:2] / places[2], expected)
    finer = Window.of_crop(camera, center, extent).homogeneous(
        point
    )  # two samples to a pixel, a quarter off its middle
    np.testing.assert_allclose(finer[:2] / finer[2], 2 * expected + 0.5)


def test_depth_map_keeps_the_highest():
    low = np.array([[1.0, 1, 0], [9, 1, 0], [1, 9, 0]])
    heights = depth_map(np.concatenate([low, low + (0, 0, 2)]), np.array([[0, 1, 2], [5, 4, 3]], np.int32), 12)
    assert heights[2, 2] == 2 and heights[10, 10] < -1e8


def test_normals_point_outwards_and_edges_stay_sharp():
    vertices, faces = box((0.1, 0.2, 0.3), steps=2)
    middle = vertices.mean(axis=0)
    smooth = smooth_normals(vertices, faces.astype(np.int32))
    assert (np.sum(smooth * (vertices - middle), axis=1) > 0).all()
    corners, normals = corner_normals(vertices, faces.astype(np.int32))
    np.testing.assert_allclose(np.abs(normals).max(axis=1), 1, atol=1e-9)  # a box's faces look along its axes
    assert (np.sum(normals * (corners - middle), axis=1) > 0).all()
