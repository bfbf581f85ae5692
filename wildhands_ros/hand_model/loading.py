"""Loads a hand model: the open hand of this package, or the user's MANO files."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

import numpy as np

from wildhands_ros.errors import ModelFileError
from wildhands_ros.hand_model.data import OPTIONAL_KEYS, REQUIRED_KEYS, HandData
from wildhands_ros.hand_model.layer import HandLayer
from wildhands_ros.hand_model.pickles import RefusedPickle, other_file, read_pickle
from wildhands_ros.hands import FINGERS, INDEX_MCP, PINKY_MCP, Side

logger = logging.getLogger(__name__)

_KEYS = (*REQUIRED_KEYS, *OPTIONAL_KEYS)
_LARGEST_FILE = 64 * 1024 * 1024  # MANO's official files are 3.7 MB
_LARGEST_UNPACKED = 256 * 1024 * 1024
_WRIST, _THUMB = 0, list(FINGERS["thumb"][:3])  # keypoints, the thumb's without its tip
_FOLDERS = ("", "models", "mano", "mano/models", "mano_v1_2/models")  # where MANO's archive and its users put them
_REMEDY = (
    "MANO's files are MANO_RIGHT.pkl and MANO_LEFT.pkl from https://mano.is.tue.mpg.de (free for research, after "
    "registration); leave the path empty to use the open hand"
)


@dataclass(frozen=True)
class HandModel:
    """Both hands of a model.

    name: "open" for the hand of this package, "mano" for MANO files, or the name that an npz file gives itself.
    sha256: of the right hand's file followed by the left hand's.
    """

    name: str
    right: HandLayer
    left: HandLayer
    sha256: str

    def layer(self, side: Side) -> HandLayer:
        return self.right if Side(side) is Side.RIGHT else self.left


def load_hand_model(path: str | Path | None = None) -> HandModel:
    """Loads both hands.

    path: None, or empty, for the open hand; else a folder with MANO_RIGHT and MANO_LEFT (.pkl as published, or .npz
        with the same arrays), or one of the two files. Pickles are read without running anything in them.

    The left hand's shape directions are used as they are in the file: the sign of MANO's first one is known to be
    wrong, but networks trained with it (WildHands among them) depend on it.

    Raises ModelFileError, naming the file, if one is missing, too large, damaged, malicious or not a hand.
    """
    if path is None or not str(path):
        folder = resources.files("wildhands_ros.hand_model") / "data"
        files: dict[Side, _Readable] = {side: folder / f"open_hand_{side.value}.npz" for side in Side}
    else:
        try:
            files = dict(_find_files(Path(path).expanduser()))
        except (OSError, RuntimeError) as error:  # no permission, too long a name, ~ of a user whom nobody knows
            raise ModelFileError(f"cannot look for a hand model at {path}: {error}. {_REMEDY}") from error
    contents = {side: _read(file) for side, file in files.items()}
    layers, names = {}, set()
    for side, content in contents.items():
        source = str(files[side])
        arrays, name = _arrays(content, source)
        layers[side] = HandLayer(HandData.from_arrays(arrays, side, source))
        names.add(name)
    if len(names) != 1 or layers[Side.RIGHT].vertex_count != layers[Side.LEFT].vertex_count:
        raise ModelFileError(f"{files[Side.RIGHT]} and {files[Side.LEFT]} belong to different hand models. {_REMEDY}")
    if np.array_equal(layers[Side.RIGHT].data.template, layers[Side.LEFT].data.template):
        raise ModelFileError(f"{files[Side.RIGHT]} and {files[Side.LEFT]} hold the same hand. {_REMEDY}")
    if all(_is_of_other_side(layer, side) for side, layer in layers.items()):
        logger.warning(
            "%s and %s seem to be swapped: the thumb of each lies on the back of its hand. %s",
            files[Side.RIGHT], files[Side.LEFT], _REMEDY,
        )  # fmt: skip
    digest = hashlib.sha256(contents[Side.RIGHT] + contents[Side.LEFT]).hexdigest()
    return HandModel(names.pop(), layers[Side.RIGHT], layers[Side.LEFT], digest)


def _is_of_other_side(layer: HandLayer, side: Side) -> bool:
    """Whether the thumb lies on the wrong side of the plane through wrist, index and little finger: at rest it stands
    out of the palm a little, and out of the back of a hand that is taken for its mirror image."""
    rest = layer.rest_joints(np.zeros(10))
    across = np.cross(rest[INDEX_MCP] - rest[_WRIST], rest[PINKY_MCP] - rest[_WRIST])
    thumb = (rest[_THUMB] - rest[_WRIST]) @ across
    return bool((thumb < 0).all() if side is Side.RIGHT else (thumb > 0).all())


class _Readable(Protocol):
    """What is needed of a file: paths and package resources alike have it."""

    def read_bytes(self) -> bytes: ...


def _find_files(path: Path) -> dict[Side, Path]:
    """The right and the left hand's file for a folder or for either of them."""
    if path.is_file():
        name = path.name
        right = name.replace("LEFT", "RIGHT").replace("left", "right")
        left = name.replace("RIGHT", "LEFT").replace("right", "left")
        if right == left:
            raise ModelFileError(f"{path}: the name must say RIGHT or LEFT, so that the other hand is found. {_REMEDY}")
        pairs = [(path.parent / right, path.parent / left)]
    elif path.is_dir():
        pairs = [
            (path / folder / f"{stem}_{sides[0]}{ending}", path / folder / f"{stem}_{sides[1]}{ending}")
            for folder in _FOLDERS
            for stem, sides in (("MANO", ("RIGHT", "LEFT")), ("open_hand", ("right", "left")))
            for ending in (".pkl", ".npz")
        ]
    else:
        raise ModelFileError(f"{path}: there is no such file or folder. {_REMEDY}")
    for right_file, left_file in pairs:
        if right_file.is_file() or left_file.is_file():
            for file in (right_file, left_file):
                if not file.is_file():
                    raise ModelFileError(f"{file} is missing: both hands are needed. {_REMEDY}")
            return {Side.RIGHT: right_file, Side.LEFT: left_file}
    raise ModelFileError(f"{path} holds neither MANO_RIGHT.pkl nor MANO_RIGHT.npz. {_REMEDY}")


