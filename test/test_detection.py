"""Hands in real photographs (of deodr, BSD), in stills and in streams made of them."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from wildhands_ros.detection import DetectorConfig, HandDetector
from wildhands_ros.detection.landmarks import LandmarkNetwork
from wildhands_ros.errors import ImageError
from wildhands_ros.hands import Side

PERIOD_NS = 33_333_333
PHOTOS = ("hand_multiview/IMG-1842.jpg", "hand_multiview/IMG-1843.jpg", "hand_multiview/IMG-1844.jpg")


@pytest.fixture(scope="module")
def detector(models_dir):
    return HandDetector.from_directory(models_dir)


@pytest.fixture
def stream(detector):
    detector.reset()
    return detector


def photo(name=PHOTOS[0]):
    """A left palm, fingers up, filling the picture: (283, 200, 3)."""
    folder = Path(importlib.util.find_spec("deodr").origin).parent / "data"
    image = cv2.imread(str(folder / name))
    assert image is not None, f"deodr does not carry {name} any more"
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def mirrored(image):
    return np.ascontiguousarray(image[:, ::-1])


def background(height=720, width=1280):
    rng = np.random.default_rng(3)
    coarse = rng.integers(40, 110, (height // 40, width // 40, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def paste(canvas, image, x, y, scale=1.0):
    """Puts the picture's hand on the canvas, its black background left out; x, y: top left corner."""
    height, width = canvas.shape[:2]
    affine = np.array([[scale, 0, x], [0, scale, y]], float)
    moved = cv2.warpAffine(image, affine, (width, height), flags=cv2.INTER_LINEAR)
    solid = (image.max(axis=2) > 45).astype(np.uint8) * 255
    solid = cv2.morphologyEx(solid, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    mask = cv2.warpAffine(solid, affine, (width, height), flags=cv2.INTER_LINEAR)[:, :, None] > 127
    return np.where(mask, moved, canvas)


def place(image, box):
    """Where the box's centre lies, as shares of the picture."""
    return np.array(box.center) / image.shape[1::-1]


# --- stills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PHOTOS)
def test_the_hand_of_a_photograph(detector, name):
    image = photo(name)
    (box,) = detector.detect(image)
    assert box.side is Side.LEFT and box.score > 0.9 and 0.5 <= box.side_probability <= 1
    assert box.follow_id == -1
    x0, y0, x1, y1 = box.xyxy
    landmarks = box.landmarks.image
    assert x0 < landmarks[:, 0].min() and landmarks[:, 0].max() < x1 and y0 < landmarks[:, 1].min()
    # The five tips lie on skin, which is bright before the black cloth.
    for tip in (4, 8, 12, 16, 20):
        x, y = landmarks[tip].round().astype(int)
        assert image[y, x].max() > 70
    assert landmarks[[8, 12, 16, 20], 1].max() < landmarks[0, 1]  # fingers above the wrist
    # World landmarks: metres, about a hand's length from wrist to middle tip, y down like the picture's.
    reach = box.landmarks.world[12] - box.landmarks.world[0]
    assert 0.1 < np.linalg.norm(reach) < 0.25 and reach[1] < -0.08


@pytest.mark.parametrize("name", PHOTOS)
def test_a_mirrored_picture_swaps_the_side(detector, name):
    image = photo(name)
    (plain,), (other,) = detector.detect(image), detector.detect(mirrored(image))
    assert other.side is plain.side.other
    assert other.side_probability == pytest.approx(plain.side_probability, abs=0.05)
    swapped = other.landmarks.image * [-1, 1] + [image.shape[1] - 1, 0]
    assert np.linalg.norm(swapped - plain.landmarks.image, axis=1).mean() < 0.04 * plain.size


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_picture_turns_the_landmarks(detector, quarters):
    image = photo()
    height, width = image.shape[:2]
    (plain,), (other,) = detector.detect(image), detector.detect(np.ascontiguousarray(np.rot90(image, quarters)))
    assert other.side is plain.side
    places, world = other.landmarks.image, other.landmarks.world.copy()
    for turn in range(quarters, 0, -1):  # undo one counterclockwise quarter turn: there, y was width - 1 - x
        edge = width if turn % 2 else height
        places = np.stack([edge - 1 - places[:, 1], places[:, 0]], axis=1)
        world[:, :2] = np.stack([-world[:, 1], world[:, 0]], axis=1)
    assert np.linalg.norm(places - plain.landmarks.image, axis=1).mean() < 0.04 * plain.size
    assert np.linalg.norm(world - plain.landmarks.world, axis=1).mean() < 0.012  # metres


@pytest.mark.parametrize("scale", [0.35, 0.8, 1.8])
def test_hands_of_any_size_and_their_places(detector, scale):
    image = paste(background(), photo(), 700, 150, scale)
    (box,) = detector.detect(image)
    (alone,) = detector.detect(photo())
    expected = alone.landmarks.image * scale + [700, 150]
    assert np.linalg.norm(box.landmarks.image - expected, axis=1).mean() < 0.08 * box.size


def test_two_hands_one_left_one_right(detector):
    hand = photo()
    # Palms to the camera, fingers up, as of somebody who shows both hands: the left hand lies left.
    image = paste(paste(background(), hand, 250, 300), mirrored(hand), 800, 280)
    boxes = sorted(detector.detect(image), key=lambda box: box.center[0])
    assert [box.side for box in boxes] == [Side.LEFT, Side.RIGHT]
    assert boxes[0].center[0] == pytest.approx(350, abs=40) and boxes[1].center[0] == pytest.approx(900, abs=40)


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (3, 2000), (2000, 3), (40, 40), (900, 500), (500, 900)])
def test_pictures_without_hands_of_any_shape(detector, shape):
    rng = np.random.default_rng(0)
    for image in (np.zeros((*shape, 3), np.uint8), rng.integers(0, 255, (*shape, 3), np.uint8)):
        assert detector.detect(image) == []
        detector.reset()
        assert detector.follow(image, 0) == [] and detector.follow(image, PERIOD_NS) == []


