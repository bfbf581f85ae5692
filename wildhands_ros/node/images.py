"""Image messages to RGB arrays and back.

On a ROS distribution cv_bridge decodes what it knows; everything else, and everything where there is no cv_bridge, is
decoded by `wildhands_ros.images`. Both ways call the same OpenCV conversions and give the same picture.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Protocol

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from wildhands_ros.images import JPEG_QUALITY, RgbImage, decode_compressed, decode_raw, encode_jpeg

_FOR_CV_BRIDGE = frozenset(
    [
        "bgr8", "rgba8", "bgra8", "mono8", "mono16", "yuv422", "yuv422_yuy2",
        "bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8",
    ]
)  # fmt: skip
"""What cv_bridge converts to rgb8. It lacks nv12, nv21 and more; rgb8 itself needs no conversion and no copy."""


class Bridge(Protocol):
    """The part of cv_bridge.CvBridge that is used here."""

    def imgmsg_to_cv2(self, img_msg: Image, desired_encoding: str = "passthrough") -> RgbImage:
        """The picture as an array in the desired encoding."""
        ...


def find_bridge(on_broken: Callable[[str], None]) -> Bridge | None:
    """cv_bridge where it is installed and works, else None. on_broken: told why one that is installed does not."""
    try:
        from cv_bridge import CvBridge

        bridge: Bridge = CvBridge()
        # one that was built for another numpy can be imported all the same, and fails with the first image
        pixel = Image(height=1, width=1, encoding="bgr8", step=3, data=array("B", bytes(3)))
        bridge.imgmsg_to_cv2(pixel, desired_encoding="rgb8")
    except Exception as error:  # whatever it is, images can be decoded without
        if not (isinstance(error, ModuleNotFoundError) and error.name == "cv_bridge"):
            on_broken(f"{type(error).__name__}: {error}")
        return None
    return bridge


def decode(message: Image | CompressedImage, bridge: Bridge | None = None) -> RgbImage:
    """The picture of an image message as RGB (H, W, 3) uint8; may share the message's memory and be read-only.

    Compressed pictures never go through cv_bridge, which paints the missing part of a truncated JPEG grey. Raises
    ImageError for messages that contradict themselves and encodings that nobody knows.
    """
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data, message.format)
    if bridge is not None and message.encoding in _FOR_CV_BRIDGE and _is_whole(message):
        return np.asarray(bridge.imgmsg_to_cv2(message, desired_encoding="rgb8"), dtype=np.uint8)
    return decode_raw(message.data, message.height, message.width, message.step, message.encoding, message.is_bigendian)


def image_message(rgb: RgbImage, header: Header) -> Image:
    """An rgb8 message of a picture (H, W, 3) uint8."""
    height, width = rgb.shape[:2]
    message = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = array("B")
    message.data.frombytes(np.ascontiguousarray(rgb).data.cast("B"))  # 0.05 ms; assigning a list would take 40
    return message


def compressed_message(rgb: RgbImage, header: Header, quality: int = JPEG_QUALITY) -> CompressedImage:
    """A JPEG message of a picture (H, W, 3) uint8."""
    message = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
    message.data = array("B")
    message.data.frombytes(encode_jpeg(rgb, quality))
    return message


def _is_whole(message: Image) -> bool:
    """Whether a message can be given to cv_bridge, which checks little: its sizes agree and no row is padded.

    Its Python part ignores padding that is no multiple of a pixel, and newer versions fail on is_bigendian.
    """
    values = 2 if message.encoding.startswith("yuv422") or message.encoding == "mono16" else 1
    values = {"bgr8": 3, "rgba8": 4, "bgra8": 4}.get(message.encoding, values)
    return bool(
        message.height > 0
        and message.width > 0
        and message.step == message.width * values
        and not message.is_bigendian
        and len(message.data) == message.step * message.height
        and not (message.encoding.startswith("yuv422") and message.width % 2)
    )
