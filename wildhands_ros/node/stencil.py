"""Messages whose layout stays while their numbers change, serialised by writing the numbers into the bytes.

A message of rclpy is a tree of Python objects, each made, checked and read again for every image. In CDR, the format of
messages on the wire, texts and lengths alone decide where a number lies (OMG DDS-XTypes 1.3, 7.4.3: XCDR version 1):
eight bytes aligned to eight from the start of the content, which four bytes of header precede.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rclpy.serialization import serialize_message

FloatArray = NDArray[np.float64]

Layout = TypeVar("Layout", bound=Hashable)
"""What decides a message's length: its texts and how many of everything it holds."""

_HEADER = 4
_MARK = 0x3B9D71C5  # the upper half of marked doubles: about 1e-21, and in texts neither ASCII nor UTF-8
_STAMP = Time(sec=0x5C8E17B3, nanosec=0x9A3D64F1)
_KEPT = 16  # layouts: of two hands that come, go and become invalid


class Serializer(Generic[Layout]):
    """Serialises the messages that a function builds, as `serialize_message` would.

    build: takes a layout, the numbers (N,) of it, which the message holds as doubles, each once, and a stamp, which the
    message holds once or more; the message of equal layouts differs in nothing else. For a middleware that serialises
    in another way, messages are built each time.
    """

    def __init__(self, build: Callable[[Layout, FloatArray, Time], object]) -> None:
        self._build = build
        self._stencil_of = lru_cache(_KEPT)(self._make_stencil)

    def __call__(self, layout: Layout, numbers: FloatArray, stamp: Time) -> bytes:
        stencil = self._stencil_of(layout, len(numbers))
        if stencil is None:
            return bytes(serialize_message(self._build(layout, numbers, stamp)))
        return stencil.filled(numbers, stamp)

    def _make_stencil(self, layout: Layout, count: int) -> _Stencil | None:
        return _stencil(serialize_message(self._build(layout, _marks(count), _STAMP)), count)


@dataclass(frozen=True)
class _Stencil:
    """places: where in the content each number begins, in doubles. stamps: where each stamp begins, in integers.

    content: filled up to whole doubles. size: how much of it belongs to the message, in bytes.
    """

    header: bytes
    content: NDArray[np.uint8]
    size: int
    places: NDArray[np.intp]
    stamps: NDArray[np.intp]

    def filled(self, numbers: FloatArray, stamp: Time) -> bytes:
        content = self.content.copy()
        content.view(np.float64)[self.places] = numbers
        integers = content.view(np.uint32)
        integers[self.stamps], integers[self.stamps + 1] = stamp.sec & 0xFFFFFFFF, stamp.nanosec
        return self.header + content[: self.size].tobytes()


def _marks(count: int) -> FloatArray:
    return ((_MARK << 32) | np.arange(count, dtype=np.uint64)).view(np.float64)


def _stencil(marked: bytes, count: int) -> _Stencil | None:
    """None where the marks do not lie where CDR has them."""
    size = len(marked) - _HEADER
    content = np.zeros(-(-size // 8) * 8, np.uint8)
    content[:size] = np.frombuffer(marked, np.uint8, offset=_HEADER)
    doubles, integers = content.view(np.uint64), content.view(np.uint32)
    found = np.flatnonzero(doubles >> np.uint64(32) == _MARK)
    order = doubles[found] & np.uint64(0xFFFFFFFF)
    stamps = np.flatnonzero((integers[:-1] == _STAMP.sec) & (integers[1:] == _STAMP.nanosec))
    if not len(stamps) or not np.array_equal(np.sort(order), np.arange(count)):
        return None
    return _Stencil(marked[:_HEADER], content, size, found[np.argsort(order)], stamps)
