"""Following hands and searching for more: rules with known answers, on networks that see made-up hands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from test_detection_parts import UPRIGHT_HAND

from wildhands_ros.detection import DetectorConfig
from wildhands_ros.detection.follower import HandFollower
from wildhands_ros.detection.landmarks import LandmarkResult, region_of_landmarks, tight_box
from wildhands_ros.detection.palm import Palm
from wildhands_ros.detection.regions import Pyramid, Region
from wildhands_ros.detection.search import (
    Candidate,
    HandSearch,
    Sighting,
    confirm,
    find_candidates,
    settle,
    without_duplicates,
)
from wildhands_ros.detection.views import views_of
from wildhands_ros.hands import FloatArray, HandBox, Landmarks, Side

PICTURE = Pyramid(np.zeros((720, 1280, 3), np.uint8))
PERIOD_NS = 33_333_333


@dataclass(frozen=True)
class MadeUp:
    """What the networks see of a hand.

    x, y: its middle. scale: 1 for a hand of 85 pixels. right, right_mirrored: log-odds of "right" in upright and
    mirrored looks. presence, presence_mirrored: probability in such looks. palm: the palm's score, 0 for none.
    """

    x: float
    y: float
    scale: float = 2.0
    right: float = 4.0
    right_mirrored: float | None = None
    presence: float = 0.999
    presence_mirrored: float | None = None
    palm: float = 0.9

    @property
    def places(self) -> FloatArray:
        return (UPRIGHT_HAND - UPRIGHT_HAND.mean(axis=0)) * self.scale + (self.x, self.y)


@dataclass
class World:
    """Both networks, with the hands that there are; counts the looks, and how many were mirrored."""

    hands: list[MadeUp] = field(default_factory=list)
    looks: list[Region] = field(default_factory=list)
    mirrored_looks: int = 0

    def find(self, picture: Pyramid, view: Region, threshold: float) -> list[Palm]:
        found = []
        for hand in self.hands:
            places, region = hand.places, region_of_landmarks(hand.places)
            inside = view.from_frame(places)
            if hand.palm >= threshold and 0 <= inside.min() and inside.max() <= 1:
                keypoints = places[[0, 5, 9, 13, 17, 1, 2]]
                center = np.array([region.x, region.y]) - 0.5 * region.size / 2.6 * np.array([0, -1])
                found.append(Palm(center, region.size / 2.6, keypoints, hand.palm))
        return sorted(found, key=lambda palm: -palm.score)

    def look(self, picture: Pyramid, region: Region, mirrored: bool = False) -> LandmarkResult:
        """The hand in the middle of the region, if any."""
        self.looks.append(region)
        self.mirrored_looks += mirrored
        away = [np.hypot(hand.x - region.x, hand.y - region.y) / region.size for hand in self.hands]
        if not away or min(away) > 0.4:
            return LandmarkResult(Landmarks(region.to_frame(UPRIGHT_HAND / 100), np.zeros((21, 3)), 0.0), 0.0, region)
        hand = self.hands[int(np.argmin(away))]
        right = hand.right_mirrored if mirrored and hand.right_mirrored is not None else hand.right
        presence = hand.presence_mirrored if mirrored and hand.presence_mirrored is not None else hand.presence
        return LandmarkResult(Landmarks(hand.places, np.zeros((21, 3)), presence), right, region, mirrored)


class Stream:
    """A follower in a made-up world, frame by frame at 30 Hz."""

    def __init__(self, *hands: MadeUp, **config: float) -> None:
        self.world = World(list(hands))
        self.follower = HandFollower(HandSearch(self.world, self.world, DetectorConfig(**config)))  # type: ignore[arg-type]
        self.stamp_ns = 0

    def step(self, *hands: MadeUp, seconds: float = PERIOD_NS * 1e-9) -> list[HandBox]:
        """What is found in the next frame, which shows these hands."""
        self.world.hands = list(hands)
        self.world.looks = []
        boxes = self.follower.step(PICTURE, self.stamp_ns)
        self.stamp_ns += round(seconds * 1e9)
        return boxes

    def steps(self, count: int, *hands: MadeUp) -> list[HandBox]:
        """What is found in the last of so many frames."""
        for _ in range(count):
            boxes = self.step(*hands)
        return boxes


LEFT, RIGHT = MadeUp(400, 400, right=-4.0), MadeUp(900, 400)


def ids(boxes: list[HandBox]) -> list[int]:
    return [box.follow_id for box in boxes]


def test_hands_are_found_at_once_and_keep_ids_and_sides() -> None:
    stream = Stream()
    for frame in range(40):
        boxes = stream.step(replace(LEFT, x=400 + 5 * frame), replace(RIGHT, x=900 - 5 * frame))
        sides = {box.follow_id: box.side for box in boxes}
        assert sides in ({0: Side.LEFT, 1: Side.RIGHT}, {0: Side.RIGHT, 1: Side.LEFT})
        assert ids(boxes) == [0, 1]


@pytest.mark.parametrize(("frames", "same"), [(5, True), (40, True), (50, False)])
def test_a_lost_hand_is_remembered_for_a_second_and_a_half(frames: int, same: bool) -> None:
    stream = Stream()
    stream.steps(5, LEFT, RIGHT)
    (before,) = (box for box in stream.step(LEFT, RIGHT) if box.side is Side.RIGHT)
    assert len(stream.steps(frames, LEFT)) == 1
    back = {box.side: box.follow_id for box in stream.steps(30, LEFT, RIGHT)}
    assert (back[Side.RIGHT] == before.follow_id) == same


def test_a_hand_of_the_other_side_does_not_come_back_as_the_lost_one() -> None:
    for right, same in ((4.0, True), (-4.0, False)):
        stream = Stream()
        (before,) = stream.steps(30, RIGHT)
        stream.steps(12)
        (after,) = stream.steps(8, replace(RIGHT, right=right))
        assert (after.follow_id == before.follow_id) == same


@pytest.mark.parametrize(("away", "scale", "same"), [(450, 2, True), (800, 2, False), (0, 3.6, True), (0, 4.4, False)])
def test_a_hand_comes_back_near_where_it_was_and_of_its_size(away: float, scale: float, same: bool) -> None:
    stream = Stream()
    (before,) = stream.steps(10, LEFT)
    stream.steps(12)
    (after,) = stream.steps(8, replace(LEFT, x=LEFT.x + away, scale=scale))
    assert (after.follow_id == before.follow_id) == same


def test_of_two_lost_hands_the_one_comes_back_that_was_nearer_or_lost_last() -> None:
    for x, first in ((620, True), (640, False)):
        stream = Stream()
        a, b = MadeUp(500, 400, right=0.0), MadeUp(760, 400, right=0.0)
        by_place = {box.center[0] < 630: box.follow_id for box in stream.steps(10, a, b)}
        stream.steps(12)
        (box,) = stream.steps(6, replace(a, x=x))
        assert box.follow_id == by_place[first]
    stream = Stream()
    by_place = {box.center[0] < 630: box.follow_id for box in stream.steps(10, a, b)}
    stream.steps(25, b)
    stream.steps(12)
    (box,) = stream.steps(6, replace(a, x=610))
    assert box.follow_id == by_place[False]  # `a` was lost long ago, and may be anywhere by now


def test_prediction_moves_a_region_by_less_than_the_hand() -> None:
    stream = Stream()
    for frame in range(6):
        stream.step(MadeUp(300 + 60 * frame, 400))
    stream.step(seconds=0.2)
    (first, *_) = stream.world.looks
    at = region_of_landmarks(MadeUp(600, 400).places)
    assert first.x - at.x == pytest.approx(60, abs=15)
    stream.step()
    assert stream.world.looks[0].x - at.x == pytest.approx(0.7 * 170, abs=2)  # 0.23 s at this speed are 420 pixels


def test_what_grows_or_shrinks_at_once_is_another_hand() -> None:
    for scale, kept in ((4.5, True), (5.5, False), (0.9, True), (0.7, False)):
        stream = Stream()
        stream.steps(5, LEFT)
        (follow,) = stream.follower._follows
        boxes = stream.step(replace(LEFT, scale=scale))
        assert (ids(boxes) == [0] and follow.size == pytest.approx(85 * scale)) == kept


def test_where_two_follows_come_to_lie_on_one_hand_it_stays_with_the_one_of_its_side() -> None:
    """The left hand goes under the right one, or the right one under the left."""
    for stays, goes in ((LEFT, replace(RIGHT, x=560)), (replace(RIGHT, x=560), LEFT)):
        stream = Stream(wearer_prior=0.0)
        by_side = {box.side: box.follow_id for box in stream.steps(30, stays, goes)}
        step = (stays.x - goes.x) / 8
        for frame in range(1, 8):
            stream.step(stays, replace(goes, x=goes.x + step * frame))
        (box,) = stream.steps(3, stays)
        side = Side.RIGHT if stays.right > 0 else Side.LEFT
        assert box.side is side and box.follow_id == by_side[side]


@pytest.mark.parametrize(
    ("others", "log_odds", "reported"),
    [((), 0.8, False), ((), 1.0, True), ((LEFT, RIGHT), 1.4, False), ((LEFT, RIGHT), 1.6, True)],
)
def test_newcomers_need_more_than_a_first_look_and_extra_hands_more_yet(
    others: tuple[MadeUp, ...], log_odds: float, reported: bool
) -> None:
    """By 0.9 and 1.5 log-odds more than `score_threshold`, since many views are searched in a second."""
    palm = 2.6 + 0.4 * 0.5  # what one near view says of a palm of 0.5, see docs/detection.md
    newcomer = MadeUp(650, 400, right=0.0, palm=0.5, presence=1 / (1 + np.exp(-(log_odds - palm + 1.6) / 0.6)))
    stream = Stream()
    stream.steps(5, *others)
    found = []
    for _ in range(60):
        found.append(len(stream.step(*others, newcomer)) > len(others))
        suspected = [follow.begun_ns for follow in stream.follower._follows if not follow.reported]
        assert all(stream.stamp_ns - begun_ns < 450_000_000 for begun_ns in suspected)  # and not for longer
    assert any(found) == reported
    first = Stream().step(*others, newcomer)
    assert len(first) == len(others) + 1  # no stream yet: all views weigh together


def test_upright_and_mirrored_looks_count_equally_for_the_side() -> None:
    """Their biases are opposite: in one of sixteen frames it is looked at the mirror image."""
    stream = Stream(wearer_prior=0.0)
    hand = MadeUp(640, 400, right=2.0, right_mirrored=-6.0)
    assert stream.steps(60, hand)[0].side is Side.LEFT
    before = stream.world.mirrored_looks
    stream.steps(160, hand)
    assert stream.world.mirrored_looks - before == 10


def test_a_side_that_was_long_told_changes_within_a_few_seconds() -> None:
    stream = Stream(wearer_prior=0.0)
    hand = MadeUp(640, 400, right=6.0)
    (sure,) = stream.steps(300, hand)
    assert sure.side is Side.RIGHT and sure.side_probability == pytest.approx(1 / (1 + np.exp(-6)))
    (still,) = stream.steps(30, replace(hand, right=-6.0))
    assert still.side is Side.RIGHT
    (changed,) = stream.steps(270, replace(hand, right=-6.0))
    assert changed.side is Side.LEFT and changed.follow_id == sure.follow_id


def test_a_follow_that_came_to_lie_on_the_other_hand_learns_its_side_in_little_more_than_a_second() -> None:
    """What was seen of the hand before says nothing about this one. Both are seen with the same bias."""
    for right in (6.0, -6.0):
        stream = Stream(wearer_prior=0.0)
        hand, other = (MadeUp(640, 400, right=side * right + 3, right_mirrored=side * right - 3) for side in (1, -1))
        (sure,) = stream.steps(300, hand)
        (changed,) = stream.steps(36, other)
        assert changed.side is sure.side.other and changed.follow_id == sure.follow_id
        assert stream.steps(60, other)[0].side_probability > 0.99


def test_looks_at_the_mirror_image_alone_keep_the_side() -> None:
    """The network is biased, and sees the hand in its mirror image only from some time on."""
    stream = Stream(wearer_prior=0.0)
    hand = MadeUp(640, 400, right=9.0, right_mirrored=-1.0, presence_mirrored=0.999)
    stream.steps(60, hand)
    for _ in range(240):
        (box,) = stream.step(replace(hand, presence=0.0))
        assert box.side is Side.RIGHT


def test_sides_are_told_together_in_a_stream_too() -> None:
    """The network takes both for right ones; they are the wearer's, and one lies to the left of the other."""
    boxes = Stream().steps(30, replace(LEFT, right=1.0), replace(RIGHT, right=1.0))
    assert {box.center[0] < 640: box.side for box in boxes} == {True: Side.LEFT, False: Side.RIGHT}
    boxes = Stream(wearer_prior=0.0).steps(30, replace(LEFT, right=1.0), replace(RIGHT, right=1.0))
    assert [box.side for box in boxes] == [Side.RIGHT] * 2


