"""Which hand has which TF frames, from picture to picture."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from node_fakes import make_hand

from wildhands_ros.hands import Side
from wildhands_ros.node.frame_names import FrameNames

PICTURE_NS = 33_000_000


def left(track_id, score=0.9, **changes):
    return replace(make_hand(Side.LEFT, score=score), track_id=track_id, **changes)


def names_of(names, hands, stamp_ns):
    """Track ids by name."""
    return {name: hand.track_id for name, hand in names(hands, stamp_ns)}


def test_the_most_probable_of_new_hands_has_the_plain_name():
    hands = [left(0, 0.6), left(1, 0.8), replace(make_hand(Side.RIGHT), track_id=2)]
    assert names_of(FrameNames(), hands, 0) == {"left": 1, "left_2": 0, "right": 2}
    assert list(names_of(FrameNames(), hands, 0)) == ["left", "left_2", "right"]


def test_a_hand_keeps_its_name_however_probable_others_become():
    names = FrameNames()
    for step in range(50):
        rising = 0.5 + 0.01 * step
        assert names_of(names, [left(4, 1 - rising), left(3, rising)], step * PICTURE_NS) == {"left": 4, "left_2": 3}


def test_hands_that_are_not_followed_are_ranked_in_every_picture():
    names = FrameNames()
    for scores in ((0.6, 0.8), (0.8, 0.6)):
        hands = [left(-1, score) for score in scores]
        assert [(name, hand.score) for name, hand in names(hands, 0)] == [("left", 0.8), ("left_2", 0.6)]


def test_hands_that_are_not_valid_have_no_name():
    nan = left(1, joints=np.full((21, 3), np.nan))
    assert FrameNames()([left(0, valid=False), nan], 0) == []


def test_the_second_hand_moves_up_a_second_after_the_first_was_seen_last():
    names = FrameNames()
    assert names_of(names, [left(0), left(1, 0.5), left(2, 0.4)], 0) == {"left": 0, "left_2": 1, "left_3": 2}
    for stamp_ns in range(PICTURE_NS, 10**9, PICTURE_NS):  # not valid is not there
        hands = [left(0, valid=False), left(1, 0.5), left(2, 0.4)]
        assert names_of(names, hands, stamp_ns) == {"left_2": 1, "left_3": 2}
    assert names_of(names, [left(1, 0.5), left(2, 0.4)], 10**9 + 1) == {"left": 1, "left_2": 2}
    assert names_of(names, [left(0), left(1, 0.5), left(2)], 2 * 10**9) == {"left": 1, "left_2": 2, "left_3": 0}


def test_the_third_hand_moves_up_past_all_that_are_gone():
    names = FrameNames()
    names([left(0), left(1, 0.5), left(2, 0.4)], 0)
    assert names_of(names, [left(2)], PICTURE_NS) == {"left_3": 2}
    assert names_of(names, [left(2)], 10**9) == {"left_3": 2}
    assert names_of(names, [left(2)], 10**9 + 1) == {"left": 2}


def test_a_hand_that_comes_back_in_time_has_its_name_again():
    names = FrameNames()
    names([left(0), left(1, 0.5)], 0)
    assert names_of(names, [left(1, 0.5)], PICTURE_NS) == {"left_2": 1}
    assert names_of(names, [left(0, 0.4), left(1, 0.5)], 2 * PICTURE_NS) == {"left": 0, "left_2": 1}


def test_the_only_hand_of_its_side_has_the_plain_name_also_with_a_new_id():
    names = FrameNames()
    for track_id, stamp_ns in enumerate(range(0, 10**9, PICTURE_NS)):
        assert names_of(names, [left(track_id)], stamp_ns) == {"left": track_id}


def test_a_name_that_was_given_on_is_not_taken_back():
    names = FrameNames()
    names([left(0), left(1, 0.5)], 0)
    assert names_of(names, [left(1, 0.5), left(2)], PICTURE_NS) == {"left": 2, "left_2": 1}
    hands = [left(0), left(1, 0.5), left(2)]
    assert names_of(names, hands, 2 * PICTURE_NS) == {"left": 2, "left_2": 1, "left_3": 0}


def test_a_hand_of_the_other_side_is_another_hand():
    names = FrameNames()
    names([left(0), left(1, 0.5)], 0)
    turned = replace(make_hand(Side.RIGHT), track_id=1)
    assert names_of(names, [left(0), turned], PICTURE_NS) == {"left": 0, "right": 1}


def test_time_that_goes_backwards_starts_anew():
    names = FrameNames()
    names([left(0, 0.9), left(1, 0.5)], 10**9)
    assert names_of(names, [left(0, 0.5), left(1, 0.9)], 0) == {"left": 1, "left_2": 0}


def test_a_picture_that_comes_late_keeps_the_names():
    names = FrameNames()
    names([left(0, 0.9), left(1, 0.5)], 10**9)
    assert names_of(names, [left(0, 0.5), left(1, 0.9)], 10**9 - PICTURE_NS) == {"left": 0, "left_2": 1}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_and_goes(seed):
    """Every valid hand has one name, no name is given twice, and names of hands that are seen stay or move up."""
    rng = np.random.default_rng(seed)
    names = FrameNames()
    before: dict[int, int] = {}
    stamp_ns = 0
    for _ in range(200):
        step_ns = int(rng.choice([PICTURE_NS, 10 * PICTURE_NS, 2 * 10**9], p=[0.8, 0.15, 0.05]))
        before = before if step_ns < 10**9 else {}
        stamp_ns += step_ns
        ids = [i for i in range(4) if rng.random() < 0.7]
        now = {name: hand.track_id for name, hand in names([left(i, rng.random()) for i in ids], stamp_ns)}
        assert sorted(now.values()) == ids
        assert set(now) <= {"left", "left_2", "left_3", "left_4", "left_5"}
        places = {i: int(name[5:] or 1) for name, i in now.items()}
        for i in set(places) & set(before):
            assert places[i] <= before[i]
        for a, b in itertools.combinations(set(places) & set(before), 2):
            assert (places[a] < places[b]) == (before[a] < before[b])  # and never past each other
        before = places
