"""Holds a faster way of running a network to the reference, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.estimation.wildhands.crops import CropMaker, Prepared
from wildhands_ros.estimation.wildhands.decode import decode
from wildhands_ros.estimation.wildhands.network import NetworkInputs, NetworkOutput
from wildhands_ros.estimation.wildhands.places import CropPlace
from wildhands_ros.estimation.wildhands.runtime import Runtime
from wildhands_ros.estimation.wildhands.variant import Variant
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Side

_WIDTH, _HEIGHT, _FOCAL = 1280, 720, 800.0


def sample_inputs(
    variant: Variant, count: int, seed: int, pictures: Sequence[NDArray[np.uint8]] = ()
) -> list[Prepared]:
    """Inputs of `count` pictures with a right and a left hand somewhere in each.

    pictures: (H, W, 3) uint8 RGB to take in turn; without any, pictures are made up, with natural ones' statistics.
    """
    generator = np.random.default_rng(seed)
    maker = CropMaker(variant, variant.box_factor)
    samples = []
    for index in range(count):
        image = pictures[index % len(pictures)] if pictures else made_up_picture(generator)
        height, width = image.shape[:2]
        camera = Camera.pinhole(width, height, _FOCAL / _WIDTH * max(width, height))
        places: list[CropPlace] = []
        while len(places) < 2:
            center = generator.uniform(0.1, 0.9, 2) * (width, height)
            edge = generator.uniform(0.08, 0.4) * max(width, height)  # the longer one decides what is too small
            place = maker.place(camera, (*(center - edge / 2), *(center + edge / 2)))
            if isinstance(place, CropPlace):
                places.append(place)
        samples.append(maker.prepare(image, camera, places, [True, False]))
    return samples


def made_up_picture(generator: np.random.Generator) -> NDArray[np.uint8]:
    """A picture of noise at all scales whose spectrum falls like that of natural pictures, (720, 1280, 3) uint8."""
    image = np.zeros((_HEIGHT, _WIDTH, 3), np.float32)
    for octave in range(1, 9):
        cells = (max(2, 9 * 2**octave // 16), 2**octave)
        noise = generator.standard_normal((*cells, 3)).astype(np.float32) * 1.6**-octave
        image += cv2.resize(noise, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_CUBIC)
    contrast, brightness = generator.uniform(30, 75), generator.uniform(80, 170)
    return np.clip(image / image.std() * contrast + brightness, 0, 255).astype(np.uint8)


def joint_distance(variant: Variant, samples: Sequence[Prepared], a: Runtime, b: Sequence[NetworkOutput]) -> float:
    """Mean distance in millimetres between the joints that a runtime gives and those of recorded outputs.

    In the camera frame, translation included, on the open hand.
    """
    model = load_hand_model()
    distances = []
    for prepared, recorded in zip(samples, b, strict=True):
        both = [decode(variant, prepared, output) for output in (a(prepared.inputs), recorded)]
        for index, side in enumerate((Side.RIGHT, Side.LEFT)):
            layer = model.layer(side)
            joints = [layer.numpy(d.pose[index], d.betas[index], d.translation[index])[1] for d in both]
            distances.append(np.linalg.norm(joints[0] - joints[1], axis=1).mean())
    return float(np.mean(distances) * 1e3)


def to_cpu(output: NetworkOutput) -> NetworkOutput:
    """A copy on the CPU."""
    return NetworkOutput(**{name: value.detach().cpu().clone() for name, value in output.tensors().items()})


def output_to_device(output: NetworkOutput, device: torch.device) -> NetworkOutput:
    """The same output on another device."""
    return NetworkOutput(**{name: value.to(device) for name, value in output.tensors().items()})


def to_device(prepared: Prepared, device: torch.device) -> Prepared:
    """The same inputs on another device."""
    given = prepared.inputs
    tensors = (given.frame, given.crops, given.encoding, given.right)
    return replace(
        prepared,
        inputs=NetworkInputs(*(t.to(device) for t in tensors)),
        extents=prepared.extents.to(device),
        rays=prepared.rays.to(device),
        turns=None if prepared.turns is None else prepared.turns.to(device),
        mirrored=None if prepared.mirrored is None else prepared.mirrored.to(device),
    )
