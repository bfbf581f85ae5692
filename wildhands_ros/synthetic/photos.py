"""Real photographs with an open licence, for demonstrations and tests.

They come with the library deodr (https://github.com/martinResearch/DEODR, BSD 2-Clause, copyright Martin de La Gorce)
and are read from its installation; none is kept here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wildhands_ros.errors import ImageError, WildHandsError
from wildhands_ros.libraries import how_to_get

PHOTO_LICENSE = (
    "Photographs of a hand from deodr (https://github.com/martinResearch/DEODR), copyright Martin de La Gorce, "
    "BSD 2-Clause licence."
)

_FILES = ("hand.png", "hand_multiview/IMG-1842.jpg", "hand_multiview/IMG-1843.jpg", "hand_multiview/IMG-1844.jpg")


def demo_photos() -> list[tuple[str, NDArray[np.uint8]]]:
    """Names and RGB pictures (H, W, 3) of one hand, see `PHOTO_LICENSE`.

    Raises WildHandsError where deodr is not installed, ImageError where a picture cannot be read.
    """
    spec = find_spec("deodr")
    if spec is None or spec.origin is None:
        raise WildHandsError(f"the demonstration photographs come with deodr: {how_to_get('deodr trimesh')}")
    folder = Path(spec.origin).parent / "data"
    photos = []
    for name in _FILES:
        path = folder / name
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ImageError(f"cannot read {path}: install deodr again (pip install --force-reinstall deodr)")
        photos.append((path.name, np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)))
    return photos
