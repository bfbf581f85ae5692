"""KPE: what is encoded, in which order, and the properties that it is there for."""

import itertools
import math

import numpy as np
import pytest
import torch

from wildhands_ros.camera import Camera, Distortion
from wildhands_ros.estimation.wildhands.kpe import (
    Encoding,
    camconv,
    camera_angles,
    cell_centers,
    center_and_corners,
    crop_ray_rotation,
    encode,
    encode_points,
    encoding_size,
    perspective_crop,
    pinhole_angles,
    sinusoid,
)

MATRIX = torch.tensor([[200.0, 0, 110], [0, 180, 116], [0, 0, 1]], dtype=torch.float64)
BOXES = torch.tensor([[20.0, 40, 120, 140], [100, 30, 180, 110]], dtype=torch.float64)
WITH_PLACE = [e for e in Encoding if e is not Encoding.NONE]


def encoded(encoding, boxes=BOXES, matrix=MATRIX):
    return encode(encoding, boxes, matrix, 224, 7)


def test_points_are_centre_then_corners_column_by_column():
    points = center_and_corners(BOXES[0])
    assert points.tolist() == [[70, 90], [20, 40], [20, 140], [120, 40], [120, 140]]


def test_angles_of_a_pinhole():
    angles = pinhole_angles(torch.tensor([[310.0, 116.0], [110.0, 296.0]], dtype=torch.float64), MATRIX)
    assert angles.tolist() == [[math.pi / 4, 0], [0, math.pi / 4]]


def test_angles_agree_with_the_camera():
    camera = Camera(224, 224, 200, 180, 110, 116)
    points = center_and_corners(BOXES)
    np.testing.assert_allclose(pinhole_angles(points, MATRIX), camera.angles(points.numpy()), atol=1e-12)
    np.testing.assert_allclose(camera_angles(points, camera), camera.angles(points.numpy()), atol=1e-12)


def test_angles_through_a_fisheye_are_those_of_the_rays():
    camera = Camera(224, 224, 100, 100, 111.5, 111.5, Distortion.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0))
    angles = camera_angles(torch.tensor([[211.5, 111.5]]), camera)
    assert angles[0].tolist() == pytest.approx([1.0, 0.0])  # an equidistant lens: radius over focal length


def test_sinusoid_runs_through_octaves_then_entries():
    a, b = 0.3, -0.7
    expected = [f(2**k * v) for k in range(4) for v in (a, b) for f in (math.sin, math.cos)]
    assert sinusoid(torch.tensor([a, b], dtype=torch.float64)).tolist() == pytest.approx(expected)


def test_sparse_is_the_centre_and_then_the_corners_as_one_vector():
    angles = pinhole_angles(center_and_corners(BOXES), MATRIX)
    code = encode_points(angles)
    assert code.shape == (2, 80)
    assert torch.equal(code[:, :16], sinusoid(angles[:, 0]))
    assert torch.equal(code[:, 16:], sinusoid(angles[:, 1:].reshape(2, 8)))
    assert torch.equal(encoded(Encoding.SPARSE), code)
    assert torch.equal(encoded(Encoding.CENTER), code[:, :16])
    assert torch.equal(encoded(Encoding.CORNERS), code[:, 16:])


@pytest.mark.parametrize("encoding", list(Encoding))
def test_shapes(encoding):
    size, code = encoding_size(encoding), encoded(encoding)
    channels = size.features + size.input
    assert code.shape == ((2, channels, 7, 7) if size.per_cell else (2, channels))
    assert code.isfinite().all()


@pytest.mark.parametrize("encoding", WITH_PLACE)
def test_every_encoding_tells_places_apart_and_none_does_not(encoding):
    moved = BOXES + 25
    assert (encoded(encoding, moved) - encoded(encoding)).abs().max() > 0.05
    assert torch.equal(encoded(Encoding.NONE, moved), encoded(Encoding.NONE))


@pytest.mark.parametrize("encoding", WITH_PLACE)
def test_encoding_is_continuous(encoding):
    small = 1e-5
    change = (encoded(encoding, BOXES + small) - encoded(encoding)).abs().max()
    assert 0 < change < 20 * small


@pytest.mark.parametrize("encoding", WITH_PLACE)
def test_only_location_ignores_the_intrinsics(encoding):
    longer = MATRIX.clone()
    longer[0, 0] *= 1.5
    assert torch.equal(encoded(encoding, matrix=longer), encoded(encoding)) == (encoding is Encoding.LOCATION)


