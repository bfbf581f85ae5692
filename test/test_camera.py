"""Camera models: inverses, known answers, an independent implementation, and bad calibrations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.errors import CameraError
from wildhands_ros.lenses import PolynomialLens

CAMERAS = {
    "pinhole": Camera(1280, 720, 600.0, 620.0, 611.0, 380.0),
    "plumb_bob": Camera(1280, 720, 620, 615, 640, 355, Distortion.PLUMB_BOB, (-0.28, 0.07, 5e-4, -3e-4, 0.0)),
    "plumb_bob_4": Camera(640, 480, 500, 505, 320, 245, Distortion.PLUMB_BOB, (-0.2, 0.05, 1e-3, 1e-3)),
    "rational": Camera(
        1920, 1080, 1000, 1002, 960, 540, Distortion.RATIONAL_POLYNOMIAL,
        (12.3, 8.1, 2e-4, -1e-4, 0.5, 12.6, 12.5, 2.3),
    ),
    "thin_prism": Camera(
        1280, 960, 700, 700, 640, 480, Distortion.RATIONAL_POLYNOMIAL,
        (0.1, -0.05, 1e-3, 2e-3, 0.01, 0.05, -0.02, 0.01, 1e-3, -2e-3, 5e-4, 1e-3),
    ),
    "fisheye_wide": Camera(1280, 720, 380, 381, 640, 355, Distortion.EQUIDISTANT, (-0.01, 0.02, -0.01, 0.001)),
    "fisheye_ideal": Camera(1000, 1000, 300, 300, 500, 500, Distortion.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0)),
}  # fmt: skip
RNG = np.random.default_rng(4)


def pixel_grid(camera: Camera, step: int = 13) -> np.ndarray:
    v, u = np.mgrid[0 : camera.height : step, 0 : camera.width : step].astype(float)
    corners = [[0, 0], [camera.width - 1, 0], [0, camera.height - 1], [camera.width - 1, camera.height - 1]]
    return np.concatenate([np.stack([u, v], axis=-1).reshape(-1, 2), corners])


@pytest.mark.parametrize("name", CAMERAS)
def test_unproject_is_the_inverse_of_project_over_the_whole_image(name: str) -> None:
    camera = CAMERAS[name]
    pixels = pixel_grid(camera)
    rays = camera.unproject(pixels)
    assert np.allclose(np.linalg.norm(rays, axis=-1), 1)
    assert np.abs(camera.project(0.7 * rays) - pixels).max() < 1e-6
    assert np.abs(camera.unproject(camera.project(3 * rays)) - rays).max() < 1e-9


@pytest.mark.parametrize("name", CAMERAS)
def test_angles_are_those_of_the_rays_from_the_axis(name: str) -> None:
    camera = CAMERAS[name]
    rays, angles = camera.unproject(pixel_grid(camera)), camera.angles(pixel_grid(camera))
    assert np.abs(rays[:, :2] * np.cos(angles) - rays[:, 2:] * np.sin(angles)).max() < 1e-12
    assert (np.sign(np.cos(angles)) == np.sign(rays[:, 2:])).all()  # also past a fisheye's 90°


@pytest.mark.parametrize("name", CAMERAS)
def test_a_calibration_that_was_written_is_read_again(name: str, tmp_path: Path) -> None:
    camera, path = CAMERAS[name], tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(camera.to_calibration("head")))
    assert Camera.from_yaml(path) == camera
    assert Camera.from_yaml(path, rectified=True) == camera.undistorted()


@pytest.mark.parametrize("name", CAMERAS)
def test_project_agrees_with_opencv(name: str) -> None:
    camera = CAMERAS[name]
    rays = camera.unproject(pixel_grid(camera))
    points = 2 * rays[rays[:, 2] > 0.01]
    if camera.model is Distortion.EQUIDISTANT:
        expected = cv2.fisheye.projectPoints(
            points[None], np.zeros(3), np.zeros(3), camera.matrix, np.array(camera.coefficients)
        )[0][0]
    else:
        expected = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.matrix, np.array(camera.coefficients))[0][
            :, 0
        ]
    assert np.abs(camera.project(points) - expected).max() < 1e-6


def test_pinhole_angles_are_those_of_the_formula() -> None:
    camera = CAMERAS["pinhole"]
    pixels = pixel_grid(camera)
    expected = np.arctan2(pixels - [camera.cx, camera.cy], [camera.fx, camera.fy])
    assert np.allclose(camera.angles(pixels), expected, atol=1e-12)


def test_a_plain_pinhole_has_square_pixels_and_its_principal_point_in_the_middle() -> None:
    camera = Camera.pinhole(641, 480, 500)
    assert camera.matrix.tolist() == [[500, 0, 320], [0, 500, 239.5], [0, 0, 1]]
    assert CAMERAS["pinhole"].matrix.tolist() == [[600, 0, 611], [0, 620, 380], [0, 0, 1]]
    assert Camera.guess(480, 641) == Camera.pinhole(480, 641, 0.535 * 641)


@pytest.mark.parametrize("name", CAMERAS)
def test_the_principal_point_looks_straight_ahead(name: str) -> None:
    camera = CAMERAS[name]
    assert camera.unproject([camera.cx, camera.cy]).tolist() == [0, 0, 1]
    assert camera.project([0, 0, 2]).tolist() == [camera.cx, camera.cy]
    assert camera.angles([camera.cx, camera.cy]).tolist() == [0, 0]


@pytest.mark.parametrize("name", ["plumb_bob", "plumb_bob_4", "rational", "thin_prism"])
def test_the_slopes_by_which_a_lens_is_inverted_are_its_own(name: str) -> None:
    """A wrong one would be seen in no result, only in how many steps it takes, until they are too few."""
    lens, step = PolynomialLens(CAMERAS[name].coefficients), 1e-6
    x, y = RNG.uniform(-0.6, 0.6, (2, 20))
    *_, (xx, xy, yx, yy) = lens.distort(x, y)
    right, left = lens.distort(x + step, y), lens.distort(x - step, y)
    below, above = lens.distort(x, y + step), lens.distort(x, y - step)
    for i, (by_x, by_y) in enumerate(((xx, xy), (yx, yy))):
        assert np.allclose(by_x, (right[i] - left[i]) / (2 * step), atol=1e-8)
        assert np.allclose(by_y, (below[i] - above[i]) / (2 * step), atol=1e-8)


def test_an_ideal_fisheye_grows_by_the_angle_also_behind_its_side() -> None:
    camera = CAMERAS["fisheye_ideal"]
    theta = np.deg2rad([0, 30, 90, 120])
    points = np.stack([np.sin(theta), np.zeros(4), np.cos(theta)], axis=-1)
    assert np.allclose(camera.project(points)[:, 0], 500 + 300 * theta)


@pytest.mark.parametrize("name", CAMERAS)
def test_a_mirrored_camera_sees_the_mirrored_world(name: str) -> None:
    camera = CAMERAS[name]
    pixels = pixel_grid(camera)
    mirrored = camera.mirrored().project(camera.unproject(pixels) * [-1, 1, 1])
    assert np.allclose(mirrored, np.stack([camera.width - 1 - pixels[:, 0], pixels[:, 1]], axis=-1), atol=1e-6)


@pytest.mark.parametrize("name", CAMERAS)
def test_a_turned_camera_sees_the_turned_world(name: str) -> None:
    camera = CAMERAS[name]
    pixels = pixel_grid(camera)
    turned = camera.turned()
    assert (turned.width, turned.height) == (camera.height, camera.width)
    seen = turned.project(camera.unproject(pixels)[:, [1, 0, 2]] * [-1, 1, 1])
    assert np.allclose(seen, np.stack([camera.height - 1 - pixels[:, 1], pixels[:, 0]], axis=-1), atol=1e-6)
    again = turned.turned().turned().turned()
    assert again.model is camera.model and again.coefficients == camera.coefficients
    assert np.allclose(again.matrix, camera.matrix)


@pytest.mark.parametrize("name", CAMERAS)
def test_a_pixel_looks_the_same_way_alone_and_beside_others(name: str) -> None:
    camera = CAMERAS[name]
    pixels = pixel_grid(camera, 97)
    rays = camera.unproject(pixels)
    assert np.abs([camera.unproject(pixel) for pixel in pixels] - rays).max() < 1e-12
    unseen = [[np.nan, 5.0], [5.0, np.nan], [np.nan, np.nan], [1e7, -1e7]]
    beside = camera.unproject(np.concatenate([unseen, pixels])[::-1])[::-1]
    assert np.abs(beside[len(unseen) :] - rays).max() < 1e-12
    assert np.isnan(beside[:3]).all()


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_points_do_not_matter(name: str, unit: float) -> None:
    camera = CAMERAS[name]
    pixels = pixel_grid(camera, 97)
    assert np.abs(camera.project(unit * camera.unproject(pixels)) - pixels).max() < 1e-6


@pytest.mark.parametrize("name", CAMERAS)
def test_turning_and_mirroring_go_together_as_pictures_do(name: str) -> None:
    camera = CAMERAS[name]
    assert camera.mirrored().mirrored() == camera
    one, other = camera.turned().mirrored(), camera.mirrored().turned().turned().turned()
    assert np.allclose(one.matrix, other.matrix) and replace(one, cx=0, cy=0) == replace(other, cx=0, cy=0)


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("size", [(1, 1), (31, 977), (20_000, 30)])
def test_a_resized_picture_of_any_size_and_shape_is_seen_the_same_way(name: str, size: tuple[int, int]) -> None:
    camera = CAMERAS[name]
    pixels = pixel_grid(camera, 97)
    places = (pixels + 0.5) * np.array(size) / [camera.width, camera.height] - 0.5
    assert np.abs(camera.resized(*size).unproject(places) - camera.unproject(pixels)).max() < 1e-9


def test_what_the_camera_cannot_see_is_nan() -> None:
    pinhole = CAMERAS["pinhole"]
    barrel = Camera(1280, 720, 620, 615, 640, 355, Distortion.PLUMB_BOB, (-0.3, 0.0, 0.0, 0.0))
    assert np.isnan(pinhole.project([[0, 0, -1], [0, 0, 0]])).all()
    assert np.isnan(barrel.project([5.0, 0, 1])).all()  # far outside: the polynomial has turned back
    assert np.isnan(CAMERAS["fisheye_wide"].unproject([1e5, 0])).all()


@pytest.mark.parametrize(
    ("coefficients", "end"),
    [
        ((-0.3, 0.0, 0.0, 0.0), 0.9**-0.5),  # the slope of r − 0.3 r³ is 1 − 0.9 r²
        ((0.0, 0.0, 0.0, 0.0, -0.2), 1.4 ** (-1 / 6)),  # and of r − 0.2 r⁷ 1 − 1.4 r⁶
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0), 2**0.5),  # r / (1 + r²/2) turns back
        ((0.0, 0.0, 0.0, 0.0, 0.0, -0.5, 0.0, 0.0), 2**0.5),  # r / (1 − r²/2) is infinite there
    ],
)  # fmt: skip
def test_a_lens_ends_where_its_polynomial_turns_back_or_has_a_pole(coefficients: tuple, end: float) -> None:
    model = Distortion.PLUMB_BOB if len(coefficients) < 8 else Distortion.RATIONAL_POLYNOMIAL
    camera = Camera(1280, 720, 400, 410, 640, 355, model, coefficients)
    angle = np.linspace(0, 6, 15)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    within, beyond = (np.concatenate([r * end * around, np.ones((15, 1))], axis=1) for r in (0.99, 1.01))
    rays = within / np.linalg.norm(within, axis=1, keepdims=True)
    assert np.allclose(camera.unproject(camera.project(within)), rays, atol=1e-6)
    assert np.isnan(camera.project(beyond)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("coefficients", [(0.03, -0.02, 0.0, 0.0, 0.01), (0.1, 0.05, 1e-3, -1e-3, 0.02)])
def test_what_a_lens_throws_far_out_is_looked_back_at(coefficients: tuple) -> None:
    """Up to pixels so far out that their own rounding is larger than that of the middle ones."""
    camera = Camera(1280, 720, 400, 410, 640, 355, Distortion.PLUMB_BOB, coefficients)
    angle = np.radians(np.linspace(0, 89.9, 300))
    rays = np.stack([np.sin(angle) * 0.8, np.sin(angle) * 0.6, np.cos(angle)], axis=-1)
    pixels = camera.project(rays)
    assert np.isfinite(pixels).all() and pixels.max() > 1e15
    assert np.abs(camera.unproject(pixels) - rays).max() < 1e-9
    assert np.isnan(camera.unproject([1e200, 0])).all()


def test_a_fisheye_ends_where_its_polynomial_turns_back() -> None:
    camera = Camera(1280, 720, 300, 310, 640, 355, Distortion.EQUIDISTANT, (-0.1, 0.0, 0.0, 0.0))
    theta = np.array([1.2, 1.8, 1.85, 2.5])  # radius θ − 0.1 θ³ grows up to θ = 1.826
    points = np.stack([np.zeros(4), np.sin(theta), np.cos(theta)], axis=-1)
    expected = 355 + 310 * (theta - 0.1 * theta**3)
    assert np.allclose(camera.project(points)[:2, 1], expected[:2]) and np.isnan(camera.project(points)[2:]).all()
    assert np.allclose(camera.unproject([[640, v] for v in expected[:2]]), points[:2])
    assert np.isnan(camera.unproject([640, 355 + 310 * 1.22])).any()  # its radius is never more than 1.217


@given(
    st.floats(-0.3, 0.3), st.floats(-0.1, 0.1), st.floats(-2e-3, 2e-3), st.floats(-2e-3, 2e-3),
    st.floats(400, 2000), st.floats(400, 2000),
)  # fmt: skip
def test_any_plumb_bob_inverts_or_says_nan(k1: float, k2: float, p1: float, p2: float, fx: float, fy: float) -> None:
    camera = Camera(1280, 720, fx, fy, 600, 370, Distortion.PLUMB_BOB, (k1, k2, p1, p2, 0.0))
    pixels = pixel_grid(camera, 97)
    back = camera.project(camera.unproject(pixels))
    seen = np.isfinite(back).all(axis=-1)
    assert np.abs(back[seen] - pixels[seen]).max(initial=0) < 1e-6
    assert seen[np.hypot(*(pixels - [600, 370]).T).argmin()]  # the middle is always seen


def test_resizing_and_cropping_follow_the_pixels() -> None:
    camera = CAMERAS["plumb_bob"]
    points = camera.unproject(pixel_grid(camera, 97))
    original = camera.project(points)
    assert np.allclose(camera.resized(640, 360).project(points), (original + 0.5) / 2 - 0.5)
    assert np.allclose(camera.cropped(100, 50, 320, 240).project(points), original - [100, 50])


def test_rectification_maps_sample_where_the_target_looks() -> None:
    camera = CAMERAS["fisheye_wide"]
    target = Camera.pinhole(320, 240, 200)
    map_x, map_y = camera.rectification_maps(target)
    expected = camera.project(target.unproject([[17, 33], [160, 120]]))
    assert np.allclose([[map_x[33, 17], map_y[33, 17]], [map_x[120, 160], map_y[120, 160]]], expected, atol=1e-3)


def test_rectification_maps_point_out_of_the_picture_where_the_camera_sees_nothing() -> None:
    camera = Camera(640, 480, 400, 410, 300, 250, Distortion.PLUMB_BOB, (-0.4, 0.0, 0.0, 0.0))
    target = Camera.pinhole(320, 240, 60)
    v, u = np.mgrid[0:240, 0:320].astype(float)
    seen = np.isfinite(camera.project(target.unproject(np.stack([u, v], axis=-1)))).all(axis=-1)
    map_x, map_y = camera.rectification_maps(target)
    assert 0 < seen.sum() < seen.size
    assert (map_x[~seen] == -1).all() and (map_y[~seen] == -1).all()
    assert map_x[120, 160] == pytest.approx(300 + 400 * 0.5 / 60, abs=0.1)


def test_numbers_of_numpy_and_opencv_become_plain_ones() -> None:
    """Else JSON and YAML could not be written of them; OpenCV tells the size of a video's pictures in floats."""
    camera = Camera(np.int64(640), 480.0, np.float32(400.5), np.int32(401), np.float64(320), 240)  # type: ignore[arg-type]
    assert camera == Camera(640, 480, 400.5, 401, 320, 240)
    assert [type(v) for v in (camera.width, camera.height)] == [int, int]
    assert [type(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy)] == [float] * 4
    assert yaml.safe_load(yaml.safe_dump(camera.to_calibration("head")))["image_width"] == 640


