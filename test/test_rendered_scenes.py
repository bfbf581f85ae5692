"""Scenes: where hands are, how arms hang on them, what is in which split."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from wildhands_ros.camera import Camera
from wildhands_ros.estimation.wildhands.variant import GRASPS
from wildhands_ros.hand_model import HandLayer, HandModel, load_hand_model
from wildhands_ros.hands import Side, wrist_rotation
from wildhands_ros.rendered import things
from wildhands_ros.rendered.arms import FOREARM, ArmMesh, ArmPose
from wildhands_ros.rendered.backgrounds import _FAMILIES, _HELD_OUT, LEVELS, SIZE, TextureBank
from wildhands_ros.rendered.cameras import sample_distance, sample_place, sample_view
from wildhands_ros.rendered.objects import THINGS
from wildhands_ros.rendered.scenes import IDENTITIES, SceneSampler
from wildhands_ros.rendered.things import HELD_OUT_THINGS, sample_thing

MODEL = load_hand_model()


@pytest.fixture(scope="module")
def scenes():
    sampler = SceneSampler(MODEL, 4)
    made = [sampler.sample(np.random.default_rng((1, i))) for i in range(100)]
    return [scene for scene in made if scene is not None]


def test_most_draws_make_a_scene_and_hands_vary(scenes):
    assert len(scenes) > 60
    hands = [hand for scene in scenes for hand in scene.hands]
    sides = Counter(hand.side for hand in hands)
    assert min(sides[Side.LEFT], sides[Side.RIGHT]) > 0.35 * len(hands)
    assert 0.2 < np.mean([len(scene.hands) == 2 for scene in scenes]) < 0.6
    assert 0.25 < np.mean([bool(hand.held) for hand in hands]) < 0.65
    assert {hand.held for hand in hands}.isdisjoint(HELD_OUT_THINGS)
    distances = np.array([np.linalg.norm(hand.joints[0]) for hand in hands])
    assert 0.3 < np.median(distances) < 0.55 and distances.min() > 0.1
    middles = np.array([hand.joints.mean(axis=0) for hand in hands])
    angles = np.degrees(np.arctan2(np.hypot(middles[:, 0], middles[:, 1]), middles[:, 2]))
    assert (angles > 40).mean() > 0.08 and (angles < 20).mean() > 0.15
    assert {scene.skin for scene in scenes} >= {1, 2, 3, 4, 5}


def test_labels_of_both_sides_come_from_that_sides_hand(scenes):
    for scene in scenes[:30]:
        for hand in scene.hands:
            layer = MODEL.layer(hand.side)
            vertices, joints = layer.numpy(hand.pose, hand.betas, hand.translation)
            np.testing.assert_allclose(joints, hand.joints, atol=1e-9)
            np.testing.assert_allclose(vertices, hand.vertices, atol=1e-9)
            start = scene.geometry.faces[scene.geometry.starts[hand.part]]
            np.testing.assert_allclose(scene.geometry.vertices[start], vertices[layer.faces[0]], atol=1e-9)


def test_poses_are_the_same_for_a_model_with_a_mean_pose():
    """What hands do, and so what fits into them, does not depend on what a model measures its poses from."""
    mean = np.random.default_rng(0).normal(0, 0.2, 45)
    means = {Side.RIGHT: mean, Side.LEFT: mean * np.tile([1, -1, -1], 15)}
    right, left = (
        HandLayer(replace(MODEL.layer(side).data, hands_mean=means[side])) for side in (Side.RIGHT, Side.LEFT)
    )
    samplers = SceneSampler(MODEL, 4), SceneSampler(HandModel("curled", right, left, ""), 4)
    sides = set()
    for i in range(6):
        plain, curled = (sampler.sample(np.random.default_rng((3, i))) for sampler in samplers)
        assert (plain is None) == (curled is None)
        for a, b in zip(plain.hands if plain else (), curled.hands if curled else (), strict=True):
            np.testing.assert_allclose(a.joints, b.joints, atol=1e-6)
            sides.add(a.side)
    assert len(sides) == 2


def test_scenes_repeat():
    sampler = SceneSampler(MODEL, 4)
    numbers = [i for i in range(12) if sampler.sample(np.random.default_rng((1, i))) is not None][:3]
    for i in numbers:
        a, b = (SceneSampler(MODEL, 4).sample(np.random.default_rng((1, i))) for _ in range(2))
        np.testing.assert_array_equal(a.geometry.vertices, b.geometry.vertices)
        np.testing.assert_array_equal(a.shadows.heights, b.shadows.heights)


def test_grasps_are_those_in_which_such_things_are_held(scenes):
    held = {
        "NP-Palm": {"slab", "box", "plate", "phone", "ball", "cylinder"},
        "NP-Fin": {"slab", "phone", "box", "lid", "ball", "plate", "card"},
        "Pow-Pris": {"cylinder", "handle", "screwdriver", "brush", "bottle", "knife", "block"},
        "Pre-Pris": {"pen", "card", "block", "phone", "knife", "box", "slab"},
        "Pow-Circ": {"lid", "ball", "pebble"},
        "Pre-Circ": {"lid", "ball", "pebble", "beaker", "bottle"},
        "Later": {"card", "phone", "slab"},
        "Other": {"bag", "pen", "band"},
        "none": {""},
    }
    seen = set()
    for hand in (hand for scene in scenes for hand in scene.hands):
        name = GRASPS[hand.grasp]
        assert hand.held in held[name]
        assert not hand.held or hand.pose_name == name.lower()
        seen.add(name)
    assert seen == set(GRASPS)


def test_people_of_the_splits_differ():
    for held_out in (False, True):
        sampler = SceneSampler(MODEL, 4, held_out=held_out)
        made = [scene for i in range(12) if (scene := sampler.sample(np.random.default_rng((2, i)))) is not None]
        assert made and all((scene.identity >= IDENTITIES) == held_out for scene in made)


def test_training_never_sees_the_things_and_textures_that_are_held_out(monkeypatch):
    """In no hand, nor lying about, nor in the way; and of those that are held out evaluation sees some."""
    assert set(_FAMILIES).isdisjoint(_HELD_OUT)
    made = {}

    def noted(maker):
        def make(rng):
            thing = maker(rng)
            made[id(thing.mesh)] = thing
            return thing

        return make

    monkeypatch.setattr(things, "THINGS", {name: noted(maker) for name, maker in THINGS.items()})
    drawn = []

    def drawing(*args, **kwargs):
        mesh = sample_thing(*args, **kwargs)
        drawn.append(made[id(mesh)].name)
        return mesh

    monkeypatch.setattr("wildhands_ros.rendered.scenes.sample_thing", drawing)
    monkeypatch.setattr("wildhands_ros.rendered.scenes.OCCLUDER_SHARE", 1.0)
    for held_out in (False, True):
        drawn.clear()
        sampler = SceneSampler(MODEL, 4, held_out=held_out)
        scenes = [sampler.sample(np.random.default_rng((6, i))) for i in range(30)]
        drawn += [hand.held for scene in scenes if scene is not None for hand in scene.hands]
        assert len(set(drawn)) > 12
        assert HELD_OUT_THINGS.isdisjoint(drawn) != held_out
    kept = [sample_thing(np.random.default_rng(i), held_out=True) for i in range(100)]
    assert {made[id(mesh)].name for mesh in kept} > HELD_OUT_THINGS


@pytest.mark.parametrize("side", list(Side))
def test_forearm_closes_the_wrist(side):
    arm = ArmMesh(MODEL.layer(side))

    def open_edges(faces):
        edges = {(int(a), int(b)) for face in faces for a, b in zip(face, np.roll(face, -1), strict=True)}
        return {(a, b) for a, b in edges if (b, a) not in edges}

    loop = open_edges(arm.layer.faces)
    left = open_edges(arm.faces)
    assert len(loop) > 5 and len(left) == len(loop)  # only the far end is open
    assert min(min(edge) for edge in left) >= arm.hand_vertices


@pytest.mark.parametrize("side", list(Side))
def test_forearm_leads_to_the_elbow(side):
    arm = ArmMesh(MODEL.layer(side))
    pose = np.tile(np.eye(3), (16, 1, 1))
    hand, joints = arm.layer.numpy(pose, np.zeros(10), np.zeros(3))
    away = joints[0] - joints[9]
    elbow = joints[0] + FOREARM * away / np.linalg.norm(away)
    pose = ArmPose(hand, joints[0], wrist_rotation(joints, side), elbow, elbow + (0, 0.3, 0), 1.0)
    vertices = arm.vertices(pose)
    rings = vertices[arm.hand_vertices :].reshape(-1, len(vertices[arm.hand_vertices :]) // 15, 3)
    distance = np.linalg.norm(rings.mean(axis=1) - elbow, axis=1).min()
    assert distance < 0.03
    sleeve, faces, places = arm.sleeve(pose, 0.03, 1.3)
    assert len(places) == len(sleeve) and faces.max() < len(sleeve) and np.isfinite(sleeve).all()


def _magnification(camera: Camera, lens: Camera, angle: float) -> float:
    """Pixels of one camera to one of another at an angle from the axis, as the areas of a small patch tell."""
    radius, side = np.array([math.sin(0.7), math.cos(0.7), 0]), np.array([math.cos(0.7), -math.sin(0.7), 0])
    ahead = np.array([0, 0, 1])
    ray = math.sin(angle) * radius + math.cos(angle) * ahead
    out = math.cos(angle) * radius - math.sin(angle) * ahead
    patch = np.stack([ray, ray + 1e-4 * out, ray + 1e-4 * side])
    a, b = (abs(np.linalg.det((seen := c.project(patch))[1:] - seen[0])) for c in (camera, lens))
    return math.sqrt(a / b)


def test_cameras_and_distances():
    rng = np.random.default_rng(3)
    views = [sample_view(rng) for _ in range(200)]
    assert 0.1 < np.mean([view.lens == "fisheye" for view in views]) < 0.3
    for view in views:
        assert not view.camera.has_distortion
        np.testing.assert_allclose([view.down @ view.ahead, np.linalg.norm(view.right)], [0, 1], atol=1e-9)
        assert view.right[0] > 0.7 and view.stretch(math.radians(40)) >= 1
        if view.lens == "pinhole":
            width = view.camera.width
            assert 54 < math.degrees(2 * math.atan(width / 2 / view.camera.fx)) < 121
            assert view.fov == pytest.approx(math.degrees(2 * math.atan(width / 2 / view.camera.fx)))
        lens = view.camera if view.source is None else view.source
        if view.source is not None:  # as far as the focal length alone tells
            assert 110 <= view.fov <= 190 and view.fov == pytest.approx(math.degrees(lens.width / lens.fx))
        assert abs(lens.fy / lens.fx - 1) <= 0.01
        assert abs(lens.cx - (lens.width - 1) / 2) <= 0.03 * lens.width
        assert abs(lens.cy - (lens.height - 1) / 2) <= 0.03 * lens.height
    lenses = [view.source or view.camera for view in views]
    assert {np.sign(lens.cx - (lens.width - 1) / 2) for lens in lenses} == {-1, 1}
    assert max(abs(lens.cx - (lens.width - 1) / 2) / lens.width for lens in lenses) > 0.02
    assert max(abs(lens.fy / lens.fx - 1) for lens in lenses) > 0.005
    # hands are in the view, in its lower part and on their own side more often than not
    places = {lean: [view.camera.project(sample_place(rng, view, lean)) for view in views] for lean in (-1, 1)}
    share = {
        lean: np.array(
            [(u / view.camera.width, v / view.camera.height) for (u, v), view in zip(found, views, strict=True)]
        )
        for lean, found in places.items()
    }
    for found in share.values():
        assert found.min() > 0.015 and found.max() < 0.985 and 0.52 < np.median(found[:, 1]) < 0.7
    assert np.median(share[-1][:, 0]) < 0.47 and np.median(share[1][:, 0]) > 0.53
    for view in views:
        for angle in (0.05, 0.4, 0.8):
            measured = 1.0 if view.source is None else _magnification(view.camera, view.source, angle)
            assert view.stretch(angle) == pytest.approx(max(1.0, measured), rel=0.1)
    distances = [sample_distance(rng) for _ in range(500)]
    assert min(distances) >= 0.18 and max(distances) <= 1.2


def test_textures_have_all_their_levels():
    for held_out in (False, True):
        bank = TextureBank.made(np.random.default_rng(5), 6, held_out=held_out)
        assert bank.texels.shape == (6, sum((SIZE >> level) ** 2 for level in range(LEVELS)), 3)
        largest, smallest = bank.texels[:, : SIZE * SIZE], bank.texels[:, -16 * 16 :]
        np.testing.assert_allclose(largest.mean(axis=1), smallest.mean(axis=1), atol=2)
        assert largest.astype(float).std(axis=1).mean() > 4


@pytest.mark.parametrize(
    "family", sorted({f.__name__: f for f in (*_FAMILIES, *_HELD_OUT)}.items()), ids=lambda f: f[0]
)
def test_every_family_of_textures(family):
    for seed in range(6 if family[0] == "_clutter" else 2):  # things lie on all others
        picture = family[1](np.random.default_rng(seed))
        assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.float32 and np.isfinite(picture).all()