def test_mirrored_places_give_mirrored_angles():
    flipped = BOXES.clone()
    flipped[:, [0, 2]] = 2 * MATRIX[0, 2] - BOXES[:, [2, 0]]
    angles = pinhole_angles(center_and_corners(BOXES), MATRIX)
    mirrored = pinhole_angles(center_and_corners(flipped), MATRIX)
    left_right_swapped = angles[:, [0, 3, 4, 1, 2]] * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(mirrored, left_right_swapped)


def test_cells_cover_the_box_evenly():
    cells = cell_centers(BOXES, 4)
    assert cells.shape == (2, 4, 4, 2)
    assert cells[0, 0, 0].tolist() == [32.5, 52.5]
    assert cells[0, 0, 3].tolist() == [107.5, 52.5]  # rows first, then columns
    assert cells[0, 3, 0].tolist() == [32.5, 127.5]
    torch.testing.assert_close(cells.mean(dim=(1, 2)), center_and_corners(BOXES)[:, 0])


def test_dense_cells_average_to_about_the_centre():
    dense, center = encoded(Encoding.DENSE), encoded(Encoding.CENTER)
    torch.testing.assert_close(dense[:, :4].mean(dim=(2, 3)), center[:, :4], atol=0.03, rtol=0)


def test_camconv_channels():
    points = torch.tensor([[[[210.0, 116.0]]]], dtype=torch.float64)
    channels = camconv(points, MATRIX, 224)[0, :, 0, 0]
    assert channels.tolist() == pytest.approx([0.5, 0, math.atan(0.5), 0, 2 * 210 / 224 - 1, 2 * 116 / 224 - 1])


def test_ray_rotation_turns_the_axis_onto_the_ray_by_the_shortest_way():
    for tx, ty in itertools.product((-1.0, -0.2, 0.0, 0.7), repeat=2):
        angles = torch.tensor([math.atan(tx), math.atan(ty)], dtype=torch.float64)
        rotation = crop_ray_rotation(angles)
        ray = torch.tensor([tx, ty, 1.0], dtype=torch.float64)
        ray = ray / ray.norm()
        torch.testing.assert_close(rotation[:, 2], ray)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        assert torch.linalg.det(rotation) == pytest.approx(1)
        turned_by = math.acos(min(1.0, float((rotation.trace() - 1) / 2)))
        assert turned_by == pytest.approx(math.acos(float(ray[2])), abs=1e-7)


def test_perspective_crop_shows_a_point_where_its_camera_sees_it():
    homographies, virtual = perspective_crop(BOXES, MATRIX, 224)
    point = torch.tensor([-0.1, 0.05, 0.6], dtype=torch.float64)
    in_picture = MATRIX @ point
    angles = pinhole_angles(center_and_corners(BOXES)[:, 0], MATRIX)
    for homography, k, rotation in zip(homographies, virtual, crop_ray_rotation(angles), strict=True):
        in_crop = k @ rotation.T @ point
        mapped = homography @ (in_crop / in_crop[2])
        torch.testing.assert_close(mapped / mapped[2], in_picture / in_picture[2])


def test_perspective_crop_is_centred_on_the_box_and_filled_by_it():
    homographies, _ = perspective_crop(BOXES, MATRIX, 224)
    for homography, box in zip(homographies, BOXES, strict=True):
        middle = homography @ torch.tensor([111.5, 111.5, 1], dtype=torch.float64)
        torch.testing.assert_close((middle / middle[2])[:2], center_and_corners(box)[0])
        corners = torch.linalg.inv(homography) @ torch.cat([box.view(2, 2).T, torch.ones(1, 2)]).double()
        extent = (corners / corners[2])[:2, 1] - (corners / corners[2])[:2, 0]
        assert 0.8 * 224 < extent.max() < 1.25 * 224


def test_encodings_are_known_by_name_too() -> None:
    boxes, matrix = torch.tensor([[20.0, 30.0, 90.0, 100.0]]), torch.tensor([[200.0, 0, 112], [0, 200, 112], [0, 0, 1]])
    for encoding in Encoding:
        wanted = encode(encoding, boxes, matrix, 224, 7)
        assert torch.equal(encode(encoding.value, boxes, matrix, 224, 7), wanted)
        assert encoding_size(encoding.value) == encoding_size(encoding)
    with pytest.raises(ValueError, match="nothing"):
        encode("nothing", boxes, matrix, 224, 7)
