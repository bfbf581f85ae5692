"""Refinement: hands of a network move towards true landmarks, not towards wrong ones, and stay near the network's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import ConfigError
from wildhands_ros.estimation.fitting.evidence import Evidence, gather
from wildhands_ros.estimation.fitting.freedom import full_kinematics, hand_kinematics, natural_prior
from wildhands_ros.estimation.fitting.kinematics import Kinematics, Posture
from wildhands_ros.estimation.refinement import Agreement, Parameters, RefinementConfig, Refiner
from wildhands_ros.estimation.refinement.objective import Objective
from wildhands_ros.hand_model import HandModel, load_hand_model
from wildhands_ros.hands import Landmarks, Side
from wildhands_ros.mounting import Turn
from wildhands_ros.rotations import angle_between, exp_so3

FloatArray = NDArray[np.float64]

CAMERA = Camera.pinhole(1280, 720, 600)
FISHEYE = Camera(1280, 720, 400, 400, 635, 355, Distortion.EQUIDISTANT, (0.02, -0.01, 0.003, 0.0))
CASES = 80


@dataclass(frozen=True)
class Case:
    """A true hand, what a network might say of it, and where the landmarks truly are."""

    side: Side
    camera: Camera
    truth: Posture
    guess: Parameters
    places: FloatArray
    world: FloatArray
    size: float

    def landmarks(
        self, rng: np.random.Generator, noise: float = 0.0, outliers: float = 0.0, presence: float = 1.0
    ) -> Landmarks:
        """noise: of every landmark in each direction, outliers: share of landmarks that lie anywhere near the hand."""
        places = self.places + noise * self.size * rng.standard_normal((21, 2))
        wrong = rng.permutation(21)[: round(outliers * 21)]
        places[wrong] = self.places.mean(axis=0) + self.size * rng.uniform(-0.8, 0.8, (len(wrong), 2))
        return Landmarks(places, self.world, presence)


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model(None)


@pytest.fixture(scope="module")
def refiner(model: HandModel) -> Refiner:
    return Refiner(model)


@pytest.fixture(scope="module")
def cases(model: HandModel) -> list[Case]:
    return [
        a_case(model, seed, (Side.RIGHT, Side.LEFT)[seed % 2], (CAMERA, FISHEYE)[seed // 2 % 2])
        for seed in range(CASES)
    ]


def a_case(model: HandModel, seed: int, side: Side, camera: Camera) -> Case:
    """The open network's errors: rotation 8°, fingers 8°, depth 6 %, place 3 % of the box, half a deviation in size."""
    rng = np.random.default_rng(seed)
    layer = model.layer(side)
    natural, full, prior = hand_kinematics(layer), full_kinematics(layer), natural_prior(layer, 0.3)
    d = len(natural.dofs)
    angles = np.clip(prior.mean[:d] + 0.35 * rng.standard_normal(d), prior.lower, prior.upper)
    spread = np.zeros(45)
    spread[[full.dofs.index(dof) for dof in natural.dofs]] = angles
    direction = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.3, 0.4), 1.0])
    wrist = rng.uniform(0.3, 0.7) * direction / np.linalg.norm(direction)
    truth = Posture(exp_so3(rng.uniform(-1.8, 1.8, 3)), wrist, spread, 0.3 * rng.standard_normal(10))

    places = camera.project(full.landmarks(truth))
    size = float(np.ptp(places, axis=0).max())
    distance, lateral = np.linalg.norm(wrist), rng.standard_normal(3)
    lateral -= (lateral @ wrist) * wrist / distance**2
    shift = 0.03 * 0.18 * lateral / np.sqrt(2 / 3) + 0.06 * rng.standard_normal() * wrist  # a hand is 0.18 m long
    guess = Posture(
        exp_so3(np.radians(8) * rng.standard_normal(3) / np.sqrt(3)) @ truth.orientation,
        wrist + shift,
        spread + np.where(spread != 0, np.radians(8) * rng.standard_normal(45), 0),
        np.zeros(10),
    )
    points = full.landmarks(truth)
    return Case(side, camera, truth, parameters(full, guess), places, points - points.mean(axis=0), size)