@pytest.mark.parametrize("size", [640.5, 0, -1, float("nan"), float("inf")])
def test_sizes_that_no_picture_has_are_refused(size: float) -> None:
    with pytest.raises(CameraError, match="positive whole numbers"):
        Camera(640, size, 400, 400, 320, 240)  # type: ignore[arg-type]


def test_dictionary_round_trip() -> None:
    for camera in CAMERAS.values():
        assert Camera.from_dict(camera.to_dict(), camera.width, camera.height) == camera


# --- from a CameraInfo ------------------------------------------------------------------------------------------------


def camera_info(**changes: object) -> SimpleNamespace:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    info = SimpleNamespace(
        width=1280, height=720, distortion_model="plumb_bob", d=[-0.2, 0.05, 0.0, 0.0, 0.0],
        k=[600.0, 0, 640, 0, 610.0, 360, 0, 0, 1], r=[1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        p=[550.0, 0, 650, 0, 0, 560.0, 370, 0, 0, 0, 1, 0], binning_x=0, binning_y=0, roi=roi,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def region(x: int, y: int, width: int, height: int, do_rectify: bool = False) -> SimpleNamespace:
    return SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height, do_rectify=do_rectify)


def test_camera_info_raw_uses_k_and_d_and_rectified_uses_p() -> None:
    raw = Camera.from_camera_info(camera_info())
    assert raw == Camera(1280, 720, 600, 610, 640, 360, Distortion.PLUMB_BOB, (-0.2, 0.05, 0.0, 0.0, 0.0))
    rectified = Camera.from_camera_info(camera_info(), rectified=True)
    assert (rectified.fx, rectified.fy, rectified.cx, rectified.cy) == (550, 560, 650, 370)
    assert rectified.model is Distortion.NONE


def test_a_window_of_raw_pictures_is_raw_though_its_rectified_one_is_another() -> None:
    """As sensor_msgs/RegionOfInterest has it: do_rectify is typically true where a subwindow is captured."""
    info = camera_info(roi=region(100, 60, 800, 600, do_rectify=True))
    assert Camera.from_camera_info(info) == Camera.from_camera_info(camera_info()).cropped(100, 60, 800, 600)


def test_rectified_pictures_without_p_need_an_undistorted_camera() -> None:
    empty = {"p": [0.0] * 12}
    plain = Camera.from_camera_info(camera_info(**empty, d=[0.0] * 5), rectified=True)
    assert (plain.fx, plain.cx, plain.has_distortion) == (600, 640, False)
    for changes in (
        {"distortion_model": "equidistant", "d": []},
        {"distortion_model": "equidistant", "d": [0.0] * 4},
        {},
    ):
        with pytest.raises(CameraError, match="no P"):  # an ideal fisheye is not what its rectified pictures show
            Camera.from_camera_info(camera_info(**empty, **changes), rectified=True)


def test_camera_info_roi_then_binning() -> None:
    camera = Camera.from_camera_info(camera_info(roi=region(100, 60, 800, 600), binning_x=2, binning_y=4))
    assert (camera.width, camera.height) == (400, 150)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (300, 152.5, 270, 75)
    corner = Camera.from_camera_info(camera_info(roi=region(480, 120, 800, 600)))  # up to the picture's edges
    assert (corner.width, corner.height, corner.cx, corner.cy) == (800, 600, 160, 240)
    assert Camera.from_camera_info(camera_info(roi=region(0, 0, 1280, 720))) == Camera.from_camera_info(camera_info())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": [0.0] * 9}, "uncalibrated"),
        ({"k": [float("nan")] * 9}, "NaN"),
        ({"distortion_model": "magic"}, "magic"),
        ({"d": [0.1, 0.2]}, "coefficients"),
        ({"width": 0}, "has the size 0x720: the camera driver must set width and height"),
        ({"height": 0}, "has the size 1280x0: the camera driver must set width and height"),
        ({"width": 0, "height": 0, "d": [], "k": [0.0] * 9, "p": [0.0] * 12}, "uncalibrated"),  # as drivers send it
        ({"k": [600.0]}, "expected 9"),
        ({"roi": region(1000, 0, 800, 600)}, "does not lie"),
        ({"roi": region(0, 200, 800, 600)}, "does not lie"),
        ({"roi": region(0, 0, 800, 0)}, "does not lie"),
        ({"roi": region(0, 0, 0, 600)}, "does not lie"),
        ({"k": [600.0, 0, 640, 0, 0.05e-9, 360, 0, 0, 1]}, "that no camera has"),
    ],
)
def test_bad_camera_info_is_refused_by_name(changes: dict, message: str) -> None:
    with pytest.raises(CameraError, match=message):
        Camera.from_camera_info(camera_info(**changes))


