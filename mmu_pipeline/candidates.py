"""Two sets of positions to every pair of them within a radius on the sphere: a join on HEALPix pixels of a fitting size.

A disc of the radius around a point touches the pixel that holds the point, and those neighbours whose side of the pixel the
point is near to. Rows in `_healpix_29` order are already grouped by pixel at any order, so that a pixel's rows are found by
binary search, without a tree and without a single angle; angles are worked out for what shares a pixel alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import healpy as hp
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmu_pipeline.sky import INDEX_ORDER, NARROWEST, RESOLUTION_ORDER_0_ARCSEC, Bool, Float, Int, chord, healpix29

ROWS = 1 << 16
"""Rows of the first set that are looked up at a time: what is made of them stays in the processor's cache."""
PAIRS = 1 << 21
"""Pairs of rows in touching pixels that are measured at a time."""
SPLITS = 5
"""Into how many parts a pixel's sides are cut, as a power of two, to tell what lies near a side."""
DEEPEST = INDEX_ORDER - SPLITS
SAMPLE = 1000
"""Rows of the first set by which the size of the pixels is chosen."""
MARGIN = 1.0 + 1e-9
"""What is compared roughly before it is compared exactly gets this much slack."""


@dataclass(frozen=True)
class Positions:
    """Rows of one catalog. Arrays have shape (n,), angles are degrees."""

    ra: Float
    dec: Float
    ids: pa.Array | pa.ChunkedArray
    """Break ties, in ascending order."""
    index: Int | None = None
    """`_healpix_29` of the rows, where they are in its order. It is made where it is not given."""

    def __len__(self) -> int:
        return len(self.ra)

    def take(self, rows: Int) -> Positions:
        """Some rows, in ascending order."""
        ids = self.ids.take(pa.array(rows))
        return Positions(self.ra[rows], self.dec[rows], ids, None if self.index is None else self.index[rows])


@dataclass(frozen=True)
class _Sorted:
    """Positions along the sky, and which row of the catalog each is."""

    index: Int
    ra: Float
    dec: Float
    rows: Int | None


def _sorted(positions: Positions) -> _Sorted:
    if positions.index is not None:
        return _Sorted(positions.index, positions.ra, positions.dec, None)
    index = healpix29(positions.ra, positions.dec)
    rows = np.argsort(index, kind="stable")
    return _Sorted(index[rows], positions.ra[rows], positions.dec[rows], rows)


def candidates(primary: Positions, counterpart: Positions, radius_arcsec: float) -> Iterator[tuple[Int, Int, Float]]:
    """Every (primary row, counterpart row, chord) within the radius, borders included: a part of the primaries at a time.

    All pairs of one primary come in one part, side by side. Chords are straight lines between points of the unit sphere, from
    the haversine of the differences in angle, so that small separations keep their precision (error below 1e-9 arcsec).
    Raises ValueError if the radius is wider than a pixel of order 0.
    """
    if not len(primary) or not len(counterpart):
        return
    one, two = _sorted(primary), _sorted(counterpart)
    order = _best_order(one.index, two.index, radius_arcsec)
    pixels_of_two = two.index >> _shift(order)
    first = np.flatnonzero(np.diff(pixels_of_two, prepend=-1))
    pixels, bounds = np.append(pixels_of_two[first], np.iinfo(np.int64).max), np.append(first, len(two.index))
    sides = _sides(_nearness(radius_arcsec, order))
    for start in range(0, len(one.index), ROWS):
        row, pixel = _touched(one.index[start : start + ROWS], order, sides)
        place = np.searchsorted(pixels, pixel)
        held = pixels[place] == pixel
        row, place = row[held] + start, place[held]
        merged = np.argsort(row, kind="stable")
        row, place = row[merged], place[merged]
        for part in _parts(row, np.diff(bounds)[place] if len(place) else place):
            i, j = _expanded(row[part], bounds[place[part]], bounds[place[part] + 1])
            i, j, distance = _within(one, two, i, j, radius_arcsec)
            yield i if one.rows is None else one.rows[i], j if two.rows is None else two.rows[j], distance


def _shift(order: int) -> int:
    return 2 * (INDEX_ORDER - order)


def _nearness(radius_arcsec: float, order: int) -> float:
    """How far, in sides of a pixel at `order`, a disc of the radius may reach at most."""
    return radius_arcsec * MARGIN * float(1 << order) / (NARROWEST * RESOLUTION_ORDER_0_ARCSEC)


