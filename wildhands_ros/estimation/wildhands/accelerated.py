"""ONNX Runtime and OpenVINO behind one small interface, and OpenVINO's int8."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation.wildhands.export import CROPS, ENCODING, FRAME, MAPS, PICTURE, RIGHT
from wildhands_ros.estimation.wildhands.network import OUTPUTS, NetworkInputs, NetworkOutput
from wildhands_ros.estimation.wildhands.runtime import Backend, Precision
from wildhands_ros.libraries import how_to_get, version_of
from wildhands_ros.telemetry import keep_backends_silent
from wildhands_ros.whole_files import checksum, write_whole

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

keep_backends_silent()

AnyArray = NDArray[np.generic]
Arrays = Mapping[str, AnyArray]
Graph = Callable[[Arrays], dict[str, AnyArray]]
_VALUES = 20_000  # of each activation, from which its range is chosen
_SHARES = np.linspace(0.3, 1.0, 22)  # of the largest value, at which clipping is tried
_NAMES = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16", Precision.FLOAT16: "f16"}


@dataclass(frozen=True)
class Calibration:
    """What int8 has to know of a network's numbers.

    ranges: (low, high) over which what enters a convolution is rounded, by the name of what feeds it. shifts: what
    rounding takes away from each output channel on average, by the name of the convolution.
    """

    ranges: dict[str, tuple[float, float]]
    shifts: dict[str, list[float]]


def installed(backend: Backend) -> bool:
    return find_spec(backend.value) is not None


def version(backend: Backend) -> str:
    """The installed version of a backend; empty where it is not installed, or cannot be imported to tell.

    It is asked also of a backend that is then not used, and OpenVINO takes a sixth of a second and 29 MB to import:
    only a build of another name, such as onnxruntime-gpu, has to be imported to tell.
    """
    try:
        return version_of(backend.value) or str(getattr(_imported(backend), "__version__", ""))
    except Unusable:
        return ""


class Unusable(ConfigError):
    """A backend is not installed, or its library cannot be loaded on this system."""


def _imported(backend: Backend) -> ModuleType:
    """A backend's library. Raises Unusable where there is none that can be loaded."""
    if not installed(backend):
        raise Unusable(f"{backend.value} is not installed: {how_to_get(backend.value)}")
    try:
        return import_module(backend.value)
    except Exception as error:  # of compiled parts that do not fit this system's, or NumPy's, it can be any
        raise Unusable(
            f"{backend.value} is installed but cannot be imported ({error}): install a version that fits this system, "
            "or uninstall it"
        ) from error


class ExportedRuntime:
    """A network exported by `export.export_parts`, run on the CPU; holds no torch weights.

    precision: of the trunks. heads: of what follows them, float32, or with OpenVINO bfloat16. calibration: needed where
    precision is int8, from `calibrate`. at_once: how many hands go through together; more go through one after the
    other, which takes no longer on a CPU, and a backend keeps some 25 MB for each number of hands that it has seen. 0:
    all, for networks that see the frame too. Raises ConfigError for what the backend cannot do or is not installed,
    ModelFileError for files that are not such a network.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        trunks: Path,
        hands: Path,
        backend: Backend,
        precision: Precision,
        threads: int,
        calibration: Calibration | None,
        at_once: int = 0,
        heads: Precision = Precision.FLOAT32,
    ) -> None:
        threads = threads or available_threads()
        self._at_once, self._threads = at_once, threads
        self._title = f"{backend.value} {precision.value}"
        self.name = f"{self._title} on cpu, {threads} threads"
        if backend is Backend.OPENVINO:
            self._trunks = openvino_graph(trunks, precision, threads, calibration)
            self.set_heads(hands, heads)
        elif precision is Precision.FLOAT32:
            self._trunks, self._hands = _onnxruntime_graph(trunks, threads), _onnxruntime_graph(hands, threads)
        else:
            raise ConfigError(f"onnxruntime runs this network in float32 only, not {precision.value}: use openvino")

    def set_heads(self, hands: Path, heads: Precision) -> None:
        """From now on OpenVINO computes what follows the trunks in this precision; the trunks stay as they are."""
        self._hands = openvino_graph(hands, heads, self._threads)
        coarse = "" if heads is Precision.FLOAT32 else f" with heads in {heads.value}"
        self.name = f"{self._title}{coarse} on cpu, {self._threads} threads"

    def __call__(self, inputs: NetworkInputs) -> NetworkOutput:
        given = as_arrays(inputs)
        count = len(given[CROPS])
        step = self._at_once or count
        parts = [self._some(given, first, step) for first in range(0, count, step)]
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return NetworkOutput(**{name: torch.from_numpy(array) for name, array in found.items()})

    def _some(self, given: Mapping[str, AnyArray], first: int, count: int) -> dict[str, AnyArray]:
        """The outputs for some of the hands."""
        chosen = {name: array if name == FRAME else array[first : first + count] for name, array in given.items()}
        return self._hands({**chosen, **self._trunks(chosen)})


def openvino_has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU, and not in float32 or more slowly where it is asked for it."""
    try:
        return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Unusable:
        return False


