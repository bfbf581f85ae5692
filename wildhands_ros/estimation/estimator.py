"""What every estimator promises: boxes in a picture become metric hands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import HandModel
from wildhands_ros.hands import Hand, HandBox, Side

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Estimates:
    """What came of the boxes of one picture.

    hands: one for every box that could be used, in the order of the boxes.
    skipped: for every other box, the reason in words, in the order of the boxes.
    """

    hands: tuple[Hand, ...]
    skipped: tuple[str, ...] = ()


class Estimator(Protocol):
    """Turns boxes of one picture into hands in 3D. Not thread-safe: one instance per stream."""

    @property
    def name(self) -> str:
        """Written into `Hand.estimator`."""
        ...

    @property
    def hand_model(self) -> HandModel:
        """The model that poses, betas and vertices of the hands refer to."""
        ...

    def estimate(self, frame: Frame, boxes: Sequence[HandBox]) -> Estimates:
        """The hands of one picture. A box that cannot be used is skipped with a reason, never an exception."""
        ...

    def pose_hand(
        self, side: Side, pose: FloatArray, betas: FloatArray, translation: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Vertices (V, 3) and joints (21, 3) that belong to `Hand.pose`, `betas` and `translation` of its hands."""
        ...

    def within_reach(self, joints: FloatArray) -> bool:
        """Whether the wrist of joints (21, 3) lies where a valid hand's may."""
        ...

    def trust_up_to(self, largest_expected_error: float) -> None:
        """From now on hands that are likely to be farther off than this, in metres (`Hand.expected_error`), are not
        valid. Does nothing where nothing is known of that."""
        ...

    def reset(self) -> None:
        """Forgets what it knows from earlier pictures: a new stream begins."""
        ...


@runtime_checkable
class SideJudge(Protocol):
    """What an estimator may be besides: somebody who can tell left hands from right ones."""

    def side_log_odds(self, frame: Frame, boxes: Sequence[HandBox]) -> list[float]:
        """Log-odds of "right" for each box's hand, whatever its side is said to be; 0 where nothing speaks for either.

        Nothing of it is remembered for later pictures.
        """
        ...
