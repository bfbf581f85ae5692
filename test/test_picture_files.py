"""The size of a picture before it is decoded: right for every kind of file, and never an error of another kind."""

from __future__ import annotations

import random
import struct
import zlib

import cv2
import numpy as np
import pytest

from wildhands_ros.errors import ImageError
from wildhands_ros.images import MOST_PIXELS, decode_compressed
from wildhands_ros.picture_files import jpeg_scans, picture_size

_PICTURE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)


def _file(suffix: str, *options: int) -> bytes:
    return cv2.imencode(suffix, _PICTURE, options)[1].tobytes()


def _png(width: int, height: int) -> bytes:
    """One bit a pixel, all of them 0."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * min(height, 1000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _big_tiff(order: str) -> bytes:
    """The picture as BigTIFF, written by hand: RGB, not compressed, in one strip."""
    height, width, _ = _PICTURE.shape
    entries = [
        (256, "H6x", 1, width), (257, "I4x", 1, height), (258, "HHH2x", 3, 8, 8, 8), (259, "H6x", 1, 1),
        (262, "H6x", 1, 2), (273, "Q", 1, 16 + 8 + 20 * 9 + 8), (277, "H6x", 1, 3), (278, "I4x", 1, height),
        (279, "Q", 1, _PICTURE.size),
    ]  # fmt: skip
    data = (b"II+\0" if order == "<" else b"MM\0+") + struct.pack(f"{order}HHQQ", 8, 0, 16, len(entries))
    for tag, layout, count, *value in entries:
        kind = {"H": 3, "I": 4, "Q": 16}[layout[0]]
        data += struct.pack(f"{order}HHQ{layout}", tag, kind, count, *value)
    return data + bytes(8) + _PICTURE.tobytes()


FILES = {
    "jpeg": _file(".jpg"),
    "progressive jpeg": _file(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "png": _file(".png"),
    "webp": _file(".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
    "lossless webp": _file(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    "bmp": _file(".bmp"),
    "tiff": _file(".tiff"),
    "big tiff": _big_tiff("<"),
    "big tiff, big end first": _big_tiff(">"),
    "ppm": _file(".ppm"),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_header_says_what_decoding_gives(kind: str) -> None:
    assert picture_size(FILES[kind]) == (53, 37)
    assert decode_compressed(FILES[kind]).shape == (37, 53, 3)


@pytest.mark.parametrize("order", "<>")
def test_big_tiff_is_decoded_and_may_point_anywhere(order: str) -> None:
    data = _big_tiff(order)
    np.testing.assert_array_equal(decode_compressed(data), _PICTURE)
    for place in (2**62, 2**63 - 1, 2**63, 2**64 - 1):
        assert picture_size(data[:8] + struct.pack(f"{order}Q", place) + data[16:]) is None


def _tiff(entries: list[tuple[int, int, int]]) -> bytes:
    """A TIFF's directory, without a picture: tag, kind of number and value of each entry."""
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)


def test_tiff_that_says_two_sizes_or_none_that_is_understood_has_none() -> None:
    width, height = (256, 3, 53), (257, 4, 37)
    assert picture_size(_tiff([width, height, (258, 3, 8)])) == (53, 37)
    for entries in (
        [(256, 4, 30_000), width, (257, 4, 30_000), height], [width, width, height], [width, height, (257, 3, 9)],
        [(256, 9, 30_000), width, (257, 9, 30_000), height], [(256, 9, 53), (257, 9, 37)], [width], [height],
    ):  # fmt: skip
        assert picture_size(_tiff(entries)) is None
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode_compressed(_tiff(entries))


def test_animated_webp_and_old_bmp_are_understood() -> None:
    extended = b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<IB3x", 10, 0) + b"\x34\0\0" + b"\x24\0\0"
    assert picture_size(extended) == (53, 37)
    assert picture_size(b"BM" + bytes(12) + struct.pack("<IHH", 12, 53, 37)) == (53, 37)
    assert picture_size(b"BM" + bytes(12) + struct.pack("<Iii", 40, 53, -37)) == (53, 37)
    assert picture_size(b"P6\n# by hand\n53 37\n255\n") == (53, 37)
    assert picture_size(b"P6\n# by hand\r53 37\n9 9\n255\n") == (53, 37)  # where OpenCV ends a comment, too


@pytest.mark.parametrize("kind", FILES)
def test_damaged_headers_raise_nothing(kind: str) -> None:
    rng = random.Random(kind)
    for length in range(64):
        picture_size(FILES[kind][:length])
    for _ in range(500):
        data = bytearray(FILES[kind][:400])
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        size = picture_size(bytes(data))
        assert size is None or len(size) == 2