def test_a_palm_without_a_hand_is_not_looked_at_again_for_a_while() -> None:
    stream = Stream()
    clutter = MadeUp(640, 400, presence=0.0)
    stream.step()
    looked = []
    for _ in range(36):
        assert stream.step(clutter) == []
        looked.append(len(stream.world.looks))
    assert sum(looked) == 3 and max(looked) == 1  # in 1.2 s: every 0.4 s


def test_with_stamps_that_stand_still_things_are_forgotten_too() -> None:
    """A hand is found where there was none before, and what is remembered and looked at does not grow."""
    stream, clutter = Stream(), MadeUp(640, 400, presence=0.0)
    for _ in range(60):
        stream.step(LEFT, clutter, seconds=0)
    boxes = [stream.step(LEFT, replace(clutter, presence=0.999), seconds=0) for _ in range(60)][-1]
    assert len(boxes) == 2
    for place in range(24):
        hand = MadeUp(200 + 400 * (place % 3), 200 + 150 * (place % 2), right=4.0 * (-1) ** place)
        for frame in range(20):
            clutter = MadeUp(150 + 50 * (frame + place % 2), 600, scale=0.5, presence=0.0)
            stream.step(*([hand] if frame < 10 else []), clutter, seconds=0)
            assert len(stream.follower._follows) <= 6 and len(stream.follower._vain) < 20
            assert len(stream.world.looks) < 20


