"""Holds a faster way of running a network to the reference, in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.estimation.wildhands.check_pictures import CheckPicture, check_pictures
from wildhands_ros.estimation.wildhands.crops import CropMaker, Prepared
from wildhands_ros.estimation.wildhands.decode import decode
from wildhands_ros.estimation.wildhands.network import NetworkInputs, NetworkOutput, WildHandsNetwork
from wildhands_ros.estimation.wildhands.places import CropPlace
from wildhands_ros.estimation.wildhands.runtime import Runtime, TorchRuntime
from wildhands_ros.estimation.wildhands.upright import roll_of
from wildhands_ros.estimation.wildhands.variant import Variant
from wildhands_ros.hand_model import load_hand_model
from wildhands_ros.hands import Side

CHECKS = 8
"""Pictures of hands that check; the others calibrate."""

_FOCAL, _WIDTH = 800.0, 1280  # of the cameras of pictures that come without one


def hand_inputs(variant: Variant, pictures: Sequence[CheckPicture]) -> list[Prepared]:
    """Inputs of pictures with a right and a left hand in each, turned upright for networks that see them so."""
    maker = CropMaker(variant, variant.box_factor)
    samples = []
    for picture in pictures:
        places = [maker.place(picture.camera, picture.boxes[side]) for side in (Side.RIGHT, Side.LEFT)]
        crops = [place for place in places if isinstance(place, CropPlace)]
        rolls = [roll_of(picture.keypoints[side]) for side in (Side.RIGHT, Side.LEFT)]
        samples.append(maker.prepare(picture.image, picture.camera, crops, [True, False], rolls))
    return samples


def inputs_anywhere(variant: Variant, pictures: Sequence[NDArray[np.uint8]], seed: int) -> list[Prepared]:
    """Inputs of pictures (H, W, 3) uint8 RGB of which nobody knows where hands are: of two places in each."""
    generator = np.random.default_rng(seed)
    maker = CropMaker(variant, variant.box_factor)
    samples = []
    for image in pictures:
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


def check_inputs(variant: Variant) -> list[Prepared]:
    """Inputs of the pictures to which every way of running a network is held."""
    return hand_inputs(variant, check_pictures(0, CHECKS))


def expected_outputs(network: WildHandsNetwork, samples: Sequence[Prepared]) -> list[NetworkOutput]:
    """What eager float32 on the CPU makes of these inputs."""
    reference = TorchRuntime(network)
    return [to_cpu(reference(sample.inputs)) for sample in samples]


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
