"""How far the two hands of one picture are from where they should be, seen from each other, in training's validation.

Batches are hands by themselves, mirrored and rolled, and know nothing of each other: what belongs together is taken
from the samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wildhands_ros.estimation.wildhands.upright import rotations
from wildhands_ros.evaluation.sample_scores import SceneHand, pair_errors
from wildhands_ros.hands import Side
from wildhands_ros.samples import Sample
from wildhands_ros.training.dataset import Manner

MRRPE = "mrrpe_mm"


@dataclass(frozen=True)
class ShownHand:
    """hand: a sample's. roll: radians by which its picture, mirrored for a left hand, was turned for the network."""

    hand: SceneHand
    roll: float


def shown_hands(samples: Iterable[Sample], manner: Manner) -> list[ShownHand]:
    """The hands of samples that a network is shown in this manner, in their order."""
    return [ShownHand(SceneHand.of(sample), manner.roll(sample)) for sample in samples]


def shown_pair_errors(joints: Tensor, hands: Sequence[ShownHand]) -> Tensor:
    """MRRPE (N,) in millimetres of joints (N, 21, 3), metres, as batches have them; NaN for hands that are no pair, see
    `evaluation.sample_scores.pair_errors`."""
    back = rotations(torch.tensor([-shown.roll for shown in hands], dtype=torch.float64))
    sides = torch.tensor([-1.0 if shown.hand.side is Side.LEFT else 1.0 for shown in hands], dtype=torch.float64)
    seen = joints.detach().double().cpu() @ back.transpose(1, 2)
    seen[..., 0] *= sides[:, None]
    return torch.from_numpy(pair_errors(seen.numpy(), [shown.hand for shown in hands]))
