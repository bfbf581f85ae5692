"""What a GPU needs so that its answers are the CPU's, and so that nobody waits for it in the middle of a frame."""

from __future__ import annotations

import threading
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


class _WithoutTf32:
    """cuDNN's setting is the process's, and several threads may be in here at once: the last to leave restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._allowed = True

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._allowed = torch.backends.cudnn.allow_tf32
                torch.backends.cudnn.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.backends.cudnn.allow_tf32 = self._allowed


_WITHOUT_TF32 = _WithoutTf32()


def whole_float32(device: torch.device) -> AbstractContextManager[object]:
    """Convolutions in float32 keep all 24 bits: by default cuDNN rounds what they multiply to 11 (TF32)."""
    return nullcontext() if device.type == "cpu" else _WITHOUT_TF32