@pytest.mark.parametrize("image", [np.zeros((0, 0, 3), np.uint8), np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3))])
def test_what_is_no_picture_is_refused(detector, image):
    with pytest.raises(ImageError):
        detector.detect(image)
    with pytest.raises(ImageError):
        detector.follow(image, 0)


def test_a_portrait_with_black_borders(detector):
    image = np.zeros((900, 500, 3), np.uint8)
    image[400:683, 150:350] = photo()
    (box,) = detector.detect(image)
    assert place(image, box) == pytest.approx([0.5, 0.61], abs=0.06)


def test_parts_of_larger_arrays_are_pictures_too(detector):
    canvas = np.zeros((400, 400, 3), np.uint8)
    canvas[50:333, 100:300] = photo()
    view = canvas[40:350:, 90:310]
    assert not view.flags.c_contiguous
    assert len(detector.detect(view)) == 1
    assert len(detector.detect(canvas[:, :, ::-1])) == 1  # channels in the other order: strange colours, same shape


@pytest.mark.parametrize(("share", "black"), [(1 / 45, 0), (0.06, 120)], ids=["dark", "flat"])
def test_a_dark_or_flat_picture_shows_the_same_hand(detector, share, black):
    image = paste(background(), photo(), 500, 250)
    (plain,), (other,) = detector.detect(image), detector.detect((share * image + black).astype(np.uint8))
    assert other.score > 0.9
    away = np.linalg.norm(other.landmarks.image - plain.landmarks.image, axis=1)
    assert away.mean() < 0.05 * (plain.xyxy[3] - plain.xyxy[1])


def test_the_noise_of_a_covered_lens_is_no_hand(detector):
    rng = np.random.default_rng(8)
    detector.reset()
    for frame in range(6):
        noise = rng.normal(1.5, 1.2, (480, 640, 3)).clip(0, 255).astype(np.uint8)
        assert detector.detect(noise) == [] and detector.follow(noise, frame * PERIOD_NS) == []


def test_the_most_hands_that_are_wanted(models_dir):
    hand = photo()
    image = paste(paste(background(), hand, 250, 300), mirrored(hand), 800, 280)
    assert len(HandDetector.from_directory(models_dir, DetectorConfig(max_hands=1)).detect(image)) == 1


# --- streams ----------------------------------------------------------------------------------------------------------


