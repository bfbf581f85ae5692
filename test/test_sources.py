"""Readers of other people's pictures: EPIC-HandKps in made-up files of its layout, and pseudo-labelled recordings."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.sparse
import torch

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.cli import main
from wildhands_ros.errors import ConfigError, WildHandsError
from wildhands_ros.estimation.wildhands import Variant
from wildhands_ros.estimation.wildhands.crops import CropMaker
from wildhands_ros.estimation.wildhands.resample import cut_sharp
from wildhands_ros.evaluation.gallery import sample_panel
from wildhands_ros.evaluation.report import read_json
from wildhands_ros.evaluation.running import frame_from_scene
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model.pickles import RefusedPickle, read_plain_pickle
from wildhands_ros.hands import KEYPOINT_NAMES, MANO_TO_KEYPOINTS, Side
from wildhands_ros.recordings.pictures import read_picture
from wildhands_ros.samples import BOX_FACTOR, CROP_SIZE, Sample, SampleError
from wildhands_ros.training.config import SourceConfig
from wildhands_ros.training.dataset import open_source as open_training_source
from wildhands_ros.training.sources import EpicHandKps, PseudoLabelConfig, PseudoLabeller, VideoSource
from wildhands_ros.training.sources import video as video_module
from wildhands_ros.training.sources.crops import cut, square_of
from wildhands_ros.training.sources.epic_hand_kps import ASSEMBLY_TO_KEYPOINTS
from wildhands_ros.training.sources.video import _key_of, _recordings

try:
    from numpy._core.numeric import _frombuffer
except ModuleNotFoundError:  # NumPy 1
    from numpy.core.numeric import _frombuffer

# --- plain pickles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_every_protocol(protocol: int) -> None:
    shared = [1, 2.5, None, True]
    stored = {"a": np.arange(6.0).reshape(2, 3), "b": (shared, shared), "c": {"d": np.float32(0.5), "e": np.int64(7)}}
    found: Any = read_plain_pickle(pickle.dumps(stored, protocol=protocol))
    assert np.array_equal(found["a"], stored["a"]) and found["b"] == [shared, shared]
    assert found["c"] == {"d": 0.5, "e": 7}


def test_pickles_that_would_run_code_are_refused() -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch /tmp/should_not_be_there",)

    with pytest.raises(RefusedPickle, match="run code"):
        read_plain_pickle(pickle.dumps({"x": Evil()}))
    with pytest.raises(RefusedPickle, match="keys"):
        read_plain_pickle(pickle.dumps({1: 2}))


class Calls:
    """Pickled as a call of a function with these arguments, and a state where given."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def broken_sparse() -> Any:
    matrix = scipy.sparse.coo_matrix(np.eye(3))
    matrix.row[0] = 50
    return matrix


@pytest.mark.parametrize(
    "stored",
    [
        Calls(_frombuffer, (b"12", np.dtype("f8"))),
        Calls(_frombuffer, (b"12", Calls(np.dtype, ("f3",)), (1,), "C")),
        Calls(_frombuffer, (b"12", Calls(np.dtype, ("i9",)), (1,), "C")),
        Calls(scipy.sparse.coo_matrix, (), {"shape": (2, 2)}),
        broken_sparse(),
    ],
    ids=["arguments", "f3", "i9", "no data", "index"],
)
def test_pickles_of_damaged_arrays_are_refused(stored: object) -> None:
    with pytest.raises(RefusedPickle):
        read_plain_pickle(pickle.dumps({"x": stored}, protocol=5))


def test_pickles_that_would_grow_without_end_are_refused() -> None:
    nested: list[Any] = []
    for _ in range(15):
        nested = [nested] * 10  # 10^15 when written out
    assert read_plain_pickle(pickle.dumps(nested)) is not None
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RefusedPickle, match="deep"):
        read_plain_pickle(pickle.dumps(endless))


# --- EPIC-HandKps -------------------------------------------------------------------------------------------------

FRAME = "P01_01_frame_0000000140.jpg"
KEY = f"/somewhere/visor/rgb_frames/train/P01/P01_01/{FRAME}"


