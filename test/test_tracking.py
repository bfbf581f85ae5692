"""The tracker: identities, jumps, and a smoothing that keeps the hand consistent with its model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from wildhands_ros.camera import Camera
from wildhands_ros.errors import ConfigError
from wildhands_ros.hand_model import HandModel, load_hand_model
from wildhands_ros.hands import Hand, Side, wrist_rotation
from wildhands_ros.rigid import RigidTransform, moved_hand
from wildhands_ros.rotations import angle_between, exp_so3, log_so3
from wildhands_ros.tracking import HandTracker, OneEuro, OneEuroConfig, PlaceOneEuro, RotationOneEuro, TrackingConfig

CAMERA = Camera.pinhole(1280, 720, 640)
FRAME_NS = 33_333_333


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand_model(None)


def make_hand(
    model: HandModel, side: Side, place: tuple[float, float, float], *, turn=(0, 0, 0), follow_id: int = -1
) -> Hand:
    pose = np.tile(np.eye(3), (16, 1, 1))
    pose[0] = exp_so3(turn)
    translation = np.asarray(place) - model.layer(side).rest_joints(np.zeros(10))[0]
    vertices, joints = model.layer(side).numpy(pose, np.zeros(10), translation)
    return Hand(
        side, 0.9, (0, 0, 9, 9), joints, CAMERA.project(joints), pose, np.zeros(10), translation, "test", model.name,
        vertices=vertices, follow_id=follow_id,
    )  # fmt: skip


def run(tracker: HandTracker, frames: list[list[Hand]], start: int = 0) -> list[list[Hand]]:
    return [tracker.update(hands, start + i * FRAME_NS, CAMERA)[0] for i, hands in enumerate(frames)]


def test_followed_hands_keep_their_ids_even_when_listed_in_another_order(model: HandModel) -> None:
    left = make_hand(model, Side.LEFT, (-0.1, 0, 0.4), follow_id=5)
    right = make_hand(model, Side.RIGHT, (0.1, 0, 0.4), follow_id=8)
    results = run(HandTracker(TrackingConfig(), model), [[left, right], [right, left], [left], [right, left]])
    ids = [{hand.side: hand.track_id for hand in hands} for hands in results]
    assert ids[0] == {Side.LEFT: 0, Side.RIGHT: 1}
    assert ids[1] == ids[3] == ids[0] and ids[2] == {Side.LEFT: 0}


def test_a_lost_hand_found_again_nearby_is_the_same_hand(model: HandModel) -> None:
    tracker = HandTracker(TrackingConfig(), model)
    before = make_hand(model, Side.RIGHT, (0.1, 0, 0.4), follow_id=1)
    after = make_hand(model, Side.RIGHT, (0.14, 0.02, 0.45), follow_id=2)
    results = run(tracker, [[before], [], [], [after]])
    assert results[3][0].track_id == results[0][0].track_id


def test_of_two_lost_hands_the_nearest_comes_back_first(model: HandModel) -> None:
    """Also where the hand that lies between both is listed before the one that lies on its old place."""
    tracker = HandTracker(TrackingConfig(reach_m=1.0), model)
    lost = [make_hand(model, Side.RIGHT, (x, 0, 0.5), follow_id=i) for i, x in enumerate((0.0, 0.2))]
    first, second = (hand.track_id for hand in tracker.update(lost, 0, CAMERA)[0])
    found = [make_hand(model, Side.RIGHT, (x, 0, 0.5), follow_id=i) for i, x in ((7, 0.11), (8, 0.21))]
    back, _ = tracker.update(found, FRAME_NS, CAMERA)
    assert [hand.track_id for hand in back] == [first, second]
    back, _ = tracker.update([replace(h, follow_id=h.follow_id + 10) for h in reversed(found)], 2 * FRAME_NS, CAMERA)
    assert [hand.track_id for hand in back] == [second, first]
    back, _ = tracker.update([replace(found[0], follow_id=30)], 3 * FRAME_NS, CAMERA)  # alone, with both in its reach
    assert [hand.track_id for hand in back] == [first]


def test_a_new_hand_beside_a_followed_one_is_another(model: HandModel) -> None:
    tracker = HandTracker(TrackingConfig(), model)
    followed = make_hand(model, Side.RIGHT, (0.1, 0, 0.4), follow_id=1)
    beside = make_hand(model, Side.RIGHT, (0.12, 0, 0.4), follow_id=2)
    results = run(tracker, [[followed], [beside, followed]])
    assert [hand.track_id for hand in results[1]] == [1, 0]


@pytest.mark.parametrize(("follow_id", "same"), [(0, True), (7, True), (-1, False)])
def test_a_followed_hand_is_the_same_however_far_it_went(model: HandModel, follow_id: int, same: bool) -> None:
    near, far = (make_hand(model, Side.RIGHT, (x, 0, 0.5), follow_id=follow_id) for x in (-0.6, 0.6))
    ids = [hands[0].track_id for hands in run(HandTracker(TrackingConfig(), model), [[near], [far]])]
    assert (ids[1] == ids[0]) == same


@pytest.mark.parametrize(
    ("offset", "gap_s", "same"),
    [
        ((0.14, 0, 0), 0.001, True), ((0.17, 0, 0), 0.001, False),  # reach_m
        ((0, 0, 0.44), 0.001, True), ((0, 0, 0.48), 0.001, False),  # three times as far along the view
        ((0.44, 0, 0), 0.1, True), ((0.47, 0, 0), 0.1, False),  # and half of what 6 m/s allow
        ((0.73, 0, 0), 0.9, True), ((0.77, 0, 0), 0.9, False),  # in 0.2 s at most
    ],
)  # fmt: skip
def test_a_lost_hand_comes_back_within_reach(model: HandModel, offset: tuple, gap_s: float, same: bool) -> None:
    tracker = HandTracker(TrackingConfig(), model)
    before = np.array((0, 0, 20.0))  # so far away that the view hardly turns
    after = before + offset
    start_ns = 1_700_000_000 * 10**9
    tracker.update([make_hand(model, Side.RIGHT, tuple(before), follow_id=1)], start_ns, CAMERA)
    moved = make_hand(model, Side.RIGHT, tuple(after), follow_id=2)
    (hand,), _ = tracker.update([moved], start_ns + round(gap_s * 1e9), CAMERA)
    assert (hand.track_id == 0) == same


def test_shapes_are_smoothed_over_seconds_and_turns_by_a_tenth_of_beta(model: HandModel) -> None:
    config = TrackingConfig(smooth=True)
    tracker = HandTracker(config, model)
    turns = RotationOneEuro(OneEuroConfig(config.min_cutoff, config.beta / 10))
    shapes = OneEuro(OneEuroConfig(0.1, 0.0))
    rng = np.random.default_rng(3)
    for i in range(12):
        hand = make_hand(model, Side.LEFT, (0, 0, 0.4), turn=(0, 0, 0.15 * i), follow_id=1)
        hand = replace(hand, betas=rng.normal(size=10))
        _, (smooth,) = tracker.update([hand], i * FRAME_NS, CAMERA)
        assert np.allclose(smooth.pose, turns(hand.pose, i * FRAME_NS))
        assert np.allclose(smooth.betas, shapes(hand.betas, i * FRAME_NS))


@pytest.mark.parametrize("reason", ["side", "place", "time"])
def test_another_hand_gets_another_id(model: HandModel, reason: str) -> None:
    tracker = HandTracker(TrackingConfig(max_gap_s=0.5), model)
    side = Side.LEFT if reason == "side" else Side.RIGHT
    place = (0.9, 0.3, 0.5) if reason == "place" else (0.1, 0, 0.4)
    later_ns = 10**9 if reason == "time" else 2 * FRAME_NS
    tracker.update([make_hand(model, Side.RIGHT, (0.1, 0, 0.4), follow_id=1)], 0, CAMERA)
    (hand,), _ = tracker.update([make_hand(model, side, place, follow_id=2)], later_ns, CAMERA)
    assert hand.track_id == 1


def test_two_hands_without_follow_ids_are_told_apart_by_side_and_place(model: HandModel) -> None:
    frames = []
    for i in range(10):
        x = 0.02 * i
        hands = [make_hand(model, Side.RIGHT, (0.2 - x, 0, 0.4)), make_hand(model, Side.LEFT, (-0.2 + x, 0, 0.4))]
        frames.append(hands if i % 2 else hands[::-1])
    results = run(HandTracker(TrackingConfig(), model), frames)
    assert {hand.track_id for hands in results for hand in hands if hand.side is Side.LEFT} == {0}
    assert {hand.track_id for hands in results for hand in hands if hand.side is Side.RIGHT} == {1}


def test_impossible_motion_is_marked_once(model: HandModel) -> None:
    still = make_hand(model, Side.RIGHT, (0.0, 0, 0.4), follow_id=1)
    near = make_hand(model, Side.RIGHT, (0.02, 0, 0.4), follow_id=1)
    far = make_hand(model, Side.RIGHT, (0.5, 0, 0.4), follow_id=1)
    turned = make_hand(model, Side.RIGHT, (0.5, 0, 0.4), turn=(0, 3.0, 0), follow_id=1)
    results = run(HandTracker(TrackingConfig(), model), [[still], [near], [far], [far], [turned], [turned]])
    assert [hands[0].jump for hands in results] == [False, False, True, False, True, False]


@pytest.mark.parametrize(
    ("place", "turn", "jump"),
    [(0.59, 0, False), (0.61, 0, True), (0, 39, False), (0, 41, True)],  # of 6 m/s and 40 rad/s
)
def test_a_change_is_a_jump_from_the_speed_that_is_set(model: HandModel, place: float, turn: float, jump: bool) -> None:
    tracker = HandTracker(TrackingConfig(), model)
    gap_ns = 50_000_000 if turn else 100_000_000
    tracker.update([make_hand(model, Side.RIGHT, (0, 0, 0.4), follow_id=1)], 0, CAMERA)
    moved = make_hand(model, Side.RIGHT, (place, 0, 0.4), turn=(0, 0, turn * gap_ns * 1e-9), follow_id=1)
    (hand,), _ = tracker.update([moved], gap_ns, CAMERA)
    assert hand.track_id == 0 and hand.jump == jump


def test_a_picture_that_is_sent_again_has_no_jump_however_different(model: HandModel) -> None:
    tracker = HandTracker(TrackingConfig(), model)
    for x in (0.0, 0.5):
        (hand,), _ = tracker.update([make_hand(model, Side.RIGHT, (x, 0, 0.4), follow_id=1)], FRAME_NS, CAMERA)
        assert hand.track_id == 0 and not hand.jump


def test_where_no_hand_was_valid_yet_jumps_are_measured_against_the_last_one(model: HandModel) -> None:
    here, there = (replace(make_hand(model, Side.RIGHT, (x, 0, 0.4), follow_id=1), valid=False) for x in (0.0, 0.5))
    results = run(HandTracker(TrackingConfig(), model), [[here], [here], [there], [there]])
    assert [hands[0].jump for hands in results] == [False, False, True, False]


def test_noise_is_no_jump_however_fast_the_camera_is(model: HandModel) -> None:
    near, far, away = (
        make_hand(model, Side.RIGHT, place, follow_id=1) for place in ((0.0, 0, 0.48), (0.0, 0, 0.55), (0.5, 0, 0.5))
    )
    tracker = HandTracker(TrackingConfig(), model)
    jumps = []
    for i, hand in enumerate([near, far] * 5 + [away]):
        (raw,), _ = tracker.update([hand], i * 10**9 // 120, CAMERA)
        jumps.append(raw.jump)
    assert jumps == [False] * 10 + [True]


def test_time_going_backwards_starts_anew_with_fresh_ids(model: HandModel) -> None:
    tracker = HandTracker(TrackingConfig(), model)
    hand = make_hand(model, Side.RIGHT, (0.0, 0, 0.4), follow_id=1)
    run(tracker, [[hand], [hand]], start=10**9)
    (again,), _ = tracker.update([hand], 0, CAMERA)
    assert again.track_id == 1 and not again.jump


def test_smoothing_steadies_marks_and_stays_true_to_the_model(model: HandModel) -> None:
    rng = np.random.default_rng(0)
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    raw_places, smooth_places = [], []
    for i in range(60):
        noisy = make_hand(model, Side.LEFT, (0.0, 0, 0.4) + 0.004 * rng.normal(size=3), follow_id=1)
        (raw,), (smooth,) = tracker.update([noisy], i * FRAME_NS, CAMERA)
        assert not raw.smoothed and smooth.smoothed and smooth.track_id == raw.track_id
        raw_places.append(raw.joints[0])
        smooth_places.append(smooth.joints[0])
    assert np.std(smooth_places[10:], axis=0).max() < 0.5 * np.std(raw_places[10:], axis=0).min()
    vertices, joints = model.layer(Side.LEFT).numpy(smooth.pose, smooth.betas, smooth.translation)
    assert np.allclose(joints, smooth.joints, atol=1e-6) and np.allclose(vertices, smooth.vertices, atol=1e-6)
    assert np.allclose(CAMERA.project(smooth.joints), smooth.keypoints, atol=1e-3)


@pytest.mark.parametrize("later_ns", [1, 50_000, 1_000_000])
def test_pictures_that_come_twice_are_no_jumps(model: HandModel, later_ns: int) -> None:
    rng, tracker = np.random.default_rng(1), HandTracker(TrackingConfig(), model)
    for i in range(10):
        for again in range(2):
            noisy = make_hand(model, Side.LEFT, (0.0, 0, 0.4) + 0.005 * rng.normal(size=3), follow_id=1)
            ((hand,), _) = tracker.update([noisy], i * FRAME_NS + again * later_ns, CAMERA)
            assert not hand.jump


def test_pictures_of_one_time_have_one_smoothed_hand(model: HandModel, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(2)
    twice, once = (HandTracker(TrackingConfig(smooth=True), model) for _ in range(2))
    for i in range(10):
        a, b = (make_hand(model, Side.LEFT, (0.0, 0, 0.4) + 0.005 * rng.normal(size=3), follow_id=1) for _ in range(2))
        (expected,) = once.update([a], i * FRAME_NS, CAMERA)[1]
        for hand in (a, b) if i else (a,):  # before the second time nobody knows that there will be one
            (found,) = twice.update([hand], i * FRAME_NS, CAMERA)[1]
            assert np.allclose(found.joints, expected.joints, atol=1e-9)
    assert caplog.text.count("smoothing needs the time") == 1


def test_without_times_hands_are_not_frozen(model: HandModel, caplog: pytest.LogCaptureFixture) -> None:
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    for x in (0.0, 0.05, 0.1):
        hand = make_hand(model, Side.LEFT, (x, 0, 0.4), follow_id=1)
        (smooth,) = tracker.update([hand], 0, CAMERA)[1]
        assert np.allclose(smooth.joints, hand.joints, atol=1e-6)
    assert "smoothing needs the time" in caplog.text


@pytest.mark.parametrize("stamp_ns", [1, 33, 33_333, 10**6, FRAME_NS])  # as in whole seconds, ms and µs
def test_stamps_in_another_unit_are_told(stamp_ns: int, model: HandModel, caplog: pytest.LogCaptureFixture) -> None:
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    for i in range(20):
        tracker.update([make_hand(model, Side.LEFT, (0.01 * i, 0, 0.4), follow_id=1)], i * stamp_ns, CAMERA)
    assert caplog.text.count("stamps are nanoseconds") == (stamp_ns < 100_000)
    assert f"only {stamp_ns} ns apart" in caplog.text or stamp_ns >= 100_000


def test_pictures_that_come_twice_do_not_look_like_another_unit(
    model: HandModel, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    for i in range(20):
        for later_ns in (0, 50):
            tracker.update([make_hand(model, Side.LEFT, (0, 0, 0.4), follow_id=1)], i * FRAME_NS + later_ns, CAMERA)
    assert not caplog.records


def test_who_does_not_smooth_is_not_told_of_times(model: HandModel, caplog: pytest.LogCaptureFixture) -> None:
    tracker = HandTracker(TrackingConfig(), model)
    for _ in range(2):
        tracker.update([make_hand(model, Side.LEFT, (0, 0, 0.4))], 0, CAMERA)
    assert not caplog.records


def test_smoothing_does_not_glide_through_a_jump(model: HandModel) -> None:
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    here = make_hand(model, Side.RIGHT, (0.0, 0, 0.4), follow_id=1)
    there = make_hand(model, Side.RIGHT, (0.6, 0, 0.4), follow_id=1)
    tracker.update([here], 0, CAMERA)
    _, (smooth,) = tracker.update([there], FRAME_NS, CAMERA)
    assert smooth.jump and np.allclose(smooth.joints, there.joints, atol=1e-6)


def test_a_hand_that_is_not_valid_leaves_no_trace_in_the_following_ones(model: HandModel) -> None:
    """Robots are told not to move by it, and so they must not afterwards."""
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    sound = make_hand(model, Side.RIGHT, (0.0, 0, 0.5), follow_id=1)
    wrong = replace(make_hand(model, Side.RIGHT, (0.0, 0, 0.65), follow_id=1), valid=False)
    far = replace(make_hand(model, Side.RIGHT, (0.4, 0, 0.5), follow_id=1), valid=False)
    for i, hand in enumerate([sound] * 20 + [wrong] + [sound] * 3 + [far] + [sound] * 3):
        (raw,), (smooth,) = tracker.update([hand], i * FRAME_NS, CAMERA)
        assert raw.jump == (hand is far) and smooth.smoothed and smooth.track_id == 0
        if hand is sound:
            np.testing.assert_allclose(smooth.joints, sound.joints, atol=1e-9)


@pytest.mark.parametrize("not_finite", [slice(None), slice(0, 1)])
def test_a_hand_that_is_not_finite_leaves_no_trace_in_the_following_ones(model: HandModel, not_finite: slice) -> None:
    """Also where an estimator takes it for valid."""
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    side = Side.RIGHT
    turn = wrist_rotation(model.layer(side).rest_joints(np.zeros(10)), side).T  # makes its wrist's frame the camera's
    sound = make_hand(model, side, (0.0, 0, 0.5), turn=log_so3(turn), follow_id=1)
    joints = sound.joints.copy()
    joints[not_finite] = np.nan
    broken = replace(sound, joints=joints, translation=np.full(3, np.nan))
    for i, hand in enumerate([sound] * 3 + [broken] + [sound] * 3):
        (raw,), (smooth,) = tracker.update([hand], i * FRAME_NS, CAMERA)
        assert raw.track_id == 0 and not raw.jump
        if hand is sound:
            np.testing.assert_allclose(smooth.joints, sound.joints, atol=1e-9)


def test_a_hand_of_the_other_side_is_a_jump_also_at_the_same_time(model: HandModel) -> None:
    right, left = (make_hand(model, side, (0.0, 0, 0.5), follow_id=1) for side in (Side.RIGHT, Side.LEFT))
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    tracker.update([right], FRAME_NS, CAMERA)
    (raw,), (smooth,) = tracker.update([left], FRAME_NS, CAMERA)
    assert raw.jump
    np.testing.assert_allclose(smooth.joints, left.joints, atol=1e-9)


def test_settings_change_without_losing_the_hands(model: HandModel) -> None:
    tracker = HandTracker(TrackingConfig(), model)
    hand = make_hand(model, Side.RIGHT, (0.0, 0, 0.4), follow_id=1)
    raw, smooth_hands = tracker.update([hand], 0, CAMERA)
    assert smooth_hands is raw and not raw[0].smoothed
    tracker.configure(TrackingConfig(smooth=True))
    _, (smooth,) = tracker.update([hand], FRAME_NS, CAMERA)
    assert smooth.track_id == 0 and smooth.smoothed


def test_a_hand_without_a_mesh_gets_none_by_smoothing(model: HandModel) -> None:
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    bare = replace(make_hand(model, Side.LEFT, (0.0, 0, 0.4), follow_id=1), vertices=None)
    for i in range(2):
        (smooth,) = tracker.update([bare], i * FRAME_NS, CAMERA)[1]
        assert smooth.smoothed and smooth.vertices is None


@pytest.mark.parametrize("change", [{"min_cutoff": 0.5}, {"beta": 1.0}])
def test_other_filter_settings_hold_for_the_hands_that_are_there(model: HandModel, change: dict[str, float]) -> None:
    rng, tracker = np.random.default_rng(4), HandTracker(TrackingConfig(smooth=True), model)
    other = HandTracker(replace(TrackingConfig(smooth=True), **change), model)
    for i in range(8):
        hand = make_hand(model, Side.LEFT, (0.0, 0, 0.4) + 0.01 * rng.normal(size=3), follow_id=1)
        if i == 4:
            tracker.configure(replace(TrackingConfig(smooth=True), **change))
        (found,) = tracker.update([hand], i * FRAME_NS, CAMERA)[1]
        if i >= 4:  # as if the stream began here
            (expected,) = other.update([hand], i * FRAME_NS, CAMERA)[1]
            assert found.track_id == expected.track_id and np.array_equal(found.joints, expected.joints)


def test_smoothing_begins_anew_where_that_is_asked_for(model: HandModel) -> None:
    tracker = HandTracker(TrackingConfig(smooth=True), model)
    here, there = (make_hand(model, Side.LEFT, (x, 0, 0.4), follow_id=1) for x in (0.0, 0.05))
    tracker.update([here], 0, CAMERA)
    tracker.smooth_anew()
    (smooth,) = tracker.update([there], FRAME_NS, CAMERA)[1]
    assert smooth.track_id == 0 and not smooth.jump
    assert np.allclose(smooth.joints, there.joints, atol=1e-6)


def test_with_stamps_that_stand_still_hands_are_forgotten_and_smoothing_goes_on(model: HandModel) -> None:
    """As those of a driver that stamps nothing: memory must not grow, nor what is smoothed stay where it was."""
    tracker, there = HandTracker(TrackingConfig(), model), make_hand(model, Side.RIGHT, (0.0, 0, 0.5), follow_id=0)
    for i in range(150):
        tracker.update([replace(make_hand(model, Side.LEFT, (i, 0, 0.5)), follow_id=i + 1)], 0, CAMERA)
        assert len(tracker._tracks) < 70
    last = tracker.update([there], 0, CAMERA)[0][0].track_id
    assert tracker.update([there], 0, CAMERA)[0][0].track_id == last
    for _ in range(31):
        tracker.update([], 0, CAMERA)
    assert tracker.update([replace(there, follow_id=200)], 0, CAMERA)[0][0].track_id != last

    tracker = HandTracker(TrackingConfig(smooth=True), model)
    for i in range(100):
        hand = make_hand(model, Side.RIGHT, (0.002 * i, 0, 0.5), follow_id=1)
        (raw,), (smooth,) = tracker.update([hand], min(i, 5) * FRAME_NS, CAMERA)
        assert not raw.jump
    assert np.linalg.norm(raw.joints[0] - smooth.joints[0]) < 0.03


# --- what must not matter ---------------------------------------------------------------------------------------------


def a_stream(model: HandModel, seed: int, followed: bool) -> list[list[Hand]]:
    """Two hands that wander, jump, are not valid, or not seen now and then."""
    rng = np.random.default_rng(seed)
    places = {Side.LEFT: np.array([-0.1, 0.05, 0.45]), Side.RIGHT: np.array([0.1, 0.05, 0.45])}
    turns = {side: 0.3 * rng.normal(size=3) for side in Side}
    frames: list[list[Hand]] = []
    for _ in range(40):
        frames.append([])
        for number, side in enumerate(Side):
            places[side] = places[side] + rng.normal(0, 0.2 if rng.random() < 0.05 else 0.01, 3)
            turns[side] = turns[side] + rng.normal(0, 0.08, 3)
            pose, betas = exp_so3([turns[side], *rng.normal(0, 0.1, (15, 3))]), rng.normal(0, 0.3, 10)
            translation = places[side] - model.layer(side).rest_joints(betas)[0]
            vertices, joints = model.layer(side).numpy(pose, betas, translation)
            hand = Hand(
                side, 0.9, (0, 0, 9, 9), joints, CAMERA.project(joints), pose, betas, translation, "test", model.name,
                vertices=vertices, valid=rng.random() > 0.1, follow_id=number if followed else -1,
            )  # fmt: skip
            if rng.random() > 0.15:
                frames[-1].append(hand)
    return frames


def mirrored(model: HandModel, hand: Hand) -> Hand:
    flip = np.diag([-1.0, 1.0, 1.0])
    pose, translation = flip @ hand.pose @ flip, flip @ hand.translation
    vertices, joints = model.layer(hand.side.other).numpy(pose, hand.betas, translation)
    return replace(hand, side=hand.side.other, pose=pose, translation=translation, joints=joints, vertices=vertices)


@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("change", ["later", "in another order", "before a turned camera", "mirrored"])
def test_the_same_hands_are_tracked_and_smoothed_the_same(model: HandModel, change: str, followed: bool) -> None:
    rotation = exp_so3([0.4, -1.0, 2.0])
    turn, flip = RigidTransform(rotation, np.zeros(3)), np.diag([-1.0, 1.0, 1.0])
    other = {
        "later": lambda hands: hands,
        "in another order": lambda hands: hands[::-1],
        "before a turned camera": lambda hands: [moved_hand(hand, turn) for hand in hands],
        "mirrored": lambda hands: [mirrored(model, hand) for hand in hands],
    }[change]
    matrix = {"before a turned camera": rotation, "mirrored": flip}.get(change, np.eye(3))
    start = 2**61 if change == "later" else 0
    step = -1 if change == "in another order" else 1
    jumps = 0
    for seed in range(4):
        one, two = (HandTracker(TrackingConfig(smooth=True), model) for _ in range(2))
        ids: dict[int, int] = {}
        for i, hands in enumerate(a_stream(model, seed, followed)):
            raw, smooth = one.update(hands, i * FRAME_NS, CAMERA)
            other_raw, other_smooth = two.update(other(hands), start + i * FRAME_NS, CAMERA)
            for a, b in zip(raw, other_raw[::step], strict=True):
                assert a.jump == b.jump and ids.setdefault(a.track_id, b.track_id) == b.track_id
                jumps += a.jump
            for a, b in zip(smooth, other_smooth[::step], strict=True):
                assert np.allclose(a.joints @ matrix.T, b.joints, atol=1e-9)
                assert np.allclose(a.betas, b.betas, atol=1e-9)
        assert len(set(ids.values())) == len(ids) >= 2
    assert jumps


# --- the filter -------------------------------------------------------------------------------------------------------


def test_one_euro_keeps_a_constant_and_follows_a_ramp_with_a_bounded_lag() -> None:
    fixed, moving = OneEuro(OneEuroConfig()), OneEuro(OneEuroConfig(min_cutoff=1.0, beta=10.0))
    for i in range(100):
        value = np.array([0.2, -0.1, 0.5])
        assert np.allclose(fixed(value, i * FRAME_NS), value)
        ramp = np.array([i / 30, 0.0, 0.0])  # 1 m/s
        lag = float(np.linalg.norm(ramp - moving(ramp, i * FRAME_NS)))
    assert lag < 0.03


def test_places_are_steadier_in_depth_than_across_the_view_and_lag_little() -> None:
    rng = np.random.default_rng(2)
    filtered, plain, axis = PlaceOneEuro(OneEuroConfig()), OneEuro(OneEuroConfig()), np.array([0.36, 0.48, 0.8])
    across = np.array([0.8, -0.6, 0.0])
    offs, plain_offs = [], []
    for i in range(300):
        place = 0.5 * axis + 0.3 * math.sin(i / 20) * across
        noisy = place * (1 + 0.03 * rng.normal()) + 0.001 * rng.normal(size=3)
        ray = place / np.linalg.norm(place)
        for one, collected in ((filtered, offs), (plain, plain_offs)):
            off = one(noisy, i * FRAME_NS) - place
            collected.append((off @ ray, np.linalg.norm(off - (off @ ray) * ray)))
    new, old = np.array(offs), np.array(plain_offs)
    jitter, old_jitter = (np.abs(np.diff(o[:, 0], 2)).mean() for o in (new, old))
    assert jitter < 0.75 * old_jitter < 0.75 * 0.03 * 0.5
    assert np.square(new).mean(axis=0)[0] < np.square(old).mean(axis=0)[0]
    assert new[:, 1].mean() < 0.8 * old[:, 1].mean()

    start = filtered(np.array([0.0, 0.1, 0.5]), 0)  # time that does not go on starts anew
    assert np.allclose(start, [0.0, 0.1, 0.5])
    assert np.isfinite(PlaceOneEuro(OneEuroConfig())(np.zeros(3), 0)).all()


def test_rotations_are_filtered_along_the_shortest_way() -> None:
    smoother = RotationOneEuro(OneEuroConfig(min_cutoff=2.0, beta=0.0))
    start, goal = exp_so3([[0, 0, 0.0]]), exp_so3([[0, 0, 1.0]])
    smoother(start, 0)
    halfway = smoother(goal, FRAME_NS)
    assert np.allclose(angle_between(start, halfway) + angle_between(halfway, goal), 1.0)
    assert 0 < float(angle_between(start, halfway)[0]) < 1


def test_each_rotation_is_filtered_on_its_own_between_any_two_turns() -> None:
    config, rng = OneEuroConfig(min_cutoff=1.0, beta=0.6), np.random.default_rng(6)
    together, alone = RotationOneEuro(config), [RotationOneEuro(config) for _ in range(3)]
    last = None
    for i in range(10):
        turns = exp_so3(rng.normal(size=(3, 3)) * [[1.0], [0.1], [0.01]])  # fast, slow and nearly still
        found = together(turns, i * FRAME_NS)
        one_by_one = [one(turn[None], i * FRAME_NS)[0] for one, turn in zip(alone, turns, strict=True)]
        assert np.allclose(found, one_by_one, atol=1e-12)
        if last is not None:
            parts = angle_between(last, found), angle_between(found, turns)
            assert np.allclose(parts[0] + parts[1], angle_between(last, turns)) and (parts[0] > 0).all()
        last = found


def test_turns_about_one_axis_are_filtered_like_their_angle() -> None:
    config = OneEuroConfig(min_cutoff=1.0, beta=0.6)
    turns, angles, rng = RotationOneEuro(config), OneEuro(config), np.random.default_rng(5)
    axis = np.array([0.6, 0.0, 0.8])
    for i in range(30):
        angle = 0.1 * i + 0.2 * rng.normal(size=1)
        (turn,) = turns(exp_so3(axis * angle)[None], i * FRAME_NS)
        assert np.allclose(turn, exp_so3(axis * angles(angle, i * FRAME_NS)), atol=1e-9)


def test_a_hand_that_moves_across_the_view_stays_at_its_distance() -> None:
    filtered = PlaceOneEuro(OneEuroConfig(min_cutoff=0.5, beta=0.0))
    for i in range(30):
        place = 0.5 * exp_so3([0, 0.1 * i, 0]) @ [0.6, 0.0, 0.8]
        assert np.linalg.norm(filtered(place, i * FRAME_NS)) == pytest.approx(0.5)


def test_along_a_ray_shares_of_the_distance_are_filtered_with_a_third_of_beta() -> None:
    places, shares = PlaceOneEuro(OneEuroConfig(1.0, 6.0)), OneEuro(OneEuroConfig(1.0, 2.0))
    ray = np.array([0.36, 0.48, 0.8])
    for i in range(30):
        share = np.array([math.sin(i / 5)])
        expected = ray * math.exp(shares(share, i * FRAME_NS)[0])
        assert np.allclose(places(ray * math.exp(share[0]), i * FRAME_NS), expected, atol=1e-9)


@pytest.mark.parametrize("kind", [OneEuro, PlaceOneEuro, RotationOneEuro])
def test_what_filters_are_given_and_give_is_the_callers(kind: type) -> None:
    left_alone, written_to, rng = kind(OneEuroConfig()), kind(OneEuroConfig()), np.random.default_rng(7)
    for stamp_ns in (0, FRAME_NS, FRAME_NS, 2 * FRAME_NS, 3 * FRAME_NS):
        value = rng.normal(size=(2, 3)) if kind is RotationOneEuro else rng.normal(size=3)
        value = exp_so3(value) if kind is RotationOneEuro else value
        given = value.copy()
        expected, found = left_alone(value, stamp_ns), written_to(given, stamp_ns)
        assert np.array_equal(found, expected)
        found[:], given[:] = np.nan, np.nan


def test_an_earlier_value_passes_unchanged_and_begins_anew() -> None:
    filtered, fresh = OneEuro(OneEuroConfig()), OneEuro(OneEuroConfig())
    for stamp_ns, value in ((0, 0.0), (2 * FRAME_NS, 1.0), (4 * FRAME_NS, 1.5)):
        filtered(np.array([value]), stamp_ns)
    for stamp_ns, value in ((3 * FRAME_NS, -1.0), (5 * FRAME_NS, 1.0)):
        expected = fresh(np.array([value]), stamp_ns)
        assert np.array_equal(filtered(np.array([value]), stamp_ns), expected)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_gap_s"):
        TrackingConfig(max_gap_s=0)
    with pytest.raises(ConfigError, match="min_cutoff"):
        replace(TrackingConfig(), min_cutoff=-1)
    for name in ("min_cutoff", "beta"):
        with pytest.raises(ConfigError, match="none infinite"):
            replace(TrackingConfig(), **{name: math.inf})
    for name in ("min_cutoff", "derivative_cutoff"):
        for value in (0.0, math.inf, math.nan):
            with pytest.raises(ConfigError, match=name):
                OneEuroConfig(**{name: value})


def test_a_setting_that_the_filters_do_not_have_leaves_them_alone(model: HandModel) -> None:
    rng = np.random.default_rng(3)
    changed, other = (HandTracker(TrackingConfig(smooth=True), model) for _ in range(2))
    for i in range(10):
        hand = make_hand(model, Side.LEFT, (0.0, 0, 0.4) + 0.005 * rng.normal(size=3), follow_id=1)
        if i == 5:
            changed.configure(TrackingConfig(smooth=True, max_gap_s=0.5))
        (a,), (b,) = (tracker.update([hand], i * FRAME_NS, CAMERA)[1] for tracker in (changed, other))
        assert np.array_equal(a.joints, b.joints)
