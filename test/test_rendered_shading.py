"""What the shader is made of: noise, vectors, shadows, exposure."""

from __future__ import annotations

import numpy as np
import pytest

from wildhands_ros.rendered import shading
from wildhands_ros.rendered.appearance import Glove, Kind, Material, ShadowMap
from wildhands_ros.rendered.sensor import Sensor
from wildhands_ros.rendered.shading import noises
from wildhands_ros.rendered.vectors import cross, frame_of, norm, random_rotation, turn, unit
from wildhands_ros.rotations import exp_so3
from wildhands_ros.samples import CROP_SIZE

LINE = 4 * CROP_SIZE


def _noises(points):
    lines, out = np.zeros(3 * LINE, np.float32), np.zeros(4 * LINE, np.float32)
    for axis in range(3):
        lines[axis * LINE : axis * LINE + len(points)] = points[:, axis]
    noises(np.uint64(len(points)), lines, out)
    return out.reshape(4, LINE)[:, : len(points)].T


def test_noise_is_smooth_and_knows_its_gradient():
    points = np.random.default_rng(0).uniform(-40, 40, (800, 3))
    values = _noises(points)
    assert np.abs(values[:, 0]).max() <= 1 and values[:, 0].std() > 0.2 and abs(values[:, 0].mean()) < 0.05
    for axis in range(3):
        step = np.eye(3)[axis] * 0.01
        slope = (_noises(points + step)[:, 0] - _noises(points - step)[:, 0]) / 0.02
        within = np.abs(points[:, axis] - np.round(points[:, axis])) > 0.02  # the gradient's own slope jumps between
        np.testing.assert_allclose(values[within, 1 + axis], slope[within], atol=0.01)


def test_noise_has_no_favourite_direction():
    lattice = np.stack(np.meshgrid(*[np.arange(-4.0, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    values = _noises(lattice)[:, 0].reshape(9, 9, 9)
    for axis in range(3):
        ahead, behind = np.moveaxis(values, axis, 0)[1:].ravel(), np.moveaxis(values, axis, 0)[:-1].ravel()
        assert abs(np.corrcoef(ahead, behind)[0, 1]) < 0.12  # neighbours on the lattice are independent


def test_the_shader_finds_every_number_of_a_material_in_its_column():
    """Each under the field's name; the three of a colour from its column on."""
    fields = vars(Material(Kind.STRIPES, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), *np.arange(7.0, 15), Glove.KNIT))
    row, columns = Material(**fields).row(), {}
    for name, value in fields.items():
        columns[name] = getattr(shading, f"_M_{name.upper()}")
        np.testing.assert_array_equal(row[columns[name] : columns[name] + np.size(value)], np.ravel(value))
    assert len(columns) == len(set(columns.values())) and max(columns.values()) == len(row) - 1


def test_vectors():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3))
    np.testing.assert_allclose(cross(a, b), np.cross(a, b))
    assert norm(a) == pytest.approx(np.linalg.norm(a))
    x = unit(a)
    frame = frame_of(x, unit(b - (b @ x) * x))
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame) == pytest.approx(1)
    np.testing.assert_array_equal(frame[:, 0], x)
    for axis in range(3):
        np.testing.assert_allclose(turn(axis, 0.7), exp_so3(0.7 * np.eye(3)[axis]), atol=1e-12)
    turned = np.stack([random_rotation(rng) for _ in range(2000)])
    np.testing.assert_allclose(turned @ np.swapaxes(turned, 1, 2), np.broadcast_to(np.eye(3), turned.shape), atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turned), 1)
    assert np.abs(turned.mean(axis=0)).max() < 0.06  # no direction is preferred


def test_shadows_know_the_bounds_of_the_cells_around():
    heights = np.random.default_rng(2).normal(size=(12, 12)).astype(np.float32)
    *_, lowest, highest = ShadowMap(np.eye(3), (0.0, 0.0), 0.01, heights).numbers()
    around = heights[4:8, 2:6]  # those that light a point in cell (3, 5)
    assert (lowest[5, 3], highest[5, 3]) == (around.min(), around.max())


def test_exposure_brightens_and_noise_is_as_strong_as_asked():
    light = np.full((CROP_SIZE, CROP_SIZE, 3), 0.2, np.float32)
    light[:, CROP_SIZE // 2 :] = 5.0

    def picture(noise: float, chroma: float = 0.5):
        sensor = Sensor((0, 0), 0, 0.4, (1, 1, 1), 2.0, 1.0, 0, noise, 0, chroma, 0, 3)
        return sensor.picture(light, (500.0, 500.0), float(CROP_SIZE), 1000, 1000, 1.0).astype(float)

    clean, noisy = picture(0), picture(0.04)
    dark, bright = clean[:, : CROP_SIZE // 2], clean[:, CROP_SIZE // 2 :]
    assert dark.std() == 0 and bright.std() == 0 and 20 < dark.mean() < bright.mean() <= 255
    left = (noisy - clean)[:, : CROP_SIZE // 2]
    expected = 255 * 0.04 * np.sqrt(dark.mean() / 255) * np.sqrt(0.5)  # half of it is grey, half of each colour
    assert left.std() == pytest.approx(expected, rel=0.1) and abs(left.mean()) < 0.5
    red, green = left[..., 0].ravel(), left[..., 1].ravel()
    assert np.corrcoef(red, green)[0, 1] == pytest.approx(0.5, abs=0.05)
    across = np.corrcoef(left[:, 1:, 1].ravel(), left[:, :-1, 1].ravel())[0, 1]
    assert abs(across) < 0.03  # pixels are independent
