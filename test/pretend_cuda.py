"""A pretended GPU: tensors that say they are on one and compute on the CPU, with a GPU's rules.

Where tensors of both places meet, it fails as CUDA does; while a graph is recorded, so does what a recording forbids.
What is copied between the places, and where the host would have to wait, is written down.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

_HERE = torch.device("cuda", 0)
_ATEN = torch.ops.aten
_COPY, _COPY_INTO = _ATEN._to_copy.default, _ATEN.copy_.default
_PIN, _IS_PINNED = _ATEN._pin_memory.default, _ATEN.is_pinned.default
_CONVOLUTIONS = (_ATEN.convolution, _ATEN.conv2d)
_WAITING = (
    _ATEN._local_scalar_dense, _ATEN.item, _ATEN.is_nonzero, _ATEN.equal, _ATEN.nonzero, _ATEN.masked_select,
    _ATEN.unique_dim, _ATEN._unique2, _ATEN._linalg_check_errors,
)  # fmt: skip


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU. inner: its values, on the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=_HERE, requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of the pretended GPU")


@dataclass
class Copy:
    """up: to the GPU. shape: of the copied. waits: whether the host waits for the GPU."""

    up: bool
    shape: tuple[int, ...]
    waits: bool


@dataclass
class _Recorded:
    func: Any
    args: Any
    kwargs: Any
    found: Any


@dataclass
class PretendedGpu(TorchDispatchMode):
    """copies: between GPU and CPU, in order. waits: operations whose result the host needs. convolutions: type and
    whether channels come last. synchronized: devices that were waited for on purpose."""

    copies: list[Copy] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    convolutions: list[tuple[torch.dtype, bool]] = field(default_factory=list)
    recording: list[_Recorded] | None = None
    synchronized: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def forget(self) -> None:
        """Begins to write down anew."""
        self.copies.clear()
        self.waits.clear()
        self.convolutions.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        given = [isinstance(tensor, OnGpu) for tensor in tensors]
        if func.overloadpacket is _ATEN.to:
            with self:  # in inference mode what is made of other operations arrives whole
                return func.decompose(*args, **kwargs)
        if func in (_PIN, _IS_PINNED):
            return tensors[0] if func is _PIN else True
        named = kwargs.get("device")
        target = any(given) if named is None else torch.device(named).type == "cuda"
        if named is not None:
            kwargs["device"] = torch.device("cpu")
        if func in (_COPY, _COPY_INTO):
            target = given[0] if func is _COPY_INTO or named is None else target
            self._write_down_copy(func, args, kwargs, up=target)
        elif any(given):
            self._refuse_mixed(func, tensors)
            if func.overloadpacket in _WAITING:
                self._wait(str(func))
        inner_args, inner_kwargs = tree_map(_inner, (args, kwargs))
        if func.overloadpacket in _CONVOLUTIONS and any(given):
            values = inner_args[0]
            self.convolutions.append((values.dtype, values.is_contiguous(memory_format=torch.channels_last)))
        found = func(*inner_args, **inner_kwargs)
        if self.recording is not None and target:
            self.recording.append(_Recorded(func, inner_args, inner_kwargs, found))
        if not target:
            return found
        of_normal = any(isinstance(tensor, OnGpu) and not tensor.is_inference() for tensor in tensors)
        if of_normal and func.is_view:  # also in inference mode no inference tensor
            with torch.inference_mode(False):
                return _outer(found, tensors)
        return _outer(found, tensors)

    def _refuse_mixed(self, func: Any, tensors: list[torch.Tensor]) -> None:
        strangers = [t for t in tensors if not isinstance(t, OnGpu) and t.ndim > 0]
        if strangers:
            shapes = ", ".join(str(tuple(t.shape)) for t in strangers)
            raise RuntimeError(f"{func}: tensors of the GPU and of the CPU ({shapes}) together")

    def _write_down_copy(self, func: Any, args: Any, kwargs: Any, *, up: bool) -> None:
        source = args[1] if func is _COPY_INTO else args[0]
        from_gpu = isinstance(source, OnGpu)
        if from_gpu == up:
            return
        free = kwargs.get("non_blocking", False) or (func is _COPY_INTO and len(args) > 2 and args[2])
        self.copies.append(Copy(up, tuple(source.shape), waits=not free))
        if self.recording is not None:
            raise RuntimeError(f"{func}: a copy from or to the CPU cannot be recorded")

    def _wait(self, what: str) -> None:
        self.waits.append(what)
        if self.recording is not None:
            raise RuntimeError(f"{what}: the host waits for it, which cannot be recorded")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnGpu) else value


def _outer(found: Any, tensors: list[torch.Tensor]) -> Any:
    """What an operation gives, as tensors on the GPU; one that it was given stays the same."""
    known = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, OnGpu)}

    def outer(value: Any) -> Any:
        return known[id(value)] if id(value) in known else OnGpu(value) if isinstance(value, torch.Tensor) else value

    return tree_map(outer, found)


class _Graph:
    """A recorded sequence of operations, run again with what their inputs hold by then."""

    def __init__(self) -> None:
        self.steps: list[_Recorded] = []

    def replay(self) -> None:
        for step in self.steps:
            again = step.func(*step.args, **step.kwargs)
            given = {_place(value) for value in tree_flatten((step.args, step.kwargs))[0]}
            for before, now in zip(tree_flatten(step.found)[0], tree_flatten(again)[0], strict=True):
                if isinstance(before, torch.Tensor) and _place(before) not in given:  # no view, nothing in place
                    before.copy_(now)


def _place(value: Any) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) else -1


class _Stream:
    def wait_stream(self, other: object) -> None:
        pass


@contextlib.contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGpu]:
    """Meanwhile torch sees one GPU, this one."""
    pretended = PretendedGpu()

    @contextlib.contextmanager
    def record(graph: _Graph) -> Iterator[None]:
        pretended.recording = graph.steps
        yield
        pretended.recording = None

    real_tensor = torch.tensor

    def tensor(data: Any, *, device: torch.device | str | None = None, **options: Any) -> torch.Tensor:
        if device is None:
            return real_tensor(data, **options)
        return real_tensor(data, device="cpu", **options).to(device)  # on a GPU it would look for the driver's

    monkeypatch.setattr(torch, "tensor", tensor)
    torch._C._ensureCUDADeviceGuardSet()  # otherwise changing to a device that is not there fails
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", _Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", _Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: pretended.synchronized.append(device))
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # weights of another kind of tensor
    try:
        with pretended:
            yield pretended
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
