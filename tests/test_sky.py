"""Cells, margins and ranges."""

from __future__ import annotations

from itertools import pairwise

import healpy as hp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu_pipeline.sky import (
    Cell,
    cells_touching,
    cone_cells,
    healpix29,
    in_ranges,
    is_position,
    margin_ranges,
    merge_ranges,
    pixels_at,
)
from tests.skies import scattered


@given(pixel=st.integers(0, 3071), radius=st.floats(0.1, 3600.0), seed=st.integers(0, 2**32 - 1))
def test_every_point_within_the_radius_of_a_cell_is_in_its_margin(pixel: int, radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    edge = hp.boundaries(16, pixel, step=100, nest=True).T
    ra, dec = scattered(rng, edge[rng.integers(len(edge), size=200)], radius)
    assert in_ranges(healpix29(ra, dec), margin_ranges(Cell(4, pixel), radius)).all()


@pytest.mark.parametrize("pixel", [0, 255, 1104, 3071])
def test_margins_do_not_reach_much_further_than_they_must(pixel: int) -> None:
    ranges = margin_ranges(Cell(4, pixel), 1.0)
    extra = sum(stop - start for start, stop in ranges) / (Cell(4, pixel).range[1] - Cell(4, pixel).range[0])
    assert 1.0 < extra < 1.08


def test_published_row_of_sdss_lies_in_its_nested_cell() -> None:
    index = healpix29(np.array([33.85404]), np.array([14.426352]))
    assert pixels_at(index, 4).tolist() == [33]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=8))
def test_merged_ranges_hold_the_same_numbers(ranges: list[tuple[int, int]]) -> None:
    merged = merge_ranges(ranges)
    assert {n for start, stop in merged for n in range(start, stop)} == {n for start, stop in ranges for n in range(start, stop)}
    assert all(one[1] < other[0] for one, other in pairwise(merged))
    inside = in_ranges(np.arange(80), merged)
    assert np.flatnonzero(inside).tolist() == sorted({n for start, stop in ranges for n in range(start, stop)})


def test_positions_off_the_sphere_are_told() -> None:
    ra = np.array([0.0, 360.0, 360.1, -0.1, np.nan, 10.0, np.inf])
    dec = np.array([90.0, -90.0, 0.0, 0.0, 0.0, 90.1, 0.0])
    assert is_position(ra, dec).tolist() == [True, True, False, False, False, False, False]


def test_a_cone_over_the_pole_touches_the_four_cells_there() -> None:
    assert {cell.pixel for cell in cone_cells(0.0, 90.0, 0.1)} == {255, 511, 767, 1023}


def test_cells_touching_a_cells_range_are_the_cell() -> None:
    assert cells_touching((Cell(4, 7).range,), 4) == [Cell(4, 7)]
    assert cells_touching((Cell(4, 7).range,), 2) == [Cell(2, 0)]
