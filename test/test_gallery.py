"""Pictures of estimates: what is drawn and where, which samples are chosen, and the files and logs they end in."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.spatial.transform import Rotation
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wildhands_ros.camera import Camera
from wildhands_ros.cli import evaluate, main
from wildhands_ros.drawing.style import FINGER_COLORS
from wildhands_ros.errors import WildHandsError
from wildhands_ros.estimation.estimator import Estimates
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.evaluation import Predictions, SampleScores, gallery, plots, score_samples
from wildhands_ros.evaluation.gallery import (
    Panel,
    Section,
    choose,
    draw_panel,
    draw_sheet,
    from_the_side,
    gallery_sections,
    sample_panel,
    write_gallery,
)
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Hand, HandBox, Side
from wildhands_ros.samples import CROP_SIZE, ManoLabels, Sample, ShardWriter
from wildhands_ros.training.config import NetworkConfig, SourceConfig, TrainingConfig
from wildhands_ros.training.dataset import Drawn, Manner, SampleDataset
from wildhands_ros.training.module import TrainingModule, variant_of
from wildhands_ros.training.pictures import TAG, PictureLog

CAMERA = Camera(1280, 720, 640, 640, 640, 360)
MODEL = load_hand_model()
NOTHING = np.full((21, 2), np.nan)


def made_sample(index: int, *, side: Side = Side.RIGHT, **changes: object) -> Sample:
    """A hand in a random pose in front of a plain picture, whose green tells its number."""
    rng = np.random.default_rng(index)
    pose = Rotation.from_rotvec(rng.normal(scale=0.2, size=(16, 3))).as_matrix()
    translation = np.array([rng.uniform(-0.2, 0.2), 0.0, 0.5])
    _, joints = MODEL.layer(side).numpy(pose, np.zeros(10), translation)
    keypoints = CAMERA.project(joints)
    low, high = keypoints.min(axis=0), keypoints.max(axis=0)
    center, extent = (low + high) / 2, 1.5 * float((high - low).max())
    image = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
    image[..., 1] = 10 * index
    sample = Sample(
        f"s{index}", "made", image, CAMERA, (float(center[0]), float(center[1])), extent, side, (*low, *high),
        joints=joints, mano=ManoLabels(pose, np.zeros(10), translation, "open"), keypoints=keypoints,
        keypoint_weights=np.ones(21), visible=np.ones(21, bool), mask=np.full((CROP_SIZE, CROP_SIZE), 255, np.uint8),
    )  # fmt: skip
    return replace(sample, **changes)


def joints_of(sample: Sample) -> np.ndarray:
    assert sample.joints is not None
    return sample.joints


def bent(joints: np.ndarray, millimetres: float) -> np.ndarray:
    """Everything but the wrist moved in depth: an MPJPE of 20/21 of that."""
    return joints + np.where(np.arange(21)[:, None] > 0, [0, 0, 1e-3 * millimetres], 0)


class Source:
    """Samples in memory."""

    name = "made"

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = list(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def scored(errors: Sequence[float]) -> tuple[Source, SampleScores, np.ndarray]:
    """Samples whose estimates are off by so many millimetres; NaN: not estimated."""
    samples = [made_sample(i) for i in range(len(errors))]
    joints = np.stack([bent(joints_of(s), e) for s, e in zip(samples, errors, strict=True)])
    joints[np.isnan(errors)] = np.nan  # an estimate is whole or missing
    return Source(samples), score_samples(Predictions(joints), samples), joints


# --- drawing ----------------------------------------------------------------------------------------------------------


def fan(x: float, y: float, length: float) -> np.ndarray:
    """A hand of straight fingers, from a wrist at (x, y) upwards; the middle finger straight up."""
    points = np.full((21, 2), [x, y], float)
    for finger in range(5):
        angle = 0.35 * (finger - 2)
        direction = np.array([np.sin(angle), -np.cos(angle)])
        for k in range(4):
            points[1 + 4 * finger + k] += length * (k + 1) / 4 * direction
    return points


def test_estimate_and_truth_are_drawn_where_they_are() -> None:
    seen, truth = fan(-0.5, 0.8, 1.2), fan(0.5, 0.8, 1.2)
    aside = fan(0, 0, 80)
    panel = Panel(np.zeros((224, 224, 3), np.uint8), seen, truth, aside, NOTHING, Side.LEFT)
    edge = 320
    picture = draw_panel(panel, edge)
    assert picture.shape[1] == 2 * edge and edge <= picture.shape[0] < edge + 20
    for middle, color in ((seen, FINGER_COLORS[Side.LEFT]["middle"]), (truth, (255, 255, 255))):
        x, y = ((middle[9] + middle[10]) / 2 + 1) * edge / 2 - 0.5  # amid a bone
        np.testing.assert_allclose(picture[round(y), round(x)], color, atol=40)
        assert not picture[round(y), round(x) - 12].any()  # beside it
    assert picture[:edge, edge:].std() > 5  # the estimate, from the side
    middle = aside[[9, 10]].mean(axis=0) - (aside.min(axis=0) + aside.max(axis=0)) / 2
    x, y = middle * edge / 220 + (edge - 1) / 2
    np.testing.assert_allclose(picture[round(y), edge + round(x)], FINGER_COLORS[Side.LEFT]["middle"], atol=40)


def test_the_truth_lies_over_an_estimate_that_agrees() -> None:
    hand = fan(0, 0.5, 1.0)
    picture = draw_panel(Panel(np.zeros((224, 224, 3), np.uint8), hand, hand, NOTHING, NOTHING, Side.RIGHT), 320)
    x, y = ((hand[9] + hand[10]) / 2 + 1) * 160 - 0.5
    assert picture[round(y), round(x)].min() > 200
    row = picture[round(y), round(x) - 8 : round(x) + 9].astype(int)
    assert (row[:, 0] - row[:, 2] > 120).any()  # the orange of the estimate at its sides


def test_nothing_known_draws_nothing() -> None:
    panel = Panel(np.full((224, 224, 3), 90, np.uint8), NOTHING, NOTHING, NOTHING, NOTHING, Side.LEFT)
    picture = draw_panel(panel, 224)
    assert (picture[:224, :224] == 90).all() and picture[:224, 224:].std(axis=(0, 1)).max() == 0
    dots = draw_panel(replace(panel, dots=np.array([[0.0, 0.0], [np.nan, 0], [1e9, 0]])), 224)
    assert tuple(dots[112, 112]) != (90, 90, 90) and (dots[:224, :224] != 90).any(axis=-1).sum() < 60


def test_far_apart_hands_still_fit_into_the_view_from_the_side() -> None:
    far = fan(300, 0, 80)
    picture = draw_panel(
        Panel(np.zeros((224, 224, 3), np.uint8), NOTHING, NOTHING, far, fan(0, 0, 80), Side.RIGHT), 240
    )
    view = picture[:240, 240:].astype(int)
    orange = view[..., 0] - view[..., 2] > 120
    white = view.min(axis=-1) > 150
    assert orange[:, 120:].sum() > 50 and not orange[:, :60].any()
    assert white[:, :120].sum() > 3 * white[:, 180:].sum()  # (estimated joints have white centres)


def test_depth_is_along_the_ray() -> None:
    ray = np.array([0.8, -0.3, 1.1])
    straight = np.arange(21)[:, None] * 0.005 * ray / np.linalg.norm(ray) + [0.2, 0.1, 0.4]
    np.testing.assert_allclose(
        from_the_side(straight, 3 * ray), np.stack([5 * np.arange(21), np.zeros(21)], 1), atol=1e-9
    )
    down = from_the_side(np.arange(21)[:, None] * np.array([0, 0.005, 0]), np.array([0, 0, 1.0]))
    np.testing.assert_allclose(down[20], [0, 100], atol=1e-9)  # metres become millimetres, y goes down
    assert np.isfinite(from_the_side(straight, np.array([0, 1.0, 0]))).all()


def test_a_panel_of_a_sample_is_that_of_its_crop() -> None:
    sample = made_sample(2, tags={"held": "cup", "glove": "knit", "light": "sun", "occlusion": 0.4, "skin": 5})
    wrong = bent(joints_of(sample), 40)
    panel = sample_panel(sample, wrong, {"mpjpe_mm": 38.1, "pa_mpjpe_mm": float("nan")})
    assert np.abs(panel.truth).max() == pytest.approx(2 / 3, abs=1e-6)  # the crop is 1.5 times the keypoints
    where = (CAMERA.project(wrong) - np.array(sample.center)) * 2 / sample.extent
    np.testing.assert_allclose(panel.seen, where)
    assert panel.lines[0] == "MPJPE 38 mm"
    text = "\n".join(panel.lines)
    for words in ("holds cup", "hidden 35-60 %", "glove knit", "light sun", "skin 5", "deg off axis", "right", "s2"):
        assert words in text
    assert text.isascii()
    half = sample_panel(replace(sample, keypoint_weights=np.r_[np.ones(11), np.zeros(10)]), wrong, {})
    assert np.isfinite(half.truth[:11]).all() and np.isnan(half.truth[11:]).all()
    missing = sample_panel(replace(sample, joints=None, mano=None), np.full((21, 3), np.nan), {"mpjpe_mm": np.nan})
    assert missing.lines[0] == "no estimate" and np.isnan(missing.truth_aside).all()
    assert np.isnan(missing.seen).all() and np.isfinite(missing.truth).all()


def test_a_sheet_has_rows_of_its_sections() -> None:
    panels = [sample_panel(made_sample(i), np.full((21, 3), np.nan), {}) for i in range(5)]
    sheet = draw_sheet([Section("one", panels[:3]), Section("two", panels[3:])], edge=100, columns=2)
    assert marks(sheet, 100, columns=2) == [[0, 1], [2, 25], [3, 4]]


def first_rows(sheet: np.ndarray) -> list[int]:
    """Rows in which crops begin: text and gaps leave their leftmost column to the paper."""
    drawn = (sheet[:, 8] != 250).any(axis=-1)
    return np.flatnonzero(drawn & ~np.r_[False, drawn[:-1]]).tolist()


def marks(sheet: np.ndarray, edge: int, columns: int = 4) -> list[list[int]]:
    """The numbers of the samples on a sheet, by the green of their crops' corners; 25 where there is only paper."""
    corners = [
        [sheet[y + 2, 8 + (2 * edge + 8) * column + 2, 1] for column in range(columns)] for y in first_rows(sheet)
    ]
    return [[round(green / 10) for green in row] for row in corners]


