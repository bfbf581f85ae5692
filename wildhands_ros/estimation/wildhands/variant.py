"""Which network: everything that decides its architecture and how its inputs are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

from wildhands_ros.errors import ModelFileError
from wildhands_ros.estimation.wildhands.kpe import Encoding
from wildhands_ros.estimation.wildhands.trunks import Trunk
from wildhands_ros.settings import config_to_dict

GRASPS = ("NP-Palm", "NP-Fin", "Pow-Pris", "Pre-Pris", "Pow-Circ", "Pre-Circ", "Later", "Other", "none")
"""Classes of the grasp head: (non-)prehensile, power or precision, prismatic or circular, lateral."""


class Crops(str, Enum):
    """How the network's pictures are cut."""

    PUBLISHED = "published"
    """From the blurred 224 frame, with the published code's integer boxes: what its weights expect."""
    SHARP = "sharp"
    """From the full-resolution picture, anti-aliased."""


class Perspective(str, Enum):
    """What is done about a crop's perspective besides encoding it."""

    NONE = "none"
    CORRECTION = "correction"
    """The global orientation is predicted relative to the crop's ray, and turned by it."""
    CROP = "crop"
    """Perspective crop layers: the crop is what a camera turned to it sees; orientation and place turn back."""


class Translation(str, Enum):
    """What a head's camera means, see `network.hand_translation`."""

    METRIC = "metric"
    CROP = "crop"


@dataclass(frozen=True)
class Variant:
    """A network's configuration, stored inside its checkpoint. The defaults are the published network.

    frame_trunk: whether a second trunk sees the whole frame. grasp: whether there is a grasp head.
    fusion: channels of the three convolutions after the trunks; features, hidden: widths of the vectors that follow.
    box_factor: edge of the crop over the longer edge of the hand's box.
    mirror: left hands are shown to the network as right hands, in a mirrored picture, and its answers are mirrored
        back; one head serves both sides.
    root: metres, where the right hand's wrist lies in the hand model at rest. What the head places is this point, not
        the model's origin, which may lie far from the hand. The published network places the origin.
    keypoints: 2D keypoints are read off heat maps first, and the heads see them, and the encoding, beside the features.
    depths: with keypoints, it is also read off there how much farther than the wrist each of them lies.
    upright: the picture is turned about its principal point until the hand points up, which is the same as rolling the
        camera; answers are rolled back, see `upright`. The network says which way the hand points in what it is shown,
        so that it can be shown again where that is not up.
    roll_margin: edge of the square that a rolled crop is made from, over the crop's own: as far as that reaches, its
        corners show the picture, beyond they are black. Whatever the network was trained with.
    """

    encoding: Encoding = Encoding.SPARSE
    trunk: Trunk = Trunk.RESNET50
    frame_trunk: bool = True
    grasp: bool = False
    crops: Crops = Crops.PUBLISHED
    perspective: Perspective = Perspective.NONE
    translation: Translation = Translation.METRIC
    fusion: tuple[int, int, int] = (1024, 512, 256)
    features: int = 2048
    hidden: int = 1024
    box_factor: float = 1.75
    mirror: bool = False
    root: tuple[float, float, float] = (0.0, 0.0, 0.0)
    keypoints: bool = False
    depths: bool = False
    upright: bool = False
    roll_margin: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(field.default, Enum):  # whose members may be given by their names
                value = _converted(field.name, type(field.default), getattr(self, field.name))
                object.__setattr__(self, field.name, value)
        sizes = (*self.fusion, self.features, self.hidden)
        if len(self.fusion) != 3 or not all(type(size) is int and 1 <= size <= 8192 for size in sizes):
            raise ModelFileError(f"layer widths must lie between 1 and 8192, not {sizes}")
        if not 0.5 <= self.box_factor <= 10:
            raise ModelFileError(f"box_factor must lie between 0.5 and 10, not {self.box_factor}")
        if self.perspective is Perspective.CROP and self.crops is Crops.PUBLISHED:
            raise ModelFileError("perspective crops are cut from the full-resolution picture: crops must be 'sharp'")
        if len(self.root) != 3 or not all(abs(v) < 1 for v in self.root):
            raise ModelFileError(f"root must be three numbers within a metre, not {self.root}")
        if any(self.root) and not self.mirror:
            raise ModelFileError("root is the right hand's: it needs mirror, so that every hand is one")
        if self.keypoints and (self.trunk is not Trunk.LANDMARKS_FINE or self.frame_trunk):
            raise ModelFileError("keypoints are read off the trunk 'landmarks-fine', over crops only")
        if self.keypoints and self.encoding in (Encoding.DENSE, Encoding.INPUT, Encoding.CAMCONV):
            raise ModelFileError("with keypoints the encoding must be one vector, not 'dense', 'input' or 'camconv'")
        if self.depths and not self.keypoints:
            raise ModelFileError("depths are those of the keypoints: they need keypoints")
        if self.upright and (self.frame_trunk or self.crops is Crops.PUBLISHED):
            raise ModelFileError("a network of upright hands sees crops only: no frame_trunk, crops 'sharp'")
        if self.upright and self.trunk is not Trunk.LANDMARKS_FINE:
            raise ModelFileError("upright hands need the trunk 'landmarks-fine', off which it is read where up is")
        if not 1 <= self.roll_margin <= 4:
            raise ModelFileError(f"roll_margin must lie between 1 and 4, not {self.roll_margin}")
        if self.roll_margin > 1 and not self.upright:
            raise ModelFileError("roll_margin is that of rolled crops: it needs upright")
        if self.mirror and (self.frame_trunk or self.crops is Crops.PUBLISHED):
            raise ModelFileError("a network that mirrors left hands sees crops only: no frame_trunk, crops 'sharp'")

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return config_to_dict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Variant:
        """The inverse of `to_dict`. Raises ModelFileError naming what it does not know."""
        defaults = cls()
        arguments: dict[str, object] = {}
        for name, value in values.items():
            default = getattr(defaults, name, None)
            if default is None:
                raise ModelFileError(f"unknown entry '{name}': the checkpoint was written by a newer version")
            arguments[name] = _converted(name, type(default), value)
        return cls(**arguments)  # type: ignore[arg-type]


def _converted(name: str, kind: type, value: object) -> object:
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            known = ", ".join(str(member.value) for member in kind)
            raise ModelFileError(f"unknown {name} '{value}': known are {known}") from None
    if kind is tuple and isinstance(value, list) and all(type(v) in (int, float) for v in value):
        return tuple(value)
    if kind is float and type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]
    if type(value) is kind:
        return value
    raise ModelFileError(f"'{name}' must be a {kind.__name__}, not {value!r}")
