"""Quality of a match on simulated skies: scatter, density and chance are found as they were put in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from mmu_pipeline.candidates import Positions
from mmu_pipeline.chance import BINS, Counts, Probe, along_the_sky, count, edges, shifted, total
from mmu_pipeline.separations import assess
from mmu_pipeline.sky import arcsec, healpix29, unit_vectors


def patch(rng: np.random.Generator, size: int, centre: tuple[float, float], half_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over a patch around a centre, half_deg wide in each direction."""
    low, high = (np.sin(np.radians(centre[1] + side * half_deg)) for side in (-1, 1))
    dec = np.degrees(np.arcsin(rng.uniform(low, high, size)))
    width = half_deg / np.cos(np.radians(centre[1]))
    return np.mod(centre[0] + rng.uniform(-width, width, size), 360.0), dec


def field(ra: np.ndarray, dec: np.ndarray) -> Positions:
    return along_the_sky(ra, dec)[0]


def sky(rng: np.random.Generator, true: int, sigma: float, density: float, centre: tuple[float, float] = (359.9, 30.0)):
    """Primaries of a patch, 2500 with `true` counterparts scattered by sigma, on a background of some per square arcmin."""
    ra, dec = patch(rng, 2500, centre, 0.4)
    right, up = patch(rng, int(density * (1.0 * 60) ** 2), centre, 0.5)
    north, east = rng.normal(0, sigma / 3600, (2, true))
    found = np.mod(ra[:true] + east / np.cos(np.radians(dec[:true])), 360.0), dec[:true] + north
    return ra, dec, field(np.concatenate([right, found[0]]), np.concatenate([up, found[1]]))


@pytest.mark.parametrize("pick", ["nearest", "all"])
@pytest.mark.parametrize(("true", "sigma", "density"), [(2000, 0.3, 4.0), (1000, 0.1, 20.0), (2400, 0.5, 0.2)])
def test_what_was_put_in_is_found(true: int, sigma: float, density: float, pick: str) -> None:
    rng = np.random.default_rng(7)
    ra, dec, counterpart = sky(rng, true, sigma, density)
    counts = count(ra, dec, counterpart, 2.0, Probe(shifts=8, shift_arcsec=60.0))
    found = assess(counts, 8, pick)
    assert found.fit.sigma_arcsec is not None
    assert found.fit.sigma_arcsec.value == pytest.approx(sigma, abs=4 * found.fit.sigma_arcsec.error)
    assert found.fit.sigma_arcsec.error < 0.05 * sigma
    assert found.fit.true_fraction.value == pytest.approx(true / 2500, abs=4 * found.fit.true_fraction.error)
    # True counterparts stand among chance ones: their own density adds to the background's.
    here = density + true / (0.8 * 60) ** 2
    assert found.chance_per_arcmin2.value == pytest.approx(here, abs=4 * found.chance_per_arcmin2.error)
    assert found.fit.chance_per_arcmin2.value == pytest.approx(here, abs=4 * found.fit.chance_per_arcmin2.error)
    assert found.lost_beyond_radius == pytest.approx(np.exp(-0.5 * (2.0 / sigma) ** 2), rel=0.5)


def test_the_share_of_false_matches_is_that_of_the_truth() -> None:
    """`nearest` on a crowded sky: the rate beside what the simulation knows."""
    rng = np.random.default_rng(8)
    ra, dec, counterpart = sky(rng, 1500, 0.3, 60.0)
    chord, nearest = cKDTree(unit_vectors(counterpart.ra, counterpart.dec)).query(unit_vectors(ra, dec))
    matched = arcsec(chord) <= 2.0
    rng = np.random.default_rng(8)
    ra, dec = patch(rng, 2500, (359.9, 30.0), 0.4)
    right, up = patch(rng, int(60.0 * 3600), (359.9, 30.0), 0.5)
    background = set(healpix29(right, up).tolist())
    false = sum(int(counterpart.index[nearest[row]]) in background for row in np.flatnonzero(matched))
    found = assess(count(ra, dec, counterpart, 2.0, Probe(8, 60.0)), 8, "nearest")
    assert false > 100
    assert found.false_rate.value == pytest.approx(false / matched.sum(), rel=0.2)


def test_of_an_unrelated_counterpart_all_is_chance() -> None:
    rng = np.random.default_rng(9)
    ra, dec, counterpart = sky(rng, 0, 0.3, 30.0)
    found = assess(count(ra, dec, counterpart, 2.0, Probe(6, 60.0)), 6, "nearest")
    assert found.fit.sigma_arcsec is None
    assert found.fit.true_fraction.value < 0.02
    assert found.false_rate.value == pytest.approx(1.0, abs=4 * found.false_rate.error + 0.05)
    assert found.lost_beyond_radius is None


def test_without_any_pair_nothing_is_claimed() -> None:
    found = assess(Counts(1.0, 100, 0, [0] * BINS, [0] * BINS, 0), 6, "nearest")
    assert (found.fit.true_fraction.value, found.fit.sigma_arcsec, found.matched_fraction) == (0.0, None, 0.0)
    assert found.chance_per_arcmin2.value == 0.0 < found.chance_per_arcmin2.error


def test_counts_equal_brute_force_and_do_not_care_how_the_sky_is_cut() -> None:
    rng = np.random.default_rng(10)
    for centre in ((0.0, 0.0), (123.0, 89.9), (45.0, -89.95)):
        ra, dec = patch(rng, 300, centre, 0.05)
        right, up = patch(rng, 2000, centre, 0.05)
        counterpart, probe = field(right, up), Probe(4, 40.0, seed=3)
        whole = count(ra, dec, counterpart, 4.0, probe)
        separation = arcsec(
            np.linalg.norm(unit_vectors(ra, dec)[:, None] - unit_vectors(counterpart.ra, counterpart.dec)[None], axis=2)
        )
        assert whole.observed == np.histogram(separation, edges(4.0))[0].tolist()
        assert whole.matched == np.count_nonzero(separation.min(axis=1) <= 4.0)
        half = rng.random(300) < 0.5
        assert total([count(ra[part], dec[part], counterpart, 4.0, probe) for part in (half, ~half)]) == whole


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 359.99), st.floats(-90, 90), st.floats(1, 3600), st.floats(0, 360))
def test_shifted_places_lie_at_the_distance(ra: float, dec: float, distance: float, angle: float) -> None:
    right, up = np.array([ra]), np.array([dec])
    here, there = unit_vectors(right, up), unit_vectors(*shifted(right, up, distance, angle))
    assert arcsec(np.linalg.norm(here - there, axis=1))[0] == pytest.approx(distance, abs=1e-6)


def test_a_sample_is_a_fair_share_of_the_sky_and_follows_the_seed() -> None:
    rng = np.random.default_rng(11)
    index = healpix29(*patch(rng, 100_000, (80.0, 20.0), 5.0))
    for halvings in (1, 4):
        taken = Probe(6, 60.0, halvings).takes(index)
        assert taken.mean() == pytest.approx(0.5**halvings, rel=0.05)
        assert not np.array_equal(taken, Probe(6, 60.0, halvings, seed=1).takes(index))
