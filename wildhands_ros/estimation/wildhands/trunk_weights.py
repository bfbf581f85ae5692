"""Weights of classifiers of pictures (ImageNet's), from which trunks start to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands.checkpoint import is_own_format as is_safetensors
from wildhands_ros.estimation.wildhands.pytorch_files import read_pytorch_file
from wildhands_ros.estimation.wildhands.trunks import FeatureTrunk
from wildhands_ros.texts import listed

_WRAPPER = "module."  # of DataParallel, by which published EfficientNets were trained
_COUNTER = ".num_batches_tracked"


def load_trunk_weights(trunk: FeatureTrunk, path: Path) -> None:
    """Fills a ResNet or EfficientNet-Lite0 with the weights of a classifier, whose last layers are passed over.

    path: a state_dict, by torch.save or as safetensors, with the names of torchvision (ResNet) or of the usual PyTorch
    port (EfficientNet-Lite). The channels of an encoding at the input start at zero, so that they change nothing before
    training. Raises ModelFileError naming what is missing or of another shape.
    """
    found, wanted = _tensors(path), trunk.state_dict()
    missing = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    if missing:
        raise ModelFileError(
            f"{path} lacks {len(missing)} of this trunk's {len(wanted)} tensors ({listed(missing)}): it holds "
            f"{listed(list(found)) or 'none'}. It is another network's, or has other names than torchvision's"
        )
    first = next(name for name, module in trunk.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    weights = {name: found[name] for name in wanted if name in found and not name.endswith(_COUNTER)}
    if weights[first].shape[1:2] == (3,):
        weights[first] = nn.functional.pad(weights[first].float(), (0, 0) * 2 + (0, wanted[first].shape[1] - 3))
    misfits = [
        f"{name} is {tuple(weights[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in weights
        if weights[name].shape != wanted[name].shape
    ]
    if misfits:
        raise ModelFileError(f"{path} does not fit this trunk: {listed(misfits)}")
    broken = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if broken:
        raise ModelFileError(f"{path} contains NaN or infinity in {listed(broken)}")
    trunk.load_state_dict({**wanted, **weights})


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """The plain tensors of a file by name."""
    if not path.is_file():
        raise ModelFileError(f"{path} is not there: it should hold the weights from which the trunk starts")
    if is_safetensors(path):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFileError(f"{path} is damaged, or no safetensors file ({error}): get it again") from error
    content = read_pytorch_file(path, "a trunk's weights")
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise ModelFileError(f"{path} holds no state_dict: expected are tensors by name")
    return {
        name.removeprefix(_WRAPPER): value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
    }
