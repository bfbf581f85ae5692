"""Exported networks, kept in a cache on the disk: making one takes some ten seconds and a few hundred megabytes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wildhands_ros.cache_folders import default_cache_dir
from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands.agreement import CHECKS, check_inputs, expected_outputs
from wildhands_ros.estimation.wildhands.checkpoint import CheckpointInfo, checkpoint_missing, load_checkpoint
from wildhands_ros.estimation.wildhands.crops import Prepared
from wildhands_ros.estimation.wildhands.export import PREPARING, export_parts
from wildhands_ros.estimation.wildhands.network import NetworkOutput
from wildhands_ros.estimation.wildhands.pytorch_files import file_sha256
from wildhands_ros.paths import expanded, require_home
from wildhands_ros.whole_files import checksum

logger = logging.getLogger(__name__)

_LAYOUT = "12"  # of the cache, and which inputs the check has; a change makes old entries unused
_KEPT = 8  # entries of the cache, a hundred megabytes each and more: the least recently used go when one is added
_ABANDONED_S = 24 * 3600  # after which whoever made one was killed before it could take its hundreds of megabytes away
_ENTRY = re.compile(r"[0-9a-f]{24}-\d+")
_TRUNKS, _HANDS, _INFO, _EXPECTED = "trunks.onnx", "hands.onnx", "info.json", "expected.npz"


class NotKept(ModelFileError):
    """The cache cannot be written."""


@dataclass(frozen=True)
class ExportedNetwork:
    """A checkpoint's network in the cache: the folder, what it is, and what eager float32 says of the check samples."""

    folder: Path
    info: CheckpointInfo
    samples: tuple[Prepared, ...]
    expected: tuple[NetworkOutput, ...]

    @property
    def trunks(self) -> Path:
        return self.folder / _TRUNKS

    @property
    def hands(self) -> Path:
        return self.folder / _HANDS


def exported_network(checkpoint: Path, cache_dir: Path | None = None, *, anew: bool = False) -> ExportedNetwork:
    """The exported network of a checkpoint, from the cache or, also where `anew`, made now (some ten seconds)."""
    checkpoint = expanded(checkpoint)
    missing = checkpoint_missing(checkpoint)
    if missing:
        raise ModelFileError(missing)
    folder = (cache_dir or default_cache_dir()) / f"{file_sha256(checkpoint)[:24]}-{_LAYOUT}"
    if not anew:
        with contextlib.suppress(Exception):  # not there, or damaged, which can show in any way: made anew
            return _read_exported(folder)
    _write_exported(checkpoint, folder)
    _forget_oldest(folder.parent)
    return _read_exported(folder)


def _forget_oldest(cache: Path) -> None:
    """Deletes what was used longest ago, so that every checkpoint ever tried does not stay on the disk, and what
    processes left that were killed meanwhile."""
    with contextlib.suppress(OSError):  # a cache that cannot be tidied still serves
        entries = [path for path in cache.iterdir() if _ENTRY.fullmatch(path.name)]  # whatever else lies there stays
        unused = sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]
        latest = time.time() - _ABANDONED_S
        unused += [path for path in cache.glob(f"{PREPARING}*") if path.stat().st_mtime < latest]
        for folder in unused:
            shutil.rmtree(folder, ignore_errors=True)


def _write_exported(checkpoint: Path, folder: Path) -> None:
    replaced = _identity(folder)
    try:
        require_home(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PREPARING, dir=folder.parent) as temporary:
            # a warning, so that the commands show it: else they would seem to hang
            logger.warning("preparing the network for this machine, which takes up to a minute: %s", folder.parent)
            network, info = load_checkpoint(checkpoint)
            expected = expected_outputs(network, check_inputs(info.variant))
            made = Path(temporary) / "made"
            made.mkdir()
            export_parts(network, made / _TRUNKS, made / _HANDS)
            arrays = {
                f"{index}.{name}": value.numpy()
                for index, output in enumerate(expected)
                for name, value in vars(output).items()
                if value is not None
            }
            np.savez(made / _EXPECTED, **arrays)
            sums = {name: checksum(made / name) for name in (_TRUNKS, _HANDS)}
            (made / _INFO).write_text(json.dumps({**info.to_dict(), "sums": sums}))
            if _identity(folder) == replaced:  # else another process was faster, and may be loading what it made
                shutil.rmtree(folder, ignore_errors=True)
            os.replace(made, folder)  # fails where there is one
    except OSError as error:
        try:
            _read_exported(folder)  # made by another process meanwhile
        except Exception:  # not there, or damaged, as above
            raise NotKept(
                f"the exported network cannot be kept in {folder.parent} ({error.strerror or error}): name another "
                "folder, as estimation.cache_dir (in --config FILE, or the node's parameter) or by XDG_CACHE_HOME"
            ) from error


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tells an entry of the cache from another that was made in its place; None where there is none."""
    try:
        status = (folder / _INFO).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read_exported(folder: Path) -> ExportedNetwork:
    with contextlib.suppress(OSError):  # of a cache that may only be read
        os.utime(folder)  # when it was last used
    values = json.loads((folder / _INFO).read_text())
    for name, expected_sum in values.pop("sums").items():
        if checksum(folder / name) != expected_sum:  # of weights, which would be run all the same
            raise ModelFileError(f"{folder / name} is damaged")
    info = CheckpointInfo.from_dict(values)
    with np.load(folder / _EXPECTED, allow_pickle=False) as arrays:
        expected = tuple(
            NetworkOutput(
                **{key.split(".")[1]: torch.from_numpy(arrays[key]) for key in arrays if key.startswith(f"{index}.")}
            )
            for index in range(CHECKS)
        )
    return ExportedNetwork(folder, info, tuple(check_inputs(info.variant)), expected)
