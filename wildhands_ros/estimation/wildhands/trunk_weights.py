"""Weights of classifiers of pictures (ImageNet's), from which trunks start to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands.checkpoint import is_own_format as is_safetensors
from wildhands_ros.estimation.wildhands.pytorch_files import is_plain, read_pytorch_file, refuse_broken_numbers
from wildhands_ros.estimation.wildhands.trunks import FeatureTrunk
from wildhands_ros.texts import listed

_WRAPPER = "module."  # of DataParallel, by which published EfficientNets were trained
_COUNTER = ".num_batches_tracked"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def load_trunk_weights(trunk: FeatureTrunk, path: Path) -> None:
    """Fills a ResNet or EfficientNet-Lite0 with the weights of a classifier, whose last layers are passed over.

    path: a state_dict, by torch.save or as safetensors, with the names of torchvision (ResNet) or of the usual PyTorch
    port (EfficientNet-Lite). The channels of an encoding at the input start at zero, so that they change nothing before
    training. Raises ModelFileError naming what is missing, of another shape, or no plain floating point numbers.
    """
    found, wanted = _tensors(path), trunk.state_dict()
    weights = {name: found[name] for name in wanted if name in found and not name.endswith(_COUNTER)}
    missing = [name for name in wanted if name not in weights and not name.endswith(_COUNTER)]
    if missing:
        held = listed([ascii(name[:60]) for name in found]) or "none"
        raise ModelFileError(
            f"{path} lacks {len(missing)} of this trunk's {len(wanted)} tensors ({listed(missing)}): it holds {held}. "
            "It is another network's, or has other names than torchvision's"
        )
    odd = [name for name, value in weights.items() if not is_plain(value) or value.dtype not in _FLOATS]
    if odd:
        raise ModelFileError(
            f"{path} holds {listed(odd)} in a special form (sparse, nested, quantised, whole or complex numbers, or "
            "without its numbers): save plain tensors of float32, float16 or bfloat16"
        )
    first = next(name for name, module in trunk.named_modules() if isinstance(module, nn.Conv2d)) + ".weight"
    fits = {name: {value.shape} for name, value in wanted.items()}
    filters, inputs, *window = wanted[first].shape
    fits[first].add(torch.Size([filters, 3, *window]))
    misfits = [
        f"{name} is {tuple(value.shape)}, expected {tuple(wanted[name].shape)}"
        for name, value in weights.items()
        if value.shape not in fits[name]
    ]
    if misfits:
        raise ModelFileError(f"{path} does not fit this trunk: {listed(misfits)}")
    # Only now is anything copied: a few bytes can announce a tensor without end
    weights = {name: value.float() for name, value in weights.items()}
    refuse_broken_numbers(path, weights)
    weights[first] = nn.functional.pad(weights[first], (0, 0) * 2 + (0, inputs - weights[first].shape[1]))
    trunk.load_state_dict({**wanted, **weights})


def _tensors(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, as they are."""
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
        if isinstance(name, str) and isinstance(value, Tensor)
    }
