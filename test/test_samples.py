"""Samples in shards: what is written is what is read, and damage is named."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import RecordingError
from wildhands_ros.estimation.wildhands.variant import GRASPS
from wildhands_ros.hands import Side
from wildhands_ros.samples import CROP_SIZE, HIDDEN, ManoLabels, Sample, SampleError, ShardReader, ShardWriter
from wildhands_ros.samples.sample import GRASP_COUNT, inside_picture
from wildhands_ros.whole_files import delete_abandoned

RNG = np.random.default_rng(0)


def made_sample(key: str = "000001") -> Sample:
    y, x = np.mgrid[:CROP_SIZE, :CROP_SIZE]
    image = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)  # smooth, so that JPEG keeps it
    mask = np.full((CROP_SIZE, CROP_SIZE), 0, np.uint8)
    mask[50:150, 60:160], mask[100:120] = 255, HIDDEN
    mano = ManoLabels(RNG.normal(size=(16, 3, 3)), RNG.normal(size=10), RNG.normal(size=3), "open")
    return Sample(
        key, "made", image, Camera(1280, 720, 700, 705, 640.5, 350), (600.25, 300.5), 212.75, Side.LEFT, (1, 2, 3, 4),
        joints=RNG.normal(size=(21, 3)), mano=mano, keypoints=RNG.normal(size=(21, 2)),
        keypoint_weights=RNG.uniform(size=21), visible=RNG.uniform(size=21) > 0.5, mask=mask, grasp=2, scene="s7",
        tags={"distance": 0.5, "held": "bottle"},
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = [made_sample("a1"), replace(made_sample("b2"), joints=None, mano=None, mask=None, grasp=None)]
    with ShardWriter(tmp_path / "x.tar") as shard:
        for sample in written:
            shard.add(sample)
    read = list(ShardReader(tmp_path, name="made"))
    assert len(read) == 2
    for a, b in zip(written, read, strict=True):
        assert (a.key, a.source, a.camera, a.side, a.box, a.grasp, a.scene, a.tags) == (
            b.key, b.source, b.camera, b.side, b.box, b.grasp, b.scene, b.tags
        )  # fmt: skip
        assert np.abs(a.image.astype(int) - b.image).max() <= 8
        for name in ("joints", "keypoints", "keypoint_weights", "visible", "mask"):
            left, right = getattr(a, name), getattr(b, name)
            assert (left is None) == (right is None)
            if left is not None:
                np.testing.assert_allclose(left, right, rtol=1e-6)
        if a.mano is not None and b.mano is not None:
            np.testing.assert_allclose(a.mano.pose, b.mano.pose, rtol=1e-6)
            assert b.mano.hand_model == "open"
    assert read[1].mano is None


def test_numbers_of_numpy_are_written_as_any_others(tmp_path: Path) -> None:
    sample = replace(made_sample(), grasp=np.int64(3), tags={"distance": np.float32(0.5), "worn": np.bool_(True)})
    assert [type(tag) for tag in sample.tags.values()] == [float, bool]  # errors are broken down by them
    with ShardWriter(tmp_path / "x.tar") as shard:
        shard.add(sample)
    (read,) = ShardReader(tmp_path)
    assert read.grasp == 3 and read.tags == {"distance": 0.5, "worn": True}


def test_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    sample = made_sample()
    for name in ("x.tar", "y.tar"):
        with ShardWriter(tmp_path / name) as shard:
            shard.add(sample)
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


def test_an_interrupted_shard_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "x.tar") as shard:
        shard.add(made_sample())
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_write_the_same_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is started again while the first still works: under the shard's name there is always a whole one."""
    samples, path = [made_sample(key) for key in "abc"], tmp_path / "x.tar"
    with ShardWriter(path) as first:
        for sample in samples:
            first.add(sample)
        monkeypatch.setattr("os.getpid", lambda: -1)
        second = ShardWriter(path)
        second.add(samples[0])
    assert [sample.key for sample in ShardReader(str(path))] == ["a", "b", "c"]
    with second:
        for sample in samples[1:]:
            second.add(sample)
    assert [sample.key for sample in ShardReader(path)] == ["a", "b", "c"] and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_of_a_shard_goes_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (long_ago, now) = tmp_path / "x[1].tar", (time.time() - 3600, time.time())
    killed = f"""
        import os, pathlib, signal
        from wildhands_ros.samples import ShardWriter
        writer = ShardWriter(pathlib.Path({str(path)!r}))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    for at in (long_ago, now):
        assert subprocess.run([sys.executable, "-c", textwrap.dedent(killed)]).returncode == -signal.SIGKILL
        (left,) = set(tmp_path.iterdir())
        os.utime(left, (at, at))
        with ShardWriter(path):
            assert left.exists() == (at == now)  # it may be another process's that has just begun
            if left.exists():
                os.utime(left, (long_ago, long_ago))  # a while later
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()
    other = ShardWriter(path)
    (held,) = set(tmp_path.iterdir())
    os.utime(held, (long_ago, long_ago))
    monkeypatch.setattr("os.getpid", lambda: -1)
    with ShardWriter(path) as shard:
        shard.add(made_sample())
    with other:  # which still works at it
        other.add(made_sample("a"))
    assert [sample.key for sample in ShardReader(path)] == ["a"] and list(tmp_path.iterdir()) == [path]


def test_a_process_of_the_same_number_elsewhere_does_not_empty_a_shard(tmp_path: Path) -> None:
    """As of two containers that share a folder."""
    path = tmp_path / "x.tar"
    with ShardWriter(path) as shard:
        for i in range(3):
            shard.add(made_sample(str(i)))
        with pytest.raises(RecordingError, match="another program is writing .*x.tar"):
            ShardWriter(path)
        shard.add(made_sample("3"))
    assert [sample.key for sample in ShardReader(path)] == ["0", "1", "2", "3"] and list(tmp_path.iterdir()) == [path]


def test_half_written_shards_are_told_by_their_locks_on_nfs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It locks only files that are open for writing. What is new is not locked even for a moment."""
    flock, locked = fcntl.flock, []

    def flock_of_nfs(file: int | io.IOBase, operation: int) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, operation)
        locked.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    path, old, new = (tmp_path / name for name in ("x.tar", "x.tar.1.partial", "x.tar.2.partial"))
    for partial in (old, new):
        partial.touch()
    os.utime(old, (0, 0))
    with ShardWriter(path):
        (own,) = set(tmp_path.iterdir()) - {new}
        assert own.stat().st_ino in locked and new.stat().st_ino not in locked
        os.utime(own, (0, 0))
        delete_abandoned([own])
        assert own.exists()


