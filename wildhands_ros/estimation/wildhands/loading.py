"""From a checkpoint file and a configuration to a network that is ready to run, exported and checked where needed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation.wildhands import accelerated
from wildhands_ros.estimation.wildhands.agreement import (
    check_inputs,
    expected_outputs,
    joint_distance,
    output_to_device,
    to_device,
)
from wildhands_ros.estimation.wildhands.calibration import calibration
from wildhands_ros.estimation.wildhands.checkpoint import CheckpointInfo, load_checkpoint
from wildhands_ros.estimation.wildhands.export import NoExporter
from wildhands_ros.estimation.wildhands.exported import ExportedNetwork, NotKept, exported_network
from wildhands_ros.estimation.wildhands.network import NetworkInputs
from wildhands_ros.estimation.wildhands.runtime import (
    Backend,
    Precision,
    Runtime,
    RuntimeConfig,
    TorchRuntime,
    resolve_device,
)
from wildhands_ros.libraries import how_to_get
from wildhands_ros.processor import processor_kind

logger = logging.getLogger(__name__)

_TIMED_RUNS = 7
_CLEARLY = 0.9  # of two that are as good as equally fast, the first is taken: timings are noisy
_AT_ONCE = 2  # hands, where no trunk sees the frame


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
    except (NoExporter, NotKept, accelerated.Unusable) as error:
        if not _may_be_torch(config):
            raise
        logger.warning("the network runs in eager torch, half as fast: %s", error)
        return _load_torch(checkpoint, config, device)


def _may_be_torch(config: RuntimeConfig) -> bool:
    """Whether eager torch would do as well for whoever asks."""
    return config.backend is Backend.AUTO and config.precision in (Precision.FLOAT32, Precision.AUTO)


def _load_exported(checkpoint: Path, config: RuntimeConfig, candidates: list[_Candidate]) -> LoadedNetwork:
    """From the cache, or exported for this process alone. Raises NoExporter, and NotKept where there is no room."""
    try:
        exported = exported_network(checkpoint, config.cache_dir)
        try:
            return _fastest(exported, config, candidates)
        except ModelFileError:  # of a graph that was damaged in the cache: once more with a new one
            return _fastest(exported_network(checkpoint, config.cache_dir, anew=True), config, candidates)
    except NotKept as error:
        logger.warning("%s; meanwhile it is prepared anew at every start", error)
        try:
            with tempfile.TemporaryDirectory(prefix="wildhands-network-") as folder:
                return _fastest(exported_network(checkpoint, Path(folder)), config, candidates)
        except (NotKept, OSError) as again:
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
    samples = check_inputs(info.variant)
    reference = expected_outputs(network, samples)
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
