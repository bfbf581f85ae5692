"""Pictures, folders, videos and webcams as frames; videos written."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wildhands_ros.box_files import BoxFile
from wildhands_ros.camera import Camera
from wildhands_ros.errors import CameraError, ConfigError, ImageError, RecordingError
from wildhands_ros.images import decode_compressed, encode_jpeg
from wildhands_ros.recordings import BagWriter, SourceKind, VideoWriter, open_source
from wildhands_ros.recordings import video as videos
from wildhands_ros.recordings.bag_source import COMPRESSED_IMAGE
from wildhands_ros.recordings.pictures import exif_focal_35mm, natural_key
from wildhands_ros.recordings.video import VideoSource, is_cut_off


def scene(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A smooth picture whose brightness tells its index (RGB, red on the left)."""
    image = np.full((height, width, 3), 20 + 10 * index, np.uint8)
    image[:, : width // 3, 0] = 220
    return image


def brightness_index(image: np.ndarray) -> int:
    return round((float(image[10:-10, image.shape[1] // 2 :].mean()) - 20) / 10)  # codecs shift colours by up to 4


def write_video(path: Path, count: int = 20, fps: float = 25.0, size: tuple[int, int] = (96, 64)) -> None:
    with VideoWriter(path, fps) as video:
        for i in range(count):
            video.write(scene(i, *size))


def boxes(data: bytes) -> dict[bytes, tuple[int, int]]:
    """Place and length of the outermost boxes of an MP4."""
    found, place = {}, 0
    while place < len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        found[kind] = (place, length)
        place += length
    return found


def index_first(data: bytes) -> bytes:
    """The same MP4 with its index (moov) in front of the pictures, as cameras and web videos have it."""
    found = boxes(data)
    place, length = found[b"moov"]
    moov = bytearray(data[place : place + length])
    table = moov.find(b"stco")
    (count,) = struct.unpack_from(">I", moov, table + 8)
    for entry in range(table + 12, table + 12 + 4 * count, 4):
        struct.pack_into(">I", moov, entry, struct.unpack_from(">I", moov, entry)[0] + length)
    head = found[b"ftyp"][1]
    return data[:head] + bytes(moov) + data[head:place] + data[place + length :]


# --- pictures -------------------------------------------------------------------------------------------------------


def test_a_picture_is_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "hand.png"
    cv2.imwrite(str(path), scene(3)[..., ::-1])
    with open_source(path, focal=80.0) as source:
        assert (source.kind, source.length, source.camera_is_guess, source.fps) == (SourceKind.PICTURE, 1, False, None)
        (frame,) = source
    np.testing.assert_array_equal(frame.image, scene(3))
    assert frame.camera == Camera.pinhole(96, 64, 80.0)
    assert (frame.name, frame.index, frame.stamp_ns) == ("hand.png", 0, 0)


def test_a_folder_is_sorted_as_people_sort(tmp_path: Path) -> None:
    for i in (10, 2, 1):
        cv2.imwrite(str(tmp_path / f"Frame{i}.jpg"), scene(i)[..., ::-1])
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    source = open_source(tmp_path, fps=10)
    for _ in range(2):  # again from the start
        frames = list(source)
        assert [f.name for f in frames] == ["Frame1.jpg", "Frame2.jpg", "Frame10.jpg"]
        assert [brightness_index(f.image) for f in frames] == [1, 2, 10]
        assert [f.stamp_ns for f in frames] == [0, 100_000_000, 200_000_000]
    assert source.kind is SourceKind.FOLDER and source.length == 3 and source.camera_is_guess


@settings(deadline=None)
@given(st.lists(st.integers(0, 2000), min_size=2, unique=True))
def test_natural_order_is_numeric(numbers: list[int]) -> None:
    assert sorted((f"a{n}b.png" for n in numbers), key=natural_key) == [f"a{n}b.png" for n in sorted(numbers)]


def test_mixed_sizes_get_their_own_cameras(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), scene(0, 96, 64))
    cv2.imwrite(str(tmp_path / "2.png"), scene(0, 192, 128))
    cv2.imwrite(str(tmp_path / "3.png"), scene(0, 64, 96))
    assert [f.camera for f in open_source(tmp_path)] == [
        Camera.guess(96, 64), Camera.guess(192, 128), Camera.guess(64, 96)
    ]  # fmt: skip
    camera = Camera.pinhole(96, 64, 70)
    source = open_source(tmp_path, camera=camera)
    assert [f.camera for f in source] == [camera, camera.resized(192, 128)]
    assert "3.png was left out" in source.problems[0] and "another shape" in source.problems[0]
    assert not source.camera_is_guess


def test_one_focal_length_for_pictures_of_different_sizes_is_told(tmp_path: Path) -> None:
    for name, size in (("1.png", (96, 64)), ("2.png", (64, 96)), ("3.png", (192, 128)), ("4.png", (384, 256))):
        cv2.imwrite(str(tmp_path / name), scene(0, *size))
    for how, told in (({"focal": 80.0}, 1), ({}, 0), ({"camera": Camera.pinhole(96, 64, 70)}, 0)):
        source = open_source(tmp_path, **how)  # type: ignore[arg-type]
        focal = [frame.camera.fx for frame in source]
        assert how != {"focal": 80.0} or focal == [80.0] * 4
        problems = [problem for problem in source.problems if "differ in size" in problem]
        assert len(problems) == told
    (tmp_path / "3.png").unlink()
    (tmp_path / "4.png").unlink()
    source = open_source(tmp_path, focal=80.0)  # the same camera, held upright
    assert len(list(source)) == 2 and source.problems == ()


def test_a_damaged_picture_in_a_folder_is_left_out(tmp_path: Path) -> None:
    jpeg = encode_jpeg(scene(1))
    (tmp_path / "1.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "2.jpg").write_bytes(jpeg)
    (tmp_path / "3.png").write_bytes(b"")
    source = open_source(tmp_path)
    frames = list(source)
    assert [(f.name, f.index) for f in frames] == [("2.jpg", 1)]
    assert "1.jpg" in source.problems[0] and "ends early" in source.problems[0] and "3.png" in source.problems[1]
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(RecordingError, match=r"no frame could be read.*1\.jpg"):
        list(open_source(tmp_path))


def test_a_picture_that_is_a_broken_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").symlink_to(".git/annex/objects/1.jpg")
    (tmp_path / "2.jpg").write_bytes(encode_jpeg(scene(2)))
    (tmp_path / "3.jpg").symlink_to("2.jpg")
    (tmp_path / "4.jpg").mkdir()
    source = open_source(tmp_path)
    assert [(f.name, f.index) for f in source] == [("2.jpg", 0), ("3.jpg", 1)] and source.length == 2
    (problem,) = source.problems
    assert "1 pictures are links to files that are not there (1.jpg)" in problem
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(RecordingError, match=r"holds no pictures.*2 pictures are links.*1\.jpg, 3\.jpg"):
        open_source(tmp_path)


def test_pictures_of_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("IMG_10.HEIC", "IMG_9.HEIC", "clip.gif", ".hidden.gif", "notes.txt", "boxes.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more").mkdir()
    of_kinds = r"3 pictures are of kinds that are not read \(clip.gif, IMG_9.HEIC, IMG_10.HEIC\): convert them"
    with pytest.raises(RecordingError, match=rf"holds no pictures.*{of_kinds}; the folders in it \(1\) are not looked"):
        open_source(tmp_path)
    (tmp_path / "1.jfif").write_bytes(encode_jpeg(scene(1)))
    source = open_source(tmp_path)
    assert [f.name for f in source] == ["1.jfif"]
    (problem,) = source.problems
    assert re.search(of_kinds, problem)
    (tmp_path / "more" / "2.jpg").write_bytes(encode_jpeg(scene(2)))
    assert open_source(tmp_path / "more").problems == ()


def test_a_single_damaged_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(encode_jpeg(scene(1))[:-40])
    with pytest.raises(ImageError, match=r"x\.jpg: the JPEG ends early"):
        list(open_source(tmp_path / "x.jpg"))


def with_exif(jpeg: bytes, order: str, *, orientation: int | None = None, focal_35mm: int | None = None) -> bytes:
    """A JPEG with EXIF written by hand (Exif 2.32, 4.6)."""
    pack = (">" if order == "MM" else "<").__add__

    def entry(tag: int, kind: int, value: int) -> bytes:
        short = kind == 3
        return struct.pack(pack("HHIHH" if short else "HHII"), tag, kind, 1, *([value, 0] if short else [value]))

    entries = ([entry(0x0112, 3, orientation)] if orientation else []) + [entry(0x8769, 4, 0)]
    sub = 8 + 2 + 12 * len(entries) + 4
    entries[-1] = entry(0x8769, 4, sub)
    first = struct.pack(pack("H"), len(entries)) + b"".join(entries) + bytes(4)
    second_entries = [entry(0xA405, 3, focal_35mm)] if focal_35mm else []
    second = struct.pack(pack("H"), len(second_entries)) + b"".join(second_entries) + bytes(4)
    tiff = order.encode() + struct.pack(pack("HI"), 42, 8) + first + second
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("order", ["II", "MM"])
def test_exif_turns_the_picture_and_tells_the_focal_length(tmp_path: Path, order: str) -> None:
    path = tmp_path / "phone.jpg"
    path.write_bytes(with_exif(encode_jpeg(scene(2)), order, orientation=6, focal_35mm=26))
    source = open_source(path)
    (frame,) = source
    assert frame.image.shape == (96, 64, 3)  # a quarter turn clockwise: what was left is now on top
    assert frame.image[5, 32, 0] > 180 > frame.image[-5, 32, 0]
    # 26 mm on film of 43.27 mm diagonal: by hand, sqrt(96² + 64²) / 43.267 * 26
    assert frame.camera.fx == pytest.approx(69.33, abs=0.01)
    assert source.camera_is_guess
    assert open_source(path, focal=50).camera_is_guess is False


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_does_not_turn_what_a_camera_publishes(tmp_path: Path, orientation: int) -> None:
    """Its calibration is of the pixels as they are; half a turn or a mirror would not even show in the size."""
    corner = np.zeros((64, 96, 3), np.uint8)
    corner[:20, :40] = 255
    plain = encode_jpeg(corner)
    tagged = with_exif(plain, "II", orientation=orientation)
    assert (orientation == 1) == np.array_equal(decode_compressed(tagged, turned=True), decode_compressed(plain))
    with BagWriter(tmp_path / "bag.mcap") as bag:
        bag.add_topic("/camera/image_raw/compressed", COMPRESSED_IMAGE)
        stamp = bag.types["builtin_interfaces/msg/Time"](1, 0)
        header = bag.types["std_msgs/msg/Header"](stamp, "camera")
        message = bag.types[COMPRESSED_IMAGE](header, "jpeg", np.frombuffer(tagged, np.uint8))
        bag.write("/camera/image_raw/compressed", message, 1)
    (frame,) = open_source(tmp_path / "bag.mcap", focal=50)
    np.testing.assert_array_equal(frame.image, decode_compressed(plain))


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_damaged_exif_harms_nobody(rubbish: bytes) -> None:
    exif_focal_35mm(b"\xff\xd8\xff\xe1\0\x60Exif\0\0II*\0\x08\0\0\0" + rubbish)
    exif_focal_35mm(b"\xff\xd8" + rubbish)


# --- videos ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_video_round_trip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with open_source(path) as source:
        assert (source.kind, source.length, source.camera_is_guess) == (SourceKind.VIDEO, 20, True)
        assert source.fps == pytest.approx(25, abs=0.01)
        for _ in range(2):
            frames = list(source)
            assert [brightness_index(f.image) for f in frames] == list(range(20))
            assert [f.index for f in frames] == list(range(20))
            np.testing.assert_allclose([f.stamp_ns for f in frames], np.arange(20) * 40e6, atol=1.1e6)
            assert frames[0].image[32, 8, 0] > 180 > frames[0].image[32, 8, 2]  # red, not blue
        assert source.problems == ()


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize("cut", [0.55, 0.7, 0.9])
def test_a_video_that_ends_mid_frame_gives_the_frames_before_it(tmp_path: Path, suffix: str, cut: float) -> None:
    rng = np.random.default_rng(3)
    noise = [cv2.resize(rng.integers(0, 255, (16, 24, 3), np.uint8), (96, 64)) for _ in range(20)]
    path = tmp_path / f"clip{suffix}"
    with VideoWriter(path, 25) as video:
        for image in noise:
            video.write(image)
    data = path.read_bytes()
    data = index_first(data) if suffix == ".mp4" else data
    path.write_bytes(data)
    whole = [f.image for f in open_source(path)]
    assert len(whole) == 20
    path.write_bytes(data[: int(len(data) * cut)])
    source = open_source(path)
    frames = list(source)
    assert 20 * cut - 5 <= len(frames) <= 20 * cut
    for frame, image in zip(frames, whole, strict=False):
        np.testing.assert_array_equal(frame.image, image)
    assert f"is cut off: {len(frames)} whole frames" in source.problems[0]


@pytest.mark.parametrize("trailer", [b"\0\0\0", bytes(1000), b"what a camera appends, in its own way" * 9])
@pytest.mark.parametrize("index_in_front", [False, True])
def test_what_a_camera_appends_to_a_video_costs_no_frame(tmp_path: Path, trailer: bytes, index_in_front: bool) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 10)
    data = path.read_bytes()
    path.write_bytes((index_first(data) if index_in_front else data) + trailer)
    source = open_source(path)
    assert [brightness_index(f.image) for f in source] == list(range(10))
    assert source.problems == ()


@pytest.mark.parametrize("whole", [True, False])
def test_a_video_of_more_than_four_gigabytes_is_whole_where_it_is(tmp_path: Path, whole: bool) -> None:
    """Their sizes have 64 bits, for which writers leave room; here for one that is as small as any."""
    path = tmp_path / "clip.mp4"
    write_video(path, 10)
    data = path.read_bytes()
    place = data.index(b"mdat") - 12  # an empty box, and the head of the one with the pictures
    empty, kind, size = struct.unpack_from(">I4sI", data, place)
    assert (empty, kind) == (8, b"free")
    long = struct.pack(">I4sQ", 1, b"mdat", size + 8 if whole else 1 << 33)
    path.write_bytes(data[:place] + long + data[place + 16 :])
    assert is_cut_off(path) is not whole
    if whole:
        source = open_source(path)
        assert [brightness_index(f.image) for f in source] == list(range(10)) and source.problems == ()


@pytest.mark.parametrize("fps", [0.4, 29.97, 66.667, 119.953, 239.974])
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_videos_have_any_number_of_frames_a_second(tmp_path: Path, suffix: str, fps: float) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, 3, fps=fps)
    with open_source(path) as source:
        assert source.fps == pytest.approx(fps, rel=1e-3)


def test_colons_are_part_of_a_videos_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(Path("12:30:05.mp4"), 4)
    assert len(list(open_source("12:30:05.mp4"))) == 4


def test_videos_whose_names_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """OpenCV would end the process."""
    write_video(tmp_path / "clip.mp4", 4)
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    (tmp_path / "clip.mp4").rename(strange)
    with pytest.raises(RecordingError, match="rename the file"):
        open_source(strange)
    with pytest.raises(RecordingError, match="rename the file"):
        VideoWriter(strange, 25)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".webm"])
def test_videos_whose_frames_would_fill_the_memory_are_refused(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, 4, size=(96, 64))
    monkeypatch.setattr(videos, "MOST_PIXELS", 96 * 64)
    assert len(list(open_source(path))) == 4
    monkeypatch.setattr(videos, "MOST_PIXELS", 96 * 64 - 1)
    with pytest.raises(RecordingError, match=rf"clip\{suffix} has frames of 96x64 pixels, more than"):
        open_source(path)


@pytest.mark.parametrize("opencv", ["new", "of a distribution"])
def test_a_webm_that_ends_early_says_so(tmp_path: Path, opencv: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if opencv != "new":  # which knows no times by the file's own clock
        monkeypatch.delattr(cv2, "CAP_PROP_PTS", raising=False)
        monkeypatch.setattr(videos, "_PTS", None)
    path = tmp_path / "clip.webm"
    write_video(path)
    with open_source(path) as source:
        assert source.fps == 25 and len(list(source)) == 20 and source.problems == ()
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    source = open_source(path)
    frames = list(source)
    assert 3 < len(frames) < 20
    assert [brightness_index(f.image) for f in frames] == list(range(len(frames)))
    assert "ends early" in source.problems[0] and str(len(frames)) in source.problems[0]


@pytest.mark.parametrize("first", [8, 0])
def test_damaged_frames_cost_only_themselves(tmp_path: Path, first: int) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path)
    data = bytearray(path.read_bytes())
    frames = [m.start() for m in re.finditer(b"\0\0\x01\xb6", data)]  # MPEG-4's start code of a picture
    data[frames[first] : frames[first + 2]] = bytes(frames[first + 2] - frames[first])
    path.write_bytes(data)
    source = open_source(path)
    for _ in range(2):
        stamps = [round(f.stamp_ns / 40e6) for f in source]
        assert stamps == [*range(first), *range(first + 2, 20)]
    assert source.problems == (f"video {path} is damaged: 18 frames were read, 2 are missing",)


class FakeVideo:
    """cv2.VideoCapture of a video whose frames have these times in milliseconds; None: a packet that is damaged."""

    def __init__(self, times: list[float | None], count: int) -> None:
        self.times, self.count, self.now = iter(times), count, 0.0

    def get(self, what: int) -> float:
        height, width = scene(1).shape[:2]
        return {
            cv2.CAP_PROP_FRAME_COUNT: self.count, cv2.CAP_PROP_FPS: 25.0, cv2.CAP_PROP_POS_MSEC: self.now,
            cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height,
        }[what]  # fmt: skip

    def read(self) -> tuple[bool, np.ndarray | None]:
        time_ms = next(self.times, None)
        if time_ms is None:
            return False, None
        self.now = time_ms
        return True, scene(1)

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("times", "stamps", "missing"),
    [
        ([0, 40, None, 120, 200, 160, 240], [0, 40, 120, 200, 240], 2),  # damage brought frames out of their order
        ([0, 40, None, None, 200, 240], [0, 40, 200, 240], 3),  # and one was lost unnoticed
        ([0, 40, 80, 120, 160, 200, 240, None, 280], [0, 40, 80, 120, 160, 200, 240], 0),  # all that were announced
        ([0, 40, None, *range(120, 281, 40), None], [0, 40, *range(120, 281, 40)], 1),
        ([0, 0, 0, None, 0, 0], [0, 40, 80, 120, 160], 2),  # no times
        ([0, None, 0, 0, 0, 0], [0, 40, 80, 120, 160], 2),
        ([0, 40, None, 10_000_000, 160, 200], [0, 40, 10_000_000, 10_000_040, 10_000_080], 2),  # a time is damaged
    ],
)
def test_frames_behind_damage_are_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: list[float | None], stamps: list[int], missing: int
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"whole")
    monkeypatch.setattr(VideoSource, "_open", lambda _: FakeVideo(times, 7))
    source = open_source(path)
    assert [f.stamp_ns // 1_000_000 for f in source] == stamps
    says = f"video {path} is damaged: {len(stamps)} frames were read, {missing} are missing"
    assert source.problems == ((says,) if missing else ())


def test_reading_on_behind_damage_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"whole")
    monkeypatch.setattr(VideoSource, "_open", lambda _: FakeVideo([0, 40], 100_000_000))
    source = open_source(path)
    assert len(list(source)) == 2 and "ends early: 2 frames" in source.problems[0]