def test_a_picture_of_another_size_begins_a_new_stream() -> None:
    """Nothing is where it was: all is searched at once, and no hand is taken for one of those before."""
    stream = Stream()
    assert ids(stream.steps(10, LEFT, RIGHT)) == [0, 1]
    stream.world.hands = [replace(LEFT, x=200, y=200, scale=1.0), replace(RIGHT, x=450, y=200, scale=1.0)]
    small = Pyramid(np.zeros((360, 640, 3), np.uint8))
    boxes = stream.follower.step(small, stream.stamp_ns)
    assert ids(boxes) == [2, 3]
    assert ids(stream.follower.step(small, stream.stamp_ns + PERIOD_NS)) == [2, 3]


def test_clutter_with_a_better_palm_hides_no_hand() -> None:
    stream, clutter = Stream(), [MadeUp(200 + 250 * i, 200, presence=0.0, palm=0.95) for i in range(4)]
    stream.step()
    boxes = stream.steps(30, *clutter, replace(RIGHT, y=500, palm=0.5))
    assert len(boxes) == 1


@pytest.mark.parametrize(
    ("log_odds", "kept"),
    [(7.0, True), (1.4, True), (1.1, False)],  # 0.6 of it less 1.6 makes a probability of 0.3
)
def test_a_hand_without_a_palm_is_followed_as_long_as_the_landmarks_alone_make_one(log_odds: float, kept: bool) -> None:
    stream = Stream()
    stream.steps(10, LEFT)
    fist = replace(LEFT, palm=0.0, presence=1 / (1 + np.exp(-log_odds)))
    assert ids(stream.steps(200, fist)) == ([0] if kept else [])