def two_hands(frame, left=True, right=True):
    """A frame of a stream in which two hands move and the camera zooms."""
    hand, step = photo(), np.array([6 * frame, 3 * frame])
    scale = 0.9 + 0.01 * frame
    image = background()
    if left:
        image = paste(image, hand, 150 + step[0], 300 - step[1], scale)
    if right:
        image = paste(image, mirrored(hand), 850 - step[0], 250 + step[1], scale)
    return image


def test_thresholds_change_while_hands_are_followed(models_dir):
    detector = HandDetector.from_directory(models_dir)
    usual = detector.config
    strict = replace(usual, score_threshold=0.9999999, keep_threshold=0.9999998)
    assert all(detector.configure(config) and detector.config == config for config in (strict, usual))
    followed = [detector.follow(two_hands(frame), frame * PERIOD_NS) for frame in range(10)][-1]
    assert len(followed) == 2
    assert detector.configure(replace(usual, keep_threshold=0.2))
    kept = detector.follow(two_hands(10), 10 * PERIOD_NS)
    assert [box.follow_id for box in kept] == [box.follow_id for box in followed]
    assert detector.configure(strict)
    assert detector.follow(two_hands(11), 11 * PERIOD_NS) == []
    assert not detector.configure(replace(strict, threads=usual.threads + 1)) and detector.config == strict


def test_a_second_hand_is_found_as_soon_where_pictures_come_seldom(stream):
    boxes = [stream.follow(two_hands(frame, right=frame >= 2), frame * 500_000_000) for frame in range(4)]
    assert [len(found) for found in boxes] == [1, 1, 2, 2]


def test_more_hands_than_are_wanted_are_not_followed(models_dir, monkeypatch):
    detector = HandDetector.from_directory(models_dir, DetectorConfig(max_hands=1, wanted_hands=8))
    image, hand, looks = background(), photo(), []
    for x in range(20, 1200, 210):
        image = paste(paste(image, hand, x, 40), hand, x, 400)
    real = LandmarkNetwork.look
    monkeypatch.setattr(LandmarkNetwork, "look", lambda *given, **more: looks.append(0) or real(*given, **more))
    most = []
    for frame in range(12):
        looks.clear()
        assert len(detector.follow(image, frame * PERIOD_NS)) == 1
        most.append(len(looks))
    # the first look is at all of them; then three are followed, and at one more it is looked three times
    assert most[0] > 12 and max(most[1:]) <= 3 + 3 + 3


def by_place(boxes):
    return sorted(boxes, key=lambda box: box.center[0])


def test_ids_and_sides_stay_while_hands_move(stream):
    first = by_place(stream.follow(two_hands(0), 0))
    assert [box.side for box in first] == [Side.LEFT, Side.RIGHT]
    assert sorted(box.follow_id for box in first) == [0, 1]
    for frame in range(1, 20):
        boxes = by_place(stream.follow(two_hands(frame), frame * PERIOD_NS))
        assert [(b.follow_id, b.side) for b in boxes] == [(b.follow_id, b.side) for b in first]
        assert boxes[0].center[0] == pytest.approx(100 * (0.9 + 0.01 * frame) + 150 + 6 * frame, abs=40)


def test_a_hand_that_appears_is_found_soon(stream):
    for frame in range(20):
        boxes = stream.follow(two_hands(0, right=frame >= 5), frame * PERIOD_NS)
        if frame < 5:
            assert [box.side for box in boxes] == [Side.LEFT]
    assert {box.side for box in boxes} == {Side.LEFT, Side.RIGHT}


def test_a_hand_that_leaves_is_not_invented_and_comes_back_as_itself(stream):
    seen = {}
    for frame in range(40):
        gone = 8 <= frame < 20
        boxes = stream.follow(two_hands(0, right=not gone), frame * PERIOD_NS)
        seen[frame] = {box.side: box.follow_id for box in boxes}
        if 10 <= frame < 20:
            assert set(seen[frame]) == {Side.LEFT}
    assert seen[39] == seen[0] and set(seen[39]) == {Side.LEFT, Side.RIGHT}


def test_one_hand_is_never_two(stream):
    for frame in range(12):
        assert len(stream.follow(two_hands(frame, right=False), frame * PERIOD_NS)) == 1