def test_a_webm_of_unknown_rate_has_the_rate_of_its_frames(tmp_path: Path) -> None:
    """Browsers' recordings: without a default duration, and in milliseconds, which FFmpeg takes for 1000 a second."""
    path = tmp_path / "clip.webm"
    write_video(path, 20, fps=30)
    data = path.read_bytes()
    place = data.index(b"\x23\xe3\x83\x84")  # DefaultDuration, of four bytes
    data = bytearray(data[:place] + b"\xec\x86" + bytes(6) + data[place + 8 :])
    block = data.index(b"\x1f\x43\xb6\x75")  # Cluster
    time_ms = 0
    for index in range(20):  # the blocks' times, as they come to a browser
        block = data.index(b"\x81" + struct.pack(">h", round(index * 1000 / 30)), block) + 1
        data[block : block + 2] = struct.pack(">h", time_ms)
        time_ms += (29, 60, 31, 33, 41, 36)[index % 6]
    path.write_bytes(data)
    with cv2_capture(path) as capture:
        assert capture.get(cv2.CAP_PROP_FPS) > 100
    with open_source(path) as source:
        assert source.fps == pytest.approx(1000 / 36, abs=4) and source.length is None
        assert len(list(source)) == 20 and source.problems == ()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with open_source(path) as source:
        assert len(list(source)) < 20 and "ends early" in source.problems[0]