def test_a_palm_alone_is_no_hand() -> None:
    stream = Stream()
    stream.steps(10, LEFT)
    assert stream.steps(40, replace(LEFT, presence=0.1)) == []


def test_a_hand_that_the_network_misses_upright_may_show_itself_mirrored() -> None:
    for mirrored, kept in ((0.9, True), (0.1, False)):
        stream = Stream()
        stream.steps(10, LEFT)
        assert bool(stream.step(replace(LEFT, presence=0.1, presence_mirrored=mirrored))) == kept


@pytest.mark.parametrize("right", [3.0, -3.0])
def test_the_first_look_tells_the_side_already(right: float) -> None:
    (box,) = Stream(wearer_prior=0.0).step(MadeUp(640, 400, right=right))
    assert box.side is (Side.RIGHT if right > 0 else Side.LEFT)
    assert box.side_probability == pytest.approx(1 / (1 + np.exp(-0.5 * 3)))


def test_only_the_most_probable_hands_are_reported_oldest_first() -> None:
    hands = [MadeUp(200 + 290 * i, 400, right=0.0, palm=palm) for i, palm in enumerate((0.7, 0.9, 0.6, 0.8))]
    boxes = Stream(max_hands=2).step(*hands)
    assert sorted(round(box.center[0], -2) for box in boxes) == [500, 1100]
    assert ids(boxes) == sorted(ids(boxes))


