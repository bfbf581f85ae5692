"""From pictures and boxes to network inputs: the published arithmetic, sharp crops, rectified views."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import CameraError
from wildhands_ros.estimation.wildhands import Crops, Encoding, Perspective, Variant, published, resample
from wildhands_ros.estimation.wildhands import crops as crops_module
from wildhands_ros.estimation.wildhands.crops import CropMaker
from wildhands_ros.estimation.wildhands.places import CropPlace, place_crop, square_frame
from wildhands_ros.estimation.wildhands.trunks import picture_mean_std
from wildhands_ros.estimation.wildhands.views import WIDEST_HALF_ANGLE, RectifiedView, rectified_camera

EXPECTED = np.load(Path(__file__).parent / "data" / "wildhands_expected.npz")
CAMERA = Camera.pinhole(1280, 720, 700)
BOXES = [(700.0, 330.0, 930.0, 560.0), (330.0, 350.0, 560.0, 550.0)]


def picture(width=1280, height=720, seed=0):
    """Blocks of noise on a gradient, from integers alone."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 160, (-(-height // 8), -(-width // 8), 3))
    image = np.kron(blocks, np.ones((8, 8, 1), np.int64))[:height, :width]
    ramp = np.arange(width)[None, :, None] * 90 // width
    return (image + ramp).astype(np.uint8)


def placed(box, camera=CAMERA, factor=1.75):
    return published.place_published_crop(camera, box, factor)


def test_published_frame_scales_and_centres():
    frame = published.published_frame(Camera(1280, 720, 700, 690, 640, 360))
    np.testing.assert_allclose(frame.matrix, [[122.5, 0, 112], [0, 120.75, 112], [0, 0, 1]])
    assert frame.focal == pytest.approx(121.625)


@pytest.mark.parametrize("cx", [639.5, 639.75, 640.0])
def test_a_centred_camera_counts_as_centred_by_either_convention(cx):
    assert published.published_frame(Camera(1280, 720, 700, 700, cx, 359.5)).matrix[0, 2] == 112


def test_principal_points_off_the_middle_move_with_the_frame_and_steadily():
    scale = 224 / 1280
    centers = (540.0, 638.999, 639.001, 639.499, 640.001, 740.0)
    at = [published.published_frame(replace(CAMERA, cx=c, cy=c - 280)).matrix[:2, 2] for c in centers]
    off = [-100, -1, -1, 0, 0, 100]  # from W/2 and H/2, which lie at 112
    for place, pixels in zip(at, off, strict=True):
        assert place == pytest.approx(112 + pixels * scale, abs=1e-3)


def test_published_box_is_truncated_and_shifted_by_one():
    # (700 − 640) · 0.175 + 112 = 122.5 → 122 → 123; likewise 107, 163 and, 41 pixels below 107, 148
    assert placed(BOXES[0], factor=1.0) == CropPlace((143.0, 127.0), 41.0, (123, 107, 163, 147))


def recorded_places():
    """What the published demo made of boxes everywhere, half of them of whole pixels: near borders, over them, tiny,
    larger than the picture; several sizes of picture, among them such of which it shows a pixel less."""
    for width, height, x0, y0, x1, y1, factor, *place in EXPECTED["places"].tolist():
        yield (x0, y0, x1, y1), Camera.pinhole(int(width), int(height), 500), factor, place


def test_recorded_places():
    for box, camera, factor, expected in recorded_places():
        place = placed(box, camera, factor)
        assert [*place.center, place.extent, *place.box] == expected


def test_boxes_are_of_float32_as_published():
    """A corner that float64 puts just before a whole pixel lies on it."""
    camera = Camera.pinhole(224, 224, 200)
    assert placed((50 - 1e-9, 60, 90, 100), camera, 1.75) == placed((50, 60, 90, 100), camera, 1.75)


def test_the_far_corner_is_the_near_one_and_the_size_in_float32_as_published():
    """Which may be a hair less than the corner, and then it is truncated to the pixel before."""
    camera = Camera.pinhole(448, 448, 500)
    assert placed((216, 15, 454, 63), camera, 1.75) == CropPlace((166.0, 20.0), 199.5, (67, 0, 223, 119))
    assert placed((-12.5, -0.7, 15.2, 63.7), camera, 1.75) == CropPlace((4.0, 16.0), 54.25, (0, 0, 31, 43))


