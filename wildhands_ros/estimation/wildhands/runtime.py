"""Ways to run a network: eager torch as the reference, and faster ones that are held to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.wildhands.devices import whole_float32
from wildhands_ros.estimation.wildhands.network import NetworkInputs, NetworkOutput, WildHandsNetwork
from wildhands_ros.settings import check_types


class Backend(str, Enum):
    """What executes the network."""

    AUTO = "auto"
    """CPU: the fastest of the installed ones, measured once and remembered. GPU: torch."""
    TORCH = "torch"
    """Eager torch: the reference. On a GPU: channels last, and one CUDA graph for each number of hands."""
    COMPILE = "compile"
    """torch.compile; needs a C++ compiler on a CPU, and minutes when it first starts."""
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Precision(str, Enum):
    """Number format of the trunks. What follows them computes in float32, or, beside trunks in bfloat16 or int8 in
    OpenVINO, in bfloat16 where joints stay within the tolerance so."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"
    AUTO = "auto"
    """The fastest that stays within the tolerance."""


@dataclass(frozen=True)
class RuntimeConfig:
    """How a network is run.

    device: 'auto' (a GPU where there is one), 'cpu', 'cuda' or 'cuda:1'.
    threads: of the CPU; 0 takes all. Torch has one number for the whole process: the last network's that was loaded.
    tolerance_mm: how far joints may lie, on average, from where eager float32 has them. Measured when the network is
        loaded; what exceeds it is refused, or passed over where `precision` is 'auto'.
    calibration: a folder of pictures from which int8 takes the ranges of its numbers; None takes the package's own,
        of rendered hands.
    cache_dir: where exported networks are kept; None takes `~/.cache/wildhands_ros/networks`.
    """

    device: str = "auto"
    backend: Backend = Backend.AUTO
    precision: Precision = Precision.FLOAT32
    threads: int = 0
    tolerance_mm: float = 1.0
    calibration: Path | None = None
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.threads < 0:
            raise ConfigError(f"threads must not be negative, got {self.threads}")
        if not self.tolerance_mm > 0:
            raise ConfigError(f"tolerance_mm must be positive, got {self.tolerance_mm}")


class Runtime(Protocol):
    """A network that is ready to run."""

    @property
    def name(self) -> str:
        """What runs where, in a few words, for people."""
        ...

    @property
    def device(self) -> torch.device:
        """Where inputs are expected."""
        ...

    def __call__(self, inputs: NetworkInputs) -> NetworkOutput:
        """The output, on the same device, in float32."""
        ...


def resolve_device(name: str) -> torch.device:
    """The torch device of a configuration. Raises ConfigError where it is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}': give auto, cpu, cuda or cuda:1") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported: give auto, cpu or cuda")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"device '{name}' is not there: torch sees no such GPU; use device 'cpu' or 'auto'")
    return device


class TorchRuntime:
    """The network in torch, on a CPU or GPU. It is taken over: its parameters change their type and place.

    precision: of the trunks; what follows them stays in float32. graphs: capture one CUDA graph for each number of
    hands (on a GPU only). compiled: through torch.compile.
    """

    def __init__(
        self,
        network: WildHandsNetwork,
        device: torch.device | str = "cpu",
        precision: Precision = Precision.FLOAT32,
        *,
        graphs: bool = True,
        compiled: bool = False,
    ) -> None:
        types = {
            Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16
        }  # fmt: skip
        if precision not in types:
            raise ConfigError(f"torch does not run this network in {precision.value}: use float32, bfloat16 or float16")
        self.device = torch.device(device)
        self._type = types[precision]
        self._network = network.eval().requires_grad_(False).to(self.device)
        for name, part in network.named_children():
            if name.endswith("backbone"):
                part.to(self._type)
        fast = self.device.type == "cuda" or self._type != torch.float32 or _is_depthwise(network)
        self._format = torch.channels_last if fast else torch.contiguous_format
        network.to(memory_format=self._format)
        self._step: Callable[[NetworkInputs], NetworkOutput] = self._run
        if compiled:
            self._step = torch.compile(self._run, dynamic=True)
        self._graphs: dict[int, _CapturedStep] | None = {} if graphs and self.device.type == "cuda" else None
        how = "compile" if compiled else "torch"
        self.name = f"{how} {precision.value} on {self.device}"

    @torch.inference_mode()
    def __call__(self, inputs: NetworkInputs) -> NetworkOutput:
        with whole_float32(self.device):
            if self._graphs is None:
                return self._step(inputs)
            with torch.cuda.device(self.device):  # graphs are recorded on the current one, whatever their tensors' is
                count = len(inputs.crops)
                if count not in self._graphs:
                    self._graphs[count] = _CapturedStep(self._step, inputs)
                return self._graphs[count](inputs)

    @torch.inference_mode()
    def hand_trunk(self, crops: Tensor) -> Tensor:
        """The trunk over crops (N, C, 224, 224) alone, as it runs in a step; for measurements."""
        with whole_float32(self.device):
            return torch.as_tensor(self._network.hand_backbone(self._trunk_type(crops)))

    def _run(self, inputs: NetworkInputs) -> NetworkOutput:
        frame, crops = self._trunk_type(inputs.frame), self._trunk_type(inputs.crops)
        maps, picture = self._network.maps(frame, crops, inputs.encoding.to(self._type))
        return self._network.hands(maps.float(), picture.float(), inputs.encoding, inputs.right)

    def _trunk_type(self, pictures: Tensor) -> Tensor:
        return pictures.to(dtype=self._type, memory_format=self._format)


def _is_depthwise(network: WildHandsNetwork) -> bool:
    """Whether it has depthwise convolutions, which on a CPU are faster with channels last; full ones are slower."""
    return any(isinstance(m, torch.nn.Conv2d) and m.groups > 1 for m in network.modules())


class _CapturedStep:
    """One step recorded as a CUDA graph: its kernels start without Python in between."""

    def __init__(self, step: Callable[[NetworkInputs], NetworkOutput], like: NetworkInputs) -> None:
        self._inputs = NetworkInputs(*(t.clone() for t in _tensors(like)))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # kernels choose their algorithms before the recording
            for _ in range(3):
                step(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = step(self._inputs)

    def __call__(self, inputs: NetworkInputs) -> NetworkOutput:
        for target, source in zip(_tensors(self._inputs), _tensors(inputs), strict=True):
            target.copy_(source, non_blocking=True)
        self._graph.replay()
        # copies: the recording writes its output again next time
        return NetworkOutput(**{name: value.clone() for name, value in self._output.tensors().items()})


def _tensors(inputs: NetworkInputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return inputs.frame, inputs.crops, inputs.encoding, inputs.right