@dataclass
class Clinging(World):
    """Networks of which the one sees a hand wherever it looks, however it lies, and is sure of it at the palm only."""

    palm: Palm | None = None

    def find(self, picture: Pyramid, view: Region, threshold: float) -> list[Palm]:
        return [] if self.palm is None else [self.palm]

    def look(self, picture: Pyramid, region: Region, mirrored: bool = False) -> LandmarkResult:
        standard = region_of_landmarks(UPRIGHT_HAND)
        places = region.to_frame(standard.from_frame(UPRIGHT_HAND))
        presence = 0.999 if self.palm and region == self.palm.hand_region() else 0.9
        return LandmarkResult(Landmarks(places, np.zeros((21, 3)), presence), 0.0, region)


def palm_of(region: Region, score: float) -> Palm:
    """One whose hand region this is."""
    size = region.size / 2.6
    up = np.array([np.sin(region.angle), -np.cos(region.angle)])
    center = np.array([region.x, region.y]) - 0.5 * size * up
    return Palm(center, size, np.stack([center - 0.3 * size * up] * 2 + [center + 0.3 * size * up] * 5), score)


@pytest.mark.parametrize(
    ("right", "down", "grown", "turn", "score", "corrected"),
    [
        (0, 0, 1.0, -0.6, 0.9, False), (0, 0, 1.0, -0.8, 0.9, True),  # radians
        (0, -0.22, 1.0, 0, 0.9, False), (0, -0.28, 1.0, 0, 0.9, True),  # of its size
        (0, 0, 0.65, 0, 0.9, False), (0, 0, 0.55, 0, 0.9, True),
        (0, 0, 1.6, 0, 0.9, False), (0, 0, 1.8, 0, 0.9, True),
        (0, 0, 1.0, -0.8, 0.45, False),  # the palm itself is not sure
    ],
)  # fmt: skip
def test_a_sure_palm_corrects_a_region_that_crept_off(
    right: float, down: float, grown: float, turn: float, score: float, corrected: bool
) -> None:
    world = Clinging()
    follower = HandFollower(HandSearch(world, world, DetectorConfig(patrol_every=1)))  # type: ignore[arg-type]
    start = Region(640, 360, 300)
    world.palm = palm_of(start, 0.9)
    follower.step(PICTURE, 0)
    world.palm = None
    follower.step(PICTURE, PERIOD_NS)  # it is less sure without a palm
    (follow,) = follower._follows
    before = region_of_landmarks(follow.places)
    size = max(1.0, grown) * before.size
    seen = Region(before.x + right * size, before.y + down * size, grown * before.size, before.angle + turn)
    world.palm = palm_of(seen, score)
    follower.step(PICTURE, 2 * PERIOD_NS)
    at = region_of_landmarks(follow.places)
    assert follower._follows == [follow]
    expected = seen if corrected else before
    assert (at.x, at.y, at.size) == pytest.approx((expected.x, expected.y, expected.size), rel=0.03)
    assert (abs(at.angle - before.angle) > 0.7) == (corrected and abs(turn) > 0.7)


