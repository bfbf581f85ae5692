"""Pseudo-labels: hands of unlabelled pictures and videos, with 2D landmarks and how far to trust each of them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from wildhands_ros.camera import Camera
from wildhands_ros.detection import DetectorConfig, HandDetector
from wildhands_ros.detection.landmarks import LandmarkNetwork, region_of_landmarks
from wildhands_ros.detection.models import LANDMARK_MODEL, load_model
from wildhands_ros.detection.regions import Pyramid
from wildhands_ros.errors import ConfigError, WildHandsError
from wildhands_ros.estimation.wildhands.views import RectifiedView, needs_view
from wildhands_ros.frames import Frame
from wildhands_ros.hands import HandBox
from wildhands_ros.recordings import open_source
from wildhands_ros.recordings.bag_reader import is_bag
from wildhands_ros.recordings.pictures import PICTURE_SUFFIXES
from wildhands_ros.recordings.source import SourceKind
from wildhands_ros.recordings.video import VIDEO_SUFFIXES
from wildhands_ros.samples import Sample, SampleError, ShardReader, ShardWriter
from wildhands_ros.training.sources.crops import cut, square_of

FloatArray = NDArray[np.float64]

_STREAMS = (SourceKind.VIDEO, SourceKind.BAG)  # whose frames follow each other


@dataclass(frozen=True)
class PseudoLabelConfig:
    """How labels are made.

    focal: of every picture, in pixels; None takes what is recorded, or a guess (tag `camera` then says "guessed").
    every: of a video, one frame in so many becomes samples; the hands are followed through all of them.
    least_presence: hands that the landmark network is less sure of are left out, 0 to 1.
    least_side_probability: the same for which hand it is, 0.5 to 1.
    disagreement: distance, as a share of the box's longer edge, between what the network says of the hand and of its
        mirror image at which a landmark's weight has fallen to 1/e.
    """

    focal: float | None = None
    every: int = 5
    least_presence: float = 0.8
    least_side_probability: float = 0.8
    disagreement: float = 0.05

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every must be at least 1, not {self.every}")
        if not self.disagreement > 0:
            raise ConfigError(f"disagreement must be positive, not {self.disagreement}")


class PseudoLabeller:
    """Makes samples of frames. Not safe for several threads."""

    def __init__(self, detector: HandDetector, network: LandmarkNetwork, config: PseudoLabelConfig) -> None:
        self.config = config
        self._detector = detector
        self._network = network

    @classmethod
    def from_directory(cls, models_dir: Path | None = None, config: PseudoLabelConfig | None = None) -> PseudoLabeller:
        """models_dir: of the detector's models. Raises ModelFileError where one is missing."""
        detector = HandDetector.from_directory(models_dir, DetectorConfig())
        network = LandmarkNetwork(load_model(LANDMARK_MODEL, models_dir), DetectorConfig().threads)
        return cls(detector, network, config or PseudoLabelConfig())

    def samples(self, frames: Iterable[Frame], recording: str, *, stream: bool, guessed: bool) -> Iterator[Sample]:
        """The hands of a recording.

        recording: its name, for keys. stream: whether the frames follow each other. guessed: whether their focal
        length is a guess.
        """
        self._detector.reset()
        rectified: RectifiedView | None = None
        for frame in frames:
            if not stream:
                boxes = self._detector.detect(frame.image)
            else:
                boxes = self._detector.follow(frame.image, frame.stamp_ns)
                if frame.index % self.config.every:
                    continue
            if needs_view(frame.camera) and (rectified is None or rectified.source != frame.camera):
                rectified = RectifiedView.of(frame.camera)
            view = rectified if needs_view(frame.camera) else None
            image = frame.image if view is None else view.image(frame.image)
            scene = f"{_key_of(recording)}_{frame.index:06d}"
            for number, box in enumerate(boxes):
                sample = self._sample(frame, image, view, box, scene, number, guessed)
                if sample is not None:
                    yield sample

    def _sample(
        self, frame: Frame, image: NDArray[np.uint8], view: RectifiedView | None, box: HandBox, scene: str,
        number: int, guessed: bool,
    ) -> Sample | None:  # fmt: skip
        config, seen = self.config, box.landmarks
        if seen is None or seen.presence < config.least_presence:
            return None
        if box.side_probability < config.least_side_probability:
            return None
        labels = self._weighted(frame.image, seen.image, box.size)
        camera = frame.camera if view is None else view.camera
        place = box.xyxy if view is None else view.box(box.xyxy)
        if labels is None or place is None:
            return None
        keypoints, weights = labels
        if view is not None:
            keypoints, weights = _rectified(keypoints, weights, frame.camera, camera)
        center, extent = square_of(place)
        return Sample(
            key=f"{scene}_{number}",
            source="video",
            image=cut(image, center, extent),
            camera=camera,
            center=center,
            extent=extent,
            side=box.side,
            box=place,
            keypoints=keypoints,
            keypoint_weights=weights,
            scene=scene,
            tags={
                "presence": round(seen.presence, 4),
                "side_probability": round(box.side_probability, 4),
                "camera": "guessed" if guessed else "known",
                "frame": frame.name,
            },
        )

    def _weighted(
        self, image: NDArray[np.uint8], landmarks: FloatArray, edge: float
    ) -> tuple[FloatArray, FloatArray] | None:
        """Landmarks (21, 2), the mean of two looks, and their weights (21,); None where the hand is lost."""
        picture, region = Pyramid(image), region_of_landmarks(landmarks)
        plain, mirrored = (self._network.look(picture, region, mirrored=m) for m in (False, True))
        if plain is None or mirrored is None:
            return None
        presence = min(plain.presence, mirrored.presence)
        if presence < self.config.least_presence:
            return None
        a, b = plain.landmarks.image, mirrored.landmarks.image
        apart = np.linalg.norm(a - b, axis=1) / (self.config.disagreement * edge)
        weights = presence * np.exp(-(apart**2))
        middle: FloatArray = (a + b) / 2
        height, width = image.shape[:2]
        inside = np.all((middle > -0.5) & (middle < (width - 0.5, height - 0.5)), axis=1)
        return middle, np.where(inside, weights, 0.0)


