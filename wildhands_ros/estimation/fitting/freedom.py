"""How a hand may move in the fit: which angles there are, and which of them are usual."""

from __future__ import annotations

import numpy as np

from wildhands_ros.estimation.fitting.calibration import landmark_offsets
from wildhands_ros.estimation.fitting.kinematics import Kinematics
from wildhands_ros.estimation.fitting.terms import Prior
from wildhands_ros.hand_model import HandLayer

_FLEXION, _ABDUCTION, _TWIST = range(3)
_FINGERS = (1, 4, 7, 10)  # first MANO joint of index, middle, pinky, ring
_THUMB = 13
_SHAPE_COUNT = 10

# Usual angles in degrees and their standard deviations. Flexion is measured from the straight finger, everything else
# from the rest pose. Wide, since hands do many things: they decide only what the landmarks leave open.
_KNUCKLE = {_FLEXION: (20, 35), _ABDUCTION: (0, 11)}
_MIDDLE_JOINT = {_FLEXION: (30, 35)}
_END_JOINT = {_FLEXION: (18, 28)}
_THUMB_BASE = {_FLEXION: (5, 22), _ABDUCTION: (0, 22), _TWIST: (0, 15)}
_THUMB_KNUCKLE = {_FLEXION: (10, 25), _ABDUCTION: (0, 8)}
_THUMB_END = {_FLEXION: (15, 28)}

# One tendon bends both end joints of a finger: the last one follows the one before it
_COUPLING, _COUPLING_SIGMA = 0.6, np.radians(20)
LIMIT_SIGMA = 0.08
"""How firmly the joints' limits hold, radians."""

_USUAL = {
    (first + part, slot): usual
    for first, parts in (
        *((finger, (_KNUCKLE, _MIDDLE_JOINT, _END_JOINT)) for finger in _FINGERS),
        (_THUMB, (_THUMB_BASE, _THUMB_KNUCKLE, _THUMB_END)),
    )
    for part, slots in enumerate(parts)
    for slot, usual in slots.items()
}
NATURAL_ANGLES = tuple(_USUAL)
"""The angles in which fingers really move: pairs (MANO joint, slot), see `Kinematics`."""


def hand_kinematics(layer: HandLayer) -> Kinematics:
    """The kinematics of one side of a hand model, moving in 22 anatomical angles and 10 shape coefficients."""
    return _kinematics(layer, NATURAL_ANGLES)


def full_kinematics(layer: HandLayer) -> Kinematics:
    """The same, moving in all 45 angles (joint by joint: flexion, abduction, twist), so that it can make every pose."""
    return _kinematics(layer, tuple((joint, slot) for joint in range(1, 16) for slot in range(3)))


def _kinematics(layer: HandLayer, dofs: tuple[tuple[int, int], ...]) -> Kinematics:
    skeleton, anatomy = layer.skeleton(), layer.anatomy
    axes = np.stack([anatomy.flexion, anatomy.abduction, anatomy.twist], axis=1)
    return Kinematics(skeleton, axes, landmark_offsets(skeleton, layer.side), dofs, _SHAPE_COUNT)


def natural_prior(layer: HandLayer, size_sigma: float) -> Prior:
    """What postures and sizes are usual, for the unknowns of `hand_kinematics`.

    size_sigma: standard deviation of each shape coefficient.
    """
    anatomy = layer.anatomy
    joints = np.array([joint - 1 for joint, _ in NATURAL_ANGLES])
    slots = np.array([slot for _, slot in NATURAL_ANGLES])

    usual, sigma = np.radians(np.array(list(_USUAL.values()), dtype=np.float64)).T
    lower, upper = anatomy.limits[joints, slots].T
    angles = usual - np.where(slots == _FLEXION, anatomy.rest[joints, slots], 0)
    mean = np.concatenate([np.clip(angles, lower, upper), np.zeros(_SHAPE_COUNT)])

    precision = np.diag(np.concatenate([sigma**-2, np.full(_SHAPE_COUNT, size_sigma**-2)]))
    for finger in _FINGERS:
        together = np.zeros(len(mean))
        together[NATURAL_ANGLES.index((finger + 2, _FLEXION))] = 1
        together[NATURAL_ANGLES.index((finger + 1, _FLEXION))] = -_COUPLING
        precision += np.outer(together, together) / _COUPLING_SIGMA**2
    return Prior(mean, precision, lower, upper, LIMIT_SIGMA)
