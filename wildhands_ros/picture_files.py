"""How much work the picture in a file is, by its headers alone: to be asked before the picture is decoded.

A few kilobytes of PNG can unpack to gigabytes, and of a progressive JPEG take hours; whoever decodes what comes over a
network looks at the size, and at the number of passes, first.
Layouts: PNG (W3C), 11.2.1 IHDR; JPEG: ITU-T T.81, B.2.2; BMP: BITMAPCOREHEADER and BITMAPINFOHEADER; WebP: RFC 9649,
2.5 to 2.7; TIFF 6.0, section 2; BigTIFF: libtiff's description; PNM: netpbm's pbm(5), pgm(5), ppm(5).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

_PNM = re.compile(rb"P[1-6]\s+(?:#[^\r\n]*[\r\n]\s*)*(\d{1,10})\s+(?:#[^\r\n]*[\r\n]\s*)*(\d{1,10})\s")
_NO_SIZE = frozenset({0xC4, 0xC8, 0xCC})  # between the frame headers 0xC0 to 0xCF, but others
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a segment
# with one; also behind a scan, whose data have none of these. What is reserved below has none: decoders go on behind it
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_END, _SCAN = 0xD9, 0xDA
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_ENTRIES = 1000  # of one directory; pictures have a few dozen


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a JPEG, PNG, WebP, BMP, TIFF (first page) or PNM; None for anything else.

    data: at least the file's header; anything, also damaged or hostile. What the header says, without EXIF's turn.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _pair(">II", data, 16) if data[12:16] == b"IHDR" else None
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if match := _PNM.match(data[:4096]):
            return int(match[1]), int(match[2])
    except (struct.error, IndexError, OverflowError):  # it ends within the header, or before where that points
        pass
    except KeyError:  # the size is in a kind of number that no writer takes for it
        pass
    return None


def jpeg_scans(data: bytes) -> int:
    """How many times a JPEG goes over its pixels; 0 for anything else. data: the whole file.

    A sequential one has one scan, or one for each colour; progressive ones have ten or so, each over some bits of some
    coefficients. Nothing limits them: a scan that changes nothing takes some bytes, and as long as any.
    """
    count, place = 0, 2
    while data.startswith(b"\xff\xd8") and (found := _MARKER.search(data, place)) and found[1][0] != _END:
        count += found[1][0] == _SCAN
        place = found.end() + max(int.from_bytes(data[found.end() : found.end() + 2], "big"), 2)
    return count


def _pair(layout: str, data: bytes, place: int) -> tuple[int, int]:
    first, second = struct.unpack_from(layout, data, place)
    return int(first), int(second)


def _jpeg(data: bytes) -> tuple[int, int] | None:
    place = 2
    while True:
        place = data.find(b"\xff", place)
        if place < 0:
            return None
        marker = data[place + 1]
        if marker in _STANDALONE or marker in (0x00, 0xFF):
            place += 2 if marker != 0xFF else 1
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            height, width = _pair(">HH", data, place + 5)
            return width, height
        else:
            (length,) = struct.unpack_from(">H", data, place + 2)
            place += 2 + int(length)


def _webp(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = _pair("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _bmp(data: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = _pair("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)  # a negative height: rows from the top


def _tiff(data: bytes) -> tuple[int, int] | None:
    order = "<" if data.startswith(b"II") else ">"
    sizes = list(_tiff_sizes(data, order))
    if sorted(tag for tag, _ in sizes) != [_TIFF_WIDTH, _TIFF_HEIGHT]:  # of two, decoders differ in which they believe
        return None
    return dict(sizes)[_TIFF_WIDTH], dict(sizes)[_TIFF_HEIGHT]


def _tiff_sizes(data: bytes, order: str) -> Iterator[tuple[int, int]]:
    """Every width and height in the first directory, after its tag. Raises KeyError for unusual kinds of numbers."""
    big = b"+" in data[2:4]  # BigTIFF: as TIFF, with 8 bytes for whatever counts or points
    pointer, pointer_at, count, entry_size, value_at = ("Q", 8, "Q", 20, 12) if big else ("I", 4, "H", 12, 8)
    values = {3: "H", 4: "I", 16: "Q"} if big else {3: "H", 4: "I"}
    (start,) = struct.unpack_from(f"{order}{pointer}", data, pointer_at)
    (entries,) = struct.unpack_from(f"{order}{count}", data, start)
    first = start + struct.calcsize(count)
    for i in range(min(entries, _TIFF_ENTRIES)):
        place = first + entry_size * i
        tag, kind = _pair(f"{order}HH", data, place)
        if tag in (_TIFF_WIDTH, _TIFF_HEIGHT):
            (value,) = struct.unpack_from(f"{order}{values[kind]}", data, place + value_at)
            yield tag, int(value)
