"""From a checkpoint file and a configuration to a network that is ready to run, exported and checked where needed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wildhands_ros.cache_folders import default_cache_dir
from wildhands_ros.errors import ConfigError, ImageError, ModelFileError
from wildhands_ros.estimation.wildhands import accelerated
from wildhands_ros.estimation.wildhands.agreement import (
    hand_inputs,
    inputs_anywhere,
    joint_distance,
    output_to_device,
    to_cpu,
    to_device,
)
from wildhands_ros.estimation.wildhands.check_pictures import COUNT, check_pictures
from wildhands_ros.estimation.wildhands.checkpoint import (
    CheckpointInfo,
    checkpoint_missing,
    load_checkpoint,
)
from wildhands_ros.estimation.wildhands.crops import Prepared
from wildhands_ros.estimation.wildhands.export import PREPARING, NoExporter, export_parts
from wildhands_ros.estimation.wildhands.network import NetworkInputs, NetworkOutput, WildHandsNetwork
from wildhands_ros.estimation.wildhands.pytorch_files import file_sha256
from wildhands_ros.estimation.wildhands.runtime import (
    Backend,
    Precision,
    Runtime,
    RuntimeConfig,
    TorchRuntime,
    resolve_device,
)
from wildhands_ros.estimation.wildhands.variant import Variant
from wildhands_ros.images import decode_compressed
from wildhands_ros.libraries import how_to_get
from wildhands_ros.paths import expanded, require_home
from wildhands_ros.processor import processor_kind
from wildhands_ros.whole_files import checksum

logger = logging.getLogger(__name__)

_CHECKS = 8  # pictures of hands; the others calibrate
_LOOKS, _PLACES_SEED = 12, 2  # at a user's pictures, at least; of where in them
_TIMED_RUNS = 7
_CLEARLY = 0.9  # of two that are as good as equally fast, the first is taken: timings are noisy
_AT_ONCE = 2  # hands, where no trunk sees the frame
_LAYOUT = "12"  # of the cache, and which inputs the check has; a change makes old entries unused
_KEPT = 8  # entries of the cache, a hundred megabytes each and more: the least recently used go when one is added
_ABANDONED_S = 24 * 3600  # after which whoever made one was killed before it could take its hundreds of megabytes away
_ENTRY = re.compile(r"[0-9a-f]{24}-\d+")
_TRUNKS, _HANDS, _INFO, _EXPECTED = "trunks.onnx", "hands.onnx", "info.json", "expected.npz"


class _NotKept(ModelFileError):
    """The cache cannot be written."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network ready to run. agreement_mm: mean distance of its joints from eager float32's on rendered hands."""

    info: CheckpointInfo
    runtime: Runtime
    agreement_mm: float


def load_network(checkpoint: Path, config: RuntimeConfig) -> LoadedNetwork:
    """Loads, exports where the backend needs it (once: the result is kept), and holds it to eager float32.

    Raises ModelFileError for checkpoints that cannot be used, ConfigError for a backend or precision that is not
    available or that strays further than `config.tolerance_mm`.
    """
    device = resolve_device(config.device)
    if device.type == "cuda" or config.backend in (Backend.TORCH, Backend.COMPILE):
        return _load_torch(checkpoint, config, device)
    backends = _backends(config)
    if not backends:
        logger.warning(
            "the network runs in eager torch: neither ONNX Runtime nor OpenVINO is installed, with which it is about "
            "twice as fast on a CPU. Extra 'fast' has them: %s. Set the backend to 'torch' to leave it at that",
            how_to_get("onnx onnxruntime openvino"),
        )
        return _load_torch(checkpoint, config, device)
    candidates = _candidates(backends, config.precision)
    try:
        return _load_exported(checkpoint, config, candidates)
    except (NoExporter, _NotKept, accelerated.Unusable) as error:
        if not _may_be_torch(config):
            raise
        logger.warning("the network runs in eager torch, half as fast: %s", error)
        return _load_torch(checkpoint, config, device)


def _may_be_torch(config: RuntimeConfig) -> bool:
    """Whether eager torch would do as well for whoever asks."""
    return config.backend is Backend.AUTO and config.precision in (Precision.FLOAT32, Precision.AUTO)