def test_a_stamp_before_the_last_one_starts_a_new_stream(stream):
    stream.follow(two_hands(0), 10 * PERIOD_NS)
    stream.follow(two_hands(0, right=False), 11 * PERIOD_NS)
    boxes = stream.follow(two_hands(0), 0)
    assert sorted(box.follow_id for box in boxes) == [0, 1]


def test_after_a_long_pause_everything_is_looked_for_anew(stream):
    before = stream.follow(two_hands(0), 0)
    after = stream.follow(mirrored(two_hands(0, right=False)), 60_000_000_000)
    assert len(after) == 1
    assert after[0].follow_id not in {box.follow_id for box in before}


def test_a_repeated_stamp_and_a_change_of_size_are_survived(stream):
    stream.follow(two_hands(0), 0)
    assert len(stream.follow(two_hands(0), 0)) == 2
    small = cv2.resize(two_hands(0), (320, 180), interpolation=cv2.INTER_AREA)
    for frame in range(1, 12):
        boxes = stream.follow(small, frame * PERIOD_NS)
    assert all(box.xyxy[2] < 400 for box in boxes)
    stream.follow(np.zeros((2, 2, 3), np.uint8), 13 * PERIOD_NS)


@pytest.mark.parametrize("later_ns", [1, 50_000])
def test_pictures_that_come_twice_do_not_shake_the_hands_off(stream, later_ns):
    """By the noise of the landmarks over so little time, a hand would move at any speed."""
    rng = np.random.default_rng(4)
    for frame in range(8):
        for again in range(2):
            noise = rng.normal(0, 3, (720, 1280, 3))
            image = np.clip(two_hands(frame) + noise, 0, 255).astype(np.uint8)
            boxes = stream.follow(image, frame * PERIOD_NS + again * later_ns)
            assert [box.follow_id for box in boxes] == [0, 1]
    for follow in stream._follower._follows:
        assert np.hypot(*follow.velocity) < 2 * follow.size  # a second


def test_a_hand_that_went_under_another_is_forgotten(stream):
    """What is looked at in its place is the other hand, and no sign of it."""
    hand = photo()
    for frame in range(75):
        x = max(850 - 45 * frame, 300)
        image = paste(paste(background(), hand, 300, 300), mirrored(hand), x, 300)
        boxes = stream.follow(image, frame * PERIOD_NS)
    assert len(boxes) == 1 and len(stream._follower._follows) == 1


def test_every_frame_is_patrolled_where_that_is_asked_for(models_dir, monkeypatch):
    detector = HandDetector.from_directory(models_dir, DetectorConfig(patrol_every=1))
    views = []
    find = detector._search.palms.find
    monkeypatch.setattr(detector._search.palms, "find", lambda *a: (views.append(1), find(*a))[1])
    for frame in range(6):
        before = len(views)
        assert len(detector.follow(two_hands(frame), frame * PERIOD_NS)) == 2
        assert len(views) > before


def test_what_a_frame_costs_is_bounded(models_dir, monkeypatch):
    """Counted in runs of the networks, which are nearly all of the time."""
    config = DetectorConfig(search_views=3)
    detector = HandDetector.from_directory(models_dir, config)
    runs = {"palm": 0, "look": 0}
    palms, network = detector._search.palms, detector._search.network
    find, look = palms.find, network.look
    monkeypatch.setattr(palms, "find", lambda *a: (runs.update(palm=runs["palm"] + 1), find(*a))[1])
    monkeypatch.setattr(network, "look", lambda *a, **k: (runs.update(look=runs["look"] + 1), look(*a, **k))[1])

    def cost(image, stamp):
        runs.update(palm=0, look=0)
        detector.follow(image, stamp)
        return runs["palm"], runs["look"]

    empty = background()
    cost(empty, 0)
    for frame in range(1, 15):
        palm, looks = cost(empty, frame * PERIOD_NS)
        assert palm == 3 and looks <= 1
    detector.reset()
    cost(two_hands(0), 0)
    costs = np.array([cost(two_hands(0), frame * PERIOD_NS) for frame in range(1, 33)])
    assert np.median(costs.sum(axis=1)) == 2  # one look a hand
    assert costs.sum(axis=1).mean() <= 2.5 and costs.sum(axis=1).max() <= 6
