"""Weights from files: the published Lightning checkpoint, and this package's own format.

The published weights are made by their authors and licensed CC BY-NC 4.0; this package holds none of them. Its own
format is one safetensors file (tensors and text only, nothing that runs code) whose metadata say what is inside.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands.expected_errors import ExpectedErrors
from wildhands_ros.estimation.wildhands.landmark_trunk import LandmarkTrunk
from wildhands_ros.estimation.wildhands.network import WildHandsNetwork
from wildhands_ros.estimation.wildhands.pytorch_files import (
    file_sha256,
    is_plain,
    opened,
    read_pytorch_file,
    refuse_broken_numbers,
)
from wildhands_ros.estimation.wildhands.variant import Variant
from wildhands_ros.paths import expanded
from wildhands_ros.texts import listed
from wildhands_ros.whole_files import write_whole

PROJECT_PAGE = "https://bit.ly/WildHands"
"""Where the authors of the method publish their weights."""

_LARGEST = 4 << 30  # bytes
_LARGEST_HEADER = 16 << 20
_METADATA_KEY = "wildhands"
_FORMAT = 1

_GRASP = "grasp_classifier."
_LAYER = re.compile(r"(\d+)\.(weight|bias)$")
_COUNTER = ".num_batches_tracked"
_WRAPPERS = re.compile(r"^(?:model\.|module\.|_orig_mod\.)+")  # of Lightning, of DataParallel, of torch.compile
_IN_HEAD = re.compile(r"^(head_[rl]\.)(?=(?:refine|decoders)\.)")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    variant: the network. training_data, hand_model, licence: in words. sha256: of the tensors' names, shapes and bytes
    (own format) or of the file (published format). errors: how wrong its hands are likely to be; None where nobody
    measured it.
    """

    variant: Variant = field(default_factory=Variant)
    training_data: str = "unknown"
    hand_model: str = "unknown"
    licence: str = "unknown"
    sha256: str = ""
    errors: ExpectedErrors | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "variant": self.variant.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CheckpointInfo:
        """The inverse of `to_dict`. Raises ModelFileError, TypeError or KeyError for what is not so."""
        texts = dict(values)
        variant, errors = Variant.from_dict(texts.pop("variant")), ExpectedErrors.from_dict(texts.pop("errors", None))
        if not all(isinstance(text, str) for text in texts.values()):
            raise TypeError("texts expected")
        return cls(variant, **texts, errors=errors)


def load_checkpoint(path: str | Path) -> tuple[WildHandsNetwork, CheckpointInfo]:
    """The network of a checkpoint file, on the CPU, float32, ready for inference.

    Own files (.safetensors) say which network they hold; any other file is read as the published Lightning checkpoint.
    Nothing in the file is executed. Raises ModelFileError naming what is missing, misshapen or not what it claims.
    """
    path = _checked_file(path)
    info, tensors, spelled = (*_read_own(path), {}) if is_own_format(path) else _read_published(path)
    with torch.device("meta"):  # no memory until the file's own tensors are put in
        network = WildHandsNetwork(info.variant)
    _check_tensors(path, network.state_dict(), tensors, spelled)
    network.load_state_dict(tensors, assign=True)
    for module in network.modules():
        if isinstance(module, LandmarkTrunk):
            module.set_colours()  # no file holds these
    return network.eval().requires_grad_(False), info


