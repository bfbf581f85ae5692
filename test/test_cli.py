"""The command line as users call it: what it writes, what it says, and its exit codes."""

from __future__ import annotations

import _thread
import argparse
import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from wildhands_ros import libraries
from wildhands_ros.box_files import BoxFile
from wildhands_ros.camera import Camera
from wildhands_ros.cli import bench as bench_module
from wildhands_ros.cli import doctor as doctor_module
from wildhands_ros.cli import main
from wildhands_ros.cli import run as run_module
from wildhands_ros.cli.bench import Timing, node_parameters
from wildhands_ros.cli.common import add_pipeline, make_room, read_pipeline
from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation import hand_length
from wildhands_ros.evaluation import SequenceScore
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Hand, HandBox, Side
from wildhands_ros.json_lines import frame_to_json
from wildhands_ros.pipeline import DEFAULT_ESTIMATOR, EstimationConfig, PipelineConfig, PipelineResult
from wildhands_ros.recordings import BagReader, BagWriter, VideoWriter, open_source
from wildhands_ros.recordings.hands_reader import read_hands
from wildhands_ros.samples import ShardWriter
from wildhands_ros.synthetic import demo_photos
from wildhands_ros.synthetic.demo_scenes import Held, Slideshow
from wildhands_ros.tracking import TrackingConfig
from wildhands_ros.training.config import SourceConfig, TrainingConfig
from wildhands_ros.whole_files import write_whole