def test_where_pictures_come_seldom_more_is_searched_in_each() -> None:
    palms = []
    for seconds in (0.033, 0.1, 0.5):
        stream, calls = Stream(search_views=2), []
        find = stream.world.find
        stream.world.find = lambda *given, find=find, calls=calls: calls.append(0) or find(*given)  # type: ignore[method-assign]
        stream.step(seconds=seconds)
        calls.clear()
        stream.step()
        palms.append(len(calls))
    assert palms == [2, 2, 10]


# --- a first look -----------------------------------------------------------------------------------------------------


def looked_around(hands: list[MadeUp], **config: float) -> tuple[World, list[float]]:
    """The places x of what is found, best first."""
    world = World(hands)
    found = HandSearch(world, world, DetectorConfig(**config)).look_around(PICTURE)  # type: ignore[arg-type]
    return world, [float(sighting.landmarks.image[:, 0].mean()) for sighting in found]


def test_a_first_look_gives_every_hand_once_best_first() -> None:
    hands = [MadeUp(200, 400, palm=0.7), MadeUp(640, 400, palm=0.9), MadeUp(1000, 400, palm=0.8)]
    world, found = looked_around(hands)
    assert found == pytest.approx([640, 1000, 200])
    assert len(world.looks) == 9 and world.mirrored_looks == 3  # three looks a hand


def test_the_small_views_are_searched_where_hands_are_missing() -> None:
    """Palms are seen there that are too small for the large ones; what was looked at already is not again."""

    class Small(World):
        def find(self, picture: Pyramid, view: Region, threshold: float) -> list[Palm]:
            return [palm for palm in super().find(picture, view, threshold) if palm.size > 0.12 * view.size]

    small = [MadeUp(300, 400, scale=1.2), MadeUp(900, 400, scale=3.0)]
    for wanted, expected in ((1, [900]), (2, [300, 900])):
        world = Small(small)
        found = HandSearch(world, world, DetectorConfig(wanted_hands=wanted)).look_around(PICTURE)  # type: ignore[arg-type]
        assert sorted(sighting.landmarks.image[:, 0].mean() for sighting in found) == pytest.approx(expected)
        assert len(world.looks) == 3 * len(expected)


def test_a_hand_that_the_small_views_see_better_is_more_probable() -> None:
    """Also where it is not looked at again."""

    class Sharper(World):
        def find(self, picture: Pyramid, view: Region, threshold: float) -> list[Palm]:
            sure = 0.9 if view.size < 720 else 0.5
            return [replace(palm, score=sure) for palm in super().find(picture, view, threshold)]

    world, views = Sharper([MadeUp(640, 400)]), views_of(PICTURE.width, PICTURE.height)
    near, far = ([world.find(PICTURE, view, 0.1) for view in part] for part in (views.near, views.far))
    (found,) = HandSearch(world, world, DetectorConfig(wanted_hands=2)).look_around(PICTURE)  # type: ignore[arg-type]
    assert len(world.looks) == 3
    assert found.palm == find_candidates(near, far)[0].evidence > find_candidates(near)[0].evidence


def test_palms_and_boxes_follow_the_settings() -> None:
    hand = MadeUp(640, 400, palm=0.3)
    assert looked_around([hand], score_threshold=0.9)[1] and not looked_around([hand], score_threshold=0.9999)[1]
    assert looked_around([hand], palm_threshold=0.29)[1] and not looked_around([hand], palm_threshold=0.31)[1]
    for margin in (0.0, 0.5):
        for boxes in (Stream(box_margin=margin).step(hand), Stream(box_margin=margin).steps(5, hand)):
            assert boxes[0].xyxy == pytest.approx(tight_box(hand.places, margin))


