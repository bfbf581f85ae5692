"""The demonstration: the whole chain over topics, as a user starts it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from domains import own_domain

from wildhands_ros.images import encode_jpeg
from wildhands_ros.pipeline import DEFAULT_ESTIMATOR
from wildhands_ros.recordings import BagReader, VideoWriter, open_source
from wildhands_ros.recordings.hands_reader import read_hands
from wildhands_ros.synthetic import SequenceConfig, SyntheticSequence
from wildhands_ros.synthetic.demo_scenes import Held, RenderedScene, Slideshow


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a domain of their own, whatever else is tested on this machine."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain()))


def demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wildhands_ros.cli", "demo", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A demo that ran to its end, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", str(own_domain()))
        return demo("--out", folder, "--seconds", 1), folder


def test_the_demo_finds_the_hands_and_measures_itself(
    finished: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    result, folder = finished
    assert result.returncode == 0, result.stderr
    assert "against the truth" in result.stdout and f"rendered, {DEFAULT_ESTIMATOR}" in result.stdout
    results = list(read_hands(folder / "rendered.mcap"))
    assert len({r.stamp_ns for r in results}) > 30  # and some of the rehearsal on black pictures
    assert re.search(rf"\| rendered, {DEFAULT_ESTIMATOR} *\| *30 \|", result.stdout)
    assert sum(len(r.hands) for r in results) >= 50  # two hands a frame, from the second or third frame on
    assert all(0 < r.processing_s < r.latency_s for r in results)
    with BagReader(folder / "rendered.mcap") as bag:
        assert {"/camera/camera_info", "/camera/image_raw/compressed", "/tf", "/wildhands/hands"} <= bag.topics.keys()
    with open_source(folder / "rendered.mp4") as video:
        assert len(list(video)) >= 25  # a machine that stalls for seconds may miss recording a picture
    assert (folder / "photographs.jpg").exists() and (folder / "rendered.jpg").exists()


def test_the_demo_takes_a_file_of_the_users(tmp_path: Path) -> None:
    sequence = SyntheticSequence(SequenceConfig(seconds=0.2, seed=3))
    folder = tmp_path / "mine"
    folder.mkdir()
    for frame, _ in sequence:
        cv2.imwrite(str(folder / f"{frame.index}.png"), frame.image[..., ::-1])
    result = demo("--out", tmp_path / "out", "--input", folder, "--focal", sequence.camera.fx)
    assert result.returncode == 0, result.stderr
    results = list(read_hands(tmp_path / "out" / "mine.mcap"))
    assert len([r for r in results if r.hands]) >= 5


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_takes_its_processes_along(
    finished: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path, how: signal.Signals
) -> None:
    shutil.copytree(finished[1] / "input", tmp_path / "input")  # the rendered sequence
    command = [sys.executable, "-m", "wildhands_ros.cli", "demo", "--out", str(tmp_path), "--seconds", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(how, signal.SIG_DFL),  # whoever runs tests may ignore it
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 180
    bag = tmp_path / "photographs.mcap.recording"
    while sum(file.stat().st_size for file in bag.glob("*.mcap")) < 10_000:  # pictures are recorded: all are at work
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    started = children.read_text().split()
    assert len(started) == 2
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert not any(Path(f"/proc/{child}").exists() for child in started)


@pytest.mark.parametrize("arguments", [["--input", "/nowhere/clip.mp4"], ["--models-dir", "/nowhere"]])
def test_the_demo_says_what_is_missing(tmp_path: Path, arguments: list[str]) -> None:
    result = demo("--out", tmp_path, *arguments)
    assert result.returncode == 1 and "/nowhere" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--focal", "900"], ["--camera", "head.yaml"], ["--topic", "/image"], ["--upright-rotation", "90"]]
)
def test_what_is_said_of_ones_own_pictures_needs_them(tmp_path: Path, arguments: list[str]) -> None:
    result = demo("--out", tmp_path, *arguments)
    assert result.returncode == 1 and f"{arguments[0]} tells something of your own pictures" in result.stderr
    assert "--input PATH" in result.stderr and "Traceback" not in result.stderr


def test_the_demo_never_replaces_what_it_plays(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    with VideoWriter(clip, 30) as video:
        video.write(np.zeros((48, 64, 3), np.uint8))
    content = clip.read_bytes()
    result = demo("--input", clip, "--out", tmp_path, "--focal", 50)
    assert result.returncode == 1 and "is the input itself" in result.stderr
    assert clip.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_demo_refuses_names_that_no_video_can_have(tmp_path: Path) -> None:
    picture = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(picture)).write_bytes(encode_jpeg(np.zeros((48, 64, 3), np.uint8)))
    result = demo("--out", tmp_path, "--input", os.fsdecode(picture))
    assert result.returncode == 1 and "rename the file" in result.stderr and "Traceback" not in result.stderr


def test_a_rendered_scene_is_kept_and_read_back(tmp_path: Path) -> None:
    config = SequenceConfig(seconds=0.1, seed=2)
    first = RenderedScene(tmp_path, config)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = RenderedScene(tmp_path, config)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == times
    for (frame, truth), known, played in zip(SyntheticSequence(config), first.truth, again.open(), strict=True):
        assert played.camera == frame.camera
        assert np.abs(played.image.astype(int) - frame.image).mean() < 3  # JPEG
        for hand, true_hand in zip(known.hands, truth.hands, strict=True):
            assert hand.side is true_hand.side and np.allclose(hand.joints, true_hand.joints)
        assert known.visible == tuple(truth.visible)


def test_a_rendered_scene_that_was_damaged_is_rendered_again(tmp_path: Path) -> None:
    config = SequenceConfig(seconds=0.1, seed=2)
    whole = RenderedScene(tmp_path, config).truth
    (file,) = tmp_path.rglob("truth.npz")
    for damaged in (b"", file.read_bytes()[:100], b"x" + file.read_bytes()[1:], None):
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        again = RenderedScene(tmp_path, config).truth
        assert all(np.array_equal(a.hands[0].joints, b.hands[0].joints) for a, b in zip(again, whole, strict=True))


def test_a_scene_is_kept_in_folders_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"scene-\xff")
    config = SequenceConfig(seed=2, seconds=0.1)
    assert len(list(RenderedScene(folder, config).open())) == 3


def test_the_demo_finds_the_hands_of_a_single_picture(tmp_path: Path) -> None:
    picture = tmp_path / "palm.png"
    cv2.imwrite(str(picture), list(Slideshow())[1].image[..., ::-1])
    result = demo("--out", tmp_path, "--input", picture, "--focal", 700)
    assert result.returncode == 0, result.stderr
    assert sum(len(r.hands) for r in read_hands(tmp_path / "palm.mcap")) >= 6  # of the 12 frames for which it is held


def test_held_pictures_are_a_stream() -> None:
    held = Held(Slideshow(), frames=3)
    frames = list(held)
    assert len(frames) == held.length == 12
    assert [f.name for f in frames[:4]] == [frames[0].name] * 3 + [frames[3].name] != [frames[0].name] * 4
    assert [f.stamp_ns for f in frames] == sorted({f.stamp_ns for f in frames})
