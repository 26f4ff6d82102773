"""Positions to cells and back: HEALPix NESTED arithmetic, margins, coverage. Pure NumPy and healpy, angles in degrees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import healpy as hp
import numpy as np
import numpy.typing as npt

Int = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

CELL_ORDER = 4
"""Order of the unit of work: nside 16, 3072 cells of 13.4 square degrees."""
INDEX_ORDER = 29
"""Order of `_healpix_29`: the deepest that fits 64 bits; 0.4 milliarcsecond pixels."""
MARGIN_LEVELS = 6
"""How much deeper than a cell the pixels may be of which its margin is made: 260 of them go around it."""
RESOLUTION_ORDER_0_ARCSEC = float(np.degrees(np.sqrt(np.pi / 3)) * 3600)
"""Square root of the area of one order-0 pixel (Gorski et al. 2005, eq. 1: 4 pi / 12 steradians)."""
NARROWEST = 0.47
"""Distance between opposite sides of a pixel over the square root of its area, at least: 0.479 at the east and west corners of
the polar base pixels."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One NESTED HEALPix pixel."""

    order: int
    pixel: int

    @property
    def range(self) -> tuple[int, int]:
        """First and one-past-last `_healpix_29` of this cell."""
        shift = 2 * (INDEX_ORDER - self.order)
        return self.pixel << shift, (self.pixel + 1) << shift

    def __str__(self) -> str:
        return str(self.pixel) if self.order == CELL_ORDER else f"{self.order}/{self.pixel}"


def healpix29(ra: Float, dec: Float) -> Int:
    """`_healpix_29` of positions in degrees. Shape (n,), int64. Raises ValueError on positions off the sphere."""
    return np.asarray(hp.ang2pix(1 << INDEX_ORDER, np.mod(ra, 360.0), dec, nest=True, lonlat=True), np.int64)


def is_position(ra: Float, dec: Float) -> Bool:
    """Whether each (ra, dec) in degrees is a finite point of the sphere, 0 <= ra <= 360."""
    return np.isfinite(ra) & np.isfinite(dec) & (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)


def pixels_at(index: Int, order: int) -> Int:
    """Pixel at `order` that holds each `_healpix_29`."""
    return index >> (2 * (INDEX_ORDER - order))


def unit_vectors(ra: Float, dec: Float) -> Float:
    """Cartesian unit vectors, shape (n, 3), of positions in degrees."""
    lon, lat = np.radians(ra), np.radians(dec)
    cos_lat = np.cos(lat)
    return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)], axis=-1)


def chord(arcsec: float | Float) -> Any:
    """Straight-line distance on the unit sphere of an angle in arcsec."""
    return 2.0 * np.sin(np.radians(np.asarray(arcsec) / 3600.0) / 2.0)


def arcsec(chord_length: Float) -> Float:
    """Angle in arcsec of a straight-line distance on the unit sphere; keeps its precision at small angles, unlike arccos."""
    return np.degrees(2.0 * np.arcsin(np.minimum(chord_length / 2.0, 1.0))) * 3600.0


def margin_order(radius_arcsec: float, deepest: int = 12) -> int:
    """Deepest order whose pixels are all wider than the radius."""
    order = int(np.floor(np.log2(NARROWEST * RESOLUTION_ORDER_0_ARCSEC / max(radius_arcsec, 1e-3))))
    return max(0, min(order, deepest))


def _edge_pixels(cell: Cell, order: int) -> Int:
    """Pixels at `order` along the inner edge of a cell."""
    side = 1 << (order - cell.order)
    along = np.arange(side)
    x = np.concatenate([along, along, np.zeros(side, int), np.full(side, side - 1)])
    y = np.concatenate([np.zeros(side, int), np.full(side, side - 1), along, along])
    inner = np.zeros(x.size, np.int64)
    for bit in range(order - cell.order):
        inner |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
    return np.unique((cell.pixel << (2 * (order - cell.order))) + inner)


@lru_cache(maxsize=4096)
def margin_ranges(cell: Cell, radius_arcsec: float, levels: int = MARGIN_LEVELS) -> Int:
    """`_healpix_29` ranges that hold every point within `radius_arcsec` of a cell: the cell itself and its margin.

    Shape (n, 2), sorted, disjoint, half-open, not to be written to. They hold a little more than the radius asks for, some
    6 percent of the cell at least, half of that with each further level; matching applies the radius itself.
    """
    order = margin_order(radius_arcsec, deepest=cell.order + levels)
    ranges = [np.array([cell.range])]
    if radius_arcsec > 0:
        edge = _edge_pixels(cell, order) if order >= cell.order else np.array([cell.pixel >> 2 * (cell.order - order)], np.int64)
        pixels = np.union1d(hp.get_all_neighbours(1 << order, edge, nest=True), edge)
        shift = 2 * (INDEX_ORDER - order)
        ranges.append(np.stack([pixels, pixels + 1], axis=1)[pixels >= 0] << shift)
    bounds = np.concatenate(ranges)
    bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
    reached = np.maximum.accumulate(bounds[:, 1])
    first = np.flatnonzero(np.concatenate([[True], bounds[1:, 0] > reached[:-1]]))
    merged = np.stack([bounds[first, 0], np.maximum.reduceat(bounds[:, 1], first)], axis=1)
    merged.flags.writeable = False
    return merged


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted, disjoint, half-open ranges that cover the given ones."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return tuple(merged)


def in_ranges(index: Int, ranges: npt.ArrayLike) -> Bool:
    """Whether each `_healpix_29` lies in one of some sorted, disjoint, half-open ranges, shape (n, 2)."""
    bounds = np.asarray(ranges, np.int64).reshape(-1)
    return np.asarray(np.searchsorted(bounds, index, side="right") % 2 == 1)


def overlapping(bounds: Int, ranges: Int) -> Int:
    """Which of some sorted, disjoint ranges, shape (n, 2), overlap one of others of that kind, shape (m, 2). Ascending."""
    first = np.searchsorted(bounds[:, 1], ranges[:, 0], side="right")
    stop = np.searchsorted(bounds[:, 0], ranges[:, 1], side="left")
    steps = np.zeros(len(bounds) + 1, np.int64)
    np.add.at(steps, first[first < stop], 1)
    np.add.at(steps, stop[first < stop], -1)
    return np.flatnonzero(np.cumsum(steps[:-1]))


def cells_touching(ranges: npt.ArrayLike, order: int) -> list[Cell]:
    """Cells at `order` that overlap `_healpix_29` ranges, shape (n, 2), in NESTED order."""
    shift = 2 * (INDEX_ORDER - order)
    pixels = {
        pixel
        for start, stop in np.asarray(ranges, np.int64).reshape(-1, 2).tolist()
        for pixel in range(start >> shift, ((stop - 1) >> shift) + 1)
    }
    return [Cell(order, pixel) for pixel in sorted(pixels)]


def cone_cells(ra: float, dec: float, radius_deg: float, order: int = CELL_ORDER) -> list[Cell]:
    """Cells at `order` that a cone may touch (a few more at its rim), in NESTED order."""
    vector = unit_vectors(np.array([ra]), np.array([dec]))[0]
    pixels = hp.query_disc(1 << order, vector, np.radians(radius_deg), inclusive=True, fact=64, nest=True)
    return [Cell(order, int(pixel)) for pixel in sorted(pixels)]