@pytest.mark.parametrize(
    ("name", "d", "model", "coefficients"),
    [
        ("plumb_bob", [], Distortion.NONE, ()),
        ("equidistant", [], Distortion.EQUIDISTANT, (0, 0, 0, 0)),  # an ideal fisheye still is one
        ("equidistant", [1, 2, 3, 4, 0, 0], Distortion.EQUIDISTANT, (1, 2, 3, 4)),
        ("plumb_bob", range(1, 9), Distortion.RATIONAL_POLYNOMIAL, range(1, 9)),
        ("plumb_bob", range(1, 13), Distortion.RATIONAL_POLYNOMIAL, range(1, 13)),
        ("plumb_bob", [*range(1, 13), 0, 0], Distortion.RATIONAL_POLYNOMIAL, range(1, 13)),  # a sensor without tilt
        ("rational_polynomial", [1, 2, 3, 4], Distortion.PLUMB_BOB, (1, 2, 3, 4)),
        ("rational_polynomial", [1, 2, 3, 4, 5], Distortion.PLUMB_BOB, (1, 2, 3, 4, 5)),
    ],
)
def test_drivers_ways_of_giving_coefficients(name: str, d: list, model: Distortion, coefficients: tuple) -> None:
    camera = Camera.from_camera_info(camera_info(distortion_model=name, d=[float(v) for v in d]))
    assert (camera.model, camera.coefficients) == (model, tuple(coefficients))


