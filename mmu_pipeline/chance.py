"""Some primaries and a counterpart to how often counterparts lie near them, and near places where only chance puts one.

The places are the primaries' own positions moved by one distance in several directions on the sphere, which is to match with
shifted copies of the counterpart. The distance is far beyond a match, yet so small that the density of the sky is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmu_pipeline.candidates import Positions, candidates
from mmu_pipeline.scramble import scrambled
from mmu_pipeline.sky import Bool, Float, Int, arcsec, healpix29, unit_vectors

BINS = 40
"""Bins of a histogram of separations, from 0 to twice the radius: beyond it lies what the radius cuts off, and the background."""
SPAN = 2.0
"""Where the histogram ends, in radii."""


@dataclass(frozen=True)
class Probe:
    """Where chance is measured. Small: it travels with each unit of a match."""

    shifts: int
    shift_arcsec: float
    halvings: int = 0
    """One primary of 2 ** halvings is taken, by a hash of its place: the same, however the sky is cut into units."""
    seed: int = 0

    def takes(self, index: Int) -> Bool:
        """Whether rows are taken, by their `_healpix_29`. Shape (n,)."""
        if not self.halvings:
            return np.ones(len(index), bool)
        mixed = scrambled(index.astype(np.uint64) + np.uint64(self.seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF))
        return np.asarray(mixed >> np.uint64(64 - self.halvings) == 0)


@dataclass(frozen=True)
class Counts:
    """Pairs by separation, in bins of equal width from 0 to SPAN radii. Those of several units are added."""

    radius_arcsec: float
    primaries: int
    matched: int
    """Primaries with a counterpart within the radius."""
    observed: list[int]
    """Pairs in each bin: all candidates, since only of those chance gives a number that grows with the area."""
    chance: list[int]
    """The same around all of the shifted places."""
    chance_matched: int
    """Shifted places with a counterpart within the radius."""


def total(parts: Sequence[Counts]) -> Counts:
    """The sum of the counts of some parts of the sky; at least one."""
    return Counts(
        radius_arcsec=parts[0].radius_arcsec,
        primaries=sum(part.primaries for part in parts),
        matched=sum(part.matched for part in parts),
        observed=np.sum([part.observed for part in parts], axis=0).tolist(),
        chance=np.sum([part.chance for part in parts], axis=0).tolist(),
        chance_matched=sum(part.chance_matched for part in parts),
    )


def edges(radius_arcsec: float) -> Float:
    """Bounds of the bins in arcsec, shape (BINS + 1,)."""
    return np.linspace(0.0, SPAN * radius_arcsec, BINS + 1)


def along_the_sky(ra: Float, dec: Float) -> tuple[Positions, Int]:
    """Positions in `_healpix_29` order, degrees, and which of the given rows each is."""
    index = healpix29(ra, dec)
    rows = np.argsort(index, kind="stable")
    return Positions(ra[rows], dec[rows], pa.nulls(len(rows)), index[rows]), rows


def count(
    ra: Float, dec: Float, field: Positions, radius_arcsec: float, probe: Probe,
    slack_arcsec: float = 0.0, pair_chord: Callable[[Int, Int], Float] | None = None,
) -> Counts:  # fmt: skip
    """Count rows of a counterpart near primaries, at `ra` and `dec` in degrees, and near their shifted places.

    `field` are the rows around, at the epoch of the match. With `pair_chord`, (primary rows, counterpart rows) -> chord,
    separations of observed pairs are those that it gives, and may be up to `slack_arcsec` smaller than those of the positions.
    Chance does not care for the epoch of each pair.
    """
    observed, matched = _near(ra, dec, field, radius_arcsec, slack_arcsec, pair_chord)
    turns = 360.0 * np.arange(probe.shifts) / probe.shifts
    places = [shifted(ra, dec, probe.shift_arcsec, turn) for turn in turns.tolist()]
    around_ra, around_dec = (np.concatenate(angles) for angles in zip(*places, strict=True))
    chance, chance_matched = _near(around_ra, around_dec, field, radius_arcsec)
    return Counts(radius_arcsec, len(ra), matched, observed.tolist(), chance.tolist(), chance_matched)


def shifted(ra: Float, dec: Float, distance_arcsec: float, angle_deg: float) -> tuple[Float, Float]:
    """Positions moved along great circles by a distance, at an angle east of north; degrees, shape (n,) each."""
    lon, lat = np.radians(ra), np.radians(dec)
    step, angle = np.radians(distance_arcsec / 3600.0), np.radians(angle_deg)
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=-1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=-1)
    place = np.cos(step) * unit_vectors(ra, dec) + np.sin(step) * (np.sin(angle) * east + np.cos(angle) * north)
    return np.mod(np.degrees(np.arctan2(place[:, 1], place[:, 0])), 360.0), np.degrees(
        np.arctan2(place[:, 2], np.hypot(place[:, 0], place[:, 1]))
    )


def _near(
    ra: Float, dec: Float, field: Positions, radius_arcsec: float,
    slack_arcsec: float = 0.0, pair_chord: Callable[[Int, Int], Float] | None = None,
) -> tuple[Int, int]:  # fmt: skip
    """Pairs in each bin of separation, and places with one within the radius."""
    pairs, matched = np.zeros(BINS, np.int64), 0
    bounds = edges(radius_arcsec)
    for i, j, distance in candidates(Positions(ra, dec, pa.nulls(len(ra))), field, SPAN * radius_arcsec + slack_arcsec):
        separation = arcsec(distance if pair_chord is None else pair_chord(i, j))
        pairs += np.histogram(separation, bounds)[0]
        matched += len(np.unique(i[separation <= radius_arcsec]))
    return pairs, matched
