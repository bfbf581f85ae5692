"""Malformed messages by the thousand, the same for the same seed: `python survival_fuzz.py [--messages N] [--seed N]`.

They go, serialised and read again as a subscription would have them, through the node's worker and its publishers in
this process. Whatever comes, an image ends in one of three ways: its hands are published, or the image or its
camera_info is called bad. Anything else, and an image that never ends, is a find.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from domains import own_domain
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from wildhands_ros.images import RAW_ENCODINGS
from wildhands_ros.node import parameters
from wildhands_ros.node.diagnostics import Drop, Statistics
from wildhands_ros.node.inputs import CameraCache, InputTopics
from wildhands_ros.node.outlets import Outlets
from wildhands_ros.node.overhead import FixedHands
from wildhands_ros.node.worker import HandPipeline, ImageMessage, Worker
from wildhands_ros.pipeline import Pipeline, PipelineConfig
from wildhands_ros.synthetic import demo_photos

EXPECTED = frozenset({"published", "bad_image", "bad_camera_info"})
_HANG_S = 60.0

TEXTS = (
    "", " ", "\n\r\t", "rgb8\0", "RGB8 ", "16UC1", "32FC1", "bayer_rggb8", "jpeg", "compressedDepth png", "%s%n%d",
    "{}", "../../etc/passwd", "$(reboot)", "é漢字🖐", "/a//b/", "x" * 70_000,
)  # fmt: skip
_SIZES = (0, 1, 2, 3, 63, 255, 32_767, 32_769, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = (0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e-320, 1e-12, 1e12, 1e308, -1e308)
_MODELS = ("plumb_bob", "rational_polynomial", "equidistant", "fisheye", "thin_prism", "none", "")
_SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".tiff", ".ppm")

MessageT = TypeVar("MessageT", Image, CompressedImage, CameraInfo)


class Fuzzer:
    """Makes messages that are wrong, most of them in one or two places. The same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def pair(self, *, compressed: bool | None = None) -> tuple[ImageMessage, CameraInfo]:
        """An image and its camera_info; mostly one of them is wrong."""
        rng = self._rng
        compressed = rng.random() < 0.4 if compressed is None else compressed
        width, height = 2 * rng.randint(1, 40), 2 * rng.randint(1, 40)
        image: ImageMessage = self._good_jpeg(width, height) if compressed else self._good_image(width, height)
        info = self._good_info(width, height)
        wrong = rng.random()
        if wrong < 0.75:
            self._spoil(image)
        if wrong > 0.65:
            self._spoil(info)
        if isinstance(image, Image) and rng.random() < 0.3 and 0 < image.width < 2**31 and 0 < image.height < 2**31:
            info.width, info.height = image.width, image.height  # so that it is not found wrong by its size alone
        self._spoil_header(image)
        info.header = image.header
        if rng.random() < 0.005:
            info.header.stamp = self.stamp()
        return image, info

    def good_pair(self) -> tuple[Image, CameraInfo]:
        """An image of any size and encoding, and its camera_info."""
        width, height = 2 * self._rng.randint(1, 400), 2 * self._rng.randint(1, 300)
        image, info = self._good_image(width, height), self._good_info(width, height)
        image.header.frame_id = "camera_optical_frame"
        return image, info

    def stamp(self) -> Time:
        """Of the past or the future, often beyond what clocks show."""
        rng = self._rng
        if rng.random() < 0.9:
            return Time(sec=rng.randrange(2**31), nanosec=rng.randrange(10**9))
        return Time(sec=rng.choice((-(2**31), -1, 0, 2**31 - 1)), nanosec=rng.choice((0, 10**9, 2**32 - 1)))

    def bytes_of(self, message: ImageMessage | CameraInfo) -> bytes:
        """The message as on the wire, but with wrong bytes."""
        rng, data = self._rng, bytearray(serialize_message(message))
        cut = rng.random()
        if cut < 0.3:
            return bytes(data[: rng.randrange(len(data))])
        if cut < 0.4:
            return rng.randbytes(rng.randrange(200))
        for _ in range(rng.randint(1, 20)):  # mostly in front, where lengths and sizes are
            data[rng.randrange(4, min(len(data), rng.choice((60, len(data)))))] = rng.randrange(256)
        return bytes(data)

    # --- what is right ----------------------------------------------------------------------------------------------

    def _good_image(self, width: int, height: int) -> Image:
        rng = self._rng
        encoding = rng.choice(RAW_ENCODINGS)
        values = 4 if "a8" in encoding or "a16" in encoding or "c4" in encoding else 3
        values = 1 if encoding.startswith(("mono", "bayer", "nv")) or encoding.endswith("c1") else values
        values = 2 if encoding.startswith("yuv") else values
        padding = rng.choice((0, 0, 5))
        step = width * values * (2 if "16" in encoding else 1) + padding
        message = Image(width=width, height=height, encoding=encoding, step=step)
        message.data.frombytes(rng.randbytes(step * (height * 3 // 2 if encoding.startswith("nv") else height)))
        return message

    def _good_jpeg(self, width: int, height: int) -> CompressedImage:
        picture = np.frombuffer(self._rng.randbytes(width * height * 3), np.uint8).reshape(height, width, 3)
        message = CompressedImage(format=self._rng.choice(("jpeg", "png", "rgb8; jpeg compressed bgr8")))
        message.data.frombytes(cv2.imencode(self._rng.choice(_SUFFIXES), picture)[1].tobytes())
        return message

    def _good_info(self, width: int, height: int) -> CameraInfo:
        focal = self._rng.uniform(10, 1000)
        k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        p = [focal, 0.0, width / 2, 0.0, 0.0, focal, height / 2, 0.0, 0.0, 0.0, 1.0, 0.0]
        return CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5, k=k, p=p)

    # --- what is wrong ----------------------------------------------------------------------------------------------

    def _spoil(self, message: ImageMessage | CameraInfo) -> None:
        spoil: Mapping[type, Callable[..., None]] = {
            Image: self._spoil_image,
            CompressedImage: self._spoil_jpeg,
            CameraInfo: self._spoil_info,
        }
        for _ in range(self._rng.choice((1, 1, 1, 2, 4))):
            spoil[type(message)](message)

    def _spoil_image(self, image: Image) -> None:
        what = self._rng.randrange(6)
        if what == 0:
            image.width = self._size(image.width)
        elif what == 1:
            image.height = self._size(image.height)
        elif what == 2:
            image.step = self._size(image.step)
        elif what == 3:
            image.encoding = self._rng.choice((*TEXTS, *RAW_ENCODINGS))
        elif what == 4:
            self._spoil_data(image)
        else:
            image.is_bigendian = self._rng.randrange(256)

    def _spoil_jpeg(self, image: CompressedImage) -> None:
        if self._rng.random() < 0.2:
            image.format = self._rng.choice(TEXTS)
        else:
            self._spoil_data(image)

    def _spoil_data(self, image: ImageMessage) -> None:
        rng, data = self._rng, bytearray(image.data)
        what = rng.randrange(5)
        if what == 0:
            data = data[: rng.randrange(len(data) + 1)]
        elif what == 1:
            data += rng.randbytes(rng.choice((1, 100, 5000)))
        elif what == 2:
            data = bytearray(rng.randbytes(rng.choice((0, 1, 10, 1000))))
        elif what == 3 and data:
            start = rng.randrange(len(data))
            del data[start : start + rng.randint(1, 50)]
        for _ in range(rng.randint(1, 30) if data and what == 4 else 0):
            data[rng.randrange(min(len(data), rng.choice((40, 400, len(data)))))] = rng.choice((0, 0xFF, 0x7F, 0x80, 1))
        image.data = type(image)().data
        image.data.frombytes(bytes(data))

    def _spoil_info(self, info: CameraInfo) -> None:
        rng = self._rng
        what = rng.randrange(7)
        if what == 0:
            info.width = self._size(info.width)
        elif what == 1:
            info.height = self._size(info.height)
        elif what == 2:
            matrix = rng.choice((info.k, info.p, info.r))
            matrix[rng.randrange(len(matrix))] = rng.choice(NUMBERS)
        elif what == 3:
            info.distortion_model = rng.choice((*TEXTS, *_MODELS))
        elif what == 4:
            info.d = [
                rng.choice((0.0, rng.gauss(0, 1), *NUMBERS)) for _ in range(rng.choice((0, 1, 4, 5, 8, 12, 14, 999)))
            ]
        elif what == 5:
            info.binning_x, info.binning_y = rng.choice(_SIZES), rng.choice(_SIZES)
        else:
            roi = info.roi
            roi.x_offset, roi.y_offset = rng.choice(_SIZES), rng.choice(_SIZES)
            roi.width, roi.height, roi.do_rectify = rng.choice(_SIZES), rng.choice(_SIZES), rng.random() < 0.5

    def _spoil_header(self, message: ImageMessage) -> None:
        rng = self._rng
        message.header.frame_id = rng.choice(TEXTS) if rng.random() < 0.2 else "camera_optical_frame"
        message.header.stamp = self.stamp()

    def _size(self, size: int) -> int:
        return self._rng.choice((*_SIZES, size - 1 if size else 0, size + 1, self._rng.randrange(2 * size + 2)))


# --- through the node's worker --------------------------------------------------------------------------------------


class Witness(Statistics):
    """Statistics that tell how each image ended: "published", or the kind of the problem that it came to."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Condition()
        self._failed_now = False
        self._endings: list[tuple[str, str]] = []

    def result_published(
        self, hands: int, latency_s: float, timings: Mapping[str, float], *, capture_s: float = math.nan
    ) -> None:
        super().result_published(hands, latency_s, timings, capture_s=capture_s)
        self._end("published", "")

    def image_failed(self) -> None:
        super().image_failed()
        self._failed_now = True

    def image_dropped(self, cause: Drop) -> None:
        super().image_dropped(cause)
        self._end(f"dropped: {cause.value}", "")

    def report(self, kind: str, text: str) -> None:
        """The reason follows the failure; other problems of an image come before it."""
        self.problem(kind, text)
        if self._failed_now:
            self._failed_now = False
            self._end(kind, text)

    def ending(self) -> tuple[str, str]:
        """Waits for the end of the image that was given last."""
        with self._news:
            if not self._news.wait_for(lambda: self._endings, _HANG_S):
                return "hangs", f"no end within {_HANG_S:g} s"
            return self._endings.pop(0)

    def _end(self, kind: str, text: str) -> None:
        with self._news:
            self._endings.append((kind, text))
            self._news.notify_all()


class Mill:
    """The node's worker and publishers around a pipeline, without the topics of its inputs; a context manager."""

    def __init__(self, pipeline: HandPipeline) -> None:
        self._pipeline = pipeline

    def __enter__(self) -> Mill:
        rclpy.init(args=[], domain_id=own_domain())
        self._node = LifecycleNode("mill", enable_rosout=False)
        self._node.trigger_configure()
        self.witness = Witness()
        outlets = Outlets(self._node, self.witness.report)
        for kind, topic in (
            (MarkerArray, "/mill/markers"), (TFMessage, "/tf"), (PointCloud2, "/mill/points"),
            (CompressedImage, "/mill/image_annotated/compressed"),
        ):  # fmt: skip
            self._node.create_subscription(kind, topic, lambda _message: None, 1)
        self._node.trigger_activate()
        settings = parameters.snapshot({row.name: row.default for row in parameters.parameter_table()})
        self._worker = Worker(
            self._pipeline, outlets, InputTopics("/image", "/camera_info", False), CameraCache(False),
            settings=lambda: settings, statistics=self.witness, report=self.witness.report,
            clock=self._node.get_clock(), context=self._node.context, bridge=None, transforms=None,
        )  # fmt: skip
        self._worker.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._worker.stop()
        self._node.destroy_node()
        rclpy.shutdown()

    def grind(self, image: ImageMessage, info: CameraInfo) -> tuple[str, str]:
        """How an image ends: a kind and its reason."""
        self._worker.put_info(info)
        self._worker.put_image(image)
        return self.witness.ending()


@dataclass
class FuzzReport:
    """endings: how many images ended how. finds: what must not be. slowest_s: the longest that one image took.
    grown_mb: resident memory after the last message against that after a tenth of them; peak_mb: the most there was.
    """

    seed: int
    messages: int
    endings: dict[str, int] = field(default_factory=dict)
    finds: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    grown_mb: float = 0.0
    peak_mb: float = 0.0
    seconds: float = 0.0


def fuzz(messages: int, seed: int) -> FuzzReport:
    """Images with camera_info through a node whose pipeline always finds two hands. `messages` counts both."""
    fuzzer, report = Fuzzer(seed), FuzzReport(seed, messages)
    with Mill(FixedHands(PipelineConfig())) as mill:
        _grind(mill, (fuzzer.pair for _ in range(messages // 2)), report)
    return report


def fuzz_pipeline(images: int, seed: int) -> FuzzReport:
    """Photographs of hands, cut and stretched to odd sizes, with cameras that no factory makes, through the real
    pipeline: nothing is malformed here, and everything is unlikely."""
    rng, report = random.Random(seed), FuzzReport(seed, 2 * images)
    photos = [image for _, image in demo_photos()]
    with Mill(Pipeline.from_config(PipelineConfig())) as mill:
        _grind(mill, ((lambda: _odd_pair(rng, photos)) for _ in range(images)), report)
    return report


def _grind(mill: Mill, makers: object, report: FuzzReport) -> None:
    began, endings, at_a_tenth = time.monotonic(), Counter[str](), 0.0
    for i, make in enumerate(makers):  # type: ignore[arg-type, var-annotated]
        image, info = (_over_the_wire(message) for message in make())
        if i == report.messages // 20:
            at_a_tenth = resident_mb()
        start = time.monotonic()
        kind, reason = mill.grind(image, info)
        report.slowest_s = max(report.slowest_s, time.monotonic() - start)
        endings[kind] += 1
        if kind not in EXPECTED:
            report.finds.append(f"image {i}: {kind}: {reason}"[:1500])
        if kind == "hangs":
            break
    report.endings = dict(endings)
    report.grown_mb = resident_mb() - at_a_tenth
    report.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report.seconds = time.monotonic() - began


def _over_the_wire(message: MessageT) -> MessageT:
    return deserialize_message(serialize_message(message), type(message))  # type: ignore[no-any-return]


def _odd_pair(rng: random.Random, photos: list[np.ndarray]) -> tuple[Image, CameraInfo]:
    photo = rng.choice(photos)
    width, height = (rng.choice((1, 2, 7, 64, 333, 640, 1280, 3000)) for _ in range(2))
    if rng.random() < 0.6:  # in its proportions, so that hands are found in it
        width = rng.choice((320, 640))
        height = round(width * photo.shape[0] / photo.shape[1])
    picture = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
    image = Image(width=width, height=height, encoding="rgb8", step=3 * width)
    image.data.frombytes(np.ascontiguousarray(picture).tobytes())
    image.header.frame_id = "camera_optical_frame"
    nanoseconds = rng.choice((0, 1, 10**6, 33 * 10**6, 10**9, 2**62, rng.randrange(2**60)))
    image.header.stamp = Time(sec=min(nanoseconds // 10**9, 2**31 - 1), nanosec=nanoseconds % 10**9)
    fx, fy = (rng.choice((1e-300, 1e-6, 0.1, 10.0, 0.6 * width, 0.6 * width, 1e4, 1e9, 1e300)) for _ in range(2))
    fy = fx if rng.random() < 0.7 else fy
    cx, cy = (rng.choice((size / 2, size / 2, -1e6, 1e9, 1e300)) for size in (width, height))
    model, count = rng.choice((("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 4), ("plumb_bob", 0)))
    spread = rng.choice((0.0, 0.1, 10.0, 1e6, 1e200))
    info = CameraInfo(width=width, height=height, distortion_model=model, header=image.header)
    info.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    info.d = [rng.gauss(0, 1) * spread for _ in range(count)]
    return image, info


def resident_mb() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> int:
    """Prints the report; exit code 1 where there are finds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=10_000, help="images and camera_infos together")
    parser.add_argument("--images", type=int, default=200, help="odd pictures through the real pipeline")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    reports = {"messages": fuzz(args.messages, args.seed), "pipeline": fuzz_pipeline(args.images, args.seed)}
    print(json.dumps({name: asdict(report) for name, report in reports.items()}, indent=2))
    return 1 if any(report.finds for report in reports.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