@contextlib.contextmanager
def cv2_capture(path: Path) -> Iterator[cv2.VideoCapture]:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    yield capture
    capture.release()


@pytest.mark.parametrize("content", ["no index", "garbage", "empty"])
def test_videos_that_cannot_be_opened(tmp_path: Path, content: str) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 5)
    data = path.read_bytes()
    path.write_bytes({"no index": data[: boxes(data)[b"moov"][0]], "garbage": b"\x07" * 5000, "empty": b""}[content])
    with pytest.raises(RecordingError, match=r"clip\.mp4 cannot be opened"):
        open_source(path)


def test_videos_of_which_no_frame_can_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 5)
    path.write_bytes(path.read_bytes().replace(b"mp4v", b"av01").replace(b"esds", b"free"))
    source = open_source(path)
    with pytest.raises(RecordingError, match=r"clip\.mp4 cannot be decoded.*this OpenCV does not know.*ffmpeg -i"):
        list(source)
    assert len(source.problems) == 1


def test_a_killed_writer_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    script = (
        "import os, sys, numpy as np; from wildhands_ros.recordings import VideoWriter\n"
        "video = VideoWriter(sys.argv[1], 25)\n"
        "for i in range(5): video.write(np.zeros((64, 96, 3), np.uint8))\n"
        "os._exit(9)"
    )
    path = tmp_path / "out.mp4"
    assert subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parents[1]).returncode == 9
    assert not path.exists()


