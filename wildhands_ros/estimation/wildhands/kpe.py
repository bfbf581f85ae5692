"""KPE: tells a network on crops where in the camera's view each crop was cut.

A crop of a hand alone is ambiguous: under perspective, different hands in different places give the same pixels. The
intrinsics-aware positional encoding of WildHands (Prakash et al., ECCV 2024, arXiv 2312.06583, section 3.2) adds the
viewing angles of the crop's centre and corners to the crop's features.

Angles are (θx, θy) = (atan2(X, Z), atan2(Y, Z)) of a pixel's ray in radians; for a pinhole camera
θx = atan2(px − cx, fx), θy = atan2(py − cy, fy). Every function takes batches with the coordinate last, on any device,
and keeps device and type of its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn.functional import normalize

from wildhands_ros.camera import Camera

FREQUENCIES = 4
"""Octaves of the encoding: 1, 2, 4 and 8 times the angle."""

_PER_POINT = 2 * 2 * FREQUENCIES  # θx and θy, sine and cosine


class Encoding(str, Enum):
    """What the network is told of the crop's place: the paper's method and its ablation."""

    NONE = "none"
    SPARSE = "sparse"
    """Angles of centre and corners beside the features: the published network."""
    CENTER = "center"
    """Angles of the centre alone."""
    CORNERS = "corners"
    """Angles of the four corners alone."""
    DENSE = "dense"
    """Angles of every cell of the feature map."""
    INPUT = "input"
    """Angles of every pixel, concatenated to the crop instead of to its features."""
    LOCATION = "location"
    """Places of centre and corners in the picture instead of angles: no intrinsics needed, none used."""
    CAMCONV = "camconv"
    """The six channels of CAM-Convs (Facil et al., CVPR 2019) for every cell of the feature map."""


@dataclass(frozen=True)
class EncodingSize:
    """Channels that an encoding adds: to the feature map, and to the crop.

    per_cell: True where they differ from cell to cell, False where one vector is repeated over all of them.
    """

    features: int
    input: int = 0
    per_cell: bool = False


_SIZES = {
    Encoding.NONE: EncodingSize(0),
    Encoding.SPARSE: EncodingSize(5 * _PER_POINT),
    Encoding.CENTER: EncodingSize(_PER_POINT),
    Encoding.CORNERS: EncodingSize(4 * _PER_POINT),
    Encoding.DENSE: EncodingSize(_PER_POINT, per_cell=True),
    Encoding.INPUT: EncodingSize(0, _PER_POINT, per_cell=True),
    Encoding.LOCATION: EncodingSize(5 * _PER_POINT),
    Encoding.CAMCONV: EncodingSize(6, per_cell=True),
}


def encoding_size(encoding: Encoding) -> EncodingSize:
    """How many channels `encoding` adds, and where."""
    return _SIZES[Encoding(encoding)]


def encode(encoding: Encoding, boxes: Tensor, matrix: Tensor, size: int, cells: int) -> Tensor:
    """What a network with this encoding is given for each crop.

    boxes: (N, 4) as x0 y0 x1 y1, pixels of a square picture of `size` × `size`. matrix: that picture's K, (3, 3), or
    (N, 3, 3) where each box has a picture of its own.
    cells: edge of the feature map (of the crop for `Encoding.INPUT`).

    Returns (N, C) where one vector serves all cells, else (N, C, cells, cells); C as `encoding_size` says.
    """
    encoding = Encoding(encoding)
    if encoding is Encoding.NONE:
        return boxes.new_zeros(len(boxes), 0)
    if encoding is Encoding.LOCATION:
        return encode_points(locations(center_and_corners(boxes), size), encoding)
    if encoding_size(encoding).per_cell:
        points = cell_centers(boxes, cells)
        if encoding is Encoding.CAMCONV:
            return camconv(points, matrix, size)
        return encode_cells(pinhole_angles(points, matrix))
    return encode_points(pinhole_angles(center_and_corners(boxes), matrix), encoding)


# --- angles -----------------------------------------------------------------------------------------------------------


def center_and_corners(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as x0 y0 x1 y1 → points (..., 5, 2): the centre, then (x0,y0), (x0,y1), (x1,y0), (x1,y1)."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    points = [((x0 + x1) / 2, (y0 + y1) / 2), (x0, y0), (x0, y1), (x1, y0), (x1, y1)]
    return torch.stack([torch.stack(point, dim=-1) for point in points], dim=-2)


def cell_centers(boxes: Tensor, cells: int) -> Tensor:
    """Boxes (N, 4) → the centres (N, cells, cells, 2) of a grid laid over each, rows first."""
    steps = (torch.arange(cells, device=boxes.device, dtype=boxes.dtype) + 0.5) / cells
    corner, extent = boxes[:, None, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None, None]
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)
    return corner + grid * extent


def pinhole_angles(points: Tensor, matrix: Tensor) -> Tensor:
    """Pixels (..., 2) seen through K (3, 3) → angles (..., 2): atan2(px − cx, fx), atan2(py − cy, fy).

    Also pixels (N, ..., 2) through N cameras (N, 3, 3).
    """
    focal, center = _focal_and_center(points, matrix)
    return torch.atan2(points - center, focal.expand_as(points))


def _focal_and_center(points: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(fx, fy) and (cx, cy), shaped to go with points (..., 2), or with points (N, ..., 2) for N cameras."""
    focal, center = torch.stack([matrix[..., 0, 0], matrix[..., 1, 1]], dim=-1), matrix[..., :2, 2]
    if matrix.ndim == 2:
        return focal, center
    shape = (-1, *[1] * (points.ndim - 2), 2)
    return focal.view(shape), center.view(shape)


