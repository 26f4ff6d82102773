"""Where a survey lies on the sky: HEALPix pixels of one order as a mask, its area, its MOC, what two of them share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from mocpy import MOC

from mmu_pipeline.sky import CELL_ORDER, Bool, Float, Int, pixels_at

FINEST = 8
"""Order of the footprint that is kept of a partition's rows: pixels of 0.05 square degrees."""
ROWS_PER_PIXEL = 4.0
"""A footprint is drawn as fine as leaves so many rows in a pixel, on average: finer, gaps between rows would look like edges."""
SKY_DEG2 = 360.0**2 / np.pi


@dataclass(frozen=True)
class Footprint:
    """Pixels of one order, from 4 to FINEST, in which a survey has something."""

    mask: Bool
    """Of all pixels of the order, NESTED. Shape (12 * 4 ** order,)."""

    @property
    def order(self) -> int:
        return (len(self.mask) // 12).bit_length() // 2

    @property
    def area_deg2(self) -> float:
        return float(self.mask.mean() * SKY_DEG2)

    @property
    def by_cell(self) -> Float:
        """Share of each order-4 cell that lies in it. Shape (3072,)."""
        return np.asarray(self.mask.reshape(12 * 4**CELL_ORDER, -1).mean(axis=1))

    @property
    def moc(self) -> MOC:
        pixels = np.flatnonzero(self.mask).astype(np.uint64)
        return MOC.from_healpix_cells(pixels, np.full(len(pixels), self.order, np.uint8), max_depth=self.order)

    def at(self, order: int) -> Footprint:
        """The same at an order as fine or finer."""
        return Footprint(np.repeat(self.mask, 4 ** (order - self.order)))


def shared(footprints: Sequence[Footprint]) -> Footprint:
    """What lies in all of some footprints, at the finest order among them; at least one."""
    order = max(footprint.order for footprint in footprints)
    return Footprint(np.logical_and.reduce([footprint.at(order).mask for footprint in footprints]))


def of_cells(cells: Iterable[int]) -> Footprint:
    """Whole order-4 cells."""
    return of_ranges(((cell, cell + 1) for cell in cells), CELL_ORDER, CELL_ORDER)


def of_ranges(ranges: Iterable[Sequence[int]], order: int, wanted: int) -> Footprint:
    """Half-open ranges of pixels of one order, as a footprint of an order as coarse or coarser."""
    mask = np.zeros(12 * 4**order, bool)
    for start, stop in ranges:
        mask[start:stop] = True
    return Footprint(np.asarray(mask.reshape(12 * 4**wanted, -1).any(axis=1)))


def occupied(index: Int) -> list[list[int]]:
    """Half-open ranges of pixels of order FINEST that hold rows, from their `_healpix_29` in ascending order."""
    pixels = np.unique(pixels_at(index, FINEST))
    first, last = np.diff(pixels, prepend=-2) > 1, np.diff(pixels, append=np.iinfo(np.int64).max) > 1
    ranges: list[list[int]] = np.stack([pixels[first], pixels[last] + 1], axis=1).tolist()
    return ranges


def fitting_order(rows: Float) -> int:
    """How fine a footprint rows show, from how many lie in each order-4 cell that has some."""
    dense = float(np.mean(rows[rows > 0])) if np.any(rows > 0) else 0.0
    return int(np.clip(CELL_ORDER + np.floor(np.log(max(dense / ROWS_PER_PIXEL, 1.0)) / np.log(4.0)), CELL_ORDER, FINEST))