@pytest.mark.parametrize(
    ("name", "d"),
    [("equidistant", [1, 2, 3, 4, 5]), ("equidistant", [1, 2, 3]), ("plumb_bob", [*range(1, 13), 0, 0.1]),
     ("rational_polynomial", [*range(1, 13), 0.1, 0]), ("rational_polynomial", range(6))],
)  # fmt: skip
def test_coefficients_of_another_lens_are_not_cut_to_ones_that_fit(name: str, d: list) -> None:
    with pytest.raises(CameraError, match="takes .* coefficients, not"):
        Camera.from_camera_info(camera_info(distortion_model=name, d=[float(v) for v in d]))


def test_calibration_yaml(tmp_path) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(
        "image_width: 640\nimage_height: 480\ncamera_name: head\n"
        "camera_matrix: {rows: 3, cols: 3, data: [400.5, 0, 320, 0, 401, 240, 0, 0, 1]}\n"
        "distortion_model: plumb_bob\n"
        "distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.01, 0, 0, 0]}\n"
    )
    wanted = Camera(640, 480, 400.5, 401, 320, 240, Distortion.PLUMB_BOB, (-0.1, 0.01, 0, 0, 0))
    assert Camera.from_yaml(path) == wanted


def test_a_calibration_of_rectified_pictures_is_its_projection_matrix(tmp_path) -> None:
    path = tmp_path / "camera.yaml"
    raw = (
        "image_width: 640\nimage_height: 480\n"
        "camera_matrix: {data: [400.5, 0, 320, 0, 401, 240, 0, 0, 1]}\n"
        "distortion_model: plumb_bob\ndistortion_coefficients: {data: [-0.1, 0.01, 0, 0, 0]}\n"
    )
    for lens in ("plumb_bob", "one_of_its_own"):
        whole = f"{raw}projection_matrix: {{data: [380, 0, 319, 0, 0, 381, 239, 0, 0, 0, 1, 0]}}\n"
        path.write_text(whole.replace("plumb_bob", lens))
        assert Camera.from_yaml(path, rectified=True) == Camera(640, 480, 380, 381, 319, 239)
    path.write_text(raw)
    assert Camera.from_yaml(path).fx == 400.5
    for missing in (
        "", "projection_matrix:\n", "projection_matrix: {data: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]}\n",
    ):  # fmt: skip
        path.write_text(raw + missing)
        with pytest.raises(CameraError, match=r"camera.yaml has no projection_matrix.*--focal"):
            Camera.from_yaml(path, rectified=True)
    path.write_text(raw.replace("-0.1, 0.01", "0, 0"))  # whose K says the same
    assert Camera.from_yaml(path, rectified=True).fx == 400.5
    path.write_text(raw.replace("-0.1, 0.01", "0, 0").replace("plumb_bob", "equidistant"))  # an ideal one, yet a lens
    with pytest.raises(CameraError, match=r"camera.yaml has no projection_matrix"):
        Camera.from_yaml(path, rectified=True)