def test_a_failed_run_leaves_no_video_and_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    write_video(path, 3)
    before = path.read_bytes()
    with pytest.raises(RecordingError, match="resize"), VideoWriter(path, 25) as video:
        video.write(scene(0))
        video.write(scene(0, 64, 64))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_an_interruption_while_a_video_is_begun_leaves_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = VideoWriter._open

    def interrupted(self: VideoWriter, width: int, height: int) -> None:
        begin(self, width, height)
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "_open", interrupted)
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "out.mp4", 25) as video:
        video.write(scene(0))
    assert list(tmp_path.iterdir()) == []


def test_writing_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"\.mp4"):
        VideoWriter(tmp_path / "x.gif", 25)
    with pytest.raises(RecordingError, match="frames a second"):
        VideoWriter(tmp_path / "x.mp4", 0)
    with pytest.raises(RecordingError, match="no pictures"), VideoWriter(tmp_path / "x.mp4", 25):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="cannot create"), VideoWriter(tmp_path / "file" / "x.mp4", 25) as video:
        video.write(scene(0))


@pytest.mark.parametrize("before", [True, False])
def test_a_video_is_not_written_over_a_folder(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "x.mp4"
    if before:
        path.mkdir()
    with pytest.raises(RecordingError, match=r"cannot write the video .*/x\.mp4: "), VideoWriter(path, 25) as video:
        video.write(scene(0))
        assert not before  # said before any work was done
        path.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"] and not list(path.iterdir())


def test_odd_sides_lose_a_row(tmp_path: Path) -> None:
    write_video(tmp_path / "x.mp4", 2, size=(97, 65))
    assert next(iter(open_source(tmp_path / "x.mp4"))).image.shape == (64, 96, 3)


# --- webcams --------------------------------------------------------------------------------------------------------


class FakeCapture:
    """cv2.VideoCapture of a camera that is unplugged after three frames."""

    def __init__(self, index: int) -> None:
        self.index, self.left, self.released = index, 3, False

    def isOpened(self) -> bool:  # OpenCV's name
        return self.index == 0

    def get(self, _: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, scene(1)[..., ::-1].copy()) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.released = True


def test_a_webcam_runs_until_it_is_unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = FakeCapture(0)
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: FakeCapture(index) if index else capture)
    with open_source("webcam:0", focal=60) as source:
        frames = list(source)
        assert not capture.released
    assert capture.released
    assert source.length is None and source.kind is SourceKind.WEBCAM
    assert len(frames) == 3 and brightness_index(frames[0].image) == 1
    assert frames[0].stamp_ns > 1.6e18 and frames[0].stamp_ns <= frames[1].stamp_ns
    assert "unplugged" in source.problems[0]
    with pytest.raises(RecordingError, match="webcam:1 cannot be opened"):
        open_source("webcam:1")