class VideoSource:
    """The hands of a folder of pictures and videos (or of one video, bag or picture), pseudo-labelled once.

    path: what to read; a folder is searched at all depths. cache: folder for what labelling leaves, a folder with one
    shard for each recording; the same files with the same settings are not labelled again, and what was interrupted
    goes on with the recordings that are missing. labeller: makes the labels.

    As a `SampleSource`: keypoints with weights and sides; no 3D, no masks. Raises SampleError where there is nothing to
    read, RecordingError for a recording that cannot be read.
    """

    def __init__(self, path: Path, cache: Path, labeller: PseudoLabeller, *, name: str = "video") -> None:
        recordings = _recordings(path)
        self.name = name
        folder = cache / f"{_clean(path.stem)}-{_fingerprint(recordings, labeller.config)}"
        folder.mkdir(parents=True, exist_ok=True)
        shards = {folder / f"{number:06d}.tar": recording for number, recording in enumerate(recordings)}
        try:
            if not all(shard.is_file() for shard in shards):  # whole ones may lie where nothing can be written
                with FileLock(folder / "lock"):  # one of a run's processes labels for all of them
                    for shard, recording in shards.items():
                        _label(recording, path, labeller, shard)
            self._reader = ShardReader(folder, name=name)
        except WildHandsError:
            if not list(folder.glob("*.tar")):
                shutil.rmtree(folder)
            raise

    def __len__(self) -> int:
        return len(self._reader)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._reader)

    def __getitem__(self, index: int) -> Sample:
        return self._reader[index]

    def fingerprint(self) -> str:
        return self._reader.fingerprint()


def _label(recording: Path, root: Path, labeller: PseudoLabeller, path: Path) -> None:
    """Writes a recording's shard, where it is not there yet."""
    if path.is_file():
        return
    with ShardWriter(path) as shard:
        for sample in _labelled(recording, root, labeller):
            shard.add(sample)


def _labelled(recording: Path, root: Path, labeller: PseudoLabeller) -> Iterator[Sample]:
    name = recording.relative_to(root).as_posix() if recording != root else recording.name
    with open_source(recording, focal=labeller.config.focal) as source:
        progress = tqdm(source, desc=name, total=source.length, unit=" frames", disable=None)
        stream = source.kind in _STREAMS
        yield from labeller.samples(progress, name, stream=stream, guessed=source.camera_is_guess)


def _recordings(path: Path) -> list[Path]:
    """Videos below a folder, and every folder in it that holds pictures; a single recording is itself."""
    if not path.exists():
        raise SampleError(f"{path} does not exist")
    if not path.is_dir():
        return [path]
    found = sorted(
        p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    for folder in sorted([path, *(p for p in path.rglob("*") if p.is_dir())]):
        if is_bag(folder) or _holds_pictures(folder):
            found.append(folder)
    if not found:
        raise SampleError(f"{path} holds no pictures, no videos and no bags")
    return found


def _holds_pictures(folder: Path) -> bool:
    return any(p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".") for p in folder.iterdir())


def _fingerprint(recordings: list[Path], config: PseudoLabelConfig) -> str:
    """Changes with the files and with the settings."""
    files = [
        p for recording in recordings for p in ([recording] if recording.is_file() else sorted(recording.iterdir()))
    ]
    facts = [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files if p.is_file()]
    return hashlib.sha256(json.dumps([facts, asdict(config)]).encode()).hexdigest()[:12]


def _rectified(
    keypoints: FloatArray, weights: FloatArray, source: Camera, target: Camera
) -> tuple[FloatArray, FloatArray]:
    moved = target.project(source.unproject(keypoints))
    known = np.asarray(np.isfinite(moved).all(axis=1))
    return np.where(known[:, None], moved, 0.0), np.where(known, weights, 0.0)


def _key_of(name: str) -> str:
    """A name as keys may have it; names that become the same thereby are told apart by a checksum."""
    clean = _clean(name)
    return clean if clean == name else f"{clean}-{zlib.crc32(name.encode(errors='surrogateescape')):08x}"


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "video"
