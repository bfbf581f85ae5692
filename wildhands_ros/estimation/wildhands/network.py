"""The WildHands network: trunks over frame and crops, KPE, one head per side.

Facts of the published architecture (Prakash et al., ECCV 2024, arXiv 2312.06583, and its released configuration); names
of tensors follow its checkpoint, so that it can be read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, interpolate, linear, normalize, relu

from wildhands_ros.estimation.wildhands.devices import constants
from wildhands_ros.estimation.wildhands.kpe import Encoding, encoding_size
from wildhands_ros.estimation.wildhands.landmark_trunk import FINE_CHANNELS, FineLandmarkTrunk, LandmarkTrunk
from wildhands_ros.estimation.wildhands.trunks import initialise, make_trunk
from wildhands_ros.estimation.wildhands.variant import GRASPS, Translation, Variant

INPUT_SIZE = 224
"""Edge of the frame and of the crops in pixels."""

CELLS = 7
"""Edge of the feature map."""

OUTPUTS = ("pose", "betas", "camera", "camera_start", "grasp", "direction", "keypoints", "spread")
"""What a network says when it is used; from the grasp on only where it has the heads."""

POSE_SIZE, SHAPE_SIZE, CAMERA_SIZE = 16 * 6, 10, 3
PLANE_OUTPUTS = 21 * 3
"""What the other heads are told of the picture's plane, keypoints and how they spread; depths follow."""

_REFINEMENTS = 3


@dataclass(frozen=True)
class NetworkInputs:
    """What the network is given for one picture with N hands, all on one device.

    frame: (1, 3, 224, 224) float32, the whole picture, normalised. crops: (N, 3, 224, 224) float32, normalised.
    encoding: (N, C) or (N, C, H, W) float32, see `kpe.encode`. right: (N,) bool, which side's head.
    """

    frame: Tensor
    crops: Tensor
    encoding: Tensor
    right: Tensor


@dataclass(frozen=True)
class NetworkOutput:
    """What the network says of each of N crops.

    pose: (N, 16, 3, 3) rotation matrices in MANO's order, global orientation first. betas: (N, 10). camera: (N, 3),
    see `hand_translation`. camera_start: (N, 3), the camera before the refinements. grasp: (N, 9) logits or None.
    direction: (N, 2) which way the hand points in the crop, see `DirectionHead`, or None.
    keypoints: (N, 21, 2) in the crop, −1 to 1 from edge to edge, as read off the heat maps, or None.
    spread: (N, 21) standard deviation of each heat map, in half crops, or None.
    depths: (N, 21) how much farther along the crop's ray than the wrist each keypoint lies, in half crops, or None;
    for training.
    """

    pose: Tensor
    betas: Tensor
    camera: Tensor
    camera_start: Tensor
    grasp: Tensor | None = None
    direction: Tensor | None = None
    keypoints: Tensor | None = None
    spread: Tensor | None = None
    depths: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """What there is by name, without depths."""
        return {name: value for name in OUTPUTS if (value := getattr(self, name)) is not None}


