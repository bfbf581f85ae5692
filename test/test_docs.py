"""The examples of README and docs/, as they are printed there (those of docs/python.md: test_docs_python.py)."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.cli import main
from wildhands_ros.detection import HandDetector
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.json_lines import __doc__ as described
from wildhands_ros.recordings import VideoWriter, read_hands
from wildhands_ros.synthetic.demo_scenes import Held, Slideshow

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "recordings.md").read_text()


def blocks(section: str, language: str) -> list[str]:
    """The code of that language in a section of the document."""
    _, _, rest = TEXT.partition(f"# {section}\n")
    assert rest, section
    return re.findall(
        rf"^```{language}\n(.*?)^```$", re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0], re.M | re.S
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `wildhands run clip.mp4 --json hands.jsonl` was run."""
    folder = tmp_path_factory.mktemp("results")
    with VideoWriter(folder / "clip.mp4", 30.0) as writer:
        for frame in list(Held(Slideshow()))[12:18]:
            writer.write(frame.image)
    options = ["--focal", "700", "--estimator", "landmarks", "--vertices", "--no-video"]
    out = ["--out", str(folder / "out"), "--json", str(folder / "hands.jsonl")]
    assert main(["run", str(folder / "clip.mp4"), *options, *out]) == 0
    return folder


@pytest.mark.parametrize("which", [0, 1], ids=["bag", "lines"])
def test_results_are_read_as_documented(
    which: int, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(results)
    exec(blocks("Reading results", "python")[which], {})
    lines = [json.loads(line) for line in (results / "hands.jsonl").read_text().splitlines()]
    valid = [(line["stamp_ns"], hand["side"]) for line in lines for hand in line["hands"] if hand["valid"]]
    said = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line[0].isdigit()]
    assert len(valid) >= 3 and said == [[str(stamp), side] for stamp, side in valid]


def test_vertices_that_a_bag_lacks_are_made_as_documented(results: Path) -> None:
    (formula,) = re.findall(r"`(load_hand_model\(\)[^`]*)`", TEXT)
    lines = [json.loads(line) for line in (results / "hands.jsonl").read_text().splitlines()]
    vertices = [hand["vertices"] for line in lines for hand in line["hands"]]
    hands = [hand for image in read_hands(results / "out" / "clip_hands.mcap") for hand in image.hands]
    assert len(hands) == len(vertices) >= 3 and hands[0].vertices is None
    made = [eval(formula, {"load_hand_model": load_hand_model, "hand": hand}) for hand in hands]
    np.testing.assert_allclose(made, vertices, atol=1e-7)


def kinds_of_problems() -> set[str]:
    """The kinds with which the node's sources report problems: the first argument of each call of a function that is
    called report, and the first of each pair of texts that is returned or yielded as a complaint."""
    found: set[object] = set()
    for file in (ROOT / "wildhands_ros" / "node").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            first: ast.expr | None = None
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                first = node.args[0] if name in ("report", "_report") else None
            elif isinstance(node, (ast.Return, ast.Yield)) and isinstance(node.value, ast.Tuple):
                first = node.value.elts[0] if len(node.value.elts) == 2 else None
            if isinstance(first, ast.Constant) and re.fullmatch("[a-z_]+", str(first.value)):
                found.add(first.value)
    return {str(kind) for kind in found}


def test_every_kind_of_problem_is_in_the_table_of_troubles_and_no_other() -> None:
    text = (ROOT / "docs" / "node.md").read_text()
    _, _, troubles = text.partition("\n## Troubleshooting\n")
    rows = re.findall(r"^\|[^|]*\| `([a-z_]+)` \|", troubles.partition("\n### ")[0], re.MULTILINE)
    assert {"bad_image", "no_publisher", "no_clock", "no_bond"} <= kinds_of_problems()  # they are found at all
    assert set(rows) == kinds_of_problems()


