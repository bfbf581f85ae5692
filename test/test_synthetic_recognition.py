"""Networks trained on photographs take the rendered hands for hands (needs the models: wildhands models fetch)."""

from __future__ import annotations

import numpy as np
import pytest

from wildhands_ros.detection import HandDetector
from wildhands_ros.synthetic import Lens, SequenceConfig, SyntheticSequence


@pytest.mark.parametrize("lens", list(Lens))
def test_rendered_hands_are_found_on_the_right_side(lens):
    sequence = SyntheticSequence(SequenceConfig(seed=4, lens=lens, seconds=5, rate=1))
    detector = HandDetector.from_directory()
    errors, right_sides = [], []
    for frame, truth in sequence:
        boxes = detector.detect(frame.image)
        for hand, visible in zip(truth.hands, truth.visible, strict=True):
            if not visible:
                continue
            size = np.ptp(hand.keypoints, axis=0).max()
            distances = [np.linalg.norm(box.landmarks.image - hand.keypoints, axis=1).mean() / size for box in boxes]
            assert distances and min(distances) < 0.2, f"frame {frame.index}: no {hand.side.value} hand"
            errors.append(min(distances))
            right_sides.append(boxes[int(np.argmin(distances))].side is hand.side)
    assert len(errors) >= 8 and np.mean(errors) < 0.1
    assert np.mean(right_sides) > 0.9
