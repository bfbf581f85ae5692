"""The recipes of docs/python.md, as they are printed there, against what is known by other ways."""

from __future__ import annotations

import csv
import importlib
import json
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_hand_model_loading import write_pair

from wildhands_ros.camera import Camera
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandModel, load_hand_model
from wildhands_ros.hands import KEYPOINT_NAMES, MANO_TO_KEYPOINTS, Hand, Side
from wildhands_ros.json_lines import frame_to_json
from wildhands_ros.pipeline import PipelineResult
from wildhands_ros.recordings import BagWriter, VideoWriter
from wildhands_ros.rigid import RigidTransform, moved_hand
from wildhands_ros.rotations import angle_between, exp_so3, quaternion_from_matrix
from wildhands_ros.synthetic.demo_scenes import Held, Slideshow

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(), re.M | re.S)
START_NS = 1_700_000_000_123_456_789


def block(part: str) -> str:
    """The one block of code with this in it."""
    (found,) = (code for code in BLOCKS if part in code)
    return found


def run(*codes: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "recipe"}
    for code in codes:
        exec(compile(code, "docs/python.md", "exec"), names)
    return names


def make_hand(model: HandModel, side: Side, seed: int = 0, score: float = 0.9, valid: bool = True) -> Hand:
    rng = np.random.default_rng(seed)
    pose = exp_so3(0.4 * rng.normal(size=(16, 3)))
    betas, translation = rng.normal(size=10), np.array([0.1, -0.05, 0.4])
    vertices, joints = model.layer(side).numpy(pose, betas, translation)
    keypoints, box = np.zeros((21, 2)), (0.0, 0.0, 9.0, 9.0)
    return Hand(
        side, score, box, joints, keypoints, pose, betas, translation, "made up", model.name, vertices, valid=valid
    )


# --- names ------------------------------------------------------------------------------------------------------------


def test_what_is_to_be_imported_is_there() -> None:
    table = (ROOT / "docs" / "python.md").read_text().split("| | import |")[1].split("\n\n")[0]
    found = 0
    for line in table.splitlines():
        for names, module in re.findall(
            r"((?:`\w+`,? ?|…,? |of |the base of all errors of this package, )+)from `([\w.]+)`", line
        ):
            there = importlib.import_module(module)
            for name in re.findall(r"`(\w+)`", names):
                assert getattr(there, name).__doc__ and name in getattr(there, "__all__", [name]), name
                found += 1
    assert found >= 25


def test_frames_hands_and_results_can_be_sent_to_other_processes() -> None:
    hand = make_hand(load_hand_model(), Side.LEFT)
    frame = Frame(np.zeros((48, 64, 3), np.uint8), Camera.pinhole(64, 48, 50), stamp_ns=START_NS)
    result = PipelineResult(START_NS, (hand,), (hand,), (), (), {"total": 0.1})
    same_frame, same = pickle.loads(pickle.dumps((frame, result)))
    assert same_frame.camera == frame.camera and same_frame.stamp_ns == same.stamp_ns == START_NS
    assert np.array_equal(same.hands[0].joints, hand.joints) and np.array_equal(same.hands[0].wrist[1], hand.wrist[1])