def _load_exported(checkpoint: Path, config: RuntimeConfig, candidates: list[_Candidate]) -> LoadedNetwork:
    """From the cache, or exported for this process alone. Raises NoExporter, and _NotKept where there is no room."""
    try:
        exported = exported_network(checkpoint, config.cache_dir)
        try:
            return _fastest(exported, config, candidates)
        except ModelFileError:  # of a graph that was damaged in the cache: once more with a new one
            return _fastest(exported_network(checkpoint, config.cache_dir, anew=True), config, candidates)
    except _NotKept as error:
        logger.warning("%s; meanwhile it is prepared anew at every start", error)
        try:
            with tempfile.TemporaryDirectory(prefix="wildhands-network-") as folder:
                return _fastest(exported_network(checkpoint, Path(folder)), config, candidates)
        except (_NotKept, OSError) as again:
            logger.warning("there is no room for it in the folder for temporary files either")
            raise error from again


# --- torch ------------------------------------------------------------------------------------------------------------


def _load_torch(checkpoint: Path, config: RuntimeConfig, device: torch.device) -> LoadedNetwork:
    if device.type == "cuda" and config.backend in (Backend.ONNXRUNTIME, Backend.OPENVINO):
        raise ConfigError(f"backend '{config.backend.value}' runs on the CPU: set device 'cpu', or backend 'torch'")
    if config.threads and device.type == "cpu":
        torch.set_num_threads(config.threads)
    if config.precision is not Precision.AUTO:
        return _load_torch_in(config.precision, checkpoint, config, device)
    if device.type == "cuda":
        try:
            return _load_torch_in(Precision.FLOAT16, checkpoint, config, device)
        except ConfigError as error:
            logger.info("%s; float32 instead", error)
    return _load_torch_in(Precision.FLOAT32, checkpoint, config, device)


def _load_torch_in(
    precision: Precision, checkpoint: Path, config: RuntimeConfig, device: torch.device
) -> LoadedNetwork:
    network, info = load_checkpoint(checkpoint)
    compiled = config.backend is Backend.COMPILE
    if precision is Precision.FLOAT32 and device.type == "cpu" and not compiled:  # the reference itself
        return LoadedNetwork(info, TorchRuntime(network), 0.0)
    samples = _check_inputs(info.variant)
    reference = _expected(network, samples)
    try:
        expected = [output_to_device(output, device) for output in reference]
        given = [to_device(sample, device) for sample in samples]
        runtime = TorchRuntime(network, device, precision, compiled=compiled)
        distance = joint_distance(info.variant, given, runtime, expected)
        two = given[0].inputs
        runtime(NetworkInputs(two.frame, two.crops[:1], two.encoding[:1], two.right[:1]))  # one hand: its own graph
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # no compiler, no memory, no driver, a GPU that this torch was not built for
        raise ConfigError(
            f"the backend '{config.backend.value}' cannot run the network in {precision.value} on '{device}' "
            f"({_last_line(error)}): choose another backend or device"
        ) from error
    _require_agreement(runtime.name, distance, config)
    return LoadedNetwork(info, runtime, distance)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _check_inputs(variant: Variant) -> list[Prepared]:
    return hand_inputs(variant, check_pictures(0, _CHECKS))


def _expected(network: WildHandsNetwork, samples: Sequence[Prepared]) -> list[NetworkOutput]:
    reference = TorchRuntime(network)
    return [to_cpu(reference(sample.inputs)) for sample in samples]


# --- exported ---------------------------------------------------------------------------------------------------------


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
            expected = _expected(network, _check_inputs(info.variant))
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
            raise _NotKept(
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
            for index in range(_CHECKS)
        )
    return ExportedNetwork(folder, info, tuple(_check_inputs(info.variant)), expected)


# --- choosing ---------------------------------------------------------------------------------------------------------

_Candidate = tuple[Backend, Precision]


def _backends(config: RuntimeConfig) -> list[Backend]:
    if config.backend is not Backend.AUTO:
        return [config.backend]
    found = [b for b in (Backend.ONNXRUNTIME, Backend.OPENVINO) if accelerated.installed(b)]
    if config.precision not in (Precision.FLOAT32, Precision.AUTO):
        found = [b for b in found if b is Backend.OPENVINO]
        if not found:
            raise ConfigError(
                f"precision '{config.precision.value}' on a CPU needs OpenVINO and onnx: {how_to_get('onnx openvino')}"
            )
    return found