def camera_angles(points: Tensor, camera: Camera) -> Tensor:
    """Pixels (..., 2) of a camera's picture → the angles (..., 2) at which it really sees them, distortion and all.

    NaN where no ray gives such a pixel. Computed on the CPU in float64.
    """
    return torch.from_numpy(camera.angles(points.detach().cpu().double().numpy())).to(points)


def locations(points: Tensor, size: float) -> Tensor:
    """Pixels (..., 2) of a square picture → place in it, −1 to 1: 2 p / size − 1."""
    return 2 * points / size - 1


# --- encodings --------------------------------------------------------------------------------------------------------


def sinusoid(values: Tensor) -> Tensor:
    """(..., C) → (..., 2·C·FREQUENCIES): sin(2^k a) and cos(2^k a), laid out [k][entry of a][sin, cos].

    The encoding of NeRF (Mildenhall et al., ECCV 2020) without its factor π: angles are radians already.
    """
    octaves = 2.0 ** torch.arange(FREQUENCIES, device=values.device, dtype=values.dtype)
    scaled = octaves[:, None] * values[..., None, :]
    return torch.stack([scaled.sin(), scaled.cos()], dim=-1).flatten(-3)


def encode_points(angles: Tensor, encoding: Encoding = Encoding.SPARSE) -> Tensor:
    """Angles (..., 5, 2) of centre and corners → (..., 80), or the centre's 16 or the corners' 64 alone.

    Centre first. Its 16 numbers encode (θx, θy), the corners' 64 encode their eight angles as one vector.
    """
    encoding = Encoding(encoding)
    center = sinusoid(angles[..., 0, :])
    corners = sinusoid(angles[..., 1:, :].flatten(-2))
    if encoding is Encoding.CENTER:
        return center
    if encoding is Encoding.CORNERS:
        return corners
    return torch.cat([center, corners], dim=-1)


def encode_cells(angles: Tensor) -> Tensor:
    """Angles (N, H, W, 2) of every cell → channels (N, 16, H, W)."""
    return sinusoid(angles).movedim(-1, -3)


def camconv(points: Tensor, matrix: Tensor, size: float) -> Tensor:
    """CAM-Convs channels (Facil et al., CVPR 2019): pixels (N, H, W, 2), K (3, 3) → (N, 6, H, W).

    Centred coordinates (p − c) / f, field-of-view maps atan((p − c) / f), and normalised coordinates −1 to 1.
    """
    focal, center = _focal_and_center(points, matrix)
    centered = (points - center) / focal
    return torch.cat([centered, centered.atan(), locations(points, size)], dim=-1).movedim(-1, -3)


# --- the two ways that turn the camera instead ------------------------------------------------------------------------


def crop_ray_rotation(center_angles: Tensor) -> Tensor:
    """Angles (..., 2) of a crop's centre → rotation (..., 3, 3) that turns the optical axis onto its ray.

    Perspective correction: multiplied from the left to a global orientation that was predicted as if the camera
    looked straight at the hand, it gives the orientation in the camera frame. Of all such turns it is the shortest, so
    it does not roll the picture. Angles must stay within ±90°.
    """
    tangents = torch.tan(center_angles)
    ray = normalize(torch.cat([tangents, torch.ones_like(tangents[..., :1])], dim=-1), dim=-1)
    x, y, c = ray.unbind(-1)
    # Rodrigues for the turn from (0, 0, 1) to the ray about (−y, x, 0), with (1 − c) / sin² = 1 / (1 + c)
    k = 1 / (1 + c)
    rows = [[1 - k * x * x, -k * x * y, x], [-k * x * y, 1 - k * y * y, y], [-x, -y, c]]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def perspective_crop(boxes: Tensor, matrix: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Perspective crop layers (Yu et al., CVPR 2021): virtual cameras that look straight at each box.

    boxes: (N, 4) as x0 y0 x1 y1 in pixels of a picture with K `matrix` (3, 3), or of N pictures (N, 3, 3). size: edge
    of the crops.

    Returns homographies (N, 3, 3) from pixels of each crop to pixels of the picture, H = K R K_v⁻¹, and the virtual
    cameras' K_v (N, 3, 3). R is `crop_ray_rotation` of the box's centre; the focal length of K_v lets the box's longer
    edge, seen from the front, fill the crop.
    """
    angles = pinhole_angles(center_and_corners(boxes)[:, 0], matrix)
    rotation = crop_ray_rotation(angles)
    longest = (boxes[:, 2:] - boxes[:, :2]).amax(dim=-1)
    focal = (matrix[..., 0, 0] + matrix[..., 1, 1]) / 2
    along_ray = torch.tan(angles).square().sum(dim=-1).add(1).sqrt()  # length of the ray to the plane Z = 1
    virtual = matrix.new_zeros(len(boxes), 3, 3)
    virtual[:, 0, 0] = virtual[:, 1, 1] = size * focal * along_ray / longest
    virtual[:, 0, 2] = virtual[:, 1, 2] = (size - 1) / 2
    virtual[:, 2, 2] = 1
    return matrix @ rotation @ torch.linalg.inv_ex(virtual).inverse, virtual  # `inv` would wait for a GPU