def test_only_the_best_palms_are_looked_at() -> None:
    clutter = [MadeUp(150 + 220 * i, 150, presence=0.0, palm=0.9) for i in range(5)]
    hand = MadeUp(640, 500, palm=0.8)
    assert looked_around([*clutter, hand], candidates=5)[1] == []
    assert looked_around([*clutter, hand], candidates=6)[1] == pytest.approx([640])


def test_a_hand_is_what_upright_and_mirrored_looks_say_on_average() -> None:
    class Differing(World):
        def look(self, picture: Pyramid, region: Region, mirrored: bool = False) -> LandmarkResult:
            seen = super().look(picture, region, mirrored)
            if not mirrored:
                return seen
            moved = replace(seen.landmarks, image=seen.landmarks.image + (17.0, 0.0), presence=0.5)
            return replace(seen, landmarks=moved)

    hand = MadeUp(640, 400, right=3.0, right_mirrored=-1.0, presence=1 / (1 + np.exp(-4.0)))
    seen = settle(Differing([hand]), PICTURE, hand.places, 0.7)  # type: ignore[arg-type]
    assert seen is not None and np.array_equal(seen.landmarks.image, hand.places)
    assert (seen.right, seen.presence, seen.palm) == pytest.approx((1.0, 2.0, 0.7))
    assert seen.doubt == pytest.approx(17 / 170)
    for presence, there in ((0.19, False), (0.2, True)):
        world = World([replace(hand, presence=presence)])
        assert (settle(world, PICTURE, hand.places, 0.7) is not None) == there  # type: ignore[arg-type]


@pytest.mark.parametrize(("second", "found"), [(0.3, True), (0.29, False)])
def test_where_the_best_palm_of_a_hand_shows_none_the_next_one_may(second: float, found: bool) -> None:
    """If it is not too improbable itself."""
    hand = MadeUp(640, 400)
    (right,) = World([hand]).find(PICTURE, Region(640, 360, 1280), 0.1)
    wrong = replace(right, center=right.center + (0.0, 2.0 * right.size))  # it lies where there is nothing
    world = World([hand])
    candidate = Candidate((wrong, replace(right, score=second)), 0.9)
    assert (confirm(world, PICTURE, candidate) is not None) == found  # type: ignore[arg-type]
    third = Candidate((wrong, wrong, right), 0.9)
    assert confirm(world, PICTURE, third) is None  # type: ignore[arg-type]


def test_of_hands_on_one_place_the_best_remains() -> None:
    def sighting(x: float, palm: float, doubt: float = 0.0) -> Sighting:
        return Sighting(Landmarks(MadeUp(x, 400).places, np.zeros((21, 3)), 0.9), 0.0, 2.0, palm, doubt)

    worse, best, apart, doubtful = sighting(640, 0.1), sighting(650, 0.9), sighting(900, 0.5), sighting(975, 0.2, 0.3)
    assert without_duplicates([worse, best, apart, doubtful]) == [best, apart]
    assert without_duplicates([best, apart, replace(doubtful, doubt=0.0)]) == [
        best,
        apart,
        replace(doubtful, doubt=0.0),
    ]


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_beyond_the_wanted_hands_the_two_most_probable_others_are_followed() -> None:
    palms = (0.6, 0.9, 0.5, 0.8, 0.7)
    stream = Stream(max_hands=1)
    stream.step(*(MadeUp(150 + 240 * i, 400, palm=palm) for i, palm in enumerate(palms)))
    places = [follow.places[:, 0].mean() for follow in stream.follower._follows]
    assert sorted(places) == pytest.approx([390, 870, 1110])


def test_a_side_counts_half_where_a_lost_hand_comes_back() -> None:
    stream = Stream(wearer_prior=0.0)
    sure = stream.steps(120, RIGHT)[0]
    assert sure.side_probability == pytest.approx(1 / (1 + np.exp(-6)))
    stream.steps(15)
    back = stream.steps(4, replace(RIGHT, right=0.0))[0]
    assert back.follow_id == sure.follow_id and 0.95 < back.side_probability < 0.98  # 3 log-odds and more