def as_arrays(inputs: NetworkInputs) -> dict[str, AnyArray]:
    """Inputs on the CPU by the names that exported networks give them."""
    return {
        FRAME: inputs.frame.numpy(),
        CROPS: inputs.crops.numpy(),
        ENCODING: inputs.encoding.numpy(),
        RIGHT: inputs.right.numpy(),
    }


def available_threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- ONNX Runtime -----------------------------------------------------------------------------------------------------


def _onnxruntime_graph(path: Path, threads: int) -> Graph:
    onnxruntime = _imported(Backend.ONNXRUNTIME)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the processors to others
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exception types are not public
        raise ModelFileError(f"{path} is not a network that ONNX Runtime can run: {error}") from error
    wanted = {i.name for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]

    def run(arrays: Arrays) -> dict[str, AnyArray]:
        return dict(zip(names, session.run(names, {k: v for k, v in arrays.items() if k in wanted}), strict=True))

    return run


# --- OpenVINO ---------------------------------------------------------------------------------------------------------


@cache
def openvino_core() -> openvino.Core:
    """OpenVINO in this process: one, for as long as it runs. Raises Unusable where it cannot be loaded.

    Each core (2026.4) gives the thread that first uses it a stack for signal handlers, and at its end gives back what
    was there before. Where that belonged to a core that had ended earlier, the next signal, such as Ctrl-C, ended
    the process with SIGSEGV.
    """
    core: openvino.Core = _imported(Backend.OPENVINO).Core()
    return core


def openvino_graph(path: Path, precision: Precision, threads: int, calibration: Calibration | None = None) -> Graph:
    """A graph of an ONNX file on the CPU. int8 needs a calibration (`calibrate`).

    Raises ModelFileError for files that are no such graph, and for a calibration of another one.
    """
    core = openvino_core()
    with _openvino_errors(path):
        model = core.read_model(_mapped_copy(path))
        hint = _NAMES.get(precision, "f32")
        if precision is Precision.INT8:
            if calibration is None:
                raise ConfigError("int8 needs the ranges of the activations: calibrate first")
            try:
                quantise(model, calibration)
            except (KeyError, AttributeError, TypeError, ValueError) as error:  # it is kept beside the network
                raise ModelFileError(f"{path}: its calibration is damaged, or another network's ({error!r})") from error
        compiled = core.compile_model(model, "CPU", _openvino_options(hint, threads))
    del model
    request = compiled.create_infer_request()
    inputs, outputs = [_our_name(port) for port in compiled.inputs], [_our_name(port) for port in compiled.outputs]

    def run(arrays: Arrays) -> dict[str, AnyArray]:
        # inputs are copied, not shared: OpenVINO may compute a network's first steps in place
        found = request.infer([arrays[name] for name in inputs], share_inputs=False)
        return {name: np.array(found[i]) for i, name in enumerate(outputs)}

    return run


def _our_name(port: openvino.ConstOutput) -> str:
    """The name that the export gave to an input or output; OpenVINO may have added names of its own to it."""
    (name,) = port.get_names() & {FRAME, CROPS, ENCODING, RIGHT, MAPS, PICTURE, *OUTPUTS}
    return str(name)


