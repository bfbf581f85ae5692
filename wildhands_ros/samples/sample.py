"""One hand in one picture, cut out, with whatever labels its source has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.camera import Camera
from wildhands_ros.errors import WildHandsError
from wildhands_ros.hands import Side

FloatArray = NDArray[np.float64]
Tag = bool | float | int | str
_TAGS = (bool, float, int, str, np.number, np.bool_)
_KINDS = {name: np.dtype(np.uint8) for name in ("image", "mask", "picture")} | {"visible": np.dtype(np.bool_)}

CROP_SIZE = 224
"""Edge of a sample's picture in pixels."""

BOX_FACTOR = 1.5
"""Edge of a sample's square over the longer edge of its box, as in the paper's training."""

GRASP_COUNT = 9
"""How many classes of grasps there are: `wildhands_ros.estimation.wildhands.variant.GRASPS`."""

HIDDEN = 127
"""Value of a mask's pixels where the hand is or may be behind something: neither hand nor not."""


@dataclass(frozen=True)
class ManoLabels:
    """pose: (16, 3, 3), betas: (10,), translation: (3,) metres, as a `Hand` has them; hand_model: whose they are."""

    pose: FloatArray
    betas: FloatArray
    translation: FloatArray
    hand_model: str


@dataclass(frozen=True)
class Sample:
    """A hand's crop, the camera that saw it, and labels; each label may be missing (None) by itself.

    key: unique within its source; no dots and no slashes. source: name of the source.
    image: (224, 224, 3) uint8 RGB: the square `center`, `extent` of the picture, cut anti-aliased.
    camera: of the whole picture, undistorted (for a distorted lens that of the rectified view that shows the hand).
    center: (x, y) and extent: edge of the crop's square, in pixels of the picture. A pixel p of the crop (integer
        coordinates at pixel centres) lies at center + (p − 111.5) · extent / 224 in the picture.
    box: (x0, y0, x1, y1) of the hand, in pixels of the picture; x0 < x1 and y0 < y1.
    joints: (21, 3) metres, camera frame, keypoint order.
    mano: MANO-format parameters of the same.
    keypoints: (21, 2) pixels of the picture. keypoint_weights: (21,) how far each may be trusted, 0 (unknown) to 1.
    visible: (21,) bool, whether the joint is in the picture and nothing but the hand itself hides it.
    mask: (224, 224) uint8 over the crop: 255 this hand, 0 something else, `HIDDEN` unknown.
    grasp: index into `wildhands_ros.estimation.wildhands.variant.GRASPS`.
    scene: samples of one picture share it; empty where there is only one.
    tags: further facts by which errors are broken down (distance, angle, what is held, …).
    picture: (H, W, 3) uint8 RGB, the whole picture as `camera` has it, where the source was asked for it: networks that
        look beyond the crop are measured on it. Large, and for nothing but evaluation: shards do not keep it.

    `side` may be given by its name; numbers of labels may be of any real type of NumPy's.

    Raises ValueError for shapes, kinds and values that are not so. Numbers of labels need not be finite: those that are
    not are unknown.
    """

    key: str
    source: str
    image: NDArray[np.uint8]
    camera: Camera
    center: tuple[float, float]
    extent: float
    side: Side
    box: tuple[float, float, float, float]
    joints: FloatArray | None = None
    mano: ManoLabels | None = None
    keypoints: FloatArray | None = None
    keypoint_weights: FloatArray | None = None
    visible: NDArray[np.bool_] | None = None
    mask: NDArray[np.uint8] | None = None
    grasp: int | None = None
    scene: str = ""
    tags: Mapping[str, Tag] = field(default_factory=dict)
    picture: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str):
            raise ValueError(f"a sample's key must be text, not {self.key!r}")
        if not self.key or "." in self.key or "/" in self.key:
            raise ValueError(f"a sample's key must be non-empty, without dots and slashes, not '{self.key}'")
        if self.camera.has_distortion:
            raise ValueError(f"sample {self.key}: its camera must be undistorted (a rectified view)")
        try:
            object.__setattr__(self, "side", Side(self.side))
        except ValueError:
            raise ValueError(f"sample {self.key}: side must be 'left' or 'right', not {self.side!r}") from None
        if not isinstance(self.extent, Real) or not 0 < self.extent < np.inf:
            raise ValueError(f"sample {self.key}: extent must be positive and finite, not {self.extent}")
        for name, length in (("center", 2), ("box", 4)):
            value = getattr(self, name)
            if len(value) != length or not np.isfinite(value).all():
                raise ValueError(f"sample {self.key}: {name} must be {length} finite numbers, not {value}")
        x0, y0, x1, y1 = self.box
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"sample {self.key}: box must have x0 < x1 and y0 < y1, not {self.box}")
        wanted: dict[str, tuple[int, ...]] = {
            "image": (CROP_SIZE, CROP_SIZE, 3), "joints": (21, 3), "keypoints": (21, 2), "keypoint_weights": (21,),
            "visible": (21,), "mask": (CROP_SIZE, CROP_SIZE),
            "picture": (self.camera.height, self.camera.width, 3),
        }  # fmt: skip
        values = {name: getattr(self, name) for name in wanted}
        if self.mano is not None:
            wanted |= {"pose": (16, 3, 3), "betas": (10,), "translation": (3,)}
            values |= vars(self.mano)
        for name, shape in wanted.items():
            value = values[name]
            if value is not None or name not in _OPTIONAL:
                _check_array(f"sample {self.key}: {name}", value, shape, _KINDS.get(name))
        if self.mano is not None and not isinstance(self.mano.hand_model, str):
            raise ValueError(f"sample {self.key}: hand_model must be a name, not {self.mano.hand_model!r}")
        if self.mask is not None and not ((self.mask == 0) | (self.mask == HIDDEN) | (self.mask == 255)).all():
            raise ValueError(f"sample {self.key}: mask must hold 255 (hand), 0 (none) and {HIDDEN} (unknown) only")
        weights = self.keypoint_weights
        if weights is not None and (np.isfinite(weights) & ((weights < 0) | (weights > 1))).any():
            raise ValueError(f"sample {self.key}: keypoint_weights must be from 0 to 1, or not finite where unknown")
        if (self.keypoints is None) != (self.keypoint_weights is None):
            raise ValueError(f"sample {self.key}: keypoints and keypoint_weights go together")
        whole = isinstance(self.grasp, Integral) and not isinstance(self.grasp, bool)
        if self.grasp is not None and not (whole and self.grasp in range(GRASP_COUNT)):
            raise ValueError(
                f"sample {self.key}: grasp must be a class, a whole number from 0 to {GRASP_COUNT - 1}, "
                f"not {self.grasp!r}"
            )
        for name in ("source", "scene"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"sample {self.key}: {name} must be a name, not {getattr(self, name)!r}")
        if not isinstance(self.tags, Mapping) or not all(isinstance(v, _TAGS) for v in self.tags.values()):
            raise ValueError(f"sample {self.key}: tags must be names with numbers or words, not {self.tags!r}")
        tags = {name: tag.item() if isinstance(tag, np.generic) else tag for name, tag in self.tags.items()}
        object.__setattr__(self, "tags", tags)


