"""Image decoding: every encoding against values worked out by hand, and every way of being broken."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wildhands_ros.errors import ImageError
from wildhands_ros.images import RAW_ENCODINGS, decode_compressed, decode_raw, encode_jpeg, has_eight_bits

RNG = np.random.default_rng(7)
RED, GREEN, BLUE = np.array([200, 30, 40]), np.array([20, 180, 60]), np.array([10, 50, 220])


def quadrants(height: int = 16, width: int = 24) -> np.ndarray:
    """Four flat colours: what chroma subsampling and demosaicking keep away from the edges."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = RED
    image[: height // 2, width // 2 :] = GREEN
    image[height // 2 :, : width // 2] = BLUE
    image[height // 2 :, width // 2 :] = (128, 128, 128)
    return image


def centres(image: np.ndarray) -> np.ndarray:
    """The colours in the middle of the four quarters."""
    h, w = image.shape[:2]
    return image[[h // 4, h // 4, h * 3 // 4, h * 3 // 4], [w // 4, w * 3 // 4, w // 4, w * 3 // 4]].astype(int)


def pad(rows: np.ndarray, padding: int) -> tuple[bytes, int]:
    """Rows of bytes with rubbish appended to each, and the step."""
    rows = rows.reshape(rows.shape[0], -1)
    rubbish = RNG.integers(0, 256, (rows.shape[0], padding), np.uint8)
    return np.hstack([rows.view(np.uint8), rubbish]).tobytes(), rows.view(np.uint8).shape[1] + padding


def yuv(rgb: np.ndarray) -> np.ndarray:
    """RGB → Y, Cb, Cr of ITU-R BT.601 with video range, the values of YUV 4:2:2 and NV12 cameras."""
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    y = 16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    return np.clip(np.round(np.stack([y, u, v], -1)), 0, 255).astype(np.uint8)


def pack(image: np.ndarray, encoding: str) -> np.ndarray:
    """Rows of bytes (R, N) of an RGB picture in a raw encoding, written without OpenCV."""
    h, w = image.shape[:2]
    base, bits = encoding.lower(), 8
    if base.endswith("16") or base == "16uc1":
        bits = 16
    wide = (lambda a: a.astype(np.uint16) * 257) if bits == 16 else (lambda a: a)
    alpha = np.full((h, w, 1), 77, np.uint8)
    order = {
        "rgb": image, "bgr": image[..., ::-1],
        "rgba": np.dstack([image, alpha]), "bgra": np.dstack([image[..., ::-1], alpha]),
        "8uc3": image[..., ::-1], "8uc4": np.dstack([image[..., ::-1], alpha]),
        "mono": image[..., :1], "8uc1": image[..., :1], "16uc1": image[..., :1],
    }  # fmt: skip
    for name in ("8uc1", "8uc3", "8uc4", "16uc1", "rgba", "bgra", "rgb", "bgr", "mono"):
        if base == name or base == f"{name}{bits}":
            return np.ascontiguousarray(wide(order[name])).reshape(h, -1).view(np.uint8)
    if base.startswith("bayer_"):
        mosaic = np.empty((h, w), np.uint8)
        for i, letter in enumerate(base[6:10]):
            mosaic[i // 2 :: 2, i % 2 :: 2] = image[i // 2 :: 2, i % 2 :: 2, "rgb".index(letter)]
        return np.ascontiguousarray(wide(mosaic)).view(np.uint8)
    ycc = yuv(image)
    if base.startswith("nv"):
        chroma = ycc[::2, ::2, 1:] if base == "nv12" else ycc[::2, ::2, :0:-1]
        return np.vstack([ycc[..., 0], chroma.reshape(h // 2, w)])
    pairs = np.stack([ycc[:, ::2, 1], ycc[:, ::2, 0], ycc[:, ::2, 2], ycc[:, 1::2, 0]], -1)  # U Y V Y
    if base in ("yuv422_yuy2", "yuyv", "yuy2"):
        pairs = pairs[..., [1, 0, 3, 2]]
    return pairs.reshape(h, -1)


@pytest.mark.parametrize("encoding", [*RAW_ENCODINGS, "uyvy", "yuyv", "yuy2", "16UC1", "8UC3"])
@pytest.mark.parametrize("padding", [0, 6])
def test_every_encoding_gives_the_same_picture(encoding: str, padding: int) -> None:
    image = quadrants()
    data, step = pad(pack(image, encoding), padding)
    decoded = decode_raw(data, 16, 24, step, encoding)
    expected = np.repeat(image[..., :1], 3, axis=2) if "mono" in encoding or "uc1" in encoding.lower() else image
    assert decoded.dtype == np.uint8 and decoded.shape == (16, 24, 3)
    lossless = "yuv" not in encoding and "uy" not in encoding and not encoding.startswith(("nv", "bayer"))
    if lossless:
        np.testing.assert_array_equal(decoded, expected)
    else:  # flat colours survive demosaicking exactly, and YUV to its rounding
        tolerance = 0 if encoding.startswith("bayer") else 3
        np.testing.assert_allclose(centres(decoded), centres(expected), atol=tolerance)


@settings(deadline=None)
@given(
    height=st.integers(1, 9), width=st.integers(1, 9), padding=st.integers(0, 17),
    encoding=st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8", "mono8", "rgb16", "mono16"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_row_padding_never_shows(height: int, width: int, padding: int, encoding: str, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    if encoding.startswith("mono"):
        image = np.repeat(image[..., :1], 3, axis=2)
    data, step = pad(pack(image, encoding), padding)
    np.testing.assert_array_equal(decode_raw(data, height, width, step, encoding), image)


def test_sixteen_bits_follow_the_byte_order_and_scale_like_cv_bridge() -> None:
    values = np.array([[0, 255, 256, 1000, 32768, 65535]], np.uint16)
    expected = np.round(values * (255 / 65535)).astype(np.uint8)
    for big, data in ((True, values.astype(">u2")), (False, values.astype("<u2"))):
        decoded = decode_raw(data.tobytes(), 1, 6, 12, "mono16", is_bigendian=big)
        np.testing.assert_array_equal(decoded[..., 0], expected)


def test_rgb_is_not_copied() -> None:
    data = np.zeros(4 * 5 * 3, np.uint8)
    assert np.shares_memory(decode_raw(data, 4, 5, 15, "rgb8"), data)


@pytest.mark.parametrize(
    ("height", "width", "step", "size", "encoding", "says"),
    [
        (0, 4, 12, 0, "rgb8", "empty"),
        (4, 0, 0, 0, "rgb8", "empty"),
        (4, 4, 8, 32, "rgb8", "step is 8 bytes but 4 pixels of rgb8 take 12"),
        (4, 4, 0, 48, "rgb8", "step is 0"),
        (4, 4, 12, 47, "rgb8", "47 bytes but 4 rows of step 12 take 48"),
        (4, 4, 12, 60, "rgb8", "60 bytes"),
        (4, 4, 4, 16, "nv12", "16 bytes but 6 rows"),
        (4, 5, 10, 40, "yuv422", "even"),
        (3, 4, 4, 18, "nv21", "even"),
        (4, 4, 12, 48, "rgb9", "unknown image encoding 'rgb9': known are rgb8"),
        (4, 4, 12, 48, "", "unknown image encoding"),
        (4, 4, 16, 64, "32FC1", "depth"),
    ],
)
def test_contradictions_are_named(height: int, width: int, step: int, size: int, encoding: str, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode_raw(bytes(size), height, width, step, encoding)


@pytest.mark.parametrize("encoding", [name for name in RAW_ENCODINGS if name.startswith("bayer_")])
def test_a_compressed_mosaic_becomes_a_colour_picture(encoding: str) -> None:
    image = quadrants()
    bits = int(encoding[10:])
    mosaic = pack(image, encoding).view(np.uint16 if bits == 16 else np.uint8)
    decoded = decode_compressed(cv2.imencode(".png", mosaic)[1].tobytes(), f"{encoding}; png compressed ")
    np.testing.assert_array_equal(decoded, decode_raw(pack(image, encoding), 16, 24, 3 * bits, encoding))


def test_a_mosaic_that_was_made_a_picture_before_it_was_compressed_is_one() -> None:
    data, name = picture_file(".png"), "bayer_rggb8; png compressed bgr8"
    np.testing.assert_array_equal(decode_compressed(data, name), decode_compressed(data))


def picture_file(suffix: str, image: np.ndarray | None = None) -> bytes:
    image = quadrants(64, 96) if image is None else image
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_compressed_pictures_are_rgb(suffix: str) -> None:
    decoded = decode_compressed(memoryview(picture_file(suffix)), "rgb8; jpeg compressed bgr8")
    np.testing.assert_allclose(centres(decoded), centres(quadrants(64, 96)), atol=6)


def test_grey_and_transparent_pictures_become_rgb() -> None:
    grey = cv2.imencode(".png", quadrants()[..., 0])[1].tobytes()
    assert decode_compressed(grey).shape == (16, 24, 3)
    transparent = cv2.imencode(".png", np.dstack([quadrants(), np.zeros((16, 24), np.uint8)]))[1].tobytes()
    assert decode_compressed(transparent).shape == (16, 24, 3)


def test_jpeg_round_trip() -> None:
    image = cv2.GaussianBlur(quadrants(48, 64), (9, 9), 3)
    assert np.abs(decode_compressed(encode_jpeg(image, 95)).astype(int) - image).mean() < 2
    with pytest.raises(ImageError, match="quality"):
        encode_jpeg(image, 0)
    with pytest.raises(ImageError, match="RGB"):
        encode_jpeg(image[..., 0])


@settings(deadline=None)
@given(cut=st.floats(0.02, 0.999))
def test_truncated_pictures_are_refused(cut: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    for suffix in (".jpg", ".png"):
        data = picture_file(suffix, image)
        with pytest.raises(ImageError):
            decode_compressed(data[: int(len(data) * cut)])


def test_truncated_jpeg_with_a_thumbnail_is_refused() -> None:
    """The thumbnail in a camera's header has an end marker of its own, which must not count."""
    jpeg, thumbnail = picture_file(".jpg"), picture_file(".jpg", quadrants())
    segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
    whole = jpeg[:2] + segment + jpeg[2:]
    assert decode_compressed(whole).shape == (64, 96, 3)
    with pytest.raises(ImageError, match="ends early"):
        decode_compressed(whole[: len(whole) // 2 + len(thumbnail) // 2])


@pytest.mark.parametrize("appended", [bytes(9000), b"maker's notes" * 700])
def test_what_follows_the_end_of_a_picture_does_no_harm(appended: bytes) -> None:
    for suffix in (".jpg", ".png"):
        assert decode_compressed(picture_file(suffix) + appended).shape == (64, 96, 3)


def jpeg_with(*options: int) -> bytes:
    noise = np.random.default_rng(2).integers(0, 256, (64, 96, 3), np.uint8)
    done, data = cv2.imencode(".jpg", noise, [*options, cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    return data.tobytes()


@pytest.mark.parametrize(
    "jpeg",
    [
        jpeg_with(cv2.IMWRITE_JPEG_RST_INTERVAL, 1),  # restart markers inside, as those of many webcams
        jpeg_with(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),  # several scans
        jpeg_with()[:2] + b"\xff\xff" + jpeg_with()[2:],  # a marker may be filled up
    ],
    ids=["restarts", "progressive", "filled"],
)
def test_a_jpeg_of_any_layout_is_whole_whatever_follows_it_and_cut_off_where_it_is(jpeg: bytes) -> None:
    assert jpeg.count(b"\xff\xd7") or b"\xff\xdd" not in jpeg
    expected = decode_compressed(jpeg)
    np.testing.assert_array_equal(decode_compressed(jpeg + b"maker's notes" * 700), expected)
    for end in (len(jpeg) // 2, len(jpeg) - 2):
        with pytest.raises(ImageError, match="ends early"):
            decode_compressed(jpeg[:end])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 3), np.uint8)],
)
def test_what_is_no_rgb_image_becomes_no_jpeg(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="JPEG takes an RGB image"):
        encode_jpeg(image)


def test_encodings_of_more_than_eight_bits_are_known() -> None:
    eight = [has_eight_bits(encoding) for encoding in ("RGB8", "uyvy", "bayer_rggb8", "mono16", "bgr16", "32FC1")]
    assert eight == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("data", "format", "says"),
    [
        (b"", "jpeg", "empty"),
        (b"no picture at all", "jpeg", "announced as 'jpeg'"),
        (b"\xff\xd8\xff\xd9", "jpeg", "damaged"),
        (picture_file(".png"), "16UC1; compressedDepth png", "depth"),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, format: str, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode_compressed(data, format)
