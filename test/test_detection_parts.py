"""Regions, views, decoding, suppression, sides: known answers and properties."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wildhands_ros.detection import DetectorConfig
from wildhands_ros.detection.landmarks import region_of_landmarks, tight_box
from wildhands_ros.detection.palm import ANCHOR_COUNT, Palm, anchors, box_overlap, decode_palms, merge_palms
from wildhands_ros.detection.regions import Pyramid, Region
from wildhands_ros.detection.search import Candidate, find_candidates, hand_score, same_hand
from wildhands_ros.detection.sides import SideCue, right_log_odds, side_cue
from wildhands_ros.detection.views import views_of
from wildhands_ros.errors import ConfigError, ImageError

numbers = st.floats(-2000, 2000, allow_nan=False)
regions = st.builds(Region, numbers, numbers, st.floats(1, 3000), st.floats(-7, 7))
UPRIGHT_HAND = np.array(
    # a flat hand, fingers up, thumb to the left: wrist, thumb, index, middle, ring, pinky
    [[50, 100], [35, 90], [25, 78], [18, 68], [12, 60], [38, 58], [35, 42], [33, 32], [32, 22], [48, 55], [48, 37]]
    + [[48, 26], [48, 15], [58, 57], [60, 40], [61, 30], [62, 20], [67, 62], [71, 50], [73, 42], [75, 34]],
    dtype=float,
)


def turned(places, angle, center=(0.0, 0.0)):
    c, s = math.cos(angle), math.sin(angle)
    return (places - center) @ np.array([[c, s], [-s, c]]) + center


# --- regions and pictures ---------------------------------------------------------------------------------------------


@given(regions, st.lists(st.tuples(st.floats(-1, 2), st.floats(-1, 2)), min_size=1, max_size=5))
def test_region_maps_are_inverse(region, points):
    points = np.array(points)
    assert np.allclose(region.from_frame(region.to_frame(points)), points, atol=1e-9)


@given(regions, st.integers(8, 300))
def test_crop_affine_agrees_with_the_region(region, pixels):
    corner = np.array([[0.0, 0.0], [pixels - 1, 0.0], [0.0, pixels - 1]])
    affine = region.frame_from_crop(pixels)
    assert np.allclose(corner @ affine[:, :2].T + affine[:, 2], region.to_frame((corner + 0.5) / pixels), atol=1e-6)


def test_region_up_points_where_its_angle_says():
    region = Region(100, 100, 50, math.pi / 2)
    assert np.allclose(region.to_frame(np.array([0.5, 0.0])), [125, 100])  # up is to the right after a quarter turn


@pytest.mark.parametrize("size", [100, 224, 450, 1000, 1900])
@pytest.mark.parametrize("angle", [0.0, 0.6, -2.0])
def test_crop_shows_every_place_where_the_region_says(size, angle):
    image = np.zeros((1080, 1920, 3), np.uint8)
    spot = (812, 401)
    radius = max(2, size // 30)
    cv2.circle(image, spot, radius, (255, 255, 255), -1)
    region = Region(820.0, 390.0, float(size), angle)
    crop = Pyramid(image).crop(region, 224, extend=False)[:, :, 0].astype(float)
    rows, columns = np.mgrid[:224, :224]
    seen = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
    expected = region.from_frame(np.array(spot, float)) * 224 - 0.5
    assert np.abs(seen - expected).max() < 0.3  # pixels of the crop


def test_crop_of_the_whole_picture_is_the_picture():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert np.array_equal(Pyramid(image).crop(Region(31.5, 31.5, 64), 64, extend=False), image)


def test_outside_the_picture_is_black_or_its_edge():
    picture = Pyramid(np.full((50, 50, 3), 200, np.uint8))
    region = Region(500, 500, 40)
    assert picture.crop(region, 16, extend=False).max() == 0
    assert picture.crop(region, 16, extend=True).min() == 200


@pytest.mark.parametrize(
    "image",
    [
        None,
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((10, 0, 3), np.uint8),
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((9, 9, 3)),
    ],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ImageError):
        Pyramid(image)


# --- views ------------------------------------------------------------------------------------------------------------


def test_views_of_a_usual_picture():
    views = views_of(1280, 720)
    assert len(views.near) == 7 and len(views.far) == 8
    assert views.near[0] == Region(639.5, 359.5, 1280)
    assert [view.x for view in views.near[1:4]] == [359.5, 639.5, 919.5]


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_views_are_few_and_cover_the_picture(width, height):
    views = views_of(width, height)
    assert len(views.near) <= 11 and len(views.far) <= 18
    for level in (views.near[1:] or views.near, views.far):
        for x, y in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1), (width // 2, height // 2)):
            half = [view.size * 0.53 + 0.51 for view in level]  # a tile may leave out a fortieth at an edge
            assert any(abs(view.x - x) <= h and abs(view.y - y) <= h for view, h in zip(level, half, strict=True))


# --- palms ------------------------------------------------------------------------------------------------------------


def test_anchors():
    table = anchors()
    assert table.shape == (ANCHOR_COUNT, 2) == (2016, 2)
    assert np.allclose(table[[0, 1]], 4 / 192) and np.allclose(table[2], [12 / 192, 4 / 192])  # stride 8, two a cell
    assert np.allclose(table[1152:1158], 8 / 192) and np.allclose(table[-1], 184 / 192)  # stride 16, six a cell
    assert not table.flags.writeable


def decoded(view, index=700, score=2.0):
    values, logits = np.zeros((2016, 18), np.float32), np.full(2016, -20, np.float32)
    values[index, :4] = [6, -3, 48, 36]
    values[index, 4:] = np.tile([9.6, 19.2], 7)
    logits[index] = score
    return decode_palms(values, logits, view, 0.5)


def test_decoded_palm_lies_where_it_should():
    (palm,) = decoded(Region(95.5, 95.5, 192))  # a view of one frame pixel per network pixel
    anchor = anchors()[700] * 192 - 0.5
    assert np.allclose(palm.center, anchor + [6, -3])
    assert palm.size == pytest.approx(48)
    assert np.allclose(palm.keypoints, anchor + [9.6, 19.2], atol=1e-4)
    assert palm.score == pytest.approx(1 / (1 + math.exp(-2)))


def test_decoded_palm_turns_and_scales_with_its_view():
    (plain,) = decoded(Region(0, 0, 192))
    (other,) = decoded(Region(300, 200, 384, math.pi / 2))
    assert np.allclose(other.center, 2 * turned(plain.center, math.pi / 2) + [300, 200], atol=1e-4)
    assert other.size == pytest.approx(2 * plain.size)


def test_threshold_and_nonsense_are_left_out():
    assert decoded(Region(0, 0, 192), score=-1.0) == []
    values, logits = np.full((2016, 18), np.nan, np.float32), np.full(2016, 5, np.float32)
    assert decode_palms(values, logits, Region(0, 0, 192), 0.5) == []


def test_a_threshold_that_all_places_pass_does_not_take_for_ever():
    values, scores = np.ones((2016, 18), np.float32), np.linspace(-2, 2, 2016, dtype=np.float32)
    found = decode_palms(values, scores, Region(0, 0, 192), 0.01)
    assert len(found) == 200 and [palm.score for palm in found] == sorted([palm.score for palm in found], reverse=True)
    assert found[-1].score == pytest.approx(1 / (1 + math.exp(-scores[-200])))


palms = st.builds(
    lambda x, y, size, score: Palm(np.array([x, y]), size, np.full((7, 2), 1.0) * [x, y], score),
    st.floats(0, 300), st.floats(0, 300), st.floats(5, 100), st.floats(0.01, 0.99),
)  # fmt: skip


@given(st.lists(palms, max_size=12))
def test_merging_leaves_the_best_of_every_place(found):
    merged = merge_palms(found)
    assert len(merged) <= len(found) and bool(merged) == bool(found)
    assert [palm.score for palm in merged] == sorted((palm.score for palm in merged), reverse=True)
    if found:
        assert merged[0].score == max(palm.score for palm in found)
    assert sum(palm.score for palm in merged) <= sum(palm.score for palm in found) + 1e-9


def test_merging_weighs_by_score_and_keeps_what_is_apart():
    def palm(x, score):
        return Palm(np.array([x, 0.0]), 10.0, np.full((7, 2), x), score)

    merged = merge_palms([palm(0, 0.6), palm(2, 0.2), palm(50, 0.4)])
    assert [p.score for p in merged] == [0.6, 0.4]
    assert merged[0].center[0] == pytest.approx(0.5) and merged[0].keypoints[3, 0] == pytest.approx(0.5)


@given(st.tuples(numbers, numbers, numbers, numbers), st.tuples(numbers, numbers, numbers, numbers))
@example((0.0, 0.0, 1e-247, 1e-273), (0.0, 0.0, 1e-247, 1e-273))
def test_overlap_is_symmetric_and_bounded(a, b):
    a, b = [(min(r[0], r[2]), min(r[1], r[3]), max(r[0], r[2]), max(r[1], r[3])) for r in (a, b)]
    assert 0 <= box_overlap(a, b) <= 1 + 1e-9
    assert box_overlap(a, b) == pytest.approx(box_overlap(b, a))


def test_hand_region_of_a_palm_points_along_the_fingers():
    keypoints = np.tile([100.0, 100.0], (7, 1))
    keypoints[2] = [140, 100]  # the middle knuckle lies to the right of the wrist
    region = Palm(np.array([120.0, 100.0]), 40.0, keypoints, 1.0).hand_region()
    assert region.angle == pytest.approx(math.pi / 2)
    assert (region.x, region.y) == pytest.approx((140, 100)) and region.size == pytest.approx(104)


def test_candidates_gather_the_views():
    a = Palm(np.array([50.0, 50.0]), 40.0, np.zeros((7, 2)), 0.8)
    b = Palm(np.array([52.0, 50.0]), 40.0, np.zeros((7, 2)), 0.6)
    c = Palm(np.array([200.0, 50.0]), 40.0, np.zeros((7, 2)), 0.7)
    first, second = find_candidates([[b], []], [[a, c]])
    assert first.palms == (a, b) and first.near == pytest.approx(0.6)
    assert second.palms == (c,) and second.near == 0
    assert Candidate((c,), 0.7).evidence > Candidate((c,), 0.0).evidence


@given(st.floats(-5, 5), st.floats(-9, 9), st.floats(0.01, 3))
def test_score_grows_with_either_evidence(palm, presence, more):
    assert hand_score(palm, presence) < hand_score(palm + more, presence)
    assert hand_score(palm, presence) < hand_score(palm, presence + more)


# --- landmarks --------------------------------------------------------------------------------------------------------


@given(st.floats(-3.1, 3.1), st.floats(0.2, 8), numbers, numbers)
def test_region_of_landmarks_turns_with_the_hand(angle, scale, x, y):
    plain = region_of_landmarks(UPRIGHT_HAND)
    moved = region_of_landmarks(turned(UPRIGHT_HAND, angle) * scale + [x, y])
    assert moved.size == pytest.approx(plain.size * scale, rel=1e-6)
    assert math.remainder(moved.angle - plain.angle - angle, 2 * math.pi) == pytest.approx(0, abs=1e-6)
    center = turned(np.array([plain.x, plain.y]), angle) * scale + [x, y]
    assert np.allclose([moved.x, moved.y], center, atol=1e-6 * (1 + abs(x) + abs(y)))


def test_region_of_landmarks_holds_the_hand():
    inside = region_of_landmarks(UPRIGHT_HAND).from_frame(UPRIGHT_HAND)
    assert inside.min() > 0 and inside.max() < 1


def test_collapsed_landmarks_give_a_region_all_the_same():
    region = region_of_landmarks(np.full((21, 2), 7.0))
    assert region.size > 0 and (region.x, region.y) == pytest.approx((7, 7))


def test_box_holds_the_landmarks_with_its_margin():
    assert tight_box(UPRIGHT_HAND, 0.0) == (12, 15, 75, 100)
    assert tight_box(UPRIGHT_HAND, 0.1) == pytest.approx((3.5, 6.5, 83.5, 108.5))


def test_same_hand():
    assert same_hand(UPRIGHT_HAND, UPRIGHT_HAND + 5)
    assert same_hand(UPRIGHT_HAND * 0.3 + 40, UPRIGHT_HAND)  # a finger taken for a hand
    assert not same_hand(UPRIGHT_HAND, UPRIGHT_HAND + [60, 0])
    half = UPRIGHT_HAND + [36, 0]  # two hands that touch, or one seen twice: the doubt decides
    assert not same_hand(half, UPRIGHT_HAND, doubt=0.0)
    assert same_hand(half, UPRIGHT_HAND, doubt=0.3)


# --- sides ------------------------------------------------------------------------------------------------------------


def cue(x, network=0.0, wearer=1.0, prior=0.0):
    return SideCue(network, wearer, prior, x, 100)


def test_two_of_a_wearers_hands_are_left_and_right():
    left, right = right_log_odds([cue(300), cue(900)])
    assert left < -1 and right > 1


def test_a_sure_network_outvotes_the_order():
    crossed = right_log_odds([cue(300, network=8), cue(900, network=-8)])
    assert crossed[0] > 0 > crossed[1]


def test_strangers_do_not_influence_each_other():
    assert right_log_odds([cue(300, 2, wearer=0), cue(900, 2, wearer=0)]) == pytest.approx(
        right_log_odds([cue(0, 2)]) * 2
    )


def test_the_wearers_prior_can_be_switched_off():
    network_only = right_log_odds([cue(300, 3, prior=-5), cue(900, -3, prior=5)], wearer_prior=0)
    assert network_only[0] > 0 > network_only[1]
    assert right_log_odds([], 1.0) == []


@given(st.lists(st.tuples(st.floats(0, 1279), st.floats(-9, 9), st.floats(0, 1), st.floats(-2, 2)), max_size=7))
def test_mirrored_hands_have_mirrored_sides(hands):
    cues = [cue(x, network, wearer, prior) for x, network, wearer, prior in hands]
    mirrored = [cue(1279 - x, -network, wearer, -prior) for x, network, wearer, prior in hands]
    assert np.allclose(right_log_odds(mirrored), -np.array(right_log_odds(cues)), atol=1e-6)


def test_cue_of_a_hand_mirrors_with_its_picture():
    places = turned(UPRIGHT_HAND, 0.4) + [700, 400]
    plain = side_cue(places, 2.0, 1280, 720)
    mirrored = side_cue(np.stack([1279 - places[:, 0], places[:, 1]], axis=1), -2.0, 1280, 720)
    assert mirrored.prior == pytest.approx(-plain.prior) and mirrored.wearer == pytest.approx(plain.wearer)


def test_forearms_from_below_are_the_wearers():
    below = side_cue(UPRIGHT_HAND + [600, 300], 0.0, 1280, 720)
    facing = side_cue(turned(UPRIGHT_HAND, math.pi) + [600, 300], 0.0, 1280, 720)
    assert below.wearer > 0.95 and facing.wearer < 0.1
    assert side_cue(UPRIGHT_HAND, 0.0, 100, 100).wearer < 0.5  # a close-up


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [{"threads": 0}, {"palm_threshold": 1.5}, {"score_threshold": float("nan")}, {"wanted_hands": 1.5},
     {"keep_threshold": 0.0}, {"box_margin": -1}, {"wearer_prior": float("inf")}, {"max_hands": True}],
)  # fmt: skip
def test_senseless_settings_are_named(bad):
    with pytest.raises(ConfigError, match=rf"detection\.{next(iter(bad))}"):
        DetectorConfig(**bad)


def test_thresholds_may_be_set_one_after_the_other_in_any_order():
    assert DetectorConfig().least_kept == DetectorConfig().keep_threshold == 0.3
    assert DetectorConfig(score_threshold=0.2).least_kept == 0.2
