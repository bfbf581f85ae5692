"""Follows beside each other: hands that overlap in the picture, with networks that say what a test wants."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from wildhands_ros.detection import DetectorConfig
from wildhands_ros.detection.follower import HandFollower
from wildhands_ros.detection.landmarks import LandmarkResult, region_of_landmarks
from wildhands_ros.detection.palm import Palm
from wildhands_ros.detection.regions import Pyramid, Region
from wildhands_ros.detection.search import Sighting, same_hand
from wildhands_ros.hands import FloatArray, Landmarks

PICTURE = Pyramid(np.zeros((400, 400, 3), np.uint8))
FRAME_NS = 33_333_333
UPRIGHT = 100 + 1.5 * np.array(
    # a flat hand, fingers up, thumb to the left: wrist, thumb, index, middle, ring, pinky
    [[50, 100], [35, 90], [25, 78], [18, 68], [12, 60], [38, 58], [35, 42], [33, 32], [32, 22], [48, 55], [48, 37]]
    + [[48, 26], [48, 15], [58, 57], [60, 40], [61, 30], [62, 20], [67, 62], [71, 50], [73, 42], [75, 34]],
    dtype=float,
)


def turned(places: FloatArray, degrees: float) -> FloatArray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    center = (places.min(axis=0) + places.max(axis=0)) / 2
    return (places - center) @ np.array([[c, s], [-s, c]]) + center


ACROSS = turned(UPRIGHT, 100)


def seen(places: FloatArray) -> Landmarks:
    return Landmarks(places, np.zeros((21, 3)), 0.98)


@dataclass
class Search:
    """In place of `HandSearch`, with both of its networks. hands: what is there; rights: log-odds of "right" of each;
    evidence: what palms say of each at first; palms: what every view shows of them; misled: where every palm leads
    to."""

    hands: list[FloatArray]
    rights: tuple[float, ...] = (5.0, -5.0)
    evidence: tuple[float, ...] = (3.0, 3.0)
    palms_seen: list[Palm] = field(default_factory=list)
    misled: FloatArray | None = None
    config: DetectorConfig = field(default_factory=lambda: DetectorConfig(patrol_every=1))

    @property
    def palms(self) -> Search:
        return self

    @property
    def network(self) -> Search:
        return self

    def look_around(self, picture: Pyramid) -> list[Sighting]:
        told = zip(self.hands, self.rights, self.evidence, strict=False)
        return [Sighting(seen(hand), right, 4.0, palm) for hand, right, palm in told]

    def find(self, picture: Pyramid, view: Region, threshold: float) -> list[Palm]:
        return self.palms_seen

    def look(self, picture: Pyramid, region: Region, mirrored: bool = False) -> LandmarkResult:
        if self.misled is not None and any(region == palm.hand_region() for palm in self.palms_seen):
            return LandmarkResult(Landmarks(self.misled, np.zeros((21, 3)), 0.999), 5.0, region)
        turns = [abs(math.remainder(region_of_landmarks(hand).angle - region.angle, math.tau)) for hand in self.hands]
        nearest = int(np.argmin(turns))
        return LandmarkResult(seen(self.hands[nearest]), self.rights[nearest], region)


def palm_at(center: FloatArray, upwards: bool = True, size: float = 100.0) -> Palm:
    keypoints = np.tile(center, (7, 1))
    keypoints[2] += (0.0, -20.0) if upwards else (0.0, 20.0)
    return Palm(center, size, keypoints, 0.9)


def test_one_hand_that_passes_over_another_does_not_take_it_away() -> None:
    assert same_hand(UPRIGHT, ACROSS)  # by their boxes alone
    follower = HandFollower(Search([UPRIGHT, ACROSS]))  # type: ignore[arg-type]
    for frame in range(10):
        assert len(follower.step(PICTURE, frame * FRAME_NS)) == 2, frame


@pytest.mark.parametrize("other", [UPRIGHT + 3, 0.4 * (UPRIGHT - 160) + 165], ids=["the same", "a finger of it"])
def test_two_follows_on_one_hand_become_one(other: FloatArray) -> None:
    follower = HandFollower(Search([UPRIGHT, other]))  # type: ignore[arg-type]
    follower.step(PICTURE, 0)
    assert len(follower.step(PICTURE, FRAME_NS)) == 1


def test_a_palm_belongs_to_the_nearest_hand() -> None:
    beside = UPRIGHT + (25.0, 0.0)
    follower = HandFollower(Search([UPRIGHT, beside]))  # type: ignore[arg-type]
    follower.step(PICTURE, 0)
    for follow in follower._follows:
        center = follow.places[[0, 5, 9, 13, 17]].mean(axis=0)
        assert follower._owner(palm_at(center)) is follow


def test_a_palm_that_leads_to_another_followed_hand_moves_none_onto_it() -> None:
    search = Search([UPRIGHT, ACROSS])
    follower = HandFollower(search)  # type: ignore[arg-type]
    follower.step(PICTURE, 0)
    center = ACROSS[[0, 5, 9, 13, 17]].mean(axis=0)
    search.palms_seen, search.misled = [palm_at(center, upwards=False)], UPRIGHT
    boxes = follower.step(PICTURE, FRAME_NS)
    assert len(boxes) == 2
    assert np.array_equal(boxes[1].landmarks.image, ACROSS)  # type: ignore[union-attr]


def test_a_hand_that_comes_out_from_under_another_is_found_while_their_boxes_overlap() -> None:
    below = ACROSS + (20.0, 40.0)
    assert same_hand(UPRIGHT, below)  # by their boxes alone
    search = Search([UPRIGHT])
    follower = HandFollower(search)  # type: ignore[arg-type]
    follower.step(PICTURE, 0)
    center = below[[0, 5, 9, 13, 17]].mean(axis=0)
    search.hands, search.palms_seen = [UPRIGHT, below], [palm_at(center, upwards=False, size=60.0)]
    assert len(follower.step(PICTURE, FRAME_NS)) == 2


def test_what_is_seen_now_decides_whose_hand_it_is() -> None:
    """And not what each follow saw before, which fits itself whatever the hand is."""
    search = Search([UPRIGHT, ACROSS], evidence=(4.0, 3.0), config=DetectorConfig(patrol_every=100))
    follower = HandFollower(search)  # type: ignore[arg-type]
    for frame in range(20):
        follower.step(PICTURE, frame * FRAME_NS)
    search.hands, search.rights = [ACROSS], (-5.0,)
    (box,) = follower.step(PICTURE, 20 * FRAME_NS)
    assert box.follow_id == 1


def test_a_hand_whose_look_led_to_another_is_looked_for_where_it_was() -> None:
    search = Search([UPRIGHT, ACROSS])
    follower = HandFollower(search)  # type: ignore[arg-type]
    for frame in range(20):
        follower.step(PICTURE, frame * FRAME_NS)
    for frame, hands, rights, ids in (
        (20, [ACROSS], (-5.0,), [1]), (21, [ACROSS], (-5.0,), [1]), (22, [UPRIGHT, ACROSS], (5.0, -5.0), [0, 1]),
    ):  # fmt: skip
        search.hands, search.rights = hands, rights
        assert [box.follow_id for box in follower.step(PICTURE, frame * FRAME_NS)] == ids


def test_a_finger_of_a_followed_hand_is_no_new_hand_however_far_from_its_middle() -> None:
    middle = (ACROSS.min(axis=0) + ACROSS.max(axis=0)) / 2
    finger = 0.4 * (ACROSS - middle) + (150.0, 150.0)
    assert same_hand(UPRIGHT, finger)
    assert np.linalg.norm(UPRIGHT - finger, axis=1).mean() > 0.35 * np.ptp(UPRIGHT, axis=0).max()  # as of two hands
    search = Search([UPRIGHT])
    follower = HandFollower(search)  # type: ignore[arg-type]
    follower.step(PICTURE, 0)
    center = finger[[0, 5, 9, 13, 17]].mean(axis=0)
    search.hands, search.palms_seen = [UPRIGHT, finger], [palm_at(center, upwards=False, size=30.0)]
    for frame in range(1, 5):
        assert len(follower.step(PICTURE, frame * FRAME_NS)) == 1
    assert len(follower._follows) == 1
