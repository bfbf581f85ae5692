"""Samples in tar shards, in WebDataset's layout: `KEY.jpg` (picture), `KEY.png` (mask) and `KEY.json` (the rest)."""

from __future__ import annotations

import glob
import io
import json
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.hands import Side
from wildhands_ros.images import encoded
from wildhands_ros.picture_files import picture_size
from wildhands_ros.samples.sample import CROP_SIZE, FloatArray, ManoLabels, Sample, SampleError
from wildhands_ros.whole_files import checksum, delete_abandoned, keep_others_away, naming

_NUMBER = "%.7g"  # significant digits of written numbers: 0.1 µm at 1 m
_JPEG = (cv2.IMWRITE_JPEG_QUALITY, 92)
_PNG_FILTER = 19  # cv2.IMWRITE_PNG_FILTER, which OpenCV lacks, and leaves aside, before 4.12
# Masks are flat: runs of the same value pack best, and fastest, as they are
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, _PNG_FILTER, 8)


class ShardWriter:
    """Writes samples into one shard; what is there under the final name is always whole.

    with ShardWriter(Path("train-0000.tar")) as shard:
        shard.add(sample)

    Raises RecordingError where a process of the same number is writing it, OSError where nothing can be written there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: set[str] = set()
        # several processes may write the same shard, such as a run that was started again while the first still works
        self._partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        self._delete_abandoned()
        # locked before it is emptied: containers, or machines that share a folder, may give several the same number
        self._lock = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            keep_others_away(self._lock, path)
            self._tar = tarfile.open(self._partial, "w", format=tarfile.GNU_FORMAT)
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with naming(self.path):
                self._tar.close()
            if error is None:
                os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)
            os.close(self._lock)
            self._delete_abandoned()  # what was too new when this began: a whole shard is not written again

    def _delete_abandoned(self) -> None:
        delete_abandoned(self.path.parent.glob(f"{glob.escape(self.path.name)}.*.partial"))

    def add(self, sample: Sample) -> None:
        """Raises ValueError for a key that the shard has already, OSError with the shard's path for a full disk."""
        if sample.key in self._keys:
            raise ValueError(f"{self.path}: there is a sample '{sample.key}' already: give each its own key")
        self._keys.add(sample.key)
        members = {"jpg": _encoded(".jpg", cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR), _JPEG)}
        if sample.mask is not None:
            members["png"] = _encoded(".png", sample.mask, _PNG)
        members["json"] = _record(sample).encode()
        with naming(self.path):
            for kind, content in members.items():  # all of it, or nothing where a part cannot be written
                self._member(f"{sample.key}.{kind}", content)

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)  # no time, no owner: the same samples give the same bytes
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))


