"""Object tables to what a match unit may read of each survey: its partitions near a pixel, and the rows of them that matter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from mmu_pipeline.astrometry import motion_columns
from mmu_pipeline.catalog import Counterpart
from mmu_pipeline.expressions import columns_of
from mmu_pipeline.hats import Partition
from mmu_pipeline.sky import CELL_ORDER, Bool, Cell, Int, in_ranges, margin_ranges, overlapping
from mmu_pipeline.stages.build import Build
from mmu_pipeline.stages.objects import read_objects, row_groups

POINTER = ("object_id", "source_file", "source_row")


@dataclass(frozen=True)
class Sky:
    """One survey, as far as a match unit may read it."""

    survey: str
    partitions: tuple[Partition, ...]
    """In the order of the sky."""
    missing: tuple[int, ...] = ()
    """Order-4 cells whose source was set aside: nothing is known there. Ascending."""
    moves: tuple[tuple[str, float], ...] = ()
    """Counterpart -> how far, in arcsec, a row of this survey may move to the epoch of that match."""
    precision_arcsec: float = 0.0
    """How far its positions may be off because of the type in which they were published."""

    def move(self, counterpart: Counterpart) -> float:
        """How far a row may move, in arcsec, before it is matched with a counterpart."""
        return dict(self.moves).get(counterpart.survey, 0.0)

    @cached_property
    def _bounds(self) -> tuple[Int, Int]:
        bounds = [[item.range for item in items] for items in (
            [partition.cell for partition in self.partitions], [Cell(CELL_ORDER, pixel) for pixel in self.missing])]  # fmt: skip
        return tuple(np.array(found, np.int64).reshape(-1, 2) for found in bounds)  # type: ignore[return-value]

    def near(self, ranges: Int) -> Sky:
        """What of it overlaps sorted, disjoint `_healpix_29` ranges, shape (n, 2)."""
        partitions, missing = (overlapping(bounds, ranges).tolist() for bounds in self._bounds)
        return replace(
            self, partitions=tuple(self.partitions[k] for k in partitions), missing=tuple(self.missing[k] for k in missing)
        )


def wide(counterpart: Counterpart, primary: Sky, other: Sky) -> float:
    """The radius of a match, in arcsec: what the recipe says, and by how much coarse positions of either side may be off.

    0 for a join by key, whose counterparts are found wherever they are.
    """
    return 0.0 if counterpart.on else (counterpart.radius_arcsec or 0.0) + primary.precision_arcsec + other.precision_arcsec


def reach(counterpart: Counterpart, primary: Sky, other: Sky) -> float:
    """How far beyond a pixel, in arcsec, rows of a counterpart may lie that match primaries in it by position."""
    if counterpart.on:
        return 0.0
    return wide(counterpart, primary, other) + primary.move(counterpart) + other.move(counterpart)


def rival_reach(counterpart: Counterpart, primary: Sky, other: Sky) -> float:
    """How far beyond a pixel, in arcsec, primaries matter to the match of those in it.

    `mutual` must see every primary that may be closer to a counterpart in the margin: twice the radius away.
    """
    mutual = counterpart.pick == "mutual" and counterpart.on is None
    return 2 * (wide(counterpart, primary, other) + primary.move(counterpart)) if mutual else 0.0


def rows_of(build: Build, sky: Sky, ranges: Int, where: str | None, counterpart: Counterpart | None = None) -> pa.Table:
    """Positions and pointers of a survey's rows within ranges, with the columns that moving, cutting and picking them read."""
    survey = build.surveys[sky.survey]
    read = {*columns_of(where), *motion_columns(survey), *(survey.position_error or ())}
    read |= {survey.object_key} if survey.object_key else set()
    read |= {counterpart.best[0]} if counterpart and counterpart.best else set()
    return read_objects(build, sky.survey, sky.partitions, ranges, ["ra", "dec", *POINTER, *sorted(read)])


def blind(counterpart: Counterpart, primary: Sky, other: Sky, index: Int) -> dict[str, Bool]:
    """Primaries whose match cannot be told, since a source cell within reach was set aside: reason -> rows."""
    found = {}
    for sky, radius in ((other, reach(counterpart, primary, other)), (primary, rival_reach(counterpart, primary, other))):
        for pixel in sky.missing if radius else ():
            near = in_ranges(index, margin_ranges(Cell(CELL_ORDER, pixel), radius))
            if near.any():
                found[f"{sky.survey} cell {pixel} was set aside"] = near
    return found


def rows_within(build: Build, skies: Iterable[Sky], cell: Cell) -> float:
    """About how many rows of all surveys lie in a pixel: rows are taken to lie evenly within each row group."""
    start, stop = cell.range
    total = 0.0
    for sky in skies:
        for partition in sky.partitions:
            if partition.cell.range[0] < stop and start < partition.cell.range[1]:
                groups = row_groups(build.root, partition)
                shared = np.maximum(np.minimum(groups.last + 1, stop) - np.maximum(groups.first, start), 0)
                total += float((shared / (groups.last + 1 - groups.first) * groups.rows).sum())
    return total
