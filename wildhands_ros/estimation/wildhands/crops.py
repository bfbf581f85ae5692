"""From a picture and its boxes to what the network is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wildhands_ros.camera import Camera
from wildhands_ros.estimation.wildhands import kpe, published, resample
from wildhands_ros.estimation.wildhands.devices import on_device
from wildhands_ros.estimation.wildhands.network import CELLS, INPUT_SIZE, NetworkInputs
from wildhands_ros.estimation.wildhands.places import (
    Box,
    CropPlace,
    SquareFrame,
    place_crop,
    square_frame,
    unusable,
)
from wildhands_ros.estimation.wildhands.trunks import picture_mean_std
from wildhands_ros.estimation.wildhands.upright import (
    roll_boxes,
    roll_crops,
    roll_picture,
    rotations,
    to_crop,
)
from wildhands_ros.estimation.wildhands.variant import Crops, Perspective, Variant

_LARGEST_BOX = 20  # pictures: no hand, and a sharp crop takes the more memory the larger it is


Picture: TypeAlias = NDArray[np.uint8] | Tensor
"""Where crops are cut: (H, W, 3) uint8 RGB in the computer's own memory, or (3, H, W) where torch cuts."""


@dataclass(frozen=True)
class Prepared:
    """The network's inputs, and what is needed to understand its output.

    frame: the network's frame. extents: (N,) edges of the crops in pixels of it. rays: (N, 2) tangents (X/Z, Y/Z) of
    the crops' centres. turns: (N, 3, 3), from the frame of the predicted orientation to the camera's, or None where
    they are the same. mirrored: (N,) bool, crops whose network sees the picture's mirror image (x → −x), with rays and
    turns that belong to it; None where none is. Where crops are rolled, all of it belongs to the rolled picture.
    """

    inputs: NetworkInputs
    frame: SquareFrame
    extents: Tensor
    rays: Tensor
    turns: Tensor | None
    mirrored: Tensor | None = None


_OPENCV_IS_EXACT = int(cv2.__version__.partition(".")[0]) >= 5
"""Those before take cubic samples at whole 32nds of a pixel: a grey level off in up to a twelfth of shrunk pictures."""