class WildHandsNetwork(nn.Module):
    """Frame, crops and encoding → hands. Made untrained; `checkpoint.load_checkpoint` makes it with weights."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        added = encoding_size(variant.encoding)
        self._encodes_input = added.input > 0
        self.hand_backbone = make_trunk(variant.trunk, 3 + added.input)
        if variant.frame_trunk:
            self.backbone = make_trunk(variant.trunk)
        channels = self.hand_backbone.channels
        wide, middle, narrow = variant.fusion
        self.feature_conv = nn.Sequential(
            nn.Conv2d(channels + added.features, wide, 1, bias=False), nn.ReLU(),
            nn.Conv2d(wide, middle, 3, bias=False), nn.ReLU(),
            nn.Conv2d(middle, narrow, 3, bias=False), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(narrow * (CELLS - 4) ** 2, variant.features), nn.ReLU(),
        )  # fmt: skip
        seen = variant.features
        if variant.keypoints:
            self.keypoint_head = KeypointHead(variant.depths)
            seen += self.keypoint_head.outputs + added.features
        self.head_r = HandHead(seen, variant.hidden)
        if not variant.mirror:
            self.head_l = HandHead(seen, variant.hidden)
        if variant.grasp:
            self.grasp_classifier = GraspHead(channels if variant.frame_trunk else variant.features)
        if variant.upright:
            self.direction_head = DirectionHead()

    def forward(self, inputs: NetworkInputs) -> NetworkOutput:
        """Every hand through the trunk at once, then through its own side's head."""
        maps, picture = self.maps(inputs.frame, inputs.crops, inputs.encoding)
        return self.hands(maps, picture, inputs.encoding, inputs.right)

    def maps(self, frame: Tensor, crops: Tensor, encoding: Tensor) -> tuple[Tensor, Tensor]:
        """The trunks, nearly all of the work: feature maps (N, channels, 7, 7) of the crops, (1, …) of the frame.

        Without a trunk over the frame the second is (1, 0, 7, 7).
        """
        found = self.hand_backbone(self.trunk_input(crops, encoding))
        return found, self.backbone(frame) if self.variant.frame_trunk else found.new_zeros(1, 0, CELLS, CELLS)

    def trunk_input(self, crops: Tensor, encoding: Tensor) -> Tensor:
        """What the trunk over the crops sees: they, and the encoding where it belongs to the input."""
        return torch.cat([crops, encoding], dim=1) if self._encodes_input else crops

    def hands(self, maps: Tensor, picture: Tensor, encoding: Tensor, right: Tensor) -> NetworkOutput:
        """What follows the trunks: fusion of their maps with the encoding, then each hand's own head."""
        features, planes = self.look(maps, picture, encoding)
        direction = None
        if self.variant.upright and not self.training:  # it is trained by itself
            direction = self.direction_head(FineLandmarkTrunk.split(maps)[1])
        return replace(self.read(features, planes, picture, encoding, right), direction=direction)

    def look(self, maps: Tensor, picture: Tensor, encoding: Tensor) -> tuple[Tensor, Tensor | None]:
        """The convolutions of `hands`: features (N, …), and the keypoint head's map where there is one."""
        if self.variant.frame_trunk:
            maps = maps + picture
        fused = maps
        if not self._encodes_input and self.variant.encoding is not Encoding.NONE:
            cells = encoding if encoding.ndim == 4 else encoding[:, :, None, None].expand(-1, -1, CELLS, CELLS)
            fused = torch.cat([maps, cells], dim=1)
        return self.feature_conv(fused), self.keypoint_head.look(maps) if self.variant.keypoints else None

    def read(
        self, features: Tensor, planes: Tensor | None, picture: Tensor, encoding: Tensor, right: Tensor
    ) -> NetworkOutput:  # fmt: skip
        """What `hands` reads off them: places and rotations, for which half precision would be too coarse."""
        seen, keypoints, spread, depths = features, None, None, None
        if planes is not None:
            keypoints, spread, depths = self.keypoint_head.read(planes)
            found = [keypoints.flatten(1), spread] if depths is None else [keypoints.flatten(1), spread, depths]
            seen = torch.cat([features, *found, encoding], dim=1)
        output = self.head_r(seen)
        if not self.variant.mirror:
            output = _choose(right, output, self.head_l(seen))
        output = replace(output, keypoints=keypoints, spread=spread, depths=depths)
        if not self.variant.grasp:
            return output
        context = features
        if self.variant.frame_trunk:
            context = picture.sum(dim=(2, 3)).expand(features.shape[0], -1)
        grasp = self.grasp_classifier(torch.cat([output.betas, output.pose.flatten(1), context], dim=1))
        return replace(output, grasp=grasp)

    def initialise(self) -> None:
        """Random weights to start training from: He for the convolutions, small decoders and depths."""
        initialise(self)
        for name, value in self.named_parameters():
            if ".decoders." in name or name.startswith("keypoint_head.depth."):
                nn.init.zeros_(value) if name.endswith("bias") else nn.init.xavier_uniform_(value, gain=0.01)


