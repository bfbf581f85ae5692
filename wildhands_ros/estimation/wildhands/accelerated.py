"""ONNX Runtime and OpenVINO behind one small interface, and OpenVINO's int8."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from wildhands_ros.errors import ConfigError, ModelFileError
from wildhands_ros.estimation.wildhands.export import CROPS, ENCODING, FRAME, MAPS, OUTPUTS, PICTURE, RIGHT
from wildhands_ros.estimation.wildhands.network import NetworkInputs, NetworkOutput
from wildhands_ros.estimation.wildhands.runtime import Backend, Precision

if TYPE_CHECKING:
    import openvino  # type: ignore[import-untyped]

AnyArray = NDArray[np.generic]
Arrays = Mapping[str, AnyArray]
Graph = Callable[[Arrays], dict[str, AnyArray]]
Ranges = dict[str, tuple[float, float]]
"""Smallest and largest value that enters each convolution, by the name of what feeds it."""

_NAMES = {Precision.FLOAT32: "f32", Precision.BFLOAT16: "bf16", Precision.FLOAT16: "f16"}


def installed(backend: Backend) -> bool:
    return find_spec(backend.value) is not None


def version(backend: Backend) -> str:
    """The installed version of a backend; empty where it is not installed."""
    return str(getattr(import_module(backend.value), "__version__", "")) if installed(backend) else ""


class ExportedRuntime:
    """A network exported by `export.export_parts`, run on the CPU; holds no torch weights.

    ranges: of the activations, where precision is int8. Raises ConfigError for what the backend cannot do or is not
    installed, ModelFileError for files that are not such a network.
    """

    device = torch.device("cpu")

    def __init__(
        self, trunks: Path, hands: Path, backend: Backend, precision: Precision, threads: int, ranges: Ranges | None
    ) -> None:
        if not installed(backend):
            raise ConfigError(f"{backend.value} is not installed: pip install {backend.value}")
        threads = threads or available_threads()
        self.name = f"{backend.value} {precision.value} on cpu, {threads} threads"
        if backend is Backend.OPENVINO:
            self._trunks = openvino_graph(trunks, precision, threads, ranges)
            self._hands = openvino_graph(hands, Precision.FLOAT32, threads)
        elif precision is Precision.FLOAT32:
            self._trunks, self._hands = _onnxruntime_graph(trunks, threads), _onnxruntime_graph(hands, threads)
        else:
            raise ConfigError(f"onnxruntime runs this network in float32 only, not {precision.value}: use openvino")

    def __call__(self, inputs: NetworkInputs) -> NetworkOutput:
        given = as_arrays(inputs)
        found = self._hands({**given, **self._trunks(given)})
        return NetworkOutput(*(torch.from_numpy(found[name]) for name in OUTPUTS if name in found))


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
    import onnxruntime  # type: ignore[import-untyped]

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


def openvino_graph(path: Path, precision: Precision, threads: int, ranges: Ranges | None = None) -> Graph:
    """A graph of an ONNX file on the CPU. With int8, `ranges` come from `activation_ranges`."""
    import openvino

    core = openvino.Core()
    with _openvino_errors(path):
        model = core.read_model(_mapped_copy(path))
        hint = _NAMES.get(precision, "f32")
        if precision is Precision.INT8:
            if ranges is None:
                raise ConfigError("int8 needs the ranges of the activations: calibrate first")
            quantise(model, ranges)
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
    """The ONNX file in OpenVINO's own format, made beside it when first needed.

    OpenVINO maps that format's weights from the disk instead of copying them, so that the packed weights are the only
    copy in memory.
    """
    import openvino

    mapped = path.with_suffix(".xml")
    if not mapped.is_file():
        with tempfile.TemporaryDirectory(prefix=".openvino-", dir=path.parent) as folder:
            openvino.save_model(openvino.Core().read_model(path), Path(folder) / mapped.name, compress_to_fp16=False)
            for suffix in (".bin", ".xml"):  # the .xml last: what is there is whole
                os.replace(Path(folder) / path.with_suffix(suffix).name, path.with_suffix(suffix))
    return mapped


def _openvino_options(hint: str, threads: int) -> dict[str, str | int]:
    return {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}


@contextmanager
def _openvino_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ModelFileError(f"{path} is not a network that OpenVINO can run: {reason}") from error


def activation_ranges(path: Path, samples: Sequence[Arrays], threads: int) -> Ranges:
    """Runs the trunks in float32 over samples and notes what enters each of its convolutions."""
    import openvino

    core = openvino.Core()
    with _openvino_errors(path):
        model = core.read_model(_mapped_copy(path))
        sources = {name: node.input_value(0) for node, name in _weighted(model)}
        watching = openvino.Model(list(sources.values()), model.get_parameters(), "ranges")
        compiled = core.compile_model(watching, "CPU", _openvino_options("f32", threads or available_threads()))
    inputs = [_our_name(port) for port in compiled.inputs]
    ranges: Ranges = {name: (0.0, 0.0) for name in sources}
    for arrays in samples:
        found = compiled([arrays[name] for name in inputs])
        for i, name in enumerate(sources):
            low, high = ranges[name]
            ranges[name] = (min(low, float(found[i].min())), max(high, float(found[i].max())))
    return ranges


def quantise(model: openvino.Model, ranges: Ranges) -> None:
    """Marks an OpenVINO model, in place, for execution in 8-bit integers.

    Weights: 255 levels, symmetric, a scale for each output channel. Activations: 256 levels over the range that was
    seen, one scale for each tensor (from zero after a ReLU, symmetric elsewhere). OpenVINO turns the marked
    convolutions into integer arithmetic (Jacob et al., CVPR 2018).
    """
    from openvino import opset13

    def levels(source: openvino.Output, low: AnyArray | float, high: AnyArray | float, count: int) -> openvino.Output:
        bounds = [opset13.constant(np.asarray(v, np.float32)) for v in (low, high, low, high)]
        return opset13.fake_quantize(source, *bounds, count).output(0)

    marked: dict[str, openvino.Output] = {}
    for node, name in _weighted(model):
        if name not in marked:
            low, high = ranges[name]
            if low < 0:
                high = max(-low, high)
                low, high = -high, high * 127 / 128
            marked[name] = levels(node.input_value(0), low, max(high, 1e-6), 256)
        node.input(0).replace_source_output(marked[name])
        weights = node.input_value(1)
        values = weights.get_node().get_data()
        largest = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True).clip(1e-6)
        node.input(1).replace_source_output(levels(weights, -largest, largest, 255))
    model.validate_nodes_and_infer_types()


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
