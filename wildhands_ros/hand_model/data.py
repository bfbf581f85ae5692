"""The numbers of one hand in MANO's format, checked once so that nobody downstream has to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import ModelFileError
from wildhands_ros.hands import Side, seal

FloatArray = NDArray[np.float64]

PARENTS: tuple[int, ...] = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
"""Parent of each MANO joint: wrist, then index, middle, pinky, ring, thumb, each from base to tip."""

ROWS: tuple[tuple[int, ...], ...] = ((1, 4, 7, 10, 13), (2, 5, 8, 11, 14), (3, 6, 9, 12, 15))
"""Joints at the same distance from the wrist, so that a whole row of fingers moves at once."""

SHAPE_COUNT = 10
MANO_TIP_VERTICES = (744, 320, 443, 554, 671)
"""Finger tips of MANO's own mesh (thumb, index, middle, ring, pinky), as smplx's `vertex_ids` has them."""

REQUIRED_KEYS = (
    "v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "hands_mean",
)  # fmt: skip
OPTIONAL_KEYS = ("hands_components", "tip_vertices", "albedo", "region")

_MAX_VERTICES = 20_000
_MAX_FACES = 60_000


@dataclass(frozen=True)
class HandData:
    """One hand, arrays named as in MANO's files and read-only. Metres; V vertices, F faces.

    side: which hand.
    template: (V, 3) vertices of the average hand at rest. faces: (F, 3) int32.
    shapedirs: (V, 3, 10) change of the vertices with each shape coefficient.
    posedirs: (V, 3, 135) change with the joints' rotation matrices minus identity (9 numbers a joint, row by row).
    joint_regressor: (16, V) joints from vertices. weights: (V, 16) of the linear blend skinning.
    hands_mean: (45,) rotation vectors of the mean pose. hands_components: (45, 45) principal components of the pose.
    tip_vertices: (5,) int32, the vertices at the finger tips: thumb, index, middle, ring, pinky.
    albedo: (V, 3) factors on a skin tone (nails, palm, knuckles), ones where the file has none.
    region: (V,) uint8, 0 back, 1 palm, 2 nail, 3 wrist's edge; zeros where the file has none.
    """

    side: Side
    template: FloatArray
    faces: NDArray[np.int32]
    shapedirs: FloatArray
    posedirs: FloatArray
    joint_regressor: FloatArray
    weights: FloatArray
    hands_mean: FloatArray
    hands_components: FloatArray
    tip_vertices: NDArray[np.int32]
    albedo: FloatArray
    region: NDArray[np.uint8]

    def __post_init__(self) -> None:
        seal(self, *(field.name for field in fields(self) if field.name != "side"))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], side: Side, source: str) -> HandData:
        """Takes MANO's arrays by their names in the files, checking every one of them.

        source: the file, for messages. Raises ModelFileError naming it, the array and what is wrong with it.
        """
        check = _Checker(arrays, source)
        count = check.rows("v_template", _MAX_VERTICES)
        faces = check.indices("f", (check.rows("f", _MAX_FACES), 3), count)
        # MANO's official files carry exactly ten; others may carry more
        shapedirs = check.floats("shapedirs", (count, 3, None))
        if shapedirs.shape[2] < SHAPE_COUNT:
            raise check.error("shapedirs", f"has {shapedirs.shape[2]} shape directions, expected {SHAPE_COUNT}")
        template = check.floats("v_template", (count, 3))
        extent = float(np.ptp(template, axis=0).max())
        if not 0.02 < extent < 2:
            raise check.error("v_template", f"is {extent:.3g} across, which is no hand in metres")

        parents = check.floats("kintree_table", (2, 16))[0].astype(np.int64)
        if tuple(parents[1:]) != PARENTS[1:]:
            raise check.error("kintree_table", "is not MANO's joint tree (wrist, index, middle, pinky, ring, thumb)")

        if "tip_vertices" in arrays:
            tips = check.indices("tip_vertices", (5,), count)
        elif count == 778:
            tips = np.array(MANO_TIP_VERTICES, dtype=np.int32)
        else:
            raise check.error("tip_vertices", f"is missing, and {count} vertices are not MANO's 778")
        return cls(
            side=side,
            template=template,
            faces=faces,
            shapedirs=shapedirs[:, :, :SHAPE_COUNT],
            posedirs=check.floats("posedirs", (count, 3, 135)),
            joint_regressor=check.weights("J_regressor", (16, count)),
            weights=check.weights("weights", (count, 16)),
            hands_mean=check.floats("hands_mean", (45,)),
            hands_components=check.floats("hands_components", (45, 45), np.eye(45)),
            tip_vertices=tips,
            albedo=check.floats("albedo", (count, 3), np.ones((count, 3))),
            region=check.floats("region", (count,), np.zeros(count)).astype(np.uint8),
        )


@dataclass(frozen=True)
class _Checker:
    """Takes arrays out of a file's mapping, or says what is wrong with them."""

    arrays: Mapping[str, np.ndarray]
    source: str

    def error(self, key: str, problem: str) -> ModelFileError:
        return ModelFileError(
            f"{self.source}: '{key}' {problem}. This is not a usable MANO-format hand; take MANO_RIGHT.pkl and "
            "MANO_LEFT.pkl as they come from https://mano.is.tue.mpg.de (models and code, mano_v1_2), or leave the "
            "path empty to use the open hand"
        )

    def rows(self, key: str, largest: int) -> int:
        array = self._numbers(key)
        if array.ndim == 0 or not 1 <= len(array) <= largest:
            raise self.error(key, f"has shape {array.shape}, expected 1 to {largest} rows")
        return len(array)

    def floats(self, key: str, shape: tuple[int | None, ...], default: FloatArray | None = None) -> FloatArray:
        if default is not None and key not in self.arrays:
            return default
        array = self._numbers(key)
        if array.ndim != len(shape) or any(want not in (None, n) for n, want in zip(array.shape, shape, strict=True)):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise self.error(key, f"has shape {array.shape}, expected ({wanted})")
        array = np.ascontiguousarray(array, dtype=np.float64)
        if not np.isfinite(array).all():
            raise self.error(key, "contains NaN or infinity")
        return array

    def weights(self, key: str, shape: tuple[int, ...]) -> FloatArray:
        array = self.floats(key, shape)
        sums = array.sum(axis=1)
        if np.abs(sums - 1).max() > 1e-2:
            raise self.error(key, f"has rows that sum to {sums.min():.3g} … {sums.max():.3g}, expected 1")
        return array

    def indices(self, key: str, shape: tuple[int, ...], count: int) -> NDArray[np.int32]:
        array = self.floats(key, shape)
        if (array != np.round(array)).any() or array.min() < 0 or array.max() >= count:
            raise self.error(key, f"has indices outside 0 … {count - 1}")
        return array.astype(np.int32)

    def _numbers(self, key: str) -> np.ndarray:
        if key not in self.arrays:
            raise self.error(key, "is missing")
        array = self.arrays[key]
        if array.dtype.kind not in "fiub":
            raise self.error(key, f"holds {array.dtype}, expected numbers")
        return array