_OPTIONAL = frozenset(f.name for f in fields(Sample) if f.default is None)


def _check_array(name: str, value: object, shape: tuple[int, ...], kind: np.dtype[Any] | None) -> None:
    """Raises ValueError for what is no array of this shape and kind (None: of real numbers)."""
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{name} must be an array of NumPy, not {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} has shape {value.shape}, expected {shape}")
    if value.dtype.kind not in "fiu" if kind is None else value.dtype != kind:
        raise ValueError(f"{name} must hold {kind or 'real numbers'}, not {value.dtype}")


def inside_picture(sample: Sample) -> NDArray[np.bool_]:
    """(224, 224): which pixels of the crop show the picture, and not what lies beyond its border."""
    steps = (np.arange(CROP_SIZE) - (CROP_SIZE - 1) / 2) * (sample.extent / CROP_SIZE)
    x, y = sample.center[0] + steps, sample.center[1] + steps
    columns = (x > -0.5) & (x < sample.camera.width - 0.5)
    rows = (y > -0.5) & (y < sample.camera.height - 0.5)
    return np.asarray(rows[:, None] & columns[None, :])


class SampleSource(Protocol):
    """Something that samples can be taken from: rendered shards, a data set, pseudo-labelled video."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`. Raises SampleError where its data cannot be read."""
        ...

    def __iter__(self) -> Iterator[Sample]: ...


class SampleError(WildHandsError):
    """A sample, or a source of samples, cannot be read; names the file."""