# --- what is nothing of all that -------------------------------------------------------------------------------------


def test_unknown_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.pdf").write_text("")
    (tmp_path / "old.bag").write_text("")
    (tmp_path / "empty").mkdir()
    for source, says in [
        (tmp_path / "missing.png", "does not exist"),
        (tmp_path / "x.pdf", "no known kind"),
        (tmp_path / "old.bag", "rosbags-convert"),
        (tmp_path / "empty", "no pictures"),
        ("webcam:front", "webcam:0"),
        ("webcam:²", "webcam:0"),
        ("webcam:99999999999", "webcam:0"),
    ]:
        with pytest.raises(RecordingError, match=says):
            open_source(source)
    with pytest.raises(CameraError, match="one of them"):
        open_source(tmp_path, focal=3, camera=Camera.guess(4, 4))
    with pytest.raises(CameraError, match="positive"):
        open_source(tmp_path, focal=-3)
    with pytest.raises(RecordingError, match="fps"):
        open_source(tmp_path, fps=0)


# --- boxes beside them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "expected an object with a frame's name or number as key, not a list"),
        ("null", "expected an object with a frame's name or number as key, not null"),
        ('{"a": [{"box": [0, 0, 1, 1]}]}', "'a', box 0: .* problem: it has no \"side\""),
        ('{"a": [{"side": "left"}]}', "'a', box 0: .* problem: it has no \"box\""),
        ('{"a": [[0, 0, 1, 1]]}', "'a', box 0: .* problem: it is no object"),
    ],
)
def test_bad_boxes_are_refused_in_words(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(ConfigError, match=f"{says}$"):
        BoxFile.read(tmp_path / "boxes.json")


def test_a_home_of_nobody_is_no_source() -> None:
    with pytest.raises(RecordingError, match=r"~nobody_of_this_name/clip\.mp4 does not exist"):
        open_source("~nobody_of_this_name/clip.mp4")
