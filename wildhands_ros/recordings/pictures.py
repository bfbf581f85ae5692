"""Pictures and folders of pictures as frames."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from wildhands_ros.errors import ImageError, RecordingError, WildHandsError
from wildhands_ros.frames import Frame
from wildhands_ros.images import RgbImage, decode_compressed
from wildhands_ros.recordings.source import CameraChoice, FrameSource, SourceKind

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
_NOT_DECODED = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".jxl", ".jp2", ".dng", ".arw", ".cr2", ".cr3", ".nef", ".raf"}
)  # pictures all the same, which a folder is not to lose without a word

_FILM_DIAGONAL_MM = math.hypot(36, 24)
_EXIF_POINTER, _FOCAL_35MM = 0x8769, 0xA405


class PictureSource(FrameSource):
    """One picture, or the pictures of a folder in natural order (2 before 10).

    Frame i of a folder is stamped i / fps: pictures do not say when they follow each other.
    """

    def __init__(self, path: Path, choice: CameraChoice, *, fps: float = 30.0, frame_id: str) -> None:
        if path.is_dir():
            pictures = sorted((p for p in path.iterdir() if _is_picture(p)), key=lambda p: natural_key(p.name))
            self._paths = [p for p in pictures if p.is_file()]
            lost = [p.name for p in pictures if not p.is_file()]
            kind, description = SourceKind.FOLDER, f"folder {path} ({len(self._paths)} pictures)"
            if not self._paths:
                inside = sum(p.is_dir() for p in path.iterdir())
                raise RecordingError(
                    f"{path} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))}) and is no rosbag2; of videos "
                    f"name one, not their folder{_of_links(lost)}{_of_kinds(path)}"
                    + (f"; the folders in it ({inside}) are not looked into: name one" if inside else "")
                )
        else:
            self._paths, kind, description, lost = [path], SourceKind.PICTURE, f"picture {path}", []
        super().__init__(
            kind, description, length=len(self._paths), camera_is_guess=not choice.is_given,
            fps=fps if kind is SourceKind.FOLDER else None,
        )  # fmt: skip
        if lost:
            self._report(f"{description} is not whole{_of_links(lost)}")
        if kind is SourceKind.FOLDER and (unread := _of_kinds(path)):
            self._report(f"{description} is not whole{unread}")
        self._choice, self._period_ns, self._frame_id = choice, round(1e9 / fps), frame_id

    def _frames(self) -> Iterator[Frame]:
        delivered, edge = 0, 0  # edge: the first picture's longer one
        for index, path in enumerate(self._paths):
            try:
                image, focal = read_picture(path)
                height, width = image.shape[:2]
                camera = self._choice.of_size(width, height, focal)
            except WildHandsError as error:
                if self.kind is SourceKind.PICTURE:
                    raise
                self._skip(path.name, error, delivered=delivered)
                continue
            longer = max(width, height)
            if self._choice.focal is not None and longer != (edge := edge or longer):
                self._report(
                    f"{self.description}: its pictures differ in size, and a focal length of {self._choice.focal:g} "
                    "pixels was given for all: cut-out parts keep it, but pictures that were made smaller have a "
                    "smaller one, without which their hands come out too far away: run each size by itself"
                )
            delivered += 1
            yield Frame(image, camera, index * self._period_ns, self._frame_id, index, path.name)


def read_picture(path: Path) -> tuple[RgbImage, float | None]:
    """RGB picture (H, W, 3), turned as its EXIF orientation says, and the focal length in pixels if EXIF tells.

    The focal length comes from FocalLengthIn35mmFilm, which refers to the diagonal of 36 × 24 mm film (CIPA
    DCG-001): a rounded figure of the lens, not a calibration. Raises ImageError.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read the picture {path}: {error.strerror}") from error
    try:
        image = decode_compressed(data, turned=True)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    millimetres = exif_focal_35mm(data)
    height, width = image.shape[:2]
    return image, millimetres * math.hypot(width, height) / _FILM_DIAGONAL_MM if millimetres else None


def exif_focal_35mm(data: bytes) -> float | None:
    """FocalLengthIn35mmFilm in millimetres from the EXIF of a JPEG file, None where it is absent.

    Layout: Exif 2.32, 4.5 (APP1 segment) and 4.6 (TIFF directories).
    """
    start = data[:65536].find(b"Exif\0\0")
    if not data.startswith(b"\xff\xd8") or start < 0:
        return None
    tiff = memoryview(data)[start + 6 :]
    order = {b"II": "<", b"MM": ">"}.get(bytes(tiff[:2]))
    if order is None:
        return None
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        pointer = _directory_entry(tiff, order, first, _EXIF_POINTER)
        focal = _directory_entry(tiff, order, pointer, _FOCAL_35MM) if pointer else None
    except struct.error:  # damaged EXIF is no reason to refuse a good picture
        return None
    return float(focal) if focal else None


def _directory_entry(tiff: memoryview, order: str, offset: int, wanted: int) -> int | None:
    """The value of an integer tag (SHORT or LONG) in the TIFF directory at `offset`."""
    (count,) = struct.unpack_from(order + "H", tiff, offset)
    for entry in range(offset + 2, offset + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", tiff, entry)
        if tag == wanted:
            (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), tiff, entry + 8)
            return int(value)
    return None


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts names as people do: numbers by value, the rest without regard to case."""
    parts = re.split(r"([0-9]+)", name.casefold())
    # numbers before letters, and a number's text decides between 1 and 01
    return tuple((0, int(p), p) if p.isdecimal() else (1, 0, p) for p in parts if p)


def _is_picture(path: Path) -> bool:
    if path.suffix.lower() not in PICTURE_SUFFIXES or path.name.startswith("."):
        return False
    # git-annex leaves broken links in place of files not fetched: they are to be reported
    return path.is_file() or (path.is_symlink() and not path.exists())


def _of_links(names: list[str]) -> str:
    """Names pictures that are broken links, for the end of a message; empty where there are none."""
    return f": {len(names)} pictures are links to files that are not there ({_some(names)})" if names else ""


def _of_kinds(folder: Path) -> str:
    """Names a folder's pictures of kinds that are not read, for the end of a message; empty where there are none."""
    names = sorted(
        (p.name for p in folder.iterdir() if p.suffix.lower() in _NOT_DECODED and not p.name.startswith(".")),
        key=natural_key,
    )
    return f": {len(names)} pictures are of kinds that are not read ({_some(names)}): convert them" if names else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
