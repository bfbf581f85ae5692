"""Rendered samples: labels agree with pictures, and shards repeat."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from wildhands_ros.cli import main
from wildhands_ros.errors import ConfigError
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.rendered import backgrounds, generate
from wildhands_ros.rendered.backgrounds import SIZE, TextureBank
from wildhands_ros.rendered.generate import RenderConfig, Split, render_shards, rendered_samples
from wildhands_ros.rendered.labels import hand_sample
from wildhands_ros.rendered.scenes import IDENTITIES, SceneSampler
from wildhands_ros.rendered.sensor import Sensor
from wildhands_ros.samples import CROP_SIZE, HIDDEN, ShardReader

MODEL = load_hand_model()


@pytest.fixture(scope="module")
def samples():
    return list(rendered_samples(RenderConfig(40, seed=4, textures=3), 0, MODEL))


@pytest.fixture(scope="module")
def shown(samples):
    """Each sample with its scene, made once more, and its hand there."""
    sampler, made = SceneSampler(MODEL, 3), {}
    for sample in samples:
        *_, number, _ = sample.key.split("-")
        if number not in made:
            made[number] = sampler.sample(np.random.default_rng((0, 4, 0, int(number))))
    scenes = [made[sample.key.split("-")[-2]] for sample in samples]
    return [(sample, scene, scene.hands[int(sample.key[-1])]) for sample, scene in zip(samples, scenes, strict=True)]


def _to_crop(sample, pixels):
    return (pixels - sample.center) * CROP_SIZE / sample.extent + (CROP_SIZE - 1) / 2


def _outside(sample):
    """(224, 224) where the crop shows what is not in the picture."""
    steps = (np.arange(CROP_SIZE) - (CROP_SIZE - 1) / 2) * sample.extent / CROP_SIZE
    x, y = sample.center[0] + steps, sample.center[1] + steps
    columns = (x <= -0.5) | (x >= sample.camera.width - 0.5)
    rows = (y <= -0.5) | (y >= sample.camera.height - 0.5)
    return rows[:, None] | columns


def test_joints_keypoints_and_parameters_agree(samples):
    for sample in samples:
        np.testing.assert_allclose(sample.camera.project(sample.joints), sample.keypoints, atol=1e-6)
        mano = sample.mano
        assert mano.hand_model == MODEL.name
        _, joints = MODEL.layer(sample.side).numpy(mano.pose, mano.betas, mano.translation)
        np.testing.assert_allclose(joints, sample.joints, atol=1e-6)


def test_masks_agree_with_the_meshes_outline(samples):
    checked = 0
    for sample in samples:
        mano = sample.mano
        layer = MODEL.layer(sample.side)
        vertices, _ = layer.numpy(mano.pose, mano.betas, mano.translation)
        corners = np.round(_to_crop(sample, sample.camera.project(vertices)) * 16).astype(np.int32)[layer.faces]
        outline = np.zeros((CROP_SIZE, CROP_SIZE), np.uint8)
        for corner in corners:
            cv2.fillConvexPoly(outline, corner, 1, cv2.LINE_8, 4)
        expected = (outline > 0) & ~_outside(sample)
        whole = sample.mask > 0  # seen or hidden by something: the hand's own outline
        assert (whole & expected).sum() / (whole | expected).sum() > 0.95
        if sample.tags["occlusion"] < 0.02:
            seen = sample.mask == 255
            assert (seen & expected).sum() / (seen | expected).sum() > 0.95
            checked += 1
    assert checked >= 5


def test_hidden_parts_are_marked(samples):
    hidden = [sample for sample in samples if sample.tags["occlusion"] > 0.05]
    assert hidden
    for sample in samples:
        assert set(np.unique(sample.mask)) <= {0, HIDDEN, 255}
        assert not sample.mask[_outside(sample)].any()
    for sample in hidden:
        share = (sample.mask == HIDDEN).sum() / (sample.mask > 0).sum()
        assert abs(share - sample.tags["occlusion"]) < 0.1


def _first_surfaces(geometry, rays):
    """Part and depth of what each ray (x, y, 1) meets first, from its front; -1 where nothing."""
    corners = geometry.vertices[geometry.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    offsets = (normals * corners[:, 0]).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        outline = corners[..., :2] / corners[..., 2:]
    before = (corners[..., 2] > 0.05).all(axis=1)  # what reaches behind the camera has no outline
    low = np.where(before[:, None], outline.min(axis=1), -np.inf)
    high = np.where(before[:, None], outline.max(axis=1), np.inf)
    found = []
    for ray in rays:
        near = np.flatnonzero((offsets < 0) & ((low <= ray[:2]) & (high >= ray[:2])).all(axis=1))
        depths = offsets[near] / (normals[near] @ ray)
        hit = depths > 0.05
        for i in range(3):
            start, end = corners[near, i], corners[near, (i + 1) % 3]
            inward = np.cross(end - start, depths[:, None] * ray - start)
            hit &= (inward * normals[near]).sum(axis=1) >= 0
        first = np.where(hit, depths, np.inf).argmin() if hit.any() else None
        found.append((-1, np.inf) if first is None else (geometry.parts[near[first]], depths[first]))
    return found


def test_joints_are_visible_where_a_ray_reaches_them(shown):
    """In the picture, and behind nothing but the hand itself, 4 mm of anything else, or 45 mm of its forearm."""
    around = np.array([(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)])
    decided, reasons = 0, set()
    for sample, scene, hand in shown:
        size = (sample.camera.width - 0.5, sample.camera.height - 0.5)
        inside = ((sample.keypoints > -0.5) & (sample.keypoints < size)).all(axis=1)
        assert inside.mean() >= 0.6 and not (sample.visible & ~inside).any()
        step = sample.extent / (2 * CROP_SIZE) / np.array([sample.camera.fx, sample.camera.fy])  # between two samples
        rays = (sample.joints[:, None, :2] / sample.joints[:, None, 2:] + around * step).reshape(-1, 2)
        met = _first_surfaces(scene.geometry, np.column_stack([rays, np.ones(len(rays))]))
        for joint in np.flatnonzero(inside):
            said = set()
            for part, depth in met[len(around) * joint : len(around) * (joint + 1)]:
                own, margin = part in (-1, hand.part), 0.045 if part == hand.part + 1 else 0.004
                kind = "nothing" if own else "forearm" if part == hand.part + 1 else "thing"
                said.add((bool(own or depth >= sample.joints[joint, 2] - margin), kind))
            if len({seen for seen, _ in said}) == 1:  # elsewhere a border passes
                assert {bool(sample.visible[joint])} == {seen for seen, _ in said}, (sample.key, joint)
                decided += 1
                reasons |= said
    assert decided > 0.9 * 21 * len(shown)
    assert reasons >= {(seen, kind) for seen in (True, False) for kind in ("forearm", "thing")}


def _with_screen(scene, edge):
    """The scene with an upright screen before everything, which hides what lies to the left of `edge` (x / z)."""
    depth = 0.06
    corners = depth * np.array([(-9, -9, 1), (edge, -9, 1), (edge, 9, 1), (-9, 9, 1)])
    geometry, first = scene.geometry, len(scene.geometry.vertices)
    looks = np.zeros((4, geometry.corners.shape[1]), np.float32)
    looks[:, -1] = -1  # the normals
    return replace(scene, geometry=replace(
        geometry, vertices=np.concatenate([geometry.vertices, corners]),
        corners=np.concatenate([geometry.corners, looks]),
        faces=np.concatenate([geometry.faces, first + np.array([(0, 2, 1), (0, 3, 2)], np.int32)]),
        parts=np.concatenate([geometry.parts, np.full(2, len(geometry.materials), np.int32)]),
        materials=np.concatenate([geometry.materials, geometry.materials[-1:]]),
    ))  # fmt: skip


def test_hands_of_which_most_is_hidden_are_left_out(shown):
    """70 percent is the limit."""
    bank = TextureBank.made(np.random.default_rng(0), 3, held_out=False)
    before, scene, hand = next(one for one in shown if one[0].tags["occlusion"] == 0 and not one[2].held)
    sensor = Sensor.sampled(np.random.default_rng(0), scene.view.camera.width, dim=False)
    number, camera = scene.hands.index(hand), scene.view.camera

    def behind(edge):
        rng = np.random.default_rng(0)
        return hand_sample(rng, _with_screen(scene, edge), number, bank, sensor, key="a", source="b", hand_model="c")

    whole = behind(-8)
    assert whole.tags["occlusion"] == before.tags["occlusion"]
    columns = np.sort(np.nonzero(whole.mask == 255)[1])
    for share in (0.2, 0.65, 0.75, 0.9):
        pixel = (columns[int(share * len(columns))] - (CROP_SIZE - 1) / 2) * whole.extent / CROP_SIZE + whole.center[0]
        edge = (pixel - camera.cx) / camera.fx
        sample = behind(edge)
        assert (sample is None) == (share > 0.7)
        if sample is not None:
            assert sample.tags["occlusion"] == pytest.approx(share, abs=0.02)
            assert (sample.mask == HIDDEN).sum() / (sample.mask > 0).sum() == pytest.approx(share, abs=0.03)
            right = hand.joints[:, 0] / hand.joints[:, 2] > edge
            np.testing.assert_array_equal(sample.visible, whole.visible & right)
    assert behind(9) is None


def test_tags_and_grasps_are_those_of_hand_and_scene(shown):
    assert len({sample.grasp for sample, _, _ in shown}) > 4
    for sample, scene, hand in shown:
        tags, middle = sample.tags, sample.joints.mean(axis=0)
        assert tags["distance"] == pytest.approx(math.sqrt((sample.joints[0] ** 2).sum()), abs=1e-4)
        degrees = math.acos(middle[2] / math.dist(middle, (0, 0, 0))) * 180 / math.pi
        assert tags["angle"] == pytest.approx(degrees, abs=0.01)
        assert (tags["lens"] == "pinhole") == (scene.view.source is None)
        if tags["lens"] == "pinhole":
            width = sample.camera.width
            assert tags["fov"] == pytest.approx(2 * math.atan(width / 2 / sample.camera.fx) * 180 / math.pi, abs=0.06)
        assert tags["held"] == hand.held and tags["pose"] == hand.pose_name and sample.grasp == hand.grasp
        assert (tags["skin"], tags["glove"]) == (scene.skin, scene.glove.name.lower())
        assert (tags["identity"], tags["hands"]) == (scene.identity, len(scene.hands))
        assert tags["light"] == scene.lights.name and sample.side is hand.side and 0 <= tags["occlusion"] <= 0.7
        assert sample.scene == sample.key[:-2] and sample.camera == scene.view.camera


def test_crops_are_square_around_the_box_and_black_outside(samples):
    for sample in samples:
        x0, y0, x1, y1 = sample.box
        assert sample.extent == pytest.approx(1.5 * max(x1 - x0, y1 - y0))
        assert sample.center == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2))
        outside = _outside(sample)
        assert (sample.image[outside] == 0).all()
        assert sample.image[~outside].astype(float).std() > 2
    assert any(_outside(sample).any() for sample in samples)


def test_hands_stand_out_in_colour(samples):
    """Pictures show hands where the masks say: there the colour differs from what surrounds it, in most samples."""
    differences = []
    for sample in samples:
        ring = cv2.dilate(sample.mask, np.ones((15, 15), np.uint8)) > 0
        around = ring & (sample.mask == 0) & ~_outside(sample)
        if around.any() and (sample.mask == 255).any():
            inside, outside = sample.image[sample.mask == 255].mean(axis=0), sample.image[around].mean(axis=0)
            differences.append(np.abs(inside - outside).max())
    assert np.median(differences) > 20


def test_samples_of_a_scene_share_it(samples):
    keys = [sample.key for sample in samples]
    assert len(set(keys)) == len(keys)
    by_scene: dict[str, list] = {}
    for sample in samples:
        by_scene.setdefault(sample.scene, []).append(sample)
    pairs = [pair for pair in by_scene.values() if len(pair) == 2]
    assert pairs
    for a, b in pairs:
        assert a.side is not b.side and a.camera == b.camera and a.tags["identity"] == b.tags["identity"]


def test_same_seed_same_bytes_with_any_number_of_workers(tmp_path):
    config = {"samples": 7, "size_per_shard": 4, "seed": 9, "textures": 2}
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert sorted(render_shards(RenderConfig(**config), alone)) == [3, 4]
    environment = dict(os.environ)
    assert sorted(render_shards(RenderConfig(**config, workers=2), together)) == [3, 4]
    assert dict(os.environ) == environment  # what the workers need is theirs alone
    names = [path.name for path in sorted(alone.iterdir())]
    assert names == ["train-009-00000.tar", "train-009-00001.tar"]
    for name in names:
        assert (alone / name).read_bytes() == (together / name).read_bytes()
    assert len(ShardReader(together)) == 7

    first, second = (together / name for name in names)
    before = first.stat().st_mtime_ns
    second.unlink()
    assert list(render_shards(RenderConfig(**config), together)) == [3]  # only what was missing
    assert first.stat().st_mtime_ns == before
    assert second.read_bytes() == (alone / names[1]).read_bytes()


def test_more_samples_complete_a_folder_and_others_are_refused(tmp_path, samples, monkeypatch):
    def rendered(config, shard):
        return (replace(samples[k], key=f"{shard}-{k}") for k in range(config.size(shard)))

    monkeypatch.setattr(generate, "rendered_samples", rendered)
    assert list(render_shards(RenderConfig(3, size_per_shard=2), tmp_path)) == [2, 1]
    assert list(render_shards(RenderConfig(6, size_per_shard=2), tmp_path)) == [2, 2]  # the short one and a new one
    assert [sample.key for sample in ShardReader(tmp_path)] == ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert list(render_shards(RenderConfig(6, size_per_shard=2), tmp_path)) == []
    assert list(render_shards(RenderConfig(1, seed=1), tmp_path)) == [1]  # other seeds do not matter
    for other, said in ((RenderConfig(4, size_per_shard=2), "00002"), (RenderConfig(5, size_per_shard=2), "00002"),
                        (RenderConfig(6, size_per_shard=1), "00000"), (RenderConfig(6), "00001")):  # fmt: skip
        with pytest.raises(ConfigError, match=f"train-000-{said}.tar comes from a run of more samples"):
            list(render_shards(other, tmp_path))


def test_seeds_splits_and_shards_differ():
    configs = [RenderConfig(2, seed=1, textures=2), RenderConfig(2, seed=2, textures=2),
               RenderConfig(2, seed=1, split=Split.HELD_OUT, textures=2)]  # fmt: skip
    made = [next(rendered_samples(config, 0, MODEL)) for config in configs]
    made.append(next(rendered_samples(RenderConfig(4, seed=1, size_per_shard=2, textures=2), 1, MODEL)))
    betas = [tuple(sample.mano.betas) for sample in made]
    assert len(set(betas)) == len(betas)


@pytest.mark.parametrize("split", list(Split))
def test_splits_have_their_own_people_and_textures(split, monkeypatch):
    """Held-out samples alone show what training never sees: on every second texture, and other people only."""
    drawn = []

    def family(name):
        def texture(rng):
            drawn.append(name)
            return np.full((SIZE, SIZE, 3), 0.5, np.float32)

        return texture

    monkeypatch.setattr(backgrounds, "_FAMILIES", (family("common"),) * 3)
    monkeypatch.setattr(backgrounds, "_HELD_OUT", (family("kept"),))
    sample = next(rendered_samples(RenderConfig(1, split=split, textures=4), 0, MODEL))
    held_out = split is Split.HELD_OUT
    assert drawn == ["common", "kept" if held_out else "common"] * 2
    assert (sample.tags["identity"] >= IDENTITIES) == held_out and sample.key.startswith(split.value)


def test_small_hands_are_blurred():
    """A crop of few pixels of the picture holds no finer detail than those."""
    rng = np.random.default_rng(0)
    light = rng.uniform(0.1, 0.9, (CROP_SIZE, CROP_SIZE, 3)).astype(np.float32)
    sensor = Sensor((0, 0), 0, 0.3, (1, 1, 1), 2.2, 1.0, 0, 0, 0, 0.5, 0, 1)
    sharp, coarse = (sensor.picture(light, (500.0, 500.0), extent, 1000, 1000, 1.0) for extent in (300.0, 50.0))
    assert (
        np.abs(np.diff(sharp.astype(float), axis=1)).mean() > 5 * np.abs(np.diff(coarse.astype(float), axis=1)).mean()
    )


def test_configuration_and_command_line_refuse_nonsense(tmp_path, capsys):
    with pytest.raises(ConfigError, match="at least 1"):
        RenderConfig(0)
    with pytest.raises(ConfigError, match="negative"):
        RenderConfig(1, seed=-1)
    assert main(["render", str(tmp_path / "out"), "--samples", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


def test_where_numba_can_keep_nothing_a_folder_is_asked_for(tmp_path):
    """As in a container whose package and home folder may only be read."""
    script = f"""
import sys, numba.core.caching as caching
from wildhands_ros.cli import main
kept = getattr(caching, "CacheImpl", None) or caching._CacheImpl  # as older ones call it
kept._locator_classes = []
sys.exit(main(["render", {str(tmp_path)!r}, "--samples", "1"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "NUMBA_CACHE_DIR" in done.stderr