def _best_order(one: Int, two: Int, radius_arcsec: float) -> int:
    """The order at which the join costs least: small pixels have many neighbours to look up, large ones many rows to compare."""
    if _nearness(radius_arcsec, 0) > 0.5:
        raise ValueError(f"a radius of {radius_arcsec:g} arcsec is wider than this join can reach")
    deepest = min(int(np.floor(np.log2(0.5 / max(_nearness(radius_arcsec, 0), 1e-12)))), DEEPEST)
    sample = one[:: -(-len(one) // SAMPLE)]
    costs = {}
    for order in range(deepest, -1, -1):
        pixel, near = sample >> _shift(order), _nearness(radius_arcsec, order)
        rows = np.searchsorted(two, (pixel + 1) << _shift(order)) - np.searchsorted(two, pixel << _shift(order))
        # nanoseconds: a neighbour costs some 120 to find and look up, a pair some 25 to compare
        costs[order] = 120 * (1 - (1 - 2 * near) ** 2) + 25 * float(rows.mean()) * (1 + 2 * near) ** 2
        if costs[order] > 4 * min(costs.values()):
            break
    return min(costs, key=costs.__getitem__)


def _sides(near: float) -> Bool:
    """Which of its eight neighbours, in healpy's order, a disc around a point may touch; by the point's place in its pixel.

    Shape (4 ** SPLITS, 8). `near` is the radius in sides of a pixel.
    """
    bits = np.arange(4**SPLITS)[:, None] >> np.arange(2 * SPLITS) & 1
    x, y = (bits[:, axis::2] @ (1 << np.arange(SPLITS)) for axis in (0, 1))
    x, y, far = x.astype(np.float64), y.astype(np.float64), near * 2**SPLITS
    low_x, low_y, high_x, high_y = x <= far, y <= far, 2**SPLITS - 1 - x <= far, 2**SPLITS - 1 - y <= far
    southwest, northwest, northeast, southeast = low_x, high_y, high_x, low_y
    return np.stack(
        [
            southwest, southwest & northwest, northwest, northwest & northeast,
            northeast, northeast & southeast, southeast, southeast & southwest,
        ],
        axis=1,
    )  # fmt: skip


def _touched(index: Int, order: int, sides: Bool) -> tuple[Int, Int]:
    """(row, pixel) of every pixel that the disc around a row may touch: its own, then the others."""
    own = index >> _shift(order)
    place = (index >> _shift(order + SPLITS)) & (4**SPLITS - 1)
    near = np.flatnonzero(np.asarray(sides.any(axis=1))[place])
    around = hp.get_all_neighbours(1 << order, own[near], nest=True).T
    row, side = np.nonzero(sides[place[near]] & (around >= 0))
    return np.concatenate([np.arange(len(index)), near[row]]), np.concatenate([own, around[row, side]])


def _parts(row: Int, sizes: Int) -> Iterator[slice]:
    """Slices that hold some PAIRS pairs each, all of one row in the same."""
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    before = np.concatenate([[0], np.cumsum(sizes)])[starts]
    cuts = starts[np.flatnonzero(np.diff(before // PAIRS, prepend=-1))].tolist()
    yield from map(slice, cuts, [*cuts[1:], len(row)])


def _expanded(row: Int, start: Int, stop: Int) -> tuple[Int, Int]:
    """Each row with every number from its start to before its stop."""
    sizes = stop - start
    first = np.cumsum(sizes) - sizes
    return np.repeat(row, sizes), np.arange(sizes.sum()) + np.repeat(start - first, sizes)


def _within(one: _Sorted, two: _Sorted, i: Int, j: Int, radius_arcsec: float) -> tuple[Int, Int, Float]:
    """The pairs within the radius, and their chords."""
    up = two.dec[j] - one.dec[i]
    close = np.flatnonzero(np.abs(up) <= radius_arcsec / 3600.0 * MARGIN)
    i, j, up = i[close], j[close], np.radians(up[close])
    cosines = np.cos(np.radians(one.dec[i])) * np.cos(np.radians(two.dec[j]))
    across = np.radians(two.ra[j] - one.ra[i])
    half_square: npt.NDArray[np.float64] = np.sin(up / 2.0) ** 2 + cosines * np.sin(across / 2.0) ** 2
    distance = 2.0 * np.sqrt(half_square)
    kept = distance <= chord(radius_arcsec)
    return i[kept], j[kept], distance[kept]
