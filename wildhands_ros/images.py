"""Image bytes to RGB arrays and back: the one place where pictures are decoded.

Raw encodings are those of sensor_msgs/Image (names from sensor_msgs/image_encodings.hpp). Conversions are OpenCV's, the
same that cv_bridge uses, so that a picture looks the same with and without it.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import ImageError
from wildhands_ros.picture_files import jpeg_scans, picture_size

Buffer: TypeAlias = "bytes | bytearray | memoryview | array[int] | NDArray[np.uint8]"
RgbImage: TypeAlias = NDArray[np.uint8]

JPEG_QUALITY = 90

_DEPTH = re.compile(r"(?<![a-z])depth(?![a-z])")  # /camera/depth/image_rect_raw, /aligned_depth_to_color/image_raw

MOST_PIXELS = 1 << 26
"""Of a compressed picture (8192×8192): 200 MB decoded. A few kilobytes of PNG could otherwise take gigabytes."""

_MOST_PASSED = 16 * MOST_PIXELS
"""Pixels times scans of a JPEG: a few seconds. Encoders make up to a dozen scans."""


@dataclass(frozen=True)
class _Encoding:
    """How one raw encoding lies in memory and becomes RGB.

    channels: values a pixel (interleaved). bits: of each value. conversion: OpenCV's code to RGB, or None for RGB
    itself. halves: rows of half-resolution colour follow the picture (NV12, NV21). even_width: neighbours share colour.
    """

    channels: int
    bits: int
    conversion: int | None
    halves: bool = False
    even_width: bool = False


_RAW: dict[str, _Encoding] = {
    "rgb8": _Encoding(3, 8, None),
    "bgr8": _Encoding(3, 8, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding(4, 8, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding(4, 8, cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding(1, 8, cv2.COLOR_GRAY2RGB),
    "rgb16": _Encoding(3, 16, None),
    "bgr16": _Encoding(3, 16, cv2.COLOR_BGR2RGB),
    "rgba16": _Encoding(4, 16, cv2.COLOR_RGBA2RGB),
    "bgra16": _Encoding(4, 16, cv2.COLOR_BGRA2RGB),
    "mono16": _Encoding(1, 16, cv2.COLOR_GRAY2RGB),
    # OpenCV's own type names carry no colour order; its pictures are BGR
    "8uc1": _Encoding(1, 8, cv2.COLOR_GRAY2RGB),
    "8uc3": _Encoding(3, 8, cv2.COLOR_BGR2RGB),
    "8uc4": _Encoding(4, 8, cv2.COLOR_BGRA2RGB),
    "16uc1": _Encoding(1, 16, cv2.COLOR_GRAY2RGB),
    "yuv422": _Encoding(2, 8, cv2.COLOR_YUV2RGB_UYVY, even_width=True),
    "yuv422_yuy2": _Encoding(2, 8, cv2.COLOR_YUV2RGB_YUY2, even_width=True),
    "nv12": _Encoding(1, 8, cv2.COLOR_YUV2RGB_NV12, halves=True, even_width=True),
    "nv21": _Encoding(1, 8, cv2.COLOR_YUV2RGB_NV21, halves=True, even_width=True),
    # ROS names the pattern by its first two rows; the aliases COLOR_BayerRGGB2RGB do too (the older names, such as
    # COLOR_BayerBG2RGB for the same pattern, start at the second row and column)
    "bayer_rggb8": _Encoding(1, 8, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": _Encoding(1, 8, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": _Encoding(1, 8, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": _Encoding(1, 8, cv2.COLOR_BayerGRBG2RGB),
    "bayer_rggb16": _Encoding(1, 16, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr16": _Encoding(1, 16, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg16": _Encoding(1, 16, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg16": _Encoding(1, 16, cv2.COLOR_BayerGRBG2RGB),
}
_ALIASES = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2", "yuy2": "yuv422_yuy2"}

RAW_ENCODINGS: tuple[str, ...] = tuple(_RAW)
"""The raw encodings that `decode_raw` understands, in lower case (it also takes uyvy, yuyv and yuy2)."""


def has_eight_bits(encoding: str) -> bool:
    """Whether `decode_raw` knows this encoding and it has 8 bits a value, so that decoding loses at most rounding."""
    layout = _layout_of(encoding)
    return layout is not None and layout.bits == 8


def require_colour(topic: str, encoding: str) -> None:
    """Raises ImageError for grey pictures of 16 bits on a topic that is called a depth camera's: they are distances.

    Their encoding does not tell: infrared cameras send the same. encoding: of an Image, or format of a CompressedImage.
    """
    if _DEPTH.search(topic) and encoding.partition(";")[0].strip().lower() in ("16uc1", "mono16"):
        raise ImageError(
            f"'{encoding}' on a topic of this name is a depth image, and hands are found in colour images: use the "
            "colour topic"
        )


def decode_raw(
    data: Buffer, height: int, width: int, step: int, encoding: str, is_bigendian: bool | int = False
) -> RgbImage:
    """The picture of a sensor_msgs/Image, from its fields → (H, W, 3) uint8 RGB.

    data: `step` × `height` bytes (half as many again for nv12 and nv21, whose `height` is that of the picture); not
        copied where the picture is RGB already, so the result may be read-only and share the message's memory.
    step: bytes from one row to the next; what a row holds beyond `width` pixels is padding.
    encoding: one of `RAW_ENCODINGS`, in any case. 16-bit values are scaled by 255 / 65535 as cv_bridge does, so
        cameras with 10 or 12 significant bits come out dark; 8UC3 and 8UC4 are taken as BGR and BGRA.

    Raises ImageError for an empty picture, an unknown encoding, or sizes that contradict each other.
    """
    layout = _layout_of(encoding)
    if layout is None:
        raise ImageError(_unknown_encoding(encoding))
    if height <= 0 or width <= 0:
        raise ImageError(f"the image is empty ({width}x{height}): check the camera driver")
    if layout.even_width and (width % 2 or (layout.halves and height % 2)):
        raise ImageError(f"{encoding} shares colours between two pixels, so {width}x{height} cannot be: use even sides")
    rows = height * 3 // 2 if layout.halves else height
    pixel_bytes = layout.channels * layout.bits // 8
    if step < width * pixel_bytes:
        raise ImageError(
            f"step is {step} bytes but {width} pixels of {encoding} take {width * pixel_bytes}: the camera driver must "
            "set step to the length of a row in bytes"
        )
    buffer = np.frombuffer(data, np.uint8)
    if buffer.size != step * rows:
        raise ImageError(
            f"the image has {buffer.size} bytes but {rows} rows of step {step} take {step * rows}: it was cut off on "
            "the way or the camera driver fills height, step or data wrongly"
        )
    row_bytes = buffer.reshape(rows, step)[:, : width * pixel_bytes]
    pixels = row_bytes if layout.bits == 8 else _sixteen_bit(row_bytes, bool(is_bigendian))
    if layout.channels > 1:
        pixels = pixels.reshape(rows, width, layout.channels)
    rgb = pixels if layout.conversion is None else cv2.cvtColor(np.ascontiguousarray(pixels), layout.conversion)
    if layout.bits == 16:
        rgb = cv2.convertScaleAbs(rgb, alpha=255 / 65535)
    return np.ascontiguousarray(rgb, dtype=np.uint8)


def decode_compressed(data: Buffer, format: str = "", *, turned: bool = False) -> RgbImage:
    """A JPEG, PNG or other picture file in memory → (H, W, 3) uint8 RGB.

    format: CompressedImage's field ("jpeg", "rgb8; jpeg compressed bgr8", ...). The bytes say themselves what they
        are; the field only tells apart what is no picture at all, and what is still a camera's mosaic ("bayer_rggb8;
        png compressed "). As in cv_bridge, colours are those of the file.
    turned: as the EXIF orientation says, for a picture to look at. Not for one from a camera's topic: the calibration
        is of the pixels as they were recorded, and image_transport leaves them so too.

    Raises ImageError for depth images, bytes that are no picture, pictures that end early, such of more than
    `MOST_PIXELS`, and JPEGs of endless scans.
    """
    if "compresseddepth" in format.lower():
        raise ImageError(f"'{format}' is a depth image, and hands are found in colour images: use the colour topic")
    buffer = np.frombuffer(data, np.uint8)
    if buffer.size == 0:
        raise ImageError("the compressed image is empty: check the camera driver")
    _require_whole(buffer)
    size = picture_size(buffer.tobytes())
    if size is None:
        raise ImageError(_no_picture(buffer.size, format))
    if size[0] * size[1] > MOST_PIXELS:
        raise ImageError(
            f"the compressed picture claims {size[0]}x{size[1]} pixels, more than the {MOST_PIXELS} that are decoded: "
            "it is damaged, or has to be made smaller"
        )
    if (scans := jpeg_scans(buffer.tobytes())) * size[0] * size[1] > _MOST_PASSED:
        raise ImageError(
            f"the progressive JPEG of {size[0]}x{size[1]} pixels has {scans} scans, more than any encoder makes: it is "
            "damaged, or was made to take hours"
        )
    mosaic = format.partition(";")[0].strip().lower()
    try:
        if mosaic.startswith("bayer_") and mosaic in _RAW:
            found = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
            if found is not None and found.ndim == 2 and found.itemsize * 8 == _RAW[mosaic].bits:
                (height, width), step = found.shape, found.strides[0]
                return decode_raw(found.tobytes(), height, width, step, mosaic, sys.byteorder == "big")
        bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR | (0 if turned else cv2.IMREAD_IGNORE_ORIENTATION))
    except cv2.error as error:
        raise ImageError(f"the picture cannot be decoded ({error.err}): it is damaged") from error
    if bgr is None:
        raise ImageError(_no_picture(buffer.size, format))
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr), dtype=np.uint8)


def encode_jpeg(image: RgbImage, quality: int = JPEG_QUALITY) -> bytes:
    """RGB (H, W, 3) uint8 → the bytes of a JPEG file. quality: 1 to 100."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ImageError(f"JPEG takes an RGB image (H, W, 3) of type uint8, not {image.shape} {image.dtype}")
    if not 1 <= quality <= 100:
        raise ImageError(f"JPEG quality must be 1 to 100, not {quality}")
    data = encoded(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if data is None:
        raise ImageError(f"OpenCV could not encode a picture of {image.shape[1]}x{image.shape[0]} as JPEG")
    return data


def encoded(kind: str, picture: cv2.typing.MatLike, options: Sequence[int] = ()) -> bytes | None:
    """The bytes of a picture file, from a picture in OpenCV's order of colours.

    kind: the file's suffix, such as '.png'. None where OpenCV cannot make one, as of a picture too large for the kind.
    """
    try:
        done, data = cv2.imencode(kind, picture, list(options))
    except cv2.error:  # what OpenCV 4 does, where OpenCV 5 says that it is not done
        return None
    return data.tobytes() if done else None


def _sixteen_bit(pixels: NDArray[np.uint8], big_endian: bool) -> NDArray[np.uint16]:
    """Rows of bytes as rows of 16-bit values in the machine's own byte order."""
    values = np.ascontiguousarray(pixels).view(np.dtype(">u2" if big_endian else "<u2"))
    return values if big_endian == (sys.byteorder == "big") else values.astype(np.uint16)


def _require_whole(buffer: NDArray[np.uint8]) -> None:
    """Raises ImageError for JPEG and PNG data without an end: OpenCV fills the missing part with grey instead."""
    head, tail = buffer[:8].tobytes(), buffer[-4096:].tobytes().rstrip(b"\0")
    if head.startswith(b"\xff\xd8") and not tail.endswith(b"\xff\xd9"):
        # cameras and phones append their own data after the end, so only its absence from the whole file condemns
        if not _jpeg_has_end(buffer.tobytes()):
            raise ImageError(f"the JPEG ends early ({buffer.size} bytes, no end marker): it was cut off on the way")
    if head == b"\x89PNG\r\n\x1a\n" and b"IEND" not in tail:
        if b"IEND" not in buffer.tobytes():
            raise ImageError(f"the PNG ends early ({buffer.size} bytes, no IEND chunk): it was cut off on the way")


def _jpeg_has_end(data: bytes) -> bool:
    """Whether an end marker follows the scans of a JPEG (thumbnails in its headers have end markers of their own).

    Walks the marker segments of ITU-T T.81, annex B.
    """
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return False
        marker = data[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
        elif marker == 0xD9:
            return True
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            if marker == 0xDA:
                place = _end_of_scan(data, place)
    return data[place : place + 2] == b"\xff\xd9"


def _end_of_scan(data: bytes, place: int) -> int:
    """Where the next marker after entropy-coded data is: 0xFF not followed by 0 (stuffing) or a restart marker."""
    while (place := data.find(b"\xff", place)) >= 0 and place + 1 < len(data):
        follower = data[place + 1]
        if follower != 0 and not 0xD0 <= follower <= 0xD7:
            return place
        place += 2
    return len(data)


def _no_picture(size: int, format: str) -> str:
    kind = f" (announced as '{format}')" if format else ""
    return f"{size} bytes{kind} cannot be decoded: damaged, or neither JPEG, PNG, WebP, TIFF nor BMP"


def _layout_of(encoding: str) -> _Encoding | None:
    name = encoding.strip().lower()
    return _RAW.get(_ALIASES.get(name, name))


def _unknown_encoding(encoding: str) -> str:
    if encoding.strip().upper().startswith(("32FC", "64FC", "32SC", "16SC", "8SC")):
        hint = "that is a depth or measurement image; use the colour topic"
    else:
        hint = f"known are {', '.join(RAW_ENCODINGS)}"
    return f"unknown image encoding '{encoding}': {hint}"
