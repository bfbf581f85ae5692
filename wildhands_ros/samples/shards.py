"""Samples in tar shards, in WebDataset's layout: `KEY.jpg` (picture), `KEY.png` (mask) and `KEY.json` (the rest)."""

from __future__ import annotations

import io
import json
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import WildHandsError
from wildhands_ros.hands import Side
from wildhands_ros.samples.sample import FloatArray, ManoLabels, Sample, SampleError

_DIGITS = 7  # significant digits of written numbers: 0.1 µm at 1 m
_JPEG_QUALITY = 92


class ShardWriter:
    """Writes samples into one shard; what is there under the final name is always whole.

    with ShardWriter(Path("train-0000.tar")) as shard:
        shard.add(sample)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._tar = tarfile.open(self._partial, "w")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.close()
        if error is None:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def add(self, sample: Sample) -> None:
        self._member(
            f"{sample.key}.jpg", _encoded(".jpg", sample.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        )
        if sample.mask is not None:
            self._member(f"{sample.key}.png", _encoded(".png", sample.mask, [cv2.IMWRITE_PNG_COMPRESSION, 3]))
        self._member(f"{sample.key}.json", json.dumps(_plain(sample), separators=(",", ":")).encode())

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)  # no time, no owner: the same samples give the same bytes
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))


class ShardReader:
    """The samples of one shard or of a folder of shards (sorted by name), as a `SampleSource` with random access.

    Raises SampleError for files that are not such shards.
    """

    def __init__(self, path: Path, *, name: str = "") -> None:
        self.name = name or path.stem
        paths = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not paths:
            raise SampleError(f"{path}: no shards (*.tar) in this folder; make some with 'wildhands render'")
        self._shards = [_Shard(p) for p in paths]
        self._starts = np.cumsum([0, *(len(shard.keys) for shard in self._shards)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = bisect_right(self._starts, index) - 1
        return self._shards[which].sample(index - self._starts[which], self.name)


class _Shard:
    """One tar file: where each member's bytes are. Opened anew for each read, so that processes can share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[str] = []
        self._members: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path) as tar:
                for info in tar:
                    self._members[info.name] = (info.offset_data, info.size)
                    if info.name.endswith(".json"):
                        self.keys.append(info.name[: -len(".json")])
        except (OSError, tarfile.TarError) as error:
            raise SampleError(f"{path} is not a readable tar shard ({error})") from error

    def sample(self, index: int, source: str) -> Sample:
        key = self.keys[index]
        try:
            record = json.loads(self._read(f"{key}.json"))
            picture = _decoded(self._read(f"{key}.jpg"), cv2.IMREAD_COLOR)[..., ::-1]
            mask = _decoded(self._read(f"{key}.png"), cv2.IMREAD_GRAYSCALE) if f"{key}.png" in self._members else None
            return _sample(key, source, np.ascontiguousarray(picture), mask, record)
        except (OSError, ValueError, KeyError, TypeError, WildHandsError) as error:
            raise SampleError(f"{self.path}: sample '{key}' cannot be read ({error})") from error

    def _read(self, name: str) -> bytes:
        offset, size = self._members[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _encoded(kind: str, picture: NDArray[np.uint8], options: Sequence[int]) -> bytes:
    done, buffer = cv2.imencode(kind, picture, list(options))
    if not done:
        raise SampleError(f"OpenCV could not encode a picture as {kind}")
    return buffer.tobytes()


def _decoded(content: bytes, flags: int) -> NDArray[np.uint8]:
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if picture is None:
        raise ValueError("its picture is damaged")
    return np.asarray(picture, dtype=np.uint8)


def _plain(sample: Sample) -> dict[str, Any]:
    mano = sample.mano
    return {
        "camera": sample.camera.to_dict(),
        "size": [sample.camera.width, sample.camera.height],
        "center": _list(np.array(sample.center)),
        "extent": float(sample.extent),
        "side": sample.side.value,
        "box": _list(np.array(sample.box)),
        "joints": _list(sample.joints),
        "mano": None if mano is None else {
            "pose": _list(mano.pose), "betas": _list(mano.betas), "translation": _list(mano.translation),
            "hand_model": mano.hand_model,
        },
        "keypoints": _list(sample.keypoints),
        "keypoint_weights": _list(sample.keypoint_weights),
        "visible": None if sample.visible is None else [int(v) for v in sample.visible],
        "grasp": sample.grasp,
        "scene": sample.scene,
        "tags": dict(sample.tags),
    }  # fmt: skip


def _list(values: FloatArray | None) -> Any:
    if values is None:
        return None
    return [_list(row) for row in values] if values.ndim > 1 else [float(f"{v:.{_DIGITS}g}") for v in values]


def _sample(
    key: str, source: str, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None, record: Mapping[str, Any]
) -> Sample:
    def array(name: str, of: Mapping[str, Any] = record) -> FloatArray | None:
        return None if of[name] is None else np.array(of[name], dtype=np.float64)

    mano = record["mano"]
    k = record["camera"]["K"]
    width, height = (int(v) for v in record["size"])
    visible = record["visible"]
    return Sample(
        key=key,
        source=source,
        image=image,
        camera=Camera(width, height, k[0], k[4], k[2], k[5]),
        center=(float(record["center"][0]), float(record["center"][1])),
        extent=float(record["extent"]),
        side=Side(record["side"]),
        box=tuple(float(v) for v in record["box"]),  # type: ignore[arg-type]
        joints=array("joints"),
        mano=None if mano is None else ManoLabels(
            np.array(mano["pose"]), np.array(mano["betas"]), np.array(mano["translation"]), mano["hand_model"]
        ),
        keypoints=array("keypoints"),
        keypoint_weights=array("keypoint_weights"),
        visible=None if visible is None else np.array(visible, dtype=bool),
        mask=mask,
        grasp=record["grasp"],
        scene=record["scene"],
        tags=record["tags"],
    )  # fmt: skip
