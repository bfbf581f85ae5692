"""Networks with made-up weights: for measuring speed and for tests, where no trained weights are at hand."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from wildhands_ros.estimation.wildhands.network import WildHandsNetwork
from wildhands_ros.estimation.wildhands.variant import Translation, Variant


def made_up_network(variant: Variant, seed: int) -> WildHandsNetwork:
    """A network whose outputs are lively, finite and mean nothing; the same for the same seed on every machine.

    Signals keep their size from layer to layer (He et al., ICCV 2015), and hands stand about half a metre away.
    """
    network = WildHandsNetwork(variant)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(_weights(name, tuple(value.shape), seed, variant)))
    return network.eval().requires_grad_(False)


def _weights(name: str, shape: tuple[int, ...], seed: int, variant: Variant) -> np.ndarray:
    start = hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]
    noise = np.random.default_rng(int.from_bytes(start, "little")).standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(noise)
    if len(shape) == 4:
        return noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if len(shape) == 2:
        gain = 0.01 if "cam" in name and shape[0] == 3 else 0.1 if "decoders" in name else 1.4
        return noise * np.float32(gain / np.sqrt(shape[1]))
    if name.endswith("cam_init.4.bias"):
        center = (5.0, 0.0, 0.0) if variant.translation is Translation.METRIC else (-1.0, 0.0, 0.0)
        return np.array(center, np.float32) + 0.1 * noise
    if name.endswith("weight"):  # of a batch norm; the last of a residual block adds little
        return np.float32(0.25 if "bn3" in name else 1.0) + 0.05 * noise
    return 0.05 * noise
