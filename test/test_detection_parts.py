"""Regions, views, decoding, suppression, sides: known answers and properties."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wildhands_ros.detection import DetectorConfig
from wildhands_ros.detection.boxes import make_box
from wildhands_ros.detection.landmarks import LandmarkNetwork, region_of_landmarks, tight_box
from wildhands_ros.detection.palm import ANCHOR_COUNT, Palm, anchors, box_overlap, decode_palms, merge_palms
from wildhands_ros.detection.regions import Pyramid, Region
from wildhands_ros.detection.search import Candidate, find_candidates, hand_score, same_hand
from wildhands_ros.detection.sides import SideCue, right_log_odds, side_cue
from wildhands_ros.detection.views import views_of
from wildhands_ros.errors import ConfigError, ImageError
from wildhands_ros.hands import Landmarks, Side

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


@pytest.mark.parametrize("shape", [(1079, 1919), (543, 1279), (1023, 511)])
def test_odd_rows_and_columns_move_nothing(shape):
    """Of a picture that is halved again and again, the last ones are left out."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.stack([x * 255 / shape[1], y * 255 / shape[0], 0 * x], axis=-1).astype(np.uint8)
    region = Region((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0.9 * min(shape))
    crop = Pyramid(image).crop(region, 24, extend=False)
    places = region.to_frame((np.stack(np.mgrid[:24, :24][::-1], axis=-1) + 0.5) / 24)
    assert np.abs(crop[:, :, :2] - places * 255 / np.array(shape[::-1])).max() < 1.5


@pytest.mark.parametrize("shape", [(1, 512), (3, 512), (512, 2), (1, 1)])
def test_pictures_that_cannot_be_halved_so_often_are_seen_all_the_same(shape):
    """A strip's ramp, as far as fewer halvings show it without gaps."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.repeat(((x + y) // 2)[:, :, None], 3, axis=2).astype(np.uint8)
    region = Region((shape[1] - 1) / 2, (shape[0] - 1) / 2, float(max(shape)))
    crop = Pyramid(image).crop(region, 16, extend=True)
    along = crop[8, :, 0] if shape[1] > shape[0] else crop[:, 8, 0]
    assert along == pytest.approx((np.arange(16) + 0.5) / 16 * max(shape) / 2, abs=1.5)
    assert Pyramid(image).crop(replace(region, size=1e7), 16, extend=False).shape == (16, 16, 3)


def test_fine_patterns_become_grey_and_no_coarse_ones():
    checks = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    crop = Pyramid(np.repeat(checks[:, :, None], 3, axis=2)).crop(Region(250.3, 260.1, 400, 0.3), 50, extend=False)
    assert np.abs(crop.astype(float) - 127.5).max() < 2


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
    assert [replace(view, angle=0.0) for view in views.near[4:]] == list(views.near[1:4])
    assert {view.angle for view in views.near[4:]} == {math.pi / 2} and {view.size for view in views.far} == {432}


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_views_are_few_and_cover_the_picture(width, height):
    views = views_of(width, height)
    assert len(views.near) <= 11 and len(views.far) <= 18
    for level in (views.near[1:] or views.near, views.far):
        for x, y in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1), (width // 2, height // 2)):
            half = [view.size * 0.53 + 0.51 for view in level]  # a tile may leave out a fortieth at an edge
            assert any(abs(view.x - x) <= h and abs(view.y - y) <= h for view, h in zip(level, half, strict=True))


@given(st.integers(1, 5000), st.integers(1, 5000))
@example(1280, 720)
def test_views_of_a_mirrored_and_of_a_portrait_picture_are_the_same(width, height):
    def same(views, others):
        rows, other_rows = (np.array([(v.x, v.y, v.size, v.angle) for v in each]) for each in (views, others))
        apart = np.abs(rows[:, None] - other_rows).max(axis=-1)
        return len(rows) == len(other_rows) and apart.min(axis=0).max() < 1e-6 and apart.min(axis=1).max() < 1e-6

    landscape, portrait = views_of(width, height), views_of(height, width)
    for views, others in ((landscape.near, portrait.near), (landscape.far, portrait.far)):
        assert same(views, [replace(view, x=view.y, y=view.x) for view in others])
        assert same(views, [replace(view, x=width - 1 - view.x) for view in views])


@pytest.mark.parametrize("size", [100, 450, 1000])
def test_a_mirrored_region_of_the_mirrored_picture_is_the_mirrored_crop(size):
    image = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 256, (720, 1280, 3), dtype=np.uint8), (0, 0), 3)
    region = Region(500.3, 300.8, size, 0.6)
    mirrored = replace(region, x=1279 - region.x, angle=-region.angle)
    one = Pyramid(image).crop(region, 224, extend=True)
    other = Pyramid(image[:, ::-1]).crop(mirrored, 224, extend=True)
    assert np.abs(one.astype(int) - other[:, ::-1]).max() <= 2  # OpenCV rounds places to 1/32 of a pixel


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


@given(st.lists(palms, max_size=8, unique_by=lambda palm: palm.score), st.randoms())
def test_palms_are_merged_the_same_in_any_order(found, random):
    shuffled = random.sample(found, len(found))
    for one, other in zip(merge_palms(found), merge_palms(shuffled), strict=True):
        assert np.allclose(one.center, other.center) and (one.size, one.score) == pytest.approx(
            (other.size, other.score)
        )


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
    keypoints[2] = [100, 60]  # above it
    region = Palm(np.array([100.0, 80.0]), 40.0, keypoints, 1.0).hand_region()
    assert (region.x, region.y, region.angle) == pytest.approx((100, 60, 0))


def test_candidates_gather_the_views():
    a = Palm(np.array([50.0, 50.0]), 40.0, np.zeros((7, 2)), 0.8)
    b = Palm(np.array([52.0, 50.0]), 40.0, np.zeros((7, 2)), 0.6)
    c = Palm(np.array([200.0, 50.0]), 40.0, np.zeros((7, 2)), 0.7)
    first, second = find_candidates([[b], []], [[a, c]])
    assert first.palms == (a, b) and first.near == pytest.approx(0.6)
    assert second.palms == (c,) and second.near == 0


@pytest.mark.parametrize(("apart", "one"), [(20, True), (23, False)])
def test_palms_of_two_views_are_one_from_an_overlap_of_three_tenths(apart, one):
    a, b = (Palm(np.array([50.0 + x, 50.0]), 40.0, np.zeros((7, 2)), 0.8) for x in (0, apart))
    assert len(find_candidates([[a], [b]])) == (1 if one else 2)


def test_evidence_and_score_are_those_of_the_regression():
    palm = Palm(np.array([50.0, 50.0]), 40.0, np.zeros((7, 2)), 0.5)
    assert Candidate((palm,), 0.0).evidence == pytest.approx(0)  # seen from far only
    assert Candidate((palm,), 0.5).evidence == pytest.approx(2.6 + 0.4 * 0.5)
    sure = replace(palm, score=1 / (1 + math.exp(-3)))
    assert Candidate((sure, palm), 0.0).evidence == pytest.approx(0.5 * 3)
    assert hand_score(1.0, 2.0) == pytest.approx(1 / (1 + math.exp(-(1 + 0.6 * 2 - 1.6))))


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


def test_region_of_landmarks_is_twice_the_palm_and_lies_towards_the_fingers():
    region = region_of_landmarks(UPRIGHT_HAND)
    palm = UPRIGHT_HAND[[0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]]
    (x0, y0), (x1, y1) = palm.min(axis=0), palm.max(axis=0)
    assert abs(region.angle) < 0.05
    assert region.size == pytest.approx(2 * (y1 - y0), rel=0.02)
    assert (region.x, region.y) == pytest.approx(((x0 + x1) / 2, (y0 + y1) / 2 - 0.1 * (y1 - y0)), abs=2)
    tips = UPRIGHT_HAND.copy()
    tips[[4, 8, 12, 16, 20]] += 30  # they do not count
    assert region_of_landmarks(tips) == region


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


def within(x0, y0, x1, y1):
    """Landmarks that reach from edge to edge of a box; with the margin, of a box a tenth larger on every side."""
    return np.linspace((x0, y0), (x1, y1), 21)


@pytest.mark.parametrize(
    ("places", "doubt", "same"),
    [
        # the other hand's box with its margin: 0 to 120. As large, the overlap counts, 0.4 of the union (51.4 pixels)
        ((60, 10, 160, 110), 0.0, True), ((63, 10, 163, 110), 0.0, False),
        ((10, 60, 110, 160), 0.0, True), ((10, 63, 110, 163), 0.0, False), ((-43, 10, 57, 110), 0.0, False),
        # where the looks differ, half of it inside the other is enough
        ((68, 10, 168, 110), 0.19, False), ((68, 10, 168, 110), 0.2, True), ((72, 10, 172, 110), 0.3, False),
        # a small one is the same where three quarters of it lie inside the other (with its margin 24 pixels wide)
        ((103, 50, 123, 70), 0.0, True), ((106, 50, 126, 70), 0.0, False),
        # a large one where it holds nine tenths of the other, 120 of its 240 pixels
        ((-31, -90, 169, 110), 0.0, True), ((30, -90, 230, 110), 0.0, True), ((34, -90, 234, 110), 0.0, False),
    ],
)  # fmt: skip
def test_how_much_of_two_hands_may_overlap(places, doubt, same):
    assert same_hand(within(*places), within(10, 10, 110, 110), doubt) == same


def answering(screen, world, presence=0.9, right=0.8):
    """The landmark network, with an answer that does not depend on what it is shown."""
    network = LandmarkNetwork.__new__(LandmarkNetwork)
    network._network = lambda crop: [
        np.asarray(values, np.float32).reshape(1, -1) for values in (screen, presence, right, world)
    ]
    return network


def test_the_answer_to_a_mirrored_look_is_mirrored_back():
    rng, picture = np.random.default_rng(1), Pyramid(np.zeros((300, 300, 3), np.uint8))
    screen, world = rng.uniform(0, 224, (21, 3)), rng.normal(size=(21, 3))
    region = Region(150, 140, 112, math.pi / 2)
    plain, mirrored = (answering(screen, world).look(picture, region, mirrored=flag) for flag in (False, True))
    places = region.from_frame(plain.landmarks.image)
    assert np.allclose(places, screen[:, :2] / 224)
    assert np.allclose(region.from_frame(mirrored.landmarks.image), np.stack([1 - places[:, 0], places[:, 1]], axis=1))
    x, y, z = world.T  # right and down in the region are down and left in the picture
    assert np.allclose(plain.landmarks.world, np.stack([-y, x, z], axis=1))
    assert np.allclose(mirrored.landmarks.world, np.stack([-y, -x, z], axis=1))
    assert (plain.right, mirrored.right) == pytest.approx((math.log(4), -math.log(4)))
    assert plain.presence == mirrored.presence == pytest.approx(0.9)


@pytest.mark.parametrize("broken", ["screen", "world", "presence"])
def test_an_answer_that_is_no_number_is_none(broken):
    answer = {"screen": np.ones((21, 3)), "world": np.ones((21, 3)), "presence": np.ones(1)}
    picture, region = Pyramid(np.zeros((300, 300, 3), np.uint8)), Region(150, 140, 112)
    assert answering(**answer).look(picture, region) is not None
    answer[broken].flat[0] = np.nan
    assert answering(**answer).look(picture, region) is None
    assert answering(np.ones((21, 3)), np.ones((21, 3)), right=np.nan).look(picture, region).right == 0


# --- sides ------------------------------------------------------------------------------------------------------------


def cue(x, network=0.0, wearer=1.0, prior=0.0):
    return SideCue(network, wearer, prior, x, 100)


def test_two_of_a_wearers_hands_are_left_and_right():
    left, right = right_log_odds([cue(300), cue(900)])
    assert left < -1 and right > 1


def test_evidence_of_a_hand_alone_adds_up():
    assert right_log_odds([cue(0, 4.0, wearer=0.5, prior=3.0)]) == pytest.approx([0.5 * 4 + 0.5 * 3])
    assert right_log_odds([cue(0, -4.0, wearer=0.5, prior=3.0)], 2.0) == pytest.approx([-0.5 * 4 + 2 * 0.5 * 3])


@pytest.mark.parametrize(("apart", "order"), [(1000, 3.0), (100, 3.0 * math.tanh(1)), (0, 0.0), (-1000, -3.0)])
@pytest.mark.parametrize("wearer", [1.0, 0.5])
def test_what_two_hands_say_about_each_other(apart, order, wearer):
    """By the odds of the four cases: left and right in order, or not, and two of one side."""
    found = right_log_odds([cue(300, wearer=wearer), cue(300 + apart, wearer=wearer)])
    ordered, crossed, same = (math.exp(wearer**2 * x) for x in (order / 2, -order / 2, -2.0))
    second = math.log((ordered + same) / (crossed + same))
    assert found == pytest.approx([-second, second], abs=1e-6)


def test_of_two_hands_the_known_side_of_one_tells_the_others():
    """Where they lie does not, one over the other."""
    first, second = right_log_odds([cue(300, network=12), cue(300)])
    assert first > 4 and second == pytest.approx(-2.0, abs=0.1)


def test_many_strangers_do_not_keep_the_wearers_hands_apart():
    strangers = [cue(100 * i, network=1, wearer=0.0) for i in range(7)]
    *others, left, right = right_log_odds([*strangers, cue(300), cue(900)])
    assert [left, right] == pytest.approx(right_log_odds([cue(300), cue(900)]))
    assert others == pytest.approx([0.5] * 7)


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


def reaching(x, turn):
    """A hand of 100 pixels with its wrist at x, its forearm turned by so much clockwise from straight below."""
    places = np.zeros((21, 2))
    places[9], places[12] = [0, -60], [0, -100]
    return turned(places, turn) + [x, 400]


@pytest.mark.parametrize(
    ("x", "turn", "prior"),
    [
        # wrist and elbow at the same place across the picture, which is 1001 pixels wide: its middle is 500
        (500, 0.0, 0.0), (700, 0.0, 2.5 * 200 / 500.5), (800, 0.0, 2.5 * 300 / 500.5), (300, 0.0, -2.5 * 200 / 500.5),
        (900, 0.0, 2.5 * 0.7), (10, 0.0, -2.5 * 0.7),  # further out is no stronger evidence
        # the forearm from straight left or right: the elbow is a hand and a half away
        (500, math.pi / 2, -0.6 - 2.5 * 150 / 500.5), (450, -math.pi / 2, 0.6 + 2.5 * 100 / 500.5),
    ],
)  # fmt: skip
def test_what_place_and_forearm_say_of_a_wearers_hand(x, turn, prior):
    found = side_cue(reaching(x, turn), 1.5, 1001, 800)
    assert found.prior == pytest.approx(prior, abs=1e-9)
    assert (found.network, found.x, found.size) == pytest.approx((1.5, x, 100))


@pytest.mark.parametrize(
    ("turn", "wearer"), [(0.0, 1.0), (math.pi / 2, 0.953), (math.pi / 6 * 4, 0.5), (math.pi, 0.047)]
)
def test_whose_hand_it_is_follows_from_the_forearm(turn, wearer):
    """Straight below, level, rising by 30°, straight above."""
    assert side_cue(reaching(500, turn), 0.0, 1001, 800).wearer == pytest.approx(wearer, abs=1e-3)


@pytest.mark.parametrize(("edge", "share"), [(2000, 1.0), (170, 1.0), (125, 0.5), (100, 0.0), (50, 0.0)])
@pytest.mark.parametrize("tall", [False, True])
def test_a_close_up_tells_nothing_by_its_place(edge, share, tall):
    """Of 100 pixels, in a picture whose shorter edge is `edge`."""
    size = (edge, 3000) if tall else (3000, edge)
    assert side_cue(reaching(20, 0.0), 0.0, *size).wearer == pytest.approx(share, abs=2e-4)


def test_collapsed_landmarks_have_a_side_all_the_same():
    found = side_cue(np.full((21, 2), 500.0), 2.0, 1001, 800)
    assert found.prior == 0 and right_log_odds([found]) == [1.0]


@given(st.floats(-40, 40))
def test_a_box_has_the_more_probable_side(right):
    landmarks = Landmarks(UPRIGHT_HAND, np.zeros((21, 3)), 0.9)
    box = make_box(landmarks, 0.8, right, 0.1, 7)
    assert box.side is (Side.RIGHT if right >= 0 else Side.LEFT)
    assert box.side_probability == pytest.approx(1 / (1 + math.exp(-abs(right)))) and box.side_probability >= 0.5
    assert (box.xyxy, box.score, box.follow_id) == (tight_box(UPRIGHT_HAND, 0.1), 0.8, 7)


def test_forearms_from_below_are_the_wearers():
    below = side_cue(UPRIGHT_HAND + [600, 300], 0.0, 1280, 720)
    facing = side_cue(turned(UPRIGHT_HAND, math.pi) + [600, 300], 0.0, 1280, 720)
    assert below.wearer > 0.95 and facing.wearer < 0.1
    assert side_cue(UPRIGHT_HAND, 0.0, 100, 100).wearer < 0.5  # a close-up


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [{"threads": 0}, {"threads": 257}, {"palm_threshold": 1.5}, {"score_threshold": float("nan")},
     {"wanted_hands": 1.5}, {"keep_threshold": 0.0}, {"box_margin": -1}, {"wearer_prior": float("inf")},
     {"max_hands": True}],
)  # fmt: skip
def test_senseless_settings_are_named(bad):
    with pytest.raises(ConfigError, match=rf"detection\.{next(iter(bad))}"):
        DetectorConfig(**bad)


def test_thresholds_may_be_set_one_after_the_other_in_any_order():
    assert DetectorConfig().least_kept == DetectorConfig().keep_threshold == 0.3
    assert DetectorConfig(score_threshold=0.2).least_kept == 0.2
