"""Networks as ONNX files: for ONNX Runtime and OpenVINO here, and for TensorRT elsewhere."""

from __future__ import annotations

import os
import tempfile
import warnings
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands.kpe import Encoding, encoding_size
from wildhands_ros.estimation.wildhands.network import CELLS, INPUT_SIZE, OUTPUTS, NetworkInputs, WildHandsNetwork
from wildhands_ros.libraries import how_to_get

FRAME, CROPS, ENCODING, RIGHT = "frame", "crops", "encoding", "right"
MAPS, PICTURE = "maps", "picture"

PREPARING = ".export-"
"""Begins the names of folders in which files are made until they are whole."""

_OPSET = 17


def export_onnx(network: WildHandsNetwork, path: str | Path) -> None:
    """Writes the whole network as one ONNX file, float32, with any number N of hands.

    Inputs: frame (1, 3, 224, 224) and crops (N, 3, 224, 224), normalised; encoding (N, C) or (N, C, H, W); right (N,)
    bool; those that the variant does not use are left out. Outputs: pose (N, 16, 3, 3), betas (N, 10), camera and
    camera_start (N, 3), and, where the network has them, grasp (N, 9), direction (N, 2), keypoints
    (N, 21, 2) and spread (N, 21).

    Raises ModelFileError where the library onnx is missing, torch cannot export or the file cannot be written; what was
    there before stays then.
    """
    inputs = example_inputs(network, 2)
    names = _outputs(network)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # it would be put in the place of a device
        raise ModelFileError(f"{path} is no file: name another one to write")
    try:
        with tempfile.TemporaryDirectory(prefix=PREPARING, dir=target.parent) as folder:
            made = Path(folder) / "network.onnx"
            _export(
                _Whole(network), made,
                {FRAME: inputs.frame, CROPS: inputs.crops, ENCODING: inputs.encoding, RIGHT: inputs.right}, names,
                batched=[CROPS, ENCODING, RIGHT, *names],
            )  # fmt: skip
            os.replace(made, target)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written ({error.strerror or error})") from error


def export_parts(network: WildHandsNetwork, trunks: Path, hands: Path) -> None:
    """Writes the network as two ONNX files that meet at the feature maps: only the trunks may be made coarser.

    Raises NoExporter where the library onnx is missing, ModelFileError where torch cannot export, OSError where a file
    cannot be written.
    """
    inputs = example_inputs(network, 2)
    maps, picture = network.maps(inputs.frame, inputs.crops, inputs.encoding)
    _export(
        _Trunks(network), trunks, {FRAME: inputs.frame, CROPS: inputs.crops, ENCODING: inputs.encoding},
        [MAPS, PICTURE], batched=[CROPS, ENCODING, MAPS],
    )  # fmt: skip
    names = _outputs(network)
    _export(
        _Hands(network), hands, {MAPS: maps, PICTURE: picture, ENCODING: inputs.encoding, RIGHT: inputs.right}, names,
        batched=[MAPS, ENCODING, RIGHT, *names],
    )  # fmt: skip


def example_inputs(network: WildHandsNetwork, count: int) -> NetworkInputs:
    """Inputs of the right shapes and no meaning."""
    size = encoding_size(network.variant.encoding)
    shape = [count, size.features + size.input]
    if size.per_cell:
        shape += [INPUT_SIZE if network.variant.encoding is Encoding.INPUT else CELLS] * 2
    generator = torch.Generator().manual_seed(0)
    return NetworkInputs(
        torch.randn(1, 3, INPUT_SIZE, INPUT_SIZE, generator=generator),
        torch.randn(count, 3, INPUT_SIZE, INPUT_SIZE, generator=generator),
        torch.randn(shape, generator=generator),
        torch.arange(count) % 2 == 0,
    )


def _outputs(network: WildHandsNetwork) -> list[str]:
    variant = network.variant
    there = {
        "grasp": variant.grasp, "direction": variant.upright, "keypoints": variant.keypoints,
        "spread": variant.keypoints,
    }  # fmt: skip
    return [name for name in OUTPUTS if there.get(name, True)]


def by_tracing() -> dict[str, Any]:
    """What chooses, of torch.onnx.export's two exporters, the one that needs no further package.

    Before torch 2.5 there was no other and no such choice.
    """
    return {"dynamo": False} if "dynamo" in signature(torch.onnx.export).parameters else {}


class NoExporter(ModelFileError):
    """What writes ONNX files is not installed."""


def _export(module: nn.Module, path: Path, inputs: dict[str, Tensor], outputs: list[str], batched: list[str]) -> None:
    try:
        import_module("onnx")  # without which torch's exporter fails, at the end of its work
    except ImportError as error:
        raise NoExporter(
            f"writing a network as ONNX needs the library onnx, which cannot be imported ({error}): "
            f"{how_to_get('onnx')}"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this exporter announces its successor
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                str(path),
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes={name: {0: "hands"} for name in batched},
                opset_version=_OPSET,
                **by_tracing(),
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError, TypeError) as error:
        raise ModelFileError(f"this torch ({torch.__version__}) could not export the network: {error}") from error


class _Whole(nn.Module):
    def __init__(self, network: WildHandsNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor, crops: Tensor, encoding: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(NetworkInputs(frame, crops, encoding, right)).tensors().values())


class _Trunks(nn.Module):
    def __init__(self, network: WildHandsNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frame: Tensor, crops: Tensor, encoding: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.maps(frame, crops, encoding)


class _Hands(nn.Module):
    def __init__(self, network: WildHandsNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, maps: Tensor, picture: Tensor, encoding: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network.hands(maps, picture, encoding, right).tensors().values())
