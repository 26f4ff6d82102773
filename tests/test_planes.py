"""Planes of an image in any order, under any name, to the order of the bands."""

from __future__ import annotations

import numpy as np
import pytest

from mmu_pipeline.errors import BrokenSource
from mmu_pipeline.fields import Field
from mmu_pipeline.readers.planes import has_planes, in_order_of_bands


def field(dtype: str = "float32", **changes: object) -> Field:
    model = {"name": "image", "dtype": dtype, "shape": [3, 2, 2], "bands": ["g", "r", "z"], "band_aliases": {"des-g": "g"}}
    return Field.model_validate({**model, **changes})


def planes(*rows: str) -> tuple[np.ndarray, np.ndarray]:
    """Planes that hold the number of their band in every pixel, and their names."""
    names = np.array([row.split(",") for row in rows])
    numbers = {"g": 0, "des-g": 0, "r": 1, "z": 2, "x": 9}
    values = np.array([[np.full((2, 2), numbers[name], "f4") for name in row] for row in names])
    return values, names.astype("S8")


def test_each_row_is_put_in_order_by_its_own_names() -> None:
    values, names = planes("z,des-g,r", "g,r,z")
    found = in_order_of_bands(field(), values, names)
    np.testing.assert_array_equal(found[:, :, 0, 0], [[0, 1, 2], [0, 1, 2]])


def test_planes_in_order_are_not_copied() -> None:
    values, names = planes("g,r,z")
    assert in_order_of_bands(field(), values, names) is values


@pytest.mark.parametrize(
    ("changes", "missing"),
    [({}, np.nan), ({"dtype": "bool", "true_means": "good"}, False), ({"dtype": "bool", "true_means": "bad"}, True)],
)
def test_a_band_that_is_not_there_is_no_data(changes: dict[str, object], missing: float) -> None:
    values, names = planes("z,r")
    kind = values.astype("f4" if changes == {} else bool)
    found = in_order_of_bands(field(**changes), kind, names)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found[0, 0], np.full((2, 2), missing))
    np.testing.assert_array_equal(found[0, 2], kind[0, 0])


@pytest.mark.parametrize(("row", "match"), [("g,x,z", "unknown band"), ("g,g,z", "stands twice"), ("g,des-g,z", "stands twice")])
def test_names_that_are_wrong_are_refused(row: str, match: str) -> None:
    with pytest.raises(BrokenSource, match=match):
        in_order_of_bands(field(), *planes(row))


def test_there_must_be_one_name_per_plane() -> None:
    values, names = planes("g,r,z")
    with pytest.raises(BrokenSource, match="not one band per plane"):
        in_order_of_bands(field(), values, names[:, :2])


def test_only_images_have_planes() -> None:
    assert has_planes(field())
    assert not has_planes(field(bands=[], band_aliases={}))
    assert not has_planes(field(shape=["observation"]))
    assert not has_planes(field(shape=[2, 2]))