class ShardReader:
    """The samples of one shard or of a folder of shards (sorted by name), as a `SampleSource` with random access.

    Raises SampleError for files that are not such shards, or not whole ones any more. What is wrong within a sample is
    said when that is asked for, by a SampleError, too.
    """

    def __init__(self, path: Path | str, *, name: str = "") -> None:
        path = Path(path)
        self.name = name or Path(os.path.abspath(path)).stem  # also of "."
        paths = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not paths:
            raise SampleError(f"{path}: no shards (*.tar) in this folder; make some with 'wildhands render'")
        self._shards = [_Shard(p) for p in paths]
        self._starts = np.cumsum([0, *(len(shard.keys) for shard in self._shards)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def fingerprint(self) -> str:
        """Changes with any change of the shards' content, and with nothing else: a copy has the same."""
        return "-".join(f"{checksum(shard.path):08x}" for shard in self._shards)

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
        end = 0
        if not path.exists():
            raise SampleError(f"{path} does not exist")
        try:
            with tarfile.open(path, "r:") as tar:  # not compressed: members are read where they lie
                for info in tar:
                    name = info.name.removeprefix("./")  # of `tar -C folder .`
                    if name in self._members:
                        raise SampleError(f"{path}: there are two members '{name}': give each sample its own key")
                    self._members[name] = (info.offset_data, info.size)
                    end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    if name.endswith(".json"):
                        self.keys.append(name[: -len(".json")])
            whole = _only_zeros(path, end)
        # MemoryError: a header announces more than there is, and tarfile asks for as much
        except (OSError, tarfile.TarError, ValueError, OverflowError, MemoryError) as error:
            raise SampleError(
                f"{path} is not a readable, uncompressed tar shard ({str(error) or type(error).__name__}): take it "
                "away, or make it again"
            ) from error
        if not whole:  # what tarfile takes for the archive's end as well
            raise SampleError(
                f"{path} is damaged at byte {end}, after {len(self.keys)} samples: take it away and make it again "
                "('wildhands render' makes the shards that are missing)"
            )
        lost = [name for name in self._members if name.endswith(".jpg") and f"{name[:-4]}.json" not in self._members]
        if lost:
            raise SampleError(f"{path}: {len(lost)} pictures have no JSON with labels beside them, first '{lost[0]}'")

    def sample(self, index: int, source: str) -> Sample:
        key = self.keys[index]
        try:
            if f"{key}.jpg" not in self._members:
                raise ValueError("its picture is not there")
            record = json.loads(self._read(f"{key}.json"))
            picture = _decoded(self._read(f"{key}.jpg"), cv2.IMREAD_COLOR)[..., ::-1]
            mask = _decoded(self._read(f"{key}.png"), cv2.IMREAD_GRAYSCALE) if f"{key}.png" in self._members else None
            return _sample(key, source, np.ascontiguousarray(picture), mask, record)
        except Exception as error:  # a record can be wrong in any way: what matters is which one it is
            raise SampleError(
                f"{self.path}: sample '{key}' cannot be read ({str(error) or type(error).__name__})"
            ) from error

    def _read(self, name: str) -> bytes:
        offset, size = self._members[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _only_zeros(path: Path, start: int) -> bool:
    """Whether a file goes on from `start` as archives end: with two blocks of zeros or more, and nothing else."""
    with path.open("rb") as file:
        file.seek(start)
        rest = iter(lambda: file.read(1 << 20), b"")
        return all(not part.strip(b"\0") for part in rest) and file.tell() >= start + 2 * tarfile.BLOCKSIZE


def _encoded(kind: str, picture: cv2.typing.MatLike, options: Sequence[int]) -> bytes:
    data = encoded(kind, picture, options)
    if data is None:
        raise SampleError(f"OpenCV could not encode a picture as {kind}")
    return data


def _decoded(content: bytes, flags: int) -> NDArray[np.uint8]:
    size = picture_size(content)
    if size is not None and size != (CROP_SIZE, CROP_SIZE):  # before a few kilobytes unpack to gigabytes
        raise ValueError(f"its picture has {size[0]}x{size[1]} pixels, not {CROP_SIZE}x{CROP_SIZE}")
    picture = None if size is None else cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if picture is None:
        raise ValueError("its picture is damaged")
    return np.asarray(picture, dtype=np.uint8)


def _record(sample: Sample) -> str:
    """What is known of a sample but its pictures, as JSON."""
    mano = sample.mano
    fields = {
        "camera": json.dumps(sample.camera.to_dict()),
        "size": f"[{sample.camera.width},{sample.camera.height}]",
        "center": _numbers(np.array(sample.center)),
        "extent": repr(float(sample.extent)),
        "side": json.dumps(sample.side.value),
        "box": _numbers(np.array(sample.box)),
        "joints": _numbers(sample.joints),
        "mano": "null" if mano is None else _object({
            "pose": _numbers(mano.pose), "betas": _numbers(mano.betas), "translation": _numbers(mano.translation),
            "hand_model": json.dumps(mano.hand_model),
        }),
        "keypoints": _numbers(sample.keypoints),
        "keypoint_weights": _numbers(sample.keypoint_weights),
        "visible": "null" if sample.visible is None else json.dumps([int(v) for v in sample.visible]),
        "grasp": "null" if sample.grasp is None else str(int(sample.grasp)),
        "scene": json.dumps(sample.scene),
        "tags": json.dumps(dict(sample.tags), default=lambda number: number.item()),  # numpy's
    }  # fmt: skip
    return _object(fields)


def _object(fields: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


def _numbers(values: FloatArray | None) -> str:
    if values is None:
        return "null"
    text = _layout(values.shape) % tuple(values.ravel().tolist())
    return text.replace("nan", "NaN").replace("inf", "Infinity") if "n" in text else text


@lru_cache(maxsize=32)
def _layout(shape: tuple[int, ...]) -> str:
    """A JSON array of this shape with a place for each number: formatting all at once is several times as fast."""
    inner = _NUMBER if len(shape) == 1 else _layout(shape[1:])
    return "[" + ",".join([inner] * shape[0]) + "]"


def _sample(
    key: str, source: str, image: NDArray[np.uint8], mask: NDArray[np.uint8] | None, record: Mapping[str, Any]
) -> Sample:
    def array(name: str) -> FloatArray | None:
        return None if record[name] is None else np.array(record[name], dtype=np.float64)

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
            np.array(mano["pose"], np.float64), np.array(mano["betas"], np.float64),
            np.array(mano["translation"], np.float64), mano["hand_model"],
        ),
        keypoints=array("keypoints"),
        keypoint_weights=array("keypoint_weights"),
        visible=None if visible is None else np.array(visible, dtype=bool),
        mask=mask,
        grasp=record["grasp"],
        scene=record["scene"],
        tags=record["tags"],
    )  # fmt: skip
