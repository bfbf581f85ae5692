"""Things to hold: closed meshes that face outwards, and signed distances that agree with them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from wildhands_ros.rendered.objects import THINGS, Thing, TriangleMesh
from wildhands_ros.rotations import exp_so3


def _surface(mesh: TriangleMesh, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points all over a mesh, (count, 3)."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    areas = _face_areas(mesh)
    face = rng.choice(len(areas), count, p=areas / areas.sum())
    u, v = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    return (1 - u) * a[face] + u * (1 - v) * b[face] + u * v * c[face]


def _face_areas(mesh: TriangleMesh) -> np.ndarray:
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _winding(mesh: TriangleMesh, points: np.ndarray) -> np.ndarray:
    """How often the mesh goes round each point (van Oosterom & Strackee 1983): 1 or more inside, 0 outside."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]][None] - points[:, None] for i in range(3))
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    top = np.einsum("nfi,nfi->nf", a, np.cross(b, c))
    bottom = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return 2 * np.arctan2(top, bottom).sum(axis=1) / (4 * np.pi)


@pytest.fixture(scope="module")
def things() -> list[Thing]:
    rng = np.random.default_rng(0)
    return [make(rng) for make in THINGS.values() for _ in range(2)]


def test_meshes_are_closed_and_small(things: list[Thing]) -> None:
    for thing in things:
        faces = thing.mesh.faces
        assert faces.dtype == np.int32 and 40 < len(faces) <= 1500, thing.name
        edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
        there = {(int(a), int(b)) for a, b in edges}
        assert len(there) == len(edges) and there == {(b, a) for a, b in there}, thing.name
        assert set(faces.ravel()) == set(range(len(thing.mesh.vertices)))


def test_meshes_face_outwards(things: list[Thing]) -> None:
    for thing in things:
        a, b, c = (thing.mesh.vertices[thing.mesh.faces[:, i]] for i in range(3))
        assert np.einsum("fi,fi->", a, np.cross(b, c)) > 0, thing.name
        normals = np.cross(b - a, c - a)
        length = np.linalg.norm(normals, axis=1)
        large = length > 1e-6
        middles, normals = (a + b + c)[large] / 3, normals[large] / length[large, None]
        skin = np.abs(thing.distance(middles)) < 0.0008  # the rest lies inside another part of the same thing
        assert skin.mean() > 0.75, thing.name
        rises = thing.distance(middles + 0.0003 * normals) - thing.distance(middles - 0.0003 * normals)
        share = float(np.mean(rises[skin] > 0.0003))
        assert share > 0.85, thing.name  # faces just below where another part begins fall outside


def test_sizes_are_those_of_things_in_hands(things: list[Thing]) -> None:
    for thing in things:
        extent = np.ptp(thing.mesh.vertices, axis=0)
        assert np.allclose(extent / 2, thing.size)
        assert 0.015 < extent.max() < 0.45, thing.name
        assert np.allclose(thing.mesh.vertices.max(axis=0) + thing.mesh.vertices.min(axis=0), 0, atol=1e-12)


def test_distances_agree_with_the_meshes(things: list[Thing]) -> None:
    rng = np.random.default_rng(1)
    for thing in things:
        skin = _surface(thing.mesh, 8000, rng)
        assert thing.distance(skin).max() < 0.0008, thing.name  # flat faces cut round things' corners
        points = rng.uniform(-1.2, 1.2, (100, 3)) * (thing.size + 0.01)
        found = thing.distance(points)
        inside = _winding(thing.mesh, points) > 0.5
        clear = np.abs(found) > 0.0012
        assert np.array_equal((found < 0)[clear], inside[clear]), thing.name
        outside = found > 0.0012
        real = cKDTree(skin).query(points[outside])[0]
        most = (found[outside] - real).max()
        assert most < 0.001, thing.name  # never more than it is
        if thing.name not in ("ball", "pebble", "mug"):
            spacing = np.sqrt(_face_areas(thing.mesh).sum() / len(skin))
            least = (found[outside] - real).min()
            assert least > -0.001 - 2.5 * spacing, thing.name


def test_distance_of_round_things_is_exact_at_the_surface() -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        pebble = THINGS["pebble"](rng)
        normals = pebble.mesh.vertices / np.linalg.norm(pebble.mesh.vertices, axis=1, keepdims=True)
        assert np.abs(pebble.distance(pebble.mesh.vertices)).max() < 1e-6
        steps = pebble.distance(pebble.mesh.vertices + 0.001 * normals)
        assert np.all(steps > 0.0003) and np.all(steps < 0.00101)


def test_things_move_and_mirror_with_their_distance(things: list[Thing]) -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(-0.1, 0.1, (50, 3))
    for thing in things:
        rotation, shift = exp_so3(rng.standard_normal(3)), rng.uniform(-0.1, 0.1, 3)
        moved = thing.placed(rotation, shift)
        assert np.allclose(moved.distance(points @ rotation.T + shift), thing.distance(points), atol=1e-9)
        assert np.allclose(moved.mesh.vertices, thing.mesh.moved(rotation, shift).vertices)
        assert np.array_equal(moved.mesh.texture, thing.mesh.texture)  # textures do not slide
        image = moved.mirrored()
        assert np.allclose(image.distance(points * (-1, 1, 1)), moved.distance(points), atol=1e-12)
        assert np.allclose(image.mesh.vertices, moved.mesh.vertices * (-1, 1, 1))
        a, b, c = (image.mesh.vertices[image.mesh.faces[:, i]] - image.mesh.vertices[0] for i in range(3))
        assert np.einsum("fi,fi->", a, np.cross(b, c)) > 0, thing.name


def test_same_seed_same_things() -> None:
    for make in THINGS.values():
        first, second = make(np.random.default_rng(9)), make(np.random.default_rng(9))
        assert first.name == second.name and np.array_equal(first.mesh.vertices, second.mesh.vertices)
        assert not np.array_equal(first.size, make(np.random.default_rng(10)).size)
