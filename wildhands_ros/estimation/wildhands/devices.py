"""What a GPU needs so that its answers are the CPU's, and so that nobody waits for it in the middle of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device(values: Sequence[object], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of numbers from the CPU. A GPU goes on with its work meanwhile."""
    made = torch.tensor(values, dtype=dtype)
    return made if device.type == "cpu" else made.pin_memory().to(device, non_blocking=True)


def constants(like: Tensor, values: Sequence[float]) -> Tensor:
    """(K,) a few numbers, filled in where `like` is and of its type: those of the CPU cannot be copied to a GPU while a
    CUDA graph is recorded."""
    return torch.cat([like.new_full((1,), value) for value in values])


def whole_float32(device: torch.device) -> AbstractContextManager[object]:
    """Convolutions in float32 keep all 24 bits: by default cuDNN rounds what they multiply to 11 (TF32)."""
    if device.type == "cpu":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
