"""Rendered samples: labels agree with pictures, and shards repeat."""

from __future__ import annotations

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest

from wildhands_ros.cli import main
from wildhands_ros.errors import ConfigError
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.rendered import generate
from wildhands_ros.rendered.generate import RenderConfig, Split, render_shards, rendered_samples
from wildhands_ros.rendered.sensor import Sensor
from wildhands_ros.samples import CROP_SIZE, HIDDEN, ShardReader

MODEL = load_hand_model()


@pytest.fixture(scope="module")
def samples():
    return list(rendered_samples(RenderConfig(40, seed=4, textures=3), 0, MODEL))


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


def test_visible_joints_are_in_the_picture_and_not_behind_things(samples):
    for sample in samples:
        size = (sample.camera.width - 0.5, sample.camera.height - 0.5)
        inside = ((sample.keypoints > -0.5) & (sample.keypoints < size)).all(axis=1)
        assert not (sample.visible & ~inside).any() and inside.mean() >= 0.6
        if sample.tags["occlusion"] == 0:
            # a sleeve may hide the wrist alone, a thing beside it a tip on the outline
            assert (sample.visible != inside)[1:].sum() <= 1
    assert any((~sample.visible).any() for sample in samples if sample.tags["occlusion"] > 0.3)


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