def parameters(kinematics: Kinematics, posture: Posture) -> Parameters:
    return Parameters(kinematics.mano_pose(posture), posture.betas, kinematics.translation(posture))


def joints(model: HandModel, case: Case, hand: Parameters) -> FloatArray:
    return model.layer(case.side).numpy(hand.pose, hand.betas, hand.translation)[1]


def errors(model: HandModel, cases: list[Case], hands: list[Parameters]) -> FloatArray:
    """Means of: 2D error as a share of the box, root-aligned joint error and wrist error in metres."""
    rows = []
    for case, hand in zip(cases, hands, strict=True):
        kinematics = full_kinematics(model.layer(case.side))
        true, found = joints(model, case, parameters(kinematics, case.truth)), joints(model, case, hand)
        plane = np.linalg.norm(case.camera.project(found) - case.camera.project(true), axis=1).mean() / case.size
        aligned = np.linalg.norm((found - found[0]) - (true - true[0]), axis=1).mean()
        rows.append((plane, aligned, np.linalg.norm(found[0] - true[0])))
    return np.mean(rows, axis=0)


def refined(refiner: Refiner, case: Case, landmarks: Landmarks) -> Agreement:
    found = refiner.refine(case.guess, case.side, landmarks, case.camera)
    assert found is not None
    return found


def test_the_network_s_errors_are_those_that_are_meant(model: HandModel, cases: list[Case]) -> None:
    plane, aligned, wrist = errors(model, cases, [case.guess for case in cases])
    assert 0.1 < plane < 0.3 and 0.010 < aligned < 0.030 and 0.015 < wrist < 0.045


@pytest.mark.parametrize(("outliers", "falls_to"), [(0.1, 0.6), (0.3, 0.75)])
def test_landmarks_correct_the_picture_and_do_no_harm_in_space(
    model: HandModel, refiner: Refiner, cases: list[Case], outliers: float, falls_to: float
) -> None:
    rng = np.random.default_rng(1)
    found = [refined(refiner, case, case.landmarks(rng, 0.03, outliers)) for case in cases]
    before = errors(model, cases, [case.guess for case in cases])
    after = errors(model, cases, [each.parameters for each in found])
    assert after[0] <= falls_to * before[0]
    assert after[1] <= before[1] and after[2] <= before[2]
    assert np.mean([each.agrees for each in found]) > 0.9


def test_true_landmarks_leave_a_true_hand_where_it_is(model: HandModel, refiner: Refiner, cases: list[Case]) -> None:
    for case in cases[:8]:
        truth = parameters(full_kinematics(model.layer(case.side)), case.truth)
        found = refiner.refine(truth, case.side, Landmarks(case.places, case.world, 1.0), case.camera)
        assert found is not None and found.agrees and found.error < 1e-6
        assert np.allclose(found.parameters.pose, truth.pose, atol=1e-9)
        assert np.allclose(found.parameters.translation, truth.translation, atol=1e-9)


def test_depth_and_size_stay_nearer_to_the_network_s_than_place(refiner: Refiner, cases: list[Case]) -> None:
    """Landmarks a tenth smaller about their middle: the hand may bend, turn and shift, but hardly recede."""
    case = cases[0]
    middle = case.places.mean(axis=0)
    smaller = Landmarks(middle + 0.9 * (case.places - middle), case.world, 1.0)
    aside = Landmarks(case.places + 0.1 * case.size, case.world, 1.0)
    truth = Parameters(case.guess.pose, case.guess.betas, case.guess.translation)

    def moved(landmarks: Landmarks) -> FloatArray:
        base, found = (
            refiner.refine(truth, case.side, seen, case.camera).parameters.translation  # type: ignore[union-attr]
            for seen in (Landmarks(case.places, case.world, 1.0), landmarks)
        )
        return found - base

    distance = np.linalg.norm(case.guess.translation)
    assert np.linalg.norm(moved(smaller)) < 0.07 * distance
    expected = 0.1 * np.sqrt(2) * case.size / case.camera.fx * distance
    assert np.linalg.norm(moved(aside)) > 0.6 * expected