def test_pictures_that_would_fill_the_memory_are_refused_unopened() -> None:
    huge = _png(20_000, 20_000)
    assert len(huge) < 10_000
    with pytest.raises(ImageError, match="claims 20000x20000 pixels"):
        decode_compressed(huge)
    ppm = b"P6\n30000 30000\n255\n" + bytes(100)
    with pytest.raises(ImageError, match="claims 30000x30000 pixels"):
        decode_compressed(ppm)
    assert 4096 * 2160 * 4 < MOST_PIXELS  # what cameras have is far below


def test_what_tells_no_size_is_no_picture() -> None:
    for data in (b"", b"\xff\xd8", b"RIFF\0\0\0\0WEBPXXXX", b"II*\0\x08\0\0\0\0\0", b"GIF89a\5\0\5\0", bytes(100)):
        assert picture_size(data) is None
    with pytest.raises(ImageError, match="neither JPEG, PNG"):
        decode_compressed(b"GIF89a" + bytes(100))


def _segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def _grey_jpeg(edge: int, scans: int) -> bytes:
    """A progressive JPEG without any content whose scans, but for the first one, only say that nothing changes."""

    def scan(first: int, last: int, bits: int) -> bytes:
        return _segment(0xDA, bytes([1, 1, 0, first, last, bits]))

    blocks = (edge // 8) ** 2
    jpeg = b"\xff\xd8" + _segment(0xDB, bytes([0, *[1] * 64]))
    jpeg += _segment(0xC2, struct.pack(">BHHBBBB", 8, edge, edge, 1, 1, 0x11, 0))
    for table, symbol in ((0x00, 0), (0x10, 0xE0)):  # one code each: no difference, and a run of empty blocks
        jpeg += _segment(0xC4, bytes([table, 1, *[0] * 15, symbol]))
    jpeg += scan(0, 0, 0) + bytes(blocks // 8)
    runs = "".join("0" + "1" * 14 for _ in range(-(-blocks // (2**15 - 1))))
    runs += "1" * (-len(runs) % 8)
    nothing = int(runs, 2).to_bytes(len(runs) // 8, "big").replace(b"\xff", b"\xff\0")
    return jpeg + scan(1, 63, 1) + nothing + (scan(1, 63, 16) + nothing) * (scans - 2) + b"\xff\xd9"


def test_jpegs_that_would_take_hours_are_refused_unopened() -> None:
    """Each scan takes as long as decoding all of it, and a hundred bytes."""
    assert decode_compressed(_grey_jpeg(64, 100)).shape == (64, 64, 3)
    endless = _grey_jpeg(8192, 20)
    assert len(endless) < 140_000
    with pytest.raises(ImageError, match="8192x8192 pixels has 20 scans"):
        decode_compressed(endless)


def test_scans_of_a_jpeg_cannot_be_hidden_behind_a_marker_that_is_none() -> None:
    """In data with restart intervals decoders look for the next marker byte by byte, whatever follows this one."""
    jpeg = _grey_jpeg(64, 100)
    begin, rest = (jpeg.index(b"\xff\xda", jpeg.index(b"\xff\xda") + i) for i in (0, 1))
    restarts, no_restarts = (_segment(0xDD, bytes([0, interval])) for interval in (1, 0))
    for reserved in (0x02, 0xBF):
        cover = b"\0\xff" + bytes([reserved]) + b"\xff\xff"
        hidden = jpeg[:begin] + restarts + jpeg[begin : begin + 10] + cover + no_restarts + jpeg[rest:]
        assert decode_compressed(hidden).shape == (64, 64, 3)
        assert jpeg_scans(hidden) == jpeg_scans(jpeg) == 100


def test_scans_of_a_jpeg_are_counted_whatever_else_is_in_its_file() -> None:
    progressive, restarted = FILES["progressive jpeg"], _file(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 1)
    scans = jpeg_scans(progressive)
    assert 3 < scans < 16 and jpeg_scans(FILES["jpeg"]) == jpeg_scans(restarted) == 1
    header = _segment(0xE1, b"Exif\0\0" + progressive)  # with a thumbnail
    assert jpeg_scans(progressive[:2] + header + b"\xff\xff" + progressive[2:] + progressive) == scans
    assert jpeg_scans(progressive[:-2]) == scans
    assert [jpeg_scans(FILES[kind]) for kind in ("png", "webp", "tiff")] == [0, 0, 0]
    for length in range(400):
        jpeg_scans(progressive[:length])