def _mapped_copy(path: Path) -> Path:
    """The ONNX file in OpenVINO's own format, made beside it when first needed; itself where nothing may be written.

    OpenVINO maps that format's weights from the disk instead of copying them, so that the packed weights are the only
    copy in memory.
    """
    import openvino

    mapped, weights, sums = (path.with_suffix(suffix) for suffix in (".xml", ".bin", ".sums"))
    with contextlib.suppress(OSError, ValueError):  # not there
        if json.loads(sums.read_text()) == [checksum(mapped), checksum(weights)]:
            return mapped
    try:
        with tempfile.TemporaryDirectory(prefix=".openvino-", dir=path.parent) as folder:
            openvino.save_model(openvino_core().read_model(path), Path(folder) / mapped.name, compress_to_fp16=False)
            made = [Path(folder) / file.name for file in (mapped, weights)]
            write_whole(sums, json.dumps([checksum(file) for file in made]).encode())
            for new, file in zip(made, (mapped, weights), strict=True):
                os.replace(new, file)
    except (OSError, RuntimeError):  # as which OpenVINO reports a full disk, of which it says nothing
        return path
    return mapped


def _openvino_options(hint: str, threads: int) -> dict[str, str | int | bool]:
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits where others run, even with another processor idle
    }


@contextmanager
def _openvino_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelFileError(f"{path} is not a network that OpenVINO can run: {reason}") from error


def calibrate(path: Path, samples: Sequence[Arrays], threads: int) -> Calibration:
    """Runs the trunks in float32 over samples, twice: to choose ranges, and to see what rounding then takes away."""
    with _openvino_errors(path):
        model = openvino_core().read_model(_mapped_copy(path))
        weighted = _weighted(model)
        sources = {name: node.input_value(0) for node, name in weighted}
        ranges = _ranges(model, sources, samples, threads)
        means = _channel_means(model, sources, ranges, samples, threads)
        shifts = {
            node.get_friendly_name(): _lost(node, *means[name]).tolist()
            for node, name in weighted
            if node.get_type_name() != "MatMul"
        }
    return Calibration(ranges, shifts)


def _ranges(
    model: openvino.Model, sources: Mapping[str, openvino.Output], samples: Sequence[Arrays], threads: int
) -> dict[str, tuple[float, float]]:
    generator = np.random.default_rng(0)
    count = -(-_VALUES // len(samples))
    seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in sources}
    for found in _watch(model, list(sources.values()), samples, threads):
        for name, values in zip(sources, found, strict=True):
            seen[name].append(values.ravel()[generator.integers(0, values.size, count)])
    return {name: rounding_range(np.concatenate(values)) for name, values in seen.items()}


