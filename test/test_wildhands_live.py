"""The network where users meet it: on the command line, and live over topics; with made-up weights and hand files."""

from __future__ import annotations

import json
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from wildhands_ros.camera import Camera
from wildhands_ros.cli import main
from wildhands_ros.estimation.wildhands import (
    Backend,
    CheckpointInfo,
    Precision,
    RuntimeConfig,
    Trunk,
    Variant,
    WildHands,
    WildHandsConfig,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands import export as export_module
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import HandBox, Side
from wildhands_ros.recordings.hands_reader import read_hands
from wildhands_ros.synthetic import SequenceConfig, SyntheticSequence

SMALL = Variant(trunk=Trunk.RESNET18, fusion=(32, 24, 16), features=64, hidden=32)
BOXES = {
    "picture.png": [
        {"side": "right", "box": [700, 330, 930, 560], "score": 1.0},
        {"side": "left", "box": [330, 350, 560, 550]},
    ]
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "made_up.safetensors"
    save_checkpoint(path, made_up_network(SMALL, 3), CheckpointInfo(SMALL, "none", "made up", "Apache-2.0"))
    return path


@pytest.fixture(scope="module")
def mano_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in MANO's format: the open hand with a made-up mean pose and pose blend shapes."""
    folder = tmp_path_factory.mktemp("mano")
    rng = np.random.default_rng(0)
    mean, posedirs = 0.2 * rng.normal(size=45), 0.001 * rng.normal(size=(778, 3, 135))
    for side in Side:
        data = load_hand_model().layer(side).data
        arrays = {
            "v_template": data.template, "f": data.faces.astype(np.uint32), "shapedirs": data.shapedirs,
            "posedirs": posedirs, "J_regressor": data.joint_regressor, "weights": data.weights,
            "kintree_table": np.array([[2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], range(16)]),
            "hands_components": np.eye(45), "hands_mean": mean,
        }  # fmt: skip
        (folder / f"MANO_{side.name}.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    frame, _ = SyntheticSequence(SequenceConfig(seed=1))[30]
    assert cv2.imwrite(str(path), frame.image[..., ::-1])
    return path


def run(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def test_boxes_from_a_file_give_what_the_estimator_gives(
    picture: Path, checkpoint: Path, mano_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(BOXES))
    assert 0 == run(
        "run", picture, "--estimator", "wildhands", "--checkpoint", checkpoint, "--mano-dir", mano_dir,
        "--boxes", tmp_path / "boxes.json", "--box-factor", 1.5, "--focal", 700, "--json", tmp_path / "hands.jsonl",
        "--out", tmp_path, "--models-dir", tmp_path / "no detector is needed", "--vertices",
    )  # fmt: skip
    (record,) = (json.loads(line) for line in (tmp_path / "hands.jsonl").read_text().splitlines())
    assert (record["estimator"], record["hand_model"]) == ("wildhands", "mano")

    runtime = RuntimeConfig(device="cpu", backend=Backend.TORCH, precision=Precision.FLOAT32)
    estimator = WildHands.load(WildHandsConfig(checkpoint, box_factor=1.5, runtime=runtime), load_hand_model(mano_dir))
    image = cv2.imread(str(picture))[..., ::-1].copy()
    boxes = [HandBox(Side(b["side"]), tuple(b["box"]), 1.0) for b in BOXES["picture.png"]]
    expected = estimator.estimate(Frame(image, Camera.pinhole(1280, 720, 700)), boxes).hands
    assert len(expected) == len(record["hands"]) == 2
    for hand, values in zip(expected, record["hands"], strict=True):
        assert values["side"] == hand.side.value
        for name in ("joints", "pose", "betas", "translation", "vertices"):
            assert np.allclose(values[name], getattr(hand, name), atol=1e-4), name


def test_more_than_two_hands_on_request(picture: Path, checkpoint: Path, mano_dir: Path, tmp_path: Path) -> None:
    boxes = [*BOXES["picture.png"], {**BOXES["picture.png"][0], "score": 0.5}]
    (tmp_path / "boxes.json").write_text(json.dumps({"picture.png": boxes}))
    for options, count in (((), 2), (("--all-hands",), 3)):
        assert 0 == run(
            "run", picture, "--checkpoint", checkpoint, "--mano-dir", mano_dir, "--boxes", tmp_path / "boxes.json",
            "--focal", 700, "--json", tmp_path / "hands.jsonl", "--out", tmp_path, *options,
        )  # fmt: skip
        (record,) = (json.loads(line) for line in (tmp_path / "hands.jsonl").read_text().splitlines())
        assert len(record["hands"]) == count


def test_live_over_topics(checkpoint: Path, mano_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for frame, _ in SyntheticSequence(SequenceConfig(seconds=0.3, seed=3)):
        cv2.imwrite(str(folder / f"{frame.index}.png"), frame.image[..., ::-1])
    command = [sys.executable, "-m", "wildhands_ros.cli", "demo", "--out", str(tmp_path), "--input", str(folder)]
    command += ["--focal", "500", "--estimators", "wildhands", "--checkpoint", str(checkpoint)]
    result = subprocess.run(
        [*command, "--mano-dir", str(mano_dir)], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    hands = [hand for recorded in read_hands(tmp_path / "frames.mcap") for hand in recorded.hands]
    assert len(hands) >= 6  # of 18: the first frames pass before both hands are followed
    assert {(hand.estimator, hand.hand_model) for hand in hands} == {("wildhands", "mano")}
    assert all(np.isfinite(hand.joints).all() and hand.vertices is not None for hand in hands)


def test_without_weights_it_says_which_and_where_to_get_them(picture: Path, tmp_path: Path, capsys) -> None:
    for arguments in (["--estimator", "wildhands"], ["--checkpoint", tmp_path / "absent.ckpt"]):
        assert run("run", picture, "--out", tmp_path, *arguments) == 1
        error = capsys.readouterr().err
        assert "project page" in error and "mano.is.tue.mpg.de" in error and "--checkpoint" in error
    assert run("doctor", "--no-topics") == 0
    assert "mano.is.tue.mpg.de" in capsys.readouterr().out
    assert run("doctor", "--no-topics", "--checkpoint", tmp_path / "absent.ckpt") == 1


def test_export_writes_onnx_that_runs(checkpoint: Path, tmp_path: Path, capsys) -> None:
    assert run("export", checkpoint, tmp_path / "network.onnx") == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
    inputs = {
        "frame": np.zeros((1, 3, 224, 224), np.float32), "crops": np.zeros((3, 3, 224, 224), np.float32),
        "encoding": np.zeros((3, 80), np.float32), "right": np.array([True, False, True]),
    }  # fmt: skip
    pose, betas, *_ = session.run(["pose", "betas"], inputs)
    assert pose.shape == (3, 16, 3, 3) and betas.shape == (3, 10)
    assert run("export", tmp_path / "absent", tmp_path / "x.onnx") == 1


def test_an_export_that_is_ended_leaves_nothing(checkpoint: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def ended(module: object, path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"the beginning")
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(export_module, "_export", ended)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # which would end the tests
    try:
        assert run("export", checkpoint, tmp_path / "network.onnx") == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert list(tmp_path.iterdir()) == [] and "interrupted" in capsys.readouterr().err


def test_export_never_writes_over_its_checkpoint(checkpoint: Path, tmp_path: Path, capsys) -> None:
    mine = tmp_path / "mine.ckpt"
    shutil.copy(checkpoint, mine)
    (tmp_path / "link.onnx").symlink_to(mine)
    for written in (mine, tmp_path / "link.onnx"):
        assert run("export", mine, written) == 1
        assert "is what is read" in capsys.readouterr().err
    assert mine.read_bytes() == checkpoint.read_bytes()


def test_where_export_cannot_write_is_said_before_the_work(tmp_path: Path, capsys) -> None:
    for place in (tmp_path, tmp_path / "absent" / "network.onnx"):
        assert run("export", tmp_path / "none.ckpt", place) == 1
        assert f"{place} " in capsys.readouterr().err
