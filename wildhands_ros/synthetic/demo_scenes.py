"""What the demonstration plays: photographs, a rendered sequence with its truth, or the user's own file."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wildhands_ros.camera import Camera
from wildhands_ros.drawing import fitted
from wildhands_ros.frames import Frame
from wildhands_ros.hands import Hand, Side
from wildhands_ros.images import encode_jpeg
from wildhands_ros.recordings import FrameSource, SourceKind, open_source
from wildhands_ros.synthetic import SequenceConfig, SyntheticSequence, demo_photos

Image = NDArray[np.uint8]

_WIDTH, _HEIGHT = 1280, 720
_PERIOD_NS = 33_333_333
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class KnownHands:
    """The true hands of one frame, and which of them can be seen."""

    hands: tuple[Hand, ...]
    visible: tuple[bool, ...]


class Slideshow(FrameSource):
    """Photographs of open licence on a canvas of one size."""

    def __init__(self) -> None:
        self._photos = [(name, fitted(image, _WIDTH, _HEIGHT, grey=96)) for name, image in demo_photos()]
        super().__init__(SourceKind.FOLDER, "photographs", length=len(self._photos), camera_is_guess=True, fps=30.0)

    def _frames(self) -> Iterator[Frame]:
        camera = Camera.guess(_WIDTH, _HEIGHT)
        for index, (name, image) in enumerate(self._photos):
            yield Frame(image, camera, stamp_ns=index * _PERIOD_NS, index=index, name=name)


class Held(FrameSource):
    """Each picture of a source held for a while: a stream, in which hands are found within a few frames."""

    def __init__(self, source: FrameSource, frames: int = 12) -> None:
        length = None if source.length is None else source.length * frames
        super().__init__(
            source.kind, source.description, length=length, camera_is_guess=source.camera_is_guess, fps=30.0
        )
        self._source = source
        self._held = frames

    def _frames(self) -> Iterator[Frame]:
        pictures = (frame for frame in self._source for _ in range(self._held))
        for index, frame in enumerate(pictures):
            yield replace(frame, stamp_ns=index * _PERIOD_NS, index=index)


class RenderedScene:
    """A rendered sequence kept on disk, so that it is rendered only once.

    folder: where to keep it. Pictures are JPEGs beside `camera.json` and `truth.npz`; a change of the configuration
    or of the renderer renders anew.
    """

    def __init__(self, folder: Path, config: SequenceConfig) -> None:
        self.config = config
        key = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
        for file in sorted(Path(__file__).parent.glob("*.py")):
            key.update(file.read_bytes())
        self._folder = folder / f"rendered_{key.hexdigest()[:12]}"
        if not (self._folder / "truth.npz").exists():
            self._render()
        try:
            self.truth = self._read_truth()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):  # damaged
            self._render()
            self.truth = self._read_truth()

    def open(self) -> FrameSource:
        """The pictures, with their camera."""
        camera = json.loads((self._folder / "camera.json").read_text())
        return open_source(
            self._folder, camera=Camera.from_dict(camera, self.config.width, self.config.height), fps=self.config.rate
        )

    def _render(self) -> None:
        partial = self._folder.with_name(f"{self._folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        sequence = SyntheticSequence(self.config)
        truths = []
        bar = tqdm(sequence, total=len(sequence), desc="rendering (only the first time)", unit=" frames", disable=None)
        for frame, truth in bar:
            (partial / f"frame_{frame.index:05d}.jpg").write_bytes(encode_jpeg(frame.image, _JPEG_QUALITY))
            truths.append(truth)
        (partial / "camera.json").write_text(json.dumps(sequence.camera.to_dict()))
        np.savez_compressed(
            partial / "truth.npz",
            joints=[[hand.joints for hand in t.hands] for t in truths],
            keypoints=[[hand.keypoints for hand in t.hands] for t in truths],
            right=[[hand.side is Side.RIGHT for hand in t.hands] for t in truths],
            visible=[t.visible for t in truths],
        )
        shutil.rmtree(self._folder, ignore_errors=True)  # what is left of a damaged one
        partial.rename(self._folder)

    def _read_truth(self) -> list[KnownHands]:
        with np.load(self._folder / "truth.npz", allow_pickle=False) as data:
            joints, keypoints, right, visible = (data[k] for k in ("joints", "keypoints", "right", "visible"))
        nobody = Hand(
            Side.LEFT, 1.0, (0, 0, 0, 0), np.zeros((21, 3)), np.zeros((21, 2)), np.tile(np.eye(3), (16, 1, 1)),
            np.zeros(10), np.zeros(3), "truth", "open",
        )  # fmt: skip
        return [
            KnownHands(
                tuple(
                    replace(nobody, side=Side.RIGHT if r else Side.LEFT, joints=j, keypoints=k)
                    for j, k, r in zip(joints[i], keypoints[i], right[i], strict=True)
                ),
                tuple(bool(v) for v in visible[i]),
            )
            for i in range(len(joints))
        ]