def _channel_means(
    model: openvino.Model,
    sources: Mapping[str, openvino.Output],
    ranges: Mapping[str, tuple[float, float]],
    samples: Sequence[Arrays],
    threads: int,
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The mean of each channel (C,) that enters a convolution, before and after rounding."""
    from openvino import opset13

    outputs = []
    for name, source in sources.items():
        spatial = len(source.get_partial_shape()) == 4
        for values in (source, _rounded(source, *ranges[name], 256)):
            outputs.append(opset13.reduce_mean(values, np.array([0, 2, 3] if spatial else [0]), False).output(0))
    every = [[np.array(mean, np.float64) for mean in found] for found in _watch(model, outputs, samples, threads)]
    means = [np.mean(column, axis=0) for column in zip(*every, strict=True)]
    return dict(zip(sources, zip(means[::2], means[1::2], strict=True), strict=True))


def _watch(
    model: openvino.Model, outputs: list[openvino.Output], samples: Sequence[Arrays], threads: int
) -> Iterator[list[NDArray[np.float32]]]:
    """Values inside a model, for one sample after the other; each is overwritten by the next."""
    import openvino

    watching = openvino.Model(outputs, model.get_parameters(), "watching")
    options = _openvino_options("f32", threads or available_threads())
    compiled = openvino_core().compile_model(watching, "CPU", options)
    inputs = [_our_name(port) for port in compiled.inputs]
    for arrays in samples:
        found = compiled([arrays[name] for name in inputs])
        yield [found[i] for i in range(len(outputs))]


def _lost(node: openvino.Node, before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """What rounding takes from each output channel of a convolution on average, (C,), borders aside.

    Nagel et al., ICCV 2019, "bias correction". before, after: means of the input's channels.
    """
    weights = node.input_value(1).get_node().get_data()
    largest = _largest(weights)
    rounded = np.round(weights / largest * 127) * largest / 127
    if node.get_type_name() == "Convolution":
        weights, rounded = weights[None], rounded[None]  # one group
    groups = len(weights)
    taps = (3, 4)
    lost = np.einsum("goi,gi->go", weights.sum(axis=taps, dtype=np.float64), before.reshape(groups, -1))
    lost -= np.einsum("goi,gi->go", rounded.sum(axis=taps, dtype=np.float64), after.reshape(groups, -1))
    return np.asarray(lost.ravel())


def rounding_range(values: NDArray[np.float32]) -> tuple[float, float]:
    """The range over which 256 levels reproduce values with the least squared error; rare large ones are clipped.

    From zero where no value is negative, symmetric otherwise (Banner et al., NeurIPS 2019, found by search).
    """
    signed = bool(values.min() < 0)
    largest = max(float(np.abs(values).max()), 1e-6)
    lowest_level, levels = (-128, 127) if signed else (0, 255)

    def squared_error(top: float) -> float:
        step = top / levels
        return float(np.square(np.clip(np.round(values / step), lowest_level, levels) * step - values).mean())

    top = min((largest * float(share) for share in _SHARES), key=squared_error)
    return (-top * 128 / 127 if signed else 0.0), top


def quantise(model: openvino.Model, calibration: Calibration) -> None:
    """Marks an OpenVINO model, in place, for execution in 8-bit integers.

    Weights: 255 levels, symmetric, a scale for each output channel. Activations: 256 levels over their range, one
    scale for each tensor (from zero after a ReLU, symmetric elsewhere). What rounding takes away on average is given
    back behind each convolution. OpenVINO turns the marked convolutions into integer arithmetic (Jacob et al., CVPR
    2018).
    """
    from openvino import opset13

    marked: dict[str, openvino.Output] = {}
    for node, name in _weighted(model):
        if name not in marked:
            marked[name] = _rounded(node.input_value(0), *calibration.ranges[name], 256)
        node.input(0).replace_source_output(marked[name])
        weights = node.input_value(1)
        largest = _largest(weights.get_node().get_data())
        node.input(1).replace_source_output(_rounded(weights, -largest, largest, 255))
        shift = calibration.shifts.get(node.get_friendly_name())
        if shift is not None:
            users = list(node.output(0).get_target_inputs())
            given = opset13.constant(np.array(shift, np.float32).reshape(1, -1, 1, 1))
            shifted = opset13.add(node.output(0), given).output(0)
            for user in users:
                user.replace_source_output(shifted)
    model.validate_nodes_and_infer_types()


def _rounded(source: openvino.Output, low: AnyArray | float, high: AnyArray | float, levels: int) -> openvino.Output:
    from openvino import opset13

    bounds = [opset13.constant(np.asarray(v, np.float32)) for v in (low, high, low, high)]
    return opset13.fake_quantize(source, *bounds, levels).output(0)


def _largest(weights: AnyArray) -> NDArray[np.float32]:
    """The largest absolute weight of each output channel, to be broadcast."""
    kept = 2 if weights.ndim == 5 else 1  # groups come before the output channels
    return np.abs(weights).max(axis=tuple(range(kept, weights.ndim)), keepdims=True).clip(1e-6)


def _weighted(model: openvino.Model) -> list[tuple[openvino.Node, str]]:
    """Convolutions and linear layers with constant weights, each with the name of what enters it."""
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        source, weights = node.input_value(0), node.input_value(1)
        if weights.get_node().get_type_name() == "Constant":
            found.append((node, f"{source.get_node().get_friendly_name()}:{source.get_index()}"))
    return found