# --- which samples ----------------------------------------------------------------------------------------------------


def test_the_largest_errors_come_first_and_typical_ones_lie_about_the_median() -> None:
    _, scores, _ = scored([5, 80, 10, 30, np.nan, 20, 60, 40, 50, np.nan])
    chosen = choose(scores, 2, typical=3)
    assert chosen.measure == "mpjpe_mm"
    assert chosen.worst == (1, 6)
    assert chosen.typical == (5, 3, 7)  # 20, 30, 40: the median is 35
    assert chosen.missing == (4, 9)


@pytest.mark.parametrize(
    ("worst", "expected"), [(2, ((2, 0), (1,))), (3, ((2, 0, 1), ())), (50, ((2, 0, 1), ()))], ids=["2", "3", "50"]
)
def test_few_samples_are_shown_once(worst: int, expected: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    _, scores, _ = scored([20, 10, 30])
    chosen = choose(scores, worst)
    assert (chosen.worst, chosen.typical) == expected and chosen.missing == ()


def test_typical_ones_are_none_of_the_worst() -> None:
    _, scores, _ = scored([10, 20, 30, 40, 50, 60])
    chosen = choose(scores, 3, typical=4)
    assert chosen.worst == (5, 4, 3) and chosen.typical == (0, 1, 2)


def test_without_3d_labels_keypoints_decide() -> None:
    source, _, joints = scored([10, 40, 20])
    samples = [replace(s, joints=None, mano=None) for s in source]
    shifted = joints + np.array([0.01, 0.09, 0.03])[:, None, None] * [1, 0, 0]
    scores = score_samples(Predictions(shifted), samples)
    chosen = choose(scores, 3)
    assert chosen.measure == "keypoint_percent" and chosen.worst == (1, 2, 0)
    (section,) = gallery_sections(Source(samples), scores, shifted, "it")
    assert "2D % of box" in section.title and section.panels[0].lines[0].startswith("2D ")


def test_sections_say_what_they_show() -> None:
    source, scores, joints = scored([10, np.nan, 40, 20, 30, np.nan, 70])
    largest, typical, missing = gallery_sections(source, scores, joints, "oracle", worst=1)
    assert "oracle on made" in largest.title and "of 5" in largest.title
    assert [p.lines[0].split(",")[0] for p in largest.panels] == ["MPJPE 67 mm"]
    assert len(typical.panels) == 4 and f"{30 * 20 / 21:.1f}" in typical.title
    assert "2 of 2" in missing.title and [p.lines[0] for p in missing.panels] == ["no estimate"] * 2


def test_what_cannot_be_compared_is_said() -> None:
    source, scores, joints = scored([10, 20])
    bare = [replace(s, joints=None, mano=None, keypoints=None, keypoint_weights=None) for s in source]
    with pytest.raises(WildHandsError, match="no labels"):
        gallery_sections(Source(bare), score_samples(Predictions(joints), bare), joints, "it")
    with pytest.raises(ValueError, match="1 estimates for 2 scores"):
        gallery_sections(source, scores, joints[:1], "it")


# --- files ------------------------------------------------------------------------------------------------------------


class Oracle:
    """Knows the hand of each box, and bends it: sample k by 10 (k + 1) mm. Does not find sample 3."""

    name = "oracle"
    hand_model = MODEL

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        hands = []
        for box in boxes:
            near = [np.abs(np.subtract(s.box, box.xyxy)).max() for s in self.samples]
            index = int(np.argmin(near))
            mano = self.samples[index].mano
            assert mano is not None
            if index == 3:
                continue
            joints = bent(joints_of(self.samples[index]), 10 * (index + 1))
            hands.append(
                Hand(box.side, 1.0, box.xyxy, joints, frame.camera.project(joints), mano.pose, mano.betas,
                     mano.translation, "oracle", "open")
            )  # fmt: skip
        return Estimates(tuple(hands))

    def reset(self) -> None:
        pass


def test_command_draws_the_worst_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    samples = [made_sample(i, side=Side.LEFT if i % 2 else Side.RIGHT) for i in range(9)]
    with ShardWriter(tmp_path / "x.tar") as shard:
        for sample in samples:
            shard.add(sample)
    monkeypatch.setattr(evaluate, "make_estimator", lambda *_: Oracle(samples))
    path = tmp_path / "new" / "worst.png"
    options = ["--estimator", "wildhands", "--pictures", str(path), "--worst", "2"]
    assert main(["eval", str(tmp_path / "x.tar"), *options]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    sheet = cv2.imread(str(path))[..., ::-1]
    assert marks(sheet, 256) == [[8, 7, 25, 25], [2, 4, 5, 6], [3, 25, 25, 25]]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--pictures", "x.pdf"], "must end in .png"), (["--pictures", "x.png", "--worst", "0"], "--worst must be")],
    ids=["ending", "worst"],
)
def test_command_refuses_before_it_works(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        shard.add(made_sample(0))

    def fail(*_: object) -> None:
        raise AssertionError("worked first")

    monkeypatch.setattr(evaluate, "make_estimator", fail)
    assert main(["eval", str(tmp_path / "x.tar"), *options]) == 1
    assert message in capsys.readouterr().err


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    section = Section("x", [sample_panel(made_sample(0), np.full((21, 3), np.nan), {})])
    with pytest.raises(WildHandsError, match="cannot write .*file"):
        write_gallery([section], tmp_path / "file" / "x.png")


@pytest.mark.parametrize(
    "draw", [lambda path: write_gallery([], path), lambda path: plots.save_figure(plots.new_figure(2, 2), path)]
)
def test_a_full_disk_leaves_earlier_pictures(draw: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"an earlier one")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))  # where files end, as on a full disk
    try:
        with pytest.raises(WildHandsError, match="cannot write .*x.png"):
            draw(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"an earlier one" and list(tmp_path.iterdir()) == [path]


def test_more_hands_than_a_picture_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("too large")

    monkeypatch.setattr(gallery, "draw_sheet", lambda *_, **__: np.zeros((65_501, 2, 3), np.uint8))
    with pytest.raises(WildHandsError, match="g.jpg: 65501 rows .* too many .* a smaller --worst, or .*png"):
        write_gallery([], tmp_path / "g.jpg")
    monkeypatch.setattr(cv2, "imencode", fail)  # as OpenCV 4 does
    with pytest.raises(WildHandsError, match="g.png: .* a smaller --worst$"):
        write_gallery([], tmp_path / "g.png")
    assert not list(tmp_path.iterdir())


# --- training ---------------------------------------------------------------------------------------------------------


def made_module(**changes: object) -> TrainingModule:
    small: dict[str, object] = {"fusion": (32, 32, 32), "features": 64, "hidden": 64, **changes}
    config = TrainingConfig(sources=(SourceConfig(),), network=NetworkConfig(**small))  # type: ignore[arg-type]
    return TrainingModule(made_up_network(variant_of(config.network, MODEL), 3), config, MODEL).eval()


def plain(source: Source) -> SampleDataset:
    return SampleDataset(source, Manner())


def trainer_at(step: int, logger: TensorBoardLogger | None, **changes: object) -> SimpleNamespace:
    loggers = [] if logger is None else [logger]
    given = {"loggers": loggers, "global_step": step, "sanity_checking": False, "is_global_zero": True, **changes}
    return SimpleNamespace(**given)


@pytest.fixture
def samples() -> Source:
    return Source([made_sample(i, side=Side.LEFT if i % 2 else Side.RIGHT) for i in range(6)])


def test_every_validation_adds_one_sheet(samples: Source, tmp_path: Path) -> None:
    logger, module = TensorBoardLogger(str(tmp_path), name="", version="log"), made_module()
    pictures = PictureLog(plain(samples), count=4, edge=64)
    for trainer in (
        trainer_at(8, logger), trainer_at(16, logger), trainer_at(20, logger, sanity_checking=True),
        trainer_at(24, logger, is_global_zero=False), trainer_at(28, None),
    ):  # fmt: skip
        for batch in range(2):
            pictures.on_validation_batch_end(trainer, module, None, None, batch)  # type: ignore[arg-type]
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    images = events.Images(TAG)
    assert [image.step for image in images] == [8, 16]
    sheet = cv2.imdecode(np.frombuffer(images[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert marks(sheet, 64) == [[0, 1, 3, 5]]  # the same four, evenly over the six


def test_sheets_show_what_the_module_estimates(samples: Source) -> None:
    module, pictures = made_module(), PictureLog(plain(samples), count=6)
    first = pictures.sheet(module, "now")
    assert np.array_equal(first, pictures.sheet(module, "now"))
    with torch.no_grad():
        for value in module.network.parameters():
            value.mul_(0.9)
    assert (first != pictures.sheet(module, "now")).any(axis=-1).sum() > 500


@pytest.mark.parametrize("upright", [False, True], ids=["as it is", "upright"])
def test_a_perfect_module_covers_the_truth(upright: bool, samples: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the labels for an estimate, both skeletons lie on each other, also for mirrored and turned hands."""
    upright_too = {"upright": True, "trunk": "landmarks-fine"} if upright else {}
    module = made_module(**upright_too)
    data = SampleDataset(samples, Manner.of(module.network.variant, MODEL))
    estimate = module.estimate

    def perfect(drawn: Drawn) -> object:
        output, where, pose, translation, _ = estimate(drawn)
        return output, where, pose, translation, drawn.batch.joints

    monkeypatch.setattr(module, "estimate", perfect)
    edge = 192
    sheet = PictureLog(data, count=6, edge=edge).sheet(module, "").astype(int)
    shown = data.take(range(6)).batch
    (first, second) = first_rows(sheet)
    for i in range(6):
        row, column = (first, second)[i // 4], 8 + (2 * edge + 8) * (i % 4)
        crop = sheet[row : row + edge, column : column + edge]
        x, y = ((shown.keypoints[i, [9, 10]].mean(dim=0) + 1) * edge / 2 - 0.5).round().int().tolist()
        assert crop[y - 1 : y + 2, x - 1 : x + 2].min(axis=-1).max() > 120  # white
        orange, teal = (crop[..., 0] - crop[..., 2] > 120).sum(), (crop[..., 2] - crop[..., 0] > 90).sum()
        assert (teal > orange) if bool(shown.mirrored[i]) else (orange > teal)


def test_keypoints_off_heat_maps_are_crosses(samples: Source) -> None:
    module = made_module(trunk="landmarks-fine", keypoints=True)

    def crosses(keypoints: bool) -> int:
        sheet = PictureLog(plain(samples), count=2, keypoints=keypoints).sheet(module, "").astype(int)
        return int(((sheet[..., 0] > 220) & (sheet[..., 1] < 130) & (sheet[..., 2] > 180)).sum())

    assert crosses(keypoints=True) > 20 > crosses(keypoints=False)