def _read(file: _Readable) -> bytes:
    try:
        if isinstance(file, Path) and file.stat().st_size > _LARGEST_FILE:
            raise ModelFileError(f"{file} is {file.stat().st_size >> 20} MiB, far more than a hand model. {_REMEDY}")
        return file.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read {file}: {error.strerror or error}. {_REMEDY}") from error


def _arrays(content: bytes, source: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file and the name of its model."""
    try:
        if content[:4] == b"PK\x03\x04":
            return _read_npz(content)
        return read_pickle(content, _KEYS), "mano"
    except RefusedPickle as refused:
        raise ModelFileError(f"{source} {other_file(content[:64]) or refused}. {_REMEDY}") from refused


def _read_npz(content: bytes) -> tuple[dict[str, np.ndarray], str]:
    """The known arrays of an npz file; sizes are checked before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {key: entries[key] for key in (*_KEYS, "name") if key in entries}
            if sum(info.file_size for info in wanted.values()) > _LARGEST_UNPACKED:
                raise RefusedPickle("unpacks to far more than a hand model")
            arrays = {key: _read_npy(archive, info) for key, info in wanted.items()}
    except RefusedPickle:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise RefusedPickle(f"is a damaged npz file ({type(error).__name__}: {error})") from error
    name = arrays.pop("name", np.array("mano"))
    if name.dtype.kind != "U" or name.ndim != 0 or not str(name).isidentifier():
        raise RefusedPickle("has a 'name' that is no name")
    return arrays, str(name)


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array, whose announced size is compared with the file's before memory is taken for it."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        raw = file.read(info.file_size)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(raw):
        raise RefusedPickle(f"holds no array of numbers under '{info.filename}'")
    return np.frombuffer(raw, dtype=dtype).reshape(shape, order="F" if fortran else "C")