NINE = "camera_matrix: {data: [400, 0, 320, 0, 400, 240, 0, 0, 1]}"


@pytest.mark.parametrize("name", ["", "distortion_model:\n", 'distortion_model: ""\n'])
def test_calibration_yaml_without_the_name_of_its_model_is_plumb_bob(tmp_path, name: str) -> None:
    """As an empty name in a camera_info: coefficients are never dropped."""
    path = tmp_path / "camera.yaml"
    path.write_text(
        f"image_width: 640\nimage_height: 480\n{NINE}\n{name}distortion_coefficients: {{data: [-0.1, 0, 0, 0]}}"
    )
    camera = Camera.from_yaml(path)
    assert (camera.model, camera.coefficients) == (Distortion.PLUMB_BOB, (-0.1, 0, 0, 0))


@pytest.mark.parametrize(
    "text",
    [
        "", "a: [", "image_width: 3", "image_width: x\nimage_height: 1\ncamera_matrix: {}", "[" * 100_000,
        f"image_width: .inf\nimage_height: 480\n{NINE}", f"image_width: true\nimage_height: 480\n{NINE}",
        f"image_width: 640.7\nimage_height: 480\n{NINE}",
        f"camera_name: 2023-45-67\nimage_width: 640\nimage_height: 480\n{NINE}",
        f"image_width: 640\nimage_height: 480\n{NINE}".replace("400", "yes"),
        "image_width: 640\nimage_height: 480\ncamera_matrix: {data: [400, 0, 0, 0, 400, 0, 320, 240, 1]}",
        f"image_width: 640\nimage_height: 480\n{NINE}".replace("0, 1]", "0, 2]"),
        f"image_width: 640\nimage_height: 480\n{NINE}".replace("400, 0,", "400, 3,"),
        f"image_width: 640\nimage_height: 480\n{NINE}".replace("400", "1" * 400),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_bad_calibration_yaml_says_what_is_needed(tmp_path, text: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(CameraError, match="camera.yaml"):
        Camera.from_yaml(path)
    with pytest.raises(CameraError, match="cannot read"):
        Camera.from_yaml(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("plumb_bob", "plump_bob"), "unknown distortion model 'plump_bob'"),
        (("data: [-0.1, 0, 0, 0]", "data: [-0.1]"), "takes 4 or 5 coefficients, not 1"),
        (("width: 640", "width: 0"), "camera size 0x480"),
        (("400", "0"), "uncalibrated"),
        (("-0.1", ".nan"), "NaN"),
    ],
)
def test_numbers_that_no_camera_has_are_told_with_the_name_of_their_file(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(
        f"image_width: 640\nimage_height: 480\n{NINE}\ndistortion_model: plumb_bob\n"
        "distortion_coefficients: {data: [-0.1, 0, 0, 0]}\n".replace(*change)
    )
    with pytest.raises(CameraError, match=f"camera.yaml: .*{said}"):
        Camera.from_yaml(path)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 9)), "image_width: *a8"]),
        "\n".join(["m0: &m0 {x: 1}", *(f"m{i}: &m{i}\n  <<: [*m{i - 1}, *m{i - 1}]" for i in range(1, 9))]),
        "image_width: &a [*a]",
    ],
    ids=["lists", "merged", "itself"],
)  # fmt: skip
def test_a_calibration_yaml_with_aliases_is_refused(tmp_path, text: str) -> None:
    """Thirty lines of them stand for more than any memory holds; here it is eight."""
    path = tmp_path / "camera.yaml"
    path.write_text(text)
    with pytest.raises(CameraError, match="is not read here: write the value again") as caught:
        Camera.from_yaml(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no calibration", "it is built differently"), ("image_width: 640", "camera_matrix is missing"),
        ("camera_matrix: {data: 3}", "it is built differently"),
        (f"image_width: wide\nimage_height: 480\n{NINE}", "'wide' is no number"),
        (f"image_width: 640.7\nimage_height: 480\n{NINE}", "640.7 is no number of pixels"),
    ],
)  # fmt: skip
def test_what_is_no_calibration_is_told_in_our_words(tmp_path, text: str, problem: str) -> None:
    (tmp_path / "camera.txt").write_text(text)
    with pytest.raises(CameraError, match=rf"camera.txt is not a ROS camera calibration \({problem}\): needs"):
        Camera.from_yaml(tmp_path / "camera.txt")


def test_models_by_name_and_coefficients_as_an_array_are_those_of_a_calibration() -> None:
    wanted = Camera(640, 480, 400, 400, 320, 240, Distortion.EQUIDISTANT, (0.1, -0.02, 0.005, -0.001))
    given = Camera(640, 480, 400, 400, 320, 240, "fisheye", np.array([[0.1], [-0.02], [0.005], [-0.001]]))
    assert given == wanted and hash(given) == hash(wanted) and given.model is Distortion.EQUIDISTANT
    with pytest.raises(CameraError, match="unknown distortion model 'foo': known are .*plumb_bob"):
        Camera(640, 480, 400, 400, 320, 240, "foo")


@pytest.mark.parametrize(("cx", "cy"), [(320, 240), (320, 0), (0, 240)])
def test_a_matrix_column_by_column_is_refused(cx: float, cy: float) -> None:
    with pytest.raises(CameraError, match="row by row"):
        Camera.from_camera_info(camera_info(k=[400.0, 0, 0, 0, 400, 0, cx, cy, 1]))