@pytest.mark.filterwarnings("error")
def test_boxes_beyond_float32_are_as_large_as_the_frame():
    camera = Camera.pinhole(224, 224, 200)
    assert placed((-1e300, 60, 1e39, 100), camera, 1.75) == placed((-1e6, 60, 1e6, 100), camera, 1.75)


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ((10, 10, 10, 50), "empty"),
        ((50, 10, 10, 50), "empty"),
        ((10, 50, 50, 50), "empty"),
        ((-90, 10, -20, 60), "outside"),
        ((100, 730, 200, 800), "outside"),
        ((-90, 10, 0, 60), "outside"),
        ((10, -90, 60, 0), "outside"),
        ((1280, 10, 1300, 60), "outside"),
        ((10, 720, 60, 800), "outside"),
        ((float("nan"), 0, 10, 10), "NaN"),
        ((0, 0, float("inf"), 10), "NaN or infinity"),
        ((100, 100, 101, 101), "less than a pixel"),
    ],
)
def test_unusable_boxes_have_a_reason(box, word):
    assert word in CropMaker(Variant(), 1.75).place(CAMERA, box)


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ((100, 100, 105.6, 104), "less than a pixel"),
        ((100, 100, 104, 105.8), None),
        ((-90, 10, 0.5, 60), None),
        ((10, -90, 60, 0.5), None),
        ((1279.5, 719.5, 1300, 800), None),
        ((-1e9, 100, 1e9, 200), "20 times"),
        ((-1e308, -1e308, 1e308, 1e308), "20 times"),
        ((-12700, 100, 12700, 200), None),
    ],
)
def test_boxes_of_impossible_sizes_make_no_sharp_crops(box, word):
    place = CropMaker(Variant(crops=Crops.SHARP), 1.75).place(CAMERA, box)
    assert isinstance(place, CropPlace) if word is None else word in place


def test_published_pictures_are_those_recorded():
    shrunk = published.shrink(picture())
    assert_recorded(shrunk, EXPECTED["shrunk"].astype(np.float32) / 255)
    assert_recorded(published.cut_crop(shrunk, placed(BOXES[0])), EXPECTED["crop"])


def assert_recorded(found, expected):
    """What was recorded, every 16th pixel, with OpenCV 5; before that, a few grey levels fell to the other side."""
    found = found[::16, ::16]
    if int(cv2.__version__.split(".")[0]) >= 5:
        np.testing.assert_array_equal(found, expected)
    assert np.abs(found - expected).mean() < 5e-4


@pytest.mark.parametrize("exact", [True, False])
def test_inputs_are_those_recorded_whatever_opencv_is_there(exact, monkeypatch):
    if not exact:  # as with OpenCV 4, which cuts otherwise
        monkeypatch.setattr(crops_module, "_OPENCV_IS_EXACT", False)
        monkeypatch.setattr(published, "_cut", None)
    inputs = CropMaker(Variant(), 1.75).prepare(picture(), CAMERA, [placed(BOXES[0])], [True]).inputs
    mean, std = (v.numpy()[:, None, None] for v in picture_mean_std())
    pictures = (inputs.frame[0].numpy(), inputs.crops[0].numpy())
    shrunk, crop = ((v * std + mean)[:, ::16, ::16].transpose(1, 2, 0) for v in pictures)
    levels = np.abs(shrunk * 255 - EXPECTED["shrunk"].astype(float))
    assert (levels > 0.5).mean() <= 0.005 and levels.max() < 1.01  # ties
    assert np.abs(crop - EXPECTED["crop"].clip(0, 1)).mean() < 1e-5


def test_some_pictures_lose_a_pixel_as_published():
    assert [published.frame_edge(width, 100) for width in (456, 457, 1920, 1408, 640)] == [455, 457, 1920, 1408, 640]
    assert_recorded(published.shrink(picture(456, 256)), EXPECTED["shrunk_456"].astype(np.float32) / 255)