def save_checkpoint(
    path: str | Path, network: WildHandsNetwork, info: CheckpointInfo, *, half: bool = False
) -> CheckpointInfo:
    """Writes a network in the package's own format; returns `info` with the hash that was written.

    half: in float16, half as large, but for tensors with numbers that it cannot hold; such weights are float32 again
    once they are loaded.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        tensors = {name: _halved(tensor) for name, tensor in tensors.items()}
    info = replace(info, variant=network.variant, sha256=_hash(tensors))
    description = {**info.to_dict(), "format": _FORMAT}
    try:  # not by safetensors' save_file, whose files nobody else may read
        write_whole(Path(path), save(tensors, metadata={_METADATA_KEY: json.dumps(description)}))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be written ({error.strerror or error})") from error
    return info


def _halved(tensor: Tensor) -> Tensor:
    """A tensor of float32 in float16, unless one of its numbers is too large for that; any other as it is."""
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor


def checkpoint_missing(path: str | Path | None) -> str | None:
    """What to do about a checkpoint that is not there, in words; None where it is."""
    if path is not None and is_there(path):
        return None
    if path is not None and (instead := is_instead(path)):
        return instead
    what = "no checkpoint was named" if path is None else f"the checkpoint {path} is missing"
    return (
        f"{what}: the WildHands weights are their authors' (CC BY-NC 4.0) and not part of this package. Get them from "
        f"the project page, {PROJECT_PAGE}, and name the file (--checkpoint FILE, or the parameter "
        "estimation.checkpoint); the hand model that they were trained with is MANO, from https://mano.is.tue.mpg.de, "
        "whose MANO_RIGHT.pkl and MANO_LEFT.pkl go into the folder that --mano-dir (estimation.mano_dir) names"
    )


def is_there(path: str | Path) -> bool:
    """Whether a file lies at this path, which a user may have mistyped into something that can be no path at all."""
    return os.path.isfile(os.path.expanduser(path))


def is_instead(path: str | Path) -> str | None:
    """What lies where a checkpoint should, in words; None where nothing does. For paths without a file."""
    place = os.path.expanduser(path)
    if not os.path.lexists(place):
        return None
    kind = "a folder" if os.path.isdir(place) else "no file, or a link that leads to none"
    return f"the checkpoint {path} is {kind}: name the file itself"


def is_own_format(path: Path) -> bool:
    """Whether a file begins as safetensors files do: eight bytes of length, then JSON.

    Raises ModelFileError where it cannot be read.
    """
    with opened(path) as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] < _LARGEST_HEADER


def hand_model_of(path: str | Path) -> str | None:
    """On which hand model the weights of a file were trained, as far as it says so; without reading the weights.

    None for files that do not say, are damaged or not there: `load_checkpoint` tells what is wrong with them.
    """
    from safetensors import SafetensorError, safe_open

    path = expanded(path)
    try:
        if not is_there(path) or not is_own_format(path):
            return None
        with safe_open(str(path), framework="pt") as file:
            return _described(path, (file.metadata() or {}).get(_METADATA_KEY, "")).hand_model
    except (ModelFileError, SafetensorError, OSError, ValueError, RuntimeError):
        return None


# --- the two formats --------------------------------------------------------------------------------------------------


def _checked_file(path: str | Path) -> Path:
    missing = checkpoint_missing(path)
    if missing:
        raise ModelFileError(missing)
    path = expanded(path)
    size = path.stat().st_size
    if size > _LARGEST:
        raise ModelFileError(f"{path} is {size / 1e9:.1f} GB: too large to be a WildHands checkpoint")
    return path


def _read_own(path: Path) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path} is damaged or not a safetensors file ({error}): get it again") from error
    if text is None:
        raise ModelFileError(f"{path} holds tensors but does not say of which network: not a WildHands checkpoint")
    info = _described(path, text)
    if _hash(tensors) != info.sha256:
        raise ModelFileError(f"{path}: the tensors are not those that its description was written for: get it again")
    return info, {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}


def _described(path: Path, text: str) -> CheckpointInfo:
    try:
        values = json.loads(text)
        if values.pop("format") != _FORMAT:
            raise ModelFileError("it was written by a newer version of this package")
        return CheckpointInfo.from_dict(values)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ModelFileError(f"{path}: its description cannot be read ({error!r})") from error


def _our_name(key: str) -> str:
    """The network's name of a published file's tensor."""
    return _WRAPPERS.sub("", key).replace("._orig_mod.", ".").replace(".hmr_layer.", ".")


def _published_name(name: str, wrapper: str) -> str:
    """The reverse: what a published file calls a tensor of the network. wrapper: what its names begin with, if any."""
    return wrapper + _IN_HEAD.sub(r"\1hmr_layer.", name)


def _read_published(path: Path) -> tuple[CheckpointInfo, dict[str, Tensor], dict[str, str]]:
    """What the file says of itself, its tensors by the network's names, and how the file spells these, for people."""
    content = read_pytorch_file(path, "a WildHands checkpoint")
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise ModelFileError(f"{path} has no state_dict: not a WildHands checkpoint")
    with torch.device("meta"):
        known = WildHandsNetwork(Variant()).state_dict()
    # Such files also hold the hand model's buffers, heads for objects and training state: not needed here
    named = [
        (name, key)
        for key, value in state.items()
        if isinstance(key, str) and isinstance(value, Tensor)
        for name in [_our_name(key)]
        if name in known or name.startswith(_GRASP)
    ]
    keys = dict(named)
    tensors: dict[str, Tensor] = {name: state[key] for name, key in keys.items()}
    without = {name for name in known if name not in tensors and not name.endswith(_COUNTER)}
    strangers = [
        key
        for key, value in state.items()
        if isinstance(key, str) and not isinstance(value, Tensor) and _our_name(key) in without
    ]
    if strangers:
        raise ModelFileError(
            f"{path} holds {listed([ascii(key[:60]) for key in strangers])} as something else than tensors (NumPy's "
            "arrays?): save tensors (torch.from_numpy)"
        )
    wrappers = Counter(key.removesuffix(_WRAPPERS.sub("", key)) for name, key in keys.items() if name in known)
    if not wrappers:
        if any(isinstance(key, str) and key.startswith("network.hand_backbone.") for key in state):
            raise ModelFileError(
                f"{path} is what 'wildhands train' goes on from, not what comes of it: name network.safetensors, which "
                "the run leaves at its end"
            )
        held = listed([ascii(key[:60]) for key in state if isinstance(key, str)]) or "no names"
        raise ModelFileError(
            f"{path} holds none of the network's {len(known)} tensors, but {held}: not a WildHands checkpoint. Tensors "
            "such as model.hand_backbone.conv1.weight are expected, under 'state_dict' or alone"
        )
    ((usual, _),) = wrappers.most_common(1)
    spelled = {name: _published_name(name, usual) for name in known} | keys
    odd = [spelled[name] for name, value in tensors.items() if not is_plain(value)]
    if odd:
        raise ModelFileError(
            f"{path} holds {listed(odd)} in a special form (sparse, nested, or without its numbers): save plain tensors"
        )
    grasp = _grasp_layers(path, tensors)
    variant = Variant(grasp=grasp is not None)
    found = {name: name for name in tensors if name in known} | (grasp or {})  # names among `tensors`, by ours
    spelled |= {name: keys[theirs] for name, theirs in found.items()}
    # of training steps: they mean nothing here, are stored as (1,) by some, and left out by others
    counters = {name: torch.zeros((), dtype=torch.int64) for name in known if name.endswith(_COUNTER)}
    # Before anything is copied: a few bytes can announce a tensor without end
    wanted = {name: value for name, value in known.items() if name in tensors and name not in counters}
    _check_fit(path, wanted, tensors, spelled, types=False)
    others = [(name, key) for name, key in named if name in wanted and key != keys[name]]
    twice = [f"{key} and {keys[name]}" for name, key in others if not _same(state[key], tensors[name])]
    if twice:
        raise ModelFileError(
            f"{path} holds the weights of more than one network ({listed(twice)}): save the state_dict of the one that "
            "is meant alone"
        )
    # Copied, so that only these stay in memory, and the network does not change with a file that is mapped into it
    needed = {name: tensors[theirs] for name, theirs in found.items() if name not in counters}
    tensors = counters | {
        name: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
        for name, value in needed.items()
    }
    info = CheckpointInfo(
        variant,
        training_data="as published (ARCTIC, AssemblyHands, VISOR, Ego4D)",
        hand_model="mano",
        licence="CC BY-NC 4.0",
        sha256=file_sha256(path),
    )
    return info, tensors, spelled


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors, of which b is plain, hold the same: what training keeps under two names is saved twice."""
    return is_plain(a) and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _grasp_layers(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str] | None:
    """The names of the grasp head's tensors, by ours: recognised by their layers' order and shapes.

    None where the file has no such head. One of another form is left out, with a warning: the hands do not need it.
    """
    with torch.device("meta"):
        wanted = WildHandsNetwork(Variant(grasp=True)).grasp_classifier.state_dict(prefix=_GRASP)
    found = {name: value for name, value in tensors.items() if name.startswith(_GRASP)}
    if not found:
        return None
    # The layers may have other names and numbers than ours, in any order
    layers = {(int(m[1]), m[2] == "bias"): name for name in found if (m := _LAYER.search(name))}
    ordered = [layers[key] for key in sorted(layers)]
    forms = [(tuple(found[name].shape), found[name].is_floating_point()) for name in ordered]
    if len(layers) == len(found) and forms == [(tuple(value.shape), True) for value in wanted.values()]:
        return dict(zip(wanted, ordered, strict=True))
    logger.warning(
        "%s: its grasp head is not the one known here and is left out, so hands will have no grasp: %s",
        path, listed([f"{name} {tuple(value.shape)}" for name, value in found.items()]),
    )  # fmt: skip
    return None


def _check_tensors(
    path: Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], spelled: Mapping[str, str]
) -> None:
    """spelled: the file's own names, where they are others."""
    missing = [spelled.get(name, name) for name in wanted if name not in found]
    if missing:
        raise ModelFileError(
            f"{path} lacks {len(missing)} of the network's {len(wanted)} tensors: {listed(missing)}. It is the "
            "checkpoint of another network, or of a part of this one"
        )
    unknown = [spelled.get(name, name) for name in found if name not in wanted]
    if unknown:
        raise ModelFileError(f"{path} holds tensors that its network does not have: {listed(unknown)}")
    _check_fit(path, wanted, found, spelled)
    refuse_broken_numbers(path, {spelled.get(name, name): value for name, value in found.items()})


def _check_fit(
    path: Path,
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    spelled: Mapping[str, str],
    *,
    types: bool = True,
) -> None:
    """types: whether the kind of numbers must be the same, too."""
    misfits = [
        f"{spelled.get(name, name)} is {tuple(found[name].shape)}, expected {tuple(value.shape)}"
        if found[name].shape != value.shape
        else f"{spelled.get(name, name)} holds {found[name].dtype}, expected {value.dtype}"
        for name, value in wanted.items()
        if found[name].shape != value.shape or (types and found[name].dtype != value.dtype)
    ]
    if misfits:
        raise ModelFileError(f"{path} does not fit the network: {listed(misfits)}")


def _hash(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