# --- loops ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["open_source", "VideoCapture"])
def test_loops(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    frames = list(Held(Slideshow()))[12:16]
    with VideoWriter("clip.mp4", 30.0) as writer:
        for frame in frames:
            writer.write(frame.image)
    (code,) = (code for code in BLOCKS if part in code and "Pipeline.from_config" in code)
    run(code)
    said = [line.split()[:3] for line in capsys.readouterr().out.splitlines() if line[0].isdigit()]
    assert said == [[str(i), "0", "left"] for i in range(4)]
    if part == "VideoCapture":
        drawn, original = cv2.imread("hands_3.jpg")[..., ::-1].astype(int), frames[3].image.astype(int)
        assert drawn.shape == original.shape
        skin = np.flatnonzero(original[-5, :, 0] - original[-5, :, 2] > 20)  # of the forearm, on which nothing is drawn
        assert len(skin) > 100 and np.median(np.abs(drawn - original)[-5, skin]) < 10


# --- other packages ---------------------------------------------------------------------------------------------------


def test_the_order_of_smplx() -> None:
    names = pytest.importorskip("smplx.joint_names").JOINT_NAMES
    first = names.index("right_index1")
    fingers = ["wrist"] + [name.removeprefix("right_") for name in names[first : first + 15]]
    places = {"mcp": "1", "cmc": "1", "pip": "2", "dip": "3"}
    ours = []
    for name in np.array(KEYPOINT_NAMES)[np.argsort(MANO_TO_KEYPOINTS)]:
        finger, _, part = str(name).partition("_")
        if finger == "thumb":
            part = {"cmc": "1", "mcp": "2", "ip": "3"}.get(part, part)
        ours.append(finger + places.get(part, part))
    assert ours == [*fingers, *(f"{finger}tip" for finger in ("thumb", "index", "middle", "ring", "pinky"))]


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("kind", ["mano", "open"])
def test_parameters_in_smplx(side: Side, kind: str, tmp_path: Path) -> None:
    smplx, torch = pytest.importorskip("smplx"), pytest.importorskip("torch")
    code, extra = block("def in_smplx"), {}
    if kind == "mano":
        write_pair(tmp_path)
    else:
        for s in Side:
            data = (ROOT / f"wildhands_ros/hand_model/data/open_hand_{s.value}.npz").read_bytes()
            (tmp_path / f"MANO_{s.name}.npz").write_bytes(data)
        extra = {"ext": "npz"}
        code = code.replace("flat_hand_mean=False)", 'flat_hand_mean=False, ext="npz")')
    model = load_hand_model(tmp_path)
    hand = make_hand(model, side)
    assert hand.vertices is not None
    np.testing.assert_allclose(run(code)["in_smplx"](hand, tmp_path), hand.vertices, atol=1e-6)

    layer = smplx.MANOLayer(tmp_path, is_rhand=side is Side.RIGHT, **extra)

    def by_layer(pose: np.ndarray) -> np.ndarray:
        tensors = (torch.tensor(array[None], dtype=torch.float32) for array in (pose, hand.betas, hand.translation))
        pose, betas, transl = tensors
        output = layer(global_orient=pose[:, :1], hand_pose=pose[:, 1:], betas=betas, transl=transl)
        return np.asarray(output.vertices[0])

    np.testing.assert_allclose(by_layer(model.layer(side).rotations_from_pose(hand.pose)), hand.vertices, atol=1e-6)
    if kind == "mano":  # whose mean pose is not zero, also of the real one
        assert np.abs(by_layer(hand.pose) - hand.vertices).max() > 1e-3


@pytest.mark.parametrize("side", Side)
def test_meshes(side: Side, tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh")
    model = load_hand_model()
    hand, faces = make_hand(model, side), model.layer(side).faces
    run("from pathlib import Path", block("def write_obj"))["write_obj"](tmp_path / "hand.obj", hand.vertices, faces)
    trimesh.Trimesh(hand.vertices, faces, process=False).export(tmp_path / "hand.ply")
    turned = np.diag([1, -1, -1])
    for name, turn in (("hand.obj", turned), ("hand.ply", np.eye(3))):
        mesh = trimesh.load(tmp_path / name, process=False)
        np.testing.assert_allclose(mesh.vertices, hand.vertices @ turn, atol=1e-6)
        assert np.array_equal(mesh.faces, faces)
        outward = np.einsum("ij,ij->i", mesh.face_normals, mesh.triangles_center - mesh.vertices.mean(axis=0))
        assert outward @ mesh.area_faces > 0  # six times the volume, and no mirrored hand


# --- tables -----------------------------------------------------------------------------------------------------------


def camera_at(seconds: float) -> RigidTransform:
    """A head that turns and moves at constant speed, so that interpolation is exact."""
    turn = exp_so3(np.array([0.3, -0.8, 0.2]) * seconds)
    return RigidTransform(turn, np.array([0.5, -0.2, 1.5]) + np.array([0.1, 0.3, -0.2]) * seconds)


def hand_at(model: HandModel, seconds: float) -> Hand:
    """In the world; straight at constant speed, too."""
    moved = RigidTransform(exp_so3(np.array([0.0, 0.9, 0.5]) * seconds), np.array([0.2, 0.1, 0.7]) * seconds)
    return moved_hand(make_hand(model, Side.RIGHT), moved)


LOST = {7, 20, 21, 40, 41, 42, 43, 44, 45, 46, 47}  # two short gaps and a long one


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with hands.jsonl, and with head.mcap that says where the camera was."""
    folder, model = tmp_path_factory.mktemp("recorded"), load_hand_model()
    blank, camera = np.zeros((48, 64, 3), np.uint8), Camera.pinhole(64, 48, 50)
    lines = []
    for i in range(90):
        stamp_ns = START_NS + round(i * 1e9 / 30)
        hand = moved_hand(hand_at(model, i / 30), camera_at(i / 30).inverse())
        hand = replace(hand, expected_error=math.nan if i % 2 else 0.015)
        wrong = make_hand(model, Side.RIGHT, seed=1, score=0.99, valid=False)  # a clear hand that contradicts itself
        hands = (wrong,) if i == 7 else () if i in LOST else (wrong, hand, make_hand(model, Side.RIGHT, 2, score=0.6))
        frame = Frame(blank, camera, stamp_ns, index=i, name="clip.mp4")
        result = PipelineResult(stamp_ns, hands, hands, (), (), {})
        lines.append(frame_to_json(frame, result, estimator="made up", hand_model="open", vertices=False))
    (folder / "hands.jsonl").write_text("\n".join(lines) + "\n")
    with BagWriter(folder / "head.mcap") as bag:
        bag.add_topic("/tf", "tf2_msgs/msg/TFMessage")
        for i in range(-1, 100):
            bag.write("/tf", _transform(bag.types, i / 20), START_NS + i * 50_000_000)
    return folder


def _transform(types: Any, seconds: float) -> Any:
    stamp_ns, pose = START_NS + round(seconds * 1e9), camera_at(seconds)
    (x, y, z), (qx, qy, qz, qw) = pose.translation, quaternion_from_matrix(pose.rotation)
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    transform = types["geometry_msgs/msg/Transform"](
        translation=types["geometry_msgs/msg/Vector3"](x=x, y=y, z=z),
        rotation=types["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw),
    )
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="world")
    stamped = types["geometry_msgs/msg/TransformStamped"](
        header=header, child_frame_id="head_camera", transform=transform
    )
    return types["tf2_msgs/msg/TFMessage"](transforms=[stamped])


@pytest.mark.parametrize("rate", [30.0, 50.0])
def test_trajectories_in_the_world(rate: float, recorded: Path) -> None:
    recipe, model = run(block("def resampled")), load_hand_model()
    at = recipe["camera_poses"](recorded / "head.mcap", "world", "head_camera")
    table = recipe["rows"](recorded / "hands.jsonl", "right", at)
    assert table["frame"].tolist() == list(range(90)) and table["stamp_ns"].dtype == np.int64
    assert set(np.flatnonzero(~table["valid"])) == LOST and set(np.flatnonzero(~table["seen"])) == LOST - {7}
    places = np.array([hand_at(model, i / 30).wrist[0] for i in range(90)])
    good = table["valid"]
    np.testing.assert_array_equal(table["expected_error"][good], np.where(table["frame"] % 2, np.nan, 0.015)[good])
    np.testing.assert_allclose(table["position"][good], places[good], atol=1e-6)

    even = recipe["resampled"](table, rate=rate)
    seconds = (even["stamp_ns"] - START_NS) * 1e-9
    assert np.allclose(np.diff(seconds), 1 / rate, atol=2e-9) and seconds[-1] == pytest.approx(89 / 30, abs=1 / rate)
    in_gap = (seconds > 39 / 30 + 1e-6) & (seconds < 48 / 30 - 1e-6)
    assert np.array_equal(even["valid"], ~in_gap) and in_gap.sum() >= 8
    assert np.abs(even["frame"] / 30 - seconds).max() <= 0.5 / 30 + 1e-6  # each row's picture
    true = [hand_at(model, t) for t in seconds]
    known = even["valid"]
    np.testing.assert_allclose(even["position"][known], np.array([h.joints[0] for h in true])[known], atol=1e-3)
    turns = angle_between(even["rotation"][known], np.array([h.wrist[1] for h in true])[known])
    assert np.degrees(turns).max() < 0.3
    opening = np.linalg.norm(true[0].joints[4] - true[0].joints[8])
    np.testing.assert_allclose(even["opening"][known], opening, atol=1e-6)
    assert all(np.isnan(even[key][in_gap]).all() for key in ("position", "rotation", "opening"))


def test_times_without_a_pose_of_the_camera_have_no_hand(recorded: Path) -> None:
    recipe = run(block("def resampled"))
    at = recipe["camera_poses"](recorded / "head.mcap", "world", "head_camera")
    assert at(START_NS - 60_000_000) is None and at(START_NS + 10**11) is None
    np.testing.assert_allclose(at(START_NS + 10**9).translation, camera_at(1.0).translation, atol=1e-9)
    table = recipe["rows"](recorded / "hands.jsonl", "right", lambda stamp_ns: None)
    assert table["seen"].any() and not table["valid"].any() and np.isnan(table["position"]).all()
    for side in ("right", "left"):  # of which the latter was never there
        empty = recipe["resampled"](recipe["rows"](recorded / "hands.jsonl", side, lambda stamp_ns: None))
        assert len(empty["valid"]) == 90 and not empty["valid"].any() and np.isnan(empty["opening"]).all()
    with pytest.raises(ValueError, match="no transform from head_camera to map"):
        recipe["camera_poses"](recorded / "head.mcap", "map", "head_camera")


def test_pictures_that_arrived_late_are_put_in_order(recorded: Path, tmp_path: Path) -> None:
    lines = (recorded / "hands.jsonl").read_text().splitlines(keepends=True)
    lines[30:33] = lines[32:29:-1]
    (tmp_path / "hands.jsonl").write_text("".join(lines))
    recipe = run(block("def resampled"))
    tables = [recipe["rows"](folder / "hands.jsonl", "right") for folder in (recorded, tmp_path)]
    assert tables[1]["frame"].tolist() == list(range(90))
    for key, array in recipe["resampled"](tables[0]).items():
        assert np.array_equal(array, recipe["resampled"](tables[1])[key], equal_nan=array.dtype.kind == "f"), key


def test_gaps_are_bridged_straight(recorded: Path) -> None:
    """Nothing is made up in a gap: between its ends, what lies in it lies on a line."""
    recipe = run(block("def resampled"))
    table = recipe["rows"](recorded / "hands.jsonl", "right")
    rng = np.random.default_rng(0)
    table["position"] += 0.01 * rng.normal(size=table["position"].shape)
    dense = recipe["resampled"](table, rate=300.0)["position"]
    for first, last in ((190, 220), (60, 80)):  # pictures 20, 21 and 7 are missing
        along = np.linspace(dense[first], dense[last], last - first + 1)
        np.testing.assert_allclose(dense[first : last + 1], along, atol=1e-9)


def test_tables_in_files(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.loads(line) for line in (recorded / "hands.jsonl").read_text().splitlines()]
    for line in lines:  # both hands, so that there are whole rows; the left one never hidden
        (tmp_path / "hands.jsonl").open("a").write(json.dumps(line | {"hands": _both(line["hands"])}) + "\n")
    names = run(block("def resampled"), block("hands.csv"))
    arrays = np.load("hands.npz")
    assert arrays["right_position"].shape == (90, 3) and arrays["left_valid"].sum() == 82
    with open("hands.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 90 and [int(row["stamp_ns"]) for row in written] == arrays["right_stamp_ns"].tolist()
    assert written[44]["right_valid"] == "0" and written[44]["right_x"] == "nan"
    turns = names["state"][:, 11:15]
    known = arrays["right_valid"]
    along = (turns[known][1:] * turns[known][:-1]).sum(axis=1)
    assert along.min() > 0.9 and np.linalg.norm(turns[known], axis=1) == pytest.approx(1)

    episodes = names["lerobot"]
    assert {len(column) for column in episodes.values()} == {82}
    assert np.isfinite(np.stack(episodes["observation.state"])).all()
    assert episodes["episode_index"].tolist() == [0] * 40 + [1] * 42
    assert episodes["frame_index"].tolist() == [*range(40), *range(42)]
    assert episodes["source_frame"].tolist() == [*range(40), *range(48, 90)]
    np.testing.assert_allclose(np.diff(episodes["timestamp"][:40]), 1 / 30, atol=1e-6)


def _both(hands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*hands, *(hand | {"side": "left"} for hand in hands)]
