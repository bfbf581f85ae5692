"""Learning how wrong a trained network's hands are likely to be, from hands that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from wildhands_ros.estimation.wildhands.expected_errors import ExpectedErrors, disagreement
from wildhands_ros.training.batch import project_to_crop
from wildhands_ros.training.dataset import Drawn
from wildhands_ros.training.module import TrainingModule, joint_errors


@torch.inference_mode()
def learn_expected_errors(module: TrainingModule, batches: Iterable[Drawn]) -> ExpectedErrors | None:
    """The law for a network with keypoints, from the errors of its joints on these samples.

    None for a network without, or where the samples teach none (`ExpectedErrors.learned`).
    """
    if not module.network.variant.keypoints:
        return None
    module.eval()
    spreads, disagreements, errors = [], [], []
    for drawn in batches:
        drawn = drawn.to(module.device)
        output, where, _, _, joints = module.estimate(drawn)
        assert output.keypoints is not None and output.spread is not None
        places = project_to_crop(joints, where)
        spreads.append(output.spread.mean(dim=1).cpu().numpy())
        disagreements.append(disagreement(output.keypoints.double().cpu().numpy(), places.double().cpu().numpy()))
        errors.append(1e-3 * joint_errors(joints, drawn.batch, where)[:, 0].cpu().numpy())
    return ExpectedErrors.learned(*(np.concatenate(parts) for parts in (spreads, disagreements, errors)))
