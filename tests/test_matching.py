"""The kernel against brute force, astropy and the definition."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st

from mmu_pipeline.candidates import Positions, candidates
from mmu_pipeline.matching import match
from mmu_pipeline.sky import arcsec
from tests.skies import KINDS, brute_force, centres, scattered


def positions(rng: np.random.Generator, points: np.ndarray, spread: float) -> Positions:
    ra, dec = scattered(rng, points, spread)
    return Positions(ra, dec, pa.array(rng.permutation(len(ra))))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    radius=st.sampled_from([0.5, 1.0, 30.0, 3600.0]),
    pick=st.sampled_from(["nearest", "mutual", "all"]),
    sizes=st.tuples(st.integers(0, 25), st.integers(0, 25)),
)
def test_match_equals_brute_force(seed: int, kind: str, radius: float, pick: str, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    points = centres(kind, rng, 6)
    left, right = (positions(rng, points[rng.integers(6, size=size)], 1.5 * radius) for size in sizes)
    found = match(left, right, radius, pick)
    assert set(zip(found.primary.tolist(), found.counterpart.tolist(), strict=True)) == brute_force(left, right, radius, pick)


@pytest.mark.parametrize("pick", ["nearest", "mutual", "all"])
def test_ties_of_coincident_points_break_by_id(pick: str) -> None:
    here = np.full(3, 10.0)
    left = Positions(here[:2], here[:2], pa.array([1, 0]))
    right = Positions(here, here, pa.array([2, 0, 1]))
    found = match(left, right, 1.0, pick)
    pairs = list(zip(found.primary.tolist(), found.counterpart.tolist(), strict=True))
    expected = {"nearest": [(0, 1), (1, 1)], "mutual": [(1, 1)], "all": [(0, 1), (0, 2), (0, 0), (1, 1), (1, 2), (1, 0)]}
    assert pairs == expected[pick]
    assert found.n_candidates.tolist() == [3] * len(pairs)
    assert found.rank.tolist() == ([1, 2, 3] * 2 if pick == "all" else [1] * len(pairs))


def test_small_separations_are_right_to_a_microarcsecond() -> None:
    offsets = np.array([1e-6, 1e-4, 1e-2, 0.5])
    ra, dec = np.full(4, 200.0), np.array([-60.0, 0.0, 30.0, 89.0])
    primary = Positions(ra, dec, pa.array(np.arange(4)))
    moved = Positions(ra, dec + offsets / 3600.0, pa.array(np.arange(4)))
    assert match(primary, moved, 1.0).separation_arcsec == pytest.approx(offsets, abs=1e-6, rel=1e-6)


def test_pairs_equal_those_of_astropy_search_around_sky() -> None:
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 2, 3000) % 360, rng.uniform(-1, 1, 3000)
    other_ra, other_dec = rng.uniform(0, 2, 4000), rng.uniform(-1, 1, 4000)
    left, right = (Positions(*place, pa.array(np.arange(len(place[0])))) for place in ((ra, dec), (other_ra, other_dec)))
    parts = list(candidates(left, right, 40.0))
    i, j, distance = map(np.concatenate, zip(*parts, strict=True))
    one, two = SkyCoord(ra, dec, unit="deg"), SkyCoord(other_ra, other_dec, unit="deg")
    astropy_j, astropy_i, separation, _ = one.search_around_sky(two, 40 * u.arcsec)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == set(zip(astropy_i.tolist(), astropy_j.tolist(), strict=True))
    ours = dict(zip(zip(i.tolist(), j.tolist(), strict=True), arcsec(distance), strict=True))
    theirs = [ours[int(a), int(b)] for a, b in zip(astropy_i, astropy_j, strict=True)]
    assert theirs == pytest.approx(separation.arcsec, abs=1e-6)


def test_empty_catalogs_match_nothing() -> None:
    none, one = Positions(*(np.empty(0),) * 2, pa.array([], pa.int64())), Positions(np.zeros(1), np.zeros(1), pa.array([0]))
    for left, right in ((none, one), (one, none), (none, none)):
        assert len(match(left, right, 1.0).primary) == 0
