"""In which numbers a run computes on this machine."""

from __future__ import annotations

import logging
import time

import torch
from torch.nn.functional import conv2d

from wildhands_ros.training.config import TrainingConfig

logger = logging.getLogger(__name__)

_REPETITIONS = 2


def precision_here(config: TrainingConfig) -> str:
    """The configured precision, but float32 instead of a bfloat16 that this CPU only imitates.

    Without instructions for it (AVX-512's BF16, AMX) it is slower than float32, with AVX2 alone ten times.
    """
    on_cpu = config.accelerator == "cpu" or (config.accelerator == "auto" and not torch.cuda.is_available())
    if config.precision == "bf16-mixed" and on_cpu and bfloat16_is_slower():
        logger.warning("bfloat16 is slower than float32 on this processor: training in float32 ('32-true') instead")
        return "32-true"
    return config.precision


def bfloat16_is_slower() -> bool:
    """Measured with a layer like those of the trunk, there and back."""
    crops = torch.randn(32, 112, 14, 14).to(memory_format=torch.channels_last)
    weight = torch.randn(672, 112, 1, 1, requires_grad=True)

    def seconds(bfloat16: bool) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found = conv2d(crops, weight)
        found.float().square().mean().backward()
        return time.perf_counter() - start

    plain, half = (min(seconds(bfloat16) for _ in range(_REPETITIONS)) for bfloat16 in (False, True))
    return half > plain