def test_a_shard_for_which_the_disk_is_too_small_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device: '.*x.tar'"), ShardWriter(tmp_path / "x.tar") as shard:
        shard.add(made_sample())
        monkeypatch.setattr(shard._tar, "close", full)
    with pytest.raises(OSError, match="No space left on device: '.*y.tar'"), ShardWriter(tmp_path / "y.tar") as shard:
        monkeypatch.setattr(shard._tar, "addfile", lambda *given: full())
        shard.add(made_sample())
    assert list(tmp_path.iterdir()) == []


def test_folder_of_shards_is_one_source(tmp_path: Path) -> None:
    for number in range(3):
        with ShardWriter(tmp_path / f"{number}.tar") as shard:
            for k in range(number):
                shard.add(made_sample(f"{number}-{k}"))
    assert [sample.key for sample in ShardReader(tmp_path)] == ["1-0", "2-0", "2-1"]


def test_fingerprints_are_those_of_the_content(tmp_path: Path) -> None:
    samples = [made_sample(key) for key in "abc"]
    joints = samples[1].joints
    assert joints is not None
    changed = [samples[0], replace(samples[1], joints=joints[::-1].copy()), samples[2]]  # as many digits, all in all
    found = []
    for name, written in (("one", samples), ("copy", samples), ("other", changed)):
        with ShardWriter(tmp_path / f"{name}.tar") as shard:
            for sample in written:
                shard.add(sample)
        found.append(ShardReader(tmp_path / f"{name}.tar").fingerprint())
    assert found[0] == found[1] != found[2]


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="wildhands render"):
        ShardReader(tmp_path)
    (tmp_path / "no.tar").write_bytes(b"not a tar file")
    with pytest.raises(SampleError, match="no.tar"):
        ShardReader(tmp_path / "no.tar")
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name in ("k.json", "k.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    with pytest.raises(SampleError, match="odd.tar.*'k'"):
        ShardReader(tmp_path / "odd.tar")[0]


def shard_of(path: Path, **members: bytes) -> Path:
    """A shard of one whole sample 'k', with some of its members (by their ending) replaced, or left out where empty."""
    with ShardWriter(path) as shard:
        shard.add(made_sample("k"))
    with tarfile.open(path) as tar:
        content = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, written in content.items():
            info, new = tarfile.TarInfo(name), members.get(name[2:], written)
            info.size = len(new)
            tar.addfile(info, io.BytesIO(new))
    return path


def flipped(data: bytes, at: int) -> bytes:
    return data[: at + 5] + bytes([data[at + 5] ^ 255]) + data[at + 6 :]


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda data, at: data[:at] + bytes(512) + data[at + 512 :],
        lambda data, at: data[:at],
        lambda data, at: data[: at + 200],
        lambda data, at: data[: at + 512],
        lambda data, at: data[: at + 600],
    ],
    ids=["a byte of a header", "zeros for a header", "cut", "cut in a header", "cut after one", "cut in a picture"],
)
def test_a_shard_whose_rest_is_lost_is_refused(tmp_path: Path, damage: Callable[[bytes, int], bytes]) -> None:
    with ShardWriter(tmp_path / "x.tar") as shard:
        for number in range(4):
            shard.add(made_sample(f"k{number}"))
    with tarfile.open(tmp_path / "x.tar") as tar:
        (at,) = (info.offset for info in tar if info.name == "k2.jpg")
    (tmp_path / "x.tar").write_bytes(damage((tmp_path / "x.tar").read_bytes(), at))
    with pytest.raises(SampleError, match=f"x.tar.*(damaged at byte {at}, after 2 samples|unexpected end).*again"):
        ShardReader(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
def test_a_shard_whose_header_announces_more_than_any_memory_holds_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("k.json")
    info.type, info.size = kind, 1 << 60
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2 * tarfile.BLOCKSIZE))
    with pytest.raises(SampleError, match=r"x.tar is not a readable, uncompressed tar shard \(MemoryError\)"):
        ShardReader(tmp_path / "x.tar")


