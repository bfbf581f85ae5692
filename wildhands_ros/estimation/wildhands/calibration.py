"""The pictures over which int8 learns the ranges of a network's numbers."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import ConfigError, ImageError
from wildhands_ros.estimation.wildhands import accelerated
from wildhands_ros.estimation.wildhands.agreement import CHECKS, hand_inputs, inputs_anywhere
from wildhands_ros.estimation.wildhands.check_pictures import COUNT, check_pictures
from wildhands_ros.estimation.wildhands.exported import ExportedNetwork
from wildhands_ros.estimation.wildhands.runtime import RuntimeConfig
from wildhands_ros.images import decode_compressed
from wildhands_ros.paths import expanded

_LOOKS, _PLACES_SEED = 12, 2  # at a user's pictures, at least; of where in them


def calibration(exported: ExportedNetwork, config: RuntimeConfig) -> accelerated.Calibration:
    """For int8, from the configured pictures or the package's own of hands; the latter is kept beside the network."""
    pictures = [] if config.calibration is None else _read_pictures(config.calibration)
    kept = exported.folder / "calibration.json"
    if not pictures and kept.is_file():
        try:
            values = json.loads(kept.read_text())
            ranges = {name: (float(low), float(high)) for name, (low, high) in values["ranges"].items()}
            return accelerated.Calibration(ranges, values["shifts"])
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            pass
    variant = exported.info.variant
    if pictures:
        looks = max(_LOOKS, len(pictures))
        samples = inputs_anywhere(variant, (pictures * _LOOKS)[:looks], _PLACES_SEED)
    else:
        samples = hand_inputs(variant, check_pictures(CHECKS, COUNT - CHECKS))
    arrays = [accelerated.as_arrays(sample.inputs) for sample in samples]
    found = accelerated.calibrate(exported.trunks, arrays, config.threads)
    if not pictures:
        with contextlib.suppress(OSError):  # of a cache that may only be read
            kept.write_text(json.dumps(asdict(found)))
    return found


def _read_pictures(folder: Path) -> list[NDArray[np.uint8]]:
    folder = expanded(folder)
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[:64]
    pictures = []
    for path in paths:
        with contextlib.suppress(OSError, ImageError):  # one of them more or less does not matter
            pictures.append(decode_compressed(path.read_bytes(), turned=True))
    if not pictures:
        raise ConfigError(f"no readable .jpg or .png pictures in the calibration folder {folder}")
    return pictures
