"""A mailbox of one between the subscriptions and the worker: the newest image wins, nothing queues."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Generic, TypeVar

ImageT = TypeVar("ImageT")
InfoT = TypeVar("InfoT")

_KEPT_INFOS = 8


@dataclass(frozen=True)
class Parcel(Generic[ImageT, InfoT]):
    """An image with the camera info that belongs to it.

    received: time.monotonic() when the image came.
    """

    image: ImageT
    info: InfoT
    stamp_ns: int
    received: float


class Inbox(Generic[ImageT, InfoT]):
    """Holds the newest image until the worker is free, and pairs it with camera info. Thread-safe.

    An image is paired with the info of its own stamp, or else with the latest one. Where the last image had an info of
    its own stamp, the next one is expected to have one too and is waited for: images and infos are separate topics, and
    either may come first. Without any info the newest image is kept until one comes.

    pair_timeout: seconds that `take` waits for the info of the same stamp.
    """

    def __init__(self, pair_timeout: float = 0.05) -> None:
        self._pair_timeout = pair_timeout
        self._changed = threading.Condition()
        self._image: tuple[ImageT, int, float] | None = None
        self._waiting_since = 0.0
        self._infos: OrderedDict[int, InfoT] = OrderedDict()
        self._latest: InfoT | None = None
        self._paired = False
        self._closed = False

    @property
    def has_info(self) -> bool:
        """Whether any camera info has come yet, without which no image is taken."""
        with self._changed:
            return self._latest is not None

    def put_image(self, image: ImageT, stamp_ns: int) -> bool:
        """Leaves an image for the worker. True if one that it had not taken yet was dropped for it."""
        with self._changed:
            dropped = self._image is not None
            now = time.monotonic()
            if not dropped:
                self._waiting_since = now  # a fast camera's newer images must not prolong the wait for an info
            self._image = (image, stamp_ns, now)
            self._changed.notify_all()
            return dropped

    def put_info(self, info: InfoT, stamp_ns: int) -> None:
        """Leaves camera info for this and later images."""
        with self._changed:
            self._infos[stamp_ns] = self._latest = info
            self._infos.move_to_end(stamp_ns)
            while len(self._infos) > _KEPT_INFOS:
                self._infos.popitem(last=False)
            self._changed.notify_all()

    def take(self) -> Parcel[ImageT, InfoT] | None:
        """Waits for the next image and its info; None once the inbox is closed."""
        with self._changed:
            self._waiting_since = time.monotonic()  # while a slow worker was busy nobody waited for an info
            while not self._closed:
                parcel, wait = self._next()
                if parcel is not None:
                    self._image = None
                    return parcel
                self._changed.wait(wait)
            return None

    def close(self) -> None:
        """Ends every `take`, now and later."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _next(self) -> tuple[Parcel[ImageT, InfoT] | None, float | None]:
        """What can be taken now, or how long to wait for it (None: until something comes)."""
        if self._image is None or self._latest is None:
            return None, None
        image, stamp_ns, received = self._image
        own = self._infos.get(stamp_ns)
        if own is None and self._paired:
            remaining = self._waiting_since + self._pair_timeout - time.monotonic()
            if remaining > 0:
                return None, remaining
        self._paired = own is not None
        return Parcel(image, self._latest if own is None else own, stamp_ns, received), None