class KeypointHead(nn.Module):
    """Heat maps of the 21 keypoints at 14 × 14, where they point to, and how deep that lies.

    The expectation of the place under each heat map (integral regression: Sun et al., ECCV 2018), from the deep
    features and the finer map that `FineLandmarkTrunk` gives together; and that of a depth map under it (2.5D heat
    maps: Iqbal et al., ECCV 2018).

    depths: whether there are depth maps. outputs: how many numbers `read` gives of a hand.
    """

    _WIDTH = 96

    def __init__(self, depths: bool = False) -> None:
        super().__init__()
        self.outputs = PLANE_OUTPUTS + 21 * depths
        self.deep = nn.Conv2d(LandmarkTrunk.channels, self._WIDTH, 1)
        self.fine = nn.Conv2d(FINE_CHANNELS, self._WIDTH, 1)
        self.mix = nn.Conv2d(self._WIDTH, self._WIDTH, 3, padding=1)
        self.heat = nn.Conv2d(self._WIDTH, 21, 1)
        self.depth = nn.Conv2d(self._WIDTH, 21, 1) if depths else None

    def look(self, maps: Tensor) -> Tensor:
        """What heat maps and depths are made of: (N, 96, 14, 14)."""
        deep, fine = FineLandmarkTrunk.split(maps)
        x = interpolate(self.deep(deep), scale_factor=2.0) + self.fine(fine)
        return relu(self.mix(relu(x)))

    def read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keypoints (N, 21, 2), −1 to 1 over the crop; how far each heat map spreads (N, 21); and depths (N, 21)."""
        heat = self.heat(x).flatten(2).softmax(dim=2)
        size = 2 * CELLS
        steps = (torch.arange(size, device=x.device, dtype=x.dtype) * 2 + 1) / size - 1
        places = torch.stack([steps.repeat(size), steps.repeat_interleave(size)], dim=1)  # x changes fastest
        keypoints = heat @ places
        spread = (heat @ places.square() - keypoints.square()).sum(dim=2).clamp(min=1e-6).sqrt()
        depths = None if self.depth is None else (heat * self.depth(x).flatten(2)).sum(dim=2)
        return keypoints, spread, depths


class DirectionHead(nn.Module):
    """Which way a hand points, from the 14 × 14 map (N, 112, 14, 14) that the trunk makes on its way.

    (N, 2): from the wrist to the knuckle of the middle finger, x to the right, y down, in half crops.
    """

    _WIDTH, _NARROW, _HIDDEN, _DROPOUT = 128, 48, 128, 0.2

    def __init__(self) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(FINE_CHANNELS, self._WIDTH, 3, 2, 1)
        self.mix = nn.Conv2d(self._WIDTH, self._WIDTH, 3, padding=1)
        self.narrow = nn.Conv2d(self._WIDTH, self._NARROW, 1)
        self.hidden = nn.Linear(self._NARROW * CELLS**2, self._HIDDEN)
        self.direction = nn.Linear(self._HIDDEN, 2)

    def forward(self, fine: Tensor) -> Tensor:
        x = relu(self.shrink(fine))
        x = relu(self.narrow(x + relu(self.mix(x)))).flatten(1)
        return self.direction(relu(self.hidden(dropout(x, self._DROPOUT, self.training))))


class HandHead(nn.Module):
    """Refines pose, shape and camera three times from a feature vector (iterative error feedback)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.cam_init = nn.Sequential(
            nn.Linear(features, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CAMERA_SIZE)
        )
        self.refine = nn.Sequential(
            nn.Linear(features + POSE_SIZE + SHAPE_SIZE + CAMERA_SIZE, hidden), nn.ReLU(), nn.Dropout(),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(),
        )  # fmt: skip
        self.decoders = nn.ModuleDict(
            {
                "pose_6d": nn.Linear(hidden, POSE_SIZE),
                "shape": nn.Linear(hidden, SHAPE_SIZE),
                "cam_t/wp": nn.Linear(hidden, CAMERA_SIZE),
            }
        )
        self._features = features

    def forward(self, features: Tensor) -> NetworkOutput:
        count = features.shape[0]  # not len(): exporters would write the number of hands down as a constant
        pose = constants(features, (1, 0, 0, 0, 1, 0)).repeat(16).expand(count, -1)
        betas = features.new_zeros(count, SHAPE_SIZE)
        camera = camera_start = self.cam_init(features)
        # the first layer sees cat(features, pose, betas, camera): what it makes of the features never changes
        first = self.refine.get_submodule("0")
        assert isinstance(first, nn.Linear)
        weight = first.weight.split([self._features, POSE_SIZE + SHAPE_SIZE + CAMERA_SIZE], dim=1)
        of_features = linear(features, weight[0], first.bias)
        for _ in range(_REFINEMENTS):
            state = torch.cat([pose, betas, camera], dim=1)
            hidden = self.refine[1:](of_features + linear(state, weight[1]))
            pose = pose + self.decoders["pose_6d"](hidden)
            betas = betas + self.decoders["shape"](hidden)
            camera = camera + self.decoders["cam_t/wp"](hidden)
        return NetworkOutput(rotation_from_6d(pose.unflatten(1, (16, 6))), betas, camera, camera_start)