def test_torch_blurs_to_the_same_grey_levels_as_opencv():
    for width, height in ((64, 48), (33, 21), (5, 4), (3, 2), (2, 9), (1, 1)):
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
        expected = cv2.GaussianBlur(image, (published.BLUR_KERNEL, published.BLUR_KERNEL), published.BLUR_SIGMA)
        blurred = resample.blur(torch.from_numpy(image).permute(2, 0, 1).float())
        np.testing.assert_array_equal(blurred.permute(1, 2, 0).numpy(), expected)


def test_published_frame_is_padded_with_black():
    shrunk = published.shrink(np.full((720, 1280, 3), 200, np.uint8))
    assert shrunk.dtype == np.float32 and shrunk.shape == (224, 224, 3)
    assert not shrunk[:48].any() and not shrunk[176:].any()
    np.testing.assert_allclose(shrunk[52:170, 2:222], 200 / 255)


@pytest.mark.parametrize("size", [(1280, 720), (500, 700), (456, 256), (224, 224), (90, 60)])
def test_torch_cuts_as_opencv_does(size):
    width, height = size
    image, camera = picture(*size), Camera.pinhole(width, height, 500)
    maker = CropMaker(Variant(), 1.75)
    places = [maker.place(camera, (width * 0.5, height * 0.3, width * 1.1, height * 0.8))]
    on_cpu = maker.prepare(image, camera, places, [True]).inputs
    planes = torch.from_numpy(image).permute(2, 0, 1).float()
    pictures = maker._published(planes, maker.frame(camera), places)
    pictures = (pictures.clamp(0, 1) - maker._mean) / maker._std
    # but for ties, which fall to the next grey level (1/57 of a standard deviation) in a few pixels
    assert ((pictures[0] - on_cpu.frame[0]).abs() > 1e-4).float().mean() < 2e-4
    assert (pictures[0] - on_cpu.frame[0]).abs().max() < 0.02
    assert (pictures[1] - on_cpu.crops[0]).abs().mean() < 1e-4