def _candidates(backends: Sequence[Backend], precision: Precision) -> list[_Candidate]:
    if precision is not Precision.AUTO:
        return [(backend, precision) for backend in backends]
    exact = [(backend, Precision.FLOAT32) for backend in backends]
    if Backend.OPENVINO not in backends:
        return exact
    coarser = (Precision.BFLOAT16, Precision.INT8) if accelerated.openvino_has_bfloat16() else (Precision.INT8,)
    return exact + [(Backend.OPENVINO, precision) for precision in coarser]


def _fastest(
    exported: ExportedNetwork, config: RuntimeConfig, candidates: list[_Candidate], *, recall: bool = True
) -> LoadedNetwork:
    remembered = exported.folder / f"choice-{_fingerprint(config, candidates)}.json"
    known = _recall(remembered, candidates) if recall and len(candidates) > 1 else None
    chosen = known or candidates
    best: tuple[float, _Candidate, LoadedNetwork] | None = None
    refused: list[ConfigError] = []
    for candidate in chosen:
        try:
            loaded = _load_candidate(exported, config, candidate)
        except ConfigError as error:
            refused.append(error)
            continue
        seconds = _median_seconds(loaded.runtime, exported.samples[0].inputs) if len(chosen) > 1 else 0.0
        if best is None or seconds < _CLEARLY * best[0]:
            best = seconds, candidate, loaded
        del loaded  # one network at a time in memory
    if best is None:
        if len(chosen) < len(candidates):  # what was remembered no longer works
            return _fastest(exported, config, candidates, recall=False)
        raise refused[-1]
    for words in dict.fromkeys(str(error) for error in refused if isinstance(error, accelerated.Unusable)):
        logger.warning("the network runs without it: %s", words)
    if len(chosen) > 1:
        with contextlib.suppress(OSError):  # of a cache that may only be read
            remembered.write_text(json.dumps([best[1][0].value, best[1][1].value]))
    return best[2]


def _load_candidate(exported: ExportedNetwork, config: RuntimeConfig, candidate: _Candidate) -> LoadedNetwork:
    backend, precision = candidate
    found = calibration(exported, config) if precision is Precision.INT8 else None
    at_once = 0 if exported.info.variant.frame_trunk else _AT_ONCE
    coarse = precision in (Precision.BFLOAT16, Precision.INT8) and accelerated.openvino_has_bfloat16()
    runtime = accelerated.ExportedRuntime(
        exported.trunks, exported.hands, backend, precision, config.threads, found, at_once,
        Precision.BFLOAT16 if coarse else Precision.FLOAT32,  # bound by reading their weights, of which that is half
    )  # fmt: skip
    distance = joint_distance(exported.info.variant, exported.samples, runtime, exported.expected)
    if coarse and not distance <= config.tolerance_mm:
        runtime.set_heads(exported.hands, Precision.FLOAT32)
        distance = joint_distance(exported.info.variant, exported.samples, runtime, exported.expected)
    _require_agreement(runtime.name, distance, config)
    two = exported.samples[0].inputs
    runtime(NetworkInputs(two.frame, two.crops[:1], two.encoding[:1], two.right[:1]))  # so that memory is taken now
    return LoadedNetwork(exported.info, runtime, distance)


def _require_agreement(name: str, distance: float, config: RuntimeConfig) -> None:
    if not distance <= config.tolerance_mm:
        raise ConfigError(
            f"{name}: joints lie {distance:.2f} mm from the float32 reference on average, more than the "
            f"{config.tolerance_mm:g} mm allowed: choose another precision, calibrate with pictures of your camera "
            "(int8: the setting calibration), or raise tolerance_mm"
        )


def _fingerprint(config: RuntimeConfig, candidates: list[_Candidate]) -> str:
    """Names what a remembered choice depends on."""
    threads = config.threads or accelerated.available_threads()
    parts = [processor_kind(), threads, config.tolerance_mm, config.calibration, *candidates]
    parts += [accelerated.version(backend) for backend in dict.fromkeys(backend for backend, _ in candidates)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _recall(path: Path, candidates: list[_Candidate]) -> list[_Candidate] | None:
    try:
        backend, precision = json.loads(path.read_text())
        candidate = (Backend(backend), Precision(precision))
    except (OSError, ValueError, TypeError):
        return None
    return [candidate] if candidate in candidates else None


def _median_seconds(runtime: Runtime, inputs: NetworkInputs) -> float:
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        runtime(inputs)
        times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


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
        samples = hand_inputs(variant, check_pictures(_CHECKS, COUNT - _CHECKS))
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