VALUES_OF_A_HAND = {
    "side", "score", "track_id", "box", "keypoints", "joints", "wrist", "pose", "betas", "translation", "valid",
    "grasp",
}  # fmt: skip


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of a left hand, enlarged."""
    path = tmp_path_factory.mktemp("pictures") / "palm.png"
    image = cv2.resize(demo_photos()[1][1], None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "hands.mp4"
    with VideoWriter(path, 30.0) as writer:
        for frame in list(Held(Slideshow()))[12:24]:
            writer.write(frame.image)
    return path


LANDMARKS = ("--estimator", "landmarks")
EPIC = ("--epic-hand-kps", "x.pkl", "--frames", ".")


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(finite(v) for v in value.values())
    if isinstance(value, list):
        return all(finite(v) for v in value)
    return not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("render", "{}", "--samples", 1), ("render", "{}/sub", "--samples", 1),
        ("ablate", "no.yaml", "out", "--table", "{}/table.md"),
    ],
    ids=["render", "render below", "ablate"],
)  # fmt: skip
def test_files_in_the_way_are_named_in_one_line(arguments: tuple[object, ...], tmp_path: Path, capsys) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert run(*(str(argument).format(file) for argument in arguments)) == 1
    assert f"wildhands: {file}" in capsys.readouterr().err.splitlines()[-1]


def test_a_picture_becomes_an_annotated_picture_and_a_json_line(picture: Path, tmp_path: Path, capsys) -> None:
    lines = tmp_path / "hands.jsonl"
    assert run("run", picture, "--focal", 700, "--out", tmp_path, "--json", lines, "--vertices") == 0
    (record,) = read_lines(lines)
    assert record["name"] == "palm.png" and record["estimator"] == DEFAULT_ESTIMATOR and record["hand_model"] == "open"
    assert record["camera"]["model"] == "pinhole" and record["camera"]["K"][0] == 700
    (hand,) = record["hands"]
    assert hand.keys() >= VALUES_OF_A_HAND and finite(record)
    assert hand["side"] == "left" and hand["valid"]
    assert np.shape(hand["pose"]) == (16, 3, 3) and np.shape(hand["vertices"]) == (778, 3)
    # keypoints are the joints seen through the camera
    joints, matrix = np.array(hand["joints"]), np.array(record["camera"]["K"]).reshape(3, 3)
    projected = joints @ matrix.T
    assert np.allclose(projected[:, :2] / projected[:, 2:], hand["keypoints"], atol=0.01)
    annotated = cv2.imread(str(tmp_path / "palm_hands.jpg"))
    assert annotated.shape == cv2.imread(str(picture)).shape
    assert "guess" not in capsys.readouterr().err


def test_an_annotated_video_runs_as_long_as_its_source(tmp_path: Path) -> None:
    image, camera = np.zeros((48, 64, 3), np.uint8), Camera.pinhole(64, 48, 50)
    pipeline, nothing = SimpleNamespace(faces={}), SimpleNamespace(hands=())
    # three are missing, one is too many, then a pause of ten minutes, then a clock that is set
    seconds = [5.0, 5.1, 5.2, 5.6, 5.64, 5.7, 605.0, 605.1, 3.0, 3.1]
    with contextlib.ExitStack() as stack:
        video = run_module._Video(tmp_path / "x.avi", 10.0, pipeline, stack)  # type: ignore[arg-type]
        for index, stamp in enumerate(seconds):
            frame = Frame(image, camera, round(stamp * 1e9), index=index)
            video.write(frame, nothing)  # type: ignore[arg-type]
    assert len(list(open_source(tmp_path / "x.avi"))) == len(seconds) + 3 + 20


def test_options_that_do_nothing_with_such_a_source_are_named(
    picture: Path, video: Path, tmp_path: Path, caplog
) -> None:
    options = ("--smooth", "--stream", "--fps", 5, "--topic", "/x", "--no-rectified", "--vertices")
    assert run("run", picture, *LANDMARKS, "--focal", 700, "--out", tmp_path, *options) == 0
    named = {message.split()[0] for message in caplog.messages if "no effect here" in message}
    assert named == {"--smooth", "--stream", "--fps", "--topic", "--rectified", "--vertices"}
    caplog.clear()
    assert run("run", video, *LANDMARKS, "--focal", 700, "--out", tmp_path, "--smooth", "--frames", 2, "--no-bag") == 0
    assert not [message for message in caplog.messages if "no effect here" in message]


def test_a_picture_too_long_for_a_jpeg_costs_only_its_own(picture: Path, tmp_path: Path, caplog) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), np.zeros((9, 70_000, 3), np.uint8))
    shutil.copy(picture, folder / "2.png")
    assert run("run", folder, *LANDMARKS, "--focal", 700, "--out", tmp_path, "--json", tmp_path / "x.jsonl") == 0
    assert [record["name"] for record in read_lines(tmp_path / "x.jsonl")] == ["1.png", "2.png"]
    assert (tmp_path / "2_hands.jpg").exists() and "no annotated picture of 1.png" in caplog.text


def test_models_named_beside_a_configuration_are_taken(picture: Path, models_dir: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "c.yaml").write_text(f"models_dir: {tmp_path}/none\n")
    options = (*LANDMARKS, "--focal", 700, "--out", tmp_path, "--config", tmp_path / "c.yaml")
    assert run("run", picture, *options, "--models-dir", models_dir) == 0
    assert run("run", picture, *options) == 1 and f"{tmp_path}/none" in capsys.readouterr().err


def test_a_variable_that_is_not_set_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("run", "", *LANDMARKS) == 1 and "no source was named" in capsys.readouterr().err


def test_ctrl_c_while_it_still_loads_ends_it_in_one_line() -> None:
    program = """
        import os, signal, sys

        class Impatient:
            def find_spec(self, name, path=None, target=None):
                if name == "wildhands_ros.cli.commands":
                    os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs tests may ignore it
        sys.meta_path.insert(0, Impatient())
        from wildhands_ros.cli import main

        sys.exit(main(["doctor"]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "wildhands: interrupted\n")


def test_depth_is_proportional_to_the_focal_length(picture: Path, tmp_path: Path) -> None:
    depths = []
    for focal in (500, 1000):
        lines = tmp_path / f"{focal}.jsonl"
        assert run("run", picture, "--focal", focal, "--no-video", "--out", tmp_path, "--json", lines) == 0
        depths.append(read_lines(lines)[0]["hands"][0]["wrist"]["position"][2])
    assert depths[1] / depths[0] == pytest.approx(2, rel=0.15)


def test_without_a_focal_length_it_guesses_and_says_so(picture: Path, tmp_path: Path, capsys) -> None:
    assert run("run", picture, "--out", tmp_path) == 0
    assert "--focal" in capsys.readouterr().err


def test_every_option_of_the_pipeline_is_taken_over_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(
        "min_score: 0.6\nmax_distance: 1.5\nestimation: {looks: 2, threads: 3, precision: int8, hand_length: 0.17}\n"
    )
    parser = argparse.ArgumentParser()
    add_pipeline(parser)
    plain = EstimationConfig(looks=2, threads=3, precision="int8", hand_length=0.17)
    assert read_pipeline(parser.parse_args(["--config", str(file)])) == PipelineConfig(
        min_score=0.6, max_distance=1.5, estimation=plain
    )
    options = (
        "--estimator wildhands --mano-dir m --checkpoint c --no-refine --box-factor 2.5 --all-hands --hand-length 0.2 "
        "--looks 3 --precision float16 --min-score 0.7 --max-distance 0 --smooth --models-dir d"
    )
    assert read_pipeline(parser.parse_args(["--config", str(file), *options.split()])) == PipelineConfig(
        models_dir=Path("d"),
        min_score=0.7,
        max_distance=0.0,
        estimation=EstimationConfig(
            estimator="wildhands", mano_dir=Path("m"), checkpoint=Path("c"), refine=False, box_factor=2.5,
            all_hands=True, hand_length=0.2, looks=3, precision="float16", threads=3,
        ),
        tracking=TrackingConfig(smooth=True),
    )  # fmt: skip


def test_a_calibration_file_is_used(picture: Path, tmp_path: Path) -> None:
    height, width = cv2.imread(str(picture)).shape[:2]
    calibration = tmp_path / "camera.yaml"
    calibration.write_text(
        f"image_width: {width}\nimage_height: {height}\n"
        f"camera_matrix: {{rows: 3, cols: 3, data: [650, 0, 290, 0, 660, 400, 0, 0, 1]}}\n"
        "distortion_model: plumb_bob\n"
        "distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.02, 0, 0, 0]}\n"
    )
    lines = tmp_path / "hands.jsonl"
    options = ("--no-video", "--out", tmp_path, "--json", lines, *LANDMARKS)
    assert run("run", picture, "--camera", calibration, *options) == 0
    camera = read_lines(lines)[0]["camera"]
    assert camera == {
        "model": "plumb_bob", "K": [650, 0, 290, 0, 660, 400, 0, 0, 1], "D": [-0.1, 0.02, 0, 0, 0],
    }  # fmt: skip


def test_a_video_becomes_an_annotated_video_and_a_bag(video: Path, tmp_path: Path) -> None:
    lines = tmp_path / "hands.jsonl"
    assert run("run", video, "--focal", 700, "--out", tmp_path, "--json", lines, "--frames", 8) == 0
    records = read_lines(lines)
    assert [r["frame"] for r in records] == list(range(8))
    assert [len(r["hands"]) for r in records[2:]] == [1] * 6
    assert len({r["hands"][0]["track_id"] for r in records[2:]}) == 1
    with open_source(tmp_path / "hands_hands.mp4") as annotated:
        assert len(list(annotated)) == 8
    with BagReader(tmp_path / "hands_hands.mcap") as bag:
        assert {name: t.count for name, t in bag.topics.items()} == dict.fromkeys(
            ["/camera/camera_info", "/camera/image_raw/compressed", "/tf", "/wildhands/hands", "/wildhands/markers"], 8
        )


def test_every_third_frame_makes_results_as_long_as_the_source(video: Path, tmp_path: Path) -> None:
    lines = tmp_path / "hands.jsonl"
    assert run("run", video, "--focal", 700, "--out", tmp_path, "--json", lines, "--every", 3, *LANDMARKS) == 0
    assert [record["frame"] for record in read_lines(lines)] == [0, 3, 6, 9]
    with open_source(tmp_path / "hands_hands.mp4") as annotated:
        assert annotated.fps == pytest.approx(10.0) and len(list(annotated)) == 4
    stamps = [results.stamp_ns for results in read_hands(tmp_path / "hands_hands.mcap")]
    assert stamps == pytest.approx([0, 100_000_000, 200_000_000, 300_000_000], abs=1_000_000)


def test_the_hands_in_the_bag_are_those_of_the_json_lines(video: Path, tmp_path: Path) -> None:
    lines = tmp_path / "hands.jsonl"
    assert run("run", video, "--focal", 700, "--out", tmp_path, "--json", lines, "--frames", 4, "--no-video") == 0
    for record, recorded in zip(read_lines(lines), read_hands(tmp_path / "hands_hands.mcap"), strict=True):
        assert recorded.stamp_ns == record["stamp_ns"]
        for hand, values in zip(recorded.hands, record["hands"], strict=True):
            assert hand.side.value == values["side"] and hand.track_id == values["track_id"]
            assert np.allclose(hand.joints, values["joints"], atol=1e-9)
            assert np.allclose(hand.pose, values["pose"], atol=1e-6)


@pytest.mark.parametrize("flag", ["valid", "jump", "smoothed"])
def test_json_lines_hold_every_value_of_a_hand(flag: str) -> None:
    rng = np.random.default_rng(3)
    camera = Camera(64, 48, 60.0, 61.0, 31.0, 23.0)
    joints = rng.normal(size=(21, 3))
    hand = Hand(
        Side.LEFT, 0.9, (1.0, 2.0, 30.5, 40.0), joints, rng.normal(size=(21, 2)), rng.normal(size=(16, 3, 3)),
        rng.normal(size=10), rng.normal(size=3), "says", "open", vertices=rng.normal(size=(5, 3)),
        side_probability=0.8, reprojection_error=1.5, expected_error=0.0125, track_id=7,
        grasp=(3, rng.dirichlet(np.ones(9))),
        **({"valid": False, "jump": False, "smoothed": False} | {flag: True}),
    )  # fmt: skip
    bare = replace(
        hand, side=Side.RIGHT, reprojection_error=math.nan, expected_error=math.nan, grasp=None, vertices=None
    )
    frame = Frame(np.zeros((48, 64, 3), np.uint8), camera, 12_000_000_345, index=4, name="a.png")
    timings = {"detect": 0.1, "estimate": 0.2, "track": 0.3, "total": 0.6}
    result = PipelineResult(12_000_000_345, (hand, bare), (), (), ("why",), timings)
    line = frame_to_json(frame, result, estimator="says", hand_model="open", vertices=True)
    assert "\n" not in line
    record = json.loads(line, parse_constant=pytest.fail)
    found, without = record.pop("hands")
    assert record == {
        "frame": 4, "name": "a.png", "stamp_ns": 12_000_000_345, "width": 64, "height": 48,
        "camera": {"model": "pinhole", "K": [60, 0, 31, 0, 61, 23, 0, 0, 1], "D": []}, "estimator": "says",
        "hand_model": "open", "skipped": ["why"], "timings": timings,
    }  # fmt: skip
    wrist = found.pop("wrist")
    assert found == {
        "side": "left", "side_probability": 0.8, "score": 0.9, "track_id": 7, "box": [1, 2, 30.5, 40],
        "keypoints": hand.keypoints.tolist(), "joints": joints.tolist(), "pose": hand.pose.tolist(),
        "betas": hand.betas.tolist(), "translation": hand.translation.tolist(), "reprojection_error": 1.5,
        "expected_error": 0.0125, "valid": flag == "valid", "jump": flag == "jump", "smoothed": flag == "smoothed",
        "grasp": {"class": 3, "probabilities": hand.grasp[1].tolist()}, "vertices": hand.vertices.tolist(),
    }  # fmt: skip
    assert wrist["position"] == joints[0].tolist()
    assert np.allclose(Rotation.from_quat(wrist["orientation"]).as_matrix(), hand.wrist[1])  # x, y, z, w
    assert without["side"] == "right"
    assert without["reprojection_error"] is without["expected_error"] is without["grasp"] is None
    assert without.keys() == found.keys() - {"vertices"} | {"wrist"}
    short = frame_to_json(frame, result, estimator="says", hand_model="open", vertices=False)
    assert "vertices" not in json.loads(short)["hands"][0]


def test_a_bag_can_be_run_again(video: Path, tmp_path: Path) -> None:
    assert run("run", video, "--focal", 700, "--out", tmp_path, "--frames", 4, "--no-video", *LANDMARKS) == 0
    lines = tmp_path / "again.jsonl"
    bag = tmp_path / "hands_hands.mcap"
    assert run("run", bag, "--out", tmp_path / "again", "--json", lines, "--no-video", "--no-bag", *LANDMARKS) == 0
    records = read_lines(lines)
    assert len(records) == 4 and records[0]["camera"]["K"][0] == 700


@pytest.fixture(scope="module")
def odd_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording whose stamps begin before 0, and whose pictures become larger in the middle."""
    path = tmp_path_factory.mktemp("bags") / "odd.mcap"
    with BagWriter(path) as bag:
        types = bag.types
        bag.add_topic("/i", "sensor_msgs/msg/Image")
        for index, side in enumerate([48, 48, 96, 96]):
            stamp = types["builtin_interfaces/msg/Time"](index - 2, 500_000_000)
            header = types["std_msgs/msg/Header"](stamp, "camera")
            data = np.zeros(2 * side * side, np.uint8)
            image = types["sensor_msgs/msg/Image"](header, side, 2 * side, "mono8", 0, 2 * side, data)
            bag.write("/i", image, index)
    return path


def test_stamps_before_zero_and_pictures_that_change_their_size_cost_nothing(odd_bag: Path, tmp_path: Path) -> None:
    lines = tmp_path / "hands.jsonl"
    assert run("run", odd_bag, "--focal", 60, "--out", tmp_path, "--json", lines, *LANDMARKS) == 0
    assert len(read_lines(lines)) == 4
    with open_source(tmp_path / "odd_hands.mcap") as again:
        assert [(f.stamp_ns, f.image.shape) for f in again] == [
            (-1_500_000_000, (48, 96, 3)), (-500_000_000, (48, 96, 3)), (500_000_000, (96, 192, 3)),
            (1_500_000_000, (96, 192, 3)),
        ]  # fmt: skip
    with open_source(tmp_path / "odd_hands.mp4", focal=60) as video:
        assert [f.image.shape for f in video] == [(48, 96, 3)] * 4


def test_a_run_that_fails_at_once_keeps_what_was_there(video: Path, tmp_path: Path, capsys) -> None:
    lines, calibration = tmp_path / "hands.jsonl", tmp_path / "camera.yaml"
    options = ("--out", tmp_path, "--json", lines, "--frames", 2, *LANDMARKS)
    assert run("run", video, "--focal", 700, *options) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.suffix for path in before} == {".jsonl", ".mp4", ".mcap"}
    calibration.write_text(
        "image_width: 100\nimage_height: 900\ncamera_matrix: {data: [650, 0, 50, 0, 660, 450, 0, 0, 1]}\n"
    )
    assert run("run", video, "--camera", calibration, *options) == 1
    assert "another shape" in capsys.readouterr().err
    calibration.unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_picture_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    path = tmp_path / "1.png"
    assert cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "1_hands.jpg").write_bytes(b"an older one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert run("run", path, "--focal", 60, "--out", tmp_path, *LANDMARKS) == 1
    assert "1_hands.jpg: No space left on device" in capsys.readouterr().err
    assert (tmp_path / "1_hands.jpg").read_bytes() == b"an older one" and len(list(tmp_path.iterdir())) == 2


def test_pictures_whose_names_are_not_utf8_are_written(tmp_path: Path) -> None:
    """OpenCV would end the process."""
    assert cv2.imwrite(str(tmp_path / "1.png"), np.zeros((48, 64, 3), np.uint8))
    shutil.copy(tmp_path / "1.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    assert run("run", tmp_path, "--focal", 60, "--out", tmp_path / "out", *LANDMARKS) == 0
    assert set(os.listdir(os.fsencode(tmp_path / "out"))) == {b"1_hands.jpg", b"caf\xe9_hands.jpg"}


def test_a_full_disk_is_named(odd_bag: Path, tmp_path: Path, capsys) -> None:
    options = ("--focal", 60, "--out", tmp_path, "--no-video", "--no-bag", *LANDMARKS)
    assert run("run", odd_bag, "--json", "/dev/full", *options) == 1
    assert "cannot write /dev/full: No space left on device" in capsys.readouterr().err


def test_json_lines_never_take_the_place_of_what_is_read(odd_bag: Path, tmp_path: Path, capsys) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    assert cv2.imwrite(str(pictures / "1.png"), np.zeros((48, 64, 3), np.uint8))
    options = ("--focal", 60, "--out", tmp_path / "out", "--no-video", "--no-bag", *LANDMARKS)
    for source, target in (
        (odd_bag, odd_bag),
        (pictures, pictures / "1.png"),
        (pictures / "1.png", pictures / "1.png"),
    ):
        before = target.read_bytes()
        assert run("run", source, "--json", target, *options) == 1
        assert f"{target}, which would be written, is what is read" in capsys.readouterr().err
        assert target.read_bytes() == before
    (pictures / "link.jsonl").symlink_to(pictures / "1.png")
    assert run("run", pictures, "--json", pictures / "link.jsonl", *options) == 1
    assert (pictures / "1.png").read_bytes() == before
    for name in ("hands.jsonl", "hands.txt"):
        for _ in range(2):  # results beside pictures may be written, and written anew
            assert run("run", pictures, "--json", pictures / name, *options) == 0
        assert len(read_lines(pictures / name)) == 1


def test_json_lines_that_another_program_writes_stay(odd_bag: Path, tmp_path: Path, capsys) -> None:
    lines = tmp_path / "hands.jsonl"
    options = ("--focal", 60, "--out", tmp_path, "--no-video", "--no-bag", *LANDMARKS)
    with lines.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("its own\n")
        other.flush()
        assert run("run", odd_bag, "--json", lines, *options) == 1
        assert f"another program is writing {lines}" in capsys.readouterr().err
    assert lines.read_text() == "its own\n"
    assert run("run", odd_bag, "--json", lines, *options) == 0
    assert "its own" not in lines.read_text()


def test_lines_that_cannot_be_written_cost_no_earlier_results(video: Path, tmp_path: Path) -> None:
    lines, options = tmp_path / "hands.jsonl", ("--focal", 700, "--out", tmp_path, *LANDMARKS)
    assert run("run", video, "--json", lines, "--frames", 4, *options) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    with lines.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert run("run", video, "--json", lines, "--frames", 2, *options) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_closed_standard_output_is_named(odd_bag: Path, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m wildhands_ros.cli run {odd_bag} --focal 60 --json - --no-bag --no-video"
    command += f" {' '.join(LANDMARKS)} >&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and "standard output, which is closed" in done.stderr
    assert not (tmp_path / "-").exists()


def test_that_nobody_reads_the_lines_any_more_is_said_in_a_line(odd_bag: Path, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m wildhands_ros.cli run {odd_bag} --focal 60 --json - --no-bag --no-video"
    command += f" {' '.join(LANDMARKS)} > >(true)"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("wildhands: whoever read the JSON lines")


def test_a_bad_picture_is_named_once(picture: Path, tmp_path: Path, capsys, caplog) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(picture, tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    assert run("run", tmp_path / "in", "--focal", 700, "--out", tmp_path, *LANDMARKS) == 0
    said = caplog.text + capsys.readouterr().err
    assert said.count("bad.png was left out") == 1 and "1 problem(s) of the recording: the warnings above" in said


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for name in ("1.jpg", "1.png", "2.png"):
        assert cv2.imwrite(str(tmp_path / name), np.zeros((48, 64, 3), np.uint8))
    assert run("run", tmp_path, "--focal", 60, "--out", tmp_path / "out", *LANDMARKS) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"1_hands.jpg", "1.png_hands.jpg", "2_hands.jpg"}


def test_boxes_from_a_file_replace_the_detector(picture: Path, tmp_path: Path, capsys, caplog) -> None:
    boxes = tmp_path / "boxes.json"
    entry = {"side": "left", "box": [100, 100, 500, 700], "score": 1.0}
    boxes.write_text(json.dumps({"palm.png": [entry], "other.png": [entry]}))
    lines = tmp_path / "hands.jsonl"
    assert run("run", picture, "--boxes", boxes, "--out", tmp_path, "--json", lines, "--no-video", *LANDMARKS) == 0
    (record,) = read_lines(lines)
    assert record["hands"] == [] and len(record["skipped"]) == 1  # the landmark fit has nothing but a box to go by
    assert "landmarks" in capsys.readouterr().err
    assert "these boxes: other.png" in caplog.text


def test_boxes_that_are_left_out_are_named(picture: Path, tmp_path: Path) -> None:
    boxes, lines = tmp_path / "boxes.json", tmp_path / "hands.jsonl"
    entry = {"side": "left", "box": [100, 100, 500, 700], "score": 0.3}
    boxes.write_text(json.dumps({"palm.png": [entry]}))
    options = [
        "--boxes",
        boxes,
        "--out",
        tmp_path,
        "--json",
        lines,
        "--no-video",
        "--estimator",
        "open",
        "--focal",
        700,
    ]
    assert run("run", picture, *options) == 0
    (record,) = read_lines(lines)
    assert record["hands"] == [] and "min_score 0.5" in record["skipped"][0]
    assert run("run", picture, *options, "--min-score", 0.2) == 0
    (record,) = read_lines(lines)
    assert len(record["hands"]) == 1 and record["skipped"] == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_keeps_what_is_done(
    how: signal.Signals, video: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    done = []

    def third_interrupts(frame, result, **options):
        done.append(frame.index)
        if len(done) == 3:
            _thread.interrupt_main(how)  # as if it came from outside, after the video and the bag, before these lines
        return frame_to_json(frame, result, **options)

    monkeypatch.setattr(run_module, "frame_to_json", third_interrupts)
    lines = tmp_path / "hands.jsonl"
    options = ["--focal", 700, "--out", tmp_path, "--json", lines, *LANDMARKS]
    before = signal.getsignal(signal.SIGTERM)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let jobs in the background ignore it
    try:
        assert run("run", video, *options) == 130
    finally:
        signal.signal(signal.SIGINT, ours)
    assert len(read_lines(lines)) == 3 and "interrupted" in capsys.readouterr().err
    for written in (".mp4", ".mcap"):  # the same frames everywhere
        with open_source(tmp_path / f"hands_hands{written}") as source:
            assert len(list(source)) == 3
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interruption_while_the_first_picture_is_encoded_leaves_no_video(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    begin = VideoWriter._open

    def interrupted(self: VideoWriter, width: int, height: int) -> None:
        self._writer = begin(self, width, height)
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "_open", interrupted)
    assert run("run", video, "--focal", 700, "--out", tmp_path, "--no-bag", *LANDMARKS) == 130
    assert "wrote" not in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"a": [{"side": "up", "box": [0, 0, 1, 1]}]}', "'a', box 0"),
        ('{"a": [{"side": "left", "box": [5, 0, 1, 1]}]}', "x0 < x1"),
        ('{"a": [{"side": "left", "box": "1234"}]}', "no list"),
        ('{"a": [{"side": "left", "box": [0, 0, 9, 9], "score": 97}]}', "probability, 0 to 1, not 97"),
        ('{"a": [{"side": "left", "box": [0, 0, 1' + "0" * 400 + ", 1]}]}", "'a', box 0"),
        ('{"a": [{"side": "left", "box": [0, "0", 9, true]}]}', "no number"),
        ("[" * 100_000, "not JSON"),
        ('{"a": [], "b": [], "a": []}', "boxes.json: 'a' is there twice"),
    ],
    ids=lambda text: text[:48],
)
def test_bad_box_files_are_refused_by_name(picture: Path, tmp_path: Path, capsys, content: str, message: str) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(content)
    assert run("run", picture, "--boxes", boxes, "--out", tmp_path) == 1
    assert message in capsys.readouterr().err


def test_a_key_that_is_there_twice_among_many_is_found(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text("{" + ",".join(f'"{i}": []' for i in range(40_000)) + ', "39999": []}')
    with pytest.raises(ConfigError, match="'39999' is there twice"):
        BoxFile.read(path)


def test_box_files_of_windows_editors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text('{"a.png": [{"side": "left", "box": [0, 0, 9, 9]}]}', encoding="utf-8-sig")
    assert BoxFile.read(path).unused() == ("a.png",)


def test_boxes_of_frames_that_never_came_are_known() -> None:
    box = HandBox(Side.LEFT, (0.0, 0.0, 9.0, 9.0), 1.0)
    boxes = BoxFile({"a.png": (box,), "1": (box,), "b.png": ()})
    frame = Frame(np.zeros((9, 9, 3), np.uint8), Camera.pinhole(9, 9, 9), name="folder/a.png")
    assert boxes.unused() == ("a.png", "1", "b.png")
    assert boxes.of(frame) == (box,) and boxes.unused() == ("1", "b.png")
    assert boxes.of(replace(frame, name="c.png", index=1)) == (box,) and boxes.unused() == ("b.png",)


def test_annotated_pictures_do_not_come_among_those_that_are_read(picture: Path, tmp_path: Path, capsys) -> None:
    for name in ("a.png", "a_hands.jpg"):  # of which the second would be replaced before it is read
        (tmp_path / name).write_bytes(picture.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path)
    options = ["--focal", 700, *LANDMARKS]
    for out in (tmp_path, tmp_path / "link"):
        assert run("run", tmp_path, "--out", out, *options) == 1
        assert "is the folder whose pictures are read" in capsys.readouterr().err
    assert (tmp_path / "a_hands.jpg").read_bytes() == picture.read_bytes()
    assert run("run", tmp_path, "--out", tmp_path, "--no-video", "--json", tmp_path / "hands.jsonl", *options) == 0
    assert run("run", tmp_path, "--out", tmp_path / "out", *options) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_hands.jpg", "a_hands_hands.jpg"]


def test_boxes_are_found_by_paths_and_however_umlauts_are_written() -> None:
    def box(x: float) -> tuple[HandBox, ...]:
        return (HandBox(Side.LEFT, (x, 0.0, x + 9, 9.0), 1.0),)

    keys = ["pictures/b.png", "C:\\pictures\\c.png", "u\u0308ber.png", "1/same.png", "2/same.png", "x/5"]
    boxes = BoxFile({key: box(i) for i, key in enumerate(keys)})
    frame = Frame(np.zeros((9, 9, 3), np.uint8), Camera.pinhole(9, 9, 9), index=5)
    names = ["b.png", "c.png", "\u00fcber.png", "same.png", "d.png"]
    assert [boxes.of(replace(frame, name=name)) for name in names] == [box(0), box(1), box(2), (), ()]
    assert boxes.unused() == ("1/same.png", "2/same.png", "x/5")  # neither of two, and no number


def test_boxes_of_no_frame_are_named_beside_what_frames_are_called(picture: Path, tmp_path: Path, caplog) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text('{"picture_0001": [], "picture_0002": []}')
    assert run("run", picture, "--boxes", boxes, "--out", tmp_path, "--focal", 700, *LANDMARKS) == 0
    said = f"of these boxes: picture_0001, picture_0002 (the last frame was '{picture.name}', number 0)"
    assert said in caplog.text


def test_bench_says_before_it_measures_where_it_cannot_write(tmp_path: Path, capsys) -> None:
    assert run("bench", "--json", tmp_path / "missing" / "figures.json") == 1
    assert "figures.json cannot be written" in capsys.readouterr().err


def test_bench_writes_all_its_figures_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    score = SequenceScore(**dict.fromkeys((field.name for field in fields(SequenceScore)), math.nan))
    monkeypatch.setattr(bench_module, "_accuracy", lambda *_: (score, []))
    for timings in ("_look_timings", "_empty_timings"):
        monkeypatch.setattr(bench_module, timings, lambda _: [Timing("nothing", 1.5, 2.5, 3)])
    monkeypatch.setattr(bench_module, "_over_topics", lambda *_: {"results": 3, "latency, p95 (ms)": math.nan})
    path = tmp_path / "figures.json"
    assert run("bench", "--topics", "--json", path) == 0
    figures = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert figures["over_topics"] == {"results": 3, "latency, p95 (ms)": None}
    assert figures["scores"]["open, wide"]["mpjpe_mm"] is None and figures["timings"][0]["median_ms"] == 1.5
    assert re.search(r"\| results +\| +3 \|", capsys.readouterr().out)


def test_bench_tells_the_node_all_that_it_is_to_run() -> None:
    estimation = EstimationConfig("wildhands", Path("mano"), checkpoint=Path("a.ckpt"), precision="int8", refine=False)
    config = PipelineConfig(models_dir=Path("models"), min_score=0.2, estimation=estimation)
    assert node_parameters(config) == {
        "models_dir": "models", "min_score": 0.2, "estimation.estimator": "wildhands", "estimation.mano_dir": "mano",
        "estimation.checkpoint": "a.ckpt", "estimation.precision": "int8", "estimation.refine": False,
    }  # fmt: skip


def test_what_cannot_be_read_ends_with_one_line_and_exit_code_1(tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    for arguments in (
        ["run", tmp_path / "missing.mp4"],
        ["run", broken, "--out", tmp_path],
        ["run", broken, "--focal", "-3"],
        ["run", broken, "--models-dir", tmp_path / "nothing"],
        ["run", broken, "--mano-dir", tmp_path / "nothing"],
        ["run", broken, "--config", tmp_path / "missing.yaml"],
        ["models", "fetch", "--models-dir", tmp_path / "m", "--source", broken],
    ):
        assert run(*arguments) == 1, arguments
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("wildhands: ") and "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [("ablate", "no.yaml", "out", "--table"), ("eval", "no.tar", "--json"), ("eval", "no.tar", "--ambiguity")],
    ids=["ablate", "eval", "ambiguity"],
)
def test_what_cannot_be_written_is_said_before_the_work(arguments: tuple[str, ...], capsys) -> None:
    assert run(*arguments, "/proc/result.png") == 1
    assert "wildhands: /proc/result.png cannot be written" in capsys.readouterr().err


def test_that_matplotlib_is_missing_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for option in (("--plots", tmp_path), ("--ambiguity", tmp_path / "a.png")):
        assert run("eval", tmp_path / "no.tar", *option) == 1
        assert "pip install matplotlib" in capsys.readouterr().err


def test_trying_to_write_leaves_everything_as_it_was(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("content")
    link.symlink_to(tmp_path / "nothing")
    make_room(file, link, tmp_path / "new", tmp_path / "folder" / "new", Path("/dev/full"), None)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "folder"}
    assert file.read_text() == "content" and link.is_symlink() and list((tmp_path / "folder").iterdir()) == []


def test_whole_files_may_be_written_by_several_threads_at_once(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(25):
            list(pool.map(lambda content: write_whole(tmp_path / "file", content), contents))
    assert (tmp_path / "file").read_bytes() in contents and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_whole_files_that_cannot_be_written_are_named_and_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "file", b"content")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device: '.*/file'"):
        write_whole(tmp_path / "file", b"other")
    assert (tmp_path / "file").read_bytes() == b"content" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_whole_files_follow_links_and_leave_pipes_in_their_places(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(file)
    write_whole(link, b"content")
    assert link.is_symlink() and file.read_bytes() == b"content"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, b"content")
    assert os.read(reader, 99) == b"content" and pipe.is_fifo()
    os.close(reader)


def test_a_file_that_standard_output_was_sent_into_keeps_all_that_is_written_to_it(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom wildhands_ros.whole_files import write_whole\n"
        "print('before')\nwrite_whole(Path('/dev/stdout'), b'content\\n')\nprint('after')"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\ncontent\nafter\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("eval", "x.tar", "--ambiguity", "a.png", "--json", "a.json", "--baseline"), "come of --json, --baseline:"),
        (("eval", "x.tar", "--ambiguity", "a.png", "--table", "a.md"), "come of --table:"),
        (("eval", "x.tar", *LANDMARKS, "--checkpoint", "x.ckpt"), "leave out --checkpoint"),
        (("run", "{picture}", *LANDMARKS, "--checkpoint", "x.ckpt"), "leave out --checkpoint"),
        (("run", "{picture}", *LANDMARKS, "--no-video"), "nothing would be written: name a file with --json"),
        (("run", "{video}", *LANDMARKS, "--no-video", "--no-bag"), "leave out --no-video and --no-bag"),
        (("eval", "x.tar", *LANDMARKS, "--known-length", "--hand-length", 0.19), "leave out --hand-length, or it"),
        (("ablate", "no.yaml", "out", "--auxiliary", "--variants", "ours"), "leave out --variants"),
        (("eval",), "name shards, or --epic-hand-kps and --frames"),
        (("eval", "x.tar", "--frames", ".", "--min-visible", 4), "--frames, --min-visible: of no use without"),
        (("eval", "x.tar", "--epic-hand-kps", "x.pkl", "--frames", "."), "leave out x.tar, or --epic-hand-kps"),
        (("eval", "--epic-hand-kps", "x.pkl"), "with --frames"),
        (("eval", *EPIC, "--min-visible", 22), "between 1 and 21, not 22"),
        (("eval", *EPIC, "--known-length"), "--known-length needs 3D labels"),
        (("eval", *EPIC, "--ambiguity", "a.png"), "--ambiguity needs 3D labels"),
    ],
    ids=[
        "ambiguity", "ambiguity's table", "eval weights", "run weights", "picture", "video", "lengths", "variants",
        "nothing", "shards' own", "two sources", "no pictures", "joints", "epic lengths", "epic ambiguity",
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_refused(
    arguments: tuple[object, ...], message: str, picture: Path, video: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with ShardWriter(tmp_path / "x.tar"):
        pass
    assert run(*(str(argument).format(picture=picture, video=video) for argument in arguments)) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_hands_of_a_known_length_are_as_far_away_as_it_says(picture: Path, tmp_path: Path, capsys) -> None:
    found = {}
    for length in (0.16, 0.2):
        lines = tmp_path / f"{length}.jsonl"
        options = ("--out", tmp_path, "--json", lines, "--no-video", "--hand-length", length)
        assert run("run", picture, *options) == 0
        found[length] = read_lines(lines)[0]["hands"]
    assert found[0.16]
    for near, far in zip(found[0.16], found[0.2], strict=True):
        np.testing.assert_allclose(far["joints"][0], 1.25 * np.array(near["joints"][0]), rtol=1e-3)
        assert hand_length(np.array(near["joints"])) == pytest.approx(0.16, rel=0.01)
    assert run("run", picture, "--out", tmp_path, "--hand-length", 19) == 1
    assert "given in centimetres? in metres 0.19" in capsys.readouterr().err


def test_a_picture_of_a_camera_on_its_side_has_the_same_hands(picture: Path, tmp_path: Path) -> None:
    """Its results are in the coordinates of the picture as it came."""
    upright, sideways = cv2.imread(str(picture)), tmp_path / "sideways.png"
    assert cv2.imwrite(str(sideways), cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE))
    lines = {}
    for path, options in ((picture, ()), (sideways, ("--upright-rotation", 90))):
        json_file = tmp_path / f"{path.stem}.jsonl"
        assert run("run", path, "--focal", 700, "--out", tmp_path, "--json", json_file, *LANDMARKS, *options) == 0
        (lines[path],) = read_lines(json_file)
    (hand,), (turned,) = lines[picture]["hands"], lines[sideways]["hands"]
    assert turned["side"] == hand["side"]
    (x, y, z), (x_turned, y_turned, z_turned) = hand["joints"][8], turned["joints"][8]
    assert (x_turned, y_turned, z_turned) == pytest.approx((y, -x, z), abs=1e-6)
    x0, y0, x1, y1 = hand["box"]
    right = upright.shape[1] - 1
    assert turned["box"] == pytest.approx([y0, right - x1, y1, right - x0], abs=0.01)
    u, v = hand["keypoints"][8]
    assert turned["keypoints"][8] == pytest.approx([v, right - u], abs=0.01)


def test_options_that_do_nothing_are_named(tmp_path: Path, caplog) -> None:
    path = tmp_path / "1.png"
    assert cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    options = ("--looks", 2, "--precision", "auto", "--no-refine", "--box-factor", 2, "--all-hands")
    assert run("run", path, "--focal", 60, "--out", tmp_path, *LANDMARKS, *options) == 0
    message = "no effect with the estimator 'landmarks': --box-factor, --all-hands, --looks, --precision, --no-refine"
    assert [record.getMessage() for record in caplog.records] == [message]


def test_a_seed_that_is_named_twice_is_used_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    config = TrainingConfig(sources=(SourceConfig(),))
    monkeypatch.setattr("wildhands_ros.training.config.read_training_config", lambda path: config)
    monkeypatch.setattr("wildhands_ros.training.ablation.run_ablation", lambda *given: asked.append(given[-1]) or [])
    assert run("ablate", "some.yaml", tmp_path, "--seeds", 2, 1, 2, 3) == 0
    assert asked == [[2, 1, 3]]


def test_a_configuration_file_is_used_and_checked(picture: Path, tmp_path: Path, capsys) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("min_score: 0.999999\n")
    lines = tmp_path / "hands.jsonl"
    assert run("run", picture, "--config", config, "--out", tmp_path, "--json", lines, "--no-video") == 0
    assert read_lines(lines)[0]["hands"] == []
    config.write_text("traking: {smooth: true}\n")
    assert run("run", picture, "--config", config, "--out", tmp_path) == 1
    assert "did you mean 'tracking'" in capsys.readouterr().err
    config.write_text("min_score: 2024-02-31\n")  # which YAML takes for a date
    assert run("run", picture, "--config", config, "--out", tmp_path) == 1
    assert "config.yaml is not YAML" in capsys.readouterr().err


def test_models_are_fetched_from_a_local_folder_and_wrong_ones_refused(tmp_path: Path, capsys) -> None:
    from wildhands_ros.detection import default_models_dir

    target = tmp_path / "models"
    assert run("models", "fetch", "--models-dir", target, "--source", default_models_dir()) == 0
    assert sorted(p.name for p in target.iterdir()) == sorted(p.name for p in default_models_dir().iterdir())
    (tmp_path / "file").write_text("")
    assert run("models", "fetch", "--models-dir", tmp_path / "file", "--source", default_models_dir()) == 1
    assert "--models-dir DIR" in capsys.readouterr().err
    first = next(target.iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    assert run("doctor", "--models-dir", target, "--no-topics") == 1
    assert first.name in capsys.readouterr().out


@pytest.mark.parametrize(
    "error",
    ["ModuleNotFoundError(\"No module named 'torch'\", name='torch')", "OSError('libtorch.so: cannot open it')"],
    ids=["missing", "broken"],
)
def test_without_torch_doctor_checks_the_rest_and_run_says_what_it_needs(
    error: str, picture: Path, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(f"raise {error}\n")
    script = """if True:
        import sys
        from wildhands_ros.cli import main
        codes = [main(["doctor", "--no-topics", "--json"])]
        for options in [], ["--checkpoint", "some.ckpt"]:
            codes.append(main(["run", sys.argv[1], "--out", sys.argv[2], *options]))
        sys.exit(codes != [1, 1, 1])"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(picture), str(tmp_path)], cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)
    failed = [finding["text"] for finding in findings if finding["level"] == "fail"]
    assert len(failed) == 2 and failed[0].startswith("torch: ") and failed[1].startswith("cannot be tried: ")
    assert findings[-1]["area"] == "ROS 2"
    said = [line for line in done.stderr.splitlines() if line.startswith("wildhands: ")]
    assert len(said) == 2 and all("needs torch" in line and "pip install torch" in line for line in said)


def test_doctor_has_a_verdict_where_the_middleware_hangs(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(subprocess, "run", hang)
    assert run("doctor") == 1
    assert "did not end within 60 s" in capsys.readouterr().out


@pytest.mark.parametrize(("from_pypi", "level"), [("9.1.2", "fail"), (None, "ok")])
def test_doctor_takes_the_python_of_a_distribution(
    from_pypi: str | None, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 14, 0))
        patch.setattr(libraries, "version_of", lambda package: from_pypi if package == "ros-rclpy" else "1")
        (finding,) = doctor_module._python()
    assert finding.level == level


def test_doctor_prints_the_line_that_lets_images_through(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    lost = SimpleNamespace(returncode=0, stdout="[30, 3, null]\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: lost)
    assert run("doctor") == 1
    (name, _, path), *_ = [
        line.strip().removeprefix("export ").partition("=")
        for line in capsys.readouterr().out.splitlines() if line.strip().startswith("export FAST")
    ]  # fmt: skip
    assert name.endswith("_DEFAULT_PROFILES_FILE") and Path(path).is_file()


def test_doctor_does_not_advise_what_it_has_just_tried_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = SimpleNamespace(returncode=0, stdout="[30, 10, 5.0]\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: lost)
    as_it_is, with_profile = doctor_module._topics()
    assert as_it_is.level == "warn" and "_DEFAULT_PROFILES_FILE" in as_it_is.remedy
    assert with_profile.level == "fail" and "10 of 30" in with_profile.text
    assert "_DEFAULT_PROFILES_FILE" not in with_profile.remedy and "compressed" in with_profile.remedy


def test_a_parameter_file_of_the_node_is_told_from_settings(capsys) -> None:
    assert run("run", "picture.jpg", "--config", Path(__file__).parents[1] / "config" / "wildhands.yaml") == 1
    assert "is a ROS parameter file" in capsys.readouterr().err


def test_doctor_says_where_networks_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = doctor_module._cache(tmp_path / "file" / "networks")
    assert refused.level == "warn" and "XDG_CACHE_HOME" in refused.remedy
    assert doctor_module._cache(tmp_path / "new" / "networks").level == "ok" and not (tmp_path / "new").exists()
    assert doctor_module._cache(Path("~/.cache/wildhands_ros/networks")).level == "warn"  # as it is without a home


def test_doctor_reports_as_json(capsys) -> None:
    assert run("doctor", "--json", "--no-topics") == 0
    findings = json.loads(capsys.readouterr().out)
    assert {f["area"] for f in findings} >= {"System", "Libraries", "Detector", "Hand model", "ROS 2"}
    assert all(f["level"] != "fail" for f in findings)


def test_doctor_says_what_optional_libraries_are_for_and_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(module: str) -> doctor_module.Finding:
        (finding,) = (f for f in doctor_module._libraries() if re.match(rf"{module}\b", f.text))
        return finding

    for module, extra, use in doctor_module._OPTIONAL:
        there = found(module)
        assert there.level == "ok" and there.text.endswith(f", for {use} (extra '{extra}')") and not there.remedy
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            missing = found(module)
        assert missing.level == "note" and missing.text.endswith(f"; only needed for {use} (extra '{extra}')")
        assert missing.remedy == libraries.how_to_get(module)


def test_bad_arguments_end_with_exit_code_2() -> None:
    with pytest.raises(SystemExit) as stop:
        run("run")
    assert stop.value.code == 2