def test_every_value_of_the_diagnostics_is_described() -> None:
    from wildhands_ros.node.diagnostics import Condition, Drop, Statistics, diagnostic_values

    text = (ROOT / "docs" / "node.md").read_text()
    _, _, described = text.partition("\n## Diagnostics\n")
    described = described.partition("\n## ")[0]
    statistics = Statistics()
    statistics.problem("bad_image", "it is bad")
    statistics.result_published(1, 0.01, {"convert": 0.001})
    for key in diagnostic_values(statistics.summary(), Condition(), {}):
        shown = key.partition(",")[0] if key.startswith("latency") else key
        shown = re.sub(r"^(images dropped) \(.*", r"\1 (…)", shown)
        shown = re.sub(r"^(problem: |last |images )(bad_image|processed|failed)$", r"\1", shown).removesuffix(" (ms)")
        assert f"`{shown}" in described or f"{shown}…`" in described, key
    assert all(f"`{cause.value}`" in described for cause in Drop)


def test_every_key_of_the_lines_is_described(results: Path) -> None:
    line = next(line for line in map(json.loads, (results / "hands.jsonl").read_text().splitlines()) if line["hands"])
    for keys in (line, line["hands"][0], line["timings"]):
        for key in keys:
            assert f'"{key}":' in str(described)
            assert f"`{key}`" in TEXT or key in line["timings"]


def test_pixels_of_the_joints_are_made_from_a_line_as_documented(results: Path) -> None:
    (model,) = re.findall(r"with `model` `(\w+)`, `joints @ K\.T`", (ROOT / "docs" / "python.md").read_text())
    line = next(line for line in map(json.loads, (results / "hands.jsonl").read_text().splitlines()) if line["hands"])
    assert line["camera"]["model"] == model
    pixels = np.array(line["hands"][0]["joints"]) @ np.reshape(line["camera"]["K"], (3, 3)).T
    np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], line["hands"][0]["keypoints"], atol=1e-6)


@pytest.mark.parametrize(
    ("page", "part", "then"),
    [
        ("README.md", "process_still", "[h.side.value for h in result.hands] == ['left']"),
        ("docs/detection.md", "detector.follow", "[box.side.value for box in boxes] == ['left']"),
        # bent out of the back's way
        ("docs/hand_model.md", "pose_from_rotations", "joints[8, 1] < joints[12, 1] - 0.03"),
        ("docs/kpe.md", "encode(", "code.shape == (1, 80)"),
        ("docs/landmark_fit.md", "LandmarkFit(", "len(estimates.hands) == 1 and hand.reprojection_error < 20"),
        ("docs/open_network.md", "OpenHands.load", "hand.side.value == 'left' and hand.valid"),
        ("docs/recordings.md", "video.write(rgb)", "video.count == 1 and video.path.is_file()"),
    ],
)
def test_examples_run(page: str, part: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    (code,) = (code for code in codes if part in code)
    monkeypatch.chdir(tmp_path)
    frame = list(Held(Slideshow()))[13]
    boxes = HandDetector.from_directory().detect(frame.image)
    names = {
        "frame": frame,
        "image": frame.image,
        "rgb": frame.image,
        "boxes": boxes,
        "stamp_ns": 5,
        "serialized": b"0",
    }
    exec(code, names)
    assert eval(then, names)


@pytest.mark.parametrize("model", [Distortion.PLUMB_BOB, Distortion.EQUIDISTANT])
def test_calibrations_are_read_as_documented(model: Distortion, tmp_path: Path) -> None:
    (tmp_path / "head.yaml").write_text(blocks("Your own camera", "yaml")[model is Distortion.EQUIDISTANT])
    camera = Camera.from_yaml(tmp_path / "head.yaml")
    assert camera.model is model and camera.has_distortion
    corners = np.array([[0, 0], [1279, 0], [640, 360], [0, 719], [1279, 719]])
    assert np.allclose(camera.project(camera.unproject(corners)), corners, atol=1e-6)  # all of the picture is seen


def test_the_focal_length_of_a_field_of_view_is_as_documented() -> None:
    camera = Camera.pinhole(1280, 720, 1280 / (2 * np.tan(np.radians(32))))
    left, right = camera.angles([[-0.5, 359.5], [1279.5, 359.5]])[:, 0]
    assert np.degrees(right - left) == pytest.approx(64) and camera.fx == pytest.approx(1024, abs=0.5)
    assert "1280 / (2 tan 32°) = 1024" in TEXT