def test_landmarks_of_low_presence_change_nothing(refiner: Refiner, cases: list[Case]) -> None:
    rng = np.random.default_rng(2)
    for case in cases[:4]:
        found = refined(refiner, case, case.landmarks(rng, 0.03, 0.3, presence=0.5))
        assert found.agrees and np.isfinite(found.error)
        assert found.parameters is case.guess


def test_presence_moves_hands_by_degrees(refiner: Refiner, cases: list[Case]) -> None:
    case, least = cases[0], refiner.config.least_presence
    steps = [
        np.linalg.norm(refined(refiner, case, Landmarks(case.places, case.world, p)).parameters.betas)
        for p in (least, least + 0.005, least + 0.1, 1.0)
    ]
    assert steps[0] == 0 and 0 < steps[1] < steps[2] < steps[3]


def test_landmarks_outside_the_picture_count_nothing(refiner: Refiner, cases: list[Case]) -> None:
    case = cases[0]
    rng = np.random.default_rng(3)
    low, width = case.places.min(axis=0), int(np.median(case.places[:, 0]) - case.places[:, 0].min())
    cut = case.camera.cropped(int(low[0]) - 5, 0, width + 5, case.camera.height)
    places = case.places - [int(low[0]) - 5, 0]
    outside = places[:, 0] >= cut.width
    assert 8 <= np.count_nonzero(~outside) < 21
    elsewhere = np.where(outside[:, None], places + rng.uniform(20, 60, (21, 2)), places)
    # the longest edge of the landmarks' box is their scale: it must stay the same for this comparison
    elsewhere[outside, 0] = np.minimum(elsewhere[outside, 0], places[:, 0].max())
    elsewhere[outside, 1] = np.clip(elsewhere[outside, 1], places[:, 1].min(), places[:, 1].max())
    elsewhere[np.argmax(places[:, 0])] = places[np.argmax(places[:, 0])]
    for extreme in (np.argmax(places[:, 1]), np.argmin(places[:, 1])):
        elsewhere[extreme] = places[extreme]
    found = [refiner.refine(case.guess, case.side, Landmarks(p, case.world, 1.0), cut) for p in (places, elsewhere)]
    assert found[0] is not None and found[1] is not None
    assert not np.array_equal(places, elsewhere)
    assert np.allclose(found[0].parameters.pose, found[1].parameters.pose, atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("end", ["first", "last"])
def test_the_picture_ends_at_the_edges_of_its_outer_pixels(
    refiner: Refiner, cases: list[Case], axis: int, end: str
) -> None:
    case, tip = cases[0], 8
    corner = np.floor(case.places.min(axis=0)).astype(int) - 30
    size = np.ceil(np.ptp(case.places, axis=0)).astype(int) + 60
    camera = case.camera.cropped(int(corner[0]), int(corner[1]), int(size[0]), int(size[1]))
    edge, outwards = (-0.5, -1) if end == "first" else (size[axis] - 0.5, 1)
    for by, counts in ((0.1, False), (-0.1, True)):
        poses = []
        for along in (0.35, 0.65):  # where a landmark lies makes a difference if it counts
            places = case.places - corner
            places[tip, axis], places[tip, 1 - axis] = edge + by * outwards, along * size[1 - axis]
            found = refiner.refine(case.guess, case.side, Landmarks(places, case.world, 1.0), camera)
            assert found is not None
            poses.append(found.parameters.pose)
        assert np.allclose(*poses, atol=1e-9) != counts


def test_landmarks_that_nobody_saw_have_no_error(refiner: Refiner, cases: list[Case]) -> None:
    case, unseen = cases[0], [0, 4, 9, 13]
    places = case.places.copy()
    places[unseen] = np.nan
    found = refiner.compare(case.guess, case.side, Landmarks(places, case.world, 1.0), case.camera)
    assert found is not None
    off = np.linalg.norm(case.camera.project(refiner.landmarks(case.guess, case.side)) - case.places, axis=1)
    assert found.error == pytest.approx(np.delete(off, unseen).mean())


def test_a_mirrored_picture_gives_the_mirrored_hand(refiner: Refiner, cases: list[Case]) -> None:
    rng = np.random.default_rng(4)
    flip = np.diag([-1.0, 1.0, 1.0])
    for case in cases[:6]:
        seen = case.landmarks(rng, 0.03, 0.1)
        found = refined(refiner, case, seen).parameters
        places = np.stack([case.camera.width - 1 - seen.image[:, 0], seen.image[:, 1]], axis=1)
        mirrored = refiner.refine(
            Parameters(flip @ case.guess.pose @ flip, case.guess.betas, flip @ case.guess.translation),
            case.side.other, Landmarks(places, seen.world @ flip, 1.0), case.camera.mirrored(),
        )  # fmt: skip
        assert mirrored is not None
        assert np.allclose(mirrored.parameters.translation, flip @ found.translation, atol=1e-6)
        assert np.allclose(mirrored.parameters.pose, flip @ found.pose @ flip, atol=1e-4)
        assert np.allclose(mirrored.parameters.betas, found.betas, atol=1e-4)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_picture_gives_the_turned_hand(
    model: HandModel, refiner: Refiner, cases: list[Case], quarters: int
) -> None:
    rng = np.random.default_rng(5)
    turn = Turn(quarters, CAMERA.width, CAMERA.height)
    matrix = turn.matrix
    for case in cases[:6]:
        seen, rest = case.landmarks(rng, 0.03, 0.1), model.layer(case.side).rest_joints(case.guess.betas)[0]
        found = refined(refiner, case, seen)
        pose = case.guess.pose.copy()
        pose[0] = matrix @ pose[0]
        guess = Parameters(pose, case.guess.betas, matrix @ (case.guess.translation + rest) - rest)
        landmarks = Landmarks(turn.pixels(seen.image), seen.world @ matrix.T, 1.0)
        turned = refiner.refine(guess, case.side, landmarks, turn.camera(case.camera))
        assert turned is not None
        expected = joints(model, case, found.parameters) @ matrix.T
        assert np.allclose(joints(model, case, turned.parameters), expected, atol=1e-9)
        assert (turned.error, turned.agrees) == (pytest.approx(found.error), found.agrees)


@pytest.mark.parametrize("scale", [0.25, 3])
def test_the_resolution_of_a_picture_does_not_matter(refiner: Refiner, cases: list[Case], scale: float) -> None:
    rng = np.random.default_rng(6)
    for case in cases[:6]:
        seen = case.landmarks(rng, 0.03, 0.1)
        found = refined(refiner, case, seen)
        camera = case.camera.resized(round(1280 * scale), round(720 * scale))
        again = refiner.refine(case.guess, case.side, replace(seen, image=(seen.image + 0.5) * scale - 0.5), camera)
        assert again is not None and again.error == pytest.approx(scale * found.error)
        assert np.allclose(again.parameters.translation, found.parameters.translation, atol=1e-9)
        assert np.allclose(again.parameters.pose, found.parameters.pose, atol=1e-9)


@pytest.mark.parametrize("config", [RefinementConfig(), RefinementConfig(bend=60.0, outlier=100.0)])
def test_fingers_are_not_bent_beyond_what_hands_can_do(model: HandModel, config: RefinementConfig) -> None:
    """Landmarks of a finger bent far back: the network's straight one follows no further than the joint goes, also
    where it is believed next to nothing."""
    refiner = Refiner(model, config)
    case = a_case(model, 0, Side.RIGHT, CAMERA)
    kinematics, layer = full_kinematics(model.layer(Side.RIGHT)), model.layer(Side.RIGHT)
    straight = replace(case.truth, angles=np.zeros(45), betas=np.zeros(10))
    back = straight.angles.copy()
    back[kinematics.dofs.index((2, 0))] = -1.2
    seen = CAMERA.project(kinematics.landmarks(replace(straight, angles=back)))
    found = refiner.refine(parameters(kinematics, straight), Side.RIGHT, Landmarks(seen, case.world, 1.0), CAMERA)
    assert found is not None
    angles = layer.anatomy.angles(layer.rotations_from_pose(found.parameters.pose)[1:])
    assert (angles - layer.anatomy.limits[..., 0]).min() > -0.15 and (
        layer.anatomy.limits[..., 1] - angles
    ).min() > -0.15


def test_impossible_poses_of_the_network_are_left_to_it(model: HandModel, refiner: Refiner, cases: list[Case]) -> None:
    """Where nothing contradicts it, a pose beyond the limits stays."""
    case, kinematics = cases[0], full_kinematics(model.layer(cases[0].side))
    far = case.truth.angles.copy()
    far[kinematics.dofs.index((2, 0))] = -0.8
    posture = replace(case.truth, angles=far)
    hand = parameters(kinematics, posture)
    seen = Landmarks(case.camera.project(kinematics.landmarks(posture)), case.world, 1.0)
    found = refiner.refine(hand, case.side, seen, case.camera)
    assert found is not None and np.allclose(found.parameters.pose, hand.pose, atol=1e-9)


@pytest.mark.parametrize("wrong", ["elsewhere", "half as large", "another hand"])
def test_landmarks_of_another_hand_are_contradicted(
    model: HandModel, refiner: Refiner, cases: list[Case], wrong: str
) -> None:
    disagreed = 0
    for case, other in zip(cases[:20], cases[20:40], strict=True):
        middle = case.places.mean(axis=0)
        places = {
            "elsewhere": case.places + [0.8 * case.size, 0.0],
            "half as large": middle + 0.5 * (case.places - middle),
            "another hand": middle + (other.places - other.places.mean(axis=0)) * case.size / other.size,
        }[wrong]
        found = refined(refiner, case, Landmarks(places, case.world, 1.0))
        disagreed += not found.agrees
    assert disagreed >= 14


def test_comparing_moves_nothing(refiner: Refiner, cases: list[Case]) -> None:
    case = cases[0]
    found = refiner.compare(case.guess, case.side, Landmarks(case.places, case.world, 1.0), case.camera)
    moved = refined(refiner, case, Landmarks(case.places, case.world, 1.0))
    assert found is not None and found.parameters is case.guess and found.error > moved.error


@pytest.mark.parametrize("spoil", ["nan", "one point", "behind"])
def test_useless_landmarks_are_no_evidence(refiner: Refiner, cases: list[Case], spoil: str) -> None:
    case = cases[0]
    places = case.places.copy()
    if spoil == "nan":
        places[:14] = np.nan
    elif spoil == "one point":
        places[:] = places[0]
    hand = case.guess if spoil != "behind" else replace(case.guess, translation=-case.guess.translation)
    found = refiner.refine(hand, case.side, Landmarks(places, case.world, 1.0), case.camera)
    if spoil == "behind":
        assert found is not None and not found.agrees
        assert np.allclose(found.parameters.pose, hand.pose) and np.allclose(found.parameters.betas, hand.betas)
        assert np.allclose(found.parameters.translation, hand.translation)
    else:
        assert found is None


def moved_by(model: HandModel, case: Case, found: Agreement) -> dict[str, float]:
    """How far a hand was moved, in what each of the network's standard deviations is for."""
    layer, (a, b) = model.layer(case.side), (case.guess, found.parameters)
    wrists = [layer.rest_joints(hand.betas)[0] + hand.translation for hand in (a, b)]
    distances = [float(np.linalg.norm(wrist)) for wrist in wrists]
    rays = [wrist / distance for wrist, distance in zip(wrists, distances, strict=True)]
    return {
        "turn": float(angle_between(a.pose[0], b.pose[0])),
        "bend": float(np.abs(angle_between(a.pose[1:], b.pose[1:])).max()),
        "size": float(np.abs(a.betas - b.betas).max()),
        "depth": abs(distances[1] / distances[0] - 1),
        "place": float(np.linalg.norm(rays[1] - rays[0])),
    }


@pytest.mark.parametrize("name", ["turn", "bend", "size", "depth", "place"])
def test_what_the_network_is_sure_of_stays(model: HandModel, refiner: Refiner, cases: list[Case], name: str) -> None:
    sure = Refiner(model, RefinementConfig(**{name: 1e-3}))
    for case in cases[:4]:
        landmarks = Landmarks(case.places, case.world, 1.0)
        usual, held = (moved_by(model, case, refined(one, case, landmarks)) for one in (refiner, sure))
        assert held[name] < 0.1 * usual[name]
        assert all(held[other] > 0 for other in held)


def test_landmarks_count_as_they_are_said_to_be_wrong(model: HandModel, refiner: Refiner, cases: list[Case]) -> None:
    case = cases[0]
    doubted = Refiner(model, RefinementConfig(pixels=0.3))
    landmarks = Landmarks(case.places, case.world, 1.0)
    assert refined(doubted, case, landmarks).error > 2 * refined(refiner, case, landmarks).error
    off = case.places.copy()
    off[8] += 0.7 * case.size  # one finger tip lies somewhere else
    stray = Landmarks(off, case.world, 1.0)
    believing = Refiner(model, RefinementConfig(outlier=100.0, largest_strain=100.0))

    def misled(one: Refiner) -> float:
        return float(
            np.abs(refined(one, case, stray).parameters.pose - refined(one, case, landmarks).parameters.pose).max()
        )

    assert misled(believing) > 3 * misled(refiner)
    unlikely = Landmarks(case.places, case.world, 0.6)
    assert refined(refiner, case, unlikely).parameters is case.guess
    assert refined(Refiner(model, RefinementConfig(least_presence=0.5)), case, unlikely).parameters is not case.guess


@pytest.mark.parametrize("change", [{"largest_error": 1e-4}, {"largest_strain": 1e-2}])
def test_what_may_be_left_of_a_contradiction_is_a_setting(
    model: HandModel, refiner: Refiner, cases: list[Case], change: dict[str, float]
) -> None:
    landmarks = cases[0].landmarks(np.random.default_rng(6), 0.03)
    assert refined(refiner, cases[0], landmarks).agrees
    assert not refined(Refiner(model, RefinementConfig(**change)), cases[0], landmarks).agrees


def test_gradient_agrees_with_finite_differences(model: HandModel, cases: list[Case]) -> None:
    """Where landmarks, the network and the joints' limits pull."""
    case = cases[2]
    kinematics, rng = full_kinematics(model.layer(case.side)), np.random.default_rng(7)
    (evidence,) = gather([Landmarks(case.places, case.world, 1.0)], case.camera)
    assert isinstance(evidence, Evidence)
    start = replace(case.truth, orientation=exp_so3(0.1 * rng.normal(size=3)) @ case.truth.orientation)
    n = kinematics.size
    frame = exp_so3(rng.normal(size=3))
    limits = start.angles - 0.05, start.angles + 0.05
    weights = rng.uniform(0.2, 1, 21)
    objective = Objective(
        kinematics, start, rng.uniform(1, 50, n), frame, limits, evidence, weights, 0.03 * case.size, 1.2
    )
    at = start.moved(0.03 * rng.normal(size=n))
    assert np.any(at.angles < limits[0]) and np.any(at.angles > limits[1])
    steps = 1e-6 * np.eye(n)
    numeric = np.array([(objective(at.moved(s)).cost - objective(at.moved(-s)).cost) / 2e-6 for s in steps])
    # of the turn, whose logarithm is not linear, to the first order of how far it is
    assert np.abs(objective(at).gradient - numeric)[3:].max() < 1e-4 * np.abs(numeric).max()


@pytest.mark.parametrize("change", [{"pixels": 0.0}, {"turn": -1.0}, {"least_presence": 1.0}, {"depth": float("nan")}])
def test_weights_that_make_no_sense(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"refinement.{next(iter(change))}"):
        RefinementConfig(**change)