class CropMaker:
    """Cuts and encodes crops as one network wants them.

    variant: the network's. factor: edge of the crops over the longer edge of the boxes. device: where the network runs;
    on a GPU the picture is uploaded once and everything after that is done there.
    """

    def __init__(self, variant: Variant, factor: float, device: torch.device | str = "cpu") -> None:
        self.variant = variant
        self.factor = factor
        self.device = torch.device(device)
        mean, std = picture_mean_std(self.device)
        self._mean, self._std = mean[:, None, None], std[:, None, None]
        self._on_host = self.device.type == "cpu" and variant.perspective is not Perspective.CROP
        self._no_frame = torch.zeros(3, INPUT_SIZE, INPUT_SIZE, device=self.device)  # where no trunk looks at it

    def frame(self, camera: Camera) -> SquareFrame:
        """The network's frame of this (undistorted) camera's pictures."""
        if self.variant.crops is Crops.PUBLISHED:
            return published.published_frame(camera)
        return square_frame(camera)

    def place(self, camera: Camera, box: Box, factor: float | None = None) -> CropPlace | str:
        """The crop of one box (pixels of the picture), or the reason why there is none. factor: for this box alone."""
        factor = self.factor if factor is None else factor
        reason = unusable(box, camera.width, camera.height)
        if reason is not None:
            return reason
        too_small = f"its box is less than a pixel in the network's {INPUT_SIZE} pixel frame"
        if self.variant.crops is Crops.PUBLISHED:
            return published.place_published_crop(camera, box, factor) or too_small
        place = place_crop(self.frame(camera), box, factor)
        edge = place.extent / factor
        if edge > _LARGEST_BOX * INPUT_SIZE:
            return f"its box is more than {_LARGEST_BOX} times as large as the picture"
        return too_small if edge < 1 else place

    def upload(self, image: NDArray[np.uint8]) -> Picture:
        """A picture (H, W, 3) uint8 RGB for `prepare`, which would otherwise upload it to a GPU every time."""
        if self._on_host:
            return image
        # torch takes neither what is read-only nor what runs backwards
        writable = np.require(image if min(image.strides) >= 0 else image.copy(), requirements=["C", "W"])
        return torch.from_numpy(writable).to(self.device, non_blocking=True).permute(2, 0, 1)

    def prepare(
        self, picture: Picture, camera: Camera, places: Sequence[CropPlace], right: Sequence[bool],
        rolls: Sequence[float] | None = None,
    ) -> Prepared:  # fmt: skip
        """The inputs of one picture of an undistorted camera with its crops, one at least.

        picture: (H, W, 3) uint8 RGB, or what `upload` makes of it.
        rolls: of each hand in the picture as it is (`upright.roll_of`), for networks that see hands upright.
        """
        frame = self.frame(camera)
        matrix = on_device(frame.matrix.tolist(), self.device, torch.float32)
        boxes = on_device([place.box for place in places], self.device, torch.float32)
        centers = on_device([place.center for place in places], self.device, torch.float32)
        extents = on_device([place.extent for place in places], self.device, torch.float32)
        sides = on_device(list(right), self.device)
        variant = self.variant
        turned = on_device(rolls or [0.0] * len(places), self.device, torch.float32) if variant.upright else None
        left = [variant.mirror and not is_right for is_right in right]
        whole, crops = self._pictures(picture, frame, places, boxes, matrix, turned, left)
        rays = (centers - matrix[:2, 2]) / torch.stack([matrix[0, 0], matrix[1, 1]])
        mirrored = ~sides if variant.mirror else None
        if mirrored is not None and any(left):
            rays = torch.stack([torch.where(mirrored, -rays[:, 0], rays[:, 0]), rays[:, 1]], dim=1)
            of_mirrored, matrix_of_mirrored = mirror_boxes(boxes, matrix)
            boxes = torch.where(mirrored[:, None], of_mirrored, boxes)
            matrix = torch.where(mirrored[:, None, None], matrix_of_mirrored, matrix)
            turned = None if turned is None else torch.where(mirrored, -turned, turned)
        if turned is not None:
            rays = (rotations(turned)[:, :2, :2] @ rays[..., None])[..., 0]
            boxes = roll_boxes(boxes, matrix, turned)
        encoding = encode_boxes(variant, boxes, matrix)
        turns = None if variant.perspective is Perspective.NONE else kpe.crop_ray_rotation(rays.atan())
        return Prepared(
            NetworkInputs(whole[None], crops, encoding, sides),
            frame,
            extents,
            rays,
            turns,
            mirrored,
        )

    def _pictures(
        self, picture: Picture, frame: SquareFrame, places: Sequence[CropPlace], boxes: Tensor, matrix: Tensor,
        rolls: Tensor | None, mirrored: Sequence[bool],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The frame (3, 224, 224) and the crops (N, 3, 224, 224), normalised; rolled, then mirrored."""
        variant = self.variant
        planes = self.upload(picture) if isinstance(picture, np.ndarray) else picture
        if isinstance(planes, np.ndarray):
            if variant.crops is Crops.PUBLISHED:
                pictures = _published_on_host(planes, frame, places)
            else:
                pictures = self._sharp_on_host(planes, frame, places, matrix, rolls)
            whole = len(pictures) - len(places)
            normalised = _normalised(pictures, [False] * whole + list(mirrored))
            return (normalised[0] if whole else self._no_frame), normalised[whole:]
        if variant.crops is Crops.PUBLISHED:
            cut = self._published(planes, frame, places)
        else:
            cut = self._sharp(planes, frame, places, boxes, matrix, rolls)
        normalised = cut.clamp_(0, 1).sub_(self._mean).div_(self._std)
        if variant.frame_trunk or variant.crops is Crops.PUBLISHED:
            return normalised[0], normalised[1:]
        if any(mirrored):
            which = on_device(list(mirrored), self.device)
            normalised = torch.where(which[:, None, None, None], normalised.flip(-1), normalised)
        return self._no_frame, normalised

    def _sharp_on_host(
        self, image: NDArray[np.uint8], frame: SquareFrame, places: Sequence[CropPlace], matrix: Tensor,
        rolls: Tensor | None,
    ) -> list[NDArray[np.float32]]:  # fmt: skip
        """The frame, where a trunk looks at it, and the crops, (224, 224, 3), 0 to 1."""
        pictures = [resample.cut_sharp_host(image, *self._square(frame, place)) for place in places]
        if rolls is not None:
            turns = to_crop(matrix, rolls, self._zooms(rolls)).double().numpy()
            pictures = [roll_picture(picture, turn) for picture, turn in zip(pictures, turns, strict=True)]
        if self.variant.frame_trunk:
            pictures.insert(0, resample.cut_sharp_host(image, frame.half, float(max(image.shape[:2]))))
        for picture in pictures:
            picture /= 255
        return pictures

    def _published(self, planes: Tensor, frame: SquareFrame, places: Sequence[CropPlace]) -> Tensor:
        return _cut_published(resample.blur(planes.float()), frame, places)

    def _sharp(
        self, planes: Tensor, frame: SquareFrame, places: Sequence[CropPlace], boxes: Tensor, matrix: Tensor,
        rolls: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """The frame, where a trunk looks at it, and the crops."""
        longest = float(max(planes.shape[1:]))
        pictures = [resample.cut_sharp(planes, frame.half, longest)] if self.variant.frame_trunk else []
        if self.variant.perspective is Perspective.CROP:
            # homographies lead to the 224 frame; one more step leads to the picture
            x, y = frame.half
            up = on_device(
                [[1, 0, -frame.middle], [0, 1, -frame.middle], [0, 0, frame.scale]], self.device, torch.float32
            )
            to_picture = on_device([[1, 0, x], [0, 1, y], [0, 0, 1]], self.device, torch.float32)
            if rolls is None:
                homographies, _ = kpe.perspective_crop(boxes, matrix, INPUT_SIZE)
            else:
                rolled, _ = kpe.perspective_crop(roll_boxes(boxes, matrix, rolls), matrix, INPUT_SIZE)
                homographies = matrix @ rotations(-rolls) @ torch.linalg.inv_ex(matrix).inverse @ rolled
            fractions = planes.float()
            pictures += [resample.cut_perspective(fractions, h) for h in to_picture @ up @ homographies]
        else:
            pictures += [resample.cut_sharp(planes, *self._square(frame, place)) for place in places]
            if rolls is not None:
                return roll_crops(torch.stack(pictures), matrix, rolls, self._zooms(rolls)).div_(255)
        return torch.stack(pictures).div_(255)

    def _square(self, frame: SquareFrame, place: CropPlace) -> tuple[tuple[float, float], float]:
        """Center and edge, in the picture, of what is cut for a crop: with a margin where it is to be rolled."""
        center, extent = frame.in_picture(place)
        return center, extent * self.variant.roll_margin

    def _zooms(self, rolls: Tensor) -> Tensor | None:
        margin = self.variant.roll_margin
        return None if margin == 1 else torch.full_like(rolls, 1 / margin)


def encode_boxes(variant: Variant, boxes: Tensor, matrix: Tensor) -> Tensor:
    """The encoding of boxes (N, 4) in the network's frame with K `matrix`, (3, 3) or (N, 3, 3), see `kpe.encode`."""
    cells = INPUT_SIZE if variant.encoding is kpe.Encoding.INPUT else CELLS
    return kpe.encode(variant.encoding, boxes, matrix, INPUT_SIZE, cells)


def mirror_boxes(boxes: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) and K (..., 3, 3) in the mirror image of the network's frame."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    last = INPUT_SIZE - 1
    mirrored = matrix.clone()
    mirrored[..., 0, 2] = last - matrix[..., 0, 2]
    return torch.stack([last - x1, y0, last - x0, y1], dim=-1), mirrored


def _cut_published(blurred: Tensor, frame: SquareFrame, places: Sequence[CropPlace]) -> Tensor:
    """The frame and the crops of a blurred picture (3, H, W), grey levels 0 to 255 → (1 + N, 3, 224, 224), 0 to 1."""
    edge = published.frame_edge(blurred.shape[2], blurred.shape[1])
    whole = resample.cut_cubic(blurred, frame.half, edge).round_().clamp_(0, 255).div_(255)
    return torch.stack([whole, *(resample.cut_cubic(whole, place.center, place.extent) for place in places)])


def _published_on_host(
    image: NDArray[np.uint8], frame: SquareFrame, places: Sequence[CropPlace]
) -> list[NDArray[np.float32]]:
    """The frame and the crops, (224, 224, 3), 0 to 1; the same, but for ties of grey levels, with every OpenCV."""
    if _OPENCV_IS_EXACT:
        whole = published.shrink(image)
        return [whole, *(published.cut_crop(whole, place) for place in places)]
    cut = _cut_published(torch.from_numpy(published.blur(image)).permute(2, 0, 1), frame, places)
    return list(cut.permute(0, 2, 3, 1).numpy())


def _normalised(pictures: Sequence[NDArray[np.float32]], mirrored: Sequence[bool]) -> Tensor:
    """Pictures (224, 224, 3), 0 to 1 → (N, 3, 224, 224). Plane by plane: torch's threads cost more than they gain."""
    mean, std = (v.numpy() for v in picture_mean_std())
    planes = np.empty((len(pictures), 3, INPUT_SIZE, INPUT_SIZE), np.float32)
    for picture, target, flip in zip(pictures, planes, mirrored, strict=True):
        np.clip(picture, 0, 1, out=picture)
        seen = picture[:, ::-1] if flip else picture
        for channel in range(3):
            np.subtract(seen[..., channel], mean[channel], out=target[channel])
            target[channel] /= std[channel]
    return torch.from_numpy(planes)
