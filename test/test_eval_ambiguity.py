"""Hands that look the same in their crops: made on purpose, then found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.transform import Rotation

from wildhands_ros.camera import Camera
from wildhands_ros.cli import main
from wildhands_ros.errors import WildHandsError
from wildhands_ros.evaluation import ambiguity_figure
from wildhands_ros.evaluation.ambiguity import (
    Pair,
    Views,
    find_pairs,
    gather_views,
    telling_pairs,
    unexplained,
    with_mask_iou,
)
from wildhands_ros.evaluation.outline import Outline
from wildhands_ros.evaluation.sample_scores import crop_pixels
from wildhands_ros.hand_model import HandLayer, load_hand_model
from wildhands_ros.hands import Side
from wildhands_ros.samples import CROP_SIZE, Sample, ShardWriter

CAMERA = Camera.pinhole(1280, 720, 400)


@pytest.fixture(scope="module")
def layer() -> HandLayer:
    return load_hand_model(None).layer(Side.RIGHT)


def sample_of(vertices: np.ndarray, joints: np.ndarray, key: str, faces: np.ndarray | None = None) -> Sample:
    keypoints = CAMERA.project(joints)
    (x0, y0), (x1, y1) = keypoints.min(axis=0), keypoints.max(axis=0)
    sample = Sample(
        key, "made", np.full((CROP_SIZE, CROP_SIZE, 3), 90, np.uint8), CAMERA, ((x0 + x1) / 2, (y0 + y1) / 2),
        1.5 * max(x1 - x0, y1 - y0), Side.RIGHT, (x0, y0, x1, y1), joints=joints, keypoints=keypoints,
        keypoint_weights=np.ones(21), scene=f"scene-{key}",
    )  # fmt: skip
    if faces is None:
        return sample
    covered = Outline(faces).mask(crop_pixels(sample, CAMERA.project(vertices)), CROP_SIZE)
    return replace(sample, mask=255 * covered.astype(np.uint8))


def made(layer: HandLayer, seed: int, across: float, *, with_mask: bool = False) -> Sample:
    """Hand `seed`, as a camera looking straight at it sees it, turned round the camera by `across` degrees."""
    rng = np.random.default_rng(seed)
    pose = Rotation.from_rotvec(rng.normal(scale=0.25, size=(16, 3))).as_matrix()
    pose[0] = Rotation.from_rotvec(rng.normal(scale=0.6, size=3)).as_matrix()
    vertices, joints = layer.numpy(pose, np.zeros(10), np.zeros(3))
    offset = np.array([0, 0, rng.uniform(0.4, 0.6)]) - joints.mean(axis=0)
    turn = Rotation.from_euler("y", across, degrees=True).as_matrix()
    vertices, joints = (vertices + offset) @ turn.T, (joints + offset) @ turn.T
    return sample_of(vertices, joints, f"{seed}-{int(across)}", layer.faces if with_mask else None)


@pytest.fixture(scope="module")
def views(layer: HandLayer) -> Views:
    """Hands everywhere; each seen from one direction, but hands 0 to 4 also 25 degrees further to the side."""
    rng = np.random.default_rng(0)
    samples = [made(layer, seed, rng.uniform(-50, 50)) for seed in range(100, 500)]
    twins = [made(layer, seed, across, with_mask=True) for seed in range(5) for across in (0, 25)]
    return gather_views([*twins, *samples])


def test_turned_hands_are_found_as_pairs(views: Views) -> None:
    pairs = find_pairs(views, least_ray_degrees=20, most_apart_percent=8)
    found = {(views.samples[p.first].key, views.samples[p.second].key) for p in pairs}
    assert found >= {(f"{seed}-0", f"{seed}-25") for seed in range(5)}
    for pair in pairs:
        if (views.samples[pair.first].key, views.samples[pair.second].key) in {(f"{s}-0", f"{s}-25") for s in range(5)}:
            assert pair.ray_degrees == pytest.approx(25, abs=1)
            assert pair.orientation_degrees == pytest.approx(25, abs=1e-3)
            assert pair.joints_mm > 15 and pair.apart_percent < 8
    assert all(p.ray_degrees >= 20 for p in pairs)


def test_pairs_are_chosen_by_the_root_mean_square_distance(views: Views) -> None:
    pairs = find_pairs(views, most_apart_percent=8)
    apart = [np.linalg.norm(views.looks[p.first] - views.looks[p.second], axis=1) * 100 / 4 for p in pairs]
    squares = [float(np.sqrt((distances**2).mean())) for distances in apart]
    assert squares == sorted(squares) and squares[-1] < 8
    assert [pair.apart_percent for pair in pairs] == pytest.approx([distances.mean() for distances in apart])
    assert all(pair.apart_percent <= square for pair, square in zip(pairs, squares, strict=True))


def test_masks_of_pairs_are_laid_over_each_other(views: Views) -> None:
    pairs = find_pairs(views, least_ray_degrees=20, most_apart_percent=8)
    twins = [p for p in pairs if views.samples[p.first].key.split("-")[0] == views.samples[p.second].key.split("-")[0]]
    assert all(with_mask_iou(views, pair).mask_iou > 0.75 for pair in twins)
    shown = telling_pairs(views, pairs, least_ray_degrees=20)
    assert {p.first for p in shown} <= {p.first for p in twins}  # the others have no masks
    assert all(pair.mask_iou >= 0.75 for pair in shown)


def test_angles_explain_what_crops_do_not(views: Views) -> None:
    rows = unexplained(views)
    assert rows[-1].angles == "0–60°" and rows[-1].hands == sum(row.hands for row in rows[:-1])
    whole, widest = rows[-1], rows[-2]
    assert whole.kpe_mpjpe_mm < 0.8 * whole.crop_mpjpe_mm and whole.kpe_percent < whole.crop_percent
    assert widest.kpe_mpjpe_mm < 0.8 * widest.crop_mpjpe_mm


def test_hands_of_too_few_scenes_are_said(views: Views) -> None:
    together = replace(views, samples=tuple(replace(sample, scene="one") for sample in views.samples))
    with pytest.raises(WildHandsError, match=r"are of 1 scene\(s\) only: .* add samples of more scenes"):
        unexplained(together)


def test_left_hands_are_seen_as_the_right_ones_that_they_mirror(layer: HandLayer) -> None:
    rights = [made(layer, seed, 10.0 + seed / 10) for seed in range(100)]
    lefts = []
    for sample in rights:
        assert sample.joints is not None and sample.keypoints is not None
        x0, y0, x1, y1 = sample.box
        lefts.append(
            replace(
                sample, side=Side.LEFT, joints=sample.joints * [-1, 1, 1],
                keypoints=np.array([1279, 0]) + sample.keypoints * [-1, 1],
                center=(1279 - sample.center[0], sample.center[1]),
                box=(1279 - x1, y0, 1279 - x0, y1),
            )
        )  # fmt: skip
    a, b = gather_views(rights), gather_views(lefts)
    for name in ("looks", "rays", "spans", "joints"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=1e-9)


def test_too_few_samples_are_refused(layer: HandLayer) -> None:
    with pytest.raises(WildHandsError, match="only 1 samples"):
        gather_views([made(layer, 0, 0.0)])


def test_command_draws_a_picture(tmp_path: Path, layer: HandLayer, capsys) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        for seed in range(60):
            for across in (0.0, 35.0):
                shard.add(made(layer, seed, across, with_mask=seed < 2))
    assert main(["eval", str(tmp_path / "x.tar"), "--ambiguity", str(tmp_path / "a.png")]) == 0
    assert "pairs that look the same" in capsys.readouterr().out
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture is not None and picture.std() > 5


def test_pairs_that_differ_most_are_in_the_picture(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(ambiguity_figure, "save_figure", lambda figure, path: figures.append(figure))
    pairs = [Pair(0, 1, 3.0, 0.9, 20.0, 30.0, 25.0), Pair(2, 3, 3.0, 0.9, 110.0, 80.0, 140.0)]
    ambiguity_figure.draw_ambiguity(views, [], pairs, unexplained(views), Path("a.png"))
    (axis,) = [axis for axis in figures[0].findobj(Axes) if axis.get_title().startswith("2 pairs")]
    assert axis.get_xlim()[1] >= 110 and axis.get_ylim()[1] >= 140