def test_inputs_are_normalised_and_batched():
    maker = CropMaker(Variant(), 1.75)
    places = [maker.place(CAMERA, box) for box in BOXES]
    prepared = maker.prepare(picture(), CAMERA, places, [True, False])
    inputs = prepared.inputs
    assert inputs.frame.shape == (1, 3, 224, 224) and inputs.crops.shape == (2, 3, 224, 224)
    assert inputs.encoding.shape == (2, 80) and inputs.right.tolist() == [True, False]
    black = (0 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(inputs.frame[0, :, 0, 0], black, rtol=1e-6)
    assert prepared.turns is None


# --- sharp crops ------------------------------------------------------------------------------------------------------


def test_sharp_places_are_exact():
    frame = square_frame(CAMERA)
    place = place_crop(frame, (600, 300, 700, 360), 1.5)
    assert place.center == pytest.approx(((650 - 639.5) * 0.175 + 111.5, (330 - 359.5) * 0.175 + 111.5))
    assert place.extent == pytest.approx(150 * 0.175)
    center, edge = frame.in_picture(place)
    assert (*center, edge) == pytest.approx((650, 330, 150))
    assert (frame.matrix[0, 2], frame.matrix[1, 2]) == pytest.approx((111.5, 111.5))


def test_sharp_cut_of_a_ramp_is_the_ramp():
    x = torch.arange(400.0).expand(3, 300, 400)
    cut = resample.cut_sharp(x, (200.0, 150.0), 120.0)
    expected = 200 + (torch.arange(224) - 111.5) * 120 / 224
    torch.testing.assert_close(cut[0, 100], expected, atol=1e-2, rtol=0)


def test_sharp_cut_averages_away_what_it_cannot_show():
    stripes = (torch.arange(1200) % 2 * 200.0).expand(3, 1200, 1200)  # finer than the crop's pixels
    cut = resample.cut_sharp(stripes, (600.0, 600.0), 1120.0)
    torch.testing.assert_close(cut, torch.full_like(cut, 100.0), atol=3, rtol=0)
    aliased = cv2.warpAffine(
        stripes[0].numpy(), published.crop_affine((600.0, 600.0), 1120.0), (224, 224), flags=cv2.INTER_CUBIC
    )
    assert aliased.std() > 20 or abs(aliased.mean() - 100) > 20


def test_sharp_cut_is_black_outside():
    cut = resample.cut_sharp(torch.full((3, 100, 100), 255.0), (0.0, 50.0), 100.0)
    assert not cut[:, :, :110].any()
    torch.testing.assert_close(cut[:, 4:-4, 114:], torch.full((3, 216, 110), 255.0))
    assert not resample.cut_sharp(torch.full((3, 100, 100), 255.0), (900.0, 50.0), 100.0).any()


@pytest.mark.parametrize(
    ("center", "extent"), [((300.0, 200.0), 150.5), ((20.0, 390.0), 700.0), ((-500.0, 90.0), 80.0)]
)
def test_a_gpu_cuts_as_the_processor_does(center, extent):
    image = picture(640, 400)
    planes = torch.from_numpy(image).permute(2, 0, 1)
    dense = resample._cut(planes, resample._sharp_axes(center, extent, (640, 400)))  # a GPU's way, wherever it runs
    on_host = resample.cut_sharp_host(image, center, extent)
    torch.testing.assert_close(dense.permute(1, 2, 0), torch.from_numpy(on_host), atol=1e-3, rtol=0)
    assert on_host.any() == (center[0] > 0)


def test_a_crop_straight_ahead_needs_no_perspective():
    camera = Camera.pinhole(448, 448, 400)
    image = cv2.GaussianBlur(picture(448, 448), (0, 0), 4)
    box = (163.5, 163.5, 283.5, 283.5)
    cuts = []
    for perspective in (Perspective.NONE, Perspective.CROP):
        maker = CropMaker(Variant(crops=Crops.SHARP, perspective=perspective, encoding=Encoding.NONE), 1.5)
        prepared = maker.prepare(image, camera, [maker.place(camera, box)], [True])
        cuts.append(prepared.inputs.crops)
    assert (cuts[0] - cuts[1]).abs().mean() < 0.02
    torch.testing.assert_close(prepared.turns, torch.eye(3)[None], atol=1e-6, rtol=0)


def test_perspective_crops_are_cut_from_sharp_pictures_only():
    with pytest.raises(Exception, match="sharp"):
        Variant(perspective=Perspective.CROP)


# --- rectified views --------------------------------------------------------------------------------------------------

BARREL = Camera(640, 480, 300, 300, 322, 236, Distortion.PLUMB_BOB, (-0.25, 0.06, 0.001, -0.002, 0.0))
FISHEYE = Camera(640, 480, 220, 220, 320, 240, Distortion.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0))


@pytest.mark.parametrize("camera", [BARREL, FISHEYE])
def test_a_rectified_view_shows_directions_where_its_pinhole_has_them(camera):
    view = RectifiedView.of(camera)
    image = np.zeros((480, 640, 3), np.uint8)
    direction = np.array([0.2, -0.15, 0.6])
    u, v = camera.project(direction)
    cv2.circle(image, (round(u), round(v)), 4, (255, 255, 255), -1)
    rows, columns = np.nonzero(view.image(image)[..., 0] > 127)
    found = view.camera.unproject([columns.mean(), rows.mean()])
    true = camera.unproject([round(u), round(v)])
    assert np.degrees(np.arccos(found @ true)) < 0.2


def test_a_rectified_view_keeps_the_whole_field_of_a_mild_lens():
    wide = BARREL.angles([[0, 236], [639, 236]])
    pinhole = rectified_camera(BARREL)
    assert pinhole.fx == pinhole.fy and not pinhole.has_distortion
    reach = np.arctan2(pinhole.width / 2, pinhole.fx)
    assert np.abs(wide[:, 0]).max() <= reach + 0.01 <= np.abs(wide[:, 0]).max() + 0.1


def test_a_rectified_view_of_a_fisheye_ends_at_the_widest_angle():
    pinhole = rectified_camera(FISHEYE)
    reaches = [np.arctan2((size - 1) / 2, pinhole.fx) for size in (pinhole.width, pinhole.height)]
    assert min(reaches) == pytest.approx(WIDEST_HALF_ANGLE, abs=1e-6)


