"""Dark and flat pictures."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from wildhands_ros.exposure import well_exposed

Image = NDArray[np.uint8]


def picture(low: float, high: float, shape: tuple[int, int] = (240, 320)) -> Image:
    """Every value between two grey levels, equally often."""
    values = np.random.default_rng(2).uniform(low, high, (*shape, 3))
    return values.round().astype(np.uint8)


def ends(image: Image) -> list[float]:
    low, high = np.percentile(image, [1, 99])
    return [float(low), float(high)]


@pytest.mark.parametrize(("low", "high"), [(0, 255), (10, 200), (60, 250)])
def test_usual_pictures_stay_as_they_are(low: float, high: float) -> None:
    image = picture(low, high)
    assert well_exposed(image) is image


@pytest.mark.parametrize(("low", "high"), [(0, 12), (3, 60), (150, 220), (100, 110)])
def test_dark_and_flat_pictures_fill_the_scale(low: float, high: float) -> None:
    image = picture(low, high)
    found = well_exposed(image)
    assert ends(found) == pytest.approx([5, 240], abs=2)
    assert found.shape == image.shape and found.dtype == np.uint8
    colours = np.unique(image)
    becomes = [np.unique(found[image == value]) for value in colours]
    assert all(len(values) == 1 for values in becomes)  # the same in every channel
    assert np.all(np.diff(np.concatenate(becomes).astype(int)) > 0)


def test_nothing_jumps_where_a_picture_grows_darker() -> None:
    means = [float(well_exposed(picture(0, high)).mean()) for high in range(170, 60, -2)]
    assert np.abs(np.diff(means)).max() < 4


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (400, 1)])
def test_pictures_of_one_value_and_any_shape(value: int, shape: tuple[int, int]) -> None:
    found = well_exposed(np.full((*shape, 3), value, np.uint8))
    assert found.shape == (*shape, 3) and len(np.unique(found)) == 1


def test_a_few_lights_do_not_make_a_picture_bright() -> None:
    image = picture(0, 20)
    image[:2, :30] = 255
    assert ends(well_exposed(image)) == pytest.approx([5, 240], abs=3)


def test_parts_of_larger_arrays_are_pictures_too() -> None:
    whole = picture(0, 20)
    part = whole[10:200:2, ::-1]
    np.testing.assert_array_equal(well_exposed(part), well_exposed(part.copy()))
