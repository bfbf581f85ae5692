"""A network that mirrors left hands treats both sides alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from wildhands_ros.camera import Camera
from wildhands_ros.estimation.wildhands import (
    Backend,
    CheckpointInfo,
    Crops,
    Encoding,
    Perspective,
    RuntimeConfig,
    Translation,
    Trunk,
    Variant,
    WildHands,
    WildHandsConfig,
    save_checkpoint,
)
from wildhands_ros.estimation.wildhands.made_up import made_up_network
from wildhands_ros.frames import Frame
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import HandBox, Side

FLIP = np.array([-1.0, 1.0, 1.0])


def _variant(**changes: object) -> Variant:
    settings: dict[str, object] = {
        "trunk": Trunk.LANDMARKS, "frame_trunk": False, "crops": Crops.SHARP, "translation": Translation.CROP,
        "fusion": (64, 32, 16), "features": 64, "hidden": 64, "mirror": True, **changes,
    }  # fmt: skip
    return Variant(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("perspective", list(Perspective))
@pytest.mark.parametrize("encoding", [Encoding.SPARSE, Encoding.DENSE, Encoding.LOCATION])
@pytest.mark.parametrize("backend", [Backend.TORCH, Backend.OPENVINO])
def test_the_mirror_image_gives_the_mirrored_hand(
    perspective: Perspective, encoding: Encoding, backend: Backend, tmp_path: Path
) -> None:
    if backend is Backend.OPENVINO and (perspective, encoding) != (Perspective.CORRECTION, Encoding.SPARSE):
        return  # one export is enough
    path = tmp_path / "network.safetensors"
    save_checkpoint(path, made_up_network(_variant(perspective=perspective, encoding=encoding), 5), CheckpointInfo())
    runtime = RuntimeConfig(backend=backend, cache_dir=tmp_path, tolerance_mm=10)
    estimator = WildHands.load(WildHandsConfig(path, runtime=runtime), load_hand_model())

    rng = np.random.default_rng(2)
    picture = cv2.resize(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    camera = Camera(320, 240, 260, 255, 150.0, 118.0)
    boxes = {Side.RIGHT: (150.0, 60.0, 260.0, 190.0), Side.LEFT: (20.0, 50.0, 120.0, 160.0)}
    found = {
        hand.side: hand
        for hand in estimator.estimate(
            Frame(picture, camera), [HandBox(side, box, 0.9) for side, box in boxes.items()]
        ).hands
    }

    mirrored_camera = Camera(320, 240, 260, 255, 319 - 150.0, 118.0)
    mirrored = [HandBox(side.other, (319 - box[2], box[1], 319 - box[0], box[3]), 0.9) for side, box in boxes.items()]
    picture = np.ascontiguousarray(picture[:, ::-1])
    for hand in estimator.estimate(Frame(picture, mirrored_camera), mirrored).hands:
        original = found[hand.side.other]
        np.testing.assert_allclose(hand.joints * FLIP, original.joints, atol=1e-3)
        np.testing.assert_allclose(FLIP[:, None] * hand.pose * FLIP, original.pose, atol=1e-3)
        np.testing.assert_allclose(hand.betas, original.betas, atol=1e-3)