@pytest.mark.parametrize(
    "camera",
    [
        BARREL, FISHEYE,
        # its corners have no rays
        Camera(1280, 720, 700, 700, 639.5, 359.5, Distortion.PLUMB_BOB, (-0.15, 0.0, 0.0, 0.0, 0.0)),
        Camera(480, 480, 247.5, 330, 239.5, 239.5),
    ],
    ids=["barrel", "fisheye", "folded", "not square"],
)  # fmt: skip
def test_a_rectified_view_is_no_wider_than_what_it_shows(camera):
    """All up to the widest angle is in it, and reaches its edges."""
    pinhole = rectified_camera(camera)
    x, y = np.meshgrid(np.linspace(0, camera.width - 1, 65), np.linspace(0, camera.height - 1, 65))
    rays = camera.unproject(np.stack([x, y], axis=-1).reshape(-1, 2))
    angles = np.abs(np.arctan2(rays[:, :2], rays[:, 2:]))
    shown = pinhole.project(rays[np.isfinite(rays).all(axis=1) & (angles <= WIDEST_HALF_ANGLE).all(axis=1)])
    half = np.array([pinhole.width - 1, pinhole.height - 1]) / 2
    reached = (np.abs(shown - half) / half).max(axis=0)
    assert (reached < 1.01).all() and reached.max() > 0.95


@pytest.mark.parametrize("size", [(1, 1), (1, 480), (640, 1)])
@pytest.mark.parametrize("camera", [BARREL, FISHEYE])
def test_a_rectified_view_of_a_picture_one_pixel_wide_or_high(camera, size):
    width, height = size
    view = RectifiedView.of(replace(camera, width=width, height=height, cx=(width - 1) / 2, cy=(height - 1) / 2))
    assert view.image(np.zeros((height, width, 3), np.uint8)).shape == (height, width, 3)
    assert np.isfinite(view.camera.fx) and view.camera.fx > 0


def test_pictures_too_large_to_be_undistorted_are_refused_with_the_limit():
    largest = RectifiedView.of(replace(BARREL, width=32766, height=2))
    assert largest.image(np.zeros((2, 32766, 3), np.uint8)).shape == (2, 32766, 3)
    for size in ({"width": 32767, "height": 2}, {"width": 2, "height": 32767}):
        with pytest.raises(CameraError, match="up to 32766 pixels"):
            RectifiedView.of(replace(BARREL, **size))


@pytest.mark.parametrize("camera", [BARREL, FISHEYE])
def test_boxes_follow_into_the_view(camera):
    view = RectifiedView.of(camera)
    inside = np.array([[x, y, 0.5] for x in (-0.12, 0.05) for y in (-0.05, 0.1)])
    pixels = camera.project(inside)
    x0, y0, x1, y1 = view.box((*pixels.min(axis=0), *pixels.max(axis=0)))
    seen = view.camera.project(inside)
    assert x0 - 0.5 <= seen[:, 0].min() and seen[:, 0].max() <= x1 + 0.5
    assert y0 - 0.5 <= seen[:, 1].min() and seen[:, 1].max() <= y1 + 0.5
    assert (x1 - x0) < 1.4 * np.ptp(seen[:, 0])


def test_boxes_much_larger_than_the_picture_are_all_of_the_view():
    wide = Camera(640, 480, 220, 220, 320, 240, Distortion.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0))
    view = RectifiedView.of(wide)
    for huge in ((-2000.0, -2000.0, 3000.0, 3000.0), (-1e308, -1e308, 1e308, 1e308)):
        assert view.box(huge) == view.box((-0.5, -0.5, 639.5, 479.5))


def test_boxes_beyond_the_view_are_not_seen():
    wide = Camera(900, 900, 200, 200, 449.5, 449.5, Distortion.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0))
    view = RectifiedView.of(wide)
    assert view.box((0, 440, 40, 480)) is None  # about 120° off the axis
    assert view.box((430, 430, 470, 470)) is not None