def test_where_a_hand_was_lost_it_is_searched_first_and_no_more_in_all() -> None:
    stream, views = Stream(), []
    find = stream.world.find
    stream.world.find = lambda picture, view, least: views.append(view) or find(picture, view, least)  # type: ignore[method-assign]
    stream.steps(9, LEFT)
    first, counts = [], []
    for _ in range(8):
        views.clear()
        stream.step()
        counts.append(len(views) + len(stream.world.looks))
        first.append(np.hypot(views[0].x - LEFT.x, views[0].y - LEFT.y) < 1 and views[0].size == 720)
    assert sum(first) == 4 and first in ([True, False] * 4, [False, True] * 4)
    # the frame in which it is lost has the looks that tell so
    assert set(counts[1:]) == {3}  # `search_views`, of which one is a look at where it may be


# --- hands that meet and part -----------------------------------------------------------------------------------------

NEAR_LEFT, NEAR_RIGHT = replace(LEFT, x=500), replace(RIGHT, x=720)  # little more than a hand's size apart


def by_side(boxes: list[HandBox]) -> dict[Side, int]:
    return {box.side: box.follow_id for box in boxes}


@pytest.mark.parametrize("seconds", [PERIOD_NS * 1e-9, 0.1])
def test_hands_that_come_apart_with_places_exchanged_get_them_back(seconds: float) -> None:
    """They crossed between two pictures: each follow finds the other hand where its own was."""
    stream = Stream(wearer_prior=0.0)
    before = by_side(stream.steps(60, NEAR_LEFT, NEAR_RIGHT))
    crossed = replace(NEAR_LEFT, x=NEAR_RIGHT.x), replace(NEAR_RIGHT, x=NEAR_LEFT.x)
    for _ in range(4):
        boxes = stream.step(*crossed, seconds=seconds)
    assert by_side(boxes) == before
    assert {box.side: box.center[0] > 610 for box in boxes} == {Side.LEFT: True, Side.RIGHT: False}
    assert by_side(stream.steps(60, *crossed)) == before


def test_a_hand_that_comes_out_where_the_other_one_went_in_is_itself() -> None:
    """The left hand was lost, and is seen again where the right one is followed, which is gone now."""
    stream = Stream(wearer_prior=0.0)
    before = by_side(stream.steps(60, NEAR_LEFT, NEAR_RIGHT))
    stream.steps(12, NEAR_RIGHT)
    out = replace(NEAR_LEFT, x=NEAR_RIGHT.x)
    assert by_side(stream.steps(10, out)) == {Side.LEFT: before[Side.LEFT]}
    assert by_side(stream.steps(10, out, replace(NEAR_RIGHT, x=980))) == before


def test_hands_that_cross_keep_their_ids_whatever_their_order() -> None:
    stream = Stream()
    before = by_side(stream.steps(30, LEFT, RIGHT))
    for frame in range(101):  # one above the other, where they pass
        boxes = stream.step(replace(LEFT, x=400 + 5 * frame, y=300), replace(RIGHT, x=900 - 5 * frame, y=500))
        assert by_side(boxes) == before


@pytest.mark.parametrize(("right", "presence"), [(-2.0, 0.3), (-0.9, 0.999)], ids=["hardly seen", "hardly doubted"])
def test_weak_doubts_exchange_no_places(right: float, presence: float) -> None:
    stream = Stream(wearer_prior=0.0)
    before = by_side(stream.steps(60, NEAR_LEFT, NEAR_RIGHT))
    stream.steps(5, NEAR_RIGHT)
    (box,) = stream.steps(25, replace(NEAR_RIGHT, right=right, presence=presence))
    assert box.follow_id == before[Side.RIGHT]


def test_of_two_follows_on_one_hand_it_stays_with_the_one_that_was_there() -> None:
    """And not with that of the hand which the palm detector saw better, where no side tells."""
    here, there = MadeUp(500, 400, right=0.0, palm=0.8), MadeUp(660, 400, right=0.0)
    stream = Stream(patrol_every=100)
    places = {box.center[0] < 580: box.follow_id for box in stream.steps(20, here, there)}
    (box,) = stream.step(replace(here, x=562))
    assert box.follow_id == places[True]