@pytest.mark.parametrize(
    "change",
    [
        {"camera": {"K": [700, 0]}}, {"center": [1]}, {"center": [1, float("nan")]}, {"size": [float("inf"), 3]},
        {"box": [1, 2, 3]}, {"box": [300, 300, 200, 250]}, {"extent": float("inf")}, {"grasp": 99}, {"grasp": "fist"},
        {"tags": None}, {"tags": {"light": ["a"]}}, {"scene": ["s"]}, {"side": None},
        {"mano": {"pose": [[1]], "betas": [0] * 10, "translation": [0] * 3, "hand_model": "open"}},
    ],
    ids=lambda change: ", ".join(f"{k} {v}" for k, v in change.items())[:30],
)  # fmt: skip
def test_labels_of_wrong_kinds_are_named(tmp_path: Path, change: dict[str, object]) -> None:
    with tarfile.open(shard_of(tmp_path / "x.tar")) as tar:
        record = json.loads(tar.extractfile("k.json").read())  # type: ignore[union-attr]
    path = shard_of(tmp_path / "x.tar", json=json.dumps({**record, **change}).encode())
    with pytest.raises(SampleError, match="x.tar: sample 'k' cannot be read"):
        ShardReader(path)[0]


@pytest.mark.parametrize(
    "members", [{"jpg": b""}, {"png": b""}, {"jpg": b"no"}, {"json": b"[" * 10**5}, {"json": b"[]"}, {"json": b""}]
)
def test_members_that_hold_nothing_are_named(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(SampleError, match="x.tar: sample 'k' cannot be read"):
        ShardReader(shard_of(tmp_path / "x.tar", **members))[0]


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_pictures_of_other_sizes_are_not_decoded(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes of PNG can unpack to gigabytes."""
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 30_000, 30_000)
    path = shard_of(tmp_path / "x.tar", **{kind: header})
    real, decoded = cv2.imdecode, []
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decoded.append(len(data)) or real(data, flags))
    with pytest.raises(SampleError, match="'k' cannot be read .*30000x30000 pixels, not 224x224"):
        ShardReader(path)[0]
    assert len(decoded) == (1 if kind == "png" else 0)  # the whole picture beside the mask


def test_incomplete_doubled_and_compressed_shards_are_refused(tmp_path: Path) -> None:
    path = shard_of(tmp_path / "x.tar")
    with tarfile.open(path) as tar, tarfile.open(tmp_path / "two.tar", "w") as two:
        for info in [*tar, *tar]:
            two.addfile(info, tar.extractfile(info))
    (tmp_path / "x.tgz").write_bytes(gzip.compress(path.read_bytes()))
    with tarfile.open(tmp_path / "bare.tar", "w") as bare:
        bare.addfile(tarfile.TarInfo("k.jpg"))
    for name, said in (("two.tar", "two members 'k.jpg'"), ("x.tgz", "uncompressed"), ("bare.tar", "'k.jpg'")):
        with pytest.raises(SampleError, match=f"{name}.*{said}"):
            ShardReader(tmp_path / name)
    with pytest.raises(ValueError, match="'k' already"), ShardWriter(tmp_path / "y.tar") as shard:
        shard.add(made_sample("k"))
        shard.add(made_sample("k"))


def test_shards_may_be_packed_by_tar(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "own.tar") as shard:
        for key in "ab":
            shard.add(made_sample(key))
    (tmp_path / "folder").mkdir()
    with tarfile.open(tmp_path / "own.tar") as tar:
        for info in tar:
            (tmp_path / "folder" / info.name).write_bytes(tar.extractfile(info).read())
    with tarfile.open(tmp_path / "packed.tar", "w") as tar:
        tar.add(tmp_path / "folder", ".")
        assert sorted(tar.getnames())[:2] == [".", "./a.jpg"]  # as of `tar -C folder .`
    own, packed = (ShardReader(tmp_path / f"{name}.tar") for name in ("own", "packed"))
    assert {sample.key for sample in packed} == {"a", "b"} and len(packed) == 2
    for sample in packed:
        expected = next(other for other in own if other.key == sample.key)
        assert np.array_equal(sample.image, expected.image) and np.array_equal(sample.mask, expected.mask)


def test_samples_check_themselves() -> None:
    assert len(GRASPS) == GRASP_COUNT
    sample = made_sample()
    with pytest.raises(ValueError, match="joints"):
        replace(sample, joints=np.zeros((20, 3)))
    with pytest.raises(ValueError, match="key"):
        replace(sample, key="a.b")
    for box in ((300, 300, 200, 350), (300, 300, 400, 250), (5, 5, 5, 9), (5, 5, 9, 5)):
        with pytest.raises(ValueError, match="sample 000001: box must have x0 < x1 and y0 < y1"):
            replace(sample, box=box)
    with pytest.raises(ValueError, match="undistorted"):
        fisheye = Camera(640, 480, 300, 300, 320, 240, Distortion.EQUIDISTANT, (0.1, 0, 0, 0))
        replace(sample, camera=fisheye)
    with pytest.raises(ValueError, match="go together"):
        replace(sample, keypoint_weights=None)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("key", 5, "key must be text, not 5"),
        ("image", np.zeros((CROP_SIZE, CROP_SIZE, 3)), "image must hold uint8, not float64"),
        ("image", None, "image must be an array of NumPy, not NoneType"),
        ("side", "west", "side must be 'left' or 'right', not 'west'"),
        ("side", None, "side must be 'left' or 'right', not None"),
        ("extent", "10", "extent must be positive and finite, not 10"),
        ("joints", np.zeros((21, 3)).tolist(), "joints must be an array of NumPy, not list"),
        ("joints", np.zeros((21, 3), complex), "joints must hold real numbers, not complex128"),
        ("joints", np.full((21, 3), "a"), "joints must hold real numbers, not <U1"),
        ("mano", ManoLabels(np.zeros((16, 3, 3)).tolist(), np.zeros(10), np.zeros(3), "open"), "pose must be an array"),
        ("mano", ManoLabels(np.zeros((16, 3, 3)), np.zeros(10), np.zeros(3), None), "hand_model must be a name"),
        ("visible", np.ones(21, int), "visible must hold bool, not int64"),
        ("keypoint_weights", -np.ones(21), "keypoint_weights must be from 0 to 1"),
        ("keypoint_weights", np.full(21, 100), "keypoint_weights must be from 0 to 1"),
        ("mask", np.zeros((CROP_SIZE, CROP_SIZE), bool), "mask must hold uint8, not bool"),
        ("mask", np.ones((CROP_SIZE, CROP_SIZE), np.uint8), "mask must hold 255 .hand., 0 .none. and 127"),
        ("mask", np.where(np.eye(CROP_SIZE) > 0, 255, 254).astype(np.uint8), "mask must hold 255 .hand., 0 .none."),
        ("grasp", 3.0, "grasp must be a class, a whole number from 0 to 8, not 3.0"),
        ("grasp", True, "grasp must be a class, a whole number from 0 to 8, not True"),
        ("source", None, "source must be a name, not None"),
    ],
)
def test_samples_of_wrong_kinds_are_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(made_sample(), **{name: value})


@pytest.mark.parametrize("extent", [100.0, 224.0, 500.0])
def test_which_pixels_of_a_crop_lie_in_the_picture(extent: float) -> None:
    """Those whose centres do: pictures reach half a pixel beyond the centres of their outermost pixels."""
    for center in ((3.0, 350.0), (1277.0, 718.0), (640.0, -10.0)):
        sample = replace(made_sample(), center=center, extent=extent)
        inside = inside_picture(sample)
        for row, column in np.ndindex(CROP_SIZE // 8, CROP_SIZE // 8):
            x, y = (c + (8 * p - 111.5) * extent / 224 for c, p in zip(center, (column, row), strict=True))
            assert inside[8 * row, 8 * column] == (-0.5 < x < 1279.5 and -0.5 < y < 719.5)


def test_samples_of_other_sources_kinds_are_taken() -> None:
    sample = made_sample()
    assert sample.joints is not None and sample.keypoint_weights is not None
    odd = np.where(np.arange(21) < 2, [np.nan, np.inf, *range(19)], 1)
    found = replace(
        sample, side="left", joints=sample.joints.astype(np.float32), keypoint_weights=odd, extent=np.float32(7)
    )  # type: ignore[arg-type]
    assert found.side is Side.LEFT  # by which labels are mirrored