def written_hand(valid: int = 21, **changes: object) -> dict[str, object]:
    """Joint j of AssemblyHands' order at (700 + 10 j, 400 + 5 j), in lists of arrays as the published code has them."""
    joints = [np.array([700.0 + 10 * j, 400.0 + 5 * j]) for j in range(21)]
    return {"joints": joints, "joints_valid": [1] * valid + [0] * (21 - valid), "bbox": None, **changes}


def write_epic(folder: Path, entries: dict[str, object], *, size: tuple[int, int] = (1920, 1080)) -> tuple[Path, Path]:
    """The annotations, and pictures in another folder structure than the keys'."""
    frames = folder / "frames" / "P01"
    frames.mkdir(parents=True)
    y, x = np.mgrid[: size[1], : size[0]]
    image = np.stack([x * 255 // size[0], y * 255 // size[1], np.full_like(x, 60)], axis=-1).astype(np.uint8)
    cv2.imwrite(str(frames / FRAME), image[..., ::-1])
    path = folder / "hands_5000.pkl"
    path.write_bytes(pickle.dumps(entries))
    return path, folder / "frames"


def repeated_list() -> list[Any]:
    """10^12 numbers when written out."""
    nested: list[Any] = [0.0] * 10
    for _ in range(11):
        nested = [nested] * 10
    return nested


def test_order_of_joints_is_that_of_the_published_code() -> None:
    to_mano = [20, 7, 6, 5, 11, 10, 9, 19, 18, 17, 15, 14, 13, 3, 2, 1, 0, 4, 8, 12, 16]
    assert [to_mano[k] for k in MANO_TO_KEYPOINTS] == list(ASSEMBLY_TO_KEYPOINTS)
    tips = [
        ASSEMBLY_TO_KEYPOINTS[KEYPOINT_NAMES.index(f"{f}_tip")] for f in ("thumb", "index", "middle", "ring", "pinky")
    ]
    assert tips == [0, 4, 8, 12, 16]


def test_epic_hands_are_read(tmp_path: Path) -> None:
    (sample,) = EpicHandKps(*write_epic(tmp_path, {KEY: {"right": written_hand()}}))
    assert (sample.side, sample.source, sample.scene) == (Side.RIGHT, "epic_hand_kps", FRAME[:-4])
    assert sample.camera == Camera.pinhole(1920, 1080, 1000)
    assert sample.keypoints is not None and sample.keypoint_weights is not None
    assert sample.keypoints[0] == pytest.approx([900, 500])  # the wrist is the last of AssemblyHands' joints
    assert sample.keypoints[4] == pytest.approx([700, 400])  # the thumb's tip the first
    assert sample.box == pytest.approx((680, 380, 920, 520)) and sample.extent == pytest.approx(360)
    assert sample.joints is None and sample.mano is None and sample.grasp is None
    for k in (0, 4, 20):  # colours tell places: 255 levels across 1920 and 1080 pixels
        u, v = np.round((sample.keypoints[k] - sample.center) * CROP_SIZE / sample.extent + 111.5).astype(int)
        red, green, blue = sample.image[v, u].astype(int)
        assert red == pytest.approx(sample.keypoints[k][0] * 255 / 1920, abs=4)
        assert green == pytest.approx(sample.keypoints[k][1] * 255 / 1080, abs=4) and blue == pytest.approx(60, abs=8)


def test_hands_of_too_few_joints_and_frames_that_are_absent_are_left_out(tmp_path: Path) -> None:
    entries = {
        KEY: {"left": written_hand(2), "right": written_hand(3)},
        KEY.replace("140", "141"): {"left": written_hand()},
    }
    paths = write_epic(tmp_path, entries)
    source = EpicHandKps(*paths)
    assert [s.side for s in source] == [Side.RIGHT] and source.missing_frames == 1
    sample = source[0]
    assert sample.keypoint_weights is not None and sample.keypoint_weights.sum() == 3
    assert sample.visible is not None and list(np.flatnonzero(sample.visible)) == [2, 3, 4]  # joints 2, 1, 0
    assert len(EpicHandKps(*paths, min_visible=4)) == 0


def test_training_says_how_many_pictures_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hands = {"right": written_hand()}
    annotations, frames = write_epic(tmp_path, {KEY: hands, KEY.replace("140", "141"): hands})
    config = SourceConfig(kind="epic-hand-kps", path=annotations, frames=frames)
    assert len(open_training_source(config, tmp_path)) == 1
    assert f"1 of the pictures that {annotations} describes are not in {frames}" in caplog.text
    caplog.clear()
    (frames / FRAME.replace("140", "141")).write_bytes(next(frames.rglob(FRAME)).read_bytes())
    assert len(open_training_source(config, tmp_path)) == 2 and not caplog.text


def test_arrays_serve_as_well_as_lists(tmp_path: Path) -> None:
    plain = written_hand()
    array = {"joints": np.array(plain["joints"], np.float32), "joints_valid": np.ones(21, bool), "bbox": np.zeros(4)}
    source = EpicHandKps(*write_epic(tmp_path, {KEY: {"left": plain, "right": array}}))
    a, b = source
    assert np.array_equal(a.keypoints, b.keypoints) and a.scene == b.scene and a.key != b.key


def test_boxes_of_a_detector(tmp_path: Path) -> None:
    paths = write_epic(tmp_path, {KEY: {"left": written_hand(), "right": written_hand()}})
    boxes = tmp_path / "grasp_visor_val.pkl"
    boxes.write_bytes(pickle.dumps({KEY: {"right_bbox": np.array([650, 350, 950, 550]), "left_bbox": None}}))
    (sample,) = EpicHandKps(*paths, boxes=boxes)
    assert sample.side is Side.RIGHT and sample.box == (650, 350, 950, 550)
    assert sample.center == (800, 450) and sample.extent == 450


@pytest.mark.parametrize(
    "box", [(0, 0, np.inf, 5), (0, 0, 1e300, 5), (0, 0, 1e6, 5), (5, 5, 5 + 1e-9, 6), (np.nan, 0, 10, 10)]
)
def test_boxes_that_no_hand_has_are_none(tmp_path: Path, box: tuple[float, ...]) -> None:
    paths = write_epic(tmp_path, {KEY: {"right": written_hand()}})
    boxes = tmp_path / "grasp_visor_val.pkl"
    boxes.write_bytes(pickle.dumps({KEY: {"right_bbox": box}}))
    assert len(EpicHandKps(*paths, boxes=boxes)) == 0


@pytest.mark.parametrize(("box", "reason"), [((1, 2, 3), r"\(3,\)"), ("here", "does not hold numbers")])
def test_boxes_of_other_layouts_are_named_with_their_file(tmp_path: Path, box: object, reason: str) -> None:
    paths = write_epic(tmp_path, {KEY: {"right": written_hand()}})
    boxes = tmp_path / "grasp_visor_val.pkl"
    boxes.write_bytes(pickle.dumps({KEY: {"right_bbox": box}}))
    with pytest.raises(SampleError, match=f"grasp_visor_val.pkl: .*{reason}"):
        EpicHandKps(*paths, boxes=boxes)


@pytest.mark.parametrize("far", [1e5, 1e8, 1e300, np.nan])
def test_joints_far_outside_the_picture_are_not_visible(tmp_path: Path, far: float) -> None:
    joints = [np.array([700.0 + 10 * j, 400.0 + 5 * j]) for j in range(20)] + [np.array([far, 400.0])]
    (sample,) = EpicHandKps(*write_epic(tmp_path, {KEY: {"right": written_hand(joints=joints)}}))
    assert sample.visible is not None and list(np.flatnonzero(~sample.visible)) == [0]
    assert sample.extent < 400


def test_smaller_copies_of_the_pictures_serve(tmp_path: Path) -> None:
    (sample,) = EpicHandKps(*write_epic(tmp_path, {KEY: {"right": written_hand()}}, size=(960, 540)))
    assert sample.camera == Camera.pinhole(960, 540, 500)
    assert sample.keypoints is not None and sample.keypoints[0] == pytest.approx([449.75, 249.75])
    assert sample.extent == pytest.approx(180)


def test_whole_pictures_come_with_samples_on_request_and_are_what_networks_are_shown(tmp_path: Path) -> None:
    paths = write_epic(tmp_path, {KEY: {"left": written_hand(), "right": written_hand()}}, size=(960, 540))
    plain, whole = list(EpicHandKps(*paths)), list(EpicHandKps(*paths, whole=True))
    assert all(sample.picture is None for sample in plain)  # training reads them so
    real, _ = read_picture(paths[1] / "P01" / FRAME)
    assert all(np.array_equal(sample.picture, real) for sample in whole)
    camera = whole[0].camera
    shown = {"real": Frame(real, camera), "whole": frame_from_scene(whole), "plain": frame_from_scene(plain)}
    maker = CropMaker(Variant(), Variant().box_factor)  # the published network's
    inputs = {}
    for name, frame in shown.items():
        assert frame.camera == camera
        places = [maker.place(camera, sample.box) for sample in whole]
        inputs[name] = maker.prepare(frame.image, camera, places, [s.side is Side.RIGHT for s in whole]).inputs
    for part in ("frame", "crops", "encoding"):
        assert torch.equal(getattr(inputs["whole"], part), getattr(inputs["real"], part)), part
    for part in ("frame", "crops"):  # black outside 1.5 boxes
        assert (getattr(inputs["plain"], part) - getattr(inputs["real"], part)).abs().max() > 0.5, part
    with pytest.raises(ValueError, match="picture has shape"):
        replace(whole[0], picture=real[1:])


def test_the_command_measures_an_estimator_on_them(tmp_path: Path, capsys, caplog) -> None:
    annotations, frames = write_epic(tmp_path, {KEY: {"left": written_hand(), "right": written_hand(5)}})
    figures, plots = tmp_path / "figures.json", tmp_path / "plots"
    options = ["--no-refine", "--json", str(figures), "--plots", str(plots)]
    assert main(["eval", "--epic-hand-kps", str(annotations), "--frames", str(frames), *options]) == 0
    out = capsys.readouterr().out
    cells = {row[1].strip(): row[2].strip() for line in out.splitlines() if len(row := line.split("|")) > 3}
    assert "open, 2 hands of epic_hand_kps" in out
    # what is said where the network is used for the first time on a machine is no matter of these samples
    assert not [text for text in caplog.messages if not text.startswith("preparing the network")]
    for measured in ("2D px of 224", "2D % of box", "estimated %"):
        assert re.match(r"\d", cells[measured]), measured
    for unknown in ("MPJPE mm", "wrist mm", "MRRPE mm", "mask IoU %"):
        assert cells[unknown] == "–", unknown
    (report,) = read_json(figures)
    assert report.samples == 2 and {"keypoint_px", "keypoint_percent"} <= report.overall.keys()
    assert "mpjpe_mm" not in report.overall and (plots / "curves.png").is_file()


def test_the_command_leaves_out_pictures_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, caplog
) -> None:
    first, last = KEY.replace("140", "139"), KEY.replace("140", "141")
    entries = {key: {"left": written_hand(), "right": written_hand()} for key in (first, KEY, last)}
    annotations, frames = write_epic(tmp_path, entries)
    readable = frames / "P01" / FRAME
    for key in (first, last):
        (frames / "P01" / Path(key).name).write_bytes(b"no picture")
    drawn: list[str] = []
    command = ["eval", "--epic-hand-kps", str(annotations), "--frames", str(frames), "--no-refine"]
    with monkeypatch.context() as patch:
        patch.setattr(
            "wildhands_ros.evaluation.gallery.sample_panel",
            lambda sample, *_: (drawn.append(sample.key), sample_panel(sample, *_))[1],
        )
        options = ["--baseline", "--pictures", str(tmp_path / "worst.png")]
        assert main([*command, *options]) == 0
    out = capsys.readouterr().out
    assert "open, 2 hands of epic_hand_kps" in out and "landmarks, 2 hands of epic_hand_kps" in out
    assert set(drawn) == {"P01_01_frame_0000000140_left", "P01_01_frame_0000000140_right"}
    said = [text for text in caplog.messages if "left out" in text]
    assert [Path(key).name in text for key, text in zip((first, last), said, strict=False)] == [True, True]
    assert said[2:] == ["4 hands of epic_hand_kps cannot be read and are left out"]  # and not once more by the baseline

    readable.write_bytes(b"no picture either")
    assert main(command) == 1
    assert "none of the hands of epic_hand_kps can be read" in capsys.readouterr().err


def test_the_command_reads_them_as_its_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    entries = {KEY: {"left": written_hand(), "right": written_hand(3)}, KEY.replace("140", "141"): {}}
    annotations, frames = write_epic(tmp_path, entries, size=(960, 540))
    boxes = tmp_path / "grasp_visor_val.pkl"
    boxes.write_bytes(pickle.dumps({KEY: {"right_bbox": (650, 350, 950, 550), "left_bbox": None}}))
    read: list[list[Sample]] = []

    def score(name: str, config: object, source: EpicHandKps, *_: object, **__: object) -> None:
        read.append(list(source))
        raise WildHandsError("that is all")

    monkeypatch.setattr("wildhands_ros.cli.evaluate._score", score)
    command = ["eval", "--epic-hand-kps", str(annotations), "--frames", str(frames)]
    for options in ([], ["--min-visible", "4"], ["--boxes", str(boxes)]):
        assert main([*command, *options]) == 1
    assert [[sample.side for sample in samples] for samples in read] == [list(Side), [Side.LEFT], [Side.RIGHT]]
    assert all(sample.picture is not None for samples in read for sample in samples)
    assert read[2][0].extent == pytest.approx(225)
    assert "1 of the pictures" in caplog.messages[0] and "are left out" in caplog.messages[0]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({KEY: 3}, "no dictionary of hands"),
        ({KEY: {"right": {"joints": [1]}}}, "joints_valid"),
        ({KEY: {"right": written_hand(joints=[(1, 2)] * 20)}}, r"\(20, 2\)"),
        ({KEY: {"right": written_hand(joints="many")}}, "does not hold numbers"),
        ({KEY: {"right": written_hand(joints=[(10**400, 1)] * 21)}}, "does not hold numbers"),
        ({KEY: {"right": written_hand(joints=[(1, 2)] * 20 + [(1, 2, 3)])}}, r"not hold numbers of shape \(21, 2\)"),
        ({KEY: {"right": written_hand(joints=repeated_list())}}, r"shape \(10, 10, 10, .*expected \(21, 2\)"),
        ({KEY: {"right": written_hand(joints=[repeated_list()] * 21)}}, r"shape \(21, 10, .*expected \(21, 2\)"),
        ({KEY: {"right": written_hand(joints_valid=[repeated_list()] * 21)}}, r"shape \(21, 10, .*expected \(21,\)"),
        ({"/other/frame.jpg": {"right": written_hand()}}, "holds none of the 1 pictures"),
    ],
)
def test_other_layouts_are_named(tmp_path: Path, entries: dict[str, object], reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        EpicHandKps(*write_epic(tmp_path, entries))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    annotations, frames = write_epic(tmp_path, {KEY: {"right": written_hand()}})
    with pytest.raises(SampleError, match="no.pkl"):
        EpicHandKps(tmp_path / "no.pkl", frames)
    with pytest.raises(SampleError, match="no folder"):
        EpicHandKps(annotations, tmp_path / "no")
    annotations.write_bytes(b"\x80\x04nonsense")
    with pytest.raises(SampleError, match="hands_5000.pkl is not a pickle"):
        EpicHandKps(annotations, frames)


def test_a_picture_of_another_shape_is_named(tmp_path: Path) -> None:
    source = EpicHandKps(*write_epic(tmp_path, {KEY: {"right": written_hand()}}, size=(640, 480)))
    with pytest.raises(SampleError, match="640x480"):
        source[0]


# --- crops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(100, 50, 180, 210), (-60, -40, 40, 30), (500, 300, 900, 700), (900, 700, 950, 720)])
def test_cut_of_a_part_is_the_cut_of_the_whole(box: tuple[float, float, float, float]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    center, extent = square_of(box)
    assert extent == BOX_FACTOR * max(box[2] - box[0], box[3] - box[1])
    whole = cut_sharp(torch.from_numpy(image).permute(2, 0, 1).float(), center, extent).permute(1, 2, 0).numpy()
    assert np.abs(cut(image, center, extent) - whole).max() <= 0.51


# --- pseudo-labels ------------------------------------------------------------------------------------------------


def palm(height: int = 480, width: int = 640, x: int = 200, y: int = 80) -> np.ndarray:
    """A photograph of a left palm (of deodr, BSD) in a larger picture."""
    spec = importlib.util.find_spec("deodr")
    assert spec is not None and spec.origin is not None
    photo = cv2.imread(str(Path(spec.origin).parent / "data" / "hand_multiview" / "IMG-1842.jpg"))
    assert photo is not None
    image = np.full((height, width, 3), 30, np.uint8)
    image[y : y + photo.shape[0], x : x + photo.shape[1]] = photo[..., ::-1]
    return image


@pytest.fixture(scope="module")
def labeller(models_dir: Path) -> PseudoLabeller:
    return PseudoLabeller.from_directory(models_dir, PseudoLabelConfig(focal=500, every=2))


def test_recordings_are_labelled_once(
    tmp_path: Path, labeller: PseudoLabeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recordings"
    (folder / "stills").mkdir(parents=True)
    cv2.imwrite(str(folder / "stills" / "palm.png"), palm()[..., ::-1])
    writer = cv2.VideoWriter(str(folder / "moving.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 30, (640, 480))
    for i in range(6):
        writer.write(palm(x=180 + 4 * i)[..., ::-1])
    writer.release()
    source = VideoSource(folder, tmp_path / "cache", labeller)
    samples = list(source)
    still = [s for s in samples if s.key.startswith("stills")]
    moving = [s for s in samples if s.key.startswith("moving")]
    assert len(still) == 1 and 2 <= len(moving) <= 3 and len(source) == len(samples)
    for sample in samples:
        assert sample.side is Side.LEFT and sample.source == "video" and sample.joints is None
        assert sample.camera == Camera.pinhole(640, 480, 500) and sample.tags["camera"] == "known"
        assert sample.keypoints is not None and sample.keypoint_weights is not None
        assert 0.3 < sample.keypoint_weights.mean() <= 1
    assert sample_shift(moving[0], moving[-1]) == pytest.approx(4 * 2 * (len(moving) - 1), abs=4)
    blind = PseudoLabeller(None, None, labeller.config)  # type: ignore[arg-type] # would fail if it were used
    monkeypatch.setattr(video_module, "FileLock", None)  # as where they may only be read
    again = VideoSource(folder, tmp_path / "cache", blind)
    assert [s.key for s in again] == [s.key for s in samples]


def test_bags_in_folders_are_found_and_hidden_files_are_not(tmp_path: Path) -> None:
    for folder in ("bag", "clips"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bag" / "session.mcap").write_bytes(b"\x89MCAP0\r\n")  # no metadata.yaml: still a bag
    (tmp_path / "clips" / "._clip.mp4").write_bytes(b"what macOS leaves beside files")
    assert _recordings(tmp_path) == [tmp_path / "bag"]


def test_labelling_goes_on_with_the_recordings_that_are_missing(tmp_path: Path, labeller: PseudoLabeller) -> None:
    folder = tmp_path / "recordings"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        cv2.imwrite(str(folder / name / "palm.png"), palm()[..., ::-1])

    class Stopping:
        """Labels a recording, then is interrupted."""

        config = labeller.config
        labelled = 0

        def samples(self, frames: Any, name: str, **options: Any) -> Any:
            if self.labelled:
                raise KeyboardInterrupt
            self.labelled += 1
            return labeller.samples(frames, name, **options)

    with pytest.raises(KeyboardInterrupt):
        VideoSource(folder, tmp_path / "cache", Stopping())  # type: ignore[arg-type]
    samples = list(VideoSource(folder, tmp_path / "cache", Stopping()))  # type: ignore[arg-type] # labels one more
    assert sorted(sample.key[0] for sample in samples) == ["a", "b"]


def test_names_that_differ_in_odd_characters_give_different_keys() -> None:
    names = ("видео.mp4", "кухня.mp4", "a b.mp4", "a_b.mp4", "a_b_mp4", "a-b", "\udcff.mp4")
    keys = {_key_of(name) for name in names}
    assert len(keys) == len(names) and {"a-b", "a_b_mp4"} < keys
    assert all(re.fullmatch("[A-Za-z0-9_-]+", key) for key in keys)


def sample_shift(a: Sample, b: Sample) -> float:
    assert a.keypoints is not None and b.keypoints is not None
    return float((b.keypoints - a.keypoints)[:, 0].mean())


def test_labels_lie_on_the_fingers(labeller: PseudoLabeller) -> None:
    camera = Camera.pinhole(640, 480, 500)
    (sample,) = labeller.samples([Frame(palm(), camera)], "p", stream=False, guessed=True)
    assert sample.keypoints is not None and sample.tags["camera"] == "guessed"
    x0, y0, x1, y1 = sample.box
    assert np.all(sample.keypoints > (x0, y0)) and np.all(sample.keypoints < (x1, y1))
    grey = palm().max(axis=2)
    u, v = np.round(sample.keypoints).astype(int).T
    assert np.mean(grey[v, u] > 60) > 0.9  # skin, on a black ground
    tip, wrist = sample.keypoints[KEYPOINT_NAMES.index("middle_tip")], sample.keypoints[0]
    assert wrist[1] - tip[1] > 150  # fingers up


def test_hands_seen_through_a_fisheye_are_labelled_in_the_rectified_view(labeller: PseudoLabeller) -> None:
    lens = Camera(640, 480, 300, 300, 319.5, 239.5, Distortion.EQUIDISTANT, (0.02, 0, 0, 0))
    (sample,) = labeller.samples([Frame(palm(), lens)], "p", stream=False, guessed=False)
    (plain,) = labeller.samples([Frame(palm(), Camera.pinhole(640, 480, 300))], "p", stream=False, guessed=False)
    assert not sample.camera.has_distortion and sample.keypoints is not None and plain.keypoints is not None
    back = lens.project(sample.camera.unproject(sample.keypoints))
    assert np.abs(back - plain.keypoints).max() < 0.01
    assert np.abs(sample.keypoints - plain.keypoints).max() > 3


def test_doubtful_hands_are_left_out(models_dir: Path) -> None:
    strict = PseudoLabeller.from_directory(models_dir, PseudoLabelConfig(least_side_probability=1.0))
    frame = Frame(palm(), Camera.guess(640, 480))
    assert list(strict.samples([frame], "p", stream=False, guessed=True)) == []
    empty = Frame(np.full((480, 640, 3), 40, np.uint8), Camera.guess(640, 480))
    assert list(strict.samples([empty], "p", stream=False, guessed=True)) == []


def test_what_cannot_be_labelled_is_named(tmp_path: Path, labeller: PseudoLabeller) -> None:
    with pytest.raises(SampleError, match="does not exist"):
        VideoSource(tmp_path / "no", tmp_path / "cache", labeller)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SampleError, match="no pictures"):
        VideoSource(tmp_path / "empty", tmp_path / "cache", labeller)
    (tmp_path / "bad.avi").write_bytes(b"nothing")
    with pytest.raises(WildHandsError, match="bad.avi"):
        VideoSource(tmp_path / "bad.avi", tmp_path / "cache", labeller)
    assert not list((tmp_path / "cache").glob("*"))  # nothing half done is left
    with pytest.raises(ConfigError, match="every"):
        PseudoLabelConfig(every=0)
