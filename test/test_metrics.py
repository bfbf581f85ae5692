"""Error measures: cases worked out by hand and properties."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.spatial import procrustes

from wildhands_ros.evaluation import (
    absolute_error,
    keypoint_error,
    mpjpe,
    mrrpe,
    pa_mpjpe,
    score_sequence,
    score_sequences,
    similarity_align,
    wrist_error,
)
from wildhands_ros.evaluation.metrics import (
    absolute_errors,
    intersection_over_union,
    mpjpe_errors,
    pa_mpjpe_errors,
    weighted_keypoint_errors,
    wrist_errors,
)
from wildhands_ros.hands import Hand, Side
from wildhands_ros.rotations import exp_so3


@dataclass(frozen=True)
class FrameTruth:
    hands: list[Hand]
    visible: list[bool]


RNG = np.random.default_rng(5)
JOINTS = 0.1 * RNG.normal(size=(21, 3)) + [0, 0, 0.5]


def test_known_answers() -> None:
    shifted = JOINTS + [0.03, 0, 0.04]
    assert mpjpe(shifted, JOINTS) == pytest.approx(0)
    assert absolute_error(shifted, JOINTS) == pytest.approx(0.05)
    distance, fraction = wrist_error(shifted, JOINTS)
    assert distance == pytest.approx(0.05) and fraction == pytest.approx(0.05 / np.linalg.norm(JOINTS[0]))
    assert mrrpe(shifted, JOINTS, JOINTS, JOINTS) == pytest.approx(0.05)
    one_off = JOINTS.copy()
    one_off[4] += [0, 0.021, 0]
    assert (mpjpe(one_off, JOINTS), absolute_error(one_off, JOINTS)) == pytest.approx((0.001, 0.001))
    wrist_off = JOINTS.copy()
    wrist_off[0] += [0, 0, 0.021]
    assert absolute_error(wrist_off, JOINTS) == pytest.approx(0.001)
    assert mpjpe(wrist_off, JOINTS) == pytest.approx(0.021 * 20 / 21)  # all others, seen from the wrist


def test_pairs_count_their_wrists_alone() -> None:
    left, right = JOINTS - [0.3, 0, 0], JOINTS + np.where(np.arange(21) > 0, 0.1, 0)[:, None]
    found = left + 0.5 * np.random.default_rng(6).normal(size=(21, 3))
    found[0] = left[0] + [0, 0.03, 0]
    assert mrrpe(found, right + [0, 0, 0.04], left, right) == pytest.approx(0.05)
    assert mrrpe(right, left, left, right) == pytest.approx(0.6)  # sides that are taken for each other
    found[0, 1] = np.inf
    assert np.isnan(mrrpe(found, right, left, right))


def test_masks_count_where_they_are_known() -> None:
    estimate, truth = np.array([1, 1, 1, 0, 1, 0], bool), np.array([1, 1, 0, 1, 0, 0], bool)
    assert intersection_over_union(estimate, truth, np.ones(6, bool)) == pytest.approx(2 / 5)
    assert intersection_over_union(estimate, truth, np.array([0, 1, 1, 1, 0, 1], bool)) == pytest.approx(1 / 3)
    assert np.isnan(intersection_over_union(estimate, truth, np.array([0, 0, 0, 0, 0, 1], bool)))


def test_procrustes_removes_place_turn_and_size_but_not_mirroring() -> None:
    moved = 1.3 * JOINTS @ exp_so3([0.3, -2, 1]).T + [1, 2, 3]
    assert pa_mpjpe(moved, JOINTS) == pytest.approx(0, abs=1e-12)
    mirrored = JOINTS * [-1, 1, 1]
    assert pa_mpjpe(mirrored, JOINTS) > 0.01
    aligned = similarity_align(mirrored, JOINTS)
    # no other size lies closer
    assert ((aligned - JOINTS) * (aligned - aligned.mean(0))).sum() == pytest.approx(0, abs=1e-9)


def test_procrustes_agrees_with_scipy() -> None:
    other = JOINTS + 0.01 * RNG.normal(size=(21, 3))
    aligned = similarity_align(other, JOINTS)
    _, _, disparity = procrustes(JOINTS, other)  # residual as a fraction of the target's spread
    spread = ((JOINTS - JOINTS.mean(0)) ** 2).sum()
    assert ((aligned - JOINTS) ** 2).sum() == pytest.approx(disparity * spread)


def test_hands_that_are_not_finite_have_no_error_and_leave_the_others_theirs() -> None:
    truths, estimates = np.stack([JOINTS] * 3), np.stack([JOINTS + 0.1] * 3)
    truths[0, 4, 1], estimates[2, 0] = np.nan, np.inf
    assert list(np.isnan(pa_mpjpe_errors(estimates, truths))) == [True, False, True]
    assert np.isnan(pa_mpjpe(JOINTS, truths[0]))
    with np.errstate(invalid="ignore"):
        for errors in (mpjpe_errors, absolute_errors):
            assert list(np.isnan(errors(estimates, truths))) == [True, False, True]
        assert list(np.isnan(wrist_errors(estimates, truths))) == [False, False, True]
        estimates[2] = JOINTS
        estimates[2, 4] = np.inf
        assert list(np.isnan(mpjpe_errors(estimates, truths))) == [True, False, True]
        assert list(np.isnan(wrist_errors(estimates, truths))) == [False, False, False]


def test_a_wrist_in_the_camera_has_no_share_of_its_distance() -> None:
    distance, fraction = wrist_error(JOINTS, JOINTS - JOINTS[0])
    assert distance == pytest.approx(np.linalg.norm(JOINTS[0])) and np.isnan(fraction)


def test_keypoints_behind_the_camera_do_not_count() -> None:
    a, b = np.zeros((21, 2)), np.full((21, 2), 3.0)
    b[:, 1] = 4
    a[3] = np.nan
    assert keypoint_error(a, b) == pytest.approx(5)
    b[4] = 60, 80
    assert keypoint_error(a, b) == pytest.approx((19 * 5 + 100) / 20)
    assert np.isnan(keypoint_error(np.full((21, 2), np.nan), b))


def test_keypoints_of_many_hands_are_weighed_hand_by_hand() -> None:
    rng = np.random.default_rng(7)
    truths, offs = rng.normal(size=(2, 3, 21, 2))
    weights = rng.uniform(0, [[0.01], [0.1], [1.0]], (3, 21))  # of the first they sum to less than one
    weights[1, 4], weights[2, 5] = 0, np.nan
    counting = np.nan_to_num(weights)
    truths[1, 7, 0], counting[1, 7] = np.nan, 0
    found = weighted_keypoint_errors(truths + offs, truths, weights)
    assert found == pytest.approx(np.average(np.linalg.norm(offs, axis=-1), axis=-1, weights=counting))
    apart = truths + offs
    apart[0, 3], apart[1, 4] = np.inf, np.nan  # the latter counts nothing
    assert weighted_keypoint_errors(apart, truths, weights) == pytest.approx([np.nan, *found[1:]], nan_ok=True)


def hand(side: Side, x: float, track_id: int = 0) -> Hand:
    joints = 0.05 * np.random.default_rng(3).normal(size=(21, 3)) + [x, 0, 0.5]
    keypoints = 500 * joints[:, :2] / joints[:, 2:] + [640, 360]
    return Hand(
        side, 1.0, (0, 0, 1, 1), joints, keypoints, np.tile(np.eye(3), (16, 1, 1)), np.zeros(10), np.zeros(3), "t", "t",
        track_id=track_id,
    )  # fmt: skip


def test_a_perfect_sequence_scores_perfectly() -> None:
    hands = [hand(Side.LEFT, -0.2, 0), hand(Side.RIGHT, 0.2, 1)]
    score = score_sequence([hands] * 6, [FrameTruth(hands, [True, True])] * 6)
    assert (score.recall, score.side_accuracy, score.false, score.id_changes) == (1, 1, 0, 0)
    assert (score.mpjpe_mm, score.wrist_percent, score.mrrpe_mm) == (0, 0, 0)


def test_misses_wrong_sides_swaps_and_inventions_are_counted() -> None:
    left, right = hand(Side.LEFT, -0.2, 0), hand(Side.RIGHT, 0.2, 1)
    truth = [FrameTruth([left, right], [True, True])] * 6
    wrong = replace(right, side=Side.LEFT, track_id=7)
    invented = hand(Side.LEFT, 3.0, 9)
    score = score_sequence([[left, right]] * 4 + [[wrong], [wrong, invented]], truth)
    assert score.found == 10 and score.hands == 12 and score.recall == pytest.approx(10 / 12)
    assert score.recall_left == pytest.approx(4 / 6) and score.recall_right == 1
    assert score.false == 1 and score.id_changes == 1
    assert score.side_accuracy == pytest.approx(2 / 4)  # sides count from the fourth sighting on: 1 left, 3 right


def test_ids_that_start_anew_with_the_next_sequence_are_no_changes() -> None:
    first, second = [hand(Side.RIGHT, 0.2, 0)], [hand(Side.RIGHT, 0.2, 1)]
    truth = [FrameTruth(first, [True])] * 3
    assert score_sequences([([first] * 3, truth), ([second] * 3, truth)]).id_changes == 0
    both = score_sequences([([first, second, second], truth), ([second] * 3, truth)])
    assert (both.id_changes, both.frames, both.hands, both.recall) == (1, 6, 6, 1)


def test_pairs_of_which_one_hand_is_hidden_have_no_error() -> None:
    left, right = hand(Side.LEFT, -0.2), hand(Side.RIGHT, 0.2)
    off = replace(left, joints=left.joints + [0.03, 0, 0])
    truth = [FrameTruth([left, right], [True, True]), FrameTruth([left, right], [False, True])]
    assert score_sequence([[left, right], [off, right]], truth).mrrpe_mm == 0
    assert np.isnan(score_sequence([[off, right]], truth[1:]).mrrpe_mm)


def test_hidden_hands_are_not_expected() -> None:
    left = hand(Side.LEFT, -0.2)
    score = score_sequence([[], [left]], [FrameTruth([left], [False])] * 2)
    assert score.hands == 0 and score.false == 0
    assert np.isnan([score.recall, score.recall_left, score.side_accuracy, score.mpjpe_mm]).all()


def test_a_hand_that_was_hidden_meanwhile_is_new() -> None:
    """Neither is its id held to that of before, nor its side before it settled again."""
    left = hand(Side.LEFT, -0.2, 0)
    wrong = replace(left, side=Side.RIGHT, track_id=1)
    seen, hidden = FrameTruth([left], [True]), FrameTruth([left], [False])
    score = score_sequence([[left]] * 4 + [[]] + [[wrong]] * 3, [seen] * 4 + [hidden] + [seen] * 3)
    assert (score.id_changes, score.side_accuracy) == (0, 1)
    assert score_sequence([[left]] * 4 + [[wrong]] * 3, [seen] * 7).id_changes == 1


def test_errors_of_a_sequence_are_those_of_its_hands() -> None:
    truth = hand(Side.RIGHT, 0.2)
    bent = truth.joints + 0.003 * np.random.default_rng(8).normal(size=(21, 3))
    found = replace(truth, joints=1.05 * bent, keypoints=truth.keypoints + [3, 4])
    score = score_sequence([[found], []], [FrameTruth([truth], [True])] * 2)
    assert score.mpjpe_mm == pytest.approx(1e3 * mpjpe(found.joints, truth.joints))
    assert score.pa_mpjpe_mm == pytest.approx(1e3 * pa_mpjpe(found.joints, truth.joints))
    assert score.absolute_mm == pytest.approx(1e3 * absolute_error(found.joints, truth.joints))
    assert (score.wrist_mm / 1e3, score.wrist_percent / 100) == pytest.approx(wrist_error(found.joints, truth.joints))
    width, height = np.ptp(truth.keypoints, axis=0)
    assert width != pytest.approx(height, rel=0.01)
    assert score.keypoint_percent == pytest.approx(100 * 5 / max(width, height))


def test_a_found_hand_belongs_to_the_nearest_true_one_and_to_no_other() -> None:
    left, right = hand(Side.LEFT, 0.0, 0), hand(Side.RIGHT, 0.02, 1)  # one nearly before the other
    score = score_sequence([[right]], [FrameTruth([left, right], [True, True])])
    assert (score.found, score.recall_left, score.recall_right, score.mpjpe_mm) == (1, 0, 1, 0)
    score = score_sequence([[left, right]], [FrameTruth([right], [True])])
    assert (score.found, score.false, score.wrist_mm) == (1, 1, 0)


@pytest.mark.parametrize(("share", "found"), [(0.48, 1), (0.52, 0)])
def test_a_found_hand_may_be_half_a_box_away(share: float, found: int) -> None:
    truth = hand(Side.RIGHT, 0.2)
    size = np.ptp(truth.keypoints, axis=0).max()
    away = replace(truth, keypoints=truth.keypoints + [0, share * size])
    score = score_sequence([[away]], [FrameTruth([truth], [True])])
    assert (score.found, score.false) == (found, 1 - found)


def test_results_of_another_number_of_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="1 results for 2 frames"):
        score_sequence([[]], [FrameTruth([], [])] * 2)