class GraspHead(nn.Module):
    """Shape, pose and a feature vector → logits of the grasp classes (`variant.GRASPS`)."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(SHAPE_SIZE + 16 * 9 + context, 1024), nn.ReLU(),
            nn.Linear(1024, 512), nn.ReLU(),
            nn.Linear(512, 128), nn.ReLU(),
            nn.Linear(128, len(GRASPS)),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x)


def rotation_from_6d(rows: Tensor) -> Tensor:
    """First two rows (..., 6) of a matrix → rotation (..., 3, 3) by Gram–Schmidt (Zhou et al., CVPR 2019)."""
    first = normalize(rows[..., :3], dim=-1)
    second = rows[..., 3:] - (first * rows[..., 3:]).sum(dim=-1, keepdim=True) * first
    second = normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)


def hand_translation(kind: Translation, camera: Tensor, focal: float | Tensor, rays: Tensor, extent: Tensor) -> Tensor:
    """A head's camera (N, 3) → translation (N, 3) in metres.

    kind METRIC, the published way, camera (s, tx, ty): (tx, ty, 2 f / (224 · max(s, 0.1))).
    kind CROP, relative to the crop, camera (a, u, v): depth Z = f · exp(a) / extent, placed at
    (rays + (u, v) · extent / 2f) · Z.

    focal: mean focal length in pixels of the 224 frame, one or (N,). rays: (N, 2) tangents (X/Z, Y/Z) of the crop's
    centre. extent: (N,) edge of the crop in pixels of the 224 frame.
    """
    if kind is Translation.METRIC:
        depth = 2 * focal / (INPUT_SIZE * camera[:, 0].clamp(min=0.1))
        return torch.stack([camera[:, 1], camera[:, 2], depth], dim=1)
    depth = (focal / extent * camera[:, 0].exp())[:, None]
    place = rays + camera[:, 1:] * (extent / (2 * focal))[:, None]
    return torch.cat([place * depth, depth], dim=1)


def camera_of_translation(
    kind: Translation, translation: Tensor, focal: float | Tensor, rays: Tensor, extent: Tensor
) -> Tensor:
    """The inverse of `hand_translation`: the camera (N, 3) that places a hand there; what a head should learn."""
    depth = translation[:, 2].clamp(min=0.02)
    if kind is Translation.METRIC:
        scale = 2 * focal / (INPUT_SIZE * depth)
        return torch.stack([scale, translation[:, 0], translation[:, 1]], dim=1)
    place = (translation[:, :2] / depth[:, None] - rays) * (2 * focal / extent)[:, None]
    return torch.cat([(depth * extent / focal).log()[:, None], place], dim=1)


def _choose(right: Tensor, of_right: NetworkOutput, of_left: NetworkOutput) -> NetworkOutput:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(right.view(-1, *[1] * (a.ndim - 1)), a, b)

    return NetworkOutput(
        pick(of_right.pose, of_left.pose),
        pick(of_right.betas, of_left.betas),
        pick(of_right.camera, of_left.camera),
        pick(of_right.camera_start, of_left.camera_start),
    )
